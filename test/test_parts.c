/* test_parts.c - a file cut into parts is the same model; parts that are wrong, damaged or hostile are refused; whatever
 * is killed, full or out of memory leaves whole files. MF_TEST_ROUNDS tries more damage. */
#define _GNU_SOURCE
#include <criterion/criterion.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <xxhash.h>

#include "container_directory.h"
#include "counting_allocator.h"
#include "matformer_tools.h"
#include "residency_fixture.h"

typedef struct path {
    char text[160];
} path;

static path beside(const scene *s, const char *name)
{
    path p;
    snprintf(p.text, sizeof p.text, "%s/%s", s->folder, name);
    return p;
}

static void split_to(const char *from, const char *out, uint64_t max_bytes, int pack)
{
    mf_error error = MF_ERROR_INIT;
    mf_split_options options = MF_SPLIT_OPTIONS_INIT;
    options.max_bytes = max_bytes;
    options.pack = pack;
    cr_assert(mf_split(from, out, &options, &error) == MF_OK, "%s", error.detail);
}

/* "model.mf" and its parts, without the whole file. */
static scene new_parts(mfi_storage storage, uint64_t seed)
{
    scene s = new_scene(MFK_BF16, storage, 2048, seed);
    split_to(s.path, beside(&s, "model.mf").text, 0, 0);
    return s;
}

static bool exists(const scene *s, const char *name)
{
    return access(beside(s, name).text, F_OK) == 0;
}

/* Out of the way, and back. */
static void hide(const scene *s, const char *name, bool hidden)
{
    char away[64];
    snprintf(away, sizeof away, "%s.away", name);
    const path from = beside(s, hidden ? name : away), to = beside(s, hidden ? away : name);
    cr_assert(rename(from.text, to.text) == 0, "%s", from.text);
}

static bool same_files(const char *a, const char *b)
{
    model_file x = read_file(a), y = read_file(b);
    const bool same = x.bytes == y.bytes && memcmp(x.data, y.data, x.bytes) == 0;
    drop_file(&x);
    drop_file(&y);
    return same;
}

static void write_bytes(const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(name, "wb");
    cr_assert(file && fwrite(data, 1, bytes, file) == bytes && fclose(file) == 0);
}

/* ---- Round trips ---- */

/* The largest of the files that begin with "model.", and how many they are. */
static uint64_t largest(const scene *s, uint32_t *n)
{
    uint64_t most = 0;
    DIR *folder = opendir(s->folder);
    *n = 0;
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        struct stat about;
        char name[512];
        if (strncmp(entry->d_name, "model.", 6) != 0) continue;
        snprintf(name, sizeof name, "%s/%s", s->folder, entry->d_name);
        cr_assert(stat(name, &about) == 0);
        if ((uint64_t)about.st_size > most) most = (uint64_t)about.st_size;
        (*n)++;
    }
    closedir(folder);
    return most;
}

static void expect_whole_again(const scene *s)
{
    const path head = beside(s, "model.mf"), again = beside(s, "again.mf");
    mf_error error = MF_ERROR_INIT;
    mf_source *source;
    cr_assert(mf_source_open(&source, head.text, NULL, &error) == MF_OK, "%s", error.detail);
    cr_assert(mf_convert(source, again.text, NULL, NULL, &error) == MF_OK, "%s", error.detail);
    mf_source_close(source);
    cr_assert(same_files(s->path, again.text), "the parts make the file that was cut");
}

static void expect_split(mfi_storage storage, uint64_t max_bytes, int pack, uint32_t n_file)
{
    scene s = new_scene(MFK_BF16, storage, 2048, 5);
    uint32_t n;
    split_to(s.path, beside(&s, "model.mf").text, max_bytes, pack);
    const uint64_t most = largest(&s, &n);
    cr_assert(max_bytes == 0 || most <= max_bytes, "a file of %llu bytes", (unsigned long long)most);
    cr_assert(n_file == 0 || n == n_file, "%u files", n);
    for (mf_load load = MF_LOAD_MAP; load <= MF_LOAD_COPY; load++) {
        mf_model *model = open_path(beside(&s, "model.mf").text, load, NULL);
        expect_sizes(model, &s, 3, "from parts");
        cr_assert(mf_model_trim(model, "S", NULL, NULL) == MF_OK);
        expect_sizes(model, &s, 1, "trimmed");
        cr_assert(mf_model_grow(model, NULL, NULL, NULL) == MF_OK);
        expect_sizes(model, &s, 3, "grown from parts");
        mf_model_close(model);
    }
    expect_whole_again(&s);
    drop_scene(&s);
}

