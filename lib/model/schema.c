/* schema.c - the tensors of every family. */
#include "schema.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "defs.h"

typedef struct lister {
    const mfi_config *config;
    mfi_schema_visit visit;
    void *user;
    mfi_tensor_kind kind; /* only these now */
    uint32_t layer;
} lister;

static void emit(const lister *l, mfi_schema_tensor *tensor, const char *rest)
{
    if (tensor->kind != l->kind) return;
    tensor->layer = l->layer;
    if (l->layer < l->config->n_layer)
        snprintf(tensor->name, sizeof tensor->name, "layers.%u.%s", l->layer, rest);
    else
        snprintf(tensor->name, sizeof tensor->name, "%s", rest);
    if (tensor->n_matrix == 0) {
        tensor->n_matrix = 1;
        memcpy(tensor->matrix[0], tensor->name, sizeof tensor->name);
    }
    l->visit(l->user, tensor);
}

static void vector(const lister *l, const char *rest, uint64_t n, mfi_along_ffn along)
{
    mfi_schema_tensor tensor = { .kind = MFI_PLAIN, .role = MFI_N_ROLE, .n = n, .k = 1, .along = along };
    emit(l, &tensor, rest);
}

static void panel(const lister *l, const char *rest, uint64_t n, uint64_t k, mfi_along_ffn along)
{
    mfi_schema_tensor tensor = { .kind = MFI_PANEL, .role = mfi_role_of(rest), .n = n, .k = k, .along = along };
    emit(l, &tensor, rest);
}

static void table(const lister *l, const char *rest, uint64_t n, uint64_t k)
{
    mfi_schema_tensor tensor = { .kind = MFI_TABLE, .role = mfi_role_of(rest), .n = n, .k = k };
    emit(l, &tensor, rest);
}

static void norm_of(const lister *l, const char *rest, uint64_t n)
{
    char name[64];
    snprintf(name, sizeof name, "%s.weight", rest);
    vector(l, name, n, MFI_FFN_NOWHERE);
    snprintf(name, sizeof name, "%s.bias", rest);
    if (l->config->norm == MFI_NORM_LAYER) vector(l, name, n, MFI_FFN_NOWHERE);
}

static void norm(const lister *l, const char *rest)
{
    norm_of(l, rest, l->config->d_model);
}

/* ---- What layers of several families have ---- */

static void attention(const lister *l)
{
    const mfi_config *config = l->config;
    const uint32_t heads = config->granularity[config->n_granularity - 1].heads[l->layer];
    const uint64_t q = (uint64_t)heads * config->d_head;
    const uint64_t kv = (uint64_t)mfi_kv_heads(heads, config->head_group) * config->d_head;
    const bool owns = config->kv_layer[l->layer] == l->layer;
    const struct {
        const char *name, *bias;
        uint64_t n, k;
        bool there;
    } product[] = { { "attn.q", "attn.q.bias", q, config->d_model, true },
                    { "attn.k", "attn.k.bias", kv, config->d_model, owns },
                    { "attn.v", "attn.v.bias", kv, config->d_model, owns },
                    { "attn.o", "attn.o.bias", config->d_model, q, true } };
    for (size_t i = 0; i < MFI_COUNT(product); i++) {
        if (!product[i].there) continue;
        if (config->attention_bias) vector(l, product[i].bias, product[i].n, MFI_FFN_NOWHERE);
        panel(l, product[i].name, product[i].n, product[i].k, MFI_FFN_NOWHERE);
    }
}

static void gate_up(const lister *l, uint64_t width)
{
    mfi_schema_tensor tensor = { .kind = MFI_PANEL,
                                 .role = MFI_ROLE_FFN,
                                 .n = width,
                                 .k = l->config->d_model,
                                 .n_matrix = 2,
                                 .along = MFI_FFN_ALONG_N };
    snprintf(tensor.matrix[0], sizeof tensor.matrix[0], "layers.%u.ffn.gate", l->layer);
    snprintf(tensor.matrix[1], sizeof tensor.matrix[1], "layers.%u.ffn.up", l->layer);
    emit(l, &tensor, "ffn.gate_up");
}

