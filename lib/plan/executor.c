/* executor.c - reserving threads and workspace for a model. */
#include "executor.h"

#include "defs.h"
#include "platform.h"
#include "status.h"

enum { DEFAULT_ROWS = 512, DEFAULT_REQUESTS = 64, MAX_ROWS = 1 << 20 };

/* Inside a run spinning is longer than the products between two barriers of a decoded token: a worker that sleeps
 * there costs a wake-up at every barrier, which on a virtual machine is long (compare the constant of `matformer bench
 * decode`). After it, spinning covers what a host does between two tokens, and ends soon when no other comes. */
enum { RUN_SPIN_US = 2000, DEFAULT_IDLE_SPIN_US = 200 };

static void lay_out_space(mfi_space *space, mfi_arena *arena, uint32_t max_rows, uint32_t max_steps)
{
    uint32_t *row_of = mfi_carve(arena, max_rows, sizeof *row_of);
    uint32_t *index_of = mfi_carve(arena, max_rows, sizeof *index_of);
    mfi_step *step = mfi_carve(arena, max_steps, sizeof *step);
    if (arena->base != NULL) *space = (mfi_space){ .row_of = row_of, .index_of = index_of, .step = step };
}

static void lay_out_copies(mf_executor *e, mfi_arena *arena, uint32_t thread)
{
    const mfi_program *program = e->model->program;
    float **copied = mfi_carve(arena, program->n_buffer, sizeof *copied);
    for (uint32_t i = 0; i < program->n_buffer; i++) {
        float *copy = NULL;
        if (program->buffer[i].copied) copy = mfi_carve(arena, program->buffer[i].stride, MFI_FEW_ROWS * sizeof(float));
        if (arena->base != NULL) copied[i] = copy != NULL ? copy : e->shared[i];
    }
    if (arena->base != NULL) e->copied[thread] = copied;
}

static void lay_out(mf_executor *e, mfi_arena *arena)
{
    const mfi_program *program = e->model->program;
    e->shared = mfi_carve(arena, program->n_buffer, sizeof *e->shared);
    e->buffer = mfi_carve(arena, e->n_thread, sizeof *e->buffer);
    e->copied = mfi_carve(arena, e->n_thread, sizeof *e->copied);
    e->scratch = mfi_carve(arena, e->n_thread, sizeof *e->scratch);
    e->logits_tile = mfi_carve(arena, e->n_thread, sizeof *e->logits_tile);
    e->attn = mfi_carve(arena, program->n_layer, sizeof *e->attn);
    e->ffn = mfi_carve(arena, program->n_layer, sizeof *e->ffn);
    const bool real = arena->base != NULL;
    for (uint32_t i = 0; i < program->n_buffer; i++) {
        size_t floats = 0, rows = e->max_rows;
        if (program->buffer[i].rows == MFI_ROWS_CLASS) rows = mfi_min(rows, e->max_requests);
        if (!mfi_mul(program->buffer[i].stride, rows, &floats)) floats = SIZE_MAX;
        float *buffer = mfi_carve(arena, floats, sizeof(float));
        if (real) e->shared[i] = buffer;
    }
    for (uint32_t t = 0; t < e->n_thread; t++) {
        lay_out_copies(e, arena, t);
        if (real) e->buffer[t] = e->shared;
        unsigned char *scratch = mfi_carve(arena, MFK_SCRATCH_BYTES, 1);
        float *tile = mfi_carve(arena, MFI_LOGITS_ROWS * MFI_LOGITS_COLUMNS, sizeof(float));
        if (real) e->scratch[t] = scratch, e->logits_tile[t] = tile;
    }
    mfi_space unused;
    for (uint32_t layer = 0; layer < program->n_layer; layer++) {
        lay_out_space(real ? &e->attn[layer] : &unused, arena, e->max_rows, e->max_requests);
        lay_out_space(real ? &e->ffn[layer] : &unused, arena, e->max_rows, e->max_requests);
    }
    lay_out_space(&e->all, arena, 0, 1);
    lay_out_space(&e->out, arena, e->max_rows, 1);
    lay_out_space(&e->class_rows, arena, e->max_rows, 1);
    for (uint32_t r = 0; r < MFI_N_ROTATION && program->rope_freqs[r] != NULL; r++) {
        e->cos[r] = mfi_carve(arena, e->max_rows, program->d_head / 2 * sizeof(float));
        e->sin[r] = mfi_carve(arena, e->max_rows, program->d_head / 2 * sizeof(float));
    }
    e->part_stride = mfi_round_up(program->d_head + 2, MFI_LINE / sizeof(float));
    if (e->n_thread > 1) {
        e->n_part = (size_t)e->n_thread * MFI_SPLIT_PAIRS * MFI_SPLIT_SPANS;
        e->part = mfi_carve(arena, e->n_part, e->part_stride * sizeof(float));
    }
    e->embedding = mfi_carve(arena, e->max_rows, sizeof *e->embedding);
    e->row_request = mfi_carve(arena, e->max_rows, sizeof *e->row_request);
    e->order = mfi_carve(arena, e->max_requests, sizeof *e->order);
    e->request = mfi_carve(arena, e->max_requests, sizeof *e->request);
}

