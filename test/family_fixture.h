/* family_fixture.h - files of decoders and ViTs with everything that a configuration can ask for, and what such a model
 * computes by its equations (docs/families.md), row by row in double precision. The weights are a random_model's. */
#ifndef FAMILY_FIXTURE_H
#define FAMILY_FIXTURE_H

#include <math.h>

#include "container_fixture.h"
#include "pack.h"
#include "quantize.h"
#include "run_model.h"

/* ---- The file ---- */

static inline double rotation_frequency(const mfi_config *c, uint32_t j)
{
    const double f = pow(c->rope_theta, -2.0 * j / c->d_head), wavelength = 2 * acos(-1.0) / f;
    const mfi_rope_scaling *s = &c->rope_scaling;
    if (s->kind == MFI_ROPE_LINEAR) return f / s->factor;
    if (s->kind == MFI_ROPE_PLAIN || wavelength < s->original_positions / s->high_freq_factor) return f;
    if (wavelength > s->original_positions / s->low_freq_factor) return f / s->factor;
    const double share =
        (s->original_positions / wavelength - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
    return (1 - share) * f / s->factor + share * f;
}

typedef struct family_writer {
    const random_model *model;
    mfi_weights weights;
    mfi_writer *writer;
    mfk_type type;
    uint32_t region;
} family_writer;

/* Units of the shells before `shell`. */
static inline uint32_t family_shell_begin(const mfi_config *c, uint32_t shell, uint32_t layer)
{
    return shell == 0 ? 0 : c->granularity[shell - 1].ffn[layer];
}

static inline void family_pack(const family_writer *f, const mfi_tensor *t, const char *name, size_t row, size_t column,
                               unsigned char *panels, size_t stride)
{
    float *rows = malloc((size_t)(t->n * t->k) * sizeof *rows);
    f->weights.read(f->weights.user, name, row, (size_t)t->n, column, (size_t)t->k, rows, NULL);
    mfk_pack(t->type, mfk_q4_table, (size_t)t->n, (size_t)t->k, rows, (size_t)t->k, panels, stride);
    free(rows);
}

static inline mf_status family_fill_bytes(void *user, const mfi_tensor *t, void *bytes, mf_error *error)
{
    const family_writer *f = user;
    const mfi_config *c = &f->model->config;
    const size_t panel = t->kind == MFI_PANEL ? mfk_panel_bytes(t->type, (size_t)t->k) : 0;
    unsigned char *body = (unsigned char *)bytes + mfk_head_bytes(t->type);
    unsigned layer = 0;
    char part[16] = "", name[64];
    if (strcmp(t->name, "rope.freqs") == 0) {
        for (uint32_t j = 0; j < c->d_head / 2; j++)
            ((float *)bytes)[j] = (float)rotation_frequency(c, j);
        return MF_OK;
    }
    if (t->kind == MFI_PLAIN) return f->weights.read(f->weights.user, t->name, 0, 1, 0, (size_t)t->n, bytes, error);
    memset(bytes, 0, mfk_head_bytes(t->type));
    if (mfk_head_bytes(t->type) > 0) memcpy(bytes, mfk_q4_table, MFK_Q4_TABLE_BYTES);
    if (t->kind == MFI_TABLE) {
        float row[1024];
        for (size_t i = 0; i < t->n; i++, body += mfk_row_bytes(t->type, (size_t)t->k)) {
            f->weights.read(f->weights.user, t->name, i, 1, 0, (size_t)t->k, row, error);
            mfk_pack_table_row(t->type, mfk_q4_table, (size_t)t->k, row, body);
        }
        return MF_OK;
    }
    sscanf(t->name, "layers.%u.ffn.%15s", &layer, part);
    const size_t first = part[0] ? family_shell_begin(c, t->shell, layer) : 0;
    if (strcmp(part, "gate_up") == 0) {
        snprintf(name, sizeof name, "layers.%u.ffn.gate", layer);
        family_pack(f, t, name, first, 0, body, 2 * panel);
        snprintf(name, sizeof name, "layers.%u.ffn.up", layer);
        family_pack(f, t, name, first, 0, body + panel, 2 * panel);
    } else if (strcmp(part, "down") == 0) {
        family_pack(f, t, t->name, 0, first, body, panel);
    } else {
        family_pack(f, t, t->name, first, 0, body, panel);
    }
    return MF_OK;
}

static inline mf_status family_fill(void *user, const mfi_tensor *t, mfi_writing *to, mf_error *error)
{
    void *bytes = calloc(1, (size_t)t->bytes);
    if (!bytes) abort();
    mf_status status = family_fill_bytes(user, t, bytes, error);
    if (status == MF_OK) status = mfi_writer_put(to, bytes, (size_t)t->bytes);
    free(bytes);
    return status;
}

static inline void family_vector(const family_writer *f, uint64_t n, const char *format, uint32_t layer)
{
    char name[64];
    snprintf(name, sizeof name, format, layer);
    fixture_tensor(f->writer, f->region, name, MFI_PLAIN, MFK_F32, 0, n, 1, 0);
}

/* `biased`: with biases of its outputs. */
static inline void family_matrix(const family_writer *f, uint64_t n, uint64_t k, bool biased, const char *format,
                                 uint32_t layer)
{
    char name[64];
    snprintf(name, sizeof name, format, layer);
    fixture_tensor(f->writer, f->region, name, MFI_PANEL, f->type, 0, n, k, 1);
    if (!biased) return;
    snprintf(name + strlen(name), sizeof name - strlen(name), ".bias");
    fixture_tensor(f->writer, f->region, name, MFI_PLAIN, MFK_F32, 0, n, 1, 0);
}

static inline void family_ffn(const family_writer *f, uint32_t shell, uint32_t layer)
{
    const mfi_config *c = &f->model->config;
    const bool gated = c->ffn == MFI_FFN_GATED;
    const uint32_t width = c->granularity[shell].ffn[layer] - family_shell_begin(c, shell, layer);
    char name[64];
    if (width == 0) return;
    snprintf(name, sizeof name, "layers.%u.ffn.%s", layer, gated ? "gate_up" : "up");
    fixture_tensor(f->writer, f->region, name, MFI_PANEL, f->type, shell, width, c->d_model, gated ? 2 : 1);
    snprintf(name, sizeof name, "layers.%u.ffn.down", layer);
    fixture_tensor(f->writer, f->region, name, MFI_PANEL, f->type, shell, c->d_model, width, 1);
}

static inline void family_norm(const family_writer *f, const char *format, uint32_t layer)
{
    char name[64];
    snprintf(name, sizeof name, "%s.weight", format);
    family_vector(f, f->model->config.d_model, name, layer);
    snprintf(name, sizeof name, "%s.bias", format);
    if (f->model->config.norm == MFI_NORM_LAYER) family_vector(f, f->model->config.d_model, name, layer);
}

static inline void family_layer(const family_writer *f, uint32_t layer)
{
    const mfi_config *c = &f->model->config;
    const mfi_granularity *full = &c->granularity[c->n_granularity - 1];
    const uint32_t q = full->heads[layer] * c->d_head;
    const uint32_t kv = mfi_kv_heads(full->heads[layer], c->head_group) * c->d_head;
    family_norm(f, "layers.%u.attn_norm", layer);
    if (!c->parallel) family_norm(f, "layers.%u.ffn_norm", layer);
    family_matrix(f, q, c->d_model, c->attention_bias, "layers.%u.attn.q", layer);
    family_matrix(f, kv, c->d_model, c->attention_bias, "layers.%u.attn.k", layer);
    family_matrix(f, kv, c->d_model, c->attention_bias, "layers.%u.attn.v", layer);
    family_matrix(f, c->d_model, q, c->attention_bias, "layers.%u.attn.o", layer);
    family_ffn(f, 0, layer);
    if (c->ffn_bias && c->ffn == MFI_FFN_GATED) family_vector(f, full->ffn[layer], "layers.%u.ffn.gate.bias", layer);
    if (c->ffn_bias) family_vector(f, full->ffn[layer], "layers.%u.ffn.up.bias", layer);
    if (c->ffn_bias) family_vector(f, c->d_model, "layers.%u.ffn.down.bias", layer);
}

static inline void family_ends(const family_writer *f)
{
    const mfi_config *c = &f->model->config;
    const mfi_vit *v = &c->vit;
    family_norm(f, "final_norm", 0);
    if (c->family == MFI_FAMILY_VIT) {
        family_matrix(f, c->d_model, v->n_channel * v->patch_size * v->patch_size, false, "patch.project", 0);
        family_vector(f, c->d_model, "patch.bias", 0);
        family_vector(f, c->d_model, "class_token", 0);
        family_vector(f, (uint64_t)mfi_vit_rows(v) * c->d_model, "position", 0);
        if (v->n_class > 0) family_matrix(f, v->n_class, c->d_model, true, "classifier", 0);
        if (v->pooler) family_matrix(f, c->d_model, c->d_model, true, "pooler", 0);
        return;
    }
    if (c->rope_theta > 0) family_vector(f, c->d_head / 2, "rope.freqs", 0);
    family_matrix(f, c->n_vocab, c->d_model, false, c->tied ? "embed" : "output", 0);
}

/* In memory; freed by family_drop. */
static inline model_file family_file(const random_model *model, mfk_type type)
{
    const mf_allocator allocator = mfi_allocator(NULL);
    const mfi_config *c = &model->config;
    family_writer f = { .model = model, .weights = random_model_weights(model), .type = type };
    mf_error error = MF_ERROR_INIT;
    char *path = fixture_path();
    mfi_writer_create(&f.writer, &allocator, path, &error);
    mfi_config_declare(c, f.writer);
    mfi_writer_region(f.writer, MFI_REGION_BASE, 0, MFI_RAW, &f.region);
    family_ends(&f);
    for (uint32_t layer = 0; layer < c->n_layer; layer++)
        family_layer(&f, layer);
    if (c->family != MFI_FAMILY_VIT && !c->tied) {
        mfi_writer_region(f.writer, MFI_REGION_TABLES, 0, MFI_RAW, &f.region);
        fixture_tensor(f.writer, f.region, "embed", MFI_TABLE, f.type, 0, c->n_vocab, c->d_model, 0);
    }
    for (uint32_t shell = 1; shell < c->n_granularity; shell++) {
        bool empty = true;
        for (uint32_t layer = 0; layer < c->n_layer; layer++)
            empty = empty && c->granularity[shell].ffn[layer] == family_shell_begin(c, shell, layer);
        if (empty) continue;
        mfi_writer_region(f.writer, MFI_REGION_SHELL, shell, MFI_RAW, &f.region);
        for (uint32_t layer = 0; layer < c->n_layer; layer++)
            family_ffn(&f, shell, layer);
    }
    if (mfi_writer_finish(f.writer, family_fill, &f, &error) != MF_OK) {
        fprintf(stderr, "%s\n", error.detail);
        abort();
    }
    mfi_writer_close(f.writer);
    model_file file = { 0 };
    file.data = fixture_read(path, &file.bytes);
    fixture_remove(path);
    return file;
}

static inline void family_drop(model_file *file)
{
    free(file->data);
    *file = (model_file){ 0 };
}

/* ---- The equations ---- */

/* y[n] = W x (+ b), W the first n rows and k columns of `name`. */
typedef struct exact_matrix {
    size_t n, k;
    float *w, *bias;
} exact_matrix;

static inline exact_matrix exact_open(const random_model *model, size_t n, size_t k, bool biased, const char *format,
                                      uint32_t layer)
{
    const mfi_weights weights = random_model_weights(model);
    exact_matrix m = { n, k, malloc(n * k * sizeof(float)), calloc(n, sizeof(float)) };
    char name[64];
    snprintf(name, sizeof name, format, layer);
    weights.read(weights.user, name, 0, n, 0, k, m.w, NULL);
    snprintf(name + strlen(name), sizeof name - strlen(name), ".bias");
    if (biased) weights.read(weights.user, name, 0, 1, 0, n, m.bias, NULL);
    return m;
}

static inline void exact_close(exact_matrix *m)
{
    free(m->w);
    free(m->bias);
}

static inline void exact_product(const exact_matrix *m, const double *x, double *y)
{
    for (size_t i = 0; i < m->n; i++) {
        y[i] = (double)m->bias[i];
        for (size_t j = 0; j < m->k; j++)
            y[i] += (double)m->w[i * m->k + j] * x[j];
    }
}

static inline void exact_norm(const random_model *model, const char *format, uint32_t layer, const double *x, double *y)
{
    const mfi_config *c = &model->config;
    const mfi_weights weights = random_model_weights(model);
    float *w = malloc(2 * c->d_model * sizeof *w), *b = w + c->d_model;
    char prefix[64], name[80];
    double mean = 0, square = 0;
    snprintf(prefix, sizeof prefix, format, layer);
    snprintf(name, sizeof name, "%s.weight", prefix);
    weights.read(weights.user, name, 0, 1, 0, c->d_model, w, NULL);
    snprintf(name, sizeof name, "%s.bias", prefix);
    weights.read(weights.user, name, 0, 1, 0, c->d_model, b, NULL);
    const bool centred = c->norm == MFI_NORM_LAYER;
    for (size_t i = 0; i < c->d_model && centred; i++)
        mean += x[i] / c->d_model;
    for (size_t i = 0; i < c->d_model; i++)
        square += (x[i] - mean) * (x[i] - mean) / c->d_model;
    for (size_t i = 0; i < c->d_model; i++)
        y[i] = (x[i] - mean) / sqrt(square + (double)c->norm_eps) * (double)w[i] + (centred ? (double)b[i] : 0);
    free(w);
}

static inline double exact_act(mfk_activation activation, double x)
{
    switch (activation) {
    case MFK_SILU:
        return x / (1 + exp(-x));
    case MFK_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case MFK_GELU_ERF:
        return 0.5 * x * (1 + erf(x * 0.7071067811865476));
    case MFK_RELU:
        return x > 0 ? x : 0;
    default:
        return tanh(x);
    }
}

static inline void exact_rotate(const mfi_config *c, size_t position, double *head)
{
    const uint32_t half = c->d_head / 2;
    for (uint32_t j = 0; j < half; j++) {
        const double angle = (double)position * rotation_frequency(c, j), a = head[j], b = head[j + half];
        head[j] = a * cos(angle) - b * sin(angle);
        head[j + half] = b * cos(angle) + a * sin(angle);
    }
}

/* One head of row i: o = attention of q over rows of k and v, which are `stride` apart. */
static inline void exact_attend(const mfi_config *c, uint32_t layer, double slope, size_t n, size_t i, const double *q,
                                const double *k, const double *v, size_t stride, double *o)
{
    const bool whole = c->family == MFI_FAMILY_VIT;
    const size_t window = c->window[layer], end = whole ? n : i + 1;
    const size_t begin = window != 0 && end > window ? end - window : 0;
    double *score = malloc(n * sizeof *score), most = -INFINITY, sum = 0;
    for (size_t j = begin; j < end; j++) {
        score[j] = 0;
        for (size_t d = 0; d < c->d_head; d++)
            score[j] += q[d] * k[j * stride + d];
        score[j] = score[j] * (double)c->attention_scale - slope * ((double)i - (double)j);
        most = fmax(most, score[j]);
    }
    memset(o, 0, c->d_head * sizeof *o);
    for (size_t j = begin; j < end; j++) {
        const double e = exp(score[j] - most);
        sum += e;
        for (size_t d = 0; d < c->d_head; d++)
            o[d] += e * v[j * stride + d];
    }
    for (size_t d = 0; d < c->d_head; d++)
        o[d] /= sum;
    free(score);
}

/* y [n][d_model]: what the attention of layer `layer` with its first `heads` heads adds to x. */
static inline void exact_attention(const random_model *model, uint32_t layer, uint32_t heads, size_t n, const double *x,
                                   double *y)
{
    const mfi_config *c = &model->config;
    const size_t d = c->d_model, q_width = heads * c->d_head;
    const size_t kv_width = mfi_kv_heads(heads, c->head_group) * c->d_head;
    const uint32_t all_heads = c->granularity[c->n_granularity - 1].heads[layer];
    exact_matrix q = exact_open(model, q_width, d, c->attention_bias, "layers.%u.attn.q", layer);
    exact_matrix k = exact_open(model, kv_width, d, c->attention_bias, "layers.%u.attn.k", layer);
    exact_matrix v = exact_open(model, kv_width, d, c->attention_bias, "layers.%u.attn.v", layer);
    exact_matrix o = exact_open(model, d, q_width, c->attention_bias, "layers.%u.attn.o", layer);
    double *in = malloc(d * sizeof *in), *qs = malloc(n * q_width * sizeof *qs), *out = malloc(q_width * sizeof *out);
    double *ks = malloc(n * kv_width * sizeof *ks), *vs = malloc(n * kv_width * sizeof *vs);
    for (size_t i = 0; i < n; i++) {
        exact_norm(model, "layers.%u.attn_norm", layer, x + i * d, in);
        exact_product(&q, in, qs + i * q_width);
        exact_product(&k, in, ks + i * kv_width);
        exact_product(&v, in, vs + i * kv_width);
        for (size_t h = 0; h < q_width && c->rope_theta > 0; h += c->d_head)
            exact_rotate(c, i, qs + i * q_width + h);
        for (size_t h = 0; h < kv_width && c->rope_theta > 0; h += c->d_head)
            exact_rotate(c, i, ks + i * kv_width + h);
    }
    for (size_t i = 0; i < n; i++) {
        for (uint32_t h = 0; h < heads; h++) {
            const double slope = c->alibi_max > 0 ? exp2(-(double)c->alibi_max * (h + 1) / all_heads) : 0;
            const size_t kv = h / c->head_group * c->d_head;
            exact_attend(c, layer, slope, n, i, qs + i * q_width + h * c->d_head, ks + kv, vs + kv, kv_width,
                         out + h * c->d_head);
        }
        exact_product(&o, out, y + i * d);
    }
    exact_close(&q);
    exact_close(&k);
    exact_close(&v);
    exact_close(&o);
    free(in);
    free(qs);
    free(out);
    free(ks);
    free(vs);
}

static inline void exact_ffn(const random_model *model, uint32_t layer, uint32_t width, size_t n, const double *x,
                             double *y)
{
    const mfi_config *c = &model->config;
    const size_t d = c->d_model;
    exact_matrix gate = exact_open(model, width, d, c->ffn_bias, "layers.%u.ffn.gate", layer);
    exact_matrix up = exact_open(model, width, d, c->ffn_bias, "layers.%u.ffn.up", layer);
    exact_matrix down = exact_open(model, d, width, c->ffn_bias, "layers.%u.ffn.down", layer);
    double *in = malloc(d * sizeof *in), *g = malloc(width * sizeof *g), *u = malloc(width * sizeof *u);
    for (size_t i = 0; i < n; i++) {
        exact_norm(model, c->parallel ? "layers.%u.attn_norm" : "layers.%u.ffn_norm", layer, x + i * d, in);
        exact_product(&gate, in, g);
        exact_product(&up, in, u);
        for (size_t j = 0; j < width; j++)
            u[j] = c->ffn == MFI_FFN_GATED ? exact_act(c->activation, g[j]) * u[j] : exact_act(c->activation, u[j]);
        exact_product(&down, u, y + i * d);
    }
    exact_close(&gate);
    exact_close(&up);
    exact_close(&down);
    free(in);
    free(g);
    free(u);
}

/* The blocks of a view, x [n][d_model] in place. */
static inline void exact_blocks(const random_model *model, const widths *view, size_t n, double *x)
{
    const mfi_config *c = &model->config;
    const size_t all = n * c->d_model;
    double *attention = malloc(all * sizeof *attention), *ffn = malloc(all * sizeof *ffn);
    for (uint32_t layer = 0; layer < c->n_layer; layer++) {
        if (view->ffn[layer] == 0) continue;
        exact_attention(model, layer, view->heads[layer], n, x, attention);
        if (c->parallel) exact_ffn(model, layer, view->ffn[layer], n, x, ffn);
        for (size_t i = 0; i < all; i++)
            x[i] += attention[i];
        if (!c->parallel) exact_ffn(model, layer, view->ffn[layer], n, x, ffn);
        for (size_t i = 0; i < all; i++)
            x[i] += ffn[i];
    }
    free(attention);
    free(ffn);
}

/* Whether got is want within what f32 leaves of either. */
static inline bool exact_near(float got, double want)
{
    return fabs((double)got - want) <= 3e-4 * (1 + fabs(want));
}

#endif
