/* program.c - a program of another release: compiled with the header of one, linked with the library of another.
 *
 *     program MODEL same|older|newer
 *
 * The second argument says what the library is beside the header. test/abi/old/matformer.h is the header as it first
 * was; test/abi/grow_header.sh makes the one of a release to come (MF_ABI_GROWN), whose structs have a field `later`.
 * What came after the first header is used where its INIT macro is there. */
#include "matformer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int n_check;
static int library_is_older;

#define CHECK(condition)                                                    \
    do {                                                                    \
        n_check++;                                                          \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                        \
        }                                                                   \
    } while (0)

enum { GUARD = 0xa5, N_GENERATED = 8, MAX_TOKENS = 64 };

static int is_guard(const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != GUARD) return 0;
    return 1;
}

/* What stands behind an information struct is not the library's, whatever that knows to fill in. */
#define CHECK_FILLED(type, init, call)                          \
    do {                                                        \
        struct {                                                \
            type info;                                          \
            unsigned char behind[256];                          \
        } guarded = { init, { 0 } };                            \
        memset(guarded.behind, GUARD, sizeof guarded.behind);   \
        type *info = &guarded.info;                             \
        CHECK((call) == MF_OK);                                 \
        CHECK(info->struct_size == sizeof(type));               \
        CHECK(is_guard(guarded.behind, sizeof guarded.behind)); \
    } while (0)

#ifdef MF_ABI_GROWN
/* A setting that the library does not know is refused by name, and one that it knows is taken. `call` uses `options`,
 * `error`. */
