/* random_model.c - see random_model.h. */
#include "random_model.h"
#include "arena.h"
#include "defs.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- Random numbers: splitmix64 (Steele, Lea, Flood 2014) ---- */

#define GOLDEN 0x9e3779b97f4a7c15u

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t rng_next(rng *r)
{
    return mix(r->state += GOLDEN);
}

uint32_t rng_below(rng *r, uint32_t n)
{
    return (uint32_t)(((rng_next(r) >> 32) * n) >> 32);
}

uint32_t rng_between(rng *r, uint32_t from, uint32_t to)
{
    return from + rng_below(r, to - from + 1);
}

static bool coin(rng *r)
{
    return rng_below(r, 2) == 1;
}

/* ---- Shapes ---- */

uint32_t head_step(uint32_t d_head)
{
    uint32_t step = 1;
    while (step * d_head % MFI_QUANTUM != 0)
        step *= 2;
    return step;
}

static const char *const granularity_names[] = { "S", "M", "L", "XL", "XXL" };

static mf_status alloc_granularities(mfi_config *config, uint32_t n_granularity)
{
    config->n_granularity = n_granularity;
    mf_allocator c_library = mfi_allocator(NULL);
    mf_status status = mfi_config_alloc(config, &c_library, NULL);
    for (uint32_t g = 0; status == MF_OK && g < n_granularity; g++)
        snprintf(config->granularity[g].name, sizeof(config->granularity[g].name), "%s", granularity_names[g]);
    return status;
}

static void draw_shape(mfi_config *config, rng *r)
{
    static const uint32_t d_heads[] = { 16, 32, 48, 64 };
    config->n_layer = rng_between(r, 1, 4);
    config->d_model = 32 * rng_between(r, 1, 6);
    config->d_head = d_heads[rng_below(r, 4)];
    uint32_t step = head_step(config->d_head);
    config->n_head = step * rng_between(r, 1, 256 / config->d_head / step);
    config->head_group = rng_between(r, 1, config->n_head);
    config->d_ff = 32 * rng_between(r, 1, 16);
    config->n_vocab = rng_between(r, 17, 300);
    config->max_positions = rng_between(r, 150, 400);
    config->norm = coin(r) ? MFI_NORM_LAYER : MFI_NORM_RMS;
    config->norm_eps = 1e-5f;
    config->ffn = coin(r) ? MFI_FFN_PLAIN : MFI_FFN_GATED;
    config->activation = (mfk_activation)rng_below(r, 3);
    config->rope_theta = coin(r) ? 10000.0 : 0.0;
    config->embed_scale = coin(r) ? 1.0f : sqrtf((float)config->d_model);
    config->attention_scale = 1.0f / sqrtf((float)config->d_head);
    config->tied = coin(r);
    config->bos_token = config->eos_token = -1;
}

/* The last granularity first, then each nested in the one above it. */
static void draw_granularities(mfi_config *config, rng *r)
{
    uint32_t step = head_step(config->d_head), top = config->n_granularity - 1;
    bool nested_heads = coin(r), skips = coin(r);
    uint32_t widest = rng_below(r, config->n_layer); /* one layer has the widths that the config names */
    for (uint32_t l = 0; l < config->n_layer; l++) {
        mfi_granularity *full = &config->granularity[top];
        full->ffn[l] = l == widest ? config->d_ff : 32 * rng_between(r, 1, config->d_ff / 32);
        full->heads[l] =
            l == widest || !nested_heads ? config->n_head : step * rng_between(r, 1, config->n_head / step);
        config->may_skip[l] = skips && config->n_layer > 1 && l != widest && coin(r);
        for (uint32_t g = top; g-- > 0;) {
            const mfi_granularity *above = &config->granularity[g + 1];
            mfi_granularity *here = &config->granularity[g];
            bool skipped = above->ffn[l] == 0 || (config->may_skip[l] && rng_below(r, 3) == 0);
            here->ffn[l] = skipped ? 0 : 32 * rng_between(r, 1, above->ffn[l] / 32);
            here->heads[l] = skipped        ? 0
                             : nested_heads ? step * rng_between(r, 1, above->heads[l] / step)
                                            : above->heads[l];
        }
    }
}

/* In half of the models: windows below, at and above a page, and beyond the tests' texts. */
static void draw_windows(mfi_config *config, rng *r)
{
    bool slides = coin(r);
    for (uint32_t l = 0; l < config->n_layer; l++)
        if (slides && coin(r)) config->window[l] = rng_between(r, 1, 1u << rng_below(r, 9));
}

static void set_origin(random_model *model, uint64_t seed)
{
    model->seed = seed;
    model->attention_inputs = model->config.n_head * model->config.d_head;
    model->ffn_inputs = model->config.d_ff;
    for (uint32_t l = 0; l < RANDOM_MAX_LAYER; l++)
        model->layer_of[l] = l;
}

