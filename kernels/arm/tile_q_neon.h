/* tile_q_neon.h - the chains of a tile of Q8 or Q4. They go a quarter or two of a panel's outputs at a time over a block:
 * the chains of four rows fill half of the registers, and integers for all of their outputs would fill the other half.
 *
 * Rows go alone, by sdot, which takes its four activations from a lane, or in pairs, by smmla, which multiplies two rows
 * with two outputs over eight inputs. What a pair has of a quarter stays as smmla leaves it, in two registers: [output 0:
 * both rows | output 1: both rows], [output 2 | output 3]; it is put in order where the chains meet C.
 *
 * All of these instructions want signed weights: the 128 by which stored ones are too large goes, and with it the offset
 * of the activations. With several tiles of rows that is done once, in the scratch, where lines 2h and 2h + 1 hold the
 * two registers of `weights`, quarter by quarter. The f32 scales follow. */

/* Inputs 8h .. 8h + 7 of a quarter: four inputs, the other four; for pairs, two outputs, the other two. */
typedef struct weights {
    int8x16_t of[2];
} weights;

/* Of a block: where they lie; for pairs, eight inputs of both rows to a register, and both scales twice. A last row
 * without a second is its own. */
typedef struct activations {
    const mfk_q8_block *row[MOST_ROWS];
    int8x16_t q[(MOST_ROWS + 1) / 2][4];
    float32x4_t scale[(MOST_ROWS + 1) / 2];
} activations;

MFK_INLINE bool paired(size_t rows, source from)
{
#ifdef __ARM_FEATURE_MATMUL_INT8
    return rows > 1 || from == FROM_ARRANGED;
#else
    (void)rows;
    (void)from;
    return false;
#endif
}

/* How many `rows` rows take in a quarter. */
MFK_INLINE size_t registers(size_t rows, source from)
{
    return paired(rows, from) ? (rows + 1) / 2 * 2 : rows;
}

MFK_INLINE int8x16_t zip_words(int8x16_t a, int8x16_t b, bool high)
{
    int32x4_t x = vreinterpretq_s32_s8(a), y = vreinterpretq_s32_s8(b);
    return vreinterpretq_s8_s32(high ? vzip2q_s32(x, y) : vzip1q_s32(x, y));
}

MFK_INLINE int8x16_t zip_halves(int8x16_t a, int8x16_t b, bool high)
{
    int64x2_t x = vreinterpretq_s64_s8(a), y = vreinterpretq_s64_s8(b);
    return vreinterpretq_s8_s64(high ? vzip2q_s64(x, y) : vzip1q_s64(x, y));
}

/* ---- Weights and their scales ---- */

#ifdef GEMM_Q4
enum { CODES_LINES = 4 };

MFK_INLINE weights stored_weights(const int8_t *table, const char *codes, size_t h, size_t q)
{
    const int8x16_t values = vld1q_s8(table);
    uint8x16_t pairs = vld1q_u8((const uint8_t *)codes + h * MFK_LINE + 16 * q);
    uint8x16_t low = vandq_u8(pairs, vdupq_n_u8(15)), high = vshrq_n_u8(pairs, 4);
    return (weights){ { vqtbl1q_s8(values, low), vqtbl1q_s8(values, high) } };
}

/* Of a quarter over half a block: pack.h's mfk_q4_scale. */
MFK_INLINE float32x4_t stored_scales(const int8_t *table, const char *scales, size_t half, size_t q)
{
    const int32x4_t bias = vdupq_n_s32((int32_t)((uint32_t)(127 + table[MFK_Q4_BIAS_AT]) << 23));
    int32_t four;
    memcpy(&four, scales + half * MFK_NR + 4 * q, sizeof four);
    int32x4_t wide = vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)))));
    int32x4_t bits = vandq_s32(vshlq_n_s32(wide, 20), vdupq_n_s32((int32_t)0x87f00000u));
    return vreinterpretq_f32_s32(vaddq_s32(bits, bias));
}
#else
enum { CODES_LINES = 8 };

MFK_INLINE weights stored_weights(const int8_t *table, const char *codes, size_t h, size_t q)
{
    const int8x16_t sign = vdupq_n_s8(-128);
    const int8_t *four = (const int8_t *)codes + 2 * h * MFK_LINE + 16 * q;
    (void)table;
    return (weights){ { veorq_s8(vld1q_s8(four), sign), veorq_s8(vld1q_s8(four + MFK_LINE), sign) } };
}

/* Of a quarter over a block. */
MFK_INLINE float32x4_t stored_scales(const int8_t *table, const char *scales, size_t half, size_t q)
{
    (void)table;
    (void)half;
    return widen_f16_4((const uint16_t *)(const void *)scales + 4 * q);
}
#endif

/* Where the panels are in a block. */
typedef struct place {
    const char *codes, *scales;
    size_t b_panel_bytes;
    const int8_t *table;
} place;

MFK_INLINE place place_of(const tile_args *t, source from, size_t block)
{
    const char *codes = t->b + codes_at(from, block), *scales = t->b + mfk_scales_at(CODES_LINES * MFK_LINE, block);
    if (from == FROM_ARRANGED) scales = codes + 8 * MFK_LINE;
    return (place){ codes, scales, t->b_panel_bytes, t->table };
}

