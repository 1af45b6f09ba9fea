/* container_read.h - an open container: private to container_read.c (what it says) and container_load.c
 * (what of it is in memory). */
#ifndef MFI_CONTAINER_READ_H
#define MFI_CONTAINER_READ_H

#include "container_directory.h"

typedef struct mfi_residence { /* of one region: its own address space, or none */
    void *reserved;
    size_t reserved_bytes;
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

    mfi_file_header header;
    void *slot; /* the directory's bytes, */
    size_t slot_bytes;
    uint64_t slot_offset; /* and where they are */
    void *plan;           /* the stored plan's bytes, as they are in the file; NULL: none */
    size_t plan_bytes;
    mfi_directory directory;
    mfi_residence *residence; /* [n_region] */
    uint64_t mapped_bytes, allocated_bytes;
};

/* Copies bytes of the container out. The range lies inside its length. */
mf_status mfi_container_fetch(const mfi_container *container, void *out, size_t bytes, uint64_t offset,
                              mf_error *error);

#endif
