/* train_pass.c - one run of the model over a batch at given widths: the loss, and on the way back the
 * gradient of every parameter that these widths use. Nothing beyond the widths is read or computed. */
#include <string.h>

#include "defs.h"
#include "trainer.h"

static size_t row_count(const mfi_train_pass *pass)
{
    return pass->n_sequence * pass->length;
}

static void run_rows(const mfi_train_pass *pass, mfi_task task, void *user)
{
    mfi_tasks_run(pass->tasks, (row_count(pass) + MFI_TRAIN_ROWS - 1) / MFI_TRAIN_ROWS, task, user);
}

/* y[rows][n] = from + x[rows][k] w[n][k]^T */
static void times_transposed(const mfi_train_pass *pass, size_t n, size_t k, const float *x, const float *w,
                             const float *from, float *y)
{
    mfi_train_gemm_run(pass->tasks, &(mfi_train_gemm){ row_count(pass), n, k, x, k, 1, w, 1, k, y, n, from });
}

/* y[rows][n] = from + x[rows][k] w[k][n] */
static void times(const mfi_train_pass *pass, size_t n, size_t k, const float *x, const float *w, const float *from,
                  float *y)
{
    mfi_train_gemm_run(pass->tasks, &(mfi_train_gemm){ row_count(pass), n, k, x, k, 1, w, n, 1, y, n, from });
}

/* dw[m][n] += a[rows][m]^T b[rows][n] */
static void add_outer(const mfi_train_pass *pass, size_t m, size_t n, const float *a, const float *b, float *dw)
{
    mfi_train_gemm_run(pass->tasks, &(mfi_train_gemm){ m, n, row_count(pass), a, 1, m, b, n, 1, dw, n, dw });
}

/* ---- Embedding ---- */

static void embed_rows(void *user, size_t index, float *scratch)
{
    const mfi_train_pass *pass = user;
    size_t d = pass->config->d_model, begin = index * MFI_TRAIN_ROWS;
    size_t end = mfi_min(begin + MFI_TRAIN_ROWS, row_count(pass));
    (void)scratch;
    for (size_t r = begin; r < end; r++)
        pass->vec->scale(d, pass->config->embed_scale, pass->weights + pass->layout->embed + (size_t)pass->input[r] * d,
                         pass->work->embedded + r * d);
}

/* A token may occur in many rows: tasks own columns, and each walks all rows in order. */
#define EMBED_COLUMNS 32u

static void embed_backward_columns(void *user, size_t index, float *scratch)
{
    const mfi_train_pass *pass = user;
    size_t d = pass->config->d_model, begin = index * EMBED_COLUMNS, count = mfi_min(EMBED_COLUMNS, d - begin);
    (void)scratch;
    for (size_t r = 0; r < row_count(pass); r++)
        pass->vec->axpy(count, pass->config->embed_scale, pass->work->d_stream + r * d + begin,
                        pass->gradient + pass->layout->embed + (size_t)pass->input[r] * d + begin);
}

/* ---- Norms ---- */

typedef struct norm_rows {
    const mfi_train_pass *pass;
    const float *x, *weight;
    float *y, *stat; /* [rows][d_model]; [rows][2] mean, 1/deviation */
    const float *dy; /* backward */
} norm_rows;

static void norm_forward_rows(void *user, size_t index, float *scratch)
{
    const norm_rows *norm = user;
    const mfi_config *config = norm->pass->config;
    const mfi_train_vec *vec = norm->pass->vec;
    size_t d = config->d_model, begin = index * MFI_TRAIN_ROWS;
    size_t end = mfi_min(begin + MFI_TRAIN_ROWS, row_count(norm->pass));
    (void)scratch;
    for (size_t r = begin; r < end; r++) {
        const float *x = norm->x + r * d;
        float *y = norm->y + r * d, *stat = norm->stat + 2 * r;
        if (config->norm == MFI_NORM_LAYER)
            stat[1] = vec->layer_forward(d, x, norm->weight, norm->weight + d, config->norm_eps, y, &stat[0]);
        else
            stat[1] = vec->rms_forward(d, x, norm->weight, config->norm_eps, y);
    }
}

