/* residency_api.c - the exported functions that change which shells are in memory. */
#include "model.h"
#include "status.h"

mf_status mf_model_grow(mf_model *model, const char *granularity, const mf_grow_options *options, mf_error *error)
{
    if (model == NULL) return mfi_fail(error, MF_E_INVALID, "model is NULL");
    mf_grow_options full = MF_GROW_OPTIONS_INIT;
    const mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_grow_options, progress_user),
                                              options, "mf_grow_options", error);
    return status == MF_OK ? mfi_model_grow(model, granularity, &full, error) : status;
}

mf_status mf_model_trim(mf_model *model, const char *granularity, const mf_trim_options *options, mf_error *error)
{
    if (model == NULL) return mfi_fail(error, MF_E_INVALID, "model is NULL");
    mf_trim_options full = MF_TRIM_OPTIONS_INIT;
    const mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_trim_options, reserved), options,
                                              "mf_trim_options", error);
    return status == MF_OK ? mfi_model_trim(model, granularity, &full, error) : status;
}

mf_status mf_model_attach(mf_model *model, const char *path, mf_error *error)
{
    if (model == NULL || path == NULL || path[0] == '\0')
        return mfi_fail(error, MF_E_INVALID, "model is NULL, or there is no path");
    const mfi_container_source source = { .path = path, .fd = -1 };
    return mfi_model_attach(model, &source, error);
}

mf_status mf_model_attach_fd(mf_model *model, int fd, uint64_t offset, uint64_t bytes, mf_error *error)
{
    if (model == NULL || fd < 0) return mfi_fail(error, MF_E_INVALID, "model is NULL, or file descriptor %d", fd);
    const mfi_container_source source = { .fd = fd, .offset = offset, .bytes = bytes };
    return mfi_model_attach(model, &source, error);
}

mf_status mf_model_feed(mf_model *model, uint32_t shell, const void *data, size_t bytes, mf_error *error)
{
    if (model == NULL || (data == NULL && bytes != 0))
        return mfi_fail(error, MF_E_INVALID, "model is NULL, or data is but bytes are not 0");
    return mfi_model_feed(model, shell, data, bytes, error);
}

mf_status mf_model_shell_info_get(const mf_model *model, uint32_t shell, mf_shell_info *info)
{
    return model == NULL || info == NULL ? MF_E_INVALID : mfi_model_shell_info(model, shell, info);
}
