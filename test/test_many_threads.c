/* test_many_threads.c - 64 threads on one model, each with a session, a view and an executor of its own, and
 * some with a view that others use too. Each must say what it says alone. Made for ThreadSanitizer. */
#include "host_threads.h"
#include "run_model.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 64, LENGTH = 70 };

/* One thread's work. Criterion's assertions are for the main thread, so that failures are carried home. */
typedef struct job {
    mf_model *model;
    mf_submodel *shared; /* the view to use, or NULL: take `widths` */
    widths widths;
    const int32_t *tokens; /* [LENGTH] */
    const outputs *expected;
    const char *failure; /* NULL: none */
} job;

static mf_status run_piece(mf_executor *executor, mf_session *session, const mf_submodel *view, const int32_t *tokens,
                           size_t n, outputs *out)
{
    uint32_t at = mf_session_position(session);
    mf_request request = request_all(session, view, tokens + at, n, out, at);
    return mf_forward(executor, &request, 1, sizeof(request), NULL);
}

static const char *work_with(job *j, mf_executor *executor, mf_session *session, const mf_submodel *view, outputs *out)
{
    static const size_t pieces[] = { 30, 1, 1, 33, 5 };
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++)
        if (run_piece(executor, session, view, j->tokens, pieces[i], out) != MF_OK) return "forward failed";
    if (!same_bits(out, j->expected)) return "differs from its single-threaded run";
    mf_session *fork = NULL;
    if (mf_session_fork(&fork, session, NULL) != MF_OK) return "fork failed";
    bool again = mf_session_rewind(fork, 20) == MF_OK &&
                 run_piece(executor, fork, view, j->tokens, LENGTH - 20, out) == MF_OK && same_bits(out, j->expected);
    mf_session_close(fork);
    return again ? NULL : "differs after a fork and a rewind";
}

static mf_submodel *take(const job *j)
{
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    mf_submodel *view = NULL;
    spec.ffn = j->widths.ffn;
    spec.n_ffn = j->widths.n_layer;
    spec.heads = j->widths.heads;
    spec.n_heads = j->widths.n_layer;
    return mf_extract_submodel(&view, j->model, &spec, NULL) == MF_OK ? view : NULL;
}

static void *work(void *user)
{
    job *j = user;
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    mf_executor *executor = NULL;
    mf_session *session = NULL;
    mf_submodel *own = j->shared ? NULL : take(j), *view = j->shared ? j->shared : own;
    outputs out = new_outputs(j->model, LENGTH);
    options.n_thread = 1;
    options.max_tokens = 32;
    if (!view || mf_executor_create(&executor, j->model, &options, NULL) != MF_OK ||
        mf_session_create(&session, j->model, NULL, NULL) != MF_OK)
        j->failure = "could not be set up";
    else
        j->failure = work_with(j, executor, session, view, &out);
    drop_outputs(&out);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(own);
    return NULL;
}

static void run_jobs(job *jobs, size_t n)
{
    pthread_t threads[THREADS];
    for (size_t i = 0; i < n; i++)
        cr_assert(pthread_create(&threads[i], NULL, work, &jobs[i]) == 0);
    for (size_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < n; i++)
        cr_assert(!jobs[i].failure, "thread %zu %s", i, jobs[i].failure);
}

