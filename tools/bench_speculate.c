/* bench_speculate.c - a narrow view that writes ahead, against the wide one alone. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum {
    N_PROMPT = 8,
    PROMPT_TOKENS = 32,
    TOKENS = 96,
    MAX_ROUND = 100,
    MOST_AHEAD = 16,
    MOST_LENGTHS = 16,
    REPEATS = 4
};

/* Beginnings of texts, for a model that was not given any. */
static const char *const beginnings[N_PROMPT] = {
    "Once upon a time there was a king who had three daughters, and the youngest of them",
    "The old woman opened the door of the cottage and looked out into the snow.",
    "\"I do not believe a word of it,\" said the fox, and he lay down under the tree",
    "Far away in the middle of the forest there lived a poor woodcutter with his wife",
    "When the ship had sailed for many days, the captain called all his men together and",
    "The little girl put on her red cloak and went along the road to the town, where",
    "In the morning the prince mounted his horse and rode over the mountains until he",
    "There was no sound in the house but the ticking of the clock on the stairs, and",
};

/* A size that writes ahead. */
typedef struct drafter {
    const char *name;
    mf_submodel *view;
    double acceptance; /* probability that its token is accepted, over the texts that the wide view wrote */
    double same;       /* that both choose it by the same random number */
    double second;     /* of those refused, how many are the draft's second choice; greedy only */
} drafter;

/* A drafter and a number of tokens; 0: adapted. */
typedef struct trial {
    drafter *by;
    uint32_t ahead;
    double seconds[MAX_ROUND];                  /* of all texts */
    double gain[MAX_ROUND];                     /* the wide view alone to it, in the same round */
    double draft[MAX_ROUND], verify[MAX_ROUND]; /* forwards alone: of `ahead` drafted tokens, and of their batch */
    uint64_t n_token, n_drafted, n_accepted, n_verify;
} trial;

typedef struct stage {
    const bench *b;
    mf_submodel *wide;
    const char *wide_name;
    mf_executor *executor;
    mf_session *session;
    mf_sampler *sampler;
    uint32_t n_token;                               /* written behind each prompt */
    int32_t text[N_PROMPT][PROMPT_TOKENS + TOKENS]; /* what the wide view writes */
    size_t n_prompt[N_PROMPT];                      /* tokens of it that are the prompt's */
    float *logits[2];                               /* [PROMPT_TOKENS + TOKENS][n_vocab] */
    drafter *drafters;
    size_t n_drafter, n_trial;
    trial *trials;
    double alone[MAX_ROUND];         /* seconds of all texts */
    double alone_forward[MAX_ROUND]; /* of one token */
} stage;

/* ---- Texts ---- */

static mf_status take_prompt(stage *s, uint32_t i, const int32_t *tokens, size_t n)
{
    s->n_prompt[i] = n < PROMPT_TOKENS ? n : PROMPT_TOKENS;
    memcpy(s->text[i], tokens, s->n_prompt[i] * sizeof(*tokens));
    return n > 0 ? MF_OK : MF_E_INVALID;
}

/* Places of the files, as far apart as can be. */
static mf_status read_places(stage *s, mf_error *error)
{
    const cli_list *files = &s->b->texts;
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < N_PROMPT && status == MF_OK; i++) {
        const size_t file = i % files->count, part = i / files->count, parts = (N_PROMPT - 1) / files->count + 1;
        size_t bytes, n = 0;
        int32_t *tokens = NULL;
        char *text = cli_read_file(files->items[file], &bytes, error);
        if (!text) return error->status;
        status = cli_tokenize(s->b->model, text, bytes, &tokens, &n, error);
        const size_t from = n * part / parts;
        if (status == MF_OK) status = take_prompt(s, i, tokens + from, n - from);
        free(tokens);
        free(text);
    }
    if (status == MF_E_INVALID) snprintf(error->detail, sizeof(error->detail), "--text: a file without text");
    return error->status = status;
}

static mf_status read_prompts(stage *s, mf_error *error)
{
    if (s->b->texts.count > 0) return read_places(s, error);
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < N_PROMPT && status == MF_OK; i++) {
        size_t n = 0;
        int32_t *tokens = NULL;
        status = cli_tokenize(s->b->model, beginnings[i], strlen(beginnings[i]), &tokens, &n, error);
        if (status == MF_OK) status = take_prompt(s, i, tokens, n);
        free(tokens);
    }
    return status;
}

/* ---- Opening ---- */

