/* gemma3n_fixture.h - small random models of the gemma3n family, whole or cut to a view, as .mf files. A weight is a
 * function of its name, in the whole model, and of its place. */
#ifndef GEMMA3N_FIXTURE_H
#define GEMMA3N_FIXTURE_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "quantize.h"
#include "run_model.h"

enum { GEMMA_LAYERS = 8, GEMMA_PLE = 32, GEMMA_RANK = 32, GEMMA_STREAMS = 4, GEMMA_ACTIVE = 0 };

typedef struct gemma {
    mfi_config config;
    uint32_t layer_of[GEMMA_LAYERS]; /* which layer of the whole model this one was */
    mfk_type type;                   /* of matrices and tables; 0: by their names, one of all */
    const mfi_config *claimed;       /* what the file says instead of `config`, or NULL */
    const widths *poison;            /* every weight that this view does not use is NaN; NULL: none is */
} gemma;

static const mf_allocator *gemma_allocator(void)
{
    static mf_allocator c_library;
    c_library = mfi_allocator(NULL);
    return &c_library;
}

static inline void gemma_alloc(gemma *m, uint32_t n_layer, uint32_t n_granularity)
{
    m->config.n_layer = n_layer;
    m->config.n_granularity = n_granularity;
    if (mfi_config_alloc(&m->config, gemma_allocator(), NULL) != MF_OK) abort();
}

static inline void gemma_free(gemma *m)
{
    mfi_config_free(&m->config, gemma_allocator());
}

/* Layers 0 to 3 own keys and values; 0 and 1 are read by no other. Odd layers see everything. */
static inline gemma gemma_model(mfk_type type)
{
    static const uint32_t wide[] = { 96, 128, 160, 96, 192, 128, 64, 96 }, narrow[] = { 32, 96, 64, 96, 0, 0, 32, 64 };
    static const float sparsity[] = { 1.6448536f, 0.3f, 0, 0, 0.7f, 0, 0, 0 };
    gemma m = { .type = type };
    mfi_config *c = &m.config;
    *c = (mfi_config){ .family = MFI_FAMILY_GEMMA3N,
                       .d_model = 64,
                       .d_head = 32,
                       .n_vocab = 84,
                       .max_positions = 200,
                       .head_group = 2,
                       .n_head = 4,
                       .d_ff = 192,
                       .norm_eps = 1e-6f,
                       .activation = MFK_GELU_TANH,
                       .rope_theta = 1e4,
                       .embed_scale = 8,
                       .attention_scale = 1,
                       .tied = true,
                       .logit_softcap = 6,
                       .gemma3n = { GEMMA_STREAMS, GEMMA_ACTIVE, GEMMA_RANK, GEMMA_PLE, 70, 0.2f, true, 100 },
                       .bos_token = 2,
                       .eos_token = 1 };
    gemma_alloc(&m, GEMMA_LAYERS, 2);
    snprintf(c->granularity[0].name, sizeof c->granularity[0].name, "S");
    snprintf(c->granularity[1].name, sizeof c->granularity[1].name, "XL");
    for (uint32_t l = 0; l < GEMMA_LAYERS; l++) {
        m.layer_of[l] = l;
        c->granularity[0].ffn[l] = narrow[l];
        c->granularity[0].heads[l] = narrow[l] == 0 ? 0 : l == 6 ? 3 : 4;
        c->granularity[1].ffn[l] = wide[l];
        c->granularity[1].heads[l] = 4;
        c->may_skip[l] = l != 2 && l != 3;
        c->window[l] = l % 2 == 0 ? 3 : 0;
        c->kv_layer[l] = l < 4 ? l : 2 + l % 2;
        c->sparsity[l] = sparsity[l];
    }
    return m;
}

