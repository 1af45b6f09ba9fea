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

/* ---- What can be said ---- */

mf_status mfi_export_refuse(const mfi_exporter *x, const char *why)
{
    return mfi_fail(x->error, MF_E_UNSUPPORTED, "%s: %s", x->path, why);
}

mf_status mfi_export_check_llama(const mfi_exporter *x)
{
    const mfi_config *c = x->config;
    const uint32_t heads = mfi_uniform_heads(c);
    const float scale = (float)(1 / sqrt((double)c->d_head));
    for (uint32_t layer = 0; layer < c->n_layer; layer++)
        if (c->window[layer] || c->kv_layer[layer] != layer)
            return mfi_export_refuse(x, "Llama has no windows and no shared keys and values");
    if (mfi_uniform_ffn(c) == 0)
        return mfi_export_refuse(
            x, "Llama has one width for all layers; choose a submodel of one, or convert to a .mf file");
    if (heads == 0 || heads % c->head_group != 0)
        return mfi_export_refuse(x,
                                 "Llama has as many heads in every layer, a multiple of what share a key/value head");
    if (c->norm != MFI_NORM_RMS || c->ffn != MFI_FFN_GATED || c->rope_theta == 0 || c->embed_scale != 1 ||
        c->attention_scale != scale || c->alibi_max != 0 || c->parallel || c->logit_softcap != 0)
        return mfi_export_refuse(x, "only a gated decoder with RMS norms, rotations and plain scales is a Llama");
    return MF_OK;
}

/* Loaders find a shared layer's donor themselves: the last layer of its kind that has its own. */
static bool shares_as_loaders_do(const mfi_config *c)
{
    uint32_t n_own = 0;
    while (n_own < c->n_layer && c->kv_layer[n_own] == n_own)
        n_own++;
    for (uint32_t layer = n_own; layer < c->n_layer; layer++) {
        uint32_t donor = n_own;
        while (donor > 0 && (c->window[donor - 1] != 0) != (c->window[layer] != 0))
            donor--;
        if (donor == 0 || c->kv_layer[layer] != donor - 1) return false;
    }
    return true;
}

mf_status mfi_export_check_gemma3n(const mfi_exporter *x)
{
    const mfi_config *c = x->config;
    uint32_t window = 0;
    if (mfi_uniform_heads(c) == 0 || c->n_head % c->head_group != 0)
        return mfi_export_refuse(x, "Gemma 3n has as many heads in every layer");
    if (c->embed_scale != (float)sqrt((double)c->d_model) || c->attention_scale != 1 || c->activation != MFK_GELU_TANH)
        return mfi_export_refuse(x, "Gemma 3n has other scales, or another activation");
    for (uint32_t layer = 0; layer < c->n_layer; layer++) {
        if (c->window[layer] && window && c->window[layer] != window)
            return mfi_export_refuse(x, "Gemma 3n has one window for all layers that have one");
        if (c->window[layer]) window = c->window[layer];
    }
    if (!shares_as_loaders_do(c))
        return mfi_export_refuse(x, "a layer would read other keys and values than the last ones of its kind");
    return MF_OK;
}

mf_status mfi_export_rotation(const mfi_exporter *x, const char *name, double theta, float *freqs)
{
    mf_error reason = MF_ERROR_INIT;
    const mf_status status = x->weights.read(x->weights.user, name, 0, 1, 0, x->config->d_head / 2, freqs, &reason);
    if (status != MF_E_NOT_FOUND) return status == MF_OK ? MF_OK : mfi_fail(x->error, status, "%s", reason.detail);
    mfi_rope_frequencies(x->config, theta, freqs);
    return MF_OK;
}

