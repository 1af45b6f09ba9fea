/* block.c - the block of attention and FFN that the decoder's families and ViT repeat (model_config.h). What is around
 * the blocks, and what a row sees, is theirs. */
#include "compile.h"

mfi_block mfi_block_buffers(mfi_compiler *c, bool quantized)
{
    const mfi_config *config = c->config;
    mfi_program *program = c->program;
    const uint32_t kv = mfi_kv_heads(config->n_head, config->head_group) * config->d_head;
    const uint32_t q = config->n_head * config->d_head;
    return (mfi_block){
        .x = mfi_program_buffer(program, MFI_ROWS_ALL, config->d_model),
        .attn_in = mfi_program_buffer(program, MFI_ROWS_ATTN, config->d_model),
        .q = mfi_program_buffer(program, MFI_ROWS_ATTN, q),
        .k = mfi_program_buffer(program, MFI_ROWS_ATTN, kv),
        .v = mfi_program_buffer(program, MFI_ROWS_ATTN, kv),
        .attn = mfi_program_buffer(program, MFI_ROWS_ATTN, q),
        .y_attn = mfi_program_buffer(program, MFI_ROWS_ATTN, config->d_model),
        .ffn_in = mfi_program_buffer(program, MFI_ROWS_FFN, config->d_model),
        .hidden = mfi_program_buffer(program, MFI_ROWS_FFN, config->d_ff),
        .y_ffn = mfi_program_buffer(program, MFI_ROWS_FFN, config->d_model),
        .attn_in_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_ATTN, quantized ? config->d_model : 0),
        .attn_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_ATTN, quantized ? q : 0),
        .ffn_in_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_FFN, quantized ? config->d_model : 0),
        .hidden_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_FFN, quantized ? config->d_ff : 0),
    };
}

static void add_norm(mfi_compiler *c, mfi_rows rows, uint32_t layer, const char *rest, uint16_t src, uint16_t dst)
{
    char name[64];
    mfi_layer_name(name, layer, rest);
    mfi_add_norm(c, rows, layer, name, src, dst);
}

static void add_bias(mfi_compiler *c, mfi_op *op, uint32_t layer, const char *rest, uint64_t n)
{
    char name[64];
    mfi_layer_name(name, layer, rest);
    mfi_add_bias(c, op, name, n);
}

/* A matrix of the attention, with its biases. */
static void add_part(mfi_compiler *c, mfi_op *op, uint32_t layer, const char *rest, uint64_t n, uint64_t k,
                     uint16_t dst, mfi_extent n_of)
{
    mfi_add_part(c, op, layer, rest, n, k, dst, n_of);
    if (c->config->attention_bias) add_bias(c, op, layer, rest, n);
}

static void add_qkv(mfi_compiler *c, const mfi_block *b, uint32_t layer)
{
    const mfi_config *config = c->config;
    const uint32_t n_head = c->program->layer[layer].n_head;
    const uint64_t n_q = (uint64_t)n_head * config->d_head;
    const uint64_t n_kv = (uint64_t)mfi_kv_heads(n_head, config->head_group) * config->d_head;
    mfi_op *qkv = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_ATTN, layer, b->attn_in, b->q);
    qkv->k_of = MFI_EXTENT_FULL;
    add_part(c, qkv, layer, "attn.q", n_q, config->d_model, b->q, MFI_EXTENT_HEADS);
    add_part(c, qkv, layer, "attn.k", n_kv, config->d_model, b->k, MFI_EXTENT_KV_HEADS);
    add_part(c, qkv, layer, "attn.v", n_kv, config->d_model, b->v, MFI_EXTENT_KV_HEADS);
    mfi_quantize_input(c, qkv, b->attn_in_q8, MFI_EXTENT_FULL);
}

