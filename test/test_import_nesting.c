/* test_import_nesting.c - "matformer" in a config.json: granularities of a folder that is otherwise a Llama or a ViT, with
 * widths and heads by layer. */
#define _GNU_SOURCE
#include "damage_fixture.h"

#define LLAMA "llama_linear_f16"
#define N_VOCAB 128

/* Widths, and query heads that share one key/value head. */
#define NESTED                                                                                          \
    "{\"granularities\": [{\"name\": \"tiny\", \"intermediate_size\": 32, \"num_attention_heads\": 2}," \
    "{\"name\": \"mid\", \"intermediate_size\": [64, 96], \"num_attention_heads\": [2, 4]},"            \
    "{\"name\": \"all\", \"intermediate_size\": 128}]}"

static mf_model *open_path(const char *path)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    cr_assert_eq(mf_model_open(&model, path, NULL, &error), MF_OK, "%s", error.detail);
    return model;
}

static void logits_of(mf_model *model, const char *text, float logits[N_VOCAB])
{
    static const int32_t tokens[] = { 1, 17, 5, 99, 64, 3, 120 };
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view = NULL;
    mf_session *session = NULL;
    mf_executor *executor = NULL;
    cr_assert_eq(mf_extract_submodel_text(&view, model, text, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mf_session_create(&session, model, NULL, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mf_executor_create(&executor, model, NULL, &error), MF_OK, "%s", error.detail);
    mf_request request = { .session = session,
                           .submodel = view,
                           .tokens = tokens,
                           .n_token = sizeof tokens / sizeof *tokens,
                           .logits = logits,
                           .logits_of = MF_LOGITS_LAST,
                           .logits_capacity = N_VOCAB };
    cr_assert_eq(mf_forward(executor, &request, 1, sizeof request, &error), MF_OK, "%s", error.detail);
    mf_executor_close(executor);
    mf_session_close(session);
    mf_submodel_close(view);
}

/* The same folder with and without names for its views; and the file that it becomes, whose shells follow them. */
Test(import_nesting, a_named_granularity_is_the_view_of_its_widths_and_heads)
{
    static const struct {
        const char *name, *view;
    } pairs[] = { { "tiny", "ffn=32x2;heads=2x2" }, { "mid", "ffn=64,96;heads=2,4" }, { "all", "1.0" } };
    char out[128];
    folder f = copy_checkpoint(LLAMA);
    mf_model *plain = open_path(f.path);
    edit_json(&f, "config.json", "matformer", NESTED);
    mf_model *nested = open_path(f.path);
    mf_source *source = NULL;
    snprintf(out, sizeof out, "/tmp/mf-test-nesting-%ld.mf", (long)getpid());
    cr_assert_eq(mf_source_open(&source, f.path, NULL, NULL), MF_OK);
    cr_assert_eq(mf_convert(source, out, NULL, NULL, NULL), MF_OK);
    mf_source_close(source);
    mf_model *converted = open_path(out);
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model_info_get(converted, &info);
    cr_assert_eq(info.n_granularity, 3);
    cr_assert_eq(info.n_shell, 3);
    for (uint32_t i = 0; i < 3; i++) {
        float expected[N_VOCAB], found[N_VOCAB];
        cr_assert_str_eq(mf_model_granularity(nested, i), pairs[i].name);
        logits_of(plain, pairs[i].view, expected);
        logits_of(nested, pairs[i].name, found);
        cr_assert_arr_eq(found, expected, sizeof found, "%s, opened", pairs[i].name);
        logits_of(converted, pairs[i].name, found);
        cr_assert_arr_eq(found, expected, sizeof found, "%s, converted", pairs[i].name);
    }
    mf_model_close(plain);
    mf_model_close(nested);
    mf_model_close(converted);
    remove(out);
    folder_remove(&f);
}

Test(import_nesting, a_vit_has_the_granularities_that_its_folder_names)
{
    folder f = copy_checkpoint("vit_classifier_f32");
    edit_json(&f, "config.json", "matformer",
              "{\"granularities\": [{\"name\": \"half\", \"intermediate_size\": 32, \"num_attention_heads\": 2},"
              "{\"name\": \"whole\", \"intermediate_size\": 64}]}");
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    mf_status status = mf_model_open(&model, f.path, NULL, &error);
    cr_assert_eq(status, MF_OK, "%s", error.detail);
    cr_assert_str_eq(mf_model_granularity(model, 0), "half");
    cr_assert_str_eq(mf_model_granularity(model, 1), "whole");
    cr_assert_null(mf_model_granularity(model, 2));
    mf_model_close(model);
    folder_remove(&f);
}
