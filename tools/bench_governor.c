/* bench_governor.c - a governor at work: sessions write, one row of a batch each, while the load changes in steps: more
 * sessions come and go, and threads of no use compete for the processor. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "bench.h"

enum { MAX_SESSION = 64, MAX_SPINNER = 16, MAX_RUNG = 16, MAX_SAMPLE = 8192, CALIBRATIONS = 5 };

#define SAMPLE_SECONDS 0.25 /* of which speeds are means */
#define SETTLE_SECONDS 0.75 /* after a step of the load, that do not count as held or missed */
#define TARGET_SHARE 0.7    /* of the widest size's speed under the first load */

static const struct load_phase {
    uint32_t n_session;
    bool competition;
} phases[] = { { 4, false }, { 6, false }, { 8, false }, { 4, false },
               { 4, true },  { 4, false }, { 8, false }, { 4, false } };

typedef struct writer {
    mf_session *session;
    uint32_t member;
    int32_t token;
    float *logits; /* [n_vocab] */
} writer;

typedef struct sample {
    double at, tokens_per_second, narrowing, bytes_share;
    uint32_t phase;
    bool settled;
} sample;

typedef struct governed_run {
    const bench *b;
    mf_executor *executor;
    mf_governor *governor;
    mf_submodel *rungs[MAX_RUNG];
    double rung_bytes[MAX_RUNG];
    size_t n_rung;
    writer writers[MAX_SESSION];
    uint32_t n_writer, n_ready; /* that write now; that have joined */
    double target;
    atomic_bool stop_spinning;
    pthread_t spinners[MAX_SPINNER];
    uint32_t n_spinner;
    sample *samples; /* [MAX_SAMPLE] */
    size_t n_sample;
} governed_run;

/* ---- Load ---- */

static void *spin(void *user)
{
    const atomic_bool *stop = user;
    volatile uint64_t n = 0;
    while (!atomic_load_explicit(stop, memory_order_relaxed))
        n = n + 1;
    return NULL;
}

static void stop_spinners(governed_run *r)
{
    atomic_store(&r->stop_spinning, true);
    while (r->n_spinner > 0)
        pthread_join(r->spinners[--r->n_spinner], NULL);
}

static mf_status start_spinners(governed_run *r, uint32_t n)
{
    atomic_store(&r->stop_spinning, false);
    while (r->n_spinner < n && r->n_spinner < MAX_SPINNER) {
        if (pthread_create(&r->spinners[r->n_spinner], NULL, spin, &r->stop_spinning) != 0) return MF_E_THREAD;
        r->n_spinner++;
    }
    return MF_OK;
}

static mf_status set_load(governed_run *r, const struct load_phase *phase, mf_error *error)
{
    stop_spinners(r);
    mf_status status = start_spinners(r, phase->competition ? r->b->n_thread : 0);
    while (status == MF_OK && r->governor && r->n_ready < phase->n_session) {
        status = mf_governor_join(r->governor, NULL, &r->writers[r->n_ready].member, error);
        r->n_ready += status == MF_OK;
    }
    while (r->governor && r->n_ready > phase->n_session)
        mf_governor_leave(r->governor, r->writers[--r->n_ready].member);
    r->n_writer = phase->n_session;
    return status;
}

/* ---- Writing ---- */

static int32_t likeliest(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

static mf_status open_writers(governed_run *r, mf_error *error)
{
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < MAX_SESSION && status == MF_OK; i++) {
        writer *w = &r->writers[i];
        w->token = (int32_t)(i * 7 % r->b->info.n_vocab); /* so that texts differ */
        w->logits = malloc(r->b->info.n_vocab * sizeof(*w->logits));
        status = w->logits ? mf_session_create(&w->session, r->b->model, NULL, error) : (error->status = MF_E_NOMEM);
    }
    return status;
}

static const mf_submodel *view_of(const governed_run *r, const writer *w)
{
    const mf_submodel *view = r->rungs[r->n_rung - 1];
    if (r->governor) mf_governor_choose(r->governor, w->member, &view);
    return view;
}

/* A token for each. */
static mf_status write_token(governed_run *r, mf_error *error)
{
    mf_request requests[MAX_SESSION] = { { 0 } };
    for (uint32_t i = 0; i < r->n_writer; i++) {
        writer *w = &r->writers[i];
        if (mf_session_position(w->session) >= r->b->info.max_positions) mf_session_rewind(w->session, 0);
        requests[i].session = w->session;
        requests[i].submodel = view_of(r, w);
        requests[i].tokens = &w->token;
        requests[i].n_token = 1;
        requests[i].logits = w->logits;
        requests[i].logits_capacity = r->b->info.n_vocab;
    }
    mf_status status = mf_forward(r->executor, requests, r->n_writer, sizeof(*requests), error);
    for (uint32_t i = 0; i < r->n_writer && status == MF_OK; i++)
        r->writers[i].token = likeliest(r->writers[i].logits, r->b->info.n_vocab);
    return status;
}

