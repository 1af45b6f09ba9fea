/* model_config.c - the per-layer arrays of a configuration, and every rule that it obeys. */
#include "model_config.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arena.h"
#include "defs.h"
#include "status.h"

/* Far beyond any model; small enough that no product of two of them overflows 64 bits. */
#define MAX_D_MODEL 65536u
#define MAX_D_HEAD 512u /* what the attention kernels take */
#define MAX_HEAD 4096u
#define MAX_D_FF (1u << 20)
#define MAX_VOCAB (1u << 24)
#define MAX_ALIBI 64.0f          /* what mfk_alibi_slope takes */
#define MAX_PATCH (1u << 20)     /* numbers of a patch */
#define MAX_POSITIONS (1u << 24) /* exact as f32, which rotations take */

static const char *const family_names[MFI_N_FAMILY] = { "matlm", "llama", "olmo", "gemma3n", "vit" };

const char *mfi_family_name(mfi_family family)
{
    return family_names[family];
}

mfi_family mfi_family_named(const char *name)
{
    mfi_family family = 0;
    while (family < MFI_N_FAMILY && strcmp(family_names[family], name) != 0)
        family++;
    return family;
}

/* One block holds all arrays; may_skip begins it. */
static void lay_out(mfi_config *config, mfi_arena *arena)
{
    config->may_skip = mfi_carve(arena, config->n_layer, sizeof *config->may_skip);
    config->window = mfi_carve(arena, config->n_layer, sizeof *config->window);
    config->kv_layer = mfi_carve(arena, config->n_layer, sizeof *config->kv_layer);
    config->sparsity = mfi_carve(arena, config->n_layer, sizeof *config->sparsity);
    for (uint32_t g = 0; g < config->n_granularity; g++) {
        config->granularity[g].ffn = mfi_carve(arena, config->n_layer, sizeof(uint32_t));
        config->granularity[g].heads = mfi_carve(arena, config->n_layer, sizeof(uint32_t));
    }
    for (uint32_t i = 0; i < config->n_named; i++) {
        config->named[i].ffn = mfi_carve(arena, config->n_layer, sizeof(uint32_t));
        config->named[i].heads = mfi_carve(arena, config->n_layer, sizeof(uint32_t));
    }
}

mf_status mfi_config_alloc(mfi_config *config, const mf_allocator *allocator, mf_error *error)
{
    if (config->n_layer == 0 || config->n_layer > MFI_MAX_LAYER || config->n_granularity == 0 ||
        config->n_granularity > MFI_MAX_GRANULARITY || config->n_named > MFI_MAX_NAMED)
        return mfi_fail(error, MF_E_INVALID,
                        "%u layers, %u granularities, %u named configurations: allowed are 1 to %u, 1 to %u, 0 to %u",
                        config->n_layer, config->n_granularity, config->n_named, MFI_MAX_LAYER, MFI_MAX_GRANULARITY,
                        MFI_MAX_NAMED);
    mfi_arena arena = { NULL, 0 };
    lay_out(config, &arena);
    arena.base = mfi_alloc(allocator, arena.used);
    if (!arena.base) return mfi_fail(error, MF_E_NOMEM, "no memory for the model's configuration");
    arena.used = 0;
    lay_out(config, &arena);
    for (uint32_t layer = 0; layer < config->n_layer; layer++)
        config->kv_layer[layer] = layer;
    return MF_OK;
}

void mfi_config_free(mfi_config *config, const mf_allocator *allocator)
{
    if (!config->may_skip) return;
    void *block = config->may_skip;
    mfi_arena arena = { NULL, 0 };
    lay_out(config, &arena); /* measures again, and forgets the pointers */
    mfi_free(allocator, block, arena.used);
}

