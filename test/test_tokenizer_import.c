/* Tokenizers of other people's files: equal to the packages that made them, and damaged in many ways. */
#define _POSIX_C_SOURCE 200809L
#include <criterion/criterion.h>
#include <math.h>
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

/* ---- Control tokens, bytes that are no text, long texts ---- */

static size_t encode(const mfi_tokenizer *t, const char *text, size_t count, unsigned how, int32_t *tokens, size_t room)
{
    size_t n_token;
    cr_assert_eq(mfi_tokenizer_encode(t, text, count, how, tokens, room, &n_token), MF_OK);
    return n_token;
}

Test(import, text_becomes_a_control_token_only_where_the_caller_asks)
{
    static const char *const controls[][2] = { { "neox.json", "<|endoftext|>" },     { "llama3.json", "<|eot_id|>" },
                                               { "gemma.json", "<end_of_turn>" },    { "llama2.json", "</s>" },
                                               { "gemma.model", "<start_of_turn>" }, /* user-defined in the file */
                                               { "llama2.model", "</s>" },           { "unigram.model", "<s>" } };
    for (size_t i = 0; i < MFI_COUNT(controls); i++) {
        int32_t tokens[64];
        mfi_tokenizer *t = load_imported(controls[i][0]);
        const char *name = controls[i][1];
        const int32_t control = mfi_tokenizer_control(t, name);
        cr_assert_geq(control, 0, "%s", controls[i][0]);
        size_t n = encode(t, name, strlen(name), 0, tokens, 64);
        cr_assert_gt(n, 1);
        for (size_t j = 0; j < n; j++)
            cr_assert_neq(tokens[j], control);
        n = encode(t, name, strlen(name), MFI_ENCODE_CONTROL, tokens, 64);
        cr_assert(n == 1 && tokens[0] == control, "%s", controls[i][0]);
        mfi_tokenizer_token(t, control, &n);
        cr_assert_eq(n, 0);
        mfi_tokenizer_free(t);
    }
}

Test(import, bytes_that_are_no_text_come_back)
{
    static const char *const keep_bytes[] = { "neox.json",   "llama3.json", "gemma.json",
                                              "llama2.json", "gemma.model", "llama2.model" };
    uint64_t random = 5;
    for (size_t i = 0; i < MFI_COUNT(keep_bytes); i++) {
        mfi_tokenizer *t = load_imported(keep_bytes[i]);
        for (uint32_t round = 0; round < 500; round++) {
            char text[64], back[256];
            int32_t tokens[256];
            size_t count = hostile_random(&random) % sizeof text, n_back;
            for (size_t j = 0; j < count; j++)
                text[j] = (char)(unsigned char)(0x80 + hostile_random(&random) % 0x80);
            /* Characters of before U+0300 alone, so that nothing is normalized. */
            for (size_t j = 0; j < count; j++)
                if ((unsigned char)text[j] >= 0xcc && (unsigned char)text[j] < 0xf8) text[j] = (char)0xff;
            const size_t n = encode(t, text, count, 0, tokens, 256);
            cr_assert_eq(mfi_tokenizer_decode(t, tokens, n, back, sizeof back, &n_back), MF_OK);
            cr_assert(n_back == count && memcmp(back, text, count) == 0, "%s, round %u", keep_bytes[i], round);
        }
        mfi_tokenizer_free(t);
    }
}

/* Quadratic work would take hours here: the test's time limit is the check. */
Test(import, megabytes_of_one_kind_do_not_take_quadratic_time, .timeout = 100)
{
    static const char *const kinds[] = { " ", "\n", "a",   "ab", "\xcc\x81\xcc\xa3", "\xe2\x96\x81", "\xff",
                                         "'", "1",  "\r ", "<b", "\xe1\x84\x80" };
    const size_t count = (size_t)1 << 19;
    char *text = malloc(count);
    int32_t *tokens = malloc(4 * count * sizeof *tokens);
    for (size_t i = 0; i < MFI_COUNT(names); i++) {
        mfi_tokenizer *t = load_imported(names[i]);
        for (size_t k = 0; k < MFI_COUNT(kinds); k++) {
            const size_t n = strlen(kinds[k]);
            for (size_t at = 0; at < count; at++)
                text[at] = kinds[k][at % n];
            encode(t, text, count / n * n, MFI_ENCODE_CONTROL, tokens, 4 * count);
        }
        mfi_tokenizer_free(t);
    }
    free(text);
    free(tokens);
}

