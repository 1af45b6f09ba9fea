/* cmd_export.c - `matformer export`: a model, or a submodel of it, for other people's programs. */
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>

#include "cli_model.h"
#include "commands.h"

typedef struct export
{
    const char *in, *out, *size;
    int format, type;
    double shard_gb;
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
    options.format = (mf_export_format)e->format;
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
    export e = { .type = -1, .shard_gb = 5 };
    const cli_option options[] = {
        { CLI_CHOICE, "format", 0, "hf|gguf", &e.format,
          "a folder that the transformers package loads, or a file that llama.cpp loads (hf)", 0, 0 },
        { CLI_TEXT, "size", 's', "SIZE", &e.size, "the submodel: a name, a ratio, or widths (all of the model)", 0, 0 },
        { CLI_CHOICE, "type", 't', "f32|bf16|f16|q8", &e.type,
          "of the matrices (as they are; of fewer bits: bf16 in a folder, Q8_0 in GGUF)", 0, 0 },
        { CLI_REAL, "shard-gb", 0, "GB", &e.shard_gb, "most of one safetensors file, in 10^9 bytes (5)", 0.001, 1e6 },
        { CLI_FLAG, "json", 0, NULL, &e.json, "print one JSON object", 0, 0 },
    };
    int first, status;
    if (!cli_parse(self, options, CLI_COUNT(options), argc, argv, &first, &status)) return status;
    if (argc - first != 2) return cli_usage(self, "a model and a name to write are wanted, not %d", argc - first);
    e.in = argv[first];
    e.out = argv[first + 1];
    return execute(&e);
}

const cli_command cmd_export = {
    .name = "export",
    .usage = "IN OUT [OPTION...]",
    .summary = "Write a model, or a submodel, for other programs",
    .details =
        "IN is a .mf file, a Hugging Face folder or a GGUF file. OUT must not exist yet. What a format cannot say\n"
        "is refused with the reason.\n\n"
        "  matformer export model.mf small --size 0.5\n"
        "  matformer export model.mf small.gguf --format gguf --size M --type q8\n",
    .run = run,
};
