/* bench_gemm.c - our f32 matrix product beside bli_sgemm, and decoding beside the memory's bandwidth, in one run.
 *
 *     bench_gemm [--threads 1,2] [--shape 1024,4096] [--rounds 7] [--level NAME] [--quick] [--json]
 *
 * The products are those of a feed-forward layer cut to a share of its width: `up` is a prefix of the rows
 * of W[F][d], `down` a prefix of the columns of W[d][F]. BLIS gets the plain matrix, ours the panels, as each
 * stores it; packing weights is not timed. With several threads both get the same slabs of columns from
 * the same workers. In every round each takes its turn, so that noise falls on both alike; the ratio is the
 * median of the rounds' ratios. With BLIS_ARCH_TYPE=0 Debian's BLIS 0.9 takes its AVX-512 kernels.
 *
 * Decoding is M = 1 over bf16 weights that no cache holds, in GB/s, beside the best plain read of the same
 * memory: a word of every line, in 1, 2 or 4 streams. */
#include "arena.h"
#include "cpu.h"
#include "kernel.h"
#include "pack.h"
#include "platform.h"
#include "threads.h"

#if BENCH_BLIS
#include <blis.h>
#endif
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { MAX_ROUNDS = 31, MAX_THREADS = 64 };

typedef struct bench {
    mfk_table table;
    mfi_pool *pool;
    uint32_t n_thread;
    int rounds;
    size_t d, f; /* 0: both shapes, and decoding */
    bool json, quick;
    void *scratch[MAX_THREADS];
} bench;

/* Aligned to 2 MiB, in huge pages where granted, and touched. */
static void *big(size_t bytes)
{
    size_t huge = (size_t)2 << 20;
    char *p = mmap(NULL, bytes + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "bench_gemm: no memory\n");
        exit(1);
    }
    p += (huge - (uintptr_t)p % huge) % huge;
    madvise(p, bytes, MADV_HUGEPAGE);
    memset(p, 0, bytes);
    return p;
}

static void fill(float *x, size_t n)
{
    static uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)((int32_t)state >> 8) * 0x1p-23f;
    }
}

static double seconds(void)
{
    return 1e-9 * (double)mfi_now_ns();
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return x[n / 2];
}

/* ---- Matrix products beside BLIS ------------------------------------------------------------------ */

typedef struct product {
    bench *bench;
    size_t m, n, k, w_row_floats;
    float *a, *w, *panels, *c; /* C is [m][n] */
    size_t panel_bytes;
    bool blis;
} product;

static void product_slab(void *user, uint32_t thread, uint32_t n_thread)
{
    const product *p = user;
    size_t begin, end;
    mfi_split(p->n, MFK_NR, thread, n_thread, &begin, &end);
    if (begin >= end) return;
    if (p->blis) {
#if BENCH_BLIS
        float one = 1.0f, zero = 0.0f;
        bli_sgemm(BLIS_NO_TRANSPOSE, BLIS_TRANSPOSE, (dim_t)p->m, (dim_t)(end - begin), (dim_t)p->k, &one, p->a,
                  (inc_t)p->k, 1, p->w + begin * p->w_row_floats, (inc_t)p->w_row_floats, 1, &zero, p->c + begin,
                  (inc_t)p->n, 1);
#endif
        return;
    }
    mfk_gemm_args args = { .m = p->m, .n = end - begin, .k = p->k, .a = p->a, .a_row_bytes = p->k * sizeof(float) };
    args.b = (const char *)p->panels + begin / MFK_NR * p->panel_bytes;
    args.b_panel_bytes = p->panel_bytes;
    args.c = p->c + begin;
    args.c_row_bytes = p->n * sizeof(float);
    args.scratch = p->bench->scratch[thread];
    p->bench->table.gemm_f32(&args);
}

/* Seconds of one product, from at least 10 ms of them. */
static double time_product(product *p, bool blis)
{
    double took = 0;
    int repeats = 1;
    p->blis = blis;
    mfi_pool_run(p->bench->pool, product_slab, p);
    for (;; repeats *= 2) {
        double start = seconds();
        for (int i = 0; i < repeats; i++)
            mfi_pool_run(p->bench->pool, product_slab, p);
        took = seconds() - start;
        if (took > 0.010) return took / repeats;
    }
}

