/* 01_load_and_run MODEL [VIEW] [PROMPT] - opens a model, takes a view of it, and lets it write. */
#include <matformer.h>
#include <stdio.h>

static int print(void *user, const mf_token_event *event)
{
    (void)user;
    fwrite(event->text, 1, event->text_bytes, stdout);
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    mf_submodel *view = NULL;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    if (argc < 2) {
        fprintf(stderr, "usage: %s MODEL [VIEW] [PROMPT]\n", argv[0]);
        return 2;
    }
    options.prompt = argc > 3 ? argv[3] : "Once upon a time";
    options.max_tokens = 64;
    options.on_token = print;

    if (mf_model_open(&model, argv[1], NULL, &error) == MF_OK &&
        mf_extract_submodel_text(&view, model, argc > 2 ? argv[2] : "1", &error) == MF_OK) {
        printf("%s", options.prompt);
        mf_generate(NULL, NULL, view, &options, NULL, &error);
        printf("\n");
    }

    if (error.status != MF_OK) fprintf(stderr, "%s\n", error.detail);
    mf_submodel_close(view);
    mf_model_close(model);
    return error.status != MF_OK;
}
