/* import.h - a checkpoint of others as a configuration and weights: a Hugging Face folder or a GGUF file. Nothing is
 * converted here; a saver (model_config.h) does that, to a file or to memory. docs/import.md says what is read. */
#ifndef MFI_IMPORT_H
#define MFI_IMPORT_H

#include "model_config.h"
#include "tensor_file.h"

typedef struct mfi_import mfi_import;

/* Whether the path is one that mfi_import_open reads: a folder, or a file that begins as GGUF does. False for what
 * cannot be read at all: whoever opens it as a .mf file says why. */
bool mfi_import_recognises(const char *path);
/* Reads the headers, the configuration and the tokenizer, and checks that every tensor is there in its size. */
mf_status mfi_import_open(mfi_import **out, const char *path, const mf_allocator *allocator, mf_error *error);
void mfi_import_close(mfi_import *import);

const char *mfi_import_format(const mfi_import *import); /* "safetensors" or "gguf" */
const char *mfi_import_folder(const mfi_import *import); /* NULL of GGUF */
const mfi_config *mfi_import_config(const mfi_import *import);
mfi_weights mfi_import_weights(mfi_import *import);
const void *mfi_import_tokenizer(const mfi_import *import, size_t *bytes); /* blob of tokenizer.h, or NULL */
/* All tensors, also those that are not used; and the one that a matrix or vector of schema.h lies in: NULL of what is
 * computed. *is_exact: a saver that stores it as `type` keeps every value. */
const mfi_tensor_file *mfi_import_file(const mfi_import *import);
const mfi_source_tensor *mfi_import_find(const mfi_import *import, const char *matrix, mfk_type type, bool *is_exact);

#endif
