/* trainer.c - the trainer's life: creation, a step, an evaluation. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cpu.h"
#include "defs.h"
#include "platform.h"
#include "status.h"
#include "trainer.h"

#define LOGIT_BYTES (128u << 20) /* most memory for logits; at least 64 rows whatever they take */
#define RUN_SPIN_US 2000         /* more than a task of a matrix product takes */
#define IDLE_SPIN_US 200         /* operations follow each other within a few microseconds */

uint32_t mf_train_version(void)
{
    return MF_TRAIN_VERSION_MAJOR << 16 | MF_TRAIN_VERSION_MINOR;
}

/* ---- Creation ---- */

static size_t micro_rows(const mf_trainer *t)
{
    return (size_t)(t->options.batch / t->options.n_micro) * t->options.sequence;
}

static float *floats(mfi_arena *arena, size_t rows, size_t columns)
{
    size_t count;
    if (!mfi_mul(rows, columns, &count)) count = SIZE_MAX;
    return mfi_carve(arena, count, sizeof(float));
}

static void lay_out_layer(const mf_trainer *t, uint32_t l, size_t rows, mfi_arena *arena)
{
    mfi_train_layer_work *work = &t->work.layers[l];
    const mfi_train_layer *layer = &t->layout.layers[l];
    size_t d = t->config.d_model;
    work->attn_out = floats(arena, rows, d);
    work->ffn_out = floats(arena, rows, d);
    work->attn_in = floats(arena, rows, d);
    work->ffn_in = floats(arena, rows, d);
    work->attn_stat = floats(arena, rows, 2);
    work->ffn_stat = floats(arena, rows, 2);
    work->qkv = floats(arena, rows, mfi_train_qkv_rows(&t->config, layer->heads));
    work->log_sum = floats(arena, rows, layer->heads);
    work->attended = floats(arena, rows, (size_t)layer->heads * t->config.d_head);
    work->up = floats(arena, rows, mfi_train_up_rows(&t->config, layer->ffn));
    work->hidden = floats(arena, rows, layer->ffn);
}

/* Rows of logits that exist at once: all, or equal parts of what fits. */
static size_t logit_rows(size_t rows, size_t stride)
{
    size_t most = mfi_max(MFI_TRAIN_ROWS, LOGIT_BYTES / sizeof(float) / stride);
    size_t parts = (rows + most - 1) / most;
    return mfi_round_up((rows + parts - 1) / parts, MFI_TRAIN_ROWS);
}

/* Everything of a pass, in one block. */
static void lay_out(mf_trainer *t, mfi_arena *arena)
{
    const mfi_config *c = &t->config;
    mfi_train_work *work = &t->work;
    size_t rows = micro_rows(t), d = c->d_model, widest = 0, heads = 0;

    for (uint32_t l = 0; l < c->n_layer; l++) {
        const mfi_train_layer *layer = &t->layout.layers[l];
        widest = mfi_max(widest, mfi_max(layer->ffn, mfi_train_qkv_rows(c, layer->heads)));
        heads = mfi_max(heads, layer->heads);
        lay_out_layer(t, l, rows, arena);
    }
    work->embedded = floats(arena, rows, d);
    work->final_in = floats(arena, rows, d);
    work->final_stat = floats(arena, rows, 2);
    work->d_stream = floats(arena, rows, d);
    work->d_normed = floats(arena, rows, d);
    work->d_wide = floats(arena, rows, widest);
    work->d_attended = floats(arena, rows, heads * c->d_head);
    work->logit_stride = mfi_round_up(c->n_vocab, 16) + 16; /* never a power of two */
    work->logit_rows = logit_rows(rows, work->logit_stride);
    work->logits = floats(arena, work->logit_rows, work->logit_stride);
    work->row_loss = floats(arena, rows, 1);
    work->norm_partial = floats(arena, rows / MFI_TRAIN_ROWS + 1, 2 * d);
    work->cosine = floats(arena, t->options.sequence, c->d_head / 2);
    work->sine = floats(arena, t->options.sequence, c->d_head / 2);
    work->chunk_sum = mfi_carve(arena, t->layout.n_float / MFI_TRAIN_CHUNK + 1, sizeof(double));
    t->input = mfi_carve(arena, rows, sizeof(int32_t));
    t->target = mfi_carve(arena, rows, sizeof(int32_t));
    size_t scratch = mfi_max(mfi_train_attention_scratch(c, t->options.sequence), mfi_train_gemm_packed_scratch());
    t->tasks.scratch_floats = mfi_round_up(scratch, 16);
    t->tasks.scratch = floats(arena, mfi_pool_size(t->tasks.pool), t->tasks.scratch_floats);
    t->tasks.shared = floats(arena, mfi_train_gemm_packed_shared(), 1);
}

