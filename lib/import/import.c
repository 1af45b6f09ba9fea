/* import.c - a checkpoint as a configuration and weights: which family it is, where each of our matrices lies in its
 * tensors, and reading it from there. */
#define _POSIX_C_SOURCE 200809L
#include "import.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "defs.h"
#include "families.h"
#include "pack.h"
#include "platform.h"
#include "schema.h"
#include "status.h"
#include "tensor_list.h"
#include "tokenizer.h"
#include "tokenizer_import.h"

#define MAX_CONFIG_BYTES ((size_t)16 << 20)
#define MAX_PATH_BYTES 4096

/* Where one of our matrices lies. */
typedef struct mapped {
    char name[64];
    const mfi_source_tensor *tensor;
    uint64_t n, k;    /* a vector: 1 row */
    uint64_t first;   /* its first element in the tensor */
    uint32_t rotated; /* d_head where rows are in GGUF's order, else 0 */
} mapped;

struct mfi_import {
    mf_allocator allocator;
    mfi_tensor_file *file;
    const mfi_import_family *family;
    const char *prefix, *format;
    bool is_folder;
    mfi_config config;
    mapped *map; /* [n_map] by name */
    size_t n_map, map_capacity;
    const mfi_source_tensor *rope_factors; /* of GGUF, or NULL */
    void *tokenizer;
    size_t tokenizer_bytes;
    mf_error *error; /* while it opens */
    mf_status status;
};

/* ---- Which family ---- */

static const mfi_import_family *const hf_families[] = { &mfi_import_llama_hf, &mfi_import_gemma3n_hf, &mfi_import_olmo,
                                                        &mfi_import_vit };
static const mfi_import_family *const gguf_families[] = { &mfi_import_llama_gguf, &mfi_import_gemma3n_gguf };

static bool lists(const char *words, const char *word, size_t bytes)
{
    for (const char *at = words; *at != '\0'; at += strspn(at, " ")) {
        const size_t length = strcspn(at, " ");
        if (length == bytes && memcmp(at, word, bytes) == 0) return true;
        at += length;
    }
    return false;
}

static mf_status choose_family(mfi_import *in, const mfi_import_family *const *families, size_t n, const char *type,
                               size_t bytes)
{
    for (size_t i = 0; i < n && !in->family; i++)
        if (lists(families[i]->model_types, type, bytes)) in->family = families[i];
    if (in->family) return MF_OK;
    if (bytes == 0)
        return mfi_fail(in->error, MF_E_FORMAT, "%s: the configuration does not say \"model_type\"; fetch it again",
                        mfi_tensor_file_name(in->file));
    return mfi_fail(in->error, MF_E_UNSUPPORTED,
                    "%s: a model of type \"%.*s\"; read are Llama, Gemma 3n, MatFormer-OLMo and ViT",
                    mfi_tensor_file_name(in->file), (int)mfi_min(bytes, 40), type);
}

static mf_status choose_prefix(mfi_import *in)
{
    char name[256];
    for (const char *const *prefix = in->family->prefixes; *prefix; prefix++) {
        snprintf(name, sizeof name, "%s%s", *prefix, in->family->probe);
        in->prefix = *prefix;
        if (mfi_tensor_file_find(in->file, name)) return MF_OK;
    }
    return mfi_fail(in->error, MF_E_FORMAT, "%s: tensor %s%s is missing; fetch all files of the model",
                    mfi_tensor_file_name(in->file), in->family->prefixes[0], in->family->probe);
}

/* ---- Where tensors are ---- */

/* Of a type that is known: its bytes lie in a file, so that the product fits. */
static uint64_t elements(const mfi_source_tensor *tensor)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < tensor->n_dim; i++)
        n *= tensor->dim[i];
    return n;
}