#define CHECK_LATER(type, options, error, call)                                       \
    do {                                                                              \
        (options).later[1] = 1;                                                       \
        (error).detail[0] = '\0';                                                     \
        const mf_status status_of_later = (call);                                     \
        (options).later[1] = 0;                                                       \
        CHECK(status_of_later == (library_is_older ? MF_E_STRUCT_SIZE : MF_OK));      \
        if (library_is_older) CHECK(strstr((error).detail, #type) != NULL);           \
        if (library_is_older) CHECK(strstr((error).detail, "newer release") != NULL); \
    } while (0)
#define CHECK_LATER_STATUS(options, call)                                           \
    do {                                                                            \
        (options).later[1] = 1;                                                     \
        const mf_status status_of_later = (call);                                   \
        (options).later[1] = 0;                                                     \
        CHECK((status_of_later == MF_E_STRUCT_SIZE) == (library_is_older ? 1 : 0)); \
    } while (0)
#else
#define CHECK_LATER(type, options, error, call) ((void)0)
#define CHECK_LATER_STATUS(options, call) ((void)0)
#endif

static mf_model *open_model(const char *path)
{
    mf_error error = MF_ERROR_INIT;
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    mf_model *model = NULL;
    CHECK_LATER(mf_model_options, options, error,
                (mf_model_close(model), model = NULL, mf_model_open(&model, path, &options, &error)));
    mf_model_close(model);
    CHECK(mf_model_open(&model, path, &options, &error) == MF_OK);
    CHECK_FILLED(mf_model_info, MF_MODEL_INFO_INIT, mf_model_info_get(model, info));
    mf_model *none = model;
    CHECK(mf_model_open(&none, "/no/such/file", &options, &error) == MF_E_NOT_FOUND && none == NULL);
    CHECK(error.status == MF_E_NOT_FOUND && strstr(error.detail, "/no/such/file") != NULL);
    options.struct_size = sizeof(size_t);
    CHECK(mf_model_open(&none, path, &options, &error) == MF_E_STRUCT_SIZE);
    CHECK(strstr(error.detail, "mf_model_options") != NULL);
    return model;
}

static mf_submodel *extract(mf_model *model, double ratio)
{
    mf_error error = MF_ERROR_INIT;
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    mf_submodel *view = NULL;
    spec.ratio = ratio;
    CHECK_LATER(mf_submodel_spec, spec, error,
                (mf_submodel_close(view), view = NULL, mf_extract_submodel(&view, model, &spec, &error)));
    mf_submodel_close(view);
    CHECK(mf_extract_submodel(&view, model, &spec, &error) == MF_OK);
    CHECK_FILLED(mf_submodel_info, MF_SUBMODEL_INFO_INIT, mf_submodel_info_get(view, info));
    return view;
}

static mf_session *create_session(mf_model *model)
{
    mf_error error = MF_ERROR_INIT;
    mf_session_options options = MF_SESSION_OPTIONS_INIT;
    mf_session *session = NULL;
    CHECK_LATER(mf_session_options, options, error,
                (mf_session_close(session), session = NULL, mf_session_create(&session, model, &options, &error)));
    mf_session_close(session);
    CHECK(mf_session_create(&session, model, &options, &error) == MF_OK);
    return session;
}

static mf_executor *create_executor(mf_model *model)
{
    mf_error error = MF_ERROR_INIT;
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    mf_executor *executor = NULL;
    options.n_thread = 2;
    CHECK_LATER(mf_executor_options, options, error,
                (mf_executor_close(executor), executor = NULL, mf_executor_create(&executor, model, &options, &error)));
    mf_executor_close(executor);
    CHECK(mf_executor_create(&executor, model, &options, &error) == MF_OK);
    return executor;
}

static void fill_request(mf_request *request, mf_session *session, const mf_submodel *view, const int32_t *tokens,
                         size_t n_token, float *logits, size_t n_vocab)
{
    const mf_request filled = {
        .session = session,
        .submodel = view,
        .tokens = tokens,
        .n_token = n_token,
        .logits = logits,
        .logits_capacity = n_vocab,
        .status = MF_E_INVALID,
    };
    *request = filled;
}

/* Two requests of different widths in one call, which the library finds by the size of this header's request; alone,
 * each gives the same bits. */
static void forward_two(mf_model *model, mf_executor *executor, const mf_submodel *const views[2])
{
    mf_error error = MF_ERROR_INIT;
    mf_model_info info = MF_MODEL_INFO_INIT;
    int32_t tokens[2][MAX_TOKENS];
    size_t n_token[2];
    static const char *const texts[2] = { "Once upon a time", "The bell" };
    CHECK(mf_model_info_get(model, &info) == MF_OK);
    float *logits = malloc(4 * info.n_vocab * sizeof *logits);
    mf_session *sessions[4];
    mf_request both[2], alone;
    CHECK(logits != NULL);
    for (size_t i = 0; i < 4; i++)
        sessions[i] = create_session(model);
    for (size_t i = 0; i < 2; i++) {
        CHECK(mf_tokenize(model, texts[i], strlen(texts[i]), tokens[i], MAX_TOKENS, &n_token[i]) == MF_OK);
        fill_request(&both[i], sessions[i], views[i], tokens[i], n_token[i], logits + i * info.n_vocab, info.n_vocab);
    }
    CHECK_LATER(mf_request, both[1], error,
                (mf_session_rewind(sessions[0], 0), mf_session_rewind(sessions[1], 0),
                 mf_forward(executor, both, 2, sizeof *both, &error)));
    CHECK(mf_session_rewind(sessions[0], 0) == MF_OK && mf_session_rewind(sessions[1], 0) == MF_OK);
    CHECK(mf_forward(executor, both, 2, sizeof *both, &error) == MF_OK);
    for (size_t i = 0; i < 2; i++) {
        CHECK(both[i].status == MF_OK && both[i].n_token_done == n_token[i] && both[i].elapsed_ns > 0);
        CHECK(mf_session_position(sessions[i]) == n_token[i]);
        float *again = logits + (2 + i) * info.n_vocab;
        fill_request(&alone, sessions[2 + i], views[i], tokens[i], n_token[i], again, info.n_vocab);
        CHECK(mf_forward(executor, &alone, 1, sizeof alone, &error) == MF_OK);
        CHECK(memcmp(logits + i * info.n_vocab, again, info.n_vocab * sizeof *again) == 0);
    }
    CHECK(mf_forward(executor, both, 2, sizeof(void *), &error) == MF_E_STRUCT_SIZE);
    for (size_t i = 0; i < 4; i++)
        mf_session_close(sessions[i]);
    free(logits);
}

static int count_events(void *user, const mf_token_event *event)
{
    *(unsigned *)user += event->text != NULL && event->submodel != NULL;
    return 0;
}

static void generate(mf_model *model, mf_executor *executor, const mf_submodel *view)
{
    mf_error error = MF_ERROR_INIT;
    mf_sampler_options sampler_options = MF_SAMPLER_OPTIONS_INIT;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_sampler *sampler = NULL;
    mf_session *session = create_session(model);
    unsigned n_event = 0;
    sampler_options.temperature = 0.8f;
    sampler_options.seed = 7;
    CHECK_LATER(
        mf_sampler_options, sampler_options, error,
        (mf_sampler_close(sampler), sampler = NULL, mf_sampler_create(&sampler, model, &sampler_options, &error)));
    mf_sampler_close(sampler);
    CHECK(mf_sampler_create(&sampler, model, &sampler_options, &error) == MF_OK);
    options.prompt = "Once upon a time";
    options.max_tokens = N_GENERATED;
    options.ignore_eos = 1;
    options.sampler = sampler;
    CHECK_LATER(mf_generate_options, options, error,
                (mf_session_rewind(session, 0), mf_generate(executor, session, view, &options, NULL, &error)));
    CHECK(mf_session_rewind(session, 0) == MF_OK);
    options.on_token = count_events;
    options.user = &n_event;
    CHECK_FILLED(mf_generate_result, MF_GENERATE_RESULT_INIT,
                 mf_generate(executor, session, view, &options, info, &error));
    CHECK(n_event == N_GENERATED && mf_session_position(session) > N_GENERATED);
    mf_session_close(session);
    mf_sampler_close(sampler);
}

#ifdef MF_GROW_OPTIONS_INIT
static void change_residency(mf_model *model)
{
    mf_error error = MF_ERROR_INIT;
    mf_grow_options grow = MF_GROW_OPTIONS_INIT;
    mf_trim_options trim = MF_TRIM_OPTIONS_INIT;
    CHECK_LATER(mf_trim_options, trim, error, mf_model_trim(model, NULL, &trim, &error));
    CHECK(mf_model_trim(model, NULL, &trim, &error) == MF_OK);
    CHECK_LATER(mf_grow_options, grow, error, mf_model_grow(model, NULL, &grow, &error));
    CHECK(mf_model_grow(model, NULL, &grow, &error) == MF_OK);
    CHECK_FILLED(mf_shell_info, MF_SHELL_INFO_INIT, mf_model_shell_info_get(model, 0, info));
}

static void tokenize(const mf_model *model)
{
    mf_tokenize_options options = MF_TOKENIZE_OPTIONS_INIT;
    size_t n_token;
    CHECK(mf_tokenize_with(model, &options, "a", 1, NULL, 0, &n_token) == MF_E_CAPACITY && n_token == 1);
    CHECK_LATER_STATUS(options, mf_tokenize_with(model, &options, "a", 1, NULL, 0, &n_token));
}

static void govern(const mf_submodel *const views[2])
{
    mf_error error = MF_ERROR_INIT;
    mf_governor_options options = MF_GOVERNOR_OPTIONS_INIT;
    mf_governor_member member = MF_GOVERNOR_MEMBER_INIT;
    mf_governor_signals signals = MF_GOVERNOR_SIGNALS_INIT;
    mf_governor_step step = MF_GOVERNOR_STEP_INIT;
    mf_governor *governor = NULL;
    uint32_t number = 0;
    options.rungs = views;
    options.n_rung = 2;
    CHECK_LATER(mf_governor_options, options, error,
                (mf_governor_close(governor), governor = NULL, mf_governor_create(&governor, &options, &error)));
    mf_governor_close(governor);
    CHECK(mf_governor_create(&governor, &options, &error) == MF_OK);
    CHECK_LATER(mf_governor_member, member, error, mf_governor_join(governor, &member, &number, &error));
    CHECK(mf_governor_join(governor, &member, &number, &error) == MF_OK);
    step.members = &number;
    step.n_member = 1;
    step.elapsed_ns = 1000000;
    CHECK(mf_governor_report(governor, &step) == MF_OK && mf_governor_signal(governor, &signals) == MF_OK);
    CHECK_LATER_STATUS(step, mf_governor_report(governor, &step));
    CHECK_LATER_STATUS(signals, mf_governor_signal(governor, &signals));
    CHECK_FILLED(mf_governor_info, MF_GOVERNOR_INFO_INIT, mf_governor_info_get(governor, info));
    mf_governor_close(governor);
}

/* Of a file that has a plan. */
static void read_plan(const mf_model *model)
{
    mf_plan_info plan = MF_PLAN_INFO_INIT;
    mf_plan_entry entry = MF_PLAN_ENTRY_INIT;
    if (mf_model_plan_info(model, &plan) == MF_E_NOT_FOUND) {
        CHECK(mf_model_plan_entry(model, 0, &entry) == MF_E_NOT_FOUND);
        CHECK_LATER_STATUS(entry, mf_model_plan_entry(model, 0, &entry));
        return;
    }
    CHECK_FILLED(mf_plan_info, MF_PLAN_INFO_INIT, mf_model_plan_info(model, info));
    CHECK_FILLED(mf_plan_entry, MF_PLAN_ENTRY_INIT, mf_model_plan_entry(model, 0, info));
    CHECK_LATER_STATUS(entry, mf_model_plan_entry(model, 0, &entry));
    mf_plan_draft draft = MF_PLAN_DRAFT_INIT;
    const mf_status status = mf_model_plan_draft(model, 1, &draft);
    CHECK(status == MF_OK || status == MF_E_NOT_FOUND);
}
#endif

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    library_is_older = strcmp(argv[2], "older") == 0;
    const uint32_t header = (uint32_t)MF_VERSION_MAJOR << 16 | (uint32_t)MF_VERSION_MINOR << 8 | MF_VERSION_PATCH;
    CHECK(library_is_older ? mf_version() < header : mf_version() >= header);
    mf_model *model = open_model(argv[1]);
    mf_executor *executor = create_executor(model);
    mf_submodel *narrow = extract(model, 0.25), *wide = extract(model, 1);
    const mf_submodel *const views[2] = { narrow, wide };
    forward_two(model, executor, views);
    generate(model, executor, wide);
#ifdef MF_GROW_OPTIONS_INIT
    change_residency(model);
    tokenize(model);
    govern(views);
    read_plan(model);
#endif
    mf_submodel_close(narrow);
    mf_submodel_close(wide);
    mf_executor_close(executor);
    mf_model_close(model);
    printf("%d checks\n", n_check);
    return 0;
}
