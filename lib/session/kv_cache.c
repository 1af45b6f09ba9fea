/* kv_cache.c - page tables over the model's pool. */
#include "kv_cache.h"

#include <string.h>

#include "defs.h"
#include "status.h"

static void lay_out(mfi_kv_cache *c, mfi_arena *arena)
{
    c->page = mfi_carve(arena, (size_t)c->n_slot * c->max_pages, sizeof *c->page);
    c->data = mfi_carve(arena, (size_t)c->n_slot * c->max_pages, sizeof *c->data);
    c->slot = mfi_carve(arena, c->n_slot, sizeof *c->slot);
    c->kv_heads = mfi_carve(arena, c->n_slot, sizeof *c->kv_heads);
}

static uint32_t *page_at(const mfi_kv_cache *c, uint32_t slot, uint32_t page)
{
    return &c->page[(size_t)slot * c->max_pages + page];
}

static void set_page(mfi_kv_cache *c, uint32_t slot, uint32_t page, uint32_t index)
{
    *page_at(c, slot, page) = index;
    c->slot[slot][page] = index == MFI_NO_PAGE ? NULL : mfi_page_pool_data(c->pool, index);
}

mf_status mfi_kv_create(mfi_kv_cache *c, mf_model *model, mf_cache_type type, uint32_t max_positions, mf_error *error)
{
    *c = (mfi_kv_cache){
        .model = model, .type = type, .n_slot = model->program->n_slot, .max_pages = mfi_pages_of(max_positions)
    };
    mf_status status = mfi_model_pool(model, type, &c->pool, error);
    if (status != MF_OK) return status;
    mfi_arena arena = { NULL, 0 };
    lay_out(c, &arena);
    c->block_bytes = arena.used;
    c->block = mfi_alloc(&model->allocator, arena.used);
    if (c->block == NULL)
        return mfi_fail(error, MF_E_NOMEM, "no memory for the page table of %u positions", max_positions);
    arena = (mfi_arena){ c->block, 0 };
    lay_out(c, &arena);
    memset(c->page, 0xff, (size_t)c->n_slot * c->max_pages * sizeof *c->page);
    for (uint32_t slot = 0; slot < c->n_slot; slot++)
        c->slot[slot] = c->data + (size_t)slot * c->max_pages;

    /* One more than the table holds: while a shared page is copied, this cache has both. */
    const uint64_t wanted = (uint64_t)c->n_slot * c->max_pages + 1;
    status = wanted < MFI_NO_PAGE ? mfi_page_pool_reserve(c->pool, (uint32_t)wanted) : MF_E_NOMEM;
    if (status != MF_OK) {
        mfi_kv_destroy(c);
        return mfi_fail(error, status, "no memory for a cache of %u positions: %llu pages of %zu bytes", max_positions,
                        (unsigned long long)wanted, model->page_bytes[type]);
    }
    c->reserved = (uint32_t)wanted;
    return MF_OK;
}

void mfi_kv_destroy(mfi_kv_cache *c)
{
    if (c->block == NULL) return;
    mfi_kv_truncate(c, 0);
    if (c->reserved != 0) mfi_page_pool_unreserve(c->pool, c->reserved);
    mfi_free(&c->model->allocator, c->block, c->block_bytes);
    c->block = NULL;
}

mf_status mfi_kv_check_view(const mfi_kv_cache *c, const mf_submodel *view, mf_error *error)
{
    for (uint32_t slot = 0; c->is_written && slot < c->n_slot; slot++) {
        const uint32_t layer = c->model->program->slot_layer[slot], heads = mfi_view_kv_heads(view, layer);
        if (heads != c->kv_heads[slot])
            return mfi_fail(error, MF_E_REBUILD_NEEDED,
                            "layer %u: the cache holds %u key/value heads, the view has %u; rewind the session to 0",
                            layer, c->kv_heads[slot], heads);
    }
    return MF_OK;
}

