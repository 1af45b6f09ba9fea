/* sampler.c - choosing the next token, without allocating. */
#include "sampler.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "arena.h"
#include "defs.h"
#include "model.h"
#include "platform.h"
#include "status.h"

#define DEFAULT_WINDOW 64u

typedef struct candidate {
    double weight; /* e^((logit - the highest) / temperature) */
    float logit;
    int32_t token;
} candidate;

struct mf_sampler {
    mf_model *model;
    size_t arena_bytes, n_vocab;
    mf_sampler_options options;
    float *filtered;       /* [n_vocab] */
    candidate *candidates; /* [n_vocab] */
    uint8_t *seen;         /* [n_vocab] all 0 between calls */
};

/* ---- Numbers ---- */

/* The finalizer of splitmix64: a bijection in which every bit of the input moves half of the output's. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

double mfi_sampler_uniform(uint64_t seed, uint64_t position, mfi_stream stream)
{
    const uint64_t golden = UINT64_C(0x9e3779b97f4a7c15); /* 2^64 / the golden ratio: separates small inputs */
    const uint64_t index = position + ((uint64_t)stream << 32);
    uint64_t bits = mix(mix(seed + golden) + golden * (index + 1));
    return (double)(bits >> 11) * 0x1p-53;
}

double mfi_sampler_exp(double x)
{
    /* x = n ln 2 + r with |r| <= ln 2 / 2, where the terms left out of the series are below 2^-57. The high part
     * of ln 2 has 21 zero bits at its end, so n times it is exact. Even and odd powers are two chains, which a
     * processor runs side by side. */
    const double log2e = 0x1.71547652b82fep+0, ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;
    static const double inverse_factorial[][2] = {
        { 1.0 / 479001600, 1.0 / 6227020800 },
        { 1.0 / 3628800, 1.0 / 39916800 },
        { 1.0 / 40320, 1.0 / 362880 },
        { 1.0 / 720, 1.0 / 5040 },
        { 1.0 / 24, 1.0 / 120 },
        { 1.0 / 2, 1.0 / 6 },
        { 1.0, 1.0 },
    };
    if (!(x > -700.0)) return 0.0;
    int n = (int)(x * log2e - 0.5);
    double r = (x - n * ln2_high) - n * ln2_low, square = r * r, even = 0, odd = 0;
    for (size_t k = 0; k < MFI_COUNT(inverse_factorial); k++) {
        even = even * square + inverse_factorial[k][0];
        odd = odd * square + inverse_factorial[k][1];
    }
    uint64_t power_bits = (uint64_t)(1023 + n) << 52;
    double power;
    memcpy(&power, &power_bits, sizeof power);
    return (even + r * odd) * power;
}

/* ---- Creating ---- */

