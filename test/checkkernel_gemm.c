/* checkkernel_gemm.c - matrix products: bits, prefix laws, resuming, and what must not be touched.
 *
 * The reference is the chain of docs/arithmetic.md, by the C library's fmaf over the plain matrices, at
 * the largest m and n of the sweep. Every smaller shape has to equal its corner, which is the prefix law
 * in n and the independence of m; every k is computed by its own shorter chain over panels whose stride
 * stays that of the full k. */
#include "checkkernel.h"
#include "scalar/math_scalar.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { M_MAX = 151, N_MAX = 176, K_MAX = 1184 };

/* Around the edges of tiles of up to 14 rows and 8 panels, and of blocks of rows and of k. */
static const size_t m_list[] = { 1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13,  14,
                                 15, 16, 17, 19, 22, 24, 25, 28, 29, 47, 61, 97, 121, 151 };
static const size_t n_list[] = { 1, 15, 16, 17, 31, 32, 33, 48, 50, 64, 65, 96, 112, 127, 128, 129, 145, 176 };
static const size_t k_list[] = { 32, 64, 96, 224, 544, 1184 };

typedef struct problem {
    mfk_type type;
    size_t n_b;     /* rows of B: units, or twice as many for glu */
    float *a, *b;   /* [M_MAX][K_MAX], [n_b][K_MAX] as stored */
    float *want;    /* [M_MAX][N_MAX] */
    void *panels;   /* the whole of B, packed */
    size_t stride;  /* of a panel */
    size_t k_bytes; /* of one k in a panel */
    guard a_guard, b_guard, c_guard;
    void *scratch;
} problem;

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) exit(2);
    return p;
}

static problem problem_open(mfk_type type, size_t n_b)
{
    problem p = { .type = type, .n_b = n_b, .k_bytes = type == MFK_F32 ? 64 : 32 };
    p.stride = mfk_panel_bytes(type, K_MAX);
    p.a = allocate(M_MAX * K_MAX * sizeof *p.a);
    p.b = allocate(n_b * K_MAX * sizeof *p.b);
    p.want = allocate(M_MAX * N_MAX * sizeof *p.want);
    p.panels = allocate(mfk_panels_bytes(type, n_b, K_MAX));
    p.scratch = allocate(MFK_SCRATCH_BYTES);
    p.a_guard = guard_open(M_MAX * (K_MAX + 1024) * sizeof(float));
    p.b_guard = guard_open(mfk_panels_bytes(type, n_b, K_MAX));
    p.c_guard = guard_open(M_MAX * (N_MAX + 64) * sizeof(float));
    return p;
}

static void problem_close(problem *p)
{
    free(p->a);
    free(p->b);
    free(p->want);
    free(p->panels);
    free(p->scratch);
    guard_close(&p->a_guard);
    guard_close(&p->b_guard);
    guard_close(&p->c_guard);
}

static void problem_fill(problem *p, check_run *run, check_input input)
{
    check_fill(run, input, p->a, M_MAX * K_MAX);
    check_fill(run, input, p->b, p->n_b * K_MAX);
    for (size_t i = 0; i < p->n_b * K_MAX && p->type == MFK_BF16; i++)
        p->b[i] = mfk_bf16_to_f32(mfk_f32_to_bf16(p->b[i]));
    mfk_pack(p->type, p->n_b, K_MAX, p->b, K_MAX, p->panels, p->stride);
}

static float chain(const problem *p, size_t row, size_t column, size_t k)
{
    float acc = 0.0f;
    for (size_t i = 0; i < k; i++)
        acc = fmaf(p->a[row * K_MAX + i], p->b[column * K_MAX + i], acc);
    return acc;
}

/* A copy of `m` rows, k wide, ending at the unmapped page; between the rows NaN. */
static const float *place_a(problem *p, size_t m, size_t k, size_t row_floats)
{
    float *a = guard_poisoned(&p->a_guard, ((m - 1) * row_floats + k) * sizeof *a);
    for (size_t i = 0; i < m; i++)
        memcpy(a + i * row_floats, p->a + i * K_MAX, k * sizeof *a);
    return a;
}

/* The view's bytes: every panel's first k rows, NaN behind them up to the next panel, the unmapped page behind
 * the last; and NaN in the columns of the last panel (of each kind) beyond n. */
