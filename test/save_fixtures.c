/* save_fixtures.c - writes small models to a folder, FOLDER/VARIANT.mf: a corpus for fuzz_container. With
 * --weights also what went into each, as rows of f32, FOLDER/VARIANT/NAME.f32, for test_read_mf.py. */
#define _POSIX_C_SOURCE 200809L
#include <stdlib.h>
#include <sys/stat.h>

#include "matlm_fixture.h"
#include "plan_fixture.h"

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

static void write_blob(const char *folder, const mf_allocator *allocator)
{
    char path[512];
    void *blob;
    size_t bytes;
    if (fixture_tokenizer(&blob, &bytes, allocator, NULL) != MF_OK) fail("no tokenizer");
    snprintf(path, sizeof path, "%s/tokenizer.bin", folder);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(blob, bytes, 1, file) != 1 || fclose(file) != 0) fail(path);
    mfi_free(allocator, blob, bytes);
}

static void write_weights(const char *folder, const fixture_variant *v, const mf_allocator *allocator)
{
    char path[400];
    mfi_config config;
    snprintf(path, sizeof path, "%s", folder);
    if (mkdir(path, 0777) != 0 || fixture_config(&config, v->plain, v->tied, allocator) != MF_OK) fail(path);
    fixture_visit(&config, write_rows, path);
    mfi_config_free(&config, allocator);
    if (!v->plain) write_blob(path, allocator);
}

/* The second slot is the newer one then. */
static void store_plan(const fixture_variant *v, const mf_allocator *allocator, const char *path)
{
    mfi_config config;
    if (fixture_config(&config, v->plain, v->tied, allocator) != MF_OK ||
        plan_fixture_store(path, &config, 5, "a machine", NULL) != MF_OK)
        fail(path);
    mfi_config_free(&config, allocator);
}

int main(int argc, char **argv)
{
    static const fixture_variant variants[] = {
        { .plain = false, .tied = true, .type = MFK_BF16, .storage = MFI_ZSTD },
        { .plain = false, .tied = false, .type = MFK_F32, .storage = MFI_RAW },
        { .plain = true, .tied = true, .type = MFK_F32, .storage = MFI_ZSTD },
        { .plain = true, .tied = false, .type = MFK_BF16, .storage = MFI_RAW, .one_shell = true },
        { .plain = false, .tied = true, .type = MFK_Q8, .storage = MFI_RAW },
        { .plain = true, .tied = false, .type = MFK_Q4, .storage = MFI_ZSTD },
        { .plain = false, .tied = false, .type = MFK_F16, .storage = MFI_ZSTD },
    };
    bool weights = argc == 3 && strcmp(argv[2], "--weights") == 0;
    if (argc != 2 && !weights) fail("usage: save_fixtures FOLDER [--weights]");
    mf_allocator allocator = mfi_allocator(NULL);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++) {
        const fixture_variant *v = &variants[i];
        char path[400];
        mf_error error = MF_ERROR_INIT;
        int length = snprintf(path, sizeof path - 4, "%s/%s-%s-%s-%s%s", argv[1], v->plain ? "plain" : "gated",
                              v->tied ? "tied" : "free", mfk_type_name(v->type), v->storage == MFI_RAW ? "raw" : "zstd",
                              v->one_shell ? "-one" : "");
        if (weights) write_weights(path, v, &allocator);
        memcpy(path + length, ".mf", 4);
        if (fixture_save(v, &allocator, path, &error) != MF_OK) fail(error.detail);
        if (i % 2 == 0) store_plan(v, &allocator, path);
    }
    return 0;
}
