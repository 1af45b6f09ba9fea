/* matformer_tools.h - model files: converting them, and planning which widths are best. A library of its own, libmatformer-tools; its ABI is not promised.
 *
 * A *source* is a model that is read to be written anew: a .mf file, a Hugging Face folder or a GGUF file.
 *
 *     mf_source *source = NULL;
 *     mf_convert_options options = MF_CONVERT_OPTIONS_INIT;
 *     options.type = MF_WEIGHT_Q8;
 *     options.role_type[MF_ROLE_FFN] = MF_WEIGHT_Q4;
 *     if (mf_source_open(&source, "model.mf", NULL, &error) == MF_OK)
 *         mf_convert(source, "model-q4.mf", &options, NULL, &error);
 *     mf_source_close(source);
 *
 * The rules of matformer.h hold here too.
 */
#ifndef MATFORMER_TOOLS_H
#define MATFORMER_TOOLS_H

#include "matformer.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MF_TOOLS_VERSION_MAJOR 0
#define MF_TOOLS_VERSION_MINOR 1

/* major << 16 | minor of the library that is running. */
MF_API uint32_t mf_tools_version(void);

/* ---- Weights ------------------------------------------------------------------------------------ */

/* Element types of matrices, docs/container-format.md section 2.4. Vectors are always F32. KEEP: as the source has it. */
typedef enum mf_weight_type {
    MF_WEIGHT_KEEP = 0,
    MF_WEIGHT_F32 = 1,
    MF_WEIGHT_BF16 = 2,
    MF_WEIGHT_F16 = 3,
    MF_WEIGHT_Q8 = 4,
    MF_WEIGHT_Q4 = 5
} mf_weight_type;

/* What a matrix is for. A model whose output matrix is its embedding has the role EMBEDDING alone. */
typedef enum mf_role { MF_ROLE_FFN = 0, MF_ROLE_ATTENTION = 1, MF_ROLE_EMBEDDING = 2, MF_ROLE_OUTPUT = 3 } mf_role;
#define MF_N_ROLE 4

/* "f32", "bf16", "f16", "q8", "q4"; "ffn", "attention", "embedding", "output"; NULL for another value. */
MF_API const char *mf_weight_type_name(mf_weight_type type);
MF_API const char *mf_role_name(mf_role role);

/* ---- Sources ------------------------------------------------------------------------------------ */

/* Immutable once open, but for mf_source_add_slices(). Any number of threads may convert it at once. */
typedef struct mf_source mf_source;

typedef struct mf_source_options {
    size_t struct_size;
    mf_progress progress; /* while it opens */
    void *progress_user;
    mf_allocator allocator; /* alloc NULL: the C library's. Conversions use it too. */
} mf_source_options;
#define MF_SOURCE_OPTIONS_INIT                 \
    {                                          \
        sizeof(mf_source_options), NULL, NULL, \
        {                                      \
            NULL, NULL, NULL                   \
        }                                      \
    }

/* Opens a Hugging Face folder or a GGUF file, as mf_model_open() does but reading nothing of the weights yet; or opens a
 * .mf file and verifies every byte of its weights, so that damage is not written anew under a good checksum.
 * The file is mapped, and may be replaced by rename (as mf_convert() does) while it is open; compressed regions are
 * decoded into memory. MF_E_FORMAT for a file whose last shells are absent; MF_E_UNSUPPORTED for one with tensors that
 * its family does not have, since they would be lost. */
MF_API mf_status mf_source_open(mf_source **out, const char *path, const mf_source_options *options, mf_error *error);
MF_API void mf_source_close(mf_source *source);

/* The matrices of a role. */
typedef struct mf_source_role {
    uint64_t n_weight; /* 0: the model has no such matrix */
    uint64_t bytes;    /* as the tensors lie in memory: with what fills up panels and lines */
    uint32_t types;    /* bit `1 << type` for each mf_weight_type that some matrix has */
    uint32_t reserved;
} mf_source_role;

typedef struct mf_source_info {
    size_t struct_size;
    const char *format; /* "mf", "safetensors", "gguf" */
    mf_source_role role[MF_N_ROLE];
    uint32_t n_tensor; /* of a folder or GGUF file, also those that the model does not use; 0 of a .mf file */
    int has_tokenizer;
} mf_source_info;
#define MF_SOURCE_INFO_INIT                                                                                    \
    {                                                                                                          \
        sizeof(mf_source_info), NULL, { { 0, 0, 0, 0 }, { 0, 0, 0, 0 }, { 0, 0, 0, 0 }, { 0, 0, 0, 0 } }, 0, 0 \
    }

