/* bench_roof.c - read bandwidth and multiply-add peaks of this machine. */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bench.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define BENCH_X86 1
#include <immintrin.h>
#endif

enum { MAX_THREAD = 256, FMA_ROUNDS = 1 << 21 };

/* ---- The loops ---- */

/* The results are kept, so that no compiler drops the loops. */
typedef struct loops {
    const char *cpu;
    /* bytes: a multiple of 2048. ahead: prefetched so far ahead; 0: not at all. */
    uint64_t (*read)(const unsigned char *at, size_t bytes, int n_stream, size_t ahead);
    float (*fma)(int rounds);
    int (*dot)(int rounds);     /* exact dot products of bytes */
    float (*pairs)(int rounds); /* sums of products of bf16 pairs; NULL where there is no instruction for it */
    double fma_operations, dot_operations, pairs_operations; /* of one round; a multiply-add counts as two */
} loops;

/* Eight independent sums of plain C. */
static float fma_plain(int rounds)
{
    float a[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    for (int r = 0; r < rounds / 8; r++)
        for (int i = 0; i < 8; i++)
            a[i] = a[i] * 0.999F + 0.001F;
    return a[0] + a[1] + a[2] + a[3] + a[4] + a[5] + a[6] + a[7];
}

static int dot_plain(int rounds)
{
    int a[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    for (int r = 0; r < rounds / 8; r++)
        for (int i = 0; i < 8; i++)
            a[i] = (a[i] & 0xffff) + (int8_t)(a[i] >> 8) * (int8_t)(r & 127);
    return a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
}

static uint64_t read_plain(const unsigned char *at, size_t bytes, int n_stream, size_t ahead)
{
    (void)ahead;
    uint64_t sum = 0, word;
    size_t part = bytes / (size_t)n_stream;
    for (size_t i = 0; i < part; i += sizeof(word))
        for (int s = 0; s < n_stream; s++) {
            memcpy(&word, at + (size_t)s * part + i, sizeof(word));
            sum ^= word;
        }
    return sum;
}

#if BENCH_X86

/* Twelve chains a = step(a, x, y) hide a latency of six cycles on two units; `last` makes a number of their sum. */
enum { N_CHAIN = 12 };
#define CHAINS(X, ...) \
    X(0, __VA_ARGS__)  \
    X(1, __VA_ARGS__)  \
    X(2, __VA_ARGS__)  \
    X(3, __VA_ARGS__)  \
    X(4, __VA_ARGS__)  \
    X(5, __VA_ARGS__)  \
    X(6, __VA_ARGS__)  \
    X(7, __VA_ARGS__)  \
    X(8, __VA_ARGS__)  \
    X(9, __VA_ARGS__)  \
    X(10, __VA_ARGS__) \
    X(11, __VA_ARGS__)
#define BEGIN(i, vector, set) vector a##i = set(i);
#define STEP(i, step) a##i = step(a##i, x, y);
#define ADD(i, add) sum = add(sum, a##i);
#define LOOP_OF_CHAINS(name, cpu, number, vector, set, x_value, y_value, step, add, last) \
    __attribute__((target(cpu))) static number name(int rounds)                           \
    {                                                                                     \
        const vector x = set(x_value), y = set(y_value);                                  \
        CHAINS(BEGIN, vector, set)                                                        \
        for (int r = 0; r < rounds; r++) {                                                \
            CHAINS(STEP, step)                                                            \
        }                                                                                 \
        vector sum = set(0);                                                              \
        CHAINS(ADD, add)                                                                  \
        return last(sum);                                                                 \
    }

#define FIRST_OF(sum) _mm_cvtss_f32(_mm256_castps256_ps128(sum))
#define TWO_OF(sum) (_mm256_extract_epi32(sum, 0) ^ _mm256_extract_epi32(sum, 5))
/* Without vpdpbusd a dot product of four bytes takes two of pairs, their sum and another. The exclusive or keeps the
 * two of pairs in the loop. */
#define DOT_OF_PAIRS(a, x, y) \
    _mm256_add_epi32(a, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_xor_si256(x, a), y), _mm256_set1_epi16(1)))

#define STEP_OF_PAIRS(a, x, y) _mm512_dpbf16_ps(a, (__m512bh)x, (__m512bh)y)

LOOP_OF_CHAINS(fma_avx512, "avx512f", float, __m512, _mm512_set1_ps, 0.999F, 0.001F, _mm512_fmadd_ps, _mm512_add_ps,
               _mm512_reduce_add_ps)
LOOP_OF_CHAINS(fma_avx2, "avx2,fma", float, __m256, _mm256_set1_ps, 0.999F, 0.001F, _mm256_fmadd_ps, _mm256_add_ps,
               FIRST_OF)
