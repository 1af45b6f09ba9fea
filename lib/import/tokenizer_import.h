/* tokenizer_import.h - tokenizers of other people's checkpoints to the blob of tokenizer.h.
 *
 * What a file asks for and is not known here is refused by name: a tokenizer that is nearly right is wrong.
 * *blob has *bytes bytes and is freed with mfi_free(allocator, ...). */
#ifndef MFI_TOKENIZER_IMPORT_H
#define MFI_TOKENIZER_IMPORT_H

#include "arena.h"
#include "matformer.h"
#include "tensor_file.h"

/* tokenizer.json where the folder has one, else tokenizer.model; MF_E_NOT_FOUND where it has neither. Ends of text and
 * the format of chats come from tokenizer_config.json, generation_config.json and chat_template.jinja, all optional. */
mf_status mfi_tokenizer_from_folder(void **blob, size_t *bytes, const mf_allocator *allocator, const char *folder,
                                    mf_error *error);
/* From the metadata of a GGUF file; MF_E_NOT_FOUND where it has no tokenizer. */
mf_status mfi_tokenizer_from_gguf(void **blob, size_t *bytes, const mf_allocator *allocator,
                                  const mfi_tensor_file *file, mf_error *error);

/* The two files of a folder, from memory and alone. `name` is for messages. */
mf_status mfi_tokenizer_from_json(void **blob, size_t *bytes, const mf_allocator *allocator, const char *name,
                                  const char *text, size_t text_bytes, mf_error *error);
mf_status mfi_tokenizer_from_spm(void **blob, size_t *bytes, const mf_allocator *allocator, const char *name,
                                 const void *model, size_t model_bytes, mf_error *error);

#endif
