/* test_container.c - what goes into a container comes out, and nothing but what went in. */
#define _GNU_SOURCE
#include <criterion/criterion.h>

#include <sys/mman.h>

#include "container_directory.h"
#include "container_fixup.h"
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

/* 0 shells: the base without the tables. */
static void expect_contents(const mfi_container *c, uint32_t shell_count)
{
    for (uint32_t i = 0; i < mfi_container_tensor_count(c); i++) {
        const mfi_tensor *tensor = mfi_container_tensor(c, i);
        const mfi_region_kind kind = mfi_container_region(c, tensor->region)->kind;
        cr_assert_eq(mfi_container_find(c, tensor->name, tensor->shell), tensor);
        if (kind == MFI_REGION_BASE ? false : kind == MFI_REGION_TABLES ? !shell_count : tensor->shell >= shell_count) {
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

/* A fixture's bytes, to be damaged. */
typedef struct image {
    unsigned char *data;
    size_t bytes;
} image;

static image image_of(mfi_storage storage)
{
    char *path = fixture_path();
    write_fixture(path, storage, false);
    image im;
    im.data = fixture_read(path, &im.bytes);
    fixture_remove(path);
    return im;
}

/* Opens and loads `bytes` bytes at `data`; returns the first status that is not MF_OK, and what it said. */
static mf_status open_and_load(const unsigned char *data, size_t bytes, mf_verify verify, mfi_container **c,
                               mf_error *error)
{
    mf_model_options options = options_for(MF_LOAD_MAP, verify);
    mfi_container_source source = { .fd = -1, .memory = data, .memory_bytes = bytes };
    options.n_thread = 1;
    *error = (mf_error)MF_ERROR_INIT;
    mf_status status = mfi_container_open(c, &source, &options, error);
    if (status == MF_OK) status = mfi_container_load(*c, UINT32_MAX, error);
    cr_assert_eq(status, error->status);
    cr_assert_eq(status != MF_OK, error->detail[0] != 0, "a failure without a sentence");
    return status;
}

static mf_status status_of(const unsigned char *data, size_t bytes)
{
    mfi_container *c;
    mf_error error;
    mf_status status = open_and_load(data, bytes, MF_VERIFY_FULL, &c, &error);
    mfi_container_close(c);
    return status;
}

/* ---- Round trips ---- */

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

Test(container, metadata_returns_with_its_types)
{
    image im = image_of(MFI_RAW);
    mfi_container *c;
    mf_error error;
    cr_assert_eq(open_and_load(im.data, im.bytes, MF_VERIFY_FULL, &c, &error), MF_OK);
    uint64_t number;
    double fraction;
    const char *key, *text;
    const uint32_t *values;
    size_t count;
    cr_assert(mfi_container_u64(c, "a.number", &number) && number == UINT64_MAX);
    cr_assert(mfi_container_f64(c, "a.fraction", &fraction) && fraction == 0.1);
    cr_assert(mfi_container_text(c, "title", &text) && !*text);
    cr_assert(mfi_container_u32s(c, "widths", &values, &count) && count == 3 && values[2] == 96);
    cr_assert(mfi_container_u32s(c, "none", &values, &count) && count == 0);
    cr_assert_not(mfi_container_u64(c, "a.fraction", &number), "of another type");
    cr_assert_not(mfi_container_text(c, "absent", &text));
    cr_assert(mfi_container_text_at(c, 0, &key, &text));
    cr_assert_str_eq(key, "family");
    cr_assert(mfi_container_text_at(c, 1, &key, &text));
    cr_assert_str_eq(key, "title");
    cr_assert_not(mfi_container_text_at(c, 2, &key, &text));

    static const char *const some[] = { "family", "a.number" }, *const all[] = { "fam*", "a.*" };
    cr_assert_eq(mfi_container_check_keys(c, some, 2, &error), MF_E_UNSUPPORTED);
    cr_assert(strstr(error.detail, "a.fraction"), "%s", error.detail);
    cr_assert_eq(mfi_container_check_keys(c, all, 2, &error), MF_OK);
    mfi_container_close(c);
    free(im.data);
}

Test(container, weights_have_one_identity_whatever_their_storage)
{
    image raw = image_of(MFI_RAW), packed = image_of(MFI_ZSTD);
    mfi_container *a, *b;
    mf_error error;
    cr_assert_lt(packed.bytes, raw.bytes);
    cr_assert_eq(open_and_load(raw.data, raw.bytes, MF_VERIFY_FULL, &a, &error), MF_OK);
    cr_assert_eq(open_and_load(packed.data, packed.bytes, MF_VERIFY_FULL, &b, &error), MF_OK);
    cr_assert_eq(mfi_container_content_hash(a), mfi_container_content_hash(b));
    mfi_container_close(a);
    mfi_container_close(b);
    free(raw.data);
    free(packed.data);
}

Test(container, part_of_a_file_opens_at_any_offset)
{
    char *path = fixture_path();
    image im = image_of(MFI_RAW);
    static const uint64_t offsets[] = { 4096, 4103 }; /* on a page: mapped; else copied */
    for (size_t i = 0; i < 2; i++) {
        int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
        cr_assert_eq(pwrite(fd, im.data, im.bytes, (off_t)offsets[i]), (ssize_t)im.bytes);
        cr_assert_eq(pwrite(fd, "more", 4, (off_t)(offsets[i] + im.bytes)), 4);
        mf_error error = MF_ERROR_INIT;
        mf_model_options options = options_for(MF_LOAD_MAP, MF_VERIFY_FULL);
        mfi_container_source source = { .fd = fd, .offset = offsets[i], .bytes = im.bytes };
        mfi_container *c;
        cr_assert_eq(mfi_container_open(&c, &source, &options, &error), MF_OK, "%s", error.detail);
        close(fd); /* the descriptor stays the caller's */
        cr_assert_eq(mfi_container_load(c, 4, &error), MF_OK, "%s", error.detail);
        expect_contents(c, 4);
        cr_assert_eq(mfi_container_mapped_bytes(c) > 0, i == 0);
        mfi_container_close(c);
    }
    free(im.data);
    fixture_remove(path);
}

Test(container, a_copy_survives_the_file)
{
    char *path = fixture_path();
    write_fixture(path, MFI_RAW, false);
    mf_error error = MF_ERROR_INIT;
    mf_model_options options = options_for(MF_LOAD_COPY, MF_VERIFY_DEFAULT);
    mfi_container_source source = { .path = path, .fd = -1 };
    mfi_container *c;
    cr_assert_eq(mfi_container_open(&c, &source, &options, &error), MF_OK);
    cr_assert_eq(mfi_container_load(c, 4, &error), MF_OK);
    cr_assert_eq(truncate(path, 0), 0);
    expect_contents(c, 4);
    mfi_container_close(c);
    fixture_remove(path);
}

Test(container, opening_without_verifying_touches_no_weight)
{
    image im = image_of(MFI_RAW);
    const mfi_file_header *header = (const mfi_file_header *)(void *)im.data;
    size_t head = (size_t)mfi_head_bytes(header->slot_bytes);
    unsigned char *data = mmap(NULL, im.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(data, im.data, im.bytes);
    cr_assert_eq(mprotect(data + head, im.bytes - head, PROT_NONE), 0);
    mfi_container *c;
    mf_error error;
    cr_assert_eq(open_and_load(data, im.bytes, MF_VERIFY_NONE, &c, &error), MF_OK, "%s", error.detail);
    mfi_container_close(c);
    munmap(data, im.bytes);
    free(im.data);
}

/* ---- Damage ---- */

/* The regions of an image, by its own directory. */
static size_t region_ends(const image *im, uint64_t *end, size_t room)
{
    mfi_container *c;
    mf_error error;
    cr_assert_eq(open_and_load(im->data, im->bytes, MF_VERIFY_NONE, &c, &error), MF_OK);
    size_t count = mfi_container_region_count(c);
    cr_assert_leq(count, room);
    for (uint32_t i = 0; i < count; i++) {
        const mfi_region *region = mfi_container_region(c, i);
        end[i] = region->file_offset + region->stored_bytes;
    }
    mfi_container_close(c);
    return count;
}

/* The first `length` bytes in a block of their own, so that sanitizers see what reads beyond. */
static image prefix_of(const image *im, size_t length)
{
    image prefix = { .bytes = length };
    cr_assert_eq(posix_memalign((void **)&prefix.data, 64, length + !length), 0);
    memcpy(prefix.data, im->data, length);
    return prefix;
}

static void expect_prefix(const image *prefix, size_t n_whole, const char *what)
{
    mfi_container *c;
    mf_error error;
    mf_status status = open_and_load(prefix->data, prefix->bytes, MF_VERIFY_FULL, &c, &error);
    cr_assert_eq(status, n_whole ? MF_OK : MF_E_FORMAT, "%zu bytes, %s: %s", prefix->bytes, what, error.detail);
    if (n_whole) expect_contents(c, n_whole == 1 ? 0 : n_whole == 2 ? 1 : n_whole == 3 ? 3 : 4);
    mfi_container_close(c);
}

/* Makes the directory say that it and the file end here. What was cut leaves every other hash as it was. */
static void call_whole(image *prefix)
{
    mfi_file_slot *slot = (mfi_file_slot *)(void *)(prefix->data + MFI_SLOT_BASE);
    if (prefix->bytes < MFI_SLOT_BASE + sizeof *slot) return;
    slot->file_bytes = prefix->bytes;
    if (slot->directory_bytes > prefix->bytes - MFI_SLOT_BASE) slot->directory_bytes = prefix->bytes - MFI_SLOT_BASE;
    fixup_directory(slot);
}

/* Every length, as it is and when the directory, well hashed, knows no other. */
static void cut_everywhere(mfi_storage storage)
{
    image im = image_of(storage);
    uint64_t end[8];
    size_t n_region = region_ends(&im, end, 8);
    cr_assert_eq(n_region, 4); /* base, tables, shells 1 and 3 */
    for (size_t length = 0; length <= im.bytes; length++) {
        size_t n_whole = 0; /* the regions that are there, if this is where one ends */
        for (size_t i = 0; i < n_region; i++)
            if (length == end[i]) n_whole = i + 1;
        image prefix = prefix_of(&im, length);
        expect_prefix(&prefix, n_whole, "as it is");
        call_whole(&prefix);
        expect_prefix(&prefix, length == im.bytes ? n_region : 0, "called whole");
        free(prefix.data);
    }
    unsigned char *longer = aligned_alloc(64, (im.bytes + 64) / 64 * 64);
    memcpy(longer, im.data, im.bytes);
    longer[im.bytes] = 0;
    cr_assert_eq(status_of(longer, im.bytes + 1), MF_E_FORMAT);
    free(longer);
    free(im.data);
}

Test(container, a_prefix_opens_exactly_where_a_region_ends)
{
    cut_everywhere(MFI_RAW);
}

Test(container, a_compressed_prefix_opens_exactly_where_a_region_ends)
{
    cut_everywhere(MFI_ZSTD);
}

Test(container, a_mapped_prefix_opens_without_its_last_shells)
{
    char *path = fixture_path();
    image im = image_of(MFI_RAW);
    uint64_t end[8];
    region_ends(&im, end, 8);
    write_fixture(path, MFI_RAW, false);
    cr_assert_eq(truncate(path, (off_t)end[2]), 0);
    mf_error error = MF_ERROR_INIT;
    mf_model_options options = options_for(MF_LOAD_MAP, MF_VERIFY_FULL);
    mfi_container_source source = { .path = path, .fd = -1 };
    mfi_container *c;
    cr_assert_eq(mfi_container_open(&c, &source, &options, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mfi_container_load(c, 4, &error), MF_OK, "%s", error.detail);
    expect_contents(c, 3);
    mfi_container_close(c);
    free(im.data);
    fixture_remove(path);
}

/* Whether a hash covers the byte at `at`. */
static bool hashed(const image *im, size_t at, const uint64_t *region_end, size_t n_region)
{
    const mfi_file_header *header = (const mfi_file_header *)(void *)im->data;
    const mfi_file_slot *slot = (const mfi_file_slot *)(void *)(im->data + MFI_SLOT_BASE);
    uint64_t begin = mfi_head_bytes(header->slot_bytes);
    if (at < sizeof *header || (at >= MFI_SLOT_BASE && at - MFI_SLOT_BASE < slot->directory_bytes)) return true;
    for (size_t i = 0; i < n_region; i++) {
        if (at >= begin && at < region_end[i]) return true;
        begin = (region_end[i] + MFI_REGION_ALIGN - 1) / MFI_REGION_ALIGN * MFI_REGION_ALIGN;
    }
    return false;
}

/* Flips every bit of header and directory, and one in every `step`-th byte of the weights: what a hash covers
 * is refused. The rest, of which few bytes are tried, changes nothing. */
static void flip_bits(mfi_storage storage, size_t step)
{
    image im = image_of(storage);
    uint64_t end[8];
    size_t n_region = region_ends(&im, end, 8);
    size_t directory_end =
        MFI_SLOT_BASE + (size_t)((mfi_file_slot *)(void *)(im.data + MFI_SLOT_BASE))->directory_bytes;
    for (size_t at = 0; at < im.bytes;) {
        bool covered = hashed(&im, at, end, n_region), whole = covered && at < directory_end;
        for (int bit = 0; bit < (whole ? 8 : 1); bit++) {
            unsigned char flip = (unsigned char)(1 << (whole ? bit : (int)(at % 8)));
            im.data[at] ^= flip;
            mf_status status = status_of(im.data, im.bytes);
            im.data[at] ^= flip;
            cr_assert_eq(status != MF_OK, covered, "byte %zu, bit %d", at, bit);
            cr_assert(status == MF_OK || status == MF_E_FORMAT || status == MF_E_CHECKSUM ||
                      (status == MF_E_UNSUPPORTED && at >= 8 && at < 12)); /* the version */
        }
        size_t next = at + (whole ? 1 : covered ? step : 1021);
        at = at < MFI_SLOT_BASE && next > MFI_SLOT_BASE ? MFI_SLOT_BASE : next;
    }
    free(im.data);
}

Test(container, every_damaged_byte_of_a_raw_file_is_refused)
{
    flip_bits(MFI_RAW, 1);
}

Test(container, every_damaged_byte_of_a_compressed_file_is_refused)
{
    flip_bits(MFI_ZSTD, 37);
}

/* ---- Directories that are well hashed and wrong ---- */

static mfi_file_header *header_of(image *im)
{
    return (mfi_file_header *)(void *)im->data;
}

static mfi_file_slot *slot_of(image *im)
{
    return (mfi_file_slot *)(void *)(im->data + MFI_SLOT_BASE);
}

/* Entry `index` of its kind. */
static void *entry_of(image *im, uint16_t kind, int index)
{
    mfi_file_slot *slot = slot_of(im);
    unsigned char *at = (unsigned char *)(slot + 1);
    for (uint32_t i = 0; i < slot->entry_count; i++) {
        mfi_file_entry *entry = (mfi_file_entry *)(void *)at;
        if (entry->kind == kind && index-- == 0) return entry;
        at += entry->entry_bytes;
    }
    cr_assert_fail("no such entry");
    return NULL;
}

static mfi_file_tensor *tensor_of(image *im, int index)
{
    return entry_of(im, MFI_ENTRY_TENSOR, index);
}

static mfi_file_region *region_of(image *im, int index)
{
    return entry_of(im, MFI_ENTRY_REGION, index);
}

static mfi_file_frame *frame_of(image *im, int region, int index)
{
    return (mfi_file_frame *)(region_of(im, region) + 1) + index;
}

static mfi_file_metadata *metadata_of(image *im, int index)
{
    return entry_of(im, MFI_ENTRY_METADATA, index);
}

#define EXPECT_STATUS(storage, change, expected, part)                                                   \
    do {                                                                                                 \
        image im = image_of(storage);                                                                    \
        mfi_container *c;                                                                                \
        mf_error error;                                                                                  \
        change;                                                                                          \
        fixup_checksums(im.data, im.bytes);                                                              \
        mf_status status = open_and_load(im.data, im.bytes, MF_VERIFY_FULL, &c, &error);                 \
        cr_assert_eq(status, expected, "%s gave %s: %s", #change, mf_status_name(status), error.detail); \
        cr_assert(strstr(error.detail, part), "%s said: %s", #change, error.detail);                     \
        mfi_container_close(c);                                                                          \
        free(im.data);                                                                                   \
    } while (0)
#define EXPECT_DAMAGED(storage, change, part) EXPECT_STATUS(storage, change, MF_E_FORMAT, part)

Test(container, wrong_headers_and_slots_are_refused)
{
    EXPECT_DAMAGED(MFI_RAW, im.data[1] = 'G', "not a .mf file");
    EXPECT_STATUS(MFI_RAW, im.data[8] = 2, MF_E_UNSUPPORTED, "version 2");
    EXPECT_DAMAGED(MFI_RAW, header_of(&im)->zero = 1, "header");
    EXPECT_DAMAGED(MFI_RAW, header_of(&im)->slot_bytes = UINT64_MAX / 4096 * 4096, "header");
    EXPECT_DAMAGED(MFI_RAW, header_of(&im)->slot_bytes = 1u << 30, "ends within");
    EXPECT_DAMAGED(MFI_RAW, header_of(&im)->slot_bytes += 1, "header");
    EXPECT_DAMAGED(MFI_RAW, header_of(&im)->directory_capacity = header_of(&im)->slot_bytes + 4096, "header");
    EXPECT_DAMAGED(MFI_RAW, header_of(&im)->directory_capacity = 0, "header");
    EXPECT_STATUS(MFI_RAW, slot_of(&im)->directory_bytes += 4096 * 100, MF_E_CHECKSUM, "directory");
    EXPECT_STATUS(MFI_RAW, slot_of(&im)->directory_bytes += 4, MF_E_CHECKSUM, "directory");
    EXPECT_STATUS(MFI_RAW, slot_of(&im)->plan_bytes = UINT64_MAX, MF_E_CHECKSUM, "directory");
    EXPECT_STATUS(MFI_RAW, slot_of(&im)->plan_checksum = 1, MF_E_CHECKSUM, "directory");
    EXPECT_DAMAGED(MFI_RAW, slot_of(&im)->directory_bytes += 8, "do not fill");
    EXPECT_DAMAGED(MFI_RAW, slot_of(&im)->entry_count -= 1, "do not fill");
    EXPECT_DAMAGED(MFI_RAW, slot_of(&im)->entry_count = UINT32_MAX, "impossible size");
    EXPECT_DAMAGED(MFI_RAW, slot_of(&im)->file_bytes += 1, "end with the file");
    EXPECT_DAMAGED(MFI_RAW, slot_of(&im)->zero2 = 1, "reserved");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 3)->entry.entry_bytes = 0, "impossible size");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 3)->entry.entry_bytes += 4, "impossible size");
    EXPECT_STATUS(MFI_RAW, tensor_of(&im, 3)->entry.flags = 3, MF_E_UNSUPPORTED, "flags");
}

Test(container, wrong_metadata_is_refused)
{
    EXPECT_DAMAGED(MFI_RAW, metadata_of(&im, 0)->key_bytes = 0, "no name");
    EXPECT_DAMAGED(MFI_RAW, metadata_of(&im, 0)->key_bytes = UINT32_MAX, "no name");
    EXPECT_DAMAGED(MFI_RAW, ((char *)(metadata_of(&im, 0) + 1))[3] = 0, "no name");
    EXPECT_DAMAGED(MFI_RAW, ((char *)(metadata_of(&im, 0) + 1))[0] = 'z', "out of order");
    EXPECT_DAMAGED(MFI_RAW, memcpy(metadata_of(&im, 1) + 1, metadata_of(&im, 0) + 1, 16), "no name");
    EXPECT_DAMAGED(MFI_RAW, metadata_of(&im, 0)->value_bytes = 7, "wrong size");
    EXPECT_DAMAGED(MFI_RAW, metadata_of(&im, 0)->value_bytes = UINT64_MAX, "wrong size");
    EXPECT_DAMAGED(MFI_RAW, ((char *)(metadata_of(&im, 2) + 1))[8 + 2] = 0, "wrong size"); /* "test" */
    EXPECT_STATUS(MFI_RAW, metadata_of(&im, 0)->type = 5, MF_E_UNSUPPORTED, "a.fraction");
    EXPECT_STATUS(MFI_RAW, (metadata_of(&im, 0)->type = 5, metadata_of(&im, 0)->entry.flags = 0), MF_OK, "");
}

Test(container, wrong_regions_are_refused)
{
    EXPECT_DAMAGED(MFI_RAW, region_of(&im, 0)->kind = MFI_REGION_TABLES, "not the base");
    EXPECT_DAMAGED(MFI_RAW, region_of(&im, 1)->kind = MFI_REGION_BASE, "out of order");
    EXPECT_DAMAGED(MFI_RAW, region_of(&im, 3)->shell = 1, "out of order");
    EXPECT_DAMAGED(MFI_RAW, region_of(&im, 3)->shell = 0, "has shell 0");
    EXPECT_DAMAGED(MFI_RAW, region_of(&im, 1)->file_offset -= 65536, "not where");
    EXPECT_DAMAGED(MFI_RAW, region_of(&im, 1)->file_offset += 8, "not where");
    EXPECT_DAMAGED(MFI_RAW, region_of(&im, 3)->stored_bytes = 0, "impossible size");
    EXPECT_DAMAGED(MFI_RAW, region_of(&im, 3)->stored_bytes = UINT64_MAX - 65536, "impossible size");
    EXPECT_STATUS(MFI_RAW, region_of(&im, 3)->raw_bytes = UINT64_MAX, MF_E_UNSUPPORTED, "address space");
    EXPECT_DAMAGED(MFI_RAW, region_of(&im, 3)->raw_bytes += 64, "raw");
    EXPECT_DAMAGED(MFI_RAW, region_of(&im, 3)->frame_count = 1, "frames");
    EXPECT_DAMAGED(MFI_ZSTD, region_of(&im, 0)->frame_count -= 1, "frames");
    EXPECT_DAMAGED(MFI_ZSTD, region_of(&im, 0)->frame_count = 0x10000000, "frames");
    EXPECT_DAMAGED(MFI_ZSTD, region_of(&im, 0)->raw_bytes += 64, "add up");
    EXPECT_STATUS(MFI_RAW, region_of(&im, 3)->storage = 2, MF_E_UNSUPPORTED, "type 2");
    EXPECT_STATUS(MFI_RAW, region_of(&im, 3)->kind = 9, MF_E_UNSUPPORTED, "type 9");
}

/* The frame of the first bf16 panels: compressed, in two planes. */
#define FRAME frame_of(&im, 0, 3)

Test(container, wrong_frames_are_refused)
{
    EXPECT_DAMAGED(MFI_ZSTD, FRAME->split = 3, "add up");
    EXPECT_DAMAGED(MFI_ZSTD, FRAME->split = 0, "add up");
    EXPECT_DAMAGED(MFI_ZSTD, FRAME->method = 2, "add up");
    EXPECT_DAMAGED(MFI_ZSTD, FRAME->method = 0, "add up");
    EXPECT_DAMAGED(MFI_ZSTD, FRAME->zero = 1, "add up");
    EXPECT_DAMAGED(MFI_ZSTD, FRAME->raw_bytes += 2, "add up");
    EXPECT_DAMAGED(MFI_ZSTD, FRAME->stored_bytes += 1, "add up");
    EXPECT_DAMAGED(MFI_ZSTD, FRAME->stored_bytes = 0, "add up");
    /* These add up, and are not what zstd finds. */
    EXPECT_DAMAGED(MFI_ZSTD, (FRAME[0].raw_bytes += 64, FRAME[1].raw_bytes -= 64), "decoded");
    EXPECT_DAMAGED(MFI_ZSTD, (FRAME[0].stored_bytes += 1, FRAME[1].stored_bytes -= 1), "decoded");
}

/* A file of 200 KB that would decode to a gigabyte is refused before anything is allocated for it. */
Test(container, a_decompression_bomb_is_refused)
{
    EXPECT_DAMAGED(MFI_ZSTD, (FRAME->raw_bytes = MFI_FRAME_MAX, region_of(&im, 0)->raw_bytes += MFI_FRAME_MAX),
                   "add up");
}

Test(container, wrong_tensors_are_refused)
{
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 0)->region = 4, "in no region");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 0)->region = 1, "not as long");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 9)->region = 0, "out of order");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 1)->offset -= 64, "overlaps");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 1)->offset += 64, "overlaps");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 1)->offset += 1, "overlaps");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 1)->bytes = UINT64_MAX, "not inside");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 1)->bytes += 1, "does not match");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 1)->n = 0, "does not match");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 3)->n = UINT64_MAX, "does not match");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 3)->k = UINT64_MAX - 30, "does not match");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 3)->k = (uint64_t)1 << 59, "does not match");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 3)->panels += 1, "does not match");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 0)->panels = 1, "does not match");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 0)->k = 2, "does not match");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 3)->type = MFK_U8, "does not match");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 8)->shell = 0, "twice");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 0)->name_bytes = 0, "name");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 0)->name_bytes = UINT32_MAX, "name");
    EXPECT_DAMAGED(MFI_RAW, ((char *)(tensor_of(&im, 0) + 1))[1] = 0, "name");
    EXPECT_DAMAGED(MFI_RAW, ((char *)(tensor_of(&im, 0) + 1))[1] = '\n', "name");
    EXPECT_DAMAGED(MFI_RAW, tensor_of(&im, 0)->zero = 1, "name");
    EXPECT_DAMAGED(MFI_RAW, memcpy(tensor_of(&im, 1) + 1, "norm", 4), "twice");
}

