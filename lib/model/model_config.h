/* model_config.h - a model as data: what the file stores, the trainer trains, importers make and the runtime compiles.
 * Widths and head counts are per layer and per granularity. */
#ifndef MFI_MODEL_CONFIG_H
#define MFI_MODEL_CONFIG_H

#include <stdbool.h>

#include "container.h"
#include "matformer.h"

#define MFI_QUANTUM 32u /* widths are multiples of it; so is n_head * d_head of any prefix */
#define MFI_MAX_LAYER 512u
#define MFI_MAX_GRANULARITY 16u
#define MFI_MAX_NAMED 64u
#define MFI_MAX_STREAM 8

/* What computes. The first three are one decoder (below) in their own habits; GEMMA3N and VIT are others. */
typedef enum mfi_family {
    MFI_FAMILY_MATLM = 0, /* trained here */
    MFI_FAMILY_LLAMA = 1,
    MFI_FAMILY_OLMO = 2, /* MatFormer-OLMo */
    MFI_FAMILY_GEMMA3N = 3,
    MFI_FAMILY_VIT = 4,
    MFI_N_FAMILY
} mfi_family;
/* "matlm", "llama", "olmo", "gemma3n", "vit"; MFI_N_FAMILY for another name. */
const char *mfi_family_name(mfi_family family);
mfi_family mfi_family_named(const char *name);

typedef enum mfi_norm { MFI_NORM_RMS = 0, MFI_NORM_LAYER = 1 } mfi_norm;
typedef enum mfi_ffn { MFI_FFN_GATED = 0, MFI_FFN_PLAIN = 1 } mfi_ffn; /* act(gate) * up; act(up) */

/* One granularity: a width, a head count and a use for every layer. */
typedef struct mfi_granularity {
    char name[16];
    uint32_t *ffn;   /* [n_layer] width, multiple of the quantum, 0 where skipped */
    uint32_t *heads; /* [n_layer] query heads, 0 where skipped */
} mfi_granularity;

/* How frequencies f_j = theta^(-2 j / d_head) become others: LINEAR f / factor; LLAMA3 by wavelength l = 2 pi / f and
 * N = original_positions: f / factor where l > N / low_freq_factor, f where l < N / high_freq_factor, and between them
 * (1 - s) f / factor + s f, s = (N / l - low) / (high - low) (Llama 3.1). */
typedef enum mfi_rope_scaling_kind {
    MFI_ROPE_PLAIN = 0,
    MFI_ROPE_LINEAR = 1,
    MFI_ROPE_LLAMA3 = 2
} mfi_rope_scaling_kind;
typedef struct mfi_rope_scaling {
    mfi_rope_scaling_kind kind;
    uint32_t original_positions;
    double factor, low_freq_factor, high_freq_factor;
} mfi_rope_scaling;

/* What only Gemma 3n has; docs/families.md has its equations. */
typedef struct mfi_gemma3n {
    uint32_t n_stream;    /* AltUp's; 4 */
    uint32_t active;      /* the stream that a layer computes on; 0 */
    uint32_t laurel_rank; /* 64 */
    uint32_t d_ple;       /* per-layer embedding; 256 */
    uint32_t n_vocab_ple; /* rows of its table: tokens from there on take row 0 */
    float coef_clip;      /* of the correction's coefficients; 0: none */
    bool correct_scale;
    double rope_theta_local; /* of layers with a window; rope_theta is of the others */
} mfi_gemma3n;

/* What only ViT has. Row 0 is the class token, row 1 + r * side + c patch (r, c), side = image_size / patch_size. */
typedef struct mfi_vit {
    uint32_t image_size, patch_size, n_channel;
    uint32_t n_class; /* 0: no classification head */
    bool pooler;      /* tanh(W x_0 + b) */
} mfi_vit;

/* The rows that an image becomes; 0 of a model that takes none. */
static inline uint32_t mfi_vit_rows(const mfi_vit *vit)
{
    const uint32_t side = vit->patch_size == 0 ? 0 : vit->image_size / vit->patch_size;
    return side == 0 ? 0 : 1 + side * side;
}

/* MATLM, LLAMA, OLMO:
 *  x = embed_scale * E[token]
 *  per layer:  x += O * attend(rope(Q * norm(x)), rope(K * norm(x)), V * norm(x))
 *              x += D * (act(G * norm(x)) . (U * norm(x)))
 *  logits = W * norm(x),  W = E when tied
 * Query head h reads key/value head h / head_group. A position attends to itself and those before it, in a layer with a
 * window to that many of them, itself included. Norms have weights (layer norm: and biases). */
typedef struct mfi_config {
    mfi_family family;
    uint32_t n_layer, d_model, d_head, n_vocab, max_positions;
    uint32_t n_token; /* rows of the vocabulary that are tokens; the others fill it up, and are never chosen. 0: all */
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
    bool attention_bias, ffn_bias; /* q, k, v, o; gate, up, down */
    bool parallel;                 /* x += attention(norm(x)) + ffn(norm(x)), one norm (PaLM) */
    float alibi_max;     /* 0: none. Head h of n: -2^(-alibi_max * (h + 1) / n) * (i - j) is added to the score */
    float logit_softcap; /* c tanh(logit / c); 0: none */
    mfi_rope_scaling rope_scaling;
    mfi_gemma3n gemma3n;
    mfi_vit vit;
    int32_t bos_token, eos_token;                     /* -1: none */
    uint32_t n_granularity;                           /* narrowest first, each nested in the next */
    mfi_granularity granularity[MFI_MAX_GRANULARITY]; /* the last is the full model: it fixes every layer's extents */
    uint32_t n_named;                                 /* configurations that have a name too, nested in nothing; */
    mfi_granularity named[MFI_MAX_NAMED];             /* heads: all, or 0 where skipped */
    uint8_t *may_skip;                                /* [n_layer] 1: views may leave the layer out */
    uint32_t *window;                                 /* [n_layer] positions that a position sees; 0: all */
    uint32_t *kv_layer; /* [n_layer] whose keys and values it reads: itself, or one before it */
    float *sparsity;    /* [n_layer] gate values below mean + sparsity * deviation become 0; 0: dense (GEMMA3N) */
} mfi_config;

