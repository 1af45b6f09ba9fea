/* container.h - the .mf file: regions, tensors and metadata. docs/container-format.md is the
 * specification. The reader trusts nothing and hands upward only what it has proved; it knows nothing of
 * models. Writer and reader share no state. */
#ifndef MFI_CONTAINER_H
#define MFI_CONTAINER_H

#include <stdbool.h>

#include "pack.h" /* mfk_type, the layouts */
#include "matformer.h"

typedef enum mfi_tensor_kind { MFI_PANEL = 1, MFI_TABLE = 2, MFI_PLAIN = 3 } mfi_tensor_kind;
typedef enum mfi_region_kind {
    MFI_REGION_BASE = 1,  /* what every width needs: attention, norms, shell 0 of all layers */
    MFI_REGION_SHELL = 2, /* shell `shell` of all layers */
    MFI_REGION_TABLES = 3
} mfi_region_kind;
typedef enum mfi_storage { MFI_RAW = 0, MFI_ZSTD = 1 } mfi_storage;
typedef enum mfi_value { MFI_VALUE_U64 = 1, MFI_VALUE_F64 = 2, MFI_VALUE_TEXT = 3, MFI_VALUE_U32S = 4 } mfi_value;

/* A tensor, or the piece of one that a shell holds. Checked: the bytes lie inside the region, aligned, and
 * are exactly what kind, type, n and k ask for. */
typedef struct mfi_tensor {
    const char *name; /* "layers.3.ffn.down" */
    mfi_tensor_kind kind;
    mfk_type type;
    uint32_t shell;         /* 0 outside the FFN */
    uint32_t region;        /* index */
    uint64_t n, k;          /* PANEL: outputs, inputs of this piece. TABLE: rows, columns. PLAIN: elements, 1 */
    uint64_t panels;        /* PANEL: number of panels stored; 2 * ceil(n/16) where gate and up are interleaved */
    uint64_t offset, bytes; /* in the region */
    uint32_t tag;           /* of a declaration: the declarer's own; 0 in what was read */
    const void *data;       /* NULL while the region is not resident */
} mfi_tensor;

/* Where its first panel or row is. What is before it is the table of a Q4 tensor. */
static inline const unsigned char *mfi_tensor_body(const mfi_tensor *tensor)
{
    return (const unsigned char *)tensor->data + mfk_head_bytes(tensor->type);
}

/* How many matrices it interleaves. */
static inline uint64_t mfi_tensor_matrices(const mfi_tensor *tensor)
{
    return tensor->kind == MFI_PANEL ? tensor->panels / ((tensor->n + MFK_NR - 1) / MFK_NR) : 1;
}

static inline const int8_t *mfi_tensor_table(const mfi_tensor *tensor)
{
    return tensor->type == MFK_Q4 ? (const int8_t *)tensor->data : NULL;
}

typedef struct mfi_region {
    mfi_region_kind kind;
    mfi_storage storage;
    uint32_t shell;
    uint64_t file_offset, stored_bytes, raw_bytes, checksum, content_hash;
    const void *data; /* NULL while not resident */
} mfi_region;

/* A file in memory of its own: at a huge page's start, and read-only. */
typedef struct mfi_image {
    void *base;
    size_t bytes;
} mfi_image;
void mfi_image_free(mfi_image *image);

/* ---- Reading ---- */

typedef struct mfi_container mfi_container;

typedef struct mfi_container_source { /* exactly one of path, fd >= 0, memory, image */
    const char *path;
    int fd;
    uint64_t offset, bytes; /* of fd; bytes 0: to its end */
    const void *memory;
    size_t memory_bytes;
    mfi_image image;  /* or this, which the container takes over, also on failure; */
    const char *name; /* what messages call it */
} mfi_container_source;

/* Opens and checks the directory; nothing is resident yet. `options` has been read by mfi_read_options;
 * its allocator is filled in. */
mf_status mfi_container_open(mfi_container **out, const mfi_container_source *source, const mf_model_options *options,
                             mf_error *error);
/* Makes regions whose shell is below `shell_count` resident (base and tables always): maps, copies or
 * decodes them, verifying as the options say, with progress. Regions that the file lacks, as a prefix may,
 * stay as they are. One thread at a time. */