static const void *place_b(problem *p, size_t n_panel, size_t last_live, size_t kinds, size_t k)
{
    char *b = guard_poisoned(&p->b_guard, (n_panel - 1) * p->stride + k * p->k_bytes);
    for (size_t i = 0; i < n_panel; i++)
        memcpy(b + i * p->stride, (char *)p->panels + i * p->stride, k * p->k_bytes);
    for (size_t i = n_panel - kinds; i < n_panel; i++) {
        for (size_t j = last_live; j < MFK_NR; j++) {
            for (size_t r = 0; r < k * p->k_bytes / 64; r++)
                memset(b + i * p->stride + r * 64 + j * 4, 0xff, 4);
        }
    }
    return b;
}

enum { CANARY = 0xffaa5500u };

static float *place_c(problem *p, size_t m, size_t n, size_t row_floats)
{
    uint32_t *words = (uint32_t *)(void *)p->c_guard.base;
    for (size_t i = 0; i < p->c_guard.bytes / sizeof *words; i++)
        words[i] = CANARY; /* a NaN, so a C that is read without RESUME shows too */
    return guard_end(&p->c_guard, ((m - 1) * row_floats + n) * sizeof(float));
}

/* Whatever is not in C's n columns still holds the canary. */
static bool canaries_live(const problem *p, size_t m, size_t n, size_t row_floats)
{
    const uint32_t *words = (const uint32_t *)(const void *)p->c_guard.base;
    size_t total = p->c_guard.bytes / sizeof *words;
    size_t start = total - ((m - 1) * row_floats + n);
    for (size_t i = 0; i < total; i++) {
        bool is_c = i >= start && (i - start) % row_floats < n;
        if (!is_c && words[i] != CANARY) return false;
    }
    return true;
}

static void compare(check_run *run, problem *p, const mfk_gemm_args *args, const char *what)
{
    size_t row_floats = args->c_row_bytes / sizeof(float);
    char shape[160];
    bool same = true;
    for (size_t i = 0; i < args->m && same; i++) {
        snprintf(shape, sizeof shape, "%s m %zu n %zu k %zu a_row_bytes %zu c_row_bytes %zu, row %zu", what, args->m,
                 args->n, args->k, args->a_row_bytes, args->c_row_bytes, i);
        same = check_equal(run, args->c + i * row_floats, p->want + i * N_MAX, args->n, shape);
    }
    check_true(run, canaries_live(p, args->m, args->n, row_floats), "wrote beyond C");
}

/* Places the three matrices for one shape. The strides are odd, aligned, or aliasing in the cache. */
static mfk_gemm_args place(problem *p, check_run *run, size_t m, size_t n, size_t k, size_t kinds)
{
    size_t a_rows[] = { k, k + 1, (k + 16) / 16 * 16, (k + 1023) / 1024 * 1024 };
    size_t c_rows[] = { n, n + 3, (n + 16) / 16 * 16 };
    size_t a_row = a_rows[check_below(run, 4)], c_row = c_rows[check_below(run, 3)];
    size_t n_panel = (n + MFK_NR - 1) / MFK_NR * kinds;
    mfk_gemm_args args = { .m = m, .n = n, .k = k, .scratch = p->scratch };
    args.a = place_a(p, m, k, a_row);
    args.a_row_bytes = a_row * sizeof(float);
    args.b = place_b(p, n_panel, (n - 1) % MFK_NR + 1, kinds, k);
    args.b_panel_bytes = p->stride;
    args.c = place_c(p, m, n, c_row);
    args.c_row_bytes = c_row * sizeof(float);
    return args;
}

static void check_shape(check_run *run, problem *p, mfk_gemm_fn kernel, size_t m, size_t n, size_t k)
{
    mfk_gemm_args args = place(p, run, m, n, k, 1);
    kernel(&args);
    compare(run, p, &args, "gemm");
}