/* Rows that their tensor has, of which ours are some, and which is our first. */
static uint64_t rows_of_part(const mfi_import *in, mfi_name_part part, uint32_t layer, uint32_t index, uint64_t rows,
                             uint64_t *first)
{
    const mfi_config *config = &in->config;
    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    const uint32_t at = layer < config->n_layer ? layer : 0, heads = full->heads[at];
    const uint64_t q = (uint64_t)heads * config->d_head;
    const uint64_t kv = (uint64_t)mfi_kv_heads(heads, config->head_group) * config->d_head;
    const uint64_t fused = q + 2 * kv + (config->parallel ? full->ffn[at] : 0);
    *first = 0;
    switch (part) {
    case MFI_NAME_LAYER:
        *first = layer * rows;
        return config->n_layer * rows;
    case MFI_NAME_INDEX:
        *first = index * rows;
        return (config->gemma3n.n_stream - 1) * rows;
    case MFI_NAME_Q:
    case MFI_NAME_FUSED_ROTATED_Q:
        return fused;
    case MFI_NAME_K:
    case MFI_NAME_FUSED_ROTATED_K:
        *first = q;
        return fused;
    case MFI_NAME_V:
        *first = q + kv;
        return fused;
    case MFI_NAME_AFTER_QKV:
        *first = q + 2 * kv;
        return fused;
    default:
        return rows;
    }
}

static bool is_rotated(mfi_name_part part)
{
    return part == MFI_NAME_ROTATED || part == MFI_NAME_FUSED_ROTATED_Q || part == MFI_NAME_FUSED_ROTATED_K;
}

/* Of more than two dimensions (a convolution's, stacked matrices) the last ones make a row, the others count the rows. */
static bool has_shape(const mfi_source_tensor *tensor, uint64_t rows, uint64_t k)
{
    uint64_t row = mfi_source_columns(tensor);
    for (uint32_t i = tensor->n_dim; i > 2 && row < k; i--)
        row *= tensor->dim[i - 2];
    return row == k && elements(tensor) == rows * k;
}

/* [128, 64] */
static const char *shape_text(const mfi_source_tensor *tensor, char out[MFI_SOURCE_DIMS * 24])
{
    size_t used = (size_t)sprintf(out, "[");
    for (uint32_t i = 0; i < tensor->n_dim; i++)
        used += (size_t)sprintf(out + used, "%s%llu", i > 0 ? ", " : "", (unsigned long long)tensor->dim[i]);
    sprintf(out + used, "]");
    return out;
}

static mf_status check_tensor(const mfi_import *in, const mfi_source_tensor *tensor, uint64_t rows, uint64_t k)
{
    const char *file = mfi_tensor_file_name(in->file);
    char shape[MFI_SOURCE_DIMS * 24];
    if (tensor->type == MFI_SOURCE_OTHER)
        return mfi_fail(
            in->error, MF_E_UNSUPPORTED,
            "%s: tensor %s has type %s, which is not read; use a file of F32, BF16, F16, Q8_0, Q4_0 .. Q6_K", file,
            tensor->name, tensor->type_name);
    if (has_shape(tensor, rows, k)) return MF_OK;
    return mfi_fail(in->error, MF_E_FORMAT,
                    "%s: tensor %s is %s, but the configuration asks for %llu x %llu; fetch both again", file,
                    tensor->name, shape_text(tensor, shape), (unsigned long long)rows, (unsigned long long)k);
}

/* The row of a vector of `n` elements in its tensor: of most, all of it; of small matrices that are vectors here
 * (schema.h), theirs. */
static uint64_t vector_row(const mfi_import *in, const char *rest, uint64_t n)
{
    const struct {
        const char *name;
        uint32_t row;
    } matrices[] = { { "altup.router", in->config.d_model },
                     { "altup.predict", in->config.gemma3n.n_stream },
                     { "altup.correct", in->config.gemma3n.n_stream },
                     { "position", in->config.d_model } };
    for (size_t i = 0; i < MFI_COUNT(matrices); i++)
        if (strcmp(rest, matrices[i].name) == 0) return matrices[i].row;
    return n;
}

/* A vector's elements are rows of one. */
static void map_matrix(mfi_import *in, const char *name, uint32_t layer, bool is_vector, uint64_t n, uint64_t k)
{
    const char *rest = mfi_rest_of_name(&in->config, name, layer);
    char theirs[256] = "";
    uint32_t index = 0;
    for (const mfi_name *entry = NULL; (entry = mfi_next_name(in->family, entry, rest, &index));) {
        mfi_make_name(entry, in->prefix, layer, index, theirs, sizeof theirs);
        const mfi_source_tensor *tensor = mfi_tensor_file_find(in->file, theirs);
        if (!tensor) continue;
        uint64_t first;
        const uint64_t rows = rows_of_part(in, entry->part, layer, index, n, &first);
        const uint64_t row = is_vector ? vector_row(in, rest, rows) : k;
        in->status = check_tensor(in, tensor, is_vector ? rows / row : rows, row);
        mapped *m = &in->map[in->n_map++];
        *m = (mapped){ .tensor = tensor, .n = is_vector ? 1 : n, .k = is_vector ? n : k, .first = first * k };
        if (is_rotated(entry->part)) m->rotated = in->config.d_head;
        snprintf(m->name, sizeof m->name, "%s", name);
        return;
    }
    in->status = mfi_fail(in->error, MF_E_FORMAT, "%s: tensor %s is missing; fetch all files of the model",
                          mfi_tensor_file_name(in->file), theirs[0] ? theirs : name);
}

