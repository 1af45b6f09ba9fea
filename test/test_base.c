/* lib/base without its threads: arithmetic, structs of other releases, arenas, files, floating point. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <fcntl.h>
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena.h"
#include "counting_allocator.h"
#include "defs.h"
#include "fp_control.h"
#include "platform.h"
#include "status.h"

/* ---- Checked arithmetic ---- */

Test(defs, sums_and_products_that_fit_are_exact)
{
    size_t out = 0;
    cr_assert(mfi_add(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
    cr_assert(mfi_mul(SIZE_MAX / 3, 3, &out) && out == SIZE_MAX / 3 * 3);
    cr_assert(mfi_mul(SIZE_MAX, 0, &out) && out == 0);
    uint64_t wide = 0;
    cr_assert(mfi_add_u64(UINT64_MAX, 0, &wide) && wide == UINT64_MAX);
    cr_assert(mfi_mul_u64(1ull << 32, (1ull << 32) - 1, &wide) && wide == 0xffffffff00000000ull);
}

Test(defs, sums_and_products_that_do_not_fit_are_refused)
{
    size_t out;
    cr_assert_not(mfi_add(SIZE_MAX, 1, &out));
    cr_assert_not(mfi_mul(SIZE_MAX / 3 + 1, 3, &out));
    uint64_t wide;
    cr_assert_not(mfi_add_u64(UINT64_MAX, UINT64_MAX, &wide));
    cr_assert_not(mfi_mul_u64(1ull << 32, 1ull << 32, &wide));
}

/* ---- Status and structs of other releases ---- */

Test(status, every_status_has_a_name_and_a_text_and_unknown_ones_too)
{
    cr_assert_str_eq(mf_status_name(MF_E_NOMEM), "MF_E_NOMEM");
    cr_assert_str_eq(mf_status_text(MF_E_NOMEM), "out of memory");
    cr_assert_not_null(mf_status_name((mf_status)-1000));
    cr_assert_not_null(mf_status_text((mf_status)7));
}

Test(status, a_failure_fills_the_error_and_cuts_long_sentences)
{
    mf_error error = MF_ERROR_INIT;
    char text[500];
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    cr_assert_eq(mfi_fail(&error, MF_E_IO, "%s", text), MF_E_IO);
    cr_assert_eq(error.status, MF_E_IO);
    cr_assert_eq(strlen(error.detail), sizeof(error.detail) - 1);
    cr_assert_eq(mfi_fail(NULL, MF_E_IO, "nobody asks"), MF_E_IO);
}

Test(status, a_failure_can_quote_the_detail_of_before)
{
    mf_error error = MF_ERROR_INIT;
    mfi_fail(&error, MF_E_IO, "inner");
    mfi_fail(&error, MF_E_FORMAT, "outer: %s", error.detail);
    cr_assert_str_eq(error.detail, "outer: inner");
}

Test(status, a_failure_quotes_no_control_characters_and_no_half_of_a_character)
{
    mf_error error = MF_ERROR_INIT;
    mfi_fail(&error, MF_E_IO, "a\033[2J\n\x7f b\xc3\xa9");
    cr_assert_str_eq(error.detail, "a?[2J?? b\xc3\xa9");
    error.struct_size = offsetof(mf_error, detail) + 4;
    mfi_fail(&error, MF_E_IO, "ab\xe2\x82\xac");
    cr_assert_str_eq(error.detail, "ab");
    mfi_fail(&error, MF_E_IO, "%s", "");
    cr_assert_str_eq(error.detail, "");
}

Test(status, an_error_of_a_caller_with_a_shorter_detail_is_not_overrun)
{
    mf_error error = MF_ERROR_INIT;
    error.struct_size = offsetof(mf_error, detail) + 8;
    error.detail[8] = '#';
    mfi_fail(&error, MF_E_IO, "0123456789");
    cr_assert_str_eq(error.detail, "0123456");
    cr_assert_eq(error.detail[8], '#');
}

typedef struct options {
    size_t struct_size;
    uint64_t first, second;
} options;
#define FIRST_BYTES offsetof(options, second) /* `second` came later */

typedef struct newer_options {
    options known;
    uint64_t third;
} newer_options;

Test(status, no_options_are_all_defaults)
{
    options full = { 0 };
    cr_assert_eq(mfi_read_options(&full, sizeof(full), FIRST_BYTES, NULL, "options", NULL), MF_OK);
    cr_assert(full.struct_size == sizeof(full) && full.first == 0 && full.second == 0);
}

Test(status, options_of_an_older_caller_keep_defaults_for_what_they_lack)
{
    options full = { 0 }, older = { FIRST_BYTES, 1, 99 };
    cr_assert_eq(mfi_read_options(&full, sizeof(full), FIRST_BYTES, &older, "options", NULL), MF_OK);
    cr_assert(full.struct_size == sizeof(full) && full.first == 1 && full.second == 0);
}

Test(status, options_of_a_newer_caller_pass_while_its_fields_are_zero)
{
    options full = { 0 };
    newer_options newer = { { sizeof(newer), 1, 2 }, 0 };
    cr_assert_eq(mfi_read_options(&full, sizeof(full), FIRST_BYTES, &newer, "options", NULL), MF_OK);
    cr_assert(full.struct_size == sizeof(full) && full.first == 1 && full.second == 2);
}

Test(status, options_that_use_fields_unknown_here_are_refused)
{
    options full = { 0 };
    newer_options newer = { { sizeof(newer), 1, 2 }, 3 };
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mfi_read_options(&full, sizeof(full), FIRST_BYTES, &newer, "these", &error), MF_E_STRUCT_SIZE);
    cr_assert_not_null(strstr(error.detail, "these"));
}

Test(status, options_of_an_impossible_size_are_refused)
{
    options full = { 0 };
    size_t sizes[] = { 0, FIRST_BYTES - 1, 4097, SIZE_MAX };
    for (size_t i = 0; i < MFI_COUNT(sizes); i++)
        cr_assert_eq(mfi_read_options(&full, sizeof(full), FIRST_BYTES, &sizes[i], "options", NULL), MF_E_STRUCT_SIZE);
}

Test(status, an_info_struct_gets_what_it_has_room_for)
{
    options full = { sizeof(full), 1, 2 }, older = { FIRST_BYTES, 0, 99 };
    cr_assert_eq(mfi_write_info(&older, &full, sizeof(full), FIRST_BYTES), MF_OK);
    cr_assert(older.struct_size == FIRST_BYTES && older.first == 1 && older.second == 99);
    newer_options newer = { { sizeof(newer), 0, 0 }, 99 };
    cr_assert_eq(mfi_write_info(&newer, &full, sizeof(full), FIRST_BYTES), MF_OK);
    cr_assert(newer.known.struct_size == sizeof(newer) && newer.known.second == 2 && newer.third == 99);
    options small = { FIRST_BYTES - 1, 0, 0 };
    cr_assert_eq(mfi_write_info(&small, &full, sizeof(full), FIRST_BYTES), MF_E_STRUCT_SIZE);
}

/* ---- Memory ---- */

Test(arena, blocks_are_zeroed_aligned_and_given_back_in_full)
{
    counting c = { 0 };
    mf_allocator allocator = counting_allocator(&c);
    for (size_t bytes = 0; bytes < 300; bytes += 37) {
        unsigned char *block = mfi_alloc(&allocator, bytes);
        cr_assert(block && (uintptr_t)block % MFI_LINE == 0);
        for (size_t i = 0; i < bytes; i++)
            cr_assert_eq(block[i], 0);
        mfi_free(&allocator, block, bytes);
        cr_assert_eq(c.live_bytes, 0);
    }
    mfi_free(&allocator, NULL, 10);
}

Test(arena, sizes_that_no_memory_has_are_refused)
{
    mf_allocator allocator = mfi_allocator(NULL);
    cr_assert_null(mfi_alloc(&allocator, SIZE_MAX));
    cr_assert_null(mfi_alloc_array(&allocator, SIZE_MAX / 2 + 1, 2));
}

Test(arena, an_allocator_without_free_is_completed)
{
    counting c = { 0 };
    mf_allocator half = { count_alloc, NULL, &c };
    mf_allocator allocator = mfi_allocator(&half);
    void *block = mfi_alloc(&allocator, 8);
    mfi_free(&allocator, block, 8);
    cr_assert_eq(c.live_bytes, 8);
    free(block);
}

typedef struct layout {
    char *text;
    double *numbers;
} layout;

static void lay_out(layout *l, mfi_arena *arena)
{
    l->text = mfi_carve(arena, 3, 1);
    l->numbers = mfi_carve(arena, 100, sizeof(double));
}

Test(arena, the_layout_that_was_measured_is_handed_out)
{
    mf_allocator allocator = mfi_allocator(NULL);
    layout l;
    mfi_arena arena = { NULL, 0 };
    lay_out(&l, &arena);
    cr_assert(!l.text && !l.numbers);
    size_t total = arena.used;
    arena = (mfi_arena){ mfi_alloc(&allocator, total), 0 };
    lay_out(&l, &arena);
    cr_assert_eq(arena.used, total);
    cr_assert_eq((unsigned char *)l.text, arena.base);
    cr_assert_eq((uintptr_t)l.numbers % MFI_LINE, 0);
    cr_assert((unsigned char *)(l.numbers + 100) <= arena.base + total);
    mfi_free(&allocator, arena.base, total);
}

Test(arena, an_overflow_sticks_and_cannot_be_allocated)
{
    size_t shapes[][2] = { { SIZE_MAX / 2 + 1, 2 }, { SIZE_MAX, 1 }, { SIZE_MAX - MFI_LINE, 1 } };
    mf_allocator allocator = mfi_allocator(NULL);
    for (size_t i = 0; i < MFI_COUNT(shapes); i++) {
        mfi_arena arena = { NULL, 0 };
        mfi_carve(&arena, 1, 1);
        mfi_carve(&arena, shapes[i][0], shapes[i][1]);
        mfi_carve(&arena, 1, 1);
        cr_assert_eq(arena.used, SIZE_MAX);
        cr_assert_null(mfi_alloc(&allocator, arena.used));
    }
}

/* ---- Platform ---- */

static char folder[] = "/tmp/matformer-test-XXXXXX";

static void make_folder(void)
{
    cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void)
{
    cr_assert_eq(rmdir(folder), 0, "files are left in %s", folder);
}

static void path_in(char path[100], const char *name)
{
    snprintf(path, 100, "%s/%s", folder, name);
}

TestSuite(platform, .init = make_folder, .fini = remove_folder);

Test(platform, a_committed_file_has_its_name_and_content)
{
    char path[100];
    path_in(path, "file");
    mfi_new_file file;
    cr_assert_eq(mfi_new_file_open(&file, path, NULL), MF_OK);
    cr_assert_eq(mfi_new_file_write(&file, "01234567", 8, NULL), MF_OK);
    cr_assert_eq(mfi_new_file_write_at(&file, "AB", 2, 3, NULL), MF_OK);
    cr_assert_neq(access(path, F_OK), 0, "the name is there before the commit");
    cr_assert_eq(mfi_new_file_commit(&file, NULL), MF_OK);
    mfi_new_file_abort(&file);

    char content[8];
    int fd = open(path, O_RDONLY);
    cr_assert_eq(mfi_read_at(fd, content, 8, 0, path, NULL), MF_OK);
    cr_assert_eq(memcmp(content, "012AB567", 8), 0);
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mfi_read_at(fd, content, 8, 1, path, &error), MF_E_IO);
    cr_assert_not_null(strstr(error.detail, path));
    close(fd);
    unlink(path);
}

