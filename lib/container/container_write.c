/* container_write.c - declarations to a file. Nothing touches the disk before mfi_writer_finish(), which
 * streams the tensors behind the room that the directory will need, and writes that last. */
#include <stdbool.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include "container_directory.h"
#include "platform.h"
#include "status.h"

#define FRAME_BYTES ((size_t)1 << 20) /* small enough to decode in parallel, large enough to compress as well as any */
#define ZSTD_LEVEL 1 /* weights hold no repetitions to search for: of the levels up to 18 this one packs bf16 best */
#define PLAN_ROOM 16384u /* least bytes left for a stored plan: some hundred configurations of some 40 layers */

typedef struct writer_region {
    mfi_region says;
    mfi_file_frame *frame;
    size_t n_frame, frame_room;
} writer_region;

struct mfi_writer {
    mf_allocator allocator;
    mf_status status; /* the first failure of a declaration; finish returns it */
    char *path;
    size_t path_bytes;
    mfi_file_metadata **metadata; /* [n_metadata] as in the file, ascending keys */
    writer_region *region;
    mfi_tensor *tensor; /* names are ours */
    size_t n_metadata, metadata_room, n_region, region_room, n_tensor, tensor_room;
    void *plan;
    size_t plan_bytes;
};

static mf_status stick(mfi_writer *w, mf_status status)
{
    if (w->status == MF_OK) w->status = status;
    return w->status;
}

/* Room for one more element: doubles the array when it is full. */
static bool grow(mfi_writer *w, void *array, size_t count, size_t *room, size_t element_bytes)
{
    if (count < *room) return true;
    size_t more = mfi_max(16, 2 * count);
    void *old, *new = mfi_alloc_array(&w->allocator, more, element_bytes);
    if (!new) return false;
    memcpy(&old, array, sizeof old);
    if (old) memcpy(new, old, count * element_bytes);
    mfi_free(&w->allocator, old, *room * element_bytes);
    memcpy(array, &new, sizeof new);
    *room = more;
    return true;
}

static char *copy_text(mfi_writer *w, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = mfi_alloc(&w->allocator, bytes);
    return copy ? memcpy(copy, text, bytes) : NULL;
}

mf_status mfi_writer_create(mfi_writer **out, const mf_allocator *allocator, const char *path, mf_error *error)
{
    *out = NULL;
    mfi_writer *w = mfi_alloc(allocator, sizeof *w);
    if (w) {
        w->allocator = *allocator;
        w->path = copy_text(w, path);
        if (w->path) {
            *out = w;
            return MF_OK;
        }
        mfi_free(allocator, w, sizeof *w);
    }
    return mfi_fail(error, MF_E_NOMEM, "%s: no memory to write it", path);
}

void mfi_writer_close(mfi_writer *w)
{
    if (!w) return;
    mf_allocator a = w->allocator;
    for (size_t i = 0; i < w->n_metadata; i++)
        mfi_free(&a, w->metadata[i], w->metadata[i]->entry.entry_bytes);
    for (size_t i = 0; i < w->n_tensor; i++)
        mfi_free(&a, (void *)(uintptr_t)w->tensor[i].name, strlen(w->tensor[i].name) + 1);
    for (size_t i = 0; i < w->n_region; i++)
        mfi_free(&a, w->region[i].frame, w->region[i].frame_room * sizeof *w->region[i].frame);
    mfi_free(&a, w->metadata, w->metadata_room * sizeof *w->metadata);
    mfi_free(&a, w->tensor, w->tensor_room * sizeof *w->tensor);
    mfi_free(&a, w->region, w->region_room * sizeof *w->region);
    mfi_free(&a, w->path, strlen(w->path) + 1);
    mfi_free(&a, w->plan, w->plan_bytes);
    mfi_free(&a, w, sizeof *w);
}

/* ---- Declarations ---- */

static const char *metadata_key(const mfi_file_metadata *metadata)
{
    return (const char *)(metadata + 1);
}