static void norm_forward(const mfi_train_pass *pass, const float *x, size_t weight, float *y, float *stat)
{
    run_rows(pass, norm_forward_rows, &(norm_rows){ pass, x, pass->weights + weight, y, stat, NULL });
}

static void norm_backward_rows(void *user, size_t index, float *scratch)
{
    const norm_rows *norm = user;
    const mfi_config *config = norm->pass->config;
    const mfi_train_vec *vec = norm->pass->vec;
    size_t d = config->d_model, begin = index * MFI_TRAIN_ROWS;
    size_t end = mfi_min(begin + MFI_TRAIN_ROWS, row_count(norm->pass));
    float *dweight = norm->pass->work->norm_partial + index * 2 * d;
    (void)scratch;
    memset(dweight, 0, 2 * d * sizeof(float));
    for (size_t r = begin; r < end; r++) {
        const float *x = norm->x + r * d, *dy = norm->dy + r * d, *stat = norm->stat + 2 * r;
        float *dx = norm->pass->work->d_stream + r * d;
        if (config->norm == MFI_NORM_LAYER)
            vec->layer_backward(d, x, norm->weight, stat[0], stat[1], dy, dx, dweight, dweight + d);
        else
            vec->rms_backward(d, x, norm->weight, stat[1], dy, dx, dweight);
    }
}

/* Adds to d_stream; the weights' gradients are summed over blocks of rows first, then over the blocks. */
static void norm_backward(const mfi_train_pass *pass, const float *x, size_t weight, float *stat, const float *dy)
{
    run_rows(pass, norm_backward_rows, &(norm_rows){ pass, x, pass->weights + weight, NULL, stat, dy });
    size_t d = pass->config->d_model, count = pass->config->norm == MFI_NORM_LAYER ? 2 * d : d;
    size_t n_block = (row_count(pass) + MFI_TRAIN_ROWS - 1) / MFI_TRAIN_ROWS;
    for (size_t i = 0; i < n_block; i++)
        pass->vec->add(count, pass->work->norm_partial + i * 2 * d, pass->gradient + weight);
}

/* ---- Feed-forward activation ---- */

typedef struct act_rows {
    const mfi_train_pass *pass;
    size_t ffn, up_rows;
    float *up, *hidden;
    const float *d_hidden; /* NULL on the way forward */
} act_rows;

static void activate_rows(void *user, size_t index, float *scratch)
{
    const act_rows *a = user;
    const mfi_config *config = a->pass->config;
    const mfi_train_vec *vec = a->pass->vec;
    size_t begin = index * MFI_TRAIN_ROWS, end = mfi_min(begin + MFI_TRAIN_ROWS, row_count(a->pass));
    bool gated = config->ffn == MFI_FFN_GATED;
    (void)scratch;
    for (size_t r = begin; r < end; r++) {
        float *up = a->up + r * a->up_rows;
        if (!a->d_hidden)
            (gated ? vec->glu_forward : vec->act_forward)(config->activation, a->ffn, up, a->hidden + r * a->ffn);
        else
            (gated ? vec->glu_backward : vec->act_backward)(config->activation, a->ffn, up, a->d_hidden + r * a->ffn);
    }
}

/* ---- Layers ---- */

static const float *attention_forward(mfi_train_pass *pass, size_t l, const float *x)
{
    mfi_train_layer_work *work = &pass->work->layers[l];
    const mfi_train_layer *layer = &pass->layout->layers[l];
    size_t d = pass->config->d_model, queries = (size_t)pass->heads[l] * pass->config->d_head;
    work->attn_x = x;
    norm_forward(pass, x, layer->attn_norm, work->attn_in, work->attn_stat);
    times_transposed(pass, mfi_train_qkv_rows(pass->config, pass->heads[l]), d, work->attn_in,
                     pass->weights + layer->qkv, NULL, work->qkv);
    mfi_train_attention_forward(pass, l);
    times(pass, d, queries, work->attended, pass->weights + layer->o, x, work->attn_out);
    return work->attn_out;
}

