/* program.h - a model as a list of operations over named row buffers.
 *
 * A family compiles to this list once, when the model meets a processor. It holds everything that does not
 * change from call to call: tensors, kernels' parameters, buffers. Widths, heads and skips are read at run
 * time from the view of each row, so one program serves every view and every batch.
 *
 * Rows. A batch is a matrix of rows, one a token. An operation works on the rows of a *space*:
 *   MFI_ROWS_ALL    every row, in the order of the requests
 *   MFI_ROWS_ATTN   rows whose view keeps the layer, the most heads first
 *   MFI_ROWS_FFN    rows whose view keeps the layer, the widest FFN first
 *   MFI_ROWS_OUT    rows whose hidden state or logits are wanted
 *   MFI_ROWS_CLASS  first rows of images whose logits or pooled states are wanted
 * From tail_layer on, where nothing is stored any more, the rows of a layer are only those of OUT among them.
 * A buffer belongs to one space kind. An operation that treats rows apart runs for the rows of its own space, and
 * finds each operand's row by the operand's: NORM and COPY gather rows from ALL into a space and ADD scatters them
 * back, so that the matrix products in between see the rows that reach a width as a prefix.
 */
#ifndef MFI_PROGRAM_H
#define MFI_PROGRAM_H

#include "container.h"
#include "model_config.h"

typedef enum mfi_rows { MFI_ROWS_ALL, MFI_ROWS_ATTN, MFI_ROWS_FFN, MFI_ROWS_OUT, MFI_ROWS_CLASS } mfi_rows;

/* What decides a live extent of an operand: nothing, or the row's view in the operation's layer. */
typedef enum mfi_extent {
    MFI_EXTENT_FULL,
    MFI_EXTENT_HEADS,    /* heads * d_head */
    MFI_EXTENT_KV_HEADS, /* kv_heads * d_head */
    MFI_EXTENT_FFN
} mfi_extent;

typedef enum mfi_op_kind {
    MFI_OP_EMBED,    /* dst = scale * table[token], or the caller's embedding row */
    MFI_OP_LOOKUP,   /* dst = scale * (dst + table_scale * the layer's columns of table[token]); a token beyond the
                         table takes row 0, and of a caller's embedding dst stays as it is */
    MFI_OP_COPY,     /* dst = scale * src */
    MFI_OP_NORM,     /* dst = norm(src) */
    MFI_OP_ADD,      /* dst = fma(scale, src, dst) */
    MFI_OP_MUL,      /* dst = src . weight, or src . src2 where there is none */
    MFI_OP_MATCH,    /* dst = src * rms(src2) / max(rms(src), sqrt(eps)) */
    MFI_OP_MATVEC,   /* dst = act(scale * W * src) + offset, W = weight [n][width of src], its elements within +-clip */
    MFI_OP_COMBINE,  /* dst = src + sum_i coefficient[coefficient_at + i] * stream[i], coefficients of the same row */
    MFI_OP_QUANTIZE, /* dst = src as mfk_q8_block, up to `n_of`; in the same space */
    MFI_OP_GEMM,     /* dst = src * B^T, for each part; `activation` applied when `activated` */
    MFI_OP_GLU,      /* dst = act(src * G^T) . (src * U^T), shell after shell */
    MFI_OP_SPARSE,   /* dst = act(max(0, src - cut)) . dst, cut = mean + sparsity * deviation of the live src */
    MFI_OP_HEAD_NORM, /* every head of dst normed in place, by weight [d_head] or none; heads by `n_of` */
    MFI_OP_ROPE,      /* dst rotated in place by the table `rotation`, heads by `n_of` */
    MFI_OP_STORE,     /* src is the keys, src2 the values: to the session's cache, slot `slot` */
    MFI_OP_ATTEND,    /* dst = attention of src over the cache, or the parts of spans of positions, */
    MFI_OP_MERGE,     /* which this makes one */
    MFI_OP_OUTPUT,    /* hidden states (src) and, where it has a part, logits, softcapped, to the callers' memory */
    MFI_OP_PATCH,     /* dst = the pixels of the row's patch, zeros behind them; zeros for the class row */
    MFI_OP_PLACE,     /* dst = dst, or `bias` for the class row, + the row's position in `weight` */
    MFI_OP_GIVE       /* src to the callers' memory: logits or, where `pooled`, pooled states */
} mfi_op_kind;

/* How a batch is cut for the threads; the executor chooses by its shape (docs/architecture.md, Threads).
 *   ROWS    operations that treat rows apart give a thread its rows of ALL
 *   COPIES  for few rows: every thread computes all rows of the buffers that are `copied`, in copies of its own,
 *           rather than wait for the thread that has them
 *   HEADS   the same, and a thread rotates, stores and attends with its key/value heads */
typedef enum mfi_cut { MFI_CUT_ROWS, MFI_CUT_COPIES, MFI_CUT_HEADS, MFI_N_CUT } mfi_cut;

/* Stage s is operations begin[s] .. begin[s + 1] - 1; threads meet between two stages. */
typedef struct mfi_stages {
    uint32_t n_stage;
    uint32_t *begin; /* [n_stage + 1] */
} mfi_stages;

/* One product of a GEMM: the same input rows, its own output buffer. `shells` pieces in order: along n for
 * n_of == FFN, along k (each resumed) for k_of == FFN; one piece otherwise. */
