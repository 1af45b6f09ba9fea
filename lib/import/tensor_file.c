/* tensor_file.c - what safetensors and GGUF share: the list of tensors, and reading them. */
#define _POSIX_C_SOURCE 200809L
#include "tensor_list.h"

#include <string.h>
#include <unistd.h>

#include "defs.h"
#include "platform.h"
#include "status.h"

#define SCRATCH_BYTES ((size_t)64 << 10)
#define BLOCK_MAX 256u /* elements */
#define NAME_MAX_BYTES 255u

/* ---- The list ---- */

static mf_status no_memory(const mfi_tensor_file *file, mf_error *error)
{
    return mfi_fail(error, MF_E_NOMEM, "%s: no memory for the list of its tensors", mfi_tensor_file_name(file));
}

static mf_status copy_text(const mf_allocator *allocator, mfi_block *to, const char *text, mf_error *error)
{
    to->bytes = strlen(text) + 1;
    to->at = mfi_alloc(allocator, to->bytes);
    if (!to->at) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for its name", text);
    memcpy(to->at, text, to->bytes);
    return MF_OK;
}

mf_status mfi_tensor_file_create(mfi_tensor_file **out, const char *name, const mf_allocator *allocator,
                                 mf_error *error)
{
    const mf_allocator full = mfi_allocator(allocator);
    mfi_tensor_file *file = mfi_alloc(&full, sizeof *file);
    *out = NULL;
    if (!file) return mfi_fail(error, MF_E_NOMEM, "%s: no memory to open it", name);
    file->allocator = full;
    const mf_status status = copy_text(&full, &file->name, name, error);
    if (status != MF_OK) {
        mfi_tensor_file_close(file);
        return status;
    }
    *out = file;
    return MF_OK;
}

mf_status mfi_tensor_file_parts(mfi_tensor_file *file, uint32_t n_part, mf_error *error)
{
    mfi_part *part = mfi_alloc_array(&file->allocator, n_part, sizeof *part);
    if (!part) return no_memory(file, error);
    if (file->n_part > 0) memcpy(part, file->part, file->n_part * sizeof *part);
    for (uint32_t i = file->n_part; i < n_part; i++)
        part[i].fd = -1;
    mfi_free(&file->allocator, file->part, file->n_part * sizeof *part);
    file->part = part;
    file->n_part = n_part;
    return MF_OK;
}

mf_status mfi_part_open(mfi_tensor_file *file, uint32_t index, const char *path, mf_error *error)
{
    mfi_part *part = &file->part[index];
    const mf_status status = copy_text(&file->allocator, &part->path, path, error);
    return status == MF_OK ? mfi_open_file(path, &part->fd, &part->bytes, error) : status;
}

const char *mfi_part_path(const mfi_tensor_file *file, uint32_t index)
{
    return file->part[index].path.at;
}

mf_status mfi_part_names(mfi_tensor_file *file, uint32_t index, size_t bytes, mf_error *error)
{
    mfi_part *part = &file->part[index];
    part->names = mfi_alloc(&file->allocator, bytes);
    if (!part->names) return no_memory(file, error);
    part->names_bytes = bytes;
    return MF_OK;
}

mf_status mfi_tensor_file_reserve(mfi_tensor_file *file, size_t more, mf_error *error)
{
    size_t room;
    if (!mfi_add(file->n_tensor, more, &room) || room > UINT32_MAX) return no_memory(file, error);
    if (file->tensor && room <= file->tensor_room) return MF_OK;
    if (file->n_tensor > 0) room = mfi_max(room, 2 * file->tensor_room); /* so that many parts copy little */
    mfi_source_tensor *tensor = mfi_alloc_array(&file->allocator, room, sizeof *tensor);
    if (!tensor) return no_memory(file, error);
    if (file->n_tensor > 0) memcpy(tensor, file->tensor, file->n_tensor * sizeof *tensor);
    mfi_free(&file->allocator, file->tensor, file->tensor_room * sizeof *tensor);
    file->tensor = tensor;
    file->tensor_room = room;
    return MF_OK;
}

static void swap_items(unsigned char *a, unsigned char *b, size_t bytes)
{
    unsigned char held[256];
    memcpy(held, a, bytes);
    memcpy(a, b, bytes);
    memcpy(b, held, bytes);
}