Test(many_threads, each_equals_its_single_threaded_run)
{
    random_model random;
    rng r = { 5 };
    random_shape shape = { "small", 2, 32, 32, 4, 2, 128, 61, 96, 3, MFI_NORM_RMS, MFI_FFN_GATED, MFK_SILU, true, 0 };
    cr_assert(random_model_init_shape(&random, &shape, 5) == MF_OK);
    for (uint64_t budget = 0; budget < 2; budget++) { /* pages reserved; and from a budget that suffices */
        model_file file = make_random_file(&random, budget ? MFK_BF16 : MFK_F32, MFI_RAW, false);
        mf_model_options options = MF_MODEL_OPTIONS_INIT;
        options.cache_bytes = budget * ((uint64_t)256 << 20);
        mf_model *model = NULL;
        cr_assert(mf_model_open_memory(&model, file.data, file.bytes, &options, NULL) == MF_OK);
        int32_t *tokens = new_tokens(model, LENGTH, &r);
        job jobs[THREADS] = { 0 };
        outputs expected[THREADS];
        mf_submodel *shared = NULL;
        for (uint32_t i = 0; i < THREADS; i++) {
            job *j = &jobs[i];
            *j = (job){ .model = model, .tokens = tokens, .expected = &expected[i] };
            j->widths = random_widths(&random.config, &r);
            mf_submodel *view = take(j);
            cr_assert(view);
            expected[i] = run_alone(model, view, tokens, LENGTH);
            if (i == 0)
                shared = view;
            else
                mf_submodel_close(view);
            if (i % 4 == 0) {
                j->shared = shared;
                j->expected = &expected[0];
            }
        }
        run_jobs(jobs, THREADS);
        for (uint32_t i = 0; i < THREADS; i++)
            drop_outputs(&expected[i]);
        mf_submodel_close(shared);
        free(tokens);
        mf_model_close(model);
        drop_file(&file);
    }
    random_model_free(&random);
}

/* ---- One executor, many callers ---- */

typedef struct caller {
    mf_executor *executor;
    mf_submodel *view;
    mf_session *session;
    const int32_t *tokens;
    outputs out;
    mf_status unexpected;
} caller;

static void *call_until_done(void *user)
{
    caller *c = user;
    while (mf_session_position(c->session) < LENGTH && c->unexpected == MF_OK) {
        mf_status status = run_piece(c->executor, c->session, c->view, c->tokens, 1, &c->out);
        if (status != MF_E_BUSY) c->unexpected = status;
    }
    return NULL;
}

Test(many_threads, an_executor_does_not_mix_up_its_callers)
{
    enum { CALLERS = 4 };
    random_model random;
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 6) == MF_OK);
    model_file file = make_random_file(&random, MFK_F32, MFI_RAW, false);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *view = take_named(model, "M");
    mf_executor *executor = new_executor(model, 2, 0);
    int32_t *tokens = new_tokens(model, LENGTH, &(rng){ 6 });
    outputs expected = run_alone(model, view, tokens, LENGTH);
    caller callers[CALLERS];
    pthread_t threads[CALLERS];
    for (uint32_t i = 0; i < CALLERS; i++) {
        callers[i] = (caller){ executor, view, new_session(model), tokens, new_outputs(model, LENGTH), MF_OK };
        cr_assert(pthread_create(&threads[i], NULL, call_until_done, &callers[i]) == 0);
    }
    for (uint32_t i = 0; i < CALLERS; i++) {
        pthread_join(threads[i], NULL);
        cr_assert(callers[i].unexpected == MF_OK && same_bits(&callers[i].out, &expected), "caller %u", i);
        mf_session_close(callers[i].session);
        drop_outputs(&callers[i].out);
    }
    drop_outputs(&expected);
    free(tokens);
    mf_executor_close(executor);
    mf_submodel_close(view);
    mf_model_close(model);
    drop_file(&file);
    random_model_free(&random);
}

typedef struct runner {
    mf_executor *executor;
    mf_session *session;
    const mf_submodel *view;
    atomic_bool stop;
} runner;

static void *run_until_stopped(void *user)
{
    runner *r = user;
    const int32_t tokens[] = { 1, 2, 3 };
    while (!r->stop) {
        mf_request request = { .session = r->session, .submodel = r->view, .tokens = tokens, .n_token = 3 };
        mf_session_rewind(r->session, 0);
        mf_forward(r->executor, &request, 1, sizeof(request), NULL);
    }
    return NULL;
}

