/* vec_avx512.c - norms, rope, activations, softmax, attention. */
#include "f32x16_avx512.h"

#include "vec_x86.h"

#define ATTEND_GROUPS 4
#include "attend_x86.h"
