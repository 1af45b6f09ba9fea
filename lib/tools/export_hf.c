/* export_hf.c - a Hugging Face folder: config.json, safetensors of bounded size, and their index. It is made under
 * another name and renamed, so that it appears whole or not at all. */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "defs.h"
#include "export.h"
#include "status.h"

#define DEFAULT_SHARD_BYTES ((uint64_t)5000000000)

/* ---- config.json ---- */

static json_t *token_json(int32_t token)
{
    return token < 0 ? json_null() : json_integer(token);
}

/* Takes the value. What memory ran out for becomes NULL, and so does all that it would be part of. */
static void set(json_t **object, const char *key, json_t *value)
{
    if (json_object_set_new(*object, key, value) == 0) return;
    json_decref(*object);
    *object = NULL;
}

static void append(json_t **array, json_t *value)
{
    if (json_array_append_new(*array, value) == 0) return;
    json_decref(*array);
    *array = NULL;
}

static const char *activation_name(mfk_activation activation)
{
    static const char *const names[] = { [MFK_SILU] = "silu",
                                         [MFK_GELU_TANH] = "gelu_pytorch_tanh",
                                         [MFK_GELU_ERF] = "gelu",
                                         [MFK_RELU] = "relu",
                                         [MFK_TANH] = "tanh" };
    return names[activation];
}

static json_t *rope_json(const mfi_rope_scaling *s)
{
    json_t *object = json_object();
    set(&object, "rope_type", json_string(s->kind == MFI_ROPE_LINEAR ? "linear" : "llama3"));
    set(&object, "factor", json_real(s->factor));
    if (s->kind == MFI_ROPE_LINEAR) return object;
    set(&object, "low_freq_factor", json_real(s->low_freq_factor));
    set(&object, "high_freq_factor", json_real(s->high_freq_factor));
    set(&object, "original_max_position_embeddings", json_integer(s->original_positions));
    return object;
}

static json_t *single(const char *text)
{
    json_t *list = json_array();
    append(&list, json_string(text));
    return list;
}

/* What the three have in common. */
static json_t *common_json(const mfi_config *config, const char *type, const char *architecture)
{
    json_t *c = json_object();
    set(&c, "architectures", single(architecture));
    set(&c, "model_type", json_string(type));
    set(&c, "hidden_size", json_integer(config->d_model));
    set(&c, "num_hidden_layers", json_integer(config->n_layer));
    set(&c, "num_attention_heads", json_integer(config->n_head));
    return c;
}

static json_t *llama_json(const mfi_config *config)
{
    json_t *c = common_json(config, "llama", "LlamaForCausalLM");
    set(&c, "num_key_value_heads", json_integer(config->n_head / config->head_group));
    set(&c, "head_dim", json_integer(config->d_head));
    set(&c, "intermediate_size", json_integer(config->d_ff));
    set(&c, "hidden_act", json_string(activation_name(config->activation)));
    set(&c, "rms_norm_eps", json_real((double)config->norm_eps));
    set(&c, "vocab_size", json_integer(config->n_vocab));
    set(&c, "max_position_embeddings", json_integer(config->max_positions));
    set(&c, "rope_theta", json_real(config->rope_theta));
    set(&c, "rope_scaling",
        config->rope_scaling.kind == MFI_ROPE_PLAIN ? json_null() : rope_json(&config->rope_scaling));
    set(&c, "attention_bias", json_boolean(config->attention_bias));
    set(&c, "mlp_bias", json_boolean(config->ffn_bias));
    set(&c, "tie_word_embeddings", json_boolean(config->tied));
    set(&c, "bos_token_id", token_json(config->bos_token));
    set(&c, "eos_token_id", token_json(config->eos_token));
    return c;
}

/* The share of the normal distribution below kappa, which readers turn back into it. */
static double share_below(float kappa)
{
    if (kappa == MFI_KAPPA_95) return 0.95;
    return kappa != 0 ? 0.5 * erfc(-(double)kappa * 0.70710678118654752440) : 0;
}

