/* gemm_q_simd.h - the body of every vector product of 8-bit activations with Q8 or Q4 weights, over the sixteen lanes of
 * f32x16_*.h and the dot products of dot_*.h.
 *
 * The including file sets
 *     GEMM_Q4        weights are places in a table; else bytes
 *     TILE_ROWS      the most rows of a tile
 *     TILE_PANELS(r) how many panels a tile of r rows reads at once: 1 to 4
 *
 * A tile keeps two kinds of sums in registers: integers over a block of 32 inputs (Q4: over each half), and the chains,
 * which take a step where a block ends. Activations are read where they lie: a word of four is broadcast as it is. With
 * several tiles of rows k goes in parts that the first-level cache holds, resuming from C, and a panel's Q4 codes and
 * scales are looked up once, into the scratch, for all of the tiles. */
#include "kernel_list.h"
#include "pack.h"
#include "quantize.h"
#include "quantize_simd.h"
#include "unrolled.h"

#include <stdbool.h>
#include <string.h>

enum { MAX_PANELS = 4, MAX_SUMS = 12 };

/* Where a tile finds a block: in a Q8 or Q4 panel, or looked up: eight lines of bytes, then two of f32 scales. */
typedef enum source { FROM_Q8, FROM_Q4, FROM_LOOKED_UP } source;

enum { LOOKED_UP_BYTES = 10 * MFK_LINE };

MFK_INLINE size_t codes_at(source from, size_t block)
{
    if (from == FROM_LOOKED_UP) return block * LOOKED_UP_BYTES;
    return mfk_block_at(from == FROM_Q8 ? MFK_Q8_BLOCK_BYTES : MFK_Q4_BLOCK_BYTES, block);
}

typedef struct tile_args {
    const char *a; /* block `begin` of the first row */
    size_t a_row_bytes;
    const char *b;     /* the first panel */
    const char *next;  /* the panels to be read after these, or these */
    size_t begin, end; /* blocks, of the panels */
    size_t b_panel_bytes;
    const int8_t *table;
    float *c;
    size_t c_row_floats;
    bool resume;
} tile_args;

/* The processor's own prefetching fills the second-level cache; this is the rest of the way, 1 KiB ahead. Past the
 * end of a panel, or of its live prefix, come the heads of the next. */
MFK_INLINE const char *ahead(const tile_args *t, source from, size_t block)
{
    size_t to = block + (from == FROM_Q4 ? 4 : 2);
    const char *b = to < t->end ? t->b : t->next;
    if (to >= t->end) to = to - t->end + t->begin < t->end ? to - t->end + t->begin : t->begin;
    return b + codes_at(from, to);
}

/* Four inputs of every row and panel. */
MFK_INLINE void dot_group(const char *const *a, size_t at, size_t rows, size_t panels, const codes4 *w, i32x16 *sum)
{
    UNROLLED (r, rows) {
        int32_t word;
        memcpy(&word, a[r] + offsetof(mfk_q8_block, q) + at, sizeof word);
        act4 x = act4_set(word);
        UNROLLED (p, panels)
            sum[r * panels + p] = dot4(sum[r * panels + p], w[p], x);
    }
}

/* Groups [begin, end) of a block in bytes. */
MFK_INLINE void dot_bytes(const tile_args *t, const char *codes, const char *prefetch, const char *const *a,
                          size_t rows, size_t panels, size_t begin, size_t end, i32x16 *sum)
{
    for (size_t g = begin; g < end; g++) {
        codes4 w[MAX_PANELS];
        UNROLLED (p, panels) {
            w[p] = codes4_of(i32x16_load(codes + p * t->b_panel_bytes + g * MFK_LINE));
            if (prefetch) __builtin_prefetch(prefetch + p * t->b_panel_bytes + g * MFK_LINE);
        }
        dot_group(a, 4 * g, rows, panels, w, sum);
    }
}

#ifdef GEMM_Q4
#define NIBBLES i32x16_set(0x0f0f0f0f)

/* Lines [begin, end) of a block: two groups lie in a line, and each is looked up when its turn comes. */
MFK_INLINE void dot_nibbles(const tile_args *t, const char *codes, const char *prefetch, const char *const *a,
                            size_t rows, size_t panels, size_t begin, size_t end, lookup16 table, i32x16 *sum)
{
    for (size_t g = begin; g < end; g++) {
        i32x16 line[MAX_PANELS];
        codes4 w[MAX_PANELS];
        UNROLLED (p, panels) {
            line[p] = i32x16_load(codes + p * t->b_panel_bytes + g * MFK_LINE);
            __builtin_prefetch(prefetch + p * t->b_panel_bytes + g * MFK_LINE);
            w[p] = codes4_of(i32x16_lookup(table, i32x16_and(line[p], NIBBLES)));
        }
        dot_group(a, 8 * g, rows, panels, w, sum);
        UNROLLED (p, panels)
            w[p] = codes4_of(i32x16_lookup(table, i32x16_and(i32x16_shift_right(line[p], 4), NIBBLES)));
        dot_group(a, 8 * g + 4, rows, panels, w, sum);
    }
}

