/* fuzz_checkpoint.h - what the fuzz targets of checkpoints do with whatever opens: everything is asked for and read. No
 * crash, no leak, no memory that only a number in the file asks for, and a status that agrees with the sentence. */
#ifndef FUZZ_CHECKPOINT_H
#define FUZZ_CHECKPOINT_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tensor_file.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static char fuzz_folder[] = "/tmp/mf-fuzz-XXXXXX", fuzz_file[64];

static inline void fuzz_stop(const char *why)
{
    fprintf(stderr, "%s\n", why);
    abort();
}

static inline void fuzz_remove(void)
{
    unlink(fuzz_file);
    rmdir(fuzz_folder);
}

/* One folder of this process, with one file. */
static inline void fuzz_begin(const char *name)
{
    if (!mkdtemp(fuzz_folder)) fuzz_stop("no folder");
    snprintf(fuzz_file, sizeof fuzz_file, "%s/%s", fuzz_folder, name);
    atexit(fuzz_remove);
}

static inline void fuzz_write(const uint8_t *data, size_t bytes)
{
    const int fd = open(fuzz_file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes) fuzz_stop("no file");
    close(fd);
}

/* ---- Memory that is watched ---- */

typedef struct fuzz_memory {
    size_t live_bytes, limit_bytes;
} fuzz_memory;

static inline void *fuzz_alloc(void *user, size_t bytes, size_t align)
{
    fuzz_memory *m = user;
    void *memory = NULL;
    if (bytes > m->limit_bytes - m->live_bytes) fuzz_stop("more memory than the file accounts for");
    if (posix_memalign(&memory, align, bytes) != 0) return NULL;
    m->live_bytes += bytes;
    return memory;
}

static inline void fuzz_free(void *user, void *memory, size_t bytes)
{
    ((fuzz_memory *)user)->live_bytes -= bytes;
    free(memory);
}

/* ---- Use ---- */

static inline void fuzz_read(const mfi_tensor_file *file, const mfi_source_tensor *tensor)
{
    enum { MOST = 1024 };
    const uint64_t rows = mfi_source_rows(tensor), columns = mfi_source_columns(tensor);
    const size_t n = columns < MOST ? (size_t)columns : MOST;
    float *out = malloc((2 * n + 1) * sizeof *out);
    unsigned char *scratch = malloc(mfi_source_scratch_bytes(tensor) + 1);
    const mf_status expected = tensor->type == MFI_SOURCE_OTHER ? MF_E_UNSUPPORTED : MF_OK;
    if (rows > 0 && columns > 0) {
        const size_t n_row = rows > 1 ? 2 : 1;
        if (mfi_source_read(file, tensor, rows - n_row, n_row, columns - n, n, out, scratch, NULL) != expected ||
            mfi_source_read(file, tensor, 0, 1, 0, n, out, scratch, NULL) != expected)
            fuzz_stop("a tensor that is listed cannot be read");
    }
    free(scratch);
    free(out);
}

static inline void fuzz_tensors(const mfi_tensor_file *file)
{
    for (uint32_t i = 0; i < mfi_tensor_file_count(file); i++) {
        const mfi_source_tensor *tensor = mfi_tensor_file_at(file, i);
        if (mfi_tensor_file_find(file, tensor->name) != tensor) fuzz_stop("a tensor that is listed is not found");
        fuzz_read(file, tensor);
    }
}

/* `use` gets what opened. */
static inline void fuzz_open(mf_status (*open)(mfi_tensor_file **, const char *, const mf_allocator *, mf_error *),
                             const char *path, size_t bytes, void (*use)(const mfi_tensor_file *))
{
    fuzz_memory memory = { 0, ((size_t)1 << 20) + 40 * bytes };
    const mf_allocator allocator = { fuzz_alloc, fuzz_free, &memory };
    mf_error error = MF_ERROR_INIT;
    mfi_tensor_file *file;
    const mf_status status = open(&file, path, &allocator, &error);
    if (status != error.status || (status == MF_OK) != (file != NULL) || (status != MF_OK) != (error.detail[0] != 0))
        fuzz_stop("a status, an error and a file that do not agree");
    if (file) {
        fuzz_tensors(file);
        if (use) use(file);
    }
    mfi_tensor_file_close(file);
    if (memory.live_bytes != 0) fuzz_stop("a leak");
}

#endif
