/* tokenizer.c - the blob, the cut into pieces, and merging inside a piece. */
#include "tokenizer.h"

#include <stdbool.h>
#include <string.h>

#include "defs.h"
#include "status.h"

#define BLOB_VERSION 1u
#define BLOB_RULE 1u
#define BLOB_HEADER_BYTES 24u
#define MAX_TEXT_BYTES (16u << 20) /* of all tokens together: a blob cannot ask for more memory than this */
#define SHORT_PIECE 128u
#define NO_MERGE UINT32_MAX
#define NO_NODE UINT32_MAX

struct mfi_tokenizer {
    mf_allocator allocator;
    size_t arena_bytes, text_bytes;
    uint32_t n_merge, n_special;
    int32_t eos;
    /* Merges in the order of (left, right): those of a left token are [first[left], first[left + 1]), found by
     * bisection. A hash table would be as quick, but a hostile file could make its chains long. */
    uint32_t *first;   /* [256 + n_merge + 1] */
    uint32_t *right;   /* [n_merge] */
    uint32_t *rank;    /* [n_merge] which merge it is; lower ones happen first */
    uint32_t *text_at; /* [256 + n_merge + 1] where a token's bytes begin in text */
    char *text;        /* [text_bytes] */
};

/* ---- The blob ---- */

static uint32_t load_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void store_u32(unsigned char *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(value >> (8 * i));
}

mf_status mfi_tokenizer_store(void **out, size_t *bytes, const mf_allocator *allocator, const mfi_merge *merges,
                              uint32_t n_merge, int end_of_text, mf_error *error)
{
    *out = NULL;
    if (n_merge > MFI_MAX_VOCAB - MFI_BYTE_TOKENS - 1)
        return mfi_fail(error, MF_E_INVALID, "a tokenizer of %u merges is too large", n_merge);
    *bytes = BLOB_HEADER_BYTES + (size_t)8 * n_merge;
    unsigned char *blob = mfi_alloc(allocator, *bytes);
    if (!blob) return mfi_fail(error, MF_E_NOMEM, "no memory for a tokenizer of %u merges", n_merge);
    memcpy(blob, "MFTK", 4);
    store_u32(blob + 4, BLOB_VERSION);
    store_u32(blob + 8, BLOB_RULE);
    store_u32(blob + 12, n_merge);
    store_u32(blob + 16, end_of_text ? 1 : 0);
    store_u32(blob + 20, end_of_text ? MFI_BYTE_TOKENS + n_merge : UINT32_MAX);
    for (size_t i = 0; i < n_merge; i++) {
        store_u32(blob + BLOB_HEADER_BYTES + 8 * i, merges[i].left);
        store_u32(blob + BLOB_HEADER_BYTES + 8 * i + 4, merges[i].right);
    }
    *out = blob;
    return MF_OK;
}

static mfi_merge blob_merge(const unsigned char *blob, size_t index)
{
    const unsigned char *at = blob + BLOB_HEADER_BYTES + 8 * index;
    return (mfi_merge){ load_u32(at), load_u32(at + 4) };
}

static mf_status check_header(const unsigned char *blob, size_t bytes, mf_error *error)
{
    if (bytes < BLOB_HEADER_BYTES || memcmp(blob, "MFTK", 4) != 0)
        return mfi_fail(error, MF_E_FORMAT, "the tokenizer does not begin as one");
    if (load_u32(blob + 4) != BLOB_VERSION || load_u32(blob + 8) != BLOB_RULE)
        return mfi_fail(error, MF_E_UNSUPPORTED, "tokenizer version %u, rule %u: not known to this release",
                        load_u32(blob + 4), load_u32(blob + 8));
    uint64_t n_merge = load_u32(blob + 12), n_special = load_u32(blob + 16), eos = load_u32(blob + 20);
    uint64_t n_text = MFI_BYTE_TOKENS + n_merge;
    if (n_text + n_special > MFI_MAX_VOCAB || bytes != BLOB_HEADER_BYTES + 8 * n_merge)
        return mfi_fail(error, MF_E_FORMAT, "the tokenizer's %zu bytes do not hold %u merges", bytes,
                        (unsigned)n_merge);
    if (eos != UINT32_MAX && (eos < n_text || eos >= n_text + n_special))
        return mfi_fail(error, MF_E_FORMAT, "the tokenizer's end-of-text token %u is not a special token",
                        (unsigned)eos);
    return MF_OK;
}

