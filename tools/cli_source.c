/* cli_source.c - see cli_source.h. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli_source.h"

#define SAMPLE_ROWS 64

/* Tensors of one type that become one type. */
typedef struct group {
    const char *type;
    mf_weight_type becomes; /* KEEP: not used */
    bool is_exact;
    uint32_t n_tensor;
    uint64_t n_weight, bytes;
    double square_sum, error_square_sum;
} group;

typedef struct description {
    const char *path;
    bool all;
    mf_source *source;
    mf_source_info info;
    mf_model_info model;
    mf_source_tensor *tensors; /* [info.n_tensor] */
    mf_source_rounding *rounding;
    group *groups; /* [n_group], room for n_tensor */
    size_t n_group;
    uint64_t bytes; /* of all tensors */
} description;

/* ---- Reading ---- */

static group *find_group(description *d, const mf_source_tensor *t)
{
    for (size_t i = 0; i < d->n_group; i++) {
        group *g = &d->groups[i];
        if (strcmp(g->type, t->type) == 0 && g->becomes == t->becomes && g->is_exact == (t->is_exact != 0)) return g;
    }
    d->groups[d->n_group] = (group){ .type = t->type, .becomes = t->becomes, .is_exact = t->is_exact != 0 };
    return &d->groups[d->n_group++];
}

/* Exact ones are read with `all` alone, to find weights that are not finite. */
static mf_status describe_tensor(description *d, uint32_t index, mf_error *error)
{
    mf_source_tensor *t = &d->tensors[index];
    mf_source_rounding *r = &d->rounding[index];
    *t = (mf_source_tensor)MF_SOURCE_TENSOR_INIT;
    *r = (mf_source_rounding)MF_SOURCE_ROUNDING_INIT;
    mf_status status = mf_source_tensor_get(d->source, index, t);
    if (status == MF_OK && t->becomes != MF_WEIGHT_KEEP && (d->all || !t->is_exact))
        status = mf_source_measure(d->source, index, d->all ? 0 : SAMPLE_ROWS, r, error);
    if (status != MF_OK) return error->status = status;
    group *g = find_group(d, t);
    g->n_tensor++;
    g->n_weight += t->n_weight;
    g->bytes += t->bytes;
    g->square_sum += r->square_sum;
    g->error_square_sum += r->error_square_sum;
    d->bytes += t->bytes;
    return MF_OK;
}

static mf_status describe(description *d, mf_error *error)
{
    mf_status status = mf_source_open(&d->source, d->path, NULL, error);
    if (status == MF_OK) status = error->status = mf_source_info_get(d->source, &d->info);
    if (status == MF_OK) status = error->status = mf_source_model_info(d->source, &d->model);
    if (status != MF_OK) return status;
    const size_t n = d->info.n_tensor;
    d->tensors = calloc(n, sizeof(*d->tensors));
    d->rounding = calloc(n, sizeof(*d->rounding));
    d->groups = calloc(n, sizeof(*d->groups));
    if (!d->tensors || !d->rounding || !d->groups) return error->status = MF_E_NOMEM;
    for (uint32_t i = 0; i < n && status == MF_OK; i++) {
        cli_progress("measuring", i, (double)n);
        status = describe_tensor(d, i, error);
    }
    cli_progress_end();
    return status;
}

/* The next size, of which there may be none with these layers and heads as a model of its own. */
static bool next_size(const description *d, uint32_t *index, mf_source_size *size)
{
    mf_error error = MF_ERROR_INIT;
    mf_status status;
    do {
        *size = (mf_source_size)MF_SOURCE_SIZE_INIT;
        status = mf_source_size_get(d->source, (*index)++, size, &error);
    } while (status != MF_OK && status != MF_E_RANGE);
    return status == MF_OK;
}

static cli_text loss_text(bool used, bool is_exact, double error_square_sum, double square_sum)
{
    if (!used) return cli_format("not used");
    if (is_exact || error_square_sum == 0) return cli_format("exact");
    return cli_format("%.3g", sqrt(error_square_sum / square_sum));
}

static json_t *loss_json(bool used, bool is_exact, double error_square_sum, double square_sum)
{
    if (!used) return json_null();
    return json_real(is_exact || error_square_sum == 0 ? 0 : sqrt(error_square_sum / square_sum));
}

