/* trainer_config.c - from the caller's structs to a checked configuration: defaults, granularities, views. */
#include <math.h>
#include <string.h>

#include "defs.h"
#include "status.h"
#include "trainer.h"

static const mf_train_granularity default_granularities[] = {
    { .name = "S", .ffn_ratio = 0.125 },
    { .name = "M", .ffn_ratio = 0.25 },
    { .name = "L", .ffn_ratio = 0.5 },
    { .name = "XL", .ffn_ratio = 1 },
};

static mf_status copy_granularity(mfi_config *config, uint32_t index, const mf_train_granularity *from, mf_error *error)
{
    mfi_granularity *to = &config->granularity[index];
    size_t name_bytes = from->name ? strlen(from->name) : 0;
    if (name_bytes == 0 || name_bytes >= sizeof(to->name))
        return mfi_fail(error, MF_E_INVALID, "granularity %u: its name must have 1 to 15 bytes", index);
    if (!(from->ffn_ratio >= 0 && from->ffn_ratio <= 1))
        return mfi_fail(error, MF_E_INVALID, "granularity %s: ffn_ratio must be in (0, 1]", from->name);
    memcpy(to->name, from->name, name_bytes + 1);
    double ratio = from->ffn_ratio > 0 ? from->ffn_ratio : 1;
    size_t width = mfi_round_up((size_t)ceil(ratio * config->d_ff), MFI_QUANTUM);
    for (uint32_t l = 0; l < config->n_layer; l++) {
        to->ffn[l] = from->ffn ? from->ffn[l] : (uint32_t)mfi_min(width, config->d_ff);
        to->heads[l] = from->heads ? from->heads[l] : from->n_head ? from->n_head : config->n_head;
        if (to->ffn[l] == 0 && !from->heads) to->heads[l] = 0;
    }
    return MF_OK;
}

/* Beyond any model that a processor trains; small enough that no size below overflows. */
#define MAX_EXTENT (1u << 24)

mf_status mfi_train_config(mfi_config *config, const mf_train_model *given, uint32_t sequence,
                           const mf_allocator *allocator, mf_error *error)
{
    mf_train_model m;
    memset(&m, 0, sizeof(m));
    mf_status status =
        mfi_read_options(&m, sizeof(m), MFI_FIRST_BYTES(mf_train_model, may_skip), given, "mf_train_model", error);
    if (status != MF_OK) return status;
    uint32_t n_granularity = m.granularities ? m.n_granularity : (uint32_t)MFI_COUNT(default_granularities);
    if (m.n_layer == 0 || m.n_layer > MFI_MAX_LAYER || m.d_model == 0 || m.d_model > MAX_EXTENT || m.n_head == 0 ||
        m.n_head > MAX_EXTENT || m.d_ff == 0 || m.d_ff > MAX_EXTENT || m.n_vocab == 0 || m.n_vocab > MAX_EXTENT)
        return mfi_fail(error, MF_E_INVALID, "n_layer, d_model, n_head, d_ff and n_vocab must be at least 1%s",
                        m.n_layer > MFI_MAX_LAYER ? ", n_layer at most 512" : ", and of a reasonable size");
    if (n_granularity == 0 || n_granularity > MF_TRAIN_MAX_GRANULARITY)
        return mfi_fail(error, MF_E_INVALID, "%u granularities; 1 to %d are possible", n_granularity,
                        MF_TRAIN_MAX_GRANULARITY);

    *config = (mfi_config){
        .n_layer = m.n_layer,
        .d_model = m.d_model,
        .d_head = m.d_head ? m.d_head : m.d_model / m.n_head,
        .n_vocab = m.n_vocab,
        .max_positions = m.max_positions ? m.max_positions : sequence,
        .head_group = m.head_group ? m.head_group : 1,
        .n_head = m.n_head,
        .d_ff = m.d_ff,
        .norm = m.norm == MF_TRAIN_NORM_LAYER ? MFI_NORM_LAYER : MFI_NORM_RMS,
        .norm_eps = m.norm_eps > 0 ? m.norm_eps : 1e-5f,
        .ffn = m.ffn == MF_TRAIN_FFN_PLAIN ? MFI_FFN_PLAIN : MFI_FFN_GATED,
        .activation = (mfk_activation)m.activation,
        .rope_theta = m.rope_theta == 0  ? 10000
                      : m.rope_theta < 0 ? 0
                                         : m.rope_theta,
        .embed_scale = m.embed_scale == 0 ? 1 : m.embed_scale,
        .tied = !m.untied_output,
        .bos_token = m.has_bos ? m.bos_token : -1,
        .eos_token = m.has_eos ? m.eos_token : -1,
        .n_granularity = n_granularity,
    };
    config->attention_scale =
        m.attention_scale == 0 ? 1.0f / sqrtf((float)mfi_max(1, config->d_head)) : m.attention_scale;
    status = mfi_config_alloc(config, allocator, error);
    if (status != MF_OK) return status;
    for (uint32_t g = 0; g < n_granularity && status == MF_OK; g++)
        status = copy_granularity(config, g, m.granularities ? &m.granularities[g] : &default_granularities[g], error);
    if (status == MF_OK) {
        if (m.may_skip) memcpy(config->may_skip, m.may_skip, m.n_layer);
        status = mfi_config_check(config, error);
    }
    if (status != MF_OK) mfi_config_free(config, allocator);
    return status;
}

