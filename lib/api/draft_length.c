/* draft_length.c - see draft_length.h. */
#include "draft_length.h"

#include "defs.h"

/* Until something was accepted or refused. */
#define FIRST_ACCEPTANCE 0.75
/* At most so sure: a^g stays below 1, and one refusal counts. */
#define MOST_ACCEPTANCE 0.995
/* A row more to verify, in tokens of the view: where weights come from memory it hides behind reading them, and where
 * they stay in a cache the arithmetic is most of the time (`matformer bench speculate` prints both). */
#define ROW_COST_FROM_MEMORY 0.1
#define ROW_COST_FROM_CACHE 0.5
#define CACHED_BYTES (16u << 20)
/* The view's own token is measured so often at first, and again after so many rounds with a draft. */
#define FIRST_ALONE 3u
#define ALONE_EVERY 64u
/* Rounds without a draft before one is tried: doubled while it does not pay. */
#define FIRST_IDLE 16u
#define MOST_IDLE 256u

void mfi_draft_length_init(mfi_draft_length *length, uint32_t fixed, bool is_timed, uint64_t draft_bytes,
                           uint64_t view_bytes)
{
    *length = (mfi_draft_length){ .fixed = fixed,
                                  .is_timed = is_timed,
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

/* To measure the view's own token. */
static bool is_alone_due(const mfi_draft_length *l)
{
    return l->is_timed && (l->n_alone < FIRST_ALONE || l->rounds_since_alone >= ALONE_EVERY);
}

uint32_t mfi_draft_length_next(mfi_draft_length *l, uint32_t most)
{
    if (l->fixed > 0) return (uint32_t)mfi_min(l->fixed, most);
    if (most == 0 || is_alone_due(l)) return 0;
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

/* `value` moves towards what was seen, at first fast. */
static void learn(double *value, double seen, double n_seen_before, double longest)
{
    *value += (seen - *value) / (n_seen_before < longest ? n_seen_before + 1 : longest);
}

static void note_acceptance(mfi_draft_length *l, const mfi_draft_round *round)
{
    const uint32_t n = round->n_accepted + round->was_refused;
    for (uint32_t i = 0; i < n; i++) /* the first guess weighs as much as four tokens */
        learn(&l->acceptance, i < round->n_accepted, 4 + (double)l->n_tested++, 64);
    if (l->acceptance > MOST_ACCEPTANCE) l->acceptance = MOST_ACCEPTANCE;
}

/* What took four times as long as usual was interrupted, and counts as that. */
static double without_interruption(double seen, double usual)
{
    return seen < 4 * usual ? seen : 4 * usual;
}

static void note_alone(mfi_draft_length *l, double ns)
{
    l->rounds_since_alone = 0;
    if (l->n_alone++ < FIRST_ALONE) {
        if (l->alone_ns == 0 || ns < l->alone_ns) l->alone_ns = ns;
    } else {
        learn(&l->alone_ns, without_interruption(ns, l->alone_ns), 8, 8);
    }
}

static void note_costs(mfi_draft_length *l, const mfi_draft_round *round)
{
    l->rounds_since_alone++;
    if (!(l->alone_ns > 0)) return;
    const double draft = (double)round->draft_ns / l->alone_ns / round->n_draft;
    const double row = ((double)round->verify_ns / l->alone_ns - 1) / round->n_draft;
    learn(&l->draft_cost, without_interruption(draft, l->draft_cost), 8, 8);
    learn(&l->row_cost, without_interruption(row > 0 ? row : 0, l->row_cost + 0.01), 8, 8);
}

void mfi_draft_length_note(mfi_draft_length *l, const mfi_draft_round *round)
{
    note_acceptance(l, round);
    if (!l->is_timed) return;
    if (round->n_draft == 0)
        note_alone(l, (double)round->verify_ns);
    else
        note_costs(l, round);
}
