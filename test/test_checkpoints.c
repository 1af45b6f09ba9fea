/* test_checkpoints.c - checkpoints of other people's shapes, made and run by PyTorch (golden/make_checkpoints.py): opened
 * directly, converted, and run by views, against what the reference computed. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint_fixture.h"
#include "run_model.h"

#define TOLERANCE 1e-4 /* of the largest value */

static mf_model *open_checkpoint(const char *name, const char *cpu)
{
    char path[512];
    mf_error error = MF_ERROR_INIT;
    mf_model_options options = test_options(cpu);
    mf_model *model = NULL;
    snprintf(path, sizeof path, "%s/checkpoints/%s", GOLDEN_DIR, name);
    cr_assert_eq(mf_model_open(&model, path, &options, &error), MF_OK, "%s", error.detail);
    return model;
}

static expected_file open_expected(const char *name)
{
    char path[512];
    expected_file file;
    snprintf(path, sizeof path, "%s/checkpoints/%s/expected.bin", GOLDEN_DIR, name);
    cr_assert(expected_open(&file, path), "%s", path);
    return file;
}

static void expect_close(const expected_array *expected, const float *found, const char *where)
{
    double largest = 0, worst = 0;
    for (size_t i = 0; i < expected->count; i++) {
        largest = fmax(largest, fabs((double)expected->f32[i]));
        worst = fmax(worst, fabs((double)found[i] - (double)expected->f32[i]));
    }
    cr_assert(worst <= TOLERANCE * largest, "%s, %s: off by %g of %g", where, expected->name, worst, largest);
}

static mf_submodel *take(mf_model *model, const char *text)
{
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view = NULL;
    const mf_status status = text[0] ? mf_extract_submodel_text(&view, model, text, &error)
                                     : mf_extract_submodel(&view, model, NULL, &error);
    cr_assert_eq(status, MF_OK, "view %s: %s", text, error.detail);
    return view;
}

/* ---- Decoders ---- */

static int32_t largest(const float *logits, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

static void expect_greedy(mf_executor *executor, mf_session *session, const mf_submodel *view, const float *last,
                          size_t n_vocab, size_t n_token, const expected_array *greedy, const char *where)
{
    float *logits = malloc(n_vocab * sizeof *logits);
    memcpy(logits, last, n_vocab * sizeof *logits);
    for (size_t i = 0; i < greedy->count; i++) {
        const int32_t token = largest(logits, n_token);
        cr_assert_eq(token, greedy->i32[i], "%s: token %zu is %d, not %d", where, i, token, greedy->i32[i]);
        mf_request request = { .session = session,
                               .submodel = view,
                               .tokens = &token,
                               .n_token = 1,
                               .logits = logits,
                               .logits_capacity = n_vocab };
        cr_assert_eq(mf_forward(executor, &request, 1, sizeof request, NULL), MF_OK);
    }
    free(logits);
}

static void run_decoder_case(mf_model *model, const expected_case *c, const char *where)
{
    const expected_array *tokens = expected_find(c, "tokens"), *logits = expected_find(c, "logits");
    const expected_array *greedy = expected_find(c, "greedy");
    mf_model_info info = MF_MODEL_INFO_INIT;
    cr_assert_eq(mf_model_info_get(model, &info), MF_OK);
    mf_submodel *view = take(model, c->view);
    outputs out = new_outputs(model, tokens->count);
    mf_session *session = new_session(model);
    mf_executor *executor = new_executor(model, 2, 7); /* in pieces of 7 */
    run_more(executor, session, view, tokens->i32, tokens->count, &out);
    cr_assert_eq(logits->count, out.n_token * out.n_vocab, "%s", where);
    expect_close(logits, out.logits, where);
    if (greedy)
        expect_greedy(executor, session, view, out.logits + (out.n_token - 1) * out.n_vocab, out.n_vocab, info.n_token,
                      greedy, where);
    mf_executor_close(executor);
    mf_session_close(session);
    mf_submodel_close(view);
    drop_outputs(&out);
}

/* Two views in turn over one cache, `stretch` tokens each. */
static void run_alternating_case(mf_model *model, const expected_case *c, const char *where)
{
    const expected_array *tokens = expected_find(c, "tokens"), *logits = expected_find(c, "logits");
    const size_t stretch = (size_t)expected_find(c, "stretch")->i32[0], n_vocab = logits->dims[1];
    char first[256], *bar;
    snprintf(first, sizeof first, "%s", c->view);
    bar = strchr(first, '|');
    cr_assert(bar != NULL);
    *bar = '\0';
    mf_submodel *view[2] = { take(model, first), take(model, bar + 1) };
    mf_session *session = new_session_of(model, MF_CACHE_F32, (uint32_t)tokens->count);
    mf_executor *executor = new_executor(model, 2, (uint32_t)stretch);
    float *found = malloc(logits->count * sizeof *found);
    for (size_t i = 0; i < logits->dims[0]; i++) {
        mf_request request = { .session = session,
                               .submodel = view[i % 2],
                               .tokens = tokens->i32 + i * stretch,
                               .n_token = stretch,
                               .logits = found + i * n_vocab,
                               .logits_capacity = n_vocab };
        cr_assert_eq(mf_forward(executor, &request, 1, sizeof request, NULL), MF_OK);
    }
    expect_close(logits, found, where);
    free(found);
    mf_executor_close(executor);
    mf_session_close(session);
    mf_submodel_close(view[0]);
    mf_submodel_close(view[1]);
}

static void run_decoder(mf_model *model, const char *name)
{
    expected_file file = open_expected(name);
    expected_case c;
    while (expected_next(&file, &c)) {
        char where[400];
        snprintf(where, sizeof where, "%s, %s (%s)", name, c.name, c.view);
        if (expected_find(&c, "stretch"))
            run_alternating_case(model, &c, where);
        else
            run_decoder_case(model, &c, where);
    }
    cr_assert(!file.damaged && file.n_read > 0);
    expected_close(&file);
}

static const char *const decoders[] = { "llama_grouped_bf16_sharded",
                                        "llama_tied_biases_f32",
                                        "llama_linear_f16",
                                        "olmo_sequential",
                                        "olmo_parallel",
                                        "gemma3n_nested",
                                        "gemma3n" };

Test(checkpoints, decoders_equal_their_reference_at_every_width)
{
    for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++) {
        mf_model *model = open_checkpoint(decoders[i], NULL);
        run_decoder(model, decoders[i]);
        mf_model_close(model);
    }
}

