/* checkkernel_vec.c - everything that is no matrix product.
 *
 * The scalar kernels are held to f64 computations by the C library; all others to the scalar kernels' bits. */
#include "checkkernel.h"
#include "scalar/math_scalar.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_LONGEST = 1100 };
static const size_t n_list[] = { 1,  2,  3,  7,  8,  9,  15, 16,  17,  23,  24,  31,  32,   33,
                                 47, 48, 63, 64, 65, 79, 80, 127, 128, 129, 512, 777, 1024, 1100 };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static bool at_scalar(const check_run *run)
{
    return run->table.cpu == 0;
}

/* Four arrays that end at unmapped pages, and two plain ones for the reference. */
typedef struct arrays {
    guard guards[4];
    float *x, *w, *b, *y; /* n floats each, at the unmapped page */
    float want[N_LONGEST];
    double exact[N_LONGEST];
} arrays;

static void arrays_open(arrays *s)
{
    for (size_t i = 0; i < 4; i++)
        s->guards[i] = guard_open(N_LONGEST * sizeof(float));
}

static void arrays_close(arrays *s)
{
    for (size_t i = 0; i < 4; i++)
        guard_close(&s->guards[i]);
}

static void arrays_fill(arrays *s, check_run *run, check_input input, size_t n)
{
    float **each[] = { &s->x, &s->w, &s->b, &s->y };
    for (size_t i = 0; i < 4; i++) {
        *each[i] = guard_poisoned(&s->guards[i], n * sizeof(float));
        check_fill(run, input, *each[i], n);
    }
}

/* y before its start must be as guard_poisoned left it. */
static bool untouched_before(const float *y)
{
    uint32_t word;
    memcpy(&word, y - 1, sizeof word);
    return word == 0xffffffffu;
}

