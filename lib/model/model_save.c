/* model_save.c - a configuration and its weights to a .mf file: which tensors there are, in which region
 * they lie, and how their rows become panels. docs/container-format.md section 5 is the specification. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arena.h"
#include "defs.h"
#include "model.h"
#include "quantize.h"
#include "status.h"

#define READ_ROWS 64u /* rows read from the caller at once: a multiple of MFK_NR */

typedef struct saver {
    const mfi_config *config;
    const mfi_save_options *options;
    const mfi_weights *weights;
    mfi_writer *writer;
    const char *path;
    uint32_t n_shell, region; /* region: the one being declared */
    float *rows;              /* [READ_ROWS][the widest k] */
    float *stored;            /* likewise: what is left of them after packing, to be compared */
    uint64_t done, total;     /* bytes of matrices, for progress */
    mf_error *error;
} saver;

/* ---- Metadata ---- */

/* Metadata of whatever kind that the maker of another file chose. */
static void declare_key(const saver *s, const char *key, mfi_value kind)
{
    const mfi_container *from = s->options->keys_of;
    uint64_t integer;
    double real;
    const char *text;
    const uint32_t *values;
    size_t count;
    if (kind == MFI_VALUE_U64 && mfi_container_u64(from, key, &integer))
        mfi_writer_u64(s->writer, key, integer, false);
    else if (kind == MFI_VALUE_F64 && mfi_container_f64(from, key, &real))
        mfi_writer_f64(s->writer, key, real, false);
    else if (kind == MFI_VALUE_TEXT && mfi_container_text(from, key, &text))
        mfi_writer_text(s->writer, key, text, false);
    else if (kind == MFI_VALUE_U32S && mfi_container_u32s(from, key, &values, &count))
        mfi_writer_u32s(s->writer, key, values, count, false);
}

/* A failed declaration sticks to the writer; finish returns it. */
static void declare_metadata(const saver *s)
{
    mfi_writer *w = s->writer;
    mfi_config_declare(s->config, w);
    for (const char *const *pair = s->options->metadata; pair && pair[0] && pair[1]; pair += 2)
        mfi_writer_text(w, pair[0], pair[1], false);
    const char *key;
    mfi_value kind;
    for (uint32_t i = 0; s->options->keys_of && mfi_container_key_at(s->options->keys_of, i, &key, &kind); i++)
        if (!mfi_config_key_known(key)) declare_key(s, key, kind);
}

/* ---- Tensors ---- */

