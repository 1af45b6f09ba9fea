/* gemm_simd.h - the body of the f32, bf16 and f16 matrix products, over the sixteen lanes of f32x16_*.h; and of the fast
 * one of bf16, which differs in what a packed word of A holds and in a step of the chains.
 *
 * The including file sets
 *     GEMM_BF16      weights are bf16 pairs, widened in the tile; or
 *     GEMM_F16       f16, likewise; or
 *     GEMM_PAIRS     bf16 pairs, which meet pairs of A: it has four_pairs(), transpose_4x4_pairs() and, without a
 *                    TILE_CHAINS of its own, dot_pairs(); else f32
 *     TILE_ROWS      the most rows of a tile, at most 12
 *     TILE_PANELS(r) how many panels a tile of r rows reads at once: 1 to 4, r * panels accumulators
 *     TILE_CHAINS    a header with a tile_chains() that suits its registers better than the one here, if there is one
 *
 * A tile keeps its chains in registers over one block of k and reads A from a packed copy, [k][rows], so
 * that rows whose stride is a power of two do not evict each other. Blocks of k resume from C. With one row
 * A is its own packed copy, unless it has to be rounded to pairs. With one tile of rows k is one block if the scratch
 * holds it; with several, a tile's panels stay in a cache while the tiles of a block of rows take their turns. */
#include "kernel_list.h"
#include "unrolled.h"

#include <stdbool.h>
#include <string.h>

#if defined(GEMM_BF16) || defined(GEMM_F16) || defined(GEMM_PAIRS)
enum { K_BYTES = 32 }; /* of one k in a panel */
#else
enum { K_BYTES = 64 };
#endif

/* Of the packed A: an input, or two of them as bf16. */
#ifdef GEMM_PAIRS
typedef int32_t a_word;
enum { WORD_INPUTS = 2 };
#else
typedef float a_word;
enum { WORD_INPUTS = 1 };
#endif

/* How far ahead of the chains a panel is announced. The processor's own prefetching fills the second-level cache; what
 * it leaves of the way to the first would cost a decoded token a fifth of the memory's speed, a prompt as much. Past
 * the end of a panel, or of its live prefix, come the heads of the panels that are read next. */
enum { PREFETCH_BYTES = 64 * K_BYTES };

typedef struct tile_args {
    size_t k;
    const a_word *a; /* [k / WORD_INPUTS][rows] */
    const char *b;
    const char *next; /* the panels to be read after these, or these */
    size_t b_panel_bytes;
    float *c;
    size_t c_row_floats;
    bool resume;
} tile_args;

/* What is announced when the chains are at byte `at` of the panels. */
MFK_INLINE const char *ahead(const tile_args *t, size_t at)
{
    const size_t bytes = t->k * K_BYTES, to = at + (bytes < PREFETCH_BYTES ? bytes : PREFETCH_BYTES);
    return to < bytes ? t->b + to : t->next + (to - bytes);
}

#ifndef GEMM_PAIRS
/* Every chain takes a step. */
MFK_INLINE void one_input(const float *a, size_t rows, size_t panels, const f32x16 *w, f32x16 *acc)
{
    UNROLLED (r, rows)
        UNROLLED (p, panels)
            acc[r * panels + p] = f32x16_fma(f32x16_set(a[r]), w[p], acc[r * panels + p]);
}
#endif

/* acc[r][p] continues over k. `rows` and `panels` are constants where this is inlined. */
#ifdef TILE_CHAINS
#include TILE_CHAINS
#else
MFK_INLINE void tile_chains(const tile_args *t, size_t rows, size_t panels, f32x16 *acc)
{
    const a_word *a = t->a;
    for (size_t at = 0; at < t->k * K_BYTES; at += 64) {
        const char *b = t->b + at, *next = ahead(t, at);
#ifdef GEMM_PAIRS
        i32x16 w[4];
        UNROLLED (p, panels) {
            w[p] = i32x16_load(b + p * t->b_panel_bytes);
            __builtin_prefetch(next + p * t->b_panel_bytes);
        }
        UNROLLED (r, rows)
            UNROLLED (p, panels)
                acc[r * panels + p] = dot_pairs(acc[r * panels + p], i32x16_set(a[r]), w[p]);
        a += rows;
#else
#ifdef GEMM_BF16
        const i32x16 high = i32x16_set((int32_t)0xffff0000u);
        i32x16 line[4];
        f32x16 w[4];
        UNROLLED (p, panels) {
            line[p] = i32x16_load(b + p * t->b_panel_bytes);
            __builtin_prefetch(next + p * t->b_panel_bytes);
            w[p] = f32x16_of_bits(i32x16_shift_left(line[p], 16));
        }
        one_input(a, rows, panels, w, acc);
        a += rows;
        UNROLLED (p, panels)
            w[p] = f32x16_of_bits(i32x16_and(line[p], high));
#elif defined(GEMM_F16)
        f32x16 w[4];
        UNROLLED (p, panels) {
            w[p] = f32x16_load_f16((const uint16_t *)(const void *)(b + p * t->b_panel_bytes));
            __builtin_prefetch(next + p * t->b_panel_bytes);
        }
        one_input(a, rows, panels, w, acc);
        a += rows;
        UNROLLED (p, panels)
            w[p] = f32x16_load_f16((const uint16_t *)(const void *)(b + p * t->b_panel_bytes) + MFK_NR);
#else
        f32x16 w[4];
        UNROLLED (p, panels) {
            w[p] = f32x16_load((const float *)(const void *)(b + p * t->b_panel_bytes));
            __builtin_prefetch(next + p * t->b_panel_bytes);
        }
#endif
        one_input(a, rows, panels, w, acc);
        a += rows;
#endif
    }
}
#endif