static mf_status add_metadata(mfi_writer *w, const char *key, mfi_value type, const void *value, size_t bytes,
                              bool required)
{
    if (w->status != MF_OK) return w->status;
    size_t key_bytes = strlen(key), value_room = mfi_round_up(bytes + (type == MFI_VALUE_TEXT), 8);
    if (!mfi_name_valid(key, key_bytes) || bytes > UINT32_MAX / 2) return stick(w, MF_E_INVALID);
    size_t entry_bytes = sizeof(mfi_file_metadata) + mfi_name_room(key_bytes) + value_room, place = w->n_metadata;
    while (place > 0 && strcmp(metadata_key(w->metadata[place - 1]), key) > 0)
        place--;
    if (place > 0 && strcmp(metadata_key(w->metadata[place - 1]), key) == 0) return stick(w, MF_E_INVALID);

    if (!grow(w, &w->metadata, w->n_metadata, &w->metadata_room, sizeof *w->metadata)) return stick(w, MF_E_NOMEM);
    mfi_file_metadata *metadata = mfi_alloc(&w->allocator, entry_bytes);
    if (!metadata) return stick(w, MF_E_NOMEM);
    metadata->entry =
        (mfi_file_entry){ MFI_ENTRY_METADATA, required ? MFI_ENTRY_REQUIRED : 0, 0, (uint32_t)entry_bytes };
    metadata->type = type;
    metadata->key_bytes = (uint32_t)key_bytes;
    metadata->value_bytes = bytes;
    char *at = (char *)(metadata + 1);
    memcpy(at, key, key_bytes);
    if (bytes) memcpy(at + mfi_name_room(key_bytes), value, bytes);
    memmove(w->metadata + place + 1, w->metadata + place, (w->n_metadata - place) * sizeof *w->metadata);
    w->metadata[place] = metadata;
    w->n_metadata++;
    return MF_OK;
}

mf_status mfi_writer_u64(mfi_writer *w, const char *key, uint64_t value, bool required)
{
    return add_metadata(w, key, MFI_VALUE_U64, &value, sizeof value, required);
}

mf_status mfi_writer_f64(mfi_writer *w, const char *key, double value, bool required)
{
    return add_metadata(w, key, MFI_VALUE_F64, &value, sizeof value, required);
}

mf_status mfi_writer_text(mfi_writer *w, const char *key, const char *value, bool required)
{
    return add_metadata(w, key, MFI_VALUE_TEXT, value, strlen(value), required);
}

mf_status mfi_writer_u32s(mfi_writer *w, const char *key, const uint32_t *values, size_t count, bool required)
{
    if (count > UINT32_MAX / 8) return stick(w, MF_E_INVALID);
    return add_metadata(w, key, MFI_VALUE_U32S, values, count * sizeof *values, required);
}

mf_status mfi_writer_plan(mfi_writer *w, const void *plan, size_t bytes)
{
    if (w->status != MF_OK) return w->status;
    if (w->plan || bytes == 0 || bytes > MFI_PLAN_MAX) return stick(w, MF_E_INVALID);
    w->plan = mfi_alloc(&w->allocator, bytes);
    if (!w->plan) return stick(w, MF_E_NOMEM);
    memcpy(w->plan, plan, bytes);
    w->plan_bytes = bytes;
    return MF_OK;
}

mf_status mfi_writer_region(mfi_writer *w, mfi_region_kind kind, uint32_t shell, mfi_storage storage, uint32_t *region)
{
    *region = (uint32_t)w->n_region;
    if (w->status != MF_OK) return w->status;
    if (w->n_region == MFI_REGION_MAX) return stick(w, MF_E_INVALID);
    if (!grow(w, &w->region, w->n_region, &w->region_room, sizeof *w->region)) return stick(w, MF_E_NOMEM);
    w->region[w->n_region++] = (writer_region){ .says = { .kind = kind, .storage = storage, .shell = shell } };
    return MF_OK;
}

/* The frames of one more tensor, which begins where the last frame ended; stored sizes come later. */
static bool add_frames(mfi_writer *w, writer_region *region, size_t bytes, mfk_type type)
{
    uint16_t split = type == MFK_F32 ? 4 : type == MFK_BF16 || type == MFK_F16 ? 2 : 1;
    for (size_t done = 0; done < bytes; done += FRAME_BYTES) {
        if (!grow(w, &region->frame, region->n_frame, &region->frame_room, sizeof *region->frame)) return false;
        uint32_t raw = (uint32_t)mfi_min(bytes - done, FRAME_BYTES);
        region->frame[region->n_frame++] = (mfi_file_frame){ .raw_bytes = raw, .split = split };
    }
    return true;
}

