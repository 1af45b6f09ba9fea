/* checkkernel_bench.c - the speed of single kernels, from caches: the best of several runs, as a share of the
 * f32 multiply-add peak measured beside it; and for matrix products the time against the width, which a good
 * elastic kernel makes a straight line. `matformer bench kernels` compares with other libraries. */
#include "checkkernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* In huge pages where granted, as weights are mapped. */
static void *allocate(size_t bytes)
{
    size_t huge = (size_t)2 << 20;
    void *p = aligned_alloc(huge, (bytes + huge - 1) / huge * huge);
    if (!p) exit(2);
#if defined(MADV_HUGEPAGE)
    madvise(p, bytes, MADV_HUGEPAGE);
#endif
    memset(p, 0, bytes);
    return p;
}

/* ---- The peak ------------------------------------------------------------------------------------- */

enum { CHAINS = 12, STEPS = 1 << 18 };

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
__attribute__((target("avx2,fma"))) static size_t multiply_adds_avx2(void)
{
    __m256 acc[CHAINS], x = _mm256_set1_ps(0.5f);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        acc[i] = _mm256_setzero_ps();
    for (int step = 0; step < STEPS; step++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            __asm__("vfmadd231ps %1, %1, %0" : "+x"(acc[i]) : "x"(x));
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        __asm__ volatile("" : : "x"(acc[i]));
    return (size_t)CHAINS * STEPS * 8;
}

__attribute__((target("avx512f"))) static size_t multiply_adds_avx512(void)
{
    __m512 acc[CHAINS], x = _mm512_set1_ps(0.5f);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        acc[i] = _mm512_setzero_ps();
    for (int step = 0; step < STEPS; step++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            __asm__("vfmadd231ps %1, %1, %0" : "+v"(acc[i]) : "v"(x));
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; i++)
        __asm__ volatile("" : : "v"(acc[i]));
    return (size_t)CHAINS * STEPS * 16;
}

static size_t multiply_adds(uint64_t cpu)
{
    return cpu & MFK_CPU_AVX512 ? multiply_adds_avx512() : cpu & MFK_CPU_AVX2 ? multiply_adds_avx2() : 0;
}
#else
static size_t multiply_adds(uint64_t cpu)
{
    (void)cpu;
    return 0;
}
#endif

/* GFLOP/s of one thread, 0 where it is not known. */
static double peak(uint64_t cpu)
{
    double best = 0;
    for (int i = 0; i < 5; i++) {
        double start = seconds(), count = (double)multiply_adds(cpu), rate = 2e-9 * count / (seconds() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

/* ---- Matrix products ------------------------------------------------------------------------------ */

enum { D = 1024, F = 4096 };

typedef struct product {
    mfk_gemm_args args;
    mfk_gemm_fn kernel;
} product;

/* The least seconds of one call: of 5 rounds at least within a second, and for 30 ms at least. */
static double time_product(const product *p)
{
    double best = 1e9, begin = seconds();
    for (int i = 0; (i < 5 && seconds() - begin < 1) || seconds() - begin < 0.03; i++) {
        double start = seconds();
        p->kernel(&p->args);
        double took = seconds() - start;
        best = took < best ? took : best;
    }
    return best;
}

static void report_products(product *p, double roof, size_t kinds)
{
    static const size_t ms[] = { 1, 2, 4, 8, 16, 64, 128, 512 };
    for (size_t i = 0; i < sizeof ms / sizeof *ms; i++) {
        p->args.m = ms[i];
        p->args.n = F;
        double rate = 2e-9 * (double)(ms[i] * kinds * F * D) / time_product(p);
        printf("    m %4zu n %d k %d %8.1f GFLOP/s", ms[i], F, D, rate);
        if (roof > 0) printf(" %4.0f %% of %.0f", 100 * rate / roof, roof);
        printf("\n");
    }
}

/* Microseconds at 1/8, 2/8 ... of the width, and how far they lie at most from the line through both ends. */
static void report_widths(product *p, size_t m)
{
    double t[8], worst = 0;
    p->args.m = m;
    printf("    m %4zu by width, us:", m);
    for (size_t i = 0; i < 8; i++) {
        p->args.n = F / 8 * (i + 1);
        t[i] = 1e6 * time_product(p);
        printf(" %.1f", t[i]);
    }
    for (int i = 1; i < 7; i++) {
        double line = t[0] + (t[7] - t[0]) * i / 7, off = (t[i] > line ? t[i] - line : line - t[i]) / line;
        worst = off > worst ? off : worst;
    }
    printf("; off a line by %.1f %%\n", 100 * worst);
}

static void bench_product(check_run *run, const char *slot)
{
    bool glu = strncmp(slot, "glu", 3) == 0;
    mfk_type type = check_slot_type(slot);
    size_t kinds = glu ? 2 : 1;
    product p = { .kernel = glu ? mfk_table_glu(&run->table, type) : mfk_table_gemm(&run->table, type) };
    float *a = allocate(512 * D * sizeof *a), *c = allocate(512 * F * sizeof *c);
    void *b = allocate(mfk_panels_bytes(type, kinds * F, D)), *scratch = allocate(MFK_SCRATCH_BYTES);
    check_fill(run, ORDINARY, a, 512 * D);
    for (size_t i = 0; i < 512; i++)
        if (mfk_type_quantized(type)) run->table.quantize(D, a + i * D, (mfk_q8_block *)(void *)(a + i * D));
    memset(b, 0, mfk_panels_bytes(type, kinds * F, D));
    p.args = (mfk_gemm_args){ .k = D,
                              .a = a,
                              .a_row_bytes = D * 4,
                              .table = b,
                              .b = b,
                              .b_panel_bytes = mfk_panel_bytes(type, D),
                              .c = c,
                              .c_row_bytes = F * 4,
                              .scratch = scratch };
    report_products(&p, peak(run->table.cpu), kinds);
    report_widths(&p, 1);
    report_widths(&p, 128);
    free(a);
    free(b);
    free(c);
    free(scratch);
}

/* ---- Attention ------------------------------------------------------------------------------------ */

enum { D_HEAD = 64, KEYS = 4096 };

static void bench_attend_rows(check_run *run, mfk_attend_args *args, uint32_t keys)
{
    uint32_t begin[MFK_ATTEND_ROWS] = { 0 }, end[MFK_ATTEND_ROWS];
    double best = 1e9;
    for (size_t r = 0; r < args->n_row; r++)
        end[r] = keys;
    args->key_begin = begin;
    args->key_end = end;
    for (int i = 0; i < 20; i++) {
        double start = seconds();
        run->table.attend(args);
        double took = seconds() - start;
        best = took < best ? took : best;
    }
    const char *type = args->type == MFK_F32 ? "f32" : args->type == MFK_BF16 ? "bf16" : "q8";
    printf("    %-4s rows %2zu keys %4u %8.1f us %8.1f GFLOP/s\n", type, args->n_row, keys, 1e6 * best,
           4e-9 * (double)(args->n_row * keys * D_HEAD) / best);
}

static void bench_attend(check_run *run)
{
    const void *pages[KEYS / MFK_PAGE];
    const float *q[MFK_ATTEND_ROWS];
    float *out[MFK_ATTEND_ROWS];
    size_t page_bytes = 2 * D_HEAD * MFK_PAGE * sizeof(float), rows = MFK_ATTEND_ROWS * D_HEAD;
    char *cache = allocate(KEYS / MFK_PAGE * page_bytes);
    float *io = allocate(2 * rows * sizeof *io);
    mfk_attend_args args = { .d_head = D_HEAD,
                             .scale = 0.125f,
                             .q = q,
                             .out = out,
                             .pages = pages,
                             .v_offset_bytes = page_bytes / 2,
                             .scratch = allocate(MFK_SCRATCH_BYTES) };
    check_fill(run, ORDINARY, io, rows);
    for (size_t i = 0; i < KEYS / MFK_PAGE; i++)
        pages[i] = cache + i * page_bytes;
    for (size_t r = 0; r < MFK_ATTEND_ROWS; r++) {
        q[r] = io + r * D_HEAD;
        out[r] = io + rows + r * D_HEAD;
    }
    static const mfk_type types[] = { MFK_F32, MFK_BF16, MFK_Q8 };
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        args.type = types[t];
        for (args.n_row = 1; args.n_row <= MFK_ATTEND_ROWS; args.n_row *= 4) {
            bench_attend_rows(run, &args, 256);
            bench_attend_rows(run, &args, KEYS);
        }
    }
    free(cache);
    free(io);
    free(args.scratch);
}

/* ---- Element by element --------------------------------------------------------------------------- */

enum { N = 4096 };

static void element(const mfk_table *t, const char *slot, float *x, float *y)
{
    float two[2];
    if (strcmp(slot, "rms_norm") == 0) t->rms_norm(N, x, x, 1e-5f, y);
    if (strcmp(slot, "layer_norm") == 0) t->layer_norm(N, x, x, x, 1e-5f, y);
    if (strcmp(slot, "activate") == 0) t->activate(MFK_SILU, N, x, y);
    if (strcmp(slot, "mul") == 0) t->mul(N, x, x, y);
    if (strcmp(slot, "add") == 0) t->add(N, x, x, y);
    if (strcmp(slot, "axpy") == 0) t->axpy(N, 0.5f, x, y);
    if (strcmp(slot, "dot") == 0) y[0] = t->dot(N, x, x);
    if (strcmp(slot, "sparse_glu") == 0) t->sparse_glu(MFK_GELU_TANH, N, x, 1.6f, y);
    if (strcmp(slot, "rope") == 0) t->rope(N / D_HEAD, D_HEAD, x, x, y);
    if (strcmp(slot, "softmax_stats") == 0) t->softmax_stats(N, x, &two[0], &two[1]);
    if (strcmp(slot, "store_key") == 0) t->store_key(MFK_BF16, N / MFK_PAGE, x, y, 3);
    if (strcmp(slot, "quantize") == 0) t->quantize(N / 2, x, (mfk_q8_block *)(void *)y);
    if (strcmp(slot, "attend_merge") == 0) t->attend_merge(D_HEAD, y, x);
    if (strcmp(slot, "store_value") == 0) t->store_value(MFK_BF16, N / MFK_PAGE, x, y, 3);
    if (strcmp(slot, "panel_row") == 0) t->panel_row(MFK_BF16, N / MFK_NR, NULL, x, N * 2, 3, y);
}

static void bench_element(check_run *run, const char *slot)
{
    float *x = allocate(N * sizeof *x), *y = allocate(N * sizeof *y);
    double best = 1e9;
    check_fill(run, ORDINARY, x, N);
    for (int i = 0; i < 200; i++) {
        double start = seconds();
        element(&run->table, slot, x, y);
        double took = seconds() - start;
        best = took < best ? took : best;
    }
    printf("    %.2f us\n", 1e6 * best);
    free(x);
    free(y);
}

void bench_kernel(check_run *run, const char *slot)
{
    printf("%s\n", run->kernel);
    if (strncmp(slot, "gemm", 4) == 0 || strncmp(slot, "glu", 3) == 0)
        bench_product(run, slot);
    else if (strcmp(slot, "attend") == 0)
        bench_attend(run);
    else
        bench_element(run, slot);
    fflush(stdout);
}
