/* family_matlm.c - the MatLM decoder (matlm_config.h): its configuration from a file, and its compilation
 * to operations. Tensors are matched to roles here and their extents checked once; nothing above looks at a
 * size again. */
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "model.h"
#include "status.h"

/* ---- Configuration ---- */

static const char *const known_keys[] = {
    "family",     "n_layer",       "d_model",       "d_head",      "n_vocab",         "max_positions",
    "n_head",     "d_ff",          "head_group",    "norm",        "norm_eps",        "ffn",
    "activation", "rope_theta",    "tied",          "embed_scale", "attention_scale", "bos_token",
    "eos_token",  "n_granularity", "granularity.*", "may_skip",    "window",
};

bool mfi_matlm_key_known(const char *key)
{
    return mfi_container_key_known(key, known_keys, MFI_COUNT(known_keys));
}

typedef struct reader {
    const mfi_container *container;
    mf_error *error;
    mf_status status; /* the first failure */
} reader;

static void fail_key(reader *r, const char *key, const char *what)
{
    if (r->status == MF_OK)
        r->status =
            mfi_fail(r->error, MF_E_FORMAT, "%s: metadata \"%s\" %s", mfi_container_name(r->container), key, what);
}

static uint32_t read_u32(reader *r, const char *key, uint32_t max)
{
    uint64_t value = 0;
    if (!mfi_container_u64(r->container, key, &value))
        fail_key(r, key, "is missing or not an integer");
    else if (value > max)
        fail_key(r, key, "is too large");
    return r->status == MF_OK ? (uint32_t)value : 0;
}

static double read_f64(reader *r, const char *key)
{
    double value = 0;
    if (!mfi_container_f64(r->container, key, &value)) fail_key(r, key, "is missing or not a number");
    return value;
}

static int32_t read_token(reader *r, const char *key)
{
    uint64_t value;
    if (!mfi_container_u64(r->container, key, &value)) return -1;
    return (int32_t)read_u32(r, key, INT32_MAX);
}

static const uint32_t *read_per_layer(reader *r, const char *key, uint32_t n_layer)
{
    const uint32_t *values = NULL;
    size_t count = 0;
    if (!mfi_container_u32s(r->container, key, &values, &count) || count != n_layer) {
        fail_key(r, key, "is missing or not one integer per layer");
        return NULL;
    }
    return values;
}

static void read_granularity(reader *r, mfi_matlm_config *config, uint32_t g)
{
    char key[40];
    mfi_granularity *granularity = &config->granularity[g];
    const char *name = NULL;
    snprintf(key, sizeof key, "granularity.%u.name", g);
    if (!mfi_container_text(r->container, key, &name) || strlen(name) >= sizeof granularity->name)
        fail_key(r, key, "is missing or too long");
    else
        snprintf(granularity->name, sizeof granularity->name, "%s", name);

    snprintf(key, sizeof key, "granularity.%u.ffn", g);
    const uint32_t *values = read_per_layer(r, key, config->n_layer);
    if (values != NULL) memcpy(granularity->ffn, values, config->n_layer * sizeof *values);
    snprintf(key, sizeof key, "granularity.%u.heads", g);
    values = read_per_layer(r, key, config->n_layer);
    if (values != NULL) memcpy(granularity->heads, values, config->n_layer * sizeof *values);
}

static void read_scalars(reader *r, mfi_matlm_config *config)
{
    config->n_layer = read_u32(r, "n_layer", MFI_MAX_LAYER);
    config->n_granularity = read_u32(r, "n_granularity", MFI_MAX_GRANULARITY);
    config->d_model = read_u32(r, "d_model", INT32_MAX);
    config->d_head = read_u32(r, "d_head", INT32_MAX);
    config->n_vocab = read_u32(r, "n_vocab", INT32_MAX);
    config->max_positions = read_u32(r, "max_positions", INT32_MAX);
    config->n_head = read_u32(r, "n_head", INT32_MAX);
    config->d_ff = read_u32(r, "d_ff", INT32_MAX);
    config->head_group = read_u32(r, "head_group", INT32_MAX);
    config->norm = (mfi_norm)read_u32(r, "norm", MFI_NORM_LAYER);
    config->norm_eps = (float)read_f64(r, "norm_eps");
    config->ffn = (mfi_ffn)read_u32(r, "ffn", MFI_FFN_PLAIN);
    config->activation = (mfk_activation)read_u32(r, "activation", MFK_TANH);
    config->rope_theta = read_f64(r, "rope_theta");
    config->embed_scale = (float)read_f64(r, "embed_scale");
    config->attention_scale = (float)read_f64(r, "attention_scale");
    config->tied = read_u32(r, "tied", 1) != 0;
    config->bos_token = read_token(r, "bos_token");
    config->eos_token = read_token(r, "eos_token");
}

