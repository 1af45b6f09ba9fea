/* glu_simd.h - gated units, over the product of the including file, gemm(args, scratch, scratch_bytes). The including
 * file sets GLU_ROWS and GLU_UNITS, how many go to the scratch at once.
 *
 * Gate and up chains of a part of the units go to the scratch as one product of twice as many columns, and
 * from there through the activation to C, or to blocks of 8 bits. */
#include "quantize_simd.h"

enum { GLU_CHAINS = GLU_ROWS * 2 * GLU_UNITS };

/* Chains of the units u .. u + 15 of n, with their biases. */
MFK_INLINE f32x16 biased(f32x16 chains, const float *bias, size_t u, size_t n)
{
    if (!bias) return chains;
    return f32x16_add(chains, n - u >= MFK_NR ? f32x16_load(bias + u) : f32x16_load_first(bias + u, n - u));
}

/* Units u .. u + 15, of the n of a row of chains. */
MFK_INLINE f32x16 hidden_units(const mfk_gemm_args *part, const float *chains, size_t u, size_t n)
{
    f32x16 gate = biased(f32x16_load(chains + 2 * u), part->gate_bias, u, n);
    f32x16 up = biased(f32x16_load(chains + 2 * u + MFK_NR), part->up_bias, u, n);
    return f32x16_mul(act16(part->activation, gate), up);
}

static void glu_activate(const mfk_gemm_args *part, const float *chains, float *c, size_t n)
{
    for (size_t u = 0; u < n; u += MFK_NR) {
        f32x16 hidden = hidden_units(part, chains, u, n);
        if (n - u >= MFK_NR)
            f32x16_store(c + u, hidden);
        else
            f32x16_store_first(c + u, hidden, n - u);
    }
}

static void glu_quantize(const mfk_gemm_args *part, const float *chains, mfk_q8_block *q, size_t n)
{
    for (size_t u = 0; u < n; u += MFK_BLOCK)
        quantize_block(hidden_units(part, chains, u, n), hidden_units(part, chains, u + MFK_NR, n), q + u / MFK_BLOCK);
}

static void *row_of(void *rows, size_t row_bytes, size_t row)
{
    return (char *)rows + row * row_bytes;
}

static void glu(const mfk_gemm_args *args)
{
    float *chains = args->scratch; /* [GLU_ROWS][2 * GLU_UNITS] */
    mfk_gemm_args part = *args;
    part.c = chains;
    part.c_row_bytes = 2 * GLU_UNITS * sizeof(float);
    for (size_t row = 0; row < args->m; row += part.m) {
        part.m = args->m - row < GLU_ROWS ? args->m - row : GLU_ROWS;
        part.a = (const char *)args->a + row * args->a_row_bytes;
        for (size_t u = 0, n; u < args->n; u += n) {
            n = args->n - u < GLU_UNITS ? args->n - u : GLU_UNITS;
            part.n = (n + MFK_NR - 1) / MFK_NR * 2 * MFK_NR;
            part.b = (const char *)args->b + u / MFK_NR * 2 * args->b_panel_bytes;
            if (args->gate_bias) part.gate_bias = args->gate_bias + u, part.up_bias = args->up_bias + u;
            gemm(&part, chains + GLU_CHAINS, MFK_SCRATCH_BYTES - GLU_CHAINS * sizeof(float));
            for (size_t r = 0; r < part.m; r++) {
                const float *both = chains + r * 2 * GLU_UNITS;
                if (args->q)
                    glu_quantize(&part, both,
                                 (mfk_q8_block *)row_of(args->q, args->q_row_bytes, row + r) + u / MFK_BLOCK, n);
                else
                    glu_activate(&part, both, (float *)row_of(args->c, args->c_row_bytes, row + r) + u, n);
            }
        }
    }
}