static bool is_rotation(const char *name)
{
    return strncmp(name, "rope.", 5) == 0;
}

static void count_matrices(void *user, const mfi_schema_tensor *tensor)
{
    mfi_import *in = user;
    in->map_capacity += tensor->n_matrix;
}

static void map_tensor(void *user, const mfi_schema_tensor *tensor)
{
    mfi_import *in = user;
    for (uint32_t i = 0; i < tensor->n_matrix && in->status == MF_OK && !is_rotation(tensor->name); i++)
        map_matrix(in, tensor->matrix[i], tensor->layer, tensor->kind == MFI_PLAIN, tensor->n, tensor->k);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const mapped *)a)->name, ((const mapped *)b)->name);
}

static mf_status map_all(mfi_import *in)
{
    mfi_schema_each(&in->config, count_matrices, in);
    in->map = mfi_alloc_array(&in->allocator, in->map_capacity, sizeof *in->map);
    if (!in->map) return mfi_fail(in->error, MF_E_NOMEM, "no memory for %zu tensors", in->map_capacity);
    mfi_schema_each(&in->config, map_tensor, in);
    mfi_heap_sort(in->map, in->n_map, sizeof *in->map, compare_names);
    return in->status;
}

static const mapped *find_mapped(const mfi_import *in, const char *name)
{
    mapped key;
    snprintf(key.name, sizeof key.name, "%s", name);
    return bsearch(&key, in->map, in->n_map, sizeof *in->map, compare_names);
}

/* ---- Reading ---- */

/* One row of ours as a row of theirs: of a head, (i, half) lies at 2 i + half. */
static uint64_t source_row(const mapped *m, uint64_t row)
{
    if (!m->rotated) return row;
    const uint64_t at = row % m->rotated, half = m->rotated / 2;
    return row - at + 2 * (at % half) + at / half;
}

/* `n` elements from `first` on, over as many rows of their tensor as they take. */
static mf_status read_elements(const mfi_import *in, const mfi_source_tensor *tensor, uint64_t first, size_t n,
                               float *out, void *scratch, mf_error *error)
{
    const uint64_t row_elements = tensor->n_dim > 0 ? tensor->dim[tensor->n_dim - 1] : 1;
    mf_status status = MF_OK;
    for (size_t done = 0, part; done < n && status == MF_OK; done += part) {
        const uint64_t column = (first + done) % row_elements;
        part = (size_t)mfi_min(n - done, row_elements - column);
        status = mfi_source_read(in->file, tensor, (first + done) / row_elements, 1, column, part, out + done, scratch,
                                 error);
    }
    return status;
}

static mf_status read_rows(const mfi_import *in, const mapped *m, size_t row, size_t n_row, size_t column,
                           size_t n_column, float *out, void *scratch, mf_error *error)
{
    const mfi_source_tensor *tensor = m->tensor;
    const bool aligned = tensor->n_dim > 0 && m->k == tensor->dim[tensor->n_dim - 1] && m->n > 1;
    if (aligned && !m->rotated)
        return mfi_source_read(in->file, tensor, m->first / m->k + row, n_row, column, n_column, out, scratch, error);
    mf_status status = MF_OK;
    for (size_t i = 0; i < n_row && status == MF_OK; i++)
        status = read_elements(in, tensor, m->first + source_row(m, row + i) * m->k + column, n_column,
                               out + i * n_column, scratch, error);
    return status;
}

/* A bias whose elements are in the order of rotated rows. */
static mf_status read_rotated_vector(const mfi_import *in, const mapped *m, size_t column, size_t n_column, float *out,
                                     void *scratch, mf_error *error)
{
    mf_status status = MF_OK;
    for (size_t i = 0; i < n_column && status == MF_OK; i++)
        status = read_elements(in, m->tensor, m->first + source_row(m, column + i), 1, out + i, scratch, error);
    return status;
}

