/* model_save.c - a configuration and its weights to a .mf file: in which region each tensor of its schema lies, and how
 * rows become panels. docs/container-format.md section 5 is the specification.
 *
 * A matrix goes through in rounds of some rows: the threads read and pack groups of 16 rows each, then the caller writes
 * them. So no tensor is ever whole in memory, and what is measured is added up in one order whatever the threads. */
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "arena.h"
#include "defs.h"
#include "model.h"
#include "quantize.h"
#include "schema.h"
#include "status.h"
#include "threads.h"

#define ROUND_GROUPS 64u               /* most groups of a round, */
#define ROUND_BYTES ((size_t)16 << 20) /* and most bytes of them, but at least a group for each thread */

/* A declared tensor. */
typedef struct piece {
    uint32_t tensor; /* of the schema; n_tensor: the tokenizer */
    size_t first;    /* hidden unit that its shell begins with */
} piece;

/* What a group of rows became. */
typedef struct group_result {
    double square_sum, error_square_sum; /* of those that were rounded */
    mf_status status;
} group_result;

typedef struct saver {
    const mfi_config *config;
    const mfi_save_options *options;
    const mfi_weights *weights;
    const mf_allocator *allocator;
    mfi_writer *writer;
    const char *path;
    mfi_schema_tensor *tensor; /* [n_tensor] */
    piece *piece;              /* [n_piece] in the order of their declaration */
    size_t n_tensor, n_piece, piece_capacity;
    uint32_t n_shell, region; /* region: the one being declared */
    uint32_t n_thread;
    mfi_pool *pool;    /* or NULL for one */
    size_t row_floats; /* of the widest row */
    size_t row_room;
    float *rows;      /* [row_room]: [n_thread][MFK_NR][row_floats], twice where errors are measured: before and after
                          packing */
    mf_error *errors; /* [n_thread] */
    unsigned char *round; /* [round_bytes] packed */
    size_t round_bytes;
    uint64_t done, total; /* bytes of matrices, for progress */
    mf_error *error;
} saver;

/* ---- Metadata ---- */

/* Metadata of whatever kind that the maker of another file chose. */
static void declare_key(const saver *s, const char *key, mfi_value kind)
{
    const mfi_container *from = s->options->keys_of;
    uint64_t integer;
    double real;
    const char *text;
    const uint32_t *values;
    size_t count;
    if (kind == MFI_VALUE_U64 && mfi_container_u64(from, key, &integer))
        mfi_writer_u64(s->writer, key, integer, false);
    else if (kind == MFI_VALUE_F64 && mfi_container_f64(from, key, &real))
        mfi_writer_f64(s->writer, key, real, false);
    else if (kind == MFI_VALUE_TEXT && mfi_container_text(from, key, &text))
        mfi_writer_text(s->writer, key, text, false);
    else if (kind == MFI_VALUE_U32S && mfi_container_u32s(from, key, &values, &count))
        mfi_writer_u32s(s->writer, key, values, count, false);
}

/* A failed declaration sticks to the writer; finish returns it. */
static void declare_metadata(const saver *s)
{
    mfi_config_declare(s->config, s->writer);
    for (const char *const *pair = s->options->metadata; pair && pair[0] && pair[1]; pair += 2)
        mfi_writer_text(s->writer, pair[0], pair[1], false);
    const char *key;
    mfi_value kind;
    for (uint32_t i = 0; s->options->keys_of && mfi_container_key_at(s->options->keys_of, i, &key, &kind); i++)
        if (!mfi_config_key_known(key)) declare_key(s, key, kind);
}

/* ---- Tensors ---- */

static void count_tensor(void *user, const mfi_schema_tensor *tensor)
{
    saver *s = user;
    (void)tensor;
    s->n_tensor++;
}

static void take_tensor(void *user, const mfi_schema_tensor *tensor)
{
    saver *s = user;
    s->tensor[s->n_tensor++] = *tensor;
    s->row_floats = mfi_max(s->row_floats, (size_t)tensor->k);
}

