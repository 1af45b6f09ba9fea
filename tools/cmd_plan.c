/* cmd_plan.c - `matformer plan`: which widths are best for a budget, measured, compared, drawn and stored in the file. */
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_corpus.h"
#include "cli_image.h"
#include "cli_outputs.h"
#include "commands.h"
#include "plan.h"

enum { SAMPLE = 16384, MAX_BUDGET = 1000 };

/* Tokens of a text, in whole windows that are spread evenly over it. */
typedef struct sample {
    int32_t *tokens;
    size_t n_token;
} sample;

typedef struct planning {
    /* options */
    const char *path, *out, *svg, *resume;
    cli_list texts, held_out_texts, images;
    uint32_t n_evaluation, n_entry, n_sample, context, n_thread, rounds, n_budget;
    double time_limit;
    uint64_t seed;
    int cost, arithmetic;
    bool measure, compare, no_store, self_text, json;
    /* objects */
    mf_model *model;
    mf_model_info info;
    cli_corpus corpus, held_out_corpus;
    sample text, held_out;
    float *pixels; /* of all images */
    plan_report report;
    mf_plan *plan;
    atomic_bool interrupted;
    const char *doing;
} planning;

static const char *const methods[PLAN_METHODS] = { "planner", "rule of thumb", "uniform", "random" };

static int show(void *user, uint64_t done, uint64_t total)
{
    planning *p = user;
    cli_progress(p->doing, (double)done, (double)total);
    return atomic_load(&p->interrupted);
}

static void interrupt(void *user)
{
    atomic_store(&((planning *)user)->interrupted, true);
}

static mf_status no_memory(mf_error *error)
{
    snprintf(error->detail, sizeof error->detail, "out of memory");
    return error->status = MF_E_NOMEM;
}

/* ---- Texts ---- */

static mf_status encode(void *user, const char *text, size_t bytes, int32_t *tokens, size_t *n_token, mf_error *error)
{
    const mf_status status = mf_tokenize(user, text, bytes, tokens, bytes, n_token);
    if (status == MF_OK) return MF_OK;
    snprintf(error->detail, sizeof error->detail, "the model has no tokenizer, so that no text can be measured");
    return error->status = status;
}

static mf_status take_sample(const planning *p, const cli_corpus *corpus, sample *out, mf_error *error)
{
    const size_t context = p->context, all = corpus->n_token / context;
    const size_t n = all < p->n_sample / context ? all : p->n_sample / context;
    out->tokens = malloc((n ? n * context : corpus->n_token + 1) * sizeof *out->tokens);
    if (!out->tokens) return no_memory(error);
    for (size_t i = 0; i < n; i++)
        memcpy(out->tokens + i * context, corpus->tokens + (n > 1 ? i * (all - 1) / (n - 1) : 0) * context,
               context * sizeof *out->tokens);
    if (n == 0) memcpy(out->tokens, corpus->tokens, corpus->n_token * sizeof *out->tokens); /* a text of one window */
    out->n_token = n ? n * context : corpus->n_token;
    return MF_OK;
}

/* ---- Text that the widest view writes ---- */

static int take_token(void *user, const mf_token_event *event)
{
    sample *s = user;
    s->tokens[s->n_token++] = event->token;
    return 0;
}

/* One window: a start token and what is drawn after it. */
static mf_status write_window(planning *p, mf_executor *executor, mf_session *session, mf_sampler *sampler,
                              const mf_submodel *widest, mf_error *error)
{
    const int32_t start = cli_start_token(p->model) >= 0 ? cli_start_token(p->model) : 0;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.tokens = &start;
    options.n_token = 1;
    options.max_tokens = p->context - 1;
    options.sampler = sampler;
    options.ignore_eos = 1;
    options.on_token = take_token;
    options.user = &p->text;
    p->text.tokens[p->text.n_token++] = start;
    mf_session_rewind(session, 0);
    return mf_generate(executor, session, widest, &options, NULL, error);
}

