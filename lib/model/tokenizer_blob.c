/* tokenizer_blob.c - reading and writing the two versions of the blob; docs/tokenizer.md draws them. */
#include "defs.h"
#include "status.h"
#include "tokenizer_internal.h"

#define BLOB_RULE 1u

/* ---- Memory ---- */

static void lay_out(mfi_tokenizer **tokenizer, mfi_arena *arena, const mfi_tokenizer *sizes)
{
    const size_t n = sizes->n_vocab;
    mfi_tokenizer *t = mfi_carve(arena, 1, sizeof *t);
    uint32_t *text_at = mfi_carve(arena, n + sizes->n_added + 1, sizeof *text_at);
    uint32_t *pieces = mfi_carve(arena, sizes->n_piece, sizeof *pieces);
    float *scores = sizes->kind == MFI_UNIGRAM ? mfi_carve(arena, n, sizeof *scores) : NULL;
    uint32_t *first = mfi_carve(arena, n + 1, sizeof *first);
    uint32_t *right = mfi_carve(arena, sizes->n_merge, sizeof *right);
    uint32_t *rank = mfi_carve(arena, sizes->n_merge, sizeof *rank);
    uint32_t *whole = mfi_carve(arena, sizes->n_merge, sizeof *whole);
    uint32_t *added = mfi_carve(arena, sizes->n_added, sizeof *added);
    uint32_t *added_token = mfi_carve(arena, sizes->n_added, sizeof *added_token);
    uint32_t *added_flags = mfi_carve(arena, sizes->n_added, sizeof *added_flags);
    int32_t *stops = mfi_carve(arena, sizes->n_stop, sizeof *stops);
    if (!t) return;
    *t = *sizes;
    t->text_at = text_at;
    t->pieces = pieces;
    t->scores = scores;
    t->first = first;
    t->right = right;
    t->rank = rank;
    t->whole = whole;
    t->added = added;
    t->added_token = added_token;
    t->added_flags = added_flags;
    t->stops = stops;
    *tokenizer = t;
}

/* With the numbers of `sizes` and all arrays but the text. */
static mf_status create(mfi_tokenizer **out, const mfi_tokenizer *sizes, mf_error *error)
{
    mfi_arena arena = { NULL, 0 };
    lay_out(out, &arena, sizes);
    const size_t arena_bytes = arena.used;
    arena.base = mfi_alloc(&sizes->allocator, arena_bytes);
    if (!arena.base) return mfi_fail(error, MF_E_NOMEM, "no memory for the tokenizer");
    arena.used = 0;
    lay_out(out, &arena, sizes);
    (*out)->arena_bytes = arena_bytes;
    return MF_OK;
}

void mfi_tokenizer_free(mfi_tokenizer *tokenizer)
{
    if (!tokenizer) return;
    mf_allocator allocator = tokenizer->allocator;
    mfi_free(&allocator, tokenizer->text, tokenizer->text_bytes);
    mfi_free(&allocator, tokenizer, tokenizer->arena_bytes);
}

/* ---- Version 1: merges alone; token 256 + i is merge i ---- */

static mfi_merge blob_merge(const unsigned char *blob, size_t index)
{
    const unsigned char *at = blob + MFI_BLOB_1_BYTES + 8 * index;
    return (mfi_merge){ mfi_load_u32(at), mfi_load_u32(at + 4) };
}

