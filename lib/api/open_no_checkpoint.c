/* open_no_checkpoint.c - instead of open_checkpoint.c in a build with -Dimport=disabled. */
#include "open_checkpoint.h"
#include "status.h"

mf_status mfi_open_checkpoint(mf_model **out, const char *path, const mf_model_options *options, mf_error *error)
{
    (void)out;
    (void)options;
    return mfi_fail(error, MF_E_UNSUPPORTED,
                    "%s: this build reads .mf files alone: make one of it with `matformer convert`", path);
}