static void lay_out(mfi_tokenizer **tokenizer, mfi_arena *arena, size_t n_merge)
{
    mfi_tokenizer *t = mfi_carve(arena, 1, sizeof *t);
    uint32_t *first = mfi_carve(arena, MFI_BYTE_TOKENS + n_merge + 1, sizeof *first);
    uint32_t *right = mfi_carve(arena, n_merge, sizeof *right);
    uint32_t *rank = mfi_carve(arena, n_merge, sizeof *rank);
    uint32_t *text_at = mfi_carve(arena, MFI_BYTE_TOKENS + n_merge + 1, sizeof *text_at);
    if (!t) return;
    t->first = first;
    t->right = right;
    t->rank = rank;
    t->text_at = text_at;
    *tokenizer = t;
}

/* Where each token's bytes begin, in one pass: a merge's parts stand before it. */
static mf_status measure_tokens(mfi_tokenizer *t, const unsigned char *blob, mf_error *error)
{
    uint32_t end = 0;
    for (uint32_t token = 0; token < MFI_BYTE_TOKENS + t->n_merge; token++) {
        uint32_t length = 1;
        t->text_at[token] = end;
        if (token >= MFI_BYTE_TOKENS) {
            mfi_merge merge = blob_merge(blob, token - MFI_BYTE_TOKENS);
            if (merge.left >= token || merge.right >= token)
                return mfi_fail(error, MF_E_FORMAT, "tokenizer: merge %u refers to a later token",
                                token - MFI_BYTE_TOKENS);
            length = t->text_at[merge.left + 1] - t->text_at[merge.left] + t->text_at[merge.right + 1] -
                     t->text_at[merge.right];
        }
        if (length > MFI_MAX_TOKEN_BYTES || end + length > MAX_TEXT_BYTES)
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: token %u is too long", token);
        end += length;
        t->text_at[token + 1] = end;
    }
    t->text_bytes = end;
    return MF_OK;
}

static void spell_tokens(mfi_tokenizer *t, const unsigned char *blob)
{
    for (uint32_t token = 0; token < MFI_BYTE_TOKENS; token++)
        t->text[token] = (char)(unsigned char)token;
    for (uint32_t i = 0; i < t->n_merge; i++) {
        mfi_merge merge = blob_merge(blob, i);
        char *to = t->text + t->text_at[MFI_BYTE_TOKENS + i];
        size_t left = t->text_at[merge.left + 1] - t->text_at[merge.left];
        memcpy(to, t->text + t->text_at[merge.left], left);
        memcpy(to + left, t->text + t->text_at[merge.right], t->text_at[merge.right + 1] - t->text_at[merge.right]);
    }
}

/* Turns counts per token, [n + 1] with the last zero, into where each token's entries begin. */
static void counts_to_starts(uint32_t *counts, size_t n)
{
    uint32_t start = 0;
    for (size_t i = 0; i <= n; i++) {
        uint32_t count = counts[i];
        counts[i] = start;
        start += count;
    }
}

/* Sorts the merges by (left, right): a stable counting sort by right, then one by left. `order` is scratch. */
static mf_status index_merges(mfi_tokenizer *t, const unsigned char *blob, uint32_t *order, mf_error *error)
{
    size_t n_token = MFI_BYTE_TOKENS + t->n_merge;
    for (uint32_t i = 0; i < t->n_merge; i++)
        t->first[blob_merge(blob, i).right]++;
    counts_to_starts(t->first, n_token);
    for (uint32_t i = 0; i < t->n_merge; i++)
        order[t->first[blob_merge(blob, i).right]++] = i;

    memset(t->first, 0, (n_token + 1) * sizeof *t->first);
    for (uint32_t i = 0; i < t->n_merge; i++)
        t->first[blob_merge(blob, i).left]++;
    counts_to_starts(t->first, n_token);
    for (uint32_t i = 0; i < t->n_merge; i++) {
        mfi_merge merge = blob_merge(blob, order[i]);
        uint32_t at = t->first[merge.left]++;
        t->right[at] = merge.right;
        t->rank[at] = order[i];
    }
    /* Filling moved each start to its end, which is the next one's start. */
    memmove(t->first + 1, t->first, n_token * sizeof *t->first);
    t->first[0] = 0;

    for (size_t token = 0; token < n_token; token++)
        for (uint32_t at = t->first[token] + 1; at < t->first[token + 1]; at++)
            if (t->right[at] == t->right[at - 1])
                return mfi_fail(error, MF_E_FORMAT, "tokenizer: merges %u and %u are the same", t->rank[at - 1],
                                t->rank[at]);
    return MF_OK;
}

static mf_status build(mfi_tokenizer *t, const unsigned char *blob, mf_error *error)
{
    mf_status status = measure_tokens(t, blob, error);
    if (status != MF_OK) return status;
    t->text = mfi_alloc(&t->allocator, t->text_bytes);
    uint32_t *order = mfi_alloc_array(&t->allocator, (size_t)t->n_merge + 1, sizeof *order);
    if (t->text && order) {
        spell_tokens(t, blob);
        status = index_merges(t, blob, order, error);
    } else {
        status = mfi_fail(error, MF_E_NOMEM, "no memory for the tokenizer");
    }
    mfi_free(&t->allocator, order, ((size_t)t->n_merge + 1) * sizeof *order);
    return status;
}