/* Hidden units of a layer up to the end of shell `shell`. */
static uint32_t bound(const saver *s, uint32_t shell, uint32_t layer)
{
    const mfi_config *config = s->config;
    return config->granularity[s->n_shell == 1 ? config->n_granularity - 1 : shell].ffn[layer];
}

static uint32_t shell_begin(const saver *s, uint32_t shell, uint32_t layer)
{
    return shell == 0 ? 0 : bound(s, shell - 1, layer);
}

static mfk_type type_of(const saver *s, const mfi_schema_tensor *is)
{
    if (is->kind == MFI_PLAIN) return MFK_F32;
    if (s->options->role_type[is->role]) return s->options->role_type[is->role];
    if (s->options->type) return s->options->type;
    return s->weights->type_of ? s->weights->type_of(s->weights->user, is) : MFK_F32;
}

static void declare(saver *s, size_t index, uint32_t shell, uint64_t n, uint64_t k)
{
    const mfi_schema_tensor *is = &s->tensor[index];
    mfi_tensor tensor = { .name = is->name,
                          .kind = is->kind,
                          .type = type_of(s, is),
                          .shell = shell,
                          .region = s->region,
                          .n = n,
                          .k = k,
                          .tag = (uint32_t)s->n_piece };
    if (is->kind == MFI_PANEL) tensor.panels = is->n_matrix * ((n + MFK_NR - 1) / MFK_NR);
    if (is->kind != MFI_PLAIN) s->total += mfi_tensor_matrices(&tensor) * mfk_weights_bytes(tensor.type, n, k);
    s->piece[s->n_piece++] =
        (piece){ (uint32_t)index, is->layer < s->config->n_layer ? shell_begin(s, shell, is->layer) : 0 };
    mfi_writer_tensor(s->writer, &tensor);
}

/* What shell `shell` holds of a tensor; false for nothing. */
static bool declare_shell(saver *s, size_t index, uint32_t shell)
{
    const mfi_schema_tensor *is = &s->tensor[index];
    const bool cut = is->along != MFI_FFN_NOWHERE && is->kind != MFI_PLAIN;
    if (!cut) {
        if (shell == 0) declare(s, index, 0, is->n, is->k);
        return shell == 0;
    }
    const uint64_t width = bound(s, shell, is->layer) - shell_begin(s, shell, is->layer);
    if (width == 0) return false;
    declare(s, index, shell, is->along == MFI_FFN_ALONG_N ? width : is->n,
            is->along == MFI_FFN_ALONG_K ? width : is->k);
    return true;
}

static void declare_tokenizer(saver *s)
{
    if (!s->options->tokenizer) return;
    const mfi_tensor blob = { .name = "tokenizer",
                              .kind = MFI_PLAIN,
                              .type = MFK_U8,
                              .region = s->region,
                              .n = s->options->tokenizer_bytes,
                              .k = 1,
                              .tag = (uint32_t)s->n_piece };
    s->piece[s->n_piece++] = (piece){ (uint32_t)s->n_tensor, 0 };
    mfi_writer_tensor(s->writer, &blob);
}

static void declare_base(saver *s)
{
    mfi_writer_region(s->writer, MFI_REGION_BASE, 0, s->options->storage, &s->region);
    declare_tokenizer(s);
    for (size_t i = 0; i < s->n_tensor; i++)
        if (s->tensor[i].kind != MFI_TABLE) declare_shell(s, i, 0);
}

static void declare_tables(saver *s)
{
    bool any = false;
    for (size_t i = 0; i < s->n_tensor; i++) {
        if (s->tensor[i].kind != MFI_TABLE) continue;
        if (!any) mfi_writer_region(s->writer, MFI_REGION_TABLES, 0, s->options->storage, &s->region);
        any = true;
        declare_shell(s, i, 0);
    }
}

static bool shell_empty(const saver *s, uint32_t shell)
{
    for (uint32_t layer = 0; layer < s->config->n_layer; layer++)
        if (bound(s, shell, layer) > shell_begin(s, shell, layer)) return false;
    return true;
}

