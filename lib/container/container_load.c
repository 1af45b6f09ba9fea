/* container_load.c - makes regions resident: mapped, copied, or decoded in parallel, and verified. */
#define _POSIX_C_SOURCE 200809L
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>
#include <zstd.h>

#include "container_read.h"
#include "platform.h"
#include "status.h"
#include "threads.h"

#define HUGE_PAGE ((size_t)2 << 20)
#define CHUNK ((size_t)4 << 20)           /* bytes between two calls of progress */
#define VERIFY_BELOW ((uint64_t)64 << 20) /* files under it are verified by default */
#define DECODE_THREADS 64u
#define FRAMES_PER_THREAD 4u /* in one round: enough to even out, little to hold */

typedef struct loading {
    mfi_container *c;
    mf_error *error;
    uint64_t done, total;
} loading;

static mf_status advance(loading *l, uint64_t bytes)
{
    l->done += bytes;
    if (!l->c->progress || l->c->progress(l->c->progress_user, l->done, l->total) == 0) return MF_OK;
    return mfi_fail(l->error, MF_E_CANCELLED, "%s: opening was cancelled", l->c->name);
}

static bool verified(const mfi_container *c, const mfi_region *region)
{
    if (c->verify != MF_VERIFY_DEFAULT) return c->verify == MF_VERIFY_FULL;
    return region->storage == MFI_ZSTD || c->length < VERIFY_BELOW;
}

static mf_status check_hash(const loading *l, uint32_t index, uint64_t found, uint64_t stated)
{
    if (found == stated) return MF_OK;
    return mfi_fail(l->error, MF_E_CHECKSUM, "%s: the weights in region %u are damaged; fetch the file again",
                    l->c->name, index);
}

/* Address space for a region, `skew` bytes past a huge page's start. */
static unsigned char *reserve(const loading *l, uint32_t index, size_t skew)
{
    mfi_residence *residence = &l->c->residence[index];
    residence->reserved_bytes = skew + (size_t)l->c->directory.region[index].raw_bytes;
    residence->reserved = mfi_reserve(residence->reserved_bytes, HUGE_PAGE);
    if (residence->reserved) return (unsigned char *)residence->reserved + skew;
    mfi_fail(l->error, MF_E_NOMEM, "%s: no address space for region %u", l->c->name, index);
    return NULL;
}

static unsigned char *reserve_memory(const loading *l, uint32_t index)
{
    unsigned char *at = reserve(l, index, 0);
    if (!at || mfi_map_memory_at(at, (size_t)l->c->directory.region[index].raw_bytes, l->error) != MF_OK) return NULL;
    return at;
}

static void release(mfi_container *c, uint32_t index)
{
    mfi_residence *residence = &c->residence[index];
    mfi_unreserve(residence->reserved, residence->reserved_bytes);
    *residence = (mfi_residence){ 0 };
}

/* ---- Raw regions ---- */

/* Bytes that are where they stay: hashed if they are to be verified, else not touched. */
static mf_status load_in_place(loading *l, uint32_t index, const unsigned char *data)
{
    const mfi_region *region = &l->c->directory.region[index];
    size_t bytes = (size_t)region->raw_bytes;
    if (!verified(l->c, region)) return advance(l, bytes);
    XXH64_state_t hash;
    XXH64_reset(&hash, 0);
    for (size_t done = 0; done < bytes;) {
        size_t piece = mfi_min(bytes - done, CHUNK);
        XXH64_update(&hash, data + done, piece);
        mf_status status = advance(l, piece);
        if (status != MF_OK) return status;
        done += piece;
    }
    return check_hash(l, index, XXH64_digest(&hash), region->checksum);
}

/* A mapping needs the region on a page of the file: not so for an asset inside an archive, perhaps. */
static bool can_map(const mfi_container *c)
{
    return c->load == MF_LOAD_MAP && c->fd_offset % (uint64_t)sysconf(_SC_PAGESIZE) == 0;
}

