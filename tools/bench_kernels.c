/* bench_kernels.c - our f32 GEMM against BLIS on the two matrices of an FFN, at several widths. One thread
 * each. Ours reads the panels that a file stores; BLIS gets the same prefix as a strided view. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "cpu.h"
#include "kernel.h"
#include "pack.h"

enum { MAX_ROUND = 100, MAX_ROWS = 512 };

typedef struct ffn_shape {
    size_t d_model, d_ff;
} ffn_shape;

static const ffn_shape shapes[] = { { 1024, 4096 }, { 2048, 16384 } };
static const size_t row_counts[] = { 1, 16, 128, 512 };
static const size_t shares[] = { 8, 4, 2, 1 }; /* of the width: 1 / share */

/* bli_sgemm and what tells which kernels it takes; dim_t and inc_t have 64 bits. */
typedef struct blis {
    void *handle;
    void (*sgemm)(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, const float *alpha, const float *a,
                  int64_t rs_a, int64_t cs_a, const float *b, int64_t rs_b, int64_t cs_b, const float *beta, float *c,
                  int64_t rs_c, int64_t cs_c);
    const char *architecture;
} blis;

/* A function pointer out of an object pointer, which ISO C does not convert. */
static void load_symbol(void *handle, const char *name, void *function)
{
    void *symbol = dlsym(handle, name);
    memcpy(function, &symbol, sizeof(symbol));
}

static blis open_blis(void)
{
    blis library = { .handle = dlopen("libblis.so.4", RTLD_NOW | RTLD_LOCAL) };
    if (!library.handle) library.handle = dlopen("libblis.so", RTLD_NOW | RTLD_LOCAL);
    if (!library.handle) return library;
    void (*initialize)(void);
    int (*query)(void);
    const char *(*name)(int id);
    load_symbol(library.handle, "bli_sgemm", &library.sgemm);
    load_symbol(library.handle, "bli_init", &initialize);
    if (initialize) initialize(); /* or a query aborts where BLIS_ARCH_TYPE is set */
    load_symbol(library.handle, "bli_arch_query_id", &query);
    load_symbol(library.handle, "bli_arch_string", &name);
    library.architecture = query && name ? name(query()) : "unknown";
    return library;
}

/* One matrix B[n][k] at full width, in both forms, and a slice of it. */
typedef struct matrix {
    size_t n_full, k_full, n, k;
    float *rows; /* [n_full][k_full] */
    void *panels;
    size_t panel_bytes;
} matrix;

typedef struct contest {
    const bench *b;
    mfk_table table;
    blis blis;
    float *a, *c, *c_blis;
    void *scratch;
} contest;

static float *random_floats(size_t n)
{
    float *x = aligned_alloc(64, (n * sizeof(*x) + 63) / 64 * 64);
    uint64_t state = 1;
    for (size_t i = 0; x && i < n; i++) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        x[i] = (float)(int32_t)(state >> 32) * 0x1p-31F;
    }
    return x;
}

static bool make_matrix(matrix *w, size_t n_full, size_t k_full)
{
    *w = (matrix){ .n_full = n_full, .k_full = k_full };
    w->panel_bytes = mfk_panel_bytes(MFK_F32, k_full);
    w->rows = random_floats(n_full * k_full);
    w->panels = aligned_alloc(64, mfk_panels_bytes(MFK_F32, n_full, k_full));
    if (!w->rows || !w->panels) return false;
    mfk_pack(MFK_F32, NULL, n_full, k_full, w->rows, k_full, w->panels, w->panel_bytes);
    return true;
}

static void free_matrix(matrix *w)
{
    free(w->rows);
    free(w->panels);
}

static double run_ours(contest *t, const matrix *w, size_t m)
{
    mfk_gemm_args args = { .m = m,
                           .n = w->n,
                           .k = w->k,
                           .a = t->a,
                           .a_row_bytes = w->k * sizeof(float),
                           .b = w->panels,
                           .b_panel_bytes = w->panel_bytes,
                           .c = t->c,
                           .c_row_bytes = w->n * sizeof(float),
                           .scratch = t->scratch };
    double began = cli_now();
    t->table.gemm_f32(&args);
    return cli_now() - began;
}

static double run_blis(contest *t, const matrix *w, size_t m)
{
    const float one = 1, zero = 0;
    int64_t n = (int64_t)w->n, k = (int64_t)w->k;
    double began = cli_now();
    t->blis.sgemm(0, 0, (int64_t)m, n, k, &one, t->a, k, 1, w->rows, 1, (int64_t)w->k_full, &zero, t->c_blis, n, 1);
    return cli_now() - began;
}

/* Small products are repeated, so that a measurement is long against the clock. */
static int repetitions(const matrix *w, size_t m)
{
    double operations = 2.0 * (double)m * (double)w->n * (double)w->k;
    return operations > 5e7 ? 1 : (int)(5e7 / operations) + 1;
}

static double repeat(contest *t, double (*run)(contest *, const matrix *, size_t), const matrix *w, size_t m)
{
    int n = repetitions(w, m);
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += run(t, w, m);
    return sum / n;
}

