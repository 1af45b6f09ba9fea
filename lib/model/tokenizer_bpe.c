/* tokenizer_bpe.c - merging inside a piece.
 *
 * The tokens of a piece are a linked list, each in the place of its first byte; a heap holds, for each neighbouring
 * pair that can merge, (rank of the merge, where), and gives the lowest rank first, the leftmost of equals. A pair that
 * has changed since it was offered is recognised by its rank and dropped. */
#include "defs.h"
#include "status.h"
#include "tokenizer_internal.h"
#include "unicode.h"

#define SHORT_PIECE 128u
#define NO_NODE UINT32_MAX

/* ---- The index of merges ---- */

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

/* Sorts by (left, right): a stable counting sort by right, then one by left. */
mf_status mfi_bpe_index(mfi_tokenizer *t, const mfi_vocab_merge *merges, uint32_t *order, mf_error *error)
{
    const size_t n_token = t->n_vocab;
    for (uint32_t i = 0; i < t->n_merge; i++)
        t->first[merges[i].right]++;
    counts_to_starts(t->first, n_token);
    for (uint32_t i = 0; i < t->n_merge; i++)
        order[t->first[merges[i].right]++] = i;

    memset(t->first, 0, (n_token + 1) * sizeof *t->first);
    for (uint32_t i = 0; i < t->n_merge; i++)
        t->first[merges[i].left]++;
    counts_to_starts(t->first, n_token);
    for (uint32_t i = 0; i < t->n_merge; i++) {
        const mfi_vocab_merge *merge = &merges[order[i]];
        const uint32_t at = t->first[merge->left]++;
        t->right[at] = merge->right;
        t->rank[at] = merge->rank;
        t->whole[at] = merge->whole;
    }
    /* Filling moved each start to its end, which is the next one's start. */
    memmove(t->first + 1, t->first, n_token * sizeof *t->first);
    t->first[0] = 0;

    for (uint32_t token = 0; token < n_token; token++)
        for (uint32_t at = t->first[token] + 1; at < t->first[token + 1]; at++)
            if (t->right[at] == t->right[at - 1])
                return mfi_fail(error, MF_E_FORMAT, "tokenizer: the merge of tokens %u and %u is there twice", token,
                                t->right[at]);
    return MF_OK;
}

static uint32_t find_merge(const mfi_tokenizer *t, uint32_t left, uint32_t right)
{
    if (left == MFI_NO_TOKEN) return MFI_NO_MERGE;
    size_t at = t->first[left], n = t->first[left + 1] - at;
    while (n > 1) {
        size_t half = n / 2;
        at += t->right[at + half] <= right ? half : 0;
        n -= half;
    }
    return n == 1 && t->right[at] == right ? (uint32_t)at : MFI_NO_MERGE;
}

/* ---- The list and the heap ---- */

typedef struct node {
    uint32_t token, prev, next; /* MFI_NO_TOKEN: an unknown character, which merges with nothing */
    uint32_t merge;             /* of the pair (this, next); MFI_NO_MERGE where it cannot merge or the node is gone */
} node;

typedef struct merger {
    node *nodes;    /* [bytes of the piece] */
    uint64_t *heap; /* [2 * bytes]: bytes - 1 pairs at first; a merge takes one and adds at most two */
    size_t n_heap;
} merger;

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
    left->merge = left->next == NO_NODE ? MFI_NO_MERGE : find_merge(t, left->token, m->nodes[left->next].token);
    if (left->merge != MFI_NO_MERGE) heap_push(m, (uint64_t)t->rank[left->merge] << 32 | at);
}

/* One node for each byte, or each character. */
static void begin_list(const mfi_tokenizer *t, merger *m, const char *text, uint32_t bytes)
{
    uint32_t prev = NO_NODE;
    size_t length = 1;
    for (uint32_t at = 0; at < bytes; at += (uint32_t)length) {
        uint32_t token = t->byte_tokens[(unsigned char)text[at]];
        if (t->kind != MFI_BYTE_BPE) {
            mfi_utf8_first(text + at, bytes - at, &length);
            token = mfi_find_piece(t, text + at, length);
        }
        m->nodes[at] = (node){ token, prev, at + (uint32_t)length < bytes ? at + (uint32_t)length : NO_NODE, 0 };
        prev = at;
    }
}

/* Leaves the piece's tokens in the list that begins at node 0. */
static void merge_piece(const mfi_tokenizer *t, merger *m, const char *text, uint32_t bytes)
{
    begin_list(t, m, text, bytes);
    m->n_heap = 0;
    for (uint32_t at = 0; at != NO_NODE; at = m->nodes[at].next)
        offer(t, m, at);
    while (m->n_heap > 0) {
        uint64_t lowest = heap_pop(m);
        uint32_t at = (uint32_t)lowest, rank = (uint32_t)(lowest >> 32);
        node *left = &m->nodes[at];
        if (left->merge == MFI_NO_MERGE || t->rank[left->merge] != rank) continue;
        node *right = &m->nodes[left->next];
        left->token = t->whole[left->merge];
        left->next = right->next;
        right->merge = MFI_NO_MERGE;
        if (left->next != NO_NODE) m->nodes[left->next].prev = at;
        offer(t, m, at);
        if (left->prev != NO_NODE) offer(t, m, left->prev);
    }
}

static void put_list(const mfi_tokenizer *t, const merger *m, const char *text, uint32_t bytes, mfi_token_sink *sink)
{
    for (uint32_t at = 0; at != NO_NODE; at = m->nodes[at].next) {
        const uint32_t next = m->nodes[at].next;
        if (m->nodes[at].token != MFI_NO_TOKEN)
            mfi_put_token(sink, m->nodes[at].token);
        else
            mfi_put_unknown(t, sink, text + at, (next == NO_NODE ? bytes : next) - at);
    }
}

static mf_status encode_long_piece(const mfi_tokenizer *t, const char *text, size_t bytes, mfi_token_sink *sink)
{
    size_t node_bytes = sizeof(node) + 2 * sizeof(uint64_t), all_bytes;
    if (bytes >= NO_NODE) return MF_E_RANGE;
    if (!mfi_mul(bytes, node_bytes, &all_bytes)) return MF_E_NOMEM;
    void *block = mfi_alloc(&t->allocator, all_bytes);
    if (!block) return MF_E_NOMEM;
    merger m = { .nodes = block, .heap = (uint64_t *)((node *)block + bytes) };
    merge_piece(t, &m, text, (uint32_t)bytes);
    put_list(t, &m, text, (uint32_t)bytes, sink);
    mfi_free(&t->allocator, block, all_bytes);
    return MF_OK;
}

mf_status mfi_bpe_encode(const mfi_tokenizer *t, const char *text, size_t bytes, mfi_token_sink *sink)
{
    node nodes[SHORT_PIECE];
    uint64_t heap[2 * SHORT_PIECE];
    if (t->flags & MFI_VOCAB_IGNORE_MERGES) {
        const uint32_t token = mfi_find_piece(t, text, bytes);
        if (token != MFI_NO_TOKEN) {
            mfi_put_token(sink, token);
            return MF_OK;
        }
    }
    if (bytes > SHORT_PIECE) return encode_long_piece(t, text, bytes, sink);
    merger m = { .nodes = nodes, .heap = heap };
    merge_piece(t, &m, text, (uint32_t)bytes);
    put_list(t, &m, text, (uint32_t)bytes, sink);
    return MF_OK;
}
