/* test_decoder.c - decoders with everything that Llama and MatFormer-OLMo may have (biases, parallel blocks, ALiBi, one
 * key/value head for all, scaled rotations) against their equations in double precision, and the laws for them. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdlib.h>

#include "defs.h"
#include "family_fixture.h"

static const mfk_type types[] = { MFK_F32, MFK_Q4, MFK_BF16, MFK_Q8, MFK_F16 };

/* MatFormer-OLMo's kind of decoder in every second round, else any. */
static random_model model_of(uint32_t round)
{
    random_model model;
    rng r = { 77 + round };
    cr_assert(random_model_init(&model, 5000 + round) == MF_OK);
    mfi_config *c = &model.config;
    c->family = round % 2 == 0 ? MFI_FAMILY_OLMO : MFI_FAMILY_LLAMA;
    c->attention_bias = rng_below(&r, 2);
    c->ffn_bias = rng_below(&r, 2);
    c->parallel = rng_below(&r, 2);
    c->alibi_max = rng_below(&r, 2) ? (float)rng_between(&r, 1, 12) : 0;
    c->logit_softcap = rng_below(&r, 2) ? (float)rng_between(&r, 1, 4) : 0;
    if (round % 2 == 0) {
        c->attention_bias = c->ffn_bias = true;
        c->parallel = round % 4 == 2;
        c->alibi_max = 8;
        c->rope_theta = 0;
        c->head_group = c->n_head;
        c->norm = MFI_NORM_LAYER;
        c->ffn = MFI_FFN_PLAIN;
        c->activation = MFK_GELU_ERF;
    }
    return model;
}

/* Slopes follow from the heads of the whole layer, so a file cut to fewer of them has others. */
static void keep_heads(const mfi_config *c, widths *view)
{
    for (uint32_t l = 0; l < view->n_layer; l++)
        if (view->ffn[l] != 0 && c->alibi_max > 0) view->heads[l] = c->granularity[c->n_granularity - 1].heads[l];
}

static outputs run_level(const model_file *file, const char *level, const widths *w, const int32_t *tokens, size_t n)
{
    mf_model *model = open_file(file, level);
    mf_submodel *view = take_view(model, w);
    outputs out = run_alone(model, view, tokens, n);
    mf_submodel_close(view);
    mf_model_close(model);
    return out;
}

/* Logits [n][n_vocab] of a view. */
static double *exact_logits(const random_model *model, const widths *view, const int32_t *tokens, size_t n)
{
    const mfi_config *c = &model->config;
    double *x = malloc(n * c->d_model * sizeof *x), *in = malloc(c->d_model * sizeof *in);
    double *logits = malloc(n * c->n_vocab * sizeof *logits);
    exact_matrix embed = exact_open(model, c->n_vocab, c->d_model, false, "embed", 0);
    exact_matrix output = exact_open(model, c->n_vocab, c->d_model, false, c->tied ? "embed" : "output", 0);
    for (size_t i = 0; i < n; i++)
        for (size_t d = 0; d < c->d_model; d++)
            x[i * c->d_model + d] = (double)c->embed_scale * (double)embed.w[(size_t)tokens[i] * c->d_model + d];
    exact_blocks(model, view, n, x);
    for (size_t i = 0; i < n; i++) {
        exact_norm(model, "final_norm", 0, x + i * c->d_model, in);
        exact_product(&output, in, logits + i * c->n_vocab);
        for (size_t j = i * c->n_vocab; j < (i + 1) * c->n_vocab && c->logit_softcap > 0; j++)
            logits[j] = (double)c->logit_softcap * tanh(logits[j] / (double)c->logit_softcap);
    }
    exact_close(&embed);
    exact_close(&output);
    free(x);
    free(in);
    return logits;
}

static void compare_with_equations(const random_model *model, const widths *view, const int32_t *tokens, size_t n,
                                   const outputs *out, uint32_t round)
{
    double *exact = exact_logits(model, view, tokens, n);
    for (size_t i = 0; i < n * model->config.n_vocab; i++)
        cr_assert(exact_near(out->logits[i], exact[i]), "round %u, position %zu, logit %zu: %g, not %g", round,
                  i / model->config.n_vocab, i % model->config.n_vocab, (double)out->logits[i], exact[i]);
    free(exact);
}

