/* matformer.h - nested (MatFormer) transformers: one weight file, every model size.
 *
 * A model is opened once and shared. A submodel is a *view* of it: per layer, how many feed-forward
 * units and heads are used, and whether the layer is used at all. A view holds no weights, costs
 * under a microsecond and under a kilobyte, and can change at any token of a session. An executor
 * owns the worker threads and the workspace; mf_forward() runs any number of requests, each with its
 * own session and its own view, as one batch.
 *
 *     #include <matformer.h>
 *     #include <stdio.h>
 *
 *     static int print(void *user, const mf_token_event *event)
 *     {
 *         (void)user;
 *         fwrite(event->text, 1, event->text_bytes, stdout);
 *         return 0;
 *     }
 *
 *     int main(void)
 *     {
 *         mf_error error = MF_ERROR_INIT;
 *         mf_model *model = NULL;
 *         mf_submodel *view = NULL;
 *         mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
 *         options.prompt = "Once upon a time";
 *         options.on_token = print;
 *         if (mf_model_open(&model, "model.mf", NULL, &error) == MF_OK &&
 *             mf_extract_submodel_text(&view, model, "M", &error) == MF_OK)
 *             mf_generate(NULL, NULL, view, &options, NULL, &error);
 *         if (error.status != MF_OK) fprintf(stderr, "%s\n", error.detail);
 *         mf_submodel_close(view);
 *         mf_model_close(model);
 *         return error.status != MF_OK;
 *     }
 *
 * Rules that hold everywhere:
 *
 * - Every function that can fail returns an mf_status. Those that can fail for many reasons take an
 *   optional mf_error, last, and write a sentence to it; on success they leave it alone.
 * - A pointer may be NULL where its function says so. Any other that is NULL gives MF_E_INVALID; 0 or NULL where
 *   no status is returned.
 * - On failure, *out of a constructor is NULL and nothing was kept.
 * - A child keeps its parent alive (a session its model, a view its model), so the order of closing
 *   does not matter. Closing NULL does nothing.
 * - Option structs begin with struct_size; fill them with their INIT macro. Zero in any field means
 *   the default, and NULL for the whole struct means all defaults. A struct from an older or a newer
 *   release is accepted; a newer one only while the fields unknown here are zero.
 * - The library prints nothing, never exits, keeps no global state, and installs no signal handler.
 *   Its threads block all signals. After fork() the child must not use objects of the parent:
 *   functions that would need the worker threads return MF_E_FORKED.
 * - A count has the name of what it counts: `tokens` has n_token elements, `text` text_bytes bytes. Where something is
 *   written, `capacity` is the room that there is. Indices begin at 0.
 * - Memory comes from the allocator given at mf_model_open(). mf_forward() allocates nothing.
 * - Text is UTF-8 but nothing requires it to be valid. Counts are elements unless named _bytes.
 */
#ifndef MATFORMER_H
#define MATFORMER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32) && defined(MF_BUILDING_DLL)
#define MF_API __declspec(dllexport)
#elif defined(_WIN32)
#define MF_API /* functions need no dllimport */
#elif defined(__GNUC__) && __GNUC__ >= 4
#define MF_API __attribute__((visibility("default")))
#else
#define MF_API
#endif

/* ---- Version ------------------------------------------------------------------------------------
 * The build reads these lines: the major number is the soname. Within one major number the ABI only
 * grows. */

#define MF_VERSION_MAJOR 0
#define MF_VERSION_MINOR 1
#define MF_VERSION_PATCH 0

/* The version of the library that is running: major << 16 | minor << 8 | patch. Any thread. */
MF_API uint32_t mf_version(void);

/* ---- Status -------------------------------------------------------------------------------------
 * Values never change their meaning and are never reused. */

#define MF_STATUS_MAP(X)                                                                      \
    X(OK, 0, "success")                                                                       \
    X(E_INVALID, -1, "invalid argument")                                                      \
    X(E_NOMEM, -2, "out of memory")                                                           \
    X(E_IO, -3, "the file could not be read or written")                                      \
    X(E_FORMAT, -4, "the file is damaged or not of this format")                              \
    X(E_CHECKSUM, -5, "the data does not match its checksum")                                 \
    X(E_STRUCT_SIZE, -6, "option struct from an unsupported version")                         \
    X(E_UNSUPPORTED, -7, "not supported by this build or this model")                         \
    X(E_CANCELLED, -8, "cancelled")                                                           \
    X(E_BUSY, -9, "the object is in use")                                                     \
    X(E_WIDTH, -10, "the model does not offer this width, head count or skip")                \
    X(E_NOT_RESIDENT, -11, "the view is wider than what was loaded")                          \
    X(E_REBUILD_NEEDED, -12, "the cache was written with other key/value heads; rewind to 0") \
    X(E_FULL, -13, "no room for more positions")                                              \
    X(E_RANGE, -14, "a token, position or index is out of range")                             \
    X(E_FORKED, -15, "used in a forked child; open the model there")                          \
    X(E_NOT_FOUND, -16, "no such file, key or name")                                          \
    X(E_CAPACITY, -17, "the output buffer is too small")                                      \
    X(E_THREAD, -18, "a worker thread could not be started")

typedef enum mf_status {
#define MF_STATUS_ENUM(name, value, text) MF_##name = value,
    MF_STATUS_MAP(MF_STATUS_ENUM)
#undef MF_STATUS_ENUM
} mf_status;

/* "MF_E_NOMEM" and "out of memory". Never NULL, also for unknown values. Any thread. */
MF_API const char *mf_status_name(mf_status status);
MF_API const char *mf_status_text(mf_status status);

/* What went wrong, in a sentence that names the file, the tensor or the argument, and the remedy.
 * Owned by the caller; written on failure only; always terminated. */
typedef struct mf_error {
    size_t struct_size;
    mf_status status;
    char detail[240];
} mf_error;
#define MF_ERROR_INIT               \
    {                               \
        sizeof(mf_error), MF_OK, "" \
    }

/* ---- Memory -------------------------------------------------------------------------------------
 * `alloc` returns `bytes` bytes aligned to `align` (a power of two, at most 4096), or NULL. `free`
 * gets the same `bytes` back. Both may be called from any thread, also at the same time. */

/* Where memory comes from, and where it goes. */
typedef struct mf_allocator {
    void *(*alloc)(void *user, size_t bytes, size_t align);
    void (*free)(void *user, void *memory, size_t bytes);
    void *user;
} mf_allocator;

/* ---- Model --------------------------------------------------------------------------------------
 * The weights and what they mean. Immutable once open, but for which of its shells are in memory (see Residency
 * below); reference counted; share it between threads freely. */

typedef struct mf_model mf_model;

/* MAP: the file's raw regions are mapped; opening takes the same time whatever the size. A mapped
 * file must not be changed in place while it is open: replace it by rename, or reads may fault.
 * COPY: everything is read into memory (in huge pages where the system grants them) and the file
 * may then be changed or removed. Regions stored compressed are always decoded into memory. */
typedef enum mf_load { MF_LOAD_MAP = 0, MF_LOAD_COPY = 1 } mf_load;