static void declare_regions(saver *s)
{
    declare_base(s);
    declare_tables(s);
    for (uint32_t shell = 1; shell < s->n_shell; shell++) {
        if (shell_empty(s, shell)) continue;
        mfi_writer_region(s->writer, MFI_REGION_SHELL, shell, s->options->storage, &s->region);
        for (size_t i = 0; i < s->n_tensor; i++)
            if (s->tensor[i].kind == MFI_PANEL) declare_shell(s, i, shell);
    }
}

/* ---- Groups of rows ---- */

/* One tensor on its way. */
typedef struct filling {
    saver *s;
    const mfi_tensor *tensor;
    const mfi_schema_tensor *is;
    size_t first;       /* hidden unit of its shell */
    bool copies;        /* as the source has it */
    size_t group_bytes; /* of 16 rows, all matrices of them */
    size_t begin, n;    /* groups of the round */
    group_result result[ROUND_GROUPS];
} filling;

static size_t group_rows(const filling *f, size_t group)
{
    return mfi_min((size_t)f->tensor->n - group * MFK_NR, MFK_NR);
}

static bool is_measured(const filling *f)
{
    return f->s->options->saved && f->tensor->type != MFK_F32;
}

/* A weight that the tensor's type does not hold is refused. */
static mf_status check_range(const filling *f, const char *name, const float *rows, size_t n, mf_error *error)
{
    const float most = mfk_largest(f->tensor->type);
    for (size_t i = 0; i < n; i++)
        if (fabsf(rows[i]) > most)
            return mfi_fail(error, MF_E_RANGE, "tensor %s has a weight of %g, but %s holds none beyond %g", name,
                            (double)rows[i], mfk_type_name(f->tensor->type), (double)most);
    return MF_OK;
}

static void measure(group_result *result, const float *before, const float *after, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const double weight = (double)before[i], error = (double)after[i] - weight;
        result->square_sum += weight * weight;
        result->error_square_sum += error * error;
    }
}

static void pack_rows(const filling *f, size_t n, const float *rows, unsigned char *out, size_t stride_bytes,
                      float *stored)
{
    const mfk_type type = f->tensor->type;
    const size_t k = (size_t)f->tensor->k, row_bytes = mfk_row_bytes(type, k);
    if (f->tensor->kind == MFI_PANEL) {
        mfk_pack(type, mfk_q4_table, n, k, rows, k, out, stride_bytes);
        if (stored) mfk_unpack(type, mfk_q4_table, n, k, out, stride_bytes, stored, k);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        mfk_pack_table_row(type, mfk_q4_table, k, rows + i * k, out + i * row_bytes);
        if (stored) mfk_unpack_table_row(type, mfk_q4_table, k, out + i * row_bytes, stored + i * k);
    }
}

static mf_status pack_group(filling *f, uint32_t thread, size_t group, unsigned char *out, group_result *result)
{
    const saver *s = f->s;
    const mfi_tensor *tensor = f->tensor;
    const size_t n = group_rows(f, group), k = (size_t)tensor->k, row = group * MFK_NR;
    const size_t panel = tensor->kind == MFI_PANEL ? mfk_panel_bytes(tensor->type, k) : 0;
    const bool along_n = f->is->along == MFI_FFN_ALONG_N, along_k = f->is->along == MFI_FFN_ALONG_K;
    float *rows = s->rows + thread * (s->options->saved ? 2 : 1) * MFK_NR * s->row_floats;
    float *stored = is_measured(f) ? rows + MFK_NR * s->row_floats : NULL;
    mf_error *error = &s->errors[thread];
    for (uint32_t m = 0; m < f->is->n_matrix; m++) {
        mf_status status = s->weights->read(s->weights->user, f->is->matrix[m], row + (along_n ? f->first : 0), n,
                                            along_k ? f->first : 0, k, rows, error);
        if (status == MF_OK) status = check_range(f, f->is->matrix[m], rows, n * k, error);
        if (status != MF_OK) return status;
        pack_rows(f, n, rows, out + m * panel, f->is->n_matrix * panel, stored);
        if (stored) measure(result, rows, stored, n * k);
    }
    return MF_OK;
}

