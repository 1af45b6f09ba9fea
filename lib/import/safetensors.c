/* safetensors.c - the tensors of a Hugging Face folder: u64 bytes of the header, a JSON header, and the data, which the
 * tensors fill without a gap (docs/import.md). */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "defs.h"
#include "json.h"
#include "platform.h"
#include "status.h"
#include "tensor_list.h"

#define LENGTH_BYTES 8u
#define HEADER_MAX 100000000u /* the format's own limit */
#define PATH_MAX_BYTES 4096u
#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

/* ---- Types ---- */

typedef struct dtype {
    const char *name;
    uint32_t bytes;
    mfi_source_type type;
} dtype;

static const dtype dtypes[] = {
    { "BF16", 2, MFI_SOURCE_BF16 },     { "F16", 2, MFI_SOURCE_F16 },       { "F32", 4, MFI_SOURCE_F32 },
    { "F64", 8, MFI_SOURCE_F64 },       { "BOOL", 1, MFI_SOURCE_OTHER },    { "U8", 1, MFI_SOURCE_OTHER },
    { "I8", 1, MFI_SOURCE_OTHER },      { "F8_E4M3", 1, MFI_SOURCE_OTHER }, { "F8_E5M2", 1, MFI_SOURCE_OTHER },
    { "F8_E8M0", 1, MFI_SOURCE_OTHER }, { "I16", 2, MFI_SOURCE_OTHER },     { "U16", 2, MFI_SOURCE_OTHER },
    { "I32", 4, MFI_SOURCE_OTHER },     { "U32", 4, MFI_SOURCE_OTHER },     { "I64", 8, MFI_SOURCE_OTHER },
    { "U64", 8, MFI_SOURCE_OTHER },     { "C64", 8, MFI_SOURCE_OTHER },
};

/* NULL for one that is not known, which is refused when it is read. */
static const dtype *find_dtype(const char *name)
{
    for (size_t i = 0; i < MFI_COUNT(dtypes); i++)
        if (strcmp(name, dtypes[i].name) == 0) return &dtypes[i];
    return NULL;
}

/* ---- One file ---- */

typedef struct reader {
    mfi_tensor_file *file;
    uint32_t part, first; /* first: tensor of the part, in the list */
    const char *path;
    uint64_t data_at, data_bytes;
    char *name; /* where the next name goes */
    mf_error *error;
} reader;

static mf_status damaged(const reader *r, const char *name, const char *what)
{
    return mfi_fail(r->error, MF_E_FORMAT, "%s: tensor %s: %s; fetch the file again", r->path, name, what);
}

static const char *keep_text(reader *r, const char *text)
{
    const size_t bytes = strlen(text) + 1;
    const char *kept = memcpy(r->name, text, bytes);
    r->name += bytes;
    return kept;
}

/* The first `count` elements of an array, which must have that many: integers from 0 to 2^63 - 1. */
static bool read_integers(const json_t *array, size_t count, uint64_t *out)
{
    for (size_t i = 0; i < count; i++) {
        const json_t *value = json_array_get(array, i);
        if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
        out[i] = (uint64_t)json_integer_value(value);
    }
    return true;
}

static mf_status read_shape(const reader *r, mfi_source_tensor *tensor, const json_t *shape)
{
    if (!json_is_array(shape)) return damaged(r, tensor->name, "its shape is no array");
    if (json_array_size(shape) > MFI_SOURCE_DIMS)
        return mfi_fail(r->error, MF_E_UNSUPPORTED, "%s: tensor %s has %zu dimensions, and %u are the most", r->path,
                        tensor->name, json_array_size(shape), MFI_SOURCE_DIMS);
    tensor->n_dim = (uint32_t)json_array_size(shape);
    if (read_integers(shape, tensor->n_dim, tensor->dim)) return MF_OK;
    return damaged(r, tensor->name, "its shape is not of integers from 0 on");
}

/* Where the bytes lie, of which nobody knows yet whether they are as many as the shape asks for. */
static mf_status read_offsets(const reader *r, mfi_source_tensor *tensor, const json_t *offsets)
{
    uint64_t at[2];
    if (!json_is_array(offsets) || json_array_size(offsets) != 2 || !read_integers(offsets, 2, at))
        return damaged(r, tensor->name, "its data_offsets are not two integers from 0 on");
    if (at[0] > at[1]) return damaged(r, tensor->name, "its data ends before it begins");
    if (at[1] > r->data_bytes)
        return mfi_fail(r->error, MF_E_FORMAT,
                        "%s: tensor %s ends at byte %llu of the data, and the file has %llu; fetch the rest", r->path,
                        tensor->name, (unsigned long long)at[1], (unsigned long long)r->data_bytes);
    tensor->offset = r->data_at + at[0];
    tensor->bytes = at[1] - at[0];
    return MF_OK;
}