/* How much of the weights to check against the stored checksums. The directory is always checked.
 * DEFAULT: compressed regions and files under 64 MB in full, others not. */
typedef enum mf_verify { MF_VERIFY_DEFAULT = 0, MF_VERIFY_FULL = 1, MF_VERIFY_NONE = 2 } mf_verify;

/* EXACT: every processor, tile, batch and thread count gives the same bits. FAST may use instructions
 * that round otherwise, so that another kind of processor may give other bits; nothing else may: not the batch, the
 * threads, the cuts of a prompt, nor what else is in the file. Without a faster kernel for the model it is the same as
 * EXACT. */
typedef enum mf_arithmetic { MF_ARITHMETIC_EXACT = 0, MF_ARITHMETIC_FAST = 1 } mf_arithmetic;

/* Called while a model opens (and by other long work), from the calling thread. `done` of `total`
 * bytes. Return 0 to go on; anything else cancels, and the call returns MF_E_CANCELLED. */
typedef int (*mf_progress)(void *user, uint64_t done, uint64_t total);

/* One line of text without a newline; any thread. `level`: 0 error, 1 warning, 2 information. */
typedef void (*mf_log)(void *user, int level, const char *line);

typedef struct mf_model_options {
    size_t struct_size;
    mf_load load;
    mf_verify verify;
    mf_arithmetic arithmetic;
    const char *widest; /* name of the widest granularity to load now; NULL: all of the file */
    /* Highest processor level to use: "scalar"; "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16" (of use to FAST);
     * "neon", "dotprod", "i8mm", "armbf16" (of use to FAST). NULL: what there is, without what is slow there. The
     * environment variable MF_CPU lowers it further. */
    const char *cpu;
    uint32_t n_thread; /* threads for decoding and packing; 0: one per usable core */
    uint32_t reserved;
    mf_progress progress;
    void *progress_user;
    mf_log log;
    void *log_user;
    mf_allocator allocator; /* alloc NULL: the C library's */
    uint64_t cache_bytes;   /* most memory for the key/value pages of all sessions; 0: as they reserve */
} mf_model_options;
#define MF_MODEL_OPTIONS_INIT                                                                                        \
    {                                                                                                                \
        sizeof(mf_model_options), MF_LOAD_MAP, MF_VERIFY_DEFAULT, MF_ARITHMETIC_EXACT, NULL, NULL, 0, 0, NULL, NULL, \
            NULL, NULL, { NULL, NULL, NULL }, 0                                                                      \
    }

/* Opens `path`: a .mf file, with the parts that `matformer export --shells` cut from it where they lie beside it (one that
 * is short, damaged or another model's counts as missing, and the log says why); or, packed into memory as it opens
 * (matrices in the type that keeps their values best: other people's blocks of 4 to 6 bits become Q8), a Hugging Face
 * folder (config.json and safetensors) or a GGUF file, of Llama, Gemma 3n, MatFormer-OLMo or ViT. Then `load`, `verify` and `widest` have no meaning, the files may go afterwards, and
 * `mf_convert` of matformer_tools.h makes the .mf file that opens at once. The path is copied. */
MF_API mf_status mf_model_open(mf_model **out, const char *path, const mf_model_options *options, mf_error *error);

/* The same for `bytes` bytes at `offset` of an open file descriptor (an Android asset, say). The
 * descriptor stays the caller's and may be closed afterwards. `bytes` 0: to the end of the file. */
MF_API mf_status mf_model_open_fd(mf_model **out, int fd, uint64_t offset, uint64_t bytes,
                                  const mf_model_options *options, mf_error *error);

/* The same for a caller's buffer. With MAP the buffer must stay unchanged until the model is closed and
 * be aligned to 64 bytes; with COPY neither. */
MF_API mf_status mf_model_open_memory(mf_model **out, const void *data, size_t bytes, const mf_model_options *options,
                                      mf_error *error);

/* Drops the caller's reference. The memory goes when the last child is closed. */
MF_API void mf_model_close(mf_model *model);

typedef struct mf_model_info {
    size_t struct_size;
    const char *family; /* "matlm", "llama", "olmo", "gemma3n", "vit" */
    const char *cpu;    /* the processor level in use */
    uint32_t n_layer, d_model, n_head, n_kv_head, d_head, d_ff, n_vocab; /* d_ff, n_head: the widest layer's */
    uint32_t max_positions; /* the length it was trained for; sessions may be longer */
    uint32_t n_granularity;
    uint32_t quantum; /* FFN widths are multiples of it */
    uint32_t n_shell, n_shell_resident;
    uint64_t n_param; /* of the widest view, embeddings included */
    uint64_t file_bytes, weight_bytes, mapped_bytes, allocated_bytes;
    int32_t bos_token, eos_token; /* -1: none */
    mf_arithmetic arithmetic;     /* in use: EXACT where FAST was asked for and has no kernel for the model's weights */
    /* Of a model that takes images, and has no tokens (n_vocab 0); else 0: */
    uint32_t image_size, patch_size, n_channel;
    uint32_t n_class; /* logits; 0: it has no classifier */
    uint32_t n_token; /* of n_vocab are tokens; what fills it up is never sampled */
} mf_model_info;
#define MF_MODEL_INFO_INIT                                                                          \
    {                                                                                               \
        sizeof(mf_model_info), NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, \
            MF_ARITHMETIC_EXACT, 0, 0, 0, 0, 0                                                      \
    }

/* Fills as many fields as info->struct_size covers. Strings live as long as the model. */
MF_API mf_status mf_model_info_get(const mf_model *model, mf_model_info *info);

/* Name of granularity `index`, narrowest first ("S", "M", "L", "XL" or the file's own); NULL past the
 * end. Lives as long as the model. */
MF_API const char *mf_model_granularity(const mf_model *model, uint32_t index);

/* Name of the index-th configuration that the file names beside its granularities (Gemma 3n E4B's published slices:
 * "E2.54", ...), which mf_extract_submodel() takes like a granularity; NULL past the end. Lives as long as the model. */
MF_API const char *mf_model_configuration(const mf_model *model, uint32_t index);

/* The text stored under `key` in the file's metadata, or NULL. Lives as long as the model. With an
 * index instead (key NULL): the index-th key, so that all can be listed. */
MF_API const char *mf_model_metadata(const mf_model *model, const char *key, uint32_t index);

/* ---- Residency ----------------------------------------------------------------------------------
 * A model is cut into *shells*: shell 0, with attention and norms, is what the narrowest granularity needs, shell 1 what
 * the next one adds, and so on; and *tables* of embeddings, which every width needs, may be a part of their own. What a
 * model was opened with can be changed while sessions run in other threads: mf_model_grow() loads shells,
 * mf_model_trim() gives their memory back to the system, mf_model_attach() and mf_model_feed() bring those that the file
 * lacks. Forwards take no lock for it: each counts itself into the widest shell that its view needs, and a shell goes
 * when nobody is in it. Logits do not depend on any of this.
 *
 * A view may be wider than what is resident: it holds no addresses. mf_forward() and mf_generate() refuse it with
 * MF_E_NOT_RESIDENT, for that request alone, until the model has grown.
 *
 * These functions may be called from any thread at any time; all but mf_model_shell_info_get() wait for one another, and
 * their progress must call none of them. */