static mf_status write_text(planning *p, mf_error *error)
{
    const uint32_t n_window = p->n_sample / p->context > 0 ? p->n_sample / p->context : 1;
    mf_executor *executor = NULL;
    mf_session *session = NULL;
    mf_submodel *widest = NULL;
    mf_executor_options executor_options = MF_EXECUTOR_OPTIONS_INIT;
    mf_session_options session_options = MF_SESSION_OPTIONS_INIT;
    executor_options.n_thread = p->n_thread;
    session_options.max_positions = p->context;
    p->text.tokens = malloc((size_t)n_window * p->context * sizeof *p->text.tokens);
    mf_status status = p->text.tokens ? MF_OK : no_memory(error);
    if (status == MF_OK) status = mf_extract_submodel(&widest, p->model, NULL, error);
    if (status == MF_OK) status = mf_executor_create(&executor, p->model, &executor_options, error);
    if (status == MF_OK) status = mf_session_create(&session, p->model, &session_options, error);
    for (uint32_t i = 0; i < n_window && status == MF_OK && !p->interrupted; i++) {
        mf_sampler *sampler = NULL;
        mf_sampler_options options = MF_SAMPLER_OPTIONS_INIT;
        options.temperature = 1;
        options.seed = p->seed + i;
        cli_progress("writing text", i, n_window);
        status = mf_sampler_create(&sampler, p->model, &options, error);
        if (status == MF_OK) status = write_window(p, executor, session, sampler, widest, error);
        mf_sampler_close(sampler);
    }
    cli_progress_end();
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(widest);
    snprintf(p->report.calibration, sizeof p->report.calibration,
             "%zu tokens, windows of %u, drawn from the widest view", p->text.n_token, p->context);
    return status;
}

static void describe(const planning *p, const cli_corpus *corpus, const sample *s, char text[400])
{
    const char *path = corpus->documents[0].path, *name = strrchr(path, '/');
    snprintf(text, 400, "%zu tokens, windows of %u, from %zu text%s (%.200s%s)", s->n_token, p->context, corpus->count,
             corpus->count == 1 ? "" : "s", name ? name + 1 : path, corpus->count == 1 ? "" : ", ...");
}

/* Calibration text never has what is held out, also where a folder has both. */
static mf_status read_texts(planning *p, mf_error *error)
{
    mf_status status = MF_OK;
    const int32_t start = cli_start_token(p->model);
    const bool holds_out = p->held_out_texts.count > 0;
    if (holds_out) status = cli_corpus_read(&p->held_out_corpus, &p->held_out_texts, NULL, error);
    if (status == MF_OK) status = cli_corpus_read(&p->corpus, &p->texts, holds_out ? &p->held_out_corpus : NULL, error);
    if (status == MF_OK) status = cli_corpus_encode(&p->corpus, start, encode, p->model, error);
    if (status == MF_OK) status = take_sample(p, &p->corpus, &p->text, error);
    if (status == MF_OK && holds_out) status = cli_corpus_encode(&p->held_out_corpus, start, encode, p->model, error);
    if (status == MF_OK && holds_out) status = take_sample(p, &p->held_out_corpus, &p->held_out, error);
    if (status != MF_OK) return status;
    describe(p, &p->corpus, &p->text, p->report.calibration);
    if (holds_out) describe(p, &p->held_out_corpus, &p->held_out, p->report.held_out);
    p->report.has_held_out = holds_out;
    return MF_OK;
}

static mf_status read_images(planning *p, mf_error *error)
{
    const size_t bytes = cli_pixels_bytes(&p->info), n = p->images.count;
    if (bytes == 0) {
        snprintf(error->detail, sizeof error->detail, "%s: the model takes no images; give --text", p->path);
        return error->status = MF_E_UNSUPPORTED;
    }
    p->pixels = malloc(n * bytes);
    if (!p->pixels) return no_memory(error);
    mf_status status = MF_OK;
    for (size_t i = 0; i < n && status == MF_OK; i++)
        status = cli_read_pixels(&p->info, p->images.items[i], p->pixels + i * (bytes / sizeof(float)), error);
    snprintf(p->report.calibration, sizeof p->report.calibration, "%zu image%s (%.200s%s)", n, n == 1 ? "" : "s",
             p->images.items[0], n == 1 ? "" : ", ...");
    return status;
}

