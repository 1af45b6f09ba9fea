/* test_batch.c - many requests in one mf_forward: each has its own view, outputs and status. */
#include "run_model.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { LENGTH = 40, N = 5 };

/* A small fixed model, and N sessions that have run their first ten tokens. */
typedef struct stage {
    random_model random;
    model_file file;
    mf_model *model;
    mf_executor *executor;
    mf_submodel *views[N];
    mf_session *sessions[N];
    int32_t *tokens[N]; /* [LENGTH] each */
    outputs expected[N], out[N];
} stage;

static stage open_stage(void)
{
    static const char *const views[N] = { "S", "M", "L", "0.3", "ffn=32,256,64;heads=4,2,3" };
    stage s = { 0 };
    rng r = { 11 };
    cr_assert(random_model_init_shape(&s.random, random_shape_find("tiny"), 11) == MF_OK);
    s.file = make_random_file(&s.random, MFK_BF16, MFI_RAW, false);
    s.model = open_file(&s.file, NULL);
    s.executor = new_executor(s.model, 2, 0);
    for (uint32_t i = 0; i < N; i++) {
        s.views[i] = take_named(s.model, views[i]);
        s.sessions[i] = new_session(s.model);
        s.tokens[i] = new_tokens(s.model, LENGTH, &r);
        s.expected[i] = run_alone(s.model, s.views[i], s.tokens[i], LENGTH);
        s.out[i] = new_outputs(s.model, LENGTH);
        run_more(s.executor, s.sessions[i], s.views[i], s.tokens[i], 10, &s.out[i]);
    }
    return s;
}

static void close_stage(stage *s)
{
    for (uint32_t i = 0; i < N; i++) {
        mf_submodel_close(s->views[i]);
        mf_session_close(s->sessions[i]);
        free(s->tokens[i]);
        drop_outputs(&s->expected[i]);
        drop_outputs(&s->out[i]);
    }
    mf_executor_close(s->executor);
    mf_model_close(s->model);
    drop_file(&s->file);
    random_model_free(&s->random);
}

static void next_requests(stage *s, mf_request *requests, size_t n_token)
{
    for (uint32_t i = 0; i < N; i++) {
        uint32_t at = mf_session_position(s->sessions[i]);
        requests[i] = request_all(s->sessions[i], s->views[i], s->tokens[i] + at, n_token, &s->out[i], at);
    }
}

Test(batch, requests_with_different_views_each_equal_their_own_run)
{
    stage s = open_stage();
    mf_request requests[N];
    while (mf_session_position(s.sessions[0]) < LENGTH) {
        next_requests(&s, requests, 6);
        cr_assert(mf_forward(s.executor, requests, N, sizeof(mf_request), NULL) == MF_OK);
        for (uint32_t i = 0; i < N; i++)
            cr_assert(requests[i].status == MF_OK && requests[i].n_token_done == 6 && requests[i].elapsed_ns > 0);
    }
    for (uint32_t i = 0; i < N; i++)
        cr_assert(same_bits(&s.out[i], &s.expected[i]), "request %u", i);
    close_stage(&s);
}

/* ---- One that fails ---- */

/* Makes request 2 of a batch fail in one way; returns the status that it should get. */
typedef mf_status (*spoil)(stage *s, mf_request *request);

static int32_t bad_tokens[6] = { 1, 2, 3, 97, 4, 5 };

static mf_status token_beyond_the_vocabulary(stage *s, mf_request *request)
{
    bad_tokens[3] = (int32_t)s->random.config.n_vocab;
    request->tokens = bad_tokens;
    return MF_E_RANGE;
}

static mf_status negative_token(stage *s, mf_request *request)
{
    (void)s;
    bad_tokens[3] = -2;
    request->tokens = bad_tokens;
    return MF_E_RANGE;
}

static mf_status embedding_row_without_embeddings(stage *s, mf_request *request)
{
    (void)s;
    bad_tokens[3] = -1;
    request->tokens = bad_tokens;
    return MF_E_INVALID;
}

static mf_status no_tokens(stage *s, mf_request *request)
{
    (void)s;
    request->n_token = 0;
    return MF_E_INVALID;
}

static mf_status logits_too_small(stage *s, mf_request *request)
{
    (void)s;
    request->logits_capacity--;
    return MF_E_CAPACITY;
}

static mf_status hidden_too_small(stage *s, mf_request *request)
{
    (void)s;
    request->hidden_capacity--;
    return MF_E_CAPACITY;
}

