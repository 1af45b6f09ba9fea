/* platform.c - what every system does by the same calls: files, the clock, the floating-point mode. The rest is in
 * platform_posix.c and platform_windows.c. */
#define _POSIX_C_SOURCE 200809L
#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
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

mf_status mfi_new_file_commit(mfi_new_file *file, mf_error *error)
{
    if (fsync(file->fd) != 0) return new_file_failed(file, "cannot sync", error);
    int fd = file->fd;
    file->fd = -1;
    if (close(fd) != 0) return new_file_failed(file, "cannot close", error);
    if (rename(file->temporary, file->path) != 0) return new_file_failed(file, "cannot rename", error);
    file->temporary[0] = '\0';
    if (!mfi_sync_folder(file->path)) return new_file_failed(file, "cannot sync the folder", error);
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
