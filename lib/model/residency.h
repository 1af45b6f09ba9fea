/* residency.h - which shells of a model are in memory, and who is using them.
 *
 * Every shell has one atomic word: MFI_CLOSED, and the number of requests in flight whose widest shell it is. Shells nest,
 * so a request counts itself into one of them, for the whole of its forward, and takes no lock. Whoever changes what is
 * in memory holds `lock`: closes the shells that are to go, waits until they are empty, unloads them; or loads first and
 * opens then, with release, so that who gets in sees the weights. Word 0 is closed while the tables are absent. */
#ifndef MFI_RESIDENCY_H
#define MFI_RESIDENCY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "model_config.h"

#define MFI_CLOSED 0x80000000u

typedef struct mfi_residency {
    pthread_mutex_t lock;
    char *path; /* of the file, beside which parts may lie; or NULL */
    size_t path_bytes;
    uint32_t n_shell;
    atomic_uint n_resident; /* the first so many shells can be used */
    atomic_uint gate[MFI_MAX_GRANULARITY];
} mfi_residency;

mf_status mfi_residency_init(mf_model *model, const mfi_container_source *source, mf_error *error);
void mfi_residency_destroy(mf_model *model);
/* While the model opens, its program being there: loads what the granularity `widest` (NULL: all) needs, as far as it is
 * present. */
mf_status mfi_residency_open(mf_model *model, const char *widest, mf_error *error);

static inline uint32_t mfi_shells_resident(const mfi_residency *residency)
{
    return atomic_load_explicit(&residency->n_resident, memory_order_relaxed);
}

/* Holds the first n_shell shells in memory until mfi_unpin(); false when they are not all there. */
bool mfi_pin(mfi_residency *residency, uint32_t n_shell);
void mfi_unpin(mfi_residency *residency, uint32_t n_shell);
/* MF_E_NOT_RESIDENT, and what would help. */
mf_status mfi_refuse_view(const mf_model *model, uint32_t n_shell, mf_error *error);

/* As the functions of matformer.h; options are read. */
mf_status mfi_model_grow(mf_model *model, const char *granularity, const mf_grow_options *options, mf_error *error);
mf_status mfi_model_trim(mf_model *model, const char *granularity, const mf_trim_options *options, mf_error *error);
mf_status mfi_model_attach(mf_model *model, const mfi_container_source *source, mf_error *error);
mf_status mfi_model_feed(mf_model *model, uint32_t shell, const void *data, size_t bytes, mf_error *error);
mf_status mfi_model_shell_info(const mf_model *model, uint32_t shell, mf_shell_info *info);

#endif