/* A later version's file: what it adds as optional is passed over, what it requires is named. */
Test(container, unknown_entries_are_skipped_or_named)
{
    EXPECT_STATUS(MFI_RAW, tensor_of(&im, 2)->type = 7, MF_E_UNSUPPORTED, "half");
    EXPECT_STATUS(MFI_RAW, tensor_of(&im, 2)->kind = 4, MF_E_UNSUPPORTED, "half");
    EXPECT_STATUS(MFI_RAW, metadata_of(&im, 0)->entry.kind = 77, MF_E_UNSUPPORTED, "type 77");

    image im = image_of(MFI_RAW);
    mfi_container *c;
    mf_error error;
    metadata_of(&im, 0)->entry.flags = 0;
    metadata_of(&im, 0)->entry.kind = 77;
    tensor_of(&im, 2)->entry.flags = 0;
    tensor_of(&im, 2)->type = 7;
    region_of(&im, 3)->entry.flags = 0;
    region_of(&im, 3)->kind = 9;
    tensor_of(&im, 8)->entry.flags = tensor_of(&im, 9)->entry.flags = 0;
    fixup_checksums(im.data, im.bytes);
    cr_assert_eq(open_and_load(im.data, im.bytes, MF_VERIFY_FULL, &c, &error), MF_OK, "%s", error.detail);
    cr_assert_eq(mfi_container_tensor_count(c), 7);
    cr_assert_null(mfi_container_find(c, "half", 0));
    cr_assert_null(mfi_container_find(c, "down", 3));
    expect_contents(c, 3);
    mfi_container_close(c);
    free(im.data);
}