static mf_status read_header_1(mfi_tokenizer *t, const unsigned char *blob, size_t bytes, mf_error *error)
{
    const uint32_t rule = mfi_load_u32(blob + 8);
    if (rule != BLOB_RULE)
        return mfi_fail(error, MF_E_UNSUPPORTED, "tokenizer version 1, rule %u: not known to this release", rule);
    const uint64_t n_merge = mfi_load_u32(blob + 12), n_special = mfi_load_u32(blob + 16);
    const uint64_t eos = mfi_load_u32(blob + 20), n_text = MFI_BYTE_TOKENS + n_merge;
    if (n_text + n_special > MFI_MAX_VOCAB || bytes != MFI_BLOB_1_BYTES + 8 * n_merge)
        return mfi_fail(error, MF_E_FORMAT, "the tokenizer's %zu bytes do not hold %u merges", bytes,
                        (unsigned)n_merge);
    if (eos != UINT32_MAX && (eos < n_text || eos >= n_text + n_special))
        return mfi_fail(error, MF_E_FORMAT, "the tokenizer's end-of-text token %u is not a special token",
                        (unsigned)eos);
    t->kind = MFI_BYTE_BPE;
    t->pretokenizer = MFI_PRE_PLAIN;
    t->n_vocab = (uint32_t)(n_text + n_special);
    t->n_merge = (uint32_t)n_merge;
    t->bos = t->unknown = -1;
    t->eos = (int32_t)(uint32_t)eos;
    for (uint32_t i = 0; i < MFI_BYTE_TOKENS; i++)
        t->byte_tokens[i] = i;
    return MF_OK;
}

/* Where each token's bytes begin, in one pass: a merge's parts stand before it. */
static mf_status measure_tokens_1(mfi_tokenizer *t, const unsigned char *blob, mf_error *error)
{
    uint32_t end = 0;
    for (uint32_t token = 0; token < t->n_vocab; token++) {
        uint32_t length = token < MFI_BYTE_TOKENS;
        t->text_at[token] = end;
        if (token >= MFI_BYTE_TOKENS && token < MFI_BYTE_TOKENS + t->n_merge) {
            mfi_merge merge = blob_merge(blob, token - MFI_BYTE_TOKENS);
            if (merge.left >= token || merge.right >= token)
                return mfi_fail(error, MF_E_FORMAT, "tokenizer: merge %u refers to a later token",
                                token - MFI_BYTE_TOKENS);
            length = t->text_at[merge.left + 1] - t->text_at[merge.left] + t->text_at[merge.right + 1] -
                     t->text_at[merge.right];
        }
        if (length > MFI_MAX_TOKEN_BYTES || end + length > MFI_MAX_VOCAB_TEXT)
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: token %u is too long", token);
        end += length;
        t->text_at[token + 1] = end;
    }
    t->text_bytes = end;
    return MF_OK;
}

static void spell_tokens_1(mfi_tokenizer *t, const unsigned char *blob, mfi_vocab_merge *merges)
{
    for (uint32_t token = 0; token < MFI_BYTE_TOKENS; token++)
        t->text[token] = (char)(unsigned char)token;
    for (uint32_t i = 0; i < t->n_merge; i++) {
        mfi_merge merge = blob_merge(blob, i);
        char *to = t->text + t->text_at[MFI_BYTE_TOKENS + i];
        size_t left = t->text_at[merge.left + 1] - t->text_at[merge.left];
        memcpy(to, t->text + t->text_at[merge.left], left);
        memcpy(to + left, t->text + t->text_at[merge.right], t->text_at[merge.right + 1] - t->text_at[merge.right]);
        merges[i] = (mfi_vocab_merge){ merge.left, merge.right, MFI_BYTE_TOKENS + i, i };
    }
}

static mf_status read_body_1(mfi_tokenizer *t, const unsigned char *blob, mfi_vocab_merge *merges, mf_error *error)
{
    mf_status status = measure_tokens_1(t, blob, error);
    if (status != MF_OK) return status;
    t->text = mfi_alloc(&t->allocator, t->text_bytes);
    if (!t->text) return mfi_fail(error, MF_E_NOMEM, "no memory for the tokenizer");
    spell_tokens_1(t, blob, merges);
    return MF_OK;
}

/* ---- Version 2: where the parts of the blob begin ---- */

typedef struct sections {
    uint64_t byte_tokens, lengths, pieces, scores, merges, added, stops, text, end;
} sections;

