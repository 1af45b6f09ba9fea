/* import_gemma3n.c - the text decoder of Gemma 3n: Gemma3nForConditionalGeneration and Gemma3nForCausalLM, and "gemma3n"
 * of GGUF. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "families.h"
#include "status.h"

static const mfi_name hf_names[] = {
    { "embed", "embed_tokens.weight", MFI_NAME_WHOLE },
    { "ple.table", "embed_tokens_per_layer.weight", MFI_NAME_WHOLE },
    { "ple.norm.weight", "per_layer_projection_norm.weight", MFI_NAME_WHOLE },
    { "ple.project", "per_layer_model_projection.weight", MFI_NAME_LAYER },
    { "altup.project.#", "altup_projections.#.weight", MFI_NAME_WHOLE },
    { "altup.unembed.#", "altup_unembed_projections.#.weight", MFI_NAME_WHOLE },
    { "final_norm.weight", "norm.weight", MFI_NAME_WHOLE },
    { "attn_norm.weight", "layers.%u.input_layernorm.weight", MFI_NAME_WHOLE },
    { "attn_post_norm.weight", "layers.%u.post_attention_layernorm.weight", MFI_NAME_WHOLE },
    { "ffn_norm.weight", "layers.%u.pre_feedforward_layernorm.weight", MFI_NAME_WHOLE },
    { "ffn_post_norm.weight", "layers.%u.post_feedforward_layernorm.weight", MFI_NAME_WHOLE },
    { "attn.q", "layers.%u.self_attn.q_proj.weight", MFI_NAME_WHOLE },
    { "attn.k", "layers.%u.self_attn.k_proj.weight", MFI_NAME_WHOLE },
    { "attn.v", "layers.%u.self_attn.v_proj.weight", MFI_NAME_WHOLE },
    { "attn.o", "layers.%u.self_attn.o_proj.weight", MFI_NAME_WHOLE },
    { "attn.q_norm.weight", "layers.%u.self_attn.q_norm.weight", MFI_NAME_WHOLE },
    { "attn.k_norm.weight", "layers.%u.self_attn.k_norm.weight", MFI_NAME_WHOLE },
    { "ffn.gate", "layers.%u.mlp.gate_proj.weight", MFI_NAME_WHOLE },
    { "ffn.up", "layers.%u.mlp.up_proj.weight", MFI_NAME_WHOLE },
    { "ffn.down", "layers.%u.mlp.down_proj.weight", MFI_NAME_WHOLE },
    { "altup.correct_scale", "layers.%u.altup.correct_output_scale", MFI_NAME_WHOLE },
    { "altup.correct", "layers.%u.altup.correction_coefs.weight", MFI_NAME_WHOLE },
    { "altup.predict", "layers.%u.altup.prediction_coefs.weight", MFI_NAME_WHOLE },
    { "altup.router", "layers.%u.altup.modality_router.weight", MFI_NAME_WHOLE },
    { "altup.router_norm.weight", "layers.%u.altup.router_norm.weight", MFI_NAME_WHOLE },
    { "laurel.left", "layers.%u.laurel.linear_left.weight", MFI_NAME_WHOLE },
    { "laurel.right", "layers.%u.laurel.linear_right.weight", MFI_NAME_WHOLE },
    { "laurel.norm.weight", "layers.%u.laurel.post_laurel_norm.weight", MFI_NAME_WHOLE },
    { "ple.gate", "layers.%u.per_layer_input_gate.weight", MFI_NAME_WHOLE },
    { "ple.out", "layers.%u.per_layer_projection.weight", MFI_NAME_WHOLE },
    { "ple.post_norm.weight", "layers.%u.post_per_layer_input_norm.weight", MFI_NAME_WHOLE },
    { NULL, NULL, MFI_NAME_WHOLE },
};

static const mfi_name gguf_names[] = {
    { "embed", "token_embd.weight", MFI_NAME_WHOLE },
    { "ple.table", "per_layer_token_embd.weight", MFI_NAME_WHOLE },
    { "ple.norm.weight", "per_layer_proj_norm.weight", MFI_NAME_WHOLE },
    { "ple.project", "per_layer_model_proj.weight", MFI_NAME_LAYER },
    { "altup.project.#", "altup_proj.weight", MFI_NAME_INDEX },
    { "altup.unembed.#", "altup_unembd_proj.weight", MFI_NAME_INDEX },
    { "final_norm.weight", "output_norm.weight", MFI_NAME_WHOLE },
    { "attn_norm.weight", "blk.%u.attn_norm.weight", MFI_NAME_WHOLE },
    { "attn_post_norm.weight", "blk.%u.post_attention_norm.weight", MFI_NAME_WHOLE },
    { "ffn_norm.weight", "blk.%u.ffn_norm.weight", MFI_NAME_WHOLE },
    { "ffn_post_norm.weight", "blk.%u.post_ffw_norm.weight", MFI_NAME_WHOLE },
    { "attn.q", "blk.%u.attn_q.weight", MFI_NAME_WHOLE },
    { "attn.q", "blk.%u.attn_qkv.weight", MFI_NAME_Q },
    { "attn.k", "blk.%u.attn_k.weight", MFI_NAME_WHOLE },
    { "attn.k", "blk.%u.attn_qkv.weight", MFI_NAME_K },
    { "attn.v", "blk.%u.attn_v.weight", MFI_NAME_WHOLE },
    { "attn.v", "blk.%u.attn_qkv.weight", MFI_NAME_V },
    { "attn.o", "blk.%u.attn_output.weight", MFI_NAME_WHOLE },
    { "attn.q_norm.weight", "blk.%u.attn_q_norm.weight", MFI_NAME_WHOLE },
    { "attn.k_norm.weight", "blk.%u.attn_k_norm.weight", MFI_NAME_WHOLE },
    { "ffn.gate", "blk.%u.ffn_gate.weight", MFI_NAME_WHOLE },
    { "ffn.up", "blk.%u.ffn_up.weight", MFI_NAME_WHOLE },
    { "ffn.down", "blk.%u.ffn_down.weight", MFI_NAME_WHOLE },
    { "altup.correct_scale", "blk.%u.altup_correct_scale.weight", MFI_NAME_WHOLE },
    { "altup.correct", "blk.%u.altup_correct_coef.weight", MFI_NAME_WHOLE },
    { "altup.predict", "blk.%u.altup_predict_coef.weight", MFI_NAME_WHOLE },
    { "altup.router", "blk.%u.altup_router.weight", MFI_NAME_WHOLE },
    { "altup.router_norm.weight", "blk.%u.altup_router_norm.weight", MFI_NAME_WHOLE },
    { "laurel.left", "blk.%u.laurel_l.weight", MFI_NAME_WHOLE },
    { "laurel.right", "blk.%u.laurel_r.weight", MFI_NAME_WHOLE },
    { "laurel.norm.weight", "blk.%u.laurel_post_norm.weight", MFI_NAME_WHOLE },
    { "ple.gate", "blk.%u.inp_gate.weight", MFI_NAME_WHOLE },
    { "ple.out", "blk.%u.proj.weight", MFI_NAME_WHOLE },
    { "ple.post_norm.weight", "blk.%u.post_norm.weight", MFI_NAME_WHOLE },
    { NULL, NULL, MFI_NAME_WHOLE },
};

/* ---- What JSON and GGUF have in common ---- */

