/* tensor_list.h - how the readers of the two formats fill an mfi_tensor_file: its parts, which are files, and the list
 * of all their tensors. What fails leaves everything to mfi_tensor_file_close(). */
#ifndef MFI_TENSOR_LIST_H
#define MFI_TENSOR_LIST_H

#include "gguf_header.h"
#include "tensor_file.h"

/* Memory and the bytes that were asked for it, which is what gives it back. */
typedef struct mfi_block {
    void *at;
    size_t bytes;
} mfi_block;

typedef struct mfi_part {
    mfi_block path; /* terminated, for messages */
    int fd;         /* -1: not open */
    uint64_t bytes; /* when it was opened */
    char *names;    /* of its tensors, each terminated, and of types that are not known */
    size_t names_bytes;
} mfi_part;

struct mfi_tensor_file {
    mf_allocator allocator;
    mfi_block name; /* terminated */
    mfi_part *part;
    uint32_t n_part, n_tensor;
    size_t tensor_room;
    mfi_source_tensor *tensor;
    mfi_gguf_header gguf; /* empty for safetensors */
};

/* A list without parts. */
mf_status mfi_tensor_file_create(mfi_tensor_file **out, const char *name, const mf_allocator *allocator,
                                 mf_error *error);
/* So many parts, at least as many as before; those that are new are not open. */
mf_status mfi_tensor_file_parts(mfi_tensor_file *file, uint32_t n_part, mf_error *error);
mf_status mfi_part_open(mfi_tensor_file *file, uint32_t index, const char *path, mf_error *error);
const char *mfi_part_path(const mfi_tensor_file *file, uint32_t index);
mf_status mfi_part_names(mfi_tensor_file *file, uint32_t index, size_t bytes, mf_error *error);
/* Room for so many more tensors; there is an address then, also where that is none. */
mf_status mfi_tensor_file_reserve(mfi_tensor_file *file, size_t more, mf_error *error);
/* Sorts all tensors by name; a name that is there twice fails. */
mf_status mfi_tensor_file_sort(mfi_tensor_file *file, mf_error *error);

/* 1 to 255 bytes without control characters: what may be printed and be part of a sentence. */
bool mfi_source_name_valid(const char *name, size_t bytes);

/* In place, O(n log n) for any order that a file may have, and without memory, which qsort() takes behind our back.
 * `item_bytes` is at most 256. */
void mfi_heap_sort(void *items, size_t count, size_t item_bytes, int (*compare)(const void *, const void *));

#endif
