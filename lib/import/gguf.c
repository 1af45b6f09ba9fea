/* gguf.c - GGUF versions 2 and 3: header, metadata and the list of tensors, of one file or of many (docs/import.md).
 * The header is read piece by piece into memory that grows with what the file really has. */
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "platform.h"
#include "status.h"
#include "tensor_list.h"

#define HEADER_FIRST ((size_t)64 << 10)
#define HEADER_MAX ((size_t)256 << 20) /* ten times that of a vocabulary of 256,000 */
#define KEY_MAX 65535u                 /* the format's own limit, as are the next two */
#define NAME_ROOM 64u                  /* with its end */
#define DIMS_MAX 4u
#define KEY_LEAST 14u    /* bytes of the shortest key and value: length, one character, type, one byte of value */
#define TENSOR_LEAST 25u /* of the shortest description: length, one character, 0 dimensions, type, offset */
#define ALIGNMENT 32u
#define PATH_MAX_BYTES 4096u

/* ---- Types of tensors ---- */

typedef struct tensor_type {
    const char *name;
    uint32_t id, block, bytes;
    mfi_source_type type;
} tensor_type;

static const tensor_type tensor_types[] = {
    { "F32", 0, 1, 4, MFI_SOURCE_F32 },           { "F16", 1, 1, 2, MFI_SOURCE_F16 },
    { "Q4_0", 2, 32, 18, MFI_SOURCE_Q4_0 },       { "Q4_1", 3, 32, 20, MFI_SOURCE_Q4_1 },
    { "Q5_0", 6, 32, 22, MFI_SOURCE_Q5_0 },       { "Q5_1", 7, 32, 24, MFI_SOURCE_Q5_1 },
    { "Q8_0", 8, 32, 34, MFI_SOURCE_Q8_0 },       { "Q2_K", 10, 256, 84, MFI_SOURCE_OTHER },
    { "Q3_K", 11, 256, 110, MFI_SOURCE_OTHER },   { "Q4_K", 12, 256, 144, MFI_SOURCE_Q4_K },
    { "Q5_K", 13, 256, 176, MFI_SOURCE_Q5_K },    { "Q6_K", 14, 256, 210, MFI_SOURCE_Q6_K },
    { "IQ2_XXS", 16, 256, 66, MFI_SOURCE_OTHER }, { "IQ2_XS", 17, 256, 74, MFI_SOURCE_OTHER },
    { "IQ3_XXS", 18, 256, 98, MFI_SOURCE_OTHER }, { "IQ1_S", 19, 256, 50, MFI_SOURCE_OTHER },
    { "IQ4_NL", 20, 32, 18, MFI_SOURCE_OTHER },   { "IQ3_S", 21, 256, 110, MFI_SOURCE_OTHER },
    { "IQ2_S", 22, 256, 82, MFI_SOURCE_OTHER },   { "IQ4_XS", 23, 256, 136, MFI_SOURCE_OTHER },
    { "I8", 24, 1, 1, MFI_SOURCE_OTHER },         { "I16", 25, 1, 2, MFI_SOURCE_OTHER },
    { "I32", 26, 1, 4, MFI_SOURCE_OTHER },        { "I64", 27, 1, 8, MFI_SOURCE_OTHER },
    { "F64", 28, 1, 8, MFI_SOURCE_F64 },          { "IQ1_M", 29, 256, 56, MFI_SOURCE_OTHER },
    { "BF16", 30, 1, 2, MFI_SOURCE_BF16 },        { "TQ1_0", 34, 256, 54, MFI_SOURCE_OTHER },
    { "TQ2_0", 35, 256, 66, MFI_SOURCE_OTHER },   { "MXFP4", 39, 32, 17, MFI_SOURCE_OTHER },
    { "NVFP4", 40, 64, 36, MFI_SOURCE_OTHER },
};

static const tensor_type *find_type(uint32_t id)
{
    for (size_t i = 0; i < MFI_COUNT(tensor_types); i++)
        if (tensor_types[i].id == id) return &tensor_types[i];
    return NULL;
}

/* ---- The bytes of the header ---- */

typedef struct reader {
    mfi_tensor_file *file;
    uint32_t part;
    const char *path;
    uint64_t file_bytes;
    mfi_gguf_header header;
    size_t have, at;  /* bytes in memory, and how many are done with */
    const char *what; /* is read, for messages */
    mf_error *error;
    mf_status status; /* the first failure; after it nothing is read */
} reader;

static void fail(reader *r, mf_status status, const char *why)
{
    if (r->status == MF_OK) r->status = mfi_fail(r->error, status, "%s: %s %s", r->path, r->what, why);
}

