/* bench_decode.c - one token at a time, which memory bounds, and whole prompts, which arithmetic bounds. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"

enum { MAX_ROUND = 100, PREFILL_TOKENS = 512, CONTEXT = 16 };

typedef struct point {
    double ratio; /* of the width */
    mf_submodel *view;
    mf_submodel_info info;
    double width; /* hidden units of all layers */
    double seconds[MAX_ROUND], read[BENCH_READS][MAX_ROUND], peak[MAX_ROUND], dot_peak[MAX_ROUND];
    double pairs_peak[MAX_ROUND]; /* zeros where the model's arithmetic is exact */
} point;

typedef struct runner {
    const bench *b;
    mf_executor *executor;
    mf_session *session;
    float *logits;
    int32_t tokens[PREFILL_TOKENS];
    bench_roof *roof;
    point *points; /* [b->n_width], narrowest first */
} runner;

/* ---- Running ---- */

static mf_status open_point(const bench *b, point *p, double ratio, mf_error *error)
{
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    spec.ratio = p->ratio = ratio;
    mf_status status = mf_extract_submodel(&p->view, b->model, &spec, error);
    if (status != MF_OK) return status;
    p->info = (mf_submodel_info)MF_SUBMODEL_INFO_INIT;
    mf_submodel_info_get(p->view, &p->info);
    uint32_t ffn;
    for (uint32_t layer = 0; mf_submodel_layer(p->view, layer, &ffn, NULL, NULL) == MF_OK; layer++)
        p->width += ffn;
    return MF_OK;
}

static mf_status open_runner(runner *r, size_t roof_bytes, mf_error *error)
{
    mf_executor_options executor = MF_EXECUTOR_OPTIONS_INIT;
    mf_session_options session = MF_SESSION_OPTIONS_INIT;
    executor.n_thread = r->b->n_thread;
    executor.max_requests = 1;
    session.max_positions = PREFILL_TOKENS + CONTEXT;
    for (size_t i = 0; i < PREFILL_TOKENS; i++)
        r->tokens[i] = (int32_t)(i * 7919 % r->b->info.n_vocab);
    r->points = calloc(r->b->n_width, sizeof(*r->points));
    r->logits = malloc(r->b->info.n_vocab * sizeof(*r->logits));
    r->roof = bench_roof_create(r->b->n_thread, roof_bytes);
    if (!r->points || !r->logits || !r->roof) return error->status = MF_E_NOMEM;
    mf_status status = mf_executor_create(&r->executor, r->b->model, &executor, error);
    if (status == MF_OK) status = mf_session_create(&r->session, r->b->model, &session, error);
    for (uint32_t i = 0; i < r->b->n_width && status == MF_OK; i++)
        status = open_point(r->b, &r->points[i], (double)(i + 1) / r->b->n_width, error);
    return status;
}

static void close_runner(runner *r)
{
    for (uint32_t i = 0; r->points && i < r->b->n_width; i++)
        mf_submodel_close(r->points[i].view);
    mf_session_close(r->session);
    mf_executor_close(r->executor);
    bench_roof_free(r->roof);
    free(r->points);
    free(r->logits);
}

/* Appends `n` tokens and takes them back. */
static mf_status forward(runner *r, const mf_submodel *view, size_t n, double *seconds, mf_error *error)
{
    mf_request request = { .session = r->session,
                           .submodel = view,
                           .tokens = r->tokens,
                           .n_token = n,
                           .logits = r->logits,
                           .logits_capacity = r->b->info.n_vocab };
    uint32_t position = mf_session_position(r->session);
    double began = cli_now();
    mf_status status = mf_forward(r->executor, &request, 1, sizeof(request), error);
    *seconds = cli_now() - began;
    return status == MF_OK ? mf_session_rewind(r->session, position) : status;
}

/* The first token at a width brings its weights to whatever cache holds them; the second is measured. The
 * buffers of the roof are read as often. */
static mf_status measure_decode(runner *r, point *p, uint32_t round, mf_error *error)
{
    double unused;
    mf_status status = forward(r, p->view, 1, &unused, error);
    if (status == MF_OK) status = forward(r, p->view, 1, &p->seconds[round], error);
    size_t bytes = (size_t)p->info.bytes_per_token;
    for (int i = 0; i < BENCH_READS; i++) {
        bench_roof_read(r->roof, bytes, bench_reads[i]);
        p->read[i][round] = bench_roof_read(r->roof, bytes, bench_reads[i]);
    }
    return status;
}

static mf_status measure_prefill(runner *r, point *p, uint32_t round, mf_error *error)
{
    p->peak[round] = bench_roof_fma(r->roof);
    p->dot_peak[round] = bench_roof_dot(r->roof);
    p->pairs_peak[round] = r->b->info.arithmetic == MF_ARITHMETIC_FAST ? bench_roof_pairs(r->roof) : 0;
    return forward(r, p->view, PREFILL_TOKENS, &p->seconds[round], error);
}

