/* run.c - walks the operation list on every thread at once. Operations that treat rows apart are here;
 * products and attention have files of their own. A thread's part never changes a result. */
#include "executor.h"

#include <math.h>
#include <string.h>

#include "defs.h"
#include "pack.h"
#include "platform.h"

static const mfi_run_request *request_of(const mf_executor *e, uint32_t row)
{
    return &e->request[e->row_request[row]];
}

static uint32_t position_of(const mf_executor *e, uint32_t row)
{
    const mfi_run_request *request = request_of(e, row);
    return request->position + row - request->first_row;
}

/* The rotation of a row is the same in every layer: once, before the first. */
static void set_rotation(const mf_executor *e, uint32_t row)
{
    const mfi_program *program = e->model->program;
    const size_t half = program->d_head / 2;
    const float position = (float)position_of(e, row);
    for (size_t r = 0; r < MFI_N_ROTATION; r++) {
        const float *frequency = program->rope_freqs[r] != NULL ? program->rope_freqs[r]->data : NULL;
        for (size_t j = 0; frequency != NULL && j < half; j++)
            mfk_sincos(position * frequency[j], &e->cos[r][row * half + j], &e->sin[r][row * half + j]);
    }
}

/* A row as `buffer` has it. */
static float *row_of(const mf_executor *e, const mfi_op *op, uint32_t thread, uint16_t buffer, uint32_t row)
{
    const mfi_space *space = mfi_batch_space(e, e->model->program->buffer[buffer].rows, op->layer);
    return mfi_row(e, thread, buffer, mfi_space_index(space, row));
}

static void embed(const mf_executor *e, const mfi_op *op, uint32_t row, float *dst)
{
    const mfk_table *kernels = &e->model->kernels;
    const mfi_tensor *table = op->table;
    const mfi_run_request *request = request_of(e, row);
    const size_t width = e->model->program->d_model;
    if (e->embedding[row] != NULL) {
        memcpy(dst, e->embedding[row], width * sizeof *dst);
        return;
    }
    const size_t token = (size_t)request->tokens[row - request->first_row];
    if (table->kind == MFI_PANEL)
        kernels->panel_row(table->type, width, mfi_tensor_table(table), mfi_tensor_body(table),
                           mfk_panel_bytes(table->type, width), token, dst);
    else
        mfk_unpack_table_row(table->type, mfi_tensor_table(table), width,
                             mfi_tensor_body(table) + token * mfk_row_bytes(table->type, width), dst);
    for (size_t i = 0; op->scale != 1.0f && i < width; i++)
        dst[i] *= op->scale;
}

static void lookup(const mf_executor *e, const mfi_op *op, uint32_t thread, uint32_t row, float *dst)
{
    const mfi_tensor *table = op->table;
    const mfi_run_request *request = request_of(e, row);
    const size_t n = e->model->program->buffer[op->dst].width, k = (size_t)table->k;
    float *columns = (float *)(void *)e->scratch[thread];
    if (e->embedding[row] != NULL) return;
    const size_t token = (size_t)request->tokens[row - request->first_row];
    mfk_unpack_table_columns(table->type, mfi_tensor_table(table), k,
                             mfi_tensor_body(table) + (token < table->n ? token : 0) * mfk_row_bytes(table->type, k),
                             op->layer * n, n, columns);
    for (size_t i = 0; i < n; i++)
        dst[i] = op->scale * (dst[i] + op->table_scale * columns[i]);
}

static void norm(const mf_executor *e, const mfi_op *op, const float *src, float *dst)
{
    const size_t width = e->model->program->buffer[op->src].width;
    if (op->norm == MFI_NORM_RMS)
        e->model->kernels.rms_norm(width, src, op->weight->data, op->eps, dst);
    else
        e->model->kernels.layer_norm(width, src, op->weight->data, op->bias->data, op->eps, dst);
}

static void copy(const mf_executor *e, const mfi_op *op, const float *src, float *dst)
{
    const size_t width = e->model->program->buffer[op->src].width;
    for (size_t i = 0; i < width; i++)
        dst[i] = op->scale * src[i];
}

