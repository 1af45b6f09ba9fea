/* 03_batch_of_widths MODEL - several timelines, each with a width of its own, in one batch.
 *
 * One mf_forward() moves all of them on by a token. What does not depend on the width is computed once for
 * all rows, and each part of the weights is read once, for the rows whose view reaches it. */
#include <matformer.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_LINES = 8, N_TOKEN = 32 };

typedef struct line { /* one timeline */
    mf_session *session;
    mf_submodel *view;
    float *logits; /* [n_vocab] */
    int32_t tokens[256];
    size_t n_prompt;
} line;

static const char prompt[] = "In the middle of the forest there stood";

static int32_t most_likely(const float *logits, uint32_t n)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return (int32_t)best;
}

static mf_status open_line(line *l, mf_model *model, const char *width, uint32_t n_vocab, mf_error *error)
{
    l->logits = malloc(n_vocab * sizeof *l->logits);
    if (l->logits == NULL) return MF_E_NOMEM;
    mf_status status = mf_extract_submodel_text(&l->view, model, width, error);
    if (status == MF_OK) status = mf_session_create(&l->session, model, NULL, error);
    if (status == MF_OK) status = mf_tokenize(model, prompt, sizeof prompt - 1, l->tokens, 128, &l->n_prompt);
    return status;
}

/* Appends to every line: first the prompt, then a token at a time. */
static mf_status step(mf_executor *executor, line *lines, size_t n_line, size_t n_done, uint32_t n_vocab,
                      mf_error *error)
{
    mf_request requests[MAX_LINES] = { { 0 } };
    for (size_t i = 0; i < n_line; i++) {
        requests[i].session = lines[i].session;
        requests[i].submodel = lines[i].view;
        requests[i].tokens = n_done == 0 ? lines[i].tokens : &lines[i].tokens[lines[i].n_prompt + n_done - 1];
        requests[i].n_token = n_done == 0 ? lines[i].n_prompt : 1;
        requests[i].logits = lines[i].logits;
        requests[i].logits_capacity = n_vocab;
    }
    mf_status status = mf_forward(executor, requests, n_line, sizeof *requests, error);
    for (size_t i = 0; status == MF_OK && i < n_line; i++)
        lines[i].tokens[lines[i].n_prompt + n_done] = most_likely(lines[i].logits, n_vocab);
    return status;
}

static void print_line(mf_model *model, const char *width, const line *l)
{
    static char text[1 << 16];
    size_t n_bytes = 0;
    if (mf_detokenize(model, l->tokens, l->n_prompt + N_TOKEN, text, sizeof text, &n_bytes) == MF_OK)
        printf("[%s] %.*s\n", width, (int)n_bytes, text);
}

static mf_status run(mf_model *model, mf_error *error)
{
    line lines[MAX_LINES] = { { 0 } };
    mf_executor *executor = NULL;
    mf_model_info info = MF_MODEL_INFO_INIT;
    size_t n_line = 0;
    mf_status status = mf_model_info_get(model, &info);
    if (status == MF_OK) status = mf_executor_create(&executor, model, NULL, error);
    for (; status == MF_OK && n_line < MAX_LINES && n_line < info.n_granularity; n_line++)
        status = open_line(&lines[n_line], model, mf_model_granularity(model, (uint32_t)n_line), info.n_vocab, error);
    for (size_t done = 0; status == MF_OK && done < N_TOKEN; done++)
        status = step(executor, lines, n_line, done, info.n_vocab, error);
    for (size_t i = 0; i < n_line; i++) {
        if (status == MF_OK) print_line(model, mf_model_granularity(model, (uint32_t)i), &lines[i]);
        mf_session_close(lines[i].session);
        mf_submodel_close(lines[i].view);
        free(lines[i].logits);
    }
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
    if (status != MF_OK) fprintf(stderr, "%s\n", error.detail[0] ? error.detail : mf_status_text(status));
    mf_model_close(model);
    return status != MF_OK;
}
