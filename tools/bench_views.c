/* bench_views.c - the cost of views. */
#include "bench.h"

enum { VIEWS_PER_BATCH = 20000, MAX_ROUND = 100 };

/* Seconds for one view, creation and closing. */
static mf_status time_views(const bench *b, const mf_submodel_spec *spec, const char *text, double *seconds,
                            mf_error *error)
{
    mf_status status = MF_OK;
    double began = cli_now();
    for (int i = 0; i < VIEWS_PER_BATCH && status == MF_OK; i++) {
        mf_submodel *view;
        status = text ? mf_extract_submodel_text(&view, b->model, text, error)
                      : mf_extract_submodel(&view, b->model, spec, error);
        mf_submodel_close(view);
    }
    *seconds = (cli_now() - began) / VIEWS_PER_BATCH;
    return status;
}

mf_status bench_views(const bench *b, json_t *out, mf_error *error)
{
    uint32_t ffn[512];
    mf_submodel_spec name = MF_SUBMODEL_SPEC_INIT, list = MF_SUBMODEL_SPEC_INIT, budget = MF_SUBMODEL_SPEC_INIT;
    mf_plan_info plan = MF_PLAN_INFO_INIT;
    budget.max_params = budget.max_bytes = budget.max_flops = UINT64_MAX;
    name.granularity = mf_model_granularity(b->model, 0);
    size_t n_layer = b->info.n_layer < CLI_COUNT(ffn) ? b->info.n_layer : CLI_COUNT(ffn);
    for (size_t i = 0; i < n_layer; i++)
        ffn[i] = b->info.d_ff / (i % 2 ? 1 : 2) / b->info.quantum * b->info.quantum;
    list.ffn = ffn;
    list.n_ffn = n_layer;
    const struct {
        const char *what;
        const mf_submodel_spec *spec;
        const char *text;
    } kinds[] = { { "by name", &name, NULL },
                  { "width per layer", &list, NULL },
                  { "from text", NULL, "0.5" },
                  { "by budgets", &budget, NULL } };
    /* Budgets last: only a file with a plan answers them. */
    const size_t n_kind = CLI_COUNT(kinds) - (mf_model_plan_info(b->model, &plan) != MF_OK);
    double seconds[CLI_COUNT(kinds)][MAX_ROUND];
    mf_status status = MF_OK;
    bench_title(b, "Views: creating and closing one, median of %u batches of %d", b->rounds, VIEWS_PER_BATCH);
    for (uint32_t r = 0; r < b->rounds; r++)
        for (size_t k = 0; k < n_kind && status == MF_OK; k++)
            status = time_views(b, kinds[k].spec, kinds[k].text, &seconds[k][r], error);
    if (status != MF_OK) return status;
    cli_table *table = cli_table_create("<specification|time");
    json_t *object = json_object();
    for (size_t k = 0; k < n_kind; k++) {
        double median = bench_median(seconds[k], b->rounds);
        cli_table_cell(table, "%s", kinds[k].what);
        cli_table_cell(table, "%s", cli_seconds(median).text);
        json_object_set_new(object, kinds[k].what, json_real(median));
    }
    if (!b->json) cli_table_print(table, stdout);
    cli_table_free(table);
    json_object_set_new(out, "view_seconds", object);
    return MF_OK;
}
