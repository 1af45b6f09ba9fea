/* f32x16_avx512.h - sixteen f32 in one AVX-512 register. The same names as f32x16_avx2.h. */
#ifndef MFK_F32X16_H
#define MFK_F32X16_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define MFK_ISA(name) name##_avx512
#define MFK_INLINE static inline __attribute__((always_inline))

#include "transpose_sse.h"

typedef __m512 f32x16;
typedef __m512i i32x16;

#define f32x16_set _mm512_set1_ps
#define f32x16_load(p) _mm512_loadu_ps(p)
#define f32x16_store(p, v) _mm512_storeu_ps(p, v)

MFK_INLINE __mmask16 first_lanes(size_t n)
{
    return (__mmask16)((1u << n) - 1); /* n <= 16 */
}

/* The first n lanes, zeros in the others; memory behind them is not touched. */
MFK_INLINE f32x16 f32x16_load_first(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}

MFK_INLINE void f32x16_store_first(float *p, f32x16 v, size_t n)
{
    _mm512_mask_storeu_ps(p, first_lanes(n), v);
}

/* Lanes [begin, end) of v, `other` elsewhere. */
MFK_INLINE f32x16 f32x16_keep(f32x16 v, size_t begin, size_t end, f32x16 other)
{
    return _mm512_mask_blend_ps((__mmask16)(first_lanes(end) & ~first_lanes(begin)), other, v);
}

#define f32x16_add _mm512_add_ps
#define f32x16_sub _mm512_sub_ps
#define f32x16_mul _mm512_mul_ps
#define f32x16_div _mm512_div_ps
#define f32x16_max _mm512_max_ps /* a > b ? a : b */
#define f32x16_min _mm512_min_ps /* a < b ? a : b */
#define f32x16_fma _mm512_fmadd_ps
#define f32x16_fms _mm512_fmsub_ps /* a * b - c */

/* a < b ? x : y */
MFK_INLINE f32x16 f32x16_select_less(f32x16 a, f32x16 b, f32x16 x, f32x16 y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}

#define f32x16_first _mm512_cvtss_f32
#define f32x16_bits _mm512_castps_si512
#define f32x16_of_bits _mm512_castsi512_ps
#define i32x16_set _mm512_set1_epi32
#define i32x16_add _mm512_add_epi32
#define i32x16_sub _mm512_sub_epi32
#define i32x16_and _mm512_and_si512
#define i32x16_or _mm512_or_si512
#define i32x16_shift_left _mm512_slli_epi32
#define i32x16_shift_right _mm512_srai_epi32
#define i32x16_load(p) _mm512_loadu_si512(p) /* a line of a panel */

/* Sixteen consecutive bf16, widened. */
MFK_INLINE f32x16 f32x16_load_bf16(const uint16_t *p)
{
    __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

/* Sixteen 32-bit lanes whose high halves are zero. */
MFK_INLINE void i32x16_store_low_halves(uint16_t *p, i32x16 v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(v));
}

/* x is a NaN ? a : b */
MFK_INLINE i32x16 i32x16_select_nan(f32x16 x, i32x16 a, i32x16 b)
{
    return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), b, a);
}

/* Sixteen consecutive f16, widened. */
#define f32x16_load_f16(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define f32x16_of_i32 _mm512_cvtepi32_ps
#define i32x16_of_f32 _mm512_cvtps_epi32 /* to nearest even */
#define i32x16_max _mm512_max_epi32
#define i32x16_store(p, v) _mm512_storeu_si512(p, v)
#define i32x16_tree_sum _mm512_reduce_add_epi32
#define i32x16_tree_max _mm512_reduce_max_epi32

/* Sixteen signed bytes, widened. */
#define i32x16_load_bytes(p) _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(p)))

/* Sixteen lanes that fit a byte. */
MFK_INLINE void i32x16_store_bytes(int8_t *p, i32x16 v)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(v));
}

typedef __m512i lookup16;                 /* a table of sixteen bytes */
#define i32x16_lookup _mm512_shuffle_epi8 /* each byte of the second, below 16, to its place in the first */

/* Of signed bytes, each 128 too large. */
MFK_INLINE lookup16 lookup16_of(const int8_t table[16])
{
    __m128i values = _mm_xor_si128(_mm_loadu_si128((const __m128i *)(const void *)table), _mm_set1_epi8(-128));
    return _mm512_broadcast_i32x4(values);
}

MFK_INLINE float f32x16_tree_sum(f32x16 v)
{
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ps(x, _mm_shuffle_ps(x, x, 1)));
}

MFK_INLINE float f32x16_tree_max(f32x16 v) /* b > a ? b : a, as the tree has it */
{
    __m256 y = _mm256_max_ps(_mm512_extractf32x8_ps(v, 1), _mm512_castps512_ps256(v));
    __m128 x = _mm_max_ps(_mm256_extractf128_ps(y, 1), _mm256_castps256_ps128(y));
    x = _mm_max_ps(_mm_movehl_ps(x, x), x);
    return _mm_cvtss_f32(_mm_max_ps(_mm_shuffle_ps(x, x, 1), x));
}

#endif