static mf_status check_size(const reader *r, const mfi_source_tensor *tensor, uint32_t element_bytes)
{
    uint64_t bytes = element_bytes;
    for (uint32_t i = 0; i < tensor->n_dim; i++)
        if (!mfi_mul_u64(bytes, tensor->dim[i], &bytes)) return damaged(r, tensor->name, "its shape is beyond 64 bits");
    if (bytes == tensor->bytes) return MF_OK;
    return mfi_fail(r->error, MF_E_FORMAT,
                    "%s: tensor %s: its shape and type make %llu bytes, and it has %llu; fetch the file again", r->path,
                    tensor->name, (unsigned long long)bytes, (unsigned long long)tensor->bytes);
}

static mf_status read_tensor(reader *r, const char *name, const json_t *entry)
{
    if (!json_is_object(entry)) return damaged(r, name, "its entry is no object");
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    if (!type) return damaged(r, name, "its dtype is no string");
    if (!mfi_source_name_valid(type, strlen(type))) return damaged(r, name, "its dtype is no name");
    const dtype *known = find_dtype(type);
    mfi_source_tensor *tensor = &r->file->tensor[r->file->n_tensor];
    *tensor = (mfi_source_tensor){ .name = keep_text(r, name), .file = r->part };
    tensor->type = known ? known->type : MFI_SOURCE_OTHER;
    tensor->type_name = known ? known->name : keep_text(r, type);
    mf_status status = read_shape(r, tensor, json_object_get(entry, "shape"));
    if (status == MF_OK) status = read_offsets(r, tensor, json_object_get(entry, "data_offsets"));
    if (status == MF_OK && known) status = check_size(r, tensor, known->bytes);
    if (status == MF_OK) r->file->n_tensor++;
    return status;
}

static mf_status check_metadata(const reader *r, json_t *metadata)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return mfi_fail(r->error, MF_E_FORMAT, "%s: __metadata__ is no object; fetch the file again", r->path);
    json_object_foreach(metadata, key, value) if (!json_is_string(value)) return mfi_fail(
        r->error, MF_E_FORMAT, "%s: __metadata__: \"%s\" is no string; fetch the file again", r->path, key);
    return MF_OK;
}

static bool is_metadata(const char *key)
{
    return strcmp(key, "__metadata__") == 0;
}

/* What the texts take that outlive the JSON: names, and those types that are not known. */
static mf_status reserve_names(reader *r, json_t *root)
{
    size_t bytes = 0;
    const char *name;
    json_t *entry;
    json_object_foreach(root, name, entry)
    {
        const char *type = json_string_value(json_object_get(entry, "dtype"));
        if (is_metadata(name)) continue;
        if (!mfi_source_name_valid(name, strlen(name)))
            return mfi_fail(r->error, MF_E_FORMAT,
                            "%s: a tensor's name is empty, longer than 255 bytes or not to be "
                            "printed",
                            r->path);
        bytes += strlen(name) + 1 + (type && !find_dtype(type) ? strlen(type) + 1 : 0);
    }
    const mf_status status = mfi_part_names(r->file, r->part, bytes, r->error);
    r->name = r->file->part[r->part].names;
    return status;
}

static mf_status read_entries(reader *r, json_t *root)
{
    const char *name;
    json_t *entry;
    mf_status status = reserve_names(r, root);
    if (status == MF_OK) status = mfi_tensor_file_reserve(r->file, json_object_size(root), r->error);
    if (status != MF_OK) return status;
    json_object_foreach(root, name, entry)
    {
        status = is_metadata(name) ? check_metadata(r, entry) : read_tensor(r, name, entry);
        if (status != MF_OK) return status;
    }
    return MF_OK;
}

static int compare_offsets(const void *left, const void *right)
{
    const mfi_source_tensor *a = left, *b = right;
    if (a->offset != b->offset) return a->offset < b->offset ? -1 : 1;
    return a->bytes == b->bytes ? 0 : a->bytes < b->bytes ? -1 : 1;
}

