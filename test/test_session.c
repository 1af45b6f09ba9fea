/* test_session.c - one timeline: cut, rewound, forked, saved, switched between widths, filled, cancelled. */
#define _DEFAULT_SOURCE /* usleep */
#include "counting_allocator.h"
#include "run_model.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

enum { LENGTH = 150 }; /* positions: two pages of the cache and part of a third */

/* A small fixed model with everything that the tests need open. */
typedef struct stage {
    random_model random;
    model_file file;
    mf_model *model;
    mf_executor *executor;
    mf_submodel *view;
    int32_t *tokens;
    rng r;
} stage;

static stage open_stage_with(const mf_model_options *options)
{
    stage s = { .r = { 7 } };
    mf_error error = MF_ERROR_INIT;
    cr_assert(random_model_init_shape(&s.random, random_shape_find("tiny"), 7) == MF_OK);
    s.file = make_random_file(&s.random, MFK_F32, MFI_RAW, false);
    cr_assert(mf_model_open_memory(&s.model, s.file.data, s.file.bytes, options, &error) == MF_OK, "%s", error.detail);
    s.executor = new_executor(s.model, 2, 0);
    s.view = take_named(s.model, "M");
    s.tokens = new_tokens(s.model, LENGTH, &s.r);
    return s;
}

static stage open_stage(void)
{
    return open_stage_with(NULL);
}

static void close_stage(stage *s)
{
    free(s->tokens);
    mf_submodel_close(s->view);
    mf_executor_close(s->executor);
    mf_model_close(s->model);
    drop_file(&s->file);
    random_model_free(&s->random);
}

/* The status of adding tokens [at the session's position, + n) of the timeline. */
static mf_status try_more(stage *s, mf_session *session, const mf_submodel *view, size_t n, outputs *out,
                          mf_error *error)
{
    uint32_t at = mf_session_position(session);
    mf_request request = request_all(session, view, s->tokens + at, n, out, at);
    mf_status status = mf_forward(s->executor, &request, 1, sizeof(request), error);
    cr_assert(request.status == status && request.n_token_done == (status == MF_OK ? n : 0));
    return status;
}

/* ---- Cutting, rewinding, forking ---- */

/* How far two outputs are apart at most, against the largest logit. */
static double deviation(const outputs *a, const outputs *b)
{
    double worst = 0, largest = 0;
    for (size_t i = 0; i < LENGTH * a->n_vocab; i++) {
        worst = fmax(worst, fabs((double)a->logits[i] - (double)b->logits[i]));
        largest = fmax(largest, fabs((double)a->logits[i]));
    }
    return worst / largest;
}

Test(session, a_prompt_in_one_piece_equals_token_by_token_for_every_cache_type)
{
    stage s = open_stage();
    outputs out[N_CACHE_TYPE][2];
    for (int type = 0; type < N_CACHE_TYPE; type++)
        for (int stepped = 0; stepped < 2; stepped++) {
            mf_session *session = new_session_of(s.model, (mf_cache_type)type, 0);
            out[type][stepped] = new_outputs(s.model, LENGTH);
            while (mf_session_position(session) < LENGTH)
                run_more(s.executor, session, s.view, s.tokens, stepped ? 1 : LENGTH, &out[type][stepped]);
            cr_assert(memcmp(mf_session_tokens(session), s.tokens, LENGTH * sizeof(int32_t)) == 0);
            mf_session_close(session);
        }
    for (int type = 0; type < N_CACHE_TYPE; type++) {
        double off = deviation(&out[MF_CACHE_F32][0], &out[type][0]);
        cr_assert(same_bits(&out[type][0], &out[type][1]));
        cr_expect((type == MF_CACHE_F32) == (off == 0) && off < 0.02, "cache type %d: off by %g", type, off);
    }
    for (int i = 0; i < 2 * N_CACHE_TYPE; i++)
        drop_outputs(&out[i / 2][i % 2]);
    close_stage(&s);
}