static mf_status read_calibration(planning *p, mf_error *error)
{
    if (p->images.count > 0) return read_images(p, error);
    return p->self_text ? write_text(p, error) : read_texts(p, error);
}

/* What is written at the end is looked at before anything is measured, and replaces nothing that was read. */
static mf_status check_outputs(const planning *p, mf_error *error)
{
    const cli_output outputs[] = { { "out", p->out }, { "svg", p->svg }, { "resume", p->resume } };
    mf_status status = cli_outputs_differ(outputs, CLI_COUNT(outputs), error);
    for (size_t i = 0; i < CLI_COUNT(outputs) && status == MF_OK; i++) {
        status = cli_output_spares(&outputs[i], p->path, "the model", error);
        for (size_t j = 0; j < p->images.count && status == MF_OK; j++)
            status = cli_output_spares(&outputs[i], p->images.items[j], "an image", error);
        if (status == MF_OK) status = cli_output_spares_texts(&outputs[i], &p->corpus, "text", error);
        if (status == MF_OK) status = cli_output_spares_texts(&outputs[i], &p->held_out_corpus, "held-out", error);
        if (status == MF_OK) status = cli_output_can_be_written(&outputs[i], error);
    }
    if (status != MF_OK || p->no_store || access(p->path, W_OK) == 0) return status;
    snprintf(error->detail, sizeof error->detail, "%s: no plan can be stored there: %s; --no-store stores none",
             p->path, strerror(errno));
    return error->status = MF_E_IO;
}

/* ---- Results ---- */

static mf_plan_options options_of(planning *p, const char *doing)
{
    mf_plan_options options = MF_PLAN_OPTIONS_INIT;
    p->doing = doing;
    options.context = p->context;
    options.n_thread = p->n_thread;
    options.progress = show;
    options.progress_user = p;
    return options;
}

static mf_status fill_rows(planning *p, const mf_plan *plan, int method, mf_error *error)
{
    plan_result *result = &p->report.result[method];
    mf_plan_entry entry = MF_PLAN_ENTRY_INIT;
    result->name = methods[method];
    while (mf_plan_entry_get(plan, 0, result->n_row, &entry) == MF_OK)
        result->n_row++;
    while (mf_plan_entry_get(plan, 1, result->n_evaluated, &entry) == MF_OK)
        result->n_evaluated++;
    free(result->rows);
    result->rows = calloc(result->n_row, sizeof *result->rows);
    if (!result->rows) return no_memory(error);
    for (uint32_t i = 0; i < result->n_row; i++) {
        plan_row *row = &result->rows[i];
        row->entry = (mf_plan_entry)MF_PLAN_ENTRY_INIT;
        row->entry.text = row->text;
        row->entry.text_capacity = sizeof row->text;
        mf_plan_entry_get(plan, 0, i, &row->entry);
        row->cost = plan_entry_cost(&row->entry, (mf_plan_cost)p->cost);
        row->held_out = NAN;
    }
    return MF_OK;
}

/* RECORD, and RECORD.PART for what is measured beside the plan; NULL where there is none. */
static const char *record_path(const planning *p, const char *part, char *path, size_t capacity)
{
    if (!p->resume || !part) return p->resume;
    snprintf(path, capacity, "%s.%s", p->resume, part);
    return path;
}

/* The losses of texts' views on the held-out text; `text` and `loss` are `stride` bytes apart. */
static mf_status score_texts(planning *p, const char *text, double *loss, size_t stride, uint32_t n, mf_error *error)
{
    mf_submodel **views = calloc(n, sizeof(*views));
    double *losses = calloc(n, sizeof *losses);
    char path[4096];
    mf_status status = views && losses ? MF_OK : no_memory(error);
    mf_plan_options options = options_of(p, "held-out text");
    options.resume = record_path(p, "held-out", path, sizeof path);
    options.tokens = p->held_out.tokens;
    options.n_token = p->held_out.n_token;
    for (uint32_t i = 0; i < n && status == MF_OK; i++)
        status = mf_extract_submodel_text(&views[i], p->model, text + i * stride, error);
    if (status == MF_OK)
        status = mf_plan_score_views(p->model, (const mf_submodel *const *)views, n, &options, losses, error);
    for (uint32_t i = 0; i < n && status == MF_OK; i++)
        memcpy((char *)loss + i * stride, &losses[i], sizeof *losses);
    for (uint32_t i = 0; views && i < n; i++)
        mf_submodel_close(views[i]);
    free(views);
    free(losses);
    cli_progress_end();
    return status;
}

