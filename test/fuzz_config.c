/* fuzz_config.c - libFuzzer target: any bytes as the config.json of a folder whose tensors are those of a small model.
 * The last byte says which of them and is cut off; corpus/config is one to begin with. */
#define _GNU_SOURCE
#include "fuzz_checkpoint.h"
#include "import.h"
#include "schema.h"

#include <sys/stat.h>

/* A letter, and the checkpoint of golden/checkpoints that it stands for. */
static const struct {
    char letter;
    const char *checkpoint;
} models[] = { { 'L', "llama_linear_f16" },
               { 'B', "llama_tied_biases_f32" },
               { 'G', "gemma3n_nested" },
               { 'O', "olmo_parallel" },
               { 'V', "vit_pooler_f32" } };

static char folders[sizeof models / sizeof *models][64];

static void remove_folders(void)
{
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const char *const files[] = { "config.json", "model.safetensors" };
        for (size_t f = 0; f < 2; f++) {
            snprintf(fuzz_file, sizeof fuzz_file, "%.40s/%s", folders[i], files[f]);
            unlink(fuzz_file);
        }
        rmdir(folders[i]);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    char tensors[512], link[96];
    (void)argc;
    (void)argv;
    fuzz_begin("none");
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        snprintf(folders[i], sizeof folders[i], "%s/%c", fuzz_folder, models[i].letter);
        snprintf(tensors, sizeof tensors, "%s/checkpoints/%s/model.safetensors", GOLDEN_DIR, models[i].checkpoint);
        snprintf(link, sizeof link, "%s/model.safetensors", folders[i]);
        if (mkdir(folders[i], 0700) != 0 || symlink(tensors, link) != 0) fuzz_stop("no folder");
    }
    atexit(remove_folders); /* before the folder around them is */
    return 0;
}

/* The first and the last row: the configuration was held against the tensors, and these have finite weights. */
static void read_tensor(void *user, const mfi_schema_tensor *tensor)
{
    const mfi_weights *weights = user;
    const bool is_vector = tensor->kind == MFI_PLAIN;
    const size_t n = (size_t)(is_vector ? 1 : tensor->n), k = (size_t)(is_vector ? tensor->n : tensor->k);
    if (strncmp(tensor->name, "rope.", 5) == 0) return; /* of the configuration alone */
    float *row = malloc(k * sizeof *row);
    for (uint32_t i = 0; i < tensor->n_matrix; i++)
        if (weights->read(weights->user, tensor->matrix[i], 0, 1, 0, k, row, NULL) != MF_OK ||
            weights->read(weights->user, tensor->matrix[i], n - 1, 1, k - 1, 1, row, NULL) != MF_OK)
            fuzz_stop("a tensor that was found cannot be read");
    free(row);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    size_t model = 0;
    if (bytes == 0) return 0;
    while (model < sizeof models / sizeof *models && models[model].letter != (char)data[bytes - 1])
        model++;
    if (model == sizeof models / sizeof *models) return -1; /* not for the corpus */
    snprintf(fuzz_file, sizeof fuzz_file, "%.40s/config.json", folders[model]);
    fuzz_write(data, bytes - 1);

    fuzz_memory memory = { 0, (size_t)16 << 20 };
    const mf_allocator allocator = { fuzz_alloc, fuzz_free, &memory };
    mf_error error = MF_ERROR_INIT;
    mfi_import *in;
    const mf_status status = mfi_import_open(&in, folders[model], &allocator, &error);
    if (status != error.status || (status == MF_OK) != (in != NULL) || (status != MF_OK) != (error.detail[0] != 0))
        fuzz_stop("a status, an error and a model that do not agree");
    if (in) {
        mfi_weights weights = mfi_import_weights(in);
        mfi_schema_each(mfi_import_config(in), read_tensor, &weights);
    }
    mfi_import_close(in);
    if (memory.live_bytes != 0) fuzz_stop("a leak");
    return 0;
}
