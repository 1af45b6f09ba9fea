/* test_trainer.c - the trainer as a program uses it: determinism, resuming, stopping, files, refusals. */
#define _DEFAULT_SOURCE
#include "counting_allocator.h"
#include "train_fixture.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_TOKEN 3000u

/* Text with something to learn: a token is mostly the one before it plus one. */
static int32_t *make_tokens(void)
{
    int32_t *tokens = malloc(N_TOKEN * sizeof(*tokens));
    for (uint32_t i = 0; i < N_TOKEN; i++) {
        uint64_t noise = mfi_random(7, 7, i);
        tokens[i] = i > 0 && noise % 8 ? (tokens[i - 1] + 1) % 61 : (int32_t)(noise / 8 % 61);
    }
    return tokens;
}

static mf_train_model small_model(void)
{
    return (mf_train_model){ .struct_size = sizeof(mf_train_model),
                             .n_layer = 2,
                             .d_model = 64,
                             .n_head = 4,
                             .head_group = 4,
                             .d_head = 16,
                             .d_ff = 256,
                             .n_vocab = 61 };
}

static mf_trainer_options small_options(const int32_t *tokens)
{
    return (mf_trainer_options){ .struct_size = sizeof(mf_trainer_options),
                                 .seed = 11,
                                 .n_thread = 1,
                                 .batch = 4,
                                 .sequence = 40,
                                 .n_step = 60,
                                 .warmup = 5,
                                 .learning_rate = 5e-3,
                                 .tokens = { tokens, N_TOKEN, sizeof(*tokens) } };
}

static void steps(mf_trainer *t, int n)
{
    for (int i = 0; i < n; i++)
        step(t);
}

static bool same_state(const mf_trainer *a, const mf_trainer *b)
{
    size_t bytes = a->layout.n_float * sizeof(float);
    return a->step == b->step && !memcmp(a->weights, b->weights, bytes) && !memcmp(a->m, b->m, bytes) &&
           !memcmp(a->v, b->v, bytes);
}

static double distance(const mf_trainer *a, const mf_trainer *b, const float *x, const float *y)
{
    double most = 0;
    for (size_t i = 0; i < a->layout.n_float; i++)
        most = fmax(most, fabs((double)x[i] - (double)y[i]));
    cr_assert_eq(a->layout.n_float, b->layout.n_float);
    return most;
}

static char folder[] = "/tmp/mf_trainer_XXXXXX";
static char path[64], other_path[64];

static void make_folder(void)
{
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/a", folder);
    snprintf(other_path, sizeof(other_path), "%s/b", folder);
}

static void remove_folder(void)
{
    remove(path);
    remove(other_path);
    rmdir(folder);
}

TestSuite(trainer, .init = make_folder, .fini = remove_folder);

static void expect(mf_status expected, mf_status got, const mf_error *error, const char *words)
{
    cr_assert_eq(got, expected, "%s: %s", mf_status_name(got), error->detail);
    cr_assert(strstr(error->detail, words), "\"%s\" does not say \"%s\"", error->detail, words);
}

/* ---- Learning ---- */

Test(trainer, loss_falls_at_every_granularity)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_trainer *t = make_trainer(&model, &options);
    mf_train_report first = step(t);
    steps(t, 58);
    mf_train_report last = step(t);
    for (uint32_t g = 0; g < last.n_granularity; g++) {
        cr_assert_float_eq(first.loss[g], log(61), 0.2, "an untrained model knows nothing: %f", first.loss[g]);
        cr_assert(last.loss[g] < 0.5 * first.loss[g], "granularity %u: %f, then %f", g, first.loss[g], last.loss[g]);
    }
    cr_assert_float_eq(last.learning_rate, 5e-4, 2e-5, "a tenth of the peak is left");
    mf_trainer_close(t);
    free(tokens);
}

Test(trainer, an_epoch_visits_every_window_once)
{
    const size_t length = 40, n_window = N_TOKEN / length - 1;
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        uint8_t seen[N_TOKEN] = { 0 };
        size_t offset = SIZE_MAX;
        for (uint64_t i = 0; i < n_window; i++) {
            size_t at = mfi_train_window(5, epoch * n_window + i, N_TOKEN, length);
            if (i == 0) offset = at % length;
            cr_assert(at + length < N_TOKEN && at % length == offset && !seen[at]);
            seen[at] = 1;
        }
    }
}

