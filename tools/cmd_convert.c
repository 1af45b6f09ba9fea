/* cmd_convert.c - `matformer convert`: a model file in other types. */
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli_model.h"
#include "commands.h"

typedef struct conversion {
    const char *in, *out, *size, *slices;
    int type, role[MF_N_ROLE]; /* places in TYPES; -1: none given */
    int storage, shells;       /* as mf_convert_options has them, less one */
    bool force, json;
    atomic_bool interrupted;
    mf_source_info before;
    mf_convert_report after;
    double bytes_before, bytes_after; /* of the files */
    double seconds;
} conversion;

#define TYPES "f32|bf16|f16|q8|q4"

/* ---- Results ---- */

/* What happened to the weights of a role, in a word or a number. */
static cli_text error_text(const mf_converted_role *role)
{
    if (role->n_rounded == 0 || role->error == 0) return cli_format("exact");
    return isfinite(role->error) ? cli_format("%.3g", role->error) : cli_format("not finite");
}

static bool is_quantized(uint32_t types)
{
    return (types & (1u << MF_WEIGHT_Q8 | 1u << MF_WEIGHT_Q4)) != 0;
}

/* Whether weights of 8 or 4 bits became wider ones. */
static bool is_dequantized(const conversion *c, mf_role role)
{
    return is_quantized(c->before.role[role].types) && !is_quantized(c->after.role[role].types);
}

static void print_text(const conversion *c)
{
    cli_table *table = cli_table_create("<role|parameters|<before|<after|bytes before|bytes after|relative error");
    bool dequantized = false;
    for (mf_role role = 0; role < MF_N_ROLE; role++) {
        const mf_source_role *before = &c->before.role[role];
        const mf_converted_role *after = &c->after.role[role];
        if (after->n_weight == 0) continue;
        dequantized = dequantized || is_dequantized(c, role);
        cli_table_cell(table, "%s", mf_role_name(role));
        cli_table_cell(table, "%s", cli_number((double)after->n_weight).text);
        cli_table_cell(table, "%s", cli_types_text(before->types).text);
        cli_table_cell(table, "%s", cli_types_text(after->types).text);
        cli_table_cell(table, "%s", cli_bytes((double)before->bytes).text);
        cli_table_cell(table, "%s", cli_bytes((double)after->bytes).text);
        cli_table_cell(table, "%s", error_text(after).text);
    }
    cli_table_print(table, stdout);
    cli_table_free(table);
    printf("\n%s: %s, from %s in %s\n", c->out, cli_bytes(c->bytes_after).text, cli_bytes(c->bytes_before).text,
           cli_seconds(c->seconds).text);
    if (dequantized) puts("Quantized weights were widened; what they had lost before is not in the file.");
}

static int print_json(const conversion *c)
{
    json_t *roles = json_array();
    for (mf_role role = 0; role < MF_N_ROLE; role++) {
        const mf_source_role *before = &c->before.role[role];
        const mf_converted_role *after = &c->after.role[role];
        if (after->n_weight == 0) continue;
        json_array_append_new(roles, json_pack("{s:s, s:I, s:o, s:o, s:I, s:I, s:I, s:o, s:b}", "role",
                                               mf_role_name(role), "params", (json_int_t)after->n_weight, "before",
                                               cli_types_json(before->types), "after", cli_types_json(after->types),
                                               "bytes_before", (json_int_t)before->bytes, "bytes_after",
                                               (json_int_t)after->bytes, "rounded", (json_int_t)after->n_rounded,
                                               "error", isfinite(after->error) ? json_real(after->error) : json_null(),
                                               "dequantized", (int)is_dequantized(c, role)));
    }
    return cli_print_json(json_pack("{s:o, s:o, s:I, s:I, s:f, s:o}", "in", cli_json_string(c->in), "out",
                                    cli_json_string(c->out), "file_bytes_before", (json_int_t)c->bytes_before,
                                    "file_bytes_after", (json_int_t)c->bytes_after, "seconds", c->seconds, "roles",
                                    roles));
}

/* ---- Conversion ---- */

static void interrupt(void *user)
{
    atomic_store(&((conversion *)user)->interrupted, true);
}

static int show_opening(void *user, uint64_t done, uint64_t total)
{
    cli_progress("opening", (double)done, (double)total);
    return atomic_load(&((conversion *)user)->interrupted);
}

static int show_writing(void *user, uint64_t done, uint64_t total)
{
    cli_progress("writing", (double)done, (double)total);
    return atomic_load(&((conversion *)user)->interrupted);
}

static double file_bytes(const char *path)
{
    struct stat about;
    return stat(path, &about) == 0 ? (double)about.st_size : 0;
}

static int check_out(const conversion *c)
{
    struct stat about;
    if (stat(c->out, &about) != 0) return CLI_OK;
    if (!S_ISREG(about.st_mode)) return cli_fail_text("%s: not a regular file", c->out);
    return c->force ? CLI_OK : cli_fail_text("%s: the file exists; --force replaces it", c->out);
}