static mf_status reserve(mf_executor *e, mf_error *error)
{
    mfi_arena arena = { NULL, 0 };
    lay_out(e, &arena);
    e->workspace_bytes = arena.used;
    e->workspace = mfi_alloc(&e->allocator, arena.used);
    if (e->workspace == NULL)
        return mfi_fail(error, MF_E_NOMEM, "no memory for a workspace of %zu bytes (%u tokens, %u requests)",
                        arena.used, e->max_rows, e->max_requests);
    arena = (mfi_arena){ e->workspace, 0 };
    lay_out(e, &arena);
    return MF_OK;
}

static uint32_t idle_spin_us(const mf_executor_options *options)
{
    if (options->spin_us == MF_SPIN_NONE) return 0;
    return options->spin_us ? options->spin_us : DEFAULT_IDLE_SPIN_US;
}

/* cpus[n]: the fast cores of this process. */
static mf_status start_threads(mf_executor *e, const mf_executor_options *options, const int *cpus, size_t n,
                               mf_error *error)
{
    mfi_pool_options pool = { .n_thread = e->n_thread,
                              .run_spin_us = RUN_SPIN_US,
                              .idle_spin_us = idle_spin_us(options),
                              .cpus = options->cpus,
                              .n_cpu = options->n_cpu,
                              .parallel_for = options->parallel_for,
                              .parallel_for_user = options->parallel_for_user };
    if (options->cpus == NULL && e->n_thread <= n && n < mfi_usable_cores())
        pool.cpus = cpus, pool.n_cpu = n, pool.any_cpu = true;
    return mfi_pool_create(&e->pool, &e->allocator, &pool, error);
}

mf_status mfi_executor_create(mf_executor **out, mf_model *model, const mf_executor_options *options, mf_error *error)
{
    *out = NULL;
    if (options->n_thread > MFI_MAX_THREAD || options->max_tokens > MAX_ROWS || options->max_requests > MAX_ROWS)
        return mfi_fail(error, MF_E_INVALID, "at most %u threads, %d tokens and %d requests", MFI_MAX_THREAD, MAX_ROWS,
                        MAX_ROWS);
    int cpus[MFI_MAX_CPU];
    const size_t n_fast = mfi_fast_cpus(cpus, mfi_usable_cpus(cpus), "/sys/devices/system/cpu");
    const size_t n_core = n_fast ? n_fast : mfi_usable_cores();
    mf_executor *e = mfi_alloc(&model->allocator, sizeof *e);
    if (e == NULL) return mfi_fail(error, MF_E_NOMEM, "no memory for an executor");
    e->model = model;
    e->allocator = model->allocator;
    e->n_thread = options->n_thread ? options->n_thread : (uint32_t)mfi_min(n_core, MFI_MAX_THREAD);
    e->max_rows = options->max_tokens ? options->max_tokens : DEFAULT_ROWS;
    e->max_requests = options->max_requests ? options->max_requests : DEFAULT_REQUESTS;
    atomic_init(&e->busy, false);
    atomic_init(&e->stop_layer, UINT32_MAX);
    mfi_model_retain(model);
    mf_status status = reserve(e, error);
    if (status == MF_OK) status = start_threads(e, options, cpus, n_fast, error);
    if (status != MF_OK) {
        mfi_executor_free(e);
        return status;
    }
    *out = e;
    return MF_OK;
}

void mfi_executor_free(mf_executor *executor)
{
    if (executor == NULL) return;
    mf_model *model = executor->model;
    mfi_pool_destroy(executor->pool);
    mfi_free(&executor->allocator, executor->workspace, executor->workspace_bytes);
    mfi_free(&model->allocator, executor, sizeof *executor);
    mfi_model_release(model);
}

bool mfi_executor_acquire(mf_executor *executor)
{
    return !atomic_exchange_explicit(&executor->busy, true, memory_order_acquire);
}

void mfi_executor_release(mf_executor *executor)
{
    atomic_store_explicit(&executor->busy, false, memory_order_release);
}
