/* The sampler: against a plain reference, against statistics, and on logits that are none. */
#define _POSIX_C_SOURCE 200809L
#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "counting_allocator.h"
#include "model.h"
#include "sampler.h"

enum { MAX_VOCAB = 300 };

/* All that a sampler asks of a model. */
static mf_model *fake_model(mf_model *model, uint32_t n_vocab)
{
    memset(model, 0, sizeof *model);
    atomic_init(&model->references, 1);
    model->allocator = mfi_allocator(NULL);
    model->config.n_vocab = n_vocab;
    mfk_table_init(&model->kernels, 0);
    return model;
}

static mf_sampler *new_sampler(mf_model *model, const mf_sampler_options *options)
{
    mf_sampler *s = NULL;
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mf_sampler_create(&s, model, options, &error), MF_OK, "%s", error.detail);
    return s;
}

static mf_token_logprob sample_at(mf_sampler *s, const int32_t *tokens, size_t n_token, const float *logits)
{
    mf_token_logprob chosen;
    cr_assert_eq(mf_sampler_sample(s, tokens, n_token, logits, &chosen, NULL, 0), MF_OK);
    return chosen;
}

static double next_uniform(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (double)(*state >> 11) * 0x1p-53;
}

/* Logits with ties and, here and there, tokens that cannot come. */
static void random_logits(float *logits, uint32_t n, uint64_t *state)
{
    for (uint32_t i = 0; i < n; i++) {
        logits[i] = (float)floor(next_uniform(state) * 40 - 20) / 4;
        if (next_uniform(state) < 0.05) logits[i] = -INFINITY;
    }
    logits[(uint32_t)(next_uniform(state) * n)] = 1;
}

/* ---- The reference: everything sorted, in long double, one rule after the other ---- */

typedef struct ranked {
    long double probability;
    float logit;
    int32_t token;
} ranked;

static int compare_ranked(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->token < y->token ? -1 : 1;
}

static void normalise(ranked *r, size_t n)
{
    long double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += r[i].probability;
    for (size_t i = 0; i < n; i++)
        r[i].probability /= sum;
}

/* The tokens that may come with their probabilities, most likely first. */
static size_t reference(const mf_sampler_options *o, const float *logits, uint32_t n_vocab, const int32_t *tokens,
                        size_t n_token, ranked *r)
{
    size_t n = 0;
    for (uint32_t i = 0; i < n_vocab; i++) {
        bool seen = false;
        size_t window = o->repetition_window ? o->repetition_window : 64;
        for (size_t j = n_token > window ? n_token - window : 0; j < n_token; j++)
            seen = seen || tokens[j] == (int32_t)i;
        float logit = logits[i], penalty = o->repetition_penalty > 0 ? o->repetition_penalty : 1;
        if (seen) logit = logit > 0 ? logit / penalty : logit * penalty;
        if (logit > -INFINITY) r[n++] = (ranked){ 0, logit, (int32_t)i };
    }
    qsort(r, n, sizeof *r, compare_ranked);
    for (size_t i = 0; i < n; i++)
        r[i].probability = expl((r[i].logit - (long double)r[0].logit) / o->temperature);
    if (o->top_k > 0 && o->top_k < n) n = o->top_k;
    normalise(r, n);
    if (o->top_p > 0 && o->top_p < 1) {
        long double sum = 0;
        size_t kept = 0;
        while (kept < n && sum < (long double)o->top_p)
            sum += r[kept++].probability;
        n = kept;
    }
    while (o->min_p > 0 && n > 1 && r[n - 1].probability < (long double)o->min_p * r[0].probability)
        n--;
    normalise(r, n);
    return n;
}

/* Pearson's statistic exceeds this with a probability of about 1e-6 (Wilson and Hilferty's approximation). */
static double chi_squared_limit(size_t freedom)
{
    double k = (double)freedom, cube = 1 - 2 / (9 * k) + 4.75 * sqrt(2 / (9 * k));
    return k * cube * cube * cube;
}

