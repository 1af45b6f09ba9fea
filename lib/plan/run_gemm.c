/* run_gemm.c - matrix products whose live extents come from each row's view.
 *
 * A product is a walk over rectangles: an interval of the width (between the widths of the rows' views and the
 * ends of the file's shells) times the rows that reach it, which are a prefix of the space. Along n, intervals
 * are columns and stand apart; along k, each resumes the chains of the one before, so a thread takes a range of
 * columns through all of them. */
#include "executor.h"

#include "defs.h"
#include "pack.h"

/* Everything of one product that does not change from rectangle to rectangle. */
typedef struct product {
    const mf_executor *e;
    const mfi_op *op;
    const mfi_part *part;
    const mfi_space *space;
    uint32_t thread;
} product;

/* A space's step in units of the operand: columns or inputs rather than heads. */
static size_t step_extent(const product *p, mfi_extent extent, size_t step)
{
    const mfi_program *program = p->e->model->program;
    const uint32_t reached = p->space->step[step].extent;
    switch (extent) {
    case MFI_EXTENT_HEADS:
        return (size_t)reached * program->d_head;
    case MFI_EXTENT_KV_HEADS:
        return (size_t)mfi_kv_heads(reached, program->head_group) * program->d_head;
    default:
        return reached;
    }
}

/* The input of a product with weights of `type`, from input k of row `row` on. */
static void set_input(const mf_executor *e, const mfi_op *op, mfk_type type, uint32_t thread, size_t row, size_t k,
                      mfk_gemm_args *args)
{
    const uint16_t buffer = mfk_type_quantized(type) ? op->src2 : op->src;
    const size_t at = mfk_type_quantized(type) ? k / MFK_BLOCK * sizeof(mfk_q8_block) : k * sizeof(float);
    args->a = (const char *)mfi_row(e, thread, buffer, row) + at;
    args->a_row_bytes = e->model->program->buffer[buffer].stride * sizeof(float);
}

/* What every product with `piece` has, from its panel `panel` on, `step` panels apart. */
static mfk_gemm_args product_args(const mf_executor *e, const mfi_tensor *piece, size_t panel, size_t step,
                                  uint32_t thread)
{
    const size_t panel_bytes = mfk_panel_bytes(piece->type, (size_t)piece->k);
    return (mfk_gemm_args){
        .k = mfi_round_up((size_t)piece->k, MFK_K_ALIGN),
        .b = mfi_tensor_body(piece) + panel * panel_bytes,
        .b_panel_bytes = step * panel_bytes,
        .table = mfi_tensor_table(piece),
        .scratch = e->scratch[thread],
    };
}

/* The biases of a part from output `at` on. */
static const float *bias_at(const mfi_tensor *bias, size_t at)
{
    return bias != NULL ? (const float *)bias->data + at : NULL;
}

/* What follows the chains of m rows of n outputs, the first of them output `at` of the part. */
static void finish_outputs(const product *p, size_t at, size_t m, size_t n)
{
    const mfk_table *kernels = &p->e->model->kernels;
    const float *bias = bias_at(p->part->bias, at);
    for (size_t r = 0; r < m; r++) {
        float *c = mfi_row(p->e, p->thread, p->part->dst, r) + at;
        if (bias != NULL) kernels->add(n, c, bias, c);
        if (p->op->activated) kernels->activate(p->op->activation, n, c, c);
    }
}

