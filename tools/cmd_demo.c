/* cmd_demo.c - `matformer demo`: a person sees one file become many models. */
#include <glob.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli_model.h"
#include "cli_score.h"
#include "commands.h"

enum {
    MAX_VIEW = 10,
    TEXT_TOKENS = 4096,
    TRIAL_TOKENS = 257,
    READING_SECONDS = 10,
    SAMPLE_TOKENS = 64,
    SPAN_TOKENS = 28,
    WRAP = 96,
    BAR = 16
};

typedef struct demo_view {
    char name[24];
    mf_submodel *view;
    mf_submodel_info info;
    cli_score score;
    double tokens_per_second;
    char sample[1024];
} demo_view;

typedef struct demo {
    /* options */
    const char *path, *text_path, *prompt;
    uint32_t n_thread;
    uint64_t seed;
    bool json;
    /* objects */
    char found_model[PATH_MAX], found_text[PATH_MAX];
    mf_model *model;
    mf_model_info info;
    double open_seconds, view_seconds;
    demo_view views[MAX_VIEW];
    size_t n_view;
    int32_t *tokens;
    size_t n_token, text_bytes;
    mf_executor *executor;
    json_t *spans; /* of the timeline */
    const mf_submodel *shown;
    int column;
} demo;

/* ---- What the demo runs on ---- */

static bool first_match(const char *folder, const char *pattern, char *path, size_t room)
{
    glob_t found;
    char full[PATH_MAX];
    if (snprintf(full, sizeof(full), "%s/%s", folder, pattern) >= (int)sizeof(full)) return false;
    bool ok = glob(full, 0, NULL, &found) == 0;
    if (ok) ok = snprintf(path, room, "%s", found.gl_pathv[0]) < (int)room;
    globfree(&found);
    return ok;
}

/* Looks beside the program and in the folders above it: an installed program finds PREFIX/share/matformer, a
 * built one the source tree. */
