/* tensor_fixture.h - safetensors and GGUF files for tests, byte by byte, and a folder to put them in. */
#ifndef TENSOR_FIXTURE_H
#define TENSOR_FIXTURE_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "counting_allocator.h"
#include "tensor_file.h"

typedef struct bytes {
    unsigned char *at;
    size_t n, room;
} bytes;

static inline void put(bytes *b, const void *data, size_t n)
{
    if (b->n + n > b->room) {
        b->room = 2 * (b->n + n);
        b->at = realloc(b->at, b->room);
        if (!b->at) abort();
    }
    if (n > 0) memcpy(b->at + b->n, data, n);
    b->n += n;
}

/* Little-endian. */
static inline void put_number(bytes *b, uint64_t value, size_t n)
{
    unsigned char out[8];
    for (size_t i = 0; i < 8; i++)
        out[i] = (unsigned char)(value >> 8 * i);
    put(b, out, n);
}

/* Bytes that differ from place to place, as weights would. */
static inline void put_data(bytes *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        put_number(b, i * 37 + 11, 1);
}

/* What `format` says, from arguments:
 *     b  a byte (unsigned)           i  u32 (unsigned)            q  u64 (unsigned long long)
 *     f  f32 (double)                d  f64 (double)              s  u64 length and bytes (text)
 *     r  bytes as they are (text)    z  so many zeros (unsigned)  a  zeros to a multiple of 32
 *     G  a GGUF header of version 3: tensors, values (unsigned long long each)
 *     k  key (text) and type (unsigned)
 *     t  a tensor of one dimension: name (text), elements (unsigned long long), type (unsigned), offset (likewise) */
static inline void emit(bytes *b, const char *format, ...)
{
    static const char zeros[4096];
    va_list args;
    va_start(args, format);
    for (; *format; format++) {
        const char *text = NULL;
        float single;
        double real;
        if (strchr("sk", *format) || *format == 't') {
            text = va_arg(args, const char *);
            put_number(b, strlen(text), 8);
            put(b, text, strlen(text));
        }
        switch (*format) {
        case 'b':
            put_number(b, va_arg(args, unsigned), 1);
            break;
        case 'i':
        case 'k':
            put_number(b, va_arg(args, unsigned), 4);
            break;
        case 'q':
            put_number(b, va_arg(args, unsigned long long), 8);
            break;
        case 'f':
            single = (float)va_arg(args, double);
            put(b, &single, sizeof single);
            break;
        case 'd':
            real = va_arg(args, double);
            put(b, &real, sizeof real);
            break;
        case 'r':
            text = va_arg(args, const char *);
            put(b, text, strlen(text));
            break;
        case 'z':
            put(b, zeros, va_arg(args, unsigned));
            break;
        case 'a':
            put(b, zeros, (32 - b->n % 32) % 32);
            break;
        case 'G':
            put(b, "GGUF\3\0\0\0", 8);
            put_number(b, va_arg(args, unsigned long long), 8);
            put_number(b, va_arg(args, unsigned long long), 8);
            break;
        case 't':
            put_number(b, 1, 4);
            put_number(b, va_arg(args, unsigned long long), 8);
            put_number(b, va_arg(args, unsigned), 4);
            put_number(b, va_arg(args, unsigned long long), 8);
            break;
        default:
            break;
        }
    }
    va_end(args);
}

/* A safetensors file: length, header, and so many bytes of data. */
static inline bytes safetensors_of(const char *header, size_t data)
{
    bytes b = { NULL, 0, 0 };
    put_number(&b, strlen(header), 8);
    put(&b, header, strlen(header));
    put_data(&b, data);
    return b;
}

/* ---- A folder ---- */

typedef struct folder {
    char path[64], file[512]; /* file: the last that was named */
} folder;

static inline folder folder_make(void)
{
    folder f = { "/tmp/mf-test-XXXXXX", "" };
    if (!mkdtemp(f.path)) abort();
    return f;
}

static inline const char *folder_file(folder *f, const char *name)
{
    snprintf(f->file, sizeof f->file, "%s/%s", f->path, name);
    return f->file;
}

static inline void folder_write(folder *f, const char *name, const void *data, size_t n)
{
    const int fd = open(folder_file(f, name), O_WRONLY | O_CREAT | O_TRUNC, 0666);
    if (fd < 0 || write(fd, data, n) != (ssize_t)n) abort();
    close(fd);
}

/* Writes and forgets `b`. */
static inline void folder_put(folder *f, const char *name, bytes b)
{
    folder_write(f, name, b.at, b.n);
    free(b.at);
}

static inline void folder_remove(folder *f)
{
    DIR *d = opendir(f->path);
    if (!d) abort();
    for (const struct dirent *entry; (entry = readdir(d));)
        if (entry->d_name[0] != '.') unlink(folder_file(f, entry->d_name));
    closedir(d);
    if (rmdir(f->path) != 0) abort();
}