Test(trainer, the_shortest_text_is_one_window)
{
    for (size_t length = 1; length < 5; length++)
        for (size_t n_token = length + 1; n_token < 4 * length; n_token++)
            for (uint64_t i = 0; i < 50; i++)
                cr_assert(mfi_train_window(1, i, n_token, length) + length < n_token);
}

/* ---- Determinism ---- */

Test(trainer, same_bits_on_one_two_and_three_threads)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_train_norm norms[] = { MF_TRAIN_NORM_RMS, MF_TRAIN_NORM_LAYER };
    for (size_t n = 0; n < 2; n++) {
        model.norm = norms[n];
        mf_trainer *t[3];
        for (uint32_t i = 0; i < 3; i++) {
            mf_trainer_options options = small_options(tokens);
            options.n_thread = i + 1;
            t[i] = make_trainer(&model, &options);
            steps(t[i], 4);
            cr_assert(same_state(t[0], t[i]), "%u threads", i + 1);
        }
        for (size_t i = 0; i < 3; i++)
            mf_trainer_close(t[i]);
    }
    free(tokens);
}

Test(trainer, another_seed_gives_another_run)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_trainer *a = make_trainer(&model, &options);
    options.seed = 12;
    mf_trainer *b = make_trainer(&model, &options);
    cr_assert(distance(a, b, a->weights, b->weights) > 0.01);
    mf_trainer_close(a);
    mf_trainer_close(b);
    free(tokens);
}

Test(trainer, tokens_of_two_and_of_four_bytes_are_the_same_text)
{
    int32_t *tokens = make_tokens();
    uint16_t narrow[N_TOKEN];
    for (size_t i = 0; i < N_TOKEN; i++)
        narrow[i] = (uint16_t)tokens[i];
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_trainer *a = make_trainer(&model, &options);
    options.tokens = (mf_train_tokens){ narrow, N_TOKEN, sizeof(narrow[0]) };
    mf_trainer *b = make_trainer(&model, &options);
    steps(a, 2);
    steps(b, 2);
    cr_assert(same_state(a, b));
    mf_trainer_close(a);
    mf_trainer_close(b);
    free(tokens);
}

/* ---- What a step computes ---- */

Test(trainer, micro_batches_give_the_batch_to_rounding)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_trainer *whole = make_trainer(&model, &options);
    options.n_micro = 2;
    mf_trainer *halves = make_trainer(&model, &options);
    mf_train_report a = step(whole), b = step(halves);
    cr_assert_float_eq(a.loss[0], b.loss[0], 1e-6);
    cr_assert(distance(whole, halves, whole->gradient, halves->gradient) < 1e-6);
    cr_assert(distance(whole, halves, whole->gradient, whole->weights) > 1e-3, "the gradient is not trivial");
    mf_trainer_close(whole);
    mf_trainer_close(halves);
    free(tokens);
}

Test(trainer, the_joint_gradient_is_the_sum_over_granularities)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_trainer *joint = make_trainer(&model, &options);
    step(joint);
    double *sum = calloc(joint->layout.n_float, sizeof(*sum));
    for (uint32_t g = 0; g < 4; g++) {
        options.objective = MF_OBJECTIVE_SINGLE;
        options.granularity = g;
        mf_trainer *single = make_trainer(&model, &options);
        mf_train_report report = step(single);
        cr_assert(isnan(report.loss[(g + 1) % 4]) && !isnan(report.loss[g]));
        for (size_t i = 0; i < joint->layout.n_float; i++)
            sum[i] += (double)single->gradient[i];
        mf_trainer_close(single);
    }
    for (size_t i = 0; i < joint->layout.n_float; i++)
        cr_assert_float_eq((double)joint->gradient[i], sum[i], 2e-6);
    free(sum);
    mf_trainer_close(joint);
    free(tokens);
}

Test(trainer, sampling_draws_with_the_given_probabilities)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    const double probability[4] = { 3, 0, 1, 0 };
    mf_trainer_options options = small_options(tokens);
    options.objective = MF_OBJECTIVE_SAMPLED;
    options.probability = probability;
    options.batch = 1;
    mf_trainer *t = make_trainer(&model, &options);
    int drawn[4] = { 0 };
    for (int i = 0; i < 200; i++) {
        mf_train_report report = step(t);
        for (int g = 0; g < 4; g++)
            drawn[g] += !isnan(report.loss[g]);
    }
    cr_assert(drawn[0] > 125 && drawn[0] < 175 && drawn[0] + drawn[2] == 200, "%d and %d", drawn[0], drawn[2]);
    mf_trainer_close(t);
    free(tokens);
}