MFK_INLINE void tile(const tile_args *t, size_t rows, size_t panels)
{
    f32x16 acc[32];
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
    tile_chains(t, rows, panels, acc);
    UNROLLED (r, rows)
        UNROLLED (p, panels)
            f32x16_store(c + r * c_row_floats + p * MFK_NR, acc[r * panels + p]);
}

/* A tile of r rows reads as many panels as suit it alone, as many as suit the largest tile, or one. */
#define TILE_OF(r)                                          \
    static void tile_##r(const tile_args *t, size_t panels) \
    {                                                       \
        if (panels == TILE_PANELS(r))                       \
            tile(t, r, TILE_PANELS(r));                     \
        else if (panels == TILE_PANELS(TILE_ROWS))          \
            tile(t, r, TILE_PANELS(TILE_ROWS));             \
        else                                                \
            tile(t, r, 1);                                  \
    }
TILE_OF(1)
TILE_OF(2)
TILE_OF(3)
TILE_OF(4)
TILE_OF(5)
TILE_OF(6)
#if TILE_ROWS > 6
TILE_OF(7)
TILE_OF(8)
TILE_OF(9)
TILE_OF(10)
TILE_OF(11)
TILE_OF(12)
#endif

static void (*const tiles[])(const tile_args *t, size_t panels) = {
    tile_1, tile_2, tile_3, tile_4,  tile_5,  tile_6,
#if TILE_ROWS > 6
    tile_7, tile_8, tile_9, tile_10, tile_11, tile_12,
#endif
};

/* Columns of C that end inside a panel pass through a buffer of whole panels. */
static void tile_at_edge(const tile_args *t, size_t rows, size_t panels, size_t live)
{
    float whole[TILE_ROWS * 4 * MFK_NR];
    tile_args inner = *t;
    inner.c = whole;
    inner.c_row_floats = panels * MFK_NR;
    for (size_t r = 0; r < rows && t->resume; r++)
        memcpy(whole + r * inner.c_row_floats, t->c + r * t->c_row_floats, live * sizeof(float));
    tiles[rows - 1](&inner, panels);
    for (size_t r = 0; r < rows; r++)
        memcpy(t->c + r * t->c_row_floats, whole + r * inner.c_row_floats, live * sizeof(float));
}

#ifdef GEMM_PAIRS
#define four_words four_pairs
#define transpose_words transpose_4x4_pairs
#else
MFK_INLINE void four_words(const float *from, float *to)
{
    memcpy(to, from, 4 * sizeof *to);
}
#define transpose_words transpose_4x4
#endif

/* Inputs of four words. */
enum { PACK_INPUTS = 4 * WORD_INPUTS };

/* Four rows of A, four words at a time, to [words][rows]. */
static void pack_4_rows(const float *a, size_t a_row_floats, size_t k, a_word *packed, size_t rows)
{
    for (size_t i = 0; i < k; i += PACK_INPUTS, a += PACK_INPUTS, packed += 4 * rows)
        transpose_words(a, a_row_floats, packed, rows);
}

static void pack_row(const float *a, size_t k, a_word *packed, size_t rows)
{
    for (size_t i = 0; i < k; i += PACK_INPUTS, packed += 4 * rows) {
        a_word four[4];
        four_words(a + i, four);
        for (size_t j = 0; j < 4; j++)
            packed[j * rows] = four[j];
    }
}

/* Rows of A to [words][rows]. k is a multiple of 32. */
static void pack_a(const float *a, size_t a_row_floats, size_t k, a_word *packed, size_t rows)
{
    size_t r = 0;
    for (; r + 4 <= rows; r += 4)
        pack_4_rows(a + r * a_row_floats, a_row_floats, k, packed + r, rows);
    for (; r < rows; r++)
        pack_row(a + r * a_row_floats, k, packed + r, rows);
}

