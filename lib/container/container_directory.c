/* container_directory.c - directory bytes to checked tables. Everything here is about bytes that somebody
 * else wrote: sizes go through checked arithmetic, nothing is repaired, and what is handed on is proved. */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "container_directory.h"
#include "status.h"

typedef struct decoder {
    mfi_directory *directory;
    const char *name;
    mf_error *error;
    uint64_t region_end; /* of the last region, in the file */
    uint64_t next_rank;  /* least of the next region, see region_rank() */
    uint64_t tensor_end; /* of the last tensor, in its region */
    uint32_t tensor_region;
    bool any_tensor;
} decoder;

#define DAMAGED(d, ...) mfi_fail((d)->error, MF_E_FORMAT, "%s: damaged directory: " __VA_ARGS__)

/* What an entry that we do not understand means: a refusal, or nothing. */
static mf_status unknown(const decoder *d, const mfi_file_entry *entry, const char *what, const char *name,
                         uint32_t value)
{
    if (!(entry->flags & MFI_ENTRY_REQUIRED)) return MF_OK;
    return mfi_fail(d->error, MF_E_UNSUPPORTED, "%s: %s %s is of type %u, which this version does not know; upgrade it",
                    d->name, what, name, value);
}

uint64_t mfi_hash(const void *data, size_t bytes)
{
    return XXH64(data, bytes, 0);
}

bool mfi_name_valid(const char *name, size_t bytes)
{
    if (bytes == 0 || bytes > MFI_NAME_MAX) return false;
    for (size_t i = 0; i < bytes; i++)
        if (name[i] < 0x21 || name[i] > 0x7e) return false;
    return true;
}

static bool all_zero(const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i]) return false;
    return true;
}

/* A name of `bytes` bytes at `at`, filled up with zeros, that ends before `end`. */
static bool name_at(const char *at, const char *end, size_t bytes)
{
    if (bytes > MFI_NAME_MAX || (size_t)(end - at) < mfi_name_room(bytes)) return false;
    return mfi_name_valid(at, bytes) && all_zero(at + bytes, mfi_name_room(bytes) - bytes);
}

/* ---- Metadata ---- */

static bool value_valid(uint32_t type, const char *value, size_t bytes, size_t room)
{
    switch (type) {
    case MFI_VALUE_U64:
    case MFI_VALUE_F64:
        if (bytes != 8) return false;
        break;
    case MFI_VALUE_TEXT:
        if (bytes >= room || memchr(value, 0, bytes)) return false;
        break;
    case MFI_VALUE_U32S:
        if (bytes % 4 != 0) return false;
        break;
    default:
        break;
    }
    return bytes <= room && room - bytes <= 8 && all_zero(value + bytes, room - bytes);
}

static mf_status read_metadata(decoder *d, const mfi_file_entry *entry)
{
    const mfi_file_metadata *file = (const mfi_file_metadata *)entry;
    const char *end = (const char *)entry + entry->entry_bytes, *key = (const char *)(file + 1);
    if (entry->entry_bytes < sizeof *file || !name_at(key, end, file->key_bytes))
        return DAMAGED(d, "a metadata key is no name", d->name);
    const char *value = key + mfi_name_room(file->key_bytes);
    mfi_directory *directory = d->directory;
    if (file->value_bytes > (size_t)(end - value) ||
        !value_valid(file->type, value, (size_t)file->value_bytes, (size_t)(end - value)))
        return DAMAGED(d, "the value of %s has a wrong size", d->name, key);
    if (directory->n_metadata && strcmp(directory->metadata[directory->n_metadata - 1].key, key) >= 0)
        return DAMAGED(d, "key %s is out of order or there twice", d->name, key);
    if (file->type < MFI_VALUE_U64 || file->type > MFI_VALUE_U32S)
        return unknown(d, entry, "the value of", key, file->type);

    directory->metadata[directory->n_metadata++] = (mfi_metadata){
        .key = key,
        .type = (mfi_value)file->type,
        .required = entry->flags & MFI_ENTRY_REQUIRED,
        .value_bytes = (size_t)file->value_bytes,
        .value = value,
    };
    return MF_OK;
}

/* ---- Regions ---- */

