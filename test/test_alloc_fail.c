/* test_alloc_fail.c - memory runs out at every possible place: a clean status, nothing lost, nothing broken. */
#define _POSIX_C_SOURCE 200809L /* posix_memalign */
#include "run_model.h"
#include "arena.h"
#include "counting_allocator.h"
#include "plan_fixture.h"
#include "tokenizer.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = 80 };

static const int32_t tokens[LENGTH] = { 5, 3, 1, 2, 90, 17, 4 };

/* With a plan, which a file gets after it was written. */
static model_file with_plan(model_file file, const mfi_config *config)
{
    temporary_path path = new_path();
    FILE *out = fopen(path.text, "wb");
    cr_assert(out && fwrite(file.data, 1, file.bytes, out) == file.bytes && fclose(out) == 0);
    cr_assert(plan_fixture_store(path.text, config, 20, "", NULL) == MF_OK);
    drop_file(&file);
    file = read_file(path.text);
    remove(path.text);
    return file;
}

/* tiny with a plan, and a tokenizer of plain bytes, so that generation has text to keep. */
static model_file make_tiny(mfi_storage storage)
{
    random_model random;
    random_shape shape = *random_shape_find("tiny");
    mf_allocator c_library = mfi_allocator(NULL);
    void *blob = NULL;
    size_t bytes = 0;
    shape.n_vocab = 256;
    cr_assert(random_model_init_shape(&random, &shape, 3) == MF_OK);
    cr_assert(mfi_tokenizer_store(&blob, &bytes, &c_library, NULL, 0, 0, NULL) == MF_OK);
    const char *metadata[] = { "title", "tiny", NULL };
    mfi_save_options options = { MFK_BF16, storage, false, blob, bytes, metadata };
    model_file file = with_plan(make_file(&random.config, random_model_weights(&random), &options), &random.config);
    mfi_free(&c_library, blob, bytes);
    random_model_free(&random);
    return file;
}

/* ---- The whole life of a program ---- */

typedef struct life {
    mf_model *model;
    mf_submodel *view, *text_view, *planned;
    mf_executor *executor;
    mf_session *session, *fork, *loaded;
    mf_sampler *sampler;
    const char *path; /* to save to */
    float *logits;
} life;

static mf_status forward(life *l, mf_session *session, size_t from, size_t n, mf_error *error)
{
    mf_request request = { .session = session, .submodel = l->view, .tokens = tokens + from, .n_token = n };
    request.logits = l->logits;
    request.logits_capacity = 256;
    return mf_forward(l->executor, &request, 1, sizeof(request), error);
}

static mf_status generate(life *l, mf_error *error)
{
    static const char *const stop[] = { "never in bytes at random" };
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.prompt = "Once";
    options.max_tokens = 5;
    options.stop = stop;
    options.n_stop = 1;
    options.sampler = l->sampler;
    mf_status status = mf_generate(NULL, NULL, l->view, &options, &result, error);
    options.sampler = NULL;
    if (status == MF_OK) status = mf_generate(l->executor, l->session, l->text_view, &options, &result, error);
    if (status == MF_OK) {
        mf_generation *generation;
        mf_token_batch batch = MF_TOKEN_BATCH_INIT;
        status = mf_generation_create(&generation, NULL, NULL, l->view, &options, NULL, error);
        cr_assert((generation != NULL) == (status == MF_OK));
        if (status == MF_OK) status = mf_generation_next(generation, 0, &batch, error);
        mf_generation_close(generation);
    }
    return status;
}

static mf_status step(life *l, uint32_t index, const model_file *file, const mf_model_options *options, mf_error *error)
{
    switch (index) {
    case 0:
        return mf_model_open_memory(&l->model, file->data, file->bytes, options, error);
    case 1:
        return mf_extract_submodel(&l->view, l->model, NULL, error);
    case 2:
        return mf_extract_submodel_text(&l->text_view, l->model, "S;heads=3x3", error);
    case 3:
        return mf_extract_submodel_text(&l->planned, l->model, "bytes<=6000", error);
    case 4:
        return mf_executor_create(&l->executor, l->model, &(mf_executor_options){ sizeof(mf_executor_options), 2 },
                                  error);
    case 5:
        return mf_session_create(&l->session, l->model, NULL, error);
    case 6:
        return mf_session_create(&l->loaded, l->model, NULL, error);
    case 7:
        return forward(l, l->session, 0, 70, error);
    case 8:
        return mf_session_fork(&l->fork, l->session, error);
    case 9:
        return forward(l, l->fork, 70, 5, error);
    case 10:
        return mf_session_save(l->session, l->path, error);
    case 11:
        return mf_session_load(l->loaded, l->path, error);
    case 12:
        return forward(l, l->loaded, 70, 5, error);
    case 13:
        return mf_sampler_create(&l->sampler, l->model, NULL, error);
    default:
        return generate(l, error);
    }
}

