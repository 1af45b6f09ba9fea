/* cli_score.c - see cli_score.h. */
#include <math.h>
#include <stdlib.h>

#include "cli_score.h"

/* Logits of all views for one piece of a window stay below this. */
#define LOGITS_BYTES ((size_t)64 << 20)

typedef struct scorer {
    const cli_scoring *scoring;
    size_t n_view;         /* with the reference, which comes last */
    size_t n_vocab, piece; /* piece: tokens of one forward */
    mf_executor *executor;
    mf_session **sessions; /* [n_view] */
    mf_request *requests;  /* [n_view] */
    float *logits;         /* [n_view][piece][n_vocab] */
    float *reference;      /* [n_vocab] probabilities */
    cli_score *scores;     /* sums */
} scorer;

static mf_status no_memory(mf_error *error)
{
    return error->status = MF_E_NOMEM;
}

static const mf_submodel *view_of(const scorer *s, size_t view)
{
    return view < s->scoring->n_view ? s->scoring->views[view] : s->scoring->reference;
}

static mf_status open_scorer(scorer *s, uint32_t context, mf_error *error)
{
    size_t row = s->n_view * s->n_vocab * sizeof(float);
    s->piece = row < LOGITS_BYTES ? LOGITS_BYTES / row : 1;
    if (s->piece > context) s->piece = context;
    s->sessions = calloc(s->n_view, sizeof(*s->sessions));
    s->requests = calloc(s->n_view, sizeof(*s->requests));
    s->logits = malloc(s->piece * row);
    s->reference = malloc(s->n_vocab * sizeof(*s->reference));
    if (!s->sessions || !s->requests || !s->logits || !s->reference) return no_memory(error);

    mf_executor_options executor = MF_EXECUTOR_OPTIONS_INIT;
    mf_session_options session = MF_SESSION_OPTIONS_INIT;
    executor.n_thread = s->scoring->n_thread;
    executor.max_requests = (uint32_t)s->n_view;
    session.max_positions = context;
    session.cache_type = s->scoring->cache_type;
    mf_status status = mf_executor_create(&s->executor, s->scoring->model, &executor, error);
    for (size_t v = 0; v < s->n_view && status == MF_OK; v++)
        status = mf_session_create(&s->sessions[v], s->scoring->model, &session, error);
    return status;
}

static void close_scorer(scorer *s)
{
    for (size_t v = 0; s->sessions && v < s->n_view; v++)
        mf_session_close(s->sessions[v]);
    mf_executor_close(s->executor);
    free(s->sessions);
    free(s->requests);
    free(s->logits);
    free(s->reference);
}

static size_t likeliest(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* ln sum exp; `likely` gets the likeliest token. */
static double log_sum_exp(const float *logits, size_t n, size_t *likely)
{
    *likely = likeliest(logits, n);
    float max = logits[*likely];
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)expf(logits[i] - max);
    return (double)max + log(sum);
}

/* One predicted token, for all views. The reference comes last but is looked at first. */
static void score_token(scorer *s, size_t row, int32_t token)
{
    size_t n = s->n_vocab, reference_likely = 0, likely;
    double entropy = 0;
    bool has_reference = s->scoring->reference != NULL;
    if (has_reference) {
        const float *logits = s->logits + ((s->n_view - 1) * s->piece + row) * n;
        double total = log_sum_exp(logits, n, &reference_likely);
        for (size_t i = 0; i < n; i++) {
            s->reference[i] = expf((float)((double)logits[i] - total));
            entropy -= (double)s->reference[i] * ((double)logits[i] - total);
        }
    }
    for (size_t v = 0; v < s->scoring->n_view; v++) {
        const float *logits = s->logits + (v * s->piece + row) * n;
        double total = log_sum_exp(logits, n, &likely), cross = 0;
        s->scores[v].loss += total - (double)logits[token];
        if (!has_reference) continue;
        for (size_t i = 0; i < n; i++)
            cross += (double)s->reference[i] * (total - (double)logits[i]);
        s->scores[v].kl += cross - entropy;
        s->scores[v].agreement += likely == reference_likely;
    }
}

/* Reads inputs[n] of a window, whose next tokens are inputs[1 .. n]. */
static mf_status score_piece(scorer *s, const int32_t *inputs, size_t n, mf_error *error)
{
    size_t row = s->n_vocab;
    for (size_t v = 0; v < s->n_view; v++)
        s->requests[v] = (mf_request){ .session = s->sessions[v],
                                       .submodel = view_of(s, v),
                                       .tokens = inputs,
                                       .n_token = n,
                                       .logits_of = MF_LOGITS_ALL,
                                       .logits = s->logits + v * s->piece * row,
                                       .logits_capacity = s->piece * row };
    mf_status status = mf_forward(s->executor, s->requests, s->n_view, sizeof(*s->requests), error);
    for (size_t i = 0; i < n && status == MF_OK; i++)
        score_token(s, i, inputs[i + 1]);
    return status;
}

static mf_status score_window(scorer *s, const int32_t *inputs, size_t n, mf_error *error)
{
    mf_status status = MF_OK;
    for (size_t v = 0; v < s->n_view && status == MF_OK; v++)
        status = mf_session_rewind(s->sessions[v], 0);
    for (size_t at = 0; at < n && status == MF_OK; at += s->piece)
        status = score_piece(s, inputs + at, n - at < s->piece ? n - at : s->piece, error);
    return status;
}

mf_status cli_score_views(const cli_scoring *scoring, cli_score *scores, uint64_t *n_predicted, mf_error *error)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model_info_get(scoring->model, &info);
    uint32_t context = scoring->context ? scoring->context : info.max_positions;
    if (scoring->n_token < 2) {
        snprintf(error->detail, sizeof(error->detail), "the text is too short: nothing to predict");
        return error->status = MF_E_INVALID;
    }
    size_t last = scoring->n_token - 1; /* the last token is predicted, never read */
    scorer s = { .scoring = scoring,
                 .n_view = scoring->n_view + (scoring->reference != NULL),
                 .n_vocab = info.n_vocab,
                 .scores = scores };
    for (size_t v = 0; v < scoring->n_view; v++)
        scores[v] = (cli_score){ 0 };
    mf_status status = open_scorer(&s, context, error);
    for (size_t at = 0; at < last && status == MF_OK; at += context) {
        if (scoring->progress) scoring->progress(scoring->user, (double)at, (double)last);
        status = score_window(&s, scoring->tokens + at, last - at < context ? last - at : context, error);
    }
    for (size_t v = 0; v < scoring->n_view; v++) {
        scores[v].loss /= (double)last;
        scores[v].kl /= (double)last;
        scores[v].agreement /= (double)last;
    }
    if (n_predicted) *n_predicted = last;
    close_scorer(&s);
    return status;
}
