/* gemm_q4_dotprod.c - sdot. */
#include "f32x16_neon.h"

#define GEMM_Q4
#define TILE_ROWS 4
#define TILE_PANELS 1
#define FEW_ROWS 4
#define TILE_CHAINS "arm/tile_q_neon.h"
#include "simd/gemm_q_simd.h"

void mfk_gemm_q4_4x16_dotprod(const mfk_gemm_args *args)
{
    gemm(args, args->scratch, MFK_SCRATCH_BYTES);
}

void mfk_glu_q4_4x16_dotprod(const mfk_gemm_args *args)
{
    glu(args);
}
