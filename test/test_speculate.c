/* test_speculate.c - a draft changes how fast a text is written and nothing else: mf_generate with a draft, told or asked
 * for (mf_generation_next), against mf_generate without one, in tokens, events, text, session and cache. */
#define _POSIX_C_SOURCE 200809L
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arena.h"
#include "counting_allocator.h"
#include "draft_length.h"
#include "run_model.h"
#include "tokenizer.h"

enum { N_VOCAB = 257, EOS = 256, MAX_POSITIONS = 300, MAX_EVENTS = 300, MAX_TEXT = 4000, MOST_DRAFT = 16 };

/* ---- A model whose tokens are bytes ---- */

typedef struct stage {
    model_file file;
    mf_model *model;
    mf_submodel *wide, *middle, *draft;
    mf_executor *executor;
} stage;

static model_file make_text_file(uint32_t n_vocab, uint64_t seed, mfk_type type)
{
    random_shape shape = *random_shape_find("tiny");
    random_model random;
    mf_allocator allocator = mfi_allocator(NULL);
    mfi_save_options options = { .type = type, .storage = MFI_RAW };
    void *blob = NULL;
    size_t blob_bytes = 0;
    shape.n_vocab = n_vocab;
    shape.max_positions = MAX_POSITIONS;
    cr_assert(random_model_init_shape(&random, &shape, seed) == MF_OK);
    random.config.eos_token = (int32_t)n_vocab - 1;
    if (n_vocab == N_VOCAB) {
        cr_assert(mfi_tokenizer_store(&blob, &blob_bytes, &allocator, NULL, 0, 1, NULL) == MF_OK);
        options.tokenizer = blob;
        options.tokenizer_bytes = blob_bytes;
    }
    model_file file = make_file(&random.config, random_model_weights(&random), &options);
    mfi_free(&allocator, blob, blob_bytes);
    random_model_free(&random);
    return file;
}

static stage open_stage_with(uint64_t seed, const mf_model_options *options)
{
    stage s = { .file = make_text_file(N_VOCAB, seed, seed % 2 ? MFK_F32 : MFK_BF16) };
    cr_assert(mf_model_open_memory(&s.model, s.file.data, s.file.bytes, options, NULL) == MF_OK);
    s.wide = take_named(s.model, "L");
    s.middle = take_named(s.model, "M");
    s.draft = take_named(s.model, "S");
    s.executor = new_executor(s.model, 1 + seed % 2, 0);
    return s;
}

static stage open_stage(uint64_t seed)
{
    return open_stage_with(seed, NULL);
}

static void close_stage(stage *s)
{
    mf_executor_close(s->executor);
    mf_submodel_close(s->wide);
    mf_submodel_close(s->middle);
    mf_submodel_close(s->draft);
    mf_model_close(s->model);
    drop_file(&s->file);
}

/* ---- What came of a call ---- */

typedef struct story {
    mf_token_event events[MAX_EVENTS]; /* without the pointers to text and top */
    mf_token_logprob top[MAX_EVENTS];  /* the second of each event's */
    size_t text_end[MAX_EVENTS];
    char text[MAX_TEXT];
    size_t n_event, n_text;
    mf_session *session;
    mf_generate_result result;
    mf_status status;
    /* What the callback does at an event, counted from 1; 0: never. */
    size_t stop_at, cancel_at, rewind_at;
    uint32_t room; /* positions that the session can hold */
} story;

static int watch(void *user, const mf_token_event *event)
{
    story *s = user;
    cr_assert(s->n_event < MAX_EVENTS && s->n_text + event->text_bytes <= MAX_TEXT);
    mf_token_event *kept = &s->events[s->n_event];
    *kept = *event;
    if (event->n_top > 1) s->top[s->n_event] = event->top[1];
    kept->text = NULL;
    kept->top = NULL;
    memcpy(s->text + s->n_text, event->text, event->text_bytes);
    s->n_text += event->text_bytes;
    s->text_end[s->n_event++] = s->n_text;
    if (s->session) { /* it holds this token, and none behind it */
        const uint32_t position = mf_session_position(s->session);
        cr_assert(position == event->position + (event->position < s->room));
        cr_assert(event->position == s->room || mf_session_tokens(s->session)[event->position] == event->token);
    }
    if (s->n_event == s->cancel_at) mf_session_cancel(s->session);
    if (s->n_event == s->rewind_at) cr_assert(mf_session_rewind(s->session, event->position / 2) == MF_OK);
    return s->n_event == s->stop_at;
}

static void tell(stage *on, story *s, mf_generate_options *options)
{
    mf_error error = MF_ERROR_INIT;
    s->n_event = s->n_text = 0;
    s->result = (mf_generate_result)MF_GENERATE_RESULT_INIT;
    options->on_token = watch;
    options->user = s;
    s->status = mf_generate(on->executor, s->session, on->wide, options, &s->result, &error);
    cr_assert(error.status == s->status, "%s", error.detail);
}