/* ---- Opening ---- */

typedef mf_status open_fn(mfi_tensor_file **out, const char *path, const mf_allocator *allocator, mf_error *error);

/* NULL where it failed; status, sentence and file agree. */
static inline mfi_tensor_file *open_checked(open_fn *open, const char *path, mf_error *error)
{
    mfi_tensor_file *file;
    *error = (mf_error)MF_ERROR_INIT;
    const mf_status status = open(&file, path, NULL, error);
    cr_assert_eq(status, error->status);
    cr_assert_eq(status == MF_OK, file != NULL);
    cr_assert_eq(status != MF_OK, error->detail[0] != 0, "a failure without a sentence");
    return file;
}

static inline mfi_tensor_file *open_good(open_fn *open, const char *path)
{
    mf_error error;
    mfi_tensor_file *file = open_checked(open, path, &error);
    cr_assert_not_null(file, "%s", error.detail);
    return file;
}

/* The sentence names the file, whose name holds `name`, and has `says` in it. */
static inline void expect_refused(open_fn *open, const char *path, mf_status status, const char *name, const char *says)
{
    mf_error error;
    cr_assert_null(open_checked(open, path, &error), "opened, but: %s", says);
    cr_assert_eq(error.status, status, "%s: %s", mf_status_name(error.status), error.detail);
    cr_assert(strstr(error.detail, says), "\"%s\" and not \"%s\"", error.detail, says);
    cr_assert(strstr(error.detail, name), "\"%s\" does not name %s", error.detail, name);
}

/* Each allocation fails in turn; nothing stays behind. */
static inline void expect_survives_no_memory(open_fn *open, const char *path)
{
    size_t failed = 0;
    for (size_t at = 1;; at++) {
        counting c = { .fail_at = at, .mutex = PTHREAD_MUTEX_INITIALIZER };
        const mf_allocator allocator = counting_allocator(&c);
        mf_error error = MF_ERROR_INIT;
        mfi_tensor_file *file;
        const mf_status status = open(&file, path, &allocator, &error);
        mfi_tensor_file_close(file);
        cr_assert_eq(c.live_bytes, 0, "allocation %zu: %zu bytes are lost", at, c.live_bytes);
        if (status == MF_OK) break;
        cr_assert_eq(status, MF_E_NOMEM, "%s", error.detail);
        failed++;
    }
    cr_assert_geq(failed, 5);
}

/* ---- Reading ---- */

/* All of a tensor at once, and through windows of every place and some lengths, which must agree with it. */
static inline void expect_windows(const mfi_tensor_file *file, const mfi_source_tensor *tensor, float *whole)
{
    const size_t rows = (size_t)mfi_source_rows(tensor), columns = (size_t)mfi_source_columns(tensor);
    void *scratch = malloc(mfi_source_scratch_bytes(tensor) + 1);
    float *part = malloc((rows * columns + 1) * sizeof *part);
    cr_assert_eq(mfi_source_read(file, tensor, 0, rows, 0, columns, whole, scratch, NULL), MF_OK);
    for (size_t row = 0; row < rows; row++)
        for (size_t column = 0; column <= columns; column++)
            for (size_t n = 0; column + n <= columns; n = 3 * n + 1) {
                cr_assert_eq(mfi_source_read(file, tensor, row, rows - row, column, n, part, scratch, NULL), MF_OK);
                for (size_t i = row; i < rows; i++)
                    cr_assert(memcmp(part + (i - row) * n, whole + i * columns + column, n * sizeof *part) == 0,
                              "%s: row %zu, columns %zu and %zu more", tensor->name, i, column, n);
            }
    free(part);
    free(scratch);
}

/* The file is cut short while it is open: a status, and no signal. */
static inline void expect_shrinking_is_an_error(mfi_tensor_file *file, const char *part)
{
    const mfi_source_tensor *tensor = NULL;
    for (uint32_t i = 0; i < mfi_tensor_file_count(file); i++)
        if (mfi_tensor_file_at(file, i)->bytes > 0) tensor = mfi_tensor_file_at(file, i);
    float out[256];
    unsigned char raw[1024], scratch[65536];
    mf_error error = MF_ERROR_INIT;
    cr_assert_not_null(tensor);
    cr_assert_eq(truncate(part, (off_t)tensor->offset + 1), 0);
    cr_assert_eq(mfi_source_read(file, tensor, 0, 1, 0, 1, out, scratch, &error), MF_E_IO);
    cr_assert(strstr(error.detail, part), "%s", error.detail);
    cr_assert_eq(mfi_source_read_bytes(file, tensor, 0, 1, raw, &error), MF_E_IO);
}

#endif