Test(trainer, clipping_scales_the_whole_gradient)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    options.clip = -1;
    mf_trainer *free_one = make_trainer(&model, &options);
    double norm = step(free_one).grad_norm;
    options.clip = norm / 4;
    mf_trainer *clipped = make_trainer(&model, &options);
    double before = step(clipped).grad_norm;
    cr_assert_float_eq(before, norm, 1e-9, "the report says the norm before clipping");
    for (size_t i = 0; i < clipped->layout.n_float; i++)
        cr_assert_float_eq((double)clipped->m[i], 0.25 * (double)free_one->m[i], 1e-9);
    mf_trainer_close(free_one);
    mf_trainer_close(clipped);
    free(tokens);
}

Test(trainer, a_gradient_that_is_not_finite_changes_nothing)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_trainer *t = make_trainer(&model, &options);
    mf_trainer *untouched = make_trainer(&model, &options);
    float *weight = element(t, t->weights, "layers.0.attn.q", 0, 0), kept = *weight;
    *weight = INFINITY;
    mf_train_report report = step(t);
    *weight = kept;
    cr_assert(report.skipped && report.step == 1);
    untouched->step = 1;
    cr_assert(same_state(t, untouched));
    mf_trainer_close(t);
    mf_trainer_close(untouched);
    free(tokens);
}

/* ---- Checkpoints ---- */

Test(trainer, a_resumed_run_has_the_bits_of_an_uninterrupted_one)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_error error = MF_ERROR_INIT;
    options.objective = MF_OBJECTIVE_SAMPLED;
    mf_trainer *straight = make_trainer(&model, &options);
    int stop_at = 2 + (int)(mfi_random((uint64_t)getpid(), 0, 0) % 5);
    steps(straight, 9);

    mf_trainer *before = make_trainer(&model, &options);
    steps(before, stop_at);
    cr_assert_eq(mf_trainer_save(before, path, &error), MF_OK, "%s", error.detail);
    mf_trainer_close(before);
    options.n_thread = 1;
    mf_trainer *after = make_trainer(&model, &options);
    cr_assert_eq(mf_trainer_load(after, path, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mf_trainer_step_count(after), (uint64_t)stop_at);
    steps(after, 9 - stop_at);
    cr_assert(same_state(straight, after), "interrupted after step %d", stop_at);
    mf_trainer_close(straight);
    mf_trainer_close(after);
    free(tokens);
}

Test(trainer, a_stopped_step_leaves_the_state_before_it)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_error error = MF_ERROR_INIT;
    mf_trainer *straight = make_trainer(&model, &options), *stopped = make_trainer(&model, &options);
    steps(straight, 3);
    steps(stopped, 2);
    mf_trainer_stop(stopped, 1);
    expect(MF_E_CANCELLED, mf_trainer_step(stopped, NULL, &error), &error, "step 3");
    cr_assert_eq(mf_trainer_save(stopped, path, &error), MF_OK, "a stopped trainer can be saved");
    mf_train_tokens text = { tokens, 500, sizeof(*tokens) };
    cr_assert_eq(mf_trainer_evaluate(stopped, NULL, &text, 0, NULL, NULL, &error), MF_E_CANCELLED);
    mf_trainer_stop(stopped, 0);
    step(stopped);
    cr_assert(same_state(straight, stopped));
    mf_trainer_close(straight);
    mf_trainer_close(stopped);
    free(tokens);
}

static uint64_t run_of(const mf_trainer *t)
{
    mf_trainer_info info = MF_TRAINER_INFO_INIT;
    cr_assert_eq(mf_trainer_info_get(t, &info), MF_OK);
    return info.run;
}

