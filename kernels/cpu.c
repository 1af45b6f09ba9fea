/* cpu.c - has: what the processor and the system offer. Should use: what the kernels gain from. */
#include "cpu.h"

#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

/* The register state that the system saves: XMM and YMM, then the three parts of ZMM. */
enum { SAVES_YMM = 0x6, SAVES_ZMM = 0xe6 };

static uint32_t saved_state(void)
{
    uint32_t low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int all(uint32_t word, uint32_t bits)
{
    return (word & bits) == bits;
}

static int is_amd(void)
{
    uint32_t a, b, c, d;
    return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
}

static uint64_t has(void)
{
    uint32_t a, b, c, d, b7, c7, d7, a71 = 0;
    uint64_t cpu = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !all(c, bit_OSXSAVE)) return 0;
    if (!all(c, bit_AVX | bit_FMA | bit_F16C) || !all(saved_state(), SAVES_YMM)) return 0;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !all(b7, bit_AVX2)) return 0;
    if (a >= 1) __get_cpuid_count(7, 1, &a71, &b, &c, &d);
    cpu |= MFK_CPU_AVX2;
    if (a71 & 1u << 4) cpu |= MFK_CPU_AVXVNNI;
    if (!all(b7, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL) || !all(saved_state(), SAVES_ZMM))
        return cpu;
    cpu |= MFK_CPU_AVX512;
    if (c7 & bit_AVX512VNNI) cpu |= MFK_CPU_AVX512VNNI;
    if (a71 & 1u << 5) cpu |= MFK_CPU_AVX512BF16;
    return cpu;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

/* Of AT_HWCAP and AT_HWCAP2; the C library's headers may be older than the processor. */
enum { HAS_ASIMDDP = 1 << 20, HAS2_I8MM = 1 << 13, HAS2_BF16 = 1 << 14 };

static uint64_t has(void)
{
    unsigned long words = getauxval(AT_HWCAP), words2 = getauxval(AT_HWCAP2);
    uint64_t cpu = MFK_CPU_NEON;
    if (words & HAS_ASIMDDP) cpu |= MFK_CPU_DOTPROD;
    if ((words & HAS_ASIMDDP) && (words2 & HAS2_I8MM)) cpu |= MFK_CPU_I8MM; /* its kernels take one row by sdot */
    if (words2 & HAS2_BF16) cpu |= MFK_CPU_ARMBF16;
    return cpu;
}
#elif defined(__aarch64__)
static uint64_t has(void)
{
    return MFK_CPU_NEON;
}
#else
static uint64_t has(void)
{
    return 0;
}
#endif

static uint64_t compiled(void)
{
    uint64_t cpu = 0;
#ifdef MFK_HAVE_AVX2
    cpu |= MFK_CPU_AVX2;
#endif
#ifdef MFK_HAVE_AVXVNNI
    cpu |= MFK_CPU_AVXVNNI;
#endif
#ifdef MFK_HAVE_AVX512
    cpu |= MFK_CPU_AVX512;
#endif
#ifdef MFK_HAVE_AVX512VNNI
    cpu |= MFK_CPU_AVX512VNNI;
#endif
#ifdef MFK_HAVE_AVX512BF16
    cpu |= MFK_CPU_AVX512BF16;
#endif
#ifdef MFK_HAVE_NEON
    cpu |= MFK_CPU_NEON;
#endif
#ifdef MFK_HAVE_DOTPROD
    cpu |= MFK_CPU_DOTPROD;
#endif
#ifdef MFK_HAVE_I8MM
    cpu |= MFK_CPU_I8MM;
#endif
#ifdef MFK_HAVE_ARMBF16
    cpu |= MFK_CPU_ARMBF16;
#endif
    return cpu;
}

uint64_t mfk_cpu_detect(void)
{
    return has() & compiled();
}

/* vdpbf16ps multiplies twice what an f32 fma does. AMD's processors start as many of one as of the other, from Zen 4 on.
 * Intel's Sapphire and Emerald Rapids start half as many at most, and what then remains is the rounding of the
 * activations; so on those, and on processors that nobody has measured, the fast arithmetic is the exact one. The AVX-512
 * of every processor with F, BW, DQ and VL gains over its AVX2. bfdot, too, multiplies twice what an fmla does, and widens
 * nothing; it is used wherever it is, though no processor has been timed. */
uint64_t mfk_cpu_should_use(uint64_t cpu)
{
#if defined(__x86_64__) && defined(__GNUC__)
    if (!is_amd()) cpu &= ~(uint64_t)MFK_CPU_AVX512BF16;
#endif
    return cpu;
}

static const struct {
    const char *name;
    uint64_t cpu; /* the most it may have */
} levels[] = {
    /* ascending */
    { "scalar", 0 },
    { "avx2", MFK_CPU_AVX2 },
    { "avxvnni", MFK_CPU_AVX2 | MFK_CPU_AVXVNNI },
    { "avx512", MFK_CPU_AVX2 | MFK_CPU_AVX512 },
    { "avx512vnni", MFK_CPU_AVX2 | MFK_CPU_AVX512 | MFK_CPU_AVX512VNNI },
    { "avx512bf16", MFK_CPU_AVX2 | MFK_CPU_AVX512 | MFK_CPU_AVX512VNNI | MFK_CPU_AVX512BF16 },
    { "neon", MFK_CPU_NEON },
    { "dotprod", MFK_CPU_NEON | MFK_CPU_DOTPROD },
    { "i8mm", MFK_CPU_NEON | MFK_CPU_DOTPROD | MFK_CPU_I8MM },
    { "armbf16", MFK_CPU_NEON | MFK_CPU_DOTPROD | MFK_CPU_I8MM | MFK_CPU_ARMBF16 },
};

enum { N_LEVEL = sizeof levels / sizeof *levels };

const char *mfk_cpu_level(size_t i)
{
    return i < N_LEVEL ? levels[i].name : NULL;
}

int mfk_cpu_limit(uint64_t *cpu, const char *level)
{
    for (size_t i = 0; i < N_LEVEL; i++) {
        if (strcmp(level, levels[i].name) == 0) {
            *cpu &= levels[i].cpu;
            return 0;
        }
    }
    return -1;
}

const char *mfk_cpu_name(uint64_t cpu)
{
    size_t i = N_LEVEL - 1;
    while ((levels[i].cpu & cpu) != levels[i].cpu)
        i--;
    return levels[i].name; /* the first needs nothing */
}
