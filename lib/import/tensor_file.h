/* tensor_file.h - the tensors of a checkpoint, wherever they lie: one safetensors file or many, or a GGUF file.
 *
 * Opening reads and checks the headers alone, and proves of every tensor that its bytes lie inside its file. Values are
 * read with pread(), never through a mapping: a file that shrinks meanwhile gives an error and no signal. */
#ifndef MFI_TENSOR_FILE_H
#define MFI_TENSOR_FILE_H

#include <stdbool.h>

#include "arena.h"
#include "matformer.h"

/* Of GGUF and of safetensors. Those that are only here for `info` and messages cannot be read. */
typedef enum mfi_source_type {
    MFI_SOURCE_F32,
    MFI_SOURCE_F16,
    MFI_SOURCE_BF16,
    MFI_SOURCE_F64,
    MFI_SOURCE_Q8_0,
    MFI_SOURCE_Q4_0,
    MFI_SOURCE_Q4_1,
    MFI_SOURCE_Q5_0,
    MFI_SOURCE_Q5_1,
    MFI_SOURCE_Q4_K,
    MFI_SOURCE_Q5_K,
    MFI_SOURCE_Q6_K,
    MFI_SOURCE_OTHER /* refused when it is read; type_name says what it is */
} mfi_source_type;

#define MFI_SOURCE_DIMS 8u
typedef struct mfi_source_tensor {
    const char *name;      /* as in the file: no control characters, 1 to 255 bytes of UTF-8 */
    const char *type_name; /* "BF16", "Q4_K" */
    mfi_source_type type;
    uint32_t n_dim, file;          /* file: which of those that the checkpoint consists of */
    uint64_t dim[MFI_SOURCE_DIMS]; /* the slowest first, as PyTorch has it; a scalar has none */
    uint64_t offset, bytes;        /* in the file */
} mfi_source_tensor;

typedef struct mfi_tensor_file mfi_tensor_file;

/* A Hugging Face folder: model.safetensors, or model.safetensors.index.json and its shards. On failure *out is NULL. */
mf_status mfi_safetensors_open(mfi_tensor_file **out, const char *folder, const mf_allocator *allocator,
                               mf_error *error);
/* One GGUF file, or the first of a split one. Likewise. */
mf_status mfi_gguf_open(mfi_tensor_file **out, const char *path, const mf_allocator *allocator, mf_error *error);
void mfi_tensor_file_close(mfi_tensor_file *file); /* NULL is nothing */

const char *mfi_tensor_file_name(const mfi_tensor_file *file); /* for messages: path of the folder or file */
uint32_t mfi_tensor_file_count(const mfi_tensor_file *file);
const mfi_source_tensor *mfi_tensor_file_at(const mfi_tensor_file *file, uint32_t index); /* in the order of names */
const mfi_source_tensor *mfi_tensor_file_find(const mfi_tensor_file *file, const char *name);

/* ---- Values ---- */

/* A tensor is read as a matrix: a row is the innermost dimension, and there are as many as all others make. A scalar is
 * one row of one. */
uint64_t mfi_source_rows(const mfi_source_tensor *tensor);
uint64_t mfi_source_columns(const mfi_source_tensor *tensor);
/* Of one row. 0 for MFI_SOURCE_OTHER, like the sizes of a block below. */
uint64_t mfi_source_row_bytes(const mfi_source_tensor *tensor);
/* Elements of rows [row, row + n_row), columns [column, column + n_column), to out, n_column apart, as f32. `scratch`,
 * of mfi_source_scratch_bytes(tensor), is the caller's, one for each thread. Any number of threads. MF_E_UNSUPPORTED
 * for MFI_SOURCE_OTHER, MF_E_RANGE for a window beyond the tensor, MF_E_IO for a file that is shorter than it was. */
size_t mfi_source_scratch_bytes(const mfi_source_tensor *tensor); /* at most 64 KiB */
mf_status mfi_source_read(const mfi_tensor_file *file, const mfi_source_tensor *tensor, uint64_t row, size_t n_row,
                          uint64_t column, size_t n_column, float *out, void *scratch, mf_error *error);
/* The bytes of whole rows as they are, for types whose blocks are imported exactly. The same statuses. */
mf_status mfi_source_read_bytes(const mfi_tensor_file *file, const mfi_source_tensor *tensor, uint64_t row,
                                size_t n_row, void *out, mf_error *error);

/* source_blocks.c: blocks to f32, as docs/import.md has the formulas. `blocks` may lie anywhere. */
void mfi_source_decode(mfi_source_type type, const void *blocks, size_t n_block, float *out);
size_t mfi_source_block(mfi_source_type type);       /* elements: 1, 32 or 256 */
size_t mfi_source_block_bytes(mfi_source_type type); /* at most 210 */

/* ---- Metadata of a GGUF file; of a split one, the first's. Nothing for safetensors ---- */

/* Arrays hold numbers, booleans or texts; arrays of arrays are refused. */
typedef enum mfi_gguf_kind {
    MFI_GGUF_INTEGER,
    MFI_GGUF_REAL,
    MFI_GGUF_BOOL,
    MFI_GGUF_TEXT,
    MFI_GGUF_ARRAY
} mfi_gguf_kind;
typedef struct mfi_gguf_text {
    const char *at; /* not terminated; any bytes. It lives as long as the file is open */
    size_t bytes;
} mfi_gguf_text;

/* Whether the key is there, of whatever kind. */
bool mfi_gguf_has(const mfi_tensor_file *file, const char *key);
/* False when the key is missing or of another kind. Integers come in any width, and as integral floats. */
bool mfi_gguf_u64(const mfi_tensor_file *file, const char *key, uint64_t *value);
bool mfi_gguf_f64(const mfi_tensor_file *file, const char *key, double *value); /* integers too */
bool mfi_gguf_bool(const mfi_tensor_file *file, const char *key, bool *value);
bool mfi_gguf_text_of(const mfi_tensor_file *file, const char *key, mfi_gguf_text *value);
/* An array's number of elements and their kind; then all of them. */
bool mfi_gguf_array(const mfi_tensor_file *file, const char *key, mfi_gguf_kind *kind, uint64_t *count);
/* Numbers and booleans (0 and 1). False also where there are more than `capacity`. */
bool mfi_gguf_array_f64(const mfi_tensor_file *file, const char *key, double *values, size_t capacity);
/* Calls visit for each text of an array, in order, until it returns other than 0. */
bool mfi_gguf_array_texts(const mfi_tensor_file *file, const char *key,
                          int (*visit)(void *user, uint64_t index, mfi_gguf_text text), void *user);
/* All keys, sorted; false past the last. */
bool mfi_gguf_key_at(const mfi_tensor_file *file, uint32_t index, mfi_gguf_text *key, mfi_gguf_kind *kind);

#endif
