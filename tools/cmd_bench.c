/* cmd_bench.c - `matformer bench`: the options, and the model to measure. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"
#include "commands.h"

enum { MAX_ROUND = 100 };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double bench_least_median(double *values, size_t rows, size_t stride, size_t n)
{
    double least = bench_median(values, n);
    for (size_t i = 1; i < rows; i++) {
        double next = bench_median(values + i * stride, n);
        least = next < least ? next : least;
    }
    return least;
}

void bench_title(const bench *b, const char *format, ...)
{
    if (b->json) return;
    va_list arguments;
    va_start(arguments, format);
    printf("\n%s", cli_style_on(stdout, CLI_BOLD));
    vprintf(format, arguments);
    printf("%s\n\n", cli_style_on(stdout, CLI_PLAIN));
    fflush(stdout);
    va_end(arguments);
}

/* ---- The model ---- */

/* The first is the default of models, and the next four of the products of `kernels`. 160m and 1.1b are small Llamas that
 * other programs are measured on, the latter TinyLlama's shape; gemma3n has the FFN of Gemma 3n, 410m the extents of
 * Pythia's; gemv is little else than one. */
static const char shape_names[] = "wide|1.1b|gemma3n|160m|410m|gemv";
enum { FIRST_PRODUCT_SHAPE = 1, N_PRODUCT_SHAPE = 4 };
static const bench_shape shapes[] = {
    { .n_layer = 8, .d_model = 1024, .n_head = 8, .head_group = 8, .d_head = 128, .d_ff = 8192, .n_vocab = 4096 },
    { .n_layer = 22, .d_model = 2048, .n_head = 32, .head_group = 8, .d_head = 64, .d_ff = 5632, .n_vocab = 32000 },
    { .n_layer = 8, .d_model = 2048, .n_head = 8, .head_group = 4, .d_head = 256, .d_ff = 16384, .n_vocab = 4096 },
    { .n_layer = 12, .d_model = 768, .n_head = 12, .head_group = 1, .d_head = 64, .d_ff = 3072, .n_vocab = 32000 },
    { .n_layer = 24, .d_model = 1024, .n_head = 16, .head_group = 1, .d_head = 64, .d_ff = 4096, .n_vocab = 32000 },
    { .n_layer = 1, .d_model = 2048, .n_head = 8, .head_group = 8, .d_head = 64, .d_ff = 262144, .n_vocab = 256 },
};

static void leave_to_writer(void *unused)
{
    (void)unused; /* the writer asks cli_interrupted() */
}

/* A model in a temporary file that has no name any more once it is open. Signals wait until it has none. */
static mf_status make_model(bench *b, const bench_shape *shape, const mf_model_options *options, mf_error *error)
{
    const char *folder = getenv("TMPDIR");
    char path[4096];
    snprintf(path, sizeof(path), "%s/matformer-bench-%ld.mf", folder && *folder ? folder : "/tmp", (long)getpid());
    if (!cli_interrupt_begin(leave_to_writer, NULL)) return error->status = MF_E_THREAD;
    cli_progress_text("writing a random model");
    mf_status status = bench_model_write(shape, path, error);
    cli_progress_end();
    mf_model_options with_progress = *options;
    if (status == MF_OK) status = cli_model_open(&b->model, path, &with_progress, error);
    unlink(path);
    cli_interrupt_end();
    return cli_interrupted() ? (error->status = MF_E_CANCELLED) : status;
}

static mf_status open_model(bench *b, const bench_shape *shape, mf_error *error)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.load = b->copy ? MF_LOAD_COPY : MF_LOAD_MAP;
    options.verify = MF_VERIFY_NONE;
    options.arithmetic = (mf_arithmetic)b->arithmetic;
    mf_status status =
        b->path ? cli_model_open(&b->model, b->path, &options, error) : make_model(b, shape, &options, error);
    b->info = (mf_model_info)MF_MODEL_INFO_INIT;
    return status == MF_OK ? mf_model_info_get(b->model, &b->info) : status;
}