Test(import, every_failing_allocation_is_clean)
{
    static const char *const some[] = { "gemma.model", "unigram.model", "neox.json", "llama2.json" };
    for (size_t i = 0; i < MFI_COUNT(some); i++) {
        char path[512];
        snprintf(path, sizeof path, FOLDER "%s", some[i]);
        byte_string file = read_whole(path);
        mf_status status = MF_E_NOMEM;
        for (size_t fail_at = 1; status != MF_OK; fail_at++) {
            counting count = { .fail_at = fail_at, .mutex = PTHREAD_MUTEX_INITIALIZER };
            mf_allocator allocator = counting_allocator(&count);
            void *blob;
            size_t bytes = 0;
            status = import(&blob, &bytes, &allocator, some[i], file.data, file.count, NULL);
            cr_assert_eq(status, count.n_alloc < fail_at ? MF_OK : MF_E_NOMEM);
            cr_assert_eq(status == MF_OK, blob != NULL);
            mfi_free(&allocator, blob, bytes);
            cr_assert_eq(count.live_bytes, 0);
        }
        free(file.data);
    }
}

/* ---- Damaged files ---- */

static void expect_refused(const char *name, const void *data, size_t count, mf_status wanted, const char *sentence)
{
    counting memory = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    mf_allocator allocator = counting_allocator(&memory);
    mf_error error = MF_ERROR_INIT;
    void *blob;
    size_t bytes;
    const mf_status status = import(&blob, &bytes, &allocator, name, data, count, &error);
    cr_assert(status == wanted && error.status == wanted, "%s: %d, not %d, for \"%s\": %s", name, status, wanted,
              sentence, error.detail);
    cr_assert(strstr(error.detail, sentence) && strstr(error.detail, name), "\"%s\", not \"%s\"", error.detail,
              sentence);
    cr_assert(blob == NULL && memory.live_bytes == 0);
}

static byte_string replaced(byte_string file, const char *from, const char *to)
{
    char *text = (char *)file.data, *at;
    text[file.count] = '\0';
    at = strstr(text, from);
    cr_assert_not_null(at, "%s", from);
    const size_t before = (size_t)(at - text), n_from = strlen(from), n_to = strlen(to);
    byte_string out = { malloc(file.count + n_to + 1), file.count - n_from + n_to };
    memcpy(out.data, text, before);
    memcpy(out.data + before, to, n_to);
    memcpy(out.data + before + n_to, at + n_from, file.count - before - n_from);
    return out;
}

