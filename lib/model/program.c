/* program.c - building an operation list. Knows nothing of any family. */
#include "program.h"

#include <string.h>

#include "arena.h"
#include "defs.h"
#include "status.h"

static size_t shell_bound_count(const mfi_program *program)
{
    return (size_t)program->n_shell * program->n_layer;
}

mf_status mfi_program_create(mfi_program **out, const mf_allocator *allocator, const mfi_program_sizes *sizes,
                             mf_error *error)
{
    *out = NULL;
    mfi_program *program = mfi_alloc(allocator, sizeof *program);
    if (program == NULL) return mfi_fail(error, MF_E_NOMEM, "no memory for the operation list");
    program->allocator = *allocator;
    program->n_layer = sizes->n_layer;
    program->n_shell = sizes->n_shell;
    program->op_capacity = sizes->max_op;
    program->buffer_capacity = sizes->max_buffer;
    program->piece_capacity = sizes->max_piece;
    program->layer = mfi_alloc_array(allocator, sizes->n_layer, sizeof *program->layer);
    program->slot_layer = mfi_alloc_array(allocator, sizes->n_layer, sizeof *program->slot_layer);
    program->shell_bound = mfi_alloc_array(allocator, shell_bound_count(program), sizeof *program->shell_bound);
    program->op = mfi_alloc_array(allocator, sizes->max_op, sizeof *program->op);
    program->buffer = mfi_alloc_array(allocator, sizes->max_buffer, sizeof *program->buffer);
    program->piece = mfi_alloc_array(allocator, sizes->max_piece, sizeof *program->piece);
    bool complete = true;
    for (uint32_t c = 0; c < MFI_N_CUT; c++) {
        program->stages[c].begin = mfi_alloc_array(allocator, sizes->max_op + 1, sizeof(uint32_t));
        complete = complete && program->stages[c].begin != NULL;
    }
    if (!complete || !program->layer || !program->slot_layer || !program->shell_bound || !program->op ||
        !program->buffer || !program->piece) {
        mfi_program_free(program);
        return mfi_fail(error, MF_E_NOMEM, "no memory for an operation list of %u layers", sizes->n_layer);
    }
    *out = program;
    return MF_OK;
}

void mfi_program_free(mfi_program *program)
{
    if (program == NULL) return;
    const mf_allocator allocator = program->allocator;
    mfi_free(&allocator, program->layer, program->n_layer * sizeof *program->layer);
    mfi_free(&allocator, program->slot_layer, program->n_layer * sizeof *program->slot_layer);
    mfi_free(&allocator, program->shell_bound, shell_bound_count(program) * sizeof *program->shell_bound);
    mfi_free(&allocator, program->op, program->op_capacity * sizeof *program->op);
    for (uint32_t c = 0; c < MFI_N_CUT; c++)
        mfi_free(&allocator, program->stages[c].begin, (program->op_capacity + 1) * sizeof(uint32_t));
    mfi_free(&allocator, program->buffer, program->buffer_capacity * sizeof *program->buffer);
    mfi_free(&allocator, program->piece, program->piece_capacity * sizeof *program->piece);
    mfi_free(&allocator, program->slope, (size_t)program->n_layer * program->n_slope * sizeof *program->slope);
    mfi_free(&allocator, program, sizeof *program);
}

/* Past a capacity the count goes on, and finish sees it; what was added is lost. */
uint16_t mfi_program_buffer(mfi_program *program, mfi_rows rows, uint32_t width)
{
    const uint32_t index = program->n_buffer++;
    if (index < program->buffer_capacity) program->buffer[index] = (mfi_buffer){ rows, width, 0 };
    return (uint16_t)index;
}

uint16_t mfi_program_quantized_buffer(mfi_program *program, mfi_rows rows, uint32_t width)
{
    const uint32_t blocks = (width + MFK_BLOCK - 1) / MFK_BLOCK;
    return mfi_program_buffer(program, rows, blocks * (uint32_t)(sizeof(mfk_q8_block) / sizeof(float)));
}

mfi_op *mfi_program_op(mfi_program *program, mfi_op_kind kind, mfi_rows rows, uint32_t layer, uint16_t src,
                       uint16_t dst)
{
    const uint32_t index = program->n_op++;
    mfi_op *op = &program->op[index < program->op_capacity ? index : program->op_capacity - 1];
    *op = (mfi_op){ .kind = kind, .rows = rows, .layer = layer, .src = src, .dst = dst, .scale = 1.0f };
    return op;
}