/* ---- Slots ---- */

/* Writes generation 2 of the directory, with a plan, to slot 1, as an update does. */
static mfi_file_slot *write_second_slot(image *im)
{
    const mfi_file_header *header = (const mfi_file_header *)(void *)im->data;
    unsigned char *second = im->data + MFI_SLOT_BASE + header->slot_bytes;
    mfi_file_slot *slot = (mfi_file_slot *)(void *)second;
    memcpy(second, slot_of(im), (size_t)slot_of(im)->directory_bytes);
    memcpy(second + header->directory_capacity, "a plan", 6);
    slot->generation = 2;
    slot->plan_bytes = 6;
    slot->plan_checksum = mfi_hash("a plan", 6);
    mfi_file_metadata *family =
        (mfi_file_metadata *)(void *)((unsigned char *)slot +
                                      ((unsigned char *)metadata_of(im, 2) - (unsigned char *)slot_of(im)));
    memcpy((char *)(family + 1) + 8, "next", 4);
    fixup_checksums(im->data, im->bytes);
    return slot;
}

static const char *family_of(const image *im)
{
    mfi_container *c;
    mf_error error;
    const char *text;
    cr_assert_eq(open_and_load(im->data, im->bytes, MF_VERIFY_FULL, &c, &error), MF_OK, "%s", error.detail);
    cr_assert(mfi_container_text(c, "family", &text));
    const char *found = strcmp(text, "test") == 0 ? "test" : strcmp(text, "next") == 0 ? "next" : "neither";
    mfi_container_close(c);
    return found;
}