static mf_status measure(runner *r, const char *what, mf_status (*one)(runner *, point *, uint32_t, mf_error *),
                         mf_error *error)
{
    mf_status status = MF_OK;
    for (uint32_t round = 0; round < r->b->rounds && status == MF_OK; round++)
        for (uint32_t i = 0; i < r->b->n_width && status == MF_OK; i++) {
            cli_progress(what, round * r->b->n_width + i, r->b->rounds * r->b->n_width);
            status = one(r, &r->points[i], round, error);
        }
    cli_progress_end();
    return status;
}

/* ---- The straight line ---- */

typedef struct line {
    double constant, slope; /* seconds; seconds per hidden unit */
    double worst;           /* largest deviation, relative to the line */
    double rest; /* seconds of `constant` beyond reading what every width reads, as fast as hidden units are */
} line;

/* Bytes and width are on a line of their own, exactly. */
static double beyond_reading(const line *l, const point *first, const point *last)
{
    const double bytes = (double)last->info.bytes_per_token - (double)first->info.bytes_per_token;
    const double bytes_per_unit = bytes / (last->width - first->width);
    const double constant_bytes = (double)first->info.bytes_per_token - bytes_per_unit * first->width;
    return l->constant - constant_bytes / bytes_per_unit * l->slope;
}

/* Least squares of the relative deviation: each point weighs 1 / seconds^2. */
static line fit_line(const point *points, uint32_t n, const double *seconds)
{
    double w = 0, x = 0, y = 0, xx = 0, xy = 0;
    for (uint32_t i = 0; i < n; i++) {
        double weight = 1 / (seconds[i] * seconds[i]);
        w += weight;
        x += weight * points[i].width;
        y += weight * seconds[i];
        xx += weight * points[i].width * points[i].width;
        xy += weight * points[i].width * seconds[i];
    }
    line l = { 0 };
    l.slope = (w * xy - x * y) / (w * xx - x * x);
    l.constant = (y - l.slope * x) / w;
    for (uint32_t i = 0; i < n; i++) {
        double on_line = l.constant + l.slope * points[i].width;
        l.worst = fmax(l.worst, fabs(seconds[i] - on_line) / on_line);
    }
    l.rest = beyond_reading(&l, &points[0], &points[n - 1]);
    return l;
}

/* ---- Decode ---- */

static double best_read(point *p, uint32_t rounds)
{
    return (double)p->info.bytes_per_token / bench_least_median(p->read[0], BENCH_READS, MAX_ROUND, rounds);
}

static void report_line(const runner *r, const double *seconds, json_t *decode)
{
    line l = fit_line(r->points, r->b->n_width, seconds);
    if (!r->b->json) {
        printf("Time is %s + %s per 1000 hidden units; no point is farther than %.1f %% from that line.\n",
               cli_seconds(l.constant).text, cli_seconds(1000 * l.slope).text, 100 * l.worst);
        printf("Reading what every width reads, as fast as hidden units are, leaves %.0f us of it.\n", 1e6 * l.rest);
    }
    json_object_set_new(decode, "line",
                        json_pack("{s:f, s:f, s:f, s:f}", "constant_seconds", l.constant, "seconds_per_unit", l.slope,
                                  "worst_deviation", l.worst, "constant_beyond_reading_seconds", l.rest));
}

static void report_decode(runner *r, json_t *out)
{
    cli_table *table = cli_table_create("width|read per token|time|tokens/s|GB/s|roof GB/s|share of roof");
    json_t *list = json_array();
    double seconds[BENCH_MOST_WIDTHS];
    for (uint32_t i = 0; i < r->b->n_width; i++) {
        point *p = &r->points[i];
        seconds[i] = bench_median(p->seconds, r->b->rounds);
        double bytes = (double)p->info.bytes_per_token, rate = bytes / seconds[i], roof = best_read(p, r->b->rounds);
        cli_table_cell(table, "%.3f", p->ratio);
        cli_table_cell(table, "%s", cli_bytes(bytes).text);
        cli_table_cell(table, "%s", cli_seconds(seconds[i]).text);
        cli_table_cell(table, "%.1f", 1 / seconds[i]);
        cli_table_cell(table, "%.1f", 1e-9 * rate);
        cli_table_cell(table, "%.1f", 1e-9 * roof);
        cli_table_cell(table, "%.0f %%", 100 * rate / roof);
        json_array_append_new(list, json_pack("{s:f, s:f, s:I, s:f, s:f, s:f, s:f}", "ratio", p->ratio, "width",
                                              p->width, "bytes_per_token", (json_int_t)p->info.bytes_per_token,
                                              "seconds", seconds[i], "bytes_per_second", rate, "roof_bytes_per_second",
                                              roof, "share_of_roof", rate / roof));
    }
    if (!r->b->json) cli_table_print(table, stdout);
    cli_table_free(table);
    json_t *decode = json_pack("{s:o}", "points", list);
    if (r->b->n_width > 1) report_line(r, seconds, decode);
    json_object_set_new(out, "decode", decode);
}

