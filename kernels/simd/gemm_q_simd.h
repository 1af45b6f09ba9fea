/* gemm_q_simd.h - the body of every vector product of 8-bit activations with Q8 or Q4 weights, over the sixteen lanes of
 * f32x16_*.h and the dot products of dot_*.h.
 *
 * The including file sets
 *     GEMM_Q4        weights are places in a table; else bytes
 *     TILE_ROWS      the most rows of a tile
 *     TILE_PANELS(r) how many panels a tile of r rows reads at once: 1 to 4
 *
 * A tile keeps two kinds of sums in registers: integers over a block of 32 inputs, and the chains, which take a step
 * where a block ends. Activations are read where they lie: a word of four is broadcast as it is. With several tiles
 * of rows k goes in blocks that the first-level cache holds, resuming from C, and a panel's Q4 codes are looked up
 * once, into the scratch, for all of the tiles. */
#include "kernel_list.h"
#include "pack.h"
#include "quantize_simd.h"
#include "unrolled.h"

#include <stdbool.h>
#include <string.h>

enum { MAX_PANELS = 4, MAX_SUMS = 12 };

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
MFK_INLINE const char *ahead(const tile_args *t, size_t block, size_t block_bytes)
{
    size_t to = block + 1024 / block_bytes;
    const char *b = to < t->end ? t->b : t->next;
    if (to >= t->end) to = to - t->end + t->begin < t->end ? to - t->end + t->begin : t->begin;
    return b + mfk_block_at(block_bytes, to);
}

/* Four inputs of every row and panel. */
MFK_INLINE void dot_group(const char *const *a, size_t at, size_t rows, size_t panels, const codes4 *w, i32x16 *sum)
{
    UNROLLED (r, rows) {
        int32_t word;
        memcpy(&word, a[r] + at, sizeof word);
        act4 x = act4_set(word);
        UNROLLED (p, panels)
            sum[r * panels + p] = dot4(sum[r * panels + p], w[p], x);
    }
}

MFK_INLINE void dot_q8(const tile_args *t, const char *codes, const char *const *a, size_t rows, size_t panels,
                       const char *prefetch, i32x16 *sum)
{
    for (size_t g = 0; g < 8; g++) {
        codes4 w[MAX_PANELS];
        UNROLLED (p, panels) {
            w[p] = codes4_of(i32x16_load(codes + p * t->b_panel_bytes + g * MFK_LINE));
            __builtin_prefetch(prefetch + p * t->b_panel_bytes + g * MFK_LINE);
        }
        dot_group(a, offsetof(mfk_q8_block, q) + 4 * g, rows, panels, w, sum);
    }
}

#ifdef GEMM_Q4
/* Two groups lie in a line; each is looked up when its turn comes. */
MFK_INLINE void dot_q4(const tile_args *t, const char *codes, const char *const *a, size_t rows, size_t panels,
                       const char *prefetch, lookup16 table, i32x16 *sum)
{
    const i32x16 nibble = i32x16_set(0x0f0f0f0f);
    for (size_t g = 0; g < 4; g++) {
        i32x16 line[MAX_PANELS];
        codes4 w[MAX_PANELS];
        UNROLLED (p, panels) {
            line[p] = i32x16_load(codes + p * t->b_panel_bytes + g * MFK_LINE);
            __builtin_prefetch(prefetch + p * t->b_panel_bytes + g * MFK_LINE);
            w[p] = codes4_of(i32x16_lookup(table, i32x16_and(line[p], nibble)));
        }
        dot_group(a, offsetof(mfk_q8_block, q) + 8 * g, rows, panels, w, sum);
        UNROLLED (p, panels)
            w[p] = codes4_of(i32x16_lookup(table, i32x16_and(i32x16_shift_right(line[p], 4), nibble)));
        dot_group(a, offsetof(mfk_q8_block, q) + 8 * g + 4, rows, panels, w, sum);
    }
}
#endif

/* acc[r][p] takes a step for each block. `rows`, `panels` and `q4` are constants where this is inlined. */
MFK_INLINE void tile_chains(const tile_args *t, size_t rows, size_t panels, bool q4, f32x16 *acc)
{
    const size_t block_bytes = q4 ? MFK_Q4_BLOCK_BYTES : MFK_Q8_BLOCK_BYTES;
    const char *a[TILE_ROWS];
    UNROLLED (r, rows)
        a[r] = t->a + r * t->a_row_bytes;
#ifdef GEMM_Q4
    const lookup16 table = lookup16_of(t->table);
#endif
    for (size_t block = t->begin; block < t->end; block++) {
        const char *codes = t->b + mfk_block_at(block_bytes, block), *scales = t->b + mfk_scales_at(block_bytes, block);
        const char *prefetch = ahead(t, block, block_bytes);
        i32x16 sum[MAX_SUMS];
        UNROLLED (r, rows) {
            const mfk_q8_block *x = (const mfk_q8_block *)(const void *)a[r];
            UNROLLED (p, panels)
                sum[r * panels + p] = dot4_start(x->offset);
        }
#ifdef GEMM_Q4
        if (q4) dot_q4(t, codes, a, rows, panels, prefetch, table, sum);
#endif
        if (!q4) dot_q8(t, codes, a, rows, panels, prefetch, sum);
        UNROLLED (p, panels) {
            f32x16 scale = f32x16_load_f16((const uint16_t *)(const void *)(scales + p * t->b_panel_bytes));
            UNROLLED (r, rows) {
                const mfk_q8_block *x = (const mfk_q8_block *)(const void *)a[r];
                f32x16 product = f32x16_mul(f32x16_set(x->scale), scale);
                acc[r * panels + p] = f32x16_fma(f32x16_of_i32(sum[r * panels + p]), product, acc[r * panels + p]);
            }
        }
        UNROLLED (r, rows)
            a[r] += sizeof(mfk_q8_block);
    }
}