/* The same by asking, a token at a time, or as many as come in a while if nothing is done meanwhile. */
static void ask(stage *on, story *s, mf_generate_options *options)
{
    mf_error error = MF_ERROR_INIT;
    mf_generation *generation = NULL;
    mf_token_batch batch = MF_TOKEN_BATCH_INIT;
    mf_session *session = s->session;
    const uint64_t max_ns = s->stop_at + s->cancel_at + s->rewind_at > 0 ? 0 : 1000000;
    bool is_left = false;
    s->n_event = s->n_text = 0;
    s->result = (mf_generate_result)MF_GENERATE_RESULT_INIT;
    options->on_token = NULL;
    s->status = mf_generation_create(&generation, on->executor, session, on->wide, options, &s->result, &error);
    if (max_ns > 0) s->session = NULL; /* which is ahead of the events */
    do {
        if (s->status == MF_OK) s->status = mf_generation_next(generation, max_ns, &batch, &error);
        cr_assert(batch.event_bytes == sizeof(mf_token_event) && batch.n_event <= 256);
        for (size_t i = 0; i < batch.n_event; i++)
            is_left = watch(s, &batch.events[i]) != 0;
    } while (s->status == MF_OK && batch.n_event > 0 && !is_left);
    cr_assert(error.status == s->status, "%s", error.detail);
    mf_generation_close(generation);
    s->session = session;
}

/* The bytes of a saved session: its tokens and every key and value. */
static void expect_same_bytes(const mf_session *a, const mf_session *b)
{
    const temporary_path paths[] = { new_path(), new_path() };
    cr_assert(mf_session_save(a, paths[0].text, NULL) == MF_OK && mf_session_save(b, paths[1].text, NULL) == MF_OK);
    model_file saved[] = { read_file(paths[0].text), read_file(paths[1].text) };
    cr_assert(saved[0].bytes == saved[1].bytes && memcmp(saved[0].data, saved[1].data, saved[0].bytes) == 0,
              "the sessions differ");
    for (size_t i = 0; i < 2; i++) {
        drop_file(&saved[i]);
        unlink(paths[i].text);
    }
}

/* What the last token says, run again, and one behind it, where there is room. */
static void run_end(stage *on, mf_session *session, uint32_t room, float logits[2][N_VOCAB])
{
    const uint32_t position = mf_session_position(session);
    int32_t tokens[2] = { mf_session_tokens(session)[position - 1], 7 };
    mf_session *fork = NULL;
    mf_request request = { .submodel = on->wide, .tokens = tokens, .n_token = position < room ? 2 : 1 };
    cr_assert(mf_session_fork(&fork, session, NULL) == MF_OK && mf_session_rewind(fork, position - 1) == MF_OK);
    request.session = fork;
    request.logits_of = MF_LOGITS_ALL;
    request.logits = logits[0];
    request.logits_capacity = (size_t)2 * N_VOCAB;
    cr_assert(mf_forward(on->executor, &request, 1, sizeof request, NULL) == MF_OK);
    mf_session_close(fork);
}

static void expect_same_session(stage *on, const story *a, const story *b)
{
    static float logits[2][2][N_VOCAB];
    const uint32_t position = mf_session_position(a->session);
    cr_assert(mf_session_position(b->session) == position);
    cr_assert(memcmp(mf_session_tokens(a->session), mf_session_tokens(b->session), 4 * position) == 0);
    run_end(on, a->session, a->room, logits[0]);
    run_end(on, b->session, b->room, logits[1]);
    cr_assert(memcmp(logits[0], logits[1], sizeof logits[0]) == 0, "the caches differ");
}

static void expect_same_story(const story *a, const story *b)
{
    cr_assert(a->status == b->status && a->n_event == b->n_event && a->n_text == b->n_text);
    for (size_t i = 0; i < a->n_event; i++) {
        const mf_token_event *x = &a->events[i], *y = &b->events[i];
        cr_assert(x->token == y->token && x->position == y->position && x->submodel == y->submodel, "event %zu", i);
        cr_assert(memcmp(&x->logprob, &y->logprob, sizeof x->logprob) == 0, "event %zu", i);
        cr_assert(x->n_top == y->n_top && memcmp(&a->top[i], &b->top[i], sizeof a->top[i]) == 0, "event %zu", i);
        cr_assert(a->text_end[i] == b->text_end[i], "event %zu shows other text", i);
    }
    cr_assert(memcmp(a->text, b->text, a->n_text) == 0);
    cr_assert(a->result.finish == b->result.finish && a->result.n_generated == b->result.n_generated);
    cr_assert(a->result.n_schedule == b->result.n_schedule);
}

typedef struct totals {
    uint32_t n_drafted, n_accepted;
} totals;

