/* model_config_file.c - a configuration as metadata of a .mf file: every key once, read and written. */
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "model_config.h"
#include "status.h"

static const char *const known_keys[] = {
    "family",     "n_layer",       "d_model",       "d_head",       "n_vocab",         "max_positions",
    "n_head",     "d_ff",          "head_group",    "norm",         "norm_eps",        "ffn",
    "activation", "rope_theta",    "tied",          "embed_scale",  "attention_scale", "bos_token",
    "eos_token",  "n_granularity", "granularity.*", "n_named",      "n_token",         "named.*",
    "may_skip",   "window",        "kv_layer",      "sparsity",     "attention_bias",  "ffn_bias",
    "parallel",   "alibi_max",     "logit_softcap", "rope_scaling", "rope_scaling.*",  "gemma3n.*",
    "vit.*",
};

bool mfi_config_key_known(const char *key)
{
    return mfi_container_key_known(key, known_keys, MFI_COUNT(known_keys));
}

/* ---- Reading ---- */

typedef struct reader {
    const mfi_container *container;
    mf_error *error;
    mf_status status; /* the first failure */
} reader;

static void fail_key(reader *r, const char *key, const char *what)
{
    if (r->status == MF_OK)
        r->status =
            mfi_fail(r->error, MF_E_FORMAT, "%s: metadata \"%s\" %s", mfi_container_name(r->container), key, what);
}

static uint32_t read_u32(reader *r, const char *key, uint32_t max)
{
    uint64_t value = 0;
    if (!mfi_container_u64(r->container, key, &value))
        fail_key(r, key, "is missing or not an integer");
    else if (value > max)
        fail_key(r, key, "is too large");
    return r->status == MF_OK ? (uint32_t)value : 0;
}

static double read_f64(reader *r, const char *key)
{
    double value = 0;
    if (!mfi_container_f64(r->container, key, &value)) fail_key(r, key, "is missing or not a number");
    return value;
}

static int32_t read_token(reader *r, const char *key)
{
    uint64_t value;
    if (!mfi_container_u64(r->container, key, &value)) return -1;
    return (int32_t)read_u32(r, key, INT32_MAX);
}

static uint32_t read_u32_or(reader *r, const char *key, uint32_t max, uint32_t none)
{
    return mfi_container_has(r->container, key) ? read_u32(r, key, max) : none;
}

static double read_f64_or(reader *r, const char *key, double none)
{
    return mfi_container_has(r->container, key) ? read_f64(r, key) : none;
}

static void read_family(reader *r, mfi_config *config)
{
    const char *name = NULL;
    config->family = mfi_container_text(r->container, "family", &name) ? mfi_family_named(name) : MFI_N_FAMILY;
    if (config->family == MFI_N_FAMILY && r->status == MF_OK)
        r->status = mfi_fail(r->error, MF_E_UNSUPPORTED, "%s: no model family that this version knows",
                             mfi_container_name(r->container));
}

static const uint32_t *read_per_layer(reader *r, const char *key, uint32_t n_layer)
{
    const uint32_t *values = NULL;
    size_t count = 0;
    if (!mfi_container_u32s(r->container, key, &values, &count) || count != n_layer) {
        fail_key(r, key, "is missing or not one integer per layer");
        return NULL;
    }
    return values;
}

static void read_granularity(reader *r, mfi_config *config, uint32_t g)
{
    char key[40];
    mfi_granularity *granularity = &config->granularity[g];
    const char *name = NULL;
    snprintf(key, sizeof key, "granularity.%u.name", g);
    if (!mfi_container_text(r->container, key, &name) || strlen(name) >= sizeof granularity->name)
        fail_key(r, key, "is missing or too long");
    else
        snprintf(granularity->name, sizeof granularity->name, "%s", name);

    snprintf(key, sizeof key, "granularity.%u.ffn", g);
    const uint32_t *values = read_per_layer(r, key, config->n_layer);
    if (values != NULL) memcpy(granularity->ffn, values, config->n_layer * sizeof *values);
    snprintf(key, sizeof key, "granularity.%u.heads", g);
    values = read_per_layer(r, key, config->n_layer);
    if (values != NULL) memcpy(granularity->heads, values, config->n_layer * sizeof *values);
}

