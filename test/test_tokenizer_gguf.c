/* Tokenizers in the metadata of GGUF files: made up here of the pieces of the golden ones, and equal to those. */
#define _POSIX_C_SOURCE 200809L
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "tokenizer_import.h"
#include "tokenizer_lines.h"

#define FOLDER GOLDEN_DIR "/tokenizers/"

/* ---- Metadata without a file: these take the place of the reader's functions ---- */

enum { MAX_TEXTS = 4096 };

struct mfi_tensor_file {
    const char *model, *pre, *chat;
    char *tokens[MAX_TEXTS], *merges[MAX_TEXTS];
    double scores[MAX_TEXTS], types[MAX_TEXTS];
    uint64_t n_token, n_merge, n_score;
    int64_t bos, eos, eot, unknown;
    bool add_space;
};

static const char *const integer_keys[] = { "bos", "eos", "eot", "unknown" };

const char *mfi_tensor_file_name(const mfi_tensor_file *file)
{
    (void)file;
    return "fake.gguf";
}

bool mfi_gguf_u64(const mfi_tensor_file *file, const char *key, uint64_t *value)
{
    const int64_t values[] = { file->bos, file->eos, file->eot, file->unknown };
    for (size_t i = 0; i < MFI_COUNT(values); i++) {
        char name[64];
        snprintf(name, sizeof name, "tokenizer.ggml.%s_token_id", integer_keys[i]);
        if (strcmp(key, name) != 0 || values[i] < 0) continue;
        *value = (uint64_t)values[i];
        return true;
    }
    return false;
}

bool mfi_gguf_bool(const mfi_tensor_file *file, const char *key, bool *value)
{
    *value = file->add_space;
    return strcmp(key, "tokenizer.ggml.add_space_prefix") == 0;
}

bool mfi_gguf_text_of(const mfi_tensor_file *file, const char *key, mfi_gguf_text *value)
{
    const char *text = NULL;
    if (strcmp(key, "tokenizer.ggml.model") == 0) text = file->model;
    if (strcmp(key, "tokenizer.ggml.pre") == 0) text = file->pre;
    if (strcmp(key, "tokenizer.chat_template") == 0) text = file->chat;
    if (text) *value = (mfi_gguf_text){ text, strlen(text) };
    return text != NULL;
}

static uint64_t array_of(const mfi_tensor_file *file, const char *key, char *const **texts, const double **numbers)
{
    *texts = NULL;
    *numbers = NULL;
    if (strcmp(key, "tokenizer.ggml.tokens") == 0) *texts = file->tokens;
    if (strcmp(key, "tokenizer.ggml.merges") == 0) *texts = file->merges;
    if (strcmp(key, "tokenizer.ggml.scores") == 0) *numbers = file->scores;
    if (strcmp(key, "tokenizer.ggml.token_type") == 0) *numbers = file->types;
    if (*texts == file->merges) return file->n_merge;
    return *numbers == file->scores ? file->n_score : file->n_token;
}

bool mfi_gguf_array(const mfi_tensor_file *file, const char *key, mfi_gguf_kind *kind, uint64_t *count)
{
    char *const *texts;
    const double *numbers;
    *count = array_of(file, key, &texts, &numbers);
    *kind = texts ? MFI_GGUF_TEXT : MFI_GGUF_REAL;
    return *count > 0 && (texts || numbers);
}

bool mfi_gguf_array_f64(const mfi_tensor_file *file, const char *key, double *values, size_t capacity)
{
    char *const *texts;
    const double *numbers;
    const uint64_t n = array_of(file, key, &texts, &numbers);
    if (!numbers || n > capacity) return false;
    memcpy(values, numbers, (size_t)n * sizeof *values);
    return true;
}

bool mfi_gguf_array_texts(const mfi_tensor_file *file, const char *key,
                          int (*visit)(void *user, uint64_t index, mfi_gguf_text text), void *user)
{
    char *const *texts;
    const double *numbers;
    const uint64_t n = array_of(file, key, &texts, &numbers);
    for (uint64_t i = 0; texts && i < n; i++)
        if (visit(user, i, (mfi_gguf_text){ texts[i], strlen(texts[i]) }) != 0) break;
    return texts != NULL;
}