static void measure(contest *t, const matrix *w, size_t m, const char *name, size_t share, cli_table *table,
                    json_t *list)
{
    double ours[MAX_ROUND], theirs[MAX_ROUND], operations = 2.0 * (double)m * (double)w->n * (double)w->k;
    run_ours(t, w, m);
    if (t->blis.sgemm) run_blis(t, w, m);
    for (uint32_t r = 0; r < t->b->rounds; r++) {
        ours[r] = repeat(t, run_ours, w, m);
        theirs[r] = t->blis.sgemm ? repeat(t, run_blis, w, m) : 0;
    }
    double our_rate = operations / bench_median(ours, t->b->rounds);
    double their_rate = t->blis.sgemm ? operations / bench_median(theirs, t->b->rounds) : 0;
    cli_table_cell(table, "%s", name);
    cli_table_cell(table, "1/%zu", share);
    cli_table_cell(table, "%zu", m);
    cli_table_cell(table, "%zu", w->n);
    cli_table_cell(table, "%zu", w->k);
    cli_table_cell(table, "%.1f", 1e-9 * our_rate);
    cli_table_cell(table, "%s", t->blis.sgemm ? cli_format("%.1f", 1e-9 * their_rate).text : "-");
    cli_table_cell(table, "%s", t->blis.sgemm ? cli_format("%.2f", our_rate / their_rate).text : "-");
    json_t *point = json_pack("{s:s, s:i, s:i, s:i, s:i, s:f}", "matrix", name, "width_divisor", (int)share, "m",
                              (int)m, "n", (int)w->n, "k", (int)w->k, "flops_per_second", our_rate);
    if (t->blis.sgemm) {
        json_object_set_new(point, "blis_flops_per_second", json_real(their_rate));
        json_object_set_new(point, "ratio", json_real(our_rate / their_rate));
    }
    json_array_append_new(list, point);
}

/* Both matrices of one FFN: up is cut in its outputs, down in its inputs. */
static mf_status measure_shape(contest *t, const ffn_shape *s, cli_table *table, json_t *list, mf_error *error)
{
    matrix up, down;
    bool ok = make_matrix(&up, s->d_ff, s->d_model);
    ok = make_matrix(&down, s->d_model, s->d_ff) && ok;
    size_t done = 0, total = CLI_COUNT(shares) * CLI_COUNT(row_counts);
    for (size_t i = 0; ok && i < CLI_COUNT(shares); i++)
        for (size_t r = 0; r < CLI_COUNT(row_counts); r++) {
            size_t width = s->d_ff / shares[i];
            cli_progress("kernels", (double)done++, (double)total);
            up.n = width, up.k = s->d_model;
            down.n = s->d_model, down.k = width;
            measure(t, &up, row_counts[r], cli_format("%zux%zu up", s->d_model, s->d_ff).text, shares[i], table, list);
            measure(t, &down, row_counts[r], cli_format("%zux%zu down", s->d_model, s->d_ff).text, shares[i], table,
                    list);
        }
    cli_progress_end();
    free_matrix(&up);
    free_matrix(&down);
    return ok ? MF_OK : (error->status = MF_E_NOMEM);
}

mf_status bench_kernels(const bench *b, json_t *out, mf_error *error)
{
    size_t widest = 16384, most = MAX_ROWS * widest;
    contest t = { .b = b,
                  .blis = open_blis(),
                  .a = random_floats(most),
                  .c = random_floats(most),
                  .c_blis = random_floats(most),
                  .scratch = aligned_alloc(64, MFK_SCRATCH_BYTES) };
    uint64_t cpu = mfk_cpu_detect();
    const char *level = getenv("MF_CPU");
    if (level) mfk_cpu_limit(&cpu, level);
    mfk_table_init(&t.table, cpu);
    bench_title(b, "Kernels: f32 GEMM on FFN matrices, one thread, %s; against %s%s, in GFLOP/s", mfk_cpu_name(cpu),
                t.blis.sgemm ? "BLIS with its kernels for " : "nothing: libblis.so.4 is not here",
                t.blis.sgemm ? t.blis.architecture : "");
    cli_table *table = cli_table_create("<matrix|width|rows|n|k|ours|BLIS|ratio");
    json_t *list = json_array();
    mf_status status = t.a && t.c && t.c_blis && t.scratch ? MF_OK : (error->status = MF_E_NOMEM);
    for (size_t i = 0; i < CLI_COUNT(shapes) && status == MF_OK; i++)
        status = measure_shape(&t, &shapes[i], table, list, error);
    if (status == MF_OK && !b->json) cli_table_print(table, stdout);
    json_object_set_new(out, "kernels",
                        json_pack("{s:s, s:s?, s:o}", "cpu", mfk_cpu_name(cpu), "blis",
                                  t.blis.sgemm ? t.blis.architecture : NULL, "points", list));
    cli_table_free(table);
    free(t.a);
    free(t.c);
    free(t.c_blis);
    free(t.scratch);
    return status;
}
