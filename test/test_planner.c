/* test_planner.c - planning by the public functions: what is measured, and that it can be interrupted anywhere. */
#define _DEFAULT_SOURCE /* kill, usleep, truncate */
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "family_fixture.h"
#include "matformer_tools.h"
#include "run_model.h"

/* tiny: 3 layers, S, M, L = 64, 128, 256; layer 1 may be skipped */
enum { N_TOKEN = 96, CONTEXT = 32, N_EVALUATION = 30 };

typedef struct stage {
    random_model random;
    temporary_path path, record;
    mf_model *model;
    int32_t *tokens;
    mf_plan_options options;
    uint32_t cancel_at; /* evaluations after which the progress says to stop; 0: never */
} stage;

static int watch(void *user, uint64_t done, uint64_t total)
{
    const stage *s = user;
    cr_assert(done >= 1 && done <= total);
    return s->cancel_at != 0 && done >= s->cancel_at;
}

static void open_stage(stage *s)
{
    rng r = { 9 };
    *s = (stage){ .path = new_path(), .record = new_path(), .options = MF_PLAN_OPTIONS_INIT };
    cr_assert(random_model_init_shape(&s->random, random_shape_find("tiny"), 1) == MF_OK);
    cr_assert(random_model_save(&s->random, MFK_BF16, MFI_RAW, false, s->path.text, NULL) == MF_OK);
    cr_assert(mf_model_open(&s->model, s->path.text, NULL, NULL) == MF_OK);
    s->tokens = new_tokens(s->model, N_TOKEN, &r);
    s->options.tokens = s->tokens;
    s->options.n_token = N_TOKEN;
    s->options.context = CONTEXT;
    s->options.n_evaluation = N_EVALUATION;
    s->options.n_thread = 1;
    s->options.calibration = "chance";
    s->options.progress = watch;
    s->options.progress_user = s;
}

static void close_stage(stage *s)
{
    mf_model_close(s->model);
    unlink(s->path.text);
    unlink(s->record.text);
    free(s->tokens);
    random_model_free(&s->random);
}

static mf_plan *make(stage *s)
{
    mf_plan *plan = NULL;
    mf_error error = MF_ERROR_INIT;
    cr_assert(mf_plan_make(&plan, s->model, &s->options, &error) == MF_OK, "%s", error.detail);
    return plan;
}

static bool get(const mf_plan *plan, int all, uint32_t index, mf_plan_entry *entry, char text[128])
{
    *entry = (mf_plan_entry){ .struct_size = sizeof *entry, .text = text, .text_capacity = 128 };
    return mf_plan_entry_get(plan, all, index, entry) == MF_OK;
}

static void expect_same(const mf_plan *a, const mf_plan *b)
{
    for (int all = 0; all < 2; all++)
        for (uint32_t i = 0;; i++) {
            mf_plan_entry x, y;
            char x_text[128], y_text[128];
            const bool more = get(a, all, i, &x, x_text);
            cr_assert_eq(more, get(b, all, i, &y, y_text));
            if (!more) break;
            cr_assert_str_eq(x_text, y_text);
            cr_assert(x.loss == y.loss && x.kl == y.kl && x.acceptance == y.acceptance && x.n_param == y.n_param);
        }
}

/* ---- What is measured ---- */

typedef struct sums {
    double loss, kl, agreement, acceptance;
} sums;

static size_t likeliest(const double *p, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        best = p[i] > p[best] ? i : best;
    return best;
}

static void softmax(const float *logits, size_t n, double *p)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += p[i] = exp((double)logits[i]);
    for (size_t i = 0; i < n; i++)
        p[i] /= sum;
}

/* By the definitions, window by window. */
static sums score(const stage *s, mf_submodel *view)
{
    sums sum = { 0, 0, 0, 0 };
    mf_submodel *widest = NULL;
    cr_assert(mf_extract_submodel(&widest, s->model, NULL, NULL) == MF_OK);
    size_t n_row = 0;
    for (size_t begin = 0; begin < N_TOKEN; begin += CONTEXT) {
        outputs p_out = run_alone(s->model, widest, s->tokens + begin, CONTEXT - 1);
        outputs q_out = run_alone(s->model, view, s->tokens + begin, CONTEXT - 1);
        const size_t n = p_out.n_vocab;
        double *p = malloc(n * sizeof *p), *q = malloc(n * sizeof *q);
        for (size_t row = 0; row < CONTEXT - 1; row++, n_row++) {
            softmax(p_out.logits + row * n, n, p);
            softmax(q_out.logits + row * n, n, q);
            sum.loss -= log(q[s->tokens[begin + row + 1]]);
            sum.agreement += likeliest(p, n) == likeliest(q, n);
            for (size_t i = 0; i < n; i++) {
                sum.kl += p[i] * log(p[i] / q[i]);
                sum.acceptance += fmin(p[i], q[i]);
            }
        }
        free(p);
        free(q);
        drop_outputs(&p_out);
        drop_outputs(&q_out);
    }
    mf_submodel_close(widest);
    return (sums){ sum.loss / (double)n_row, sum.kl / (double)n_row, sum.agreement / (double)n_row,
                   sum.acceptance / (double)n_row };
}

