/* mf_generate: against a loop over mf_forward, and what it shows and when. A logits filter forces the tokens
 * where a test wants a certain text from a random model. */
#define _POSIX_C_SOURCE 200809L
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "counting_allocator.h"
#include "run_model.h"
#include "tokenizer_fixture.h"

enum { N_VOCAB = 900, EOS = 899, MAX_POSITIONS = 512, MAX_EVENTS = 400 };

/* ---- A model with a tokenizer ---- */

static model_file make_model_of(uint32_t n_vocab, int32_t bos, int32_t eos, const void *tokenizer,
                                size_t tokenizer_bytes)
{
    random_shape shape = *random_shape_find("tiny");
    shape.n_vocab = n_vocab;
    shape.max_positions = MAX_POSITIONS;
    random_model model;
    cr_assert_eq(random_model_init_shape(&model, &shape, 1), MF_OK);
    model.config.bos_token = bos;
    model.config.eos_token = eos;
    mfi_save_options options = { .type = MFK_F32, .storage = MFI_RAW };
    options.tokenizer = tokenizer;
    options.tokenizer_bytes = tokenizer_bytes;
    model_file file = make_file(&model.config, random_model_weights(&model), &options);
    random_model_free(&model);
    return file;
}

static model_file make_model(int32_t bos, int32_t eos, bool with_tokenizer)
{
    golden g = open_golden();
    model_file file = make_model_of(N_VOCAB, bos, eos, with_tokenizer ? g.blob.data : NULL, g.blob.count);
    free(g.file.data);
    return file;
}

typedef struct fixture {
    model_file file;
    mf_model *model;
    mf_submodel *wide, *narrow;
    mf_executor *executor;
} fixture;

static fixture open_fixture(void)
{
    fixture f;
    f.file = make_model(-1, EOS, true);
    f.model = open_file(&f.file, NULL);
    f.wide = take_named(f.model, mf_model_granularity(f.model, 2));
    f.narrow = take_named(f.model, mf_model_granularity(f.model, 0));
    f.executor = new_executor(f.model, 1, 64);
    return f;
}

static void close_fixture(fixture *f)
{
    mf_executor_close(f->executor);
    mf_submodel_close(f->wide);
    mf_submodel_close(f->narrow);
    mf_model_close(f->model);
    drop_file(&f->file);
}

/* ---- Watching ---- */

typedef struct watcher {
    mf_token_event events[MAX_EVENTS]; /* text points into `text` */
    mf_token_logprob top[MAX_EVENTS];  /* the first of each event's */
    size_t n_event;
    char text[20000];
    size_t n_text;
    size_t stop_after;  /* this event returns 1; 0: none */
    mf_session *cancel; /* cancelled by the event `stop_after` instead */
} watcher;

static int watch(void *user, const mf_token_event *event)
{
    watcher *w = user;
    cr_assert_lt(w->n_event, MAX_EVENTS);
    w->events[w->n_event] = *event;
    w->events[w->n_event].text = w->text + w->n_text;
    if (event->n_top > 0) w->top[w->n_event] = event->top[0];
    memcpy(w->text + w->n_text, event->text, event->text_bytes);
    w->n_text += event->text_bytes;
    w->n_event++;
    if (w->n_event != w->stop_after) return 0;
    if (w->cancel) mf_session_cancel(w->cancel);
    return w->cancel == NULL;
}

/* Forces the tokens of a script, the first one at position `start`. */
typedef struct script {
    int32_t tokens[MAX_EVENTS];
    size_t n_token, start;
} script;

static int force(void *user, const int32_t *tokens, size_t n_token, float *logits, size_t n_vocab)
{
    const script *s = user;
    (void)tokens;
    size_t at = n_token - s->start;
    int32_t wanted = at < s->n_token ? s->tokens[at] : 'z';
    for (size_t i = 0; i < n_vocab; i++)
        if ((int32_t)i != wanted) logits[i] = -INFINITY;
    return 0;
}