Test(damage, what_a_tokenizer_json_asks_for_and_is_not_known_is_named)
{
    static const struct {
        const char *file, *from, *to;
        mf_status status;
        const char *sentence;
    } damages[] = {
        { "neox.json", "{\"version\"", "[\"version\"", MF_E_FORMAT, "line 1" },
        { "neox.json", "\"version\"", "\"model\":0,\"version\"", MF_E_FORMAT, "duplicate" },
        { "neox.json", "\"NFC\"", "\"NFKC\"", MF_E_UNSUPPORTED, "the normalizer is not known: {\"type\":\"NFKC\"}" },
        { "neox.json", "\"use_regex\":true", "\"use_regex\":7", MF_E_UNSUPPORTED, "the pre_tokenizer is not known" },
        { "neox.json", "\"add_prefix_space\":false", "\"add_prefix_space\":true", MF_E_UNSUPPORTED,
          "the pre_tokenizer is not known" },
        { "llama3.json", "{1,3}", "{1,2}", MF_E_UNSUPPORTED, "the pre_tokenizer is not known" },
        { "llama3.json", "\"TemplateProcessing\"", "\"Other\"", MF_E_UNSUPPORTED, "post_processor" },
        { "llama3.json", "\"SpecialToken\":{\"id\":\"<|b", "\"SpecialToken\":{\"id\":\"<|c", MF_E_UNSUPPORTED,
          "post_processor" },
        { "llama2.json", "\"Fuse\"", "\"Fuze\"", MF_E_UNSUPPORTED, "the decoder is not known" },
        { "llama2.json", "\"prepend\":\"\xe2\x96\x81\"", "\"prepend\":\"_\"", MF_E_UNSUPPORTED,
          "the normalizer is not known" },
        { "llama2.json", "\"normalized\":false", "\"normalized\":true", MF_E_UNSUPPORTED, "with a space before it" },
        { "llama2_first.json", "\"split\":false", "\"split\":true", MF_E_UNSUPPORTED,
          "the pre_tokenizer is not known" },
        { "gemma.json", "\"ignore_merges\":false", "\"ignore_merges\":true", MF_E_UNSUPPORTED, "ignore_merges" },
        { "gemma.json", "\"<0x41>\"", "\"<0xZZ>\"", MF_E_FORMAT, "255 of 256 bytes" },
        { "gemma.json", "\"BPE\"", "\"Unigram\"", MF_E_UNSUPPORTED, "a model of type Unigram" },
        { "neox.json", "\"dropout\":null", "\"dropout\":0.1", MF_E_UNSUPPORTED, "with dropout" },
        { "neox.json", "\"continuing_subword_prefix\":null", "\"continuing_subword_prefix\":\"##\"", MF_E_UNSUPPORTED,
          "with subword marks" },
        { "neox.json", "\"end_of_word_suffix\":null", "\"end_of_word_suffix\":5", MF_E_FORMAT, "must be a string" },
        { "neox.json", "\"model\":", "\"modell\":", MF_E_FORMAT, "\"model\" is missing" },
        { "neox.json", "\"vocab\":", "\"vocabulary\":", MF_E_FORMAT, "no vocab" },
        { "neox.json", "\"merges\":", "\"merge\":", MF_E_FORMAT, "no merges" },
        { "neox.json", "\"merges\":[[", "\"merges\":[[\"x\"],[", MF_E_FORMAT, "merge 0 is not of two tokens" },
        { "neox.json", "\"merges\":[[", "\"merges\":[\"a b c\",[", MF_E_FORMAT, "merge 0 is not of two tokens" },
        { "neox.json", "\"merges\":[[", "\"merges\":[7,[", MF_E_FORMAT, "merge 0 is not of two tokens" },
        { "neox.json", "\"!\":2", "\"!\":1", MF_E_FORMAT, "token 1 is there twice" },
        { "neox.json", "\"!\":2", "\"!\":-2", MF_E_FORMAT, "must have a number below 1048576" },
        { "neox.json", "\"!\":2", "\"!\":1048576", MF_E_FORMAT, "must have a number below 1048576" },
        { "neox.json", "\"!\":2", "\"!\":\"2\"", MF_E_FORMAT, "must have a number" },
        { "neox.json", "\"\xc4\x80\":", "\"\":", MF_E_FORMAT, "is empty or too long" },
        { "neox.json", "\"single_word\":false", "\"single_word\":true", MF_E_UNSUPPORTED,
          "\"single_word\" is not known" },
        { "neox.json", "\"lstrip\":false", "\"lstrip\":true", MF_E_UNSUPPORTED, "\"lstrip\" is not known" },
        { "neox.json", "\"rstrip\":false", "\"rstrip\":true", MF_E_UNSUPPORTED, "\"rstrip\" is not known" },
        { "neox.json", "\"content\":\"<|endoftext|>\"", "\"content\":\"\"", MF_E_FORMAT,
          "added token 0 has no content" },
        { "neox.json", "\"content\":\"<|padding|>\"", "\"content\":\"<|endoftext|>\"", MF_E_FORMAT, "added text 24" },
        { "neox.json", "\"id\":0", "\"id\":-1", MF_E_FORMAT, "must have a number" },
        { "neox.json", "\"added_tokens\":[", "\"added_tokens\":[7,", MF_E_FORMAT, "added token 0 has no content" },
        { "neox.json", "\"added_tokens\":[", "\"added_tokens\":{},\"other\":[", MF_E_FORMAT, "must be an array" },
    };
    for (size_t i = 0; i < MFI_COUNT(damages); i++) {
        char path[512];
        snprintf(path, sizeof path, FOLDER "%s", damages[i].file);
        byte_string file = read_whole(path), bad = replaced(file, damages[i].from, damages[i].to);
        expect_refused(damages[i].file, bad.data, bad.count, damages[i].status, damages[i].sentence);
        free(file.data);
        free(bad.data);
    }
}

