/* matformer_train.h - training nested (MatFormer) decoders on CPU cores.
 *
 * A library of its own, libmatformer-train: its version is here, and it makes no promise of a stable ABI
 * yet. It writes the .mf files that libmatformer opens. Rules, statuses and errors are matformer.h's:
 * option structs begin with struct_size and an INIT macro, zero means the default, nothing is printed.
 *
 *     mf_train_model model = MF_TRAIN_MODEL_INIT;
 *     model.n_layer = 8, model.d_model = 256, model.n_head = 8, model.head_group = 8;
 *     model.d_ff = 1536, model.n_vocab = 2048;
 *     mf_trainer_options options = MF_TRAINER_OPTIONS_INIT;
 *     options.tokens = (mf_train_tokens){ tokens, n_token, sizeof(int32_t) };
 *     options.n_step = 1000;
 *     mf_trainer *trainer = NULL;
 *     mf_status status = mf_trainer_create(&trainer, &model, &options, &error);
 *     while (status == MF_OK && mf_trainer_step_count(trainer) < options.n_step)
 *         status = mf_trainer_step(trainer, &report, &error);
 *     if (status == MF_OK) status = mf_trainer_export(trainer, "model.mf", NULL, &error);
 *     mf_trainer_close(trainer);
 *
 * The same options, data and processor give the same bits, whatever the number of threads, and whether or
 * not the run was interrupted and resumed. docs/training.md has the formulae.
 */
#ifndef MATFORMER_TRAIN_H
#define MATFORMER_TRAIN_H

#include "matformer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MF_TRAIN_VERSION_MAJOR 0
#define MF_TRAIN_VERSION_MINOR 1

#define MF_TRAIN_MAX_GRANULARITY 16

/* major << 16 | minor of the library that is running. */
MF_API uint32_t mf_train_version(void);

/* ---- The model ---------------------------------------------------------------------------------- */

/* Before each block, and after the last one. */
typedef enum mf_train_norm { MF_TRAIN_NORM_RMS = 0, MF_TRAIN_NORM_LAYER = 1 } mf_train_norm;

/* GATED: down(act(gate x) . up x). PLAIN: down(act(up x)). */
typedef enum mf_train_ffn { MF_TRAIN_FFN_GATED = 0, MF_TRAIN_FFN_PLAIN = 1 } mf_train_ffn;

/* Of the feed-forward blocks. GELU by the tanh formula, or with erf. */
typedef enum mf_train_activation {
    MF_TRAIN_SILU = 0,
    MF_TRAIN_GELU_TANH = 1,
    MF_TRAIN_GELU_ERF = 2,
    MF_TRAIN_RELU = 3,
    MF_TRAIN_TANH = 4
} mf_train_activation;

/* One granularity: how much of every layer it uses. Widths are multiples of 32, and so is heads * d_head. */
typedef struct mf_train_granularity {
    const char *name;      /* 1 to 15 bytes: "S" */
    double ffn_ratio;      /* 0 < ratio <= 1: this share of d_ff in every layer, rounded up to 32; 0: all */
    uint32_t n_head;       /* the first query heads of every layer; 0: all */
    const uint32_t *ffn;   /* [n_layer] or NULL: widths instead of ffn_ratio; 0 leaves the layer out */
    const uint32_t *heads; /* [n_layer] or NULL: head counts instead of n_head; 0 where ffn is 0 */
} mf_train_granularity;

