/* gguf_header.h - the metadata of a GGUF file as read: its bytes, and a sorted table of where the values lie. */
#ifndef MFI_GGUF_HEADER_H
#define MFI_GGUF_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"

/* As the file numbers them. */
typedef enum mfi_gguf_type {
    MFI_GGUF_U8,
    MFI_GGUF_I8,
    MFI_GGUF_U16,
    MFI_GGUF_I16,
    MFI_GGUF_U32,
    MFI_GGUF_I32,
    MFI_GGUF_F32,
    MFI_GGUF_TRUTH, /* one byte, 0 or 1 */
    MFI_GGUF_STRING,
    MFI_GGUF_LIST,
    MFI_GGUF_U64,
    MFI_GGUF_I64,
    MFI_GGUF_F64
} mfi_gguf_type;

typedef struct mfi_gguf_value {
    const char *key; /* not terminated */
    size_t key_bytes;
    uint32_t type; /* an mfi_gguf_type; of a list's elements */
    bool is_list;
    uint64_t count;          /* of elements; 1 where it is no list */
    const unsigned char *at; /* of the first, in the header, which has all of them */
} mfi_gguf_value;

typedef struct mfi_gguf_header {
    unsigned char *bytes;
    size_t room;
    mfi_gguf_value *value; /* by key */
    size_t n_value;
} mfi_gguf_header;

/* Bytes of a value; 0 for strings and lists, whose length varies, and for types that do not exist. */
size_t mfi_gguf_type_bytes(uint32_t type);
uint64_t mfi_gguf_load(const unsigned char *at, size_t bytes); /* up to 8, little-endian */

void mfi_gguf_header_free(mfi_gguf_header *header, const mf_allocator *allocator);

/* What the getters of tensor_file.h do, for any header. NULL where the key is missing. */
const mfi_gguf_value *mfi_gguf_find(const mfi_gguf_header *header, const char *key);
bool mfi_gguf_value_u64(const mfi_gguf_value *value, uint64_t *out);
int mfi_gguf_key_compare(const char *a, size_t a_bytes, const char *b, size_t b_bytes);

#endif