/* Reads on, at least up to `end`, which is inside the file. */
static void fill(reader *r, size_t end)
{
    const mf_allocator *allocator = &r->file->allocator;
    const uint64_t most = r->file_bytes < HEADER_MAX ? r->file_bytes : HEADER_MAX;
    size_t room = mfi_max(end, mfi_max(2 * r->header.room, HEADER_FIRST));
    if (room > most) room = (size_t)most;
    unsigned char *bytes = mfi_alloc(allocator, room);
    if (!bytes) {
        fail(r, MF_E_NOMEM, "is longer than memory has room");
        return;
    }
    if (r->have > 0) memcpy(bytes, r->header.bytes, r->have);
    mfi_free(allocator, r->header.bytes, r->header.room);
    r->header.bytes = bytes;
    r->header.room = room;
    r->status = mfi_read_at(r->file->part[r->part].fd, bytes + r->have, room - r->have, r->have, r->path, r->error);
    if (r->status == MF_OK) r->have = room;
}

/* The next `bytes` bytes, until the next call; NULL after a failure. */
static const unsigned char *take(reader *r, uint64_t bytes)
{
    if (r->status != MF_OK) return NULL;
    if (bytes > r->file_bytes - r->at) {
        fail(r, MF_E_FORMAT, "ends after the file does; fetch the rest");
    } else if (r->at > HEADER_MAX || bytes > HEADER_MAX - r->at) {
        fail(r, MF_E_FORMAT, "is beyond the 256 MiB that a header may have; fetch the file again");
    } else if (r->at + (size_t)bytes > r->have) {
        fill(r, r->at + (size_t)bytes);
    }
    if (r->status != MF_OK) return NULL;
    r->at += (size_t)bytes;
    return r->header.bytes + r->at - bytes;
}

static uint64_t take_number(reader *r, size_t bytes)
{
    const unsigned char *at = take(r, bytes);
    return at ? mfi_gguf_load(at, bytes) : 0;
}

static uint32_t take_u32(reader *r)
{
    return (uint32_t)take_number(r, 4);
}

static uint64_t take_u64(reader *r)
{
    return take_number(r, 8);
}

/* A count of things of at least `least` bytes, which the rest of the file has room for: what may be allocated. */
static uint64_t check_count(reader *r, uint64_t count, uint64_t least)
{
    if (r->status == MF_OK && count > (r->file_bytes - r->at) / least)
        fail(r, MF_E_FORMAT, "says that there are more of them than the file has room for; fetch the file again");
    return r->status == MF_OK ? count : 0;
}

/* ---- Metadata ---- */

static bool printable(const unsigned char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (text[i] < 0x21 || text[i] > 0x7e) return false;
    return bytes > 0;
}

static void take_key(reader *r, mfi_gguf_value *value)
{
    const uint64_t bytes = take_u64(r);
    if (r->status == MF_OK && bytes > KEY_MAX)
        fail(r, MF_E_FORMAT, "has a key of more than 65535 bytes; fetch the file again");
    const unsigned char *key = take(r, bytes);
    if (!key) return;
    if (!printable(key, (size_t)bytes))
        fail(r, MF_E_FORMAT, "has a key that is empty or not of printable ASCII; fetch the file again");
    value->key = (const char *)key;
    value->key_bytes = (size_t)bytes;
}

static void take_strings(reader *r, uint64_t count)
{
    check_count(r, count, 8);
    for (uint64_t i = 0; r->status == MF_OK && i < count; i++)
        take(r, take_u64(r));
}

static void take_truths(reader *r, uint64_t count)
{
    const unsigned char *at = take(r, count);
    for (uint64_t i = 0; at && i < count; i++)
        if (at[i] > 1) {
            fail(r, MF_E_FORMAT, "has a truth value other than 0 and 1; fetch the file again");
            return;
        }
}

static void take_elements(reader *r, const mfi_gguf_value *value)
{
    uint64_t bytes;
    const size_t size = mfi_gguf_type_bytes(value->type);
    if (value->type == MFI_GGUF_STRING) {
        take_strings(r, value->count);
    } else if (value->type == MFI_GGUF_LIST) {
        fail(r, MF_E_UNSUPPORTED, "has a list of lists, which no known model has");
    } else if (value->type == MFI_GGUF_TRUTH) {
        take_truths(r, value->count);
    } else if (size == 0) {
        fail(r, MF_E_UNSUPPORTED, "has a value of a type that is not known; upgrade the library");
    } else if (!mfi_mul_u64(value->count, size, &bytes)) {
        fail(r, MF_E_FORMAT, "has a list that is longer than any file; fetch the file again");
    } else {
        take(r, bytes);
    }
}