static json_t *gemma3n_json(const mfi_config *config)
{
    const mfi_gemma3n *g = &config->gemma3n;
    json_t *c = common_json(config, "gemma3n_text", "Gemma3nForCausalLM");
    json_t *widths = json_array(), *types = json_array(), *sparsity = json_array();
    uint32_t n_shared = 0, window = 512;
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        append(&widths, json_integer(config->granularity[config->n_granularity - 1].ffn[layer]));
        append(&types, json_string(config->window[layer] ? "sliding_attention" : "full_attention"));
        append(&sparsity, json_real(share_below(config->sparsity[layer])));
        n_shared += config->kv_layer[layer] != layer;
        if (config->window[layer]) window = config->window[layer];
    }
    set(&c, "intermediate_size", widths);
    set(&c, "layer_types", types);
    set(&c, "activation_sparsity_pattern", sparsity);
    set(&c, "num_kv_shared_layers", json_integer(n_shared));
    set(&c, "sliding_window", json_integer(window));
    set(&c, "num_key_value_heads", json_integer(config->n_head / config->head_group));
    set(&c, "head_dim", json_integer(config->d_head));
    set(&c, "vocab_size", json_integer(config->n_vocab));
    set(&c, "vocab_size_per_layer_input", json_integer(g->n_vocab_ple));
    set(&c, "hidden_size_per_layer_input", json_integer(g->d_ple));
    set(&c, "rms_norm_eps", json_real((double)config->norm_eps));
    set(&c, "rope_theta", json_real(config->rope_theta));
    set(&c, "rope_local_base_freq", json_real(g->rope_theta_local));
    set(&c, "rope_scaling", json_null());
    set(&c, "final_logit_softcapping",
        config->logit_softcap > 0 ? json_real((double)config->logit_softcap) : json_null());
    set(&c, "hidden_activation", json_string("gelu_pytorch_tanh"));
    set(&c, "altup_num_inputs", json_integer(g->n_stream));
    set(&c, "altup_active_idx", json_integer(g->active));
    set(&c, "altup_coef_clip", g->coef_clip > 0 ? json_real((double)g->coef_clip) : json_null());
    set(&c, "altup_correct_scale", json_boolean(g->correct_scale));
    set(&c, "laurel_rank", json_integer(g->laurel_rank));
    set(&c, "max_position_embeddings", json_integer(config->max_positions));
    set(&c, "attention_bias", json_false());
    set(&c, "tie_word_embeddings", json_true());
    set(&c, "bos_token_id", token_json(config->bos_token));
    set(&c, "eos_token_id", token_json(config->eos_token));
    return c;
}

static json_t *vit_json(const mfi_config *config)
{
    const mfi_vit *v = &config->vit;
    json_t *c = common_json(config, "vit", v->n_class > 0 ? "ViTForImageClassification" : "ViTModel");
    set(&c, "intermediate_size", json_integer(config->d_ff));
    set(&c, "hidden_act", json_string(activation_name(config->activation)));
    set(&c, "layer_norm_eps", json_real((double)config->norm_eps));
    set(&c, "image_size", json_integer(v->image_size));
    set(&c, "patch_size", json_integer(v->patch_size));
    set(&c, "num_channels", json_integer(v->n_channel));
    set(&c, "qkv_bias", json_true());
    if (v->n_class > 0) set(&c, "num_labels", json_integer(v->n_class));
    return c;
}

/* ---- What can be said ---- */

/* config.json has the rule of a rotation, not its frequencies: those of a GGUF file may follow none. */
static mf_status check_rotation(const mfi_exporter *x, const char *name, double theta)
{
    float freqs[MFI_MAX_FREQUENCY], ruled[MFI_MAX_FREQUENCY];
    const mf_status status = mfi_export_rotation(x, name, theta, freqs);
    if (status != MF_OK) return status;
    mfi_rope_frequencies(x->config, theta, ruled);
    for (uint32_t i = 0; i < x->config->d_head / 2; i++)
        if (!mfi_export_same_frequency(freqs[i], ruled[i]))
            return mfi_export_refuse(x, "its rotation's factors are a table of the source, which config.json cannot "
                                        "say; export to GGUF, or from the original folder");
    return MF_OK;
}

static mf_status check_llama(const mfi_exporter *x)
{
    const mf_status status = mfi_export_check_llama(x);
    return status == MF_OK ? check_rotation(x, "rope.freqs", x->config->rope_theta) : status;
}

