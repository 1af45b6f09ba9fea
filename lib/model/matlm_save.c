/* matlm_save.c - a configuration and its weights to a .mf file: which tensors there are, in which region
 * they lie, and how their rows become panels. docs/container-format.md section 5 is the specification. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arena.h"
#include "defs.h"
#include "matlm_config.h"
#include "quantize.h"
#include "status.h"

#define READ_ROWS 64u /* rows read from the caller at once: a multiple of MFK_NR */

typedef struct saver {
    const mfi_matlm_config *config;
    const mfi_matlm_save_options *options;
    const mfi_weights *weights;
    mfi_writer *writer;
    uint32_t n_shell, region; /* region: the one being declared */
    float *rows;              /* [READ_ROWS][the widest k] */
    mf_error *error;
} saver;

/* ---- Metadata ---- */

static void declare_granularity(const saver *s, uint32_t g)
{
    const mfi_granularity *granularity = &s->config->granularity[g];
    char key[32];
    snprintf(key, sizeof key, "granularity.%u.name", g);
    mfi_writer_text(s->writer, key, granularity->name, true);
    snprintf(key, sizeof key, "granularity.%u.ffn", g);
    mfi_writer_u32s(s->writer, key, granularity->ffn, s->config->n_layer, true);
    snprintf(key, sizeof key, "granularity.%u.heads", g);
    mfi_writer_u32s(s->writer, key, granularity->heads, s->config->n_layer, true);
}

/* A failed declaration sticks to the writer; finish returns it. */
static void declare_metadata(const saver *s)
{
    const mfi_matlm_config *config = s->config;
    mfi_writer *w = s->writer;
    mfi_writer_text(w, "family", "matlm", true);
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

    uint32_t may_skip[MFI_MAX_LAYER];
    bool has_window = false;
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        may_skip[layer] = config->may_skip[layer];
        has_window = has_window || config->window[layer] != 0;
    }
    mfi_writer_u32s(w, "may_skip", may_skip, config->n_layer, true);
    if (has_window) mfi_writer_u32s(w, "window", config->window, config->n_layer, true);
    mfi_writer_u64(w, "n_granularity", config->n_granularity, true);
    for (uint32_t g = 0; g < config->n_granularity; g++)
        declare_granularity(s, g);
    for (const char *const *pair = s->options->metadata; pair && pair[0] && pair[1]; pair += 2)
        mfi_writer_text(w, pair[0], pair[1], false);
}

/* ---- Tensors ---- */

/* Hidden units of a layer up to the end of shell `shell`. */
static uint32_t bound(const saver *s, uint32_t shell, uint32_t layer)
{
    const mfi_matlm_config *config = s->config;
    return config->granularity[s->n_shell == 1 ? config->n_granularity - 1 : shell].ffn[layer];
}

static uint32_t shell_begin(const saver *s, uint32_t shell, uint32_t layer)
{
    return shell == 0 ? 0 : bound(s, shell - 1, layer);
}

static uint32_t shell_width(const saver *s, uint32_t shell, uint32_t layer)
{
    return bound(s, shell, layer) - shell_begin(s, shell, layer);
}

static void declare(const saver *s, mfi_tensor_kind kind, mfk_type type, const char *name, uint32_t shell, uint64_t n,
                    uint64_t k, uint32_t interleaved)
{
    mfi_tensor tensor = {
        .name = name, .kind = kind, .type = type, .shell = shell, .region = s->region, .n = n, .k = k
    };
    if (kind == MFI_PANEL) tensor.panels = interleaved * ((n + MFK_NR - 1) / MFK_NR);
    mfi_writer_tensor(s->writer, &tensor);
}

static mfk_type type_of(const saver *s, mfi_role role)
{
    return s->options->role_type[role] ? s->options->role_type[role] : s->options->type;
}

static void declare_matrix(const saver *s, mfi_role role, const char *name, uint64_t n, uint64_t k)
{
    declare(s, MFI_PANEL, type_of(s, role), name, 0, n, k, 1);
}

static void declare_norm(const saver *s, const char *prefix)
{
    char name[64];
    snprintf(name, sizeof name, "%s.weight", prefix);
    declare(s, MFI_PLAIN, MFK_F32, name, 0, s->config->d_model, 1, 0);
    if (s->config->norm != MFI_NORM_LAYER) return;
    snprintf(name, sizeof name, "%s.bias", prefix);
    declare(s, MFI_PLAIN, MFK_F32, name, 0, s->config->d_model, 1, 0);
}

static void declare_vectors(const saver *s)
{
    const mfi_matlm_config *config = s->config;
    declare_norm(s, "final_norm");
    if (config->rope_theta != 0) declare(s, MFI_PLAIN, MFK_F32, "rope.freqs", 0, config->d_head / 2, 1, 0);
    if (s->options->tokenizer) declare(s, MFI_PLAIN, MFK_U8, "tokenizer", 0, s->options->tokenizer_bytes, 1, 0);
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "layers.%u.attn_norm", layer);
        declare_norm(s, prefix);
        snprintf(prefix, sizeof prefix, "layers.%u.ffn_norm", layer);
        declare_norm(s, prefix);
    }
}

