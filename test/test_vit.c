/* test_vit.c - ViT against its equations in double precision, the laws for it, and what a request for an image may ask
 * for. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdlib.h>

#include "defs.h"
#include "family_fixture.h"

static const mfk_type types[] = { MFK_F32, MFK_Q4, MFK_BF16, MFK_Q8, MFK_F16 };

/* Patches whose pixels are a multiple of 32 in number, and others. */
static random_model model_of(uint32_t round)
{
    static const uint32_t patches[] = { 4, 7, 8, 3 };
    random_model model;
    rng r = { 17 + round };
    cr_assert(random_model_init(&model, 9000 + round) == MF_OK);
    mfi_config *c = &model.config;
    c->family = MFI_FAMILY_VIT;
    c->norm = MFI_NORM_LAYER;
    c->norm_eps = round % 2 ? 1e-12f : 1e-6f;
    c->ffn = MFI_FFN_PLAIN;
    c->activation = round % 2 ? MFK_GELU_ERF : MFK_GELU_TANH;
    c->attention_bias = c->ffn_bias = true;
    c->rope_theta = 0;
    c->n_vocab = 0;
    c->vit.patch_size = patches[round % 4];
    c->vit.image_size = c->vit.patch_size * rng_between(&r, 1, 10);
    c->vit.n_channel = rng_between(&r, 1, 3);
    c->vit.n_class = round % 3 == 2 ? 0 : rng_between(&r, 1, 40);
    c->vit.pooler = round % 3 != 0;
    c->max_positions = mfi_vit_rows(&c->vit);
    for (uint32_t l = 0; l < c->n_layer; l++)
        c->window[l] = 0;
    return model;
}

typedef struct image_outputs {
    size_t n_row, d_model, n_class;
    float *logits, *hidden, *pooled; /* [n_class], [n_row][d_model], [d_model] */
} image_outputs;

static image_outputs new_image_outputs(const mfi_config *c)
{
    image_outputs out = { mfi_vit_rows(&c->vit), c->d_model, c->vit.n_class, NULL, NULL, NULL };
    out.logits = calloc(out.n_class + 1, sizeof(float));
    out.hidden = calloc(out.n_row * out.d_model, sizeof(float));
    out.pooled = calloc(out.d_model, sizeof(float));
    return out;
}

static void drop_image_outputs(image_outputs *out)
{
    free(out->logits);
    free(out->hidden);
    free(out->pooled);
}

static bool same_image(const image_outputs *a, const image_outputs *b)
{
    return memcmp(a->logits, b->logits, a->n_class * sizeof(float)) == 0 &&
           memcmp(a->hidden, b->hidden, a->n_row * a->d_model * sizeof(float)) == 0 &&
           memcmp(a->pooled, b->pooled, a->d_model * sizeof(float)) == 0;
}

static float *draw_image(const mfi_vit *v, rng *r)
{
    const size_t n = (size_t)v->n_channel * v->image_size * v->image_size;
    float *pixels = malloc(n * sizeof *pixels);
    for (size_t i = 0; i < n; i++)
        pixels[i] = (float)(int32_t)rng_next(r) * 0x1p-31f;
    return pixels;
}

static mf_request image_request(const mfi_config *c, mf_session *session, const mf_submodel *view, const float *pixels,
                                image_outputs *out)
{
    return (mf_request){ .session = session,
                         .submodel = view,
                         .logits_of = MF_LOGITS_ALL,
                         .logits = c->vit.n_class > 0 ? out->logits : NULL,
                         .logits_capacity = out->n_class,
                         .hidden = out->hidden,
                         .hidden_capacity = out->n_row * out->d_model,
                         .pixels = pixels,
                         .pooled = c->vit.pooler ? out->pooled : NULL,
                         .pooled_capacity = out->d_model };
}