static void sift_down(unsigned char *items, size_t root, size_t count, size_t bytes,
                      int (*compare)(const void *, const void *))
{
    for (size_t child = 2 * root + 1; child < count; root = child, child = 2 * root + 1) {
        if (child + 1 < count && compare(items + child * bytes, items + (child + 1) * bytes) < 0) child++;
        if (compare(items + root * bytes, items + child * bytes) >= 0) return;
        swap_items(items + root * bytes, items + child * bytes, bytes);
    }
}

void mfi_heap_sort(void *items, size_t count, size_t item_bytes, int (*compare)(const void *, const void *))
{
    unsigned char *at = items;
    for (size_t root = count / 2; root > 0; root--)
        sift_down(at, root - 1, count, item_bytes, compare);
    for (size_t last = count; last > 1; last--) {
        swap_items(at, at + (last - 1) * item_bytes, item_bytes);
        sift_down(at, 0, last - 1, item_bytes, compare);
    }
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const mfi_source_tensor *)a)->name, ((const mfi_source_tensor *)b)->name);
}

mf_status mfi_tensor_file_sort(mfi_tensor_file *file, mf_error *error)
{
    mfi_heap_sort(file->tensor, file->n_tensor, sizeof *file->tensor, compare_names);
    for (uint32_t i = 1; i < file->n_tensor; i++)
        if (compare_names(&file->tensor[i - 1], &file->tensor[i]) == 0)
            return mfi_fail(error, MF_E_FORMAT, "%s: tensor %s is there twice; fetch the file again",
                            mfi_part_path(file, file->tensor[i].file), file->tensor[i].name);
    return MF_OK;
}

bool mfi_source_name_valid(const char *name, size_t bytes)
{
    if (bytes == 0 || bytes > NAME_MAX_BYTES) return false;
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f) return false;
    return true;
}

void mfi_tensor_file_close(mfi_tensor_file *file)
{
    if (!file) return;
    const mf_allocator allocator = file->allocator;
    for (uint32_t i = 0; i < file->n_part; i++) {
        mfi_part *part = &file->part[i];
        if (part->fd >= 0) close(part->fd);
        mfi_free(&allocator, part->path.at, part->path.bytes);
        mfi_free(&allocator, part->names, part->names_bytes);
    }
    mfi_gguf_header_free(&file->gguf, &allocator);
    mfi_free(&allocator, file->part, file->n_part * sizeof *file->part);
    mfi_free(&allocator, file->tensor, file->tensor_room * sizeof *file->tensor);
    mfi_free(&allocator, file->name.at, file->name.bytes);
    mfi_free(&allocator, file, sizeof *file);
}

const char *mfi_tensor_file_name(const mfi_tensor_file *file)
{
    return file->name.at;
}

uint32_t mfi_tensor_file_count(const mfi_tensor_file *file)
{
    return file->n_tensor;
}

const mfi_source_tensor *mfi_tensor_file_at(const mfi_tensor_file *file, uint32_t index)
{
    return &file->tensor[index];
}

const mfi_source_tensor *mfi_tensor_file_find(const mfi_tensor_file *file, const char *name)
{
    uint32_t from = 0, to = file->n_tensor;
    while (from < to) {
        const uint32_t middle = from + (to - from) / 2;
        const int order = strcmp(name, file->tensor[middle].name);
        if (order == 0) return &file->tensor[middle];
        if (order < 0) {
            to = middle;
        } else {
            from = middle + 1;
        }
    }
    return NULL;
}

/* ---- Values ---- */

uint64_t mfi_source_columns(const mfi_source_tensor *tensor)
{
    return tensor->n_dim > 0 ? tensor->dim[tensor->n_dim - 1] : 1;
}

/* The product of all dimensions fits, which the readers proved; one of zero elements has no rows to speak of. */
uint64_t mfi_source_rows(const mfi_source_tensor *tensor)
{
    uint64_t rows = mfi_source_columns(tensor) > 0 ? 1 : 0;
    for (uint32_t i = 0; i + 1 < tensor->n_dim; i++)
        rows *= tensor->dim[i];
    return rows;
}

uint64_t mfi_source_row_bytes(const mfi_source_tensor *tensor)
{
    const size_t block = mfi_source_block(tensor->type);
    return block > 0 ? mfi_source_columns(tensor) / block * mfi_source_block_bytes(tensor->type) : 0;
}

size_t mfi_source_scratch_bytes(const mfi_source_tensor *tensor)
{
    return tensor->bytes < SCRATCH_BYTES ? (size_t)tensor->bytes : SCRATCH_BYTES;
}

static bool within(uint64_t first, uint64_t count, uint64_t all)
{
    return first <= all && count <= all - first;
}

