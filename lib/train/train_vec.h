/* train_vec.h - the trainer's element-wise arithmetic, one row at a time. Every function exists once per
 * instruction set (train_vec_body.h) and is chosen when a trainer is created. A result depends on the
 * arguments and the instruction set alone. */
#ifndef MFI_TRAIN_VEC_H
#define MFI_TRAIN_VEC_H

#include "kernel.h"

/* Gate and up units alternate in blocks of so many rows, so that a width prefix of both is one prefix. */
#define MFI_GLU_BLOCK 32u

/* What one AdamW update needs besides the four arrays. */
typedef struct mfi_adamw {
    float gradient_scale; /* clipping */
    float beta1, beta2;
    float keep;      /* 1 - learning rate * weight decay */
    float step_size; /* learning rate / (1 - beta1^t) */
    float root_bias; /* sqrt(1 - beta2^t) */
    float eps;
} mfi_adamw;

typedef struct mfi_train_vec {
    /* y = x / rms(x) . weight; returns 1 / rms(x). */
    float (*rms_forward)(size_t n, const float *x, const float *weight, float eps, float *y);
    /* From dy = dL/dy: dx += dL/dx, dweight += dL/dweight. */
    void (*rms_backward)(size_t n, const float *x, const float *weight, float inverse, const float *dy, float *dx,
                         float *dweight);
    /* y = (x - mean) / deviation . weight + bias; returns 1 / deviation. */
    float (*layer_forward)(size_t n, const float *x, const float *weight, const float *bias, float eps, float *y,
                           float *mean);
    void (*layer_backward)(size_t n, const float *x, const float *weight, float mean, float inverse, const float *dy,
                           float *dx, float *dweight, float *dbias);

    /* y = act(x), and x becomes dL/dx = dy . act'(x). */
    void (*act_forward)(mfk_activation activation, size_t n, const float *x, float *y);
    void (*act_backward)(mfk_activation activation, size_t n, float *x, const float *dy);
    /* The same for act(gate) . up of n units (a multiple of the block), gate and up alternating in x[2 n]. */
    void (*glu_forward)(mfk_activation activation, size_t n, const float *x, float *y);
    void (*glu_backward)(mfk_activation activation, size_t n, float *x, const float *dy);

    /* Rotates pairs (j, j + d_head/2) of n_head heads by +angle, or by -angle when `back`. */
    void (*rope)(size_t n_head, size_t d_head, const float *cos, const float *sin, int back, float *x);

    /* s[0..live) becomes softmax(scale * s), s[live..n) zero; returns log(sum(exp(scale * s))). */
    float (*softmax)(size_t live, size_t n, float scale, float *s);
    /* From scores s, their log-sum and dp = dL/dp: s becomes p, dp becomes dL/ds = scale * p * (dp - delta);
     * zeros in [live, n). */
    void (*softmax_backward)(size_t live, size_t n, float scale, float log_sum, float delta, float *s, float *dp);
    /* -log softmax(logits)[target]; logits become gradient_scale * dL/dlogits. With gradient_scale 0 they stay. */
    float (*cross_entropy)(size_t n, float *logits, size_t target, float gradient_scale);

    float (*dot)(size_t n, const float *x, const float *y);
    void (*add)(size_t n, const float *x, float *y);            /* y += x */
    void (*axpy)(size_t n, float a, const float *x, float *y);  /* y += a x */
    void (*scale)(size_t n, float a, const float *x, float *y); /* y = a x */
    void (*adamw)(size_t n, const mfi_adamw *constants, float *weight, const float *gradient, float *m, float *v);
} mfi_train_vec;

extern const mfi_train_vec mfi_train_vec_baseline;
#if defined(MFI_TRAIN_HAVE_AVX2)
extern const mfi_train_vec mfi_train_vec_avx2;
#endif
#if defined(MFI_TRAIN_HAVE_AVX512)
extern const mfi_train_vec mfi_train_vec_avx512;
#endif

/* The best for this processor. */
const mfi_train_vec *mfi_train_vec_select(void);

#endif
