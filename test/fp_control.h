/* fp_control.h - the processor's floating-point mode, as a host may have set it. */
#ifndef FP_CONTROL_H
#define FP_CONTROL_H

#if defined(__SSE__)
#include <xmmintrin.h>

enum { FP_FLUSH = 0x8040 }; /* FTZ and DAZ: small numbers are zeros */

static inline unsigned long fp_control(void)
{
    return _mm_getcsr() & ~0x3fu; /* without the sticky flags */
}

static inline void fp_set_control(unsigned long value)
{
    _mm_setcsr((unsigned)value);
}
#elif defined(__aarch64__) && defined(__GNUC__)
enum { FP_FLUSH = 1 << 24 | 1 << 25 }; /* FZ, and DN: every NaN is the same */

static inline unsigned long fp_control(void)
{
    unsigned long value;
    __asm__ volatile("mrs %0, fpcr" : "=r"(value));
    return value;
}

static inline void fp_set_control(unsigned long value)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(value) : "memory");
}
#else
enum { FP_FLUSH = 0 };

static inline unsigned long fp_control(void)
{
    return 0;
}

static inline void fp_set_control(unsigned long value)
{
    (void)value;
}
#endif

#endif