MFK_INLINE weights weights_at(const place *at, size_t p, size_t h, size_t q, size_t rows, source from)
{
    const char *codes = at->codes + p * at->b_panel_bytes;
    if (from == FROM_ARRANGED) {
        const int8_t *first = (const int8_t *)codes + 2 * h * MFK_LINE + 16 * q;
        return (weights){ { vld1q_s8(first), vld1q_s8(first + MFK_LINE) } };
    }
    weights w = stored_weights(at->table, codes, h, q);
    if (!paired(rows, from)) return w;
    return (weights){ { zip_words(w.of[0], w.of[1], false), zip_words(w.of[0], w.of[1], true) } };
}

/* Scales of register i of a quarter. */
MFK_INLINE float32x4_t scales_at(const place *at, size_t p, size_t half, size_t q, size_t i, size_t rows, source from)
{
    const char *scales = at->scales + p * at->b_panel_bytes;
    float32x4_t scale = from == FROM_ARRANGED ? vld1q_f32((const float *)(const void *)scales + half * MFK_NR + 4 * q)
                                              : stored_scales(at->table, scales, half, q);
    if (!paired(rows, from)) return scale;
    return i % 2 ? vzip2q_f32(scale, scale) : vzip1q_f32(scale, scale);
}

/* A block of a panel to the scratch, for tiles of several rows. */
MFK_INLINE void arrange_block(const tile_args *t, const char *panel, size_t block, char *to)
{
    tile_args one = *t;
    one.b = panel;
    const place at = place_of(&one, STORED, block);
    UNROLLED (i, 16) {
        weights w = weights_at(&at, 0, i / 4, i % 4, TILE_ROWS, STORED);
        vst1q_s8((int8_t *)to + i / 4 * 2 * MFK_LINE + i % 4 * 16, w.of[0]);
        vst1q_s8((int8_t *)to + (i / 4 * 2 + 1) * MFK_LINE + i % 4 * 16, w.of[1]);
    }
    UNROLLED (i, 4 * SCALES_LINES)
        vst1q_f32((float *)(void *)(to + 8 * MFK_LINE) + 4 * i, stored_scales(t->table, at.scales, i / 4, i % 4));
}

/* ---- Activations ---- */

/* Activations of rows alone are read again for the next quarters: there are no registers to keep them in, and the compiler
 * would keep them on the stack. */
MFK_INLINE void forget(activations *x, size_t rows)
{
    UNROLLED (r, rows)
        __asm__("" : "+r"(x->row[r]));
}

MFK_INLINE void pair_rows(activations *x, size_t rows)
{
    UNROLLED (i, (rows + 1) / 2) {
        const mfk_q8_block *first = x->row[2 * i], *second = x->row[2 * i + 1 < rows ? 2 * i + 1 : 2 * i];
        UNROLLED (h, 4)
            x->q[i][h] = zip_halves(vld1q_s8(first->q + h / 2 * 16), vld1q_s8(second->q + h / 2 * 16), h % 2 == 1);
        float32x2_t scales = vld1_lane_f32(&second->scale, vdup_n_f32(first->scale), 1);
        x->scale[i] = vcombine_f32(scales, scales);
    }
}

/* Of register i of a quarter. */
MFK_INLINE float32x4_t scale_of(const activations *x, size_t i, size_t rows, source from)
{
    return paired(rows, from) ? x->scale[i / 2] : vdupq_n_f32(x->row[i]->scale);
}

/* ---- Chains ---- */

/* Four outputs meet word i of the activations. */
#ifdef __ARM_FEATURE_DOTPROD
MFK_INLINE int32x4_t dot4(int32x4_t sum, int8x16_t w, const mfk_q8_block *a, size_t i)
{
    int8x16_t x = vld1q_s8(a->q + i / 4 * 16);
    switch (i % 4) { /* compilers want a constant that they see */
    case 0:
        return vdotq_laneq_s32(sum, w, x, 0);
    case 1:
        return vdotq_laneq_s32(sum, w, x, 1);
    case 2:
        return vdotq_laneq_s32(sum, w, x, 2);
    default:
        return vdotq_laneq_s32(sum, w, x, 3);
    }
}
#else
MFK_INLINE int32x4_t dot4(int32x4_t sum, int8x16_t w, const mfk_q8_block *a, size_t i)
{
    int32_t word;
    memcpy(&word, a->q + 4 * i, sizeof word);
    int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(word));
    /* A pair is at most 2 * 128 * 127, which fits 16 bits. */
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}
#endif

MFK_INLINE void dot8(weights w, const activations *x, size_t h, size_t rows, source from, int32x4_t *sum)
{
#ifdef __ARM_FEATURE_MATMUL_INT8
    if (paired(rows, from)) {
        const size_t n = registers(rows, from);
        UNROLLED (i, n)
            sum[i] = vmmlaq_s32(sum[i], w.of[i % 2], x->q[i / 2][h]);
        return;
    }
#endif
    (void)from;
    UNROLLED (i, 2 * rows)
        sum[i % rows] = dot4(sum[i % rows], w.of[i / rows], x->row[i % rows], 2 * h + i / rows);
}