Test(session, after_a_rewind_other_tokens_run_as_in_a_fresh_session)
{
    stage s = open_stage();
    mf_session *session = new_session(s.model);
    outputs out = new_outputs(s.model, LENGTH);
    run_more(s.executor, session, s.view, s.tokens, LENGTH, &out);
    static const uint32_t positions[] = { 149, 128, 127, 65, 64, 63, 1, 0 };
    for (size_t i = 0; i < sizeof(positions) / sizeof(positions[0]); i++) {
        cr_assert(mf_session_rewind(session, positions[i]) == MF_OK);
        cr_assert(mf_session_position(session) == positions[i]);
        for (uint32_t t = positions[i]; t < LENGTH; t++)
            s.tokens[t] = (int32_t)rng_below(&s.r, s.random.config.n_vocab);
        run_more(s.executor, session, s.view, s.tokens, LENGTH - positions[i], &out);
        outputs fresh = run_alone(s.model, s.view, s.tokens, LENGTH);
        cr_assert(same_rows(&out, positions[i], &fresh, positions[i], LENGTH - positions[i]), "at %u", positions[i]);
        drop_outputs(&fresh);
    }
    cr_assert(mf_session_rewind(session, LENGTH + 1) == MF_E_RANGE);
    cr_assert(mf_session_position(session) == LENGTH);
    cr_assert(mf_session_rewind(session, LENGTH) == MF_OK);
    drop_outputs(&out);
    mf_session_close(session);
    close_stage(&s);
}

/* Both sides of a fork go on alone, whichever writes to the shared page first and whichever is closed first. */
Test(session, both_sides_of_a_fork_go_on_independently)
{
    stage s = open_stage();
    static const uint32_t forked_at[] = { 0, 1, 63, 64, 70, 128, 149 };
    for (uint32_t i = 0; i < 2 * sizeof(forked_at) / sizeof(forked_at[0]); i++) {
        uint32_t at = forked_at[i / 2];
        mf_error error = MF_ERROR_INIT;
        mf_session *sides[2] = { new_session(s.model) };
        outputs out[2] = { new_outputs(s.model, LENGTH), new_outputs(s.model, LENGTH) };
        int32_t *timeline[2] = { new_tokens(s.model, LENGTH, &s.r), new_tokens(s.model, LENGTH, &s.r) };
        memcpy(timeline[1], timeline[0], at * sizeof(int32_t));
        if (at > 0) run_more(s.executor, sides[0], s.view, timeline[0], at, &out[0]);
        cr_assert(mf_session_fork(&sides[1], sides[0], &error) == MF_OK, "%s", error.detail);
        cr_assert(mf_session_position(sides[1]) == at);
        cr_assert(at == 0 || memcmp(mf_session_tokens(sides[1]), timeline[0], at * sizeof(int32_t)) == 0);
        for (uint32_t k = 0; k < 2; k++) {
            uint32_t side = k ^ (i & 1), first = LENGTH - at < 5 ? LENGTH - at : 5;
            run_more(s.executor, sides[side], s.view, timeline[side], first, &out[side]);
        }
        for (uint32_t k = 0; k < 2; k++) {
            uint32_t rest = LENGTH - mf_session_position(sides[k]);
            if (rest > 0) run_more(s.executor, sides[k], s.view, timeline[k], rest, &out[k]);
            outputs alone = run_alone(s.model, s.view, timeline[k], LENGTH);
            cr_assert(same_rows(&out[k], at, &alone, at, LENGTH - at), "fork at %u, side %u", at, k);
            drop_outputs(&alone);
            drop_outputs(&out[k]);
            mf_session_close(sides[k]);
            free(timeline[k]);
        }
    }
    close_stage(&s);
}

/* ---- Saving and loading ---- */

static size_t file_size(const char *path)
{
    FILE *f = fopen(path, "rb");
    cr_assert(f && fseek(f, 0, SEEK_END) == 0);
    size_t bytes = (size_t)ftell(f);
    fclose(f);
    return bytes;
}

static void flip_bit(const char *path, size_t at, unsigned bit)
{
    FILE *f = fopen(path, "r+b");
    cr_assert(f && fseek(f, (long)at, SEEK_SET) == 0);
    int byte = fgetc(f);
    cr_assert(byte != EOF && fseek(f, (long)at, SEEK_SET) == 0);
    fputc(byte ^ (1 << bit), f);
    fclose(f);
}