/* However the threads are scheduled: one runs until the other, whose calls have no requests, was told so. */
Test(many_threads, an_executor_in_use_says_busy)
{
    random_model random;
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 7) == MF_OK);
    model_file file = make_random_file(&random, MFK_F32, MFI_RAW, false);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *view = take_named(model, "M");
    runner r = { new_executor(model, 1, 0), new_session(model), view, false };
    pthread_t thread;
    cr_assert(mf_forward(r.executor, NULL, 0, sizeof(mf_request), NULL) == MF_E_INVALID);
    cr_assert(pthread_create(&thread, NULL, run_until_stopped, &r) == 0);
    while (mf_forward(r.executor, NULL, 0, sizeof(mf_request), NULL) != MF_E_BUSY)
        sched_yield();
    r.stop = true;
    pthread_join(thread, NULL);
    cr_assert(mf_forward(r.executor, NULL, 0, sizeof(mf_request), NULL) == MF_E_INVALID);
    mf_session_close(r.session);
    mf_executor_close(r.executor);
    mf_submodel_close(view);
    mf_model_close(model);
    drop_file(&file);
    random_model_free(&random);
}

/* ---- The host's threads ---- */

static mf_executor *new_host_executor(mf_model *model, uint32_t n_thread, host *h)
{
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    mf_executor *executor = NULL;
    options.n_thread = n_thread;
    options.parallel_for = host_parallel_for;
    options.parallel_for_user = h;
    cr_assert(mf_executor_create(&executor, model, &options, NULL) == MF_OK);
    return executor;
}

/* Runs the sessions' first tokens one by one, then rows of all of them: few, and many. */
static void run_mixed(mf_executor *executor, mf_session **sessions, mf_submodel **views, size_t n_session,
                      const int32_t *tokens, outputs *out)
{
    enum { ALONE = 3, SINGLE = 20 };
    for (size_t i = 0; i < n_session; i++)
        for (uint32_t n = 0; n < ALONE; n++)
            run_more(executor, sessions[i], views[i], tokens, 1, &out[i]);
    for (uint32_t at = ALONE; at < LENGTH;) {
        mf_request requests[8];
        const uint32_t n = at < SINGLE ? 1 : LENGTH - at;
        for (size_t i = 0; i < n_session; i++)
            requests[i] = request_all(sessions[i], views[i], tokens + at, n, &out[i], at);
        cr_assert(mf_forward(executor, requests, n_session, sizeof(mf_request), NULL) == MF_OK);
        at += n;
    }
}

/* One thread's part of a stage before or after another's, in any order, or at the same time: whatever depends on another
 * thread's part of the same stage shows. Rows are few enough to be computed by every thread, or too many for that. */
Test(many_threads, a_hosts_threads_give_the_same_bits_in_any_order)
{
    enum { MAX_SESSIONS = 6 };
    static const mfk_type types[] = { MFK_F32, MFK_Q8, MFK_BF16, MFK_Q4 };
    for (uint32_t round = 0; round < test_rounds(24); round++) {
        const uint32_t n_thread = 1 + round % 4, n_session = 1 + round % MAX_SESSIONS;
        random_model random;
        rng r = { round };
        cr_assert(random_model_init(&random, 3000 + round) == MF_OK);
        model_file file = make_random_file(&random, types[rng_below(&r, 4)], MFI_RAW, false);
        mf_model *model = open_file(&file, NULL);
        host h = { .kind = (host_kind)(round / 4 % HOST_KINDS), .random = round };
        mf_executor *executor = new_host_executor(model, n_thread, &h);
        int32_t *tokens = new_tokens(model, LENGTH, &r);
        mf_submodel *views[MAX_SESSIONS];
        mf_session *sessions[MAX_SESSIONS];
        outputs out[MAX_SESSIONS];
        for (uint32_t i = 0; i < n_session; i++) {
            const widths w = i == 0 ? granularity_widths(&random.config, 0) : random_widths(&random.config, &r);
            views[i] = take_view(model, &w);
            sessions[i] = new_session(model);
            out[i] = new_outputs(model, LENGTH);
        }
        run_mixed(executor, sessions, views, n_session, tokens, out);
        cr_assert_eq(h.loops > 0, n_thread > 1);
        for (uint32_t i = 0; i < n_session; i++) {
            outputs expected = run_alone(model, views[i], tokens, LENGTH);
            cr_assert(same_bits(&out[i], &expected), "round %u, session %u", round, i);
            drop_outputs(&expected);
            drop_outputs(&out[i]);
            mf_session_close(sessions[i]);
            mf_submodel_close(views[i]);
        }
        free(tokens);
        mf_executor_close(executor);
        mf_model_close(model);
        drop_file(&file);
        random_model_free(&random);
    }
}

