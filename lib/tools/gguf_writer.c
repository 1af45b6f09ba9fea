/* gguf_writer.c - numbers, texts and keys as GGUF writes them. */
#include "gguf_writer.h"

#include <stdio.h>
#include <string.h>

#include "defs.h"

#define ROOM_FIRST ((size_t)16 << 10)

void mfi_gguf_writer_free(mfi_gguf_writer *w)
{
    mfi_free(&w->allocator, w->bytes, w->room);
    w->bytes = NULL;
    w->n = w->room = 0;
}

static bool make_room(mfi_gguf_writer *w, size_t n)
{
    size_t end, room;
    if (w->failed || !mfi_add(w->n, n, &end)) return false;
    if (end <= w->room) return true;
    if (!mfi_mul(end, 2, &room)) return false;
    room = mfi_max(room, ROOM_FIRST);
    unsigned char *bytes = mfi_alloc(&w->allocator, room);
    if (!bytes) return false;
    if (w->n > 0) memcpy(bytes, w->bytes, w->n);
    mfi_free(&w->allocator, w->bytes, w->room);
    w->bytes = bytes;
    w->room = room;
    return true;
}

void mfi_gguf_put(mfi_gguf_writer *w, const void *data, size_t n)
{
    if (!make_room(w, n)) {
        w->failed = true;
        return;
    }
    if (n > 0) memcpy(w->bytes + w->n, data, n);
    w->n += n;
}

void mfi_gguf_put_number(mfi_gguf_writer *w, uint64_t value, size_t n)
{
    unsigned char bytes[8];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(value >> (8 * i));
    mfi_gguf_put(w, bytes, n);
}

void mfi_gguf_put_f32(mfi_gguf_writer *w, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    mfi_gguf_put_number(w, bits, 4);
}

void mfi_gguf_put_string(mfi_gguf_writer *w, const char *text, size_t n)
{
    mfi_gguf_put_number(w, n, 8);
    mfi_gguf_put(w, text, n);
}

void mfi_gguf_put_key(mfi_gguf_writer *w, const char *key, mfi_gguf_type type)
{
    char name[128];
    const char *mark = strstr(key, "%s");
    if (mark)
        snprintf(name, sizeof name, "%.*s%s%s", (int)(mark - key), key, w->architecture, mark + 2);
    else
        snprintf(name, sizeof name, "%s", key);
    mfi_gguf_put_string(w, name, strlen(name));
    mfi_gguf_put_number(w, type, 4);
    w->n_key++;
}

void mfi_gguf_put_list(mfi_gguf_writer *w, const char *key, mfi_gguf_type type, uint64_t count)
{
    mfi_gguf_put_key(w, key, MFI_GGUF_LIST);
    mfi_gguf_put_number(w, type, 4);
    mfi_gguf_put_number(w, count, 8);
}

void mfi_gguf_key_u32(mfi_gguf_writer *w, const char *key, uint32_t value)
{
    mfi_gguf_put_key(w, key, MFI_GGUF_U32);
    mfi_gguf_put_number(w, value, 4);
}

void mfi_gguf_key_f32(mfi_gguf_writer *w, const char *key, float value)
{
    mfi_gguf_put_key(w, key, MFI_GGUF_F32);
    mfi_gguf_put_f32(w, value);
}

void mfi_gguf_key_truth(mfi_gguf_writer *w, const char *key, bool value)
{
    mfi_gguf_put_key(w, key, MFI_GGUF_TRUTH);
    mfi_gguf_put_number(w, value, 1);
}

void mfi_gguf_key_string(mfi_gguf_writer *w, const char *key, const char *text)
{
    mfi_gguf_put_key(w, key, MFI_GGUF_STRING);
    mfi_gguf_put_string(w, text, strlen(text));
}