/* A token of the draft's logits, kept or drawn anew by those that count. */
static mf_token_logprob verify_at(mf_sampler *s, const int32_t *tokens, size_t n_token, const float *draft,
                                  const float *logits)
{
    static double distribution[MAX_VOCAB];
    mf_token_logprob chosen;
    int32_t drafted = -1;
    cr_assert_eq(mfi_sampler_draft(s, tokens, n_token, draft, distribution, &drafted), MF_OK);
    cr_assert_eq(mfi_sampler_verify(s, tokens, n_token, logits, distribution, drafted, &chosen, NULL, 0), MF_OK);
    return chosen;
}

static void expect_distribution(const mf_sampler_options *options, uint32_t n_vocab, uint64_t seed, bool has_draft)
{
    enum { N_DRAW = 20000 };
    const size_t n_draw = has_draft ? 6000 : N_DRAW;
    static int32_t tokens[N_DRAW];
    static ranked expected[MAX_VOCAB];
    uint32_t counts[MAX_VOCAB] = { 0 };
    float logits[MAX_VOCAB], draft[MAX_VOCAB];
    mf_model model;
    mf_sampler *s = new_sampler(fake_model(&model, n_vocab), options);
    random_logits(logits, n_vocab, &seed);
    random_logits(draft, n_vocab, &seed);
    for (uint32_t i = 0; i < n_vocab; i++) /* like the other, but for some */
        if (i % 4 != 3 && draft[i] > -INFINITY && logits[i] > -INFINITY) draft[i] = logits[i] + draft[i] / 8;
    /* The window must hold the same tokens at every position. */
    for (size_t i = 0; i < n_draw; i++)
        tokens[i] = (int32_t)(i % 3 == 2 ? n_vocab - 1 : i % 3);
    size_t n = reference(options, logits, n_vocab, tokens, 300, expected);
    for (size_t i = 0; i < n_draw - 300; i++)
        counts[(has_draft ? verify_at(s, tokens, 300 + i, draft, logits) : sample_at(s, tokens, 300 + i, logits))
                   .token]++;
    mf_sampler_close(s);

    double statistic = 0, rare_expected = 0, rare_count = 0;
    size_t freedom = 0, n_counted = 0;
    for (size_t i = 0; i < n; i++) {
        double wanted = (double)expected[i].probability * (double)(n_draw - 300), got = counts[expected[i].token];
        n_counted += counts[expected[i].token];
        if (wanted < 8) {
            rare_expected += wanted;
            rare_count += got;
            continue;
        }
        statistic += (got - wanted) * (got - wanted) / wanted;
        freedom++;
    }
    cr_assert_eq(n_counted, n_draw - 300, "tokens came that were cut off");
    if (rare_expected >= 8) {
        statistic += (rare_count - rare_expected) * (rare_count - rare_expected) / rare_expected;
        freedom++;
    }
    if (freedom > 1) cr_assert_lt(statistic, chi_squared_limit(freedom - 1), "%zu classes", freedom);
}

Test(sampler, draws_follow_the_distribution_under_every_rule_with_and_without_a_draft)
{
    static const mf_sampler_options rules[] = {
        { .temperature = 1 },
        { .temperature = 0.5f },
        { .temperature = 3 },
        { .temperature = 1, .top_k = 1 },
        { .temperature = 1, .top_k = 7 },
        { .temperature = 1, .top_k = 10000 },
        { .temperature = 1, .top_p = 0.9f },
        { .temperature = 2, .top_p = 0.5f },
        { .temperature = 1, .top_p = 1e-6f },
        { .temperature = 1, .min_p = 0.1f },
        { .temperature = 1, .min_p = 1 },
        { .temperature = 1, .repetition_penalty = 1.7f },
        { .temperature = 1.5f, .repetition_penalty = 0.4f, .repetition_window = 3 },
        { .temperature = 1.2f, .top_k = 40, .top_p = 0.8f, .min_p = 0.05f, .repetition_penalty = 1.3f },
    };
    static const uint32_t vocabs[] = { 3, 17, 64, MAX_VOCAB };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        mf_sampler_options options = rules[i];

        options.struct_size = sizeof options;
        options.seed = 11 * i;
        expect_distribution(&options, vocabs[i % 4], i + 1, false);
        expect_distribution(&options, vocabs[i % 4], i + 1, true);
    }
}

