/* test_arguments.c - NULL for each pointer of each public function, in turn: MF_E_INVALID, or what the header says. */
#define _GNU_SOURCE
#include <criterion/criterion.h>

#include "container_fixture.h"
#include "matlm_fixture.h"

enum { N_VOCAB = 263 };

typedef struct fixture {
    char *path;
    unsigned char *data; /* the file's */
    size_t bytes;
    mf_model *model;
    mf_submodel *view;
    mf_executor *executor;
    mf_session *session;
    mf_sampler *sampler;
} fixture;

static fixture open_fixture(void)
{
    const fixture_variant variant = { .tied = true, .type = MFK_F32, .storage = MFI_RAW };
    const mf_allocator allocator = mfi_allocator(NULL);
    fixture f = { .path = fixture_path() };
    cr_assert_eq(fixture_save(&variant, &allocator, f.path, NULL), MF_OK);
    f.data = fixture_read(f.path, &f.bytes);
    cr_assert_eq(mf_model_open(&f.model, f.path, NULL, NULL), MF_OK);
    cr_assert_eq(mf_extract_submodel(&f.view, f.model, NULL, NULL), MF_OK);
    cr_assert_eq(mf_executor_create(&f.executor, f.model, NULL, NULL), MF_OK);
    cr_assert_eq(mf_session_create(&f.session, f.model, NULL, NULL), MF_OK);
    cr_assert_eq(mf_sampler_create(&f.sampler, f.model, NULL, NULL), MF_OK);
    return f;
}

static void close_fixture(fixture *f)
{
    mf_sampler_close(f->sampler);
    mf_session_close(f->session);
    mf_executor_close(f->executor);
    mf_submodel_close(f->view);
    mf_model_close(f->model);
    free(f->data);
    fixture_remove(f->path);
}

