/* defs.h - checked size arithmetic and small helpers. No state. */
#ifndef MFI_DEFS_H
#define MFI_DEFS_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MFI_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define MFI_LINE 64u /* tensors and hot buffers are aligned to it */

/* *out = a + b (a * b); false when it does not fit. */
static inline bool mfi_add(size_t a, size_t b, size_t *out)
{
    *out = a + b;
    return *out >= a;
}

static inline bool mfi_mul(size_t a, size_t b, size_t *out)
{
    *out = a * b;
    return b == 0 || a <= SIZE_MAX / b;
}

static inline bool mfi_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    *out = a + b;
    return *out >= a;
}

static inline bool mfi_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    *out = a * b;
    return b == 0 || a <= UINT64_MAX / b;
}

/* Up to the next multiple of `step`, a power of two. The caller knows that it fits. */
static inline size_t mfi_round_up(size_t a, size_t step)
{
    return (a + step - 1) & ~(step - 1);
}

static inline size_t mfi_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t mfi_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

#endif
