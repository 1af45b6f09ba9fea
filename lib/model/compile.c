/* compile.c - a configuration to its program: what families share. */
#include "compile.h"

#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "status.h"

const mfi_tensor *mfi_need(mfi_compiler *c, const char *name, uint32_t shell, mfi_tensor_kind kind, uint64_t n,
                           uint64_t k, uint32_t matrices)
{
    if (c->status != MF_OK) return NULL;
    const mfi_tensor *tensor = mfi_container_find(c->container, name, shell);
    const char *file = mfi_container_name(c->container);
    const uint64_t panels = kind == MFI_PANEL ? matrices * ((n + MFK_NR - 1) / MFK_NR) : 0;
    if (tensor == NULL) {
        c->status = mfi_fail(c->error, MF_E_FORMAT, "%s: tensor %s (shell %u) is missing", file, name, shell);
        return NULL;
    }
    if (tensor->kind != kind || tensor->n != n || tensor->k != k) {
        c->status =
            mfi_fail(c->error, MF_E_FORMAT, "%s: tensor %s is %llu x %llu, but the configuration asks for %llu x %llu",
                     file, name, (unsigned long long)tensor->n, (unsigned long long)tensor->k, (unsigned long long)n,
                     (unsigned long long)k);
        return NULL;
    }
    if (tensor->panels != panels) {
        c->status = mfi_fail(c->error, MF_E_FORMAT, "%s: tensor %s has %llu panels, but its layout asks for %llu", file,
                             name, (unsigned long long)tensor->panels, (unsigned long long)panels);
        return NULL;
    }
    /* So that it is in memory whenever its shell is. */
    if (mfi_container_region(c->container, tensor->region)->shell > shell) {
        c->status = mfi_fail(c->error, MF_E_FORMAT, "%s: tensor %s (shell %u) is in the region of a wider shell", file,
                             name, shell);
        return NULL;
    }
    if (tensor->type != MFK_F32 && (kind == MFI_PLAIN || tensor->type > MFK_Q4)) {
        c->status = mfi_fail(c->error, MF_E_UNSUPPORTED,
                             "%s: tensor %s has element type %d, which this version cannot compute with", file, name,
                             (int)tensor->type);
        return NULL;
    }
    return tensor;
}

const mfi_tensor *mfi_need_vector(mfi_compiler *c, const char *name, uint64_t n)
{
    return mfi_need(c, name, 0, MFI_PLAIN, n, 1, 1);
}

void mfi_layer_name(char out[64], uint32_t layer, const char *rest)
{
    snprintf(out, 64, "layers.%u.%s", layer, rest);
}

void mfi_add_norm(mfi_compiler *c, mfi_rows rows, uint32_t layer, const char *name, uint16_t src, uint16_t dst)
{
    char full[80];
    mfi_op *op = mfi_program_op(c->program, MFI_OP_NORM, rows, layer, src, dst);
    op->norm = c->config->norm;
    op->eps = c->config->norm_eps;
    snprintf(full, sizeof full, "%s.weight", name);
    op->weight = mfi_need_vector(c, full, c->program->buffer[src].width);
    if (c->config->norm == MFI_NORM_LAYER) {
        snprintf(full, sizeof full, "%s.bias", name);
        op->bias = mfi_need_vector(c, full, c->program->buffer[src].width);
    }
}

void mfi_add_part(mfi_compiler *c, mfi_op *op, uint32_t layer, const char *rest, uint64_t n, uint64_t k, uint16_t dst,
                  mfi_extent n_of)
{
    char name[64];
    mfi_layer_name(name, layer, rest);
    const mfi_tensor *piece = mfi_need(c, name, 0, MFI_PANEL, n, k, 1);
    if (piece != NULL) mfi_program_part(c->program, op, &piece, 1, dst, n_of);
}