static const char *becomes_name(mf_weight_type type)
{
    return type == MF_WEIGHT_KEEP ? "-" : mf_weight_type_name(type);
}

/* ---- Text ---- */

static uint64_t packed_bytes(const description *d)
{
    uint64_t bytes = 0;
    for (mf_role role = 0; role < MF_N_ROLE; role++)
        bytes += d->info.role[role].bytes;
    return bytes;
}

static void print_summary(const description *d)
{
    printf("%s%s%s  %s, %s, %s in %u tensors, %s parameters\n", cli_style_on(stdout, CLI_BOLD), d->path,
           cli_style_on(stdout, CLI_PLAIN), d->info.format, d->model.family, cli_bytes((double)d->bytes).text,
           d->info.n_tensor, cli_number((double)d->model.n_param).text);
    cli_shape_print(&d->model, d->info.has_tokenizer);
    printf("  becomes     ");
    bool first = true;
    for (mf_role role = 0; role < MF_N_ROLE; role++) {
        if (d->info.role[role].n_weight == 0) continue;
        printf("%s%s %s", first ? "" : ", ", mf_role_name(role), cli_types_text(d->info.role[role].types).text);
        first = false;
    }
    printf("; %s in memory\n\n", cli_bytes((double)packed_bytes(d)).text);
}

static void print_sizes(const description *d)
{
    cli_table *table = cli_table_create("<size|FFN width|layers|parameters|read per token");
    mf_source_size size;
    for (uint32_t i = 0; next_size(d, &i, &size);) {
        const bool same = size.ffn_least == size.ffn_most;
        cli_table_cell(table, "%s", size.name);
        cli_table_cell(table, "%s",
                       same ? cli_format("%u", size.ffn_most).text
                            : cli_format("%u-%u", size.ffn_least, size.ffn_most).text);
        cli_table_cell(table, "%u", size.n_layer_kept);
        cli_table_cell(table, "%s", cli_number((double)size.n_param).text);
        cli_table_cell(table, "%s", cli_bytes((double)size.bytes_per_token).text);
    }
    cli_table_print(table, stdout);
    cli_table_free(table);
}

static void print_groups(const description *d)
{
    cli_table *table = cli_table_create("<type|tensors|weights|size|<becomes|relative error");
    for (size_t i = 0; i < d->n_group; i++) {
        const group *g = &d->groups[i];
        cli_table_cell(table, "%s", g->type);
        cli_table_cell(table, "%u", g->n_tensor);
        cli_table_cell(table, "%s", cli_number((double)g->n_weight).text);
        cli_table_cell(table, "%s", cli_bytes((double)g->bytes).text);
        cli_table_cell(table, "%s", becomes_name(g->becomes));
        cli_table_cell(table, "%s",
                       loss_text(g->becomes != MF_WEIGHT_KEEP, g->is_exact, g->error_square_sum, g->square_sum).text);
    }
    putchar('\n');
    cli_table_print(table, stdout);
    cli_table_free(table);
    if (d->all) puts("\nEvery weight that the model uses was read, and is finite.");
}

static cli_text shape_text(const mf_source_tensor *t)
{
    cli_text text = { "" };
    for (uint32_t i = 0; i < t->n_dim; i++)
        text = cli_format("%.24s%s%" PRIu64, text.text, i > 0 ? "x" : "", t->dim[i]);
    return text;
}

static void print_tensors(const description *d)
{
    cli_table *table = cli_table_create("<tensor|<type|<shape|size|<becomes|relative error");
    for (uint32_t i = 0; i < d->info.n_tensor; i++) {
        const mf_source_tensor *t = &d->tensors[i];
        const mf_source_rounding *r = &d->rounding[i];
        cli_table_cell(table, "%s", t->name);
        cli_table_cell(table, "%s", t->type);
        cli_table_cell(table, "%s", shape_text(t).text);
        cli_table_cell(table, "%s", cli_bytes((double)t->bytes).text);
        cli_table_cell(table, "%s", becomes_name(t->becomes));
        cli_table_cell(table, "%s",
                       loss_text(t->becomes != MF_WEIGHT_KEEP, t->is_exact, r->error_square_sum, r->square_sum).text);
    }
    putchar('\n');
    cli_table_print(table, stdout);
    cli_table_free(table);
}

/* ---- JSON ---- */

