/* tokenizer_import.h - the tokenizers of checkpoints as blobs of tokenizer.h. */
#ifndef MFI_TOKENIZER_IMPORT_H
#define MFI_TOKENIZER_IMPORT_H

#include "tensor_file.h"

/* The blob, to be freed with mfi_free(allocator, ...). MF_E_NOT_FOUND where there is no tokenizer. */
mf_status mfi_tokenizer_from_folder(void **blob, size_t *bytes, const mf_allocator *allocator, const char *folder,
                                    mf_error *error);
mf_status mfi_tokenizer_from_gguf(void **blob, size_t *bytes, const mf_allocator *allocator,
                                  const mfi_tensor_file *file, mf_error *error);

#endif
