/* threads.h - worker threads of an executor: one function run by all, with barriers inside it.
 * A waiter spins, then parks; an idle pool uses no processor time. */
#ifndef MFI_THREADS_H
#define MFI_THREADS_H

#include "matformer.h"

typedef struct mfi_pool mfi_pool;

#define MFI_MAX_THREAD 1024u

typedef struct mfi_pool_options {
    uint32_t n_thread;     /* the caller counts as thread 0 */
    uint32_t run_spin_us;  /* before parking inside a run, at a barrier or its end, and */
    uint32_t idle_spin_us; /* between runs; both 0 where there are fewer cores than threads */
    const int *cpus;       /* [n_cpu] or NULL: worker i + 1 goes to cpus[i % n_cpu], where the system allows it */
    size_t n_cpu;
} mfi_pool_options;

/* The workers block all signals and have the floating-point mode of mfi_fp_enter(). MF_E_THREAD when one
 * cannot be started; then none stays behind. */
mf_status mfi_pool_create(mfi_pool **out, const mf_allocator *allocator, const mfi_pool_options *options,
                          mf_error *error);
/* In a forked child only the memory is freed; nothing else may be called there. */
void mfi_pool_destroy(mfi_pool *pool);
uint32_t mfi_pool_size(const mfi_pool *pool);

/* Runs work(user, thread, n_thread) on every thread at once and returns when all have. One run at a
 * time. Allocates nothing. */
void mfi_pool_run(mfi_pool *pool, void (*work)(void *user, uint32_t thread, uint32_t n_thread), void *user);

/* Inside `work`: returns when every thread of the pool has come here. Writes before it are seen after it. */
void mfi_pool_barrier(mfi_pool *pool, uint32_t thread);

/* The part of [0, n) that `thread` takes, in steps of `step`: static, contiguous, differing by one step. */
void mfi_split(size_t n, size_t step, uint32_t thread, uint32_t n_thread, size_t *begin, size_t *end);

#endif
