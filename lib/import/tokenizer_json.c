/* tokenizer_json.c - Hugging Face's tokenizer.json. Its parts come in many shapes; those of byte-level BPE and of
 * SentencePiece BPE that checkpoints of the known families have are recognised whole, anything else is refused. */
#include <string.h>

#include "defs.h"
#include "status.h"
#include "tokenizer_import.h"
#include "vocab_builder.h"

/* "'s" and so on: docs/tokenizer.md. */
#define GPT2_PATTERN \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+"
#define LLAMA3_PATTERN                                                                     \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| " \
    "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define BYTE_LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false"
#define SPLIT_THEN_BYTES(pattern)                                                                            \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" pattern "\"}," \
    "\"behavior\":\"Isolated\",\"invert\":false}," BYTE_LEVEL ",\"use_regex\":false}]}"
#define PREPEND "{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"}"
#define REPLACE "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}"
#define METASPACE(scheme) \
    "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"" scheme "\",\"split\":false}"
#define SPACE_AGAIN                                                                       \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"}," \
    "{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}"
#define SEQUENCE(key, parts) "{\"type\":\"Sequence\",\"" key "\":[" parts "]}"

typedef struct shape {
    const char *json;
    mfi_tokenizer_kind kind; /* 0: any */
    uint32_t flags;
    mfi_pretokenizer pretokenizer;
} shape;