/* Strings live as long as the source. */
MF_API mf_status mf_source_info_get(const mf_source *source, mf_source_info *info);

/* What mf_model_info_get() would say of the model, but for what only an open one has: memory, shells and the processor,
 * which are 0 and NULL. */
MF_API mf_status mf_source_model_info(const mf_source *source, mf_model_info *info);

/* A granularity, narrowest first, or behind these a configuration that has a name: what mf_submodel_info_get() would say
 * of it with the types that KEEP means (of a model that takes images, with all positions). */
typedef struct mf_source_size {
    size_t struct_size;
    const char *name;
    uint32_t n_layer_kept, ffn_least, ffn_most; /* widths of layers that are kept */
    uint32_t reserved;
    uint64_t n_param, bytes_per_token;
} mf_source_size;
#define MF_SOURCE_SIZE_INIT                            \
    {                                                  \
        sizeof(mf_source_size), NULL, 0, 0, 0, 0, 0, 0 \
    }
/* MF_E_RANGE past the last. */
MF_API mf_status mf_source_size_get(const mf_source *source, uint32_t index, mf_source_size *size, mf_error *error);

/* A tensor of a folder or a GGUF file, in the order of names. */
typedef struct mf_source_tensor {
    size_t struct_size;
    const char *name, *type; /* "Q4_K" */
    uint64_t dim[8];         /* [n_dim] the slowest first */
    uint32_t n_dim;
    mf_weight_type becomes; /* what KEEP makes of it; KEEP: the model does not use it */
    uint64_t n_weight, bytes;
    int is_exact; /* no weight changes its value */
    int reserved;
} mf_source_tensor;
#define MF_SOURCE_TENSOR_INIT                                                                           \
    {                                                                                                   \
        sizeof(mf_source_tensor), NULL, NULL, { 0, 0, 0, 0, 0, 0, 0, 0 }, 0, MF_WEIGHT_KEEP, 0, 0, 0, 0 \
    }
/* MF_E_RANGE past the last. Strings live as long as the source. */
MF_API mf_status mf_source_tensor_get(const mf_source *source, uint32_t index, mf_source_tensor *tensor);

/* What rounding tensor `index` costs: sqrt(error_square_sum / square_sum) is its relative error, and sums of several
 * tensors may be added. */
typedef struct mf_source_rounding {
    size_t struct_size;
    uint64_t n_weight; /* that were read */
    double square_sum, error_square_sum;
} mf_source_rounding;
#define MF_SOURCE_ROUNDING_INIT                 \
    {                                           \
        sizeof(mf_source_rounding), 0, 0.0, 0.0 \
    }
/* Reads at most `max_rows` rows of each matrix in the tensor, evenly spread; 0: all. MF_E_RANGE for weights that are not
 * finite. Any number of threads. */
MF_API mf_status mf_source_measure(const mf_source *source, uint32_t index, uint32_t max_rows,
                                   mf_source_rounding *rounding, mf_error *error);

/* Gives configurations names, from comma-separated values as google/gemma3n-slicing-configs has them: columns `name`,
 * `FFN Hidden Dims` ("[2_048 * 4, ...]", a width for each layer that is kept) and `Layers Skipped` ("[20, 21]", or
 * nothing). A name becomes its number ("E2.54", "E2.98-block"). What is written of the source has them: views take them
 * by name. Those of a name that the source has already take its place. Nothing else may use the source meanwhile.
 * MF_E_FORMAT, MF_E_WIDTH: the line, and what is wrong with it; the source is as it was. */
MF_API mf_status mf_source_add_slices(mf_source *source, const char *path, mf_error *error);

/* ---- Conversion --------------------------------------------------------------------------------- */

/* RAW regions are mapped, ZSTD ones are smaller and decoded. KEEP: as the source's base region is. */
typedef enum mf_storage { MF_STORAGE_KEEP = 0, MF_STORAGE_RAW = 1, MF_STORAGE_ZSTD = 2 } mf_storage;

/* NESTED: a shell for each granularity, so that a prefix of the file is a narrower model. SINGLE: all widths in one
 * region. KEEP: SINGLE where the source has a single one. */
typedef enum mf_shells { MF_SHELLS_KEEP = 0, MF_SHELLS_NESTED = 1, MF_SHELLS_SINGLE = 2 } mf_shells;