/* Where the sizes that the file names lie: every method has evaluated them. */
static mf_status find_sizes(planning *p, mf_error *error)
{
    plan_report *r = &p->report;
    for (uint32_t g = 0; g < p->info.n_granularity && g < CLI_COUNT(r->names); g++) {
        char text[PLAN_ROW_TEXT];
        mf_plan_entry entry = MF_PLAN_ENTRY_INIT;
        entry.text = text;
        entry.text_capacity = sizeof text;
        const char *name = mf_model_granularity(p->model, g);
        for (uint32_t i = 0; mf_plan_entry_get(p->plan, 1, i, &entry) == MF_OK; i++) {
            if (strcmp(text, name) != 0) continue;
            r->names[r->n_name] = name;
            r->name_cost[r->n_name] = plan_entry_cost(&entry, (mf_plan_cost)p->cost);
            r->name_loss[r->n_name] = entry.loss;
            r->name_held_out[r->n_name] = NAN;
            if (p->report.has_held_out) {
                const mf_status status = score_texts(p, name, &r->name_held_out[r->n_name], sizeof(double), 1, error);
                if (status != MF_OK) return status;
            }
            r->n_name++;
            break;
        }
    }
    return MF_OK;
}

static void find_hypervolumes(planning *p)
{
    plan_report *r = &p->report;
    if (r->n_name == 0) return;
    const double most = r->result[0].rows[r->result[0].n_row - 1].cost;
    for (int m = 0; m < PLAN_METHODS; m++) {
        plan_result *result = &r->result[m];
        double *values = calloc(3 * (size_t)result->n_row + 1, sizeof *values);
        for (uint32_t i = 0; values && i < result->n_row; i++) {
            values[i] = result->rows[i].cost;
            values[result->n_row + i] = result->rows[i].entry.loss;
            values[2 * result->n_row + i] = result->rows[i].held_out;
        }
        if (!values) continue;
        result->hypervolume = mf_plan_hypervolume(values, values + result->n_row, result->n_row, most, r->name_loss[0]);
        if (r->has_held_out)
            result->held_out_hypervolume =
                mf_plan_hypervolume(values, values + 2 * result->n_row, result->n_row, most, r->name_held_out[0]);
        free(values);
    }
}

/* ---- Steps ---- */

static mf_status make(planning *p, int method, mf_plan **plan, mf_error *error)
{
    char path[4096], part[2] = { (char)('0' + method), '\0' };
    mf_plan_options options = options_of(p, methods[method]);
    options.tokens = p->text.tokens;
    options.n_token = p->text.n_token;
    options.pixels = p->pixels;
    options.n_image = p->images.count;
    options.calibration = p->report.calibration;
    options.cost = (mf_plan_cost)p->cost;
    options.method = (mf_plan_method)method;
    options.n_evaluation = p->n_evaluation;
    options.n_entry = p->compare ? 4096 : p->n_entry; /* none is left out of what is compared */
    options.time_limit_s = p->time_limit;
    options.seed = p->seed;
    options.resume = record_path(p, method == 0 ? NULL : part, path, sizeof path);
    const mf_status status = mf_plan_make(plan, p->model, &options, error);
    cli_progress_end();
    return status;
}

static mf_status time_entries(planning *p, mf_plan *plan, mf_error *error)
{
    mf_plan_options options = options_of(p, "timing");
    const mf_status status = mf_plan_time(plan, p->model, &options, p->rounds, error);
    cli_progress_end();
    return status;
}

