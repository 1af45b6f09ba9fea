/* checkkernel_gemm.c - matrix products: bits, prefix laws, resuming, and what must not be touched.
 *
 * The reference is the chain of docs/arithmetic.md, by the C library's fmaf over the plain matrices (of Q8 and Q4, over
 * the codes and scales, looked for where pack.h says that they lie), at the largest m and n of the sweep. Every smaller shape has to equal its corner, which is the prefix law
 * in n and the independence of m; every k is computed by its own shorter chain over panels whose stride
 * stays that of the full k. The fast arithmetic has a chain of its own, which emulates its instruction. */
#include "checkkernel.h"
#include "quantize.h"
#include "scalar/math_scalar.h"

#include <float.h>
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
    bool fast;                        /* of the second arithmetic */
    size_t n_b;                       /* rows of B: units, or twice as many for glu */
    float *a, *b;                     /* [M_MAX][K_MAX], [n_b][K_MAX] as stored */
    float *a_rounded;                 /* [M_MAX][K_MAX] A as the fast arithmetic's weights meet it */
    mfk_q8_block *a_q8;               /* [M_MAX][K_MAX / 32] */
    float *want;                      /* [M_MAX][N_MAX] */
    unsigned char *panels;            /* the whole of B, packed */
    int8_t table[MFK_Q4_TABLE_BYTES]; /* of Q4 */
    size_t stride;                    /* of a panel */
    guard a_guard, b_guard, c_guard;
    void *scratch;
} problem;

static void *allocate(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p) exit(2);
    return p;
}

static problem problem_open(const check_run *run, mfk_type type, size_t n_b)
{
    problem p = { .type = type, .fast = mfk_table_fast(&run->table, type), .n_b = n_b };
    p.stride = mfk_panel_bytes(type, K_MAX);
    p.a = allocate(M_MAX * K_MAX * sizeof *p.a);
    p.a_rounded = allocate(M_MAX * K_MAX * sizeof *p.a_rounded);
    p.a_q8 = allocate(M_MAX * K_MAX / MFK_BLOCK * sizeof *p.a_q8);
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
    free(p->a_rounded);
    free(p->a_q8);
    free(p->b);
    free(p->want);
    free(p->panels);
    free(p->scratch);
    guard_close(&p->a_guard);
    guard_close(&p->b_guard);
    guard_close(&p->c_guard);
}

/* A subnormal number becomes a zero of its sign. */
static float flushed(float x)
{
    return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x;
}

/* The largest subnormal numbers of f32 round to a normal one, which bfcvt gives; vcvtneps2bf16 has zeros for them. */
static float rounded_to_bf16(float x)
{
#ifdef __aarch64__
    return flushed(mfk_bf16_to_f32(mfk_f32_to_bf16(x)));
#else
    return mfk_bf16_to_f32(mfk_f32_to_bf16(flushed(x)));
#endif
}

static void problem_fill(problem *p, check_run *run, check_input a_input, check_input input)
{
    check_fill(run, a_input, p->a, M_MAX * K_MAX);
    for (size_t i = 0; i < M_MAX * K_MAX; i++)
        p->a_rounded[i] = rounded_to_bf16(p->a[i]);
    check_fill(run, input, p->b, p->n_b * K_MAX);
    for (size_t i = 0; i < 16; i++) /* any table; -128 is the value that some instructions cannot negate */
        p->table[i] = (int8_t)(input == ORDINARY ? mfk_q4_table[i] : (int)(17 * i) - 128);
    p->table[MFK_Q4_BIAS_AT] = input == ORDINARY ? mfk_q4_table[MFK_Q4_BIAS_AT] : -9;
    for (size_t i = 0; i < M_MAX; i++)
        run->scalar.quantize(K_MAX, p->a + i * K_MAX, p->a_q8 + i * K_MAX / MFK_BLOCK);
    mfk_pack(p->type, p->table, p->n_b, K_MAX, p->b, K_MAX, p->panels, p->stride);
    mfk_unpack(p->type, p->table, p->n_b, K_MAX, p->panels, p->stride, p->b, K_MAX);
}

