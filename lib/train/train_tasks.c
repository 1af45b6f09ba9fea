/* train_tasks.c - parallel loops whose cut does not depend on the number of threads, and random numbers. */
#include "trainer.h"

typedef struct loop {
    mfi_tasks *tasks;
    mfi_task task;
    void *user;
    size_t n_task;
    atomic_size_t next;
} loop;

static void work(void *user, uint32_t thread, uint32_t n_thread)
{
    loop *l = user;
    float *scratch = l->tasks->scratch + thread * l->tasks->scratch_floats;
    (void)n_thread;
    for (size_t i; (i = atomic_fetch_add_explicit(&l->next, 1, memory_order_relaxed)) < l->n_task;)
        l->task(l->user, i, scratch);
}

void mfi_tasks_run(mfi_tasks *tasks, size_t n_task, mfi_task task, void *user)
{
    loop l = { .tasks = tasks, .task = task, .user = user, .n_task = n_task };
    atomic_init(&l.next, 0);
    if (n_task > 1)
        mfi_pool_run(tasks->pool, work, &l);
    else
        work(&l, 0, 1);
}

/* The finalizer of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): every output bit depends on every input bit. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t mfi_random(uint64_t seed, uint64_t stream, uint64_t counter)
{
    const uint64_t golden = 0x9e3779b97f4a7c15u;
    return mix(mix(mix(seed + golden) + stream * golden) + counter * golden);
}

double mfi_random_unit(uint64_t seed, uint64_t stream, uint64_t counter)
{
    return (double)(mfi_random(seed, stream, counter) >> 11) * 0x1p-53;
}