static void take_value(reader *r, mfi_gguf_value *value)
{
    *value = (mfi_gguf_value){ .count = 1 };
    take_key(r, value);
    value->type = take_u32(r);
    value->is_list = value->type == MFI_GGUF_LIST;
    if (value->is_list) {
        value->type = take_u32(r);
        value->count = take_u64(r);
    }
    const size_t at = r->at;
    if (r->status == MF_OK) take_elements(r, value);
    if (r->status == MF_OK) value->at = r->header.bytes + at;
}

static int compare_values(const void *left, const void *right)
{
    const mfi_gguf_value *a = left, *b = right;
    return mfi_gguf_key_compare(a->key, a->key_bytes, b->key, b->key_bytes);
}

static void sort_values(reader *r)
{
    mfi_gguf_value *value = r->header.value;
    mfi_heap_sort(value, r->header.n_value, sizeof *value, compare_values);
    for (size_t i = 1; i < r->header.n_value; i++)
        if (compare_values(&value[i - 1], &value[i]) == 0) {
            r->status = mfi_fail(r->error, MF_E_FORMAT, "%s: key %.*s is there twice; fetch the file again", r->path,
                                 (int)mfi_min(value[i].key_bytes, 64), value[i].key);
            return;
        }
}

/* Twice over the same bytes: until all are in memory, which moves meanwhile, and then to note where they are. */
static void take_metadata(reader *r, uint64_t count)
{
    mfi_gguf_value value;
    const size_t begin = r->at;
    r->what = "its metadata";
    check_count(r, count, KEY_LEAST);
    for (uint64_t i = 0; r->status == MF_OK && i < count; i++)
        take_value(r, &value);
    if (r->status != MF_OK) return;
    r->header.value = mfi_alloc_array(&r->file->allocator, (size_t)count, sizeof value);
    if (!r->header.value) {
        fail(r, MF_E_NOMEM, "is longer than memory has room");
        return;
    }
    r->at = begin;
    for (r->header.n_value = 0; r->header.n_value < count; r->header.n_value++)
        take_value(r, &r->header.value[r->header.n_value]);
    sort_values(r);
}

/* ---- Tensors ---- */

static const char *take_name(reader *r, char *room)
{
    const uint64_t bytes = take_u64(r);
    if (r->status == MF_OK && bytes >= NAME_ROOM)
        fail(r, MF_E_FORMAT, "has a name of 64 bytes or more; fetch the file again");
    const unsigned char *name = take(r, bytes);
    if (!name) return room;
    if (!printable(name, (size_t)bytes))
        fail(r, MF_E_FORMAT, "has a name that is empty or not of printable ASCII; fetch the file again");
    return memcpy(room, name, (size_t)bytes);
}

static void fail_tensor(reader *r, const mfi_source_tensor *tensor, mf_status status, const char *why)
{
    if (r->status == MF_OK) r->status = mfi_fail(r->error, status, "%s: tensor %s: %s", r->path, tensor->name, why);
}

/* The innermost comes first in the file, and last in the list. */
static void take_dims(reader *r, mfi_source_tensor *tensor)
{
    const uint32_t n_dim = take_u32(r);
    if (n_dim > DIMS_MAX) {
        fail_tensor(r, tensor, MF_E_FORMAT, "it has more than 4 dimensions; fetch the file again");
        return;
    }
    tensor->n_dim = n_dim;
    for (uint32_t i = n_dim; i > 0; i--)
        tensor->dim[i - 1] = take_u64(r);
}

/* Type and bytes. Ids that are not in the table were withdrawn, or are newer. */
static void take_type(reader *r, mfi_source_tensor *tensor)
{
    const uint32_t id = take_u32(r);
    const tensor_type *type = find_type(id);
    if (r->status != MF_OK) return;
    if (!type) {
        r->status = mfi_fail(r->error, MF_E_UNSUPPORTED,
                             "%s: tensor %s is of type %u, which is withdrawn or not known; make the file anew with a "
                             "type that is",
                             r->path, tensor->name, id);
        return;
    }
    tensor->type = type->type;
    tensor->type_name = type->name;
    if (mfi_source_columns(tensor) % type->block != 0) {
        fail_tensor(r, tensor, MF_E_FORMAT, "its rows are not whole blocks of its type; fetch the file again");
        return;
    }
    uint64_t n = mfi_source_columns(tensor) / type->block;
    bool fits = mfi_mul_u64(n, type->bytes, &n);
    for (uint32_t i = 0; i + 1 < tensor->n_dim; i++)
        fits = fits && mfi_mul_u64(n, tensor->dim[i], &n);
    if (!fits) fail_tensor(r, tensor, MF_E_FORMAT, "its shape is beyond 64 bits; fetch the file again");
    tensor->bytes = n;
}