bool mfi_export_same_frequency(float a, float b)
{
    return fabsf(a - b) <= 0x1p-22f * fabsf(a); /* two roundings, and another machine's pow() */
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
    x->part[x->n_part++] = (mfi_out_part){ *is, matrix, (uint32_t)(t - x->tensor), t->is_vector ? 1 : is->n, false };
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

static mfi_source_type type_in(mfk_type type, mfi_source_type quantized)
{
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

void mfi_export_set_type(const mfi_exporter *x, mfi_out_tensor *t, mfi_source_type quantized)
{
    const mfi_schema_tensor *is = &x->part[next_part(x, t, 0)].is;
    const mfk_type wanted = (mfk_type)x->options->type;
    const mfk_type own = x->weights.type_of ? x->weights.type_of(x->weights.user, is) : MFK_F32;
    t->type = t->is_vector ? MFI_SOURCE_F32 : type_in(wanted ? wanted : own, quantized);
    t->has_codes = t->type == MFI_SOURCE_Q8_0 && own == MFK_Q8;
    t->bytes = t->rows * (t->k / mfi_source_block(t->type)) * mfi_source_block_bytes(t->type);
}

/* ---- Bytes ---- */

static float greatest(const float *x, size_t n)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

static void put_scale(float d, unsigned char *out)
{
    const uint16_t scale = mfk_f32_to_f16(d);
    memcpy(out, &scale, sizeof scale);
}

/* ggml's rule: d = max / 127, rounded half away from zero. */
static void put_q8_0(const float *x, unsigned char *out)
{
    const float d = greatest(x, MFK_BLOCK) / 127;
    const float inverse = mfk_f32_to_f16(d) > 0 ? 1 / d : 0; /* of the least d it would be infinite */
    put_scale(d, out);
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        const float q = x[i] * inverse;
        out[2 + i] = (unsigned char)(int8_t)(q < 0 ? q - 0.5f : q + 0.5f);
    }
}

/* False where the numbers are not all d times a code. */
static bool put_multiples(const float *x, float d, unsigned char *out)
{
    for (size_t i = 0; i < MFK_BLOCK; i++) {
        const float q = x[i] / d;
        const int code = (int)(q < 0 ? q - 0.5f : q + 0.5f);
        if (code < -128 || code > 127 || d * (float)code != x[i]) return false;
        out[i] = (unsigned char)(int8_t)code;
    }
    return true;
}

/* A block that was of Q8: codes and a scale of f16 that give just these numbers, found from what the greatest one's code
 * can be. Reading numbers and not codes, it serves slices, rotated rows and gathered columns alike. */
static bool put_same_q8_0(const float *x, unsigned char *out)
{
    const float most = greatest(x, MFK_BLOCK);
    for (int i = 0; i < 129 && most > 0; i++) {
        const int top = i < 127 ? 127 - i : i == 127 ? 128 : -128;
        const float d = most / (float)top;
        if (mfk_f16_to_f32(mfk_f32_to_f16(d)) != d || d * (float)top != most || !put_multiples(x, d, out + 2)) continue;
        put_scale(d, out);
        return true;
    }
    return false;
}

static void put_blocks(const mfi_out_tensor *t, const float *x, unsigned char *out)
{
    for (size_t i = 0; i < t->k; i += MFK_BLOCK, out += 2 + MFK_BLOCK)
        if (!t->has_codes || !put_same_q8_0(x + i, out)) put_q8_0(x + i, out);
}

static void put_row(const mfi_out_tensor *t, const float *x, unsigned char *out)
{
    const size_t k = (size_t)t->k;
    switch (t->type) {
    case MFI_SOURCE_Q8_0:
        put_blocks(t, x, out);
        break;
    case MFI_SOURCE_F16:
    case MFI_SOURCE_BF16:
        for (size_t i = 0; i < k; i++) {
            const uint16_t half = t->type == MFI_SOURCE_F16 ? mfk_f32_to_f16(x[i]) : mfk_f32_to_bf16(x[i]);
            memcpy(out + 2 * i, &half, sizeof half);
        }
        break;
    default:
        memcpy(out, x, k * sizeof *x);
    }
}

/* Our row that is theirs `row`: of a head, rows i and i + half lie side by side. */
static uint64_t our_row(const mfi_out_tensor *t, uint64_t row)
{
    if (!t->rotated) return row;
    const uint64_t at = row % t->rotated;
    return row - at + at % 2 * (t->rotated / 2) + at / 2;
}

mf_status mfi_export_advance(mfi_exporter *x, uint64_t bytes)
{
    x->done += bytes;
    if (!x->options->progress || x->options->progress(x->options->progress_user, x->done, x->total) == 0) return MF_OK;
    return mfi_fail(x->error, MF_E_CANCELLED, "%s: writing was cancelled", x->path);
}

/* Rows [begin, begin + n) of a part: as they lie, or one by one in another order. A vector's rows are its elements. */
static mf_status read_rows(const mfi_exporter *x, const mfi_out_tensor *t, const mfi_out_part *part, size_t begin,
                           size_t n, float *rows)
{
    const char *name = part->is.matrix[part->matrix];
    const size_t k = (size_t)t->k, step = t->is_vector ? 1 : k;
    if (!t->rotated && !part->repeated) return x->weights.read(x->weights.user, name, begin, n, 0, k, rows, x->error);
    mf_status status = MF_OK;
    for (size_t i = 0; i < n * k / step && status == MF_OK; i++) {
        const size_t row = part->repeated ? 0 : (size_t)our_row(t, begin + i);
        status = x->weights.read(x->weights.user, name, t->is_vector ? 0 : row, 1, t->is_vector ? row : 0, step,
                                 rows + i * step, x->error);
    }
    return status;
}

/* A weight that the type does not hold, or that is no number, is refused. */
static mf_status check_range(const mfi_exporter *x, const mfi_out_tensor *t, const float *rows, size_t n)
{
    const float most = t->type == MFI_SOURCE_F16    ? mfk_largest(MFK_F16)
                       : t->type == MFI_SOURCE_BF16 ? mfk_largest(MFK_BF16)
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
    const size_t k = (size_t)t->k, row_bytes = (size_t)(t->bytes / t->rows);
    mf_status status = MF_OK;
    for (size_t begin = 0, n; begin < part->n && status == MF_OK; begin += n) {
        n = mfi_min((size_t)part->n - begin, room);
        status = read_rows(x, t, part, begin, n, rows);
        if (status == MF_OK) status = check_range(x, t, rows, n * k);
        for (size_t i = 0; i < n && status == MF_OK; i++)
            put_row(t, rows + i * k, bytes + i * row_bytes);
        if (status == MF_OK) status = mfi_new_file_write_at(file, bytes, n * row_bytes, *at, x->error);
        if (status == MF_OK) status = mfi_export_advance(x, n * row_bytes);
        *at += n * row_bytes;
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
                       .folder = source->folder,
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
    mf_status status = mfi_read_options(&o, sizeof o, MFI_FIRST_BYTES(mf_export_options, progress_user), options,
                                        "mf_export_options", error);
    if (status != MF_OK) return status;
    if (o.format > MF_EXPORT_GGUF || o.type > MF_WEIGHT_Q8)
        return mfi_fail(error, MF_E_INVALID, "a format or type that exports do not have");
    if (o.format == MF_EXPORT_HF && o.type == MF_WEIGHT_Q8)
        return mfi_fail(error, MF_E_INVALID, "a folder of Hugging Face has no Q8; bf16 is the smallest type there");
    mfi_slice *slice;
    status = mfi_source_slice(&slice, source, o.submodel, error);
    if (status == MF_OK) status = export_slice(source, slice, path, &o, error);
    mfi_slice_free(slice);
    return status;
}