/* Sixteen scales of Q4: pack.h's mfk_q4_scale. `bias`: where an exponent has it. */
MFK_INLINE f32x16 q4_scales(const void *codes, i32x16 bias)
{
    i32x16 bits = i32x16_and(i32x16_shift_left(i32x16_load_bytes(codes), 20), i32x16_set((int32_t)0x87f00000u));
    return f32x16_of_bits(i32x16_add(bits, bias));
}

MFK_INLINE i32x16 q4_bias(const int8_t *table)
{
    return i32x16_set((int32_t)((uint32_t)(127 + table[MFK_Q4_BIAS_AT]) << 23));
}
#endif

/* A block of Q8: acc = fma(dot, scale_a * scale_w, acc). */
MFK_INLINE void block_q8(const tile_args *t, size_t block, const char *const *a, size_t rows, size_t panels,
                         f32x16 *acc)
{
    const char *scales = t->b + mfk_scales_at(MFK_Q8_BLOCK_BYTES, block);
    i32x16 sum[MAX_SUMS];
    UNROLLED (r, rows)
        UNROLLED (p, panels)
            sum[r * panels + p] = dot4_start(((const mfk_q8_block *)(const void *)a[r])->offset);
    dot_bytes(t, t->b + codes_at(FROM_Q8, block), ahead(t, FROM_Q8, block), a, rows, panels, 0, 8, sum);
    UNROLLED (p, panels) {
        f32x16 scale = f32x16_load_f16((const uint16_t *)(const void *)(scales + p * t->b_panel_bytes));
        UNROLLED (r, rows) {
            f32x16 product = f32x16_mul(f32x16_set(((const mfk_q8_block *)(const void *)a[r])->scale), scale);
            acc[r * panels + p] = f32x16_fma(f32x16_of_i32(sum[r * panels + p]), product, acc[r * panels + p]);
        }
    }
}

#ifdef GEMM_Q4
/* A block of Q4: acc = fma(fma(dot1, scale_w1, dot0 * scale_w0), scale_a, acc). */
MFK_INLINE void block_q4(const tile_args *t, source from, size_t block, const char *const *a, size_t rows,
                         size_t panels, lookup16 table, i32x16 bias, f32x16 *acc)
{
    const char *codes = t->b + codes_at(from, block), *scales = t->b + mfk_scales_at(MFK_Q4_BLOCK_BYTES, block);
    f32x16 part[MAX_SUMS];
    UNROLLED (half, 2) {
        i32x16 sum[MAX_SUMS];
        UNROLLED (r, rows)
            UNROLLED (p, panels)
                sum[r * panels + p] = dot4_start(((const mfk_q8_block *)(const void *)a[r])->half[half]);
        if (from == FROM_Q4)
            dot_nibbles(t, codes, ahead(t, from, block), a, rows, panels, 2 * half, 2 * half + 2, table, sum);
        else
            dot_bytes(t, codes, NULL, a, rows, panels, 4 * half, 4 * half + 4, sum);
        UNROLLED (p, panels) {
            f32x16 scale =
                from == FROM_Q4
                    ? q4_scales(scales + p * t->b_panel_bytes + half * MFK_NR, bias)
                    : f32x16_load((const float *)(const void *)(codes + p * t->b_panel_bytes) + (8 + half) * MFK_NR);
            UNROLLED (r, rows) {
                f32x16 dot = f32x16_of_i32(sum[r * panels + p]), *x = &part[r * panels + p];
                *x = half == 0 ? f32x16_mul(dot, scale) : f32x16_fma(dot, scale, *x);
            }
        }
    }
    UNROLLED (r, rows)
        UNROLLED (p, panels)
            acc[r * panels + p] =
                f32x16_fma(part[r * panels + p], f32x16_set(((const mfk_q8_block *)(const void *)a[r])->scale),
                           acc[r * panels + p]);
}
#endif

/* acc[r][p] takes a step for each block. `rows`, `panels` and `from` are constants where this is inlined. */
MFK_INLINE void tile_chains(const tile_args *t, size_t rows, size_t panels, source from, f32x16 *acc)
{
    const char *a[TILE_ROWS];
    UNROLLED (r, rows)
        a[r] = t->a + r * t->a_row_bytes;
#ifdef GEMM_Q4
    const lookup16 table = lookup16_of(t->table);
    const i32x16 bias = q4_bias(t->table);
#endif
    for (size_t block = t->begin; block < t->end; block++) {
#ifdef GEMM_Q4
        block_q4(t, from, block, a, rows, panels, table, bias, acc);
#else
        (void)from;
        block_q8(t, block, a, rows, panels, acc);
#endif
        UNROLLED (r, rows)
            a[r] += sizeof(mfk_q8_block);
    }
}