void mfi_add_bias(mfi_compiler *c, mfi_op *op, const char *name, uint64_t n)
{
    char full[80];
    snprintf(full, sizeof full, "%s.bias", name);
    const mfi_tensor *bias = mfi_need_vector(c, full, n);
    if (op->n_part > 0) op->part[op->n_part - 1].bias = bias;
}

mfi_share mfi_quantized_share(const mfi_op *op)
{
    uint32_t n_quantized = 0, n_piece = 0;
    for (uint32_t p = 0; p < op->n_part; p++) {
        for (uint32_t s = 0; s < op->part[p].n_shell; s++) {
            const mfi_tensor *piece = op->part[p].piece[s];
            n_piece += piece != NULL;
            n_quantized += piece != NULL && mfk_type_quantized(piece->type);
        }
    }
    return n_quantized == 0 ? MFI_SHARE_NONE : n_quantized == n_piece ? MFI_SHARE_ALL : MFI_SHARE_SOME;
}

void mfi_quantize_input(mfi_compiler *c, mfi_op *op, uint16_t quantized, mfi_extent extent)
{
    if (mfi_quantized_share(op) == MFI_SHARE_NONE) return;
    const mfi_op product = *op;
    *op = (mfi_op){ .kind = MFI_OP_QUANTIZE, .rows = product.rows, .layer = product.layer, .scale = 1.0f };
    op->src = product.src;
    op->dst = quantized;
    op->n_of = extent;
    mfi_op *moved = mfi_program_op(c->program, product.kind, product.rows, product.layer, product.src, product.dst);
    *moved = product;
    moved->src2 = quantized;
}

void mfi_add_shells(mfi_compiler *c, mfi_op *op, uint32_t layer, const char *rest, bool along_n, uint16_t dst)
{
    const mfi_program *program = c->program;
    const mfi_tensor *piece[MFI_MAX_GRANULARITY] = { NULL };
    const uint32_t matrices = along_n && c->config->ffn == MFI_FFN_GATED ? 2 : 1;
    char name[64];
    mfi_layer_name(name, layer, rest);
    for (uint32_t s = 0, begin = 0; s < program->n_shell; s++) {
        const uint32_t end = program->shell_bound[s * program->n_layer + layer];
        const uint64_t d_model = c->config->d_model, width = end - begin;
        if (width > 0)
            piece[s] = mfi_need(c, name, s, MFI_PANEL, along_n ? width : d_model, along_n ? d_model : width, matrices);
        begin = end;
    }
    mfi_program_part(c->program, op, piece, program->n_shell, dst, along_n ? MFI_EXTENT_FFN : MFI_EXTENT_FULL);
}

void mfi_add_down(mfi_compiler *c, uint32_t layer, mfi_op *up, uint16_t hidden, uint16_t hidden_q8, uint16_t dst)
{
    char name[64];
    mfi_op *down = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_FFN, layer, hidden, dst);
    down->k_of = MFI_EXTENT_FFN;
    mfi_add_shells(c, down, layer, "ffn.down", false, dst);
    mfi_layer_name(name, layer, "ffn.down");
    if (c->config->ffn_bias) mfi_add_bias(c, down, name, c->config->d_model);
    if (up->kind == MFI_OP_GLU && mfi_quantized_share(down) == MFI_SHARE_ALL) { /* straight from the activation */
        up->quantized = true;
        up->part[0].dst = down->src2 = hidden_q8;
    } else {
        mfi_quantize_input(c, down, hidden_q8, MFI_EXTENT_FFN);
    }
}

bool mfi_has_quantized(const mfi_container *container)
{
    for (uint32_t i = 0; i < mfi_container_tensor_count(container); i++)
        if (mfk_type_quantized(mfi_container_tensor(container, i)->type)) return true;
    return false;
}