static mf_status check_finite(const mfi_import *in, const mapped *m, const float *x, size_t n, mf_error *error)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return mfi_fail(error, MF_E_RANGE, "%s: tensor %s has weights that are not finite; fetch the file again",
                            mfi_tensor_file_name(in->file), m->tensor->name);
    return MF_OK;
}

static mf_status read_rotation(const mfi_import *in, size_t column, size_t n_column, float *out, mf_error *error)
{
    const uint32_t half = in->config.d_head / 2;
    float freqs[256], factors[256]; /* d_head is at most 512 */
    unsigned char scratch[2048];    /* of f64 */
    mfi_rope_frequencies(&in->config, in->config.rope_theta, freqs);
    mf_status status = read_elements(in, in->rope_factors, 0, half, factors, scratch, error);
    for (size_t i = 0; i < n_column && status == MF_OK; i++) {
        out[i] = freqs[column + i] / factors[column + i];
        if (!isfinite(out[i]) || !(factors[column + i] > 0 && isfinite(factors[column + i])))
            status = mfi_fail(error, MF_E_RANGE, "%s: tensor %s has a factor of %g; fetch the file again",
                              mfi_tensor_file_name(in->file), in->rope_factors->name, (double)factors[column + i]);
    }
    return status;
}

static mf_status read_weights(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                              float *out, mf_error *error)
{
    const mfi_import *in = user;
    if (in->rope_factors && is_rotation(name)) return read_rotation(in, column, n_column, out, error);
    const mapped *m = find_mapped(in, name);
    if (!m || row + n_row > m->n || column + n_column > m->k)
        return mfi_fail(error, MF_E_NOT_FOUND, "%s: it has no %s of that size", mfi_tensor_file_name(in->file), name);
    const size_t scratch_bytes = mfi_source_scratch_bytes(m->tensor);
    void *scratch = mfi_alloc(&in->allocator, mfi_max(scratch_bytes, 1));
    if (!scratch) return mfi_fail(error, MF_E_NOMEM, "no memory to read tensor %s", m->tensor->name);
    mf_status status = m->rotated && m->n == 1 ? read_rotated_vector(in, m, column, n_column, out, scratch, error)
                                               : read_rows(in, m, row, n_row, column, n_column, out, scratch, error);
    mfi_free(&in->allocator, scratch, mfi_max(scratch_bytes, 1));
    return status == MF_OK ? check_finite(in, m, out, n_row * n_column, error) : status;
}

/* ---- Types ---- */

/* Codes of up to 8 bits under one scale for 32 weights: Q8 holds them as they are. */
static bool is_q8_exact(mfi_source_type type)
{
    return type == MFI_SOURCE_Q8_0 || type == MFI_SOURCE_Q4_0 || type == MFI_SOURCE_Q5_0;
}

static mfk_type type_for(mfi_source_type type)
{
    switch (type) {
    case MFI_SOURCE_F32:
    case MFI_SOURCE_F64:
        return MFK_F32;
    case MFI_SOURCE_F16:
        return MFK_F16;
    case MFI_SOURCE_BF16:
        return MFK_BF16;
    default:
        return MFK_Q8;
    }
}

/* Of two that share a tensor: the same, or the one that holds both. */
static mfk_type type_of(void *user, const mfi_schema_tensor *is)
{
    const mfi_import *in = user;
    mfk_type type = 0;
    for (uint32_t i = 0; i < is->n_matrix; i++) {
        const mapped *m = find_mapped(in, is->matrix[i]);
        const mfk_type own = m ? type_for(m->tensor->type) : MFK_F32;
        if (type != 0 && own != type) return type == MFK_Q8 ? own : own == MFK_Q8 ? type : MFK_F32;
        type = own;
    }
    return type;
}

/* Whole rows of such codes. */
static bool is_copied(const mapped *m)
{
    return is_q8_exact(m->tensor->type) && m->k == m->tensor->dim[m->tensor->n_dim - 1];
}