/* The model cut down to a view. */
static inline gemma gemma_slice(const gemma *whole, const widths *view)
{
    gemma m = { .type = whole->type, .config = whole->config };
    uint32_t n = 0, index_of[GEMMA_LAYERS] = { 0 };
    for (uint32_t l = 0; l < view->n_layer; l++)
        n += view->ffn[l] != 0;
    gemma_alloc(&m, n, 1);
    mfi_config *c = &m.config;
    snprintf(c->granularity[0].name, sizeof c->granularity[0].name, "only");
    c->d_ff = c->n_head = n = 0;
    for (uint32_t l = 0; l < view->n_layer; l++) {
        if (view->ffn[l] == 0) continue;
        index_of[l] = n;
        m.layer_of[n] = l;
        c->granularity[0].ffn[n] = view->ffn[l];
        c->granularity[0].heads[n] = view->heads[l];
        c->d_ff = view->ffn[l] > c->d_ff ? view->ffn[l] : c->d_ff;
        c->n_head = view->heads[l] > c->n_head ? view->heads[l] : c->n_head;
        c->window[n] = whole->config.window[l];
        c->kv_layer[n] = index_of[whole->config.kv_layer[l]];
        c->sparsity[n++] = whole->config.sparsity[l];
    }
    return m;
}

/* ---- Weights ---- */

static inline bool gemma_outside(const gemma *m, uint32_t layer, const char *rest, size_t row, size_t column)
{
    const widths *view = m->poison;
    const size_t d_head = m->config.d_head, heads = view->heads[layer];
    if (view->ffn[layer] == 0) return true;
    if (strcmp(rest, "attn.q") == 0) return row >= heads * d_head;
    if (strcmp(rest, "attn.o") == 0) return column >= heads * d_head;
    if (strcmp(rest, "attn.k") == 0 || strcmp(rest, "attn.v") == 0) return row >= (heads + 1) / 2 * d_head;
    if (strcmp(rest, "ffn.down") == 0) return column >= view->ffn[layer];
    return strncmp(rest, "ffn.", 4) == 0 && strstr(rest, "norm") == NULL && row >= view->ffn[layer];
}

/* What a name says of its weights. */
typedef struct gemma_tensor {
    const gemma *m;
    uint64_t hash;
    unsigned layer; /* of the whole model */
    bool of_layer, of_layers;
    char rest[64]; /* the name without its layer */
    float base, scale;
} gemma_tensor;

static inline gemma_tensor gemma_find(const gemma *m, const char *name)
{
    gemma_tensor t = { .m = m, .of_layers = strcmp(name, "ple.table") == 0, .scale = 0.2f };
    snprintf(t.rest, sizeof t.rest, "%s", name);
    t.of_layer = sscanf(name, "layers.%u.%63s", &t.layer, t.rest) == 2;
    if (t.of_layer) t.layer = m->layer_of[t.layer];
    for (const char *c = t.rest; *c != '\0'; c++)
        t.hash = (t.hash ^ (unsigned char)*c) * 1099511628211u;
    if (strstr(name, "norm.weight") || strstr(name, "correct_scale")) {
        t.base = 1;
        t.scale = 0.3f;
    } else if (strcmp(name, "embed") == 0 || strstr(name, "altup.router")) {
        t.scale = 1;
    } else if (strstr(name, "altup.p") || strstr(name, "altup.c")) {
        t.scale = 0.4f;
    }
    return t;
}

static inline float gemma_element(const gemma_tensor *t, size_t row, size_t column)
{
    unsigned layer = t->layer;
    if (t->of_layers) {
        layer = t->m->layer_of[column / GEMMA_PLE];
        column = layer * GEMMA_PLE + column % GEMMA_PLE;
    }
    if (t->m->poison != NULL && (t->of_layer || t->of_layers) && gemma_outside(t->m, layer, t->rest, row, column))
        return NAN;
    uint64_t hash = (t->hash ^ (layer + 1) * 0xd6e8feb86659fd93u ^ row * 65537 ^ column) * 0x9e3779b97f4a7c15u;
    hash = (hash ^ hash >> 29) * 0xbf58476d1ce4e5b9u;
    return t->base + t->scale * ((float)(int32_t)(hash >> 32) * 0x1p-31f);
}