static bool frame_valid(const mfi_file_frame *frame)
{
    if (frame->raw_bytes == 0 || frame->raw_bytes > MFI_FRAME_MAX || frame->zero != 0) return false;
    if (frame->method == MFI_FRAME_PLAIN) return frame->split == 1 && frame->stored_bytes == frame->raw_bytes;
    if (frame->method != MFI_FRAME_ZSTD) return false;
    if (frame->split != 1 && frame->split != 2 && frame->split != 4) return false;
    return frame->raw_bytes % frame->split == 0 && frame->stored_bytes < frame->raw_bytes &&
           frame->raw_bytes <= (uint64_t)MFI_RATIO_MAX * frame->stored_bytes;
}

/* The frames add up to the region. At most 2^28 of them, of 2^22 bytes: the sums cannot overflow. */
static bool frames_valid(const mfi_file_region *file, const mfi_file_frame *frame)
{
    uint64_t stored = 0, raw = 0;
    for (uint32_t i = 0; i < file->frame_count; i++) {
        if (!frame_valid(&frame[i])) return false;
        stored += frame[i].stored_bytes;
        raw += frame[i].raw_bytes;
    }
    return stored == file->stored_bytes && raw == file->raw_bytes;
}

/* BASE, then TABLES, then SHELL ascending: a place in this order. */
static uint64_t region_rank(uint32_t kind, uint32_t shell)
{
    return kind == MFI_REGION_BASE ? 0 : kind == MFI_REGION_TABLES ? 1 : 2 + (uint64_t)shell;
}

static mf_status check_region_order(decoder *d, const mfi_file_region *file, uint32_t index)
{
    uint64_t rank = region_rank(file->kind, file->shell);
    if ((file->kind == MFI_REGION_SHELL) != (file->shell != 0))
        return DAMAGED(d, "region %u has shell %u", d->name, index, file->shell);
    if (d->next_rank == 0 && rank != 0) return DAMAGED(d, "the first region is not the base", d->name);
    if (rank < d->next_rank) return DAMAGED(d, "region %u is out of order or there twice", d->name, index);
    d->next_rank = rank + 1;
    return MF_OK;
}

/* Place and size, which hold for regions of any kind. */
static mf_status check_region_place(decoder *d, const mfi_file_region *file, uint32_t index)
{
    uint64_t place = (d->region_end + MFI_REGION_ALIGN - 1) & ~(uint64_t)(MFI_REGION_ALIGN - 1);
    if (place < d->region_end || file->file_offset != place)
        return DAMAGED(d, "region %u is not where it should be", d->name, index);
    if (file->stored_bytes == 0 || !mfi_add_u64(place, file->stored_bytes, &d->region_end))
        return DAMAGED(d, "region %u has an impossible size", d->name, index);
    if (file->raw_bytes > SIZE_MAX / 4 || d->region_end > INT64_MAX)
        return mfi_fail(d->error, MF_E_UNSUPPORTED, "%s: region %u does not fit the address space of this machine",
                        d->name, index);
    return MF_OK;
}

static mf_status read_region(decoder *d, const mfi_file_entry *entry)
{
    const mfi_file_region *file = (const mfi_file_region *)entry;
    const mfi_file_frame *frame = (const mfi_file_frame *)(file + 1);
    mfi_directory *directory = d->directory;
    uint32_t index = directory->n_region;
    if (d->any_tensor) return DAMAGED(d, "region %u comes after a tensor", d->name, index);
    if (entry->entry_bytes < sizeof *file ||
        entry->entry_bytes - sizeof *file != (uint64_t)file->frame_count * sizeof *frame)
        return DAMAGED(d, "region %u has a wrong number of frames", d->name, index);
    if (index == MFI_REGION_MAX)
        return mfi_fail(d->error, MF_E_UNSUPPORTED, "%s: more than %u regions", d->name, MFI_REGION_MAX);
    mf_status status = check_region_place(d, file, index);
    if (status != MF_OK) return status;

    bool known = file->kind >= MFI_REGION_BASE && file->kind <= MFI_REGION_TABLES && file->storage <= MFI_ZSTD;
    if (!known) {
        status = unknown(d, entry, "region", "storage or kind", file->storage > MFI_ZSTD ? file->storage : file->kind);
    } else {
        status = check_region_order(d, file, index);
        if (status == MF_OK && file->storage == MFI_RAW &&
            (file->frame_count || file->raw_bytes != file->stored_bytes || file->checksum != file->content_hash))
            status = DAMAGED(d, "region %u is raw, but of two sizes or hashes", d->name, index);
        if (status == MF_OK && file->storage == MFI_ZSTD && !frames_valid(file, frame))
            status = DAMAGED(d, "the frames of region %u do not add up", d->name, index);
    }
    if (status != MF_OK) return status;
    directory->region[index] = (mfi_region){
        .kind = (mfi_region_kind)file->kind,
        .storage = (mfi_storage)file->storage,
        .shell = file->shell,
        .file_offset = file->file_offset,
        .stored_bytes = file->stored_bytes,
        .raw_bytes = file->raw_bytes,
        .checksum = file->checksum,
        .content_hash = file->content_hash,
    };
    directory->parts[index] = (mfi_parts){ .frame = frame, .n_frame = file->frame_count, .known = known };
    directory->n_region++;
    return MF_OK;
}