Test(session, a_saved_timeline_goes_on_in_another_process_image_of_the_model)
{
    enum { SAVED = 100 };
    stage s = open_stage();
    temporary_path path = new_path();
    for (int type = 0; type < N_CACHE_TYPE; type++) {
        mf_error error = MF_ERROR_INIT;
        mf_session *session = new_session_of(s.model, (mf_cache_type)type, 0);
        outputs expected = new_outputs(s.model, LENGTH), out = new_outputs(s.model, LENGTH);
        run_more(s.executor, session, s.view, s.tokens, SAVED, &expected);
        cr_assert(mf_session_save(session, path.text, &error) == MF_OK, "%s", error.detail);
        run_more(s.executor, session, s.view, s.tokens, LENGTH - SAVED, &expected);

        mf_model *other = open_file(&s.file, NULL);
        mf_submodel *view = take_named(other, "M");
        mf_executor *executor = new_executor(other, 1, 0);
        mf_session *loaded = new_session_of(other, (mf_cache_type)type, 0);
        run_more(executor, loaded, view, s.tokens + 3, 5, &out); /* is replaced */
        cr_assert(mf_session_load(loaded, path.text, &error) == MF_OK, "%s", error.detail);
        cr_assert(mf_session_position(loaded) == SAVED);
        cr_assert(memcmp(mf_session_tokens(loaded), s.tokens, SAVED * sizeof(int32_t)) == 0);
        run_more(executor, loaded, view, s.tokens, LENGTH - SAVED, &out);
        cr_assert(same_rows(&out, SAVED, &expected, SAVED, LENGTH - SAVED));
        mf_session_close(loaded);
        mf_executor_close(executor);
        mf_submodel_close(view);
        mf_model_close(other);
        mf_session_close(session);
        drop_outputs(&out);
        drop_outputs(&expected);
    }
    unlink(path.text);
    close_stage(&s);
}

/* The other process: what it does is in its exit status. */
static int save_beginning(const model_file *file, const int32_t *tokens, size_t n, const char *path)
{
    mf_model *model = open_file(file, NULL);
    mf_submodel *view = take_named(model, "M");
    mf_executor *executor = new_executor(model, 2, 0);
    mf_session *session = new_session(model);
    mf_request request = { .session = session, .submodel = view, .tokens = tokens, .n_token = n };
    mf_status status = mf_forward(executor, &request, 1, sizeof(request), NULL);
    if (status == MF_OK) status = mf_session_save(session, path, NULL);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(view);
    mf_model_close(model);
    return status == MF_OK ? 0 : 1;
}

Test(session, a_timeline_that_one_process_saved_goes_on_in_another)
{
    enum { SAVED = 100 };
    random_model random;
    cr_assert(random_model_init_shape(&random, random_shape_find("tiny"), 7) == MF_OK);
    model_file file = make_random_file(&random, MFK_BF16, MFI_RAW, false);
    temporary_path path = new_path();
    int32_t tokens[LENGTH];
    for (int i = 0; i < LENGTH; i++)
        tokens[i] = i * 7 % (int32_t)random.config.n_vocab;
    pid_t child = fork(); /* before this process has a model */
    cr_assert(child >= 0);
    if (child == 0) _exit(save_beginning(&file, tokens, SAVED, path.text));
    int status = -1;
    cr_assert(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);

    mf_model *model = open_file(&file, NULL);
    mf_submodel *view = take_named(model, "M");
    mf_executor *executor = new_executor(model, 1, 0);
    mf_session *session = new_session(model);
    mf_error error = MF_ERROR_INIT;
    outputs out = new_outputs(model, LENGTH), expected = run_alone(model, view, tokens, LENGTH);
    cr_assert(mf_session_load(session, path.text, &error) == MF_OK, "%s", error.detail);
    cr_assert(memcmp(mf_session_tokens(session), tokens, SAVED * sizeof(*tokens)) == 0);
    run_more(executor, session, view, tokens, LENGTH - SAVED, &out);
    cr_assert(same_rows(&out, SAVED, &expected, SAVED, LENGTH - SAVED));
    drop_outputs(&out);
    drop_outputs(&expected);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(view);
    mf_model_close(model);
    unlink(path.text);
    drop_file(&file);
    random_model_free(&random);
}

/* Loads, expects a refusal with a sentence, and looks whether the session goes on as if nothing had been. */
static void expect_refused(stage *s, mf_session *session, const char *path, const char *what, size_t at)
{
    mf_error error = MF_ERROR_INIT;
    mf_status status = mf_session_load(session, path, &error);
    cr_assert(status != MF_OK && error.status == status && error.detail[0], "%s at %zu was accepted", what, at);
    cr_assert(mf_session_position(session) == 10, "%s at %zu", what, at);
    cr_assert(memcmp(mf_session_tokens(session), s->tokens, 10 * sizeof(int32_t)) == 0);
}

