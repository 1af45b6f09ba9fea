/* train_file.c - weights to a .mf file and back. Inside, some matrices lie transposed or interleaved; their
 * places (mfi_train_find) hide that. */
#include <stdio.h>
#include <string.h>

#include "container.h"
#include "defs.h"
#include "model.h"
#include "pack.h"
#include "status.h"
#include "trainer.h"

static size_t row_at(const mfi_train_place *place, size_t row)
{
    return place->offset + (row / place->block * place->block_stride + row % place->block) * place->row_stride;
}

/* ---- Export ---- */

static mf_status read_weights(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                              float *out, mf_error *error)
{
    const mf_trainer *t = user;
    mfi_train_place place;
    if (!mfi_train_find(&t->layout, &t->config, name, &place) || row + n_row > place.rows ||
        column + n_column > place.columns)
        return mfi_fail(error, MF_E_NOT_FOUND, "the model has no %s of that size", name);
    for (size_t r = 0; r < n_row; r++) {
        const float *from = t->weights + row_at(&place, row + r) + column * place.column_stride;
        for (size_t c = 0; c < n_column; c++)
            out[r * n_column + c] = from[c * place.column_stride];
    }
    return MF_OK;
}

mf_status mf_trainer_export(mf_trainer *trainer, const char *path, const mf_train_export_options *options,
                            mf_error *error)
{
    if (!trainer || !path) return mfi_fail(error, MF_E_INVALID, "trainer or path is NULL");
    mf_train_export_options o;
    memset(&o, 0, sizeof(o));
    mf_status status = mfi_read_options(&o, sizeof(o), sizeof(o), options, "mf_train_export_options", error);
    if (status != MF_OK) return status;
    mfi_matlm_save_options save = {
        .type = o.type == MF_TRAIN_BF16 ? MFK_BF16 : MFK_F32,
        .storage = o.compress ? MFI_ZSTD : MFI_RAW,
        .one_shell = o.one_shell != 0,
        .tokenizer = o.tokenizer,
        .tokenizer_bytes = o.tokenizer_bytes,
        .metadata = o.metadata,
    };
    return mfi_matlm_save(&trainer->config, &(mfi_weights){ read_weights, trainer }, &save, &trainer->allocator, path,
                          error);
}

/* ---- Import ---- */

typedef struct import {
    const mf_trainer *trainer;
    const mfi_container *container;
    float *weights; /* [n_float], fresh */
    float *row;     /* [16][the longest row] */
    mf_error *error;
} import;

static mf_status wrong_size(const import *in, const char *name)
{
    return mfi_fail(in->error, MF_E_FORMAT, "%s: tensor %s is missing or has another size",
                    mfi_container_name(in->container), name);
}

/* n rows of k floats to (row, column) of `name`. */
static void put_rows(const import *in, const mfi_train_place *place, size_t row, size_t n, size_t column, size_t k)
{
    for (size_t r = 0; r < n; r++) {
        float *to = in->weights + row_at(place, row + r) + column * place->column_stride;
        for (size_t c = 0; c < k; c++)
            to[c * place->column_stride] = in->row[r * k + c];
    }
}

/* n rows of k in panels that lie `stride` bytes apart, to (row, column) of `name`. */
static mf_status unpack(const import *in, const char *name, const mfi_tensor *tensor, size_t row, size_t n,
                        size_t column, size_t k, const unsigned char *panels, size_t stride)
{
    mfi_train_place place;
    if (!mfi_train_find(&in->trainer->layout, &in->trainer->config, name, &place) || row + n > place.rows ||
        column + k > place.columns)
        return wrong_size(in, name);
    for (size_t i = 0; i < n; i += MFK_NR, panels += stride) {
        size_t count = mfi_min(MFK_NR, n - i);
        mfk_unpack(tensor->type, mfi_tensor_table(tensor), count, k, panels, stride, in->row, k);
        put_rows(in, &place, row + i, count, column, k);
    }
    return MF_OK;
}

