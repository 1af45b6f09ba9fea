/* draft_length.c - see draft_length.h. */
#include "draft_length.h"

#include "defs.h"

/* Until something was accepted or refused, and as many tokens as that weighs; and the most that the past weighs. */
#define FIRST_ACCEPTANCE 0.75
#define FIRST_WEIGHT 4u
#define MOST_WEIGHT 64u
/* At most so sure: a^g stays below 1, and one refusal counts. */
#define MOST_ACCEPTANCE 0.995
/* A row more to verify, in tokens of the view: where weights come from memory, most of it hides behind reading them; what
 * stays in a last-level cache of the usual size is read so fast that arithmetic is most of the time. Between what
 * `matformer bench speculate` shows of models, types and machines (docs/speculation.md). */
#define ROW_COST_FROM_MEMORY 0.2
#define ROW_COST_FROM_CACHE 0.5
#define CACHED_BYTES (32u << 20)
/* Rounds without a draft before one is tried: doubled while it does not pay. */
#define FIRST_IDLE 16u
#define MOST_IDLE 256u

void mfi_draft_length_init(mfi_draft_length *length, uint32_t fixed, uint64_t draft_bytes, uint64_t view_bytes)
{
    *length = (mfi_draft_length){ .fixed = fixed,
                                  .acceptance = FIRST_ACCEPTANCE,
                                  .draft_cost = view_bytes > 0 ? (double)draft_bytes / (double)view_bytes : 1,
                                  .row_cost = view_bytes > CACHED_BYTES ? ROW_COST_FROM_MEMORY : ROW_COST_FROM_CACHE,
                                  .idle_limit = FIRST_IDLE };
}

static uint32_t best_length(const mfi_draft_length *l)
{
    uint32_t best = 0;
    double best_gain = 1, tokens = 1, power = 1;
    for (uint32_t g = 1; g <= MFI_MOST_DRAFT; g++) {
        power *= l->acceptance;
        tokens += power;
        const double gain = tokens / (1 + g * (l->draft_cost + l->row_cost));
        if (!(gain > best_gain)) continue;
        best_gain = gain;
        best = g;
    }
    return best;
}

uint32_t mfi_draft_length_next(mfi_draft_length *l, uint32_t most)
{
    if (l->fixed > 0) return (uint32_t)mfi_min(l->fixed, most);
    if (most == 0) return 0;
    const uint32_t best = best_length(l);
    if (best > 0) {
        l->idle_limit = FIRST_IDLE;
        return (uint32_t)mfi_min(best, most);
    }
    if (++l->idle_rounds <= l->idle_limit) return 0;
    l->idle_rounds = 0;
    l->idle_limit = (uint32_t)mfi_min(2 * l->idle_limit, MOST_IDLE);
    return 1;
}

void mfi_draft_length_note(mfi_draft_length *l, uint32_t n_accepted, bool was_refused)
{
    for (uint32_t i = 0; i < n_accepted + was_refused; i++) {
        const uint32_t weight = FIRST_WEIGHT + l->n_tested;
        l->acceptance += ((i < n_accepted) - l->acceptance) / (weight + 1);
        if (weight < MOST_WEIGHT) l->n_tested++;
    }
    if (l->acceptance > MOST_ACCEPTANCE) l->acceptance = MOST_ACCEPTANCE;
}
