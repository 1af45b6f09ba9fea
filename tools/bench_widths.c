/* bench_widths.c - widths that differ between the rows of a batch, and from token to token. */
#include <stdlib.h>
#include <string.h>

#include "bench.h"

/* A sequence has one token that is not measured, and then as many of one width as of the other. */
enum { ROWS = 8, N_WIDTH = 4, CONTEXT = 16, STRETCH = 4, SEQUENCE = 1 + 4 * STRETCH, MAX_ROUND = 100 };

/* Of d_ff, in every layer. */
static const struct {
    const char *name;
    double ratio;
} widths[N_WIDTH] = { { "S", 0.125 }, { "M", 0.25 }, { "L", 0.5 }, { "XL", 1 } };

typedef struct stage {
    const bench *b;
    mf_executor *executor;
    mf_submodel *view[N_WIDTH];
    mf_session *session[ROWS]; /* CONTEXT tokens each */
    float *logits;             /* [ROWS][n_vocab] */
} stage;

static mf_status forward(stage *s, mf_request *requests, size_t n, mf_error *error)
{
    return mf_forward(s->executor, requests, n, sizeof(*requests), error);
}

/* One more token of timeline `row`. */
static mf_request next_token(const stage *s, size_t row, const mf_submodel *view)
{
    static const int32_t token[] = { 1 };
    const size_t n_vocab = s->b->info.n_vocab;
    return (mf_request){ .session = s->session[row],
                         .submodel = view,
                         .tokens = token,
                         .n_token = 1,
                         .logits = s->logits + row * n_vocab,
                         .logits_capacity = n_vocab };
}

static mf_status begin_timeline(stage *s, size_t row, mf_error *error)
{
    int32_t tokens[CONTEXT];
    mf_session_options options = MF_SESSION_OPTIONS_INIT;
    options.max_positions = CONTEXT + SEQUENCE;
    for (uint32_t i = 0; i < CONTEXT; i++)
        tokens[i] = (int32_t)((row * CONTEXT + i) * 7919 % s->b->info.n_vocab);
    mf_status status = mf_session_create(&s->session[row], s->b->model, &options, error);
    mf_request request = { .session = s->session[row],
                           .submodel = s->view[N_WIDTH - 1],
                           .tokens = tokens,
                           .n_token = CONTEXT,
                           .logits_of = MF_LOGITS_NONE };
    return status == MF_OK ? forward(s, &request, 1, error) : status;
}

static mf_status open_stage(stage *s, const bench *b, mf_error *error)
{
    *s = (stage){ .b = b, .logits = malloc((size_t)ROWS * b->info.n_vocab * sizeof(float)) };
    if (!s->logits) return error->status = MF_E_NOMEM;
    mf_executor_options executor = MF_EXECUTOR_OPTIONS_INIT;
    executor.n_thread = b->n_thread;
    executor.max_requests = ROWS;
    mf_status status = mf_executor_create(&s->executor, b->model, &executor, error);
    for (size_t i = 0; i < N_WIDTH && status == MF_OK; i++) {
        mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
        spec.ratio = widths[i].ratio;
        status = mf_extract_submodel(&s->view[i], b->model, &spec, error);
    }
    for (size_t row = 0; row < ROWS && status == MF_OK; row++)
        status = begin_timeline(s, row, error);
    return status;
}

static void close_stage(stage *s)
{
    for (size_t row = 0; row < ROWS; row++)
        mf_session_close(s->session[row]);
    for (size_t i = 0; i < N_WIDTH; i++)
        mf_submodel_close(s->view[i]);
    mf_executor_close(s->executor);
    free(s->logits);
}

static mf_status rewind_all(stage *s)
{
    mf_status status = MF_OK;
    for (size_t row = 0; row < ROWS && status == MF_OK; row++)
        status = mf_session_rewind(s->session[row], CONTEXT);
    return status;
}

/* ---- Within a batch ---- */

typedef enum batch_kind { MIXED, ALL_WIDEST, ONE_WIDEST, ONE_BY_ONE, N_BATCH } batch_kind;

static const struct {
    const char *what, *name;
    uint32_t n_row, n_call;
} batches[N_BATCH] = { [MIXED] = { "S S M M L L XL XL", "mixed", ROWS, 1 },
                       [ALL_WIDEST] = { "eight XL", "all_widest", ROWS, 1 },
                       [ONE_WIDEST] = { "one XL", "one_widest", 1, 1 },
                       [ONE_BY_ONE] = { "S S M M L L XL XL, a call each", "one_by_one", ROWS, ROWS } };

