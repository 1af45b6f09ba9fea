/* tile_neon.h - the chains of a tile, a quarter of a line at a time: what 24 accumulators leave of the registers holds
 * two words of A's rows, which the multiply-adds take lane by lane, and the weights at hand. */

enum { WORD_BYTES = K_BYTES * WORD_INPUTS }; /* of a panel */

/* Quarter q of the weights that two words meet. */
typedef struct weights {
    float32x4_t of[2];
} weights;

#ifdef GEMM_BF16
MFK_INLINE weights weights_at(const char *b, size_t q)
{
    uint32x4_t pairs = vld1q_u32((const uint32_t *)(const void *)b + 4 * q);
    uint32x4_t low = vshlq_n_u32(pairs, 16), high = vandq_u32(pairs, vdupq_n_u32(0xffff0000u));
    return (weights){ { vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high) } };
}
#elif defined(GEMM_F16)
MFK_INLINE weights weights_at(const char *b, size_t q)
{
    const uint16_t *w = (const uint16_t *)(const void *)b + 4 * q;
    return (weights){ { widen_f16_4(w), widen_f16_4(w + MFK_NR) } };
}
#else
MFK_INLINE weights weights_at(const char *b, size_t q)
{
    const float *w = (const float *)(const void *)b + 4 * q;
    return (weights){ { vld1q_f32(w), vld1q_f32(w + MFK_NR) } };
}
#endif

#ifdef GEMM_PAIRS
MFK_INLINE float32x4_t four_of(const a_word *a)
{
    return vreinterpretq_f32_s32(vld1q_s32(a));
}

MFK_INLINE float32x2_t two_of(const a_word *a)
{
    return vreinterpret_f32_s32(vld1_s32(a));
}

/* acc + (x[0] * w[0] + x[1] * w[1]), all rounded to odd, x being word `lane` of A. */
MFK_INLINE float32x4_t step(float32x4_t acc, float32x4_t w, float32x4_t a, size_t lane)
{
    bfloat16x8_t pairs_w = vreinterpretq_bf16_f32(w), pairs_a = vreinterpretq_bf16_f32(a);
    switch (lane) { /* compilers want a constant that they see */
    case 0:
        return vbfdotq_laneq_f32(acc, pairs_w, pairs_a, 0);
    case 1:
        return vbfdotq_laneq_f32(acc, pairs_w, pairs_a, 1);
    case 2:
        return vbfdotq_laneq_f32(acc, pairs_w, pairs_a, 2);
    default:
        return vbfdotq_laneq_f32(acc, pairs_w, pairs_a, 3);
    }
}
#else
#define four_of vld1q_f32
#define two_of vld1_f32
#define step(acc, w, a, lane) vfmaq_n_f32(acc, w, (a)[lane])
#endif

MFK_INLINE void tile_chains(const tile_args *t, size_t rows, size_t panels, f32x16 *acc)
{
    const a_word *rows_a = t->a;
    for (size_t at = 0; at < t->k * K_BYTES; at += 2 * WORD_BYTES, rows_a += 2 * rows) {
        float32x4_t a[3]; /* [2][rows] */
        UNROLLED (i, rows / 2)
            a[i] = four_of(rows_a + 4 * i);
        if (rows % 2) a[rows / 2] = vcombine_f32(two_of(rows_a + 2 * rows - 2), vdup_n_f32(0.0f));
        UNROLLED (i, 4 * panels) {
            size_t p = i / 4, q = i % 4;
            const char *line = t->b + at + p * t->b_panel_bytes;
            weights w = weights_at(line, q);
            if (q == 0) __builtin_prefetch(ahead(t, at) + p * t->b_panel_bytes);
            if (q == 1 && WORD_BYTES == 64) __builtin_prefetch(ahead(t, at + 64) + p * t->b_panel_bytes);
            UNROLLED (j, 2 * rows) {
                float32x4_t *to = &acc[j % rows * panels + p].q[q];
                *to = step(*to, w.of[j / rows], a[j / 4], j % 4);
            }
        }
    }
}
