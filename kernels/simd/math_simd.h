/* math_simd.h - scalar/math_scalar.h, sixteen at a time: the same operations in the same order. */
#ifndef MFK_MATH_SIMD_H
#define MFK_MATH_SIMD_H

#include "kernel.h"
#include "math_coefficients.h"

MFK_INLINE f32x16 poly16(const float *c, int degree, f32x16 x)
{
    f32x16 y = f32x16_set(c[degree]);
    for (int i = degree - 1; i >= 0; i--)
        y = f32x16_fma(y, x, f32x16_set(c[i]));
    return y;
}

MFK_INLINE f32x16 exp16(f32x16 x)
{
    static const float tail[] = { MFK_EXP_POLY };
    const f32x16 magic = f32x16_set(0x1.8p23f);
    x = f32x16_min(f32x16_set(89.0f), f32x16_max(f32x16_set(-104.0f), x));
    f32x16 shifted = f32x16_fma(x, f32x16_set(1.44269502f), magic);
    f32x16 n = f32x16_sub(shifted, magic);
    f32x16 r = f32x16_fma(n, f32x16_set(1.90465432e-9f), f32x16_fma(n, f32x16_set(-0.693147182f), x));
    f32x16 y = f32x16_add(f32x16_set(1.0f), f32x16_fma(f32x16_mul(r, r), poly16(tail, 4, r), r));
    i32x16 exponent = i32x16_sub(f32x16_bits(shifted), f32x16_bits(magic)), bias = i32x16_set(127);
    i32x16 half = i32x16_shift_right(exponent, 1), rest = i32x16_sub(exponent, half);
    y = f32x16_mul(y, f32x16_of_bits(i32x16_shift_left(i32x16_add(half, bias), 23)));
    return f32x16_mul(y, f32x16_of_bits(i32x16_shift_left(i32x16_add(rest, bias), 23)));
}

MFK_INLINE f32x16 abs16(f32x16 x)
{
    return f32x16_of_bits(i32x16_and(f32x16_bits(x), i32x16_set(0x7fffffff)));
}

/* The sign of `sign` on x, which has none. */
MFK_INLINE f32x16 with_sign16(f32x16 x, f32x16 sign)
{
    i32x16 bit = i32x16_and(f32x16_bits(sign), i32x16_set(INT32_MIN));
    return f32x16_of_bits(i32x16_or(i32x16_and(f32x16_bits(x), i32x16_set(INT32_MAX)), bit));
}

MFK_INLINE f32x16 tanh16(f32x16 x)
{
    static const float tail[] = { MFK_TANH_POLY };
    const f32x16 one = f32x16_set(1.0f);
    f32x16 a = abs16(x), z = f32x16_mul(x, x);
    f32x16 near = f32x16_fma(f32x16_mul(a, z), poly16(tail, 4, z), a);
    f32x16 far = f32x16_sub(one, f32x16_div(f32x16_set(2.0f), f32x16_add(exp16(f32x16_add(a, a)), one)));
    return with_sign16(f32x16_select_less(a, f32x16_set(0.625f), near, far), x);
}

MFK_INLINE f32x16 erf16(f32x16 x)
{
    static const float tail[] = { MFK_ERF_POLY }, log_erfc[] = { MFK_ERFC_LOG_POLY };
    const f32x16 one = f32x16_set(1.0f);
    f32x16 a = abs16(x);
    f32x16 near = f32x16_fma(x, poly16(tail, 7, f32x16_mul(x, x)), x);
    f32x16 far = f32x16_sub(one, exp16(poly16(log_erfc, 6, f32x16_min(f32x16_set(4.0f), a))));
    return f32x16_select_less(a, one, near, with_sign16(far, x));
}

MFK_INLINE f32x16 negative16(f32x16 x)
{
    return f32x16_of_bits(i32x16_add(f32x16_bits(x), i32x16_set(INT32_MIN))); /* flips the sign bit */
}

MFK_INLINE f32x16 silu16(f32x16 x)
{
    return f32x16_div(x, f32x16_add(f32x16_set(1.0f), exp16(negative16(x))));
}

MFK_INLINE f32x16 gelu_tanh16(f32x16 x)
{
    f32x16 v = f32x16_mul(f32x16_set(-1.59576912f), x);
    f32x16 u = f32x16_fma(f32x16_mul(f32x16_set(0.044715f), f32x16_mul(x, x)), v, v);
    return f32x16_div(x, f32x16_add(f32x16_set(1.0f), exp16(u)));
}

MFK_INLINE f32x16 gelu_erf16(f32x16 x)
{
    f32x16 e = erf16(f32x16_mul(x, f32x16_set(0.707106769f)));
    return f32x16_mul(f32x16_mul(f32x16_set(0.5f), x), f32x16_add(f32x16_set(1.0f), e));
}

MFK_INLINE f32x16 act16(mfk_activation activation, f32x16 x)
{
    switch (activation) {
    case MFK_SILU:
        return silu16(x);
    case MFK_GELU_TANH:
        return gelu_tanh16(x);
    case MFK_GELU_ERF:
        return gelu_erf16(x);
    case MFK_RELU:
        return f32x16_max(x, f32x16_set(0.0f));
    case MFK_TANH:
        return tanh16(x);
    }
    return x;
}

#endif