static bool round_up(uint64_t value, uint64_t alignment, uint64_t *out)
{
    if (!mfi_add_u64(value, alignment - 1, out)) return false;
    *out &= ~(alignment - 1);
    return true;
}

/* Tensors lie in the order of the list, each where the one before ends, rounded up. `end` is where that is. */
static void take_offset(reader *r, mfi_source_tensor *tensor, uint64_t alignment, uint64_t *end)
{
    tensor->offset = take_u64(r);
    if (r->status == MF_OK && tensor->offset != *end)
        r->status = mfi_fail(r->error, MF_E_FORMAT,
                             "%s: tensor %s begins at byte %llu of the data, and the one before ends at %llu; fetch "
                             "the file again",
                             r->path, tensor->name, (unsigned long long)tensor->offset, (unsigned long long)*end);
    if (!mfi_add_u64(*end, tensor->bytes, end) || !round_up(*end, alignment, end))
        fail_tensor(r, tensor, MF_E_FORMAT, "its end is beyond 64 bits; fetch the file again");
}

static uint64_t find_alignment(reader *r)
{
    const mfi_gguf_value *value = mfi_gguf_find(&r->header, "general.alignment");
    uint64_t alignment = ALIGNMENT;
    if (value && (!mfi_gguf_value_u64(value, &alignment) || alignment < 8 || alignment > UINT32_MAX ||
                  (alignment & (alignment - 1)) != 0))
        fail(r, MF_E_FORMAT, "has a general.alignment that is no power of two from 8 on; fetch the file again");
    return alignment;
}

/* Offsets were counted from the end of the header, which is only known now. */
static void place_tensors(reader *r, mfi_source_tensor *tensor, size_t count, uint64_t alignment)
{
    uint64_t data_at, end;
    if (r->status != MF_OK || !round_up(r->at, alignment, &data_at)) return;
    for (size_t i = 0; i < count; i++) {
        if (!mfi_add_u64(tensor[i].offset, data_at, &tensor[i].offset) ||
            !mfi_add_u64(tensor[i].offset, tensor[i].bytes, &end) || end > r->file_bytes) {
            fail_tensor(r, &tensor[i], MF_E_FORMAT, "its data ends after the file does; fetch the rest");
            return;
        }
    }
}

static void take_tensors(reader *r, uint64_t count)
{
    mfi_tensor_file *file = r->file;
    const uint64_t alignment = find_alignment(r);
    uint64_t end = 0;
    r->what = "its list of tensors";
    count = check_count(r, count, TENSOR_LEAST);
    if (r->status == MF_OK) r->status = mfi_tensor_file_reserve(file, (size_t)count, r->error);
    if (r->status == MF_OK) r->status = mfi_part_names(file, r->part, (size_t)count * NAME_ROOM, r->error);
    if (r->status != MF_OK) return;
    mfi_source_tensor *tensor = file->tensor + file->n_tensor;
    for (uint64_t i = 0; r->status == MF_OK && i < count; i++) {
        tensor[i] = (mfi_source_tensor){ .file = r->part };
        tensor[i].name = take_name(r, file->part[r->part].names + i * NAME_ROOM);
        take_dims(r, &tensor[i]);
        take_type(r, &tensor[i]);
        take_offset(r, &tensor[i], alignment, &end);
    }
    place_tensors(r, tensor, (size_t)count, alignment);
    if (r->status == MF_OK) file->n_tensor += (uint32_t)count;
}

/* ---- One file ---- */

static void take_version(reader *r)
{
    const unsigned char *magic = take(r, 4);
    if (magic && memcmp(magic, "GGUF", 4) != 0) fail(r, MF_E_FORMAT, "does not begin with GGUF: not a GGUF file");
    const uint32_t version = take_u32(r);
    if (r->status != MF_OK || version == 2 || version == 3) return;
    if (version % 65536 == 0) {
        fail(r, MF_E_UNSUPPORTED, "is big-endian; use a little-endian one");
    } else if (version == 1) {
        fail(r, MF_E_UNSUPPORTED, "is of version 1, which is obsolete; make the file anew");
    } else {
        fail(r, MF_E_UNSUPPORTED, "is of a version that is not known; upgrade the library");
    }
}

