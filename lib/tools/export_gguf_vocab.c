/* export_gguf_vocab.c - a tokenizer as GGUF's metadata: "llama" is SentencePiece BPE, "gpt2" byte-level BPE. What
 * tokenizer_gguf.c reads; a tokenizer that would be only nearly right there is left out. */
#include "export_gguf_vocab.h"

#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "status.h"
#include "tokenizer.h"
#include "unicode.h"
#include "vocab_builder.h"

#define KEY(name) "tokenizer.ggml." name
#define SPACE_SYMBOL "\xe2\x96\x81" /* U+2581 */

typedef struct out_token {
    const char *text; /* to be spelled, or of an added text as it is */
    uint32_t bytes;
    mfi_piece_type type;
} out_token;

typedef struct out_vocab {
    mfi_gguf_writer *w;
    const mfi_vocab *vocab;
    out_token *tokens; /* [n_token] of the model: those that fill it up are unused */
    uint32_t n_token;
} out_vocab;

/* ---- What they have ---- */

static bool has_ignored_merges(const mfi_vocab *v)
{
    return (v->flags & MFI_VOCAB_IGNORE_MERGES) != 0;
}

/* Its name among theirs that cut text as it does, or NULL. */
static const char *cut_name(const mfi_vocab *v)
{
    if (v->flags & MFI_VOCAB_NFC) return NULL;
    if (v->pretokenizer == MFI_PRE_LLAMA3 && has_ignored_merges(v)) return "llama-bpe";
    if (v->pretokenizer == MFI_PRE_GPT2 && !has_ignored_merges(v)) return "gpt-2";
    return NULL;
}

static bool is_sayable(const mfi_vocab *v)
{
    if (v->kind == MFI_BYTE_BPE) return cut_name(v) != NULL;
    return v->kind == MFI_CHARACTER_BPE && v->byte_tokens;
}

/* ---- Which token is what ---- */

static void classify(out_vocab *out)
{
    const mfi_vocab *v = out->vocab;
    for (uint32_t i = 0; i < out->n_token; i++) {
        const mfi_vocab_token token = i < v->n_token ? v->tokens[i] : (mfi_vocab_token){ NULL, 0, false };
        out->tokens[i] = (out_token){ token.text, token.bytes, token.is_piece ? MFI_PIECE_NORMAL : MFI_PIECE_UNUSED };
    }
    for (uint32_t i = 0; v->kind == MFI_CHARACTER_BPE && i < MFI_BYTE_TOKENS; i++)
        out->tokens[v->byte_tokens[i]].type = MFI_PIECE_BYTE;
    for (uint32_t i = 0; i < v->n_added; i++) {
        const mfi_vocab_added *added = &v->added[i];
        out->tokens[added->token] =
            (out_token){ added->text, added->bytes,
                         added->flags & MFI_ADDED_CONTROL ? MFI_PIECE_CONTROL : MFI_PIECE_USER };
    }
    if (v->unknown >= 0 && v->kind == MFI_CHARACTER_BPE)
        out->tokens[v->unknown] = (out_token){ "<unk>", 5, MFI_PIECE_UNKNOWN };
}

/* ---- Texts ---- */

/* Printable bytes stand for themselves, the others in order for U+0100 and on. */
static uint32_t stand_in(unsigned char byte)
{
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    if (printable) return byte;
    return 0x100u + (byte < 33 ? byte : byte < 161 ? byte - 94u : 67u);
}

/* At most 3 bytes for each of the text; MFI_MAX_TOKEN_BYTES of it. */
static size_t spell(const mfi_vocab *v, const char *text, size_t bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (v->kind == MFI_BYTE_BPE) {
            n += mfi_utf8_put(out + n, stand_in((unsigned char)text[i]));
        } else if (text[i] == ' ') {
            memcpy(out + n, SPACE_SYMBOL, 3);
            n += 3;
        } else {
            out[n++] = text[i];
        }
    }
    return n;
}