static mf_sampler *new_sampler(mf_model *model, const mf_sampler_options *options)
{
    mf_sampler *s = NULL;
    cr_assert_eq(mf_sampler_create(&s, model, options, NULL), MF_OK);
    return s;
}

static mf_sampler *force_script(mf_model *model, script *s)
{
    mf_sampler_options options = MF_SAMPLER_OPTIONS_INIT;
    options.filter = force;
    options.filter_user = s;
    return new_sampler(model, &options);
}

/* A script of the text's bytes, or of its tokens. */
static void write_script(script *s, mf_model *model, const char *text, size_t count, bool as_bytes)
{
    s->start = 1;
    s->n_token = count;
    for (size_t i = 0; as_bytes && i < count; i++)
        s->tokens[i] = (unsigned char)text[i];
    if (!as_bytes) cr_assert_eq(mf_tokenize(model, text, count, s->tokens, MAX_EVENTS, &s->n_token), MF_OK);
}

static mf_status generate(mf_executor *executor, mf_session *session, const mf_submodel *view,
                          mf_generate_options *options, watcher *w, mf_generate_result *result)
{
    mf_error error = MF_ERROR_INIT;
    w->n_event = w->n_text = 0;
    options->on_token = watch;
    options->user = w;
    mf_status status = mf_generate(executor, session, view, options, result, &error);
    cr_assert_eq(error.status, status, "%s", error.detail);
    return status;
}

/* ---- The same as a loop ---- */

static int32_t greedy(const float *logits)
{
    int32_t best = 0;
    for (int32_t i = 1; i < N_VOCAB; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static void run_loop(mf_executor *executor, mf_session *session, const mf_submodel *view, const int32_t *prompt,
                     size_t n_prompt, int32_t *out, size_t n)
{
    static float logits[N_VOCAB];
    for (size_t i = 0; i <= n; i++) {
        mf_request request = { .session = session, .submodel = view, .logits = logits, .logits_capacity = N_VOCAB };
        request.tokens = i == 0 ? prompt : &out[i - 1];
        request.n_token = i == 0 ? n_prompt : 1;
        cr_assert_eq(mf_forward(executor, &request, 1, sizeof request, NULL), MF_OK);
        if (i < n) out[i] = greedy(logits);
    }
}

Test(generate, equals_a_loop_over_forward_and_leaves_all_tokens_in_the_session)
{
    enum { N = 30 };
    fixture f = open_fixture();
    int32_t prompt[64], expected[N];
    size_t n_prompt;
    static const char text[] = "Once upon a time";
    cr_assert_eq(mf_tokenize(f.model, text, strlen(text), prompt, 64, &n_prompt), MF_OK);
    mf_session *looped = new_session(f.model), *session = new_session(f.model);
    run_loop(f.executor, looped, f.wide, prompt, n_prompt, expected, N);

    static watcher w;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.prompt = text;
    options.max_tokens = N;
    options.n_top = 2;
    options.ignore_eos = 1;
    cr_assert_eq(generate(f.executor, session, f.wide, &options, &w, &result), MF_OK);
    cr_assert_eq(w.n_event, N);
    for (size_t i = 0; i < N; i++) {
        cr_assert_eq(w.events[i].token, expected[i]);
        cr_assert_eq(w.events[i].position, n_prompt + i);
        cr_assert(w.events[i].submodel == f.wide && w.events[i].n_top == 2);
        cr_assert(w.top[i].token == expected[i] && w.top[i].logprob == w.events[i].logprob);
    }
    cr_assert(result.finish == MF_FINISH_LENGTH && result.n_generated == N && result.n_prompt == n_prompt);
    cr_assert(result.prompt_ns > 0 && result.generate_ns > 0 && result.n_schedule == 1);
    cr_assert_eq(mf_session_position(session), n_prompt + N);
    cr_assert(memcmp(mf_session_tokens(session), mf_session_tokens(looped), (n_prompt + N) * sizeof(int32_t)) == 0);
    char back[20000];
    size_t n_back;
    cr_assert_eq(mf_detokenize(f.model, expected, N, back, sizeof back, &n_back), MF_OK);
    cr_assert(n_back == w.n_text && memcmp(back, w.text, n_back) == 0);

    /* A fresh executor and session, made for the call, do the same. */
    cr_assert_eq(generate(NULL, NULL, f.wide, &options, &w, NULL), MF_OK);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(w.events[i].token, expected[i]);
    mf_session_close(looped);
    mf_session_close(session);
    close_fixture(&f);
}

Test(generate, going_on_twice_equals_going_on_once)
{
    fixture f = open_fixture();
    static watcher once, first, second;
    mf_sampler_options sampling = { .struct_size = sizeof sampling, .seed = 5, .temperature = 1.5f };
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.prompt = "The fox";
    options.sampler = new_sampler(f.model, &sampling);
    options.ignore_eos = 1;
    options.max_tokens = 20;
    cr_assert_eq(generate(f.executor, NULL, f.narrow, &options, &once, NULL), MF_OK);
    mf_session *session = new_session(f.model);
    options.max_tokens = 8;
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &first, NULL), MF_OK);
    options.prompt = NULL;
    options.max_tokens = 12;
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &second, NULL), MF_OK);
    for (size_t i = 0; i < 20; i++)
        cr_assert_eq(once.events[i].token, i < 8 ? first.events[i].token : second.events[i - 8].token);
    mf_sampler_close((mf_sampler *)options.sampler);
    mf_session_close(session);
    close_fixture(&f);
}