MFK_INLINE void tile(const tile_args *t, size_t rows, size_t panels, bool q4)
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
    tile_chains(t, rows, panels, q4, acc);
    UNROLLED (r, rows)
        UNROLLED (p, panels)
            f32x16_store(c + r * c_row_floats + p * MFK_NR, acc[r * panels + p]);
}

/* A tile of r rows reads as many panels as suit it alone, as many as suit the largest tile, or one. */
#define TILE_OF(name, r, q4)                                  \
    static void name##_##r(const tile_args *t, size_t panels) \
    {                                                         \
        if (panels == TILE_PANELS(r))                         \
            tile(t, r, TILE_PANELS(r), q4);                   \
        else if (panels == TILE_PANELS(TILE_ROWS))            \
            tile(t, r, TILE_PANELS(TILE_ROWS), q4);           \
        else                                                  \
            tile(t, r, 1, q4);                                \
    }
#if TILE_ROWS == 6
#define TILES_OF(name, q4)                                                              \
    TILE_OF(name, 1, q4)                                                                \
    TILE_OF(name, 2, q4) TILE_OF(name, 3, q4) TILE_OF(name, 4, q4) TILE_OF(name, 5, q4) \
        TILE_OF(name, 6, q4) static void (*const name[])(                               \
            const tile_args *t, size_t panels) = { name##_1, name##_2, name##_3, name##_4, name##_5, name##_6 };
#else
#define TILES_OF(name, q4)                                                                      \
    TILE_OF(name, 1, q4)                                                                        \
    TILE_OF(name, 2, q4) TILE_OF(name, 3, q4) TILE_OF(name, 4, q4) static void (*const name[])( \
        const tile_args *t, size_t panels) = { name##_1, name##_2, name##_3, name##_4 };
#endif
TILES_OF(tiles_q8, false)
#ifdef GEMM_Q4
TILES_OF(tiles_q4, true)
#endif

static void any_tile(const tile_args *t, size_t rows, size_t panels, bool looked_up)
{
#ifdef GEMM_Q4
    if (!looked_up) {
        tiles_q4[rows - 1](t, panels);
        return;
    }
#endif
    (void)looked_up;
    tiles_q8[rows - 1](t, panels);
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
enum { K_BLOCKS = 32, MAX_ROWS = 192, GLU_ROWS = MAX_ROWS };

static size_t panels_at_once(size_t m, size_t n_panel)
{
    size_t largest = TILE_PANELS(TILE_ROWS), alone = m > TILE_ROWS ? largest : TILE_PANELS(m);
    return n_panel >= alone ? alone : n_panel >= largest ? largest : 1;
}

#ifdef GEMM_Q4
/* Q4 panels as Q8 ones, in the scratch; blocks keep their parity, and so their scales' places. */
static void look_up(tile_args *t, size_t panels, char *scratch)
{
    const i32x16 nibble = i32x16_set(0x0f0f0f0f);
    const lookup16 table = lookup16_of(t->table);
    size_t first = t->begin - t->begin % 2, stride = mfk_block_at(MFK_Q8_BLOCK_BYTES, K_BLOCKS + 1);
    for (size_t p = 0; p < panels; p++) {
        const char *panel = t->b + p * t->b_panel_bytes;
        for (size_t block = t->begin; block < t->end; block++) {
            const char *codes = panel + mfk_block_at(MFK_Q4_BLOCK_BYTES, block);
            char *to = scratch + p * stride + mfk_block_at(MFK_Q8_BLOCK_BYTES, block - first);
            memcpy(scratch + p * stride + mfk_scales_at(MFK_Q8_BLOCK_BYTES, block - first),
                   panel + mfk_scales_at(MFK_Q4_BLOCK_BYTES, block), MFK_LINE / 2);
            for (size_t g = 0; g < 4; g++) {
                i32x16 line = i32x16_load(codes + g * MFK_LINE);
                i32x16 low = i32x16_and(line, nibble), high = i32x16_and(i32x16_shift_right(line, 4), nibble);
                i32x16_store(to + 2 * g * MFK_LINE, i32x16_lookup(table, low));
                i32x16_store(to + (2 * g + 1) * MFK_LINE, i32x16_lookup(table, high));
            }
        }
    }
    t->b = t->next = scratch;
    t->b_panel_bytes = stride;
    t->begin -= first;
    t->end -= first;
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

/* `scratch` holds two panels of K_BLOCKS + 1 blocks as Q8. */
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