mf_status random_model_init(random_model *model, uint64_t seed)
{
    rng r = { mix(seed) };
    memset(model, 0, sizeof(*model));
    draw_shape(&model->config, &r);
    mf_status status = alloc_granularities(&model->config, rng_between(&r, 1, 5));
    if (status != MF_OK) return status;
    draw_granularities(&model->config, &r);
    draw_windows(&model->config, &r);
    set_origin(model, seed);
    return MF_OK;
}

static const random_shape shapes[] = {
    { "tiny", 3, 64, 32, 4, 2, 256, 97, 512, 3, MFI_NORM_RMS, MFI_FFN_GATED, MFK_SILU, true, 1u << 1 },
    { "gpt2", 12, 768, 64, 12, 1, 3072, 50257, 1024, 4, MFI_NORM_LAYER, MFI_FFN_PLAIN, MFK_GELU_TANH, true, 0 },
    { "160m", 12, 768, 64, 12, 3, 3072, 32000, 2048, 4, MFI_NORM_RMS, MFI_FFN_GATED, MFK_SILU, false, 0 },
    { "1.1b", 22, 2048, 64, 32, 8, 5632, 32000, 2048, 4, MFI_NORM_RMS, MFI_FFN_GATED, MFK_SILU, false, 0 },
};

const random_shape *random_shape_at(size_t index)
{
    return index < MFI_COUNT(shapes) ? &shapes[index] : NULL;
}

const random_shape *random_shape_find(const char *name)
{
    for (size_t i = 0; i < MFI_COUNT(shapes); i++)
        if (strcmp(shapes[i].name, name) == 0) return &shapes[i];
    return NULL;
}

mf_status random_model_init_shape(random_model *model, const random_shape *shape, uint64_t seed)
{
    memset(model, 0, sizeof(*model));
    mfi_config *config = &model->config;
    *config = (mfi_config){ .n_layer = shape->n_layer,
                            .d_model = shape->d_model,
                            .d_head = shape->d_head,
                            .n_vocab = shape->n_vocab,
                            .max_positions = shape->max_positions,
                            .head_group = shape->head_group,
                            .n_head = shape->n_head,
                            .d_ff = shape->d_ff,
                            .norm = shape->norm,
                            .norm_eps = 1e-5f,
                            .ffn = shape->ffn,
                            .activation = shape->activation,
                            .rope_theta = 10000.0,
                            .embed_scale = 1.0f,
                            .attention_scale = 1.0f / sqrtf((float)shape->d_head),
                            .tied = shape->tied,
                            .bos_token = -1,
                            .eos_token = -1 };
    mf_status status = alloc_granularities(config, shape->n_granularity);
    if (status != MF_OK) return status;
    for (uint32_t l = 0; l < shape->n_layer; l++) {
        config->may_skip[l] = l < 32 && (shape->skippable >> l & 1);
        for (uint32_t g = 0; g < shape->n_granularity; g++) {
            config->granularity[g].ffn[l] = shape->d_ff >> (shape->n_granularity - 1 - g);
            config->granularity[g].heads[l] = shape->n_head;
        }
    }
    set_origin(model, seed);
    return MF_OK;
}

void random_model_free(random_model *model)
{
    mf_allocator c_library = mfi_allocator(NULL);
    mfi_config_free(&model->config, &c_library);
}

mf_status random_model_slice(random_model *slice, const random_model *whole, const widths *view)
{
    *slice = *whole;
    mfi_config *config = &slice->config;
    config->n_layer = config->n_head = config->d_ff = 0;
    for (uint32_t l = 0; l < view->n_layer; l++)
        config->n_layer += view->ffn[l] != 0;
    mf_status status = alloc_granularities(config, 1);
    if (status != MF_OK) return status;
    uint32_t kept = 0;
    for (uint32_t l = 0; l < view->n_layer; l++) {
        if (view->ffn[l] == 0) continue;
        config->granularity[0].ffn[kept] = view->ffn[l];
        config->granularity[0].heads[kept] = view->heads[l];
        config->window[kept] = whole->config.window[l];
        if (config->d_ff < view->ffn[l]) config->d_ff = view->ffn[l];
        if (config->n_head < view->heads[l]) config->n_head = view->heads[l];
        slice->layer_of[kept++] = whole->layer_of[l];
    }
    if (config->head_group > config->n_head) config->head_group = config->n_head; /* one key/value head either way */
    return MF_OK;
}

/* ---- Views ---- */

widths granularity_widths(const mfi_config *config, uint32_t granularity)
{
    widths w = { .n_layer = config->n_layer };
    memcpy(w.ffn, config->granularity[granularity].ffn, config->n_layer * sizeof(uint32_t));
    memcpy(w.heads, config->granularity[granularity].heads, config->n_layer * sizeof(uint32_t));
    return w;
}

