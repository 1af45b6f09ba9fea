/* compile.h - what every family's compilation to operations needs. Tensors are matched to roles here and their extents
 * checked once; nothing above looks at a size again. */
#ifndef MFI_COMPILE_H
#define MFI_COMPILE_H

#include "model_config.h"
#include "program.h"

typedef struct mfi_compiler {
    const mfi_config *config;
    const mfi_container *container;
    mfi_program *program;
    mf_error *error;
    mf_status status; /* the first failure; later steps do nothing harmful */
} mfi_compiler;

/* The program of a configuration and a container that holds its tensors. */
mf_status mfi_compile(mfi_program **out, const mfi_config *config, const mfi_container *container,
                      const mf_allocator *allocator, mf_error *error);

/* The families: what each adds to a program whose sizes, layers and shells are set. n: most operations, buffers and
 * pieces of a layer and of what is around the layers. */
typedef struct mfi_family_sizes {
    uint32_t op_per_layer, op_ends, buffer, piece_per_layer, piece_ends; /* pieces without those of shells: 3 a layer */
} mfi_family_sizes;
extern const mfi_family_sizes mfi_decoder_sizes, mfi_gemma3n_sizes, mfi_vit_sizes; /* in family_decoder.c and so on */
void mfi_compile_decoder(mfi_compiler *c);
void mfi_compile_gemma3n(mfi_compiler *c);
void mfi_compile_vit(mfi_compiler *c);

/* block.c: the transformer block that both have. Pieces: 4 a layer. */
enum { MFI_BLOCK_OPS = 17, MFI_BLOCK_BUFFERS = 14 };
typedef struct mfi_block {
    uint16_t x; /* the residual stream, of ALL */
    uint16_t attn_in, q, k, v, attn, ffn_in, hidden, y_attn, y_ffn;
    uint16_t attn_in_q8, attn_q8, ffn_in_q8, hidden_q8; /* quantized */
} mfi_block;
/* The buffers of all blocks. `quantized`: mfi_has_quantized */
mfi_block mfi_block_buffers(mfi_compiler *c, bool quantized);
void mfi_add_block(mfi_compiler *c, const mfi_block *buffers, uint32_t layer);

/* "layers.N.rest" */
void mfi_layer_name(char out[64], uint32_t layer, const char *rest);
/* The tensor `name` of shell `shell`, which must have these extents; NULL after recording a failure. `matrices`:
 * how many a PANEL tensor interleaves. */
const mfi_tensor *mfi_need(mfi_compiler *c, const char *name, uint32_t shell, mfi_tensor_kind kind, uint64_t n,
                           uint64_t k, uint32_t matrices);
const mfi_tensor *mfi_need_vector(mfi_compiler *c, const char *name, uint64_t n);
/* `name`.weight, and of a layer norm `name`.bias, as wide as src. */
void mfi_add_norm(mfi_compiler *c, mfi_rows rows, uint32_t layer, const char *name, uint16_t src, uint16_t dst);
/* A product with a matrix that is whole in the base region. */
void mfi_add_part(mfi_compiler *c, mfi_op *op, uint32_t layer, const char *rest, uint64_t n, uint64_t k, uint16_t dst,
                  mfi_extent n_of);
/* The biases of the product added last: `name`.bias */
void mfi_add_bias(mfi_compiler *c, mfi_op *op, const char *name, uint64_t n);
/* The pieces that the shells hold of one FFN matrix of a layer; their widths must be those of `bound`. */
void mfi_add_shells(mfi_compiler *c, mfi_op *op, uint32_t layer, const char *rest, bool along_n, uint16_t dst);

/* The product from the hidden units to the rows `dst`, with its biases. Where all of its pieces want them quantized, and
 * `up`, the operation that makes them, can do so itself, it does. */
void mfi_add_down(mfi_compiler *c, uint32_t layer, mfi_op *up, uint16_t hidden, uint16_t hidden_q8, uint16_t dst);

/* How many of a product's pieces want their input quantized. */
typedef enum mfi_share { MFI_SHARE_NONE, MFI_SHARE_SOME, MFI_SHARE_ALL } mfi_share;
mfi_share mfi_quantized_share(const mfi_op *op);
/* The input of the product `op`, which is the last operation, quantized just before it, if some piece wants that. */
void mfi_quantize_input(mfi_compiler *c, mfi_op *op, uint16_t quantized, mfi_extent extent);
/* Whether some product wants its input quantized; else the buffers for that are empty. */
bool mfi_has_quantized(const mfi_container *container);

#endif
