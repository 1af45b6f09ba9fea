/* gemm_f16_neon.c - tiles of 6 rows and one panel: 24 accumulators of the 32 registers. */
#include "f32x16_neon.h"

#define GEMM_F16
#define TILE_ROWS 6
#define TILE_PANELS(rows) ((rows) <= 1 ? 4 : (rows) <= 3 ? 2 : 1)
#define TILE_CHAINS "arm/tile_neon.h"
#include "simd/gemm_simd.h"

void mfk_gemm_f16_6x16_neon(const mfk_gemm_args *args)
{
    gemm(args, args->scratch, MFK_SCRATCH_BYTES);
}

void mfk_glu_f16_6x16_neon(const mfk_gemm_args *args)
{
    glu(args);
}
