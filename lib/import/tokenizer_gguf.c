/* tokenizer_gguf.c - the tokenizer in a GGUF file's metadata: "llama" is SentencePiece BPE, "gpt2" byte-level BPE. */
#include <string.h>

#include "defs.h"
#include "status.h"
#include "tokenizer_import.h"
#include "vocab_builder.h"

#define KEY(name) "tokenizer.ggml." name

typedef struct gguf_vocab {
    const mfi_tensor_file *file;
    const char *name;
    mfi_source_piece *pieces; /* [n_piece] */
    mfi_gguf_text *merges;    /* [n_merge] */
    uint32_t n_piece, n_merge;
} gguf_vocab;

static bool is_text(mfi_gguf_text text, const char *wanted)
{
    return text.bytes == strlen(wanted) && memcmp(text.at, wanted, text.bytes) == 0;
}

static bool flag_or(const mfi_tensor_file *file, const char *key, bool none)
{
    bool value;
    return mfi_gguf_bool(file, key, &value) ? value : none;
}

static int keep_piece(void *user, uint64_t index, mfi_gguf_text text)
{
    gguf_vocab *g = user;
    if (index >= g->n_piece) return 1;
    g->pieces[index].text = text.at;
    g->pieces[index].bytes = text.bytes;
    return 0;
}

static int keep_merge(void *user, uint64_t index, mfi_gguf_text text)
{
    gguf_vocab *g = user;
    if (index >= g->n_merge) return 1;
    g->merges[index] = text;
    return 0;
}

/* Numbers for every piece; `none` where the file has no such array. */
static mf_status read_numbers(const gguf_vocab *g, const char *key, double *numbers, double none, mf_error *error)
{
    mfi_gguf_kind kind;
    uint64_t n;
    for (uint32_t i = 0; i < g->n_piece; i++)
        numbers[i] = none;
    if (!mfi_gguf_array(g->file, key, &kind, &n)) return MF_OK;
    if (n == g->n_piece && mfi_gguf_array_f64(g->file, key, numbers, g->n_piece)) return MF_OK;
    return mfi_fail(error, MF_E_FORMAT, "%s: %s is not a number for each of %u tokens", g->name, key, g->n_piece);
}

static mf_status count_texts(const gguf_vocab *g, const char *key, uint32_t most, uint32_t *n, mf_error *error)
{
    mfi_gguf_kind kind;
    uint64_t count = 0;
    *n = 0;
    if (!mfi_gguf_array(g->file, key, &kind, &count)) return MF_OK;
    if (kind != MFI_GGUF_TEXT || count > most)
        return mfi_fail(error, MF_E_FORMAT, "%s: %s is no array of at most %u texts", g->name, key, most);
    *n = (uint32_t)count;
    return MF_OK;
}

static mf_status read_pieces(gguf_vocab *g, const mf_allocator *allocator, mf_error *error)
{
    double *numbers = mfi_alloc_array(allocator, g->n_piece, sizeof *numbers);
    if (!numbers) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for %u tokens", g->name, g->n_piece);
    mfi_gguf_array_texts(g->file, KEY("tokens"), keep_piece, g);
    mfi_gguf_array_texts(g->file, KEY("merges"), keep_merge, g);
    mf_status status = read_numbers(g, KEY("scores"), numbers, 0, error);
    for (uint32_t i = 0; i < g->n_piece && status == MF_OK; i++)
        g->pieces[i].score = (float)numbers[i];
    if (status == MF_OK) status = read_numbers(g, KEY("token_type"), numbers, MFI_PIECE_NORMAL, error);
    for (uint32_t i = 0; i < g->n_piece && status == MF_OK; i++)
        g->pieces[i].type =
            numbers[i] >= MFI_PIECE_NORMAL && numbers[i] <= MFI_PIECE_BYTE ? (uint32_t)numbers[i] : UINT32_MAX;
    for (uint32_t i = 0; i < g->n_piece && status == MF_OK; i++)
        g->pieces[i].is_plain = g->pieces[i].type == MFI_PIECE_USER;
    mfi_free(allocator, numbers, g->n_piece * sizeof *numbers);
    return status;
}

/* ---- Byte-level BPE ---- */

static int compare(const mfi_source_piece *piece, const char *text, size_t bytes)
{
    const size_t n = mfi_min(piece->bytes, bytes);
    const int order = n > 0 ? memcmp(piece->text, text, n) : 0;
    return order != 0 ? order : (piece->bytes > bytes) - (piece->bytes < bytes);
}

static bool text_less(const void *user, uint32_t a, uint32_t b)
{
    const mfi_source_piece *pieces = user;
    return compare(&pieces[a], pieces[b].text, pieces[b].bytes) < 0;
}

