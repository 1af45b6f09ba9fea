/* tokenizer_fixture.h - the story, and the tokens that another implementation makes of it and of other texts. */
#ifndef TOKENIZER_FIXTURE_H
#define TOKENIZER_FIXTURE_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "tokenizer.h"

typedef struct byte_string {
    unsigned char *data;
    size_t count;
} byte_string;

static inline byte_string read_whole(const char *path)
{
    byte_string b = { NULL, 0 };
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fseek(file, 0, SEEK_END), 0);
    b.count = (size_t)ftell(file);
    rewind(file);
    b.data = malloc(b.count + 1);
    cr_assert_eq(fread(b.data, 1, b.count, file), b.count);
    fclose(file);
    return b;
}

static inline uint32_t take_u32(const unsigned char **at)
{
    const unsigned char *p = *at;
    *at += 4;
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* tokenizer.bin, see make_tokenizer_golden.py. */
typedef struct golden {
    byte_string file, blob;
    const unsigned char *cases;
} golden;

static inline golden open_golden(void)
{
    golden g;
    g.file = read_whole(GOLDEN_DIR "/tokenizer.bin");
    const unsigned char *at = g.file.data;
    g.blob.count = take_u32(&at);
    g.blob.data = (unsigned char *)at;
    g.cases = at + g.blob.count;
    return g;
}

static inline mfi_tokenizer *load(const void *blob, size_t count)
{
    mf_allocator allocator = mfi_allocator(NULL);
    mf_error error = MF_ERROR_INIT;
    mfi_tokenizer *t = NULL;
    cr_assert_eq(mfi_tokenizer_load(&t, &allocator, blob, count, &error), MF_OK, "%s", error.detail);
    return t;
}

#endif
