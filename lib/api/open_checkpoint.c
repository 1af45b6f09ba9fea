/* open_checkpoint.c - a Hugging Face folder or a GGUF file, opened directly: packed into memory as `matformer convert`
 * would pack it into a file, and opened from there. */
#include "open_checkpoint.h"

#include "import.h"
#include "platform.h"
#include "status.h"

static mf_status pack(mfi_import *in, const char *path, const mf_model_options *options, mfi_image *image,
                      mf_error *error)
{
    const mfi_weights weights = mfi_import_weights(in);
    mfi_save_options save = { .one_shell = true,
                              .n_thread = options->n_thread ? options->n_thread : mfi_usable_cores(),
                              .progress = options->progress,
                              .progress_user = options->progress_user };
    save.tokenizer = mfi_import_tokenizer(in, &save.tokenizer_bytes);
    const mfi_fp_mode mode = mfi_fp_enter();
    const mf_status status =
        mfi_save_image(mfi_import_config(in), &weights, &save, &options->allocator, path, image, error);
    mfi_fp_leave(mode);
    return status;
}

mf_status mfi_open_checkpoint(mf_model **out, const char *path, const mf_model_options *options, mf_error *error)
{
    mfi_import *in;
    mfi_container_source source = { .fd = -1, .name = path };
    mf_status status = mfi_import_open(&in, path, &options->allocator, error);
    if (status != MF_OK) return status;
    status = pack(in, path, options, &source.image, error);
    mfi_import_close(in);
    if (status != MF_OK) return status;
    mf_model_options packed = *options; /* its progress has been told */
    packed.progress = NULL;
    return mfi_model_open(out, &source, &packed, error);
}
