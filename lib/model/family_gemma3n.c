/* family_gemma3n.c - the decoder of Gemma 3n: streams that predict and correct each other around a layer (AltUp), a
 * low-rank path beside attention (LAuReL), embeddings of each layer's own, gates cut off by their deviation, and layers
 * that read another's keys and values. docs/families.md has the equations. */
#include <math.h>
#include <stdio.h>

#include "compile.h"
#include "defs.h"

/* A layer has up to 48 operations and three for each stream, with 9 matrices that are not the FFN's; around the layers
 * are 8, and six for each stream. */
const mfi_family_sizes mfi_gemma3n_sizes = { 48 + 3 * MFI_MAX_STREAM, 8 + 6 * MFI_MAX_STREAM, 41 + 3 * MFI_MAX_STREAM,
                                             9, 2 * MFI_MAX_STREAM };

static const float square_root_of_half = 0.707106781f;

/* x: the streams; p: what they are predicted to be; e: the embedding; normed: whatever is added next. */
typedef struct buffers {
    uint16_t e, x[MFI_MAX_STREAM], p[MFI_MAX_STREAM], projected[MFI_MAX_STREAM], e_q8;
    uint16_t routed, modality, coefficient, normed, residual;
    uint16_t attn_in, q, k, v, attn, y_attn, left, laurel;
    uint16_t ple_in, ple_raw, ple, ple_scaled, ple_gate, ple_gated, y_ple;
    uint16_t ffn_in, gate, hidden, y_ffn;
    uint16_t out_in, out_projected, out_normed, out_sum, out;
    uint16_t attn_in_q8, attn_q8, left_q8, ple_in_q8, ple_scaled_q8, ple_gated_q8, ffn_in_q8, hidden_q8, out_in_q8,
        out_q8; /* quantized */
} buffers;

static const mfi_tensor *need_vector(mfi_compiler *c, uint32_t layer, const char *rest, uint64_t n)
{
    char name[64];
    mfi_layer_name(name, layer, rest);
    return mfi_need_vector(c, name, n);
}

static void add_norm(mfi_compiler *c, mfi_rows rows, uint32_t layer, const char *rest, uint16_t src, uint16_t dst)
{
    char name[64];
    mfi_layer_name(name, layer, rest);
    mfi_add_norm(c, rows, layer, name, src, dst);
}

/* dst = scale * src, or dst += scale * src. */
static void add_scaled(mfi_compiler *c, mfi_op_kind kind, mfi_rows rows, uint32_t layer, float scale, uint16_t src,
                       uint16_t dst)
{
    mfi_program_op(c->program, kind, rows, layer, src, dst)->scale = scale;
}

/* A product of one layer's matrix, its input quantized where that is wanted. */
static void add_product(mfi_compiler *c, uint32_t layer, const char *rest, uint64_t n, uint64_t k, uint16_t src,
                        uint16_t src_q8, uint16_t dst)
{
    mfi_op *op = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_ATTN, layer, src, dst);
    mfi_add_part(c, op, layer, rest, n, k, dst, MFI_EXTENT_FULL);
    mfi_quantize_input(c, op, src_q8, MFI_EXTENT_FULL);
}

static mfi_op *add_matvec(mfi_compiler *c, uint32_t layer, const char *rest, uint64_t n, uint16_t src, uint16_t dst)
{
    mfi_op *op = mfi_program_op(c->program, MFI_OP_MATVEC, MFI_ROWS_ATTN, layer, src, dst);
    op->weight = need_vector(c, layer, rest, n * c->program->buffer[src].width);
    return op;
}

/* The modalities of `src`, and coefficients [n] from them. */
static mfi_op *add_router(mfi_compiler *c, uint32_t layer, const buffers *b, uint16_t src, const char *rest, uint32_t n)
{
    add_norm(c, MFI_ROWS_ATTN, layer, "altup.router_norm", src, b->routed);
    mfi_op *modality = add_matvec(c, layer, "altup.router", c->config->gemma3n.n_stream, b->routed, b->modality);
    modality->scale = 1.0f / (float)c->config->d_model;
    modality->activated = true;
    modality->activation = MFK_TANH;
    return add_matvec(c, layer, rest, n, b->modality, b->coefficient);
}

