/* train_params.c - where every parameter lies, what it is called, and its initial value. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "defs.h"
#include "status.h"
#include "trainer.h"

size_t mfi_train_qkv_rows(const mfi_config *config, uint32_t heads)
{
    return ((size_t)heads + 2 * (size_t)mfi_kv_heads(heads, config->head_group)) * config->d_head;
}

size_t mfi_train_up_rows(const mfi_config *config, uint32_t ffn)
{
    return config->ffn == MFI_FFN_GATED ? 2 * (size_t)ffn : ffn;
}

/* The next `rows` rows of `columns`; parameters begin at multiples of a cache line. */
static size_t take(size_t *used, size_t rows, size_t columns)
{
    size_t at = *used;
    *used = mfi_round_up(at + rows * columns, MFI_LINE / sizeof(float));
    return at;
}

/* The sizes fit: mfi_config_check() bounds every extent, and create() the product of vocabulary and
 * model width and the sum below. */
mf_status mfi_train_layout_create(mfi_train_layout *layout, const mfi_config *config, const mf_allocator *allocator,
                                  mf_error *error)
{
    layout->layers = mfi_alloc_array(allocator, config->n_layer, sizeof(layout->layers[0]));
    if (!layout->layers) return mfi_fail(error, MF_E_NOMEM, "no memory for %u layers", config->n_layer);

    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    size_t used = 0, d = config->d_model, norm = config->norm == MFI_NORM_LAYER ? 2 : 1;
    layout->embed = take(&used, config->n_vocab, d);
    layout->output = config->tied ? layout->embed : take(&used, config->n_vocab, d);
    for (uint32_t l = 0; l < config->n_layer; l++) {
        mfi_train_layer *layer = &layout->layers[l];
        layer->heads = full->heads[l];
        layer->ffn = full->ffn[l];
        layer->qkv = take(&used, mfi_train_qkv_rows(config, layer->heads), d);
        layer->o = take(&used, (size_t)layer->heads * config->d_head, d);
        layer->up = take(&used, mfi_train_up_rows(config, layer->ffn), d);
        layer->down = take(&used, layer->ffn, d);
    }
    layout->n_matrix = used;
    for (uint32_t l = 0; l < config->n_layer; l++) {
        layout->layers[l].attn_norm = take(&used, norm, d);
        layout->layers[l].ffn_norm = take(&used, norm, d);
    }
    layout->final_norm = take(&used, norm, d);
    layout->n_float = used;
    return MF_OK;
}

void mfi_train_layout_free(mfi_train_layout *layout, const mfi_config *config, const mf_allocator *allocator)
{
    if (layout->layers) mfi_free(allocator, layout->layers, config->n_layer * sizeof(layout->layers[0]));
    layout->layers = NULL;
}

/* ---- Initial values ---- */

typedef struct normal_fill {
    float *weights;
    size_t begin, end;
    uint64_t seed;
    double std;
} normal_fill;

/* Box and Muller: two uniform numbers give two normal ones. A weight's number is its place in the array. */
static void fill_chunk(void *user, size_t index, float *scratch)
{
    const normal_fill *f = user;
    size_t begin = f->begin + index * MFI_TRAIN_CHUNK, end = mfi_min(begin + MFI_TRAIN_CHUNK, f->end);
    (void)scratch;
    for (size_t i = begin; i < end; i += 2) {
        double radius = f->std * sqrt(-2.0 * log(1.0 - mfi_random_unit(f->seed, MFI_STREAM_WEIGHTS, i)));
        double angle = 6.28318530717958648 * mfi_random_unit(f->seed, MFI_STREAM_WEIGHTS, i + 1);
        f->weights[i] = (float)(radius * cos(angle));
        if (i + 1 < end) f->weights[i + 1] = (float)(radius * sin(angle));
    }
}

static void fill_normal(mfi_tasks *tasks, float *weights, size_t begin, size_t count, uint64_t seed, double std)
{
    normal_fill fill = { weights, begin, begin + count, seed, std };
    mfi_tasks_run(tasks, (count + MFI_TRAIN_CHUNK - 1) / MFI_TRAIN_CHUNK, fill_chunk, &fill);
}

static void fill_norm(const mfi_config *config, float *weights, size_t at)
{
    for (size_t i = 0; i < config->d_model; i++)
        weights[at + i] = 1.0f;
    if (config->norm == MFI_NORM_LAYER) memset(weights + at + config->d_model, 0, config->d_model * sizeof(float));
}

void mfi_train_initialize(mfi_tasks *tasks, const mfi_train_layout *layout, const mfi_config *config, uint64_t seed,
                          double std, float *weights)
{
    size_t d = config->d_model;
    double into_stream = std / sqrt(2.0 * config->n_layer);
    fill_normal(tasks, weights, layout->embed, config->n_vocab * d, seed, std);
    if (!config->tied) fill_normal(tasks, weights, layout->output, config->n_vocab * d, seed, std);
    for (uint32_t l = 0; l < config->n_layer; l++) {
        const mfi_train_layer *layer = &layout->layers[l];
        fill_normal(tasks, weights, layer->qkv, mfi_train_qkv_rows(config, layer->heads) * d, seed, std);
        fill_normal(tasks, weights, layer->o, (size_t)layer->heads * config->d_head * d, seed, into_stream);
        fill_normal(tasks, weights, layer->up, mfi_train_up_rows(config, layer->ffn) * d, seed, std);
        fill_normal(tasks, weights, layer->down, layer->ffn * d, seed, into_stream);
        fill_norm(config, weights, layer->attn_norm);
        fill_norm(config, weights, layer->ffn_norm);
    }
    fill_norm(config, weights, layout->final_norm);
}