Test(container, the_newest_slot_that_holds_counts)
{
    image im = image_of(MFI_RAW);
    mfi_file_slot *second = write_second_slot(&im);
    cr_assert_str_eq(family_of(&im), "next");

    ((unsigned char *)second)[200] ^= 1; /* a torn directory */
    cr_assert_str_eq(family_of(&im), "test");
    ((unsigned char *)second)[200] ^= 1;
    unsigned char *plan = (unsigned char *)second + ((const mfi_file_header *)(void *)im.data)->directory_capacity;
    plan[2] ^= 1; /* a torn plan */
    cr_assert_str_eq(family_of(&im), "test");
    plan[2] ^= 1;
    cr_assert_str_eq(family_of(&im), "next");

    ((unsigned char *)slot_of(&im))[200] ^= 1; /* the old slot may be lost */
    cr_assert_str_eq(family_of(&im), "next");
    plan[2] ^= 1;
    cr_assert_eq(status_of(im.data, im.bytes), MF_E_CHECKSUM);
    free(im.data);
}

/* ---- What is not a file ---- */

static mf_status status_of_path(const char *path, mf_error *error)
{
    mf_model_options options = options_for(MF_LOAD_MAP, MF_VERIFY_DEFAULT);
    mfi_container_source source = { .path = path, .fd = -1 };
    mfi_container *c;
    mf_status status = mfi_container_open(&c, &source, &options, error);
    cr_assert_eq(c == NULL, status != MF_OK);
    mfi_container_close(c);
    return status;
}