static mf_status check_window(const mfi_tensor_file *file, const mfi_source_tensor *tensor, uint64_t row, size_t n_row,
                              uint64_t column, size_t n_column, mf_error *error)
{
    if (tensor->type == MFI_SOURCE_OTHER)
        return mfi_fail(error, MF_E_UNSUPPORTED,
                        "%s: tensor %s is of type %s, which is not read; use a file of F32, F16, BF16, Q8_0, Q4_0 or "
                        "Q4_K to Q6_K",
                        mfi_part_path(file, tensor->file), tensor->name, tensor->type_name);
    if (within(row, n_row, mfi_source_rows(tensor)) && within(column, n_column, mfi_source_columns(tensor)))
        return MF_OK;
    return mfi_fail(error, MF_E_RANGE, "%s: tensor %s has %llu rows of %llu, and others were asked for",
                    mfi_part_path(file, tensor->file), tensor->name, (unsigned long long)mfi_source_rows(tensor),
                    (unsigned long long)mfi_source_columns(tensor));
}

static mf_status read_part(const mfi_tensor_file *file, const mfi_source_tensor *tensor, uint64_t offset, size_t bytes,
                           void *out, mf_error *error)
{
    return mfi_read_at(file->part[tensor->file].fd, out, bytes, tensor->offset + offset,
                       mfi_part_path(file, tensor->file), error);
}

mf_status mfi_source_read_bytes(const mfi_tensor_file *file, const mfi_source_tensor *tensor, uint64_t row,
                                size_t n_row, void *out, mf_error *error)
{
    const mf_status status = check_window(file, tensor, row, n_row, 0, 0, error);
    if (status != MF_OK) return status;
    const uint64_t row_bytes = mfi_source_row_bytes(tensor);
    return read_part(file, tensor, row * row_bytes, (size_t)(n_row * row_bytes), out, error);
}

/* Elements [skip, skip + count) of the blocks at `from`; skip is less than a block. */
static void decode_window(mfi_source_type type, const unsigned char *from, size_t skip, size_t count, float *out)
{
    const size_t block = mfi_source_block(type), block_bytes = mfi_source_block_bytes(type);
    float part[BLOCK_MAX];
    while (count > 0) {
        const size_t whole = skip == 0 ? count / block : 0;
        const size_t n = whole > 0 ? whole * block : mfi_min(count, block - skip);
        if (whole > 0) {
            mfi_source_decode(type, from, whole, out);
        } else {
            mfi_source_decode(type, from, 1, part);
            memcpy(out, part + skip, n * sizeof *out);
        }
        from += mfi_max(whole, 1) * block_bytes;
        out += n;
        count -= n;
        skip = 0;
    }
}

/* Elements [first, first + count), counted from the tensor's first one; rows are whole blocks, so that they do not
 * matter here. */
static mf_status read_elements(const mfi_tensor_file *file, const mfi_source_tensor *tensor, uint64_t first,
                               size_t count, float *out, void *scratch, mf_error *error)
{
    const size_t block = mfi_source_block(tensor->type), block_bytes = mfi_source_block_bytes(tensor->type);
    const size_t most = mfi_source_scratch_bytes(tensor) / block_bytes * block; /* elements in scratch */
    while (count > 0) {
        const size_t skip = (size_t)(first % block), n = mfi_min(count, most - skip);
        const size_t n_block = (skip + n + block - 1) / block;
        const mf_status status =
            read_part(file, tensor, first / block * block_bytes, n_block * block_bytes, scratch, error);
        if (status != MF_OK) return status;
        decode_window(tensor->type, scratch, skip, n, out);
        first += n;
        out += n;
        count -= n;
    }
    return MF_OK;
}

mf_status mfi_source_read(const mfi_tensor_file *file, const mfi_source_tensor *tensor, uint64_t row, size_t n_row,
                          uint64_t column, size_t n_column, float *out, void *scratch, mf_error *error)
{
    mf_status status = check_window(file, tensor, row, n_row, column, n_column, error);
    const uint64_t columns = mfi_source_columns(tensor);
    if (status == MF_OK && n_column == columns) /* whole rows follow one another */
        return read_elements(file, tensor, row * columns, n_row * n_column, out, scratch, error);
    for (size_t i = 0; status == MF_OK && i < n_row; i++)
        status =
            read_elements(file, tensor, (row + i) * columns + column, n_column, out + i * n_column, scratch, error);
    return status;
}
