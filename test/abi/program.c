/* program.c - a program that was compiled against some release's header. What it prints depends on the model alone: the
 * same with the library of an older or a newer release. Usage: program MODEL.mf */
#include <matformer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call)                                                                        \
    do {                                                                                   \
        const mf_status status_ = (call);                                                  \
        if (status_ != MF_OK) {                                                            \
            fprintf(stderr, "%s: %s: %s\n", #call, mf_status_name(status_), error.detail); \
            exit(1);                                                                       \
        }                                                                                  \
    } while (0)

static mf_error error = MF_ERROR_INIT;

static int show(void *user, const mf_token_event *event)
{
    (void)user;
    printf("%d:%u:%.*s|", (int)event->token, event->position, (int)event->text_bytes, event->text);
    return 0;
}

static void describe(const mf_model *model, const mf_submodel *view)
{
    /* What a later library does not know to be ours must stay as it is. */
    struct {
        mf_model_info info;
        unsigned char after[64];
    } guarded = { .info = MF_MODEL_INFO_INIT };
    mf_submodel_info of_view = MF_SUBMODEL_INFO_INIT;
    mf_shell_info shell = MF_SHELL_INFO_INIT;
    mf_plan_info plan = MF_PLAN_INFO_INIT;
    memset(guarded.after, 0xa5, sizeof guarded.after);
    CHECK(mf_model_info_get(model, &guarded.info));
    for (size_t i = 0; i < sizeof guarded.after; i++)
        if (guarded.after[i] != 0xa5) exit(1);
    printf("%s %u %u %u %u\n", guarded.info.family, guarded.info.n_layer, guarded.info.d_ff, guarded.info.n_vocab,
           guarded.info.n_token);
    CHECK(mf_submodel_info_get(view, &of_view));
    printf("%llu %llu\n", (unsigned long long)of_view.n_param, (unsigned long long)of_view.bytes_per_token);
    CHECK(mf_model_shell_info_get(model, 1, &shell));
    printf("%llu %d\n", (unsigned long long)shell.stored_bytes, (int)shell.resident);
    CHECK(mf_model_plan_info(model, &plan));
    printf("%u\n", (unsigned)plan.n_entry);
}

/* Two sessions in one call, at two widths: the second request is found by the size that this program has. */
static void forward(mf_model *model, const mf_submodel *const views[2])
{
    static const int32_t tokens[] = { 7, 11, 13, 17, 19 };
    mf_session_options options = MF_SESSION_OPTIONS_INIT;
    mf_executor *executor = NULL;
    mf_executor_options how = MF_EXECUTOR_OPTIONS_INIT;
    mf_request requests[2];
    mf_model_info info = MF_MODEL_INFO_INIT;
    CHECK(mf_model_info_get(model, &info));
    how.n_thread = 1;
    options.cache_type = MF_CACHE_BF16;
    CHECK(mf_executor_create(&executor, model, &how, &error));
    memset(requests, 0, sizeof requests);
    for (int i = 0; i < 2; i++) {
        CHECK(mf_session_create(&requests[i].session, model, &options, &error));
        requests[i].submodel = views[i];
        requests[i].tokens = tokens + i;
        requests[i].n_token = 4 - (size_t)i;
        requests[i].logits = calloc(info.n_vocab, sizeof(float));
        requests[i].logits_capacity = info.n_vocab;
    }
    CHECK(mf_forward(executor, requests, 2, sizeof requests[0], &error));
    for (int i = 0; i < 2; i++) {
        printf("%u", requests[i].n_token_done);
        for (uint32_t v = 0; v < info.n_vocab; v += 97)
            printf(" %a", (double)requests[i].logits[v]);
        printf("\n");
        free(requests[i].logits);
        mf_session_close(requests[i].session);
    }
    mf_executor_close(executor);
}

#ifdef GROWN_FIELDS
/* A setting that the library does not know is never ignored; unset, it is not there. */
#define REFUSED(call, name)                                                                \
    do {                                                                                   \
        const mf_status status_ = (call);                                                  \
        if (status_ != MF_E_STRUCT_SIZE || !strstr(error.detail, name)) {                  \
            fprintf(stderr, "%s: %s: %s\n", #call, mf_status_name(status_), error.detail); \
            exit(1);                                                                       \
        }                                                                                  \
        printf("%s\n", error.detail);                                                      \
    } while (0)

static void refused(const char *path, mf_model *model, mf_submodel *view)
{
    mf_model *other = NULL;
    mf_submodel *other_view = NULL;
    mf_session *session = NULL;
    mf_executor *executor = NULL;
    mf_sampler *sampler = NULL;
    mf_model_options open = MF_MODEL_OPTIONS_INIT;
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    mf_session_options session_options = MF_SESSION_OPTIONS_INIT;
    mf_executor_options executor_options = MF_EXECUTOR_OPTIONS_INIT;
    mf_sampler_options sampler_options = MF_SAMPLER_OPTIONS_INIT;
    mf_generate_options generate = MF_GENERATE_OPTIONS_INIT;
    mf_grow_options grow = MF_GROW_OPTIONS_INIT;
    mf_trim_options trim = MF_TRIM_OPTIONS_INIT;
    open.later_number = spec.later_number = session_options.later_number = executor_options.later_number = 1;
    sampler_options.later_flags = grow.later_flags = trim.later_flags = 1;
    generate.later_pointer = path;
    REFUSED(mf_model_open(&other, path, &open, &error), "mf_model_options");
    REFUSED(mf_extract_submodel(&other_view, model, &spec, &error), "mf_submodel_spec");
    REFUSED(mf_session_create(&session, model, &session_options, &error), "mf_session_options");
    REFUSED(mf_executor_create(&executor, model, &executor_options, &error), "mf_executor_options");
    REFUSED(mf_sampler_create(&sampler, model, &sampler_options, &error), "mf_sampler_options");
    REFUSED(mf_generate(NULL, NULL, view, &generate, NULL, &error), "mf_generate_options");
    REFUSED(mf_model_grow(model, NULL, &grow, &error), "mf_grow_options");
    REFUSED(mf_model_trim(model, NULL, &trim, &error), "mf_trim_options");

    mf_request requests[2];
    memset(requests, 0, sizeof requests);
    const int32_t token = 3;
    CHECK(mf_executor_create(&executor, model, NULL, &error));
    for (int i = 0; i < 2; i++) {
        CHECK(mf_session_create(&requests[i].session, model, NULL, &error));
        requests[i].submodel = view;
        requests[i].tokens = &token;
        requests[i].n_token = 1;
        requests[i].later_number = (uint64_t)i;
    }
    REFUSED(mf_forward(executor, requests, 2, sizeof requests[0], &error), "request 1");
    for (int i = 0; i < 2; i++)
        mf_session_close(requests[i].session);
    mf_executor_close(executor);
}
#endif

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    mf_model *model = NULL;
    mf_submodel *views[2] = { NULL, NULL };
    mf_submodel_spec spec = MF_SUBMODEL_SPEC_INIT;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    mf_sampler_options sampling = MF_SAMPLER_OPTIONS_INIT;
    mf_model_options open = MF_MODEL_OPTIONS_INIT;
    mf_grow_options grow = MF_GROW_OPTIONS_INIT;
    mf_trim_options trim = MF_TRIM_OPTIONS_INIT;
    open.load = MF_LOAD_COPY;
    CHECK(mf_model_open(&model, argv[1], &open, &error));
    spec.granularity = "S";
    CHECK(mf_extract_submodel(&views[0], model, &spec, &error));
    CHECK(mf_extract_submodel_text(&views[1], model, "0.5", &error));
    describe(model, views[0]);
    forward(model, (const mf_submodel *const *)views);
    CHECK(mf_sampler_create(&options.sampler, model, &sampling, &error));
    options.prompt = "Once upon a time";
    options.max_tokens = 12;
    options.on_token = show;
    CHECK(mf_generate(NULL, NULL, views[1], &options, &result, &error));
    printf("\n%u %u %d\n", result.n_prompt, result.n_generated, (int)result.finish);
    CHECK(mf_model_trim(model, "M", &trim, &error));
    CHECK(mf_model_grow(model, NULL, &grow, &error));
#ifdef GROWN_FIELDS
    refused(argv[1], model, views[0]);
#endif
    mf_sampler_close(options.sampler);
    mf_submodel_close(views[0]);
    mf_submodel_close(views[1]);
    mf_model_close(model);
    return 0;
}
