/* container_load.c - makes regions resident: mapped, copied, or decoded in parallel, and verified. */
#include <stdatomic.h>
#include <string.h>

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
    mf_progress progress;
    void *progress_user;
    bool later; /* not while the container opens */
    uint64_t done, total;
} loading;

static mf_status advance(loading *l, uint64_t bytes)
{
    l->done += bytes;
    if (!l->progress || l->progress(l->progress_user, l->done, l->total) == 0) return MF_OK;
    return mfi_fail(l->error, MF_E_CANCELLED, "%s: %s was cancelled", l->c->name, l->later ? "growing" : "opening");
}

/* A copy lets its file change, so that what is read of it later is always looked at. */
static bool verified(const loading *l, uint32_t index)
{
    const mfi_container *c = l->c;
    if (l->later && c->load == MF_LOAD_COPY) return true;
    if (c->verify != MF_VERIFY_DEFAULT) return c->verify == MF_VERIFY_FULL;
    const mfi_piece *first = mfi_container_piece(c, index, 0);
    const uint64_t length = first && first->store == MFI_OWN ? c->length : c->directory.file_bytes;
    return c->directory.region[index].storage == MFI_ZSTD || length < VERIFY_BELOW;
}

static mf_status check_hash(const loading *l, uint32_t index, uint64_t found, uint64_t stated)
{
    if (found == stated) return MF_OK;
    return mfi_fail(l->error, MF_E_CHECKSUM, "%s: the weights in region %u are damaged; fetch the file again",
                    mfi_container_blame(l->c, index), index);
}

static void release(mfi_container *c, uint32_t index)
{
    mfi_residence *residence = &c->residence[index];
    mfi_unreserve(residence->reserved, residence->reserved_bytes);
    residence->reserved = NULL;
    residence->reserved_bytes = 0;
}

/* Address space for a region, `skew` bytes past a huge page's start: that which it had before it was trimmed, if that
 * will do. */
