/* export_gguf.c - a GGUF file, version 3: metadata, a list of tensors, and their data. It is made under another name and
 * renamed, so that it appears whole or not at all. */
#define _POSIX_C_SOURCE 200809L
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "defs.h"
#include "export.h"
#include "export_gguf_vocab.h"
#include "gguf_writer.h"
#include "status.h"

#define ALIGNMENT 32u
#define FACTORS "rope_freqs.weight"
#define KAPPA_95 1.6448533535003662f /* of import_gemma3n.c, and of llama.cpp */

typedef struct gguf {
    mfi_exporter *x;
    mfi_gguf_writer w;
    float factors[MFI_MAX_FREQUENCY]; /* that divide the rotation's frequencies */
    bool has_factors;
} gguf;

/* ---- What llama.cpp has ---- */

static mf_status check_llama(const mfi_exporter *x)
{
    const mf_status status = mfi_export_check_llama(x);
    if (status != MF_OK) return status;
    if (x->config->activation != MFK_SILU) return mfi_export_refuse(x, "llama.cpp's Llama has no activation but silu");
    return MF_OK;
}

/* Which layers own keys and values, and who reads whose, does llama.cpp not ask the file. */
static bool shares_as_released(const mfi_config *c)
{
    for (uint32_t layer = 0; layer < c->n_layer; layer++)
        if (c->kv_layer[layer] != (layer < 20 ? layer : c->window[layer] ? 18u : 19u)) return false;
    return true;
}

static bool is_sparse_as_released(const mfi_config *c)
{
    for (uint32_t layer = 0; layer < c->n_layer; layer++)
        if (fabsf(c->sparsity[layer] - (layer < 10 ? KAPPA_95 : 0)) > 1e-6f) return false;
    return true;
}

static mf_status check_gemma3n(const mfi_exporter *x)
{
    const mfi_config *c = x->config;
    const mfi_gemma3n *g = &c->gemma3n;
    const mf_status status = mfi_export_check_gemma3n(x);
    if (status != MF_OK) return status;
    if (mfi_uniform_ffn(c) == 0)
        return mfi_export_refuse(x, "llama.cpp's Gemma 3n has one width for all layers; choose a submodel of one, or "
                                    "export to a folder");
    if (!shares_as_released(c))
        return mfi_export_refuse(x, "llama.cpp's Gemma 3n has 20 layers that own keys and values, and the others read "
                                    "layer 18's or 19's; export to a folder");
    if (!is_sparse_as_released(c))
        return mfi_export_refuse(x,
                                 "llama.cpp's Gemma 3n is sparse in its first 10 layers, at 0.95; export to a folder");
    if (g->n_stream != 4 || g->active != 0 || g->laurel_rank != 64 || g->d_ple != 256 || !g->correct_scale ||
        g->coef_clip != 120 || c->logit_softcap != 30)
        return mfi_export_refuse(x,
                                 "llama.cpp's Gemma 3n has 4 streams, the first active, rank 64, 256 inputs a layer, "
                                 "coefficients up to 120 and logits up to 30; export to a folder");
    if (g->n_vocab_ple > c->n_vocab)
        return mfi_export_refuse(x, "llama.cpp's Gemma 3n has no more per-layer embeddings than tokens");
    return MF_OK;
}

static mf_status choose_names(mfi_exporter *x)
{
    switch (x->config->family) {
    case MFI_FAMILY_MATLM:
    case MFI_FAMILY_LLAMA:
        x->names = &mfi_import_llama_gguf;
        return check_llama(x);
    case MFI_FAMILY_GEMMA3N:
        x->names = &mfi_import_gemma3n_gguf;
        return check_gemma3n(x);
    case MFI_FAMILY_VIT:
        return mfi_export_refuse(x, "GGUF has no convention for a ViT by itself; export to a folder");
    default:
        return mfi_export_refuse(x, "llama.cpp has no MatFormer-OLMo; keep it as a .mf file");
    }
}

/* ---- Metadata ---- */

