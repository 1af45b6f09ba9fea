/* run_attend.c - attention of a batch: cut into tiles of query rows that read the same keys and values.
 *
 * A tile is up to MFK_ATTEND_ROWS neighbouring (position, head) pairs of one request and one key/value head.
 * Later positions cost more, so tiles go to the threads in turn. Where tiles are fewer than the threads want, a
 * tile's spans of positions go to the threads apart, and what they have is merged in ascending order by the operation
 * that follows, as one thread does it (docs/arithmetic.md). */
#include "executor.h"

#include <string.h>

#include "defs.h"

/* Pairs [begin, end) of one request and key/value head; pair i is query head kv_head * head_group + i % n_head of row
 * first_row + i / n_head. first_pair: of the request and key/value head, among all of the batch. */
typedef struct attend_tile {
    const mfi_run_request *request;
    uint32_t first_row, kv_head, n_head;
    uint64_t first_pair, begin, end;
} attend_tile;

typedef struct tiling {
    const mf_executor *e;
    const mfi_op *op;
    uint32_t thread, rows_per_tile;
    bool split;
    uint32_t first_span, n_span; /* that any row sees */
    uint64_t n_turn;             /* counted so far */
} tiling;

static bool is_my_turn(tiling *t)
{
    return t->e->cut == MFI_CUT_HEADS || t->n_turn++ % t->e->n_thread == t->thread;
}

static void each_tile(tiling *t, void (*visit)(tiling *t, const attend_tile *tile))
{
    const uint32_t group = t->e->model->program->head_group;
    attend_tile tile = { 0 };
    t->n_turn = 0;
    for (uint32_t i = 0; i < t->e->n_request; i++) {
        tile.request = &t->e->request[i];
        tile.first_row = mfi_first_row(t->e, tile.request, t->op->layer);
        const uint32_t heads = mfi_view_heads(tile.request->view, t->op->layer);
        uint32_t kv_end;
        mfi_heads_of(t->e, tile.request->view, t->op->layer, t->thread, &tile.kv_head, &kv_end);
        for (; tile.kv_head < kv_end; tile.kv_head++) {
            tile.n_head = (uint32_t)mfi_min(heads - tile.kv_head * group, group);
            const uint64_t n_pair = (uint64_t)tile.n_head * (tile.request->n_row - tile.first_row);
            for (tile.begin = 0; tile.begin < n_pair; tile.begin = tile.end) {
                tile.end = mfi_min(tile.begin + t->rows_per_tile, n_pair);
                visit(t, &tile);
            }
            tile.first_pair += n_pair;
        }
    }
}

/* The keys that a row sees. */
typedef struct range {
    uint32_t begin, end;
} range;

/* `row` of the request. */
static range keys_of(const mf_executor *e, const mfi_op *op, const mfi_run_request *request, uint32_t row)
{
    const uint32_t position = request->position + row;
    const bool slides = op->window != 0 && position >= op->window;
    if (e->model->program->whole) return (range){ request->position, request->position + request->n_row };
    return (range){ slides ? position + 1 - op->window : 0, position + 1 };
}

static range keys_of_pair(const tiling *t, const attend_tile *tile, uint64_t pair)
{
    return keys_of(t->e, t->op, tile->request, tile->first_row + (uint32_t)(pair / tile->n_head));
}

static float slope_of(const mfi_program *program, uint32_t layer, const attend_tile *tile, uint64_t pair)
{
    const uint32_t head = tile->kv_head * program->head_group + (uint32_t)(pair % tile->n_head);
    return program->slope[(size_t)layer * program->n_slope + head];
}

static float *part_of(const tiling *t, const attend_tile *tile, uint64_t pair, uint32_t span)
{
    const size_t at = (size_t)(tile->first_pair + pair) * t->n_span + span - t->first_span;
    return t->e->part + at * t->e->part_stride;
}

static float *out_of(const tiling *t, const attend_tile *tile, uint16_t buffer, uint64_t pair)
{
    const mfi_program *program = t->e->model->program;
    const uint32_t row = tile->request->first_row + tile->first_row + (uint32_t)(pair / tile->n_head);
    const uint32_t head = tile->kv_head * program->head_group + (uint32_t)(pair % tile->n_head);
    return mfi_row(t->e, t->thread, buffer, mfi_space_index(&t->e->attn[t->op->layer], row)) + head * program->d_head;
}

/* The tile's rows over their keys among the positions [from, to): all of them, or with `split` those of one span, whose
 * parts are kept. */
