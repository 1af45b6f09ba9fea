/* import_olmo.c - MatFormer-OLMo: its checkpoints' tensors, as safetensors, and the keys of its config.yaml in a
 * config.json of model_type "matformer_olmo" (docs/import.md says how to make one of its PyTorch files). */
#include <math.h>
#include <string.h>

#include "defs.h"
#include "families.h"
#include "status.h"

static const mfi_name names[] = {
    { "embed", "wte.weight", MFI_NAME_WHOLE },
    { "output", "ff_out.weight", MFI_NAME_WHOLE },
    { "final_norm.weight", "ln_f.weight", MFI_NAME_WHOLE },
    { "final_norm.bias", "ln_f.bias", MFI_NAME_WHOLE },
    { "attn_norm.weight", "blocks.%u.attn_norm.weight", MFI_NAME_WHOLE },
    { "attn_norm.bias", "blocks.%u.attn_norm.bias", MFI_NAME_WHOLE },
    { "attn_norm.weight", "blocks.%u.norm.weight", MFI_NAME_WHOLE },
    { "attn_norm.bias", "blocks.%u.norm.bias", MFI_NAME_WHOLE },
    { "ffn_norm.weight", "blocks.%u.ff_norm.weight", MFI_NAME_WHOLE },
    { "ffn_norm.bias", "blocks.%u.ff_norm.bias", MFI_NAME_WHOLE },
    { "ffn_norm.weight", "blocks.%u.norm.weight", MFI_NAME_WHOLE },
    { "ffn_norm.bias", "blocks.%u.norm.bias", MFI_NAME_WHOLE },
    { "attn.q", "blocks.%u.att_proj.weight", MFI_NAME_Q },
    { "attn.k", "blocks.%u.att_proj.weight", MFI_NAME_K },
    { "attn.v", "blocks.%u.att_proj.weight", MFI_NAME_V },
    { "attn.q.bias", "blocks.%u.att_proj.bias", MFI_NAME_Q },
    { "attn.k.bias", "blocks.%u.att_proj.bias", MFI_NAME_K },
    { "attn.v.bias", "blocks.%u.att_proj.bias", MFI_NAME_V },
    { "attn.o", "blocks.%u.attn_out.weight", MFI_NAME_WHOLE },
    { "attn.o.bias", "blocks.%u.attn_out.bias", MFI_NAME_WHOLE },
    /* The parallel block fuses q, k, v and the FFN's first matrix. */
    { "attn.q", "blocks.%u.fused_attn_ff_proj.weight", MFI_NAME_Q },
    { "attn.k", "blocks.%u.fused_attn_ff_proj.weight", MFI_NAME_K },
    { "attn.v", "blocks.%u.fused_attn_ff_proj.weight", MFI_NAME_V },
    { "attn.q.bias", "blocks.%u.fused_attn_ff_proj.bias", MFI_NAME_Q },
    { "attn.k.bias", "blocks.%u.fused_attn_ff_proj.bias", MFI_NAME_K },
    { "attn.v.bias", "blocks.%u.fused_attn_ff_proj.bias", MFI_NAME_V },
    { "ffn.up", "blocks.%u.ff_proj.weight", MFI_NAME_WHOLE },
    { "ffn.up.bias", "blocks.%u.ff_proj.bias", MFI_NAME_WHOLE },
    { "ffn.up", "blocks.%u.fused_attn_ff_proj.weight", MFI_NAME_AFTER_QKV },
    { "ffn.up.bias", "blocks.%u.fused_attn_ff_proj.bias", MFI_NAME_AFTER_QKV },
    { "ffn.down", "blocks.%u.ff_out.weight", MFI_NAME_WHOLE },
    { "ffn.down.bias", "blocks.%u.ff_out.bias", MFI_NAME_WHOLE },
    { NULL, NULL, MFI_NAME_WHOLE },
};

/* Asked for by a configuration, and not what this reads. */
static void refuse(mfi_json_reader *r, const char *key, const char *why)
{
    if (r->status == MF_OK) r->status = mfi_fail(r->error, MF_E_UNSUPPORTED, "%s: \"%s\" %s", r->where, key, why);
}

