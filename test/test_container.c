/* test_container.c - what goes into a container comes out, and nothing but what went in. */
#define _GNU_SOURCE
#include <criterion/criterion.h>

#include "container_directory.h"
#include "container_fixture.h"
#include "counting_allocator.h"

static mf_model_options options_for(mf_load load, mf_verify verify)
{
    mf_model_options options = { .struct_size = sizeof options, .load = load, .verify = verify, .n_thread = 2 };
    options.allocator = mfi_allocator(NULL);
    return options;
}

static void write_fixture(const char *path, mfi_storage storage, bool big)
{
    mf_error error = MF_ERROR_INIT;
    mf_allocator allocator = mfi_allocator(NULL);
    cr_assert_eq(fixture_write(path, &allocator, storage, big, &error), MF_OK, "%s", error.detail);
}

static void expect_contents(const mfi_container *c, uint32_t shell_count)
{
    for (uint32_t i = 0; i < mfi_container_tensor_count(c); i++) {
        const mfi_tensor *tensor = mfi_container_tensor(c, i);
        cr_assert_eq(mfi_container_find(c, tensor->name, tensor->shell), tensor);
        if (tensor->shell >= shell_count) {
            cr_assert_null(tensor->data);
            continue;
        }
        const unsigned char *data = tensor->data;
        cr_assert_not_null(data);
        cr_assert_eq((uintptr_t)data % 64, 0);
        for (size_t b = 0; b < tensor->bytes; b++)
            if (data[b] != fixture_byte(tensor, b)) cr_assert_fail("%s differs at byte %zu", tensor->name, b);
    }
}

static void expect_round_trip(const mfi_container_source *source, mf_load load)
{
    mf_error error = MF_ERROR_INIT;
    mf_model_options options = options_for(load, MF_VERIFY_FULL);
    mfi_container *c;
    cr_assert_eq(mfi_container_open(&c, source, &options, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mfi_container_tensor_count(c), 10);
    cr_assert_eq(mfi_container_load(c, 1, &error), MF_OK, "%s", error.detail);
    expect_contents(c, 1);
    cr_assert_eq(mfi_container_load(c, 4, &error), MF_OK, "%s", error.detail);
    expect_contents(c, 4);
    mfi_container_close(c);
}

static void expect_round_trips(mfi_storage storage, bool big)
{
    char *path = fixture_path();
    write_fixture(path, storage, big);
    size_t bytes;
    unsigned char *data = fixture_read(path, &bytes);
    int fd = open(path, O_RDONLY);
    for (mf_load load = MF_LOAD_MAP; load <= MF_LOAD_COPY; load++) {
        expect_round_trip(&(mfi_container_source){ .path = path, .fd = -1 }, load);
        expect_round_trip(&(mfi_container_source){ .fd = fd }, load);
        expect_round_trip(&(mfi_container_source){ .fd = -1, .memory = data, .memory_bytes = bytes }, load);
    }
    close(fd);
    free(data);
    fixture_remove(path);
}

Test(container, raw_regions_return_every_byte)
{
    expect_round_trips(MFI_RAW, false);
}

Test(container, compressed_regions_return_every_byte)
{
    expect_round_trips(MFI_ZSTD, false);
}

Test(container, regions_of_many_frames_return_every_byte)
{
    expect_round_trips(MFI_ZSTD, true);
}