static image_outputs run_image(const model_file *file, const char *level, const mfi_config *c, const widths *w,
                               const float *pixels)
{
    mf_model *model = open_file(file, level);
    mf_submodel *view = take_view(model, w);
    mf_executor *executor = new_executor(model, 1, 0);
    mf_session *session = new_session(model);
    image_outputs out = new_image_outputs(c);
    mf_request request = image_request(c, session, view, pixels, &out);
    mf_error error = MF_ERROR_INIT;
    cr_assert(mf_forward(executor, &request, 1, sizeof request, &error) == MF_OK, "%s", error.detail);
    cr_assert(request.n_token_done == out.n_row && mf_session_position(session) == 0);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(view);
    mf_model_close(model);
    return out;
}

/* ---- The equations ---- */

/* x [n_row][d_model]: class token and patches at their places. */
static double *exact_rows(const random_model *model, const float *pixels)
{
    const mfi_config *c = &model->config;
    const mfi_vit *v = &c->vit;
    const size_t d = c->d_model, n_row = mfi_vit_rows(v), side = v->image_size / v->patch_size;
    const size_t p = v->patch_size, size = v->image_size, k = v->n_channel * p * p;
    const mfi_weights weights = random_model_weights(model);
    exact_matrix project = exact_open(model, d, k, false, "patch.project", 0);
    float *token = malloc(d * sizeof *token), *position = malloc(n_row * d * sizeof *position);
    double *x = malloc(n_row * d * sizeof *x), *patch = malloc(k * sizeof *patch);
    weights.read(weights.user, "patch.bias", 0, 1, 0, d, project.bias, NULL);
    weights.read(weights.user, "class_token", 0, 1, 0, d, token, NULL);
    weights.read(weights.user, "position", 0, 1, 0, n_row * d, position, NULL);
    for (size_t i = 0; i < d; i++)
        x[i] = (double)token[i];
    for (size_t row = 0; row < side; row++)
        for (size_t column = 0; column < side; column++) {
            for (size_t i = 0; i < k; i++) {
                const size_t channel = i / (p * p), py = i / p % p, px = i % p;
                patch[i] = (double)pixels[(channel * size + row * p + py) * size + column * p + px];
            }
            exact_product(&project, patch, x + (1 + row * side + column) * d);
        }
    for (size_t i = 0; i < n_row * d; i++)
        x[i] += (double)position[i];
    exact_close(&project);
    free(token);
    free(position);
    free(patch);
    return x;
}

static void compare(const float *got, const double *want, size_t n, const char *what, uint32_t round)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(exact_near(got[i], want[i]), "round %u, %s %zu: %g, not %g", round, what, i, (double)got[i], want[i]);
}

static void compare_with_equations(const random_model *model, const widths *view, const float *pixels,
                                   const image_outputs *out, uint32_t round)
{
    const mfi_config *c = &model->config;
    const size_t d = c->d_model;
    double *x = exact_rows(model, pixels), *class_row = malloc(d * sizeof *class_row);
    double *head = malloc((d + out->n_class) * sizeof *head);
    exact_blocks(model, view, out->n_row, x);
    for (size_t row = 0; row < out->n_row; row++) {
        exact_norm(model, "final_norm", 0, x + row * d, head);
        if (row == 0) memcpy(class_row, head, d * sizeof *head);
        compare(out->hidden + row * d, head, d, "hidden", round);
    }
    if (c->vit.n_class > 0) {
        exact_matrix classifier = exact_open(model, out->n_class, d, true, "classifier", 0);
        exact_product(&classifier, class_row, head);
        compare(out->logits, head, out->n_class, "logit", round);
        exact_close(&classifier);
    }
    if (c->vit.pooler) {
        exact_matrix pooler = exact_open(model, d, d, true, "pooler", 0);
        exact_product(&pooler, class_row, head);
        for (size_t i = 0; i < d; i++)
            head[i] = tanh(head[i]);
        compare(out->pooled, head, d, "pooled", round);
        exact_close(&pooler);
    }
    free(x);
    free(class_row);
    free(head);
}

