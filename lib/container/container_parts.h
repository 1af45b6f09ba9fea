/* container_parts.h - making part files, and what they are called. docs/container-format.md, "Parts", has their layout;
 * mfi_container_attach() of container.h reads them. */
#ifndef MFI_CONTAINER_PARTS_H
#define MFI_CONTAINER_PARTS_H

#include "container.h"

/* A part's header with its segments, as they lie in the file: MFI_PART_PAYLOAD bytes, payloads behind it. */
#define MFI_PART_PAYLOAD 65536u
typedef struct mfi_part_piece { /* stored bytes [begin, begin + bytes) of a region */
    uint32_t region;
    uint64_t begin, bytes;
    uint64_t offset;   /* in the part; worked out */
    uint64_t checksum; /* of these bytes */
} mfi_part_piece;
/* Sets the pieces' offsets; returns the length of the part. */
uint64_t mfi_part_lay_out(mfi_part_piece *piece, uint32_t n_piece);
void mfi_part_encode(unsigned char out[MFI_PART_PAYLOAD], const mfi_container *container, const mfi_part_piece *piece,
                     uint32_t n_piece);
/* "FOLDER/model.shell1-2.mfpart" beside "FOLDER/model.mf": the name of the part that holds regions [first, last], or,
 * n > 1, piece `index` of `n` of the one. MF_E_CAPACITY: the path is too long. */
mf_status mfi_part_name(char *out, size_t capacity, const mfi_container *container, const char *path, uint32_t first,
                        uint32_t last, uint32_t index, uint32_t n);
#define MFI_PART_SUFFIX ".mfpart"

#endif
