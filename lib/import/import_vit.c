/* import_vit.c - ViT of Hugging Face: ViTForImageClassification and ViTModel, of both generations of tensor names. MatViT
 * has the same shapes; its Flax files are converted by the table of docs/import.md. */
#include <math.h>
#include <string.h>

#include "defs.h"
#include "families.h"
#include "status.h"

static const mfi_name names[] = {
    { "class_token", "embeddings.cls_token", MFI_NAME_WHOLE },
    { "position", "embeddings.position_embeddings", MFI_NAME_WHOLE },
    { "patch.project", "embeddings.patch_embeddings.projection.weight", MFI_NAME_WHOLE },
    { "patch.bias", "embeddings.patch_embeddings.projection.bias", MFI_NAME_WHOLE },
    { "final_norm.weight", "layernorm.weight", MFI_NAME_WHOLE },
    { "final_norm.bias", "layernorm.bias", MFI_NAME_WHOLE },
    { "classifier", "^classifier.weight", MFI_NAME_WHOLE },
    { "classifier.bias", "^classifier.bias", MFI_NAME_WHOLE },
    { "pooler", "pooler.dense.weight", MFI_NAME_WHOLE },
    { "pooler.bias", "pooler.dense.bias", MFI_NAME_WHOLE },
    { "attn_norm.weight", "encoder.layer.%u.layernorm_before.weight", MFI_NAME_WHOLE },
    { "attn_norm.bias", "encoder.layer.%u.layernorm_before.bias", MFI_NAME_WHOLE },
    { "ffn_norm.weight", "encoder.layer.%u.layernorm_after.weight", MFI_NAME_WHOLE },
    { "ffn_norm.bias", "encoder.layer.%u.layernorm_after.bias", MFI_NAME_WHOLE },
    { "attn.q", "encoder.layer.%u.attention.attention.query.weight", MFI_NAME_WHOLE },
    { "attn.q.bias", "encoder.layer.%u.attention.attention.query.bias", MFI_NAME_WHOLE },
    { "attn.k", "encoder.layer.%u.attention.attention.key.weight", MFI_NAME_WHOLE },
    { "attn.k.bias", "encoder.layer.%u.attention.attention.key.bias", MFI_NAME_WHOLE },
    { "attn.v", "encoder.layer.%u.attention.attention.value.weight", MFI_NAME_WHOLE },
    { "attn.v.bias", "encoder.layer.%u.attention.attention.value.bias", MFI_NAME_WHOLE },
    { "attn.o", "encoder.layer.%u.attention.output.dense.weight", MFI_NAME_WHOLE },
    { "attn.o.bias", "encoder.layer.%u.attention.output.dense.bias", MFI_NAME_WHOLE },
    { "ffn.up", "encoder.layer.%u.intermediate.dense.weight", MFI_NAME_WHOLE },
    { "ffn.up.bias", "encoder.layer.%u.intermediate.dense.bias", MFI_NAME_WHOLE },
    { "ffn.down", "encoder.layer.%u.output.dense.weight", MFI_NAME_WHOLE },
    { "ffn.down.bias", "encoder.layer.%u.output.dense.bias", MFI_NAME_WHOLE },
    /* As transformers 5 writes them. */
    { "attn_norm.weight", "layers.%u.layernorm_before.weight", MFI_NAME_WHOLE },
    { "attn_norm.bias", "layers.%u.layernorm_before.bias", MFI_NAME_WHOLE },
    { "ffn_norm.weight", "layers.%u.layernorm_after.weight", MFI_NAME_WHOLE },
    { "ffn_norm.bias", "layers.%u.layernorm_after.bias", MFI_NAME_WHOLE },
    { "attn.q", "layers.%u.attention.q_proj.weight", MFI_NAME_WHOLE },
    { "attn.q.bias", "layers.%u.attention.q_proj.bias", MFI_NAME_WHOLE },
    { "attn.k", "layers.%u.attention.k_proj.weight", MFI_NAME_WHOLE },
    { "attn.k.bias", "layers.%u.attention.k_proj.bias", MFI_NAME_WHOLE },
    { "attn.v", "layers.%u.attention.v_proj.weight", MFI_NAME_WHOLE },
    { "attn.v.bias", "layers.%u.attention.v_proj.bias", MFI_NAME_WHOLE },
    { "attn.o", "layers.%u.attention.o_proj.weight", MFI_NAME_WHOLE },
    { "attn.o.bias", "layers.%u.attention.o_proj.bias", MFI_NAME_WHOLE },
    { "ffn.up", "layers.%u.mlp.fc1.weight", MFI_NAME_WHOLE },
    { "ffn.up.bias", "layers.%u.mlp.fc1.bias", MFI_NAME_WHOLE },
    { "ffn.down", "layers.%u.mlp.fc2.weight", MFI_NAME_WHOLE },
    { "ffn.down.bias", "layers.%u.mlp.fc2.bias", MFI_NAME_WHOLE },
    { NULL, NULL, MFI_NAME_WHOLE },
};

