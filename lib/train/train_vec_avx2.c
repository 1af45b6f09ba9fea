/* train_vec_avx2.c - the element-wise arithmetic, compiled for AVX2 and FMA. */
#define MFI_VEC_TABLE mfi_train_vec_avx2
#include "train_vec_body.h"