/* The address is that of the file modulo a huge page, so that file systems can map huge pages. */
static mf_status load_mapped(loading *l, uint32_t index, const unsigned char **data)
{
    const mfi_region *region = &l->c->directory.region[index];
    uint64_t offset = l->c->fd_offset + region->file_offset;
    unsigned char *at = reserve(l, index, (size_t)(offset % HUGE_PAGE));
    if (!at) return MF_E_NOMEM;
    mf_status status = mfi_map_file_at(at, (size_t)region->raw_bytes, l->c->fd, offset, l->error);
    *data = at;
    return status == MF_OK ? load_in_place(l, index, at) : status;
}

static mf_status load_copied(loading *l, uint32_t index, const unsigned char **data)
{
    const mfi_region *region = &l->c->directory.region[index];
    size_t bytes = (size_t)region->raw_bytes;
    bool verify = verified(l->c, region);
    unsigned char *at = reserve_memory(l, index);
    if (!at) return MF_E_NOMEM;
    XXH64_state_t hash;
    XXH64_reset(&hash, 0);
    for (size_t done = 0; done < bytes;) {
        size_t piece = mfi_min(bytes - done, CHUNK);
        mf_status status = mfi_container_fetch(l->c, at + done, piece, region->file_offset + done, l->error);
        if (status != MF_OK) return status;
        if (verify) XXH64_update(&hash, at + done, piece);
        status = advance(l, piece);
        if (status != MF_OK) return status;
        done += piece;
    }
    *data = at;
    return verify ? check_hash(l, index, XXH64_digest(&hash), region->checksum) : MF_OK;
}

/* ---- Compressed regions ---- */

/* One round: some frames that lie one after the other, taken by whichever thread is free. */
typedef struct decoding {
    const mfi_file_frame *frame;
    uint32_t first, count;
    const unsigned char **stored; /* [round] of each frame */
    unsigned char **raw;
    atomic_uint next;
    atomic_bool failed;

    uint32_t n_thread;
    uint32_t round;         /* most frames of one */
    ZSTD_DCtx **context;    /* [n_thread] zstd's own memory, from the C library */
    unsigned char **planes; /* [n_thread] a frame before its bytes are joined */
    unsigned char *buffer;  /* the round's stored bytes; NULL where they are in memory */
    size_t plane_bytes, buffer_bytes;
    void *block;
    size_t block_bytes;
    mfi_pool *pool; /* NULL for one thread */
} decoding;

static bool decode_frame(const decoding *d, uint32_t thread, uint32_t i)
{
    const mfi_file_frame *frame = &d->frame[d->first + i];
    const unsigned char *stored = d->stored[i];
    if (frame->method == MFI_FRAME_PLAIN) {
        memcpy(d->raw[i], stored, frame->raw_bytes);
        return true;
    }
    if (ZSTD_getFrameContentSize(stored, frame->stored_bytes) != frame->raw_bytes ||
        ZSTD_findFrameCompressedSize(stored, frame->stored_bytes) != frame->stored_bytes)
        return false;
    unsigned char *out = frame->split == 1 ? d->raw[i] : d->planes[thread];
    if (ZSTD_decompressDCtx(d->context[thread], out, frame->raw_bytes, stored, frame->stored_bytes) != frame->raw_bytes)
        return false;
    if (frame->split > 1) mfi_frame_join(frame->split, frame->raw_bytes, out, d->raw[i]);
    return true;
}

static void decode_round(void *user, uint32_t thread, uint32_t n_thread)
{
    (void)n_thread;
    decoding *d = user;
    for (uint32_t i; (i = atomic_fetch_add(&d->next, 1)) < d->count;)
        if (!decode_frame(d, thread, i)) atomic_store(&d->failed, true);
}

static void lay_out_decoding(decoding *d, mfi_arena *arena)
{
    d->stored = mfi_carve(arena, d->round, sizeof *d->stored);
    d->raw = mfi_carve(arena, d->round, sizeof *d->raw);
    d->context = mfi_carve(arena, d->n_thread, sizeof *d->context);
    d->planes = mfi_carve(arena, d->n_thread, sizeof *d->planes);
    d->buffer = mfi_carve(arena, 1, d->buffer_bytes);
    unsigned char *planes = mfi_carve(arena, d->n_thread, d->plane_bytes);
    for (uint32_t i = 0; planes && i < d->n_thread; i++)
        d->planes[i] = planes + i * d->plane_bytes;
}

