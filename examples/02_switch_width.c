/* 02_switch_width MODEL - one session, all widths of the file, one timeline.
 *
 * The text begins with the narrowest view and goes on with the next wider one every few tokens. Nothing is
 * loaded again and nothing is computed twice: a view is an argument of the next token. */
#include <matformer.h>
#include <stdio.h>

enum { TOKENS_PER_WIDTH = 24 };

static int print(void *user, const mf_token_event *event)
{
    (void)user;
    fwrite(event->text, 1, event->text_bytes, stdout);
    fflush(stdout);
    return 0;
}

static mf_status run(mf_model *model, mf_error *error)
{
    mf_executor *executor = NULL;
    mf_session *session = NULL;
    mf_status status = mf_executor_create(&executor, model, NULL, error);
    if (status == MF_OK) status = mf_session_create(&session, model, NULL, error);

    const char *name;
    for (uint32_t i = 0; status == MF_OK && (name = mf_model_granularity(model, i)) != NULL; i++) {
        mf_submodel *view = NULL;
        mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
        mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
        options.prompt = i == 0 ? "Once upon a time there was a king" : NULL; /* then: go on */
        options.max_tokens = TOKENS_PER_WIDTH;
        options.on_token = print;
        status = mf_extract_submodel_text(&view, model, name, error);
        if (status != MF_OK) break;
        mf_submodel_info_get(view, &info);
        printf("\n[%s, %.1f M parameters, from position %u] %s", name, (double)info.n_param / 1e6,
               (unsigned)mf_session_position(session), i == 0 ? options.prompt : "");
        status = mf_generate(executor, session, view, &options, NULL, error);
        mf_submodel_close(view);
    }
    printf("\n");
    mf_session_close(session);
    mf_executor_close(executor);
    return status;
}

int main(int argc, char **argv)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    if (argc != 2) {
        fprintf(stderr, "usage: %s MODEL\n", argv[0]);
        return 2;
    }
    mf_status status = mf_model_open(&model, argv[1], NULL, &error);
    if (status == MF_OK) status = run(model, &error);
    if (status != MF_OK) fprintf(stderr, "%s\n", error.detail);
    mf_model_close(model);
    return status != MF_OK;
}