/* ---- Schedules ---- */

Test(generate, the_schedule_is_run_merged_reported_and_replays_to_the_same_tokens)
{
    fixture f = open_fixture();
    static watcher w, replay;
    const mf_schedule_step steps[] = {
        { 0, f.narrow }, { 2, f.wide }, { 3, f.wide }, { 20, f.narrow }, { 300, f.wide }
    };
    mf_schedule_step report[8];
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.prompt = "the bell and the fox and the bell";
    options.max_tokens = 40;
    options.ignore_eos = 1;
    options.schedule = steps;
    options.n_schedule = 5;
    result.schedule = report;
    result.schedule_capacity = 8;
    cr_assert_eq(generate(f.executor, NULL, f.wide, &options, &w, &result), MF_OK);
    cr_assert_eq(result.n_schedule, 3);
    cr_assert(report[0].position == 0 && report[0].submodel == f.narrow);
    cr_assert(report[1].position == 2 && report[1].submodel == f.wide);
    cr_assert(report[2].position == 20 && report[2].submodel == f.narrow);
    for (size_t i = 0; i < 40; i++) /* computed by the view of the position before */
        cr_assert_eq(w.events[i].submodel, w.events[i].position - 1 < 20 ? f.wide : f.narrow);

    options.schedule = report;
    options.n_schedule = result.n_schedule;
    result.schedule_capacity = 2;
    report[3] = (mf_schedule_step){ 77, NULL };
    mf_schedule_step few[3] = { { 77, NULL }, { 77, NULL }, { 77, NULL } };
    result.schedule = few;
    cr_assert_eq(generate(NULL, NULL, f.wide, &options, &replay, &result), MF_OK);
    for (size_t i = 0; i < 40; i++)
        cr_assert(replay.events[i].token == w.events[i].token && replay.events[i].logprob == w.events[i].logprob);
    cr_assert(result.n_schedule == 3 && few[1].position == 2 && few[2].position == 77, "the capacity was not kept");

    /* Step by step with the same views. */
    mf_session *session = new_session(f.model);
    int32_t prompt[64], token = -1;
    static float logits[N_VOCAB];
    size_t n_prompt;
    cr_assert_eq(mf_tokenize(f.model, options.prompt, strlen(options.prompt), prompt, 64, &n_prompt), MF_OK);
    for (uint32_t at = 0; at < n_prompt + 39; at++) {
        mf_request request = { .session = session, .tokens = at < n_prompt ? &prompt[at] : &token, .n_token = 1 };
        request.submodel = at < 2 || at >= 20 ? f.narrow : f.wide;
        request.logits = logits;
        request.logits_capacity = N_VOCAB;
        cr_assert_eq(mf_forward(f.executor, &request, 1, sizeof request, NULL), MF_OK);
        token = greedy(logits);
        if (at + 1 >= n_prompt) cr_assert_eq(token, w.events[at + 1 - n_prompt].token);
    }
    mf_session_close(session);
    close_fixture(&f);
}