mf_status mfi_writer_tensor(mfi_writer *w, const mfi_tensor *tensor)
{
    if (w->status != MF_OK) return w->status;
    mfi_tensor add = *tensor;
    add.data = NULL;
    bool in_order = add.region < w->n_region && (w->n_tensor == 0 || w->tensor[w->n_tensor - 1].region <= add.region);
    if (!in_order || !mfi_name_valid(add.name, strlen(add.name)) || !mfi_tensor_bytes(&add, &add.bytes) ||
        add.bytes > SIZE_MAX / 4)
        return stick(w, MF_E_INVALID);
    writer_region *region = &w->region[add.region];
    size_t room = mfi_round_up((size_t)add.bytes, MFI_LINE);
    add.offset = region->says.raw_bytes;
    if (!grow(w, &w->tensor, w->n_tensor, &w->tensor_room, sizeof *w->tensor) ||
        (region->says.storage == MFI_ZSTD && !add_frames(w, region, room, add.type)))
        return stick(w, MF_E_NOMEM);
    add.name = copy_text(w, tensor->name);
    if (!add.name) return stick(w, MF_E_NOMEM);
    region->says.raw_bytes += room;
    w->tensor[w->n_tensor++] = add;
    return MF_OK;
}

/* ---- Weights ---- */

struct mfi_writing {
    mfi_writer *w;
    mfi_new_file file; /* or */
    mfi_image image;
    uint64_t at;                            /* where the next bytes go */
    unsigned char *frame, *planes, *packed; /* of a compressed region; the first two FRAME_BYTES */
    size_t packed_bytes;
    ZSTD_CCtx *context;
    XXH64_state_t stored_hash, raw_hash;
    /* The region and the tensor in progress. */
    writer_region *region;
    size_t n_frame, in_frame; /* frames written; bytes that wait for the next */
    uint64_t left;            /* bytes of the tensor to come */
    mf_error *error;
};

static mf_status write_at(mfi_writing *p, const void *data, size_t bytes, uint64_t at)
{
    if (!p->image.base) return mfi_new_file_write_at(&p->file, data, bytes, at, p->error);
    memcpy((unsigned char *)p->image.base + at, data, bytes);
    return MF_OK;
}

static mf_status store(mfi_writing *p, const void *data, size_t bytes)
{
    mf_status status = write_at(p, data, bytes, p->at);
    XXH64_update(&p->stored_hash, data, bytes);
    p->at += bytes;
    return status;
}

static mf_status store_frame(mfi_writing *p)
{
    mfi_file_frame *frame = &p->region->frame[p->n_frame++];
    const unsigned char *from = p->frame;
    size_t bytes = frame->raw_bytes;
    p->in_frame = 0;
    if (frame->split > 1) {
        mfi_frame_split(frame->split, bytes, p->frame, p->planes);
        from = p->planes;
    }
    size_t packed = ZSTD_compressCCtx(p->context, p->packed, p->packed_bytes, from, bytes, ZSTD_LEVEL);
    if (ZSTD_isError(packed)) return mfi_fail(p->error, MF_E_NOMEM, "%s: %s", p->w->path, ZSTD_getErrorName(packed));
    /* What does not shrink is stored as it is; what shrinks too far readers would take for a trap. */
    if (packed >= bytes || bytes > (uint64_t)MFI_RATIO_MAX * packed) {
        *frame = (mfi_file_frame){ frame->raw_bytes, frame->raw_bytes, MFI_FRAME_PLAIN, 1, 0 };
        return store(p, p->frame, bytes);
    }
    frame->method = MFI_FRAME_ZSTD;
    frame->stored_bytes = (uint32_t)packed;
    return store(p, p->packed, packed);
}

/* Bytes of the region, through frames where it is compressed. */
static mf_status put(mfi_writing *p, const unsigned char *data, size_t bytes)
{
    XXH64_update(&p->raw_hash, data, bytes);
    if (p->region->says.storage == MFI_RAW) return store(p, data, bytes);
    mf_status status = MF_OK;
    for (size_t done = 0, part; done < bytes && status == MF_OK; done += part) {
        const size_t room = p->region->frame[p->n_frame].raw_bytes - p->in_frame;
        part = mfi_min(bytes - done, room);
        memcpy(p->frame + p->in_frame, data + done, part);
        p->in_frame += part;
        if (part == room) status = store_frame(p);
    }
    return status;
}

