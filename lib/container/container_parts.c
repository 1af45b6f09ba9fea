/* container_parts.c - where the stored bytes of regions come from: the container itself, part files, other containers
 * with equal regions. The layout of a part is in docs/container-format.md, "Parts". */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "container_parts.h"
#include "container_read.h"
#include "platform.h"
#include "status.h"

#define CHUNK ((size_t)64 << 10)

_Static_assert(MFI_PART_PAYLOAD == MFI_REGION_ALIGN, "payloads can be mapped, like regions");

/* ---- Pieces ---- */

const mfi_piece *mfi_container_piece(const mfi_container *c, uint32_t region, uint64_t at)
{
    for (uint32_t i = c->n_piece; i-- > 0;) {
        const mfi_piece *piece = &c->piece[i];
        if (piece->region == region && piece->begin <= at && at < piece->end) return piece;
    }
    return NULL;
}

static void find_presence(mfi_container *c, uint32_t region)
{
    uint64_t at = 0;
    const mfi_piece *piece;
    while (at < c->directory.region[region].stored_bytes && (piece = mfi_container_piece(c, region, at)) != NULL)
        at = piece->end;
    atomic_store_explicit(&c->residence[region].present, at >= c->directory.region[region].stored_bytes,
                          memory_order_relaxed);
}

/* Room for one more element of an array, twice as many when it is full. */
static bool make_room(const mf_allocator *allocator, void **array, uint32_t count, uint32_t *room, size_t element_bytes)
{
    if (count < *room) return true;
    const uint32_t more = *room ? *room * 2 : 8;
    void *larger = more > *room ? mfi_alloc_array(allocator, more, element_bytes) : NULL;
    if (!larger) return false;
    if (count) memcpy(larger, *array, count * element_bytes);
    mfi_free(allocator, *array, *room * element_bytes);
    *array = larger;
    *room = more;
    return true;
}

static mf_status add_piece(mfi_container *c, const mfi_piece *piece, mf_error *error)
{
    void *pieces = c->piece;
    if (!make_room(&c->allocator, &pieces, c->n_piece, &c->piece_room, sizeof *c->piece))
        return mfi_fail(error, MF_E_NOMEM, "%s: no memory for another part", c->name);
    c->piece = pieces;
    c->piece[c->n_piece++] = *piece;
    return MF_OK;
}

mf_status mfi_container_own_pieces(mfi_container *c, mf_error *error)
{
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < c->directory.n_region && status == MF_OK; i++) {
        const mfi_region *region = &c->directory.region[i];
        if (!c->directory.parts[i].known || region->file_offset + region->stored_bytes > c->length) continue;
        const mfi_piece piece = { i, MFI_OWN, 0, region->stored_bytes, region->file_offset, 0, false };
        status = add_piece(c, &piece, error);
        if (status == MF_OK) find_presence(c, i);
    }
    return status;
}

/* Leaves out the pieces that `drop` names. */
static void keep_pieces(mfi_container *c, bool (*drop)(mfi_container *c, const mfi_piece *piece, uint32_t which),
                        uint32_t which)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < c->n_piece; i++)
        if (!drop(c, &c->piece[i], which)) c->piece[kept++] = c->piece[i];
    c->n_piece = kept;
}

static bool is_of_store(mfi_container *c, const mfi_piece *piece, uint32_t store)
{
    (void)c;
    return piece->store == store;
}

void mfi_container_forget_source(mfi_container *c)
{
    keep_pieces(c, is_of_store, MFI_OWN);
    for (uint32_t i = 0; i < c->directory.n_region; i++)
        find_presence(c, i);
    c->memory = NULL;
}

void mfi_container_drop_stores(mfi_container *c)
{
    for (uint32_t i = 0; i < c->n_store; i++)
        close(c->store[i].fd);
    mfi_free(&c->allocator, c->store, c->store_room * sizeof *c->store);
    mfi_free(&c->allocator, c->piece, c->piece_room * sizeof *c->piece);
}

/* ---- Their bytes ---- */

int mfi_piece_fd(const mfi_container *c, const mfi_piece *piece, uint64_t at, uint64_t *offset)
{
    const bool own = piece->store == MFI_OWN;
    *offset = (own ? c->fd_offset : c->store[piece->store].offset) + piece->offset + (at - piece->begin);
    return own ? (c->memory ? -1 : c->fd) : c->store[piece->store].fd;
}

static const char *name_of(const mfi_container *c, const mfi_piece *piece)
{
    return piece->store == MFI_OWN ? c->name : c->store[piece->store].name;
}

