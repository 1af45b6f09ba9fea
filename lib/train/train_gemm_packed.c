/* train_gemm_packed.c - a matrix product by the kernels of inference: the second backend.
 *
 * Those want B in panels of 16 columns and the rows of A contiguous, both a multiple of 32 deep. So the
 * product goes in blocks of k and n: all threads pack a block of B, once for all rows, and then take rows in
 * turn, copying those that lie otherwise. An element's chain of additions resumes from C at each block of k, so
 * that its bits depend on no cut. */
#include <string.h>

#include "defs.h"
#include "trainer.h"

#define K_BLOCK 512u
#define N_BLOCK 4096u /* packed, 8 MiB */
#define PACK_COLUMNS 128u
#define ROWS 120u     /* the most of a task, a multiple of the kernels' 12 */
#define MIN_TASKS 16u /* rows are cut finer than that for the sake of balance */

/* The thread's scratch: the kernel's own, then a copy of A. */
#define KERNEL_FLOATS (MFK_SCRATCH_BYTES / sizeof(float))

size_t mfi_train_gemm_packed_scratch(void)
{
    return KERNEL_FLOATS + ROWS * K_BLOCK;
}

size_t mfi_train_gemm_packed_shared(void)
{
    return K_BLOCK * N_BLOCK;
}

/* A block of the product: columns [column, column + n) over [k_begin, k_begin + k). */
typedef struct block {
    const mfi_train_gemm *gemm;
    mfk_gemm_fn kernel;
    float *panels;
    size_t column, n, k_begin, k, depth; /* depth: of a panel, k rounded up */
    size_t n_rows_task;
} block;

/* to[j][i] = from[i][j] of m rows and n columns: in squares, of which each reads lines that stay in a cache and
 * writes whole ones. */
static void transpose(size_t m, size_t n, const float *restrict from, size_t from_row, float *restrict to,
                      size_t to_row)
{
    for (size_t i0 = 0; i0 < m; i0 += MFK_NR)
        for (size_t j0 = 0; j0 < n; j0 += MFK_NR) {
            size_t i1 = mfi_min(i0 + MFK_NR, m), j1 = mfi_min(j0 + MFK_NR, n);
            for (size_t j = j0; j < j1; j++)
                for (size_t i = i0; i < i1; i++)
                    to[j * to_row + i] = from[i * from_row + j];
        }
}

/* Columns that lie side by side to a panel. Whole rows are copied by a few instructions, their length being known. */
static void copy_panel(const float *from, size_t from_row, size_t k, size_t live, float *panel)
{
    for (size_t i = 0; i < k; i++, from += from_row, panel += MFK_NR) {
        if (live == MFK_NR)
            memcpy(panel, from, MFK_NR * sizeof(float));
        else
            memcpy(panel, from, live * sizeof(float));
    }
}

/* The rest of a panel, past its columns or its k, is zero. */
static void pack_columns(void *user, size_t index, float *scratch)
{
    const block *b = user;
    const mfi_train_gemm *g = b->gemm;
    size_t begin = index * PACK_COLUMNS, end = mfi_min(begin + PACK_COLUMNS, b->n);
    (void)scratch;
    for (size_t column = begin; column < end; column += MFK_NR) {
        size_t live = mfi_min(MFK_NR, end - column);
        const float *from = g->b + b->k_begin * g->b_row + (b->column + column) * g->b_column;
        float *panel = b->panels + column * b->depth;
        if (live < MFK_NR || b->k < b->depth) memset(panel, 0, b->depth * MFK_NR * sizeof(float));
        if (g->b_column == 1)
            copy_panel(from, g->b_row, b->k, live, panel);
        else
            transpose(live, b->k, from, g->b_column, panel, MFK_NR);
    }
}

/* m rows of A from `a`, of the block's k, to rows of `depth`; the rest of a row is zero. */
static void copy_a(const block *b, const float *a, size_t m, float *rows)
{
    const mfi_train_gemm *g = b->gemm;
    if (b->k < b->depth) memset(rows, 0, m * b->depth * sizeof(float));
    if (g->a_column == 1) {
        for (size_t i = 0; i < m; i++)
            memcpy(rows + i * b->depth, a + i * g->a_row, b->k * sizeof(float));
    } else {
        transpose(b->k, m, a, g->a_column, rows, b->depth);
    }
}

static void multiply_rows(void *user, size_t index, float *scratch)
{
    const block *b = user;
    const mfi_train_gemm *g = b->gemm;
    size_t row, end;
    mfi_split(g->m, 12, (uint32_t)index, (uint32_t)b->n_rows_task, &row, &end);
    if (row == end) return;
    const float *a = g->a + row * g->a_row + b->k_begin * g->a_column;
    float *rows = scratch + KERNEL_FLOATS, *c = g->c + row * g->c_row + b->column;
    bool in_place = g->a_column == 1 && b->k == b->depth;
    if (!in_place) copy_a(b, a, end - row, rows);
    if (b->k_begin == 0 && g->from && g->from != g->c)
        for (size_t i = row; i < end; i++)
            memcpy(g->c + i * g->c_row + b->column, g->from + i * g->c_row + b->column, b->n * sizeof(float));
    b->kernel(&(mfk_gemm_args){
        .m = end - row,
        .n = b->n,
        .k = b->depth,
        .a = in_place ? a : rows,
        .a_row_bytes = (in_place ? g->a_row : b->depth) * sizeof(float),
        .b = b->panels,
        .b_panel_bytes = b->depth * MFK_NR * sizeof(float),
        .c = c,
        .c_row_bytes = g->c_row * sizeof(float),
        .flags = b->k_begin > 0 || g->from ? MFK_RESUME : 0,
        .scratch = scratch,
    });
}

void mfi_train_gemm_packed(mfi_tasks *tasks, const mfi_train_gemm *gemm)
{
    size_t n_rows_task = mfi_max((gemm->m + ROWS - 1) / ROWS, mfi_min(MIN_TASKS, (gemm->m + 11) / 12));
    block b = { .gemm = gemm, .kernel = tasks->kernel, .panels = tasks->shared, .n_rows_task = n_rows_task };
    for (b.column = 0; b.column < gemm->n; b.column += b.n) {
        b.n = mfi_min(N_BLOCK, gemm->n - b.column);
        for (b.k_begin = 0; b.k_begin < gemm->k; b.k_begin += b.k) {
            b.k = mfi_min(K_BLOCK, gemm->k - b.k_begin);
            b.depth = mfi_round_up(b.k, MFK_K_ALIGN);
            mfi_tasks_run(tasks, (b.n + PACK_COLUMNS - 1) / PACK_COLUMNS, pack_columns, &b);
            mfi_tasks_run(tasks, n_rows_task, multiply_rows, &b);
        }
    }
}
