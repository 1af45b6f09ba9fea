/* bench_model.c - a random model to measure. Speed does not depend on what the weights are, as long as they
 * are ordinary numbers. */
#include <stdlib.h>
#include <string.h>

#include "arena.h"
#include "bench.h"
#include "model_config.h"

/* A row's numbers follow from the tensor's name and the row alone. */
static mf_status read_random(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                             float *out, mf_error *error)
{
    (void)user;
    if (cli_interrupted()) return error->status = MF_E_CANCELLED;
    bool is_norm = strstr(name, "norm") != NULL;
    uint64_t seed = 1469598103934665603U;
    for (const char *c = name; *c; c++)
        seed = (seed ^ (unsigned char)*c) * 1099511628211U;
    for (size_t r = 0; r < n_row; r++) {
        uint64_t state = (seed + row + r) * 0x9E3779B97F4A7C15U + column + 1;
        for (size_t c = 0; c < n_column; c++) {
            state = state * 6364136223846793005U + 1442695040888963407U;
            float uniform = (float)(int32_t)(state >> 32) * 0x1p-31F;
            out[r * n_column + c] = is_norm ? 1 : 0.04F * uniform;
        }
    }
    return MF_OK;
}

static mf_status fill_config(mfi_config *config, const bench_shape *shape, const mf_allocator *allocator,
                             mf_error *error)
{
    static const char *const names[] = { "S", "M", "L", "XL" };
    *config = (mfi_config){ .n_layer = shape->n_layer,
                            .d_model = shape->d_model,
                            .d_head = shape->d_head,
                            .n_vocab = shape->n_vocab,
                            .max_positions = 512,
                            .head_group = shape->head_group,
                            .n_head = shape->n_head,
                            .d_ff = shape->d_ff,
                            .norm = MFI_NORM_RMS,
                            .norm_eps = 1e-5F,
                            .ffn = MFI_FFN_GATED,
                            .activation = MFK_SILU,
                            .rope_theta = 10000,
                            .embed_scale = 1,
                            .attention_scale = 0.125F,
                            .tied = true,
                            .bos_token = -1,
                            .eos_token = -1,
                            .n_granularity = CLI_COUNT(names) };
    mf_status status = mfi_config_alloc(config, allocator, error);
    for (uint32_t g = 0; g < CLI_COUNT(names) && status == MF_OK; g++) {
        mfi_granularity *granularity = &config->granularity[g];
        snprintf(granularity->name, sizeof(granularity->name), "%s", names[g]);
        for (uint32_t layer = 0; layer < shape->n_layer; layer++) {
            granularity->ffn[layer] = shape->d_ff >> (CLI_COUNT(names) - 1 - g);
            granularity->heads[layer] = shape->n_head;
        }
    }
    return status;
}

mf_status bench_model_write(const bench_shape *shape, const char *path, mf_error *error)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_config config;
    mfi_weights weights = { read_random, NULL };
    mfi_save_options options = { .type = mfk_type_named(shape->type), .storage = MFI_RAW };
    mf_status status = fill_config(&config, shape, &allocator, error);
    if (status == MF_OK) status = mfi_save(&config, &weights, &options, &allocator, path, error);
    mfi_config_free(&config, &allocator);
    return status;
}