static int32_t *draw_tokens(const mfi_config *c, size_t n, rng *r)
{
    int32_t *tokens = malloc(n * sizeof *tokens);
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)rng_below(r, c->n_vocab);
    return tokens;
}

Test(decoder, logits_are_those_of_the_equations_at_every_level)
{
    for (uint32_t round = 0; round < test_rounds(12); round++) {
        rng r = { round };
        random_model model = model_of(round);
        model_file file = family_file(&model, MFK_F32);
        const size_t n = rng_between(&r, 60, 140);
        int32_t *tokens = draw_tokens(&model.config, n, &r);
        for (uint32_t i = 0; i < 2; i++) {
            const widths w = i == 0 ? granularity_widths(&model.config, model.config.n_granularity - 1)
                                    : random_widths(&model.config, &r);
            outputs first = run_level(&file, "scalar", &w, tokens, n);
            compare_with_equations(&model, &w, tokens, n, &first, round);
            const char *level;
            for (uint32_t l = 0; (level = cpu_level(&file, l)); l++) {
                outputs out = run_level(&file, level, &w, tokens, n);
                cr_assert(same_bits(&first, &out), "round %u, %s", round, level);
                drop_outputs(&out);
            }
            drop_outputs(&first);
        }
        free(tokens);
        family_drop(&file);
        random_model_free(&model);
    }
}

/* Beyond a span of 1024 positions, decoded by as many threads as share its spans. */
Test(decoder, slopes_hold_in_long_texts_with_and_without_windows)
{
    enum { N = 1100, TAIL = 3 };
    static const uint32_t windows[] = { 0, 70, 1030 };
    static const random_shape shape = {
        "long", 2, 32, 16, 4, 4, 32, 19, 2048, 1, MFI_NORM_LAYER, MFI_FFN_PLAIN, MFK_GELU_ERF, true, 0
    };
    for (uint32_t round = 0; round < MFI_COUNT(windows); round++) {
        rng r = { round };
        random_model model;
        cr_assert(random_model_init_shape(&model, &shape, 300 + round) == MF_OK);
        mfi_config *c = &model.config;
        c->family = MFI_FAMILY_OLMO;
        c->rope_theta = 0;
        c->alibi_max = 8;
        c->attention_bias = c->ffn_bias = true;
        c->window[0] = windows[round];
        model_file file = family_file(&model, MFK_F32);
        int32_t *tokens = draw_tokens(c, N, &r);
        const widths w = granularity_widths(c, 0);
        outputs alone = run_level(&file, NULL, &w, tokens, N);
        compare_with_equations(&model, &w, tokens, N, &alone, round);
        mf_model *opened = open_file(&file, NULL);
        mf_submodel *view = take_view(opened, &w);
        for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
            outputs out = new_outputs(opened, N);
            mf_executor *executor = new_executor(opened, n_thread, 0);
            mf_session *session = new_session(opened);
            run_more(executor, session, view, tokens, N - TAIL, &out);
            for (uint32_t i = 0; i < TAIL; i++)
                run_more(executor, session, view, tokens, 1, &out);
            cr_assert(same_bits(&alone, &out), "window %u, %u threads", windows[round], n_thread);
            drop_outputs(&out);
            mf_session_close(session);
            mf_executor_close(executor);
        }
        mf_submodel_close(view);
        mf_model_close(opened);
        drop_outputs(&alone);
        free(tokens);
        family_drop(&file);
        random_model_free(&model);
    }
}

