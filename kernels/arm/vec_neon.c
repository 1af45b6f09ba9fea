/* vec_neon.c - norms, rope, activations, softmax, attention. */
#include "f32x16_neon.h"

#include "simd/vec_simd.h"

#define ATTEND_CHAINS 4
#define ATTEND_ROWS 4
#include "simd/attend_simd.h"