/* Sizes of what a round holds: frames are at most 4 MiB, which bounds them all. */
static void measure_decoding(decoding *d, const loading *l, const mfi_parts *parts)
{
    uint32_t wanted = l->c->n_thread ? l->c->n_thread : mfi_usable_cores();
    wanted = wanted < DECODE_THREADS ? wanted : DECODE_THREADS;
    d->frame = parts->frame;
    d->n_thread = wanted < parts->n_frame ? wanted : parts->n_frame;
    d->round = d->n_thread * FRAMES_PER_THREAD;
    size_t stored_max = 0;
    for (uint32_t i = 0; i < parts->n_frame; i++) {
        stored_max = mfi_max(stored_max, parts->frame[i].stored_bytes);
        if (parts->frame[i].split > 1) d->plane_bytes = mfi_max(d->plane_bytes, parts->frame[i].raw_bytes);
    }
    d->plane_bytes = mfi_round_up(d->plane_bytes, MFI_LINE);
    d->buffer_bytes = l->c->memory ? 0 : stored_max * d->round;
}

static mf_status begin_decoding(decoding *d, const loading *l, const mfi_parts *parts)
{
    const mf_allocator *allocator = &l->c->allocator;
    measure_decoding(d, l, parts);
    mfi_arena arena = { NULL, 0 };
    lay_out_decoding(d, &arena);
    d->block_bytes = arena.used;
    d->block = mfi_alloc(allocator, d->block_bytes);
    if (!d->block) return mfi_fail(l->error, MF_E_NOMEM, "%s: no memory to decode weights", l->c->name);
    arena = (mfi_arena){ d->block, 0 };
    lay_out_decoding(d, &arena);
    for (uint32_t i = 0; i < d->n_thread; i++) {
        d->context[i] = ZSTD_createDCtx();
        if (!d->context[i]) return mfi_fail(l->error, MF_E_NOMEM, "%s: no memory to decode weights", l->c->name);
    }
    if (d->n_thread == 1) return MF_OK;
    mfi_pool_options options = { .n_thread = d->n_thread, .run_spin_us = 50, .idle_spin_us = 50 };
    return mfi_pool_create(&d->pool, allocator, &options, l->error);
}

static void end_decoding(decoding *d, const mf_allocator *allocator)
{
    if (d->pool) mfi_pool_destroy(d->pool);
    for (uint32_t i = 0; d->block && i < d->n_thread; i++)
        ZSTD_freeDCtx(d->context[i]);
    mfi_free(allocator, d->block, d->block_bytes);
}

/* Where the next round's frames come from and go to; their bytes are fetched. */
static mf_status fill_round(decoding *d, const loading *l, uint64_t stored_at, unsigned char *raw, uint64_t *stored_sum,
                            size_t *raw_sum)
{
    *stored_sum = *raw_sum = 0;
    for (uint32_t i = 0; i < d->count; i++)
        *stored_sum += d->frame[d->first + i].stored_bytes;
    const unsigned char *stored = l->c->memory ? l->c->memory + stored_at : d->buffer;
    if (!l->c->memory) {
        mf_status status = mfi_container_fetch(l->c, d->buffer, (size_t)*stored_sum, stored_at, l->error);
        if (status != MF_OK) return status;
    }
    for (uint32_t i = 0; i < d->count; i++) {
        d->stored[i] = stored;
        d->raw[i] = raw + *raw_sum;
        stored += d->frame[d->first + i].stored_bytes;
        *raw_sum += d->frame[d->first + i].raw_bytes;
    }
    atomic_store(&d->next, 0);
    return MF_OK;
}