mf_status mfi_matlm_read_config(mfi_matlm_config *config, const mfi_container *container, const mf_allocator *allocator,
                                mf_error *error)
{
    reader r = { container, error, mfi_container_check_keys(container, known_keys, MFI_COUNT(known_keys), error) };
    if (r.status == MF_OK) read_scalars(&r, config);
    if (r.status == MF_OK && (config->n_layer == 0 || config->n_granularity == 0))
        fail_key(&r, "n_layer", "or n_granularity is 0");
    if (r.status == MF_OK) r.status = mfi_matlm_config_alloc(config, allocator, error);
    if (r.status != MF_OK) {
        *config = (mfi_matlm_config){ 0 }; /* nothing was allocated: free must not look for it */
        return r.status;
    }
    for (uint32_t g = 0; g < config->n_granularity; g++)
        read_granularity(&r, config, g);
    const uint32_t *may_skip = read_per_layer(&r, "may_skip", config->n_layer);
    for (uint32_t layer = 0; may_skip != NULL && layer < config->n_layer; layer++)
        config->may_skip[layer] = may_skip[layer] != 0;
    const bool slides = mfi_container_has(container, "window");
    const uint32_t *window = slides ? read_per_layer(&r, "window", config->n_layer) : NULL;
    if (window != NULL) memcpy(config->window, window, config->n_layer * sizeof *window);
    if (r.status != MF_OK) return r.status;

    mf_error reason = MF_ERROR_INIT;
    if (mfi_matlm_config_check(config, &reason) == MF_OK) return MF_OK;
    return mfi_fail(error, MF_E_FORMAT, "%s: %s", mfi_container_name(container), reason.detail);
}

/* ---- Compilation ---- */

typedef struct compiler {
    const mfi_matlm_config *config;
    const mfi_container *container;
    mfi_program *program;
    mf_error *error;
    mf_status status; /* the first failure; later steps do nothing harmful */
} compiler;

/* The tensor `name` of shell `shell`, which must have these extents; NULL after recording a failure. `matrices`:
 * how many a PANEL tensor interleaves. */
