/* plan_model.c - views by their layers, and what can be chosen in each layer of a model. */
#include <string.h>

#include "defs.h"
#include "plan.h"
#include "status.h"

mf_status mfi_plan_view(mf_submodel **out, mf_model *model, const mfi_view_layer *layers, mf_error *error)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    uint32_t ffn[MFI_MAX_LAYER], heads[MFI_MAX_LAYER], skip[MFI_MAX_LAYER];
    mf_model_info_get(model, &info);
    for (uint32_t l = 0; l < info.n_layer; l++) {
        ffn[l] = layers[l].ffn_quanta * MFI_QUANTUM;
        heads[l] = layers[l].heads;
        if (heads[l] == 0) skip[spec.n_skip++] = l;
    }
    spec.ffn = ffn;
    spec.heads = heads;
    spec.skip = skip;
    spec.n_ffn = spec.n_heads = info.n_layer;
    return mf_extract_submodel(out, model, &spec, error);
}

void mfi_plan_layers(const mf_submodel *view, mfi_view_layer *layers, uint32_t n_layer)
{
    for (uint32_t l = 0; l < n_layer; l++) {
        uint32_t ffn = 0, heads = 0;
        mf_submodel_layer(view, l, &ffn, &heads, NULL);
        layers[l] = (mfi_view_layer){ (uint16_t)(ffn / MFI_QUANTUM), (uint16_t)heads };
    }
}

/* ---- Options ---- */

/* Adds a value to an ascending set. */
static void insert(uint16_t *set, uint32_t *n, uint32_t value)
{
    uint32_t at = *n;
    while (at > 0 && set[at - 1] > value)
        at--;
    if (value == 0 || (at > 0 && set[at - 1] == value) || *n == MFI_PLAN_OPTION_MAX) return;
    memmove(set + at + 1, set + at, (*n - at) * sizeof *set);
    set[at] = (uint16_t)value;
    ++*n;
}

/* Widths between neighbouring granularities, so that every layer has about seven. */
static void insert_between(uint16_t *set, uint32_t *n)
{
    uint16_t given[MFI_PLAN_OPTION_MAX];
    const uint32_t n_given = *n;
    if (n_given < 2) return;
    const uint32_t parts = n_given < 7 ? (6 + n_given - 2) / (n_given - 1) : 1;
    memcpy(given, set, sizeof given);
    for (uint32_t i = 1; i < n_given; i++)
        for (uint32_t part = 1; part < parts; part++)
            insert(set, n, given[i - 1] + (uint32_t)(given[i] - given[i - 1]) * part / parts);
}

static bool may_skip(mf_model *model, uint32_t layer)
{
    mf_submodel *view = NULL;
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    spec.skip = &layer;
    spec.n_skip = 1;
    const bool may = mf_extract_submodel(&view, model, &spec, NULL) == MF_OK;
    mf_submodel_close(view);
    return may;
}

static mf_status fill_layer(mfi_plan_space *space, mf_model *model, uint32_t layer, const mfi_view_layer *granularity,
                            mf_error *error)
{
    uint16_t width[MFI_PLAN_OPTION_MAX], heads[MFI_PLAN_OPTION_MAX];
    uint32_t n_width = 0, n_heads = 0, n = 0;
    mfi_view_layer *option = space->option[layer];
    for (uint32_t g = 0; g < space->n_granularity; g++) {
        insert(width, &n_width, granularity[g * MFI_MAX_LAYER + layer].ffn_quanta);
        insert(heads, &n_heads, granularity[g * MFI_MAX_LAYER + layer].heads);
    }
    insert_between(width, &n_width);
    if (may_skip(model, layer)) option[n++] = (mfi_view_layer){ 0, 0 };
    if (n + n_width * n_heads > MFI_PLAN_OPTION_MAX)
        return mfi_fail(error, MF_E_UNSUPPORTED, "layer %u can have more widths and heads than the planner can compare",
                        layer);
    for (uint32_t w = 0; w < n_width; w++)
        for (uint32_t h = 0; h < n_heads; h++)
            option[n++] = (mfi_view_layer){ width[w], heads[h] };
    space->n_option[layer] = n;
    for (uint32_t g = 0; g < space->n_granularity; g++)
        for (uint32_t k = 0; k < n; k++)
            if (memcmp(&option[k], &granularity[g * MFI_MAX_LAYER + layer], sizeof *option) == 0)
                space->granularity[g][layer] = (uint8_t)k;
    return MF_OK;
}

mf_status mfi_plan_space_make(mfi_plan_space *space, mf_model *model, mf_error *error)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mfi_view_layer granularity[MFI_MAX_GRANULARITY * MFI_MAX_LAYER];
    mf_model_info_get(model, &info);
    memset(space, 0, sizeof *space);
    space->n_layer = info.n_layer;
    if (info.n_shell_resident < info.n_shell)
        return mfi_fail(error, MF_E_NOT_RESIDENT,
                        "a plan wants all of the model: %u of %u shells are loaded; attach the parts "
                        "that are missing, and grow",
                        info.n_shell_resident, info.n_shell);
    for (uint32_t g = 0; g < info.n_granularity; g++) {
        mf_submodel *view = NULL;
        mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
        spec.granularity = mf_model_granularity(model, g);
        const mf_status status = mf_extract_submodel(&view, model, &spec, error);
        if (status != MF_OK) return status;
        mfi_plan_layers(view, granularity + g * MFI_MAX_LAYER, info.n_layer);
        mf_submodel_close(view);
    }
    space->n_granularity = info.n_granularity;
    mf_status status = MF_OK;
    uint32_t n_choice = 0;
    for (uint32_t l = 0; l < info.n_layer && status == MF_OK; l++) {
        status = fill_layer(space, model, l, granularity, error);
        n_choice += space->n_option[l] > 1;
    }
    if (status == MF_OK && n_choice == 0)
        return mfi_fail(error, MF_E_UNSUPPORTED,
                        "every layer has a single width in this model: there is nothing to plan");
    return status;
}