Test(trainer, a_checkpoint_of_another_run_is_refused_by_name)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_error error = MF_ERROR_INIT;
    mf_trainer *t = make_trainer(&model, &options);
    cr_assert_eq(mf_trainer_save(t, path, &error), MF_OK);
    uint64_t run = run_of(t);
    step(t);
    cr_assert_eq(run_of(t), run);
    mf_trainer_close(t);

    options.batch = 8;
    t = make_trainer(&model, &options);
    expect(MF_E_INVALID, mf_trainer_load(t, path, &error), &error, "batch differs");
    cr_assert_neq(run_of(t), run);
    mf_trainer_close(t);
    options.batch = 4;
    model.d_ff = 128;
    t = make_trainer(&model, &options);
    expect(MF_E_INVALID, mf_trainer_load(t, path, &error), &error, "d_ff differs");
    cr_assert_neq(run_of(t), run);
    mf_trainer_close(t);
    model.d_ff = 256;
    tokens[1234] = (tokens[1234] + 1) % 61;
    t = make_trainer(&model, &options);
    expect(MF_E_INVALID, mf_trainer_load(t, path, &error), &error, "tokens differs");
    expect(MF_E_NOT_FOUND, mf_trainer_load(t, other_path, &error), &error, "opened");
    cr_assert_neq(run_of(t), run);
    mf_trainer_close(t);
    free(tokens);
}

static void write_bytes(const char *to, const char *bytes, size_t count)
{
    FILE *file = fopen(to, "wb");
    cr_assert_not_null(file);
    cr_assert_eq(fwrite(bytes, 1, count, file), count);
    fclose(file);
}

Test(trainer, a_damaged_checkpoint_is_refused_and_changes_nothing)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_error error = MF_ERROR_INIT;
    mf_trainer *t = make_trainer(&model, &options), *untouched = make_trainer(&model, &options);
    cr_assert_eq(mf_trainer_save(t, path, &error), MF_OK);
    struct stat info;
    cr_assert_eq(stat(path, &info), 0);
    size_t bytes = (size_t)info.st_size;
    char *data = read_file(path);
    for (size_t i = 0; i < 60; i++) {
        size_t at = i < 20 ? i * 97 % 2100 : mfi_random(3, 3, i) % bytes;
        data[at] ^= 4;
        write_bytes(other_path, data, bytes);
        cr_assert_neq(mf_trainer_load(t, other_path, &error), MF_OK, "byte %zu changed", at);
        data[at] ^= 4;
    }
    for (size_t length = 0; length < bytes; length += bytes / 23) {
        write_bytes(other_path, data, length);
        cr_assert_neq(mf_trainer_load(t, other_path, &error), MF_OK, "%zu of %zu bytes", length, bytes);
    }
    cr_assert(same_state(t, untouched));
    write_bytes(other_path, data, bytes);
    cr_assert_eq(mf_trainer_load(t, other_path, &error), MF_OK, "%s", error.detail);
    free(data);
    mf_trainer_close(t);
    mf_trainer_close(untouched);
    free(tokens);
}

Test(trainer, a_save_that_fails_leaves_the_old_checkpoint)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_error error = MF_ERROR_INIT;
    mf_trainer *t = make_trainer(&model, &options);
    cr_assert_eq(mf_trainer_save(t, path, &error), MF_OK);
    char missing[96];
    snprintf(missing, sizeof(missing), "%s/none/a", folder);
    expect(MF_E_IO, mf_trainer_save(t, missing, &error), &error, "none");
    step(t);
    cr_assert_eq(mf_trainer_save(t, path, &error), MF_OK);
    mf_trainer *again = make_trainer(&model, &options);
    cr_assert_eq(mf_trainer_load(again, path, &error), MF_OK);
    cr_assert(same_state(t, again), "the second save replaced the first");
    mf_trainer_close(t);
    mf_trainer_close(again);
    free(tokens);
}

/* The temporary file of a process that was killed. */
static void remove_leftovers(pid_t child)
{
    char name[96];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "%s.%ld-%d.tmp", path, (long)child, i);
        remove(name);
    }
}

/* Steps and saves until it is killed. */
static void save_for_ever(const mf_train_model *model, const mf_trainer_options *options)
{
    mf_trainer *t = NULL;
    if (mf_trainer_create(&t, model, options, NULL) != MF_OK) _exit(1);
    for (;;)
        if (mf_trainer_step(t, NULL, NULL) != MF_OK || mf_trainer_save(t, path, NULL) != MF_OK) _exit(1);
}