/* A host's loops are the stages between which threads meet. Up to eight rows, those of a layer are: norm and the first
 * product; rotation, storing and attention, or where heads do not divide attention apart and then its merging; its
 * output; norm and the FFN's first product; its second. */
Test(many_threads, few_rows_meet_five_times_a_layer)
{
    enum { KV_HEADS = 2, FEW = 8 };
    random_model random;
    random_shape shape = { "small", 5, 32, 32, 4, 2, 128, 61, 96, 3, MFI_NORM_RMS, MFI_FFN_GATED, MFK_SILU, true, 0 };
    cr_assert(random_model_init_shape(&random, &shape, 9) == MF_OK);
    for (uint32_t n_thread = 2; n_thread <= 4; n_thread++)
        for (uint32_t n_row = 1; n_row <= FEW + 1; n_row++) {
            model_file file = make_random_file(&random, n_row % 2 ? MFK_Q8 : MFK_BF16, MFI_RAW, false);
            mf_model *model = open_file(&file, NULL);
            mf_submodel *view = take_named(model, "M");
            mf_session *session = new_session(model);
            host h = { .kind = HOST_SERIAL };
            mf_executor *executor = new_host_executor(model, n_thread, &h);
            const int32_t tokens[FEW + 1] = { 1 };
            mf_request request = { .session = session, .submodel = view, .tokens = tokens, .n_token = n_row };
            cr_assert(mf_forward(executor, &request, 1, sizeof(request), NULL) == MF_OK);
            const uint32_t a_layer = KV_HEADS % n_thread == 0 ? 5 : 7;
            if (n_row <= FEW)
                cr_assert_eq(h.loops, a_layer * shape.n_layer + 1);
            else
                cr_assert_gt(h.loops, 6 * shape.n_layer + 1);
            mf_executor_close(executor);
            mf_session_close(session);
            mf_submodel_close(view);
            mf_model_close(model);
            drop_file(&file);
        }
    random_model_free(&random);
}

typedef struct canceller {
    host h;
    mf_session *session;
    unsigned at_loop; /* in which another thread cancels; 0: none */
} canceller;

static void *cancel_once(void *session)
{
    mf_session_cancel(session);
    return NULL;
}

static void cancel_within(void *user, uint32_t n, mf_task task, void *task_user)
{
    canceller *c = user;
    host_parallel_for(&c->h, n, task, task_user);
    if (c->h.loops != c->at_loop) return;
    pthread_t thread;
    cr_assert(pthread_create(&thread, NULL, cancel_once, c->session) == 0);
    pthread_join(thread, NULL);
}

/* Wherever in a layer another thread cancels, the next layer is not computed beyond the stage that looks for it and the
 * one that was on its way, and the session is as it was. */
Test(many_threads, a_forward_that_another_thread_cancels_ends_between_layers)
{
    enum { LAYERS = 6, A_LAYER = 5 };
    random_model random;
    random_shape shape = {
        "deep", LAYERS, 32, 32, 4, 2, 128, 61, 96, 3, MFI_NORM_RMS, MFI_FFN_GATED, MFK_SILU, true, 0
    };
    cr_assert(random_model_init_shape(&random, &shape, 9) == MF_OK);
    model_file file = make_random_file(&random, MFK_BF16, MFI_RAW, false);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *view = take_named(model, "M");
    canceller c = { .h = { .kind = HOST_THREADED }, .session = new_session(model) };
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    mf_executor *executor = NULL;
    options.n_thread = 2;
    options.parallel_for = cancel_within;
    options.parallel_for_user = &c;
    cr_assert(mf_executor_create(&executor, model, &options, NULL) == MF_OK);
    const int32_t tokens[2] = { 1, 2 };
    mf_request request = { .session = c.session, .submodel = view, .tokens = tokens, .n_token = 2 };
    for (c.at_loop = 1; c.at_loop <= A_LAYER * (LAYERS - 2); c.at_loop++) {
        c.h.loops = 0;
        cr_assert(mf_forward(executor, &request, 1, sizeof(request), NULL) == MF_E_CANCELLED, "loop %u", c.at_loop);
        cr_assert(c.h.loops - c.at_loop <= A_LAYER + 1, "%u loops after loop %u", c.h.loops - c.at_loop, c.at_loop);
        cr_assert(mf_session_position(c.session) == 0 && request.n_token_done == 0);
    }
    c.at_loop = 0;
    cr_assert(mf_forward(executor, &request, 1, sizeof(request), NULL) == MF_OK);
    mf_executor_close(executor);
    mf_session_close(c.session);
    mf_submodel_close(view);
    mf_model_close(model);
    drop_file(&file);
    random_model_free(&random);
}

