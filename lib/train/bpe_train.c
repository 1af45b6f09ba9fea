/* bpe_train.c - byte-pair encoding on the counts of distinct pieces.
 *
 * The distinct pieces lie one after the other as linked lists of tokens. Every pair of neighbouring tokens
 * has its count and a list of the places where it was seen, in ascending order. A merge walks the places of
 * its pair and adjusts the counts of the neighbours; places that have changed since are recognised by their
 * tokens. A heap of counts gives the most frequent pair; counts only fall once a pair has been offered, so
 * an entry that is out of date is put back with the count of now. */
#include "bpe_train.h"

#include <stdbool.h>
#include <string.h>

#include "defs.h"
#include "status.h"
#include "tokenizer.h"

#define NONE UINT32_MAX
#define LEAST_COUNT 2u /* a pair that occurs once tells nothing about other text */
#define PROGRESS_STEP (1u << 20)

typedef struct word {
    const char *text;
    uint32_t bytes;
    uint64_t count;
} word;

typedef struct symbol { /* one token of a distinct piece */
    uint32_t token;     /* NONE once merged into the one before it */
    uint32_t prev, next;
    uint32_t word;
} symbol;

typedef struct pair {
    uint32_t left, right;
    uint64_t count;
    uint32_t first_place, last_place;
} pair;

typedef struct place {
    uint32_t symbol, next;
} place;

typedef struct ranked {
    uint64_t count;
    uint32_t pair;
} ranked;

typedef struct array { /* of fixed element size, doubled when full */
    void *at;
    size_t count, capacity, element_bytes;
} array;

typedef struct bpe {
    const mf_allocator *allocator;
    const mfi_bpe_options *options;
    uint64_t text_bytes;
    array words, word_slots; /* slots: open addressing, index + 1 or 0; capacity a power of two */
    array pairs, pair_slots;
    array heap;
    symbol *symbols;
    place *places;
    size_t n_symbol, n_place;
    mfi_merge *merges;
    uint32_t *token_bytes;
    uint32_t n_merge, max_merges;
} bpe;

/* ---- Memory ---- */

static size_t place_capacity(const bpe *b)
{
    return 3 * b->n_symbol; /* fewer than n_symbol pairs at first; each merge removes a symbol and adds two */
}

static void array_free(const bpe *b, array *a)
{
    mfi_free(b->allocator, a->at, a->capacity * a->element_bytes);
}

static bool array_resize(const bpe *b, array *a, size_t capacity)
{
    void *at = mfi_alloc_array(b->allocator, capacity, a->element_bytes);
    if (!at) return false;
    if (a->count > 0) memcpy(at, a->at, a->count * a->element_bytes);
    array_free(b, a);
    a->at = at;
    a->capacity = capacity;
    return true;
}

/* Makes room for one more element. */
static bool array_grow(const bpe *b, array *a)
{
    return a->count < a->capacity || array_resize(b, a, mfi_max(2 * a->capacity, 1024));
}

static void release(bpe *b)
{
    array_free(b, &b->words);
    array_free(b, &b->word_slots);
    array_free(b, &b->pairs);
    array_free(b, &b->pair_slots);
    array_free(b, &b->heap);
    mfi_free(b->allocator, b->symbols, b->n_symbol * sizeof *b->symbols);
    mfi_free(b->allocator, b->places, place_capacity(b) * sizeof *b->places);
    mfi_free(b->allocator, b->merges, b->max_merges * sizeof *b->merges);
    mfi_free(b->allocator, b->token_bytes, (MFI_BYTE_TOKENS + b->max_merges) * sizeof *b->token_bytes);
}

/* ---- Distinct pieces ---- */

static uint64_t scatter(uint64_t x)
{
    x = (x ^ (x >> 32)) * UINT64_C(0x9e3779b97f4a7c15);
    return x ^ (x >> 32);
}

static uint64_t hash_word(const char *text, size_t bytes)
{
    uint64_t hash = bytes;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
    return scatter(hash);
}

static uint64_t hash_pair(uint32_t left, uint32_t right)
{
    return scatter((uint64_t)left << 32 | right);
}