/* The decoder to train. Everything is copied. */
typedef struct mf_train_model {
    size_t struct_size;
    uint32_t n_layer, d_model; /* d_model: a multiple of 32 */
    uint32_t n_head;           /* query heads */
    uint32_t head_group;       /* query heads that share a key/value head: 1 multi-head, n_head multi-query; 0: 1 */
    uint32_t d_head;           /* a multiple of 16; 0: d_model / n_head */
    uint32_t d_ff;             /* hidden units of the widest granularity: a multiple of 32 */
    uint32_t n_vocab;
    uint32_t max_positions; /* written to the file; 0: the sequence length of the options */
    mf_train_norm norm;
    mf_train_ffn ffn;
    mf_train_activation activation;
    float norm_eps;        /* 0: 1e-5 */
    double rope_theta;     /* 0: 10000; negative: no rotation */
    float embed_scale;     /* 0: 1 */
    float attention_scale; /* 0: 1 / sqrt(d_head) */
    int untied_output;     /* 0: the output matrix is the embedding */
    int has_bos, has_eos;  /* whether bos_token and eos_token mean anything */
    int32_t bos_token, eos_token;
    const mf_train_granularity *granularities; /* [n_granularity], narrowest first, each within the next; the last is
                                                  the full model. NULL: S, M, L, XL at 1/8, 1/4, 1/2, 1 of d_ff */
    uint32_t n_granularity;                    /* at most MF_TRAIN_MAX_GRANULARITY */
    uint32_t reserved;
    const uint8_t *may_skip; /* [n_layer] 1: views of the file may leave the layer out; NULL: none */
} mf_train_model;
#define MF_TRAIN_MODEL_INIT                                                                                            \
    {                                                                                                                  \
        sizeof(mf_train_model), 0, 0, 0, 0, 0, 0, 0, 0, MF_TRAIN_NORM_RMS, MF_TRAIN_FFN_GATED, MF_TRAIN_SILU, 0, 0, 0, \
            0, 0, 0, 0, 0, 0, NULL, 0, 0, NULL                                                                         \
    }

/* ---- Training ----------------------------------------------------------------------------------- */

/* Tokens of the caller: they are not copied. Each is in [0, n_vocab). */
typedef struct mf_train_tokens {
    const void *tokens; /* [n_token] uint16_t or int32_t */
    size_t n_token;
    uint32_t token_bytes; /* 2 or 4 */
} mf_train_tokens;

/* JOINT: every step runs all granularities on the same batch; the gradients are summed with weight 1,
 * clipped once and applied once. SAMPLED: every step runs one granularity, drawn with `probability`.
 * SINGLE: always `granularity` alone. */
typedef enum mf_objective { MF_OBJECTIVE_JOINT = 0, MF_OBJECTIVE_SAMPLED = 1, MF_OBJECTIVE_SINGLE = 2 } mf_objective;

typedef struct mf_trainer_options {
    size_t struct_size;
    uint64_t seed;     /* of the weights, the batches and the drawn granularities */
    uint32_t n_thread; /* 0: one per usable core. Does not change the result. */
    uint32_t batch;    /* sequences of one step; 0: 16 */
    uint32_t sequence; /* tokens of a sequence; 0: 256 */
    uint32_t n_micro;  /* the batch is computed in so many equal parts, to save memory; 0: 1 */
    mf_objective objective;
    uint32_t granularity;      /* SINGLE: index, narrowest 0 */
    const double *probability; /* SAMPLED: [n_granularity], any positive sum; NULL: uniform. Copied. */
    mf_train_tokens tokens;    /* to train on: more than `sequence`. They must outlive the trainer. A trainer
                                  that only evaluates, imports or exports needs none. */
    uint64_t n_step;           /* length of the schedule; 0: 1000 */
    uint64_t warmup;           /* steps of linear warm-up; 0: none */
    double learning_rate;      /* its peak; 0: 1e-3 */
    double floor_ratio;        /* the cosine ends at this share of the peak; 0: 0.1. Negative: 0 */
    double beta1, beta2;       /* 0: 0.9 and 0.95 */
    double adam_eps;           /* 0: 1e-8 */
    double weight_decay;       /* decoupled; of matrices, not of norms. 0: 0.1. Negative: none */
    double clip;               /* largest global norm of the gradient; 0: 1. Negative: none */
    double init_std;           /* of the initial matrices; 0: 0.02 */
    mf_allocator allocator;    /* alloc NULL: the C library's */
} mf_trainer_options;
#define MF_TRAINER_OPTIONS_INIT                                                                                      \
    {                                                                                                                \
        sizeof(mf_trainer_options), 0, 0, 0, 0, 0, MF_OBJECTIVE_JOINT, 0, NULL, { NULL, 0, 0 }, 0, 0, 0, 0, 0, 0, 0, \
            0, 0, 0,                                                                                                 \
        {                                                                                                            \
            NULL, NULL, NULL                                                                                         \
        }                                                                                                            \
    }