typedef struct mf_convert_options {
    size_t struct_size;
    mf_weight_type type;                 /* of the matrices */
    mf_weight_type role_type[MF_N_ROLE]; /* instead of `type`, where not KEEP */
    mf_storage storage;
    mf_shells shells;
    uint32_t n_thread;    /* that read and pack; 0: one for each usable core */
    mf_progress progress; /* `done` of `total` bytes of matrices written */
    void *progress_user;
    const char *submodel; /* text form of matformer.h: the file is cut to that view. NULL: all of the model */
} mf_convert_options;
#define MF_CONVERT_OPTIONS_INIT                                                                                     \
    {                                                                                                               \
        sizeof(mf_convert_options), MF_WEIGHT_KEEP,                                                                 \
            { MF_WEIGHT_KEEP, MF_WEIGHT_KEEP, MF_WEIGHT_KEEP, MF_WEIGHT_KEEP }, MF_STORAGE_KEEP, MF_SHELLS_KEEP, 0, \
            NULL, NULL, NULL                                                                                        \
    }

/* What became of the matrices of a role. */
typedef struct mf_converted_role {
    mf_weight_type type;      /* KEEP: of several types, or there is no such matrix */
    uint32_t types;           /* bit `1 << type` for each type */
    uint64_t n_weight, bytes; /* as in mf_source_role */
    uint64_t n_rounded;       /* weights whose type changed to one that rounds; the others are exactly the source's */
    double error;             /* sqrt(sum (after - before)^2 / sum before^2) over the rounded ones; 0: none was off.
                                 Where they or their errors are not finite, nor is it. */
} mf_converted_role;

typedef struct mf_convert_report {
    size_t struct_size;
    mf_converted_role role[MF_N_ROLE];
} mf_convert_report;
#define MF_CONVERT_REPORT_INIT                                                                                       \
    {                                                                                                                \
        sizeof(mf_convert_report),                                                                                   \
        {                                                                                                            \
            { MF_WEIGHT_KEEP, 0, 0, 0, 0, 0 }, { MF_WEIGHT_KEEP, 0, 0, 0, 0, 0 }, { MF_WEIGHT_KEEP, 0, 0, 0, 0, 0 }, \
            {                                                                                                        \
                MF_WEIGHT_KEEP, 0, 0, 0, 0, 0                                                                        \
            }                                                                                                        \
        }                                                                                                            \
    }

/* Writes the source to a .mf file: to a temporary name beside `path`, synced and renamed, so that the file appears
 * whole or not at all. An existing one is replaced, also if it is the source's own. `options` NULL: the same types,
 * storage and shells. `report` may be NULL, and is written on success.
 *
 * A matrix whose type stays keeps its bits: codes and scales of Q8 and Q4 are moved, not made again (but for shells that
 * are joined although their Q4 tables differ). Q8 and Q4 widen to F32 exactly. Everything else of the model stays:
 * configuration, granularities, vectors, tokenizer, metadata of any kind; the stored plan where all types and widths
 * stay.
 *
 * Besides the source, memory is taken for some rows of a tensor: 32 of f32 for each thread, and 16 MiB (or 16 rows for
 * each thread, if these are more).
 * MF_E_RANGE, naming the tensor, where a type does not hold a weight; MF_E_INVALID for a type of a role that the model
 * does not have. */
MF_API mf_status mf_convert(const mf_source *source, const char *path, const mf_convert_options *options,
                            mf_convert_report *report, mf_error *error);

/* ---- Export ------------------------------------------------------------------------------------- */

/* HF: a folder with config.json and safetensors, which the `transformers` package loads. GGUF: a file that llama.cpp
 * loads. */
typedef enum mf_export_format { MF_EXPORT_HF = 0, MF_EXPORT_GGUF = 1 } mf_export_format;

typedef struct mf_export_options {
    size_t struct_size;
    mf_export_format format;
    mf_weight_type type;  /* of the matrices: F32, BF16, F16; Q8 (Q8_0 of GGUF). KEEP: as they are; Q8 and Q4 become
                              BF16 in a folder, Q8_0 in GGUF */
    const char *submodel; /* text form of matformer.h: what is exported. NULL: all of it */
    uint64_t shard_bytes; /* most bytes of one safetensors file; 0: 5e9 */
    mf_progress progress; /* `done` of `total` bytes written */
    void *progress_user;
} mf_export_options;
#define MF_EXPORT_OPTIONS_INIT                                                       \
    {                                                                                \
        sizeof(mf_export_options), MF_EXPORT_HF, MF_WEIGHT_KEEP, NULL, 0, NULL, NULL \
    }