static const shape normalizers[] = {
    { "null", 0, 0, MFI_PRE_NONE },
    { "{\"type\":\"NFC\"}", MFI_BYTE_BPE, MFI_VOCAB_NFC, MFI_PRE_NONE },
    { SEQUENCE("normalizers", "{\"type\":\"NFC\"}"), MFI_BYTE_BPE, MFI_VOCAB_NFC, MFI_PRE_NONE },
    { REPLACE, MFI_CHARACTER_BPE, 0, MFI_PRE_NONE },
    { SEQUENCE("normalizers", PREPEND "," REPLACE), MFI_CHARACTER_BPE, MFI_VOCAB_PREFIX | MFI_VOCAB_PREFIX_EACH,
      MFI_PRE_NONE },
};
static const shape pretokenizers[] = {
    { BYTE_LEVEL ",\"use_regex\":true}", MFI_BYTE_BPE, 0, MFI_PRE_GPT2 },
    { BYTE_LEVEL "}", MFI_BYTE_BPE, 0, MFI_PRE_GPT2 },
    { SPLIT_THEN_BYTES(GPT2_PATTERN), MFI_BYTE_BPE, 0, MFI_PRE_GPT2 },
    { SPLIT_THEN_BYTES(LLAMA3_PATTERN), MFI_BYTE_BPE, 0, MFI_PRE_LLAMA3 },
    { "null", MFI_CHARACTER_BPE, 0, MFI_PRE_NONE },
    /* Where the normalizer has replaced all spaces there is nothing to split at. */
    { "{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"MergedWithPrevious\",\"invert\":false}",
      MFI_CHARACTER_BPE, 0, MFI_PRE_NONE },
    { METASPACE("never"), MFI_CHARACTER_BPE, 0, MFI_PRE_NONE },
    { METASPACE("first"), MFI_CHARACTER_BPE, MFI_VOCAB_PREFIX | MFI_VOCAB_PREFIX_UNLESS, MFI_PRE_NONE },
    { METASPACE("always"), MFI_CHARACTER_BPE, MFI_VOCAB_PREFIX | MFI_VOCAB_PREFIX_EACH | MFI_VOCAB_PREFIX_UNLESS,
      MFI_PRE_NONE },
};
static const shape decoders[] = {
    { BYTE_LEVEL ",\"use_regex\":true}", MFI_BYTE_BPE, 0, MFI_PRE_NONE },
    { BYTE_LEVEL ",\"use_regex\":false}", MFI_BYTE_BPE, 0, MFI_PRE_NONE },
    { BYTE_LEVEL "}", MFI_BYTE_BPE, 0, MFI_PRE_NONE },
    { "{\"type\":\"ByteLevel\",\"add_prefix_space\":true,\"use_regex\":true}", MFI_BYTE_BPE, 0, MFI_PRE_NONE },
    { "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", MFI_BYTE_BPE, 0, MFI_PRE_NONE },
    { SEQUENCE("decoders", SPACE_AGAIN), MFI_CHARACTER_BPE, 0, MFI_PRE_NONE },
    { SEQUENCE("decoders", SPACE_AGAIN ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"),
      MFI_CHARACTER_BPE, MFI_VOCAB_DROP_SPACE, MFI_PRE_NONE },
};

/* ---- Shapes ---- */

/* What changes offsets alone is taken away before a part is compared. */
static void forget_offsets(json_t *part, const char *children)
{
    json_object_del(part, "trim_offsets");
    json_t *list = json_object_get(part, children);
    for (size_t i = 0; i < json_array_size(list); i++)
        json_object_del(json_array_get(list, i), "trim_offsets");
}

static mf_status find_shape(const mfi_json *json, const char *key, const shape *shapes, size_t n_shape,
                            const shape **out, mf_error *error)
{
    json_t *part = json_object_get(json->root, key), *none = json_null();
    if (!part) part = none;
    forget_offsets(part, "pretokenizers");
    *out = NULL;
    for (size_t i = 0; i < n_shape && !*out; i++) {
        json_t *known = json_loads(shapes[i].json, JSON_DECODE_ANY, NULL);
        if (!known) return mfi_fail(error, MF_E_NOMEM, "%s: no memory", json->name);
        if (json_equal(part, known)) *out = &shapes[i];
        json_decref(known);
    }
    if (*out) return MF_OK;
    char text[200] = ""; /* what goes beyond is left out */
    json_dumpb(part, text, sizeof text - 1, JSON_COMPACT | JSON_ENCODE_ANY);
    return mfi_fail(error, MF_E_UNSUPPORTED, "%s: the %s is not known: %s", json->name, key, text);
}

typedef struct shapes {
    const shape *normalizer, *pretokenizer, *decoder;
} shapes;

static mf_status find_shapes(const mfi_json *json, shapes *s, mf_error *error)
{
    mf_status status = find_shape(json, "normalizer", normalizers, MFI_COUNT(normalizers), &s->normalizer, error);
    if (status == MF_OK)
        status = find_shape(json, "pre_tokenizer", pretokenizers, MFI_COUNT(pretokenizers), &s->pretokenizer, error);
    if (status == MF_OK) status = find_shape(json, "decoder", decoders, MFI_COUNT(decoders), &s->decoder, error);
    if (status != MF_OK) return status;
    const mfi_tokenizer_kind kind = s->pretokenizer->kind;
    const bool has_both = s->normalizer->json[0] == '{' && s->pretokenizer->flags;
    const bool keeps_spaces = kind == MFI_CHARACTER_BPE && s->normalizer->kind == 0 && s->pretokenizer->json[0] != '{';
    const bool splits = kind == MFI_CHARACTER_BPE && s->normalizer->kind == 0 &&
                        strncmp(s->pretokenizer->json, "{\"type\":\"Split\"", 15) == 0;
    if (s->decoder->kind != kind || (s->normalizer->kind != 0 && s->normalizer->kind != kind) ||
        (kind == MFI_CHARACTER_BPE && (has_both || keeps_spaces || splits)))
        return mfi_fail(error, MF_E_UNSUPPORTED,
                        "%s: this normalizer, pre_tokenizer and decoder are not known together", json->name);
    return MF_OK;
}

/* ---- The model ---- */

typedef struct source {
    const mfi_json *json;
    json_t *vocab, *merges, *added;
    const char *unknown;
    bool byte_fallback, fuse_unknown, ignore_merges;
    shapes shapes;
} source;

static mf_status read_model(source *s, mf_error *error)
{
    const char *name = s->json->name;
    mfi_json_reader top = { name, s->json->root, error, MF_OK };
    s->added = (json_t *)mfi_json_array(&top, "added_tokens");
    const json_t *model = mfi_json_object(&top, "model");
    if (top.status != MF_OK) return top.status;
    if (!model) return mfi_fail(error, MF_E_FORMAT, "%s: \"model\" is missing", name);
    mfi_json_reader r = { name, model, error, MF_OK };
    const char *type = mfi_json_text_or(&r, "type", "BPE");
    const char *prefix = mfi_json_text_or(&r, "continuing_subword_prefix", "");
    const char *suffix = mfi_json_text_or(&r, "end_of_word_suffix", "");
    const double dropout = mfi_json_f64_or(&r, "dropout", 0);
    if (r.status == MF_OK && (strcmp(type, "BPE") != 0 || prefix[0] || suffix[0] || dropout != 0))
        return mfi_fail(error, MF_E_UNSUPPORTED, "%s: a model of type %.40s%s is not known", name, type,
                        prefix[0] || suffix[0] ? " with subword marks"
                        : dropout != 0         ? " with dropout"
                                               : "");
    s->vocab = (json_t *)mfi_json_object(&r, "vocab");
    s->merges = (json_t *)mfi_json_array(&r, "merges");
    s->unknown = mfi_json_text_or(&r, "unk_token", NULL);
    s->byte_fallback = mfi_json_bool_or(&r, "byte_fallback", false);
    s->fuse_unknown = mfi_json_bool_or(&r, "fuse_unk", false);
    s->ignore_merges = mfi_json_bool_or(&r, "ignore_merges", false);
    if (r.status == MF_OK && (!s->vocab || !s->merges))
        return mfi_fail(error, MF_E_FORMAT, "%s: the model has no vocab or no merges", name);
    return r.status;
}

static mf_status token_of(const json_t *value, const char *name, const char *text, uint32_t *token, mf_error *error)
{
    const json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;
    if (number < 0 || number >= MFI_MAX_VOCAB)
        return mfi_fail(error, MF_E_FORMAT, "%s: token \"%.60s\" must have a number below %u", name, text,
                        MFI_MAX_VOCAB);
    *token = (uint32_t)number;
    return MF_OK;
}

/* Numbers, and room for texts. */
static mf_status measure(const source *s, uint64_t *n_token, uint64_t *pool, mf_error *error)
{
    const char *text, *name = s->json->name;
    json_t *value;
    uint32_t token = 0;
    mf_status status = MF_OK;
    *n_token = *pool = 0;
    json_object_foreach(s->vocab, text, value)
    {
        if (status == MF_OK) status = token_of(value, name, text, &token, error);
        *n_token = token >= *n_token ? token + (uint64_t)1 : *n_token;
        *pool += strlen(text);
    }
    for (size_t i = 0; i < json_array_size(s->added) && status == MF_OK; i++) {
        json_t *entry = json_array_get(s->added, i);
        text = json_string_value(json_object_get(entry, "content"));
        if (!text || !text[0] || strlen(text) > MFI_MAX_TOKEN_BYTES)
            return mfi_fail(error, MF_E_FORMAT, "%s: added token %zu has no content, or too much", name, i);
        status = token_of(json_object_get(entry, "id"), name, text, &token, error);
        *n_token = token >= *n_token ? token + (uint64_t)1 : *n_token;
        *pool += 2 * strlen(text);
    }
    return status;
}

static mf_status put_vocab(mfi_vocab_builder *b, const source *s)
{
    const char *text;
    json_t *value;
    json_object_foreach(s->vocab, text, value)
    {
        const uint32_t token = (uint32_t)json_integer_value(value);
        const size_t bytes = strlen(text);
        mfi_vocab_token *out = &b->tokens[token];
        if (out->text)
            return mfi_fail(b->error, MF_E_FORMAT, "%s: token %u is there twice, as \"%.60s\"", b->name, token, text);
        if (bytes == 0 || bytes > 2 * MFI_MAX_TOKEN_BYTES)
            return mfi_fail(b->error, MF_E_FORMAT, "%s: token %u is empty or too long", b->name, token);
        const int byte = s->byte_fallback ? mfi_byte_name(text, bytes) : -1;
        if (byte >= 0) {
            const char c = (char)(unsigned char)byte;
            *out = (mfi_vocab_token){ mfi_builder_copy(b, &c, 1), 1, false };
            b->byte_tokens[byte] = token;
            continue;
        }
        if (b->vocab.kind == MFI_BYTE_BPE) {
            out->text = mfi_builder_bytes(b, text, bytes, &out->bytes);
            out->is_piece = out->text != NULL;
        } else {
            out->text = mfi_builder_spaced(b, text, bytes, &out->bytes);
            out->is_piece = !memchr(text, ' ', bytes);
        }
        if (out->text) continue;
        /* Characters that stand for no byte: text cannot become it, and it decodes to what it says. */
        out->text = mfi_builder_copy(b, text, bytes);
        out->bytes = (uint32_t)bytes;
    }
    return MF_OK;
}

static mf_status check_added(const mfi_vocab_builder *b, const json_t *entry, const char *text, bool is_normalized)
{
    static const char *const refused[] = { "single_word", "lstrip", "rstrip" };
    for (size_t i = 0; i < MFI_COUNT(refused); i++)
        if (json_is_true(json_object_get(entry, refused[i])))
            return mfi_fail(b->error, MF_E_UNSUPPORTED, "%s: added token \"%.60s\": \"%s\" is not known", b->name, text,
                            refused[i]);
    /* It would be found in a form that the normalizer makes of it. */
    if (is_normalized && b->vocab.kind != MFI_BYTE_BPE && (b->vocab.flags & MFI_VOCAB_PREFIX))
        return mfi_fail(b->error, MF_E_UNSUPPORTED, "%s: added token \"%.60s\" is normalized, with a space before it",
                        b->name, text);
    for (size_t i = 0; is_normalized && (b->vocab.flags & MFI_VOCAB_NFC) && text[i]; i++)
        if ((unsigned char)text[i] >= 0x80)
            return mfi_fail(b->error, MF_E_UNSUPPORTED, "%s: added token \"%.60s\" is normalized, and not ASCII",
                            b->name, text);
    return MF_OK;
}

/* A control token decodes to nothing; another one to what it says. */
static mf_status put_added(mfi_vocab_builder *b, const json_t *entry)
{
    const char *text = json_string_value(json_object_get(entry, "content"));
    const uint32_t token = (uint32_t)json_integer_value(json_object_get(entry, "id"));
    const bool is_control = json_is_true(json_object_get(entry, "special"));
    const json_t *normalized = json_object_get(entry, "normalized");
    const bool is_normalized = normalized ? json_is_true(normalized) : !is_control;
    const size_t bytes = strlen(text);
    mfi_vocab_token *out = &b->tokens[token];
    mf_status status = check_added(b, entry, text, is_normalized);
    if (status != MF_OK) return status;
    const uint32_t flags = (is_control ? MFI_ADDED_CONTROL : 0u) | (is_normalized ? MFI_ADDED_NORMALIZED : 0u);
    if (is_normalized && b->vocab.kind != MFI_BYTE_BPE) {
        uint32_t n;
        const char *spaced = mfi_builder_spaced(b, text, bytes, &n);
        mfi_builder_add(b, token, spaced, n, flags);
    } else {
        mfi_builder_add(b, token, mfi_builder_copy(b, text, bytes), bytes, flags);
    }
    if (is_control) {
        *out = (mfi_vocab_token){ NULL, 0, false };
    } else if (!out->text && b->vocab.kind == MFI_BYTE_BPE) {
        out->text = mfi_builder_bytes(b, text, bytes, &out->bytes);
        if (out->text) return MF_OK;
        out->text = mfi_builder_copy(b, text, bytes);
        out->bytes = (uint32_t)bytes;
    } else if (!out->text) {
        out->text = mfi_builder_spaced(b, text, bytes, &out->bytes);
    }
    return MF_OK;
}

/* ---- Merges: ["a b"] or [["a", "b"]] ---- */

static bool find_text(const json_t *vocab, const char *text, size_t bytes, uint32_t *token)
{
    const json_t *value = json_object_getn(vocab, text, bytes);
    *token = value ? (uint32_t)json_integer_value(value) : 0;
    return value != NULL;
}

static bool read_merge(const json_t *vocab, const json_t *merge, mfi_vocab_merge *out)
{
    const char *left = json_string_value(json_is_array(merge) ? json_array_get(merge, 0) : merge);
    const char *space = left && !json_is_array(merge) ? strchr(left, ' ') : NULL;
    const char *right = json_is_array(merge) ? json_string_value(json_array_get(merge, 1)) : space ? space + 1 : NULL;
    if (!left || !right || (json_is_array(merge) ? json_array_size(merge) != 2 : strchr(right, ' ') != NULL))
        return false;
    const size_t n_left = space ? (size_t)(space - left) : strlen(left), n_right = strlen(right);
    char whole[4 * MFI_MAX_TOKEN_BYTES];
    if (n_left > sizeof whole / 2 || n_right > sizeof whole / 2) return false;
    memcpy(whole, left, n_left);
    memcpy(whole + n_left, right, n_right);
    return find_text(vocab, left, n_left, &out->left) && find_text(vocab, right, n_right, &out->right) &&
           find_text(vocab, whole, n_left + n_right, &out->whole);
}

static mf_status put_merges(mfi_vocab_builder *b, const source *s)
{
    for (uint32_t i = 0; i < b->merge_room; i++) {
        mfi_vocab_merge *merge = &b->merges[i];
        if (!read_merge(s->vocab, json_array_get(s->merges, i), merge))
            return mfi_fail(b->error, MF_E_FORMAT, "%s: merge %u is not of two tokens that make one", b->name, i);
        merge->rank = i;
    }
    b->vocab.n_merge = (uint32_t)b->merge_room;
    return MF_OK;
}

/* ---- Tokens at the ends ---- */

static mf_status refuse_processor(const mfi_vocab_builder *b)
{
    return mfi_fail(b->error, MF_E_UNSUPPORTED, "%s: the post_processor is not known", b->name);
}

/* [bos] text [eos] */
static mf_status read_template(mfi_vocab_builder *b, const json_t *processor)
{
    const json_t *single = json_object_get(processor, "single");
    bool after_text = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i), *control = json_object_get(item, "SpecialToken");
        const char *name = json_string_value(json_object_get(control, "id"));
        if (!control) {
            if (after_text || !json_object_get(item, "Sequence")) return refuse_processor(b);
            after_text = true;
            continue;
        }
        int32_t *end = after_text ? &b->vocab.eos : &b->vocab.bos;
        const uint32_t flag = after_text ? MFI_VOCAB_ADD_EOS : MFI_VOCAB_ADD_BOS;
        const int32_t token = name ? mfi_builder_find(b, name, strlen(name)) : -1;
        if (token < 0 || (b->vocab.flags & flag)) return refuse_processor(b);
        *end = token;
        b->vocab.flags |= flag;
    }
    return after_text ? MF_OK : refuse_processor(b);
}

