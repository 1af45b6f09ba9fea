/* draft_length.h - how many tokens a draft should run ahead.
 *
 * With a probability a that a drafted token is accepted, g drafted tokens give (1 - a^(g+1)) / (1 - a) tokens for each
 * verification (Leviathan, Kalman and Matias, 2023, equation 1). That takes g c + 1 + g r, in tokens of the view alone,
 * where c is the cost of drafting one and r that of one more row to verify. The length is the one of the best ratio,
 * and 0 where none is above 1; then a token is drafted now and then, to learn whether that has changed.
 *
 * a is estimated from what was accepted; c and r come from the bytes that the views read. Nothing is timed: the length
 * decides which random numbers a sampler draws, and the same seed must write the same text at any hour. */
#ifndef MFI_DRAFT_LENGTH_H
#define MFI_DRAFT_LENGTH_H

#include <stdbool.h>
#include <stdint.h>

#define MFI_MOST_DRAFT 16u

typedef struct mfi_draft_length {
    uint32_t fixed;                   /* 0: adapted */
    uint32_t n_tested;                /* tokens that were accepted or refused, as far as they weigh */
    double acceptance;                /* a */
    double draft_cost, row_cost;      /* c and r */
    uint32_t idle_rounds, idle_limit; /* rounds without a draft, and after how many one is tried */
} mfi_draft_length;

/* `fixed` 0: adapted. Bytes are of the weights read for a token. */
void mfi_draft_length_init(mfi_draft_length *length, uint32_t fixed, uint64_t draft_bytes, uint64_t view_bytes);
/* For the next round, at most `most` and MFI_MOST_DRAFT. */
uint32_t mfi_draft_length_next(mfi_draft_length *length, uint32_t most);
/* After a round; `was_refused`: so was the token behind those accepted. */
void mfi_draft_length_note(mfi_draft_length *length, uint32_t n_accepted, bool was_refused);

#endif