Test(planner, evaluations_are_what_their_definitions_say)
{
    stage s;
    open_stage(&s);
    mf_plan *plan = make(&s);
    uint32_t n = 0;
    mf_plan_entry entry;
    char text[128];
    for (; get(plan, 1, n, &entry, text); n++) {
        if (n % 5 != 0) continue;
        mf_submodel *view = take_named(s.model, text);
        mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
        const sums wanted = score(&s, view);
        mf_submodel_info_get(view, &info);
        cr_assert_float_eq(entry.loss, wanted.loss, 1e-5);
        cr_assert_float_eq(entry.kl, wanted.kl, 1e-5);
        cr_assert_float_eq(entry.agreement, wanted.agreement, 1e-6);
        cr_assert_float_eq(entry.acceptance, wanted.acceptance, 1e-5);
        cr_assert(entry.n_param == info.n_param && entry.bytes_per_token == info.bytes_per_token);
        cr_assert(entry.n_shell == info.n_shell);
        double loss = 0;
        const mf_submodel *const views[] = { view };
        cr_assert(mf_plan_score_views(s.model, views, 1, &s.options, &loss, NULL) == MF_OK);
        cr_assert_float_eq(loss, wanted.loss, 1e-5);
        mf_submodel_close(view);
    }
    cr_assert_eq(n, N_EVALUATION);
    double before = HUGE_VAL;
    for (uint32_t i = 0; get(plan, 0, i, &entry, text); i++) {
        mf_plan_entry next;
        char next_text[128];
        if (!get(plan, 0, i + 1, &next, next_text)) {
            cr_assert_str_eq(text, "L"); /* the whole model */
            break;
        }
        cr_assert(entry.loss < before);
        before = entry.loss;
    }
    mf_plan_close(plan);
    close_stage(&s);
}

Test(planner, every_method_gets_as_many_evaluations)
{
    stage s;
    open_stage(&s);
    for (int method = MF_PLAN_SEARCH; method <= MF_PLAN_RANDOM; method++) {
        mf_plan_entry entry;
        char text[128];
        uint32_t n = 0;
        s.options.method = (mf_plan_method)method;
        s.options.n_evaluation = 12;
        mf_plan *plan = make(&s);
        for (; get(plan, 1, n, &entry, text); n++) {
            mf_submodel *view = take_named(s.model, text);
            uint32_t ffn[3];
            for (uint32_t l = 0; l < 3; l++)
                mf_submodel_layer(view, l, &ffn[l], NULL, NULL);
            if (method == MF_PLAN_UNIFORM) cr_assert(ffn[0] == ffn[1] && ffn[1] == ffn[2]);
            if (method == MF_PLAN_RULE && n >= 3) /* after S, M, L */
                cr_assert(ffn[0] <= ffn[1] && ffn[1] <= ffn[2] && ffn[2] - ffn[0] <= 32);
            mf_submodel_close(view);
        }
        cr_assert(n == (method == MF_PLAN_UNIFORM ? 7 : 12), "method %d: %u", method, n);
        mf_plan_close(plan);
    }
    close_stage(&s);
}

Test(planner, images_are_planned_for_too)
{
    static const random_shape shape = { "vit",        2,    32, 16, 4, 2, 128, 19, 64, 2, MFI_NORM_LAYER, MFI_FFN_PLAIN,
                                        MFK_GELU_ERF, true, 1 };
    random_model random;
    cr_assert(random_model_init_shape(&random, &shape, 1) == MF_OK);
    mfi_config *c = &random.config;
    c->family = MFI_FAMILY_VIT;
    c->rope_theta = 0;
    c->attention_bias = c->ffn_bias = true;
    c->vit = (mfi_vit){ .image_size = 12, .patch_size = 4, .n_channel = 3, .n_class = 7, .pooler = true };
    model_file file = family_file(&random, MFK_F32);
    mf_model *model = open_file(&file, NULL);
    enum { N_IMAGE = 5, PIXELS = 3 * 12 * 12 };
    float pixels[N_IMAGE * PIXELS];
    int32_t labels[N_IMAGE];
    rng r = { 4 };
    for (size_t i = 0; i < N_IMAGE * PIXELS; i++)
        pixels[i] = (float)rng_below(&r, 1000) / 500 - 1;
    for (size_t i = 0; i < N_IMAGE; i++)
        labels[i] = (int32_t)rng_below(&r, 7);
    for (int with_labels = 0; with_labels < 2; with_labels++) {
        mf_plan *plan = NULL;
        mf_error error = MF_ERROR_INIT;
        mf_plan_entry entry;
        char text[128];
        mf_plan_options options = MF_PLAN_OPTIONS_INIT;
        options.pixels = pixels;
        options.labels = with_labels ? labels : NULL;
        options.n_image = N_IMAGE;
        options.n_evaluation = 10;
        options.n_thread = 1;
        cr_assert(mf_plan_make(&plan, model, &options, &error) == MF_OK, "%s", error.detail);
        cr_assert(mf_plan_time(plan, model, &options, 2, &error) == MF_OK, "%s", error.detail);
        cr_assert(get(plan, 0, 0, &entry, text));
        cr_assert(entry.decode_ms > 0 && entry.prefill_ms == 0);
        cr_assert(with_labels ? entry.loss > entry.kl : fabs(entry.loss - entry.kl) < 1e-6);
        mf_plan_close(plan);
    }
    mf_model_close(model);
    drop_file(&file);
    random_model_free(&random);
}