void mfi_program_attend(mfi_program *program, uint32_t layer, uint32_t slot, uint16_t src, uint16_t dst, float scale,
                        uint32_t window)
{
    for (int i = 0; i < 2; i++) {
        mfi_op *op = mfi_program_op(program, i == 0 ? MFI_OP_ATTEND : MFI_OP_MERGE, MFI_ROWS_ATTN, layer, src, dst);
        op->slot = slot;
        op->scale = scale;
        op->window = window;
    }
}

mf_status mfi_program_slopes(mfi_program *program, float alibi_max, mf_error *error)
{
    for (uint32_t layer = 0; layer < program->n_layer; layer++)
        program->n_slope = (uint32_t)mfi_max(program->n_slope, program->layer[layer].n_head);
    const size_t n = (size_t)program->n_layer * program->n_slope;
    program->slope = mfi_alloc_array(&program->allocator, n, sizeof *program->slope);
    if (program->slope == NULL) return mfi_fail(error, MF_E_NOMEM, "no memory for the slopes of %zu heads", n);
    for (uint32_t layer = 0; layer < program->n_layer; layer++)
        for (uint32_t head = 0; head < program->layer[layer].n_head; head++)
            program->slope[(size_t)layer * program->n_slope + head] =
                mfk_alibi_slope(alibi_max, head, program->layer[layer].n_head);
    return MF_OK;
}

void mfi_program_part(mfi_program *program, mfi_op *op, const mfi_tensor *const *piece, uint32_t n_shell, uint16_t dst,
                      mfi_extent n_of)
{
    if (program->n_piece + n_shell > program->piece_capacity || op->n_part == MFI_MAX_PART) {
        program->n_piece = program->piece_capacity + 1;
        return;
    }
    const mfi_tensor **copy = program->piece + program->n_piece;
    memcpy(copy, piece, n_shell * sizeof *piece);
    program->n_piece += n_shell;
    op->part[op->n_part++] = (mfi_part){ .piece = copy, .n_shell = n_shell, .dst = dst, .n_of = n_of };
}

/* ---- Stages ---- */

/* Which part of its work an operation gives to a thread. */
typedef enum share { SHARE_ROWS, SHARE_ALL, SHARE_HEADS, SHARE_COLUMNS, SHARE_TILES } share;

/* What is not a buffer. */
enum { CACHE = UINT16_MAX, ROTATION = UINT16_MAX - 1, SPANS = UINT16_MAX - 2 };

typedef struct access {
    uint16_t buffer;
    bool writes;
    share share;
} access;

enum { MAX_ACCESS = 5 + MFI_MAX_STREAM + MFI_MAX_PART };

static share share_of(const mfi_program *program, const mfi_op *op, mfi_cut cut)
{
    switch (op->kind) {
    case MFI_OP_GEMM:
    case MFI_OP_GLU:
    case MFI_OP_OUTPUT:
        return SHARE_COLUMNS;
    case MFI_OP_ATTEND:
    case MFI_OP_MERGE:
        return cut == MFI_CUT_HEADS ? SHARE_HEADS : SHARE_TILES;
    case MFI_OP_HEAD_NORM:
    case MFI_OP_ROPE:
    case MFI_OP_STORE:
        return cut == MFI_CUT_HEADS ? SHARE_HEADS : SHARE_ROWS;
    default:
        return cut != MFI_CUT_ROWS && program->buffer[op->dst].copied ? SHARE_ALL : SHARE_ROWS;
    }
}

/* What `op` reads and writes; src2 where it is not used is buffer 0, a read too many. */
static uint32_t list_accesses(const mfi_op *op, share part, access *list)
{
    uint32_t n = 0;
    if (op->kind != MFI_OP_EMBED) list[n++] = (access){ op->src, false, part };
    list[n++] = (access){ op->src2, false, part };
    if (op->kind == MFI_OP_COMBINE) list[n++] = (access){ op->coefficient, false, part };
    for (uint32_t i = 0; i < op->n_stream; i++)
        list[n++] = (access){ op->stream[i], false, part };
    if (op->kind == MFI_OP_EMBED) list[n++] = (access){ ROTATION, true, SHARE_ROWS };
    if (op->kind == MFI_OP_ROPE) list[n++] = (access){ ROTATION, false, part };
    if (op->kind == MFI_OP_STORE || op->kind == MFI_OP_ATTEND)
        list[n++] = (access){ CACHE, op->kind == MFI_OP_STORE, part };
    if (op->kind == MFI_OP_ATTEND || op->kind == MFI_OP_MERGE)
        list[n++] = (access){ SPANS, op->kind == MFI_OP_ATTEND, part };
    for (uint32_t i = 0; i < op->n_part && op->kind != MFI_OP_OUTPUT; i++)
        list[n++] = (access){ op->part[i].dst, true, part };
    if (op->n_part == 0 && op->kind != MFI_OP_STORE) list[n++] = (access){ op->dst, true, part };
    return n;
}

