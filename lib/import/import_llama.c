/* import_llama.c - Llama 2 and 3: LlamaForCausalLM, and "llama" of GGUF. */
#include <math.h>
#include <string.h>

#include "defs.h"
#include "families.h"
#include "status.h"

static const mfi_name hf_names[] = {
    { "embed", "embed_tokens.weight", MFI_NAME_WHOLE },
    { "output", "^lm_head.weight", MFI_NAME_WHOLE },
    { "final_norm.weight", "norm.weight", MFI_NAME_WHOLE },
    { "attn_norm.weight", "layers.%u.input_layernorm.weight", MFI_NAME_WHOLE },
    { "ffn_norm.weight", "layers.%u.post_attention_layernorm.weight", MFI_NAME_WHOLE },
    { "final_norm.bias", "norm.bias", MFI_NAME_WHOLE }, /* biases of norms: "matformer" of config.json */
    { "attn_norm.bias", "layers.%u.input_layernorm.bias", MFI_NAME_WHOLE },
    { "ffn_norm.bias", "layers.%u.post_attention_layernorm.bias", MFI_NAME_WHOLE },
    { "attn.q", "layers.%u.self_attn.q_proj.weight", MFI_NAME_WHOLE },
    { "attn.k", "layers.%u.self_attn.k_proj.weight", MFI_NAME_WHOLE },
    { "attn.v", "layers.%u.self_attn.v_proj.weight", MFI_NAME_WHOLE },
    { "attn.o", "layers.%u.self_attn.o_proj.weight", MFI_NAME_WHOLE },
    { "attn.q.bias", "layers.%u.self_attn.q_proj.bias", MFI_NAME_WHOLE },
    { "attn.k.bias", "layers.%u.self_attn.k_proj.bias", MFI_NAME_WHOLE },
    { "attn.v.bias", "layers.%u.self_attn.v_proj.bias", MFI_NAME_WHOLE },
    { "attn.o.bias", "layers.%u.self_attn.o_proj.bias", MFI_NAME_WHOLE },
    { "ffn.gate", "layers.%u.mlp.gate_proj.weight", MFI_NAME_WHOLE },
    { "ffn.up", "layers.%u.mlp.up_proj.weight", MFI_NAME_WHOLE },
    { "ffn.down", "layers.%u.mlp.down_proj.weight", MFI_NAME_WHOLE },
    { "ffn.gate.bias", "layers.%u.mlp.gate_proj.bias", MFI_NAME_WHOLE },
    { "ffn.up.bias", "layers.%u.mlp.up_proj.bias", MFI_NAME_WHOLE },
    { "ffn.down.bias", "layers.%u.mlp.down_proj.bias", MFI_NAME_WHOLE },
    { NULL, NULL, MFI_NAME_WHOLE },
};

static const mfi_name gguf_names[] = {
    { "embed", "token_embd.weight", MFI_NAME_WHOLE },
    { "output", "output.weight", MFI_NAME_WHOLE },
    { "final_norm.weight", "output_norm.weight", MFI_NAME_WHOLE },
    { "attn_norm.weight", "blk.%u.attn_norm.weight", MFI_NAME_WHOLE },
    { "ffn_norm.weight", "blk.%u.ffn_norm.weight", MFI_NAME_WHOLE },
    { "attn.q", "blk.%u.attn_q.weight", MFI_NAME_ROTATED },
    { "attn.q", "blk.%u.attn_qkv.weight", MFI_NAME_FUSED_ROTATED_Q },
    { "attn.k", "blk.%u.attn_k.weight", MFI_NAME_ROTATED },
    { "attn.k", "blk.%u.attn_qkv.weight", MFI_NAME_FUSED_ROTATED_K },
    { "attn.v", "blk.%u.attn_v.weight", MFI_NAME_WHOLE },
    { "attn.v", "blk.%u.attn_qkv.weight", MFI_NAME_V },
    { "attn.o", "blk.%u.attn_output.weight", MFI_NAME_WHOLE },
    { "attn.q.bias", "blk.%u.attn_q.bias", MFI_NAME_ROTATED },
    { "attn.k.bias", "blk.%u.attn_k.bias", MFI_NAME_ROTATED },
    { "attn.v.bias", "blk.%u.attn_v.bias", MFI_NAME_WHOLE },
    { "attn.o.bias", "blk.%u.attn_output.bias", MFI_NAME_WHOLE },
    { "ffn.gate", "blk.%u.ffn_gate.weight", MFI_NAME_WHOLE },
    { "ffn.up", "blk.%u.ffn_up.weight", MFI_NAME_WHOLE },
    { "ffn.down", "blk.%u.ffn_down.weight", MFI_NAME_WHOLE },
    { "ffn.gate.bias", "blk.%u.ffn_gate.bias", MFI_NAME_WHOLE },
    { "ffn.up.bias", "blk.%u.ffn_up.bias", MFI_NAME_WHOLE },
    { "ffn.down.bias", "blk.%u.ffn_down.bias", MFI_NAME_WHOLE },
    { NULL, NULL, MFI_NAME_WHOLE },
};

