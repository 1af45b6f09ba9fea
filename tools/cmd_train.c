/* cmd_train.c - `matformer train`: the options of a training run. */
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "train.h"

/* The command line with folders taken off, for the file's metadata: it shall say how a model was made, not
 * where. */
static char *command_line(int argc, char **argv)
{
    size_t bytes = sizeof("matformer");
    for (int i = 0; i < argc; i++)
        bytes += strlen(argv[i]) + 1;
    char *line = malloc(bytes), *at = line;
    if (!line) return NULL;
    at = stpcpy(at, "matformer");
    for (int i = 0; i < argc; i++) {
        const char *slash = strrchr(argv[i], '/');
        bool is_path = slash && slash[1] && !strchr(argv[i], ':');
        at = stpcpy(stpcpy(at, " "), is_path ? slash + 1 : argv[i]);
    }
    return line;
}

static int check_options(const cli_command *self, const train_options *o, double steps)
{
    if (o->data.count == 0) return cli_usage(self, "there is nothing to train on; give --data PATH");
    if (!o->out) return cli_usage(self, "where shall the model go? give --out FILE");
    if (steps > 0 && o->epochs > 0) return cli_usage(self, "--steps and --epochs say the same thing; give one of them");
    if (o->patience > 0 && o->valid.count == 0)
        return cli_usage(self, "--patience needs held-out text; give --valid PATH");
    if (o->trainer.objective == MF_OBJECTIVE_SINGLE && !o->single)
        return cli_usage(self, "--objective single needs --single NAME");
    return CLI_OK;
}

