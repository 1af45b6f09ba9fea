/* gemm_q4_avx512vnni.c - vpdpbusd of 512 bits. */
#include "f32x16_avx512.h"

#include "dot_vnni.h"

#define GEMM_Q4
#define TILE_ROWS 6
#define TILE_PANELS 2
#define FEW_ROWS 8
#include "simd/gemm_q_simd.h"

void mfk_gemm_q4_6x32_avx512vnni(const mfk_gemm_args *args)
{
    gemm(args, args->scratch, MFK_SCRATCH_BYTES);
}

void mfk_glu_q4_6x32_avx512vnni(const mfk_gemm_args *args)
{
    glu(args);
}
