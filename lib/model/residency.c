/* residency.c - shells come and go while forwards run. See residency.h for who may do what. */
#include "residency.h"

#include <stdio.h>
#include <string.h>

#include "container_parts.h"
#include "defs.h"
#include "model.h"
#include "platform.h"
#include "status.h"

#define POLL_NS 50000u /* between two looks at shells that others still use */

/* ---- Who uses them ---- */

bool mfi_pin(mfi_residency *r, uint32_t n_shell)
{
    atomic_uint *gate = &r->gate[n_shell - 1];
    unsigned seen = atomic_load_explicit(gate, memory_order_relaxed);
    do
        if (seen & MFI_CLOSED) return false;
    while (!atomic_compare_exchange_weak_explicit(gate, &seen, seen + 1, memory_order_acquire, memory_order_relaxed));
    return true;
}

void mfi_unpin(mfi_residency *r, uint32_t n_shell)
{
    atomic_fetch_sub_explicit(&r->gate[n_shell - 1], 1, memory_order_release);
}

static void close_gates(mfi_residency *r, uint32_t from)
{
    for (uint32_t s = from; s < r->n_shell; s++)
        atomic_fetch_or_explicit(&r->gate[s], MFI_CLOSED, memory_order_relaxed);
    if (mfi_shells_resident(r) > from) atomic_store_explicit(&r->n_resident, from, memory_order_relaxed);
}

/* The shells that can be used: the first ones whose regions are all in memory. A shell without a region has nothing. */
static void open_gates(mf_model *model)
{
    mfi_residency *r = &model->residency;
    uint32_t n = r->n_shell;
    for (uint32_t i = 0; i < mfi_container_region_count(model->container); i++) {
        const mfi_region *region = mfi_container_region(model->container, i);
        if (!mfi_region_known(model->container, i) || region->data != NULL) continue;
        const uint32_t usable = region->kind == MFI_REGION_SHELL ? region->shell : 0;
        if (usable < n) n = usable;
    }
    for (uint32_t s = 0; s < n; s++)
        atomic_fetch_and_explicit(&r->gate[s], ~MFI_CLOSED, memory_order_release);
    atomic_store_explicit(&r->n_resident, n, memory_order_relaxed);
}

/* Whether the closed shells were empty by then; acquires what their last users did. */
static bool wait_until_empty(mfi_residency *r, uint32_t from, uint32_t wait_ms)
{
    const uint64_t began = mfi_now_ns(), limit_ns = (uint64_t)wait_ms * 1000000u;
    for (;;) {
        unsigned users = 0;
        for (uint32_t s = from; s < r->n_shell; s++)
            users += atomic_load_explicit(&r->gate[s], memory_order_acquire) & ~MFI_CLOSED;
        if (users == 0) return true;
        if (wait_ms == MF_WAIT_NONE || (wait_ms != 0 && mfi_now_ns() - began >= limit_ns)) return false;
        mfi_sleep_ns(POLL_NS);
    }
}

/* ---- What is missing ---- */

/* The region of a shell, or of the tables; the count of regions where there is none. */
static uint32_t region_of(const mf_model *model, uint32_t shell)
{
    const uint32_t n = mfi_container_region_count(model->container);
    const mfi_region_kind kind = shell == MF_SHELL_TABLES ? MFI_REGION_TABLES
                                 : shell == 0             ? MFI_REGION_BASE
                                                          : MFI_REGION_SHELL;
    for (uint32_t i = 0; i < n; i++) {
        const mfi_region *region = mfi_container_region(model->container, i);
        if (mfi_region_known(model->container, i) && region->kind == kind &&
            region->shell == (kind == MFI_REGION_SHELL ? shell : 0))
            return i;
    }
    return n;
}

/* The first region that n_shell shells need and that is neither in memory nor in a file; the count of regions: none. */
static uint32_t first_absent(const mf_model *model, uint32_t n_shell)
{
    const mfi_container *c = model->container;
    uint32_t i = 0;
    for (; i < mfi_container_region_count(c); i++) {
        const mfi_region *region = mfi_container_region(c, i);
        if (mfi_region_known(c, i) && region->shell < n_shell && !mfi_region_resident(c, i) &&
            !mfi_region_present(c, i))
            break;
    }
    return i;
}

static bool is_absent(const mf_model *model, uint32_t n_shell)
{
    return first_absent(model, n_shell) < mfi_container_region_count(model->container);
}