static int run(const cli_command *self, int argc, char **argv)
{
    train_options o = { .n_vocab = 2048,
                        .checkpoint_every = 200,
                        .evaluate_every = 100,
                        .log_every = 10,
                        .evaluate_tokens = 65536,
                        .type = MF_TRAIN_BF16,
                        .warmup = UINT64_MAX,
                        .model = MF_TRAIN_MODEL_INIT,
                        .trainer = MF_TRAINER_OPTIONS_INIT };
    o.model.n_layer = 8, o.model.d_model = 256, o.model.n_head = 8, o.model.head_group = 8, o.model.d_ff = 1024;
    o.trainer.batch = 16, o.trainer.sequence = 256, o.trainer.seed = 1;
    int norm = MF_TRAIN_NORM_RMS, ffn = MF_TRAIN_FFN_GATED, activation = MF_TRAIN_SILU, objective = MF_OBJECTIVE_JOINT;
    bool untied = false;
    const cli_option options[] = {
        { CLI_TEXTS, "data", 'd', "PATH", &o.data, "text to train on: a file, or a folder of *.txt; may be repeated", 0,
          0 },
        { CLI_TEXTS, "valid", 'v', "PATH", &o.valid,
          "held-out text; these files are never trained on, also where --data "
          "names their folder",
          0, 0 },
        { CLI_TEXT, "out", 'o', "FILE", &o.out,
          "the model: the one of the lowest mean held-out loss, or without --valid the "
          "latest",
          0, 0 },
        { CLI_U32, "vocab", 0, "N", &o.n_vocab, "learn a tokenizer of N tokens from the data (2048)", 257, 1 << 20 },
        { CLI_TEXT, "tokenizer", 0, "FILE", &o.tokenizer, "or take the one of this .mf file", 0, 0 },
        { CLI_TEXT, "init", 0, "FILE", &o.init, "begin with the weights of this .mf file", 0, 0 },
        { CLI_CHOICE, "type", 0, "f32|bf16", &o.type, "of the matrices in the file (bf16)", 0, 0 },
        { CLI_FLAG, "raw", 0, NULL, &o.raw, "write the weights uncompressed, so that opening is a mapping", 0, 0 },
        { CLI_SECTION, "", 0, NULL, NULL, "Model", 0, 0 },
        { CLI_U32, "layers", 0, "N", &o.model.n_layer, "(8)", 1, 512 },
        { CLI_U32, "d-model", 0, "N", &o.model.d_model, "(256)", 32, 65536 },
        { CLI_U32, "heads", 0, "N", &o.model.n_head, "query heads (8)", 1, 65536 },
        { CLI_U32, "head-group", 0, "N", &o.model.head_group, "query heads that share a key/value head (8)", 1, 65536 },
        { CLI_U32, "d-head", 0, "N", &o.model.d_head, "(d-model / heads)", 16, 512 },
        { CLI_U32, "d-ff", 0, "N", &o.model.d_ff, "hidden units of the widest granularity (1024)", 32, 1 << 20 },
        { CLI_TEXT, "granularities", 'g', "LIST", &o.granularities,
          "NAME:RATIO or NAME:RATIO:HEADS, narrowest first "
          "(S:1/8,M:1/4,L:1/2,XL:1)",
          0, 0 },
        { CLI_CHOICE, "norm", 0, "rms|layer", &norm, "(rms)", 0, 0 },
        { CLI_CHOICE, "ffn", 0, "gated|plain", &ffn, "(gated)", 0, 0 },
        { CLI_CHOICE, "activation", 0, "silu|gelu|gelu-erf|relu|tanh", &activation, "(silu)", 0, 0 },
        { CLI_FLAG, "untied", 0, NULL, &untied, "an output matrix of its own", 0, 0 },
        { CLI_SECTION, "", 0, NULL, NULL, "Optimization", 0, 0 },
        { CLI_CHOICE, "objective", 0, "joint|sampled|single", &objective,
          "every step trains all granularities, a drawn "
          "one, or always --single (joint)",
          0, 0 },
        { CLI_TEXT, "probability", 0, "LIST", &o.probability,
          "of each granularity, for --objective sampled: \"1,1,1,2\"", 0, 0 },
        { CLI_TEXT, "single", 0, "NAME", &o.single, "the granularity of --objective single", 0, 0 },
        { CLI_U64, "steps", 'n', "N", &o.trainer.n_step, "length of the schedule (1000)", 1, TRAIN_MAX_STEP },
        { CLI_REAL, "epochs", 0, "X", &o.epochs, "or as passes over the data", 1e-6, 1e6 },
        { CLI_U32, "batch", 0, "N", &o.trainer.batch, "sequences of a step (16)", 1, 65536 },
        { CLI_U32, "sequence", 0, "N", &o.trainer.sequence, "tokens of a sequence (256)", 1, 1 << 20 },
        { CLI_U32, "micro", 0, "N", &o.trainer.n_micro, "compute a batch in N parts, to save memory (1)", 1, 65536 },
        { CLI_REAL, "lr", 0, "X", &o.trainer.learning_rate, "peak learning rate (1e-3)", 1e-9, 10 },
        { CLI_U64, "warmup", 0, "N", &o.warmup, "steps of linear warm-up (100, at most a tenth of the steps)", 0, 0 },
        { CLI_REAL, "floor", 0, "X", &o.trainer.floor_ratio, "the cosine ends at this share of the peak (0.1)", 1e-9,
          1 },
        { CLI_REAL, "beta1", 0, "X", &o.trainer.beta1, "(0.9)", 1e-9, 1 },
        { CLI_REAL, "beta2", 0, "X", &o.trainer.beta2, "(0.95)", 1e-9, 1 },
        { CLI_REAL, "decay", 0, "X", &o.trainer.weight_decay, "of matrices, decoupled (0.1; negative: none)", -1, 10 },
        { CLI_REAL, "clip", 0, "X", &o.trainer.clip, "largest norm of the gradient (1; negative: none)", -1, 1e9 },
        { CLI_REAL, "init-std", 0, "X", &o.trainer.init_std, "of the initial matrices (0.02)", 1e-9, 10 },
        { CLI_U64, "seed", 0, "N", &o.trainer.seed, "of weights, batches and draws (1)", 0, 0 },
        { CLI_U32, "threads", 0, "N", &o.trainer.n_thread, "0: one per usable core; does not change the result", 0,
          4096 },
        { CLI_SECTION, "", 0, NULL, NULL, "Run", 0, 0 },
        { CLI_TEXT, "checkpoint", 'c', "FILE", &o.checkpoint,
          "save the whole state here; where it exists, go on from it", 0, 0 },
        { CLI_U32, "every", 0, "N", &o.checkpoint_every, "steps between checkpoints (200)", 1, 1 << 30 },
        { CLI_FLAG, "restart", 0, NULL, &o.restart, "begin anew although the checkpoint exists", 0, 0 },
        { CLI_U32, "evaluate-every", 0, "N", &o.evaluate_every, "steps between held-out evaluations (100)", 1,
          1 << 30 },
        { CLI_U64, "evaluate-tokens", 0, "N", &o.evaluate_tokens, "of the held-out text for each (65536; 0: all)", 0,
          0 },
        { CLI_U32, "patience", 0, "N", &o.patience, "stop after N evaluations without a new best (0: never)", 0, 0 },
        { CLI_REAL, "minutes", 0, "X", &o.minutes, "stop after this time, earlier runs included", 0, 1e6 },
        { CLI_TEXT, "log", 0, "FILE", &o.log, "append the curve, one JSON object per line", 0, 0 },
        { CLI_U32, "log-every", 0, "N", &o.log_every, "steps between its lines (10)", 1, 1 << 30 },
        { CLI_FLAG, "json", 0, NULL, &o.json, "print one JSON object at the end and nothing before", 0, 0 },
    };
    int first, status;
    bool go = cli_parse(self, options, CLI_COUNT(options), argc, argv, &first, &status);
    if (go && first != argc) status = cli_usage(self, "\"%s\" is no option; texts are given by --data", argv[first]);
    if (go && status == CLI_OK) status = check_options(self, &o, (double)o.trainer.n_step);
    if (go && status == CLI_OK) {
        char *line = command_line(argc, argv);
        o.command = line ? line : "";
        o.model.norm = (mf_train_norm)norm;
        o.model.ffn = (mf_train_ffn)ffn;
        o.model.activation = (mf_train_activation)activation;
        o.model.untied_output = untied;
        o.trainer.objective = (mf_objective)objective;
        if (o.trainer.n_step == 0) o.trainer.n_step = 1000;
        status = train_execute(&o);
        free(line);
    }
    cli_list_free(&o.data);
    cli_list_free(&o.valid);
    return status;
}

const cli_command cmd_train = {
    .name = "train",
    .usage = "--data PATH... --out FILE [OPTION...]",
    .summary = "Train a nested model from texts",
    .details =
        "The same options, data and processor give the same model, also when the run is interrupted and goes on\n"
        "from its checkpoint. Ctrl-C or SIGTERM saves a checkpoint and ends with status 130 or 143.\n\n"
        "  matformer train --data books/ --valid books/held-out.txt --out model.mf --checkpoint run.ck\n",
    .run = run,
};