mf_status bench_decode(const bench *b, json_t *out, mf_error *error)
{
    runner r = { .b = b };
    bench_title(b,
                "Decode: one token at a time, %u threads. Roof: reading as many bytes with %s, the best of 1, 4 and 8 "
                "streams with and without prefetch",
                b->n_thread, bench_roof_cpu());
    double unused;
    mf_status status = open_runner(&r, (size_t)b->info.weight_bytes, error);
    if (status == MF_OK) status = forward(&r, r.points[b->n_width - 1].view, 1, &unused, error);
    if (status == MF_OK) status = measure(&r, "decode", measure_decode, error);
    if (status == MF_OK) report_decode(&r, out);
    close_runner(&r);
    return status;
}

/* ---- Prefill ---- */

/* Arithmetic of the matrices: the layers for every token, the output matrix for the last alone. */
static double prefill_operations(const point *p)
{
    double body = 2 * (double)p->info.n_param_body;
    return body * PREFILL_TOKENS + (double)p->info.flops_per_token - body;
}

static void report_prefill(runner *r, json_t *out)
{
    const bool pairs = bench_median(r->points[0].pairs_peak, r->b->rounds) > 0;
    cli_table *table =
        cli_table_create(pairs ? "width|time|tokens/s|GFLOP/s|f32 peak|share of it|int8 peak, GOP/s|share "
                                 "of it|bf16 peak|share of it"
                               : "width|time|tokens/s|GFLOP/s|f32 peak|share of it|int8 peak, GOP/s|share "
                                 "of it");
    json_t *list = json_array();
    for (uint32_t i = 0; i < r->b->n_width; i++) {
        point *p = &r->points[i];
        double seconds = bench_median(p->seconds, r->b->rounds), peak = bench_median(p->peak, r->b->rounds);
        double rate = prefill_operations(p) / seconds, dot_peak = bench_median(p->dot_peak, r->b->rounds);
        cli_table_cell(table, "%.3f", p->ratio);
        cli_table_cell(table, "%s", cli_seconds(seconds).text);
        cli_table_cell(table, "%.1f", PREFILL_TOKENS / seconds);
        cli_table_cell(table, "%.1f", 1e-9 * rate);
        cli_table_cell(table, "%.1f", 1e-9 * peak);
        cli_table_cell(table, "%.0f %%", 100 * rate / peak);
        cli_table_cell(table, "%.1f", 1e-9 * dot_peak);
        cli_table_cell(table, "%.0f %%", 100 * rate / dot_peak);
        json_t *entry = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "ratio", p->ratio, "seconds", seconds,
                                  "tokens_per_second", PREFILL_TOKENS / seconds, "flops_per_second", rate,
                                  "peak_flops_per_second", peak, "share_of_peak", rate / peak, "int8_peak_per_second",
                                  dot_peak, "share_of_int8_peak", rate / dot_peak);
        json_array_append_new(list, entry);
        if (!pairs) continue;
        const double pairs_peak = bench_median(p->pairs_peak, r->b->rounds);
        cli_table_cell(table, "%.1f", 1e-9 * pairs_peak);
        cli_table_cell(table, "%.0f %%", 100 * rate / pairs_peak);
        json_object_set_new(entry, "bf16_peak_per_second", json_real(pairs_peak));
        json_object_set_new(entry, "share_of_bf16_peak", json_real(rate / pairs_peak));
    }
    if (!r->b->json) cli_table_print(table, stdout);
    cli_table_free(table);
    json_object_set_new(out, "prefill", json_pack("{s:i, s:o}", "tokens", PREFILL_TOKENS, "points", list));
}

mf_status bench_prefill(const bench *b, json_t *out, mf_error *error)
{
    runner r = { .b = b };
    bench_title(
        b,
        "Prefill: a prompt of %d tokens, %u threads. Peaks with %s: f32 multiply-adds, dot products of bytes, and "
        "of bf16 pairs where the arithmetic is fast",
        PREFILL_TOKENS, b->n_thread, bench_roof_cpu());
    double unused;
    mf_status status = open_runner(&r, 1 << 20, error);
    if (status == MF_OK) status = forward(&r, r.points[b->n_width - 1].view, PREFILL_TOKENS, &unused, error);
    if (status == MF_OK) status = measure(&r, "prefill", measure_prefill, error);
    if (status == MF_OK) report_prefill(&r, out);
    close_runner(&r);
    return status;
}
