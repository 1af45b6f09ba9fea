/* train_paths.h - what `train` writes where, checked before hours are spent on it. */
#ifndef TRAIN_PATHS_H
#define TRAIN_PATHS_H

#include "train_data.h"

/* Refuses what cannot be written, and a file that would replace another one of the run: --out, --checkpoint and
 * --log are three files, and none of them is a text that `data` has read. */
mf_status train_paths_check(const train_options *options, const train_data *data, mf_error *error);

#endif
