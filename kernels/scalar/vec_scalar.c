/* vec_scalar.c - the reference of everything that is no matrix product: norms, rope, activations, softmax,
 * attention, and the ways into the cache. Follows docs/arithmetic.md line by line. */
#include "kernel_list.h"
#include "math_scalar.h"
#include "pack.h"

#include <math.h> /* NAN; sqrtf, which with -fno-math-errno is the instruction */
#include <stdbool.h>
#include <string.h>

static float tree_sum(float p[16])
{
    for (size_t step = 8; step > 0; step /= 2)
        for (size_t j = 0; j < step; j++)
            p[j] = p[j] + p[j + step];
    return p[0];
}

static float tree_max(float m[16])
{
    for (size_t step = 8; step > 0; step /= 2)
        for (size_t j = 0; j < step; j++)
            m[j] = m[j + step] > m[j] ? m[j + step] : m[j];
    return m[0];
}

void mfk_rms_norm_scalar(size_t n, const float *x, const float *weight, float eps, float *y)
{
    float p[16] = { 0 };
    for (size_t i = 0; i < n; i++)
        p[i % 16] = mfk_fma(x[i], x[i], p[i % 16]);
    float r = 1.0f / sqrtf(tree_sum(p) / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = weight ? (x[i] * r) * weight[i] : x[i] * r;
}

/* The mean of n numbers; their variance. */
static float moments(size_t n, const float *x, float *variance)
{
    float sums[16] = { 0 }, p[16] = { 0 };
    for (size_t i = 0; i < n; i++)
        sums[i % 16] = sums[i % 16] + x[i];
    float mean = tree_sum(sums) / (float)n;
    for (size_t i = 0; i < n; i++)
        p[i % 16] = mfk_fma(x[i] - mean, x[i] - mean, p[i % 16]);
    *variance = tree_sum(p) / (float)n;
    return mean;
}

void mfk_layer_norm_scalar(size_t n, const float *x, const float *weight, const float *bias, float eps, float *y)
{
    float variance, mean = moments(n, x, &variance), r = 1.0f / sqrtf(variance + eps);
    for (size_t i = 0; i < n; i++) {
        float t = (x[i] - mean) * r;
        if (weight && bias)
            y[i] = mfk_fma(t, weight[i], bias[i]);
        else
            y[i] = weight ? t * weight[i] : bias ? t + bias[i] : t;
    }
}

void mfk_activate_scalar(mfk_activation activation, size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = mfk_act(activation, x[i]);
}

void mfk_mul_scalar(size_t n, const float *x, const float *other, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * other[i];
}

void mfk_add_scalar(size_t n, const float *x, const float *other, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] + other[i];
}

void mfk_axpy_scalar(size_t n, float a, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = mfk_fma(a, x[i], y[i]);
}

float mfk_dot_scalar(size_t n, const float *x, const float *y)
{
    float p[16] = { 0 };
    for (size_t i = 0; i < n; i++)
        p[i % 16] = mfk_fma(x[i], y[i], p[i % 16]);
    return tree_sum(p);
}

void mfk_sparse_glu_scalar(mfk_activation activation, size_t n, const float *gate, float deviations, float *y)
{
    float variance, mean = moments(n, gate, &variance), cut = mean + deviations * sqrtf(variance);
    for (size_t i = 0; i < n; i++)
        y[i] = mfk_act(activation, mfk_at_least(0.0f, gate[i] - cut)) * y[i];
}

void mfk_rope_scalar(size_t n_head, size_t d_head, const float *cos, const float *sin, float *x)
{
    size_t half = d_head / 2;
    for (size_t h = 0; h < n_head; h++, x += d_head) {
        for (size_t j = 0; j < half; j++) {
            float a = x[j], b = x[j + half];
            x[j] = mfk_fma(a, cos[j], -(b * sin[j]));
            x[j + half] = mfk_fma(b, cos[j], a * sin[j]);
        }
    }
}

void mfk_softmax_stats_scalar(size_t n, const float *x, float *max, float *sum)
{
    float m[16], p[16] = { 0 };
    for (size_t j = 0; j < 16; j++)
        m[j] = -INFINITY;
    for (size_t i = 0; i < n; i++)
        m[i % 16] = x[i] > m[i % 16] ? x[i] : m[i % 16];
    *max = tree_max(m);
    for (size_t i = 0; i < n; i++)
        p[i % 16] = p[i % 16] + mfk_exp(x[i] - *max);
    *sum = tree_sum(p);
}

/* Bits of non-negative numbers ascend with them, infinity and NaN last. */
static uint32_t greatest_bits(size_t n, const float *x)
{
    uint32_t most = 0;
    for (size_t i = 0; i < n; i++)
        most = mfk_f32_bits(mfk_abs(x[i])) > most ? mfk_f32_bits(mfk_abs(x[i])) : most;
    return most;
}