static void fill(double *value, double default_value)
{
    *value = *value == 0 ? default_value : *value < 0 ? 0 : *value;
}

mf_status mfi_train_options(mf_trainer_options *options, const mf_trainer_options *given, mf_error *error)
{
    memset(options, 0, sizeof(*options));
    mf_status status = mfi_read_options(options, sizeof(*options), MFI_FIRST_BYTES(mf_trainer_options, allocator),
                                        given, "mf_trainer_options", error);
    if (status != MF_OK) return status;
    if (options->batch == 0) options->batch = 16;
    if (options->sequence == 0) options->sequence = 256;
    if (options->n_micro == 0) options->n_micro = 1;
    if (options->n_step == 0) options->n_step = 1000;
    fill(&options->learning_rate, 1e-3);
    fill(&options->floor_ratio, 0.1);
    fill(&options->beta1, 0.9);
    fill(&options->beta2, 0.95);
    fill(&options->adam_eps, 1e-8);
    fill(&options->weight_decay, 0.1);
    fill(&options->clip, 1);
    fill(&options->init_std, 0.02);
    if (options->batch > MAX_EXTENT || options->sequence > MAX_EXTENT || options->batch % options->n_micro != 0)
        return mfi_fail(error, MF_E_INVALID, "a batch of %u sequences can't be cut into %u equal parts", options->batch,
                        options->n_micro);
    if ((uint64_t)options->batch * options->sequence > UINT32_MAX)
        return mfi_fail(error, MF_E_INVALID, "a step of %u sequences of %u tokens is too large", options->batch,
                        options->sequence);
    if (options->beta1 >= 1 || options->beta2 >= 1)
        return mfi_fail(error, MF_E_INVALID, "beta1 and beta2 must be below 1");
    if (options->warmup > options->n_step)
        return mfi_fail(error, MF_E_INVALID, "the warm-up is longer than the %llu steps",
                        (unsigned long long)options->n_step);
    return MF_OK;
}

mf_status mfi_train_probability(double *probability, const mf_trainer_options *options, uint32_t n_granularity,
                                mf_error *error)
{
    double sum = 0;
    if (options->objective == MF_OBJECTIVE_SINGLE && options->granularity >= n_granularity)
        return mfi_fail(error, MF_E_RANGE, "granularity %u; there are %u", options->granularity, n_granularity);
    if ((unsigned)options->objective > MF_OBJECTIVE_SINGLE)
        return mfi_fail(error, MF_E_INVALID, "no objective %d", (int)options->objective);
    for (uint32_t g = 0; g < n_granularity; g++) {
        probability[g] = options->probability ? options->probability[g] : 1;
        if (!(probability[g] >= 0)) return mfi_fail(error, MF_E_INVALID, "probability %u is negative", g);
        sum += probability[g];
    }
    if (!(sum > 0 && isfinite(sum))) return mfi_fail(error, MF_E_INVALID, "the probabilities must have a positive sum");
    for (uint32_t g = 0; g < n_granularity; g++)
        probability[g] /= sum;
    return MF_OK;
}

/* `heads` heads and `ffn` units of one layer, against its extents. */
static mf_status check_layer(const mfi_config *config, const mfi_train_layer *layer, uint32_t index, uint32_t heads,
                             uint32_t ffn, mf_error *error)
{
    if (ffn > layer->ffn || ffn % MFI_QUANTUM)
        return mfi_fail(error, MF_E_WIDTH, "layer %u: width %u is not a multiple of 32 up to %u", index, ffn,
                        layer->ffn);
    if (heads > layer->heads || (size_t)heads * config->d_head % MFI_QUANTUM)
        return mfi_fail(error, MF_E_WIDTH, "layer %u: %u heads; up to %u, with heads * d_head a multiple of 32", index,
                        heads, layer->heads);
    if ((heads == 0) != (ffn == 0))
        return mfi_fail(error, MF_E_WIDTH, "layer %u: a layer is left out whole, heads and width both 0", index);
    return MF_OK;
}

mf_status mfi_train_view_read(const mf_trainer *trainer, const mf_train_view *given, uint32_t *ffn, uint32_t *heads,
                              mf_error *error)
{
    const mfi_config *config = &trainer->config;
    mf_train_view view;
    memset(&view, 0, sizeof(view));
    mf_status status =
        mfi_read_options(&view, sizeof(view), MFI_FIRST_BYTES(mf_train_view, heads), given, "mf_train_view", error);
    if (status != MF_OK) return status;
    uint32_t base = config->n_granularity - 1;
    if (view.granularity) {
        for (base = 0; base < config->n_granularity; base++)
            if (!strcmp(config->granularity[base].name, view.granularity)) break;
        if (base == config->n_granularity)
            return mfi_fail(error, MF_E_NOT_FOUND, "there is no granularity %s", view.granularity);
    }
    for (uint32_t l = 0; l < config->n_layer && status == MF_OK; l++) {
        ffn[l] = view.ffn ? view.ffn[l] : config->granularity[base].ffn[l];
        heads[l] = view.heads ? view.heads[l] : config->granularity[base].heads[l];
        if (ffn[l] == 0 && !view.heads) heads[l] = 0;
        status = check_layer(config, &trainer->layout.layers[l], l, heads[l], ffn[l], error);
    }
    return status;
}
