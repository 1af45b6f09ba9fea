/* session_file.c - a timeline as a file.
 *
 *     "MFSESS1" NUL | version u32 = 1 | cache type u32 | model's content hash u64
 *     position u32 | n_slot u32 | page_bytes u64 | kv_heads u16 [n_slot] | tokens i32 [position]
 *     pages: slot after slot, those that hold a position; slots of skipped layers have none
 *     XXH64 of everything before it
 *
 * Little-endian, nothing padded. Unfilled positions of a last page are written as zeros. */
#define _POSIX_C_SOURCE 200809L
#define XXH_STATIC_LINKING_ONLY /* the hash state on the stack */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "defs.h"
#include "platform.h"
#include "session.h"
#include "status.h"

enum { FIXED_BYTES = 8 + 4 + 4 + 8 + 4 + 4 + 8, HASH_BYTES = 8, VERSION = 1 };
static const char magic[8] = "MFSESS1";

static unsigned char *put(unsigned char *at, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        at[i] = (unsigned char)(value >> (8 * i));
    return at + bytes;
}

static uint64_t get(const unsigned char **at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)(*at)[i] << (8 * i);
    *at += bytes;
    return value;
}

/* Of the fixed part, the head counts and the tokens. */
static size_t header_bytes(const mf_session *session, uint32_t position)
{
    return FIXED_BYTES + 2 * (size_t)session->cache.n_slot + 4 * (size_t)position;
}

static void put_header(unsigned char *at, const mf_session *session)
{
    const mfi_kv_cache *cache = &session->cache;
    memcpy(at, magic, sizeof magic);
    at = put(at + sizeof magic, VERSION, 4);
    at = put(at, (uint64_t)cache->type, 4);
    at = put(at, mfi_container_content_hash(session->model->container), 8);
    at = put(at, session->position, 4);
    at = put(at, cache->n_slot, 4);
    at = put(at, session->model->page_bytes[cache->type], 8);
    for (uint32_t slot = 0; slot < cache->n_slot; slot++)
        at = put(at, cache->is_written ? cache->kv_heads[slot] : 0, 2);
    for (uint32_t i = 0; i < session->position; i++)
        at = put(at, (uint32_t)session->tokens[i], 4);
}

/* Zeros the positions of a page from `filled` on. */
static void clear_tail(const mf_session *session, unsigned char *page, uint32_t filled)
{
    const size_t value_offset = session->model->value_offset_bytes[session->cache.type];
    const size_t d_head = session->model->program->d_head, empty = MFK_PAGE - filled;
    const mfk_type type = mfi_cache_element(session->cache.type);
    const size_t block_bytes = mfk_cache_block_bytes(type, d_head);
    const size_t element = type == MFK_F32 ? 4 : type == MFK_BF16 ? 2 : 1, scales = d_head * MFK_PAGE * element;
    for (unsigned char *keys = page; keys < page + value_offset; keys += block_bytes) {
        unsigned char *values = keys + value_offset;
        for (size_t d = 0; d < d_head; d++)
            memset(keys + (d * MFK_PAGE + filled) * element, 0, empty * element);
        memset(values + filled * d_head * element, 0, empty * d_head * element);
        if (scales == block_bytes) continue;
        memset(keys + scales + filled * sizeof(float), 0, empty * sizeof(float));
        memset(values + scales + filled * sizeof(float), 0, empty * sizeof(float));
    }
}

typedef struct output {
    mfi_new_file file;
    XXH64_state_t *hash;
} output;

static mf_status write_hashed(output *out, const void *data, size_t bytes, mf_error *error)
{
    XXH64_update(out->hash, data, bytes);
    return mfi_new_file_write(&out->file, data, bytes, error);
}

/* `page` is room for one. */
static mf_status write_pages(output *out, const mf_session *session, unsigned char *page, mf_error *error)
{
    const mfi_kv_cache *cache = &session->cache;
    const size_t page_bytes = session->model->page_bytes[cache->type];
    mf_status status = MF_OK;
    for (uint32_t slot = 0; slot < cache->n_slot && cache->is_written; slot++) {
        if (cache->kv_heads[slot] == 0) continue;
        for (uint32_t i = 0; i < mfi_pages_of(session->position) && status == MF_OK; i++) {
            const uint32_t filled = session->position - i * MFK_PAGE;
            memcpy(page, cache->slot[slot][i], page_bytes);
            if (filled < MFK_PAGE) clear_tail(session, page, filled);
            status = write_hashed(out, page, page_bytes, error);
        }
    }
    return status;
}

