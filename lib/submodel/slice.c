/* slice.c - layers renumbered, widths cut to their prefixes, per-layer embeddings gathered (docs/families.md). */
#include "slice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "defs.h"
#include "schema.h"
#include "status.h"

struct mfi_slice {
    mf_allocator allocator;
    const mfi_config *whole;
    const mfi_weights *weights;
    mfi_config config;
    uint32_t kept[MFI_MAX_LAYER]; /* layer of the slice to layer of the whole */
};

/* ---- The configuration ---- */

static uint32_t new_layer(const mfi_slice *s, uint32_t layer)
{
    uint32_t i = 0;
    while (i < s->config.n_layer && s->kept[i] != layer)
        i++;
    return i;
}

static void set_layer(mfi_slice *s, uint32_t layer, const mfi_view_layer *from)
{
    const mfi_config *whole = s->whole;
    mfi_config *config = &s->config;
    const uint32_t old = s->kept[layer];
    mfi_granularity *only = &config->granularity[0];
    only->ffn[layer] = from->ffn_quanta * MFI_QUANTUM;
    only->heads[layer] = from->heads;
    config->window[layer] = whole->window[old];
    config->sparsity[layer] = whole->sparsity[old];
    config->may_skip[layer] = whole->may_skip[old];
    config->kv_layer[layer] = new_layer(s, whole->kv_layer[old]); /* which no view skips */
    if (config->d_ff < only->ffn[layer]) config->d_ff = only->ffn[layer];
    if (config->n_head < only->heads[layer]) config->n_head = only->heads[layer];
}

static mf_status cut_config(mfi_slice *s, const mfi_view_layer *layers, mf_error *error)
{
    const mfi_config *whole = s->whole;
    s->config = *whole;
    s->config.may_skip = NULL; /* nothing is ours yet */
    s->config.n_layer = s->config.d_ff = s->config.n_head = s->config.n_named = 0;
    s->config.n_granularity = 1;
    for (uint32_t layer = 0; layer < whole->n_layer; layer++)
        if (layers[layer].heads > 0) s->kept[s->config.n_layer++] = layer;
    mf_status status = mfi_config_alloc(&s->config, &s->allocator, error);
    if (status != MF_OK) return status;
    snprintf(s->config.granularity[0].name, sizeof s->config.granularity[0].name, "XL");
    for (uint32_t layer = 0; layer < s->config.n_layer; layer++)
        set_layer(s, layer, &layers[s->kept[layer]]);
    if (s->config.head_group > s->config.n_head) s->config.head_group = s->config.n_head; /* of one group, some */
    if (whole->alibi_max != 0 && s->config.n_head != whole->n_head)
        return mfi_fail(error, MF_E_UNSUPPORTED,
                        "with ALiBi, fewer heads in every layer are no model of their own: the "
                        "slopes are those of all heads");
    return mfi_config_check(&s->config, error);
}

/* ---- The weights ---- */

/* The same tensor's name in the whole model. */
static void old_name(const mfi_slice *s, const char *name, char out[64])
{
    unsigned layer;
    int at = 0;
    if (sscanf(name, "layers.%u.%n", &layer, &at) == 1 && at > 0 && layer < s->config.n_layer)
        snprintf(out, 64, "layers.%u.%s", s->kept[layer], name + at);
    else
        snprintf(out, 64, "%s", name);
}

/* Columns of the per-layer embeddings' table: a run of d_ple for each layer. */
static mf_status read_per_layer(const mfi_slice *s, size_t row, size_t n_row, size_t column, size_t n_column,
                                float *out, mf_error *error)
{
    const size_t d_ple = s->config.gemma3n.d_ple;
    mf_status status = MF_OK;
    for (size_t r = 0; r < n_row; r++)
        for (size_t done = 0, part; done < n_column && status == MF_OK; done += part) {
            const size_t at = column + done, from = s->kept[at / d_ple] * d_ple + at % d_ple;
            part = mfi_min(n_column - done, d_ple - at % d_ple);
            status = s->weights->read(s->weights->user, "ple.table", row + r, 1, from, part, out + r * n_column + done,
                                      error);
        }
    return status;
}

static mf_status read_weights(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                              float *out, mf_error *error)
{
    const mfi_slice *s = user;
    char old[64];
    if (strcmp(name, "ple.table") == 0 && s->config.n_layer < s->whole->n_layer)
        return read_per_layer(s, row, n_row, column, n_column, out, error);
    old_name(s, name, old);
    return s->weights->read(s->weights->user, old, row, n_row, column, n_column, out, error);
}

static mfi_schema_tensor whole_tensor(const mfi_slice *s, const mfi_schema_tensor *is)
{
    mfi_schema_tensor whole = *is;
    old_name(s, is->name, whole.name);
    for (uint32_t i = 0; i < is->n_matrix; i++)
        old_name(s, is->matrix[i], whole.matrix[i]);
    if (is->layer < s->config.n_layer) whole.layer = s->kept[is->layer];
    return whole;
}

static mfk_type type_of(void *user, const mfi_schema_tensor *is)
{
    const mfi_slice *s = user;
    const mfi_schema_tensor whole = whole_tensor(s, is);
    return s->weights->type_of ? s->weights->type_of(s->weights->user, &whole) : MFK_F32;
}

static bool has_tensor(void *user, const mfi_schema_tensor *is, const mfi_tensor *tensor, size_t first,
                       unsigned char head[MFK_LINE])
{
    const mfi_slice *s = user;
    const mfi_schema_tensor whole = whole_tensor(s, is);
    const bool gathered = strcmp(is->name, "ple.table") == 0 && s->config.n_layer < s->whole->n_layer;
    return !gathered && s->weights->has && s->weights->has(s->weights->user, &whole, tensor, first, head);
}

static mf_status copy_group(void *user, const mfi_schema_tensor *is, const mfi_tensor *tensor, size_t first,
                            size_t group, unsigned char *bytes, mf_error *error)
{
    const mfi_slice *s = user;
    const mfi_schema_tensor whole = whole_tensor(s, is);
    return s->weights->copy(s->weights->user, &whole, tensor, first, group, bytes, error);
}

/* ---- Objects ---- */

mf_status mfi_slice_create(mfi_slice **out, const mfi_config *config, const mfi_weights *weights,
                           const mfi_view_layer *layers, const mf_allocator *allocator, mf_error *error)
{
    *out = NULL;
    mfi_slice *s = mfi_alloc(allocator, sizeof *s);
    if (!s) return mfi_fail(error, MF_E_NOMEM, "no memory for a slice");
    s->allocator = *allocator;
    s->whole = config;
    s->weights = weights;
    const mf_status status = cut_config(s, layers, error);
    if (status == MF_OK)
        *out = s;
    else
        mfi_slice_free(s);
    return status;
}

void mfi_slice_free(mfi_slice *s)
{
    if (!s) return;
    const mf_allocator allocator = s->allocator;
    mfi_config_free(&s->config, &allocator);
    mfi_free(&allocator, s, sizeof *s);
}

const mfi_config *mfi_slice_config(const mfi_slice *s)
{
    return &s->config;
}

mfi_weights mfi_slice_weights(mfi_slice *s)
{
    return (mfi_weights){ read_weights, s, type_of, has_tensor, copy_group };
}
