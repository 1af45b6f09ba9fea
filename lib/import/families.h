/* families.h - what import.c knows of a family: its configuration in other people's words, and its tensors' names. */
#ifndef MFI_IMPORT_FAMILIES_H
#define MFI_IMPORT_FAMILIES_H

#include "json.h"
#include "model_config.h"
#include "tensor_file.h"

/* Which part of their tensor ours is. */
typedef enum mfi_name_part {
    MFI_NAME_WHOLE,
    MFI_NAME_LAYER, /* rows [layer * n, (layer + 1) * n): all layers' are in one */
    MFI_NAME_Q,     /* rows of q, then k, then v: a fused projection */
    MFI_NAME_K,
    MFI_NAME_V,
    MFI_NAME_AFTER_QKV,       /* what follows these */
    MFI_NAME_INDEX,           /* slice "#" of a tensor of three dimensions */
    MFI_NAME_ROTATED,         /* rows of a head in pairs (i, i + d_head / 2), as GGUF stores Llama's */
    MFI_NAME_FUSED_ROTATED_Q, /* both */
    MFI_NAME_FUSED_ROTATED_K
} mfi_name_part;

/* "%u" is the layer in theirs, "#" an index in both, and "^" at the beginning of theirs means without the prefix; ours
 * is without "layers.N.". The first of several that is there is taken. */
typedef struct mfi_name {
    const char *ours, *theirs;
    mfi_name_part part;
} mfi_name;

typedef struct mfi_import_family {
    mfi_family family;
    const char *model_types;     /* of config.json, or architectures of GGUF, separated by spaces */
    const char *const *prefixes; /* of all names, tried in order with `probe`; ends with NULL */
    const char *probe;
    const mfi_name *names; /* ends with ours == NULL */
    /* Fills the configuration, for which nothing is allocated yet. */
    mf_status (*read_json)(mfi_config *config, mfi_json_reader *reader, const mfi_tensor_file *file,
                           const mf_allocator *allocator, mf_error *error);
    mf_status (*read_gguf)(mfi_config *config, const mfi_tensor_file *file, const mf_allocator *allocator,
                           mf_error *error);
} mfi_import_family;

extern const mfi_import_family mfi_import_llama_hf, mfi_import_llama_gguf, mfi_import_gemma3n_hf,
    mfi_import_gemma3n_gguf, mfi_import_olmo, mfi_import_vit;

/* "layers.3.attn.q" of layer 3 without what is before "attn.q". */
const char *mfi_rest_of_name(const mfi_config *config, const char *ours, uint32_t layer);
/* The first name that a family has for our matrix `ours` ("layers.3.attn.q") of layer `layer`, with its prefix; NULL for
 * none. *rest: ours without "layers.N.". */
const mfi_name *mfi_find_name(const mfi_import_family *family, const mfi_config *config, const char *ours,
                              uint32_t layer, const char *prefix, char *theirs, size_t room, const char **rest);
/* The same for all names of it: the one after `entry` (NULL: the first). */
const mfi_name *mfi_next_name(const mfi_import_family *family, const mfi_name *entry, const char *rest,
                              uint32_t *index);
/* Their name for layer and index. */
void mfi_make_name(const mfi_name *entry, const char *prefix, uint32_t layer, uint32_t index, char *out, size_t room);

/* The quantile of the standard normal distribution at 0.95, as float32 arithmetic gives it to PyTorch and to JAX. */
#define MFI_KAPPA_95 1.6448533535003662f

/* ---- What readers of configurations share (import_config.c) ---- */

/* One granularity "XL" of these widths; d_ff, n_head, granularities follow. Allocates. */
mf_status mfi_import_extents(mfi_config *config, uint32_t n_granularity, const mf_allocator *allocator,
                             mf_error *error);
/* Sets granularity g: `share` of every layer's width in ffn [n_layer], rounded up to the quantum. */
void mfi_import_granularity(mfi_config *config, uint32_t g, const char *name, const uint32_t *ffn, double share);
/* Whether heads can share key/value heads evenly. `where` is the file. */
mf_status mfi_import_check_heads(const char *where, uint32_t n_head, uint32_t n_kv_head, mf_error *error);
/* The first of an integer or a list of them, -1 where there is none. */
int32_t mfi_import_token(mfi_json_reader *reader, const char *key);
/* config.json's list of widths, or one for all; ffn [MFI_MAX_LAYER]. */
void mfi_import_widths(mfi_json_reader *reader, const char *key, uint32_t n_layer, uint32_t *ffn);
/* rope_scaling, or rope_parameters, of an object that has them; theta too where it is there. */
void mfi_import_rope(mfi_json_reader *reader, const json_t *scaling, mfi_config *config);
/* "matformer" of config.json, where it is there, over what the family's reader made of the rest. */
mf_status mfi_import_nesting(mfi_json_reader *reader, mfi_config *config, const mf_allocator *allocator);
/* "silu", "gelu_pytorch_tanh" ...: MFK_SILU and so on; another name fails. */
mfk_activation mfi_import_activation(mfi_json_reader *reader, const char *key, const char *none);

/* Values of a GGUF file under "ARCH.key": a missing or wrong one fails, but with _or. */
typedef struct mfi_gguf_reader {
    const mfi_tensor_file *file;
    const char *architecture;
    mf_error *error;
    mf_status status;
} mfi_gguf_reader;
uint32_t mfi_gguf_read_u32(mfi_gguf_reader *reader, const char *key, uint32_t least, uint32_t most);
uint32_t mfi_gguf_read_u32_or(mfi_gguf_reader *reader, const char *key, uint32_t least, uint32_t most, uint32_t none);
double mfi_gguf_read_f64_or(mfi_gguf_reader *reader, const char *key, double none);
double mfi_gguf_read_f64(mfi_gguf_reader *reader, const char *key);
/* "tokenizer.ggml." key; -1 where there is none, or it is outside the vocabulary. */
int32_t mfi_gguf_token(const mfi_tensor_file *file, const char *key, uint32_t n_vocab);
/* An array of one number a layer, or one for all, or `none` where it is absent. */
void mfi_gguf_read_layers(mfi_gguf_reader *reader, const char *key, uint32_t n_layer, double none, double *out);

#endif