/* llama.cpp knows the plain rotation and the linear one; any other is a table of factors. */
static mf_status find_factors(gguf *g)
{
    mfi_config plain = *g->x->config;
    float freqs[MFI_MAX_FREQUENCY];
    if (plain.rope_scaling.kind == MFI_ROPE_LLAMA3) plain.rope_scaling.kind = MFI_ROPE_PLAIN;
    const mf_status status = mfi_export_rotation(g->x, "rope.freqs", plain.rope_theta, freqs);
    if (status != MF_OK) return status;
    mfi_rope_frequencies(&plain, plain.rope_theta, g->factors);
    for (uint32_t i = 0; i < plain.d_head / 2; i++) {
        g->has_factors = g->has_factors || !mfi_export_same_frequency(freqs[i], g->factors[i]);
        g->factors[i] /= freqs[i];
    }
    if (g->has_factors && plain.family == MFI_FAMILY_GEMMA3N)
        return mfi_export_refuse(g->x, "llama.cpp's Gemma 3n has no factors of its rotation");
    return MF_OK;
}

static void put_common(mfi_gguf_writer *w, const mfi_config *c)
{
    mfi_gguf_key_u32(w, "general.quantization_version", 2);
    mfi_gguf_key_u32(w, "%s.block_count", c->n_layer);
    mfi_gguf_key_u32(w, "%s.context_length", c->max_positions);
    mfi_gguf_key_u32(w, "%s.embedding_length", c->d_model);
    mfi_gguf_key_u32(w, "%s.feed_forward_length", c->d_ff);
    mfi_gguf_key_u32(w, "%s.attention.head_count", c->n_head);
    mfi_gguf_key_u32(w, "%s.attention.head_count_kv", c->n_head / c->head_group);
    mfi_gguf_key_u32(w, "%s.attention.key_length", c->d_head);
    mfi_gguf_key_u32(w, "%s.attention.value_length", c->d_head);
    mfi_gguf_key_f32(w, "%s.attention.layer_norm_rms_epsilon", c->norm_eps);
    mfi_gguf_key_u32(w, "%s.rope.dimension_count", c->d_head);
    mfi_gguf_key_f32(w, "%s.rope.freq_base", (float)c->rope_theta);
    mfi_gguf_key_u32(w, "%s.vocab_size", c->n_vocab);
}

static void put_llama(mfi_gguf_writer *w, const mfi_config *c)
{
    if (c->rope_scaling.kind != MFI_ROPE_LINEAR) return;
    mfi_gguf_key_string(w, "%s.rope.scaling.type", "linear");
    mfi_gguf_key_f32(w, "%s.rope.scaling.factor", (float)c->rope_scaling.factor);
}

static uint32_t count_shared(const mfi_config *c)
{
    uint32_t n = 0;
    for (uint32_t layer = 0; layer < c->n_layer; layer++)
        n += c->kv_layer[layer] != layer;
    return n;
}

static void put_gemma3n(mfi_gguf_writer *w, const mfi_config *c)
{
    const mfi_gemma3n *g = &c->gemma3n;
    uint32_t window = 512;
    mfi_gguf_put_list(w, "%s.attention.sliding_window_pattern", MFI_GGUF_TRUTH, c->n_layer);
    for (uint32_t layer = 0; layer < c->n_layer; layer++) {
        mfi_gguf_put_number(w, c->window[layer] != 0, 1);
        if (c->window[layer]) window = c->window[layer];
    }
    mfi_gguf_put_list(w, "%s.activation_sparsity_scale", MFI_GGUF_F32, c->n_layer);
    for (uint32_t layer = 0; layer < c->n_layer; layer++)
        mfi_gguf_put_f32(w, c->sparsity[layer] != 0 ? c->sparsity[layer] : -INFINITY); /* which is dense there */
    mfi_gguf_key_u32(w, "%s.attention.sliding_window", window);
    mfi_gguf_key_u32(w, "%s.attention.shared_kv_layers", count_shared(c));
    mfi_gguf_key_f32(w, "%s.rope.freq_base_swa", (float)g->rope_theta_local);
    mfi_gguf_key_u32(w, "%s.altup.num_inputs", g->n_stream);
    mfi_gguf_key_u32(w, "%s.altup.active_idx", g->active);
    mfi_gguf_key_u32(w, "%s.embedding_length_per_layer_input", g->d_ple);
    mfi_gguf_key_f32(w, "%s.final_logit_softcapping", c->logit_softcap);
}

