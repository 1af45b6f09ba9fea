/* gguf_metadata.c - values of a GGUF header by key. The reader proved that they lie inside it. */
#include <string.h>

#include "defs.h"
#include "tensor_list.h"

size_t mfi_gguf_type_bytes(uint32_t type)
{
    static const size_t bytes[] = { [MFI_GGUF_U8] = 1,  [MFI_GGUF_I8] = 1,    [MFI_GGUF_U16] = 2, [MFI_GGUF_I16] = 2,
                                    [MFI_GGUF_U32] = 4, [MFI_GGUF_I32] = 4,   [MFI_GGUF_F32] = 4, [MFI_GGUF_U64] = 8,
                                    [MFI_GGUF_I64] = 8, [MFI_GGUF_TRUTH] = 1, [MFI_GGUF_F64] = 8 };
    return type < MFI_COUNT(bytes) ? bytes[type] : 0;
}

uint64_t mfi_gguf_load(const unsigned char *at, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << 8 * i;
    return value;
}

int mfi_gguf_key_compare(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    const int order = memcmp(a, b, mfi_min(a_bytes, b_bytes));
    if (order != 0) return order;
    return a_bytes == b_bytes ? 0 : a_bytes < b_bytes ? -1 : 1;
}

const mfi_gguf_value *mfi_gguf_find(const mfi_gguf_header *header, const char *key)
{
    size_t from = 0, to = header->n_value;
    while (from < to) {
        const size_t middle = from + (to - from) / 2;
        const mfi_gguf_value *value = &header->value[middle];
        const int order = mfi_gguf_key_compare(key, strlen(key), value->key, value->key_bytes);
        if (order == 0) return value;
        if (order < 0) {
            to = middle;
        } else {
            from = middle + 1;
        }
    }
    return NULL;
}

void mfi_gguf_header_free(mfi_gguf_header *header, const mf_allocator *allocator)
{
    mfi_free(allocator, header->value, header->n_value * sizeof *header->value);
    mfi_free(allocator, header->bytes, header->room);
    *header = (mfi_gguf_header){ 0 };
}

/* ---- Numbers ---- */

static bool is_signed(uint32_t type)
{
    return type == MFI_GGUF_I8 || type == MFI_GGUF_I16 || type == MFI_GGUF_I32 || type == MFI_GGUF_I64;
}

static bool is_real(uint32_t type)
{
    return type == MFI_GGUF_F32 || type == MFI_GGUF_F64;
}

static bool is_number(uint32_t type)
{
    return type <= MFI_GGUF_F32 || type >= MFI_GGUF_U64;
}

static int64_t load_signed(uint32_t type, const unsigned char *at)
{
    const size_t unused = 64 - 8 * mfi_gguf_type_bytes(type);
    const uint64_t value = mfi_gguf_load(at, mfi_gguf_type_bytes(type)), sign = (uint64_t)1 << (63 - unused);
    return (int64_t)((value ^ sign) - sign);
}

/* Any number, and a truth value as 0 or 1. */
static double load_f64(uint32_t type, const unsigned char *at)
{
    float single;
    double value;
    if (is_signed(type)) return (double)load_signed(type, at);
    if (!is_real(type)) return (double)mfi_gguf_load(at, mfi_gguf_type_bytes(type));
    if (type == MFI_GGUF_F32) {
        memcpy(&single, at, sizeof single);
        return single;
    }
    memcpy(&value, at, sizeof value);
    return value;
}

bool mfi_gguf_value_u64(const mfi_gguf_value *value, uint64_t *out)
{
    if (value->is_list || !is_number(value->type)) return false;
    if (!is_real(value->type)) {
        *out = is_signed(value->type) ? (uint64_t)load_signed(value->type, value->at)
                                      : mfi_gguf_load(value->at, mfi_gguf_type_bytes(value->type));
        return !is_signed(value->type) || load_signed(value->type, value->at) >= 0;
    }
    const double real = load_f64(value->type, value->at);
    if (!(real >= 0 && real < 0x1p64)) return false;
    *out = (uint64_t)real;
    return (double)*out == real;
}

