/* gguf_writer.h - the header of a GGUF file while it is made: bytes in memory that grow. */
#ifndef MFI_GGUF_WRITER_H
#define MFI_GGUF_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "gguf_header.h"

/* Whatever is put after memory was short is lost, and `failed` says so. */
typedef struct mfi_gguf_writer {
    mf_allocator allocator;
    const char *architecture; /* in the place of a key's first "%s" */
    unsigned char *bytes;     /* [n] */
    size_t n, room;
    uint64_t n_key;
    bool failed;
} mfi_gguf_writer;

void mfi_gguf_writer_free(mfi_gguf_writer *writer);

void mfi_gguf_put(mfi_gguf_writer *writer, const void *data, size_t n);
void mfi_gguf_put_number(mfi_gguf_writer *writer, uint64_t value, size_t n); /* little-endian, n bytes */
void mfi_gguf_put_f32(mfi_gguf_writer *writer, float value);
void mfi_gguf_put_string(mfi_gguf_writer *writer, const char *text, size_t n);

/* Keys; the values of a list follow it. */
void mfi_gguf_put_key(mfi_gguf_writer *writer, const char *key, mfi_gguf_type type);
void mfi_gguf_put_list(mfi_gguf_writer *writer, const char *key, mfi_gguf_type type, uint64_t count);
void mfi_gguf_key_u32(mfi_gguf_writer *writer, const char *key, uint32_t value);
void mfi_gguf_key_f32(mfi_gguf_writer *writer, const char *key, float value);
void mfi_gguf_key_truth(mfi_gguf_writer *writer, const char *key, bool value);
void mfi_gguf_key_string(mfi_gguf_writer *writer, const char *key, const char *text);

#endif
