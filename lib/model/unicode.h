/* unicode.h - UTF-8, classes of code points, and NFC. Bytes that are no UTF-8 pass through everything as themselves. */
#ifndef MFI_UNICODE_H
#define MFI_UNICODE_H

#include "arena.h"
#include "matformer.h"

/* The numbers are those of unicode_tables.h. */
typedef enum mfi_class { MFI_OTHER, MFI_LETTER, MFI_NUMBER, MFI_WHITE } mfi_class;

/* A byte b that belongs to no character counts as one of this code + b. */
#define MFI_NOT_UTF8 0x110000u
#define MFI_MAX_CHARACTER_BYTES 4u

/* The first character's code; *length is its bytes, at least 1. `bytes` is at least 1. */
uint32_t mfi_utf8_first(const char *text, size_t bytes, size_t *length);
/* Writes the code's bytes, at most MFI_MAX_CHARACTER_BYTES, and returns their number. */
size_t mfi_utf8_put(char *out, uint32_t code);
mfi_class mfi_class_of(uint32_t code); /* Unicode's L*, N* and White_Space */

/* Canonical composition. *out is `text` itself where nothing can change; else it has *out_bytes bytes and is freed with
 * mfi_free(allocator, *out, *out_bytes). Linear time for any text. */
mf_status mfi_nfc(const mf_allocator *allocator, const char *text, size_t bytes, char **out, size_t *out_bytes);

#endif
