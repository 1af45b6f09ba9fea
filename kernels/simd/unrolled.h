/* unrolled.h - a loop whose bounds are constants where it is inlined, so that what it indexes can live in registers.
 * Clang unrolls for GCC's pragma too late for that. */
#ifndef MFK_UNROLLED_H
#define MFK_UNROLLED_H

#ifdef __clang__
#define UNROLLED(i, n) _Pragma("clang loop unroll(full)") for (size_t i = 0; i < (n); i++)
#else
#define UNROLLED(i, n) _Pragma("GCC unroll 32") for (size_t i = 0; i < (n); i++)
#endif

#endif
