/* eval_positions.c - what views predict, by the position in the window that they predict from. */
#include "eval.h"

typedef enum measure { LOSS, KL, AGREEMENT } measure;

static double value_of(const cli_position_score *score, measure what)
{
    return what == LOSS ? score->loss : what == KL ? score->kl : score->agreement;
}

static const cli_position_score *positions_of(const evaluation *e, size_t view)
{
    return e->positions + view * e->context;
}

/* The mean over positions [from, to), each counting as often as it was predicted from. */
static double mean_over(const cli_position_score *scores, uint32_t from, uint32_t to, measure what)
{
    double sum = 0, n = 0;
    for (uint32_t p = from; p < to; p++) {
        sum += value_of(&scores[p], what) * (double)scores[p].n_token;
        n += (double)scores[p].n_token;
    }
    return n > 0 ? sum / n : 0;
}

static void print_measure(const evaluation *e, measure what, const char *title)
{
    char columns[4096];
    size_t used = (size_t)snprintf(columns, sizeof(columns), "positions|tokens");
    for (size_t v = 0; v < e->n_view && used < sizeof(columns); v++)
        used += (size_t)snprintf(columns + used, sizeof(columns) - used, "|%s", e->names[v]);
    cli_table *table = cli_table_create(columns);
    for (uint32_t from = 0, to; from < e->context; from = to) {
        to = from == 0 ? 1 : 2 * from;
        if (to > e->context) to = e->context;
        uint64_t n = 0;
        for (uint32_t p = from; p < to; p++)
            n += positions_of(e, 0)[p].n_token;
        if (n == 0) break;
        if (to - from == 1)
            cli_table_cell(table, "%u", from);
        else
            cli_table_cell(table, "%u-%u", from, to - 1);
        cli_table_cell(table, "%s", cli_thousands(n).text);
        for (size_t v = 0; v < e->n_view; v++) {
            double mean = mean_over(positions_of(e, v), from, to, what);
            cli_table_cell(table, what == AGREEMENT ? "%.1f %%" : "%.4f", what == AGREEMENT ? 100 * mean : mean);
        }
    }
    printf("\n%s, by the position that a token is predicted from\n\n", title);
    cli_table_print(table, stdout);
    cli_table_free(table);
}

void eval_print_positions(const evaluation *e)
{
    print_measure(e, LOSS, "Loss");
    if (!e->reference) return;
    print_measure(e, KL, "KL");
    print_measure(e, AGREEMENT, "Same top token");
}

json_t *eval_positions_json(const evaluation *e, size_t view)
{
    json_t *tokens = json_array(), *loss = json_array(), *kl = json_array(), *agreement = json_array();
    for (uint32_t p = 0; p < e->context && positions_of(e, view)[p].n_token > 0; p++) {
        const cli_position_score *score = &positions_of(e, view)[p];
        json_array_append_new(tokens, json_integer((json_int_t)score->n_token));
        json_array_append_new(loss, json_real(score->loss));
        if (!e->reference) continue;
        json_array_append_new(kl, json_real(score->kl));
        json_array_append_new(agreement, json_real(score->agreement));
    }
    json_t *out = json_pack("{s:o, s:o}", "tokens", tokens, "loss", loss);
    if (e->reference) {
        json_object_set(out, "kl", kl);
        json_object_set(out, "same_top_token", agreement);
    }
    json_decref(kl);
    json_decref(agreement);
    return out;
}
