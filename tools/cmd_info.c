/* cmd_info.c - `matformer info`: what is in a file. */
#include <stdlib.h>
#include <string.h>

#include "cli_directory.h"
#include "cli_model.h"
#include "cli_source.h"
#include "commands.h"

typedef struct inspection {
    const char *path;
    bool verified, tensors, json;
    int arithmetic;
    mf_model *model;
    mf_model_info info;
    bool tokenizer;
    uint32_t types[MF_N_ROLE]; /* of the matrices, as in mf_source_role */
} inspection;

/* "ffn q4, attention q8, embedding bf16"; a model may have no output matrix of its own. */
static void print_types(const inspection *in)
{
    printf("  types       ");
    bool first = true;
    for (mf_role role = 0; role < MF_N_ROLE; role++) {
        if (in->types[role] == 0) continue;
        printf("%s%s %s", first ? "" : ", ", mf_role_name(role), cli_types_text(in->types[role]).text);
        first = false;
    }
    putchar('\n');
}

static json_t *types_json(const inspection *in)
{
    json_t *object = json_object();
    for (mf_role role = 0; role < MF_N_ROLE; role++)
        if (in->types[role]) json_object_set_new(object, mf_role_name(role), cli_types_json(in->types[role]));
    return object;
}

static void print_summary(const inspection *in)
{
    const mf_model_info *i = &in->info;
    printf("%s%s%s  %s, %s, %s parameters\n", cli_style_on(stdout, CLI_BOLD), in->path, cli_style_on(stdout, CLI_PLAIN),
           i->family, cli_bytes((double)i->file_bytes).text, cli_number((double)i->n_param).text);
    cli_shape_print(i, in->tokenizer);
    print_types(in);
    printf("  memory      weights %s, mapped %s, allocated %s, %u of %u shells resident\n",
           cli_bytes((double)i->weight_bytes).text, cli_bytes((double)i->mapped_bytes).text,
           cli_bytes((double)i->allocated_bytes).text, i->n_shell_resident, i->n_shell);
    printf("  processor   %s, %s arithmetic\n", i->cpu, cli_arithmetic_name(i->arithmetic));
    if (!in->verified) return;
    if (i->n_shell_resident == i->n_shell)
        printf("  verified    every byte of the weights matches its checksum\n");
    else
        printf("  verified    what the file has matches its checksum; absent, and not verified: the last %u of %u "
               "shells\n",
               i->n_shell - i->n_shell_resident, i->n_shell);
}

/* Granularities, then configurations that have a name; NULL past the end. */
static const char *size_name(const inspection *in, uint32_t index)
{
    const uint32_t n = in->info.n_granularity;
    return index < n ? mf_model_granularity(in->model, index) : mf_model_configuration(in->model, index - n);
}

/* Opens the view of that name; NULL and a message when that fails. */
static mf_submodel *open_size(const inspection *in, const char *name)
{
    mf_error error = MF_ERROR_INIT;
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    mf_submodel *view;
    spec.granularity = name;
    if (mf_extract_submodel(&view, in->model, &spec, &error) != MF_OK) cli_fail(&error);
    return view;
}

static int print_sizes(const inspection *in)
{
    cli_table *table = cli_table_create(
        "<size|FFN width|heads|layers|parameters|body|read per token|FLOPs per token|cache per position|shells|<");
    int status = CLI_OK;
    const char *name;
    for (uint32_t i = 0; (name = size_name(in, i)) && status == CLI_OK; i++) {
        mf_submodel *view = open_size(in, name);
        mf_submodel_info v = MF_SUBMODEL_INFO_INIT;
        if (!view || mf_submodel_info_get(view, &v) != MF_OK) status = CLI_FAILED;
        if (status == CLI_OK) {
            cli_table_cell(table, "%s", name);
            cli_table_cell(table, "%s", cli_ffn_range(view).text);
            cli_table_cell(table, "%s", cli_head_range(view).text);
            cli_table_cell(table, "%u", v.n_layer_kept);
            cli_table_cell(table, "%s", cli_number((double)v.n_param).text);
            cli_table_cell(table, "%s", cli_number((double)v.n_param_body).text);
            cli_table_cell(table, "%s", cli_bytes((double)v.bytes_per_token).text);
            cli_table_cell(table, "%s", cli_number((double)v.flops_per_token).text);
            cli_table_cell(table, "%s", cli_bytes((double)v.cache_bytes_per_position).text);
            cli_table_cell(table, "%u", v.n_shell);
            cli_table_cell(table, "%s", v.n_shell <= in->info.n_shell_resident ? "" : "not in the file");
        }
        mf_submodel_close(view);
    }
    putchar('\n');
    if (status == CLI_OK) cli_table_print(table, stdout);
    cli_table_free(table);
    return status;
}

