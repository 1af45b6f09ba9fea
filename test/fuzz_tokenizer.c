/* fuzz_tokenizer.c - libFuzzer target: any bytes as a tokenizer.json, a tokenizer.model or a stored tokenizer; what
 * loads then encodes and decodes. corpus/tokenizer has small ones to begin with. */
#define _POSIX_C_SOURCE 200809L
#include <string.h>

#include "hostile.h"
#include "tokenizer.h"
#include "tokenizer_import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Whatever the text becomes, it is tokens. */
static void use(const mfi_tokenizer *t, const char *text, size_t bytes)
{
    enum { ROOM = 4096 };
    static int32_t tokens[ROOM];
    static char back[ROOM];
    size_t n_token, n_back;
    for (unsigned how = 0; how < 4; how++) {
        const mf_status status = mfi_tokenizer_encode(t, text, bytes, how, tokens, ROOM, &n_token);
        if (status == MF_E_NOMEM) continue;
        if ((status == MF_OK) != (n_token <= ROOM)) hostile_stop("a number of tokens that does not agree");
        if (mfi_tokenizer_decode(t, tokens, n_token < ROOM ? n_token : ROOM, back, ROOM, &n_back) == MF_E_RANGE)
            hostile_stop("a token that is none");
    }
}

static void try_blob(const mf_allocator *allocator, const void *blob, size_t bytes, const uint8_t *text, size_t n)
{
    mf_error error = MF_ERROR_INIT;
    mfi_tokenizer *t = NULL;
    const mf_status status = mfi_tokenizer_load(&t, allocator, blob, bytes, &error);
    if ((status == MF_OK) != (t != NULL) || (status != MF_OK) != (error.detail[0] != 0))
        hostile_stop("a status, an error and a tokenizer that do not agree");
    if (!t) return;
    use(t, (const char *)text, n);
    use(t, "The bell\r\n\n  isn't <s> \xe6\x97\xa5 e\xcc\x81 \xff 1234", 36);
    mfi_tokenizer_free(t);
}

typedef mf_status importer(void **blob, size_t *bytes, const mf_allocator *allocator, const char *name,
                           const char *text, size_t text_bytes, mf_error *error);

static mf_status from_spm(void **blob, size_t *bytes, const mf_allocator *allocator, const char *name, const char *text,
                          size_t text_bytes, mf_error *error)
{
    return mfi_tokenizer_from_spm(blob, bytes, allocator, name, text, text_bytes, error);
}

static void try_import(importer *import, const mf_allocator *allocator, const uint8_t *data, size_t bytes)
{
    mf_error error = MF_ERROR_INIT;
    void *blob = NULL;
    size_t blob_bytes = 0;
    const mf_status status = import(&blob, &blob_bytes, allocator, "fuzz", (const char *)data, bytes, &error);
    if ((status == MF_OK) != (blob != NULL) || (status != MF_OK) != (error.detail[0] != 0))
        hostile_stop("a status, an error and a blob that do not agree");
    if (!blob) return;
    try_blob(allocator, blob, blob_bytes, data, bytes < 2048 ? bytes : 2048);
    mfi_free(allocator, blob, blob_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    /* A vocabulary with gaps may name its last token alone: 2^20 entries of some 100 bytes. */
    hostile_memory memory = { 0, ((size_t)256 << 20) + 1000 * bytes };
    const mf_allocator allocator = { hostile_alloc, hostile_free, &memory };
    static const uint8_t none[1];
    if (!data) data = none;
    if (bytes > 0 && data[0] == '{')
        try_import(mfi_tokenizer_from_json, &allocator, data, bytes);
    else if (bytes > 4 && memcmp(data, "MFTK", 4) == 0)
        try_blob(&allocator, data, bytes, data, bytes < 2048 ? bytes : 2048);
    else
        try_import(from_spm, &allocator, data, bytes);
    if (memory.live_bytes != 0) hostile_stop("a leak");
    return 0;
}
