/* attend_x86.h - the body of attention, over the sixteen lanes of f32x16_*.h.
 *
 * Rows are taken four or two at a time, so that they share what is read of the cache, where their ranges of keys
 * meet; what is left at the ragged ends is done row by row. The including file sets
 *     ATTEND_GROUPS  registers of 16 positions, or of 16 values, that four rows work on at once
 *
 * Scratch: exponents [MFK_ATTEND_ROWS][MFK_SPAN], then a span's values [MFK_ATTEND_ROWS][d_head]. */
#include "kernel_list.h"
#include "math_x86.h"

#include <math.h> /* INFINITY */

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

/* How many of a group's 16 positions from j lie before `bound`. */
MFK_INLINE size_t lanes_before(size_t bound, size_t j)
{
    return bound <= j ? 0 : bound - j >= 16 ? 16 : bound - j;
}

MFK_INLINE f32x16 scaled(const mfk_attend_args *args, f32x16 s)
{
    s = f32x16_mul(s, f32x16_set(args->scale));
    if (!(args->softcap > 0.0f)) return s;
    f32x16 cap = f32x16_set(args->softcap);
    return f32x16_mul(cap, tanh16(f32x16_div(s, cap)));
}

/* Scores of `rows` rows from `at` at the positions j .. j + 16 groups, all in one page: to e, with -inf where
 * a row does not see the key. */
MFK_INLINE void scores(const span *s, mfk_type type, size_t at, size_t rows, size_t j, size_t groups, f32x16 *max)
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
    for (size_t r = 0; r < rows; r++) {
        for (size_t g = 0; g < groups; g++) {
            size_t first = j + g * 16, from = lanes_before(s->begin[at + r], first),
                   to = lanes_before(s->end[at + r], first);
            f32x16 x = f32x16_keep(scaled(args, acc[r * groups + g]), from, to, f32x16_set(-INFINITY));
            f32x16_store(s->e[at + r] + (first - s->first), x);
            max[r] = f32x16_max(x, max[r]);
        }
    }
}

/* e = exp(score - maximum), for every group of 16 positions that scores() wrote for these rows. */
static void exponents(span *s, size_t at, size_t begin, size_t end, f32x16 max)
{
    float m = f32x16_tree_max(max), *e = s->e[at];
    f32x16 sum = f32x16_set(0.0f);
    for (size_t j = begin / 16 * 16; j < end; j += 16) {
        f32x16 x = exp16(f32x16_sub(f32x16_load(e + (j - s->first)), f32x16_set(m)));
        f32x16_store(e + (j - s->first), x);
        sum = f32x16_add(sum, x);
    }
    s->max[at] = m;
    s->sum[at] = f32x16_tree_sum(sum);
}

MFK_INLINE void rows_scores(span *s, mfk_type type, size_t at, size_t rows)
{
    size_t begin = least(s->begin + at, rows), end = greatest(s->end + at, rows), groups = rows > 1 ? ATTEND_GROUPS : 4;
    f32x16 max[ROWS_AT_ONCE];
    for (size_t r = 0; r < rows; r++)
        max[r] = f32x16_set(-INFINITY);
    for (size_t j = begin / (16 * groups) * (16 * groups); j < end; j += 16 * groups)
        scores(s, type, at, rows, j, groups, max);
    for (size_t r = 0; r < rows; r++)
        exponents(s, at + r, begin, end, max[r]);
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

MFK_INLINE void weigh_all(const span *s, mfk_type type, size_t at, size_t rows, size_t begin, size_t end)
{
    size_t d = 0, wide = rows > 1 ? ATTEND_GROUPS : 4;
    if (begin >= end) return;
    for (; d + 16 * wide <= s->args->d_head; d += 16 * wide)
        weigh(s, type, at, rows, begin, end, d, wide);
    for (; d < s->args->d_head; d += 16)
        weigh(s, type, at, rows, begin, end, d, 1);
}

MFK_INLINE void rows_values(const span *s, mfk_type type, size_t at, size_t rows)
{
    size_t begin = greatest(s->begin + at, rows), end = least(s->end + at, rows);
    for (size_t r = at; r < at + rows; r++) {
        for (size_t d = 0; d < s->args->d_head; d += 16)
            f32x16_store(s->values[r] + d, f32x16_set(0.0f));
        weigh_all(s, type, r, 1, s->begin[r], begin < end ? begin : s->end[r]);
    }
    if (begin >= end) return;
    weigh_all(s, type, at, rows, begin, end);
    for (size_t r = at; r < at + rows; r++)
        weigh_all(s, type, r, 1, end, s->end[r]);
}

MFK_INLINE void span_rows(span *s, mfk_type type)
{
    size_t at = 0;
    for (; at + ROWS_AT_ONCE <= s->n; at += ROWS_AT_ONCE) {
        rows_scores(s, type, at, ROWS_AT_ONCE);
        rows_values(s, type, at, ROWS_AT_ONCE);
    }
    for (; at + 2 <= s->n; at += 2) {
        rows_scores(s, type, at, 2);
        rows_values(s, type, at, 2);
    }
    for (; at < s->n; at++) {
        rows_scores(s, type, at, 1);
        rows_values(s, type, at, 1);
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
        if (args->type == MFK_BF16)
            span_rows(&s, MFK_BF16);
        else
            span_rows(&s, MFK_F32);
        span_merge(&s, max, sum);
    }
    for (size_t r = 0; r < args->n_row; r++)
        for (size_t d = 0; d < args->d_head; d += 16)
            f32x16_store(args->out[r] + d, f32x16_div(f32x16_load(args->out[r] + d), f32x16_set(sum[r])));
}