mf_status mfi_writer_put(mfi_writing *p, const void *data, size_t bytes)
{
    if (bytes > p->left) return mfi_fail(p->error, MF_E_INVALID, "%s: a tensor was filled beyond its end", p->w->path);
    p->left -= bytes;
    return put(p, data, bytes);
}

static mf_status put_zeros(mfi_writing *p, uint64_t bytes)
{
    static const unsigned char zeros[4096];
    mf_status status = MF_OK;
    for (size_t part; bytes > 0 && status == MF_OK; bytes -= part) {
        part = (size_t)(bytes < sizeof zeros ? bytes : sizeof zeros);
        status = put(p, zeros, part);
    }
    return status;
}

/* Writes the region's tensors from w->tensor[*index] on; *index moves past them. */
static mf_status put_region(mfi_writing *p, uint32_t number, size_t *index, mfi_writer_fill fill, void *user)
{
    mfi_writer *w = p->w;
    p->region = &w->region[number];
    p->n_frame = 0;
    p->at = (p->at + MFI_REGION_ALIGN - 1) & ~(uint64_t)(MFI_REGION_ALIGN - 1);
    p->region->says.file_offset = p->at;
    XXH64_reset(&p->stored_hash, 0);
    XXH64_reset(&p->raw_hash, 0);
    for (; *index < w->n_tensor && w->tensor[*index].region == number; ++*index) {
        const mfi_tensor *tensor = &w->tensor[*index];
        p->left = tensor->bytes;
        mf_status status = fill(user, tensor, p, p->error);
        if (status == MF_OK)
            status = put_zeros(p, p->left + mfi_round_up((size_t)tensor->bytes, MFI_LINE) - tensor->bytes);
        if (status != MF_OK) return status;
    }
    p->region->says.stored_bytes = p->at - p->region->says.file_offset;
    p->region->says.checksum = XXH64_digest(&p->stored_hash);
    p->region->says.content_hash = XXH64_digest(&p->raw_hash);
    return MF_OK;
}

/* ---- Directory ---- */

static size_t region_entry_bytes(const writer_region *region)
{
    return sizeof(mfi_file_region) + region->n_frame * sizeof(mfi_file_frame);
}

static size_t tensor_entry_bytes(const mfi_tensor *tensor)
{
    return sizeof(mfi_file_tensor) + mfi_name_room(strlen(tensor->name));
}

static size_t directory_bytes(const mfi_writer *w)
{
    size_t bytes = sizeof(mfi_file_slot);
    for (size_t i = 0; i < w->n_metadata; i++)
        bytes += w->metadata[i]->entry.entry_bytes;
    for (size_t i = 0; i < w->n_region; i++)
        bytes += region_entry_bytes(&w->region[i]);
    for (size_t i = 0; i < w->n_tensor; i++)
        bytes += tensor_entry_bytes(&w->tensor[i]);
    return bytes;
}

static char *encode_region(char *at, const writer_region *region)
{
    mfi_file_region file = {
        .entry = { MFI_ENTRY_REGION, MFI_ENTRY_REQUIRED, 0, (uint32_t)region_entry_bytes(region) },
        .kind = region->says.kind,
        .storage = region->says.storage,
        .shell = region->says.shell,
        .frame_count = (uint32_t)region->n_frame,
        .file_offset = region->says.file_offset,
        .stored_bytes = region->says.stored_bytes,
        .raw_bytes = region->says.raw_bytes,
        .checksum = region->says.checksum,
        .content_hash = region->says.content_hash,
    };
    memcpy(at, &file, sizeof file);
    if (region->n_frame) memcpy(at + sizeof file, region->frame, region->n_frame * sizeof *region->frame);
    return at + file.entry.entry_bytes;
}