static void declare_attention(const saver *s, uint32_t layer)
{
    const mfi_matlm_config *config = s->config;
    uint32_t heads = config->granularity[config->n_granularity - 1].heads[layer];
    uint64_t q = (uint64_t)heads * config->d_head;
    uint64_t kv = (uint64_t)mfi_kv_heads(heads, config->head_group) * config->d_head;
    char name[32];
    snprintf(name, sizeof name, "layers.%u.attn.q", layer);
    declare_matrix(s, MFI_ROLE_ATTENTION, name, q, config->d_model);
    snprintf(name, sizeof name, "layers.%u.attn.k", layer);
    declare_matrix(s, MFI_ROLE_ATTENTION, name, kv, config->d_model);
    snprintf(name, sizeof name, "layers.%u.attn.v", layer);
    declare_matrix(s, MFI_ROLE_ATTENTION, name, kv, config->d_model);
    snprintf(name, sizeof name, "layers.%u.attn.o", layer);
    declare_matrix(s, MFI_ROLE_ATTENTION, name, config->d_model, q);
}

static void declare_ffn(const saver *s, uint32_t shell, uint32_t layer)
{
    uint32_t width = shell_width(s, shell, layer);
    if (width == 0) return;
    bool gated = s->config->ffn == MFI_FFN_GATED;
    char name[32];
    snprintf(name, sizeof name, gated ? "layers.%u.ffn.gate_up" : "layers.%u.ffn.up", layer);
    declare(s, MFI_PANEL, type_of(s, MFI_ROLE_FFN), name, shell, width, s->config->d_model, gated ? 2 : 1);
    snprintf(name, sizeof name, "layers.%u.ffn.down", layer);
    declare(s, MFI_PANEL, type_of(s, MFI_ROLE_FFN), name, shell, s->config->d_model, width, 1);
}

static void declare_base(saver *s)
{
    const mfi_matlm_config *config = s->config;
    mfi_writer_region(s->writer, MFI_REGION_BASE, 0, s->options->storage, &s->region);
    declare_vectors(s);
    declare_matrix(s, config->tied ? MFI_ROLE_EMBEDDING : MFI_ROLE_OUTPUT, config->tied ? "embed" : "output",
                   config->n_vocab, config->d_model);
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        declare_attention(s, layer);
        declare_ffn(s, 0, layer);
    }
}

static bool shell_empty(const saver *s, uint32_t shell)
{
    for (uint32_t layer = 0; layer < s->config->n_layer; layer++)
        if (shell_width(s, shell, layer) > 0) return false;
    return true;
}

static void declare_regions(saver *s)
{
    const mfi_matlm_config *config = s->config;
    declare_base(s);
    if (!config->tied) {
        mfi_writer_region(s->writer, MFI_REGION_TABLES, 0, s->options->storage, &s->region);
        declare(s, MFI_TABLE, type_of(s, MFI_ROLE_EMBEDDING), "embed", 0, config->n_vocab, config->d_model, 0);
    }
    for (uint32_t shell = 1; shell < s->n_shell; shell++) {
        if (shell_empty(s, shell)) continue;
        mfi_writer_region(s->writer, MFI_REGION_SHELL, shell, s->options->storage, &s->region);
        for (uint32_t layer = 0; layer < config->n_layer; layer++)
            declare_ffn(s, shell, layer);
    }
}

/* ---- Bytes ---- */

static void fill_rope(const mfi_matlm_config *config, float *freqs)
{
    for (uint32_t j = 0; j < config->d_head / 2; j++)
        freqs[j] = (float)pow(config->rope_theta, -2.0 * j / config->d_head);
}

/* Rows [row, row + n_row) of `name`, columns from `column`, to s->rows. A weight that the tensor's type does not hold
 * is refused. */
static mf_status read_rows(const saver *s, const mfi_tensor *tensor, const char *name, size_t row, size_t n_row,
                           size_t column)
{
    const size_t k = (size_t)tensor->k;
    const float most = mfk_largest(tensor->type);
    mf_status status = s->weights->read(s->weights->user, name, row, n_row, column, k, s->rows, s->error);
    for (size_t i = 0; i < n_row * k && status == MF_OK; i++)
        if (fabsf(s->rows[i]) > most)
            status = mfi_fail(s->error, MF_E_RANGE, "tensor %s has a weight of %g, but %s holds none beyond %g", name,
                              (double)s->rows[i], mfk_type_name(tensor->type), (double)most);
    return status;
}