/* dst = src + sum of coefficients, from `at` on, times streams [n]. */
static void add_combine(mfi_compiler *c, uint32_t layer, const buffers *b, uint16_t src, uint16_t dst, uint32_t at,
                        const uint16_t *stream, uint32_t n)
{
    mfi_op *op = mfi_program_op(c->program, MFI_OP_COMBINE, MFI_ROWS_ATTN, layer, src, dst);
    op->coefficient = b->coefficient;
    op->coefficient_at = (uint16_t)at;
    op->n_stream = (uint16_t)n;
    for (uint32_t i = 0; i < n; i++)
        op->stream[i] = stream[i];
}

static void add_prediction(mfi_compiler *c, uint32_t layer, const buffers *b)
{
    const mfi_gemma3n *g = &c->config->gemma3n;
    add_router(c, layer, b, b->x[g->active], "altup.predict", g->n_stream * g->n_stream);
    for (uint32_t i = 0; i < g->n_stream; i++)
        add_combine(c, layer, b, b->x[i], b->p[i], i * g->n_stream, b->x, g->n_stream);
}

/* `residual` is what the layer made of the active stream, and becomes what it changed. */
static void add_correction(mfi_compiler *c, uint32_t layer, const buffers *b)
{
    const mfi_gemma3n *g = &c->config->gemma3n;
    mfi_op *coefficients = add_router(c, layer, b, b->residual, "altup.correct", g->n_stream);
    coefficients->offset = 1.0f;
    coefficients->clip = g->coef_clip;
    add_scaled(c, MFI_OP_ADD, MFI_ROWS_ATTN, layer, -1.0f, b->p[g->active], b->residual);
    for (uint32_t i = 0; i < g->n_stream; i++)
        add_combine(c, layer, b, b->p[i], b->x[i], i, &b->residual, 1);
}

static void add_heads(mfi_compiler *c, uint32_t layer, uint16_t buffer, const char *norm, bool rotated, mfi_extent n_of)
{
    mfi_op *op = mfi_program_op(c->program, MFI_OP_HEAD_NORM, MFI_ROWS_ATTN, layer, buffer, buffer);
    op->eps = c->config->norm_eps;
    op->n_of = n_of;
    if (norm != NULL) op->weight = need_vector(c, layer, norm, c->config->d_head);
    if (!rotated) return;
    op = mfi_program_op(c->program, MFI_OP_ROPE, MFI_ROWS_ATTN, layer, buffer, buffer);
    op->n_of = n_of;
    op->rotation = c->config->window[layer] != 0;
}