/* The same call with and without a draft, twice in a row, so that the second goes on from what the first left. */
static void compare(stage *on, mf_generate_options *options, uint32_t max_positions, const story *behaviour,
                    totals *sum)
{
    static const uint32_t lengths[] = { 0, 1, 3, MOST_DRAFT };
    static story plain, drafted, asked;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        mf_generate_options with_draft = *options;
        plain = drafted = asked = *behaviour;
        plain.room = drafted.room = asked.room = max_positions;
        plain.session = new_session_of(on->model, MF_CACHE_F32, max_positions);
        drafted.session = new_session_of(on->model, MF_CACHE_F32, max_positions);
        asked.session = new_session_of(on->model, MF_CACHE_F32, max_positions);
        with_draft.draft = on->draft;
        with_draft.draft_tokens = lengths[i];
        for (int call = 0; call < 2; call++) {
            mf_generate_options without_draft = *options;
            if (call > 0) {
                without_draft.prompt = with_draft.prompt = NULL;
                without_draft.n_token = with_draft.n_token = 0;
            }
            if (i % 2 == 0) ask(on, &asked, i == 0 ? &without_draft : &with_draft);
            tell(on, &plain, &without_draft);
            tell(on, &drafted, &with_draft);
            expect_same_story(&plain, &drafted);
            if (i % 2 == 0) expect_same_story(&plain, &asked);
            expect_same_session(on, &plain, &drafted);
            if (i % 2 == 0) expect_same_session(on, &plain, &asked);
            const mf_generate_result *r = &drafted.result;
            cr_assert(r->n_accepted <= r->n_drafted && r->n_verify <= r->n_drafted);
            cr_assert(lengths[i] == 0 || r->n_drafted <= lengths[i] * r->n_verify || drafted.status != MF_OK);
            sum->n_drafted += r->n_drafted;
            sum->n_accepted += r->n_accepted;
        }
        if (options->n_top > 0) expect_same_bytes(plain.session, drafted.session);
        mf_session_close(plain.session);
        mf_session_close(drafted.session);
        mf_session_close(asked.session);
    }
}

static mf_sampler *new_sampler(mf_model *model, const mf_sampler_options *options)
{
    mf_sampler *sampler = NULL;
    cr_assert(mf_sampler_create(&sampler, model, options, NULL) == MF_OK);
    return sampler;
}

/* ---- Greedy ---- */

/* A grammar: what may come depends on the whole timeline, and letters are more than a random model would write. */
static int prefer_letters(void *user, const int32_t *tokens, size_t n_token, float *logits, size_t n_vocab)
{
    uint32_t sum = *(const uint32_t *)user;
    for (size_t i = 0; i < n_token; i++)
        sum = sum * 31 + (uint32_t)tokens[i];
    for (size_t i = 0; i < n_vocab; i++)
        if (i < 'a' || i > 'f' || i == 'a' + sum % 6) logits[i] = -INFINITY;
    return 0;
}

Test(speculate, greedy_tokens_events_and_cache_are_those_without_a_draft)
{
    totals sum = { 0, 0 };
    static const story plain_behaviour;
    for (uint32_t round = 0; round < test_rounds(4); round++) {
        stage s = open_stage(round);
        static const char *const stops[] = { "ab", "ccc", "fade" };
        const mf_schedule_step steps[] = { { 3, s.middle }, { 12, s.wide }, { 30, s.draft }, { 33, s.middle } };
        uint32_t salt = round;
        mf_sampler_options sampling = { .struct_size = sizeof sampling, .repetition_penalty = 1.3f };
        mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
        options.prompt = "the cat sat on the mat and then";
        options.max_tokens = 40;
        options.ignore_eos = 1;
        compare(&s, &options, MAX_POSITIONS, &plain_behaviour, &sum);
        options.n_top = 2;
        options.schedule = steps;
        options.n_schedule = round % 2 ? 4 : 2;
        compare(&s, &options, MAX_POSITIONS, &plain_behaviour, &sum);
        options.sampler = new_sampler(s.model, &sampling);
        compare(&s, &options, MAX_POSITIONS, &plain_behaviour, &sum);
        mf_sampler_close(options.sampler);
        sampling.filter = prefer_letters;
        sampling.filter_user = &salt;
        options.sampler = new_sampler(s.model, &sampling);
        options.stop = stops;
        options.n_stop = 3;
        compare(&s, &options, MAX_POSITIONS, &plain_behaviour, &sum);
        mf_sampler_close(options.sampler);
        close_stage(&s);
    }
    cr_assert(sum.n_accepted > 100 && sum.n_drafted - sum.n_accepted > 100, "%u drafted, %u accepted", sum.n_drafted,
              sum.n_accepted);
}

