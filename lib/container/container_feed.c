/* container_feed.c - a region that the caller brings piece by piece, in order: kept as it is stored, hashed as it
 * comes, and resident when the last byte is there and the hash holds. */
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "container_read.h"
#include "platform.h"
#include "status.h"

#define HUGE_PAGE ((size_t)2 << 20)

struct mfi_feed {
    unsigned char *stored; /* a reservation of its own, of all the region's stored bytes */
    size_t stored_bytes, fed;
    XXH64_state_t hash;
};

void mfi_container_drop_feed(mfi_container *c, uint32_t region)
{
    mfi_residence *residence = &c->residence[region];
    if (!residence->feed) return;
    mfi_unreserve(residence->feed->stored, residence->feed->stored_bytes);
    mfi_free(&c->allocator, residence->feed, sizeof *residence->feed);
    residence->feed = NULL;
    atomic_store_explicit(&residence->fed_bytes, 0, memory_order_relaxed);
}

static mf_status begin_feed(mfi_container *c, uint32_t region, mf_error *error)
{
    const size_t bytes = (size_t)c->directory.region[region].stored_bytes;
    mfi_feed *feed = mfi_alloc(&c->allocator, sizeof *feed);
    if (!feed) return mfi_fail(error, MF_E_NOMEM, "%s: no memory to take region %u", c->name, region);
    c->residence[region].feed = feed;
    XXH64_reset(&feed->hash, 0);
    feed->stored_bytes = bytes;
    feed->stored = mfi_reserve(bytes, HUGE_PAGE);
    if (!feed->stored)
        mfi_fail(error, MF_E_NOMEM, "%s: no address space for region %u", c->name, region);
    else if (mfi_map_memory_at(feed->stored, bytes, error) == MF_OK)
        return MF_OK;
    mfi_container_drop_feed(c, region);
    return MF_E_NOMEM;
}

/* All is there. What was fed is gone afterwards, or is the region. */
static mf_status end_feed(mfi_container *c, uint32_t region, mf_error *error)
{
    mfi_feed *feed = c->residence[region].feed;
    if (XXH64_digest(&feed->hash) != c->directory.region[region].checksum) {
        mfi_container_drop_feed(c, region);
        return mfi_fail(error, MF_E_CHECKSUM, "%s: the bytes fed are not those of region %u; feed it again", c->name,
                        region);
    }
    void *stored = feed->stored;
    feed->stored = NULL;
    const mf_status status = mfi_container_take_fed(c, region, stored, feed->stored_bytes, error);
    mfi_container_drop_feed(c, region);
    return status;
}

mf_status mfi_container_feed(mfi_container *c, uint32_t region, const void *data, size_t bytes, mf_error *error)
{
    mfi_residence *residence = &c->residence[region];
    if (!data) {
        mfi_container_drop_feed(c, region);
        return MF_OK;
    }
    if (c->directory.region[region].data)
        return mfi_fail(error, MF_E_INVALID, "%s: region %u is in memory already", c->name, region);
    const size_t whole = (size_t)c->directory.region[region].stored_bytes;
    const size_t fed = residence->feed ? residence->feed->fed : 0;
    if (bytes > whole - fed)
        return mfi_fail(error, MF_E_RANGE, "%s: %zu more bytes of region %u, which has %zu, and %zu were fed", c->name,
                        bytes, region, whole, fed);
    if (bytes == 0) return MF_OK;
    if (!residence->feed) {
        const mf_status status = begin_feed(c, region, error);
        if (status != MF_OK) return status;
    }
    mfi_feed *feed = residence->feed;
    memcpy(feed->stored + feed->fed, data, bytes);
    XXH64_update(&feed->hash, data, bytes);
    feed->fed += bytes;
    atomic_store_explicit(&residence->fed_bytes, feed->fed, memory_order_relaxed);
    return feed->fed < whole ? MF_OK : end_feed(c, region, error);
}
