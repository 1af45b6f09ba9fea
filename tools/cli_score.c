/* cli_score.c - see cli_score.h.
 *
 * A line's numbers are summed by position, so that the means over all positions and over each come from the same sums. */
#include <math.h>
#include <stdlib.h>

#include "cli_score.h"

/* Logits of all lines for one piece of a window stay below this. */
#define LOGITS_BYTES ((size_t)64 << 20)

/* Mean losses of windows: for the standard error of their mean. */
typedef struct spread {
    double sum, sum_of_squares;
} spread;

typedef struct line_state {
    mf_session *session;
    double window_loss; /* sum over the window that is being read */
    double total;       /* ln sum exp of the token that is being scored, */
    size_t likely;      /* and its likeliest token */
    bool is_reference;  /* of another line */
    spread loss, difference;
} line_state;

typedef struct scorer {
    const cli_scoring *scoring;
    uint32_t context;
    size_t n_line, n_vocab, piece; /* piece: tokens of one forward with logits */
    mf_executor *executor;
    line_state *lines;             /* [n_line] */
    mf_request *requests;          /* [n_line] */
    float *logits;                 /* [n_line][piece][n_vocab] */
    float *reference;              /* [n_vocab] probabilities */
    cli_position_score *positions; /* [n_line][context] sums */
    uint64_t n_window;             /* of full length */
} scorer;

static mf_status no_memory(mf_error *error)
{
    return error->status = MF_E_NOMEM;
}

static mf_status open_scorer(scorer *s, mf_error *error)
{
    const cli_scoring *scoring = s->scoring;
    size_t row = s->n_line * s->n_vocab * sizeof(float);
    s->piece = row < LOGITS_BYTES ? LOGITS_BYTES / row : 1;
    if (s->piece > s->context) s->piece = s->context;
    s->lines = calloc(s->n_line, sizeof(*s->lines));
    s->requests = calloc(s->n_line, sizeof(*s->requests));
    s->logits = malloc(s->piece * row);
    s->reference = malloc(s->n_vocab * sizeof(*s->reference));
    s->positions = calloc(s->n_line * s->context, sizeof(*s->positions));
    if (!s->lines || !s->requests || !s->logits || !s->reference || !s->positions) return no_memory(error);

    mf_executor_options executor = MF_EXECUTOR_OPTIONS_INIT;
    mf_session_options session = MF_SESSION_OPTIONS_INIT;
    executor.n_thread = scoring->n_thread;
    executor.max_requests = (uint32_t)s->n_line;
    session.max_positions = s->context;
    session.cache_type = scoring->cache_type;
    mf_status status = mf_executor_create(&s->executor, scoring->model, &executor, error);
    for (size_t l = 0; l < s->n_line && status == MF_OK; l++) {
        if (scoring->lines[l].reference >= 0) s->lines[scoring->lines[l].reference].is_reference = true;
        status = mf_session_create(&s->lines[l].session, scoring->model, &session, error);
    }
    return status;
}

static void close_scorer(scorer *s)
{
    for (size_t l = 0; s->lines && l < s->n_line; l++)
        mf_session_close(s->lines[l].session);
    mf_executor_close(s->executor);
    free(s->lines);
    free(s->requests);
    free(s->logits);
    free(s->reference);
    free(s->positions);
}

/* ---- One predicted token ---- */

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

static const float *logits_of(const scorer *s, size_t line, size_t row)
{
    return s->logits + (line * s->piece + row) * s->n_vocab;
}

/* Adds to the lines whose reference is line r what they lose of it. */
static void compare_with(scorer *s, size_t r, size_t row, size_t position)
{
    const float *logits = logits_of(s, r, row);
    double entropy = 0;
    for (size_t i = 0; i < s->n_vocab; i++) {
        s->reference[i] = expf((float)((double)logits[i] - s->lines[r].total));
        entropy -= (double)s->reference[i] * ((double)logits[i] - s->lines[r].total);
    }
    for (size_t l = 0; l < s->n_line; l++) {
        if (s->scoring->lines[l].reference != (int)r) continue;
        const float *own = logits_of(s, l, row);
        double cross = 0;
        for (size_t i = 0; i < s->n_vocab; i++)
            cross += (double)s->reference[i] * (s->lines[l].total - (double)own[i]);
        cli_position_score *sum = &s->positions[l * s->context + position];
        sum->kl += cross - entropy;
        sum->agreement += s->lines[l].likely == s->lines[r].likely;
    }
}

