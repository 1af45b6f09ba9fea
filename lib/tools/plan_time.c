/* plan_time.c - how long views take here. A machine that others use changes its pace from one moment to the next, so a view
 * is timed in turn with the widest, and what is kept is the median of their ratios. */
#include <math.h>
#include <string.h>

#include "defs.h"
#include "plan.h"
#include "plan_front.h"
#include "platform.h"
#include "status.h"

enum {
    PREFIX = 32,       /* positions that are filled before a token is timed */
    STRETCH_MOST = 64, /* tokens of a measurement, and */
    STRETCH_LEAST = 2,
    PROMPT = 256, /* tokens of a prompt that is timed */
    ROUNDS = 15,
    ROUNDS_MOST = 1000
};
#define STRETCH_NS 4e6 /* that a measurement is to last: far above the clock's and the scheduler's grain */

typedef struct stopwatch {
    mf_model *model;
    const mf_plan_options *options;
    mf_model_info info;
    mf_executor *executor;
    mf_session *session;
    float *logits; /* [n_logit]; of drafts [MFI_PLAN_DRAFT_MAX + 1][n_logit] */
    size_t n_logit;
    float *pixels; /* zeros, of a model that takes images */
    size_t n_pixel;
    int32_t prompt[PROMPT];
    uint32_t n_prompt, stretch;
    uint64_t deadline_ns, done, total;
    mf_error *error;
} stopwatch;

/* ---- One measurement, in ns ---- */

static mf_status forward(stopwatch *w, const mf_submodel *view, uint32_t n_token, mf_logits logits_of, mf_error *error)
{
    mf_request request = { .session = w->session,
                           .submodel = view,
                           .logits_of = logits_of,
                           .logits = w->logits,
                           .logits_capacity = (MFI_PLAN_DRAFT_MAX + 1) * w->n_logit };
    if (w->pixels) {
        request.pixels = w->pixels;
    } else {
        request.tokens = w->prompt;
        request.n_token = n_token;
    }
    return mf_forward(w->executor, &request, 1, sizeof request, error);
}

/* Of a token, over a stretch of them after one that brings the weights; of an image. */
static mf_status time_decode(stopwatch *w, const mf_submodel *view, double *ns)
{
    if (!w->pixels) mf_session_rewind(w->session, PREFIX);
    mf_status status = forward(w, view, 1, MF_LOGITS_LAST, NULL);
    if (status != MF_OK) { /* the prefix may be one of other key/value heads */
        mf_session_rewind(w->session, 0);
        status = forward(w, view, PREFIX + 1, MF_LOGITS_NONE, w->error);
    }
    const uint64_t begin = mfi_now_ns();
    for (uint32_t i = 0; i < w->stretch && status == MF_OK; i++)
        status = forward(w, view, 1, MF_LOGITS_LAST, w->error);
    *ns = (double)(mfi_now_ns() - begin) / w->stretch;
    return status;
}

/* Of a token of a prompt. */
static mf_status time_prompt(stopwatch *w, const mf_submodel *view, double *ns)
{
    mf_session_rewind(w->session, 0);
    const uint64_t begin = mfi_now_ns();
    const mf_status status = forward(w, view, w->n_prompt, MF_LOGITS_LAST, w->error);
    *ns = (double)(mfi_now_ns() - begin) / w->n_prompt;
    return status;
}

/* ---- Opening ---- */

static mf_status make_objects(stopwatch *w)
{
    const uint32_t side = w->info.image_size > 0 ? w->info.image_size / w->info.patch_size : 0;
    mf_executor_options executor = MF_EXECUTOR_OPTIONS_INIT;
    mf_session_options session = MF_SESSION_OPTIONS_INIT;
    executor.n_thread = w->options->n_thread;
    executor.max_requests = 1;
    if (side > 0) executor.max_tokens = 1 + side * side;
    session.max_positions = side > 0 ? 1 + side * side : (uint32_t)mfi_max(w->n_prompt, PREFIX + STRETCH_MOST + 1);
    mf_status status = mf_executor_create(&w->executor, w->model, &executor, w->error);
    if (status == MF_OK) status = mf_session_create(&w->session, w->model, &session, w->error);
    return status;
}