/* A tensor of exactly this size; NULL otherwise. */
static const mfi_tensor *find(const import *in, const char *name, uint32_t shell, mfi_tensor_kind kind, size_t n,
                              size_t k)
{
    const mfi_tensor *tensor = mfi_container_find(in->container, name, shell);
    bool found = tensor && tensor->data && tensor->kind == kind && tensor->n == n && tensor->k == k;
    return found && tensor->type != MFK_U8 ? tensor : NULL;
}

static mf_status import_matrix(const import *in, const char *name, const mfi_train_place *place)
{
    const mfi_tensor *tensor = find(in, name, 0, MFI_PANEL, place->rows, place->columns);
    if (!tensor) return wrong_size(in, name);
    return unpack(in, name, tensor, 0, place->rows, 0, place->columns, mfi_tensor_body(tensor),
                  mfk_panel_bytes(tensor->type, place->columns));
}

static mf_status import_table(const import *in, const char *name, const mfi_train_place *place)
{
    const mfi_tensor *tensor = find(in, name, 0, MFI_TABLE, place->rows, place->columns);
    if (!tensor) return wrong_size(in, name);
    const size_t row_bytes = mfk_row_bytes(tensor->type, place->columns);
    for (size_t r = 0; r < place->rows; r++) {
        mfk_unpack_table_row(tensor->type, mfi_tensor_table(tensor), place->columns,
                             mfi_tensor_body(tensor) + r * row_bytes, in->row);
        put_rows(in, place, r, 1, 0, place->columns);
    }
    return MF_OK;
}

static mf_status import_vector(const import *in, const char *name, const mfi_train_place *place)
{
    const mfi_tensor *tensor = find(in, name, 0, MFI_PLAIN, place->columns, 1);
    if (!tensor || tensor->type != MFK_F32) return wrong_size(in, name);
    memcpy(in->weights + place->offset, tensor->data, place->columns * sizeof(float));
    return MF_OK;
}

/* One layer's hidden units that shell `shell` holds, from unit *first on. */
static mf_status import_shell(const import *in, uint32_t layer, uint32_t shell, size_t *first)
{
    const mfi_matlm_config *config = &in->trainer->config;
    bool gated = config->ffn == MFI_FFN_GATED;
    size_t d = config->d_model;
    char up_name[48], gate_name[48], down_name[48], stored[48];
    snprintf(up_name, sizeof(up_name), "layers.%u.ffn.up", layer);
    snprintf(gate_name, sizeof(gate_name), "layers.%u.ffn.gate", layer);
    snprintf(down_name, sizeof(down_name), "layers.%u.ffn.down", layer);
    snprintf(stored, sizeof(stored), gated ? "layers.%u.ffn.gate_up" : "layers.%u.ffn.up", layer);

    const mfi_tensor *any = mfi_container_find(in->container, stored, shell);
    if (!any) return MF_OK;
    size_t n = (size_t)any->n;
    const mfi_tensor *up = find(in, stored, shell, MFI_PANEL, n, d);
    const mfi_tensor *down = find(in, down_name, shell, MFI_PANEL, d, n);
    if (!up || !down || up->panels != (gated ? 2 : 1) * ((n + MFK_NR - 1) / MFK_NR)) return wrong_size(in, stored);
    size_t panel = mfk_panel_bytes(up->type, d);
    const unsigned char *panels = mfi_tensor_body(up);
    mf_status status = MF_OK;
    if (gated) {
        status = unpack(in, gate_name, up, *first, n, 0, d, panels, 2 * panel);
        panels += panel;
    }
    if (status == MF_OK) status = unpack(in, up_name, up, *first, n, 0, d, panels, (gated ? 2 : 1) * panel);
    if (status == MF_OK)
        status = unpack(in, down_name, down, 0, d, *first, n, mfi_tensor_body(down), mfk_panel_bytes(down->type, n));
    *first += n;
    return status;
}

static mf_status import_ffn(const import *in, uint32_t layer)
{
    size_t units = 0;
    mf_status status = MF_OK;
    for (uint32_t shell = 0; shell < MFI_MAX_GRANULARITY && status == MF_OK; shell++)
        status = import_shell(in, layer, shell, &units);
    if (status == MF_OK && units != in->trainer->layout.layers[layer].ffn)
        status = mfi_fail(in->error, MF_E_FORMAT, "%s: layer %u has %zu hidden units in its shells",
                          mfi_container_name(in->container), layer, units);
    return status;
}