static mf_status open_drafters(stage *s, mf_error *error)
{
    const cli_list *named = &s->b->drafts;
    const size_t n = named->count > 0 ? named->count : cli_usable_granularities(s->b->model) - 1;
    s->drafters = calloc(n + 1, sizeof(*s->drafters));
    if (!s->drafters) return error->status = MF_E_NOMEM;
    mf_status status = MF_OK;
    for (size_t i = 0; i < n && status == MF_OK; i++) {
        drafter *d = &s->drafters[s->n_drafter++];
        d->name = named->count > 0 ? named->items[i] : mf_model_granularity(s->b->model, (uint32_t)i);
        status = mf_extract_submodel_text(&d->view, s->b->model, d->name, error);
    }
    if (status != MF_OK || n > 0) return status;
    snprintf(error->detail, sizeof(error->detail), "the model has one size only: --draft SIZE names a narrower one");
    return error->status = MF_E_INVALID;
}

/* "1,2,4" of each drafter. */
static mf_status open_trials(stage *s, mf_error *error)
{
    uint32_t lengths[MOST_LENGTHS], n = 0;
    const char *at = s->b->draft_tokens ? s->b->draft_tokens : "1,2,3,4,6,8,0";
    for (char *end; *at >= '0' && *at <= '9' && n < MOST_LENGTHS; at = end + (*end == ',')) {
        const unsigned long length = strtoul(at, &end, 10);
        if (length > MOST_AHEAD) break;
        lengths[n++] = (uint32_t)length;
    }
    if (*at != '\0' || n == 0) {
        snprintf(error->detail, sizeof(error->detail),
                 "--draft-tokens: \"%.40s\" is no number of 0 to %d, as in 1,2,4,0; 0 adapts it", at, MOST_AHEAD);
        return error->status = MF_E_INVALID;
    }
    s->n_trial = n * s->n_drafter;
    s->trials = calloc(s->n_trial, sizeof(*s->trials));
    for (size_t i = 0; s->trials && i < s->n_trial; i++)
        s->trials[i] = (trial){ .by = &s->drafters[i / n], .ahead = lengths[i % n] };
    return s->trials ? MF_OK : (error->status = MF_E_NOMEM);
}

static mf_status open_stage(stage *s, const bench *b, mf_error *error)
{
    mf_executor_options executor = MF_EXECUTOR_OPTIONS_INIT;
    mf_session_options session = MF_SESSION_OPTIONS_INIT;
    mf_sampler_options sampling = MF_SAMPLER_OPTIONS_INIT;
    const uint32_t room = b->info.max_positions > PROMPT_TOKENS ? b->info.max_positions - PROMPT_TOKENS : 1;
    *s = (stage){ .b = b, .n_token = room < TOKENS ? room : TOKENS };
    executor.n_thread = b->n_thread;
    executor.max_requests = 1;
    session.max_positions = PROMPT_TOKENS + TOKENS + MOST_AHEAD + 1;
    sampling.temperature = (float)b->temperature;
    for (int i = 0; i < 2; i++)
        s->logits[i] = malloc((size_t)(PROMPT_TOKENS + TOKENS) * b->info.n_vocab * sizeof(float));
    if (!s->logits[0] || !s->logits[1]) return error->status = MF_E_NOMEM;
    s->wide_name = mf_model_granularity(b->model, cli_usable_granularities(b->model) - 1);
    mf_status status = mf_extract_submodel_text(&s->wide, b->model, s->wide_name, error);
    if (status == MF_OK) status = mf_executor_create(&s->executor, b->model, &executor, error);
    if (status == MF_OK) status = mf_session_create(&s->session, b->model, &session, error);
    if (status == MF_OK) status = mf_sampler_create(&s->sampler, b->model, &sampling, error);
    if (status == MF_OK) status = open_drafters(s, error);
    if (status == MF_OK) status = open_trials(s, error);
    return status == MF_OK ? read_prompts(s, error) : status;
}

static void close_stage(stage *s)
{
    for (size_t i = 0; i < s->n_drafter; i++)
        mf_submodel_close(s->drafters[i].view);
    mf_sampler_close(s->sampler);
    mf_session_close(s->session);
    mf_executor_close(s->executor);
    mf_submodel_close(s->wide);
    free(s->logits[0]);
    free(s->logits[1]);
    free(s->drafters);
    free(s->trials);
}

/* ---- Writing the texts ---- */