static void add_attend(mfi_compiler *c, const mfi_block *b, uint32_t layer)
{
    const mfi_config *config = c->config;
    if (c->program->rope_freqs[0] != NULL) {
        mfi_program_op(c->program, MFI_OP_ROPE, MFI_ROWS_ATTN, layer, b->q, b->q)->n_of = MFI_EXTENT_HEADS;
        mfi_program_op(c->program, MFI_OP_ROPE, MFI_ROWS_ATTN, layer, b->k, b->k)->n_of = MFI_EXTENT_KV_HEADS;
    }
    mfi_op *store = mfi_program_op(c->program, MFI_OP_STORE, MFI_ROWS_ATTN, layer, b->k, b->k);
    store->src2 = b->v;
    store->slot = c->program->layer[layer].slot;
    mfi_program_attend(c->program, layer, store->slot, b->q, b->attn, config->attention_scale, config->window[layer]);
}

static void add_o(mfi_compiler *c, const mfi_block *b, uint32_t layer)
{
    const uint64_t n_q = (uint64_t)c->program->layer[layer].n_head * c->config->d_head;
    mfi_op *o = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_ATTN, layer, b->attn, b->y_attn);
    o->k_of = MFI_EXTENT_HEADS;
    add_part(c, o, layer, "attn.o", c->config->d_model, n_q, b->y_attn, MFI_EXTENT_FULL);
    mfi_quantize_input(c, o, b->attn_q8, MFI_EXTENT_HEADS);
}

/* To the hidden units. Returns the product, which stays where it is. */
static mfi_op *add_up(mfi_compiler *c, const mfi_block *b, uint32_t layer)
{
    const bool gated = c->config->ffn == MFI_FFN_GATED;
    const uint32_t d_ff = c->program->layer[layer].d_ff;
    const mfi_op_kind kind = gated ? MFI_OP_GLU : MFI_OP_GEMM;
    mfi_op *up = mfi_program_op(c->program, kind, MFI_ROWS_FFN, layer, b->ffn_in, b->hidden);
    up->activation = c->config->activation;
    up->activated = true;
    mfi_add_shells(c, up, layer, gated ? "ffn.gate_up" : "ffn.up", true, b->hidden);
    if (c->config->ffn_bias && gated) {
        add_bias(c, up, layer, "ffn.gate", d_ff);
        up->part[0].gate_bias = up->part[0].bias;
    }
    if (c->config->ffn_bias) add_bias(c, up, layer, "ffn.up", d_ff);
    mfi_quantize_input(c, up, b->ffn_in_q8, MFI_EXTENT_FULL);
    return &c->program->op[c->program->n_op - 1];
}

/* Both branches read x before either adds to it; and side by side, their products need fewer meetings of the threads. */
static void add_parallel(mfi_compiler *c, const mfi_block *b, uint32_t layer)
{
    add_norm(c, MFI_ROWS_ATTN, layer, "attn_norm", b->x, b->attn_in);
    add_norm(c, MFI_ROWS_FFN, layer, "attn_norm", b->x, b->ffn_in);
    add_qkv(c, b, layer);
    mfi_op *up = add_up(c, b, layer);
    add_attend(c, b, layer);
    add_o(c, b, layer);
    mfi_add_down(c, layer, up, b->hidden, b->hidden_q8, b->y_ffn);
    mfi_program_op(c->program, MFI_OP_ADD, MFI_ROWS_ATTN, layer, b->y_attn, b->x);
    mfi_program_op(c->program, MFI_OP_ADD, MFI_ROWS_FFN, layer, b->y_ffn, b->x);
}

void mfi_add_block(mfi_compiler *c, const mfi_block *b, uint32_t layer)
{
    if (c->config->parallel) {
        add_parallel(c, b, layer);
        return;
    }
    add_norm(c, MFI_ROWS_ATTN, layer, "attn_norm", b->x, b->attn_in);
    add_qkv(c, b, layer);
    add_attend(c, b, layer);
    add_o(c, b, layer);
    mfi_program_op(c->program, MFI_OP_ADD, MFI_ROWS_ATTN, layer, b->y_attn, b->x);
    add_norm(c, MFI_ROWS_FFN, layer, "ffn_norm", b->x, b->ffn_in);
    mfi_add_down(c, layer, add_up(c, b, layer), b->hidden, b->hidden_q8, b->y_ffn);
    mfi_program_op(c->program, MFI_OP_ADD, MFI_ROWS_FFN, layer, b->y_ffn, b->x);
}