Test(vit, outputs_are_those_of_the_equations_at_every_level)
{
    for (uint32_t round = 0; round < test_rounds(12); round++) {
        rng r = { round };
        random_model model = model_of(round);
        model_file file = family_file(&model, MFK_F32);
        float *pixels = draw_image(&model.config.vit, &r);
        for (uint32_t i = 0; i < 2; i++) {
            const widths w = i == 0 ? granularity_widths(&model.config, model.config.n_granularity - 1)
                                    : random_widths(&model.config, &r);
            image_outputs first = run_image(&file, "scalar", &model.config, &w, pixels);
            compare_with_equations(&model, &w, pixels, &first, round);
            const char *level;
            for (uint32_t l = 0; (level = cpu_level(&file, l)); l++) {
                image_outputs out = run_image(&file, level, &model.config, &w, pixels);
                cr_assert(same_image(&first, &out), "round %u, %s", round, level);
                drop_image_outputs(&out);
            }
            drop_image_outputs(&first);
        }
        free(pixels);
        family_drop(&file);
        random_model_free(&model);
    }
}

/* More rows than a span of 1024 keys, which are merged: in every row, since every row sees them all. */
Test(vit, an_image_may_have_more_rows_than_a_span)
{
    static const random_shape shape = {
        "wide", 1, 32, 16, 2, 1, 32, 1, 2048, 1, MFI_NORM_LAYER, MFI_FFN_PLAIN, MFK_GELU_TANH, true, 0
    };
    rng r = { 5 };
    random_model model;
    cr_assert(random_model_init_shape(&model, &shape, 6) == MF_OK);
    mfi_config *c = &model.config;
    c->family = MFI_FAMILY_VIT;
    c->rope_theta = 0;
    c->vit = (mfi_vit){ .image_size = 66, .patch_size = 2, .n_channel = 3, .n_class = 5 };
    model_file file = family_file(&model, MFK_F32);
    float *pixels = draw_image(&c->vit, &r);
    const widths w = granularity_widths(c, 0);
    mf_model *opened = open_file(&file, NULL);
    mf_submodel *view = take_view(opened, &w);
    mf_session *session = new_session(opened);
    for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
        image_outputs out = new_image_outputs(c);
        mf_executor *executor = new_executor(opened, n_thread, 1100);
        mf_request request = image_request(c, session, view, pixels, &out);
        cr_assert(mf_forward(executor, &request, 1, sizeof request, NULL) == MF_OK);
        compare_with_equations(&model, &w, pixels, &out, n_thread);
        drop_image_outputs(&out);
        mf_executor_close(executor);
    }
    mf_session_close(session);
    mf_submodel_close(view);
    mf_model_close(opened);
    free(pixels);
    family_drop(&file);
    random_model_free(&model);
}

Test(vit, a_view_equals_a_file_that_was_cut_to_it)
{
    for (uint32_t round = 0; round < test_rounds(10); round++) {
        rng r = { 40 + round };
        random_model model = model_of(round), slice;
        const mfk_type type = types[round % MFI_COUNT(types)];
        const widths w = random_widths(&model.config, &r);
        cr_assert(random_model_slice(&slice, &model, &w) == MF_OK);
        model_file file = family_file(&model, type), cut = family_file(&slice, type);
        float *pixels = draw_image(&model.config.vit, &r);
        const widths whole = granularity_widths(&slice.config, 0);
        image_outputs viewed = run_image(&file, NULL, &model.config, &w, pixels);
        image_outputs sliced = run_image(&cut, NULL, &slice.config, &whole, pixels);
        cr_assert(same_image(&viewed, &sliced), "round %u", round);
        drop_image_outputs(&viewed);
        drop_image_outputs(&sliced);
        free(pixels);
        family_drop(&file);
        family_drop(&cut);
        random_model_free(&model);
        random_model_free(&slice);
    }
}