static mf_status add_method(planning *p, int method, mf_error *error)
{
    mf_plan *plan = NULL;
    mf_status status = make(p, method, &plan, error);
    if (status == MF_OK && p->cost == MF_PLAN_MS) status = time_entries(p, plan, error);
    if (status == MF_OK) status = fill_rows(p, plan, method, error);
    mf_plan_close(plan);
    return status;
}

static mf_status score_held_out(planning *p, mf_error *error)
{
    mf_status status = MF_OK;
    for (int m = 0; m < PLAN_METHODS && status == MF_OK && p->report.has_held_out; m++) {
        plan_result *result = &p->report.result[m];
        if (result->n_row > 0)
            status = score_texts(p, result->rows[0].text, &result->rows[0].held_out, sizeof *result->rows,
                                 result->n_row, error);
    }
    return status;
}

static mf_status make_and_compare(planning *p, mf_error *error)
{
    mf_status status = make(p, MF_PLAN_SEARCH, &p->plan, error);
    if (status == MF_OK) status = time_entries(p, p->plan, error);
    if (status == MF_OK) status = fill_rows(p, p->plan, MF_PLAN_SEARCH, error);
    for (int method = 1; method < PLAN_METHODS && p->compare && status == MF_OK; method++)
        status = add_method(p, method, error);
    if (status == MF_OK) status = score_held_out(p, error);
    if (status == MF_OK) status = find_sizes(p, error);
    if (status == MF_OK) find_hypervolumes(p);
    return status;
}

/* After it was stored: opens the file anew, whose plan says what drafts it has. */
static mf_status look_up(planning *p, mf_error *error)
{
    mf_plan_info info = MF_PLAN_INFO_INIT;
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.arithmetic = (mf_arithmetic)p->arithmetic;
    mf_model *stored = p->model;
    mf_status status = MF_OK;
    if (p->report.is_stored) {
        status = cli_model_open(&stored, p->path, &options, error);
        if (status != MF_OK) return status;
        mf_model_close(p->model);
        p->model = stored;
    }
    for (int greedy = 0; greedy < 2; greedy++) {
        p->report.draft[greedy] = (mf_plan_draft)MF_PLAN_DRAFT_INIT;
        if (p->report.is_stored) mf_model_plan_draft(p->model, greedy, &p->report.draft[greedy]);
    }
    p->report.machine = "";
    if (mf_model_plan_info(p->model, &info) != MF_OK) return MF_OK;
    if (p->report.is_stored) p->report.machine = info.machine;
    p->report.n_thread = info.n_thread;
    if (p->measure) snprintf(p->report.calibration, sizeof p->report.calibration, "%s", info.calibration);
    return MF_OK;
}

static mf_status make_plan(planning *p, mf_error *error)
{
    mf_status status = p->measure ? MF_OK : read_calibration(p, error);
    if (status == MF_OK) status = check_outputs(p, error);
    if (status == MF_OK && p->measure) {
        status = mf_plan_read(&p->plan, p->model, error);
        if (status == MF_OK) status = time_entries(p, p->plan, error);
        if (status == MF_OK) status = fill_rows(p, p->plan, 0, error);
    } else if (status == MF_OK) {
        status = make_and_compare(p, error);
    }
    if (status == MF_OK && !p->no_store) {
        status = mf_plan_store(p->plan, p->path, error);
        p->report.is_stored = status == MF_OK;
    }
    /* Names of sizes live as long as the model: they are drawn before it is opened anew. */
    if (status == MF_OK && p->svg) status = plan_write_svg(&p->report, p->svg, error);
    return status == MF_OK ? look_up(p, error) : status;
}