/* ---- What is shown ---- */

static bool is_whole_utf8(const char *text, size_t count)
{
    for (size_t at = 0; at < count;) {
        unsigned char byte = (unsigned char)text[at];
        size_t length = byte < 0x80 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 0;
        if (length == 0 || length > count - at) return false;
        for (size_t i = 1; i < length; i++)
            if (((unsigned char)text[at + i] & 0xc0) != 0x80) return false;
        at += length;
    }
    return true;
}

Test(generate, only_whole_characters_are_shown_and_broken_ones_come_through_unchanged)
{
    static const struct {
        const char *text;
        bool is_valid;
    } texts[] = {
        { "plain", true },
        { "Zo\xc3\xab \xe2\x80\x9cna\xc3\xafve\xe2\x80\x9d \xf0\x9f\x98\x80\xf0\x9f\x91\xa9!", true },
        { "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", true },
        { "\x80\x80\x80\x80\x80 stray", false },
        { "cut \xe2\x82", false },
        { "cut \xf0\x9f\x98", false },
        { "\xe2\x82 then \xf0\x9f\x98 then \xc3", false },
        { "\xff\xfe\xf8\xc0\xc1", false },
        { "\xe2\xe2\xe2\x82\xac", false },
    };
    fixture f = open_fixture();
    static watcher w;
    static script s;
    for (size_t i = 0; i < 2 * sizeof texts / sizeof texts[0]; i++) {
        const char *text = texts[i / 2].text;
        write_script(&s, f.model, text, strlen(text), i % 2);
        const int32_t begin = EOS;
        mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
        options.tokens = &begin;
        options.n_token = 1;
        options.max_tokens = (uint32_t)s.n_token;
        options.sampler = force_script(f.model, &s);
        cr_assert_eq(generate(f.executor, NULL, f.narrow, &options, &w, NULL), MF_OK);
        cr_assert(w.n_text == strlen(text) && memcmp(w.text, text, w.n_text) == 0, "text %zu", i / 2);
        for (size_t e = 0; texts[i / 2].is_valid && e < w.n_event; e++)
            cr_assert(is_whole_utf8(w.events[e].text, w.events[e].text_bytes), "text %zu, event %zu", i / 2, e);
        mf_sampler_close((mf_sampler *)options.sampler);
    }
    close_fixture(&f);
}

/* The first place where any of the stop texts is complete in text[0..count); SIZE_MAX: none. */
static size_t reference_stop(const char *text, size_t count, const char *const *stop, size_t n_stop, size_t *begin)
{
    for (size_t end = 1; end <= count; end++) {
        *begin = SIZE_MAX;
        for (size_t i = 0; i < n_stop; i++) {
            size_t length = strlen(stop[i]);
            if (length <= end && memcmp(text + end - length, stop[i], length) == 0 && end - length < *begin)
                *begin = end - length;
        }
        if (*begin != SIZE_MAX) return end;
    }
    return SIZE_MAX;
}