static void report(governed_run *r, double seconds)
{
    uint32_t members[MAX_SESSION];
    mf_governor_step step = MF_GOVERNOR_STEP_INIT;
    for (uint32_t i = 0; i < r->n_writer; i++)
        members[i] = r->writers[i].member;
    step.members = members;
    step.n_member = r->n_writer;
    step.elapsed_ns = (uint64_t)(seconds * 1e9);
    mf_governor_report(r->governor, &step);
}

/* ---- A run ---- */

/* Tokens a second of one session at the widest size: the best of several attempts, since the first ones touch memory. */
static mf_status calibrate(governed_run *r, double *speed, mf_error *error)
{
    mf_status status = set_load(r, &phases[0], error);
    *speed = 0;
    for (int attempt = 0; attempt < CALIBRATIONS && status == MF_OK; attempt++) {
        double began = cli_now(), tokens = 0;
        for (; status == MF_OK && cli_now() - began < SAMPLE_SECONDS; tokens++)
            status = write_token(r, error);
        double reached = tokens / (cli_now() - began);
        if (reached > *speed) *speed = reached;
    }
    return status;
}

static double mean_bytes_share(const governed_run *r)
{
    double sum = 0;
    for (uint32_t i = 0; i < r->n_writer; i++) {
        const mf_submodel *view = view_of(r, &r->writers[i]);
        for (size_t k = 0; k < r->n_rung; k++)
            if (r->rungs[k] == view) sum += r->rung_bytes[k] / r->rung_bytes[r->n_rung - 1];
    }
    return sum / r->n_writer;
}

static void take_sample(governed_run *r, uint32_t phase, double at, double phase_began, double speed)
{
    mf_governor_info info = MF_GOVERNOR_INFO_INIT;
    mf_governor_info_get(r->governor, &info);
    if (r->n_sample == MAX_SAMPLE) return;
    r->samples[r->n_sample++] = (sample){ .at = at,
                                          .tokens_per_second = speed,
                                          .narrowing = info.narrowing,
                                          .bytes_share = mean_bytes_share(r),
                                          .phase = phase,
                                          .settled = at - SAMPLE_SECONDS >= phase_began + SETTLE_SECONDS };
}

static mf_status run_phase(governed_run *r, uint32_t phase, double began, mf_error *error)
{
    mf_status status = set_load(r, &phases[phase], error);
    double phase_began = cli_now(), last = phase_began, sampled = phase_began, tokens = 0;
    while (status == MF_OK && last - phase_began < r->b->phase_seconds) {
        status = write_token(r, error);
        double now = cli_now();
        if (status == MF_OK) report(r, now - last);
        last = now;
        tokens++;
        if (now - sampled < SAMPLE_SECONDS) continue;
        take_sample(r, phase, now - began, phase_began - began, tokens / (now - sampled));
        sampled = now;
        tokens = 0;
    }
    return status;
}

static mf_status open_ladder(governed_run *r, mf_error *error)
{
    mf_status status = MF_OK;
    uint32_t n = cli_usable_granularities(r->b->model);
    for (uint32_t i = 0; i < n && i < MAX_RUNG && status == MF_OK; i++) {
        mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
        status = mf_extract_submodel_text(&r->rungs[i], r->b->model, mf_model_granularity(r->b->model, i), error);
        if (status != MF_OK) break;
        mf_submodel_info_get(r->rungs[i], &info);
        r->rung_bytes[r->n_rung++] = (double)info.bytes_per_token;
    }
    return status;
}

static mf_status govern(governed_run *r, mf_error *error)
{
    mf_executor_options executor = MF_EXECUTOR_OPTIONS_INIT;
    /* Of half the cores: competition for all of them then takes a part of each, rather than let every barrier wait. */
    executor.n_thread = r->b->n_thread > 1 ? r->b->n_thread / 2 : 1;
    mf_status status = open_ladder(r, error);
    if (status == MF_OK) status = mf_executor_create(&r->executor, r->b->model, &executor, error);
    if (status == MF_OK) status = open_writers(r, error);
    double speed = 0;
    r->target = r->b->target;
    if (status == MF_OK && r->target == 0) {
        status = calibrate(r, &speed, error);
        r->target = TARGET_SHARE * speed;
    }
    mf_governor_options options = MF_GOVERNOR_OPTIONS_INIT;
    options.rungs = (const mf_submodel *const *)r->rungs;
    options.n_rung = r->n_rung;
    options.tokens_per_second = r->target;
    options.max_members = MAX_SESSION;
    if (status == MF_OK) status = mf_governor_create(&r->governor, &options, error);
    double began = cli_now();
    for (uint32_t p = 0; p < CLI_COUNT(phases) && status == MF_OK; p++) {
        cli_progress("governing", p, (double)CLI_COUNT(phases));
        status = run_phase(r, p, began, error);
    }
    cli_progress_end();
    return status;
}