/* The slot of the word, or the empty one where it belongs. */
static uint32_t *word_slot(const bpe *b, const char *text, size_t bytes)
{
    const word *words = b->words.at;
    uint32_t *slots = b->word_slots.at;
    size_t mask = b->word_slots.capacity - 1, at = hash_word(text, bytes) & mask;
    for (; slots[at] != 0; at = (at + 1) & mask) {
        const word *w = &words[slots[at] - 1];
        if (w->bytes == bytes && memcmp(w->text, text, bytes) == 0) break;
    }
    return &slots[at];
}

static uint32_t *pair_slot(const bpe *b, uint32_t left, uint32_t right)
{
    const pair *pairs = b->pairs.at;
    uint32_t *slots = b->pair_slots.at;
    size_t mask = b->pair_slots.capacity - 1, at = hash_pair(left, right) & mask;
    while (slots[at] != 0 && (pairs[slots[at] - 1].left != left || pairs[slots[at] - 1].right != right))
        at = (at + 1) & mask;
    return &slots[at];
}

/* Keeps the slots at most half full, so that searches stay short. */
static bool grow_word_slots(bpe *b)
{
    if (2 * (b->words.count + 1) <= b->word_slots.capacity) return true;
    const word *words = b->words.at;
    if (!array_resize(b, &b->word_slots, mfi_max(2 * b->word_slots.capacity, 4096))) return false;
    for (size_t i = 0; i < b->words.count; i++)
        *word_slot(b, words[i].text, words[i].bytes) = (uint32_t)i + 1;
    return true;
}

static bool grow_pair_slots(bpe *b)
{
    if (2 * (b->pairs.count + 1) <= b->pair_slots.capacity) return true;
    const pair *pairs = b->pairs.at;
    if (!array_resize(b, &b->pair_slots, mfi_max(2 * b->pair_slots.capacity, 4096))) return false;
    for (size_t i = 0; i < b->pairs.count; i++)
        *pair_slot(b, pairs[i].left, pairs[i].right) = (uint32_t)i + 1;
    return true;
}

static mf_status count_word(bpe *b, const char *text, size_t bytes)
{
    if (!grow_word_slots(b) || !array_grow(b, &b->words)) return MF_E_NOMEM;
    uint32_t *slot = word_slot(b, text, bytes);
    word *words = b->words.at;
    if (*slot == 0) {
        /* Symbols are numbered in 32 bits, and so are three times as many places. */
        if (bytes > NONE / 3 - b->n_symbol) return MF_E_RANGE;
        b->n_symbol += bytes;
        words[b->words.count++] = (word){ text, (uint32_t)bytes, 0 };
        *slot = (uint32_t)b->words.count;
    }
    words[*slot - 1].count++;
    return MF_OK;
}

/* Counting is the first half of the work, merging the second. */
static mf_status report(const bpe *b, uint64_t done, mf_error *error)
{
    const mfi_bpe_options *o = b->options;
    if (o->progress && o->progress(o->progress_user, done, 2 * b->text_bytes) != 0)
        return mfi_fail(error, MF_E_CANCELLED, "learning the tokenizer was cancelled");
    return MF_OK;
}

static mf_status count_words(bpe *b, const mfi_text *texts, size_t n_text, mf_error *error)
{
    uint64_t done = 0, reported = 0;
    for (size_t i = 0; i < n_text; i++)
        for (size_t at = 0, bytes; at < texts[i].bytes; at += bytes) {
            bytes = mfi_pretokenize(MFI_PRE_PLAIN, texts[i].text + at, texts[i].bytes - at);
            mf_status status = bytes > 1 ? count_word(b, texts[i].text + at, bytes) : MF_OK;
            if (status == MF_E_RANGE) return mfi_fail(error, status, "the text's distinct pieces exceed 1.4 GB");
            if (status != MF_OK) return mfi_fail(error, status, "no memory to count words");
            done += bytes;
            if (done - reported < PROGRESS_STEP) continue;
            reported = done;
            if ((status = report(b, done, error)) != MF_OK) return status;
        }
    return MF_OK;
}

/* ---- Pairs ---- */