/* Element (row, column) of `name`; of vectors (0, i). */
static inline float gemma_weight(const gemma *m, const char *name, size_t row, size_t column)
{
    const gemma_tensor t = gemma_find(m, name);
    return gemma_element(&t, row, column);
}

/* ---- The file ---- */

typedef struct gemma_writer {
    const gemma *m;
    mfi_writer *writer;
    uint32_t region;
} gemma_writer;

/* A matrix has one type in all layers and shells, so that a cut file has it too. Where they are mixed, products of one
 * input have some that want it quantized (attn.k is Q4, attn.q F32), and so have gate_up (Q8) and down (F16). */
static inline mfk_type gemma_type(const gemma *m, const char *name)
{
    static const mfk_type types[] = { MFK_F32, MFK_BF16, MFK_F16, MFK_Q8, MFK_Q4 };
    uint32_t sum = 0;
    for (const char *c = name; *c != '\0'; c++)
        sum += *c >= 'a' ? (unsigned char)*c : 0u;
    return m->type != 0 ? m->type : types[(sum + 2) % 5];
}

static inline void gemma_declare(gemma_writer *w, mfi_tensor_kind kind, uint32_t shell, uint64_t n, uint64_t k,
                                 uint64_t matrices, const char *name)
{
    mfi_tensor tensor = { .name = name, .kind = kind, .shell = shell, .region = w->region, .n = n, .k = k };
    tensor.type = kind == MFI_PLAIN ? MFK_F32 : gemma_type(w->m, name);
    if (kind == MFI_PANEL) tensor.panels = matrices * ((n + 15) / 16);
    mfi_writer_tensor(w->writer, &tensor);
}

static inline void gemma_declare_of(gemma_writer *w, mfi_tensor_kind kind, uint32_t layer, const char *rest, uint64_t n,
                                    uint64_t k)
{
    char name[64];
    snprintf(name, sizeof name, "layers.%u.%s", layer, rest);
    gemma_declare(w, kind, 0, n, k, 1, name);
}

static inline uint32_t gemma_bound(const gemma *m, uint32_t shells, uint32_t layer)
{
    return shells == 0 ? 0 : m->config.granularity[shells - 1].ffn[layer];
}

static inline void gemma_declare_ffn(gemma_writer *w, uint32_t shell, uint32_t layer)
{
    char name[64];
    const uint32_t width = gemma_bound(w->m, shell + 1, layer) - gemma_bound(w->m, shell, layer);
    if (width == 0) return;
    snprintf(name, sizeof name, "layers.%u.ffn.gate_up", layer);
    gemma_declare(w, MFI_PANEL, shell, width, w->m->config.d_model, 2, name);
    snprintf(name, sizeof name, "layers.%u.ffn.down", layer);
    gemma_declare(w, MFI_PANEL, shell, w->m->config.d_model, width, 1, name);
}