static mf_status import_all(const import *in)
{
    const mfi_matlm_config *config = &in->trainer->config;
    char name[64];
    mf_status status = MF_OK;
    for (size_t i = 0; status == MF_OK && mfi_train_name(config, i, name, sizeof(name)); i++) {
        mfi_train_place place;
        if (!mfi_train_find(&in->trainer->layout, config, name, &place) || strstr(name, ".ffn.")) continue;
        if (strstr(name, "norm."))
            status = import_vector(in, name, &place);
        else if (!config->tied && !strcmp(name, "embed"))
            status = import_table(in, name, &place);
        else
            status = import_matrix(in, name, &place);
    }
    for (uint32_t l = 0; l < config->n_layer && status == MF_OK; l++)
        status = import_ffn(in, l);
    return status;
}

static mf_status check_same(const mf_trainer *t, const mfi_matlm_config *file, const char *path, mf_error *error)
{
    const mfi_matlm_config *own = &t->config;
    bool same = own->n_layer == file->n_layer && own->d_model == file->d_model && own->d_head == file->d_head &&
                own->n_vocab == file->n_vocab && own->head_group == file->head_group && own->n_head == file->n_head &&
                own->d_ff == file->d_ff && own->norm == file->norm && own->norm_eps == file->norm_eps &&
                own->ffn == file->ffn && own->activation == file->activation && own->rope_theta == file->rope_theta &&
                own->embed_scale == file->embed_scale && own->attention_scale == file->attention_scale &&
                own->tied == file->tied && memcmp(own->window, file->window, own->n_layer * sizeof *own->window) == 0;
    if (same) return MF_OK;
    return mfi_fail(error, MF_E_INVALID,
                    "%s has another shape: %u layers of %u, %u heads of %u in groups of %u, d_ff %u, vocabulary %u; or "
                    "another norm, activation, rotation, scale or window",
                    path, file->n_layer, file->d_model, file->n_head, file->d_head, file->head_group, file->d_ff,
                    file->n_vocab);
}

/* Into fresh weights, so that a damaged file changes nothing. */
static mf_status import_from(mf_trainer *t, const mfi_container *container, const char *path, mf_error *error)
{
    mfi_matlm_config file;
    mf_status status = mfi_matlm_read_config(&file, container, &t->allocator, error);
    if (status != MF_OK) return status;
    status = check_same(t, &file, path, error);
    mfi_matlm_config_free(&file, &t->allocator);
    if (status != MF_OK) return status;

    size_t n_float = t->layout.n_float;
    size_t longest = mfi_max(mfi_max(t->config.d_model, t->config.d_ff), (size_t)t->config.n_head * t->config.d_head);
    size_t bytes = (n_float + MFK_NR * longest) * sizeof(float);
    float *fresh = mfi_alloc(&t->allocator, bytes);
    if (!fresh) return mfi_fail(error, MF_E_NOMEM, "no memory to read %s", path);
    status = import_all(&(import){ t, container, fresh, fresh + n_float, error });
    if (status == MF_OK) {
        memcpy(t->weights, fresh, n_float * sizeof(float));
        memset(t->m, 0, 2 * n_float * sizeof(float)); /* and v, which follows */
        t->step = 0;
    }
    mfi_free(&t->allocator, fresh, bytes);
    return status;
}

mf_status mf_trainer_import(mf_trainer *trainer, const char *path, mf_error *error)
{
    if (!trainer || !path) return mfi_fail(error, MF_E_INVALID, "trainer or path is NULL");
    mf_model_options options = { .struct_size = sizeof(options), .allocator = trainer->allocator };
    mfi_container_source source = { .path = path, .fd = -1 };
    mfi_container *container = NULL;
    mf_status status = mfi_container_open(&container, &source, &options, error);
    if (status == MF_OK) status = mfi_container_load(container, MFI_MAX_GRANULARITY, error);
    if (status == MF_OK) status = import_from(trainer, container, path, error);
    mfi_container_close(container);
    return status;
}
