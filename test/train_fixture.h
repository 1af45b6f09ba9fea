/* train_fixture.h - trainers of tiny models for the tests, and the fixtures of golden/make_train_golden.py. */
#ifndef TRAIN_FIXTURE_H
#define TRAIN_FIXTURE_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "trainer.h"

#define MAX_FIXTURE_TENSORS 64
#define MAX_FIXTURE_GRANULARITIES 2

typedef struct golden_tensor {
    char name[32];
    size_t rows, columns;
    float *weight, *gradient[MAX_FIXTURE_GRANULARITIES], *after; /* after: NULL without a step */
} golden_tensor;

typedef struct golden_case {
    char *bytes;
    mf_train_model model;
    mf_train_granularity granularities[MAX_FIXTURE_GRANULARITIES];
    uint32_t widths[MAX_FIXTURE_GRANULARITIES][2][8]; /* ffn, heads [n_layer] */
    mf_trainer_options options;
    size_t n_sequence, length;
    int32_t *input, *target; /* [n_sequence][length] */
    double loss[MAX_FIXTURE_GRANULARITIES], gradient_norm;
    size_t n_tensor;
    golden_tensor tensors[MAX_FIXTURE_TENSORS];
    int32_t *stream; /* the first sequence and its last target: tokens to train on */
} golden_case;

static inline void take(const char **at, void *out, size_t bytes)
{
    memcpy(out, *at, bytes);
    *at += bytes;
}

static inline float *take_floats(const char **at, size_t count)
{
    float *floats = malloc(count * sizeof(*floats));
    take(at, floats, count * sizeof(*floats));
    return floats;
}

static inline char *read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    fseek(file, 0, SEEK_END);
    long bytes = ftell(file);
    rewind(file);
    char *data = malloc((size_t)bytes);
    cr_assert_eq(fread(data, 1, (size_t)bytes, file), (size_t)bytes);
    fclose(file);
    return data;
}

static inline void read_model(golden_case *c, const char **at, int32_t *n)
{
    static const uint8_t may_skip[8] = { 0, 1 };
    float scale[4], step[6];
    take(at, n, 16 * sizeof(*n));
    take(at, scale, sizeof(scale));
    take(at, step, sizeof(step));
    c->model = (mf_train_model){
        .struct_size = sizeof(c->model),
        .n_layer = (uint32_t)n[0],
        .d_model = (uint32_t)n[1],
        .n_head = (uint32_t)n[2],
        .head_group = (uint32_t)n[3],
        .d_head = (uint32_t)n[4],
        .d_ff = (uint32_t)n[5],
        .n_vocab = (uint32_t)n[6],
        .norm = (mf_train_norm)n[7],
        .ffn = (mf_train_ffn)n[8],
        .activation = (mf_train_activation)n[9],
        .untied_output = !n[10],
        .norm_eps = scale[0],
        .rope_theta = scale[1] > 0 ? (double)scale[1] : -1,
        .embed_scale = scale[2],
        .attention_scale = scale[3],
        .granularities = c->granularities,
        .n_granularity = (uint32_t)n[11],
        .may_skip = may_skip,
    };
    c->n_sequence = (size_t)n[12];
    c->length = (size_t)n[13];
    c->n_tensor = (size_t)n[14];
    c->options = (mf_trainer_options){ .struct_size = sizeof(c->options),
                                       .n_thread = 1,
                                       .batch = (uint32_t)n[12],
                                       .sequence = (uint32_t)n[13],
                                       .learning_rate = (double)step[0],
                                       .beta1 = (double)step[1],
                                       .beta2 = (double)step[2],
                                       .adam_eps = (double)step[3],
                                       .weight_decay = (double)step[4],
                                       .clip = (double)step[5] };
}