enum { STEPS = 15 };

static void end_life(life *l)
{
    mf_sampler_close(l->sampler);
    mf_session_close(l->session);
    mf_session_close(l->fork);
    mf_session_close(l->loaded);
    mf_executor_close(l->executor);
    mf_submodel_close(l->view);
    mf_submodel_close(l->text_view);
    mf_submodel_close(l->planned);
    mf_model_close(l->model);
}

/* Lives until the first failure; the index of the step that failed, or STEPS. */
static uint32_t live(const model_file *file, const mf_model_options *options, const char *path, counting *counts)
{
    float logits[256];
    life l = { .path = path, .logits = logits };
    mf_error error = MF_ERROR_INIT;
    uint32_t i = 0;
    while (i < STEPS && step(&l, i, file, options, &error) == MF_OK)
        i++;
    if (i < STEPS)
        cr_assert(error.status == MF_E_NOMEM && error.detail[0], "allocation %zu, step %u: %s: %s", counts->fail_at, i,
                  mf_status_name(error.status), error.detail);
    end_life(&l);
    cr_assert(counts->live_bytes == 0, "allocation %zu, step %u: %zu bytes leaked", counts->fail_at, i,
              counts->live_bytes);
    return i;
}

static void fail_every_allocation(mfi_storage storage, mf_load load, int and_all_after)
{
    model_file file = make_tiny(storage);
    temporary_path path = new_path();
    uint32_t reached = 0;
    size_t fail_at = 1;
    for (bool failed = true; failed; fail_at++) {
        counting counts = { .fail_at = fail_at, .fail_after = and_all_after };
        mf_model_options options = MF_MODEL_OPTIONS_INIT;
        options.allocator = counting_allocator(&counts);
        options.load = load;
        reached = live(&file, &options, path.text, &counts);
        failed = counts.n_alloc >= fail_at;
        cr_assert(failed == (reached < STEPS), "allocation %zu failed and nobody noticed", fail_at);
    }
    cr_assert(reached == STEPS && fail_at > 20);
    remove(path.text);
    drop_file(&file);
}

Test(alloc_fail, one_allocation_fails_raw_and_mapped)
{
    fail_every_allocation(MFI_RAW, MF_LOAD_MAP, 0);
}

Test(alloc_fail, one_allocation_fails_raw_and_copied)
{
    fail_every_allocation(MFI_RAW, MF_LOAD_COPY, 0);
}

Test(alloc_fail, one_allocation_fails_compressed)
{
    fail_every_allocation(MFI_ZSTD, MF_LOAD_MAP, 0);
}

Test(alloc_fail, all_allocations_fail_from_one_on)
{
    fail_every_allocation(MFI_RAW, MF_LOAD_MAP, 1);
}

/* ---- One object's failure leaves the others usable ---- */

/* Every step is run to each of its failures and then to its success; what stood before goes on. */
Test(alloc_fail, what_stood_before_a_failure_goes_on_as_if_nothing_had_been)
{
    model_file file = make_tiny(MFI_RAW);
    temporary_path path = new_path();
    float logits[256], expected[256];
    counting counts = { 0 };
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.allocator = counting_allocator(&counts);
    life l = { .path = path.text, .logits = logits };
    for (uint32_t i = 0; i < STEPS; i++) {
        mf_error error = MF_ERROR_INIT;
        mf_status status = MF_E_NOMEM;
        for (size_t n = 1; status != MF_OK; n++) {
            size_t before = counts.live_bytes;
            uint32_t position = l.session ? mf_session_position(l.session) : 0;
            counts.fail_at = counts.n_alloc + n;
            status = step(&l, i, &file, &options, &error);
            cr_assert(status == MF_OK || status == MF_E_NOMEM, "step %u: %s", i, error.detail);
            /* mf_generate keeps what it did in the session. */
            if (status != MF_OK && i + 1 < STEPS) {
                cr_assert(counts.live_bytes == before, "step %u, its allocation %zu: %zu bytes kept", i, n,
                          counts.live_bytes - before);
                cr_assert(!l.session || mf_session_position(l.session) == position, "step %u", i);
            }
        }
        counts.fail_at = 0;
        mf_session *probe = NULL; /* the first session of a model makes the pool of pages, which stays */
        cr_assert(mf_session_create(&probe, l.model, NULL, &error) == MF_OK);
        if (i < 6) {
            mf_session_close(probe);
            continue;
        }
        cr_assert(forward(&l, probe, 0, 70, &error) == MF_OK);
        if (i == 6) memcpy(expected, logits, sizeof(expected));
        cr_assert(memcmp(logits, expected, sizeof(expected)) == 0, "after step %u",
                  i); /* it still gives what it gave */
        mf_session_close(probe);
    }
    end_life(&l);
    cr_assert(counts.live_bytes == 0);
    remove(path.text);
    drop_file(&file);
}