/* Shell 0, 1, ..., then the tables; false past the last. */
static bool get_shell(const inspection *in, uint32_t index, mf_shell_info *info)
{
    *info = (mf_shell_info)MF_SHELL_INFO_INIT;
    const uint32_t n = in->info.n_shell;
    return index <= n && mf_model_shell_info_get(in->model, index < n ? index : MF_SHELL_TABLES, info) == MF_OK;
}

static void print_shells(const inspection *in)
{
    cli_table *table = cli_table_create("<shell|<needed from|stored|in memory|<");
    mf_shell_info s;
    for (uint32_t i = 0; get_shell(in, i, &s); i++) {
        cli_table_cell(table, i < in->info.n_shell ? "%u" : "tables", i);
        cli_table_cell(table, "%s", s.granularity ? s.granularity : "-");
        cli_table_cell(table, "%s", cli_bytes((double)s.stored_bytes).text);
        cli_table_cell(table, "%s", cli_bytes((double)s.memory_bytes).text);
        cli_table_cell(table, "%s", s.resident ? "resident" : s.present ? "present" : "absent");
    }
    putchar('\n');
    cli_table_print(table, stdout);
    cli_table_free(table);
}

static json_t *shells_json(const inspection *in)
{
    json_t *array = json_array();
    mf_shell_info s;
    for (uint32_t i = 0; get_shell(in, i, &s); i++)
        json_array_append_new(array,
                              json_pack("{s:o, s:s?, s:I, s:I, s:I, s:s, s:b, s:b}", "shell",
                                        i < in->info.n_shell ? json_integer(i) : json_string("tables"), "granularity",
                                        s.granularity, "offset", (json_int_t)s.file_offset, "stored_bytes",
                                        (json_int_t)s.stored_bytes, "memory_bytes", (json_int_t)s.memory_bytes,
                                        "content_hash", cli_format("%016llx", (unsigned long long)s.content_hash).text,
                                        "present", s.present, "resident", s.resident));
    return array;
}

/* Budgets that sizes may be given by. */
static void print_plan(const inspection *in)
{
    mf_plan_info plan = MF_PLAN_INFO_INIT;
    if (mf_model_plan_info(in->model, &plan) != MF_OK) return;
    printf("\nplan  %u configurations for budgets, measured on %s\n", plan.n_entry, plan.calibration);
    if (plan.machine[0] != '\0')
        printf("      times are of %s, %u thread%s%s\n", plan.machine, plan.n_thread, plan.n_thread == 1 ? "" : "s",
               plan.is_timed_here ? "" : ": not this machine; `matformer plan FILE --measure` takes its own");
}

/* NULL where there is none. */
static json_t *plan_json(const inspection *in)
{
    mf_plan_info plan = MF_PLAN_INFO_INIT;
    if (mf_model_plan_info(in->model, &plan) != MF_OK) return json_null();
    return json_pack("{s:i, s:o, s:o, s:i, s:b}", "entries", (int)plan.n_entry, "calibration",
                     cli_json_string(plan.calibration), "machine", cli_json_string(plan.machine), "threads",
                     (int)plan.n_thread, "timed_here", plan.is_timed_here);
}

/* What the table above says already. */
static bool is_shown(const char *key)
{
    return strcmp(key, "family") == 0 || strncmp(key, "granularity.", strlen("granularity.")) == 0;
}

static void print_metadata(const inspection *in)
{
    const char *key;
    bool first = true;
    for (uint32_t i = 0; (key = mf_model_metadata(in->model, NULL, i)); i++) {
        const char *value = mf_model_metadata(in->model, key, 0);
        if (is_shown(key)) continue;
        if (first) printf("\n%sMetadata%s\n", cli_style_on(stdout, CLI_BOLD), cli_style_on(stdout, CLI_PLAIN));
        first = false;
        printf("  %s = %.*s%s\n", key, (int)strcspn(value, "\n"), value, strchr(value, '\n') ? " ..." : "");
    }
}

static json_t *size_json(const inspection *in, const char *name)
{
    mf_submodel *view = open_size(in, name);
    mf_submodel_info v = MF_SUBMODEL_INFO_INIT;
    json_t *object = view && mf_submodel_info_get(view, &v) == MF_OK ? cli_view_json(view, name) : NULL;
    json_object_set_new(object, "in_file", json_boolean(v.n_shell <= in->info.n_shell_resident));
    mf_submodel_close(view);
    return object;
}