/* All texts; the trial NULL: the wide view alone, which leaves what it wrote. */
static mf_status write_texts(stage *s, trial *t, double *seconds, mf_error *error)
{
    mf_status status = MF_OK;
    *seconds = 0;
    for (uint32_t i = 0; i < N_PROMPT && status == MF_OK; i++) {
        mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
        mf_generate_result result = MF_GENERATE_RESULT_INIT;
        options.tokens = s->text[i];
        options.n_token = s->n_prompt[i];
        options.max_tokens = s->n_token;
        options.ignore_eos = 1;
        options.sampler = s->sampler;
        if (t) options.draft = t->by->view;
        if (t) options.draft_tokens = t->ahead;
        status = mf_session_rewind(s->session, 0);
        if (status == MF_OK) status = mf_generate(s->executor, s->session, s->wide, &options, &result, error);
        *seconds += 1e-9 * (double)result.generate_ns;
        if (!t && status == MF_OK)
            memcpy(s->text[i], mf_session_tokens(s->session), mf_session_position(s->session) * sizeof(int32_t));
        if (!t) continue;
        t->n_token += result.n_generated;
        t->n_drafted += result.n_drafted;
        t->n_accepted += result.n_accepted;
        t->n_verify += result.n_verify;
    }
    return status;
}

/* ---- Acceptance ---- */

static mf_status run_text(stage *s, const mf_submodel *view, uint32_t i, float *logits, mf_error *error)
{
    mf_request request = { .session = s->session, .submodel = view, .tokens = s->text[i] };
    request.n_token = s->n_prompt[i] + s->n_token - 1;
    request.logits_of = MF_LOGITS_ALL;
    request.logits = logits;
    request.logits_capacity = (size_t)(PROMPT_TOKENS + TOKENS) * s->b->info.n_vocab;
    mf_status status = mf_session_rewind(s->session, 0);
    return status == MF_OK ? mf_forward(s->executor, &request, 1, sizeof(request), error) : status;
}

static size_t find_highest(const float *logits, size_t n, size_t other_than)
{
    size_t best = other_than == 0 ? 1 : 0;
    for (size_t i = 0; i < n; i++)
        if (i != other_than && logits[i] > logits[best]) best = i;
    return best;
}

/* The sum of e^((logit - the highest) / temperature). */
static double partition(const float *logits, size_t n, double highest, double temperature)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp((logits[i] - highest) / temperature);
    return sum;
}

/* How alike two distributions are. */
typedef struct likeness {
    double overlap; /* the sum of min(p, q): the probability that a token drawn from q is accepted */
    double same;    /* the probability that one random number chooses the same token from both */
} likeness;

static likeness compare(const float *p, const float *q, size_t n, double temperature)
{
    const double p_high = p[find_highest(p, n, n)], q_high = q[find_highest(q, n, n)];
    const double p_sum = partition(p, n, p_high, temperature), q_sum = partition(q, n, q_high, temperature);
    likeness sum = { 0, 0 };
    double p_begin = 0, q_begin = 0; /* token i is chosen by the numbers of [begin, end) */
    for (size_t i = 0; i < n; i++) {
        const double p_end = p_begin + exp((p[i] - p_high) / temperature) / p_sum;
        const double q_end = q_begin + exp((q[i] - q_high) / temperature) / q_sum;
        sum.overlap += fmin(p_end - p_begin, q_end - q_begin);
        sum.same += fmax(0, fmin(p_end, q_end) - fmax(p_begin, q_begin));
        p_begin = p_end;
        q_begin = q_end;
    }
    return sum;
}

/* Over the texts that the wide view wrote. */
static mf_status measure_acceptance(stage *s, drafter *d, mf_error *error)
{
    const size_t n_vocab = s->b->info.n_vocab, n = s->b->info.n_token;
    double accepted = 0, refused = 0, second = 0, same = 0;
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < N_PROMPT && status == MF_OK; i++) {
        status = run_text(s, s->wide, i, s->logits[0], error);
        if (status == MF_OK) status = run_text(s, d->view, i, s->logits[1], error);
        for (size_t at = s->n_prompt[i] - 1; at + 1 < s->n_prompt[i] + s->n_token && status == MF_OK; at++) {
            const float *p = s->logits[0] + at * n_vocab, *q = s->logits[1] + at * n_vocab;
            const size_t wanted = find_highest(p, n, n), first = find_highest(q, n, n);
            likeness like = { wanted == first, wanted == first };
            if (s->b->temperature > 0) like = compare(p, q, n, s->b->temperature);
            accepted += like.overlap;
            refused += 1 - like.overlap;
            same += like.same;
            second += wanted != first && wanted == find_highest(q, n, first);
        }
    }
    d->acceptance = accepted / (accepted + refused);
    d->same = same / (accepted + refused);
    d->second = refused > 0 ? second / refused : 0;
    return status;
}

