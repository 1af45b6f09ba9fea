/* matlm_fixture.h - small MatLM configurations and weights for tests: ragged widths, skipped layers, every
 * weight a function of its name and place. */
#ifndef MATLM_FIXTURE_H
#define MATLM_FIXTURE_H

#include <stdio.h>
#include <string.h>

#include "arena.h"
#include "model_config.h"
#include "tokenizer.h"

enum { FIXTURE_LAYERS = 3, FIXTURE_GRANULARITIES = 3 };

/* Layer norm and an ungated FFN with `plain`; tables where not `tied`. Free it with mfi_config_free. */
static inline mf_status fixture_config(mfi_config *config, bool plain, bool tied, const mf_allocator *allocator)
{
    /* S skips layer 1; M adds it, and nothing to layer 2; XL adds to all but the heads of layer 2. */
    static const uint32_t ffn[FIXTURE_GRANULARITIES][FIXTURE_LAYERS] = { { 32, 0, 64 },
                                                                         { 64, 96, 64 },
                                                                         { 160, 128, 96 } };
    static const uint32_t heads[FIXTURE_GRANULARITIES][FIXTURE_LAYERS] = { { 2, 0, 4 }, { 2, 4, 4 }, { 6, 4, 4 } };
    static const char *const name[FIXTURE_GRANULARITIES] = { "S", "M", "XL" };
    *config = (mfi_config){
        .n_layer = FIXTURE_LAYERS,
        .d_model = 32,
        .d_head = 16,
        .n_vocab = 263, /* the tokenizer's */
        .max_positions = 128,
        .head_group = 2,
        .n_head = 6,
        .d_ff = 160,
        .norm = plain ? MFI_NORM_LAYER : MFI_NORM_RMS,
        .norm_eps = 1e-5f,
        .ffn = plain ? MFI_FFN_PLAIN : MFI_FFN_GATED,
        .activation = plain ? MFK_GELU_ERF : MFK_SILU,
        .rope_theta = plain ? 0 : 10000,
        .embed_scale = 1,
        .attention_scale = 0.25f,
        .tied = tied,
        .bos_token = -1,
        .eos_token = 262,
        .n_granularity = FIXTURE_GRANULARITIES,
    };
    mf_status status = mfi_config_alloc(config, allocator, NULL);
    if (status != MF_OK) return status;
    config->may_skip[1] = 1;
    config->window[2] = plain ? 3 : 0;
    for (uint32_t g = 0; g < FIXTURE_GRANULARITIES; g++) {
        memcpy(config->granularity[g].name, name[g], strlen(name[g]) + 1);
        memcpy(config->granularity[g].ffn, ffn[g], sizeof ffn[g]);
        memcpy(config->granularity[g].heads, heads[g], sizeof heads[g]);
    }
    return MF_OK;
}

/* Six merges and an end of text: 263 tokens. Freed with mfi_free. */
static inline mf_status fixture_tokenizer(void **blob, size_t *bytes, const mf_allocator *allocator, mf_error *error)
{
    static const mfi_merge merges[] = {
        { 't', 'h' }, { 256, 'e' }, { ' ', 257 }, { 'i', 'n' }, { 259, 'g' }, { ' ', 'a' },
    };
    return mfi_tokenizer_store(blob, bytes, allocator, merges, 6, 1, error);
}

/* Between -1 and 1, with at most 8 significant bits: exact in bf16. */
static inline float fixture_weight(const char *name, size_t row, size_t column)
{
    uint32_t hash = 2166136261u;
    for (const char *c = name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    hash = (hash ^ (uint32_t)row) * 2654435761u;
    hash = (hash ^ (uint32_t)column ^ (hash >> 13)) * 2246822519u;
    hash ^= hash >> 16;
    return (float)((int)(hash % 255u) - 127) / 128.0f;
}

static inline mf_status fixture_read_weights(void *user, const char *name, size_t row, size_t n_row, size_t column,
                                             size_t n_column, float *out, mf_error *error)
{
    (void)user;
    (void)error;
    for (size_t i = 0; i < n_row; i++)
        for (size_t j = 0; j < n_column; j++)
            out[i * n_column + j] = fixture_weight(name, row + i, column + j);
    return MF_OK;
}

static const mfi_weights fixture_weights = { fixture_read_weights, NULL };

typedef struct fixture_variant {
    bool plain, tied, one_shell;
    mfk_type type;
    mfi_storage storage;
} fixture_variant;

/* Saves it; a gated one with the tokenizer. */
static inline mf_status fixture_save(const fixture_variant *v, const mf_allocator *allocator, const char *path,
                                     mf_error *error)
{
    static const char *const metadata[] = { "title", "a test", NULL };
    mfi_config config;
    void *blob = NULL;
    size_t bytes = 0;
    mf_status status = fixture_config(&config, v->plain, v->tied, allocator);
    if (status != MF_OK) return status;
    if (!v->plain) status = fixture_tokenizer(&blob, &bytes, allocator, error);
    mfi_save_options options = { .type = v->type,
                                 .storage = v->storage,
                                 .one_shell = v->one_shell,
                                 .tokenizer = blob,
                                 .tokenizer_bytes = bytes,
                                 .metadata = metadata };
    if (status == MF_OK) status = mfi_save(&config, &fixture_weights, &options, allocator, path, error);
    mfi_free(allocator, blob, bytes);
    mfi_config_free(&config, allocator);
    return status;
}

/* Calls `visit` for every matrix and vector that the configuration has, with its whole extents. */
static inline void fixture_visit(const mfi_config *config,
                                 void (*visit)(void *user, const char *name, size_t rows, size_t columns), void *user)
{
    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    bool bias = config->norm == MFI_NORM_LAYER;
    visit(user, "embed", config->n_vocab, config->d_model);
    if (!config->tied) visit(user, "output", config->n_vocab, config->d_model);
    visit(user, "final_norm.weight", 1, config->d_model);
    if (bias) visit(user, "final_norm.bias", 1, config->d_model);
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        size_t q = (size_t)full->heads[layer] * config->d_head, ffn = full->ffn[layer], d = config->d_model;
        size_t kv = (size_t)mfi_kv_heads(full->heads[layer], config->head_group) * config->d_head;
        const struct {
            const char *name;
            size_t rows, columns;
        } part[] = {
            { "attn_norm.weight", 1, d },
            { "attn_norm.bias", bias, d },
            { "attn.q", q, d },
            { "attn.k", kv, d },
            { "attn.v", kv, d },
            { "attn.o", d, q },
            { "ffn_norm.weight", 1, d },
            { "ffn_norm.bias", bias, d },
            { "ffn.gate", config->ffn == MFI_FFN_GATED ? ffn : 0, d },
            { "ffn.up", ffn, d },
            { "ffn.down", d, ffn },
        };
        for (size_t i = 0; i < sizeof part / sizeof part[0]; i++) {
            char name[64];
            snprintf(name, sizeof name, "layers.%u.%s", layer, part[i].name);
            if (part[i].rows) visit(user, name, part[i].rows, part[i].columns);
        }
    }
}

#endif
