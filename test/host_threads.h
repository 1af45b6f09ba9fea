/* host_threads.h - loops of a host, for mf_executor_options.parallel_for: all that its comment allows. */
#ifndef HOST_THREADS_H
#define HOST_THREADS_H

#include <pthread.h>
#include <stdbool.h>

#include "matformer.h"

typedef enum host_kind { HOST_SERIAL, HOST_SHUFFLED, HOST_THREADED, HOST_KINDS } host_kind;

typedef struct host {
    host_kind kind;
    uint64_t random; /* the order of HOST_SHUFFLED */
    unsigned loops;  /* run so far */
} host;

typedef struct host_part {
    mf_task task;
    void *user;
    uint32_t index;
} host_part;

static inline void *host_run_part(void *argument)
{
    const host_part *part = argument;
    part->task(part->user, part->index);
    return NULL;
}

/* Every other part on a thread of its own, the rest here; where a thread does not start, here too. */
static inline void host_run_threaded(uint32_t n, mf_task task, void *task_user)
{
    host_part part[64];
    pthread_t thread[64];
    bool started[64] = { false };
    for (uint32_t i = 0; i < n; i++) {
        part[i] = (host_part){ task, task_user, i };
        started[i] = i % 2 == 0 && pthread_create(&thread[i], NULL, host_run_part, &part[i]) == 0;
    }
    for (uint32_t i = n; i-- > 0;)
        if (!started[i]) task(task_user, i);
    for (uint32_t i = 0; i < n; i++)
        if (started[i]) pthread_join(thread[i], NULL);
}

static inline void host_run_shuffled(host *h, uint32_t n, mf_task task, void *task_user)
{
    uint32_t order[64];
    for (uint32_t i = 0; i < n; i++) {
        h->random = h->random * 6364136223846793005u + 1442695040888963407u;
        const uint32_t j = (uint32_t)((h->random >> 33) % (i + 1));
        order[i] = order[j];
        order[j] = i;
    }
    for (uint32_t i = 0; i < n; i++)
        task(task_user, order[i]);
}

/* At most 64 parts. */
static inline void host_parallel_for(void *user, uint32_t n, mf_task task, void *task_user)
{
    host *h = user;
    h->loops++;
    if (h->kind == HOST_THREADED) host_run_threaded(n, task, task_user);
    if (h->kind == HOST_SHUFFLED) host_run_shuffled(h, n, task, task_user);
    for (uint32_t i = 0; h->kind == HOST_SERIAL && i < n; i++)
        task(task_user, i);
}

#endif