Test(trainer, a_killed_process_leaves_a_whole_checkpoint)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    options.batch = 1;
    mf_error error = MF_ERROR_INIT;
    uint64_t latest = 0;
    for (uint64_t i = 0; i < 8; i++) {
        pid_t child = fork();
        if (child == 0) save_for_ever(&model, &options);
        while (access(path, F_OK) != 0)
            usleep(1000);
        usleep(20000 + (useconds_t)(mfi_random(i, (uint64_t)child, 0) % 20000));
        kill(child, SIGKILL);
        int status;
        cr_assert(waitpid(child, &status, 0) == child && WIFSIGNALED(status), "the child lives until it is killed");
        mf_trainer *t = make_trainer(&model, &options);
        cr_assert_eq(mf_trainer_load(t, path, &error), MF_OK, "%s", error.detail);
        cr_assert(mf_trainer_step_count(t) > 0);
        latest += mf_trainer_step_count(t);
        mf_trainer_close(t);
        remove(path);
        remove_leftovers(child);
    }
    cr_assert(latest > 8, "some were killed later than at the first save");
    free(tokens);
}

/* ---- Evaluation and .mf files ---- */

static double evaluate(mf_trainer *t, const mf_train_view *view, const int32_t *tokens, size_t n, uint64_t most,
                       uint64_t *n_predicted)
{
    mf_error error = MF_ERROR_INIT;
    mf_train_tokens text = { tokens, n, sizeof(*tokens) };
    double loss = NAN;
    cr_assert_eq(mf_trainer_evaluate(t, view, &text, most, &loss, n_predicted, &error), MF_OK, "%s", error.detail);
    return loss;
}

Test(trainer, evaluation_predicts_every_token_but_the_first_once)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_trainer *t = make_trainer(&model, &options);
    uint64_t n;
    double whole = evaluate(t, NULL, tokens, 40 * 7 + 13 + 1, 0, &n);
    cr_assert_eq(n, 40 * 7 + 13);
    double windows = 0;
    for (size_t w = 0; w < 8; w++) {
        size_t length = w < 7 ? 40 : 13;
        windows += (double)length * evaluate(t, NULL, tokens + 40 * w, length + 1, 0, NULL);
    }
    cr_assert_float_eq(whole, windows / (double)n, 1e-6);
    evaluate(t, NULL, tokens, 1000, 50, &n);
    cr_assert_eq(n, 80, "50 predictions are two windows of 40, not %llu", (unsigned long long)n);
    mf_trainer_close(t);
    free(tokens);
}

Test(trainer, views_by_list_equal_granularities_and_bad_ones_are_refused)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_trainer *t = make_trainer(&model, &options);
    mf_error error = MF_ERROR_INIT;
    mf_train_view view = MF_TRAIN_VIEW_INIT;
    view.granularity = "M";
    double by_name = evaluate(t, &view, tokens, 300, 0, NULL);
    view.granularity = NULL;
    uint32_t widths[2] = { 64, 64 }, heads[2] = { 4, 4 };
    view.ffn = widths;
    cr_assert_eq(evaluate(t, &view, tokens, 300, 0, NULL), by_name);
    widths[0] = 256;
    cr_assert_neq(evaluate(t, &view, tokens, 300, 0, NULL), by_name);

    mf_train_tokens text = { tokens, 300, sizeof(*tokens) };
    double loss;
    widths[0] = 40;
    expect(MF_E_WIDTH, mf_trainer_evaluate(t, &view, &text, 0, &loss, NULL, &error), &error, "layer 0: width 40");
    widths[0] = 288;
    expect(MF_E_WIDTH, mf_trainer_evaluate(t, &view, &text, 0, &loss, NULL, &error), &error, "up to 256");
    widths[0] = 32;
    view.heads = heads;
    heads[1] = 6;
    expect(MF_E_WIDTH, mf_trainer_evaluate(t, &view, &text, 0, &loss, NULL, &error), &error, "layer 1: 6 heads");
    heads[1] = 0;
    expect(MF_E_WIDTH, mf_trainer_evaluate(t, &view, &text, 0, &loss, NULL, &error), &error, "left out whole");
    view = (mf_train_view)MF_TRAIN_VIEW_INIT;
    view.granularity = "Z";
    expect(MF_E_NOT_FOUND, mf_trainer_evaluate(t, &view, &text, 0, &loss, NULL, &error), &error, "no granularity Z");
    tokens[17] = 61;
    expect(MF_E_RANGE, mf_trainer_evaluate(t, NULL, &text, 0, &loss, NULL, &error), &error, "token 61 at 17");
    mf_trainer_close(t);
    free(tokens);
}