static const mfi_tensor *need(compiler *c, const char *name, uint32_t shell, mfi_tensor_kind kind, uint64_t n,
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

static const mfi_tensor *need_vector(compiler *c, const char *name, uint64_t n)
{
    return need(c, name, 0, MFI_PLAIN, n, 1, 1);
}

static void layer_name(char out[64], uint32_t layer, const char *rest)
{
    snprintf(out, 64, "layers.%u.%s", layer, rest);
}

static void add_norm(compiler *c, mfi_rows rows, uint32_t layer, const char *name, uint16_t src, uint16_t dst)
{
    char full[80];
    mfi_op *op = mfi_program_op(c->program, MFI_OP_NORM, rows, layer, src, dst);
    op->norm = c->config->norm;
    op->eps = c->config->norm_eps;
    snprintf(full, sizeof full, "%s.weight", name);
    op->weight = need_vector(c, full, c->config->d_model);
    if (c->config->norm == MFI_NORM_LAYER) {
        snprintf(full, sizeof full, "%s.bias", name);
        op->bias = need_vector(c, full, c->config->d_model);
    }
}

/* A product with a matrix that is whole in the base region. */
static void add_part(compiler *c, mfi_op *op, uint32_t layer, const char *rest, uint64_t n, uint64_t k, uint16_t dst,
                     mfi_extent n_of)
{
    char name[64];
    layer_name(name, layer, rest);
    const mfi_tensor *piece = need(c, name, 0, MFI_PANEL, n, k, 1);
    if (piece != NULL) mfi_program_part(c->program, op, &piece, 1, dst, n_of);
}

typedef struct buffers {
    uint16_t x, attn_in, q, k, v, attn, ffn_in, hidden, y_attn, y_ffn, out;
    uint16_t attn_in_q8, attn_q8, ffn_in_q8, hidden_q8, out_q8; /* quantized */
} buffers;

/* How many of a product's pieces want their input quantized: none, some or all. */
typedef enum share { SHARE_NONE, SHARE_SOME, SHARE_ALL } share;

static share quantized_share(const mfi_op *op)
{
    uint32_t n_quantized = 0, n_piece = 0;
    for (uint32_t p = 0; p < op->n_part; p++) {
        for (uint32_t s = 0; s < op->part[p].n_shell; s++) {
            const mfi_tensor *piece = op->part[p].piece[s];
            n_piece += piece != NULL;
            n_quantized += piece != NULL && mfk_type_quantized(piece->type);
        }
    }
    return n_quantized == 0 ? SHARE_NONE : n_quantized == n_piece ? SHARE_ALL : SHARE_SOME;
}

/* The input of the product `op`, which is the last operation, quantized just before it, if some piece wants that. */
static void quantize_input(compiler *c, mfi_op *op, uint16_t quantized, mfi_extent extent)
{
    if (quantized_share(op) == SHARE_NONE) return;
    const mfi_op product = *op;
    *op = (mfi_op){ .kind = MFI_OP_QUANTIZE, .rows = product.rows, .layer = product.layer, .scale = 1.0f };
    op->src = product.src;
    op->dst = quantized;
    op->n_of = extent;
    mfi_op *moved = mfi_program_op(c->program, product.kind, product.rows, product.layer, product.src, product.dst);
    *moved = product;
    moved->src2 = quantized;
}

static void add_attention(compiler *c, uint32_t layer, const buffers *b)
{
    const mfi_matlm_config *config = c->config;
    const uint32_t n_head = config->granularity[config->n_granularity - 1].heads[layer];
    const uint64_t n_q = (uint64_t)n_head * config->d_head;
    const uint64_t n_kv = (uint64_t)mfi_kv_heads(n_head, config->head_group) * config->d_head;
    char name[64];

    layer_name(name, layer, "attn_norm");
    add_norm(c, MFI_ROWS_ATTN, layer, name, b->x, b->attn_in);

    mfi_op *qkv = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_ATTN, layer, b->attn_in, b->q);
    qkv->k_of = MFI_EXTENT_FULL;
    add_part(c, qkv, layer, "attn.q", n_q, config->d_model, b->q, MFI_EXTENT_HEADS);
    add_part(c, qkv, layer, "attn.k", n_kv, config->d_model, b->k, MFI_EXTENT_KV_HEADS);
    add_part(c, qkv, layer, "attn.v", n_kv, config->d_model, b->v, MFI_EXTENT_KV_HEADS);
    quantize_input(c, qkv, b->attn_in_q8, MFI_EXTENT_FULL);

    if (c->program->rope_freqs != NULL) {
        mfi_program_op(c->program, MFI_OP_ROPE, MFI_ROWS_ATTN, layer, b->q, b->q)->n_of = MFI_EXTENT_HEADS;
        mfi_program_op(c->program, MFI_OP_ROPE, MFI_ROWS_ATTN, layer, b->k, b->k)->n_of = MFI_EXTENT_KV_HEADS;
    }
    mfi_op *store = mfi_program_op(c->program, MFI_OP_STORE, MFI_ROWS_ATTN, layer, b->k, b->k);
    store->src2 = b->v;
    store->slot = layer;
    mfi_program_attend(c->program, layer, layer, b->q, b->attn, config->attention_scale, config->window[layer]);

    mfi_op *o = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_ATTN, layer, b->attn, b->y_attn);
    o->k_of = MFI_EXTENT_HEADS;
    add_part(c, o, layer, "attn.o", config->d_model, n_q, b->y_attn, MFI_EXTENT_FULL);
    quantize_input(c, o, b->attn_q8, MFI_EXTENT_HEADS);
    mfi_program_op(c->program, MFI_OP_ADD, MFI_ROWS_ATTN, layer, b->y_attn, b->x);
}

/* The pieces that the shells hold of one FFN matrix of a layer; their widths must be those of `bound`. */
static void add_shells(compiler *c, mfi_op *op, uint32_t layer, const char *rest, bool along_n, uint16_t dst)
{
    const mfi_program *program = c->program;
    const mfi_tensor *piece[MFI_MAX_GRANULARITY] = { NULL };
    char name[64];
    layer_name(name, layer, rest);
    for (uint32_t s = 0, begin = 0; s < program->n_shell; s++) {
        const uint32_t end = program->shell_bound[s * program->n_layer + layer];
        const uint64_t d_model = c->config->d_model, width = end - begin;
        if (width > 0)
            piece[s] = need(c, name, s, MFI_PANEL, along_n ? width : d_model, along_n ? d_model : width,
                            op->kind == MFI_OP_GLU ? 2 : 1);
        begin = end;
    }
    mfi_program_part(c->program, op, piece, program->n_shell, dst, along_n ? MFI_EXTENT_FFN : MFI_EXTENT_FULL);
}