typedef struct text {
    int32_t tokens[64];
    size_t n;
} text;

static int note_token(void *user, const mf_token_event *event)
{
    text *t = user;
    t->tokens[t->n++] = event->token;
    return 0;
}

/* Wherever another thread cancels while one view drafts and another verifies, what was reported is what there would have
 * been, and the text goes on from there as if nothing had been. */
Test(many_threads, a_drafted_text_that_another_thread_cancels_goes_on_where_it_was)
{
    enum { TOKENS = 24 };
    random_model random;
    random_shape shape = { "small", 3, 32, 32, 4, 2, 128, 61, 96, 3, MFI_NORM_RMS, MFI_FFN_GATED, MFK_SILU, true, 0 };
    cr_assert(random_model_init_shape(&random, &shape, 10) == MF_OK);
    model_file file = make_random_file(&random, MFK_BF16, MFI_RAW, false);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *wide = take_named(model, "L"), *narrow = take_named(model, "S");
    canceller c = { .h = { .kind = HOST_THREADED } };
    mf_executor_options how = MF_EXECUTOR_OPTIONS_INIT;
    mf_executor *executor = NULL;
    how.n_thread = 2;
    how.parallel_for = cancel_within;
    how.parallel_for_user = &c;
    cr_assert(mf_executor_create(&executor, model, &how, NULL) == MF_OK);
    text expected = { .n = 0 };
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.tokens = (const int32_t[]){ 3, 1, 4 };
    options.n_token = 3;
    options.max_tokens = TOKENS;
    options.ignore_eos = 1;
    options.on_token = note_token;
    options.user = &expected;
    c.session = new_session(model);
    cr_assert(mf_generate(executor, c.session, wide, &options, NULL, NULL) == MF_OK && expected.n == TOKENS);
    mf_session_close(c.session);

    unsigned n_cancelled = 0, step = 1 + 24 / test_rounds(2); /* not a multiple of a layer's stages */
    for (unsigned at = 1;; at += step) {
        text found = { .n = 0 };
        mf_generate_options drafted = options;
        drafted.draft = narrow;
        drafted.draft_tokens = 3;
        drafted.user = &found;
        c.session = new_session(model);
        c.h.loops = 0;
        c.at_loop = at;
        const mf_status status = mf_generate(executor, c.session, wide, &drafted, NULL, NULL);
        const bool was_reached = c.h.loops >= at;
        c.at_loop = 0;
        cr_assert(status == MF_OK || (was_reached && status == MF_E_CANCELLED));
        n_cancelled += status != MF_OK;
        if (status != MF_OK) {
            const uint32_t position = mf_session_position(c.session);
            cr_assert_eq(position, found.n > 0 ? 3 + (uint32_t)found.n : position == 0 ? 0 : 3);
            if (position > 0) drafted.n_token = 0;
            drafted.max_tokens = (uint32_t)(TOKENS - found.n);
            if (found.n < TOKENS) cr_assert(mf_generate(executor, c.session, wide, &drafted, NULL, NULL) == MF_OK);
        }
        cr_assert(found.n == TOKENS && memcmp(found.tokens, expected.tokens, sizeof expected.tokens) == 0, "loop %u",
                  at);
        mf_session_close(c.session);
        if (!was_reached) break;
    }
    cr_assert_gt(n_cancelled, 20);
    mf_executor_close(executor);
    mf_submodel_close(narrow);
    mf_submodel_close(wide);
    mf_model_close(model);
    drop_file(&file);
    random_model_free(&random);
}

