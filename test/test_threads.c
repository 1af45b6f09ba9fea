/* The thread pool and the page pool. Also run under ThreadSanitizer. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <pthread.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "arena.h"
#include "counting_allocator.h"
#include "defs.h"
#include "fp_control.h"
#include "host_threads.h"
#include "page_pool.h"
#include "platform.h"
#include "rounds.h"
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
    mfi_pool_options options = { .n_thread = n_thread, .run_spin_us = spin_us, .idle_spin_us = spin_us };
    mfi_pool *pool = NULL;
    cr_assert_eq(mfi_pool_create(&pool, &allocator, &options, NULL), MF_OK);
    return pool;
}

#define MAX_THREAD 8
#define N_ROUND 50

/* Neighbours exchange plain values from stage to stage: a thread that is let through early, or memory that is not
 * ordered, gives a wrong value (and a report from ThreadSanitizer). */
typedef struct exchange {
    unsigned value[MAX_THREAD], wrong[MAX_THREAD], stages[MAX_THREAD];
    unsigned last; /* stage to be the last */
} exchange;

static bool exchange_values(void *user, uint32_t stage, uint32_t thread, uint32_t n_thread)
{
    exchange *x = user;
    const uint32_t next = (thread + 1) % n_thread, round = stage / 2 + 1;
    if (stage % 2 == 0)
        x->value[thread] = round * (thread + 1);
    else if (x->value[next] != round * (next + 1))
        x->wrong[thread]++;
    x->stages[thread]++;
    return stage != x->last;
}

static void expect_exchanged(mfi_pool *pool, uint32_t n_thread)
{
    const uint32_t n_run = test_rounds(20);
    exchange x = { .last = UINT_MAX };
    cr_assert_eq(mfi_pool_size(pool), n_thread);
    for (unsigned run = 0; run < n_run; run++)
        mfi_pool_run_stages(pool, 2 * N_ROUND, exchange_values, &x);
    x.last = 6;
    mfi_pool_run_stages(pool, 2 * N_ROUND, exchange_values, &x);
    for (uint32_t t = 0; t < n_thread; t++)
        cr_assert(x.wrong[t] == 0 && x.stages[t] == n_run * 2 * N_ROUND + x.last + 1);
}

Test(threads, stages_keep_all_threads_together_and_end_where_they_say)
{
    for (uint32_t n_thread = 1; n_thread <= MAX_THREAD; n_thread++)
        for (uint32_t spin_us = 0; spin_us <= 50; spin_us += 50) {
            mfi_pool *pool = make_pool(n_thread, spin_us);
            expect_exchanged(pool, n_thread);
            mfi_pool_destroy(pool);
        }
}

/* ---- A host's threads ---- */

Test(threads, a_host_that_runs_parts_one_by_one_in_any_order_or_at_once_will_do)
{
    for (host_kind kind = 0; kind < HOST_KINDS; kind++)
        for (uint32_t n_thread = 1; n_thread <= MAX_THREAD; n_thread++) {
            mf_allocator allocator = mfi_allocator(NULL);
            host h = { .kind = kind, .random = n_thread };
            mfi_pool_options options = { .n_thread = n_thread,
                                         .parallel_for = host_parallel_for,
                                         .parallel_for_user = &h };
            mfi_pool *pool = NULL;
            cr_assert_eq(mfi_pool_create(&pool, &allocator, &options, NULL), MF_OK);
            expect_exchanged(pool, n_thread);
            cr_assert_eq(h.loops > 0, n_thread > 1);
            mfi_pool_destroy(pool);
        }
}

static void see_mode(void *user, uint32_t thread, uint32_t n_thread)
{
    (void)n_thread;
    ((unsigned long *)user)[thread] = fp_control();
}

Test(threads, a_hosts_thread_has_the_floating_point_mode_during_a_part_and_its_own_after)
{
    mf_allocator allocator = mfi_allocator(NULL);
    host h = { .kind = HOST_SERIAL };
    mfi_pool_options options = { .n_thread = 3, .parallel_for = host_parallel_for, .parallel_for_user = &h };
    mfi_pool *pool = NULL;
    unsigned long during[3];
    cr_assert_eq(mfi_pool_create(&pool, &allocator, &options, NULL), MF_OK);
    fp_set_control(fp_control() | FP_FLUSH);
    mfi_pool_run(pool, see_mode, during);
    cr_assert_eq(fp_control() & FP_FLUSH, FP_FLUSH);
    mfi_pool_destroy(pool);
    for (unsigned t = 0; t < 3; t++)
        cr_assert_eq(during[t] & FP_FLUSH, 0);
}

/* ---- Unequal cores ---- */

/* A folder like /sys/devices/system/cpu; of a speed of 0 there is no file. */
static void write_speeds(const char *root, const char *file, const unsigned *speed, int n)
{
    for (int cpu = 0; cpu < n; cpu++) {
        char path[256];
        snprintf(path, sizeof(path), "%s/cpu%d", root, cpu);
        mkdir(path, 0777);
        snprintf(path, sizeof(path), "%s/cpu%d/cpufreq", root, cpu);
        mkdir(path, 0777);
        snprintf(path, sizeof(path), "%s/cpu%d/%s", root, cpu, file);
        unlink(path);
        if (speed[cpu] == 0) continue;
        FILE *out = fopen(path, "w");
        cr_assert(out && fprintf(out, "%u\n", speed[cpu]) > 0);
        fclose(out);
    }
}

