/* train_file.c - weights to a .mf file and back. Inside, some matrices lie transposed or interleaved; their
 * places (mfi_train_find) hide that. */
#include <stdio.h>
#include <string.h>

#include "container.h"
#include "defs.h"
#include "model.h"
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
    mf_status status = mfi_read_options(&o, sizeof(o), MFI_FIRST_BYTES(mf_train_export_options, metadata), options,
                                        "mf_train_export_options", error);
    if (status != MF_OK) return status;
    mfi_save_options save = {
        .type = o.type == MF_TRAIN_BF16 ? MFK_BF16 : MFK_F32,
        .storage = o.compress ? MFI_ZSTD : MFI_RAW,
        .one_shell = o.one_shell != 0,
        .tokenizer = o.tokenizer,
        .tokenizer_bytes = o.tokenizer_bytes,
        .metadata = o.metadata,
    };
    return mfi_save(&trainer->config, &(mfi_weights){ read_weights, trainer }, &save, &trainer->allocator, path, error);
}

/* ---- Import ---- */

/* n rows of k floats to row `row` of a matrix of `weights`. */
static void put_rows(float *weights, const mfi_train_place *place, size_t row, size_t n, const float *from)
{
    for (size_t r = 0; r < n; r++) {
        float *to = weights + row_at(place, row + r);
        for (size_t c = 0; c < place->columns; c++)
            to[c * place->column_stride] = from[r * place->columns + c];
    }
}

/* Into `weights` [n_float]; `rows` [MFK_NR][the longest row]. */
static mf_status import_weights(const mf_trainer *t, const mf_model *model, float *weights, float *rows,
                                mf_error *error)
{
    const mfi_weights from = mfi_model_weights(model);
    char name[64];
    for (size_t i = 0; mfi_train_name(&t->config, i, name, sizeof(name)); i++) {
        mfi_train_place place;
        if (!mfi_train_find(&t->layout, &t->config, name, &place)) continue;
        for (size_t row = 0; row < place.rows; row += MFK_NR) {
            const size_t n = mfi_min(MFK_NR, place.rows - row);
            mf_status status = from.read(from.user, name, row, n, 0, place.columns, rows, error);
            if (status != MF_OK) return status;
            put_rows(weights, &place, row, n, rows);
        }
    }
    return MF_OK;
}

/* Whether all layers have the widths and heads that their own layer has. */
static bool same_extents(const mfi_config *own, const mfi_config *file)
{
    const mfi_granularity *a = &own->granularity[own->n_granularity - 1];
    const mfi_granularity *b = &file->granularity[file->n_granularity - 1];
    return memcmp(a->ffn, b->ffn, own->n_layer * sizeof(*a->ffn)) == 0 &&
           memcmp(a->heads, b->heads, own->n_layer * sizeof(*a->heads)) == 0;
}

static mf_status check_same(const mf_trainer *t, const mfi_config *file, const char *path, mf_error *error)
{
    const mfi_config *own = &t->config;
    bool plain = file->family == MFI_FAMILY_MATLM && !file->attention_bias && !file->ffn_bias && !file->parallel &&
                 file->alibi_max == 0 && file->logit_softcap == 0 && file->rope_scaling.kind == MFI_ROPE_PLAIN;
    bool same = plain && own->n_layer == file->n_layer && own->d_model == file->d_model &&
                own->d_head == file->d_head && own->n_vocab == file->n_vocab && own->head_group == file->head_group &&
                own->n_head == file->n_head && own->d_ff == file->d_ff && own->norm == file->norm &&
                own->norm_eps == file->norm_eps && own->ffn == file->ffn && own->activation == file->activation &&
                own->rope_theta == file->rope_theta && own->embed_scale == file->embed_scale &&
                own->attention_scale == file->attention_scale && own->tied == file->tied && same_extents(own, file) &&
                memcmp(own->window, file->window, own->n_layer * sizeof *own->window) == 0;
    if (same) return MF_OK;
    return mfi_fail(error, MF_E_INVALID,
                    "%s has another shape: %u layers of %u, %u heads of %u in groups of %u, d_ff %u, vocabulary %u; or "
                    "another norm, activation, rotation, scale or window",
                    path, file->n_layer, file->d_model, file->n_head, file->d_head, file->head_group, file->d_ff,
                    file->n_vocab);
}

/* Into fresh weights, so that a damaged file changes nothing. */
static mf_status import_model(mf_trainer *t, const mf_model *model, const char *path, mf_error *error)
{
    mf_status status = check_same(t, &model->config, path, error);
    if (status != MF_OK) return status;
    size_t n_float = t->layout.n_float;
    size_t longest = mfi_max(mfi_max(t->config.d_model, t->config.d_ff), (size_t)t->config.n_head * t->config.d_head);
    size_t bytes = (n_float + MFK_NR * longest) * sizeof(float);
    float *fresh = mfi_alloc(&t->allocator, bytes);
    if (!fresh) return mfi_fail(error, MF_E_NOMEM, "no memory to read %s", path);
    status = import_weights(t, model, fresh, fresh + n_float, error);
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
    mf_model *model = NULL;
    mf_status status = mfi_model_open(&model, &source, &options, error);
    if (status == MF_OK) status = import_model(trainer, model, path, error);
    if (model) mfi_model_release(model);
    return status;
}