/* ---- From the golden files ---- */

static char *copy(const char *text, size_t bytes)
{
    char *out = malloc(bytes + 1);
    memcpy(out, text, bytes);
    out[bytes] = '\0';
    return out;
}

/* As llama.cpp's converter writes it: added tokens have a type, and merges are "a b". */
static void fake_of_json(mfi_tensor_file *file, const char *name)
{
    char path[512];
    mfi_json json;
    snprintf(path, sizeof path, FOLDER "%s", name);
    cr_assert_eq(mfi_json_load(&json, path, 1 << 20, NULL), MF_OK);
    json_t *model = json_object_get(json.root, "model"), *value;
    const char *text;
    size_t i;
    json_object_foreach(json_object_get(model, "vocab"), text, value)
    {
        const size_t token = (size_t)json_integer_value(value);
        file->tokens[token] = copy(text, strlen(text));
        file->types[token] = 1;
        file->n_token = token >= file->n_token ? token + 1 : file->n_token;
    }
    json_array_foreach(json_object_get(json.root, "added_tokens"), i, value)
    {
        const size_t token = (size_t)json_integer_value(json_object_get(value, "id"));
        text = json_string_value(json_object_get(value, "content"));
        free(file->tokens[token]);
        file->tokens[token] = copy(text, strlen(text));
        file->types[token] = json_is_true(json_object_get(value, "special")) ? 3 : 4;
        file->n_token = token >= file->n_token ? token + 1 : file->n_token;
    }
    json_array_foreach(json_object_get(model, "merges"), i, value)
    {
        char merge[256];
        snprintf(merge, sizeof merge, "%s %s", json_string_value(json_array_get(value, 0)),
                 json_string_value(json_array_get(value, 1)));
        file->merges[file->n_merge++] = copy(merge, strlen(merge));
    }
    mfi_json_free(&json);
}

static void free_fake(mfi_tensor_file *file)
{
    for (size_t i = 0; i < file->n_token; i++)
        free(file->tokens[i]);
    for (size_t i = 0; i < file->n_merge; i++)
        free(file->merges[i]);
    free(file);
}

static mfi_tensor_file *new_fake(const char *model)
{
    mfi_tensor_file *file = calloc(1, sizeof *file);
    file->model = model;
    file->bos = file->eos = file->eot = file->unknown = -1;
    return file;
}

static mfi_tokenizer *load_fake(const mfi_tensor_file *file)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mf_error error = MF_ERROR_INIT;
    void *blob;
    size_t bytes;
    cr_assert_eq(mfi_tokenizer_from_gguf(&blob, &bytes, &allocator, file, &error), MF_OK, "%s", error.detail);
    mfi_tokenizer *t = load(blob, bytes);
    mfi_free(&allocator, blob, bytes);
    return t;
}

static void expect_same(const mfi_tokenizer *a, const mfi_tokenizer *b)
{
    static line_maker m;
    static int32_t of_a[4 * MAX_LINE_BYTES], of_b[4 * MAX_LINE_BYTES];
    size_t n_a, n_b;
    open_lines(&m);
    for (uint32_t i = 0; i < 2000; i++) {
        make_line(&m, i);
        mfi_tokenizer_encode(a, m.text, m.bytes, i % 4, of_a, MFI_COUNT(of_a), &n_a);
        mfi_tokenizer_encode(b, m.text, m.bytes, i % 4, of_b, MFI_COUNT(of_b), &n_b);
        cr_assert(n_a == n_b && memcmp(of_a, of_b, n_a * sizeof *of_a) == 0, "line %u", i);
    }
    free(m.story.data);
}

static mfi_tokenizer *load_json(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, FOLDER "%s", name);
    byte_string file = read_whole(path);
    mf_allocator allocator = mfi_allocator(NULL);
    void *blob;
    size_t bytes;
    cr_assert_eq(mfi_tokenizer_from_json(&blob, &bytes, &allocator, name, (char *)file.data, file.count, NULL), MF_OK);
    mfi_tokenizer *t = load(blob, bytes);
    mfi_free(&allocator, blob, bytes);
    free(file.data);
    return t;
}