/* Bytes of k inputs of a row of A. */
static size_t a_bytes(const problem *p, size_t k)
{
    return mfk_type_quantized(p->type) ? k / MFK_BLOCK * sizeof(mfk_q8_block) : k * sizeof(float);
}

/* The sum of products over half a block and the weights' scale there, from the bytes of the panel. */
static int32_t half_dot(const problem *p, const mfk_q8_block *x, size_t column, size_t block, size_t half, float *scale)
{
    const size_t bytes = p->type == MFK_Q8 ? 512 : 256, pair = 64 + 2 * bytes, j = column % MFK_NR;
    const unsigned char *panel = p->panels + column / MFK_NR * p->stride + block / 2 * pair;
    const unsigned char *codes = panel + 64 + block % 2 * bytes, *scales = panel + 32 * (block % 2);
    int32_t sum = 0;
    for (size_t i = 16 * half; i < 16 * half + 16; i++) {
        unsigned byte = p->type == MFK_Q8 ? codes[i / 4 * 64 + j * 4 + i % 4] : codes[i / 8 * 64 + j * 4 + i % 4];
        int weight = p->type == MFK_Q8 ? (int)byte - 128 : p->table[i % 8 < 4 ? byte & 15 : byte >> 4];
        sum += weight * x->q[i];
    }
    unsigned code = scales[16 * half + j];
    *scale = p->type == MFK_Q8 ? mfk_f16_to_f32((uint16_t)(scales[2 * j] | scales[2 * j + 1] << 8))
                               : ldexpf((float)(8 + (code & 7)), (int)(code >> 3 & 15) - 3 + p->table[16]) *
                                     (code & 128 ? -1.0f : 1.0f);
    return sum;
}

#ifdef __aarch64__
/* x + rest, of which x is the nearest f64, to odd: towards zero, and then the last bit set if that was not exact. */
static float to_odd(double x, double rest)
{
    if (isnan(x) || fabs(x) >= 0x1p128) return (float)(x * (double)INFINITY);
    union {
        float f;
        uint32_t u;
    } v = { (float)x };
    bool beyond = fabs((double)v.f) > fabs(x) || ((double)v.f == x && x * rest < 0);
    if (beyond) v.u--;
    if ((double)v.f != x || rest != 0) v.u |= 1;
    return flushed(v.f);
}

static float sum_to_odd(float a, float b)
{
    double sum = (double)a + b, b_part = sum - a;
    return to_odd(sum, (a - (sum - b_part)) + (b - b_part));
}

/* What bfdot is specified to do: a pair's products and their sum first, all to odd, no subnormals. */
static float chain_of_pairs(const float *a, const float *b, size_t n)
{
    float acc = 0.0f;
    for (size_t i = 0; i < n; i += 2) {
        float first = to_odd((double)a[i] * flushed(b[i]), 0), second = to_odd((double)a[i + 1] * flushed(b[i + 1]), 0);
        acc = sum_to_odd(acc, sum_to_odd(first, second));
    }
    return acc;
}
#else
/* What vdpbf16ps is specified to do: of a pair the odd input first, each step rounded once, no subnormals. */
static float chain_of_pairs(const float *a, const float *b, size_t n)
{
    float acc = 0.0f;
    for (size_t i = 0; i < n; i += 2) {
        acc = flushed(fmaf(a[i + 1], flushed(b[i + 1]), acc));
        acc = flushed(fmaf(a[i], flushed(b[i]), acc));
    }
    return acc;
}
#endif