Test(generate, stop_texts_end_it_wherever_tokens_are_cut_and_none_of_them_is_shown)
{
    static const char *const stops[][3] = {
        { "\n\n" },          { "aab" }, { "abab", "aba" }, { "b a", "ba ba", "aa" }, { "aaaaaaaa", "bbbbbb" },
        { "\xc3\xa9", "z" },
    };
    fixture f = open_fixture();
    static watcher w;
    static script s;
    rng r = { 17 };
    size_t n_stopped = 0, n_through = 0;
    for (uint32_t round = 0; round < 240; round++) {
        const char *const *stop = stops[round % 6];
        size_t n_stop = 1;
        while (n_stop < 3 && stop[n_stop])
            n_stop++;
        char text[48];
        size_t count = 0;
        while (count + 2 < 6 + round % 40) {
            uint32_t pick = rng_below(&r, 12);
            if (pick == 0)
                memcpy(text + count, "\xc3\xa9", 2), count++;
            else
                text[count] = "aaaabbbb \n\n"[pick - 1];
            count++;
        }
        size_t begin, end = reference_stop(text, count, stop, n_stop, &begin);
        write_script(&s, f.model, text, count, true);
        const int32_t first = EOS;
        mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
        mf_generate_result result = MF_GENERATE_RESULT_INIT;
        options.tokens = &first;
        options.n_token = 1;
        options.max_tokens = (uint32_t)s.n_token;
        options.stop = stop;
        options.n_stop = n_stop;
        options.sampler = force_script(f.model, &s);
        cr_assert_eq(generate(f.executor, NULL, f.narrow, &options, &w, &result), MF_OK);
        bool stopped = end != SIZE_MAX;
        size_t shown = stopped ? begin : count;
        cr_assert_eq(result.finish, stopped ? MF_FINISH_STOP : MF_FINISH_LENGTH, "round %u", round);
        cr_assert_eq(result.n_generated, stopped ? end : count);
        cr_assert(w.n_text == shown && memcmp(w.text, text, shown) == 0, "round %u", round);
        n_stopped += stopped;
        n_through += !stopped;
        mf_sampler_close((mf_sampler *)options.sampler);
    }
    cr_assert(n_stopped > 40 && n_through > 40, "the rounds do not cover both ends");
    close_fixture(&f);
}

Test(generate, text_is_held_back_only_while_it_may_become_a_stop_text)
{
    static const char *const stop[] = { "abc" };
    fixture f = open_fixture();
    static watcher w;
    static script s;
    write_script(&s, f.model, "xabab!", 6, true);
    const int32_t begin = EOS;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.tokens = &begin;
    options.n_token = 1;
    options.max_tokens = 7;
    options.stop = stop;
    options.n_stop = 1;
    options.sampler = force_script(f.model, &s);
    cr_assert_eq(generate(f.executor, NULL, f.narrow, &options, &w, NULL), MF_OK);
    static const char *const shown[] = { "x", "", "", "ab", "", "ab!", "z" };
    for (size_t i = 0; i < 7; i++)
        cr_assert(w.events[i].text_bytes == strlen(shown[i]) &&
                      memcmp(w.events[i].text, shown[i], strlen(shown[i])) == 0,
                  "event %zu", i);
    mf_sampler_close((mf_sampler *)options.sampler);
    close_fixture(&f);
}

/* The most that can be held: one byte less than a stop text, then the longest token. */
Test(generate, the_longest_tokens_and_stop_texts_fit_the_text_that_is_held_back)
{
    enum { N_MERGE = 10, LONGEST = 256 + N_MERGE - 1, TOKEN_BYTES = 1024, STOP_BYTES = 1500, N = 6 };
    mfi_merge merges[N_MERGE] = { { 'a', 'a' } };
    for (uint32_t i = 1; i < N_MERGE; i++)
        merges[i] = (mfi_merge){ 255 + i, 255 + i };
    mf_allocator allocator = mfi_allocator(NULL);
    void *blob;
    size_t blob_bytes;
    cr_assert_eq(mfi_tokenizer_store(&blob, &blob_bytes, &allocator, merges, N_MERGE, 0, NULL), MF_OK);
    model_file file = make_model_of(256 + N_MERGE, 'a', -1, blob, blob_bytes);
    mfi_free(&allocator, blob, blob_bytes);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *view = take_named(model, mf_model_granularity(model, 0));

    static watcher w;
    static script s = { .n_token = N, .start = 1, .tokens = { LONGEST, LONGEST, LONGEST, LONGEST, LONGEST, LONGEST } };
    char stop_text[STOP_BYTES + 2] = "";
    memset(stop_text, 'a', STOP_BYTES);
    stop_text[STOP_BYTES] = 'b';
    const char *const stop[] = { stop_text };
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.max_tokens = N;
    options.stop = stop;
    options.n_stop = 1;
    options.sampler = force_script(model, &s);
    cr_assert_eq(generate(NULL, NULL, view, &options, &w, NULL), MF_OK);
    cr_assert_eq(w.events[1].text_bytes, 2 * TOKEN_BYTES - STOP_BYTES);
    cr_assert_eq(w.n_text, N * TOKEN_BYTES);
    mf_sampler_close((mf_sampler *)options.sampler);
    mf_submodel_close(view);
    mf_model_close(model);
    drop_file(&file);
}