static mf_status begin_timeline(stopwatch *w, const mf_submodel *widest)
{
    double ns = 0;
    if (w->pixels) {
        w->stretch = 1;
        return MF_OK;
    }
    mf_session_rewind(w->session, 0);
    mf_status status = forward(w, widest, PREFIX, MF_LOGITS_NONE, w->error);
    w->stretch = STRETCH_LEAST;
    for (int i = 0; i < 3 && status == MF_OK; i++)
        status = time_decode(w, widest, &ns);
    const double wanted = ns > 0 ? STRETCH_NS / ns : STRETCH_MOST;
    w->stretch = (uint32_t)fmin(STRETCH_MOST, fmax(STRETCH_LEAST, wanted));
    return status;
}

static void close_stopwatch(stopwatch *w)
{
    const mf_allocator *allocator = &w->options->allocator;
    mf_session_close(w->session);
    mf_executor_close(w->executor);
    mfi_free(allocator, w->logits, (MFI_PLAN_DRAFT_MAX + 1) * w->n_logit * sizeof(float));
    mfi_free(allocator, w->pixels, w->n_pixel * sizeof(float));
}

static mf_status open_stopwatch(stopwatch *w, mf_model *model, const mf_plan_options *options, mf_error *error)
{
    const mf_allocator *allocator = &options->allocator;
    *w = (stopwatch){ .model = model, .options = options, .info = MF_MODEL_INFO_INIT, .error = error };
    mf_model_info_get(model, &w->info);
    w->n_logit = w->info.image_size > 0 ? mfi_max(1, w->info.n_class) : w->info.n_vocab;
    w->n_pixel = (size_t)w->info.n_channel * w->info.image_size * w->info.image_size;
    w->n_prompt = (uint32_t)mfi_max(1, mfi_min(PROMPT, w->info.max_positions));
    if (options->time_limit_s > 0) w->deadline_ns = mfi_now_ns() + (uint64_t)(options->time_limit_s * 1e9);
    for (uint32_t i = 0; i < PROMPT; i++)
        w->prompt[i] = (int32_t)((uint64_t)i * 7919 % (w->info.n_vocab ? w->info.n_vocab : 1));
    w->logits = mfi_alloc_array(allocator, (MFI_PLAN_DRAFT_MAX + 1) * w->n_logit, sizeof(float));
    if (w->n_pixel > 0) w->pixels = mfi_alloc_array(allocator, w->n_pixel, sizeof(float));
    if (!w->logits || (w->n_pixel > 0 && !w->pixels)) return mfi_fail(error, MF_E_NOMEM, "no memory to time views");
    return make_objects(w);
}

/* ---- Rounds ---- */

static double median(double *values, uint32_t n)
{
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t j = i; j > 0 && values[j] < values[j - 1]; j--) {
            const double swap = values[j];
            values[j] = values[j - 1];
            values[j - 1] = swap;
        }
    if (n == 0) return 0;
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static mf_status tell(stopwatch *w)
{
    const mf_plan_options *o = w->options;
    w->done++;
    if (!o->progress || o->progress(o->progress_user, w->done, w->total) == 0) return MF_OK;
    return mfi_fail(w->error, MF_E_CANCELLED, "timing was cancelled");
}

typedef mf_status (*measurement)(stopwatch *w, const mf_submodel *view, double *ns);

/* Medians over the rounds that there was time for, at least one: of each view's ratio to the reference, whose own times
 * just before and after it are taken as one, to ratio [n]; and of the reference's times, in ms. */