static bool find_file(const char *const patterns[], char *path, size_t room)
{
    char folder[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
    if (n <= 0) return false;
    folder[n] = '\0';
    for (int level = 0; level < 4; level++) {
        char *slash = strrchr(folder, '/');
        if (!slash) return false;
        *slash = '\0';
        for (size_t i = 0; patterns[i]; i++)
            if (first_match(folder, patterns[i], path, room)) return true;
    }
    return false;
}

static mf_status find_files(demo *d, mf_error *error)
{
    static const char *const models[] = { "share/matformer/*.mf", "models/*.mf", NULL };
    static const char *const texts[] = { "share/matformer/story.txt", "test/data/story.txt", NULL };
    bool model = d->path || find_file(models, d->found_model, sizeof(d->found_model));
    bool text = d->text_path || find_file(texts, d->found_text, sizeof(d->found_text));
    if (!d->path) d->path = d->found_model;
    if (!d->text_path) d->text_path = d->found_text;
    if (model && text) return MF_OK;
    snprintf(error->detail, sizeof(error->detail), "no %s was found in the folders above the program; give %s FILE",
             model ? "test/data/story.txt" : "models/*.mf", model ? "--text" : "--model");
    return error->status = MF_E_NOT_FOUND;
}

static mf_status add_view(demo *d, const char *name, const mf_submodel_spec *spec, mf_error *error)
{
    demo_view *v = &d->views[d->n_view];
    mf_status status = mf_extract_submodel(&v->view, d->model, spec, error);
    if (status != MF_OK) return status;
    d->n_view++;
    snprintf(v->name, sizeof(v->name), "%s", name);
    v->info = (mf_submodel_info)MF_SUBMODEL_INFO_INIT;
    return mf_submodel_info_get(v->view, &v->info);
}

/* The lower half of the layers as wide as `narrow`, the upper half as `wide`: Mix'n'Match. */
static mf_status add_mix(demo *d, const demo_view *narrow, const demo_view *wide, mf_error *error)
{
    uint32_t ffn[512], n = d->info.n_layer;
    for (uint32_t layer = 0; layer < n && n <= CLI_COUNT(ffn); layer++) {
        int kept;
        mf_submodel_layer(layer < n / 2 ? narrow->view : wide->view, layer, &ffn[layer], NULL, &kept);
        if (!kept) return MF_OK; /* a model with layers to skip is shown without mixes */
    }
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    spec.granularity = wide->name;
    spec.ffn = ffn;
    spec.n_ffn = n;
    return add_view(d, cli_format("%s+%s", narrow->name, wide->name).text, &spec, error);
}

static mf_status add_views(demo *d, mf_error *error)
{
    mf_status status = MF_OK;
    size_t usable = cli_usable_granularities(d->model), n = usable < MAX_VIEW - 2 ? usable : MAX_VIEW - 2;
    for (size_t i = 0; i < n && status == MF_OK; i++) {
        mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
        spec.granularity = mf_model_granularity(d->model, (uint32_t)i);
        status = add_view(d, spec.granularity, &spec, error);
    }
    for (size_t i = n >= 3 ? n - 3 : 0; i + 1 < n && status == MF_OK; i++)
        status = add_mix(d, &d->views[i], &d->views[i + 1], error);
    return status;
}

static mf_status time_view(demo *d, mf_error *error)
{
    enum { TIMES = 10000 };
    mf_status status = MF_OK;
    double began = cli_now();
    for (int i = 0; i < TIMES && status == MF_OK; i++) {
        mf_submodel *view;
        status = mf_extract_submodel(&view, d->model, NULL, error);
        mf_submodel_close(view);
    }
    d->view_seconds = (cli_now() - began) / TIMES;
    return status;
}

static int by_cost(const void *a, const void *b)
{
    uint64_t x = ((const demo_view *)a)->info.bytes_per_token, y = ((const demo_view *)b)->info.bytes_per_token;
    return (x > y) - (x < y);
}

static mf_status open_demo(demo *d, mf_error *error)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    mf_executor_options executor = MF_EXECUTOR_OPTIONS_INIT;
    executor.n_thread = d->n_thread;
    mf_status status = find_files(d, error);
    if (status != MF_OK) return status;
    double began = cli_now();
    status = cli_model_open(&d->model, d->path, &options, error);
    d->open_seconds = cli_now() - began;
    if (status == MF_OK) status = mf_model_info_get(d->model, &d->info);
    if (status == MF_OK) status = add_views(d, error);
    if (status == MF_OK) status = time_view(d, error);
    qsort(d->views, d->n_view, sizeof(d->views[0]), by_cost);
    if (status == MF_OK) status = mf_executor_create(&d->executor, d->model, &executor, error);
    return status;
}

static void close_demo(demo *d)
{
    for (size_t i = 0; i < d->n_view; i++)
        mf_submodel_close(d->views[i].view);
    mf_executor_close(d->executor);
    mf_model_close(d->model);
    json_decref(d->spans);
    free(d->tokens);
}

/* ---- Loss ---- */

static void show_progress(void *user, double done, double total)
{
    (void)user;
    cli_progress("reading", done, total);
}

/* How much of the text this machine reads in the time that a person waits: more than a trial's, if there is more. */
static size_t readable_tokens(size_t n_token, double trial_seconds)
{
    double fits = TRIAL_TOKENS * READING_SECONDS / (trial_seconds + 1e-9);
    if (fits > (double)n_token) return n_token;
    return fits > TRIAL_TOKENS ? (size_t)fits : TRIAL_TOKENS;
}

static mf_status score(demo *d, mf_error *error)
{
    char *text = cli_read_file(d->text_path, &d->text_bytes, error);
    if (!text) return error->status;
    mf_status status = cli_tokenize(d->model, text, d->text_bytes, &d->tokens, &d->n_token, error);
    free(text);
    if (status != MF_OK) return status;
    if (d->n_token > TEXT_TOKENS) d->n_token = TEXT_TOKENS;
    const mf_submodel *views[MAX_VIEW];
    cli_score scores[MAX_VIEW];
    for (size_t i = 0; i < d->n_view; i++)
        views[i] = d->views[i].view;
    cli_scoring scoring = { .model = d->model,
                            .n_thread = d->n_thread,
                            .tokens = d->tokens,
                            .n_token = d->n_token < TRIAL_TOKENS ? d->n_token : TRIAL_TOKENS,
                            .views = views,
                            .n_view = d->n_view,
                            .progress = show_progress };
    double began = cli_now();
    status = cli_score_views(&scoring, scores, NULL, error);
    if (status == MF_OK && scoring.n_token < d->n_token) {
        scoring.n_token = d->n_token = readable_tokens(d->n_token, cli_now() - began);
        status = cli_score_views(&scoring, scores, NULL, error);
    }
    cli_progress_end();
    for (size_t i = 0; i < d->n_view && status == MF_OK; i++)
        d->views[i].score = scores[i];
    return status;
}