static mf_status check_gemma3n(const mfi_exporter *x)
{
    mf_status status = mfi_export_check_gemma3n(x);
    if (status == MF_OK) status = check_rotation(x, "rope.freqs", x->config->rope_theta);
    if (status == MF_OK) status = check_rotation(x, "rope.freqs_local", x->config->gemma3n.rope_theta_local);
    return status;
}

static mf_status check_vit(const mfi_exporter *x)
{
    if (mfi_uniform_ffn(x->config) == 0 || mfi_uniform_heads(x->config) == 0)
        return mfi_export_refuse(x, "ViT of Hugging Face has one width and as many heads in every layer");
    return MF_OK;
}

/* What the model is called and said there. */
static mf_status describe(mfi_exporter *x, json_t **config)
{
    mf_status status = MF_OK;
    switch (x->config->family) {
    case MFI_FAMILY_MATLM:
    case MFI_FAMILY_LLAMA:
        x->names = &mfi_import_llama_hf;
        status = check_llama(x);
        *config = status == MF_OK ? llama_json(x->config) : NULL;
        break;
    case MFI_FAMILY_GEMMA3N:
        x->names = &mfi_import_gemma3n_hf;
        status = check_gemma3n(x);
        *config = status == MF_OK ? gemma3n_json(x->config) : NULL;
        break;
    case MFI_FAMILY_VIT:
        x->names = &mfi_import_vit;
        status = check_vit(x);
        *config = status == MF_OK ? vit_json(x->config) : NULL;
        break;
    default:
        return mfi_export_refuse(x, "the transformers package has no MatFormer-OLMo; keep it as a .mf file");
    }
    if (status != MF_OK) return status;
    return *config ? MF_OK : mfi_fail(x->error, MF_E_NOMEM, "%s: no memory to write it", x->path);
}

/* ---- Files ---- */

typedef struct shards {
    mfi_exporter *x;
    const char *folder; /* under its temporary name */
    uint32_t *shard_of; /* [n_tensor] */
    uint32_t n_shard;
} shards;

static const char *type_name(mfi_source_type type)
{
    return type == MFI_SOURCE_F16 ? "F16" : type == MFI_SOURCE_BF16 ? "BF16" : "F32";
}

static void file_name(const shards *s, uint32_t shard, char out[64])
{
    if (s->n_shard == 1)
        snprintf(out, 64, "model.safetensors");
    else
        snprintf(out, 64, "model-%05u-of-%05u.safetensors", shard + 1, s->n_shard);
}

static void lay_out(shards *s)
{
    mfi_exporter *x = s->x;
    const uint64_t most = x->options->shard_bytes ? x->options->shard_bytes : DEFAULT_SHARD_BYTES;
    uint64_t used = 0;
    s->n_shard = 1;
    for (size_t i = 0; i < x->n_tensor; i++) {
        mfi_out_tensor *t = &x->tensor[i];
        mfi_export_set_type(x, t, MFI_SOURCE_BF16);
        if (used > 0 && t->bytes > most - mfi_min(used, most)) {
            s->n_shard++;
            used = 0;
        }
        t->offset = used;
        used += t->bytes;
        x->total += t->bytes;
        s->shard_of[i] = s->n_shard - 1;
    }
}

/* NULL where memory runs out. Not json_dumps(), which goes on where its memory runs out in a key. */
static char *json_text(const mfi_exporter *x, const json_t *json, size_t flags, size_t *length)
{
    *length = json_dumpb(json, NULL, 0, flags);
    char *text = *length > 0 ? mfi_alloc(&x->allocator, *length) : NULL;
    if (!text || json_dumpb(json, text, *length, flags) == *length) return text;
    mfi_free(&x->allocator, text, *length);
    return NULL;
}

static mf_status write_json(const shards *s, const char *name, const json_t *json)
{
    char path[4200];
    mfi_new_file file;
    size_t length;
    char *text = json_text(s->x, json, JSON_INDENT(2) | JSON_PRESERVE_ORDER, &length);
    if (!text) return mfi_fail(s->x->error, MF_E_NOMEM, "%s: no memory to write %s", s->x->path, name);
    snprintf(path, sizeof path, "%s/%s", s->folder, name);
    mf_status status = mfi_new_file_open(&file, path, s->x->error);
    if (status == MF_OK) {
        status = mfi_new_file_write(&file, text, length, s->x->error);
        if (status == MF_OK) status = mfi_new_file_commit(&file, s->x->error);
        mfi_new_file_abort(&file);
    }
    mfi_free(&s->x->allocator, text, length);
    return status;
}

