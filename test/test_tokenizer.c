/* The tokenizer: against another implementation, round trips, hostile blobs. */
#define _POSIX_C_SOURCE 200809L
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "counting_allocator.h"
#include "tokenizer_fixture.h"

static mfi_tokenizer *load_golden(golden *g)
{
    *g = open_golden();
    return load(g->blob.data, g->blob.count);
}

/* The text's tokens; the caller frees. */
static int32_t *encode(const mfi_tokenizer *t, const void *text, size_t count, size_t *n_token)
{
    int32_t *tokens = malloc((count + 1) * sizeof *tokens);
    cr_assert_eq(mfi_tokenizer_encode(t, text, count, 0, tokens, count, n_token), MF_OK);
    return tokens;
}

static void expect_round_trip(const mfi_tokenizer *t, const void *text, size_t count)
{
    size_t n_token, n_back;
    int32_t *tokens = encode(t, text, count, &n_token);
    char *back = malloc(count + 1);
    cr_assert_eq(mfi_tokenizer_decode(t, tokens, n_token, back, count, &n_back), MF_OK);
    cr_assert_eq(n_back, count);
    cr_assert(memcmp(back, text, count) == 0);
    free(tokens);
    free(back);
}

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

/* ---- Encoding ---- */

Test(tokenizer, every_text_gives_the_tokens_of_the_hugging_face_package)
{
    golden g;
    mfi_tokenizer *t = load_golden(&g);
    const unsigned char *at = g.cases;
    uint32_t n_case = take_u32(&at);
    cr_assert_geq(n_case, 50);
    for (uint32_t i = 0; i < n_case; i++) {
        uint32_t count = take_u32(&at);
        const unsigned char *text = at;
        at += count;
        uint32_t n_expected = take_u32(&at);
        size_t n_token;
        int32_t *tokens = encode(t, text, count, &n_token);
        cr_assert_eq(n_token, n_expected, "case %u: %zu tokens, not %u", i, n_token, n_expected);
        for (uint32_t j = 0; j < n_expected; j++)
            cr_assert_eq(tokens[j], (int32_t)take_u32(&at), "case %u, token %u", i, j);
        expect_round_trip(t, text, count);
        free(tokens);
    }
    cr_assert_eq((size_t)(at - g.file.data), g.file.count);
    mfi_tokenizer_free(t);
    free(g.file.data);
}

Test(tokenizer, random_bytes_of_every_kind_come_back)
{
    golden g;
    mfi_tokenizer *t = load_golden(&g);
    static const char alphabet[] = "the and \n\t of 12 ,.'\xc3\xa9\xe2\x82\xac";
    uint64_t random = 1;
    unsigned char text[700];
    for (uint32_t round = 0; round < 4000; round++) {
        size_t count = next_random(&random) % (round % 10 == 0 ? sizeof text : 40);
        for (size_t i = 0; i < count; i++) {
            uint32_t number = next_random(&random);
            text[i] = round % 2 ? (unsigned char)number : (unsigned char)alphabet[number % (sizeof alphabet - 1)];
        }
        expect_round_trip(t, text, count);
    }
    mfi_tokenizer_free(t);
    free(g.file.data);
}

/* Quadratic work would take hours here: the test's time limit is the check. */
Test(tokenizer, megabytes_without_a_cut_do_not_take_quadratic_time, .timeout = 60)
{
    golden g;
    mfi_tokenizer *t = load_golden(&g);
    byte_string story = read_whole(STORY);
    const size_t count = (size_t)4 << 20;
    char *text = malloc(count);
    for (size_t i = 0, from = 0; i < count; from = (from + 1) % story.count)
        if (story.data[from] >= 'a' && story.data[from] <= 'z') text[i++] = (char)story.data[from];
    cr_assert_eq(mfi_pretokenize(MFI_PRE_PLAIN, text, count), count);
    expect_round_trip(t, text, count);
    memset(text, 'e', count);
    expect_round_trip(t, text, count);
    memset(text, ' ', count);
    expect_round_trip(t, text, count);
    mfi_tokenizer_free(t);
    free(text);
    free(story.data);
    free(g.file.data);
}

Test(tokenizer, pieces_are_cut_as_documented)
{
    static const char *const expected[] = { "One", " day", ",",    "\n\n", "she", " said", " 42",        " \"", "Oh",
                                            "!\"", "  ",   " and", "\t",   "ran", "7",     "up\xc3\xa9", " ",   NULL };
    char text[100] = "";
    for (size_t i = 0; expected[i]; i++)
        strcat(text, expected[i]);
    size_t at = 0, count = strlen(text);
    for (size_t i = 0; at < count; i++) {
        size_t piece = mfi_pretokenize(MFI_PRE_PLAIN, text + at, count - at);
        cr_assert_not_null(expected[i]);
        cr_assert(piece == strlen(expected[i]) && memcmp(text + at, expected[i], piece) == 0, "piece %zu: \"%.*s\"", i,
                  (int)piece, text + at);
        at += piece;
    }
    cr_assert_eq(mfi_pretokenize(MFI_PRE_PLAIN, text, 0), 0);
}