static mf_status stride_below_the_row(stage *s, mf_request *request)
{
    request->logits_stride = s->random.config.n_vocab - 1;
    return MF_E_INVALID;
}

static mf_status stride_that_overflows(stage *s, mf_request *request)
{
    (void)s;
    request->hidden_stride = SIZE_MAX / 2;
    return MF_E_CAPACITY;
}

static mf_status unknown_logits_kind(stage *s, mf_request *request)
{
    (void)s;
    request->logits_of = (mf_logits)9;
    return MF_E_INVALID;
}

static mf_status adapter_given(stage *s, mf_request *request)
{
    request->adapter = s;
    return MF_E_UNSUPPORTED;
}

static mf_status cancelled(stage *s, mf_request *request)
{
    (void)s;
    mf_session_cancel(request->session);
    return MF_E_CANCELLED;
}

static const struct {
    const char *name;
    spoil spoil;
} spoils[] = { { "token beyond the vocabulary", token_beyond_the_vocabulary },
               { "negative token", negative_token },
               { "embedding row without embeddings", embedding_row_without_embeddings },
               { "no tokens", no_tokens },
               { "logits too small", logits_too_small },
               { "hidden too small", hidden_too_small },
               { "stride below the row", stride_below_the_row },
               { "stride that overflows", stride_that_overflows },
               { "unknown logits kind", unknown_logits_kind },
               { "adapter given", adapter_given },
               { "cancelled", cancelled } };

Test(batch, a_request_that_fails_leaves_its_session_and_the_others_alone)
{
    for (size_t k = 0; k < sizeof(spoils) / sizeof(spoils[0]); k++) {
        stage s = open_stage();
        mf_request requests[N];
        mf_error error = MF_ERROR_INIT;
        next_requests(&s, requests, 6);
        mf_status wanted = spoils[k].spoil(&s, &requests[2]);
        mf_status status = mf_forward(s.executor, requests, N, sizeof(mf_request), &error);
        cr_expect(status == wanted && requests[2].status == wanted && error.detail[0], "%s: %s, request %s: %s",
                  spoils[k].name, mf_status_name(status), mf_status_name(requests[2].status), error.detail);
        cr_expect(requests[2].n_token_done == 0 && mf_session_position(s.sessions[2]) == 10, "%s", spoils[k].name);
        for (uint32_t i = 0; i < N; i++)
            cr_expect(i == 2 || (requests[i].status == MF_OK && mf_session_position(s.sessions[i]) == 16), "%s",
                      spoils[k].name);
        for (uint32_t i = 0; i < N; i++) {
            run_more(s.executor, s.sessions[i], s.views[i], s.tokens[i], LENGTH - (i == 2 ? 10 : 16), &s.out[i]);
            cr_expect(same_bits(&s.out[i], &s.expected[i]), "%s: request %u", spoils[k].name, i);
        }
        close_stage(&s);
    }
}

Test(batch, a_view_wider_than_what_was_loaded_fails_alone)
{
    stage s = open_stage();
    mf_model_options options = test_options(NULL);
    mf_error error = MF_ERROR_INIT;
    mf_model *narrow = NULL;
    options.widest = "M";
    cr_assert(mf_model_open_memory(&narrow, s.file.data, s.file.bytes, &options, NULL) == MF_OK);
    mf_model_info info = MF_MODEL_INFO_INIT;
    cr_assert(mf_model_info_get(narrow, &info) == MF_OK && info.n_shell == 3 && info.n_shell_resident == 2);
    mf_submodel *fits = take_named(narrow, "M"), *wide = take_named(narrow, "L");
    mf_session *sessions[] = { new_session(narrow), new_session(narrow) };
    mf_executor *executor = new_executor(narrow, 2, 0);
    mf_request requests[] = { request_all(sessions[0], wide, s.tokens[1], LENGTH, &s.out[0], 0),
                              request_all(sessions[1], fits, s.tokens[1], LENGTH, &s.out[1], 0) };
    cr_assert(mf_forward(executor, requests, 2, sizeof(mf_request), &error) == MF_E_NOT_RESIDENT && error.detail[0]);
    cr_assert(requests[0].status == MF_E_NOT_RESIDENT && mf_session_position(sessions[0]) == 0);
    cr_assert(requests[1].status == MF_OK && same_bits(&s.out[1], &s.expected[1]));
    mf_executor_close(executor);
    mf_session_close(sessions[0]);
    mf_session_close(sessions[1]);
    mf_submodel_close(fits);
    mf_submodel_close(wide);
    mf_model_close(narrow);
    options.widest = "XXXL";
    cr_assert(mf_model_open_memory(&narrow, s.file.data, s.file.bytes, &options, &error) == MF_E_NOT_FOUND && !narrow);
    close_stage(&s);
}