/* A filter that leaves one token, so that every drafted token is accepted, and the text is known. */
typedef struct script {
    const char *text;
    size_t begin;
    bool has_seen_end;
} script;

static int force(void *user, const int32_t *tokens, size_t n_token, float *logits, size_t n_vocab)
{
    script *s = user;
    const size_t at = n_token - s->begin, length = strlen(s->text);
    const int32_t wanted = at < length ? (unsigned char)s->text[at] : EOS;
    for (size_t i = s->begin; i < n_token; i++) /* drafted or not: the timeline is the script's */
        cr_assert(i - s->begin >= length || tokens[i] == (unsigned char)s->text[i - s->begin]);
    s->has_seen_end = s->has_seen_end || wanted == EOS;
    for (size_t i = 0; i < n_vocab; i++)
        if ((int32_t)i != wanted) logits[i] = -INFINITY;
    return 0;
}

/* Every way of ending, at every place within the accepted tokens. */
Test(speculate, it_ends_within_accepted_tokens_as_it_does_without_a_draft)
{
    stage s = open_stage(10);
    totals sum = { 0, 0 };
    script text = { "one two three four five six", 2, false };
    static const char *const stop[] = { "fou", "six!" };
    mf_sampler_options sampling = { .struct_size = sizeof sampling, .filter = force, .filter_user = &text };
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.prompt = "0:";
    options.sampler = new_sampler(s.model, &sampling);
    const uint32_t step = test_rounds(1) > 1 ? 1 : 5;
    for (uint32_t at = 1; at <= 20; at += step) {
        story behaviour = { .stop_at = at };
        options.max_tokens = 24;
        options.prompt = "0:";
        compare(&s, &options, MAX_POSITIONS, &(story){ .stop_at = 0 }, &sum);
        compare(&s, &options, MAX_POSITIONS, &behaviour, &sum);
        compare(&s, &options, MAX_POSITIONS, &(story){ .cancel_at = at }, &sum);
        compare(&s, &options, 2 + at, &(story){ .stop_at = 0 }, &sum);
        options.max_tokens = at;
        compare(&s, &options, MAX_POSITIONS, &(story){ .stop_at = 0 }, &sum);
        options.max_tokens = 24;
        options.stop = stop;
        options.n_stop = at % 3;
        compare(&s, &options, MAX_POSITIONS, &(story){ .stop_at = 0 }, &sum);
        options.n_stop = 0;
        text.text = &"one two three four five six"[at]; /* ends with an end of text */
        compare(&s, &options, MAX_POSITIONS, &(story){ .stop_at = 0 }, &sum);
        text.text = "one two three four five six";
    }
    cr_assert(sum.n_accepted > 500 && text.has_seen_end);
    mf_sampler_close(options.sampler);
    close_stage(&s);
}

static int stop_at_position(void *user, const int32_t *tokens, size_t n_token, float *logits, size_t n_vocab)
{
    (void)tokens;
    const uint32_t *at = user;
    if (at[1]) /* or leaves nothing */
        for (size_t i = 0; i < n_vocab && n_token == at[0]; i++)
            logits[i] = -INFINITY;
    return !at[1] && n_token == at[0];
}

Test(speculate, a_filter_that_stops_or_forbids_everything_does_so_at_the_same_token)
{
    stage s = open_stage(2);
    totals sum = { 0, 0 };
    uint32_t at[2];
    mf_sampler_options sampling = { .struct_size = sizeof sampling, .filter = stop_at_position, .filter_user = at };
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    const int32_t prompt[] = { 1, 2, 3 };
    options.tokens = prompt;
    options.n_token = 3;
    options.ignore_eos = 1;
    options.max_tokens = 30;
    options.sampler = new_sampler(s.model, &sampling);
    for (at[0] = 3; at[0] < 14; at[0]++)
        for (at[1] = 0; at[1] < 2; at[1]++)
            compare(&s, &options, MAX_POSITIONS, &(story){ .stop_at = 0 }, &sum);
    mf_sampler_close(options.sampler);
    close_stage(&s);
}