Test(tokenizer, a_full_buffer_says_how_many_tokens_are_needed)
{
    golden g;
    mfi_tokenizer *t = load_golden(&g);
    static const char text[] = "Once upon a time there was a bell";
    size_t n_token, n_again;
    int32_t *tokens = encode(t, text, strlen(text), &n_token), few[3] = { -7, -7, -7 };
    cr_assert_eq(mfi_tokenizer_encode(t, text, strlen(text), 0, NULL, 0, &n_again), MF_E_CAPACITY);
    cr_assert_eq(n_again, n_token);
    cr_assert_eq(mfi_tokenizer_encode(t, text, strlen(text), 0, few, 2, &n_again), MF_E_CAPACITY);
    cr_assert_eq(n_again, n_token);
    cr_assert(few[0] == tokens[0] && few[1] == tokens[1] && few[2] == -7);

    char back[64] = "";
    size_t n_back;
    cr_assert_eq(mfi_tokenizer_decode(t, tokens, n_token, back, 5, &n_back), MF_E_CAPACITY);
    cr_assert_eq(n_back, strlen(text));
    cr_assert(memchr(back + 5, 0, 1) != NULL, "wrote past the capacity");
    free(tokens);
    mfi_tokenizer_free(t);
    free(g.file.data);
}

Test(tokenizer, special_tokens_have_no_bytes_and_others_are_out_of_range)
{
    golden g;
    mfi_tokenizer *t = load_golden(&g);
    int32_t eos = mfi_tokenizer_eos(t), beyond = eos + 1, negative = -1;
    size_t count;
    cr_assert_eq((uint32_t)eos + 1, mfi_tokenizer_vocab(t));
    cr_assert_eq(mfi_tokenizer_decode(t, &eos, 1, NULL, 0, &count), MF_OK);
    cr_assert_eq(count, 0);
    cr_assert_not_null(mfi_tokenizer_token(t, eos, &count));
    cr_assert_eq(mfi_tokenizer_decode(t, &beyond, 1, NULL, 0, &count), MF_E_RANGE);
    cr_assert_eq(mfi_tokenizer_decode(t, &negative, 1, NULL, 0, &count), MF_E_RANGE);
    mfi_tokenizer_free(t);
    free(g.file.data);
}

Test(tokenizer, a_long_piece_without_memory_fails_and_leaks_nothing)
{
    golden g = open_golden();
    counting count = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    mf_allocator allocator = counting_allocator(&count);
    mfi_tokenizer *t;
    cr_assert_eq(mfi_tokenizer_load(&t, &allocator, g.blob.data, g.blob.count, NULL), MF_OK);
    char text[1000];
    int32_t tokens[1000];
    size_t n_token;
    memset(text, 'x', sizeof text);
    count.fail_at = count.n_alloc + 1;
    cr_assert_eq(mfi_tokenizer_encode(t, text, sizeof text, 0, tokens, 1000, &n_token), MF_E_NOMEM);
    cr_assert_eq(mfi_tokenizer_encode(t, text, sizeof text, 0, tokens, 1000, &n_token), MF_OK);
    mfi_tokenizer_free(t);
    cr_assert_eq(count.live_bytes, 0);
    free(g.file.data);
}

/* ---- Hostile blobs ---- */

static mf_status load_status(const void *blob, size_t count, mf_error *error)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_tokenizer *t;
    mf_status status = mfi_tokenizer_load(&t, &allocator, blob, count, error);
    cr_assert_eq(status == MF_OK, t != NULL);
    mfi_tokenizer_free(t);
    return status;
}

static void put_u32(unsigned char *p, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(value >> (8 * i));
}

Test(blob, every_truncation_and_every_extension_is_refused)
{
    golden g = open_golden();
    for (size_t count = 0; count < g.blob.count; count++) {
        mf_error error = MF_ERROR_INIT;
        unsigned char *cut = malloc(count + 1); /* so that a sanitizer sees a read past it */
        memcpy(cut, g.blob.data, count);
        cr_assert_eq(load_status(cut, count, &error), MF_E_FORMAT);
        cr_assert_neq(error.detail[0], '\0');
        free(cut);
    }
    cr_assert_eq(load_status(g.blob.data, g.blob.count + 4, NULL), MF_E_FORMAT);
    free(g.file.data);
}

Test(blob, every_field_is_checked)
{
    static const struct {
        size_t offset;
        uint32_t value;
        mf_status status;
    } damages[] = {
        { 0, 0x4b54464e, MF_E_FORMAT }, /* the magic */
        { 4, 3, MF_E_UNSUPPORTED },     /* the version */
        { 4, 2, MF_E_UNSUPPORTED },
        { 8, 7, MF_E_UNSUPPORTED }, /* the rule of the cut */
        { 12, 0, MF_E_FORMAT },     /* merges: too few, too many */
        { 12, UINT32_MAX, MF_E_FORMAT },
        { 12, (1u << 29) + 643, MF_E_FORMAT }, /* times 8 wraps around 32 bits */
        { 16, 0, MF_E_FORMAT },                /* special tokens: none, yet there is an end of text */
        { 16, UINT32_MAX, MF_E_FORMAT },
        { 20, 5, MF_E_FORMAT }, /* end of text: a byte, beyond the vocabulary */
        { 20, 900, MF_E_FORMAT },
        { 24, 256, MF_E_FORMAT }, /* the first merge refers to itself, to a later one */
        { 28, 300, MF_E_FORMAT },
        { 24, UINT32_MAX, MF_E_FORMAT },
    };
    golden g = open_golden();
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        unsigned char *blob = malloc(g.blob.count);
        memcpy(blob, g.blob.data, g.blob.count);
        put_u32(blob + damages[i].offset, damages[i].value);
        cr_assert_eq(load_status(blob, g.blob.count, NULL), damages[i].status, "damage %zu", i);
        free(blob);
    }
    free(g.file.data);
}

