/* plan_score.c - what a view predicts of calibration text or images, beside what the widest view says of them. Its
 * distributions are kept while they fit; else it runs along, as a second request of every batch. */
#include <math.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "defs.h"
#include "plan.h"
#include "platform.h"
#include "status.h"
#include "threads.h"

#define KEPT_BYTES ((size_t)1 << 30)    /* most that the widest view's distributions take */
#define LOGITS_BYTES ((size_t)64 << 20) /* of one forward */

enum { REFERENCE = 0, VIEW = 1, N_SIDE = 2 };

struct mfi_scorer {
    mf_allocator allocator;
    mf_model *model;
    const mf_plan_options *options;
    mf_model_info info;
    uint32_t context;
    size_t n_row, n_logit; /* rows that are predicted; logits of each */
    size_t n_piece;        /* rows of one forward */
    mf_submodel *widest;
    mf_executor *executor;
    mf_session *session[N_SIDE];
    float *logits[N_SIDE]; /* [n_piece][n_logit] */
    float *kept;           /* [n_row][n_logit] the widest view's probabilities, or NULL */
    bool is_kept;          /* they were computed */
    mfi_pool *pool;
    mfi_plan_score *sum; /* [n_thread] */
    /* the piece in progress */
    float *reference;         /* [n_piece][n_logit] */
    bool reference_done;      /* it holds probabilities already, no logits */
    const float *view_logits; /* NULL: only the reference is wanted */
    const int32_t *targets;   /* [rows], or NULL: none */
    size_t rows;
};

/* ---- One row ---- */