Test(session, a_damaged_or_foreign_save_is_refused_and_the_session_stays_as_it_was)
{
    stage s = open_stage();
    temporary_path path = new_path();
    mf_session *saved = new_session(s.model), *session = new_session(s.model);
    outputs out = new_outputs(s.model, LENGTH), expected = run_alone(s.model, s.view, s.tokens, LENGTH);
    run_more(s.executor, saved, s.view, s.tokens, 70, &out);
    run_more(s.executor, session, s.view, s.tokens, 10, &out);
    cr_assert(mf_session_save(saved, path.text, NULL) == MF_OK);
    size_t bytes = file_size(path.text);
    for (uint32_t i = 0; i < test_rounds(200); i++) {
        size_t at = i < 100 ? i : rng_below(&s.r, (uint32_t)bytes);
        unsigned bit = rng_below(&s.r, 8);
        if (at >= bytes) continue;
        flip_bit(path.text, at, bit);
        expect_refused(&s, session, path.text, "damage", at);
        flip_bit(path.text, at, bit);
    }
    for (uint32_t i = 0; i < test_rounds(100); i++) {
        size_t cut = i < 70 ? bytes - 1 - i : rng_below(&s.r, (uint32_t)bytes);
        cr_assert(truncate(path.text, (long)cut) == 0);
        expect_refused(&s, session, path.text, "a cut", cut);
        cr_assert(mf_session_save(saved, path.text, NULL) == MF_OK);
    }
    random_model other_weights = s.random;
    other_weights.seed++;
    model_file other_file = make_random_file(&other_weights, MFK_F32, MFI_RAW, false);
    mf_model *other = open_file(&other_file, NULL);
    mf_session *foreign = new_session(other);
    mf_error error = MF_ERROR_INIT;
    cr_assert(mf_session_load(foreign, path.text, &error) == MF_E_FORMAT && error.detail[0]);
    cr_assert(mf_session_position(foreign) == 0);
    cr_assert(mf_session_load(session, "no such file", &error) != MF_OK);

    run_more(s.executor, session, s.view, s.tokens, LENGTH - 10, &out);
    cr_assert(same_rows(&out, 10, &expected, 10, LENGTH - 10));
    mf_session_close(foreign);
    mf_model_close(other);
    drop_file(&other_file);
    mf_session_close(saved);
    mf_session_close(session);
    drop_outputs(&out);
    drop_outputs(&expected);
    unlink(path.text);
    close_stage(&s);
}

static void write_bytes(const char *path, const unsigned char *data, size_t bytes)
{
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(data, 1, bytes, f) == bytes);
    fclose(f);
}

/* The checksum at the end is made right again: whoever wrote the save could write the checksum. */
Test(session, a_save_altered_by_its_maker_is_refused_or_runs_to_an_end)
{
    stage s = open_stage();
    temporary_path path = new_path();
    mf_session *saved = new_session(s.model);
    outputs out = new_outputs(s.model, LENGTH);
    uint32_t loaded = 0;
    run_more(s.executor, saved, s.view, s.tokens, 70, &out);
    cr_assert(mf_session_save(saved, path.text, NULL) == MF_OK);
    size_t bytes = file_size(path.text);
    unsigned char *original = malloc(bytes), *altered = malloc(bytes);
    FILE *f = fopen(path.text, "rb");
    cr_assert(f && original && altered && fread(original, 1, bytes, f) == bytes);
    fclose(f);
    for (uint32_t i = 0; i < test_rounds(400); i++) {
        static const uint32_t words[] = { 0, 1, 64, 65, 4096, UINT32_MAX, 0x7fc00000u, 0x7f800000u };
        mf_error error = MF_ERROR_INIT;
        mf_session *session = new_session(s.model);
        size_t head = 400, at = rng_below(&s.r, (uint32_t)(i % 4 ? head : bytes - 12)) & ~(size_t)(i % 3 ? 3 : 0);
        size_t step = i % 2 ? 4 : 2 * 2 * 32 * 64 * sizeof(float); /* a word; a page of one layer */
        size_t kept = i % 5 ? bytes : bytes - step * rng_below(&s.r, 6);
        memcpy(altered, original, bytes);
        memcpy(altered + at, &words[rng_below(&s.r, 8)], i % 2 ? 4 : 2);
        uint64_t hash = XXH64(altered, kept - 8, 0);
        memcpy(altered + kept - 8, &hash, sizeof(hash));
        write_bytes(path.text, altered, kept);
        if (mf_session_load(session, path.text, &error) == MF_OK) {
            uint32_t position = mf_session_position(session);
            mf_request request = { .session = session, .submodel = s.view, .tokens = s.tokens, .n_token = 3 };
            mf_status status = mf_forward(s.executor, &request, 1, sizeof(request), &error);
            cr_assert(status == MF_OK || status == MF_E_REBUILD_NEEDED || status == MF_E_FULL, "%s", error.detail);
            cr_assert(mf_session_position(session) == position + (status == MF_OK ? 3 : 0));
            loaded++;
        } else {
            cr_assert(error.detail[0] && mf_session_position(session) == 0);
        }
        mf_session_close(session);
    }
    cr_assert(loaded >= test_rounds(400) / 8, "only %u altered saves loaded: the test hardly tests", loaded);
    free(original);
    free(altered);
    drop_outputs(&out);
    mf_session_close(saved);
    unlink(path.text);
    close_stage(&s);
}