/* ---- How it ends ---- */

Test(generate, the_end_of_text_token_ends_it_unless_ignored)
{
    fixture f = open_fixture();
    static watcher w;
    static script s;
    write_script(&s, f.model, "ab\xc3", 3, true);
    s.tokens[s.n_token++] = EOS;
    mf_session *session = new_session(f.model);
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.max_tokens = 6;
    options.sampler = force_script(f.model, &s);
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &w, &result), MF_OK);
    cr_assert(result.finish == MF_FINISH_EOS && result.n_generated == 4);
    cr_assert_eq(result.n_prompt, 1, "an empty session begins with the token that begins a text");
    cr_assert(w.n_text == 3 && memcmp(w.text, "ab\xc3", 3) == 0);
    cr_assert(w.events[3].token == EOS && mf_session_position(session) == 5 && mf_session_tokens(session)[4] == EOS);
    options.ignore_eos = 1;
    cr_assert_eq(generate(f.executor, NULL, f.narrow, &options, &w, &result), MF_OK);
    cr_assert(result.finish == MF_FINISH_LENGTH && result.n_generated == 6);
    cr_assert(w.n_text == 5 && memcmp(w.text, "ab\xc3zz", 5) == 0);
    mf_sampler_close((mf_sampler *)options.sampler);
    mf_session_close(session);
    close_fixture(&f);
}

Test(generate, a_full_session_ends_it_after_the_last_token_that_could_be_chosen)
{
    fixture f = open_fixture();
    static watcher w;
    static script s;
    static const char *const stop[] = { "zzzzzzzz" };
    mf_session_options small = MF_SESSION_OPTIONS_INIT;
    small.max_positions = 6;
    mf_session *session;
    cr_assert_eq(mf_session_create(&session, f.model, &small, NULL), MF_OK);
    s.start = 1;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.max_tokens = 50;
    options.stop = stop;
    options.n_stop = 1;
    options.sampler = force_script(f.model, &s);
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &w, &result), MF_OK);
    cr_assert(result.finish == MF_FINISH_LENGTH && result.n_generated == 6 && mf_session_position(session) == 6);
    cr_assert(w.n_text == 6 && memcmp(w.text, "zzzzzz", 6) == 0, "text that was held back is lost");

    options.prompt = "one more, and another";
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &w, &result), MF_E_FULL);
    cr_assert(w.n_event == 0 && mf_session_position(session) == 6);

    /* A prompt whose first part fits before the view changes: none of it stays. */
    const mf_schedule_step steps[] = { { 5, f.wide } };
    options.schedule = steps;
    options.n_schedule = 1;
    cr_assert_eq(mf_session_rewind(session, 4), MF_OK);
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &w, &result), MF_E_FULL);
    cr_assert_eq(mf_session_position(session), 4);
    mf_sampler_close((mf_sampler *)options.sampler);
    mf_session_close(session);
    close_fixture(&f);
}

