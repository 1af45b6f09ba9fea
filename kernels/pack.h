/* pack.h - the panel layout that weights are stored in, and the way into it.
 *
 * A matrix B[n][k] (n outputs, k inputs) becomes ceil(n/16) panels. A panel holds 16 outputs; inside it
 * k runs sequentially in groups of g = 1 (f32) or 2 (bf16, f16), so that a group is one 64-byte line:
 *
 *     panel p:  k-group 0 | k-group 1 | ...          k padded with zeros to a multiple of 32
 *     group:    output 16p: k0 k1 | output 16p+1: k0 k1 | ... | output 16p+15: k0 k1
 *
 * A prefix in n is the first panels; a prefix in k is the head of every panel. Nothing is ever repacked
 * when the width changes. Gate and up matrices are interleaved panel by panel: gate 0, up 0, gate 1, ...
 */
#ifndef MFK_PACK_H
#define MFK_PACK_H

#include "kernel.h"

/* 0 where the type has no panel layout or the size does not fit size_t. */
size_t mfk_panel_bytes(mfk_type type, size_t k);            /* of one panel */
size_t mfk_panels_bytes(mfk_type type, size_t n, size_t k); /* of the matrix */

/* Packs rows [0, n) of `b` (row major f32, b_row_floats apart, k wide) to `panels`, panel i at
 * i * stride_bytes. Rows beyond n and columns beyond k are zeros. BF16 rounds to nearest even. */
void mfk_pack(mfk_type type, size_t n, size_t k, const float *b, size_t b_row_floats, void *panels,
              size_t stride_bytes);

/* The inverse. */
void mfk_unpack(mfk_type type, size_t n, size_t k, const void *panels, size_t stride_bytes, float *b,
                size_t b_row_floats);

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

#endif