mf_status mfi_tokenizer_load(mfi_tokenizer **out, const mf_allocator *allocator, const void *blob, size_t bytes,
                             mf_error *error)
{
    *out = NULL;
    mf_status status = check_header(blob, bytes, error);
    if (status != MF_OK) return status;
    uint32_t n_merge = load_u32((const unsigned char *)blob + 12);

    mfi_tokenizer *t = NULL;
    mfi_arena arena = { NULL, 0 };
    lay_out(&t, &arena, n_merge);
    size_t arena_bytes = arena.used;
    arena.base = mfi_alloc(allocator, arena_bytes);
    if (!arena.base) return mfi_fail(error, MF_E_NOMEM, "no memory for the tokenizer");
    arena.used = 0;
    lay_out(&t, &arena, n_merge);

    t->allocator = *allocator;
    t->arena_bytes = arena_bytes;
    t->n_merge = n_merge;
    t->n_special = load_u32((const unsigned char *)blob + 16);
    t->eos = (int32_t)load_u32((const unsigned char *)blob + 20);
    status = build(t, blob, error);
    if (status != MF_OK) {
        mfi_tokenizer_free(t);
        return status;
    }
    *out = t;
    return MF_OK;
}

void mfi_tokenizer_free(mfi_tokenizer *tokenizer)
{
    if (!tokenizer) return;
    mf_allocator allocator = tokenizer->allocator;
    mfi_free(&allocator, tokenizer->text, tokenizer->text_bytes);
    mfi_free(&allocator, tokenizer, tokenizer->arena_bytes);
}

uint32_t mfi_tokenizer_vocab(const mfi_tokenizer *tokenizer)
{
    return MFI_BYTE_TOKENS + tokenizer->n_merge + tokenizer->n_special;
}

