/* train_vec_avx512.c - the element-wise arithmetic, compiled for AVX-512. */
#define MFI_VEC_TABLE mfi_train_vec_avx512
#include "train_vec_body.h"
