/* quantize.c - scales and codes of blocks of weights. */
#include "quantize.h"

#include <math.h>

#include "pack.h"

const int8_t mfk_q4_table[16] = { -120, -105, -90, -75, -60, -45, -30, -15, 0, 15, 30, 45, 60, 75, 90, 105 };

/* Of the largest weight, with its sign; NaN where one is not finite. */
static float extreme(const float x[MFK_BLOCK])
{
    float most = 0.0f;
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        if (!(fabsf(x[i]) < INFINITY)) return NAN;
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    }
    return most;
}

static float to_nearest(float x)
{
    const float magic = 0x1.8p23f; /* adding it leaves no places for a fraction */
    return (x + magic) - magic;
}

void mfk_quantize_q8(const float x[MFK_BLOCK], uint8_t code[MFK_BLOCK], uint16_t *scale)
{
    *scale = mfk_f32_to_f16(fabsf(extreme(x)) / 127.0f);
    float step = mfk_f16_to_f32(*scale);
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        float q = step > 0.0f ? to_nearest(x[i] / step) : 0.0f;
        code[i] = (uint8_t)(128.0f + (q < -127.0f ? -127.0f : q > 127.0f ? 127.0f : q));
    }
}

/* The place in the table, which ascends, whose value is nearest to v. */
static uint8_t nearest(const int8_t table[16], float v)
{
    uint8_t i = 0;
    while (i < 15 && v > 0.5f * (float)(table[i] + table[i + 1]))
        i++;
    return i;
}

/* Codes for a scale; how much of the weights' energy they keep after the best refit of the scale. */
static double fit(const int8_t table[16], const float x[MFK_BLOCK], float scale, uint8_t code[MFK_BLOCK], double *refit)
{
    double xv = 0, vv = 0;
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        code[i] = nearest(table, x[i] / scale);
        xv += (double)x[i] * table[code[i]];
        vv += (double)table[code[i]] * table[code[i]];
    }
    *refit = vv > 0 ? xv / vv : 0;
    return vv > 0 ? xv * xv / vv : 0;
}

static void codes_for(const int8_t table[16], const float x[MFK_BLOCK], float scale, uint8_t code[MFK_BLOCK])
{
    for (size_t i = 0; i < MFK_BLOCK; i++)
        code[i] = nearest(table, scale != 0.0f ? x[i] / scale : 0.0f);
}

void mfk_quantize_q4(const int8_t table[16], const float x[MFK_BLOCK], uint8_t code[MFK_BLOCK], uint16_t *scale)
{
    enum { TRIES = 16 };
    float most = extreme(x);
    double best = -1, chosen = most;
    for (int side = 0; side < 2; side++) {
        for (int i = 0; most > 0.0f || most < 0.0f ? i < TRIES : 0; i++) {
            double refit,
                kept = fit(table, x, most / ((float)table[side ? 15 : 0] * (0.7f + 0.04f * (float)i)), code, &refit);
            if (kept > best) best = kept, chosen = refit;
        }
    }
    *scale = mfk_f32_to_f16((float)chosen);
    codes_for(table, x, mfk_f16_to_f32(*scale), code);
}