/* How many at once. Few rows take all, lest a sum wait for itself; more rows as many as the registers hold. Without sdot
 * two pay even where they do not fit (Q4): they share the spreading of four activations over a register. */
MFK_INLINE size_t quarters_of(size_t rows)
{
#if defined(__ARM_FEATURE_MATMUL_INT8) || (defined(__ARM_FEATURE_DOTPROD) && defined(GEMM_Q4))
    return rows <= 2 ? 4 : 1;
#else
    return rows <= 2 ? 4 : 2;
#endif
}

/* Integers of some quarters of panel p over half a block (Q8: over a block), [quarters][registers]. */
MFK_INLINE void dot_quarters(const place *at, const activations *x, size_t p, size_t q, size_t half, size_t rows,
                             source from, int32x4_t *sum)
{
    const size_t n = registers(rows, from), quarters = quarters_of(rows);
    UNROLLED (i, quarters * n)
        sum[i] = vdupq_n_s32(0);
    UNROLLED (i, (size_t)4 / SCALES_LINES) {
        size_t h = half * 2 + i;
        UNROLLED (j, quarters)
            dot8(weights_at(at, p, h, q + j, rows, from), x, h, rows, from, sum + j * n);
    }
}

/* The chains of quarters q, q + 1 .. of panel p take their step for a block. */
MFK_INLINE void quarters_step(const place *at, const activations *x, size_t p, size_t q, size_t rows, size_t panels,
                              source from, f32x16 *acc)
{
    const size_t n = registers(rows, from), quarters = quarters_of(rows);
    int32x4_t sum[SCALES_LINES][8]; /* of at most four rows by two quarters, or two by four */
    UNROLLED (half, SCALES_LINES)
        dot_quarters(at, x, p, q, half, rows, from, sum[half]);
    UNROLLED (i, quarters * n) {
        size_t r = i % n, quarter = q + i / n;
        float32x4_t *to = &acc[r * panels + p].q[quarter], dot = vcvtq_f32_s32(sum[0][i]);
        float32x4_t scale = scales_at(at, p, 0, quarter, r, rows, from);
#ifdef GEMM_Q4
        float32x4_t dot1 = vcvtq_f32_s32(sum[1][i]), scale1 = scales_at(at, p, 1, quarter, r, rows, from);
        *to = vfmaq_f32(*to, vfmaq_f32(vmulq_f32(dot, scale), dot1, scale1), scale_of(x, r, rows, from));
#else
        *to = vfmaq_f32(*to, dot, vmulq_f32(scale_of(x, r, rows, from), scale));
#endif
    }
}

/* Chains as C has them to the order of pairs, and back. */
MFK_INLINE void pair_chains(f32x16 *acc, size_t rows, size_t panels)
{
    UNROLLED (i, (rows + 1) / 2 * 4 * panels) {
        size_t q = i % 4, first = i / 4 / panels * 2 * panels + i / 4 % panels, second = first + panels;
        float32x4_t x = acc[first].q[q], y = second < rows * panels ? acc[second].q[q] : x;
        acc[first].q[q] = vzip1q_f32(x, y);
        acc[second].q[q] = vzip2q_f32(x, y);
    }
}

MFK_INLINE void unpair_chains(f32x16 *acc, size_t rows, size_t panels)
{
    UNROLLED (i, (rows + 1) / 2 * 4 * panels) {
        size_t q = i % 4, first = i / 4 / panels * 2 * panels + i / 4 % panels, second = first + panels;
        float32x4_t x = acc[first].q[q], y = acc[second].q[q];
        acc[first].q[q] = vuzp1q_f32(x, y);
        acc[second].q[q] = vuzp2q_f32(x, y);
    }
}

/* acc[r][p] takes a step for each block. `rows`, `panels` and `from` are constants where this is inlined. */
MFK_INLINE void tile_chains(const tile_args *t, size_t rows, size_t panels, source from, f32x16 *acc)
{
    const size_t quarters = quarters_of(rows), announced = from == FROM_ARRANGED ? 0 : CODES_LINES * panels;
    activations x;
    UNROLLED (r, rows)
        x.row[r] = (const mfk_q8_block *)(const void *)(t->a + r * t->a_row_bytes);
    if (paired(rows, from)) pair_chains(acc, rows, panels);
    for (size_t block = t->begin; block < t->end; block++) {
        const place at = place_of(t, from, block);
        const char *next = ahead(t, from, block);
        UNROLLED (i, announced)
            __builtin_prefetch(next + i / CODES_LINES * t->b_panel_bytes + i % CODES_LINES * MFK_LINE);
        if (paired(rows, from)) pair_rows(&x, rows);
        UNROLLED (i, 4 / quarters * panels) {
            if (!paired(rows, from)) forget(&x, rows);
            quarters_step(&at, &x, i % panels, i / panels * quarters, rows, panels, from, acc);
        }
        UNROLLED (r, rows)
            x.row[r]++;
    }
    if (paired(rows, from)) unpair_chains(acc, rows, panels);
}
