/* import_config.c - what readers of other people's configurations share. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "families.h"
#include "status.h"

mf_status mfi_import_extents(mfi_config *config, uint32_t n_granularity, const mf_allocator *allocator, mf_error *error)
{
    config->n_granularity = n_granularity;
    return mfi_config_alloc(config, allocator, error);
}

void mfi_import_granularity(mfi_config *config, uint32_t g, const char *name, const uint32_t *ffn, double share)
{
    mfi_granularity *granularity = &config->granularity[g];
    snprintf(granularity->name, sizeof granularity->name, "%s", name);
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        const double quanta = ceil(share * ffn[layer] / MFI_QUANTUM - 1e-9);
        granularity->ffn[layer] = share < 1 ? (uint32_t)quanta * MFI_QUANTUM : ffn[layer];
        granularity->heads[layer] = config->n_head;
        if (share == 1 && ffn[layer] > config->d_ff) config->d_ff = ffn[layer];
    }
}

mf_status mfi_import_check_heads(const char *where, uint32_t n_head, uint32_t n_kv_head, mf_error *error)
{
    if (n_head % n_kv_head == 0) return MF_OK;
    return mfi_fail(error, MF_E_UNSUPPORTED,
                    "%s: %u heads cannot share %u key/value heads evenly: the second must be a divisor of the first",
                    where, n_head, n_kv_head);
}

int32_t mfi_import_token(mfi_json_reader *r, const char *key)
{
    const json_t *value = r->status == MF_OK ? json_object_get(r->object, key) : NULL;
    if (json_is_array(value)) value = json_array_get(value, 0);
    if (!value || json_is_null(value)) return -1;
    const double token = json_is_number(value) ? json_number_value(value) : -2;
    if (token == -1) return -1; /* "none" in some */
    if (token >= 0 && token <= INT32_MAX && token == floor(token)) return (int32_t)token;
    if (r->status == MF_OK)
        r->status = mfi_fail(r->error, MF_E_FORMAT, "%s: \"%s\" must be a token, or a list of them", r->where, key);
    return -1;
}

void mfi_import_widths(mfi_json_reader *r, const char *key, uint32_t n_layer, uint32_t *ffn)
{
    const json_t *list = r->status == MF_OK ? json_object_get(r->object, key) : NULL;
    if (!json_is_array(list)) {
        const uint32_t width = mfi_json_u32(r, key, 1, 1u << 20);
        for (uint32_t layer = 0; layer < n_layer; layer++)
            ffn[layer] = width;
        return;
    }
    for (uint32_t layer = 0; layer < n_layer && r->status == MF_OK; layer++) {
        const double width = json_number_value(json_array_get(list, layer));
        ffn[layer] = width >= 1 && width <= 1u << 20 && width == floor(width) ? (uint32_t)width : 0;
        if (ffn[layer] == 0)
            r->status = mfi_fail(r->error, MF_E_FORMAT, "%s: \"%s\" has no width for layer %u; it must be from 1 to %u",
                                 r->where, key, layer, 1u << 20);
    }
}

void mfi_import_rope(mfi_json_reader *r, const json_t *scaling, mfi_config *config)
{
    if (!scaling || r->status != MF_OK) return;
    mfi_json_reader s = { r->where, scaling, r->error, MF_OK };
    config->rope_theta = mfi_json_f64_or(&s, "rope_theta", config->rope_theta);
    const char *type = mfi_json_text_or(&s, "rope_type", mfi_json_text_or(&s, "type", "default"));
    mfi_rope_scaling *to = &config->rope_scaling;
    if (s.status == MF_OK && strcmp(type, "linear") == 0) {
        to->kind = MFI_ROPE_LINEAR;
        to->factor = mfi_json_f64(&s, "factor");
    } else if (s.status == MF_OK && strcmp(type, "llama3") == 0) {
        to->kind = MFI_ROPE_LLAMA3;
        to->factor = mfi_json_f64(&s, "factor");
        to->low_freq_factor = mfi_json_f64_or(&s, "low_freq_factor", 1);
        to->high_freq_factor = mfi_json_f64_or(&s, "high_freq_factor", 4);
        to->original_positions = mfi_json_u32_or(&s, "original_max_position_embeddings", 1, 1u << 24, 8192);
    } else if (s.status == MF_OK && strcmp(type, "default") != 0) {
        s.status = mfi_fail(r->error, MF_E_UNSUPPORTED,
                            "%s: rotations of type \"%.40s\" are not supported; only default, linear and llama3 are",
                            r->where, type);
    }
    r->status = s.status;
}