/* The keys from here to declare_gemma3n are there only where they are not the default. */
static void read_decoder(reader *r, mfi_config *config)
{
    config->attention_bias = read_u32_or(r, "attention_bias", 1, 0) != 0;
    config->ffn_bias = read_u32_or(r, "ffn_bias", 1, 0) != 0;
    config->parallel = read_u32_or(r, "parallel", 1, 0) != 0;
    config->alibi_max = (float)read_f64_or(r, "alibi_max", 0);
    config->logit_softcap = (float)read_f64_or(r, "logit_softcap", 0);
    config->n_token = read_u32_or(r, "n_token", INT32_MAX, 0);
    config->rope_scaling.kind = (mfi_rope_scaling_kind)read_u32_or(r, "rope_scaling", MFI_ROPE_LLAMA3, 0);
    if (config->rope_scaling.kind == MFI_ROPE_PLAIN) return;
    config->rope_scaling.factor = read_f64(r, "rope_scaling.factor");
    if (config->rope_scaling.kind != MFI_ROPE_LLAMA3) return;
    config->rope_scaling.low_freq_factor = read_f64(r, "rope_scaling.low_freq_factor");
    config->rope_scaling.high_freq_factor = read_f64(r, "rope_scaling.high_freq_factor");
    config->rope_scaling.original_positions = read_u32(r, "rope_scaling.original_positions", INT32_MAX);
}

static void read_gemma3n(reader *r, mfi_gemma3n *g)
{
    g->n_stream = read_u32(r, "gemma3n.n_stream", INT32_MAX);
    g->active = read_u32(r, "gemma3n.active", INT32_MAX);
    g->laurel_rank = read_u32(r, "gemma3n.laurel_rank", INT32_MAX);
    g->d_ple = read_u32(r, "gemma3n.d_ple", INT32_MAX);
    g->n_vocab_ple = read_u32(r, "gemma3n.n_vocab_ple", INT32_MAX);
    g->coef_clip = (float)read_f64(r, "gemma3n.coef_clip");
    g->correct_scale = read_u32(r, "gemma3n.correct_scale", 1) != 0;
    g->rope_theta_local = read_f64(r, "gemma3n.rope_theta_local");
}

static void read_vit(reader *r, mfi_vit *v)
{
    v->image_size = read_u32(r, "vit.image_size", INT32_MAX);
    v->patch_size = read_u32(r, "vit.patch_size", INT32_MAX);
    v->n_channel = read_u32(r, "vit.n_channel", INT32_MAX);
    v->n_class = read_u32(r, "vit.n_class", INT32_MAX);
    v->pooler = read_u32(r, "vit.pooler", 1) != 0;
}

static void read_named(reader *r, mfi_config *config, uint32_t index)
{
    char key[40];
    const char *name = NULL;
    mfi_granularity *named = &config->named[index];
    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    snprintf(key, sizeof key, "named.%u.name", index);
    if (!mfi_container_text(r->container, key, &name) || strlen(name) >= sizeof named->name)
        fail_key(r, key, "is missing or too long");
    else
        snprintf(named->name, sizeof named->name, "%s", name);
    snprintf(key, sizeof key, "named.%u.ffn", index);
    const uint32_t *values = read_per_layer(r, key, config->n_layer);
    for (uint32_t layer = 0; values != NULL && layer < config->n_layer; layer++) {
        named->ffn[layer] = values[layer];
        named->heads[layer] = values[layer] > 0 ? full->heads[layer] : 0;
    }
}

static void read_scalars(reader *r, mfi_config *config)
{
    read_family(r, config);
    config->n_layer = read_u32(r, "n_layer", MFI_MAX_LAYER);
    config->n_granularity = read_u32(r, "n_granularity", MFI_MAX_GRANULARITY);
    config->n_named = read_u32_or(r, "n_named", MFI_MAX_NAMED, 0);
    config->d_model = read_u32(r, "d_model", INT32_MAX);
    config->d_head = read_u32(r, "d_head", INT32_MAX);
    config->n_vocab = read_u32(r, "n_vocab", INT32_MAX);
    config->max_positions = read_u32(r, "max_positions", INT32_MAX);
    config->n_head = read_u32(r, "n_head", INT32_MAX);
    config->d_ff = read_u32(r, "d_ff", INT32_MAX);
    config->head_group = read_u32(r, "head_group", INT32_MAX);
    config->norm = (mfi_norm)read_u32(r, "norm", MFI_NORM_LAYER);
    config->norm_eps = (float)read_f64(r, "norm_eps");
    config->ffn = (mfi_ffn)read_u32(r, "ffn", MFI_FFN_PLAIN);
    config->activation = (mfk_activation)read_u32(r, "activation", MFK_TANH);
    config->rope_theta = read_f64(r, "rope_theta");
    config->embed_scale = (float)read_f64(r, "embed_scale");
    config->attention_scale = (float)read_f64(r, "attention_scale");
    config->tied = read_u32(r, "tied", 1) != 0;
    config->bos_token = read_token(r, "bos_token");
    config->eos_token = read_token(r, "eos_token");
    read_decoder(r, config);
    if (config->family == MFI_FAMILY_GEMMA3N) read_gemma3n(r, &config->gemma3n);
    if (config->family == MFI_FAMILY_VIT) read_vit(r, &config->vit);
}