static void add_ffn(compiler *c, uint32_t layer, const buffers *b)
{
    const bool gated = c->config->ffn == MFI_FFN_GATED;
    char name[64];
    layer_name(name, layer, "ffn_norm");
    add_norm(c, MFI_ROWS_FFN, layer, name, b->x, b->ffn_in);

    const mfi_op_kind kind = gated ? MFI_OP_GLU : MFI_OP_GEMM;
    mfi_op *up = mfi_program_op(c->program, kind, MFI_ROWS_FFN, layer, b->ffn_in, b->hidden);
    up->activation = c->config->activation;
    up->activated = true;
    add_shells(c, up, layer, gated ? "ffn.gate_up" : "ffn.up", true, b->hidden);
    quantize_input(c, up, b->ffn_in_q8, MFI_EXTENT_FULL);
    up = &c->program->op[c->program->n_op - 1];

    mfi_op *down = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_FFN, layer, b->hidden, b->y_ffn);
    down->k_of = MFI_EXTENT_FFN;
    add_shells(c, down, layer, "ffn.down", false, b->y_ffn);
    if (gated && quantized_share(down) == SHARE_ALL) { /* straight from the activation */
        up->quantized = true;
        up->part[0].dst = down->src2 = b->hidden_q8;
    } else {
        quantize_input(c, down, b->hidden_q8, MFI_EXTENT_FFN);
    }
    mfi_program_op(c->program, MFI_OP_ADD, MFI_ROWS_FFN, layer, b->y_ffn, b->x);
}

/* Cumulative widths by shell, from the pieces that the directory lists; the last must be the full width. */
static void read_shell_bounds(compiler *c)
{
    mfi_program *program = c->program;
    const char *rest = c->config->ffn == MFI_FFN_GATED ? "ffn.gate_up" : "ffn.up";
    for (uint32_t layer = 0; layer < program->n_layer && c->status == MF_OK; layer++) {
        uint64_t bound = 0;
        char name[64];
        layer_name(name, layer, rest);
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

/* Whether some product wants its input quantized; else the buffers for that are empty. */
static bool has_quantized(const mfi_container *container)
{
    for (uint32_t i = 0; i < mfi_container_tensor_count(container); i++)
        if (mfk_type_quantized(mfi_container_tensor(container, i)->type)) return true;
    return false;
}

static void add_layers(compiler *c)
{
    const mfi_matlm_config *config = c->config;
    mfi_program *program = c->program;
    const uint32_t kv = mfi_kv_heads(config->n_head, config->head_group) * config->d_head;
    const uint32_t q = config->n_head * config->d_head;
    const bool quantized = has_quantized(c->container);
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
    embed->table = need(c, "embed", 0, config->tied ? MFI_PANEL : MFI_TABLE, config->n_vocab, config->d_model, 1);
    for (uint32_t layer = 0; layer < config->n_layer && c->status == MF_OK; layer++) {
        add_attention(c, layer, &b);
        add_ffn(c, layer, &b);
    }
    add_norm(c, MFI_ROWS_OUT, config->n_layer, "final_norm", b.x, b.out);
    mfi_op *output = mfi_program_op(program, MFI_OP_OUTPUT, MFI_ROWS_OUT, config->n_layer, b.out, b.out);
    const mfi_tensor *matrix =
        config->tied ? embed->table : need(c, "output", 0, MFI_PANEL, config->n_vocab, config->d_model, 1);
    if (matrix == NULL) return;
    mfi_program_part(program, output, &matrix, 1, b.out, MFI_EXTENT_FULL);
    quantize_input(c, output, b.out_q8, MFI_EXTENT_FULL);
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

mf_status mfi_matlm_compile(mfi_program **out, const mfi_matlm_config *config, const mfi_container *container,
                            const mf_allocator *allocator, mf_error *error)
{
    *out = NULL;
    const uint32_t last = last_shell(container);
    if (last >= MFI_MAX_GRANULARITY)
        return mfi_fail(error, MF_E_FORMAT, "%s: it has shell %u, but shells end at %u", mfi_container_name(container),
                        last, MFI_MAX_GRANULARITY - 1);
    const uint32_t n_shell = last + 1;
    /* A layer has at most 16 operations and 4 + 2 * n_shell pieces; the ends have four and one. */
    const mfi_program_sizes sizes = { config->n_layer, n_shell, config->n_layer * 18 + 4, 16,
                                      config->n_layer * (4 + 2 * n_shell) + 1 };
    compiler c = { config, container, NULL, error, MF_OK };
    mf_status status = mfi_program_create(&c.program, allocator, &sizes, error);
    if (status != MF_OK) return status;

    mfi_program *program = c.program;
    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    program->d_model = config->d_model;
    program->d_head = config->d_head;
    program->head_group = config->head_group;
    program->n_vocab = config->n_vocab;
    program->n_slot = config->n_layer;
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        program->layer[layer] = (mfi_layer){ full->ffn[layer], full->heads[layer], config->may_skip[layer] != 0 };
        program->slot_layer[layer] = layer;
    }
    if (config->rope_theta > 0) program->rope_freqs = need_vector(&c, "rope.freqs", config->d_head / 2);
    read_shell_bounds(&c);
    if (c.status == MF_OK) add_layers(&c);
    if (c.status == MF_OK) c.status = mfi_program_finish(program, error);
    if (c.status != MF_OK) {
        mfi_program_free(program);
        return c.status;
    }
    *out = program;
    return MF_OK;
}