Test(platform, an_aborted_file_leaves_the_old_one_and_nothing_else)
{
    char path[100];
    path_in(path, "file");
    mfi_new_file file;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(mfi_new_file_open(&file, path, NULL), MF_OK);
        cr_assert_eq(mfi_new_file_write(&file, i == 0 ? "old" : "newer", i == 0 ? 3 : 5, NULL), MF_OK);
        if (i == 0) cr_assert_eq(mfi_new_file_commit(&file, NULL), MF_OK);
    }
    mfi_new_file_abort(&file);
    struct stat info;
    cr_assert(stat(path, &info) == 0 && info.st_size == 3);
    unlink(path);
}

Test(platform, two_writers_of_one_name_do_not_meet)
{
    char path[100];
    path_in(path, "file");
    mfi_new_file one, two;
    cr_assert_eq(mfi_new_file_open(&one, path, NULL), MF_OK);
    cr_assert_eq(mfi_new_file_open(&two, path, NULL), MF_OK);
    cr_assert_eq(mfi_new_file_write(&one, "one", 3, NULL), MF_OK);
    cr_assert_eq(mfi_new_file_write(&two, "two", 3, NULL), MF_OK);
    cr_assert_eq(mfi_new_file_commit(&two, NULL), MF_OK);
    mfi_new_file_abort(&one);
    char content[3];
    int fd = open(path, O_RDONLY);
    cr_assert_eq(mfi_read_at(fd, content, 3, 0, path, NULL), MF_OK);
    cr_assert_eq(memcmp(content, "two", 3), 0);
    close(fd);
    unlink(path);
}

