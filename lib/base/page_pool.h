/* page_pool.h - memory blocks of one size, counted by reference: the pages of the key/value caches.
 *
 * Sessions reserve before a forward starts (a mutex, the allocator); during it they take, share and release
 * pages without a lock and without allocating. A page keeps its address and its index for as long as somebody
 * holds it. Pages are not zeroed.
 *
 * Threads: every function but create and destroy, from any thread at any time. Whoever has a page through a
 * queue or a table of another thread synchronises with that thread himself, as for any pointer. */
#ifndef MFI_PAGE_POOL_H
#define MFI_PAGE_POOL_H

#include <stdbool.h>

#include "matformer.h"

typedef struct mfi_page_pool mfi_page_pool;

#define MFI_NO_PAGE UINT32_MAX

/* Pages of `page_bytes`, aligned to 64. `max_pages` 0: as many as are reserved. Otherwise a budget: all of it
 * is allocated here, pages are taken as long as there are any, and reserving does nothing. MF_E_NOMEM. */
mf_status mfi_page_pool_create(mfi_page_pool **out, const mf_allocator *allocator, size_t page_bytes,
                               uint32_t max_pages);
void mfi_page_pool_destroy(mfi_page_pool *pool);

/* Promises that n_pages more can be taken at the same time; allocates what is lacking. MF_E_NOMEM: nothing
 * changed. When the last reservation is given back and no page is held, so is the memory. */
mf_status mfi_page_pool_reserve(mfi_page_pool *pool, uint32_t n_pages);
void mfi_page_pool_unreserve(mfi_page_pool *pool, uint32_t n_pages);

uint32_t mfi_page_pool_take(mfi_page_pool *pool); /* with one reference, or MFI_NO_PAGE */
void mfi_page_pool_ref(mfi_page_pool *pool, uint32_t page);
void mfi_page_pool_release(mfi_page_pool *pool, uint32_t page);
void *mfi_page_pool_data(const mfi_page_pool *pool, uint32_t page);
/* More than one reference: copy it before writing. What others read before they let go is done. */
bool mfi_page_pool_shared(const mfi_page_pool *pool, uint32_t page);
uint32_t mfi_page_pool_free_count(const mfi_page_pool *pool); /* while others work, a snapshot */

#endif
