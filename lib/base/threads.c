/* threads.c - the pool. Every wait of our own workers is for a word to change: spin, then park.
 *
 * Parking loses no wakeup: a waiter counts itself in `n_parked` before it looks at the word for the last
 * time, and a writer changes the word before it looks at `n_parked`. In the single order of these four
 * accesses one of the two sees the other. A writer that sees a waiter takes the mutex, which the waiter holds
 * from the counting until it sleeps, so that the broadcast cannot come between. */
#if defined(__linux__)
#define _GNU_SOURCE /* sched_setaffinity */
#endif
#include "threads.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <sched.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "arena.h"
#include "defs.h"
#include "platform.h"
#include "status.h"

enum { ANYWHERE = -1, TOGETHER = -2 };

typedef struct worker {
    alignas(MFI_LINE) mfi_pool *pool;
    uint32_t index;
    uint32_t barrier; /* barriers passed; this thread's alone */
    int cpu;          /* ANYWHERE, TOGETHER or a processor */
    pthread_t handle; /* not for index 0, the caller */
} worker;

struct mfi_pool {
    mf_allocator allocator;
    uint32_t n_thread, n_started; /* n_started counts the caller */
    uint64_t run_spin_ns, idle_spin_ns;
    mf_parallel_for parallel_for; /* the host's; NULL: the workers below */
    void *parallel_for_user;
#if defined(__linux__)
    cpu_set_t together; /* where any_cpu lets the workers run */
#endif
    int64_t process;
    pthread_mutex_t mutex;
    pthread_cond_t changed;

    /* Of the run in progress; published by `run`. A NULL work ends the workers. */
    void (*work)(void *user, uint32_t thread, uint32_t n_thread);
    void *user;

    alignas(MFI_LINE) atomic_uint run; /* runs begun */
    atomic_uint n_parked;
    alignas(MFI_LINE) atomic_uint finished;   /* runs that all workers have finished */
    alignas(MFI_LINE) atomic_uint unfinished; /* workers still in the run */
    alignas(MFI_LINE) atomic_uint barrier;    /* barriers that all threads have reached */
    alignas(MFI_LINE) atomic_uint arrived;    /* threads at the barrier */

    worker workers[]; /* [n_thread] */
};

static void pause_spinning(void)
{
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("isb");
#endif
}

/* From then on a spinning thread offers its processor at every look at the clock: the thread that it waits for may be
 * waiting for that processor, and would get it only when the spinning ends. Where nobody wants it this costs nothing. */
enum { YIELD_AFTER_NS = 50000 };

/* True when the word changed within the time. The clock is read every 32 pauses, about a microsecond, and
 * counts time during which this thread did not run: on a crowded machine the spinning ends at once. */
static bool spin(atomic_uint *word, unsigned old, uint64_t spin_ns)
{
    const uint64_t begin = spin_ns ? mfi_now_ns() : 0;
    uint64_t spun = 0;
    do {
        for (int i = 0; i < 32; i++) {
            if (atomic_load_explicit(word, memory_order_acquire) != old) return true;
            if (spin_ns == 0) return false;
            pause_spinning();
        }
        if (spun > YIELD_AFTER_NS) (void)sched_yield();
        spun = mfi_now_ns() - begin;
    } while (spun < spin_ns);
    return false;
}