static mf_status allocate(mf_trainer *t, mf_error *error)
{
    t->work.layers = mfi_alloc_array(&t->allocator, t->config.n_layer, sizeof(t->work.layers[0]));
    if (!t->work.layers) return mfi_fail(error, MF_E_NOMEM, "no memory for %u layers", t->config.n_layer);
    mfi_arena arena = { NULL, 0 };
    lay_out(t, &arena);
    t->work_bytes = arena.used;
    if (!mfi_mul(t->layout.n_float, 4 * sizeof(float), &t->state_bytes)) t->state_bytes = SIZE_MAX;
    t->work_block = mfi_alloc(&t->allocator, t->work_bytes);
    t->weights = mfi_alloc(&t->allocator, t->state_bytes);
    if (!t->work_block || !t->weights)
        return mfi_fail(error, MF_E_NOMEM, "no memory for %zu MB of weights and %zu MB of activations",
                        t->state_bytes >> 20, t->work_bytes >> 20);
    arena = (mfi_arena){ t->work_block, 0 };
    lay_out(t, &arena);
    t->gradient = t->weights + t->layout.n_float;
    t->m = t->gradient + t->layout.n_float;
    t->v = t->m + t->layout.n_float;
    return MF_OK;
}

static void fill_rotation(const mf_trainer *t)
{
    size_t half = t->config.d_head / 2;
    for (size_t position = 0; position < t->options.sequence; position++)
        for (size_t j = 0; j < half; j++) {
            double angle = (double)position * pow(t->config.rope_theta, -(double)j / (double)half);
            t->work.cosine[position * half + j] = (float)cos(angle);
            t->work.sine[position * half + j] = (float)sin(angle);
        }
}

static mf_status check_data(mf_trainer *t, mf_error *error)
{
    const mf_train_tokens *tokens = &t->options.tokens;
    if (!tokens->tokens) return MF_OK;
    if (tokens->n_token <= t->options.sequence)
        return mfi_fail(error, MF_E_INVALID, "%zu tokens to train on; a sequence needs %u and one more",
                        tokens->n_token, t->options.sequence);
    t->data_hash = mfi_train_tokens_hash(tokens);
    return mfi_train_tokens_check(tokens, t->config.n_vocab, error);
}

static mf_status build(mf_trainer *t, const mf_train_model *model, mf_error *error)
{
    mf_status status = mfi_train_config(&t->config, model, t->options.sequence, &t->allocator, error);
    if (status == MF_OK) status = mfi_train_probability(t->probability, &t->options, t->config.n_granularity, error);
    t->options.probability = NULL; /* the caller's; copied */
    if (status == MF_OK) status = mfi_train_layout_create(&t->layout, &t->config, &t->allocator, error);
    if (status == MF_OK) status = check_data(t, error);
    if (status != MF_OK) return status;

    uint32_t n_thread = t->options.n_thread ? t->options.n_thread : mfi_usable_cores();
    status = mfi_pool_create(
        &t->tasks.pool, &t->allocator,
        &(mfi_pool_options){ .n_thread = n_thread, .run_spin_us = RUN_SPIN_US, .idle_spin_us = IDLE_SPIN_US }, error);
    if (status == MF_OK) status = allocate(t, error);
    if (status != MF_OK) return status;
    t->vec = mfi_train_vec_select();
    const uint64_t cpu = mfk_cpu_detect() & ~(uint64_t)MFK_CPU_FAST;
    t->tasks.kernel = mfi_train_gemm_kernel(cpu);
    if (t->tasks.kernel)
        snprintf(t->gemm_name, sizeof(t->gemm_name), "own %s", mfk_cpu_name(cpu));
    else
        snprintf(t->gemm_name, sizeof(t->gemm_name), "blis %s", mfi_train_gemm_architecture());
    fill_rotation(t);
    mfi_train_initialize(&t->tasks, &t->layout, &t->config, t->options.seed, t->options.init_std, t->weights);
    return MF_OK;
}

