/* train_gemm.c - the one function through which every matrix product of the trainer goes, and its backends.
 *
 * BLIS computes each slab of the result on one thread, called from ours; where it lags behind the processor,
 * the kernels of inference do (train_gemm_packed.c). Which bits BLIS gives an element depends on the shape
 * that it is asked for, so slabs are cut by the shape alone and never by the number of threads; and the sum
 * over k is never split. The thread count of BLIS is not touched: each call carries its own. */
#include <blis.h>
#include <string.h>

#include "cpu.h"
#include "defs.h"
#include "trainer.h"

/* Slabs of at most so many rows and columns: BLIS packs an element of A once per slab, which is paid back by as
 * many products as the slab has columns, and one of B by its rows. */
#define SLAB_ROWS 512u
#define SLAB_COLUMNS 512u

/* Small results are cut finer, into at least so many, for the sake of balance. */
#define MIN_SLABS 4u

static void copy_from(const mfi_train_gemm *g)
{
    if (!g->from || g->from == g->c) return;
    for (size_t i = 0; i < g->m; i++)
        memcpy(g->c + i * g->c_row, g->from + i * g->c_row, g->n * sizeof(float));
}

void mfi_train_gemm_alone(const mfi_train_gemm *g)
{
    copy_from(g);
    float one = 1.0f, beta = g->from ? 1.0f : 0.0f;
    rntm_t runtime = BLIS_RNTM_INITIALIZER;
    bli_rntm_set_num_threads(1, &runtime);
    /* BLIS takes inputs without const and does not write to them. */
    bli_sgemm_ex(BLIS_NO_TRANSPOSE, BLIS_NO_TRANSPOSE, (dim_t)g->m, (dim_t)g->n, (dim_t)g->k, &one, (float *)g->a,
                 (inc_t)g->a_row, (inc_t)g->a_column, (float *)g->b, (inc_t)g->b_row, (inc_t)g->b_column, &beta, g->c,
                 (inc_t)g->c_row, 1, NULL, &runtime);
}

typedef struct slabs {
    const mfi_train_gemm *gemm;
    size_t n_down, n_across;
} slabs;

static void run_slab(void *user, size_t index, float *scratch)
{
    const slabs *s = user;
    const mfi_train_gemm *g = s->gemm;
    (void)scratch;
    size_t row, row_end, column, column_end;
    mfi_split(g->m, 8, (uint32_t)(index / s->n_across), (uint32_t)s->n_down, &row, &row_end);
    mfi_split(g->n, 16, (uint32_t)(index % s->n_across), (uint32_t)s->n_across, &column, &column_end);
    if (row == row_end || column == column_end) return;
    mfi_train_gemm slab = *g;
    slab.m = row_end - row;
    slab.n = column_end - column;
    slab.a += row * g->a_row;
    slab.b += column * g->b_column;
    slab.c += row * g->c_row + column;
    if (g->from) slab.from = g->from + row * g->c_row + column;
    mfi_train_gemm_alone(&slab);
}

void mfi_train_gemm_run(mfi_tasks *tasks, const mfi_train_gemm *gemm)
{
    if (tasks->kernel) {
        mfi_train_gemm_packed(tasks, gemm);
        return;
    }
    slabs s = { gemm, (gemm->m + SLAB_ROWS - 1) / SLAB_ROWS, (gemm->n + SLAB_COLUMNS - 1) / SLAB_COLUMNS };
    while (s.n_down * s.n_across < MIN_SLABS) {
        if (gemm->m / s.n_down >= gemm->n / s.n_across)
            s.n_down *= 2;
        else
            s.n_across *= 2;
    }
    mfi_tasks_run(tasks, s.n_down * s.n_across, run_slab, &s);
}

/* An uninitialized BLIS aborts at this question where BLIS_ARCH_TYPE is set. */
const char *mfi_train_gemm_architecture(void)
{
    bli_init();
    return bli_arch_string(bli_arch_query_id());
}

/* BLIS takes narrower kernels than the processor has: those for AVX2 ("haswell") where there is AVX-512, or none at
 * all ("generic") for a processor newer than itself, which Zen 5 is to release 0.9. AMD's processors that it knows are
 * left to it: Zen 4 computes 512 bits in two halves, so kernels for AVX2 reach the same peak. */
static bool blis_lags_behind(uint64_t cpu)
{
    const char *architecture = mfi_train_gemm_architecture();
    bool wide = !strcmp(architecture, "skx") || !strcmp(architecture, "knl") || !strncmp(architecture, "zen", 3);
    bool narrow = !wide && strcmp(architecture, "haswell") != 0;
    return (!wide && cpu & MFK_CPU_AVX512) || (narrow && cpu & MFK_CPU_AVX2);
}

mfk_gemm_fn mfi_train_gemm_kernel(uint64_t cpu)
{
    if (!blis_lags_behind(cpu)) return NULL;
    mfk_table table;
    mfk_table_init(&table, cpu);
    return table.gemm_f32;
}
