/* tokenizer_import.c - none yet. */
#include "tokenizer_import.h"

#include "status.h"

mf_status mfi_tokenizer_from_folder(void **blob, size_t *bytes, const mf_allocator *allocator, const char *folder,
                                    mf_error *error)
{
    (void)allocator;
    *blob = NULL;
    *bytes = 0;
    return mfi_fail(error, MF_E_NOT_FOUND, "%s: no tokenizer", folder);
}

mf_status mfi_tokenizer_from_gguf(void **blob, size_t *bytes, const mf_allocator *allocator,
                                  const mfi_tensor_file *file, mf_error *error)
{
    (void)allocator;
    *blob = NULL;
    *bytes = 0;
    return mfi_fail(error, MF_E_NOT_FOUND, "%s: no tokenizer", mfi_tensor_file_name(file));
}
