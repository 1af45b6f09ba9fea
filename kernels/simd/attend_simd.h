/* attend_simd.h - the body of attention, over the sixteen lanes of f32x16_*.h.
 *
 * Rows are taken four or two at a time, so that they share what is read of the cache, where their ranges of keys
 * meet; what is left at the ragged ends is done row by row. The including file sets
 *     ATTEND_GROUPS  registers of 16 positions, or of 16 values, that four rows work on at once
 *
 * Scratch: exponents [MFK_ATTEND_ROWS][MFK_SPAN], then a span's values [MFK_ATTEND_ROWS][d_head]. */
#include "kernel_list.h"
#include "math_simd.h"

#include <math.h> /* INFINITY */
#include <stdbool.h>

enum { ROWS_AT_ONCE = 4 };

/* The rows that see keys of one span, and which. */
typedef struct span {
    const mfk_attend_args *args;
    size_t first; /* position of the span */
    size_t n;     /* rows, of those in args, in `row` */
    size_t row[MFK_ATTEND_ROWS];
    size_t begin[MFK_ATTEND_ROWS], end[MFK_ATTEND_ROWS]; /* absolute positions */
    float *e[MFK_ATTEND_ROWS], *values[MFK_ATTEND_ROWS]; /* [MFK_SPAN], [d_head] */
    float max[MFK_ATTEND_ROWS], sum[MFK_ATTEND_ROWS];
} span;

static size_t least(const size_t *x, size_t n)
{
    size_t y = x[0];
    for (size_t i = 1; i < n; i++)
        y = x[i] < y ? x[i] : y;
    return y;
}

static size_t greatest(const size_t *x, size_t n)
{
    size_t y = x[0];
    for (size_t i = 1; i < n; i++)
        y = x[i] > y ? x[i] : y;
    return y;
}

/* Elements i .. i + 15 of an f32 or bf16 array. */
MFK_INLINE f32x16 load_cache(mfk_type type, const void *array, size_t i)
{
    return type == MFK_BF16 ? f32x16_load_bf16((const uint16_t *)array + i) : f32x16_load((const float *)array + i);
}

MFK_INLINE f32x16 scaled(const mfk_attend_args *args, f32x16 s)
{
    s = f32x16_mul(s, f32x16_set(args->scale));
    if (!(args->softcap > 0.0f)) return s;
    f32x16 cap = f32x16_set(args->softcap);
    return f32x16_mul(cap, tanh16(f32x16_div(s, cap)));
}

/* Products of `rows` rows from `at` with the keys at positions j .. j + 16 groups, all in one page: to e. */
MFK_INLINE void products(const span *s, mfk_type type, size_t at, size_t rows, size_t j, size_t groups)
{
    const mfk_attend_args *args = s->args;
    const char *keys = (const char *)args->pages[j / MFK_PAGE] + args->k_offset_bytes; /* [d_head][MFK_PAGE] */
    f32x16 acc[ROWS_AT_ONCE * 4], k[4];
    for (size_t i = 0; i < rows * groups; i++)
        acc[i] = f32x16_set(0.0f);
    for (size_t d = 0; d < args->d_head; d++) {
        for (size_t g = 0; g < groups; g++)
            k[g] = load_cache(type, keys, d * MFK_PAGE + j % MFK_PAGE + g * 16);
        for (size_t r = 0; r < rows; r++)
            for (size_t g = 0; g < groups; g++)
                acc[r * groups + g] = f32x16_fma(f32x16_set(args->q[s->row[at + r]][d]), k[g], acc[r * groups + g]);
    }
    for (size_t i = 0; i < rows * groups; i++)
        f32x16_store(s->e[at + i / groups] + (j - s->first) + i % groups * 16, acc[i]);
}

