/* gemm_q4_avxvnni.c - vpdpbusd of 256 bits. */
#include "f32x16_avx2.h"

#include "dot_vnni.h"

#define GEMM_Q4
#define TILE_ROWS 4
#define TILE_PANELS 1
#define FEW_ROWS 4
#include "simd/gemm_q_simd.h"

void mfk_gemm_q4_4x16_avxvnni(const mfk_gemm_args *args)
{
    gemm(args, args->scratch, MFK_SCRATCH_BYTES);
}

void mfk_glu_q4_4x16_avxvnni(const mfk_gemm_args *args)
{
    glu(args);
}