static char *encode_tensor(char *at, const mfi_tensor *tensor)
{
    mfi_file_tensor file = {
        .entry = { MFI_ENTRY_TENSOR, MFI_ENTRY_REQUIRED, 0, (uint32_t)tensor_entry_bytes(tensor) },
        .kind = tensor->kind,
        .type = tensor->type,
        .shell = tensor->shell,
        .region = tensor->region,
        .n = tensor->n,
        .k = tensor->k,
        .panels = tensor->panels,
        .offset = tensor->offset,
        .bytes = tensor->bytes,
        .name_bytes = (uint32_t)strlen(tensor->name),
    };
    memcpy(at, &file, sizeof file);
    memcpy(at + sizeof file, tensor->name, file.name_bytes);
    return at + file.entry.entry_bytes;
}

/* To `slot`, zeroed and `bytes` long. */
static void encode_directory(const mfi_writing *p, mfi_file_slot *slot, size_t bytes)
{
    const mfi_writer *w = p->w;
    char *at = (char *)(slot + 1);
    for (size_t i = 0; i < w->n_metadata; i++) {
        memcpy(at, w->metadata[i], w->metadata[i]->entry.entry_bytes);
        at += w->metadata[i]->entry.entry_bytes;
    }
    for (size_t i = 0; i < w->n_region; i++)
        at = encode_region(at, &w->region[i]);
    for (size_t i = 0; i < w->n_tensor; i++)
        at = encode_tensor(at, &w->tensor[i]);
    slot->generation = 1;
    slot->directory_bytes = bytes;
    slot->file_bytes = p->at;
    slot->entry_count = (uint32_t)(w->n_metadata + w->n_region + w->n_tensor);
    slot->plan_bytes = w->plan_bytes;
    slot->plan_checksum = w->plan ? mfi_hash(w->plan, w->plan_bytes) : 0;
    slot->checksum = mfi_hash(&slot->generation, bytes - sizeof slot->checksum);
}

/* A quarter more than the directory takes, so that an update can add to it; the plan has what is left up
 * to where the regions begin. */
static mfi_file_header make_header(const mfi_writer *w, size_t bytes)
{
    mfi_file_header header = { .version = MFI_CONTAINER_VERSION };
    memcpy(header.magic, MFI_MAGIC, sizeof header.magic);
    header.directory_capacity = mfi_round_up(bytes + bytes / 4, MFI_SLOT_STEP);
    uint64_t head =
        mfi_head_bytes(header.directory_capacity + mfi_round_up(mfi_max(PLAN_ROOM, w->plan_bytes), MFI_SLOT_STEP));
    header.slot_bytes = (head - MFI_SLOT_BASE) / 2 / MFI_SLOT_STEP * MFI_SLOT_STEP;
    header.checksum = mfi_hash(&header, offsetof(mfi_file_header, checksum));
    return header;
}

/* Our own reader must accept the directory: it finds what declarations alone do not show. */
static mf_status put_directory(mfi_writing *p, const mfi_file_header *header, uint64_t head_bytes, size_t bytes)
{
    const mf_allocator *allocator = &p->w->allocator;
    mfi_file_slot *slot = mfi_alloc(allocator, bytes);
    if (!slot) return mfi_fail(p->error, MF_E_NOMEM, "%s: no memory for the directory", p->w->path);
    encode_directory(p, slot, bytes);
    mfi_directory directory;
    mf_status status = mfi_directory_decode(&directory, slot, head_bytes, allocator, p->w->path, p->error);
    if (status == MF_OK) {
        mfi_directory_free(&directory, allocator);
        status = write_at(p, slot, bytes, MFI_SLOT_BASE);
    }
    if (status == MF_OK && p->w->plan)
        status = write_at(p, p->w->plan, p->w->plan_bytes, MFI_SLOT_BASE + header->directory_capacity);
    if (status == MF_OK) status = write_at(p, header, sizeof *header, 0);
    mfi_free(allocator, slot, bytes);
    return status;
}

/* ---- The whole ---- */

static bool compresses(const mfi_writer *w)
{
    for (size_t i = 0; i < w->n_region; i++)
        if (w->region[i].says.storage == MFI_ZSTD) return true;
    return false;
}

static mf_status begin_writing(mfi_writing *p)
{
    const mf_allocator *allocator = &p->w->allocator;
    if (!compresses(p->w)) return MF_OK;
    p->packed_bytes = ZSTD_compressBound(FRAME_BYTES);
    p->frame = mfi_alloc(allocator, FRAME_BYTES);
    p->planes = mfi_alloc(allocator, FRAME_BYTES);
    p->packed = mfi_alloc(allocator, p->packed_bytes);
    p->context = ZSTD_createCCtx();
    if (p->frame && p->planes && p->packed && p->context) return MF_OK;
    return mfi_fail(p->error, MF_E_NOMEM, "%s: no memory to write it", p->w->path);
}