const unsigned char *mfi_container_in_place(const mfi_container *c, uint32_t region)
{
    const mfi_piece *piece = mfi_container_piece(c, region, 0);
    if (!c->memory || !piece || piece->store != MFI_OWN) return NULL;
    return c->memory + piece->offset;
}

mf_status mfi_region_read(const mfi_container *c, uint32_t region, void *out, size_t bytes, uint64_t at,
                          mf_error *error)
{
    unsigned char *to = out;
    while (bytes > 0) {
        const mfi_piece *piece = mfi_container_piece(c, region, at);
        if (!piece) return mfi_fail(error, MF_E_NOT_FOUND, "%s: region %u is absent", c->name, region);
        const size_t n = piece->end - at < bytes ? (size_t)(piece->end - at) : bytes;
        uint64_t offset;
        const int fd = mfi_piece_fd(c, piece, at, &offset);
        mf_status status = MF_OK;
        if (fd < 0)
            memcpy(to, c->memory + offset, n);
        else
            status = mfi_read_at(fd, to, n, offset, name_of(c, piece), error);
        if (status != MF_OK) return status;
        to += n;
        at += n;
        bytes -= n;
    }
    return MF_OK;
}

uint64_t mfi_container_head_bytes(const mfi_container *c)
{
    return c->directory.region[0].file_offset;
}

mf_status mfi_container_check_files(const mfi_container *c, uint32_t region, mf_error *error)
{
    const mfi_piece *piece;
    for (uint64_t at = 0; at < c->directory.region[region].stored_bytes; at = piece->end) {
        struct stat stat;
        uint64_t offset;
        piece = mfi_container_piece(c, region, at);
        const int fd = mfi_piece_fd(c, piece, at, &offset);
        if (fd < 0) continue;
        if (fstat(fd, &stat) != 0) return mfi_fail(error, MF_E_IO, "%s: %s", name_of(c, piece), strerror(errno));
        if (offset + (piece->end - at) > (uint64_t)stat.st_size)
            return mfi_fail(error, MF_E_IO, "%s: shorter than when it was opened; fetch it again, or open it anew",
                            name_of(c, piece));
    }
    return MF_OK;
}

/* Of a part, whether its bytes are not those that it had when it was made. */
static bool is_damaged(mfi_container *c, const mfi_piece *piece, uint32_t region)
{
    unsigned char *chunk = piece->region == region && piece->has_checksum ? mfi_alloc(&c->allocator, CHUNK) : NULL;
    if (!chunk) return false;
    mf_status status = MF_OK;
    XXH64_state_t hash;
    XXH64_reset(&hash, 0);
    for (uint64_t done = 0; done < piece->end - piece->begin && status == MF_OK;) {
        const uint64_t left = piece->end - piece->begin - done;
        const size_t n = left < CHUNK ? (size_t)left : CHUNK;
        const mfi_store *store = &c->store[piece->store];
        status = mfi_read_at(store->fd, chunk, n, store->offset + piece->offset + done, store->name, NULL);
        XXH64_update(&hash, chunk, n);
        done += n;
    }
    mfi_free(&c->allocator, chunk, CHUNK);
    return status != MF_OK || XXH64_digest(&hash) != piece->checksum;
}

const char *mfi_container_blame(mfi_container *c, uint32_t region)
{
    const char *name = NULL;
    for (uint32_t i = 0; i < c->n_piece && !name; i++)
        if (is_damaged(c, &c->piece[i], region)) name = name_of(c, &c->piece[i]);
    if (name) keep_pieces(c, is_damaged, region);
    find_presence(c, region);
    return name ? name : c->name;
}

/* ---- Attaching ---- */

static mf_status open_store(mfi_store *store, const mfi_container_source *source, mf_error *error)
{
    struct stat stat;
    if (source->path) {
        mfi_container_set_name(store->name, source->path);
        uint64_t length;
        const mf_status status = mfi_open_file(source->path, &store->fd, &length, error);
        if (status != MF_OK) return status;
    } else {
        snprintf(store->name, sizeof store->name, "file descriptor %d", source->fd);
        store->fd = fcntl(source->fd, F_DUPFD_CLOEXEC, 0);
    }
    if (store->fd < 0 || fstat(store->fd, &stat) != 0)
        return mfi_fail(error, MF_E_IO, "%s: %s", store->name, strerror(errno));
    if (!S_ISREG(stat.st_mode)) return mfi_fail(error, MF_E_FORMAT, "%s: not a regular file", store->name);
    const uint64_t size = (uint64_t)stat.st_size, offset = source->path ? 0 : source->offset;
    const uint64_t bytes = source->path ? 0 : source->bytes;
    if (offset > size || bytes > size - offset)
        return mfi_fail(error, MF_E_INVALID, "%s: offset and length reach beyond its end", store->name);
    store->offset = offset;
    store->bytes = bytes ? bytes : size - offset;
    store->device = (uint64_t)stat.st_dev;
    store->inode = (uint64_t)stat.st_ino;
    return MF_OK;
}