/* Region i: "shell 2: in no file; model.shell2.mfpart would have it". */
static void name_absent(const mf_model *model, uint32_t i, char out[160])
{
    char path[2048], shell[24] = "the tables";
    const mfi_region *region = mfi_container_region(model->container, i);
    const char *file = model->residency.path;
    if (region->kind == MFI_REGION_SHELL) snprintf(shell, sizeof shell, "shell %u", region->shell);
    if (file == NULL || mfi_part_name(path, sizeof path, model->container, file, i, i, 0, 1) != MF_OK) {
        snprintf(out, 160, "%s: in no file", shell);
        return;
    }
    const char *slash = strrchr(path, '/');
    snprintf(out, 160, "%s: in no file; %.100s would have it", shell, slash != NULL ? slash + 1 : path);
}

mf_status mfi_refuse_view(const mf_model *model, uint32_t n_shell, mf_error *error)
{
    const uint32_t n_resident = mfi_shells_resident(&model->residency), absent = first_absent(model, n_shell);
    char what[160];
    if (absent == mfi_container_region_count(model->container))
        return mfi_fail(error, MF_E_NOT_RESIDENT, "the view needs %u shells, and %u are loaded: grow the model",
                        n_shell, n_resident);
    name_absent(model, absent, what);
    return mfi_fail(error, MF_E_NOT_RESIDENT, "the view needs %u shells, and %u are loaded: %s", n_shell, n_resident,
                    what);
}

/* ---- Parts that lie beside the file ---- */

/* `reason`: why one of them could not be taken; or MF_OK. */
static void attach_beside(mf_model *model, uint32_t n_shell, mf_error *reason)
{
    const char *path = model->residency.path;
    *reason = (mf_error)MF_ERROR_INIT;
    if (path != NULL && is_absent(model, n_shell))
        mfi_container_attach_beside(model->container, path, model->log, model->log_user, reason);
}

/* ---- How much a name needs ---- */

static uint32_t shells_of(const mf_model *model, const mfi_granularity *size)
{
    uint32_t n_shell = 1;
    for (uint32_t layer = 0; layer < model->program->n_layer; layer++) {
        const uint32_t needed = mfi_program_shells(model->program, layer, size->ffn[layer]);
        if (needed > n_shell) n_shell = needed;
    }
    return n_shell;
}

static mf_status find_size(const mf_model *model, const char *name, uint32_t *n_shell, mf_error *error)
{
    const mfi_config *config = &model->config;
    for (uint32_t i = 0; i < config->n_granularity + config->n_named; i++) {
        const mfi_granularity *size =
            i < config->n_granularity ? &config->granularity[i] : &config->named[i - config->n_granularity];
        if (strcmp(size->name, name) != 0) continue;
        *n_shell = shells_of(model, size);
        return MF_OK;
    }
    return mfi_fail(error, MF_E_NOT_FOUND, "%s has no granularity \"%.32s\"", mfi_container_name(model->container),
                    name);
}

/* ---- Opening ---- */

mf_status mfi_residency_init(mf_model *model, const mfi_container_source *source, mf_error *error)
{
    mfi_residency *r = &model->residency;
    if (source->path != NULL) {
        r->path_bytes = strlen(source->path) + 1;
        r->path = mfi_alloc(&model->allocator, r->path_bytes);
        if (r->path == NULL) return mfi_fail(error, MF_E_NOMEM, "no memory for the model");
        memcpy(r->path, source->path, r->path_bytes);
    }
    if (pthread_mutex_init(&r->lock, NULL) == 0) return MF_OK;
    mfi_free(&model->allocator, r->path, r->path_bytes);
    return mfi_fail(error, MF_E_NOMEM, "no mutex for the model");
}

void mfi_residency_destroy(mf_model *model)
{
    mfi_residency *r = &model->residency;
    pthread_mutex_destroy(&r->lock);
    mfi_free(&model->allocator, r->path, r->path_bytes);
}

mf_status mfi_residency_open(mf_model *model, const char *widest, mf_error *error)
{
    mfi_residency *r = &model->residency;
    mf_error reason;
    r->n_shell = model->program->n_shell;
    for (uint32_t s = 0; s < MFI_MAX_GRANULARITY; s++)
        atomic_init(&r->gate[s], MFI_CLOSED);
    atomic_init(&r->n_resident, 0);
    uint32_t n_shell = r->n_shell;
    mf_status status = widest != NULL ? find_size(model, widest, &n_shell, error) : MF_OK;
    if (status != MF_OK) return status;
    attach_beside(model, n_shell, &reason); /* a forward says what is missing */
    status = mfi_container_load(model->container, n_shell, error);
    if (status == MF_OK) open_gates(model);
    return status;
}

/* ---- Growing and trimming ---- */

