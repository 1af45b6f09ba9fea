/* model.h - an open model: the container, its family's configuration, and the program it compiles to. */
#ifndef MFI_MODEL_H
#define MFI_MODEL_H

#include <pthread.h>
#include <stdatomic.h>

#include "arena.h"
#include "container.h"
#include "kernel.h"
#include "model_config.h"
#include "page_pool.h"
#include "program.h"
#include "residency.h"
#include "tokenizer.h"

#define MFI_N_CACHE_TYPE 3u

struct mfi_stored_plan;

struct mf_model {
    atomic_uint_least32_t references;
    mf_allocator allocator;
    int64_t process; /* that opened it */
    mfi_container *container;
    mfi_tokenizer *tokenizer; /* or NULL */
    mfk_table kernels;
    mfi_config config;
    mfi_program *program;
    mfi_residency residency;
    struct mfi_stored_plan *plan; /* lib/submodel/stored_plan.h, which makes it: one block; NULL: none */
    size_t plan_bytes;
    bool plan_refused; /* the file has one that this version does not read */
    mf_log log;
    void *log_user;
    /* Pages of 64 positions of one layer's keys and values, by cache type: here because the sessions of a model
     * share them. Each is made by mfi_model_pool when the first session of its type is. */
    pthread_mutex_t pool_lock;
    mfi_page_pool *pool[MFI_N_CACHE_TYPE];
    size_t page_bytes[MFI_N_CACHE_TYPE];
    size_t value_offset_bytes[MFI_N_CACHE_TYPE]; /* of the values in a page */
    uint64_t cache_bytes;                        /* budget, or 0 */
};

mf_status mfi_model_open(mf_model **out, const mfi_container_source *source, const mf_model_options *options,
                         mf_error *error);
void mfi_model_retain(mf_model *model);
void mfi_model_release(mf_model *model);
mf_status mfi_model_info(const mf_model *model, mf_model_info *info);
/* MF_E_FORKED in a child process of the one that opened the model. */
mf_status mfi_model_check_process(const mf_model *model, mf_error *error);

/* What a cache of this type holds. */
static inline mfk_type mfi_cache_element(mf_cache_type type)
{
    return type == MF_CACHE_F32 ? MFK_F32 : type == MF_CACHE_BF16 ? MFK_BF16 : MFK_Q8;
}

/* The pool of a cache type. Under a budget there is one type, the first one asked for. */
mf_status mfi_model_pool(mf_model *model, mf_cache_type type, mfi_page_pool **out, mf_error *error);

/* model_weights.c: the weights of a model, which must outlive them. Tables and vectors are read in whole rows. A shell
 * that is not in memory is MF_E_FORMAT. Any number of threads. */
mfi_weights mfi_model_weights(const mf_model *model);

#endif
