/* trainer.h - the trainer's objects, shared by its files.
 *
 * A parameter is a range of one flat array of floats; gradients and the optimizer's two moments are arrays of
 * the same layout. Matrices are kept so that the part that a granularity uses is a prefix of their rows:
 *
 *     embed, output [n_vocab][d_model]
 *     qkv  [(heads + 2 kv_heads) d_head][d_model]  by group: its key, its value, its queries
 *     o    [heads d_head][d_model]                 transposed
 *     up   [ffn][d_model], or gated [2 ffn][d_model]: gate and up in alternating blocks of 32 rows
 *     down [ffn][d_model]                          transposed
 */
#ifndef MFI_TRAINER_H
#define MFI_TRAINER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "arena.h"
#include "matformer_train.h"
#include "model_config.h"
#include "threads.h"
#include "train_vec.h"

#define MFI_TRAIN_CHUNK 16384u /* floats of a task over parameters; also what partial sums are taken over */
#define MFI_TRAIN_ROWS 64u     /* rows of a task over activations; likewise */

/* ---- Tasks (train_tasks.c): the work of one operation, cut the same way for any number of threads ---- */

typedef struct mfi_tasks {
    mfi_pool *pool;
    float *scratch; /* [n_thread][scratch_floats] */
    size_t scratch_floats;
    float *shared;      /* packed weights of the matrix product that runs */
    mfk_gemm_fn kernel; /* of matrix products; NULL: BLIS */
} mfi_tasks;

typedef void (*mfi_task)(void *user, size_t index, float *scratch);
/* Runs task(user, 0 .. n_task - 1, the thread's scratch) on all threads, whoever is free first. */
void mfi_tasks_run(mfi_tasks *tasks, size_t n_task, mfi_task task, void *user);

/* Random numbers are a function of (seed, stream, counter). */
enum { MFI_STREAM_WEIGHTS = 1, MFI_STREAM_ORDER = 2, MFI_STREAM_OFFSET = 3, MFI_STREAM_DRAW = 4 };
uint64_t mfi_random(uint64_t seed, uint64_t stream, uint64_t counter);
double mfi_random_unit(uint64_t seed, uint64_t stream, uint64_t counter); /* [0, 1) */

/* ---- GEMM (train_gemm.c, train_gemm_packed.c) ---- */

/* C[m][n] = from + A[m][k] * B[k][n]. Element (i, j) of A is a[i * a_row + j * a_column], likewise B; C's rows
 * are c_row apart. `from`: NULL for zero, c to accumulate, or another matrix with C's rows. */
typedef struct mfi_train_gemm {
    size_t m, n, k;
    const float *a;
    size_t a_row, a_column;
    const float *b;
    size_t b_row, b_column;
    float *c;
    size_t c_row;
    const float *from;
} mfi_train_gemm;

/* On all threads. */
void mfi_train_gemm_run(mfi_tasks *tasks, const mfi_train_gemm *gemm);
void mfi_train_gemm_alone(const mfi_train_gemm *gemm); /* on this thread, by BLIS */
/* The kernel to take instead of BLIS on this processor, or NULL; a function of the processor alone. */
mfk_gemm_fn mfi_train_gemm_kernel(uint64_t cpu);
const char *mfi_train_gemm_architecture(void); /* that BLIS reports */

/* By tasks->kernel. */
void mfi_train_gemm_packed(mfi_tasks *tasks, const mfi_train_gemm *gemm);
size_t mfi_train_gemm_packed_scratch(void); /* floats per thread */
size_t mfi_train_gemm_packed_shared(void);  /* floats of all threads together */

/* ---- Parameters (train_params.c) ---- */

typedef struct mfi_train_layer {
    uint32_t heads, ffn;        /* extents: the widest granularity's */
    size_t attn_norm, ffn_norm; /* offsets in floats: weight [d_model], then (layer norm) bias [d_model] */
    size_t qkv, o, up, down;
} mfi_train_layer;

typedef struct mfi_train_layout {
    size_t n_float;  /* multiple of 16 */
    size_t n_matrix; /* [0, n_matrix) are matrices, which weight decay applies to; norms follow */
    size_t embed, output, final_norm;
    mfi_train_layer *layers; /* [n_layer] */
} mfi_train_layout;

/* Rows of qkv that `heads` query heads use. */
size_t mfi_train_qkv_rows(const mfi_config *config, uint32_t heads);
/* Rows of up that `ffn` units use. */
size_t mfi_train_up_rows(const mfi_config *config, uint32_t ffn);

mf_status mfi_train_layout_create(mfi_train_layout *layout, const mfi_config *config, const mf_allocator *allocator,
                                  mf_error *error);
void mfi_train_layout_free(mfi_train_layout *layout, const mfi_config *config, const mf_allocator *allocator);
void mfi_train_initialize(mfi_tasks *tasks, const mfi_train_layout *layout, const mfi_config *config, uint64_t seed,
                          double std, float *weights);

/* Where a matrix or vector of model_config.h's names lies: element (row, column) is at
 * offset + (row / block * block_stride + row % block) * row_stride + column * column_stride. */
typedef struct mfi_train_place {
    size_t rows, columns, offset, block, block_stride, row_stride, column_stride;
} mfi_train_place;
bool mfi_train_find(const mfi_train_layout *layout, const mfi_config *config, const char *name, mfi_train_place *place);
/* The index-th name that a config of so many layers can have, whether this one has it or not; false past the
 * end. Those that are found cover every parameter once. */
bool mfi_train_name(const mfi_config *config, size_t index, char *name, size_t capacity);

/* ---- One pass (train_pass.c, train_attention.c, train_loss.c) ---- */

