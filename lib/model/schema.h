/* schema.h - which tensors the .mf file of a configuration has: names, extents and roles, each said once. Savers declare
 * and fill them, importers and exporters map them to other people's names. docs/container-format.md section 5 and
 * docs/families.md say what they mean. */
#ifndef MFI_SCHEMA_H
#define MFI_SCHEMA_H

#include "model_config.h"

/* What of a tensor runs along the hidden units of its layer's FFN, so that a narrower model has a prefix of it. */
typedef enum mfi_along_ffn { MFI_FFN_NOWHERE, MFI_FFN_ALONG_N, MFI_FFN_ALONG_K } mfi_along_ffn;

/* One tensor, all shells of it together. */
typedef struct mfi_schema_tensor {
    char name[64]; /* "layers.3.ffn.gate_up" */
    char
        matrix[2]
              [64]; /* what mfi_weights knows as what it interleaves: "layers.3.ffn.gate", "layers.3.ffn.up"; or name */
    uint32_t n_matrix; /* 1 or 2 */
    mfi_tensor_kind kind;
    mfi_role role;       /* of a matrix; MFI_N_ROLE of a vector */
    uint32_t layer;      /* n_layer: of none */
    uint64_t n, k;       /* PANEL: outputs, inputs. TABLE: rows, columns. PLAIN: elements, 1 */
    mfi_along_ffn along; /* of a PLAIN one ALONG_N: it stays whole in the base region */
} mfi_schema_tensor;

typedef void (*mfi_schema_visit)(void *user, const mfi_schema_tensor *tensor);

/* Visits the tensors of a configuration that was checked, in file order: vectors, matrices, tables. Without the
 * tokenizer, which is the saver's. */
void mfi_schema_each(const mfi_config *config, mfi_schema_visit visit, void *user);
/* Whether one of them has that name. */
bool mfi_schema_has(const mfi_config *config, const char *name);

/* The rotation's frequencies, which are a tensor so that every reader has the same bits: d_head / 2 of them. */
void mfi_rope_frequencies(const mfi_config *config, double theta, float *freqs);

#endif
