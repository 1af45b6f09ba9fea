/* container_directory.h - the directory's bytes, as docs/container-format.md has them, and what they say.
 * Private to the reader and the writer of this folder. The structs below are the file's own layout. */
#ifndef MFI_CONTAINER_DIRECTORY_H
#define MFI_CONTAINER_DIRECTORY_H

#include "arena.h"
#include "container.h"
#include "defs.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "weights are used as they lie in the file, which is little-endian"
#endif

#define MFI_MAGIC "\x89MF\r\n\x1a\n" /* with its terminator: 8 bytes */
#define MFI_CONTAINER_VERSION 1u
#define MFI_SLOT_BASE 4096u /* offset of slot 0 */
#define MFI_SLOT_STEP 4096u /* sizes of slots and their areas are multiples of it */
#define MFI_REGION_ALIGN 65536u
#define MFI_FRAME_MAX (4u << 20) /* raw bytes of a frame */
#define MFI_RATIO_MAX 256u       /* most that a frame may shrink: bounds what a small file makes us allocate */
#define MFI_DIRECTORY_MAX (256u << 20)
#define MFI_PLAN_MAX (16u << 20) /* bytes of a stored plan */
#define MFI_REGION_MAX 65536u
#define MFI_NAME_MAX 255u

typedef struct mfi_file_header {
    char magic[8];
    uint32_t version, zero;
    uint64_t slot_bytes, directory_capacity, zeros[3], checksum;
} mfi_file_header;

typedef struct mfi_file_slot {
    uint64_t checksum, generation, directory_bytes, file_bytes;
    uint32_t entry_count, zero;
    uint64_t plan_bytes, plan_checksum, zero2;
} mfi_file_slot;

enum { MFI_ENTRY_METADATA = 1, MFI_ENTRY_REGION = 2, MFI_ENTRY_TENSOR = 3 };
enum { MFI_ENTRY_REQUIRED = 1 };

typedef struct mfi_file_entry {
    uint16_t kind;
    uint8_t flags, zero;
    uint32_t entry_bytes;
} mfi_file_entry;

typedef struct mfi_file_metadata {
    mfi_file_entry entry;
    uint32_t type, key_bytes;
    uint64_t value_bytes;
} mfi_file_metadata; /* then the key and the value */

typedef struct mfi_file_region {
    mfi_file_entry entry;
    uint32_t kind, storage, shell, frame_count;
    uint64_t file_offset, stored_bytes, raw_bytes, checksum, content_hash;
} mfi_file_region; /* then the frames */

enum { MFI_FRAME_PLAIN = 0, MFI_FRAME_ZSTD = 1 };

typedef struct mfi_file_frame {
    uint32_t stored_bytes, raw_bytes;
    uint16_t method, split;
    uint32_t zero;
} mfi_file_frame;

typedef struct mfi_file_tensor {
    mfi_file_entry entry;
    uint32_t kind, type, shell, region;
    uint64_t n, k, panels, offset, bytes;
    uint32_t name_bytes, zero;
} mfi_file_tensor; /* then the name */

/* A part: a file of its own that holds regions, or pieces of them, of a container whose directory is elsewhere. */
#define MFI_PART_MAGIC "\x89MFP\r\n\x1a\n" /* 8 bytes without its terminator */
#define MFI_PART_VERSION 1u
#define MFI_PART_SEGMENTS ((MFI_REGION_ALIGN - 64) / 64) /* at most: the first payload begins at MFI_REGION_ALIGN */

typedef struct mfi_part_header {
    char magic[8];
    uint64_t checksum;
    uint32_t version, segment_count;
    uint64_t zeros[5];
} mfi_part_header; /* then the segments */

typedef struct mfi_part_segment {
    uint32_t kind, shell;
    uint64_t content_hash, region_checksum, region_bytes; /* of the region: as its entry says, bytes being the stored */
    uint64_t begin, bytes;                                /* of its stored bytes, what is here */
    uint64_t offset, checksum;                            /* in this file */
} mfi_part_segment;

_Static_assert(sizeof(mfi_part_header) == 64, "as in the file");
_Static_assert(sizeof(mfi_part_segment) == 64, "as in the file");
_Static_assert(sizeof(mfi_file_header) == 64, "as in the file");
_Static_assert(sizeof(mfi_file_slot) == 64, "as in the file");
_Static_assert(sizeof(mfi_file_metadata) == 24, "as in the file");
_Static_assert(sizeof(mfi_file_region) == 64, "as in the file");
_Static_assert(sizeof(mfi_file_frame) == 16, "as in the file");
_Static_assert(sizeof(mfi_file_tensor) == 72, "as in the file");

/* What a directory says, checked. Names, values and frames point into its bytes. */

typedef struct mfi_metadata {
    const char *key;
    mfi_value type;
    bool required;
    size_t value_bytes;
    const void *value; /* aligned to 8 */
} mfi_metadata;

typedef struct mfi_parts { /* of one region */
    const mfi_file_frame *frame;
    uint32_t n_frame;
    uint32_t first_tensor, n_tensor;
    bool known; /* false: an optional region of a kind or storage that we do not know */
} mfi_parts;

typedef struct mfi_directory {
    uint64_t file_bytes;
    uint32_t n_metadata, n_region, n_tensor;
    mfi_metadata *metadata; /* ascending keys */
    mfi_region *region;     /* file order */
    mfi_parts *parts;       /* [n_region] */
    mfi_tensor *tensor;     /* file order; known ones only */
    uint32_t *by_name;      /* [n_tensor] indices, ascending name and shell */
    void *block;            /* that holds all of these */
    size_t block_bytes;
} mfi_directory;

/* Reads the directory that `slot`, at least slot->directory_bytes long and aligned to 8, begins. Regions
 * must begin at `head_bytes`. The bytes must stay as long as the directory. `name` is the file's. */
mf_status mfi_directory_decode(mfi_directory *directory, const mfi_file_slot *slot, uint64_t head_bytes,
                               const mf_allocator *allocator, const char *name, mf_error *error);
void mfi_directory_free(mfi_directory *directory, const mf_allocator *allocator);

/* -1, 0, 1: order by name, then shell. */
int mfi_tensor_compare(const char *name, uint32_t shell, const mfi_tensor *tensor);

/* Bytes that kind, type, n, k and panels ask for; false where they are none that we know, or too large. */
bool mfi_tensor_bytes(const mfi_tensor *tensor, uint64_t *bytes);

/* 1 to MFI_NAME_MAX printable bytes. */
bool mfi_name_valid(const char *name, size_t bytes);

/* Room that a name of so many bytes takes, with its zeros. */
static inline size_t mfi_name_room(size_t bytes)
{
    return (bytes + 8) & ~(size_t)7;
}

/* Where the regions begin; 0 when that does not fit. */
static inline uint64_t mfi_head_bytes(uint64_t slot_bytes)
{
    if (slot_bytes > UINT64_MAX / 4) return 0;
    return (MFI_SLOT_BASE + 2 * slot_bytes + MFI_REGION_ALIGN - 1) & ~(uint64_t)(MFI_REGION_ALIGN - 1);
}

/* A frame's bytes to and from planes of equal significance; `split` is 1, 2 or 4 and divides `bytes`. */
void mfi_frame_split(uint32_t split, size_t bytes, const unsigned char *elements, unsigned char *planes);
void mfi_frame_join(uint32_t split, size_t bytes, const unsigned char *planes, unsigned char *elements);

uint64_t mfi_hash(const void *data, size_t bytes);

#endif
