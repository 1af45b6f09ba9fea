/* vec_simd.h - the body of vec_*.c: scalar/vec_scalar.c, sixteen lanes at a time. Lane j of a sum or maximum is
 * partial j of docs/arithmetic.md; a tail is loaded with zeros behind it. */
#include "kernel_list.h"
#include "math_simd.h"
#include "pack.h"
#include "quantize_simd.h"

#include <math.h> /* sqrtf, which with -fno-math-errno is the instruction */
#include <string.h>

MFK_INLINE f32x16 load_at(const float *x, size_t i, size_t n)
{
    return n - i >= 16 ? f32x16_load(x + i) : f32x16_load_first(x + i, n - i);
}

MFK_INLINE void store_at(float *y, size_t i, size_t n, f32x16 v)
{
    if (n - i >= 16)
        f32x16_store(y + i, v);
    else
        f32x16_store_first(y + i, v, n - i);
}

MFK_INLINE size_t lanes_at(size_t i, size_t n)
{
    return n - i < 16 ? n - i : 16;
}

void MFK_ISA(mfk_rms_norm)(size_t n, const float *x, const float *weight, float eps, float *y)
{
    f32x16 p = f32x16_set(0.0f);
    for (size_t i = 0; i < n; i += 16) {
        f32x16 v = load_at(x, i, n);
        p = f32x16_fma(v, v, p);
    }
    f32x16 r = f32x16_set(1.0f / sqrtf(f32x16_tree_sum(p) / (float)n + eps));
    for (size_t i = 0; i < n; i += 16) {
        f32x16 t = f32x16_mul(load_at(x, i, n), r);
        store_at(y, i, n, weight ? f32x16_mul(t, load_at(weight, i, n)) : t);
    }
}

/* The mean of n numbers; their variance. */
MFK_INLINE float moments(size_t n, const float *x, float *variance)
{
    const f32x16 zero = f32x16_set(0.0f);
    f32x16 sums = zero, p = zero;
    for (size_t i = 0; i < n; i += 16)
        sums = f32x16_add(sums, load_at(x, i, n));
    float mean = f32x16_tree_sum(sums) / (float)n;
    for (size_t i = 0; i < n; i += 16) {
        f32x16 d = f32x16_keep(f32x16_sub(load_at(x, i, n), f32x16_set(mean)), 0, lanes_at(i, n), zero);
        p = f32x16_fma(d, d, p);
    }
    *variance = f32x16_tree_sum(p) / (float)n;
    return mean;
}

void MFK_ISA(mfk_layer_norm)(size_t n, const float *x, const float *weight, const float *bias, float eps, float *y)
{
    float variance;
    f32x16 mean = f32x16_set(moments(n, x, &variance)), r = f32x16_set(1.0f / sqrtf(variance + eps));
    for (size_t i = 0; i < n; i += 16) {
        f32x16 t = f32x16_mul(f32x16_sub(load_at(x, i, n), mean), r);
        if (weight && bias)
            t = f32x16_fma(t, load_at(weight, i, n), load_at(bias, i, n));
        else if (weight)
            t = f32x16_mul(t, load_at(weight, i, n));
        else if (bias)
            t = f32x16_add(t, load_at(bias, i, n));
        store_at(y, i, n, t);
    }
}

void MFK_ISA(mfk_activate)(mfk_activation activation, size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i += 16)
        store_at(y, i, n, act16(activation, load_at(x, i, n)));
}

void MFK_ISA(mfk_mul)(size_t n, const float *x, const float *other, float *y)
{
    for (size_t i = 0; i < n; i += 16)
        store_at(y, i, n, f32x16_mul(load_at(x, i, n), load_at(other, i, n)));
}

void MFK_ISA(mfk_add)(size_t n, const float *x, const float *other, float *y)
{
    for (size_t i = 0; i < n; i += 16)
        store_at(y, i, n, f32x16_add(load_at(x, i, n), load_at(other, i, n)));
}

void MFK_ISA(mfk_axpy)(size_t n, float a, const float *x, float *y)
{
    for (size_t i = 0; i < n; i += 16)
        store_at(y, i, n, f32x16_fma(f32x16_set(a), load_at(x, i, n), load_at(y, i, n)));
}

float MFK_ISA(mfk_dot)(size_t n, const float *x, const float *y)
{
    f32x16 p = f32x16_set(0.0f);
    for (size_t i = 0; i < n; i += 16)
        p = f32x16_fma(load_at(x, i, n), load_at(y, i, n), p);
    return f32x16_tree_sum(p);
}