LOOP_OF_CHAINS(dot_avx512vnni, "avx512f,avx512vnni", int, __m512i, _mm512_set1_epi32, 0x01020304, 0x7f010203,
               _mm512_dpbusd_epi32, _mm512_xor_si512, _mm512_reduce_or_epi32)
LOOP_OF_CHAINS(pairs_avx512bf16, "avx512f,avx512bf16", float, __m512, _mm512_set1_ps, 0.999F, 0.001F, STEP_OF_PAIRS,
               _mm512_add_ps, _mm512_reduce_add_ps)
LOOP_OF_CHAINS(dot_avx2, "avx2", int, __m256i, _mm256_set1_epi32, 0x01020304, 0x7f010203, DOT_OF_PAIRS,
               _mm256_xor_si256, TWO_OF)

/* 256 bytes of each stream at a time. */
__attribute__((target("avx512f"))) static uint64_t read_avx512(const unsigned char *at, size_t bytes, int n_stream,
                                                               size_t ahead)
{
    size_t part = bytes / (size_t)n_stream;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i < part; i += 256)
        for (int s = 0; s < n_stream; s++) {
            const unsigned char *p = at + (size_t)s * part + i;
            for (size_t line = 0; line < 256 && ahead > 0; line += 64)
                _mm_prefetch((const char *)p + ahead + line, _MM_HINT_T0);
            a = _mm512_xor_si512(a, _mm512_loadu_si512(p));
            b = _mm512_xor_si512(b, _mm512_loadu_si512(p + 64));
            c = _mm512_xor_si512(c, _mm512_loadu_si512(p + 128));
            d = _mm512_xor_si512(d, _mm512_loadu_si512(p + 192));
        }
    a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
    return (uint64_t)_mm512_reduce_or_epi64(a);
}

__attribute__((target("avx2"))) static uint64_t read_avx2(const unsigned char *at, size_t bytes, int n_stream,
                                                          size_t ahead)
{
    size_t part = bytes / (size_t)n_stream;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t i = 0; i < part; i += 128)
        for (int s = 0; s < n_stream; s++) {
            const unsigned char *p = at + (size_t)s * part + i;
            for (size_t line = 0; line < 128 && ahead > 0; line += 64)
                _mm_prefetch((const char *)p + ahead + line, _MM_HINT_T0);
            a = _mm256_xor_si256(a, _mm256_loadu_si256((const __m256i *)(const void *)p));
            b = _mm256_xor_si256(b, _mm256_loadu_si256((const __m256i *)(const void *)(p + 32)));
            c = _mm256_xor_si256(c, _mm256_loadu_si256((const __m256i *)(const void *)(p + 64)));
            d = _mm256_xor_si256(d, _mm256_loadu_si256((const __m256i *)(const void *)(p + 96)));
        }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0) | (uint64_t)_mm256_extract_epi64(a, 3);
}

#endif

static loops best_loops(void)
{
#if BENCH_X86
    if (__builtin_cpu_supports("avx512vnni")) {
        loops best = { "avx512vnni", read_avx512,        fma_avx512,         dot_avx512vnni,
                       NULL,         2.0 * 16 * N_CHAIN, 2.0 * 64 * N_CHAIN, 0 };
        if (__builtin_cpu_supports("avx512bf16")) {
            best.cpu = "avx512bf16";
            best.pairs = pairs_avx512bf16;
            best.pairs_operations = 2.0 * 32 * N_CHAIN;
        }
        return best;
    }
    if (__builtin_cpu_supports("avx512f"))
        return (loops){ "avx512", read_avx512, fma_avx512, dot_avx2, NULL, 2.0 * 16 * N_CHAIN, 2.0 * 32 * N_CHAIN, 0 };
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (loops){ "avx2", read_avx2, fma_avx2, dot_avx2, NULL, 2.0 * 8 * N_CHAIN, 2.0 * 32 * N_CHAIN, 0 };
#endif
    return (loops){ "plain C", read_plain, fma_plain, dot_plain, NULL, 2.0, 2.0, 0 };
}

const char *bench_roof_cpu(void)
{
    return best_loops().cpu;
}

/* ---- The threads ---- */

typedef enum roof_job { JOB_READ, JOB_FMA, JOB_DOT, JOB_PAIRS, JOB_END } roof_job;

struct bench_roof {
    loops loops;
    unsigned char *buffer;
    size_t bytes;
    uint32_t n_thread;
    pthread_t threads[MAX_THREAD];
    /* A job is announced by a new round, to threads that sleep: what is measured between jobs has the processor
     * to itself. All being awake, `started` takes the round's number, and time counts from there. */
    pthread_mutex_t mutex;
    pthread_cond_t announced;
    unsigned round;
    atomic_uint awake, started, done, ticket;
    roof_job job;
    size_t job_bytes;
    bench_read how;
    atomic_ullong kept;
};

