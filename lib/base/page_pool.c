/* page_pool.c - a stack of free pages under one atomic word, and the table that says where pages lie.
 *
 *     head   tag << 32 | index of the first free page; the tag counts changes, so that a page that was taken
 *            and came back meanwhile is not mistaken for one that stayed (ABA)
 *     table  entry of page p; chunk c holds 64 << c entries, so that 26 chunks reach all indices, and entries
 *            never move while the table grows
 *     slabs  [line: next, bytes][page][page]..., one for every growth */
#include "page_pool.h"

#include <pthread.h>
#include <stdatomic.h>

#include "arena.h"
#include "defs.h"

#define FIRST_CHUNK 64u
#define N_CHUNK 26u

typedef struct entry {
    void *data; /* written under the mutex before the page is first free; NULL: never was */
    atomic_uint references;
    atomic_uint next; /* free page */
} entry;

typedef struct slab {
    struct slab *next;
    size_t bytes;
} slab;

struct mfi_page_pool {
    mf_allocator allocator;
    size_t page_bytes;
    bool budget;
    pthread_mutex_t mutex; /* guards the next three, and growing */
    uint64_t n_reserved;
    uint32_t n_page;
    slab *slabs;
    entry *chunks[N_CHUNK];
    _Atomic uint64_t head;
    atomic_uint n_free;
};

static unsigned floor_log2(uint32_t x) /* x > 0 */
{
#if defined(__GNUC__)
    return 31u - (unsigned)__builtin_clz(x);
#else
    unsigned log = 0;
    while (x >>= 1)
        log++;
    return log;
#endif
}

static unsigned chunk_of(uint32_t page)
{
    return floor_log2(page / FIRST_CHUNK + 1);
}

static uint32_t chunk_begin(unsigned chunk)
{
    return (FIRST_CHUNK << chunk) - FIRST_CHUNK;
}

static entry *entry_of(const mfi_page_pool *pool, uint32_t page)
{
    unsigned chunk = chunk_of(page);
    return &pool->chunks[chunk][page - chunk_begin(chunk)];
}

static size_t chunk_bytes(unsigned chunk)
{
    return ((size_t)FIRST_CHUNK << chunk) * sizeof(entry);
}

static void push(mfi_page_pool *pool, uint32_t page)
{
    entry *e = entry_of(pool, page);
    uint64_t head = atomic_load_explicit(&pool->head, memory_order_relaxed), changed;
    do {
        atomic_store_explicit(&e->next, (uint32_t)head, memory_order_relaxed);
        changed = ((head >> 32) + 1) << 32 | page;
    } while (!atomic_compare_exchange_weak_explicit(&pool->head, &head, changed, memory_order_release,
                                                    memory_order_relaxed));
    atomic_fetch_add_explicit(&pool->n_free, 1, memory_order_relaxed);
}

uint32_t mfi_page_pool_take(mfi_page_pool *pool)
{
    uint64_t head = atomic_load_explicit(&pool->head, memory_order_acquire), changed;
    uint32_t page;
    do {
        page = (uint32_t)head;
        if (page == MFI_NO_PAGE) return MFI_NO_PAGE;
        /* Another thread may take the page at this moment: then `next` is stale, and so is the tag. */
        uint32_t next = atomic_load_explicit(&entry_of(pool, page)->next, memory_order_relaxed);
        changed = ((head >> 32) + 1) << 32 | next;
    } while (!atomic_compare_exchange_weak_explicit(&pool->head, &head, changed, memory_order_acquire,
                                                    memory_order_acquire));
    atomic_fetch_sub_explicit(&pool->n_free, 1, memory_order_relaxed);
    atomic_store_explicit(&entry_of(pool, page)->references, 1, memory_order_relaxed);
    return page;
}

void mfi_page_pool_ref(mfi_page_pool *pool, uint32_t page)
{
    atomic_fetch_add_explicit(&entry_of(pool, page)->references, 1, memory_order_relaxed);
}

void mfi_page_pool_release(mfi_page_pool *pool, uint32_t page)
{
    /* Ours is done before the others can tell that we are gone; theirs, before the next owner writes. */
    if (atomic_fetch_sub_explicit(&entry_of(pool, page)->references, 1, memory_order_acq_rel) == 1) push(pool, page);
}

void *mfi_page_pool_data(const mfi_page_pool *pool, uint32_t page)
{
    return entry_of(pool, page)->data;
}

bool mfi_page_pool_shared(const mfi_page_pool *pool, uint32_t page)
{
    return atomic_load_explicit(&entry_of(pool, page)->references, memory_order_acquire) > 1;
}

uint32_t mfi_page_pool_free_count(const mfi_page_pool *pool)
{
    return atomic_load_explicit(&pool->n_free, memory_order_relaxed);
}

