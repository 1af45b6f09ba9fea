/* threads.h - the threads of an executor: workers of our own, or those of the host.
 *
 * A run is a function on every thread, or a row of stages between which all threads meet. Our workers go from stage to
 * stage by themselves, with a barrier between; a waiter spins, then parks, and an idle pool uses no processor time.
 * A host promises less: its threads may run a stage's parts one after another. So it gets one loop a stage, and no
 * part ever waits for another. */
#ifndef MFI_THREADS_H
#define MFI_THREADS_H

#include <stdbool.h>

#include "matformer.h"

typedef struct mfi_pool mfi_pool;

#define MFI_MAX_THREAD 1024u

typedef struct mfi_pool_options {
    uint32_t n_thread;     /* the caller counts as thread 0 */
    uint32_t run_spin_us;  /* before parking inside a run, at a barrier or its end, and */
    uint32_t idle_spin_us; /* between runs; both 0 where there are fewer cores than threads */
    const int *cpus;       /* [n_cpu] or NULL: worker i + 1 goes to cpus[i % n_cpu], where the system allows it */
    size_t n_cpu;
    bool any_cpu;                 /* every worker may run on all of `cpus` instead */
    mf_parallel_for parallel_for; /* NULL: workers; else what stands above is of no use but for n_thread */
    void *parallel_for_user;
} mfi_pool_options;

/* The workers block all signals and have the floating-point mode of mfi_fp_enter(); a host's threads have it while
 * they run a part. MF_E_THREAD when one cannot be started; then none stays behind. */
mf_status mfi_pool_create(mfi_pool **out, const mf_allocator *allocator, const mfi_pool_options *options,
                          mf_error *error);
/* In a forked child only the memory is freed; nothing else may be called there. */
void mfi_pool_destroy(mfi_pool *pool);
uint32_t mfi_pool_size(const mfi_pool *pool);

/* Runs work(user, thread, n_thread) for every thread and returns when all have. One run at a time. Allocates
 * nothing. */
void mfi_pool_run(mfi_pool *pool, void (*work)(void *user, uint32_t thread, uint32_t n_thread), void *user);

/* The same for stage(user, i, thread, n_thread), i = 0, 1 ... n_stage - 1: no thread begins a stage before all have
 * ended the one before, and sees what they wrote. A stage that is to be the last returns false, in every thread. */
typedef bool (*mfi_stage)(void *user, uint32_t stage, uint32_t thread, uint32_t n_thread);
void mfi_pool_run_stages(mfi_pool *pool, uint32_t n_stage, mfi_stage stage, void *user);

/* The part of [0, n) that `thread` takes, in steps of `step`: static, contiguous, differing by one step. */
void mfi_split(size_t n, size_t step, uint32_t thread, uint32_t n_thread, size_t *begin, size_t *end);

#endif