static mf_status write_all(output *out, const mf_session *session, unsigned char *buffer, mf_error *error)
{
    unsigned char hash[HASH_BYTES];
    XXH64_reset(out->hash, 0);
    put_header(buffer, session);
    mf_status status = write_hashed(out, buffer, header_bytes(session, session->position), error);
    if (status == MF_OK) status = write_pages(out, session, buffer, error);
    put(hash, XXH64_digest(out->hash), HASH_BYTES);
    if (status == MF_OK) status = mfi_new_file_write(&out->file, hash, HASH_BYTES, error);
    if (status == MF_OK) status = mfi_new_file_commit(&out->file, error);
    return status;
}

mf_status mfi_session_save(const mf_session *session, const char *path, mf_error *error)
{
    const mf_allocator *allocator = &session->model->allocator;
    const size_t buffer_bytes =
        mfi_max(header_bytes(session, session->position), session->model->page_bytes[session->cache.type]);
    XXH64_state_t hash;
    output out = { .hash = &hash };
    unsigned char *buffer = mfi_alloc(allocator, buffer_bytes);
    if (buffer == NULL) return mfi_fail(error, MF_E_NOMEM, "no memory to save a session");
    mf_status status = mfi_new_file_open(&out.file, path, error);
    if (status == MF_OK) {
        status = write_all(&out, session, buffer, error);
        mfi_new_file_abort(&out.file);
    }
    mfi_free(allocator, buffer, buffer_bytes);
    return status;
}

/* ---- Loading ---- */

/* What the header says, checked against the session and against the file's length. */
typedef struct header {
    uint32_t position;
    uint16_t *kv_heads; /* [n_slot] */
    const unsigned char *tokens, *pages;
} header;

static mf_status read_fixed(header *h, const mf_session *session, const unsigned char **at, const char *path,
                            mf_error *error)
{
    const mf_model *model = session->model;
    *at += sizeof magic;
    if (get(at, 4) != VERSION) return mfi_fail(error, MF_E_UNSUPPORTED, "%s was saved by another version", path);
    const bool same_type = get(at, 4) == (uint64_t)session->cache.type;
    const bool same_model = get(at, 8) == mfi_container_content_hash(model->container);
    h->position = (uint32_t)get(at, 4);
    const bool same_shape = get(at, 4) == session->cache.n_slot;
    if (get(at, 8) != model->page_bytes[session->cache.type] || !same_type || !same_shape)
        return mfi_fail(error, MF_E_FORMAT, "%s was saved with another cache type or shape", path);
    if (!same_model) return mfi_fail(error, MF_E_FORMAT, "%s was saved with another model", path);
    if (h->position > session->max_positions)
        return mfi_fail(error, MF_E_FULL, "%s has %u positions; this session holds %u", path, h->position,
                        session->max_positions);
    return MF_OK;
}

/* `kv_heads` is room for n_slot. */
static mf_status read_header(header *h, const mf_session *session, const unsigned char *data, size_t bytes,
                             const char *path, mf_error *error)
{
    const mf_model *model = session->model;
    const size_t body = bytes - HASH_BYTES;
    const unsigned char *at = data + body;
    if (body < sizeof magic || memcmp(data, magic, sizeof magic) != 0)
        return mfi_fail(error, MF_E_FORMAT, "%s is not a saved session", path);
    if (get(&at, HASH_BYTES) != XXH64(data, body, 0)) return mfi_fail(error, MF_E_CHECKSUM, "%s is damaged", path);
    at = data;
    mf_status status = read_fixed(h, session, &at, path, error);
    if (status != MF_OK) return status;
    if (body < header_bytes(session, h->position)) return mfi_fail(error, MF_E_FORMAT, "%s is cut short", path);
    size_t n_page = 0;
    for (uint32_t slot = 0; slot < session->cache.n_slot; slot++) {
        const uint32_t most =
            mfi_kv_heads(model->program->layer[model->program->slot_layer[slot]].n_head, model->program->head_group);
        h->kv_heads[slot] = (uint16_t)get(&at, 2);
        if (h->kv_heads[slot] > most) return mfi_fail(error, MF_E_FORMAT, "%s: too many key/value heads", path);
        if (h->kv_heads[slot] > 0) n_page += mfi_pages_of(h->position);
    }
    h->tokens = at;
    h->pages = data + header_bytes(session, h->position);
    for (uint32_t i = 0; i < h->position; i++) {
        const int32_t token = (int32_t)(uint32_t)get(&at, 4);
        if (token < -1 || token >= (int64_t)model->program->n_vocab)
            return mfi_fail(error, MF_E_FORMAT, "%s: token %u is out of range", path, i);
    }
    if ((body - header_bytes(session, h->position)) / model->page_bytes[session->cache.type] != n_page ||
        (body - header_bytes(session, h->position)) % model->page_bytes[session->cache.type] != 0)
        return mfi_fail(error, MF_E_FORMAT, "%s: its length does not fit its %u positions", path, h->position);
    return MF_OK;
}

