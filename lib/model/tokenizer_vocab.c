/* tokenizer_vocab.c - a loaded tokenizer as the vocabulary that its blob was stored from, for writers of other formats. */
#include "defs.h"
#include "status.h"
#include "tokenizer_internal.h"

typedef struct vocab_copy {
    mfi_vocab vocab; /* first: it is what the caller has */
    mf_allocator allocator;
    size_t bytes;
    mfi_vocab_token *tokens; /* [n_token] */
    mfi_vocab_merge *merges; /* [n_merge] */
    mfi_vocab_added *added;  /* [n_added] */
    uint32_t *order;         /* [2 * n_merge] */
} vocab_copy;

static void lay_out(vocab_copy **copy, mfi_arena *arena, const mfi_tokenizer *t)
{
    vocab_copy *c = mfi_carve(arena, 1, sizeof *c);
    mfi_vocab_token *tokens = mfi_carve(arena, t->n_vocab, sizeof *tokens);
    mfi_vocab_merge *merges = mfi_carve(arena, (size_t)2 * t->n_merge, sizeof *merges);
    mfi_vocab_added *added = mfi_carve(arena, t->n_added, sizeof *added);
    uint32_t *order = mfi_carve(arena, (size_t)2 * t->n_merge, sizeof *order);
    if (!c) return;
    *c = (vocab_copy){ .allocator = t->allocator, .tokens = tokens, .merges = merges, .added = added, .order = order };
    *copy = c;
}

static void copy_tokens(vocab_copy *c, const mfi_tokenizer *t)
{
    for (uint32_t i = 0; i < t->n_vocab; i++)
        c->tokens[i] = (mfi_vocab_token){ t->text + t->text_at[i], t->text_at[i + 1] - t->text_at[i], false };
    for (uint32_t i = 0; i < t->n_piece; i++)
        c->tokens[t->pieces[i]].is_piece = true;
    for (uint32_t i = 0; i < t->n_added; i++) {
        const uint32_t at = t->n_vocab + t->added[i];
        c->added[i] = (mfi_vocab_added){ t->text + t->text_at[at], t->text_at[at + 1] - t->text_at[at],
                                         t->added_token[i], t->added_flags[i] };
    }
}

static bool happens_first(const void *user, uint32_t a, uint32_t b)
{
    const mfi_vocab_merge *merges = user;
    return merges[a].rank < merges[b].rank;
}

/* They lie by their left tokens; a vocabulary has them by rank. */
static void copy_merges(vocab_copy *c, const mfi_tokenizer *t)
{
    mfi_vocab_merge *found = c->merges + t->n_merge;
    for (uint32_t left = 0; left < t->n_vocab; left++)
        for (uint32_t at = t->first[left]; at < t->first[left + 1]; at++)
            found[at] = (mfi_vocab_merge){ left, t->right[at], t->whole[at], t->rank[at] };
    mfi_sort_indices(c->order, c->order + t->n_merge, t->n_merge, happens_first, found);
    for (uint32_t i = 0; i < t->n_merge; i++)
        c->merges[i] = found[c->order[i]];
}

mf_status mfi_vocab_read(mfi_vocab **out, const mfi_tokenizer *t, mf_error *error)
{
    *out = NULL;
    mfi_arena arena = { NULL, 0 };
    vocab_copy *c = NULL;
    lay_out(&c, &arena, t);
    const size_t bytes = arena.used;
    arena.base = mfi_alloc(&t->allocator, bytes);
    if (!arena.base) return mfi_fail(error, MF_E_NOMEM, "no memory for a vocabulary of %u tokens", t->n_vocab);
    arena.used = 0;
    lay_out(&c, &arena, t);
    c->bytes = bytes;
    copy_tokens(c, t);
    copy_merges(c, t);
    c->vocab = (mfi_vocab){ .kind = t->kind,
                            .pretokenizer = t->pretokenizer,
                            .flags = t->flags,
                            .chat = t->chat,
                            .bos = t->bos,
                            .eos = t->eos,
                            .unknown = t->unknown,
                            .tokens = c->tokens,
                            .n_token = t->n_vocab,
                            .scores = t->scores,
                            .byte_tokens = t->byte_tokens[0] == MFI_NO_TOKEN ? NULL : t->byte_tokens,
                            .merges = c->merges,
                            .n_merge = t->n_merge,
                            .added = c->added,
                            .n_added = t->n_added,
                            .stops = t->stops,
                            .n_stop = t->n_stop };
    *out = &c->vocab;
    return MF_OK;
}

void mfi_vocab_free(mfi_vocab *vocab)
{
    if (!vocab) return;
    vocab_copy *c = (vocab_copy *)vocab;
    const mf_allocator allocator = c->allocator;
    mfi_free(&allocator, c, c->bytes);
}