/* Weights, gradients, optimizer state, worker threads and workspace. One call at a time, from any thread,
 * except mf_trainer_stop(). */
typedef struct mf_trainer mf_trainer;

/* Creates a trainer with initial weights drawn from the seed: normal(0, init_std), the projections into the
 * residual stream (attention output, FFN down) smaller by sqrt(2 n_layer), norm weights 1 and biases 0. */
MF_API mf_status mf_trainer_create(mf_trainer **out, const mf_train_model *model, const mf_trainer_options *options,
                                   mf_error *error);
MF_API void mf_trainer_close(mf_trainer *trainer);

typedef struct mf_trainer_info {
    size_t struct_size;
    uint64_t n_param; /* of the widest granularity, embeddings included */
    uint64_t memory_bytes;
    uint32_t n_granularity, n_thread;
    uint32_t tokens_per_step; /* batch * sequence */
    uint32_t reserved;
    uint64_t granularity_params[MF_TRAIN_MAX_GRANULARITY];
    /* Arithmetic of one training token, forward and backward: 6 per parameter that multiplies, and the
     * causal half of attention; a multiply-add counts as two. */
    double granularity_flops[MF_TRAIN_MAX_GRANULARITY];
    const char *granularity_name[MF_TRAIN_MAX_GRANULARITY]; /* live as long as the trainer */
    const char *gemm; /* of matrix products, and the architecture that it takes: "blis haswell" */
    uint64_t run;     /* a hash of all that the result depends on: model, data and options, as a checkpoint has it */
} mf_trainer_info;
#define MF_TRAINER_INFO_INIT                                                       \
    {                                                                              \
        sizeof(mf_trainer_info), 0, 0, 0, 0, 0, 0, { 0 }, { 0 }, { NULL }, NULL, 0 \
    }

/* Fills as many fields as info->struct_size covers. */
MF_API mf_status mf_trainer_info_get(const mf_trainer *trainer, mf_trainer_info *info);

typedef struct mf_train_report {
    size_t struct_size;
    uint64_t step; /* steps done, this one included */
    uint32_t n_granularity;
    uint32_t skipped;                      /* 1: the gradient was not finite, and the weights are unchanged */
    double loss[MF_TRAIN_MAX_GRANULARITY]; /* of the batch, nats per token; NaN where this step did not run it */
    double grad_norm;                      /* before clipping */
    double learning_rate;
    uint64_t n_token; /* tokens of the step, counted once however many granularities ran */
    uint64_t elapsed_ns;
    double tokens_per_second;
} mf_train_report;
#define MF_TRAIN_REPORT_INIT                                   \
    {                                                          \
        sizeof(mf_train_report), 0, 0, 0, { 0 }, 0, 0, 0, 0, 0 \
    }

/* One step. The batch of a step is a function of the seed and the step's number: the tokens are cut into
 * windows of `sequence`, which each epoch visits once, in an order and from a starting offset of its own.
 * `report` may be NULL. MF_E_CANCELLED after mf_trainer_stop(): the weights are those before the step, so
 * that a checkpoint may be saved. */
MF_API mf_status mf_trainer_step(mf_trainer *trainer, mf_train_report *report, mf_error *error);

/* Steps done, those of the loaded checkpoint included. */
MF_API uint64_t mf_trainer_step_count(const mf_trainer *trainer);

/* Makes the step or evaluation in progress return MF_E_CANCELLED after the micro-batch it is at, and every
 * later one at once, until it is called with `stop` 0. From any thread, and from a signal handler. */
MF_API void mf_trainer_stop(mf_trainer *trainer, int stop);

/* What to evaluate: a granularity by name, or lists of widths and head counts for Mix'n'Match. */
typedef struct mf_train_view {
    size_t struct_size;
    const char *granularity; /* NULL: the widest */
    const uint32_t *ffn;     /* [n_layer] or NULL; multiples of 32; 0 leaves the layer out */
    const uint32_t *heads;   /* [n_layer] or NULL */
} mf_train_view;
#define MF_TRAIN_VIEW_INIT                      \
    {                                           \
        sizeof(mf_train_view), NULL, NULL, NULL \
    }