/* ---- Tensors ---- */

/* Bytes of one element; of Q8 and Q4 of a block of 32, its scale included. 0: a type that this version does not know. */
static uint64_t element_bytes(mfk_type type)
{
    switch (type) {
    case MFK_F32:
        return 4;
    case MFK_BF16:
    case MFK_F16:
        return 2;
    case MFK_Q8:
        return 32 + 2;
    case MFK_Q4:
        return 16 + 2;
    case MFK_U8:
        return 1;
    }
    return 0;
}

/* Of a row of a TABLE, or of the sixteen of a panel, whose scales come in pairs of blocks. */
static uint64_t row_bytes(const mfi_tensor *tensor)
{
    const uint64_t k = tensor->k, blocks = k / MFK_BLOCK + (k % MFK_BLOCK != 0), size = element_bytes(tensor->type);
    const bool quantized = mfk_type_quantized(tensor->type);
    if (tensor->kind == MFI_TABLE) return ((quantized ? blocks : k) * size + MFI_LINE - 1) & ~(uint64_t)(MFI_LINE - 1);
    return blocks * MFK_NR * size * (quantized ? 1 : MFK_BLOCK) + (quantized ? blocks % 2 * (MFI_LINE / 2) : 0);
}

bool mfi_tensor_bytes(const mfi_tensor *tensor, uint64_t *bytes)
{
    const uint64_t limit = (uint64_t)1 << 52; /* so that a row of k elements cannot overflow */
    const uint64_t size = element_bytes(tensor->type), n = tensor->n, k = tensor->k;
    if (size == 0 || n == 0 || k == 0 || n > limit || k > limit) return false;
    if (tensor->kind == MFI_PLAIN)
        return k == 1 && tensor->panels == 0 && !mfk_type_quantized(tensor->type) && mfi_mul_u64(n, size, bytes);
    const uint64_t panels = (n + MFK_NR - 1) / MFK_NR, n_row = tensor->kind == MFI_TABLE ? n : tensor->panels;
    const bool counted =
        tensor->kind == MFI_TABLE ? tensor->panels == 0 : tensor->panels == panels || tensor->panels == 2 * panels;
    return tensor->type != MFK_U8 && counted && mfi_mul_u64(row_bytes(tensor), n_row, bytes) &&
           mfi_add_u64(*bytes, mfk_head_bytes(tensor->type), bytes);
}

/* The regions from the current one up to `region` are complete: their tensors account for their size. */
static mf_status close_regions(decoder *d, uint32_t region)
{
    while (d->tensor_region < region) {
        uint64_t end = (d->tensor_end + MFI_LINE - 1) & ~(uint64_t)(MFI_LINE - 1);
        if (d->directory->parts[d->tensor_region].known && end != d->directory->region[d->tensor_region].raw_bytes)
            return DAMAGED(d, "region %u is not as long as its tensors", d->name, d->tensor_region);
        d->tensor_region++;
        d->tensor_end = 0;
    }
    return MF_OK;
}

static mf_status check_tensor_place(decoder *d, const mfi_file_tensor *file, const char *name)
{
    if (file->region >= d->directory->n_region || file->region < d->tensor_region)
        return DAMAGED(d, "tensor %s is out of order or in no region", d->name, name);
    mf_status status = close_regions(d, file->region);
    if (status != MF_OK) return status;
    uint64_t raw = d->directory->region[file->region].raw_bytes;
    uint64_t place = (d->tensor_end + MFI_LINE - 1) & ~(uint64_t)(MFI_LINE - 1);
    if (file->offset != place) return DAMAGED(d, "tensor %s overlaps the one before, or leaves a gap", d->name, name);
    if (place > raw || file->bytes > raw - place)
        return DAMAGED(d, "tensor %s is not inside its region", d->name, name);
    d->tensor_end = place + file->bytes;
    return MF_OK;
}

