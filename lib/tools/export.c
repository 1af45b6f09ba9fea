/* export.c - a source, or a submodel of it, to other people's formats. Rows are read, converted and written in pieces:
 * the model is never in memory. */
#include "export.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "pack.h"
#include "quantize.h"
#include "source.h"
#include "status.h"

#define PIECE_BYTES ((size_t)4 << 20)

uint32_t mfi_uniform_ffn(const mfi_config *config)
{
    const uint32_t *ffn = config->granularity[config->n_granularity - 1].ffn;
    for (uint32_t layer = 1; layer < config->n_layer; layer++)
        if (ffn[layer] != ffn[0]) return 0;
    return ffn[0];
}

uint32_t mfi_uniform_heads(const mfi_config *config)
{
    const uint32_t *heads = config->granularity[config->n_granularity - 1].heads;
    for (uint32_t layer = 1; layer < config->n_layer; layer++)
        if (heads[layer] != heads[0]) return 0;
    return heads[0];
}

/* ---- Their tensors ---- */

static void count_matrices(void *user, const mfi_schema_tensor *is)
{
    mfi_exporter *x = user;
    x->capacity += is->n_matrix;
}

/* The tensor of that name, which may have other parts already; a new one otherwise. */
static mfi_out_tensor *tensor_named(mfi_exporter *x, const char *name)
{
    for (size_t i = x->n_tensor; i-- > 0;)
        if (strcmp(x->tensor[i].name, name) == 0) return &x->tensor[i];
    mfi_out_tensor *tensor = &x->tensor[x->n_tensor++];
    *tensor = (mfi_out_tensor){ 0 };
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    return tensor;
}

/* Shapes that are not simply rows and columns. */
static void set_shape(const mfi_exporter *x, mfi_out_tensor *t, const char *rest, mfi_name_part part)
{
    const mfi_config *config = x->config;
    const uint64_t d_model = config->d_model, n_stream = config->gemma3n.n_stream;
    t->n_dim = t->is_vector ? 1 : 2;
    t->dim[0] = t->is_vector ? t->k : t->rows;
    t->dim[1] = t->is_vector ? 0 : t->k;
    const struct {
        const char *name;
        uint64_t dim[4];
    } shaped[] = { { "altup.router", { n_stream, d_model } },
                   { "altup.predict", { n_stream * n_stream, n_stream } },
                   { "altup.correct", { n_stream, n_stream } },
                   { "class_token", { 1, 1, d_model } },
                   { "position", { 1, d_model > 0 ? t->k / d_model : 0, d_model } },
                   { "patch.project",
                     { d_model, config->vit.n_channel, config->vit.patch_size, config->vit.patch_size } } };
    for (size_t i = 0; i < MFI_COUNT(shaped); i++) {
        if (strcmp(shaped[i].name, rest) != 0) continue;
        memcpy(t->dim, shaped[i].dim, sizeof t->dim);
        for (t->n_dim = 0; t->n_dim < 4 && t->dim[t->n_dim] > 0;)
            t->n_dim++;
    }
    if (part == MFI_NAME_INDEX) {
        t->n_dim = 3;
        t->dim[0] = t->rows / (t->k ? t->k : 1);
        t->dim[1] = t->dim[2] = t->k;
    }
}

static void add_matrix(mfi_exporter *x, const mfi_schema_tensor *is, uint32_t matrix)
{
    const char *rest;
    char name[160];
    const mfi_name *entry = mfi_find_name(x->names, x->config, is->matrix[matrix], is->layer, x->names->prefixes[0],
                                          name, sizeof name, &rest);
    if (!entry) {
        x->status = mfi_fail(x->error, MF_E_UNSUPPORTED, "%s: the format has no name for tensor %s", x->path,
                             is->matrix[matrix]);
        return;
    }
    mfi_out_tensor *t = tensor_named(x, name);
    t->is_vector = is->kind == MFI_PLAIN;
    t->rows = t->is_vector ? 1 : t->rows + is->n;
    t->k = t->is_vector ? is->n : is->k;
    t->rotated = entry->part == MFI_NAME_ROTATED ? x->config->d_head : 0;
    set_shape(x, t, rest, entry->part);
    x->part[x->n_part++] = (mfi_out_part){ *is, matrix, (uint32_t)(t - x->tensor), t->is_vector ? 1 : is->n };
}

static void add_tensor(void *user, const mfi_schema_tensor *is)
{
    mfi_exporter *x = user;
    if (strncmp(is->name, "rope.", 5) == 0) return; /* which the configuration says */
    for (uint32_t i = 0; i < is->n_matrix && x->status == MF_OK; i++)
        add_matrix(x, is, i);
}