mf_status mfi_container_load(mfi_container *container, uint32_t shell_count, mf_error *error);
/* The same later, with a progress of its own: a file that was copied, and may have been changed since, is verified. */
mf_status mfi_container_grow(mfi_container *container, uint32_t shell_count, mf_progress progress, void *progress_user,
                             mf_error *error);
/* Gives back the memory of SHELL regions from `shell_count` on; nobody may be reading them. Their addresses fault
 * afterwards, but for regions in the caller's memory, which stays. */
void mfi_container_trim(mfi_container *container, uint32_t shell_count);
void mfi_container_close(mfi_container *container);

const char *mfi_container_name(const mfi_container *container); /* the path, or "memory": for messages */
uint64_t mfi_container_file_bytes(const mfi_container *container);
uint64_t mfi_container_mapped_bytes(const mfi_container *container);
uint64_t mfi_container_allocated_bytes(const mfi_container *container);
/* The stored plan's bytes, aligned to 64, which only their checksum vouches for; NULL and 0: none. */
const void *mfi_container_plan(const mfi_container *container, size_t *bytes);
/* Hash of the directory's region hashes: the identity of the weights. */
uint64_t mfi_container_content_hash(const mfi_container *container);

uint32_t mfi_container_region_count(const mfi_container *container);
const mfi_region *mfi_container_region(const mfi_container *container, uint32_t index);
uint32_t mfi_container_tensor_count(const mfi_container *container);
const mfi_tensor *mfi_container_tensor(const mfi_container *container, uint32_t index);
/* Any thread, at any time: whether all bytes of a region are where they can be loaded from; whether it is in memory; how
 * many of its bytes were fed. */
bool mfi_region_present(const mfi_container *container, uint32_t region);
bool mfi_region_resident(const mfi_container *container, uint32_t region);
uint64_t mfi_region_fed_bytes(const mfi_container *container, uint32_t region);
/* Of a kind and storage that this version knows; else nothing can be loaded from it. */
bool mfi_region_known(const mfi_container *container, uint32_t region);
/* In O(log n); NULL when there is none. */
const mfi_tensor *mfi_container_find(const mfi_container *container, const char *name, uint32_t shell);

/* Metadata. The typed getters return false when the key is missing or of another type. Strings are
 * terminated and free of NUL; arrays are aligned. All live as long as the container. */
bool mfi_container_u64(const mfi_container *container, const char *key, uint64_t *value);
bool mfi_container_f64(const mfi_container *container, const char *key, double *value);
bool mfi_container_text(const mfi_container *container, const char *key, const char **value);
bool mfi_container_u32s(const mfi_container *container, const char *key, const uint32_t **values, size_t *count);
bool mfi_container_has(const mfi_container *container, const char *key); /* of any type */
/* The index-th key that holds text, and its text; false past the end. */
bool mfi_container_text_at(const mfi_container *container, uint32_t index, const char **key, const char **value);
/* The index-th key of all, and what kind of value it has; false past the end. */
bool mfi_container_key_at(const mfi_container *container, uint32_t index, const char **key, mfi_value *kind);
/* Whether `key` is among `known` [count]. One of these that ends in '*' stands for all keys that begin so. */
bool mfi_container_key_known(const char *key, const char *const *known, size_t count);
/* MF_E_UNSUPPORTED, naming it, when the file marks a key as required that is not among `known`, the keys that the
 * caller understands. */
mf_status mfi_container_check_keys(const mfi_container *container, const char *const *known, size_t count,
                                   mf_error *error);

/* ---- Parts: regions that lie in other files, or come piece by piece. One thread at a time ---- */

/* Adds a file that holds regions of this container: a part file, or another .mf file with equal regions. They can be
 * loaded afterwards. MF_E_FORMAT for a file that has none, or whose regions are not this container's. */
mf_status mfi_container_attach(mfi_container *container, const mfi_container_source *source, mf_error *error);
/* Attaches the parts that lie beside the file `path` under the names of mfi_part_name(). `first`: why one could not be
 * taken, as the log is told for all; or MF_OK. */