static bool find_piece(const gguf_vocab *g, const uint32_t *order, const char *text, size_t bytes, uint32_t *token)
{
    uint32_t low = 0, high = g->n_piece;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (compare(&g->pieces[order[middle]], text, bytes) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *token = low < g->n_piece ? order[low] : 0;
    return low < g->n_piece && compare(&g->pieces[order[low]], text, bytes) == 0;
}

static mf_status put_merges(mfi_vocab_builder *b, const gguf_vocab *g, const uint32_t *order)
{
    for (uint32_t i = 0; i < g->n_merge; i++) {
        const mfi_gguf_text text = g->merges[i];
        const char *space = text.bytes > 0 ? memchr(text.at, ' ', text.bytes) : NULL;
        const size_t left = space ? (size_t)(space - text.at) : 0, right = space ? text.bytes - left - 1 : 0;
        mfi_vocab_merge *merge = &b->merges[i];
        char whole[4 * MFI_MAX_TOKEN_BYTES];
        bool is_good = space && text.bytes <= sizeof whole;
        if (is_good) {
            memcpy(whole, text.at, left);
            memcpy(whole + left, space + 1, right);
            is_good = find_piece(g, order, text.at, left, &merge->left) &&
                      find_piece(g, order, space + 1, right, &merge->right) &&
                      find_piece(g, order, whole, left + right, &merge->whole);
        }
        if (!is_good)
            return mfi_fail(b->error, MF_E_FORMAT, "%s: merge %u is not of two tokens that make one", b->name, i);
        merge->rank = i;
    }
    b->vocab.n_merge = g->n_merge;
    return MF_OK;
}

static mf_status put_bytes(mfi_vocab_builder *b, const gguf_vocab *g)
{
    for (uint32_t i = 0; i < g->n_piece; i++) {
        const mfi_source_piece *piece = &g->pieces[i];
        mfi_vocab_token *out = &b->tokens[i];
        if (piece->bytes == 0 || piece->bytes > 2 * MFI_MAX_TOKEN_BYTES)
            return mfi_fail(b->error, MF_E_FORMAT, "%s: token %u is empty or too long", b->name, i);
        if (piece->type == MFI_PIECE_CONTROL || piece->type == MFI_PIECE_UNKNOWN) {
            mfi_builder_add(b, i, mfi_builder_copy(b, piece->text, piece->bytes), piece->bytes, MFI_ADDED_CONTROL);
            continue;
        }
        out->text = mfi_builder_bytes(b, piece->text, piece->bytes, &out->bytes);
        out->is_piece = out->text && piece->type == MFI_PIECE_NORMAL;
        if (out->text && piece->type != MFI_PIECE_USER) continue;
        out->text = mfi_builder_copy(b, piece->text, piece->bytes);
        out->bytes = (uint32_t)piece->bytes;
        if (piece->type == MFI_PIECE_USER) mfi_builder_add(b, i, out->text, out->bytes, 0);
    }
    return MF_OK;
}

static mf_status build_bytes(mfi_vocab_builder *b, const gguf_vocab *g, const mf_allocator *allocator, mf_error *error)
{
    uint64_t pool = 0;
    for (uint32_t i = 0; i < g->n_piece; i++)
        pool += 2 * (uint64_t)g->pieces[i].bytes;
    mf_status status = mfi_builder_begin(b, allocator, g->name, g->n_piece, g->n_piece, g->n_merge, pool, error);
    if (status != MF_OK) return status;
    mfi_gguf_text pre = { "", 0 };
    mfi_gguf_text_of(g->file, KEY("pre"), &pre);
    b->vocab.kind = MFI_BYTE_BPE;
    if (is_text(pre, "llama-bpe") || is_text(pre, "llama3")) {
        b->vocab.pretokenizer = MFI_PRE_LLAMA3;
        b->vocab.flags = MFI_VOCAB_IGNORE_MERGES;
    } else if (is_text(pre, "gpt-2") || is_text(pre, "olmo")) {
        b->vocab.pretokenizer = MFI_PRE_GPT2;
    } else {
        return mfi_fail(error, MF_E_UNSUPPORTED, "%s: the pre-tokenizer \"%.*s\" is not known", g->name,
                        (int)mfi_min(pre.bytes, 60), pre.at);
    }
    status = put_bytes(b, g);
    if (status != MF_OK) return status;
    mfi_builder_find_bytes(b);
    uint32_t *order = mfi_alloc_array(allocator, g->n_piece, 2 * sizeof *order);
    if (!order) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for %u tokens", g->name, g->n_piece);
    mfi_sort_indices(order, order + g->n_piece, g->n_piece, text_less, g->pieces);
    status = put_merges(b, g, order);
    mfi_free(allocator, order, g->n_piece * 2 * sizeof *order);
    return status;
}

/* ---- SentencePiece ---- */

static mf_status build_spaced(mfi_vocab_builder *b, const gguf_vocab *g, const mf_allocator *allocator, mf_error *error)
{
    mf_status status = mfi_builder_pieces(b, allocator, g->name, MFI_CHARACTER_BPE, g->pieces, g->n_piece, error);
    if (status != MF_OK) return status;
    b->vocab.flags = MFI_VOCAB_FUSE_UNKNOWN;
    if (flag_or(g->file, KEY("add_space_prefix"), true)) b->vocab.flags |= MFI_VOCAB_PREFIX | MFI_VOCAB_DROP_SPACE;
    if (flag_or(g->file, KEY("remove_extra_whitespaces"), false)) b->vocab.flags |= MFI_VOCAB_ONE_SPACE;
    return MF_OK;
}

/* ---- Either ---- */

static int32_t token_or(const gguf_vocab *g, const char *key, int32_t none)
{
    uint64_t value;
    return mfi_gguf_u64(g->file, key, &value) && value < g->n_piece ? (int32_t)value : none;
}

static mf_status set_ends(mfi_vocab_builder *b, const gguf_vocab *g, bool adds_bos)
{
    static const char *const stops[] = { KEY("eos_token_id"), KEY("eot_token_id"), KEY("eom_token_id") };
    mf_status status = MF_OK;
    b->vocab.bos = token_or(g, KEY("bos_token_id"), -1);
    b->vocab.eos = token_or(g, KEY("eos_token_id"), -1);
    if (b->vocab.unknown < 0) b->vocab.unknown = token_or(g, KEY("unknown_token_id"), -1);
    if (b->vocab.bos >= 0 && flag_or(g->file, KEY("add_bos_token"), adds_bos)) b->vocab.flags |= MFI_VOCAB_ADD_BOS;
    if (b->vocab.eos >= 0 && flag_or(g->file, KEY("add_eos_token"), false)) b->vocab.flags |= MFI_VOCAB_ADD_EOS;
    for (size_t i = 0; i < MFI_COUNT(stops) && status == MF_OK; i++) {
        const int32_t token = token_or(g, stops[i], -1);
        if (token >= 0) status = mfi_builder_stop(b, token);
    }
    mfi_gguf_text text;
    if (mfi_gguf_text_of(g->file, "tokenizer.chat_template", &text)) mfi_builder_chat(b, text.at, text.bytes);
    return status;
}

static mf_status build(mfi_vocab_builder *b, gguf_vocab *g, const mf_allocator *allocator, mf_error *error)
{
    mfi_gguf_text model;
    mf_status status = read_pieces(g, allocator, error);
    if (status != MF_OK) return status;
    if (!mfi_gguf_text_of(g->file, KEY("model"), &model)) model = (mfi_gguf_text){ "", 0 };
    const bool is_spaced = is_text(model, "llama");
    if (!is_spaced && !is_text(model, "gpt2"))
        return mfi_fail(error, MF_E_UNSUPPORTED, "%s: the tokenizer model \"%.*s\" is not known", g->name,
                        (int)mfi_min(model.bytes, 60), model.at);
    status = is_spaced ? build_spaced(b, g, allocator, error) : build_bytes(b, g, allocator, error);
    return status == MF_OK ? set_ends(b, g, is_spaced || b->vocab.pretokenizer == MFI_PRE_LLAMA3) : status;
}

mf_status mfi_tokenizer_from_gguf(void **blob, size_t *bytes, const mf_allocator *allocator,
                                  const mfi_tensor_file *file, mf_error *error)
{
    gguf_vocab g = { .file = file, .name = mfi_tensor_file_name(file) };
    mfi_vocab_builder b = { .allocator = *allocator };
    *blob = NULL;
    mf_status status = count_texts(&g, KEY("tokens"), MFI_MAX_VOCAB, &g.n_piece, error);
    if (status == MF_OK) status = count_texts(&g, KEY("merges"), MFI_MAX_MERGES, &g.n_merge, error);
    if (status != MF_OK) return status;
    if (g.n_piece == 0) return mfi_fail(error, MF_E_NOT_FOUND, "%s: the file has no tokenizer", g.name);
    g.pieces = mfi_alloc_array(allocator, g.n_piece, sizeof *g.pieces);
    g.merges = mfi_alloc_array(allocator, g.n_merge, sizeof *g.merges);
    status = g.pieces && g.merges ? build(&b, &g, allocator, error)
                                  : mfi_fail(error, MF_E_NOMEM, "%s: no memory for %u tokens", g.name, g.n_piece);
    if (status == MF_OK) status = mfi_builder_store(&b, blob, bytes);
    mfi_builder_free(&b);
    mfi_free(allocator, g.pieces, g.n_piece * sizeof *g.pieces);
    mfi_free(allocator, g.merges, g.n_merge * sizeof *g.merges);
    return status;
}