/* Group begin + thread, + thread + n_thread, ... of the round. */
static void pack_share(void *user, uint32_t thread, uint32_t n_thread)
{
    filling *f = user;
    const mfi_weights *weights = f->s->weights;
    for (size_t i = thread; i < f->n; i += n_thread) {
        group_result *result = &f->result[i];
        unsigned char *out = f->s->round + i * f->group_bytes;
        *result = (group_result){ 0 };
        result->status = f->copies ? weights->copy(weights->user, f->is, f->tensor, f->first, f->begin + i, out,
                                                   &f->s->errors[thread])
                                   : pack_group(f, thread, f->begin + i, out, result);
        if (result->status != MF_OK) return; /* this thread's error is the one of this group */
    }
}

static void run_round(filling *f)
{
    for (size_t i = 0; i < f->n; i++)
        f->result[i].status = MF_OK;
    if (f->s->pool)
        mfi_pool_run(f->s->pool, pack_share, f);
    else
        pack_share(f, 0, 1);
}

static mf_status advance(saver *s, uint64_t bytes)
{
    s->done += bytes;
    if (!s->options->progress || s->options->progress(s->options->progress_user, s->done, s->total) == 0) return MF_OK;
    return mfi_fail(s->error, MF_E_CANCELLED, "%s: writing was cancelled", s->path);
}

/* Adds up the round; the first failure in the order of the rows. */
static mf_status settle_round(filling *f)
{
    saver *s = f->s;
    mfi_saved_role *saved = is_measured(f) && !f->copies ? &s->options->saved[f->is->role] : NULL;
    uint64_t n_row = 0;
    for (size_t i = 0; i < f->n; i++) {
        if (f->result[i].status != MF_OK)
            return mfi_fail(s->error, f->result[i].status, "%s", s->errors[i % s->n_thread].detail);
        n_row += group_rows(f, f->begin + i);
        if (!saved) continue;
        saved->square_sum += f->result[i].square_sum;
        saved->error_square_sum += f->result[i].error_square_sum;
        saved->n_rounded += f->is->n_matrix * group_rows(f, f->begin + i) * f->tensor->k;
    }
    return advance(s, f->is->n_matrix * mfk_weights_bytes(f->tensor->type, n_row, f->tensor->k));
}

static size_t round_groups(const saver *s, size_t group_bytes)
{
    return mfi_min(mfi_max(ROUND_BYTES / group_bytes, s->n_thread), ROUND_GROUPS);
}

static mf_status fill_matrix(filling *f, mfi_writing *to)
{
    saver *s = f->s;
    const size_t n_group = ((size_t)f->tensor->n + MFK_NR - 1) / MFK_NR;
    mf_status status = MF_OK;
    for (f->begin = 0; f->begin < n_group && status == MF_OK; f->begin += f->n) {
        f->n = mfi_min(n_group - f->begin, round_groups(s, f->group_bytes));
        run_round(f);
        status = settle_round(f);
        size_t bytes = f->n * f->group_bytes;
        if (f->tensor->kind == MFI_TABLE && f->begin + f->n == n_group) /* rows are not filled up to 16 */
            bytes -= (MFK_NR - group_rows(f, n_group - 1)) * mfk_row_bytes(f->tensor->type, (size_t)f->tensor->k);
        if (status == MF_OK) status = mfi_writer_put(to, s->round, bytes);
    }
    return status;
}

/* ---- Whole tensors ---- */

