/* tokenizer.h - text to tokens and back, and the blob that a file stores.
 *
 * One structure holds what our own and other people's tokenizers need: byte-level BPE, SentencePiece BPE, Unigram.
 * Control tokens (end of text, turns of a chat) stand for no bytes: they decode to nothing, and text becomes one only
 * where the caller asks for it. docs/tokenizer.md has the rules and the blob.
 */
#ifndef MFI_TOKENIZER_H
#define MFI_TOKENIZER_H

#include <stdbool.h>

#include "arena.h"
#include "matformer.h"
#include "pretokenize.h"

#define MFI_BYTE_TOKENS 256u
#define MFI_MAX_VOCAB (1u << 20)
#define MFI_MAX_MERGES (1u << 22)
#define MFI_MAX_TOKEN_BYTES 1024u
#define MFI_MAX_VOCAB_TEXT (16u << 20) /* of all tokens together: a blob cannot ask for more memory than this */
#define MFI_MAX_STOPS 64u
#define MFI_NO_TOKEN UINT32_MAX

typedef struct mfi_tokenizer mfi_tokenizer;

typedef struct mfi_merge {
    uint32_t left, right; /* tokens */
} mfi_merge;

/* From the blob; every field is checked. The blob may go afterwards. */
mf_status mfi_tokenizer_load(mfi_tokenizer **out, const mf_allocator *allocator, const void *blob, size_t bytes,
                             mf_error *error);
void mfi_tokenizer_free(mfi_tokenizer *tokenizer);
uint32_t mfi_tokenizer_vocab(const mfi_tokenizer *tokenizer);
int32_t mfi_tokenizer_bos(const mfi_tokenizer *tokenizer);                     /* -1: none */
int32_t mfi_tokenizer_eos(const mfi_tokenizer *tokenizer);                     /* -1: none */
bool mfi_tokenizer_stops(const mfi_tokenizer *tokenizer, int32_t token);       /* eos, or another end of an answer */
int32_t mfi_tokenizer_control(const mfi_tokenizer *tokenizer, const char *at); /* by its name; -1: none */
mf_chat_format mfi_tokenizer_chat(const mfi_tokenizer *tokenizer);

/* As mf_tokenize / mf_detokenize; any thread. Time O(n log n) at worst for any text; no recursion. Normalizing text,
 * and pieces of more than 128 bytes, take memory from the allocator for the time of the call. */
enum {
    MFI_ENCODE_CONTROL = 1, /* names of control tokens in the text become those tokens */
    MFI_ENCODE_ENDS = 2     /* bos and eos where the tokenizer's file wants them */
};
mf_status mfi_tokenizer_encode(const mfi_tokenizer *tokenizer, const char *text, size_t bytes, unsigned how,
                               int32_t *tokens, size_t capacity, size_t *n_token);
mf_status mfi_tokenizer_decode(const mfi_tokenizer *tokenizer, const int32_t *tokens, size_t n_token, char *text,
                               size_t capacity, size_t *bytes);
/* The bytes of one token, not terminated; NULL when out of range; control tokens have 0 bytes. A whole text decodes to
 * these in turn, less one leading space where encoding adds one. */
const char *mfi_tokenizer_token(const mfi_tokenizer *tokenizer, int32_t token, size_t *bytes);

/* ---- Writing blobs ---- */

/* Version 1: our own byte-level BPE of these merges; with `end_of_text` one control token follows them. *out has *bytes
 * bytes and is freed with mfi_free(allocator, ...). */
mf_status mfi_tokenizer_store(void **out, size_t *bytes, const mf_allocator *allocator, const mfi_merge *merges,
                              uint32_t n_merge, int end_of_text, mf_error *error);

/* Version 2: what an importer found. The numbers are the blob's. */
typedef enum mfi_tokenizer_kind { MFI_BYTE_BPE = 1, MFI_CHARACTER_BPE = 2, MFI_UNIGRAM = 3 } mfi_tokenizer_kind;
enum {
    MFI_VOCAB_IGNORE_MERGES = 1,  /* a piece that is a token is that token, whatever the merges say */
    MFI_VOCAB_NFC = 2,            /* text is normalized */
    MFI_VOCAB_PREFIX = 4,         /* a text that is not empty begins with a space */
    MFI_VOCAB_PREFIX_EACH = 8,    /* and so does what follows an added token */
    MFI_VOCAB_PREFIX_UNLESS = 16, /* but none before a space */
    MFI_VOCAB_ONE_SPACE = 32,     /* runs of spaces become one; none at the ends */
    MFI_VOCAB_FUSE_UNKNOWN = 64,  /* neighbouring unknown characters are one token */
    MFI_VOCAB_DROP_SPACE = 128,   /* decoding drops one leading space */
    MFI_VOCAB_ADD_BOS = 256,
    MFI_VOCAB_ADD_EOS = 512,
    MFI_VOCAB_ALL_FLAGS = 1023
};
/* A text that is a token wherever it occurs, the longest one first. */
enum {
    MFI_ADDED_CONTROL = 1,   /* only where the caller asks for it */
    MFI_ADDED_NORMALIZED = 2 /* found in the normalized text, not in the text as it came */
};
typedef struct mfi_vocab_token {
    const char *text; /* what it decodes to, not terminated; spaces as spaces */
    uint32_t bytes;   /* 0: a control token or a gap */
    bool is_piece;    /* text can become it; pieces have different texts */
} mfi_vocab_token;
typedef struct mfi_vocab_merge {
    uint32_t left, right, whole;
    uint32_t rank; /* never falls from one merge to the next; of equal ones the leftmost place comes first */
} mfi_vocab_merge;
typedef struct mfi_vocab_added {
    const char *text;
    uint32_t bytes, token, flags;
} mfi_vocab_added;
typedef struct mfi_vocab {
    mfi_tokenizer_kind kind;
    mfi_pretokenizer pretokenizer;
    uint32_t flags;
    mf_chat_format chat;
    int32_t bos, eos, unknown;     /* -1: none */
    const mfi_vocab_token *tokens; /* [n_token] */
    uint32_t n_token;
    const float *scores;           /* [n_token] of Unigram; that of `unknown` is one unknown character's */
    const uint32_t *byte_tokens;   /* [256] or NULL: no byte fallback */
    const mfi_vocab_merge *merges; /* [n_merge] of BPE */
    uint32_t n_merge;
    const mfi_vocab_added *added; /* [n_added] */
    uint32_t n_added;
    const int32_t *stops; /* [n_stop] tokens that end an answer, beside eos */
    uint32_t n_stop;
} mfi_vocab;
/* As mfi_tokenizer_store(). Checks what the caller may have read from a file. */
mf_status mfi_vocab_store(void **out, size_t *bytes, const mf_allocator *allocator, const mfi_vocab *vocab,
                          mf_error *error);

/* The same again from a loaded tokenizer, merges by rank; texts, scores and byte tokens are the tokenizer's own, and live
 * as long as it does. */
mf_status mfi_vocab_read(mfi_vocab **out, const mfi_tokenizer *tokenizer, mf_error *error);
void mfi_vocab_free(mfi_vocab *vocab);

/* Numbers 0..n-1 in the order of `less`, equal ones as they stood; `scratch` is [n] too. */
void mfi_sort_indices(uint32_t *order, uint32_t *scratch, size_t n, bool (*less)(const void *user, uint32_t, uint32_t),
                      const void *user);

#endif