/* Products to scores, -inf where the row does not see the key, and on to e = exp(score - maximum). */
static void exponents(span *s, size_t at)
{
    float *e = s->e[at];
    size_t first = s->begin[at] - s->first, begin = first / 16 * 16, end = s->end[at] - s->first;
    f32x16 max = f32x16_set(-INFINITY), sum = f32x16_set(0.0f);
    for (size_t j = begin; j < end; j += 16) {
        size_t from = first > j ? first - j : 0, to = end - j < 16 ? end - j : 16;
        f32x16 x = f32x16_keep(scaled(s->args, f32x16_load(e + j)), from, to, f32x16_set(-INFINITY));
        f32x16_store(e + j, x);
        max = f32x16_max(x, max);
    }
    s->max[at] = f32x16_tree_max(max);
    for (size_t j = begin; j < end; j += 16) {
        f32x16 x = exp16(f32x16_sub(f32x16_load(e + j), f32x16_set(s->max[at])));
        f32x16_store(e + j, x);
        sum = f32x16_add(sum, x);
    }
    s->sum[at] = f32x16_tree_sum(sum);
}

MFK_INLINE void rows_products(span *s, mfk_type type, size_t at, size_t rows)
{
    size_t begin = least(s->begin + at, rows), end = greatest(s->end + at, rows), groups = rows > 1 ? ATTEND_GROUPS : 4;
    for (size_t j = begin / (16 * groups) * (16 * groups); j < end; j += 16 * groups)
        products(s, type, at, rows, j, groups);
}

/* values += e * value over the positions [begin, end), which all `rows` rows see, in 16 groups dimensions. */
MFK_INLINE void weigh(const span *s, mfk_type type, size_t at, size_t rows, size_t begin, size_t end, size_t d,
                      size_t groups)
{
    const mfk_attend_args *args = s->args;
    f32x16 acc[ROWS_AT_ONCE * 4], v[4];
    for (size_t i = 0; i < rows * groups; i++)
        acc[i] = f32x16_load(s->values[at + i / groups] + d + i % groups * 16);
    for (size_t j = begin; j < end; j++) {
        const char *values = (const char *)args->pages[j / MFK_PAGE] + args->v_offset_bytes; /* [MFK_PAGE][d_head] */
        for (size_t g = 0; g < groups; g++)
            v[g] = load_cache(type, values, j % MFK_PAGE * args->d_head + d + g * 16);
        for (size_t r = 0; r < rows; r++)
            for (size_t g = 0; g < groups; g++)
                acc[r * groups + g] = f32x16_fma(f32x16_set(s->e[at + r][j - s->first]), v[g], acc[r * groups + g]);
    }
    for (size_t i = 0; i < rows * groups; i++)
        f32x16_store(s->values[at + i / groups] + d + i % groups * 16, acc[i]);
}

MFK_INLINE void rows_weigh(const span *s, mfk_type type, size_t at, size_t rows, size_t begin, size_t end)
{
    size_t d = 0, wide = rows > 1 ? ATTEND_GROUPS : 4;
    for (; d + 16 * wide <= s->args->d_head; d += 16 * wide)
        weigh(s, type, at, rows, begin, end, d, wide);
    for (; d < s->args->d_head; d += 16)
        weigh(s, type, at, rows, begin, end, d, 1);
}

/* Each compiled once for a type and a number of rows: 4, 2 or 1. */
static void any_products(span *s, size_t at, size_t rows)
{
    bool bf16 = s->args->type == MFK_BF16;
    if (rows == 4)
        bf16 ? rows_products(s, MFK_BF16, at, 4) : rows_products(s, MFK_F32, at, 4);
    else if (rows == 2)
        bf16 ? rows_products(s, MFK_BF16, at, 2) : rows_products(s, MFK_F32, at, 2);
    else
        bf16 ? rows_products(s, MFK_BF16, at, 1) : rows_products(s, MFK_F32, at, 1);
}

static void any_weigh(const span *s, size_t at, size_t rows, size_t begin, size_t end)
{
    bool bf16 = s->args->type == MFK_BF16;
    if (rows == 4)
        bf16 ? rows_weigh(s, MFK_BF16, at, 4, begin, end) : rows_weigh(s, MFK_F32, at, 4, begin, end);
    else if (rows == 2)
        bf16 ? rows_weigh(s, MFK_BF16, at, 2, begin, end) : rows_weigh(s, MFK_F32, at, 2, begin, end);
    else
        bf16 ? rows_weigh(s, MFK_BF16, at, 1, begin, end) : rows_weigh(s, MFK_F32, at, 1, begin, end);
}

