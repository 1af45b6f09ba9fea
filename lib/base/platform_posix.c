/* platform_posix.c - mappings, folders and the machine, for POSIX, with what Linux adds where it is there. */
#if defined(__linux__)
#define _GNU_SOURCE /* sched_getaffinity, MADV_HUGEPAGE, MAP_ANONYMOUS */
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include "defs.h"
#include "platform.h"
#include "status.h"

/* ---- Mappings ---- */

size_t mfi_page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

void *mfi_reserve(size_t bytes, size_t align)
{
    size_t page = mfi_page_bytes(), total;
    align = mfi_max(align, page);
    if (bytes == 0 || bytes > PTRDIFF_MAX || !mfi_add(mfi_round_up(bytes, page), align - page, &total)) return NULL;
    bytes = mfi_round_up(bytes, page);
    unsigned char *block = mmap(NULL, total, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) return NULL;

    /* Give back what lies before and after the aligned part. */
    size_t before = mfi_round_up((size_t)(uintptr_t)block, align) - (size_t)(uintptr_t)block;
    size_t after = total - before - bytes;
    if (before) munmap(block, before);
    if (after) munmap(block + before + bytes, after);
    return block + before;
}

void mfi_unreserve(void *base, size_t bytes)
{
    if (base) munmap(base, mfi_round_up(bytes, mfi_page_bytes()));
}

mf_status mfi_map_file_at(void *at, size_t bytes, int fd, uint64_t offset, mf_error *error)
{
    if (offset > INT64_MAX) return mfi_fail(error, MF_E_IO, "mapping a file: offset out of range");
    if (mmap(at, bytes, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, (off_t)offset) == MAP_FAILED)
        return mfi_fail(error, errno == ENOMEM ? MF_E_NOMEM : MF_E_IO, "mapping a file: %s", strerror(errno));
    return MF_OK;
}

mf_status mfi_map_memory_at(void *at, size_t bytes, mf_error *error)
{
    if (mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        return mfi_fail(error, MF_E_NOMEM, "%zu bytes for weights: %s", bytes, strerror(errno));
#if defined(MADV_HUGEPAGE)
    (void)madvise(at, bytes, MADV_HUGEPAGE); /* a wish: small pages work as well */
#endif
    return MF_OK;
}

mf_status mfi_protect_read(void *at, size_t bytes)
{
    return mprotect(at, bytes, PROT_READ) == 0 ? MF_OK : MF_E_NOMEM;
}

bool mfi_make_inaccessible(void *at, size_t bytes)
{
    return mmap(at, mfi_round_up(bytes, mfi_page_bytes()), PROT_NONE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

/* ---- Folders ---- */

static bool ends_in(const char *text, const char *suffix)
{
    const size_t length = strlen(text), of_suffix = strlen(suffix);
    return length >= of_suffix && strcmp(text + length - of_suffix, suffix) == 0;
}

void mfi_list_files(const char *folder, const char *prefix, const char *suffix,
                    void (*each)(void *user, const char *path), void *user)
{
    char path[4096];
    DIR *entries = opendir(folder);
    if (entries == NULL) return;
    for (const struct dirent *entry; (entry = readdir(entries)) != NULL;) {
        if (strncmp(entry->d_name, prefix, strlen(prefix)) != 0 || !ends_in(entry->d_name, suffix)) continue;
        const int length = snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        if (length > 0 && (size_t)length < sizeof(path)) each(user, path);
    }
    closedir(entries);
}

bool mfi_sync_folder(const char *path)
{
    char folder[sizeof(((mfi_new_file *)0)->path)];
    const char *slash = strrchr(path, '/');
    size_t length = slash ? mfi_max((size_t)(slash - path), 1) : 1;
    memcpy(folder, slash ? path : ".", length);
    folder[length] = '\0';

    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno == EACCES;            /* writable but not readable: nothing more can be done */
    bool good = fsync(fd) == 0 || errno == EINVAL; /* EINVAL: the file system has no such thing */
    int code = errno;
    close(fd);
    errno = code;
    return good;
}

/* ---- The machine ---- */

uint32_t mfi_usable_cores(void)
{
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return (uint32_t)CPU_COUNT(&set);
#endif
    /* Also for machines of more processors than the set above holds. */
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (uint32_t)n : 1;
}

size_t mfi_usable_cpus(int *cpus)
{
    size_t n = 0;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0) return 0;
    for (unsigned cpu = 0; cpu < CPU_SETSIZE && cpu < MFI_MAX_CPU; cpu++)
        if (CPU_ISSET(cpu, &set)) cpus[n++] = (int)cpu;
#else
    (void)cpus;
#endif
    return n;
}

/* The value of the first line of /proc/cpuinfo that begins with `key`, appended to name[*used]. */
static bool append_cpuinfo(const char *info, const char *key, char *name, size_t capacity, size_t *used)
{
    const char *at = strstr(info, key);
    if (at == NULL || (at = strchr(at, ':')) == NULL) return false;
    if (*used > 0 && *used + 1 < capacity) name[(*used)++] = ' ';
    for (at++; *at == ' '; at++)
        ;
    for (; *at != '\0' && *at != '\n' && *used + 1 < capacity; at++)
        name[(*used)++] = *at > ' ' && *at <= '~' ? *at : ' ';
    name[*used] = '\0';
    return true;
}

void mfi_processor_name(char *name, size_t capacity)
{
    static const char *const numbers[] = { "CPU implementer", "CPU variant", "CPU part", "CPU revision" }; /* ARM's */
    char info[4096]; /* the first processor's part fits */
    struct utsname system;
    size_t used = 0;
    name[0] = '\0';
    const int fd = open("/proc/cpuinfo", O_RDONLY | O_CLOEXEC);
    const ssize_t bytes = fd >= 0 ? read(fd, info, sizeof(info) - 1) : 0;
    if (fd >= 0) close(fd);
    info[bytes > 0 ? bytes : 0] = '\0';
    if (append_cpuinfo(info, "model name", name, capacity, &used)) return;
    for (size_t i = 0; i < MFI_COUNT(numbers); i++)
        append_cpuinfo(info, numbers[i], name, capacity, &used);
    if (used == 0) snprintf(name, capacity, "%s", uname(&system) == 0 ? system.machine : "unknown");
}
