/* fuzz_safetensors.c - libFuzzer target: any bytes as model.safetensors, or as the index of shards where they end with
 * an I, which is cut off; corpus/safetensors is one to begin with. */
#define _GNU_SOURCE
#include "fuzz_checkpoint.h"

#define SINGLE "/model.safetensors"
#define INDEX "/model.safetensors.index.json"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_begin("model.safetensors");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    const int is_index = bytes > 0 && data[bytes - 1] == 'I';
    snprintf(fuzz_file, sizeof fuzz_file, "%s%s", fuzz_folder, is_index ? INDEX : SINGLE);
    fuzz_write(data, bytes - (size_t)is_index);
    fuzz_open(mfi_safetensors_open, fuzz_folder, bytes, NULL);
    unlink(fuzz_file);
    return 0;
}