MFK_INLINE void tile(const tile_args *t, size_t rows, size_t panels, source from)
{
    f32x16 acc[MAX_SUMS];
    float *c = t->c;
    size_t c_row_floats = t->c_row_floats;
    if (t->resume) {
        UNROLLED (r, rows)
            UNROLLED (p, panels)
                acc[r * panels + p] = f32x16_load(c + r * c_row_floats + p * MFK_NR);
    } else {
        UNROLLED (i, rows * panels)
            acc[i] = f32x16_set(0.0f);
    }
    tile_chains(t, rows, panels, from, acc);
    UNROLLED (r, rows)
        UNROLLED (p, panels)
            f32x16_store(c + r * c_row_floats + p * MFK_NR, acc[r * panels + p]);
}

/* A tile of r rows reads as many panels as suit it alone, as many as suit the largest tile, or one. */
#define TILE_OF(name, r, from)                                \
    static void name##_##r(const tile_args *t, size_t panels) \
    {                                                         \
        if (panels == TILE_PANELS(r))                         \
            tile(t, r, TILE_PANELS(r), from);                 \
        else if (panels == TILE_PANELS(TILE_ROWS))            \
            tile(t, r, TILE_PANELS(TILE_ROWS), from);         \
        else                                                  \
            tile(t, r, 1, from);                              \
    }
#ifdef GEMM_Q4
#define STORED FROM_Q4
#else
#define STORED FROM_Q8
#endif
TILE_OF(tiles, 1, STORED)
TILE_OF(tiles, 2, STORED)
TILE_OF(tiles, 3, STORED)
TILE_OF(tiles, 4, STORED)
#if TILE_ROWS > 4
TILE_OF(tiles, 5, STORED)
TILE_OF(tiles, 6, STORED)
#endif

static void (*const tiles[])(const tile_args *t, size_t panels) = {
    tiles_1, tiles_2, tiles_3, tiles_4,
#if TILE_ROWS > 4
    tiles_5, tiles_6,
#endif
};

#ifdef GEMM_Q4
TILE_OF(tiles_looked_up, 1, FROM_LOOKED_UP)
TILE_OF(tiles_looked_up, 2, FROM_LOOKED_UP)
TILE_OF(tiles_looked_up, 3, FROM_LOOKED_UP)
TILE_OF(tiles_looked_up, 4, FROM_LOOKED_UP)
#if TILE_ROWS > 4
TILE_OF(tiles_looked_up, 5, FROM_LOOKED_UP)
TILE_OF(tiles_looked_up, 6, FROM_LOOKED_UP)
#endif

static void (*const tiles_looked_up[])(const tile_args *t, size_t panels) = {
    tiles_looked_up_1, tiles_looked_up_2, tiles_looked_up_3, tiles_looked_up_4,
#if TILE_ROWS > 4
    tiles_looked_up_5, tiles_looked_up_6,
#endif
};
#endif

static void any_tile(const tile_args *t, size_t rows, size_t panels, bool looked_up)
{
#ifdef GEMM_Q4
    if (looked_up) {
        tiles_looked_up[rows - 1](t, panels);
        return;
    }
#endif
    (void)looked_up;
    tiles[rows - 1](t, panels);
}

/* Columns of C that end inside a panel pass through a buffer of whole panels. */
static void tile_at_edge(const tile_args *t, size_t rows, size_t panels, bool looked_up, size_t live)
{
    float whole[TILE_ROWS * MAX_PANELS * MFK_NR];
    tile_args inner = *t;
    inner.c = whole;
    inner.c_row_floats = panels * MFK_NR;
    for (size_t r = 0; r < rows && t->resume; r++)
        memcpy(whole + r * inner.c_row_floats, t->c + r * t->c_row_floats, live * sizeof(float));
    any_tile(&inner, rows, panels, looked_up);
    for (size_t r = 0; r < rows; r++)
        memcpy(t->c + r * t->c_row_floats, whole + r * inner.c_row_floats, live * sizeof(float));
}

/* ---- The product ---- */

/* Blocks of 32 inputs at a time: two panels of Q8 are 34 KiB. Rows at a time: their activations are 240 KiB. */
enum { K_BLOCKS = 32, MAX_ROWS = 192, GLU_ROWS = MAX_ROWS, GLU_UNITS = 128 };

