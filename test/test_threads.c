/* The thread pool and the page pool. Also run under ThreadSanitizer. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <pthread.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "arena.h"
#include "counting_allocator.h"
#include "defs.h"
#include "page_pool.h"
#include "platform.h"
#include "threads.h"

/* ---- Splitting ---- */

Test(threads, a_split_covers_everything_once_in_whole_steps)
{
    for (size_t n = 0; n < 200; n += 7)
        for (size_t step = 1; step <= 64; step *= 4)
            for (uint32_t n_thread = 1; n_thread <= 9; n_thread++) {
                size_t expected = 0, least = SIZE_MAX, most = 0;
                for (uint32_t t = 0; t < n_thread; t++) {
                    size_t begin, end;
                    mfi_split(n, step, t, n_thread, &begin, &end);
                    cr_assert_eq(begin, expected);
                    cr_assert(end >= begin && (begin % step == 0 || begin == n));
                    size_t steps = (end - begin + step - 1) / step;
                    least = mfi_min(least, steps);
                    most = mfi_max(most, steps);
                    expected = end;
                }
                cr_assert_eq(expected, n);
                cr_assert(most - least <= 1);
            }
}

/* ---- Pool ---- */

/* The linker sends the library's calls here (--wrap). */
static atomic_int creations_until_failure; /* 0: none fails */
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    if (creations_until_failure > 0 && atomic_fetch_sub(&creations_until_failure, 1) == 1) return EAGAIN;
    return __real_pthread_create(thread, attributes, start, argument);
}

static mfi_pool *make_pool(uint32_t n_thread, uint32_t spin_us)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_pool_options options = { n_thread, spin_us, spin_us, NULL, 0 };
    mfi_pool *pool = NULL;
    cr_assert_eq(mfi_pool_create(&pool, &allocator, &options, NULL), MF_OK);
    return pool;
}

#define MAX_THREAD 8
#define N_ROUND 50

/* Neighbours exchange plain values across barriers: a barrier that lets one through early, or does not order
 * memory, gives a wrong sum (and a report from ThreadSanitizer). */
typedef struct exchange {
    mfi_pool *pool;
    unsigned value[MAX_THREAD], wrong[MAX_THREAD], runs[MAX_THREAD];
} exchange;

static void exchange_values(void *user, uint32_t thread, uint32_t n_thread)
{
    exchange *x = user;
    x->runs[thread]++;
    for (unsigned round = 1; round <= N_ROUND; round++) {
        x->value[thread] = round * (thread + 1);
        mfi_pool_barrier(x->pool, thread);
        uint32_t next = (thread + 1) % n_thread;
        if (x->value[next] != round * (next + 1)) x->wrong[thread]++;
        mfi_pool_barrier(x->pool, thread);
    }
}

Test(threads, runs_and_barriers_keep_all_threads_together)
{
    for (uint32_t n_thread = 1; n_thread <= MAX_THREAD; n_thread++)
        for (uint32_t spin_us = 0; spin_us <= 50; spin_us += 50) {
            exchange x = { .pool = make_pool(n_thread, spin_us) };
            cr_assert_eq(mfi_pool_size(x.pool), n_thread);
            for (unsigned run = 0; run < 20; run++)
                mfi_pool_run(x.pool, exchange_values, &x);
            mfi_pool_destroy(x.pool);
            for (uint32_t t = 0; t < n_thread; t++)
                cr_assert(x.wrong[t] == 0 && x.runs[t] == 20);
        }
}

static void add_one(void *user, uint32_t thread, uint32_t n_thread)
{
    (void)n_thread;
    ((unsigned *)user)[thread * 64]++;
}

Test(threads, wakeups_are_not_lost_when_workers_fall_asleep_between_runs)
{
    unsigned done[4 * 64] = { 0 };
    mfi_pool *pool = make_pool(4, 1);
    for (long pause_ns = 0; pause_ns < 200000; pause_ns += 400) {
        struct timespec pause = { 0, pause_ns % 20000 };
        nanosleep(&pause, NULL);
        mfi_pool_run(pool, add_one, done);
    }
    mfi_pool_destroy(pool);
    for (unsigned t = 0; t < 4; t++)
        cr_assert_eq(done[t * 64], 500);
}