mf_status mf_trainer_create(mf_trainer **out, const mf_train_model *model, const mf_trainer_options *options,
                            mf_error *error)
{
    if (!out) return mfi_fail(error, MF_E_INVALID, "mf_trainer_create: out is NULL");
    *out = NULL;
    mf_trainer_options read;
    mf_status status = mfi_train_options(&read, options, error);
    if (status != MF_OK) return status;
    mf_allocator allocator = mfi_allocator(&read.allocator);
    mf_trainer *t = mfi_alloc(&allocator, sizeof(*t));
    if (!t) return mfi_fail(error, MF_E_NOMEM, "no memory for a trainer");
    t->allocator = allocator;
    t->options = read;
    atomic_init(&t->stop, 0);
    status = build(t, model, error);
    if (status != MF_OK)
        mf_trainer_close(t);
    else
        *out = t;
    return status;
}

void mf_trainer_close(mf_trainer *trainer)
{
    if (!trainer) return;
    mf_allocator allocator = trainer->allocator;
    if (trainer->weights) mfi_free(&allocator, trainer->weights, trainer->state_bytes);
    if (trainer->work_block) mfi_free(&allocator, trainer->work_block, trainer->work_bytes);
    if (trainer->work.layers)
        mfi_free(&allocator, trainer->work.layers, trainer->config.n_layer * sizeof(trainer->work.layers[0]));
    if (trainer->tasks.pool) mfi_pool_destroy(trainer->tasks.pool);
    mfi_train_layout_free(&trainer->layout, &trainer->config, &allocator);
    mfi_config_free(&trainer->config, &allocator);
    mfi_free(&allocator, trainer, sizeof(*trainer));
}

/* Parameters of a granularity that multiply in every token, and those that do not (norms; an embedding that
 * is not also the output); multiply-adds of causal attention per token, forward. */
static void count_granularity(const mf_trainer *t, uint32_t g, mf_trainer_info *info)
{
    const mfi_config *c = &t->config;
    double multiplying = (double)c->n_vocab * c->d_model, attention = 0;
    uint64_t norm = c->norm == MFI_NORM_LAYER ? 2 * c->d_model : c->d_model, other = norm;
    if (!c->tied) other += (uint64_t)c->n_vocab * c->d_model;
    for (uint32_t l = 0; l < c->n_layer; l++) {
        uint32_t heads = c->granularity[g].heads[l], ffn = c->granularity[g].ffn[l];
        size_t rows = mfi_train_qkv_rows(c, heads) + (size_t)heads * c->d_head + mfi_train_up_rows(c, ffn) + ffn;
        multiplying += (double)rows * c->d_model;
        attention += (double)heads * c->d_head * (t->options.sequence + 1); /* scores and values, half of each */
        other += (heads ? norm : 0) + (ffn ? norm : 0);
    }
    info->granularity_params[g] = (uint64_t)multiplying + other;
    info->granularity_flops[g] = 6 * (multiplying + attention);
    info->granularity_name[g] = c->granularity[g].name;
}

mf_status mf_trainer_info_get(const mf_trainer *trainer, mf_trainer_info *info)
{
    if (!trainer) return MF_E_INVALID;
    mf_trainer_info full;
    memset(&full, 0, sizeof(full));
    full.n_granularity = trainer->config.n_granularity;
    for (uint32_t g = 0; g < full.n_granularity; g++)
        count_granularity(trainer, g, &full);
    full.n_param = full.granularity_params[full.n_granularity - 1];
    full.memory_bytes = (uint64_t)trainer->state_bytes + trainer->work_bytes;
    full.n_thread = mfi_pool_size(trainer->tasks.pool);
    full.tokens_per_step = trainer->options.batch * trainer->options.sequence;
    full.gemm = trainer->gemm_name;
    full.run = mfi_train_run_hash(trainer);
    return mfi_write_info(info, &full, sizeof(full), MFI_FIRST_BYTES(mf_trainer_info, run));
}

