/* submodel.h - a view: per layer a width and a head count. No weights, no addresses. */
#ifndef MFI_SUBMODEL_H
#define MFI_SUBMODEL_H

#include "model.h"

/* Four bytes a layer, so that a view of 200 layers stays under a kilobyte. A skipped layer has zeros. */
typedef struct mfi_view_layer {
    uint16_t ffn_quanta; /* width / MFI_QUANTUM */
    uint16_t heads;
} mfi_view_layer;

struct mf_submodel {
    mf_model *model;
    uint32_t n_layer;
    uint32_t n_shell; /* that must be resident */
    mfi_view_layer layer[];
};

static inline uint32_t mfi_view_ffn(const mf_submodel *view, uint32_t layer)
{
    return view->layer[layer].ffn_quanta * MFI_QUANTUM;
}

static inline uint32_t mfi_view_heads(const mf_submodel *view, uint32_t layer)
{
    return view->layer[layer].heads;
}

static inline uint32_t mfi_view_kv_heads(const mf_submodel *view, uint32_t layer)
{
    return mfi_kv_heads(view->layer[layer].heads, view->model->program->head_group);
}

/* What views are taken from. */
typedef struct mfi_view_source {
    const mfi_config *config;
    uint32_t widest;                    /* the granularity that NULL in all fields of a specification means */
    const struct mfi_stored_plan *plan; /* that answers budgets, or NULL: */
    bool plan_refused;                  /* there is one that cannot be read */
    uint32_t n_shell;                   /* that entries of the plan may need */
} mfi_view_source;
/* The layers [n_layer] that a specification asks for. */
mf_status mfi_view_choose(mfi_view_layer *layers, const mfi_view_source *source, const mf_submodel_spec *spec,
                          mf_error *error);
/* Whether the layers [n_layer], whatever they are, are a view that a specification could have asked for. */
mf_status mfi_view_check(const mfi_view_layer *layers, const mfi_config *config, mf_error *error);
/* Shells that must be resident for them. */
uint32_t mfi_view_shells(const mf_model *model, const mfi_view_layer *layers);

mf_status mfi_submodel_create(mf_submodel **out, mf_model *model, const mf_submodel_spec *spec, mf_error *error);
void mfi_submodel_free(mf_submodel *view);
mf_status mfi_submodel_info(const mf_submodel *view, mf_submodel_info *info);

/* submodel_text.c. A parsed text: the spec points into `storage`, which has room for the widest lists. */
typedef struct mfi_spec_storage {
    char granularity[16];
    uint32_t ffn[MFI_MAX_LAYER], heads[MFI_MAX_LAYER], skip[MFI_MAX_LAYER];
} mfi_spec_storage;
mf_status mfi_submodel_parse(mf_submodel_spec *spec, mfi_spec_storage *storage, const char *text, mf_error *error);
mf_status mfi_submodel_text(const mf_submodel *view, char *text, size_t capacity, size_t *bytes);
/* Of a view with these layers [n_layer]. */
mf_status mfi_layers_text(const mf_model *model, const mfi_view_layer *layers, char *text, size_t capacity,
                          size_t *bytes);

#endif
