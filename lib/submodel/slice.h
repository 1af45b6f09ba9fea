/* slice.h - a view as a model of its own: the configuration and the weights that a file physically cut to it has. Nothing
 * is copied: what is read is read from the whole model. */
#ifndef MFI_SLICE_H
#define MFI_SLICE_H

#include "submodel.h"

typedef struct mfi_slice mfi_slice;

/* `config` and `weights` must outlive it. MF_E_UNSUPPORTED where the cut model cannot be said by a configuration. */
mf_status mfi_slice_create(mfi_slice **out, const mfi_config *config, const mfi_weights *weights,
                           const mfi_view_layer *layers, const mf_allocator *allocator, mf_error *error);
void mfi_slice_free(mfi_slice *slice);
/* Of kept layers alone, in one granularity "XL". */
const mfi_config *mfi_slice_config(const mfi_slice *slice);
mfi_weights mfi_slice_weights(mfi_slice *slice);

#endif
