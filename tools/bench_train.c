/* bench_train.c - training steps against the multiply-add peak of this machine, and what a joint step costs. */
#include <string.h>

#include "bench.h"
#include "matformer_train.h"

enum { N_TOKEN = 20000, MAX_STEPS = 100, SEQUENCE = 256 };

typedef struct subject {
    const char *what;
    mf_train_model model;
    uint32_t batch;
    bool joint; /* joint steps too */
} subject;

/* GPT-2's small model at 1024 tokens a step, and a model for processors, of the family that is shipped. */
static const subject subjects[] = {
    { .what = "GPT-2 124M, the widest alone",
      .model = { .struct_size = sizeof(mf_train_model),
                 .n_layer = 12,
                 .d_model = 768,
                 .n_head = 12,
                 .d_ff = 3072,
                 .n_vocab = 50257,
                 .norm = MF_TRAIN_NORM_LAYER,
                 .ffn = MF_TRAIN_FFN_PLAIN,
                 .activation = MF_TRAIN_GELU_TANH },
      .batch = 4 },
    { .what = "multi-query, 8 layers of 256",
      .model = { .struct_size = sizeof(mf_train_model),
                 .n_layer = 8,
                 .d_model = 256,
                 .n_head = 8,
                 .head_group = 8,
                 .d_ff = 1024,
                 .n_vocab = 2048 },
      .batch = 16,
      .joint = true },
};

static mf_status create(mf_trainer **out, const bench *b, const subject *s, mf_objective objective, int32_t *tokens,
                        mf_error *error)
{
    for (uint32_t i = 0; i < N_TOKEN; i++)
        tokens[i] = (int32_t)(i * 2654435761u % s->model.n_vocab);
    mf_trainer_options options = MF_TRAINER_OPTIONS_INIT;
    options.n_thread = b->n_thread;
    options.batch = s->batch;
    options.sequence = SEQUENCE;
    options.objective = objective;
    options.granularity = 3;
    options.tokens = (mf_train_tokens){ tokens, N_TOKEN, sizeof(*tokens) };
    return mf_trainer_create(out, &s->model, &options, error);
}

static mf_status time_step(mf_trainer *trainer, double *seconds, mf_error *error)
{
    mf_train_report report = MF_TRAIN_REPORT_INIT;
    mf_status status = mf_trainer_step(trainer, &report, error);
    *seconds = 1e-9 * (double)report.elapsed_ns;
    return status;
}

typedef struct times {
    double alone[MAX_STEPS], joint[MAX_STEPS], peak[MAX_STEPS];
} times;

/* One step of each first, which touches the memory. */
static mf_status measure(const bench *b, const subject *s, bench_roof *roof, mf_trainer *alone, mf_trainer *joint,
                         times *t, mf_error *error)
{
    mf_status status = time_step(alone, &t->alone[0], error);
    if (status == MF_OK && joint) status = time_step(joint, &t->joint[0], error);
    for (uint32_t r = 0; r < b->rounds && status == MF_OK; r++) {
        cli_progress(s->what, r, b->rounds);
        t->peak[r] = bench_roof_fma(roof);
        status = time_step(alone, &t->alone[r], error);
        if (status == MF_OK && joint) status = time_step(joint, &t->joint[r], error);
    }
    cli_progress_end();
    return status;
}

static void report(const bench *b, const subject *s, mf_trainer *trainer, times *t, cli_table *table, json_t *list)
{
    mf_trainer_info info = MF_TRAINER_INFO_INIT;
    if (mf_trainer_info_get(trainer, &info) != MF_OK) return;
    double alone = bench_median(t->alone, b->rounds), peak = bench_median(t->peak, b->rounds), all = 0;
    double tokens = (double)s->batch * SEQUENCE, rate = info.granularity_flops[3] * tokens / alone;
    for (uint32_t g = 0; g < info.n_granularity; g++)
        all += info.granularity_flops[g];
    double predicted = all / info.granularity_flops[3];
    double measured = s->joint ? bench_median(t->joint, b->rounds) / alone : 0;
    cli_table_cell(table, "%s", s->what);
    cli_table_cell(table, "%s", cli_number((double)info.n_param).text);
    cli_table_cell(table, "%.0f", tokens / alone);
    cli_table_cell(table, "%.1f", 1e-9 * rate);
    cli_table_cell(table, "%.1f", 1e-9 * peak);
    cli_table_cell(table, "%.0f %%", 100 * rate / peak);
    cli_table_cell(table, s->joint ? "%.2f" : "-", measured);
    cli_table_cell(table, s->joint ? "%.2f" : "-", predicted);
    json_t *entry =
        json_pack("{s:s, s:I, s:s, s:i, s:f, s:f, s:f, s:f}", "what", s->what, "params", (json_int_t)info.n_param,
                  "gemm", info.gemm, "tokens_per_step", (int)tokens, "tokens_per_second", tokens / alone,
                  "flops_per_second", rate, "peak_flops_per_second", peak, "share_of_peak", rate / peak);
    if (s->joint) json_object_set_new(entry, "joint_step", json_real(measured));
    if (s->joint) json_object_set_new(entry, "joint_step_by_arithmetic", json_real(predicted));
    json_array_append_new(list, entry);
}

static mf_status run_subject(const bench *b, const subject *s, bench_roof *roof, cli_table *table, json_t *list,
                             mf_error *error)
{
    static int32_t tokens[N_TOKEN];
    static times t;
    mf_trainer *alone = NULL, *joint = NULL;
    mf_status status = create(&alone, b, s, MF_OBJECTIVE_SINGLE, tokens, error);
    if (status == MF_OK && s->joint) status = create(&joint, b, s, MF_OBJECTIVE_JOINT, tokens, error);
    if (status == MF_OK) status = measure(b, s, roof, alone, joint, &t, error);
    if (status == MF_OK) report(b, s, alone, &t, table, list);
    mf_trainer_close(alone);
    mf_trainer_close(joint);
    return status;
}

mf_status bench_train(const bench *b, json_t *out, mf_error *error)
{
    bench_title(b, "Training: steps of %u threads. Peak: f32 multiply-adds with %s. Joint: all widths, as a multiple",
                b->n_thread, bench_roof_cpu());
    cli_table *table =
        cli_table_create("<model|parameters|tokens/s|GFLOP/s|peak GFLOP/s|share of peak|joint step|by arithmetic");
    bench_roof *roof = bench_roof_create(b->n_thread, 1 << 20);
    json_t *list = json_array();
    mf_status status = roof ? MF_OK : MF_E_NOMEM;
    for (size_t i = 0; i < CLI_COUNT(subjects) && status == MF_OK; i++)
        status = run_subject(b, &subjects[i], roof, table, list, error);
    bench_roof_free(roof);
    if (status == MF_OK && !b->json) cli_table_print(table, stdout);
    cli_table_free(table);
    json_object_set_new(out, "train", list);
    return status;
}