static void add_attention(mfi_compiler *c, uint32_t layer, const buffers *b)
{
    const mfi_config *config = c->config;
    mfi_program *program = c->program;
    const uint32_t n_head = program->layer[layer].n_head, slot = program->layer[layer].slot;
    const bool owns = program->slot_layer[slot] == layer;
    const uint64_t n_q = (uint64_t)n_head * config->d_head, d_model = config->d_model;
    const uint64_t n_kv = (uint64_t)mfi_kv_heads(n_head, config->head_group) * config->d_head;
    const uint32_t rank = config->gemma3n.laurel_rank;

    add_norm(c, MFI_ROWS_ATTN, layer, "attn_norm", b->p[config->gemma3n.active], b->attn_in);
    add_product(c, layer, "ple.project", config->gemma3n.d_ple, d_model, b->ple_in, b->ple_in_q8, b->ple_raw);
    mfi_op *op = mfi_program_op(program, MFI_OP_GEMM, MFI_ROWS_ATTN, layer, b->attn_in, b->q);
    mfi_add_part(c, op, layer, "attn.q", n_q, d_model, b->q, MFI_EXTENT_HEADS);
    if (owns) {
        mfi_add_part(c, op, layer, "attn.k", n_kv, d_model, b->k, MFI_EXTENT_KV_HEADS);
        mfi_add_part(c, op, layer, "attn.v", n_kv, d_model, b->v, MFI_EXTENT_KV_HEADS);
    }
    mfi_add_part(c, op, layer, "laurel.left", rank, d_model, b->left, MFI_EXTENT_FULL);
    mfi_quantize_input(c, op, b->attn_in_q8, MFI_EXTENT_FULL);
    add_product(c, layer, "laurel.right", d_model, rank, b->left, b->left_q8, b->laurel);

    add_heads(c, layer, b->q, "attn.q_norm.weight", true, MFI_EXTENT_HEADS);
    if (owns) {
        add_heads(c, layer, b->k, "attn.k_norm.weight", true, MFI_EXTENT_KV_HEADS);
        add_heads(c, layer, b->v, NULL, false, MFI_EXTENT_KV_HEADS);
        mfi_op *store = mfi_program_op(program, MFI_OP_STORE, MFI_ROWS_ATTN, layer, b->k, b->k);
        store->src2 = b->v;
        store->slot = slot;
    }
    mfi_program_attend(program, layer, slot, b->q, b->attn, config->attention_scale, config->window[layer]);
    op = mfi_program_op(program, MFI_OP_GEMM, MFI_ROWS_ATTN, layer, b->attn, b->y_attn);
    op->k_of = MFI_EXTENT_HEADS;
    mfi_add_part(c, op, layer, "attn.o", d_model, n_q, b->y_attn, MFI_EXTENT_FULL);
    mfi_quantize_input(c, op, b->attn_q8, MFI_EXTENT_HEADS);

    /* What LAuReL adds to is its own input, which nobody needs any more. */
    add_norm(c, MFI_ROWS_ATTN, layer, "laurel.norm", b->laurel, b->normed);
    add_scaled(c, MFI_OP_ADD, MFI_ROWS_ATTN, layer, 1.0f, b->normed, b->attn_in);
    add_norm(c, MFI_ROWS_ATTN, layer, "attn_post_norm", b->y_attn, b->normed);
    add_scaled(c, MFI_OP_COPY, MFI_ROWS_ATTN, layer, square_root_of_half, b->p[config->gemma3n.active], b->residual);
    add_scaled(c, MFI_OP_ADD, MFI_ROWS_ATTN, layer, square_root_of_half, b->normed, b->residual);
    add_scaled(c, MFI_OP_ADD, MFI_ROWS_ATTN, layer, square_root_of_half, b->attn_in, b->residual);
}

/* Gates that need a statistic of the whole row: the products first. */
static void add_sparse(mfi_compiler *c, uint32_t layer, const buffers *b)
{
    mfi_op *op = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_FFN, layer, b->ffn_in, b->gate);
    mfi_add_shells(c, op, layer, "ffn.gate_up", true, b->gate);
    mfi_add_shells(c, op, layer, "ffn.gate_up", true, b->hidden);
    op->part[1].matrix = 1;
    mfi_quantize_input(c, op, b->ffn_in_q8, MFI_EXTENT_FULL);
    op = mfi_program_op(c->program, MFI_OP_SPARSE, MFI_ROWS_FFN, layer, b->gate, b->hidden);
    op->activation = c->config->activation;
    op->sparsity = c->config->sparsity[layer];
}

static void add_ffn(mfi_compiler *c, uint32_t layer, const buffers *b)
{
    add_norm(c, MFI_ROWS_FFN, layer, "ffn_norm", b->residual, b->ffn_in);
    if (c->config->sparsity[layer] != 0) {
        add_sparse(c, layer, b);
    } else {
        mfi_op *glu = mfi_program_op(c->program, MFI_OP_GLU, MFI_ROWS_FFN, layer, b->ffn_in, b->hidden);
        glu->activation = c->config->activation;
        mfi_add_shells(c, glu, layer, "ffn.gate_up", true, b->hidden);
        mfi_quantize_input(c, glu, b->ffn_in_q8, MFI_EXTENT_FULL);
    }
    mfi_add_down(c, layer, &c->program->op[c->program->n_op - 1], b->hidden, b->hidden_q8, b->y_ffn);
    add_norm(c, MFI_ROWS_FFN, layer, "ffn_post_norm", b->y_ffn, b->normed);
    add_scaled(c, MFI_OP_ADD, MFI_ROWS_ATTN, layer, 1.0f, b->normed, b->residual);
}

