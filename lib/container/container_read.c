/* container_read.c - opens a container: the source, the header, the slot that counts, the length, and
 * what the directory says. Making regions resident is container_load.c's. */
#define _POSIX_C_SOURCE 200809L
#include "container_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "platform.h"
#include "status.h"

/* ---- Source ---- */

mf_status mfi_container_fetch(const mfi_container *c, void *out, size_t bytes, uint64_t offset, mf_error *error)
{
    if (!c->memory) return mfi_read_at(c->fd, out, bytes, c->fd_offset + offset, c->name, error);
    memcpy(out, c->memory + offset, bytes);
    return MF_OK;
}

void mfi_container_set_name(char name[128], const char *path)
{
    size_t length = strlen(path), room = 127;
    if (length <= room)
        memcpy(name, path, length + 1);
    else
        snprintf(name, room + 1, "...%s", path + length - (room - 3));
}

static mf_status open_path(mfi_container *c, const char *path, mf_error *error)
{
    mfi_container_set_name(c->name, path);
    do
        c->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to wait on a FIFO */
    while (c->fd < 0 && errno == EINTR);
    if (c->fd >= 0) return MF_OK;
    return mfi_fail(error, errno == ENOENT ? MF_E_NOT_FOUND : MF_E_IO, "%s: %s", c->name, strerror(errno));
}

static mf_status copy_fd(mfi_container *c, int fd, mf_error *error)
{
    snprintf(c->name, sizeof c->name, "file descriptor %d", fd);
    c->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return c->fd >= 0 ? MF_OK : mfi_fail(error, MF_E_IO, "%s: %s", c->name, strerror(errno));
}

/* The part of the file that is the container: all of it, or what the caller says. */
static mf_status measure_file(mfi_container *c, uint64_t offset, uint64_t bytes, mf_error *error)
{
    struct stat stat;
    if (fstat(c->fd, &stat) != 0) return mfi_fail(error, MF_E_IO, "%s: %s", c->name, strerror(errno));
    if (!S_ISREG(stat.st_mode)) return mfi_fail(error, MF_E_FORMAT, "%s: not a regular file", c->name);
    uint64_t size = (uint64_t)stat.st_size;
    if (offset > size || bytes > size - offset)
        return mfi_fail(error, MF_E_INVALID, "%s: offset and length reach beyond its end", c->name);
    c->fd_offset = offset;
    c->length = bytes ? bytes : size - offset;
    return MF_OK;
}

static mf_status open_source(mfi_container *c, const mfi_container_source *source, mf_error *error)
{
    if (source->image.base) {
        mfi_container_set_name(c->name, source->name);
        c->memory = source->image.base;
        c->length = source->image.bytes;
        c->load = MF_LOAD_MAP;
        c->verify = MF_VERIFY_NONE; /* we made it */
        atomic_store(&c->allocated_bytes, c->length);
        return MF_OK;
    }
    if (source->memory) {
        mfi_container_set_name(c->name, "memory");
        c->memory = source->memory;
        c->length = source->memory_bytes;
        if (c->load == MF_LOAD_MAP && (uintptr_t)c->memory % MFI_LINE != 0)
            return mfi_fail(error, MF_E_INVALID, "memory: not aligned to %u bytes; align it, or load with COPY",
                            MFI_LINE);
        return MF_OK;
    }
    bool by_path = source->path != NULL;
    mf_status status = by_path ? open_path(c, source->path, error) : copy_fd(c, source->fd, error);
    return status == MF_OK ? measure_file(c, by_path ? 0 : source->offset, by_path ? 0 : source->bytes, error) : status;
}

/* ---- Header and slots ---- */

static mf_status read_header(const mfi_container *c, mfi_file_header *header, uint64_t *head_bytes, mf_error *error)
{
    if (c->length < sizeof *header) return mfi_fail(error, MF_E_FORMAT, "%s: too short for a .mf file", c->name);
    mf_status status = mfi_container_fetch(c, header, sizeof *header, 0, error);
    if (status != MF_OK) return status;
    if (memcmp(header->magic, MFI_PART_MAGIC, sizeof header->magic) == 0)
        return mfi_fail(error, MF_E_FORMAT, "%s: a part of a model; open the .mf file that it was cut from", c->name);
    if (memcmp(header->magic, MFI_MAGIC, sizeof header->magic) != 0)
        return mfi_fail(error, MF_E_FORMAT, "%s: not a .mf file", c->name);
    if (header->version != MFI_CONTAINER_VERSION)
        return mfi_fail(error, MF_E_UNSUPPORTED, "%s: version %u of the format, and this library reads %u", c->name,
                        header->version, MFI_CONTAINER_VERSION);
    if (header->checksum != mfi_hash(header, offsetof(mfi_file_header, checksum)))
        return mfi_fail(error, MF_E_CHECKSUM, "%s: the header is damaged; fetch the file again", c->name);
    *head_bytes = mfi_head_bytes(header->slot_bytes);
    if (*head_bytes == 0 || header->zero || header->zeros[0] || header->zeros[1] || header->zeros[2] ||
        header->slot_bytes % MFI_SLOT_STEP != 0 || header->directory_capacity % MFI_SLOT_STEP != 0 ||
        header->directory_capacity == 0 || header->directory_capacity > header->slot_bytes)
        return mfi_fail(error, MF_E_FORMAT, "%s: the header makes no sense", c->name);
    if (*head_bytes > c->length)
        return mfi_fail(error, MF_E_FORMAT, "%s: ends within its directory; fetch the rest", c->name);
    return MF_OK;
}

