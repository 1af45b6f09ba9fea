/* cli_directory.c - see cli_directory.h. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "cli_directory.h"
#include "import.h"
#include "model_config.h"

bool cli_is_checkpoint(const char *path)
{
    return mfi_import_recognises(path);
}

static mf_status open_directory(mfi_container **out, const char *path, mf_error *error)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.allocator = mfi_allocator(NULL);
    mfi_container_source source = { .path = path, .fd = -1 };
    return mfi_container_open(out, &source, &options, error);
}

static const char *region_kind(mfi_region_kind kind)
{
    return kind == MFI_REGION_BASE ? "base" : kind == MFI_REGION_SHELL ? "shell" : "tables";
}

static const char *tensor_kind(mfi_tensor_kind kind)
{
    return kind == MFI_PANEL ? "panel" : kind == MFI_TABLE ? "table" : "plain";
}

static void print_regions(const mfi_container *container)
{
    cli_table *table = cli_table_create("region|<kind|shell|at|stored|size|<storage|<content hash");
    for (uint32_t i = 0; i < mfi_container_region_count(container); i++) {
        const mfi_region *r = mfi_container_region(container, i);
        cli_table_cell(table, "%" PRIu32, i);
        cli_table_cell(table, "%s", region_kind(r->kind));
        cli_table_cell(table, "%" PRIu32, r->shell);
        cli_table_cell(table, "%" PRIu64, r->file_offset);
        cli_table_cell(table, "%s", cli_bytes((double)r->stored_bytes).text);
        cli_table_cell(table, "%s", cli_bytes((double)r->raw_bytes).text);
        cli_table_cell(table, "%s", r->storage == MFI_ZSTD ? "zstd" : "raw");
        cli_table_cell(table, "%016" PRIx64, r->content_hash);
    }
    putchar('\n');
    cli_table_print(table, stdout);
    cli_table_free(table);
}

static void print_tensors(const mfi_container *container)
{
    cli_table *table = cli_table_create("<tensor|<kind|<type|region|shell|n|k|at|size");
    for (uint32_t i = 0; i < mfi_container_tensor_count(container); i++) {
        const mfi_tensor *t = mfi_container_tensor(container, i);
        cli_table_cell(table, "%s", t->name);
        cli_table_cell(table, "%s", tensor_kind(t->kind));
        cli_table_cell(table, "%s", mfk_type_name(t->type));
        cli_table_cell(table, "%" PRIu32, t->region);
        cli_table_cell(table, "%" PRIu32, t->shell);
        cli_table_cell(table, "%" PRIu64, t->n);
        cli_table_cell(table, "%" PRIu64, t->k);
        cli_table_cell(table, "%" PRIu64, t->offset);
        cli_table_cell(table, "%s", cli_bytes((double)t->bytes).text);
    }
    putchar('\n');
    cli_table_print(table, stdout);
    cli_table_free(table);
}

mf_status cli_directory_print(const char *path, mf_error *error)
{
    mfi_container *container;
    mf_status status = open_directory(&container, path, error);
    if (status != MF_OK) return status;
    print_regions(container);
    print_tensors(container);
    mfi_container_close(container);
    return MF_OK;
}

static json_t *region_json(const mfi_region *r)
{
    return json_pack("{s:s, s:i, s:s, s:I, s:I, s:I, s:s}", "kind", region_kind(r->kind), "shell", (int)r->shell,
                     "storage", r->storage == MFI_ZSTD ? "zstd" : "raw", "offset", (json_int_t)r->file_offset,
                     "stored_bytes", (json_int_t)r->stored_bytes, "bytes", (json_int_t)r->raw_bytes, "content_hash",
                     cli_format("%016" PRIx64, r->content_hash).text);
}

static json_t *tensor_json(const mfi_tensor *t)
{
    return json_pack("{s:o, s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:I}", "name", cli_json_string(t->name), "kind",
                     tensor_kind(t->kind), "type", mfk_type_name(t->type), "region", (int)t->region, "shell",
                     (int)t->shell, "n", (json_int_t)t->n, "k", (json_int_t)t->k, "offset", (json_int_t)t->offset,
                     "bytes", (json_int_t)t->bytes);
}

json_t *cli_directory_json(const char *path, mf_error *error)
{
    mfi_container *container;
    if (open_directory(&container, path, error) != MF_OK) return NULL;
    json_t *regions = json_array(), *tensors = json_array();
    for (uint32_t i = 0; i < mfi_container_region_count(container); i++)
        json_array_append_new(regions, region_json(mfi_container_region(container, i)));
    for (uint32_t i = 0; i < mfi_container_tensor_count(container); i++)
        json_array_append_new(tensors, tensor_json(mfi_container_tensor(container, i)));
    json_t *root = json_pack("{s:s, s:o, s:o}", "content_hash",
                             cli_format("%016" PRIx64, mfi_container_content_hash(container)).text, "regions", regions,
                             "tensors", tensors);
    mfi_container_close(container);
    if (!root) error->status = MF_E_NOMEM;
    return root;
}

mf_status cli_directory_types(const char *path, uint32_t types[MF_N_ROLE], mf_error *error)
{
    mfi_container *container;
    mf_status status = open_directory(&container, path, error);
    if (status != MF_OK) return status;
    memset(types, 0, MF_N_ROLE * sizeof(*types));
    for (uint32_t i = 0; i < mfi_container_tensor_count(container); i++) {
        const mfi_tensor *t = mfi_container_tensor(container, i);
        const mfi_role role = mfi_role_of(t->name);
        if (t->kind != MFI_PLAIN && role < MFI_N_ROLE) types[role] |= 1u << t->type;
    }
    mfi_container_close(container);
    return MF_OK;
}

mf_status cli_directory_tokenizer(const char *path, void **blob, size_t *bytes, mf_error *error)
{
    mfi_container *container;
    mf_status status = open_directory(&container, path, error);
    if (status != MF_OK) return status;
    status = mfi_container_load(container, 1, error);
    const mfi_tensor *tensor = mfi_container_find(container, "tokenizer", 0);
    if (status == MF_OK && !tensor) {
        snprintf(error->detail, sizeof(error->detail), "%s: the file has no tokenizer", path);
        status = error->status = MF_E_NOT_FOUND;
    }
    if (status == MF_OK) {
        *bytes = (size_t)tensor->bytes;
        *blob = malloc(*bytes + 1);
        if (*blob)
            memcpy(*blob, tensor->data, *bytes);
        else
            status = error->status = MF_E_NOMEM;
    }
    mfi_container_close(container);
    return status;
}