static mf_status check_options(const mf_sampler_options *o, mf_error *error)
{
    if (!(o->temperature >= 0 && o->temperature <= 1e6f))
        return mfi_fail(error, MF_E_INVALID, "sampler: temperature %g is not in 0..1e6", (double)o->temperature);
    if (!(o->top_p >= 0 && o->top_p <= 1))
        return mfi_fail(error, MF_E_INVALID, "sampler: top_p %g is not in 0..1", (double)o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return mfi_fail(error, MF_E_INVALID, "sampler: min_p %g is not in 0..1", (double)o->min_p);
    if (!(o->repetition_penalty >= 0 && o->repetition_penalty <= 1e6f))
        return mfi_fail(error, MF_E_INVALID, "sampler: repetition_penalty %g is not in 0..1e6",
                        (double)o->repetition_penalty);
    return MF_OK;
}

static void lay_out(mf_sampler **sampler, mfi_arena *arena, size_t n_vocab)
{
    mf_sampler *s = mfi_carve(arena, 1, sizeof *s);
    float *filtered = mfi_carve(arena, n_vocab, sizeof *filtered);
    candidate *candidates = mfi_carve(arena, n_vocab, sizeof *candidates);
    uint8_t *seen = mfi_carve(arena, n_vocab, sizeof *seen);
    if (!s) return;
    s->filtered = filtered;
    s->candidates = candidates;
    s->seen = seen;
    *sampler = s;
}

mf_status mf_sampler_create(mf_sampler **out, mf_model *model, const mf_sampler_options *options, mf_error *error)
{
    if (!out) return mfi_fail(error, MF_E_INVALID, "sampler: no place for it");
    *out = NULL;
    if (!model) return mfi_fail(error, MF_E_INVALID, "sampler: no model");
    mf_sampler_options full = MF_SAMPLER_OPTIONS_INIT;
    mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_sampler_options, filter_user), options,
                                        "mf_sampler_options", error);
    if (status == MF_OK) status = check_options(&full, error);
    if (status == MF_OK && model->config.family == MFI_FAMILY_VIT)
        status = mfi_fail(error, MF_E_UNSUPPORTED, "sampler: the model takes images, not tokens");
    if (status != MF_OK) return status;

    mf_sampler *s = NULL;
    mfi_arena arena = { NULL, 0 };
    lay_out(&s, &arena, mfi_token_count(&model->config));
    size_t arena_bytes = arena.used;
    arena.base = mfi_alloc(&model->allocator, arena_bytes);
    if (!arena.base) return mfi_fail(error, MF_E_NOMEM, "no memory for a sampler");
    arena.used = 0;
    lay_out(&s, &arena, mfi_token_count(&model->config));
    s->model = model;
    s->arena_bytes = arena_bytes;
    s->n_vocab = mfi_token_count(&model->config);
    s->options = full;
    if (full.repetition_penalty == 0) s->options.repetition_penalty = 1;
    if (full.repetition_window == 0) s->options.repetition_window = DEFAULT_WINDOW;
    if (full.top_p == 0) s->options.top_p = 1;
    mfi_model_retain(model);
    *out = s;
    return MF_OK;
}

void mf_sampler_close(mf_sampler *sampler)
{
    if (!sampler) return;
    mf_model *model = sampler->model;
    mfi_free(&model->allocator, sampler, sampler->arena_bytes);
    mfi_model_release(model);
}

mf_model *mfi_sampler_model(const mf_sampler *sampler)
{
    return sampler->model;
}

bool mfi_sampler_is_greedy(const mf_sampler *sampler)
{
    return sampler->options.temperature == 0;
}

/* ---- Log-probabilities ---- */

/* Not so where there is a NaN, +infinity, or no token at all that can come. */
static bool is_distribution(const float *logits, size_t n)
{
    bool is_possible = false;
    for (size_t i = 0; i < n; i++) {
        if (!(logits[i] < INFINITY)) return false;
        is_possible = is_possible || logits[i] > -INFINITY;
    }
    return is_possible;
}

/* The n_top highest logits, in order; of equal ones the lower token first. */
static void find_top(const float *logits, size_t n, double log_of_sum, mf_token_logprob *top, size_t n_top)
{
    size_t found = 0;
    for (size_t token = 0; token < n && n_top > 0; token++) {
        if (logits[token] == -INFINITY || (found == n_top && logits[token] <= top[n_top - 1].logprob)) continue;
        size_t at = found < n_top ? found++ : n_top - 1;
        for (; at > 0 && logits[token] > top[at - 1].logprob; at--)
            top[at] = top[at - 1];
        top[at] = (mf_token_logprob){ (int32_t)token, logits[token] };
    }
    for (size_t i = 0; i < found; i++)
        top[i].logprob = (float)(top[i].logprob - log_of_sum);
    for (size_t i = found; i < n_top; i++)
        top[i] = (mf_token_logprob){ -1, -INFINITY };
}

/* ---- Choosing ---- */