static void combine(const mf_executor *e, const mfi_op *op, uint32_t thread, uint32_t row, const float *src, float *dst)
{
    const size_t width = e->model->program->buffer[op->dst].width;
    const float *coefficient = row_of(e, op, thread, op->coefficient, row) + op->coefficient_at;
    if (dst != src) memcpy(dst, src, width * sizeof *dst);
    for (uint32_t i = 0; i < op->n_stream; i++)
        e->model->kernels.axpy(width, coefficient[i], row_of(e, op, thread, op->stream[i], row), dst);
}

static void match(const mf_executor *e, const mfi_op *op, const float *src, const float *like, float *dst)
{
    const mfk_table *kernels = &e->model->kernels;
    const size_t width = e->model->program->buffer[op->src].width;
    const float mean = kernels->dot(width, src, src) / (float)width;
    const float wanted = sqrtf(kernels->dot(width, like, like) / (float)width);
    const float factor = wanted / sqrtf(op->eps > mean ? op->eps : mean);
    for (size_t i = 0; i < width; i++)
        dst[i] = src[i] * factor;
}

/* The matrix is small: [n][k], k being up to MFI_MAX_STREAM where its elements are clipped. */
static void matvec(const mf_executor *e, const mfi_op *op, const float *src, float *dst)
{
    const mfk_table *kernels = &e->model->kernels;
    const size_t k = e->model->program->buffer[op->src].width, n = (size_t)op->weight->n / k;
    const float *weight = op->weight->data;
    for (size_t i = 0; i < n; i++, weight += k) {
        float clipped[MFI_MAX_STREAM];
        for (size_t j = 0; j < k && op->clip > 0; j++)
            clipped[j] = weight[j] > op->clip ? op->clip : weight[j] < -op->clip ? -op->clip : weight[j];
        dst[i] = op->scale * kernels->dot(k, op->clip > 0 ? clipped : weight, src);
    }
    if (op->activated) kernels->activate(op->activation, n, dst, dst);
    for (size_t i = 0; i < n; i++)
        dst[i] += op->offset;
}

static void sparse(const mf_executor *e, const mfi_op *op, uint32_t row, const float *src, float *dst)
{
    const size_t width = mfi_view_ffn(request_of(e, row)->view, op->layer);
    e->model->kernels.sparse_glu(op->activation, width, src, op->sparsity, dst);
}

void mfi_heads_of(const mf_executor *e, const mf_submodel *view, uint32_t layer, uint32_t thread, uint32_t *begin,
                  uint32_t *end)
{
    size_t first = 0, last = mfi_view_kv_heads(view, layer);
    if (e->cut == MFI_CUT_HEADS) mfi_split(last, 1, thread, e->n_thread, &first, &last);
    *begin = (uint32_t)first;
    *end = (uint32_t)last;
}

/* HEAD_NORM and ROPE: a thread's heads of a row. */
static void change_heads(const mf_executor *e, const mfi_op *op, uint32_t thread, uint32_t row, float *x)
{
    const mfi_program *program = e->model->program;
    const mf_submodel *view = request_of(e, row)->view;
    const size_t d_head = program->d_head, half = d_head / 2;
    uint32_t begin, end;
    mfi_heads_of(e, view, op->layer, thread, &begin, &end);
    if (op->n_of == MFI_EXTENT_HEADS) {
        begin *= program->head_group;
        end = (uint32_t)mfi_min((size_t)end * program->head_group, mfi_view_heads(view, op->layer));
    }
    if (begin >= end) return;
    if (op->kind == MFI_OP_ROPE) {
        const float *cos = e->cos[op->rotation] + row * half, *sin = e->sin[op->rotation] + row * half;
        e->model->kernels.rope(end - begin, d_head, cos, sin, x + begin * d_head);
        return;
    }
    const float *weight = op->weight != NULL ? op->weight->data : NULL;
    for (uint32_t h = begin; h < end; h++)
        e->model->kernels.rms_norm(d_head, x + h * d_head, weight, op->eps, x + h * d_head);
}

