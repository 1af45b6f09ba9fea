/* quantize.h - weights to the codes of Q8 and Q4. Not for speed: it runs when a file is made. */
#ifndef MFK_QUANTIZE_H
#define MFK_QUANTIZE_H

#include "kernel.h"

enum { MFK_Q4_BIAS_AT = 16, MFK_Q4_TABLE_BYTES = 17, MFK_Q4_BLOCK = 16 };

/* The table that new Q4 tensors get, and after it their bias. */
extern const int8_t mfk_q4_table[MFK_Q4_TABLE_BYTES];

/* The largest weight that a type holds: beyond, it has no scale under that bias, or none in f16, or is no f16. */
float mfk_largest(mfk_type type);

/* Chooses the scale (f16) and the codes of 32 weights, value + 128. Weights that are not finite give a scale of NaN. */
void mfk_quantize_q8(const float x[MFK_BLOCK], uint8_t code[MFK_BLOCK], uint16_t *scale);
/* The scale and the codes of 16 weights, places in `table`. Weights that are not finite count as zeros. */
void mfk_quantize_q4(const int8_t *table, const float x[MFK_Q4_BLOCK], uint8_t code[MFK_Q4_BLOCK], uint8_t *scale);

#endif