static unsigned char *reserve(const loading *l, uint32_t index, size_t skew)
{
    mfi_residence *residence = &l->c->residence[index];
    const size_t bytes = skew + (size_t)l->c->directory.region[index].raw_bytes;
    if (residence->reserved_bytes != bytes) release(l->c, index);
    if (!residence->reserved) residence->reserved = mfi_reserve(bytes, HUGE_PAGE);
    residence->reserved_bytes = residence->reserved ? bytes : 0;
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

/* ---- Raw regions ---- */

/* Bytes that are where they stay: hashed if they are to be verified, else not touched. */
static mf_status load_in_place(loading *l, uint32_t index, const unsigned char *data)
{
    const mfi_region *region = &l->c->directory.region[index];
    size_t bytes = (size_t)region->raw_bytes;
    if (!verified(l, index)) return advance(l, bytes);
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

/* A mapping needs the pieces of the region on pages of their files: not so for an asset inside an archive, perhaps. */
static bool can_map(const mfi_container *c, uint32_t index)
{
    const uint64_t page = mfi_page_bytes(), bytes = c->directory.region[index].stored_bytes;
    if (c->load != MF_LOAD_MAP) return false;
    for (uint64_t at = 0, offset; at < bytes;) {
        const mfi_piece *piece = mfi_container_piece(c, index, at);
        if (mfi_piece_fd(c, piece, at, &offset) < 0 || offset % page != 0 || at % page != 0) return false;
        at = piece->end;
    }
    return true;
}

/* The address is that of the file modulo a huge page, so that file systems can map huge pages. */
static mf_status load_mapped(loading *l, uint32_t index, const unsigned char **data)
{
    const uint64_t bytes = l->c->directory.region[index].raw_bytes;
    const mfi_piece *piece = mfi_container_piece(l->c, index, 0);
    uint64_t offset;
    mfi_piece_fd(l->c, piece, 0, &offset);
    unsigned char *to = reserve(l, index, (size_t)(offset % HUGE_PAGE));
    if (!to) return MF_E_NOMEM;
    mf_status status = mfi_container_check_files(l->c, index, l->error);
    for (uint64_t at = 0; at < bytes && status == MF_OK; at = piece->end) {
        piece = mfi_container_piece(l->c, index, at);
        const int fd = mfi_piece_fd(l->c, piece, at, &offset);
        status = mfi_map_file_at(to + at, (size_t)(piece->end - at), fd, offset, l->error);
    }
    *data = to;
    return status == MF_OK ? load_in_place(l, index, to) : status;
}

static mf_status load_copied(loading *l, uint32_t index, const unsigned char **data)
{
    const mfi_region *region = &l->c->directory.region[index];
    size_t bytes = (size_t)region->raw_bytes;
    bool verify = verified(l, index);
    unsigned char *at = reserve_memory(l, index);
    if (!at) return MF_E_NOMEM;
    XXH64_state_t hash;
    XXH64_reset(&hash, 0);
    for (size_t done = 0; done < bytes;) {
        size_t piece = mfi_min(bytes - done, CHUNK);
        mf_status status = mfi_region_read(l->c, index, at + done, piece, done, l->error);
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
    uint32_t region;
    const unsigned char *memory; /* all stored bytes of the region, where they are there; else NULL */
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
    d->buffer_bytes = d->memory ? 0 : stored_max * d->round;
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
    const unsigned char *stored = d->memory ? d->memory + stored_at : d->buffer;
    if (!d->memory) {
        mf_status status = mfi_region_read(l->c, d->region, d->buffer, (size_t)*stored_sum, stored_at, l->error);
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

static mf_status decode_rounds(decoding *d, loading *l, unsigned char *raw)
{
    const uint32_t index = d->region;
    const mfi_region *region = &l->c->directory.region[index];
    const uint32_t n_frame = l->c->directory.parts[index].n_frame;
    bool verify = verified(l, index);
    uint64_t stored_at = 0, stored_sum;
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
                            "%s: the weights in region %u cannot be decoded; fetch the file again",
                            mfi_container_blame(l->c, index), index);
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

/* `stored`: all of the region's stored bytes, or NULL where they are still in files. */
static mf_status load_decoded(loading *l, uint32_t index, const unsigned char *stored, const unsigned char **data)
{
    unsigned char *at = reserve_memory(l, index);
    if (!at) return MF_E_NOMEM;
    decoding d = { .region = index, .memory = stored };
    mf_status status = begin_decoding(&d, l, &l->c->directory.parts[index]);
    if (status == MF_OK) status = decode_rounds(&d, l, at);
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

/* NULL: not resident. */
static void set_data(mfi_container *c, uint32_t index, const unsigned char *data)
{
    c->directory.region[index].data = data;
    for (uint32_t i = first_tensor(&c->directory, index);
         i < c->directory.n_tensor && c->directory.tensor[i].region == index; i++)
        c->directory.tensor[i].data = data ? data + c->directory.tensor[i].offset : NULL;
    atomic_store_explicit(&c->residence[index].resident, data != NULL, memory_order_relaxed);
}

static atomic_uint_least64_t *bytes_of(mfi_container *c, uint32_t index)
{
    return c->residence[index].mapped ? &c->mapped_bytes : &c->allocated_bytes;
}

/* What every way of loading ends with. Nothing writes to weights; for a file mapping this is so already. */
static mf_status end_loading(mfi_container *c, uint32_t index, mf_status status, const unsigned char *data)
{
    mfi_residence *residence = &c->residence[index];
    if (status == MF_OK && !residence->mapped && residence->reserved)
        status = mfi_protect_read(residence->reserved, residence->reserved_bytes);
    if (status != MF_OK) {
        release(c, index);
        return status;
    }
    set_data(c, index, data);
    if (residence->reserved)
        atomic_fetch_add_explicit(bytes_of(c, index), c->directory.region[index].raw_bytes, memory_order_relaxed);
    return MF_OK;
}

static mf_status load_region(loading *l, uint32_t index)
{
    mfi_container *c = l->c;
    const unsigned char *in_place = mfi_container_in_place(c, index), *data = in_place;
    const bool raw = c->directory.region[index].storage == MFI_RAW;
    c->residence[index].mapped = raw && can_map(c, index);
    mf_status status;
    if (!raw)
        status = load_decoded(l, index, in_place, &data);
    else if (in_place && c->load == MF_LOAD_MAP)
        status = load_in_place(l, index, in_place);
    else if (c->residence[index].mapped)
        status = load_mapped(l, index, &data);
    else
        status = load_copied(l, index, &data);
    return end_loading(c, index, status, data);
}

/* Of a kind that we know, there, wanted and not loaded yet. */
static bool to_load(const mfi_container *c, uint32_t index, uint32_t shell_count)
{
    const mfi_region *region = &c->directory.region[index];
    return mfi_region_present(c, index) && (region->kind != MFI_REGION_SHELL || region->shell < shell_count) &&
           !region->data;
}

static mf_status load_regions(loading *l, uint32_t shell_count)
{
    const mfi_container *c = l->c;
    for (uint32_t i = 0; i < c->directory.n_region; i++)
        if (to_load(c, i, shell_count)) l->total += c->directory.region[i].raw_bytes;
    mf_status status = advance(l, 0);
    for (uint32_t i = 0; i < c->directory.n_region && status == MF_OK; i++)
        if (to_load(c, i, shell_count)) status = load_region(l, i);
    return status;
}

mf_status mfi_container_load(mfi_container *c, uint32_t shell_count, mf_error *error)
{
    loading l = { .c = c, .error = error, .progress = c->progress, .progress_user = c->progress_user };
    return load_regions(&l, shell_count);
}

mf_status mfi_container_grow(mfi_container *c, uint32_t shell_count, mf_progress progress, void *progress_user,
                             mf_error *error)
{
    loading l = { .c = c, .error = error, .progress = progress, .progress_user = progress_user, .later = true };
    return load_regions(&l, shell_count);
}

mf_status mfi_container_take_fed(mfi_container *c, uint32_t index, void *stored, size_t stored_bytes, mf_error *error)
{
    loading l = { .c = c, .error = error, .later = true };
    const unsigned char *data = stored;
    c->residence[index].mapped = false;
    if (c->directory.region[index].storage == MFI_ZSTD) {
        const mf_status status = load_decoded(&l, index, stored, &data);
        mfi_unreserve(stored, stored_bytes);
        return end_loading(c, index, status, data);
    }
    release(c, index);
    c->residence[index].reserved = stored;
    c->residence[index].reserved_bytes = stored_bytes;
    return end_loading(c, index, MF_OK, data);
}

/* ---- And away again ---- */

static void unload_region(mfi_container *c, uint32_t index)
{
    mfi_residence *residence = &c->residence[index];
    set_data(c, index, NULL);
    if (!residence->reserved) return;
    atomic_fetch_sub_explicit(bytes_of(c, index), c->directory.region[index].raw_bytes, memory_order_relaxed);
    if (!mfi_make_inaccessible(residence->reserved, residence->reserved_bytes)) release(c, index);
}

void mfi_container_trim(mfi_container *c, uint32_t shell_count)
{
    for (uint32_t i = 0; i < c->directory.n_region; i++) {
        const mfi_region *region = &c->directory.region[i];
        if (region->kind == MFI_REGION_SHELL && region->shell >= shell_count && region->data) unload_region(c, i);
    }
}
