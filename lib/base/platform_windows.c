/* platform_windows.c - mappings, folders and the machine, for Windows. Files are read to memory where POSIX maps them: a
 * mapping of Windows' cannot be laid over a part of a reservation before Windows 10. */
#include "platform.h"

#include <stdio.h>
#include <string.h>
#include <wchar.h>

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include "defs.h"
#include "status.h"

/* ---- Mappings ---- */

size_t mfi_page_bytes(void)
{
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

/* A reservation is given back whole or not at all. So a larger one shows where there is room, and another is made at an
 * aligned address in it; a thread that takes the place between the two makes us look anew. */
void *mfi_reserve(size_t bytes, size_t align)
{
    size_t total;
    if (bytes == 0 || bytes > PTRDIFF_MAX || !mfi_add(bytes, align, &total)) return NULL;
    for (int attempt = 0; attempt < 16; attempt++) {
        void *room = VirtualAlloc(NULL, total, MEM_RESERVE, PAGE_NOACCESS);
        if (!room) return NULL;
        VirtualFree(room, 0, MEM_RELEASE);
        void *aligned = (void *)mfi_round_up((size_t)(uintptr_t)room, mfi_max(align, 1));
        void *block = VirtualAlloc(aligned, bytes, MEM_RESERVE, PAGE_NOACCESS);
        if (block) return block;
    }
    return NULL;
}

void mfi_unreserve(void *base, size_t bytes)
{
    (void)bytes;
    if (base) VirtualFree(base, 0, MEM_RELEASE);
}

/* Zeroed, whatever was there. */
static bool commit(void *at, size_t bytes)
{
    return VirtualFree(at, bytes, MEM_DECOMMIT) && VirtualAlloc(at, bytes, MEM_COMMIT, PAGE_READWRITE);
}

mf_status mfi_map_file_at(void *at, size_t bytes, int fd, uint64_t offset, mf_error *error)
{
    mf_status status = mfi_map_memory_at(at, bytes, error);
    if (status == MF_OK) status = mfi_read_at(fd, at, bytes, offset, "reading weights", error);
    return status == MF_OK ? mfi_protect_read(at, bytes) : status;
}

mf_status mfi_map_memory_at(void *at, size_t bytes, mf_error *error)
{
    if (commit(at, bytes)) return MF_OK;
    return mfi_fail(error, MF_E_NOMEM, "%zu bytes for weights: Windows' error %lu", bytes, GetLastError());
}

mf_status mfi_protect_read(void *at, size_t bytes)
{
    DWORD before;
    return VirtualProtect(at, bytes, PAGE_READONLY, &before) ? MF_OK : MF_E_NOMEM;
}

bool mfi_make_inaccessible(void *at, size_t bytes)
{
    return VirtualFree(at, bytes, MEM_DECOMMIT);
}

/* ---- Folders ---- */

void mfi_list_files(const char *folder, const char *prefix, const char *suffix,
                    void (*each)(void *user, const char *path), void *user)
{
    char pattern[4096], name[4096], path[4096];
    wchar_t wide[4096];
    WIN32_FIND_DATAW entry;
    const int length = snprintf(pattern, sizeof(pattern), "%s/*", folder);
    if (length < 0 || (size_t)length >= sizeof(pattern)) return;
    if (MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, pattern, -1, wide, (int)MFI_COUNT(wide)) == 0) return;
    HANDLE search = FindFirstFileW(wide, &entry);
    if (search == INVALID_HANDLE_VALUE) return;
    do {
        if (WideCharToMultiByte(CP_UTF8, 0, entry.cFileName, -1, name, sizeof(name), NULL, NULL) == 0) continue;
        const size_t n = strlen(name), of_suffix = strlen(suffix);
        if (strncmp(name, prefix, strlen(prefix)) != 0 || n < of_suffix || strcmp(name + n - of_suffix, suffix) != 0)
            continue;
        const int written = snprintf(path, sizeof(path), "%s/%s", folder, name);
        if (written > 0 && (size_t)written < sizeof(path)) each(user, path);
    } while (FindNextFileW(search, &entry));
    FindClose(search);
}

/* The renaming has written it through. */
bool mfi_sync_folder(const char *path)
{
    (void)path;
    return true;
}

/* ---- The machine ---- */

uint32_t mfi_usable_cores(void)
{
    DWORD_PTR ours, all;
    uint32_t n = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &ours, &all)) return 1;
    for (; ours != 0; ours &= ours - 1)
        n++;
    return n > 0 ? n : 1;
}

/* Workers are not tied to processors here. */
size_t mfi_usable_cpus(int *cpus)
{
    (void)cpus;
    return 0;
}

void mfi_processor_name(char *name, size_t capacity)
{
    wchar_t text[128] = L"";
    DWORD bytes = sizeof(text) - sizeof(text[0]);
    size_t used = 0;
    (void)RegGetValueW(HKEY_LOCAL_MACHINE, L"HARDWARE\\DESCRIPTION\\System\\CentralProcessor\\0",
                       L"ProcessorNameString", RRF_RT_REG_SZ, NULL, text, &bytes);
    for (const wchar_t *at = text; *at != L'\0' && used + 1 < capacity; at++)
        name[used++] = *at >= L' ' && *at <= L'~' ? (char)*at : ' ';
    name[used] = '\0';
    if (used == 0) snprintf(name, capacity, "unknown");
}
