/* cmd_export.c - `matformer export`: a model, or a submodel of it, for other people's programs; or a .mf file in parts. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli_model.h"
#include "commands.h"

typedef struct export
{
    const char *in, *out, *size;
    int format, type;
    double shard_gb;
    bool shells;
    const char *split_max;
    uint64_t max_bytes; /* that split_max says; 0: no limit */
    json_t *files;      /* that were written */
    bool json;
    double seconds;
    atomic_bool interrupted;
}
export;

static void interrupt(void *user)
{
    atomic_store(&((export *)user)->interrupted, true);
}

static int show_opening(void *user, uint64_t done, uint64_t total)
{
    cli_progress("opening", (double)done, (double)total);
    return atomic_load(&((export *)user)->interrupted);
}

static int show_writing(void *user, uint64_t done, uint64_t total)
{
    cli_progress("writing", (double)done, (double)total);
    return atomic_load(&((export *)user)->interrupted);
}

static mf_status write_out(export *e, mf_error *error)
{
    mf_source_options open = MF_SOURCE_OPTIONS_INIT;
    mf_export_options options = MF_EXPORT_OPTIONS_INIT;
    open.progress = show_opening;
    options.progress = show_writing;
    open.progress_user = options.progress_user = e;
    options.format = e->format < 0 ? MF_EXPORT_HF : (mf_export_format)e->format;
    options.type = (mf_weight_type)(e->type + 1);
    options.submodel = e->size;
    options.shard_bytes = (uint64_t)(e->shard_gb * 1e9);

    mf_source *source;
    const double begin = cli_now();
    mf_status status = mf_source_open(&source, e->in, &open, error);
    if (status == MF_OK) status = mf_export(source, e->out, &options, error);
    e->seconds = cli_now() - begin;
    mf_source_close(source);
    cli_progress_end();
    return status;
}

static void note_file(void *user, const char *path, uint64_t bytes)
{
    export *e = user;
    cli_progress_end();
    if (!e->json) printf("%s: %s\n", path, cli_bytes((double)bytes).text);
    json_array_append_new(e->files, json_pack("{s:o, s:I}", "path", cli_json_string(path), "bytes", (json_int_t)bytes));
}

static mf_status write_parts(export *e, mf_error *error)
{
    mf_split_options options = MF_SPLIT_OPTIONS_INIT;
    options.max_bytes = e->max_bytes;
    options.pack = !e->shells;
    options.progress = show_writing;
    options.on_file = note_file;
    options.progress_user = options.on_file_user = e;
    const double begin = cli_now();
    const mf_status status = mf_split(e->in, e->out, &options, error);
    e->seconds = cli_now() - begin;
    cli_progress_end();
    return status;
}

static int execute_parts(export *e)
{
    mf_error error = MF_ERROR_INIT;
    if (!cli_interrupt_begin(interrupt, e)) return cli_fail_text("a thread could not be started");
    e->files = json_array();
    const mf_status status = write_parts(e, &error);
    const int signal = cli_interrupted();
    cli_interrupt_end();
    if (status == MF_OK && e->json)
        return cli_print_json(json_pack("{s:o, s:o, s:o, s:f}", "in", cli_json_string(e->in), "out",
                                        cli_json_string(e->out), "files", e->files, "seconds", e->seconds));
    json_decref(e->files);
    if (status == MF_OK) return CLI_OK;
    if (status != MF_E_CANCELLED || !signal) return cli_fail(&error);
    cli_fail_text("%s was not written", e->out);
    return CLI_SIGNAL + signal;
}

/* "1400MiB", "1.5GB", "700e6": bytes, at least 1. */
static bool parse_bytes(const char *text, uint64_t *bytes)
{
    static const struct {
        const char *name;
        double factor;
    } units[] = { { "", 1 },     { "B", 1 },      { "kB", 1e3 },      { "MB", 1e6 },
                  { "GB", 1e9 }, { "KiB", 1024 }, { "MiB", 1048576 }, { "GiB", 1073741824 },
                  { "k", 1e3 },  { "M", 1e6 },    { "G", 1e9 } };
    char *end;
    errno = 0;
    const double number = strtod(text, &end);
    if (end == text || errno != 0) return false;
    for (size_t i = 0; i < CLI_COUNT(units); i++) {
        const double value = number * units[i].factor;
        if (strcmp(units[i].name, end) != 0 || !(value >= 1 && value < 9e18)) continue;
        *bytes = (uint64_t)value;
        return true;
    }
    return false;
}

