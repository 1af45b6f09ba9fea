/* gemm_scalar.c - the reference matrix products: one row of A, one panel of B. */
#include "kernel_list.h"
#include "math_scalar.h"
#include "pack.h"

/* acc[j] continues its chain over the panel's first k rows. */
static void chain_f32(size_t k, const float *a, const void *panel, float acc[MFK_NR])
{
    const float *w = panel; /* [k][16] */
    for (size_t i = 0; i < k; i++, w += MFK_NR)
        for (size_t j = 0; j < MFK_NR; j++)
            acc[j] = mfk_fma(a[i], w[j], acc[j]);
}

static void chain_bf16(size_t k, const float *a, const void *panel, float acc[MFK_NR])
{
    const uint16_t *w = panel; /* [k / 2][16][2] */
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < MFK_NR; j++)
            acc[j] = mfk_fma(a[i], mfk_bf16_to_f32(w[(i / 2 * MFK_NR + j) * 2 + i % 2]), acc[j]);
}

typedef void chain_fn(size_t k, const float *a, const void *panel, float acc[MFK_NR]);

static const float *row_of_a(const mfk_gemm_args *args, size_t row)
{
    return (const float *)(const void *)((const char *)args->a + row * args->a_row_bytes);
}

static float *row_of_c(const mfk_gemm_args *args, size_t row)
{
    return (float *)(void *)((char *)args->c + row * args->c_row_bytes);
}

static const void *panel_of_b(const mfk_gemm_args *args, size_t panel)
{
    return (const char *)args->b + panel * args->b_panel_bytes;
}

static size_t live_columns(const mfk_gemm_args *args, size_t first)
{
    return args->n - first < MFK_NR ? args->n - first : MFK_NR;
}

static void gemm(const mfk_gemm_args *args, chain_fn *chain)
{
    for (size_t first = 0; first < args->n; first += MFK_NR) {
        for (size_t i = 0; i < args->m; i++) {
            float acc[MFK_NR] = { 0 };
            float *c = row_of_c(args, i) + first;
            size_t live = live_columns(args, first);
            for (size_t j = 0; j < live && (args->flags & MFK_RESUME); j++)
                acc[j] = c[j];
            chain(args->k, row_of_a(args, i), panel_of_b(args, first / MFK_NR), acc);
            for (size_t j = 0; j < live; j++)
                c[j] = acc[j];
        }
    }
}

static void glu(const mfk_gemm_args *args, chain_fn *chain)
{
    for (size_t first = 0; first < args->n; first += MFK_NR) {
        for (size_t i = 0; i < args->m; i++) {
            float gate[MFK_NR] = { 0 }, up[MFK_NR] = { 0 };
            chain(args->k, row_of_a(args, i), panel_of_b(args, 2 * (first / MFK_NR)), gate);
            chain(args->k, row_of_a(args, i), panel_of_b(args, 2 * (first / MFK_NR) + 1), up);
            for (size_t j = 0; j < live_columns(args, first); j++)
                row_of_c(args, i)[first + j] = mfk_act(args->activation, gate[j]) * up[j];
        }
    }
}

void mfk_gemm_f32_1x16_scalar(const mfk_gemm_args *args)
{
    gemm(args, chain_f32);
}

void mfk_gemm_bf16_1x16_scalar(const mfk_gemm_args *args)
{
    gemm(args, chain_bf16);
}

void mfk_glu_f32_1x16_scalar(const mfk_gemm_args *args)
{
    glu(args, chain_f32);
}

void mfk_glu_bf16_1x16_scalar(const mfk_gemm_args *args)
{
    glu(args, chain_bf16);
}
