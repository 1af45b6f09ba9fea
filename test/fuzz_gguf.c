/* fuzz_gguf.c - libFuzzer target: any bytes as a GGUF file; corpus/gguf is one to begin with. */
#define _GNU_SOURCE
#include "fuzz_checkpoint.h"

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    fuzz_begin("model.gguf");
    return 0;
}

static int add_bytes(void *user, uint64_t index, mfi_gguf_text text)
{
    (void)index;
    for (size_t i = 0; i < text.bytes; i++)
        *(unsigned *)user += (unsigned char)text.at[i];
    return 0;
}

static void read_list(const mfi_tensor_file *file, const char *key, uint64_t count)
{
    enum { MOST = 4096 };
    static double values[MOST];
    unsigned sum = 0;
    mfi_gguf_array_f64(file, key, values, MOST);
    if (mfi_gguf_array_texts(file, key, add_bytes, &sum) && mfi_gguf_array_f64(file, key, values, (size_t)count))
        fuzz_stop("texts that are numbers");
}

static void read_metadata(const mfi_tensor_file *file)
{
    mfi_gguf_text key, text;
    mfi_gguf_kind kind;
    static char name[65536]; /* no stack that a sanitizer would have to mark */
    for (uint32_t i = 0; mfi_gguf_key_at(file, i, &key, &kind); i++) {
        uint64_t count = 0;
        double real;
        bool truth;
        unsigned sum = 0;
        memcpy(name, key.at, key.bytes);
        name[key.bytes] = '\0';
        if (mfi_gguf_text_of(file, name, &text)) add_bytes(&sum, 0, text);
        if (mfi_gguf_u64(file, name, &count) && !mfi_gguf_f64(file, name, &real)) fuzz_stop("an integer that is none");
        if (mfi_gguf_bool(file, name, &truth) != (kind == MFI_GGUF_BOOL)) fuzz_stop("a kind that is another");
        if (mfi_gguf_array(file, name, &kind, &count)) read_list(file, name, count);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    fuzz_write(data, bytes);
    fuzz_open(mfi_gguf_open, fuzz_file, bytes, read_metadata);
    return 0;
}