/* The numbers are below 2^32 each, so that nothing overflows. */
static sections find_sections(const mfi_tokenizer *t)
{
    sections s;
    s.byte_tokens = MFI_BLOB_2_BYTES;
    s.lengths = s.byte_tokens + 4 * MFI_BYTE_TOKENS;
    s.pieces = s.lengths + (uint64_t)4 * t->n_vocab;
    s.scores = s.pieces + (uint64_t)4 * t->n_piece;
    s.merges = s.scores + (t->kind == MFI_UNIGRAM ? (uint64_t)4 * t->n_vocab : 0);
    s.added = s.merges + (uint64_t)16 * t->n_merge;
    s.stops = s.added + (uint64_t)12 * t->n_added;
    s.text = s.stops + (uint64_t)4 * t->n_stop;
    s.end = s.text + t->text_bytes;
    return s;
}

static bool is_token(const mfi_tokenizer *t, int32_t token)
{
    return token >= -1 && (token < 0 || (uint32_t)token < t->n_vocab);
}

static mf_status check_header_2(const mfi_tokenizer *t, size_t bytes, mf_error *error)
{
    const bool is_bytes = t->kind == MFI_BYTE_BPE;
    const uint32_t of_bytes = MFI_VOCAB_NFC | MFI_VOCAB_IGNORE_MERGES;
    if (t->kind < MFI_BYTE_BPE || t->kind > MFI_UNIGRAM || t->pretokenizer > MFI_PRE_LLAMA3 ||
        (t->flags & ~(uint32_t)MFI_VOCAB_ALL_FLAGS) || t->chat > MF_CHAT_LLAMA3)
        return mfi_fail(error, MF_E_UNSUPPORTED,
                        "tokenizer of kind %u, pretokenizer %u, flags %u, chat %u: not known here", t->kind,
                        t->pretokenizer, t->flags, t->chat);
    if ((is_bytes && (t->flags & ~(of_bytes | MFI_VOCAB_ADD_BOS | MFI_VOCAB_ADD_EOS))) ||
        (!is_bytes && (t->pretokenizer != MFI_PRE_NONE || (t->flags & of_bytes))))
        return mfi_fail(error, MF_E_FORMAT, "a tokenizer of kind %u has no pretokenizer %u with flags %u", t->kind,
                        t->pretokenizer, t->flags);
    if (t->n_vocab > MFI_MAX_VOCAB || t->n_piece > t->n_vocab || t->n_merge > MFI_MAX_MERGES ||
        t->n_added > MFI_MAX_VOCAB || t->n_stop > MFI_MAX_STOPS || t->text_bytes > MFI_MAX_VOCAB_TEXT ||
        (t->kind == MFI_UNIGRAM && t->n_merge > 0))
        return mfi_fail(error, MF_E_FORMAT, "a tokenizer of %u tokens, %u pieces, %u merges and %u added texts",
                        t->n_vocab, t->n_piece, t->n_merge, t->n_added);
    if (find_sections(t).end != bytes)
        return mfi_fail(error, MF_E_FORMAT, "the tokenizer's %zu bytes do not hold what it declares", bytes);
    if (!is_token(t, t->bos) || !is_token(t, t->eos) || !is_token(t, t->unknown) ||
        (t->bos < 0 && t->flags & MFI_VOCAB_ADD_BOS) || (t->eos < 0 && t->flags & MFI_VOCAB_ADD_EOS))
        return mfi_fail(error, MF_E_FORMAT, "the tokenizer's bos %d, eos %d or unknown token %d is none", t->bos,
                        t->eos, t->unknown);
    return MF_OK;
}

