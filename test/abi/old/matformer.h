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
 * - On failure, *out of a constructor is NULL and nothing was kept.
 * - A child keeps its parent alive (a session its model, a view its model), so the order of closing
 *   does not matter. Closing NULL does nothing.
 * - Option structs begin with struct_size; fill them with their INIT macro. Zero in any field means
 *   the default, and NULL for the whole struct means all defaults. A struct from an older or a newer
 *   release is accepted; a newer one only while the fields unknown here are zero.
 * - The library prints nothing, never exits, keeps no global state, and installs no signal handler.
 *   Its threads block all signals. After fork() the child must not use objects of the parent:
 *   functions that would need the worker threads return MF_E_FORKED.
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

#if defined(__GNUC__) && __GNUC__ >= 4
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

typedef struct mf_allocator {
    void *(*alloc)(void *user, size_t bytes, size_t align);
    void (*free)(void *user, void *memory, size_t bytes);
    void *user;
} mf_allocator;

/* ---- Model --------------------------------------------------------------------------------------
 * The weights and what they mean. Immutable once open, reference counted; share it between threads
 * freely. */

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
 * that round otherwise; without a faster kernel for the model it is the same as EXACT. */
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
    const char *widest; /* name of the widest granularity to load; NULL: all of the file */
    const char *cpu;    /* highest processor level to use: "scalar", "avx2", "avx512"; NULL: what there is.
                           The environment variable MF_CPU lowers it further. */
    uint32_t n_thread;  /* threads for decoding; 0: one per usable core */
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

/* Opens `path`. The path is copied. */
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
    const char *family;                                                  /* "matlm" */
    const char *cpu;                                                     /* the processor level in use */
    uint32_t n_layer, d_model, n_head, n_kv_head, d_head, d_ff, n_vocab; /* d_ff, n_head: the widest layer's */
    uint32_t max_positions; /* the length it was trained for; sessions may be longer */
    uint32_t n_granularity;
    uint32_t quantum; /* FFN widths are multiples of it */
    uint32_t n_shell, n_shell_resident;
    uint64_t n_param; /* of the widest view, embeddings included */
    uint64_t file_bytes, weight_bytes, mapped_bytes, allocated_bytes;
    int32_t bos_token, eos_token; /* -1: none */
} mf_model_info;
#define MF_MODEL_INFO_INIT                                                                         \
    {                                                                                              \
        sizeof(mf_model_info), NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 \
    }

/* Fills as many fields as info->struct_size covers. Strings live as long as the model. */
MF_API mf_status mf_model_info_get(const mf_model *model, mf_model_info *info);

/* Name of granularity `index`, narrowest first ("S", "M", "L", "XL" or the file's own); NULL past the
 * end. Lives as long as the model. */
MF_API const char *mf_model_granularity(const mf_model *model, uint32_t index);

/* The text stored under `key` in the file's metadata, or NULL. Lives as long as the model. With an
 * index instead (key NULL): the index-th key, so that all can be listed. */
MF_API const char *mf_model_metadata(const mf_model *model, const char *key, uint32_t index);

/* ---- Submodel -----------------------------------------------------------------------------------
 * An immutable view of a model: no weights of its own. Share it freely. */

typedef struct mf_submodel mf_submodel;

/* What to take. `text` alone, or one of `granularity` and `ratio` as the base (neither: the widest),
 * with the lists replacing it where given. */
typedef struct mf_submodel_spec {
    size_t struct_size;
    const char *text;        /* the text form, see below */
    const char *granularity; /* a name of the file's */
    double ratio;            /* 0 < ratio <= 1: this share of d_ff in every layer, rounded up to the quantum */
    const uint32_t *ffn;     /* [n_ffn] width of every layer; n_ffn must be n_layer, or the number of kept layers */
    size_t n_ffn;
    const uint32_t *heads; /* [n_heads] query heads of every layer (the first ones), likewise */
    size_t n_heads;
    const uint32_t *skip; /* [n_skip] layers left out, any order */
    size_t n_skip;
    uint64_t max_params; /* budgets: the best configuration of the file's stored plan that fits */
    uint64_t max_bytes;
    uint64_t max_flops;
    double max_ms;
} mf_submodel_spec;
#define MF_SUBMODEL_SPEC_INIT                                                          \
    {                                                                                  \
        sizeof(mf_submodel_spec), NULL, NULL, 0, NULL, 0, NULL, 0, NULL, 0, 0, 0, 0, 0 \
    }