static void ffn(const lister *l)
{
    const mfi_config *config = l->config;
    const bool gated = config->ffn == MFI_FFN_GATED;
    const uint64_t width = config->granularity[config->n_granularity - 1].ffn[l->layer];
    if (config->ffn_bias) {
        if (gated) vector(l, "ffn.gate.bias", width, MFI_FFN_ALONG_N);
        vector(l, "ffn.up.bias", width, MFI_FFN_ALONG_N);
        vector(l, "ffn.down.bias", config->d_model, MFI_FFN_NOWHERE);
    }
    if (gated)
        gate_up(l, width);
    else
        panel(l, "ffn.up", width, config->d_model, MFI_FFN_ALONG_N);
    panel(l, "ffn.down", config->d_model, width, MFI_FFN_ALONG_K);
}

static void token_embedding(const lister *l)
{
    const mfi_config *config = l->config;
    if (config->tied) {
        panel(l, "embed", config->n_vocab, config->d_model, MFI_FFN_NOWHERE);
    } else {
        table(l, "embed", config->n_vocab, config->d_model);
        panel(l, "output", config->n_vocab, config->d_model, MFI_FFN_NOWHERE);
    }
}

/* ---- Families: what is of no layer, then a layer ---- */

static void decoder_whole(const lister *l)
{
    norm(l, "final_norm");
    if (l->config->rope_theta != 0) vector(l, "rope.freqs", l->config->d_head / 2, MFI_FFN_NOWHERE);
    token_embedding(l);
}

static void decoder_layer(const lister *l)
{
    norm(l, "attn_norm");
    if (!l->config->parallel) norm(l, "ffn_norm");
    attention(l);
    ffn(l);
}

static void gemma3n_whole(const lister *l)
{
    const mfi_config *config = l->config;
    const mfi_gemma3n *g = &config->gemma3n;
    char name[32];
    norm(l, "final_norm");
    vector(l, "rope.freqs", config->d_head / 2, MFI_FFN_NOWHERE);
    vector(l, "rope.freqs_local", config->d_head / 2, MFI_FFN_NOWHERE);
    norm_of(l, "ple.norm", g->d_ple);
    token_embedding(l);
    table(l, "ple.table", g->n_vocab_ple, (uint64_t)config->n_layer * g->d_ple);
    for (uint32_t i = 0; i + 1 < g->n_stream; i++) {
        snprintf(name, sizeof name, "altup.project.%u", i);
        panel(l, name, config->d_model, config->d_model, MFI_FFN_NOWHERE);
        snprintf(name, sizeof name, "altup.unembed.%u", i);
        panel(l, name, config->d_model, config->d_model, MFI_FFN_NOWHERE);
    }
}

static void gemma3n_layer(const lister *l)
{
    const mfi_config *config = l->config;
    const mfi_gemma3n *g = &config->gemma3n;
    const uint64_t d_model = config->d_model, n_stream = g->n_stream;
    const char *const norms[] = { "attn_norm",   "attn_post_norm", "ffn_norm",         "ffn_post_norm",
                                  "laurel.norm", "ple.post_norm",  "altup.router_norm" };
    for (size_t i = 0; i < MFI_COUNT(norms); i++)
        norm(l, norms[i]);
    norm_of(l, "attn.q_norm", config->d_head);
    if (config->kv_layer[l->layer] == l->layer) norm_of(l, "attn.k_norm", config->d_head);
    vector(l, "altup.router", n_stream * d_model, MFI_FFN_NOWHERE);
    vector(l, "altup.predict", n_stream * n_stream * n_stream, MFI_FFN_NOWHERE);
    vector(l, "altup.correct", n_stream * n_stream, MFI_FFN_NOWHERE);
    if (g->correct_scale) vector(l, "altup.correct_scale", d_model, MFI_FFN_NOWHERE);
    panel(l, "ple.project", g->d_ple, d_model, MFI_FFN_NOWHERE);
    panel(l, "laurel.left", g->laurel_rank, d_model, MFI_FFN_NOWHERE);
    panel(l, "laurel.right", d_model, g->laurel_rank, MFI_FFN_NOWHERE);
    attention(l);
    ffn(l);
    panel(l, "ple.gate", g->d_ple, d_model, MFI_FFN_NOWHERE);
    panel(l, "ple.out", d_model, g->d_ple, MFI_FFN_NOWHERE);
}

