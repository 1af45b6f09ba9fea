/* gemm_bf16_avx512bf16.c - the fast arithmetic of bf16: vdpbf16ps reads pairs of weights as they lie, and activations
 * that are rounded to pairs as they are packed. Tiles of 12 rows and two panels: 24 accumulators of the 32 registers. */
#include "f32x16_avx512.h"

/* Eight inputs of a row as four pairs. */
MFK_INLINE __m128i round_pairs(const float *from)
{
    return (__m128i)_mm256_cvtneps_pbh(_mm256_loadu_ps(from));
}

MFK_INLINE void four_pairs(const float *from, int32_t *to)
{
    _mm_storeu_si128((__m128i *)(void *)to, round_pairs(from));
}

/* Eight inputs of four rows: rows of `from` become columns of pairs. */
MFK_INLINE void transpose_4x4_pairs(const float *from, size_t from_floats, int32_t *to, size_t to_words)
{
    __m128 pairs[4];
    for (size_t r = 0; r < 4; r++)
        pairs[r] = _mm_castsi128_ps(round_pairs(from + r * from_floats));
    _MM_TRANSPOSE4_PS(pairs[0], pairs[1], pairs[2], pairs[3]);
    for (size_t r = 0; r < 4; r++)
        _mm_storeu_si128((__m128i *)(void *)(to + r * to_words), _mm_castps_si128(pairs[r]));
}

/* acc + x[1] * w[1], rounded, + x[0] * w[0], rounded, in each lane. */
MFK_INLINE f32x16 dot_pairs(f32x16 acc, i32x16 x, i32x16 w)
{
    return _mm512_dpbf16_ps(acc, (__m512bh)x, (__m512bh)w);
}

#define GEMM_PAIRS
#define TILE_ROWS 12
#define TILE_PANELS(rows) ((rows) <= 4 ? 4 : 2)
#include "simd/gemm_simd.h"

void mfk_gemm_bf16_12x32_avx512bf16(const mfk_gemm_args *args)
{
    gemm(args, args->scratch, MFK_SCRATCH_BYTES);
}

void mfk_glu_bf16_12x32_avx512bf16(const mfk_gemm_args *args)
{
    glu(args);
}