static void quantize(const mf_executor *e, const mfi_op *op, uint32_t row, const float *src, float *dst)
{
    const mf_submodel *view = request_of(e, row)->view;
    size_t width = e->model->program->buffer[op->src].width;
    if (op->n_of == MFI_EXTENT_FFN) width = mfi_view_ffn(view, op->layer);
    if (op->n_of == MFI_EXTENT_HEADS) width = (size_t)mfi_view_heads(view, op->layer) * e->model->program->d_head;
    e->model->kernels.quantize(width, src, (mfk_q8_block *)(void *)dst);
}

static void store(const mf_executor *e, const mfi_op *op, uint32_t thread, uint32_t row, const float *keys)
{
    const mfk_table *kernels = &e->model->kernels;
    const mfi_run_request *request = request_of(e, row);
    const uint32_t position = position_of(e, row), slot = position % MFK_PAGE;
    const size_t d_head = e->model->program->d_head, block_bytes = mfk_cache_block_bytes(request->cache_type, d_head);
    const float *values = row_of(e, op, thread, op->src2, row);
    unsigned char *page = request->pages[op->slot][position / MFK_PAGE];
    uint32_t begin, end;
    mfi_heads_of(e, request->view, op->layer, thread, &begin, &end);
    for (uint32_t h = begin; h < end; h++) {
        kernels->store_key(request->cache_type, d_head, keys + h * d_head, page + h * block_bytes, slot);
        kernels->store_value(request->cache_type, d_head, values + h * d_head,
                             page + request->value_offset_bytes + h * block_bytes, slot);
    }
}

/* Row 1 + r * side + c of an image is its patch (r, c): channel by channel, line by line. */
static void patch(const mf_executor *e, const mfi_op *op, uint32_t row, float *dst)
{
    const mfi_vit *vit = &e->model->config.vit;
    const mfi_run_request *request = request_of(e, row);
    const size_t size = vit->image_size, line = vit->patch_size, side = size / line, width = line * line;
    const uint32_t index = row - request->first_row;
    memset(dst, 0, e->model->program->buffer[op->dst].width * sizeof *dst);
    if (index == 0) return;
    const float *first = request->pixels + (index - 1) / side * line * size + (index - 1) % side * line;
    for (size_t channel = 0; channel < vit->n_channel; channel++, first += size * size, dst += width)
        for (size_t y = 0; y < line; y++)
            memcpy(dst + y * line, first + y * size, line * sizeof *dst);
}

static void place(const mf_executor *e, const mfi_op *op, uint32_t row, float *x)
{
    const size_t width = e->model->program->d_model, index = row - request_of(e, row)->first_row;
    const float *position = (const float *)op->weight->data + index * width;
    e->model->kernels.add(width, index == 0 ? op->bias->data : x, position, x);
}

static void give(const mf_executor *e, const mfi_op *op, uint32_t row, const float *src)
{
    const mfi_run_request *request = request_of(e, row);
    float *to = op->pooled ? request->pooled : request->logits;
    if (to != NULL) memcpy(to, src, e->model->program->buffer[op->src].width * sizeof *to);
}

/* `row` is of ALL. */
static void run_row(const mf_executor *e, const mfi_op *op, uint32_t thread, uint32_t row)
{
    const mfk_table *kernels = &e->model->kernels;
    const float *src = row_of(e, op, thread, op->src, row);
    float *dst = row_of(e, op, thread, op->dst, row);
    switch (op->kind) {
    case MFI_OP_EMBED:
        embed(e, op, row, dst);
        break;
    case MFI_OP_LOOKUP:
        lookup(e, op, thread, row, dst);
        break;
    case MFI_OP_COPY:
        copy(e, op, src, dst);
        break;
    case MFI_OP_NORM:
        norm(e, op, src, dst);
        break;
    case MFI_OP_QUANTIZE:
        quantize(e, op, row, src, dst);
        break;
    case MFI_OP_ADD:
        kernels->axpy(e->model->program->buffer[op->dst].width, op->scale, src, dst);
        break;
    case MFI_OP_MUL:
        kernels->mul(e->model->program->buffer[op->dst].width, src,
                     op->weight != NULL ? op->weight->data : row_of(e, op, thread, op->src2, row), dst);
        break;
    case MFI_OP_MATCH:
        match(e, op, src, row_of(e, op, thread, op->src2, row), dst);
        break;
    case MFI_OP_MATVEC:
        matvec(e, op, src, dst);
        break;
    case MFI_OP_COMBINE:
        combine(e, op, thread, row, src, dst);
        break;
    case MFI_OP_SPARSE:
        sparse(e, op, row, src, dst);
        break;
    case MFI_OP_HEAD_NORM:
    case MFI_OP_ROPE:
        change_heads(e, op, thread, row, dst);
        break;
    case MFI_OP_STORE:
        store(e, op, thread, row, src);
        break;
    case MFI_OP_PATCH:
        patch(e, op, row, dst);
        break;
    case MFI_OP_PLACE:
        place(e, op, row, dst);
        break;
    case MFI_OP_GIVE:
        give(e, op, row, src);
        break;
    default:
        break;
    }
}