/* In the order of their data, every tensor begins where the one before ends. */
static mf_status check_tiling(const reader *r)
{
    mfi_source_tensor *tensor = r->file->tensor + r->first;
    const uint32_t count = r->file->n_tensor - r->first;
    uint64_t end = r->data_at;
    mfi_heap_sort(tensor, count, sizeof *tensor, compare_offsets);
    for (uint32_t i = 0; i < count; end = tensor[i].offset + tensor[i].bytes, i++) {
        if (tensor[i].offset == end) continue;
        const unsigned long long from = tensor[i].offset - r->data_at, to = from + tensor[i].bytes;
        if (tensor[i].offset < end)
            return mfi_fail(r->error, MF_E_FORMAT,
                            "%s: tensor %s: bytes %llu..%llu overlap those of %s; fetch the file again", r->path,
                            tensor[i].name, from, to, tensor[i - 1].name);
        return mfi_fail(r->error, MF_E_FORMAT,
                        "%s: %llu bytes before tensor %s belong to no tensor; fetch the file again", r->path,
                        (unsigned long long)(tensor[i].offset - end), tensor[i].name);
    }
    if (end == r->data_at + r->data_bytes) return MF_OK;
    return mfi_fail(r->error, MF_E_FORMAT, "%s: its last %llu bytes belong to no tensor; fetch the file again", r->path,
                    (unsigned long long)(r->data_at + r->data_bytes - end));
}

/* How long the header is; the file has it all. */
static mf_status read_length(reader *r, size_t *bytes)
{
    const mfi_part *part = &r->file->part[r->part];
    uint64_t length;
    if (part->bytes < LENGTH_BYTES)
        return mfi_fail(r->error, MF_E_FORMAT, "%s: too short for a safetensors file; fetch the file again", r->path);
    const mf_status status = mfi_read_at(part->fd, &length, sizeof length, 0, r->path, r->error);
    if (status != MF_OK) return status;
    if (length > HEADER_MAX)
        return mfi_fail(r->error, MF_E_FORMAT,
                        "%s: a header of %llu bytes, more than the format allows: not a safetensors file, or damaged",
                        r->path, (unsigned long long)length);
    if (length > part->bytes - LENGTH_BYTES)
        return mfi_fail(r->error, MF_E_FORMAT, "%s: ends within its header; fetch the rest", r->path);
    *bytes = (size_t)length;
    r->data_at = LENGTH_BYTES + length;
    r->data_bytes = part->bytes - r->data_at;
    return MF_OK;
}

static mf_status parse_header(reader *r, const char *text, size_t bytes)
{
    mfi_json json;
    if (bytes == 0 || text[0] != '{')
        return mfi_fail(r->error, MF_E_FORMAT, "%s: the header does not begin with {: not a safetensors file", r->path);
    mf_status status = mfi_json_parse(&json, r->path, text, bytes, r->error);
    if (status != MF_OK) return status;
    status = read_entries(r, json.root);
    mfi_json_free(&json);
    return status == MF_OK ? check_tiling(r) : status;
}

/* Opens a part and adds its tensors to the list. */
static mf_status read_part(mfi_tensor_file *file, uint32_t index, const char *path, mf_error *error)
{
    reader r = { .file = file, .part = index, .first = file->n_tensor, .path = path, .error = error };
    size_t bytes = 0;
    mf_status status = mfi_part_open(file, index, path, error);
    if (status == MF_OK) status = read_length(&r, &bytes);
    if (status != MF_OK) return status;
    char *text = mfi_alloc(&file->allocator, bytes);
    if (!text) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for a header of %zu bytes", path, bytes);
    status = mfi_read_at(file->part[index].fd, text, bytes, LENGTH_BYTES, path, error);
    if (status == MF_OK) status = parse_header(&r, text, bytes);
    mfi_free(&file->allocator, text, bytes);
    return status;
}

/* ---- A folder ---- */

static mf_status path_in(char out[PATH_MAX_BYTES], const char *folder, const char *name, mf_error *error)
{
    const int length = snprintf(out, PATH_MAX_BYTES, "%s/%s", folder, name);
    if (length > 0 && (size_t)length < PATH_MAX_BYTES) return MF_OK;
    return mfi_fail(error, MF_E_INVALID, "%s: the path is too long", folder);
}

typedef struct index {
    const char *path;
    json_t *map;        /* tensor -> shard */
    const char **shard; /* sorted, each once; [room], of which n_shard are in use */
    size_t room;
    uint32_t n_shard;
} index;