static json_t *header_json(const shards *s, uint32_t shard)
{
    json_t *header = json_object();
    set(&header, "__metadata__", json_pack("{s:s}", "format", "pt"));
    for (size_t i = 0; i < s->x->n_tensor; i++) {
        const mfi_out_tensor *t = &s->x->tensor[i];
        if (s->shard_of[i] != shard) continue;
        json_t *shape = json_array();
        for (uint32_t d = 0; d < t->n_dim; d++)
            append(&shape, json_integer((json_int_t)t->dim[d]));
        set(&header, t->name,
            json_pack("{s:s, s:o, s:[I, I]}", "dtype", type_name(t->type), "shape", shape, "data_offsets",
                      (json_int_t)t->offset, (json_int_t)(t->offset + t->bytes)));
    }
    return header;
}

/* The header's length is filled up with spaces to a multiple of 8. */
static mf_status write_header(const shards *s, uint32_t shard, mfi_new_file *file, uint64_t *begin)
{
    json_t *header = header_json(s, shard);
    size_t length;
    char *text = json_text(s->x, header, JSON_COMPACT | JSON_PRESERVE_ORDER, &length);
    json_decref(header);
    if (!text) return mfi_fail(s->x->error, MF_E_NOMEM, "%s: no memory to write it", s->x->path);
    const size_t padded = mfi_round_up(length, 8);
    unsigned char size[8];
    for (int i = 0; i < 8; i++)
        size[i] = (unsigned char)((uint64_t)padded >> (8 * i));
    mf_status status = mfi_new_file_write_at(file, size, sizeof size, 0, s->x->error);
    if (status == MF_OK) status = mfi_new_file_write_at(file, text, length, 8, s->x->error);
    if (status == MF_OK) status = mfi_new_file_write_at(file, "       ", padded - length, 8 + length, s->x->error);
    mfi_free(&s->x->allocator, text, length);
    *begin = 8 + padded;
    return status;
}

static mf_status write_shard(const shards *s, uint32_t shard)
{
    char name[64], path[4200];
    mfi_new_file file;
    uint64_t begin = 0;
    file_name(s, shard, name);
    snprintf(path, sizeof path, "%s/%s", s->folder, name);
    mf_status status = mfi_new_file_open(&file, path, s->x->error);
    if (status != MF_OK) return status;
    status = write_header(s, shard, &file, &begin);
    for (size_t i = 0; i < s->x->n_tensor && status == MF_OK; i++)
        if (s->shard_of[i] == shard)
            status = mfi_export_tensor(s->x, &s->x->tensor[i], &file, begin + s->x->tensor[i].offset);
    if (status == MF_OK) status = mfi_new_file_commit(&file, s->x->error);
    mfi_new_file_abort(&file);
    return status;
}

static mf_status write_index(const shards *s)
{
    if (s->n_shard == 1) return MF_OK;
    json_t *index = json_object(), *map = json_object();
    for (size_t i = 0; i < s->x->n_tensor; i++) {
        char name[64];
        file_name(s, s->shard_of[i], name);
        set(&map, s->x->tensor[i].name, json_string(name));
    }
    set(&index, "metadata", json_pack("{s:I}", "total_size", (json_int_t)s->x->total));
    set(&index, "weight_map", map);
    const mf_status status = write_json(s, "model.safetensors.index.json", index);
    json_decref(index);
    return status;
}

/* ---- The folder ---- */

static mf_status fail_folder(const mfi_exporter *x, const char *path)
{
    return mfi_fail(x->error, MF_E_IO, "%s: %s", path, strerror(errno));
}

static void remove_folder(const char *folder)
{
    DIR *directory = opendir(folder);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        char path[4200];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) < (int)sizeof path) unlink(path);
    }
    if (directory) closedir(directory);
    rmdir(folder);
}

