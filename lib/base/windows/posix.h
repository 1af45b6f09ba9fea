/* posix.h - the calls of POSIX that the library makes and that Windows' C library lacks or means otherwise. The build
 * includes it before every file, on Windows only. Paths are UTF-8; files are opened in binary mode and are not
 * inherited. */
#ifndef MFI_WINDOWS_POSIX_H
#define MFI_WINDOWS_POSIX_H

#define _FILE_OFFSET_BITS 64
#if !defined(__USE_MINGW_ANSI_STDIO)
#define __USE_MINGW_ANSI_STDIO 1 /* %zu and %lld as C99 has them */
#endif
/* Names that the library has other uses for. */
#define access mfi_windows_unused_access
#define tell mfi_windows_unused_tell
#define truncate mfi_windows_unused_truncate
#include <direct.h>
#include <errno.h>
#include <fcntl.h>
#include <io.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#undef access
#undef tell
#undef truncate

#define O_CLOEXEC (_O_NOINHERIT | _O_BINARY) /* every file of the library's is opened with it */
#define O_NONBLOCK 0                         /* there are no FIFOs to wait for */
#define F_DUPFD_CLOEXEC 1
#define LOCK_EX 1
#define LOCK_NB 2

/* What identifies a file is a volume and a number of 64 bits, which struct stat has no room for. */
struct mfi_stat {
    uint64_t st_dev, st_ino;
    int64_t st_size;
    unsigned short st_mode;
};

int mfi_windows_open(const char *path, int flags, ...);
int mfi_stat(const char *path, struct mfi_stat *out); /* named as the struct, as stat() is */
int mfi_windows_fstat(int fd, struct mfi_stat *out);
int mfi_windows_duplicate(int fd);
ssize_t mfi_windows_pread(int fd, void *out, size_t bytes, int64_t offset);
ssize_t mfi_windows_pwrite(int fd, const void *data, size_t bytes, int64_t offset);
int mfi_windows_lock(int fd); /* LOCK_EX | LOCK_NB; closing gives it back */
int mfi_windows_rename(const char *from, const char *to);
int mfi_windows_unlink(const char *path);
int mfi_windows_access(const char *path);
int mfi_windows_make_folder(const char *path);

#undef stat
#undef fstat
#define open mfi_windows_open
#define stat mfi_stat
#define fstat mfi_windows_fstat
#define lstat mfi_stat
#define fcntl(fd, command, value) mfi_windows_duplicate(fd)
#define pread mfi_windows_pread
#define pwrite mfi_windows_pwrite
#define flock(fd, how) mfi_windows_lock(fd)
#define fsync _commit
#define rename mfi_windows_rename
#define unlink mfi_windows_unlink
#define access(path, how) mfi_windows_access(path)
#define mkdir(path, mode) mfi_windows_make_folder(path)

#endif