Test(trainer, an_exported_file_imports_to_the_same_weights)
{
    int32_t *tokens = make_tokens();
    mf_error error = MF_ERROR_INIT;
    for (int kind = 0; kind < 8; kind++) {
        mf_train_model model = small_model();
        model.untied_output = kind & 1;
        model.ffn = kind & 2 ? MF_TRAIN_FFN_PLAIN : MF_TRAIN_FFN_GATED;
        model.norm = kind & 1 ? MF_TRAIN_NORM_LAYER : MF_TRAIN_NORM_RMS;
        model.head_group = kind & 4 ? 2 : 4;
        mf_trainer_options options = small_options(tokens);
        mf_trainer *t = make_trainer(&model, &options);
        step(t);
        mf_train_export_options export = MF_TRAIN_EXPORT_OPTIONS_INIT;
        export.compress = kind & 2;
        export.one_shell = kind & 4;
        cr_assert_eq(mf_trainer_export(t, path, &export, &error), MF_OK, "%s", error.detail);
        mf_trainer *again = make_trainer(&model, &options);
        cr_assert_eq(mf_trainer_import(again, path, &error), MF_OK, "%s", error.detail);
        cr_assert_eq(distance(t, again, t->weights, again->weights), 0.0);
        cr_assert_eq(mf_trainer_step_count(again), 0);
        cr_assert_eq(evaluate(again, NULL, tokens, 300, 0, NULL), evaluate(t, NULL, tokens, 300, 0, NULL));
        mf_trainer_close(t);
        mf_trainer_close(again);
    }
    free(tokens);
}

