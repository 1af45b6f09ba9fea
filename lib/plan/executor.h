/* executor.h - worker threads and workspace, and the batch that they run.
 *
 * A batch is filled by the caller (batch_request), then run: rows of all requests form one matrix, and every
 * operation of the model's program is applied to it. Nothing is allocated after create. */
#ifndef MFI_EXECUTOR_H
#define MFI_EXECUTOR_H

#include <stdatomic.h>

#include "submodel.h"
#include "threads.h"

#define MFI_LOGITS_ROWS 64u /* of the tile through which logits reach several callers' buffers */
#define MFI_LOGITS_COLUMNS 256u
#define MFI_SPLIT_PAIRS 16u /* of positions and heads, for each thread: below, attention is split by positions */
#define MFI_SPLIT_SPANS 64u /* of each, for which there is room: with more, it is not */

/* One request's rows in this batch. Pages: pages[slot][p] holds positions 64 p .. of cache slot `slot`. */
typedef struct mfi_run_request {
    const mf_submodel *view;
    uint32_t position, n_row; /* the first row's position */
    const int32_t *tokens;    /* [n_row]; or NULL, and */
    const float *pixels;      /* the image whose rows these are, all of them */
    const float *embeddings;  /* next row for a token of -1 */
    size_t embedding_stride;
    mfk_type cache_type;
    size_t value_offset_bytes;
    void *const *const *pages;
    uint32_t out_begin, out_end;     /* rows [out_begin, out_end) are wanted; their outputs: */
    float *logits, *hidden, *pooled; /* or NULL. Of an image logits and pooled are of the class row, wanted or not */
    size_t logits_stride, hidden_stride;
    const atomic_bool *cancel;
    /* worked out by mfi_batch_lay_out */
    uint32_t first_row, first_out;
} mfi_run_request;

/* The first n_row rows of a space reach `extent`. Extents ascend, so the row counts fall. */
typedef struct mfi_step {
    uint32_t extent, n_row;
} mfi_step;

/* The rows of one space of one layer, ordered by what they reach (program.h). */
typedef struct mfi_space {
    uint32_t n_row, n_step;
    bool identity;      /* index i is row i, and all rows are in */
    uint32_t *row_of;   /* [n_row] index in the space to row of ALL */
    uint32_t *index_of; /* [rows of ALL] back; MFI_NO_ROW where the row is not in */
    mfi_step *step;
} mfi_space;

#define MFI_NO_ROW UINT32_MAX

/* Up to so many, every thread computes norms and the like for itself, rather than wait and fetch the rows from another
 * core's cache. With two threads and eight rows, 22 layers whose weights stay in the caches take 1.1 ms so and 1.3 ms
 * otherwise (`matformer bench mixed`). */
#define MFI_FEW_ROWS 8u

struct mf_executor {
    mf_model *model;
    mf_allocator allocator;
    mfi_pool *pool;
    atomic_bool busy;
    uint32_t n_thread, max_rows, max_requests;
    void *workspace;
    size_t workspace_bytes;

    /* Carved from the workspace. */
    float ***buffer; /* [n_thread][program->n_buffer] what each thread uses in this batch: one of these two */
    float **shared;  /* [program->n_buffer] max_rows rows */
    float ***copied; /* [n_thread][program->n_buffer] MFI_FEW_ROWS rows for copied buffers; others as in shared */
    unsigned char **scratch;                          /* [n_thread] MFK_SCRATCH_BYTES */
    float **logits_tile;                              /* [n_thread] MFI_LOGITS_ROWS x MFI_LOGITS_COLUMNS */
    float *cos[MFI_N_ROTATION], *sin[MFI_N_ROTATION]; /* [max_rows][d_head / 2] */
    float *part; /* [n_part][part_stride] of attention that is split: max, sum and values */
    size_t n_part, part_stride;
    const float **embedding; /* [max_rows] the caller's row, or NULL for a token */
    uint32_t *row_request;   /* [max_rows] */
    mfi_space *attn, *ffn;   /* [n_layer] */
    mfi_space all, out, class_rows;
    uint32_t *order;          /* [max_requests] */
    mfi_run_request *request; /* [max_requests] */

    /* The batch in progress. */
    uint32_t n_request, n_row;
    mfi_cut cut;
    atomic_uint_least32_t stop_layer; /* all requests were cancelled when this layer began */
};

mf_status mfi_executor_create(mf_executor **out, mf_model *model, const mf_executor_options *options, mf_error *error);
void mfi_executor_free(mf_executor *executor);
/* False when it is in use. */
bool mfi_executor_acquire(mf_executor *executor);
void mfi_executor_release(mf_executor *executor);

/* batch.c: rows, positions, spaces and the cut of executor->request[0 .. n_request). */
void mfi_batch_lay_out(mf_executor *executor);
/* The first row of a request that a layer needs: 0, or in the tail the first that is wanted. */
uint32_t mfi_first_row(const mf_executor *executor, const mfi_run_request *request, uint32_t layer);
const mfi_space *mfi_batch_space(const mf_executor *executor, mfi_rows rows, uint32_t layer);

/* Runs the batch laid out; cut short when every request in it was cancelled. */
void mfi_run(mf_executor *executor);

/* ---- Shared by the run_*.c files ---- */

/* Row `index` of a buffer as `thread` sees it. */
static inline float *mfi_row(const mf_executor *executor, uint32_t thread, uint16_t buffer, size_t index)
{
    return executor->buffer[thread][buffer] + index * executor->model->program->buffer[buffer].stride;
}

static inline uint32_t mfi_space_index(const mfi_space *space, uint32_t row)
{
    return space->identity ? row : space->index_of[row];
}

/* The key/value heads of a request that are `thread`'s: all of them where heads are not shared out. */
void mfi_heads_of(const mf_executor *executor, const mf_submodel *view, uint32_t layer, uint32_t thread,
                  uint32_t *begin, uint32_t *end);

void mfi_run_gemm(mf_executor *executor, const mfi_op *op, uint32_t thread);
void mfi_run_output(mf_executor *executor, const mfi_op *op, uint32_t thread);
void mfi_run_attend(const mf_executor *executor, const mfi_op *op, uint32_t thread);
void mfi_run_merge(const mf_executor *executor, const mfi_op *op, uint32_t thread);

#endif
