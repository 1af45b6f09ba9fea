/* arena.c - the allocator hooks, and carving. */
#define _POSIX_C_SOURCE 200809L /* posix_memalign */
#include "arena.h"

#include <stdlib.h>
#include <string.h>

#include "defs.h"

static void *default_alloc(void *user, size_t bytes, size_t align)
{
    (void)user;
#if defined(_WIN32)
    return _aligned_malloc(bytes, align);
#else
    /* Not C11's aligned_alloc(), which Android has from version 9 on. */
    void *memory;
    return posix_memalign(&memory, mfi_max(align, sizeof memory), bytes) == 0 ? memory : NULL;
#endif
}

static void default_free(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
#if defined(_WIN32)
    _aligned_free(memory);
#else
    free(memory);
#endif
}

/* For an allocator that frees everything at once. */
static void keep(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)memory;
    (void)bytes;
}

mf_allocator mfi_allocator(const mf_allocator *given)
{
    if (!given || !given->alloc) return (mf_allocator){ default_alloc, default_free, NULL };
    mf_allocator allocator = *given;
    if (!allocator.free) allocator.free = keep;
    return allocator;
}

/* An empty block still has an address, so that NULL always means failure. */
static size_t block_bytes(size_t bytes)
{
    return mfi_max(bytes, 1);
}

void *mfi_alloc(const mf_allocator *allocator, size_t bytes)
{
    /* No object is larger than PTRDIFF_MAX; hooks that round up need not fear an overflow. */
    if (bytes > PTRDIFF_MAX) return NULL;
    void *memory = allocator->alloc(allocator->user, block_bytes(bytes), MFI_LINE);
    return memory ? memset(memory, 0, block_bytes(bytes)) : NULL;
}

void *mfi_alloc_array(const mf_allocator *allocator, size_t count, size_t bytes)
{
    size_t total;
    return mfi_mul(count, bytes, &total) ? mfi_alloc(allocator, total) : NULL;
}

void mfi_free(const mf_allocator *allocator, void *memory, size_t bytes)
{
    if (memory) allocator->free(allocator->user, memory, block_bytes(bytes));
}

void *mfi_carve(mfi_arena *arena, size_t count, size_t bytes)
{
    size_t size, end;
    if (!mfi_mul(count, bytes, &size) || size > SIZE_MAX - MFI_LINE ||
        !mfi_add(arena->used, mfi_round_up(size, MFI_LINE), &end)) {
        arena->used = SIZE_MAX;
        return NULL;
    }
    void *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used = end;
    return piece;
}