/* ---- Costs ---- */

static mf_status forward(stage *s, const mf_submodel *view, const int32_t *tokens, size_t n, double *seconds,
                         mf_error *error)
{
    mf_request request = { .session = s->session, .submodel = view, .tokens = tokens, .n_token = n };
    request.logits_of = MF_LOGITS_ALL;
    request.logits = s->logits[0];
    request.logits_capacity = (size_t)(PROMPT_TOKENS + TOKENS) * s->b->info.n_vocab;
    const double began = cli_now();
    mf_status status = mf_forward(s->executor, &request, 1, sizeof(request), error);
    *seconds += cli_now() - began;
    return status;
}

/* The forwards of a round by themselves, as they come in one: a draft's tokens, then the batch. */
static mf_status time_forwards(stage *s, trial *t, uint32_t round, mf_error *error)
{
    const uint32_t begin = (uint32_t)s->n_prompt[0];
    mf_status status = mf_session_rewind(s->session, begin);
    for (int repeat = 0; repeat < REPEATS && status == MF_OK; repeat++) {
        const int32_t *tokens = s->text[0] + begin;
        for (uint32_t i = 0; i < t->ahead && status == MF_OK; i++)
            status = forward(s, t->by->view, tokens + i, 1, &t->draft[round], error);
        if (status == MF_OK) status = mf_session_rewind(s->session, begin);
        if (status == MF_OK) status = forward(s, s->wide, tokens, 1 + t->ahead, &t->verify[round], error);
        if (status == MF_OK) status = mf_session_rewind(s->session, begin);
    }
    t->draft[round] /= REPEATS;
    t->verify[round] /= REPEATS;
    return status;
}

static mf_status time_alone(stage *s, uint32_t round, mf_error *error)
{
    const uint32_t begin = (uint32_t)s->n_prompt[0];
    mf_status status = MF_OK;
    for (int repeat = 0; repeat < REPEATS && status == MF_OK; repeat++) {
        status = mf_session_rewind(s->session, begin);
        if (status == MF_OK) status = forward(s, s->wide, s->text[0] + begin, 1, &s->alone_forward[round], error);
    }
    s->alone_forward[round] /= REPEATS;
    return status;
}

static mf_status measure_round(stage *s, uint32_t round, mf_error *error)
{
    mf_status status = write_texts(s, NULL, &s->alone[round], error);
    if (status == MF_OK) status = time_alone(s, round, error);
    for (size_t i = 0; i < s->n_trial && status == MF_OK; i++) {
        trial *t = &s->trials[i];
        cli_progress("speculate", (double)(round * s->n_trial + i), (double)(s->b->rounds * s->n_trial));
        if (t->ahead > 0) status = time_forwards(s, t, round, error);
        if (status == MF_OK) status = write_texts(s, t, &t->seconds[round], error);
        if (status == MF_OK) t->gain[round] = s->alone[round] / t->seconds[round];
    }
    return status;
}

/* ---- Report ---- */

/* What a round of the forwards alone gives, to a token of the wide view: (1 - a^(g+1)) / (1 - a) tokens. */
static double ceiling_of(const trial *t, double alone, double draft, double verify)
{
    double tokens = 0, power = 1;
    for (uint32_t i = 0; i <= t->ahead; i++, power *= t->by->acceptance)
        tokens += power;
    return tokens * alone / (draft + verify);
}

/* Of one length; an adapted one has none. */
static void measured_cell(cli_table *table, const trial *t, double value)
{
    if (t->ahead > 0)
        cli_table_cell(table, "%.2f", value);
    else
        cli_table_cell(table, "%s", "");
}

