/* gemm_bf16_avx2.c - tiles of 6 rows and one panel: 12 accumulators of the 16 registers. */
#include "f32x16_avx2.h"

#define GEMM_BF16
#define TILE_ROWS 6
#define TILE_PANELS(rows) ((rows) <= 1 ? 4 : (rows) <= 3 ? 2 : 1)
#include "simd/gemm_simd.h"

void mfk_gemm_bf16_6x16_avx2(const mfk_gemm_args *args)
{
    gemm(args, args->scratch, MFK_SCRATCH_BYTES);
}

void mfk_glu_bf16_6x16_avx2(const mfk_gemm_args *args)
{
    glu(args);
}
