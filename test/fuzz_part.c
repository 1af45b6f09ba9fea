/* fuzz_part.c - libFuzzer target: a good part, over whose header and segments any bytes are laid and hashed anew,
 * attached to the head that it was cut from and loaded. No input is too short: where it ends the good part goes on. */
#define _GNU_SOURCE
#include "container_fixture.h"
#include "container_parts.h"

#include <xxhash.h>

#define HASHED_FROM 16u /* behind magic and checksum, as docs/container-format.md has it */

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static unsigned char *head, *part;
static size_t head_bytes, part_bytes;
static int file = -1;

/* The last two shells, as one part. */
static void make_part(const mfi_container *whole)
{
    mfi_part_piece piece[2];
    mf_error error = MF_ERROR_INIT;
    for (uint32_t i = 0; i < 2; i++) {
        const mfi_region *region = mfi_container_region(whole, 2 + i);
        piece[i] = (mfi_part_piece){ 2 + i, 0, region->stored_bytes, 0, region->checksum };
    }
    part_bytes = (size_t)mfi_part_lay_out(piece, 2);
    part = calloc(1, part_bytes);
    if (!part) abort();
    mfi_part_encode(part, whole, piece, 2);
    for (uint32_t i = 0; i < 2; i++)
        if (mfi_region_read(whole, piece[i].region, part + piece[i].offset, (size_t)piece[i].bytes, 0, &error) != MF_OK)
            abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    char *path = fixture_path();
    mf_error error = MF_ERROR_INIT;
    const mf_allocator allocator = mfi_allocator(NULL);
    if (fixture_write(path, &allocator, MFI_ZSTD, false, &error) != MF_OK) abort();
    mfi_container *whole = fixture_open(path);
    const mfi_region *tables = mfi_container_region(whole, 1);
    head = fixture_read(path, &head_bytes);
    head_bytes = (size_t)(tables->file_offset + tables->stored_bytes);
    make_part(whole);
    mfi_container_close(whole);
    file = open(path, O_RDWR);
    fixture_remove(path);
    if (file < 0 || ftruncate(file, (off_t)part_bytes) != 0) abort();
    return 0;
}

/* Lays the input over the part, whose checksum is made right, and writes it all. */
static void write_part(const uint8_t *data, size_t bytes)
{
    static unsigned char changed[MFI_PART_PAYLOAD];
    uint32_t n_segment;
    memcpy(changed, part, sizeof changed);
    if (bytes > sizeof changed - HASHED_FROM) bytes = sizeof changed - HASHED_FROM;
    if (bytes) memcpy(changed + HASHED_FROM, data, bytes);
    memcpy(&n_segment, changed + HASHED_FROM + 4, sizeof n_segment);
    if (n_segment < MFI_PART_PAYLOAD / 64) {
        const uint64_t hash = XXH64(changed + HASHED_FROM, 64 - HASHED_FROM + 64 * (size_t)n_segment, 0);
        memcpy(changed + 8, &hash, sizeof hash);
    }
    if (pwrite(file, changed, sizeof changed, 0) != (ssize_t)sizeof changed) abort();
    if (pwrite(file, part + sizeof changed, part_bytes - sizeof changed, (off_t)sizeof changed) < 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    mf_model_options options = { .struct_size = sizeof options, .n_thread = 1, .allocator = mfi_allocator(NULL) };
    mf_error error = MF_ERROR_INIT;
    const mfi_container_source source = { .fd = -1, .memory = head, .memory_bytes = head_bytes };
    const mfi_container_source attached = { .fd = file };
    mfi_container *c;
    options.load = bytes % 2 ? MF_LOAD_COPY : MF_LOAD_MAP;
    write_part(data, bytes);
    if (mfi_container_open(&c, &source, &options, &error) != MF_OK) abort();
    if (mfi_container_attach(c, &attached, &error) == MF_OK)
        (void)mfi_container_grow(c, UINT32_MAX, NULL, NULL, &error);
    else if (!error.detail[0])
        abort();
    if (bytes == 0 && !mfi_region_resident(c, 3)) abort(); /* the good part is taken */
    mfi_container_close(c);
    return 0;
}
