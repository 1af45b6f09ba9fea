/* run_model.h - the public API, shortened for tests: whatever fails here fails the test at once. */
#ifndef RUN_MODEL_H
#define RUN_MODEL_H

#include "random_model.h"
#include "rounds.h"

/* A .mf file in memory, page aligned. */
typedef struct model_file {
    unsigned char *data;
    size_t bytes, mapped_bytes;
} model_file;
model_file make_file(const mfi_config *config, mfi_weights weights, const mfi_save_options *options);
model_file make_random_file(const random_model *model, mfk_type type, mfi_storage storage, bool one_shell);
model_file read_file(const char *path);
void drop_file(model_file *file);

/* A path in the temporary folder that nothing else uses; the caller removes it. */
typedef struct temporary_path {
    char text[128];
} temporary_path;
temporary_path new_path(void);

/* EXACT; or FAST where the environment variable MF_TEST_ARITHMETIC is "fast". */
mf_arithmetic test_arithmetic(void);
mf_model_options test_options(const char *cpu); /* with it */

mf_model *open_file(const model_file *file, const char *cpu); /* MAP, the file's own bytes */
mf_submodel *take_view(mf_model *model, const widths *view);
mf_submodel *take_named(mf_model *model, const char *text);
mf_session *new_session(mf_model *model); /* of f32 */
mf_session *new_session_of(mf_model *model, mf_cache_type type, uint32_t max_positions);
#define N_CACHE_TYPE 3 /* MF_CACHE_F32 and on */
mf_executor *new_executor(mf_model *model, uint32_t n_thread, uint32_t max_tokens);

/* The processor levels that this machine (and MF_CPU) has: level 0, 1, ... until NULL. */
const char *cpu_level(const model_file *file, uint32_t index);
/* Whether the file's models compute in the fast arithmetic there. */
bool is_fast(const model_file *file, const char *level);

/* What the model said at every position. */
typedef struct outputs {
    size_t n_token, n_vocab, d_model;
    float *logits, *hidden; /* [n_token][n_vocab], [n_token][d_model] */
} outputs;
outputs new_outputs(const mf_model *model, size_t n_token);
void drop_outputs(outputs *out);
bool same_bits(const outputs *a, const outputs *b);
/* Rows [from, from + n) of both. */
bool same_rows(const outputs *a, size_t from_a, const outputs *b, size_t from_b, size_t n);

/* n random tokens of the model; the caller frees. */
int32_t *new_tokens(const mf_model *model, size_t n, rng *r);

/* A request for all logits and hidden states, which go to rows [row, row + n) of `out`. */
mf_request request_all(mf_session *session, const mf_submodel *view, const int32_t *tokens, size_t n, outputs *out,
                       size_t row);
/* Runs one such request; row and tokens at the session's position, tokens and out being those of the timeline. */
void run_more(mf_executor *executor, mf_session *session, const mf_submodel *view, const int32_t *timeline, size_t n,
              outputs *out);
/* The whole timeline in one piece, in a session of its own, on one thread. */
outputs run_alone(mf_model *model, const mf_submodel *view, const int32_t *timeline, size_t n);

#endif
