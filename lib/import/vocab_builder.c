/* vocab_builder.c - what the importers of tokenizers share. */
#include "vocab_builder.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "defs.h"
#include "status.h"
#include "unicode.h"

/* ---- Beginning and end ---- */

mf_status mfi_builder_begin(mfi_vocab_builder *b, const mf_allocator *allocator, const char *name, uint64_t n_token,
                            uint64_t n_added, uint64_t n_merge, uint64_t pool_bytes, mf_error *error)
{
    memset(b, 0, sizeof *b);
    b->allocator = *allocator;
    b->name = name;
    b->error = error;
    if (n_token > MFI_MAX_VOCAB || n_added > MFI_MAX_VOCAB || n_merge > MFI_MAX_MERGES ||
        pool_bytes > 4 * (uint64_t)MFI_MAX_VOCAB_TEXT)
        return mfi_fail(error, MF_E_UNSUPPORTED, "%s: more tokens, merges or text than a tokenizer may have", name);
    b->vocab.n_token = (uint32_t)n_token;
    b->added_room = (size_t)n_added;
    b->merge_room = (size_t)n_merge;
    b->pool_bytes = (size_t)pool_bytes;
    b->vocab.bos = b->vocab.eos = b->vocab.unknown = -1;
    for (uint32_t i = 0; i < MFI_BYTE_TOKENS; i++)
        b->byte_tokens[i] = MFI_NO_TOKEN;
    b->tokens = mfi_alloc_array(allocator, b->vocab.n_token, sizeof *b->tokens);
    b->scores = mfi_alloc_array(allocator, b->vocab.n_token, sizeof *b->scores);
    b->added = mfi_alloc_array(allocator, b->added_room, sizeof *b->added);
    b->merges = mfi_alloc_array(allocator, b->merge_room, sizeof *b->merges);
    b->pool = mfi_alloc(allocator, b->pool_bytes);
    if (b->tokens && b->scores && b->added && b->merges && b->pool) return MF_OK;
    return mfi_fail(error, MF_E_NOMEM, "%s: no memory for %u tokens", name, b->vocab.n_token);
}

void mfi_builder_free(mfi_vocab_builder *b)
{
    mfi_free(&b->allocator, b->tokens, b->vocab.n_token * sizeof *b->tokens);
    mfi_free(&b->allocator, b->scores, b->vocab.n_token * sizeof *b->scores);
    mfi_free(&b->allocator, b->added, b->added_room * sizeof *b->added);
    mfi_free(&b->allocator, b->merges, b->merge_room * sizeof *b->merges);
    mfi_free(&b->allocator, b->pool, b->pool_bytes);
}

/* What ends a turn ends an answer, also where no list of ends says so. */
static mf_status stop_at_turns(mfi_vocab_builder *b)
{
    static const char *const ends[] = { [MF_CHAT_GEMMA] = "<end_of_turn>", [MF_CHAT_LLAMA3] = "<|eot_id|>" };
    if (b->vocab.chat == MF_CHAT_NONE) return MF_OK;
    return mfi_builder_stop(b, mfi_builder_find(b, ends[b->vocab.chat], strlen(ends[b->vocab.chat])));
}

mf_status mfi_builder_store(mfi_vocab_builder *b, void **blob, size_t *bytes)
{
    mf_error error = MF_ERROR_INIT;
    if (stop_at_turns(b) != MF_OK) return b->error->status;
    b->vocab.tokens = b->tokens;
    b->vocab.scores = b->scores;
    b->vocab.added = b->added;
    b->vocab.merges = b->merges;
    b->vocab.byte_tokens = b->byte_tokens;
    b->vocab.stops = b->stops;
    const mf_status status = mfi_vocab_store(blob, bytes, &b->allocator, &b->vocab, &error);
    return status == MF_OK ? MF_OK : mfi_fail(b->error, status, "%s: %s", b->name, error.detail);
}

/* ---- Texts ---- */

const char *mfi_builder_copy(mfi_vocab_builder *b, const char *text, size_t bytes)
{
    char *out = b->pool + b->n_pool;
    memcpy(out, text, bytes);
    b->n_pool += bytes;
    return out;
}