Test(platform, a_file_that_cannot_be_made_is_an_error_with_its_name)
{
    char path[100], long_path[6000];
    path_in(path, "missing/file");
    mfi_new_file file;
    mf_error error = MF_ERROR_INIT;
    cr_assert_eq(mfi_new_file_open(&file, path, &error), MF_E_IO);
    cr_assert_not_null(strstr(error.detail, path));
    mfi_new_file_abort(&file);
    memset(long_path, 'x', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    cr_assert_eq(mfi_new_file_open(&file, long_path, &error), MF_E_IO);
}

Test(platform, a_commit_that_fails_can_be_aborted)
{
    char path[100], inner[110];
    path_in(path, "file");
    snprintf(inner, sizeof(inner), "%s/x", path);
    mfi_new_file file;
    cr_assert_eq(mfi_new_file_open(&file, path, NULL), MF_OK);
    /* A folder that is not empty cannot be replaced. */
    cr_assert(mkdir(path, 0777) == 0 && mkdir(inner, 0777) == 0);
    cr_assert_eq(mfi_new_file_commit(&file, NULL), MF_E_IO);
    mfi_new_file_abort(&file);
    rmdir(inner);
    rmdir(path);
}

Test(platform, reservations_are_aligned_and_hold_files_and_memory)
{
    char path[100];
    path_in(path, "file");
    size_t page = (size_t)sysconf(_SC_PAGESIZE), align = (size_t)2 << 20;
    mfi_new_file file;
    cr_assert_eq(mfi_new_file_open(&file, path, NULL), MF_OK);
    cr_assert_eq(mfi_new_file_write_at(&file, "second page", 11, page, NULL), MF_OK);
    cr_assert_eq(mfi_new_file_commit(&file, NULL), MF_OK);

    unsigned char *base = mfi_reserve(3 * page, align);
    cr_assert(base && (uintptr_t)base % align == 0);
    int fd = open(path, O_RDONLY);
    cr_assert_eq(mfi_map_file_at(base, 11, fd, page, NULL), MF_OK);
    close(fd);
    cr_assert_eq(memcmp(base, "second page", 11), 0);
    cr_assert_eq(mfi_map_memory_at(base + page, 2 * page, NULL), MF_OK);
    cr_assert_eq(base[2 * page], 0);
    base[2 * page] = 1;
    cr_assert_eq(mfi_protect_read(base + page, 2 * page), MF_OK);
    cr_assert_eq(base[2 * page], 1);
    mfi_unreserve(base, 3 * page);
    cr_assert_null(mfi_reserve(SIZE_MAX / 2, align));
    cr_assert_null(mfi_reserve(0, align));
    unlink(path);
}

Test(mapping, protected_memory_cannot_be_written)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    void *base = mfi_reserve(page, page);
    cr_assert_eq(mfi_map_memory_at(base, page, NULL), MF_OK);
    cr_assert_eq(mfi_protect_read(base, page), MF_OK);
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO); /* a sanitizer would report what is meant to happen */
        *(volatile unsigned char *)base = 1;
        _exit(0);
    }
    int status = 0;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_neq(status, 0);
    mfi_unreserve(base, page);
}

static float third(void)
{
    /* The quotient too: else a compiler may divide after the mode has changed again. */
    volatile float one = 1.0f, three = 3.0f, quotient = one / three;
    return quotient;
}

Test(floating_point, the_mode_of_the_host_does_not_reach_the_arithmetic_and_comes_back)
{
    float nearest = third();
    fesetround(FE_DOWNWARD);
    float downward = third();
    cr_assert_neq(nearest, downward);
    mfi_fp_mode mode = mfi_fp_enter();
    float inside = third();
    mfi_fp_leave(mode);
    cr_assert_eq(inside, nearest);
    cr_assert_eq(third(), downward);
    fesetround(FE_TONEAREST);
}

Test(floating_point, small_numbers_are_not_flushed_to_zero)
{
    unsigned long before = fp_control();
    fp_set_control(before | FP_FLUSH);
    mfi_fp_mode mode = mfi_fp_enter();
    volatile float small = 1e-38f;
    volatile float smaller = small / 16;
    volatile float sum = smaller + smaller; /* here, not after the mode is back */
    mfi_fp_leave(mode);
    cr_assert_eq(fp_control() & FP_FLUSH, FP_FLUSH);
    fp_set_control(before);
    cr_assert_eq(sum, 1e-38f / 8);
}