static void work(bench_roof *roof, uint32_t thread)
{
    if (roof->job == JOB_FMA) {
        atomic_fetch_add(&roof->kept, (unsigned long long)roof->loops.fma(FMA_ROUNDS));
        return;
    }
    if (roof->job == JOB_DOT) {
        atomic_fetch_add(&roof->kept, (unsigned long long)roof->loops.dot(FMA_ROUNDS));
        return;
    }
    if (roof->job == JOB_PAIRS) {
        atomic_fetch_add(&roof->kept, (unsigned long long)roof->loops.pairs(FMA_ROUNDS));
        return;
    }
    size_t part = roof->job_bytes / roof->n_thread / 2048 * 2048;
    const unsigned char *at = roof->buffer + thread * part;
    atomic_fetch_add(&roof->kept, roof->loops.read(at, part, roof->how.n_stream, roof->how.ahead));
}

static void *serve(void *argument)
{
    bench_roof *roof = argument;
    uint32_t thread = 1 + atomic_fetch_add(&roof->ticket, 1);
    for (unsigned seen = 0;;) {
        pthread_mutex_lock(&roof->mutex);
        while (roof->round == seen)
            pthread_cond_wait(&roof->announced, &roof->mutex);
        seen = roof->round;
        pthread_mutex_unlock(&roof->mutex);
        if (roof->job == JOB_END) return NULL;
        atomic_fetch_add(&roof->awake, 1);
        while (atomic_load(&roof->started) != seen)
            sched_yield();
        work(roof, thread);
        atomic_fetch_add(&roof->done, 1);
    }
}

static void announce(bench_roof *roof, roof_job job)
{
    pthread_mutex_lock(&roof->mutex);
    roof->job = job;
    roof->round++;
    pthread_cond_broadcast(&roof->announced);
    pthread_mutex_unlock(&roof->mutex);
}

static void wait_for_others(const bench_roof *roof, atomic_uint *count)
{
    while (atomic_load(count) + 1 < roof->n_thread)
        sched_yield();
}

static double run_job(bench_roof *roof, roof_job job)
{
    atomic_store(&roof->awake, 0);
    atomic_store(&roof->done, 0);
    announce(roof, job);
    wait_for_others(roof, &roof->awake);
    double began = cli_now();
    atomic_store(&roof->started, roof->round);
    work(roof, 0);
    wait_for_others(roof, &roof->done);
    return cli_now() - began;
}

bench_roof *bench_roof_create(uint32_t n_thread, size_t bytes)
{
    const size_t huge = (size_t)2 << 20;
    bench_roof *roof = calloc(1, sizeof(*roof));
    if (!roof) return NULL;
    roof->loops = best_loops();
    roof->bytes = (bytes + huge - 1) / huge * huge + huge;
    roof->buffer = aligned_alloc(huge, roof->bytes);
    if (!roof->buffer) {
        free(roof);
        return NULL;
    }
    madvise(roof->buffer, roof->bytes, MADV_HUGEPAGE);
    memset(roof->buffer, 1, roof->bytes);
    pthread_mutex_init(&roof->mutex, NULL);
    pthread_cond_init(&roof->announced, NULL);
    roof->n_thread = 1;
    for (uint32_t t = 1; t < n_thread && t < MAX_THREAD; t++)
        if (pthread_create(&roof->threads[t], NULL, serve, roof) == 0) roof->n_thread++;
    return roof;
}

void bench_roof_free(bench_roof *roof)
{
    if (!roof) return;
    announce(roof, JOB_END);
    for (uint32_t t = 1; t < roof->n_thread; t++)
        pthread_join(roof->threads[t], NULL);
    pthread_cond_destroy(&roof->announced);
    pthread_mutex_destroy(&roof->mutex);
    free(roof->buffer);
    free(roof);
}

double bench_roof_read(bench_roof *roof, size_t bytes, bench_read how)
{
    roof->job_bytes = bytes < roof->bytes ? bytes : roof->bytes;
    roof->how = how;
    return run_job(roof, JOB_READ);
}

double bench_roof_fma(bench_roof *roof)
{
    return roof->n_thread * roof->loops.fma_operations * FMA_ROUNDS / run_job(roof, JOB_FMA);
}

double bench_roof_dot(bench_roof *roof)
{
    return roof->n_thread * roof->loops.dot_operations * FMA_ROUNDS / run_job(roof, JOB_DOT);
}

double bench_roof_pairs(bench_roof *roof)
{
    if (!roof->loops.pairs) return 0;
    return roof->n_thread * roof->loops.pairs_operations * FMA_ROUNDS / run_job(roof, JOB_PAIRS);
}
