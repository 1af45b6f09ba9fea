/* attend_simd.h - the body of attention, over the sixteen lanes of f32x16_*.h.
 *
 * A span goes page by page, once over its keys and once over its values, and every page over all rows, so that it is
 * in the first-level cache for all but the first of them; and the next page is on its way. Rows are taken up to
 * eight at a time where their ranges of keys meet; what is left at the ragged ends is done row by row. The including
 * file sets
 *     ATTEND_CHAINS  chains of 16 lanes that the processor has registers for, 4 or more
 *     ATTEND_ROWS    rows that share them at most, 8 or 4
 *
 * Scratch: exponents [MFK_ATTEND_ROWS][MFK_SPAN], then the parts of a span and of those before it,
 * [MFK_ATTEND_ROWS][d_head + 16] each. */
#include "kernel_list.h"
#include "math_simd.h"

#include <math.h> /* INFINITY */
#include <stdbool.h>
#include <string.h>

/* Registers of 16 positions, or of 16 values, that so many rows work on at once. */
MFK_INLINE size_t groups_of(size_t rows)
{
    return ATTEND_CHAINS / rows > 4 ? 4 : ATTEND_CHAINS / rows;
}

/* The rows that see keys of one span, and which. */
typedef struct span {
    const mfk_attend_args *args;
    size_t first;      /* position of the span */
    size_t begin, end; /* of all rows, absolute positions */
    size_t n;          /* rows, of those in args, in `row` */
    size_t row[MFK_ATTEND_ROWS];
    size_t row_begin[MFK_ATTEND_ROWS], row_end[MFK_ATTEND_ROWS];
    float *e[MFK_ATTEND_ROWS], *values[MFK_ATTEND_ROWS]; /* [MFK_SPAN]; [d_head], the maximum and the sum */
} span;

/* Keys, or values, of one page. */
typedef struct block {
    const char *data, *next; /* next: of the page after it, NULL where the span has none */
    size_t begin, end;       /* its positions that the span has */
} block;

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

/* Elements i .. i + 15 of a block, without their scales. */
MFK_INLINE f32x16 load_cache(mfk_type type, const void *data, size_t i)
{
    if (type == MFK_F32) return f32x16_load((const float *)data + i);
    if (type == MFK_BF16) return f32x16_load_bf16((const uint16_t *)data + i);
    return f32x16_of_i32(i32x16_load_bytes((const int8_t *)data + i));
}

/* f(type, rows, ...), compiled once for every type and number of rows. */
#define BY_TYPE(f, type, rows, ...)                        \
    ((type) == MFK_F32    ? f(MFK_F32, rows, __VA_ARGS__)  \
     : (type) == MFK_BF16 ? f(MFK_BF16, rows, __VA_ARGS__) \
                          : f(MFK_Q8, rows, __VA_ARGS__))
#define BY_TYPE_AND_ROWS(f, type, rows, ...)          \
    ((rows) == 8   ? BY_TYPE(f, type, 8, __VA_ARGS__) \
     : (rows) == 4 ? BY_TYPE(f, type, 4, __VA_ARGS__) \
     : (rows) == 2 ? BY_TYPE(f, type, 2, __VA_ARGS__) \
                   : BY_TYPE(f, type, 1, __VA_ARGS__))

/* Positions `at` .. `at` + 63. */
static block block_at(const span *s, size_t offset_bytes, size_t at)
{
    const void *const *page = s->args->pages + at / MFK_PAGE;
    block b = { .data = (const char *)page[0] + offset_bytes, .begin = at, .end = at + MFK_PAGE };
    if (b.end < s->end) b.next = (const char *)page[1] + offset_bytes;
    if (b.begin < s->begin) b.begin = s->begin;
    if (b.end > s->end) b.end = s->end;
    return b;
}

/* Elements i .. i + n - 1 of the next page's block, if there is one. */
MFK_INLINE void announce(mfk_type type, const char *next, size_t i, size_t n)
{
    const size_t element = type == MFK_F32 ? 4 : type == MFK_BF16 ? 2 : 1;
    for (size_t at = 0; next != NULL && at < n * element; at += 64)
        __builtin_prefetch(next + i * element + at);
}