/* Each token of the window once, however often it was there. */
static void penalise(mf_sampler *s, const int32_t *tokens, size_t n_token)
{
    size_t window = mfi_min(n_token, s->options.repetition_window);
    const float penalty = s->options.repetition_penalty;
    for (size_t i = n_token - window; i < n_token; i++) {
        size_t token = (size_t)tokens[i]; /* -1, an embedding row, is out of range too */
        if (token >= s->n_vocab || s->seen[token]) continue;
        float *logit = &s->candidates[token].logit;
        *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
        s->seen[token] = 1;
    }
    for (size_t i = n_token - window; i < n_token; i++)
        if ((size_t)tokens[i] < s->n_vocab) s->seen[tokens[i]] = 0;
}

static bool ranks_before(const candidate *a, const candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->token < b->token);
}

/* Restores the heap of heap[0..n), best first, below `at`. */
static void sift_down(candidate *heap, size_t n, size_t at)
{
    candidate moving = heap[at];
    for (size_t child = 2 * at + 1; child < n; child = 2 * at + 1) {
        if (child + 1 < n && ranks_before(&heap[child + 1], &heap[child])) child++;
        if (!ranks_before(&heap[child], &moving)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}

/* Moves the `count` best to the end, the best last: as much of a heap sort as is needed. */
static void select_best(candidate *c, size_t n, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        candidate best = c[0];
        c[0] = c[n - 1 - i];
        c[n - 1 - i] = best;
        if (n - 1 - i > 0) sift_down(c, n - 1 - i, 0);
    }
}

static double sum_weights(const candidate *c, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += c[i].weight;
    return sum;
}

static void weigh(candidate *c, size_t n, float highest, float temperature)
{
    for (size_t i = 0; i < n; i++)
        c[i].weight = mfi_sampler_exp(((double)c[i].logit - highest) / temperature);
}

static void make_heap(candidate *c, size_t n)
{
    for (size_t at = n / 2; at-- > 0;)
        sift_down(c, n, at);
}

/* Drops what min-p leaves out, and what top-p cannot reach: candidates so light that all n of them together would
 * weigh less than half of what it may leave out. The half is more than any rounding. What remains is few, and sorted
 * soon. The best weighs 1, and stays. */
static size_t drop_unlikely(const mf_sampler_options *o, candidate *c, size_t n, double sum)
{
    const double unreachable = 0.5 * (1 - (double)o->top_p) * sum / (double)n;
    size_t n_left = 0;
    for (size_t i = 0; i < n; i++)
        if (c[i].weight > unreachable && c[i].weight >= o->min_p) c[n_left++] = c[i];
    return n_left;
}

/* Weighs the candidates that top-k, top-p and min-p leave, at least one, and returns where they begin, the best last.
 * `n` becomes how many they are. */
static candidate *truncate(const mf_sampler_options *o, candidate *c, size_t *n, float highest)
{
    if (o->top_k > 0 && o->top_k < *n) { /* only these few need a weight */
        make_heap(c, *n);
        select_best(c, *n, o->top_k);
        c += *n - o->top_k;
        *n = o->top_k;
    }
    weigh(c, *n, highest, o->temperature);
    const double sum = sum_weights(c, *n), wanted = o->top_p < 1 ? o->top_p * sum : INFINITY;
    const size_t n_left = drop_unlikely(o, c, *n, sum);
    make_heap(c, n_left);
    size_t kept = 0;
    for (double taken = 0; kept < n_left && taken < wanted; kept++) {
        select_best(c, n_left - kept, 1);
        taken += c[n_left - 1 - kept].weight;
    }
    *n = kept;
    return c + n_left - kept;
}

static int32_t draw(const candidate *c, size_t n, double uniform)
{
    double left = uniform * sum_weights(c, n);
    size_t at = 0;
    for (; at + 1 < n; at++) {
        left -= c[at].weight;
        if (left < 0) break;
    }
    return c[at].token;
}

static size_t drop_impossible(candidate *c, size_t n)
{
    size_t n_possible = 0;
    for (size_t i = 0; i < n; i++)
        if (c[i].logit > -INFINITY) c[n_possible++] = c[i];
    return n_possible;
}

/* The tokens that may be chosen, weighed: [first, first + n) of the sampler's candidates. */
typedef struct choice_set {
    candidate *first;
    size_t n;
} choice_set;

static double draw_number(const mf_sampler *s, size_t position, mfi_stream stream)
{
    return mfi_sampler_uniform(s->options.seed, position, stream);
}

static candidate find_best(const candidate *c, size_t n)
{
    candidate best = c[0];
    for (size_t i = 1; i < n; i++)
        if (c[i].logit > best.logit) best = c[i];
    return best;
}

/* Of a greedy sampler one choice. */
static mf_status weigh_choices(mf_sampler *s, const int32_t *tokens, size_t n_token, const float *logits,
                               choice_set *choices)
{
    const mf_sampler_options *o = &s->options;
    candidate *c = s->candidates;
    for (size_t i = 0; i < s->n_vocab; i++)
        c[i] = (candidate){ 0, logits[i], (int32_t)i };
    if (o->repetition_penalty != 1) penalise(s, tokens, n_token);

    const candidate best = find_best(c, s->n_vocab);
    if (!isfinite(best.logit)) return MF_E_INVALID; /* by an extreme penalty */
    if (o->temperature == 0) {
        c[0] = best;
        c[0].weight = 1;
        choices->first = c;
        choices->n = 1;
        return MF_OK;
    }
    size_t n = drop_impossible(c, s->n_vocab);
    if (o->top_k > 0 || o->top_p < 1 || o->min_p > 0) {
        c = truncate(o, c, &n, best.logit);
    } else {
        weigh(c, n, best.logit, o->temperature);
    }
    choices->first = c;
    choices->n = n;
    return MF_OK;
}

/* The first of the highest logits; -1 where they are no distribution. Without a penalty it is the greedy choice. */
static int32_t find_highest(const float *logits, size_t n)
{
    float highest = -INFINITY;
    int32_t token = -1;
    bool is_valid = true;
    for (size_t i = 0; i < n; i++) {
        is_valid = is_valid && logits[i] < INFINITY;
        if (!(logits[i] > highest)) continue;
        highest = logits[i];
        token = (int32_t)i;
    }
    return is_valid ? token : -1;
}

/* Filtered, where there is a filter: `logits` may come to point to the sampler's own. */
static mf_status filter(mf_sampler *s, const int32_t *tokens, size_t n_token, const float **logits)
{
    if (!s->options.filter) return MF_OK;
    memcpy(s->filtered, *logits, s->n_vocab * sizeof **logits);
    *logits = s->filtered;
    const bool stops = s->options.filter(s->options.filter_user, tokens, n_token, s->filtered, s->n_vocab) != 0;
    return stops ? MF_E_CANCELLED : MF_OK;
}

/* Weighs what may be chosen, by filtered logits. */
static mf_status find_choices(mf_sampler *s, const int32_t *tokens, size_t n_token, const float *logits,
                              choice_set *choices)
{
    if (s->options.temperature == 0 && s->options.repetition_penalty == 1) {
        const int32_t highest = find_highest(logits, s->n_vocab);
        if (highest < 0) return MF_E_INVALID;
        s->candidates[0] = (candidate){ 1, logits[highest], highest };
        choices->first = s->candidates;
        choices->n = 1;
        return MF_OK;
    }
    if (!is_distribution(logits, s->n_vocab)) return MF_E_INVALID;
    return weigh_choices(s, tokens, n_token, logits, choices);
}

/* ---- With a draft ---- */

/* What p has beyond q, in the place of p. Where nothing is left the two are equal but for rounding, and p stays. */
static void take_away(choice_set *p, double sum, const double *distribution)
{
    size_t n_left = 0;
    for (size_t i = 0; i < p->n; i++) {
        const double beyond = p->first[i].weight / sum - distribution[p->first[i].token];
        if (!(beyond > 0)) continue;
        p->first[n_left] = p->first[i];
        p->first[n_left++].weight = beyond;
    }
    if (n_left > 0) p->n = n_left;
}

static double weight_of(const choice_set *p, int32_t token)
{
    for (size_t i = 0; i < p->n; i++)
        if (p->first[i].token == token) return p->first[i].weight;
    return 0;
}

/* Keeps `drafted`, or draws another. */
static int32_t accept_or_draw(const mf_sampler *s, choice_set *p, size_t position, const double *distribution,
                              int32_t drafted)
{
    if (s->options.temperature == 0) return p->first[0].token;
    const double sum = sum_weights(p->first, p->n), probability = weight_of(p, drafted) / sum;
    if (draw_number(s, position, MFI_STREAM_ACCEPT) * distribution[drafted] < probability) return drafted;
    take_away(p, sum, distribution);
    return draw(p->first, p->n, draw_number(s, position, MFI_STREAM_RESIDUAL));
}

static mf_status draft(mf_sampler *s, const int32_t *tokens, size_t n_token, const float *logits, double *distribution,
                       int32_t *drafted)
{
    choice_set q;
    mf_status status = find_choices(s, tokens, n_token, logits, &q);
    if (status != MF_OK) return status;
    *drafted = draw(q.first, q.n, draw_number(s, n_token, MFI_STREAM_DRAFT));
    if (s->options.temperature == 0) return MF_OK;
    const double sum = sum_weights(q.first, q.n);
    memset(distribution, 0, s->n_vocab * sizeof *distribution);
    for (size_t i = 0; i < q.n; i++)
        distribution[q.first[i].token] = q.first[i].weight / sum;
    return MF_OK;
}

mf_status mfi_sampler_draft(mf_sampler *s, const int32_t *tokens, size_t n_token, const float *logits,
                            double *distribution, int32_t *drafted)
{
    mf_status status = filter(s, tokens, n_token, &logits);
    if (status != MF_OK) return status;
    mfi_fp_mode mode = mfi_fp_enter();
    status = draft(s, tokens, n_token, logits, distribution, drafted);
    mfi_fp_leave(mode);
    return status;
}

/* ---- The choice that counts ---- */

enum { NO_DRAFT = -1 };

static mf_status sample(mf_sampler *s, const int32_t *tokens, size_t n_token, const float *logits,
                        const double *distribution, int32_t drafted, mf_token_logprob *chosen, mf_token_logprob *top,
                        size_t n_top)
{
    float highest, sum;
    choice_set p;
    mf_status status = find_choices(s, tokens, n_token, logits, &p);
    if (status != MF_OK) return status;
    const int32_t token = drafted == NO_DRAFT ? draw(p.first, p.n, draw_number(s, n_token, MFI_STREAM_TOKEN))
                                              : accept_or_draw(s, &p, n_token, distribution, drafted);
    s->model->kernels.softmax_stats(s->n_vocab, logits, &highest, &sum);
    double log_of_sum = highest + log((double)sum);
    if (chosen) *chosen = (mf_token_logprob){ token, (float)(logits[token] - log_of_sum) };
    if (top) find_top(logits, s->n_vocab, log_of_sum, top, n_top);
    return MF_OK;
}

mf_status mfi_sampler_verify(mf_sampler *s, const int32_t *tokens, size_t n_token, const float *logits,
                             const double *distribution, int32_t drafted, mf_token_logprob *chosen,
                             mf_token_logprob *top, size_t n_top)
{
    mf_status status = filter(s, tokens, n_token, &logits);
    if (status != MF_OK) return status;
    mfi_fp_mode mode = mfi_fp_enter();
    status = sample(s, tokens, n_token, logits, distribution, drafted, chosen, top, n_top);
    mfi_fp_leave(mode);
    return status;
}

mf_status mf_sampler_sample(mf_sampler *s, const int32_t *tokens, size_t n_token, const float *logits,
                            mf_token_logprob *chosen, mf_token_logprob *top, size_t n_top)
{
    if (!s || !logits || (!tokens && n_token > 0)) return MF_E_INVALID;
    return mfi_sampler_verify(s, tokens, n_token, logits, NULL, NO_DRAFT, chosen, top, n_top);
}