static inline void gemma_declare_layer(gemma_writer *w, uint32_t layer)
{
    static const char *const norms[] = { "attn_norm.weight",     "attn_post_norm.weight",    "ffn_norm.weight",
                                         "ffn_post_norm.weight", "altup.router_norm.weight", "laurel.norm.weight",
                                         "ple.post_norm.weight" };
    const mfi_config *c = &w->m->config;
    const uint64_t d = c->d_model, heads = c->granularity[c->n_granularity - 1].heads[layer];
    const uint64_t q = heads * c->d_head, kv = mfi_kv_heads((uint32_t)heads, c->head_group) * c->d_head;
    for (size_t i = 0; i < sizeof norms / sizeof *norms; i++)
        gemma_declare_of(w, MFI_PLAIN, layer, norms[i], d, 1);
    gemma_declare_of(w, MFI_PLAIN, layer, "attn.q_norm.weight", c->d_head, 1);
    gemma_declare_of(w, MFI_PLAIN, layer, "altup.router", GEMMA_STREAMS * d, 1);
    gemma_declare_of(w, MFI_PLAIN, layer, "altup.predict", GEMMA_STREAMS * GEMMA_STREAMS * GEMMA_STREAMS, 1);
    gemma_declare_of(w, MFI_PLAIN, layer, "altup.correct", GEMMA_STREAMS * GEMMA_STREAMS, 1);
    if (c->gemma3n.correct_scale) gemma_declare_of(w, MFI_PLAIN, layer, "altup.correct_scale", d, 1);
    gemma_declare_of(w, MFI_PANEL, layer, "ple.project", GEMMA_PLE, d);
    gemma_declare_of(w, MFI_PANEL, layer, "ple.gate", GEMMA_PLE, d);
    gemma_declare_of(w, MFI_PANEL, layer, "ple.out", d, GEMMA_PLE);
    gemma_declare_of(w, MFI_PANEL, layer, "laurel.left", GEMMA_RANK, d);
    gemma_declare_of(w, MFI_PANEL, layer, "laurel.right", d, GEMMA_RANK);
    gemma_declare_of(w, MFI_PANEL, layer, "attn.q", q, d);
    gemma_declare_of(w, MFI_PANEL, layer, "attn.o", d, q);
    gemma_declare_ffn(w, 0, layer);
    if (c->kv_layer[layer] != layer) return;
    gemma_declare_of(w, MFI_PLAIN, layer, "attn.k_norm.weight", c->d_head, 1);
    gemma_declare_of(w, MFI_PANEL, layer, "attn.k", kv, d);
    gemma_declare_of(w, MFI_PANEL, layer, "attn.v", kv, d);
}

static inline void gemma_declare_all(gemma_writer *w)
{
    const mfi_config *c = &w->m->config;
    char name[64];
    mfi_config_declare(w->m->claimed != NULL ? w->m->claimed : c, w->writer);
    mfi_writer_region(w->writer, MFI_REGION_BASE, 0, MFI_RAW, &w->region);
    gemma_declare(w, MFI_PLAIN, 0, c->d_head / 2, 1, 0, "rope.freqs");
    gemma_declare(w, MFI_PLAIN, 0, c->d_head / 2, 1, 0, "rope.freqs_local");
    gemma_declare(w, MFI_PLAIN, 0, GEMMA_PLE, 1, 0, "ple.norm.weight");
    gemma_declare(w, MFI_PLAIN, 0, c->d_model, 1, 0, "final_norm.weight");
    gemma_declare(w, MFI_PANEL, 0, c->n_vocab, c->d_model, 1, "embed");
    for (uint32_t k = 0; k + 1 < GEMMA_STREAMS; k++) {
        snprintf(name, sizeof name, "altup.project.%u", k);
        gemma_declare(w, MFI_PANEL, 0, c->d_model, c->d_model, 1, name);
        snprintf(name, sizeof name, "altup.unembed.%u", k);
        gemma_declare(w, MFI_PANEL, 0, c->d_model, c->d_model, 1, name);
    }
    for (uint32_t layer = 0; layer < c->n_layer; layer++)
        gemma_declare_layer(w, layer);
    mfi_writer_region(w->writer, MFI_REGION_TABLES, 0, MFI_RAW, &w->region);
    gemma_declare(w, MFI_TABLE, 0, c->gemma3n.n_vocab_ple, (uint64_t)c->n_layer * GEMMA_PLE, 0, "ple.table");
    for (uint32_t shell = 1; shell < c->n_granularity; shell++) {
        mfi_writer_region(w->writer, MFI_REGION_SHELL, shell, MFI_RAW, &w->region);
        for (uint32_t layer = 0; layer < c->n_layer; layer++)
            gemma_declare_ffn(w, shell, layer);
    }
}

/* Rows from `row` and columns from `column` of `name`, as many as the tensor has, panels `stride` bytes apart. */
static inline void gemma_fill_panels(const gemma *m, const mfi_tensor *tensor, const char *name, size_t row,
                                     size_t column, unsigned char *panels, size_t stride)
{
    const size_t n = (size_t)tensor->n, k = (size_t)tensor->k;
    float *values = malloc(n * k * sizeof *values);
    if (values == NULL) abort();
    const gemma_tensor weights = gemma_find(m, name);
    for (size_t i = 0; i < n * k; i++)
        values[i] = gemma_element(&weights, row + i / k, column + i % k);
    mfk_pack(tensor->type, mfk_q4_table, n, k, values, k, panels, stride);
    free(values);
}

