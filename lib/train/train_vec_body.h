/* train_vec_body.h - train_vec.h's functions in plain C that compilers vectorise. Included once per
 * instruction set by a file that defines MFI_VEC_TABLE and is compiled with that set's flags.
 *
 * Sums keep 16 partial sums and merge them pairwise, so that a compiler may use registers of any width
 * without changing the order of additions. */
#include <math.h>
#include <string.h>

#include "train_vec.h"

#define LANES 16

static inline float bits_to_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static inline uint32_t float_to_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

/* exp(x) = 2^n exp(r), |r| <= log(2)/2. Adding 1.5 * 2^23 rounds x / log(2) to the integer n, which is then
 * in the low bits. The series to r^7 leaves 6e-9. Below -87 the result would be subnormal: it is exp(-87). */
static inline float exp_approx(float x)
{
    const float shift = 12582912.0f;
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float shifted = x * 1.44269504f + shift;
    float n = shifted - shift;
    float r = x - n * 0.693145752f; /* log(2), high 15 bits: the product is exact */
    r = r - n * 1.42860677e-6f;     /* and the rest */
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    return bits_to_float(float_to_bits(p) + (float_to_bits(shifted) << 23));
}

static inline float sigmoid(float x)
{
    return 1.0f / (1.0f + exp_approx(-x));
}

static inline float tanh_approx(float x)
{
    return 1.0f - 2.0f / (1.0f + exp_approx(2.0f * x));
}

/* Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: absolute error below 1.5e-7. */
static inline float erf_approx(float x)
{
    float magnitude = x < 0.0f ? -x : x;
    float t = 1.0f / (1.0f + 0.3275911f * magnitude);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float y = 1.0f - p * t * exp_approx(-magnitude * magnitude);
    return x < 0.0f ? -y : y;
}

#define SQRT_2_OVER_PI 0.797884561f
#define GELU_CUBE 0.044715f
#define SQRT_HALF 0.707106781f
#define INV_SQRT_2_PI 0.398942280f

static inline float act(mfk_activation activation, float x)
{
    switch (activation) {
    case MFK_SILU:
        return x * sigmoid(x);
    case MFK_GELU_TANH:
        return x * sigmoid(2.0f * SQRT_2_OVER_PI * (x + GELU_CUBE * x * x * x));
    case MFK_GELU_ERF:
        return 0.5f * x * (1.0f + erf_approx(x * SQRT_HALF));
    case MFK_RELU:
        return x > 0.0f ? x : 0.0f;
    case MFK_TANH:
        return tanh_approx(x);
    }
    return 0.0f;
}

/* act'(x), and act(x) to *y. tanh-GELU is x sigmoid(2 u), since (1 + tanh u) / 2 = sigmoid(2 u). */
static inline float act_slope(mfk_activation activation, float x, float *y)
{
    switch (activation) {
    case MFK_SILU: {
        float s = sigmoid(x);
        *y = x * s;
        return s + x * s * (1.0f - s);
    }
    case MFK_GELU_TANH: {
        float s = sigmoid(2.0f * SQRT_2_OVER_PI * (x + GELU_CUBE * x * x * x));
        *y = x * s;
        return s + x * s * (1.0f - s) * (2.0f * SQRT_2_OVER_PI) * (1.0f + 3.0f * GELU_CUBE * x * x);
    }
    case MFK_GELU_ERF: {
        float half = 0.5f * (1.0f + erf_approx(x * SQRT_HALF));
        *y = x * half;
        return half + x * INV_SQRT_2_PI * exp_approx(-0.5f * x * x);
    }
    case MFK_RELU:
        *y = x > 0.0f ? x : 0.0f;
        return x > 0.0f ? 1.0f : 0.0f;
    case MFK_TANH: {
        float t = tanh_approx(x);
        *y = t;
        return 1.0f - t * t;
    }
    }
    *y = 0.0f;
    return 0.0f;
}

static inline float merge(float *partial)
{
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++)
            partial[j] += partial[j + half];
    return partial[0];
}

/* Sums `term`, an expression in i, over [0, n). */
#define SUM(result, n, term)                               \
    do {                                                   \
        float partial[LANES] = { 0 };                      \
        size_t whole = (n) / LANES * LANES;                \
        for (size_t base = 0; base < whole; base += LANES) \
            for (size_t lane = 0; lane < LANES; lane++) {  \
                size_t i = base + lane;                    \
                partial[lane] += (term);                   \
            }                                              \
        for (size_t i = whole; i < (n); i++)               \
            partial[i - whole] += (term);                  \
        (result) = merge(partial);                         \
    } while (0)