static json_t *becomes_json(mf_weight_type type)
{
    return type == MF_WEIGHT_KEEP ? json_null() : json_string(mf_weight_type_name(type));
}

static json_t *sizes_json(const description *d)
{
    json_t *sizes = json_array();
    mf_source_size size;
    for (uint32_t i = 0; next_size(d, &i, &size);)
        json_array_append_new(sizes, json_pack("{s:s, s:i, s:i, s:i, s:I, s:I}", "size", size.name, "ffn_least",
                                               (int)size.ffn_least, "ffn_most", (int)size.ffn_most, "layers",
                                               (int)size.n_layer_kept, "params", (json_int_t)size.n_param,
                                               "bytes_per_token", (json_int_t)size.bytes_per_token));
    return sizes;
}

static json_t *groups_json(const description *d)
{
    json_t *groups = json_array();
    for (size_t i = 0; i < d->n_group; i++) {
        const group *g = &d->groups[i];
        json_t *error = loss_json(g->becomes != MF_WEIGHT_KEEP, g->is_exact, g->error_square_sum, g->square_sum);
        json_array_append_new(groups,
                              json_pack("{s:s, s:i, s:I, s:I, s:o, s:o}", "type", g->type, "tensors", (int)g->n_tensor,
                                        "weights", (json_int_t)g->n_weight, "bytes", (json_int_t)g->bytes, "becomes",
                                        becomes_json(g->becomes), "error", error));
    }
    return groups;
}

static json_t *tensors_json(const description *d)
{
    json_t *tensors = json_array();
    for (uint32_t i = 0; i < d->info.n_tensor; i++) {
        const mf_source_tensor *t = &d->tensors[i];
        const mf_source_rounding *r = &d->rounding[i];
        json_t *shape = json_array();
        for (uint32_t dim = 0; dim < t->n_dim; dim++)
            json_array_append_new(shape, json_integer((json_int_t)t->dim[dim]));
        json_t *error = loss_json(t->becomes != MF_WEIGHT_KEEP, t->is_exact, r->error_square_sum, r->square_sum);
        json_array_append_new(tensors, json_pack("{s:o, s:s, s:o, s:I, s:o, s:o}", "name", cli_json_string(t->name),
                                                 "type", t->type, "shape", shape, "bytes", (json_int_t)t->bytes,
                                                 "becomes", becomes_json(t->becomes), "error", error));
    }
    return tensors;
}

static json_t *types_json(const description *d)
{
    json_t *object = json_object();
    for (mf_role role = 0; role < MF_N_ROLE; role++)
        if (d->info.role[role].types)
            json_object_set_new(object, mf_role_name(role), cli_types_json(d->info.role[role].types));
    return object;
}

static int print_json(const description *d, bool tensors)
{
    json_t *root =
        json_pack("{s:o, s:s, s:s, s:b, s:o, s:I, s:I, s:I, s:b, s:i, s:i, s:o, s:o, s:o}", "file",
                  cli_json_string(d->path), "format", d->info.format, "family", d->model.family, "verified",
                  (int)d->all, "shape", cli_shape_json(&d->model), "params", (json_int_t)d->model.n_param,
                  "tensor_bytes", (json_int_t)d->bytes, "packed_bytes", (json_int_t)packed_bytes(d), "tokenizer",
                  (int)(d->info.has_tokenizer != 0), "bos_token", d->model.bos_token, "eos_token", d->model.eos_token,
                  "sizes", sizes_json(d), "types", types_json(d), "source_types", groups_json(d));
    if (root && tensors) json_object_set_new(root, "tensors", tensors_json(d));
    return cli_print_json(root);
}

int cli_source_info(const char *path, bool all, bool tensors, bool json)
{
    description d = { .path = path, .all = all, .info = MF_SOURCE_INFO_INIT, .model = MF_MODEL_INFO_INIT };
    mf_error error = MF_ERROR_INIT;
    int status = describe(&d, &error) == MF_OK ? CLI_OK : cli_fail(&error);
    if (status == CLI_OK && json) {
        status = print_json(&d, tensors);
    } else if (status == CLI_OK) {
        print_summary(&d);
        print_sizes(&d);
        print_groups(&d);
        if (tensors) print_tensors(&d);
    }
    free(d.tensors);
    free(d.rounding);
    free(d.groups);
    mf_source_close(d.source);
    return status;
}