static void score_token(scorer *s, size_t row, size_t position, int32_t token)
{
    for (size_t l = 0; l < s->n_line; l++) {
        line_state *line = &s->lines[l];
        const float *logits = logits_of(s, l, row);
        line->total = log_sum_exp(logits, s->n_vocab, &line->likely);
        const double loss = line->total - (double)logits[token];
        cli_position_score *sum = &s->positions[l * s->context + position];
        sum->loss += loss;
        sum->n_token++;
        line->window_loss += loss;
    }
    for (size_t l = 0; l < s->n_line; l++)
        if (s->lines[l].is_reference) compare_with(s, l, row, position);
}

/* ---- A window ---- */

static const mf_submodel *view_at(const cli_line *line, size_t position)
{
    bool written = line->writer && position >= line->written_from && position < line->written_to;
    return written ? line->writer : line->view;
}

/* Where the run that begins at `position` ends: a view changes, logits begin to be wanted, or it is long enough. */
static size_t end_of_run(const scorer *s, size_t position, size_t n)
{
    const cli_scoring *scoring = s->scoring;
    size_t end = position < scoring->first ? scoring->first : position + s->piece;
    if (end > n) end = n;
    for (size_t l = 0; l < s->n_line; l++) {
        const cli_line *line = &scoring->lines[l];
        if (!line->writer) continue;
        if (line->written_from > position && line->written_from < end) end = line->written_from;
        if (line->written_to > position && line->written_to < end) end = line->written_to;
    }
    return end;
}

/* Reads inputs [from, to) of a window, where each one's next token is the one to predict. */
static mf_status run_lines(scorer *s, const int32_t *inputs, size_t from, size_t to, mf_error *error)
{
    bool scored = from >= s->scoring->first;
    size_t capacity = s->piece * s->n_vocab;
    for (size_t l = 0; l < s->n_line; l++)
        s->requests[l] = (mf_request){ .session = s->lines[l].session,
                                       .submodel = view_at(&s->scoring->lines[l], from),
                                       .tokens = inputs + from,
                                       .n_token = to - from,
                                       .logits_of = scored ? MF_LOGITS_ALL : MF_LOGITS_NONE,
                                       .logits = scored ? s->logits + l * capacity : NULL,
                                       .logits_capacity = scored ? capacity : 0 };
    mf_status status = mf_forward(s->executor, s->requests, s->n_line, sizeof(*s->requests), error);
    for (size_t i = from; scored && i < to && status == MF_OK; i++)
        score_token(s, i - from, i, inputs[i + 1]);
    return status;
}

static void add(spread *of, double value)
{
    of->sum += value;
    of->sum_of_squares += value * value;
}

static void end_window(scorer *s, size_t n)
{
    if (n < s->context) return; /* a mean of fewer tokens spreads more */
    double n_scored = (double)(s->context - s->scoring->first);
    for (size_t l = 0; l < s->n_line; l++) {
        int reference = s->scoring->lines[l].reference;
        add(&s->lines[l].loss, s->lines[l].window_loss / n_scored);
        if (reference < 0) continue;
        add(&s->lines[l].difference, (s->lines[l].window_loss - s->lines[reference].window_loss) / n_scored);
    }
    s->n_window++;
}

static mf_status score_window(scorer *s, const int32_t *inputs, size_t n, mf_error *error)
{
    mf_status status = MF_OK;
    for (size_t l = 0; l < s->n_line && status == MF_OK; l++) {
        s->lines[l].window_loss = 0;
        status = mf_session_rewind(s->lines[l].session, 0);
    }
    for (size_t at = 0; at < n && status == MF_OK;) {
        size_t end = end_of_run(s, at, n);
        status = run_lines(s, inputs, at, end, error);
        at = end;
    }
    if (status == MF_OK) end_window(s, n);
    return status;
}

/* ---- All of them ---- */