mf_status mfi_config_copy(mfi_config *to, const mfi_config *from, uint32_t n_named, const mf_allocator *allocator,
                          mf_error *error)
{
    const uint32_t n = from->n_layer;
    *to = *from;
    to->may_skip = NULL; /* nothing is its own yet */
    to->n_named = n_named;
    mf_status status = mfi_config_alloc(to, allocator, error);
    if (status != MF_OK) return status;
    memcpy(to->may_skip, from->may_skip, n * sizeof *to->may_skip);
    memcpy(to->window, from->window, n * sizeof *to->window);
    memcpy(to->kv_layer, from->kv_layer, n * sizeof *to->kv_layer);
    memcpy(to->sparsity, from->sparsity, n * sizeof *to->sparsity);
    for (uint32_t g = 0; g < from->n_granularity; g++) {
        memcpy(to->granularity[g].ffn, from->granularity[g].ffn, n * sizeof(uint32_t));
        memcpy(to->granularity[g].heads, from->granularity[g].heads, n * sizeof(uint32_t));
    }
    for (uint32_t i = 0; i < n_named && i < from->n_named; i++) {
        memcpy(to->named[i].ffn, from->named[i].ffn, n * sizeof(uint32_t));
        memcpy(to->named[i].heads, from->named[i].heads, n * sizeof(uint32_t));
    }
    return MF_OK;
}

/* 1 to `most`, a multiple of `step`. */
static mf_status check_extent(const char *name, uint32_t value, uint32_t step, uint32_t most, mf_error *error)
{
    if (value > 0 && value <= most && value % step == 0) return MF_OK;
    return mfi_fail(error, MF_E_INVALID, "%s is %u: must be a multiple of %u from %u to %u", name, value, step, step,
                    most);
}

static mf_status check_extents(const mfi_config *config, mf_error *error)
{
    const struct {
        const char *name;
        uint32_t value, step, most;
    } extent[] = {
        { "n_layer", config->n_layer, 1, MFI_MAX_LAYER },
        { "n_granularity", config->n_granularity, 1, MFI_MAX_GRANULARITY },
        { "d_model", config->d_model, MFI_QUANTUM, MAX_D_MODEL },
        { "d_head", config->d_head, 16, MAX_D_HEAD },
        { "n_head", config->n_head, 1, MAX_HEAD },
        { "head_group", config->head_group, 1, config->n_head },
        { "d_ff", config->d_ff, MFI_QUANTUM, MAX_D_FF },
        { "max_positions", config->max_positions, 1, MAX_POSITIONS },
    };
    for (size_t i = 0; i < MFI_COUNT(extent); i++) {
        mf_status status = check_extent(extent[i].name, extent[i].value, extent[i].step, extent[i].most, error);
        if (status != MF_OK) return status;
    }
    if (config->family == MFI_FAMILY_VIT && config->n_vocab == 0) return MF_OK;
    return check_extent("n_vocab", config->n_vocab, 1, MAX_VOCAB, error);
}

static mf_status check_rotation(const mfi_config *config, mf_error *error)
{
    const mfi_rope_scaling *s = &config->rope_scaling;
    if (!isfinite(config->rope_theta) || (config->rope_theta != 0 && config->rope_theta < 1))
        return mfi_fail(error, MF_E_INVALID, "rope_theta is %g: must be 0 (none) or at least 1", config->rope_theta);
    if (s->kind == MFI_ROPE_PLAIN) return MF_OK;
    if (s->kind > MFI_ROPE_LLAMA3 || !isfinite(s->factor) || s->factor < 1)
        return mfi_fail(error, MF_E_INVALID, "rope_scaling %d by the factor %g: must be a known one, by at least 1",
                        (int)s->kind, s->factor);
    if (s->kind == MFI_ROPE_LLAMA3 && (!(s->low_freq_factor > 0) || !isfinite(s->high_freq_factor) ||
                                       s->high_freq_factor <= s->low_freq_factor || s->original_positions == 0))
        return mfi_fail(error, MF_E_INVALID, "rope_scaling from %g to %g of %u positions: must be 0 < low < high",
                        s->low_freq_factor, s->high_freq_factor, s->original_positions);
    return MF_OK;
}

