/* family_vit.c - ViT: an image's patches to rows, blocks in which every row sees every other, and heads on the class
 * row (docs/families.md). */
#include "compile.h"
#include "defs.h"

/* At the ends: patches, their quantization and product, places; the norm of the wanted rows and their output; the norm
 * of the class rows, and quantization, product and delivery of two heads. */
const mfi_family_sizes mfi_vit_sizes = { MFI_BLOCK_OPS, 13, MFI_BLOCK_BUFFERS + 7, 4, 3 };

static void add_product(mfi_compiler *c, mfi_op *op, const char *name, uint64_t n, uint64_t k, uint16_t dst)
{
    const mfi_tensor *piece = mfi_need(c, name, 0, MFI_PANEL, n, k, 1);
    if (piece != NULL) mfi_program_part(c->program, op, &piece, 1, dst, MFI_EXTENT_FULL);
}

/* A row of x from each patch, and from the class token. */
static void add_patches(mfi_compiler *c, uint16_t x, bool quantized)
{
    const mfi_config *config = c->config;
    const mfi_vit *vit = &config->vit;
    const uint32_t k = vit->n_channel * vit->patch_size * vit->patch_size;
    const uint32_t width = (uint32_t)mfi_round_up(k, MFK_K_ALIGN);
    const uint16_t pixels = mfi_program_buffer(c->program, MFI_ROWS_ALL, width);
    const uint16_t pixels_q8 = mfi_program_quantized_buffer(c->program, MFI_ROWS_ALL, quantized ? width : 0);
    mfi_program_op(c->program, MFI_OP_PATCH, MFI_ROWS_ALL, 0, pixels, pixels);
    mfi_op *project = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_ALL, 0, pixels, x);
    add_product(c, project, "patch.project", config->d_model, k, x);
    mfi_add_bias(c, project, "patch", config->d_model);
    mfi_quantize_input(c, project, pixels_q8, MFI_EXTENT_FULL);
    mfi_op *place = mfi_program_op(c->program, MFI_OP_PLACE, MFI_ROWS_ALL, 0, x, x);
    place->weight = mfi_need_vector(c, "position", (uint64_t)mfi_vit_rows(vit) * config->d_model);
    place->bias = mfi_need_vector(c, "class_token", config->d_model);
}

typedef struct heads {
    uint16_t in, in_q8, logits, pooled;
} heads;

static void add_head(mfi_compiler *c, const heads *b, const char *name, uint64_t n, bool pooled)
{
    const uint32_t end = c->config->n_layer;
    const uint16_t dst = pooled ? b->pooled : b->logits;
    mfi_op *product = mfi_program_op(c->program, MFI_OP_GEMM, MFI_ROWS_CLASS, end, b->in, dst);
    product->activation = MFK_TANH;
    product->activated = pooled;
    add_product(c, product, name, n, c->config->d_model, dst);
    mfi_add_bias(c, product, name, n);
    mfi_quantize_input(c, product, b->in_q8, MFI_EXTENT_FULL);
    mfi_program_op(c->program, MFI_OP_GIVE, MFI_ROWS_CLASS, end, dst, dst)->pooled = pooled;
}

void mfi_compile_vit(mfi_compiler *c)
{
    const mfi_config *config = c->config;
    mfi_program *program = c->program;
    const bool quantized = mfi_has_quantized(c->container);
    const mfi_block block = mfi_block_buffers(c, quantized);
    const uint16_t out = mfi_program_buffer(program, MFI_ROWS_OUT, config->d_model);
    const heads b = {
        .in = mfi_program_buffer(program, MFI_ROWS_CLASS, config->d_model),
        .in_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_CLASS, quantized ? config->d_model : 0),
        .logits = mfi_program_buffer(program, MFI_ROWS_CLASS, config->vit.n_class),
        .pooled = mfi_program_buffer(program, MFI_ROWS_CLASS, config->vit.pooler ? config->d_model : 0),
    };
    program->whole = true;
    add_patches(c, block.x, quantized);
    for (uint32_t layer = 0; layer < config->n_layer && c->status == MF_OK; layer++)
        mfi_add_block(c, &block, layer);
    mfi_add_norm(c, MFI_ROWS_OUT, config->n_layer, "final_norm", block.x, out);
    mfi_program_op(program, MFI_OP_OUTPUT, MFI_ROWS_OUT, config->n_layer, out, out);
    mfi_add_norm(c, MFI_ROWS_CLASS, config->n_layer, "final_norm", block.x, b.in);
    if (config->vit.n_class > 0) add_head(c, &b, "classifier", config->vit.n_class, false);
    if (config->vit.pooler) add_head(c, &b, "pooler", config->d_model, true);
}