int32_t mfi_tokenizer_eos(const mfi_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

/* ---- The cut ---- */

typedef enum byte_class { WHITE, LETTER, DIGIT, MARK } byte_class;

static byte_class class_of(char text)
{
    unsigned char byte = (unsigned char)text;
    if (byte >= 0x80 || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z')) return LETTER;
    if (byte >= '0' && byte <= '9') return DIGIT;
    return byte == ' ' || (byte >= '\t' && byte <= '\r') ? WHITE : MARK;
}

size_t mfi_tokenizer_piece(const char *text, size_t bytes)
{
    size_t begin = bytes > 1 && text[0] == ' ' && class_of(text[1]) != WHITE;
    size_t end = begin;
    while (end < bytes && class_of(text[end]) == class_of(text[begin]))
        end++;
    bool is_white = end > 0 && class_of(text[begin]) == WHITE;
    bool last_goes_on = is_white && end > 1 && end < bytes && text[end - 1] == ' ';
    return end - last_goes_on;
}

/* ---- Merging ----
 *
 * The tokens of a piece are a linked list; a heap holds, for each neighbouring pair that can merge, (rank of
 * the merge, where), and gives the lowest rank first, the leftmost of equals. A pair that has changed since
 * it was offered is recognised by its rank and dropped. */

typedef struct node {
    uint32_t token, prev, next;
    uint32_t rank; /* of the pair (this, next); NO_MERGE where it cannot merge or the node is gone */
} node;

typedef struct merger {
    node *nodes;    /* [bytes of the piece] */
    uint64_t *heap; /* [2 * bytes]: bytes - 1 pairs at first; a merge takes one and adds at most two */
    size_t n_heap;
} merger;

static uint32_t merge_rank(const mfi_tokenizer *t, uint32_t left, uint32_t right)
{
    size_t at = t->first[left], n = t->first[left + 1] - at;
    while (n > 1) {
        size_t half = n / 2;
        at += t->right[at + half] <= right ? half : 0;
        n -= half;
    }
    return n == 1 && t->right[at] == right ? t->rank[at] : NO_MERGE;
}

static void heap_push(merger *m, uint64_t entry)
{
    size_t at = m->n_heap++;
    for (; at > 0 && entry < m->heap[(at - 1) / 2]; at = (at - 1) / 2)
        m->heap[at] = m->heap[(at - 1) / 2];
    m->heap[at] = entry;
}

static uint64_t heap_pop(merger *m)
{
    uint64_t lowest = m->heap[0], last = m->heap[--m->n_heap];
    size_t at = 0;
    for (size_t child = 1; child < m->n_heap; child = 2 * at + 1) {
        if (child + 1 < m->n_heap && m->heap[child + 1] < m->heap[child]) child++;
        if (last <= m->heap[child]) break;
        m->heap[at] = m->heap[child];
        at = child;
    }
    m->heap[at] = last;
    return lowest;
}

static void offer(const mfi_tokenizer *t, merger *m, uint32_t at)
{
    node *left = &m->nodes[at];
    left->rank = left->next == NO_NODE ? NO_MERGE : merge_rank(t, left->token, m->nodes[left->next].token);
    if (left->rank != NO_MERGE) heap_push(m, (uint64_t)left->rank << 32 | at);
}

/* Leaves the piece's tokens in the list that begins at node 0. */
static void merge_piece(const mfi_tokenizer *t, merger *m, const char *text, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        m->nodes[i] = (node){ (unsigned char)text[i], i == 0 ? NO_NODE : i - 1, i + 1 == bytes ? NO_NODE : i + 1, 0 };
    m->n_heap = 0;
    for (uint32_t i = 0; i < bytes; i++)
        offer(t, m, i);
    while (m->n_heap > 0) {
        uint64_t lowest = heap_pop(m);
        uint32_t at = (uint32_t)lowest, rank = (uint32_t)(lowest >> 32);
        node *left = &m->nodes[at];
        if (left->rank != rank) continue;
        node *right = &m->nodes[left->next];
        left->token = MFI_BYTE_TOKENS + rank;
        left->next = right->next;
        right->rank = NO_MERGE;
        if (left->next != NO_NODE) m->nodes[left->next].prev = at;
        offer(t, m, at);
        if (left->prev != NO_NODE) offer(t, m, left->prev);
    }
}

static size_t put_tokens(const merger *m, int32_t *tokens, size_t capacity, size_t n_token)
{
    for (uint32_t at = 0; at != NO_NODE; at = m->nodes[at].next, n_token++)
        if (n_token < capacity) tokens[n_token] = (int32_t)m->nodes[at].token;
    return n_token;
}

static mf_status encode_long_piece(const mfi_tokenizer *t, const char *text, size_t bytes, int32_t *tokens,
                                   size_t capacity, size_t *n_token)
{
    size_t node_bytes = sizeof(node) + 2 * sizeof(uint64_t), all_bytes;
    if (bytes >= NO_NODE) return MF_E_RANGE;
    if (!mfi_mul(bytes, node_bytes, &all_bytes)) return MF_E_NOMEM;
    void *block = mfi_alloc(&t->allocator, all_bytes);
    if (!block) return MF_E_NOMEM;
    merger m = { .nodes = block, .heap = (uint64_t *)((node *)block + bytes) };
    merge_piece(t, &m, text, (uint32_t)bytes);
    *n_token = put_tokens(&m, tokens, capacity, *n_token);
    mfi_free(&t->allocator, block, all_bytes);
    return MF_OK;
}

mf_status mfi_tokenizer_encode(const mfi_tokenizer *t, const char *text, size_t bytes, int32_t *tokens, size_t capacity,
                               size_t *n_token)
{
    node nodes[SHORT_PIECE];
    uint64_t heap[2 * SHORT_PIECE];
    merger m = { .nodes = nodes, .heap = heap };
    *n_token = 0;
    for (size_t at = 0, piece; at < bytes; at += piece) {
        piece = mfi_tokenizer_piece(text + at, bytes - at);
        if (piece <= SHORT_PIECE) {
            merge_piece(t, &m, text + at, (uint32_t)piece);
            *n_token = put_tokens(&m, tokens, capacity, *n_token);
        } else {
            mf_status status = encode_long_piece(t, text + at, piece, tokens, capacity, n_token);
            if (status != MF_OK) return status;
        }
    }
    return *n_token <= capacity ? MF_OK : MF_E_CAPACITY;
}

/* ---- Back to text ---- */

const char *mfi_tokenizer_token(const mfi_tokenizer *t, int32_t token, size_t *bytes)
{
    *bytes = 0;
    if (token < 0 || (uint32_t)token >= mfi_tokenizer_vocab(t)) return NULL;
    if ((uint32_t)token >= MFI_BYTE_TOKENS + t->n_merge) return "";
    *bytes = t->text_at[token + 1] - t->text_at[token];
    return t->text + t->text_at[token];
}

mf_status mfi_tokenizer_decode(const mfi_tokenizer *t, const int32_t *tokens, size_t n_token, char *text,
                               size_t capacity, size_t *bytes)
{
    *bytes = 0;
    bool fits = true;
    for (size_t i = 0; i < n_token; i++) {
        size_t length;
        const char *from = mfi_tokenizer_token(t, tokens[i], &length);
        if (!from) return MF_E_RANGE;
        fits = fits && length <= capacity - *bytes;
        if (fits && length > 0) memcpy(text + *bytes, from, length);
        *bytes += length;
    }
    return fits ? MF_OK : MF_E_CAPACITY;
}