/* A number of microseconds that means none must not be taken for one. */
Test(many_threads, workers_told_not_to_spin_use_no_processor_time_after_a_call)
{
    random_model random;
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 7) == MF_OK);
    model_file file = make_random_file(&random, MFK_F32, MFI_RAW, false);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *view = take_named(model, "M");
    mf_session *session = new_session(model);
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    mf_executor *executor = NULL;
    options.spin_us = MF_SPIN_NONE;
    cr_assert(mf_executor_create(&executor, model, &options, NULL) == MF_OK);
    mf_request request = { .session = session, .submodel = view, .tokens = (int32_t[]){ 1, 2, 3 }, .n_token = 3 };
    cr_assert(mf_forward(executor, &request, 1, sizeof(request), NULL) == MF_OK);
    const struct timespec pause = { 0, 200 * 1000 * 1000 };
    const clock_t before = clock();
    nanosleep(&pause, NULL);
    cr_assert_lt(clock() - before, CLOCKS_PER_SEC / 20);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(view);
    mf_model_close(model);
    drop_file(&file);
    random_model_free(&random);
}

/* ---- One executor of several threads ---- */

static void *cancel_again_and_again(void *user)
{
    for (int i = 0; i < 50; i++)
        mf_session_cancel(user);
    return NULL;
}

/* Rows of three widths on three threads, prompts beside decoded tokens, then decoded tokens alone; the fourth session
 * is cancelled from outside whenever that comes. */
Test(many_threads, the_threads_of_an_executor_share_a_batch_without_races)
{
    enum { SESSIONS = 4, PIECE = 10, ROUNDS = 18, ROUNDS_WITH_PROMPTS = 12 };
    random_model random;
    random_shape shape = { "small", 2, 32, 32, 4, 2, 128, 61, 96, 3, MFI_NORM_RMS, MFI_FFN_GATED, MFK_SILU, true, 2 };
    static const char *const texts[SESSIONS] = { "S", "M;skip=1", "L;heads=3x2", "L" };
    cr_assert(random_model_init_shape(&random, &shape, 8) == MF_OK);
    model_file file = make_random_file(&random, MFK_BF16, MFI_RAW, false);
    mf_model *model = open_file(&file, NULL);
    mf_executor *executor = new_executor(model, 3, 0);
    int32_t *tokens = new_tokens(model, LENGTH, &(rng){ 8 });
    mf_submodel *views[SESSIONS];
    mf_session *sessions[SESSIONS];
    outputs out[SESSIONS], expected[SESSIONS];
    pthread_t thread;
    for (uint32_t i = 0; i < SESSIONS; i++) {
        views[i] = take_named(model, texts[i]);
        sessions[i] = new_session(model);
        out[i] = new_outputs(model, LENGTH);
        expected[i] = run_alone(model, views[i], tokens, LENGTH);
    }
    for (uint32_t round = 0; round < ROUNDS; round++) {
        mf_request requests[SESSIONS];
        for (uint32_t i = 0; i < SESSIONS; i++) {
            uint32_t position = mf_session_position(sessions[i]);
            uint32_t n = round < ROUNDS_WITH_PROMPTS && (round + i) % 3 == 0 ? PIECE : 1;
            requests[i] = request_all(sessions[i], views[i], tokens + position, n, &out[i], position);
        }
        cr_assert(pthread_create(&thread, NULL, cancel_again_and_again, sessions[3]) == 0);
        mf_forward(executor, requests, SESSIONS, sizeof(mf_request), NULL);
        pthread_join(thread, NULL);
        for (uint32_t i = 0; i < SESSIONS; i++)
            cr_assert(requests[i].status == MF_OK || (i == 3 && requests[i].status == MF_E_CANCELLED));
    }
    for (uint32_t i = 0; i < SESSIONS; i++) {
        cr_assert(same_rows(&out[i], 0, &expected[i], 0, mf_session_position(sessions[i])), "session %u", i);
        drop_outputs(&out[i]);
        drop_outputs(&expected[i]);
        mf_session_close(sessions[i]);
        mf_submodel_close(views[i]);
    }
    free(tokens);
    mf_executor_close(executor);
    mf_model_close(model);
    drop_file(&file);
    random_model_free(&random);
}
