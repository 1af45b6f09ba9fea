/* family_decoder.c - MatLM, Llama and MatFormer-OLMo (model_config.h): one decoder in three habits. */
#include "compile.h"

/* At the ends: embedding, norm, quantization and output; x is of the block. */
const mfi_family_sizes mfi_decoder_sizes = { MFI_BLOCK_OPS, 4, MFI_BLOCK_BUFFERS + 2, 4, 1 };

void mfi_compile_decoder(mfi_compiler *c)
{
    const mfi_config *config = c->config;
    mfi_program *program = c->program;
    if (config->rope_theta > 0) program->rope_freqs[0] = mfi_need_vector(c, "rope.freqs", config->d_head / 2);
    if (c->status == MF_OK && config->alibi_max > 0)
        c->status = mfi_program_slopes(program, config->alibi_max, c->error);
    const bool quantized = mfi_has_quantized(c->container);
    const mfi_block block = mfi_block_buffers(c, quantized);
    const uint16_t out = mfi_program_buffer(program, MFI_ROWS_OUT, config->d_model);
    const uint16_t out_q8 = mfi_program_quantized_buffer(program, MFI_ROWS_OUT, quantized ? config->d_model : 0);

    mfi_op *embed = mfi_program_op(program, MFI_OP_EMBED, MFI_ROWS_ALL, 0, block.x, block.x);
    embed->scale = config->embed_scale;
    embed->table = mfi_need(c, "embed", 0, config->tied ? MFI_PANEL : MFI_TABLE, config->n_vocab, config->d_model, 1);
    for (uint32_t layer = 0; layer < config->n_layer && c->status == MF_OK; layer++)
        mfi_add_block(c, &block, layer);
    mfi_add_norm(c, MFI_ROWS_OUT, config->n_layer, "final_norm", block.x, out);
    mfi_op *output = mfi_program_op(program, MFI_OP_OUTPUT, MFI_ROWS_OUT, config->n_layer, out, out);
    output->softcap = config->logit_softcap;
    const mfi_tensor *matrix =
        config->tied ? embed->table : mfi_need(c, "output", 0, MFI_PANEL, config->n_vocab, config->d_model, 1);
    if (matrix == NULL) return;
    mfi_program_part(program, output, &matrix, 1, out, MFI_EXTENT_FULL);
    mfi_quantize_input(c, output, out_q8, MFI_EXTENT_FULL);
}