/* Facts of a model before the per-layer arrays of its configuration exist. */
typedef struct facts {
    uint32_t ffn[MFI_MAX_LAYER];
    float sparsity[MFI_MAX_LAYER];
    bool slides[MFI_MAX_LAYER];
    uint32_t n_kv_head, n_shared, window;
} facts;

static void set_constants(mfi_config *config)
{
    config->family = MFI_FAMILY_GEMMA3N;
    config->norm = MFI_NORM_RMS;
    config->ffn = MFI_FFN_GATED;
    config->activation = MFK_GELU_TANH;
    config->embed_scale = (float)sqrt((double)config->d_model);
    config->attention_scale = 1;
    config->tied = true;
}

/* Layers from n_layer - n_shared on read what the last layer of their kind before them has. */
static mf_status share_keys(mfi_config *config, const facts *f, const char *where, mf_error *error)
{
    const uint32_t n_own = config->n_layer - f->n_shared;
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        config->window[layer] = f->slides[layer] ? f->window : 0;
        config->sparsity[layer] = f->sparsity[layer];
        config->may_skip[layer] = 1;
        if (layer < n_own) continue;
        uint32_t donor = n_own;
        while (donor > 0 && f->slides[donor - 1] != f->slides[layer])
            donor--;
        if (donor == 0)
            return mfi_fail(
                error, MF_E_FORMAT,
                "%s: layer %u shares keys and values, but no layer before %u is of its kind; fetch it again", where,
                layer, n_own);
        config->kv_layer[layer] = donor - 1;
    }
    for (uint32_t layer = n_own; layer < config->n_layer; layer++)
        config->may_skip[config->kv_layer[layer]] = 0;
    if (config->n_layer == 1) config->may_skip[0] = 0;
    return MF_OK;
}