Test(generate, a_callback_ends_it_and_cancelling_keeps_what_was_generated)
{
    fixture f = open_fixture();
    static watcher w;
    mf_session *session = new_session(f.model);
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.prompt = "The bell";
    options.ignore_eos = 1;
    w.stop_after = 3;
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &w, &result), MF_OK);
    cr_assert(result.finish == MF_FINISH_CALLBACK && result.n_generated == 3 && w.n_event == 3);
    cr_assert_eq(mf_session_position(session), result.n_prompt + 3);

    options.max_tokens = 3; /* where it ends anyway, that is the reason */
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &w, &result), MF_OK);
    cr_assert(result.finish == MF_FINISH_LENGTH && w.n_event == 3);
    options.max_tokens = 0;

    uint32_t before = mf_session_position(session);
    w.cancel = session;
    options.prompt = NULL;
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &w, &result), MF_E_CANCELLED);
    cr_assert(w.n_event == 3 && result.n_generated == 3);
    cr_assert_eq(mf_session_position(session), before + 3);

    /* Cancelled before it began: the session is as it was, and the next call runs. */
    mf_session_cancel(session);
    options.prompt = "more";
    options.max_tokens = 2;
    const mf_schedule_step steps[] = { { before + 4, f.wide } };
    options.schedule = steps;
    options.n_schedule = 1;
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &w, &result), MF_E_CANCELLED);
    cr_assert_eq(mf_session_position(session), before + 3);
    cr_assert_eq(generate(f.executor, session, f.narrow, &options, &w, &result), MF_OK);
    mf_session_close(session);
    close_fixture(&f);
}

static int forbid(void *user, const int32_t *tokens, size_t n_token, float *logits, size_t n_vocab)
{
    (void)tokens;
    for (size_t i = 0; i < n_vocab; i++)
        logits[i] = -INFINITY;
    return n_token >= *(size_t *)user;
}

Test(generate, a_filter_that_stops_or_forbids_everything_ends_it_with_a_status)
{
    fixture f = open_fixture();
    static watcher w;
    size_t stop_at = 0;
    mf_sampler_options sampling = { .struct_size = sizeof sampling, .filter = forbid, .filter_user = &stop_at };
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.prompt = "The bell";
    options.sampler = new_sampler(f.model, &sampling);
    cr_assert_eq(generate(NULL, NULL, f.narrow, &options, &w, NULL), MF_E_CANCELLED);
    stop_at = 1000;
    cr_assert_eq(generate(NULL, NULL, f.narrow, &options, &w, NULL), MF_E_INVALID);
    cr_assert_eq(w.n_event, 0);
    mf_sampler_close((mf_sampler *)options.sampler);
    close_fixture(&f);
}

/* ---- Where it begins ---- */

Test(generate, without_a_prompt_a_text_begins_with_the_token_the_model_names_or_not_at_all)
{
    static const struct {
        int32_t bos, eos;
        mf_status status;
    } models[] = { { 300, EOS, MF_OK }, { -1, EOS, MF_OK }, { -1, -1, MF_E_INVALID } };
    static watcher w;
    for (size_t i = 0; i < 3; i++) {
        model_file file = make_model(models[i].bos, models[i].eos, i != 0);
        mf_model *model = open_file(&file, NULL);
        mf_submodel *view = take_named(model, mf_model_granularity(model, 0));
        mf_session *session = new_session(model);
        mf_executor *executor = new_executor(model, 1, 8);
        mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
        options.max_tokens = 2;
        cr_assert_eq(generate(executor, session, view, &options, &w, NULL), models[i].status);
        if (models[i].status == MF_OK)
            cr_assert_eq(mf_session_tokens(session)[0], models[i].bos >= 0 ? models[i].bos : models[i].eos);
        if (i == 0) { /* no tokenizer: tokens are reported without text, and text is refused */
            cr_assert_eq(w.n_text, 0);
            options.prompt = "text";
            cr_assert_eq(generate(executor, session, view, &options, &w, NULL), MF_E_UNSUPPORTED);
        }
        mf_executor_close(executor);
        mf_session_close(session);
        mf_submodel_close(view);
        mf_model_close(model);
        drop_file(&file);
    }
}