static mf_status read_header_2(mfi_tokenizer *t, const unsigned char *blob, size_t bytes, mf_error *error)
{
    if (bytes < MFI_BLOB_2_BYTES)
        return mfi_fail(error, MF_E_FORMAT, "the tokenizer's %zu bytes do not hold what it declares", bytes);
    t->kind = (mfi_tokenizer_kind)mfi_load_u32(blob + 8);
    t->pretokenizer = (mfi_pretokenizer)mfi_load_u32(blob + 12);
    t->flags = mfi_load_u32(blob + 16);
    t->n_vocab = mfi_load_u32(blob + 20);
    t->n_piece = mfi_load_u32(blob + 24);
    t->n_merge = mfi_load_u32(blob + 28);
    t->n_added = mfi_load_u32(blob + 32);
    t->n_stop = mfi_load_u32(blob + 36);
    t->text_bytes = mfi_load_u32(blob + 40);
    t->chat = (mf_chat_format)mfi_load_u32(blob + 44);
    t->bos = (int32_t)mfi_load_u32(blob + 48);
    t->eos = (int32_t)mfi_load_u32(blob + 52);
    t->unknown = (int32_t)mfi_load_u32(blob + 56);
    return check_header_2(t, bytes, error);
}

static uint32_t text_length(const mfi_tokenizer *t, uint32_t entry)
{
    return t->text_at[entry + 1] - t->text_at[entry];
}

static mf_status read_texts(mfi_tokenizer *t, const unsigned char *blob, const sections *s, mf_error *error)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < t->n_vocab + t->n_added; i++) {
        const uint32_t length = mfi_load_u32(i < t->n_vocab ? blob + s->lengths + (uint64_t)4 * i
                                                            : blob + s->added + (uint64_t)12 * (i - t->n_vocab) + 4);
        end += length;
        if (length > MFI_MAX_TOKEN_BYTES || end > t->text_bytes)
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: token %u is too long", i);
        t->text_at[i + 1] = (uint32_t)end;
    }
    if (end != t->text_bytes)
        return mfi_fail(error, MF_E_FORMAT, "tokenizer: text of %zu bytes for tokens of %u", t->text_bytes,
                        (unsigned)end);
    t->text = mfi_alloc(&t->allocator, t->text_bytes);
    if (!t->text) return mfi_fail(error, MF_E_NOMEM, "no memory for the tokenizer");
    if (end > 0) memcpy(t->text, blob + s->text, (size_t)end);
    return MF_OK;
}

/* That entries follow each other in the order of their bytes, so that none is there twice. */
static bool are_ordered(const mfi_tokenizer *t, uint32_t before, uint32_t after)
{
    const size_t n_before = text_length(t, before), n_after = text_length(t, after);
    const int order = memcmp(t->text + t->text_at[before], t->text + t->text_at[after], mfi_min(n_before, n_after));
    return order < 0 || (order == 0 && n_before < n_after);
}

static mf_status read_pieces(mfi_tokenizer *t, const unsigned char *blob, const sections *s, mf_error *error)
{
    for (uint32_t i = 0; i < t->n_piece; i++) {
        const uint32_t token = mfi_load_u32(blob + s->pieces + (uint64_t)4 * i);
        if (token >= t->n_vocab || text_length(t, token) == 0 || (i > 0 && !are_ordered(t, t->pieces[i - 1], token)))
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: piece %u, token %u, is empty or out of order", i, token);
        t->pieces[i] = token;
    }
    for (uint32_t i = 0; t->scores && i < t->n_vocab; i++) {
        const uint32_t bits = mfi_load_u32(blob + s->scores + (uint64_t)4 * i);
        memcpy(&t->scores[i], &bits, sizeof bits);
        if (!(t->scores[i] >= -1e30f && t->scores[i] <= 1e30f))
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: the score of token %u is no number", i);
    }
    return MF_OK;
}

