/* open_checkpoint.h - opening what is no .mf file. */
#ifndef MFI_OPEN_CHECKPOINT_H
#define MFI_OPEN_CHECKPOINT_H

#include "model.h"

/* `options` were read and have an allocator. */
mf_status mfi_open_checkpoint(mf_model **out, const char *path, const mf_model_options *options, mf_error *error);

#endif
