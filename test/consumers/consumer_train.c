/* consumer_train OUT - trains a model of a few thousand weights for two steps with libmatformer-train, and opens it. */
#include <matformer_train.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    enum { N_TOKEN = 512 };
    int32_t tokens[N_TOKEN];
    mf_error error = MF_ERROR_INIT;
    mf_trainer *trainer = NULL;
    mf_model *opened = NULL;
    mf_train_report report = MF_TRAIN_REPORT_INIT;
    mf_train_model model = MF_TRAIN_MODEL_INIT;
    mf_trainer_options options = MF_TRAINER_OPTIONS_INIT;
    if (argc != 2) return 2;
    for (int i = 0; i < N_TOKEN; i++)
        tokens[i] = i % 64;
    model.n_layer = 1, model.d_model = 64, model.n_head = 2, model.head_group = 2;
    model.d_ff = 256, model.n_vocab = 64;
    options.tokens.tokens = tokens;
    options.tokens.n_token = N_TOKEN;
    options.tokens.token_bytes = sizeof(tokens[0]);
    options.n_step = 2;
    options.batch = 2;
    options.sequence = 32;

    mf_status status = mf_trainer_create(&trainer, &model, &options, &error);
    while (status == MF_OK && mf_trainer_step_count(trainer) < options.n_step)
        status = mf_trainer_step(trainer, &report, &error);
    if (status == MF_OK) status = mf_trainer_export(trainer, argv[1], NULL, &error);
    if (status == MF_OK) status = mf_model_open(&opened, argv[1], NULL, &error);
    if (status == MF_OK) printf("%llu steps\n", (unsigned long long)mf_trainer_step_count(trainer));
    if (status != MF_OK) fprintf(stderr, "%s: %s\n", mf_status_name(status), error.detail);
    mf_model_close(opened);
    mf_trainer_close(trainer);
    return status != MF_OK;
}