Test(decoder, a_view_equals_a_file_that_was_cut_to_it)
{
    enum { N = 21 };
    for (uint32_t round = 0; round < test_rounds(10); round++) {
        rng r = { 40 + round };
        random_model model = model_of(round), slice;
        const mfk_type type = types[round % MFI_COUNT(types)];
        widths w = random_widths(&model.config, &r);
        keep_heads(&model.config, &w);
        cr_assert(random_model_slice(&slice, &model, &w) == MF_OK);
        model_file file = family_file(&model, type), cut = family_file(&slice, type);
        int32_t *tokens = draw_tokens(&model.config, N, &r);
        const widths whole = granularity_widths(&slice.config, 0);
        outputs viewed = run_level(&file, NULL, &w, tokens, N), sliced = run_level(&cut, NULL, &whole, tokens, N);
        cr_assert(same_bits(&viewed, &sliced), "round %u", round);
        drop_outputs(&viewed);
        drop_outputs(&sliced);
        free(tokens);
        family_drop(&file);
        family_drop(&cut);
        random_model_free(&model);
        random_model_free(&slice);
    }
}

/* Several views in one batch, prompts in pieces, on one to three threads. */
Test(decoder, nothing_but_the_row_the_view_and_the_cache_matters)
{
    enum { N = 70, N_VIEW = 4 };
    for (uint32_t round = 0; round < test_rounds(10); round++) {
        rng r = { 90 + round };
        random_model model = model_of(round);
        model_file file = family_file(&model, types[round % MFI_COUNT(types)]);
        mf_model *opened = open_file(&file, NULL);
        int32_t *tokens = draw_tokens(&model.config, N, &r);
        mf_submodel *view[N_VIEW];
        outputs alone[N_VIEW];
        for (uint32_t v = 0; v < N_VIEW; v++) {
            const widths w = random_widths(&model.config, &r);
            view[v] = take_view(opened, &w);
            alone[v] = run_alone(opened, view[v], tokens, N);
        }
        for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
            mf_executor *executor = new_executor(opened, n_thread, 50);
            mf_session *session[N_VIEW];
            outputs out[N_VIEW];
            for (uint32_t v = 0; v < N_VIEW; v++)
                session[v] = new_session(opened), out[v] = new_outputs(opened, N);
            for (size_t done = 0, n; done < N; done += n) {
                mf_request request[N_VIEW];
                n = mfi_min(rng_between(&r, 1, 40), N - done);
                for (uint32_t v = 0; v < N_VIEW; v++)
                    request[v] = request_all(session[v], view[v], tokens + done, n, &out[v], done);
                cr_assert(mf_forward(executor, request, N_VIEW, sizeof *request, NULL) == MF_OK);
            }
            for (uint32_t v = 0; v < N_VIEW; v++) {
                cr_assert(same_bits(&alone[v], &out[v]), "round %u, view %u, %u threads", round, v, n_thread);
                drop_outputs(&out[v]);
                mf_session_close(session[v]);
            }
            mf_executor_close(executor);
        }
        for (uint32_t v = 0; v < N_VIEW; v++) {
            drop_outputs(&alone[v]);
            mf_submodel_close(view[v]);
        }
        mf_model_close(opened);
        free(tokens);
        family_drop(&file);
        random_model_free(&model);
    }
}

/* ---- Rotations ---- */

/* What a frequency of the saved file was divided by. */
static double divisor(const mfi_rope_scaling *scaling, uint32_t d_head, uint32_t j)
{
    static const random_shape shape = { "rope",        1,        32,   64, 1, 1, 32, 17, 64, 1, MFI_NORM_RMS,
                                        MFI_FFN_GATED, MFK_SILU, true, 0 };
    random_shape of = shape;
    random_model model;
    of.d_head = d_head;
    cr_assert(random_model_init_shape(&model, &of, 1) == MF_OK);
    model.config.family = MFI_FAMILY_LLAMA;
    model.config.rope_theta = 5e5;
    model.config.rope_scaling = *scaling;
    char *path = fixture_path();
    cr_assert(random_model_save(&model, MFK_F32, MFI_RAW, false, path, NULL) == MF_OK);
    mfi_container *container = fixture_open(path);
    const float *freqs = mfi_container_find(container, "rope.freqs", 0)->data;
    const double result = pow(5e5, -2.0 * j / d_head) / (double)freqs[j];
    mfi_container_close(container);
    fixture_remove(path);
    random_model_free(&model);
    return result;
}