void mfi_container_attach_beside(mfi_container *container, const char *path, mf_log log, void *log_user,
                                 mf_error *first);
/* The next stored bytes of a region that is not resident. The last ones make it so, if the region's hash holds; else
 * MF_E_CHECKSUM, and it begins anew. MF_E_RANGE: more than the region has, and nothing was taken. `data` NULL and 0
 * bytes forget what was fed. */
mf_status mfi_container_feed(mfi_container *container, uint32_t region, const void *data, size_t bytes,
                             mf_error *error);
/* What was opened is not read again: the caller's memory, after a copy of it. */
void mfi_container_forget_source(mfi_container *container);
/* Copies stored bytes of a present region out. */
mf_status mfi_region_read(const mfi_container *container, uint32_t region, void *out, size_t bytes, uint64_t at,
                          mf_error *error);
/* Copies bytes of the container itself out. The range lies inside its length. */
mf_status mfi_container_fetch(const mfi_container *container, void *out, size_t bytes, uint64_t offset,
                              mf_error *error);
uint64_t mfi_container_head_bytes(const mfi_container *container); /* where the first region begins */
/* ---- Changing ---- */

/* Puts a plan of 1 to MFI_PLAN_MAX bytes beside the directory of a file, in place of one that is there, by filling the
 * slot that is idle and then making it the newest: whenever it ends, by whatever, the file opens with the old plan or
 * the new one, and who has the file open notices nothing. MF_E_CAPACITY where the room of the file is smaller;
 * MF_E_BUSY while another process (or thread) updates it. */
mf_status mfi_container_store_plan(const char *path, const void *plan, size_t bytes, const mf_allocator *allocator,
                                   mf_error *error);

/* ---- Writing ---- */

typedef struct mfi_writer mfi_writer;

/* A declaration that fails sticks: the ones after it do nothing, and finish returns its status. So only
 * finish needs to be checked. */
mf_status mfi_writer_create(mfi_writer **out, const mf_allocator *allocator, const char *path, mf_error *error);
/* `required`: a reader that does not know the key must refuse the file. */
mf_status mfi_writer_u64(mfi_writer *writer, const char *key, uint64_t value, bool required);
mf_status mfi_writer_f64(mfi_writer *writer, const char *key, double value, bool required);
mf_status mfi_writer_text(mfi_writer *writer, const char *key, const char *value, bool required);
mf_status mfi_writer_u32s(mfi_writer *writer, const char *key, const uint32_t *values, size_t count, bool required);
/* The stored plan. The file has room for it, and for one as large later. */
mf_status mfi_writer_plan(mfi_writer *writer, const void *plan, size_t bytes);
/* Regions are declared in file order, tensors to a region in the order they lie there. */
mf_status mfi_writer_region(mfi_writer *writer, mfi_region_kind kind, uint32_t shell, mfi_storage storage,
                            uint32_t *region);
/* name, kind, type, shell, region, n, k, panels of `tensor` are read; offset and bytes are worked out. */
mf_status mfi_writer_tensor(mfi_writer *writer, const mfi_tensor *tensor);
/* Produces the packed bytes of one tensor, from first to last, by mfi_writer_put() in pieces of any size; what is missing
 * at the end is zeros. Called once for each tensor, in file order. `tensor->tag` is what its declaration had. */
typedef struct mfi_writing mfi_writing;
typedef mf_status (*mfi_writer_fill)(void *user, const mfi_tensor *tensor, mfi_writing *to, mf_error *error);
mf_status mfi_writer_put(mfi_writing *to, const void *data, size_t bytes);
/* Writes everything to a temporary name, syncs and renames. The file appears whole or not at all. */
mf_status mfi_writer_finish(mfi_writer *writer, mfi_writer_fill fill, void *user, mf_error *error);
/* The same file, of raw regions alone, to an image. */
mf_status mfi_writer_finish_image(mfi_writer *writer, mfi_writer_fill fill, void *user, mfi_image *image,
                                  mf_error *error);
void mfi_writer_close(mfi_writer *writer); /* before finish: nothing is left behind */

#endif
