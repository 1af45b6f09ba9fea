/* platform.c - POSIX, with what Linux adds where it is there. */
#if defined(__linux__)
#define _GNU_SOURCE /* sched_getaffinity, MADV_HUGEPAGE, MAP_ANONYMOUS */
#endif
#include "platform.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__SSE__)
#include <xmmintrin.h>
#elif !(defined(__aarch64__) && defined(__GNUC__))
#include <fenv.h>
#endif

#include "defs.h"
#include "status.h"

/* strerror() below is that of glibc since 2.32, musl and bionic, which other threads do not disturb. */

mf_status mfi_open_file(const char *path, int *fd, uint64_t *bytes, mf_error *error)
{
    struct stat info;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to wait on a FIFO */
    if (*fd < 0 && errno == ENAMETOOLONG)                /* which would leave no room for the reason */
        return mfi_fail(error, MF_E_IO, "%.100s...: %s", path, strerror(errno));
    if (*fd < 0) return mfi_fail(error, errno == ENOENT ? MF_E_NOT_FOUND : MF_E_IO, "%s: %s", path, strerror(errno));
    mf_status status = MF_OK;
    if (fstat(*fd, &info) != 0) {
        status = mfi_fail(error, MF_E_IO, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        status = mfi_fail(error, MF_E_FORMAT, "%s: not a regular file", path);
    } else {
        *bytes = (uint64_t)info.st_size;
    }
    if (status == MF_OK) return MF_OK;
    close(*fd);
    *fd = -1;
    return status;
}

mf_status mfi_read_at(int fd, void *out, size_t bytes, uint64_t offset, const char *name, mf_error *error)
{
    unsigned char *to = out;
    while (bytes > 0) {
        if (offset > INT64_MAX) return mfi_fail(error, MF_E_IO, "%s: offset out of range", name);
        ssize_t n = pread(fd, to, mfi_min(bytes, (size_t)1 << 30), (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return mfi_fail(error, MF_E_IO, "%s: %s", name, strerror(errno));
        if (n == 0) return mfi_fail(error, MF_E_IO, "%s: the file ends early", name);
        to += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return MF_OK;
}

/* ---- Mappings ---- */

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

void *mfi_reserve(size_t bytes, size_t align)
{
    size_t page = page_bytes(), total;
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
    if (base) munmap(base, mfi_round_up(bytes, page_bytes()));
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
    return mmap(at, mfi_round_up(bytes, page_bytes()), PROT_NONE,
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

/* ---- The machine ---- */

uint64_t mfi_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void mfi_sleep_ns(uint32_t ns)
{
    const struct timespec duration = { .tv_nsec = (long)(ns < 999999999u ? ns : 999999999u) };
    nanosleep(&duration, NULL);
}

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

/* One number of every processor from a file of its own under `sysfs`; false where one has none. */
static bool read_speeds(unsigned *speed, const int *cpus, size_t n, const char *sysfs, const char *file)
{
    for (size_t i = 0; i < n; i++) {
        char path[512], text[16];
        snprintf(path, sizeof(path), "%s/cpu%d/%s", sysfs, cpus[i], file);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) return false;
        ssize_t bytes = read(fd, text, sizeof(text) - 1);
        close(fd);
        text[bytes > 0 ? bytes : 0] = '\0';
        speed[i] = (unsigned)strtoul(text, NULL, 10);
        if (speed[i] == 0) return false;
    }
    return true;
}

/* The speed s for which s times the number of processors that have it is the greatest; of equals the higher. */
static unsigned slowest_useful(const unsigned *speed, size_t n)
{
    uint64_t most = 0;
    unsigned useful = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t together = 0;
        for (size_t j = 0; j < n; j++)
            together += speed[j] >= speed[i] ? speed[i] : 0;
        if (together > most || (together == most && speed[i] > useful)) most = together, useful = speed[i];
    }
    return useful;
}

size_t mfi_fast_cpus(int *cpus, size_t n, const char *sysfs)
{
    unsigned speed[MFI_MAX_CPU];
    if (n > MFI_MAX_CPU || (!read_speeds(speed, cpus, n, sysfs, "cpu_capacity") &&
                            !read_speeds(speed, cpus, n, sysfs, "cpufreq/cpuinfo_max_freq")))
        return n;
    const unsigned useful = slowest_useful(speed, n);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (speed[i] >= useful) cpus[kept++] = cpus[i];
    return kept;
}

int64_t mfi_process_id(void)
{
    return getpid();
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

/* ---- New files ---- */

static mf_status new_file_failed(const mfi_new_file *file, const char *doing, mf_error *error)
{
    int code = errno;
    return mfi_fail(error, MF_E_IO, "%s: %s: %s", file->path, doing, strerror(code));
}

mf_status mfi_new_file_open(mfi_new_file *file, const char *path, mf_error *error)
{
    file->fd = -1;
    file->temporary[0] = '\0';
    if (strlen(path) >= sizeof(file->path)) return mfi_fail(error, MF_E_IO, "the path is too long: %.100s...", path);
    memcpy(file->path, path, strlen(path) + 1);

    /* O_EXCL makes the name ours; the count steps over names that others hold or left behind. */
    for (unsigned i = 0; file->fd < 0 && i < 1000; i++) {
        snprintf(file->temporary, sizeof(file->temporary), "%s.%ld-%u.tmp", path, (long)getpid(), i);
        file->fd = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (file->fd < 0 && errno != EEXIST && errno != EINTR) break;
    }
    if (file->fd >= 0) return MF_OK;
    file->temporary[0] = '\0';
    return new_file_failed(file, "cannot create", error);
}

mf_status mfi_new_file_write(mfi_new_file *file, const void *data, size_t bytes, mf_error *error)
{
    const unsigned char *from = data;
    while (bytes > 0) {
        ssize_t n = write(file->fd, from, mfi_min(bytes, (size_t)1 << 30));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return new_file_failed(file, "cannot write", error);
        from += n;
        bytes -= (size_t)n;
    }
    return MF_OK;
}

mf_status mfi_new_file_write_at(mfi_new_file *file, const void *data, size_t bytes, uint64_t offset, mf_error *error)
{
    const unsigned char *from = data;
    while (bytes > 0) {
        if (offset > INT64_MAX) return mfi_fail(error, MF_E_IO, "%s: offset out of range", file->path);
        ssize_t n = pwrite(file->fd, from, mfi_min(bytes, (size_t)1 << 30), (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return new_file_failed(file, "cannot write", error);
        from += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return MF_OK;
}

/* Makes the new name itself survive a crash. */
static bool sync_folder(const char *path)
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

mf_status mfi_new_file_commit(mfi_new_file *file, mf_error *error)
{
    if (fsync(file->fd) != 0) return new_file_failed(file, "cannot sync", error);
    int fd = file->fd;
    file->fd = -1;
    if (close(fd) != 0) return new_file_failed(file, "cannot close", error);
    if (rename(file->temporary, file->path) != 0) return new_file_failed(file, "cannot rename", error);
    file->temporary[0] = '\0';
    if (!sync_folder(file->path)) return new_file_failed(file, "cannot sync the folder", error);
    return MF_OK;
}

void mfi_new_file_abort(mfi_new_file *file)
{
    if (file->temporary[0] == '\0') return;
    if (file->fd >= 0) close(file->fd);
    unlink(file->temporary);
    file->fd = -1;
    file->temporary[0] = '\0';
}

/* ---- Floating point ---- */

#if defined(__SSE__)

mfi_fp_mode mfi_fp_enter(void)
{
    mfi_fp_mode mode = { _mm_getcsr() };
    _mm_setcsr(0x1f80); /* all exceptions masked, round to nearest, neither FTZ nor DAZ */
    return mode;
}

void mfi_fp_leave(mfi_fp_mode mode)
{
    _mm_setcsr((unsigned)mode.saved);
}

#elif defined(__aarch64__) && defined(__GNUC__)

static void set_fpcr(uint64_t value)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(value) : "memory");
}

mfi_fp_mode mfi_fp_enter(void)
{
    mfi_fp_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode.saved));
    set_fpcr(0); /* no traps, round to nearest, no flush to zero, NaNs propagate */
    return mode;
}

void mfi_fp_leave(mfi_fp_mode mode)
{
    set_fpcr(mode.saved);
}

#else

/* Standard C reaches the rounding mode alone. */
mfi_fp_mode mfi_fp_enter(void)
{
    mfi_fp_mode mode = { (uint64_t)fegetround() };
    fesetround(FE_TONEAREST);
    return mode;
}

void mfi_fp_leave(mfi_fp_mode mode)
{
    fesetround((int)mode.saved);
}

#endif