typedef struct mf_grow_options {
    size_t struct_size;
    mf_progress progress; /* from the calling thread */
    void *progress_user;
} mf_grow_options;
#define MF_GROW_OPTIONS_INIT                \
    {                                       \
        sizeof(mf_grow_options), NULL, NULL \
    }

/* Makes all shells resident that a granularity (or another name that mf_extract_submodel() takes) needs; NULL: all of the
 * model. Those that are stay as they are. Parts that have come to lie beside the file since are found. Raw regions are
 * mapped or read as the model's `load` says and compressed ones decoded, and verified as at opening; but what is read of
 * a file that was opened with COPY, and may have been changed, is always verified.
 * MF_E_NOT_FOUND: a shell is in no file, and nothing was loaded; the sentence says which part would have it.
 * MF_E_CHECKSUM, MF_E_IO: the file is damaged, or was cut since. After these, MF_E_NOMEM and MF_E_CANCELLED, shells that
 * were whole by then stay resident. */
MF_API mf_status mf_model_grow(mf_model *model, const char *granularity, const mf_grow_options *options,
                               mf_error *error);

/* For wait_ms: requests that use a shell are not waited for at all. */
#define MF_WAIT_NONE UINT32_MAX

typedef struct mf_trim_options {
    size_t struct_size;
    uint32_t wait_ms; /* for requests in flight that use what is to go; 0: as long as they take */
    uint32_t reserved;
} mf_trim_options;
#define MF_TRIM_OPTIONS_INIT          \
    {                                 \
        sizeof(mf_trim_options), 0, 0 \
    }

/* Leaves resident what a granularity needs (NULL: the narrowest) and gives the memory of all wider shells back, at once.
 * From the beginning of the call on, requests that need them are refused; those in flight are computed to their end. If
 * they take longer than `wait_ms`, MF_E_BUSY, and all shells are as they were. Must not be called from within a
 * parallel_for.
 * Where the caller's own memory was opened with MAP, it stays, and views alone are refused. After mf_model_open_memory()
 * with COPY, and for shells that were fed, there is nothing to grow from again but an attached file or feeding. A
 * checkpoint that was opened directly has one shell, and nothing to trim. */
MF_API mf_status mf_model_trim(mf_model *model, const char *granularity, const mf_trim_options *options,
                               mf_error *error);

/* Adds a file that has shells or tables of the model: one of the parts that `matformer export --shells` writes, or
 * another .mf file (the same one, after more of it was fetched). What it has is known by the hash of its contents and
 * can be grown into afterwards; it is not made resident here. The file is kept open; see mf_load for what must not be
 * done to it. MF_E_FORMAT, MF_E_CHECKSUM: damaged, or of another model; the model is as it was. */
MF_API mf_status mf_model_attach(mf_model *model, const char *path, mf_error *error);
/* The same for `bytes` bytes (0: to its end) at `offset` of an open file descriptor, which stays the caller's. */
MF_API mf_status mf_model_attach_fd(mf_model *model, int fd, uint64_t offset, uint64_t bytes, mf_error *error);

/* Instead of a shell's number. */
#define MF_SHELL_TABLES UINT32_MAX

typedef struct mf_shell_info {
    size_t struct_size;
    uint64_t file_offset, stored_bytes; /* where it is in the whole .mf file; 0 bytes: nothing of the model is in it */
    uint64_t memory_bytes;              /* that it takes when resident */
    uint64_t content_hash;              /* of these */
    uint64_t fed_bytes;                 /* of stored_bytes, by mf_model_feed() so far */
    const char *granularity;            /* the narrowest that needs it; NULL: none. Lives as long as the model */
    int present;                        /* in the file, or an attached one: can be grown into */
    int resident;                       /* in memory; of use when those before it, and the tables, are too */
} mf_shell_info;
#define MF_SHELL_INFO_INIT                               \
    {                                                    \
        sizeof(mf_shell_info), 0, 0, 0, 0, 0, NULL, 0, 0 \
    }

/* Of shell `shell`, from 0 to mf_model_info.n_shell - 1, or of MF_SHELL_TABLES. MF_E_RANGE: there is none. */
MF_API mf_status mf_model_shell_info_get(const mf_model *model, uint32_t shell, mf_shell_info *info);

/* Takes the next `bytes` bytes of a shell (or MF_SHELL_TABLES) that is not resident, as they lie in the whole file from
 * file_offset on: in order, in pieces of any size. With the last of stored_bytes the shell is verified and resident, and
 * counts as soon as those before it do. MF_E_CHECKSUM: they were not its bytes, which begin anew. MF_E_RANGE: more than
 * it has, and none was taken. MF_E_INVALID: it is resident. `data` NULL forgets what was fed. */
MF_API mf_status mf_model_feed(mf_model *model, uint32_t shell, const void *data, size_t bytes, mf_error *error);

/* ---- Submodel -----------------------------------------------------------------------------------
 * An immutable view of a model: no weights of its own. Share it freely. */

typedef struct mf_submodel mf_submodel;

/* What to take. `text` alone, or one of `granularity` and `ratio` as the base, with the lists replacing it
 * where given. Neither: the widest granularity that is loaded; for a list of widths or heads, ratio 1. */
typedef struct mf_submodel_spec {
    size_t struct_size;
    const char *text;        /* the text form, see below */
    const char *granularity; /* a name of the file's */
    double ratio;            /* 0 < ratio <= 1: this share of d_ff in every layer, rounded up to the quantum */
    const uint32_t *ffn;     /* [n_ffn] width of every layer (a skipped one's is ignored), or of the kept ones */
    size_t n_ffn;
    const uint32_t *heads; /* [n_heads] query heads of every layer (the first ones), likewise */
    size_t n_heads;
    const uint32_t *skip; /* [n_skip] layers left out, any order */
    size_t n_skip;
    /* Budgets, alone: of the stored plan's entries that fit all that are given, and whose shells are loaded, the one of
     * the least loss. */
    uint64_t max_params; /* n_param */
    uint64_t max_bytes;  /* bytes_per_token */
    uint64_t max_flops;  /* flops_per_token */
    double max_ms;       /* decode_ms, on the machine that the plan was timed on only */
} mf_submodel_spec;
#define MF_SUBMODEL_SPEC_INIT                                                          \
    {                                                                                  \
        sizeof(mf_submodel_spec), NULL, NULL, 0, NULL, 0, NULL, 0, NULL, 0, 0, 0, 0, 0 \
    }

/* Takes a view. `spec` NULL: the widest that is loaded. A wider one can be taken too, and run when the model has grown.
 * Refused with MF_E_WIDTH and the reason: a width beyond the file or off the quantum, a list of the wrong length, a layer
 * that may not be skipped. Of budgets: MF_E_NOT_FOUND where
 * nothing fits (the sentence names the least that there is), MF_E_UNSUPPORTED where the file has no plan, or none that
 * was timed on this machine. mf_submodel_text() says what was chosen. */