static void attention_backward(mfi_train_pass *pass, size_t l)
{
    mfi_train_layer_work *work = &pass->work->layers[l];
    const mfi_train_layer *layer = &pass->layout->layers[l];
    size_t d = pass->config->d_model, queries = (size_t)pass->heads[l] * pass->config->d_head;
    size_t qkv_rows = mfi_train_qkv_rows(pass->config, pass->heads[l]);
    float *d_stream = pass->work->d_stream, *d_qkv = pass->work->d_wide, *d_normed = pass->work->d_normed;
    add_outer(pass, queries, d, work->attended, d_stream, pass->gradient + layer->o);
    times_transposed(pass, queries, d, d_stream, pass->weights + layer->o, NULL, pass->work->d_attended);
    mfi_train_attention_backward(pass, l);
    add_outer(pass, qkv_rows, d, d_qkv, work->attn_in, pass->gradient + layer->qkv);
    times(pass, d, qkv_rows, d_qkv, pass->weights + layer->qkv, NULL, d_normed);
    norm_backward(pass, work->attn_x, layer->attn_norm, work->attn_stat, d_normed);
}

static const float *ffn_forward(mfi_train_pass *pass, size_t l, const float *x)
{
    mfi_train_layer_work *work = &pass->work->layers[l];
    const mfi_train_layer *layer = &pass->layout->layers[l];
    size_t d = pass->config->d_model, ffn = pass->ffn[l], up_rows = mfi_train_up_rows(pass->config, pass->ffn[l]);
    work->ffn_x = x;
    norm_forward(pass, x, layer->ffn_norm, work->ffn_in, work->ffn_stat);
    times_transposed(pass, up_rows, d, work->ffn_in, pass->weights + layer->up, NULL, work->up);
    run_rows(pass, activate_rows, &(act_rows){ pass, ffn, up_rows, work->up, work->hidden, NULL });
    times(pass, d, ffn, work->hidden, pass->weights + layer->down, x, work->ffn_out);
    return work->ffn_out;
}

static void ffn_backward(mfi_train_pass *pass, size_t l)
{
    mfi_train_layer_work *work = &pass->work->layers[l];
    const mfi_train_layer *layer = &pass->layout->layers[l];
    size_t d = pass->config->d_model, ffn = pass->ffn[l], up_rows = mfi_train_up_rows(pass->config, pass->ffn[l]);
    float *d_stream = pass->work->d_stream, *d_hidden = pass->work->d_wide, *d_normed = pass->work->d_normed;
    add_outer(pass, ffn, d, work->hidden, d_stream, pass->gradient + layer->down);
    times_transposed(pass, ffn, d, d_stream, pass->weights + layer->down, NULL, d_hidden);
    run_rows(pass, activate_rows, &(act_rows){ pass, ffn, up_rows, work->up, NULL, d_hidden });
    add_outer(pass, up_rows, d, work->up, work->ffn_in, pass->gradient + layer->up);
    times(pass, d, up_rows, work->up, pass->weights + layer->up, NULL, d_normed);
    norm_backward(pass, work->ffn_x, layer->ffn_norm, work->ffn_stat, d_normed);
}

double mfi_train_pass_run(mfi_train_pass *pass)
{
    const mfi_train_layout *layout = pass->layout;
    mfi_train_work *work = pass->work;
    uint32_t n_layer = pass->config->n_layer;

    run_rows(pass, embed_rows, pass);
    const float *stream = work->embedded;
    for (uint32_t l = 0; l < n_layer; l++) {
        if (pass->heads[l]) stream = attention_forward(pass, l, stream);
        if (pass->ffn[l]) stream = ffn_forward(pass, l, stream);
    }
    norm_forward(pass, stream, layout->final_norm, work->final_in, work->final_stat);
    double loss = mfi_train_loss(pass);
    if (!pass->gradient) return loss;

    size_t d = pass->config->d_model;
    mfi_train_zero(pass->tasks, work->d_stream, row_count(pass) * d);
    norm_backward(pass, stream, layout->final_norm, work->final_stat, work->d_normed);
    for (uint32_t l = n_layer; l-- > 0;) {
        if (pass->ffn[l]) ffn_backward(pass, l);
        if (pass->heads[l]) attention_backward(pass, l);
    }
    mfi_tasks_run(pass->tasks, (d + EMBED_COLUMNS - 1) / EMBED_COLUMNS, embed_backward_columns, pass);
    return loss;
}