/* A file of the same folder, and no other. */
static bool shard_valid(const char *name)
{
    return mfi_source_name_valid(name, strlen(name)) && !strpbrk(name, "/\\:") && !strstr(name, "..");
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static mf_status list_shards(index *x, const mf_allocator *allocator, mf_error *error)
{
    const char *name;
    json_t *shard;
    size_t count = 0;
    x->room = json_object_size(x->map);
    x->shard = mfi_alloc_array(allocator, x->room, sizeof *x->shard);
    if (!x->shard) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for %zu names", x->path, x->room);
    json_object_foreach(x->map, name, shard)
    {
        const char *text = json_string_value(shard);
        if (!text || !shard_valid(text))
            return mfi_fail(error, MF_E_FORMAT, "%s: \"%s\" is not in a file of this folder; fetch the index again",
                            x->path, name);
        x->shard[count++] = text;
    }
    mfi_heap_sort(x->shard, count, sizeof *x->shard, compare_texts);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || strcmp(x->shard[i], x->shard[x->n_shard - 1]) != 0) x->shard[x->n_shard++] = x->shard[i];
    return MF_OK;
}

/* Keeps those tensors that the index has in the file where they are; all that it has must be there. */
static mf_status match_index(mfi_tensor_file *file, const index *x, mf_error *error)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < file->n_tensor; i++) {
        const char *shard = json_string_value(json_object_get(x->map, file->tensor[i].name));
        if (shard && strcmp(shard, x->shard[file->tensor[i].file]) == 0) file->tensor[kept++] = file->tensor[i];
    }
    file->n_tensor = kept;
    const mf_status status = mfi_tensor_file_sort(file, error);
    const char *name;
    json_t *shard;
    if (status != MF_OK || kept == json_object_size(x->map)) return status;
    json_object_foreach(x->map, name, shard) if (!mfi_tensor_file_find(file, name)) return mfi_fail(
        error, MF_E_FORMAT, "%s: tensor %s is not in %s; fetch both again", x->path, name, json_string_value(shard));
    return MF_OK;
}

static mf_status read_shards(mfi_tensor_file *file, const char *folder, index *x, mf_error *error)
{
    char path[PATH_MAX_BYTES];
    mf_status status = list_shards(x, &file->allocator, error);
    if (status == MF_OK) status = mfi_tensor_file_parts(file, x->n_shard, error);
    for (uint32_t i = 0; status == MF_OK && i < x->n_shard; i++) {
        status = path_in(path, folder, x->shard[i], error);
        if (status == MF_OK) status = read_part(file, i, path, error);
        if (status == MF_E_NOT_FOUND)
            mfi_fail(error, status, "%s: it is in the index, but not there; fetch all files of the model", path);
    }
    return status == MF_OK ? match_index(file, x, error) : status;
}

static mf_status read_index(mfi_tensor_file *file, const char *folder, const char *path, mf_error *error)
{
    mfi_json json;
    mf_status status = mfi_json_load(&json, path, HEADER_MAX, error);
    if (status != MF_OK) return status;
    index x = { .path = path, .map = json_object_get(json.root, "weight_map") };
    if (json_is_object(x.map)) {
        status = read_shards(file, folder, &x, error);
    } else {
        status = mfi_fail(error, MF_E_FORMAT, "%s: no object weight_map; fetch the index again", path);
    }
    mfi_free(&file->allocator, x.shard, x.room * sizeof *x.shard);
    mfi_json_free(&json);
    return status;
}

static mf_status read_single(mfi_tensor_file *file, const char *path, mf_error *error)
{
    mf_status status = mfi_tensor_file_parts(file, 1, error);
    if (status == MF_OK) status = read_part(file, 0, path, error);
    return status == MF_OK ? mfi_tensor_file_sort(file, error) : status;
}

static mf_status read_folder(mfi_tensor_file *file, const char *folder, mf_error *error)
{
    char path[PATH_MAX_BYTES];
    mf_status status = path_in(path, folder, SINGLE, error);
    if (status != MF_OK) return status;
    if (access(path, F_OK) == 0) return read_single(file, path, error);
    status = path_in(path, folder, INDEX, error);
    if (status != MF_OK) return status;
    if (access(path, F_OK) == 0) return read_index(file, folder, path, error);
    return mfi_fail(error, MF_E_NOT_FOUND,
                    "%s: neither " SINGLE " nor " INDEX " is there; name the folder that one lies in", folder);
}

mf_status mfi_safetensors_open(mfi_tensor_file **out, const char *folder, const mf_allocator *allocator,
                               mf_error *error)
{
    mf_status status = mfi_tensor_file_create(out, folder, allocator, error);
    if (status == MF_OK) status = read_folder(*out, folder, error);
    if (status == MF_OK) return MF_OK;
    mfi_tensor_file_close(*out);
    *out = NULL;
    return status;
}
