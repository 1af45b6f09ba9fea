/* cpu.h - what this processor has, what policy allows, and a mask that lowers it. */
#ifndef MFK_CPU_H
#define MFK_CPU_H

#include <stddef.h>
#include <stdint.h>

enum {
    MFK_CPU_SCALAR = 0,
    MFK_CPU_AVX2 = 1u << 0,   /* with FMA and F16C */
    MFK_CPU_AVX512 = 1u << 1, /* F, BW, DQ, VL */
    MFK_CPU_AVXVNNI = 1u << 2,
    MFK_CPU_AVX512VNNI = 1u << 3,
    MFK_CPU_AVX512BF16 = 1u << 4,
    MFK_CPU_NEON = 1u << 16,
    MFK_CPU_DOTPROD = 1u << 17,
    MFK_CPU_I8MM = 1u << 18, /* with DOTPROD */
    MFK_CPU_ARMBF16 = 1u << 19,
    /* Their products round otherwise than the exact arithmetic's: of use to the fast one alone. */
    MFK_CPU_FAST = MFK_CPU_AVX512BF16 | MFK_CPU_ARMBF16
};

uint64_t mfk_cpu_detect(void); /* the processor's and the system's, never more than was compiled in */
/* `cpu` without what is there and slow. For who names no level; a level that is named is taken at its word. */
uint64_t mfk_cpu_should_use(uint64_t cpu);
/* The names of the levels, of every architecture, each after those that it includes; NULL behind the last. */
const char *mfk_cpu_level(size_t i);
/* Lowers `cpu` to what `level` allows, which is scalar for another architecture's; 0 on success, -1 for an unknown name. */
int mfk_cpu_limit(uint64_t *cpu, const char *level);
const char *mfk_cpu_name(uint64_t cpu); /* the highest level in `cpu` */

#endif