/* Over the inputs [begin, end), from +0. */
static float chain(const problem *p, size_t row, size_t column, size_t begin, size_t end)
{
    float acc = 0.0f, scale[2];
    if (p->fast) return chain_of_pairs(p->a_rounded + row * K_MAX + begin, p->b + column * K_MAX + begin, end - begin);
    if (!mfk_type_quantized(p->type)) {
        for (size_t i = begin; i < end; i++)
            acc = fmaf(p->a[row * K_MAX + i], p->b[column * K_MAX + i], acc);
        return acc;
    }
    for (size_t block = begin / MFK_BLOCK; block < end / MFK_BLOCK; block++) {
        const mfk_q8_block *x = &p->a_q8[row * K_MAX / MFK_BLOCK + block];
        int32_t low = half_dot(p, x, column, block, 0, &scale[0]), high = half_dot(p, x, column, block, 1, &scale[1]);
        float product = p->type == MFK_Q8 ? x->scale * scale[0] : (float)low * scale[0];
        acc = p->type == MFK_Q8 ? fmaf((float)(low + high), product, acc)
                                : fmaf(fmaf((float)high, scale[1], product), x->scale, acc);
    }
    return acc;
}

/* A copy of `m` rows, inputs [begin, begin + k), ending at the unmapped page; between the rows NaN. */
static const void *place_a(problem *p, size_t m, size_t begin, size_t k, size_t row_bytes)
{
    const char *from = mfk_type_quantized(p->type) ? (const char *)p->a_q8 : (const char *)p->a;
    char *a = guard_poisoned(&p->a_guard, (m - 1) * row_bytes + a_bytes(p, k));
    for (size_t i = 0; i < m; i++)
        memcpy(a + i * row_bytes, from + a_bytes(p, i * K_MAX + begin), a_bytes(p, k));
    return a;
}

/* Spoils what output `j` of a panel has in the line at `line`. */
static void poison_output(const problem *p, unsigned char *line, size_t line_index, size_t j)
{
    const size_t bytes = p->type == MFK_Q8 ? 512 : 256;
    bool is_scales = mfk_type_quantized(p->type) && line_index * 64 % (64 + 2 * bytes) == 0;
    if (is_scales && p->type == MFK_Q4) {
        for (size_t at = j; at < 64; at += 16)
            line[at] = 0xff;
    } else if (is_scales || p->type == MFK_F16) {
        memset(line + 2 * j, 0xff, 2);
        memset(line + 32 + 2 * j, 0xff, 2);
    } else {
        memset(line + 4 * j, 0xff, 4);
    }
}

/* The view's bytes: every panel up to input k, NaN behind them up to the next panel, the unmapped page behind
 * the last; and NaN in the columns of the last panel (of each kind) beyond n, and in the scales of the block
 * after the last. */