static mf_status read_tensor(decoder *d, const mfi_file_entry *entry)
{
    const mfi_file_tensor *file = (const mfi_file_tensor *)entry;
    const char *end = (const char *)entry + entry->entry_bytes, *name = (const char *)(file + 1);
    mfi_directory *directory = d->directory;
    d->any_tensor = true;
    if (entry->entry_bytes < sizeof *file || !name_at(name, end, file->name_bytes) ||
        (size_t)(end - name) != mfi_name_room(file->name_bytes) || file->zero != 0)
        return DAMAGED(d, "a tensor's name is none", d->name);
    mf_status status = check_tensor_place(d, file, name);
    if (status != MF_OK) return status;

    if (file->kind < MFI_PANEL || file->kind > MFI_PLAIN) return unknown(d, entry, "the kind of", name, file->kind);
    if (element_bytes((mfk_type)file->type) == 0) return unknown(d, entry, "tensor", name, file->type);
    if (!directory->parts[file->region].known) return unknown(d, entry, "the region of", name, file->region);
    mfi_tensor tensor = {
        .name = name,
        .kind = (mfi_tensor_kind)file->kind,
        .type = (mfk_type)file->type,
        .shell = file->shell,
        .region = file->region,
        .n = file->n,
        .k = file->k,
        .panels = file->panels,
        .offset = file->offset,
        .bytes = file->bytes,
    };
    uint64_t bytes;
    if (!mfi_tensor_bytes(&tensor, &bytes) || bytes != tensor.bytes)
        return DAMAGED(d, "the size of tensor %s does not match its shape", d->name, name);
    mfi_parts *parts = &directory->parts[file->region];
    if (parts->n_tensor++ == 0) parts->first_tensor = directory->n_tensor;
    directory->tensor[directory->n_tensor++] = tensor;
    return MF_OK;
}

int mfi_tensor_compare(const char *name, uint32_t shell, const mfi_tensor *tensor)
{
    int order = strcmp(name, tensor->name);
    return order ? order : (shell > tensor->shell) - (shell < tensor->shell);
}

static void sift_down(const mfi_directory *directory, uint32_t root, uint32_t count)
{
    const mfi_tensor *tensor = directory->tensor;
    uint32_t *heap = directory->by_name;
    for (uint32_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count &&
            mfi_tensor_compare(tensor[heap[child]].name, tensor[heap[child]].shell, &tensor[heap[child + 1]]) < 0)
            child++;
        if (mfi_tensor_compare(tensor[heap[root]].name, tensor[heap[root]].shell, &tensor[heap[child]]) >= 0) return;
        uint32_t swap = heap[root];
        heap[root] = heap[child];
        heap[child] = swap;
    }
}

/* A heap sort: O(n log n) for any order that a file may have, and no memory. */
static mf_status sort_tensors(const decoder *d)
{
    const mfi_directory *directory = d->directory;
    uint32_t *index = directory->by_name, n = directory->n_tensor;
    for (uint32_t i = 0; i < n; i++)
        index[i] = i;
    for (uint32_t root = n / 2; root-- > 0;)
        sift_down(directory, root, n);
    for (uint32_t last = n; last-- > 1;) {
        uint32_t swap = index[0];
        index[0] = index[last];
        index[last] = swap;
        sift_down(directory, 0, last);
    }
    for (uint32_t i = 1; i < n; i++) {
        const mfi_tensor *a = &directory->tensor[index[i - 1]], *b = &directory->tensor[index[i]];
        if (mfi_tensor_compare(a->name, a->shell, b) == 0)
            return DAMAGED(d, "tensor %s is there twice", d->name, a->name);
    }
    return MF_OK;
}

/* ---- The whole ---- */

typedef struct entry_counts {
    uint32_t metadata, region, tensor;
} entry_counts;

/* Walks the entries' headers: they fill the directory exactly. */
static mf_status count_entries(const decoder *d, const mfi_file_slot *slot, entry_counts *counts)
{
    const char *at = (const char *)(slot + 1), *end = (const char *)slot + slot->directory_bytes;
    *counts = (entry_counts){ 0 };
    for (uint32_t i = 0; i < slot->entry_count; i++) {
        const mfi_file_entry *entry = (const mfi_file_entry *)at;
        if ((size_t)(end - at) < sizeof *entry || entry->entry_bytes < sizeof *entry || entry->entry_bytes % 8 != 0 ||
            entry->entry_bytes > (size_t)(end - at))
            return DAMAGED(d, "entry %u has an impossible size", d->name, i);
        if (entry->flags & ~MFI_ENTRY_REQUIRED || entry->zero)
            return mfi_fail(d->error, MF_E_UNSUPPORTED, "%s: entry %u has flags that this version does not know",
                            d->name, i);
        counts->metadata += entry->kind == MFI_ENTRY_METADATA;
        counts->region += entry->kind == MFI_ENTRY_REGION;
        counts->tensor += entry->kind == MFI_ENTRY_TENSOR;
        at += entry->entry_bytes;
    }
    return at == end ? MF_OK : DAMAGED(d, "%u entries do not fill it", d->name, slot->entry_count);
}