/* ---- Names ---- */

static const char *const model_names[] = { "embed", "output", "final_norm.weight", "final_norm.bias" };
static const char *const layer_names[] = { "attn_norm.weight", "attn_norm.bias", "ffn_norm.weight", "ffn_norm.bias",
                                           "attn.q",           "attn.k",         "attn.v",          "attn.o",
                                           "ffn.gate",         "ffn.up",         "ffn.down" };

bool mfi_train_name(const mfi_config *config, size_t index, char *name, size_t capacity)
{
    if (index < MFI_COUNT(model_names)) return snprintf(name, capacity, "%s", model_names[index]) > 0;
    index -= MFI_COUNT(model_names);
    if (index >= config->n_layer * MFI_COUNT(layer_names)) return false;
    return snprintf(name, capacity, "layers.%zu.%s", index / MFI_COUNT(layer_names),
                    layer_names[index % MFI_COUNT(layer_names)]) > 0;
}

static bool place_rows(mfi_train_place *place, size_t offset, size_t rows, size_t columns)
{
    *place = (mfi_train_place){ rows, columns, offset, rows + 1, 0, columns, 1 };
    return rows > 0;
}

/* Rows that come in blocks with other rows between them. */
static bool place_blocks(mfi_train_place *place, size_t offset, size_t rows, size_t columns, size_t block,
                         size_t block_stride)
{
    *place = (mfi_train_place){ rows, columns, offset, block, block_stride, columns, 1 };
    return rows > 0;
}

static bool place_transposed(mfi_train_place *place, size_t offset, size_t rows, size_t columns)
{
    *place = (mfi_train_place){ rows, columns, offset, rows + 1, 0, 1, rows };
    return columns > 0;
}

static bool find_norm(const mfi_config *config, size_t at, const char *part, mfi_train_place *place)
{
    size_t d = config->d_model;
    if (!strcmp(part, "weight")) return place_rows(place, at, 1, d);
    return !strcmp(part, "bias") && config->norm == MFI_NORM_LAYER && place_rows(place, at + d, 1, d);
}

static bool find_in_layer(const mfi_train_layer *layer, const mfi_config *config, const char *name,
                          mfi_train_place *place)
{
    size_t d = config->d_model, head = config->d_head, group = config->head_group;
    size_t queries = layer->heads * head, keys = mfi_kv_heads(layer->heads, config->head_group) * head;
    size_t between = (group + 2) * head; /* from one group's rows of qkv to the next's */
    bool gated = config->ffn == MFI_FFN_GATED;

    if (!strncmp(name, "attn_norm.", 10)) return layer->heads && find_norm(config, layer->attn_norm, name + 10, place);
    if (!strncmp(name, "ffn_norm.", 9)) return layer->ffn && find_norm(config, layer->ffn_norm, name + 9, place);
    if (!strcmp(name, "attn.k")) return place_blocks(place, layer->qkv, keys, d, head, between);
    if (!strcmp(name, "attn.v")) return place_blocks(place, layer->qkv + head * d, keys, d, head, between);
    if (!strcmp(name, "attn.q"))
        return place_blocks(place, layer->qkv + 2 * head * d, queries, d, group * head, between);
    if (!strcmp(name, "attn.o")) return place_transposed(place, layer->o, d, queries);
    if (!strcmp(name, "ffn.down")) return place_transposed(place, layer->down, d, layer->ffn);
    if (!strcmp(name, "ffn.up") && !gated) return place_rows(place, layer->up, layer->ffn, d);
    if (!strcmp(name, "ffn.gate") && gated)
        return place_blocks(place, layer->up, layer->ffn, d, MFI_GLU_BLOCK, 2 * MFI_GLU_BLOCK);
    if (!strcmp(name, "ffn.up"))
        return place_blocks(place, layer->up + MFI_GLU_BLOCK * d, layer->ffn, d, MFI_GLU_BLOCK, 2 * MFI_GLU_BLOCK);
    return false;
}

bool mfi_train_find(const mfi_train_layout *layout, const mfi_config *config, const char *name, mfi_train_place *place)
{
    if (!strcmp(name, "embed")) return place_rows(place, layout->embed, config->n_vocab, config->d_model);
    if (!strcmp(name, "output"))
        return !config->tied && place_rows(place, layout->output, config->n_vocab, config->d_model);
    if (!strncmp(name, "final_norm.", 11)) return find_norm(config, layout->final_norm, name + 11, place);
    if (strncmp(name, "layers.", 7) != 0) return false;
    char *end;
    unsigned long index = strtoul(name + 7, &end, 10);
    if (end == name + 7 || *end != '.' || index >= config->n_layer) return false;
    return find_in_layer(&layout->layers[index], config, end + 1, place);
}
