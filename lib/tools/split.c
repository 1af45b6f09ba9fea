/* split.c - a .mf file to a head and parts, region by region. Bytes are copied as they are stored. */
#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "arena.h"
#include "container_parts.h"
#include "defs.h"
#include "matformer_tools.h"
#include "platform.h"
#include "status.h"

#define CHUNK ((size_t)4 << 20)
#define MAX_PACKED 64u /* regions in one part */

typedef struct splitter {
    mfi_container *c;
    const mf_split_options *options;
    const char *out;
    unsigned char *chunk;
    uint64_t done, total;
    mf_error *error;
} splitter;

static const mfi_region *region_at(const splitter *s, uint32_t index)
{
    return mfi_container_region(s->c, index);
}

static uint64_t limit_of(const splitter *s)
{
    return s->options->max_bytes ? s->options->max_bytes : UINT64_MAX;
}

static mf_status advance(splitter *s, uint64_t bytes)
{
    s->done += bytes;
    if (!s->options->progress || s->options->progress(s->options->progress_user, s->done, s->total) == 0) return MF_OK;
    return mfi_fail(s->error, MF_E_CANCELLED, "%s: writing was cancelled", s->out);
}

/* ---- Bytes ---- */

/* Bytes [begin, begin + bytes) of a region, to `file` at `offset`, or nowhere (NULL); and their hash. */
static mf_status copy_bytes(splitter *s, const mfi_part_piece *piece, mfi_new_file *file, uint64_t *hash)
{
    XXH64_state_t state;
    XXH64_reset(&state, 0);
    for (uint64_t done = 0; done < piece->bytes;) {
        const size_t n = (size_t)(piece->bytes - done < CHUNK ? piece->bytes - done : CHUNK);
        mf_status status = mfi_region_read(s->c, piece->region, s->chunk, n, piece->begin + done, s->error);
        if (status == MF_OK && file) status = mfi_new_file_write_at(file, s->chunk, n, piece->offset + done, s->error);
        if (status == MF_OK) status = advance(s, n);
        if (status != MF_OK) return status;
        XXH64_update(&state, s->chunk, n);
        done += n;
    }
    *hash = XXH64_digest(&state);
    return MF_OK;
}

static mf_status check_whole(const splitter *s, const mfi_part_piece *piece, uint64_t hash)
{
    const mfi_region *region = region_at(s, piece->region);
    if (piece->bytes < region->stored_bytes || hash == region->checksum) return MF_OK;
    return mfi_fail(s->error, MF_E_CHECKSUM, "%s: the weights in region %u are damaged; fetch the file again",
                    mfi_container_name(s->c), piece->region);
}

static void tell(const splitter *s, const char *path, uint64_t bytes)
{
    if (s->options->on_file) s->options->on_file(s->options->on_file_user, path, bytes);
}

static mf_status commit(const splitter *s, mfi_new_file *file, mf_status status, uint64_t bytes)
{
    if (status == MF_OK) status = mfi_new_file_commit(file, s->error);
    if (status == MF_OK)
        tell(s, file->path, bytes);
    else
        mfi_new_file_abort(file);
    return status;
}

/* ---- Files ---- */

static mf_status write_part(splitter *s, const char *path, mfi_part_piece *piece, uint32_t n_piece)
{
    mfi_new_file file;
    const uint64_t bytes = mfi_part_lay_out(piece, n_piece);
    mf_status status = mfi_new_file_open(&file, path, s->error);
    if (status != MF_OK) return status;
    for (uint32_t i = 0; i < n_piece && status == MF_OK; i++) {
        status = copy_bytes(s, &piece[i], &file, &piece[i].checksum);
        if (status == MF_OK) status = check_whole(s, &piece[i], piece[i].checksum);
    }
    mfi_part_encode(s->chunk, s->c, piece, n_piece);
    if (status == MF_OK) status = mfi_new_file_write_at(&file, s->chunk, MFI_PART_PAYLOAD, 0, s->error);
    return commit(s, &file, status, bytes);
}

/* Header and slots as they are, then regions 0 to `last`. */
static mf_status write_head(splitter *s, uint32_t last)
{
    mfi_new_file file;
    const uint64_t head = mfi_container_head_bytes(s->c);
    mf_status status = mfi_new_file_open(&file, s->out, s->error);
    if (status != MF_OK) return status;
    for (uint64_t at = 0; at < head && status == MF_OK; at += CHUNK) {
        const size_t n = (size_t)(head - at < CHUNK ? head - at : CHUNK);
        status = mfi_container_fetch(s->c, s->chunk, n, at, s->error);
        if (status == MF_OK) status = mfi_new_file_write_at(&file, s->chunk, n, at, s->error);
    }
    for (uint32_t i = 0; i <= last && status == MF_OK; i++) {
        const mfi_region *region = region_at(s, i);
        const mfi_part_piece piece = { i, 0, region->stored_bytes, region->file_offset, 0 };
        uint64_t hash;
        status = copy_bytes(s, &piece, &file, &hash);
        if (status == MF_OK) status = check_whole(s, &piece, hash);
    }
    return commit(s, &file, status, region_at(s, last)->file_offset + region_at(s, last)->stored_bytes);
}

static mf_status name_part(const splitter *s, char path[4096], uint32_t first, uint32_t last, uint32_t index,
                           uint32_t n)
{
    if (mfi_part_name(path, 4096, s->c, s->out, first, last, index, n) == MF_OK) return MF_OK;
    return mfi_fail(s->error, MF_E_IO, "%.100s...: the path is too long for a part's name", s->out);
}

/* ---- Which go where ---- */