static mf_status read_byte_tokens(mfi_tokenizer *t, const unsigned char *blob, const sections *s, mf_error *error)
{
    uint32_t n_byte = 0;
    for (uint32_t i = 0; i < MFI_BYTE_TOKENS; i++) {
        const uint32_t token = mfi_load_u32(blob + s->byte_tokens + (uint64_t)4 * i);
        t->byte_tokens[i] = token;
        if (token == MFI_NO_TOKEN) continue;
        n_byte++;
        if (token >= t->n_vocab || text_length(t, token) != 1 || (unsigned char)t->text[t->text_at[token]] != i)
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: token %u is not the byte %u", token, i);
    }
    if (n_byte != MFI_BYTE_TOKENS && (n_byte != 0 || t->kind == MFI_BYTE_BPE))
        return mfi_fail(error, MF_E_FORMAT, "tokenizer: %u of 256 bytes have a token", n_byte);
    if (t->unknown < 0 && (n_byte == 0 || t->kind == MFI_UNIGRAM))
        return mfi_fail(error, MF_E_FORMAT, "tokenizer: there is no token for unknown characters");
    return MF_OK;
}

/* That `whole` is spelled as `left` and `right`. */
static bool is_spelled(const mfi_tokenizer *t, const mfi_vocab_merge *m)
{
    const size_t left = text_length(t, m->left), right = text_length(t, m->right);
    const char *whole = t->text + t->text_at[m->whole];
    return left > 0 && right > 0 && text_length(t, m->whole) == left + right &&
           memcmp(whole, t->text + t->text_at[m->left], left) == 0 &&
           memcmp(whole + left, t->text + t->text_at[m->right], right) == 0;
}

static mf_status read_merges(const mfi_tokenizer *t, const unsigned char *blob, const sections *s,
                             mfi_vocab_merge *merges, mf_error *error)
{
    for (uint32_t i = 0; i < t->n_merge; i++) {
        const unsigned char *at = blob + s->merges + (uint64_t)16 * i;
        const mfi_vocab_merge m = { mfi_load_u32(at), mfi_load_u32(at + 4), mfi_load_u32(at + 8),
                                    mfi_load_u32(at + 12) };
        if (m.left >= t->n_vocab || m.right >= t->n_vocab || m.whole >= t->n_vocab || !is_spelled(t, &m))
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: merge %u of tokens %u and %u does not make token %u", i,
                            m.left, m.right, m.whole);
        if (m.rank >= t->n_merge || (i > 0 && m.rank < merges[i - 1].rank))
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: merge %u has rank %u", i, m.rank);
        merges[i] = m;
    }
    return MF_OK;
}

static mf_status read_added(mfi_tokenizer *t, const unsigned char *blob, const sections *s, mf_error *error)
{
    for (uint32_t i = 0; i < t->n_added; i++) {
        const unsigned char *at = blob + s->added + (uint64_t)12 * i;
        t->added[i] = i;
        t->added_token[i] = mfi_load_u32(at);
        t->added_flags[i] = mfi_load_u32(at + 8);
        if (t->added_token[i] >= t->n_vocab || t->added_flags[i] > (MFI_ADDED_CONTROL | MFI_ADDED_NORMALIZED) ||
            text_length(t, t->n_vocab + i) == 0 || (i > 0 && !are_ordered(t, t->n_vocab + i - 1, t->n_vocab + i)))
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: added text %u, token %u, is empty or out of order", i,
                            t->added_token[i]);
    }
    for (uint32_t i = 0; i < t->n_stop; i++) {
        t->stops[i] = (int32_t)mfi_load_u32(blob + s->stops + (uint64_t)4 * i);
        if (t->stops[i] < 0 || !is_token(t, t->stops[i]))
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: token %d, which ends an answer, is none", t->stops[i]);
    }
    return MF_OK;
}