Test(gguf, llama3_equals_its_tokenizer_json)
{
    mfi_tensor_file *file = new_fake("gpt2");
    fake_of_json(file, "llama3.json");
    file->pre = "llama-bpe";
    mfi_tokenizer *expected = load_json("llama3.json");
    file->bos = mfi_tokenizer_control(expected, "<|begin_of_text|>");
    file->eos = mfi_tokenizer_control(expected, "<|end_of_text|>");
    file->eot = mfi_tokenizer_control(expected, "<|eot_id|>");
    file->chat = "{% set x = '<|start_header_id|>' %}";
    mfi_tokenizer *t = load_fake(file);
    expect_same(t, expected);
    cr_assert_eq(mfi_tokenizer_chat(t), MF_CHAT_LLAMA3);
    cr_assert_eq(mfi_tokenizer_bos(t), file->bos);
    cr_assert(mfi_tokenizer_stops(t, (int32_t)file->eot) && mfi_tokenizer_stops(t, (int32_t)file->eos));
    cr_assert_not(mfi_tokenizer_stops(t, (int32_t)file->bos));
    mfi_tokenizer_free(t);
    mfi_tokenizer_free(expected);
    free_fake(file);
}

/* Scores are the order of the pieces: what merges first has the higher one. */
Test(gguf, sentencepiece_pieces_merge_by_score)
{
    static char *tokens[] = {
        "<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "b", "ab", "\xe2\x96\x81\x61\x62", "ba", "  "
    };
    static const double scores[] = { 0, 0, 0, -9, -9, -9, -2, -3, -1, 0 }, types[] = { 2, 3, 3, 1, 1, 1, 1, 1, 1, 4 };
    mfi_tensor_file *file = new_fake("llama");
    for (size_t i = 0; i < MFI_COUNT(tokens); i++)
        file->tokens[i] = copy(tokens[i], strlen(tokens[i]));
    memcpy(file->scores, scores, sizeof scores);
    memcpy(file->types, types, sizeof types);
    file->n_token = file->n_score = MFI_COUNT(tokens);
    file->bos = 1;
    file->eos = 2;
    file->add_space = true;
    mfi_tokenizer *t = load_fake(file);
    static const int32_t expected[] = { 1, 3, 4, 8, 0 };
    int32_t got[8];
    size_t n;
    cr_assert_eq(mfi_tokenizer_encode(t, "aba?!", 5, MFI_ENCODE_ENDS, got, 8, &n), MF_OK);
    cr_assert(n == 5 && memcmp(got, expected, sizeof expected) == 0);
    mfi_tokenizer_free(t);
    free_fake(file);
}

static void expect_refused(const mfi_tensor_file *file, mf_status wanted, const char *sentence)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mf_error error = MF_ERROR_INIT;
    void *blob;
    size_t bytes;
    const mf_status status = mfi_tokenizer_from_gguf(&blob, &bytes, &allocator, file, &error);
    cr_assert(status == wanted && !blob && strstr(error.detail, sentence), "%d: %s", status, error.detail);
}

Test(gguf, what_is_not_known_is_named)
{
    mfi_tensor_file *file = new_fake("gpt2");
    expect_refused(file, MF_E_NOT_FOUND, "the file has no tokenizer");
    fake_of_json(file, "llama3.json");
    file->pre = "qwen2";
    expect_refused(file, MF_E_UNSUPPORTED, "the pre-tokenizer \"qwen2\" is not known");
    file->pre = "llama-bpe";
    file->n_score = 3;
    expect_refused(file, MF_E_FORMAT, "tokenizer.ggml.scores is not a number for each");
    file->n_score = 0;
    file->types[5] = 9;
    expect_refused(file, MF_E_FORMAT, "of 256 bytes have a token");
    file->types[5] = 1;
    file->merges[7][0] = '\0';
    expect_refused(file, MF_E_FORMAT, "merge 7 is not of two tokens");
    file->model = "bert";
    expect_refused(file, MF_E_UNSUPPORTED, "the tokenizer model \"bert\" is not known");
    free_fake(file);
}
