/* family_decoder.c - MatLM, Llama and MatFormer-OLMo (model_config.h): one decoder in three habits. */
#include <stdio.h>

#include "compile.h"
#include "defs.h"

/* A layer has at most 16 operations, of them 4 products that are not the FFN's. */
const mfi_family_sizes mfi_decoder_sizes = { 18, 4, 16, 4, 1 };

typedef struct buffers {
    uint16_t x, attn_in, q, k, v, attn, ffn_in, hidden, y_attn, y_ffn, out;
    uint16_t attn_in_q8, attn_q8, ffn_in_q8, hidden_q8, out_q8; /* quantized */
} buffers;

static void add_attention(mfi_compiler *c, uint32_t layer, const buffers *b)
{
    const mfi_config *config = c->config;
    const uint32_t n_head = config->granularity[config->n_granularity - 1].heads[layer];
    const uint64_t n_q = (uint64_t)n_head * config->d_head;
    const uint64_t n_kv = (uint64_t)mfi_kv_heads(n_head, config->head_group) * config->d_head;
    char name[64];

    mfi_layer_name(name, layer, "attn_norm");
    mfi_add_norm(c, MFI_ROWS_ATTN, layer, name, b->x, b->attn_in);

    mfi_op *qkv = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_ATTN, layer, b->attn_in, b->q);
    qkv->k_of = MFI_EXTENT_FULL;
    mfi_add_part(c, qkv, layer, "attn.q", n_q, config->d_model, b->q, MFI_EXTENT_HEADS);
    mfi_add_part(c, qkv, layer, "attn.k", n_kv, config->d_model, b->k, MFI_EXTENT_KV_HEADS);
    mfi_add_part(c, qkv, layer, "attn.v", n_kv, config->d_model, b->v, MFI_EXTENT_KV_HEADS);
    mfi_quantize_input(c, qkv, b->attn_in_q8, MFI_EXTENT_FULL);

    if (c->program->rope_freqs[0] != NULL) {
        mfi_program_op(c->program, MFI_OP_ROPE, MFI_ROWS_ATTN, layer, b->q, b->q)->n_of = MFI_EXTENT_HEADS;
        mfi_program_op(c->program, MFI_OP_ROPE, MFI_ROWS_ATTN, layer, b->k, b->k)->n_of = MFI_EXTENT_KV_HEADS;
    }
    mfi_op *store = mfi_program_op(c->program, MFI_OP_STORE, MFI_ROWS_ATTN, layer, b->k, b->k);
    store->src2 = b->v;
    store->slot = c->program->layer[layer].slot;
    mfi_program_attend(c->program, layer, store->slot, b->q, b->attn, config->attention_scale, config->window[layer]);

    mfi_op *o = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_ATTN, layer, b->attn, b->y_attn);
    o->k_of = MFI_EXTENT_HEADS;
    mfi_add_part(c, o, layer, "attn.o", config->d_model, n_q, b->y_attn, MFI_EXTENT_FULL);
    mfi_quantize_input(c, o, b->attn_q8, MFI_EXTENT_HEADS);
    mfi_program_op(c->program, MFI_OP_ADD, MFI_ROWS_ATTN, layer, b->y_attn, b->x);
}

static void add_ffn(mfi_compiler *c, uint32_t layer, const buffers *b)
{
    const bool gated = c->config->ffn == MFI_FFN_GATED;
    char name[64];
    mfi_layer_name(name, layer, "ffn_norm");
    mfi_add_norm(c, MFI_ROWS_FFN, layer, name, b->x, b->ffn_in);

    const mfi_op_kind kind = gated ? MFI_OP_GLU : MFI_OP_GEMM;
    mfi_op *up = mfi_program_op(c->program, kind, MFI_ROWS_FFN, layer, b->ffn_in, b->hidden);
    up->activation = c->config->activation;
    up->activated = true;
    mfi_add_shells(c, up, layer, gated ? "ffn.gate_up" : "ffn.up", true, b->hidden);
    mfi_quantize_input(c, up, b->ffn_in_q8, MFI_EXTENT_FULL);
    up = &c->program->op[c->program->n_op - 1];

    mfi_op *down = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_FFN, layer, b->hidden, b->y_ffn);
    down->k_of = MFI_EXTENT_FFN;
    mfi_add_shells(c, down, layer, "ffn.down", false, b->y_ffn);
    if (gated && mfi_quantized_share(down) == MFI_SHARE_ALL) { /* straight from the activation */
        up->quantized = true;
        up->part[0].dst = down->src2 = b->hidden_q8;
    } else {
        mfi_quantize_input(c, down, b->hidden_q8, MFI_EXTENT_FFN);
    }
    mfi_program_op(c->program, MFI_OP_ADD, MFI_ROWS_FFN, layer, b->y_ffn, b->x);
}

void mfi_compile_decoder(mfi_compiler *c)
{
    const mfi_config *config = c->config;
    mfi_program *program = c->program;
    if (config->rope_theta > 0) program->rope_freqs[0] = mfi_need_vector(c, "rope.freqs", config->d_head / 2);
    const uint32_t kv = mfi_kv_heads(config->n_head, config->head_group) * config->d_head;
    const uint32_t q = config->n_head * config->d_head;
    const bool quantized = mfi_has_quantized(c->container);
    const buffers b = {
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
        .out = mfi_program_buffer(program, MFI_ROWS_OUT, config->d_model),
        .attn_in_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_ATTN, quantized ? config->d_model : 0),
        .attn_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_ATTN, quantized ? q : 0),
        .ffn_in_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_FFN, quantized ? config->d_model : 0),
        .hidden_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_FFN, quantized ? config->d_ff : 0),
        .out_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_OUT, quantized ? config->d_model : 0),
    };
    mfi_op *embed = mfi_program_op(program, MFI_OP_EMBED, MFI_ROWS_ALL, 0, b.x, b.x);
    embed->scale = config->embed_scale;
    embed->table = mfi_need(c, "embed", 0, config->tied ? MFI_PANEL : MFI_TABLE, config->n_vocab, config->d_model, 1);
    for (uint32_t layer = 0; layer < config->n_layer && c->status == MF_OK; layer++) {
        add_attention(c, layer, &b);
        add_ffn(c, layer, &b);
    }
    mfi_add_norm(c, MFI_ROWS_OUT, config->n_layer, "final_norm", b.x, b.out);
    mfi_op *output = mfi_program_op(program, MFI_OP_OUTPUT, MFI_ROWS_OUT, config->n_layer, b.out, b.out);
    const mfi_tensor *matrix =
        config->tied ? embed->table : mfi_need(c, "output", 0, MFI_PANEL, config->n_vocab, config->d_model, 1);
    if (matrix == NULL) return;
    mfi_program_part(program, output, &matrix, 1, b.out, MFI_EXTENT_FULL);
    mfi_quantize_input(c, output, b.out_q8, MFI_EXTENT_FULL);
}