/* Columns [begin, end) of `piece`, whose first column is column `origin` of the result, for the first m rows. */
static void run_columns(const product *p, const mfi_tensor *piece, size_t origin, size_t begin, size_t end, size_t m)
{
    const mf_executor *e = p->e;
    const bool gated = p->op->kind == MFI_OP_GLU;
    size_t first, last;
    mfi_split(end - begin, p->op->quantized ? MFK_BLOCK : MFK_NR, p->thread, e->n_thread, &first, &last);
    if (first == last || m == 0) return;
    const size_t column = begin + first, stride = e->model->program->buffer[p->part->dst].stride;
    const size_t matrices = (size_t)mfi_tensor_matrices(piece), panel = column / MFK_NR * matrices + p->part->matrix;
    float *to = mfi_row(e, p->thread, p->part->dst, 0);
    mfk_gemm_args args = product_args(e, piece, panel, gated ? 1 : matrices, p->thread);
    set_input(e, p->op, piece->type, p->thread, 0, 0, &args);
    args.m = m;
    args.n = last - first;
    args.activation = p->op->activation;
    if (p->op->quantized) {
        args.q = (mfk_q8_block *)(void *)to + (origin + column) / MFK_BLOCK;
        args.q_row_bytes = stride * sizeof(float);
    } else {
        args.c = to + origin + column;
        args.c_row_bytes = stride * sizeof(float);
    }
    if (gated) {
        args.gate_bias = bias_at(p->part->gate_bias, origin + column);
        args.up_bias = bias_at(p->part->bias, origin + column);
        mfk_table_glu(&e->model->kernels, piece->type)(&args);
        return;
    }
    mfk_table_gemm(&e->model->kernels, piece->type)(&args);
    if (p->part->bias != NULL || p->op->activated) finish_outputs(p, origin + column, m, args.n);
}

/* Intervals along n: every piece, cut where a view ends. */
static void run_along_n(const product *p)
{
    size_t origin = 0;
    for (uint32_t s = 0; s < p->part->n_shell; s++) {
        const mfi_tensor *piece = p->part->piece[s];
        if (piece == NULL) continue;
        const size_t width = (size_t)piece->n;
        size_t begin = 0;
        for (size_t i = 0; i < p->space->n_step && begin < width; i++) {
            const size_t reach = p->part->n_of == MFI_EXTENT_FULL ? SIZE_MAX : step_extent(p, p->part->n_of, i);
            if (reach <= origin + begin) continue;
            const size_t end = mfi_min(reach - origin, width);
            run_columns(p, piece, origin, begin, end, p->space->step[i].n_row);
            begin = end;
        }
        if (begin < width) return; /* nobody reaches further */
        origin += width;
    }
}

/* Inputs [begin, end) of `piece`, whose first is input `origin` of the whole, for the first m rows. */
static void run_inputs(const product *p, const mfi_tensor *piece, size_t origin, size_t begin, size_t end, size_t m)
{
    const mf_executor *e = p->e;
    size_t first, last;
    mfi_split((size_t)piece->n, MFK_NR, p->thread, e->n_thread, &first, &last);
    if (first == last || m == 0) return;
    mfk_gemm_args args = product_args(e, piece, first / MFK_NR, 1, p->thread);
    set_input(e, p->op, piece->type, p->thread, 0, origin + begin, &args);
    args.m = m;
    args.n = last - first;
    args.k = end - begin;
    args.k_begin = begin;
    args.c = mfi_row(e, p->thread, p->part->dst, 0) + first;
    args.c_row_bytes = e->model->program->buffer[p->part->dst].stride * sizeof(float);
    args.flags = origin + begin > 0 ? MFK_RESUME : 0;
    mfk_table_gemm(&e->model->kernels, piece->type)(&args);
}

static void run_along_k(const product *p)
{
    size_t origin = 0;
    for (uint32_t s = 0; s < p->part->n_shell; s++) {
        const mfi_tensor *piece = p->part->piece[s];
        if (piece == NULL) continue;
        const size_t width = (size_t)piece->k;
        size_t begin = 0;
        for (size_t i = 0; i < p->space->n_step && begin < width; i++) {
            const size_t reach = step_extent(p, p->op->k_of, i);
            if (reach <= origin + begin) continue;
            const size_t end = mfi_min(reach - origin, width);
            run_inputs(p, piece, origin, begin, end, p->space->step[i].n_row);
            begin = end;
        }
        if (begin < width) return;
        origin += width;
    }
}

/* The columns that the thread had of every interval. */
static void add_bias_along_k(const product *p)
{
    size_t first, last;
    mfi_split((size_t)p->part->bias->n, MFK_NR, p->thread, p->e->n_thread, &first, &last);
    finish_outputs(p, first, p->space->n_row, last - first);
}