/* k in random pieces, each continuing from C. */
static void check_resume(check_run *run, problem *p, mfk_gemm_fn kernel, size_t m, size_t n, size_t k)
{
    mfk_gemm_args args = place(p, run, m, n, k, 1), piece = args;
    for (size_t done = 0; done < k; done += piece.k) {
        piece.k = 32 * (1 + check_below(run, (k - done) / 32));
        piece.a = args.a + done;
        piece.b = (const char *)args.b + done * p->k_bytes;
        piece.flags = done ? MFK_RESUME : 0;
        kernel(&piece);
    }
    compare(run, p, &args, "resumed gemm");
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

void check_gemm(check_run *run, mfk_type type)
{
    problem p = problem_open(type, N_MAX);
    mfk_gemm_fn kernel = mfk_table_gemm(&run->table, type);
    for (check_input input = 0; input < INPUTS; input++) {
        problem_fill(&p, run, input);
        for (size_t ik = 0; ik < COUNT(k_list); ik++) {
            for (size_t i = 0; i < M_MAX; i++)
                for (size_t j = 0; j < N_MAX; j++)
                    p.want[i * N_MAX + j] = chain(&p, i, j, k_list[ik]);
            /* Every m and every n, but each pair with ordinary inputs and small k alone. */
            for (size_t im = 0; im < COUNT(m_list); im++)
                for (size_t in = 0; in < COUNT(n_list); in++)
                    if ((input == ORDINARY && ik < 2) || check_below(run, 16) == 0)
                        check_shape(run, &p, kernel, m_list[im], n_list[in], k_list[ik]);
            for (int repeat = 0; repeat < 4; repeat++)
                check_resume(run, &p, kernel, m_list[check_below(run, COUNT(m_list))],
                             n_list[check_below(run, COUNT(n_list))], k_list[ik]);
        }
    }
    problem_close(&p);
}

/* Unit u's gate and up are rows 32 (u / 16) + u % 16 and + 16 of B. */
static float unit_value(const problem *p, mfk_activation activation, size_t row, size_t u, size_t k)
{
    size_t gate = u / MFK_NR * 2 * MFK_NR + u % MFK_NR;
    return mfk_act(activation, chain(p, row, gate, k)) * chain(p, row, gate + MFK_NR, k);
}

void check_glu(check_run *run, mfk_type type)
{
    problem p = problem_open(type, 2 * N_MAX);
    mfk_glu_fn kernel = mfk_table_glu(&run->table, type);
    for (size_t ik = 0; ik < COUNT(k_list); ik++) {
        check_input input = ik % 2 ? ORDINARY : ALTERNATING;
        mfk_activation activation = (mfk_activation)(ik % 5);
        problem_fill(&p, run, input);
        for (size_t i = 0; i < M_MAX; i++)
            for (size_t j = 0; j < N_MAX; j++)
                p.want[i * N_MAX + j] = unit_value(&p, activation, i, j, k_list[ik]);
        for (size_t im = 0; im < COUNT(m_list); im++) {
            for (size_t in = 0; in < COUNT(n_list); in++) {
                if (ik > 1 && check_below(run, 16) != 0) continue;
                mfk_gemm_args args = place(&p, run, m_list[im], n_list[in], k_list[ik], 2);
                args.activation = activation;
                kernel(&args);
                compare(run, &p, &args, "glu");
            }
        }
    }
    problem_close(&p);
}

void check_pack(check_run *run)
{
    static const mfk_type types[] = { MFK_F32, MFK_BF16 };
    enum { N = 37, K = 45 }; /* neither fills its panel */
    float b[N * K], back[N * K], row[64];
    check_fill(run, ORDINARY, b, N * K);
    for (size_t t = 0; t < COUNT(types); t++) {
        size_t stride = mfk_panel_bytes(types[t], K) + 64;
        check_true(run, stride == 64 * (types[t] == MFK_F32 ? 64 : 32) + 64, "k is padded to 64");
        unsigned char *panels = allocate(3 * stride);
        memset(panels, 0xff, 3 * stride);
        for (size_t i = 0; i < N * K && types[t] == MFK_BF16; i++)
            b[i] = mfk_bf16_to_f32(mfk_f32_to_bf16(b[i]));
        mfk_pack(types[t], N, K, b, K, panels, stride);
        mfk_unpack(types[t], N, K, panels, stride, back, K);
        check_equal(run, back, b, N * K, "unpacked");
        run->scalar.panel_row(types[t], 64, panels, stride, 36, row);
        check_equal(run, row, b + 36 * K, K, "a row of the panels");
        for (size_t i = K; i < 64; i++)
            check_true(run, row[i] == 0.0f, "k is padded with zeros");
        free(panels);
    }
    check_true(run, mfk_panels_bytes(MFK_F32, SIZE_MAX, SIZE_MAX / 128) == 0, "a size that does not fit is 0");
}