typedef struct mfi_part {
    const mfi_tensor *const *piece; /* [n_shell]; NULL where the shell is empty for this layer */
    /* Or NULL. Added to the outputs, those of all shells, by the thread that has them; gate_bias: GLU */
    const mfi_tensor *bias, *gate_bias;
    uint32_t n_shell;
    uint16_t dst;
    mfi_extent n_of;
    uint32_t matrix; /* which, of those that the pieces interleave */
} mfi_part;

#define MFI_MAX_PART (MFI_MAX_STREAM - 1) /* every stream from the first */
#define MFI_N_ROTATION 2                  /* of all layers, or of those without a window; of those with one */

typedef struct mfi_op {
    mfi_op_kind kind;
    mfi_rows rows;
    uint32_t layer;          /* ascends along the list; n_layer after the last */
    uint16_t src, src2, dst; /* buffers. Of a product src2 is src quantized, for pieces of Q8 and Q4 */
    mfi_extent n_of, k_of;
    uint32_t n_part;
    mfi_part part[MFI_MAX_PART];
    const mfi_tensor *table;         /* EMBED, LOOKUP */
    const mfi_tensor *weight, *bias; /* NORM, PLACE; bias NULL for RMS */
    mfi_norm norm;
    float eps, scale, table_scale, offset;
    float clip;     /* 0: none */
    float sparsity; /* deviations */
    float softcap;  /* OUTPUT: logits are c * tanh(logit / c); 0: none */
    mfk_activation activation;
    bool activated;
    bool pooled;                                                            /* GIVE */
    bool quantized;                                                         /* GLU: dst holds mfk_q8_block */
    uint16_t n_stream, stream[MFI_MAX_STREAM], coefficient, coefficient_at; /* COMBINE */
    uint32_t slot;                                                          /* of the cache: STORE, ATTEND */
    uint32_t window;   /* ATTEND: positions seen, itself included; 0: all */
    uint32_t rotation; /* ROPE */
} mfi_op;

typedef struct mfi_buffer {
    mfi_rows rows;
    uint32_t width; /* floats of a row, the widest */
    /* worked out by mfi_program_finish: */
    uint32_t stride; /* floats from row to row */
    bool copied;     /* written only by operations that treat rows apart and need nothing of other threads */
} mfi_buffer;

/* What every family says of a layer; views are checked against it. */
typedef struct mfi_layer {
    uint32_t d_ff, n_head; /* the widest */
    bool may_skip;
    uint32_t slot; /* of the cache, which it reads; slot_layer[slot] writes it */
} mfi_layer;

typedef struct mfi_program {
    mf_allocator allocator;
    uint32_t d_model, d_head, head_group, n_vocab, n_layer;
    mfi_layer *layer;                             /* [n_layer] */
    const mfi_tensor *rope_freqs[MFI_N_ROTATION]; /* [d_head / 2] or NULL */
    bool whole;                                   /* rows see all rows of their request, not just those before them */
    uint32_t n_slope;                             /* heads of the widest layer, */
    float *slope;                                 /* [n_layer][n_slope] and ALiBi's slopes of them, or NULL */
    uint32_t n_shell;
    uint32_t *shell_bound; /* [n_shell][n_layer] FFN width that shells 0..s hold together */
    uint32_t n_slot;       /* layers that own keys and values */
    uint32_t *slot_layer;  /* [n_slot] */
    uint32_t tail_layer;   /* the layer after the last that stores keys and values; worked out by finish */
    mfi_op *op;
    uint32_t n_op, op_capacity;
    mfi_stages stages[MFI_N_CUT];
    mfi_buffer *buffer;
    uint32_t n_buffer, buffer_capacity;
    const mfi_tensor **piece; /* storage of all parts' piece lists */
    uint32_t n_piece, piece_capacity;
} mfi_program;

/* Building: sizes first, then operations in order. Capacities are fixed at the start, so that nothing
 * moves; exceeding one is a defect of the family and refused by finish. */
typedef struct mfi_program_sizes {
    uint32_t n_layer, n_shell, max_op, max_buffer, max_piece;
} mfi_program_sizes;
mf_status mfi_program_create(mfi_program **out, const mf_allocator *allocator, const mfi_program_sizes *sizes,
                             mf_error *error);
void mfi_program_free(mfi_program *program);
uint16_t mfi_program_buffer(mfi_program *program, mfi_rows rows, uint32_t width);
/* Of mfk_q8_block instead: `width` numbers quantized. */
uint16_t mfi_program_quantized_buffer(mfi_program *program, mfi_rows rows, uint32_t width);
mfi_op *mfi_program_op(mfi_program *program, mfi_op_kind kind, mfi_rows rows, uint32_t layer, uint16_t src,
                       uint16_t dst);
/* ATTEND with the MERGE that belongs to it. */
void mfi_program_attend(mfi_program *program, uint32_t layer, uint32_t slot, uint16_t src, uint16_t dst, float scale,
                        uint32_t window);
/* ALiBi (mfi_config.alibi_max) for the layers, whose heads are set. */
mf_status mfi_program_slopes(mfi_program *program, float alibi_max, mf_error *error);
/* Adds a product to a GEMM or GLU. `piece` [n_shell] is copied. */
void mfi_program_part(mfi_program *program, mfi_op *op, const mfi_tensor *const *piece, uint32_t n_shell, uint16_t dst,
                      mfi_extent n_of);
/* Works out strides, copies and stages; MF_E_FORMAT when a capacity was exceeded. */
mf_status mfi_program_finish(mfi_program *program, mf_error *error);
/* Shells that a width of a layer reaches into; at least 1. */
uint32_t mfi_program_shells(const mfi_program *program, uint32_t layer, uint32_t ffn);

#endif
