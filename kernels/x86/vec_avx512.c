/* vec_avx512.c - norms, rope, activations, softmax, attention. */
#include "f32x16_avx512.h"

#include "simd/vec_simd.h"

#define ATTEND_CHAINS 16
#define ATTEND_ROWS 8
#include "simd/attend_simd.h"
