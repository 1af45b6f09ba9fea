/* bench_kernels_report.c - products as a table and as JSON. */
#include "bench_kernels.h"

/* The least ratio of those that are no ceiling; 0: there is none. Medians sort, which does no harm any more. */
static double ratio_to_best(contest *t, size_t *best)
{
    double least = 0;
    *best = 0;
    for (size_t i = 1; i <= t->peers.count; i++) {
        if (!t->sides[i].takes_part || t->peers.items[i - 1].ceiling) continue;
        const double ratio = bench_median(t->sides[i].ratio, t->b->rounds);
        if (*best == 0 || ratio < least) least = ratio, *best = i;
    }
    return least;
}

static json_t *describe_peers(contest *t, double operations)
{
    json_t *all = json_object();
    for (size_t i = 1; i <= t->peers.count; i++) {
        side *s = &t->sides[i];
        if (!s->takes_part) continue;
        json_object_set_new(all, t->peers.items[i - 1].name,
                            json_pack("{s:f, s:f, s:b, s:o}", "ops_per_second",
                                      operations / bench_median(s->seconds, t->b->rounds), "ratio",
                                      bench_median(s->ratio, t->b->rounds), "ceiling", t->peers.items[i - 1].ceiling,
                                      "kernels", cli_json_string(s->kernels[0] ? s->kernels : NULL)));
    }
    return all;
}

void bench_kernels_report(contest *t, const point *p)
{
    const uint32_t rounds = t->b->rounds;
    const double operations = 2.0 * (double)p->m * (double)p->n * (double)p->k;
    const double seconds = bench_median(t->sides[0].seconds, rounds), share = bench_median(t->share, rounds);
    const double read = bench_product_weight_bytes(t->product, p->n, p->k) / seconds;
    size_t best;
    const double ratio = ratio_to_best(t, &best);
    cli_table_cell(t->table, "%s", p->matrix);
    cli_table_cell(t->table, "1/%u", p->divisor);
    cli_table_cell(t->table, "%zu", p->m);
    cli_table_cell(t->table, "%zu", p->n);
    cli_table_cell(t->table, "%zu", p->k);
    cli_table_cell(t->table, "%.1f", 1e-9 * operations / seconds);
    cli_table_cell(t->table, "%.0f %%", 100 * share);
    cli_table_cell(t->table, "%s", p->m == 1 ? cli_format("%.1f", 1e-9 * read).text : "");
    for (size_t i = 1; i <= t->peers.count; i++) {
        const double theirs = t->sides[i].takes_part ? bench_median(t->sides[i].seconds, rounds) : 0;
        cli_table_cell(t->table, "%s", theirs > 0 ? cli_format("%.1f", 1e-9 * operations / theirs).text : "-");
    }
    cli_table_cell(t->table, "%s", best ? cli_format("%.2f", ratio).text : "-");
    json_t *line =
        json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:f, s:f, s:f, s:o}", "type", t->type, "matrix", p->matrix,
                  "width_divisor", (int)p->divisor, "m", (int)p->m, "n", (int)p->n, "k", (int)p->k, "ops_per_second",
                  operations / seconds, "peak_ops_per_second", bench_median(t->peak, rounds), "share_of_peak", share,
                  "peers", describe_peers(t, operations));
    if (p->m == 1) json_object_set_new(line, "weight_bytes_per_second", json_real(read));
    if (best) json_object_set_new(line, "best_peer", cli_json_string(t->peers.items[best - 1].name));
    if (best) json_object_set_new(line, "ratio", json_real(ratio));
    json_array_append_new(t->list, line);
}

cli_table *bench_kernels_table(const contest *t)
{
    char columns[256 + BENCH_MAX_PEER * (sizeof(t->peers.items[0].name) + 10)];
    int at = snprintf(columns, sizeof(columns), "<matrix|width|rows|n|k|ours|of peak|GB/s");
    for (size_t i = 0; i < t->peers.count; i++)
        at += snprintf(columns + at, sizeof(columns) - (size_t)at, "|%s%s", t->peers.items[i].name,
                       t->peers.items[i].ceiling ? " (ceiling)" : "");
    snprintf(columns + at, sizeof(columns) - (size_t)at, "|ratio");
    return cli_table_create(columns);
}

/* What each took at the last point. */
void bench_kernels_print(contest *t)
{
    if (t->b->json) return;
    cli_table_print(t->table, stdout);
    printf("Kernels: ours for %s", t->cpu);
    for (size_t i = 1; i <= t->peers.count; i++)
        printf("; %s %s", t->peers.items[i - 1].name,
               !t->sides[i].takes_part  ? "does not take part"
               : t->sides[i].kernels[0] ? t->sides[i].kernels
                                        : "does not say");
    printf(".\n");
}