MF_API mf_status mf_extract_submodel(mf_submodel **out, mf_model *model, const mf_submodel_spec *spec, mf_error *error);

/* The same from text, as the command line and configuration files have it. Fields separated by ';' or
 * spaces: a granularity name or a ratio first if any ("XL", "0.5"), then "ffn=1024x4,512x4" (width x
 * count, one per kept layer), "heads=4x8", "skip=3,5-7", "params<=3.2e9", "bytes<=2e9", "flops<=1e9",
 * "ms<=20". */
MF_API mf_status mf_extract_submodel_text(mf_submodel **out, mf_model *model, const char *text, mf_error *error);
MF_API void mf_submodel_close(mf_submodel *submodel);

typedef struct mf_submodel_info {
    size_t struct_size;
    uint64_t n_param;                  /* parameters that it uses, embeddings included */
    uint64_t n_param_body;             /* without the embedding and output matrices */
    uint64_t bytes_per_token;          /* weights read to decode one token */
    uint64_t flops_per_token;          /* multiply-adds count as two; attention over the cache excluded */
    uint64_t cache_bytes_per_position; /* with an f32 cache */
    uint32_t n_layer_kept;
    uint32_t n_shell;    /* shells that must be resident */
    uint32_t view_bytes; /* memory of the view itself */
} mf_submodel_info;
#define MF_SUBMODEL_INFO_INIT                            \
    {                                                    \
        sizeof(mf_submodel_info), 0, 0, 0, 0, 0, 0, 0, 0 \
    }

/* Fills as many fields as info->struct_size covers. */
MF_API mf_status mf_submodel_info_get(const mf_submodel *submodel, mf_submodel_info *info);

/* Width (`ffn`), heads and use (1 kept, 0 skipped) of one layer; each pointer may be NULL. MF_E_RANGE past the end. */
MF_API mf_status mf_submodel_layer(const mf_submodel *submodel, uint32_t layer, uint32_t *ffn, uint32_t *heads,
                                   int *kept);

/* The view in text form, which gives the same view again. Writes at most `capacity` bytes with the
 * terminator, and the bytes needed to *bytes (may be NULL). MF_E_CAPACITY if it did not fit. */
MF_API mf_status mf_submodel_text(const mf_submodel *submodel, char *text, size_t capacity, size_t *bytes);

/* ---- Stored plan --------------------------------------------------------------------------------
 * Which widths are best for a budget, as mf_plan_make() of matformer_tools.h measured it: entries of falling loss, each
 * the best that was found for what it costs, and last the whole model. A .mf file holds one beside its directory. */

typedef struct mf_plan_info {
    size_t struct_size;
    uint32_t n_entry;
    uint32_t n_thread;         /* that the times hold for */
    const char *machine;       /* that they were measured on: processor, level, arithmetic; "": there are none */
    int is_timed_here;         /* budgets in milliseconds are answered: it is this one, with so many usable cores */
    int reserved;              /* 0 */
    const char *calibration;   /* what the losses were measured on, in the planner's words */
    uint64_t calibration_hash; /* XXH64 of the tokens (i32) or pixels (f32) */
    uint64_t n_predicted;      /* tokens (images) that the losses are means of */
} mf_plan_info;
#define MF_PLAN_INFO_INIT                                  \
    {                                                      \
        sizeof(mf_plan_info), 0, 0, NULL, 0, 0, NULL, 0, 0 \
    }
/* MF_E_NOT_FOUND where the file has no plan, or none that this version reads. Strings live as long as the model. */
MF_API mf_status mf_model_plan_info(const mf_model *model, mf_plan_info *info);

/* An entry. Losses are means over the calibration's predictions, in nats; probabilities are compared with those of the
 * widest view. */
typedef struct mf_plan_entry {
    size_t struct_size;
    uint64_t n_param, bytes_per_token, flops_per_token; /* as in mf_submodel_info */
    double loss;                                        /* -ln p of what came; of images without labels kl */
    double kl;         /* sum p ln(p / q), p the widest view's distribution, q this one's */
    double agreement;  /* share of positions with the same likeliest token: accepted drafts, when greedy */
    double acceptance; /* mean of sum min(p, q): accepted drafts, when sampling (Leviathan et al. 2023, 3.3) */
    double decode_ms, prefill_ms; /* per token: one at a time, and of a prompt; 0: not timed */
    uint32_t n_shell;             /* that must be resident */
    uint32_t reserved;
    char *text;           /* in: [text_capacity] or NULL: the view in text form goes there, terminated */
    size_t text_capacity; /* in */
    size_t text_bytes;    /* bytes needed, with the terminator */
} mf_plan_entry;
#define MF_PLAN_ENTRY_INIT                                                 \
    {                                                                      \
        sizeof(mf_plan_entry), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0, 0 \
    }
/* Entry `index`, of falling loss; MF_E_RANGE past the last, the whole model; MF_E_NOT_FOUND without a plan; MF_E_CAPACITY,
 * all else filled, where the text did not fit. */
MF_API mf_status mf_model_plan_entry(const mf_model *model, uint32_t index, mf_plan_entry *entry);

/* The best draft for self-speculation, where the last entry, the whole model, verifies: `length` tokens g are drafted by
 * an entry of relative cost c, and one forward of the whole model over g + 1 rows, v times as long as over one, keeps
 * those before the first refusal. With an acceptance a of each, independent of the others, that is
 * (1 - a^(g + 1)) / (1 - a) tokens in the time g c + v of one (Leviathan et al. 2023, theorem 3.8, where v is 1). */
typedef struct mf_plan_draft {
    size_t struct_size;
    uint32_t entry;     /* index */
    uint32_t length;    /* g */
    double acceptance;  /* a: the entry's agreement where greedy is asked for, else its acceptance */
    double cost;        /* c: its decode_ms, of the last entry's */
    double verify_cost; /* v */
    double speedup;     /* expected; above 1 */
} mf_plan_draft;
#define MF_PLAN_DRAFT_INIT                      \
    {                                           \
        sizeof(mf_plan_draft), 0, 0, 0, 0, 0, 0 \
    }
/* `greedy`: of generation that takes the likeliest token; 0: of sampling at temperature 1. MF_E_NOT_FOUND where the file
 * has no plan with times, or no draft is expected to be of use. */
MF_API mf_status mf_model_plan_draft(const mf_model *model, int greedy, mf_plan_draft *draft);

/* ---- Executor -----------------------------------------------------------------------------------
 * Threads and workspace, reserved for a model. One call at a time; MF_E_BUSY otherwise. */

typedef struct mf_executor mf_executor;

/* A loop over the host's own threads (TBB, OpenMP, GCD, a pool of its own): runs task(task_user, i) once for every i
 * of [0, n), each on any thread, in any order, at the same time or one after another, and returns when all have
 * returned. Tasks wait for nothing but the processor, and each is given the floating-point mode that it needs. What
 * was written before the call is seen by the tasks, and what they wrote after it. */
typedef void (*mf_task)(void *task_user, uint32_t index);
typedef void (*mf_parallel_for)(void *user, uint32_t n, mf_task task, void *task_user);

