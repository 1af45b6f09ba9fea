/* cmd_eval.c - `matformer eval`: how well submodels predict a text. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "eval.h"

static mf_status encode(void *user, const char *text, size_t bytes, int32_t *tokens, size_t *n_token, mf_error *error)
{
    mf_status status = mf_tokenize(user, text, bytes, tokens, bytes, n_token);
    if (status != MF_OK) {
        error->status = status;
        snprintf(error->detail, sizeof(error->detail), "the model has no tokenizer, so that no text can be evaluated");
    }
    return status;
}

static mf_status add_view(evaluation *e, const char *size, mf_error *error)
{
    if (e->n_view == EVAL_MAX_VIEW) {
        snprintf(error->detail, sizeof(error->detail), "at most %d sizes can be evaluated at once", EVAL_MAX_VIEW);
        return error->status = MF_E_INVALID;
    }
    mf_status status = mf_extract_submodel_text(&e->views[e->n_view], e->model, size, error);
    if (status == MF_OK) e->names[e->n_view++] = size;
    return status;
}

static mf_status add_views(evaluation *e, mf_error *error)
{
    mf_status status = MF_OK;
    uint32_t n_default = e->sizes.count == 0 ? cli_usable_granularities(e->model) : 0;
    for (size_t i = 0; i < e->sizes.count && status == MF_OK; i++)
        status = add_view(e, e->sizes.items[i], error);
    for (uint32_t i = 0; i < n_default && status == MF_OK; i++)
        status = add_view(e, mf_model_granularity(e->model, i), error);
    if (e->against && status == MF_OK) status = mf_extract_submodel_text(&e->reference, e->model, e->against, error);
    return status;
}

static void show_progress(void *user, double done, double total)
{
    (void)user;
    cli_progress("evaluating", done, total);
}

cli_scoring eval_scoring(const evaluation *e)
{
    return (cli_scoring){ .model = e->model,
                          .n_thread = e->n_thread,
                          .tokens = e->corpus.tokens,
                          .n_token = e->corpus.n_token,
                          .context = e->context,
                          .cache_type = (mf_cache_type)e->cache_type,
                          .progress = show_progress };
}

/* Opens the model and reads the texts. */
static mf_status prepare(evaluation *e, mf_error *error)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.arithmetic = (mf_arithmetic)e->arithmetic;
    mf_status status = cli_model_open(&e->model, e->path, &options, error);
    if (status == MF_OK) status = mf_model_info_get(e->model, &e->info);
    if (status == MF_OK && e->context == 0) e->context = e->info.max_positions;
    if (status == MF_OK) status = cli_corpus_read(&e->corpus, &e->texts, NULL, error);
    if (status == MF_OK) status = cli_corpus_encode(&e->corpus, cli_start_token(e->model), encode, e->model, error);
    return status;
}

static mf_status evaluate(evaluation *e, mf_error *error)
{
    mf_status status = add_views(e, error);
    if (status != MF_OK) return status;
    e->positions = calloc((e->n_view + 1) * e->context, sizeof(*e->positions));
    if (!e->positions) return error->status = MF_E_NOMEM;
    cli_scoring scoring = eval_scoring(e);
    scoring.views = (const mf_submodel *const *)e->views;
    scoring.n_view = e->n_view;
    scoring.reference = e->reference;
    scoring.positions = e->positions;
    status = cli_score_views(&scoring, e->scores, &e->n_predicted, error);
    cli_progress_end();
    return status;
}

static double bits_per_byte(const evaluation *e, size_t view)
{
    return e->scores[view].loss * (double)e->n_predicted / log(2) / (double)e->corpus.bytes;
}

static int print_table(const evaluation *e)
{
    cli_table *table = cli_table_create(
        e->reference
            ? "<size|parameters|read per token|loss|±|perplexity|bits per byte|loss difference|±|KL|same top token"
            : "<size|parameters|read per token|loss|±|perplexity|bits per byte");
    for (size_t i = 0; i < e->n_view; i++) {
        mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
        mf_submodel_info_get(e->views[i], &info);
        cli_table_cell(table, "%s", e->names[i]);
        cli_table_cell(table, "%s", cli_number((double)info.n_param).text);
        cli_table_cell(table, "%s", cli_bytes((double)info.bytes_per_token).text);
        cli_table_cell(table, "%.4f", e->scores[i].loss);
        cli_table_cell(table, "%s", cli_standard_error(e->scores[i].loss_error).text);
        cli_table_cell(table, "%.2f", exp(e->scores[i].loss));
        cli_table_cell(table, "%.4f", bits_per_byte(e, i));
        if (!e->reference) continue;
        cli_table_cell(table, "%+.4f", e->scores[i].difference);
        cli_table_cell(table, "%s", cli_standard_error(e->scores[i].difference_error).text);
        cli_table_cell(table, "%.4f", e->scores[i].kl);
        cli_table_cell(table, "%.1f %%", 100 * e->scores[i].agreement);
    }
    printf("%s tokens of %s; windows of %u tokens without overlap; loss in nats per token, ± "
           "standard error over windows; %s arithmetic",
           cli_thousands(e->n_predicted).text, cli_bytes((double)e->corpus.bytes).text, e->context,
           cli_arithmetic_name(e->info.arithmetic));
    if (e->reference) printf("; difference, KL and top token against %s", e->against);
    printf("\n\n");
    cli_table_print(table, stdout);
    cli_table_free(table);
    if (e->by_position) eval_print_positions(e);
    return CLI_OK;
}

