/* gemm_q_simd.h - the body of every vector product of 8-bit activations with Q8 or Q4 weights, over the sixteen lanes of
 * f32x16_*.h and the dot products of dot_*.h.
 *
 * The including file sets
 *     GEMM_Q4        weights are places in a table; else bytes
 *     TILE_ROWS      the most rows of a tile where there are more than one
 *     TILE_PANELS    how many panels such a tile reads at once: 1 or 2
 *     FEW_ROWS       up to so many rows are one tile, of one panel: one stream is what memory delivers fastest
 *     TILE_CHAINS    a header with a tile_chains() and an arrange_block() that suit its registers and instructions better
 *                    than dot_*.h and what is here, if there is one
 *
 * A tile keeps two kinds of sums in registers: integers over a block of 32 inputs (Q4: over each half), and the chains,
 * which take a step where a block ends. Activations are read where they lie: a word of four is broadcast as it is. With
 * several tiles of rows k goes in parts that the first-level cache holds, resuming from C, and what every tile would do
 * again with a panel's codes and scales, looking them up in Q4's table above all, is done once, into the scratch. */
#include "kernel_list.h"
#include "pack.h"
#include "quantize.h"
#include "quantize_simd.h"
#include "unrolled.h"

#include <stdbool.h>
#include <string.h>

enum { MAX_PANELS = 2, MAX_SUMS = 12, MOST_ROWS = FEW_ROWS > TILE_ROWS ? FEW_ROWS : TILE_ROWS };

/* Where a tile finds a block: in a Q8 or Q4 panel, or arranged: eight lines of bytes, then the f32 scales. */
typedef enum source { FROM_Q8, FROM_Q4, FROM_ARRANGED } source;

/* SCALES_LINES: of an arranged block; a scale is for a whole block, or for half of one. */
#ifdef GEMM_Q4
#define STORED FROM_Q4
enum { SCALES_LINES = 2, STORED_BLOCK_BYTES = MFK_Q4_BLOCK_BYTES + MFK_LINE / 2 };
#else
#define STORED FROM_Q8
enum { SCALES_LINES = 1, STORED_BLOCK_BYTES = MFK_Q8_BLOCK_BYTES + MFK_LINE / 2 };
#endif
#if defined(GEMM_Q4) || defined(TILE_CHAINS)
#define ARRANGES
#endif

enum { ARRANGED_BYTES = (8 + SCALES_LINES) * MFK_LINE };

MFK_INLINE size_t codes_at(source from, size_t block)
{
    if (from == FROM_ARRANGED) return block * ARRANGED_BYTES;
    return mfk_block_at(from == FROM_Q8 ? MFK_Q8_BLOCK_BYTES : MFK_Q4_BLOCK_BYTES, block);
}

typedef struct tile_args {
    const char *a; /* block `begin` of the first row */
    size_t a_row_bytes;
    const char *b;     /* the first panel */
    const char *next;  /* the panels to be read after these, or these */
    const char *later; /* with several tiles: blocks of a panel that is read when these are done; else NULL */
    size_t begin, end; /* blocks, of the panels */
    size_t b_panel_bytes;
    const int8_t *table;
    float *c;
    size_t c_row_floats;
    bool resume;
} tile_args;

/* What to prefetch with a block. A tile alone, which reads as fast as memory gives: some 7 to 8 KiB ahead, and past the
 * end of a panel, or of its live prefix, the heads of the next. One of several: of what will be read when they are done. */
MFK_INLINE const char *ahead(const tile_args *t, source from, size_t block)
{
    if (t->later) return t->later + (block - t->begin) * STORED_BLOCK_BYTES;
    size_t to = block + (from == FROM_Q4 ? 24 : 16);
    const char *b = to < t->end ? t->b : t->next;
    if (to >= t->end) to = to - t->end + t->begin < t->end ? to - t->end + t->begin : t->begin;
    return b + codes_at(from, to);
}

#ifdef TILE_CHAINS
#include TILE_CHAINS
#else
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
        }
        if (g * MFK_LINE + MFK_LINE <= STORED_BLOCK_BYTES) __builtin_prefetch(prefetch + g * MFK_LINE); /* within k */
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
            w[p] = codes4_of(i32x16_lookup(table, i32x16_and(line[p], NIBBLES)));
        }
        __builtin_prefetch(prefetch + g * MFK_LINE);
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
            dot_bytes(t, codes, ahead(t, from, block), a, rows, panels, 4 * half, 4 * half + 4, sum);
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
    const char *a[MOST_ROWS];
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

