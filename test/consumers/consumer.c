/* consumer MODEL - a program of someone else's: what two sizes of a model write. consumer.cc does the same in C++. */
#include <matformer.h>
#include <stdio.h>

static int print(void *user, const mf_token_event *event)
{
    (void)user;
    fwrite(event->text, 1, event->text_bytes, stdout);
    return 0;
}

int main(int argc, char **argv)
{
    static const char *const sizes[] = { "S", "XL" };
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.prompt = "Once upon a time";
    options.max_tokens = 24;
    options.on_token = print;

    mf_status status = argc == 2 ? mf_model_open(&model, argv[1], NULL, &error) : MF_E_INVALID;
    for (size_t i = 0; i < 2 && status == MF_OK; i++) {
        mf_submodel *view = NULL;
        printf("%s: ", sizes[i]);
        status = mf_extract_submodel_text(&view, model, sizes[i], &error);
        if (status == MF_OK) status = mf_generate(NULL, NULL, view, &options, NULL, &error);
        mf_submodel_close(view);
        printf("\n");
    }
    if (status != MF_OK) fprintf(stderr, "%s: %s\n", mf_status_name(status), error.detail);
    mf_model_close(model);
    return status != MF_OK;
}
