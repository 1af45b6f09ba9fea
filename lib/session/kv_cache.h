/* kv_cache.h - the pages of one timeline: for every cache slot (a layer that owns keys and values) a table of
 * pages of 64 positions. Pages may be shared with forks; whoever writes takes a copy first. */
#ifndef MFI_KV_CACHE_H
#define MFI_KV_CACHE_H

#include "submodel.h"

typedef struct mfi_kv_cache {
    mf_model *model;
    mfi_page_pool *pool;
    mf_cache_type type;
    uint32_t n_slot, max_pages; /* pages of a slot's table */
    uint32_t *page;             /* [n_slot][max_pages] index in the pool, or MFI_NO_PAGE */
    void **data;                /* [n_slot][max_pages] its address */
    void ***slot;               /* [n_slot] = data + slot * max_pages, as a run wants them */
    uint16_t *kv_heads;         /* [n_slot] heads that the filled positions have; 0: the layer was skipped */
    bool is_written;            /* kv_heads hold: some position is filled */
    uint32_t reserved;          /* pages reserved in the pool */
    void *block;
    size_t block_bytes;
} mfi_kv_cache;

mf_status mfi_kv_create(mfi_kv_cache *cache, mf_model *model, mf_cache_type type, uint32_t max_positions,
                        mf_error *error);
void mfi_kv_destroy(mfi_kv_cache *cache);

/* MF_E_REBUILD_NEEDED when the filled positions were written with other key/value heads. */
mf_status mfi_kv_check_view(const mfi_kv_cache *cache, const mf_submodel *view, mf_error *error);
/* Makes positions [begin, end) writable for `view`: takes pages, and copies shared ones. On failure (MF_E_FULL)
 * the pages are as they were. */
mf_status mfi_kv_prepare(mfi_kv_cache *cache, const mf_submodel *view, uint32_t begin, uint32_t end, mf_error *error);
/* After positions up to `end` were written by `view`. */
void mfi_kv_commit(mfi_kv_cache *cache, const mf_submodel *view);
/* Takes the pages of a fresh cache whose `positions` positions have these heads [n_slot]. */
mf_status mfi_kv_fill(mfi_kv_cache *cache, const uint16_t *kv_heads, uint32_t positions, mf_error *error);
/* Gives back the pages that hold nothing below `position`. */
void mfi_kv_truncate(mfi_kv_cache *cache, uint32_t position);
/* `to` is fresh and of the same kind; shares all pages. */
void mfi_kv_share(mfi_kv_cache *to, const mfi_kv_cache *from);

static inline uint32_t mfi_pages_of(uint32_t positions)
{
    return positions / MFK_PAGE + (positions % MFK_PAGE != 0);
}

#endif