/* Of all ways to choose the k fastest, the one that ends equal shares soonest. */
static void expect_fast(const char *root, const unsigned *speed, const int *cpus, size_t n)
{
    int kept[8], sorted[8];
    memcpy(kept, cpus, n * sizeof(*cpus));
    const size_t n_kept = mfi_fast_cpus(kept, n, root);
    for (size_t i = 0; i < n; i++) {
        size_t at = i;
        for (; at > 0 && speed[sorted[at - 1]] < speed[cpus[i]]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = cpus[i];
    }
    unsigned best = 0;
    for (size_t k = 1; k <= n; k++)
        best = best > k * speed[sorted[k - 1]] ? best : (unsigned)k * speed[sorted[k - 1]];
    unsigned slowest = UINT_MAX, fastest_left = 0;
    for (size_t i = 0; i < n; i++) {
        bool is_kept = false;
        for (size_t k = 0; k < n_kept; k++)
            is_kept = is_kept || kept[k] == cpus[i];
        if (is_kept && speed[cpus[i]] < slowest) slowest = speed[cpus[i]];
        if (!is_kept && speed[cpus[i]] > fastest_left) fastest_left = speed[cpus[i]];
    }
    cr_assert_eq(n_kept * slowest, best);
    cr_assert_lt(fastest_left, slowest);
}

Test(threads, of_unequal_cores_those_are_taken_that_end_equal_shares_soonest)
{
    enum { N = 8 };
    char root[] = "/tmp/cpusXXXXXX";
    cr_assert(mkdtemp(root));
    static const char *const files[] = { "cpufreq/cpuinfo_max_freq", "cpu_capacity" };
    static const struct {
        unsigned speed[N];
        size_t n_fast;
    } machines[] = {
        { { 1024, 1024, 1024, 1024, 1024, 1024, 1024, 1024 }, 8 }, /* all alike */
        { { 381, 381, 381, 381, 1024, 1024, 1024, 1024 }, 4 },     /* big.LITTLE */
        { { 325, 325, 325, 325, 870, 870, 870, 1024 }, 4 },        /* and one still bigger */
        { { 980, 980, 980, 1024, 1024, 980, 980, 980 }, 8 },       /* hardly unequal */
        { { 100, 100, 1024, 100, 100, 100, 100, 100 }, 1 },
        { { 381, 381, 381, 381, 1024, 0, 1024, 1024 }, 8 }, /* not told of all */
    };
    int cpus[N] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    uint64_t random = 1;
    for (size_t f = 0; f < MFI_COUNT(files); f++) {
        for (size_t m = 0; m < MFI_COUNT(machines); m++) {
            int kept[N];
            memcpy(kept, cpus, sizeof(cpus));
            write_speeds(root, files[f], machines[m].speed, N);
            cr_assert_eq(mfi_fast_cpus(kept, N, root), machines[m].n_fast);
        }
        for (unsigned round = 0; round < 50; round++) {
            unsigned speed[N];
            for (unsigned cpu = 0; cpu < N; cpu++) {
                random = random * 6364136223846793005u + 1442695040888963407u;
                speed[cpu] = 1 + (unsigned)(random >> 33) % (round % 2 ? 4 : 1000);
            }
            write_speeds(root, files[f], speed, N);
            expect_fast(root, speed, cpus + round % 3, N - round % 3);
        }
        write_speeds(root, files[f], (unsigned[N]){ 0 }, N);
    }
    for (int cpu = 0; cpu < N; cpu++) {
        char path[256];
        snprintf(path, sizeof(path), "%s/cpu%d/cpufreq", root, cpu);
        rmdir(path);
        snprintf(path, sizeof(path), "%s/cpu%d", root, cpu);
        rmdir(path);
    }
    cr_assert_eq(rmdir(root), 0);
}

Test(threads, the_processors_of_this_process_are_listed)
{
    int cpus[MFI_MAX_CPU];
    const size_t n = mfi_usable_cpus(cpus);
    bool found = false;
    cr_assert_eq(n, mfi_usable_cores());
    for (size_t i = 0; i < n; i++)
        found = found || cpus[i] == sched_getcpu();
    cr_assert(found);
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

static void see_processors(void *user, uint32_t thread, uint32_t n_thread)
{
    (void)n_thread;
    sched_getaffinity(0, sizeof(cpu_set_t), (cpu_set_t *)user + thread);
}

Test(threads, workers_go_to_the_processors_that_are_listed)
{
    mf_allocator allocator = mfi_allocator(NULL);
    int here = sched_getcpu(), impossible = -2;
    mfi_pool_options options = { .n_thread = 3, .cpus = &here, .n_cpu = 1 };
    mfi_pool *pool = NULL;
    cr_assert_eq(mfi_pool_create(&pool, &allocator, &options, NULL), MF_OK);
    cpu_set_t allowed[3];
    mfi_pool_run(pool, see_processors, allowed);
    mfi_pool_destroy(pool);
    cr_assert(CPU_COUNT(&allowed[1]) == 1 && CPU_ISSET((unsigned)here, &allowed[1]));

    int all[MFI_MAX_CPU];
    options = (mfi_pool_options){ .n_thread = 3, .cpus = all, .n_cpu = mfi_usable_cpus(all), .any_cpu = true };
    cr_assert_eq(mfi_pool_create(&pool, &allocator, &options, NULL), MF_OK);
    mfi_pool_run(pool, see_processors, allowed);
    mfi_pool_destroy(pool);
    cr_assert(CPU_EQUAL(&allowed[0], &allowed[1]) && CPU_EQUAL(&allowed[0], &allowed[2]));
    options.cpus = &impossible;
    options.n_cpu = 1;
    cr_assert_eq(mfi_pool_create(&pool, &allocator, &options, NULL), MF_E_INVALID);
    cr_assert_null(pool);
}

Test(threads, a_worker_that_cannot_start_fails_cleanly)
{
    counting c = { 0 };
    mf_allocator allocator = counting_allocator(&c);
    mfi_pool_options options = { .n_thread = 5, .run_spin_us = 50, .idle_spin_us = 50 };
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