/* The scale that n numbers share in 8 bits, and their factor to it: 0 where all of them become 0. */
static float q8_scale(size_t n, const float *x, float *factor)
{
    const uint32_t bits = greatest_bits(n, x);
    const float most = mfk_f32_of_bits(bits);
    const bool finite = bits < 0x7f800000u, any = finite && most >= 0x1p-100f;
    *factor = any ? 127.0f / most : 0.0f;
    return !finite ? NAN : any ? most / 127.0f : 0.0f;
}

static int8_t q8_of(float x, float factor)
{
    const float magic = 0x1.8p23f; /* adding it rounds to an integer */
    return (int8_t)(factor > 0.0f ? (x * factor + magic) - magic : 0.0f);
}

/* `stride` from one number of the row to the next, in a block of a cache page. */
static void store_strided(mfk_type type, size_t d_head, const float *x, void *block, size_t slot, size_t at,
                          size_t stride)
{
    float *f32 = block, *scales = (float *)(void *)((int8_t *)block + d_head * MFK_PAGE), factor = 0.0f;
    uint16_t *bf16 = block;
    int8_t *q8 = block;
    if (type == MFK_Q8) scales[slot] = q8_scale(d_head, x, &factor);
    for (size_t d = 0; d < d_head; d++, at += stride) {
        if (type == MFK_F32)
            f32[at] = x[d];
        else if (type == MFK_BF16)
            bf16[at] = mfk_f32_to_bf16(x[d]);
        else
            q8[at] = q8_of(x[d], factor);
    }
}

void mfk_store_key_scalar(mfk_type type, size_t d_head, const float *x, void *block, size_t slot)
{
    store_strided(type, d_head, x, block, slot, slot, MFK_PAGE);
}

void mfk_store_value_scalar(mfk_type type, size_t d_head, const float *x, void *block, size_t slot)
{
    store_strided(type, d_head, x, block, slot, slot * d_head, 1);
}

void mfk_panel_row_scalar(mfk_type type, size_t k, const int8_t *table, const void *panels, size_t b_panel_bytes,
                          size_t index, float *y)
{
    mfk_unpack_row(type, table, k, panels, b_panel_bytes, index, y);
}

static void quantize_block(size_t n, const float *x, mfk_q8_block *y)
{
    float factor;
    int32_t sum[2] = { 0, 0 };
    y->scale = q8_scale(n, x, &factor);
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        y->q[i] = q8_of(i < n ? x[i] : 0.0f, factor);
        sum[i / (MFK_BLOCK / 2)] += y->q[i];
    }
    y->offset = -128 * (sum[0] + sum[1]);
    y->half[0] = -128 * sum[0];
    y->half[1] = -128 * sum[1];
}

void mfk_quantize_scalar(size_t n, const float *x, mfk_q8_block *y)
{
    for (size_t i = 0; i < n; i += MFK_BLOCK)
        quantize_block(n - i < MFK_BLOCK ? n - i : MFK_BLOCK, x + i, y++);
}

/* Element `i` of a block, without its scale. */
static float widened(mfk_type type, const void *block, size_t i)
{
    if (type == MFK_F32) return ((const float *)block)[i];
    return type == MFK_BF16 ? mfk_bf16_to_f32(((const uint16_t *)block)[i]) : (float)((const int8_t *)block)[i];
}

/* `x` times the scale of slot `slot` in a block, of those that have scales. */
static float times_scale(const mfk_attend_args *args, float x, const char *block, size_t slot)
{
    const char *scales = block + args->d_head * MFK_PAGE;
    return args->type == MFK_Q8 ? x * ((const float *)(const void *)scales)[slot] : x;
}

/* e[j - begin] = scale * q . key j, capped and sloped, for the positions [begin, end) of one span; returns the
 * maximum. */
static float span_scores(const mfk_attend_args *args, size_t row, size_t begin, size_t end, float *e)
{
    const float *q = args->q[row];
    float m[16];
    for (size_t j = 0; j < 16; j++)
        m[j] = -INFINITY;
    for (size_t j = begin; j < end; j++) {
        const char *keys = (const char *)args->pages[j / MFK_PAGE] + args->k_offset_bytes;
        float s = 0.0f;
        for (size_t d = 0; d < args->d_head; d++)
            s = mfk_fma(q[d], widened(args->type, keys, d * MFK_PAGE + j % MFK_PAGE), s);
        s = times_scale(args, s, keys, j % MFK_PAGE) * args->scale;
        if (args->softcap > 0.0f) s = args->softcap * mfk_tanh(s / args->softcap);
        if (args->slope) s = mfk_fma(args->slope[row], (float)j - (float)args->query_at[row], s);
        e[j - begin] = s;
        m[j % 16] = s > m[j % 16] ? s : m[j % 16];
    }
    return tree_max(m);
}

