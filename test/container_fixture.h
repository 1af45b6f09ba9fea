/* container_fixture.h - small containers for tests: a description, its bytes by a function of name and
 * place, and the file read back. */
#ifndef CONTAINER_FIXTURE_H
#define CONTAINER_FIXTURE_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arena.h"
#include "container.h"

/* Byte `i` of a tensor. Of bf16 and f32 the high bytes vary little, as those of weights do. */
static inline unsigned char fixture_byte(const mfi_tensor *tensor, size_t i)
{
    uint32_t hash = 2166136261u + 977u * tensor->shell;
    for (const char *c = tensor->name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    size_t size = tensor->type == MFK_F32 ? 4 : tensor->type == MFK_BF16 ? 2 : 1;
    hash = (hash ^ (uint32_t)i) * 2654435761u;
    hash = (hash ^ (hash >> 15)) * 2246822519u;
    if (size > 1 && i % size == size - 1) return (unsigned char)(0x3c + (hash >> 31)); /* sign and exponent */
    return (unsigned char)(hash >> 24);
}

/* In pieces of 1, 2, 3 ... bytes. */
static inline mf_status fixture_fill(void *user, const mfi_tensor *tensor, mfi_writing *to, mf_error *error)
{
    (void)user;
    (void)error;
    unsigned char piece[256];
    mf_status status = MF_OK;
    for (size_t done = 0, n = 0; done < tensor->bytes && status == MF_OK; done += n) {
        n = n % sizeof piece + 1 < tensor->bytes - done ? n % sizeof piece + 1 : tensor->bytes - done;
        for (size_t i = 0; i < n; i++)
            piece[i] = fixture_byte(tensor, done + i);
        status = mfi_writer_put(to, piece, n);
    }
    return status;
}

static inline void fixture_tensor(mfi_writer *w, uint32_t region, const char *name, mfi_tensor_kind kind, mfk_type type,
                                  uint32_t shell, uint64_t n, uint64_t k, uint64_t matrices)
{
    mfi_tensor tensor = { .name = name, .kind = kind, .type = type, .shell = shell, .region = region, .n = n, .k = k };
    if (kind == MFI_PANEL) tensor.panels = matrices * ((n + 15) / 16);
    mfi_writer_tensor(w, &tensor);
}

/* All kinds and types, a table, two shells. `big` has tensors of more than one frame. */
static inline mf_status fixture_write(const char *path, const mf_allocator *allocator, mfi_storage storage, bool big,
                                      mf_error *error)
{
    static const uint32_t widths[] = { 32, 64, 96 };
    uint64_t k = big ? 4096 : 64;
    uint32_t region;
    mfi_writer *w;
    mf_status status = mfi_writer_create(&w, allocator, path, error);
    if (status != MF_OK) return status;
    mfi_writer_text(w, "family", "test", true);
    mfi_writer_text(w, "title", "", false);
    mfi_writer_u64(w, "a.number", UINT64_MAX, true);
    mfi_writer_f64(w, "a.fraction", 0.1, true);
    mfi_writer_u32s(w, "widths", widths, 3, false);
    mfi_writer_u32s(w, "none", widths, 0, false);
    mfi_writer_region(w, MFI_REGION_BASE, 0, storage, &region);
    fixture_tensor(w, region, "norm", MFI_PLAIN, MFK_F32, 0, 48, 1, 0);
    fixture_tensor(w, region, "blob", MFI_PLAIN, MFK_U8, 0, 5, 1, 0);
    fixture_tensor(w, region, "half", MFI_PLAIN, MFK_BF16, 0, 33, 1, 0);
    fixture_tensor(w, region, "up", MFI_PANEL, MFK_BF16, 0, 33, k, 2);
    fixture_tensor(w, region, "down", MFI_PANEL, MFK_F32, 0, 40, k + 1, 1);
    mfi_writer_region(w, MFI_REGION_TABLES, 0, storage, &region);
    fixture_tensor(w, region, "rows", MFI_TABLE, MFK_BF16, 0, 9, 33, 0);
    fixture_tensor(w, region, "rows.f32", MFI_TABLE, MFK_F32, 0, 3, 7, 0);
    mfi_writer_region(w, MFI_REGION_SHELL, 1, storage, &region);
    fixture_tensor(w, region, "up", MFI_PANEL, MFK_BF16, 1, 32, k, 2);
    mfi_writer_region(w, MFI_REGION_SHELL, 3, storage, &region);
    fixture_tensor(w, region, "up", MFI_PANEL, MFK_BF16, 3, 16, k, 2);
    fixture_tensor(w, region, "down", MFI_PANEL, MFK_F32, 3, 40, 32, 1);
    status = mfi_writer_finish(w, fixture_fill, NULL, error);
    mfi_writer_close(w);
    return status;
}

/* A file's bytes, aligned to 64; to be freed. */
static inline unsigned char *fixture_read(const char *path, size_t *bytes)
{
    int fd = open(path, O_RDONLY);
    struct stat stat;
    void *data = NULL;
    if (fd < 0 || fstat(fd, &stat) != 0) abort();
    *bytes = (size_t)stat.st_size;
    if (posix_memalign(&data, 64, *bytes) != 0 || read(fd, data, *bytes) != stat.st_size) abort();
    close(fd);
    return data;
}

/* A name in a fresh folder of this test's; fixture_remove() removes both, and finds what was left there. */
static inline char *fixture_path(void)
{
    char folder[] = "/tmp/mf-test-XXXXXX";
    char *path = malloc(64);
    if (!path || !mkdtemp(folder)) abort();
    snprintf(path, 64, "%s/a.mf", folder);
    return path;
}

static inline void fixture_remove(char *path)
{
    unlink(path);
    *strrchr(path, '/') = '\0';
    if (rmdir(path) != 0) abort();
    free(path);
}

/* A whole file, which must be a good one. */
static inline mfi_container *fixture_open(const char *path)
{
    mf_error error = MF_ERROR_INIT;
    mf_model_options options = { .struct_size = sizeof options, .allocator = mfi_allocator(NULL), .n_thread = 1 };
    mfi_container_source source = { .path = path, .fd = -1 };
    mfi_container *c;
    if (mfi_container_open(&c, &source, &options, &error) != MF_OK ||
        mfi_container_load(c, UINT32_MAX, &error) != MF_OK) {
        fprintf(stderr, "%s\n", error.detail);
        abort();
    }
    return c;
}

#endif
