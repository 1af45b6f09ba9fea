/* status.c - status codes as text, mf_error, and structs of older and newer callers. */
#include "status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "defs.h"

#define MAX_STRUCT_BYTES 4096 /* more than any struct will grow to: what exceeds it is garbage */

const char *mf_status_name(mf_status status)
{
    switch (status) {
#define STATUS_NAME(name, value, text) \
    case MF_##name:                    \
        return "MF_" #name;
        MF_STATUS_MAP(STATUS_NAME)
#undef STATUS_NAME
    }
    return "MF_E_UNKNOWN";
}

const char *mf_status_text(mf_status status)
{
    switch (status) {
#define STATUS_TEXT(name, value, text) \
    case MF_##name:                    \
        return text;
        MF_STATUS_MAP(STATUS_TEXT)
#undef STATUS_TEXT
    }
    return "unknown status";
}

/* Sentences quote what files say: nothing that a terminal would obey, and where it was cut, no part of a character. */
static void make_printable(char *text)
{
    size_t bytes = 0, last = 0; /* last: where the last character begins */
    for (; text[bytes]; bytes++) {
        const unsigned char c = (unsigned char)text[bytes];
        if (c < 0x20 || c == 0x7f) text[bytes] = '?';
        if ((c & 0xc0) != 0x80) last = bytes;
    }
    const unsigned char lead = (unsigned char)text[last];
    const size_t wanted = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    if (bytes - last < wanted) text[last] = '\0';
}

mf_status mfi_fail(mf_error *error, mf_status status, const char *format, ...)
{
    if (!error || error->struct_size <= offsetof(mf_error, detail)) return status;
    /* Written beside first, since an argument may be the detail of before. */
    char detail[sizeof(error->detail)];
    va_list args;
    va_start(args, format);
    vsnprintf(detail, sizeof(detail), format, args);
    va_end(args);

    size_t capacity = mfi_min(error->struct_size - offsetof(mf_error, detail), sizeof(detail));
    detail[capacity - 1] = '\0';
    make_printable(detail);
    memcpy(error->detail, detail, strlen(detail) + 1);
    error->status = status;
    return status;
}

static size_t read_size(const void *options)
{
    size_t size;
    memcpy(&size, options, sizeof(size));
    return size;
}

static bool is_zero(const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i]) return false;
    return true;
}

mf_status mfi_read_options(void *full, size_t full_bytes, size_t first_bytes, const void *options, const char *what,
                           mf_error *error)
{
    if (options) {
        size_t size = read_size(options);
        if (size < first_bytes || size > MAX_STRUCT_BYTES)
            return mfi_fail(error, MF_E_STRUCT_SIZE, "%s: struct_size is %zu; fill the struct with its INIT macro",
                            what, size);
        if (size > full_bytes && !is_zero((const unsigned char *)options + full_bytes, size - full_bytes))
            return mfi_fail(error, MF_E_STRUCT_SIZE, "%s: uses fields of a newer release than this library (%d.%d.%d)",
                            what, MF_VERSION_MAJOR, MF_VERSION_MINOR, MF_VERSION_PATCH);
        memcpy(full, options, mfi_min(size, full_bytes));
    }
    memcpy(full, &full_bytes, sizeof(full_bytes));
    return MF_OK;
}

mf_status mfi_write_info(void *info, const void *full, size_t full_bytes, size_t first_bytes)
{
    if (!info) return MF_E_INVALID;
    size_t size = read_size(info);
    if (size < first_bytes || size > MAX_STRUCT_BYTES) return MF_E_STRUCT_SIZE;
    memcpy((unsigned char *)info + sizeof(size), (const unsigned char *)full + sizeof(size),
           mfi_min(size, full_bytes) - sizeof(size));
    return MF_OK;
}