/* One more occurrence of a pair whose left token is `at`. */
static bool add_pair(bpe *b, uint32_t at, uint64_t count)
{
    uint32_t left = b->symbols[at].token, right = b->symbols[b->symbols[at].next].token;
    uint32_t *slot = pair_slot(b, left, right);
    if (*slot == 0) {
        if (!grow_pair_slots(b) || !array_grow(b, &b->pairs)) return false;
        slot = pair_slot(b, left, right);
        ((pair *)b->pairs.at)[b->pairs.count++] = (pair){ left, right, 0, NONE, NONE };
        *slot = (uint32_t)b->pairs.count;
    }
    pair *p = &((pair *)b->pairs.at)[*slot - 1];
    uint32_t here = (uint32_t)b->n_place++;
    b->places[here] = (place){ at, NONE };
    if (p->first_place == NONE)
        p->first_place = here;
    else
        b->places[p->last_place].next = here;
    p->last_place = here;
    p->count += count;
    return true;
}

static void remove_pair(bpe *b, uint32_t left, uint32_t right, uint64_t count)
{
    ((pair *)b->pairs.at)[*pair_slot(b, left, right) - 1].count -= count;
}

static mf_status lay_out_symbols(bpe *b, mf_error *error)
{
    b->symbols = mfi_alloc_array(b->allocator, b->n_symbol, sizeof *b->symbols);
    b->places = mfi_alloc_array(b->allocator, place_capacity(b), sizeof *b->places);
    if (!b->symbols || !b->places || !grow_pair_slots(b))
        return mfi_fail(error, MF_E_NOMEM, "no memory for %zu symbols", b->n_symbol);
    uint32_t at = 0;
    for (size_t i = 0; i < b->words.count; i++) {
        const word *w = &((const word *)b->words.at)[i];
        for (uint32_t j = 0; j < w->bytes; j++, at++)
            b->symbols[at] = (symbol){ (unsigned char)w->text[j], j > 0 ? at - 1 : NONE,
                                       j + 1 < w->bytes ? at + 1 : NONE, (uint32_t)i };
    }
    for (at = 0; at < b->n_symbol; at++) {
        uint64_t count = ((const word *)b->words.at)[b->symbols[at].word].count;
        if (b->symbols[at].next != NONE && !add_pair(b, at, count))
            return mfi_fail(error, MF_E_NOMEM, "no memory to count pairs");
    }
    return MF_OK;
}

/* ---- The most frequent pair ---- */

static bool ranks_before(const bpe *b, const ranked *x, const ranked *y)
{
    const pair *p = &((const pair *)b->pairs.at)[x->pair], *q = &((const pair *)b->pairs.at)[y->pair];
    if (x->count != y->count) return x->count > y->count;
    return p->left != q->left ? p->left < q->left : p->right < q->right;
}