/* A model of a few pieces, as a protocol buffer. */
typedef struct tiny_model {
    unsigned char data[4096];
    size_t n;
} tiny_model;

static void put_field(tiny_model *m, unsigned number, const void *data, size_t n)
{
    cr_assert_leq(m->n + n + 6, sizeof m->data);
    m->data[m->n++] = (unsigned char)(number << 3 | 2);
    m->data[m->n++] = (unsigned char)(n | 0x80);
    m->data[m->n++] = (unsigned char)(n >> 7);
    memcpy(m->data + m->n, data, n);
    m->n += n;
}

static void put_piece(tiny_model *m, const char *text, size_t bytes, float score, unsigned char type)
{
    tiny_model piece = { .n = 0 };
    put_field(&piece, 1, text, bytes);
    piece.data[piece.n++] = 2 << 3 | 5;
    memcpy(piece.data + piece.n, &score, 4); /* the tests run where floats are little-endian */
    piece.n += 4;
    piece.data[piece.n++] = 3 << 3;
    piece.data[piece.n++] = type;
    put_field(m, 1, piece.data, piece.n);
}

static tiny_model begin_tiny(void)
{
    static const unsigned char trainer[] = { 3 << 3, 2 }, normalizer[] = { 3 << 3, 0, 4 << 3, 0 };
    tiny_model m = { .n = 0 };
    put_piece(&m, "<unk>", 5, 0, 2);
    put_piece(&m, "a", 1, -2, 1);
    put_piece(&m, "b", 1, -3, 1);
    put_piece(&m, "ab", 2, -1, 1);
    put_field(&m, 2, trainer, sizeof trainer);
    put_field(&m, 3, normalizer, sizeof normalizer);
    return m;
}

static void refuse_tiny(const tiny_model *m, mf_status status, const char *sentence)
{
    expect_refused("tiny.model", m->data, m->n, status, sentence);
}

Test(damage, a_small_model_is_read)
{
    tiny_model m = begin_tiny();
    mf_allocator allocator = mfi_allocator(NULL);
    void *blob;
    size_t bytes;
    int32_t tokens[4];
    cr_assert_eq(mfi_tokenizer_from_spm(&blob, &bytes, &allocator, "tiny.model", m.data, m.n, NULL), MF_OK);
    mfi_tokenizer *t = load(blob, bytes);
    cr_assert_eq(encode(t, "babxy", 5, 0, tokens, 4), 3);
    cr_assert(tokens[0] == 2 && tokens[1] == 3 && tokens[2] == 0);
    mfi_tokenizer_free(t);
    mfi_free(&allocator, blob, bytes);
}

Test(damage, pieces_of_a_model_are_checked)
{
    static char too_long[1025];
    memset(too_long, 'x', sizeof too_long);
    const struct {
        const char *text;
        size_t bytes;
        float score;
        unsigned char type;
        mf_status status;
        const char *sentence;
    } pieces[] = {
        { "", 0, 0, 1, MF_E_FORMAT, "piece 4 is empty or too long" },
        { too_long, sizeof too_long, 0, 1, MF_E_FORMAT, "piece 4 is empty or too long" },
        { "c", 1, NAN, 1, MF_E_FORMAT, "its score is no number" },
        { "c", 1, INFINITY, 1, MF_E_FORMAT, "its score is no number" },
        { "c", 1, 0, 0, MF_E_UNSUPPORTED, "piece 4 has type 0" },
        { "c", 1, 0, 9, MF_E_UNSUPPORTED, "piece 4 has type" },
        { "c", 1, 0, 2, MF_E_FORMAT, "two unknown pieces" },
        { "c", 1, 0, 6, MF_E_FORMAT, "byte piece 4 has no byte's name" },
        { "ab", 2, -1, 1, MF_E_FORMAT, "is empty or out of order" },
        { "a", 1, 0, 4, MF_E_FORMAT, "is empty or out of order" },
    };
    for (size_t i = 0; i < MFI_COUNT(pieces); i++) {
        tiny_model m = begin_tiny();
        put_piece(&m, pieces[i].text, pieces[i].bytes, pieces[i].score, pieces[i].type);
        refuse_tiny(&m, pieces[i].status, pieces[i].sentence);
    }
}

