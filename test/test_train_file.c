/* test_train_file.c - from training to inference through a file: the trainer's and the library's losses of it
 * agree. Stands on the two public headers alone. */
#define _POSIX_C_SOURCE 200809L
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "matformer_train.h"

#define N_VOCAB 61u
#define LENGTH 40u

static char path[] = "/tmp/mf_train_file_XXXXXX";
static int32_t tokens[2000];

static void make_path_and_tokens(void)
{
    int fd = mkstemp(path);
    cr_assert(fd >= 0);
    close(fd);
    for (uint32_t i = 0; i < 2000; i++)
        tokens[i] = (int32_t)(i * i / 7 % 23 + i % 3 * 19);
}

static void remove_path(void)
{
    remove(path);
}

TestSuite(train_file, .init = make_path_and_tokens, .fini = remove_path);

static mf_trainer *train(mf_train_model *model, int n_step)
{
    mf_error error = MF_ERROR_INIT;
    mf_trainer_options options = MF_TRAINER_OPTIONS_INIT;
    options.n_thread = 1, options.batch = 4, options.sequence = LENGTH, options.learning_rate = 5e-3;
    options.tokens = (mf_train_tokens){ tokens, 2000, sizeof(tokens[0]) };
    mf_trainer *trainer = NULL;
    cr_assert_eq(mf_trainer_create(&trainer, model, &options, &error), MF_OK, "%s", error.detail);
    for (int i = 0; i < n_step; i++)
        cr_assert_eq(mf_trainer_step(trainer, NULL, &error), MF_OK, "%s", error.detail);
    return trainer;
}

/* Mean loss over the windows that mf_trainer_evaluate() cuts. */
static double library_loss(mf_model *model, const mf_submodel *view, size_t n_token)
{
    mf_error error = MF_ERROR_INIT;
    mf_executor *executor = NULL;
    mf_session *session = NULL;
    cr_assert_eq(mf_executor_create(&executor, model, NULL, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mf_session_create(&session, model, NULL, &error), MF_OK, "%s", error.detail);
    static float logits[LENGTH * N_VOCAB];
    double sum = 0;
    for (size_t at = 0; at + 1 < n_token; at += LENGTH) {
        size_t length = n_token - 1 - at < LENGTH ? n_token - 1 - at : LENGTH;
        mf_request request = { .session = session,
                               .submodel = view,
                               .tokens = tokens + at,
                               .n_token = length,
                               .logits_of = MF_LOGITS_ALL,
                               .logits = logits,
                               .logits_capacity = LENGTH * N_VOCAB };
        cr_assert_eq(mf_session_rewind(session, 0), MF_OK);
        cr_assert_eq(mf_forward(executor, &request, 1, sizeof(request), &error), MF_OK, "%s", error.detail);
        for (size_t t = 0; t < length; t++) {
            const float *row = logits + t * N_VOCAB;
            double total = 0;
            for (size_t i = 0; i < N_VOCAB; i++)
                total += exp((double)row[i]);
            sum += log(total) - (double)row[tokens[at + t + 1]];
        }
    }
    mf_session_close(session);
    mf_executor_close(executor);
    return sum / (double)(n_token - 1);
}

static void compare(mf_trainer *trainer, mf_model *model, const mf_submodel_spec *spec, const mf_train_view *view)
{
    mf_error error = MF_ERROR_INIT;
    mf_submodel *submodel = NULL;
    cr_assert_eq(mf_extract_submodel(&submodel, model, spec, &error), MF_OK, "%s", error.detail);
    mf_train_tokens text = { tokens, 333, sizeof(tokens[0]) };
    double trained = 0, inferred = library_loss(model, submodel, 333);
    cr_assert_eq(mf_trainer_evaluate(trainer, view, &text, 0, &trained, NULL, &error), MF_OK, "%s", error.detail);
    cr_assert_float_eq(trained, inferred, 1e-5, "%s: the trainer says %.8f, the library %.8f",
                       view->granularity ? view->granularity : "widths", trained, inferred);
    mf_submodel_close(submodel);
}

static void check_kind(mf_train_model *model)
{
    mf_error error = MF_ERROR_INIT;
    mf_trainer *trainer = train(model, 12);
    cr_assert_eq(mf_trainer_export(trainer, path, NULL, &error), MF_OK, "%s", error.detail);
    mf_model *file = NULL;
    cr_assert_eq(mf_model_open(&file, path, NULL, &error), MF_OK, "%s", error.detail);
    for (uint32_t g = 0; mf_model_granularity(file, g); g++) {
        mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
        mf_train_view view = MF_TRAIN_VIEW_INIT;
        spec.granularity = view.granularity = mf_model_granularity(file, g);
        compare(trainer, file, &spec, &view);
    }
    const uint32_t widths[] = { 96, 0, 224 }, heads[] = { 4, 0, 2 }, skip[] = { 1 };
    const uint32_t kept_widths[] = { 96, 224 }, kept_heads[] = { 4, 2 };
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    spec.ffn = kept_widths, spec.n_ffn = 2, spec.heads = kept_heads, spec.n_heads = 2, spec.skip = skip,
    spec.n_skip = 1;
    mf_train_view view = MF_TRAIN_VIEW_INIT;
    view.ffn = widths, view.heads = heads;
    compare(trainer, file, &spec, &view);
    mf_model_close(file);
    mf_trainer_close(trainer);
}

static mf_train_model three_layers(void)
{
    static const uint8_t may_skip[] = { 0, 1, 0 };
    mf_train_model model = MF_TRAIN_MODEL_INIT;
    model.n_layer = 3, model.d_model = 64, model.d_ff = 256, model.n_vocab = N_VOCAB;
    model.n_head = 4, model.head_group = 2, model.d_head = 16, model.may_skip = may_skip;
    return model;
}

Test(train_file, losses_agree_for_the_modern_decoder)
{
    mf_train_model model = three_layers();
    check_kind(&model);
}

Test(train_file, losses_agree_for_the_gpt_2_decoder)
{
    mf_train_model model = three_layers();
    model.norm = MF_TRAIN_NORM_LAYER, model.ffn = MF_TRAIN_FFN_PLAIN, model.activation = MF_TRAIN_GELU_TANH;
    model.head_group = 1, model.untied_output = 1;
    check_kind(&model);
}

Test(train_file, losses_agree_for_every_other_choice)
{
    mf_train_model model = three_layers();
    const mf_train_granularity granularities[] = { { .name = "half", .ffn_ratio = 0.5, .n_head = 2 },
                                                   { .name = "whole" } };
    model.granularities = granularities, model.n_granularity = 2;
    model.activation = MF_TRAIN_GELU_ERF, model.head_group = 4, model.rope_theta = -1;
    model.embed_scale = 3, model.attention_scale = 0.3f;
    check_kind(&model);
}