/* ---- Widths within one timeline ---- */

/* Views change at random tokens; the schedule alone decides the bits, not how it was run. */
Test(session, switching_views_at_any_token_gives_what_the_schedule_says)
{
    enum { VIEWS = 4 };
    for (uint32_t round = 0; round < test_rounds(6); round++) {
        random_model random;
        cr_assert(random_model_init(&random, 400 + round) == MF_OK);
        model_file file = make_random_file(&random, round % 2 ? MFK_BF16 : MFK_F32, MFI_RAW, false);
        mf_model *model = open_file(&file, NULL);
        rng r = { round };
        widths base = random_widths(&random.config, &r);
        mf_submodel *views[VIEWS];
        uint32_t schedule[LENGTH];
        for (uint32_t v = 0; v < VIEWS; v++) {
            widths w = random_widths_same_cache(&random.config, &base, &r);
            views[v] = take_view(model, &w);
        }
        for (uint32_t t = 0; t < LENGTH; t++)
            schedule[t] = t == 0 || rng_below(&r, 8) == 0 ? rng_below(&r, VIEWS) : schedule[t - 1];

        int32_t *tokens = new_tokens(model, LENGTH, &r);
        outputs stepped = new_outputs(model, LENGTH), runs = new_outputs(model, LENGTH);
        mf_executor *executors[] = { new_executor(model, 1, 1), new_executor(model, 2, 0) };
        mf_session *sessions[] = { new_session(model), new_session(model) };
        for (uint32_t t = 0; t < LENGTH; t++)
            run_more(executors[0], sessions[0], views[schedule[t]], tokens, 1, &stepped);
        for (uint32_t t = 0, end; t < LENGTH; t = end) {
            for (end = t + 1; end < LENGTH && schedule[end] == schedule[t];)
                end++;
            run_more(executors[1], sessions[1], views[schedule[t]], tokens, end - t, &runs);
        }
        cr_assert(same_bits(&stepped, &runs), "round %u", round);

        /* Replaying the second half over the rewound first gives it again. */
        uint32_t half = rng_below(&r, LENGTH);
        cr_assert(mf_session_rewind(sessions[1], half) == MF_OK);
        for (uint32_t t = half; t < LENGTH; t++)
            run_more(executors[1], sessions[1], views[schedule[t]], tokens, 1, &runs);
        cr_assert(same_bits(&stepped, &runs), "round %u, replayed from %u", round, half);

        for (uint32_t i = 0; i < 2; i++) {
            mf_session_close(sessions[i]);
            mf_executor_close(executors[i]);
        }
        for (uint32_t v = 0; v < VIEWS; v++)
            mf_submodel_close(views[v]);
        drop_outputs(&stepped);
        drop_outputs(&runs);
        free(tokens);
        mf_model_close(model);
        drop_file(&file);
        random_model_free(&random);
    }
}

Test(session, other_key_value_heads_or_layers_are_refused_and_nothing_changes)
{
    stage s = open_stage(); /* tiny: 4 heads in groups of 2; layer 1 may be skipped */
    static const char *const refused[] = { "M;heads=2x3", "M;heads=4,4,1", "M;skip=1" };
    mf_submodel *same_groups = take_named(s.model, "L;heads=3,4,3");
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        mf_submodel *other = take_named(s.model, refused[i]);
        mf_session *session = new_session(s.model);
        outputs out = new_outputs(s.model, LENGTH), expected = new_outputs(s.model, LENGTH);
        mf_error error = MF_ERROR_INIT;
        run_more(s.executor, session, s.view, s.tokens, 20, &out);
        cr_assert(try_more(&s, session, other, 5, &out, &error) == MF_E_REBUILD_NEEDED && error.detail[0]);
        cr_assert(mf_session_position(session) == 20);
        run_more(s.executor, session, same_groups, s.tokens, 30, &out);
        cr_assert(try_more(&s, session, other, 1, &out, &error) == MF_E_REBUILD_NEEDED);
        run_more(s.executor, session, s.view, s.tokens, 10, &out);

        mf_session *clean = new_session(s.model);
        run_more(s.executor, clean, s.view, s.tokens, 20, &expected);
        run_more(s.executor, clean, same_groups, s.tokens, 30, &expected);
        run_more(s.executor, clean, s.view, s.tokens, 10, &expected);
        cr_assert(same_rows(&out, 0, &expected, 0, 60), "%s", refused[i]);

        cr_assert(mf_session_rewind(session, 0) == MF_OK);
        run_more(s.executor, session, other, s.tokens, LENGTH, &out);
        outputs alone = run_alone(s.model, other, s.tokens, LENGTH);
        cr_assert(same_bits(&out, &alone), "%s after a rewind to 0", refused[i]);
        cr_assert(mf_session_rewind(session, 5) == MF_OK);
        cr_assert(try_more(&s, session, s.view, 1, &out, &error) == MF_E_REBUILD_NEEDED);

        drop_outputs(&alone);
        drop_outputs(&out);
        drop_outputs(&expected);
        mf_session_close(clean);
        mf_session_close(session);
        mf_submodel_close(other);
    }
    mf_submodel_close(same_groups);
    close_stage(&s);
}