static float largest(size_t n, const float *x)
{
    float most[LANES];
    for (size_t j = 0; j < LANES; j++)
        most[j] = x[0];
    size_t whole = n / LANES * LANES;
    for (size_t base = 0; base < whole; base += LANES)
        for (size_t j = 0; j < LANES; j++)
            most[j] = x[base + j] > most[j] ? x[base + j] : most[j];
    for (size_t i = whole; i < n; i++)
        most[0] = x[i] > most[0] ? x[i] : most[0];
    for (size_t half = LANES / 2; half > 0; half /= 2)
        for (size_t j = 0; j < half; j++)
            most[j] = most[j + half] > most[j] ? most[j + half] : most[j];
    return most[0];
}

static float rms_forward(size_t n, const float *x, const float *weight, float eps, float *restrict y)
{
    float squares;
    SUM(squares, n, x[i] * x[i]);
    float inverse = 1.0f / sqrtf(squares / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * inverse * weight[i];
    return inverse;
}

static void rms_backward(size_t n, const float *x, const float *weight, float inverse, const float *dy,
                         float *restrict dx, float *restrict dweight)
{
    float along; /* the part of the gradient that points along x: a change of length, which the norm removes */
    SUM(along, n, dy[i] * weight[i] * x[i]);
    along = along * inverse * inverse / (float)n;
    for (size_t i = 0; i < n; i++) {
        dx[i] += inverse * (dy[i] * weight[i] - along * x[i]);
        dweight[i] += dy[i] * x[i] * inverse;
    }
}

static float layer_forward(size_t n, const float *x, const float *weight, const float *bias, float eps,
                           float *restrict y, float *mean_out)
{
    float sum, squares;
    SUM(sum, n, x[i]);
    float mean = sum / (float)n;
    SUM(squares, n, (x[i] - mean) * (x[i] - mean));
    float inverse = 1.0f / sqrtf(squares / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) * inverse * weight[i] + bias[i];
    *mean_out = mean;
    return inverse;
}

static void layer_backward(size_t n, const float *x, const float *weight, float mean, float inverse, const float *dy,
                           float *restrict dx, float *restrict dweight, float *restrict dbias)
{
    float level, along;
    SUM(level, n, dy[i] * weight[i]);
    SUM(along, n, dy[i] * weight[i] * (x[i] - mean));
    level = level / (float)n;
    along = along * inverse * inverse / (float)n;
    for (size_t i = 0; i < n; i++) {
        float centred = x[i] - mean;
        dx[i] += inverse * (dy[i] * weight[i] - level - along * centred);
        dweight[i] += dy[i] * centred * inverse;
        dbias[i] += dy[i];
    }
}

/* One loop per activation, so that the choice is made outside it. */
#define FOR_ACTIVATION(loop)       \
    switch (activation) {          \
    case MFK_SILU:                 \
        loop(MFK_SILU) break;      \
    case MFK_GELU_TANH:            \
        loop(MFK_GELU_TANH) break; \
    case MFK_GELU_ERF:             \
        loop(MFK_GELU_ERF) break;  \
    case MFK_RELU:                 \
        loop(MFK_RELU) break;      \
    case MFK_TANH:                 \
        loop(MFK_TANH) break;      \
    }

static void act_forward(mfk_activation activation, size_t n, const float *restrict x, float *restrict y)
{
#define LOOP(kind)                 \
    for (size_t i = 0; i < n; i++) \
        y[i] = act(kind, x[i]);
    FOR_ACTIVATION(LOOP)
#undef LOOP
}

static void act_backward(mfk_activation activation, size_t n, float *restrict x, const float *restrict dy)
{
#define LOOP(kind)                                \
    for (size_t i = 0; i < n; i++) {              \
        float y;                                  \
        x[i] = dy[i] * act_slope(kind, x[i], &y); \
    }
    FOR_ACTIVATION(LOOP)
#undef LOOP
}

static void glu_forward(mfk_activation activation, size_t n, const float *restrict x, float *restrict y)
{
#define LOOP(kind)                                            \
    for (size_t block = 0; block < n; block += MFI_GLU_BLOCK) \
        for (size_t i = 0; i < MFI_GLU_BLOCK; i++)            \
            y[block + i] = act(kind, x[2 * block + i]) * x[2 * block + MFI_GLU_BLOCK + i];
    FOR_ACTIVATION(LOOP)
#undef LOOP
}

static void glu_backward(mfk_activation activation, size_t n, float *restrict x, const float *restrict dy)
{
#define LOOP(kind)                                                                 \
    for (size_t block = 0; block < n; block += MFI_GLU_BLOCK) {                    \
        float *restrict gate = x + 2 * block, *restrict up = gate + MFI_GLU_BLOCK; \
        for (size_t i = 0; i < MFI_GLU_BLOCK; i++) {                               \
            float y, slope = act_slope(kind, gate[i], &y), d = dy[block + i];      \
            gate[i] = d * up[i] * slope;                                           \
            up[i] = d * y;                                                         \
        }                                                                          \
    }
    FOR_ACTIVATION(LOOP)
#undef LOOP
}

static void rope(size_t n_head, size_t d_head, const float *restrict cosine, const float *restrict sine, int back,
                 float *restrict x)
{
    size_t half = d_head / 2;
    float sign = back ? -1.0f : 1.0f;
    for (size_t h = 0; h < n_head; h++) {
        float *restrict first = x + h * d_head, *restrict second = first + half;
        for (size_t j = 0; j < half; j++) {
            float a = first[j], b = second[j], s = sign * sine[j];
            first[j] = a * cosine[j] - b * s;
            second[j] = a * s + b * cosine[j];
        }
    }
}

static float softmax(size_t live, size_t n, float scale, float *restrict s)
{
    float most = scale * largest(live, s), sum;
    for (size_t i = 0; i < live; i++)
        s[i] = exp_approx(scale * s[i] - most);
    SUM(sum, live, s[i]);
    float inverse = 1.0f / sum;
    for (size_t i = 0; i < live; i++)
        s[i] *= inverse;
    for (size_t i = live; i < n; i++)
        s[i] = 0.0f;
    return most + logf(sum);
}

static void softmax_backward(size_t live, size_t n, float scale, float log_sum, float delta, float *restrict s,
                             float *restrict dp)
{
    for (size_t i = 0; i < live; i++) {
        float p = exp_approx(scale * s[i] - log_sum);
        s[i] = p;
        dp[i] = scale * p * (dp[i] - delta);
    }
    for (size_t i = live; i < n; i++)
        s[i] = dp[i] = 0.0f;
}

static float cross_entropy(size_t n, float *restrict logits, size_t target, float gradient_scale)
{
    float most = largest(n, logits), at_target = logits[target], sum;
    if (gradient_scale == 0.0f) {
        SUM(sum, n, exp_approx(logits[i] - most));
    } else {
        for (size_t i = 0; i < n; i++)
            logits[i] = exp_approx(logits[i] - most);
        SUM(sum, n, logits[i]);
        float share = gradient_scale / sum;
        for (size_t i = 0; i < n; i++)
            logits[i] *= share;
        logits[target] -= gradient_scale;
    }
    return logf(sum) + most - at_target;
}

static float dot(size_t n, const float *x, const float *y)
{
    float sum;
    SUM(sum, n, x[i] * y[i]);
    return sum;
}

static void add(size_t n, const float *restrict x, float *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] += x[i];
}