/* Mean loss in nats per token. `tokens` are cut into windows of `sequence` + 1 that overlap by one token;
 * each is read from an empty context and its last `sequence` tokens are predicted (the last window is
 * shorter). At most `max_tokens` predictions, rounded up to whole windows; 0: all. `n_predicted` may be
 * NULL. MF_E_WIDTH for a view that the model does not have. */
MF_API mf_status mf_trainer_evaluate(mf_trainer *trainer, const mf_train_view *view, const mf_train_tokens *tokens,
                                     uint64_t max_tokens, double *loss, uint64_t *n_predicted, mf_error *error);

/* ---- Files -------------------------------------------------------------------------------------- */

/* Writes weights, optimizer state and step to a temporary name, syncs, and renames: `path` holds either the
 * old checkpoint or the new one, whole. */
MF_API mf_status mf_trainer_save(mf_trainer *trainer, const char *path, mf_error *error);

/* Continues from a checkpoint, to the bits of a run that was never interrupted. The trainer must have been
 * created with the same model, data and options (thread count excepted): MF_E_INVALID names what differs.
 * A damaged file is MF_E_CHECKSUM or MF_E_FORMAT; on failure the trainer is as it was. */
MF_API mf_status mf_trainer_load(mf_trainer *trainer, const char *path, mf_error *error);

/* Of matrices in a file. */
typedef enum mf_train_type { MF_TRAIN_F32 = 0, MF_TRAIN_BF16 = 1 } mf_train_type;

typedef struct mf_train_export_options {
    size_t struct_size;
    mf_train_type type; /* of the matrices */
    int compress;       /* 1: zstd regions */
    int one_shell;      /* 1: all widths in one region */
    int reserved;
    const void *tokenizer; /* the blob of mf_train_tokenizer(), or NULL */
    size_t tokenizer_bytes;
    const char *const *metadata; /* key, value, key, value, ..., NULL; or NULL */
} mf_train_export_options;
#define MF_TRAIN_EXPORT_OPTIONS_INIT                                          \
    {                                                                         \
        sizeof(mf_train_export_options), MF_TRAIN_F32, 0, 0, 0, NULL, 0, NULL \
    }

/* Writes a .mf file. `options` NULL: f32, stored raw, in shells. */
MF_API mf_status mf_trainer_export(mf_trainer *trainer, const char *path, const mf_train_export_options *options,
                                   mf_error *error);

/* Takes the weights of a .mf file whose shape is the trainer's (granularities may differ: a plain model can
 * be made nested). Optimizer state and step start anew. On failure the trainer is as it was. */
MF_API mf_status mf_trainer_import(mf_trainer *trainer, const char *path, mf_error *error);

/* ---- Tokenizer ---------------------------------------------------------------------------------- */

/* Bytes that the library allocated. */
typedef struct mf_train_blob {
    void *data;
    size_t bytes;
} mf_train_blob;

/* Learns a byte-level BPE of `n_vocab` tokens (at least 257: 256 bytes, merges, then end of text, the last)
 * from a text. Free the blob with mf_train_blob_free(). */
MF_API mf_status mf_train_tokenizer(mf_train_blob *out, const char *text, size_t text_bytes, uint32_t n_vocab,
                                    mf_error *error);

/* Text to tokens, as mf_tokenize() does with the file's own tokenizer. Writes at most `capacity` tokens and
 * the number needed to *n_token; MF_E_CAPACITY if they did not fit. A token is at least one byte of text,
 * so text_bytes is always enough. `eos` (may be NULL) gets the end-of-text token. */
MF_API mf_status mf_train_tokenize(const void *tokenizer, size_t tokenizer_bytes, const char *text, size_t text_bytes,
                                   int32_t *tokens, size_t capacity, size_t *n_token, int32_t *eos, mf_error *error);
MF_API void mf_train_blob_free(mf_train_blob *blob);

#ifdef __cplusplus
}
#endif
#endif