/* Q8 from blocks of GGUF whose codes it can have; frequencies that the file gives factors for. */
static bool has_tensor(void *user, const mfi_schema_tensor *is, const mfi_tensor *tensor, size_t first,
                       unsigned char head[MFK_LINE])
{
    const mfi_import *in = user;
    (void)head;
    if (is_rotation(is->name)) return in->rope_factors != NULL;
    for (uint32_t i = 0; i < is->n_matrix; i++) {
        const mapped *m = find_mapped(in, is->matrix[i]);
        if (!m || tensor->type != MFK_Q8 || !is_copied(m)) return false;
        if (is->along == MFI_FFN_ALONG_K && first % MFK_BLOCK != 0) return false;
    }
    return true;
}

/* The codes of one block, value + 128, and its scale. */
static uint16_t block_codes(mfi_source_type type, const unsigned char *block, uint8_t code[MFK_BLOCK])
{
    uint16_t scale;
    uint32_t fifth = 0;
    memcpy(&scale, block, sizeof scale);
    if (type == MFI_SOURCE_Q5_0) memcpy(&fifth, block + 2, sizeof fifth);
    const unsigned char *nibbles = block + (type == MFI_SOURCE_Q5_0 ? 6 : 2);
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        const unsigned nibble = nibbles[i % 16] >> (i / 16 * 4) & 15u;
        if (type == MFI_SOURCE_Q8_0)
            code[i] = (uint8_t)(block[2 + i] ^ 0x80u);
        else if (type == MFI_SOURCE_Q4_0)
            code[i] = (uint8_t)(128 - 8 + nibble);
        else
            code[i] = (uint8_t)(128 - 16 + (nibble | (fifth >> i & 1u) << 4));
    }
    return scale;
}

static mf_status copy_row(const mfi_import *in, const mapped *m, size_t row, const mfi_tensor *tensor, size_t column,
                          unsigned char *to, size_t j, unsigned char *source, mf_error *error)
{
    const size_t block_bytes = mfi_source_block_bytes(m->tensor->type);
    mf_status status =
        mfi_source_read_bytes(in->file, m->tensor, m->first / m->k + source_row(m, row), 1, source, error);
    for (size_t block = 0; block * MFK_BLOCK < tensor->k && status == MF_OK; block++) {
        uint8_t code[MFK_BLOCK];
        const uint16_t scale = block_codes(m->tensor->type, source + (column / MFK_BLOCK + block) * block_bytes, code);
        const float value = mfk_f16_to_f32(scale);
        status = check_finite(in, m, &value, 1, error);
        if (tensor->kind == MFI_PANEL)
            mfk_place_q8(to, block, j, code, scale);
        else
            mfk_place_q8_row(to, (size_t)tensor->k, block, code, scale);
    }
    return status;
}

static mf_status copy_matrix(const mfi_import *in, const mapped *m, const mfi_tensor *tensor, size_t row, size_t column,
                             size_t n, unsigned char *to, mf_error *error)
{
    const size_t row_bytes = mfi_source_row_bytes(m->tensor), k = (size_t)tensor->k;
    const bool panel = tensor->kind == MFI_PANEL;
    unsigned char *source = mfi_alloc(&in->allocator, row_bytes);
    if (!source) return mfi_fail(error, MF_E_NOMEM, "no memory to read tensor %s", m->tensor->name);
    mf_status status = MF_OK;
    memset(to, 0, panel ? mfk_panel_bytes(MFK_Q8, k) : n * mfk_row_bytes(MFK_Q8, k));
    for (size_t j = 0; j < n && status == MF_OK; j++)
        status =
            copy_row(in, m, row + j, tensor, column, panel ? to : to + j * mfk_row_bytes(MFK_Q8, k), j, source, error);
    mfi_free(&in->allocator, source, row_bytes);
    return status;
}

static mf_status copy_group(void *user, const mfi_schema_tensor *is, const mfi_tensor *tensor, size_t first,
                            size_t group, unsigned char *bytes, mf_error *error)
{
    const mfi_import *in = user;
    const size_t k = (size_t)tensor->k, row = group * MFK_NR, n = mfi_min((size_t)tensor->n - row, MFK_NR);
    const size_t step = tensor->kind == MFI_PANEL ? mfk_panel_bytes(MFK_Q8, k) : MFK_NR * mfk_row_bytes(MFK_Q8, k);
    const bool along_n = is->along == MFI_FFN_ALONG_N, along_k = is->along == MFI_FFN_ALONG_K;
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < is->n_matrix && status == MF_OK; i++)
        status = copy_matrix(in, find_mapped(in, is->matrix[i]), tensor, row + (along_n ? first : 0),
                             along_k ? first : 0, n, bytes + i * step, error);
    return status;
}

