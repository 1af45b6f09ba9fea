/* test_container_write.c - a writer that fails leaves no file, and none that no reader would accept. */
#define _GNU_SOURCE
#include <criterion/criterion.h>

#include "container_fixture.h"
#include "counting_allocator.h"

Test(writer, every_failing_allocation_leaves_no_file)
{
    char *path = fixture_path();
    mf_status status = MF_E_NOMEM;
    for (size_t n = 1; status != MF_OK; n++) {
        counting memory = { .fail_at = n, .mutex = PTHREAD_MUTEX_INITIALIZER };
        mf_allocator allocator = counting_allocator(&memory);
        mf_error error = MF_ERROR_INIT;
        status = fixture_write(path, &allocator, MFI_ZSTD, false, &error);
        cr_assert_eq(memory.live_bytes, 0);
        cr_assert(status == MF_OK || status == MF_E_NOMEM, "%s", error.detail);
        cr_assert_eq(status == MF_OK, access(path, F_OK) == 0);
    }
    fixture_remove(path);
}

static void expect_declaration_refused(void (*declare)(mfi_writer *writer))
{
    mf_allocator allocator = mfi_allocator(NULL);
    mf_error error = MF_ERROR_INIT;
    char *path = fixture_path();
    mfi_writer *w;
    uint32_t region;
    cr_assert_eq(mfi_writer_create(&w, &allocator, path, &error), MF_OK);
    mfi_writer_region(w, MFI_REGION_BASE, 0, MFI_RAW, &region);
    fixture_tensor(w, region, "a", MFI_PLAIN, MFK_F32, 0, 1, 1, 0);
    declare(w);
    mf_status status = mfi_writer_finish(w, fixture_fill, NULL, &error);
    cr_assert(status == MF_E_INVALID || status == MF_E_FORMAT, "%s", error.detail);
    cr_assert_eq(access(path, F_OK), -1);
    mfi_writer_close(w);
    fixture_remove(path);
}

static void a_name_with_a_space(mfi_writer *w)
{
    fixture_tensor(w, 0, "a b", MFI_PLAIN, MFK_F32, 0, 1, 1, 0);
}

static void a_tensor_twice(mfi_writer *w)
{
    fixture_tensor(w, 0, "a", MFI_PLAIN, MFK_F32, 0, 1, 1, 0);
}

static void a_tensor_in_no_region(mfi_writer *w)
{
    fixture_tensor(w, 1, "b", MFI_PLAIN, MFK_F32, 0, 1, 1, 0);
}

static void a_tensor_of_no_size(mfi_writer *w)
{
    fixture_tensor(w, 0, "b", MFI_PANEL, MFK_F32, 0, UINT64_MAX / 2, UINT64_MAX / 2, 1);
}

static void a_key_twice(mfi_writer *w)
{
    mfi_writer_u64(w, "key", 1, true);
    mfi_writer_text(w, "key", "1", true);
}

static void an_empty_region(mfi_writer *w)
{
    uint32_t region;
    mfi_writer_region(w, MFI_REGION_SHELL, 1, MFI_RAW, &region);
}

static void a_second_base(mfi_writer *w)
{
    uint32_t region;
    mfi_writer_region(w, MFI_REGION_BASE, 0, MFI_RAW, &region);
    fixture_tensor(w, region, "b", MFI_PLAIN, MFK_F32, 0, 1, 1, 0);
}

Test(writer, what_no_reader_would_accept_is_not_written)
{
    expect_declaration_refused(a_name_with_a_space);
    expect_declaration_refused(a_tensor_twice);
    expect_declaration_refused(a_tensor_in_no_region);
    expect_declaration_refused(a_tensor_of_no_size);
    expect_declaration_refused(a_key_twice);
    expect_declaration_refused(an_empty_region);
    expect_declaration_refused(a_second_base);
}
