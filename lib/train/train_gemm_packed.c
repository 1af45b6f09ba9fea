/* train_gemm_packed.c - a slab of a matrix product by the kernels of inference: the second backend.
 *
 * Those want B in panels of 16 columns and the rows of A contiguous, both a multiple of 32 deep. So the sum
 * over k goes in blocks: each packs its part of B, copies A where it lies otherwise, and resumes from C. */
#include <string.h>

#include "defs.h"
#include "trainer.h"

#define K_BLOCK 256u

/* The thread's scratch: the kernel's own, then panels, then a copy of A. */
#define KERNEL_FLOATS (MFK_SCRATCH_BYTES / sizeof(float))

size_t mfi_train_gemm_packed_scratch(void)
{
    return KERNEL_FLOATS + (MFI_SLAB_ROWS + MFI_SLAB_COLUMNS) * K_BLOCK;
}

/* Rows [0, k) of B's n columns to panels of `depth` rows; the rest of a panel is zero. */
static void pack_b(const mfi_train_gemm *g, const float *b, size_t k, size_t depth, float *panels)
{
    for (size_t first = 0; first < g->n; first += MFK_NR, panels += depth * MFK_NR) {
        size_t live = mfi_min(MFK_NR, g->n - first);
        const float *from = b + first * g->b_column;
        if (live < MFK_NR || k < depth) memset(panels, 0, depth * MFK_NR * sizeof(float));
        if (g->b_column == 1) {
            for (size_t i = 0; i < k; i++)
                memcpy(panels + i * MFK_NR, from + i * g->b_row, live * sizeof(float));
        } else {
            for (size_t j = 0; j < live; j++)
                for (size_t i = 0; i < k; i++)
                    panels[i * MFK_NR + j] = from[j * g->b_column + i * g->b_row];
        }
    }
}

/* A's m rows, columns [0, k), to rows of `depth`, in squares that a cache holds. */
static void copy_a(const mfi_train_gemm *g, const float *a, size_t k, size_t depth, float *rows)
{
    const size_t square = 16;
    memset(rows, 0, g->m * depth * sizeof(float));
    for (size_t i0 = 0; i0 < g->m; i0 += square)
        for (size_t j0 = 0; j0 < k; j0 += square)
            for (size_t i = i0; i < mfi_min(i0 + square, g->m); i++)
                for (size_t j = j0; j < mfi_min(j0 + square, k); j++)
                    rows[i * depth + j] = a[i * g->a_row + j * g->a_column];
}

void mfi_train_gemm_packed(const mfi_train_gemm *g, mfk_gemm_fn kernel, float *scratch)
{
    float *panels = scratch + KERNEL_FLOATS, *rows = panels + MFI_SLAB_COLUMNS * K_BLOCK;
    for (size_t k0 = 0; k0 < g->k; k0 += K_BLOCK) {
        size_t k = mfi_min(K_BLOCK, g->k - k0), depth = mfi_round_up(k, MFK_K_ALIGN);
        const float *a = g->a + k0 * g->a_column;
        bool in_place = g->a_column == 1 && k == depth;
        pack_b(g, g->b + k0 * g->b_row, k, depth, panels);
        if (!in_place) copy_a(g, a, k, depth, rows);
        kernel(&(mfk_gemm_args){
            .m = g->m,
            .n = g->n,
            .k = depth,
            .a = in_place ? a : rows,
            .a_row_bytes = (in_place ? g->a_row : depth) * sizeof(float),
            .b = panels,
            .b_panel_bytes = depth * MFK_NR * sizeof(float),
            .c = g->c,
            .c_row_bytes = g->c_row * sizeof(float),
            .flags = k0 > 0 || g->from ? MFK_RESUME : 0,
            .scratch = scratch,
        });
    }
}
