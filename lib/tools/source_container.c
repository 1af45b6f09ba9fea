/* source_container.c - a .mf file as a source: an open model, whose compilation has proved its tensors. */
#include <string.h>

#include "model.h"
#include "schema.h"
#include "source.h"
#include "status.h"
#include "stored_plan.h"

/* What the saver writes again: anything else would be lost without a word. */
static mf_status check_tensors(const mf_model *model, mf_error *error)
{
    for (uint32_t i = 0; i < mfi_container_tensor_count(model->container); i++) {
        const char *name = mfi_container_tensor(model->container, i)->name;
        if (strcmp(name, "tokenizer") != 0 && !mfi_schema_has(&model->config, name))
            return mfi_fail(error, MF_E_UNSUPPORTED, "%s: tensor %.80s is none that its family has",
                            mfi_container_name(model->container), name);
    }
    const uint32_t n_resident = mfi_shells_resident(&model->residency), n_shell = model->residency.n_shell;
    if (n_resident == n_shell) return MF_OK;
    return mfi_fail(error, MF_E_FORMAT, "%s: the file, with the parts beside it, ends before shell %u of %u; fetch all",
                    mfi_container_name(model->container), n_resident, n_shell);
}

static void fill_info(mf_source_info *info, const mf_model *model)
{
    info->format = "mf";
    for (uint32_t i = 0; i < mfi_container_tensor_count(model->container); i++) {
        const mfi_tensor *tensor = mfi_container_tensor(model->container, i);
        if (tensor->kind == MFI_PLAIN) continue;
        const mfi_role role = mfi_role_of(tensor->name);
        info->role[role].n_weight += mfi_tensor_matrices(tensor) * tensor->n * tensor->k;
        info->role[role].bytes += tensor->bytes;
        info->role[role].types |= 1u << tensor->type;
    }
}

static void close_model(void *object)
{
    mfi_model_release(object);
}

mf_status mfi_source_container(mf_source *source, const char *path, const mf_source_options *options, mf_error *error)
{
    const mf_model_options open = { .struct_size = sizeof open,
                                    .verify = MF_VERIFY_FULL,
                                    .progress = options->progress,
                                    .progress_user = options->progress_user,
                                    .allocator = source->allocator };
    const mfi_container_source file = { .path = path, .fd = -1 };
    mf_model *model;
    mf_status status = mfi_model_open(&model, &file, &open, error);
    if (status != MF_OK) return status;
    status = check_tensors(model, error);
    if (status == MF_OK) status = mfi_plan_load(model, error);
    if (status != MF_OK) {
        mfi_model_release(model);
        return status;
    }
    source->config = &model->config;
    source->weights = mfi_model_weights(model);
    const mfi_tensor *tokenizer = mfi_container_find(model->container, "tokenizer", 0);
    if (tokenizer) {
        source->tokenizer = tokenizer->data;
        source->tokenizer_bytes = (size_t)tokenizer->bytes;
    }
    source->keys_of = model->container;
    source->plan = model->plan;
    source->plan_refused = model->plan_refused;
    source->storage = mfi_container_region(model->container, 0)->storage;
    source->one_shell = model->residency.n_shell == 1;
    fill_info(&source->info, model);
    source->info.has_tokenizer = tokenizer != NULL;
    source->object = model;
    source->close = close_model;
    return MF_OK;
}