/* Takes a view. `spec` NULL: the widest. Refused with MF_E_WIDTH and the reason: a width beyond the
 * file or off the quantum, a list of the wrong length, a layer that may not be skipped. */
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

MF_API mf_status mf_submodel_info_get(const mf_submodel *submodel, mf_submodel_info *info);

/* Width, heads and use (1 kept, 0 skipped) of one layer; each pointer may be NULL. MF_E_RANGE past the end. */
MF_API mf_status mf_submodel_layer(const mf_submodel *submodel, uint32_t layer, uint32_t *ffn, uint32_t *heads,
                                   int *kept);

/* The view in text form, which gives the same view again. Writes at most `capacity` bytes with the
 * terminator, and the bytes needed to *bytes (may be NULL). MF_E_CAPACITY if it did not fit. */
MF_API mf_status mf_submodel_text(const mf_submodel *submodel, char *text, size_t capacity, size_t *bytes);

/* ---- Executor -----------------------------------------------------------------------------------
 * Worker threads and workspace, reserved for a model. One call at a time; MF_E_BUSY otherwise. */

typedef struct mf_executor mf_executor;

typedef struct mf_executor_options {
    size_t struct_size;
    uint32_t n_thread;     /* the caller counts as one; 0: one per usable core */
    uint32_t max_tokens;   /* rows computed at once, over all requests; 0: 512. Longer inputs run in pieces. */
    uint32_t max_requests; /* 0: 64 */
    uint32_t spin_us;      /* a waiting worker spins this long before it sleeps; 0: 50 */
    const int *cpus;       /* [n_cpu] processors for the workers, in turn; NULL: wherever the system puts them */
    size_t n_cpu;
} mf_executor_options;
#define MF_EXECUTOR_OPTIONS_INIT                         \
    {                                                    \
        sizeof(mf_executor_options), 0, 0, 0, 0, NULL, 0 \
    }

MF_API mf_status mf_executor_create(mf_executor **out, mf_model *model, const mf_executor_options *options,
                                    mf_error *error);
MF_API void mf_executor_close(mf_executor *executor);

/* ---- Session ------------------------------------------------------------------------------------
 * One timeline: the tokens so far and their keys and values, in pages of 64 positions. One thread at a
 * time, except mf_session_cancel(). */

typedef struct mf_session mf_session;

/* The type that keys and values are stored in; they are read back after rounding, always. */
typedef enum mf_cache_type { MF_CACHE_F32 = 0, MF_CACHE_BF16 = 1 } mf_cache_type;

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
 * of the same model (MF_E_FORMAT otherwise); the session's previous content is replaced on success only. */
MF_API mf_status mf_session_save(const mf_session *session, const char *path, mf_error *error);
MF_API mf_status mf_session_load(mf_session *session, const char *path, mf_error *error);

/* Stops the forward in progress with this session, between two layers, or else the next one; that
 * request returns MF_E_CANCELLED and the session is as it was. From any thread. */
MF_API void mf_session_cancel(mf_session *session);

/* ---- Forward ------------------------------------------------------------------------------------ */

/* For which positions of the input logits are wanted. */
typedef enum mf_logits { MF_LOGITS_LAST = 0, MF_LOGITS_NONE = 1, MF_LOGITS_ALL = 2 } mf_logits;

typedef struct mf_request {
    mf_session *session;
    const mf_submodel *submodel;
    const int32_t *tokens; /* [n_token], at least 1; -1 takes the next row of `embeddings` */
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
    uint32_t n_token_done; /* out: n_token, or 0 when it failed */
    uint64_t elapsed_ns;   /* out: time of the batches that it was in */
} mf_request;

/* Runs all requests as one batch: each appends its tokens to its session. Requests may have different
 * views; work that does not depend on the width is done once for all of them, and each shell of the
 * weights is read once and applied to the requests that reach it. Results do not depend on what else
 * is in the batch, on the number of threads, or on how a prompt is cut.
 * `request_bytes` is sizeof(mf_request). Each request gets a status; one that fails leaves its session
 * as it was and does not disturb the others. Returns the first failure among them, or MF_OK; or, before
 * anything ran, MF_E_BUSY (the executor is in use), MF_E_INVALID (a session twice, another model's
 * session or view), MF_E_STRUCT_SIZE, MF_E_FORKED. */
