/* registry.c - the table of kernels, from kernels.inc. */
#include "cpu.h"
#include "kernel_list.h"

#include <string.h>

/* A line of kernels.inc counts where its instruction set was compiled. */
#define IF_SCALAR(...) __VA_ARGS__
#ifdef MFK_HAVE_AVX2
#define IF_AVX2(...) __VA_ARGS__
#else
#define IF_AVX2(...)
#endif
#ifdef MFK_HAVE_AVXVNNI
#define IF_AVXVNNI(...) __VA_ARGS__
#else
#define IF_AVXVNNI(...)
#endif
#ifdef MFK_HAVE_AVX512
#define IF_AVX512(...) __VA_ARGS__
#else
#define IF_AVX512(...)
#endif
#ifdef MFK_HAVE_AVX512VNNI
#define IF_AVX512VNNI(...) __VA_ARGS__
#else
#define IF_AVX512VNNI(...)
#endif
#ifdef MFK_HAVE_AVX512BF16
#define IF_AVX512BF16(...) __VA_ARGS__
#else
#define IF_AVX512BF16(...)
#endif
#ifdef MFK_HAVE_NEON
#define IF_NEON(...) __VA_ARGS__
#else
#define IF_NEON(...)
#endif
#ifdef MFK_HAVE_DOTPROD
#define IF_DOTPROD(...) __VA_ARGS__
#else
#define IF_DOTPROD(...)
#endif
#ifdef MFK_HAVE_I8MM
#define IF_I8MM(...) __VA_ARGS__
#else
#define IF_I8MM(...)
#endif
#ifdef MFK_HAVE_ARMBF16
#define IF_ARMBF16(...) __VA_ARGS__
#else
#define IF_ARMBF16(...)
#endif

void mfk_table_init(mfk_table *table, uint64_t cpu)
{
    memset(table, 0, sizeof *table);
    table->cpu = cpu;
#define MFK_KERNEL(slot, operation, function, isa) \
    IF_##isa(if ((cpu & MFK_CPU_##isa) == MFK_CPU_##isa) table->slot = function;)
#include "kernels.inc"
#undef MFK_KERNEL
}

const mfk_kernel_info *mfk_kernel_list(size_t *n)
{
    static const mfk_kernel_info list[] = {
#define MFK_KERNEL(slot, operation, function, isa) IF_##isa({ #slot, #function, MFK_CPU_##isa }, )
#include "kernels.inc"
#undef MFK_KERNEL
    };
    *n = sizeof list / sizeof *list;
    return list;
}

void mfk_table_take_fast(mfk_table *table)
{
    if (table->gemm_bf16_fast) table->gemm_bf16 = table->gemm_bf16_fast;
    if (table->glu_bf16_fast) table->glu_bf16 = table->glu_bf16_fast;
}

int mfk_table_fast(const mfk_table *table, mfk_type type)
{
    return type == MFK_BF16 && table->gemm_bf16 == table->gemm_bf16_fast;
}

mfk_gemm_fn mfk_table_gemm(const mfk_table *table, mfk_type type)
{
    switch (type) {
    case MFK_F32:
        return table->gemm_f32;
    case MFK_BF16:
        return table->gemm_bf16;
    case MFK_F16:
        return table->gemm_f16;
    case MFK_Q8:
        return table->gemm_q8;
    case MFK_Q4:
        return table->gemm_q4;
    default:
        return NULL;
    }
}

mfk_glu_fn mfk_table_glu(const mfk_table *table, mfk_type type)
{
    switch (type) {
    case MFK_F32:
        return table->glu_f32;
    case MFK_BF16:
        return table->glu_bf16;
    case MFK_F16:
        return table->glu_f16;
    case MFK_Q8:
        return table->glu_q8;
    case MFK_Q4:
        return table->glu_q4;
    default:
        return NULL;
    }
}