Test(parts, a_file_cut_in_any_way_is_the_same_model)
{
    expect_split(MFI_RAW, 0, 0, 4); /* head, tables, two shells */
    expect_split(MFI_RAW, 600 << 10, 0, 0);
    expect_split(MFI_RAW, 1400 << 10, 1, 0);
    expect_split(MFI_RAW, (uint64_t)1 << 40, 1, 1);
    expect_split(MFI_ZSTD, 0, 0, 4);
    expect_split(MFI_ZSTD, 600 << 10, 1, 0);
}

Test(parts, cutting_parts_anew_and_in_place_keeps_them)
{
    scene s = new_parts(MFI_RAW, 5);
    const path head = beside(&s, "model.mf");
    cr_assert(exists(&s, "model.tables.mfpart") && exists(&s, "model.shell1.mfpart") &&
              exists(&s, "model.shell2.mfpart"));
    split_to(head.text, head.text, 600 << 10, 0);
    cr_assert(exists(&s, "model.shell2.1of2.mfpart"));
    unlink(beside(&s, "model.shell2.mfpart").text);
    mf_model *model = open_path(head.text, MF_LOAD_MAP, NULL);
    expect_sizes(model, &s, 3, "cut in place");
    mf_model_close(model);
    expect_whole_again(&s);
    drop_scene(&s);
}

Test(parts, what_is_missing_is_named_and_found_when_it_comes)
{
    scene s = new_parts(MFI_RAW, 6);
    const path head = beside(&s, "model.mf");
    mf_error error = MF_ERROR_INIT;
    bool same;
    hide(&s, "model.shell2.mfpart", true);
    mf_model *model = open_path(head.text, MF_LOAD_MAP, NULL);
    expect_sizes(model, &s, 2, "without the widest");
    cr_assert(run_size(model, &s, 2, &same, &error) == MF_E_NOT_RESIDENT);
    cr_assert(strstr(error.detail, "model.shell2.mfpart"), "%s", error.detail);
    cr_assert(mf_model_grow(model, NULL, NULL, &error) == MF_E_NOT_FOUND);
    cr_assert(strstr(error.detail, "model.shell2.mfpart"), "%s", error.detail);
    hide(&s, "model.shell2.mfpart", false);
    cr_assert(mf_model_grow(model, NULL, NULL, &error) == MF_OK, "%s", error.detail);
    expect_sizes(model, &s, 3, "when it lies there");
    mf_model_close(model);

    hide(&s, "model.tables.mfpart", true);
    model = open_path(head.text, MF_LOAD_MAP, NULL);
    expect_sizes(model, &s, 0, "no width does without the tables");
    cr_assert(run_size(model, &s, 0, &same, &error) == MF_E_NOT_RESIDENT);
    cr_assert(strstr(error.detail, "model.tables.mfpart"), "%s", error.detail);
    mf_shell_info tables = MF_SHELL_INFO_INIT;
    cr_assert(mf_model_shell_info_get(model, MF_SHELL_TABLES, &tables) == MF_OK);
    cr_assert(!tables.present && !tables.resident && tables.stored_bytes > 0);
    hide(&s, "model.tables.mfpart", false);
    cr_assert(mf_model_attach(model, beside(&s, "model.tables.mfpart").text, &error) == MF_OK, "%s", error.detail);
    expect_sizes(model, &s, 0, "attached is not loaded");
    cr_assert(mf_model_grow(model, "S", NULL, &error) == MF_OK, "%s", error.detail);
    expect_sizes(model, &s, 3, "the shells were there");
    mf_model_close(model);
    drop_scene(&s);
}

