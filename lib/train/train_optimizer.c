/* train_optimizer.c - the gradient's norm, AdamW, and the learning rate of a step.
 *
 * AdamW: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, algorithm 2. */
#include <math.h>
#include <string.h>

#include "defs.h"
#include "trainer.h"

static size_t chunk_count(size_t n)
{
    return (n + MFI_TRAIN_CHUNK - 1) / MFI_TRAIN_CHUNK;
}

typedef struct range {
    const mfi_train_vec *vec;
    const float *x;
    float *out;
    size_t n;
    double *chunk_sum;
} range;

static void square_chunk(void *user, size_t index, float *scratch)
{
    const range *r = user;
    size_t begin = index * MFI_TRAIN_CHUNK, count = mfi_min(MFI_TRAIN_CHUNK, r->n - begin);
    (void)scratch;
    r->chunk_sum[index] = (double)r->vec->dot(count, r->x + begin, r->x + begin);
}

double mfi_train_gradient_norm(mfi_tasks *tasks, const mfi_train_vec *vec, const float *gradient, size_t n,
                               double *chunk_sum)
{
    range r = { vec, gradient, NULL, n, chunk_sum };
    mfi_tasks_run(tasks, chunk_count(n), square_chunk, &r);
    double sum = 0;
    for (size_t i = 0; i < chunk_count(n); i++)
        sum += chunk_sum[i];
    return sqrt(sum);
}

static void zero_chunk(void *user, size_t index, float *scratch)
{
    const range *r = user;
    size_t begin = index * MFI_TRAIN_CHUNK;
    (void)scratch;
    memset(r->out + begin, 0, mfi_min(MFI_TRAIN_CHUNK, r->n - begin) * sizeof(float));
}

void mfi_train_zero(mfi_tasks *tasks, float *x, size_t n)
{
    mfi_tasks_run(tasks, chunk_count(n), zero_chunk, &(range){ NULL, NULL, x, n, NULL });
}

typedef struct update {
    const mfi_train_vec *vec;
    mfi_adamw constants;
    size_t n;
    float *weights, *m, *v;
    const float *gradient;
} update;

static void update_chunk(void *user, size_t index, float *scratch)
{
    const update *u = user;
    size_t begin = index * MFI_TRAIN_CHUNK, count = mfi_min(MFI_TRAIN_CHUNK, u->n - begin);
    (void)scratch;
    u->vec->adamw(count, &u->constants, u->weights + begin, u->gradient + begin, u->m + begin, u->v + begin);
}

void mfi_train_adamw(mfi_tasks *tasks, const mfi_train_vec *vec, const mfi_adamw *constants,
                     const mfi_train_layout *layout, float *weights, const float *gradient, float *m, float *v)
{
    size_t matrices = layout->n_matrix, vectors = layout->n_float - matrices;
    update u = { vec, *constants, matrices, weights, m, v, gradient };
    mfi_tasks_run(tasks, chunk_count(matrices), update_chunk, &u);
    u = (update){ vec, *constants, vectors, weights + matrices, m + matrices, v + matrices, gradient + matrices };
    u.constants.keep = 1.0f;
    mfi_tasks_run(tasks, chunk_count(vectors), update_chunk, &u);
}

/* Linear warm-up to the peak, then half a cosine down to the floor at the last step. `step` counts from 0. */
double mfi_train_learning_rate(const mf_trainer_options *options, uint64_t step)
{
    double peak = options->learning_rate, floor = peak * options->floor_ratio;
    if (step < options->warmup) return peak * (double)(step + 1) / (double)options->warmup;
    if (step >= options->n_step) return floor;
    double done = (double)(step - options->warmup) / (double)(options->n_step - options->warmup);
    return floor + 0.5 * (peak - floor) * (1.0 + cos(3.14159265358979324 * done));
}