/* The layer's own embedding of the token: its projection of `e`, and its columns of the table. */
static void add_layer_embedding(mfi_compiler *c, uint32_t layer, const buffers *b, const mfi_tensor *table)
{
    mfi_add_norm(c, MFI_ROWS_ATTN, layer, "ple.norm", b->ple_raw, b->ple);
    mfi_op *op = mfi_program_op(c->program, MFI_OP_LOOKUP, MFI_ROWS_ATTN, layer, b->ple, b->ple);
    op->table = table;
    op->scale = square_root_of_half;
    op->table_scale = (float)sqrt((double)c->config->gemma3n.d_ple);
}

/* What it adds, to all streams but the first. */
static void add_injection(mfi_compiler *c, uint32_t layer, const buffers *b)
{
    const mfi_gemma3n *g = &c->config->gemma3n;
    const mfi_op_kind kind = g->correct_scale ? MFI_OP_MUL : MFI_OP_COPY;
    mfi_op *op = mfi_program_op(c->program, kind, MFI_ROWS_ATTN, layer, b->x[g->active], b->ple_scaled);
    if (g->correct_scale) op->weight = need_vector(c, layer, "altup.correct_scale", c->config->d_model);
    op = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_ATTN, layer, b->ple_scaled, b->ple_gate);
    op->activated = true;
    op->activation = c->config->activation;
    mfi_add_part(c, op, layer, "ple.gate", g->d_ple, c->config->d_model, b->ple_gate, MFI_EXTENT_FULL);
    mfi_quantize_input(c, op, b->ple_scaled_q8, MFI_EXTENT_FULL);
    op = mfi_program_op(c->program, MFI_OP_MUL, MFI_ROWS_ATTN, layer, b->ple_gate, b->ple_gated);
    op->src2 = b->ple;
    add_product(c, layer, "ple.out", c->config->d_model, g->d_ple, b->ple_gated, b->ple_gated_q8, b->y_ple);
    add_norm(c, MFI_ROWS_ATTN, layer, "ple.post_norm", b->y_ple, b->normed);
    for (uint32_t i = 1; i < g->n_stream; i++)
        add_scaled(c, MFI_OP_ADD, MFI_ROWS_ATTN, layer, 1.0f, b->normed, b->x[i]);
}

static const mfi_tensor *need_projection(mfi_compiler *c, const char *what, uint32_t stream)
{
    char name[64];
    snprintf(name, sizeof name, "altup.%s.%u", what, stream - 1);
    return mfi_need(c, name, 0, MFI_PANEL, c->config->d_model, c->config->d_model, 1);
}

/* dst = src, as large as the first stream. */
static void add_match(mfi_compiler *c, mfi_rows rows, uint32_t layer, const buffers *b, uint16_t src, uint16_t dst)
{
    mfi_op *op = mfi_program_op(c->program, MFI_OP_MATCH, rows, layer, src, dst);
    op->src2 = b->x[0];
    op->eps = 1e-5f;
}

/* The embedding, and the streams that begin with it. */
static const mfi_tensor *add_input(mfi_compiler *c, const buffers *b)
{
    const mfi_config *config = c->config;
    mfi_op *embed = mfi_program_op(c->program, MFI_OP_EMBED, MFI_ROWS_ALL, 0, b->e, b->e);
    embed->scale = config->embed_scale;
    embed->table = mfi_need(c, "embed", 0, MFI_PANEL, config->n_vocab, config->d_model, 1);
    mfi_program_op(c->program, MFI_OP_COPY, MFI_ROWS_ALL, 0, b->e, b->x[0]);
    if (config->gemma3n.n_stream == 1) return embed->table;
    mfi_op *op = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_ALL, 0, b->e, b->projected[1]);
    for (uint32_t i = 1; i < config->gemma3n.n_stream; i++) {
        const mfi_tensor *matrix = need_projection(c, "project", i);
        if (matrix != NULL) mfi_program_part(c->program, op, &matrix, 1, b->projected[i], MFI_EXTENT_FULL);
    }
    mfi_quantize_input(c, op, b->e_q8, MFI_EXTENT_FULL);
    for (uint32_t i = 1; i < config->gemma3n.n_stream; i++)
        add_match(c, MFI_ROWS_ALL, 0, b, b->projected[i], b->x[i]);
    return embed->table;
}

