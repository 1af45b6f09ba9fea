/* gemm_scalar.c - the reference matrix products: one row of A, one panel of B. */
#include "kernel_list.h"
#include "math_scalar.h"
#include "pack.h"
#include "quantize.h"

/* acc[j] continues its chain over inputs [k_begin, k_begin + k) of the panel. */
typedef void chain_fn(const mfk_gemm_args *args, const void *a, const void *panel, float acc[MFK_NR]);

static void chain_f32(const mfk_gemm_args *args, const void *a, const void *panel, float acc[MFK_NR])
{
    const float *w = (const float *)panel + args->k_begin * MFK_NR, *x = a; /* [k][16] */
    for (size_t i = 0; i < args->k; i++, w += MFK_NR)
        for (size_t j = 0; j < MFK_NR; j++)
            acc[j] = mfk_fma(x[i], w[j], acc[j]);
}

static void chain_bf16(const mfk_gemm_args *args, const void *a, const void *panel, float acc[MFK_NR])
{
    const uint16_t *w = (const uint16_t *)panel + args->k_begin * MFK_NR; /* [k / 2][16][2] */
    const float *x = a;
    for (size_t i = 0; i < args->k; i++)
        for (size_t j = 0; j < MFK_NR; j++)
            acc[j] = mfk_fma(x[i], mfk_bf16_to_f32(w[(i / 2 * MFK_NR + j) * 2 + i % 2]), acc[j]);
}

static void chain_f16(const mfk_gemm_args *args, const void *a, const void *panel, float acc[MFK_NR])
{
    const uint16_t *w = (const uint16_t *)panel + args->k_begin * MFK_NR; /* [k][16] */
    const float *x = a;
    for (size_t i = 0; i < args->k; i++, w += MFK_NR)
        for (size_t j = 0; j < MFK_NR; j++)
            acc[j] = mfk_fma(x[i], mfk_f16_to_f32(w[j]), acc[j]);
}

/* A block of 32 inputs: an exact sum, then one step of the chain. */
static void chain_q8(const mfk_gemm_args *args, const void *a, const void *panel, float acc[MFK_NR])
{
    const mfk_q8_block *x = a;
    size_t first = args->k_begin / MFK_BLOCK;
    for (size_t block = first; block < first + args->k / MFK_BLOCK; block++, x++) {
        const uint8_t *codes = (const uint8_t *)panel + mfk_block_at(MFK_Q8_BLOCK_BYTES, block); /* [8][16][4] */
        const char *scales = (const char *)panel + mfk_scales_at(MFK_Q8_BLOCK_BYTES, block);
        for (size_t j = 0; j < MFK_NR; j++) {
            int32_t dot = 0;
            for (size_t i = 0; i < MFK_BLOCK; i++)
                dot += (codes[(i / 4 * MFK_NR + j) * 4 + i % 4] - 128) * x->q[i];
            float scale = x->scale * mfk_f16_to_f32(((const uint16_t *)(const void *)scales)[j]);
            acc[j] = mfk_fma((float)dot, scale, acc[j]);
        }
    }
}

/* Two exact sums, of 16 inputs each, for a step. */
static void chain_q4(const mfk_gemm_args *args, const void *a, const void *panel, float acc[MFK_NR])
{
    const mfk_q8_block *x = a;
    const int8_t *table = args->table;
    size_t first = args->k_begin / MFK_BLOCK;
    for (size_t block = first; block < first + args->k / MFK_BLOCK; block++, x++) {
        const uint8_t *codes = (const uint8_t *)panel + mfk_block_at(MFK_Q4_BLOCK_BYTES, block);   /* [4][16][4] */
        const uint8_t *scales = (const uint8_t *)panel + mfk_scales_at(MFK_Q4_BLOCK_BYTES, block); /* [2][16] */
        for (size_t j = 0; j < MFK_NR; j++) {
            int32_t dot[2] = { 0, 0 };
            for (size_t i = 0; i < MFK_BLOCK; i++)
                dot[i / 16] += table[codes[(i / 8 * MFK_NR + j) * 4 + i % 4] >> (i % 8 / 4 * 4) & 15] * x->q[i];
            float low = mfk_q4_scale(scales[j], table[MFK_Q4_BIAS_AT]);
            float high = mfk_q4_scale(scales[MFK_NR + j], table[MFK_Q4_BIAS_AT]);
            acc[j] = mfk_fma(mfk_fma((float)dot[1], high, (float)dot[0] * low), x->scale, acc[j]);
        }
    }
}

static const void *row_of_a(const mfk_gemm_args *args, size_t row)
{
    return (const char *)args->a + row * args->a_row_bytes;
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
            chain(args, row_of_a(args, i), panel_of_b(args, first / MFK_NR), acc);
            for (size_t j = 0; j < live; j++)
                c[j] = acc[j];
        }
    }
}

/* Hidden units [first, first + 16) of a row. */
static void glu_panel(const mfk_gemm_args *args, chain_fn *chain, size_t row, size_t first, float hidden[MFK_NR])
{
    float gate[MFK_NR] = { 0 }, up[MFK_NR] = { 0 };
    chain(args, row_of_a(args, row), panel_of_b(args, 2 * (first / MFK_NR)), gate);
    chain(args, row_of_a(args, row), panel_of_b(args, 2 * (first / MFK_NR) + 1), up);
    for (size_t j = 0; j < live_columns(args, first); j++) {
        if (args->gate_bias) gate[j] += args->gate_bias[first + j], up[j] += args->up_bias[first + j];
        hidden[j] = mfk_act(args->activation, gate[j]) * up[j];
    }
}

static void glu(const mfk_gemm_args *args, chain_fn *chain)
{
    for (size_t first = 0; first < args->n && !args->q; first += MFK_NR)
        for (size_t i = 0; i < args->m; i++) {
            float hidden[MFK_NR];
            glu_panel(args, chain, i, first, hidden);
            for (size_t j = 0; j < live_columns(args, first); j++)
                row_of_c(args, i)[first + j] = hidden[j];
        }
    for (size_t first = 0; first < args->n && args->q; first += MFK_BLOCK)
        for (size_t i = 0; i < args->m; i++) {
            float hidden[MFK_BLOCK];
            glu_panel(args, chain, i, first, hidden);
            glu_panel(args, chain, i, first + MFK_NR, hidden + MFK_NR);
            mfk_q8_block *row = (mfk_q8_block *)(void *)((char *)args->q + i * args->q_row_bytes);
            mfk_quantize_scalar(MFK_BLOCK, hidden, row + first / MFK_BLOCK);
        }
}

#define PRODUCTS_OF(type)                                         \
    void mfk_gemm_##type##_1x16_scalar(const mfk_gemm_args *args) \
    {                                                             \
        gemm(args, chain_##type);                                 \
    }                                                             \
    void mfk_glu_##type##_1x16_scalar(const mfk_gemm_args *args)  \
    {                                                             \
        glu(args, chain_##type);                                  \
    }
PRODUCTS_OF(f32)
PRODUCTS_OF(bf16)
PRODUCTS_OF(f16)
PRODUCTS_OF(q8)
PRODUCTS_OF(q4)
