/* tokenizer_unigram.c - the cut of a text into pieces whose scores have the greatest sum. */
#include "defs.h"
#include "tokenizer_internal.h"
#include "unicode.h"

/* The best way to get to a place in the text: the last piece of it, and the sum. Sums are floats, and of equal ones the
 * longer last piece stays, as with SentencePiece. */
typedef struct best {
    uint32_t begin, token; /* MFI_NO_TOKEN: an unknown character */
    float score;
    bool is_reached;
} best;

static void reach(best *end, float score, uint32_t begin, uint32_t token)
{
    if (end->is_reached && !(score > end->score)) return;
    *end = (best){ begin, token, score, true };
}

/* All pieces that begin at `at`, and an unknown character where none is one character long. Pieces are bounded, and so
 * is the work for a character. */
static size_t reach_from(const mfi_tokenizer *t, const mfi_texts *pieces, const char *text, size_t bytes, size_t at,
                         best *ways)
{
    size_t character;
    mfi_utf8_first(text + at, bytes - at, &character);
    const float score = ways[at].score;
    uint32_t low = 0, high = pieces->n;
    bool has_one = false;
    for (uint32_t depth = 0; at + depth < bytes; depth++) {
        if (!mfi_texts_narrow(pieces, &low, &high, depth, (unsigned char)text[at + depth])) break;
        const uint32_t token = pieces->entry[low];
        if (t->text_at[token + 1] - t->text_at[token] != depth + 1) continue;
        has_one = has_one || depth + 1 == character;
        reach(&ways[at + depth + 1], score + t->scores[token], (uint32_t)at, token);
    }
    if (!has_one) reach(&ways[at + character], score + t->scores[t->unknown], (uint32_t)at, MFI_NO_TOKEN);
    return character;
}

mf_status mfi_unigram_encode(const mfi_tokenizer *t, const char *text, size_t bytes, mfi_token_sink *sink)
{
    const mfi_texts pieces = mfi_pieces(t);
    if (bytes >= UINT32_MAX) return MF_E_RANGE;
    best *ways = mfi_alloc_array(&t->allocator, bytes + 1, sizeof *ways);
    if (!ways) return MF_E_NOMEM;
    for (size_t at = 0; at < bytes;)
        at += reach_from(t, &pieces, text, bytes, at, ways);
    /* Back from the end, turning the way round: `begin` of a place becomes where its piece ends. */
    uint32_t next = (uint32_t)bytes, after = 0, token = 0;
    for (uint32_t at = next; at > 0; at = next) {
        const best way = ways[at];
        ways[at].begin = after;
        ways[at].token = token;
        after = at;
        token = way.token;
        next = way.begin;
    }
    for (uint32_t at = 0; at < bytes; at = after) {
        if (at > 0) {
            after = ways[at].begin;
            token = ways[at].token;
        }
        if (token != MFI_NO_TOKEN)
            mfi_put_token(sink, token);
        else
            mfi_put_unknown(t, sink, text + at, after - at);
    }
    mfi_free(&t->allocator, ways, (bytes + 1) * sizeof *ways);
    return MF_OK;
}
