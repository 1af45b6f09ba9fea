/* train_run.c - one training run: steps, evaluations, checkpoints, the curve, and stopping well. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "train_clock.h"
#include "train_data.h"

typedef struct loss_set {
    double of[MF_TRAIN_MAX_GRANULARITY]; /* NaN: unknown */
} loss_set;

/* What --out holds. A run that goes on reads it there: a second record could say something else. */
typedef struct best_model {
    double mean; /* held-out loss; INFINITY: nothing yet, or nothing is held out */
    uint64_t step;
    loss_set losses;
} best_model;

typedef enum stop_reason { STOP_STEPS, STOP_PATIENCE, STOP_MINUTES, STOP_OUTPUT, STOP_SIGNAL } stop_reason;

typedef struct train_run {
    const train_options *options;
    train_data data;
    mf_trainer *trainer;
    mf_trainer_info info;
    best_model best;
    FILE *log;
    int clock;            /* train_clock.h; -1 without a checkpoint */
    double began, before; /* before: seconds of earlier processes */
    loss_set sum;         /* of training losses since the last row */
    uint64_t n_sum[MF_TRAIN_MAX_GRANULARITY];
    double speed; /* tokens per second, smoothed */
    double step_time;
    bool header_shown;
} train_run;

static double elapsed(const train_run *run)
{
    return run->before + cli_now() - run->began;
}

static bool is_trained(const train_run *run, uint32_t granularity)
{
    return run->options->trainer.objective != MF_OBJECTIVE_SINGLE || run->options->trainer.granularity == granularity;
}

static loss_set unknown_losses(void)
{
    loss_set losses;
    for (uint32_t g = 0; g < MF_TRAIN_MAX_GRANULARITY; g++)
        losses.of[g] = NAN;
    return losses;
}

/* Over what is trained; NaN where one is unknown. */
static double mean_of(const train_run *run, const loss_set *losses)
{
    double sum = 0, n = 0;
    for (uint32_t g = 0; g < run->info.n_granularity; g++) {
        if (!is_trained(run, g)) continue;
        sum += losses->of[g];
        n++;
    }
    return sum / n;
}

/* Evaluations since the best one. */
static uint64_t stale(const train_run *run, uint64_t step)
{
    uint64_t every = run->options->evaluate_every;
    return step > run->best.step ? step / every - run->best.step / every : 0;
}

/* ---- What a person and the log see ---- */

static json_t *losses_json(const train_run *run, const loss_set *losses)
{
    json_t *object = json_object();
    for (uint32_t g = 0; g < run->info.n_granularity; g++)
        if (isfinite(losses->of[g]))
            json_object_set_new(object, run->info.granularity_name[g], json_real(losses->of[g]));
    return object;
}

static void print_losses(const train_run *run, const loss_set *losses)
{
    for (uint32_t g = 0; g < run->info.n_granularity; g++)
        if (is_trained(run, g)) printf(isfinite(losses->of[g]) ? " %7.4f" : "       -", losses->of[g]);
}

static void print_header(train_run *run)
{
    printf("%s%9s ", cli_style_on(stdout, CLI_BOLD), "step");
    for (int set = 0; set < 2; set++) {
        fputs(set == 0 ? " train:" : "   held out:", stdout);
        for (uint32_t g = 0; g < run->info.n_granularity; g++)
            if (is_trained(run, g)) printf(" %7s", run->info.granularity_name[g]);
    }
    printf("  tokens/s  time%s\n", cli_style_on(stdout, CLI_PLAIN));
    run->header_shown = true;
}

static loss_set mean_losses(const train_run *run)
{
    loss_set mean;
    for (uint32_t g = 0; g < MF_TRAIN_MAX_GRANULARITY; g++)
        mean.of[g] = run->n_sum[g] ? run->sum.of[g] / (double)run->n_sum[g] : NAN;
    return mean;
}

