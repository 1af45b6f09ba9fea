/* gemma3n_reference.h - the decoder of Gemma 3n by the book (docs/families.md), one token after another, in f64. It
 * shares the weights' function with the library's tests, and nothing with the library. */
#ifndef GEMMA3N_REFERENCE_H
#define GEMMA3N_REFERENCE_H

#include "gemma3n_fixture.h"

enum { REF_MAX = 256, REF_POSITIONS = 64 };

typedef struct reference {
    const gemma *m;
    uint32_t position;
    double keys[GEMMA_LAYERS][REF_POSITIONS][REF_MAX], values[GEMMA_LAYERS][REF_POSITIONS][REF_MAX];
    double x[GEMMA_STREAMS][REF_MAX], e[REF_MAX], ple[GEMMA_LAYERS][GEMMA_PLE];
    double hidden[REF_MAX], logits[REF_MAX];
} reference;

static inline void ref_name(char name[64], uint32_t layer, const char *rest)
{
    snprintf(name, 64, "layers.%u.%s", layer, rest);
}

/* y [n] = W x [k] */
static inline void ref_linear(const gemma *m, const char *name, size_t n, size_t k, const double *x, double *y)
{
    const gemma_tensor w = gemma_find(m, name);
    for (size_t i = 0; i < n; i++) {
        y[i] = 0;
        for (size_t j = 0; j < k; j++)
            y[i] += (double)gemma_element(&w, i, j) * x[j];
    }
}

static inline void ref_layer_linear(const gemma *m, uint32_t layer, const char *rest, size_t n, size_t k,
                                    const double *x, double *y)
{
    char name[64];
    ref_name(name, layer, rest);
    ref_linear(m, name, n, k, x, y);
}

/* A matrix that the file keeps as a vector. */
static inline void ref_flat(const gemma *m, uint32_t layer, const char *rest, size_t n, size_t k, double clip,
                            const double *x, double *y)
{
    char name[64];
    ref_name(name, layer, rest);
    const gemma_tensor w = gemma_find(m, name);
    for (size_t i = 0; i < n; i++) {
        y[i] = 0;
        for (size_t j = 0; j < k; j++)
            y[i] += fmax(-clip, fmin(clip, (double)gemma_element(&w, 0, i * k + j))) * x[j];
    }
}

static inline double ref_mean_square(size_t n, const double *x)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sum / (double)n;
}