/* Images of different views together, in one batch and in several, on one to three threads, sessions used again. */
Test(vit, nothing_but_the_image_and_the_view_matters)
{
    enum { N_IMAGE = 5 };
    for (uint32_t round = 0; round < test_rounds(10); round++) {
        rng r = { 90 + round };
        random_model model = model_of(round);
        const mfi_config *c = &model.config;
        model_file file = family_file(&model, types[round % MFI_COUNT(types)]);
        mf_model *opened = open_file(&file, NULL);
        mf_submodel *view[N_IMAGE];
        mf_session *session[N_IMAGE];
        float *pixels[N_IMAGE];
        image_outputs alone[N_IMAGE];
        for (uint32_t i = 0; i < N_IMAGE; i++) {
            const widths w = random_widths(c, &r);
            view[i] = take_view(opened, &w);
            session[i] = new_session(opened);
            pixels[i] = draw_image(&c->vit, &r);
            alone[i] = run_image(&file, NULL, c, &w, pixels[i]);
        }
        for (uint32_t n_thread = 1; n_thread <= 3; n_thread++) {
            const uint32_t n_row = mfi_vit_rows(&c->vit);
            mf_executor *executor = new_executor(opened, n_thread, n_row * (1 + 2 * (n_thread - 1)) + n_row / 2);
            mf_request request[N_IMAGE];
            image_outputs out[N_IMAGE];
            for (uint32_t i = 0; i < N_IMAGE; i++) {
                out[i] = new_image_outputs(c);
                request[i] = image_request(c, session[(i + n_thread) % N_IMAGE], view[i], pixels[i], &out[i]);
            }
            cr_assert(mf_forward(executor, request, N_IMAGE, sizeof *request, NULL) == MF_OK);
            for (uint32_t i = 0; i < N_IMAGE; i++) {
                cr_assert(same_image(&alone[i], &out[i]), "round %u, image %u, %u threads", round, i, n_thread);
                drop_image_outputs(&out[i]);
            }
            mf_executor_close(executor);
        }
        for (uint32_t i = 0; i < N_IMAGE; i++) {
            drop_image_outputs(&alone[i]);
            mf_session_close(session[i]);
            mf_submodel_close(view[i]);
            free(pixels[i]);
        }
        mf_model_close(opened);
        family_drop(&file);
        random_model_free(&model);
    }
}

/* ---- Requests ---- */

typedef struct scene {
    random_model random;
    model_file file;
    mf_model *model;
    mf_submodel *view;
    mf_executor *executor;
    mf_session *session;
    float *pixels;
    image_outputs out;
} scene;

static scene open_scene(uint32_t round)
{
    rng r = { round };
    scene s = { .random = model_of(round) };
    s.file = family_file(&s.random, MFK_F32);
    s.model = open_file(&s.file, NULL);
    s.view = take_named(s.model, "1");
    s.executor = new_executor(s.model, 1, 0);
    s.session = new_session(s.model);
    s.pixels = draw_image(&s.random.config.vit, &r);
    s.out = new_image_outputs(&s.random.config);
    return s;
}

static void close_scene(scene *s)
{
    drop_image_outputs(&s->out);
    free(s->pixels);
    mf_session_close(s->session);
    mf_executor_close(s->executor);
    mf_submodel_close(s->view);
    mf_model_close(s->model);
    family_drop(&s->file);
    random_model_free(&s->random);
}

static void refuse(const scene *s, mf_request request, mf_status status, const char *sentence)
{
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mf_forward(s->executor, &request, 1, sizeof request, &error), status, "%s", error.detail);
    cr_assert(request.status == status && strstr(error.detail, sentence), "%s", error.detail);
    cr_assert_eq(mf_session_position(s->session), 0);
}

Test(vit, requests_that_mix_things_up_are_refused_with_the_reason)
{
    scene s = open_scene(1); /* classes and a pooler */
    const int32_t token = 0;
    const mf_request whole = image_request(&s.random.config, s.session, s.view, s.pixels, &s.out);
    mf_request request = whole;
    request.tokens = &token;
    request.n_token = 1;
    refuse(&s, request, MF_E_UNSUPPORTED, "takes pixels");
    request.pixels = NULL;
    refuse(&s, request, MF_E_UNSUPPORTED, "takes pixels");
    request = whole, request.embeddings = s.pixels;
    refuse(&s, request, MF_E_UNSUPPORTED, "takes pixels");
    request = whole, request.pixels = NULL;
    refuse(&s, request, MF_E_INVALID, "no pixels");
    request = whole, request.pooled_capacity--;
    refuse(&s, request, MF_E_CAPACITY, "pooled_capacity");
    request = whole, request.logits_capacity = 0;
    refuse(&s, request, MF_E_CAPACITY, "logits_capacity");
    request = whole, request.hidden_capacity--;
    refuse(&s, request, MF_E_CAPACITY, "hidden_capacity");
    request = whole, request.session = new_session_of(s.model, MF_CACHE_F32, (uint32_t)s.out.n_row - 1);
    refuse(&s, request, MF_E_FULL, "the session holds");
    mf_session_close(request.session);
    mf_executor_close(s.executor);
    s.executor = new_executor(s.model, 1, (uint32_t)s.out.n_row - 1);
    refuse(&s, whole, MF_E_CAPACITY, "max_tokens");
    close_scene(&s);
}

