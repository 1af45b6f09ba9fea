/* tokenizer.h - byte-level BPE: text to tokens and back, and the blob that a file stores.
 * Tokens 0..255 are the bytes; token 256 + i is merge i; special tokens (end of text) follow. */
#ifndef MFI_TOKENIZER_H
#define MFI_TOKENIZER_H

#include "arena.h"
#include "matformer.h"

typedef struct mfi_tokenizer mfi_tokenizer;

/* From the blob; every field is checked. The blob may go afterwards. */
mf_status mfi_tokenizer_load(mfi_tokenizer **out, const mf_allocator *allocator, const void *blob, size_t bytes,
                             mf_error *error);
void mfi_tokenizer_free(mfi_tokenizer *tokenizer);
uint32_t mfi_tokenizer_vocab(const mfi_tokenizer *tokenizer);
int32_t mfi_tokenizer_eos(const mfi_tokenizer *tokenizer); /* -1: none */

/* As mf_tokenize / mf_detokenize. Time O(n log n) at worst for any text; no recursion. */
mf_status mfi_tokenizer_encode(const mfi_tokenizer *tokenizer, const char *text, size_t bytes, int32_t *tokens,
                               size_t capacity, size_t *n_token);
mf_status mfi_tokenizer_decode(const mfi_tokenizer *tokenizer, const int32_t *tokens, size_t n_token, char *text,
                               size_t capacity, size_t *bytes);
/* The bytes of one token, not terminated; NULL when out of range; special tokens have 0 bytes. */
const char *mfi_tokenizer_token(const mfi_tokenizer *tokenizer, int32_t token, size_t *bytes);

#endif
