/* Tokenizers of other people's files: equal to the packages that made them, and damaged in many ways. */
#define _POSIX_C_SOURCE 200809L
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "counting_allocator.h"
#include "defs.h"
#include "tokenizer_import.h"
#include "tokenizer_lines.h"

#define FOLDER GOLDEN_DIR "/tokenizers/"

static const char *const names[] = { "neox.json",        "llama3.json",       "gemma.json",
                                     "llama2.json",      "llama2_first.json", "gemma.model",
                                     "llama2.model",     "unigram.model",     "unigram_unknown.model",
                                     "bpe_unknown.model" };

static bool is_json(const char *name)
{
    return strstr(name, ".json") != NULL;
}

static mf_status import(void **blob, size_t *bytes, const mf_allocator *allocator, const char *name, const void *data,
                        size_t count, mf_error *error)
{
    return is_json(name) ? mfi_tokenizer_from_json(blob, bytes, allocator, name, data, count, error)
                         : mfi_tokenizer_from_spm(blob, bytes, allocator, name, data, count, error);
}

/* The blob is the caller's. */
static byte_string import_golden(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, FOLDER "%s", name);
    byte_string file = read_whole(path);
    mf_allocator allocator = mfi_allocator(NULL);
    mf_error error = MF_ERROR_INIT;
    void *blob;
    size_t bytes;
    cr_assert_eq(import(&blob, &bytes, &allocator, name, file.data, file.count, &error), MF_OK, "%s", error.detail);
    free(file.data);
    return (byte_string){ blob, bytes };
}

static mfi_tokenizer *load_imported(const char *name)
{
    byte_string blob = import_golden(name);
    mfi_tokenizer *t = load(blob.data, blob.count);
    free(blob.data);
    return t;
}

/* ---- Equality ---- */

static uint32_t fnv(uint32_t hash, const unsigned char *data, size_t count)
{
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ data[i]) * 0x01000193u;
    return hash;
}

static uint32_t hash_tokens(const int32_t *tokens, size_t n)
{
    uint32_t hash = 0x811c9dc5u;
    for (size_t i = 0; i < n; i++) {
        const uint32_t token = (uint32_t)tokens[i];
        const unsigned char bytes[] = { (unsigned char)token, (unsigned char)(token >> 8), (unsigned char)(token >> 16),
                                        (unsigned char)(token >> 24) };
        hash = fnv(hash, bytes, 4);
    }
    return hash;
}

static void expect_line(const mfi_tokenizer *t, const char *name, uint32_t index, const line_maker *m,
                        const unsigned char **expected)
{
    static int32_t tokens[4 * MAX_LINE_BYTES];
    static char back[4 * MAX_LINE_BYTES];
    size_t n_token, n_back;
    const unsigned ways = (index % 2 ? MFI_ENCODE_CONTROL : 0u) | (index % 3 == 0 ? MFI_ENCODE_ENDS : 0u);
    const uint32_t of_tokens = take_u32(expected), of_text = take_u32(expected);
    cr_assert_eq(
        mfi_tokenizer_encode(t, m->text, m->bytes, is_json(name) ? ways : 0, tokens, MFI_COUNT(tokens), &n_token),
        MF_OK);
    cr_assert_eq(hash_tokens(tokens, n_token), of_tokens, "%s, line %u: %zu tokens", name, index, n_token);
    cr_assert_eq(mfi_tokenizer_decode(t, tokens, n_token, back, sizeof back, &n_back), MF_OK);
    cr_assert_eq(fnv(0x811c9dc5u, (unsigned char *)back, n_back), of_text, "%s, line %u: \"%.*s\"", name, index,
                 (int)n_back, back);
}

static void expect_lines(size_t which)
{
    static line_maker m;
    byte_string file = read_whole(FOLDER "expected.bin");
    cr_assert_eq(file.count, MFI_COUNT(names) * N_LINE * 8);
    const unsigned char *expected = file.data + which * N_LINE * 8;
    mfi_tokenizer *t = load_imported(names[which]);
    open_lines(&m);
    for (uint32_t i = 0; i < N_LINE; i++) {
        make_line(&m, i);
        expect_line(t, names[which], i, &m, &expected);
    }
    mfi_tokenizer_free(t);
    free(m.story.data);
    free(file.data);
}

Test(import, gpt_neox_equals_the_hugging_face_package)
{
    expect_lines(0);
}

Test(import, llama3_equals_the_hugging_face_package)
{
    expect_lines(1);
}

Test(import, gemma_json_equals_the_hugging_face_package)
{
    expect_lines(2);
}

Test(import, llama2_json_equals_the_hugging_face_package)
{
    expect_lines(3);
}

Test(import, llama2_metaspace_equals_the_hugging_face_package)
{
    expect_lines(4);
}

Test(import, gemma_model_equals_sentencepiece)
{
    expect_lines(5);
}

Test(import, llama2_model_equals_sentencepiece)
{
    expect_lines(6);
}

Test(import, unigram_equals_sentencepiece)
{
    expect_lines(7);
}

Test(import, unigram_with_unknown_characters_equals_sentencepiece)
{
    expect_lines(8);
}

Test(import, bpe_with_unknown_characters_equals_sentencepiece)
{
    expect_lines(9);
}
