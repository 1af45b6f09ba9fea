/* train_attention.c - causal attention of one layer, forward and backward.
 *
 * A task is one sequence and one key/value head with all query heads that share it, so that gradients of
 * keys and values are summed in one place. Within it, a block of positions times its heads forms one matrix
 * of rows (position, head), whose products with keys and values are ordinary matrix products; the triangle
 * beyond each position is masked inside the block and skipped beyond it. Scores are computed again on the
 * way back instead of being kept. */
#include <string.h>

#include "defs.h"
#include "trainer.h"

#define BLOCK_ROWS 256u /* rows (position, head) of a block, so that scores and their gradient stay in cache */

typedef struct attention {
    const mfi_train_pass *pass;
    const mfi_train_layer_work *work;
    size_t heads, groups, qkv_stride, out_stride;
} attention;

/* One task's matrices, in the thread's scratch. */
typedef struct block {
    size_t group_heads, positions; /* heads of this group; most positions of a block */
    float *keys_t, *values_t;      /* [d_head][length] */
    float *d_keys, *d_values;      /* [length][d_head] */
    float *q, *o, *d_o, *d_q;      /* [rows][d_head] */
    float *s, *d_s;                /* [rows][length] */
} block;

static size_t block_positions(size_t group_heads)
{
    return mfi_min(64, mfi_max(8, BLOCK_ROWS / group_heads));
}

size_t mfi_train_attention_scratch(const mfi_config *config, size_t length)
{
    size_t group = config->head_group, rows = mfi_max(BLOCK_ROWS, 8 * group);
    return 4 * length * config->d_head + 4 * rows * config->d_head + 2 * rows * length;
}

static block lay_out(const attention *a, size_t group, float *scratch)
{
    const mfi_config *config = a->pass->config;
    size_t length = a->pass->length, head = config->d_head;
    block b;
    b.group_heads = mfi_min(config->head_group, a->heads - group * config->head_group);
    b.positions = block_positions(b.group_heads);
    size_t rows = b.positions * b.group_heads;
    b.keys_t = scratch;
    b.values_t = b.keys_t + length * head;
    b.d_keys = b.values_t + length * head;
    b.d_values = b.d_keys + length * head;
    b.q = b.d_values + length * head;
    b.o = b.q + rows * head;
    b.d_o = b.o + rows * head;
    b.d_q = b.d_o + rows * head;
    b.s = b.d_q + rows * head;
    b.d_s = b.s + rows * length;
    return b;
}

/* [length][d_head], row_stride apart, to [d_head][length]. */
static void transpose(size_t length, size_t head, const float *rows, size_t row_stride, float *columns)
{
    for (size_t t = 0; t < length; t++)
        for (size_t j = 0; j < head; j++)
            columns[j * length + t] = rows[t * row_stride + j];
}

static void gather(size_t n, size_t floats, const float *from, size_t stride, float *to)
{
    for (size_t i = 0; i < n; i++)
        memcpy(to + i * floats, from + i * stride, floats * sizeof(float));
}

static void scatter(size_t n, size_t floats, const float *from, float *to, size_t stride)
{
    for (size_t i = 0; i < n; i++)
        memcpy(to + i * stride, from + i * floats, floats * sizeof(float));
}

/* c[m][n] = a[m][k] b[k][n], rows of c and b `stride` apart. */
static void product(size_t m, size_t n, size_t k, const float *a, size_t a_row, const float *b, size_t b_row, float *c,
                    size_t c_row)
{
    mfi_train_gemm_alone(&(mfi_train_gemm){ m, n, k, a, a_row, 1, b, b_row, 1, c, c_row, NULL });
}

/* c[m][n] += a[k][m]^T b[k][n] */
static void add_product(size_t m, size_t n, size_t k, const float *a, size_t a_row, const float *b, float *c)
{
    mfi_train_gemm_alone(&(mfi_train_gemm){ m, n, k, a, 1, a_row, b, n, 1, c, n, c });
}

/* Where a task's sequence and group begin. */
static size_t first_row(const attention *a, size_t index)
{
    return index / a->groups * a->pass->length;
}

static const float *group_qkv(const attention *a, size_t index)
{
    const mfi_config *config = a->pass->config;
    return a->work->qkv + first_row(a, index) * a->qkv_stride +
           index % a->groups * (config->head_group + 2) * config->d_head;
}

static void forward_task(void *user, size_t index, float *scratch)
{
    const attention *a = user;
    const mfi_config *config = a->pass->config;
    size_t length = a->pass->length, head = config->d_head, group = index % a->groups, row0 = first_row(a, index);
    size_t first_head = group * config->head_group;
    const float *qkv = group_qkv(a, index);
    block b = lay_out(a, group, scratch);
    size_t floats = b.group_heads * head;

    transpose(length, head, qkv, a->qkv_stride, b.keys_t);
    for (size_t t0 = 0; t0 < length; t0 += b.positions) {
        size_t t1 = mfi_min(t0 + b.positions, length), rows = (t1 - t0) * b.group_heads;
        gather(t1 - t0, floats, qkv + t0 * a->qkv_stride + 2 * head, a->qkv_stride, b.q);
        product(rows, t1, head, b.q, head, b.keys_t, length, b.s, length);
        for (size_t r = 0; r < rows; r++) {
            size_t t = t0 + r / b.group_heads, h = first_head + r % b.group_heads;
            a->work->log_sum[(row0 + t) * a->heads + h] =
                a->pass->vec->softmax(t + 1, t1, config->attention_scale, b.s + r * length);
        }
        product(rows, head, t1, b.s, length, qkv + head, a->qkv_stride, b.o, head);
        scatter(t1 - t0, floats, b.o, a->work->attended + (row0 + t0) * a->out_stride + first_head * head,
                a->out_stride);
    }
}