Test(damage, settings_of_a_model_that_are_not_known_are_named)
{
    static const struct {
        unsigned number; /* of the field in the model */
        unsigned char data[8];
        size_t n;
        mf_status status;
        const char *sentence;
    } settings[] = {
        { 2, { 3 << 3, 3 }, 2, MF_E_UNSUPPORTED, "model of type 3" },
        { 2, { 0xc0, 1, 1 }, 3, MF_E_UNSUPPORTED, "treat_whitespace_as_suffix" },
        { 3, { 2 << 3 | 2, 1, 'x' }, 3, MF_E_UNSUPPORTED, "changes characters; known is identity" },
        { 3, { 6 << 3 | 2, 1, 'x' }, 3, MF_E_UNSUPPORTED, "changes characters" },
        { 3, { 5 << 3, 0 }, 2, MF_E_UNSUPPORTED, "escape_whitespaces" },
        { 5, { 2 << 3 | 2, 1, 'x' }, 3, MF_E_UNSUPPORTED, "denormalizer" },
        { 2, { 3 << 3 | 3 }, 1, MF_E_FORMAT, "broken protocol buffer" },
        { 2, { 3 << 3, 0x80 }, 2, MF_E_FORMAT, "broken protocol buffer" },
        { 3, { 2 << 3 | 2, 9, 'x' }, 3, MF_E_FORMAT, "broken protocol buffer" },
        { 1, { 2 << 3 | 5, 0, 0 }, 3, MF_E_FORMAT, "broken protocol buffer" },
        { 1, { 2 << 3 | 1, 0, 0 }, 3, MF_E_FORMAT, "broken protocol buffer" },
    };
    for (size_t i = 0; i < MFI_COUNT(settings); i++) {
        tiny_model m = begin_tiny();
        put_field(&m, settings[i].number, settings[i].data, settings[i].n);
        refuse_tiny(&m, settings[i].status, settings[i].sentence);
    }
    expect_refused("tiny.model", "", 0, MF_E_FORMAT, "no pieces");
    expect_refused("tiny.model", "{\"a\":1}", 7, MF_E_FORMAT, "broken protocol buffer");
}

/* ---- Damaged blobs ---- */

static uint32_t blob_u32(const unsigned char *p)
{
    return take_u32(&p);
}

static void expect_bad_blob(byte_string blob, size_t at, uint32_t value, const char *sentence)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mf_error error = MF_ERROR_INIT;
    mfi_tokenizer *t = NULL;
    unsigned char *bad = malloc(blob.count);
    memcpy(bad, blob.data, blob.count);
    for (size_t i = 0; i < 4; i++)
        bad[at + i] = (unsigned char)(value >> (8 * i));
    const mf_status status = mfi_tokenizer_load(&t, &allocator, bad, blob.count, &error);
    cr_assert(status == MF_E_FORMAT || status == MF_E_UNSUPPORTED, "%zu: %d", at, status);
    cr_assert(!t && strstr(error.detail, sentence), "\"%s\", not \"%s\"", error.detail, sentence);
    free(bad);
}

