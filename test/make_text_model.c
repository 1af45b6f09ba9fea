/* make_text_model OUT.mf - a small random model whose tokens are bytes, for programs that want text. */
#include <stdio.h>

#include "arena.h"
#include "random_model.h"
#include "tokenizer.h"

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    random_shape shape = *random_shape_find("tiny");
    shape.n_vocab = MFI_BYTE_TOKENS + 1;
    random_model model;
    mf_error error = MF_ERROR_INIT;
    mf_allocator allocator = mfi_allocator(NULL);
    void *blob = NULL;
    size_t bytes = 0;
    mf_status status = random_model_init_shape(&model, &shape, 1);
    if (status == MF_OK) {
        model.config.eos_token = (int32_t)MFI_BYTE_TOKENS;
        status = mfi_tokenizer_store(&blob, &bytes, &allocator, NULL, 0, 1, &error);
    }
    if (status == MF_OK) {
        mfi_weights weights = random_model_weights(&model);
        mfi_save_options save = { .type = MFK_BF16, .storage = MFI_ZSTD };
        save.tokenizer = blob;
        save.tokenizer_bytes = bytes;
        status = mfi_save(&model.config, &weights, &save, &allocator, argv[1], &error);
    }
    if (status != MF_OK) fprintf(stderr, "%s\n", error.detail);
    mfi_free(&allocator, blob, bytes);
    random_model_free(&model);
    return status != MF_OK;
}
