/* draft_length.h - how many tokens a draft should run ahead.
 *
 * With a probability a that a drafted token is accepted, g drafted tokens give (1 - a^(g+1)) / (1 - a) tokens for each
 * verification (Leviathan, Kalman and Matias, 2023, equation 1). That takes g c + 1 + g r, in tokens of the view alone,
 * where c is the cost of drafting one and r that of one more row to verify. The length is the one of the best ratio,
 * and 0 where none is above 1; then a token is drafted now and then, to learn whether that has changed.
 *
 * a is estimated from what was accepted. Costs are measured, or come from the bytes that the views read: measured ones
 * depend on the machine and the hour, which must not decide what a sampler writes. */
#ifndef MFI_DRAFT_LENGTH_H
#define MFI_DRAFT_LENGTH_H

#include <stdbool.h>
#include <stdint.h>

#define MFI_MOST_DRAFT 16u

typedef struct mfi_draft_length {
    uint32_t fixed; /* 0: adapted */
    bool is_timed;
    uint64_t n_tested;                /* tokens that were accepted or refused */
    double acceptance;                /* a */
    double draft_cost, row_cost;      /* c and r */
    double alone_ns;                  /* the view's own token, of timed ones */
    uint32_t n_alone;                 /* measurements of it */
    uint32_t rounds_since_alone;      /* and rounds since the last */
    uint32_t idle_rounds, idle_limit; /* rounds without a draft, and after how many one is tried */
} mfi_draft_length;

/* One round: a verification, with `n_draft` drafted tokens before it or without. */
typedef struct mfi_draft_round {
    uint32_t n_draft, n_accepted;
    bool was_refused; /* the token after the accepted ones was tested */
    uint64_t draft_ns, verify_ns;
} mfi_draft_round;

/* `fixed` 0: adapted, from measured times where `is_timed`. Bytes are of the weights read for a token. */
void mfi_draft_length_init(mfi_draft_length *length, uint32_t fixed, bool is_timed, uint64_t draft_bytes,
                           uint64_t view_bytes);
/* For the next round, at most `most` and MFI_MOST_DRAFT. */
uint32_t mfi_draft_length_next(mfi_draft_length *length, uint32_t most);
void mfi_draft_length_note(mfi_draft_length *length, const mfi_draft_round *round);

#endif
