/* residency_fixture.h - a model of three sizes with tables, as a file in a folder of its own, and what each size says. */
#ifndef RESIDENCY_FIXTURE_H
#define RESIDENCY_FIXTURE_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model.h"
#include "run_model.h"

enum { SIZES = 3, N_TOKEN = 5 };

typedef struct scene {
    char folder[64], path[96]; /* of the whole file */
    random_model random;
    int32_t *tokens;         /* [N_TOKEN] */
    outputs expected[SIZES]; /* with everything loaded */
} scene;

static inline mf_model *open_path(const char *path, mf_load load, const char *widest)
{
    mf_model_options options = test_options(NULL);
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    options.load = load;
    options.widest = widest;
    cr_assert(mf_model_open(&model, path, &options, &error) == MF_OK, "%s", error.detail);
    return model;
}

static inline scene new_scene(mfk_type type, mfi_storage storage, uint32_t d_ff, uint64_t seed)
{
    scene s = { .folder = "/tmp/mf-residency-XXXXXX" };
    random_shape shape = { "scene",       2,        64,    16, 4, 2, d_ff, 61, 96, SIZES, MFI_NORM_RMS,
                           MFI_FFN_GATED, MFK_SILU, false, 0 };
    mf_error error = MF_ERROR_INIT;
    rng r = { seed };
    cr_assert(mkdtemp(s.folder) != NULL);
    snprintf(s.path, sizeof s.path, "%s/whole.mf", s.folder);
    cr_assert(random_model_init_shape(&s.random, &shape, seed) == MF_OK);
    cr_assert(random_model_save(&s.random, type, storage, false, s.path, &error) == MF_OK, "%s", error.detail);
    mf_model *model = open_path(s.path, MF_LOAD_MAP, NULL);
    s.tokens = new_tokens(model, N_TOKEN, &r);
    for (uint32_t g = 0; g < SIZES; g++) {
        mf_submodel *view = take_named(model, mf_model_granularity(model, g));
        s.expected[g] = run_alone(model, view, s.tokens, N_TOKEN);
        mf_submodel_close(view);
    }
    cr_assert(!same_bits(&s.expected[0], &s.expected[1]) && !same_bits(&s.expected[1], &s.expected[2]));
    mf_model_close(model);
    return s;
}

static inline void empty_folder(const char *folder)
{
    char path[1024];
    DIR *entries = opendir(folder);
    for (const struct dirent *entry; entries && (entry = readdir(entries)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        unlink(path);
    }
    if (entries) closedir(entries);
}

static inline void drop_scene(scene *s)
{
    for (uint32_t g = 0; g < SIZES; g++)
        drop_outputs(&s->expected[g]);
    free(s->tokens);
    random_model_free(&s->random);
    empty_folder(s->folder);
    rmdir(s->folder);
}

/* What a size says: its status, and with MF_OK whether the bits are those that are expected. */
static inline mf_status run_size(mf_model *model, const scene *s, uint32_t size, bool *same, mf_error *error)
{
    mf_submodel *view = take_named(model, mf_model_granularity(model, size));
    mf_session *session = new_session(model);
    mf_executor *executor = new_executor(model, 1, 8);
    outputs out = new_outputs(model, N_TOKEN);
    mf_request request = request_all(session, view, s->tokens, N_TOKEN, &out, 0);
    const mf_status status = mf_forward(executor, &request, 1, sizeof request, error);
    cr_assert(request.status == status);
    *same = status == MF_OK && same_bits(&out, &s->expected[size]);
    drop_outputs(&out);
    mf_executor_close(executor);
    mf_session_close(session);
    mf_submodel_close(view);
    return status;
}

/* The first n sizes run and say what they should, the others are refused with a sentence. */
static inline void expect_sizes(mf_model *model, const scene *s, uint32_t n, const char *what)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    cr_assert(mf_model_info_get(model, &info) == MF_OK && info.n_shell == SIZES);
    cr_assert(info.n_shell_resident == n, "%s: %u shells, not %u", what, info.n_shell_resident, n);
    for (uint32_t g = 0; g < SIZES; g++) {
        mf_error error = MF_ERROR_INIT;
        bool same;
        const mf_status status = run_size(model, s, g, &same, &error);
        if (g < n)
            cr_assert(status == MF_OK && same, "%s: size %u: %s", what, g, error.detail);
        else
            cr_assert(status == MF_E_NOT_RESIDENT && error.detail[0], "%s: size %u: %s", what, g,
                      mf_status_name(status));
    }
}

#endif
