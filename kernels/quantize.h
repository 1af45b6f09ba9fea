/* quantize.h - weights to the codes of Q8 and Q4. Not for speed: it runs when a file is made. */
#ifndef MFK_QUANTIZE_H
#define MFK_QUANTIZE_H

#include "kernel.h"

/* The table that new Q4 tensors get. */
extern const int8_t mfk_q4_table[16];

/* Chooses the scale (f16) and the codes of 32 weights: Q8 value + 128, Q4 places in `table`. Weights that are not
 * finite give a scale of NaN. */
void mfk_quantize_q8(const float x[MFK_BLOCK], uint8_t code[MFK_BLOCK], uint16_t *scale);
void mfk_quantize_q4(const int8_t table[16], const float x[MFK_BLOCK], uint8_t code[MFK_BLOCK], uint16_t *scale);

#endif