typedef struct attaching {
    mfi_container *c;
    mfi_store store;
    mf_error *error;
    uint32_t n_before, n_known; /* pieces before; that the file has and were known already */
} attaching;

/* Of the same bytes of the same file. */
static bool is_known(const attaching *a, const mfi_piece *piece)
{
    for (uint32_t i = 0; i < a->n_before; i++) {
        const mfi_piece *old = &a->c->piece[i];
        if (old->region != piece->region || old->begin != piece->begin || old->end != piece->end ||
            old->offset != piece->offset || old->store == MFI_OWN)
            continue;
        const mfi_store *store = &a->c->store[old->store];
        if (store->device == a->store.device && store->inode == a->store.inode && store->offset == a->store.offset)
            return true;
    }
    return false;
}

static mf_status take_piece(attaching *a, const mfi_piece *piece)
{
    if (is_known(a, piece)) {
        a->n_known++;
        return MF_OK;
    }
    return add_piece(a->c, piece, a->error);
}

/* Our region that is the same bytes for the same purpose, or NO_REGION. */
#define NO_REGION UINT32_MAX
static uint32_t find_region(const mfi_container *c, const mfi_region *wanted)
{
    for (uint32_t i = 0; i < c->directory.n_region; i++) {
        const mfi_region *region = &c->directory.region[i];
        if (c->directory.parts[i].known && region->kind == wanted->kind && region->shell == wanted->shell &&
            region->content_hash == wanted->content_hash && region->checksum == wanted->checksum &&
            region->stored_bytes == wanted->stored_bytes)
            return i;
    }
    return NO_REGION;
}

/* Another container: those of its regions that are ours too. */
static mf_status attach_container(attaching *a)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    const mfi_container_source source = { .fd = a->store.fd, .offset = a->store.offset, .bytes = a->store.bytes };
    mfi_container *other;
    options.allocator = a->c->allocator;
    mf_status status = mfi_container_open(&other, &source, &options, a->error);
    if (status != MF_OK) return status;
    for (uint32_t i = 0; i < other->directory.n_region && status == MF_OK; i++) {
        const mfi_region *region = &other->directory.region[i];
        if (!mfi_region_present(other, i)) continue;
        const uint32_t ours = find_region(a->c, region);
        const mfi_piece piece = { ours, a->c->n_store, 0, region->stored_bytes, region->file_offset, 0, false };
        if (ours != NO_REGION) status = take_piece(a, &piece);
    }
    mfi_container_close(other);
    return status;
}

#define DAMAGED(a, what) \
    mfi_fail((a)->error, MF_E_FORMAT, "%s: a damaged part: %s; fetch it again", (a)->store.name, what)

/* A segment's extents, by themselves: `end` is where the one before ended. */
static bool segment_fits(const mfi_part_segment *s, uint64_t end, uint64_t file_bytes)
{
    const uint64_t place = (end + MFI_REGION_ALIGN - 1) & ~(uint64_t)(MFI_REGION_ALIGN - 1);
    if (s->offset != place || s->offset > file_bytes || s->bytes == 0 || s->bytes > file_bytes - s->offset)
        return false;
    if (s->begin % MFI_REGION_ALIGN != 0 || s->begin > s->region_bytes || s->bytes > s->region_bytes - s->begin)
        return false;
    return s->bytes == s->region_bytes - s->begin || s->bytes % MFI_REGION_ALIGN == 0;
}

static mf_status attach_segments(attaching *a, const mfi_part_header *header, const mfi_part_segment *segment)
{
    uint64_t end = MFI_PART_PAYLOAD;
    for (uint32_t i = 0; i < header->segment_count; i++) {
        const mfi_part_segment *s = &segment[i];
        if (!segment_fits(s, end, a->store.bytes)) return DAMAGED(a, "it is not as long as its header says");
        end = s->offset + s->bytes;
        const mfi_region wanted = { .kind = (mfi_region_kind)s->kind,
                                    .shell = s->shell,
                                    .content_hash = s->content_hash,
                                    .checksum = s->region_checksum,
                                    .stored_bytes = s->region_bytes };
        const uint32_t region = find_region(a->c, &wanted);
        if (region == NO_REGION)
            return mfi_fail(a->error, MF_E_FORMAT, "%s: a part of another model, or of other weights, than %s",
                            a->store.name, a->c->name);
        const mfi_piece piece = { region, a->c->n_store, s->begin, s->begin + s->bytes, s->offset, s->checksum, true };
        const mf_status status = take_piece(a, &piece);
        if (status != MF_OK) return status;
    }
    return end == a->store.bytes ? MF_OK : DAMAGED(a, "it is not as long as its header says");
}

