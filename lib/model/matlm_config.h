/* matlm_config.h - the MatLM decoder family as data: what the file stores, the trainer trains and the
 * runtime compiles. Widths and head counts are per layer and per granularity. */
#ifndef MFI_MATLM_CONFIG_H
#define MFI_MATLM_CONFIG_H

#include <stdbool.h>

#include "container.h"
#include "matformer.h"

#define MFI_QUANTUM 32u /* widths are multiples of it; so is n_head * d_head of any prefix */
#define MFI_MAX_LAYER 512u
#define MFI_MAX_GRANULARITY 16u

typedef enum mfi_norm { MFI_NORM_RMS = 0, MFI_NORM_LAYER = 1 } mfi_norm;
typedef enum mfi_ffn { MFI_FFN_GATED = 0, MFI_FFN_PLAIN = 1 } mfi_ffn; /* act(gate) * up; act(up) */

/* One granularity: a width, a head count and a use for every layer. */
typedef struct mfi_granularity {
    char name[16];
    uint32_t *ffn;   /* [n_layer] width, multiple of the quantum, 0 where skipped */
    uint32_t *heads; /* [n_layer] query heads, 0 where skipped */
} mfi_granularity;

/*  x = embed_scale * E[token]
 *  per layer:  x += O * attend(rope(Q * norm(x)), rope(K * norm(x)), V * norm(x))
 *              x += D * (act(G * norm(x)) . (U * norm(x)))
 *  logits = W * norm(x),  W = E when tied
 * Query head h reads key/value head h / head_group. A position attends to itself and those before it, in a layer with a
 * window to that many of them, itself included. Norms have weights (layer norm: and biases). */
typedef struct mfi_matlm_config {
    uint32_t n_layer, d_model, d_head, n_vocab, max_positions;
    uint32_t head_group; /* query heads per key/value head */
    uint32_t n_head;     /* the widest layer's */
    uint32_t d_ff;       /* the widest layer's */
    mfi_norm norm;
    float norm_eps;
    mfi_ffn ffn;
    mfk_activation activation;
    double rope_theta;     /* 0: no rotation */
    float embed_scale;     /* 1 */
    float attention_scale; /* 1 / sqrt(d_head) */
    bool tied;
    int32_t bos_token, eos_token;                     /* -1: none */
    uint32_t n_granularity;                           /* narrowest first, each nested in the next */
    mfi_granularity granularity[MFI_MAX_GRANULARITY]; /* the last is the full model: it fixes every layer's extents */
    uint8_t *may_skip;                                /* [n_layer] 1: views may leave the layer out */
    uint32_t *window;                                 /* [n_layer] positions that a position sees; 0: all */
} mfi_matlm_config;

static inline uint32_t mfi_kv_heads(uint32_t heads, uint32_t head_group)
{
    return (heads + head_group - 1) / head_group;
}

/* Allocates the per-layer arrays (zeroed) for n_layer and n_granularity, which are set; frees them. */
mf_status mfi_matlm_config_alloc(mfi_matlm_config *config, const mf_allocator *allocator, mf_error *error);
void mfi_matlm_config_free(mfi_matlm_config *config, const mf_allocator *allocator);
/* Every rule a config obeys, for files, the trainer and the savers alike: MF_E_INVALID and a sentence. */
mf_status mfi_matlm_config_check(const mfi_matlm_config *config, mf_error *error);

/* A config's weights, row major f32, by name; out [rows][columns] (a row range is asked for). Names:
 *   embed [n_vocab][d_model], output (untied) likewise, final_norm.weight / .bias [1][d_model]
 *   layers.N.attn_norm.weight / .bias, layers.N.ffn_norm.weight / .bias [1][d_model]
 *   layers.N.attn.q [heads*d_head][d_model], .k, .v [kv_heads*d_head][d_model], .o [d_model][heads*d_head]
 *   layers.N.ffn.gate (gated), .up [ffn][d_model], .down [d_model][ffn] */
typedef struct mfi_weights {
    /* Rows [row, row + n_row) and columns [column, column + n_column) of `name`, to out, n_column apart. */
    mf_status (*read)(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                      float *out, mf_error *error);
    void *user;
    /* Or NULL. Fills the bytes of `tensor`, which a saver has declared, with what the source itself stores; `first` is
     * the hidden unit that its shell begins with. False where the source has it in another type: it is read then. */
    bool (*copy)(void *user, const mfi_tensor *tensor, size_t first, void *bytes);
} mfi_weights;

/* What a matrix is for: each may have an element type of its own. */
typedef enum mfi_role { MFI_ROLE_FFN, MFI_ROLE_ATTENTION, MFI_ROLE_EMBEDDING, MFI_ROLE_OUTPUT, MFI_N_ROLE } mfi_role;
/* Of the matrix or tensor `name`; MFI_N_ROLE for what is no matrix. A tied embedding is MFI_ROLE_EMBEDDING. */
mfi_role mfi_matlm_role(const char *name);

/* What became of the matrices of a role. */
typedef struct mfi_saved_role {
    uint64_t n_weight, bytes;
    uint64_t n_rounded; /* weights whose tensors were packed into a type that rounds */
    double square_sum;  /* of these, and */
    double error_square_sum;
} mfi_saved_role;

typedef struct mfi_matlm_save_options {
    mfk_type type; /* of the matrices; vectors are always f32 */
    mfi_storage storage;
    bool one_shell;        /* all widths in the base region */
    const void *tokenizer; /* blob of tokenizer.h, or NULL */
    size_t tokenizer_bytes;
    const char *const *metadata;    /* key, value, key, value, ..., NULL; or NULL */
    mfk_type role_type[MFI_N_ROLE]; /* instead of `type`, where not 0 */
    const mfi_container *keys_of;   /* or NULL: its metadata that is not the family's is written too */
    mfi_saved_role *saved;          /* [MFI_N_ROLE] or NULL: filled */
    mf_progress progress;           /* or NULL; bytes of matrices. MF_E_CANCELLED where it returns other than 0 */
    void *progress_user;
} mfi_matlm_save_options;

/* Writes a .mf file: layout, shells and packing as docs/container-format.md says. */
mf_status mfi_matlm_save(const mfi_matlm_config *config, const mfi_weights *weights,
                         const mfi_matlm_save_options *options, const mf_allocator *allocator, const char *path,
                         mf_error *error);

#endif