mfi_weights mfi_import_weights(mfi_import *in)
{
    return (mfi_weights){ read_weights, in, type_of, has_tensor, copy_group };
}

/* ---- Opening ---- */

/* The text model of a multimodal one is under "text_config". */
static mf_status read_config(mfi_import *in, const mfi_json *json)
{
    mfi_json_reader top = { json->name, json->root, in->error, MF_OK };
    const json_t *text = mfi_json_object(&top, "text_config");
    const char *type = mfi_json_text_or(&top, "model_type", "");
    if (top.status == MF_OK && mfi_json_object(&top, "quantization_config"))
        return mfi_fail(in->error, MF_E_UNSUPPORTED,
                        "%s: \"quantization_config\": such weights are not read; use the model that they were made of",
                        json->name);
    if (top.status != MF_OK) return top.status;
    mf_status status = choose_family(in, hf_families, MFI_COUNT(hf_families), type, strlen(type));
    if (status == MF_OK) status = choose_prefix(in);
    if (status != MF_OK) return status;
    char where[MAX_PATH_BYTES + 16];
    snprintf(where, sizeof where, "%s%s", json->name, text ? ": text_config" : "");
    mfi_json_reader reader = { where, text ? text : json->root, in->error, MF_OK };
    status = in->family->read_json(&in->config, &reader, in->file, &in->allocator, in->error);
    return status == MF_OK ? mfi_import_nesting(&reader, &in->config, &in->allocator) : status;
}

/* A model without a tokenizer is one that takes tokens. */
static mf_status keep_tokenizer(const mfi_import *in, mf_status status, const mf_error *reason)
{
    return status == MF_OK || status == MF_E_NOT_FOUND ? MF_OK : mfi_fail(in->error, status, "%s", reason->detail);
}

static mf_status open_folder(mfi_import *in, const char *path)
{
    char name[MAX_PATH_BYTES];
    mfi_json json = { 0 };
    in->format = "safetensors";
    in->is_folder = true;
    if (snprintf(name, sizeof name, "%s/config.json", path) >= (int)sizeof name)
        return mfi_fail(in->error, MF_E_INVALID, "%.100s...: the path is too long", path);
    mf_status status = mfi_json_load(&json, name, MAX_CONFIG_BYTES, in->error);
    if (status == MF_E_NOT_FOUND)
        mfi_fail(in->error, status, "%s: there is no config.json; name the folder of a model, or a .gguf or .mf file",
                 path);
    if (status == MF_OK) status = mfi_safetensors_open(&in->file, path, &in->allocator, in->error);
    if (status == MF_OK) status = read_config(in, &json);
    mfi_json_free(&json);
    if (status != MF_OK) return status;
    mf_error reason = MF_ERROR_INIT;
    status = mfi_tokenizer_from_folder(&in->tokenizer, &in->tokenizer_bytes, &in->allocator, path, &reason);
    return keep_tokenizer(in, status, &reason);
}

static mf_status open_gguf(mfi_import *in, const char *path)
{
    mfi_gguf_text architecture;
    in->format = "gguf";
    mf_status status = mfi_gguf_open(&in->file, path, &in->allocator, in->error);
    if (status != MF_OK) return status;
    if (!mfi_gguf_text_of(in->file, "general.architecture", &architecture))
        return mfi_fail(in->error, MF_E_FORMAT, "%s: metadata \"general.architecture\" is missing; fetch it again",
                        path);
    status = choose_family(in, gguf_families, MFI_COUNT(gguf_families), architecture.at, architecture.bytes);
    if (status == MF_OK) status = choose_prefix(in);
    if (status == MF_OK) status = in->family->read_gguf(&in->config, in->file, &in->allocator, in->error);
    if (status != MF_OK) return status;
    if (in->family->family == MFI_FAMILY_LLAMA) /* in others llama.cpp has no use for it */
        in->rope_factors = mfi_tensor_file_find(in->file, "rope_freqs.weight");
    mf_error reason = MF_ERROR_INIT;
    status = mfi_tokenizer_from_gguf(&in->tokenizer, &in->tokenizer_bytes, &in->allocator, in->file, &reason);
    return keep_tokenizer(in, status, &reason);
}

