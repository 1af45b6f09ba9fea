/* f32x16_avx2.h - sixteen f32 as two AVX2 registers. The same names as f32x16_avx512.h. */
#ifndef MFK_F32X16_H
#define MFK_F32X16_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define MFK_ISA(name) name##_avx2
#define MFK_INLINE static inline __attribute__((always_inline))

#include "transpose_sse.h"

typedef struct f32x16 {
    __m256 lo, hi;
} f32x16;
typedef struct i32x16 {
    __m256i lo, hi;
} i32x16;

MFK_INLINE f32x16 f32x16_of(__m256 lo, __m256 hi)
{
    f32x16 v = { lo, hi };
    return v;
}

MFK_INLINE i32x16 i32x16_of(__m256i lo, __m256i hi)
{
    i32x16 v = { lo, hi };
    return v;
}

MFK_INLINE f32x16 f32x16_set(float x)
{
    return f32x16_of(_mm256_set1_ps(x), _mm256_set1_ps(x));
}

MFK_INLINE f32x16 f32x16_load(const float *p)
{
    return f32x16_of(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

MFK_INLINE void f32x16_store(float *p, f32x16 v)
{
    _mm256_storeu_ps(p, v.lo);
    _mm256_storeu_ps(p + 8, v.hi);
}

/* All ones in the lanes below n. */
MFK_INLINE i32x16 first_lanes(size_t n)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i limit = _mm256_set1_epi32((int)n);
    return i32x16_of(_mm256_cmpgt_epi32(limit, lane),
                     _mm256_cmpgt_epi32(limit, _mm256_add_epi32(lane, _mm256_set1_epi32(8))));
}

/* The first n lanes, zeros in the others; memory behind them is not touched. */
MFK_INLINE f32x16 f32x16_load_first(const float *p, size_t n)
{
    i32x16 mask = first_lanes(n);
    return f32x16_of(_mm256_maskload_ps(p, mask.lo), _mm256_maskload_ps(p + 8, mask.hi));
}

MFK_INLINE void f32x16_store_first(float *p, f32x16 v, size_t n)
{
    i32x16 mask = first_lanes(n);
    _mm256_maskstore_ps(p, mask.lo, v.lo);
    _mm256_maskstore_ps(p + 8, mask.hi, v.hi);
}

/* Lanes [begin, end) of v, `other` elsewhere. */
MFK_INLINE f32x16 f32x16_keep(f32x16 v, size_t begin, size_t end, f32x16 other)
{
    i32x16 not_from = first_lanes(begin), to = first_lanes(end);
    return f32x16_of(_mm256_blendv_ps(other.lo, v.lo, _mm256_castsi256_ps(_mm256_andnot_si256(not_from.lo, to.lo))),
                     _mm256_blendv_ps(other.hi, v.hi, _mm256_castsi256_ps(_mm256_andnot_si256(not_from.hi, to.hi))));
}

#define F32X16_BINARY(name, intrinsic)                                  \
    MFK_INLINE f32x16 f32x16_##name(f32x16 a, f32x16 b)                 \
    {                                                                   \
        return f32x16_of(intrinsic(a.lo, b.lo), intrinsic(a.hi, b.hi)); \
    }
F32X16_BINARY(add, _mm256_add_ps)
F32X16_BINARY(sub, _mm256_sub_ps)
F32X16_BINARY(mul, _mm256_mul_ps)
F32X16_BINARY(div, _mm256_div_ps)
F32X16_BINARY(max, _mm256_max_ps) /* a > b ? a : b */
F32X16_BINARY(min, _mm256_min_ps) /* a < b ? a : b */

MFK_INLINE f32x16 f32x16_fma(f32x16 a, f32x16 b, f32x16 c)
{
    return f32x16_of(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}

/* a * b - c */
MFK_INLINE f32x16 f32x16_fms(f32x16 a, f32x16 b, f32x16 c)
{
    return f32x16_of(_mm256_fmsub_ps(a.lo, b.lo, c.lo), _mm256_fmsub_ps(a.hi, b.hi, c.hi));
}

/* a < b ? x : y */
MFK_INLINE f32x16 f32x16_select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y)
{
    return f32x16_of(_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
                     _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)));
}

MFK_INLINE i32x16 f32x16_bits(f32x16 v)
{
    return i32x16_of(_mm256_castps_si256(v.lo), _mm256_castps_si256(v.hi));
}

MFK_INLINE f32x16 f32x16_of_bits(i32x16 v)
{
    return f32x16_of(_mm256_castsi256_ps(v.lo), _mm256_castsi256_ps(v.hi));
}

MFK_INLINE i32x16 i32x16_set(int32_t x)
{
    return i32x16_of(_mm256_set1_epi32(x), _mm256_set1_epi32(x));
}

#define I32X16_BINARY(name, intrinsic)                                  \
    MFK_INLINE i32x16 i32x16_##name(i32x16 a, i32x16 b)                 \
    {                                                                   \
        return i32x16_of(intrinsic(a.lo, b.lo), intrinsic(a.hi, b.hi)); \
    }