static void report_product(const product *p, const char *kind, size_t share, double ours, double blis, double ratio)
{
    double flops = 2e-9 * (double)p->m * (double)p->n * (double)p->k;
    if (p->bench->json)
        printf("{\"bench\":\"sgemm\",\"kind\":\"%s\",\"threads\":%u,\"m\":%zu,\"n\":%zu,\"k\":%zu,\"share\":%.4f,"
               "\"gflops\":%.1f,\"blis_gflops\":%.1f,\"ratio\":%.3f}\n",
               kind, p->bench->n_thread, p->m, p->n, p->k, 1.0 / (double)share, flops / ours, flops / blis, ratio);
    else
        printf("%-5s 1/%zu %2u thr  M %4zu  N %6zu  K %6zu   ours %7.1f   blis %7.1f GFLOP/s   ratio %.2f\n", kind,
               share, p->bench->n_thread, p->m, p->n, p->k, flops / ours, flops / blis, ratio);
    fflush(stdout);
}

static void bench_product(product *p, const char *kind, size_t share)
{
    double ours[MAX_ROUNDS], blis[MAX_ROUNDS], ratio[MAX_ROUNDS];
    for (int i = 0; i < p->bench->rounds; i++) {
        ours[i] = time_product(p, false);
        blis[i] = BENCH_BLIS ? time_product(p, true) : ours[i];
        ratio[i] = blis[i] / ours[i];
    }
    report_product(p, kind, share, median(ours, p->bench->rounds), median(blis, p->bench->rounds),
                   median(ratio, p->bench->rounds));
}

static void bench_shape(bench *b, size_t d, size_t f)
{
    static const size_t ms[] = { 1, 16, 128, 512 };
    product p = { .bench = b };
    p.w = big(d * f * sizeof(float));
    p.panels = big(d * f * sizeof(float));
    p.a = big(512 * f * sizeof(float));
    p.c = big(512 * f * sizeof(float));
    fill(p.w, d * f);
    fill(p.a, 512 * f);
    for (int down = 0; down < 2; down++) {
        p.w_row_floats = down ? f : d;
        p.panel_bytes = mfk_panel_bytes(MFK_F32, p.w_row_floats);
        mfk_pack(MFK_F32, NULL, down ? d : f, p.w_row_floats, p.w, p.w_row_floats, p.panels, p.panel_bytes);
        for (size_t share = 8; share >= 1; share /= 2) {
            p.n = down ? d : f / share;
            p.k = down ? f / share : d;
            for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
                p.m = ms[i];
                if (!b->quick || share == 1 || share == 8) bench_product(&p, down ? "down" : "up", share);
            }
        }
    }
    munmap(p.w, d * f * sizeof(float));
    munmap(p.panels, d * f * sizeof(float));
    munmap(p.a, 512 * f * sizeof(float));
    munmap(p.c, 512 * f * sizeof(float));
}

/* ---- Decoding beside the bandwidth ---------------------------------------------------------------- */

enum { DECODE_K = 2048, DECODE_N = 16384, DECODE_LAYERS = 10 }; /* 640 MiB of bf16 */

typedef struct decode {
    bench *bench;
    char *weights;
    float *a, *c;
    int streams; /* 0: our kernel */
    uint64_t sum[MAX_THREADS];
} decode;