/* For spin_us: the workers sleep as soon as a call ends. */
#define MF_SPIN_NONE UINT32_MAX

/* On unequal cores n_thread 0 counts the fast ones, and where the threads fit there the workers stay on these: every
 * thread gets an equal share of the work, so that a slow one would keep the others waiting.
 *
 * With parallel_for the executor starts no threads. A forward calls it from the calling thread, several times for a
 * layer and with n = n_thread, so n_thread should be what the host's pool has; spin_us and cpus are then of no use.
 * None of these options changes a result. */
typedef struct mf_executor_options {
    size_t struct_size;
    uint32_t n_thread;     /* the caller counts as one; 0: one per usable core, of the fast ones */
    uint32_t max_tokens;   /* rows computed at once, over all requests; 0: 512. Longer inputs run in pieces. */
    uint32_t max_requests; /* 0: 64 */
    uint32_t spin_us;      /* after a call its workers spin this long for the next one, then sleep; 0: 200;
                              MF_SPIN_NONE: not at all */
    const int *cpus;       /* [n_cpu] processors for the workers, in turn; NULL: wherever the system puts them */
    size_t n_cpu;
    mf_parallel_for parallel_for; /* NULL: worker threads of the executor's own */
    void *parallel_for_user;
} mf_executor_options;
#define MF_EXECUTOR_OPTIONS_INIT                                     \
    {                                                                \
        sizeof(mf_executor_options), 0, 0, 0, 0, NULL, 0, NULL, NULL \
    }

/* Starts the threads and takes the workspace, for sessions of `model` alone. MF_E_THREAD: not all threads could be
 * started; MF_E_NOMEM. */
MF_API mf_status mf_executor_create(mf_executor **out, mf_model *model, const mf_executor_options *options,
                                    mf_error *error);
MF_API void mf_executor_close(mf_executor *executor);

/* ---- Session ------------------------------------------------------------------------------------
 * One timeline: the tokens so far and their keys and values, in pages of 64 positions. One thread at a
 * time, except mf_session_cancel(). */

typedef struct mf_session mf_session;

/* The type that keys and values are stored in; they are read back after rounding, always. Q8 is a byte for each
 * number and an f32 scale for each position and key/value head. */
typedef enum mf_cache_type { MF_CACHE_F32 = 0, MF_CACHE_BF16 = 1, MF_CACHE_Q8 = 2 } mf_cache_type;

typedef struct mf_session_options {
    size_t struct_size;
    uint32_t max_positions; /* 0: the model's max_positions */
    mf_cache_type cache_type;
} mf_session_options;
#define MF_SESSION_OPTIONS_INIT                     \
    {                                               \
        sizeof(mf_session_options), 0, MF_CACHE_F32 \
    }

/* Reserves what max_positions need, unless the model was opened with cache_bytes: then pages come from
 * that budget as they are used, and a forward that finds none returns MF_E_FULL. */
MF_API mf_status mf_session_create(mf_session **out, mf_model *model, const mf_session_options *options,
                                   mf_error *error);
MF_API void mf_session_close(mf_session *session);

/* Positions that are filled; the next token gets this position. */
MF_API uint32_t mf_session_position(const mf_session *session);

/* [position] the tokens so far; -1 where an embedding row was given. Valid until the session changes. */
MF_API const int32_t *mf_session_tokens(const mf_session *session);

/* Forgets all positions from `position` on. MF_E_RANGE if it is ahead. */
MF_API mf_status mf_session_rewind(mf_session *session, uint32_t position);

/* A second timeline with the same past. Pages are shared until one side writes to them. */
MF_API mf_status mf_session_fork(mf_session **out, const mf_session *session, mf_error *error);

/* Writes the timeline to a file (to a temporary name, then renamed), and reads it back into a session
 * of the same model (MF_E_FORMAT otherwise); the session's previous content is replaced on success only, and
 * until then both need room. */
MF_API mf_status mf_session_save(const mf_session *session, const char *path, mf_error *error);
MF_API mf_status mf_session_load(mf_session *session, const char *path, mf_error *error);

/* Stops the forward in progress with this session, between two layers, or else the next one; that
 * request returns MF_E_CANCELLED and the session is as it was. From any thread. */
MF_API void mf_session_cancel(mf_session *session);

/* ---- Forward ------------------------------------------------------------------------------------ */

/* For which positions of the input logits are wanted. */
typedef enum mf_logits { MF_LOGITS_LAST = 0, MF_LOGITS_NONE = 1, MF_LOGITS_ALL = 2 } mf_logits;

/* What one session is to compute, with which view, and where the outputs go. */
typedef struct mf_request {
    mf_session *session;
    const mf_submodel *submodel;
    const int32_t *tokens; /* [n_token], at least 1; -1 takes the next row of `embeddings`. NULL, 0 with pixels */
    size_t n_token;
    const float *embeddings; /* [number of -1][d_model] or NULL */
    size_t embedding_stride; /* floats from row to row; 0: d_model */
    mf_logits logits_of;
    uint32_t reserved;
    float *logits;          /* [1 or n_token][n_vocab]; NULL: not written */
    size_t logits_capacity; /* floats */
    size_t logits_stride;   /* floats from row to row; 0: n_vocab */
    float *hidden;          /* [1 or n_token][d_model] after the last norm, for the same positions; or NULL */
    size_t hidden_capacity;
    size_t hidden_stride;  /* 0: d_model */
    const void *adapter;   /* reserved, NULL */
    mf_status status;      /* out */
    uint32_t n_token_done; /* out: n_token, of an image its rows, or 0 when it failed */
    uint64_t elapsed_ns;   /* out: time of the batches that it was in */
    const float *pixels;   /* [n_channel][image_size][image_size], for models that take images, see below; or NULL */
    float *pooled;         /* [d_model] the pooled state of the image, of models that have a pooler; or NULL */
    size_t pooled_capacity;
} mf_request;

/* Runs all requests as one batch: each appends its tokens to its session. Requests may have different
 * views; work that does not depend on the width is done once for all of them, and each shell of the
 * weights is read once and applied to the requests that reach it. Results do not depend on what else
 * is in the batch, on the number of threads, or on how a prompt is cut.
 * `request_bytes` is sizeof(mf_request). Each request gets a status; one that fails leaves its session
 * as it was and does not disturb the others. Returns the first failure among them, or MF_OK; or, before
 * anything ran and without touching any request, MF_E_BUSY (the executor is in use), MF_E_INVALID (a session
 * twice, another model's session or view), MF_E_STRUCT_SIZE, MF_E_FORKED.
 *
 * A model that takes images (mf_model_info.image_size) gets pixels instead of tokens, red before green before blue,
 * in the range that it was trained with. Image by image it becomes 1 + (image_size / patch_size)^2 rows, the class row
 * first, which are computed at once: the executor's max_tokens and the session's max_positions must be as many. The
 * session lends the room for their keys and values; its position stays 0, and the next image may have any view.
 * `logits` are [n_class] of the class row unless logits_of is NONE; `hidden` is the class row with LAST, and with ALL
 * all rows. */
MF_API mf_status mf_forward(mf_executor *executor, mf_request *requests, size_t n_request, size_t request_bytes,
                            mf_error *error);

