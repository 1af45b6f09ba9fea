/* tokenizer_internal.h - the structure behind mfi_tokenizer, for the files tokenizer*.c alone. */
#ifndef MFI_TOKENIZER_INTERNAL_H
#define MFI_TOKENIZER_INTERNAL_H

#include <string.h>

#include "tokenizer.h"

#define MFI_BLOB_1_BYTES 24u
#define MFI_BLOB_2_BYTES 64u
#define MFI_NO_MERGE UINT32_MAX

/* Texts in ascending order of their bytes, to be found by bisection. */
typedef struct mfi_texts {
    const char *text;
    const uint32_t *text_at; /* of entry i: [text_at[i], text_at[i + 1]) */
    const uint32_t *entry;   /* [n] which entry comes where in the order */
    uint32_t n;
} mfi_texts;

struct mfi_tokenizer {
    mf_allocator allocator;
    size_t arena_bytes, text_bytes;
    mfi_tokenizer_kind kind;
    mfi_pretokenizer pretokenizer;
    uint32_t flags, n_vocab, n_merge, n_piece, n_added, n_stop;
    mf_chat_format chat;
    int32_t bos, eos, unknown;
    char *text;        /* [text_bytes] of tokens, then of added texts */
    uint32_t *text_at; /* [n_vocab + n_added + 1] where each begins */
    uint32_t *pieces;  /* [n_piece] tokens that text can become, in the order of their bytes */
    float *scores;     /* [n_vocab] or NULL */
    uint32_t byte_tokens[MFI_BYTE_TOKENS];
    /* Merges in the order of (left, right): those of a left token are [first[left], first[left + 1]), found by
     * bisection. A hash table would be as quick, but a hostile file could make its chains long. */
    uint32_t *first;       /* [n_vocab + 1] */
    uint32_t *right;       /* [n_merge] */
    uint32_t *rank;        /* [n_merge] lower ones happen first */
    uint32_t *whole;       /* [n_merge] the token that they make */
    uint32_t *added;       /* [n_added] entries n_vocab + i of text_at, in the order of their bytes */
    uint32_t *added_token; /* [n_added] */
    uint32_t *added_flags; /* [n_added] */
    int32_t *stops;        /* [n_stop] */
};

static inline uint32_t mfi_load_u32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline void mfi_store_u32(unsigned char *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(value >> (8 * i));
}

/* Narrows [*low, *high), entries that agree in their first `depth` bytes, to those whose next byte is `byte`; false
 * where there is none. The first of them is the one that ends there, if any does. */
bool mfi_texts_narrow(const mfi_texts *texts, uint32_t *low, uint32_t *high, uint32_t depth, unsigned char byte);
/* Place of the entry that is exactly this text in the order, or MFI_NO_TOKEN. */
uint32_t mfi_texts_find(const mfi_texts *texts, const char *text, size_t bytes);

static inline mfi_texts mfi_pieces(const mfi_tokenizer *t)
{
    return (mfi_texts){ t->text, t->text_at, t->pieces, t->n_piece };
}

/* The token that is exactly this text, or MFI_NO_TOKEN. */
static inline uint32_t mfi_find_piece(const mfi_tokenizer *t, const char *text, size_t bytes)
{
    const mfi_texts pieces = mfi_pieces(t);
    const uint32_t at = mfi_texts_find(&pieces, text, bytes);
    return at == MFI_NO_TOKEN ? at : t->pieces[at];
}

/* Where tokens go: those that do not fit are counted. */
typedef struct mfi_token_sink {
    int32_t *tokens;
    size_t capacity, n_token;
    bool after_unknown; /* the last one stands for an unknown character */
} mfi_token_sink;

static inline void mfi_put_token(mfi_token_sink *sink, uint32_t token)
{
    if (sink->n_token < sink->capacity) sink->tokens[sink->n_token] = (int32_t)token;
    sink->n_token++;
    sink->after_unknown = false;
}

/* A character that is no token: its bytes, or the unknown token. */
void mfi_put_unknown(const mfi_tokenizer *t, mfi_token_sink *sink, const char *text, size_t bytes);

/* One piece, which no merge crosses. */
mf_status mfi_bpe_encode(const mfi_tokenizer *t, const char *text, size_t bytes, mfi_token_sink *sink);
mf_status mfi_unigram_encode(const mfi_tokenizer *t, const char *text, size_t bytes, mfi_token_sink *sink);

/* Fills first, right, rank and whole from the list that a blob has. `order` is scratch, [n_merge]. */
mf_status mfi_bpe_index(mfi_tokenizer *t, const mfi_vocab_merge *merges, uint32_t *order, mf_error *error);

#endif