/* ---- Limits ---- */

Test(session, a_full_session_says_so_and_keeps_what_it_has)
{
    stage s = open_stage();
    mf_session *session = new_session_of(s.model, MF_CACHE_F32, 100);
    outputs out = new_outputs(s.model, LENGTH), expected = run_alone(s.model, s.view, s.tokens, LENGTH);
    mf_error error = MF_ERROR_INIT;
    cr_assert(try_more(&s, session, s.view, 101, &out, &error) == MF_E_FULL && error.detail[0]);
    cr_assert(mf_session_position(session) == 0);
    run_more(s.executor, session, s.view, s.tokens, 99, &out);
    cr_assert(try_more(&s, session, s.view, 2, &out, &error) == MF_E_FULL);
    run_more(s.executor, session, s.view, s.tokens, 1, &out);
    cr_assert(try_more(&s, session, s.view, 1, &out, &error) == MF_E_FULL);
    cr_assert(mf_session_position(session) == 100 && same_rows(&out, 0, &expected, 0, 100));
    drop_outputs(&out);
    drop_outputs(&expected);
    mf_session_close(session);
    close_stage(&s);
}

Test(session, a_session_may_be_longer_than_the_model_was_trained_for)
{
    stage s = open_stage();
    mf_session *session = new_session_of(s.model, MF_CACHE_F32, 700);
    int32_t *tokens = new_tokens(s.model, 700, &s.r);
    outputs out = new_outputs(s.model, 700);
    run_more(s.executor, session, s.view, tokens, 700, &out);
    for (size_t i = 0; i < 700 * out.n_vocab; i++)
        cr_assert(isfinite(out.logits[i]));
    drop_outputs(&out);
    free(tokens);
    mf_session_close(session);
    close_stage(&s);
}

/* tiny keeps 2 key/value heads of 32 in each of 3 layers; a page holds 64 positions of it. */
Test(session, sessions_share_a_budget_and_give_it_back)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    options.cache_bytes = 4 * 64 * 3 * 2 * 2 * 32 * sizeof(float);
    stage s = open_stage_with(&options); /* room for 4 times 64 positions */
    mf_session *a = new_session(s.model), *b = new_session(s.model), *c = new_session(s.model);
    outputs out = new_outputs(s.model, LENGTH), expected = run_alone(s.model, s.view, s.tokens, LENGTH);
    mf_error error = MF_ERROR_INIT;
    run_more(s.executor, a, s.view, s.tokens, 128, &out);
    run_more(s.executor, b, s.view, s.tokens, 64, &out);
    run_more(s.executor, c, s.view, s.tokens, 10, &out);
    cr_assert(try_more(&s, a, s.view, 1, &out, &error) == MF_E_FULL && error.detail[0]);
    cr_assert(try_more(&s, b, s.view, 1, &out, &error) == MF_E_FULL);
    cr_assert(mf_session_position(a) == 128 && mf_session_position(b) == 64);
    run_more(s.executor, c, s.view, s.tokens, 54, &out);
    mf_session_close(a);
    run_more(s.executor, b, s.view, s.tokens, LENGTH - 64, &out);
    cr_assert(same_bits(&out, &expected));
    cr_assert(try_more(&s, c, s.view, 1, &out, &error) == MF_E_FULL);
    cr_assert(mf_session_rewind(b, 64) == MF_OK); /* a rewind gives back whole pages too */
    run_more(s.executor, c, s.view, s.tokens, LENGTH - 64, &out);
    cr_assert(same_bits(&out, &expected));
    mf_session_close(b);
    mf_session_close(c);
    drop_outputs(&out);
    drop_outputs(&expected);
    close_stage(&s);
}

