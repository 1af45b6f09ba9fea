/* math_scalar.h - fma, exp, tanh, erf and the activations of docs/arithmetic.md, one number at a time. */
#ifndef MFK_MATH_SCALAR_H
#define MFK_MATH_SCALAR_H

#include "kernel.h"
#include "math_coefficients.h"

#include <float.h>

#if FLT_EVAL_METHOD != 0
#error "f32 must be computed in f32: build 32-bit x86 with -msse2 -mfpmath=sse"
#endif

static inline uint32_t mfk_f32_bits(float x)
{
    union {
        float f;
        uint32_t u;
    } v = { x };
    return v.u;
}

static inline float mfk_f32_of_bits(uint32_t bits)
{
    union {
        uint32_t u;
        float f;
    } v = { bits };
    return v.f;
}

#if defined(__FP_FAST_FMAF) || defined(__FMA__) || defined(__aarch64__)
static inline float mfk_fma(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}
#else
/* Rounds p + c to odd instead of to nearest: `s`, the nearest, moves towards the exact sum where that is
 * not itself and `s` is even. A second rounding, to f32, then meets no false tie. */
static inline double mfk_sum_to_odd(double p, double c, double s)
{
    union {
        double f;
        uint64_t u;
    } v = { s };
    double c_part = s - p;
    double rest = (p - (s - c_part)) + (c - c_part); /* p + c = s + rest exactly; NaN where s is not finite */
    if ((v.u & 1) == 0 && (rest > 0 || rest < 0)) v.u += (rest > 0) == (s > 0) ? 1 : UINT64_MAX;
    return v.f;
}

/* The product of two f32 is exact in f64. The sum rounds to f64 and again to f32, which differs from one
 * rounding only where the f64 lies halfway between two f32, or where the f32 is subnormal. */
static inline float mfk_fma(float a, float b, float c)
{
    double p = (double)a * (double)b;
    union {
        double f;
        uint64_t u;
    } s = { p + (double)c };
    int halfway = (s.u & 0x1fffffffu) == 0x10000000u;
    int below_normal = (s.u >> 52 & 0x7ff) < 1023 - 126;
    return (float)(halfway || below_normal ? mfk_sum_to_odd(p, (double)c, s.f) : s.f);
}
#endif

static inline float mfk_poly(const float *c, int degree, float x)
{
    float y = c[degree];
    for (int i = degree - 1; i >= 0; i--)
        y = mfk_fma(y, x, c[i]);
    return y;
}

/* Written as (bound > x) so that a NaN passes, as the x86 instruction does with this operand order. */
static inline float mfk_at_least(float bound, float x)
{
    return bound > x ? bound : x;
}

static inline float mfk_at_most(float bound, float x)
{
    return bound < x ? bound : x;
}

static inline float mfk_exp(float x)
{
    static const float tail[] = { MFK_EXP_POLY };
    const float magic = 0x1.8p23f; /* adding it rounds to an integer, which the low bits then hold */
    x = mfk_at_most(89.0f, mfk_at_least(-104.0f, x));
    float shifted = mfk_fma(x, 1.44269502f, magic);
    float n = shifted - magic;
    float r = mfk_fma(n, 1.90465432e-9f, mfk_fma(n, -0.693147182f, x)); /* ln 2 = 0.693147182 - 1.90465432e-9 */
    float y = 1.0f + mfk_fma(r * r, mfk_poly(tail, 4, r), r);
    int32_t exponent = (int32_t)(mfk_f32_bits(shifted) - mfk_f32_bits(magic));
    int32_t half = exponent >> 1;
    y *= mfk_f32_of_bits(((uint32_t)half + 127u) << 23);
    return y * mfk_f32_of_bits(((uint32_t)(exponent - half) + 127u) << 23);
}

static inline float mfk_abs(float x)
{
    return mfk_f32_of_bits(mfk_f32_bits(x) & 0x7fffffffu);
}

static inline float mfk_copysign(float x, float sign)
{
    return mfk_f32_of_bits((mfk_f32_bits(x) & 0x7fffffffu) | (mfk_f32_bits(sign) & 0x80000000u));
}

static inline float mfk_tanh(float x)
{
    static const float tail[] = { MFK_TANH_POLY };
    float a = mfk_abs(x), z = x * x;
    float y = a < 0.625f ? mfk_fma(a * z, mfk_poly(tail, 4, z), a) : 1.0f - 2.0f / (mfk_exp(a + a) + 1.0f);
    return mfk_copysign(y, x);
}

static inline float mfk_erf(float x)
{
    static const float tail[] = { MFK_ERF_POLY }, log_erfc[] = { MFK_ERFC_LOG_POLY };
    float a = mfk_abs(x);
    if (a < 1.0f) return mfk_fma(x, mfk_poly(tail, 7, x * x), x);
    return mfk_copysign(1.0f - mfk_exp(mfk_poly(log_erfc, 6, mfk_at_most(4.0f, a))), x);
}

static inline float mfk_act(mfk_activation activation, float x)
{
    switch (activation) {
    case MFK_SILU:
        return x / (1.0f + mfk_exp(-x));
    case MFK_GELU_TANH: {
        float v = -1.59576912f * x; /* -2 sqrt(2/pi) */
        return x / (1.0f + mfk_exp(mfk_fma(0.044715f * (x * x), v, v)));
    }
    case MFK_GELU_ERF:
        return (0.5f * x) * (1.0f + mfk_erf(x * 0.707106769f));
    case MFK_RELU:
        return x > 0.0f ? x : 0.0f;
    case MFK_TANH:
        return mfk_tanh(x);
    }
    return x;
}

#endif