Test(sampler, truncation_keeps_the_tokens_that_the_reference_keeps)
{
    uint64_t state = 5;
    for (uint32_t round = 0; round < 300; round++) {
        mf_sampler_options o = MF_SAMPLER_OPTIONS_INIT;
        uint32_t n_vocab = 1 + (uint32_t)(next_uniform(&state) * (MAX_VOCAB - 1));
        o.temperature = 0.2f + 4 * (float)next_uniform(&state);
        if (round % 2) o.top_k = 1 + (uint32_t)(next_uniform(&state) * n_vocab);
        if (round % 3) o.top_p = (float)next_uniform(&state);
        if (round % 5 > 2) o.min_p = (float)next_uniform(&state);
        float logits[MAX_VOCAB];
        random_logits(logits, n_vocab, &state);
        ranked kept[MAX_VOCAB];
        size_t n = reference(&o, logits, n_vocab, NULL, 0, kept);
        mf_model model;
        mf_sampler *s = new_sampler(fake_model(&model, n_vocab), &o);
        int32_t tokens[200] = { 0 };
        for (size_t i = 0; i < 200; i++) {
            int32_t token = sample_at(s, tokens, i, logits).token;
            bool is_kept = false;
            for (size_t j = 0; j < n; j++)
                is_kept = is_kept || kept[j].token == token;
            cr_assert(is_kept, "round %u: token %d was cut off", round, token);
        }
        mf_sampler_close(s);
    }
}

/* ---- Greedy, repeatable ---- */

Test(sampler, without_options_the_lowest_of_the_most_likely_is_taken)
{
    mf_model model;
    mf_sampler *s = new_sampler(fake_model(&model, 5), NULL);
    const float logits[] = { 1, 4, -INFINITY, 4, 4 };
    cr_assert_eq(sample_at(s, NULL, 0, logits).token, 1);
    const float zeros[] = { -0.0f, 0.0f, 0, 0, 0 };
    cr_assert_eq(sample_at(s, NULL, 0, zeros).token, 0);
    mf_sampler_close(s);
    cr_assert_eq(atomic_load(&model.references), 1);
}

Test(sampler, the_draw_depends_on_seed_and_position_alone)
{
    enum { N = 200 };
    mf_model model;
    mf_sampler_options options = MF_SAMPLER_OPTIONS_INIT;
    options.temperature = 1;
    options.seed = 42;
    float logits[MAX_VOCAB];
    uint64_t state = 9;
    random_logits(logits, MAX_VOCAB, &state);
    int32_t tokens[N] = { 0 }, forward[N];
    mf_sampler *s = new_sampler(fake_model(&model, MAX_VOCAB), &options), *twin = new_sampler(&model, &options);
    for (size_t i = 0; i < N; i++)
        forward[i] = sample_at(s, tokens, i, logits).token;
    for (size_t i = N; i-- > 0;)
        cr_assert_eq(sample_at(i % 2 ? s : twin, tokens, i, logits).token, forward[i]);
    mf_sampler_close(twin);
    options.seed = 43;
    twin = new_sampler(&model, &options);
    size_t n_same = 0;
    for (size_t i = 0; i < N; i++)
        n_same += sample_at(twin, tokens, i, logits).token == forward[i];
    cr_assert_lt(n_same, N / 2, "another seed gives the same draws");
    mf_sampler_close(twin);
    mf_sampler_close(s);
}

/* Pinned, so that a timeline replays under every later release. */
Test(sampler, the_random_numbers_are_those_of_the_first_release)
{
    static const struct {
        uint64_t seed, position, bits;
    } numbers[] = { { 0, 0, 0x14e0dba5e9a32f },
                    { 0, 1, 0x16705460be8829 },
                    { 1, 0, 0xbc835610e872c },
                    { UINT64_MAX, 4294967295u, 0x18ca531905c5b0 } };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        uint64_t bits =
            (uint64_t)(mfi_sampler_uniform(numbers[i].seed, numbers[i].position, MFI_STREAM_TOKEN) * 0x1p53);
        cr_assert_eq(bits, numbers[i].bits, "number %zu: 0x%llx", i, (unsigned long long)bits);
    }
}

