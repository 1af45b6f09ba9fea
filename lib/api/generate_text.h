/* generate_text.h - text that was generated and not shown yet: it may become a stop text, or is the beginning of a
 * character. */
#ifndef MFI_GENERATE_TEXT_H
#define MFI_GENERATE_TEXT_H

#include "model.h"

typedef struct mfi_held_text {
    const char *const *stop; /* [n_stop], the caller's */
    size_t n_stop;
    char *text; /* [capacity] of which the first n bytes are held */
    size_t n, capacity;
} mfi_held_text;

/* MF_E_NOMEM. `stop` stays the caller's. */
mf_status mfi_held_text_create(mfi_held_text *held, const mf_allocator *allocator, const char *const *stop,
                               size_t n_stop);
void mfi_held_text_free(mfi_held_text *held, const mf_allocator *allocator);

/* Adds a token's text; call mfi_held_text_drop() before the next one. */
void mfi_held_text_add(mfi_held_text *held, const mfi_tokenizer *tokenizer, int32_t token);
/* Bytes before the first stop text, or SIZE_MAX. */
size_t mfi_held_text_find_stop(const mfi_held_text *held);
/* Bytes that may be shown although more text follows. */
size_t mfi_held_text_showable(const mfi_held_text *held);
/* Takes the first `bytes` away. */
void mfi_held_text_drop(mfi_held_text *held, size_t bytes);

#endif
