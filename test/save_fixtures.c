/* save_fixtures.c - writes small models to a folder, and beside each file what went into it, as rows of f32:
 * FOLDER/VARIANT.mf and FOLDER/VARIANT/NAME.f32. test_read_mf.py reads both. */
#define _POSIX_C_SOURCE 200809L
#include <stdlib.h>
#include <sys/stat.h>

#include "matlm_fixture.h"

static void fail(const char *what)
{
    fprintf(stderr, "save_fixtures: %s\n", what);
    exit(1);
}

static void write_rows(void *user, const char *name, size_t rows, size_t columns)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s.f32", (const char *)user, name);
    FILE *file = fopen(path, "wb");
    if (!file) fail(path);
    for (size_t i = 0; i < rows * columns; i++) {
        float weight = fixture_weight(name, i / columns, i % columns);
        if (fwrite(&weight, sizeof weight, 1, file) != 1) fail(path);
    }
    if (fclose(file) != 0) fail(path);
}

static void save(const char *folder, bool plain, bool tied, mfk_type type, mfi_storage storage, bool one_shell)
{
    static const unsigned char tokenizer[] = { 0, 1, 254, 255 };
    char path[400];
    snprintf(path, sizeof path, "%s/%s-%s-%s-%s%s", folder, plain ? "plain" : "gated", tied ? "tied" : "free",
             type == MFK_F32 ? "f32" : "bf16", storage == MFI_RAW ? "raw" : "zstd", one_shell ? "-one" : "");
    mf_allocator allocator = mfi_allocator(NULL);
    mf_error error = MF_ERROR_INIT;
    mfi_matlm_config config;
    if (mkdir(path, 0777) != 0 || fixture_config(&config, plain, tied, &allocator) != MF_OK) fail(path);
    fixture_visit(&config, write_rows, path);
    mfi_matlm_save_options options = { .type = type,
                                       .storage = storage,
                                       .one_shell = one_shell,
                                       .tokenizer = tokenizer,
                                       .tokenizer_bytes = sizeof tokenizer };
    snprintf(path + strlen(path), sizeof path - strlen(path), ".mf");
    if (mfi_matlm_save(&config, &fixture_weights, &options, &allocator, path, &error) != MF_OK) fail(error.detail);
    mfi_matlm_config_free(&config, &allocator);
}

int main(int argc, char **argv)
{
    if (argc != 2) fail("usage: save_fixtures FOLDER");
    save(argv[1], false, true, MFK_BF16, MFI_ZSTD, false);
    save(argv[1], false, false, MFK_F32, MFI_RAW, false);
    save(argv[1], true, true, MFK_F32, MFI_ZSTD, false);
    save(argv[1], true, false, MFK_BF16, MFI_RAW, true);
    return 0;
}