static inline golden_case *golden_open(const char *name)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/train_%s.bin", GOLDEN_DIR, name);
    golden_case *c = calloc(1, sizeof(*c));
    c->bytes = read_file(path);
    const char *at = c->bytes;
    cr_assert(memcmp(at, "MFGOLD1", 8) == 0);
    at += 8;
    int32_t n[16];
    read_model(c, &at, n);
    size_t n_layer = c->model.n_layer, n_granularity = c->model.n_granularity, rows = c->n_sequence * c->length;
    static const char *const names[] = { "S", "XL" };
    for (size_t g = 0; g < n_granularity; g++) {
        take(&at, c->widths[g][0], n_layer * sizeof(uint32_t));
        take(&at, c->widths[g][1], n_layer * sizeof(uint32_t));
        c->granularities[g] =
            (mf_train_granularity){ .name = names[g], .ffn = c->widths[g][0], .heads = c->widths[g][1] };
    }
    c->input = (int32_t *)take_floats(&at, rows);
    c->target = (int32_t *)take_floats(&at, rows);
    take(&at, c->loss, n_granularity * sizeof(double));
    take(&at, &c->gradient_norm, sizeof(double));
    for (size_t i = 0; i < c->n_tensor; i++) {
        golden_tensor *tensor = &c->tensors[i];
        int32_t size[2];
        take(&at, tensor->name, sizeof(tensor->name));
        take(&at, size, sizeof(size));
        tensor->rows = (size_t)size[0], tensor->columns = (size_t)size[1];
        tensor->weight = take_floats(&at, tensor->rows * tensor->columns);
        for (size_t g = 0; g < n_granularity; g++)
            tensor->gradient[g] = take_floats(&at, tensor->rows * tensor->columns);
        if (n[15]) tensor->after = take_floats(&at, tensor->rows * tensor->columns);
    }
    c->stream = malloc((c->length + 1) * sizeof(*c->stream));
    memcpy(c->stream, c->input, c->length * sizeof(*c->stream));
    c->stream[c->length] = c->target[c->length - 1];
    c->options.tokens = (mf_train_tokens){ c->stream, c->length + 1, sizeof(*c->stream) };
    return c;
}

static inline void golden_close(golden_case *c)
{
    for (size_t i = 0; i < c->n_tensor; i++) {
        free(c->tensors[i].weight);
        free(c->tensors[i].after);
        for (size_t g = 0; g < c->model.n_granularity; g++)
            free(c->tensors[i].gradient[g]);
    }
    free(c->bytes);
    free(c->input);
    free(c->target);
    free(c->stream);
    free(c);
}

/* Element (row, column) of a named tensor in an array of the trainer's layout. */
static inline float *element(const mf_trainer *t, float *array, const char *name, size_t row, size_t column)
{
    mfi_train_place p;
    cr_assert(mfi_train_find(&t->layout, &t->config, name, &p), "%s", name);
    cr_assert(row < p.rows && column < p.columns, "%s has %zu x %zu", name, p.rows, p.columns);
    return array + p.offset + (row / p.block * p.block_stride + row % p.block) * p.row_stride +
           column * p.column_stride;
}

static inline mf_trainer *make_trainer(const mf_train_model *model, const mf_trainer_options *options)
{
    mf_error error = MF_ERROR_INIT;
    mf_trainer *t = NULL;
    cr_assert_eq(mf_trainer_create(&t, model, options, &error), MF_OK, "%s", error.detail);
    return t;
}

/* With the fixture's weights. */
static inline mf_trainer *golden_trainer(const golden_case *c)
{
    mf_trainer *t = make_trainer(&c->model, &c->options);
    for (size_t i = 0; i < c->n_tensor; i++) {
        const golden_tensor *tensor = &c->tensors[i];
        for (size_t j = 0; j < tensor->rows * tensor->columns; j++)
            *element(t, t->weights, tensor->name, j / tensor->columns, j % tensor->columns) = tensor->weight[j];
    }
    return t;
}

/* Mean loss of one granularity over the rows given; with `gradient` also its gradient, from zero. */
static inline double run_pass(mf_trainer *t, uint32_t granularity, const int32_t *input, const int32_t *target,
                              size_t n_sequence, size_t length, bool gradient)
{
    mfi_train_pass pass = {
        .config = &t->config,
        .layout = &t->layout,
        .vec = t->vec,
        .work = &t->work,
        .tasks = &t->tasks,
        .weights = t->weights,
        .gradient = gradient ? t->gradient : NULL,
        .gradient_scale = 1.0f / (float)(n_sequence * length),
        .n_sequence = n_sequence,
        .length = length,
        .input = input,
        .target = target,
        .ffn = t->config.granularity[granularity].ffn,
        .heads = t->config.granularity[granularity].heads,
    };
    if (gradient) mfi_train_zero(&t->tasks, t->gradient, t->layout.n_float);
    return mfi_train_pass_run(&pass) / (double)(n_sequence * length);
}

static inline mf_train_report step(mf_trainer *t)
{
    mf_error error = MF_ERROR_INIT;
    mf_train_report report = MF_TRAIN_REPORT_INIT;
    cr_assert_eq(mf_trainer_step(t, &report, &error), MF_OK, "%s", error.detail);
    return report;
}

#endif
