/* plan.h - what `matformer plan` has measured, for its table, its JSON and its picture. */
#ifndef PLAN_H
#define PLAN_H

#include "cli_model.h"
#include "matformer_tools.h"

enum { PLAN_METHODS = 4, PLAN_ROW_TEXT = 4096 };

/* Entries of one method's plan. */
typedef struct plan_row {
    mf_plan_entry entry;
    char text[PLAN_ROW_TEXT];
    double cost, held_out; /* of the kind that was planned for; its loss on the held-out text, or NaN */
} plan_row;

typedef struct plan_result {
    const char *name; /* "planner", "rule of thumb", ...; NULL: not made */
    plan_row *rows;
    uint32_t n_row, n_evaluated;
    double hypervolume, held_out_hypervolume;
    double seconds;
} plan_result;

typedef struct plan_report {
    const char *path;
    mf_plan_cost cost;
    plan_result result[PLAN_METHODS]; /* by mf_plan_method; [0] the plan */
    const char *names[16];            /* the file's granularities, and their points: */
    double name_cost[16], name_loss[16], name_held_out[16];
    uint32_t n_name;
    char calibration[400], held_out[400];
    const char *machine;
    uint32_t n_thread;
    bool has_held_out, is_stored;
    mf_plan_draft draft[2]; /* sampling, greedy; length 0: none */
} plan_report;

/* "parameters", "M": what the costs are, and their unit, by which they are divided. */
const char *plan_cost_name(mf_plan_cost cost);
const char *plan_cost_unit(mf_plan_cost cost, double *unit);
double plan_entry_cost(const mf_plan_entry *entry, mf_plan_cost cost);

void plan_print(const plan_report *report);
json_t *plan_json(const plan_report *report);
mf_status plan_write_svg(const plan_report *report, const char *path, mf_error *error);
/* Writes under a temporary name and renames. */
mf_status plan_write_text(const char *path, const char *text, mf_error *error);

#endif