static bool heap_push(bpe *b, uint32_t index)
{
    ranked entry = { ((const pair *)b->pairs.at)[index].count, index };
    if (entry.count < LEAST_COUNT) return true;
    if (!array_grow(b, &b->heap)) return false;
    ranked *heap = b->heap.at;
    size_t at = b->heap.count++;
    for (; at > 0 && ranks_before(b, &entry, &heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = entry;
    return true;
}

static ranked heap_pop(bpe *b)
{
    ranked *heap = b->heap.at, best = heap[0], last = heap[--b->heap.count];
    size_t at = 0;
    for (size_t child = 1; child < b->heap.count; child = 2 * at + 1) {
        if (child + 1 < b->heap.count && ranks_before(b, &heap[child + 1], &heap[child])) child++;
        if (!ranks_before(b, &heap[child], &last)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return best;
}

/* ---- Merging ---- */

/* Merges the symbol at `at` with the next one into `token`. */
static bool merge_at(bpe *b, uint32_t at, uint32_t token)
{
    symbol *left = &b->symbols[at], *right = &b->symbols[left->next];
    uint64_t count = ((const word *)b->words.at)[left->word].count;
    if (left->prev != NONE) remove_pair(b, b->symbols[left->prev].token, left->token, count);
    if (right->next != NONE) remove_pair(b, right->token, b->symbols[right->next].token, count);
    left->token = token;
    left->next = right->next;
    right->token = NONE;
    if (left->next != NONE) b->symbols[left->next].prev = at;
    return (left->prev == NONE || add_pair(b, left->prev, count)) && (left->next == NONE || add_pair(b, at, count));
}

static bool merge_everywhere(bpe *b, uint32_t index)
{
    const pair merged = ((const pair *)b->pairs.at)[index];
    uint32_t token = MFI_BYTE_TOKENS + b->n_merge;
    size_t n_pair = b->pairs.count;
    for (uint32_t i = merged.first_place; i != NONE; i = b->places[i].next) {
        const symbol *left = &b->symbols[b->places[i].symbol];
        if (left->token != merged.left || left->next == NONE || b->symbols[left->next].token != merged.right) continue;
        if (!merge_at(b, b->places[i].symbol, token)) return false;
    }
    ((pair *)b->pairs.at)[index].count = 0;
    b->merges[b->n_merge++] = (mfi_merge){ merged.left, merged.right };
    b->token_bytes[token] = b->token_bytes[merged.left] + b->token_bytes[merged.right];
    /* All pairs that this merge made contain the new token, so they are exactly the new ones. */
    for (; n_pair < b->pairs.count; n_pair++)
        if (!heap_push(b, (uint32_t)n_pair)) return false;
    return true;
}

static mf_status merge_all(bpe *b, mf_error *error)
{
    bool has_memory = true;
    for (size_t i = 0; has_memory && i < b->pairs.count; i++)
        has_memory = heap_push(b, (uint32_t)i);
    while (has_memory && b->heap.count > 0 && b->n_merge < b->max_merges) {
        ranked best = heap_pop(b);
        const pair *p = &((const pair *)b->pairs.at)[best.pair];
        if (b->token_bytes[p->left] + b->token_bytes[p->right] > MFI_MAX_TOKEN_BYTES) continue;
        if (best.count != p->count) {
            has_memory = heap_push(b, best.pair);
            continue;
        }
        has_memory = merge_everywhere(b, best.pair);
        mf_status status = report(b, b->text_bytes + b->text_bytes * b->n_merge / b->max_merges, error);
        if (status != MF_OK) return status;
    }
    return has_memory ? MF_OK : mfi_fail(error, MF_E_NOMEM, "no memory to learn more merges");
}

static mf_status learn(bpe *b, const mfi_text *texts, size_t n_text, mf_error *error)
{
    b->merges = mfi_alloc_array(b->allocator, b->max_merges, sizeof *b->merges);
    b->token_bytes = mfi_alloc_array(b->allocator, MFI_BYTE_TOKENS + b->max_merges, sizeof *b->token_bytes);
    if (!b->merges || !b->token_bytes) return mfi_fail(error, MF_E_NOMEM, "no memory for %u merges", b->max_merges);
    for (size_t i = 0; i < MFI_BYTE_TOKENS; i++)
        b->token_bytes[i] = 1;
    mf_status status = count_words(b, texts, n_text, error);
    if (status == MF_OK) status = lay_out_symbols(b, error);
    if (status == MF_OK) status = merge_all(b, error);
    return status;
}

mf_status mfi_bpe_train(void **blob, size_t *blob_bytes, const mf_allocator *allocator, const mfi_text *texts,
                        size_t n_text, const mfi_bpe_options *options, mf_error *error)
{
    *blob = NULL;
    *blob_bytes = 0;
    uint32_t least = MFI_BYTE_TOKENS + (options->end_of_text ? 1 : 0);
    if (options->n_vocab < least || options->n_vocab > MFI_MAX_VOCAB)
        return mfi_fail(error, MF_E_INVALID, "a vocabulary of %u tokens: wanted %u to %u", options->n_vocab, least,
                        MFI_MAX_VOCAB);
    bpe b = { .allocator = allocator, .options = options, .max_merges = options->n_vocab - least };
    b.words.element_bytes = sizeof(word);
    b.pairs.element_bytes = sizeof(pair);
    b.heap.element_bytes = sizeof(ranked);
    b.word_slots.element_bytes = b.pair_slots.element_bytes = sizeof(uint32_t);
    for (size_t i = 0; i < n_text; i++)
        b.text_bytes += texts[i].bytes;
    mf_status status = learn(&b, texts, n_text, error);
    if (status == MF_OK)
        status = mfi_tokenizer_store(blob, blob_bytes, allocator, b.merges, b.n_merge, options->end_of_text, error);
    release(&b);
    return status;
}
