/* bpe_train.h - learning the merges of a byte-level BPE (tokenizer.h) from text. */
#ifndef MFI_BPE_TRAIN_H
#define MFI_BPE_TRAIN_H

#include "arena.h"
#include "matformer.h"

typedef struct mfi_text {
    const char *text;
    size_t bytes;
} mfi_text;

typedef struct mfi_bpe_options {
    uint32_t n_vocab; /* at least 256, and 257 with end_of_text */
    int end_of_text;  /* one special token, the last */
    mf_progress progress;
    void *progress_user;
} mfi_bpe_options;

/* Merges the most frequent pair of neighbours, again and again, until there are n_vocab tokens, or no pair
 * occurs twice: then there are fewer. Of equally frequent pairs the one with the lower left token comes
 * first, then the lower right one, so the same text gives the same merges everywhere. Merges do not cross
 * the texts. *blob, for mfi_tokenizer_load, has *blob_bytes bytes and is freed with mfi_free.
 * Time: linear in the text, then about linear in the length of its distinct pieces. */
mf_status mfi_bpe_train(void **blob, size_t *blob_bytes, const mf_allocator *allocator, const mfi_text *texts,
                        size_t n_text, const mfi_bpe_options *options, mf_error *error);

#endif
