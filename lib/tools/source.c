/* source.c - sources of whatever format. */
#include "import.h"
#include "source.h"

#include "arena.h"
#include "pack.h"
#include "status.h"

_Static_assert((int)MF_WEIGHT_F32 == MFK_F32 && (int)MF_WEIGHT_BF16 == MFK_BF16 && (int)MF_WEIGHT_F16 == MFK_F16 &&
                   (int)MF_WEIGHT_Q8 == MFK_Q8 && (int)MF_WEIGHT_Q4 == MFK_Q4,
               "one numbering of types");
_Static_assert((int)MF_ROLE_FFN == MFI_ROLE_FFN && (int)MF_ROLE_ATTENTION == MFI_ROLE_ATTENTION &&
                   (int)MF_ROLE_EMBEDDING == MFI_ROLE_EMBEDDING && (int)MF_ROLE_OUTPUT == MFI_ROLE_OUTPUT &&
                   MF_N_ROLE == MFI_N_ROLE,
               "and of roles");

uint32_t mf_tools_version(void)
{
    return MF_TOOLS_VERSION_MAJOR << 16 | MF_TOOLS_VERSION_MINOR;
}

const char *mf_weight_type_name(mf_weight_type type)
{
    return type >= MF_WEIGHT_F32 && type <= MF_WEIGHT_Q4 ? mfk_type_name((mfk_type)type) : NULL;
}

const char *mf_role_name(mf_role role)
{
    static const char *const names[MF_N_ROLE] = { "ffn", "attention", "embedding", "output" };
    return (unsigned)role < MF_N_ROLE ? names[role] : NULL;
}

mf_status mf_source_open(mf_source **out, const char *path, const mf_source_options *options, mf_error *error)
{
    if (!out) return mfi_fail(error, MF_E_INVALID, "out is NULL");
    *out = NULL;
    if (!path) return mfi_fail(error, MF_E_INVALID, "path is NULL");
    mf_source_options o = { 0 };
    mf_status status = mfi_read_options(&o, sizeof o, MFI_FIRST_BYTES(mf_source_options, allocator), options,
                                        "mf_source_options", error);
    if (status != MF_OK) return status;
    o.allocator = mfi_allocator(&o.allocator);
    mf_source *source = mfi_alloc(&o.allocator, sizeof *source);
    if (!source) return mfi_fail(error, MF_E_NOMEM, "no memory for a source");
    source->allocator = o.allocator;
    status = mfi_import_recognises(path) ? mfi_source_import(source, path, error)
                                         : mfi_source_container(source, path, &o, error);
    if (status == MF_OK)
        *out = source;
    else
        mfi_free(&o.allocator, source, sizeof *source);
    return status;
}

void mf_source_close(mf_source *source)
{
    if (!source) return;
    const mf_allocator allocator = source->allocator;
    source->close(source->object);
    mfi_config_free(&source->own_config, &allocator);
    mfi_free(&allocator, source, sizeof *source);
}

mf_status mfi_source_slice(mfi_slice **out, const mf_source *source, const char *text, mf_error *error)
{
    *out = NULL;
    mfi_spec_storage storage;
    mfi_view_layer layers[MFI_MAX_LAYER];
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    const mfi_view_source from = { source->config, source->config->n_granularity - 1, source->plan,
                                   source->plan_refused, UINT32_MAX };
    mf_status status = text ? mfi_submodel_parse(&spec, &storage, text, error) : MF_OK;
    if (status == MF_OK) status = mfi_view_choose(layers, &from, &spec, error);
    if (status != MF_OK) return status;
    return mfi_slice_create(out, source->config, &source->weights, layers, &source->allocator, error);
}

mf_status mf_source_info_get(const mf_source *source, mf_source_info *info)
{
    return source ? mfi_write_info(info, &source->info, sizeof source->info,
                                   MFI_FIRST_BYTES(mf_source_info, has_tokenizer))
                  : MF_E_INVALID;
}