static void put_token(const out_vocab *out, uint32_t token)
{
    const out_token *t = &out->tokens[token];
    char text[3 * MFI_MAX_TOKEN_BYTES];
    size_t n;
    if (t->type == MFI_PIECE_BYTE)
        n = (size_t)snprintf(text, sizeof text, "<0x%02X>", (unsigned char)t->text[0]);
    else if (t->bytes == 0)
        n = (size_t)snprintf(text, sizeof text, "[PAD%u]", token);
    else if (t->type == MFI_PIECE_NORMAL || t->type == MFI_PIECE_UNUSED)
        n = spell(out->vocab, t->text, t->bytes, text);
    else
        memcpy(text, t->text, n = t->bytes);
    mfi_gguf_put_string(out->w, text, n);
}

static void put_merge(const out_vocab *out, const mfi_vocab_merge *merge)
{
    const mfi_vocab_token *left = &out->vocab->tokens[merge->left], *right = &out->vocab->tokens[merge->right];
    char text[6 * MFI_MAX_TOKEN_BYTES + 1];
    size_t n = spell(out->vocab, left->text, left->bytes, text);
    text[n++] = ' ';
    n += spell(out->vocab, right->text, right->bytes, text + n);
    mfi_gguf_put_string(out->w, text, n);
}

/* ---- Keys ---- */

static void put_tokens(const out_vocab *out)
{
    mfi_gguf_put_list(out->w, KEY("tokens"), MFI_GGUF_STRING, out->n_token);
    for (uint32_t i = 0; i < out->n_token; i++)
        put_token(out, i);
    mfi_gguf_put_list(out->w, KEY("token_type"), MFI_GGUF_I32, out->n_token);
    for (uint32_t i = 0; i < out->n_token; i++)
        mfi_gguf_put_number(out->w, out->tokens[i].type, 4);
}

/* A piece's score is how early it is made: of several merges that make it, the first counts. */
static mf_status put_scores(const out_vocab *out, mf_error *error)
{
    const mfi_vocab *v = out->vocab;
    float *scores = mfi_alloc_array(&out->w->allocator, out->n_token, sizeof *scores);
    if (!scores) return mfi_fail(error, MF_E_NOMEM, "no memory for the scores of %u tokens", out->n_token);
    for (uint32_t i = v->n_merge; i-- > 0;)
        scores[v->merges[i].whole] = -(float)v->merges[i].rank - 1;
    mfi_gguf_put_list(out->w, KEY("scores"), MFI_GGUF_F32, out->n_token);
    for (uint32_t i = 0; i < out->n_token; i++)
        mfi_gguf_put_f32(out->w, scores[i]);
    mfi_free(&out->w->allocator, scores, out->n_token * sizeof *scores);
    return MF_OK;
}

static void put_merges(const out_vocab *out)
{
    mfi_gguf_put_list(out->w, KEY("merges"), MFI_GGUF_STRING, out->vocab->n_merge);
    for (uint32_t i = 0; i < out->vocab->n_merge; i++)
        put_merge(out, &out->vocab->merges[i]);
}

static void put_id(mfi_gguf_writer *w, const char *key, int32_t token)
{
    if (token >= 0) mfi_gguf_key_u32(w, key, (uint32_t)token);
}

/* Of the tokenizer, or else of the configuration. */
static void put_ends(mfi_gguf_writer *w, const mfi_config *config, const mfi_vocab *v)
{
    put_id(w, KEY("bos_token_id"), v && v->bos >= 0 ? v->bos : config->bos_token);
    put_id(w, KEY("eos_token_id"), v && v->eos >= 0 ? v->eos : config->eos_token);
}

/* Tokens that end an answer, beside eos: GGUF has names for two. */
static void put_stops(const out_vocab *out)
{
    static const char *const keys[] = { KEY("eot_token_id"), KEY("eom_token_id") };
    const mfi_vocab *v = out->vocab;
    for (uint32_t i = 0, n = 0; i < v->n_stop && n < MFI_COUNT(keys); i++)
        if (v->stops[i] != v->eos) put_id(out->w, keys[n++], v->stops[i]);
}

