/* tokenizer.h - byte-level BPE: text to tokens and back, and the blob that a file stores.
 *
 * Tokens 0..255 are the bytes; token 256 + i is merge i; special tokens (end of text) follow. Special
 * tokens stand for no bytes: text never becomes one, and they decode to nothing.
 * docs/tokenizer.md has the rule of the cut, the order of merging, and the blob.
 */
#ifndef MFI_TOKENIZER_H
#define MFI_TOKENIZER_H

#include "arena.h"
#include "matformer.h"

#define MFI_BYTE_TOKENS 256u
#define MFI_MAX_VOCAB (1u << 20)
#define MFI_MAX_TOKEN_BYTES 1024u

typedef struct mfi_tokenizer mfi_tokenizer;

typedef struct mfi_merge {
    uint32_t left, right; /* tokens */
} mfi_merge;

/* From the blob; every field is checked. The blob may go afterwards. */
mf_status mfi_tokenizer_load(mfi_tokenizer **out, const mf_allocator *allocator, const void *blob, size_t bytes,
                             mf_error *error);
void mfi_tokenizer_free(mfi_tokenizer *tokenizer);
uint32_t mfi_tokenizer_vocab(const mfi_tokenizer *tokenizer);
int32_t mfi_tokenizer_eos(const mfi_tokenizer *tokenizer); /* -1: none */

/* The blob of these merges; with `end_of_text` one special token follows them. *out has *bytes bytes and is
 * freed with mfi_free(allocator, ...). */
mf_status mfi_tokenizer_store(void **out, size_t *bytes, const mf_allocator *allocator, const mfi_merge *merges,
                              uint32_t n_merge, int end_of_text, mf_error *error);

/* Bytes of the first piece of `text`: merges do not cross its end. 0 only where bytes is 0. Cutting a whole text
 * is linear. */
size_t mfi_tokenizer_piece(const char *text, size_t bytes);

/* As mf_tokenize / mf_detokenize; any thread. Time O(n log n) at worst for any text; no recursion. Pieces of
 * more than 128 bytes take memory from the allocator for the time of the call. */
mf_status mfi_tokenizer_encode(const mfi_tokenizer *tokenizer, const char *text, size_t bytes, int32_t *tokens,
                               size_t capacity, size_t *n_token);
mf_status mfi_tokenizer_decode(const mfi_tokenizer *tokenizer, const int32_t *tokens, size_t n_token, char *text,
                               size_t capacity, size_t *bytes);
/* The bytes of one token, not terminated; NULL when out of range; special tokens have 0 bytes. */
const char *mfi_tokenizer_token(const mfi_tokenizer *tokenizer, int32_t token, size_t *bytes);

#endif
