/* 07_speculate MODEL [DRAFT] - a narrow view writes ahead, the widest verifies: the same text in fewer of its steps.
 *
 * The draft is a view of the same file on the same session: it takes no memory for weights, nor a cache. The text is
 * written with it and without, and compared token by token; docs/speculation.md says when it also saves time. */
#include <matformer.h>
#include <stdio.h>
#include <string.h>

enum { N_TOKEN = 160 };

typedef struct text {
    int32_t tokens[N_TOKEN];
    size_t n;
} text;

static int keep(void *user, const mf_token_event *event)
{
    text *t = user;
    fwrite(event->text, 1, event->text_bytes, stdout);
    if (t->n < N_TOKEN) t->tokens[t->n++] = event->token;
    return 0;
}

static mf_status write_text(mf_executor *executor, const mf_submodel *view, const mf_submodel *draft, text *out,
                            mf_error *error)
{
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.prompt = "The old king had three daughters";
    options.max_tokens = N_TOKEN;
    options.ignore_eos = 1;
    options.on_token = keep;
    options.user = out;
    options.draft = draft;
    printf("%s", options.prompt);
    mf_status status = mf_generate(executor, NULL, view, &options, &result, error);
    if (status != MF_OK) return status;
    printf("\n[%u tokens, %.0f a second", (unsigned)result.n_generated,
           1e9 * (double)result.n_generated / ((double)result.generate_ns + 1));
    if (draft != NULL)
        printf("; %u drafted, %u accepted, in %u batches", (unsigned)result.n_drafted, (unsigned)result.n_accepted,
               (unsigned)result.n_verify);
    printf("]\n\n");
    return MF_OK;
}

static mf_status run(mf_model *model, const char *draft_text, mf_error *error)
{
    static text alone, together;
    mf_executor *executor = NULL;
    mf_submodel *view = NULL, *draft = NULL;
    mf_status status = mf_executor_create(&executor, model, NULL, error);
    if (status == MF_OK) status = mf_extract_submodel(&view, model, NULL, error); /* the widest */
    if (status == MF_OK) status = mf_extract_submodel_text(&draft, model, draft_text, error);
    if (status == MF_OK) status = write_text(executor, view, NULL, &alone, error);
    if (status == MF_OK) status = write_text(executor, view, draft, &together, error);
    if (status == MF_OK) {
        const int same = alone.n == together.n && !memcmp(alone.tokens, together.tokens, alone.n * sizeof(int32_t));
        printf(same ? "All %zu tokens are the same.\n" : "The texts differ, of %zu tokens: a defect.\n", alone.n);
        if (!same) status = MF_E_INVALID;
    }
    mf_submodel_close(draft);
    mf_submodel_close(view);
    mf_executor_close(executor);
    return status;
}

int main(int argc, char **argv)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: %s MODEL [DRAFT]\n", argv[0]);
        return 2;
    }
    mf_status status = mf_model_open(&model, argv[1], NULL, &error);
    if (status == MF_OK) status = run(model, argc == 3 ? argv[2] : mf_model_granularity(model, 0), &error);
    if (status != MF_OK) fprintf(stderr, "%s\n", error.detail);
    mf_model_close(model);
    return status != MF_OK;
}
