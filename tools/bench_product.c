/* bench_product.c - our matrix products by themselves, without a model. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "arena.h"
#include "bench_product.h"
#include "cpu.h"
#include "kernel.h"
#include "pack.h"
#include "quantize.h"
#include "threads.h"

/* One run: what the threads share. */
typedef struct run {
    size_t m, n, k;
    const float *a; /* [m][k] */
    float *c;       /* [m][n] */
} run;

struct bench_product {
    mfk_type type;
    mfk_table table;
    mf_allocator allocator;
    mfi_pool *pool;
    const float *w; /* while it is packed */
    size_t n_full, k_full, w_row_floats;
    unsigned char *panels, *scratch; /* scratch: MFK_SCRATCH_BYTES a thread */
    size_t panel_bytes;
    mfk_q8_block *blocks; /* of all rows, one behind another */
    run run;
};

void *bench_allocate(size_t count, size_t bytes)
{
    const size_t huge = (size_t)2 << 20;
    if (bytes != 0 && count > (SIZE_MAX - huge) / bytes) return NULL;
    bytes = (count * bytes + huge - 1) / huge * huge;
    void *p = aligned_alloc(huge, bytes);
    if (p) madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static void pack(void *user, uint32_t thread, uint32_t n_thread)
{
    const bench_product *p = user;
    size_t begin, end;
    mfi_split(p->n_full, MFK_NR, thread, n_thread, &begin, &end);
    if (begin == end) return;
    mfk_pack(p->type, mfk_q4_table, end - begin, p->k_full, p->w + begin * p->w_row_floats, p->w_row_floats,
             p->panels + begin / MFK_NR * p->panel_bytes, p->panel_bytes);
}

mf_status bench_kernel_table(mfk_table *table, mf_error *error)
{
    uint64_t cpu = mfk_cpu_detect() & ~(uint64_t)MFK_CPU_FAST;
    const char *level = getenv("MF_CPU");
    if (level && *level && mfk_cpu_limit(&cpu, level) != 0) {
        snprintf(error->detail, sizeof(error->detail), "MF_CPU: there is no level \"%s\"", level);
        return error->status = MF_E_INVALID;
    }
    mfk_table_init(table, cpu);
    return MF_OK;
}

static mf_status start(bench_product *p, uint32_t n_thread, mf_error *error)
{
    const mfi_pool_options options = { .n_thread = n_thread, .run_spin_us = 1000, .idle_spin_us = 1000 };
    mf_status status = bench_kernel_table(&p->table, error);
    return status == MF_OK ? mfi_pool_create(&p->pool, &p->allocator, &options, error) : status;
}

mf_status bench_product_create(bench_product **out, const char *type, uint32_t n_thread, size_t m, size_t n, size_t k,
                               const float *w, size_t w_row_floats, mf_error *error)
{
    bench_product *p = *out = calloc(1, sizeof(*p));
    if (!p) return error->status = MF_E_NOMEM;
    p->type = mfk_type_named(type);
    p->allocator = mfi_allocator(NULL);
    p->w = w;
    p->n_full = n, p->k_full = k, p->w_row_floats = w_row_floats;
    p->panel_bytes = mfk_panel_bytes(p->type, w_row_floats);
    if (p->panel_bytes == 0 || k % MFK_K_ALIGN != 0) return error->status = MF_E_INVALID;
    p->panels = bench_allocate((n + MFK_NR - 1) / MFK_NR, p->panel_bytes);
    p->scratch = bench_allocate(n_thread, MFK_SCRATCH_BYTES);
    if (mfk_type_quantized(p->type)) p->blocks = bench_allocate(m, k / MFK_BLOCK * sizeof(*p->blocks));
    if (!p->panels || !p->scratch || (mfk_type_quantized(p->type) && !p->blocks)) return error->status = MF_E_NOMEM;
    const mf_status status = start(p, n_thread, error);
    if (status == MF_OK) mfi_pool_run(p->pool, pack, p);
    return status;
}

void bench_product_free(bench_product *p)
{
    if (!p) return;
    if (p->pool) mfi_pool_destroy(p->pool);
    free(p->panels);
    free(p->scratch);
    free(p->blocks);
    free(p);
}

/* Rows lie one behind another, and so do their blocks: any share of all blocks is one call. */
static void quantize(const bench_product *p, uint32_t thread, uint32_t n_thread)
{
    size_t begin, end;
    mfi_split(p->run.m * p->run.k / MFK_BLOCK, 1, thread, n_thread, &begin, &end);
    if (begin < end) p->table.quantize((end - begin) * MFK_BLOCK, p->run.a + begin * MFK_BLOCK, p->blocks + begin);
}

/* A share of the outputs. */
static void multiply(const bench_product *p, uint32_t thread, uint32_t n_thread)
{
    const bool quantized = mfk_type_quantized(p->type);
    const run *r = &p->run;
    size_t begin, end;
    mfi_split(r->n, MFK_NR, thread, n_thread, &begin, &end);
    if (begin == end) return;
    mfk_gemm_args args = { .m = r->m,
                           .n = end - begin,
                           .k = r->k,
                           .a = quantized ? (const void *)p->blocks : r->a,
                           .a_row_bytes = quantized ? r->k / MFK_BLOCK * sizeof(*p->blocks) : r->k * sizeof(*r->a),
                           .b = p->panels + begin / MFK_NR * p->panel_bytes,
                           .b_panel_bytes = p->panel_bytes,
                           .table = mfk_q4_table,
                           .c = r->c + begin,
                           .c_row_bytes = r->n * sizeof(*r->c),
                           .scratch = p->scratch + thread * (size_t)MFK_SCRATCH_BYTES };
    mfk_table_gemm(&p->table, p->type)(&args);
}

/* The last stage multiplies; of quantized weights there is one before it. */
static bool stage(void *user, uint32_t i, uint32_t thread, uint32_t n_thread)
{
    const bench_product *p = user;
    if (mfk_type_quantized(p->type) && i == 0)
        quantize(p, thread, n_thread);
    else
        multiply(p, thread, n_thread);
    return true;
}

void bench_product_run(bench_product *p, size_t m, size_t n, size_t k, const float *a, float *c)
{
    p->run = (run){ m, n, k, a, c };
    mfi_pool_run_stages(p->pool, mfk_type_quantized(p->type) ? 2 : 1, stage, p);
}

const char *bench_product_cpu(const bench_product *p)
{
    return mfk_cpu_name(p->table.cpu);
}

double bench_product_weight_bytes(const bench_product *p, size_t n, size_t k)
{
    return (double)mfk_weights_bytes(p->type, n, k);
}
