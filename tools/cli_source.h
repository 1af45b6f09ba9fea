/* cli_source.h - what `matformer info` says of a Hugging Face folder or a GGUF file, without packing it. */
#ifndef CLI_SOURCE_H
#define CLI_SOURCE_H

#include "cli_model.h"

/* `all`: weights are read in full for their errors. Returns the exit status. */
int cli_source_info(const char *path, bool all, bool tensors, bool json);

#endif