static mf_status read_processor(mfi_vocab_builder *b, const json_t *processor)
{
    const char *type = json_string_value(json_object_get(processor, "type"));
    if (!processor || json_is_null(processor) || (type && strcmp(type, "ByteLevel") == 0)) return MF_OK;
    if (type && strcmp(type, "TemplateProcessing") == 0) return read_template(b, processor);
    return refuse_processor(b);
}

static mf_status read_processors(mfi_vocab_builder *b, const json_t *processor)
{
    const char *type = json_string_value(json_object_get(processor, "type"));
    if (!type || strcmp(type, "Sequence") != 0) return read_processor(b, processor);
    const json_t *list = json_object_get(processor, "processors");
    mf_status status = MF_OK;
    for (size_t i = 0; i < json_array_size(list) && status == MF_OK; i++)
        status = read_processor(b, json_array_get(list, i));
    return status;
}

/* ---- All of it ---- */

static void set_kind(mfi_vocab_builder *b, const source *s)
{
    mfi_vocab *v = &b->vocab;
    v->kind = s->shapes.pretokenizer->kind;
    v->pretokenizer = s->shapes.pretokenizer->pretokenizer;
    v->flags = s->shapes.normalizer->flags | s->shapes.pretokenizer->flags | s->shapes.decoder->flags;
    if (s->ignore_merges && v->kind == MFI_BYTE_BPE) v->flags |= MFI_VOCAB_IGNORE_MERGES;
    if (s->fuse_unknown && v->kind != MFI_BYTE_BPE) v->flags |= MFI_VOCAB_FUSE_UNKNOWN;
}

