/* transpose_sse.h - the part of the lanes that is 128 bits wide with AVX2 and AVX-512 alike. */
#ifndef MFK_TRANSPOSE_SSE_H
#define MFK_TRANSPOSE_SSE_H

/* Rows of `from` become columns of `to`. */
MFK_INLINE void transpose_4x4(const float *from, size_t from_floats, float *to, size_t to_floats)
{
    __m128 r0 = _mm_loadu_ps(from), r1 = _mm_loadu_ps(from + from_floats);
    __m128 r2 = _mm_loadu_ps(from + 2 * from_floats), r3 = _mm_loadu_ps(from + 3 * from_floats);
    _MM_TRANSPOSE4_PS(r0, r1, r2, r3);
    _mm_storeu_ps(to, r0);
    _mm_storeu_ps(to + to_floats, r1);
    _mm_storeu_ps(to + 2 * to_floats, r2);
    _mm_storeu_ps(to + 3 * to_floats, r3);
}

#endif