Test(sampler, the_exponential_is_within_two_units_of_libm)
{
    uint64_t state = 1;
    double worst = 0;
    for (uint32_t i = 0; i < 200000; i++) {
        double x = -next_uniform(&state) * (i % 3 ? 2 : 690);
        long double right = expl((long double)x);
        double error = (double)fabsl((mfi_sampler_exp(x) - right) / right) / DBL_EPSILON;
        worst = error > worst ? error : worst;
    }
    cr_assert_lt(worst, 2);
    cr_assert_eq(mfi_sampler_exp(0), 1);
    cr_assert_eq(mfi_sampler_exp(-0.0), 1);
    cr_assert_eq(mfi_sampler_exp(-701), 0);
    cr_assert_eq(mfi_sampler_exp(-INFINITY), 0);
}

/* ---- Log-probabilities ---- */

Test(sampler, log_probabilities_are_those_before_penalty_temperature_and_truncation)
{
    mf_model model;
    mf_sampler_options options = MF_SAMPLER_OPTIONS_INIT;
    options.temperature = 0.1f;
    options.top_k = 2;
    options.repetition_penalty = 10;
    mf_sampler *s = new_sampler(fake_model(&model, MAX_VOCAB), &options);
    float logits[MAX_VOCAB];
    uint64_t state = 2;
    random_logits(logits, MAX_VOCAB, &state);
    logits[7] = -1e30f; /* far beyond any exponential */
    const mf_sampler_options plain = { .temperature = 1 };
    ranked expected[MAX_VOCAB];
    size_t n = reference(&plain, logits, MAX_VOCAB, NULL, 0, expected);

    int32_t tokens[] = { expected[0].token };
    mf_token_logprob chosen, top[MAX_VOCAB];
    cr_assert_eq(mf_sampler_sample(s, tokens, 1, logits, &chosen, top, MAX_VOCAB), MF_OK);
    for (size_t i = 0; i < n; i++) {
        cr_assert_eq(top[i].token, expected[i].token);
        if (expected[i].token != 7) cr_assert_float_eq(top[i].logprob, log((double)expected[i].probability), 1e-5);
        if (top[i].token == chosen.token) cr_assert_eq(top[i].logprob, chosen.logprob);
    }
    cr_assert_eq(top[n - 1].token, 7);
    for (size_t i = n; i < MAX_VOCAB; i++)
        cr_assert(top[i].token == -1 && top[i].logprob == -INFINITY);

    mf_token_logprob few[3], none = { 5, 5 };
    cr_assert_eq(mf_sampler_sample(s, tokens, 1, logits, NULL, few, 3), MF_OK);
    cr_assert(memcmp(few, top, sizeof few) == 0);
    cr_assert_eq(mf_sampler_sample(s, tokens, 1, logits, NULL, &none, 0), MF_OK);
    cr_assert_eq(none.token, 5);
    mf_sampler_close(s);
}

/* ---- The filter ---- */

typedef struct filter_record {
    const int32_t *tokens;
    size_t n_token, n_vocab;
    int answer;
    float forced; /* logit given to token 2; all others become impossible */
} filter_record;

static int record_and_force(void *user, const int32_t *tokens, size_t n_token, float *logits, size_t n_vocab)
{
    filter_record *record = user;
    record->tokens = tokens;
    record->n_token = n_token;
    record->n_vocab = n_vocab;
    for (size_t i = 0; i < n_vocab; i++)
        logits[i] = i == 2 ? record->forced : -INFINITY;
    return record->answer;
}

Test(sampler, the_filter_sees_the_whole_timeline_and_decides_before_everything_else)
{
    mf_model model;
    filter_record record = { .forced = -3 };
    mf_sampler_options options = MF_SAMPLER_OPTIONS_INIT;
    options.filter = record_and_force;
    options.filter_user = &record;
    mf_sampler *s = new_sampler(fake_model(&model, 4), &options);
    const int32_t tokens[] = { 3, -1, 0, 1, 2, 3 };
    const float logits[] = { 9, 1, -5, 2 };
    mf_token_logprob top[2], chosen;
    cr_assert_eq(mf_sampler_sample(s, tokens, 6, logits, &chosen, top, 2), MF_OK);
    cr_assert(record.tokens == tokens && record.n_token == 6 && record.n_vocab == 4);
    cr_assert(chosen.token == 2 && chosen.logprob == 0);
    cr_assert(top[0].token == 2 && top[1].token == -1);
    cr_assert_eq(logits[0], 9, "the caller's logits were changed");

    record.answer = 1;
    cr_assert_eq(mf_sampler_sample(s, tokens, 6, logits, &chosen, NULL, 0), MF_E_CANCELLED);
    record.answer = 0;
    record.forced = -INFINITY;
    cr_assert_eq(mf_sampler_sample(s, tokens, 6, logits, &chosen, NULL, 0), MF_E_INVALID);
    mf_sampler_close(s);
}

