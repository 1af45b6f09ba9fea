/* bench_kernels.c - our matrix products on the two matrices of an FFN and on prefixes of them, beside other libraries'
 * (bench_peers.h) and the peaks of arithmetic. Ours reads the panels that a file stores; the others get the prefix as
 * a view of plain rows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench_kernels.h"

static const uint32_t row_counts[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256, 512 };
static const uint32_t quick_row_counts[] = { 1, 16, 128, 512 };
static const uint32_t shares[] = { 8, 4, 2, 1 }; /* of the width: 1 / share */
static const char *const types[] = { "f32", "bf16", "q8", "q4", "f16" };
enum { N_TYPE_IN_TURN = 4 };

/* ---- Measuring ---- */

static void multiply(contest *t, const point *p, size_t i)
{
    if (i == 0)
        bench_product_run(t->product, p->m, p->n, p->k, t->a, t->c);
    else
        t->peers.items[i - 1].run(t->sides[i].peer, t->a, t->c_peer);
}

/* Pools of threads spin for a while after their work, OpenMP's and OpenBLAS's for milliseconds. */
static void let_rest(const contest *t)
{
    if (t->b->n_thread > 1) usleep(40000);
}

/* Seconds of a product. One goes before that counts for nothing: others have used the caches meanwhile. */
static double take_turn(contest *t, const point *p, size_t i)
{
    let_rest(t);
    multiply(t, p, i);
    const double began = cli_now();
    for (int r = 0; r < t->sides[i].repeats; r++)
        multiply(t, p, i);
    return (cli_now() - began) / t->sides[i].repeats;
}

/* A turn takes 10 ms at least, so that it is long against the clock. */
static void set_repeats(contest *t, const point *p, size_t i)
{
    t->sides[i].repeats = 1;
    t->sides[i].repeats += (int)fmin(0.01 / take_turn(t, p, i), 1e6);
}

/* A peer that failed without a word would be the fastest. `c_peer` was all ones before, which no whole result is. */
static bool is_written(const contest *t, const point *p)
{
    const unsigned char *c = (const unsigned char *)t->c_peer;
    for (size_t j = 0; j < p->m * p->n * sizeof(*t->c_peer); j++)
        if (c[j] != 0xff) return true;
    return false;
}

/* In f32 to the numbers: elsewhere a peer need not look at A. They are in [-1, 1), so that a result is some sqrt(k) / 3,
 * which another order of the sum or bf16 change by far less than a hundredth of that. */
static mf_status compare(const contest *t, const point *p, size_t i, mf_error *error)
{
    const float most = 0.01F * sqrtf((float)p->k);
    bool right = is_written(t, p);
    for (size_t j = 0; j < p->m * p->n && right && strcmp(t->type, "f32") == 0; j++)
        right = fabsf(t->c[j] - t->c_peer[j]) <= most;
    if (right) return MF_OK;
    snprintf(error->detail, sizeof(error->detail), "%s: its product of %zu x %zu x %zu differs from ours",
             t->peers.items[i - 1].name, p->m, p->n, p->k);
    return error->status = MF_E_INVALID;
}

static void open_peer(contest *t, const point *p, size_t i)
{
    const bench_peer *peer = &t->peers.items[i - 1];
    side *s = &t->sides[i];
    s->kernels[0] = '\0';
    s->peer =
        peer->open(peer->option, (int)t->b->n_thread, (int)p->m, (int)p->n, (int)p->k, t->w, (int)p->w_row_floats);
    s->takes_part = s->peer != NULL;
    const char *kernels = s->takes_part && peer->kernels ? peer->kernels(s->peer) : NULL;
    if (kernels) snprintf(s->kernels, sizeof(s->kernels), "%s", kernels);
}

static void measure(contest *t, const point *p)
{
    const double operations = 2.0 * (double)p->m * (double)p->n * (double)p->k;
    for (uint32_t round = 0; round < t->b->rounds; round++) {
        for (size_t i = 0; i <= t->peers.count; i++) {
            side *s = &t->sides[i];
            if (!s->takes_part) continue;
            s->seconds[round] = take_turn(t, p, i);
            s->ratio[round] = s->seconds[round] / t->sides[0].seconds[round];
        }
        let_rest(t);
        t->peak[round] = t->in_bytes ? bench_roof_dot(t->roof) : bench_roof_fma(t->roof);
        t->share[round] = operations / t->sides[0].seconds[round] / t->peak[round];
    }
}

/* ---- The suite ---- */

static mf_status run_point(contest *t, const point *p, mf_error *error)
{
    mf_status status = MF_OK;
    t->sides[0].takes_part = true;
    set_repeats(t, p, 0);
    for (size_t i = 1; i <= t->peers.count && status == MF_OK; i++) {
        open_peer(t, p, i);
        if (!t->sides[i].takes_part) continue;
        memset(t->c_peer, 0xff, p->m * p->n * sizeof(*t->c_peer));
        set_repeats(t, p, i);
        status = compare(t, p, i, error);
    }
    if (status == MF_OK) {
        measure(t, p);
        bench_kernels_report(t, p);
    }
    for (size_t i = 1; i <= t->peers.count; i++) {
        if (t->sides[i].peer) t->peers.items[i - 1].close(t->sides[i].peer);
        t->sides[i].peer = NULL; /* the next point may fail before it opens this one */
    }
    return status;
}

