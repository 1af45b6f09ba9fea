/* tokenizer.h - byte-level BPE: text to tokens and back, and the blob that a file stores.
 *
 * Tokens 0..255 are the bytes; token 256 + i is merge i; special tokens (end of text) follow. Special
 * tokens stand for no bytes: text never becomes one, and they decode to nothing.
 *
 * Text is first cut into pieces, and merges never cross a cut. A byte is a letter (A-Z, a-z and all bytes
 * from 0x80 on, so that no character is torn), a digit, white space (the six of ASCII) or else a mark. A
 * piece is a run of letters, of digits or of marks, with the single space before it if there is one; or a
 * run of white space, less a last space that goes with the piece after it. As a regular expression:
 *
 *     [ ]?[letter]+ | [ ]?[digit]+ | [ ]?[mark]+ | [white]+(?=[ ][^white]) | [white]+
 *
 * The blob, little-endian, 24 + 8 * n_merge bytes:
 *
 *     0  "MFTK"      4  u32 version, 1     8  u32 rule of the cut, 1 (the one above)
 *     12 u32 n_merge 16 u32 n_special      20 i32 end-of-text token, -1: none
 *     24 n_merge * { u32 left, u32 right }, each below 256 + the merge's own index
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

/* Bytes of the first piece of `text`; 0 only where bytes is 0. Cutting a whole text is linear. */
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
