/* plan_print.c - a plan as a table and as JSON. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plan.h"

const char *plan_cost_name(mf_plan_cost cost)
{
    static const char *const names[] = { "parameters", "bytes read per token", "FLOPs per token",
                                         "milliseconds per token" };
    return names[cost];
}

const char *plan_cost_unit(mf_plan_cost cost, double *unit)
{
    *unit = cost == MF_PLAN_MS ? 1 : 1e6;
    return cost == MF_PLAN_MS ? "ms" : cost == MF_PLAN_BYTES ? "MB" : "M";
}

double plan_entry_cost(const mf_plan_entry *entry, mf_plan_cost cost)
{
    switch (cost) {
    case MF_PLAN_PARAMS:
        break;
    case MF_PLAN_BYTES:
        return (double)entry->bytes_per_token;
    case MF_PLAN_FLOPS:
        return (double)entry->flops_per_token;
    case MF_PLAN_MS:
        return entry->decode_ms;
    }
    return (double)entry->n_param;
}

/* ---- For a person ---- */

static void print_entries(const plan_report *r)
{
    const plan_result *plan = &r->result[0];
    cli_table *table =
        cli_table_create(r->has_held_out ? "parameters|read per token|ms per token|prompt|loss|held out|KL|"
                                           "same top token|accepted|<view"
                                         : "parameters|read per token|ms per token|prompt|loss|KL|same top "
                                           "token|accepted|<view");
    for (uint32_t i = 0; i < plan->n_row; i++) {
        const plan_row *row = &plan->rows[i];
        cli_table_cell(table, "%s", cli_number((double)row->entry.n_param).text);
        cli_table_cell(table, "%s", cli_bytes((double)row->entry.bytes_per_token).text);
        cli_table_cell(table, "%.4g", row->entry.decode_ms);
        cli_table_cell(table, "%.4g", row->entry.prefill_ms);
        cli_table_cell(table, "%.4f", row->entry.loss);
        if (r->has_held_out) cli_table_cell(table, "%.4f", row->held_out);
        cli_table_cell(table, "%.4f", row->entry.kl);
        cli_table_cell(table, "%.1f %%", 100 * row->entry.agreement);
        cli_table_cell(table, "%.1f %%", 100 * row->entry.acceptance);
        cli_table_cell(table, "%s", row->text);
    }
    cli_table_print(table, stdout);
    cli_table_free(table);
}

static void print_methods(const plan_report *r)
{
    double unit;
    const char *name = plan_cost_unit(r->cost, &unit);
    cli_table *table =
        cli_table_create(r->has_held_out ? "<method|evaluations|entries|hypervolume|held out|of the planner's"
                                         : "<method|evaluations|entries|hypervolume|of the planner's");
    for (int m = 0; m < PLAN_METHODS; m++) {
        const plan_result *result = &r->result[m];
        if (!result->name) continue;
        const double area = r->has_held_out ? result->held_out_hypervolume : result->hypervolume;
        const double own = r->has_held_out ? r->result[0].held_out_hypervolume : r->result[0].hypervolume;
        cli_table_cell(table, "%s", result->name);
        cli_table_cell(table, "%u", result->n_evaluated);
        cli_table_cell(table, "%u", result->n_row);
        cli_table_cell(table, "%.5f", result->hypervolume / unit);
        if (r->has_held_out) cli_table_cell(table, "%.5f", result->held_out_hypervolume / unit);
        cli_table_cell(table, "%.4f", area / own);
    }
    printf(
        "\nHypervolume, in nats times %s: how far the loss lies below the narrowest size's, over all costs up to the "
        "widest's\n\n",
        name);
    cli_table_print(table, stdout);
    cli_table_free(table);
}

static void print_draft(const plan_report *r, int greedy)
{
    const mf_plan_draft *d = &r->draft[greedy];
    if (d->length == 0)
        printf("%s: no draft is expected to be of use\n", greedy ? "greedy" : "sampling");
    else
        printf("%s: %u token%s drafted by %s, %.1f %% of them accepted, %.2f of the time of the widest; verified in "
               "%.2f of "
               "it: %.2f times as fast\n",
               greedy ? "greedy" : "sampling", d->length, d->length == 1 ? "" : "s", r->result[0].rows[d->entry].text,
               100 * d->acceptance, d->cost, d->verify_cost, d->speedup);
}