Test(container, what_is_not_a_file_is_refused)
{
    mf_error error = MF_ERROR_INIT;
    char *path = fixture_path(), deep[400];
    cr_assert_eq(status_of_path(path, &error), MF_E_NOT_FOUND);
    cr_assert(strstr(error.detail, path), "%s", error.detail);
#if !defined(_WIN32) /* where there are no FIFOs, and a folder cannot be opened */
    cr_assert_eq(mkfifo(path, 0600), 0);
    cr_assert_eq(status_of_path(path, &error), MF_E_FORMAT);
    cr_assert_eq(status_of_path("/", &error), MF_E_FORMAT);
#endif
    memset(deep, 'd', sizeof deep);
    memcpy(deep + sizeof deep - 8, "/end.mf", 8);
    cr_assert_neq(status_of_path(deep, &error), MF_OK);
    cr_assert(strstr(error.detail, "dd/end.mf: "), "%s", error.detail);

    mf_model_options options = options_for(MF_LOAD_MAP, MF_VERIFY_DEFAULT);
    mfi_container *c;
    cr_assert_eq(mfi_container_open(&c, &(mfi_container_source){ .fd = 9999 }, &options, &error), MF_E_IO);
    static const unsigned char bytes[128];
    mfi_container_source odd = { .fd = -1, .memory = bytes + 1, .memory_bytes = 100 };
    cr_assert_eq(mfi_container_open(&c, &odd, &options, &error),
                 (uintptr_t)odd.memory % 64 ? MF_E_INVALID : MF_E_FORMAT);
    write_fixture(path, MFI_RAW, false);
    int fd = open(path, O_RDONLY);
    mfi_container_source beyond = { .fd = fd, .offset = 4096, .bytes = UINT64_MAX };
    cr_assert_eq(mfi_container_open(&c, &beyond, &options, &error), MF_E_INVALID);
    close(fd);
    fixture_remove(path);
}