static void print_row(train_run *run, const loss_set *held_out, bool best)
{
    if (run->options->json) return;
    loss_set train = mean_losses(run);
    cli_progress_end();
    if (!run->header_shown) print_header(run);
    printf("%9llu        ", (unsigned long long)mf_trainer_step_count(run->trainer));
    print_losses(run, &train);
    printf("            ");
    print_losses(run, held_out);
    printf("  %8s  %s%s\n", cli_number(run->speed).text, cli_seconds(elapsed(run)).text, best ? "  best" : "");
    fflush(stdout);
}

static void show_progress(const train_run *run, const mf_train_report *report)
{
    char text[256];
    size_t at = 0;
    for (uint32_t g = 0; g < report->n_granularity && at < sizeof(text) - 32; g++)
        if (!isnan(report->loss[g]))
            at += (size_t)snprintf(text + at, sizeof(text) - at, " %s %.3f", run->info.granularity_name[g],
                                   report->loss[g]);
    text[at] = '\0';
    double left = run->step_time * (double)(run->options->trainer.n_step - report->step);
    cli_progress_text("step %llu/%llu %s  %s tokens/s  %s left", (unsigned long long)report->step,
                      (unsigned long long)run->options->trainer.n_step, text, cli_number(run->speed).text,
                      cli_seconds(left).text);
}

static void write_log(train_run *run, json_t *line)
{
    if (run->log && line) {
        json_dumpf(line, run->log, JSON_COMPACT | JSON_REAL_PRECISION(7));
        fputc('\n', run->log);
        fflush(run->log);
    }
    json_decref(line);
}

static void log_step(train_run *run, const mf_train_report *report)
{
    if (!run->log || report->step % run->options->log_every != 0) return;
    loss_set batch = { { 0 } };
    memcpy(batch.of, report->loss, sizeof(batch.of));
    write_log(run,
              json_pack("{s:I, s:o, s:f, s:f, s:f, s:f}", "step", (json_int_t)report->step, "train",
                        losses_json(run, &batch), "grad_norm", isfinite(report->grad_norm) ? report->grad_norm : -1.0,
                        "learning_rate", report->learning_rate, "tokens_per_second", report->tokens_per_second,
                        "elapsed", elapsed(run)));
}

static void count_step(train_run *run, const mf_train_report *report)
{
    double seconds = 1e-9 * (double)report->elapsed_ns;
    run->speed = run->speed > 0 ? 0.9 * run->speed + 0.1 * report->tokens_per_second : report->tokens_per_second;
    run->step_time = run->step_time > 0 ? 0.9 * run->step_time + 0.1 * seconds : seconds;
    for (uint32_t g = 0; g < report->n_granularity; g++) {
        if (isnan(report->loss[g])) continue;
        run->sum.of[g] += report->loss[g];
        run->n_sum[g]++;
    }
    log_step(run, report);
    show_progress(run, report);
}

/* ---- Results ---- */

/* Keys and values of the file's metadata: how it was made. */
typedef struct metadata {
    char text[MF_TRAIN_MAX_GRANULARITY + 5][2][64];
    const char *pairs[2 * (MF_TRAIN_MAX_GRANULARITY + 6) + 1];
    size_t n;
} metadata;

static void add_metadata(metadata *m, const char *key, const char *suffix, const char *value)
{
    size_t i = m->n / 2;
    snprintf(m->text[i][0], sizeof(m->text[i][0]), "%s%s", key, suffix);
    snprintf(m->text[i][1], sizeof(m->text[i][1]), "%s", value);
    m->pairs[m->n++] = m->text[i][0];
    m->pairs[m->n++] = m->text[i][1];
}

static cli_text run_name(const train_run *run)
{
    return cli_format("%016llx", (unsigned long long)run->info.run);
}