/* ---- Tensors ---- */

static mfi_out_tensor *find_tensor(const mfi_exporter *x, const char *name)
{
    for (size_t i = 0; i < x->n_tensor; i++)
        if (strcmp(x->tensor[i].name, name) == 0) return &x->tensor[i];
    return NULL;
}

/* llama.cpp has per-layer embeddings for all tokens. Those beyond the table take its row 0. */
static void fill_up_table(mfi_exporter *x)
{
    mfi_out_tensor *t = find_tensor(x, "per_layer_token_embd.weight");
    if (!t || t->rows == x->config->n_vocab) return;
    mfi_out_part part = { 0 };
    for (size_t i = 0; i < x->n_part; i++)
        if (x->part[i].tensor == (uint32_t)(t - x->tensor)) part = x->part[i];
    part.n = x->config->n_vocab - t->rows;
    part.repeated = true;
    x->part[x->n_part++] = part;
    t->rows = t->dim[0] = x->config->n_vocab;
}

/* llama.cpp asks layers that read another's keys and values for weights of these, and then never reads them. */
static void add_unread(mfi_exporter *x)
{
    static const char *const names[] = { "attn_k.weight", "attn_v.weight", "attn_k_norm.weight" };
    for (uint32_t layer = 0; layer < x->config->n_layer; layer++)
        for (size_t i = 0; i < MFI_COUNT(names) && x->config->kv_layer[layer] != layer; i++) {
            mfi_out_tensor *t = &x->tensor[x->n_tensor];
            char owners[64];
            snprintf(owners, sizeof owners, "blk.%u.%s", x->config->kv_layer[layer], names[i]);
            *t = *find_tensor(x, owners);
            snprintf(t->name, sizeof t->name, "blk.%u.%s", layer, names[i]);
            t->is_zero = true;
            x->n_tensor++;
        }
}

static void add_factors(gguf *g)
{
    if (!g->has_factors) return;
    const uint32_t n = g->x->config->d_head / 2;
    mfi_out_tensor *t = &g->x->tensor[g->x->n_tensor++];
    *t = (mfi_out_tensor){ .name = FACTORS,
                           .n_dim = 1,
                           .dim = { n },
                           .rows = 1,
                           .k = n,
                           .is_vector = true,
                           .type = MFI_SOURCE_F32,
                           .bytes = n * sizeof *g->factors };
}