/* ---- What is refused ---- */

Test(sampler, logits_that_are_no_distribution_are_refused)
{
    static const float bad[] = { NAN, INFINITY };
    static const float temperatures[] = { 0, 1 };
    mf_model model;
    fake_model(&model, 6);
    for (size_t t = 0; t < 2; t++) {
        mf_sampler_options options = MF_SAMPLER_OPTIONS_INIT;
        options.temperature = temperatures[t];
        options.top_p = 0.5f;
        mf_sampler *s = new_sampler(&model, &options);
        mf_token_logprob chosen;
        for (size_t i = 0; i < 2; i++)
            for (size_t at = 0; at < 6; at++) {
                float logits[] = { 0, 1, 2, 3, 4, 5 };
                logits[at] = bad[i];
                cr_assert_eq(mf_sampler_sample(s, NULL, 0, logits, &chosen, NULL, 0), MF_E_INVALID);
            }
        float nothing[6];
        for (size_t i = 0; i < 6; i++)
            nothing[i] = -INFINITY;
        cr_assert_eq(mf_sampler_sample(s, NULL, 0, nothing, &chosen, NULL, 0), MF_E_INVALID);
        nothing[3] = -FLT_MAX;
        cr_assert_eq(mf_sampler_sample(s, NULL, 0, nothing, &chosen, NULL, 0), MF_OK);
        cr_assert_eq(chosen.token, 3);
        cr_assert_eq(mf_sampler_sample(s, NULL, 1, nothing, &chosen, NULL, 0), MF_E_INVALID);
        cr_assert_eq(mf_sampler_sample(s, NULL, 0, NULL, &chosen, NULL, 0), MF_E_INVALID);
        mf_sampler_close(s);
    }
}

Test(sampler, options_out_of_range_are_refused_with_a_sentence)
{
    static const mf_sampler_options bad[] = {
        { .temperature = -1 }, { .temperature = NAN }, { .temperature = INFINITY },  { .top_p = 1.5f },
        { .top_p = -0.1f },    { .min_p = 2 },         { .repetition_penalty = -1 }, { .repetition_penalty = NAN },
    };
    mf_model model;
    fake_model(&model, 6);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        mf_sampler_options options = bad[i];
        options.struct_size = sizeof options;
        mf_error error = MF_ERROR_INIT;
        mf_sampler *s = (mf_sampler *)&model;
        cr_assert_eq(mf_sampler_create(&s, &model, &options, &error), MF_E_INVALID, "options %zu", i);
        cr_assert_null(s);
        cr_assert_neq(error.detail[0], '\0');
    }
    cr_assert_eq(mf_sampler_create(NULL, &model, NULL, NULL), MF_E_INVALID);
    cr_assert_eq(atomic_load(&model.references), 1);
}

Test(sampler, sampling_allocates_nothing_and_a_refused_allocation_is_clean)
{
    counting count = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    mf_model model;
    fake_model(&model, MAX_VOCAB)->allocator = counting_allocator(&count);
    mf_sampler_options options = MF_SAMPLER_OPTIONS_INIT;
    options.temperature = 1;
    options.top_p = 0.9f;
    options.repetition_penalty = 1.1f;
    mf_sampler *s = new_sampler(&model, &options);
    size_t n_alloc = count.n_alloc;
    float logits[MAX_VOCAB];
    uint64_t state = 4;
    random_logits(logits, MAX_VOCAB, &state);
    const int32_t tokens[] = { 1, 2, 3 };
    sample_at(s, tokens, 3, logits);
    cr_assert_eq(count.n_alloc, n_alloc);
    mf_sampler_close(s);
    cr_assert_eq(count.live_bytes, 0);
    count.fail_at = count.n_alloc + 1;
    cr_assert_eq(mf_sampler_create(&s, &model, &options, NULL), MF_E_NOMEM);
    cr_assert_null(s);
    cr_assert_eq(atomic_load(&model.references), 1);
}