#define REFUSED(call) cr_assert((call) == MF_E_INVALID, "%s", #call)
/* A constructor that leaves NULL behind. */
#define REFUSED_OUT(out, call)               \
    do {                                     \
        *(out) = (void *)f.path;             \
        REFUSED(call);                       \
        cr_assert_null(*(out), "%s", #call); \
    } while (0)

Test(arguments, a_constructor_refuses_null)
{
    fixture f = open_fixture();
    int fd = open(f.path, O_RDONLY);
    mf_model *model;
    mf_submodel *view;
    mf_executor *executor;
    mf_session *session;
    mf_sampler *sampler;
    REFUSED(mf_model_open(NULL, f.path, NULL, NULL));
    REFUSED(mf_model_open_fd(NULL, fd, 0, 0, NULL, NULL));
    REFUSED(mf_model_open_memory(NULL, f.data, f.bytes, NULL, NULL));
    REFUSED(mf_extract_submodel(NULL, f.model, NULL, NULL));
    REFUSED(mf_extract_submodel_text(NULL, f.model, "S", NULL));
    REFUSED(mf_executor_create(NULL, f.model, NULL, NULL));
    REFUSED(mf_session_create(NULL, f.model, NULL, NULL));
    REFUSED(mf_session_fork(NULL, f.session, NULL));
    REFUSED(mf_sampler_create(NULL, f.model, NULL, NULL));
    REFUSED_OUT(&model, mf_model_open(&model, NULL, NULL, NULL));
    REFUSED_OUT(&model, mf_model_open_memory(&model, NULL, f.bytes, NULL, NULL));
    REFUSED_OUT(&view, mf_extract_submodel(&view, NULL, NULL, NULL));
    REFUSED_OUT(&view, mf_extract_submodel_text(&view, NULL, "S", NULL));
    REFUSED_OUT(&view, mf_extract_submodel_text(&view, f.model, NULL, NULL));
    REFUSED_OUT(&executor, mf_executor_create(&executor, NULL, NULL, NULL));
    REFUSED_OUT(&session, mf_session_create(&session, NULL, NULL, NULL));
    REFUSED_OUT(&session, mf_session_fork(&session, NULL, NULL));
    REFUSED_OUT(&sampler, mf_sampler_create(&sampler, NULL, NULL, NULL));
    close(fd);
    close_fixture(&f);
}

Test(arguments, an_array_that_is_null_has_no_elements)
{
    fixture f = open_fixture();
    mf_submodel *view;
    mf_executor *executor;
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    const mf_submodel_spec none = MF_SUBMODEL_SPEC_INIT;
    mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
    spec.n_ffn = 3;
    REFUSED_OUT(&view, mf_extract_submodel(&view, f.model, &spec, NULL));
    spec = none, spec.n_heads = 3;
    REFUSED_OUT(&view, mf_extract_submodel(&view, f.model, &spec, NULL));
    spec = none, spec.n_skip = 1;
    REFUSED_OUT(&view, mf_extract_submodel(&view, f.model, &spec, NULL));
    options.n_cpu = 1;
    REFUSED_OUT(&executor, mf_executor_create(&executor, f.model, &options, NULL));
    close_fixture(&f);
}

Test(arguments, functions_of_a_model_and_a_view_refuse_null)
{
    fixture f = open_fixture();
    mf_model_info model = MF_MODEL_INFO_INIT;
    mf_submodel_info view = MF_SUBMODEL_INFO_INIT;
    char text[64];
    size_t bytes = 0;
    uint32_t width;
    int kept;
    REFUSED(mf_model_info_get(NULL, &model));
    REFUSED(mf_model_info_get(f.model, NULL));
    cr_assert_null(mf_model_granularity(NULL, 0));
    cr_assert_null(mf_model_metadata(NULL, "title", 0));
    cr_assert_null(mf_model_metadata(NULL, NULL, 0));
    cr_assert_not_null(mf_model_metadata(f.model, NULL, 0));
    REFUSED(mf_submodel_info_get(NULL, &view));
    REFUSED(mf_submodel_info_get(f.view, NULL));
    REFUSED(mf_submodel_layer(NULL, 0, &width, &width, &kept));
    cr_assert_eq(mf_submodel_layer(f.view, 0, NULL, NULL, NULL), MF_OK);
    REFUSED(mf_submodel_text(NULL, text, sizeof text, &bytes));
    REFUSED(mf_submodel_text(f.view, NULL, sizeof text, &bytes));
    cr_assert_eq(mf_submodel_text(f.view, text, sizeof text, NULL), MF_OK);
    cr_assert(mf_submodel_text(f.view, NULL, 0, &bytes) == MF_E_CAPACITY && bytes == strlen(text) + 1);
    close_fixture(&f);
}

Test(arguments, functions_of_a_session_refuse_null)
{
    fixture f = open_fixture();
    const int32_t token = 1;
    float *logits = malloc(N_VOCAB * sizeof(float));
    const mf_request whole = { .session = f.session, .submodel = f.view, .tokens = &token, .n_token = 1 };
    mf_request request = whole;
    cr_assert_eq(mf_session_position(NULL), 0);
    cr_assert_null(mf_session_tokens(NULL));
    REFUSED(mf_session_rewind(NULL, 0));
    REFUSED(mf_session_save(NULL, f.path, NULL));
    REFUSED(mf_session_save(f.session, NULL, NULL));
    REFUSED(mf_session_load(NULL, f.path, NULL));
    REFUSED(mf_session_load(f.session, NULL, NULL));
    mf_session_cancel(NULL);

    REFUSED(mf_forward(NULL, &request, 1, sizeof request, NULL));
    REFUSED(mf_forward(f.executor, NULL, 1, sizeof request, NULL));
    request.session = NULL;
    REFUSED(mf_forward(f.executor, &request, 1, sizeof request, NULL));
    request = whole, request.submodel = NULL;
    REFUSED(mf_forward(f.executor, &request, 1, sizeof request, NULL));
    request = whole, request.tokens = NULL;
    REFUSED(mf_forward(f.executor, &request, 1, sizeof request, NULL));
    REFUSED(request.status);
    cr_assert_eq(mf_session_position(f.session), 0);
    request = whole, request.logits = logits, request.logits_capacity = N_VOCAB;
    cr_assert_eq(mf_forward(f.executor, &request, 1, sizeof request, NULL), MF_OK);

    mf_token_logprob chosen, top[2];
    REFUSED(mf_sampler_sample(NULL, &token, 1, logits, &chosen, top, 2));
    REFUSED(mf_sampler_sample(f.sampler, NULL, 1, logits, &chosen, top, 2));
    REFUSED(mf_sampler_sample(f.sampler, &token, 1, NULL, &chosen, top, 2));
    cr_assert_eq(mf_sampler_sample(f.sampler, NULL, 0, logits, NULL, top, 2), MF_OK);
    cr_assert_eq(mf_sampler_sample(f.sampler, &token, 1, logits, &chosen, NULL, 2), MF_OK);
    free(logits);
    close_fixture(&f);
}

Test(arguments, the_tokenizer_refuses_null)
{
    fixture f = open_fixture();
    int32_t tokens[8];
    char text[8];
    size_t count = 9;
    REFUSED(mf_tokenize(NULL, "the", 3, tokens, 8, &count));
    REFUSED(mf_tokenize(f.model, NULL, 3, tokens, 8, &count));
    REFUSED(mf_tokenize(f.model, "the", 3, NULL, 8, &count));
    REFUSED(mf_tokenize(f.model, "the", 3, tokens, 8, NULL));
    cr_assert(mf_tokenize(f.model, "the", 3, NULL, 0, &count) == MF_E_CAPACITY && count == 1);
    cr_assert(mf_tokenize(f.model, NULL, 0, NULL, 0, &count) == MF_OK && count == 0);
    cr_assert(mf_tokenize(f.model, "the", 3, tokens, 8, &count) == MF_OK && count == 1);
    REFUSED(mf_detokenize(NULL, tokens, 1, text, 8, &count));
    REFUSED(mf_detokenize(f.model, NULL, 1, text, 8, &count));
    REFUSED(mf_detokenize(f.model, tokens, 1, NULL, 8, &count));
    REFUSED(mf_detokenize(f.model, tokens, 1, text, 8, NULL));
    cr_assert(mf_detokenize(f.model, tokens, 1, NULL, 0, &count) == MF_E_CAPACITY && count == 3);
    cr_assert(mf_detokenize(f.model, NULL, 0, NULL, 0, &count) == MF_OK && count == 0);
    close_fixture(&f);
}

Test(arguments, generation_refuses_null)
{
    fixture f = open_fixture();
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    const char *const stop[] = { NULL };
    options.prompt = "the";
    REFUSED(mf_generate(f.executor, f.session, NULL, &options, &result, NULL));
    options.n_stop = 1;
    REFUSED(mf_generate(f.executor, f.session, f.view, &options, &result, NULL));
    options.stop = stop;
    REFUSED(mf_generate(f.executor, f.session, f.view, &options, &result, NULL));
    options.n_stop = 0, options.n_schedule = 1;
    REFUSED(mf_generate(f.executor, f.session, f.view, &options, &result, NULL));
    options.n_schedule = 0, result.schedule_capacity = 1;
    REFUSED(mf_generate(f.executor, f.session, f.view, &options, &result, NULL));
    options.prompt = NULL, options.n_token = 1;
    REFUSED(mf_generate(f.executor, f.session, f.view, &options, NULL, NULL));
    cr_assert_eq(mf_session_position(f.session), 0);
    cr_assert_eq(mf_generate(NULL, NULL, f.view, NULL, NULL, NULL), MF_OK);
    close_fixture(&f);
}

static int on_token(void *user, const mf_token_event *event)
{
    (void)user, (void)event;
    return 0;
}

Test(arguments, generation_by_asking_refuses_null_and_callbacks)
{
    fixture f = open_fixture();
    mf_error error = MF_ERROR_INIT;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    mf_generation *generation = (mf_generation *)&f;
    mf_token_batch batch = MF_TOKEN_BATCH_INIT, too_small = { .struct_size = 4 };
    options.prompt = "the";
    options.max_tokens = 2;
    REFUSED(mf_generation_create(NULL, f.executor, f.session, f.view, &options, &result, NULL));
    REFUSED(mf_generation_create(&generation, f.executor, f.session, NULL, &options, &result, NULL));
    cr_assert(generation == NULL);
    options.on_token = on_token;
    REFUSED(mf_generation_create(&generation, f.executor, f.session, f.view, &options, &result, &error));
    cr_assert(generation == NULL && strstr(error.detail, "on_token") != NULL);
    options.on_token = NULL;
    REFUSED(mf_generation_next(NULL, 0, &batch, NULL));
    mf_generation_close(NULL);

    /* Nothing runs before it is asked for, the result is written when it ends, and then nothing comes any more. */
    cr_assert_eq(mf_generation_create(&generation, f.executor, f.session, f.view, &options, &result, NULL), MF_OK);
    REFUSED(mf_generation_next(generation, 0, NULL, NULL));
    cr_assert_eq(mf_generation_next(generation, 0, &too_small, NULL), MF_E_STRUCT_SIZE);
    cr_assert(mf_session_position(f.session) == 0 && result.n_prompt == 0);
    for (int i = 0; i < 2; i++)
        cr_assert(mf_generation_next(generation, 0, &batch, NULL) == MF_OK && batch.n_event == 1);
    cr_assert(result.finish == MF_FINISH_LENGTH && result.n_generated == 2 && result.prompt_ns > 0 &&
              result.generate_ns > 0);
    cr_assert(mf_generation_next(generation, 0, &batch, NULL) == MF_OK && batch.n_event == 0);
    mf_generation_close(generation);
    cr_assert_eq(mf_session_rewind(f.session, 0), MF_OK);
    cr_assert_eq(mf_generation_create(&generation, f.executor, f.session, f.view, &options, &result, NULL), MF_OK);
    mf_generation_close(generation);
    cr_assert(result.finish == MF_FINISH_CALLBACK && mf_session_position(f.session) == 0);
    close_fixture(&f);
}

Test(arguments, closing_null_does_nothing)
{
    mf_sampler_close(NULL);
    mf_session_close(NULL);
    mf_executor_close(NULL);
    mf_submodel_close(NULL);
    mf_model_close(NULL);
}