/* Hidden units of a layer up to the end of shell `shell`. */
static uint32_t bound(const saver *s, uint32_t shell, uint32_t layer)
{
    const mfi_config *config = s->config;
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

static void declare(saver *s, mfi_tensor_kind kind, mfk_type type, const char *name, uint32_t shell, uint64_t n,
                    uint64_t k, uint32_t interleaved)
{
    mfi_tensor tensor = {
        .name = name, .kind = kind, .type = type, .shell = shell, .region = s->region, .n = n, .k = k
    };
    if (kind == MFI_PANEL) tensor.panels = interleaved * ((n + MFK_NR - 1) / MFK_NR);
    if (kind != MFI_PLAIN) s->total += mfi_tensor_matrices(&tensor) * mfk_weights_bytes(type, n, k);
    mfi_writer_tensor(s->writer, &tensor);
}

static mfk_type type_of(const saver *s, mfi_role role)
{
    return s->options->role_type[role] ? s->options->role_type[role] : s->options->type;
}

static void declare_matrix(saver *s, const char *name, uint64_t n, uint64_t k)
{
    declare(s, MFI_PANEL, type_of(s, mfi_role_of(name)), name, 0, n, k, 1);
}

static void declare_norm(saver *s, const char *prefix)
{
    char name[64];
    snprintf(name, sizeof name, "%s.weight", prefix);
    declare(s, MFI_PLAIN, MFK_F32, name, 0, s->config->d_model, 1, 0);
    if (s->config->norm != MFI_NORM_LAYER) return;
    snprintf(name, sizeof name, "%s.bias", prefix);
    declare(s, MFI_PLAIN, MFK_F32, name, 0, s->config->d_model, 1, 0);
}

static void declare_vectors(saver *s)
{
    const mfi_config *config = s->config;
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

static void declare_attention(saver *s, uint32_t layer)
{
    const mfi_config *config = s->config;
    uint32_t heads = config->granularity[config->n_granularity - 1].heads[layer];
    uint64_t q = (uint64_t)heads * config->d_head;
    uint64_t kv = (uint64_t)mfi_kv_heads(heads, config->head_group) * config->d_head;
    char name[32];
    snprintf(name, sizeof name, "layers.%u.attn.q", layer);
    declare_matrix(s, name, q, config->d_model);
    snprintf(name, sizeof name, "layers.%u.attn.k", layer);
    declare_matrix(s, name, kv, config->d_model);
    snprintf(name, sizeof name, "layers.%u.attn.v", layer);
    declare_matrix(s, name, kv, config->d_model);
    snprintf(name, sizeof name, "layers.%u.attn.o", layer);
    declare_matrix(s, name, config->d_model, q);
}

static void declare_ffn(saver *s, uint32_t shell, uint32_t layer)
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
    const mfi_config *config = s->config;
    mfi_writer_region(s->writer, MFI_REGION_BASE, 0, s->options->storage, &s->region);
    declare_vectors(s);
    declare_matrix(s, config->tied ? "embed" : "output", config->n_vocab, config->d_model);
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
    const mfi_config *config = s->config;
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

static double scaled_frequency(const mfi_rope_scaling *scaling, double f)
{
    if (scaling->kind == MFI_ROPE_PLAIN) return f;
    if (scaling->kind == MFI_ROPE_LINEAR) return f / scaling->factor;
    const double low = scaling->low_freq_factor, high = scaling->high_freq_factor;
    const double turns = scaling->original_positions * f / 6.283185307179586; /* N / wavelength */
    if (turns < low) return f / scaling->factor;
    if (turns > high) return f;
    const double s = (turns - low) / (high - low);
    return (1 - s) * f / scaling->factor + s * f;
}

static void fill_rope(const mfi_config *config, float *freqs)
{
    for (uint32_t j = 0; j < config->d_head / 2; j++)
        freqs[j] = (float)scaled_frequency(&config->rope_scaling, pow(config->rope_theta, -2.0 * j / config->d_head));
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

static mf_status advance(saver *s, uint64_t bytes)
{
    s->done += bytes;
    if (!s->options->progress || s->options->progress(s->options->progress_user, s->done, s->total) == 0) return MF_OK;
    return mfi_fail(s->error, MF_E_CANCELLED, "%s: writing was cancelled", s->path);
}

/* Rows s->rows, which became s->stored: how far these are off. */
static void measure(const saver *s, const mfi_tensor *tensor, size_t n)
{
    mfi_saved_role *saved = &s->options->saved[mfi_role_of(tensor->name)];
    for (size_t i = 0; i < n; i++) {
        const double weight = (double)s->rows[i], error = (double)s->stored[i] - weight;
        saved->square_sum += weight * weight;
        saved->error_square_sum += error * error;
    }
    saved->n_rounded += n;
}

static bool to_measure(const saver *s, const mfi_tensor *tensor)
{
    return s->options->saved && tensor->type != MFK_F32;
}

/* The matrix `name`, rows from `row` and columns from `column`, to panels that lie stride_bytes apart. */
static mf_status fill_panels(saver *s, const mfi_tensor *tensor, const char *name, size_t row, size_t column,
                             unsigned char *panels, size_t stride_bytes)
{
    size_t n = (size_t)tensor->n, k = (size_t)tensor->k;
    for (size_t i = 0; i < n; i += READ_ROWS) {
        size_t rows = mfi_min(n - i, READ_ROWS);
        mf_status status = read_rows(s, tensor, name, row + i, rows, column);
        if (status != MF_OK) return status;
        unsigned char *first = panels + i / MFK_NR * stride_bytes;
        mfk_pack(tensor->type, mfk_q4_table, rows, k, s->rows, k, first, stride_bytes);
        if (to_measure(s, tensor)) {
            mfk_unpack(tensor->type, mfk_q4_table, rows, k, first, stride_bytes, s->stored, k);
            measure(s, tensor, rows * k);
        }
        status = advance(s, mfk_weights_bytes(tensor->type, rows, k));
        if (status != MF_OK) return status;
    }
    return MF_OK;
}

static mf_status fill_gate_up(saver *s, const mfi_tensor *tensor, uint32_t layer, size_t row, unsigned char *panels)
{
    size_t panel = mfk_panel_bytes(tensor->type, (size_t)tensor->k);
    char name[32];
    snprintf(name, sizeof name, "layers.%u.ffn.gate", layer);
    mf_status status = fill_panels(s, tensor, name, row, 0, panels, 2 * panel);
    snprintf(name, sizeof name, "layers.%u.ffn.up", layer);
    return status == MF_OK ? fill_panels(s, tensor, name, row, 0, panels + panel, 2 * panel) : status;
}

static mf_status fill_table(saver *s, const mfi_tensor *tensor, unsigned char *table)
{
    const size_t k = (size_t)tensor->k, row_bytes = mfk_row_bytes(tensor->type, k);
    for (size_t i = 0; i < tensor->n; i += READ_ROWS) {
        const size_t rows = mfi_min((size_t)tensor->n - i, READ_ROWS);
        mf_status status = read_rows(s, tensor, tensor->name, i, rows, 0);
        if (status != MF_OK) return status;
        for (size_t r = 0; r < rows; r++, table += row_bytes) {
            mfk_pack_table_row(tensor->type, mfk_q4_table, k, s->rows + r * k, table);
            if (to_measure(s, tensor)) mfk_unpack_table_row(tensor->type, mfk_q4_table, k, table, s->stored + r * k);
        }
        if (to_measure(s, tensor)) measure(s, tensor, rows * k);
        status = advance(s, mfk_weights_bytes(tensor->type, rows, k));
        if (status != MF_OK) return status;
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

/* What is no matrix. */
static mf_status fill_vector(saver *s, const mfi_tensor *tensor, void *bytes)
{
    if (strcmp(tensor->name, "rope.freqs") == 0) {
        fill_rope(s->config, bytes);
        return MF_OK;
    }
    if (tensor->type == MFK_U8) {
        memcpy(bytes, s->options->tokenizer, s->options->tokenizer_bytes);
        return MF_OK;
    }
    return s->weights->read(s->weights->user, tensor->name, 0, 1, 0, (size_t)tensor->n, bytes, s->error);
}

static mf_status fill(void *user, const mfi_tensor *tensor, void *bytes, mf_error *error)
{
    (void)error; /* s->error */
    saver *s = user;
    const uint64_t n_matrix = mfi_tensor_matrices(tensor);
    mfi_saved_role *saved = s->options->saved;
    if (saved && tensor->kind != MFI_PLAIN) {
        saved += mfi_role_of(tensor->name);
        saved->n_weight += n_matrix * tensor->n * tensor->k;
        saved->bytes += tensor->bytes;
    }
    /* Of the FFN, a shell is rows of gate and up, and columns of down. */
    unsigned layer = 0;
    char part[16] = "";
    const bool ffn = sscanf(tensor->name, "layers.%u.ffn.%15s", &layer, part) == 2;
    const size_t first = ffn ? shell_begin(s, tensor->shell, layer) : 0;
    if (s->weights->copy && s->weights->copy(s->weights->user, tensor, first, bytes))
        return advance(s, tensor->kind == MFI_PLAIN ? 0
                                                    : n_matrix * mfk_weights_bytes(tensor->type, tensor->n, tensor->k));
    if (tensor->kind == MFI_PLAIN) return fill_vector(s, tensor, bytes);

    unsigned char *body = (unsigned char *)bytes + mfk_head_bytes(tensor->type);
    fill_head(tensor, bytes);
    if (tensor->kind == MFI_TABLE) return fill_table(s, tensor, body);
    const bool down = strcmp(part, "down") == 0;
    if (n_matrix == 2) return fill_gate_up(s, tensor, layer, first, body);
    return fill_panels(s, tensor, tensor->name, down ? 0 : first, down ? first : 0, body,
                       mfk_panel_bytes(tensor->type, (size_t)tensor->k));
}

mf_status mfi_save(const mfi_config *config, const mfi_weights *weights, const mfi_save_options *options,
                   const mf_allocator *allocator, const char *path, mf_error *error)
{
    mf_status status = mfi_config_check(config, error);
    if (status != MF_OK) return status;
    saver s = { .config = config, .options = options, .weights = weights, .path = path, .error = error };
    for (mfi_role role = 0; role < MFI_N_ROLE; role++)
        if (type_of(&s, role) < MFK_F32 || type_of(&s, role) > MFK_Q4)
            return mfi_fail(error, MF_E_UNSUPPORTED, "%s: matrices are stored as f32, bf16, f16, q8 or q4", path);
    s.n_shell = options->one_shell ? 1 : config->n_granularity;
    if (options->saved) memset(options->saved, 0, MFI_N_ROLE * sizeof *options->saved);
    const size_t width = mfi_max(mfi_max(config->d_model, config->d_ff), (size_t)config->n_head * config->d_head);
    const size_t n_float = READ_ROWS * width * (options->saved ? 2 : 1);
    s.rows = mfi_alloc_array(allocator, n_float, sizeof *s.rows);
    if (!s.rows) return mfi_fail(error, MF_E_NOMEM, "%s: no memory to write it", path);
    s.stored = options->saved ? s.rows + READ_ROWS * width : NULL;
    status = mfi_writer_create(&s.writer, allocator, path, error);
    if (status == MF_OK) {
        declare_metadata(&s);
        declare_regions(&s);
        status = mfi_writer_finish(s.writer, fill, &s, error);
    }
    mfi_writer_close(s.writer);
    mfi_free(allocator, s.rows, n_float * sizeof *s.rows);
    return status;
}