Test(parts, files_are_attached_by_path_descriptor_and_offset)
{
    scene s = new_parts(MFI_RAW, 7);
    const path far = beside(&s, "archive");
    mf_error error = MF_ERROR_INIT;
    model_file tables = read_file(beside(&s, "model.tables.mfpart").text);
    model_file part = read_file(beside(&s, "model.shell1.mfpart").text);
    model_file head = read_file(beside(&s, "model.mf").text);
    static const size_t offsets[] = { 8192, 12345 }; /* on a page, and not */
    for (size_t i = 0; i < 2; i++) {
        mf_model *model = NULL;
        FILE *file = fopen(far.text, "wb");
        cr_assert(file && fseek(file, (long)offsets[i], SEEK_SET) == 0);
        cr_assert(fwrite(part.data, 1, part.bytes, file) == part.bytes && fputs("and more", file) >= 0);
        fclose(file);
        int fd = open(far.text, O_RDONLY);
        cr_assert(mf_model_open_memory(&model, head.data, head.bytes, NULL, NULL) == MF_OK);
        expect_sizes(model, &s, 0, "the head alone");
        cr_assert(mf_model_attach_fd(model, fd, offsets[i], 0, NULL) == MF_E_FORMAT, "more than the part");
        cr_assert(mf_model_attach_fd(model, fd, offsets[i], part.bytes, &error) == MF_OK, "%s", error.detail);
        cr_assert(mf_model_attach_fd(model, fd, offsets[i], part.bytes, &error) == MF_OK, "twice is once");
        close(fd);
        cr_assert(mf_model_attach(model, beside(&s, "model.tables.mfpart").text, &error) == MF_OK);
        cr_assert(mf_model_grow(model, "M", NULL, &error) == MF_OK, "%s", error.detail);
        expect_sizes(model, &s, 2, "from an archive");
        cr_assert(mf_model_grow(model, "L", NULL, &error) == MF_E_NOT_FOUND && strstr(error.detail, "shell 2"));
        cr_assert(mf_model_attach(model, s.path, &error) == MF_OK, "%s", error.detail);
        cr_assert(mf_model_grow(model, "L", NULL, &error) == MF_OK, "%s", error.detail);
        expect_sizes(model, &s, 3, "and from a whole file");
        mf_model_close(model);
    }
    drop_file(&tables);
    drop_file(&part);
    drop_file(&head);
    drop_scene(&s);
}

Test(parts, a_download_that_goes_on_is_attached_from_the_same_path)
{
    scene s = new_scene(MFK_BF16, MFI_RAW, 2048, 13);
    model_file file = read_file(s.path);
    mf_error error = MF_ERROR_INIT;
    mf_shell_info shell = MF_SHELL_INFO_INIT;
    mf_model *model = open_path(s.path, MF_LOAD_MAP, "S");
    for (uint32_t i = 0; i < SIZES; i++) {
        cr_assert(mf_model_shell_info_get(model, i, &shell) == MF_OK);
        const uint64_t end = shell.file_offset + shell.stored_bytes;
        if (i == 0) { /* so far, and without the tables that come next */
            mf_model_close(model);
            write_bytes(s.path, file.data, end);
            model = open_path(s.path, MF_LOAD_MAP, NULL);
            expect_sizes(model, &s, 0, "the base alone");
            continue;
        }
        FILE *more = fopen(s.path, "r+b");
        cr_assert(more && fwrite(file.data, 1, end, more) == end && fclose(more) == 0);
        cr_assert(mf_model_attach(model, s.path, &error) == MF_OK, "%s", error.detail);
        cr_assert(mf_model_grow(model, mf_model_granularity(model, i), NULL, &error) == MF_OK, "%s", error.detail);
        expect_sizes(model, &s, i + 1, "a shell more");
    }
    mf_model_close(model);
    drop_file(&file);
    drop_scene(&s);
}

/* ---- Wrong files ---- */

static mf_status attach(const scene *s, const char *name, mf_error *error)
{
    mf_model *model = NULL;
    model_file head = read_file(beside(s, "model.mf").text);
    *error = (mf_error)MF_ERROR_INIT;
    cr_assert(mf_model_open_memory(&model, head.data, head.bytes, NULL, NULL) == MF_OK);
    const mf_status status = mf_model_attach(model, beside(s, name).text, error);
    cr_assert(status == error->status && (status == MF_OK) == !error->detail[0]);
    expect_sizes(model, s, 0, "as it was");
    mf_model_close(model);
    drop_file(&head);
    return status;
}