static mf_status lay_out(gguf *g)
{
    mfi_exporter *x = g->x;
    x->capacity = 3 * (size_t)count_shared(x->config) + 1;
    mf_status status = mfi_export_list(x);
    if (status != MF_OK) return status;
    fill_up_table(x);
    for (size_t i = 0; i < x->n_tensor; i++)
        mfi_export_set_type(x, &x->tensor[i], MFI_SOURCE_Q8_0);
    add_unread(x);
    add_factors(g);
    uint64_t end = 0;
    for (size_t i = 0; i < x->n_tensor; i++) {
        x->tensor[i].offset = end;
        end += (x->tensor[i].bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        x->total += x->tensor[i].bytes;
    }
    return MF_OK;
}

static uint32_t type_number(mfi_source_type type)
{
    return type == MFI_SOURCE_F16 ? 1 : type == MFI_SOURCE_BF16 ? 30 : type == MFI_SOURCE_Q8_0 ? 8 : 0;
}

/* Their dimensions are the fastest first. */
static void put_tensors(gguf *g)
{
    for (size_t i = 0; i < g->x->n_tensor; i++) {
        const mfi_out_tensor *t = &g->x->tensor[i];
        mfi_gguf_put_string(&g->w, t->name, strlen(t->name));
        mfi_gguf_put_number(&g->w, t->n_dim, 4);
        for (uint32_t d = t->n_dim; d-- > 0;)
            mfi_gguf_put_number(&g->w, t->dim[d], 8);
        mfi_gguf_put_number(&g->w, type_number(t->type), 4);
        mfi_gguf_put_number(&g->w, t->offset, 8);
    }
}

/* ---- The file ---- */

/* The number of keys is known at the end. */
static mf_status make_header(gguf *g)
{
    static const unsigned char zeros[ALIGNMENT];
    mfi_exporter *x = g->x;
    mfi_gguf_put(&g->w, "GGUF", 4);
    mfi_gguf_put_number(&g->w, 3, 4);
    mfi_gguf_put_number(&g->w, x->n_tensor, 8);
    mfi_gguf_put_number(&g->w, 0, 8);
    mfi_gguf_key_string(&g->w, "general.architecture", g->w.architecture);
    put_common(&g->w, x->config);
    if (x->config->family == MFI_FAMILY_GEMMA3N)
        put_gemma3n(&g->w, x->config);
    else
        put_llama(&g->w, x->config);
    const mf_status status = mfi_export_gguf_vocab(&g->w, x->config, x->tokenizer, x->tokenizer_bytes, x->error);
    if (status != MF_OK) return status;
    put_tensors(g);
    mfi_gguf_put(&g->w, zeros, mfi_round_up(g->w.n, ALIGNMENT) - g->w.n);
    if (g->w.failed) return mfi_fail(x->error, MF_E_NOMEM, "%s: no memory for its metadata", x->path);
    for (size_t i = 0; i < 8; i++)
        g->w.bytes[16 + i] = (unsigned char)(g->w.n_key >> (8 * i));
    return MF_OK;
}

static mf_status write_factors(gguf *g, mfi_new_file *file, uint64_t at)
{
    const size_t bytes = g->x->config->d_head / 2 * sizeof *g->factors;
    const mf_status status = mfi_new_file_write_at(file, g->factors, bytes, at, g->x->error);
    return status == MF_OK ? mfi_export_advance(g->x, bytes) : status;
}

/* A hole, which reads as zeros, but for its end. */
static mf_status skip_zeros(gguf *g, const mfi_out_tensor *t, mfi_new_file *file, uint64_t at)
{
    const mf_status status = mfi_new_file_write_at(file, "", 1, at + t->bytes - 1, g->x->error);
    return status == MF_OK ? mfi_export_advance(g->x, t->bytes) : status;
}

static mf_status write_tensor(gguf *g, const mfi_out_tensor *t, mfi_new_file *file, uint64_t at)
{
    if (t->is_zero) return skip_zeros(g, t, file, at);
    return strcmp(t->name, FACTORS) == 0 ? write_factors(g, file, at) : mfi_export_tensor(g->x, t, file, at);
}

/* What fills up the last tensor is there too, as ggml writes it; that of others is a hole. */
static mf_status write_data(gguf *g, mfi_new_file *file)
{
    static const unsigned char zeros[ALIGNMENT];
    mfi_exporter *x = g->x;
    uint64_t end = g->w.n;
    mf_status status = mfi_new_file_write_at(file, g->w.bytes, g->w.n, 0, x->error);
    for (size_t i = 0; i < x->n_tensor && status == MF_OK; i++) {
        const mfi_out_tensor *t = &x->tensor[i];
        status = write_tensor(g, t, file, g->w.n + t->offset);
        end = g->w.n + t->offset + t->bytes;
    }
    const size_t rest = (size_t)((ALIGNMENT - end % ALIGNMENT) % ALIGNMENT);
    return status == MF_OK ? mfi_new_file_write_at(file, zeros, rest, end, x->error) : status;
}

static mf_status write_file(gguf *g)
{
    mfi_new_file file;
    mf_status status = mfi_new_file_open(&file, g->x->path, g->x->error);
    if (status != MF_OK) return status;
    status = write_data(g, &file);
    if (status == MF_OK) status = mfi_new_file_commit(&file, g->x->error);
    mfi_new_file_abort(&file);
    return status;
}

mf_status mfi_export_gguf(mfi_exporter *x)
{
    struct stat exists;
    gguf g = { .x = x, .w = { .allocator = x->allocator } };
    if (lstat(x->path, &exists) == 0)
        return mfi_fail(x->error, MF_E_INVALID, "%s: exists; remove it, or choose another name", x->path);
    mf_status status = choose_names(x);
    if (status == MF_OK) g.w.architecture = x->names->model_types;
    if (status == MF_OK) status = find_factors(&g);
    if (status == MF_OK) status = lay_out(&g);
    if (status == MF_OK) status = make_header(&g);
    if (status == MF_OK) status = write_file(&g);
    mfi_gguf_writer_free(&g.w);
    return status;
}