static mf_status check_numbers(const mfi_config *config, mf_error *error)
{
    if (config->norm > MFI_NORM_LAYER || config->ffn > MFI_FFN_PLAIN || config->activation > MFK_TANH)
        return mfi_fail(error, MF_E_INVALID, "norm %d, ffn %d or activation %d is none of the family's",
                        (int)config->norm, (int)config->ffn, (int)config->activation);
    if (!isfinite(config->norm_eps) || config->norm_eps < 0)
        return mfi_fail(error, MF_E_INVALID, "norm_eps is %g", (double)config->norm_eps);
    if (!(config->alibi_max >= 0 && config->alibi_max <= MAX_ALIBI))
        return mfi_fail(error, MF_E_INVALID, "alibi_max is %g: must be from 0 (none) to %g", (double)config->alibi_max,
                        (double)MAX_ALIBI);
    if (!isfinite(config->embed_scale) || !isfinite(config->attention_scale))
        return mfi_fail(error, MF_E_INVALID, "a scale is not finite");
    const int32_t token[] = { config->bos_token, config->eos_token };
    for (size_t i = 0; i < MFI_COUNT(token); i++)
        if (token[i] < -1 || (token[i] >= 0 && (uint32_t)token[i] >= config->n_vocab))
            return mfi_fail(error, MF_E_INVALID, "the special token %d is outside the vocabulary", token[i]);
    return MF_OK;
}

/* A letter, then what cannot be taken for a number or another part of a view's text form. */
static bool name_valid(const char *name, size_t room)
{
    size_t length = 0;
    for (; length < room && name[length]; length++) {
        char c = name[length];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        bool other = (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.';
        if (!letter && (length == 0 || !other)) return false;
    }
    return length > 0 && length < room;
}

/* Granularities, then named configurations. */
static const mfi_granularity *configuration(const mfi_config *config, uint32_t index)
{
    return index < config->n_granularity ? &config->granularity[index] : &config->named[index - config->n_granularity];
}

static mf_status check_names(const mfi_config *config, mf_error *error)
{
    for (uint32_t g = 0; g < config->n_granularity + config->n_named; g++) {
        const mfi_granularity *granularity = configuration(config, g);
        if (!name_valid(granularity->name, sizeof granularity->name))
            return mfi_fail(error, MF_E_INVALID,
                            "the name of granularity %u must be a letter and up to 14 letters, digits, '_', '-' or '.'",
                            g);
        for (uint32_t other = 0; other < g; other++)
            if (strcmp(granularity->name, configuration(config, other)->name) == 0)
                return mfi_fail(error, MF_E_INVALID, "two granularities have the name %s", granularity->name);
    }
    return MF_OK;
}

static mf_status check_named(const mfi_config *config, const mfi_granularity *named, mf_error *error)
{
    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        const uint32_t ffn = named->ffn[layer], heads = ffn > 0 ? full->heads[layer] : 0;
        if (ffn % MFI_QUANTUM != 0 || ffn > full->ffn[layer] || named->heads[layer] != heads)
            return mfi_fail(error, MF_E_INVALID, "configuration %s, layer %u: width %u and %u heads of %u and %u",
                            named->name, layer, ffn, named->heads[layer], full->ffn[layer], full->heads[layer]);
        if (ffn == 0 && !config->may_skip[layer])
            return mfi_fail(error, MF_E_INVALID, "configuration %s skips layer %u, which may not be skipped",
                            named->name, layer);
    }
    return MF_OK;
}

static mf_status check_tokens(const mfi_config *config, mf_error *error)
{
    if (config->n_token <= config->n_vocab) return MF_OK;
    return mfi_fail(error, MF_E_INVALID, "n_token is %u, but the vocabulary has %u", config->n_token, config->n_vocab);
}

static mf_status check_softcap(const mfi_config *config, mf_error *error)
{
    if (isfinite(config->logit_softcap) && config->logit_softcap >= 0) return MF_OK;
    return mfi_fail(error, MF_E_INVALID, "logit_softcap is %g", (double)config->logit_softcap);
}

static mf_status check_vit(const mfi_config *config, mf_error *error)
{
    const mfi_vit *v = &config->vit;
    if (v->patch_size == 0 || v->image_size == 0 || v->image_size % v->patch_size != 0 ||
        v->image_size / v->patch_size > 4095 || v->n_channel == 0 || v->patch_size > MAX_PATCH ||
        (uint64_t)v->patch_size * v->patch_size > MAX_PATCH / v->n_channel || v->n_class > MAX_VOCAB)
        return mfi_fail(error, MF_E_INVALID,
                        "images of %u channels and size %u in patches of %u, %u classes: out of range", v->n_channel,
                        v->image_size, v->patch_size, v->n_class);
    if (config->max_positions < mfi_vit_rows(v))
        return mfi_fail(error, MF_E_INVALID, "max_positions is %u, but an image has %u rows", config->max_positions,
                        mfi_vit_rows(v));
    if (config->rope_theta != 0 || config->alibi_max != 0)
        return mfi_fail(error, MF_E_INVALID, "rows of an image have stored positions: no rotation and no ALiBi");
    for (uint32_t layer = 0; layer < config->n_layer; layer++)
        if (config->window[layer] != 0)
            return mfi_fail(error, MF_E_INVALID, "layer %u has a window, but rows of an image see each other", layer);
    return MF_OK;
}