/* ---- Tokenizer ---------------------------------------------------------------------------------- */

/* Text to tokens. Writes at most `capacity` tokens and the number needed to *n_token; MF_E_CAPACITY if
 * they did not fit. No beginning-of-text token is added, and text never becomes a control token, whatever it
 * says. `tokens` may be NULL with capacity 0. */
MF_API mf_status mf_tokenize(const mf_model *model, const char *text, size_t text_bytes, int32_t *tokens,
                             size_t capacity, size_t *n_token);

typedef struct mf_tokenize_options {
    size_t struct_size;
    int parse_control; /* names of control tokens in the text become those tokens: for text that is trusted */
    int add_ends;      /* beginning- and end-of-text tokens where the tokenizer's own file adds them */
} mf_tokenize_options;
#define MF_TOKENIZE_OPTIONS_INIT          \
    {                                     \
        sizeof(mf_tokenize_options), 0, 0 \
    }

/* As mf_tokenize(); `options` may be NULL. */
MF_API mf_status mf_tokenize_with(const mf_model *model, const mf_tokenize_options *options, const char *text,
                                  size_t text_bytes, int32_t *tokens, size_t capacity, size_t *n_token);

/* Tokens to bytes, measured and refused likewise. No terminator is written. It is the exact inverse unless the
 * tokenizer changes text (docs/tokenizer.md): Unicode normalization, spaces that it adds or removes, characters
 * that it does not know. */
MF_API mf_status mf_detokenize(const mf_model *model, const int32_t *tokens, size_t n_token, char *text,
                               size_t capacity, size_t *text_bytes);

/* How the model was taught to see turns of a chat. New ones may come. */
typedef enum mf_chat_format { MF_CHAT_NONE = 0, MF_CHAT_GEMMA = 1, MF_CHAT_LLAMA3 = 2 } mf_chat_format;
/* The format that the model's file says, or MF_CHAT_NONE. */
MF_API mf_chat_format mf_model_chat_format(const mf_model *model);

/* One turn. */
typedef struct mf_chat_message {
    const char *role;    /* "system" (the first message alone), "user", "assistant"; Llama 3: any other too */
    const char *content; /* white space at its ends is removed */
    size_t content_bytes;
} mf_chat_message;

/* The tokens of a whole chat, `messages` in their order, from the beginning-of-text token on; with `add_generation_prompt` the assistant's
 * next turn is begun. What a message says never becomes a control token, so that it cannot end its turn or
 * begin another one. Written and measured as mf_tokenize() does. MF_E_UNSUPPORTED: the model has no format;
 * MF_E_INVALID also for a role that the format does not have. */
MF_API mf_status mf_chat_render(const mf_model *model, const mf_chat_message *messages, size_t n_message,
                                int add_generation_prompt, int32_t *tokens, size_t capacity, size_t *n_token);

/* The same in a format that the caller names, for a model whose tokenizer has its control tokens although nothing says
 * that it was taught to see turns so; MF_E_UNSUPPORTED where it has not. */
MF_API mf_status mf_chat_render_as(const mf_model *model, mf_chat_format format, const mf_chat_message *messages,
                                   size_t n_message, int add_generation_prompt, int32_t *tokens, size_t capacity,
                                   size_t *n_token);

/* ---- Sampler ------------------------------------------------------------------------------------
 * Logits to a token. The random number of a position is a function of the seed and the position alone,
 * so a rewound or replayed session repeats itself. One thread at a time. */

typedef struct mf_sampler mf_sampler;

/* May change the logits of the next token (set those that must not come to -INFINITY) before anything
 * else looks at them: grammars and schemas plug in here. `tokens` is the whole timeline. Return 0, or
 * anything else to stop with MF_E_CANCELLED. */
typedef int (*mf_logits_filter)(void *user, const int32_t *tokens, size_t n_token, float *logits, size_t n_vocab);

/* Applied in this order: the filter, the repetition penalty, temperature, top_k, top_p (of what top_k kept),
 * min_p. Of equal logits the lower token ranks first. */
typedef struct mf_sampler_options {
    size_t struct_size;
    uint64_t seed;
    float temperature;          /* 0: greedy */
    float top_p;                /* 0 or 1: off */
    float min_p;                /* 0: off */
    float repetition_penalty;   /* 0 or 1: off; logits of tokens seen are divided by it (multiplied if negative) */
    uint32_t top_k;             /* 0: off */
    uint32_t repetition_window; /* tokens looked back; 0: 64 */
    mf_logits_filter filter;
    void *filter_user;
} mf_sampler_options;
#define MF_SAMPLER_OPTIONS_INIT                                     \
    {                                                               \
        sizeof(mf_sampler_options), 0, 0, 0, 0, 0, 0, 0, NULL, NULL \
    }

/* `options` NULL: greedy. MF_E_INVALID: numbers out of range. */
MF_API mf_status mf_sampler_create(mf_sampler **out, mf_model *model, const mf_sampler_options *options,
                                   mf_error *error);
MF_API void mf_sampler_close(mf_sampler *sampler);

/* A token and how likely it was. */
typedef struct mf_token_logprob {
    int32_t token;
    float logprob; /* natural logarithm, of the distribution before temperature and truncation */
} mf_token_logprob;

/* Chooses the token that follows the timeline `tokens`. `logits` is not changed. `chosen` and `top`
 * (the `n_top` most likely, in order; filled up with token -1) may be NULL. */
MF_API mf_status mf_sampler_sample(mf_sampler *sampler, const int32_t *tokens, size_t n_token, const float *logits,
                                   mf_token_logprob *chosen, mf_token_logprob *top, size_t n_top);

/* ---- Generation --------------------------------------------------------------------------------- */

/* A token that was chosen. */
typedef struct mf_token_event {
    int32_t token;
    uint32_t position;
    const char *text; /* bytes that may now be shown: whole UTF-8 characters, nothing that may become a stop
                         string; empty while held back. Valid during the call. */
    size_t text_bytes;
    float logprob;
    const mf_submodel *submodel; /* whose logits it was chosen from: that of the position before */
    const mf_token_logprob *top; /* [n_top] or NULL */
    size_t n_top;
} mf_token_event;

/* From `position` on, the positions of the timeline are run by `submodel`. */
typedef struct mf_schedule_step {
    uint32_t position;
    const mf_submodel *submodel;
} mf_schedule_step;

/* Why a generation ended: max_tokens or a full session; the model's end of text; a stop text; on_token. */
typedef enum mf_finish {
    MF_FINISH_LENGTH = 0,
    MF_FINISH_EOS = 1,
    MF_FINISH_STOP = 2,
    MF_FINISH_CALLBACK = 3
} mf_finish;