/* Writes a source, or a submodel of it, for others: a new folder or file, which appears whole or not at all. Memory is
 * taken for some rows. MF_E_UNSUPPORTED, with the reason, where the format cannot say what the model is: MatFormer-OLMo in
 * either, ViT in GGUF, widths that differ from layer to layer where the loader reads only one. */
MF_API mf_status mf_export(const mf_source *source, const char *path, const mf_export_options *options,
                           mf_error *error);

/* ---- Parts -------------------------------------------------------------------------------------- */

typedef struct mf_split_options {
    size_t struct_size;
    uint64_t max_bytes; /* of each file; 0: no limit */
    int pack;           /* as many shells to a file as max_bytes lets; else each gets a file of its own */
    int reserved;
    mf_progress progress; /* `done` of `total` bytes of weights written */
    void *progress_user;
    void (*on_file)(void *user, const char *path, uint64_t bytes); /* when a file is under its name; or NULL */
    void *on_file_user;
    mf_allocator allocator; /* alloc NULL: the C library's */
} mf_split_options;
#define MF_SPLIT_OPTIONS_INIT                                      \
    {                                                              \
        sizeof(mf_split_options), 0, 0, 0, NULL, NULL, NULL, NULL, \
        {                                                          \
            NULL, NULL, NULL                                       \
        }                                                          \
    }

/* Cuts a .mf file (or one that was cut already, by the parts beside it) into a head, `out`, which is a .mf file that has
 * what every width needs, and parts beside it: "model.tables.mfpart", "model.shell1.mfpart", "model.shell2.1of3.mfpart",
 * where `out` is "model.mf". mf_model_open() on the head finds those that are there, and mf_model_attach() takes them from
 * elsewhere. A shell that is larger than max_bytes is cut.
 *
 * Every byte is verified. Each file is written to a temporary name, synced and renamed, and the head comes last;
 * existing ones are replaced, and after a failure whole parts may remain. MF_E_INVALID where max_bytes do not hold the
 * head; MF_E_FORMAT for a file that is not all there. */
MF_API mf_status mf_split(const char *path, const char *out, const mf_split_options *options, mf_error *error);
/* ---- Planning ----------------------------------------------------------------------------------
 * Which widths are best for what they cost, measured on text and on this machine (docs/planner.md).
 *
 *     mf_plan *plan = NULL;
 *     mf_plan_options options = MF_PLAN_OPTIONS_INIT;
 *     options.tokens = tokens;
 *     options.n_token = n_token;
 *     if (mf_plan_make(&plan, model, &options, &error) == MF_OK &&
 *         mf_plan_time(plan, model, NULL, 0, &error) == MF_OK)
 *         mf_plan_store(plan, "model.mf", &error);
 *     mf_plan_close(plan);
 */

typedef struct mf_plan mf_plan; /* one thread at a time */

/* What the widths are to be best for. MS: milliseconds of a decoded token, worked out from the bytes that it reads and the
 * layers that it runs, by a straight line through views that are timed first. */
typedef enum mf_plan_cost { MF_PLAN_PARAMS = 0, MF_PLAN_BYTES = 1, MF_PLAN_FLOPS = 2, MF_PLAN_MS = 3 } mf_plan_cost;

/* How views to evaluate are found. SEARCH is the planner; the others are what it is compared with: widths that never
 * fall with depth, and differ by one step at most (the rule of thumb of Devvrit et al. 2023); one width for all layers;
 * widths drawn for each layer. */
typedef enum mf_plan_method {
    MF_PLAN_SEARCH = 0,
    MF_PLAN_RULE = 1,
    MF_PLAN_UNIFORM = 2,
    MF_PLAN_RANDOM = 3
} mf_plan_method;

