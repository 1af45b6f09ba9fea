/* pretokenize.h - where text is cut into pieces before tokens merge. */
#ifndef MFI_PRETOKENIZE_H
#define MFI_PRETOKENIZE_H

#include <stddef.h>

/* The numbers are the blob's. docs/tokenizer.md has the patterns. */
typedef enum mfi_pretokenizer {
    MFI_PRE_NONE = 0,
    MFI_PRE_PLAIN = 1, /* our own */
    MFI_PRE_GPT2 = 2,
    MFI_PRE_LLAMA3 = 3
} mfi_pretokenizer;

/* Bytes of the first piece of `text`: merges do not cross its end. 0 only where bytes is 0. Cutting a whole text
 * is linear. */
size_t mfi_pretokenize(mfi_pretokenizer pretokenizer, const char *text, size_t bytes);

#endif