static mf_status time_batch(stage *s, batch_kind kind, double *seconds, mf_error *error)
{
    const uint32_t n_row = batches[kind].n_row, rows_a_call = n_row / batches[kind].n_call;
    mf_request requests[ROWS];
    for (uint32_t row = 0; row < n_row; row++) {
        const bool widest = kind == ALL_WIDEST || kind == ONE_WIDEST;
        requests[row] = next_token(s, row, s->view[widest ? N_WIDTH - 1 : row * N_WIDTH / ROWS]);
    }
    mf_status status = MF_OK;
    const double began = cli_now();
    for (uint32_t row = 0; row < n_row && status == MF_OK; row += rows_a_call)
        status = forward(s, requests + row, rows_a_call, error);
    *seconds = cli_now() - began;
    return status == MF_OK ? rewind_all(s) : status;
}

static void report_mixed(const bench *b, double seconds[N_BATCH][MAX_ROUND], json_t *out)
{
    cli_table *table = cli_table_create("<rows|calls|time|per row|mixed to it");
    json_t *object = json_object();
    double median[N_BATCH];
    for (int kind = 0; kind < N_BATCH; kind++) {
        median[kind] = bench_median(seconds[kind], b->rounds);
        cli_table_cell(table, "%s", batches[kind].what);
        cli_table_cell(table, "%u", batches[kind].n_call);
        cli_table_cell(table, "%s", cli_seconds(median[kind]).text);
        cli_table_cell(table, "%s", cli_seconds(median[kind] / batches[kind].n_row).text);
        cli_table_cell(table, "%.2f", median[MIXED] / median[kind]);
        json_object_set_new(object, batches[kind].name,
                            json_pack("{s:i, s:i, s:f, s:f}", "rows", (int)batches[kind].n_row, "calls",
                                      (int)batches[kind].n_call, "seconds", median[kind], "mixed_to_this",
                                      median[MIXED] / median[kind]));
    }
    if (!b->json) cli_table_print(table, stdout);
    cli_table_free(table);
    json_object_set_new(out, "mixed", object);
}

mf_status bench_mixed(const bench *b, json_t *out, mf_error *error)
{
    stage s;
    double seconds[N_BATCH][MAX_ROUND], unused;
    bench_title(b, "Mixed: a token each for eight requests of widths 1/8, 1/4, 1/2 and 1 of d_ff, %u threads",
                b->n_thread);
    mf_status status = open_stage(&s, b, error);
    for (uint32_t round = 0; round < b->rounds && status == MF_OK; round++)
        for (int kind = 0; kind < N_BATCH && status == MF_OK; kind++) {
            cli_progress("mixed", round, b->rounds);
            status = time_batch(&s, (batch_kind)kind, &unused, error); /* brings the weights, as in decode */
            if (status == MF_OK) status = time_batch(&s, (batch_kind)kind, &seconds[kind][round], error);
        }
    cli_progress_end();
    if (status == MF_OK) report_mixed(b, seconds, out);
    close_stage(&s);
    return status;
}

/* ---- From token to token ---- */

/* A sequence begins with width `first` and changes to the other of S and XL after every `stretch` tokens; 0: never. */
typedef struct sequence {
    const char *what, *name;
    size_t first;
    uint32_t stretch;
} sequence;

enum { NARROW = 0, WIDE = N_WIDTH - 1 };
enum { CONSTANT_NARROW, CONSTANT_WIDE, ALTERNATING, STRETCHES, N_SEQUENCE };

static const sequence sequences[N_SEQUENCE] = {
    [CONSTANT_NARROW] = { "S", "narrow", NARROW, 0 },
    [CONSTANT_WIDE] = { "XL", "wide", WIDE, 0 },
    [ALTERNATING] = { "S XL S XL ...", "alternating", NARROW, 1 },
    [STRETCHES] = { "S S S S XL XL XL XL S ...", "stretches", NARROW, STRETCH },
};

typedef struct samples {
    double token[N_SEQUENCE][MAX_ROUND];    /* mean of a sequence */
    double first[2][MAX_ROUND * SEQUENCE];  /* after a switch to S, to XL */
    double steady[2][MAX_ROUND * SEQUENCE]; /* the tokens after that one */
    double cold[2][MAX_ROUND * SEQUENCE];   /* likewise, when the caches hold other memory */
    size_t n_first[2], n_steady[2], n_cold[2];
    unsigned char *other; /* [OTHER_BYTES] */
    volatile unsigned seen;
} samples;

/* More than the caches hold. */
enum { OTHER_BYTES = 256 << 20, CACHE_LINE = 64 };

static void read_other(samples *x)
{
    unsigned sum = 0;
    for (size_t i = 0; i < OTHER_BYTES; i += CACHE_LINE)
        sum += x->other[i];
    x->seen = sum;
}