#ifdef GEMM_Q4
/* A block of a panel, looked up. */
MFK_INLINE void arrange_block(const tile_args *t, const char *panel, size_t block, char *to)
{
    const lookup16 table = lookup16_of(t->table);
    const i32x16 bias = q4_bias(t->table);
    const char *codes = panel + codes_at(FROM_Q4, block), *scales = panel + mfk_scales_at(MFK_Q4_BLOCK_BYTES, block);
    for (size_t g = 0; g < 4; g++) {
        i32x16 line = i32x16_load(codes + g * MFK_LINE);
        i32x16 low = i32x16_and(line, NIBBLES), high = i32x16_and(i32x16_shift_right(line, 4), NIBBLES);
        i32x16_store(to + 2 * g * MFK_LINE, i32x16_lookup(table, low));
        i32x16_store(to + (2 * g + 1) * MFK_LINE, i32x16_lookup(table, high));
    }
    for (size_t half = 0; half < 2; half++)
        f32x16_store((float *)(void *)(to + (8 + half) * MFK_LINE), q4_scales(scales + half * MFK_NR, bias));
}
#endif
#endif

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

/* A tile of r rows, of one panel or of `most`. */
#define TILE_OF(name, r, from, most)                          \
    static void name##_##r(const tile_args *t, size_t panels) \
    {                                                         \
        if ((most) > 1 && panels == (most))                   \
            tile(t, r, most, from);                           \
        else                                                  \
            tile(t, r, 1, from);                              \
    }
#define TILES_TO_4(X) X(1) X(2) X(3) X(4)
#define TILES_TO_6(X) TILES_TO_4(X) X(5) X(6)
#define TILES_TO_8(X) TILES_TO_6(X) X(7) X(8)

/* What is arranged for several tiles meets a tile as it is stored only where that is alone. */
#ifdef ARRANGES
#define STORED_TILE(r) TILE_OF(tiles, r, STORED, 1)
#else
#define STORED_TILE(r) TILE_OF(tiles, r, STORED, (r) <= TILE_ROWS ? TILE_PANELS : 1)
#endif
#define ARRANGED_TILE(r) TILE_OF(tiles_arranged, r, FROM_ARRANGED, TILE_PANELS)
#define STORED_TILE_NAME(r) tiles_##r,
#define ARRANGED_TILE_NAME(r) tiles_arranged_##r,
#if FEW_ROWS > 4
#define STORED_TILES TILES_TO_8
#else
#define STORED_TILES TILES_TO_4
#endif
#if TILE_ROWS > 4
#define ARRANGED_TILES TILES_TO_6
#else
#define ARRANGED_TILES TILES_TO_4
#endif

STORED_TILES(STORED_TILE)
static void (*const tiles[])(const tile_args *t, size_t panels) = { STORED_TILES(STORED_TILE_NAME) };
#ifdef ARRANGES
ARRANGED_TILES(ARRANGED_TILE)
static void (*const tiles_arranged[])(const tile_args *t, size_t panels) = { ARRANGED_TILES(ARRANGED_TILE_NAME) };
#endif

static void any_tile(const tile_args *t, size_t rows, size_t panels, bool arranged)
{
#ifdef ARRANGES
    if (arranged) {
        tiles_arranged[rows - 1](t, panels);
        return;
    }
#endif
    (void)arranged;
    tiles[rows - 1](t, panels);
}

/* Columns of C that end inside a panel pass through a buffer of whole panels. */
static void tile_at_edge(const tile_args *t, size_t rows, size_t panels, bool arranged, size_t live)
{
    float whole[MOST_ROWS * MAX_PANELS * MFK_NR];
    tile_args inner = *t;
    inner.c = whole;
    inner.c_row_floats = panels * MFK_NR;
    for (size_t r = 0; r < rows && t->resume; r++)
        memcpy(whole + r * inner.c_row_floats, t->c + r * t->c_row_floats, live * sizeof(float));
    any_tile(&inner, rows, panels, arranged);
    for (size_t r = 0; r < rows; r++)
        memcpy(t->c + r * t->c_row_floats, whole + r * inner.c_row_floats, live * sizeof(float));
}

/* ---- The product ---- */

/* Blocks of 32 inputs at a time: two panels of Q8 are 17 KiB, and so are the next two that are on their way. Rows at a
 * time: their activations are 144 KiB. Panels at a time: their outputs of so many rows are 192 KiB. */
enum { K_BLOCKS = 16, MAX_ROWS = 192, MAX_N = 256, GLU_ROWS = MAX_ROWS, GLU_UNITS = 128 };

#ifdef ARRANGES
/* Blocks [t->begin, t->end) of the panels, to the scratch. */
static void arrange(tile_args *t, size_t panels, char *scratch)
{
    char *to = scratch;
    for (size_t p = 0; p < panels; p++)
        for (size_t block = t->begin; block < t->end; block++, to += ARRANGED_BYTES)
            arrange_block(t, t->b + p * t->b_panel_bytes, block, to);
    t->b = scratch;
    t->b_panel_bytes = (t->end - t->begin) * ARRANGED_BYTES;
    t->end -= t->begin;
    t->begin = 0;
}
#endif