const char *mfi_builder_spaced(mfi_vocab_builder *b, const char *text, size_t bytes, uint32_t *out_bytes)
{
    char *out = b->pool + b->n_pool;
    size_t n = 0;
    for (size_t at = 0; at < bytes; at++) {
        const bool is_symbol = bytes - at >= 3 && memcmp(text + at, "\xe2\x96\x81", 3) == 0;
        out[n++] = is_symbol ? ' ' : text[at];
        at += is_symbol ? 2 : 0;
    }
    b->n_pool += n;
    *out_bytes = (uint32_t)n;
    return out;
}

/* Printable bytes stand for themselves; the others, in order, are U+0100 and on. */
static int standing_for(uint32_t code)
{
    if ((code >= 33 && code <= 126) || (code >= 161 && code <= 172) || (code >= 174 && code <= 255)) return (int)code;
    if (code < 0x100 || code > 0x143) return -1;
    const uint32_t i = code - 0x100; /* bytes 0..32, 127..160, 173 */
    return (int)(i < 33 ? i : i < 67 ? i + 94 : 173);
}

const char *mfi_builder_bytes(mfi_vocab_builder *b, const char *text, size_t bytes, uint32_t *out_bytes)
{
    char *out = b->pool + b->n_pool;
    size_t n = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        const int byte = standing_for(mfi_utf8_first(text + at, bytes - at, &length));
        if (byte < 0) return NULL;
        out[n++] = (char)(unsigned char)byte;
    }
    b->n_pool += n;
    *out_bytes = (uint32_t)n;
    return out;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int mfi_byte_name(const char *text, size_t bytes)
{
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

/* ---- Added texts ---- */

void mfi_builder_add(mfi_vocab_builder *b, uint32_t token, const char *text, size_t bytes, uint32_t flags)
{
    b->added[b->vocab.n_added++] = (mfi_vocab_added){ text, (uint32_t)bytes, token, flags };
}

int32_t mfi_builder_find(const mfi_vocab_builder *b, const char *text, size_t bytes)
{
    for (uint32_t i = 0; i < b->vocab.n_added; i++)
        if (b->added[i].bytes == bytes && memcmp(b->added[i].text, text, bytes) == 0) return (int32_t)b->added[i].token;
    return -1;
}

mf_status mfi_builder_stop(mfi_vocab_builder *b, int64_t token)
{
    if (token < 0 || token >= b->vocab.n_token)
        return mfi_fail(b->error, MF_E_FORMAT, "%s: an end of text is %lld, of %u tokens", b->name, (long long)token,
                        b->vocab.n_token);
    for (uint32_t i = 0; i < b->vocab.n_stop; i++)
        if (b->stops[i] == token) return MF_OK;
    if (b->vocab.n_stop == MFI_MAX_STOPS)
        return mfi_fail(b->error, MF_E_UNSUPPORTED, "%s: more than %u ends of text", b->name, MFI_MAX_STOPS);
    b->stops[b->vocab.n_stop++] = (int32_t)token;
    return MF_OK;
}

void mfi_builder_find_bytes(mfi_vocab_builder *b)
{
    for (uint32_t i = 0; i < b->vocab.n_token; i++)
        if (b->tokens[i].is_piece && b->tokens[i].bytes == 1) b->byte_tokens[(unsigned char)b->tokens[i].text[0]] = i;
}

static bool has_text(const char *text, size_t bytes, const char *wanted)
{
    const size_t n = strlen(wanted);
    for (size_t at = 0; at + n <= bytes; at++)
        if (memcmp(text + at, wanted, n) == 0) return true;
    return false;
}

static bool has_control(const mfi_vocab_builder *b, const char *name)
{
    for (uint32_t i = 0; i < b->vocab.n_added; i++)
        if (b->added[i].flags & MFI_ADDED_CONTROL && b->added[i].bytes == strlen(name) &&
            memcmp(b->added[i].text, name, b->added[i].bytes) == 0)
            return true;
    return false;
}

void mfi_builder_chat(mfi_vocab_builder *b, const char *chat_template, size_t bytes)
{
    if (has_text(chat_template, bytes, "<start_of_turn>") && has_control(b, "<start_of_turn>") &&
        has_control(b, "<end_of_turn>"))
        b->vocab.chat = MF_CHAT_GEMMA;
    else if (has_text(chat_template, bytes, "<|start_header_id|>") && has_control(b, "<|start_header_id|>") &&
             has_control(b, "<|end_header_id|>") && has_control(b, "<|eot_id|>"))
        b->vocab.chat = MF_CHAT_LLAMA3;
}

/* ---- SentencePiece ---- */

/* Some vocabularies call these user-defined, so that any text could begin or end a turn. */
static bool is_turn(const char *text, size_t bytes)
{
    static const char *const names[] = {
        "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<bos>", "<eos>", "<pad>"
    };
    for (size_t i = 0; i < MFI_COUNT(names); i++)
        if (strlen(names[i]) == bytes && memcmp(names[i], text, bytes) == 0) return true;
    return false;
}

static mf_status set_piece(mfi_vocab_builder *b, uint32_t token, const mfi_source_piece *piece)
{
    mfi_vocab_token *out = &b->tokens[token];
    uint32_t type = piece->type;
    if (type == MFI_PIECE_USER && is_turn(piece->text, piece->bytes)) type = MFI_PIECE_CONTROL;
    if (piece->bytes == 0 || piece->bytes > MFI_MAX_TOKEN_BYTES || !isfinite(piece->score))
        return mfi_fail(b->error, MF_E_FORMAT, "%s: piece %u is empty or too long, or its score is no number", b->name,
                        token);
    b->scores[token] = piece->score;
    const int byte = mfi_byte_name(piece->text, piece->bytes);
    switch (type) {
    case MFI_PIECE_UNKNOWN:
        if (b->vocab.unknown >= 0) return mfi_fail(b->error, MF_E_FORMAT, "%s: two unknown pieces", b->name);
        b->vocab.unknown = (int32_t)token;
        return MF_OK;
    case MFI_PIECE_CONTROL:
        mfi_builder_add(b, token, mfi_builder_copy(b, piece->text, piece->bytes), piece->bytes, MFI_ADDED_CONTROL);
        return MF_OK;
    case MFI_PIECE_BYTE:
        if (byte < 0) return mfi_fail(b->error, MF_E_FORMAT, "%s: byte piece %u has no byte's name", b->name, token);
        *out = (mfi_vocab_token){ b->pool + b->n_pool, 1, false };
        b->pool[b->n_pool++] = (char)(unsigned char)byte;
        b->byte_tokens[byte] = token;
        return MF_OK;
    case MFI_PIECE_NORMAL:
    case MFI_PIECE_USER:
    case MFI_PIECE_UNUSED:
        out->text = mfi_builder_spaced(b, piece->text, piece->bytes, &out->bytes);
        /* The normalizer leaves no spaces: a piece with one cannot come out of text. */
        out->is_piece = type != MFI_PIECE_UNUSED && (piece->is_plain || !memchr(piece->text, ' ', piece->bytes));
        if (type == MFI_PIECE_USER && b->vocab.kind != MFI_UNIGRAM && out->is_piece)
            mfi_builder_add(b, token, out->text, out->bytes, MFI_ADDED_NORMALIZED);
        return MF_OK;
    default:
        return mfi_fail(b->error, MF_E_UNSUPPORTED, "%s: piece %u has type %u", b->name, token, piece->type);
    }
}

/* Unigram: an unknown character costs 10 more than the worst piece, and a user-defined piece nothing, so that it is
 * better than what else its characters could be. */
static void set_scores(mfi_vocab_builder *b, const mfi_source_piece *pieces)
{
    float least = FLT_MAX;
    for (uint32_t i = 0; i < b->vocab.n_token; i++) {
        if (pieces[i].type == MFI_PIECE_NORMAL && pieces[i].score < least) least = pieces[i].score;
        if (pieces[i].type == MFI_PIECE_USER) b->scores[i] = 0;
    }
    if (b->vocab.unknown >= 0) b->scores[b->vocab.unknown] = least - 10.0f;
}

static bool better(const void *user, uint32_t a, uint32_t b)
{
    const mfi_source_piece *pieces = user;
    return pieces[a].score > pieces[b].score;
}

static int compare(const mfi_vocab_token *token, const char *text, size_t bytes)
{
    const size_t n = mfi_min(token->bytes, bytes);
    const int order = n > 0 ? memcmp(token->text, text, n) : 0;
    return order != 0 ? order : (token->bytes > bytes) - (token->bytes < bytes);
}

static bool text_less(const void *user, uint32_t a, uint32_t b)
{
    const mfi_vocab_token *tokens = user;
    return compare(&tokens[a], tokens[b].text, tokens[b].bytes) < 0;
}

/* A normal piece of this text, or MFI_NO_TOKEN; order[n_token] is by text. */
static uint32_t find_normal(const mfi_vocab_builder *b, const mfi_source_piece *pieces, const uint32_t *order,
                            const char *text, size_t bytes)
{
    uint32_t low = 0, high = b->vocab.n_token;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (compare(&b->tokens[order[middle]], text, bytes) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    /* Byte pieces may have the same text. */
    for (; low < b->vocab.n_token && compare(&b->tokens[order[low]], text, bytes) == 0; low++)
        if (b->tokens[order[low]].is_piece && pieces[order[low]].type == MFI_PIECE_NORMAL) return order[low];
    return MFI_NO_TOKEN;
}

/* Every way to make the piece out of two. */
static mf_status add_merges(mfi_vocab_builder *b, const mfi_source_piece *pieces, const uint32_t *order, uint32_t whole,
                            uint32_t rank)
{
    const mfi_vocab_token *token = &b->tokens[whole];
    size_t length;
    for (size_t at = 0; at < token->bytes; at += length) {
        mfi_utf8_first(token->text + at, token->bytes - at, &length);
        const uint32_t left = at > 0 ? find_normal(b, pieces, order, token->text, at) : MFI_NO_TOKEN;
        if (left == MFI_NO_TOKEN) continue;
        const uint32_t right = find_normal(b, pieces, order, token->text + at, token->bytes - at);
        if (right == MFI_NO_TOKEN) continue;
        if (b->vocab.n_merge == b->merge_room)
            return mfi_fail(b->error, MF_E_UNSUPPORTED, "%s: more than %u merges", b->name, MFI_MAX_MERGES);
        b->merges[b->vocab.n_merge++] = (mfi_vocab_merge){ left, right, whole, rank };
    }
    return MF_OK;
}

/* Pieces of the same score have the same rank: then the leftmost place comes first. */
static mf_status set_merges(mfi_vocab_builder *b, const mfi_source_piece *pieces)
{
    const uint32_t n = b->vocab.n_token;
    uint32_t *order = mfi_alloc_array(&b->allocator, n, 3 * sizeof *order);
    if (!order) return mfi_fail(b->error, MF_E_NOMEM, "%s: no memory for %u pieces", b->name, n);
    uint32_t *ranked = order + n;
    mfi_sort_indices(order, order + (size_t)2 * n, n, text_less, b->tokens);
    mfi_sort_indices(ranked, order + (size_t)2 * n, n, better, pieces);
    mf_status status = MF_OK;
    uint32_t rank = 0;
    for (uint32_t i = 0; i < n && status == MF_OK; i++) {
        if (i > 0 && pieces[ranked[i]].score != pieces[ranked[i - 1]].score) rank = b->vocab.n_merge;
        if (b->tokens[ranked[i]].is_piece && pieces[ranked[i]].type == MFI_PIECE_NORMAL)
            status = add_merges(b, pieces, order, ranked[i], rank);
    }
    mfi_free(&b->allocator, order, n * 3 * sizeof *order);
    return status;
}

mf_status mfi_builder_pieces(mfi_vocab_builder *b, const mf_allocator *allocator, const char *name,
                             mfi_tokenizer_kind kind, const mfi_source_piece *pieces, uint32_t n_piece, mf_error *error)
{
    uint64_t pool = 0;
    for (uint32_t i = 0; i < n_piece; i++)
        pool += pieces[i].bytes;
    const uint64_t n_merge = kind == MFI_UNIGRAM ? 0 : pool < MFI_MAX_MERGES ? pool : MFI_MAX_MERGES;
    mf_status status = mfi_builder_begin(b, allocator, name, n_piece, n_piece, n_merge, pool, error);
    b->vocab.kind = kind;
    b->vocab.pretokenizer = MFI_PRE_NONE;
    for (uint32_t i = 0; i < n_piece && status == MF_OK; i++)
        status = set_piece(b, i, &pieces[i]);
    if (status != MF_OK) return status;
    if (kind == MFI_UNIGRAM) {
        set_scores(b, pieces);
        return MF_OK;
    }
    return set_merges(b, pieces);
}