uint64_t mf_trainer_step_count(const mf_trainer *trainer)
{
    return trainer ? trainer->step : 0;
}

void mf_trainer_stop(mf_trainer *trainer, int stop)
{
    if (trainer) atomic_store(&trainer->stop, stop != 0);
}

/* ---- A step ---- */

static mfi_train_pass make_pass(mf_trainer *t, const uint32_t *ffn, const uint32_t *heads)
{
    return (mfi_train_pass){
        .config = &t->config,
        .layout = &t->layout,
        .vec = t->vec,
        .work = &t->work,
        .tasks = &t->tasks,
        .weights = t->weights,
        .length = t->options.sequence,
        .input = t->input,
        .target = t->target,
        .ffn = ffn,
        .heads = heads,
    };
}

/* Granularities [*first, *end) that this step runs. */
static void choose_granularities(const mf_trainer *t, uint32_t *first, uint32_t *end)
{
    *first = 0, *end = t->config.n_granularity;
    if (t->options.objective == MF_OBJECTIVE_JOINT) return;
    *first = t->options.granularity;
    if (t->options.objective == MF_OBJECTIVE_SAMPLED) {
        double drawn = mfi_random_unit(t->options.seed, MFI_STREAM_DRAW, t->step);
        for (*first = 0; *first + 1 < *end && drawn >= t->probability[*first]; (*first)++)
            drawn -= t->probability[*first];
    }
    *end = *first + 1;
}

/* Sums gradients and losses of the step's micro-batches. MF_E_CANCELLED when told to stop between two. */
static mf_status accumulate(mf_trainer *t, uint32_t first, uint32_t end, double *loss)
{
    const mf_trainer_options *o = &t->options;
    uint32_t sequences = o->batch / o->n_micro;
    for (uint32_t micro = 0; micro < o->n_micro; micro++) {
        mfi_train_batch(&o->tokens, o->seed, t->step * o->batch + micro * sequences, sequences, o->sequence, t->input,
                        t->target);
        for (uint32_t g = first; g < end; g++) {
            if (atomic_load(&t->stop)) return MF_E_CANCELLED;
            mfi_train_pass pass = make_pass(t, t->config.granularity[g].ffn, t->config.granularity[g].heads);
            pass.n_sequence = sequences;
            pass.gradient = t->gradient;
            pass.gradient_scale = 1.0f / ((float)o->batch * (float)o->sequence);
            loss[g] += mfi_train_pass_run(&pass);
        }
    }
    return MF_OK;
}

/* Applies the gradient; false when it is not finite. */
static bool update(mf_trainer *t, double *norm, double *learning_rate)
{
    const mf_trainer_options *o = &t->options;
    *norm = mfi_train_gradient_norm(&t->tasks, t->vec, t->gradient, t->layout.n_float, t->work.chunk_sum);
    *learning_rate = mfi_train_learning_rate(o, t->step);
    if (!isfinite(*norm)) return false;
    double n = (double)(t->step + 1);
    mfi_adamw constants = {
        .gradient_scale = (float)(o->clip > 0 && *norm > o->clip ? o->clip / *norm : 1),
        .beta1 = (float)o->beta1,
        .beta2 = (float)o->beta2,
        .keep = (float)(1 - *learning_rate * o->weight_decay),
        .step_size = (float)(*learning_rate / (1 - pow(o->beta1, n))),
        .root_bias = (float)sqrt(1 - pow(o->beta2, n)),
        .eps = (float)o->adam_eps,
    };
    mfi_train_adamw(&t->tasks, t->vec, &constants, &t->layout, t->weights, t->gradient, t->m, t->v);
    return true;
}

