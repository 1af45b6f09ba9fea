/* files.c - windows/posix.h by Windows' own calls. */
#include <stdbool.h>
#include <string.h>
#include <wchar.h>

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

enum { MAX_PATH_UNITS = 4096 }; /* as much as the library's own buffers take */

static int fail(int code)
{
    errno = code;
    return -1;
}

static int fail_as_windows(void)
{
    switch (GetLastError()) {
    case ERROR_FILE_NOT_FOUND:
    case ERROR_PATH_NOT_FOUND:
        return fail(ENOENT);
    case ERROR_ACCESS_DENIED:
    case ERROR_SHARING_VIOLATION:
        return fail(EACCES);
    case ERROR_LOCK_VIOLATION:
        return fail(EWOULDBLOCK);
    case ERROR_DISK_FULL:
    case ERROR_HANDLE_DISK_FULL:
        return fail(ENOSPC);
    case ERROR_ALREADY_EXISTS:
    case ERROR_FILE_EXISTS:
        return fail(EEXIST);
    default:
        return fail(EIO);
    }
}

static bool widen(const char *path, wchar_t *wide)
{
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, MAX_PATH_UNITS) > 0) return true;
    errno = GetLastError() == ERROR_INSUFFICIENT_BUFFER ? ENAMETOOLONG : ENOENT;
    return false;
}

static HANDLE handle_of(int fd)
{
    return (HANDLE)_get_osfhandle(fd);
}

int mfi_windows_open(const char *path, int flags, ...)
{
    wchar_t wide[MAX_PATH_UNITS];
    return widen(path, wide) ? _wopen(wide, flags, _S_IREAD | _S_IWRITE) : -1;
}

int mfi_windows_fstat(int fd, struct mfi_stat *out)
{
    BY_HANDLE_FILE_INFORMATION info;
    HANDLE handle = handle_of(fd);
    *out = (struct mfi_stat){ .st_mode = S_IFCHR };
    if (handle == INVALID_HANDLE_VALUE) return fail(EBADF);
    if (GetFileType(handle) != FILE_TYPE_DISK) return 0;
    if (!GetFileInformationByHandle(handle, &info)) return fail_as_windows();
    out->st_mode = info.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY ? S_IFDIR : S_IFREG;
    out->st_dev = info.dwVolumeSerialNumber;
    out->st_ino = (uint64_t)info.nFileIndexHigh << 32 | info.nFileIndexLow;
    out->st_size = (int64_t)((uint64_t)info.nFileSizeHigh << 32 | info.nFileSizeLow);
    return 0;
}

int mfi_stat(const char *path, struct mfi_stat *out)
{
    wchar_t wide[MAX_PATH_UNITS];
    struct _stat64 info;
    if (!widen(path, wide) || _wstat64(wide, &info) != 0) return -1;
    *out = (struct mfi_stat){ .st_mode = info.st_mode, .st_size = info.st_size };
    return 0;
}

int mfi_windows_duplicate(int fd)
{
    const int copy = _dup(fd);
    if (copy >= 0) SetHandleInformation(handle_of(copy), HANDLE_FLAG_INHERIT, 0);
    return copy;
}

static OVERLAPPED at(int64_t offset)
{
    return (OVERLAPPED){ .Offset = (DWORD)((uint64_t)offset & UINT32_MAX), .OffsetHigh = (DWORD)(offset >> 32) };
}

ssize_t mfi_windows_pread(int fd, void *out, size_t bytes, int64_t offset)
{
    OVERLAPPED place = at(offset);
    DWORD n = 0;
    if (ReadFile(handle_of(fd), out, (DWORD)(bytes < INT32_MAX ? bytes : INT32_MAX), &n, &place)) return (ssize_t)n;
    return GetLastError() == ERROR_HANDLE_EOF ? 0 : fail_as_windows();
}

ssize_t mfi_windows_pwrite(int fd, const void *data, size_t bytes, int64_t offset)
{
    OVERLAPPED place = at(offset);
    DWORD n = 0;
    if (WriteFile(handle_of(fd), data, (DWORD)(bytes < INT32_MAX ? bytes : INT32_MAX), &n, &place)) return (ssize_t)n;
    return fail_as_windows();
}

/* A lock here keeps others from reading as well: so it is of a byte that no file reaches. */
int mfi_windows_lock(int fd)
{
    OVERLAPPED place = at(INT64_MAX - 1);
    return LockFileEx(handle_of(fd), LOCKFILE_EXCLUSIVE_LOCK | LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &place)
               ? 0
               : fail_as_windows();
}

int mfi_windows_rename(const char *from, const char *to)
{
    wchar_t wide_from[MAX_PATH_UNITS], wide_to[MAX_PATH_UNITS];
    if (!widen(from, wide_from) || !widen(to, wide_to)) return -1;
    return MoveFileExW(wide_from, wide_to, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH) ? 0 : fail_as_windows();
}

int mfi_windows_unlink(const char *path)
{
    wchar_t wide[MAX_PATH_UNITS];
    return widen(path, wide) ? _wunlink(wide) : -1;
}

int mfi_windows_access(const char *path)
{
    wchar_t wide[MAX_PATH_UNITS];
    return widen(path, wide) ? _waccess(wide, 0) : -1;
}

int mfi_windows_make_folder(const char *path)
{
    wchar_t wide[MAX_PATH_UNITS];
    return widen(path, wide) ? _wmkdir(wide) : -1;
}
