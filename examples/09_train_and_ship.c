/* 09_train_and_ship TEXT OUT.mf [STEPS] - from a text to a file that an application ships.
 *
 * Learns a tokenizer, trains a small nested model, writes it, and then does what the application would: opens the file and
 * writes with all of its widths and one that was never trained. A real model takes more text, more steps and hours;
 * `matformer train` does the same with checkpoints and held-out losses (docs/training.md). */
#include <matformer.h>
#include <matformer_train.h>
#include <stdio.h>
#include <stdlib.h>

enum { N_VOCAB = 512, SEQUENCE = 64 };

typedef struct corpus {
    char *text;
    size_t bytes;
    mf_train_blob tokenizer;
    int32_t *tokens;
    size_t n_token;
    int32_t eos;
} corpus;

static mf_status read_corpus(corpus *c, const char *path, mf_error *error)
{
    FILE *file = fopen(path, "rb");
    if (!file) return MF_E_NOT_FOUND;
    enum { MOST = 64 << 20 };
    c->text = malloc(MOST);
    if (c->text) c->bytes = fread(c->text, 1, MOST, file);
    fclose(file);
    c->tokens = malloc((c->bytes + 1) * sizeof *c->tokens); /* a token is at least one byte */
    if (!c->text || !c->tokens) return MF_E_NOMEM;
    mf_status status = mf_train_tokenizer(&c->tokenizer, c->text, c->bytes, N_VOCAB, error);
    if (status != MF_OK) return status;
    return mf_train_tokenize(c->tokenizer.data, c->tokenizer.bytes, c->text, c->bytes, c->tokens, c->bytes, &c->n_token,
                             &c->eos, error);
}

static mf_status train(const corpus *c, const char *path, uint64_t n_step, mf_error *error)
{
    mf_train_model model = MF_TRAIN_MODEL_INIT; /* S, M, L and XL: 1/8, 1/4, 1/2 and all of d_ff */
    mf_trainer_options options = MF_TRAINER_OPTIONS_INIT;
    mf_train_report report = MF_TRAIN_REPORT_INIT;
    mf_train_export_options export = MF_TRAIN_EXPORT_OPTIONS_INIT;
    mf_trainer *trainer = NULL;
    model.n_layer = 2, model.d_model = 128, model.n_head = 4, model.head_group = 4, model.d_ff = 512;
    model.n_vocab = N_VOCAB, model.max_positions = 256;
    model.has_eos = 1, model.eos_token = c->eos;
    options.tokens = (mf_train_tokens){ c->tokens, c->n_token, sizeof(int32_t) };
    options.sequence = SEQUENCE, options.batch = 8;
    options.n_step = n_step, options.warmup = n_step / 10, options.learning_rate = 3e-3;
    export.type = MF_TRAIN_BF16;
    export.tokenizer = c->tokenizer.data, export.tokenizer_bytes = c->tokenizer.bytes;

    mf_status status = mf_trainer_create(&trainer, &model, &options, error);
    while (status == MF_OK && mf_trainer_step_count(trainer) < n_step) {
        status = mf_trainer_step(trainer, &report, error);
        if (status == MF_OK && (report.step % 50 == 0 || report.step == n_step))
            printf("step %4u, loss of S %.3f, of XL %.3f\n", (unsigned)report.step, report.loss[0],
                   report.loss[report.n_granularity - 1]);
    }
    if (status == MF_OK) status = mf_trainer_export(trainer, path, &export, error);
    mf_trainer_close(trainer);
    return status;
}

static int print(void *user, const mf_token_event *event)
{
    (void)user;
    fwrite(event->text, 1, event->text_bytes, stdout);
    return 0;
}

/* What the application does with the file. */
static mf_status use(const char *path, mf_error *error)
{
    static const char *const widths[] = { "S", "M", "L", "XL", "0.75" };
    mf_model *model = NULL;
    mf_status status = mf_model_open(&model, path, NULL, error);
    for (size_t i = 0; status == MF_OK && i < sizeof widths / sizeof *widths; i++) {
        mf_submodel *view = NULL;
        mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
        options.prompt = "The ";
        options.max_tokens = 24;
        options.on_token = print;
        status = mf_extract_submodel_text(&view, model, widths[i], error);
        if (status == MF_OK) printf("[%s] %s", widths[i], options.prompt);
        if (status == MF_OK) status = mf_generate(NULL, NULL, view, &options, NULL, error);
        printf("\n");
        mf_submodel_close(view);
    }
    mf_model_close(model);
    return status;
}

int main(int argc, char **argv)
{
    mf_error error = MF_ERROR_INIT;
    corpus c = { 0 };
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: %s TEXT OUT.mf [STEPS]\n", argv[0]);
        return 2;
    }
    mf_status status = read_corpus(&c, argv[1], &error);
    if (status == MF_OK) status = train(&c, argv[2], argc == 4 ? strtoull(argv[3], NULL, 10) : 200, &error);
    if (status == MF_OK) status = use(argv[2], &error);
    if (status != MF_OK) fprintf(stderr, "%s\n", error.detail[0] ? error.detail : mf_status_text(status));
    mf_train_blob_free(&c.tokenizer);
    free(c.tokens);
    free(c.text);
    return status != MF_OK;
}