static void run_keys(const tiling *t, const attend_tile *tile, uint32_t from, uint32_t to)
{
    const mfi_run_request *request = tile->request;
    const mfi_program *program = t->e->model->program;
    const size_t block_bytes = mfk_cache_block_bytes(request->cache_type, program->d_head);
    const float *q[MFK_ATTEND_ROWS];
    float *out[MFK_ATTEND_ROWS], slope[MFK_ATTEND_ROWS];
    uint32_t key_begin[MFK_ATTEND_ROWS], key_end[MFK_ATTEND_ROWS], query_at[MFK_ATTEND_ROWS];
    size_t n_row = 0;
    for (uint64_t pair = tile->begin; pair < tile->end; pair++) {
        const range keys = keys_of_pair(t, tile, pair);
        if (keys.begin >= to || keys.end <= from) continue;
        key_begin[n_row] = (uint32_t)mfi_max(keys.begin, from);
        key_end[n_row] = (uint32_t)mfi_min(keys.end, to);
        query_at[n_row] = request->position + (uint32_t)(pair / tile->n_head);
        if (program->slope != NULL) slope[n_row] = slope_of(program, t->op->layer, tile, pair);
        q[n_row] = out_of(t, tile, t->op->src, pair);
        out[n_row++] = t->split ? part_of(t, tile, pair, from / MFK_SPAN) : out_of(t, tile, t->op->dst, pair);
    }
    const mfk_attend_args args = {
        .n_row = n_row,
        .d_head = program->d_head,
        .type = request->cache_type,
        .scale = t->op->scale,
        .slope = program->slope != NULL ? slope : NULL,
        .query_at = query_at,
        .q = q,
        .out = t->split ? NULL : out,
        .part = t->split ? out : NULL,
        .key_begin = key_begin,
        .key_end = key_end,
        .pages = (const void *const *)request->pages[t->op->slot],
        .k_offset_bytes = tile->kv_head * block_bytes,
        .v_offset_bytes = request->value_offset_bytes + tile->kv_head * block_bytes,
        .scratch = t->e->scratch[t->thread],
    };
    if (n_row > 0) t->e->model->kernels.attend(&args);
}

static void run_whole(tiling *t, const attend_tile *tile)
{
    if (is_my_turn(t)) run_keys(t, tile, 0, UINT32_MAX);
}

/* ---- Split by positions ---- */

static void run_spans(tiling *t, const attend_tile *tile)
{
    const uint32_t end = keys_of_pair(t, tile, tile->end - 1).end, begin = keys_of_pair(t, tile, tile->begin).begin;
    for (uint32_t span = begin / MFK_SPAN; span <= (end - 1) / MFK_SPAN; span++)
        if (is_my_turn(t)) run_keys(t, tile, span * MFK_SPAN, (span + 1) * MFK_SPAN);
}

static void merge_spans(tiling *t, const attend_tile *tile)
{
    const size_t d_head = t->e->model->program->d_head;
    for (uint64_t pair = tile->begin; pair < tile->end; pair++) {
        const range keys = keys_of_pair(t, tile, pair);
        const uint32_t first = keys.begin / MFK_SPAN, last = (keys.end - 1) / MFK_SPAN;
        float *merged = part_of(t, tile, pair, first), *out = out_of(t, tile, t->op->dst, pair);
        if (!is_my_turn(t)) continue;
        for (uint32_t span = first + 1; span <= last; span++)
            t->e->model->kernels.attend_merge(d_head, merged, part_of(t, tile, pair, span));
        for (size_t d = 0; d < d_head; d++)
            out[d] = merged[d] / merged[d_head + 1];
    }
}

/* The same for every thread, and for the attention and its merging. */
static tiling tiling_of(const mf_executor *e, const mfi_op *op, uint32_t thread)
{
    uint64_t n_pair = 0, n_part = 0;
    range spans = { UINT32_MAX, 0 };
    for (uint32_t i = 0; i < e->n_request; i++) {
        const mfi_run_request *request = &e->request[i];
        const uint32_t first_row = mfi_first_row(e, request, op->layer);
        const uint64_t pairs = (uint64_t)(request->n_row - first_row) * mfi_view_heads(request->view, op->layer);
        const range first = keys_of(e, op, request, first_row), last = keys_of(e, op, request, request->n_row - 1);
        const range seen = { first.begin / MFK_SPAN, (last.end - 1) / MFK_SPAN + 1 };
        if (pairs == 0) continue;
        n_pair += pairs;
        n_part += pairs * (seen.end - seen.begin);
        spans = (range){ (uint32_t)mfi_min(spans.begin, seen.begin), (uint32_t)mfi_max(spans.end, seen.end) };
    }
    tiling t = { .e = e, .op = op, .thread = thread };
    if (n_pair == 0) return t;
    t.first_span = spans.begin;
    t.n_span = spans.end - spans.begin;
    /* With few pairs, smaller tiles give every thread one. */
    t.split = e->cut != MFI_CUT_HEADS && e->n_thread > 1 && n_part > n_pair &&
              n_pair < (uint64_t)e->n_thread * MFI_SPLIT_PAIRS && n_pair * t.n_span <= e->n_part;
    const uint64_t share = ((t.split ? n_part : n_pair) + e->n_thread - 1) / e->n_thread;
    t.rows_per_tile = (uint32_t)mfi_max(mfi_min(share, MFK_ATTEND_ROWS), 1);
    return t;
}

void mfi_run_attend(const mf_executor *e, const mfi_op *op, uint32_t thread)
{
    tiling t = tiling_of(e, op, thread);
    if (t.n_span > 0) each_tile(&t, t.split ? run_spans : run_whole);
}

void mfi_run_merge(const mf_executor *e, const mfi_op *op, uint32_t thread)
{
    tiling t = tiling_of(e, op, thread);
    if (t.split) each_tile(&t, merge_spans);
}
