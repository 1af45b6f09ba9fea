/* train_vec.c - the element-wise arithmetic at baseline flags, and the choice among the instruction sets. */
#define MFI_VEC_TABLE mfi_train_vec_baseline
#include "train_vec_body.h"

#include "cpu.h"

const mfi_train_vec *mfi_train_vec_select(void)
{
    uint64_t cpu = mfk_cpu_detect();
#if defined(MFI_TRAIN_HAVE_AVX512)
    if (cpu & MFK_CPU_AVX512) return &mfi_train_vec_avx512;
#endif
#if defined(MFI_TRAIN_HAVE_AVX2)
    if (cpu & MFK_CPU_AVX2) return &mfi_train_vec_avx2;
#endif
    (void)cpu;
    return &mfi_train_vec_baseline;
}