/* What a callback does to the session counts, whatever was accepted. */
Test(speculate, a_callback_that_rewinds_goes_on_from_there)
{
    stage s = open_stage(12);
    totals sum = { 0, 0 };
    script text = { "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 0, false };
    mf_sampler_options sampling = { .struct_size = sizeof sampling, .filter = force, .filter_user = &text };
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.prompt = "aaaa";
    options.max_tokens = 12;
    options.sampler = new_sampler(s.model, &sampling);
    for (size_t at = 1; at < 12; at += 3)
        compare(&s, &options, MAX_POSITIONS, &(story){ .rewind_at = at }, &sum);
    mf_sampler_close(options.sampler);
    close_stage(&s);
}

/* Pages that the draft alone would need are not missed. tiny: 3 layers of 2 heads of 32. */
Test(speculate, where_the_budget_has_no_page_for_the_draft_it_goes_on_without)
{
    mf_model_options opening = MF_MODEL_OPTIONS_INIT;
    opening.cache_bytes = 2 * 64 * 3 * 2 * 2 * 32 * sizeof(float);
    stage s = open_stage_with(4, &opening);
    static story plain, drafted;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.prompt = "0123456789012345678901234567890123456789";
    options.max_tokens = 60;
    options.ignore_eos = 1;
    for (uint32_t length = 0; length <= MOST_DRAFT; length += 4) {
        mf_session *holder = new_session(s.model); /* of one of the two pages of each layer */
        const int32_t token = 1;
        mf_request request = { .session = holder, .submodel = s.wide, .tokens = &token, .n_token = 1 };
        cr_assert(mf_forward(s.executor, &request, 1, sizeof request, NULL) == MF_OK);
        plain.session = new_session(s.model);
        plain.room = drafted.room = 64;
        options.draft = NULL;
        options.draft_tokens = 0;
        tell(&s, &plain, &options);
        cr_assert(plain.status == MF_OK && plain.result.finish == MF_FINISH_LENGTH && plain.n_event == 64 - 40 + 1);
        mf_session_close(plain.session);
        plain.session = NULL;
        drafted.session = new_session(s.model);
        options.draft = s.draft;
        options.draft_tokens = length;
        tell(&s, &drafted, &options);
        cr_assert(mf_session_position(drafted.session) == 64);
        mf_session_close(drafted.session);
        drafted.session = NULL;
        expect_same_story(&plain, &drafted);
        mf_session_close(holder);
    }
    close_stage(&s);
}

/* ---- Arguments and accounts ---- */

Test(speculate, drafts_that_cannot_work_on_the_cache_are_refused_before_anything_runs)
{
    stage s = open_stage(5), other = open_stage(5);
    mf_submodel *fewer_heads = take_named(s.model, "S;heads=2x3"), *fewer_layers = take_named(s.model, "S;skip=1");
    mf_submodel *same_groups = take_named(s.model, "S;heads=3,4,3");
    const mf_schedule_step steps[] = { { 8, fewer_heads } };
    const struct {
        mf_generate_options options;
        mf_status status;
    } cases[] = {
        { { .draft = fewer_heads }, MF_E_REBUILD_NEEDED },
        { { .draft = fewer_layers }, MF_E_REBUILD_NEEDED },
        { { .draft = s.draft, .schedule = steps, .n_schedule = 1 }, MF_E_REBUILD_NEEDED },
        { { .draft = other.draft }, MF_E_INVALID },
        { { .draft_tokens = 2 }, MF_E_INVALID },
        { { .draft = s.draft, .draft_tokens = MOST_DRAFT + 1 }, MF_E_INVALID },
        { { .draft = same_groups, .draft_tokens = MOST_DRAFT }, MF_OK },
        { { .draft = s.wide, .draft_tokens = 4 }, MF_OK },
    };
    static story told;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        mf_generate_options options = cases[i].options;
        options.struct_size = sizeof options;
        options.prompt = "abc";
        options.max_tokens = 8;
        options.ignore_eos = 1;
        told = (story){ .session = new_session(s.model), .room = MAX_POSITIONS };
        tell(&s, &told, &options);
        cr_assert(told.status == cases[i].status, "case %zu: status %d", i, (int)told.status);
        cr_assert(mf_session_position(told.session) == (told.status == MF_OK ? 11 : 0));
        if (options.draft == s.wide) cr_assert(told.result.n_drafted == 0, "a view has no use for itself as a draft");
        mf_session_close(told.session);
    }
    mf_submodel_close(fewer_heads);
    mf_submodel_close(fewer_layers);
    mf_submodel_close(same_groups);
    close_stage(&other);
    close_stage(&s);
}

Test(speculate, structs_of_the_first_release_are_accepted)
{
    stage s = open_stage(6);
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.struct_size = offsetof(mf_generate_options, draft);
    options.prompt = "abc";
    options.max_tokens = 5;
    options.draft = s.draft;
    options.draft_tokens = 77; /* behind the struct's end */
    result.struct_size = offsetof(mf_generate_result, n_drafted);
    result.n_drafted = result.n_verify = 1234;
    cr_assert(mf_generate(s.executor, NULL, s.wide, &options, &result, NULL) == MF_OK);
    cr_assert(result.n_prompt == 3 && result.n_drafted == 1234 && result.n_verify == 1234);
    close_stage(&s);
}