/* ---- Writing ---- */

static mf_status create_sampler(demo *d, mf_sampler **sampler, mf_error *error)
{
    mf_sampler_options options = MF_SAMPLER_OPTIONS_INIT;
    options.seed = d->seed;
    options.temperature = 0.7F;
    options.top_p = 0.9F;
    return mf_sampler_create(sampler, d->model, &options, error);
}

static int collect(void *user, const mf_token_event *event)
{
    demo_view *v = user;
    size_t used = strlen(v->sample);
    for (size_t i = 0; i < event->text_bytes && used + 1 < sizeof(v->sample); i++)
        v->sample[used++] = event->text[i] == '\n' ? ' ' : event->text[i];
    v->sample[used] = '\0';
    return 0;
}

/* Cuts after the last whole sentence, where there is one. */
static void cut_sentence(char *text)
{
    for (size_t n = strlen(text); n > 0; n--)
        if (strchr(".!?", text[n - 1])) {
            text[n] = '\0';
            return;
        }
}

static mf_status write_sample(demo *d, demo_view *v, mf_error *error)
{
    mf_sampler *sampler;
    mf_status status = create_sampler(d, &sampler, error);
    if (status != MF_OK) return status;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.prompt = d->prompt;
    options.max_tokens = SAMPLE_TOKENS;
    options.sampler = sampler;
    options.on_token = collect;
    options.user = v;
    options.ignore_eos = 1;
    status = mf_generate(d->executor, NULL, v->view, &options, &result, error);
    mf_sampler_close(sampler);
    if (result.generate_ns > 0) v->tokens_per_second = 1e9 * result.n_generated / (double)result.generate_ns;
    cut_sentence(v->sample);
    return status;
}

/* ---- The timeline: one text, several widths ---- */

static const char *name_of(const demo *d, const mf_submodel *view)
{
    for (size_t i = 0; i < d->n_view; i++)
        if (d->views[i].view == view) return d->views[i].name;
    return "";
}

static const char *colour_of(const demo *d, const mf_submodel *view)
{
    static const cli_style styles[] = { CLI_CYAN, CLI_GREEN, CLI_YELLOW, CLI_MAGENTA, CLI_BLUE, CLI_RED };
    for (size_t i = 0; i < d->n_view; i++)
        if (d->views[i].view == view) return cli_style_on(stdout, styles[i % CLI_COUNT(styles)]);
    return "";
}

/* Breaks lines at the first space past the width. */
static void print_wrapped(demo *d, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i] == '\n' ? ' ' : text[i];
        if (c == ' ' && d->column >= WRAP) {
            fputs("\n  ", stdout);
            d->column = 0;
            continue;
        }
        putchar(c);
        d->column++;
    }
}

static void print_sample(demo *d, const demo_view *v)
{
    const char *colour = colour_of(d, v->view), *plain = cli_style_on(stdout, CLI_PLAIN);
    printf("%s%s%s\n  %s%s%s", colour, v->name, plain, cli_style_on(stdout, CLI_DIM), d->prompt, plain);
    d->column = cli_display_width(d->prompt);
    print_wrapped(d, v->sample, strlen(v->sample));
    putchar('\n');
}