static mf_status decode_rounds(decoding *d, loading *l, uint32_t index, unsigned char *raw)
{
    const mfi_region *region = &l->c->directory.region[index];
    const uint32_t n_frame = l->c->directory.parts[index].n_frame;
    bool verify = verified(l->c, region);
    uint64_t stored_at = region->file_offset, stored_sum;
    size_t raw_sum;
    XXH64_state_t stored_hash, raw_hash;
    XXH64_reset(&stored_hash, 0);
    XXH64_reset(&raw_hash, 0);
    for (d->first = 0; d->first < n_frame; d->first += d->count) {
        d->count = n_frame - d->first < d->round ? n_frame - d->first : d->round;
        mf_status status = fill_round(d, l, stored_at, raw, &stored_sum, &raw_sum);
        if (status != MF_OK) return status;
        if (verify) XXH64_update(&stored_hash, d->stored[0], (size_t)stored_sum);
        if (d->pool)
            mfi_pool_run(d->pool, decode_round, d);
        else
            decode_round(d, 0, 1);
        if (atomic_load(&d->failed))
            return mfi_fail(l->error, MF_E_FORMAT,
                            "%s: the weights in region %u cannot be decoded; fetch the file again", l->c->name, index);
        if (verify) XXH64_update(&raw_hash, raw, raw_sum);
        status = advance(l, raw_sum);
        if (status != MF_OK) return status;
        stored_at += stored_sum;
        raw += raw_sum;
    }
    if (!verify) return MF_OK;
    mf_status status = check_hash(l, index, XXH64_digest(&stored_hash), region->checksum);
    return status == MF_OK ? check_hash(l, index, XXH64_digest(&raw_hash), region->content_hash) : status;
}

static mf_status load_decoded(loading *l, uint32_t index, const unsigned char **data)
{
    unsigned char *at = reserve_memory(l, index);
    if (!at) return MF_E_NOMEM;
    decoding d = { 0 };
    mf_status status = begin_decoding(&d, l, &l->c->directory.parts[index]);
    if (status == MF_OK) status = decode_rounds(&d, l, index, at);
    end_decoding(&d, &l->c->allocator);
    *data = at;
    return status;
}

/* ---- All ---- */

/* Tensors lie in file order, so those of a region are neighbours. A search, since a file may have so many of both
 * that their product takes minutes. */
static uint32_t first_tensor(const mfi_directory *directory, uint32_t region)
{
    uint32_t low = 0, high = directory->n_tensor;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (directory->tensor[middle].region < region)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static mf_status load_region(loading *l, uint32_t index)
{
    mfi_container *c = l->c;
    mfi_region *region = &c->directory.region[index];
    const unsigned char *data = NULL;
    mf_status status;
    bool mapped = false;
    if (region->storage == MFI_ZSTD) {
        status = load_decoded(l, index, &data);
    } else if (c->memory && c->load == MF_LOAD_MAP) {
        data = c->memory + region->file_offset;
        status = load_in_place(l, index, data);
    } else if (!c->memory && can_map(c)) {
        mapped = true;
        status = load_mapped(l, index, &data);
    } else {
        status = load_copied(l, index, &data);
    }
    /* Nothing writes to weights. For a file mapping this is so already. */
    if (status == MF_OK && !mapped && c->residence[index].reserved)
        status = mfi_protect_read(c->residence[index].reserved, c->residence[index].reserved_bytes);
    if (status != MF_OK) {
        release(c, index);
        return status;
    }
    region->data = data;
    for (uint32_t i = first_tensor(&c->directory, index);
         i < c->directory.n_tensor && c->directory.tensor[i].region == index; i++)
        c->directory.tensor[i].data = data + c->directory.tensor[i].offset;
    if (mapped) c->mapped_bytes += region->raw_bytes;
    if (!mapped && c->residence[index].reserved) c->allocated_bytes += region->raw_bytes;
    return MF_OK;
}

/* Of a kind that we know, there, wanted and not loaded yet. */
static bool to_load(const mfi_container *c, uint32_t index, uint32_t shell_count)
{
    const mfi_region *region = &c->directory.region[index];
    return c->directory.parts[index].known && region->file_offset + region->stored_bytes <= c->length &&
           (region->kind != MFI_REGION_SHELL || region->shell < shell_count) && !region->data;
}

mf_status mfi_container_load(mfi_container *c, uint32_t shell_count, mf_error *error)
{
    loading l = { .c = c, .error = error };
    for (uint32_t i = 0; i < c->directory.n_region; i++)
        if (to_load(c, i, shell_count)) l.total += c->directory.region[i].raw_bytes;
    mf_status status = advance(&l, 0);
    for (uint32_t i = 0; i < c->directory.n_region && status == MF_OK; i++)
        if (to_load(c, i, shell_count)) status = load_region(&l, i);
    return status;
}
