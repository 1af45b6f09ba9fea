/* test_export_faults.c - an export that is refused, cancelled, out of memory or killed leaves nothing under its name, and
 * what is there under its name is whole. MF_TEST_ROUNDS tries more moments. */
#define _GNU_SOURCE
#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "counting_allocator.h"
#include "export_fixture.h"

Test(export_faults, what_exists_is_not_replaced)
{
    for (int format = 0; format < 2; format++) {
        const place p = new_place();
        mf_error error = MF_ERROR_INIT;
        const mf_export_options options = options_of((mf_export_format)format, MF_WEIGHT_KEEP, "");
        FILE *file = fopen(p.out, "w");
        cr_assert(file && fclose(file) == 0);
        cr_assert_eq(try_export(checkpoint("llama_linear_f16"), p.out, &options, &error), MF_E_INVALID);
        cr_assert(strstr(error.detail, "exists"), "%s", error.detail);
        struct stat stat_;
        cr_assert(stat(p.out, &stat_) == 0 && stat_.st_size == 0 && count_files(p.folder) == 1);
        remove_all(p.folder);
    }
}

typedef struct cancel {
    size_t calls, at;
    uint64_t done, total;
} cancel;

static int cancel_at(void *user, uint64_t done, uint64_t total)
{
    cancel *c = user;
    cr_assert(done > c->done && done <= total && (c->total == 0 || c->total == total));
    c->done = done;
    c->total = total;
    return ++c->calls == c->at;
}

Test(export_faults, cancelled_at_every_call_it_leaves_nothing)
{
    for (int format = 0; format < 2; format++) {
        size_t cancelled = 0;
        for (size_t at = 1;; at++) {
            const place p = new_place();
            cancel c = { .at = at };
            mf_export_options options = options_of((mf_export_format)format, MF_WEIGHT_KEEP, "");
            options.shard_bytes = 10000;
            options.progress = cancel_at;
            options.progress_user = &c;
            const mf_status status = try_export(checkpoint("llama_grouped_bf16_sharded"), p.out, &options, NULL);
            cr_assert(status == MF_OK || status == MF_E_CANCELLED);
            cr_assert_eq(count_files(p.folder), status == MF_OK);
            cr_assert(status != MF_OK || c.done == c.total);
            remove_all(p.folder);
            if (status == MF_OK) break;
            cancelled++;
        }
        cr_assert_gt(cancelled, 10);
    }
}

Test(export_faults, without_memory_it_leaves_nothing)
{
    const place p = new_place();
    void *blob;
    size_t bytes;
    mfi_tokenizer *tokenizer;
    const mf_allocator c_library = mfi_allocator(NULL);
    load_file("llama2.model", &tokenizer, &blob, &bytes);
    export_with_tokenizer(p.other, blob, bytes, mfi_tokenizer_vocab(tokenizer));
    mfi_tokenizer_free(tokenizer);
    mfi_free(&c_library, blob, bytes);
    for (int format = 0; format < 2; format++)
        for (size_t at = 1, failed = 0;; at++) {
            counting c = { .mutex = PTHREAD_MUTEX_INITIALIZER };
            mf_source_options open = MF_SOURCE_OPTIONS_INIT;
            open.allocator = counting_allocator(&c);
            mf_source *source;
            cr_assert_eq(mf_source_open(&source, p.other, &open, NULL), MF_OK);
            c.fail_at = c.n_alloc + at;
            const mf_export_options options = options_of((mf_export_format)format, MF_WEIGHT_KEEP, "ffn=64x3");
            const mf_status status = mf_export(source, p.out, &options, NULL);
            mf_source_close(source);
            cr_assert_eq(c.live_bytes, 0, "allocation %zu: %zu bytes are lost", at, c.live_bytes);
            cr_assert(status == MF_OK || status == MF_E_NOMEM);
            cr_assert_eq(count_files(p.folder), 1u + (status == MF_OK));
            if (status == MF_OK) {
                cr_assert_gt(failed, 5);
                remove_all(p.out);
                break;
            }
            failed++;
        }
    remove_all(p.folder);
}