/* ---- Cancelling, and running out of memory ---- */

typedef struct cancelling {
    int calls, cancel_at;
    uint64_t done, total;
} cancelling;

static int count_progress(void *user, uint64_t done, uint64_t total)
{
    cancelling *p = user;
    cr_assert(done >= p->done && done <= total && (p->calls == 0 || total == p->total));
    p->done = done;
    p->total = total;
    return ++p->calls == p->cancel_at;
}

static void expect_cancellable(const char *path, mf_load load)
{
    for (int cancel_at = 1;; cancel_at++) {
        counting memory = { .mutex = PTHREAD_MUTEX_INITIALIZER };
        cancelling progress = { .cancel_at = cancel_at };
        mf_error error = MF_ERROR_INIT;
        mf_model_options options = options_for(load, MF_VERIFY_FULL);
        options.allocator = counting_allocator(&memory);
        options.progress = count_progress;
        options.progress_user = &progress;
        mfi_container_source source = { .path = path, .fd = -1 };
        mfi_container *c;
        cr_assert_eq(mfi_container_open(&c, &source, &options, &error), MF_OK, "%s", error.detail);
        mf_status status = mfi_container_load(c, 4, &error);
        cr_assert_eq(status, progress.calls < cancel_at ? MF_OK : MF_E_CANCELLED, "%s", error.detail);
        if (status == MF_OK) cr_assert_eq(progress.done, progress.total);
        progress.cancel_at = 0; /* a second attempt goes on */
        progress.calls = 0;
        progress.done = 0;
        cr_assert_eq(mfi_container_load(c, 4, &error), MF_OK, "%s", error.detail);
        expect_contents(c, 4);
        mfi_container_close(c);
        cr_assert_eq(memory.live_bytes, 0);
        if (status == MF_OK) break;
        cr_assert_lt(cancel_at, 100);
    }
}