static bool does_all_rows(const mf_executor *e, const mfi_op *op)
{
    if (op->kind == MFI_OP_HEAD_NORM || op->kind == MFI_OP_ROPE || op->kind == MFI_OP_STORE)
        return e->cut == MFI_CUT_HEADS;
    return e->cut != MFI_CUT_ROWS && e->model->program->buffer[op->dst].copied;
}

static void run_rows(const mf_executor *e, const mfi_op *op, uint32_t thread)
{
    const mfi_space *space = mfi_batch_space(e, op->rows, op->layer);
    size_t begin, end;
    mfi_split(e->n_row, 1, thread, e->n_thread, &begin, &end);
    for (size_t row = begin; op->kind == MFI_OP_EMBED && row < end; row++)
        set_rotation(e, (uint32_t)row);
    if (does_all_rows(e, op)) begin = 0, end = e->n_row;
    for (size_t row = begin; row < end; row++)
        if (mfi_space_index(space, (uint32_t)row) != MFI_NO_ROW) run_row(e, op, thread, (uint32_t)row);
}

static void run_op(mf_executor *e, const mfi_op *op, uint32_t thread)
{
    switch (op->kind) {
    case MFI_OP_GEMM:
    case MFI_OP_GLU:
        mfi_run_gemm(e, op, thread);
        break;
    case MFI_OP_ATTEND:
        mfi_run_attend(e, op, thread);
        break;
    case MFI_OP_MERGE:
        mfi_run_merge(e, op, thread);
        break;
    case MFI_OP_OUTPUT:
        mfi_run_output(e, op, thread);
        break;
    default:
        run_rows(e, op, thread);
        break;
    }
}

static bool all_cancelled(const mf_executor *e)
{
    for (uint32_t i = 0; i < e->n_request; i++)
        if (!atomic_load_explicit(e->request[i].cancel, memory_order_relaxed)) return false;
    return true;
}

/* Thread 0 looks for cancellation when a layer begins; all act on it when the next stage does. The layer's number is
 * what is published, not a flag, so that a slow thread cannot take the next layer's decision for this one's. */
static bool run_stage(void *user, uint32_t stage, uint32_t thread, uint32_t n_thread)
{
    mf_executor *e = user;
    const mfi_program *program = e->model->program;
    const uint32_t begin = program->stages[e->cut].begin[stage], end = program->stages[e->cut].begin[stage + 1];
    (void)n_thread;
    if (begin > 0 && atomic_load_explicit(&e->stop_layer, memory_order_relaxed) <= program->op[begin - 1].layer)
        return false;
    for (uint32_t i = begin; i < end; i++) {
        const mfi_op *op = &program->op[i];
        if (thread == 0 && (i == 0 || op->layer != op[-1].layer) && all_cancelled(e)) {
            uint_least32_t none = UINT32_MAX;
            atomic_compare_exchange_strong_explicit(&e->stop_layer, &none, op->layer, memory_order_relaxed,
                                                    memory_order_relaxed);
        }
        run_op(e, op, thread);
    }
    return true;
}

void mfi_run(mf_executor *e)
{
    const mfi_fp_mode mode = mfi_fp_enter();
    atomic_store_explicit(&e->stop_layer, UINT32_MAX, memory_order_relaxed);
    mfi_pool_run_stages(e->pool, e->model->program->stages[e->cut].n_stage, run_stage, e);
    mfi_fp_leave(mode);
}