Test(parts, files_of_other_models_and_what_is_no_part_are_refused)
{
    scene s = new_parts(MFI_RAW, 8), other = new_parts(MFI_RAW, 9);
    mf_error error;
    cr_assert(rename(beside(&other, "model.shell1.mfpart").text, beside(&s, "other").text) == 0);
    cr_assert(attach(&s, "other", &error) == MF_E_FORMAT && strstr(error.detail, "another model"), "%s", error.detail);
    cr_assert(rename(other.path, beside(&s, "other.mf").text) == 0);
    cr_assert(attach(&s, "other.mf", &error) == MF_E_FORMAT && strstr(error.detail, "no region"), "%s", error.detail);
    cr_assert(attach(&s, "absent", &error) == MF_E_NOT_FOUND);
    write_bytes(beside(&s, "short").text, "\x89MFP", 4);
    cr_assert(attach(&s, "short", &error) == MF_E_FORMAT);
    write_bytes(beside(&s, "text").text, "Once upon a time", 16);
    cr_assert(attach(&s, "text", &error) == MF_E_FORMAT);
    /* One that has the name of a missing part does not keep the others from being used. */
    cr_assert(rename(beside(&s, "other").text, beside(&s, "model.shell2.mfpart").text) == 0);
    mf_model *model = open_path(beside(&s, "model.mf").text, MF_LOAD_MAP, NULL);
    expect_sizes(model, &s, 2, "up to the impostor");
    cr_assert(mf_model_grow(model, NULL, NULL, &error) == MF_E_FORMAT && strstr(error.detail, "another model"));
    mf_model_close(model);
    drop_scene(&s);
    drop_scene(&other);
}

/* The header and its segment, with a right checksum. */
static void seal(unsigned char *part)
{
    mfi_part_header header;
    memcpy(&header, part, sizeof header);
    if (header.segment_count > MFI_PART_SEGMENTS) return; /* refused in any case */
    header.checksum = XXH64(part + 16, 48 + 64 * (size_t)header.segment_count, 0);
    memcpy(part, &header, sizeof header);
}

Test(parts, every_truncated_and_every_altered_header_is_refused)
{
    scene s = new_parts(MFI_RAW, 10);
    mf_error error;
    model_file part = read_file(beside(&s, "model.shell1.mfpart").text);
    mf_model *model = NULL;
    model_file head = read_file(beside(&s, "model.mf").text);
    const path changed = beside(&s, "changed");
    rng r = { 10 };
    cr_assert(mf_model_open_memory(&model, head.data, head.bytes, NULL, NULL) == MF_OK);
    write_bytes(changed.text, part.data, part.bytes);
    const int fd = open(changed.text, O_RDWR);
    for (size_t at = 0; at < 128; at++) { /* the header and its one segment */
        for (int bit = 0; bit < 8; bit++) {
            const unsigned char byte = (unsigned char)(part.data[at] ^ (1u << bit));
            cr_assert(pwrite(fd, &byte, 1, (off_t)at) == 1);
            const mf_status status = mf_model_attach(model, changed.text, &error);
            cr_assert(status == MF_E_FORMAT || status == MF_E_CHECKSUM || status == MF_E_UNSUPPORTED, "byte %zu", at);
        }
        cr_assert(pwrite(fd, part.data + at, 1, (off_t)at) == 1);
    }
    cr_assert(ftruncate(fd, (off_t)part.bytes + 1) == 0 && mf_model_attach(model, changed.text, &error) == MF_E_FORMAT);
    for (uint32_t i = 0; i < test_rounds(300); i++) {
        const uint32_t length = i < 130 ? i : i == 130 ? (uint32_t)part.bytes - 1 : rng_below(&r, (uint32_t)part.bytes);
        cr_assert(ftruncate(fd, (off_t)length) == 0);
        cr_assert(pwrite(fd, part.data, length, 0) == (ssize_t)length);
        cr_assert(mf_model_attach(model, changed.text, &error) == MF_E_FORMAT, "%u bytes", length);
    }
    close(fd);
    mf_model_close(model);
    drop_file(&part);
    drop_file(&head);
    drop_scene(&s);
}

