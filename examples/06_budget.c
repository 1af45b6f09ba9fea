/* 06_budget MODEL [BUDGET...] - asks for what may be spent instead of a width.
 *
 * The file's plan (docs/planner.md) knows the best view for every budget. A budget is text like any other view:
 * "params<=3e6", "bytes<=6e6", "flops<=5e6", "ms<=0.5", or several of them; what was chosen can be asked for. */
#include <matformer.h>
#include <stdio.h>

static mf_status print_plan(const mf_model *model)
{
    mf_plan_info plan = MF_PLAN_INFO_INIT;
    mf_status status = mf_model_plan_info(model, &plan);
    if (status != MF_OK) return status;
    printf("The plan has %u views; milliseconds were measured on %s\n", (unsigned)plan.n_entry,
           plan.is_timed_here        ? "this machine"
           : plan.machine[0] != '\0' ? "another machine"
                                     : "none");
    for (uint32_t i = 0; i < plan.n_entry; i += 8) {
        char text[256];
        mf_plan_entry entry = MF_PLAN_ENTRY_INIT;
        entry.text = text;
        entry.text_capacity = sizeof text;
        if (mf_model_plan_entry(model, i, &entry) != MF_OK) continue;
        printf("  %-32s %6.2f M parameters, loss %.3f\n", text, 1e-6 * (double)entry.n_param, entry.loss);
    }
    return MF_OK;
}

/* Prints what a budget gets, or the sentence that says what it would take. */
static mf_status ask(mf_model *model, const char *budget)
{
    char text[256];
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view = NULL;
    mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
    mf_status status = mf_extract_submodel_text(&view, model, budget, &error);
    if (status == MF_OK) {
        mf_submodel_info_get(view, &info);
        mf_submodel_text(view, text, sizeof text, NULL);
        printf("%-16s gets %s: %.2f M parameters, %.2f MB read per token\n", budget, text, 1e-6 * (double)info.n_param,
               1e-6 * (double)info.bytes_per_token);
    } else {
        printf("%-16s gets nothing: %s\n", budget, error.detail);
    }
    mf_submodel_close(view);
    /* Too small a budget, and times of another machine, are answers too. */
    return status == MF_E_NOT_FOUND || status == MF_E_UNSUPPORTED ? MF_OK : status;
}

int main(int argc, char **argv)
{
    static const char *const budgets[] = { "params<=2e6", "params<=3e6", "bytes<=8e6", "ms<=0.2", "params<=1000" };
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL [BUDGET...]\n", argv[0]);
        return 2;
    }
    mf_status status = mf_model_open(&model, argv[1], NULL, &error);
    if (status != MF_OK) fprintf(stderr, "%s\n", error.detail);
    if (status == MF_OK && (status = print_plan(model)) != MF_OK)
        fprintf(stderr, "%s has no plan; `matformer plan` makes one\n", argv[1]);
    for (int i = 2; status == MF_OK && i < argc; i++)
        status = ask(model, argv[i]);
    for (size_t i = 0; status == MF_OK && argc == 2 && i < sizeof budgets / sizeof *budgets; i++)
        status = ask(model, budgets[i]);
    mf_model_close(model);
    return status != MF_OK;
}