static mf_status time_in_turn(stopwatch *w, measurement measure, const mf_submodel *const *views, size_t n,
                              const mf_submodel *reference, uint32_t rounds, double *ratio, double *reference_ms)
{
    const mf_allocator *allocator = &w->options->allocator;
    const size_t room = (n + 1) * rounds; /* [n + 1][rounds]: ratios, and the reference's times */
    double *sample = mfi_alloc_array(allocator, room, sizeof *sample);
    if (!sample) return mfi_fail(w->error, MF_E_NOMEM, "no memory to time views");
    mf_status status = MF_OK;
    uint32_t round = 0;
    for (; round < rounds && status == MF_OK && !(round > 0 && w->deadline_ns && mfi_now_ns() > w->deadline_ns);
         round++) {
        double before = 0, after = 0, own = 0;
        status = measure(w, reference, &before);
        sample[n * rounds + round] = before;
        for (size_t i = 0; i < n && status == MF_OK; i++) {
            status = measure(w, views[i], &own);
            if (status == MF_OK) status = measure(w, reference, &after);
            sample[i * rounds + round] = 2 * own / (before + after);
            before = after;
            if (status == MF_OK) status = tell(w);
        }
    }
    for (size_t i = 0; i < n; i++)
        ratio[i] = median(sample + i * rounds, round);
    *reference_ms = median(sample + n * rounds, round) / 1e6;
    mfi_free(allocator, sample, room * sizeof *sample);
    return status;
}

/* ---- What is timed ---- */

static mf_plan_options fill_options(const mf_plan_options *options, mf_error *error, mf_status *status)
{
    mf_plan_options o = MF_PLAN_OPTIONS_INIT;
    *status =
        mfi_read_options(&o, sizeof o, MFI_FIRST_BYTES(mf_plan_options, allocator), options, "mf_plan_options", error);
    o.allocator = mfi_allocator(&o.allocator);
    o.n_thread = o.n_thread ? o.n_thread : mfi_usable_cores();
    return o;
}

static uint32_t fill_rounds(uint32_t rounds)
{
    return rounds == 0 ? ROUNDS : (uint32_t)mfi_min(rounds, ROUNDS_MOST);
}

mf_status mf_plan_time_views(mf_model *model, const mf_submodel *const *views, size_t n_view,
                             const mf_submodel *reference, const mf_plan_options *options, uint32_t rounds, double *ms,
                             double *reference_ms, mf_error *error)
{
    if (!model || !views || !reference || !ms || !reference_ms)
        return mfi_fail(error, MF_E_INVALID, "model, views, reference, ms or reference_ms is NULL");
    mf_status status;
    const mf_plan_options o = fill_options(options, error, &status);
    stopwatch w;
    if (status != MF_OK) return status;
    rounds = fill_rounds(rounds);
    status = open_stopwatch(&w, model, &o, error);
    w.total = (uint64_t)rounds * n_view;
    if (status == MF_OK) status = begin_timeline(&w, reference);
    if (status == MF_OK) status = time_in_turn(&w, time_decode, views, n_view, reference, rounds, ms, reference_ms);
    for (size_t i = 0; i < n_view; i++)
        ms[i] *= status == MF_OK ? *reference_ms : 0;
    close_stopwatch(&w);
    return status;
}

/* How long the widest takes over 1, 2, ... rows that all have logits, as when it verifies a draft. */
static mf_status time_verifying(stopwatch *w, const mf_submodel *widest, uint32_t rounds, float *ms)
{
    double sample[MFI_PLAN_DRAFT_MAX + 1][ROUNDS_MOST], ignored;
    mf_status status = time_decode(w, widest, &ignored); /* the prefix is its own */
    for (uint32_t round = 0; round < rounds; round++)
        for (uint32_t n = 1; n <= MFI_PLAN_DRAFT_MAX + 1 && status == MF_OK; n++) {
            uint64_t sum = 0;
            const uint32_t times = (uint32_t)mfi_max(1, w->stretch / 4);
            for (uint32_t i = 0; i < times && status == MF_OK; i++) {
                mf_session_rewind(w->session, PREFIX);
                const uint64_t begin = mfi_now_ns();
                status = forward(w, widest, n, MF_LOGITS_ALL, w->error);
                sum += mfi_now_ns() - begin;
            }
            sample[n - 1][round] = (double)sum / times;
        }
    for (uint32_t n = 0; n <= MFI_PLAN_DRAFT_MAX && status == MF_OK; n++)
        ms[n] = (float)(median(sample[n], rounds) / 1e6);
    return status;
}