Test(container, loading_can_be_cancelled_at_every_call)
{
    for (mfi_storage storage = MFI_RAW; storage <= MFI_ZSTD; storage++) {
        char *path = fixture_path();
        write_fixture(path, storage, false);
        expect_cancellable(path, MF_LOAD_MAP);
        expect_cancellable(path, MF_LOAD_COPY);
        fixture_remove(path);
    }
}

Test(container, every_failing_allocation_is_reported_and_leaks_nothing)
{
    for (mfi_storage storage = MFI_RAW; storage <= MFI_ZSTD; storage++) {
        char *path = fixture_path();
        write_fixture(path, storage, false);
        mf_status status = MF_E_NOMEM;
        for (size_t n = 1; status != MF_OK; n++) {
            counting memory = { .fail_at = n, .mutex = PTHREAD_MUTEX_INITIALIZER };
            mf_error error = MF_ERROR_INIT;
            mf_model_options options = options_for(MF_LOAD_COPY, MF_VERIFY_FULL);
            options.allocator = counting_allocator(&memory);
            mfi_container_source source = { .path = path, .fd = -1 };
            mfi_container *c;
            status = mfi_container_open(&c, &source, &options, &error);
            if (status == MF_OK) status = mfi_container_load(c, 4, &error);
            mfi_container_close(c);
            cr_assert_eq(memory.live_bytes, 0);
            cr_assert(status == MF_OK || status == MF_E_NOMEM, "%s", error.detail);
            cr_assert_eq(status == MF_OK, memory.n_alloc < n);
        }
        fixture_remove(path);
    }
}