Test(generate, going_on_after_an_embedding_row_is_refused)
{
    fixture f = open_fixture();
    static watcher w;
    static float row[64];
    const int32_t token = -1;
    mf_session *session = new_session(f.model);
    mf_request request = { .session = session, .submodel = f.wide, .tokens = &token, .n_token = 1, .embeddings = row };
    request.logits_of = MF_LOGITS_NONE;
    cr_assert_eq(mf_forward(f.executor, &request, 1, sizeof request, NULL), MF_OK);
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    cr_assert_eq(generate(f.executor, session, f.wide, &options, &w, NULL), MF_E_INVALID);
    cr_assert_eq(mf_session_position(session), 1);
    mf_session_close(session);
    close_fixture(&f);
}

Test(generate, impossible_options_are_refused_before_anything_runs)
{
    fixture f = open_fixture();
    model_file other_file = make_model(-1, EOS, true);
    mf_model *other = open_file(&other_file, NULL);
    mf_sampler *others_sampler = new_sampler(other, NULL);
    static const char *const empty_stop[] = { "a", "" };
    const mf_schedule_step descending[] = { { 5, f.wide }, { 5, f.narrow } }, missing[] = { { 5, NULL } };
    const int32_t beyond = N_VOCAB, token = 1;
    const struct {
        mf_generate_options options;
        mf_status status;
    } cases[] = {
        { { .prompt = "a", .tokens = &token, .n_token = 1 }, MF_E_INVALID },
        { { .n_token = 1 }, MF_E_INVALID },
        { { .tokens = &beyond, .n_token = 1 }, MF_E_RANGE },
        { { .prompt = "a", .n_top = 65 }, MF_E_INVALID },
        { { .prompt = "a", .n_stop = 1 }, MF_E_INVALID },
        { { .prompt = "a", .stop = empty_stop, .n_stop = 2 }, MF_E_INVALID },
        { { .prompt = "a", .n_schedule = 1 }, MF_E_INVALID },
        { { .prompt = "a", .schedule = descending, .n_schedule = 2 }, MF_E_INVALID },
        { { .prompt = "a", .schedule = missing, .n_schedule = 1 }, MF_E_INVALID },
        { { .prompt = "a", .sampler = others_sampler }, MF_E_INVALID },
    };
    static watcher w;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mf_generate_options options = cases[i].options;
        options.struct_size = sizeof options;
        cr_assert_eq(generate(f.executor, NULL, f.wide, &options, &w, NULL), cases[i].status, "case %zu", i);
        cr_assert_eq(w.n_event, 0);
    }
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.prompt = "a";
    cr_assert_eq(generate(f.executor, NULL, NULL, &options, &w, NULL), MF_E_INVALID);
    options.struct_size = 8;
    cr_assert_eq(generate(f.executor, NULL, f.wide, &options, &w, NULL), MF_E_STRUCT_SIZE);
    mf_sampler_close(others_sampler);
    mf_model_close(other);
    drop_file(&other_file);
    close_fixture(&f);
}

Test(generate, every_failing_allocation_is_clean)
{
    model_file file = make_model(-1, EOS, true);
    counting count = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    mf_model_options opening = MF_MODEL_OPTIONS_INIT;
    opening.allocator = counting_allocator(&count);
    mf_model *model;
    cr_assert_eq(mf_model_open_memory(&model, file.data, file.bytes, &opening, NULL), MF_OK);
    mf_submodel *view = take_named(model, mf_model_granularity(model, 1));
    static watcher w;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.prompt = "The bell that would not ring";
    options.max_tokens = 3;
    mf_status status = MF_E_NOMEM;
    for (size_t i = 1; status != MF_OK; i++) {
        count.fail_at = count.n_alloc + i;
        status = generate(NULL, NULL, view, &options, &w, NULL);
        cr_assert(status == MF_E_NOMEM || status == MF_OK, "allocation %zu: status %d", i, (int)status);
        cr_assert_eq(status == MF_OK, count.n_alloc < count.fail_at);
        if (status == MF_OK) cr_assert_gt(i, 5);
    }
    count.fail_at = 0;
    mf_submodel_close(view);
    mf_model_close(model);
    cr_assert_eq(count.live_bytes, 0);
    drop_file(&file);
}