static int show_token(void *user, const mf_token_event *event)
{
    demo *d = user;
    bool changed = event->submodel != d->shown;
    d->shown = event->submodel;
    if (d->json) {
        size_t n = json_array_size(d->spans);
        json_t *piece = cli_json_text(event->text, event->text_bytes);
        if (changed)
            return json_array_append_new(d->spans, json_pack("{s:o, s:i, s:o}", "size",
                                                             cli_json_string(name_of(d, event->submodel)), "position",
                                                             (int)event->position, "text", piece));
        json_t *span = json_array_get(d->spans, n - 1), *text = json_object_get(span, "text");
        json_t *longer = json_sprintf("%s%s", json_string_value(text), json_string_value(piece));
        json_decref(piece);
        return json_object_set_new(span, "text", longer);
    }
    if (changed && cli_coloured(stdout)) fputs(colour_of(d, event->submodel), stdout);
    if (changed && !cli_coloured(stdout)) d->column += printf(" [%s]", name_of(d, event->submodel));
    print_wrapped(d, event->text, event->text_bytes);
    return fflush(stdout) != 0;
}

static mf_status write_timeline(demo *d, mf_error *error)
{
    mf_sampler *sampler;
    size_t n_prompt = 0;
    mf_status status = mf_tokenize(d->model, d->prompt, strlen(d->prompt), NULL, 0, &n_prompt);
    if (status != MF_OK && status != MF_E_CAPACITY) return error->status = status;
    status = create_sampler(d, &sampler, error);
    if (status != MF_OK) return status;
    /* Narrowest, widest, and one between. */
    const mf_submodel *order[] = { d->views[0].view, d->views[d->n_view - 1].view, d->views[d->n_view / 2].view };
    mf_schedule_step steps[CLI_COUNT(order)];
    for (size_t i = 0; i < CLI_COUNT(order); i++)
        steps[i] = (mf_schedule_step){ (uint32_t)(n_prompt + i * SPAN_TOKENS), order[i] };
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.prompt = d->prompt;
    options.max_tokens = SPAN_TOKENS * CLI_COUNT(order);
    options.sampler = sampler;
    options.schedule = steps;
    options.n_schedule = CLI_COUNT(steps);
    options.on_token = show_token;
    options.user = d;
    options.ignore_eos = 1;
    status = mf_generate(d->executor, NULL, order[0], &options, NULL, error);
    mf_sampler_close(sampler);
    return status;
}

/* ---- What is shown ---- */

static void print_bar(cli_table *table, double share)
{
    char bar[3 * BAR + 1] = "";
    for (int i = 0; i < (int)(share * BAR + 0.5); i++)
        strcat(bar, "\u2588");
    cli_table_cell(table, "%s", bar);
}

static void print_table(const demo *d)
{
    cli_table *table = cli_table_create("<size|FFN width|parameters|read per token|loss|tokens/s|<");
    double widest = (double)d->views[d->n_view - 1].info.bytes_per_token;
    for (size_t i = 0; i < d->n_view; i++) {
        const demo_view *v = &d->views[i];
        cli_table_cell(table, "%s", v->name);
        cli_table_cell(table, "%s", cli_ffn_range(v->view).text);
        cli_table_cell(table, "%s", cli_number((double)v->info.n_param).text);
        cli_table_cell(table, "%s", cli_bytes((double)v->info.bytes_per_token).text);
        cli_table_cell(table, "%.3f", v->score.loss);
        cli_table_cell(table, "%s", cli_number(v->tokens_per_second).text);
        print_bar(table, (double)v->info.bytes_per_token / widest);
    }
    cli_table_print(table, stdout);
    cli_table_free(table);
}

static void print_samples(demo *d)
{
    printf("\nWhat each writes:\n\n");
    for (size_t i = 0; i < d->n_view; i++)
        print_sample(d, &d->views[i]);
}