Test(damage, every_field_of_a_blob_is_checked)
{
    byte_string blob = import_golden("gemma.model"), unigram = import_golden("unigram.model");
    const uint32_t n_token = blob_u32(blob.data + 20), n_piece = blob_u32(blob.data + 24),
                   n_merge = blob_u32(blob.data + 28);
    const uint32_t n_added = blob_u32(blob.data + 32);
    const size_t lengths = 64 + 1024, pieces = lengths + 4 * n_token, merges = pieces + 4 * n_piece,
                 added = merges + 16 * n_merge;
    const struct {
        size_t at;
        uint32_t value;
        const char *sentence;
    } damages[] = {
        { 8, 0, "not known here" },
        { 8, 4, "not known here" },
        { 8, 1, "has no pretokenizer" }, /* a byte-level one that adds no prefix, yet fuses unknown characters */
        { 8, 3, "a tokenizer of" },      /* Unigram has no merges */
        { 12, 9, "not known here" },
        { 12, 2, "has no pretokenizer 2" },
        { 16, 1u << 20, "not known here" },
        { 16, MFI_VOCAB_NFC, "has no pretokenizer" },
        { 20, n_token + 1, "do not hold" },
        { 20, UINT32_MAX, "a tokenizer of" },
        { 24, n_token + 1, "a tokenizer of" },
        { 28, UINT32_MAX, "a tokenizer of" },
        { 32, n_added - 1, "do not hold" },
        { 36, 100, "a tokenizer of" },
        { 40, UINT32_MAX, "a tokenizer of" },
        { 44, 3, "not known here" },
        { 44, MF_CHAT_LLAMA3, "its chats need a control token <|start_header_id|>" },
        { 48, n_token, "is none" },
        { 52, n_token, "is none" },
        { 56, n_token, "is none" },
        { 48, UINT32_MAX, "is none" }, /* bos is added, and is none */
        { 64, 5, "is not the byte 0" },
        { 64, UINT32_MAX, "255 of 256 bytes" },
        { lengths, 2000, "too long" },
        { lengths + 4 * (n_token - 1), 0, "text of" },
        { pieces, n_token, "piece 0" },
        { pieces + 4, blob_u32(blob.data + pieces), "piece 1" },
        { merges, n_token, "merge 0 of tokens" },
        { merges + 8, 3, "merge 0 of tokens" },
        { merges + 12, n_merge, "has rank" },
        { merges + 16 * (n_merge - 1) + 12, 0, "has rank 0" },
        { added, n_token, "added text 0" },
        { added + 8, 4, "added text 0" },
    };
    for (size_t i = 0; i < MFI_COUNT(damages); i++)
        expect_bad_blob(blob, damages[i].at, damages[i].value, damages[i].sentence);
    const size_t scores = 64 + 1024 + 4 * blob_u32(unigram.data + 20) + 4 * blob_u32(unigram.data + 24);
    expect_bad_blob(unigram, scores, 0x7fc00000, "is no number");
    expect_bad_blob(unigram, 56, UINT32_MAX, "no token for unknown characters");
    free(blob.data);
    free(unigram.data);
}

Test(damage, random_damage_gives_a_status_or_a_tokenizer_that_works)
{
    uint64_t random = 9;
    for (size_t i = 0; i < MFI_COUNT(names); i++) {
        byte_string blob = import_golden(names[i]);
        unsigned char *bad = malloc(blob.count);
        for (uint32_t round = 0; round < 400; round++) {
            size_t count = blob.count;
            memcpy(bad, blob.data, count);
            for (uint64_t n = 1 + hostile_random(&random) % 3; n > 0; n--)
                bad[hostile_random(&random) % (n % 2 ? count : 1200)] ^=
                    (unsigned char)(1u << hostile_random(&random) % 8);
            mf_allocator allocator = mfi_allocator(NULL);
            mfi_tokenizer *t = NULL;
            int32_t tokens[128];
            char text[512];
            size_t n_token, n_back;
            if (mfi_tokenizer_load(&t, &allocator, bad, count, NULL) != MF_OK) continue;
            const char sample[] = "The bell\n\n  rang <b> \xe6\x97\xa5 e\xcc\x81 \xff <s> 123";
            mfi_tokenizer_encode(t, sample, sizeof sample - 1, MFI_ENCODE_CONTROL | MFI_ENCODE_ENDS, tokens, 128,
                                 &n_token);
            mfi_tokenizer_decode(t, tokens, n_token < 128 ? n_token : 128, text, sizeof text, &n_back);
            mfi_tokenizer_free(t);
        }
        free(bad);
        free(blob.data);
    }
}
