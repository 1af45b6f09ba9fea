/* pack.h - the panel layout that weights are stored in, and the way into it.
 *
 * A matrix B[n][k] (n outputs, k inputs) becomes ceil(n/16) panels. A panel holds 16 outputs; inside it k runs
 * sequentially, padded with zeros to a multiple of 32, in lines of 64 bytes:
 *
 *     F32    a line is one input:       output 16p, 16p+1, ... 16p+15
 *     BF16   a line is two inputs:      output 16p: k0 k1 | output 16p+1: k0 k1 | ...
 *     F16    a line is two inputs:      k0 of output 16p, 16p+1, ... 16p+15 | k1 likewise
 *     Q8     a line is four inputs:     output 16p: k0 k1 k2 k3 | output 16p+1: ...   bytes: value + 128
 *     Q4     a line is eight inputs:    as Q8, low nibbles k0 .. k3, high nibbles k4 .. k7: places in the table
 *
 * (Pairs of BF16 are what its dot instructions read. F16 has none that pays, and converts sixteen outputs at a time.)
 * Q8 has a scale for each output and block of 32 inputs, an f16; Q4 one for each 16 inputs, a byte. Two blocks share a
 * line of scales:
 *
 *     scales of block 0, of block 1 | block 0: 8 lines (Q4: 4) | block 1 | scales of block 2, of block 3 | ...
 *     of Q8, a block: 16 f16        of Q4: 16 bytes for inputs 0 .. 15, 16 bytes for inputs 16 .. 31
 *
 * A Q4 tensor begins with a line of its own, the table: 16 signed bytes that the codes stand for; a signed byte `bias`;
 * zeros. A scale's byte is sign, four bits of exponent e and three of fraction f: (1 + f / 8) * 2^(e + bias). A weight
 * is scale * value. (Small scales cost little: a scale for 16 inputs in 8 bits is worth more than one for 32 in 16, see
 * docs/quantization.md. A negative scale turns the table round, which is not symmetric.)
 *
 * A prefix in n is the first panels; a prefix in k is the head of every panel. Nothing is ever repacked
 * when the width changes. Gate and up matrices are interleaved panel by panel: gate 0, up 0, gate 1, ...
 */
#ifndef MFK_PACK_H
#define MFK_PACK_H

#include "kernel.h"

#define MFK_LINE 64            /* bytes */
#define MFK_Q8_BLOCK_BYTES 512 /* of a panel: 16 outputs, 32 inputs */
#define MFK_Q4_BLOCK_BYTES 256

/* Where a block of 32 inputs of a Q8 or Q4 panel begins, from the panel's beginning, and where its 16 scales do. */
static inline size_t mfk_block_at(size_t block_bytes, size_t block)
{
    return block / 2 * (MFK_LINE + 2 * block_bytes) + MFK_LINE + block % 2 * block_bytes;
}

static inline size_t mfk_scales_at(size_t block_bytes, size_t block)
{
    return block / 2 * (MFK_LINE + 2 * block_bytes) + block % 2 * (MFK_LINE / 2);
}

/* A scale of Q4. Any byte and any bias give some f32. */
static inline float mfk_q4_scale(uint8_t code, int8_t bias)
{
    union {
        uint32_t u;
        float f;
    } v = { ((code & 0x80u) << 24) + ((code & 0x7fu) << 20) + ((uint32_t)(127 + bias) << 23) };
    return v.f;
}

/* 0 where the type has no panel layout or the size does not fit size_t. */
size_t mfk_head_bytes(mfk_type type);                       /* before the first panel: the table of Q4 */
size_t mfk_panel_bytes(mfk_type type, size_t k);            /* of one panel */
size_t mfk_panels_bytes(mfk_type type, size_t n, size_t k); /* of the matrix, head included */

/* "f32", "bf16", "f16", "q8", "q4", "u8"; NULL for another number, 0 for another name. */
const char *mfk_type_name(mfk_type type);
mfk_type mfk_type_named(const char *name);

/* What n x k weights take without what fills up lines and panels. */
uint64_t mfk_weights_bytes(mfk_type type, uint64_t n, uint64_t k);

