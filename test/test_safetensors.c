/* test_safetensors.c - a folder of safetensors gives its tensors, and no damage to it anything but a sentence. */
#define _GNU_SOURCE
#include "tensor_fixture.h"

#include <sys/stat.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

static folder folder_of(const char *header, size_t data)
{
    folder f = folder_make();
    folder_put(&f, SINGLE, safetensors_of(header, data));
    return f;
}

static const mfi_source_tensor *find(const mfi_tensor_file *file, const char *name)
{
    const mfi_source_tensor *tensor = mfi_tensor_file_find(file, name);
    cr_assert_not_null(tensor, "%s", name);
    return tensor;
}

/* ---- Good files ---- */

/* Every type, and data that no element is aligned in: it begins at an odd byte, and bytes lie between. */
static const char every_type[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"z.f32\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                                 "\"flag\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[24,25]},"
                                 "\"a.f64\":{\"dtype\":\"F64\",\"shape\":[2],\"data_offsets\":[25,41]},"
                                 "\"u8\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[41,42]},"
                                 "\"b.bf16\":{\"dtype\":\"BF16\",\"shape\":[3,1,2],\"data_offsets\":[42,54]},"
                                 "\"i8\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[54,55]},"
                                 "\"b.f16\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[55,57]},"
                                 "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[57,57]},"
                                 "\"empty.rows\":{\"dtype\":\"F32\",\"shape\":[7,0],\"data_offsets\":[57,57]},"
                                 "\"f8\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[57,59]},"
                                 "\"i16\":{\"dtype\":\"I16\",\"shape\":[1],\"data_offsets\":[59,61]},"
                                 "\"u32\":{\"dtype\":\"U32\",\"shape\":[1],\"data_offsets\":[61,65]},"
                                 "\"i64\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[65,73]},"
                                 "\"c64\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[73,81]},"
                                 "\"f4\":{\"dtype\":\"F4\",\"shape\":[6],\"data_offsets\":[81,84]},"
                                 "\"conv.3d\":{\"dtype\":\"F16\",\"shape\":[1,2,1,2,1],\"data_offsets\":[84,92]},"
                                 "\"caf\\u00e9\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[92,93]}}  ";
#define EVERY_DATA 93

static float widened(const unsigned char *data, const mfi_source_tensor *tensor, size_t index)
{
    float value;
    const size_t size = mfi_source_block_bytes(tensor->type);
    mfi_source_decode(tensor->type, data + tensor->offset + index * size, 1, &value);
    return value;
}

static void expect_values(const mfi_tensor_file *file, const char *name, const unsigned char *data)
{
    const mfi_source_tensor *tensor = find(file, name);
    float whole[16];
    expect_windows(file, tensor, whole);
    for (size_t i = 0; i < mfi_source_rows(tensor) * mfi_source_columns(tensor); i++) {
        const float expected = widened(data, tensor, i);
        cr_assert(memcmp(&whole[i], &expected, sizeof expected) == 0, "%s: element %zu", name, i);
    }
}

Test(safetensors, every_type_is_listed_and_the_real_ones_are_read_wherever_they_lie)
{
    folder f = folder_of(every_type, EVERY_DATA);
    bytes image = safetensors_of(every_type, EVERY_DATA);
    mfi_tensor_file *file = open_good(mfi_safetensors_open, f.path);
    cr_assert_str_eq(mfi_tensor_file_name(file), f.path);
    cr_assert_eq(mfi_tensor_file_count(file), 17);
    for (uint32_t i = 1; i < mfi_tensor_file_count(file); i++)
        cr_assert_lt(strcmp(mfi_tensor_file_at(file, i - 1)->name, mfi_tensor_file_at(file, i)->name), 0);
    expect_values(file, "z.f32", image.at);
    expect_values(file, "a.f64", image.at);
    expect_values(file, "b.bf16", image.at);
    expect_values(file, "b.f16", image.at);
    expect_values(file, "conv.3d", image.at);
    const mfi_source_tensor *conv = find(file, "conv.3d");
    cr_assert(conv->n_dim == 5 && conv->dim[1] == 2 && conv->dim[3] == 2);
    cr_assert_eq(find(file, "b.f16")->n_dim, 0);
    cr_assert_eq(mfi_source_rows(find(file, "empty")), 0);
    cr_assert_eq(mfi_source_rows(find(file, "empty.rows")), 0);
    find(file, "caf\xc3\xa9");
    cr_assert_null(mfi_tensor_file_find(file, "absent"));
    mfi_tensor_file_close(file);
    free(image.at);
    folder_remove(&f);
}

Test(safetensors, other_types_are_refused_when_they_are_read)
{
    static const char *const other[] = { "flag", "u8", "i8", "f8", "i16", "u32", "i64", "c64", "f4" };
    folder f = folder_of(every_type, EVERY_DATA);
    mfi_tensor_file *file = open_good(mfi_safetensors_open, f.path);
    for (size_t i = 0; i < sizeof other / sizeof *other; i++) {
        mf_error error = MF_ERROR_INIT;
        float out[8];
        unsigned char scratch[64];
        const mfi_source_tensor *tensor = find(file, other[i]);
        cr_assert_eq(tensor->type, MFI_SOURCE_OTHER);
        cr_assert_eq(mfi_source_read(file, tensor, 0, 1, 0, 1, out, scratch, &error), MF_E_UNSUPPORTED);
        cr_assert(strstr(error.detail, other[i]) && strstr(error.detail, tensor->type_name), "%s", error.detail);
        cr_assert_eq(mfi_source_read_bytes(file, tensor, 0, 1, out, &error), MF_E_UNSUPPORTED);
    }
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

Test(safetensors, windows_beyond_the_tensor_are_out_of_range)
{
    folder f = folder_of(every_type, EVERY_DATA);
    mfi_tensor_file *file = open_good(mfi_safetensors_open, f.path);
    const mfi_source_tensor *tensor = find(file, "z.f32");
    float out[8];
    unsigned char scratch[64];
    cr_assert_eq(mfi_source_read(file, tensor, 2, 1, 0, 1, out, scratch, NULL), MF_E_RANGE);
    cr_assert_eq(mfi_source_read(file, tensor, UINT64_MAX, 2, 0, 1, out, scratch, NULL), MF_E_RANGE);
    cr_assert_eq(mfi_source_read(file, tensor, 0, 1, 1, 3, out, scratch, NULL), MF_E_RANGE);
    cr_assert_eq(mfi_source_read(file, tensor, 0, 1, 2, SIZE_MAX, out, scratch, NULL), MF_E_RANGE);
    cr_assert_eq(mfi_source_read_bytes(file, tensor, 1, 2, out, NULL), MF_E_RANGE);
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

/* More than scratch holds, in rows that do not divide it. */
Test(safetensors, long_tensors_are_read_in_pieces)
{
    enum { ROWS = 7, COLUMNS = 20001 };
    folder f = folder_of("{\"t\":{\"dtype\":\"F16\",\"shape\":[7,20001],\"data_offsets\":[0,280014]}}", 280014);
    mfi_tensor_file *file = open_good(mfi_safetensors_open, f.path);
    const mfi_source_tensor *tensor = find(file, "t");
    float *out = malloc(ROWS * COLUMNS * sizeof *out);
    void *scratch = malloc(mfi_source_scratch_bytes(tensor));
    unsigned char *raw = malloc(280014);
    cr_assert_eq(mfi_source_read(file, tensor, 0, ROWS, 0, COLUMNS, out, scratch, NULL), MF_OK);
    cr_assert_eq(mfi_source_read_bytes(file, tensor, 0, ROWS, raw, NULL), MF_OK);
    for (size_t i = 0; i < ROWS * COLUMNS; i++) {
        float expected;
        mfi_source_decode(MFI_SOURCE_F16, raw + 2 * i, 1, &expected);
        cr_assert(memcmp(&out[i], &expected, sizeof expected) == 0, "element %zu", i);
    }
    cr_assert_eq(raw[280013], (unsigned char)(280013 * 37 + 11));
    free(raw);
    free(scratch);
    free(out);
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

Test(safetensors, a_file_without_tensors_is_one)
{
    folder f = folder_of("{}", 0);
    mfi_tensor_file *file = open_good(mfi_safetensors_open, f.path);
    cr_assert_eq(mfi_tensor_file_count(file), 0);
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

Test(safetensors, a_file_that_shrinks_is_an_error_and_no_signal)
{
    folder f = folder_of(every_type, EVERY_DATA);
    mfi_tensor_file *file = open_good(mfi_safetensors_open, f.path);
    static const char one[] = "{\"t\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}";
    mfi_tensor_file_close(file);
    folder_put(&f, SINGLE, safetensors_of(one, 16));
    file = open_good(mfi_safetensors_open, f.path);
    expect_shrinking_is_an_error(file, folder_file(&f, SINGLE));
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

/* ---- Shards ---- */

#define ONE(name, begin, end) \
    "\"" name "\":{\"dtype\":\"U8\",\"shape\":[" #end "],\"data_offsets\":[" #begin "," #end "]}"

static folder sharded(const char *weight_map)
{
    folder f = folder_make();
    char index[512];
    snprintf(index, sizeof index, "{\"metadata\":{\"total_size\":9},\"weight_map\":%s}", weight_map);
    folder_write(&f, INDEX, index, strlen(index));
    folder_put(&f, "one.safetensors", safetensors_of("{" ONE("b", 0, 3) "}", 3));
    folder_put(&f, "two.safetensors", safetensors_of("{" ONE("a", 0, 4) "}", 4));
    return f;
}

Test(safetensors, shards_are_one_list)
{
    folder f = sharded("{\"b\":\"one.safetensors\",\"a\":\"two.safetensors\"}");
    mfi_tensor_file *file = open_good(mfi_safetensors_open, f.path);
    cr_assert_eq(mfi_tensor_file_count(file), 2);
    cr_assert_eq(find(file, "a")->bytes, 4);
    cr_assert_eq(find(file, "b")->bytes, 3);
    cr_assert_neq(find(file, "a")->file, find(file, "b")->file);
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

Test(safetensors, the_index_decides_between_two_shards)
{
    folder f = sharded("{\"b\":\"one.safetensors\",\"a\":\"two.safetensors\"}");
    folder_put(&f, "one.safetensors",
               safetensors_of("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                              "\"unnamed\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]},"
                              "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[2,5]}}",
                              5));
    mfi_tensor_file *file = open_good(mfi_safetensors_open, f.path);
    cr_assert_eq(mfi_tensor_file_count(file), 2);
    cr_assert_eq(find(file, "a")->bytes, 4);
    mfi_tensor_file_close(file);
    folder_remove(&f);
}

Test(safetensors, damaged_indices_are_refused)
{
    static const struct {
        const char *map;
        mf_status status;
        const char *name, *says;
    } damage[] = {
        { "[]", MF_E_FORMAT, INDEX, "no object weight_map" },
        { "null", MF_E_FORMAT, INDEX, "no object weight_map" },
        { "{\"a\":1}", MF_E_FORMAT, INDEX, "\"a\" is not in a file of this folder" },
        { "{\"a\":\"\"}", MF_E_FORMAT, INDEX, "not in a file of this folder" },
        { "{\"a\":\"../two.safetensors\"}", MF_E_FORMAT, INDEX, "not in a file of this folder" },
        { "{\"a\":\"x/two.safetensors\"}", MF_E_FORMAT, INDEX, "not in a file of this folder" },
        { "{\"a\":\"x\\\\two.safetensors\"}", MF_E_FORMAT, INDEX, "not in a file of this folder" },
        { "{\"a\":\"..\"}", MF_E_FORMAT, INDEX, "not in a file of this folder" },
        { "{\"a\":\"\\u001bc\"}", MF_E_FORMAT, INDEX, "not in a file of this folder" },
        { "{\"a\":\".\"}", MF_E_FORMAT, "/.", "not a regular file" },
        { "{\"a\":\"three.safetensors\"}", MF_E_NOT_FOUND, "three.safetensors", "fetch all files" },
        { "{\"a\":\"one.safetensors\"}", MF_E_FORMAT, INDEX, "tensor a is not in one.safetensors" },
        { "{\"a\":\"two.safetensors\",\"c\":\"one.safetensors\"}", MF_E_FORMAT, INDEX, "tensor c is not in one" },
        { "{\"a\":\"two.safetensors\",\"a\":\"two.safetensors\"}", MF_E_FORMAT, INDEX, "duplicate" },
        { "{\"a\":\"model.safetensors.index.json\"}", MF_E_FORMAT, INDEX, "more than the format allows" },
    };
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        folder f = sharded(damage[i].map);
        expect_refused(mfi_safetensors_open, f.path, damage[i].status, damage[i].name, damage[i].says);
        folder_remove(&f);
    }
}

Test(safetensors, folders_without_a_checkpoint_are_refused)
{
    folder f = folder_make();
    expect_refused(mfi_safetensors_open, f.path, MF_E_NOT_FOUND, f.path, "neither model.safetensors nor");
    folder_write(&f, INDEX, "{", 1);
    expect_refused(mfi_safetensors_open, f.path, MF_E_FORMAT, INDEX, "line 1");
    cr_assert_eq(mkfifo(folder_file(&f, SINGLE), 0600), 0);
    expect_refused(mfi_safetensors_open, f.path, MF_E_FORMAT, SINGLE, "not a regular file");
    folder_remove(&f);
    expect_refused(mfi_safetensors_open, f.path, MF_E_NOT_FOUND, f.path, "neither");
    char *long_path = malloc(5000);
    memset(long_path, 'x', 4999);
    long_path[4999] = '\0';
    expect_refused(mfi_safetensors_open, long_path, MF_E_INVALID, "xxx", "xxx");
    free(long_path);
}

/* ---- Damage ---- */

#define T "\"t\":{\"dtype\":"
#define DATA(begin, end) "\"data_offsets\":[" #begin "," #end "]"

/* Headers, each before 8 bytes of data. */
static const struct {
    const char *header;
    mf_status status;
    const char *says;
} damage[] = {
    { "", MF_E_FORMAT, "does not begin with {" },
    { "[]", MF_E_FORMAT, "does not begin with {" },
    { " {}", MF_E_FORMAT, "does not begin with {" },
    { "{", MF_E_FORMAT, "line 1" },
    { "{}}", MF_E_FORMAT, "line 1: end of file expected" },
    { "{\"t\xff\":1}", MF_E_FORMAT, "unable to decode byte 0xff" },
    { "{\"t\\u0000\":1}", MF_E_FORMAT, "\\u0000" },
    { "{" T "\"U8\",\"shape\":[8]," DATA(0, 8) "}," T "\"U8\",\"shape\":[8]," DATA(0, 8) "}}", MF_E_FORMAT,
      "duplicate" },
    { "{\"t\":[]}", MF_E_FORMAT, "tensor t: its entry is no object" },
    { "{\"t\":{\"shape\":[8]," DATA(0, 8) "}}", MF_E_FORMAT, "tensor t: its dtype is no string" },
    { "{" T "7,\"shape\":[8]," DATA(0, 8) "}}", MF_E_FORMAT, "tensor t: its dtype is no string" },
    { "{" T "\"\",\"shape\":[8]," DATA(0, 8) "}}", MF_E_FORMAT, "tensor t: its dtype is no name" },
    { "{" T "\"\\n\",\"shape\":[8]," DATA(0, 8) "}}", MF_E_FORMAT, "tensor t: its dtype is no name" },
    { "{" T "\"U8\"," DATA(0, 8) "}}", MF_E_FORMAT, "tensor t: its shape is no array" },
    { "{" T "\"U8\",\"shape\":8," DATA(0, 8) "}}", MF_E_FORMAT, "tensor t: its shape is no array" },
    { "{" T "\"U8\",\"shape\":[-8]," DATA(0, 8) "}}", MF_E_FORMAT, "its shape is not of integers" },
    { "{" T "\"U8\",\"shape\":[8.0]," DATA(0, 8) "}}", MF_E_FORMAT, "its shape is not of integers" },
    { "{" T "\"U8\",\"shape\":[\"8\"]," DATA(0, 8) "}}", MF_E_FORMAT, "its shape is not of integers" },
    { "{" T "\"U8\",\"shape\":[18446744073709551616]," DATA(0, 8) "}}", MF_E_FORMAT, "its shape is not of integers" },
    { "{" T "\"U8\",\"shape\":[1,1,1,1,1,1,1,1,8]," DATA(0, 8) "}}", MF_E_UNSUPPORTED, "tensor t has 9 dimensions" },
    { "{" T "\"U8\",\"shape\":[4294967296,4294967296]," DATA(0, 8) "}}", MF_E_FORMAT, "beyond 64 bits" },
    { "{" T "\"F64\",\"shape\":[2305843009213693953]," DATA(0, 8) "}}", MF_E_FORMAT, "beyond 64 bits" },
    { "{" T "\"U8\",\"shape\":[8]}}", MF_E_FORMAT, "tensor t: its data_offsets are not two" },
    { "{" T "\"U8\",\"shape\":[8],\"data_offsets\":[8]}}", MF_E_FORMAT, "its data_offsets are not two" },
    { "{" T "\"U8\",\"shape\":[8],\"data_offsets\":[0,8,8]}}", MF_E_FORMAT, "its data_offsets are not two" },
    { "{" T "\"U8\",\"shape\":[8],\"data_offsets\":{}}}", MF_E_FORMAT, "its data_offsets are not two" },
    { "{" T "\"U8\",\"shape\":[8]," DATA(-1, 8) "}}", MF_E_FORMAT, "its data_offsets are not two" },
    { "{" T "\"U8\",\"shape\":[8]," DATA(0, 8e0) "}}", MF_E_FORMAT, "its data_offsets are not two" },
    { "{" T "\"U8\",\"shape\":[8]," DATA(8, 0) "}}", MF_E_FORMAT, "ends before it begins" },
    { "{" T "\"U8\",\"shape\":[9]," DATA(0, 9) "}}", MF_E_FORMAT,
      "tensor t ends at byte 9 of the data, and the file has 8" },
    { "{" T "\"U8\",\"shape\":[0]," DATA(9223372036854775807, 9223372036854775807) "}}", MF_E_FORMAT,
      "fetch the rest" },
    { "{" T "\"F32\",\"shape\":[3]," DATA(0, 8) "}}", MF_E_FORMAT, "its shape and type make 12 bytes, and it has 8" },
    { "{" T "\"F32\",\"shape\":[]," DATA(0, 8) "}}", MF_E_FORMAT, "make 4 bytes, and it has 8" },
    { "{" T "\"F32\",\"shape\":[0,2]," DATA(0, 8) "}}", MF_E_FORMAT, "make 0 bytes, and it has 8" },
    { "{" T "\"U8\",\"shape\":[5]," DATA(0, 5) "},\"u\":{\"dtype\":\"U8\",\"shape\":[4]," DATA(4, 8) "}}", MF_E_FORMAT,
      "tensor u: bytes 4..8 overlap those of t; fetch the file again" },
    { "{" T "\"U8\",\"shape\":[8]," DATA(0, 8) "},\"u\":{\"dtype\":\"U8\",\"shape\":[8]," DATA(0, 8) "}}", MF_E_FORMAT,
      "bytes 0..8 overlap those of" },
    { "{" T "\"U8\",\"shape\":[8]," DATA(0, 8) "},\"u\":{\"dtype\":\"U8\",\"shape\":[0]," DATA(4, 4) "}}", MF_E_FORMAT,
      "tensor u: bytes 4..4 overlap those of t" },
    { "{" T "\"U8\",\"shape\":[7]," DATA(1, 8) "}}", MF_E_FORMAT, "1 bytes before tensor t belong to no tensor" },
    { "{" T "\"U8\",\"shape\":[3]," DATA(0, 3) "},\"u\":{\"dtype\":\"U8\",\"shape\":[3]," DATA(5, 8) "}}", MF_E_FORMAT,
      "2 bytes before tensor u belong to no tensor" },
    { "{" T "\"U8\",\"shape\":[7]," DATA(0, 7) "}}", MF_E_FORMAT, "its last 1 bytes belong to no tensor" },
    { "{}", MF_E_FORMAT, "its last 8 bytes belong to no tensor" },
    { "{" T "\"F6\",\"shape\":[9]," DATA(0, 7) "}}", MF_E_FORMAT, "its last 1 bytes belong to no tensor" },
    { "{\"__metadata__\":[]}", MF_E_FORMAT, "__metadata__ is no object" },
    { "{\"__metadata__\":{\"n\":1}}", MF_E_FORMAT, "__metadata__: \"n\" is no string" },
    { "{\"\":{\"dtype\":\"U8\",\"shape\":[8]," DATA(0, 8) "}}", MF_E_FORMAT, "name is empty" },
    { "{\"\\u001b[2J\":{\"dtype\":\"U8\",\"shape\":[8]," DATA(0, 8) "}}", MF_E_FORMAT, "not to be printed" },
};

Test(safetensors, damaged_headers_are_refused)
{
    folder f = folder_make();
    for (size_t i = 0; i < sizeof damage / sizeof *damage; i++) {
        folder_put(&f, SINGLE, safetensors_of(damage[i].header, 8));
        expect_refused(mfi_safetensors_open, f.path, damage[i].status, SINGLE, damage[i].says);
    }
    folder_remove(&f);
}

/* A header of `count` times `piece` between `before` and `after`. */
static void expect_repetition_refused(const char *before, const char *piece, size_t count, const char *after,
                                      const char *says)
{
    folder f = folder_make();
    bytes b = { NULL, 0, 0 };
    put_number(&b, strlen(before) + count * strlen(piece) + strlen(after), 8);
    emit(&b, "r", before);
    for (size_t i = 0; i < count; i++)
        emit(&b, "r", piece);
    emit(&b, "r", after);
    folder_put(&f, SINGLE, b);
    expect_refused(mfi_safetensors_open, f.path, MF_E_FORMAT, SINGLE, says);
    folder_remove(&f);
}

Test(safetensors, long_names_and_deep_headers_are_refused)
{
    expect_repetition_refused("{\"", "x", 256, "\":{}}", "longer than 255 bytes");
    expect_repetition_refused("{\"t\":", "[", 100000, "", "more than 64 levels");
    expect_repetition_refused("{\"t\":", "{\"t\":", 100000, "", "more than 64 levels");
}

Test(safetensors, lengths_that_the_file_has_not_are_refused)
{
    static const struct {
        uint64_t length;
        size_t bytes; /* of the file, which follow */
        const char *says;
    } lengths[] = {
        { 0, 0, "too short" },
        { 2, 7, "too short" },
        { 2, 8, "ends within its header" },
        { 2, 9, "ends within its header" },
        { 100000000, 10, "ends within its header" },
        { 100000001, 10, "more than the format allows" },
        { UINT64_MAX, 10, "more than the format allows" },
        { UINT64_MAX - 7, 10, "more than the format allows" },
        { 0, 10, "does not begin with {" },
        { 1, 10, "line 1" },
    };
    folder f = folder_make();
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        bytes b = { NULL, 0, 0 };
        put_number(&b, lengths[i].length, 8);
        emit(&b, "r", "{}");
        b.n = lengths[i].bytes;
        folder_put(&f, SINGLE, b);
        expect_refused(mfi_safetensors_open, f.path, MF_E_FORMAT, SINGLE, lengths[i].says);
    }
    folder_remove(&f);
}

Test(safetensors, a_file_that_ends_anywhere_is_refused)
{
    folder f = folder_make();
    bytes b = safetensors_of(every_type, EVERY_DATA);
    for (size_t n = 0; n < b.n; n++) {
        folder_write(&f, SINGLE, b.at, n);
        expect_refused(mfi_safetensors_open, f.path, MF_E_FORMAT, SINGLE, "");
    }
    folder_put(&f, SINGLE, b);
    mfi_tensor_file_close(open_good(mfi_safetensors_open, f.path));
    folder_remove(&f);
}

Test(safetensors, an_allocation_that_fails_is_a_status)
{
    folder f = folder_of(every_type, EVERY_DATA);
    expect_survives_no_memory(mfi_safetensors_open, f.path);
    folder_remove(&f);
    f = sharded("{\"b\":\"one.safetensors\",\"a\":\"two.safetensors\"}");
    expect_survives_no_memory(mfi_safetensors_open, f.path);
    folder_remove(&f);
}