static mf_status convert(conversion *c, mf_error *error)
{
    mf_source_options open = MF_SOURCE_OPTIONS_INIT;
    mf_convert_options options = MF_CONVERT_OPTIONS_INIT;
    open.progress = show_opening;
    options.progress = show_writing;
    open.progress_user = options.progress_user = c;
    options.type = (mf_weight_type)(c->type + 1);
    for (int role = 0; role < MF_N_ROLE; role++)
        options.role_type[role] = (mf_weight_type)(c->role[role] + 1);
    options.storage = (mf_storage)(c->storage + 1);
    options.shells = (mf_shells)(c->shells + 1);
    options.submodel = c->size;

    mf_source *source;
    c->bytes_before = file_bytes(c->in);
    const double begin = cli_now();
    mf_status status = mf_source_open(&source, c->in, &open, error);
    if (status == MF_OK && c->slices) status = mf_source_add_slices(source, c->slices, error);
    if (status == MF_OK) status = mf_source_info_get(source, &c->before);
    if (status == MF_OK) status = mf_convert(source, c->out, &options, &c->after, error);
    c->seconds = cli_now() - begin;
    c->bytes_after = file_bytes(c->out);
    mf_source_close(source);
    cli_progress_end();
    return status;
}

static int execute(conversion *c)
{
    mf_error error = MF_ERROR_INIT;
    if (check_out(c) != CLI_OK) return CLI_FAILED;
    if (!cli_interrupt_begin(interrupt, c)) return cli_fail_text("a thread could not be started");
    const mf_status status = convert(c, &error);
    const int signal = cli_interrupted();
    cli_interrupt_end();
    if (status == MF_E_CANCELLED && signal) {
        cli_fail_text("%s was not written", c->out);
        return CLI_SIGNAL + signal;
    }
    if (status != MF_OK) return cli_fail(&error);
    if (c->json) return print_json(c);
    print_text(c);
    return CLI_OK;
}

static int run(const cli_command *self, int argc, char **argv)
{
    conversion c = { .type = -1,
                     .role = { -1, -1, -1, -1 },
                     .storage = -1,
                     .shells = -1,
                     .before = MF_SOURCE_INFO_INIT,
                     .after = MF_CONVERT_REPORT_INIT };
    const cli_option options[] = {
        { CLI_CHOICE, "type", 't', TYPES, &c.type, "of the matrices (each role keeps its own)", 0, 0 },
        { CLI_CHOICE, "ffn", 0, TYPES, &c.role[MF_ROLE_FFN], "of the feed-forward matrices, instead", 0, 0 },
        { CLI_CHOICE, "attention", 0, TYPES, &c.role[MF_ROLE_ATTENTION], "of the attention's, likewise", 0, 0 },
        { CLI_CHOICE, "embedding", 0, TYPES, &c.role[MF_ROLE_EMBEDDING],
          "of the embedding, which is the output matrix too where the model has none of its own", 0, 0 },
        { CLI_CHOICE, "output", 0, TYPES, &c.role[MF_ROLE_OUTPUT], "of an output matrix of its own", 0, 0 },
        { CLI_CHOICE, "storage", 0, "raw|zstd", &c.storage,
          "mapped when the model opens, or smaller and decoded (as it is)", 0, 0 },
        { CLI_CHOICE, "shells", 0, "nested|single", &c.shells,
          "a region for what each size adds, so that the beginning of the file is a smaller model; or one for all "
          "(as it is)",
          0, 0 },
        { CLI_TEXT, "size", 's', "SIZE", &c.size, "cut the file to a submodel: a name, a ratio, or widths", 0, 0 },
        { CLI_TEXT, "slices", 0, "FILE.csv", &c.slices,
          "give Gemma 3n's slicing configurations names, from the table that is published of them", 0, 0 },
        { CLI_FLAG, "force", 'f', NULL, &c.force, "replace OUT where it exists; it may be IN", 0, 0 },
        { CLI_FLAG, "json", 0, NULL, &c.json, "print one JSON object", 0, 0 },
    };
    int first, status;
    if (!cli_parse(self, options, CLI_COUNT(options), argc, argv, &first, &status)) return status;
    if (argc - first != 2) return cli_usage(self, "two files are wanted, not %d", argc - first);
    c.in = argv[first];
    c.out = argv[first + 1];
    return execute(&c);
}

const cli_command cmd_convert = {
    .name = "convert",
    .usage = "IN OUT [OPTION...]",
    .summary = "Write a model as a .mf file, with weights of other types",
    .details = "IN is a .mf file, a Hugging Face folder or a GGUF file.\n\n"
               "Relative error is the root mean square of what rounding changed, against that of the weights;\n"
               "weights whose type stays keep every bit. A weight that a type does not hold is refused.\n\n"
               "  matformer convert model.mf small.mf --type q8 --ffn q4\n",
    .run = run,
};
