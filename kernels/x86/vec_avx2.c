/* vec_avx2.c - norms, rope, activations, softmax, attention. */
#include "f32x16_avx2.h"

#include "simd/vec_simd.h"

#define ATTEND_GROUPS 1
#include "simd/attend_simd.h"
