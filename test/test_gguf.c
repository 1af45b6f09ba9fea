/* test_gguf.c - GGUF files give their tensors and metadata, and no damage to them anything but a sentence. */
#define _GNU_SOURCE
#include "tensor_fixture.h"

#include <math.h>

#include "gguf_header.h"

#define FILE_NAME "model.gguf"

/* Types of tensors, as the file numbers them. */
enum { F32 = 0, F16 = 1, Q8_0 = 8, I8 = 24 };

static folder folder_of(bytes b)
{
    folder f = folder_make();
    folder_put(&f, FILE_NAME, b);
    return f;
}

/* ---- Metadata ---- */

static bytes every_value(void)
{
    bytes b = { NULL, 0, 0 };
    emit(&b, "Gkb", 0ull, 22ull, "u8", MFI_GGUF_U8, 200u);
    emit(&b, "kb", "i8", MFI_GGUF_I8, 0x80u);
    emit(&b, "kbb", "u16", MFI_GGUF_U16, 0xffu, 0xffu);
    emit(&b, "kbb", "i16", MFI_GGUF_I16, 0xfeu, 0xffu);
    emit(&b, "ki", "u32", MFI_GGUF_U32, UINT32_MAX);
    emit(&b, "ki", "i32", MFI_GGUF_I32, 5u);
    emit(&b, "kq", "u64", MFI_GGUF_U64, 0xffffffffffffffffull);
    emit(&b, "kq", "i64", MFI_GGUF_I64, 0x8000000000000000ull);
    emit(&b, "kf", "f32", MFI_GGUF_F32, 15.0);
    emit(&b, "kf", "f32.fraction", MFI_GGUF_F32, 0.5);
    emit(&b, "kf", "f32.infinite", MFI_GGUF_F32, -INFINITY);
    emit(&b, "kd", "f64", MFI_GGUF_F64, 0x1p63);
    emit(&b, "kd", "f64.large", MFI_GGUF_F64, 0x1p64);
    emit(&b, "kb", "yes", MFI_GGUF_TRUTH, 1u);
    emit(&b, "kb", "no", MFI_GGUF_TRUTH, 0u);
    emit(&b, "ks", "text", MFI_GGUF_STRING, "any \xff bytes");
    emit(&b, "ks", "text.empty", MFI_GGUF_STRING, "");
    emit(&b, "kiqii", "list.i32", MFI_GGUF_LIST, MFI_GGUF_I32, 2ull, 7u, UINT32_MAX);
    emit(&b, "kiqff", "list.f32", MFI_GGUF_LIST, MFI_GGUF_F32, 2ull, 1.5, -INFINITY);
    emit(&b, "kiqbbb", "list.bool", MFI_GGUF_LIST, MFI_GGUF_TRUTH, 3ull, 1u, 0u, 1u);
    emit(&b, "kiqsss", "list.text", MFI_GGUF_LIST, MFI_GGUF_STRING, 3ull, "a", "", "ccc");
    emit(&b, "kiq", "list.empty", MFI_GGUF_LIST, MFI_GGUF_U8, 0ull);
    return b;
}

static mfi_tensor_file *open_every_value(void)
{
    folder f = folder_of(every_value());
    mfi_tensor_file *file = open_good(mfi_gguf_open, folder_file(&f, FILE_NAME));
    folder_remove(&f);
    return file;
}

static void expect_number(const mfi_tensor_file *file, const char *key, double expected, bool is_count)
{
    uint64_t count = 77;
    double real = 0;
    cr_assert(mfi_gguf_f64(file, key, &real) && real == expected, "%s: %g", key, real);
    cr_assert_eq(mfi_gguf_u64(file, key, &count), is_count, "%s", key);
    cr_assert_eq(count, is_count ? (uint64_t)expected : 77, "%s", key);
}

