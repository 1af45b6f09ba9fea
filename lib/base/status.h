/* status.h - filling mf_error, and reading option structs that begin with struct_size. */
#ifndef MFI_STATUS_H
#define MFI_STATUS_H

#include <stddef.h>

#include "matformer.h"

/* The size of a struct in its first release, whose last field was `last`. Never sizeof: that grows with the struct, and
 * callers of the first release would be refused. */
#define MFI_FIRST_BYTES(type, last) (offsetof(type, last) + sizeof(((type *)0)->last))

#if defined(__MINGW32__) /* where printf() is C's, and not Windows' */
#define MFI_PRINTF(text, first) __attribute__((format(gnu_printf, text, first)))
#elif defined(__GNUC__)
#define MFI_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define MFI_PRINTF(text, first)
#endif

/* Writes the status and the sentence to `error` (may be NULL) and returns the status:
 * `return mfi_fail(error, MF_E_FORMAT, "tensor %s: ...", name);` */
mf_status mfi_fail(mf_error *error, mf_status status, const char *format, ...) MFI_PRINTF(3, 4);

/* Copies the caller's `options` (may be NULL) over `full`, whose first `full_bytes` hold zeros after its
 * struct_size. `first_bytes` is the struct's size in its first release. Refused: smaller than that, larger
 * than 4096, or larger than ours with bytes set that we do not know. `what` names the struct. */
mf_status mfi_read_options(void *full, size_t full_bytes, size_t first_bytes, const void *options, const char *what,
                           mf_error *error);

/* Copies `full` out to a caller's info struct of its own size, keeping its struct_size. */
mf_status mfi_write_info(void *info, const void *full, size_t full_bytes, size_t first_bytes);

#endif
