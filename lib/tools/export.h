/* export.h - a model in other people's formats: what their writers share. */
#ifndef MFI_EXPORT_H
#define MFI_EXPORT_H

#include "families.h"
#include "matformer_tools.h"
#include "model_config.h"
#include "platform.h"
#include "schema.h"

/* One of their tensors: rows of one of our matrices, or of several, one below the other. */
typedef struct mfi_out_part {
    mfi_schema_tensor is; /* whose matrix `matrix` it is */
    uint32_t matrix;
    uint32_t tensor; /* index of theirs */
    uint64_t n;      /* rows; a vector: 1 */
    bool repeated;   /* row 0, n times */
} mfi_out_part;

typedef struct mfi_out_tensor {
    char name[160];
    uint32_t n_dim;
    uint64_t dim[4];  /* the slowest first */
    uint64_t rows, k; /* as a matrix; a vector: 1 row */
    bool is_vector;
    uint32_t rotated; /* d_head where rows go in GGUF's order */
    mfi_source_type type;
    bool has_codes; /* of Q8, in a type that holds them */
    bool is_zero;   /* all of it, and of no parts */
    uint64_t bytes, offset;
} mfi_out_tensor;

typedef struct mfi_exporter {
    mf_allocator allocator;
    const mfi_config *config;
    mfi_weights weights;
    const mfi_import_family *names;
    const mf_export_options *options;
    const char *path;
    mfi_out_tensor *tensor; /* [n_tensor] */
    mfi_out_part *part;     /* [n_part] */
    size_t n_tensor, n_part;
    size_t capacity;       /* of both; at first what a writer adds of its own */
    const char *folder;    /* that the source is, or NULL */
    const void *tokenizer; /* blob, or NULL */
    size_t tokenizer_bytes;
    uint64_t done, total; /* bytes written, for progress */
    mf_error *error;
    mf_status status;
} mfi_exporter;

/* MF_E_UNSUPPORTED: the path and why. */
mf_status mfi_export_refuse(const mfi_exporter *exporter, const char *why);
/* Whether the model is a Llama, or a Gemma 3n whose loaders find the same sharing. */
mf_status mfi_export_check_llama(const mfi_exporter *exporter);
mf_status mfi_export_check_gemma3n(const mfi_exporter *exporter);
/* The rotation's frequencies `name` as the weights have them, or of theta: d_head / 2, at most MFI_MAX_FREQUENCY. */
#define MFI_MAX_FREQUENCY 256u
mf_status mfi_export_rotation(const mfi_exporter *exporter, const char *name, double theta, float *freqs);
/* Whether two frequencies are the same but for rounding. */
bool mfi_export_same_frequency(float a, float b);

/* Their tensors in schema order, by the first name of each matrix. */
mf_status mfi_export_list(mfi_exporter *exporter);
/* Sets type and bytes: as the options say; where the source's type is kept, Q8 and Q4 become `quantized`. */
void mfi_export_set_type(const mfi_exporter *exporter, mfi_out_tensor *tensor, mfi_source_type quantized);
/* The bytes of one tensor, in pieces, to `file` at `offset`. */
mf_status mfi_export_tensor(mfi_exporter *exporter, const mfi_out_tensor *tensor, mfi_new_file *file, uint64_t offset);

/* So many more are written: tells the caller, who may cancel. */
mf_status mfi_export_advance(mfi_exporter *exporter, uint64_t bytes);

/* export_hf.c, export_gguf.c */
mf_status mfi_export_hf(mfi_exporter *exporter);
mf_status mfi_export_gguf(mfi_exporter *exporter);

/* Widths that are the same in all layers; 0 where they are not. */
uint32_t mfi_uniform_ffn(const mfi_config *config);
uint32_t mfi_uniform_heads(const mfi_config *config);

#endif