/* In place: logits to probabilities. */
static void to_probabilities(float *logits, size_t n)
{
    float most = logits[0];
    double sum = 0;
    for (size_t i = 1; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    for (size_t i = 0; i < n; i++) {
        logits[i] = expf(logits[i] - most);
        sum += (double)logits[i];
    }
    const float scale = (float)(1 / sum);
    for (size_t i = 0; i < n; i++)
        logits[i] *= scale;
}

static void score_row(mfi_plan_score *sum, const float *p, const float *logits, size_t n, int32_t target)
{
    float most = logits[0], likely = p[0];
    size_t first = 0, reference_first = 0;
    double total = 0, cross = 0, entropy = 0, shared = 0;
    for (size_t i = 1; i < n; i++) {
        if (logits[i] > most) most = logits[i], first = i;
        if (p[i] > likely) likely = p[i], reference_first = i;
    }
    for (size_t i = 0; i < n; i++)
        total += (double)expf(logits[i] - most);
    const double log_total = log(total);
    const float scale = (float)(1 / total);
    for (size_t i = 0; i < n; i++) {
        const float q = expf(logits[i] - most) * scale;
        shared += (double)(p[i] < q ? p[i] : q);
        cross += (double)p[i] * (double)(most - logits[i]);
        if (p[i] > 0) entropy -= (double)p[i] * (double)logf(p[i]);
    }
    const double kl = cross + log_total - entropy;
    sum->kl += kl;
    sum->acceptance += shared;
    sum->agreement += first == reference_first;
    sum->loss += target >= 0 ? (double)(most - logits[target]) + log_total : kl;
}

static void score_rows(void *user, uint32_t thread, uint32_t n_thread)
{
    mfi_scorer *s = user;
    size_t begin, end;
    mfi_split(s->rows, 1, thread, n_thread, &begin, &end);
    for (size_t row = begin; row < end; row++) {
        float *p = s->reference + row * s->n_logit;
        if (!s->reference_done) to_probabilities(p, s->n_logit);
        if (s->view_logits)
            score_row(&s->sum[thread], p, s->view_logits + row * s->n_logit, s->n_logit,
                      s->targets ? s->targets[row] : -1);
    }
}

/* ---- Forward ---- */

/* A piece of a window: `n` inputs from token `at` on; or image `at`. */
static mf_request request_of(const mfi_scorer *s, int side, const mf_submodel *view, size_t at, size_t n)
{
    mf_request request = { .session = s->session[side],
                           .submodel = view,
                           .logits = s->logits[side],
                           .logits_capacity = s->n_piece * s->n_logit };
    if (s->options->tokens) {
        request.tokens = s->options->tokens + at;
        request.n_token = n;
        request.logits_of = MF_LOGITS_ALL;
    } else {
        request.pixels = s->options->pixels + at * s->info.n_channel * s->info.image_size * s->info.image_size;
    }
    return request;
}

/* Rows [row, row + n) of all that are predicted: `view` NULL computes the distributions that are kept. */
static mf_status run_piece(mfi_scorer *s, const mf_submodel *view, size_t at, size_t n, size_t row, mf_error *error)
{
    mf_request requests[N_SIDE];
    size_t n_request = 0;
    if (view) requests[n_request++] = request_of(s, VIEW, view, at, n);
    if (!view || !s->kept) requests[n_request++] = request_of(s, REFERENCE, s->widest, at, n);
    const mf_status status = mf_forward(s->executor, requests, n_request, sizeof *requests, error);
    if (status != MF_OK) return status;
    if (!view) memcpy(s->kept + row * s->n_logit, s->logits[REFERENCE], n * s->n_logit * sizeof(float));
    s->reference = s->kept ? s->kept + row * s->n_logit : s->logits[REFERENCE];
    s->reference_done = view && s->kept;
    s->view_logits = view ? s->logits[VIEW] : NULL;
    s->targets = s->options->tokens ? s->options->tokens + at + 1 : s->options->labels ? s->options->labels + at : NULL;
    s->rows = n;
    mfi_pool_run(s->pool, score_rows, s);
    return MF_OK;
}

static mf_status run_all(mfi_scorer *s, const mf_submodel *view, mf_error *error)
{
    mf_status status = MF_OK;
    size_t row = 0;
    if (s->options->pixels) {
        for (; row < s->n_row && status == MF_OK; row++)
            status = run_piece(s, view, row, 1, row, error);
        return status;
    }
    for (size_t begin = 0; begin + 1 < s->options->n_token && status == MF_OK; begin += s->context) {
        const size_t inputs = mfi_min(s->context, s->options->n_token - begin) - 1;
        for (int side = 0; side < N_SIDE; side++)
            mf_session_rewind(s->session[side], 0);
        for (size_t at = 0; at < inputs && status == MF_OK; at += s->n_piece) {
            const size_t n = mfi_min(s->n_piece, inputs - at);
            status = run_piece(s, view, begin + at, n, row, error);
            row += n;
        }
    }
    return status;
}

mf_status mfi_scorer_run(mfi_scorer *s, const mf_submodel *view, mfi_plan_score *score, mf_error *error)
{
    const uint32_t n_thread = mfi_pool_size(s->pool);
    mf_status status = MF_OK;
    if (s->kept && !s->is_kept) {
        status = run_all(s, NULL, error);
        s->is_kept = status == MF_OK;
    }
    memset(s->sum, 0, n_thread * sizeof *s->sum);
    if (status == MF_OK) status = run_all(s, view, error);
    if (status != MF_OK) return status;
    *score = (mfi_plan_score){ 0 };
    for (uint32_t t = 0; t < n_thread; t++) {
        score->loss += s->sum[t].loss / (double)s->n_row;
        score->kl += s->sum[t].kl / (double)s->n_row;
        score->agreement += s->sum[t].agreement / (double)s->n_row;
        score->acceptance += s->sum[t].acceptance / (double)s->n_row;
    }
    /* By rounding; without labels the loss is the kl. */
    if (score->kl < 0) score->kl = 0;
    if (score->loss < 0) score->loss = 0;
    if (isfinite(score->loss) && isfinite(score->kl)) return MF_OK;
    return mfi_fail(error, MF_E_RANGE, "the loss of a view is not finite: the model cannot be planned for");
}

/* ---- Making one ---- */

static mf_status check_tokens(const mfi_scorer *s, mf_error *error)
{
    const mf_plan_options *o = s->options;
    if (o->n_token < 2) return mfi_fail(error, MF_E_INVALID, "a plan wants at least 2 tokens of text to predict");
    if (s->context < 2) return mfi_fail(error, MF_E_INVALID, "a context of %u tokens predicts nothing", s->context);
    for (size_t i = 0; i < o->n_token; i++)
        if (o->tokens[i] < 0 || (uint32_t)o->tokens[i] >= s->info.n_vocab)
            return mfi_fail(error, MF_E_RANGE, "calibration token %zu is %d, and the model has %u", i, o->tokens[i],
                            s->info.n_vocab);
    return MF_OK;
}

static mf_status measure(mfi_scorer *s, mf_error *error)
{
    const mf_plan_options *o = s->options;
    if ((o->tokens != NULL) == (o->pixels != NULL))
        return mfi_fail(error, MF_E_INVALID, "a plan is measured on tokens or on pixels: give one of them");
    if ((s->info.image_size > 0) != (o->pixels != NULL))
        return mfi_fail(error, MF_E_INVALID, "the model takes %s", o->pixels ? "tokens" : "images");
    if (o->pixels) {
        s->n_row = o->n_image;
        s->n_logit = s->info.n_class;
        s->n_piece = 1;
        if (s->n_row == 0 || s->n_logit == 0)
            return mfi_fail(error, MF_E_INVALID, "a plan wants images, and a model with a classifier");
        for (size_t i = 0; o->labels && i < o->n_image; i++)
            if (o->labels[i] < 0 || (uint32_t)o->labels[i] >= s->info.n_class)
                return mfi_fail(error, MF_E_RANGE, "label %zu is %d, and the model has %u classes", i, o->labels[i],
                                s->info.n_class);
        return MF_OK;
    }
    const mf_status status = check_tokens(s, error);
    if (status != MF_OK) return status;
    const size_t rest = o->n_token % s->context;
    s->n_row = o->n_token / s->context * (s->context - 1) + (rest > 0 ? rest - 1 : 0);
    s->n_logit = s->info.n_vocab;
    s->n_piece = mfi_max(1, mfi_min(s->context, LOGITS_BYTES / (s->n_logit * sizeof(float))));
    return MF_OK;
}

static mf_status make_objects(mfi_scorer *s, mf_error *error)
{
    const uint32_t side = s->info.image_size > 0 ? s->info.image_size / s->info.patch_size : 0;
    const uint32_t positions = side > 0 ? 1 + side * side : s->context;
    mf_executor_options executor = MF_EXECUTOR_OPTIONS_INIT;
    mf_session_options session = MF_SESSION_OPTIONS_INIT;
    executor.n_thread = s->options->n_thread;
    executor.max_requests = N_SIDE;
    if (side > 0) executor.max_tokens = 2 * positions;
    session.max_positions = positions;
    mf_status status = mf_extract_submodel(&s->widest, s->model, NULL, error);
    if (status == MF_OK) status = mf_executor_create(&s->executor, s->model, &executor, error);
    for (int i = 0; i < N_SIDE && status == MF_OK; i++)
        status = mf_session_create(&s->session[i], s->model, &session, error);
    return status;
}

static mf_status allocate(mfi_scorer *s, mf_error *error)
{
    size_t piece, kept;
    const uint32_t n_thread = s->options->n_thread ? s->options->n_thread : mfi_usable_cores();
    const mfi_pool_options pool = { .n_thread = n_thread, .run_spin_us = 50, .idle_spin_us = 50 };
    if (!mfi_mul(s->n_piece, s->n_logit, &piece) || !mfi_mul(s->n_row, s->n_logit, &kept)) kept = piece = SIZE_MAX;
    for (int i = 0; i < N_SIDE; i++)
        s->logits[i] = mfi_alloc_array(&s->allocator, piece, sizeof(float));
    if (kept <= KEPT_BYTES / sizeof(float)) s->kept = mfi_alloc_array(&s->allocator, kept, sizeof(float));
    s->sum = mfi_alloc_array(&s->allocator, n_thread, sizeof *s->sum);
    if (!s->logits[REFERENCE] || !s->logits[VIEW] || !s->sum)
        return mfi_fail(error, MF_E_NOMEM, "no memory for a plan");
    return mfi_pool_create(&s->pool, &s->allocator, &pool, error);
}

mf_status mfi_scorer_create(mfi_scorer **out, mf_model *model, const mf_plan_options *options, mf_error *error)
{
    *out = NULL;
    mfi_scorer *s = mfi_alloc(&options->allocator, sizeof *s);
    if (!s) return mfi_fail(error, MF_E_NOMEM, "no memory for a plan");
    s->allocator = options->allocator;
    s->model = model;
    s->options = options;
    s->info = (mf_model_info)MF_MODEL_INFO_INIT;
    mf_model_info_get(model, &s->info);
    s->context = options->context ? options->context : s->info.max_positions;
    mf_status status = measure(s, error);
    if (status == MF_OK) status = make_objects(s, error);
    if (status == MF_OK) status = allocate(s, error);
    if (status == MF_OK)
        *out = s;
    else
        mfi_scorer_free(s);
    return status;
}

uint64_t mfi_scorer_predicted(const mfi_scorer *s)
{
    return s->n_row;
}

uint64_t mfi_scorer_hash(const mfi_scorer *s)
{
    const mf_plan_options *o = s->options;
    if (o->tokens) return XXH64(o->tokens, o->n_token * sizeof *o->tokens, 0);
    const size_t pixels = (size_t)s->info.n_channel * s->info.image_size * s->info.image_size;
    return XXH64(o->pixels, o->n_image * pixels * sizeof *o->pixels, 0);
}

void mfi_scorer_free(mfi_scorer *s)
{
    if (!s) return;
    const mf_allocator allocator = s->allocator;
    for (int i = 0; i < N_SIDE; i++) {
        mfi_free(&allocator, s->logits[i], s->n_piece * s->n_logit * sizeof(float));
        mf_session_close(s->session[i]);
    }
    const uint32_t n_thread = s->options->n_thread ? s->options->n_thread : mfi_usable_cores();
    mfi_free(&allocator, s->kept, s->n_row * s->n_logit * sizeof(float));
    mfi_free(&allocator, s->sum, n_thread * sizeof *s->sum);
    if (s->pool) mfi_pool_destroy(s->pool);
    mf_executor_close(s->executor);
    mf_submodel_close(s->widest);
    mfi_free(&allocator, s, sizeof *s);
}