/* A budget of pages is all the memory that thousands of timelines with one past need: each holds the past's pages and
 * copies one when it writes there. */
Test(session, thousands_of_forks_share_their_past_within_a_budget)
{
    enum { SESSIONS = 4000, PAST = 64 + 20, PAGES = 64, LAYERS = 3 };
    counting counts = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    const size_t page_bytes = 64 * 2 * 2 * 32 * sizeof(float); /* of one layer, see above */
    options.cache_bytes = PAGES * LAYERS * page_bytes;
    options.allocator = counting_allocator(&counts);
    stage s = open_stage_with(&options);
    mf_session *past = new_session_of(s.model, MF_CACHE_F32, LENGTH), **forks = calloc(SESSIONS, sizeof(*forks));
    outputs out = new_outputs(s.model, LENGTH), expected = run_alone(s.model, s.view, s.tokens, LENGTH);
    mf_error error = MF_ERROR_INIT;
    cr_assert(forks != NULL);
    run_more(s.executor, past, s.view, s.tokens, PAST, &out);

    /* Each costs its tables and its tokens, and no page. */
    const size_t before = counts.live_bytes;
    for (size_t i = 0; i < SESSIONS; i++)
        cr_assert(mf_session_fork(&forks[i], past, &error) == MF_OK, "fork %zu: %s", i, error.detail);
    cr_assert(counts.live_bytes - before < (size_t)SESSIONS * 4096, "%zu bytes a fork",
              (counts.live_bytes - before) / SESSIONS);
    const size_t with_forks = counts.live_bytes, calls = counts.n_alloc;

    /* The past has two pages of each layer. Whoever writes takes a copy of the second, until there are no more. */
    size_t n_written = 0;
    for (; n_written < SESSIONS && try_more(&s, forks[n_written], s.view, 1, &out, &error) == MF_OK; n_written++)
        cr_assert(same_rows(&out, PAST, &expected, PAST, 1), "fork %zu", n_written);
    cr_assert(n_written == PAGES - 2 && error.status == MF_E_FULL && error.detail[0], "%zu wrote", n_written);
    cr_assert(mf_session_position(forks[n_written]) == PAST);
    cr_assert(counts.live_bytes == with_forks && counts.n_alloc == calls, "pages beyond the budget");

    /* Those that close make room, and nobody's past was touched. */
    for (size_t i = 0; i + 10 < n_written; i++) {
        mf_session_close(forks[i]);
        forks[i] = NULL;
    }
    for (size_t i = SESSIONS - (n_written - 10); i < SESSIONS; i++) {
        cr_assert(try_more(&s, forks[i], s.view, 1, &out, &error) == MF_OK, "fork %zu: %s", i, error.detail);
        cr_assert(same_rows(&out, PAST, &expected, PAST, 1), "fork %zu", i);
    }
    cr_assert(try_more(&s, past, s.view, 1, &out, &error) == MF_E_FULL);
    for (size_t i = 0; i < SESSIONS; i++)
        mf_session_close(forks[i]);
    run_more(s.executor, past, s.view, s.tokens, LENGTH - PAST, &out); /* alone again: its pages are its own */
    cr_assert(same_bits(&out, &expected));
    mf_session_close(past);
    drop_outputs(&out);
    drop_outputs(&expected);
    free(forks);
    close_stage(&s);
    cr_assert(counts.live_bytes == 0);
}

/* ---- Cancelling ---- */

Test(session, a_cancelled_forward_leaves_the_session_as_it_was)
{
    stage s = open_stage();
    mf_session *session = new_session(s.model);
    outputs out = new_outputs(s.model, LENGTH), expected = run_alone(s.model, s.view, s.tokens, LENGTH);
    mf_error error = MF_ERROR_INIT;
    run_more(s.executor, session, s.view, s.tokens, 30, &out);
    mf_session_cancel(session);
    cr_assert(try_more(&s, session, s.view, 40, &out, &error) == MF_E_CANCELLED);
    cr_assert(mf_session_position(session) == 30);
    run_more(s.executor, session, s.view, s.tokens, LENGTH - 30, &out); /* one cancel stops one forward */
    cr_assert(same_bits(&out, &expected));
    drop_outputs(&out);
    drop_outputs(&expected);
    mf_session_close(session);
    close_stage(&s);
}

static void *cancel_soon(void *session)
{
    usleep(3000);
    mf_session_cancel(session);
    return NULL;
}

