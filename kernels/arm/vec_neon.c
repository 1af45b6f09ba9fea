/* vec_neon.c - norms, rope, activations, softmax, attention. */
#include "f32x16_neon.h"

#include "simd/vec_simd.h"

#define ATTEND_GROUPS 1
#include "simd/attend_simd.h"