static mf_status check_chat(const mfi_tokenizer *t, mf_error *error)
{
    static const char *const needed[][4] = {
        [MF_CHAT_GEMMA] = { "<start_of_turn>", "<end_of_turn>" },
        [MF_CHAT_LLAMA3] = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" },
    };
    for (uint32_t i = 0; needed[t->chat][i]; i++)
        if (mfi_tokenizer_control(t, needed[t->chat][i]) < 0)
            return mfi_fail(error, MF_E_FORMAT, "tokenizer: its chats need a control token %s", needed[t->chat][i]);
    return MF_OK;
}

static mf_status read_body_2(mfi_tokenizer *t, const unsigned char *blob, mfi_vocab_merge *merges, mf_error *error)
{
    const sections s = find_sections(t);
    mf_status status = read_texts(t, blob, &s, error);
    if (status == MF_OK) status = read_pieces(t, blob, &s, error);
    if (status == MF_OK) status = read_byte_tokens(t, blob, &s, error);
    if (status == MF_OK) status = read_merges(t, blob, &s, merges, error);
    if (status == MF_OK) status = read_added(t, blob, &s, error);
    return status == MF_OK ? check_chat(t, error) : status;
}

/* ---- Reading either ---- */

static mf_status read_body(mfi_tokenizer *t, const unsigned char *blob, uint32_t version, mf_error *error)
{
    const size_t scratch_bytes = t->n_merge * (sizeof(mfi_vocab_merge) + sizeof(uint32_t));
    mfi_vocab_merge *merges = mfi_alloc(&t->allocator, scratch_bytes);
    if (!merges) return mfi_fail(error, MF_E_NOMEM, "no memory for the tokenizer");
    mf_status status = version == 1 ? read_body_1(t, blob, merges, error) : read_body_2(t, blob, merges, error);
    if (status == MF_OK) status = mfi_bpe_index(t, merges, (uint32_t *)(merges + t->n_merge), error);
    mfi_free(&t->allocator, merges, scratch_bytes);
    return status;
}

mf_status mfi_tokenizer_load(mfi_tokenizer **out, const mf_allocator *allocator, const void *blob, size_t bytes,
                             mf_error *error)
{
    *out = NULL;
    if (bytes < MFI_BLOB_1_BYTES || memcmp(blob, "MFTK", 4) != 0)
        return mfi_fail(error, MF_E_FORMAT, "the tokenizer does not begin as one");
    const uint32_t version = mfi_load_u32((const unsigned char *)blob + 4);
    if (version != 1 && version != 2)
        return mfi_fail(error, MF_E_UNSUPPORTED, "tokenizer version %u: not known to this release", version);
    mfi_tokenizer sizes = { .allocator = *allocator };
    mf_status status =
        version == 1 ? read_header_1(&sizes, blob, bytes, error) : read_header_2(&sizes, blob, bytes, error);
    if (status != MF_OK) return status;

    mfi_tokenizer *t = NULL;
    status = create(&t, &sizes, error);
    if (status != MF_OK) return status;
    status = read_body(t, blob, version, error);
    if (status != MF_OK) {
        mfi_tokenizer_free(t);
        return status;
    }
    *out = t;
    return MF_OK;
}

/* ---- Writing ---- */

mf_status mfi_tokenizer_store(void **out, size_t *bytes, const mf_allocator *allocator, const mfi_merge *merges,
                              uint32_t n_merge, int end_of_text, mf_error *error)
{
    *out = NULL;
    if (n_merge > MFI_MAX_VOCAB - MFI_BYTE_TOKENS - 1)
        return mfi_fail(error, MF_E_INVALID, "a tokenizer of %u merges is too large", n_merge);
    *bytes = MFI_BLOB_1_BYTES + (size_t)8 * n_merge;
    unsigned char *blob = mfi_alloc(allocator, *bytes);
    if (!blob) return mfi_fail(error, MF_E_NOMEM, "no memory for a tokenizer of %u merges", n_merge);
    memcpy(blob, "MFTK", 4);
    mfi_store_u32(blob + 4, 1);
    mfi_store_u32(blob + 8, BLOB_RULE);
    mfi_store_u32(blob + 12, n_merge);
    mfi_store_u32(blob + 16, end_of_text ? 1 : 0);
    mfi_store_u32(blob + 20, end_of_text ? MFI_BYTE_TOKENS + n_merge : UINT32_MAX);
    for (size_t i = 0; i < n_merge; i++) {
        mfi_store_u32(blob + MFI_BLOB_1_BYTES + 8 * i, merges[i].left);
        mfi_store_u32(blob + MFI_BLOB_1_BYTES + 8 * i + 4, merges[i].right);
    }
    *out = blob;
    return MF_OK;
}