static int execute(export *e)
{
    mf_error error = MF_ERROR_INIT;
    if (!cli_interrupt_begin(interrupt, e)) return cli_fail_text("a thread could not be started");
    const mf_status status = write_out(e, &error);
    const int signal = cli_interrupted();
    cli_interrupt_end();
    if (status == MF_E_CANCELLED && signal) {
        cli_fail_text("%s was not written", e->out);
        return CLI_SIGNAL + signal;
    }
    if (status != MF_OK) return cli_fail(&error);
    if (e->json)
        return cli_print_json(json_pack("{s:o, s:o, s:o, s:f}", "in", cli_json_string(e->in), "out",
                                        cli_json_string(e->out), "size",
                                        e->size ? cli_json_string(e->size) : json_null(), "seconds", e->seconds));
    printf("%s: written in %s\n", e->out, cli_seconds(e->seconds).text);
    return CLI_OK;
}

static int run(const cli_command *self, int argc, char **argv)
{
    export e = { .format = -1, .type = -1, .shard_gb = 5 };
    const cli_option options[] = {
        { CLI_CHOICE, "format", 0, "hf|gguf", &e.format,
          "a folder that the transformers package loads, or a file that llama.cpp loads (hf)", 0, 0 },
        { CLI_TEXT, "size", 's', "SIZE", &e.size, "the submodel: a name, a ratio, or widths (all of the model)", 0, 0 },
        { CLI_CHOICE, "type", 't', "f32|bf16|f16|q8", &e.type,
          "of the matrices (as they are; of fewer bits: bf16 in a folder, Q8_0 in GGUF)", 0, 0 },
        { CLI_REAL, "shard-gb", 0, "GB", &e.shard_gb, "most of one safetensors file, in 10^9 bytes (5)", 0.001, 1e6 },
        { CLI_FLAG, "shells", 0, NULL, &e.shells,
          "cut a .mf file: OUT becomes a .mf file of what every size needs, and what the others add parts beside it", 0,
          0 },
        { CLI_TEXT, "split-max", 0, "SIZE", &e.split_max,
          "likewise, and no file is larger (1400MiB, 1.9GB): with --shells one part for each shell, cut where it is "
          "larger; without it as few files as will do",
          0, 0 },
        { CLI_FLAG, "json", 0, NULL, &e.json, "print one JSON object", 0, 0 },
    };
    int first, status;
    if (!cli_parse(self, options, CLI_COUNT(options), argc, argv, &first, &status)) return status;
    if (argc - first != 2) return cli_usage(self, "a model and a name to write are wanted, not %d", argc - first);
    e.in = argv[first];
    e.out = argv[first + 1];
    if (!e.shells && !e.split_max) return execute(&e);
    if (e.format >= 0 || e.type >= 0 || e.size)
        return cli_usage(self, "a .mf file is cut as it is, without --format, --type and --size; convert it before");
    if (e.split_max && !parse_bytes(e.split_max, &e.max_bytes))
        return cli_usage(self, "--split-max %s is no size; 1400MiB, 1.9GB and 700000000 are", e.split_max);
    return execute_parts(&e);
}

const cli_command cmd_export = {
    .name = "export",
    .usage = "IN OUT [OPTION...]",
    .summary = "Write a model, or a submodel, for other programs",
    .details =
        "IN is a .mf file, a Hugging Face folder or a GGUF file. OUT must not exist yet. What a format cannot say\n"
        "is refused with the reason.\n\n"
        "With --shells or --split-max IN is a .mf file, OUT is replaced where it exists, and the parts that lie "
        "beside\n"
        "OUT are found by every command: as many as there are, so that small sizes do without the last ones.\n\n"
        "  matformer export model.mf small --size 0.5\n"
        "  matformer export model.mf small.gguf --format gguf --size M --type q8\n"
        "  matformer export model.mf app/model.mf --shells --split-max 1400MiB\n",
    .run = run,
};