/* As mf_model_open() asks of a .mf file. */
static mf_status check_tokenizer(const mfi_import *in)
{
    mfi_tokenizer *tokenizer;
    mf_error reason = MF_ERROR_INIT;
    if (!in->tokenizer) return MF_OK;
    const char *name = mfi_tensor_file_name(in->file);
    mf_status status = mfi_tokenizer_load(&tokenizer, &in->allocator, in->tokenizer, in->tokenizer_bytes, &reason);
    if (status != MF_OK) return mfi_fail(in->error, status, "%s: its tokenizer: %s", name, reason.detail);
    const uint32_t n_token = mfi_tokenizer_vocab(tokenizer);
    if (n_token > in->config.n_vocab)
        status = mfi_fail(in->error, MF_E_FORMAT,
                          "%s: the tokenizer has %u tokens, the model only %u; use the tokenizer's files of this model",
                          name, n_token, in->config.n_vocab);
    mfi_tokenizer_free(tokenizer);
    return status;
}

static mf_status open_parts(mfi_import *in, const char *path)
{
    struct stat stat_;
    mf_error *error = in->error;
    if (stat(path, &stat_) != 0)
        return mfi_fail(error, errno == ENOENT ? MF_E_NOT_FOUND : MF_E_IO, "%s: %s", path, strerror(errno));
    mf_status status = S_ISDIR(stat_.st_mode) ? open_folder(in, path) : open_gguf(in, path);
    if (status != MF_OK) return status;
    mf_error reason = MF_ERROR_INIT;
    if (mfi_config_check(&in->config, &reason) != MF_OK)
        return mfi_fail(error, MF_E_UNSUPPORTED, "%s: a model that is not supported: %s", path, reason.detail);
    status = check_tokenizer(in);
    if (status == MF_OK && in->rope_factors) status = check_tensor(in, in->rope_factors, 1, in->config.d_head / 2);
    return status == MF_OK ? map_all(in) : status;
}

mf_status mfi_import_open(mfi_import **out, const char *path, const mf_allocator *allocator, mf_error *error)
{
    *out = NULL;
    mfi_import *in = mfi_alloc(allocator, sizeof *in);
    if (!in) return mfi_fail(error, MF_E_NOMEM, "no memory to read %s", path);
    in->allocator = *allocator;
    in->error = error;
    const mf_status status = open_parts(in, path);
    in->error = NULL;
    if (status == MF_OK)
        *out = in;
    else
        mfi_import_close(in);
    return status;
}

void mfi_import_close(mfi_import *in)
{
    if (!in) return;
    const mf_allocator allocator = in->allocator;
    mfi_free(&allocator, in->map, in->map_capacity * sizeof *in->map);
    mfi_free(&allocator, in->tokenizer, in->tokenizer_bytes);
    mfi_config_free(&in->config, &allocator);
    mfi_tensor_file_close(in->file);
    mfi_free(&allocator, in, sizeof *in);
}

const char *mfi_import_format(const mfi_import *in)
{
    return in->format;
}

const char *mfi_import_folder(const mfi_import *in)
{
    return in->is_folder ? mfi_tensor_file_name(in->file) : NULL;
}

const mfi_config *mfi_import_config(const mfi_import *in)
{
    return &in->config;
}

const void *mfi_import_tokenizer(const mfi_import *in, size_t *bytes)
{
    *bytes = in->tokenizer_bytes;
    return in->tokenizer;
}

const mfi_tensor_file *mfi_import_file(const mfi_import *in)
{
    return in->file;
}

const mfi_source_tensor *mfi_import_find(const mfi_import *in, const char *matrix, mfk_type type, bool *is_exact)
{
    const mapped *m = find_mapped(in, matrix);
    if (!m) return NULL;
    const mfi_source_type from = m->tensor->type;
    const bool is_float = from == MFI_SOURCE_F32 || from == MFI_SOURCE_F16 || from == MFI_SOURCE_BF16;
    /* A product of codes and a scale is one f32. */
    *is_exact =
        type == MFK_Q8 ? is_copied(m) : (is_float || is_q8_exact(from)) && (type == MFK_F32 || type == type_for(from));
    return m->tensor;
}