mfk_activation mfi_import_activation(mfi_json_reader *r, const char *key, const char *none)
{
    static const struct {
        const char *name;
        mfk_activation activation;
    } names[] = { { "silu", MFK_SILU },          { "swish", MFK_SILU },
                  { "gelu", MFK_GELU_ERF },      { "gelu_pytorch_tanh", MFK_GELU_TANH },
                  { "gelu_new", MFK_GELU_TANH }, { "gelu_fast", MFK_GELU_TANH },
                  { "relu", MFK_RELU } };
    const char *name = mfi_json_text_or(r, key, none);
    for (size_t i = 0; r->status == MF_OK && i < MFI_COUNT(names); i++)
        if (strcmp(names[i].name, name) == 0) return names[i].activation;
    if (r->status == MF_OK)
        r->status = mfi_fail(r->error, MF_E_UNSUPPORTED, "%s: \"%s\" is \"%.40s\", which is not supported", r->where,
                             key, name);
    return MFK_SILU;
}

/* ---- GGUF ---- */

static void full_key(const mfi_gguf_reader *r, const char *key, char out[128])
{
    snprintf(out, 128, "%s.%s", r->architecture, key);
}

static void fail_key(mfi_gguf_reader *r, const char *key, const char *what)
{
    if (r->status == MF_OK)
        r->status = mfi_fail(r->error, MF_E_FORMAT, "%s: metadata \"%s.%s\" %s", mfi_tensor_file_name(r->file),
                             r->architecture, key, what);
}

uint32_t mfi_gguf_read_u32_or(mfi_gguf_reader *r, const char *key, uint32_t least, uint32_t most, uint32_t none)
{
    char full[128];
    uint64_t value;
    full_key(r, key, full);
    if (!mfi_gguf_has(r->file, full)) return none;
    if (!mfi_gguf_u64(r->file, full, &value))
        fail_key(r, key, "is no integer from 0 on; fetch the file again");
    else if (value >= least && value <= most)
        return (uint32_t)value;
    else if (r->status == MF_OK)
        r->status = mfi_fail(r->error, MF_E_FORMAT, "%s: metadata \"%s\" must be an integer from %u to %u",
                             mfi_tensor_file_name(r->file), full, least, most);
    return none;
}

uint32_t mfi_gguf_read_u32(mfi_gguf_reader *r, const char *key, uint32_t least, uint32_t most)
{
    char full[128];
    full_key(r, key, full);
    if (!mfi_gguf_has(r->file, full)) fail_key(r, key, "is missing; fetch the file again");
    return mfi_gguf_read_u32_or(r, key, least, most, least);
}

double mfi_gguf_read_f64_or(mfi_gguf_reader *r, const char *key, double none)
{
    char full[128];
    double value;
    full_key(r, key, full);
    if (!mfi_gguf_has(r->file, full)) return none;
    if (mfi_gguf_f64(r->file, full, &value) && isfinite(value)) return value;
    fail_key(r, key, "is no finite number; fetch the file again");
    return none;
}

double mfi_gguf_read_f64(mfi_gguf_reader *r, const char *key)
{
    char full[128];
    full_key(r, key, full);
    if (!mfi_gguf_has(r->file, full)) fail_key(r, key, "is missing; fetch the file again");
    return mfi_gguf_read_f64_or(r, key, 0);
}

int32_t mfi_gguf_token(const mfi_tensor_file *file, const char *key, uint32_t n_vocab)
{
    char full[64];
    uint64_t token;
    snprintf(full, sizeof full, "tokenizer.ggml.%s", key);
    return mfi_gguf_u64(file, full, &token) && token < n_vocab ? (int32_t)token : -1;
}

void mfi_gguf_read_layers(mfi_gguf_reader *r, const char *key, uint32_t n_layer, double none, double *out)
{
    char full[128];
    mfi_gguf_kind kind;
    uint64_t count;
    full_key(r, key, full);
    if (mfi_gguf_array(r->file, full, &kind, &count)) {
        if (count < n_layer || !mfi_gguf_array_f64(r->file, full, out, n_layer))
            fail_key(r, key, "is not one number for every layer; fetch the file again");
        return;
    }
    const double value = mfi_gguf_read_f64_or(r, key, none);
    for (uint32_t layer = 0; layer < n_layer; layer++)
        out[layer] = value;
}
