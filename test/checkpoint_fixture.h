/* checkpoint_fixture.h - expected.bin beside a checkpoint: cases of named arrays, as golden/expected_file.py
 * describes them. Any bytes give cases or `damaged`. Like the other fixtures it is read as little-endian. */
#ifndef CHECKPOINT_FIXTURE_H
#define CHECKPOINT_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECTED_MAGIC 0x4d464558u
#define EXPECTED_MAX_ARRAY 8
#define EXPECTED_MAX_DIM 4

typedef struct expected_array {
    char name[32];
    uint32_t n_dim, dims[EXPECTED_MAX_DIM];
    size_t count;       /* the product of dims */
    const float *f32;   /* [count], NULL of an array of i32 */
    const int32_t *i32; /* [count], NULL of an array of f32 */
} expected_array;

typedef struct expected_case {
    char name[64], view[256];
    uint32_t n_array;
    expected_array arrays[EXPECTED_MAX_ARRAY];
} expected_case;

typedef struct expected_file {
    unsigned char *bytes; /* aligned as malloc does; arrays point into it */
    size_t n_bytes, at;
    uint32_t n_case, n_read;
    bool damaged;
} expected_file;

/* ---- Bytes, of which none past the end are read ---- */

static inline const void *expected_take(expected_file *f, size_t n_bytes)
{
    if (f->damaged || n_bytes > f->n_bytes - f->at) {
        f->damaged = true;
        return NULL;
    }
    const void *bytes = f->bytes + f->at;
    f->at += n_bytes;
    return bytes;
}

/* 0 when damaged */
static inline uint32_t expected_u32(expected_file *f)
{
    const void *bytes = expected_take(f, 4);
    uint32_t value = 0;
    if (bytes) memcpy(&value, bytes, 4);
    return value;
}

static inline void expected_text(expected_file *f, char *out, size_t capacity)
{
    const size_t n_bytes = expected_u32(f);
    if (n_bytes >= capacity) f->damaged = true;
    const void *bytes = expected_take(f, n_bytes);
    expected_take(f, (4 - n_bytes % 4) % 4);
    if (f->damaged) return;
    memcpy(out, bytes, n_bytes);
    out[n_bytes] = '\0';
}

static inline void expected_read_array(expected_file *f, expected_array *array)
{
    expected_text(f, array->name, sizeof array->name);
    const uint32_t type = expected_u32(f);
    array->n_dim = expected_u32(f);
    if (type > 1 || array->n_dim > EXPECTED_MAX_DIM) f->damaged = true;
    array->count = 1;
    for (uint32_t i = 0; i < array->n_dim && !f->damaged; i++) {
        array->dims[i] = expected_u32(f);
        if (array->dims[i] != 0 && array->count > f->n_bytes / 4 / array->dims[i]) f->damaged = true;
        array->count *= array->dims[i];
    }
    if (f->damaged) return;
    const void *data = expected_take(f, array->count * 4);
    array->f32 = type == 0 ? data : NULL;
    array->i32 = type == 1 ? data : NULL;
}

/* ---- Cases ---- */

/* False when there is no such file of ours. Close it in any case. */
static inline bool expected_open(expected_file *f, const char *path)
{
    *f = (expected_file){ 0 };
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    const long end = fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    if (end > 0) {
        rewind(file);
        f->bytes = malloc((size_t)end);
        if (f->bytes) f->n_bytes = fread(f->bytes, 1, (size_t)end, file);
    }
    fclose(file);
    if (expected_u32(f) != EXPECTED_MAGIC) f->damaged = true;
    f->n_case = expected_u32(f);
    return !f->damaged;
}

static inline void expected_close(expected_file *f)
{
    free(f->bytes);
    *f = (expected_file){ 0 };
}

/* False behind the last case, and when the file is damaged. */
static inline bool expected_next(expected_file *f, expected_case *out)
{
    if (f->damaged || f->n_read == f->n_case) return false;
    *out = (expected_case){ 0 };
    expected_text(f, out->name, sizeof out->name);
    expected_text(f, out->view, sizeof out->view);
    out->n_array = expected_u32(f);
    if (out->n_array > EXPECTED_MAX_ARRAY) f->damaged = true;
    for (uint32_t i = 0; i < out->n_array && !f->damaged; i++)
        expected_read_array(f, &out->arrays[i]);
    f->n_read++;
    return !f->damaged;
}

/* NULL when the case has no such array. */
static inline const expected_array *expected_find(const expected_case *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_array; i++)
        if (strcmp(c->arrays[i].name, name) == 0) return &c->arrays[i];
    return NULL;
}

#endif