static void wait_while(mfi_pool *pool, atomic_uint *word, unsigned old, uint64_t spin_ns)
{
    if (spin(word, old, spin_ns)) return;
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->n_parked, 1);
    while (atomic_load(word) == old)
        pthread_cond_wait(&pool->changed, &pool->mutex);
    atomic_fetch_sub(&pool->n_parked, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void change(mfi_pool *pool, atomic_uint *word, unsigned value)
{
    /* A store would do, and is the same instruction on x86; but QEMU 7 on x86 lets the load pass an ARM's store. */
    (void)atomic_exchange(word, value);
    if (atomic_load(&pool->n_parked) == 0) return;
    pthread_mutex_lock(&pool->mutex);
    pthread_cond_broadcast(&pool->changed);
    pthread_mutex_unlock(&pool->mutex);
}

static void place(const worker *self)
{
#if defined(__linux__)
    if (self->cpu == ANYWHERE) return;
    cpu_set_t set = self->pool->together;
    if (self->cpu != TOGETHER) {
        CPU_ZERO(&set);
        CPU_SET((unsigned)self->cpu, &set);
    }
    (void)sched_setaffinity(0, sizeof(set), &set); /* a wish: the processor may be offline or not ours */
#else
    (void)self;
#endif
}

static void *worker_main(void *argument)
{
    worker *self = argument;
    mfi_pool *pool = self->pool;
    place(self);
    (void)mfi_fp_enter(); /* for good: the thread is ours, and would have its creator's mode */
    for (unsigned run = 0;; run++) {
        wait_while(pool, &pool->run, run, pool->idle_spin_ns);
        if (!pool->work) return NULL;
        pool->work(pool->user, self->index, pool->n_thread);
        if (atomic_fetch_sub(&pool->unfinished, 1) == 1) change(pool, &pool->finished, run + 1);
    }
}

static void begin_run(mfi_pool *pool, void (*work)(void *, uint32_t, uint32_t), void *user)
{
    pool->work = work;
    pool->user = user;
    atomic_store_explicit(&pool->unfinished, pool->n_thread - 1, memory_order_relaxed);
    change(pool, &pool->run, atomic_load_explicit(&pool->run, memory_order_relaxed) + 1);
}

/* Starts worker `index` with all signals blocked, so that the host's handlers run on the host's threads. */
static int start_worker(mfi_pool *pool, uint32_t index)
{
#if defined(_WIN32) /* which has none */
    return pthread_create(&pool->workers[index].handle, NULL, worker_main, &pool->workers[index]);
#else
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = pthread_create(&pool->workers[index].handle, NULL, worker_main, &pool->workers[index]);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
#endif
}

static size_t pool_bytes(uint32_t n_thread)
{
    return sizeof(mfi_pool) + n_thread * sizeof(worker);
}

static mf_status check_options(const mfi_pool_options *options, mf_error *error)
{
    if (options->n_thread == 0 || options->n_thread > MFI_MAX_THREAD)
        return mfi_fail(error, MF_E_INVALID, "%u threads: 1 to %u are possible", options->n_thread, MFI_MAX_THREAD);
#if defined(__linux__)
    for (size_t i = 0; options->cpus && i < options->n_cpu; i++)
        if (options->cpus[i] < 0 || options->cpus[i] >= CPU_SETSIZE)
            return mfi_fail(error, MF_E_INVALID, "there is no processor %d", options->cpus[i]);
#endif
    return MF_OK;
}

/* Where worker `index` is to run. */
static int place_of(uint32_t index, const mfi_pool_options *options)
{
    if (options->cpus == NULL || options->n_cpu == 0) return ANYWHERE;
    return options->any_cpu ? TOGETHER : options->cpus[(index - 1) % options->n_cpu];
}

static mf_status start_workers(mfi_pool *pool, const mfi_pool_options *options, mf_error *error)
{
#if defined(__linux__)
    CPU_ZERO(&pool->together);
    for (size_t i = 0; options->cpus && i < options->n_cpu; i++)
        CPU_SET((unsigned)options->cpus[i], &pool->together);
#endif
    for (; pool->n_started < pool->n_thread; pool->n_started++) {
        uint32_t i = pool->n_started;
        pool->workers[i].pool = pool;
        pool->workers[i].index = i;
        pool->workers[i].cpu = place_of(i, options);
        int code = start_worker(pool, i);
        if (code != 0)
            return mfi_fail(error, MF_E_THREAD, "worker thread %u of %u could not be started: %s", i,
                            pool->n_thread - 1, strerror(code));
    }
    return MF_OK;
}

mf_status mfi_pool_create(mfi_pool **out, const mf_allocator *allocator, const mfi_pool_options *options,
                          mf_error *error)
{
    *out = NULL;
    mf_status status = check_options(options, error);
    if (status != MF_OK) return status;
    uint32_t n_thread = options->n_thread;
    mfi_pool *pool = mfi_alloc(allocator, pool_bytes(n_thread));
    if (!pool) return mfi_fail(error, MF_E_NOMEM, "no memory for %u threads", n_thread);
    pool->allocator = *allocator;
    pool->n_thread = n_thread;
    pool->n_started = 1;
    pool->process = mfi_process_id();
    pool->parallel_for = options->parallel_for;
    pool->parallel_for_user = options->parallel_for_user;
    /* With fewer cores than threads, whoever spins keeps out the thread that it waits for. */
    if (n_thread <= mfi_usable_cores()) {
        pool->run_spin_ns = (uint64_t)options->run_spin_us * 1000;
        pool->idle_spin_ns = (uint64_t)options->idle_spin_us * 1000;
    }
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->changed, NULL);
    if (!pool->parallel_for) status = start_workers(pool, options, error);
    if (status != MF_OK) {
        mfi_pool_destroy(pool);
        return status;
    }
    *out = pool;
    return MF_OK;
}