static void axpy(size_t n, float a, const float *restrict x, float *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

static void scale_row(size_t n, float a, const float *restrict x, float *restrict y)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a * x[i];
}

static void adamw(size_t n, const mfi_adamw *constants, float *restrict weight, const float *restrict gradient,
                  float *restrict m, float *restrict v)
{
    const mfi_adamw c = *constants;
    for (size_t i = 0; i < n; i++) {
        float g = gradient[i] * c.gradient_scale;
        float mean = c.beta1 * m[i] + (1.0f - c.beta1) * g;
        float square = c.beta2 * v[i] + (1.0f - c.beta2) * g * g;
        m[i] = mean;
        v[i] = square;
        weight[i] = weight[i] * c.keep - c.step_size * mean / (sqrtf(square) / c.root_bias + c.eps);
    }
}

const mfi_train_vec MFI_VEC_TABLE = {
    .rms_forward = rms_forward,
    .rms_backward = rms_backward,
    .layer_forward = layer_forward,
    .layer_backward = layer_backward,
    .act_forward = act_forward,
    .act_backward = act_backward,
    .glu_forward = glu_forward,
    .glu_backward = glu_backward,
    .rope = rope,
    .softmax = softmax,
    .softmax_backward = softmax_backward,
    .cross_entropy = cross_entropy,
    .dot = dot,
    .add = add,
    .axpy = axpy,
    .scale = scale_row,
    .adamw = adamw,
};