static void check_supported(mfi_json_reader *r)
{
    const char *block = mfi_json_text_or(r, "block_type", "sequential");
    const char *norm = mfi_json_text_or(r, "layer_norm_type", "default");
    const char *activation = mfi_json_text_or(r, "activation_type", "swiglu");
    if (r->status != MF_OK) return;
    if (strcmp(block, "sequential") != 0 && strcmp(block, "parallel") != 0)
        refuse(r, "block_type", "must be sequential or parallel");
    if (strcmp(norm, "default") != 0 && strcmp(norm, "low_precision") != 0)
        refuse(r, "layer_norm_type", "must be default or low_precision");
    if (strcmp(activation, "gelu") != 0 && strcmp(activation, "relu") != 0)
        refuse(r, "activation_type", "must be gelu or relu: a prefix of swiglu's halves is no smaller model");
    if (mfi_json_bool_or(r, "attention_layer_norm", false)) refuse(r, "attention_layer_norm", "is not supported");
    if (mfi_json_f64_or(r, "alibi_bias_max", 8) <= 0) refuse(r, "alibi_bias_max", "must be more than 0");
    if (!mfi_json_bool_or(r, "alibi", false) && !mfi_json_bool_or(r, "rope", false))
        refuse(r, "alibi", "or \"rope\" must be true: learned positions are not supported");
}

/* Under either prefix. */
static bool has_output(const mfi_tensor_file *file)
{
    return mfi_tensor_file_find(file, "transformer.ff_out.weight") ||
           mfi_tensor_file_find(file, "model.transformer.ff_out.weight");
}

static mf_status read_json(mfi_config *config, mfi_json_reader *r, const mfi_tensor_file *file,
                           const mf_allocator *allocator, mf_error *error)
{
    static const char *const granularity[] = { "S", "M", "L", "XL" };
    uint32_t ffn[MFI_MAX_LAYER] = { 0 };
    check_supported(r);
    config->family = MFI_FAMILY_OLMO;
    config->n_layer = mfi_json_u32(r, "n_layers", 1, MFI_MAX_LAYER);
    config->d_model = mfi_json_u32(r, "d_model", 1, 1u << 16);
    config->n_head = mfi_json_u32(r, "n_heads", 1, 4096);
    config->d_head = config->d_model / config->n_head;
    config->head_group = mfi_json_bool_or(r, "multi_query_attention", false) ? config->n_head : 1;
    config->n_vocab = mfi_json_u32_or(r, "embedding_size", 1, 1u << 24, mfi_json_u32(r, "vocab_size", 1, 1u << 24));
    config->n_token = mfi_json_u32(r, "vocab_size", 1, config->n_vocab);
    config->max_positions = mfi_json_u32_or(r, "max_sequence_length", 1, 1u << 24, 1024);
    config->norm = MFI_NORM_LAYER;
    config->norm_eps = 1e-5f;
    config->ffn = MFI_FFN_PLAIN;
    config->activation = strcmp(mfi_json_text_or(r, "activation_type", "gelu"), "relu") == 0 ? MFK_RELU : MFK_GELU_ERF;
    config->rope_theta = mfi_json_bool_or(r, "rope", false) ? 1e4 : 0;
    config->alibi_max = mfi_json_bool_or(r, "alibi", false) ? (float)mfi_json_f64_or(r, "alibi_bias_max", 8) : 0;
    config->embed_scale = 1;
    config->attention_scale = (float)(1 / sqrt((double)config->d_head));
    config->tied = mfi_json_bool_or(r, "weight_tying", !has_output(file));
    config->attention_bias = config->ffn_bias = mfi_json_bool_or(r, "include_bias", true);
    config->parallel = strcmp(mfi_json_text_or(r, "block_type", "sequential"), "parallel") == 0;
    config->bos_token = -1;
    config->eos_token = mfi_import_token(r, "eos_token_id");
    const uint32_t width = mfi_json_u32_or(r, "mlp_ratio", 1, 64, 4) * config->d_model;
    for (uint32_t layer = 0; layer < config->n_layer; layer++)
        ffn[layer] = width;
    if (r->status == MF_OK) r->status = mfi_import_extents(config, 4, allocator, error);
    for (uint32_t g = 0; g < 4 && r->status == MF_OK; g++)
        mfi_import_granularity(config, g, granularity[g], ffn, 1.0 / (8 >> g));
    return r->status;
}

static const char *const prefixes[] = { "transformer.", "model.transformer.", NULL };

const mfi_import_family mfi_import_olmo = {
    MFI_FAMILY_OLMO, "matformer_olmo", prefixes, "wte.weight", names, read_json, NULL,
};