Test(vit, what_a_model_has_no_head_for_is_refused)
{
    scene plain = open_scene(2), no_pooler = open_scene(3); /* no classes; no pooler */
    mf_request request = image_request(&plain.random.config, plain.session, plain.view, plain.pixels, &plain.out);
    request.logits = plain.out.logits;
    refuse(&plain, request, MF_E_UNSUPPORTED, "no classifier");
    request =
        image_request(&no_pooler.random.config, no_pooler.session, no_pooler.view, no_pooler.pixels, &no_pooler.out);
    request.pooled = no_pooler.out.pooled;
    refuse(&no_pooler, request, MF_E_UNSUPPORTED, "no pooler");
    close_scene(&plain);
    close_scene(&no_pooler);
}

Test(vit, a_decoder_refuses_pixels)
{
    random_model random;
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 1) == MF_OK);
    model_file file = make_random_file(&random, MFK_F32, MFI_RAW, false);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *view = take_named(model, "1");
    mf_executor *executor = new_executor(model, 1, 0);
    mf_session *session = new_session(model);
    const int32_t token = 0;
    const float pixel = 0;
    mf_error error = MF_ERROR_INIT;
    mf_request request = { .session = session, .submodel = view, .pixels = &pixel };
    cr_assert(mf_forward(executor, &request, 1, sizeof request, &error) == MF_E_UNSUPPORTED);
    cr_assert(strstr(error.detail, "takes tokens"), "%s", error.detail);
    /* A caller of the first release has no such fields: what lies behind its request is not looked at. */
    request.tokens = &token;
    request.n_token = 1;
    cr_assert(mf_forward(executor, &request, 1, offsetof(mf_request, pixels), &error) == MF_OK, "%s", error.detail);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(view);
    mf_model_close(model);
    drop_file(&file);
    random_model_free(&random);
}

/* LAST is the class row, NONE nothing of either; the pooled state comes when its memory is given. */
Test(vit, an_image_gives_the_rows_that_were_asked_for)
{
    scene s = open_scene(1);
    const size_t d = s.out.d_model;
    image_outputs less = new_image_outputs(&s.random.config);
    mf_request all = image_request(&s.random.config, s.session, s.view, s.pixels, &s.out);
    mf_request request = image_request(&s.random.config, s.session, s.view, s.pixels, &less);
    cr_assert(mf_forward(s.executor, &all, 1, sizeof all, NULL) == MF_OK);
    request.logits_of = MF_LOGITS_NONE;
    cr_assert(mf_forward(s.executor, &request, 1, sizeof request, NULL) == MF_OK);
    cr_assert(less.hidden[0] == 0 && less.logits[0] == 0);
    cr_assert(memcmp(less.pooled, s.out.pooled, d * sizeof(float)) == 0);
    request.logits_of = MF_LOGITS_LAST;
    request.hidden_capacity = d;
    cr_assert(mf_forward(s.executor, &request, 1, sizeof request, NULL) == MF_OK);
    cr_assert(memcmp(less.hidden, s.out.hidden, d * sizeof(float)) == 0 && less.hidden[d] == 0);
    cr_assert(memcmp(less.logits, s.out.logits, s.out.n_class * sizeof(float)) == 0);
    drop_image_outputs(&less);
    close_scene(&s);
}