static void norm_reference(arrays *s, size_t n, bool centred, const float *weight, const float *bias, double eps)
{
    double mean = 0, square = 0;
    for (size_t i = 0; i < n && centred; i++)
        mean += (double)s->x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        square += ((double)s->x[i] - mean) * ((double)s->x[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++) {
        double t = ((double)s->x[i] - mean) / sqrt(square + eps);
        s->exact[i] = t * (weight ? (double)weight[i] : 1.0) + (bias ? (double)bias[i] : 0.0);
    }
}

static void norm_once(check_run *run, const mfk_table *t, const char *slot, const arrays *s, size_t n, bool weight,
                      bool bias, const float *x, float *y)
{
    (void)run;
    if (strcmp(slot, "rms_norm") == 0)
        t->rms_norm(n, x, weight ? s->w : NULL, 1e-5f, y);
    else
        t->layer_norm(n, x, weight ? s->w : NULL, bias ? s->b : NULL, 1e-5f, y);
}

void check_norms(check_run *run, const char *slot)
{
    arrays s;
    char shape[128];
    bool centred = strcmp(slot, "layer_norm") == 0;
    arrays_open(&s);
    for (check_input input = 0; input < INPUTS; input++) {
        for (size_t i = 0; i < COUNT(n_list); i++) {
            size_t n = n_list[i];
            for (int given = 0; given < 4; given++) {
                bool weight = given & 1, bias = given & 2;
                arrays_fill(&s, run, input, n);
                snprintf(shape, sizeof shape, "n %zu input %d weight %d bias %d", n, (int)input, weight, bias);
                norm_once(run, &run->scalar, slot, &s, n, weight, bias, s.x, s.want);
                if (at_scalar(run) && input == ORDINARY && n > 2) {
                    norm_reference(&s, n, centred, weight ? s.w : NULL, bias && centred ? s.b : NULL, 1e-5);
                    check_near(run, s.want, s.exact, n, 1.0, 1e-5, shape);
                }
                norm_once(run, &run->table, slot, &s, n, weight, bias, s.x, s.y);
                check_equal(run, s.y, s.want, n, shape);
                check_true(run, untouched_before(s.y), shape);
                norm_once(run, &run->table, slot, &s, n, weight, bias, s.x, s.x);
                check_equal(run, s.x, s.want, n, "in place");
            }
        }
    }
    arrays_close(&s);
}

static void element_once(const mfk_table *t, const char *slot, int variant, size_t n, const arrays *s, const float *x,
                         float *y)
{
    if (strcmp(slot, "activate") == 0)
        t->activate((mfk_activation)variant, n, x, y);
    else if (strcmp(slot, "mul") == 0)
        t->mul(n, x, s->w, y);
    else if (strcmp(slot, "add") == 0)
        t->add(n, x, s->w, y);
    else
        t->axpy(n, s->w[0], x, y);
}

static double element_exact(const char *slot, int variant, double x, double w, double w0, double y)
{
    if (strcmp(slot, "mul") == 0) return x * w;
    if (strcmp(slot, "add") == 0) return x + w;
    if (strcmp(slot, "axpy") == 0) return w0 * x + y;
    switch ((mfk_activation)variant) {
    case MFK_SILU:
        return x / (1 + exp(-x));
    case MFK_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case MFK_GELU_ERF:
        return 0.5 * x * (1 + erf(x / sqrt(2)));
    case MFK_RELU:
        return x > 0 ? x : 0;
    case MFK_TANH:
        return tanh(x);
    }
    return NAN;
}

static void check_element(check_run *run, arrays *s, const char *slot, check_input input, int variant, size_t n)
{
    char shape[128];
    arrays_fill(s, run, input, n);
    snprintf(shape, sizeof shape, "n %zu input %d variant %d", n, (int)input, variant);
    memcpy(s->want, s->y, n * sizeof(float)); /* axpy reads y */
    for (size_t i = 0; i < n; i++)
        s->exact[i] = element_exact(slot, variant, (double)s->x[i], (double)s->w[i], (double)s->w[0], (double)s->y[i]);
    element_once(&run->scalar, slot, variant, n, s, s->x, s->want);
    if (at_scalar(run) && input == ORDINARY) check_near(run, s->want, s->exact, n, 1.0, 3e-7, shape);
    element_once(&run->table, slot, variant, n, s, s->x, s->y);
    check_equal(run, s->y, s->want, n, shape);
    check_true(run, untouched_before(s->y), shape);
    if (strcmp(slot, "axpy") == 0) return;
    element_once(&run->table, slot, variant, n, s, s->x, s->x);
    check_equal(run, s->x, s->want, n, "in place");
}

static void check_rope(check_run *run)
{
    static const size_t d_heads[] = { 2, 6, 16, 30, 32, 48, 64, 80, 128, 256 };
    arrays s;
    char shape[128];
    arrays_open(&s);
    for (size_t i = 0; i < COUNT(d_heads); i++) {
        size_t d = d_heads[i], n_head = 1 + check_below(run, N_LONGEST / d < 5 ? N_LONGEST / d : 5), n = n_head * d;
        arrays_fill(&s, run, ORDINARY, n);
        float *cosines = s.w + n - d / 2, *sines = s.b + n - d / 2; /* against the unmapped pages */
        for (size_t h = 0; h < n_head; h++) {
            for (size_t j = 0; j < d / 2; j++) {
                double a = (double)s.x[h * d + j], b = (double)s.x[h * d + j + d / 2];
                s.exact[h * d + j] = a * (double)cosines[j] - b * (double)sines[j];
                s.exact[h * d + j + d / 2] = b * (double)cosines[j] + a * (double)sines[j];
            }
        }
        memcpy(s.want, s.x, n * sizeof(float));
        run->scalar.rope(n_head, d, cosines, sines, s.want);
        snprintf(shape, sizeof shape, "n_head %zu d_head %zu", n_head, d);
        check_near(run, s.want, s.exact, n, 1.0, 3e-7, shape);
        run->table.rope(n_head, d, cosines, sines, s.x);
        check_equal(run, s.x, s.want, n, shape);
    }
    arrays_close(&s);
}

static void check_softmax_stats(check_run *run)
{
    arrays s;
    char shape[128];
    arrays_open(&s);
    for (check_input input = 0; input < INPUTS; input++) {
        for (size_t i = 0; i < COUNT(n_list); i++) {
            size_t n = n_list[i];
            float want[2], got[2];
            arrays_fill(&s, run, input, n);
            if (n > 3) s.x[check_below(run, n)] = -INFINITY; /* a token that a filter forbids */
            run->scalar.softmax_stats(n, s.x, &want[0], &want[1]);
            run->table.softmax_stats(n, s.x, &got[0], &got[1]);
            snprintf(shape, sizeof shape, "n %zu input %d", n, (int)input);
            check_equal(run, got, want, 2, shape);
            double max = -INFINITY, sum = 0;
            for (size_t j = 0; j < n; j++)
                max = fmax(max, (double)s.x[j]);
            for (size_t j = 0; j < n; j++)
                sum += exp((double)s.x[j] - max);
            check_near(run, &want[1], &sum, 1, sum, 1e-6, shape);
            check_true(run, (double)want[0] == max, shape);
        }
    }
    arrays_close(&s);
}

static void check_dot(check_run *run)
{
    static const check_input inputs[] = { ORDINARY, TINY, HUGE_VALUES, SPECIAL };
    arrays s;
    char shape[128];
    arrays_open(&s);
    for (size_t input = 0; input < COUNT(inputs); input++)
        for (size_t i = 0; i < COUNT(n_list); i++) {
            const size_t n = n_list[i];
            arrays_fill(&s, run, inputs[input], n);
            const float want = run->scalar.dot(n, s.x, s.w), got = run->table.dot(n, s.x, s.w);
            snprintf(shape, sizeof shape, "n %zu input %d", n, (int)inputs[input]);
            check_equal(run, &got, &want, 1, shape);
            double exact = 0;
            for (size_t j = 0; j < n; j++)
                exact += (double)s.x[j] * (double)s.w[j];
            if (inputs[input] == ORDINARY) check_near(run, &want, &exact, 1, sqrt((double)n), 1e-6, shape);
        }
    arrays_close(&s);
}

/* In f64, what the reference makes of gates s->x and of s->y. */
static void sparse_glu_exact(arrays *s, size_t n, double deviations)
{
    double mean = 0, square = 0;
    for (size_t i = 0; i < n; i++)
        mean += (double)s->x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        square += ((double)s->x[i] - mean) * ((double)s->x[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++) {
        const double above = fmax(0, (double)s->x[i] - (mean + deviations * sqrt(square)));
        s->exact[i] = element_exact("activate", MFK_GELU_TANH, above, 0, 0, 0) * (double)s->y[i];
    }
}

static void check_sparse_glu(check_run *run)
{
    static const check_input inputs[] = { ORDINARY, TINY, HUGE_VALUES, SPECIAL };
    static const float deviations[] = { 1.6448535f, 0.5f, -1.0f };
    arrays s;
    char shape[128];
    arrays_open(&s);
    for (size_t input = 0; input < COUNT(inputs); input++)
        for (size_t d = 0; d < COUNT(deviations); d++)
            for (size_t i = 0; i < COUNT(n_list); i++) {
                const size_t n = n_list[i];
                arrays_fill(&s, run, inputs[input], n);
                memcpy(s.want, s.y, n * sizeof(float));
                sparse_glu_exact(&s, n, (double)deviations[d]);
                run->scalar.sparse_glu(MFK_GELU_TANH, n, s.x, deviations[d], s.want);
                snprintf(shape, sizeof shape, "n %zu input %d deviations %g", n, (int)inputs[input],
                         (double)deviations[d]);
                if (at_scalar(run) && inputs[input] == ORDINARY) check_near(run, s.want, s.exact, n, 1.0, 1e-6, shape);
                run->table.sparse_glu(MFK_GELU_TANH, n, s.x, deviations[d], s.y);
                check_equal(run, s.y, s.want, n, shape);
                check_true(run, untouched_before(s.y), shape);
            }
    arrays_close(&s);
}

void check_elementwise(check_run *run, const char *slot)
{
    static const check_input inputs[] = { ORDINARY, TINY, HUGE_VALUES, SPECIAL };
    arrays s;
    int variants = strcmp(slot, "activate") == 0 ? 5 : 1;
    if (strcmp(slot, "rope") == 0) {
        check_rope(run);
        return;
    }
    if (strcmp(slot, "softmax_stats") == 0) {
        check_softmax_stats(run);
        return;
    }
    if (strcmp(slot, "dot") == 0) {
        check_dot(run);
        return;
    }
    if (strcmp(slot, "sparse_glu") == 0) {
        check_sparse_glu(run);
        return;
    }
    arrays_open(&s);
    for (size_t input = 0; input < COUNT(inputs); input++)
        for (int variant = 0; variant < variants; variant++)
            for (size_t i = 0; i < COUNT(n_list); i++)
                check_element(run, &s, slot, inputs[input], variant, n_list[i]);
    arrays_close(&s);
}

static void store_once(const mfk_table *t, const char *slot, mfk_type type, size_t n, const float *x, void *out)
{
    if (strcmp(slot, "store_key") == 0)
        t->store_key(type, n, x, out, n % MFK_PAGE);
    else
        t->store_value(type, n, x, out, n % MFK_PAGE);
}

static void check_panel_row(check_run *run, mfk_type type)
{
    enum { N = 40, K = 96 };
    float *b = malloc(N * K * sizeof *b);
    guard panels = guard_open(mfk_panels_bytes(type, N, K)), out = guard_open(K * sizeof(float));
    void *at = guard_end(&panels, mfk_panels_bytes(type, N, K));
    if (!b) exit(2);
    check_fill(run, ORDINARY, b, N * K);
    mfk_pack(type, NULL, N, K, b, K, at, mfk_panel_bytes(type, K));
    mfk_unpack(type, NULL, N, K, at, mfk_panel_bytes(type, K), b, K);
    for (size_t i = 0; i < N; i++) {
        for (size_t k = 32; k <= K; k += 32) {
            float *y = guard_poisoned(&out, k * sizeof(float));
            run->table.panel_row(type, k, NULL, at, mfk_panel_bytes(type, K), i, y);
            check_equal(run, y, b + i * K, k, "row of a panel tensor");
            check_true(run, k == K || untouched_before(y), "wrote before the row");
        }
    }
    free(b);
    guard_close(&panels);
    guard_close(&out);
}

/* By the definition of docs/arithmetic.md, from numbers in f64 where they do not matter. */
static void quantized(size_t n, const float *x, mfk_q8_block *y)
{
    float most = 0;
    bool finite = true;
    int sum[2] = { 0, 0 };
    for (size_t i = 0; i < n; i++) {
        finite = finite && isfinite(x[i]);
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    float r = 127.0f / most;
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        float product = i < n ? x[i] * r : 0;
        y->q[i] = (int8_t)(finite && most >= 0x1p-100f ? nearbyint((double)product) : 0);
        sum[i / 16] += y->q[i];
    }
    y->scale = !finite ? NAN : most >= 0x1p-100f ? most / 127.0f : 0.0f;
    y->offset = -128 * (sum[0] + sum[1]);
    y->half[0] = -128 * sum[0];
    y->half[1] = -128 * sum[1];
}

void check_quantize(check_run *run)
{
    enum { MOST = 160 };
    guard in = guard_open(MOST * sizeof(float)), out = guard_open(MOST / MFK_BLOCK * sizeof(mfk_q8_block));
    char shape[64];
    for (check_input input = 0; input <= SPECIAL; input++) {
        for (size_t n = 1; n <= MOST && input != INPUTS; n++) {
            const size_t blocks = (n + MFK_BLOCK - 1) / MFK_BLOCK;
            float *x = guard_poisoned(&in, n * sizeof *x);
            mfk_q8_block *y = guard_poisoned(&out, blocks * sizeof *y), want;
            check_fill(run, input, x, n);
            run->table.quantize(n, x, y);
            for (size_t b = 0; b < blocks; b++) {
                quantized(n - b * MFK_BLOCK < MFK_BLOCK ? n - b * MFK_BLOCK : MFK_BLOCK, x + b * MFK_BLOCK, &want);
                snprintf(shape, sizeof shape, "n %zu input %d block %zu", n, (int)input, b);
                check_equal(run, &y[b].scale, &want.scale, 1, shape);
                check_true(run, memcmp(&y[b].offset, &want.offset, sizeof want - sizeof want.scale) == 0, shape);
            }
        }
    }
    guard_close(&in);
    guard_close(&out);
}

/* x as a cache of `type` rounds it. */
static void rounded(mfk_type type, size_t n, const float *x, float *y)
{
    float most = 0, scale;
    bool finite = true;
    for (size_t i = 0; i < n; i++) {
        finite = finite && isfinite(x[i]);
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    scale = !finite ? NAN : most < 0x1p-100f ? 0.0f : most / 127.0f;
    for (size_t i = 0; i < n; i++) {
        if (type == MFK_F32) y[i] = x[i];
        if (type == MFK_BF16) y[i] = mfk_bf16_to_f32(mfk_f32_to_bf16(x[i]));
        if (type == MFK_Q8) y[i] = scale > 0.0f ? scale * (float)(int)rintf(x[i] * (127.0f / most)) : scale;
    }
}

/* A block's row in f32. */
static void read_slot(mfk_type type, bool key, size_t n, const void *block, float *y)
{
    size_t slot = n % MFK_PAGE;
    for (size_t d = 0; d < n; d++) {
        size_t i = key ? d * MFK_PAGE + slot : slot * n + d;
        if (type == MFK_F32) y[d] = ((const float *)block)[i];
        if (type == MFK_BF16) y[d] = mfk_bf16_to_f32(((const uint16_t *)block)[i]);
        if (type != MFK_Q8) continue;
        float scale;
        memcpy(&scale, (const char *)block + n * MFK_PAGE + slot * sizeof scale, sizeof scale);
        y[d] = scale * (float)((const int8_t *)block)[i];
    }
}

static const mfk_type cache_types[] = { MFK_F32, MFK_BF16, MFK_Q8 };

void check_cache_stores(check_run *run, const char *slot)
{
    static const check_input inputs[] = { ORDINARY, SPECIAL };
    enum { D_MAX = 512 };
    char shape[128];
    float wanted[D_MAX], stored[D_MAX];
    if (strcmp(slot, "panel_row") == 0) {
        check_panel_row(run, MFK_F32);
        check_panel_row(run, MFK_BF16);
        return;
    }
    for (size_t t = 0; t < COUNT(cache_types); t++) {
        mfk_type type = cache_types[t];
        bool key = strcmp(slot, "store_key") == 0;
        guard in = guard_open(D_MAX * 4), out = guard_open(D_MAX * MFK_PAGE * 4),
              want = guard_open(D_MAX * MFK_PAGE * 4);
        for (size_t i = 0; i < 2 * COUNT(n_list); i++) {
            size_t n = n_list[i / 2];
            if (n > D_MAX) break;
            size_t bytes = mfk_cache_block_bytes(type, n);
            float *x = guard_poisoned(&in, n * sizeof(float));
            void *got = guard_poisoned(&out, bytes), *right = guard_poisoned(&want, bytes);
            check_fill(run, inputs[i % 2], x, n);
            store_once(&run->scalar, slot, type, n, x, right);
            store_once(&run->table, slot, type, n, x, got);
            snprintf(shape, sizeof shape, "type %d n %zu input %d", (int)type, n, (int)inputs[i % 2]);
            check_true(run, memcmp(got, right, bytes) == 0, shape); /* the other slots stay NaN */
            rounded(type, n, x, wanted);
            read_slot(type, key, n, got, stored);
            check_equal(run, stored, wanted, n, shape);
        }
        guard_close(&in);
        guard_close(&out);
        guard_close(&want);
    }
}

/* ---- Attention ---------------------------------------------------------------------------------- */

enum { D_HEAD_MAX = 128, POSITIONS = 2200, PAGES = (POSITIONS + MFK_PAGE - 1) / MFK_PAGE };

typedef struct cache {
    mfk_type type;
    size_t d_head, block_bytes;
    float *keys, *values; /* [POSITIONS][d_head], as rounded by the type */
    guard pages[PAGES];   /* each ends at an unmapped page */
    const void *page[PAGES];
    float *q, *out, *want; /* [MFK_ATTEND_ROWS][d_head] */
    void *scratch;
} cache;

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) exit(2);
    return p;
}

static void cache_open(cache *c, mfk_type type, size_t d_head)
{
    c->type = type;
    c->d_head = d_head;
    c->block_bytes = mfk_cache_block_bytes(type, d_head);
    c->keys = allocate(POSITIONS * d_head * sizeof(float));
    c->values = allocate(POSITIONS * d_head * sizeof(float));
    c->q = allocate(MFK_ATTEND_ROWS * d_head * sizeof(float));
    c->out = allocate(MFK_ATTEND_ROWS * d_head * sizeof(float));
    c->want = allocate(MFK_ATTEND_ROWS * d_head * sizeof(float));
    c->scratch = allocate(MFK_SCRATCH_BYTES);
    for (size_t i = 0; i < PAGES; i++) {
        c->pages[i] = guard_open(2 * c->block_bytes);
        c->page[i] = guard_poisoned(&c->pages[i], 2 * c->block_bytes);
    }
}

static void cache_close(cache *c)
{
    free(c->keys);
    free(c->values);
    free(c->q);
    free(c->out);
    free(c->want);
    free(c->scratch);
    for (size_t i = 0; i < PAGES; i++)
        guard_close(&c->pages[i]);
}

static void cache_fill(cache *c, check_run *run, check_input input)
{
    check_fill(run, input, c->keys, POSITIONS * c->d_head);
    check_fill(run, input, c->values, POSITIONS * c->d_head);
    check_fill(run, input, c->q, MFK_ATTEND_ROWS * c->d_head);
    for (float *x = c->keys, *y = c->values; x < c->keys + POSITIONS * c->d_head; x += c->d_head, y += c->d_head) {
        rounded(c->type, c->d_head, x, x);
        rounded(c->type, c->d_head, y, y);
    }
}

/* Stores the positions [begin, end) alone; every other key and value is NaN. */
static void cache_write(cache *c, check_run *run, size_t begin, size_t end)
{
    for (size_t i = 0; i < PAGES; i++)
        guard_poisoned(&c->pages[i], 2 * c->block_bytes);
    for (size_t j = begin; j < end; j++) {
        char *page = guard_end(&c->pages[j / MFK_PAGE], 2 * c->block_bytes);
        run->scalar.store_key(c->type, c->d_head, c->keys + j * c->d_head, page, j % MFK_PAGE);
        run->scalar.store_value(c->type, c->d_head, c->values + j * c->d_head, page + c->block_bytes, j % MFK_PAGE);
    }
}

static double exact_score(const cache *c, const mfk_attend_args *args, size_t row, size_t j)
{
    double s = 0;
    for (size_t d = 0; d < c->d_head; d++)
        s += (double)args->q[row][d] * (double)c->keys[j * c->d_head + d];
    s *= (double)args->scale;
    if (args->softcap > 0) s = (double)args->softcap * tanh(s / (double)args->softcap);
    if (args->slope) s -= (double)args->slope[row] * ((double)args->query_at[row] - (double)j);
    return s;
}

static void attend_reference(const cache *c, const mfk_attend_args *args, size_t row, double *out)
{
    double max = -INFINITY, sum = 0;
    for (size_t j = args->key_begin[row]; j < args->key_end[row]; j++)
        max = fmax(max, exact_score(c, args, row, j));
    memset(out, 0, c->d_head * sizeof *out);
    for (size_t j = args->key_begin[row]; j < args->key_end[row]; j++) {
        double e = exp(exact_score(c, args, row, j) - max);
        sum += e;
        for (size_t d = 0; d < c->d_head; d++)
            out[d] += e * (double)c->values[j * c->d_head + d];
    }
    for (size_t d = 0; d < c->d_head; d++)
        out[d] /= sum;
}

/* query_at, slope: of ALiBi. */
typedef struct ranges {
    uint32_t begin[MFK_ATTEND_ROWS], end[MFK_ATTEND_ROWS], query_at[MFK_ATTEND_ROWS];
    float slope[MFK_ATTEND_ROWS];
} ranges;

/* A prompt's rows one after another, one token's heads, a sliding window, or anything. */
static void choose_ranges(check_run *run, ranges *r, size_t n_row)
{
    static const uint32_t edges[] = {
        1, 15, 16, 17, 63, 64, 65, 128, 130, 500, 1023, 1024, 1025, 1100, 2047, 2049, 2180
    };
    uint32_t first = edges[check_below(run, COUNT(edges))], window = edges[check_below(run, COUNT(edges))];
    size_t kind = check_below(run, 4);
    for (size_t i = 0; i < n_row; i++) {
        uint32_t end = first + (kind == 1 ? 0 : (uint32_t)i);
        uint32_t begin = kind == 2 && end > window ? end - window : 0;
        if (kind == 3) {
            begin = (uint32_t)check_below(run, POSITIONS - 1);
            end = begin + 1 + (uint32_t)check_below(run, POSITIONS - 1 - begin);
        }
        r->begin[i] = begin;
        r->end[i] = end;
        r->query_at[i] = end - 1 + (kind == 3 ? (uint32_t)check_below(run, 40) : 0); /* near: scores stay small */
        r->slope[i] = mfk_alibi_slope(8.0f, check_below(run, 12), 12);
    }
}

static void check_fill_nan(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = NAN;
}

/* The same from parts, one for a span and row, merged in ascending order. */
static void attend_in_parts(check_run *run, const mfk_attend_args *whole, const ranges *r, float *const *out)
{
    enum { PART = D_HEAD_MAX + 2 };
    static float merged[MFK_ATTEND_ROWS][PART], next[MFK_ATTEND_ROWS][PART];
    for (uint32_t first = 0; first < POSITIONS; first += MFK_SPAN) {
        mfk_attend_args args = *whole;
        const float *q[MFK_ATTEND_ROWS];
        float *part[MFK_ATTEND_ROWS];
        size_t row[MFK_ATTEND_ROWS];
        ranges here;
        args.n_row = 0;
        for (size_t i = 0; i < whole->n_row; i++) {
            uint32_t begin = r->begin[i] > first ? r->begin[i] : first;
            uint32_t end = r->end[i] < first + MFK_SPAN ? r->end[i] : first + MFK_SPAN;
            if (begin >= end) continue;
            here.begin[args.n_row] = begin;
            here.end[args.n_row] = end;
            here.query_at[args.n_row] = r->query_at[i];
            here.slope[args.n_row] = r->slope[i];
            q[args.n_row] = whole->q[i];
            part[args.n_row] = r->begin[i] >= first ? merged[i] : next[i];
            row[args.n_row++] = i;
        }
        args.q = q;
        args.part = part;
        args.key_begin = here.begin;
        args.key_end = here.end;
        args.query_at = here.query_at;
        if (whole->slope) args.slope = here.slope;
        if (args.n_row > 0) run->table.attend(&args);
        for (size_t k = 0; k < args.n_row; k++)
            if (part[k] == next[row[k]]) run->table.attend_merge(args.d_head, merged[row[k]], next[row[k]]);
    }
    for (size_t i = 0; i < whole->n_row; i++)
        for (size_t d = 0; d < whole->d_head; d++)
            out[i][d] = merged[i][d] / merged[i][whole->d_head + 1];
}

static void check_attend_once(check_run *run, cache *c, check_input input)
{
    const float *q[MFK_ATTEND_ROWS];
    float *out[MFK_ATTEND_ROWS], *want[MFK_ATTEND_ROWS];
    double exact[D_HEAD_MAX];
    ranges r;
    char shape[160];
    size_t n_row = 1 + check_below(run, MFK_ATTEND_ROWS);
    uint32_t lowest = UINT32_MAX, highest = 0;
    choose_ranges(run, &r, n_row);
    for (size_t i = 0; i < n_row; i++) {
        q[i] = c->q + i * c->d_head;
        out[i] = c->out + i * c->d_head;
        want[i] = c->want + i * c->d_head;
        lowest = r.begin[i] < lowest ? r.begin[i] : lowest;
        highest = r.end[i] > highest ? r.end[i] : highest;
    }
    size_t poisoned = lowest + check_below(run, highest - lowest); /* rows that do not see it must not notice */
    if (check_below(run, 2) == 0) check_fill_nan(c->values + poisoned * c->d_head, c->d_head);
    cache_write(c, run, lowest, highest);
    mfk_attend_args args = { .n_row = n_row, .d_head = c->d_head, .type = c->type, .scale = 0.125f };
    args.softcap = check_below(run, 3) == 0 ? 20.0f : 0.0f;
    args.q = q;
    args.out = want;
    args.key_begin = r.begin;
    args.key_end = r.end;
    args.query_at = r.query_at;
    if (check_below(run, 2) == 0) args.slope = r.slope;
    args.pages = c->page;
    args.v_offset_bytes = c->block_bytes;
    args.scratch = c->scratch;
    run->scalar.attend(&args);
    args.out = out;
    run->table.attend(&args);
    for (size_t i = 0; i < n_row; i++) {
        snprintf(shape, sizeof shape, "type %d d_head %zu n_row %zu row %zu keys %u..%u softcap %g slope %g input %d",
                 (int)c->type, c->d_head, n_row, i, r.begin[i], r.end[i], (double)args.softcap,
                 args.slope ? (double)r.slope[i] : 0.0, (int)input);
        check_equal(run, out[i], want[i], c->d_head, shape);
    }
    attend_in_parts(run, &args, &r, out);
    for (size_t i = 0; i < n_row; i++)
        check_equal(run, out[i], want[i], c->d_head, "in parts");
    if (!at_scalar(run) || input != ORDINARY || isnan(want[n_row - 1][0])) return;
    attend_reference(c, &args, n_row - 1, exact);
    check_near(run, want[n_row - 1], exact, c->d_head, 1.0, 1e-5, shape);
}

/* A row's bits do not depend on the rows beside it, and one row's masked keys may be NaN while others use
 * theirs: row 0 sees a window inside what row 1 sees. */
static void check_attend_alone(check_run *run, cache *c)
{
    const float *q[2] = { c->q, c->q + c->d_head };
    float *out[2] = { c->out, c->out + c->d_head };
    uint32_t begin[2] = { 70, 0 }, end[2] = { 130, 1500 };
    mfk_attend_args args = { .n_row = 2,
                             .d_head = c->d_head,
                             .type = c->type,
                             .scale = 0.1f,
                             .q = q,
                             .out = out,
                             .key_begin = begin,
                             .key_end = end,
                             .pages = c->page,
                             .v_offset_bytes = c->block_bytes,
                             .scratch = c->scratch };
    cache_write(c, run, 0, 1500);
    run->table.attend(&args);
    memcpy(c->want, c->out, c->d_head * sizeof(float));
    cache_write(c, run, 70, 130);
    args.n_row = 1;
    run->table.attend(&args);
    check_equal(run, c->out, c->want, c->d_head, "a row alone, all other keys NaN");
}

void check_attend(check_run *run)
{
    static const size_t d_heads[] = { 16, 32, 48, 64, 80, 128 };
    cache c;
    for (size_t t = 0; t < COUNT(cache_types); t++) {
        for (size_t i = 0; i < COUNT(d_heads); i++) {
            cache_open(&c, cache_types[t], d_heads[i]);
            for (int repeat = 0; repeat < 10; repeat++) {
                check_input input = repeat < 7    ? ORDINARY
                                    : repeat == 7 ? TINY
                                    : repeat == 8 ? ALTERNATING
                                                  : HUGE_VALUES;
                cache_fill(&c, run, input);
                check_attend_once(run, &c, input);
            }
            check_attend_alone(run, &c);
            cache_close(&c);
        }
    }
}

void check_attend_merge(check_run *run)
{
    enum { D = 512, PART = D + 2 };
    static float part[PART], want[PART];
    guard end = guard_open(PART * sizeof(float));
    for (size_t d_head = 16; d_head <= D; d_head += 16)
        for (check_input input = 0; input < INPUTS; input++) {
            float *next = guard_poisoned(&end, (d_head + 2) * sizeof(float));
            check_fill(run, input, part, d_head + 2);
            check_fill(run, input, next, d_head + 2);
            memcpy(want, part, sizeof want);
            run->scalar.attend_merge(d_head, want, next);
            run->table.attend_merge(d_head, part, next);
            check_equal(run, part, want, d_head + 2, "a part merged");
        }
    guard_close(&end);
}

/* ---- Our own functions -------------------------------------------------------------------------- */

/* |got - exact| in units of the last place of an f32 of the exact value's size. */
static double ulps(float got, double exact)
{
    int exponent;
    frexp(exact, &exponent);
    return fabs((double)got - exact) / ldexp(1.0, (exponent < -125 ? -125 : exponent) - 24);
}

/* Every 4001st f32 and its neighbours round zero: the bounds that docs/arithmetic.md states. */
static void check_bounds(check_run *run)
{
    double exp_worst = 0, tanh_worst = 0, erf_worst = 0, sincos_worst = 0;
    char shape[160];
    for (uint64_t bits = 0; bits < UINT64_C(1) << 32; bits += 4001) {
        float x = mfk_f32_of_bits((uint32_t)bits), c, s;
        if (!isfinite(x)) continue;
        if (x > -104.0f && x < 88.72f) exp_worst = fmax(exp_worst, ulps(mfk_exp(x), exp((double)x)));
        tanh_worst = fmax(tanh_worst, ulps(mfk_tanh(x), tanh((double)x)));
        erf_worst = fmax(erf_worst, ulps(mfk_erf(x), erf((double)x)));
        if (fabsf(x) >= 0x1p30f) continue;
        mfk_sincos(x, &c, &s);
        sincos_worst = fmax(sincos_worst, fmax(ulps(c, cos((double)x)), ulps(s, sin((double)x))));
    }
    snprintf(shape, sizeof shape, "worst error in ulp: exp %.3f tanh %.3f erf %.3f sincos %.3f", exp_worst, tanh_worst,
             erf_worst, sincos_worst);
    printf("%s\n", shape);
    check_true(run, exp_worst <= 1.0 && tanh_worst <= 1.5 && erf_worst <= 1.25 && sincos_worst <= 0.51, shape);
}

static void check_edges(check_run *run)
{
    check_true(run, mfk_exp(-104.0f) == 0.0f && mfk_exp(-INFINITY) == 0.0f, "exp underflows to 0");
    check_true(run, isinf(mfk_exp(89.0f)) && isinf(mfk_exp(INFINITY)) && isnan(mfk_exp(NAN)), "exp overflows to inf");
    check_true(run, mfk_exp(-103.9f) == 0x1p-149f, "exp underflows gradually");
    check_true(run, mfk_exp(0.0f) == 1.0f && mfk_tanh(-INFINITY) == -1.0f && mfk_erf(9.0f) == 1.0f, "exact ends");
    check_true(run, signbit(mfk_tanh(-0.0f)) && signbit(mfk_erf(-0.0f)), "odd functions keep the sign of zero");
    check_true(run, isnan(mfk_tanh(NAN)) && isnan(mfk_erf(NAN)), "NaN stays NaN");
}

/* Correctly rounded, so that powers of two are exact: 16 heads have 2^(-1/2), 2^-1 ... 2^-8. */
static void check_slopes(check_run *run)
{
    static const float maxima[] = { 8.0f, 0.1f, 3.7f, 64.0f };
    bool same = true;
    for (size_t i = 0; i < COUNT(maxima); i++)
        for (size_t n = 1; n <= 64; n++)
            for (size_t h = 0; h < n; h++)
                same = same && mfk_alibi_slope(maxima[i], h, n) ==
                                   (float)exp2(-(double)maxima[i] * (double)(h + 1) / (double)n);
    check_true(run, same && mfk_alibi_slope(8.0f, 15, 16) == 0x1p-8f, "slopes of ALiBi");
}

/* The emulation (where the compiler may not use the instruction) against the C library's. */
static void check_fma(check_run *run)
{
    char shape[128];
    for (int i = 0; i < 2000000; i++) {
        float a = mfk_f32_of_bits(check_random(run)), b = mfk_f32_of_bits(check_random(run));
        float c = mfk_f32_of_bits(check_random(run));
        int kind = i % 4;
        if (kind == 1) c = -a * b; /* cancels all but the rounding error */
        if (kind == 2) {           /* a subnormal sum */
            a = ldexpf(a, -100 - ilogbf(a));
            b = ldexpf(b, -40 - ilogbf(b));
            c = ldexpf(c, -130 - ilogbf(c));
        }
        if (kind == 3) { /* the product is a tie of c's last place, and a bit more or less */
            a = 1.0f + ldexpf((float)(check_random(run) & 4095), -12);
            b = 1.0f + 0x1p-12f;
            c = ldexpf((float)(int32_t)check_random(run), -60 + (int)check_below(run, 70));
        }
        float got = mfk_fma(a, b, c), want = fmaf(a, b, c);
        if (memcmp(&got, &want, sizeof got) == 0 || (isnan(got) && isnan(want))) continue;
        snprintf(shape, sizeof shape, "fma(%a, %a, %a) is %a, should be %a", (double)a, (double)b, (double)c,
                 (double)got, (double)want);
        check_true(run, false, shape);
        return;
    }
    check_true(run, true, "fma");
}

void check_math(check_run *run)
{
    run->random = run->seed;
    check_bounds(run);
    check_edges(run);
    check_slopes(run);
    check_fma(run);
}