static int print_json(const evaluation *e)
{
    json_t *views = json_array(), *texts = json_array();
    for (size_t i = 0; i < e->corpus.count; i++)
        json_array_append_new(texts, cli_json_string(e->corpus.documents[i].path));
    for (size_t i = 0; i < e->n_view; i++) {
        json_t *view = cli_view_json(e->views[i], e->names[i]);
        json_object_set_new(view, "loss", json_real(e->scores[i].loss));
        json_object_set_new(view, "loss_error", json_real(e->scores[i].loss_error));
        json_object_set_new(view, "perplexity", json_real(exp(e->scores[i].loss)));
        json_object_set_new(view, "bits_per_byte", json_real(bits_per_byte(e, i)));
        if (e->reference) {
            json_object_set_new(view, "loss_difference", json_real(e->scores[i].difference));
            json_object_set_new(view, "loss_difference_error", json_real(e->scores[i].difference_error));
            json_object_set_new(view, "kl", json_real(e->scores[i].kl));
            json_object_set_new(view, "same_top_token", json_real(e->scores[i].agreement));
        }
        json_object_set_new(view, "positions", eval_positions_json(e, i));
        json_array_append_new(views, view);
    }
    return cli_print_json(json_pack(
        "{s:o, s:o, s:I, s:I, s:i, s:o, s:o, s:s}", "file", cli_json_string(e->path), "texts", texts, "bytes",
        (json_int_t)e->corpus.bytes, "tokens", (json_int_t)e->n_predicted, "context", (int)e->context, "against",
        cli_json_string(e->against), "views", views, "arithmetic", cli_arithmetic_name(e->info.arithmetic)));
}

static int execute(evaluation *e)
{
    mf_error error = MF_ERROR_INIT;
    if (prepare(e, &error) != MF_OK) return cli_fail(&error);
    if (e->mixed) return eval_mixed(e, &error);
    if (evaluate(e, &error) != MF_OK) return cli_fail(&error);
    return e->json ? print_json(e) : print_table(e);
}

static void close_all(evaluation *e)
{
    for (size_t i = 0; i < e->n_view; i++)
        mf_submodel_close(e->views[i]);
    mf_submodel_close(e->reference);
    free(e->positions);
    mf_model_close(e->model);
    cli_corpus_free(&e->corpus);
    cli_list_free(&e->texts);
    cli_list_free(&e->sizes);
}

static int run(const cli_command *self, int argc, char **argv)
{
    evaluation e = { .info = MF_MODEL_INFO_INIT, .span = 128, .written = "128,512,all" };
    const cli_option options[] = {
        { CLI_TEXTS, "text", 't', "PATH", &e.texts,
          "a text file, or a folder of *.txt; may be repeated; \"-\" is standard "
          "input",
          0, 0 },
        { CLI_TEXTS, "size", 's', "SIZE", &e.sizes,
          "which submodel: \"M\", \"0.5\", \"ffn=512x4,256x2\"; may be repeated "
          "(default: every granularity)",
          0, 0 },
        { CLI_TEXT, "against", 0, "SIZE", &e.against, "also compare each distribution with this submodel's", 0, 0 },
        { CLI_FLAG, "positions", 0, NULL, &e.by_position, "also by the position in the window (--json: always)", 0, 0 },
        { CLI_U32, "context", 0, "N", &e.context, "tokens of a window (default: the length the model was trained for)",
          1, 1 << 20 },
        { CLI_CHOICE, "cache", 0, CLI_CACHE_TYPES, &e.cache_type, "what keys and values are rounded to (f32)", 0, 0 },
        { CLI_CHOICE, "arithmetic", 0, CLI_ARITHMETICS, &e.arithmetic, CLI_ARITHMETIC_HELP, 0, 0 },
        { CLI_U32, "threads", 0, "N", &e.n_thread, "threads to compute with (0: one per usable core)", 0, 4096 },
        { CLI_SECTION, "", 0, NULL, NULL, "Reading a cache that another size wrote, in place of all this", 0, 0 },
        { CLI_TEXT, "mixed", 0, "SIZE:SIZE", &e.mixed, "what it costs each to read what the other wrote", 0, 0 },
        { CLI_U32, "span", 0, "N", &e.span, "tokens at the end of each window that are predicted (128)", 1, 1 << 20 },
        { CLI_TEXT, "written", 0, "N,N,...", &e.written,
          "so many positions before them are the other's, as far as there is room (128,512,all)", 0, 0 },
        { CLI_FLAG, "json", 0, NULL, &e.json, "print one JSON object", 0, 0 },
    };
    int first, status;
    bool go = cli_parse(self, options, CLI_COUNT(options), argc, argv, &first, &status);
    for (int i = first + 1; go && i < argc && status == CLI_OK; i++)
        status = cli_list_append(&e.texts, argv[i]) ? CLI_OK : cli_fail_memory();
    if (go && status == CLI_OK && first == argc)
        status = cli_usage(self, "a model file is wanted");
    else if (go && status == CLI_OK && e.texts.count == 0)
        status = cli_usage(self, "there is no text; give --text FILE");
    else if (go && status == CLI_OK && e.mixed && (e.against || e.sizes.count || e.by_position))
        status = cli_usage(self, "--mixed names its sizes, and has no --size, --against or --positions");
    if (go && status == CLI_OK) {
        e.path = argv[first];
        status = execute(&e);
    }
    close_all(&e);
    return status;
}

const cli_command cmd_eval = {
    .name = "eval",
    .usage = "FILE --text PATH... [OPTION...]",
    .summary = "How well submodels predict a text, and how far they agree: loss, KL, top tokens",
    .details = "The files become one stream of tokens, with a start token before each where the model has one. It is\n"
               "cut into windows; each is read from an empty context, and every token of it is predicted from those\n"
               "before it. All sizes run in one batch.\n",
    .run = run,
};