Test(speculate, tokens_and_switches_of_width_allocate_nothing)
{
    counting count = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    mf_model_options opening = MF_MODEL_OPTIONS_INIT;
    opening.allocator = counting_allocator(&count);
    stage s = open_stage_with(7, &opening);
    mf_sampler_options sampling = { .struct_size = sizeof sampling, .temperature = 1, .top_p = 0.9f };
    mf_sampler *sampler = new_sampler(s.model, &sampling);
    mf_schedule_step steps[100];
    for (uint32_t i = 0; i < 100; i++)
        steps[i] = (mf_schedule_step){ 3 + 2 * i, i % 3 == 0 ? s.draft : i % 3 == 1 ? s.middle : s.wide };
    for (int kind = 0; kind < 6; kind++) {
        size_t calls[2];
        for (int is_long = 0; is_long < 2; is_long++) {
            mf_session *session = new_session(s.model);
            mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
            options.prompt = "abc";
            options.max_tokens = is_long ? 190 : 2;
            options.ignore_eos = 1;
            options.schedule = steps;
            options.n_schedule = kind < 2 ? 100 : 0;
            options.sampler = kind % 2 ? sampler : NULL;
            options.draft = kind > 0 ? s.draft : NULL;
            options.draft_tokens = kind > 3 ? 5 : 0;
            const size_t before = count.n_alloc;
            cr_assert(mf_generate(s.executor, session, s.wide, &options, NULL, NULL) == MF_OK);
            calls[is_long] = count.n_alloc - before;
            mf_session_close(session);
        }
        cr_assert(calls[0] == calls[1], "kind %d: %zu allocations for 2 tokens, %zu for 190", kind, calls[0], calls[1]);
    }
    mf_sampler_close(sampler);
    close_stage(&s);
    cr_assert(count.live_bytes == 0);
}

Test(speculate, every_failing_allocation_is_clean)
{
    counting count = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    mf_model_options opening = MF_MODEL_OPTIONS_INIT;
    opening.allocator = counting_allocator(&count);
    stage s = open_stage_with(8, &opening);
    mf_sampler_options sampling = { .struct_size = sizeof sampling, .temperature = 1 };
    mf_sampler *sampler = new_sampler(s.model, &sampling);
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.prompt = "abc";
    options.max_tokens = 6;
    options.sampler = sampler;
    options.draft = s.draft;
    options.draft_tokens = 2;
    mf_status status = MF_E_NOMEM;
    for (size_t i = 1; status != MF_OK; i++) {
        count.fail_at = count.n_alloc + i;
        status = mf_generate(NULL, NULL, s.wide, &options, NULL, NULL);
        cr_assert(status == MF_E_NOMEM || status == MF_OK, "allocation %zu: status %d", i, (int)status);
        if (status == MF_OK) cr_assert(i > 7);
    }
    count.fail_at = 0;
    mf_sampler_close(sampler);
    close_stage(&s);
    cr_assert(count.live_bytes == 0);
}

/* ---- Sampling ---- */

enum { SMALL_VOCAB = 6, N_CELL = SMALL_VOCAB * SMALL_VOCAB * SMALL_VOCAB };

/* The probabilities of the three tokens behind the prompt, of the view by itself. */
static void exact_probabilities(mf_model *model, mf_executor *executor, const mf_submodel *view, int32_t start,
                                double temperature, double *cell)
{
    for (int32_t a = 0; a < SMALL_VOCAB; a++)
        for (int32_t b = 0; b < SMALL_VOCAB; b++) {
            const int32_t tokens[] = { start, a, b };
            float logits[3][SMALL_VOCAB];
            double p[3][SMALL_VOCAB];
            mf_session *session = new_session(model);
            mf_request request = { .session = session, .submodel = view, .tokens = tokens, .n_token = 3 };
            request.logits_of = MF_LOGITS_ALL;
            request.logits = logits[0];
            request.logits_capacity = sizeof logits / sizeof(float);
            cr_assert(mf_forward(executor, &request, 1, sizeof request, NULL) == MF_OK);
            mf_session_close(session);
            for (int i = 0; i < 3; i++) {
                double sum = 0;
                for (int t = 0; t < SMALL_VOCAB; t++)
                    sum += p[i][t] = exp((double)logits[i][t] / temperature);
                for (int t = 0; t < SMALL_VOCAB; t++)
                    p[i][t] /= sum;
            }
            for (int32_t c = 0; c < SMALL_VOCAB; c++)
                cell[(a * SMALL_VOCAB + b) * SMALL_VOCAB + c] = p[0][a] * p[1][b] * p[2][c];
        }
}

/* Pearson's statistic exceeds this with a probability of about 1e-6 (Wilson and Hilferty's approximation). */
static double chi_squared_limit(double freedom)
{
    const double cube = 1 - 2 / (9 * freedom) + 4.75 * sqrt(2 / (9 * freedom));
    return freedom * cube * cube * cube;
}

/* The first of the three tokens is the view's own choice, the second is always drafted, and the third is drafted with
 * the second accepted or the first behind a refusal. */