mf_status mf_trainer_step(mf_trainer *trainer, mf_train_report *report, mf_error *error)
{
    mf_trainer *t = trainer;
    if (!t) return mfi_fail(error, MF_E_INVALID, "trainer is NULL");
    if (!t->options.tokens.tokens) return mfi_fail(error, MF_E_INVALID, "the trainer was created without tokens");
    uint64_t begin = mfi_now_ns();
    double loss[MF_TRAIN_MAX_GRANULARITY] = { 0 };
    uint32_t first, end;
    mfi_fp_mode mode = mfi_fp_enter();
    choose_granularities(t, &first, &end);
    mfi_train_zero(&t->tasks, t->gradient, t->layout.n_float);
    mf_status status = accumulate(t, first, end, loss);
    mf_train_report full;
    memset(&full, 0, sizeof(full));
    if (status == MF_OK) {
        full.skipped = !update(t, &full.grad_norm, &full.learning_rate);
        t->step++;
    }
    mfi_fp_leave(mode);
    if (status != MF_OK) return mfi_fail(error, status, "stopped before step %llu", (unsigned long long)t->step + 1);

    full.step = t->step;
    full.n_granularity = t->config.n_granularity;
    full.n_token = (uint64_t)t->options.batch * t->options.sequence;
    for (uint32_t g = 0; g < full.n_granularity; g++)
        full.loss[g] = g >= first && g < end ? loss[g] / (double)full.n_token : NAN;
    full.elapsed_ns = mfi_now_ns() - begin;
    full.tokens_per_second = 1e9 * (double)full.n_token / (double)full.elapsed_ns;
    return report ? mfi_write_info(report, &full, sizeof(full), MFI_FIRST_BYTES(mf_train_report, tokens_per_second))
                  : MF_OK;
}

/* ---- Evaluation ---- */

/* Up to a micro-batch of windows, `limit` predictions at most but at least one window, from `at` on into input
 * and target. The last window may be shorter, and is then alone. Returns the number of predictions. */
static size_t next_windows(mf_trainer *t, const mf_train_tokens *tokens, size_t at, size_t limit, mfi_train_pass *pass)
{
    size_t left = tokens->n_token - 1 - at, sequence = t->options.sequence;
    pass->length = mfi_min(left, sequence);
    pass->n_sequence = mfi_min(left / pass->length, t->options.batch / t->options.n_micro);
    pass->n_sequence = mfi_max(1, mfi_min(pass->n_sequence, limit / sequence + (limit % sequence != 0)));
    size_t rows = pass->n_sequence * pass->length;
    for (size_t i = 0; i < rows; i++) {
        t->input[i] = mfi_train_token(tokens, at + i);
        t->target[i] = mfi_train_token(tokens, at + i + 1);
    }
    return rows;
}

mf_status mf_trainer_evaluate(mf_trainer *trainer, const mf_train_view *view, const mf_train_tokens *tokens,
                              uint64_t max_tokens, double *loss, uint64_t *n_predicted, mf_error *error)
{
    mf_trainer *t = trainer;
    uint32_t ffn[MFI_MAX_LAYER], heads[MFI_MAX_LAYER];
    if (!t || !tokens) return mfi_fail(error, MF_E_INVALID, "trainer or tokens is NULL");
    mf_status status = mfi_train_view_read(t, view, ffn, heads, error);
    if (status == MF_OK) status = mfi_train_tokens_check(tokens, t->config.n_vocab, error);
    if (status != MF_OK) return status;
    if (tokens->n_token < 2) return mfi_fail(error, MF_E_INVALID, "%zu tokens predict nothing", tokens->n_token);

    mfi_fp_mode mode = mfi_fp_enter();
    double sum = 0;
    size_t done = 0, all = tokens->n_token - 1;
    size_t limit = max_tokens > 0 && max_tokens < all ? (size_t)max_tokens : all;
    while (done < limit && status == MF_OK) {
        mfi_train_pass pass = make_pass(t, ffn, heads);
        done += next_windows(t, tokens, done, limit - done, &pass);
        sum += mfi_train_pass_run(&pass);
        if (atomic_load(&t->stop)) status = mfi_fail(error, MF_E_CANCELLED, "the evaluation was stopped");
    }
    mfi_fp_leave(mode);
    if (status != MF_OK) return status;
    if (loss) *loss = sum / (double)done;
    if (n_predicted) *n_predicted = done;
    return MF_OK;
}