/* Chunks of the table up to page `n_page` - 1. They are kept when a later allocation fails. */
static bool grow_table(mfi_page_pool *pool, uint32_t n_page)
{
    for (unsigned chunk = 0; chunk <= chunk_of(n_page - 1); chunk++) {
        if (pool->chunks[chunk]) continue;
        pool->chunks[chunk] = mfi_alloc(&pool->allocator, chunk_bytes(chunk));
        if (!pool->chunks[chunk]) return false;
    }
    return true;
}

/* Adds n pages in one slab. Under the mutex, or before others know the pool. */
static mf_status grow(mfi_page_pool *pool, uint32_t n)
{
    size_t bytes;
    if (n > MFI_NO_PAGE - FIRST_CHUNK - pool->n_page || !mfi_mul(n, pool->page_bytes, &bytes) ||
        !mfi_add(bytes, MFI_LINE, &bytes) || bytes > PTRDIFF_MAX || !grow_table(pool, pool->n_page + n))
        return MF_E_NOMEM;
    /* Not mfi_alloc: zeroing would make the system find memory for pages that are never used. */
    slab *added = pool->allocator.alloc(pool->allocator.user, bytes, MFI_LINE);
    if (!added) return MF_E_NOMEM;
    *added = (slab){ pool->slabs, bytes };
    pool->slabs = added;
    unsigned char *pages = (unsigned char *)added + MFI_LINE;
    /* Last first, so that pages are taken in ascending order. */
    for (uint32_t i = n; i-- > 0;) {
        entry_of(pool, pool->n_page + i)->data = pages + i * pool->page_bytes;
        push(pool, pool->n_page + i);
    }
    pool->n_page += n;
    return MF_OK;
}

static void free_slabs(mfi_page_pool *pool)
{
    while (pool->slabs) {
        slab *first = pool->slabs;
        pool->slabs = first->next;
        mfi_free(&pool->allocator, first, first->bytes);
    }
}

mf_status mfi_page_pool_reserve(mfi_page_pool *pool, uint32_t n_pages)
{
    if (pool->budget) return MF_OK;
    mf_status status = MF_OK;
    pthread_mutex_lock(&pool->mutex);
    uint64_t wanted = pool->n_reserved + n_pages;
    if (wanted > UINT32_MAX) status = MF_E_NOMEM;
    if (status == MF_OK && wanted > pool->n_page) status = grow(pool, (uint32_t)wanted - pool->n_page);
    if (status == MF_OK) pool->n_reserved = wanted;
    pthread_mutex_unlock(&pool->mutex);
    return status;
}

void mfi_page_pool_unreserve(mfi_page_pool *pool, uint32_t n_pages)
{
    if (pool->budget) return;
    pthread_mutex_lock(&pool->mutex);
    pool->n_reserved -= n_pages;
    /* Without reservations nobody takes, so the stack can be emptied. */
    if (pool->n_reserved == 0 && atomic_load(&pool->n_free) == pool->n_page) {
        uint64_t head = atomic_load(&pool->head);
        atomic_store(&pool->head, ((head >> 32) + 1) << 32 | MFI_NO_PAGE);
        atomic_store(&pool->n_free, 0);
        free_slabs(pool);
        pool->n_page = 0;
    }
    pthread_mutex_unlock(&pool->mutex);
}

mf_status mfi_page_pool_create(mfi_page_pool **out, const mf_allocator *allocator, size_t page_bytes,
                               uint32_t max_pages)
{
    *out = NULL;
    if (page_bytes == 0 || page_bytes > PTRDIFF_MAX) return MF_E_INVALID;
    mfi_page_pool *pool = mfi_alloc(allocator, sizeof(*pool));
    if (!pool) return MF_E_NOMEM;
    pool->allocator = *allocator;
    pool->page_bytes = mfi_round_up(page_bytes, MFI_LINE);
    pool->budget = max_pages != 0;
    atomic_init(&pool->head, MFI_NO_PAGE);
    pthread_mutex_init(&pool->mutex, NULL);
    mf_status status = pool->budget ? grow(pool, max_pages) : MF_OK;
    if (status != MF_OK) {
        mfi_page_pool_destroy(pool);
        return status;
    }
    *out = pool;
    return MF_OK;
}

void mfi_page_pool_destroy(mfi_page_pool *pool)
{
    if (!pool) return;
    mf_allocator allocator = pool->allocator;
    free_slabs(pool);
    for (unsigned chunk = 0; chunk < N_CHUNK; chunk++)
        mfi_free(&allocator, pool->chunks[chunk], chunk_bytes(chunk));
    pthread_mutex_destroy(&pool->mutex);
    mfi_free(&allocator, pool, sizeof(*pool));
}