/* The mean of the streams, and logits. */
static void add_output(mfi_compiler *c, const buffers *b, const mfi_tensor *embed)
{
    const uint32_t n_layer = c->config->n_layer, n_stream = c->config->gemma3n.n_stream;
    const float share = 1.0f / (float)n_stream;
    add_scaled(c, MFI_OP_COPY, MFI_ROWS_OUT, n_layer, share, b->x[0], b->out_sum);
    for (uint32_t i = 1; i < n_stream; i++) {
        const mfi_tensor *matrix = need_projection(c, "unembed", i);
        if (matrix == NULL) return;
        mfi_program_op(c->program, MFI_OP_COPY, MFI_ROWS_OUT, n_layer, b->x[i], b->out_in);
        mfi_op *op = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_OUT, n_layer, b->out_in, b->out_projected);
        mfi_program_part(c->program, op, &matrix, 1, b->out_projected, MFI_EXTENT_FULL);
        mfi_quantize_input(c, op, b->out_in_q8, MFI_EXTENT_FULL);
        add_match(c, MFI_ROWS_OUT, n_layer, b, b->out_projected, b->out_normed);
        add_scaled(c, MFI_OP_ADD, MFI_ROWS_OUT, n_layer, share, b->out_normed, b->out_sum);
    }
    mfi_add_norm(c, MFI_ROWS_OUT, n_layer, "final_norm", b->out_sum, b->out);
    if (embed == NULL) return;
    mfi_op *output = mfi_program_op(c->program, MFI_OP_OUTPUT, MFI_ROWS_OUT, n_layer, b->out, b->out);
    output->softcap = c->config->logit_softcap;
    mfi_program_part(c->program, output, &embed, 1, b->out, MFI_EXTENT_FULL);
    mfi_quantize_input(c, output, b->out_q8, MFI_EXTENT_FULL);
}