/* What is no matrix, piece by piece. */
static mf_status fill_vector(filling *f, mfi_writing *to)
{
    saver *s = f->s;
    const mfi_weights *weights = s->weights;
    const bool global = strcmp(f->is->name, "rope.freqs") == 0, local = strcmp(f->is->name, "rope.freqs_local") == 0;
    unsigned char head[MFK_LINE];
    const bool given = weights->has && weights->has(weights->user, f->is, f->tensor, 0, head);
    if ((global || local) && !given) {
        mfi_rope_frequencies(s->config, global ? s->config->rope_theta : s->config->gemma3n.rope_theta_local, s->rows);
        return mfi_writer_put(to, s->rows, (size_t)f->tensor->bytes);
    }
    mf_status status = MF_OK;
    for (size_t done = 0, n; done < f->tensor->n && status == MF_OK; done += n) {
        n = mfi_min((size_t)f->tensor->n - done, s->row_floats);
        status = weights->read(weights->user, f->is->name, 0, 1, done, n, s->rows, s->error);
        if (status == MF_OK) status = mfi_writer_put(to, s->rows, n * sizeof *s->rows);
    }
    return status;
}

/* The table that the codes of a new Q4 tensor stand for. */
static void make_head(mfk_type type, unsigned char head[MFK_LINE])
{
    memset(head, 0, MFK_LINE);
    if (type == MFK_Q4) memcpy(head, mfk_q4_table, MFK_Q4_TABLE_BYTES);
}

static mf_status fill(void *user, const mfi_tensor *tensor, mfi_writing *to, mf_error *error)
{
    (void)error; /* s->error */
    saver *s = user;
    const piece *at = &s->piece[tensor->tag];
    if (at->tensor == s->n_tensor) return mfi_writer_put(to, s->options->tokenizer, s->options->tokenizer_bytes);
    filling f = { .s = s, .tensor = tensor, .is = &s->tensor[at->tensor], .first = at->first };
    if (tensor->kind == MFI_PLAIN) return fill_vector(&f, to);

    const mfi_weights *weights = s->weights;
    unsigned char head[MFK_LINE];
    if (s->options->saved) {
        s->options->saved[f.is->role].n_weight += f.is->n_matrix * tensor->n * tensor->k;
        s->options->saved[f.is->role].bytes += tensor->bytes;
        s->options->saved[f.is->role].types |= 1u << tensor->type;
    }
    f.group_bytes = tensor->kind == MFI_PANEL ? f.is->n_matrix * mfk_panel_bytes(tensor->type, (size_t)tensor->k)
                                              : MFK_NR * mfk_row_bytes(tensor->type, (size_t)tensor->k);
    make_head(tensor->type, head);
    f.copies = weights->has && weights->has(weights->user, f.is, tensor, f.first, head);
    mf_status status = mfi_writer_put(to, head, mfk_head_bytes(tensor->type));
    return status == MF_OK ? fill_matrix(&f, to) : status;
}

/* ---- The whole ---- */

static mf_status check_types(const saver *s, mf_error *error)
{
    for (size_t i = 0; i < s->n_tensor; i++) {
        const mfk_type type = type_of(s, &s->tensor[i]);
        if (type == 0)
            return mfi_fail(error, MF_E_UNSUPPORTED, "%s: tensor %s is of several types: choose one for it", s->path,
                            s->tensor[i].name);
        if (type < MFK_F32 || type > MFK_Q4)
            return mfi_fail(error, MF_E_UNSUPPORTED, "%s: matrices are stored as f32, bf16, f16, q8 or q4", s->path);
    }
    return MF_OK;
}

static mf_status list_tensors(saver *s, mf_error *error)
{
    mfi_schema_each(s->config, count_tensor, s);
    s->piece_capacity = s->n_tensor * s->n_shell + 1;
    s->tensor = mfi_alloc_array(s->allocator, s->n_tensor, sizeof *s->tensor);
    s->piece = mfi_alloc_array(s->allocator, s->piece_capacity, sizeof *s->piece);
    if (!s->tensor || !s->piece) return mfi_fail(error, MF_E_NOMEM, "%s: no memory to write it", s->path);
    s->n_tensor = 0;
    s->row_floats = s->config->d_head; /* rotations */
    mfi_schema_each(s->config, take_tensor, s);
    return check_types(s, error);
}