static mf_status grow(mf_model *model, uint32_t n_shell, const mf_grow_options *options, mf_error *error)
{
    mf_error reason;
    attach_beside(model, n_shell, &reason);
    if (is_absent(model, n_shell)) {
        char what[160];
        if (reason.status != MF_OK) return mfi_fail(error, reason.status, "%s", reason.detail);
        name_absent(model, first_absent(model, n_shell), what);
        return mfi_fail(error, MF_E_NOT_FOUND, "%s: %s", mfi_container_name(model->container), what);
    }
    const mf_status status =
        mfi_container_grow(model->container, n_shell, options->progress, options->progress_user, error);
    open_gates(model);
    return status;
}

mf_status mfi_model_grow(mf_model *model, const char *granularity, const mf_grow_options *options, mf_error *error)
{
    uint32_t n_shell = model->residency.n_shell;
    mf_status status = mfi_model_check_process(model, error);
    if (status == MF_OK && granularity != NULL) status = find_size(model, granularity, &n_shell, error);
    if (status != MF_OK) return status;
    pthread_mutex_lock(&model->residency.lock);
    status = grow(model, n_shell, options, error);
    pthread_mutex_unlock(&model->residency.lock);
    return status;
}

static mf_status trim(mf_model *model, uint32_t n_shell, uint32_t wait_ms, mf_error *error)
{
    mfi_residency *r = &model->residency;
    close_gates(r, n_shell);
    const bool empty = wait_until_empty(r, n_shell, wait_ms);
    if (empty) mfi_container_trim(model->container, n_shell);
    open_gates(model);
    if (empty) return MF_OK;
    return mfi_fail(error, MF_E_BUSY, "%s: requests in flight use shells that were to be trimmed; wait longer for them",
                    mfi_container_name(model->container));
}

mf_status mfi_model_trim(mf_model *model, const char *granularity, const mf_trim_options *options, mf_error *error)
{
    uint32_t n_shell = 0;
    const char *name = granularity != NULL ? granularity : model->config.granularity[0].name;
    mf_status status = mfi_model_check_process(model, error);
    if (status == MF_OK) status = find_size(model, name, &n_shell, error);
    if (status != MF_OK) return status;
    pthread_mutex_lock(&model->residency.lock);
    status = trim(model, n_shell, options->wait_ms, error);
    pthread_mutex_unlock(&model->residency.lock);
    return status;
}

/* ---- Files and bytes that come later ---- */

mf_status mfi_model_attach(mf_model *model, const mfi_container_source *source, mf_error *error)
{
    mf_status status = mfi_model_check_process(model, error);
    if (status != MF_OK) return status;
    pthread_mutex_lock(&model->residency.lock);
    status = mfi_container_attach(model->container, source, error);
    pthread_mutex_unlock(&model->residency.lock);
    return status;
}

mf_status mfi_model_feed(mf_model *model, uint32_t shell, const void *data, size_t bytes, mf_error *error)
{
    const uint32_t region = region_of(model, shell);
    mf_status status = mfi_model_check_process(model, error);
    if (status != MF_OK) return status;
    if (region == mfi_container_region_count(model->container))
        return mfi_fail(error, MF_E_RANGE, "the model has no shell %u that could be fed", shell);
    pthread_mutex_lock(&model->residency.lock);
    status = mfi_container_feed(model->container, region, data, bytes, error);
    if (status == MF_OK) open_gates(model);
    pthread_mutex_unlock(&model->residency.lock);
    return status;
}

/* ---- What is said of them ---- */

static const char *narrowest_with(const mf_model *model, uint32_t shell)
{
    for (uint32_t g = 0; g < model->config.n_granularity; g++)
        if (shell == MF_SHELL_TABLES || shells_of(model, &model->config.granularity[g]) > shell)
            return model->config.granularity[g].name;
    return NULL;
}

mf_status mfi_model_shell_info(const mf_model *model, uint32_t shell, mf_shell_info *info)
{
    const mfi_container *c = model->container;
    const uint32_t i = region_of(model, shell);
    const bool none = i == mfi_container_region_count(c);
    if (none && (shell == MF_SHELL_TABLES || shell >= model->residency.n_shell)) return MF_E_RANGE;
    mf_shell_info full = { .granularity = narrowest_with(model, shell), .present = 1, .resident = 1 };
    if (!none) {
        const mfi_region *region = mfi_container_region(c, i);
        full.file_offset = region->file_offset;
        full.stored_bytes = region->stored_bytes;
        full.memory_bytes = region->raw_bytes;
        full.content_hash = region->content_hash;
        full.fed_bytes = mfi_region_fed_bytes(c, i);
        full.present = mfi_region_present(c, i);
        full.resident = mfi_region_resident(c, i);
    }
    return mfi_write_info(info, &full, sizeof full, MFI_FIRST_BYTES(mf_shell_info, resident));
}
