/* quantize.c - scales and codes of blocks of weights: those of some scales that leave the least squared error. What
 * that is worth, and where the table of Q4 comes from, is measured by scripts/quantization.py. */
#include "quantize.h"

#include <math.h>

#include "pack.h"

/* Fitted to blocks of normal weights, alternating between scales, codes and table. With a bias of -17 scales reach
 * from 2^-17 to 15/8 * 2^-2. */
const int8_t mfk_q4_table[MFK_Q4_TABLE_BYTES] = { -127, -100, -79, -61, -46, -33, -21, -10, 0,
                                                  9,    19,   30,  42,  56,  73,  95,  -17 };

float mfk_largest(mfk_type type)
{
    switch (type) {
    case MFK_F16:
        return 65504.0f;
    case MFK_BF16:
        return 0x1.fefffep127f; /* from the next f32 on it is rounded to infinity */
    case MFK_Q8:
        return 127 * 65504.0f;
    case MFK_Q4:
        return 127 * mfk_q4_scale(127, mfk_q4_table[MFK_Q4_BIAS_AT]);
    default:
        return INFINITY;
    }
}

static float largest(size_t n, const float *x)
{
    float most = 0.0f;
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(x[i]) < INFINITY)) return NAN;
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    }
    return most;
}

/* Loops over a block are laid out for a compiler to do several weights at once. Sums have LANES parts and one order, so that
 * the codes are the same whatever it makes of them. */
enum { LANES = 8 };

static float sum_of(const float part[LANES])
{
    return ((part[0] + part[4]) + (part[2] + part[6])) + ((part[1] + part[5]) + (part[3] + part[7]));
}

/* ---- Q8 ---- */

static float code_q8(float x, float scale)
{
    const float magic = 0x1.8p23f; /* adding it leaves no places for a fraction */
    const float q = (x / scale + magic) - magic;
    return q < -127.0f ? -127.0f : q > 127.0f ? 127.0f : q;
}

/* What a scale above 0 leaves. */
static float error_q8(const float x[MFK_BLOCK], float scale)
{
    float part[LANES] = { 0 };
    for (size_t i = 0; i < MFK_BLOCK; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            const float off = x[i + j] - scale * code_q8(x[i + j], scale);
            part[j] += off * off;
        }
    return sum_of(part);
}

void mfk_quantize_q8(const float x[MFK_BLOCK], uint8_t code[MFK_BLOCK], uint16_t *scale)
{
    enum { TRIES = 16 }; /* each 1/128 above the one before, from the one that the largest weight gives */
    const float first = largest(MFK_BLOCK, x) / 127.0f;
    *scale = mfk_f32_to_f16(first);
    float best = mfk_f16_to_f32(*scale), least = best > 0.0f ? error_q8(x, best) : 0.0f;
    for (int i = 1; i < TRIES && least > 0.0f; i++) {
        const uint16_t next = mfk_f32_to_f16(first * (1.0f + (float)i / 128.0f));
        const float error = error_q8(x, mfk_f16_to_f32(next));
        if (!(error < least)) continue;
        least = error;
        *scale = next;
        best = mfk_f16_to_f32(next);
    }
    for (size_t i = 0; i < MFK_BLOCK; i++)
        code[i] = (uint8_t)((best > 0.0f ? code_q8(x[i], best) : 0.0f) + 128.0f);
}

/* ---- Q4 ---- */

/* Places in the table, which ascends, whose values are nearest: how many of its 15 middles lie below. */
static void nearest(const float middle[15], const float v[MFK_Q4_BLOCK], int32_t place[MFK_Q4_BLOCK])
{
    for (size_t i = 0; i < MFK_Q4_BLOCK; i++)
        place[i] = 0;
    for (size_t t = 0; t < 15; t++)
        for (size_t i = 0; i < MFK_Q4_BLOCK; i++)
            place[i] += v[i] > middle[t];
}

/* The squared error, or as much of it as reaches `enough`. */
static double codes_q4(const int8_t *table, const float middle[15], const float x[MFK_Q4_BLOCK], float scale,
                       double enough, int32_t code[MFK_Q4_BLOCK])
{
    float v[MFK_Q4_BLOCK];
    double error = 0;
    for (size_t i = 0; i < MFK_Q4_BLOCK; i++)
        v[i] = x[i] / scale;
    nearest(middle, v, code);
    for (size_t i = 0; i < MFK_Q4_BLOCK && error < enough; i++) {
        const double off = (double)x[i] - (double)scale * table[code[i]];
        error += off * off;
    }
    return error;
}

/* The least scale, of those without a sign, that is not below `scale`; or the greatest. They ascend. */
static uint8_t scale_code(float scale, int8_t bias)
{
    uint8_t low = 0, high = 127;
    while (low < high) {
        const uint8_t middle = (uint8_t)((low + high) / 2);
        if (mfk_q4_scale(middle, bias) < scale)
            low = (uint8_t)(middle + 1);
        else
            high = middle;
    }
    return low;
}

void mfk_quantize_q4(const int8_t *table, const float x[MFK_Q4_BLOCK], uint8_t code[MFK_Q4_BLOCK], uint8_t *scale)
{
    /* Scales around those with which the largest weight meets either end of the table: below, it would be cut off by
     * much; above, the table would be used by half. */
    enum { BELOW = 4, TRIES = 11 };
    const int8_t bias = table[MFK_Q4_BIAS_AT];
    const float most = largest(MFK_Q4_BLOCK, x);
    const float reach = (float)(-table[0] > table[15] ? -table[0] : table[15]);
    float finite[MFK_Q4_BLOCK], middle[15];
    double least = INFINITY;
    for (size_t t = 0; t < 15; t++)
        middle[t] = 0.5f * (float)(table[t] + table[t + 1]);
    for (size_t i = 0; i < MFK_Q4_BLOCK; i++)
        finite[i] = most >= 0.0f ? x[i] : 0.0f;
    const int first = (int)scale_code(most >= 0.0f ? most / reach : 0.0f, bias) - BELOW;
    for (int i = 0; i < 2 * TRIES; i++) {
        const int magnitude = first + i / 2;
        if (magnitude < 0 || magnitude > 127) continue;
        const uint8_t next = (uint8_t)(magnitude | (i % 2 ? 0x80 : 0));
        int32_t next_code[MFK_Q4_BLOCK];
        const double error = codes_q4(table, middle, finite, mfk_q4_scale(next, bias), least, next_code);
        if (!(error < least)) continue;
        least = error;
        *scale = next;
        for (size_t j = 0; j < MFK_Q4_BLOCK; j++)
            code[j] = (uint8_t)next_code[j];
    }
}
