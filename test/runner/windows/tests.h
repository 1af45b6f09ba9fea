/* tests.h - what the tests take from POSIX and Windows lacks; the build includes it before every file of theirs, there. */
#ifndef RUNNER_WINDOWS_TESTS_H
#define RUNNER_WINDOWS_TESTS_H

#include <direct.h>
#include <errno.h>
#include <fcntl.h>
#include <io.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Tests write files by open() and fopen() in ways that here would make two bytes of a line's end. */
__attribute__((constructor)) static void make_files_binary(void)
{
    _fmode = _O_BINARY;
}

#undef P_tmpdir /* the root */
#define P_tmpdir "/tmp"
#define _SC_PAGESIZE 0
#define sysconf(what) 4096

/* Aligned memory is freed by a function of its own, so all of a test's is such memory. */
static inline void *windows_calloc(size_t count, size_t bytes)
{
    const size_t total = count * bytes;
    void *memory = bytes == 0 || total / bytes == count ? _aligned_malloc(total ? total : 1, 64) : NULL;
    return memory ? memset(memory, 0, total) : NULL;
}

static inline int windows_memalign(void **out, size_t align, size_t bytes)
{
    *out = _aligned_malloc(bytes ? bytes : 1, align);
    return *out ? 0 : ENOMEM;
}

static inline char *mkdtemp(char *pattern)
{
    return _mktemp(pattern) && _mkdir(pattern) == 0 ? pattern : NULL;
}

#define malloc(bytes) _aligned_malloc((bytes), 64)
#define calloc windows_calloc
#define realloc(memory, bytes) _aligned_realloc((memory), (bytes), 64)
#define aligned_alloc(align, bytes) _aligned_malloc((bytes), (align))
#define posix_memalign windows_memalign
#define free _aligned_free

#endif