/* Opens a part, adds its tensors to the list, and hands out its metadata. */
static mf_status read_part(mfi_tensor_file *file, uint32_t index, const char *path, mfi_gguf_header *header,
                           mf_error *error)
{
    reader r = { .file = file, .part = index, .path = path, .what = "its header", .error = error };
    r.status = mfi_part_open(file, index, path, error);
    r.file_bytes = file->part[index].bytes;
    take_version(&r);
    const uint64_t n_tensor = take_u64(&r), n_value = take_u64(&r);
    if (r.status == MF_OK) take_metadata(&r, n_value);
    if (r.status == MF_OK) take_tensors(&r, n_tensor);
    *header = r.header;
    return r.status;
}

/* ---- Many files ---- */

/* A number that is absent is 0. */
static uint64_t split_number(const mfi_gguf_header *header, const char *key)
{
    const mfi_gguf_value *value = mfi_gguf_find(header, key);
    uint64_t number = 0;
    return value && mfi_gguf_value_u64(value, &number) ? number : 0;
}

/* "-00001-of-00003.gguf" */
static size_t split_ending(char out[32], uint32_t index, uint32_t count)
{
    return (size_t)snprintf(out, 32, "-%05u-of-%05u.gguf", index + 1, count);
}

static mf_status split_path(char out[PATH_MAX_BYTES], const char *first, uint32_t index, uint32_t count,
                            mf_error *error)
{
    char ending[32];
    const size_t bytes = strlen(first), ending_bytes = split_ending(ending, 0, count);
    if (bytes < ending_bytes || strcmp(first + bytes - ending_bytes, ending) != 0)
        return mfi_fail(error, MF_E_INVALID, "%s: the first of %u files, which must be called *%s", first, count,
                        ending);
    if (bytes >= PATH_MAX_BYTES) return mfi_fail(error, MF_E_INVALID, "%s: the path is too long", first);
    split_ending(ending, index, count);
    snprintf(out, PATH_MAX_BYTES, "%.*s%s", (int)(bytes - ending_bytes), first, ending);
    return MF_OK;
}

/* The list of parts grows with each file that is there, not by what the first one says. */
static mf_status read_other(mfi_tensor_file *file, uint32_t index, uint32_t count, const char *path, mf_error *error)
{
    mfi_gguf_header header = { 0 };
    mf_status status = mfi_tensor_file_parts(file, index + 1, error);
    if (status == MF_OK) status = read_part(file, index, path, &header, error);
    if (status == MF_E_NOT_FOUND)
        mfi_fail(error, status, "%s: the first file says that there is one; fetch all files of the model", path);
    if (status == MF_OK &&
        (split_number(&header, "split.no") != index || split_number(&header, "split.count") != count))
        status =
            mfi_fail(error, MF_E_FORMAT, "%s: says that it is another part than its name does; fetch it again", path);
    mfi_gguf_header_free(&header, &file->allocator);
    return status;
}

static mf_status read_others(mfi_tensor_file *file, const char *first, mf_error *error)
{
    char path[PATH_MAX_BYTES];
    const uint64_t count = split_number(&file->gguf, "split.count");
    const uint64_t n_tensor = split_number(&file->gguf, "split.tensors.count");
    if (count <= 1) return MF_OK;
    if (count > UINT16_MAX) return mfi_fail(error, MF_E_FORMAT, "%s: more than 65535 files; fetch it again", first);
    if (split_number(&file->gguf, "split.no") != 0)
        return mfi_fail(error, MF_E_INVALID, "%s: not the first of its %u files; open that one", first,
                        (unsigned)count);
    mf_status status = MF_OK;
    for (uint32_t i = 1; status == MF_OK && i < count; i++) {
        status = split_path(path, first, i, (uint32_t)count, error);
        if (status == MF_OK) status = read_other(file, i, (uint32_t)count, path, error);
    }
    if (status != MF_OK || n_tensor == 0 || n_tensor == file->n_tensor) return status;
    return mfi_fail(error, MF_E_FORMAT, "%s: its %u files have %u tensors, and should have %llu; fetch them again",
                    first, file->n_part, file->n_tensor, (unsigned long long)n_tensor);
}

mf_status mfi_gguf_open(mfi_tensor_file **out, const char *path, const mf_allocator *allocator, mf_error *error)
{
    mf_status status = mfi_tensor_file_create(out, path, allocator, error);
    if (status == MF_OK) status = mfi_tensor_file_parts(*out, 1, error);
    if (status == MF_OK) status = read_part(*out, 0, path, &(*out)->gguf, error);
    if (status == MF_OK) status = read_others(*out, path, error);
    if (status == MF_OK) status = mfi_tensor_file_sort(*out, error);
    if (status == MF_OK) return MF_OK;
    mfi_tensor_file_close(*out);
    *out = NULL;
    return status;
}