static mf_status write_json(const planning *p, mf_error *error)
{
    json_t *object = plan_json(&p->report);
    char *text = object ? json_dumps(object, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    const mf_status status = text ? plan_write_text(p->out, text, error) : no_memory(error);
    free(text);
    return status;
}

/* ---- Checking budgets ---- */

typedef struct budget {
    double ms, promised, measured; /* promised: the chosen entry's time */
    char text[PLAN_ROW_TEXT];
} budget;

/* The stored time of the entry that a view is. */
static double promise_of(const mf_model *model, const char *view, double *widest)
{
    char text[PLAN_ROW_TEXT];
    double promised = NAN;
    mf_plan_entry entry = MF_PLAN_ENTRY_INIT;
    entry.text = text;
    entry.text_capacity = sizeof text;
    for (uint32_t i = 0; mf_model_plan_entry(model, i, &entry) == MF_OK; i++) {
        if (strcmp(text, view) == 0) promised = entry.decode_ms;
        *widest = entry.decode_ms;
    }
    return promised;
}

static mf_status take_budgets(planning *p, budget *budgets, mf_submodel **views, double *widest, mf_error *error)
{
    mf_plan_entry entry = MF_PLAN_ENTRY_INIT;
    double least = HUGE_VAL, most = 0;
    for (uint32_t i = 0; mf_model_plan_entry(p->model, i, &entry) == MF_OK; i++) {
        least = fmin(least, entry.decode_ms);
        most = fmax(most, entry.decode_ms);
    }
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < p->n_budget && status == MF_OK; i++) {
        mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
        spec.max_ms = budgets[i].ms = p->n_budget > 1 ? least + (most - least) * i / (p->n_budget - 1) : most;
        spec.max_ms *= 1 + 1e-9; /* the least itself fits */
        status = mf_extract_submodel(&views[i], p->model, &spec, error);
        if (status != MF_OK) break;
        mf_submodel_text(views[i], budgets[i].text, sizeof budgets[i].text, NULL);
        budgets[i].promised = promise_of(p->model, budgets[i].text, widest);
    }
    return status;
}

static int report_budgets(const planning *p, const budget *budgets, double widest, double reference)
{
    uint32_t n_kept = 0;
    cli_table *table = cli_table_create("budget ms|promised|measured|promised to widest|measured to widest|off|<view");
    json_t *rows = json_array();
    for (uint32_t i = 0; i < p->n_budget; i++) {
        const budget *b = &budgets[i];
        const double promised = b->promised / widest, measured = b->measured / reference;
        const double off = measured / promised - 1;
        n_kept += fabs(off) <= 0.1;
        cli_table_cell(table, "%.4f", b->ms);
        cli_table_cell(table, "%.4f", b->promised);
        cli_table_cell(table, "%.4f", b->measured);
        cli_table_cell(table, "%.3f", promised);
        cli_table_cell(table, "%.3f", measured);
        cli_table_cell(table, "%+.1f %%", 100 * off);
        cli_table_cell(table, "%s", b->text);
        json_array_append_new(rows, json_pack("{s:f, s:f, s:f, s:f, s:s}", "budget_ms", b->ms, "promised_ms",
                                              b->promised, "measured_ms", b->measured, "off", off, "size", b->text));
    }
    int status = CLI_OK;
    if (p->json) {
        status = cli_print_json(json_pack("{s:i, s:i, s:f, s:o}", "budgets", (int)p->n_budget, "within_10_percent",
                                          (int)n_kept, "widest_ms", reference, "rows", rows));
    } else {
        cli_table_print(table, stdout);
        printf("\n%u of %u within 10 %%, as ratios to the widest, which takes %.4f ms here now and took %.4f\n", n_kept,
               p->n_budget, reference, widest);
        json_decref(rows);
    }
    cli_table_free(table);
    return status;
}

static int check_budgets(planning *p, mf_error *error)
{
    budget *budgets = calloc(p->n_budget, sizeof *budgets);
    mf_submodel **views = calloc(p->n_budget, sizeof(*views)), *widest = NULL;
    double *ms = calloc(p->n_budget, sizeof *ms), promised = NAN, reference = 0;
    mf_status status = budgets && views && ms ? MF_OK : no_memory(error);
    mf_plan_options options = options_of(p, "budgets");
    if (status == MF_OK) status = take_budgets(p, budgets, views, &promised, error);
    if (status == MF_OK) status = mf_extract_submodel(&widest, p->model, NULL, error);
    if (status == MF_OK)
        status = mf_plan_time_views(p->model, (const mf_submodel *const *)views, p->n_budget, widest, &options,
                                    p->rounds, ms, &reference, error);
    cli_progress_end();
    for (uint32_t i = 0; i < p->n_budget && status == MF_OK; i++)
        budgets[i].measured = ms[i];
    const int result = status == MF_OK ? report_budgets(p, budgets, promised, reference) : CLI_FAILED;
    for (uint32_t i = 0; views && i < p->n_budget; i++)
        mf_submodel_close(views[i]);
    mf_submodel_close(widest);
    free(budgets);
    free(views);
    free(ms);
    return result;
}