I32X16_BINARY(add, _mm256_add_epi32)
I32X16_BINARY(sub, _mm256_sub_epi32)
I32X16_BINARY(and, _mm256_and_si256)
I32X16_BINARY(or, _mm256_or_si256)
I32X16_BINARY(max, _mm256_max_epi32)

#define i32x16_shift_left(v, n) i32x16_of(_mm256_slli_epi32((v).lo, n), _mm256_slli_epi32((v).hi, n))
#define i32x16_shift_right(v, n) i32x16_of(_mm256_srai_epi32((v).lo, n), _mm256_srai_epi32((v).hi, n))

/* A line of a panel. */
MFK_INLINE i32x16 i32x16_load(const void *p)
{
    return i32x16_of(_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)p + 1));
}

/* Sixteen consecutive bf16, widened. */
MFK_INLINE f32x16 f32x16_load_bf16(const uint16_t *p)
{
    __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p + 1));
    return f32x16_of_bits(i32x16_of(_mm256_slli_epi32(lo, 16), _mm256_slli_epi32(hi, 16)));
}

/* Sixteen 32-bit lanes whose high halves are zero. */
MFK_INLINE void i32x16_store_low_halves(uint16_t *p, i32x16 v)
{
    __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(v.lo, v.hi), 0xd8);
    _mm256_storeu_si256((__m256i *)(void *)p, packed);
}

/* x is a NaN ? a : b */
MFK_INLINE i32x16 i32x16_select_nan(f32x16 x, i32x16 a, i32x16 b)
{
    return i32x16_of(_mm256_blendv_epi8(b.lo, a.lo, _mm256_castps_si256(_mm256_cmp_ps(x.lo, x.lo, _CMP_UNORD_Q))),
                     _mm256_blendv_epi8(b.hi, a.hi, _mm256_castps_si256(_mm256_cmp_ps(x.hi, x.hi, _CMP_UNORD_Q))));
}

/* Sixteen consecutive f16, widened. */
MFK_INLINE f32x16 f32x16_load_f16(const uint16_t *p)
{
    return f32x16_of(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
                     _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p + 1)));
}

MFK_INLINE f32x16 f32x16_of_i32(i32x16 v)
{
    return f32x16_of(_mm256_cvtepi32_ps(v.lo), _mm256_cvtepi32_ps(v.hi));
}

/* To nearest even. */
MFK_INLINE i32x16 i32x16_of_f32(f32x16 v)
{
    return i32x16_of(_mm256_cvtps_epi32(v.lo), _mm256_cvtps_epi32(v.hi));
}

MFK_INLINE void i32x16_store(void *p, i32x16 v)
{
    _mm256_storeu_si256((__m256i *)p, v.lo);
    _mm256_storeu_si256((__m256i *)p + 1, v.hi);
}

MFK_INLINE int32_t i32x16_tree_sum(i32x16 v)
{
    __m256i y = _mm256_add_epi32(v.lo, v.hi);
    __m128i x = _mm_add_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

MFK_INLINE int32_t i32x16_tree_max(i32x16 v)
{
    __m256i y = _mm256_max_epi32(v.lo, v.hi);
    __m128i x = _mm_max_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
    x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}

/* Sixteen signed bytes, widened. */
MFK_INLINE i32x16 i32x16_load_bytes(const void *p)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)p);
    return i32x16_of(_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)));
}

/* Sixteen lanes that fit a byte. */
MFK_INLINE void i32x16_store_bytes(int8_t *p, i32x16 v)
{
    __m256i halves = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.lo, v.hi), 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
    _mm_storeu_si128((__m128i *)(void *)p, bytes);
}

typedef __m256i lookup16; /* a table of sixteen bytes */

/* Each byte of the second, below 16, to its place in the first. */
MFK_INLINE i32x16 i32x16_lookup(lookup16 table, i32x16 v)
{
    return i32x16_of(_mm256_shuffle_epi8(table, v.lo), _mm256_shuffle_epi8(table, v.hi));
}

/* Of signed bytes, each 128 too large. */
MFK_INLINE lookup16 lookup16_of(const int8_t table[16])
{
    __m128i values = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)table), _mm_set1_epi8(-128));
    return _mm256_broadcastsi128_si256(values);
}

MFK_INLINE float f32x16_first(f32x16 v)
{
    return _mm256_cvtss_f32(v.lo);
}

MFK_INLINE float f32x16_tree_sum(f32x16 v)
{
    __m256 y = _mm256_add_ps(v.lo, v.hi);
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ps(x, _mm_shuffle_ps(x, x, 1)));
}

MFK_INLINE float f32x16_tree_max(f32x16 v) /* b > a ? b : a, as the tree has it */
{
    __m256 y = _mm256_max_ps(v.hi, v.lo);
    __m128 x = _mm_max_ps(_mm256_extractf128_ps(y, 1), _mm256_castps256_ps128(y));
    x = _mm_max_ps(_mm_movehl_ps(x, x), x);
    return _mm_cvtss_f32(_mm_max_ps(_mm_shuffle_ps(x, x, 1), x));
}

#endif
