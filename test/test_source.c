/* test_source.c - what a source says of itself without being converted is what the converted file says. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "counting_allocator.h"
#include "matformer_tools.h"

static const char *const checkpoints[] = { "gemma3n",          "gemma3n_nested",        "llama_grouped_bf16_sharded",
                                           "llama_linear_f16", "llama_tied_biases_f32", "olmo_parallel",
                                           "olmo_sequential" };

static mf_source *open_source(const char *name, counting *memory)
{
    char path[512];
    mf_error error = MF_ERROR_INIT;
    mf_source_options options = MF_SOURCE_OPTIONS_INIT;
    mf_source *source;
    options.allocator = counting_allocator(memory);
    snprintf(path, sizeof path, "%s/checkpoints/%s", GOLDEN_DIR, name);
    cr_assert_eq(mf_source_open(&source, path, &options, &error), MF_OK, "%s", error.detail);
    return source;
}

static mf_model *convert(const mf_source *source)
{
    char path[] = "/tmp/mf-source-XXXXXX";
    mf_error error = MF_ERROR_INIT;
    mf_model *model;
    const int fd = mkstemp(path);
    cr_assert(fd >= 0);
    cr_assert_eq(mf_convert(source, path, NULL, NULL, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mf_model_open(&model, path, NULL, &error), MF_OK, "%s", error.detail);
    unlink(path);
    close(fd);
    return model;
}

static void compare_sizes(const mf_source *source, mf_model *model, const char *name)
{
    mf_source_size size = MF_SOURCE_SIZE_INIT;
    uint32_t n = 0;
    for (; mf_source_size_get(source, n, &size, NULL) == MF_OK; n++) {
        mf_submodel *view;
        mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
        cr_assert_eq(mf_extract_submodel_text(&view, model, size.name, NULL), MF_OK);
        cr_assert_eq(mf_submodel_info_get(view, &info), MF_OK);
        cr_expect(size.n_param == info.n_param && size.bytes_per_token == info.bytes_per_token &&
                      size.n_layer_kept == info.n_layer_kept,
                  "%s, %s", name, size.name);
        mf_submodel_close(view);
    }
    cr_assert(n > 0 && mf_source_size_get(source, n, &size, NULL) == MF_E_RANGE);
}

Test(source, sizes_are_those_of_the_converted_file)
{
    for (size_t i = 0; i < sizeof checkpoints / sizeof checkpoints[0]; i++) {
        counting memory = { .mutex = PTHREAD_MUTEX_INITIALIZER };
        mf_source *source = open_source(checkpoints[i], &memory);
        mf_model *model = convert(source);
        mf_model_info said = MF_MODEL_INFO_INIT, is = MF_MODEL_INFO_INIT;
        cr_assert_eq(mf_source_model_info(source, &said), MF_OK);
        cr_assert_eq(mf_model_info_get(model, &is), MF_OK);
        cr_expect(said.n_param == is.n_param && said.n_layer == is.n_layer && said.n_vocab == is.n_vocab &&
                      said.n_kv_head == is.n_kv_head && strcmp(said.family, is.family) == 0,
                  "%s", checkpoints[i]);
        compare_sizes(source, model, checkpoints[i]);
        mf_model_close(model);
        mf_source_close(source);
        cr_assert_eq(memory.live_bytes, 0);
    }
}

/* Every weight is found once, in types that keep it. */
Test(source, tensors_say_what_they_become)
{
    for (size_t i = 0; i < sizeof checkpoints / sizeof checkpoints[0]; i++) {
        counting memory = { .mutex = PTHREAD_MUTEX_INITIALIZER };
        mf_source *source = open_source(checkpoints[i], &memory);
        mf_source_tensor t = MF_SOURCE_TENSOR_INIT;
        mf_model_info model = MF_MODEL_INFO_INIT;
        uint64_t used = 0, measured = 0;
        uint32_t n = 0;
        for (; mf_source_tensor_get(source, n, &t) == MF_OK; n++) {
            mf_source_rounding all = MF_SOURCE_ROUNDING_INIT, some = MF_SOURCE_ROUNDING_INIT;
            cr_assert_eq(mf_source_measure(source, n, 0, &all, NULL), MF_OK);
            cr_assert_eq(mf_source_measure(source, n, 2, &some, NULL), MF_OK);
            cr_expect(all.error_square_sum == 0 && some.n_weight <= all.n_weight, "%s", t.name);
            cr_assert_eq(t.becomes != MF_WEIGHT_KEEP, t.is_exact, "%s", t.name);
            used += t.becomes == MF_WEIGHT_KEEP ? 0 : t.n_weight;
            measured += all.n_weight;
        }
        cr_assert_eq(mf_source_model_info(source, &model), MF_OK);
        cr_expect(used == measured && measured == model.n_param, "%s", checkpoints[i]);
        mf_source_rounding none = MF_SOURCE_ROUNDING_INIT;
        cr_assert_eq(mf_source_measure(source, n, 0, &none, NULL), MF_E_RANGE);
        mf_source_close(source);
        cr_assert_eq(memory.live_bytes, 0);
    }
}