Test(gguf, numbers_come_in_any_width)
{
    mfi_tensor_file *file = open_every_value();
    uint64_t count;
    expect_number(file, "u8", 200, true);
    expect_number(file, "i8", -128, false);
    expect_number(file, "u16", 65535, true);
    expect_number(file, "i16", -2, false);
    expect_number(file, "u32", UINT32_MAX, true);
    expect_number(file, "i32", 5, true);
    expect_number(file, "i64", -0x1p63, false);
    expect_number(file, "f32", 15, true);
    expect_number(file, "f32.fraction", 0.5, false);
    expect_number(file, "f32.infinite", -INFINITY, false);
    expect_number(file, "f64", 0x1p63, true);
    expect_number(file, "f64.large", 0x1p64, false);
    cr_assert(mfi_gguf_u64(file, "u64", &count) && count == UINT64_MAX);
    mfi_tensor_file_close(file);
}

Test(gguf, values_of_another_kind_or_none_are_not_there)
{
    mfi_tensor_file *file = open_every_value();
    uint64_t count;
    double real;
    bool truth;
    mfi_gguf_text text;
    mfi_gguf_kind kind;
    cr_assert_not(mfi_gguf_u64(file, "yes", &count));
    cr_assert_not(mfi_gguf_u64(file, "text", &count));
    cr_assert_not(mfi_gguf_u64(file, "list.i32", &count));
    cr_assert_not(mfi_gguf_u64(file, "u", &count));
    cr_assert_not(mfi_gguf_u64(file, "u88", &count));
    cr_assert_not(mfi_gguf_f64(file, "no", &real));
    cr_assert_not(mfi_gguf_f64(file, "text", &real));
    cr_assert_not(mfi_gguf_bool(file, "u8", &truth));
    cr_assert_not(mfi_gguf_bool(file, "list.bool", &truth));
    cr_assert_not(mfi_gguf_text_of(file, "list.text", &text));
    cr_assert_not(mfi_gguf_text_of(file, "absent", &text));
    cr_assert_not(mfi_gguf_array(file, "u8", &kind, &count));
    cr_assert_not(mfi_gguf_array_f64(file, "list.text", &real, 1));
    cr_assert_not(mfi_gguf_array_f64(file, "list.i32", &real, 1), "more than there is room for");
    cr_assert_not(mfi_gguf_array_texts(file, "list.i32", NULL, NULL));
    mfi_tensor_file_close(file);
}

static int join(void *user, uint64_t index, mfi_gguf_text text)
{
    char *out = user;
    sprintf(out + strlen(out), "%llu=%.*s;", (unsigned long long)index, (int)text.bytes, text.at);
    return index == 1 && strlen(out) > 10;
}

Test(gguf, truths_texts_and_lists_are_read)
{
    mfi_tensor_file *file = open_every_value();
    bool truth;
    mfi_gguf_text text;
    mfi_gguf_kind kind;
    uint64_t count;
    double values[3];
    char joined[64] = "";
    cr_assert(mfi_gguf_bool(file, "yes", &truth) && truth);
    cr_assert(mfi_gguf_bool(file, "no", &truth) && !truth);
    cr_assert(mfi_gguf_text_of(file, "text", &text) && text.bytes == 11 && memcmp(text.at, "any \xff bytes", 11) == 0);
    cr_assert(mfi_gguf_text_of(file, "text.empty", &text) && text.bytes == 0);
    cr_assert(mfi_gguf_array(file, "list.i32", &kind, &count) && kind == MFI_GGUF_INTEGER && count == 2);
    cr_assert(mfi_gguf_array_f64(file, "list.i32", values, 3) && values[0] == 7 && values[1] == -1);
    cr_assert(mfi_gguf_array(file, "list.f32", &kind, &count) && kind == MFI_GGUF_REAL && count == 2);
    cr_assert(mfi_gguf_array_f64(file, "list.f32", values, 2) && values[0] == 1.5 && values[1] == -INFINITY);
    cr_assert(mfi_gguf_array(file, "list.bool", &kind, &count) && kind == MFI_GGUF_BOOL && count == 3);
    cr_assert(mfi_gguf_array_f64(file, "list.bool", values, 3) && values[0] == 1 && values[1] == 0 && values[2] == 1);
    cr_assert(mfi_gguf_array(file, "list.empty", &kind, &count) && kind == MFI_GGUF_INTEGER && count == 0);
    cr_assert(mfi_gguf_array(file, "list.text", &kind, &count) && kind == MFI_GGUF_TEXT && count == 3);
    cr_assert(mfi_gguf_array_texts(file, "list.text", join, joined));
    cr_assert_str_eq(joined, "0=a;1=;2=ccc;");
    cr_assert(mfi_gguf_array_texts(file, "list.text", join, joined), "which stops after the second");
    cr_assert_str_eq(joined, "0=a;1=;2=ccc;0=a;1=;");
    mfi_tensor_file_close(file);
}