/* o = sum of exp(e - max) * value; returns the sum of the exponentials. */
static float span_values(const mfk_attend_args *args, size_t begin, size_t end, const float *e, float max, float *o)
{
    float p[16] = { 0 };
    memset(o, 0, args->d_head * sizeof *o);
    for (size_t j = begin; j < end; j++) {
        const char *values = (const char *)args->pages[j / MFK_PAGE] + args->v_offset_bytes;
        float w = mfk_exp(e[j - begin] - max);
        p[j % 16] = p[j % 16] + w;
        w = times_scale(args, w, values, j % MFK_PAGE);
        for (size_t d = 0; d < args->d_head; d++)
            o[d] = mfk_fma(w, widened(args->type, values, j % MFK_PAGE * args->d_head + d), o[d]);
    }
    return tree_sum(p);
}

void mfk_attend_merge_scalar(size_t d_head, float *part, const float *next)
{
    float *max = part + d_head, *sum = max + 1, next_max = next[d_head], next_sum = next[d_head + 1];
    float both = next_max > *max ? next_max : *max;
    float old_share = mfk_exp(*max - both), new_share = mfk_exp(next_max - both);
    *sum = mfk_fma(next_sum, new_share, *sum * old_share);
    for (size_t d = 0; d < d_head; d++)
        part[d] = mfk_fma(next[d], new_share, part[d] * old_share);
    *max = both;
}

static void attend_row(const mfk_attend_args *args, size_t row)
{
    const size_t d_head = args->d_head, first = args->key_begin[row], end = args->key_end[row];
    float *e = args->scratch, *next = e + MFK_SPAN; /* e[MFK_SPAN], next[d_head + 2], merged[d_head + 2] */
    float *merged = args->part ? args->part[row] : next + d_head + 2;
    for (size_t begin = first, stop; begin < end; begin = stop) {
        stop = (begin / MFK_SPAN + 1) * MFK_SPAN < end ? (begin / MFK_SPAN + 1) * MFK_SPAN : end;
        float *part = begin == first ? merged : next;
        part[d_head] = span_scores(args, row, begin, stop, e);
        part[d_head + 1] = span_values(args, begin, stop, e, part[d_head], part);
        if (begin != first) mfk_attend_merge_scalar(d_head, merged, next);
    }
    for (size_t d = 0; d < d_head && !args->part; d++)
        args->out[row][d] = merged[d] / merged[d_head + 1];
}

void mfk_attend_scalar(const mfk_attend_args *args)
{
    for (size_t row = 0; row < args->n_row; row++)
        attend_row(args, row);
}

float mfk_alibi_slope(float max, size_t head, size_t n_head)
{
    const double x = (double)max * (double)(head + 1) / (double)n_head;
    const int n = (int)(x + 0.5);
    const double r = ((double)n - x) * 0x1.62e42fefa39efp-1; /* ln 2 */
    double y = 1.0;
    for (int i = 13; i > 0; i--) /* r^14 / 14! is below 2^-57 */
        y = y * r / (double)i + 1.0;
    union {
        uint64_t u;
        double f;
    } power = { (uint64_t)(1023 - n) << 52 };
    return (float)(y * power.f);
}

void mfk_sincos(float angle, float *cos_out, float *sin_out)
{
    const double magic = 0x1.8p52; /* adding it rounds to an integer, which the low bits then hold */
    union {
        double f;
        uint64_t u;
    } shifted = { (double)angle * 0.6366197723675814 + magic };
    double n = shifted.f - magic;
    double r = (((double)angle - n * 0x1.921fbp0) - n * 0x1.5110b4p-22) - n * 0x1.8469898cc517p-48;
    double z = r * r;
    double s = -1.0 / 1307674368000.0, c = 1.0 / 20922789888000.0; /* 1/15!, 1/16! */
    static const double s_low[] = {
        1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0, 1.0
    };
    static const double c_low[] = {
        -1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0, -1.0 / 720.0, 1.0 / 24.0, -0.5, 1.0
    };
    for (size_t i = 0; i < sizeof s_low / sizeof *s_low; i++)
        s = s * z + s_low[i];
    for (size_t i = 0; i < sizeof c_low / sizeof *c_low; i++)
        c = c * z + c_low[i];
    float sin_r = (float)(s * r), cos_r = (float)c;
    unsigned quadrant = (unsigned)shifted.u & 3u;
    *sin_out = quadrant & 1 ? cos_r : sin_r;
    *cos_out = quadrant & 1 ? sin_r : cos_r;
    if (quadrant & 2) *sin_out = -*sin_out;
    if (quadrant == 1 || quadrant == 2) *cos_out = -*cos_out;
}
