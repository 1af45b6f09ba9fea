/* test_source_blocks.c - blocks of other people's checkpoints decode to the values that their formats define. */
#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tensor_file.h"

/* ---- Against values that were worked out by hand ---- */

typedef struct spot {
    mfi_source_type type;
    size_t scale_at, minimum_at; /* minimum_at: 0 where there is none */
    float first, second, middle, last;
    double sum;
    struct {
        size_t at;
        float value;
    } more[2];
} spot;

static const spot spots[] = {
    { MFI_SOURCE_Q4_0, 0, 0, -1.5f, 1.0f, -1.5f, 0.0f, -10.5, { { 17, -0.5f } } },
    { MFI_SOURCE_Q5_0, 0, 0, 4.5f, -1.0f, 7.0f, 0.5f, 7.5, { { 17, 0.0f } } },
    { MFI_SOURCE_Q8_0, 0, 0, 42.5f, 61.0f, -45.5f, -24.0f, -88.0, { { 17, -27.0f } } },
    { MFI_SOURCE_Q4_K, 0, 2, 157.75f, -12.75f, 211.5f, 24.25f, 27220.0, { { 100, 47.5f }, { 200, 69.25f } } },
    { MFI_SOURCE_Q5_K, 0, 2, 405.75f, -12.75f, 523.5f, 54.25f, 58108.0, { { 100, 117.5f }, { 200, 69.25f } } },
    { MFI_SOURCE_Q6_K, 208, 0, -715.5f, 848.0f, -175.5f, -30.0f, 2306.0, { { 100, 1261.5f }, { 200, 544.5f } } },
};

/* Bytes (37 i + 11) mod 256, with a scale of 0.5 and a minimum of 0.25. */
static void expect_spot(const spot *s)
{
    const size_t n = mfi_source_block(s->type);
    unsigned char block[256];
    float value[256];
    double sum = 0;
    for (size_t i = 0; i < mfi_source_block_bytes(s->type); i++)
        block[i] = (unsigned char)(37 * i + 11);
    memcpy(block + s->scale_at, "\x00\x38", 2);
    if (s->minimum_at) memcpy(block + s->minimum_at, "\x00\x34", 2);
    mfi_source_decode(s->type, block, 1, value);
    for (size_t i = 0; i < n; i++)
        sum += value[i];
    cr_assert(value[0] == s->first && value[1] == s->second && value[n / 2] == s->middle && value[n - 1] == s->last,
              "type %d: %g %g %g %g", (int)s->type, value[0], value[1], value[n / 2], value[n - 1]);
    cr_assert_eq(sum, s->sum, "type %d: %g", (int)s->type, sum);
    for (int i = 0; i < 2; i++)
        cr_assert(s->more[i].at == 0 || value[s->more[i].at] == s->more[i].value, "type %d", (int)s->type);
}

Test(source_blocks, blocks_decode_to_the_known_values)
{
    for (size_t i = 0; i < sizeof spots / sizeof *spots; i++)
        expect_spot(&spots[i]);
}

/* ---- Against golden/make_block_golden.py ---- */

static void read_exactly(FILE *file, void *out, size_t bytes)
{
    cr_assert_eq(fread(out, 1, bytes, file), bytes);
}

static void expect_golden_type(FILE *file)
{
    uint32_t head[4];
    read_exactly(file, head, sizeof head);
    const mfi_source_type type = (mfi_source_type)head[0];
    const size_t n_block = head[1], n = n_block * head[3];
    cr_assert_eq(mfi_source_block_bytes(type), head[2]);
    cr_assert_eq(mfi_source_block(type), head[3]);
    unsigned char *blocks = malloc(n_block * head[2] + 1);
    float *expected = malloc(n * sizeof *expected), *value = malloc(n * sizeof *value);
    read_exactly(file, blocks + 1, n_block * head[2]); /* an odd address */
    read_exactly(file, expected, n * sizeof *expected);
    mfi_source_decode(type, blocks + 1, n_block, value);
    for (size_t i = 0; i < n; i++)
        cr_assert(value[i] == expected[i], "type %u, element %zu: %a and not %a", head[0], i, value[i], expected[i]);
    free(blocks);
    free(expected);
    free(value);
}

Test(source_blocks, random_blocks_decode_as_the_formulas_say)
{
    FILE *file = fopen(GOLDEN_DIR "/source_blocks.bin", "rb");
    uint32_t n_type;
    cr_assert_not_null(file);
    read_exactly(file, &n_type, sizeof n_type);
    cr_assert_eq(n_type, MFI_SOURCE_OTHER);
    for (uint32_t i = 0; i < n_type; i++)
        expect_golden_type(file);
    cr_assert_eq(fgetc(file), EOF);
    fclose(file);
}

Test(source_blocks, infinite_and_undefined_weights_stay_what_they_are)
{
    float value;
    mfi_source_decode(MFI_SOURCE_F16, "\x00\x7c", 1, &value);
    cr_assert(isinf(value) && value > 0);
    mfi_source_decode(MFI_SOURCE_BF16, "\xc0\x7f", 1, &value);
    cr_assert(isnan(value));
}
