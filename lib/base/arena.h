/* arena.h - the allocator hooks, and one aligned block carved by offset. */
#ifndef MFI_ARENA_H
#define MFI_ARENA_H

#include "matformer.h"

/* `given` with its gaps filled: the C library's where alloc is NULL. */
mf_allocator mfi_allocator(const mf_allocator *given);

/* `bytes` zeroed, aligned to 64, or NULL. */
void *mfi_alloc(const mf_allocator *allocator, size_t bytes);
/* count * bytes, checked. */
void *mfi_alloc_array(const mf_allocator *allocator, size_t count, size_t bytes);
void mfi_free(const mf_allocator *allocator, void *memory, size_t bytes);

/* A layout is measured first (base NULL: mfi_carve returns NULL and counts), then carved from one block:
 *
 *     mfi_arena arena = { NULL, 0 };
 *     lay_out(thing, &arena);                  measures
 *     arena.base = mfi_alloc(&a, arena.used);  arena.used = 0;
 *     lay_out(thing, &arena);                  hands out
 *
 * Every piece is aligned to 64 bytes. An overflow makes `used` SIZE_MAX, which no allocator grants. */
typedef struct mfi_arena {
    unsigned char *base;
    size_t used;
} mfi_arena;
void *mfi_carve(mfi_arena *arena, size_t count, size_t bytes);

#endif