static mf_status check_windows(const mfi_config *config, mf_error *error)
{
    for (uint32_t layer = 0; layer < config->n_layer; layer++)
        if (config->window[layer] > MAX_POSITIONS)
            return mfi_fail(error, MF_E_INVALID, "layer %u has a window of %u: at most %u", layer,
                            config->window[layer], MAX_POSITIONS);
    return MF_OK;
}

/* Whose keys and values a layer reads, and what else only Gemma 3n's layers have. */
static mf_status check_sharing(const mfi_config *config, mf_error *error)
{
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        const uint32_t owner = config->kv_layer[layer];
        if (owner > layer || config->kv_layer[owner] != owner || config->window[owner] != config->window[layer])
            return mfi_fail(error, MF_E_INVALID,
                            "layer %u reads the keys and values of layer %u: must be one before it that has its own "
                            "and the same window",
                            layer, owner);
        if (!isfinite(config->sparsity[layer]))
            return mfi_fail(error, MF_E_INVALID, "the sparsity of layer %u is not finite", layer);
        if (config->family != MFI_FAMILY_GEMMA3N && (owner != layer || config->sparsity[layer] != 0))
            return mfi_fail(error, MF_E_INVALID, "layer %u shares keys and values or is sparse, which %s has not",
                            layer, mfi_family_name(config->family));
    }
    return MF_OK;
}

static mf_status check_gemma3n(const mfi_config *config, mf_error *error)
{
    const mfi_gemma3n *g = &config->gemma3n;
    if (config->family != MFI_FAMILY_GEMMA3N) return MF_OK;
    mf_status status = check_extent("gemma3n.n_stream", g->n_stream, 1, MFI_MAX_STREAM, error);
    if (status == MF_OK) status = check_extent("gemma3n.laurel_rank", g->laurel_rank, MFI_QUANTUM, MAX_D_MODEL, error);
    if (status == MF_OK) status = check_extent("gemma3n.d_ple", g->d_ple, MFI_QUANTUM, MAX_D_MODEL, error);
    if (status == MF_OK) status = check_extent("gemma3n.n_vocab_ple", g->n_vocab_ple, 1, MAX_VOCAB, error);
    if (status != MF_OK) return status;
    if (g->active >= g->n_stream)
        return mfi_fail(error, MF_E_INVALID, "gemma3n.active is %u of %u streams", g->active, g->n_stream);
    if (config->norm != MFI_NORM_RMS || config->ffn != MFI_FFN_GATED || !config->tied || config->attention_bias ||
        config->ffn_bias || config->parallel || config->alibi_max != 0 || config->rope_scaling.kind != MFI_ROPE_PLAIN)
        return mfi_fail(error, MF_E_INVALID,
                        "gemma3n has RMS norms, a gated FFN and a tied embedding, and no biases, ALiBi or scaling");
    if (config->rope_theta < 1 || !isfinite(g->rope_theta_local) || g->rope_theta_local < 1)
        return mfi_fail(error, MF_E_INVALID, "gemma3n rotates by rope_theta and rope_theta_local: %g and %g",
                        config->rope_theta, g->rope_theta_local);
    if (!isfinite(g->coef_clip) || g->coef_clip < 0 || !isfinite(config->logit_softcap) || config->logit_softcap < 0)
        return mfi_fail(error, MF_E_INVALID, "gemma3n.coef_clip is %g and logit_softcap %g", (double)g->coef_clip,
                        (double)config->logit_softcap);
    return MF_OK;
}