mf_status mfi_export_list(mfi_exporter *x)
{
    mfi_schema_each(x->config, count_matrices, x);
    x->tensor = mfi_alloc_array(&x->allocator, x->capacity, sizeof *x->tensor);
    x->part = mfi_alloc_array(&x->allocator, x->capacity, sizeof *x->part);
    if (!x->tensor || !x->part) return mfi_fail(x->error, MF_E_NOMEM, "%s: no memory to write it", x->path);
    mfi_schema_each(x->config, add_tensor, x);
    return x->status;
}

/* The first part of a tensor from part `from` on; n_part for none. */
static size_t next_part(const mfi_exporter *x, const mfi_out_tensor *t, size_t from)
{
    while (from < x->n_part && x->part[from].tensor != (uint32_t)(t - x->tensor))
        from++;
    return from;
}

mfi_source_type mfi_export_type(const mfi_exporter *x, const mfi_out_tensor *t, mfi_source_type quantized)
{
    if (t->is_vector) return MFI_SOURCE_F32;
    mfk_type type = (mfk_type)x->options->type;
    const mfi_schema_tensor *is = &x->part[next_part(x, t, 0)].is;
    if (type == 0) type = x->weights.type_of ? x->weights.type_of(x->weights.user, is) : MFK_F32;
    switch (type) {
    case MFK_F16:
        return MFI_SOURCE_F16;
    case MFK_BF16:
        return MFI_SOURCE_BF16;
    case MFK_Q8:
    case MFK_Q4:
        return quantized;
    default:
        return MFI_SOURCE_F32;
    }
}

/* ---- Bytes ---- */

/* ggml's rule: d = max / 127, rounded half away from zero. */
static void put_q8_0(const float *x, unsigned char *out)
{
    float most = 0;
    for (size_t i = 0; i < MFK_BLOCK; i++)
        most = (x[i] < 0 ? -x[i] : x[i]) > most ? (x[i] < 0 ? -x[i] : x[i]) : most;
    const float d = most / 127;
    const uint16_t scale = mfk_f32_to_f16(d);
    const float inverse = scale > 0 ? 1 / d : 0; /* of the least d it would be infinite */
    memcpy(out, &scale, sizeof scale);
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        const float q = x[i] * inverse;
        out[2 + i] = (unsigned char)(int8_t)(q < 0 ? q - 0.5f : q + 0.5f);
    }
}

static size_t put_row(mfi_source_type type, size_t k, const float *x, unsigned char *out)
{
    switch (type) {
    case MFI_SOURCE_Q8_0:
        for (size_t i = 0; i < k; i += MFK_BLOCK)
            put_q8_0(x + i, out + i / MFK_BLOCK * mfi_source_block_bytes(type));
        break;
    case MFI_SOURCE_F16:
    case MFI_SOURCE_BF16:
        for (size_t i = 0; i < k; i++) {
            const uint16_t half = type == MFI_SOURCE_F16 ? mfk_f32_to_f16(x[i]) : mfk_f32_to_bf16(x[i]);
            memcpy(out + 2 * i, &half, sizeof half);
        }
        break;
    default:
        memcpy(out, x, k * sizeof *x);
    }
    return k / mfi_source_block(type) * mfi_source_block_bytes(type);
}

/* Our row that is theirs `row`: of a head, rows i and i + half lie side by side. */
static uint64_t our_row(const mfi_out_tensor *t, uint64_t row)
{
    if (!t->rotated) return row;
    const uint64_t at = row % t->rotated;
    return row - at + at % 2 * (t->rotated / 2) + at / 2;
}

static mf_status advance(mfi_exporter *x, uint64_t bytes)
{
    x->done += bytes;
    if (!x->options->progress || x->options->progress(x->options->progress_user, x->done, x->total) == 0) return MF_OK;
    return mfi_fail(x->error, MF_E_CANCELLED, "%s: writing was cancelled", x->path);
}

/* Rows [begin, begin + n) of a part: as they lie, or one by one in another order. */
static mf_status read_rows(const mfi_exporter *x, const mfi_out_tensor *t, const mfi_out_part *part, size_t begin,
                           size_t n, float *rows)
{
    const char *name = part->is.matrix[part->matrix];
    const size_t k = (size_t)t->k;
    if (!t->rotated) return x->weights.read(x->weights.user, name, begin, n, 0, k, rows, x->error);
    mf_status status = MF_OK;
    for (size_t i = 0; i < n && status == MF_OK; i++)
        status = x->weights.read(x->weights.user, name, (size_t)our_row(t, begin + i), 1, 0, k, rows + i * k, x->error);
    return status;
}