/* The plan's bytes to c->plan if their checksum holds; *holds says whether it does, also where there is no plan. */
static mf_status read_plan(mfi_container *c, uint64_t offset, const mfi_file_slot *slot, bool *holds, mf_error *error)
{
    *holds = slot->plan_bytes == 0 && slot->plan_checksum == 0;
    if (slot->plan_bytes == 0) return MF_OK;
    const size_t bytes = (size_t)slot->plan_bytes;
    void *plan = mfi_alloc(&c->allocator, bytes);
    if (!plan) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for the stored plan", c->name);
    const mf_status status = mfi_container_fetch(c, plan, bytes, offset, error);
    *holds = status == MF_OK && slot->plan_checksum == mfi_hash(plan, bytes);
    if (*holds) {
        c->plan = plan;
        c->plan_bytes = bytes;
    } else {
        mfi_free(&c->allocator, plan, bytes);
    }
    return status;
}

static void drop_plan(mfi_container *c)
{
    mfi_free(&c->allocator, c->plan, c->plan_bytes);
    c->plan = NULL;
    c->plan_bytes = 0;
}

/* Reads the directory and the plan of one slot if their checksums hold; leaves c->slot and c->plan NULL if not. */
static mf_status read_slot(mfi_container *c, uint64_t offset, mf_error *error)
{
    const mfi_file_header *header = &c->header;
    mfi_file_slot slot;
    mf_status status = mfi_container_fetch(c, &slot, sizeof slot, offset, error);
    if (status != MF_OK) return status;
    if (slot.generation == 0 || slot.directory_bytes % 8 != 0 || slot.directory_bytes < sizeof slot ||
        slot.directory_bytes > header->directory_capacity || slot.directory_bytes > MFI_DIRECTORY_MAX ||
        slot.plan_bytes > header->slot_bytes - header->directory_capacity || slot.plan_bytes > MFI_PLAN_MAX)
        return MF_OK;
    bool holds;
    status = read_plan(c, offset + header->directory_capacity, &slot, &holds, error);
    if (status != MF_OK || !holds) return status;

    size_t bytes = (size_t)slot.directory_bytes;
    void *directory = mfi_alloc(&c->allocator, bytes);
    if (!directory) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for the directory", c->name);
    status = mfi_container_fetch(c, directory, bytes, offset, error);
    const mfi_file_slot *read = directory;
    /* The sizes are those that were checked, whatever happens to the file meanwhile. */
    if (status == MF_OK && memcmp(read, &slot, sizeof slot) == 0 &&
        slot.checksum == mfi_hash(&read->generation, bytes - sizeof read->checksum)) {
        c->slot = directory;
        c->slot_bytes = bytes;
        c->slot_offset = offset;
        return MF_OK;
    }
    mfi_free(&c->allocator, directory, bytes);
    drop_plan(c);
    return status;
}

/* The slot of the highest generation that holds. */
static mf_status choose_slot(mfi_container *c, mf_error *error)
{
    uint64_t offset[2] = { MFI_SLOT_BASE, MFI_SLOT_BASE + c->header.slot_bytes };
    mfi_file_slot slot[2];
    for (int i = 0; i < 2; i++) {
        mf_status status = mfi_container_fetch(c, &slot[i], sizeof slot[i], offset[i], error);
        if (status != MF_OK) return status;
    }
    int newest = slot[1].generation > slot[0].generation;
    for (int i = 0; i < 2 && !c->slot; i++) {
        mf_status status = read_slot(c, offset[i ^ newest], error);
        if (status != MF_OK) return status;
    }
    if (c->slot) return MF_OK;
    return mfi_fail(error, MF_E_CHECKSUM, "%s: the directory is damaged; fetch the file again", c->name);
}

