/* 05_think_small MODEL [QUESTION] - think small, answer large.
 *
 * A chain of thought is many tokens that nobody reads, and the answer few that count. Here the narrowest view thinks
 * and the widest answers, in one session: the answer attends to the keys and values of the thought, nothing is read or
 * computed twice, and changing the view costs nothing. While the wide view answers, the narrow one writes ahead for it
 * (mf_generate_options.draft): the same answer, several tokens at once. */
#include <matformer.h>
#include <stdio.h>

enum { THOUGHT_TOKENS = 64, ANSWER_TOKENS = 32 };

typedef struct thinker {
    mf_executor *executor;
    mf_session *session;
    mf_submodel *small, *large;
} thinker;

static int print(void *user, const mf_token_event *event)
{
    (void)user;
    fwrite(event->text, 1, event->text_bytes, stdout);
    fflush(stdout);
    return 0;
}

static mf_status open_thinker(thinker *t, mf_model *model, mf_error *error)
{
    uint32_t n = 0;
    while (mf_model_granularity(model, n))
        n++;
    mf_status status = mf_extract_submodel_text(&t->small, model, mf_model_granularity(model, 0), error);
    if (status == MF_OK) status = mf_extract_submodel_text(&t->large, model, mf_model_granularity(model, n - 1), error);
    if (status == MF_OK) status = mf_executor_create(&t->executor, model, NULL, error);
    if (status == MF_OK) status = mf_session_create(&t->session, model, NULL, error);
    return status;
}

static void close_thinker(thinker *t)
{
    mf_session_close(t->session);
    mf_executor_close(t->executor);
    mf_submodel_close(t->large);
    mf_submodel_close(t->small);
}

/* Goes on from what the session holds and `text`, for at most `n` tokens. */
static mf_status write_on(thinker *t, const mf_submodel *view, const char *text, uint32_t n, mf_error *error)
{
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    options.prompt = text;
    options.max_tokens = n;
    options.on_token = print;
    options.draft = view == t->large ? t->small : NULL;
    printf("%s", text);
    mf_status status = mf_generate(t->executor, t->session, view, &options, &result, error);
    printf("\n[%u tokens, %.1f ms; %u of %u drafted were accepted]\n", (unsigned)result.n_generated,
           1e-6 * (double)result.generate_ns, (unsigned)result.n_accepted, (unsigned)result.n_drafted);
    return status;
}

static mf_status run(thinker *t, mf_model *model, const char *question, mf_error *error)
{
    mf_status status = open_thinker(t, model, error);
    if (status == MF_OK) status = write_on(t, t->small, question, THOUGHT_TOKENS, error);
    if (status == MF_OK) status = write_on(t, t->large, "\nSo the answer is", ANSWER_TOKENS, error);
    return status;
}

int main(int argc, char **argv)
{
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    thinker t = { NULL, NULL, NULL, NULL };
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: %s MODEL [QUESTION]\n", argv[0]);
        return 2;
    }
    const char *question = argc == 3 ? argv[2] : "Why did the fox not take the grapes? Let us think about it.";
    mf_status status = mf_model_open(&model, argv[1], NULL, &error);
    if (status == MF_OK) status = run(&t, model, question, &error);
    if (status != MF_OK) fprintf(stderr, "%s\n", error.detail);
    close_thinker(&t);
    mf_model_close(model);
    return status != MF_OK;
}