/* Every width, and every number of rows that was asked for. */
static mf_status run_matrix(contest *t, const bench_shape *s, bool down, mf_error *error)
{
    const bench_products *asked = &t->b->products;
    const uint32_t *rows = asked->rows ? &asked->rows : asked->quick ? quick_row_counts : row_counts;
    const size_t n_rows = asked->rows ? 1 : asked->quick ? CLI_COUNT(quick_row_counts) : CLI_COUNT(row_counts);
    const cli_text name = cli_format("%ux%u %s", s->d_model, s->d_ff, down ? "down" : "up");
    mf_status status = MF_OK;
    for (size_t i = 0; i < CLI_COUNT(shares); i++)
        for (size_t r = 0; r < n_rows && status == MF_OK; r++) {
            if (asked->quick && shares[i] != 8 && shares[i] != 1) continue;
            cli_progress(name.text, (double)(i * n_rows + r), (double)(n_rows * CLI_COUNT(shares)));
            const size_t width = s->d_ff / shares[i];
            const point p = { .matrix = name.text,
                              .divisor = shares[i],
                              .m = rows[r],
                              .n = down ? s->d_model : width,
                              .k = down ? width : s->d_model,
                              .w_row_floats = down ? s->d_ff : s->d_model };
            status = run_point(t, &p, error);
        }
    cli_progress_end();
    return status;
}

static float *random_floats(size_t rows, size_t row_floats)
{
    float *x = bench_allocate(rows, row_floats * sizeof(*x));
    uint64_t state = 1;
    for (size_t i = 0; x && i < rows * row_floats; i++) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        x[i] = (float)(int32_t)(state >> 32) * 0x1p-31F;
    }
    return x;
}

static mf_status run_shape(contest *t, const bench_shape *s, mf_error *error)
{
    if (s->d_model % 32 != 0 || s->d_ff % 256 != 0) {
        snprintf(error->detail, sizeof(error->detail),
                 "kernels want a --d-model of whole 32s and a --d-ff of whole 256s");
        return error->status = MF_E_INVALID;
    }
    const size_t widest = s->d_ff > s->d_model ? s->d_ff : s->d_model,
                 most_rows = row_counts[CLI_COUNT(row_counts) - 1];
    t->w = random_floats(s->d_ff, s->d_model);
    t->a = random_floats(most_rows, widest);
    t->c = random_floats(most_rows, widest);
    t->c_peer = random_floats(most_rows, widest);
    mf_status status = t->w && t->a && t->c && t->c_peer ? MF_OK : (error->status = MF_E_NOMEM);
    bench_title(
        t->b, "Products: %s weights, d_model %u, d_ff %u; %u thread%s; in G%s/s, a multiply-add counting as two",
        t->type, s->d_model, s->d_ff, t->b->n_thread, t->b->n_thread == 1 ? "" : "s", t->in_bytes ? "OP" : "FLOP");
    t->table = bench_kernels_table(t);
    for (int down = 0; down < 2 && status == MF_OK; down++) {
        const size_t n = down ? s->d_model : s->d_ff, k = down ? s->d_ff : s->d_model;
        cli_progress_text("packing %s", t->type);
        status = bench_product_create(&t->product, t->type, t->b->n_thread, most_rows, n, k, t->w, k, error);
        if (status == MF_OK) {
            t->cpu = bench_product_cpu(t->product);
            status = run_matrix(t, s, down, error);
        }
        if (status == MF_OK && down) bench_kernels_print(t);
        bench_product_free(t->product);
    }
    cli_table_free(t->table);
    free(t->w);
    free(t->a);
    free(t->c);
    free(t->c_peer);
    return status;
}

mf_status bench_kernels(const bench *b, json_t *out, mf_error *error)
{
    contest *t = calloc(1, sizeof(*t));
    if (!t) return error->status = MF_E_NOMEM;
    t->b = b;
    t->list = json_array();
    t->roof = bench_roof_create(b->n_thread, 0);
    mf_status status = t->roof ? MF_OK : (error->status = MF_E_NOMEM);
    for (size_t i = 0; i < CLI_COUNT(types) && status == MF_OK; i++) {
        if (b->products.type ? strcmp(b->products.type, types[i]) != 0 : i >= N_TYPE_IN_TURN) continue;
        t->type = types[i];
        t->in_bytes = t->type[0] == 'q';
        status = bench_peers_load(&t->peers, &b->products.peers, t->type, error);
        for (size_t s = 0; s < b->products.n_shape && status == MF_OK; s++)
            status = run_shape(t, &b->products.shapes[s], error);
    }
    json_object_set_new(out, "kernels", json_pack("{s:s?, s:o}", "cpu", t->cpu, "points", t->list));
    bench_roof_free(t->roof);
    free(t);
    return status;
}