/* What a layer keeps for the way back. Rows are tokens. */
typedef struct mfi_train_layer_work {
    const float *attn_x, *ffn_x; /* [rows][d_model] what entered the norm */
    float *attn_out, *ffn_out;   /* [rows][d_model] the residual stream after it */
    float *attn_in, *ffn_in;     /* [rows][d_model] normed */
    float *attn_stat, *ffn_stat; /* [rows][2] mean, 1/deviation */
    float *qkv;                  /* [rows][qkv rows in use] keys and queries rotated */
    float *log_sum;              /* [rows][heads] of the scores */
    float *attended;             /* [rows][heads in use * d_head] */
    float *up;                   /* [rows][up rows in use] before the activation, then its gradient */
    float *hidden;               /* [rows][ffn in use] */
} mfi_train_layer_work;

typedef struct mfi_train_work {
    mfi_train_layer_work *layers; /* [n_layer] */
    float *embedded;              /* [rows][d_model] */
    float *final_in, *final_stat; /* after the last norm */
    float *d_stream;              /* [rows][d_model] gradient of the residual stream */
    float *d_normed;              /* [rows][d_model] */
    float *d_wide;                /* [rows][the widest of qkv, ffn] */
    float *d_attended;            /* [rows][heads * d_head] */
    float *logits;                /* [logit_rows][logit_stride] */
    float *row_loss;              /* [rows] */
    float *norm_partial;          /* [rows / 64][2 d_model] */
    float *cosine, *sine;         /* [sequence][d_head / 2] */
    double *chunk_sum;            /* [chunks of the parameters] */
    size_t logit_rows, logit_stride;
} mfi_train_work;

typedef struct mfi_train_pass {
    const mfi_config *config;
    const mfi_train_layout *layout;
    const mfi_train_vec *vec;
    mfi_train_work *work;
    mfi_tasks *tasks;
    const float *weights;
    float *gradient;               /* added to; NULL: loss only */
    float gradient_scale;          /* of each token's loss */
    size_t n_sequence, length;     /* rows = n_sequence * length */
    const int32_t *input, *target; /* [rows] */
    const uint32_t *ffn, *heads;   /* [n_layer]; 0: left out */
} mfi_train_pass;

/* Sum of the losses of all rows; gradients if asked for. */
double mfi_train_pass_run(mfi_train_pass *pass);

void mfi_train_attention_forward(mfi_train_pass *pass, size_t layer);
/* From d_attended, d_wide becomes the gradient of qkv before the rotation. */
void mfi_train_attention_backward(mfi_train_pass *pass, size_t layer);
size_t mfi_train_attention_scratch(const mfi_config *config, size_t length); /* floats per thread */

/* Losses of the normed rows final_in; with a gradient also d_normed and the output matrix's. */
double mfi_train_loss(mfi_train_pass *pass);

/* ---- Optimizer (train_optimizer.c) ---- */

double mfi_train_gradient_norm(mfi_tasks *tasks, const mfi_train_vec *vec, const float *gradient, size_t n,
                               double *chunk_sum);
void mfi_train_adamw(mfi_tasks *tasks, const mfi_train_vec *vec, const mfi_adamw *constants,
                     const mfi_train_layout *layout, float *weights, const float *gradient, float *m, float *v);
void mfi_train_zero(mfi_tasks *tasks, float *x, size_t n);
double mfi_train_learning_rate(const mf_trainer_options *options, uint64_t step);

/* ---- Data (train_batch.c) ---- */

int32_t mfi_train_token(const mf_train_tokens *tokens, size_t index);
mf_status mfi_train_tokens_check(const mf_train_tokens *tokens, uint32_t n_vocab, mf_error *error);
uint64_t mfi_train_tokens_hash(const mf_train_tokens *tokens);
/* First token of the sequence with this number (step * batch + its place in the batch). */
size_t mfi_train_window(uint64_t seed, uint64_t sequence_number, size_t n_token, size_t length);
void mfi_train_batch(const mf_train_tokens *tokens, uint64_t seed, uint64_t first_sequence, size_t n_sequence,
                     size_t length, int32_t *input, int32_t *target);

/* ---- The trainer (trainer.c, trainer_config.c) ---- */

struct mf_trainer {
    mf_allocator allocator;
    mf_trainer_options options; /* defaults filled in */
    double probability[MF_TRAIN_MAX_GRANULARITY];
    mfi_config config;
    mfi_train_layout layout;
    mfi_tasks tasks;
    const mfi_train_vec *vec;
    float *weights, *gradient, *m, *v; /* [n_float] each, in one block */
    size_t state_bytes;
    mfi_train_work work;
    int32_t *input, *target; /* [rows of a micro-batch] */
    void *work_block;
    size_t work_bytes;
    uint64_t step;
    atomic_int stop;
    uint64_t data_hash;
    char gemm_name[48];
};

/* Checked configurations from the caller's structs; `config` is freed by mfi_config_free(). */
mf_status mfi_train_config(mfi_config *config, const mf_train_model *given, uint32_t sequence,
                           const mf_allocator *allocator, mf_error *error);
mf_status mfi_train_options(mf_trainer_options *options, const mf_trainer_options *given, mf_error *error);
mf_status mfi_train_probability(double *probability, const mf_trainer_options *options, uint32_t n_granularity,
                                mf_error *error);
/* Of what mf_trainer_load() compares (train_checkpoint.c). */
uint64_t mfi_train_run_hash(const mf_trainer *trainer);
/* Widths and heads [n_layer] of a view. */
mf_status mfi_train_view_read(const mf_trainer *trainer, const mf_train_view *given, uint32_t *ffn, uint32_t *heads,
                              mf_error *error);

#endif