static void set_buffers(mfi_compiler *c, buffers *b)
{
    const mfi_config *config = c->config;
    const bool quantized = mfi_has_quantized(c->container);
    const uint32_t d_model = config->d_model, n_stream = config->gemma3n.n_stream, d_ple = config->gemma3n.d_ple;
    const uint32_t q = config->n_head * config->d_head, rank = config->gemma3n.laurel_rank;
    const uint32_t kv = mfi_kv_heads(config->n_head, config->head_group) * config->d_head;
    const struct {
        uint16_t *buffer;
        mfi_rows rows;
        uint32_t width;
    } plain[] = {
        { &b->e, MFI_ROWS_ALL, d_model },
        { &b->routed, MFI_ROWS_ATTN, d_model },
        { &b->modality, MFI_ROWS_ATTN, n_stream },
        { &b->coefficient, MFI_ROWS_ATTN, n_stream * n_stream },
        { &b->normed, MFI_ROWS_ATTN, d_model },
        { &b->residual, MFI_ROWS_ATTN, d_model },
        { &b->attn_in, MFI_ROWS_ATTN, d_model },
        { &b->q, MFI_ROWS_ATTN, q },
        { &b->k, MFI_ROWS_ATTN, kv },
        { &b->v, MFI_ROWS_ATTN, kv },
        { &b->attn, MFI_ROWS_ATTN, q },
        { &b->y_attn, MFI_ROWS_ATTN, d_model },
        { &b->left, MFI_ROWS_ATTN, rank },
        { &b->laurel, MFI_ROWS_ATTN, d_model },
        { &b->ple_in, MFI_ROWS_ATTN, d_model },
        { &b->ple_raw, MFI_ROWS_ATTN, d_ple },
        { &b->ple, MFI_ROWS_ATTN, d_ple },
        { &b->ple_scaled, MFI_ROWS_ATTN, d_model },
        { &b->ple_gate, MFI_ROWS_ATTN, d_ple },
        { &b->ple_gated, MFI_ROWS_ATTN, d_ple },
        { &b->y_ple, MFI_ROWS_ATTN, d_model },
        { &b->ffn_in, MFI_ROWS_FFN, d_model },
        { &b->gate, MFI_ROWS_FFN, config->d_ff },
        { &b->hidden, MFI_ROWS_FFN, config->d_ff },
        { &b->y_ffn, MFI_ROWS_FFN, d_model },
        { &b->out_in, MFI_ROWS_OUT, d_model },
        { &b->out_projected, MFI_ROWS_OUT, d_model },
        { &b->out_normed, MFI_ROWS_OUT, d_model },
        { &b->out_sum, MFI_ROWS_OUT, d_model },
        { &b->out, MFI_ROWS_OUT, d_model },
    }, eight_bit[] = {
        { &b->e_q8, MFI_ROWS_ALL, d_model },
        { &b->attn_in_q8, MFI_ROWS_ATTN, d_model },
        { &b->attn_q8, MFI_ROWS_ATTN, q },
        { &b->left_q8, MFI_ROWS_ATTN, rank },
        { &b->ple_in_q8, MFI_ROWS_ATTN, d_model },
        { &b->ple_scaled_q8, MFI_ROWS_ATTN, d_model },
        { &b->ple_gated_q8, MFI_ROWS_ATTN, d_ple },
        { &b->ffn_in_q8, MFI_ROWS_FFN, d_model },
        { &b->hidden_q8, MFI_ROWS_FFN, config->d_ff },
        { &b->out_in_q8, MFI_ROWS_OUT, d_model },
        { &b->out_q8, MFI_ROWS_OUT, d_model },
    };
    for (size_t i = 0; i < MFI_COUNT(plain); i++)
        *plain[i].buffer = mfi_program_buffer(c->program, plain[i].rows, plain[i].width);
    for (size_t i = 0; i < MFI_COUNT(eight_bit); i++)
        *eight_bit[i].buffer =
            mfi_program_quantized_buffer(c->program, eight_bit[i].rows, quantized ? eight_bit[i].width : 0);
    for (uint32_t i = 0; i < n_stream; i++) {
        b->x[i] = mfi_program_buffer(c->program, MFI_ROWS_ALL, d_model);
        b->p[i] = mfi_program_buffer(c->program, MFI_ROWS_ATTN, d_model);
        b->projected[i] = mfi_program_buffer(c->program, MFI_ROWS_ALL, i == 0 ? 0 : d_model);
    }
}

void mfi_compile_gemma3n(mfi_compiler *c)
{
    const mfi_config *config = c->config;
    buffers b;
    set_buffers(c, &b);
    c->program->rope_freqs[0] = mfi_need_vector(c, "rope.freqs", config->d_head / 2);
    c->program->rope_freqs[1] = mfi_need_vector(c, "rope.freqs_local", config->d_head / 2);
    const mfi_tensor *table = mfi_need(c, "ple.table", 0, MFI_TABLE, config->gemma3n.n_vocab_ple,
                                       (uint64_t)config->n_layer * config->gemma3n.d_ple, 1);
    const mfi_tensor *embed = add_input(c, &b);
    const float ple_scale = (float)(1.0 / sqrt((double)config->d_model));
    for (uint32_t layer = 0; layer < config->n_layer && c->status == MF_OK; layer++) {
        add_scaled(c, MFI_OP_COPY, MFI_ROWS_ATTN, layer, ple_scale, b.e, b.ple_in);
        add_prediction(c, layer, &b);
        add_attention(c, layer, &b);
        add_ffn(c, layer, &b);
        add_correction(c, layer, &b);
        add_layer_embedding(c, layer, &b, table);
        add_injection(c, layer, &b);
    }
    add_output(c, &b, embed);
}