static void describe_model(const bench *b, json_t *out)
{
    const mf_model_info *i = &b->info;
    json_object_set_new(out, "model",
                        json_pack("{s:o, s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:s, s:s, s:s}", "file",
                                  cli_json_string(b->path), "layers", (int)i->n_layer, "d_model", (int)i->d_model,
                                  "d_ff", (int)i->d_ff, "heads", (int)i->n_head, "vocabulary", (int)i->n_vocab,
                                  "params", (json_int_t)i->n_param, "weight_bytes", (json_int_t)i->weight_bytes, "cpu",
                                  i->cpu, "load", b->copy ? "copy" : "map", "arithmetic",
                                  cli_arithmetic_name(i->arithmetic)));
    if (b->json) return;
    printf("%s: %u layers, d_model %u, d_ff %u, %u heads (%u key/value), vocabulary %u; %s parameters, %s, %s, %s, %s "
           "arithmetic\n",
           b->path ? b->path : "random model", i->n_layer, i->d_model, i->d_ff, i->n_head, i->n_kv_head, i->n_vocab,
           cli_number((double)i->n_param).text, cli_bytes((double)i->weight_bytes).text,
           b->copy ? "in memory" : "mapped", i->cpu, cli_arithmetic_name(i->arithmetic));
}

/* ---- The command ---- */

typedef mf_status (*measurement)(const bench *b, json_t *out, mf_error *error);

static const struct {
    const char *name;
    measurement run;
    bool needs_model;
    bool only_by_name; /* takes minutes */
} measurements[] = {
    { "views", bench_views, true, false },        { "decode", bench_decode, true, false },
    { "prefill", bench_prefill, true, false },    { "mixed", bench_mixed, true, false },
    { "switch", bench_switch, true, false },      { "attention", bench_attention, false, false },
    { "speculate", bench_speculate, true, true }, { "kernels", bench_kernels, false, true },
    { "governor", bench_governor, true, true },
#if defined(MATFORMER_TRAIN)
    { "train", bench_train, false, true },
#endif
};

static bool is_wanted(size_t i, const char *what)
{
    bool all = strcmp(what, "all") == 0 && !measurements[i].only_by_name;
    return all || strcmp(what, measurements[i].name) == 0;
}

static int execute(bench *b, const char *what, const bench_shape *shape)
{
    mf_error error = MF_ERROR_INIT;
    mf_status status = MF_OK;
    json_t *out = json_pack("{s:i, s:i, s:s}", "threads", (int)b->n_thread, "rounds", (int)b->rounds, "roof_cpu",
                            bench_roof_cpu());
    for (size_t i = 0; i < CLI_COUNT(measurements) && status == MF_OK; i++) {
        if (!is_wanted(i, what)) continue;
        if (measurements[i].needs_model && !b->model) {
            status = open_model(b, shape, &error);
            if (status == MF_OK) describe_model(b, out);
        }
        if (status == MF_OK) status = measurements[i].run(b, out, &error);
    }
    mf_model_close(b->model);
    if (status == MF_OK && b->json) return cli_print_json(out);
    json_decref(out);
    if (status == MF_E_CANCELLED) return CLI_SIGNAL + cli_interrupted();
    return status == MF_OK ? CLI_OK : cli_fail(&error);
}