static mf_status print_demo(demo *d, mf_error *error)
{
    printf("%sOne file, %zu models.%s %s: %s, opened in %s, once.\n", cli_style_on(stdout, CLI_BOLD), d->n_view,
           cli_style_on(stdout, CLI_PLAIN), d->path, cli_bytes((double)d->info.file_bytes).text,
           cli_seconds(d->open_seconds).text);
    printf("A view takes %s to create and %u bytes. A+B is a mix: the lower half of the layers as wide as A, the\n"
           "upper as B. Loss: nats per token on %s (%zu tokens)%s.\n\n",
           cli_seconds(d->view_seconds).text, d->views[0].info.view_bytes, d->text_path, d->n_token - 1,
           d->text_path == d->found_text ? ", which no training saw" : "");
    print_table(d);
    print_samples(d);
    printf("\nOne text whose width changes twice on the way. Nothing is reloaded, and the cache is kept:\n\n");
    if (cli_coloured(stdout)) {
        fputs("  ", stdout);
        const mf_submodel *order[] = { d->views[0].view, d->views[d->n_view - 1].view, d->views[d->n_view / 2].view };
        for (size_t i = 0; i < CLI_COUNT(order); i++)
            printf("%s%s%s ", colour_of(d, order[i]), name_of(d, order[i]), cli_style_on(stdout, CLI_PLAIN));
        fputs("\n\n", stdout);
    }
    printf("  %s", d->prompt);
    d->column = cli_display_width(d->prompt);
    mf_status status = write_timeline(d, error);
    printf("%s\n", cli_style_on(stdout, CLI_PLAIN));
    return status;
}

static int print_json(demo *d, mf_error *error)
{
    d->spans = json_array();
    if (write_timeline(d, error) != MF_OK) return cli_fail(error);
    json_t *views = json_array();
    for (size_t i = 0; i < d->n_view; i++) {
        const demo_view *v = &d->views[i];
        json_t *view = cli_view_json(v->view, v->name);
        json_object_set_new(view, "loss", json_real(v->score.loss));
        json_object_set_new(view, "tokens_per_second", json_real(v->tokens_per_second));
        json_object_set_new(view, "text", cli_json_string(v->sample));
        json_array_append_new(views, view);
    }
    return cli_print_json(
        json_pack("{s:o, s:I, s:f, s:f, s:o, s:i, s:o, s:I, s:o, s:O}", "file", cli_json_string(d->path), "file_bytes",
                  (json_int_t)d->info.file_bytes, "open_seconds", d->open_seconds, "view_seconds", d->view_seconds,
                  "text", cli_json_string(d->text_path), "text_tokens", (int)d->n_token - 1, "prompt",
                  cli_json_string(d->prompt), "seed", (json_int_t)d->seed, "views", views, "timeline", d->spans));
}

static int execute(demo *d)
{
    mf_error error = MF_ERROR_INIT;
    mf_status status = open_demo(d, &error);
    if (status == MF_OK) status = score(d, &error);
    for (size_t i = 0; i < d->n_view && status == MF_OK; i++)
        status = write_sample(d, &d->views[i], &error);
    if (status == MF_OK && d->json) return print_json(d, &error);
    if (status == MF_OK) status = print_demo(d, &error);
    return status == MF_OK ? CLI_OK : cli_fail(&error);
}

static int run(const cli_command *self, int argc, char **argv)
{
    demo d = { .prompt = "Once upon a time", .seed = 1, .info = MF_MODEL_INFO_INIT };
    const cli_option options[] = {
        { CLI_TEXT, "model", 'm', "FILE", &d.path, "another model than the one that is shipped", 0, 0 },
        { CLI_TEXT, "text", 't', "FILE", &d.text_path, "another text to measure the loss on", 0, 0 },
        { CLI_TEXT, "prompt", 'p', "TEXT", &d.prompt, "what the models go on from (\"Once upon a time\")", 0, 0 },
        { CLI_U64, "seed", 0, "N", &d.seed, "of what they write (1)", 0, 0 },
        { CLI_U32, "threads", 0, "N", &d.n_thread, "threads to compute with (0: one per usable core)", 0, 4096 },
        { CLI_FLAG, "json", 0, NULL, &d.json, "print one JSON object", 0, 0 },
    };
    int first, status;
    if (!cli_parse(self, options, CLI_COUNT(options), argc, argv, &first, &status)) return status;
    if (first != argc) return cli_usage(self, "\"%s\" is no option; --model FILE chooses a model", argv[first]);
    if (!d.prompt[0]) return cli_usage(self, "the prompt is empty");
    status = execute(&d);
    close_demo(&d);
    return status;
}

const cli_command cmd_demo = {
    .name = "demo",
    .usage = "[OPTION...]",
    .summary = "See one file become many models, on text, in seconds",
    .details = NULL,
    .run = run,
};