/* A blob of these merges and no special token; the caller frees. */
static void *make_blob(const mfi_merge *merges, uint32_t n_merge, size_t *count)
{
    mf_allocator allocator = mfi_allocator(NULL);
    void *blob;
    cr_assert_eq(mfi_tokenizer_store(&blob, count, &allocator, merges, n_merge, 0, NULL), MF_OK);
    return blob;
}

Test(blob, the_same_merge_twice_is_refused)
{
    mfi_merge merges[] = { { 'a', 'b' }, { 'c', 'd' }, { 'a', 'c' }, { 'a', 'b' } };
    size_t count;
    void *blob = make_blob(merges, 4, &count);
    cr_assert_eq(load_status(blob, count, NULL), MF_E_FORMAT);
    free(blob);
    blob = make_blob(merges, 3, &count);
    cr_assert_eq(load_status(blob, count, NULL), MF_OK);
    free(blob);
}

Test(blob, tokens_that_double_in_length_are_refused_before_they_are_spelled)
{
    mfi_merge merges[40] = { { 'a', 'a' } };
    for (uint32_t i = 1; i < 40; i++)
        merges[i] = (mfi_merge){ 255 + i, 255 + i };
    size_t count;
    void *blob = make_blob(merges, 40, &count);
    cr_assert_eq(load_status(blob, count, NULL), MF_E_FORMAT);
    free(blob);
    blob = make_blob(merges, 10, &count); /* 1024 bytes */
    cr_assert_eq(load_status(blob, count, NULL), MF_OK);
    free(blob);
}

Test(blob, many_long_tokens_together_are_refused)
{
    /* Some 20,000 tokens of 1000 bytes: 160 KB that ask for 20 MB. */
    enum { N = 24000 };
    mfi_merge *merges = malloc(N * sizeof *merges);
    merges[0] = (mfi_merge){ 'a', 'a' };
    for (uint32_t i = 1; i < 9; i++)
        merges[i] = (mfi_merge){ 255 + i, 255 + i }; /* 264: 512 bytes */
    for (uint32_t i = 9; i < 500; i++)
        merges[i] = (mfi_merge){ i == 9 ? 264 : 255 + i, 'b' }; /* 265 ..: 513 bytes and more */
    for (uint32_t i = 500; i < N; i++)
        merges[i] = (mfi_merge){ 264 + i % 490, (i - 500) / 490 };
    size_t count;
    void *blob = make_blob(merges, N, &count);
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(load_status(blob, count, &error), MF_E_FORMAT);
    cr_assert(strstr(error.detail, "too long") != NULL, "%s", error.detail);
    free(blob);
    free(merges);
}

Test(blob, random_damage_never_gives_a_tokenizer_that_breaks)
{
    golden g = open_golden();
    uint64_t random = 3;
    unsigned char *blob = malloc(g.blob.count);
    for (uint32_t round = 0; round < 5000; round++) {
        memcpy(blob, g.blob.data, g.blob.count);
        for (uint32_t i = 0; i < 1 + round % 4; i++)
            blob[24 + next_random(&random) % (g.blob.count - 24)] ^= (unsigned char)(1u << next_random(&random) % 8);
        mf_allocator allocator = mfi_allocator(NULL);
        mfi_tokenizer *t;
        if (mfi_tokenizer_load(&t, &allocator, blob, g.blob.count, NULL) != MF_OK) continue;
        expect_round_trip(t, "The bell that would not ring, and the fox", 41);
        mfi_tokenizer_free(t);
    }
    free(blob);
    free(g.file.data);
}

Test(blob, every_failing_allocation_is_clean)
{
    golden g = open_golden();
    mf_status status = MF_E_NOMEM;
    for (size_t fail_at = 1; status != MF_OK; fail_at++) {
        counting count = { .fail_at = fail_at, .mutex = PTHREAD_MUTEX_INITIALIZER };
        mf_allocator allocator = counting_allocator(&count);
        mfi_tokenizer *t;
        status = mfi_tokenizer_load(&t, &allocator, g.blob.data, g.blob.count, NULL);
        cr_assert_eq(status, count.n_alloc < fail_at ? MF_OK : MF_E_NOMEM);
        mfi_tokenizer_free(t);
        cr_assert_eq(count.live_bytes, 0);
    }
    free(g.file.data);
}