static inline uint32_t mfi_token_count(const mfi_config *config)
{
    return config->n_token ? config->n_token : config->n_vocab;
}

static inline uint32_t mfi_kv_heads(uint32_t heads, uint32_t head_group)
{
    return (heads + head_group - 1) / head_group;
}

/* Allocates the per-layer arrays (zeroed; every layer its own kv_layer) for n_layer, n_granularity and n_named, which are set; frees them. */
mf_status mfi_config_alloc(mfi_config *config, const mf_allocator *allocator, mf_error *error);
void mfi_config_free(mfi_config *config, const mf_allocator *allocator);
/* A copy with `n_named` named configurations: those of `from`, and empty ones. */
mf_status mfi_config_copy(mfi_config *to, const mfi_config *from, uint32_t n_named, const mf_allocator *allocator,
                          mf_error *error);
/* Every rule a config obeys, for files, the trainer and the savers alike: MF_E_INVALID and a sentence. */
mf_status mfi_config_check(const mfi_config *config, mf_error *error);

/* model_config_file.c: as metadata of a .mf file. What a family does not have is not written, and keeps its default. */
mf_status mfi_config_read(mfi_config *config, const mfi_container *container, const mf_allocator *allocator,
                          mf_error *error);
void mfi_config_declare(const mfi_config *config, mfi_writer *writer);
/* Whether `key` is one of these. */
bool mfi_config_key_known(const char *key);

/* A config's weights, row major f32, by the names of schema.h. */
struct mfi_schema_tensor;
typedef struct mfi_weights {
    /* Rows [row, row + n_row) and columns [column, column + n_column) of the matrix or vector `name`, to out, n_column
     * apart. A vector has one row. Any number of threads. */
    mf_status (*read)(void *user, const char *name, size_t row, size_t n_row, size_t column, size_t n_column,
                      float *out, mf_error *error);
    void *user;
    /* Or NULL. The type of `tensor` in the source, or that which keeps its values best; 0: it is of several. */
    mfk_type (*type_of)(void *user, const struct mfi_schema_tensor *tensor);
    /* Or NULL. Whether the source has, or makes exactly, the bytes of `tensor`, which a saver has declared for the tensor
     * `is`; what is before the first panel or row goes to head. `first`: the hidden unit that its shell begins with. */
    bool (*has)(void *user, const struct mfi_schema_tensor *is, const mfi_tensor *tensor, size_t first,
                unsigned char head[MFK_LINE]);
    /* Then: those of the rows from 16 * group on, at most 16 of them, all matrices. */
    mf_status (*copy)(void *user, const struct mfi_schema_tensor *is, const mfi_tensor *tensor, size_t first,
                      size_t group, unsigned char *bytes, mf_error *error);
} mfi_weights;

/* What a matrix is for: each may have an element type of its own. ATTENTION is what is none of the others, too. */
typedef enum mfi_role { MFI_ROLE_FFN, MFI_ROLE_ATTENTION, MFI_ROLE_EMBEDDING, MFI_ROLE_OUTPUT, MFI_N_ROLE } mfi_role;
/* Of the matrix or tensor `name`; MFI_N_ROLE for what is certainly no matrix. A tied embedding is MFI_ROLE_EMBEDDING. */
mfi_role mfi_role_of(const char *name);

/* What became of the matrices of a role. */
typedef struct mfi_saved_role {
    uint64_t n_weight, bytes;
    uint32_t types;     /* bit 1 << type */
    uint64_t n_rounded; /* weights whose tensors were packed into a type that rounds */
    double square_sum;  /* of these, and */
    double error_square_sum;
} mfi_saved_role;

typedef struct mfi_save_options {
    mfk_type type; /* of the matrices; 0: as the weights' type_of says. Vectors are always f32 */
    mfi_storage storage;
    bool one_shell;        /* all widths in the base region */
    const void *tokenizer; /* blob of tokenizer.h, or NULL */
    size_t tokenizer_bytes;
    const char *const *metadata;    /* key, value, key, value, ..., NULL; or NULL */
    mfk_type role_type[MFI_N_ROLE]; /* instead of `type`, where not 0 */
    const mfi_container *keys_of;   /* or NULL: its metadata that is not the family's is written too */
    mfi_saved_role *saved;          /* [MFI_N_ROLE] or NULL: filled */
    const void *plan;               /* [plan_bytes] stored plan, or NULL */
    size_t plan_bytes;
    uint32_t n_thread;    /* that read and pack; 0: one */
    mf_progress progress; /* or NULL; bytes of matrices. MF_E_CANCELLED where it returns other than 0 */
    void *progress_user;
} mfi_save_options;

/* Writes a .mf file: layout, shells and packing as docs/container-format.md says. */
mf_status mfi_save(const mfi_config *config, const mfi_weights *weights, const mfi_save_options *options,
                   const mf_allocator *allocator, const char *path, mf_error *error);
/* The same to memory. `name` is for messages. */
mf_status mfi_save_image(const mfi_config *config, const mfi_weights *weights, const mfi_save_options *options,
                         const mf_allocator *allocator, const char *name, mfi_image *image, mf_error *error);

#endif