/* x of positions j .. j + 15 times their scales, of a cache that has scales. */
MFK_INLINE f32x16 times_scales(const mfk_attend_args *args, size_t offset_bytes, size_t j, f32x16 x)
{
    if (args->type != MFK_Q8) return x;
    const char *scales = (const char *)args->pages[j / MFK_PAGE] + offset_bytes + args->d_head * MFK_PAGE;
    return f32x16_mul(x, f32x16_load((const float *)(const void *)scales + j % MFK_PAGE));
}

MFK_INLINE f32x16 scaled(const mfk_attend_args *args, f32x16 s)
{
    s = f32x16_mul(s, f32x16_set(args->scale));
    if (!(args->softcap > 0.0f)) return s;
    f32x16 cap = f32x16_set(args->softcap);
    return f32x16_mul(cap, tanh16(f32x16_div(s, cap)));
}

/* Products of `rows` rows from `at` with the keys at positions j .. j + 16 groups, all in one page: to e. The first
 * rows announce the next page. */
MFK_INLINE void products(mfk_type type, size_t rows, const span *s, const block *b, size_t at, size_t j, size_t groups)
{
    const char *next = at == 0 ? b->next : NULL;
    f32x16 acc[ATTEND_CHAINS], k[4];
    const float *q[ATTEND_ROWS];
    for (size_t r = 0; r < rows; r++)
        q[r] = s->args->q[s->row[at + r]];
    for (size_t i = 0; i < rows * groups; i++)
        acc[i] = f32x16_set(0.0f);
    for (size_t d = 0; d < s->args->d_head; d++) {
        announce(type, next, d * MFK_PAGE + j % MFK_PAGE, groups * 16);
        for (size_t g = 0; g < groups; g++)
            k[g] = load_cache(type, b->data, d * MFK_PAGE + j % MFK_PAGE + g * 16);
        for (size_t r = 0; r < rows; r++)
            for (size_t g = 0; g < groups; g++)
                acc[r * groups + g] = f32x16_fma(f32x16_set(q[r][d]), k[g], acc[r * groups + g]);
    }
    for (size_t i = 0; i < rows * groups; i++)
        f32x16_store(s->e[at + i / groups] + (j - s->first) + i % groups * 16, acc[i]);
}

MFK_INLINE void rows_products(mfk_type type, size_t rows, const span *s, const block *b, size_t at)
{
    size_t begin = least(s->row_begin + at, rows), end = greatest(s->row_end + at, rows);
    size_t groups = groups_of(rows);
    begin = begin > b->begin ? begin : b->begin;
    end = end < b->end ? end : b->end;
    for (size_t j = begin / (16 * groups) * (16 * groups); j < end; j += 16 * groups)
        products(type, rows, s, b, at, j, groups);
}