void mfi_run_gemm(mf_executor *e, const mfi_op *op, uint32_t thread)
{
    const mfi_space *space = mfi_batch_space(e, op->rows, op->layer);
    for (uint32_t i = 0; i < op->n_part; i++) {
        const product p = { e, op, &op->part[i], space, thread };
        if (op->k_of == MFI_EXTENT_FULL)
            run_along_n(&p);
        else
            run_along_k(&p);
        if (op->k_of != MFI_EXTENT_FULL && p.part->bias != NULL) add_bias_along_k(&p);
    }
}

/* ---- Output ---- */

/* c * tanh(logit / c), in place. */
static void cap_logits(const mf_executor *e, float softcap, size_t n, float *logits)
{
    for (size_t i = 0; i < n; i++)
        logits[i] /= softcap;
    e->model->kernels.activate(MFK_TANH, n, logits, logits);
    for (size_t i = 0; i < n; i++)
        logits[i] *= softcap;
}

/* Columns [begin, end) of the logits of the wanted rows [row, row + n_row), to `c`. */
static void run_logits(const mf_executor *e, const mfi_op *op, uint32_t thread, size_t row, size_t n_row, size_t begin,
                       size_t end, float *c, size_t c_stride)
{
    const mfi_tensor *piece = op->part[0].piece[0];
    mfk_gemm_args args = product_args(e, piece, begin / MFK_NR, 1, thread);
    set_input(e, op, piece->type, thread, row, 0, &args);
    args.m = n_row;
    args.n = end - begin;
    args.c = c;
    args.c_row_bytes = c_stride * sizeof(float);
    mfk_table_gemm(&e->model->kernels, piece->type)(&args);
    for (size_t r = 0; op->softcap > 0 && r < n_row; r++)
        cap_logits(e, op->softcap, args.n, c + r * c_stride);
}

static void copy_columns(const float *from, float *to, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = from[i];
}

/* Several callers: columns go through a tile, so that the matrix is read once for all of them. */
static void scatter_logits(const mf_executor *e, const mfi_op *op, uint32_t thread, size_t begin, size_t end)
{
    float *tile = e->logits_tile[thread];
    for (size_t column = begin; column < end; column += MFI_LOGITS_COLUMNS) {
        const size_t n = mfi_min(end - column, MFI_LOGITS_COLUMNS);
        for (size_t row = 0; row < e->out.n_row; row += MFI_LOGITS_ROWS) {
            const size_t n_row = mfi_min(e->out.n_row - row, MFI_LOGITS_ROWS);
            run_logits(e, op, thread, row, n_row, column, column + n, tile, MFI_LOGITS_COLUMNS);
            for (size_t r = 0; r < n_row; r++) {
                const mfi_run_request *request = &e->request[e->row_request[e->out.row_of[row + r]]];
                if (request->logits == NULL) continue;
                float *to = request->logits + (row + r - request->first_out) * request->logits_stride;
                copy_columns(tile + r * MFI_LOGITS_COLUMNS, to + column, n);
            }
        }
    }
}

static void copy_hidden(const mf_executor *e, const mfi_op *op, uint32_t thread)
{
    size_t begin, end;
    mfi_split(e->out.n_row, 1, thread, e->n_thread, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const mfi_run_request *request = &e->request[e->row_request[e->out.row_of[i]]];
        if (request->hidden == NULL) continue;
        copy_columns(mfi_row(e, thread, op->src, i),
                     request->hidden + (i - request->first_out) * request->hidden_stride, e->model->program->d_model);
    }
}

void mfi_run_output(mf_executor *e, const mfi_op *op, uint32_t thread)
{
    copy_hidden(e, op, thread);
    if (op->n_part == 0) return;
    uint32_t n_taker = 0, taker = 0;
    for (uint32_t i = 0; i < e->n_request; i++)
        if (e->request[i].logits != NULL && e->request[i].out_begin < e->request[i].out_end) n_taker++, taker = i;
    if (n_taker == 0) return;
    size_t begin, end;
    mfi_split(e->model->program->n_vocab, MFK_NR, thread, e->n_thread, &begin, &end);
    if (begin == end) return;
    const mfi_run_request *only = &e->request[taker];
    if (n_taker == 1)
        run_logits(e, op, thread, only->first_out, only->out_end - only->out_begin, begin, end, only->logits + begin,
                   only->logits_stride);
    else
        scatter_logits(e, op, thread, begin, end);
}