/* ---- Results ---- */

typedef struct summary {
    double n, held, speed, bytes_share;
} summary;

static summary summarize(const governed_run *r, int phase) /* -1: all */
{
    summary s = { 0, 0, 0, 0 };
    for (size_t i = 0; i < r->n_sample; i++) {
        const sample *at = &r->samples[i];
        if (!at->settled || (phase >= 0 && at->phase != (uint32_t)phase)) continue;
        s.n++;
        s.held += at->tokens_per_second >= r->target;
        s.speed += at->tokens_per_second;
        s.bytes_share += at->bytes_share;
    }
    double n = s.n > 0 ? s.n : 1;
    return (summary){ s.n, s.held / n, s.speed / n, s.bytes_share / n };
}

static void print_run(const governed_run *r, const mf_governor_info *info)
{
    bench_title(
        r->b, "A governor holds %.0f tokens/s for each session; %.2g s for each load, of which the first %.2g s settle",
        r->target, r->b->phase_seconds, SETTLE_SECONDS);
    cli_table *table = cli_table_create("sessions|competing threads|tokens/s each|weights read|target held");
    for (size_t p = 0; p < CLI_COUNT(phases); p++) {
        summary s = summarize(r, (int)p);
        cli_table_cell(table, "%u", phases[p].n_session);
        cli_table_cell(table, "%u", phases[p].competition ? r->b->n_thread : 0);
        cli_table_cell(table, "%.0f", s.speed);
        cli_table_cell(table, "%.0f %%", 100 * s.bytes_share);
        cli_table_cell(table, "%.0f %%", 100 * s.held);
    }
    cli_table_print(table, stdout);
    cli_table_free(table);
    summary all = summarize(r, -1);
    printf("\nheld in %.1f %% of %.0f means over %.2g s; narrowed %llu times, widened %llu times\n", 100 * all.held,
           all.n, SAMPLE_SECONDS, (unsigned long long)info->n_narrowed, (unsigned long long)info->n_widened);
}

static json_t *samples_json(const governed_run *r)
{
    json_t *samples = json_array();
    for (size_t i = 0; i < r->n_sample; i++) {
        const sample *s = &r->samples[i];
        json_array_append_new(samples, json_pack("{s:f, s:i, s:i, s:f, s:f, s:f, s:b}", "seconds", s->at, "sessions",
                                                 (int)phases[s->phase].n_session, "spinners",
                                                 phases[s->phase].competition ? (int)r->b->n_thread : 0,
                                                 "tokens_per_second", s->tokens_per_second, "narrowing", s->narrowing,
                                                 "bytes_share", s->bytes_share, "settled", (int)s->settled));
    }
    return samples;
}

static void add_json(const governed_run *r, const mf_governor_info *info, json_t *out)
{
    summary all = summarize(r, -1);
    json_object_set_new(out, "governor",
                        json_pack("{s:f, s:f, s:f, s:f, s:I, s:I, s:o}", "target_tokens_per_second", r->target,
                                  "held_share", all.held, "phase_seconds", r->b->phase_seconds, "settle_seconds",
                                  SETTLE_SECONDS, "narrowed", (json_int_t)info->n_narrowed, "widened",
                                  (json_int_t)info->n_widened, "samples", samples_json(r)));
}

static void close_run(governed_run *r)
{
    stop_spinners(r);
    mf_governor_close(r->governor);
    for (size_t i = 0; i < MAX_SESSION; i++) {
        mf_session_close(r->writers[i].session);
        free(r->writers[i].logits);
    }
    mf_executor_close(r->executor);
    for (size_t i = 0; i < r->n_rung; i++)
        mf_submodel_close(r->rungs[i]);
    free(r->samples);
    free(r);
}

mf_status bench_governor(const bench *b, json_t *out, mf_error *error)
{
    governed_run *r = calloc(1, sizeof(*r));
    if (!r) return error->status = MF_E_NOMEM;
    r->b = b;
    r->samples = calloc(MAX_SAMPLE, sizeof(*r->samples));
    mf_status status = r->samples ? govern(r, error) : (error->status = MF_E_NOMEM);
    if (status == MF_OK) {
        mf_governor_info info = MF_GOVERNOR_INFO_INIT;
        mf_governor_info_get(r->governor, &info);
        if (!b->json) print_run(r, &info);
        add_json(r, &info, out);
    }
    close_run(r);
    return status;
}