/* Layers 20 to 24 left out, and half the width: E2B, which E4B contains. */
static bool is_e4b(const mfi_config *config, const facts *f)
{
    bool uniform = config->n_layer == 35 && f->n_shared == 15;
    for (uint32_t layer = 0; layer < config->n_layer; layer++)
        uniform = uniform && f->ffn[layer] == f->ffn[0];
    return uniform;
}

static void set_e2b(mfi_config *config, const facts *f)
{
    mfi_import_granularity(config, 0, "E2B", f->ffn, 0.5);
    for (uint32_t layer = 20; layer < 25; layer++)
        config->granularity[0].ffn[layer] = config->granularity[0].heads[layer] = 0;
}

/* The published slicing configurations of E4B (google/gemma3n-slicing-configs): layers at full width, as ranges; the
 * others have half of it. Two are published at layer level and at block level under one number: the latter's name says so. */
typedef struct slice {
    const char *name;
    bool skips; /* layers 20 to 24 */
    uint8_t wide[5][2];
    uint8_t n_wide;
} slice;

static const slice e4b_slices[] = {
    { "E1.96", true, { { 4, 4 } }, 1 },
    { "E2.54", false, { { 4, 4 }, { 20, 24 } }, 2 },
    { "E2.69", false, { { 4, 4 }, { 9, 9 }, { 14, 14 }, { 19, 24 } }, 4 },
    { "E2.98", false, { { 15, 24 }, { 30, 34 } }, 2 },
    { "E3.18", false, { { 4, 4 }, { 9, 24 }, { 29, 29 }, { 34, 34 } }, 4 },
    { "E3.39", false, { { 4, 4 }, { 9, 29 }, { 34, 34 } }, 3 },
    { "E3.59", false, { { 4, 29 }, { 34, 34 } }, 2 },
    { "E3.79", false, { { 4, 34 } }, 1 },
    { "E2.49", false, { { 20, 24 } }, 1 },
    { "E2.73", false, { { 15, 24 } }, 1 },
    { "E2.98-block", false, { { 10, 24 } }, 1 },
    { "E3.24", false, { { 10, 29 } }, 1 },
    { "E3.49", false, { { 5, 29 } }, 1 },
    { "E3.79-block", false, { { 5, 34 } }, 1 },
};

static void name_slices(mfi_config *config, const facts *f)
{
    for (size_t i = 0; i < MFI_COUNT(e4b_slices); i++) {
        const slice *s = &e4b_slices[i];
        mfi_granularity *named = &config->named[i];
        snprintf(named->name, sizeof named->name, "%s", s->name);
        for (uint32_t layer = 0; layer < config->n_layer; layer++) {
            const bool skipped = s->skips && layer >= 20 && layer < 25;
            bool wide = false;
            for (uint32_t w = 0; w < s->n_wide; w++)
                wide = wide || (layer >= s->wide[w][0] && layer <= s->wide[w][1]);
            named->ffn[layer] = skipped ? 0 : wide ? f->ffn[layer] : config->granularity[0].ffn[0];
            named->heads[layer] = skipped ? 0 : config->n_head;
        }
    }
}

static mf_status finish(mfi_config *config, const facts *f, const char *where, const mf_allocator *allocator,
                        mf_error *error)
{
    if (f->n_shared >= config->n_layer)
        return mfi_fail(error, MF_E_FORMAT,
                        "%s: %u of %u layers share keys and values: there must be one that has its own", where,
                        f->n_shared, config->n_layer);
    set_constants(config);
    mf_status status = mfi_import_check_heads(where, config->n_head, f->n_kv_head, error);
    if (status != MF_OK) return status;
    config->head_group = config->n_head / f->n_kv_head;
    const bool e4b = is_e4b(config, f);
    config->n_named = e4b ? MFI_COUNT(e4b_slices) : 0;
    status = mfi_import_extents(config, e4b ? 2 : 1, allocator, error);
    if (status == MF_OK) status = share_keys(config, f, where, error);
    if (status != MF_OK) return status;
    if (e4b) {
        set_e2b(config, f);
        name_slices(config, f);
    }
    mfi_import_granularity(config, e4b ? 1 : 0, e4b ? "E4B" : "XL", f->ffn, 1);
    return MF_OK;
}

/* ---- config.json ---- */