Test(trainer, a_plain_model_can_be_made_nested_and_another_shape_is_refused)
{
    int32_t *tokens = make_tokens();
    mf_error error = MF_ERROR_INIT;
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    const mf_train_granularity whole[] = { { .name = "XL", .ffn_ratio = 1 } };
    model.granularities = whole;
    model.n_granularity = 1;
    mf_trainer *plain = make_trainer(&model, &options);
    cr_assert_eq(mf_trainer_export(plain, path, NULL, &error), MF_OK, "%s", error.detail);
    model.granularities = NULL;
    options.seed = 99;
    mf_trainer *nested = make_trainer(&model, &options);
    cr_assert_eq(mf_trainer_import(nested, path, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(distance(plain, nested, plain->weights, nested->weights), 0.0);
    mf_trainer_close(nested);

    model.head_group = 2;
    nested = make_trainer(&model, &options);
    expect(MF_E_INVALID, mf_trainer_import(nested, path, &error), &error, "another shape");
    expect(MF_E_NOT_FOUND, mf_trainer_import(nested, other_path, &error), &error, other_path);
    mf_trainer_close(nested);
    mf_trainer_close(plain);
    free(tokens);
}

/* ---- Refusals ---- */

static void refuse(const mf_train_model *model, const mf_trainer_options *options, mf_status status, const char *words)
{
    mf_error error = MF_ERROR_INIT;
    mf_trainer *t = (mf_trainer *)&error;
    mf_status got = mf_trainer_create(&t, model, options, &error);
    cr_assert_null(t);
    expect(status, got, &error, words);
}

Test(trainer, impossible_models_and_options_are_refused)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model(), bad = model;
    mf_trainer_options options = small_options(tokens), wrong = options;
    bad.d_ff = 250;
    refuse(&bad, &options, MF_E_INVALID, "d_ff");
    bad = model, bad.n_layer = 0;
    refuse(&bad, &options, MF_E_INVALID, "n_layer");
    bad = model, bad.n_layer = 513;
    refuse(&bad, &options, MF_E_INVALID, "512");
    bad = model, bad.struct_size = 3;
    refuse(&bad, &options, MF_E_STRUCT_SIZE, "mf_train_model");
    const mf_train_granularity shrinking[] = { { .name = "A", .ffn_ratio = 1 }, { .name = "B", .ffn_ratio = 0.5 } };
    bad = model, bad.granularities = shrinking, bad.n_granularity = 2;
    refuse(&bad, &options, MF_E_INVALID, "wider than");
    bad.n_granularity = 17;
    refuse(&bad, &options, MF_E_INVALID, "17 granularities");

    wrong = options, wrong.n_micro = 3;
    refuse(&model, &wrong, MF_E_INVALID, "3 equal parts");
    wrong = options, wrong.tokens.n_token = 40;
    refuse(&model, &wrong, MF_E_INVALID, "one more");
    wrong = options, wrong.tokens.token_bytes = 3;
    refuse(&model, &wrong, MF_E_INVALID, "token_bytes");
    wrong = options, wrong.objective = MF_OBJECTIVE_SINGLE, wrong.granularity = 4;
    refuse(&model, &wrong, MF_E_RANGE, "granularity 4");
    const double zero[4] = { 0 };
    wrong = options, wrong.objective = MF_OBJECTIVE_SAMPLED, wrong.probability = zero;
    refuse(&model, &wrong, MF_E_INVALID, "sum");
    wrong = options, wrong.warmup = 61;
    refuse(&model, &wrong, MF_E_INVALID, "warm-up");
    wrong = options, wrong.beta2 = 1;
    refuse(&model, &wrong, MF_E_INVALID, "beta2");
    tokens[2999] = -1;
    refuse(&model, &options, MF_E_RANGE, "at 2999");
    free(tokens);
}

Test(trainer, a_trainer_without_tokens_does_not_step)
{
    mf_train_model model = small_model();
    mf_error error = MF_ERROR_INIT;
    mf_trainer *t = make_trainer(&model, NULL);
    expect(MF_E_INVALID, mf_trainer_step(t, NULL, &error), &error, "without tokens");
    mf_trainer_close(t);
    mf_trainer_options options = MF_TRAINER_OPTIONS_INIT;
    options.batch = options.sequence = 1 << 16; /* 2^32 tokens: their number would wrap */
    expect(MF_E_INVALID, mf_trainer_create(&t, &model, &options, &error), &error, "too large");
    mf_trainer_close(NULL);
}

Test(trainer, info_counts_the_parameters_of_every_granularity)
{
    mf_train_model model = small_model();
    mf_trainer *t = make_trainer(&model, NULL);
    mf_trainer_info info = MF_TRAINER_INFO_INIT;
    cr_assert_eq(mf_trainer_info_get(t, &info), MF_OK);
    uint64_t attention = 64 * 16 * (4 + 1 + 1 + 4), norms = 2 * 64;
    for (uint32_t g = 0; g < 4; g++)
        cr_assert_eq(info.granularity_params[g], 61 * 64 + 64 + 2 * (attention + norms + 3 * 64 * (32u << g)));
    cr_assert_str_eq(info.granularity_name[3], "XL");
    cr_assert_eq(info.n_param, info.granularity_params[3]);
    mf_trainer_close(t);
}

/* ---- Tokenizer ---- */

Test(trainer, a_tokenizer_is_learned_and_used_before_there_is_a_model)
{
    const char text[] = "the cat and the hat and the cat sat on the mat with the hat";
    mf_error error = MF_ERROR_INIT;
    mf_train_blob blob;
    cr_assert_eq(mf_train_tokenizer(&blob, text, sizeof(text) - 1, 260, &error), MF_OK, "%s", error.detail);
    int32_t tokens[sizeof(text)], eos = 0;
    size_t n = 0;
    mf_status status =
        mf_train_tokenize(blob.data, blob.bytes, text, sizeof(text) - 1, tokens, sizeof(text), &n, &eos, &error);
    cr_assert_eq(status, MF_OK, "%s", error.detail);
    cr_assert(n < sizeof(text) - 1 && eos == 259, "%zu tokens, end of text %d", n, (int)eos);
    status = mf_train_tokenize(blob.data, blob.bytes, text, sizeof(text) - 1, tokens, 2, &n, NULL, &error);
    cr_assert_eq(status, MF_E_CAPACITY);
    mf_train_blob_free(&blob);
    cr_assert_null(blob.data);
    mf_train_blob_free(&blob);
}

/* ---- Arguments ---- */

/* For each pointer argument of each function of matformer_train.h in turn: a status where it is wanted, or nothing. */
Test(trainer, null_is_refused_or_means_the_default)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    mf_train_tokens text = { tokens, 100, sizeof(*tokens) };
    mf_trainer_info info = MF_TRAINER_INFO_INIT;
    mf_trainer *t = make_trainer(&model, &options), *none = NULL;
    mf_train_blob blob;
    int32_t out[8];
    size_t n;
    mf_status wanted = MF_E_INVALID;
    cr_expect_eq(mf_trainer_create(NULL, &model, &options, NULL), wanted);
    cr_expect_eq(mf_trainer_create(&none, NULL, &options, NULL), wanted);
    cr_expect_eq(mf_trainer_create(&none, &model, NULL, NULL), MF_OK);
    mf_trainer_close(none);
    mf_trainer_close(NULL);
    cr_expect_eq(mf_trainer_info_get(NULL, &info), wanted);
    cr_expect_eq(mf_trainer_info_get(t, NULL), wanted);
    cr_expect_eq(mf_trainer_step(NULL, NULL, NULL), wanted);
    cr_expect_eq(mf_trainer_step(t, NULL, NULL), MF_OK);
    cr_expect_eq(mf_trainer_step_count(NULL), 0);
    mf_trainer_stop(NULL, 1);
    cr_expect_eq(mf_trainer_evaluate(NULL, NULL, &text, 0, NULL, NULL, NULL), wanted);
    cr_expect_eq(mf_trainer_evaluate(t, NULL, NULL, 0, NULL, NULL, NULL), wanted);
    cr_expect_eq(mf_trainer_evaluate(t, NULL, &text, 0, NULL, NULL, NULL), MF_OK);
    cr_expect_eq(mf_trainer_save(NULL, path, NULL), wanted);
    cr_expect_eq(mf_trainer_save(t, NULL, NULL), wanted);
    cr_expect_eq(mf_trainer_load(NULL, path, NULL), wanted);
    cr_expect_eq(mf_trainer_load(t, NULL, NULL), wanted);
    cr_expect_eq(mf_trainer_export(NULL, path, NULL, NULL), wanted);
    cr_expect_eq(mf_trainer_export(t, NULL, NULL, NULL), wanted);
    cr_expect_eq(mf_trainer_import(NULL, path, NULL), wanted);
    cr_expect_eq(mf_trainer_import(t, NULL, NULL), wanted);
    mf_trainer_close(t);
    free(tokens);

    cr_expect_eq(mf_train_tokenizer(NULL, "abab", 4, 258, NULL), wanted);
    cr_expect_eq(mf_train_tokenizer(&blob, NULL, 4, 258, NULL), wanted);
    cr_expect_eq(mf_train_tokenizer(&blob, "abab", 4, 258, NULL), MF_OK);
    cr_expect_eq(mf_train_tokenize(NULL, blob.bytes, "ab", 2, out, 8, &n, NULL, NULL), wanted);
    cr_expect_eq(mf_train_tokenize(blob.data, blob.bytes, NULL, 2, out, 8, &n, NULL, NULL), wanted);
    cr_expect_eq(mf_train_tokenize(blob.data, blob.bytes, "ab", 2, NULL, 8, &n, NULL, NULL), wanted);
    cr_expect_eq(mf_train_tokenize(blob.data, blob.bytes, "ab", 2, out, 8, NULL, NULL, NULL), wanted);
    cr_expect_eq(mf_train_tokenize(blob.data, blob.bytes, "ab", 2, out, 8, &n, NULL, NULL), MF_OK);
    mf_train_blob_free(&blob);
    mf_train_blob_free(NULL);
}