Test(vit, a_cancelled_image_leaves_its_session_as_it_was)
{
    scene s = open_scene(1);
    mf_request request = image_request(&s.random.config, s.session, s.view, s.pixels, &s.out);
    mf_session_cancel(s.session);
    refuse(&s, request, MF_E_CANCELLED, "cancelled");
    cr_assert(mf_forward(s.executor, &request, 1, sizeof request, NULL) == MF_OK);
    close_scene(&s);
}

/* With memory for the keys and values of one image, two find room one after the other, but not at once. */
Test(vit, the_pages_of_an_image_are_given_back)
{
    scene s = open_scene(1);
    const mfi_config *c = &s.random.config;
    const size_t n_page = (s.out.n_row + MFK_PAGE - 1) / MFK_PAGE * c->n_layer;
    const size_t block = mfk_cache_block_bytes(MFK_F32, c->d_head);
    mf_model_options options = test_options(NULL);
    mf_model *model;
    options.cache_bytes = n_page * 2 * mfi_kv_heads(c->n_head, c->head_group) * block;
    cr_assert(mf_model_open_memory(&model, s.file.data, s.file.bytes, &options, NULL) == MF_OK);
    mf_submodel *view = take_named(model, "1");
    mf_executor *executor = new_executor(model, 1, 0);
    mf_session *session[2] = { new_session(model), new_session(model) };
    mf_request request[2];
    for (size_t i = 0; i < 2; i++)
        request[i] = image_request(c, session[i], view, s.pixels, &s.out);
    for (size_t i = 0; i < 2; i++)
        cr_assert(mf_forward(executor, &request[i], 1, sizeof *request, NULL) == MF_OK);
    cr_assert(mf_forward(executor, request, 2, sizeof *request, NULL) == MF_E_FULL);
    cr_assert(request[0].status == MF_OK && request[1].status == MF_E_FULL);
    for (size_t i = 0; i < 2; i++)
        mf_session_close(session[i]);
    mf_executor_close(executor);
    mf_submodel_close(view);
    mf_model_close(model);
    close_scene(&s);
}

Test(vit, its_shape_is_told_and_it_neither_samples_nor_generates)
{
    scene s = open_scene(1);
    const mfi_vit *v = &s.random.config.vit;
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_submodel_info view = MF_SUBMODEL_INFO_INIT;
    mf_sampler *sampler;
    cr_assert(mf_model_info_get(s.model, &info) == MF_OK && mf_submodel_info_get(s.view, &view) == MF_OK);
    cr_assert(strcmp(info.family, "vit") == 0 && info.image_size == v->image_size && info.patch_size == v->patch_size);
    cr_assert(info.n_channel == v->n_channel && info.n_class == v->n_class && info.max_positions == s.out.n_row);
    cr_assert_eq(view.n_param, info.n_param);
    cr_assert_eq(mf_sampler_create(&sampler, s.model, NULL, NULL), MF_E_UNSUPPORTED);
    cr_assert_eq(mf_generate(NULL, NULL, s.view, NULL, NULL, NULL), MF_E_UNSUPPORTED);
    close_scene(&s);
}

Test(vit, configurations_that_make_no_sense_are_refused)
{
    random_model model = model_of(1);
    mfi_config *c = &model.config;
    const mfi_config good = *c;
    cr_assert(mfi_config_check(c, NULL) == MF_OK);
    c->vit.patch_size = 0;
    cr_assert(mfi_config_check(c, NULL) == MF_E_INVALID);
    *c = good, c->vit.image_size++;
    cr_assert(mfi_config_check(c, NULL) == MF_E_INVALID);
    *c = good, c->vit.n_channel = UINT32_MAX;
    cr_assert(mfi_config_check(c, NULL) == MF_E_INVALID);
    *c = good, c->vit.patch_size = c->vit.image_size = UINT32_MAX;
    cr_assert(mfi_config_check(c, NULL) == MF_E_INVALID);
    *c = good, c->max_positions--;
    cr_assert(mfi_config_check(c, NULL) == MF_E_INVALID);
    *c = good, c->rope_theta = 10000;
    cr_assert(mfi_config_check(c, NULL) == MF_E_INVALID);
    *c = good;
    c->window[0] = 3;
    cr_assert(mfi_config_check(c, NULL) == MF_E_INVALID);
    random_model_free(&model);
}