/* Of the mean of n values: the root of their variance (n - 1) over n. */
static double standard_error(const spread *of, uint64_t n)
{
    if (n < 2) return 0;
    double mean = of->sum / (double)n;
    double squares = of->sum_of_squares - mean * of->sum;
    return squares > 0 ? sqrt(squares / (double)(n - 1) / (double)n) : 0;
}

static uint64_t sum_up(const scorer *s, cli_score *scores)
{
    uint64_t n_token = 0;
    for (size_t l = 0; l < s->n_line; l++) {
        cli_score *score = &scores[l];
        *score = (cli_score){ .loss_error = standard_error(&s->lines[l].loss, s->n_window),
                              .difference_error = standard_error(&s->lines[l].difference, s->n_window) };
        n_token = 0;
        for (uint32_t p = 0; p < s->context; p++) {
            const cli_position_score *sum = &s->positions[l * s->context + p];
            score->loss += sum->loss;
            score->kl += sum->kl;
            score->agreement += sum->agreement;
            n_token += sum->n_token;
        }
        score->loss /= (double)n_token;
        score->kl /= (double)n_token;
        score->agreement /= (double)n_token;
    }
    for (size_t l = 0; l < s->n_line; l++) {
        int reference = s->scoring->lines[l].reference;
        if (reference >= 0) scores[l].difference = scores[l].loss - scores[reference].loss;
    }
    return n_token;
}

static void copy_positions(const scorer *s)
{
    for (size_t i = 0; i < s->n_line * s->context; i++) {
        const cli_position_score sum = s->positions[i];
        double n = sum.n_token > 0 ? (double)sum.n_token : 1;
        s->scoring->positions[i] = (cli_position_score){ sum.loss / n, sum.kl / n, sum.agreement / n, sum.n_token };
    }
}

static mf_status too_short(mf_error *error)
{
    snprintf(error->detail, sizeof(error->detail), "the text is too short: nothing to predict");
    return error->status = MF_E_INVALID;
}

mf_status cli_score_lines(const cli_scoring *scoring, cli_score *scores, uint64_t *n_predicted, mf_error *error)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model_info_get(scoring->model, &info);
    uint32_t context = scoring->context ? scoring->context : info.max_positions;
    if (scoring->n_token < 2) return too_short(error);
    size_t last = scoring->n_token - 1; /* the last token is predicted, never read */
    if (scoring->full_only) last -= last % context;
    if (last <= scoring->first) return too_short(error);
    scorer s = { .scoring = scoring, .context = context, .n_line = scoring->n_line, .n_vocab = info.n_vocab };
    mf_status status = open_scorer(&s, error);
    for (size_t at = 0; at < last && status == MF_OK; at += context) {
        if (scoring->progress) scoring->progress(scoring->user, (double)at, (double)last);
        status = score_window(&s, scoring->tokens + at, last - at < context ? last - at : context, error);
    }
    if (status == MF_OK) {
        uint64_t n = sum_up(&s, scores);
        if (n_predicted) *n_predicted = n;
        if (scoring->positions) copy_positions(&s);
    }
    close_scorer(&s);
    return status;
}

mf_status cli_score_views(const cli_scoring *scoring, cli_score *scores, uint64_t *n_predicted, mf_error *error)
{
    size_t n_line = scoring->n_view + (scoring->reference != NULL);
    cli_line *lines = calloc(n_line, sizeof(*lines));
    cli_score *all = calloc(n_line, sizeof(*all));
    mf_status status = lines && all ? MF_OK : no_memory(error);
    for (size_t l = 0; l < n_line && status == MF_OK; l++)
        lines[l] = (cli_line){ .view = l < scoring->n_view ? scoring->views[l] : scoring->reference,
                               .reference = scoring->reference && l < scoring->n_view ? (int)scoring->n_view : -1 };
    cli_scoring with_lines = *scoring;
    with_lines.lines = lines;
    with_lines.n_line = n_line;
    if (status == MF_OK) status = cli_score_lines(&with_lines, all, n_predicted, error);
    for (size_t v = 0; v < scoring->n_view && status == MF_OK; v++)
        scores[v] = all[v];
    free(lines);
    free(all);
    return status;
}

cli_text cli_standard_error(double error)
{
    cli_text text = { "-" };
    if (error > 0) snprintf(text.text, sizeof text.text, "%.4f", error);
    return text;
}