Test(decoder, rotations_of_llama_3_1_are_scaled_by_wavelength)
{
    static const mfi_rope_scaling by_8 = { MFI_ROPE_LLAMA3, 8192, 8, 1, 4 },
                                  by_32 = { MFI_ROPE_LLAMA3, 8192, 32, 1, 4 };
    static const mfi_rope_scaling linear = { .kind = MFI_ROPE_LINEAR, .factor = 2.5 };
    static const double blend_8[] = { 1, 1.207484, 1.553415, 2.026313, 2.694530, 3.684253, 5.257327, 8 };
    static const double blend_32[] = { 1, 1.651329, 3.292262, 9.666729, 32 };
    for (uint32_t i = 0; i < MFI_COUNT(blend_8); i++)
        cr_assert_float_eq(divisor(&by_8, 128, 28 + i), blend_8[i], 2e-6);
    for (uint32_t i = 0; i < MFI_COUNT(blend_32); i++)
        cr_assert_float_eq(divisor(&by_32, 64, 14 + i), blend_32[i], 1e-5);
    cr_assert_float_eq(divisor(&by_8, 128, 0), 1, 1e-6);
    cr_assert_float_eq(divisor(&by_8, 128, 63), 8, 1e-5);
    for (uint32_t j = 0; j < 32; j++)
        cr_assert_float_eq(divisor(&linear, 64, j), 2.5, 1e-6);
}

Test(decoder, logits_follow_a_scaled_rotation_from_the_saved_file)
{
    enum { N = 90 };
    static const random_shape shape = { "llama",       2,        64,    32, 4, 2, 128, 41, 256, 2, MFI_NORM_RMS,
                                        MFI_FFN_GATED, MFK_SILU, false, 0 };
    static const mfi_rope_scaling scaling[] = { { .kind = MFI_ROPE_LINEAR, .factor = 4 },
                                                { MFI_ROPE_LLAMA3, 64, 8, 1, 4 } };
    for (uint32_t round = 0; round < MFI_COUNT(scaling); round++) {
        rng r = { round };
        random_model model;
        cr_assert(random_model_init_shape(&model, &shape, 700 + round) == MF_OK);
        model.config.family = MFI_FAMILY_LLAMA;
        model.config.rope_scaling = scaling[round];
        model_file file = make_random_file(&model, MFK_F32, MFI_RAW, false);
        int32_t *tokens = draw_tokens(&model.config, N, &r);
        const widths w = granularity_widths(&model.config, 0);
        outputs out = run_level(&file, NULL, &w, tokens, N);
        compare_with_equations(&model, &w, tokens, N, &out, round);
        drop_outputs(&out);
        free(tokens);
        drop_file(&file);
        random_model_free(&model);
    }
}

/* ---- Refusals ---- */

static void refuse(const random_model *model, const char *sentence)
{
    mf_error error = MF_ERROR_INIT;
    cr_assert(mfi_config_check(&model->config, &error) == MF_E_INVALID);
    cr_assert(strstr(error.detail, sentence), "%s", error.detail);
}

Test(decoder, configurations_that_make_no_sense_are_refused)
{
    random_model model;
    cr_assert(random_model_init_shape(&model, random_shape_find("tiny"), 1) == MF_OK);
    mfi_config *c = &model.config;
    cr_assert(mfi_config_check(c, NULL) == MF_OK);
    c->alibi_max = NAN;
    refuse(&model, "alibi_max");
    c->alibi_max = 65;
    refuse(&model, "alibi_max");
    c->alibi_max = 0;
    c->rope_scaling = (mfi_rope_scaling){ MFI_ROPE_LLAMA3, 8192, 8, 4, 4 };
    refuse(&model, "rope_scaling");
    c->rope_scaling = (mfi_rope_scaling){ .kind = MFI_ROPE_LINEAR };
    refuse(&model, "rope_scaling");
    c->rope_scaling.kind = MFI_ROPE_PLAIN;
    c->kv_layer[1] = 0; /* a slot less than there are layers that would write to one */
    refuse(&model, "shares keys");
    c->kv_layer[1] = 1;
    c->sparsity[2] = 1.5f;
    refuse(&model, "sparse");
    random_model_free(&model);
}