static bool header_holds(const mfi_part_header *header, const void *block)
{
    for (size_t i = 0; i < MFI_COUNT(header->zeros); i++)
        if (header->zeros[i] != 0) return false;
    if (header->segment_count == 0 || header->segment_count > MFI_PART_SEGMENTS) return false;
    const size_t from = offsetof(mfi_part_header, version);
    return header->checksum == mfi_hash((const unsigned char *)block + from,
                                        sizeof *header - from + header->segment_count * sizeof(mfi_part_segment));
}

static mf_status attach_part(attaching *a)
{
    if (a->store.bytes < MFI_PART_PAYLOAD) return DAMAGED(a, "it ends within its header");
    void *block = mfi_alloc(&a->c->allocator, MFI_PART_PAYLOAD);
    if (!block) return mfi_fail(a->error, MF_E_NOMEM, "%s: no memory for a part's header", a->store.name);
    const mfi_part_header *header = block;
    mf_status status = mfi_read_at(a->store.fd, block, MFI_PART_PAYLOAD, a->store.offset, a->store.name, a->error);
    if (status == MF_OK && header->version != MFI_PART_VERSION)
        status =
            mfi_fail(a->error, MF_E_UNSUPPORTED, "%s: version %u of the format of parts, and this library reads %u",
                     a->store.name, header->version, MFI_PART_VERSION);
    if (status == MF_OK && !header_holds(header, block))
        status = mfi_fail(a->error, MF_E_CHECKSUM, "%s: the header is damaged; fetch the part again", a->store.name);
    if (status == MF_OK) status = attach_segments(a, header, (const mfi_part_segment *)(header + 1));
    mfi_free(&a->c->allocator, block, MFI_PART_PAYLOAD);
    return status;
}

/* Whatever the file is, it is another store already; it gets none of the pieces unless all of it is good. */
static mf_status attach_store(attaching *a)
{
    mfi_container *c = a->c;
    char magic[8] = { 0 };
    if (a->store.bytes < sizeof magic)
        return mfi_fail(a->error, MF_E_FORMAT, "%s: too short for a part of a model", a->store.name);
    mf_status status = mfi_read_at(a->store.fd, magic, sizeof magic, a->store.offset, a->store.name, a->error);
    if (status != MF_OK) return status;
    if (memcmp(magic, MFI_PART_MAGIC, sizeof magic) == 0)
        status = attach_part(a);
    else if (memcmp(magic, MFI_MAGIC, sizeof magic) == 0)
        status = attach_container(a);
    else
        status = mfi_fail(a->error, MF_E_FORMAT, "%s: neither a part of a model nor a .mf file", a->store.name);
    if (status == MF_OK && c->n_piece == a->n_before && a->n_known == 0)
        status = mfi_fail(a->error, MF_E_FORMAT, "%s: has no region of %s", a->store.name, c->name);
    return status;
}

mf_status mfi_container_attach(mfi_container *c, const mfi_container_source *source, mf_error *error)
{
    attaching a = { .c = c, .error = error, .n_before = c->n_piece, .store = { .fd = -1 } };
    void *stores = c->store;
    mf_status status = open_store(&a.store, source, error);
    if (status == MF_OK && !make_room(&c->allocator, &stores, c->n_store, &c->store_room, sizeof *c->store))
        status = mfi_fail(error, MF_E_NOMEM, "%s: no memory for another part", c->name);
    c->store = stores;
    if (status == MF_OK) status = attach_store(&a);
    if (status != MF_OK) c->n_piece = a.n_before;
    if (c->n_piece == a.n_before) {
        if (a.store.fd >= 0) close(a.store.fd);
        return status;
    }
    c->store[c->n_store++] = a.store;
    for (uint32_t i = a.n_before; i < c->n_piece; i++)
        if (i + 1 == c->n_piece || c->piece[i + 1].region != c->piece[i].region) find_presence(c, c->piece[i].region);
    return MF_OK;
}

