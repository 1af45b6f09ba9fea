/* fuzz_container.c - libFuzzer target: any bytes as a .mf file, as they are and with their checksums
 * recomputed. save_fixtures writes a corpus to begin with. Half of the mutations are libFuzzer's own. */
#define _POSIX_C_SOURCE 200809L
#include "hostile.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t room);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t room, unsigned seed);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* libFuzzer's buffer may lie anywhere, and the directory is read as words. */
static unsigned char *aligned_copy(const uint8_t *data, size_t bytes)
{
    unsigned char *copy = NULL;
    if (posix_memalign((void **)&copy, 64, bytes + !bytes) != 0) abort();
    memcpy(copy, data, bytes);
    return copy;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t room, unsigned seed)
{
    if (seed % 2 || bytes == 0) return LLVMFuzzerMutate(data, bytes, room);
    uint64_t state = seed;
    unsigned char *copy = aligned_copy(data, bytes);
    bytes = hostile_mutate(&state, copy, bytes);
    memcpy(data, copy, bytes);
    free(copy);
    return bytes;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    unsigned char *copy = aligned_copy(data, bytes);
    hostile_try(copy, bytes, bytes % 2 ? MF_LOAD_COPY : MF_LOAD_MAP);
    free(copy);
    return 0;
}