static void vit_whole(const lister *l)
{
    const mfi_config *config = l->config;
    const mfi_vit *v = &config->vit;
    const uint64_t d_model = config->d_model, side = v->image_size / v->patch_size;
    norm(l, "final_norm");
    vector(l, "class_token", d_model, MFI_FFN_NOWHERE);
    vector(l, "position", (1 + side * side) * d_model, MFI_FFN_NOWHERE);
    vector(l, "patch.bias", d_model, MFI_FFN_NOWHERE);
    panel(l, "patch.project", d_model, (uint64_t)v->n_channel * v->patch_size * v->patch_size, MFI_FFN_NOWHERE);
    if (v->n_class > 0) {
        vector(l, "classifier.bias", v->n_class, MFI_FFN_NOWHERE);
        panel(l, "classifier", v->n_class, d_model, MFI_FFN_NOWHERE);
    }
    if (v->pooler) {
        vector(l, "pooler.bias", d_model, MFI_FFN_NOWHERE);
        panel(l, "pooler", d_model, d_model, MFI_FFN_NOWHERE);
    }
}

void mfi_schema_each(const mfi_config *config, mfi_schema_visit visit, void *user)
{
    static void (*const whole[MFI_N_FAMILY])(const lister *) = { decoder_whole, decoder_whole, decoder_whole,
                                                                 gemma3n_whole, vit_whole };
    static void (*const layer[MFI_N_FAMILY])(const lister *) = { decoder_layer, decoder_layer, decoder_layer,
                                                                 gemma3n_layer, decoder_layer };
    static const mfi_tensor_kind order[] = { MFI_PLAIN, MFI_PANEL, MFI_TABLE };
    lister l = { config, visit, user, MFI_PLAIN, 0 };
    for (size_t i = 0; i < MFI_COUNT(order); i++) {
        l.kind = order[i];
        l.layer = config->n_layer;
        whole[config->family](&l);
        for (l.layer = 0; l.layer < config->n_layer; l.layer++)
            layer[config->family](&l);
    }
}

typedef struct search {
    const char *name;
    bool found;
} search;

static void compare(void *user, const mfi_schema_tensor *tensor)
{
    search *s = user;
    s->found = s->found || strcmp(tensor->name, s->name) == 0;
}

bool mfi_schema_has(const mfi_config *config, const char *name)
{
    search s = { name, false };
    mfi_schema_each(config, compare, &s);
    return s.found;
}

static double scaled(const mfi_rope_scaling *s, double frequency)
{
    if (s->kind == MFI_ROPE_LINEAR) return frequency / s->factor;
    if (s->kind != MFI_ROPE_LLAMA3) return frequency;
    const double wavelength = 6.283185307179586476925286766559 / frequency, n = s->original_positions;
    if (wavelength > n / s->low_freq_factor) return frequency / s->factor;
    if (wavelength < n / s->high_freq_factor) return frequency;
    const double share = (n / wavelength - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
    return (1 - share) * frequency / s->factor + share * frequency;
}

void mfi_rope_frequencies(const mfi_config *config, double theta, float *freqs)
{
    for (uint32_t j = 0; j < config->d_head / 2; j++)
        freqs[j] = (float)scaled(&config->rope_scaling, pow(theta, -2.0 * j / config->d_head));
}
