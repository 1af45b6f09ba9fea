/* gemm_bf16_armbf16.c - the fast arithmetic of bf16: bfdot reads pairs of weights as they lie, and activations that are
 * rounded to pairs as they are packed. Tiles of 6 rows and one panel: 24 accumulators of the 32 registers. */
#include "f32x16_neon.h"

/* Eight inputs of a row as four pairs. */
MFK_INLINE float32x4_t round_pairs(const float *from)
{
    bfloat16x8_t low = vcvtq_low_bf16_f32(vld1q_f32(from));
    return vreinterpretq_f32_bf16(vcvtq_high_bf16_f32(low, vld1q_f32(from + 4)));
}

MFK_INLINE void four_pairs(const float *from, int32_t *to)
{
    vst1q_s32(to, vreinterpretq_s32_f32(round_pairs(from)));
}

/* Eight inputs of four rows: rows of `from` become columns of pairs. */
MFK_INLINE void transpose_4x4_pairs(const float *from, size_t from_floats, int32_t *to, size_t to_words)
{
    f32x16 rows = f32x16_of(round_pairs(from), round_pairs(from + from_floats), round_pairs(from + 2 * from_floats),
                            round_pairs(from + 3 * from_floats));
    i32x16 columns = f32x16_bits(transposed(rows));
    for (size_t i = 0; i < 4; i++)
        vst1q_s32(to + i * to_words, columns.q[i]);
}

#define GEMM_PAIRS
#define TILE_ROWS 6
#define TILE_PANELS(rows) ((rows) <= 1 ? 4 : (rows) <= 3 ? 2 : 1)
#define TILE_CHAINS "arm/tile_neon.h"
#include "simd/gemm_simd.h"

void mfk_gemm_bf16_6x16_armbf16(const mfk_gemm_args *args)
{
    gemm(args, args->scratch, MFK_SCRATCH_BYTES);
}

void mfk_glu_bf16_6x16_armbf16(const mfk_gemm_args *args)
{
    glu(args);
}
