/* vec_avx512.c - norms, rope, activations, softmax, attention. */
#include "f32x16_avx512.h"

#include "simd/vec_simd.h"

#define ATTEND_GROUPS 4
#include "simd/attend_simd.h"