/* One page made writable: taken when missing, copied when shared. */
static bool prepare_page(mfi_kv_cache *c, uint32_t slot, uint32_t page)
{
    const uint32_t old = *page_at(c, slot, page);
    if (old != MFI_NO_PAGE && !mfi_page_pool_shared(c->pool, old)) return true;
    const uint32_t taken = mfi_page_pool_take(c->pool);
    if (taken == MFI_NO_PAGE) return false;
    if (old != MFI_NO_PAGE) {
        memcpy(mfi_page_pool_data(c->pool, taken), mfi_page_pool_data(c->pool, old), c->model->page_bytes[c->type]);
        mfi_page_pool_release(c->pool, old);
    }
    set_page(c, slot, page, taken);
    return true;
}

static mf_status prepare_slot(mfi_kv_cache *c, uint32_t slot, uint32_t begin, uint32_t end, mf_error *error)
{
    for (uint32_t page = begin / MFK_PAGE; page < mfi_pages_of(end); page++) {
        if (prepare_page(c, slot, page)) continue;
        mfi_kv_truncate(c, begin);
        return mfi_fail(error, MF_E_FULL,
                        "no free page for positions %u to %u: all of the model's cache_bytes are in use", begin,
                        end - 1);
    }
    return MF_OK;
}

mf_status mfi_kv_prepare(mfi_kv_cache *c, const mf_submodel *view, uint32_t begin, uint32_t end, mf_error *error)
{
    mf_status status = MF_OK;
    for (uint32_t slot = 0; slot < c->n_slot && status == MF_OK; slot++)
        if (mfi_view_kv_heads(view, c->model->program->slot_layer[slot]) > 0)
            status = prepare_slot(c, slot, begin, end, error);
    return status;
}

mf_status mfi_kv_fill(mfi_kv_cache *c, const uint16_t *kv_heads, uint32_t positions, mf_error *error)
{
    mf_status status = MF_OK;
    for (uint32_t slot = 0; slot < c->n_slot && status == MF_OK; slot++) {
        c->kv_heads[slot] = kv_heads[slot];
        if (kv_heads[slot] > 0) status = prepare_slot(c, slot, 0, positions, error);
    }
    if (status == MF_OK) c->is_written = positions > 0;
    return status;
}

void mfi_kv_commit(mfi_kv_cache *c, const mf_submodel *view)
{
    for (uint32_t slot = 0; slot < c->n_slot; slot++)
        c->kv_heads[slot] = (uint16_t)mfi_view_kv_heads(view, c->model->program->slot_layer[slot]);
    c->is_written = true;
}

void mfi_kv_truncate(mfi_kv_cache *c, uint32_t position)
{
    for (uint32_t slot = 0; slot < c->n_slot; slot++) {
        for (uint32_t page = mfi_pages_of(position); page < c->max_pages; page++) {
            const uint32_t index = *page_at(c, slot, page);
            if (index == MFI_NO_PAGE) break; /* pages are filled from the front */
            mfi_page_pool_release(c->pool, index);
            set_page(c, slot, page, MFI_NO_PAGE);
        }
    }
    if (position == 0) c->is_written = false;
}

void mfi_kv_share(mfi_kv_cache *to, const mfi_kv_cache *from)
{
    const uint32_t n_page = (uint32_t)mfi_min(to->max_pages, from->max_pages);
    for (uint32_t slot = 0; slot < from->n_slot; slot++) {
        for (uint32_t page = 0; page < n_page && *page_at(from, slot, page) != MFI_NO_PAGE; page++) {
            mfi_page_pool_ref(from->pool, *page_at(from, slot, page));
            set_page(to, slot, page, *page_at(from, slot, page));
        }
    }
    memcpy(to->kv_heads, from->kv_heads, from->n_slot * sizeof *to->kv_heads);
    to->is_written = from->is_written;
}