/* Of all Llamas. n_layer, n_head and d_model are set. */
static void set_common(mfi_config *config, uint32_t n_kv_head)
{
    config->family = MFI_FAMILY_LLAMA;
    config->head_group = config->n_head / n_kv_head;
    config->norm = MFI_NORM_RMS;
    config->ffn = MFI_FFN_GATED;
    config->embed_scale = 1;
    config->attention_scale = (float)(1 / sqrt((double)config->d_head));
}

static mf_status check_llama(const char *where, const mfi_config *config, uint32_t n_kv_head, mf_error *error)
{
    if (!(config->rope_theta >= 1)) /* 0 would be a model without rotations */
        return mfi_fail(error, MF_E_FORMAT, "%s: the base of rotations is %g, and must be at least 1", where,
                        config->rope_theta);
    return mfi_import_check_heads(where, config->n_head, n_kv_head, error);
}

static mf_status read_json(mfi_config *config, mfi_json_reader *r, const mfi_tensor_file *file,
                           const mf_allocator *allocator, mf_error *error)
{
    uint32_t ffn[MFI_MAX_LAYER] = { 0 };
    (void)file;
    config->n_layer = mfi_json_u32(r, "num_hidden_layers", 1, MFI_MAX_LAYER);
    config->d_model = mfi_json_u32(r, "hidden_size", 1, 1u << 16);
    config->n_head = mfi_json_u32(r, "num_attention_heads", 1, 4096);
    config->d_head = mfi_json_u32_or(r, "head_dim", 1, 512, config->d_model / config->n_head);
    const uint32_t n_kv_head = mfi_json_u32_or(r, "num_key_value_heads", 1, config->n_head, config->n_head);
    config->n_vocab = mfi_json_u32(r, "vocab_size", 1, 1u << 24);
    config->max_positions = mfi_json_u32_or(r, "max_position_embeddings", 1, 1u << 24, 2048);
    config->norm_eps = (float)mfi_json_f64_or(r, "rms_norm_eps", 1e-6);
    config->rope_theta = mfi_json_f64_or(r, "rope_theta", 1e4);
    mfi_import_rope(r, mfi_json_object(r, "rope_scaling"), config);
    mfi_import_rope(r, mfi_json_object(r, "rope_parameters"), config);
    config->tied = mfi_json_bool_or(r, "tie_word_embeddings", false);
    config->attention_bias = mfi_json_bool_or(r, "attention_bias", false);
    config->ffn_bias = mfi_json_bool_or(r, "mlp_bias", false);
    config->activation = mfi_import_activation(r, "hidden_act", "silu");
    config->bos_token = mfi_import_token(r, "bos_token_id");
    config->eos_token = mfi_import_token(r, "eos_token_id");
    mfi_import_widths(r, "intermediate_size", config->n_layer, ffn);
    if (r->status == MF_OK) r->status = check_llama(r->where, config, n_kv_head, error);
    if (r->status == MF_OK) r->status = mfi_import_extents(config, 1, allocator, error);
    if (r->status != MF_OK) return r->status;
    set_common(config, n_kv_head);
    mfi_import_granularity(config, 0, "XL", ffn, 1);
    return MF_OK;
}