static void read_layers(reader *r, mfi_config *config)
{
    const uint32_t n_layer = config->n_layer;
    const uint32_t *may_skip = read_per_layer(r, "may_skip", n_layer);
    for (uint32_t layer = 0; may_skip != NULL && layer < n_layer; layer++)
        config->may_skip[layer] = may_skip[layer] != 0;
    const struct {
        const char *key;
        void *to;
    } optional[] = { { "window", config->window }, { "kv_layer", config->kv_layer }, { "sparsity", config->sparsity } };
    for (size_t i = 0; i < MFI_COUNT(optional); i++) {
        const bool given = mfi_container_has(r->container, optional[i].key);
        const uint32_t *values = given ? read_per_layer(r, optional[i].key, n_layer) : NULL;
        if (values != NULL) memcpy(optional[i].to, values, n_layer * sizeof *values);
    }
}

mf_status mfi_config_read(mfi_config *config, const mfi_container *container, const mf_allocator *allocator,
                          mf_error *error)
{
    reader r = { container, error, mfi_container_check_keys(container, known_keys, MFI_COUNT(known_keys), error) };
    if (r.status == MF_OK) read_scalars(&r, config);
    if (r.status == MF_OK && (config->n_layer == 0 || config->n_granularity == 0))
        fail_key(&r, "n_layer", "or n_granularity is 0");
    if (r.status == MF_OK) r.status = mfi_config_alloc(config, allocator, error);
    if (r.status != MF_OK) {
        *config = (mfi_config){ 0 }; /* nothing was allocated: free must not look for it */
        return r.status;
    }
    for (uint32_t g = 0; g < config->n_granularity; g++)
        read_granularity(&r, config, g);
    for (uint32_t i = 0; i < config->n_named; i++)
        read_named(&r, config, i);
    read_layers(&r, config);
    if (r.status != MF_OK) return r.status;

    mf_error reason = MF_ERROR_INIT;
    if (mfi_config_check(config, &reason) == MF_OK) return MF_OK;
    return mfi_fail(error, MF_E_FORMAT, "%s: %s", mfi_container_name(container), reason.detail);
}

/* ---- Writing. A failed declaration sticks to the writer. ---- */

static void declare_granularity(const mfi_config *config, mfi_writer *w, uint32_t g)
{
    const mfi_granularity *granularity = &config->granularity[g];
    char key[32];
    snprintf(key, sizeof key, "granularity.%u.name", g);
    mfi_writer_text(w, key, granularity->name, true);
    snprintf(key, sizeof key, "granularity.%u.ffn", g);
    mfi_writer_u32s(w, key, granularity->ffn, config->n_layer, true);
    snprintf(key, sizeof key, "granularity.%u.heads", g);
    mfi_writer_u32s(w, key, granularity->heads, config->n_layer, true);
}

static void declare_named(const mfi_config *config, mfi_writer *w, uint32_t index)
{
    char key[32];
    snprintf(key, sizeof key, "named.%u.name", index);
    mfi_writer_text(w, key, config->named[index].name, true);
    snprintf(key, sizeof key, "named.%u.ffn", index);
    mfi_writer_u32s(w, key, config->named[index].ffn, config->n_layer, true);
}

static void declare_decoder(const mfi_config *config, mfi_writer *w)
{
    if (config->attention_bias) mfi_writer_u64(w, "attention_bias", 1, true);
    if (config->ffn_bias) mfi_writer_u64(w, "ffn_bias", 1, true);
    if (config->parallel) mfi_writer_u64(w, "parallel", 1, true);
    if (config->alibi_max != 0) mfi_writer_f64(w, "alibi_max", (double)config->alibi_max, true);
    if (config->logit_softcap != 0) mfi_writer_f64(w, "logit_softcap", (double)config->logit_softcap, true);
    if (config->n_token != 0) mfi_writer_u64(w, "n_token", config->n_token, true);
    const mfi_rope_scaling *scaling = &config->rope_scaling;
    if (scaling->kind == MFI_ROPE_PLAIN) return;
    mfi_writer_u64(w, "rope_scaling", scaling->kind, true);
    mfi_writer_f64(w, "rope_scaling.factor", scaling->factor, true);
    if (scaling->kind != MFI_ROPE_LLAMA3) return;
    mfi_writer_f64(w, "rope_scaling.low_freq_factor", scaling->low_freq_factor, true);
    mfi_writer_f64(w, "rope_scaling.high_freq_factor", scaling->high_freq_factor, true);
    mfi_writer_u64(w, "rope_scaling.original_positions", scaling->original_positions, true);
}