/* A tensor that is read by rows: of F32, BF16 and F16 a row is its k elements; of Q8 and Q4 the codes of its blocks,
 * then their scales. Q8 has a byte for each input, value + 128; Q4 sixteen for a block, byte i inputs i (low) and
 * i + 16. A row is filled up with zeros to whole lines; mfk_head_bytes come before the first. 0 as above. */
size_t mfk_row_bytes(mfk_type type, size_t k);
void mfk_pack_table_row(mfk_type type, const int8_t *table, size_t k, const float *x, void *row);
void mfk_unpack_table_row(mfk_type type, const int8_t *table, size_t k, const void *row, float *x);
/* Columns [column, column + n) alone. */
void mfk_unpack_table_columns(mfk_type type, const int8_t *table, size_t k, const void *row, size_t column, size_t n,
                              float *x);

/* Packs rows [0, n) of `b` (row major f32, b_row_floats apart, k wide) to `panels`, panel i at i * stride_bytes.
 * Rows beyond n and columns beyond k are zeros. BF16 and F16 round to nearest even; Q8 and Q4 are quantized as
 * quantize.h says, Q4 by `table`. */
void mfk_pack(mfk_type type, const int8_t *table, size_t n, size_t k, const float *b, size_t b_row_floats, void *panels,
              size_t stride_bytes);

/* The inverse. */
void mfk_unpack(mfk_type type, const int8_t *table, size_t n, size_t k, const void *panels, size_t stride_bytes,
                float *b, size_t b_row_floats);

/* Blocks [from_block, from_block + n_block) of a panel, codes and scales as they are, to another panel of the same
 * type, from its block `to_block` on. */
void mfk_copy_blocks(mfk_type type, const void *from, size_t from_block, void *to, size_t to_block, size_t n_block);

/* Codes that were made elsewhere: 32 inputs of output `j` of a Q8 panel, value + 128, under an f16 scale; and the same in
 * a row of a table. The bytes were zeros. */
void mfk_place_q8(void *panel, size_t block, size_t j, const uint8_t code[MFK_BLOCK], uint16_t scale);
void mfk_place_q8_row(void *row, size_t k, size_t block, const uint8_t code[MFK_BLOCK], uint16_t scale);

/* Row `index` alone. */
void mfk_unpack_row(mfk_type type, const int8_t *table, size_t k, const void *panels, size_t stride_bytes, size_t index,
                    float *row);

static inline float mfk_bf16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v = { (uint32_t)h << 16 };
    return v.f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t mfk_f32_to_bf16(float f)
{
    union {
        float f;
        uint32_t u;
    } v = { f };
    if ((v.u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((v.u >> 16) | 0x40u);
    return (uint16_t)((v.u + 0x7fffu + ((v.u >> 16) & 1u)) >> 16);
}

/* Exact. */
static inline float mfk_f16_to_f32(uint16_t h)
{
    union {
        uint32_t u;
        float f;
    } v;
    uint32_t exponent = h >> 10 & 31u, fraction = h & 0x3ffu;
    if (exponent == 0) {
        v.f = (float)fraction * 0x1p-24f;
    } else {
        v.u = (exponent == 31 ? 255u : exponent + 112u) << 23 | fraction << 13;
    }
    v.u |= (uint32_t)(h >> 15) << 31;
    return v.f;
}

/* Round to nearest even, to infinity from 65520 on; NaN stays NaN. */
static inline uint16_t mfk_f32_to_f16(float f)
{
    union {
        float f;
        uint32_t u;
    } v = { f }, shifted;
    const uint32_t sign = v.u >> 16 & 0x8000u;
    v.u &= 0x7fffffffu;
    if (v.u >= 0x47800000u) return (uint16_t)(sign | (v.u > 0x7f800000u ? 0x7e00u : 0x7c00u));
    if (v.u < 0x38800000u) { /* subnormal: 2^-24 is the last place of 0.5, so the sum rounds where it should */
        shifted.f = v.f + 0.5f;
        return (uint16_t)(sign | (shifted.u - 0x3f000000u));
    }
    return (uint16_t)(sign | ((v.u - 0x38000000u + 0xfffu + (v.u >> 13 & 1u)) >> 13));
}

#endif