static mf_status allocate(saver *s, mf_error *error)
{
    for (size_t i = 0; i < s->n_tensor; i++) {
        const mfi_schema_tensor *is = &s->tensor[i];
        if (is->kind == MFI_PLAIN) continue;
        const mfk_type type = type_of(s, is);
        const size_t k = (size_t)is->k, group = is->kind == MFI_PANEL ? is->n_matrix * mfk_panel_bytes(type, k)
                                                                      : MFK_NR * mfk_row_bytes(type, k);
        s->round_bytes = mfi_max(s->round_bytes, round_groups(s, group) * group);
    }
    if (mfi_mul((s->options->saved ? 2 : 1) * MFK_NR, s->n_thread, &s->row_room) &&
        mfi_mul(s->row_room, s->row_floats, &s->row_room))
        s->rows = mfi_alloc_array(s->allocator, s->row_room, sizeof *s->rows);
    s->errors = mfi_alloc_array(s->allocator, s->n_thread, sizeof *s->errors);
    s->round = mfi_alloc(s->allocator, s->round_bytes);
    if (!s->rows || !s->errors || !s->round) return mfi_fail(error, MF_E_NOMEM, "%s: no memory to write it", s->path);
    for (uint32_t t = 0; t < s->n_thread; t++)
        s->errors[t].struct_size = sizeof *s->errors;
    if (s->n_thread == 1) return MF_OK;
    const mfi_pool_options pool = { .n_thread = s->n_thread, .run_spin_us = 50, .idle_spin_us = 50 };
    return mfi_pool_create(&s->pool, s->allocator, &pool, error);
}

static void release(saver *s)
{
    mfi_writer_close(s->writer);
    if (s->pool) mfi_pool_destroy(s->pool);
    mfi_free(s->allocator, s->tensor, s->n_tensor * sizeof *s->tensor);
    mfi_free(s->allocator, s->piece, s->piece_capacity * sizeof *s->piece);
    mfi_free(s->allocator, s->rows, s->row_room * sizeof *s->rows);
    mfi_free(s->allocator, s->errors, s->n_thread * sizeof *s->errors);
    mfi_free(s->allocator, s->round, s->round_bytes);
}

/* To `image` where it is not NULL, else to the path. */
static mf_status save(saver *s, mfi_image *image)
{
    mf_error *error = s->error;
    mf_status status = mfi_config_check(s->config, error);
    if (status != MF_OK) return status;
    s->n_shell = s->options->one_shell ? 1 : s->config->n_granularity;
    s->n_thread = s->options->n_thread ? s->options->n_thread : 1;
    if (s->options->saved) memset(s->options->saved, 0, MFI_N_ROLE * sizeof *s->options->saved);
    status = list_tensors(s, error);
    if (status == MF_OK) status = allocate(s, error);
    if (status == MF_OK) status = mfi_writer_create(&s->writer, s->allocator, s->path, error);
    if (status == MF_OK) {
        declare_metadata(s);
        declare_regions(s);
        if (s->options->plan) mfi_writer_plan(s->writer, s->options->plan, s->options->plan_bytes);
        status = image ? mfi_writer_finish_image(s->writer, fill, s, image, error)
                       : mfi_writer_finish(s->writer, fill, s, error);
    }
    release(s);
    return status;
}

mf_status mfi_save(const mfi_config *config, const mfi_weights *weights, const mfi_save_options *options,
                   const mf_allocator *allocator, const char *path, mf_error *error)
{
    saver s = { .config = config, .options = options, .weights = weights, .allocator = allocator, .path = path };
    s.error = error;
    return save(&s, NULL);
}

mf_status mfi_save_image(const mfi_config *config, const mfi_weights *weights, const mfi_save_options *options,
                         const mf_allocator *allocator, const char *name, mfi_image *image, mf_error *error)
{
    saver s = { .config = config, .options = options, .weights = weights, .allocator = allocator, .path = name };
    s.error = error;
    return save(&s, image);
}