/* ---- Memory ---- */

Test(trainer, every_allocation_may_fail)
{
    int32_t *tokens = make_tokens();
    mf_train_model model = small_model();
    mf_trainer_options options = small_options(tokens);
    counting counter = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    mf_error error = MF_ERROR_INIT;
    mf_trainer *t = make_trainer(&model, &options);
    cr_assert_eq(mf_trainer_save(t, path, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mf_trainer_export(t, other_path, NULL, &error), MF_OK, "%s", error.detail);
    mf_trainer_close(t);

    options.allocator = counting_allocator(&counter);
    options.n_thread = 2;
    mf_status status = MF_E_NOMEM;
    size_t refused = 0;
    for (size_t n = 1; status != MF_OK; n++) {
        counter.n_alloc = 0;
        counter.fail_at = n;
        t = NULL;
        status = mf_trainer_create(&t, &model, &options, &error);
        if (status == MF_OK) status = mf_trainer_step(t, NULL, &error);
        if (status == MF_OK) status = mf_trainer_load(t, path, &error);
        if (status == MF_OK) status = mf_trainer_import(t, other_path, &error);
        if (status == MF_OK) status = mf_trainer_export(t, other_path, NULL, &error);
        cr_assert(status == MF_OK || status == MF_E_NOMEM, "allocation %zu: %s", n, error.detail);
        refused += status != MF_OK;
        mf_trainer_close(t);
        cr_assert_eq(counter.live_bytes, 0, "allocation %zu: %zu bytes are left", n, counter.live_bytes);
    }
    cr_assert(refused > 10, "%zu allocations", refused);
    free(tokens);
}