/* `name` NULL: without a weight. */
static inline void ref_rms(const gemma *m, const char *name, size_t n, const double *x, double *y)
{
    const double r = 1 / sqrt(ref_mean_square(n, x) + (double)m->config.norm_eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * r * (name != NULL ? (double)gemma_weight(m, name, 0, i) : 1);
}

static inline void ref_layer_rms(const gemma *m, uint32_t layer, const char *rest, size_t n, const double *x, double *y)
{
    char name[64];
    ref_name(name, layer, rest);
    ref_rms(m, name, n, x, y);
}

static inline double ref_gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

/* `token` -1: `embedding` instead. */
static inline void ref_input(reference *r, int32_t token, const float *embedding)
{
    const gemma *m = r->m;
    const mfi_config *c = &m->config;
    const size_t d = c->d_model;
    char name[64];
    for (size_t i = 0; i < d; i++)
        r->e[i] =
            token < 0 ? (double)embedding[i] : sqrt((double)d) * (double)gemma_weight(m, "embed", (size_t)token, i);
    for (uint32_t l = 0; l < c->n_layer; l++) {
        double u[GEMMA_PLE];
        const size_t row = token >= 0 && (uint32_t)token < c->gemma3n.n_vocab_ple ? (size_t)token : 0;
        ref_layer_linear(m, l, "ple.project", GEMMA_PLE, d, r->e, u);
        for (size_t i = 0; i < GEMMA_PLE; i++)
            u[i] /= sqrt((double)d);
        ref_rms(m, "ple.norm.weight", GEMMA_PLE, u, u);
        for (size_t i = 0; i < GEMMA_PLE; i++) {
            const double t = sqrt((double)GEMMA_PLE) * (double)gemma_weight(m, "ple.table", row, l * GEMMA_PLE + i);
            r->ple[l][i] = token < 0 ? u[i] : sqrt(0.5) * (u[i] + t);
        }
    }
    memcpy(r->x[0], r->e, sizeof r->e);
    const double m0 = sqrt(ref_mean_square(d, r->e));
    for (uint32_t k = 1; k < GEMMA_STREAMS; k++) {
        snprintf(name, sizeof name, "altup.project.%u", k - 1);
        ref_linear(m, name, d, d, r->e, r->x[k]);
        const double factor = m0 / sqrt(fmax(ref_mean_square(d, r->x[k]), 1e-5));
        for (size_t i = 0; i < d; i++)
            r->x[k][i] *= factor;
    }
}

static inline void ref_router(const gemma *m, uint32_t layer, const double *x, double *modality)
{
    const size_t d = m->config.d_model;
    double normed[REF_MAX];
    ref_layer_rms(m, layer, "altup.router_norm.weight", d, x, normed);
    for (size_t i = 0; i < d; i++)
        normed[i] /= (double)d;
    ref_flat(m, layer, "altup.router", GEMMA_STREAMS, d, INFINITY, normed, modality);
    for (size_t i = 0; i < GEMMA_STREAMS; i++)
        modality[i] = tanh(modality[i]);
}

static inline void ref_rope(const gemma *m, uint32_t layer, uint32_t position, double *x)
{
    const size_t h = m->config.d_head;
    const double theta = m->config.window[layer] != 0 ? m->config.gemma3n.rope_theta_local : m->config.rope_theta;
    for (size_t j = 0; j < h / 2; j++) {
        const double angle = position * pow(theta, -2.0 * (double)j / (double)h), a = x[j], b = x[j + h / 2];
        x[j] = a * cos(angle) - b * sin(angle);
        x[j + h / 2] = b * cos(angle) + a * sin(angle);
    }
}

/* One query head over the keys that its position sees. */
static inline void ref_head(reference *r, uint32_t layer, size_t head, const double *q, double *out)
{
    const mfi_config *c = &r->m->config;
    const uint32_t owner = c->kv_layer[layer], window = c->window[layer];
    const size_t h = c->d_head, kv = head / c->head_group;
    const uint32_t first = window != 0 && r->position + 1 > window ? r->position + 1 - window : 0;
    double score[REF_POSITIONS], most = -INFINITY, sum = 0;
    for (uint32_t j = first; j <= r->position; j++) {
        score[j] = 0;
        for (size_t i = 0; i < h; i++)
            score[j] += q[i] * r->keys[owner][j][kv * h + i];
        most = fmax(most, score[j]);
    }
    for (uint32_t j = first; j <= r->position; j++)
        sum += score[j] = exp(score[j] - most);
    for (size_t i = 0; i < h; i++) {
        out[i] = 0;
        for (uint32_t j = first; j <= r->position; j++)
            out[i] += score[j] / sum * r->values[owner][j][kv * h + i];
    }
}

static inline void ref_attention(reference *r, uint32_t layer, size_t heads, const double *n, double *o)
{
    const gemma *m = r->m;
    const mfi_config *c = &m->config;
    const size_t h = c->d_head, kv = (heads + c->head_group - 1) / c->head_group;
    double q[REF_MAX], all[REF_MAX];
    ref_layer_linear(m, layer, "attn.q", heads * h, c->d_model, n, q);
    if (c->kv_layer[layer] == layer) {
        double *keys = r->keys[layer][r->position], *values = r->values[layer][r->position];
        ref_layer_linear(m, layer, "attn.k", kv * h, c->d_model, n, keys);
        ref_layer_linear(m, layer, "attn.v", kv * h, c->d_model, n, values);
        for (size_t i = 0; i < kv; i++) {
            ref_layer_rms(m, layer, "attn.k_norm.weight", h, keys + i * h, keys + i * h);
            ref_rope(m, layer, r->position, keys + i * h);
            ref_rms(m, NULL, h, values + i * h, values + i * h);
        }
    }
    for (size_t i = 0; i < heads; i++) {
        ref_layer_rms(m, layer, "attn.q_norm.weight", h, q + i * h, q + i * h);
        ref_rope(m, layer, r->position, q + i * h);
        ref_head(r, layer, i, q + i * h, all + i * h);
    }
    ref_layer_linear(m, layer, "attn.o", c->d_model, heads * h, all, o);
}

static inline void ref_ffn(const gemma *m, uint32_t layer, size_t width, const double *x, double *y)
{
    const double deviations = (double)m->config.sparsity[layer];
    double in[REF_MAX], gate[REF_MAX], up[REF_MAX];
    ref_layer_rms(m, layer, "ffn_norm.weight", m->config.d_model, x, in);
    ref_layer_linear(m, layer, "ffn.gate", width, m->config.d_model, in, gate);
    ref_layer_linear(m, layer, "ffn.up", width, m->config.d_model, in, up);
    if (deviations != 0) {
        double mean = 0, square = 0;
        for (size_t i = 0; i < width; i++)
            mean += gate[i] / (double)width;
        for (size_t i = 0; i < width; i++)
            square += (gate[i] - mean) * (gate[i] - mean) / (double)width;
        for (size_t i = 0; i < width; i++)
            gate[i] = fmax(0, gate[i] - (mean + deviations * sqrt(square)));
    }
    for (size_t i = 0; i < width; i++)
        up[i] *= ref_gelu(gate[i]);
    ref_layer_linear(m, layer, "ffn.down", m->config.d_model, width, up, y);
    ref_layer_rms(m, layer, "ffn_post_norm.weight", m->config.d_model, y, y);
}

static inline void ref_layer(reference *r, uint32_t layer, size_t width, size_t heads)
{
    const gemma *m = r->m;
    const size_t d = m->config.d_model;
    double modality[GEMMA_STREAMS], c[GEMMA_STREAMS * GEMMA_STREAMS], p[GEMMA_STREAMS][REF_MAX];
    double n[REF_MAX] = { 0 }, left[GEMMA_RANK] = { 0 }, laurel[REF_MAX] = { 0 }, o[REF_MAX] = { 0 };
    double z[REF_MAX] = { 0 }, y[REF_MAX] = { 0 };
    ref_router(m, layer, r->x[GEMMA_ACTIVE], modality);
    ref_flat(m, layer, "altup.predict", GEMMA_STREAMS * GEMMA_STREAMS, GEMMA_STREAMS, INFINITY, modality, c);
    for (size_t i = 0; i < GEMMA_STREAMS; i++)
        for (size_t t = 0; t < d; t++) {
            p[i][t] = r->x[i][t];
            for (size_t j = 0; j < GEMMA_STREAMS; j++)
                p[i][t] += c[GEMMA_STREAMS * i + j] * r->x[j][t];
        }
    ref_layer_rms(m, layer, "attn_norm.weight", d, p[GEMMA_ACTIVE], n);
    ref_layer_linear(m, layer, "laurel.left", GEMMA_RANK, d, n, left);
    ref_layer_linear(m, layer, "laurel.right", d, GEMMA_RANK, left, laurel);
    ref_layer_rms(m, layer, "laurel.norm.weight", d, laurel, laurel);
    ref_attention(r, layer, heads, n, o);
    ref_layer_rms(m, layer, "attn_post_norm.weight", d, o, o);
    for (size_t t = 0; t < d; t++)
        z[t] = (p[GEMMA_ACTIVE][t] + o[t] + n[t] + laurel[t]) / sqrt(2);
    ref_ffn(m, layer, width, z, y);
    for (size_t t = 0; t < d; t++)
        z[t] += y[t];
    const double clip = m->config.gemma3n.coef_clip > 0 ? (double)m->config.gemma3n.coef_clip : INFINITY;
    ref_router(m, layer, z, modality);
    ref_flat(m, layer, "altup.correct", GEMMA_STREAMS, GEMMA_STREAMS, clip, modality, c);
    for (size_t i = 0; i < GEMMA_STREAMS; i++)
        for (size_t t = 0; t < d; t++)
            r->x[i][t] = p[i][t] + (c[i] + 1) * (z[t] - p[GEMMA_ACTIVE][t]);
    double s[REF_MAX], g[GEMMA_PLE], added[REF_MAX];
    char name[64];
    ref_name(name, layer, "altup.correct_scale");
    for (size_t t = 0; t < d; t++)
        s[t] = r->x[GEMMA_ACTIVE][t] * (m->config.gemma3n.correct_scale ? (double)gemma_weight(m, name, 0, t) : 1);
    ref_layer_linear(m, layer, "ple.gate", GEMMA_PLE, d, s, g);
    for (size_t i = 0; i < GEMMA_PLE; i++)
        g[i] = ref_gelu(g[i]) * r->ple[layer][i];
    ref_layer_linear(m, layer, "ple.out", d, GEMMA_PLE, g, added);
    ref_layer_rms(m, layer, "ple.post_norm.weight", d, added, added);
    for (size_t i = 1; i < GEMMA_STREAMS; i++)
        for (size_t t = 0; t < d; t++)
            r->x[i][t] += added[t];
}

static inline void ref_output(reference *r)
{
    const gemma *m = r->m;
    const size_t d = m->config.d_model;
    const double m0 = sqrt(ref_mean_square(d, r->x[0])), cap = (double)m->config.logit_softcap;
    double mean[REF_MAX], c[REF_MAX];
    char name[64];
    memcpy(mean, r->x[0], sizeof mean);
    for (uint32_t k = 1; k < GEMMA_STREAMS; k++) {
        snprintf(name, sizeof name, "altup.unembed.%u", k - 1);
        ref_linear(m, name, d, d, r->x[k], c);
        const double factor = m0 / sqrt(fmax(ref_mean_square(d, c), 1e-5));
        for (size_t t = 0; t < d; t++)
            mean[t] += c[t] * factor;
    }
    for (size_t t = 0; t < d; t++)
        mean[t] /= GEMMA_STREAMS;
    ref_rms(m, "final_norm.weight", d, mean, r->hidden);
    ref_linear(m, "embed", m->config.n_vocab, d, r->hidden, r->logits);
    for (size_t i = 0; i < m->config.n_vocab && cap > 0; i++)
        r->logits[i] = cap * tanh(r->logits[i] / cap);
}

/* The next token, through a view. */
static inline void ref_step(reference *r, const widths *view, int32_t token, const float *embedding)
{
    ref_input(r, token, embedding);
    for (uint32_t layer = 0; layer < r->m->config.n_layer; layer++)
        if (view->ffn[layer] != 0) ref_layer(r, layer, view->ffn[layer], view->heads[layer]);
    ref_output(r);
    r->position++;
}

#endif