void mfi_pool_destroy(mfi_pool *pool)
{
    if (!pool) return;
    /* In a forked child there are no workers, and nobody knows who held the mutex. */
    if (pool->process == mfi_process_id()) {
        if (pool->n_started > 1) begin_run(pool, NULL, NULL);
        for (uint32_t i = 1; i < pool->n_started; i++)
            pthread_join(pool->workers[i].handle, NULL);
        pthread_cond_destroy(&pool->changed);
        pthread_mutex_destroy(&pool->mutex);
    }
    mf_allocator allocator = pool->allocator;
    mfi_free(&allocator, pool, pool_bytes(pool->n_thread));
}

uint32_t mfi_pool_size(const mfi_pool *pool)
{
    return pool->n_thread;
}

/* ---- Runs ---- */

typedef struct host_part {
    mfi_pool *pool;
    void (*work)(void *user, uint32_t thread, uint32_t n_thread);
    void *user;
} host_part;

/* On whatever thread the host likes, whose floating-point mode may be any. */
static void run_host_part(void *user, uint32_t index)
{
    const host_part *p = user;
    const mfi_fp_mode mode = mfi_fp_enter();
    p->work(p->user, index, p->pool->n_thread);
    mfi_fp_leave(mode);
}

void mfi_pool_run(mfi_pool *pool, void (*work)(void *user, uint32_t thread, uint32_t n_thread), void *user)
{
    if (pool->n_thread == 1) {
        work(user, 0, 1);
    } else if (pool->parallel_for) {
        host_part part = { pool, work, user };
        pool->parallel_for(pool->parallel_for_user, pool->n_thread, run_host_part, &part);
    } else {
        unsigned finished = atomic_load_explicit(&pool->finished, memory_order_relaxed);
        begin_run(pool, work, user);
        work(user, 0, pool->n_thread);
        wait_while(pool, &pool->finished, finished, pool->run_spin_ns);
    }
}

/* Returns when every thread of the pool has come here. Writes before it are seen after it. */
static void meet(mfi_pool *pool, uint32_t thread)
{
    if (pool->n_thread == 1) return;
    unsigned passed = pool->workers[thread].barrier++;
    if (atomic_fetch_add(&pool->arrived, 1) == pool->n_thread - 1) {
        /* Nobody arrives at the next barrier before this one is passed. */
        atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
        change(pool, &pool->barrier, passed + 1);
    } else {
        wait_while(pool, &pool->barrier, passed, pool->run_spin_ns);
    }
}

typedef struct staged {
    mfi_pool *pool;
    mfi_stage stage;
    void *user;
    uint32_t n_stage, now; /* now: of a host's loop */
    atomic_bool ended;     /* likewise */
} staged;

static void walk_stages(void *user, uint32_t thread, uint32_t n_thread)
{
    const staged *s = user;
    for (uint32_t i = 0; i < s->n_stage; i++) {
        if (i > 0) meet(s->pool, thread);
        if (!s->stage(s->user, i, thread, n_thread)) return;
    }
}

static void run_one_stage(void *user, uint32_t thread, uint32_t n_thread)
{
    staged *s = user;
    if (!s->stage(s->user, s->now, thread, n_thread)) atomic_store_explicit(&s->ended, true, memory_order_relaxed);
}

void mfi_pool_run_stages(mfi_pool *pool, uint32_t n_stage, mfi_stage stage, void *user)
{
    staged s = { .pool = pool, .stage = stage, .user = user, .n_stage = n_stage };
    atomic_init(&s.ended, false);
    if (!pool->parallel_for) {
        mfi_pool_run(pool, walk_stages, &s);
        return;
    }
    for (; s.now < n_stage && !atomic_load_explicit(&s.ended, memory_order_relaxed); s.now++)
        mfi_pool_run(pool, run_one_stage, &s);
}

/* ---- Shares ---- */

void mfi_split(size_t n, size_t step, uint32_t thread, uint32_t n_thread, size_t *begin, size_t *end)
{
    size_t units = n / step + (n % step != 0);
    size_t each = units / n_thread, more = units % n_thread; /* the first `more` threads take one more */
    size_t first = thread * each + mfi_min(thread, more);
    size_t last = first + each + (thread < more ? 1 : 0);
    *begin = mfi_min(first * step, n);
    *end = mfi_min(last * step, n);
}