/* What is read after `panels` panels from `p` on: the same blocks of the next panels; behind the last, the blocks that
 * follow of the first, or, where fewer follow, these of the first again, which does no harm. */
static const char *read_later(const mfk_gemm_args *args, size_t p, size_t panels, size_t begin, size_t end)
{
    size_t n_panel = (args->n + MFK_NR - 1) / MFK_NR, last = (args->k_begin + args->k) / MFK_BLOCK;
    const char *b = args->b;
    if (p + 2 * panels <= n_panel) return b + (p + panels) * args->b_panel_bytes + codes_at(STORED, begin);
    return b + codes_at(STORED, 2 * end - begin <= last ? end : begin);
}

/* Blocks [begin, end) of all columns and these rows, which go in tiles that differ by one row at most. The
 * first of them prefetch a panel each of those that come later; the others the first of these again, which is there by
 * then and costs less than to ask. */
static void gemm_blocks(const mfk_gemm_args *args, size_t begin, size_t end, bool resume, char *scratch)
{
    size_t n_panel = (args->n + MFK_NR - 1) / MFK_NR;
    size_t n_tile = args->m <= FEW_ROWS ? 1 : (args->m + TILE_ROWS - 1) / TILE_ROWS;
    bool arranged = false;
    for (size_t p = 0, panels; p < n_panel; p += panels) {
        size_t live = args->n - p * MFK_NR;
        panels = n_tile > 1 && n_panel - p >= TILE_PANELS ? TILE_PANELS : 1;
        const char *later = n_tile > 1 ? read_later(args, p, panels, begin, end) : NULL;
        tile_args t = { .a_row_bytes = args->a_row_bytes, .begin = begin, .end = end, .resume = resume };
        t.b = (const char *)args->b + p * args->b_panel_bytes;
        t.b_panel_bytes = args->b_panel_bytes;
        t.next = p + 2 * panels <= n_panel ? t.b + panels * args->b_panel_bytes : t.b;
        t.table = args->table;
        t.c_row_floats = args->c_row_bytes / sizeof(float);
#ifdef ARRANGES
        arranged = n_tile > 1;
        if (arranged) arrange(&t, panels, scratch);
#endif
        for (size_t i = 0; i < n_tile; i++) {
            size_t row = args->m * i / n_tile, rows = args->m * (i + 1) / n_tile - row;
            t.later = later && i < panels ? later + i * args->b_panel_bytes : later;
            t.a = (const char *)args->a + row * args->a_row_bytes;
            t.c = args->c + row * t.c_row_floats + p * MFK_NR;
            if (live < panels * MFK_NR)
                tile_at_edge(&t, rows, panels, arranged, live);
            else
                any_tile(&t, rows, panels, arranged);
        }
    }
    (void)scratch;
}

/* All blocks of a part of the rows and columns. */
static void gemm_part(const mfk_gemm_args *args, void *scratch)
{
    size_t first = args->k_begin / MFK_BLOCK, last = first + args->k / MFK_BLOCK;
    size_t at_once = args->m > FEW_ROWS ? K_BLOCKS : args->k / MFK_BLOCK;
    mfk_gemm_args part = *args;
    for (size_t begin = first, end; begin < last; begin = end) {
        end = last - begin < at_once ? last : begin + at_once;
        part.a = (const char *)args->a + (begin - first) * sizeof(mfk_q8_block);
        gemm_blocks(&part, begin, end, begin > first || (args->flags & MFK_RESUME), scratch);
    }
}

/* `scratch` holds two panels of K_BLOCKS blocks arranged, 20 KiB. */
static void gemm(const mfk_gemm_args *args, void *scratch, size_t scratch_bytes)
{
    const size_t n_at_once = args->m > FEW_ROWS ? MAX_N : args->n;
    mfk_gemm_args part = *args;
    (void)scratch_bytes;
    for (size_t row = 0; row < args->m; row += part.m) {
        part.m = args->m - row < MAX_ROWS ? args->m - row : MAX_ROWS;
        part.a = (const char *)args->a + row * args->a_row_bytes;
        for (size_t n = 0; n < args->n; n += part.n) {
            part.n = args->n - n < n_at_once ? args->n - n : n_at_once;
            part.b = (const char *)args->b + n / MFK_NR * args->b_panel_bytes;
            part.c = args->c + row * (args->c_row_bytes / sizeof(float)) + n;
            gemm_part(&part, scratch);
        }
    }
}

#include "glu_simd.h"