/* Fetches every line of [p, p + bytes), as `streams` parts side by side; a word of each is enough. */
static uint64_t read_all(const char *p, size_t bytes, int streams)
{
    uint64_t sum[4] = { 0 }, word;
    size_t part = bytes / (size_t)streams / 256 * 256;
    for (size_t i = 0; i < part; i += 256) {
        for (int s = 0; s < streams; s++) {
            for (size_t line = 0; line < 256; line += 64) {
                memcpy(&word, p + (size_t)s * part + i + line, sizeof word);
                sum[s] += word;
            }
        }
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

static void decode_slab(void *user, uint32_t thread, uint32_t n_thread)
{
    decode *d = user;
    size_t panel = mfk_panel_bytes(MFK_BF16, DECODE_K), begin, end;
    mfi_split(DECODE_N, MFK_NR, thread, n_thread, &begin, &end);
    for (size_t i = 0; i < DECODE_LAYERS; i++) {
        const char *b = d->weights + (i * DECODE_N + begin) / MFK_NR * panel;
        mfk_gemm_args args = { .m = 1,
                               .n = end - begin,
                               .k = DECODE_K,
                               .a = d->a,
                               .a_row_bytes = DECODE_K * 4,
                               .b = b,
                               .b_panel_bytes = panel,
                               .c = d->c + begin,
                               .c_row_bytes = DECODE_N * 4,
                               .scratch = d->bench->scratch[thread] };
        if (d->streams == 0)
            d->bench->table.gemm_bf16(&args);
        else
            d->sum[thread] += read_all(b, (end - begin) / MFK_NR * panel, d->streams);
    }
}

static void bench_decode(bench *b)
{
    size_t bytes = (size_t)DECODE_LAYERS * DECODE_N * DECODE_K * 2;
    decode d = { .bench = b, .weights = big(bytes), .a = big(DECODE_K * 4), .c = big(DECODE_N * 4) };
    double rate[4][MAX_ROUNDS], ratio[MAX_ROUNDS], best_read = 0;
    static const int streams[] = { 0, 1, 2, 4 };
    fill(d.a, DECODE_K);
    for (int i = 0; i < b->rounds; i++) {
        double read = 0;
        for (int s = 0; s < 4; s++) {
            d.streams = streams[s];
            double start = seconds();
            mfi_pool_run(b->pool, decode_slab, &d);
            rate[s][i] = 1e-9 * (double)bytes / (seconds() - start);
            if (s > 0 && rate[s][i] > read) read = rate[s][i];
        }
        ratio[i] = rate[0][i] / read;
    }
    double ours = median(rate[0], b->rounds), share = median(ratio, b->rounds);
    for (int s = 1; s < 4; s++)
        best_read = median(rate[s], b->rounds) > best_read ? median(rate[s], b->rounds) : best_read;
    if (b->json)
        printf("{\"bench\":\"decode_bf16\",\"threads\":%u,\"gb_per_s\":%.1f,\"read_gb_per_s\":%.1f,\"share\":%.3f}\n",
               b->n_thread, ours, best_read, share);
    else
        printf("decode bf16 %2u thr   %5.1f GB/s of %5.1f GB/s read   share %.2f\n", b->n_thread, ours, best_read,
               share);
    munmap(d.weights, bytes);
}

static void bench_threads(bench *b, uint32_t n_thread)
{
    mfi_pool_options options = { .n_thread = n_thread, .run_spin_us = 1000, .idle_spin_us = 1000 };
    mf_allocator allocator = mfi_allocator(NULL);
    mf_error error = MF_ERROR_INIT;
    b->n_thread = n_thread;
    if (mfi_pool_create(&b->pool, &allocator, &options, &error) != MF_OK) {
        fprintf(stderr, "bench_gemm: %s\n", error.detail);
        exit(1);
    }
    if (b->d) {
        bench_shape(b, b->d, b->f);
    } else {
        bench_decode(b);
        bench_shape(b, 1024, 4096);
        bench_shape(b, 2048, 16384);
    }
    mfi_pool_destroy(b->pool);
}

int main(int argc, char **argv)
{
    bench b = { .rounds = 7 };
    const char *threads = "1,2";
    uint64_t cpu = mfk_cpu_detect();
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--json") == 0)
            b.json = true;
        else if (strcmp(argv[i], "--quick") == 0)
            b.quick = true;
        else if (strcmp(argv[i], "--threads") == 0 && i + 1 < argc)
            threads = argv[++i];
        else if (strcmp(argv[i], "--shape") == 0 && i + 1 < argc && sscanf(argv[i + 1], "%zu,%zu", &b.d, &b.f) == 2)
            i++;
        else if (strcmp(argv[i], "--rounds") == 0 && i + 1 < argc)
            b.rounds = atoi(argv[++i]);
        else if (strcmp(argv[i], "--level") != 0 || i + 1 == argc || mfk_cpu_limit(&cpu, argv[++i]) != 0) {
            fprintf(stderr,
                    "usage: bench_gemm [--threads 1,2] [--shape D,F] [--rounds N] [--level NAME] [--quick] [--json]\n");
            return 2;
        }
    }
    if (b.d % 32 || b.f % 256) return 2; /* every k is a multiple of 32 */
    if (b.rounds < 1 || b.rounds > MAX_ROUNDS) b.rounds = 7;
    mfk_table_init(&b.table, cpu);
    for (size_t i = 0; i < MAX_THREADS; i++)
        b.scratch[i] = big(MFK_SCRATCH_BYTES);
    for (const char *at = threads; *at;) {
        char *end;
        unsigned long n = strtoul(at, &end, 10);
        if (end == at || n < 1 || n > MAX_THREADS) return 2;
        bench_threads(&b, (uint32_t)n);
        at = *end == ',' ? end + 1 : end;
    }
    return 0;
}