/* ---- Killed ---- */

static bool is_temporary(const char *name)
{
    const size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".tmp") == 0;
}

/* A folder of the same files, or the same file. */
static void expect_the_same(const char *expected, const char *found)
{
    DIR *d = opendir(expected);
    if (!d) {
        cr_assert(same_file(expected, found), "%s is damaged", found);
        return;
    }
    cr_assert_eq(count_files(expected), count_files(found), "%s is not whole", found);
    for (struct dirent *entry; (entry = readdir(d));) {
        char first[512], second[512];
        if (entry->d_name[0] == '.') continue;
        snprintf(first, sizeof first, "%s/%s", expected, entry->d_name);
        snprintf(second, sizeof second, "%s/%s", found, entry->d_name);
        cr_assert(same_file(first, second), "%s is damaged", second);
    }
    closedir(d);
}

static mf_export_options small_shards(mf_export_format format)
{
    mf_export_options options = options_of(format, MF_WEIGHT_KEEP, "");
    options.shard_bytes = 10000;
    return options;
}

/* Exports under one new name after another until it is killed. */
static void export_for_ever(const place *p, mf_export_format format)
{
    const mf_export_options options = small_shards(format);
    for (unsigned pass = 0;; pass++) {
        char out[160];
        snprintf(out, sizeof out, "%s-%u", p->out, pass);
        if (try_export(checkpoint("llama_grouped_bf16_sharded"), out, &options, NULL) != MF_OK) _exit(1);
    }
}

/* How many exports are under their names, each the same as `expected`; how many were broken off. */
static void look_through(const place *p, const char *expected, size_t *n_whole, size_t *n_broken)
{
    DIR *d = opendir(p->folder);
    cr_assert_not_null(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        char path[512];
        if (strncmp(entry->d_name, "out-", 4) != 0) continue;
        snprintf(path, sizeof path, "%s/%s", p->folder, entry->d_name);
        *n_broken += is_temporary(path);
        if (is_temporary(path)) continue;
        expect_the_same(expected, path);
        ++*n_whole;
    }
    closedir(d);
}

Test(export_faults, a_kill_at_any_moment_leaves_what_is_whole)
{
    rng r = { 29 };
    for (int format = 0; format < 2; format++) {
        size_t n_whole = 0, n_broken = 0;
        const mf_export_options options = small_shards((mf_export_format)format);
        for (uint32_t i = 0; i < test_rounds(8); i++) {
            const place p = new_place();
            struct timespec begin, end, pause = { .tv_sec = 0 };
            clock_gettime(CLOCK_MONOTONIC, &begin);
            export(checkpoint("llama_grouped_bf16_sharded"), p.other, &options);
            clock_gettime(CLOCK_MONOTONIC, &end);
            const double once = (double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec);
            const double after = fmin(0.999e9, 4 * once * rng_below(&r, 1000) / 1000);
            pause.tv_nsec = (long)after;
            const pid_t child = fork();
            if (child == 0) export_for_ever(&p, (mf_export_format)format);
            nanosleep(&pause, NULL);
            int how;
            kill(child, SIGKILL);
            cr_assert(waitpid(child, &how, 0) == child && WIFSIGNALED(how), "it ended by itself");
            look_through(&p, p.other, &n_whole, &n_broken);
            remove_all(p.folder);
        }
        cr_assert(n_whole > 0 && n_broken > 0, "%zu whole, %zu broken off", n_whole, n_broken);
    }
}

/* Its process had our number, as the first process of a container always has. */
Test(export_faults, what_a_killed_process_left_is_not_in_the_way)
{
    for (int format = 0; format < 2; format++) {
        const place p = new_place();
        const mf_export_options options = small_shards((mf_export_format)format);
        char left[192];
        snprintf(left, sizeof left, "%s.%ld-0.tmp", p.out, (long)getpid());
        cr_assert(mkdir(left, 0777) == 0);
        export(checkpoint("llama_grouped_bf16_sharded"), p.out, &options);
        cr_assert_eq(count_files(left), 0);
        remove_all(p.folder);
    }
}