static uint32_t rows_of(const mfi_tensor_file *file, const char *name)
{
    const mfi_source_tensor *tensor = mfi_tensor_file_find(file, name);
    return tensor && tensor->n_dim == 2 && tensor->dim[0] <= 1u << 24 ? (uint32_t)tensor->dim[0] : 0;
}

static mf_status read_json(mfi_config *config, mfi_json_reader *r, const mfi_tensor_file *file,
                           const mf_allocator *allocator, mf_error *error)
{
    static const char *const granularity[] = { "S", "M", "L", "XL" };
    uint32_t ffn[MFI_MAX_LAYER] = { 0 };
    config->family = MFI_FAMILY_VIT;
    config->n_layer = mfi_json_u32(r, "num_hidden_layers", 1, MFI_MAX_LAYER);
    config->d_model = mfi_json_u32(r, "hidden_size", 1, 1u << 16);
    config->n_head = mfi_json_u32(r, "num_attention_heads", 1, 4096);
    config->d_head = config->d_model / config->n_head;
    config->head_group = 1;
    config->norm = MFI_NORM_LAYER;
    config->norm_eps = (float)mfi_json_f64_or(r, "layer_norm_eps", 1e-12);
    config->ffn = MFI_FFN_PLAIN;
    config->activation = mfi_import_activation(r, "hidden_act", "gelu");
    config->embed_scale = 1;
    config->attention_scale = (float)(1 / sqrt((double)config->d_head));
    config->attention_bias = config->ffn_bias = true;
    config->bos_token = config->eos_token = -1;
    config->vit.image_size = mfi_json_u32_or(r, "image_size", 1, 1u << 14, 224);
    config->vit.patch_size = mfi_json_u32_or(r, "patch_size", 1, config->vit.image_size, 16);
    config->vit.n_channel = mfi_json_u32_or(r, "num_channels", 1, 64, 3);
    config->vit.n_class = rows_of(file, "classifier.weight");
    config->vit.pooler = rows_of(file, "pooler.dense.weight") > 0 || rows_of(file, "vit.pooler.dense.weight") > 0;
    const uint32_t side = config->vit.image_size / config->vit.patch_size;
    config->max_positions = 1 + side * side;
    if (!mfi_json_bool_or(r, "qkv_bias", true) && r->status == MF_OK)
        r->status = mfi_fail(error, MF_E_UNSUPPORTED, "%s: \"qkv_bias\" must be true", r->where);
    mfi_import_widths(r, "intermediate_size", config->n_layer, ffn);
    if (r->status == MF_OK) r->status = mfi_import_extents(config, 4, allocator, error);
    for (uint32_t g = 0; g < 4 && r->status == MF_OK; g++)
        mfi_import_granularity(config, g, granularity[g], ffn, 1.0 / (8 >> g));
    return r->status;
}

static const char *const prefixes[] = { "vit.", "", NULL };

const mfi_import_family mfi_import_vit = {
    MFI_FAMILY_VIT, "vit", prefixes, "embeddings.cls_token", names, read_json, NULL,
};
