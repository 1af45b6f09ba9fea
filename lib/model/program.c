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
    program->stage = mfi_alloc_array(allocator, sizes->max_op + 1, sizeof *program->stage);
    program->buffer = mfi_alloc_array(allocator, sizes->max_buffer, sizeof *program->buffer);
    program->piece = mfi_alloc_array(allocator, sizes->max_piece, sizeof *program->piece);
    if (!program->layer || !program->slot_layer || !program->shell_bound || !program->op || !program->stage ||
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
    mfi_free(&allocator, program->stage, (program->op_capacity + 1) * sizeof *program->stage);
    mfi_free(&allocator, program->buffer, program->buffer_capacity * sizeof *program->buffer);
    mfi_free(&allocator, program->piece, program->piece_capacity * sizeof *program->piece);
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
    op->part[op->n_part++] = (mfi_part){ copy, n_shell, dst, n_of };
}

/* Operations that treat each row apart; all of them give thread t the same rows of ALL. */
static bool is_row_wise(mfi_op_kind kind)
{
    switch (kind) {
    case MFI_OP_EMBED:
    case MFI_OP_COPY:
    case MFI_OP_NORM:
    case MFI_OP_QUANTIZE:
    case MFI_OP_ADD:
    case MFI_OP_COMBINE:
    case MFI_OP_ROPE:
    case MFI_OP_STORE:
        return true;
    default:
        return false;
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
    for (uint32_t i = 1; i < program->n_op; i++)
        if (!is_row_wise(program->op[i].kind) || !is_row_wise(program->op[i - 1].kind))
            program->stage[++program->n_stage] = i;
    program->stage[++program->n_stage] = program->n_op;
    return MF_OK;
}

uint32_t mfi_program_shells(const mfi_program *program, uint32_t layer, uint32_t ffn)
{
    uint32_t n_shell = 1;
    while (program->shell_bound[(n_shell - 1) * program->n_layer + layer] < ffn)
        n_shell++;
    return n_shell;
}