Test(threads, an_idle_pool_uses_no_processor_time)
{
    mfi_pool *pool = make_pool(mfi_usable_cores(), 50);
    unsigned done[1024 * 64] = { 0 };
    mfi_pool_run(pool, add_one, done);
    struct timespec pause = { 0, 20 * 1000 * 1000 }, before, after;
    nanosleep(&pause, NULL); /* to fall asleep */
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    pause.tv_nsec = 200 * 1000 * 1000;
    nanosleep(&pause, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    mfi_pool_destroy(pool);
    long used_ns = (after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec;
    cr_assert_lt(used_ns, 20 * 1000 * 1000);
}

static void see_signals(void *user, uint32_t thread, uint32_t n_thread)
{
    (void)n_thread;
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    if (thread > 0) ((int *)user)[thread] = sigismember(&blocked, SIGTERM) && sigismember(&blocked, SIGUSR1);
}

Test(threads, workers_block_signals_and_the_caller_keeps_its_mask)
{
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    mfi_pool *pool = make_pool(3, 0);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    int blocked[3] = { 0 };
    mfi_pool_run(pool, see_signals, blocked);
    mfi_pool_destroy(pool);
    cr_assert(blocked[1] && blocked[2]);
    for (int signal = 1; signal < 32; signal++)
        cr_assert_eq(sigismember(&before, signal), sigismember(&after, signal));
}

Test(threads, workers_go_to_the_processors_that_are_listed)
{
    mf_allocator allocator = mfi_allocator(NULL);
    int here = sched_getcpu(), impossible = -2;
    mfi_pool_options options = { 3, 0, 0, &here, 1 };
    mfi_pool *pool = NULL;
    cr_assert_eq(mfi_pool_create(&pool, &allocator, &options, NULL), MF_OK);
    unsigned done[3 * 64] = { 0 };
    mfi_pool_run(pool, add_one, done);
    mfi_pool_destroy(pool);
    options.cpus = &impossible;
    cr_assert_eq(mfi_pool_create(&pool, &allocator, &options, NULL), MF_E_INVALID);
    cr_assert_null(pool);
}

Test(threads, a_worker_that_cannot_start_fails_cleanly)
{
    counting c = { 0 };
    mf_allocator allocator = counting_allocator(&c);
    mfi_pool_options options = { 5, 50, 50, NULL, 0 };
    for (int failing = 1; failing <= 4; failing++) {
        mfi_pool *pool = NULL;
        mf_error error = MF_ERROR_INIT;
        creations_until_failure = failing;
        cr_assert_eq(mfi_pool_create(&pool, &allocator, &options, &error), MF_E_THREAD);
        cr_assert(!pool && error.status == MF_E_THREAD);
        cr_assert_eq(c.live_bytes, 0);
    }
}

Test(threads, a_forked_child_can_destroy_the_pool)
{
    mfi_pool *pool = make_pool(3, 0);
    pid_t child = fork();
    if (child == 0) {
        alarm(5); /* instead of hanging */
        mfi_pool_destroy(pool);
        _exit(0);
    }
    int status = -1;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
    mfi_pool_destroy(pool);
}

/* ---- Pages ---- */

#define PAGE 200 /* bytes; not a multiple of 64 */

Test(pages, are_distinct_aligned_and_as_many_as_reserved)
{
    counting c = { 0 };
    mf_allocator allocator = counting_allocator(&c);
    mfi_page_pool *pool = NULL;
    cr_assert_eq(mfi_page_pool_create(&pool, &allocator, PAGE, 0), MF_OK);
    cr_assert_eq(mfi_page_pool_take(pool), MFI_NO_PAGE);

    enum { N = 300 };
    uint32_t pages[N];
    void *address[N];
    for (uint32_t i = 0; i < N; i++) { /* the table grows under pages that are held */
        if (i % 50 == 0) cr_assert_eq(mfi_page_pool_reserve(pool, 50), MF_OK);
        pages[i] = mfi_page_pool_take(pool);
        cr_assert_neq(pages[i], MFI_NO_PAGE);
        address[i] = mfi_page_pool_data(pool, pages[i]);
        cr_assert_eq((uintptr_t)address[i] % MFI_LINE, 0);
        memset(address[i], (int)(i % 251), PAGE);
    }
    cr_assert_eq(mfi_page_pool_take(pool), MFI_NO_PAGE);
    for (uint32_t i = 0; i < N; i++) {
        cr_assert_eq(mfi_page_pool_data(pool, pages[i]), address[i]);
        for (unsigned b = 0; b < PAGE; b++)
            cr_assert_eq(((unsigned char *)address[i])[b], i % 251);
        mfi_page_pool_release(pool, pages[i]);
    }
    cr_assert_eq(mfi_page_pool_free_count(pool), N);
    mfi_page_pool_unreserve(pool, N);
    cr_assert_eq(mfi_page_pool_take(pool), MFI_NO_PAGE, "the memory went with the last reservation");
    cr_assert_eq(mfi_page_pool_reserve(pool, 1), MF_OK);
    cr_assert_eq(mfi_page_pool_free_count(pool), 1);
    mfi_page_pool_destroy(pool);
    cr_assert_eq(c.live_bytes, 0);
}

Test(pages, a_shared_page_returns_with_its_last_reference)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_page_pool *pool = NULL;
    cr_assert_eq(mfi_page_pool_create(&pool, &allocator, PAGE, 1), MF_OK);
    uint32_t page = mfi_page_pool_take(pool);
    cr_assert_not(mfi_page_pool_shared(pool, page));
    mfi_page_pool_ref(pool, page);
    cr_assert(mfi_page_pool_shared(pool, page));
    mfi_page_pool_release(pool, page);
    cr_assert_not(mfi_page_pool_shared(pool, page));
    cr_assert_eq(mfi_page_pool_take(pool), MFI_NO_PAGE);
    mfi_page_pool_release(pool, page);
    cr_assert_eq(mfi_page_pool_take(pool), page);
    mfi_page_pool_release(pool, page);
    mfi_page_pool_destroy(pool);
}

Test(pages, a_budget_is_allocated_once_and_is_a_limit)
{
    counting c = { 0 };
    mf_allocator allocator = counting_allocator(&c);
    mfi_page_pool *pool = NULL;
    cr_assert_eq(mfi_page_pool_create(&pool, &allocator, PAGE, 10), MF_OK);
    size_t allocations = c.n_alloc;
    cr_assert_eq(mfi_page_pool_reserve(pool, 1000), MF_OK);
    for (unsigned i = 0; i < 10; i++)
        cr_assert_neq(mfi_page_pool_take(pool), MFI_NO_PAGE);
    cr_assert_eq(mfi_page_pool_take(pool), MFI_NO_PAGE);
    cr_assert_eq(c.n_alloc, allocations);
    mfi_page_pool_destroy(pool);
    cr_assert_eq(c.live_bytes, 0);
}

Test(pages, a_reservation_that_finds_no_memory_changes_nothing)
{
    counting c = { 0 };
    mf_allocator allocator = counting_allocator(&c);
    mfi_page_pool *pool = NULL;
    cr_assert_eq(mfi_page_pool_create(&pool, &allocator, PAGE, 0), MF_OK);
    for (size_t fail = 1; fail <= 2; fail++) {
        c.n_alloc = 0, c.fail_at = fail;
        cr_assert_eq(mfi_page_pool_reserve(pool, 10), MF_E_NOMEM);
    }
    c.fail_at = 0;
    cr_assert_eq(mfi_page_pool_take(pool), MFI_NO_PAGE);
    cr_assert_eq(mfi_page_pool_reserve(pool, 10), MF_OK);
    cr_assert_eq(mfi_page_pool_reserve(pool, UINT32_MAX), MF_E_NOMEM);
    cr_assert_eq(mfi_page_pool_free_count(pool), 10);
    mfi_page_pool_destroy(pool);
    cr_assert_eq(c.live_bytes, 0);

    for (size_t fail = 1; fail <= 3; fail++) {
        c = (counting){ .fail_at = fail };
        cr_assert_eq(mfi_page_pool_create(&pool, &allocator, PAGE, 4), MF_E_NOMEM);
        cr_assert(!pool && c.live_bytes == 0);
    }
    cr_assert_eq(mfi_page_pool_create(&pool, &allocator, SIZE_MAX / 2, 4), MF_E_NOMEM);
}

/* Eight threads on few pages, so that every pop and push meets another. Each owner writes its number over the
 * page and finds it there later: a page given to two at once shows, and is a race to ThreadSanitizer. */
typedef struct stress {
    mfi_page_pool *pool;
    atomic_uint clashes, misses;
} stress;

static void *take_write_release(void *argument)
{
    stress *s = argument;
    static atomic_uint numbers;
    unsigned number = atomic_fetch_add(&numbers, 1);
    for (unsigned round = 0; round < 4000; round++) {
        uint32_t page = mfi_page_pool_take(s->pool);
        if (page == MFI_NO_PAGE) {
            atomic_fetch_add(&s->misses, 1);
            sched_yield();
            continue;
        }
        unsigned *data = mfi_page_pool_data(s->pool, page);
        data[0] = data[PAGE / sizeof(unsigned) - 1] = number << 16 | (round & 0xffff);
        mfi_page_pool_ref(s->pool, page);
        if (round % 8 == 0) sched_yield();
        mfi_page_pool_release(s->pool, page);
        if (data[0] != data[PAGE / sizeof(unsigned) - 1] || data[0] >> 16 != number) atomic_fetch_add(&s->clashes, 1);
        mfi_page_pool_release(s->pool, page);
    }
    return NULL;
}

Test(pages, no_two_threads_get_the_same_page)
{
    mf_allocator allocator = mfi_allocator(NULL);
    stress s = { NULL, 0, 0 };
    cr_assert_eq(mfi_page_pool_create(&s.pool, &allocator, PAGE, 6), MF_OK);
    pthread_t threads[8];
    for (unsigned i = 0; i < 8; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, take_write_release, &s), 0);
    for (unsigned i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(s.clashes, 0);
    cr_assert_lt(s.misses, 8 * 4000, "somebody got pages");
    cr_assert_eq(mfi_page_pool_free_count(s.pool), 6);
    mfi_page_pool_destroy(s.pool);
}

static void *reserve_and_use(void *argument)
{
    stress *s = argument;
    for (unsigned round = 0; round < 300; round++) {
        uint32_t pages[5];
        if (mfi_page_pool_reserve(s->pool, 5) != MF_OK) continue;
        for (unsigned i = 0; i < 5; i++) {
            pages[i] = mfi_page_pool_take(s->pool);
            if (pages[i] == MFI_NO_PAGE)
                atomic_fetch_add(&s->misses, 1);
            else
                memset(mfi_page_pool_data(s->pool, pages[i]), (int)i, PAGE);
        }
        for (unsigned i = 0; i < 5; i++)
            if (pages[i] != MFI_NO_PAGE) mfi_page_pool_release(s->pool, pages[i]);
        mfi_page_pool_unreserve(s->pool, 5);
    }
    return NULL;
}

Test(pages, who_reserves_always_finds_pages_while_the_pool_grows_and_shrinks)
{
    counting c = { 0 };
    mf_allocator allocator = counting_allocator(&c);
    stress s = { NULL, 0, 0 };
    cr_assert_eq(mfi_page_pool_create(&s.pool, &allocator, PAGE, 0), MF_OK);
    pthread_t threads[8];
    for (unsigned i = 0; i < 8; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, reserve_and_use, &s), 0);
    for (unsigned i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(s.misses, 0);
    mfi_page_pool_destroy(s.pool);
    cr_assert_eq(c.live_bytes, 0);
}