Test(speculate, sampled_tokens_have_the_distribution_that_they_have_without_a_draft)
{
    const uint32_t n_draw = 12000 * test_rounds(1);
    const float temperature = 8;
    model_file file = make_text_file(SMALL_VOCAB, 3, MFK_F32);
    mf_model *model = open_file(&file, NULL);
    mf_submodel *wide = take_named(model, "L"), *draft = take_named(model, "S");
    mf_executor *executor = new_executor(model, 1, 0);
    mf_session *session = new_session(model);
    double cell[N_CELL];
    uint32_t count[N_CELL] = { 0 };
    const int32_t start = 1;
    uint32_t n_accepted = 0, n_drafted = 0;
    exact_probabilities(model, executor, wide, start, (double)temperature, cell);
    for (uint32_t seed = 0; seed < n_draw; seed++) {
        mf_sampler_options sampling = { .struct_size = sizeof sampling, .seed = seed, .temperature = temperature };
        mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
        mf_generate_result result = MF_GENERATE_RESULT_INIT;
        options.tokens = &start;
        options.n_token = 1;
        options.max_tokens = 3;
        options.ignore_eos = 1;
        options.sampler = new_sampler(model, &sampling);
        options.draft = draft;
        options.draft_tokens = 2;
        cr_assert(mf_session_rewind(session, 0) == MF_OK);
        cr_assert(mf_generate(executor, session, wide, &options, &result, NULL) == MF_OK);
        const int32_t *t = mf_session_tokens(session);
        count[(t[1] * SMALL_VOCAB + t[2]) * SMALL_VOCAB + t[3]]++;
        n_accepted += result.n_accepted;
        n_drafted += result.n_drafted;
        mf_sampler_close(options.sampler);
    }
    double statistic = 0, rare_wanted = 0, rare_count = 0, freedom = -1;
    for (int i = 0; i < N_CELL; i++) {
        const double wanted = cell[i] * n_draw;
        if (wanted < 8) {
            rare_wanted += wanted;
            rare_count += count[i];
            continue;
        }
        statistic += (count[i] - wanted) * (count[i] - wanted) / wanted;
        freedom++;
    }
    if (rare_wanted >= 8) {
        statistic += (rare_count - rare_wanted) * (rare_count - rare_wanted) / rare_wanted;
        freedom++;
    }
    cr_assert(statistic < chi_squared_limit(freedom), "chi squared %g, %g degrees of freedom", statistic, freedom);
    cr_assert(freedom > 30 && n_accepted > n_draw / 4 && n_drafted > n_accepted + n_draw / 8,
              "%g classes, %u drafted, %u accepted: this tests little", freedom, n_drafted, n_accepted);
    mf_session_close(session);
    mf_executor_close(executor);
    mf_submodel_close(wide);
    mf_submodel_close(draft);
    mf_model_close(model);
    drop_file(&file);
}

Test(speculate, a_seed_writes_the_same_tokens_again_whatever_the_threads_and_the_hour)
{
    stage s = open_stage(9);
    static story first, again;
    for (uint32_t length = 0; length < 6; length += 5)
        for (uint32_t seed = 0; seed < 2; seed++) {
            mf_sampler_options sampling = { .struct_size = sizeof sampling, .seed = seed, .temperature = 0.9f };
            mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
            mf_executor *threads[] = { s.executor, new_executor(s.model, 3, 2) };
            options.prompt = "once";
            options.max_tokens = 120;
            options.ignore_eos = 1;
            options.sampler = new_sampler(s.model, &sampling);
            options.draft = s.draft;
            options.draft_tokens = length;
            first.session = new_session(s.model);
            again.session = new_session(s.model);
            first.room = again.room = MAX_POSITIONS;
            tell(&s, &first, &options);
            s.executor = threads[1];
            tell(&s, &again, &options);
            s.executor = threads[0];
            expect_same_story(&first, &again);
            expect_same_session(&s, &first, &again);
            cr_assert(first.result.n_drafted == again.result.n_drafted && first.result.n_drafted > 0);
            mf_session_close(first.session);
            mf_session_close(again.session);
            mf_executor_close(threads[1]);
            mf_sampler_close(options.sampler);
        }
    close_stage(&s);
}

/* ---- The length of a draft ---- */

/* Rounds of a draft whose tokens are accepted by chance; returns the mean length of the last 100. */
static double length_of_last_rounds(mfi_draft_length *l, uint32_t n_round, double probability)
{
    enum { LAST = 100 };
    uint32_t drafted = 0;
    rng r = { 5 };
    for (uint32_t i = 0; i < n_round; i++) {
        const uint32_t n = mfi_draft_length_next(l, MFI_MOST_DRAFT);
        uint32_t n_accepted = 0;
        while (n_accepted < n && rng_below(&r, 1000) < 1000 * probability)
            n_accepted++;
        mfi_draft_length_note(l, n_accepted, n_accepted < n);
        if (i + LAST >= n_round) drafted += n;
    }
    return (double)drafted / LAST;
}

