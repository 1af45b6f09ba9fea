/* source_describe.c - what a source is, and what becomes of it, without writing it anew. */
#include <string.h>

#include "arena.h"
#include "defs.h"
#include "pack.h"
#include "platform.h"
#include "schema.h"
#include "source.h"
#include "status.h"

/* ---- The model ---- */

typedef struct counts {
    const mfi_weights *weights;
    uint64_t n_param, bytes_per_token;
} counts;

/* A table's rows are read one at a time; so is an embedding that is the output matrix too, beside all of it. An image
 * reads its positions in full. */
static void count_tensor(void *user, const mfi_schema_tensor *is)
{
    counts *c = user;
    const mfk_type type = is->kind == MFI_PLAIN ? MFK_F32 : c->weights->type_of(c->weights->user, is);
    if (strncmp(is->name, "rope.", 5) == 0) return;
    c->n_param += is->n_matrix * is->n * is->k;
    if (is->kind != MFI_TABLE) c->bytes_per_token += is->n_matrix * mfk_weights_bytes(type, is->n, is->k);
    if (is->kind == MFI_TABLE || strcmp(is->name, "embed") == 0)
        c->bytes_per_token += mfk_weights_bytes(type, 1, is->k);
}

static counts count_all(const mfi_config *config, const mfi_weights *weights)
{
    counts c = { .weights = weights };
    mfi_schema_each(config, count_tensor, &c);
    return c;
}

mf_status mf_source_model_info(const mf_source *source, mf_model_info *info)
{
    if (!source || !info) return MF_E_INVALID;
    const mfi_config *config = source->config;
    const mf_model_info full = { .family = mfi_family_name(config->family),
                                 .n_layer = config->n_layer,
                                 .d_model = config->d_model,
                                 .n_head = config->n_head,
                                 .n_kv_head = mfi_kv_heads(config->n_head, config->head_group),
                                 .d_head = config->d_head,
                                 .d_ff = config->d_ff,
                                 .n_vocab = config->n_vocab,
                                 .n_token = mfi_token_count(config),
                                 .max_positions = config->max_positions,
                                 .n_granularity = config->n_granularity,
                                 .quantum = MFI_QUANTUM,
                                 .n_param = count_all(config, &source->weights).n_param,
                                 .bos_token = config->bos_token,
                                 .eos_token = config->eos_token,
                                 .image_size = config->vit.image_size,
                                 .patch_size = config->vit.patch_size,
                                 .n_channel = config->vit.n_channel,
                                 .n_class = config->vit.n_class };
    return mfi_write_info(info, &full, sizeof full, MFI_FIRST_BYTES(mf_model_info, eos_token));
}

mf_status mf_source_size_get(const mf_source *source, uint32_t index, mf_source_size *size, mf_error *error)
{
    if (!source || !size) return mfi_fail(error, MF_E_INVALID, "source or size is NULL");
    const mfi_config *config = source->config;
    if (index >= config->n_granularity + config->n_named)
        return mfi_fail(error, MF_E_RANGE, "the model has %u sizes", config->n_granularity + config->n_named);
    const mfi_granularity *is =
        index < config->n_granularity ? &config->granularity[index] : &config->named[index - config->n_granularity];
    mfi_slice *slice;
    mf_status status = mfi_source_slice(&slice, source, is->name, error);
    if (status != MF_OK) return status;
    const mfi_config *cut = mfi_slice_config(slice);
    const mfi_weights weights = mfi_slice_weights(slice);
    const counts c = count_all(cut, &weights);
    mf_source_size full = { .name = is->name,
                            .n_layer_kept = cut->n_layer,
                            .ffn_least = UINT32_MAX,
                            .n_param = c.n_param,
                            .bytes_per_token = c.bytes_per_token };
    for (uint32_t layer = 0; layer < cut->n_layer; layer++) {
        const uint32_t width = cut->granularity[0].ffn[layer];
        if (width < full.ffn_least) full.ffn_least = width;
        if (width > full.ffn_most) full.ffn_most = width;
    }
    mfi_slice_free(slice);
    status = mfi_write_info(size, &full, sizeof full, MFI_FIRST_BYTES(mf_source_size, bytes_per_token));
    return status == MF_OK ? status : mfi_fail(error, status, "mf_source_size: fill the struct with its INIT macro");
}

/* ---- Tensors ---- */

/* Visits what the model has of one tensor: whole matrices, or parts of it. */
typedef struct use {
    const mf_source *source;
    const mfi_source_tensor *tensor;
    mfk_type becomes; /* 0: nothing */
    bool is_exact;
    /* To measure */
    uint32_t max_rows;
    mf_source_rounding *rounding; /* NULL: not */
    mf_error *error;
    mf_status status;
} use;