/* The losses in full, since a run that goes on compares with them. */
static void describe_run(const train_run *run, const loss_set *held_out, metadata *m)
{
    unsigned long long step = mf_trainer_step_count(run->trainer);
    add_metadata(m, "training.run", "", run_name(run).text);
    add_metadata(m, "training.step", "", cli_format("%llu", step).text);
    add_metadata(m, "training.tokens", "", cli_format("%llu", step * run->info.tokens_per_step).text);
    add_metadata(m, "training.seed", "", cli_format("%llu", (unsigned long long)run->options->trainer.seed).text);
    add_metadata(m, "training.gemm", "", run->info.gemm);
    for (uint32_t g = 0; g < run->info.n_granularity; g++)
        if (isfinite(held_out->of[g]))
            add_metadata(m, "training.held_out_loss.", run->info.granularity_name[g],
                         cli_format("%.17g", held_out->of[g]).text);
    m->pairs[m->n++] = "training.command";
    m->pairs[m->n++] = run->options->command;
    m->pairs[m->n] = NULL;
}

static mf_status write_model(const train_run *run, const loss_set *held_out, mf_error *error)
{
    metadata m = { .n = 0 };
    describe_run(run, held_out, &m);
    mf_train_export_options options = MF_TRAIN_EXPORT_OPTIONS_INIT;
    options.type = (mf_train_type)run->options->type;
    options.compress = !run->options->raw;
    options.tokenizer = run->data.tokenizer;
    options.tokenizer_bytes = run->data.tokenizer_bytes;
    options.metadata = m.pairs;
    return mf_trainer_export(run->trainer, run->options->out, &options, error);
}

/* What an earlier process left in --out: that of another run does not count. */
static mf_status read_best(train_run *run, mf_error *error)
{
    mf_error why = MF_ERROR_INIT;
    mf_model *model;
    mf_status status = mf_model_open(&model, run->options->out, NULL, &why);
    if (status == MF_E_NOT_FOUND) return MF_OK;
    if (status != MF_OK) {
        snprintf(error->detail, sizeof(error->detail),
                 "%s; the best model so far should be there: move the file away to go on without it", why.detail);
        return error->status = status;
    }
    const char *name = mf_model_metadata(model, "training.run", 0),
               *step = mf_model_metadata(model, "training.step", 0);
    if (name && step && strcmp(name, run_name(run).text) == 0) {
        run->best.step = strtoull(step, NULL, 10);
        for (uint32_t g = 0; g < run->info.n_granularity; g++) {
            cli_text key = cli_format("training.held_out_loss.%s", run->info.granularity_name[g]);
            const char *loss = mf_model_metadata(model, key.text, 0);
            if (loss) run->best.losses.of[g] = strtod(loss, NULL);
        }
        double mean = mean_of(run, &run->best.losses);
        if (isfinite(mean)) run->best.mean = mean;
    }
    mf_model_close(model);
    return MF_OK;
}

static mf_status measure(const train_run *run, loss_set *held_out, mf_error *error)
{
    mf_train_tokens tokens = { run->data.valid.tokens, run->data.valid.n_token, sizeof(*run->data.valid.tokens) };
    mf_status status = MF_OK;
    for (uint32_t g = 0; g < run->info.n_granularity && status == MF_OK; g++) {
        if (!is_trained(run, g)) continue;
        mf_train_view view = MF_TRAIN_VIEW_INIT;
        view.granularity = run->info.granularity_name[g];
        cli_progress_text("held-out loss of %s", view.granularity);
        status = mf_trainer_evaluate(run->trainer, &view, &tokens, run->options->evaluate_tokens, &held_out->of[g],
                                     NULL, error);
    }
    return status;
}

/* Measures the held-out losses, and keeps the model where their mean is the best so far. Without held-out text
 * the latest model is kept. */