/* ---- The command ---- */

static mf_status open_model(planning *p, mf_error *error)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.arithmetic = (mf_arithmetic)p->arithmetic;
    mf_status status = cli_model_open(&p->model, p->path, &options, error);
    if (status == MF_OK) status = mf_model_info_get(p->model, &p->info);
    if (status == MF_OK && p->context == 0) p->context = p->info.max_positions;
    return status;
}

static int execute(planning *p)
{
    mf_error error = MF_ERROR_INIT;
    if (!cli_interrupt_begin(interrupt, p)) return cli_fail_text("a thread could not be started");
    mf_status status = open_model(p, &error);
    int result = CLI_OK;
    if (status == MF_OK && p->n_budget > 0)
        result = check_budgets(p, &error);
    else if (status == MF_OK)
        status = make_plan(p, &error);
    if (status == MF_OK && p->out && p->n_budget == 0) status = write_json(p, &error);
    const int signal = cli_interrupted();
    cli_interrupt_end();
    if ((status == MF_E_CANCELLED || error.status == MF_E_CANCELLED) && signal) {
        cli_fail_text(p->resume ? "interrupted; the same command goes on from %s"
                                : "interrupted; --resume FILE keeps what was measured",
                      p->resume);
        return CLI_SIGNAL + signal;
    }
    if (status != MF_OK || result != CLI_OK) return cli_fail(&error);
    if (p->n_budget > 0) return CLI_OK;
    if (p->json) return cli_print_json(plan_json(&p->report));
    plan_print(&p->report);
    return CLI_OK;
}

static void close_all(planning *p)
{
    for (int m = 0; m < PLAN_METHODS; m++)
        free(p->report.result[m].rows);
    mf_plan_close(p->plan);
    mf_model_close(p->model);
    cli_corpus_free(&p->corpus);
    cli_corpus_free(&p->held_out_corpus);
    free(p->pixels);
    free(p->text.tokens);
    free(p->held_out.tokens);
    cli_list_free(&p->texts);
    cli_list_free(&p->images);
    cli_list_free(&p->held_out_texts);
}

static int check(const cli_command *self, const planning *p, int n_file)
{
    if (n_file != 1) return cli_usage(self, "one model file is wanted, not %d", n_file);
    const size_t n_input = p->texts.count + p->images.count;
    if (p->measure && n_input > 0)
        return cli_usage(self, "--measure times a plan that is stored: it reads no text and no image");
    if (p->n_budget > 0 && (p->measure || n_input > 0))
        return cli_usage(self, "--check-budgets times views of a plan that is stored: it makes none");
    if (p->self_text && n_input + p->held_out_texts.count > 0)
        return cli_usage(self, "--self-text takes the place of other texts");
    if (p->images.count > 0 && p->texts.count + p->held_out_texts.count > 0)
        return cli_usage(self, "--image goes with a model that takes images, --text and --held-out with another");
    if (!p->measure && !p->self_text && p->n_budget == 0 && n_input == 0)
        return cli_usage(self, "there is nothing to measure on; give --text FILE, --self-text or --image FILE (or "
                               "--measure, to time a stored plan)");
    return CLI_OK;
}

