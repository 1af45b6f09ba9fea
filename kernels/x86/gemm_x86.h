/* gemm_x86.h - the body of every x86 matrix product, over the sixteen lanes of f32x16_*.h.
 *
 * The including file sets
 *     GEMM_BF16      weights are bf16 pairs, widened in the tile; else f32
 *     TILE_ROWS      the most rows of a tile, at most 12
 *     TILE_PANELS(r) how many panels a tile of r rows reads at once: accumulators for r * panels registers
 *
 * A tile keeps its chains in registers over one block of k and reads A from a packed copy, [k][rows], so
 * that rows whose stride is a power of two do not evict each other. Blocks of k resume from C.
 * With one row A is its own packed copy. With one tile of rows B is read once, in one block of k if the
 * scratch holds it; with several, the block keeps a tile's panels in the first-level cache for all of them. */
#include "kernel_list.h"
#include "math_x86.h"

#include <stdbool.h>

#ifdef GEMM_BF16
enum { K_BYTES = 32 }; /* of one k in a panel */
#else
enum { K_BYTES = 64 };
#endif

typedef struct tile_args {
    size_t k;
    const float *a; /* [k][rows] */
    const char *b;
    size_t b_panel_bytes;
    float *c;
    size_t c_row_floats;
    size_t live; /* columns of C */
    bool resume;
} tile_args;

/* acc[r][p] continues over k. `rows` and `panels` are constants where this is inlined. */
MFK_INLINE void tile_chains(const tile_args *t, size_t rows, size_t panels, f32x16 *acc)
{
    const float *a = t->a;
    const char *b = t->b, *b_end = t->b + t->k * K_BYTES;
    for (; b < b_end; b += 64) {
#ifdef GEMM_BF16
        const i32x16 high = i32x16_set((int32_t)0xffff0000u);
        i32x16 line[8];
        f32x16 w[8];
        for (size_t p = 0; p < panels; p++) {
            line[p] = i32x16_load(b + p * t->b_panel_bytes);
            w[p] = f32x16_of_bits(i32x16_shift_left(line[p], 16));
        }
        for (size_t r = 0; r < rows; r++)
            for (size_t p = 0; p < panels; p++)
                acc[r * panels + p] = f32x16_fma(f32x16_set(a[r]), w[p], acc[r * panels + p]);
        a += rows;
        for (size_t p = 0; p < panels; p++)
            w[p] = f32x16_of_bits(i32x16_and(line[p], high));
#else
        f32x16 w[8];
        for (size_t p = 0; p < panels; p++)
            w[p] = f32x16_load((const float *)(const void *)(b + p * t->b_panel_bytes));
#endif
        for (size_t r = 0; r < rows; r++)
            for (size_t p = 0; p < panels; p++)
                acc[r * panels + p] = f32x16_fma(f32x16_set(a[r]), w[p], acc[r * panels + p]);
        a += rows;
    }
}

MFK_INLINE f32x16 load_live(const float *c, size_t live)
{
    return live >= MFK_NR ? f32x16_load(c) : f32x16_load_first(c, live);
}

MFK_INLINE void store_live(float *c, f32x16 v, size_t live)
{
    if (live >= MFK_NR)
        f32x16_store(c, v);
    else
        f32x16_store_first(c, v, live);
}