static mf_status evaluate(train_run *run, mf_error *error)
{
    loss_set held_out = unknown_losses();
    bool has_text = run->data.valid.n_token > 0;
    mf_status status = has_text ? measure(run, &held_out, error) : MF_OK;
    if (status != MF_OK) return status;
    double mean = mean_of(run, &held_out);
    bool best = !has_text || mean < run->best.mean;
    if (best) status = write_model(run, &held_out, error);
    if (status != MF_OK) return status;
    if (best) run->best = (best_model){ has_text ? mean : INFINITY, mf_trainer_step_count(run->trainer), held_out };
    write_log(run,
              json_pack("{s:I, s:o, s:b, s:f}", "step", (json_int_t)mf_trainer_step_count(run->trainer), "held_out",
                        losses_json(run, &held_out), "best", (int)(best && has_text), "elapsed", elapsed(run)));
    print_row(run, &held_out, best && has_text);
    memset(&run->sum, 0, sizeof(run->sum));
    memset(run->n_sum, 0, sizeof(run->n_sum));
    return MF_OK;
}

/* ---- The run ---- */

static mf_status save_checkpoint(train_run *run, mf_error *error)
{
    if (!run->options->checkpoint) return MF_OK;
    mf_status status = mf_trainer_save(run->trainer, run->options->checkpoint, error);
    return status == MF_OK ? train_clock_write(run->clock, elapsed(run), error) : status;
}

static mf_status resume(train_run *run, mf_error *error)
{
    const train_options *o = run->options;
    if (!o->checkpoint || o->restart || access(o->checkpoint, F_OK) != 0) return MF_OK;
    mf_status status = mf_trainer_load(run->trainer, o->checkpoint, error);
    if (status == MF_OK) status = read_best(run, error);
    if (status == MF_OK && !train_clock_read(run->clock, &run->before))
        fprintf(stderr, "matformer: %s.json holds no time; it is counted from now on\n", o->checkpoint);
    return status;
}

static void stop_trainer(void *trainer)
{
    mf_trainer_stop(trainer, 1);
}

static bool is_multiple(uint64_t step, uint32_t of)
{
    return of > 0 && step % of == 0;
}

/* Whether the run ends after this step; an evaluation was just made where `evaluated`. */
static bool ends(const train_run *run, uint64_t step, stop_reason *reason)
{
    const train_options *o = run->options;
    if (step >= o->trainer.n_step)
        *reason = STOP_STEPS;
    else if (o->patience > 0 && stale(run, step) >= o->patience)
        *reason = STOP_PATIENCE;
    else if (o->minutes > 0 && elapsed(run) > 60 * o->minutes)
        *reason = STOP_MINUTES;
    else if (ferror(stdout))
        *reason = STOP_OUTPUT;
    else
        return false;
    return true;
}

static mf_status train(train_run *run, stop_reason *reason, mf_error *error)
{
    const train_options *o = run->options;
    uint64_t step = mf_trainer_step_count(run->trainer), evaluated = step;
    mf_status status = MF_OK;
    while (status == MF_OK && !ends(run, step, reason)) {
        mf_train_report report = MF_TRAIN_REPORT_INIT;
        status = mf_trainer_step(run->trainer, &report, error);
        if (status != MF_OK) break;
        step = report.step;
        count_step(run, &report);
        if (is_multiple(step, o->evaluate_every)) {
            status = evaluate(run, error);
            evaluated = step;
        }
        if (status == MF_OK && is_multiple(step, o->checkpoint_every)) status = save_checkpoint(run, error);
    }
    if (status == MF_OK && evaluated != step) status = evaluate(run, error);
    if (status == MF_E_CANCELLED && cli_interrupted()) {
        *reason = STOP_SIGNAL;
        mf_trainer_stop(run->trainer, 0);
        status = MF_OK;
    }
    return status == MF_OK ? save_checkpoint(run, error) : status;
}