/* Makers that know the checksum: whatever a segment says, nothing outside the file or the region is touched. */
Test(parts, segments_that_are_well_hashed_and_wrong_are_refused_or_harmless)
{
    scene s = new_parts(MFI_RAW, 11);
    model_file part = read_file(beside(&s, "model.shell1.mfpart").text);
    model_file head = read_file(beside(&s, "model.mf").text);
    const path changed = beside(&s, "changed");
    rng r = { 11 };
    uint32_t n_taken = 0;
    for (uint32_t i = 0; i < test_rounds(100); i++) {
        mf_model_options options = test_options(NULL);
        mf_model *model = NULL;
        mf_error error = MF_ERROR_INIT;
        unsigned char *segment = part.data + 64;
        uint64_t saved[8], word;
        const uint32_t field = rng_below(&r, 8);
        memcpy(saved, segment, sizeof saved);
        const uint64_t words[] = { 0,
                                   1,
                                   65536,
                                   UINT64_MAX,
                                   saved[field] + 65536,
                                   saved[field] - 1,
                                   part.bytes,
                                   131072,
                                   saved[field] - 65536,
                                   (uint64_t)1 << 63,
                                   INT64_MAX };
        word = words[rng_below(&r, 11)];
        memcpy(segment + 8 * field, &word, sizeof word);
        if (rng_below(&r, 4) == 0) part.data[20] = (unsigned char)rng_below(&r, 4); /* segments */
        seal(part.data);
        write_bytes(changed.text, part.data, part.bytes);
        options.verify = i % 2 ? MF_VERIFY_NONE : MF_VERIFY_FULL;
        options.load = i % 3 ? MF_LOAD_MAP : MF_LOAD_COPY;
        cr_assert(mf_model_open_memory(&model, head.data, head.bytes, &options, NULL) == MF_OK);
        cr_assert(mf_model_attach(model, beside(&s, "model.tables.mfpart").text, NULL) == MF_OK);
        if (mf_model_attach(model, changed.text, &error) == MF_OK) {
            bool same;
            n_taken++;
            if (mf_model_grow(model, "M", NULL, &error) == MF_OK) {
                cr_assert(run_size(model, &s, 1, &same, &error) == MF_OK);
                cr_assert(same, "field %u is %llx", field, (unsigned long long)word);
            }
        } else {
            cr_assert(error.detail[0]);
        }
        mf_model_close(model);
        memcpy(segment, saved, sizeof saved);
        part.data[20] = 1;
    }
    cr_assert(n_taken > 0, "some changes are none, or to a checksum that is not asked for");
    drop_file(&part);
    drop_file(&head);
    drop_scene(&s);
}

static void keep_line(void *user, int level, const char *line)
{
    if (level <= 1) snprintf(user, 200, "%s", line);
}

Test(parts, a_damaged_payload_is_named_and_its_repair_is_found)
{
    scene s = new_scene(MFK_BF16, MFI_RAW, 2048, 12);
    const path head = beside(&s, "model.mf"), damaged = beside(&s, "model.shell2.2of2.mfpart");
    mf_error error = MF_ERROR_INIT;
    mf_model_options options = test_options(NULL);
    mf_model *model = NULL;
    split_to(s.path, head.text, 600 << 10, 0);
    model_file part = read_file(damaged.text);
    part.data[part.bytes - 5] ^= 1;
    write_bytes(damaged.text, part.data, part.bytes);
    char logged[200] = "";
    options.log = keep_line;
    options.log_user = logged;
    cr_assert(mf_model_open(&model, head.text, &options, &error) == MF_OK, "%s", error.detail);
    cr_assert(strstr(logged, "model.shell2.2of2.mfpart") && strstr(logged, "damaged"), "%s", logged);
    expect_sizes(model, &s, 2, "the damaged part counts as missing");
    cr_assert(mf_model_grow(model, "L", NULL, &error) == MF_E_CHECKSUM);
    cr_assert(strstr(error.detail, "model.shell2.2of2.mfpart"), "%s", error.detail);
    expect_sizes(model, &s, 2, "the others stay");
    part.data[part.bytes - 5] ^= 1;
    write_bytes(damaged.text, part.data, part.bytes);
    cr_assert(mf_model_grow(model, "L", NULL, &error) == MF_OK, "%s", error.detail);
    expect_sizes(model, &s, 3, "repaired");
    mf_model_close(model);
    drop_file(&part);
    drop_scene(&s);
}