MF_API mf_status mf_forward(mf_executor *executor, mf_request *requests, size_t n_request, size_t request_bytes,
                            mf_error *error);

/* ---- Tokenizer ---------------------------------------------------------------------------------- */

/* Text to tokens. Writes at most `capacity` tokens and the number needed to *n_token; MF_E_CAPACITY if
 * they did not fit. No beginning-of-text token is added. `tokens` may be NULL with capacity 0. */
MF_API mf_status mf_tokenize(const mf_model *model, const char *text, size_t text_bytes, int32_t *tokens,
                             size_t capacity, size_t *n_token);

/* Tokens to bytes; the exact inverse. No terminator is written. */
MF_API mf_status mf_detokenize(const mf_model *model, const int32_t *tokens, size_t n_token, char *text,
                               size_t capacity, size_t *text_bytes);

/* ---- Sampler ------------------------------------------------------------------------------------
 * Logits to a token. The random number of a position is a function of the seed and the position alone,
 * so a rewound or replayed session repeats itself. One thread at a time. */

typedef struct mf_sampler mf_sampler;

/* May change the logits of the next token (set those that must not come to -INFINITY) before anything
 * else looks at them: grammars and schemas plug in here. `tokens` is the whole timeline. Return 0, or
 * anything else to stop with MF_E_CANCELLED. */
typedef int (*mf_logits_filter)(void *user, const int32_t *tokens, size_t n_token, float *logits, size_t n_vocab);

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

MF_API mf_status mf_sampler_create(mf_sampler **out, mf_model *model, const mf_sampler_options *options,
                                   mf_error *error);
MF_API void mf_sampler_close(mf_sampler *sampler);

typedef struct mf_token_logprob {
    int32_t token;
    float logprob; /* natural logarithm, of the distribution before temperature and truncation */
} mf_token_logprob;

/* Chooses the token that follows the timeline `tokens`. `logits` is not changed. `chosen` and `top`
 * (the `n_top` most likely, in order; filled up with token -1) may be NULL. */
MF_API mf_status mf_sampler_sample(mf_sampler *sampler, const int32_t *tokens, size_t n_token, const float *logits,
                                   mf_token_logprob *chosen, mf_token_logprob *top, size_t n_top);

/* ---- Generation --------------------------------------------------------------------------------- */

typedef struct mf_token_event {
    int32_t token;
    uint32_t position;
    const char *text; /* bytes that may now be shown: whole UTF-8 characters, nothing that may become a stop
                         string; empty while held back. Valid during the call. */
    size_t text_bytes;
    float logprob;
    const mf_submodel *submodel; /* that computed it */
    const mf_token_logprob *top; /* [n_top] or NULL */
    size_t n_top;
} mf_token_event;

/* From `position` on (a position of the timeline), tokens are computed by `submodel`. */
typedef struct mf_schedule_step {
    uint32_t position;
    const mf_submodel *submodel;
} mf_schedule_step;

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
} mf_generate_options;
#define MF_GENERATE_OPTIONS_INIT                                                                   \
    {                                                                                              \
        sizeof(mf_generate_options), NULL, NULL, 0, 0, 0, NULL, NULL, 0, NULL, 0, NULL, NULL, 0, 0 \
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
} mf_generate_result;
#define MF_GENERATE_RESULT_INIT                                              \
    {                                                                        \
        sizeof(mf_generate_result), MF_FINISH_LENGTH, 0, 0, 0, 0, NULL, 0, 0 \
    }

/* Runs a prompt and then a token at a time. `executor` and `session` may be NULL: fresh ones are made for
 * this call. Blocks until it ends; on_token is called from this thread. mf_session_cancel() stops it with
 * MF_E_CANCELLED, and what was generated stays in the session. `result` may be NULL. */
MF_API mf_status mf_generate(mf_executor *executor, mf_session *session, const mf_submodel *submodel,
                             const mf_generate_options *options, mf_generate_result *result, mf_error *error);

#ifdef __cplusplus
}
#endif
#endif