/* ---- For the header ---- */

/* NULL where the key is missing or not a list, or a list where none is wanted. */
static const mfi_gguf_value *find(const mfi_tensor_file *file, const char *key, bool is_list)
{
    const mfi_gguf_value *value = mfi_gguf_find(&file->gguf, key);
    return value && value->is_list == is_list ? value : NULL;
}

bool mfi_gguf_has(const mfi_tensor_file *file, const char *key)
{
    return mfi_gguf_find(&file->gguf, key) != NULL;
}

bool mfi_gguf_u64(const mfi_tensor_file *file, const char *key, uint64_t *value)
{
    const mfi_gguf_value *found = find(file, key, false);
    uint64_t number;
    if (!found || !mfi_gguf_value_u64(found, &number)) return false;
    *value = number;
    return true;
}

bool mfi_gguf_f64(const mfi_tensor_file *file, const char *key, double *value)
{
    const mfi_gguf_value *found = find(file, key, false);
    if (!found || !is_number(found->type)) return false;
    *value = load_f64(found->type, found->at);
    return true;
}

bool mfi_gguf_bool(const mfi_tensor_file *file, const char *key, bool *value)
{
    const mfi_gguf_value *found = find(file, key, false);
    if (!found || found->type != MFI_GGUF_TRUTH) return false;
    *value = *found->at != 0;
    return true;
}

/* The text at *at, which moves on to the one after it. */
static mfi_gguf_text next_text(const unsigned char **at)
{
    const mfi_gguf_text text = { (const char *)*at + 8, (size_t)mfi_gguf_load(*at, 8) };
    *at += 8 + text.bytes;
    return text;
}

bool mfi_gguf_text_of(const mfi_tensor_file *file, const char *key, mfi_gguf_text *value)
{
    const mfi_gguf_value *found = find(file, key, false);
    if (!found || found->type != MFI_GGUF_STRING) return false;
    const unsigned char *at = found->at;
    *value = next_text(&at);
    return true;
}

static mfi_gguf_kind kind_of(uint32_t type)
{
    if (type == MFI_GGUF_STRING) return MFI_GGUF_TEXT;
    if (type == MFI_GGUF_TRUTH) return MFI_GGUF_BOOL;
    return is_real(type) ? MFI_GGUF_REAL : MFI_GGUF_INTEGER;
}

bool mfi_gguf_array(const mfi_tensor_file *file, const char *key, mfi_gguf_kind *kind, uint64_t *count)
{
    const mfi_gguf_value *found = find(file, key, true);
    if (!found) return false;
    *kind = kind_of(found->type);
    *count = found->count;
    return true;
}

bool mfi_gguf_array_f64(const mfi_tensor_file *file, const char *key, double *values, size_t capacity)
{
    const mfi_gguf_value *found = find(file, key, true);
    if (!found || found->type == MFI_GGUF_STRING || found->count > capacity) return false;
    for (size_t i = 0; i < found->count; i++)
        values[i] = load_f64(found->type, found->at + i * mfi_gguf_type_bytes(found->type));
    return true;
}

bool mfi_gguf_array_texts(const mfi_tensor_file *file, const char *key,
                          int (*visit)(void *user, uint64_t index, mfi_gguf_text text), void *user)
{
    const mfi_gguf_value *found = find(file, key, true);
    if (!found || found->type != MFI_GGUF_STRING) return false;
    const unsigned char *at = found->at;
    for (uint64_t i = 0; i < found->count; i++)
        if (visit(user, i, next_text(&at)) != 0) break;
    return true;
}

bool mfi_gguf_key_at(const mfi_tensor_file *file, uint32_t index, mfi_gguf_text *key, mfi_gguf_kind *kind)
{
    if (index >= file->gguf.n_value) return false;
    const mfi_gguf_value *value = &file->gguf.value[index];
    *key = (mfi_gguf_text){ value->key, value->key_bytes };
    *kind = value->is_list ? MFI_GGUF_ARRAY : kind_of(value->type);
    return true;
}