static void read_gguf_scaling(mfi_gguf_reader *r, mfi_rope_scaling *to)
{
    const double factor =
        mfi_gguf_read_f64_or(r, "rope.scaling.factor", mfi_gguf_read_f64_or(r, "rope.scale_linear", 1));
    mfi_gguf_text type = { "linear", 6 };
    mfi_gguf_text_of(r->file, "llama.rope.scaling.type", &type);
    const bool linear = type.bytes == 6 && memcmp(type.at, "linear", 6) == 0;
    const bool none = type.bytes == 4 && memcmp(type.at, "none", 4) == 0;
    if (linear && factor != 1)
        *to = (mfi_rope_scaling){ .kind = MFI_ROPE_LINEAR, .factor = factor };
    else if (!linear && !none && r->status == MF_OK)
        r->status = mfi_fail(r->error, MF_E_UNSUPPORTED,
                             "%s: rotations of type \"%.*s\" are not supported; only none and linear are",
                             mfi_tensor_file_name(r->file), (int)mfi_min(type.bytes, 40), type.at);
}

/* The factors by which GGUF divides frequencies, where it stores them, are those of llama3; which these are of is not
 * said, but they follow from the smallest and the largest wavelength that they change. So they are taken as they are,
 * by import.c: here the frequencies are plain. */
static mf_status read_gguf(mfi_config *config, const mfi_tensor_file *file, const mf_allocator *allocator,
                           mf_error *error)
{
    mfi_gguf_reader r = { file, "llama", error, MF_OK };
    double width[MFI_MAX_LAYER] = { 0 };
    uint32_t ffn[MFI_MAX_LAYER] = { 0 };
    if (mfi_gguf_read_u32_or(&r, "expert_count", 0, UINT32_MAX, 0) > 0)
        return mfi_fail(error, MF_E_UNSUPPORTED, "%s: metadata \"llama.expert_count\": experts are not supported",
                        mfi_tensor_file_name(file));
    config->n_layer = mfi_gguf_read_u32(&r, "block_count", 1, MFI_MAX_LAYER);
    config->d_model = mfi_gguf_read_u32(&r, "embedding_length", 1, 1u << 16);
    config->n_head = mfi_gguf_read_u32(&r, "attention.head_count", 1, 4096);
    config->d_head = mfi_gguf_read_u32_or(&r, "attention.key_length", 1, 512, config->d_model / config->n_head);
    const uint32_t n_kv_head = mfi_gguf_read_u32_or(&r, "attention.head_count_kv", 1, config->n_head, config->n_head);
    config->max_positions = mfi_gguf_read_u32_or(&r, "context_length", 1, 1u << 24, 2048);
    config->norm_eps = (float)mfi_gguf_read_f64(&r, "attention.layer_norm_rms_epsilon");
    config->rope_theta = mfi_gguf_read_f64_or(&r, "rope.freq_base", 1e4);
    read_gguf_scaling(&r, &config->rope_scaling);
    const mfi_source_tensor *embed = mfi_tensor_file_find(file, "token_embd.weight");
    config->n_vocab = embed && embed->n_dim == 2 && embed->dim[0] <= 1u << 24 ? (uint32_t)embed->dim[0] : 0;
    config->tied = mfi_tensor_file_find(file, "output.weight") == NULL;
    config->attention_bias = mfi_tensor_file_find(file, "blk.0.attn_q.bias") != NULL;
    config->ffn_bias = mfi_tensor_file_find(file, "blk.0.ffn_up.bias") != NULL;
    config->activation = MFK_SILU;
    config->bos_token = mfi_gguf_token(file, "bos_token_id", config->n_vocab);
    config->eos_token = mfi_gguf_token(file, "eos_token_id", config->n_vocab);
    mfi_gguf_read_layers(&r, "feed_forward_length", config->n_layer, 0, width);
    for (uint32_t layer = 0; layer < config->n_layer; layer++)
        ffn[layer] = width[layer] >= 1 && width[layer] <= 1u << 20 ? (uint32_t)width[layer] : 0;
    if (r.status == MF_OK) r.status = check_llama(mfi_tensor_file_name(file), config, n_kv_head, error);
    if (r.status == MF_OK) r.status = mfi_import_extents(config, 1, allocator, error);
    if (r.status != MF_OK) return r.status;
    set_common(config, n_kv_head);
    mfi_import_granularity(config, 0, "XL", ffn, 1);
    return MF_OK;
}

static const char *const hf_prefixes[] = { "model.", "", NULL }, *const no_prefix[] = { "", NULL };

const mfi_import_family mfi_import_llama_hf = {
    MFI_FAMILY_LLAMA, "llama", hf_prefixes, "embed_tokens.weight", hf_names, read_json, NULL,
};
const mfi_import_family mfi_import_llama_gguf = {
    MFI_FAMILY_LLAMA, "llama", no_prefix, "token_embd.weight", gguf_names, NULL, read_gguf,
};
