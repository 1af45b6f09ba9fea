/* export_gguf_vocab.h - a tokenizer as GGUF's metadata. */
#ifndef MFI_EXPORT_GGUF_VOCAB_H
#define MFI_EXPORT_GGUF_VOCAB_H

#include "gguf_writer.h"
#include "matformer.h"
#include "model_config.h"

/* The keys "tokenizer.*". Without a blob, or where GGUF has no such tokenizer (our own cut of text, NFC, Unigram), the
 * model is "no_vocab": it takes tokens. */
mf_status mfi_export_gguf_vocab(mfi_gguf_writer *writer, const mfi_config *config, const void *blob, size_t bytes,
                                mf_error *error);

#endif