/* ---- Fed ---- */

static mf_status feed(mf_model *model, const model_file *file, uint32_t shell, rng *r, mf_error *error)
{
    mf_shell_info info = MF_SHELL_INFO_INIT;
    cr_assert(mf_model_shell_info_get(model, shell, &info) == MF_OK);
    mf_status status = MF_OK;
    for (uint64_t done = info.fed_bytes, n; done < info.stored_bytes && status == MF_OK; done += n) {
        n = rng_between(r, 1, r->state % 3 ? 90000 : 7);
        if (n > info.stored_bytes - done) n = info.stored_bytes - done;
        status = mf_model_feed(model, shell, file->data + info.file_offset + done, (size_t)n, error);
        mf_shell_info now = MF_SHELL_INFO_INIT;
        mf_model_shell_info_get(model, shell, &now);
        const bool whole = done + n == info.stored_bytes;
        cr_assert(now.fed_bytes == (whole ? 0 : done + n) && now.resident == (whole && status == MF_OK));
    }
    return status;
}

static void expect_feeding(mfi_storage storage)
{
    scene s = new_parts(storage, 14);
    model_file file = read_file(s.path), head = read_file(beside(&s, "model.mf").text);
    mf_model *model = NULL;
    mf_error error = MF_ERROR_INIT;
    rng r = { 14 };
    mf_shell_info info = MF_SHELL_INFO_INIT;
    cr_assert(mf_model_open_memory(&model, head.data, head.bytes, NULL, NULL) == MF_OK);
    cr_assert(feed(model, &file, 2, &r, &error) == MF_OK, "%s", error.detail);
    expect_sizes(model, &s, 0, "the last shell came first");
    cr_assert(feed(model, &file, MF_SHELL_TABLES, &r, &error) == MF_OK, "%s", error.detail);
    expect_sizes(model, &s, 1, "then the tables");

    cr_assert(mf_model_shell_info_get(model, 1, &info) == MF_OK);
    const unsigned char *bytes = file.data + info.file_offset;
    const size_t n = (size_t)info.stored_bytes;
    cr_assert(mf_model_feed(model, 1, bytes, n + 1, &error) == MF_E_RANGE);
    cr_assert(mf_model_feed(model, 1, bytes, n - 1, &error) == MF_OK);
    cr_assert(mf_model_feed(model, 1, bytes, 2, &error) == MF_E_RANGE && error.detail[0]);
    cr_assert(mf_model_feed(model, 1, (const unsigned char *)"x" + (bytes[n - 1] == 'x'), 1, &error) == MF_E_CHECKSUM);
    expect_sizes(model, &s, 1, "wrong bytes are none");
    cr_assert(mf_model_feed(model, 1, bytes, 10, NULL) == MF_OK && mf_model_feed(model, 1, NULL, 0, NULL) == MF_OK);
    cr_assert(feed(model, &file, 1, &r, &error) == MF_OK, "%s", error.detail);
    expect_sizes(model, &s, 3, "and right ones all");
    cr_assert(mf_model_feed(model, 1, bytes, 1, &error) == MF_E_INVALID);

    cr_assert(mf_model_trim(model, "S", NULL, NULL) == MF_OK);
    cr_assert(mf_model_grow(model, "M", NULL, &error) == MF_E_NOT_FOUND, "what was fed is gone");
    cr_assert(feed(model, &file, 1, &r, &error) == MF_OK, "%s", error.detail);
    expect_sizes(model, &s, 2, "until it is fed again");
    mf_model_feed(model, 2, file.data, 100, NULL); /* left unfinished */
    mf_model_close(model);
    drop_file(&file);
    drop_file(&head);
    drop_scene(&s);
}

Test(parts, bytes_that_are_fed_in_pieces_become_shells)
{
    expect_feeding(MFI_RAW);
    expect_feeding(MFI_ZSTD);
}

/* ---- Cancelled, out of memory, killed ---- */

static int cancel_later(void *user, uint64_t done, uint64_t total)
{
    int *calls = user;
    cr_assert(done <= total);
    return (*calls)-- == 0;
}