/* The checked file into the session; fails only for want of pages, before anything was changed. */
static mf_status take_over(mf_session *session, const header *h, mf_error *error)
{
    mfi_kv_cache *cache = &session->cache;
    const size_t page_bytes = session->model->page_bytes[cache->type];
    mfi_kv_cache fresh;
    mf_status status = mfi_kv_create(&fresh, session->model, cache->type, session->max_positions, error);
    if (status == MF_OK) status = mfi_kv_fill(&fresh, h->kv_heads, h->position, error);
    if (status != MF_OK) {
        mfi_kv_destroy(&fresh);
        return status;
    }
    const unsigned char *from = h->pages;
    for (uint32_t slot = 0; slot < cache->n_slot; slot++) {
        for (uint32_t i = 0; h->kv_heads[slot] > 0 && i < mfi_pages_of(h->position); i++, from += page_bytes)
            memcpy(fresh.slot[slot][i], from, page_bytes);
    }
    mfi_kv_destroy(cache);
    *cache = fresh;
    session->position = h->position;
    const unsigned char *token = h->tokens;
    for (uint32_t i = 0; i < h->position; i++)
        session->tokens[i] = (int32_t)(uint32_t)get(&token, 4);
    return MF_OK;
}

static mf_status read_file(int fd, unsigned char **data, size_t *bytes, const mf_allocator *allocator,
                           const mf_session *session, const char *path, mf_error *error)
{
    struct stat info;
    const uint64_t most =
        header_bytes(session, session->max_positions) + HASH_BYTES +
        (uint64_t)session->cache.n_slot * session->cache.max_pages * session->model->page_bytes[session->cache.type];
    if (fstat(fd, &info) != 0) return mfi_fail(error, MF_E_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_size < FIXED_BYTES + HASH_BYTES || (uint64_t)info.st_size > most)
        return mfi_fail(error, MF_E_FORMAT, "%s is not a saved session that fits here", path);
    *bytes = (size_t)info.st_size;
    *data = mfi_alloc(allocator, *bytes);
    if (*data == NULL) return mfi_fail(error, MF_E_NOMEM, "no memory to read %s", path);
    return mfi_read_at(fd, *data, *bytes, 0, path, error);
}

mf_status mfi_session_load(mf_session *session, const char *path, mf_error *error)
{
    const mf_allocator *allocator = &session->model->allocator;
    const size_t heads_bytes = session->cache.n_slot * sizeof(uint16_t);
    unsigned char *data = NULL;
    size_t bytes = 0;
    header h = { 0 };
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to wait on a FIFO */
    if (fd < 0) return mfi_fail(error, errno == ENOENT ? MF_E_NOT_FOUND : MF_E_IO, "%s: %s", path, strerror(errno));
    mf_status status = read_file(fd, &data, &bytes, allocator, session, path, error);
    close(fd);
    if (status == MF_OK) {
        h.kv_heads = mfi_alloc(allocator, heads_bytes);
        status = h.kv_heads == NULL ? mfi_fail(error, MF_E_NOMEM, "no memory to read %s", path)
                                    : read_header(&h, session, data, bytes, path, error);
    }
    if (status == MF_OK) status = take_over(session, &h, error);
    mfi_free(allocator, h.kv_heads, heads_bytes);
    mfi_free(allocator, data, bytes);
    return status;
}