/* ---- Calls that are refused before anything runs ---- */

static void expect_call_refused(stage *s, mf_executor *executor, mf_request *requests, size_t n, size_t bytes,
                                mf_status wanted, const char *what)
{
    mf_error error = MF_ERROR_INIT;
    mf_status status = mf_forward(executor, requests, n, bytes, &error);
    cr_expect(status == wanted && error.status == wanted && error.detail[0], "%s: %s", what, mf_status_name(status));
    for (uint32_t i = 0; i < N; i++)
        cr_expect(mf_session_position(s->sessions[i]) == 10, "%s", what);
}

Test(batch, a_call_that_makes_no_sense_is_refused_before_anything_runs)
{
    stage s = open_stage(), t = open_stage();
    mf_request requests[N];
    next_requests(&s, requests, 6);
    requests[3].session = s.sessions[1];
    expect_call_refused(&s, s.executor, requests, N, sizeof(mf_request), MF_E_INVALID, "one session twice");
    next_requests(&s, requests, 6);
    requests[3].session = t.sessions[3];
    expect_call_refused(&s, s.executor, requests, N, sizeof(mf_request), MF_E_INVALID, "another model's session");
    next_requests(&s, requests, 6);
    requests[3].submodel = t.views[3];
    expect_call_refused(&s, s.executor, requests, N, sizeof(mf_request), MF_E_INVALID, "another model's view");
    next_requests(&s, requests, 6);
    requests[3].session = NULL;
    expect_call_refused(&s, s.executor, requests, N, sizeof(mf_request), MF_E_INVALID, "no session");
    next_requests(&s, requests, 6);
    requests[3].submodel = NULL;
    expect_call_refused(&s, s.executor, requests, N, sizeof(mf_request), MF_E_INVALID, "no view");
    next_requests(&s, requests, 6);
    expect_call_refused(&s, NULL, requests, N, sizeof(mf_request), MF_E_INVALID, "no executor");
    expect_call_refused(&s, t.executor, requests, N, sizeof(mf_request), MF_E_INVALID, "another model's executor");
    expect_call_refused(&s, s.executor, NULL, N, sizeof(mf_request), MF_E_INVALID, "no requests");
    expect_call_refused(&s, s.executor, requests, N, 8, MF_E_STRUCT_SIZE, "a tiny stride");
    expect_call_refused(&s, s.executor, requests, N, 5000, MF_E_STRUCT_SIZE, "a huge stride");
    close_stage(&s);
    close_stage(&t);
}

/* A caller that was compiled with a later header: the struct is longer. */
typedef struct later_request {
    mf_request request;
    uint64_t later[3];
} later_request;

Test(batch, a_longer_request_struct_is_accepted_while_the_unknown_fields_are_zero)
{
    stage s = open_stage();
    mf_request now[N];
    later_request later[N] = { 0 };
    next_requests(&s, now, LENGTH - 10);
    for (uint32_t i = 0; i < N; i++)
        later[i].request = now[i];
    later[3].later[2] = 1;
    expect_call_refused(&s, s.executor, &later[0].request, N, sizeof(later_request), MF_E_STRUCT_SIZE, "unknown field");
    later[3].later[2] = 0;
    cr_assert(mf_forward(s.executor, &later[0].request, N, sizeof(later_request), NULL) == MF_OK);
    for (uint32_t i = 0; i < N; i++)
        cr_assert(later[i].request.status == MF_OK && same_bits(&s.out[i], &s.expected[i]), "request %u", i);
    close_stage(&s);
}

Test(batch, more_requests_than_the_executor_was_made_for_are_refused)
{
    stage s = open_stage();
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    mf_executor *small = NULL;
    mf_request requests[N];
    options.max_requests = 2;
    cr_assert(mf_executor_create(&small, s.model, &options, NULL) == MF_OK);
    next_requests(&s, requests, 6);
    expect_call_refused(&s, small, requests, N, sizeof(mf_request), MF_E_INVALID, "five requests for two");
    next_requests(&s, requests, LENGTH - 10);
    cr_assert(mf_forward(small, requests, 2, sizeof(mf_request), NULL) == MF_OK);
    cr_assert(same_bits(&s.out[0], &s.expected[0]) && same_bits(&s.out[1], &s.expected[1]));
    mf_executor_close(small);
    close_stage(&s);
}