/* What names of parts beside `path` begin with, and the folder that they are in. */
static mf_status find_prefix(const char *path, char *folder, size_t folder_bytes, char *prefix, size_t prefix_bytes)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    const size_t length = strlen(name),
                 stem = length > 3 && strcmp(name + length - 3, ".mf") == 0 ? length - 3 : length;
    const int in_folder = slash ? (int)(slash == path ? 1 : slash - path) : 1;
    const int a = snprintf(folder, folder_bytes, "%.*s", in_folder, slash ? path : ".");
    const int b = snprintf(prefix, prefix_bytes, "%.*s.", (int)stem, name);
    return a < 0 || b < 0 || (size_t)a >= folder_bytes || (size_t)b >= prefix_bytes ? MF_E_CAPACITY : MF_OK;
}

typedef struct search {
    mfi_container *c;
    mf_log log;
    void *log_user;
    mf_error *first;
} search;

static void attach_found(void *user, const char *path)
{
    const search *s = user;
    mf_error error = MF_ERROR_INIT;
    const mfi_container_source source = { .path = path, .fd = -1 };
    if (mfi_container_attach(s->c, &source, &error) == MF_OK) return;
    if (s->first->status == MF_OK) *s->first = error;
    if (s->log) s->log(s->log_user, 1, error.detail);
}

void mfi_container_attach_beside(mfi_container *c, const char *path, mf_log log, void *log_user, mf_error *first)
{
    char folder[1024], prefix[512];
    search s = { c, log, log_user, first };
    *first = (mf_error)MF_ERROR_INIT;
    if (find_prefix(path, folder, sizeof folder, prefix, sizeof prefix) == MF_OK)
        mfi_list_files(folder, prefix, MFI_PART_SUFFIX, attach_found, &s);
}

/* ---- Making parts ---- */

uint64_t mfi_part_lay_out(mfi_part_piece *piece, uint32_t n_piece)
{
    uint64_t end = MFI_PART_PAYLOAD;
    for (uint32_t i = 0; i < n_piece; i++) {
        piece[i].offset = (end + MFI_REGION_ALIGN - 1) & ~(uint64_t)(MFI_REGION_ALIGN - 1);
        end = piece[i].offset + piece[i].bytes;
    }
    return end;
}

void mfi_part_encode(unsigned char out[MFI_PART_PAYLOAD], const mfi_container *c, const mfi_part_piece *piece,
                     uint32_t n_piece)
{
    mfi_part_header header = { .version = MFI_PART_VERSION, .segment_count = n_piece };
    const size_t from = offsetof(mfi_part_header, version);
    memset(out, 0, MFI_PART_PAYLOAD);
    for (uint32_t i = 0; i < n_piece; i++) {
        const mfi_region *region = &c->directory.region[piece[i].region];
        const mfi_part_segment segment = { region->kind,     region->shell,        region->content_hash,
                                           region->checksum, region->stored_bytes, piece[i].begin,
                                           piece[i].bytes,   piece[i].offset,      piece[i].checksum };
        memcpy(out + sizeof header + i * sizeof segment, &segment, sizeof segment);
    }
    memcpy(header.magic, MFI_PART_MAGIC, sizeof header.magic);
    memcpy(out, &header, sizeof header);
    header.checksum = mfi_hash(out + from, sizeof header - from + n_piece * sizeof(mfi_part_segment));
    memcpy(out, &header, sizeof header);
}

/* ---- Names ---- */

/* "tables", "shell1", "tables-shell2", "shell1-2". */
static void name_regions(char out[64], const mfi_region *first, const mfi_region *last)
{
    char from[24] = "tables";
    if (first->kind == MFI_REGION_SHELL) snprintf(from, sizeof from, "shell%u", first->shell);
    if (first == last)
        snprintf(out, 64, "%s", from);
    else
        snprintf(out, 64, "%s-%s%u", from, first->kind == MFI_REGION_SHELL ? "" : "shell", last->shell);
}

mf_status mfi_part_name(char *out, size_t capacity, const mfi_container *c, const char *path, uint32_t first,
                        uint32_t last, uint32_t index, uint32_t n)
{
    char folder[1024], prefix[512], regions[64], which[32] = "";
    if (find_prefix(path, folder, sizeof folder, prefix, sizeof prefix) != MF_OK) return MF_E_CAPACITY;
    name_regions(regions, &c->directory.region[first], &c->directory.region[last]);
    if (n > 1) snprintf(which, sizeof which, ".%uof%u", index + 1, n);
    const bool plain = strchr(path, '/') == NULL;
    const int length = snprintf(out, capacity, "%s%s%s%s%s" MFI_PART_SUFFIX, plain ? "" : folder,
                                plain || strcmp(folder, "/") == 0 ? "" : "/", prefix, regions, which);
    return length < 0 || (size_t)length >= capacity ? MF_E_CAPACITY : MF_OK;
}