widths random_widths(const mfi_config *config, rng *r)
{
    widths full = granularity_widths(config, config->n_granularity - 1), w = { .n_layer = config->n_layer };
    uint32_t step = head_step(config->d_head);
    for (uint32_t l = 0; l < config->n_layer; l++) {
        if (config->may_skip[l] && coin(r)) continue;
        w.ffn[l] = 32 * rng_between(r, 1, full.ffn[l] / 32);
        w.heads[l] = step * rng_between(r, 1, full.heads[l] / step);
    }
    return w;
}

widths random_widths_same_cache(const mfi_config *config, const widths *base, rng *r)
{
    widths w = { .n_layer = config->n_layer };
    uint32_t step = head_step(config->d_head);
    for (uint32_t l = 0; l < config->n_layer; l++) {
        if (base->ffn[l] == 0) continue;
        w.ffn[l] = 32 * rng_between(r, 1, config->granularity[config->n_granularity - 1].ffn[l] / 32);
        uint32_t most = config->granularity[config->n_granularity - 1].heads[l] / step;
        do {
            w.heads[l] = step * rng_between(r, 1, most);
        } while (mfi_kv_heads(w.heads[l], config->head_group) != mfi_kv_heads(base->heads[l], config->head_group));
    }
    return w;
}

/* ---- Weights ---- */

static uint64_t hash_text(uint64_t seed, const char *text)
{
    for (; *text; text++)
        seed = mix(seed ^ (unsigned char)*text);
    return seed;
}

/* A tensor of the whole model, and how its elements are drawn: centre + spread * uniform(-1, 1). */
typedef struct source {
    uint64_t seed;
    float centre, spread;
    size_t live_rows, live_columns; /* what a poisoned model keeps */
} source;

static void poison_layer(source *s, const random_model *model, uint32_t layer, const char *role)
{
    const mfi_config *c = &model->config;
    size_t ffn = model->poison->ffn[layer], heads = model->poison->heads[layer];
    if (ffn == 0)
        s->live_rows = 0;
    else if (strcmp(role, "ffn.gate") == 0 || strcmp(role, "ffn.up") == 0)
        s->live_rows = ffn;
    else if (strcmp(role, "ffn.down") == 0)
        s->live_columns = ffn;
    else if (strcmp(role, "attn.q") == 0)
        s->live_rows = heads * c->d_head;
    else if (strcmp(role, "attn.o") == 0)
        s->live_columns = heads * c->d_head;
    else if (strcmp(role, "attn.k") == 0 || strcmp(role, "attn.v") == 0)
        s->live_rows = (size_t)mfi_kv_heads((uint32_t)heads, c->head_group) * c->d_head;
}

static source find_source(const random_model *model, const char *name)
{
    source s = { .centre = 0.0f, .live_rows = SIZE_MAX, .live_columns = SIZE_MAX };
    const char *role = name;
    unsigned layer = 0;
    int used = 0;
    bool in_layer = sscanf(name, "layers.%u.%n", &layer, &used) == 1 && used > 0;
    if (in_layer) role = name + used;
    s.seed = hash_text(mix(model->seed + (in_layer ? 1 + model->layer_of[layer] : 0) * GOLDEN), role);
    size_t length = strlen(role);
    uint32_t inputs = model->config.d_model;
    if (strcmp(role, "attn.o") == 0) inputs = model->attention_inputs;
    if (strcmp(role, "ffn.down") == 0) inputs = model->ffn_inputs;
    s.spread = sqrtf(3.0f / (float)inputs); /* of variance 1 / inputs */
    if (strcmp(role, "embed") == 0) s.spread = 1.0f;
    if (length > 7 && strcmp(role + length - 7, ".weight") == 0) s.centre = 1.0f, s.spread = 0.2f;
    if (length > 5 && strcmp(role + length - 5, ".bias") == 0) s.spread = 0.1f;
    if (in_layer && model->poison) poison_layer(&s, model, layer, role);
    return s;
}

static mf_status read_weights(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                              float *out, mf_error *error)
{
    (void)error;
    source s = find_source(user, name);
    for (size_t i = row; i < row + n_row; i++)
        for (size_t j = column; j < column + n_column; j++) {
            uint64_t bits = mix(s.seed + ((uint64_t)i << 32 | j) * GOLDEN);
            float uniform = (float)(int32_t)(bits >> 32) * 0x1p-31f;
            *out++ = i < s.live_rows && j < s.live_columns ? s.centre + s.spread * uniform : NAN;
        }
    return MF_OK;
}

mfi_weights random_model_weights(const random_model *model)
{
    return (mfi_weights){ read_weights, (void *)model };
}

mf_status random_model_save(const random_model *model, mfk_type type, mfi_storage storage, bool one_shell,
                            const char *path, mf_error *error)
{
    mf_allocator c_library = mfi_allocator(NULL);
    mfi_weights weights = random_model_weights(model);
    mfi_save_options options = { .type = type, .storage = storage, .one_shell = one_shell };
    memcpy(options.role_type, model->role_type, sizeof options.role_type);
    return mfi_save(&model->config, &weights, &options, &c_library, path, error);
}