/* Merges runs of 1, 2, 4 ... until one is left. */
void mfi_sort_indices(uint32_t *order, uint32_t *scratch, size_t n, bool (*less)(const void *user, uint32_t, uint32_t),
                      const void *user)
{
    for (uint32_t i = 0; i < n; i++)
        order[i] = i;
    for (size_t run = 1; run < n; run *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * run) {
            const size_t middle = mfi_min(begin + run, n), end = mfi_min(begin + 2 * run, n);
            for (size_t to = begin, left = begin, right = middle; to < end; to++) {
                const bool take_right = left == middle || (right < end && less(user, order[right], order[left]));
                scratch[to] = take_right ? order[right++] : order[left++];
            }
        }
        memcpy(order, scratch, n * sizeof *order);
    }
}

static bool is_less(const char *a, size_t n_a, const char *b, size_t n_b)
{
    const size_t n = mfi_min(n_a, n_b);
    const int order = n > 0 ? memcmp(a, b, n) : 0;
    return order < 0 || (order == 0 && n_a < n_b);
}

static bool token_less(const void *user, uint32_t a, uint32_t b)
{
    const mfi_vocab_token *tokens = user;
    return is_less(tokens[a].text, tokens[a].bytes, tokens[b].text, tokens[b].bytes);
}

static bool added_less(const void *user, uint32_t a, uint32_t b)
{
    const mfi_vocab_added *added = user;
    return is_less(added[a].text, added[a].bytes, added[b].text, added[b].bytes);
}

static void put_all(unsigned char **at, const void *data, size_t bytes)
{
    if (bytes > 0) memcpy(*at, data, bytes);
    *at += bytes;
}

static void put_number(unsigned char **at, uint32_t value)
{
    mfi_store_u32(*at, value);
    *at += 4;
}

static void put_header(unsigned char **at, const mfi_vocab *v, const mfi_tokenizer *sizes)
{
    put_all(at, "MFTK", 4);
    const uint32_t numbers[] = { 2,
                                 v->kind,
                                 v->pretokenizer,
                                 v->flags,
                                 v->n_token,
                                 sizes->n_piece,
                                 v->n_merge,
                                 v->n_added,
                                 v->n_stop,
                                 (uint32_t)sizes->text_bytes,
                                 v->chat,
                                 (uint32_t)v->bos,
                                 (uint32_t)v->eos,
                                 (uint32_t)v->unknown,
                                 0 };
    for (size_t i = 0; i < MFI_COUNT(numbers); i++)
        put_number(at, numbers[i]);
    for (uint32_t i = 0; i < MFI_BYTE_TOKENS; i++)
        put_number(at, v->byte_tokens ? v->byte_tokens[i] : MFI_NO_TOKEN);
}