void MFK_ISA(mfk_sparse_glu)(mfk_activation activation, size_t n, const float *gate, float deviations, float *y)
{
    float variance, mean = moments(n, gate, &variance);
    f32x16 cut = f32x16_set(mean + deviations * sqrtf(variance)), zero = f32x16_set(0.0f);
    for (size_t i = 0; i < n; i += 16) {
        f32x16 above = f32x16_max(zero, f32x16_sub(load_at(gate, i, n), cut));
        store_at(y, i, n, f32x16_mul(act16(activation, above), load_at(y, i, n)));
    }
}

void MFK_ISA(mfk_rope)(size_t n_head, size_t d_head, const float *cos, const float *sin, float *x)
{
    size_t half = d_head / 2;
    for (size_t h = 0; h < n_head; h++, x += d_head) {
        for (size_t j = 0; j < half; j += 16) {
            f32x16 a = load_at(x, j, half), b = load_at(x + half, j, half);
            f32x16 c = load_at(cos, j, half), s = load_at(sin, j, half);
            store_at(x, j, half, f32x16_fms(a, c, f32x16_mul(b, s)));
            store_at(x + half, j, half, f32x16_fma(b, c, f32x16_mul(a, s)));
        }
    }
}

void MFK_ISA(mfk_softmax_stats)(size_t n, const float *x, float *max, float *sum)
{
    const f32x16 least = f32x16_set(-INFINITY), zero = f32x16_set(0.0f);
    f32x16 m = least, p = zero;
    for (size_t i = 0; i < n; i += 16)
        m = f32x16_max(f32x16_keep(load_at(x, i, n), 0, lanes_at(i, n), least), m);
    *max = f32x16_tree_max(m);
    for (size_t i = 0; i < n; i += 16) {
        f32x16 e = exp16(f32x16_sub(load_at(x, i, n), f32x16_set(*max)));
        p = f32x16_add(p, f32x16_keep(e, 0, lanes_at(i, n), zero));
    }
    *sum = f32x16_tree_sum(p);
}

/* mfk_f32_to_bf16 */
MFK_INLINE i32x16 bf16_of(f32x16 x)
{
    const i32x16 low_half = i32x16_set(0xffff);
    i32x16 bits = f32x16_bits(x), high = i32x16_and(i32x16_shift_right(bits, 16), low_half);
    i32x16 to_even = i32x16_add(i32x16_set(0x7fff), i32x16_and(high, i32x16_set(1)));
    i32x16 rounded = i32x16_and(i32x16_shift_right(i32x16_add(bits, to_even), 16), low_half);
    return i32x16_select_nan(x, i32x16_or(high, i32x16_set(0x40)), rounded);
}

MFK_INLINE void store_bf16(size_t n, const float *x, uint16_t *y)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        i32x16_store_low_halves(y + i, bf16_of(f32x16_load(x + i)));
    for (; i < n; i++)
        y[i] = mfk_f32_to_bf16(x[i]);
}

/* Returns the scale. */
MFK_INLINE float store_q8(size_t n, const float *x, int8_t *y)
{
    i32x16 greatest = i32x16_set(0);
    for (size_t i = 0; i < n; i += 16)
        greatest = i32x16_max(greatest, f32x16_bits(abs16(load_at(x, i, n))));
    float factor, scale = q8_scale(greatest, &factor);
    for (size_t i = 0; i < n; i += 16) {
        int8_t bytes[16];
        i32x16_store_bytes(bytes, q8_of(load_at(x, i, n), factor));
        memcpy(y + i, bytes, lanes_at(i, n));
    }
    return scale;
}

void MFK_ISA(mfk_store_value)(mfk_type type, size_t d_head, const float *x, void *block, size_t slot)
{
    float *f32 = (float *)block + slot * d_head;
    if (type == MFK_Q8) {
        int8_t *q8 = block;
        float scale = store_q8(d_head, x, q8 + slot * d_head);
        memcpy(q8 + MFK_PAGE * d_head + slot * sizeof scale, &scale, sizeof scale);
    } else if (type == MFK_BF16) {
        store_bf16(d_head, x, (uint16_t *)block + slot * d_head);
    } else {
        for (size_t i = 0; i < d_head; i += 16)
            store_at(f32, i, d_head, load_at(x, i, d_head));
    }
}

void MFK_ISA(mfk_quantize)(size_t n, const float *x, mfk_q8_block *y)
{
    quantize(n, x, y);
}
