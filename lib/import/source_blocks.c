/* source_blocks.c - blocks of weights to f32, by the formulas of docs/import.md. Every product below is exact in f32: a
 * scale has 11 bits, its multiplier and the code no more than 12 together (a power of two counts one). So a weight is
 * rounded at most once, where a minimum is added. */
#include <string.h>

#include "pack.h"
#include "tensor_file.h"

typedef void (*decode_fn)(const unsigned char *from, size_t n, float *to); /* n blocks */

static uint16_t load_u16(const unsigned char *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static float load_f16(const unsigned char *at)
{
    return mfk_f16_to_f32(load_u16(at));
}

/* ---- One element a block ---- */

static void decode_f32(const unsigned char *from, size_t n, float *to)
{
    memcpy(to, from, n * sizeof *to);
}

static void decode_f16(const unsigned char *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = load_f16(from + 2 * i);
}

static void decode_bf16(const unsigned char *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++)
        to[i] = mfk_bf16_to_f32(load_u16(from + 2 * i));
}

static void decode_f64(const unsigned char *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++) {
        double value;
        memcpy(&value, from + 8 * i, sizeof value);
        to[i] = (float)value;
    }
}

/* ---- 32 elements a block ---- */

static void decode_q8_0(const unsigned char *from, size_t n, float *to)
{
    for (; n > 0; n--, from += 34, to += 32) {
        const float scale = load_f16(from);
        for (int j = 0; j < 32; j++)
            to[j] = scale * (float)(int8_t)from[2 + j];
    }
}

/* Low nibbles are the first half of the elements, high ones the second; bit j of `fifth` is element j's. */
static void unpack_nibbles(const unsigned char *nibbles, uint32_t fifth, int code[32])
{
    for (int j = 0; j < 16; j++) {
        code[j] = (nibbles[j] & 15) | (int)(fifth >> j & 1u) << 4;
        code[j + 16] = nibbles[j] >> 4 | (int)(fifth >> (j + 16) & 1u) << 4;
    }
}