/* Absent, every fifth layer is full. A list that is longer than the model is a sliced export's: its first entries count. */
static void read_layer_types(mfi_json_reader *r, uint32_t n_layer, facts *f)
{
    const json_t *list = mfi_json_array(r, "layer_types");
    for (uint32_t layer = 0; layer < n_layer && r->status == MF_OK; layer++) {
        const char *type = json_string_value(json_array_get(list, layer));
        f->slides[layer] = list ? type && strcmp(type, "sliding_attention") == 0 : (layer + 1) % 5 != 0;
        if (list && !f->slides[layer] && (!type || strcmp(type, "full_attention") != 0))
            r->status = mfi_fail(r->error, MF_E_FORMAT,
                                 "%s: \"layer_types\" must be sliding_attention or full_attention for layer %u",
                                 r->where, layer);
    }
}

/* The quantile of the standard normal distribution at `share`: 0.95 is what published models have. */
static float kappa(double share)
{
    if (share <= 0) return 0;
    if (share == 0.95) return MFI_KAPPA_95;
    double low = -40, high = 40; /* by bisection of 0.5 erfc(-x / sqrt 2), exact to the last place of f32 */
    for (int i = 0; i < 200; i++) {
        const double middle = (low + high) / 2;
        *(0.5 * erfc(-middle * 0.70710678118654752440) < share ? &low : &high) = middle;
    }
    return (float)low != 0 ? (float)low : FLT_MIN; /* 0 is dense */
}

static void read_sparsity(mfi_json_reader *r, uint32_t n_layer, facts *f)
{
    const json_t *value = r->status == MF_OK ? json_object_get(r->object, "activation_sparsity_pattern") : NULL;
    const bool given = value && !json_is_null(value);
    for (uint32_t layer = 0; layer < n_layer && r->status == MF_OK; layer++) {
        double share = given ? -1 : n_layer > 10 && layer < 10 ? 0.95 : 0;
        if (json_is_number(value)) share = json_number_value(value);
        if (json_is_number(json_array_get(value, layer))) share = json_number_value(json_array_get(value, layer));
        if (share < 0 || share >= 1)
            r->status = mfi_fail(r->error, MF_E_FORMAT,
                                 "%s: \"activation_sparsity_pattern\" must have a share from 0 to below 1 for layer %u",
                                 r->where, layer);
        f->sparsity[layer] = kappa(share);
    }
}

/* rope_parameters: { full_attention: {...}, sliding_attention: {...} }, or the older two keys. */
static void read_rotation(mfi_json_reader *r, mfi_config *config)
{
    config->rope_theta = mfi_json_f64_or(r, "rope_theta", 1e6);
    config->gemma3n.rope_theta_local = mfi_json_f64_or(r, "rope_local_base_freq", 1e4);
    mfi_import_rope(r, mfi_json_object(r, "rope_scaling"), config);
    const json_t *parameters = mfi_json_object(r, "rope_parameters");
    if (!parameters || r->status != MF_OK) return;
    mfi_json_reader both = { r->where, parameters, r->error, MF_OK };
    const json_t *full = mfi_json_object(&both, "full_attention"), *local = mfi_json_object(&both, "sliding_attention");
    r->status = both.status;
    mfi_import_rope(r, full, config);
    mfi_config sliding = { .rope_theta = config->gemma3n.rope_theta_local };
    mfi_import_rope(r, local, &sliding);
    config->gemma3n.rope_theta_local = sliding.rope_theta;
    if (r->status == MF_OK &&
        (sliding.rope_scaling.kind != MFI_ROPE_PLAIN || config->rope_scaling.kind != MFI_ROPE_PLAIN))
        r->status =
            mfi_fail(r->error, MF_E_UNSUPPORTED, "%s: scaled rotations are not supported in Gemma 3n", r->where);
}

static void read_gemma3n(mfi_json_reader *r, mfi_gemma3n *g, uint32_t n_vocab)
{
    g->n_stream = mfi_json_u32_or(r, "altup_num_inputs", 1, 8, 4);
    g->active = mfi_json_u32_or(r, "altup_active_idx", 0, 7, 0);
    g->coef_clip =
        (float)mfi_json_f64_or(r, "altup_coef_clip", json_object_get(r->object, "altup_coef_clip") ? 0 : 120);
    g->correct_scale = mfi_json_bool_or(r, "altup_correct_scale", true);
    g->laurel_rank = mfi_json_u32_or(r, "laurel_rank", 1, 4096, 64);
    g->d_ple = mfi_json_u32_or(r, "hidden_size_per_layer_input", 1, 1u << 16, 256);
    g->n_vocab_ple = mfi_json_u32_or(r, "vocab_size_per_layer_input", 1, 1u << 24, n_vocab < 262144 ? n_vocab : 262144);
}

