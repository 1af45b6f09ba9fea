/* vec_avx2.c - norms, rope, activations, softmax, attention. */
#include "f32x16_avx2.h"

#include "simd/vec_simd.h"

#define ATTEND_CHAINS 4
#define ATTEND_ROWS 4
#include "simd/attend_simd.h"