/* The first token of a sequence is not measured. */
static mf_status time_sequence(stage *s, int which, samples *out, uint32_t round, mf_error *error)
{
    const sequence *q = &sequences[which];
    double sum = 0;
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < SEQUENCE && status == MF_OK; i++) {
        const size_t width = q->stretch && i / q->stretch % 2 ? NARROW + WIDE - q->first : q->first;
        mf_request request = next_token(s, 0, s->view[width]);
        const bool is_cold = which == STRETCHES && i % STRETCH == STRETCH / 2;
        if (is_cold) read_other(out);
        const double began = cli_now();
        status = forward(s, &request, 1, error);
        const double seconds = cli_now() - began;
        sum += i > 0 ? seconds : 0;
        if (which != STRETCHES || i == 0) continue;
        const int wide = width == WIDE;
        if (i % STRETCH == 0)
            out->first[wide][out->n_first[wide]++] = seconds;
        else if (is_cold)
            out->cold[wide][out->n_cold[wide]++] = seconds;
        else
            out->steady[wide][out->n_steady[wide]++] = seconds;
    }
    out->token[which][round] = sum / (SEQUENCE - 1);
    return status == MF_OK ? rewind_all(s) : status;
}

static void report_sequences(const bench *b, samples *x, json_t *out)
{
    cli_table *table = cli_table_create("<widths of the tokens|time per token|of the mean of S and XL");
    double median[N_SEQUENCE];
    for (int q = 0; q < N_SEQUENCE; q++)
        median[q] = bench_median(x->token[q], b->rounds);
    const double mean = (median[CONSTANT_NARROW] + median[CONSTANT_WIDE]) / 2;
    for (int q = 0; q < N_SEQUENCE; q++) {
        cli_table_cell(table, "%s", sequences[q].what);
        cli_table_cell(table, "%s", cli_seconds(median[q]).text);
        cli_table_cell(table, "%.3f", median[q] / mean);
        json_object_set_new(out, sequences[q].name,
                            json_pack("{s:f, s:f}", "seconds_per_token", median[q], "to_mean", median[q] / mean));
    }
    if (!b->json) cli_table_print(table, stdout);
    cli_table_free(table);
}

static void report_first_tokens(const bench *b, samples *x, json_t *out)
{
    static const char *const names[] = { "first_narrow", "first_wide" };
    cli_table *table = cli_table_create("<width|steady|first after a switch|ratio|after other memory was read|ratio");
    for (int wide = 0; wide < 2; wide++) {
        const double steady = bench_median(x->steady[wide], x->n_steady[wide]);
        const double first = bench_median(x->first[wide], x->n_first[wide]);
        const double cold = bench_median(x->cold[wide], x->n_cold[wide]);
        cli_table_cell(table, "%s", widths[wide ? WIDE : NARROW].name);
        cli_table_cell(table, "%s", cli_seconds(steady).text);
        cli_table_cell(table, "%s", cli_seconds(first).text);
        cli_table_cell(table, "%.3f", first / steady);
        cli_table_cell(table, "%s", cli_seconds(cold).text);
        cli_table_cell(table, "%.3f", cold / steady);
        json_object_set_new(out, names[wide],
                            json_pack("{s:f, s:f, s:f, s:f, s:f}", "steady_seconds", steady, "first_seconds", first,
                                      "first_to_steady", first / steady, "cold_seconds", cold, "cold_to_steady",
                                      cold / steady));
    }
    if (!b->json) {
        printf("\n");
        cli_table_print(table, stdout);
    }
    cli_table_free(table);
}

mf_status bench_switch(const bench *b, json_t *out, mf_error *error)
{
    stage s;
    samples x = { .n_first = { 0 } };
    bench_title(b, "Switch: a timeline that changes its width, 1/8 and 1 of d_ff, %u threads", b->n_thread);
    mf_status status = open_stage(&s, b, error);
    x.other = malloc(OTHER_BYTES);
    if (status == MF_OK && !x.other) status = error->status = MF_E_NOMEM;
    if (x.other) memset(x.other, 1, OTHER_BYTES);
    for (uint32_t round = 0; round < b->rounds && status == MF_OK; round++)
        for (int q = 0; q < N_SEQUENCE && status == MF_OK; q++) {
            cli_progress("switch", round, b->rounds);
            status = time_sequence(&s, q, &x, round, error);
        }
    cli_progress_end();
    if (status == MF_OK) {
        json_t *object = json_object();
        report_sequences(b, &x, object);
        report_first_tokens(b, &x, object);
        json_object_set_new(out, "switch", object);
    }
    free(x.other);
    close_stage(&s);
    return status;
}