/* One row as it becomes, `column` numbers from x: packed to `row` and back to `again`. */
static void add_row(use *u, size_t k, const float *x, float *again, void *row)
{
    u->rounding->n_weight += k;
    mfk_pack_table_row(u->becomes, NULL, k, x, row);
    mfk_unpack_table_row(u->becomes, NULL, k, row, again);
    for (size_t i = 0; i < k; i++) {
        const double error = (double)again[i] - (double)x[i];
        u->rounding->square_sum += (double)x[i] * (double)x[i];
        u->rounding->error_square_sum += u->is_exact ? 0 : error * error;
    }
}

static void measure_matrix(use *u, const char *name, size_t n, size_t k)
{
    const mfi_weights *weights = &u->source->weights;
    const mf_allocator *allocator = &u->source->allocator;
    const size_t rows = u->max_rows > 0 ? mfi_min(u->max_rows, n) : n, row_bytes = mfk_row_bytes(u->becomes, k);
    float *x = mfi_alloc_array(allocator, 2 * k, sizeof *x);
    void *row = mfi_alloc(allocator, row_bytes);
    if (!x || !row) u->status = mfi_fail(u->error, MF_E_NOMEM, "no memory to measure %s", u->tensor->name);
    for (size_t i = 0; i < rows && u->status == MF_OK; i++) {
        u->status = weights->read(weights->user, name, i * n / rows, 1, 0, k, x, u->error);
        if (u->status == MF_OK) add_row(u, k, x, x + k, row);
    }
    if (row) mfi_free(allocator, row, row_bytes);
    if (x) mfi_free(allocator, x, 2 * k * sizeof *x);
}

static void visit_use(void *user, const mfi_schema_tensor *is)
{
    use *u = user;
    const mfi_weights *weights = &u->source->weights;
    for (uint32_t i = 0; i < is->n_matrix && u->status == MF_OK; i++) {
        bool is_exact = false;
        const mfk_type type = is->kind == MFI_PLAIN ? MFK_F32 : weights->type_of(weights->user, is);
        if (mfi_import_find(u->source->import, is->matrix[i], type, &is_exact) != u->tensor) continue;
        u->is_exact = is_exact && (u->becomes == 0 || u->is_exact);
        u->becomes = type;
        if (!u->rounding) continue;
        const bool is_vector = is->kind == MFI_PLAIN;
        measure_matrix(u, is->matrix[i], is_vector ? 1 : is->n, is_vector ? is->n : is->k);
    }
}

static const mfi_source_tensor *tensor_at(const mf_source *source, uint32_t index)
{
    return index < source->info.n_tensor ? mfi_tensor_file_at(mfi_import_file(source->import), index) : NULL;
}

mf_status mf_source_tensor_get(const mf_source *source, uint32_t index, mf_source_tensor *tensor)
{
    if (!source || !tensor) return MF_E_INVALID;
    const mfi_source_tensor *t = tensor_at(source, index);
    if (!t) return MF_E_RANGE;
    use u = { .source = source, .tensor = t };
    mfi_schema_each(source->config, visit_use, &u);
    mf_source_tensor full = { .name = t->name,
                              .type = t->type_name,
                              .n_dim = t->n_dim,
                              .becomes = (mf_weight_type)u.becomes,
                              .is_exact = u.becomes != 0 && u.is_exact,
                              .n_weight = mfi_source_rows(t) * mfi_source_columns(t),
                              .bytes = t->bytes };
    memcpy(full.dim, t->dim, sizeof full.dim);
    return mfi_write_info(tensor, &full, sizeof full, MFI_FIRST_BYTES(mf_source_tensor, reserved));
}

mf_status mf_source_measure(const mf_source *source, uint32_t index, uint32_t max_rows, mf_source_rounding *rounding,
                            mf_error *error)
{
    if (!source || !rounding) return mfi_fail(error, MF_E_INVALID, "source or rounding is NULL");
    const mfi_source_tensor *t = tensor_at(source, index);
    if (!t) return mfi_fail(error, MF_E_RANGE, "the source has %u tensors", source->info.n_tensor);
    mf_source_rounding full = { 0 };
    use u = { .source = source, .tensor = t, .max_rows = max_rows, .rounding = &full, .error = error };
    const mfi_fp_mode mode = mfi_fp_enter();
    mfi_schema_each(source->config, visit_use, &u);
    mfi_fp_leave(mode);
    if (u.status != MF_OK) return u.status;
    const mf_status status =
        mfi_write_info(rounding, &full, sizeof full, MFI_FIRST_BYTES(mf_source_rounding, error_square_sum));
    return status == MF_OK ? status
                           : mfi_fail(error, status, "mf_source_rounding: fill the struct with its INIT macro");
}