typedef struct mf_generate_options {
    size_t struct_size;
    const char *prompt;    /* text, terminated; or */
    const int32_t *tokens; /* [n_token] tokens; both empty: go on where the session stands */
    size_t n_token;
    uint32_t max_tokens;     /* 0: 128 */
    uint32_t n_top;          /* log-probabilities of so many top tokens with each event; at most 64 */
    mf_sampler *sampler;     /* NULL: greedy */
    const char *const *stop; /* [n_stop] texts that end the generation and are not shown */
    size_t n_stop;
    const mf_schedule_step *schedule; /* [n_schedule] ascending; before the first, the view given to mf_generate */
    size_t n_schedule;
    int (*on_token)(void *user, const mf_token_event *event); /* return anything but 0 to stop */
    void *user;
    int ignore_eos;
    uint32_t reserved;
    const mf_submodel *draft; /* a narrower view that runs ahead, see mf_generate(); NULL: none */
    uint32_t draft_tokens;    /* so many at once, at most 16; 0: as many as pay, by what was accepted before */
    uint32_t reserved_too;
    /* Runs the tokens whose view is not resident, as after mf_model_trim(), from the next token on; NULL: the generation
     * ends with MF_E_NOT_RESIDENT. When the model has grown again, the view's turn comes again. */
    const mf_submodel *fallback;
} mf_generate_options;
#define MF_GENERATE_OPTIONS_INIT                                                                                     \
    {                                                                                                                \
        sizeof(mf_generate_options), NULL, NULL, 0, 0, 0, NULL, NULL, 0, NULL, 0, NULL, NULL, 0, 0, NULL, 0, 0, NULL \
    }

typedef struct mf_generate_result {
    size_t struct_size;
    mf_finish finish;
    uint32_t n_prompt, n_generated;
    uint64_t prompt_ns, generate_ns;
    /* The schedule that was run, for replaying to the same bits: at most schedule_capacity steps are
     * written to the caller's array; n_schedule is how many there were. */
    mf_schedule_step *schedule;
    size_t schedule_capacity;
    size_t n_schedule;
    /* With a draft: tokens that it wrote, those of them that were accepted, batches that verified some, and the time of
     * either side within generate_ns. */
    uint32_t n_drafted, n_accepted, n_verify;
    uint32_t reserved;
    uint64_t draft_ns, verify_ns;
} mf_generate_result;
#define MF_GENERATE_RESULT_INIT                                                                \
    {                                                                                          \
        sizeof(mf_generate_result), MF_FINISH_LENGTH, 0, 0, 0, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0 \
    }

/* Runs a prompt and then a token at a time. `executor` and `session` may be NULL: fresh ones are made for
 * this call. Without a prompt, an empty session begins with the model's bos_token (or else eos_token), and
 * another goes on after its last token. Blocks until it ends; on_token is called from this thread, when the
 * session already holds the token. Afterwards the session holds the prompt and every token that had an event,
 * but for one that found no more room: a full session ends it with MF_FINISH_LENGTH. A prompt that fails
 * leaves the session as it was. mf_session_cancel() stops it with MF_E_CANCELLED, and what was generated
 * stays in the session. `result` may be NULL.
 *
 * With a draft (Leviathan, Kalman and Matias, 2023), that view writes some tokens ahead on the same session, and the
 * view of the schedule then runs all of them as one batch, writes its own keys and values over the draft's, and keeps
 * those tokens that it would have chosen. Greedy, the tokens, events and session are those without a draft, to the bit.
 * With a temperature, tokens are kept or drawn anew such that they have the distribution that they have without one;
 * which ones a seed gives depends on the draft and, where it is fixed, on draft_tokens, but on nothing else. The draft
 * must have the key/value heads of every view of the call (MF_E_REBUILD_NEEDED): it may differ in FFN widths. Tokens are
 * reported one by one as without a draft, and the session's position is behind each when its event comes; what is in
 * memory behind that is nobody's business. A sampler's filter is called for drafted tokens too: it must go by `tokens`
 * alone, which may be shorter than in the call before. docs/speculation.md says when a draft pays. */
MF_API mf_status mf_generate(mf_executor *executor, mf_session *session, const mf_submodel *submodel,
                             const mf_generate_options *options, mf_generate_result *result, mf_error *error);

/* The same for a caller that would rather ask for tokens than be called: an iterator of another language, a coroutine, a
 * loop over several texts. Nothing runs until it is asked for, and then on the thread that asks; between two calls the
 * session holds the prompt and every token that had an event.
 *
 *     mf_token_batch batch = MF_TOKEN_BATCH_INIT;
 *     mf_generation_create(&generation, executor, session, view, &options, &result, &error);
 *     while (mf_generation_next(generation, 0, &batch, &error) == MF_OK && batch.n_event > 0)
 *         fwrite(batch.events->text, 1, batch.events->text_bytes, stdout);
 *     mf_generation_close(generation);
 *
 * One thread at a time. Executor, session, sampler, views and what the options point to, but for the prompt, stay the
 * caller's, and must stay as they are until it is closed; so must `result`. */
typedef struct mf_generation mf_generation;

/* As mf_generate(), without on_token. `result`, which may be NULL, is written when it ends. */
MF_API mf_status mf_generation_create(mf_generation **out, mf_executor *executor, mf_session *session,
                                      const mf_submodel *submodel, const mf_generate_options *options,
                                      mf_generate_result *result, mf_error *error);

typedef struct mf_token_batch {
    size_t struct_size;
    const mf_token_event *events; /* [n_event] in order, with their texts and tops valid until the next call */
    size_t n_event;
    size_t event_bytes; /* from one event to the next */
} mf_token_batch;
#define MF_TOKEN_BATCH_INIT                \
    {                                      \
        sizeof(mf_token_batch), NULL, 0, 0 \
    }

/* The next token, with max_ns 0; else as many, at most 256, as are there when max_ns have passed, and at least one. No event:
 * it has ended, by the reason in `result`, or by the failure that a call returned; that call may have had events too,
 * which came before it. mf_session_cancel(), from any thread, makes it return MF_E_CANCELLED. */
MF_API mf_status mf_generation_next(mf_generation *generation, uint64_t max_ns, mf_token_batch *batch, mf_error *error);

/* Ends it, with MF_FINISH_CALLBACK where there would have been more. */
MF_API void mf_generation_close(mf_generation *generation);

/* ---- Governor -----------------------------------------------------------------------------------
 * Chooses the width of running sessions: it holds a speed, or a ceiling of memory, by narrowing and widening them. The
 * host that drives mf_forward() asks it before each step and tells it afterwards how long the step took:
 *
 *     mf_governor_choose(governor, member, &requests[i].submodel);      // for each session in the batch
 *     mf_forward(executor, requests, n, sizeof *requests, &error);
 *     mf_governor_report(governor, &step);                              // who got tokens, and the time
 *
 * The views stand on a *ladder*, narrowest first; a place on it is a *rung*. A *member* is whatever has a width of its
 * own: a session, or all sessions of a tenant. docs/governor.md says what the built-in controller does and why.
 *
 * mf_governor_choose() may be called from any thread at any time, and takes no lock. The others: one thread at a time.
 * After creation nothing is allocated. */

typedef struct mf_governor mf_governor;

/* When a member's view is not resident (mf_submodel_info.n_shell above mf_model_info.n_shell_resident), because the
 * host trimmed the model: NARROW runs the widest rung below that is; STATUS returns MF_E_NOT_RESIDENT. */