static mf_status read_json(mfi_config *config, mfi_json_reader *r, const mfi_tensor_file *file,
                           const mf_allocator *allocator, mf_error *error)
{
    facts f = { .n_kv_head = 1 };
    (void)file;
    config->n_layer = mfi_json_u32(r, "num_hidden_layers", 1, MFI_MAX_LAYER);
    config->d_model = mfi_json_u32(r, "hidden_size", 1, 1u << 16);
    config->n_head = mfi_json_u32(r, "num_attention_heads", 1, 4096);
    f.n_kv_head = mfi_json_u32_or(r, "num_key_value_heads", 1, config->n_head, config->n_head);
    config->d_head = mfi_json_u32_or(r, "head_dim", 1, 512, 256);
    config->n_vocab = mfi_json_u32(r, "vocab_size", 1, 1u << 24);
    config->max_positions = mfi_json_u32_or(r, "max_position_embeddings", 1, 1u << 24, 32768);
    config->norm_eps = (float)mfi_json_f64_or(r, "rms_norm_eps", 1e-6);
    const bool capped = !json_object_get(r->object, "final_logit_softcapping") ||
                        !json_is_null(json_object_get(r->object, "final_logit_softcapping"));
    config->logit_softcap = (float)mfi_json_f64_or(r, "final_logit_softcapping", capped ? 30 : 0);
    if (mfi_import_activation(r, "hidden_activation", "gelu_pytorch_tanh") != MFK_GELU_TANH && r->status == MF_OK)
        r->status = mfi_fail(error, MF_E_UNSUPPORTED, "%s: \"hidden_activation\" must be gelu_pytorch_tanh", r->where);
    if (mfi_json_bool_or(r, "attention_bias", false) && r->status == MF_OK)
        r->status = mfi_fail(error, MF_E_UNSUPPORTED, "%s: \"attention_bias\" is not supported", r->where);
    config->bos_token = mfi_import_token(r, "bos_token_id");
    config->eos_token = mfi_import_token(r, "eos_token_id");
    f.n_shared = mfi_json_u32_or(r, "num_kv_shared_layers", 0, MFI_MAX_LAYER, 0);
    f.window = mfi_json_u32_or(r, "sliding_window", 1, 1u << 24, 512);
    read_rotation(r, config);
    read_gemma3n(r, &config->gemma3n, config->n_vocab);
    read_layer_types(r, config->n_layer, &f);
    read_sparsity(r, config->n_layer, &f);
    mfi_import_widths(r, "intermediate_size", config->n_layer, f.ffn);
    return r->status == MF_OK ? finish(config, &f, r->where, allocator, error) : r->status;
}

/* ---- GGUF ---- */

static void read_gguf_layers(mfi_gguf_reader *r, uint32_t n_layer, facts *f)
{
    double width[MFI_MAX_LAYER] = { 0 }, pattern[MFI_MAX_LAYER] = { 0 }, sparsity[MFI_MAX_LAYER] = { 0 };
    char key[64] = "gemma3n.attention.sliding_window_pattern";
    mfi_gguf_kind kind;
    uint64_t count;
    const bool listed = mfi_gguf_array(r->file, key, &kind, &count);
    mfi_gguf_read_layers(r, "feed_forward_length", n_layer, 0, width);
    mfi_gguf_read_layers(r, "attention.sliding_window_pattern", n_layer, 5, pattern);
    mfi_gguf_read_layers(r, "activation_sparsity_scale", n_layer, 0, sparsity);
    for (uint32_t layer = 0; layer < n_layer; layer++) {
        f->ffn[layer] = width[layer] >= 1 && width[layer] <= 1u << 20 ? (uint32_t)width[layer] : 0;
        f->slides[layer] = listed ? pattern[layer] != 0 : pattern[layer] < 1 || fmod(layer + 1, pattern[layer]) != 0;
        f->sparsity[layer] =
            isfinite(sparsity[layer]) && sparsity[layer] > 0 ? (float)sparsity[layer] : 0; /* -inf: dense */
    }
}

