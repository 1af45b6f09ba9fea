/* tokenizer.c - from text to pieces and from tokens to text; tokenizer_bpe.c and tokenizer_unigram.c do a piece. */
#include "tokenizer.h"

#include <string.h>

#include "defs.h"
#include "status.h"
#include "tokenizer_internal.h"
#include "unicode.h"

#define SPACE_SYMBOL "\xe2\x96\x81" /* U+2581, which stands for a space in vocabularies of SentencePiece */
#define SPACE_SYMBOL_BYTES 3u

/* ---- What it is ---- */

uint32_t mfi_tokenizer_vocab(const mfi_tokenizer *tokenizer)
{
    return tokenizer->n_vocab;
}

int32_t mfi_tokenizer_bos(const mfi_tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t mfi_tokenizer_eos(const mfi_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

mf_chat_format mfi_tokenizer_chat(const mfi_tokenizer *tokenizer)
{
    return tokenizer->chat;
}

bool mfi_tokenizer_stops(const mfi_tokenizer *t, int32_t token)
{
    bool stops = token == t->eos;
    for (uint32_t i = 0; i < t->n_stop; i++)
        stops = stops || token == t->stops[i];
    return stops && token >= 0;
}

static mfi_texts added_texts(const mfi_tokenizer *t)
{
    return (mfi_texts){ t->text, t->text_at + t->n_vocab, t->added, t->n_added };
}

int32_t mfi_tokenizer_control(const mfi_tokenizer *t, const char *name)
{
    const mfi_texts added = added_texts(t);
    const uint32_t at = mfi_texts_find(&added, name, strlen(name));
    if (at == MFI_NO_TOKEN || !(t->added_flags[at] & MFI_ADDED_CONTROL)) return -1;
    return (int32_t)t->added_token[at];
}

/* ---- Finding texts ---- */

/* The byte of an entry at `depth`, + 1; 0 where it ends there. */
static uint32_t key_at(const mfi_texts *texts, uint32_t place, uint32_t depth)
{
    const uint32_t entry = texts->entry[place], begin = texts->text_at[entry];
    return begin + depth < texts->text_at[entry + 1] ? (unsigned char)texts->text[begin + depth] + 1u : 0;
}

/* The first place in [low, high) whose key is at least `key`, or `high`. */
static uint32_t first_of(const mfi_texts *texts, uint32_t low, uint32_t high, uint32_t depth, uint32_t key)
{
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (key_at(texts, middle, depth) < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool mfi_texts_narrow(const mfi_texts *texts, uint32_t *low, uint32_t *high, uint32_t depth, unsigned char byte)
{
    *low = first_of(texts, *low, *high, depth, byte + 1u);
    *high = first_of(texts, *low, *high, depth, byte + 2u);
    return *low < *high;
}

uint32_t mfi_texts_find(const mfi_texts *texts, const char *text, size_t bytes)
{
    uint32_t low = 0, high = texts->n;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2, entry = texts->entry[middle];
        const size_t begin = texts->text_at[entry], length = texts->text_at[entry + 1] - begin;
        const int order = memcmp(texts->text + begin, text, mfi_min(length, bytes));
        if (order == 0 && length == bytes) return middle;
        if (order < 0 || (order == 0 && length < bytes))
            low = middle + 1;
        else
            high = middle;
    }
    return MFI_NO_TOKEN;
}

/* ---- Added tokens ---- */

typedef struct finder {
    mfi_texts texts;
    const mfi_tokenizer *tokenizer;
    uint32_t mask, wanted; /* of the flags */
    bool begins[256];      /* some added text begins with the byte */
} finder;

static finder begin_finding(const mfi_tokenizer *t, bool is_normalized, bool with_control)
{
    finder f = { .texts = added_texts(t), .tokenizer = t };
    f.mask = MFI_ADDED_NORMALIZED | (with_control ? 0 : MFI_ADDED_CONTROL);
    f.wanted = is_normalized ? MFI_ADDED_NORMALIZED : 0;
    for (uint32_t i = 0; i < t->n_added; i++)
        if ((t->added_flags[i] & f.mask) == f.wanted) f.begins[key_at(&f.texts, i, 0) - 1] = true;
    return f;
}

/* Bytes of the longest one that begins here, or 0. */
static size_t added_here(const finder *f, const char *text, size_t bytes, uint32_t *token)
{
    uint32_t low = 0, high = f->texts.n;
    size_t found = 0;
    if (!f->begins[(unsigned char)text[0]]) return 0;
    for (uint32_t depth = 0; depth < bytes; depth++) {
        if (!mfi_texts_narrow(&f->texts, &low, &high, depth, (unsigned char)text[depth])) break;
        if (key_at(&f->texts, low, depth + 1) != 0 || (f->tokenizer->added_flags[low] & f->mask) != f->wanted) continue;
        found = depth + 1;
        *token = f->tokenizer->added_token[low];
    }
    return found;
}

/* Where the next one begins in `text` from `at` on; `bytes` and *length 0 where there is none. */
static size_t find_added(const finder *f, const char *text, size_t bytes, size_t at, size_t *length, uint32_t *token)
{
    *length = 0;
    if (f->texts.n == 0) return bytes;
    for (; at < bytes; at++)
        if ((*length = added_here(f, text + at, bytes - at, token)) > 0) break;
    return at;
}

/* ---- Spaces, as SentencePiece normalizes them ---- */

static bool is_symbol(const char *text, size_t bytes)
{
    return bytes >= SPACE_SYMBOL_BYTES && memcmp(text, SPACE_SYMBOL, SPACE_SYMBOL_BYTES) == 0;
}

static bool wants_prefix(const mfi_tokenizer *t, const char *text, size_t bytes, bool is_first)
{
    if (!(t->flags & (is_first ? MFI_VOCAB_PREFIX : MFI_VOCAB_PREFIX_EACH)) || bytes == 0) return false;
    return !(t->flags & MFI_VOCAB_PREFIX_UNLESS) || !(text[0] == ' ' || is_symbol(text, bytes));
}

/* To out[bytes + 1]; returns its bytes. The symbol and the space become the same byte, which is the one that our copy
 * of the vocabulary has. */
static size_t normalize_spaces(const mfi_tokenizer *t, const char *text, size_t bytes, bool is_first, char *out)
{
    const bool one_space = t->flags & MFI_VOCAB_ONE_SPACE;
    size_t at = 0, n = 0;
    while (one_space && at < bytes && text[at] == ' ')
        at++;
    if (wants_prefix(t, text + at, bytes - at, is_first)) out[n++] = ' ';
    for (bool after_space = false; at < bytes; at++) {
        const bool is_space = text[at] == ' ';
        if (is_symbol(text + at, bytes - at)) {
            out[n++] = ' ';
            at += SPACE_SYMBOL_BYTES - 1;
        } else if (!(one_space && is_space && after_space)) {
            out[n++] = text[at];
        }
        after_space = is_space;
    }
    while (one_space && n > 0 && out[n - 1] == ' ')
        n--;
    return n;
}

/* ---- Encoding ---- */

void mfi_put_unknown(const mfi_tokenizer *t, mfi_token_sink *sink, const char *text, size_t bytes)
{
    if (t->byte_tokens[0] == MFI_NO_TOKEN) {
        if (!sink->after_unknown || !(t->flags & MFI_VOCAB_FUSE_UNKNOWN)) mfi_put_token(sink, (uint32_t)t->unknown);
        sink->after_unknown = true;
        return;
    }
    if (text[0] == ' ') { /* it was the symbol in their vocabulary */
        text = SPACE_SYMBOL;
        bytes = SPACE_SYMBOL_BYTES;
    }
    for (size_t i = 0; i < bytes; i++)
        mfi_put_token(sink, t->byte_tokens[(unsigned char)text[i]]);
}

static mf_status encode_span(const mfi_tokenizer *t, const char *text, size_t bytes, mfi_token_sink *sink)
{
    mf_status status = MF_OK;
    if (t->kind == MFI_UNIGRAM) return mfi_unigram_encode(t, text, bytes, sink);
    for (size_t at = 0, piece; at < bytes && status == MF_OK; at += piece) {
        piece = mfi_pretokenize(t->pretokenizer, text + at, bytes - at);
        status = mfi_bpe_encode(t, text + at, piece, sink);
    }
    return status;
}

static mf_status encode_normalized(const mfi_tokenizer *t, const char *text, size_t bytes, bool with_control,
                                   mfi_token_sink *sink)
{
    const finder f = begin_finding(t, true, with_control);
    mf_status status = MF_OK;
    for (size_t begin = 0, length; begin < bytes && status == MF_OK; begin += length) {
        uint32_t token = 0;
        const size_t end = find_added(&f, text, bytes, begin, &length, &token);
        if (end > begin) status = encode_span(t, text + begin, end - begin, sink);
        if (length > 0) mfi_put_token(sink, token);
        begin = end;
    }
    return status;
}

static mf_status encode_segment(const mfi_tokenizer *t, const char *text, size_t bytes, bool is_first,
                                bool with_control, mfi_token_sink *sink)
{
    char *normal = (char *)text;
    size_t n = bytes, normal_bytes = bytes;
    mf_status status = MF_OK;
    if (t->kind != MFI_BYTE_BPE) {
        normal_bytes = bytes + 1;
        normal = mfi_alloc(&t->allocator, normal_bytes);
        if (!normal) return MF_E_NOMEM;
        n = normalize_spaces(t, text, bytes, is_first, normal);
    } else if (t->flags & MFI_VOCAB_NFC) {
        status = mfi_nfc(&t->allocator, text, bytes, &normal, &n);
        normal_bytes = n;
    }
    if (status == MF_OK) status = encode_normalized(t, normal, n, with_control, sink);
    if (normal != text) mfi_free(&t->allocator, normal, normal_bytes);
    return status;
}

mf_status mfi_tokenizer_encode(const mfi_tokenizer *t, const char *text, size_t bytes, unsigned how, int32_t *tokens,
                               size_t capacity, size_t *n_token)
{
    const bool with_control = how & MFI_ENCODE_CONTROL, with_ends = how & MFI_ENCODE_ENDS;
    const finder f = begin_finding(t, false, with_control);
    mfi_token_sink sink = { tokens, capacity, 0, false };
    mf_status status = MF_OK;
    if (with_ends && t->flags & MFI_VOCAB_ADD_BOS) mfi_put_token(&sink, (uint32_t)t->bos);
    for (size_t begin = 0, length; begin < bytes && status == MF_OK; begin += length) {
        uint32_t token = 0;
        const size_t end = find_added(&f, text, bytes, begin, &length, &token);
        if (end > begin) status = encode_segment(t, text + begin, end - begin, begin == 0, with_control, &sink);
        if (length > 0) mfi_put_token(&sink, token);
        begin = end;
    }
    if (with_ends && t->flags & MFI_VOCAB_ADD_EOS) mfi_put_token(&sink, (uint32_t)t->eos);
    *n_token = sink.n_token;
    if (status != MF_OK) return status;
    return sink.n_token <= capacity ? MF_OK : MF_E_CAPACITY;
}

/* ---- Back to text ---- */

const char *mfi_tokenizer_token(const mfi_tokenizer *t, int32_t token, size_t *bytes)
{
    *bytes = 0;
    if (token < 0 || (uint32_t)token >= t->n_vocab) return NULL;
    *bytes = t->text_at[token + 1] - t->text_at[token];
    return t->text + t->text_at[token];
}

mf_status mfi_tokenizer_decode(const mfi_tokenizer *t, const int32_t *tokens, size_t n_token, char *text,
                               size_t capacity, size_t *bytes)
{
    *bytes = 0;
    bool fits = true, drop_space = t->flags & MFI_VOCAB_DROP_SPACE;
    for (size_t i = 0; i < n_token; i++) {
        size_t length;
        const char *from = mfi_tokenizer_token(t, tokens[i], &length);
        if (!from) return MF_E_RANGE;
        if (length == 0) continue;
        const size_t dropped = drop_space && from[0] == ' ';
        length -= dropped;
        fits = fits && length <= capacity - *bytes;
        if (fits && length > 0) memcpy(text + *bytes, from + dropped, length);
        *bytes += length;
        /* Where runs of spaces became one, none is left at the head of the text. */
        drop_space = drop_space && t->flags & MFI_VOCAB_ONE_SPACE && *bytes == 0;
    }
    return fits ? MF_OK : MF_E_CAPACITY;
}