/* A weight that the type does not hold, or that is no number, is refused. */
static mf_status check_range(const mfi_exporter *x, const mfi_out_tensor *t, const float *rows, size_t n)
{
    const float most = t->type == MFI_SOURCE_F16    ? mfk_largest(MFK_F16)
                       : t->type == MFI_SOURCE_Q8_0 ? mfk_largest(MFK_Q8)
                                                    : FLT_MAX;
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(rows[i]) <= most))
            return mfi_fail(x->error, MF_E_RANGE,
                            "%s: tensor %s has a weight of %g, but its type holds none beyond %g; choose another",
                            x->path, t->name, (double)rows[i], (double)most);
    return MF_OK;
}

static mf_status write_part(mfi_exporter *x, const mfi_out_tensor *t, const mfi_out_part *part, mfi_new_file *file,
                            uint64_t *at, float *rows, unsigned char *bytes, size_t room)
{
    const size_t k = (size_t)t->k;
    mf_status status = MF_OK;
    for (size_t begin = 0, n; begin < part->n && status == MF_OK; begin += n) {
        size_t used = 0;
        n = mfi_min((size_t)part->n - begin, room);
        status = read_rows(x, t, part, begin, n, rows);
        if (status == MF_OK) status = check_range(x, t, rows, n * k);
        for (size_t i = 0; i < n && status == MF_OK; i++)
            used += put_row(t->type, k, rows + i * k, bytes + used);
        if (status == MF_OK) status = mfi_new_file_write_at(file, bytes, used, *at, x->error);
        if (status == MF_OK) status = advance(x, used);
        *at += used;
    }
    return status;
}

mf_status mfi_export_tensor(mfi_exporter *x, const mfi_out_tensor *t, mfi_new_file *file, uint64_t offset)
{
    const size_t row_bytes = (size_t)t->k * sizeof(float), room = mfi_max(PIECE_BYTES / mfi_max(row_bytes, 1), 1);
    const size_t block = 2 * room * row_bytes;
    float *rows = mfi_alloc(&x->allocator, block);
    if (!rows) return mfi_fail(x->error, MF_E_NOMEM, "%s: no memory to write tensor %s", x->path, t->name);
    mf_status status = MF_OK;
    for (size_t i = next_part(x, t, 0); i < x->n_part && status == MF_OK; i = next_part(x, t, i + 1))
        status = write_part(x, t, &x->part[i], file, &offset, rows, (unsigned char *)rows + room * row_bytes, room);
    mfi_free(&x->allocator, rows, block);
    return status;
}

/* ---- The whole ---- */

static mf_status export_slice(const mf_source *source, mfi_slice *slice, const char *path, const mf_export_options *o,
                              mf_error *error)
{
    mfi_exporter x = { .allocator = source->allocator,
                       .config = mfi_slice_config(slice),
                       .weights = mfi_slice_weights(slice),
                       .options = o,
                       .path = path,
                       .tokenizer = source->tokenizer,
                       .tokenizer_bytes = source->tokenizer_bytes,
                       .error = error };
    const mfi_fp_mode mode = mfi_fp_enter();
    const mf_status status = o->format == MF_EXPORT_GGUF ? mfi_export_gguf(&x) : mfi_export_hf(&x);
    mfi_fp_leave(mode);
    mfi_free(&x.allocator, x.tensor, x.capacity * sizeof *x.tensor);
    mfi_free(&x.allocator, x.part, x.capacity * sizeof *x.part);
    return status;
}

mf_status mf_export(const mf_source *source, const char *path, const mf_export_options *options, mf_error *error)
{
    if (!source || !path || !path[0]) return mfi_fail(error, MF_E_INVALID, "source or path is NULL or empty");
    mf_export_options o = { 0 };
    mf_status status = mfi_read_options(&o, sizeof o, sizeof o, options, "mf_export_options", error);
    if (status != MF_OK) return status;
    if (o.format > MF_EXPORT_GGUF || o.type > MF_WEIGHT_Q8)
        return mfi_fail(error, MF_E_INVALID, "a format or type that exports do not have");
    mfi_slice *slice;
    status = mfi_source_slice(&slice, source, o.submodel, error);
    if (status == MF_OK) status = export_slice(source, slice, path, &o, error);
    mfi_slice_free(slice);
    return status;
}
