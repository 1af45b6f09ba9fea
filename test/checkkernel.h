/* checkkernel.h - the harness shared by the checks of single kernels.
 *
 * A check compares a kernel, bit for bit, with what docs/arithmetic.md says, on buffers that end at an
 * unmapped page. It reports through check_equal() and counts in the run. */
#ifndef CHECKKERNEL_H
#define CHECKKERNEL_H

#include "cpu.h"
#include "kernel.h"
#include "pack.h"

#include <stdbool.h>

typedef struct check_run {
    bool quick;            /* fewer shapes, for emulators */
    uint64_t seed, random; /* every kernel starts from the seed, so that one alone repeats */
    const char *kernel;    /* the one being checked */
    mfk_table table;       /* the level's; with the fast kernels in it where one of them is checked */
    mfk_table scalar;
    unsigned passed, failed;
} check_run;

uint32_t check_random(check_run *run);
size_t check_below(check_run *run, size_t n); /* in [0, n) */

/* Inputs: in [-1, 1); so small that products are subnormal; so large that sums come near overflow; large
 * values of alternating sign that cancel. SPECIAL mixes in infinities, NaN, zeros of both signs and
 * subnormals; half of SUBNORMAL are, the others just above. */
typedef enum check_input { ORDINARY, TINY, HUGE_VALUES, ALTERNATING, INPUTS, SPECIAL, SUBNORMAL } check_input;
void check_fill(check_run *run, check_input input, float *x, size_t n);

/* Memory that ends at an unmapped page. guard_end(g, bytes) is the start of its last `bytes` bytes. */
typedef struct guard {
    unsigned char *base;
    size_t bytes;
} guard;
guard guard_open(size_t bytes);
void *guard_end(const guard *g, size_t bytes);
void *guard_poisoned(const guard *g, size_t bytes); /* the same, filled with NaN, as are some bytes before */
void guard_close(guard *g);

/* The same bits, any NaN being like any other. `shape` is printed, with the seed, where it fails. */
bool check_equal(check_run *run, const float *got, const float *want, size_t n, const char *shape);
/* Within `bound` of an f64 reference, relative to `scale`. */
bool check_near(check_run *run, const float *got, const double *want, size_t n, double scale, double bound,
                const char *shape);
bool check_true(check_run *run, bool ok, const char *shape);

void check_gemm(check_run *run, mfk_type type);
void check_glu(check_run *run, mfk_type type);
void check_attend(check_run *run);
void check_attend_merge(check_run *run);
void check_pack(check_run *run);
void check_f16(check_run *run);
void check_quantize(check_run *run);
/* Of "gemm_bf16". */
mfk_type check_slot_type(const char *slot);
void check_math(check_run *run);
void check_norms(check_run *run, const char *slot);
void check_elementwise(check_run *run, const char *slot);
void check_cache_stores(check_run *run, const char *slot);

/* Prints the speed of the kernel in `slot`. */
void bench_kernel(check_run *run, const char *slot);

#endif