/* A block of rows and k, whose A is packed. Long blocks of k keep C's share of the traffic small; a tile's panels
 * (128 KiB of f32) and the packed A then come from the second-level cache, which keeps up. */
enum { K_BLOCK = 1024 };

/* The rows are cut into tiles that differ by one row at most, and those into blocks. */
typedef struct block {
    size_t tile, n_tile, total_tiles;
    size_t k_begin, k;
    const a_word *a; /* its tiles, one after another */
} block;

static size_t row_of_tile(const mfk_gemm_args *args, const block *b, size_t tile)
{
    return args->m * tile / b->total_tiles;
}

static size_t panels_at_once(const mfk_gemm_args *args, const block *b, size_t n_panel)
{
    size_t largest = TILE_PANELS(TILE_ROWS), alone = b->total_tiles > 1 ? largest : TILE_PANELS(args->m);
    return n_panel >= alone ? alone : n_panel >= largest ? largest : 1;
}

static void block_products(const mfk_gemm_args *args, const block *b)
{
    size_t n_panel = (args->n + MFK_NR - 1) / MFK_NR, c_row_floats = args->c_row_bytes / sizeof(float);
    size_t first_row = row_of_tile(args, b, b->tile);
    tile_args t = { .k = b->k, .b_panel_bytes = args->b_panel_bytes, .c_row_floats = c_row_floats };
    t.resume = b->k_begin > 0 || (args->flags & MFK_RESUME);
    for (size_t p = 0, panels; p < n_panel; p += panels) {
        size_t live = args->n - p * MFK_NR;
        panels = panels_at_once(args, b, n_panel - p);
        t.b = (const char *)args->b + p * args->b_panel_bytes + (args->k_begin + b->k_begin) * K_BYTES;
        const char *after = p + 2 * panels <= n_panel ? t.b + panels * args->b_panel_bytes : t.b;
        for (size_t i = b->tile; i < b->tile + b->n_tile; i++) {
            size_t row = row_of_tile(args, b, i), rows = row_of_tile(args, b, i + 1) - row;
            t.a = b->a + (row - first_row) * (b->k / WORD_INPUTS);
            t.c = args->c + row * c_row_floats + p * MFK_NR;
            t.next = i + 1 < b->tile + b->n_tile ? t.b : after;
            if (live < panels * MFK_NR)
                tile_at_edge(&t, rows, panels, live);
            else
                tiles[rows - 1](&t, panels);
        }
    }
}

static const a_word *block_pack(const mfk_gemm_args *args, const block *b, a_word *packed)
{
    size_t a_row_floats = args->a_row_bytes / sizeof(float), first_row = row_of_tile(args, b, b->tile);
    const float *a = (const float *)args->a + b->k_begin;
#ifndef GEMM_PAIRS
    if (args->m == 1) return a;
#endif
    for (size_t i = b->tile; i < b->tile + b->n_tile; i++) {
        size_t row = row_of_tile(args, b, i), rows = row_of_tile(args, b, i + 1) - row;
        pack_a(a + row * a_row_floats, a_row_floats, b->k, packed + (row - first_row) * (b->k / WORD_INPUTS), rows);
    }
    return packed;
}

/* C = A B^T; the packed A goes to the scratch. */
static void gemm(const mfk_gemm_args *args, void *scratch, size_t scratch_bytes)
{
    size_t a_inputs = scratch_bytes / sizeof(a_word) * WORD_INPUTS; /* that the scratch holds */
    block b = { .total_tiles = (args->m + TILE_ROWS - 1) / TILE_ROWS };
    size_t tiles_most = a_inputs / K_BLOCK / TILE_ROWS, k_most = K_BLOCK;
    if (b.total_tiles == 1) k_most = a_inputs / args->m / MFK_K_ALIGN * MFK_K_ALIGN;
    for (b.k_begin = 0; b.k_begin < args->k; b.k_begin += b.k) {
        b.k = args->k - b.k_begin < k_most ? args->k - b.k_begin : k_most;
        for (b.tile = 0; b.tile < b.total_tiles; b.tile += b.n_tile) {
            b.n_tile = b.total_tiles - b.tile < tiles_most ? b.total_tiles - b.tile : tiles_most;
            b.a = block_pack(args, &b, scratch);
            block_products(args, &b);
        }
    }
}

/* A is packed again for every part of the units; pairs leave room for longer parts. */
enum { GLU_ROWS = 60, GLU_UNITS = 128 * WORD_INPUTS };
#include "glu_simd.h"