/* The most bytes of a region that a part can have where it is cut. */
static uint64_t piece_room(const splitter *s)
{
    return limit_of(s) < 2 * MFI_PART_PAYLOAD ? 0
                                              : limit_of(s) / MFI_PART_PAYLOAD * MFI_PART_PAYLOAD - MFI_PART_PAYLOAD;
}

static bool is_cut(const splitter *s, uint32_t region)
{
    return region_at(s, region)->stored_bytes > limit_of(s) - MFI_PART_PAYLOAD;
}

static mf_status write_cut(splitter *s, uint32_t region)
{
    const uint64_t bytes = region_at(s, region)->stored_bytes, room = piece_room(s);
    const uint32_t n = (uint32_t)((bytes + room - 1) / room);
    mfi_part_piece whole = { region, 0, bytes, 0, 0 };
    mf_status status = copy_bytes(s, &whole, NULL, &whole.checksum); /* before a piece gets its name */
    if (status == MF_OK) status = check_whole(s, &whole, whole.checksum);
    for (uint32_t i = 0; i < n && status == MF_OK; i++) {
        char path[4096];
        mfi_part_piece piece = { region, i * room, room < bytes - i * room ? room : bytes - i * room, 0, 0 };
        status = name_part(s, path, region, region, i, n);
        if (status == MF_OK) status = write_part(s, path, &piece, 1);
    }
    return status;
}

/* Regions from `first` on that go into one part. */
static uint32_t choose_pieces(const splitter *s, uint32_t first, mfi_part_piece piece[MAX_PACKED])
{
    const uint32_t n_region = mfi_container_region_count(s->c);
    uint32_t n = 0;
    do {
        piece[n] = (mfi_part_piece){ first + n, 0, region_at(s, first + n)->stored_bytes, 0, 0 };
        n++;
    } while (s->options->pack && n < MAX_PACKED && first + n < n_region && !is_cut(s, first + n) &&
             mfi_part_lay_out(piece, n) + 2 * MFI_PART_PAYLOAD + region_at(s, first + n)->stored_bytes <= limit_of(s));
    return n;
}

static mf_status write_parts(splitter *s, uint32_t first)
{
    mf_status status = MF_OK;
    for (uint32_t i = first, n; i < mfi_container_region_count(s->c) && status == MF_OK; i += n) {
        char path[4096];
        mfi_part_piece piece[MAX_PACKED];
        n = 1;
        if (is_cut(s, i)) {
            status = write_cut(s, i);
            continue;
        }
        n = choose_pieces(s, i, piece);
        status = name_part(s, path, i, i + n - 1, 0, 1);
        if (status == MF_OK) status = write_part(s, path, piece, n);
    }
    return status;
}

/* The last region of the head. */
static uint32_t choose_head(const splitter *s)
{
    const uint32_t n_region = mfi_container_region_count(s->c);
    uint32_t last = 0;
    while (s->options->pack && last + 1 < n_region &&
           region_at(s, last + 1)->file_offset + region_at(s, last + 1)->stored_bytes <= limit_of(s))
        last++;
    return last;
}

/* ---- The whole ---- */

static mf_status check(splitter *s)
{
    const mfi_region *base = region_at(s, 0);
    const uint64_t head = base->file_offset + base->stored_bytes;
    for (uint32_t i = 0; i < mfi_container_region_count(s->c); i++) {
        if (!mfi_region_known(s->c, i))
            return mfi_fail(s->error, MF_E_UNSUPPORTED, "%s: region %u is of a kind that this version does not know",
                            mfi_container_name(s->c), i);
        if (!mfi_region_present(s->c, i))
            return mfi_fail(s->error, MF_E_FORMAT, "%s: region %u is neither in the file nor in a part beside it",
                            mfi_container_name(s->c), i);
        s->total += region_at(s, i)->stored_bytes * (i > 0 && is_cut(s, i) ? 2 : 1);
    }
    if (head <= limit_of(s) && piece_room(s) > 0) return MF_OK;
    return mfi_fail(s->error, MF_E_INVALID,
                    "%s: what every width needs is %llu bytes, and no file may have more than %llu; allow more, or "
                    "convert the model to a smaller type first",
                    mfi_container_name(s->c), (unsigned long long)head, (unsigned long long)limit_of(s));
}

static mf_status split(splitter *s)
{
    mf_status status = check(s);
    if (status != MF_OK) return status;
    s->chunk = mfi_alloc(&s->options->allocator, CHUNK);
    if (!s->chunk) return mfi_fail(s->error, MF_E_NOMEM, "no memory to copy weights");
    const uint32_t last = choose_head(s);
    status = write_parts(s, last + 1);
    if (status == MF_OK) status = write_head(s, last);
    mfi_free(&s->options->allocator, s->chunk, CHUNK);
    return status;
}

mf_status mf_split(const char *path, const char *out, const mf_split_options *options, mf_error *error)
{
    if (!path || !out || !out[0]) return mfi_fail(error, MF_E_INVALID, "path or out is NULL or empty");
    mf_split_options o = { 0 };
    mf_status status = mfi_read_options(&o, sizeof o, MFI_FIRST_BYTES(mf_split_options, allocator), options,
                                        "mf_split_options", error);
    if (status != MF_OK) return status;
    o.allocator = mfi_allocator(&o.allocator);
    splitter s = { .options = &o, .out = out, .error = error };
    mf_model_options open = MF_MODEL_OPTIONS_INIT;
    const mfi_container_source source = { .path = path, .fd = -1 };
    mf_error beside;
    open.allocator = o.allocator;
    status = mfi_container_open(&s.c, &source, &open, error);
    if (status != MF_OK) return status;
    mfi_container_attach_beside(s.c, path, NULL, NULL, &beside);
    status = split(&s);
    mfi_container_close(s.c);
    return status;
}
