/* vocab_builder.h - a vocabulary that grows out of a file, until it is stored as a blob. */
#ifndef MFI_VOCAB_BUILDER_H
#define MFI_VOCAB_BUILDER_H

#include "json.h"
#include "tokenizer.h"

typedef struct mfi_vocab_builder {
    mf_allocator allocator;
    const char *name; /* of the file, for messages */
    mf_error *error;
    mfi_vocab vocab;
    mfi_vocab_token *tokens; /* [n_token] */
    mfi_vocab_added *added;  /* [added_room] */
    mfi_vocab_merge *merges; /* [merge_room] */
    float *scores;           /* [n_token] */
    char *pool;              /* [pool_bytes] texts */
    size_t added_room, merge_room, pool_bytes, n_pool;
    uint32_t byte_tokens[MFI_BYTE_TOKENS];
    int32_t stops[MFI_MAX_STOPS];
} mfi_vocab_builder;

/* Room for so much; fails where it is more than a tokenizer may have. Texts become no longer than they were, so that
 * their lengths in the file are enough for the pool. */
mf_status mfi_builder_begin(mfi_vocab_builder *b, const mf_allocator *allocator, const char *name, uint64_t n_token,
                            uint64_t n_added, uint64_t n_merge, uint64_t pool_bytes, mf_error *error);
void mfi_builder_free(mfi_vocab_builder *b);
mf_status mfi_builder_store(mfi_vocab_builder *b, void **blob, size_t *bytes);

/* ---- Texts: copies in the pool ---- */

/* As SentencePiece writes it: U+2581 is a space. */
const char *mfi_builder_spaced(mfi_vocab_builder *b, const char *text, size_t bytes, uint32_t *out_bytes);
/* As GPT-2 writes it: each character stands for a byte. NULL where one does not. */
const char *mfi_builder_bytes(mfi_vocab_builder *b, const char *text, size_t bytes, uint32_t *out_bytes);
const char *mfi_builder_copy(mfi_vocab_builder *b, const char *text, size_t bytes);
/* The value of "<0x41>", or -1. */
int mfi_byte_name(const char *text, size_t bytes);

void mfi_builder_add(mfi_vocab_builder *b, uint32_t token, const char *text, size_t bytes, uint32_t flags);
/* Of an added text, or -1. */
int32_t mfi_builder_find(const mfi_vocab_builder *b, const char *text, size_t bytes);
/* One more token that ends an answer; those beyond MFI_MAX_STOPS, and what is no token, are refused. */
mf_status mfi_builder_stop(mfi_vocab_builder *b, int64_t token);
/* Byte-level: which token each byte is; pieces are set. */
void mfi_builder_find_bytes(mfi_vocab_builder *b);
/* The format of chats that a template is about, where the vocabulary has its control tokens. */
void mfi_builder_chat(mfi_vocab_builder *b, const char *chat_template, size_t bytes);

/* ---- SentencePiece ---- */

typedef enum mfi_piece_type {
    MFI_PIECE_NORMAL = 1,
    MFI_PIECE_UNKNOWN = 2,
    MFI_PIECE_CONTROL = 3,
    MFI_PIECE_USER = 4,
    MFI_PIECE_UNUSED = 5,
    MFI_PIECE_BYTE = 6
} mfi_piece_type;
typedef struct mfi_source_piece {
    const char *text;
    size_t bytes;
    float score;
    uint32_t type;
    bool is_plain; /* its spaces are the text's own: GGUF writes user-defined pieces so */
} mfi_source_piece;

/* Begins the builder and fills it; vocab.kind and flags are set before the store by the caller. */
mf_status mfi_builder_pieces(mfi_vocab_builder *b, const mf_allocator *allocator, const char *name,
                             mfi_tokenizer_kind kind, const mfi_source_piece *pieces, uint32_t n_piece,
                             mf_error *error);

/* ---- The files of a folder ---- */

mf_status mfi_build_json(mfi_vocab_builder *b, const mf_allocator *allocator, const mfi_json *json, mf_error *error);
mf_status mfi_build_spm(mfi_vocab_builder *b, const mf_allocator *allocator, const char *name, const void *model,
                        size_t model_bytes, mf_error *error);

#endif