static void report_trial(stage *s, trial *t, double alone_forward, cli_table *table, json_t *list)
{
    const uint32_t rounds = s->b->rounds;
    const double seconds = bench_median(t->seconds, rounds) / (s->n_token * N_PROMPT);
    const double gain = bench_median(t->gain, rounds), draft = bench_median(t->draft, rounds);
    const double verify = bench_median(t->verify, rounds);
    const double per_batch = t->n_verify > 0 ? (double)(t->n_accepted + t->n_verify) / (double)t->n_verify : 1;
    const double accepted = t->n_drafted > 0 ? (double)t->n_accepted / (double)t->n_drafted : 0;
    const double ceiling = t->ahead > 0 ? ceiling_of(t, alone_forward, draft, verify) : 0;
    cli_table_cell(table, "%s", t->by->name);
    if (t->ahead > 0)
        cli_table_cell(table, "%u", t->ahead);
    else
        cli_table_cell(table, "adapted");
    cli_table_cell(table, "%.1f", 1 / seconds);
    cli_table_cell(table, "%.2f", gain);
    measured_cell(table, t, ceiling);
    cli_table_cell(table, "%.0f %%", 100 * accepted);
    cli_table_cell(table, "%.2f", per_batch);
    measured_cell(table, t, draft / alone_forward);
    measured_cell(table, t, verify / alone_forward);
    json_array_append_new(list, json_pack("{s:s, s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "draft", t->by->name,
                                          "ahead", (int)t->ahead, "tokens_per_second", 1 / seconds, "to_alone", gain,
                                          "least_to_alone", t->gain[0], "most_to_alone", t->gain[rounds - 1], "ceiling",
                                          ceiling, "accepted", accepted, "tokens_per_batch", per_batch,
                                          "verify_to_token", verify / alone_forward));
}

static void report_drafters(const stage *s, json_t *out)
{
    json_t *list = json_array();
    cli_table *table = cli_table_create(s->b->temperature > 0 ? "<draft|accepted"
                                                              : "<draft|accepted|of the refused, its second choice");
    for (size_t i = 0; i < s->n_drafter; i++) {
        const drafter *d = &s->drafters[i];
        cli_table_cell(table, "%s", d->name);
        cli_table_cell(table, "%.1f %%", 100 * d->acceptance);
        if (s->b->temperature > 0)
            cli_table_cell(table, "%.1f %%", 100 * d->same);
        else
            cli_table_cell(table, "%.0f %%", 100 * d->second);
        json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:f}", "draft", d->name, "acceptance", d->acceptance,
                                              "same_by_number", d->same, "second_of_refused", d->second));
    }
    if (!s->b->json) {
        printf("\nOf every token of those texts, by itself:\n\n");
        cli_table_print(table, stdout);
    }
    cli_table_free(table);
    json_object_set_new(out, "drafts", list);
}

static void report(stage *s, json_t *out)
{
    cli_table *table =
        cli_table_create("<draft|ahead|tokens/s|to alone|ceiling|accepted|tokens a batch|drafting|batch");
    json_t *list = json_array(), *object = json_object();
    const uint32_t rounds = s->b->rounds;
    const double alone = bench_median(s->alone, rounds) / (s->n_token * N_PROMPT);
    const double alone_forward = bench_median(s->alone_forward, rounds);
    cli_table_cell(table, "alone");
    cli_table_cell(table, "0");
    cli_table_cell(table, "%.1f", 1 / alone);
    cli_table_cell(table, "1.00");
    for (int i = 0; i < 5; i++)
        cli_table_cell(table, "%s", "");
    for (size_t i = 0; i < s->n_trial; i++)
        report_trial(s, &s->trials[i], alone_forward, table, list);
    if (!s->b->json) cli_table_print(table, stdout);
    cli_table_free(table);
    json_object_set_new(object, "size", cli_json_string(s->wide_name));
    json_object_set_new(object, "temperature", json_real(s->b->temperature));
    json_object_set_new(object, "alone_tokens_per_second", json_real(1 / alone));
    json_object_set_new(object, "alone_forward_seconds", json_real(alone_forward));
    json_object_set_new(object, "trials", list);
    report_drafters(s, object);
    json_object_set_new(out, "speculate", object);
}

mf_status bench_speculate(const bench *b, json_t *out, mf_error *error)
{
    stage *s = calloc(1, sizeof(*s));
    if (!s) return error->status = MF_E_NOMEM;
    double unused;
    mf_status status = open_stage(s, b, error);
    if (status == MF_OK) status = write_texts(s, NULL, &unused, error);
    if (status == MF_OK)
        bench_title(b,
                    "Speculate: %d texts of %u tokens by %s, with a narrower size that writes ahead; %u threads, "
                    "temperature %g. In tokens of %s: drafting, and the batch that verifies",
                    N_PROMPT, s->n_token, s->wide_name, b->n_thread, b->temperature, s->wide_name);
    for (size_t i = 0; i < s->n_drafter && status == MF_OK; i++)
        status = measure_acceptance(s, &s->drafters[i], error);
    for (uint32_t round = 0; round < b->rounds && status == MF_OK; round++)
        status = measure_round(s, round, error);
    cli_progress_end();
    if (status == MF_OK) report(s, out);
    close_stage(s);
    free(s);
    return status;
}