/* The best length where drafting costs c of a token, and another row r; 0: none gains as much as `least`. */
static double best_length(double a, double c, double r, double least)
{
    double best = least;
    uint32_t best_g = 0;
    for (uint32_t g = 1; g <= MOST_DRAFT; g++) {
        const double gain = (1 - pow(a, g + 1)) / (1 - a) / (1 + g * (c + r));
        if (gain <= best) continue;
        best = gain;
        best_g = g;
    }
    return best_g;
}

Test(speculate, the_length_follows_acceptance_and_what_the_views_read)
{
    enum { ROUNDS = 3000 };
    static const double acceptances[] = { 0.99, 0.9, 0.8, 0.6, 0.4, 0.05 };
    static const struct {
        uint64_t draft_mb, view_mb;
        double row;
    } views[] = { { 10, 100, 0.2 }, { 50, 100, 0.2 }, { 95, 100, 0.2 }, { 1, 10, 0.5 }, { 5, 10, 0.5 } };
    for (size_t v = 0; v < sizeof views / sizeof views[0]; v++)
        for (size_t i = 0; i < sizeof acceptances / sizeof acceptances[0]; i++) {
            const double a = acceptances[i], c = (double)views[v].draft_mb / (double)views[v].view_mb;
            const double low = best_length(a - 0.1 * (1 - a) - 0.04, c, views[v].row, 1.15);
            const double high = best_length(a + 0.1 * (1 - a), c, views[v].row, 1);
            mfi_draft_length l;
            mfi_draft_length_init(&l, 0, views[v].draft_mb << 20, views[v].view_mb << 20);
            const double mean = length_of_last_rounds(&l, ROUNDS, a);
            cr_assert(mean >= low - 0.6 && mean <= high + 0.6, "%g of %g: %g tokens, not %g to %g", a, c, mean, low,
                      high);
        }
    /* What did not pay and pays now is found by the tokens that are tried. */
    mfi_draft_length l;
    mfi_draft_length_init(&l, 0, 10 << 20, 100 << 20);
    cr_assert(length_of_last_rounds(&l, ROUNDS, 0.01) < 0.1);
    cr_assert(length_of_last_rounds(&l, 20000, 0.9) > 2);
    /* A fixed one stays. */
    mfi_draft_length_init(&l, 5, 10 << 20, 100 << 20);
    cr_assert(length_of_last_rounds(&l, ROUNDS, 0.01) == 5 && mfi_draft_length_next(&l, 2) == 2);
}

/* ---- The shipped model ---- */

/* A hundred places of a text, without and with drafts of every size that is narrower. */
Test(speculate, the_shipped_model_writes_the_same_hundred_texts)
{
    enum { PROMPT_BYTES = 60, N_PROMPT = 100, TOKENS = 24 };
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    cr_assert(mf_model_open(&model, SHIPPED_MODEL, NULL, &error) == MF_OK, "%s", error.detail);
    mf_submodel *wide = take_named(model, "XL");
    mf_submodel *drafts[] = { take_named(model, "S"), take_named(model, "M"), take_named(model, "L") };
    stage s = { .model = model, .wide = wide, .executor = new_executor(model, 1, 0) };
    static story plain, drafted;
    model_file text = read_file(STORY);
    uint32_t n_accepted = 0, n_drafted = 0;
    cr_assert(text.bytes > N_PROMPT + PROMPT_BYTES);
    plain.session = new_session(model);
    drafted.session = new_session(model);
    plain.room = drafted.room = MAX_POSITIONS;
    for (uint32_t i = 0; i < N_PROMPT; i++) {
        char prompt[PROMPT_BYTES + 1] = "";
        memcpy(prompt, text.data + i * (text.bytes - PROMPT_BYTES) / N_PROMPT, PROMPT_BYTES);
        mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
        options.prompt = prompt;
        options.max_tokens = TOKENS;
        cr_assert(mf_session_rewind(plain.session, 0) == MF_OK && mf_session_rewind(drafted.session, 0) == MF_OK);
        tell(&s, &plain, &options);
        options.draft = drafts[i % 3];
        options.draft_tokens = 1 + i % 5;
        tell(&s, &drafted, &options);
        expect_same_story(&plain, &drafted);
        n_accepted += drafted.result.n_accepted;
        n_drafted += drafted.result.n_drafted;
    }
    cr_assert(n_accepted > n_drafted / 3, "%u of %u accepted: the drafts are no drafts", n_accepted, n_drafted);
    mf_session_close(plain.session);
    mf_session_close(drafted.session);
    for (size_t i = 0; i < 3; i++)
        mf_submodel_close(drafts[i]);
    mf_submodel_close(wide);
    mf_executor_close(s.executor);
    drop_file(&text);
    mf_model_close(model);
}