static size_t panels_at_once(size_t m, size_t n_panel)
{
    size_t largest = TILE_PANELS(TILE_ROWS), alone = m > TILE_ROWS ? largest : TILE_PANELS(m);
    return n_panel >= alone ? alone : n_panel >= largest ? largest : 1;
}

#ifdef GEMM_Q4
/* Blocks [t->begin, t->end) of the panels, to the scratch. */
static void look_up(tile_args *t, size_t panels, char *scratch)
{
    const lookup16 table = lookup16_of(t->table);
    const i32x16 bias = q4_bias(t->table);
    char *to = scratch;
    for (size_t p = 0; p < panels; p++) {
        const char *panel = t->b + p * t->b_panel_bytes;
        for (size_t block = t->begin; block < t->end; block++, to += LOOKED_UP_BYTES) {
            const char *codes = panel + codes_at(FROM_Q4, block);
            const char *scales = panel + mfk_scales_at(MFK_Q4_BLOCK_BYTES, block);
            for (size_t g = 0; g < 4; g++) {
                i32x16 line = i32x16_load(codes + g * MFK_LINE);
                i32x16 low = i32x16_and(line, NIBBLES), high = i32x16_and(i32x16_shift_right(line, 4), NIBBLES);
                i32x16_store(to + 2 * g * MFK_LINE, i32x16_lookup(table, low));
                i32x16_store(to + (2 * g + 1) * MFK_LINE, i32x16_lookup(table, high));
            }
            for (size_t half = 0; half < 2; half++)
                f32x16_store((float *)(void *)(to + (8 + half) * MFK_LINE), q4_scales(scales + half * MFK_NR, bias));
        }
    }
    t->b = t->next = scratch;
    t->b_panel_bytes = (t->end - t->begin) * LOOKED_UP_BYTES;
    t->end -= t->begin;
    t->begin = 0;
}
#endif

/* Blocks [begin, end) of all columns and these rows, which go in tiles that differ by one row at most. */
static void gemm_blocks(const mfk_gemm_args *args, size_t begin, size_t end, bool resume, char *scratch)
{
    size_t n_panel = (args->n + MFK_NR - 1) / MFK_NR, n_tile = (args->m + TILE_ROWS - 1) / TILE_ROWS;
    bool looked_up = false;
    for (size_t p = 0, panels; p < n_panel; p += panels) {
        size_t live = args->n - p * MFK_NR;
        panels = panels_at_once(args->m, n_panel - p);
        tile_args t = { .a_row_bytes = args->a_row_bytes, .begin = begin, .end = end, .resume = resume };
        t.b = (const char *)args->b + p * args->b_panel_bytes;
        t.b_panel_bytes = args->b_panel_bytes;
        t.next = p + 2 * panels <= n_panel ? t.b + panels * args->b_panel_bytes : t.b;
        t.table = args->table;
        t.c_row_floats = args->c_row_bytes / sizeof(float);
#ifdef GEMM_Q4
        looked_up = n_tile > 1;
        if (looked_up) look_up(&t, panels, scratch);
#endif
        for (size_t i = 0; i < n_tile; i++) {
            size_t row = args->m * i / n_tile, rows = args->m * (i + 1) / n_tile - row;
            t.a = (const char *)args->a + row * args->a_row_bytes;
            t.c = args->c + row * t.c_row_floats + p * MFK_NR;
            if (live < panels * MFK_NR)
                tile_at_edge(&t, rows, panels, looked_up, live);
            else
                any_tile(&t, rows, panels, looked_up);
        }
    }
    (void)scratch;
}

/* `scratch` holds two panels of K_BLOCKS blocks looked up, 40 KiB. */
static void gemm(const mfk_gemm_args *args, void *scratch, size_t scratch_bytes)
{
    size_t first = args->k_begin / MFK_BLOCK, last = first + args->k / MFK_BLOCK;
    size_t at_once = args->m > TILE_ROWS ? K_BLOCKS : args->k / MFK_BLOCK;
    mfk_gemm_args part = *args;
    (void)scratch_bytes;
    for (size_t row = 0; row < args->m; row += part.m) {
        part.m = args->m - row < MAX_ROWS ? args->m - row : MAX_ROWS;
        part.a = (const char *)args->a + row * args->a_row_bytes;
        part.c = args->c + row * (args->c_row_bytes / sizeof(float));
        for (size_t begin = first, end; begin < last; begin = end) {
            end = last - begin < at_once ? last : begin + at_once;
            gemm_blocks(&part, begin, end, begin > first || (args->flags & MFK_RESUME), scratch);
            part.a = (const char *)part.a + (end - begin) * sizeof(mfk_q8_block);
        }
    }
}

#include "glu_simd.h"