/* ---- Encoders ---- */

static void run_encoder_case(mf_model *model, const expected_case *c, const char *where)
{
    const expected_array *pixels = expected_find(c, "pixels"), *hidden = expected_find(c, "hidden");
    const expected_array *pooled = expected_find(c, "pooled"), *logits = expected_find(c, "logits");
    mf_submodel *view = take(model, c->view);
    mf_session *session = new_session(model);
    mf_executor *executor = new_executor(model, 2, 512);
    float *found[3] = { malloc(hidden->count * sizeof(float)), NULL, NULL };
    mf_error error = MF_ERROR_INIT;
    mf_request request = { .session = session,
                           .submodel = view,
                           .pixels = pixels->f32,
                           .logits_of = MF_LOGITS_ALL,
                           .hidden = found[0],
                           .hidden_capacity = hidden->count };
    if (pooled) {
        request.pooled = found[1] = malloc(pooled->count * sizeof(float));
        request.pooled_capacity = pooled->count;
    }
    if (logits) {
        request.logits = found[2] = malloc(logits->count * sizeof(float));
        request.logits_capacity = logits->count;
    }
    cr_assert_eq(mf_forward(executor, &request, 1, sizeof request, &error), MF_OK, "%s: %s", where, error.detail);
    expect_close(hidden, found[0], where);
    if (pooled) expect_close(pooled, found[1], where);
    if (logits) expect_close(logits, found[2], where);
    for (size_t i = 0; i < 3; i++)
        free(found[i]);
    mf_executor_close(executor);
    mf_session_close(session);
    mf_submodel_close(view);
}

static const char *const encoders[] = { "vit_classifier_f32", "vit_pooler_f32", "matvit_f32" };

Test(checkpoints, encoders_equal_their_reference_at_every_width)
{
    for (size_t i = 0; i < sizeof encoders / sizeof *encoders; i++) {
        mf_model *model = open_checkpoint(encoders[i], NULL);
        expected_file file = open_expected(encoders[i]);
        expected_case c;
        while (expected_next(&file, &c)) {
            char where[400];
            snprintf(where, sizeof where, "%s, %s (%s)", encoders[i], c.name, c.view);
            run_encoder_case(model, &c, where);
        }
        cr_assert(!file.damaged && file.n_read > 0);
        expected_close(&file);
        mf_model_close(model);
    }
}