/* The matrix `name`, rows from `row` and columns from `column`, to panels that lie stride_bytes apart. */
static mf_status fill_panels(const saver *s, const mfi_tensor *tensor, const char *name, size_t row, size_t column,
                             unsigned char *panels, size_t stride_bytes)
{
    size_t n = (size_t)tensor->n, k = (size_t)tensor->k;
    for (size_t i = 0; i < n; i += READ_ROWS) {
        size_t rows = mfi_min(n - i, READ_ROWS);
        mf_status status = read_rows(s, tensor, name, row + i, rows, column);
        if (status != MF_OK) return status;
        mfk_pack(tensor->type, mfk_q4_table, rows, k, s->rows, k, panels + i / MFK_NR * stride_bytes, stride_bytes);
    }
    return MF_OK;
}

static mf_status fill_gate_up(const saver *s, const mfi_tensor *tensor, uint32_t layer, size_t row,
                              unsigned char *panels)
{
    size_t panel = mfk_panel_bytes(tensor->type, (size_t)tensor->k);
    char name[32];
    snprintf(name, sizeof name, "layers.%u.ffn.gate", layer);
    mf_status status = fill_panels(s, tensor, name, row, 0, panels, 2 * panel);
    snprintf(name, sizeof name, "layers.%u.ffn.up", layer);
    return status == MF_OK ? fill_panels(s, tensor, name, row, 0, panels + panel, 2 * panel) : status;
}

static mf_status fill_table(const saver *s, const mfi_tensor *tensor, unsigned char *table)
{
    size_t k = (size_t)tensor->k, row_bytes = mfk_row_bytes(tensor->type, k);
    for (size_t row = 0; row < tensor->n; row++, table += row_bytes) {
        mf_status status = read_rows(s, tensor, tensor->name, row, 1, 0);
        if (status != MF_OK) return status;
        mfk_pack_table_row(tensor->type, mfk_q4_table, k, s->rows, table);
    }
    return MF_OK;
}

/* The table that the codes of a Q4 tensor stand for. */
static void fill_head(const mfi_tensor *tensor, unsigned char *bytes)
{
    if (mfk_head_bytes(tensor->type) == 0) return;
    memset(bytes, 0, mfk_head_bytes(tensor->type));
    memcpy(bytes, mfk_q4_table, MFK_Q4_TABLE_BYTES);
}

static mf_status fill(void *user, const mfi_tensor *tensor, void *bytes, mf_error *error)
{
    const saver *s = user;
    const mfi_weights *weights = s->weights;
    if (strcmp(tensor->name, "rope.freqs") == 0) {
        fill_rope(s->config, bytes);
        return MF_OK;
    }
    if (tensor->type == MFK_U8) {
        memcpy(bytes, s->options->tokenizer, s->options->tokenizer_bytes);
        return MF_OK;
    }
    if (tensor->kind == MFI_PLAIN)
        return weights->read(weights->user, tensor->name, 0, 1, 0, (size_t)tensor->n, bytes, error);
    unsigned char *body = (unsigned char *)bytes + mfk_head_bytes(tensor->type);
    fill_head(tensor, bytes);
    if (tensor->kind == MFI_TABLE) return fill_table(s, tensor, body);

    /* Of the FFN, a shell is rows of gate and up, and columns of down. */
    unsigned layer = 0;
    char part[16] = "";
    bool ffn = sscanf(tensor->name, "layers.%u.ffn.%15s", &layer, part) == 2;
    size_t first = ffn ? shell_begin(s, tensor->shell, layer) : 0;
    bool down = strcmp(part, "down") == 0;
    if (strcmp(part, "gate_up") == 0) return fill_gate_up(s, tensor, layer, first, body);
    return fill_panels(s, tensor, tensor->name, down ? 0 : first, down ? first : 0, body,
                       mfk_panel_bytes(tensor->type, (size_t)tensor->k));
}

mf_status mfi_matlm_save(const mfi_matlm_config *config, const mfi_weights *weights,
                         const mfi_matlm_save_options *options, const mf_allocator *allocator, const char *path,
                         mf_error *error)
{
    mf_status status = mfi_matlm_config_check(config, error);
    if (status != MF_OK) return status;
    saver s = { .config = config, .options = options, .weights = weights, .error = error };
    for (mfi_role role = 0; role < MFI_N_ROLE; role++)
        if (type_of(&s, role) < MFK_F32 || type_of(&s, role) > MFK_Q4)
            return mfi_fail(error, MF_E_UNSUPPORTED, "%s: matrices are stored as f32, bf16, f16, q8 or q4", path);
    s.n_shell = options->one_shell ? 1 : config->n_granularity;
    size_t width = mfi_max(mfi_max(config->d_model, config->d_ff), (size_t)config->n_head * config->d_head);
    s.rows = mfi_alloc_array(allocator, READ_ROWS * width, sizeof *s.rows);
    if (!s.rows) return mfi_fail(error, MF_E_NOMEM, "%s: no memory to write it", path);
    status = mfi_writer_create(&s.writer, allocator, path, error);
    if (status == MF_OK) {
        declare_metadata(&s);
        declare_regions(&s);
        status = mfi_writer_finish(s.writer, fill, &s, error);
    }
    mfi_writer_close(s.writer);
    mfi_free(allocator, s.rows, READ_ROWS * width * sizeof *s.rows);
    return status;
}