/* One layer at one granularity, and nested in the same at the next. */
static mf_status check_layer(const mfi_config *config, uint32_t g, uint32_t layer, mf_error *error)
{
    const mfi_granularity *granularity = &config->granularity[g];
    uint32_t ffn = granularity->ffn[layer], heads = granularity->heads[layer];
    if ((ffn == 0) != (heads == 0) || ffn % MFI_QUANTUM != 0 || ffn > config->d_ff || heads > config->n_head ||
        heads * config->d_head % MFI_QUANTUM != 0)
        return mfi_fail(
            error, MF_E_INVALID,
            "granularity %s, layer %u: width %u and %u heads; widths and heads * d_head are multiples of %u, "
            "both 0 where skipped",
            granularity->name, layer, ffn, heads, MFI_QUANTUM);
    bool last = g + 1 == config->n_granularity;
    if (ffn == 0 && (last || !config->may_skip[layer]))
        return mfi_fail(error, MF_E_INVALID, "granularity %s skips layer %u, which may not be skipped",
                        granularity->name, layer);
    const uint32_t owned = mfi_kv_heads(granularity->heads[config->kv_layer[layer]], config->head_group);
    if (mfi_kv_heads(heads, config->head_group) > owned)
        return mfi_fail(error, MF_E_INVALID,
                        "granularity %s, layer %u: layer %u, whose keys and values it reads, has %u heads of them",
                        granularity->name, layer, config->kv_layer[layer], owned);
    if (!last && (ffn > granularity[1].ffn[layer] || heads > granularity[1].heads[layer]))
        return mfi_fail(error, MF_E_INVALID, "granularity %s, layer %u: wider than in %s", granularity->name, layer,
                        granularity[1].name);
    return MF_OK;
}

mf_status mfi_config_check(const mfi_config *config, mf_error *error)
{
    mf_status status = check_extents(config, error);
    if (status == MF_OK) status = check_numbers(config, error);
    if (status == MF_OK) status = check_names(config, error);
    if (status == MF_OK) status = check_rotation(config, error);
    if (status == MF_OK) status = check_windows(config, error);
    if (status == MF_OK) status = check_tokens(config, error);
    if (status == MF_OK) status = check_softcap(config, error);
    if (status == MF_OK) status = check_sharing(config, error);
    if (status == MF_OK) status = check_gemma3n(config, error);
    if (status == MF_OK && config->family == MFI_FAMILY_VIT) status = check_vit(config, error);
    for (uint32_t i = 0; i < config->n_named && status == MF_OK; i++)
        status = check_named(config, &config->named[i], error);
    for (uint32_t g = 0; g < config->n_granularity && status == MF_OK; g++)
        for (uint32_t layer = 0; layer < config->n_layer && status == MF_OK; layer++)
            status = check_layer(config, g, layer, error);
    if (status != MF_OK) return status;

    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    uint32_t d_ff = 0, n_head = 0;
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        if (d_ff < full->ffn[layer]) d_ff = full->ffn[layer];
        if (n_head < full->heads[layer]) n_head = full->heads[layer];
    }
    if (d_ff == config->d_ff && n_head == config->n_head) return MF_OK;
    return mfi_fail(error, MF_E_INVALID, "d_ff is %u and n_head %u, but the widest layer has %u and %u", config->d_ff,
                    config->n_head, d_ff, n_head);
}

mfi_role mfi_role_of(const char *name)
{
    static const struct {
        const char *part;
        mfi_role role;
    } parts[] = { { "attn.", MFI_ROLE_ATTENTION },     { "ffn.", MFI_ROLE_FFN },
                  { "ple.table", MFI_ROLE_EMBEDDING }, { "ple.", MFI_ROLE_ATTENTION },
                  { "altup.", MFI_ROLE_ATTENTION },    { "laurel.", MFI_ROLE_ATTENTION },
                  { "patch.", MFI_ROLE_EMBEDDING },    { "classifier", MFI_ROLE_OUTPUT },
                  { "pooler", MFI_ROLE_OUTPUT },       { "embed", MFI_ROLE_EMBEDDING },
                  { "output", MFI_ROLE_OUTPUT } };
    unsigned layer;
    int at = 0;
    if (sscanf(name, "layers.%u.%n", &layer, &at) == 1) name += at;
    const size_t length = strlen(name);
    if ((length > 5 && strcmp(name + length - 5, ".bias") == 0) || strstr(name, "norm.")) return MFI_N_ROLE;
    for (size_t i = 0; i < MFI_COUNT(parts); i++)
        if (strncmp(name, parts[i].part, strlen(parts[i].part)) == 0) return parts[i].role;
    return MFI_N_ROLE;
}