static uint32_t usable_cores(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

static int run(const cli_command *self, int argc, char **argv)
{
    bench b = { .rounds = 9,
                .phase_seconds = 8,
                .n_width = 8,
                .attention = { .n_head = 32, .n_kv_head = 4, .d_head = 64, .n_position = 32768 } };
    bench_shape own = { 0 };
    int load = 0, type = -1, named = -1;
    enum { BF16 = 1 };
    static const char *const type_names[] = { "f32", "bf16", "f16", "q8", "q4" };
    static const char types[] = "f32|bf16|f16|q8|q4";
    const cli_option options[] = {
        { CLI_U32, "rounds", 'r', "N", &b.rounds, "measurements of each point (9)", 5, MAX_ROUND },
        { CLI_U32, "widths", 0, "N", &b.n_width, "widths of decode and prefill, 1/N to N/N of the whole (8)", 1,
          BENCH_MOST_WIDTHS },
        { CLI_U32, "threads", 0, "N", &b.n_thread, "(0: one per core)", 0, 256 },
        { CLI_CHOICE, "load", 0, "copy|map", &load, "weights in memory of their own, or mapped (copy)", 0, 0 },
        { CLI_CHOICE, "arithmetic", 0, CLI_ARITHMETICS, &b.arithmetic, CLI_ARITHMETIC_HELP, 0, 0 },
        { CLI_FLAG, "json", 0, NULL, &b.json, "print one JSON object", 0, 0 },
        { CLI_SECTION, "", 0, NULL, NULL,
          "The random model that is measured where no FILE is given; for kernels, the matrices of its FFN", 0, 0 },
        { CLI_CHOICE, "shape", 0, shape_names, &named, "(wide; kernels: 1.1b, gemma3n, 160m and 410m in turn)", 0, 0 },
        { CLI_U32, "layers", 0, "N", &own.n_layer, "other than the shape's", 1, 512 },
        { CLI_U32, "d-model", 0, "N", &own.d_model, "likewise", 32, 65536 },
        { CLI_U32, "d-ff", 0, "N", &own.d_ff, "likewise; a multiple of 256", 256, 1 << 20 },
        { CLI_CHOICE, "type", 0, types, &type, "of the matrices (bf16; kernels: all but f16 in turn)", 0, 0 },
        { CLI_SECTION, "", 0, NULL, NULL, "What kernels measures", 0, 0 },
        { CLI_U32, "rows", 0, "N", &b.products.rows, "this number of rows only (1, 2, 4 ... 512)", 1, 512 },
        { CLI_FLAG, "quick", 0, NULL, &b.products.quick, "1, 16, 128 and 512 rows at 1/8 and the whole of the width", 0,
          0 },
        { CLI_TEXTS, "peer", 0, "NAME=PATH[:OPTION]", &b.products.peers,
          "a plugin to measure beside (those in peers/ beside the program); may be repeated", 0, 0 },
        { CLI_SECTION, "", 0, NULL, NULL, "What governor holds", 0, 0 },
        { CLI_REAL, "target", 0, "N", &b.target, "tokens per second of a session (0: what the first load allows)", 0,
          1e9 },
        { CLI_REAL, "seconds", 0, "N", &b.phase_seconds, "of each load (8)", 0.05, 3600 },
        { CLI_SECTION, "", 0, NULL, NULL, "What speculate measures, of a FILE that was trained", 0, 0 },
        { CLI_TEXTS, "draft", 0, "SIZE", &b.drafts, "a size that writes ahead (all but the widest); may be repeated", 0,
          0 },
        { CLI_TEXT, "draft-tokens", 0, "LIST", &b.draft_tokens, "tokens ahead, 0: adapted (1,2,3,4,6,8,0)", 0, 0 },
        { CLI_TEXTS, "text", 0, "PATH", &b.texts, "a file to take prompts from (built-in ones); may be repeated", 0,
          0 },
        { CLI_REAL, "temperature", 't', "T", &b.temperature, "0: always the likeliest token (0)", 0, 100 },
        { CLI_SECTION, "", 0, NULL, NULL, "The shape of attention", 0, 0 },
        { CLI_U32, "heads", 0, "N", &b.attention.n_head, "of queries (32)", 1, 1024 },
        { CLI_U32, "kv-heads", 0, "N", &b.attention.n_kv_head, "of keys and values, a divisor (4)", 1, 1024 },
        { CLI_U32, "d-head", 0, "N", &b.attention.d_head, "numbers of a head, a multiple of 32 (64)", 32, 512 },
        { CLI_U32, "positions", 0, "N", &b.attention.n_position, "leave out longer texts than this (32768)", 512,
          32768 },
    };
    int first, status;
    if (!cli_parse(self, options, CLI_COUNT(options), argc, argv, &first, &status)) return status;
    const char *what = first < argc ? argv[first++] : "all";
    bool known = false;
    for (size_t i = 0; i < CLI_COUNT(measurements); i++)
        known = known || is_wanted(i, what);
    if (!known)
        return cli_usage(self,
                         "\"%s\" is not views, decode, prefill, mixed, switch, speculate, attention, kernels, "
                         "governor, train or all",
                         what);
    if (b.attention.n_head % b.attention.n_kv_head != 0 || b.attention.d_head % 32 != 0)
        return cli_usage(self, "--kv-heads must divide --heads, and --d-head be a multiple of 32");
    if (argc - first > 1) return cli_usage(self, "one file is wanted, not %d", argc - first);
    b.path = first < argc ? argv[first] : NULL;
    if (!b.path && strcmp(what, "speculate") == 0)
        return cli_usage(self, "speculate wants the FILE of a trained model: a random one's sizes do not agree");
    b.copy = load == 0;
    if (b.n_thread == 0) b.n_thread = usable_cores();
    const bool is_plain = named < 0 && own.d_model == 0 && own.d_ff == 0;
    bench_shape shape = shapes[named < 0 ? 0 : named];
    if (own.n_layer > 0) shape.n_layer = own.n_layer;
    if (own.d_model > 0) shape.d_model = own.d_model;
    if (own.d_ff > 0) shape.d_ff = own.d_ff;
    shape.type = type_names[type < 0 ? BF16 : type];
    b.products.type = type < 0 ? NULL : type_names[type];
    b.products.shapes = is_plain ? &shapes[FIRST_PRODUCT_SHAPE] : &shape;
    b.products.n_shape = is_plain ? N_PRODUCT_SHAPE : 1;
    status = execute(&b, what, &shape);
    cli_list_free(&b.products.peers);
    cli_list_free(&b.drafts);
    cli_list_free(&b.texts);
    return status;
}

const cli_command cmd_bench = {
    .name = "bench",
    .usage = "[views|decode|prefill|mixed|switch|speculate|attention|kernels|governor|train|all] [FILE] [OPTION...]",
    .summary = "How fast this machine runs a model, against what the machine can do",
    .details =
        "views      the time to create a view\n"
        "decode     one token at a time, at --widths widths, against the measured read bandwidth\n"
        "prefill    a prompt, at --widths widths, against the measured peaks of arithmetic\n"
        "mixed      a batch whose rows have widths of their own, against rows of one width and single calls\n"
        "switch     a timeline that changes its width, against one that keeps it\n"
        "speculate  a narrow size that writes ahead and the widest that verifies, against the widest alone\n"
        "attention  of one layer by itself, at 512 to 32768 positions, with every type of the cache, with one and\n"
        "           with all threads, against both\n"
        "kernels    matrix products by themselves, at four widths of an FFN and up to 512 rows, against the measured\n"
        "           peaks and other libraries: BLIS, OpenBLAS and oneDNN where they were found, or any --peer.\n"
        "           BLIS_ARCH_TYPE and OPENBLAS_CORETYPE choose their kernels, MF_CPU ours; many minutes, and so not\n"
        "           part of all\n"
        "governor   sessions that write while the load changes in steps, with a speed that is held by their widths;\n"
        "           a minute, and so not part of all\n"
        "train      training steps, against the measured multiply-add peak; minutes, and so not part of all\n\n"
        "Both sides of a ratio are measured in turn; the numbers are medians. Nothing else should run.\n",
    .run = run,
};
