/* quantize_simd.h - activations to blocks of 8 bits, over the sixteen lanes of f32x16_*.h. */
#ifndef MFK_QUANTIZE_SIMD_H
#define MFK_QUANTIZE_SIMD_H

#include <math.h> /* NAN */
#include <stdbool.h>

#include "math_simd.h"

/* The scale that numbers share in 8 bits, and their factor to it: 0 where all of them become 0. `greatest`: of their
 * absolute values' bits, which ascend with them, infinity and NaN last. */
MFK_INLINE float q8_scale(i32x16 greatest, float *factor)
{
    union {
        int32_t bits;
        float f;
    } most = { i32x16_tree_max(greatest) };
    bool finite = most.bits < 0x7f800000, any = finite && most.f >= 0x1p-100f;
    *factor = any ? 127.0f / most.f : 0.0f;
    return !finite ? NAN : any ? most.f / 127.0f : 0.0f;
}

MFK_INLINE i32x16 q8_of(f32x16 x, float factor)
{
    return factor > 0.0f ? i32x16_of_f32(f32x16_mul(x, f32x16_set(factor))) : i32x16_set(0);
}

/* One block from two times sixteen numbers. */
MFK_INLINE void quantize_block(f32x16 low, f32x16 high, mfk_q8_block *y)
{
    float factor;
    y->scale = q8_scale(i32x16_max(f32x16_bits(abs16(low)), f32x16_bits(abs16(high))), &factor);
    i32x16 q_low = q8_of(low, factor), q_high = q8_of(high, factor);
    i32x16_store_bytes(y->q, q_low);
    i32x16_store_bytes(y->q + 16, q_high);
    y->half[0] = -128 * i32x16_tree_sum(q_low);
    y->half[1] = -128 * i32x16_tree_sum(q_high);
    y->offset = y->half[0] + y->half[1];
}

MFK_INLINE void quantize(size_t n, const float *x, mfk_q8_block *y)
{
    size_t i = 0;
    for (; i + MFK_BLOCK <= n; i += MFK_BLOCK)
        quantize_block(f32x16_load(x + i), f32x16_load(x + i + 16), y++);
    if (i == n) return;
    size_t low = n - i < 16 ? n - i : 16, high = n - i - low;
    quantize_block(f32x16_load_first(x + i, low), high ? f32x16_load_first(x + i + 16, high) : f32x16_set(0.0f), y);
}

#endif