static uint32_t load_u32(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void scale_codes(float scale, const int code[32], int zero, float *to)
{
    for (int j = 0; j < 32; j++)
        to[j] = scale * (float)(code[j] - zero);
}

static void scale_codes_from(float scale, const int code[32], float least, float *to)
{
    for (int j = 0; j < 32; j++)
        to[j] = scale * (float)code[j] + least;
}

static void decode_q4_0(const unsigned char *from, size_t n, float *to)
{
    int code[32];
    for (; n > 0; n--, from += 18, to += 32) {
        unpack_nibbles(from + 2, 0, code);
        scale_codes(load_f16(from), code, 8, to);
    }
}

static void decode_q4_1(const unsigned char *from, size_t n, float *to)
{
    int code[32];
    for (; n > 0; n--, from += 20, to += 32) {
        unpack_nibbles(from + 4, 0, code);
        scale_codes_from(load_f16(from), code, load_f16(from + 2), to);
    }
}

static void decode_q5_0(const unsigned char *from, size_t n, float *to)
{
    int code[32];
    for (; n > 0; n--, from += 22, to += 32) {
        unpack_nibbles(from + 6, load_u32(from + 2), code);
        scale_codes(load_f16(from), code, 16, to);
    }
}

static void decode_q5_1(const unsigned char *from, size_t n, float *to)
{
    int code[32];
    for (; n > 0; n--, from += 24, to += 32) {
        unpack_nibbles(from + 8, load_u32(from + 4), code);
        scale_codes_from(load_f16(from), code, load_f16(from + 2), to);
    }
}

/* ---- 256 elements a block ---- */

/* Sub-block s of 8 has a 6-bit scale and a 6-bit minimum in 12 bytes: the first four whole, with the upper two bits of
 * the last four above them. */
static void sub_block_scales(const unsigned char *packed, int s, int *scale, int *minimum)
{
    if (s < 4) {
        *scale = packed[s] & 63;
        *minimum = packed[s + 4] & 63;
    } else {
        *scale = (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
        *minimum = packed[s + 4] >> 4 | (packed[s] >> 6) << 4;
    }
}

/* Q4_K and Q5_K: `fifth` is NULL or has in byte l the fifth bits of element l of all eight sub-blocks. */
static void decode_sub_blocks(const unsigned char *block, const unsigned char *fifth, const unsigned char *nibbles,
                              float *to)
{
    const float d = load_f16(block), d_minimum = load_f16(block + 2);
    for (int s = 0; s < 8; s++) {
        int scale, minimum;
        sub_block_scales(block + 4, s, &scale, &minimum);
        const float step = d * (float)scale, least = d_minimum * (float)minimum;
        for (int l = 0; l < 32; l++) {
            int code = nibbles[s / 2 * 32 + l] >> s % 2 * 4 & 15;
            if (fifth) code |= (fifth[l] >> s & 1) << 4;
            to[32 * s + l] = step * (float)code - least;
        }
    }
}

static void decode_q4_k(const unsigned char *from, size_t n, float *to)
{
    for (; n > 0; n--, from += 144, to += 256)
        decode_sub_blocks(from, NULL, from + 16, to);
}

static void decode_q5_k(const unsigned char *from, size_t n, float *to)
{
    for (; n > 0; n--, from += 176, to += 256)
        decode_sub_blocks(from, from + 16, from + 48, to);
}

/* Of element 128 i + 32 j + l: the nibble, and two bits more. */
static int q6_code(const unsigned char *block, int i, int j, int l)
{
    const int nibble = block[64 * i + 32 * (j & 1) + l] >> j / 2 * 4 & 15;
    return (nibble | (block[128 + 32 * i + l] >> 2 * j & 3) << 4) - 32;
}

static void decode_q6_k(const unsigned char *from, size_t n, float *to)
{
    for (; n > 0; n--, from += 210, to += 256) {
        const float d = load_f16(from + 208);
        for (int e = 0; e < 256; e++) {
            const int i = e / 128, j = e / 32 % 4, l = e % 32;
            to[e] = d * (float)(int8_t)from[192 + e / 16] * (float)q6_code(from, i, j, l);
        }
    }
}

/* ---- Table ---- */

static const struct {
    size_t elements, bytes;
    decode_fn decode;
} kinds[] = {
    [MFI_SOURCE_F32] = { 1, 4, decode_f32 },       [MFI_SOURCE_F16] = { 1, 2, decode_f16 },
    [MFI_SOURCE_BF16] = { 1, 2, decode_bf16 },     [MFI_SOURCE_F64] = { 1, 8, decode_f64 },
    [MFI_SOURCE_Q8_0] = { 32, 34, decode_q8_0 },   [MFI_SOURCE_Q4_0] = { 32, 18, decode_q4_0 },
    [MFI_SOURCE_Q4_1] = { 32, 20, decode_q4_1 },   [MFI_SOURCE_Q5_0] = { 32, 22, decode_q5_0 },
    [MFI_SOURCE_Q5_1] = { 32, 24, decode_q5_1 },   [MFI_SOURCE_Q4_K] = { 256, 144, decode_q4_k },
    [MFI_SOURCE_Q5_K] = { 256, 176, decode_q5_k }, [MFI_SOURCE_Q6_K] = { 256, 210, decode_q6_k },
    [MFI_SOURCE_OTHER] = { 0, 0, NULL },
};

void mfi_source_decode(mfi_source_type type, const void *blocks, size_t n_block, float *out)
{
    kinds[type].decode(blocks, n_block, out);
}

size_t mfi_source_block(mfi_source_type type)
{
    return kinds[type].elements;
}

size_t mfi_source_block_bytes(mfi_source_type type)
{
    return kinds[type].bytes;
}