static inline void gemma_fill_table(const gemma *m, const mfi_tensor *tensor, unsigned char *body)
{
    float values[GEMMA_LAYERS * GEMMA_PLE];
    const gemma_tensor weights = gemma_find(m, tensor->name);
    for (size_t row = 0; row < tensor->n; row++, body += mfk_row_bytes(tensor->type, (size_t)tensor->k)) {
        for (size_t i = 0; i < tensor->k; i++)
            values[i] = gemma_element(&weights, row, i);
        mfk_pack_table_row(tensor->type, mfk_q4_table, (size_t)tensor->k, values, body);
    }
}

static inline void gemma_fill_vector(const gemma *m, const mfi_tensor *tensor, float *values)
{
    const bool local = strcmp(tensor->name, "rope.freqs_local") == 0;
    const double theta = local ? m->config.gemma3n.rope_theta_local : m->config.rope_theta;
    for (size_t i = 0; i < tensor->n; i++)
        values[i] = strncmp(tensor->name, "rope", 4) == 0
                        ? (float)pow(theta, -2.0 * (double)i / (double)m->config.d_head)
                        : gemma_weight(m, tensor->name, 0, i);
}

static inline mf_status gemma_fill_bytes(void *user, const mfi_tensor *tensor, void *bytes, mf_error *error)
{
    const gemma *m = user;
    unsigned layer = 0;
    char part[32] = "", name[64];
    (void)error;
    memset(bytes, 0, (size_t)tensor->bytes);
    if (tensor->type == MFK_Q4) memcpy(bytes, mfk_q4_table, MFK_Q4_TABLE_BYTES);
    unsigned char *body = (unsigned char *)bytes + mfk_head_bytes(tensor->type);
    const size_t panel = mfk_panel_bytes(tensor->type, (size_t)tensor->k);
    const bool ffn = sscanf(tensor->name, "layers.%u.ffn.%31s", &layer, part) == 2;
    const size_t first = ffn ? gemma_bound(m, tensor->shell, layer) : 0;
    if (tensor->kind == MFI_PLAIN) {
        gemma_fill_vector(m, tensor, (float *)bytes);
    } else if (tensor->kind == MFI_TABLE) {
        gemma_fill_table(m, tensor, body);
    } else if (mfi_tensor_matrices(tensor) == 2) {
        snprintf(name, sizeof name, "layers.%u.ffn.gate", layer);
        gemma_fill_panels(m, tensor, name, first, 0, body, 2 * panel);
        snprintf(name, sizeof name, "layers.%u.ffn.up", layer);
        gemma_fill_panels(m, tensor, name, first, 0, body + panel, 2 * panel);
    } else {
        gemma_fill_panels(m, tensor, tensor->name, 0, first, body, panel);
    }
    return MF_OK;
}

static inline mf_status gemma_fill(void *user, const mfi_tensor *tensor, mfi_writing *to, mf_error *error)
{
    void *bytes = calloc(1, (size_t)tensor->bytes);
    if (!bytes) abort();
    mf_status status = gemma_fill_bytes(user, tensor, bytes, error);
    if (status == MF_OK) status = mfi_writer_put(to, bytes, (size_t)tensor->bytes);
    free(bytes);
    return status;
}

static inline model_file gemma_file(const gemma *m)
{
    temporary_path path = new_path();
    mf_error error = MF_ERROR_INIT;
    gemma_writer w = { .m = m };
    mfi_writer_create(&w.writer, gemma_allocator(), path.text, &error);
    gemma_declare_all(&w);
    if (mfi_writer_finish(w.writer, gemma_fill, (void *)(uintptr_t)m, &error) != MF_OK) {
        fprintf(stderr, "%s\n", error.detail);
        abort();
    }
    mfi_writer_close(w.writer);
    model_file file = read_file(path.text);
    remove(path.text);
    return file;
}

#endif