void plan_print(const plan_report *r)
{
    int n_method = 0;
    for (int m = 0; m < PLAN_METHODS; m++)
        n_method += r->result[m].name != NULL;
    printf("%s: best widths for %s; measured on %s\n", r->path, plan_cost_name(r->cost), r->calibration);
    if (r->has_held_out) printf("held out: %s\n", r->held_out);
    if (r->machine[0]) printf("timed on %s, %u thread%s\n", r->machine, r->n_thread, r->n_thread == 1 ? "" : "s");
    printf("\n");
    print_entries(r);
    if (n_method > 1) print_methods(r);
    if (r->is_stored && r->machine[0]) {
        printf("\nSelf-speculation, the widest verifying\n\n");
        for (int greedy = 0; greedy < 2; greedy++)
            print_draft(r, greedy);
    }
    printf("\n%s\n", r->is_stored
                         ? "Stored in the file: sizes like \"params<=4e6\" and \"ms<=0.5\" are answered from it."
                         : "Not stored.");
}

/* ---- For a program ---- */

static json_t *row_json(const plan_report *r, const plan_row *row)
{
    json_t *object =
        json_pack("{s:o, s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "size", cli_json_string(row->text), "params",
                  (json_int_t)row->entry.n_param, "bytes_per_token", (json_int_t)row->entry.bytes_per_token,
                  "flops_per_token", (json_int_t)row->entry.flops_per_token, "loss", row->entry.loss, "kl",
                  row->entry.kl, "same_top_token", row->entry.agreement, "acceptance", row->entry.acceptance);
    if (r->has_held_out) json_object_set_new(object, "held_out_loss", json_real(row->held_out));
    if (row->entry.decode_ms > 0) {
        json_object_set_new(object, "decode_ms", json_real(row->entry.decode_ms));
        json_object_set_new(object, "prefill_ms", json_real(row->entry.prefill_ms));
    }
    return object;
}

static json_t *result_json(const plan_report *r, const plan_result *result)
{
    json_t *rows = json_array();
    for (uint32_t i = 0; i < result->n_row; i++)
        json_array_append_new(rows, row_json(r, &result->rows[i]));
    json_t *object = json_pack("{s:s, s:i, s:f, s:o}", "method", result->name, "evaluations", (int)result->n_evaluated,
                               "hypervolume", result->hypervolume, "entries", rows);
    if (r->has_held_out) json_object_set_new(object, "held_out_hypervolume", json_real(result->held_out_hypervolume));
    return object;
}

static json_t *draft_json(const plan_report *r, const mf_plan_draft *d)
{
    if (d->length == 0) return json_null();
    return json_pack("{s:i, s:o, s:i, s:f, s:f, s:f, s:f}", "entry", (int)d->entry, "size",
                     cli_json_string(r->result[0].rows[d->entry].text), "length", (int)d->length, "acceptance",
                     d->acceptance, "cost", d->cost, "verify_cost", d->verify_cost, "speedup", d->speedup);
}

json_t *plan_json(const plan_report *r)
{
    static const char *const costs[] = { "params", "bytes", "flops", "ms" };
    const char *file = strrchr(r->path, '/');
    json_t *plan = result_json(r, &r->result[0]), *others = json_array();
    for (int m = 1; m < PLAN_METHODS; m++)
        if (r->result[m].name) json_array_append_new(others, result_json(r, &r->result[m]));
    json_t *object = json_pack("{s:o, s:s, s:o, s:o, s:i, s:b, s:o, s:o}", "file",
                               cli_json_string(file ? file + 1 : r->path), "cost", costs[r->cost], "calibration",
                               cli_json_string(r->calibration), "machine", cli_json_string(r->machine), "threads",
                               (int)r->n_thread, "stored", (int)r->is_stored, "plan", plan, "compared", others);
    if (r->has_held_out) json_object_set_new(object, "held_out", cli_json_string(r->held_out));
    if (r->is_stored && r->machine[0])
        json_object_set_new(
            object, "draft",
            json_pack("{s:o, s:o}", "sampling", draft_json(r, &r->draft[0]), "greedy", draft_json(r, &r->draft[1])));
    return object;
}

mf_status plan_write_text(const char *path, const char *text, mf_error *error)
{
    char temporary[4096];
    snprintf(temporary, sizeof temporary, "%s.%ld.tmp", path, (long)getpid());
    FILE *file = fopen(temporary, "w");
    if (!file) return cli_fail_file(error, temporary);
    bool good = fputs(text, file) >= 0;
    good = fclose(file) == 0 && good;
    if (good && rename(temporary, path) == 0) return MF_OK;
    mf_status status = cli_fail_file(error, path);
    unlink(temporary);
    return status;
}
