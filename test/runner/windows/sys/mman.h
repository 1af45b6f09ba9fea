/* mman.h - of POSIX's mappings what the tests use on Windows: memory of their own, and pages that fault. */
#ifndef RUNNER_MMAN_H
#define RUNNER_MMAN_H

#include <stddef.h>

#define PROT_NONE 0
#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_PRIVATE 2
#define MAP_ANONYMOUS 32
#define MAP_FAILED ((void *)-1)

/* As <memoryapi.h> declares them: all of <windows.h> would bring its names into the tests. */
__declspec(dllimport) void *__stdcall VirtualAlloc(void *at, size_t bytes, unsigned long how, unsigned long access);
__declspec(dllimport) int __stdcall VirtualFree(void *at, size_t bytes, unsigned long how);
__declspec(dllimport) int __stdcall VirtualProtect(void *at, size_t bytes, unsigned long access, unsigned long *before);

static inline unsigned long windows_access(int protection)
{
    if (protection == PROT_NONE) return 1;  /* PAGE_NOACCESS */
    return protection & PROT_WRITE ? 4 : 2; /* PAGE_READWRITE, PAGE_READONLY */
}

static inline void *mmap(void *at, size_t bytes, int protection, int flags, int fd, long long offset)
{
    (void)flags;
    (void)offset;
    void *memory = fd < 0 ? VirtualAlloc(at, bytes, 0x3000, windows_access(protection)) : NULL; /* reserve and commit */
    return memory ? memory : MAP_FAILED;
}

static inline int mprotect(void *at, size_t bytes, int protection)
{
    unsigned long before;
    return VirtualProtect(at, bytes, windows_access(protection), &before) ? 0 : -1;
}

static inline int munmap(void *at, size_t bytes)
{
    (void)bytes;
    return VirtualFree(at, 0, 0x8000) ? 0 : -1; /* MEM_RELEASE */
}

#endif
