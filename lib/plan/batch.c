/* batch.c - the rows of a batch, and for every layer the order in which its operations see them.
 *
 * Sorting by width makes the rows that reach a shell a prefix, so that a shell's weights are read once and
 * applied to just those rows. When all requests agree on a layer, which is the rule, the order is the plain
 * one and nothing is written down. In the last layers of a model whose layers share keys and values nobody reads what
 * becomes of most rows of a prompt, and only those are in whose outputs are wanted. */
#include "executor.h"

static uint32_t reach(const mf_submodel *view, mfi_rows rows, uint32_t layer)
{
    return rows == MFI_ROWS_FFN ? mfi_view_ffn(view, layer) : mfi_view_heads(view, layer);
}

/* Stable and in place; neighbouring layers rarely differ, so the order is nearly right already. */
static void sort_requests(const mf_executor *e, mfi_rows rows, uint32_t layer)
{
    for (uint32_t i = 1; i < e->n_request; i++) {
        const uint32_t moved = e->order[i], width = reach(e->request[moved].view, rows, layer);
        uint32_t j = i;
        for (; j > 0; j--) {
            const uint32_t before = e->order[j - 1], other = reach(e->request[before].view, rows, layer);
            if (other > width || (other == width && before < moved)) break;
            e->order[j] = before;
        }
        e->order[j] = moved;
    }
}

uint32_t mfi_first_row(const mf_executor *e, const mfi_run_request *request, uint32_t layer)
{
    return layer < e->model->program->tail_layer ? 0 : request->out_begin;
}

static void set_uniform(mfi_space *space, uint32_t extent, uint32_t n_row)
{
    space->identity = true;
    space->n_row = n_row;
    space->n_step = 1;
    space->step[0] = (mfi_step){ extent, n_row };
}

/* Rows in the order of e->order, widest first; then the steps from the narrowest up. */
static void set_sorted(const mf_executor *e, mfi_space *space, mfi_rows rows, uint32_t layer)
{
    space->identity = false;
    space->n_row = space->n_step = 0;
    for (uint32_t i = 0; i < e->n_request; i++) {
        const mfi_run_request *request = &e->request[e->order[i]];
        const bool kept = reach(request->view, rows, layer) != 0;
        const uint32_t first = kept ? mfi_first_row(e, request, layer) : request->n_row;
        for (uint32_t r = 0; r < request->n_row; r++) {
            const bool in = r >= first;
            space->index_of[request->first_row + r] = in ? space->n_row : MFI_NO_ROW;
            if (in) space->row_of[space->n_row++] = request->first_row + r;
        }
    }
    uint32_t n_row = space->n_row;
    for (uint32_t i = e->n_request; i-- > 0;) {
        const mfi_run_request *request = &e->request[e->order[i]];
        const uint32_t extent = reach(request->view, rows, layer);
        if (extent == 0) continue;
        if (space->n_step == 0 || space->step[space->n_step - 1].extent != extent)
            space->step[space->n_step++] = (mfi_step){ extent, n_row };
        n_row -= request->n_row - mfi_first_row(e, request, layer);
    }
}

static void lay_out_space(const mf_executor *e, mfi_space *space, mfi_rows rows, uint32_t layer)
{
    const uint32_t extent = reach(e->request[0].view, rows, layer);
    uint32_t i = 0;
    while (i < e->n_request && reach(e->request[i].view, rows, layer) == extent &&
           mfi_first_row(e, &e->request[i], layer) == 0)
        i++;
    if (i == e->n_request && extent != 0) {
        set_uniform(space, extent, e->n_row);
        return;
    }
    sort_requests(e, rows, layer);
    set_sorted(e, space, rows, layer);
}

static void add_row(mfi_space *space, uint32_t row, bool in)
{
    space->index_of[row] = in ? space->n_row : MFI_NO_ROW;
    if (in) space->row_of[space->n_row++] = row;
}

static void lay_out_rows(mf_executor *e)
{
    e->n_row = e->out.n_row = e->class_rows.n_row = 0;
    for (uint32_t i = 0; i < e->n_request; i++) {
        mfi_run_request *request = &e->request[i];
        const float *embedding = request->embeddings;
        request->first_row = e->n_row;
        request->first_out = e->out.n_row;
        for (uint32_t r = 0; r < request->n_row; r++, e->n_row++) {
            const bool is_embedding = request->tokens != NULL && request->tokens[r] < 0;
            const bool is_class = r == 0 && request->pixels != NULL;
            e->row_request[e->n_row] = i;
            e->embedding[e->n_row] = is_embedding ? embedding : NULL;
            if (is_embedding) embedding += request->embedding_stride;
            add_row(&e->out, e->n_row, r >= request->out_begin && r < request->out_end);
            add_row(&e->class_rows, e->n_row, is_class && (request->logits != NULL || request->pooled != NULL));
        }
    }
    set_uniform(&e->all, 0, e->n_row);
    e->out.n_step = e->class_rows.n_step = 1;
    e->out.step[0] = (mfi_step){ 0, e->out.n_row };
    e->class_rows.step[0] = (mfi_step){ 0, e->class_rows.n_row };
}

/* Whether every thread gets as many key/value heads as the others, in every layer. */
static bool heads_divide(const mf_executor *e)
{
    const mfi_program *program = e->model->program;
    for (uint32_t layer = 0; layer < program->n_layer; layer++)
        for (uint32_t i = 0; i < e->attn[layer].n_step; i++)
            if (mfi_kv_heads(e->attn[layer].step[i].extent, program->head_group) % e->n_thread != 0) return false;
    return true;
}

static void choose_cut(mf_executor *e)
{
    e->cut = MFI_CUT_ROWS;
    if (e->n_row <= MFI_FEW_ROWS) e->cut = heads_divide(e) ? MFI_CUT_HEADS : MFI_CUT_COPIES;
    for (uint32_t t = 0; t < e->n_thread; t++)
        e->buffer[t] = e->cut == MFI_CUT_ROWS ? e->shared : e->copied[t];
}

void mfi_batch_lay_out(mf_executor *e)
{
    lay_out_rows(e);
    for (uint32_t i = 0; i < e->n_request; i++)
        e->order[i] = i;
    for (uint32_t layer = 0; layer < e->model->program->n_layer; layer++)
        lay_out_space(e, &e->attn[layer], MFI_ROWS_ATTN, layer);
    for (uint32_t layer = 0; layer < e->model->program->n_layer; layer++)
        lay_out_space(e, &e->ffn[layer], MFI_ROWS_FFN, layer);
    choose_cut(e);
}

const mfi_space *mfi_batch_space(const mf_executor *e, mfi_rows rows, uint32_t layer)
{
    switch (rows) {
    case MFI_ROWS_ATTN:
        return &e->attn[layer];
    case MFI_ROWS_FFN:
        return &e->ffn[layer];
    case MFI_ROWS_OUT:
        return &e->out;
    case MFI_ROWS_CLASS:
        return &e->class_rows;
    default:
        return &e->all;
    }
}
