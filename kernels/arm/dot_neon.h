/* dot_neon.h - dot products of four bytes, by sdot where there is one, else by pairs of words. Both want signed weights:
 * the 128 by which stored ones are too large goes, and with it the offset of the activations. The same names as
 * x86/dot_vnni.h. */
#ifndef MFK_DOT_H
#define MFK_DOT_H

typedef i32x16 codes4;
typedef int8x16_t act4;

MFK_INLINE codes4 codes4_of(i32x16 bytes)
{
    const int32x4_t sign = vdupq_n_s32((int32_t)0x80808080u);
    return i32x16_of(veorq_s32(bytes.q[0], sign), veorq_s32(bytes.q[1], sign), veorq_s32(bytes.q[2], sign),
                     veorq_s32(bytes.q[3], sign));
}

/* Four activations, to all outputs. */
MFK_INLINE act4 act4_set(int32_t word)
{
    return vreinterpretq_s8_s32(vdupq_n_s32(word));
}

/* `offset`: of mfk_q8_block. */
#define dot4_start(offset) ((void)(offset), i32x16_set(0))

MFK_INLINE int32x4_t dot4_4(int32x4_t sum, int32x4_t codes, act4 x)
{
    int8x16_t w = vreinterpretq_s8_s32(codes);
#ifdef __ARM_FEATURE_DOTPROD
    return vdotq_s32(sum, w, x);
#else
    /* A pair is at most 2 * 128 * 127, which fits a word. */
    int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(x)), high = vmull_high_s8(w, x);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}

MFK_INLINE i32x16 dot4(i32x16 sum, codes4 w, act4 x)
{
    return i32x16_of(dot4_4(sum.q[0], w.q[0], x), dot4_4(sum.q[1], w.q[1], x), dot4_4(sum.q[2], w.q[2], x),
                     dot4_4(sum.q[3], w.q[3], x));
}

#endif
