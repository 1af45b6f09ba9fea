/* kernel.h - the interface of every kernel, and what a kernel may assume and must promise.
 *
 * This folder knows nothing of files, models, errors or threads. Its arithmetic is written down in
 * docs/arithmetic.md and is the same, bit for bit, in every kernel of an operation. Those whose names end in _fast follow
 * a second one: what they promise is the same, with an instruction set's own chain for the fourth point.
 *
 * A GEMM kernel may assume:
 *   - m, n, k >= 1. m and n are otherwise free; k is a multiple of 32 (the packer pads with zeros).
 *   - A is row major, at least 4-byte aligned, rows a_row_bytes apart, at least k long: f32, or, where the
 *     weights are Q8 or Q4, blocks of mfk_q8_block.
 *   - B is a panel tensor, see pack.h: panels of 16 outputs, b_panel_bytes apart, 64-byte aligned.
 *   - k_begin is a multiple of 32: inputs [k_begin, k_begin + k) of B meet a[0 .. k).
 * and promises:
 *   1. It reads no byte of B past input k_begin + k of a panel, nor any panel past the one of column n-1.
 *      Columns of that panel beyond n are live weights of a wider view: loaded perhaps, never used.
 *   2. It writes C[0..m)[0..n) and nothing else; allocates nothing, keeps no state, calls no libm.
 *   3. Each output depends on its row of A, its column of B, k, and (with MFK_RESUME) its old value alone.
 *   4. It follows the chain of docs/arithmetic.md, k ascending, from +0 or, with MFK_RESUME, from the value in C.
 *   5. It prefetches nothing that it may not read.
 */
#ifndef MFK_KERNEL_H
#define MFK_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#define MFK_NR 16                      /* outputs of a panel: one AVX-512 register of f32 */
#define MFK_K_ALIGN 32                 /* k is padded to it with zeros, and is the quantum of every width */
#define MFK_PAGE 64                    /* positions of a cache page */
#define MFK_SPAN 1024                  /* keys whose softmax is computed apart before spans are merged */
#define MFK_BLOCK 32                   /* inputs that share a scale: of Q8 and Q4 weights, and of their activations */
#define MFK_ATTEND_ROWS 16             /* most query rows in one mfk_attend_args */
#define MFK_SCRATCH_BYTES (320u << 10) /* 64-byte aligned, per thread, for whatever a kernel wants */

/* Element types of stored weights and of the cache. The numbers are the file's. */
typedef enum mfk_type { MFK_F32 = 1, MFK_BF16 = 2, MFK_F16 = 3, MFK_Q8 = 4, MFK_Q4 = 5, MFK_U8 = 6 } mfk_type;

/* Weights of these types are multiplied with activations that are quantized too. */
static inline int mfk_type_quantized(mfk_type type)
{
    return type == MFK_Q8 || type == MFK_Q4;
}

typedef enum mfk_activation {
    MFK_SILU = 0,
    MFK_GELU_TANH = 1,
    MFK_GELU_ERF = 2,
    MFK_RELU = 3,
    MFK_TANH = 4
} mfk_activation;

/* Bytes of one key/value head's keys, or of its values, in a cache page: [d_head][MFK_PAGE] keys or [MFK_PAGE][d_head]
 * values of `type` (MFK_F32, MFK_BF16 or MFK_Q8). In a block of Q8 they are signed bytes, and the MFK_PAGE positions'
 * f32 scales lie behind them. */
static inline size_t mfk_cache_block_bytes(mfk_type type, size_t d_head)
{
    const size_t n = MFK_PAGE * d_head;
    return type == MFK_F32 ? 4 * n : type == MFK_BF16 ? 2 * n : n + MFK_PAGE * sizeof(float);
}

/* 32 activations as Q8 and Q4 weights meet them: value = scale * q, q in -127 .. 127. */
typedef struct mfk_q8_block {
    float scale;
    int32_t offset;  /* -128 * (q[0] + ... + q[31]): takes back the 128 by which weights are too large when unsigned */
    int32_t half[2]; /* the same of q[0] .. q[15] and of q[16] .. q[31] */
    int8_t q[MFK_BLOCK];
} mfk_q8_block;

enum { MFK_RESUME = 1u }; /* continue the chain from C */

