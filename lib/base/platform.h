/* platform.h - files, mappings and the clock: everything that asks the operating system. */
#ifndef MFI_PLATFORM_H
#define MFI_PLATFORM_H

#include <stdbool.h>

#include "matformer.h"

/* Opens a regular file to be read and says how long it is; MF_E_NOT_FOUND where there is none of that name. */
mf_status mfi_open_file(const char *path, int *fd, uint64_t *bytes, mf_error *error);

/* Reads exactly `bytes` at `offset`; a short file is MF_E_IO. EINTR is retried. */
mf_status mfi_read_at(int fd, void *out, size_t bytes, uint64_t offset, const char *name, mf_error *error);

size_t mfi_page_bytes(void);

/* Address space without memory behind it, aligned to `align` (2 MiB for weights); NULL when refused. */
void *mfi_reserve(size_t bytes, size_t align);
void mfi_unreserve(void *base, size_t bytes);
/* Fills [at, at + bytes) of a reservation: with a private read-only mapping of the file, or with zeroed
 * memory in huge pages where granted. `bytes` and `at` are multiples of the page size except at the end. */
mf_status mfi_map_file_at(void *at, size_t bytes, int fd, uint64_t offset, mf_error *error);
mf_status mfi_map_memory_at(void *at, size_t bytes, mf_error *error);
mf_status mfi_protect_read(void *at, size_t bytes);
/* Gives the memory of [at, at + bytes) back and leaves the addresses reserved: touching them faults. False when the
 * system refuses, and then nothing changed. */
bool mfi_make_inaccessible(void *at, size_t bytes);

/* Calls each(user, path) for the files of `folder` whose names begin with `prefix` and end in `suffix`; `path` lies in
 * that folder and is valid during the call. A folder that cannot be read has none. */
void mfi_list_files(const char *folder, const char *prefix, const char *suffix,
                    void (*each)(void *user, const char *path), void *user);

/* Makes what a file's name now means survive a crash. False with errno where the folder cannot be synced. */
bool mfi_sync_folder(const char *path);

uint64_t mfi_now_ns(void);       /* monotonic */
void mfi_sleep_ns(uint32_t ns);  /* at least; a signal may wake it earlier */
uint32_t mfi_usable_cores(void); /* of this process's affinity mask, at least 1 */
/* Their numbers to cpus[MFI_MAX_CPU], and how many; 0 where the system does not tell. */
#define MFI_MAX_CPU 1024u
size_t mfi_usable_cpus(int *cpus);
/* Keeps those of cpus[n] that make equal shares of work end soonest, and returns how many: with k cores a share is
 * 1 / k of the work, and the slowest of them ends last, so that k times its speed is the greatest. Speeds are
 * cpu_capacity under `sysfs` (/sys/devices/system/cpu), else the highest clock; all are kept where one is unknown. */
size_t mfi_fast_cpus(int *cpus, size_t n, const char *sysfs);
int64_t mfi_process_id(void);
/* What the system calls the processor ("AMD EPYC 7B13"); where it has no name for it what numbers it has, else the
 * architecture. Printable ASCII, cut to `capacity`, terminated. */
void mfi_processor_name(char *name, size_t capacity);

/* Writing a file that appears under its name only when it is whole: writes go to a temporary name beside
 * it; commit syncs file and folder and renames; abort removes. */
typedef struct mfi_new_file {
    int fd;
    char path[4096], temporary[4096 + 32]; /* no allocation; the system refuses longer paths anyway */
} mfi_new_file;
mf_status mfi_new_file_open(mfi_new_file *file, const char *path, mf_error *error);
mf_status mfi_new_file_write(mfi_new_file *file, const void *data, size_t bytes, mf_error *error);
mf_status mfi_new_file_write_at(mfi_new_file *file, const void *data, size_t bytes, uint64_t offset, mf_error *error);
mf_status mfi_new_file_commit(mfi_new_file *file, mf_error *error);
void mfi_new_file_abort(mfi_new_file *file); /* also after a failed commit; does nothing after a good one */

/* Round to nearest, gradual underflow, no traps: set on entry, restored on exit. */
typedef struct mfi_fp_mode {
    uint64_t saved;
} mfi_fp_mode;
mfi_fp_mode mfi_fp_enter(void);
void mfi_fp_leave(mfi_fp_mode mode);

#endif