static void declare_gemma3n(const mfi_gemma3n *g, mfi_writer *w)
{
    mfi_writer_u64(w, "gemma3n.n_stream", g->n_stream, true);
    mfi_writer_u64(w, "gemma3n.active", g->active, true);
    mfi_writer_u64(w, "gemma3n.laurel_rank", g->laurel_rank, true);
    mfi_writer_u64(w, "gemma3n.d_ple", g->d_ple, true);
    mfi_writer_u64(w, "gemma3n.n_vocab_ple", g->n_vocab_ple, true);
    mfi_writer_f64(w, "gemma3n.coef_clip", (double)g->coef_clip, true);
    mfi_writer_u64(w, "gemma3n.correct_scale", g->correct_scale, true);
    mfi_writer_f64(w, "gemma3n.rope_theta_local", g->rope_theta_local, true);
}

static void declare_vit(const mfi_vit *v, mfi_writer *w)
{
    mfi_writer_u64(w, "vit.image_size", v->image_size, true);
    mfi_writer_u64(w, "vit.patch_size", v->patch_size, true);
    mfi_writer_u64(w, "vit.n_channel", v->n_channel, true);
    mfi_writer_u64(w, "vit.n_class", v->n_class, true);
    mfi_writer_u64(w, "vit.pooler", v->pooler, true);
}

static void declare_layers(const mfi_config *config, mfi_writer *w)
{
    const uint32_t n_layer = config->n_layer;
    uint32_t may_skip[MFI_MAX_LAYER] = { 0 }, sparsity[MFI_MAX_LAYER] = { 0 }; /* bits of f32 */
    bool has_window = false, shares = false, is_sparse = false;
    for (uint32_t layer = 0; layer < n_layer; layer++) {
        may_skip[layer] = config->may_skip[layer];
        memcpy(&sparsity[layer], &config->sparsity[layer], sizeof *sparsity);
        has_window = has_window || config->window[layer] != 0;
        shares = shares || config->kv_layer[layer] != layer;
        is_sparse = is_sparse || config->sparsity[layer] != 0;
    }
    mfi_writer_u32s(w, "may_skip", may_skip, n_layer, true);
    if (has_window) mfi_writer_u32s(w, "window", config->window, n_layer, true);
    if (shares) mfi_writer_u32s(w, "kv_layer", config->kv_layer, n_layer, true);
    if (is_sparse) mfi_writer_u32s(w, "sparsity", sparsity, n_layer, true);
}

void mfi_config_declare(const mfi_config *config, mfi_writer *w)
{
    mfi_writer_text(w, "family", mfi_family_name(config->family), true);
    mfi_writer_u64(w, "n_layer", config->n_layer, true);
    mfi_writer_u64(w, "d_model", config->d_model, true);
    mfi_writer_u64(w, "d_head", config->d_head, true);
    mfi_writer_u64(w, "n_vocab", config->n_vocab, true);
    mfi_writer_u64(w, "max_positions", config->max_positions, true);
    mfi_writer_u64(w, "n_head", config->n_head, true);
    mfi_writer_u64(w, "d_ff", config->d_ff, true);
    mfi_writer_u64(w, "head_group", config->head_group, true);
    mfi_writer_u64(w, "norm", config->norm, true);
    mfi_writer_f64(w, "norm_eps", (double)config->norm_eps, true);
    mfi_writer_u64(w, "ffn", config->ffn, true);
    mfi_writer_u64(w, "activation", config->activation, true);
    mfi_writer_f64(w, "rope_theta", config->rope_theta, true);
    mfi_writer_f64(w, "embed_scale", (double)config->embed_scale, true);
    mfi_writer_f64(w, "attention_scale", (double)config->attention_scale, true);
    mfi_writer_u64(w, "tied", config->tied, true);
    if (config->bos_token >= 0) mfi_writer_u64(w, "bos_token", (uint64_t)config->bos_token, true);
    if (config->eos_token >= 0) mfi_writer_u64(w, "eos_token", (uint64_t)config->eos_token, true);
    declare_decoder(config, w);
    if (config->family == MFI_FAMILY_GEMMA3N) declare_gemma3n(&config->gemma3n, w);
    if (config->family == MFI_FAMILY_VIT) declare_vit(&config->vit, w);
    declare_layers(config, w);
    mfi_writer_u64(w, "n_granularity", config->n_granularity, true);
    for (uint32_t g = 0; g < config->n_granularity; g++)
        declare_granularity(config, w, g);
    if (config->n_named > 0) mfi_writer_u64(w, "n_named", config->n_named, true);
    for (uint32_t i = 0; i < config->n_named; i++)
        declare_named(config, w, i);
}
