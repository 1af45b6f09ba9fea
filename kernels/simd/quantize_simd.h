/* quantize_simd.h - activations to blocks of 8 bits, over the sixteen lanes of f32x16_*.h. */
#ifndef MFK_QUANTIZE_SIMD_H
#define MFK_QUANTIZE_SIMD_H

#include <math.h> /* NAN */
#include <stdbool.h>

#include "math_simd.h"

/* One block from two times sixteen numbers. */
MFK_INLINE void quantize_block(f32x16 low, f32x16 high, mfk_q8_block *y)
{
    union {
        int32_t bits; /* of numbers that are not negative they ascend with them, infinity and NaN last */
        float f;
    } most = { i32x16_tree_max(i32x16_max(f32x16_bits(abs16(low)), f32x16_bits(abs16(high)))) };
    bool finite = most.bits < 0x7f800000, any = most.f >= 0x1p-100f;
    f32x16 r = f32x16_set(127.0f / most.f);
    i32x16 q_low = i32x16_set(0), q_high = i32x16_set(0);
    if (finite && any) {
        q_low = i32x16_of_f32(f32x16_mul(low, r));
        q_high = i32x16_of_f32(f32x16_mul(high, r));
    }
    i32x16_store_bytes(y->q, q_low);
    i32x16_store_bytes(y->q + 16, q_high);
    y->scale = !finite ? NAN : any ? most.f / 127.0f : 0.0f;
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