/* ALiBi: scores of the positions j .. j + 15 and row `row`, less as they are further from the query. */
MFK_INLINE f32x16 sloped(const mfk_attend_args *args, size_t row, size_t j, f32x16 s)
{
    static const float steps[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
    if (!args->slope) return s;
    f32x16 distance = f32x16_add(f32x16_load(steps), f32x16_set((float)j - (float)args->query_at[row]));
    return f32x16_fma(f32x16_set(args->slope[row]), distance, s);
}

/* Products to scores, -inf where the row does not see the key, and on to e = exp(score - maximum), which, the sum
 * being made, takes the scale of its value. */
static void exponents(span *s, size_t at)
{
    float *e = s->e[at];
    size_t first = s->row_begin[at] - s->first, begin = first / 16 * 16, end = s->row_end[at] - s->first;
    f32x16 max = f32x16_set(-INFINITY), sum = f32x16_set(0.0f);
    for (size_t j = begin; j < end; j += 16) {
        size_t from = first > j ? first - j : 0, to = end - j < 16 ? end - j : 16;
        f32x16 x = times_scales(s->args, s->args->k_offset_bytes, s->first + j, f32x16_load(e + j));
        x = sloped(s->args, s->row[at], s->first + j, scaled(s->args, x));
        x = f32x16_keep(x, from, to, f32x16_set(-INFINITY));
        f32x16_store(e + j, x);
        max = f32x16_max(x, max);
    }
    const float most = s->values[at][s->args->d_head] = f32x16_tree_max(max);
    for (size_t j = begin; j < end; j += 16) {
        f32x16 x = exp16(f32x16_sub(f32x16_load(e + j), f32x16_set(most)));
        f32x16_store(e + j, times_scales(s->args, s->args->v_offset_bytes, s->first + j, x));
        sum = f32x16_add(sum, x);
    }
    s->values[at][s->args->d_head + 1] = f32x16_tree_sum(sum);
}

/* values += e * value over the positions [begin, end) of a page, which all `rows` rows see, in 16 groups dimensions. */
MFK_INLINE void weigh(mfk_type type, size_t rows, const span *s, const block *b, size_t at, size_t begin, size_t end,
                      size_t d, size_t groups)
{
    const char *next = at == 0 ? b->next : NULL;
    f32x16 acc[ATTEND_CHAINS], v[4];
    const float *e[ATTEND_ROWS];
    for (size_t r = 0; r < rows; r++)
        e[r] = s->e[at + r] + (begin - s->first);
    for (size_t i = 0; i < rows * groups; i++)
        acc[i] = f32x16_load(s->values[at + i / groups] + d + i % groups * 16);
    for (size_t j = 0; j < end - begin; j++) {
        const size_t i = (begin % MFK_PAGE + j) * s->args->d_head + d;
        announce(type, next, i, groups * 16);
        for (size_t g = 0; g < groups; g++)
            v[g] = load_cache(type, b->data, i + g * 16);
        for (size_t r = 0; r < rows; r++)
            for (size_t g = 0; g < groups; g++)
                acc[r * groups + g] = f32x16_fma(f32x16_set(e[r][j]), v[g], acc[r * groups + g]);
    }
    for (size_t i = 0; i < rows * groups; i++)
        f32x16_store(s->values[at + i / groups] + d + i % groups * 16, acc[i]);
}

MFK_INLINE void rows_weigh(mfk_type type, size_t rows, const span *s, const block *b, size_t at, size_t begin,
                           size_t end)
{
    size_t d = 0, wide = groups_of(rows);
    for (; d + 16 * wide <= s->args->d_head; d += 16 * wide)
        weigh(type, rows, s, b, at, begin, end, d, wide);
    for (; d < s->args->d_head; d += 16)
        weigh(type, rows, s, b, at, begin, end, d, 1);
}

/* Rows from `at` on, `rows` of them together, see [begin, end): as much of it as the block has. */
static void weigh_range(const span *s, const block *b, size_t at, size_t rows, size_t begin, size_t end)
{
    begin = begin > b->begin ? begin : b->begin;
    end = end < b->end ? end : b->end;
    if (begin < end) BY_TYPE_AND_ROWS(rows_weigh, s->args->type, rows, s, b, at, begin, end);
}

static void block_values(const span *s, const block *b, size_t at, size_t rows)
{
    size_t begin = greatest(s->row_begin + at, rows), end = least(s->row_end + at, rows); /* what all of them see */
    if (begin >= end) begin = end = SIZE_MAX;
    for (size_t r = at; r < at + rows; r++)
        weigh_range(s, b, r, 1, s->row_begin[r], begin < s->row_end[r] ? begin : s->row_end[r]);
    weigh_range(s, b, at, rows, begin, end);
    for (size_t r = at; r < at + rows; r++)
        weigh_range(s, b, r, 1, end, s->row_end[r]);
}

/* How many rows from `at` on go together. */
static size_t rows_at(const span *s, size_t at)
{
    size_t rows = ATTEND_ROWS;
    while (rows > s->n - at)
        rows /= 2;
    return rows;
}

static void span_run(span *s)
{
    const size_t first_page = s->begin / MFK_PAGE * MFK_PAGE;
    for (size_t page = first_page; page < s->end; page += MFK_PAGE) {
        const block keys = block_at(s, s->args->k_offset_bytes, page);
        for (size_t at = 0, rows; at < s->n; at += rows) {
            rows = rows_at(s, at);
            BY_TYPE_AND_ROWS(rows_products, s->args->type, rows, s, &keys, at);
        }
    }
    for (size_t r = 0; r < s->n; r++) {
        exponents(s, r);
        memset(s->values[r], 0, s->args->d_head * sizeof(float));
    }
    for (size_t page = first_page; page < s->end; page += MFK_PAGE) {
        const block values = block_at(s, s->args->v_offset_bytes, page);
        for (size_t at = 0, rows; at < s->n; at += rows) {
            rows = rows_at(s, at);
            block_values(s, &values, at, rows);
        }
    }
}

/* Which rows see keys of the span. A row's first span goes straight to `merged`. */
static void span_open(span *s, const mfk_attend_args *args, size_t first, float *const *merged)
{
    float *e = args->scratch, *parts = e + MFK_ATTEND_ROWS * MFK_SPAN;
    *s = (span){ .args = args, .first = first };
    for (size_t r = 0; r < args->n_row; r++) {
        size_t begin = args->key_begin[r] > first ? args->key_begin[r] : first;
        size_t end = args->key_end[r] < first + MFK_SPAN ? args->key_end[r] : first + MFK_SPAN;
        if (begin >= end) continue;
        s->row[s->n] = r;
        s->row_begin[s->n] = begin;
        s->row_end[s->n] = end;
        s->e[s->n] = e + r * MFK_SPAN;
        s->values[s->n] = args->key_begin[r] >= first ? merged[r] : parts + r * (args->d_head + 16);
        s->n++;
    }
    s->begin = least(s->row_begin, s->n);
    s->end = greatest(s->row_end, s->n);
}

void MFK_ISA(mfk_attend_merge)(size_t d_head, float *part, const float *next)
{
    float *max = part + d_head, *sum = max + 1, next_max = next[d_head];
    float both = next_max > *max ? next_max : *max;
    f32x16 old_share = exp16(f32x16_set(*max - both)), new_share = exp16(f32x16_set(next_max - both));
    for (size_t d = 0; d < d_head; d += 16)
        f32x16_store(part + d,
                     f32x16_fma(f32x16_load(next + d), new_share, f32x16_mul(f32x16_load(part + d), old_share)));
    *sum = f32x16_first(f32x16_fma(f32x16_set(next[d_head + 1]), new_share, f32x16_mul(f32x16_set(*sum), old_share)));
    *max = both;
}

void MFK_ISA(mfk_attend)(const mfk_attend_args *args)
{
    float *merged[MFK_ATTEND_ROWS], *parts = (float *)args->scratch + MFK_ATTEND_ROWS * MFK_SPAN;
    size_t begin = args->key_begin[0], end = args->key_end[0];
    for (size_t r = 0; r < args->n_row; r++) {
        begin = args->key_begin[r] < begin ? args->key_begin[r] : begin;
        end = args->key_end[r] > end ? args->key_end[r] : end;
        merged[r] = args->part ? args->part[r] : parts + (MFK_ATTEND_ROWS + r) * (args->d_head + 16);
    }
    for (size_t first = begin / MFK_SPAN * MFK_SPAN; first < end; first += MFK_SPAN) {
        span s;
        span_open(&s, args, first, merged);
        if (s.n == 0) continue;
        span_run(&s);
        for (size_t i = 0; i < s.n; i++)
            if (s.values[i] != merged[s.row[i]]) MFK_ISA(mfk_attend_merge)(args->d_head, merged[s.row[i]], s.values[i]);
    }
    for (size_t r = 0; r < args->n_row && !args->part; r++)
        for (size_t d = 0; d < args->d_head; d += 16)
            f32x16_store(args->out[r] + d,
                         f32x16_div(f32x16_load(merged[r] + d), f32x16_set(merged[r][args->d_head + 1])));
}
