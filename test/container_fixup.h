/* container_fixup.h - recomputes every checksum of a container whose bytes were changed, as whoever means
 * harm would. Follows the bytes as far as they make sense, and leaves alone what does not. */
#ifndef CONTAINER_FIXUP_H
#define CONTAINER_FIXUP_H

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "container_directory.h"

/* The hash of what a compressed region decodes to; `fallback` when it does not. */
static inline uint64_t fixup_content(const mfi_file_region *region, const mfi_file_frame *frame,
                                     const unsigned char *stored, uint64_t fallback)
{
    if (region->raw_bytes > 8u << 20) return fallback; /* more than a test file holds */
    unsigned char *raw = malloc((size_t)region->raw_bytes + 1), *planes = malloc((size_t)region->raw_bytes + 1);
    uint64_t stored_at = 0, raw_at = 0;
    bool good = raw && planes;
    for (uint32_t i = 0; good && i < region->frame_count; i++) {
        mfi_file_frame f = frame[i];
        good = f.stored_bytes <= region->stored_bytes - stored_at && f.raw_bytes <= region->raw_bytes - raw_at &&
               f.raw_bytes <= MFI_FRAME_MAX && (f.split == 1 || f.split == 2 || f.split == 4) &&
               f.raw_bytes % f.split == 0;
        if (good && f.method == MFI_FRAME_PLAIN) {
            good = f.stored_bytes == f.raw_bytes;
            if (good) memcpy(raw + raw_at, stored + stored_at, f.raw_bytes);
        } else if (good) {
            good = ZSTD_decompress(planes, f.raw_bytes, stored + stored_at, f.stored_bytes) == f.raw_bytes;
            if (good) mfi_frame_join(f.split, f.raw_bytes, planes, raw + raw_at);
        }
        stored_at += f.stored_bytes;
        raw_at += f.raw_bytes;
    }
    uint64_t hash = good && raw_at == region->raw_bytes ? mfi_hash(raw, (size_t)raw_at) : fallback;
    free(raw);
    free(planes);
    return hash;
}

static inline void fixup_region(mfi_file_region *region, const unsigned char *data, size_t bytes)
{
    if (region->file_offset > bytes || region->stored_bytes > bytes - region->file_offset) return;
    const unsigned char *stored = data + region->file_offset;
    const mfi_file_frame *frame = (const mfi_file_frame *)(region + 1);
    region->checksum = mfi_hash(stored, (size_t)region->stored_bytes);
    region->content_hash =
        region->storage == MFI_RAW ? region->checksum : fixup_content(region, frame, stored, region->content_hash);
}

/* Of the directory alone, `directory_bytes` of which are there. */
static inline void fixup_directory(mfi_file_slot *slot)
{
    slot->checksum = mfi_hash(&slot->generation, (size_t)slot->directory_bytes - sizeof slot->checksum);
}

static inline void fixup_slot(mfi_file_slot *slot, size_t room, const unsigned char *data, size_t bytes)
{
    if (slot->generation == 0 || slot->directory_bytes < sizeof *slot || slot->directory_bytes > room) return;
    unsigned char *at = (unsigned char *)(slot + 1), *end = (unsigned char *)slot + slot->directory_bytes;
    while ((size_t)(end - at) >= sizeof(mfi_file_entry)) {
        const mfi_file_entry *entry = (const mfi_file_entry *)(void *)at;
        if (entry->entry_bytes < sizeof *entry || entry->entry_bytes > (size_t)(end - at) || entry->entry_bytes % 8)
            break;
        mfi_file_region *region = (mfi_file_region *)(void *)at;
        if (entry->kind == MFI_ENTRY_REGION && entry->entry_bytes >= sizeof *region &&
            region->frame_count <= (entry->entry_bytes - sizeof *region) / sizeof(mfi_file_frame))
            fixup_region(region, data, bytes);
        at += entry->entry_bytes;
    }
    fixup_directory(slot);
}

/* `data` is aligned to 8. */
static inline void fixup_checksums(unsigned char *data, size_t bytes)
{
    mfi_file_header *header = (mfi_file_header *)(void *)data;
    if (bytes < sizeof *header) return;
    for (uint64_t i = 0; i < 2; i++) {
        uint64_t at = MFI_SLOT_BASE + i * header->slot_bytes;
        if (header->slot_bytes > bytes || header->slot_bytes % 8 || at > bytes || bytes - at < sizeof(mfi_file_slot))
            continue;
        mfi_file_slot *slot = (mfi_file_slot *)(void *)(data + at);
        const uint64_t room = bytes - at, plan = header->directory_capacity;
        if (slot->plan_bytes > 0 && plan <= room && slot->plan_bytes <= room - plan)
            slot->plan_checksum = mfi_hash((unsigned char *)slot + plan, (size_t)slot->plan_bytes);
        fixup_slot(slot, bytes - (size_t)at, data, bytes);
    }
    header->checksum = mfi_hash(header, offsetof(mfi_file_header, checksum));
}

#endif