MFK_INLINE void tile(const tile_args *t, size_t rows, size_t panels)
{
    f32x16 acc[32];
    for (size_t i = 0; i < rows * panels; i++)
        acc[i] = f32x16_set(0.0f);
    for (size_t r = 0; r < rows && t->resume; r++)
        for (size_t p = 0; p < panels; p++)
            acc[r * panels + p] = load_live(t->c + r * t->c_row_floats + p * MFK_NR, t->live - p * MFK_NR);
    tile_chains(t, rows, panels, acc);
    for (size_t r = 0; r < rows; r++)
        for (size_t p = 0; p < panels; p++)
            store_live(t->c + r * t->c_row_floats + p * MFK_NR, acc[r * panels + p], t->live - p * MFK_NR);
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

/* Rows [row, row + rows) and the k of this block as [k][rows]. */
static void pack_a(const mfk_gemm_args *args, size_t row, size_t rows, size_t k_begin, size_t k, float *packed)
{
    const char *a = (const char *)(args->a + k_begin) + row * args->a_row_bytes;
    for (size_t r = 0; r < rows; r++, a += args->a_row_bytes) {
        const float *from = (const float *)(const void *)a;
        float *to = packed + r;
        for (size_t i = 0; i < k; i++, to += rows)
            *to = from[i];
    }
}

/* A block of rows and k, whose A is packed. 192 of k keep the two panels of a 12 x 32 tile (24 KiB) and its A
 * (9 KiB) in a first-level cache or close to it. */
enum { K_BLOCK = 192, A_FLOATS = MFK_SCRATCH_BYTES / 4 };

typedef struct block {
    size_t row, rows, n_tile; /* tiles differ by at most one row */
    size_t k_begin, k;
    const float *a;
} block;

static size_t tile_begin(const block *b, size_t i)
{
    return b->rows * i / b->n_tile;
}

static size_t panels_at_once(const block *b, size_t n_panel)
{
    size_t largest = TILE_PANELS(TILE_ROWS), alone = b->n_tile > 1 ? largest : TILE_PANELS(b->rows);
    return n_panel >= alone ? alone : n_panel >= largest ? largest : 1;
}

static void block_products(const mfk_gemm_args *args, const block *b)
{
    size_t n_panel = (args->n + MFK_NR - 1) / MFK_NR, c_row_floats = args->c_row_bytes / sizeof(float);
    tile_args t = { .k = b->k, .b_panel_bytes = args->b_panel_bytes, .c_row_floats = c_row_floats };
    t.resume = b->k_begin > 0 || (args->flags & MFK_RESUME);
    for (size_t p = 0, panels; p < n_panel; p += panels) {
        panels = panels_at_once(b, n_panel - p);
        t.b = (const char *)args->b + p * args->b_panel_bytes + b->k_begin * K_BYTES;
        t.live = args->n - p * MFK_NR;
        for (size_t i = 0; i < b->n_tile; i++) {
            size_t first = tile_begin(b, i), rows = tile_begin(b, i + 1) - first;
            t.a = b->a + first * b->k;
            t.c = args->c + (b->row + first) * c_row_floats + p * MFK_NR;
            tiles[rows - 1](&t, panels);
        }
    }
}

static void block_pack(const mfk_gemm_args *args, block *b, float *packed)
{
    for (size_t i = 0; i < b->n_tile; i++) {
        size_t first = tile_begin(b, i);
        pack_a(args, b->row + first, tile_begin(b, i + 1) - first, b->k_begin, b->k, packed + first * b->k);
    }
    b->a = packed;
}

/* C = A B^T with `a_floats` of scratch at `packed`. */
static void gemm(const mfk_gemm_args *args, float *packed, size_t a_floats)
{
    size_t k_most = args->m == 1          ? args->k
                    : args->m > TILE_ROWS ? K_BLOCK
                                          : a_floats / args->m / MFK_K_ALIGN * MFK_K_ALIGN;
    size_t rows_most = a_floats / K_BLOCK / TILE_ROWS * TILE_ROWS;
    block b = { 0 };
    for (b.k_begin = 0; b.k_begin < args->k; b.k_begin += b.k) {
        b.k = args->k - b.k_begin < k_most ? args->k - b.k_begin : k_most;
        for (b.row = 0; b.row < args->m; b.row += b.rows) {
            b.rows = args->m - b.row < rows_most ? args->m - b.row : rows_most;
            b.n_tile = (b.rows + TILE_ROWS - 1) / TILE_ROWS;
            if (args->m == 1)
                b.a = args->a;
            else
                block_pack(args, &b, packed);
            block_products(args, &b);
        }
    }
}

/* Gate and up chains of a part of the units go to the scratch as one product of twice as many columns, and
 * from there through the activation to C. */
enum { GLU_UNITS = 128, GLU_ROWS = 120, GLU_FLOATS = GLU_ROWS * 2 * GLU_UNITS };

static void glu_activate(const mfk_gemm_args *part, const float *chains, float *c, size_t c_row_floats, size_t n)
{
    for (size_t r = 0; r < part->m; r++, chains += 2 * GLU_UNITS, c += c_row_floats) {
        for (size_t u = 0; u < n; u += MFK_NR) {
            f32x16 gate = f32x16_load(chains + 2 * u), up = f32x16_load(chains + 2 * u + MFK_NR);
            store_live(c + u, f32x16_mul(act16(part->activation, gate), up), n - u);
        }
    }
}

static void glu(const mfk_gemm_args *args)
{
    float *chains = args->scratch; /* [GLU_ROWS][2 * GLU_UNITS] */
    size_t c_row_floats = args->c_row_bytes / sizeof(float);
    mfk_gemm_args part = *args;
    part.c = chains;
    part.c_row_bytes = 2 * GLU_UNITS * sizeof(float);
    for (size_t row = 0; row < args->m; row += part.m) {
        part.m = args->m - row < GLU_ROWS ? args->m - row : GLU_ROWS;
        part.a = (const float *)(const void *)((const char *)args->a + row * args->a_row_bytes);
        for (size_t u = 0, n; u < args->n; u += n) {
            n = args->n - u < GLU_UNITS ? args->n - u : GLU_UNITS;
            part.n = (n + MFK_NR - 1) / MFK_NR * 2 * MFK_NR;
            part.b = (const char *)args->b + u / MFK_NR * 2 * args->b_panel_bytes;
            gemm(&part, chains + GLU_FLOATS, A_FLOATS - GLU_FLOATS);
            glu_activate(&part, chains, args->c + row * c_row_floats + u, c_row_floats, n);
        }
    }
}
