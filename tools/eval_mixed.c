/* eval_mixed.c - `matformer eval --mixed`: what it costs a view to read a cache whose last positions another view wrote.
 *
 * Every window is run by each of the two alone, and by each after the other wrote the last so many positions before the
 * span that is scored. All of them run in one batch, so that the differences are of the same tokens. */
#include <stdlib.h>
#include <string.h>

#include "eval.h"

enum { MAX_HISTORY = 16, N_VIEW = 2, MAX_LINE = N_VIEW * (MAX_HISTORY + 1) };

typedef struct mixture {
    const char *names[N_VIEW];
    char text[256]; /* of which the names are parts */
    mf_submodel *views[N_VIEW];
    uint32_t history;              /* positions before the span */
    uint32_t written[MAX_HISTORY]; /* of them the last so many, ascending */
    size_t n_written;
    cli_line lines[MAX_LINE]; /* of each view: alone, and after the other wrote written[0], [1], ... */
    size_t n_line;
    cli_score scores[MAX_LINE];
} mixture;

static mf_status refuse(mf_error *error, const char *what)
{
    snprintf(error->detail, sizeof(error->detail), "%s", what);
    return error->status = MF_E_INVALID;
}

static mf_status read_views(mixture *m, const evaluation *e, mf_error *error)
{
    const char *colon = strchr(e->mixed, ':');
    if (!colon || strlen(e->mixed) >= sizeof(m->text)) return refuse(error, "--mixed wants two sizes, \"S:XL\"");
    memcpy(m->text, e->mixed, strlen(e->mixed) + 1);
    m->text[colon - e->mixed] = '\0';
    m->names[0] = m->text;
    m->names[1] = m->text + (colon - e->mixed) + 1;
    mf_status status = MF_OK;
    for (int v = 0; v < N_VIEW && status == MF_OK; v++)
        status = mf_extract_submodel_text(&m->views[v], e->model, m->names[v], error);
    return status;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* "128,512,all": those that there is room for, each once. */
static mf_status read_written(mixture *m, const evaluation *e, mf_error *error)
{
    uint32_t context = e->context;
    if (context <= e->span) return refuse(error, "--context must be above --span: no position would be written before");
    m->history = context - e->span;
    for (const char *at = e->written; *at;) {
        char *end = NULL;
        unsigned long n = strncmp(at, "all", 3) == 0 ? m->history : strtoul(at, &end, 10);
        const char *next = end ? end : at + 3;
        if (n == 0 || next == at || (*next && *next != ',') || *at == '-' || m->n_written == MAX_HISTORY)
            return refuse(error, "--written wants up to 16 numbers, \"32,128,all\"");
        if (n <= m->history) m->written[m->n_written++] = (uint32_t)n;
        at = *next ? next + 1 : next;
    }
    qsort(m->written, m->n_written, sizeof(*m->written), by_number);
    size_t kept = 0;
    for (size_t i = 0; i < m->n_written; i++)
        if (i == 0 || m->written[i] != m->written[kept - 1]) m->written[kept++] = m->written[i];
    m->n_written = kept;
    return kept ? MF_OK : refuse(error, "no number of --written has room before the span; give a larger --context");
}

static void make_lines(mixture *m)
{
    for (int v = 0; v < N_VIEW; v++) {
        int alone = (int)m->n_line;
        m->lines[m->n_line++] = (cli_line){ .view = m->views[v], .reference = -1 };
        for (size_t i = 0; i < m->n_written; i++)
            m->lines[m->n_line++] = (cli_line){ .view = m->views[v],
                                                .writer = m->views[1 - v],
                                                .written_from = m->history - m->written[i],
                                                .written_to = m->history,
                                                .reference = alone };
    }
}

static size_t lines_of_a_view(const mixture *m)
{
    return m->n_written + 1;
}

static int print_table(const evaluation *e, const mixture *m, uint64_t n_window)
{
    cli_table *table =
        cli_table_create("<reads and predicts|<wrote before it|loss|±|more than alone|±|KL|same top token");
    for (size_t l = 0; l < m->n_line; l++) {
        size_t view = l / lines_of_a_view(m), history = l % lines_of_a_view(m);
        const cli_score *score = &m->scores[l];
        cli_table_cell(table, "%s", m->names[view]);
        if (history == 0)
            cli_table_cell(table, "%s", m->names[view]);
        else
            cli_table_cell(table, "%s the last %u", m->names[1 - view], m->written[history - 1]);
        cli_table_cell(table, "%.4f", score->loss);
        cli_table_cell(table, "%s", cli_standard_error(score->loss_error).text);
        for (int i = 0; i < 4 && history == 0; i++)
            cli_table_cell(table, "%s", "");
        if (history == 0) continue;
        cli_table_cell(table, "%+.4f", score->difference);
        cli_table_cell(table, "%s", cli_standard_error(score->difference_error).text);
        cli_table_cell(table, "%.4f", score->kl);
        cli_table_cell(table, "%.1f %%", 100 * score->agreement);
    }
    printf("%s windows of %u tokens, of which the last %u are predicted; loss in nats per token, ± standard error over "
           "windows;\nKL and top token against the same size alone; %s arithmetic\n\n",
           cli_thousands(n_window).text, e->context, e->span, cli_arithmetic_name(e->info.arithmetic));
    cli_table_print(table, stdout);
    cli_table_free(table);
    return CLI_OK;
}

static int print_json(const evaluation *e, const mixture *m, uint64_t n_window)
{
    json_t *rows = json_array();
    for (size_t l = 0; l < m->n_line; l++) {
        size_t view = l / lines_of_a_view(m), history = l % lines_of_a_view(m);
        const cli_score *score = &m->scores[l];
        json_t *row =
            json_pack("{s:o, s:o, s:i, s:f, s:f}", "reader", cli_json_string(m->names[view]), "writer",
                      cli_json_string(m->names[history ? 1 - view : view]), "written",
                      history ? (int)m->written[history - 1] : 0, "loss", score->loss, "loss_error", score->loss_error);
        if (history) {
            json_object_set_new(row, "loss_difference", json_real(score->difference));
            json_object_set_new(row, "loss_difference_error", json_real(score->difference_error));
            json_object_set_new(row, "kl", json_real(score->kl));
            json_object_set_new(row, "same_top_token", json_real(score->agreement));
        }
        json_array_append_new(rows, row);
    }
    return cli_print_json(json_pack("{s:o, s:I, s:i, s:i, s:o, s:s}", "file", cli_json_string(e->path), "windows",
                                    (json_int_t)n_window, "context", (int)e->context, "span", (int)e->span, "mixed",
                                    rows, "arithmetic", cli_arithmetic_name(e->info.arithmetic)));
}

int eval_mixed(evaluation *e, mf_error *error)
{
    mixture m = { .n_line = 0 };
    mf_status status = read_views(&m, e, error);
    if (status == MF_OK) status = read_written(&m, e, error);
    uint64_t n_predicted = 0;
    if (status == MF_OK) {
        make_lines(&m);
        cli_scoring scoring = eval_scoring(e);
        scoring.lines = m.lines;
        scoring.n_line = m.n_line;
        scoring.first = m.history;
        scoring.full_only = true;
        status = cli_score_lines(&scoring, m.scores, &n_predicted, error);
        cli_progress_end();
    }
    int result = status != MF_OK ? cli_fail(error)
                 : e->json       ? print_json(e, &m, n_predicted / e->span)
                                 : print_table(e, &m, n_predicted / e->span);
    for (int v = 0; v < N_VIEW; v++)
        mf_submodel_close(m.views[v]);
    return result;
}
