/* gemm_q8_i8mm.c - smmla, and sdot for one row. */
#include "f32x16_neon.h"

#define TILE_ROWS 4
#define TILE_PANELS 1
#define FEW_ROWS 4
#define TILE_CHAINS "arm/tile_q_neon.h"
#include "simd/gemm_q_simd.h"

void mfk_gemm_q8_4x16_i8mm(const mfk_gemm_args *args)
{
    gemm(args, args->scratch, MFK_SCRATCH_BYTES);
}

void mfk_glu_q8_4x16_i8mm(const mfk_gemm_args *args)
{
    glu(args);
}
