/* write_logits MODEL TOKENS OUT "FROM:SIZE" ... - the logits of every position of one timeline, as f32, for scripts that
 * compute with them. TOKENS is a file of int32; from position FROM on (ascending) SIZE runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "matformer.h"

enum { MAX_TOKEN = 4096, MAX_STEP = 8 };

typedef struct schedule {
    uint32_t from[MAX_STEP + 1];
    mf_submodel *views[MAX_STEP];
    size_t n;
} schedule;

static mf_status read_schedule(schedule *s, mf_model *model, char **texts, int n, mf_error *error)
{
    mf_status status = MF_OK;
    for (int i = 0; i < n && i < MAX_STEP && status == MF_OK; i++) {
        char *size = strchr(texts[i], ':');
        if (size == NULL) return MF_E_INVALID;
        s->from[i] = (uint32_t)strtoul(texts[i], NULL, 10);
        status = mf_extract_submodel_text(&s->views[i], model, size + 1, error);
        s->n++;
    }
    return status;
}

static mf_status run(const schedule *s, mf_model *model, const int32_t *tokens, size_t n_token, float *logits,
                     mf_error *error)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_executor *executor = NULL;
    mf_session *session = NULL;
    mf_session_options options = MF_SESSION_OPTIONS_INIT;
    options.max_positions = (uint32_t)n_token;
    mf_status status = mf_model_info_get(model, &info);
    if (status == MF_OK) status = mf_executor_create(&executor, model, NULL, error);
    if (status == MF_OK) status = mf_session_create(&session, model, &options, error);
    for (size_t i = 0; i < s->n && status == MF_OK; i++) {
        size_t from = s->from[i], to = i + 1 < s->n ? s->from[i + 1] : n_token;
        mf_request request = { .session = session,
                               .submodel = s->views[i],
                               .tokens = tokens + from,
                               .n_token = to - from,
                               .logits_of = MF_LOGITS_ALL,
                               .logits = logits + from * info.n_vocab,
                               .logits_capacity = (to - from) * info.n_vocab };
        status = mf_forward(executor, &request, 1, sizeof request, error);
    }
    mf_session_close(session);
    mf_executor_close(executor);
    return status;
}

static int write_out(const char *path, const float *logits, size_t n)
{
    FILE *out = fopen(path, "wb");
    if (out == NULL) return 1;
    size_t written = fwrite(logits, sizeof *logits, n, out);
    return fclose(out) != 0 || written != n;
}

int main(int argc, char **argv)
{
    static int32_t tokens[MAX_TOKEN];
    mf_error error = MF_ERROR_INIT;
    mf_model *model = NULL;
    mf_model_info info = MF_MODEL_INFO_INIT;
    schedule s = { .n = 0 };
    if (argc < 5) return 2;
    FILE *in = fopen(argv[2], "rb");
    if (in == NULL) return 2;
    size_t n_token = fread(tokens, sizeof *tokens, MAX_TOKEN, in);
    fclose(in);
    mf_status status = mf_model_open(&model, argv[1], NULL, &error);
    if (status == MF_OK) status = mf_model_info_get(model, &info);
    if (status == MF_OK) status = read_schedule(&s, model, argv + 4, argc - 4, &error);
    float *logits = malloc((n_token * info.n_vocab + 1) * sizeof *logits);
    if (logits == NULL) status = MF_E_NOMEM;
    if (status == MF_OK) status = run(&s, model, tokens, n_token, logits, &error);
    int failed = status != MF_OK || write_out(argv[3], logits, n_token * info.n_vocab);
    if (failed) fprintf(stderr, "%s: %s\n", mf_status_name(status), error.detail);
    for (size_t i = 0; i < s.n; i++)
        mf_submodel_close(s.views[i]);
    mf_model_close(model);
    free(logits);
    return failed;
}
