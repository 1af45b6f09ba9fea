/* container_read.h - an open container: private to container_read.c (what it says), container_load.c (what of it is in
 * memory), container_parts.c (where its bytes come from) and container_feed.c (those that the caller brings). */
#ifndef MFI_CONTAINER_READ_H
#define MFI_CONTAINER_READ_H

#include <stdatomic.h>

#include "container_directory.h"

/* An attached file. */
typedef struct mfi_store {
    int fd;
    uint64_t offset, bytes; /* what of it counts */
    uint64_t device, inode;
    char name[128];
} mfi_store;

#define MFI_OWN UINT32_MAX /* instead of the index of a store: the container itself */

/* Stored bytes [begin, end) of a region, and where they are. Pieces may overlap; the latest one counts. */
typedef struct mfi_piece {
    uint32_t region, store;
    uint64_t begin, end;
    uint64_t offset;   /* of the first one, in the store or the container */
    uint64_t checksum; /* of a part */
    bool has_checksum;
} mfi_piece;

typedef struct mfi_feed mfi_feed; /* container_feed.c */

typedef struct mfi_residence { /* of one region */
    void *reserved;            /* its own address space, or NULL */
    size_t reserved_bytes;
    bool mapped;
    mfi_feed *feed; /* in progress, or NULL */
    /* For who asks while another thread loads: */
    atomic_bool present, resident;
    atomic_uint_least64_t fed_bytes;
} mfi_residence;

struct mfi_container {
    mf_allocator allocator;
    mf_load load;
    mf_verify verify;
    uint32_t n_thread; /* 0: one per usable core */
    mf_progress progress;
    void *progress_user;
    char name[128]; /* for messages: a long path's end */

    int fd;                      /* our own, or -1; */
    uint64_t fd_offset;          /* where the container begins in it */
    const unsigned char *memory; /* or the caller's bytes, */
    mfi_image image;             /* or these, which are ours */
    uint64_t length;             /* bytes that there really are */

    mfi_store *store; /* [n_store] */
    uint32_t n_store, store_room;
    mfi_piece *piece; /* [n_piece] */
    uint32_t n_piece, piece_room;

    mfi_file_header header;
    void *slot; /* the directory's bytes, */
    size_t slot_bytes;
    uint64_t slot_offset; /* and where they are */
    void *plan;           /* the stored plan's bytes, as they are in the file; NULL: none */
    size_t plan_bytes;
    mfi_directory directory;
    mfi_residence *residence; /* [n_region] */
    atomic_uint_least64_t mapped_bytes, allocated_bytes;
};

/* The end of a long path, for messages. */
void mfi_container_set_name(char name[128], const char *path);

/* ---- container_parts.c ---- */

/* Adds the regions that the container itself has. */
mf_status mfi_container_own_pieces(mfi_container *container, mf_error *error);
void mfi_container_drop_stores(mfi_container *container);
/* The piece that holds stored byte `at` of a region, or NULL. */
const mfi_piece *mfi_container_piece(const mfi_container *container, uint32_t region, uint64_t at);
/* Where a piece's bytes are: a descriptor, with the offset in it of the region's byte `at`; or, -1 being returned, in
 * memory. */
int mfi_piece_fd(const mfi_container *container, const mfi_piece *piece, uint64_t at, uint64_t *offset);
/* The stored bytes of a region that lies in memory in one piece; else NULL. */
const unsigned char *mfi_container_in_place(const mfi_container *container, uint32_t region);
/* Files may have become shorter since they were opened, and a mapping beyond their end faults: MF_E_IO. */
mf_status mfi_container_check_files(const mfi_container *container, uint32_t region, mf_error *error);
/* After a region's hash did not hold: forgets pieces of parts that do not match their own checksums, so that others may
 * take their place. The name of the first such file, or the container's. */
const char *mfi_container_blame(mfi_container *container, uint32_t region);

/* ---- container_load.c ---- */

/* Makes a region resident whose stored bytes all came to [stored]: of a RAW one they stay there, and become the
 * container's reservation, also on failure. They are verified. */
mf_status mfi_container_take_fed(mfi_container *container, uint32_t region, void *stored, size_t stored_bytes,
                                 mf_error *error);

/* ---- container_feed.c ---- */

void mfi_container_drop_feed(mfi_container *container, uint32_t region);

#endif