static int print_json(const inspection *in)
{
    const mf_model_info *i = &in->info;
    json_t *granularities = json_array(), *configurations = json_array(), *metadata = json_object();
    const char *name;
    for (uint32_t s = 0; (name = size_name(in, s)); s++)
        json_array_append_new(s < i->n_granularity ? granularities : configurations, size_json(in, name));
    const char *key;
    for (uint32_t m = 0; (key = mf_model_metadata(in->model, NULL, m)); m++) {
        const char *value = mf_model_metadata(in->model, key, 0);
        json_t *valid = cli_json_string(key);
        json_object_set_new(metadata, json_string_value(valid), cli_json_string(value));
        json_decref(valid);
    }
    json_t *root = json_pack(
        "{s:o, s:s, s:s, s:b, s:o, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:b, s:i, s:i, s:o, s:o, s:o, s:i, s:o, s:s, "
        "s:o, s:o}",
        "file", cli_json_string(in->path), "family", i->family, "cpu", i->cpu, "verified",
        (int)(in->verified && i->n_shell_resident == i->n_shell), "shape", cli_shape_json(i), "params",
        (json_int_t)i->n_param, "file_bytes", (json_int_t)i->file_bytes, "weight_bytes", (json_int_t)i->weight_bytes,
        "mapped_bytes", (json_int_t)i->mapped_bytes, "allocated_bytes", (json_int_t)i->allocated_bytes, "shells",
        (int)i->n_shell, "shells_resident", (int)i->n_shell_resident, "tokenizer", (int)in->tokenizer, "bos_token",
        i->bos_token, "eos_token", i->eos_token, "granularities", granularities, "configurations", configurations,
        "metadata", metadata, "shells_verified", in->verified ? (int)i->n_shell_resident : 0, "types", types_json(in),
        "arithmetic", cli_arithmetic_name(i->arithmetic), "residency", shells_json(in), "plan", plan_json(in));
    if (root && in->tensors) {
        mf_error error = MF_ERROR_INIT;
        json_t *directory = cli_directory_json(in->path, &error);
        if (!directory) {
            json_decref(root);
            return cli_fail(&error);
        }
        json_object_update(root, directory);
        json_decref(directory);
    }
    return cli_print_json(root);
}

static int print_text(const inspection *in)
{
    print_summary(in);
    int status = print_sizes(in);
    if (status == CLI_OK) print_shells(in);
    if (status == CLI_OK) print_plan(in);
    if (status == CLI_OK) print_metadata(in);
    if (status == CLI_OK && in->tensors) {
        mf_error error = MF_ERROR_INIT;
        if (cli_directory_print(in->path, &error) != MF_OK) status = cli_fail(&error);
    }
    return status;
}

static int run(const cli_command *self, int argc, char **argv)
{
    inspection in = { .info = MF_MODEL_INFO_INIT };
    const cli_option options[] = {
        { CLI_FLAG, "verify", 0, NULL, &in.verified,
          "check every byte of the weights that the file has against its checksum; of a folder or GGUF file: read all "
          "weights for their errors, not some rows",
          0, 0 },
        { CLI_FLAG, "tensors", 0, NULL, &in.tensors,
          "list the regions of the file and the tensors in them; of a folder or GGUF file: what becomes of each tensor",
          0, 0 },
        { CLI_CHOICE, "arithmetic", 0, CLI_ARITHMETICS, &in.arithmetic,
          "the processor's level is the one that this arithmetic uses for the model, if it has kernels for it (exact)",
          0, 0 },
        { CLI_FLAG, "json", 0, NULL, &in.json, "print one JSON object", 0, 0 },
    };
    int first, status;
    if (!cli_parse(self, options, CLI_COUNT(options), argc, argv, &first, &status)) return status;
    if (argc - first != 1) return cli_usage(self, "one file is wanted, not %d", argc - first);
    in.path = argv[first];
    if (cli_is_checkpoint(in.path)) return cli_source_info(in.path, in.verified, in.tensors, in.json);

    mf_error error = MF_ERROR_INIT;
    mf_model_options model_options = MF_MODEL_OPTIONS_INIT;
    model_options.arithmetic = (mf_arithmetic)in.arithmetic;
    model_options.verify = in.verified ? MF_VERIFY_FULL : MF_VERIFY_DEFAULT;
    if (cli_model_open(&in.model, in.path, &model_options, &error) != MF_OK) return cli_fail(&error);
    if (cli_directory_types(in.path, in.types, &error) != MF_OK) {
        mf_model_close(in.model);
        return cli_fail(&error);
    }
    size_t n_token;
    mf_model_info_get(in.model, &in.info);
    in.tokenizer = mf_tokenize(in.model, "", 0, NULL, 0, &n_token) == MF_OK;
    status = in.json ? print_json(&in) : print_text(&in);
    mf_model_close(in.model);
    if (status == CLI_OK && in.verified && cli_model_warnings() > 0) return CLI_FAILED; /* a part that is not whole */
    return status;
}

const cli_command cmd_info = {
    .name = "info",
    .usage = "FILE [OPTION...]",
    .summary = "What is in a model: shape, sizes and their costs, metadata, what becomes of a checkpoint's weights",
    .details = "FILE is a .mf file, a Hugging Face folder or a GGUF file.\n\n"
               "Parameters counts everything that a view uses; body leaves out the embedding and output matrices.\n"
               "Read per token is what decoding one token reads of the weights.\n\n"
               "Relative error is the root mean square of what rounding changes, against that of the weights; it is\n"
               "measured on 64 rows of each matrix, or with --verify on all.\n",
    .run = run,
};