/* Whole, or a prefix that ends where a region does and has the first: what every width needs of each layer. */
static mf_status check_length(const mfi_container *c, mf_error *error)
{
    const mfi_directory *directory = &c->directory;
    bool whole_region = false;
    for (uint32_t i = 0; i < directory->n_region; i++) {
        const mfi_region *region = &directory->region[i];
        uint64_t end = region->file_offset + region->stored_bytes;
        if (region->kind == MFI_REGION_BASE && end > c->length)
            return mfi_fail(error, MF_E_FORMAT, "%s: %llu bytes long, but every width needs the first %llu of %llu",
                            c->name, (unsigned long long)c->length, (unsigned long long)end,
                            (unsigned long long)directory->file_bytes);
        whole_region |= end == c->length;
    }
    if (whole_region) return MF_OK; /* the file ends where its last region does */
    return mfi_fail(error, MF_E_FORMAT, "%s: %llu bytes long, but should be %llu, or end with a region; fetch it again",
                    c->name, (unsigned long long)c->length, (unsigned long long)directory->file_bytes);
}

static mf_status read_directory(mfi_container *c, mf_error *error)
{
    uint64_t head_bytes = 0;
    mf_status status = read_header(c, &c->header, &head_bytes, error);
    if (status == MF_OK) status = choose_slot(c, error);
    if (status == MF_OK)
        status = mfi_directory_decode(&c->directory, c->slot, head_bytes, &c->allocator, c->name, error);
    if (status == MF_OK) status = check_length(c, error);
    if (status != MF_OK) return status;
    c->residence = mfi_alloc_array(&c->allocator, c->directory.n_region, sizeof *c->residence);
    if (!c->residence) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for the regions", c->name);
    return mfi_container_own_pieces(c, error);
}

mf_status mfi_container_open(mfi_container **out, const mfi_container_source *source, const mf_model_options *options,
                             mf_error *error)
{
    *out = NULL;
    mfi_container *c = mfi_alloc(&options->allocator, sizeof *c);
    if (!c) {
        mfi_image image = source->image;
        mfi_image_free(&image);
        return mfi_fail(error, MF_E_NOMEM, "no memory to open a file");
    }
    c->image = source->image;
    c->allocator = options->allocator;
    c->load = options->load;
    c->verify = options->verify;
    c->n_thread = options->n_thread;
    c->progress = options->progress;
    c->progress_user = options->progress_user;
    c->fd = -1;
    mf_status status = open_source(c, source, error);
    if (status == MF_OK) status = read_directory(c, error);
    if (status == MF_OK)
        *out = c;
    else
        mfi_container_close(c);
    return status;
}

void mfi_container_close(mfi_container *c)
{
    if (!c) return;
    for (uint32_t i = 0; c->residence && i < c->directory.n_region; i++) {
        mfi_container_drop_feed(c, i);
        mfi_unreserve(c->residence[i].reserved, c->residence[i].reserved_bytes);
    }
    mfi_container_drop_stores(c);
    mfi_free(&c->allocator, c->residence, c->directory.n_region * sizeof *c->residence);
    mfi_directory_free(&c->directory, &c->allocator);
    mfi_free(&c->allocator, c->slot, c->slot_bytes);
    mfi_free(&c->allocator, c->plan, c->plan_bytes);
    if (c->fd >= 0) close(c->fd);
    mfi_image_free(&c->image);
    mf_allocator allocator = c->allocator;
    mfi_free(&allocator, c, sizeof *c);
}

/* ---- What it says ---- */

const char *mfi_container_name(const mfi_container *c)
{
    return c->name;
}

uint64_t mfi_container_file_bytes(const mfi_container *c)
{
    return c->length;
}

uint64_t mfi_container_mapped_bytes(const mfi_container *c)
{
    return atomic_load_explicit(&c->mapped_bytes, memory_order_relaxed);
}

uint64_t mfi_container_allocated_bytes(const mfi_container *c)
{
    return atomic_load_explicit(&c->allocated_bytes, memory_order_relaxed) + c->slot_bytes + c->plan_bytes +
           c->directory.block_bytes;
}

const void *mfi_container_plan(const mfi_container *c, size_t *bytes)
{
    *bytes = c->plan_bytes;
    return c->plan;
}

uint64_t mfi_container_content_hash(const mfi_container *c)
{
    XXH64_state_t hash;
    XXH64_reset(&hash, 0);
    for (uint32_t i = 0; i < c->directory.n_region; i++)
        XXH64_update(&hash, &c->directory.region[i].content_hash, sizeof(uint64_t));
    return XXH64_digest(&hash);
}

uint32_t mfi_container_region_count(const mfi_container *c)
{
    return c->directory.n_region;
}