/* `order` and `scratch` are [the larger of n_token and n_added]. */
static void put_vocab(unsigned char *at, const mfi_vocab *v, const mfi_tokenizer *sizes, uint32_t *order,
                      uint32_t *scratch)
{
    put_header(&at, v, sizes);
    for (uint32_t i = 0; i < v->n_token; i++)
        put_number(&at, v->tokens[i].bytes);
    mfi_sort_indices(order, scratch, v->n_token, token_less, v->tokens);
    for (uint32_t i = 0; i < v->n_token; i++)
        if (v->tokens[order[i]].is_piece) put_number(&at, order[i]);
    for (uint32_t i = 0; v->kind == MFI_UNIGRAM && i < v->n_token; i++) {
        uint32_t bits;
        memcpy(&bits, &v->scores[i], sizeof bits);
        put_number(&at, bits);
    }
    for (uint32_t i = 0; i < v->n_merge; i++) {
        put_number(&at, v->merges[i].left);
        put_number(&at, v->merges[i].right);
        put_number(&at, v->merges[i].whole);
        put_number(&at, v->merges[i].rank);
    }
    mfi_sort_indices(order, scratch, v->n_added, added_less, v->added);
    for (uint32_t i = 0; i < v->n_added; i++) {
        put_number(&at, v->added[order[i]].token);
        put_number(&at, v->added[order[i]].bytes);
        put_number(&at, v->added[order[i]].flags);
    }
    for (uint32_t i = 0; i < v->n_stop; i++)
        put_number(&at, (uint32_t)v->stops[i]);
    for (uint32_t i = 0; i < v->n_token; i++)
        put_all(&at, v->tokens[i].text, v->tokens[i].bytes);
    for (uint32_t i = 0; i < v->n_added; i++)
        put_all(&at, v->added[order[i]].text, v->added[order[i]].bytes);
}

static mf_status measure_vocab(mfi_tokenizer *sizes, const mfi_vocab *v, mf_error *error)
{
    uint64_t text_bytes = 0;
    if (v->n_token > MFI_MAX_VOCAB || v->n_added > MFI_MAX_VOCAB)
        return mfi_fail(error, MF_E_UNSUPPORTED, "a tokenizer of %u tokens and %u added ones is too large", v->n_token,
                        v->n_added);
    for (uint32_t i = 0; i < v->n_token; i++) {
        text_bytes += v->tokens[i].bytes;
        sizes->n_piece += v->tokens[i].is_piece;
    }
    for (uint32_t i = 0; i < v->n_added; i++)
        text_bytes += v->added[i].bytes;
    if (text_bytes > MFI_MAX_VOCAB_TEXT)
        return mfi_fail(error, MF_E_UNSUPPORTED, "a tokenizer with %u MiB of text is too large",
                        (unsigned)(text_bytes >> 20));
    sizes->text_bytes = (size_t)text_bytes;
    sizes->kind = v->kind;
    sizes->n_vocab = v->n_token;
    sizes->n_merge = v->n_merge;
    sizes->n_added = v->n_added;
    sizes->n_stop = v->n_stop;
    return MF_OK;
}

mf_status mfi_vocab_store(void **out, size_t *bytes, const mf_allocator *allocator, const mfi_vocab *vocab,
                          mf_error *error)
{
    *out = NULL;
    mfi_tokenizer sizes = { 0 }, *loaded = NULL;
    mf_status status = measure_vocab(&sizes, vocab, error);
    if (status != MF_OK) return status;
    const size_t n_order = mfi_max(vocab->n_token, vocab->n_added);
    *bytes = (size_t)find_sections(&sizes).end;
    unsigned char *blob = mfi_alloc(allocator, *bytes);
    uint32_t *order = mfi_alloc_array(allocator, n_order, 2 * sizeof *order);
    if (blob && order)
        put_vocab(blob, vocab, &sizes, order, order + n_order);
    else
        status = mfi_fail(error, MF_E_NOMEM, "no memory for a tokenizer of %u tokens", vocab->n_token);
    mfi_free(allocator, order, n_order * 2 * sizeof *order);
    /* What the reader proves, an importer need not. */
    if (status == MF_OK) status = mfi_tokenizer_load(&loaded, allocator, blob, *bytes, error);
    mfi_tokenizer_free(loaded);
    if (status == MF_OK)
        *out = blob;
    else
        mfi_free(allocator, blob, *bytes);
    return status;
}