/* Pool adjacent violators: where a view that reads more took less, both get their mean. */
static void make_monotone(const mf_plan *plan, double *ms, uint32_t *order, double *weight)
{
    uint32_t n_pool = 0;
    double *level = ms + plan->n_entry; /* the second half of the array */
    for (uint32_t i = 0; i < plan->n_entry; i++) {
        uint32_t at = i;
        for (; at > 0 && plan->all[plan->entry[order[at - 1]]].numbers.bytes_per_token >
                             plan->all[plan->entry[i]].numbers.bytes_per_token;
             at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    for (uint32_t i = 0; i < plan->n_entry; i++) {
        level[n_pool] = ms[order[i]];
        weight[n_pool++] = 1;
        while (n_pool > 1 && level[n_pool - 2] > level[n_pool - 1]) {
            const double a = weight[n_pool - 2], b = weight[n_pool - 1];
            level[n_pool - 2] = (a * level[n_pool - 2] + b * level[n_pool - 1]) / (a + b);
            weight[n_pool - 2] = a + b;
            n_pool--;
        }
    }
    for (uint32_t pool = 0, i = 0; pool < n_pool; pool++)
        for (uint32_t last = i + (uint32_t)(weight[pool] + 0.5); i < last; i++)
            ms[order[i]] = level[pool];
}

static mf_status time_entries(stopwatch *w, mf_plan *plan, const mf_submodel *const *views, uint32_t rounds, double *ms)
{
    const mf_submodel *widest = views[plan->n_entry - 1];
    const uint32_t prompt_rounds = (rounds + 2) / 3;
    double reference = 0;
    w->total = (uint64_t)plan->n_entry * (w->pixels ? rounds : rounds + prompt_rounds);
    mf_status status = begin_timeline(w, widest);
    if (status == MF_OK) status = time_in_turn(w, time_decode, views, plan->n_entry, widest, rounds, ms, &reference);
    if (status != MF_OK) return status;
    uint32_t order[MFI_PLAN_ENTRY_MAX];
    double weight[MFI_PLAN_ENTRY_MAX];
    ms[plan->n_entry - 1] = 1;
    make_monotone(plan, ms, order, weight);
    for (uint32_t i = 0; i < plan->n_entry; i++)
        plan->all[plan->entry[i]].numbers.decode_ms = (float)(ms[i] * reference);
    if (w->pixels) return MF_OK;
    status = time_verifying(w, widest, rounds, plan->head.verify_ms);
    if (status == MF_OK)
        status = time_in_turn(w, time_prompt, views, plan->n_entry, widest, prompt_rounds, ms, &reference);
    for (uint32_t i = 0; i < plan->n_entry && status == MF_OK; i++)
        plan->all[plan->entry[i]].numbers.prefill_ms = (float)(ms[i] * reference);
    return status;
}

mf_status mf_plan_time(mf_plan *plan, mf_model *model, const mf_plan_options *options, uint32_t rounds, mf_error *error)
{
    if (!plan || !model) return mfi_fail(error, MF_E_INVALID, "plan or model is NULL");
    mf_status status;
    const mf_plan_options o = fill_options(options, error, &status);
    stopwatch w;
    if (status != MF_OK) return status;
    status = open_stopwatch(&w, model, &o, error);
    const size_t n = plan->n_entry;
    mf_submodel **views = mfi_alloc_array(&o.allocator, n, sizeof(*views));
    double *ms = mfi_alloc_array(&o.allocator, 2 * n, sizeof *ms);
    if (status == MF_OK && (!views || !ms)) status = mfi_fail(error, MF_E_NOMEM, "no memory to time views");
    for (size_t i = 0; i < n && status == MF_OK; i++)
        status = mfi_plan_view(&views[i], model, plan->all[plan->entry[i]].layer, error);
    if (status == MF_OK) status = time_entries(&w, plan, (const mf_submodel *const *)views, fill_rounds(rounds), ms);
    if (status == MF_OK) {
        plan->head.n_thread = o.n_thread;
        mfi_plan_machine(plan->machine, w.info.cpu, w.info.arithmetic);
    }
    for (size_t i = 0; views && i < n; i++)
        mf_submodel_close(views[i]);
    mfi_free(&o.allocator, views, n * sizeof(*views));
    mfi_free(&o.allocator, ms, 2 * n * sizeof *ms);
    close_stopwatch(&w);
    return status;
}

/* ---- The line ---- */

/* Least squares of the relative deviation, since short times are to be as right as long ones. */
static bool solve_line(mfi_plan_line *line, const mf_submodel_info *info, const double *ms, size_t n)
{
    double a[9] = { 0 }, b[3] = { 0 };
    const double bytes = (double)info[0].bytes_per_token, layers = info[0].n_layer_kept;
    for (size_t i = 0; i < n; i++) {
        const double x[3] = { 1 / ms[i], (double)info[i].bytes_per_token / bytes / ms[i],
                              info[i].n_layer_kept / layers / ms[i] };
        for (int j = 0; j < 3; j++) {
            b[j] += x[j];
            for (int k = 0; k < 3; k++)
                a[3 * j + k] += x[j] * x[k];
        }
    }
    if (!mfi_solve(a, b, 3, 1e-9 * (a[0] + a[4] + a[8]))) return false; /* layers may be as many in all */
    *line = (mfi_plan_line){ b[0], b[1] / bytes, b[2] / layers };
    return true;
}

enum { LINE_VIEWS = 9 };

mf_status mfi_plan_fit_line(mfi_plan_line *line, mf_model *model, const mfi_plan_space *space,
                            const mf_plan_options *options, mf_error *error)
{
    mf_submodel *view[LINE_VIEWS] = { NULL };
    mf_submodel_info info[LINE_VIEWS];
    double ms[LINE_VIEWS], reference;
    size_t n = 0;
    mf_status status = MF_OK;
    mf_plan_options timing = *options;
    timing.progress = NULL;
    timing.time_limit_s = 0;
    /* From the widest to the narrowest, the layers with equal shares of their options; some may be no views. */
    for (uint32_t i = 0; i < LINE_VIEWS && status == MF_OK; i++) {
        mfi_view_layer layers[MFI_MAX_LAYER];
        for (uint32_t l = 0; l < space->n_layer; l++) {
            const uint32_t last = space->n_option[l] - 1, low = space->granularity[0][l];
            layers[l] = space->option[l][last - (last - low) * i / (LINE_VIEWS - 1)];
        }
        if (mfi_plan_view(&view[n], model, layers, NULL) != MF_OK) continue;
        info[n] = (mf_submodel_info)MF_SUBMODEL_INFO_INIT;
        mf_submodel_info_get(view[n], &info[n]);
        n++;
    }
    if (n > 0)
        status =
            mf_plan_time_views(model, (const mf_submodel *const *)view, n, view[0], &timing, 0, ms, &reference, error);
    if (n == 0 || (status == MF_OK && !solve_line(line, info, ms, n)))
        status = mfi_fail(error, MF_E_RANGE, "the times of views cannot be told apart on this machine");
    for (size_t i = 0; i < n; i++)
        mf_submodel_close(view[i]);
    return status;
}
