/* vec_avx2.c - norms, rope, activations, softmax, attention. */
#include "f32x16_avx2.h"

#include "vec_x86.h"

#define ATTEND_GROUPS 1
#include "attend_x86.h"