/* No temporary file, and every part that has its name is good; a head too. */
static void expect_good_files(const scene *s, const char *what)
{
    DIR *folder = opendir(s->folder);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
        cr_assert(!strstr(entry->d_name, ".tmp"), "%s left %s", what, entry->d_name);
    closedir(folder);
}

static void expect_whole_parts(const scene *s, const char *what)
{
    mf_model *model = NULL;
    mf_model_options options = test_options(NULL);
    mf_error error = MF_ERROR_INIT;
    options.verify = MF_VERIFY_FULL;
    options.widest = "S";
    const path head = beside(s, "model.mf");
    const bool has_head = access(head.text, F_OK) == 0;
    if (has_head)
        cr_assert(mf_model_open(&model, head.text, &options, &error) == MF_OK, "%s: %s", what, error.detail);
    else /* the whole file stands in for it, its own shells hidden by trimming */
        cr_assert(mf_model_open(&model, s->path, &options, &error) == MF_OK, "%s: %s", what, error.detail);
    DIR *folder = opendir(s->folder);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char name[512];
        const size_t length = strlen(entry->d_name);
        if (length < 7 || strcmp(entry->d_name + length - 7, ".mfpart") != 0) continue;
        snprintf(name, sizeof name, "%s/%s", s->folder, entry->d_name);
        cr_assert(mf_model_attach(model, name, &error) == MF_OK, "%s: %s", what, error.detail);
    }
    closedir(folder);
    if (!has_head || exists(s, "model.shell2.2of2.mfpart")) {
        cr_assert(mf_model_grow(model, NULL, NULL, &error) == MF_OK, "%s: %s", what, error.detail);
        expect_sizes(model, s, 3, what);
    }
    mf_model_close(model);
}

Test(parts, cutting_can_be_cancelled_at_every_call)
{
    scene s = new_scene(MFK_BF16, MFI_RAW, 2048, 15);
    mf_status status = MF_E_CANCELLED;
    for (int at = 0; status != MF_OK; at++) {
        mf_split_options options = MF_SPLIT_OPTIONS_INIT;
        int calls = at;
        options.max_bytes = 600 << 10;
        options.progress = cancel_later;
        options.progress_user = &calls;
        status = mf_split(s.path, beside(&s, "model.mf").text, &options, NULL);
        cr_assert((status == MF_OK || status == MF_E_CANCELLED) && at < 100);
        expect_good_files(&s, "cancelling");
        expect_whole_parts(&s, "cancelling");
        cr_assert(exists(&s, "model.mf") == (status == MF_OK), "the head comes last");
    }
    drop_scene(&s);
}

Test(parts, limits_that_hold_no_head_and_files_that_are_not_whole_are_refused)
{
    scene s = new_parts(MFI_RAW, 16);
    mf_split_options options = MF_SPLIT_OPTIONS_INIT;
    mf_error error = MF_ERROR_INIT;
    const path out = beside(&s, "out.mf");
    static const uint64_t limits[] = { 1, 65536, 131071, 140000 };
    for (size_t i = 0; i < 4; i++) {
        options.max_bytes = limits[i];
        cr_assert(mf_split(s.path, out.text, &options, &error) == MF_E_INVALID && strstr(error.detail, "allow more"));
    }
    options.max_bytes = 0;
    hide(&s, "model.shell1.mfpart", true);
    cr_assert(mf_split(beside(&s, "model.mf").text, out.text, &options, &error) == MF_E_FORMAT, "%s", error.detail);
    cr_assert(mf_split(NULL, out.text, NULL, NULL) == MF_E_INVALID && mf_split(s.path, "", NULL, NULL) == MF_E_INVALID);
    cr_assert(mf_split(beside(&s, "none.mf").text, out.text, NULL, NULL) == MF_E_NOT_FOUND);
    model_file damaged = read_file(s.path);
    damaged.data[damaged.bytes - 9] ^= 4;
    write_bytes(s.path, damaged.data, damaged.bytes);
    cr_assert(mf_split(s.path, out.text, NULL, &error) == MF_E_CHECKSUM, "damage gets no good checksum");
    cr_assert(!exists(&s, "out.mf") && !exists(&s, "out.shell2.mfpart"));
    options.struct_size = 4;
    cr_assert(mf_split(s.path, out.text, &options, NULL) == MF_E_STRUCT_SIZE);
    drop_file(&damaged);
    drop_scene(&s);
}

