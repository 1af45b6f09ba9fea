/* gemm_f32_avx512.c - tiles of 12 rows and two panels: 24 accumulators of the 32 registers. */
#include "f32x16_avx512.h"

#define TILE_ROWS 12
#define TILE_PANELS(rows) ((void)(rows), 2U)
#include "simd/gemm_simd.h"

void mfk_gemm_f32_12x32_avx512(const mfk_gemm_args *args)
{
    gemm(args, args->scratch, MFK_SCRATCH_BYTES);
}

void mfk_glu_f32_12x32_avx512(const mfk_gemm_args *args)
{
    glu(args);
}