/* Cumulative widths by shell, from the pieces that the directory lists; the last must be the full width. */
static void read_shell_bounds(mfi_compiler *c)
{
    mfi_program *program = c->program;
    const char *rest = c->config->ffn == MFI_FFN_GATED ? "ffn.gate_up" : "ffn.up";
    for (uint32_t layer = 0; layer < program->n_layer && c->status == MF_OK; layer++) {
        uint64_t bound = 0;
        char name[64];
        mfi_layer_name(name, layer, rest);
        for (uint32_t s = 0; s < program->n_shell; s++) {
            const mfi_tensor *piece = mfi_container_find(c->container, name, s);
            bound += piece != NULL ? piece->n : 0;
            if (bound > program->layer[layer].d_ff || bound % MFI_QUANTUM != 0) break;
            program->shell_bound[s * program->n_layer + layer] = (uint32_t)bound;
        }
        if (bound != program->layer[layer].d_ff)
            c->status =
                mfi_fail(c->error, MF_E_FORMAT, "%s: the shells of %s hold %llu units, but the layer has %u",
                         mfi_container_name(c->container), name, (unsigned long long)bound, program->layer[layer].d_ff);
    }
}

static uint32_t last_shell(const mfi_container *container)
{
    uint32_t last = 0;
    for (uint32_t i = 0; i < mfi_container_region_count(container); i++) {
        const mfi_region *region = mfi_container_region(container, i);
        if (region->kind == MFI_REGION_SHELL && region->shell > last) last = region->shell;
    }
    return last;
}

static const mfi_family_sizes *sizes_of(mfi_family family)
{
    static const mfi_family_sizes *const sizes[MFI_N_FAMILY] = { &mfi_decoder_sizes, &mfi_decoder_sizes,
                                                                 &mfi_decoder_sizes, &mfi_gemma3n_sizes,
                                                                 &mfi_vit_sizes };
    return sizes[family];
}

static void compile_family(mfi_compiler *c)
{
    if (c->config->family == MFI_FAMILY_GEMMA3N)
        mfi_compile_gemma3n(c);
    else if (c->config->family == MFI_FAMILY_VIT)
        mfi_compile_vit(c);
    else
        mfi_compile_decoder(c);
}

/* Extents of views, and which layers own keys and values. */
static void set_layers(mfi_program *program, const mfi_config *config)
{
    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    program->d_model = config->d_model;
    program->d_head = config->d_head;
    program->head_group = config->head_group;
    program->n_vocab = config->n_vocab;
    program->n_slot = 0;
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        const bool owns = config->kv_layer[layer] == layer;
        const uint32_t slot = owns ? program->n_slot : program->layer[config->kv_layer[layer]].slot;
        program->layer[layer] = (mfi_layer){ full->ffn[layer], full->heads[layer], config->may_skip[layer] != 0, slot };
        if (owns) program->slot_layer[program->n_slot++] = layer;
    }
}

mf_status mfi_compile(mfi_program **out, const mfi_config *config, const mfi_container *container,
                      const mf_allocator *allocator, mf_error *error)
{
    *out = NULL;
    const uint32_t last = last_shell(container);
    if (last >= MFI_MAX_GRANULARITY)
        return mfi_fail(error, MF_E_FORMAT, "%s: it has shell %u, but shells end at %u", mfi_container_name(container),
                        last, MFI_MAX_GRANULARITY - 1);
    const uint32_t n_shell = last + 1, n_layer = config->n_layer;
    const mfi_family_sizes *family = sizes_of(config->family);
    const mfi_program_sizes sizes = { n_layer, n_shell, n_layer * family->op_per_layer + family->op_ends,
                                      family->buffer,
                                      n_layer * (family->piece_per_layer + 3 * n_shell) + family->piece_ends };
    mfi_compiler c = { config, container, NULL, error, MF_OK };
    mf_status status = mfi_program_create(&c.program, allocator, &sizes, error);
    if (status != MF_OK) return status;
    set_layers(c.program, config);
    read_shell_bounds(&c);
    if (c.status == MF_OK) compile_family(&c);
    if (c.status == MF_OK) c.status = mfi_program_finish(c.program, error);
    if (c.status != MF_OK) {
        mfi_program_free(c.program);
        return c.status;
    }
    *out = c.program;
    return MF_OK;
}
