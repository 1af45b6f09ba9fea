/* export_fixture.h - exporting to a folder of its own, for tests. */
#ifndef EXPORT_FIXTURE_H
#define EXPORT_FIXTURE_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

#include "arena.h"
#include "matformer_tools.h"
#include "run_model.h"
#include "tokenizer.h"
#include "tokenizer_import.h"

/* ---- A folder for what is exported ---- */

typedef struct place {
    char folder[64], out[128], other[128];
} place;

static inline place new_place(void)
{
    place p = { "/tmp/mf-export-XXXXXX", "", "" };
    cr_assert_not_null(mkdtemp(p.folder));
    snprintf(p.out, sizeof p.out, "%s/out", p.folder);
    snprintf(p.other, sizeof p.other, "%s/other", p.folder);
    return p;
}

static inline size_t count_files(const char *folder)
{
    size_t n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *entry; d && (entry = readdir(d));)
        n += entry->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

static inline void remove_all(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *entry; d && (entry = readdir(d));) {
        char inner[512];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        if (snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name) < (int)sizeof inner) remove_all(inner);
    }
    if (d) closedir(d);
    remove(path);
}

static inline bool same_file(const char *a, const char *b)
{
    model_file first = read_file(a), second = read_file(b);
    const bool same = first.bytes == second.bytes && memcmp(first.data, second.data, first.bytes) == 0;
    drop_file(&first);
    drop_file(&second);
    return same;
}

/* ---- Exporting ---- */

static inline const char *checkpoint(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/checkpoints/%s", GOLDEN_DIR, name);
    return path;
}

static inline mf_export_options options_of(mf_export_format format, mf_weight_type type, const char *view)
{
    mf_export_options options = MF_EXPORT_OPTIONS_INIT;
    options.format = format;
    options.type = type;
    options.submodel = view && view[0] ? view : NULL;
    return options;
}

static inline mf_status try_export(const char *from, const char *to, const mf_export_options *options, mf_error *error)
{
    mf_source *source;
    mf_status status = mf_source_open(&source, from, NULL, error);
    if (status != MF_OK) return status;
    status = mf_export(source, to, options, error);
    mf_source_close(source);
    return status;
}

static inline void export(const char *from, const char *to, const mf_export_options *options)
{
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(try_export(from, to, options, &error), MF_OK, "%s", error.detail);
}

static const random_shape own_shape = { "own",         3,        64,    32, 4, 2, 128, 100, 64, 2, MFI_NORM_RMS,
                                        MFI_FFN_GATED, MFK_SILU, false, 2 };

static inline void load_file(const char *name, mfi_tokenizer **out, void **blob, size_t *bytes)
{
    const mf_allocator allocator = mfi_allocator(NULL);
    char path[512];
    mf_error error = MF_ERROR_INIT;
    snprintf(path, sizeof path, "%s/tokenizers/%s", GOLDEN_DIR, name);
    model_file file = read_file(path);
    const bool is_json = strstr(name, ".json") != NULL;
    mf_status status =
        is_json ? mfi_tokenizer_from_json(blob, bytes, &allocator, name, (char *)file.data, file.bytes, &error)
                : mfi_tokenizer_from_spm(blob, bytes, &allocator, name, file.data, file.bytes, &error);
    cr_assert_eq(status, MF_OK, "%s", error.detail);
    cr_assert_eq(mfi_tokenizer_load(out, &allocator, *blob, *bytes, &error), MF_OK, "%s", error.detail);
    drop_file(&file);
}

/* A model of our own that has it, with some rows more, as GGUF. */
static inline void export_with_tokenizer(const char *out, const void *blob, size_t bytes, uint32_t n_vocab)
{
    const mf_allocator allocator = mfi_allocator(NULL);
    random_shape shape = own_shape;
    random_model random;
    mf_error error = MF_ERROR_INIT;
    char file[160];
    shape.n_vocab = n_vocab + 5;
    snprintf(file, sizeof file, "%s.mf", out);
    cr_assert_eq(random_model_init_shape(&random, &shape, 5), MF_OK);
    const mfi_weights weights = random_model_weights(&random);
    const mfi_save_options save = { .type = MFK_BF16, .storage = MFI_RAW, .tokenizer = blob, .tokenizer_bytes = bytes };
    cr_assert_eq(mfi_save(&random.config, &weights, &save, &allocator, file, &error), MF_OK, "%s", error.detail);
    random_model_free(&random);
    const mf_export_options options = options_of(MF_EXPORT_GGUF, MF_WEIGHT_KEEP, "");
    export(file, out, &options);
    remove(file);
}

#endif