/* What one life of a model from parts does. */
static mf_status live(const scene *s, const model_file *file, counting *memory)
{
    mf_split_options split = MF_SPLIT_OPTIONS_INIT;
    mf_model_options options = test_options(NULL);
    mf_model *model = NULL;
    mf_shell_info shell = MF_SHELL_INFO_INIT;
    split.allocator = options.allocator = counting_allocator(memory);
    options.n_thread = 1;
    mf_status status = mf_split(s->path, beside(s, "model.mf").text, &split, NULL);
    if (status != MF_OK) return status;
    hide(s, "model.shell2.mfpart", true);
    status = mf_model_open(&model, beside(s, "model.mf").text, &options, NULL);
    if (status == MF_OK) status = mf_model_attach(model, beside(s, "model.shell2.mfpart.away").text, NULL);
    if (status == MF_OK) status = mf_model_trim(model, "S", NULL, NULL);
    if (status == MF_OK) status = mf_model_grow(model, "M", NULL, NULL);
    if (status == MF_OK) {
        mf_model_shell_info_get(model, 2, &shell);
        status = mf_model_feed(model, 2, file->data + shell.file_offset, (size_t)shell.stored_bytes, NULL);
    }
    const size_t n_alloc = memory->n_alloc;
    memory->fail_at = 0; /* the rest is of the test */
    if (status == MF_OK) expect_sizes(model, s, 3, "alive");
    memory->n_alloc = n_alloc;
    mf_model_close(model);
    hide(s, "model.shell2.mfpart", false);
    return status;
}

Test(parts, every_failing_allocation_is_reported_and_leaks_nothing)
{
    scene s = new_scene(MFK_BF16, MFI_ZSTD, 256, 17);
    model_file file = read_file(s.path);
    mf_status status = MF_E_NOMEM;
    for (size_t n = 1; status != MF_OK; n++) {
        counting memory = { .mutex = PTHREAD_MUTEX_INITIALIZER, .fail_at = n };
        status = live(&s, &file, &memory);
        /* A part beside the file that cannot be attached for want of memory is as good as absent. */
        cr_assert(status == MF_OK || status == MF_E_NOMEM, "allocation %zu: %s", n, mf_status_name(status));
        cr_assert(memory.live_bytes == 0, "allocation %zu", n);
        if (status == MF_OK && memory.n_alloc >= n) status = MF_E_NOMEM;
        cr_assert(n < 1000);
    }
    drop_file(&file);
    drop_scene(&s);
}

Test(parts, a_kill_at_any_moment_leaves_no_damaged_file_under_its_name)
{
    scene s = new_scene(MFK_BF16, MFI_RAW, 2048, 18);
    model_file before = read_file(s.path);
    rng r = { 18 };
    for (uint32_t i = 0; i < test_rounds(12); i++) {
        const pid_t child = fork();
        if (child == 0) {
            mf_split_options options = MF_SPLIT_OPTIONS_INIT;
            for (unsigned pass = 0;; pass++) {
                options.max_bytes = 600 << 10;
                if (mf_split(s.path, beside(&s, "model.mf").text, &options, NULL) != MF_OK) _exit(1);
                mf_model *model = NULL;
                if (mf_model_open(&model, beside(&s, "model.mf").text, NULL, NULL) != MF_OK) _exit(1);
                if (mf_model_trim(model, "S", NULL, NULL) != MF_OK) _exit(1);
                if (mf_model_grow(model, NULL, NULL, NULL) != MF_OK) _exit(1);
                mf_model_close(model);
            }
        }
        const struct timespec pause = { .tv_nsec = (long)rng_below(&r, 30000000) };
        nanosleep(&pause, NULL);
        int how;
        kill(child, SIGKILL);
        cr_assert(waitpid(child, &how, 0) == child && WIFSIGNALED(how), "it ended by itself");
        expect_whole_parts(&s, "killing");
    }
    model_file after = read_file(s.path);
    cr_assert(after.bytes == before.bytes && memcmp(after.data, before.data, after.bytes) == 0);
    drop_file(&before);
    drop_file(&after);
    drop_scene(&s);
}