static void end_writing(mfi_writing *p)
{
    const mf_allocator *allocator = &p->w->allocator;
    mfi_free(allocator, p->frame, FRAME_BYTES);
    mfi_free(allocator, p->planes, FRAME_BYTES);
    mfi_free(allocator, p->packed, p->packed_bytes);
    ZSTD_freeCCtx(p->context);
}

static mf_status write_all(mfi_writing *p, mfi_writer_fill fill, void *user)
{
    mfi_writer *w = p->w;
    size_t bytes = directory_bytes(w), tensor = 0;
    mfi_file_header header = make_header(w, bytes);
    uint64_t head_bytes = mfi_head_bytes(header.slot_bytes);
    p->at = head_bytes;
    mf_status status = MF_OK;
    for (size_t i = 0; i < w->n_region && status == MF_OK; i++)
        status = put_region(p, (uint32_t)i, &tensor, fill, user);
    return status == MF_OK ? put_directory(p, &header, head_bytes, bytes) : status;
}

static mf_status check_declared(const mfi_writer *w, mf_error *error)
{
    if (w->status == MF_OK) return MF_OK;
    return mfi_fail(error, w->status, "%s: a key, region or tensor was declared wrongly, or memory ran out", w->path);
}

mf_status mfi_writer_finish(mfi_writer *w, mfi_writer_fill fill, void *user, mf_error *error)
{
    mfi_writing p = { .w = w, .error = error };
    mf_status status = check_declared(w, error);
    if (status != MF_OK) return status;
    status = begin_writing(&p);
    if (status == MF_OK) status = mfi_new_file_open(&p.file, w->path, error);
    if (status == MF_OK) {
        status = write_all(&p, fill, user);
        if (status == MF_OK) status = mfi_new_file_commit(&p.file, error);
        mfi_new_file_abort(&p.file); /* nothing after a good commit */
    }
    end_writing(&p);
    return status;
}

/* ---- In memory ---- */

#define HUGE_PAGE ((size_t)2 << 20)

/* 0 where it does not fit the address space. */
static size_t image_bytes(const mfi_writer *w)
{
    uint64_t bytes = mfi_head_bytes(make_header(w, directory_bytes(w)).slot_bytes);
    for (size_t i = 0; i < w->n_region; i++) {
        const uint64_t begin = (bytes + MFI_REGION_ALIGN - 1) & ~(uint64_t)(MFI_REGION_ALIGN - 1);
        if (begin > SIZE_MAX / 2 || w->region[i].says.raw_bytes > SIZE_MAX / 2 - begin) return 0;
        bytes = begin + w->region[i].says.raw_bytes;
    }
    return (size_t)bytes;
}

void mfi_image_free(mfi_image *image)
{
    mfi_unreserve(image->base, image->bytes);
    *image = (mfi_image){ 0 };
}

mf_status mfi_writer_finish_image(mfi_writer *w, mfi_writer_fill fill, void *user, mfi_image *image, mf_error *error)
{
    *image = (mfi_image){ 0 };
    mfi_writing p = { .w = w, .error = error, .image.bytes = image_bytes(w) };
    mf_status status = check_declared(w, error);
    if (status == MF_OK && compresses(w)) status = mfi_fail(error, MF_E_INVALID, "%s: compressed in memory", w->path);
    if (status == MF_OK && p.image.bytes > 0) p.image.base = mfi_reserve(p.image.bytes, HUGE_PAGE);
    if (status == MF_OK && !p.image.base)
        status = mfi_fail(error, MF_E_NOMEM, "%s: no address space for %zu bytes", w->path, p.image.bytes);
    if (status != MF_OK) return status;
    status = mfi_map_memory_at(p.image.base, p.image.bytes, error);
    if (status == MF_OK) status = write_all(&p, fill, user);
    if (status == MF_OK) status = mfi_protect_read(p.image.base, p.image.bytes);
    if (status != MF_OK)
        mfi_image_free(&p.image);
    else
        *image = p.image;
    return status;
}