static mf_status open_run(train_run *run, train_options *options, mf_error *error)
{
    mf_status status = train_data_prepare(&run->data, options, error);
    if (status == MF_OK) status = mf_trainer_create(&run->trainer, &options->model, &options->trainer, error);
    if (status == MF_OK) status = mf_trainer_info_get(run->trainer, &run->info);
    if (status == MF_OK && options->init) status = mf_trainer_import(run->trainer, options->init, error);
    if (status == MF_OK && options->checkpoint) status = train_clock_open(options->checkpoint, &run->clock, error);
    if (status == MF_OK) status = resume(run, error);
    if (status == MF_OK && options->log && !(run->log = fopen(options->log, options->restart ? "w" : "a")))
        status = cli_fail_file(error, options->log);
    return status;
}

static void introduce(const train_run *run)
{
    if (run->options->json) return;
    printf("%s parameters, %s of memory, %u threads, %s\n", cli_number((double)run->info.n_param).text,
           cli_bytes((double)run->info.memory_bytes).text, run->info.n_thread, run->info.gemm);
    printf("%s tokens to train on, %s held out; %llu steps of %u tokens\n",
           cli_number((double)run->data.train.n_token).text, cli_number((double)run->data.valid.n_token).text,
           (unsigned long long)run->options->trainer.n_step, run->info.tokens_per_step);
    if (mf_trainer_step_count(run->trainer) > 0)
        printf("resumed from %s at step %llu\n", run->options->checkpoint,
               (unsigned long long)mf_trainer_step_count(run->trainer));
    putchar('\n');
    fflush(stdout);
}

static int conclude(const train_run *run, stop_reason reason, int signal_number)
{
    static const char *const reasons[] = { "steps", "patience", "minutes", "output", "signal" };
    static const char *const sentences[] = { "all steps are done", "the held-out loss no longer falls",
                                             "the time is up", "standard output failed", "interrupted" };
    unsigned long long step = mf_trainer_step_count(run->trainer);
    cli_progress_end();
    if (run->options->json) {
        int status = cli_print_json(json_pack(
            "{s:o, s:s, s:I, s:I, s:o, s:I, s:f, s:f, s:I}", "out", cli_json_string(run->options->out), "stopped",
            reasons[reason], "step", (json_int_t)step, "best_step", (json_int_t)run->best.step, "held_out",
            losses_json(run, &run->best.losses), "tokens", (json_int_t)(step * run->info.tokens_per_step),
            "tokens_per_second", run->speed, "elapsed", elapsed(run), "params", (json_int_t)run->info.n_param));
        return signal_number ? CLI_SIGNAL + signal_number : status;
    }
    printf("\n%s after step %llu, %s; ", sentences[reason], step, cli_seconds(elapsed(run)).text);
    if (run->best.step > 0)
        printf("%s holds the model of step %llu\n", run->options->out, (unsigned long long)run->best.step);
    else
        printf("no model was written yet\n");
    if (reason == STOP_SIGNAL && run->options->checkpoint)
        printf("The same command goes on from %s.\n", run->options->checkpoint);
    return signal_number ? CLI_SIGNAL + signal_number : CLI_OK;
}

static void close_run(train_run *run)
{
    mf_trainer_close(run->trainer);
    train_data_free(&run->data);
    if (run->log) fclose(run->log);
    if (run->clock >= 0) close(run->clock);
}

int train_execute(train_options *options)
{
    train_run run = { .options = options,
                      .info = MF_TRAINER_INFO_INIT,
                      .best = { INFINITY, 0, unknown_losses() },
                      .clock = -1,
                      .began = cli_now() };
    mf_error error = MF_ERROR_INIT;
    stop_reason reason = STOP_STEPS;
    int signal_number = 0, exit_status;
    mf_status status = open_run(&run, options, &error);
    if (status == MF_OK) {
        introduce(&run);
        run.began = cli_now();
        if (!cli_interrupt_begin(stop_trainer, run.trainer)) {
            status = error.status = MF_E_THREAD;
        } else {
            status = train(&run, &reason, &error);
            signal_number = cli_interrupted();
            cli_interrupt_end();
        }
    }
    exit_status = status == MF_OK ? conclude(&run, reason, signal_number) : cli_fail(&error);
    close_run(&run);
    return exit_status;
}