static void lay_out(mfi_directory *directory, const entry_counts *counts, mfi_arena *arena)
{
    directory->metadata = mfi_carve(arena, counts->metadata, sizeof *directory->metadata);
    directory->region = mfi_carve(arena, counts->region, sizeof *directory->region);
    directory->parts = mfi_carve(arena, counts->region, sizeof *directory->parts);
    directory->tensor = mfi_carve(arena, counts->tensor, sizeof *directory->tensor);
    directory->by_name = mfi_carve(arena, counts->tensor, sizeof *directory->by_name);
}

static mf_status read_entries(decoder *d, const mfi_file_slot *slot)
{
    const char *at = (const char *)(slot + 1);
    for (uint32_t i = 0; i < slot->entry_count; i++) {
        const mfi_file_entry *entry = (const mfi_file_entry *)at;
        mf_status status = entry->kind == MFI_ENTRY_METADATA ? read_metadata(d, entry)
                           : entry->kind == MFI_ENTRY_REGION ? read_region(d, entry)
                           : entry->kind == MFI_ENTRY_TENSOR
                               ? read_tensor(d, entry)
                               : unknown(d, entry, "an entry of", "the directory", entry->kind);
        if (status != MF_OK) return status;
        at += entry->entry_bytes;
    }
    mf_status status = close_regions(d, d->directory->n_region);
    if (status != MF_OK) return status;
    if (d->directory->n_region == 0) return DAMAGED(d, "it has no region", d->name);
    if (d->region_end != slot->file_bytes) return DAMAGED(d, "the regions do not end with the file", d->name);
    return sort_tensors(d);
}

mf_status mfi_directory_decode(mfi_directory *directory, const mfi_file_slot *slot, uint64_t head_bytes,
                               const mf_allocator *allocator, const char *name, mf_error *error)
{
    decoder d = { .directory = directory, .name = name, .error = error, .region_end = head_bytes };
    *directory = (mfi_directory){ .file_bytes = slot->file_bytes };
    if (slot->zero || slot->zero2) return DAMAGED(&d, "reserved bytes are set", name);
    entry_counts counts;
    mf_status status = count_entries(&d, slot, &counts);
    if (status != MF_OK) return status;

    /* The tables are at most a few times as long as the entries that were just counted. */
    mfi_arena arena = { NULL, 0 };
    lay_out(directory, &counts, &arena);
    directory->block_bytes = arena.used;
    directory->block = mfi_alloc(allocator, arena.used);
    if (!directory->block) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for the directory", name);
    arena = (mfi_arena){ directory->block, 0 };
    lay_out(directory, &counts, &arena);

    status = read_entries(&d, slot);
    if (status != MF_OK) mfi_directory_free(directory, allocator);
    return status;
}

void mfi_directory_free(mfi_directory *directory, const mf_allocator *allocator)
{
    if (directory->block) mfi_free(allocator, directory->block, directory->block_bytes);
    *directory = (mfi_directory){ 0 };
}

/* ---- Frames ---- */

void mfi_frame_split(uint32_t split, size_t bytes, const unsigned char *elements, unsigned char *planes)
{
    size_t n = bytes / split;
    for (uint32_t j = 0; j < split; j++)
        for (size_t i = 0; i < n; i++)
            planes[j * n + i] = elements[i * split + j];
}

/* Inlined for each `split`: compilers vectorise constant strides. */
static inline void join_planes(size_t split, size_t n, const unsigned char *restrict planes,
                               unsigned char *restrict elements)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < split; j++)
            elements[i * split + j] = planes[j * n + i];
}

void mfi_frame_join(uint32_t split, size_t bytes, const unsigned char *planes, unsigned char *elements)
{
    if (split == 4)
        join_planes(4, bytes / 4, planes, elements);
    else if (split == 2)
        join_planes(2, bytes / 2, planes, elements);
    else
        join_planes(1, bytes, planes, elements);
}