static int run(const cli_command *self, int argc, char **argv)
{
    planning p = { .info = MF_MODEL_INFO_INIT, .n_sample = SAMPLE, .report = { .machine = "" } };
    const cli_option options[] = {
        { CLI_TEXTS, "text", 't', "PATH", &p.texts, "text to measure losses on, or a folder of *.txt; may be repeated",
          0, 0 },
        { CLI_TEXTS, "held-out", 0, "PATH", &p.held_out_texts,
          "text that no choice depends on: losses and hypervolumes are reported on it; may be repeated", 0, 0 },
        { CLI_FLAG, "self-text", 0, NULL, &p.self_text,
          "measure on text that is drawn from the widest view, where there is no text, or no tokenizer", 0, 0 },
        { CLI_TEXTS, "image", 0, "PATH", &p.images,
          "of a model that takes images: one to measure on, a binary PPM or planes of f32; may be repeated", 0, 0 },
        { CLI_CHOICE, "cost", 0, "params|bytes|flops|ms", &p.cost, "what the widths are to be best for (params)", 0,
          0 },
        { CLI_U32, "evaluations", 'n', "N", &p.n_evaluation, "views whose loss is measured (200)", 4, 2000 },
        { CLI_U32, "tokens", 0, "N", &p.n_sample, "tokens of each text to measure on, spread over it (16384)", 2,
          1 << 30 },
        { CLI_U32, "context", 0, "N", &p.context, "tokens of a window (the length the model was trained for)", 2,
          1 << 20 },
        { CLI_REAL, "time-limit", 0, "SECONDS", &p.time_limit, "begin no evaluation after it (none)", 0, 1e9 },
        { CLI_U32, "entries", 0, "N", &p.n_entry, "most that the plan keeps (64)", 3, 4096 },
        { CLI_TEXT, "resume", 0, "FILE", &p.resume,
          "a line for every evaluation goes there; what it has already is not measured again", 0, 0 },
        { CLI_FLAG, "compare", 0, NULL, &p.compare,
          "also evaluate as many views by the rule of thumb, of one width, and by chance", 0, 0 },
        { CLI_U64, "seed", 0, "N", &p.seed, "of what is drawn by chance (0)", 0, 0 },
        { CLI_TEXT, "out", 'o', "FILE.json", &p.out, "write the plan there", 0, 0 },
        { CLI_TEXT, "svg", 0, "FILE.svg", &p.svg, "draw it there", 0, 0 },
        { CLI_FLAG, "no-store", 0, NULL, &p.no_store, "leave the model file as it is", 0, 0 },
        { CLI_SECTION, NULL, 0, NULL, NULL, "A plan that is stored", 0, 0 },
        { CLI_FLAG, "measure", 0, NULL, &p.measure, "time its entries on this machine, and store them", 0, 0 },
        { CLI_U32, "check-budgets", 0, "N", &p.n_budget,
          "take N budgets in milliseconds, and time what they get beside what is promised", 1, MAX_BUDGET },
        { CLI_SECTION, NULL, 0, NULL, NULL, "Always", 0, 0 },
        { CLI_U32, "rounds", 0, "N", &p.rounds, "timings of each view, whose median is taken (15)", 1, 1000 },
        { CLI_CHOICE, "arithmetic", 0, CLI_ARITHMETICS, &p.arithmetic, CLI_ARITHMETIC_HELP, 0, 0 },
        { CLI_U32, "threads", 0, "N", &p.n_thread, "threads to compute with (0: one per usable core)", 0, 4096 },
        { CLI_FLAG, "json", 0, NULL, &p.json, "print one JSON object", 0, 0 },
    };
    int first, status;
    bool go = cli_parse(self, options, CLI_COUNT(options), argc, argv, &first, &status);
    if (go) status = check(self, &p, argc - first);
    if (go && status == CLI_OK) {
        p.path = p.report.path = argv[first];
        p.report.cost = (mf_plan_cost)p.cost;
        status = execute(&p);
    }
    close_all(&p);
    return status;
}

const cli_command cmd_plan = {
    .name = "plan",
    .usage = "FILE --text PATH...|--image PATH...|--self-text|--measure [OPTION...]",
    .summary = "Find the best widths for every budget, and store them in the file",
    .details = "Measures what each layer loses at each width and how long views take here, searches for the views\n"
               "that lose least for what they cost, and stores them: afterwards \"params<=4e6\", \"bytes<=8e6\",\n"
               "\"flops<=1e7\" and \"ms<=0.5\" are sizes, wherever a size is wanted.\n\n"
               "  matformer plan model.mf --text books --held-out books/one.txt --compare --svg plan.svg\n",
    .run = run,
};