typedef struct mfk_gemm_args {
    size_t m, n, k; /* live extents; n or k is a width prefix */
    size_t k_begin; /* where in B the inputs begin */
    const void *a;  /* [m][k] f32, or [m][k / 32] mfk_q8_block */
    size_t a_row_bytes;
    const void *b;
    size_t b_panel_bytes; /* this shell's stride, never k's */
    const int8_t *table;  /* of Q4, see pack.h */
    float *c;
    size_t c_row_bytes;
    mfk_q8_block *q; /* glu kernels: where not NULL, the hidden units go here, [m][n / 32], and not to C */
    size_t q_row_bytes;
    uint32_t flags;
    mfk_activation activation;        /* glu kernels only, as are */
    const float *gate_bias, *up_bias; /* [n], added to the chains; both or neither */
    void *scratch;                    /* MFK_SCRATCH_BYTES */
} mfk_gemm_args;

/* C[m][n] = A[m][k] * B[n][k]^T */
typedef void mfk_gemm_kernel(const mfk_gemm_args *args);

/* C[m][n] = act(A * G^T) . (A * U^T): B holds panels in the order gate 0, up 0, gate 1, up 1, each
 * b_panel_bytes long; n counts hidden units, a multiple of 32 where they go to q. The two chains are those of
 * a gemm, plus the biases where there are; RESUME is not allowed. */
typedef void mfk_glu_kernel(const mfk_gemm_args *args);

/* y[i] holds x[32 i .. 32 i + 31]; the last block is filled up with zeros. */
typedef void mfk_quantize_kernel(size_t n, const float *x, mfk_q8_block *y);

/* Attention of up to MFK_ATTEND_ROWS query rows over one key/value head of one session. Row r sees the
 * keys at positions key_begin[r] <= j < key_end[r], and reads no other. Keys and values lie in pages of
 * MFK_PAGE positions, page p holding positions 64 p ..: the block of keys at pages[p] + k_offset_bytes, that of
 * values at pages[p] + v_offset_bytes (mfk_cache_block_bytes).
 * Per span of MFK_SPAN positions: scores, maximum, exponentials, sum and weighted values; spans are then
 * merged in ascending order. See docs/arithmetic.md.
 * With `part`, the keys of all rows lie in one span, and what it has for row r goes to part[r] instead of out[r]:
 * values [d_head] that are not divided yet, their maximum and their sum. mfk_attend_merge_kernel puts such parts
 * together; out = values / sum then. */
typedef struct mfk_attend_args {
    size_t n_row, d_head;                /* d_head: a multiple of 16, at most 512 */
    mfk_type type;                       /* of the cache: MFK_F32, MFK_BF16 or MFK_Q8 */
    float scale;                         /* score = scale * dot */
    float softcap;                       /* 0: none; else score = softcap * tanh(score / softcap) */
    const float *slope;                  /* [n_row] or NULL; else score += slope * (j - query_at), at last */
    const uint32_t *query_at;            /* [n_row] the query's own position, with slope */
    const float *const *q;               /* [n_row] rows of d_head */
    float *const *out;                   /* [n_row] rows of d_head */
    float *const *part;                  /* [n_row] of d_head + 2, or NULL */
    const uint32_t *key_begin, *key_end; /* [n_row]; key_begin < key_end */
    const void *const *pages;
    size_t k_offset_bytes, v_offset_bytes;
    void *scratch; /* MFK_SCRATCH_BYTES */
} mfk_attend_args;
typedef void mfk_attend_kernel(const mfk_attend_args *args);
/* The part of a row's next span into the part of those before it. */
typedef void mfk_attend_merge_kernel(size_t d_head, float *part, const float *next);

/* Element-wise kernels; x and y may be the same, no other overlap. */
typedef void mfk_rms_norm_kernel(size_t n, const float *x, const float *weight /* or NULL */, float eps, float *y);
typedef void mfk_layer_norm_kernel(size_t n, const float *x, const float *weight, const float *bias /* or NULL */,
                                   float eps, float *y);
typedef void mfk_activate_kernel(mfk_activation activation, size_t n, const float *x, float *y);
typedef void mfk_mul_kernel(size_t n, const float *x, const float *other, float *y);
typedef void mfk_add_kernel(size_t n, const float *x, const float *other, float *y);
typedef void mfk_axpy_kernel(size_t n, float a, const float *x, float *y); /* y = fma(a, x, y) */
typedef float mfk_dot_kernel(size_t n, const float *x, const float *y);    /* the sum of x[i] * y[i] */
/* y[i] = act(max(0, gate[i] - cut)) * y[i], cut = mean + deviations * standard deviation of gate, over all n of it. */
typedef void mfk_sparse_glu_kernel(mfk_activation activation, size_t n, const float *gate, float deviations, float *y);
/* Rotates each of n_head heads of d_head in place, half-split pairs (j, j + d_head/2) by the d_head/2
 * cosines and sines of the row's position. */
