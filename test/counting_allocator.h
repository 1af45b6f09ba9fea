/* counting_allocator.h - an allocator for tests: knows what is not given back, and fails when told to. */
#ifndef COUNTING_ALLOCATOR_H
#define COUNTING_ALLOCATOR_H

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "matformer.h"

#define FILLED_BYTES ((size_t)256 << 10)

/* Zero is a good start. */
typedef struct counting {
    size_t live_bytes, n_alloc;
    size_t fail_at; /* this allocation fails, the first being 1; 0: none */
    int fail_after; /* and all after it */
    pthread_mutex_t mutex;
} counting;

static inline void *count_alloc(void *user, size_t bytes, size_t align)
{
    counting *c = user;
    pthread_mutex_lock(&c->mutex);
    size_t number = ++c->n_alloc;
    int fails = c->fail_at != 0 && (number == c->fail_at || (c->fail_after && number > c->fail_at));
    void *memory = NULL;
    if (!fails && posix_memalign(&memory, align, bytes) == 0) {
        c->live_bytes += bytes;
        /* Nobody may count on zeros; filling all of a large block would take most of a test's time. */
        memset(memory, 0xa5, bytes < FILLED_BYTES ? bytes : FILLED_BYTES);
    }
    pthread_mutex_unlock(&c->mutex);
    return memory;
}

static inline void count_free(void *user, void *memory, size_t bytes)
{
    counting *c = user;
    pthread_mutex_lock(&c->mutex);
    c->live_bytes -= bytes;
    pthread_mutex_unlock(&c->mutex);
    free(memory);
}

static inline mf_allocator counting_allocator(counting *c)
{
    mf_allocator allocator = { count_alloc, count_free, c };
    return allocator;
}

#endif
