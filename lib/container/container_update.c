/* container_update.c - changes what an existing file says beside its weights: fills the idle slot, then flips. The slot
 * that readers use is never written, nor is a region. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "container_read.h"
#include "status.h"

typedef struct update {
    const char *path;
    mfi_container *container; /* as the file is */
    int fd;                   /* to write with; it holds the lock */
    mf_error *error;
} update;

static mf_status fail_system(const update *u, const char *doing)
{
    return mfi_fail(u->error, MF_E_IO, "%.120s: %s: %s", u->path, doing, strerror(errno));
}

/* The lock is the file's, not its name's: closing the descriptor, or the end of the process, gives it back. */
static mf_status open_locked(update *u)
{
    do
        u->fd = open(u->path, O_RDWR | O_CLOEXEC | O_NONBLOCK); /* not to wait on a FIFO */
    while (u->fd < 0 && errno == EINTR);
    if (u->fd < 0 && errno == ENOENT) return mfi_fail(u->error, MF_E_NOT_FOUND, "%.120s: %s", u->path, strerror(errno));
    if (u->fd < 0) return fail_system(u, "cannot be opened to store a plan");
    while (flock(u->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) continue;
        if (errno == EWOULDBLOCK)
            return mfi_fail(u->error, MF_E_BUSY, "%.120s: another process is storing a plan in it; try again later",
                            u->path);
        return fail_system(u, "cannot be locked");
    }
    return MF_OK;
}

/* The name may have come to mean another file between the two openings: a conversion renames a new one over it. */
static mf_status check_same_file(const update *u)
{
    struct stat read, written;
    if (fstat(u->fd, &written) != 0 || fstat(u->container->fd, &read) != 0) return fail_system(u, "cannot be examined");
    if (read.st_dev == written.st_dev && read.st_ino == written.st_ino) return MF_OK;
    return mfi_fail(u->error, MF_E_BUSY, "%.120s: it was replaced meanwhile; try again", u->path);
}

static mf_status write_at(const update *u, const void *data, size_t bytes, uint64_t offset)
{
    const unsigned char *from = data;
    while (bytes > 0) {
        const ssize_t n = pwrite(u->fd, from, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_system(u, "cannot be written; it keeps what it had");
        from += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return MF_OK;
}

static mf_status sync_file(const update *u)
{
    return fsync(u->fd) == 0 ? MF_OK : fail_system(u, "cannot be synced");
}

/* In whatever order the disk writes, the idle slot holds only when all of it is there: its checksum covers the hash of
 * its plan. The sync between makes the directory the last to come, so that nobody finds it without its plan. */
static mf_status fill_idle_slot(const update *u, mfi_file_slot *slot, const void *plan, size_t bytes)
{
    const mfi_container *c = u->container;
    const uint64_t first = MFI_SLOT_BASE, second = MFI_SLOT_BASE + c->header.slot_bytes;
    const uint64_t idle = c->slot_offset == first ? second : first;
    slot->generation++;
    slot->plan_bytes = bytes;
    slot->plan_checksum = mfi_hash(plan, bytes);
    slot->checksum = mfi_hash(&slot->generation, (size_t)slot->directory_bytes - sizeof slot->checksum);
    mf_status status = write_at(u, plan, bytes, idle + c->header.directory_capacity);
    if (status == MF_OK) status = sync_file(u);
    if (status == MF_OK) status = write_at(u, slot, (size_t)slot->directory_bytes, idle);
    return status == MF_OK ? sync_file(u) : status;
}

static mf_status check_room(const update *u, size_t bytes)
{
    const mfi_container *c = u->container;
    const uint64_t room = c->header.slot_bytes - c->header.directory_capacity;
    if (bytes > room || bytes > MFI_PLAN_MAX)
        return mfi_fail(
            u->error, MF_E_CAPACITY,
            "%.100s: the plan takes %zu bytes, the file has room for %llu; `matformer convert` writes a file "
            "with room",
            u->path, bytes, (unsigned long long)room);
    if (((const mfi_file_slot *)c->slot)->generation == UINT64_MAX)
        return mfi_fail(u->error, MF_E_UNSUPPORTED,
                        "%.100s: its directory cannot be changed; `matformer convert` writes "
                        "it anew",
                        u->path);
    return MF_OK;
}

mf_status mfi_container_store_plan(const char *path, const void *plan, size_t bytes, const mf_allocator *allocator,
                                   mf_error *error)
{
    update u = { .path = path, .fd = -1, .error = error };
    const mf_model_options options = { .struct_size = sizeof options, .allocator = *allocator };
    const mfi_container_source source = { .path = path, .fd = -1 };
    if (bytes == 0) return mfi_fail(error, MF_E_INVALID, "%.120s: an empty plan", path);
    mf_status status = open_locked(&u);
    if (status == MF_OK) status = mfi_container_open(&u.container, &source, &options, error);
    if (status == MF_OK) status = check_same_file(&u);
    if (status == MF_OK) status = check_room(&u, bytes);
    if (status == MF_OK) status = fill_idle_slot(&u, u.container->slot, plan, bytes);
    mfi_container_close(u.container);
    if (u.fd >= 0) close(u.fd);
    return status;
}