Test(gguf, keys_are_listed_in_order)
{
    mfi_tensor_file *file = open_every_value();
    mfi_gguf_text before = { "", 0 }, key;
    mfi_gguf_kind kind;
    uint32_t n = 0;
    for (; mfi_gguf_key_at(file, n, &key, &kind); before = key, n++) {
        cr_assert_lt(mfi_gguf_key_compare(before.at, before.bytes, key.at, key.bytes), 0);
        cr_assert_eq(kind == MFI_GGUF_ARRAY, memcmp(key.at, "list", 4) == 0);
    }
    cr_assert_eq(n, 22);
    mfi_tensor_file_close(file);
}

/* A list longer than what is read at first, so that the bytes move while they are read. */
Test(gguf, long_metadata_is_read_whole)
{
    enum { COUNT = 30000 };
    bytes b = { NULL, 0, 0 };
    char name[32];
    emit(&b, "Gkiq", 0ull, 2ull, "tokens", MFI_GGUF_LIST, MFI_GGUF_STRING, (unsigned long long)COUNT);
    for (int i = 0; i < COUNT; i++) {
        snprintf(name, sizeof name, "token %d", i);
        emit(&b, "s", name);
    }
    emit(&b, "ks", "a.later.key", MFI_GGUF_STRING, "value");
    folder f = folder_of(b);
    mfi_tensor_file *file = open_good(mfi_gguf_open, folder_file(&f, FILE_NAME));
    mfi_gguf_text text;
    mfi_gguf_kind kind;
    uint64_t count;
    cr_assert(mfi_gguf_text_of(file, "a.later.key", &text) && text.bytes == 5 && memcmp(text.at, "value", 5) == 0);
    cr_assert(mfi_gguf_array(file, "tokens", &kind, &count) && count == COUNT);
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

/* ---- Tensors ---- */

typedef struct type {
    const char *name;
    unsigned id, block, bytes;
    mfi_source_type type;
} type;

static const type types[] = {
    { "F32", 0, 1, 4, MFI_SOURCE_F32 },        { "F16", 1, 1, 2, MFI_SOURCE_F16 },
    { "Q4_0", 2, 32, 18, MFI_SOURCE_Q4_0 },    { "Q4_1", 3, 32, 20, MFI_SOURCE_Q4_1 },
    { "Q5_0", 6, 32, 22, MFI_SOURCE_Q5_0 },    { "Q5_1", 7, 32, 24, MFI_SOURCE_Q5_1 },
    { "Q8_0", 8, 32, 34, MFI_SOURCE_Q8_0 },    { "Q4_K", 12, 256, 144, MFI_SOURCE_Q4_K },
    { "Q5_K", 13, 256, 176, MFI_SOURCE_Q5_K }, { "Q6_K", 14, 256, 210, MFI_SOURCE_Q6_K },
    { "I32", 26, 1, 4, MFI_SOURCE_OTHER },     { "F64", 28, 1, 8, MFI_SOURCE_F64 },
    { "BF16", 30, 1, 2, MFI_SOURCE_BF16 },     { "IQ4_NL", 20, 32, 18, MFI_SOURCE_OTHER },
};
#define N_TYPE (sizeof types / sizeof *types)

/* A matrix of 2 x 3 rows of two blocks in each type, listed and stored in this order. */
static bytes every_tensor(unsigned version, unsigned alignment)
{
    bytes b = { NULL, 0, 0 };
    unsigned long long offset = 0;
    emit(&b, "riqqki", "GGUF", version, (unsigned long long)N_TYPE, 1ull, "general.alignment", MFI_GGUF_U32, alignment);
    for (size_t i = 0; i < N_TYPE; i++) {
        emit(&b, "siqqqiq", types[i].name, 3u, 2ull * types[i].block, 3ull, 2ull, types[i].id, offset);
        offset += (12 * types[i].bytes + alignment - 1) / alignment * alignment;
    }
    for (size_t i = 0; i < N_TYPE; i++) {
        emit(&b, "z", (alignment - (unsigned)b.n % alignment) % alignment);
        put_data(&b, 12 * types[i].bytes);
    }
    return b;
}

/* The bytes of put_data(). */
static void expect_type(const mfi_tensor_file *file, const type *t)
{
    const mfi_source_tensor *tensor = mfi_tensor_file_find(file, t->name);
    unsigned char data[12 * 210], raw[12 * 210];
    float whole[12 * 256], expected[12 * 256];
    cr_assert(tensor && tensor->type == t->type && tensor->bytes == 12 * t->bytes, "%s", t->name);
    cr_assert_str_eq(tensor->type_name, t->name);
    cr_assert(tensor->n_dim == 3 && tensor->dim[0] == 2 && tensor->dim[1] == 3 && tensor->dim[2] == 2 * t->block);
    cr_assert(mfi_source_rows(tensor) == 6 && mfi_source_columns(tensor) == 2 * t->block);
    if (t->type == MFI_SOURCE_OTHER) {
        cr_assert_eq(mfi_source_read_bytes(file, tensor, 0, 6, raw, NULL), MF_E_UNSUPPORTED);
        return;
    }
    cr_assert_eq(mfi_source_row_bytes(tensor), 2 * t->bytes);
    for (size_t i = 0; i < 12 * t->bytes; i++)
        data[i] = (unsigned char)(i * 37 + 11);
    cr_assert_eq(mfi_source_read_bytes(file, tensor, 1, 5, raw, NULL), MF_OK);
    cr_assert(memcmp(raw, data + 2 * t->bytes, 10 * t->bytes) == 0);
    mfi_source_decode(t->type, data, 12, expected);
    expect_windows(file, tensor, whole);
    cr_assert(memcmp(whole, expected, 12 * t->block * sizeof *whole) == 0, "%s", t->name);
}

static void expect_every_tensor(unsigned version, unsigned alignment)
{
    folder f = folder_of(every_tensor(version, alignment));
    mfi_tensor_file *file = open_good(mfi_gguf_open, folder_file(&f, FILE_NAME));
    cr_assert_eq(mfi_tensor_file_count(file), N_TYPE);
    for (size_t i = 0; i < N_TYPE; i++)
        expect_type(file, &types[i]);
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

Test(gguf, tensors_of_every_type_are_read)
{
    expect_every_tensor(3, 32);
}

Test(gguf, version_2_and_other_alignments_are_read)
{
    expect_every_tensor(2, 32);
    expect_every_tensor(3, 8);
    expect_every_tensor(3, 4096);
}

Test(gguf, tensors_without_dimensions_or_elements_are_read)
{
    bytes b = { NULL, 0, 0 };
    emit(&b, "Gsiiqsiqqiqaf", 2ull, 0ull, "scalar", 0u, F32, 0ull, "void", 2u, 0ull, 9ull, F32, 32ull, 2.5);
    emit(&b, "z", 28u);
    folder f = folder_of(b);
    mfi_tensor_file *file = open_good(mfi_gguf_open, folder_file(&f, FILE_NAME));
    float value;
    unsigned char scratch[4];
    const mfi_source_tensor *scalar = mfi_tensor_file_find(file, "scalar");
    cr_assert_eq(mfi_source_read(file, scalar, 0, 1, 0, 1, &value, scratch, NULL), MF_OK);
    cr_assert_eq(value, 2.5f);
    cr_assert_eq(mfi_source_rows(mfi_tensor_file_find(file, "void")), 0);
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

Test(gguf, a_file_that_shrinks_is_an_error_and_no_signal)
{
    bytes b = { NULL, 0, 0 };
    emit(&b, "Gtaz", 1ull, 0ull, "t", 8ull, F32, 0ull, 32u);
    folder f = folder_of(b);
    mfi_tensor_file *file = open_good(mfi_gguf_open, folder_file(&f, FILE_NAME));
    expect_shrinking_is_an_error(file, folder_file(&f, FILE_NAME));
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

/* ---- Many files ---- */

/* File `index` of `count` has a tensor "t<index>" of index + 1 elements. */
static bytes split_part(unsigned index, unsigned count, unsigned n_tensor)
{
    char name[16];
    bytes b = { NULL, 0, 0 };
    snprintf(name, sizeof name, "t%u", index);
    emit(&b, "Gkbb", 1ull, 3ull, "split.no", MFI_GGUF_U16, index, 0u);
    emit(&b, "kbbki", "split.count", MFI_GGUF_U16, count, 0u, "split.tensors.count", MFI_GGUF_I32, n_tensor);
    emit(&b, "taz", name, index + 1ull, I8, 0ull, index + 1);
    return b;
}

static folder split_folder(void)
{
    folder f = folder_make();
    folder_put(&f, "m-00001-of-00003.gguf", split_part(0, 3, 3));
    folder_put(&f, "m-00002-of-00003.gguf", split_part(1, 3, 3));
    folder_put(&f, "m-00003-of-00003.gguf", split_part(2, 3, 3));
    return f;
}

Test(gguf, files_that_belong_together_are_one_list)
{
    folder f = split_folder();
    mfi_tensor_file *file = open_good(mfi_gguf_open, folder_file(&f, "m-00001-of-00003.gguf"));
    cr_assert_eq(mfi_tensor_file_count(file), 3);
    for (uint32_t i = 0; i < 3; i++) {
        const mfi_source_tensor *tensor = mfi_tensor_file_at(file, i);
        cr_assert(tensor->file == i && tensor->bytes == i + 1);
    }
    expect_survives_no_memory(mfi_gguf_open, folder_file(&f, "m-00001-of-00003.gguf"));
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

static void expect_split_refused(folder *f, const char *open, mf_status status, const char *name, const char *says)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", f->path, open);
    expect_refused(mfi_gguf_open, path, status, name, says);
}

Test(gguf, files_that_do_not_belong_together_are_refused)
{
    folder f = split_folder();
    expect_split_refused(&f, "m-00002-of-00003.gguf", MF_E_INVALID, "m-00002", "not the first of its 3 files");
    folder_put(&f, "other.gguf", split_part(0, 3, 3));
    expect_split_refused(&f, "other.gguf", MF_E_INVALID, "other.gguf", "must be called *-00001-of-00003.gguf");
    folder_put(&f, "m-00001-of-00003.gguf", split_part(0, 3, 4));
    expect_split_refused(&f, "m-00001-of-00003.gguf", MF_E_FORMAT, "m-00001", "have 3 tensors, and should have 4");
    folder_put(&f, "m-00001-of-00003.gguf", split_part(0, 3, 0));
    folder_put(&f, "m-00002-of-00003.gguf", split_part(2, 3, 3));
    expect_split_refused(&f, "m-00001-of-00003.gguf", MF_E_FORMAT, "m-00002", "another part than its name");
    folder_put(&f, "m-00002-of-00003.gguf", split_part(1, 2, 3));
    expect_split_refused(&f, "m-00001-of-00003.gguf", MF_E_FORMAT, "m-00002", "another part than its name");
    bytes b = { NULL, 0, 0 };
    emit(&b, "Gkbbkbbtaz", 1ull, 2ull, "split.no", MFI_GGUF_U16, 1u, 0u, "split.count", MFI_GGUF_U16, 3u, 0u, "t0",
         2ull, I8, 0ull, 2u);
    folder_put(&f, "m-00002-of-00003.gguf", b);
    expect_split_refused(&f, "m-00001-of-00003.gguf", MF_E_FORMAT, "m-0000", "tensor t0 is there twice");
    unlink(folder_file(&f, "m-00002-of-00003.gguf"));
    expect_split_refused(&f, "m-00001-of-00003.gguf", MF_E_NOT_FOUND, "m-00002", "fetch all files");
    folder_remove(&f);
}

/* ---- Damage ---- */

#define EXPECT_REFUSED(status, says, ...)                              \
    do {                                                               \
        bytes damaged_ = { NULL, 0, 0 };                               \
        emit(&damaged_, __VA_ARGS__);                                  \
        folder folder_ = folder_of(damaged_);                          \
        const char *path_ = folder_file(&folder_, FILE_NAME);          \
        expect_refused(mfi_gguf_open, path_, status, FILE_NAME, says); \
        folder_remove(&folder_);                                       \
    } while (0)

Test(gguf, damaged_headers_are_refused)
{
    EXPECT_REFUSED(MF_E_FORMAT, "ends after the file does; fetch the rest", "");
    EXPECT_REFUSED(MF_E_FORMAT, "not a GGUF file", "riqq", "GGML", 3u, 0ull, 0ull);
    EXPECT_REFUSED(MF_E_FORMAT, "not a GGUF file", "riqq", "gguf", 3u, 0ull, 0ull);
    EXPECT_REFUSED(MF_E_UNSUPPORTED, "big-endian", "riqq", "GGUF", 3u << 24, 0ull, 0ull);
    EXPECT_REFUSED(MF_E_UNSUPPORTED, "big-endian", "riqq", "GGUF", 0u, 0ull, 0ull);
    EXPECT_REFUSED(MF_E_UNSUPPORTED, "version 1", "riqq", "GGUF", 1u, 0ull, 0ull);
    EXPECT_REFUSED(MF_E_UNSUPPORTED, "version that is not known", "riqq", "GGUF", 4u, 0ull, 0ull);
    EXPECT_REFUSED(MF_E_FORMAT, "metadata says that there are more", "G", 0ull, 1ull);
    EXPECT_REFUSED(MF_E_FORMAT, "metadata says that there are more", "G", 0ull, ~0ull);
    EXPECT_REFUSED(MF_E_FORMAT, "metadata says that there are more", "Gz", 0ull, 8ull, 100u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensors says that there are more", "G", 1ull, 0ull);
    EXPECT_REFUSED(MF_E_FORMAT, "tensors says that there are more", "G", ~0ull, 0ull);
    EXPECT_REFUSED(MF_E_FORMAT, "tensors says that there are more", "Gz", 1ull << 58, 0ull, 1000u);
}

Test(gguf, damaged_metadata_is_refused)
{
    EXPECT_REFUSED(MF_E_FORMAT, "key that is empty", "Gkq", 0ull, 1ull, "", MFI_GGUF_U64, 1ull);
    EXPECT_REFUSED(MF_E_FORMAT, "printable ASCII", "Gkq", 0ull, 1ull, "a key", MFI_GGUF_U64, 1ull);
    EXPECT_REFUSED(MF_E_FORMAT, "printable ASCII", "Gkq", 0ull, 1ull, "caf\xc3\xa9", MFI_GGUF_U64, 1ull);
    EXPECT_REFUSED(MF_E_FORMAT, "more than 65535 bytes", "Gqz", 0ull, 1ull, 65536ull, 100u);
    EXPECT_REFUSED(MF_E_FORMAT, "more than 65535 bytes", "Gqz", 0ull, 1ull, ~0ull, 100u);
    EXPECT_REFUSED(MF_E_FORMAT, "fetch the rest", "Gqz", 0ull, 1ull, 65535ull, 100u);
    EXPECT_REFUSED(MF_E_FORMAT, "key twin is there twice", "Gkbkb", 0ull, 2ull, "twin", MFI_GGUF_U8, 1u, "twin",
                   MFI_GGUF_I8, 1u);
    EXPECT_REFUSED(MF_E_UNSUPPORTED, "a type that is not known", "Gkq", 0ull, 1ull, "k", 13u, 0ull);
    EXPECT_REFUSED(MF_E_UNSUPPORTED, "a type that is not known", "Gkq", 0ull, 1ull, "k", ~0u, 0ull);
    EXPECT_REFUSED(MF_E_UNSUPPORTED, "a type that is not known", "Gkiq", 0ull, 1ull, "k", MFI_GGUF_LIST, 99u, 0ull);
    EXPECT_REFUSED(MF_E_UNSUPPORTED, "list of lists", "Gkiqiq", 0ull, 1ull, "k", MFI_GGUF_LIST, MFI_GGUF_LIST, 1ull,
                   MFI_GGUF_U8, 0ull);
    EXPECT_REFUSED(MF_E_FORMAT, "truth value", "Gkbz", 0ull, 1ull, "k", MFI_GGUF_TRUTH, 2u, 8u);
    EXPECT_REFUSED(MF_E_FORMAT, "truth value", "Gkiqbb", 0ull, 1ull, "k", MFI_GGUF_LIST, MFI_GGUF_TRUTH, 2ull, 1u,
                   255u);
    EXPECT_REFUSED(MF_E_FORMAT, "fetch the rest", "Gkqz", 0ull, 1ull, "k", MFI_GGUF_STRING, ~0ull, 8u);
    EXPECT_REFUSED(MF_E_FORMAT, "fetch the rest", "Gkqz", 0ull, 1ull, "k", MFI_GGUF_STRING, 9ull, 8u);
    EXPECT_REFUSED(MF_E_FORMAT, "fetch the rest", "Gkiqz", 0ull, 1ull, "k", MFI_GGUF_LIST, MFI_GGUF_U16, 5ull, 9u);
    EXPECT_REFUSED(MF_E_FORMAT, "longer than any file", "Gkiqz", 0ull, 1ull, "k", MFI_GGUF_LIST, MFI_GGUF_U64,
                   1ull << 61, 9u);
    EXPECT_REFUSED(MF_E_FORMAT, "says that there are more", "Gkiqz", 0ull, 1ull, "k", MFI_GGUF_LIST, MFI_GGUF_STRING,
                   2ull, 9u);
    EXPECT_REFUSED(MF_E_FORMAT, "says that there are more", "Gkiqz", 0ull, 1ull, "k", MFI_GGUF_LIST, MFI_GGUF_STRING,
                   ~0ull, 9u);
    EXPECT_REFUSED(MF_E_FORMAT, "fetch the rest", "Gkiqqq", 0ull, 1ull, "k", MFI_GGUF_LIST, MFI_GGUF_STRING, 2ull, 1ull,
                   1ull);
    static const unsigned alignments[] = { 0, 1, 4, 24, 33, ~0u };
    for (size_t i = 0; i < sizeof alignments / sizeof *alignments; i++)
        EXPECT_REFUSED(MF_E_FORMAT, "general.alignment", "Gki", 0ull, 1ull, "general.alignment", MFI_GGUF_U32,
                       alignments[i]);
    EXPECT_REFUSED(MF_E_FORMAT, "general.alignment", "Gks", 0ull, 1ull, "general.alignment", MFI_GGUF_STRING, "32");
    EXPECT_REFUSED(MF_E_FORMAT, "general.alignment", "Gkq", 0ull, 1ull, "general.alignment", MFI_GGUF_U64, 1ull << 63);
}

Test(gguf, damaged_lists_of_tensors_are_refused)
{
    EXPECT_REFUSED(MF_E_FORMAT, "name that is empty", "Gtaz", 1ull, 0ull, "", 8ull, F32, 0ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "printable ASCII", "Gtaz", 1ull, 0ull, "a\n", 8ull, F32, 0ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "64 bytes or more", "Gtaz", 1ull, 0ull,
                   "0123456789012345678901234567890123456789012345678901234567890123", 8ull, F32, 0ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "64 bytes or more", "Gqz", 1ull, 0ull, ~0ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor t: it has more than 4 dimensions", "Gsiz", 1ull, 0ull, "t", 5u, 100u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor t: it has more than 4 dimensions", "Gsiz", 1ull, 0ull, "t", ~0u, 100u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor twin is there twice", "Gttaz", 2ull, 0ull, "twin", 8ull, F32, 0ull, "twin",
                   8ull, F32, 32ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor t: its rows are not whole blocks", "Gtaz", 1ull, 0ull, "t", 33ull, Q8_0, 0ull,
                   64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor t: its rows are not whole blocks", "Gsiiqaz", 1ull, 0ull, "t", 0u, Q8_0, 0ull,
                   64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor t: its shape is beyond 64 bits", "Gtaz", 1ull, 0ull, "t", 1ull << 62, F32, 0ull,
                   64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor t: its shape is beyond 64 bits", "Gsiqqqiqaz", 1ull, 0ull, "t", 3u, 1ull << 32,
                   1ull << 31, 2ull, I8, 0ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor t: its end is beyond 64 bits", "Gtaz", 1ull, 0ull, "t", ~0ull, I8, 0ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor t: its data ends after the file does", "Gtaz", 1ull, 0ull, "t", ~0ull - 100, I8,
                   0ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor u: its end is beyond 64 bits", "Gttaz", 2ull, 0ull, "t", 1ull << 63, I8, 0ull,
                   "u", 1ull << 63, I8, 1ull << 63, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor t begins at byte 32 of the data, and the one before ends at 0", "Gtaz", 1ull,
                   0ull, "t", 8ull, F32, 32ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor u begins at byte 0 of the data, and the one before ends at 32", "Gttaz", 2ull,
                   0ull, "t", 8ull, F32, 0ull, "u", 8ull, F32, 0ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor u begins at byte 4 of the data, and the one before ends at 32", "Gttaz", 2ull,
                   0ull, "t", 1ull, F32, 0ull, "u", 8ull, F32, 4ull, 64u);
    EXPECT_REFUSED(MF_E_FORMAT, "tensor u: its data ends after the file does", "Gttaz", 2ull, 0ull, "t", 8ull, F32,
                   0ull, "u", 9ull, F32, 32ull, 64u);
    static const unsigned withdrawn[] = { 4, 5, 9, 15, 31, 32, 33, 36, 37, 38, 41, ~0u };
    for (size_t i = 0; i < sizeof withdrawn / sizeof *withdrawn; i++)
        EXPECT_REFUSED(MF_E_UNSUPPORTED, "withdrawn or not known", "Gtaz", 1ull, 0ull, "t", 256ull, withdrawn[i], 0ull,
                       64u);
}

Test(gguf, a_file_that_ends_anywhere_is_refused)
{
    folder f = folder_make();
    const char *path = folder_file(&f, FILE_NAME);
    bytes b = every_value();
    b.at[8] = 1; /* a tensor */
    emit(&b, "taz", "t", 9ull, F32, 0ull, 36u);
    for (size_t n = 0; n < b.n; n++) {
        folder_write(&f, FILE_NAME, b.at, n);
        expect_refused(mfi_gguf_open, path, MF_E_FORMAT, FILE_NAME, "");
    }
    folder_put(&f, FILE_NAME, b);
    mfi_tensor_file_close(open_good(mfi_gguf_open, path));
    folder_remove(&f);
}

Test(gguf, an_allocation_that_fails_is_a_status)
{
    folder f = folder_of(every_tensor(3, 32));
    expect_survives_no_memory(mfi_gguf_open, folder_file(&f, FILE_NAME));
    folder_remove(&f);
}

/* An empty file of a terabyte asks for no more memory than a short one. */
Test(gguf, memory_is_taken_for_what_was_read_alone)
{
    folder f = folder_make();
    bytes b = { NULL, 0, 0 };
    emit(&b, "Gkqz", 0ull, 1ull, "k", MFI_GGUF_STRING, 1ull << 39, 8u);
    folder_put(&f, FILE_NAME, b);
    if (truncate(folder_file(&f, FILE_NAME), (off_t)1 << 40) == 0)
        expect_refused(mfi_gguf_open, folder_file(&f, FILE_NAME), MF_E_FORMAT, FILE_NAME, "256 MiB");
    folder_remove(&f);
}

Test(gguf, other_files_are_refused)
{
    expect_refused(mfi_gguf_open, "/nonexistent.gguf", MF_E_NOT_FOUND, "/nonexistent.gguf", "No such file");
    expect_refused(mfi_gguf_open, "/tmp", MF_E_FORMAT, "/tmp", "not a regular file");
}