static void backward_task(void *user, size_t index, float *scratch)
{
    const attention *a = user;
    const mfi_config *config = a->pass->config;
    const mfi_train_vec *vec = a->pass->vec;
    size_t length = a->pass->length, head = config->d_head, group = index % a->groups, row0 = first_row(a, index);
    size_t first_head = group * config->head_group;
    const float *qkv = group_qkv(a, index);
    float *d_qkv = a->pass->work->d_wide + (qkv - a->work->qkv);
    block b = lay_out(a, group, scratch);
    size_t floats = b.group_heads * head;

    transpose(length, head, qkv, a->qkv_stride, b.keys_t);
    transpose(length, head, qkv + head, a->qkv_stride, b.values_t);
    memset(b.d_keys, 0, 2 * length * head * sizeof(float)); /* and d_values, which follows */
    for (size_t t0 = 0; t0 < length; t0 += b.positions) {
        size_t t1 = mfi_min(t0 + b.positions, length), rows = (t1 - t0) * b.group_heads;
        size_t out = (row0 + t0) * a->out_stride + first_head * head;
        gather(t1 - t0, floats, qkv + t0 * a->qkv_stride + 2 * head, a->qkv_stride, b.q);
        gather(t1 - t0, floats, a->work->attended + out, a->out_stride, b.o);
        gather(t1 - t0, floats, a->pass->work->d_attended + out, a->out_stride, b.d_o);
        product(rows, t1, head, b.q, head, b.keys_t, length, b.s, length);
        product(rows, t1, head, b.d_o, head, b.values_t, length, b.d_s, length);
        for (size_t r = 0; r < rows; r++) {
            size_t t = t0 + r / b.group_heads, h = first_head + r % b.group_heads;
            float delta = vec->dot(head, b.o + r * head, b.d_o + r * head);
            vec->softmax_backward(t + 1, t1, config->attention_scale, a->work->log_sum[(row0 + t) * a->heads + h],
                                  delta, b.s + r * length, b.d_s + r * length);
        }
        product(rows, head, t1, b.d_s, length, qkv, a->qkv_stride, b.d_q, head);
        add_product(t1, head, rows, b.d_s, length, b.q, b.d_keys);
        add_product(t1, head, rows, b.s, length, b.d_o, b.d_values);
        scatter(t1 - t0, floats, b.d_q, d_qkv + t0 * a->qkv_stride + 2 * head, a->qkv_stride);
    }
    scatter(length, head, b.d_keys, d_qkv, a->qkv_stride);
    scatter(length, head, b.d_values, d_qkv + head, a->qkv_stride);
}

/* ---- Rotation of keys and queries, in place ---- */

typedef struct rotation {
    const mfi_train_pass *pass;
    float *qkv;
    size_t heads, stride, n_row;
    int back;
} rotation;

static void rotate_rows(void *user, size_t index, float *scratch)
{
    const rotation *r = user;
    const mfi_config *config = r->pass->config;
    size_t head = config->d_head, half = head / 2, group_size = config->head_group;
    size_t begin = index * MFI_TRAIN_ROWS, end = mfi_min(begin + MFI_TRAIN_ROWS, r->n_row);
    (void)scratch;
    for (size_t row = begin; row < end; row++) {
        const float *cosine = r->pass->work->cosine + row % r->pass->length * half;
        const float *sine = r->pass->work->sine + row % r->pass->length * half;
        float *x = r->qkv + row * r->stride;
        for (size_t h = 0; h < r->heads; h += group_size, x += (group_size + 2) * head) {
            r->pass->vec->rope(1, head, cosine, sine, r->back, x);
            r->pass->vec->rope(mfi_min(group_size, r->heads - h), head, cosine, sine, r->back, x + 2 * head);
        }
    }
}

static void rotate(const mfi_train_pass *pass, const attention *a, float *qkv, int back)
{
    if (pass->config->rope_theta == 0) return;
    rotation r = { pass, qkv, a->heads, a->qkv_stride, pass->n_sequence * pass->length, back };
    mfi_tasks_run(pass->tasks, (r.n_row + MFI_TRAIN_ROWS - 1) / MFI_TRAIN_ROWS, rotate_rows, &r);
}

static attention describe(const mfi_train_pass *pass, size_t layer)
{
    const mfi_config *config = pass->config;
    uint32_t heads = pass->heads[layer];
    return (attention){ pass,
                        &pass->work->layers[layer],
                        heads,
                        mfi_kv_heads(heads, config->head_group),
                        mfi_train_qkv_rows(config, heads),
                        (size_t)heads * config->d_head };
}

void mfi_train_attention_forward(mfi_train_pass *pass, size_t layer)
{
    attention a = describe(pass, layer);
    rotate(pass, &a, a.work->qkv, 0);
    mfi_tasks_run(pass->tasks, pass->n_sequence * a.groups, forward_task, &a);
}

void mfi_train_attention_backward(mfi_train_pass *pass, size_t layer)
{
    attention a = describe(pass, layer);
    mfi_tasks_run(pass->tasks, pass->n_sequence * a.groups, backward_task, &a);
    rotate(pass, &a, pass->work->d_wide, 1);
}