const mfi_region *mfi_container_region(const mfi_container *c, uint32_t index)
{
    return &c->directory.region[index];
}

bool mfi_region_present(const mfi_container *c, uint32_t region)
{
    return atomic_load_explicit(&c->residence[region].present, memory_order_relaxed);
}

bool mfi_region_resident(const mfi_container *c, uint32_t region)
{
    return atomic_load_explicit(&c->residence[region].resident, memory_order_relaxed);
}

uint64_t mfi_region_fed_bytes(const mfi_container *c, uint32_t region)
{
    return atomic_load_explicit(&c->residence[region].fed_bytes, memory_order_relaxed);
}

bool mfi_region_known(const mfi_container *c, uint32_t region)
{
    return c->directory.parts[region].known;
}

uint32_t mfi_container_tensor_count(const mfi_container *c)
{
    return c->directory.n_tensor;
}

const mfi_tensor *mfi_container_tensor(const mfi_container *c, uint32_t index)
{
    return &c->directory.tensor[index];
}

const mfi_tensor *mfi_container_find(const mfi_container *c, const char *name, uint32_t shell)
{
    const mfi_directory *directory = &c->directory;
    uint32_t low = 0, high = directory->n_tensor;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const mfi_tensor *tensor = &directory->tensor[directory->by_name[middle]];
        int order = mfi_tensor_compare(name, shell, tensor);
        if (order == 0) return tensor;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static const mfi_metadata *find_key(const mfi_container *c, const char *key)
{
    uint32_t low = 0, high = c->directory.n_metadata;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const mfi_metadata *metadata = &c->directory.metadata[middle];
        int order = strcmp(key, metadata->key);
        if (order == 0) return metadata;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static const mfi_metadata *find_metadata(const mfi_container *c, const char *key, mfi_value type)
{
    const mfi_metadata *metadata = find_key(c, key);
    return metadata && metadata->type == type ? metadata : NULL;
}

bool mfi_container_u64(const mfi_container *c, const char *key, uint64_t *value)
{
    const mfi_metadata *metadata = find_metadata(c, key, MFI_VALUE_U64);
    if (metadata) memcpy(value, metadata->value, sizeof *value);
    return metadata;
}

bool mfi_container_f64(const mfi_container *c, const char *key, double *value)
{
    const mfi_metadata *metadata = find_metadata(c, key, MFI_VALUE_F64);
    if (metadata) memcpy(value, metadata->value, sizeof *value);
    return metadata;
}

bool mfi_container_text(const mfi_container *c, const char *key, const char **value)
{
    const mfi_metadata *metadata = find_metadata(c, key, MFI_VALUE_TEXT);
    if (metadata) *value = metadata->value;
    return metadata;
}

bool mfi_container_u32s(const mfi_container *c, const char *key, const uint32_t **values, size_t *count)
{
    const mfi_metadata *metadata = find_metadata(c, key, MFI_VALUE_U32S);
    if (!metadata) return false;
    *values = metadata->value;
    *count = metadata->value_bytes / sizeof **values;
    return true;
}

bool mfi_container_has(const mfi_container *c, const char *key)
{
    return find_key(c, key) != NULL;
}

bool mfi_container_text_at(const mfi_container *c, uint32_t index, const char **key, const char **value)
{
    for (uint32_t i = 0; i < c->directory.n_metadata; i++) {
        const mfi_metadata *metadata = &c->directory.metadata[i];
        if (metadata->type != MFI_VALUE_TEXT || index-- > 0) continue;
        *key = metadata->key;
        *value = metadata->value;
        return true;
    }
    return false;
}

bool mfi_container_key_at(const mfi_container *c, uint32_t index, const char **key, mfi_value *kind)
{
    if (index >= c->directory.n_metadata) return false;
    *key = c->directory.metadata[index].key;
    *kind = c->directory.metadata[index].type;
    return true;
}

bool mfi_container_key_known(const char *key, const char *const *known, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        size_t length = strlen(known[i]);
        bool prefix = length > 0 && known[i][length - 1] == '*';
        if (prefix ? strncmp(key, known[i], length - 1) == 0 : strcmp(key, known[i]) == 0) return true;
    }
    return false;
}

mf_status mfi_container_check_keys(const mfi_container *c, const char *const *known, size_t count, mf_error *error)
{
    for (uint32_t i = 0; i < c->directory.n_metadata; i++) {
        const mfi_metadata *metadata = &c->directory.metadata[i];
        if (metadata->required && !mfi_container_key_known(metadata->key, known, count))
            return mfi_fail(error, MF_E_UNSUPPORTED, "%s: needs %s, which this version does not know; upgrade it",
                            c->name, metadata->key);
    }
    return MF_OK;
}
