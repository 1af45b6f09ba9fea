/* dot_words.h - dot products of four bytes where there is no instruction for them: by pairs of 16-bit words. The bytes of
 * a weight are unsigned and 128 too large; no sum can overflow: 2 * 255 * 127 is far below 2^31. (vpmaddubsw would
 * take bytes, but it saturates at 2^15.) The same names as dot_vnni.h. */
#ifndef MFK_DOT_H
#define MFK_DOT_H

/* Inputs 0 and 2, and 1 and 3, of every output. */
typedef struct codes4 {
    i32x16 even, odd;
} codes4;

typedef struct act4 {
    i32x16 even, odd;
} act4;

#ifdef __AVX512BW__
#define I32X16_WORDS(call, v, n) _mm512_##call(v, n)
MFK_INLINE i32x16 multiply_words(i32x16 a, i32x16 b)
{
    return _mm512_madd_epi16(a, b);
}
#else
#define I32X16_WORDS(call, v, n) i32x16_of(_mm256_##call((v).lo, n), _mm256_##call((v).hi, n))
MFK_INLINE i32x16 multiply_words(i32x16 a, i32x16 b)
{
    return i32x16_of(_mm256_madd_epi16(a.lo, b.lo), _mm256_madd_epi16(a.hi, b.hi));
}
#endif

MFK_INLINE codes4 codes4_of(i32x16 bytes)
{
    codes4 w = { i32x16_and(bytes, i32x16_set(0x00ff00ff)), I32X16_WORDS(srli_epi16, bytes, 8) };
    return w;
}

/* Four activations, to all outputs. */
MFK_INLINE act4 act4_set(int32_t word)
{
    i32x16 bytes = i32x16_set(word);
    act4 x = { I32X16_WORDS(srai_epi16, I32X16_WORDS(slli_epi16, bytes, 8), 8), I32X16_WORDS(srai_epi16, bytes, 8) };
    return x;
}

/* `offset`: of mfk_q8_block. */
#define dot4_start(offset) i32x16_set(offset)

MFK_INLINE i32x16 dot4(i32x16 sum, codes4 w, act4 x)
{
    return i32x16_add(sum, i32x16_add(multiply_words(w.even, x.even), multiply_words(w.odd, x.odd)));
}

#endif