static void rows_values(const span *s, size_t at, size_t rows)
{
    size_t begin = greatest(s->begin + at, rows), end = least(s->end + at, rows); /* what all of them see */
    for (size_t r = at; r < at + rows; r++) {
        for (size_t d = 0; d < s->args->d_head; d += 16)
            f32x16_store(s->values[r] + d, f32x16_set(0.0f));
        if (begin < end && rows > 1)
            any_weigh(s, r, 1, s->begin[r], begin);
        else
            any_weigh(s, r, 1, s->begin[r], s->end[r]);
    }
    if (begin >= end || rows == 1) return;
    any_weigh(s, at, rows, begin, end);
    for (size_t r = at; r < at + rows; r++)
        any_weigh(s, r, 1, end, s->end[r]);
}

static void span_rows(span *s)
{
    for (size_t at = 0, rows; at < s->n; at += rows) {
        size_t left = s->n - at;
        rows = left >= ROWS_AT_ONCE ? ROWS_AT_ONCE : left >= 2 ? 2 : 1;
        any_products(s, at, rows);
        for (size_t r = at; r < at + rows; r++)
            exponents(s, r);
        rows_values(s, at, rows);
    }
}

/* Which rows see keys of the span. A row's first span goes straight to its output. */
static void span_open(span *s, const mfk_attend_args *args, size_t first)
{
    float *e = args->scratch, *values = e + MFK_ATTEND_ROWS * MFK_SPAN;
    *s = (span){ .args = args, .first = first };
    for (size_t r = 0; r < args->n_row; r++) {
        size_t begin = args->key_begin[r] > first ? args->key_begin[r] : first;
        size_t end = args->key_end[r] < first + MFK_SPAN ? args->key_end[r] : first + MFK_SPAN;
        if (begin >= end) continue;
        s->row[s->n] = r;
        s->begin[s->n] = begin;
        s->end[s->n] = end;
        s->e[s->n] = e + r * MFK_SPAN;
        s->values[s->n] = args->key_begin[r] >= first ? args->out[r] : values + r * args->d_head;
        s->n++;
    }
}

static void span_merge(const span *s, float *max, float *sum)
{
    for (size_t i = 0; i < s->n; i++) {
        size_t r = s->row[i];
        float *out = s->args->out[r];
        if (s->values[i] == out) {
            max[r] = s->max[i];
            sum[r] = s->sum[i];
            continue;
        }
        float both = s->max[i] > max[r] ? s->max[i] : max[r];
        f32x16 old_share = exp16(f32x16_set(max[r] - both)), new_share = exp16(f32x16_set(s->max[i] - both));
        f32x16 l = f32x16_fma(f32x16_set(s->sum[i]), new_share, f32x16_mul(f32x16_set(sum[r]), old_share));
        for (size_t d = 0; d < s->args->d_head; d += 16)
            f32x16_store(out + d, f32x16_fma(f32x16_load(s->values[i] + d), new_share,
                                             f32x16_mul(f32x16_load(out + d), old_share)));
        max[r] = both;
        sum[r] = f32x16_first(l);
    }
}

void MFK_ISA(mfk_attend)(const mfk_attend_args *args)
{
    float max[MFK_ATTEND_ROWS], sum[MFK_ATTEND_ROWS];
    size_t begin = args->key_begin[0], end = args->key_end[0];
    for (size_t r = 1; r < args->n_row; r++) {
        begin = args->key_begin[r] < begin ? args->key_begin[r] : begin;
        end = args->key_end[r] > end ? args->key_end[r] : end;
    }
    for (size_t first = begin / MFK_SPAN * MFK_SPAN; first < end; first += MFK_SPAN) {
        span s;
        span_open(&s, args, first);
        span_rows(&s);
        span_merge(&s, max, sum);
    }
    for (size_t r = 0; r < args->n_row; r++)
        for (size_t d = 0; d < args->d_head; d += 16)
            f32x16_store(args->out[r] + d, f32x16_div(f32x16_load(args->out[r] + d), f32x16_set(sum[r])));
}