typedef enum mf_when_missing { MF_MISSING_NARROW = 0, MF_MISSING_STATUS = 1 } mf_when_missing;

/* What is known and decided. */
typedef struct mf_governor_info {
    size_t struct_size;
    uint64_t now_ns;
    double target_ns;        /* of a token of one member; 0: no speed is held */
    double ns_per_token;     /* achieved, over the last smoothing_ms; 0: nothing was reported yet */
    double narrowing;        /* rungs given up as a share of those that could be: 0 all widest, 1 all narrowest */
    double heat;             /* as signalled last */
    uint64_t free_bytes;     /* likewise */
    uint32_t n_queued;       /* likewise */
    uint32_t n_member;       /* that have joined */
    uint32_t n_rung;         /* of the ladder */
    uint32_t widest_rung;    /* that the ceilings of memory allow, or a member's floor if above */
    uint32_t n_shell;        /* that it needs: mf_model_trim() may drop the others */
    uint32_t reserved;       /* 0 */
    const char *granularity; /* the narrowest of the file's that has them; lives as long as the model */
    uint64_t n_narrowed;     /* decisions that narrowed members, and that widened them, since creation */
    uint64_t n_widened;
} mf_governor_info;
#define MF_GOVERNOR_INFO_INIT                                                    \
    {                                                                            \
        sizeof(mf_governor_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0, 0 \
    }

/* A controller of the host's own, called by mf_governor_report() and mf_governor_signal(). Returns the `narrowing` that
 * it wants, 0 to 1 (beyond: the nearer of both; not a number: as it is); who gives up how much follows from weights,
 * floors and ceilings. It may call mf_governor_predict() and no other function of the governor. */
typedef double (*mf_governor_policy)(void *user, const mf_governor *governor, const mf_governor_info *info);

typedef struct mf_governor_options {
    size_t struct_size;
    /* [n_rung], 1 to 64, of one model, narrowest first: none reads fewer bytes per token or needs fewer shells than the
     * one before it. They must outlive the governor, and allow the same sessions. */
    const mf_submodel *const *rungs;
    size_t n_rung;
    double tokens_per_second;  /* that each member is to get; or */
    double ms_per_token;       /* the same turned round; both 0: no speed is held */
    double margin;             /* 0.1: predicted speed must exceed the target by this share before members widen */
    uint64_t weight_bytes;     /* ceiling of mf_submodel_info.bytes_per_token; 0: none */
    uint64_t least_free_bytes; /* when less memory is signalled to be free, wide rungs go; 0: not looked at */
    uint32_t queue_full;       /* as many waiting requests narrow all members fully, fewer in proportion; 0: none do */
    uint32_t smoothing_ms;     /* 0: 250. Time constant of the measured speed */
    uint32_t dwell_ms;         /* 0: 1000. From any change until members widen */
    uint32_t max_members;      /* 0: 64; at most 256 */
    mf_when_missing when_missing;
    uint32_t reserved;              /* 0 */
    uint64_t (*now_ns)(void *user); /* a clock that never goes back; NULL: the system's monotonic one */
    void *clock_user;
    mf_governor_policy policy; /* NULL: the built-in controller */
    void *policy_user;
} mf_governor_options;
#define MF_GOVERNOR_OPTIONS_INIT                                                                                      \
    {                                                                                                                 \
        sizeof(mf_governor_options), NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, MF_MISSING_NARROW, 0, NULL, NULL, NULL, NULL \
    }

/* Keeps the model alive, with its allocator. MF_E_INVALID with the reason: a ladder that is none, numbers out of range;
 * MF_E_NOMEM. */
MF_API mf_status mf_governor_create(mf_governor **out, const mf_governor_options *options, mf_error *error);
MF_API void mf_governor_close(mf_governor *governor);

typedef struct mf_governor_member {
    size_t struct_size;
    const mf_submodel *narrowest; /* rungs of the ladder between which it stays; NULL: the ladder's ends */
    const mf_submodel *widest;
    /* 0: 1. Who gives up rungs: a member of weight 2 gives up one where one of weight 1 gives up two. Above 0, at most
     * 1e6. */
    double weight;
} mf_governor_member;
#define MF_GOVERNOR_MEMBER_INIT                     \
    {                                               \
        sizeof(mf_governor_member), NULL, NULL, 0.0 \
    }

/* Its number to *member, less than max_members; numbers of members that left are given again. It begins as narrowed as
 * the others are. `options` may be NULL. MF_E_FULL: max_members have joined; MF_E_INVALID: no rungs of the ladder. */
MF_API mf_status mf_governor_join(mf_governor *governor, const mf_governor_member *options, uint32_t *member,
                                  mf_error *error);
/* MF_E_RANGE: no such member. */
MF_API mf_status mf_governor_leave(mf_governor *governor, uint32_t member);

/* The view for the member's next tokens, which stays valid as long as the ladder. MF_E_NOT_RESIDENT as when_missing says,
 * and where nothing of the ladder is resident; MF_E_RANGE: no such member. Then *out is NULL. Any thread. */
MF_API mf_status mf_governor_choose(const mf_governor *governor, uint32_t member, const mf_submodel **out);

typedef struct mf_governor_step {
    size_t struct_size;
    uint64_t elapsed_ns; /* from the beginning of the step before to that of this one, or to its end after a pause */
    const uint32_t *members; /* [n_member] that got tokens, each once */
    const uint32_t *n_token; /* [n_member] how many each; NULL: one */
    size_t n_member;
} mf_governor_step;
#define MF_GOVERNOR_STEP_INIT                      \
    {                                              \
        sizeof(mf_governor_step), 0, NULL, NULL, 0 \
    }

/* A step that was run. A step without tokens or time tells nothing; one beyond four times smoothing_ms counts as that.
 * MF_E_RANGE: no such member; MF_E_INVALID: a member twice. Then nothing changes. */
MF_API mf_status mf_governor_report(mf_governor *governor, const mf_governor_step *step);

typedef struct mf_governor_signals {
    size_t struct_size;
    double heat; /* 0: cool, or unknown; 1: throttled (as Android's getThermalHeadroom). From 0.8 on it narrows */
    uint64_t free_bytes; /* of memory; 0: unknown */
    uint32_t n_queued;   /* requests that wait */
    uint32_t reserved;   /* 0 */
} mf_governor_signals;
#define MF_GOVERNOR_SIGNALS_INIT                \
    {                                           \
        sizeof(mf_governor_signals), 0, 0, 0, 0 \
    }

/* How the host is; holds until the next call. MF_E_INVALID: heat below 0 or not a number. Then nothing changes. */
MF_API mf_status mf_governor_signal(mf_governor *governor, const mf_governor_signals *signals);

/* Fills as many fields as info->struct_size covers. */
MF_API mf_status mf_governor_info_get(const mf_governor *governor, mf_governor_info *info);

/* Expected nanoseconds for a token if all members that were in the last step ran this rung, under the load of now; 0 where
 * nothing was reported yet or there is no such rung. */
MF_API double mf_governor_predict(const mf_governor *governor, uint32_t rung);

#ifdef __cplusplus
}
#endif
#endif