/* Readers recognise the format by its control tokens; the text is what mf_chat_render() does. */
static void put_chat(const out_vocab *out)
{
    static const char *const templates[] = {
        [MF_CHAT_GEMMA] =
            "{{ bos_token }}{% set first = '' %}{% if messages[0]['role'] == 'system' %}"
            "{% set first = messages[0]['content'] + '\n\n' %}{% set messages = messages[1:] %}{% endif %}"
            "{% for message in messages %}<start_of_turn>"
            "{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
            "{{ first if loop.first else '' }}{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
            "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        [MF_CHAT_LLAMA3] = "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
                           "<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
                           "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    };
    if (out->vocab->chat != MF_CHAT_NONE)
        mfi_gguf_key_string(out->w, "tokenizer.chat_template", templates[out->vocab->chat]);
}

static void put_habits(const out_vocab *out)
{
    const mfi_vocab *v = out->vocab;
    const bool spaced = v->kind == MFI_CHARACTER_BPE;
    put_id(out->w, KEY("unknown_token_id"), v->unknown);
    put_stops(out);
    mfi_gguf_key_truth(out->w, KEY("add_bos_token"), (v->flags & MFI_VOCAB_ADD_BOS) != 0);
    mfi_gguf_key_truth(out->w, KEY("add_eos_token"), (v->flags & MFI_VOCAB_ADD_EOS) != 0);
    if (spaced) mfi_gguf_key_truth(out->w, KEY("add_space_prefix"), (v->flags & MFI_VOCAB_PREFIX) != 0);
    if (spaced) mfi_gguf_key_truth(out->w, KEY("remove_extra_whitespaces"), (v->flags & MFI_VOCAB_ONE_SPACE) != 0);
    put_chat(out);
}

static mf_status put_vocab(const out_vocab *out, mf_error *error)
{
    const bool spaced = out->vocab->kind == MFI_CHARACTER_BPE;
    mfi_gguf_key_string(out->w, KEY("model"), spaced ? "llama" : "gpt2");
    mfi_gguf_key_string(out->w, KEY("pre"), spaced ? "default" : cut_name(out->vocab));
    put_tokens(out);
    if (!spaced) put_merges(out);
    put_habits(out);
    return spaced ? put_scores(out, error) : MF_OK;
}

static mf_status export_vocab(mfi_gguf_writer *w, const mfi_config *config, const mfi_vocab *vocab, mf_error *error)
{
    put_ends(w, config, vocab);
    if (!vocab || !is_sayable(vocab)) {
        mfi_gguf_key_string(w, KEY("model"), "no_vocab");
        return MF_OK;
    }
    out_vocab out = { .w = w, .vocab = vocab, .n_token = config->n_vocab };
    out.tokens = mfi_alloc_array(&w->allocator, out.n_token, sizeof *out.tokens);
    if (!out.tokens) return mfi_fail(error, MF_E_NOMEM, "no memory for %u tokens", out.n_token);
    classify(&out);
    const mf_status status = put_vocab(&out, error);
    mfi_free(&w->allocator, out.tokens, out.n_token * sizeof *out.tokens);
    return status;
}

static mf_status load_and_export(mfi_gguf_writer *w, const mfi_config *config, const void *blob, size_t bytes,
                                 mf_error *error)
{
    mfi_tokenizer *tokenizer;
    mfi_vocab *vocab = NULL;
    mf_status status = mfi_tokenizer_load(&tokenizer, &w->allocator, blob, bytes, error);
    if (status != MF_OK) return status;
    if (mfi_tokenizer_vocab(tokenizer) > config->n_vocab)
        status = mfi_fail(error, MF_E_FORMAT, "the tokenizer has %u tokens, the model only %u",
                          mfi_tokenizer_vocab(tokenizer), config->n_vocab);
    if (status == MF_OK) status = mfi_vocab_read(&vocab, tokenizer, error);
    if (status == MF_OK) status = export_vocab(w, config, vocab, error);
    mfi_vocab_free(vocab);
    mfi_tokenizer_free(tokenizer);
    return status;
}

mf_status mfi_export_gguf_vocab(mfi_gguf_writer *w, const mfi_config *config, const void *blob, size_t bytes,
                                mf_error *error)
{
    return blob ? load_and_export(w, config, blob, bytes, error) : export_vocab(w, config, NULL, error);
}
