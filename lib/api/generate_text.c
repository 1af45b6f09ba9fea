/* generate_text.c - see generate_text.h. */
#include "generate_text.h"

#include <string.h>

#include "arena.h"
#include "defs.h"
#include "tokenizer.h"

#define MAX_CHARACTER_BYTES 4u

mf_status mfi_held_text_create(mfi_held_text *held, const mf_allocator *allocator, const char *const *stop,
                               size_t n_stop)
{
    size_t longest_stop = 0;
    for (size_t i = 0; i < n_stop; i++)
        longest_stop = mfi_max(longest_stop, strlen(stop[i]));
    *held = (mfi_held_text){ .stop = stop, .n_stop = n_stop };
    held->capacity = longest_stop + MAX_CHARACTER_BYTES + MFI_MAX_TOKEN_BYTES;
    held->text = mfi_alloc(allocator, held->capacity);
    return held->text ? MF_OK : MF_E_NOMEM;
}

void mfi_held_text_free(mfi_held_text *held, const mf_allocator *allocator)
{
    mfi_free(allocator, held->text, held->capacity);
    held->text = NULL;
}

void mfi_held_text_add(mfi_held_text *held, const mfi_tokenizer *tokenizer, int32_t token)
{
    size_t bytes;
    const char *text = tokenizer ? mfi_tokenizer_token(tokenizer, token, &bytes) : NULL;
    if (!text) return;
    memcpy(held->text + held->n, text, bytes);
    held->n += bytes;
}

size_t mfi_held_text_find_stop(const mfi_held_text *held)
{
    for (size_t at = 0; at < held->n; at++)
        for (size_t i = 0; i < held->n_stop; i++) {
            size_t length = strlen(held->stop[i]);
            if (length <= held->n - at && memcmp(held->text + at, held->stop[i], length) == 0) return at;
        }
    return SIZE_MAX;
}

/* Where the first suffix begins with which a stop text begins. */
static size_t before_partial_stop(const mfi_held_text *held)
{
    for (size_t at = 0; at < held->n; at++)
        for (size_t i = 0; i < held->n_stop; i++)
            if (strncmp(held->stop[i], held->text + at, held->n - at) == 0) return at;
    return held->n;
}

/* Less the beginning of a character at the end. Bytes that can no longer become one are not kept. */
static size_t before_partial_character(const char *text, size_t bytes)
{
    for (size_t back = 1; back < MAX_CHARACTER_BYTES && back <= bytes; back++) {
        unsigned char byte = (unsigned char)text[bytes - back];
        if (byte >= 0x80 && byte < 0xc0) continue; /* its first byte stands before it */
        size_t length = byte >= 0xf5 || byte < 0xc2 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
        return length > back ? bytes - back : bytes;
    }
    return bytes;
}

size_t mfi_held_text_showable(const mfi_held_text *held)
{
    return before_partial_character(held->text, before_partial_stop(held));
}

void mfi_held_text_drop(mfi_held_text *held, size_t bytes)
{
    memmove(held->text, held->text + bytes, held->n - bytes);
    held->n -= bytes;
}