/* Whether a thread's part of `after` may depend on another thread's part of `before`. Threads have the same rows in
 * every operation, and the same heads in those of a layer; nothing is said of columns and tiles. */
static bool conflict(const mfi_program *program, mfi_cut cut, const mfi_op *before, const mfi_op *after)
{
    access first[MAX_ACCESS], second[MAX_ACCESS];
    const share share_before = share_of(program, before, cut), share_after = share_of(program, after, cut);
    const uint32_t n_first = list_accesses(before, share_before, first);
    const uint32_t n_second = list_accesses(after, share_after, second);
    for (uint32_t i = 0; i < n_first; i++)
        for (uint32_t j = 0; j < n_second; j++) {
            const access *x = &first[i], *y = &second[j];
            const bool own = cut != MFI_CUT_ROWS && x->buffer < program->n_buffer && program->buffer[x->buffer].copied;
            const bool same_part = x->share == y->share && (x->share == SHARE_ROWS ||
                                                            (x->share == SHARE_HEADS && before->layer == after->layer));
            if (x->buffer == y->buffer && (x->writes || y->writes) && !own && !same_part) return true;
        }
    return false;
}

/* A stage goes on as long as no operation depends on one that is in it. */
static void lay_out_stages(mfi_program *program, mfi_cut cut)
{
    mfi_stages *stages = &program->stages[cut];
    stages->begin[0] = stages->n_stage = 0;
    for (uint32_t i = 0; i < program->n_op; i++) {
        bool meet = false;
        for (uint32_t j = stages->begin[stages->n_stage]; j < i; j++)
            meet = meet || conflict(program, cut, &program->op[j], &program->op[i]);
        if (meet) stages->begin[++stages->n_stage] = i;
    }
    stages->begin[++stages->n_stage] = program->n_op;
}

static void find_tail(mfi_program *program)
{
    for (uint32_t i = 0; i < program->n_op; i++)
        if (program->op[i].kind == MFI_OP_STORE) program->tail_layer = program->op[i].layer + 1;
}

static void find_copied(mfi_program *program)
{
    for (uint32_t i = 0; i < program->n_op; i++)
        program->buffer[program->op[i].dst].copied = true;
    for (uint32_t i = 0; i < program->n_op; i++) {
        const mfi_op *op = &program->op[i];
        for (uint32_t p = 0; p < op->n_part && op->kind != MFI_OP_OUTPUT; p++)
            program->buffer[op->part[p].dst].copied = false;
        if (op->kind == MFI_OP_HEAD_NORM || op->kind == MFI_OP_ROPE || op->kind == MFI_OP_ATTEND)
            program->buffer[op->dst].copied = false;
    }
}

mf_status mfi_program_finish(mfi_program *program, mf_error *error)
{
    if (program->n_op == 0 || program->n_op > program->op_capacity || program->n_buffer > program->buffer_capacity ||
        program->n_piece > program->piece_capacity)
        return mfi_fail(error, MF_E_FORMAT, "the model's operation list outgrew its family's bounds");
    for (uint32_t i = 0; i < program->n_buffer; i++) {
        /* Rows a multiple of 4 KiB apart would all fall into one set of the first-level cache. */
        size_t stride = mfi_round_up(program->buffer[i].width, MFI_LINE / sizeof(float));
        if (stride % 1024 == 0) stride += MFI_LINE / sizeof(float);
        program->buffer[i].stride = (uint32_t)stride;
    }
    find_tail(program);
    find_copied(program);
    for (uint32_t cut = 0; cut < MFI_N_CUT; cut++)
        lay_out_stages(program, (mfi_cut)cut);
    return MF_OK;
}

uint32_t mfi_program_shells(const mfi_program *program, uint32_t layer, uint32_t ffn)
{
    uint32_t n_shell = 1;
    while (program->shell_bound[(n_shell - 1) * program->n_layer + layer] < ffn)
        n_shell++;
    return n_shell;
}