static mf_status fill(mfi_vocab_builder *b, const source *s)
{
    set_kind(b, s);
    mf_status status = put_vocab(b, s);
    for (size_t i = 0; i < json_array_size(s->added) && status == MF_OK; i++)
        status = put_added(b, json_array_get(s->added, i));
    if (status == MF_OK) status = put_merges(b, s);
    if (status == MF_OK) status = read_processors(b, json_object_get(s->json->root, "post_processor"));
    if (status != MF_OK) return status;
    uint32_t unknown;
    if (s->unknown && find_text(s->vocab, s->unknown, strlen(s->unknown), &unknown)) {
        b->vocab.unknown = (int32_t)unknown;
        b->tokens[unknown] = (mfi_vocab_token){ NULL, 0, false };
    }
    if (b->vocab.kind == MFI_BYTE_BPE) mfi_builder_find_bytes(b);
    return MF_OK;
}

mf_status mfi_build_json(mfi_vocab_builder *b, const mf_allocator *allocator, const mfi_json *json, mf_error *error)
{
    source s = { .json = json };
    uint64_t n_token = 0, pool = 0;
    memset(b, 0, sizeof *b);
    b->allocator = *allocator;
    mf_status status = read_model(&s, error);
    if (status == MF_OK) status = find_shapes(json, &s.shapes, error);
    if (status == MF_OK) status = measure(&s, &n_token, &pool, error);
    if (status == MF_OK && s.ignore_merges && s.shapes.pretokenizer->kind != MFI_BYTE_BPE)
        status = mfi_fail(error, MF_E_UNSUPPORTED, "%s: \"ignore_merges\" is not known without bytes", json->name);
    if (status == MF_OK)
        status = mfi_builder_begin(b, allocator, json->name, n_token, json_array_size(s.added),
                                   json_array_size(s.merges), pool, error);
    return status == MF_OK ? fill(b, &s) : status;
}

mf_status mfi_tokenizer_from_json(void **blob, size_t *bytes, const mf_allocator *allocator, const char *name,
                                  const char *text, size_t text_bytes, mf_error *error)
{
    mfi_vocab_builder b;
    mfi_json json;
    *blob = NULL;
    mf_status status = mfi_json_parse(&json, name, text, text_bytes, error);
    if (status != MF_OK) return status;
    status = mfi_build_json(&b, allocator, &json, error);
    if (status == MF_OK) status = mfi_builder_store(&b, blob, bytes);
    mfi_builder_free(&b);
    mfi_json_free(&json);
    return status;
}