static const void *place_b(problem *p, size_t n_panel, size_t last_live, size_t kinds, size_t k)
{
    const size_t bytes = mfk_panel_bytes(p->type, k);
    unsigned char *b = guard_poisoned(&p->b_guard, (n_panel - 1) * p->stride + bytes);
    for (size_t i = 0; i < n_panel; i++) {
        unsigned char *panel = b + i * p->stride;
        memcpy(panel, p->panels + i * p->stride, bytes);
        if (mfk_type_quantized(p->type) && k / MFK_BLOCK % 2 == 1)
            memset(panel + bytes - (p->type == MFK_Q8 ? 512 : 256) - 32, 0xff, 32);
        for (size_t j = last_live; i >= n_panel - kinds && j < MFK_NR; j++)
            for (size_t line = 0; line < bytes / 64; line++)
                poison_output(p, panel + line * 64, line, j);
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
static mfk_gemm_args place(problem *p, check_run *run, size_t m, size_t n, size_t k_begin, size_t k, size_t kinds)
{
    size_t a_rows[] = { a_bytes(p, k), a_bytes(p, k) + 4, (a_bytes(p, k) + 64) / 64 * 64,
                        (a_bytes(p, k) + 4095) / 4096 * 4096 };
    size_t c_rows[] = { n, n + 3, (n + 16) / 16 * 16 };
    size_t a_row = a_rows[check_below(run, 4)], c_row = c_rows[check_below(run, 3)];
    size_t n_panel = (n + MFK_NR - 1) / MFK_NR * kinds;
    mfk_gemm_args args = { .m = m, .n = n, .k = k, .k_begin = k_begin, .table = p->table, .scratch = p->scratch };
    args.a = place_a(p, m, k_begin, k, a_row);
    args.a_row_bytes = a_row;
    args.b = place_b(p, n_panel, (n - 1) % MFK_NR + 1, kinds, k_begin + k);
    args.b_panel_bytes = p->stride;
    args.c = place_c(p, m, n, c_row);
    args.c_row_bytes = c_row * sizeof(float);
    return args;
}

static void check_shape(check_run *run, problem *p, mfk_gemm_fn kernel, size_t m, size_t n, size_t k)
{
    mfk_gemm_args args = place(p, run, m, n, 0, k, 1);
    kernel(&args);
    compare(run, p, &args, "gemm");
}

/* k in random pieces, each continuing from C. */
static void check_resume(check_run *run, problem *p, mfk_gemm_fn kernel, size_t m, size_t n, size_t k)
{
    mfk_gemm_args args = place(p, run, m, n, 0, k, 1), piece = args;
    for (size_t done = 0; done < k; done += piece.k) {
        piece.k = 32 * (1 + check_below(run, (k - done) / 32));
        piece.k_begin = done;
        piece.a = (const char *)args.a + a_bytes(p, done);
        piece.flags = done ? MFK_RESUME : 0;
        kernel(&piece);
    }
    compare(run, p, &args, "resumed gemm");
}

/* The last part of k alone, beginning at either half of a pair of blocks. */
static void check_tail(check_run *run, problem *p, mfk_gemm_fn kernel, size_t m, size_t n, size_t k)
{
    const size_t begin = 32 * check_below(run, k / 32);
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            p->want[i * N_MAX + j] = chain(p, i, j, begin, k);
    mfk_gemm_args args = place(p, run, m, n, begin, k - begin, 1);
    kernel(&args);
    compare(run, p, &args, "tail of k");
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

void check_gemm(check_run *run, mfk_type type)
{
    static const struct {
        check_input a, b;
    } inputs[] = { { ORDINARY, ORDINARY },       { TINY, TINY },          { HUGE_VALUES, HUGE_VALUES },
                   { ALTERNATING, ALTERNATING }, { SUBNORMAL, ORDINARY }, { ORDINARY, SUBNORMAL } };
    problem p = problem_open(run, type, N_MAX);
    mfk_gemm_fn kernel = mfk_table_gemm(&run->table, type);
    const size_t n_input = p.fast ? COUNT(inputs) : COUNT(inputs) - 2; /* only that one treats subnormals apart */
    for (size_t input = 0; input < n_input; input++) {
        problem_fill(&p, run, inputs[input].a, inputs[input].b);
        for (size_t ik = 0; ik < COUNT(k_list); ik++) {
            if (run->quick && (ik + input) % 2) continue;
            for (size_t i = 0; i < M_MAX; i++)
                for (size_t j = 0; j < N_MAX; j++)
                    p.want[i * N_MAX + j] = chain(&p, i, j, 0, k_list[ik]);
            /* Every m and every n, but each pair with ordinary inputs and small k alone. */
            for (size_t im = 0; im < COUNT(m_list); im++)
                for (size_t in = 0; in < COUNT(n_list); in++)
                    if ((input == 0 && ik < 2 && !run->quick) || check_below(run, 16) == 0)
                        check_shape(run, &p, kernel, m_list[im], n_list[in], k_list[ik]);
            for (int repeat = 0; repeat < 4; repeat++)
                check_resume(run, &p, kernel, m_list[check_below(run, COUNT(m_list))],
                             n_list[check_below(run, COUNT(n_list))], k_list[ik]);
            for (int repeat = 0; repeat < 2; repeat++)
                check_tail(run, &p, kernel, m_list[check_below(run, COUNT(m_list))],
                           n_list[check_below(run, COUNT(n_list))], k_list[ik]);
        }
    }
    problem_close(&p);
}

/* Unit u's gate and up are rows 32 (u / 16) + u % 16 and + 16 of B. bias: [2][N_MAX] theirs, or NULL. */
static float unit_value(const problem *p, mfk_activation activation, const float *bias, size_t row, size_t u, size_t k)
{
    size_t at = u / MFK_NR * 2 * MFK_NR + u % MFK_NR;
    float gate = chain(p, row, at, 0, k), up = chain(p, row, at + MFK_NR, 0, k);
    if (bias) gate += bias[u], up += bias[N_MAX + u];
    return mfk_act(activation, gate) * up;
}

/* Hidden units to blocks: as if the row had been quantized afterwards. */
static void check_quantized_glu(check_run *run, problem *p, mfk_glu_fn kernel, mfk_gemm_args *args)
{
    const size_t words = args->n / MFK_BLOCK * sizeof(mfk_q8_block) / 4, row_words = words + 12 * check_below(run, 2);
    args->q = (mfk_q8_block *)(void *)place_c(p, args->m, words, row_words);
    args->q_row_bytes = row_words * 4;
    args->c = NULL;
    kernel(args);
    bool same = true;
    for (size_t i = 0; i < args->m && same; i++) {
        mfk_q8_block want[N_MAX / MFK_BLOCK];
        run->scalar.quantize(args->n, p->want + i * N_MAX, want);
        same = memcmp((const char *)args->q + i * args->q_row_bytes, want, words * 4) == 0;
    }
    check_true(run, same, "quantized hidden units");
    check_true(run, canaries_live(p, args->m, words, row_words), "wrote beyond the quantized rows");
}

/* Those of n units, the up ones before a page that cannot be read. */
static void place_biases(mfk_gemm_args *args, const float *bias, guard *end)
{
    float *up = guard_poisoned(end, args->n * sizeof(float));
    memcpy(up, bias + N_MAX, args->n * sizeof(float));
    args->gate_bias = bias;
    args->up_bias = up;
}

void check_glu(check_run *run, mfk_type type)
{
    problem p = problem_open(run, type, 2 * N_MAX);
    mfk_glu_fn kernel = mfk_table_glu(&run->table, type);
    guard bias_guard = guard_open(2 * N_MAX * sizeof(float));
    for (size_t ik = 0; ik < COUNT(k_list); ik++) {
        if (run->quick && ik > 1 && ik + 1 < COUNT(k_list)) continue;
        check_input input = ik % 2 ? ORDINARY : ALTERNATING;
        mfk_activation activation = (mfk_activation)(ik % 5);
        float all_biases[2 * N_MAX], *bias = ik % 3 != 0 ? all_biases : NULL;
        problem_fill(&p, run, input, input);
        check_fill(run, ORDINARY, all_biases, 2 * N_MAX);
        for (size_t i = 0; i < M_MAX; i++)
            for (size_t j = 0; j < N_MAX; j++)
                p.want[i * N_MAX + j] = unit_value(&p, activation, bias, i, j, k_list[ik]);
        for (size_t im = 0; im < COUNT(m_list); im++) {
            for (size_t in = 0; in < COUNT(n_list); in++) {
                if ((ik > 1 || run->quick) && check_below(run, 16) != 0) continue;
                mfk_gemm_args args = place(&p, run, m_list[im], n_list[in], 0, k_list[ik], 2);
                args.activation = activation;
                if (bias) place_biases(&args, bias, &bias_guard);
                kernel(&args);
                compare(run, &p, &args, "glu");
                if (args.n % MFK_BLOCK == 0) check_quantized_glu(run, &p, kernel, &args);
            }
        }
    }
    guard_close(&bias_guard);
    problem_close(&p);
}

/* What packing keeps of a weight: rounding to the type, or half a step of the block's scale. */
static bool kept(mfk_type type, const float *block, float want, float got)
{
    float most = 0;
    for (size_t i = 0; i < MFK_BLOCK; i++)
        most = fabsf(block[i]) > most ? fabsf(block[i]) : most;
    switch (type) {
    case MFK_F32:
        return got == want;
    case MFK_BF16:
        return got == mfk_bf16_to_f32(mfk_f32_to_bf16(want));
    case MFK_F16:
        return got == mfk_f16_to_f32(mfk_f32_to_f16(want));
    case MFK_Q8:
        return fabsf(got - want) <= most / 127 * 0.565f;
    default:
        return fabsf(got - want) <= most * 0.25f;
    }
}

void check_pack(check_run *run)
{
    static const mfk_type types[] = { MFK_F32, MFK_BF16, MFK_F16, MFK_Q8, MFK_Q4 };
    enum { N = 37, K = 45 }; /* neither fills its panel */
    float b[N * 64], back[N * 64], row[64];
    for (size_t t = 0; t < COUNT(types); t++) {
        size_t stride = mfk_panel_bytes(types[t], K) + 64;
        check_true(run, mfk_panel_bytes(types[t], K) == mfk_panel_bytes(types[t], 64), "k is padded to 64");
        unsigned char *panels = allocate(3 * stride), *table_row = allocate(mfk_row_bytes(types[t], K));
        memset(panels, 0xff, 3 * stride);
        memset(b, 0, sizeof b);
        for (size_t i = 0; i < N; i++)
            check_fill(run, ORDINARY, b + i * 64, K);
        mfk_pack(types[t], mfk_q4_table, N, K, b, 64, panels, stride);
        mfk_unpack(types[t], mfk_q4_table, N, K, panels, stride, back, 64);
        for (size_t i = 0; i < N; i++)
            for (size_t k = 0; k < K; k++)
                check_true(run, kept(types[t], b + i * 64 + k / 32 * 32, b[i * 64 + k], back[i * 64 + k]), "packed");
        run->scalar.panel_row(types[t], 64, mfk_q4_table, panels, stride, 36, row);
        check_equal(run, row, back + 36 * 64, K, "a row of the panels");
        for (size_t i = K; i < 64; i++)
            check_true(run, row[i] == 0.0f, "k is padded with zeros");
        mfk_pack_table_row(types[t], mfk_q4_table, K, b + 36 * 64, table_row);
        mfk_unpack_table_row(types[t], mfk_q4_table, K, table_row, row);
        check_equal(run, row, back + 36 * 64, K, "a row of a table has the same values");
        mfk_unpack_table_columns(types[t], mfk_q4_table, K, table_row, 11, 30, row);
        check_equal(run, row, back + 36 * 64 + 11, 30, "columns of a row of a table");
        free(panels);
        free(table_row);
    }
    check_true(run, mfk_panels_bytes(MFK_F32, SIZE_MAX, SIZE_MAX / 128) == 0, "a size that does not fit is 0");
}

/* Every f16 there and back, and what lies between two of them to the nearer, to the even one from the middle. */
void check_f16(check_run *run)
{
    bool same = true, rounds = true;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        float x = mfk_f16_to_f32((uint16_t)h), next = mfk_f16_to_f32((uint16_t)(h + 1));
        same = same && mfk_f32_to_f16(x) == h && mfk_f32_to_f16(-x) == (h | 0x8000);
        if (h + 1 == 0x7c00) next = 65536.0f; /* where the next one would be */
        float middle = x + (next - x) / 2;
        rounds =
            rounds && mfk_f32_to_f16(nextafterf(middle, 0)) == h && mfk_f32_to_f16(nextafterf(middle, next)) == h + 1;
        rounds = rounds && mfk_f32_to_f16(middle) == h + h % 2;
    }
    check_true(run, same, "f16 to f32 and back");
    check_true(run, rounds, "f32 to the nearest f16");
    check_true(run, isnan(mfk_f16_to_f32(mfk_f32_to_f16(NAN))) && isinf(mfk_f16_to_f32(mfk_f32_to_f16(INFINITY))),
               "NaN and infinity in f16");
}