typedef struct mf_plan_options {
    size_t struct_size;
    const int32_t
        *tokens;    /* [n_token] calibration text: windows of `context` tokens, each read from an empty timeline; */
    size_t n_token; /* all tokens of a window but its first are predicted */
    const float *pixels;   /* of a model that takes images: [n_image][n_channel][image_size][image_size] */
    const int32_t *labels; /* [n_image] or NULL */
    size_t n_image;
    const char *calibration; /* what to call it; NULL: nothing. At most 400 bytes */
    mf_plan_cost cost;
    mf_plan_method method;
    uint32_t n_evaluation; /* views whose loss is measured, the file's granularities included; 0: 200 */
    uint32_t context;      /* 0: the model's max_positions */
    uint32_t n_thread;     /* 0: one for each usable core */
    uint32_t n_entry;      /* most that a plan keeps; 0: 64 */
    double time_limit_s;   /* begins no evaluation after it; 0: none */
    uint64_t seed;
    const char *resume; /* path of a file that gets a line for every evaluation. One that is there already stands in for
                             the evaluations that it has, so that an interrupted plan goes on; or NULL */
    mf_progress progress; /* `done` of `total` evaluations; mf_plan_time(): of timings */
    void *progress_user;
    mf_allocator allocator; /* alloc NULL: the C library's */
} mf_plan_options;
#define MF_PLAN_OPTIONS_INIT                                                                                           \
    {                                                                                                                  \
        sizeof(mf_plan_options), NULL, 0, NULL, NULL, 0, NULL, MF_PLAN_PARAMS, MF_PLAN_SEARCH, 0, 0, 0, 0, 0, 0, NULL, \
            NULL, NULL,                                                                                                \
        {                                                                                                              \
            NULL, NULL, NULL                                                                                           \
        }                                                                                                              \
    }

/* Measures. Every width of the plan is a multiple of the quantum between the narrowest and the widest granularity of its
 * layer; layers that may be skipped are tried without, heads where granularities differ in them. The same options and
 * resume file give the same plan whatever interrupts them, but for cost MS. Where time ran out the plan is of what was
 * measured. MF_E_INVALID for a resume file of another model, text or plan; MF_E_CANCELLED; MF_E_FORMAT. */
MF_API mf_status mf_plan_make(mf_plan **out, mf_model *model, const mf_plan_options *options, mf_error *error);

/* The plan that is stored in the model's file, to be timed or stored elsewhere. MF_E_NOT_FOUND: there is none. */
MF_API mf_status mf_plan_read(mf_plan **out, mf_model *model, mf_error *error);
MF_API void mf_plan_close(mf_plan *plan);

/* Entries of the plan, as mf_model_plan_entry() has them (n_shell too); or, with `all`, of every view that was evaluated, in
 * that order. MF_E_RANGE past the last. */
MF_API mf_status mf_plan_entry_get(const mf_plan *plan, int all, uint32_t index, mf_plan_entry *entry);

/* Times every entry on this machine, each in turn with the widest, `rounds` times (0: 15), and keeps medians of ratios;
 * and how long the widest takes to verify drafts. An entry that reads more never gets less time than one that reads
 * fewer. n_thread, progress, time_limit_s (0: none) of `options` (may be NULL) are read. MF_E_CANCELLED. */
MF_API mf_status mf_plan_time(mf_plan *plan, mf_model *model, const mf_plan_options *options, uint32_t rounds,
                              mf_error *error);

/* Times the `n_view` views in turn with `reference`, as above, `rounds` times each: ms of a decoded token (of an image) to ms [n_view], and of
 * the reference to *reference_ms. */
MF_API mf_status mf_plan_time_views(mf_model *model, const mf_submodel *const *views, size_t n_view,
                                    const mf_submodel *reference, const mf_plan_options *options, uint32_t rounds,
                                    double *ms, double *reference_ms, mf_error *error);

/* Losses of views on the tokens (or images) of `options`, to loss [n_view]; n_thread, context, resume and progress
 * are read too. */
MF_API mf_status mf_plan_score_views(mf_model *model, const mf_submodel *const *views, size_t n_view,
                                     const mf_plan_options *options, double *loss, mf_error *error);

/* Area between the `n` points and the reference point, of costs up to reference_cost: how far the least loss that can be had
 * for a cost lies below reference_loss, summed over costs. */
MF_API double mf_plan_hypervolume(const double *cost, const double *loss, size_t n, double reference_cost,
                                  double reference_loss);

/* Puts the plan into a .mf file beside its directory, in place of an older one: whenever that is interrupted the file has
 * one of the two, and who has it open is not disturbed (docs/container-format.md, "Slots"). Entries beyond the room that
 * the file has are thinned out. MF_E_BUSY while another process does the same; MF_E_UNSUPPORTED for a checkpoint. */
MF_API mf_status mf_plan_store(const mf_plan *plan, const char *path, mf_error *error);

#ifdef __cplusplus
}
#endif
#endif