/* The companion in the same batch is not disturbed. */
Test(session, cancelling_from_another_thread_stops_that_request_alone)
{
    enum { TOKENS = 4000 };
    stage s = open_stage();
    mf_session *session = new_session_of(s.model, MF_CACHE_F32, TOKENS), *companion = new_session(s.model);
    int32_t *tokens = new_tokens(s.model, TOKENS, &s.r);
    outputs out = new_outputs(s.model, LENGTH), expected = run_alone(s.model, s.view, s.tokens, LENGTH);
    run_more(s.executor, session, s.view, s.tokens, 20, &out);
    mf_request requests[] = { { .session = session, .submodel = s.view, .tokens = tokens, .n_token = TOKENS - 20 },
                              request_all(companion, s.view, s.tokens, LENGTH, &out, 0) };
    pthread_t thread;
    cr_assert(pthread_create(&thread, NULL, cancel_soon, session) == 0);
    mf_status status = mf_forward(s.executor, requests, 2, sizeof(mf_request), NULL);
    pthread_join(thread, NULL);
    cr_assert(status == MF_E_CANCELLED && requests[0].status == MF_E_CANCELLED && requests[0].n_token_done == 0);
    cr_assert(requests[1].status == MF_OK && same_bits(&out, &expected));
    cr_assert(mf_session_position(session) == 20 && mf_session_position(companion) == LENGTH);
    run_more(s.executor, session, s.view, s.tokens, LENGTH - 20, &out);
    cr_assert(same_bits(&out, &expected));
    free(tokens);
    drop_outputs(&out);
    drop_outputs(&expected);
    mf_session_close(session);
    mf_session_close(companion);
    close_stage(&s);
}

/* ---- Embedding rows ---- */

Test(session, embedding_rows_among_tokens_equal_the_tokens_that_they_embed)
{
    stage s = open_stage();
    uint32_t d = s.random.config.d_model;
    size_t stride = d + 5;
    mfi_weights weights = random_model_weights(&s.random);
    int32_t mixed[LENGTH];
    float *rows = calloc(LENGTH * stride, sizeof(float));
    size_t n_row = 0;
    cr_assert(rows);
    for (uint32_t t = 0; t < LENGTH; t++) {
        mixed[t] = s.tokens[t];
        if (rng_below(&s.r, 3) != 0) continue;
        mixed[t] = -1;
        weights.read(weights.user, "embed", (size_t)s.tokens[t], 1, 0, d, rows + n_row++ * stride, NULL);
    }
    outputs expected = run_alone(s.model, s.view, s.tokens, LENGTH);
    for (uint32_t max_tokens = 0; max_tokens < 60; max_tokens += 29) { /* in one batch, and in pieces */
        outputs out = new_outputs(s.model, LENGTH);
        mf_executor *executor = new_executor(s.model, 2, max_tokens);
        mf_session *session = new_session(s.model);
        mf_request request = request_all(session, s.view, mixed, LENGTH, &out, 0);
        request.embeddings = rows;
        request.embedding_stride = stride;
        cr_assert(mf_forward(executor, &request, 1, sizeof(request), NULL) == MF_OK);
        cr_assert(same_bits(&out, &expected));
        cr_assert(memcmp(mf_session_tokens(session), mixed, sizeof(mixed)) == 0);
        mf_session_close(session);
        mf_executor_close(executor);
        drop_outputs(&out);
    }
    free(rows);
    drop_outputs(&expected);
    close_stage(&s);
}

Test(session, options_out_of_range_are_refused)
{
    stage s = open_stage();
    mf_session_options options = MF_SESSION_OPTIONS_INIT;
    mf_session *session = NULL;
    options.cache_type = (mf_cache_type)7;
    cr_assert(mf_session_create(&session, s.model, &options, NULL) != MF_OK && session == NULL);
    options = (mf_session_options)MF_SESSION_OPTIONS_INIT;
    options.struct_size = 1;
    cr_assert(mf_session_create(&session, s.model, &options, NULL) == MF_E_STRUCT_SIZE && session == NULL);
    options = (mf_session_options)MF_SESSION_OPTIONS_INIT;
    options.max_positions = UINT32_MAX;
    cr_assert(mf_session_create(&session, s.model, &options, NULL) != MF_OK && session == NULL);
    cr_assert(mf_session_create(NULL, s.model, NULL, NULL) == MF_E_INVALID);
    cr_assert(mf_session_create(&session, NULL, NULL, NULL) == MF_E_INVALID);
    close_stage(&s);
}