typedef void mfk_rope_kernel(size_t n_head, size_t d_head, const float *cos, const float *sin, float *x);
/* One row's key, or value, into slot `slot` of a block of keys, or values, as mfk_cache_block_bytes has it. */
typedef void mfk_store_key_kernel(mfk_type type, size_t d_head, const float *x, void *block, size_t slot);
typedef void mfk_store_value_kernel(mfk_type type, size_t d_head, const float *x, void *block, size_t slot);
/* Row `index` of a panel tensor (an embedding tied to the output), widened to f32. `table`: of Q4, else NULL. */
typedef void mfk_panel_row_kernel(mfk_type type, size_t k, const int8_t *table, const void *panels,
                                  size_t b_panel_bytes, size_t index, float *y);
/* maximum, and the sum of exp(x - maximum) */
typedef void mfk_softmax_stats_kernel(size_t n, const float *x, float *max, float *sum);

/* 2^(-max * (head + 1) / n_head), ALiBi's slope of a head, our own: the same bits everywhere. max: 0 to 64. */
float mfk_alibi_slope(float max, size_t head, size_t n_head);

/* cos and sin of an f32 angle, our own: the same bits everywhere. Any |angle| < 2^30. */
void mfk_sincos(float angle, float *cos_out, float *sin_out);

typedef mfk_gemm_kernel *mfk_gemm_fn;
typedef mfk_glu_kernel *mfk_glu_fn;
typedef mfk_quantize_kernel *mfk_quantize_fn;
typedef mfk_attend_kernel *mfk_attend_fn;
typedef mfk_attend_merge_kernel *mfk_attend_merge_fn;
typedef mfk_rms_norm_kernel *mfk_rms_norm_fn;
typedef mfk_layer_norm_kernel *mfk_layer_norm_fn;
typedef mfk_activate_kernel *mfk_activate_fn;
typedef mfk_mul_kernel *mfk_mul_fn;
typedef mfk_add_kernel *mfk_add_fn;
typedef mfk_axpy_kernel *mfk_axpy_fn;
typedef mfk_dot_kernel *mfk_dot_fn;
typedef mfk_sparse_glu_kernel *mfk_sparse_glu_fn;
typedef mfk_rope_kernel *mfk_rope_fn;
typedef mfk_store_key_kernel *mfk_store_key_fn;
typedef mfk_store_value_kernel *mfk_store_value_fn;
typedef mfk_panel_row_kernel *mfk_panel_row_fn;
typedef mfk_softmax_stats_kernel *mfk_softmax_stats_fn;

/* The best kernels for a processor; filled with the reference first, then overwritten upward. */
typedef struct mfk_table {
    uint64_t cpu;
    mfk_gemm_fn gemm_f32, gemm_bf16, gemm_f16, gemm_q8, gemm_q4;
    mfk_glu_fn glu_f32, glu_bf16, glu_f16, glu_q8, glu_q4;
    mfk_gemm_fn gemm_bf16_fast; /* of the fast arithmetic; NULL where there is none */
    mfk_glu_fn glu_bf16_fast;
    mfk_quantize_fn quantize;
    mfk_attend_fn attend;
    mfk_attend_merge_fn attend_merge;
    mfk_rms_norm_fn rms_norm;
    mfk_layer_norm_fn layer_norm;
    mfk_activate_fn activate;
    mfk_mul_fn mul;
    mfk_add_fn add;
    mfk_axpy_fn axpy;
    mfk_dot_fn dot;
    mfk_sparse_glu_fn sparse_glu;
    mfk_rope_fn rope;
    mfk_store_key_fn store_key;
    mfk_store_value_fn store_value;
    mfk_panel_row_fn panel_row;
    mfk_softmax_stats_fn softmax_stats;
} mfk_table;
void mfk_table_init(mfk_table *table, uint64_t cpu);
/* Puts the kernels of the fast arithmetic, where there are, into the place of the exact ones. */
void mfk_table_take_fast(mfk_table *table);
/* Whether those are now what multiplies weights of this type. */
int mfk_table_fast(const mfk_table *table, mfk_type type);

/* Every kernel that was compiled, slowest first, for tests and reports: its name, the member of mfk_table
 * that it can fill, and the processor bits that it needs. */
typedef struct mfk_kernel_info {
    const char *slot, *name;
    uint64_t cpu;
} mfk_kernel_info;
const mfk_kernel_info *mfk_kernel_list(size_t *n);

/* The kernel of a weight type, or NULL where there is none. */
mfk_gemm_fn mfk_table_gemm(const mfk_table *table, mfk_type type);
mfk_glu_fn mfk_table_glu(const mfk_table *table, mfk_type type);

#endif