/* ---- Outputs ---- */

static void check_outputs(uint32_t max_tokens)
{
    enum { ROWS = LENGTH - 10 };
    const float mark = 12345.0f;
    stage s = open_stage();
    mf_executor *executor = new_executor(s.model, 2, max_tokens);
    mf_request requests[N];
    next_requests(&s, requests, ROWS);
    const outputs *e = s.expected;
    size_t v = e[0].n_vocab, d = e[0].d_model, v_stride = v + 3, d_stride = d + 7;
    float *logits = malloc(ROWS * v_stride * sizeof(float)), *hidden = malloc(ROWS * d_stride * sizeof(float));
    cr_assert(logits && hidden);
    for (size_t i = 0; i < ROWS * v_stride; i++)
        logits[i] = mark;
    for (size_t i = 0; i < ROWS * d_stride; i++)
        hidden[i] = mark;
    /* 0: all, with strides, the last row without its padding */
    requests[0].logits = logits;
    requests[0].logits_stride = v_stride;
    requests[0].logits_capacity = (ROWS - 1) * v_stride + v;
    requests[0].hidden = hidden;
    requests[0].hidden_stride = d_stride;
    requests[0].hidden_capacity = (ROWS - 1) * d_stride + d;
    /* 1: the last row alone; 2: none; 3: hidden states alone; 4: nothing to write to */
    requests[1].logits_of = MF_LOGITS_LAST;
    requests[1].logits_capacity = v;
    requests[1].hidden_capacity = d;
    requests[2].logits_of = MF_LOGITS_NONE;
    requests[2].logits_capacity = requests[2].hidden_capacity = 0;
    requests[3].logits = NULL;
    requests[4].logits = requests[4].hidden = NULL;
    for (uint32_t i = 1; i < N; i++) {
        for (size_t j = 10 * v; j < LENGTH * v; j++)
            s.out[i].logits[j] = mark;
        for (size_t j = 10 * d; j < LENGTH * d; j++)
            s.out[i].hidden[j] = mark;
    }
    cr_assert(mf_forward(executor, requests, N, sizeof(mf_request), NULL) == MF_OK);

    for (size_t row = 0; row < ROWS; row++) {
        cr_assert(memcmp(logits + row * v_stride, e[0].logits + (10 + row) * v, v * sizeof(float)) == 0);
        cr_assert(memcmp(hidden + row * d_stride, e[0].hidden + (10 + row) * d, d * sizeof(float)) == 0);
        for (size_t i = v; i < v_stride; i++)
            cr_assert(logits[row * v_stride + i] == mark);
        for (size_t i = d; i < d_stride; i++)
            cr_assert(hidden[row * d_stride + i] == mark);
    }
    size_t at = 10 * v, at_hidden = 10 * d;
    cr_assert(memcmp(s.out[1].logits + at, e[1].logits + (LENGTH - 1) * v, v * sizeof(float)) == 0);
    cr_assert(memcmp(s.out[1].hidden + at_hidden, e[1].hidden + (LENGTH - 1) * d, d * sizeof(float)) == 0);
    cr_assert(memcmp(s.out[3].hidden + at_hidden, e[3].hidden + at_hidden, ROWS * d * sizeof(float)) == 0);
    cr_assert(s.out[1].logits[at + v] == mark && s.out[1].hidden[at_hidden + d] == mark);
    for (size_t j = at; j < LENGTH * v; j++)
        cr_assert(s.out[2].logits[j] == mark && s.out[3].logits[j] == mark && s.out[4].logits[j] == mark);
    for (size_t j = at_hidden; j < LENGTH * d; j++)
        cr_assert(s.out[2].hidden[j] == mark && s.out[4].hidden[j] == mark);
    for (uint32_t i = 0; i < N; i++)
        cr_assert(mf_session_position(s.sessions[i]) == LENGTH);
    free(logits);
    free(hidden);
    mf_executor_close(executor);
    close_stage(&s);
}

Test(batch, outputs_go_where_they_were_asked_for_and_nowhere_else)
{
    check_outputs(0);
}

Test(batch, outputs_of_inputs_that_run_in_pieces_go_to_the_same_places)
{
    check_outputs(7);
    check_outputs(41);
    check_outputs(30);
}
