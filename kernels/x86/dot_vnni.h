/* dot_vnni.h - dot products of four bytes by vpdpbusd, of 256 or 512 bits: unsigned weights, which are 128 too large,
 * and signed activations. The same names as dot_words.h. */
#ifndef MFK_DOT_H
#define MFK_DOT_H

typedef i32x16 codes4;
typedef i32x16 act4;

#define codes4_of(bytes) (bytes)
#define act4_set(word) i32x16_set(word)       /* four activations, to all outputs */
#define dot4_start(offset) i32x16_set(offset) /* of mfk_q8_block */

MFK_INLINE i32x16 dot4(i32x16 sum, codes4 w, act4 x)
{
#ifdef __AVX512VNNI__
    return _mm512_dpbusd_epi32(sum, w, x);
#else
    return i32x16_of(_mm256_dpbusd_avx_epi32(sum.lo, w.lo, x.lo), _mm256_dpbusd_avx_epi32(sum.hi, w.hi, x.hi));
#endif
}

#endif
