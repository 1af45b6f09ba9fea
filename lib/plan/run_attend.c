/* run_attend.c - attention of a batch: cut into tiles of query rows that read the same keys and values.
 *
 * A tile is up to MFK_ATTEND_ROWS neighbouring (position, head) pairs of one request and one key/value head.
 * Later positions cost more, so tiles go to the threads in turn. */
#include "executor.h"

#include "defs.h"

typedef struct tiling {
    const mf_executor *e;
    const mfi_op *op;
    uint32_t thread, rows_per_tile;
    uint32_t n_tile; /* counted so far, over all requests */
} tiling;

/* Pairs [begin, end) of one request and key/value head; pair i is query head first_head + i % n_head of row
 * i / n_head. */
static void run_tile(const tiling *t, const mfi_run_request *request, uint32_t kv_head, uint32_t n_head, uint64_t begin,
                     uint64_t end)
{
    const mf_executor *e = t->e;
    const mfi_program *program = e->model->program;
    const mfi_space *space = &e->attn[t->op->layer];
    const size_t d_head = program->d_head, block_bytes = mfk_cache_block_bytes(request->cache_type, d_head);
    const uint32_t base = mfi_space_index(space, request->first_row);
    const float *q[MFK_ATTEND_ROWS];
    float *out[MFK_ATTEND_ROWS];
    uint32_t key_begin[MFK_ATTEND_ROWS], key_end[MFK_ATTEND_ROWS];
    for (uint64_t i = begin; i < end; i++) {
        const uint32_t row = (uint32_t)(i / n_head), head = kv_head * program->head_group + (uint32_t)(i % n_head),
                       position = request->position + row;
        q[i - begin] = mfi_row(e, t->op->src, base + row) + head * d_head;
        out[i - begin] = mfi_row(e, t->op->dst, base + row) + head * d_head;
        key_end[i - begin] = position + 1;
        key_begin[i - begin] = t->op->window != 0 && position >= t->op->window ? position + 1 - t->op->window : 0;
    }
    const mfk_attend_args args = {
        .n_row = (size_t)(end - begin),
        .d_head = d_head,
        .type = request->cache_type,
        .scale = t->op->scale,
        .q = q,
        .out = out,
        .key_begin = key_begin,
        .key_end = key_end,
        .pages = (const void *const *)request->pages[t->op->slot],
        .k_offset_bytes = kv_head * block_bytes,
        .v_offset_bytes = request->value_offset_bytes + kv_head * block_bytes,
        .scratch = e->scratch[t->thread],
    };
    e->model->kernels.attend(&args);
}

static void run_request(tiling *t, const mfi_run_request *request)
{
    const uint32_t group = t->e->model->program->head_group, heads = mfi_view_heads(request->view, t->op->layer);
    for (uint32_t kv_head = 0; kv_head * group < heads; kv_head++) {
        const uint32_t n_head = heads - kv_head * group < group ? heads - kv_head * group : group;
        const uint64_t n_pair = (uint64_t)n_head * request->n_row;
        for (uint64_t begin = 0; begin < n_pair; begin += t->rows_per_tile, t->n_tile++) {
            if (t->n_tile % t->e->n_thread != t->thread) continue;
            run_tile(t, request, kv_head, n_head, begin,
                     begin + t->rows_per_tile < n_pair ? begin + t->rows_per_tile : n_pair);
        }
    }
}

void mfi_run_attend(mf_executor *e, const mfi_op *op, uint32_t thread)
{
    uint64_t n_pair = 0;
    for (uint32_t i = 0; i < e->n_request; i++)
        n_pair += (uint64_t)e->request[i].n_row * mfi_view_heads(e->request[i].view, op->layer);
    /* With few pairs, smaller tiles give every thread one. */
    const uint64_t share = (n_pair + e->n_thread - 1) / e->n_thread;
    tiling t = { e, op, thread, share < MFK_ATTEND_ROWS ? (uint32_t)(share ? share : 1) : MFK_ATTEND_ROWS, 0 };
    for (uint32_t i = 0; i < e->n_request; i++)
        run_request(&t, &e->request[i]);
}