static mf_status copy_bytes(const shards *s, int from, uint64_t bytes, const char *name, mfi_new_file *to)
{
    unsigned char piece[65536];
    mf_status status = MF_OK;
    for (uint64_t at = 0, n; at < bytes && status == MF_OK; at += n) {
        n = bytes - at < sizeof piece ? bytes - at : sizeof piece;
        status = mfi_read_at(from, piece, (size_t)n, at, name, s->x->error);
        if (status == MF_OK) status = mfi_new_file_write(to, piece, (size_t)n, s->x->error);
    }
    return status == MF_OK ? mfi_new_file_commit(to, s->x->error) : status;
}

/* A file of the source's folder, if it has it. */
static mf_status copy_file(const shards *s, const char *name)
{
    char from[4200], to[4200];
    int fd;
    uint64_t bytes;
    mfi_new_file file;
    if (snprintf(from, sizeof from, "%s/%s", s->x->folder, name) >= (int)sizeof from) return MF_OK;
    mf_error reason = MF_ERROR_INIT;
    mf_status status = mfi_open_file(from, &fd, &bytes, &reason);
    if (status == MF_E_NOT_FOUND) return MF_OK;
    if (status != MF_OK) return mfi_fail(s->x->error, status, "%s", reason.detail);
    snprintf(to, sizeof to, "%s/%s", s->folder, name);
    status = mfi_new_file_open(&file, to, s->x->error);
    if (status == MF_OK) {
        status = copy_bytes(s, fd, bytes, from, &file);
        mfi_new_file_abort(&file);
    }
    close(fd);
    return status;
}

/* A tokenizer's files are copied, not made: a blob does not say all that they do. */
static mf_status copy_tokenizer(const shards *s)
{
    static const char *const names[] = { "tokenizer.json",          "tokenizer.model",        "tokenizer_config.json",
                                         "special_tokens_map.json", "generation_config.json", "chat_template.jinja" };
    mf_status status = MF_OK;
    for (size_t i = 0; s->x->folder && i < MFI_COUNT(names) && status == MF_OK; i++)
        status = copy_file(s, names[i]);
    return status;
}

static mf_status write_folder(shards *s, const json_t *config)
{
    lay_out(s);
    mf_status status = write_json(s, "config.json", config);
    if (status == MF_OK) status = copy_tokenizer(s);
    for (uint32_t shard = 0; shard < s->n_shard && status == MF_OK; shard++)
        status = write_shard(s, shard);
    return status == MF_OK ? write_index(s) : status;
}

enum { MAX_FOLDER = 4096 };

/* A folder beside the one that is asked for. As mfi_new_file_open() does, it steps over names that others hold, or left
 * behind when they were killed. */
static mf_status make_temporary(const mfi_exporter *x, char folder[MAX_FOLDER])
{
    for (unsigned i = 0; i < 1000; i++) {
        if (snprintf(folder, MAX_FOLDER, "%s.%ld-%u.tmp", x->path, (long)getpid(), i) >= MAX_FOLDER)
            return mfi_fail(x->error, MF_E_INVALID, "the folder's path is too long");
        if (mkdir(folder, 0777) == 0) return MF_OK;
        if (errno != EEXIST) break;
    }
    return fail_folder(x, folder);
}

mf_status mfi_export_hf(mfi_exporter *x)
{
    char folder[MAX_FOLDER];
    struct stat exists;
    json_t *config = NULL;
    if (lstat(x->path, &exists) == 0)
        return mfi_fail(x->error, MF_E_INVALID, "%s: exists; remove it, or choose another folder", x->path);
    mf_status status = describe(x, &config);
    if (status == MF_OK) status = mfi_export_list(x);
    shards s = { .x = x, .folder = folder };
    if (status == MF_OK) {
        s.shard_of = mfi_alloc_array(&x->allocator, x->n_tensor, sizeof *s.shard_of);
        if (!s.shard_of) status = mfi_fail(x->error, MF_E_NOMEM, "%s: no memory to write it", x->path);
    }
    if (status == MF_OK) status = make_temporary(x, folder);
    if (status == MF_OK) {
        status = write_folder(&s, config);
        if (status == MF_OK && rename(folder, x->path) != 0) status = fail_folder(x, x->path);
        if (status != MF_OK) remove_folder(folder);
    }
    mfi_free(&x->allocator, s.shard_of, x->n_tensor * sizeof *s.shard_of);
    json_decref(config);
    return status;
}