/* ---- Interruptions ---- */

Test(planner, a_plan_that_was_interrupted_becomes_the_same)
{
    stage s;
    open_stage(&s);
    mf_plan *whole = make(&s), *plan = NULL;
    s.options.resume = s.record.text;
    unlink(s.record.text);
    rng r = { 8 };
    for (uint32_t done = 5; done < N_EVALUATION; done += 9) { /* cancelled, and then half a line of it lost */
        s.cancel_at = done;
        cr_assert(mf_plan_make(&plan, s.model, &s.options, NULL) == MF_E_CANCELLED && plan == NULL);
        model_file record = read_file(s.record.text);
        cr_assert(truncate(s.record.text, (off_t)(record.bytes - 1 - rng_below(&r, 40))) == 0);
        drop_file(&record);
    }
    s.cancel_at = 0;
    plan = make(&s);
    expect_same(plan, whole);
    mf_plan_close(plan);
    plan = make(&s); /* all from the record */
    expect_same(plan, whole);
    mf_plan_close(plan);

    s.tokens[3] = s.tokens[3] == 0; /* another text */
    mf_error error = MF_ERROR_INIT;
    cr_assert(mf_plan_make(&plan, s.model, &s.options, &error) == MF_E_INVALID);
    cr_assert(strstr(error.detail, "another model, text or plan"), "%s", error.detail);
    mf_plan_close(whole);
    close_stage(&s);
}

Test(planner, a_plan_whose_process_was_killed_becomes_the_same)
{
    stage s;
    open_stage(&s);
    mf_plan *whole = make(&s);
    unlink(s.record.text);
    s.options.resume = s.record.text;
    rng r = { 6 };
    for (uint32_t round = 0; round < test_rounds(6); round++) {
        const pid_t child = fork();
        cr_assert(child >= 0);
        if (child == 0) {
            mf_plan *plan = NULL;
            mf_model *model = NULL; /* one of its own: the parent's is not for a fork */
            mf_plan_options options = s.options;
            options.progress = NULL;
            if (mf_model_open(&model, s.path.text, NULL, NULL) == MF_OK) mf_plan_make(&plan, model, &options, NULL);
            _exit(0);
        }
        usleep(2000 + rng_below(&r, 60000));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    mf_plan *plan = make(&s);
    expect_same(plan, whole);
    mf_plan_close(plan);
    mf_plan_close(whole);
    close_stage(&s);
}

/* ---- Storing ---- */

Test(planner, what_is_stored_is_read_back_and_answers_budgets)
{
    stage s;
    open_stage(&s);
    mf_error error = MF_ERROR_INIT;
    mf_plan *plan = make(&s), *read = NULL;
    mf_submodel *view = NULL;
    s.options.progress = NULL;
    cr_assert(mf_plan_read(&read, s.model, &error) == MF_E_NOT_FOUND);
    cr_assert(mf_plan_time(plan, s.model, &s.options, 3, &error) == MF_OK, "%s", error.detail);
    cr_assert(mf_plan_store(plan, s.path.text, &error) == MF_OK, "%s", error.detail);
    cr_assert(mf_plan_store(plan, GOLDEN_DIR "/checkpoints/vit_classifier_f32", &error) == MF_E_UNSUPPORTED);
    mf_model_close(s.model);
    cr_assert(mf_model_open(&s.model, s.path.text, NULL, &error) == MF_OK);
    cr_assert(mf_plan_read(&read, s.model, &error) == MF_OK, "%s", error.detail);
    uint64_t bytes = 0;
    double ms = 0;
    for (uint32_t i = 0;; i++) {
        mf_plan_entry a, b;
        char a_text[128], b_text[128];
        const bool more = get(plan, 0, i, &a, a_text);
        cr_assert_eq(more, get(read, 0, i, &b, b_text));
        if (!more) break;
        cr_assert_str_eq(a_text, b_text);
        cr_assert((float)a.loss == (float)b.loss && a.decode_ms == b.decode_ms && a.prefill_ms == b.prefill_ms);
        cr_assert(a.decode_ms > 0 && a.prefill_ms > 0);
        if (a.bytes_per_token > bytes) cr_assert(a.decode_ms >= ms); /* what reads more takes no less */
        bytes = a.bytes_per_token;
        ms = a.decode_ms;
    }
    cr_assert(mf_extract_submodel_text(&view, s.model, "ms<=1e6", &error) == MF_OK, "%s", error.detail);
    mf_submodel_close(view);
    mf_plan_close(read);
    mf_plan_close(plan);
    close_stage(&s);
}