/* What no key says, but the tensors do. */
static void read_gguf_extents(mfi_gguf_reader *r, mfi_config *config)
{
    const mfi_tensor_file *file = r->file;
    mfi_gemma3n *g = &config->gemma3n;
    const mfi_source_tensor *embed = mfi_tensor_file_find(file, "token_embd.weight");
    const mfi_source_tensor *table = mfi_tensor_file_find(file, "per_layer_token_embd.weight");
    const mfi_source_tensor *laurel = mfi_tensor_file_find(file, "blk.0.laurel_l.weight");
    if (!embed || !table || !laurel || embed->n_dim != 2 || table->n_dim != 2 || laurel->n_dim != 2) {
        if (r->status == MF_OK)
            r->status =
                mfi_fail(r->error, MF_E_FORMAT,
                         "%s: token_embd, per_layer_token_embd or blk.0.laurel_l is missing; fetch the file again",
                         mfi_tensor_file_name(file));
        return;
    }
    g->coef_clip = 120;
    g->correct_scale = mfi_tensor_file_find(file, "blk.0.altup_correct_scale.weight") != NULL;
    config->n_vocab = embed->dim[0] <= 1u << 24 ? (uint32_t)embed->dim[0] : 0;
    g->n_vocab_ple = table->dim[0] <= 1u << 24 ? (uint32_t)table->dim[0] : 0;
    g->laurel_rank = laurel->dim[0] <= 4096 ? (uint32_t)laurel->dim[0] : 0;
}

static mf_status read_gguf(mfi_config *config, const mfi_tensor_file *file, const mf_allocator *allocator,
                           mf_error *error)
{
    mfi_gguf_reader r = { file, "gemma3n", error, MF_OK };
    facts f = { .n_kv_head = 1 };
    config->n_layer = mfi_gguf_read_u32(&r, "block_count", 1, MFI_MAX_LAYER);
    config->d_model = mfi_gguf_read_u32(&r, "embedding_length", 1, 1u << 16);
    config->n_head = mfi_gguf_read_u32(&r, "attention.head_count", 1, 4096);
    f.n_kv_head = mfi_gguf_read_u32_or(&r, "attention.head_count_kv", 1, config->n_head, config->n_head);
    config->d_head = mfi_gguf_read_u32_or(&r, "attention.key_length", 1, 512, 256);
    config->max_positions = mfi_gguf_read_u32_or(&r, "context_length", 1, 1u << 24, 32768);
    config->norm_eps = (float)mfi_gguf_read_f64_or(&r, "attention.layer_norm_rms_epsilon", 1e-6);
    config->logit_softcap = (float)mfi_gguf_read_f64_or(&r, "final_logit_softcapping", 30);
    config->rope_theta = mfi_gguf_read_f64_or(&r, "rope.freq_base", 1e6);
    config->gemma3n.rope_theta_local = mfi_gguf_read_f64_or(&r, "rope.freq_base_swa", 1e4);
    f.n_shared = mfi_gguf_read_u32_or(&r, "attention.shared_kv_layers", 0, MFI_MAX_LAYER,
                                      config->n_layer > 20 ? config->n_layer - 20 : 0);
    f.window = mfi_gguf_read_u32_or(&r, "attention.sliding_window", 1, 1u << 24, 512);
    config->gemma3n.n_stream = mfi_gguf_read_u32_or(&r, "altup.num_inputs", 1, 8, 4);
    config->gemma3n.active = mfi_gguf_read_u32_or(&r, "altup.active_idx", 0, 7, 0);
    config->gemma3n.d_ple = mfi_gguf_read_u32_or(&r, "embedding_length_per_layer_input", 1, 1u << 16, 256);
    read_gguf_extents(&r, config);
    if (r.status != MF_OK) return r.status;
    config->bos_token = mfi_gguf_token(file, "bos_token_id", config->n_vocab);
    config->eos_token = mfi_gguf_token(file, "eos_token_id", config->n_vocab);
    read_gguf_layers(&r, config->n_layer, &f);
    return r.status == MF_OK ? finish(config, &f, mfi_tensor_file_name(file), allocator, error) : r.status;
}

static const char *const hf_prefixes[] = { "model.language_model.", "model.", "language_model.model.", "", NULL };
static const char *const no_prefix[] = { "", NULL };

const mfi_import_family mfi_import_gemma3n_hf = {
    MFI_FAMILY_GEMMA3N, "gemma3n gemma3n_text", hf_prefixes, "embed_tokens_per_layer.weight", hf_names, read_json, NULL,
};
const mfi_import_family mfi_import_gemma3n_gguf = {
    MFI_FAMILY_GEMMA3N, "gemma3n", no_prefix, "token_embd.weight", gguf_names, NULL, read_gguf,
};
