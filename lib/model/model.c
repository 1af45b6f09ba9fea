/* model.c - opening a model: container, configuration, tokenizer, kernels, program, page pools. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "compile.h"
#include "cpu.h"
#include "defs.h"
#include "pack.h"
#include "platform.h"
#include "status.h"

/* The processor's level, lowered by the option and by the environment variable MF_CPU. What is there and slow is used by
 * who names its level. */
static mf_status choose_kernels(mf_model *model, const mf_model_options *options, mf_error *error)
{
    const bool fast = options->arithmetic == MF_ARITHMETIC_FAST;
    uint64_t cpu = mfk_cpu_detect();
    bool named = false;
    const char *environment = getenv("MF_CPU");
    const char *levels[] = { options->cpu, environment };
    for (size_t i = 0; i < MFI_COUNT(levels); i++) {
        if (levels[i] == NULL || levels[i][0] == '\0') continue;
        if (mfk_cpu_limit(&cpu, levels[i]) != 0)
            return mfi_fail(error, MF_E_INVALID, "unknown processor level \"%.32s\"%s", levels[i],
                            i == 1 ? " in the environment variable MF_CPU" : "");
        named = true;
    }
    if (!named) cpu = mfk_cpu_should_use(cpu);
    mfk_table_init(&model->kernels, fast ? cpu : cpu & ~(uint64_t)MFK_CPU_FAST);
    if (fast) mfk_table_take_fast(&model->kernels);
    return MF_OK;
}

/* The program needs the directory alone, and says which shells a granularity reaches into. */
static mf_status load_weights(mf_model *model, const mfi_container_source *source, const mf_model_options *options,
                              mf_error *error)
{
    mf_status status = mfi_compile(&model->program, &model->config, model->container, &model->allocator, error);
    if (status == MF_OK) status = mfi_residency_open(model, options->widest, error);
    /* After a copy the caller's memory may go. */
    if (status == MF_OK && source->memory != NULL && options->load == MF_LOAD_COPY)
        mfi_container_forget_source(model->container);
    return status;
}

static mf_status load_tokenizer(mf_model *model, mf_error *error)
{
    const mfi_tensor *blob = mfi_container_find(model->container, "tokenizer", 0);
    if (blob == NULL) return MF_OK;
    if (blob->data == NULL || blob->type != MFK_U8)
        return mfi_fail(error, MF_E_FORMAT, "%s: the tokenizer is not a byte tensor of the base region",
                        mfi_container_name(model->container));
    mf_status status = mfi_tokenizer_load(&model->tokenizer, &model->allocator, blob->data, (size_t)blob->bytes, error);
    if (status == MF_OK && mfi_tokenizer_vocab(model->tokenizer) > model->config.n_vocab)
        status = mfi_fail(error, MF_E_FORMAT, "%s: the tokenizer has %u tokens, the model only %u",
                          mfi_container_name(model->container), mfi_tokenizer_vocab(model->tokenizer),
                          model->config.n_vocab);
    return status;
}

/* A page holds 64 positions of one layer: n_kv blocks of keys, then n_kv of values. */
static void size_pages(mf_model *model)
{
    const size_t n_kv = mfi_kv_heads(model->config.n_head, model->config.head_group);
    for (uint32_t type = 0; type < MFI_N_CACHE_TYPE; type++) {
        const mfk_type element = mfi_cache_element((mf_cache_type)type);
        model->value_offset_bytes[type] = n_kv * mfk_cache_block_bytes(element, model->config.d_head);
        model->page_bytes[type] = 2 * model->value_offset_bytes[type];
    }
}

static bool has_other_pool(const mf_model *model, mf_cache_type type)
{
    for (uint32_t other = 0; other < MFI_N_CACHE_TYPE; other++)
        if (other != (uint32_t)type && model->pool[other] != NULL) return true;
    return false;
}

mf_status mfi_model_pool(mf_model *model, mf_cache_type type, mfi_page_pool **out, mf_error *error)
{
    mf_status status = MF_OK;
    pthread_mutex_lock(&model->pool_lock);
    const uint64_t n_page = model->cache_bytes / model->page_bytes[type];
    if (model->pool[type] != NULL) {
        *out = model->pool[type];
    } else if (model->cache_bytes != 0 && has_other_pool(model, type)) {
        status = mfi_fail(error, MF_E_INVALID, "the model's cache_bytes already serve sessions of another cache type");
    } else if (model->cache_bytes != 0 && (n_page == 0 || n_page >= MFI_NO_PAGE)) {
        status = mfi_fail(error, MF_E_INVALID, "cache_bytes %llu cannot be cut into pages of %zu bytes",
                          (unsigned long long)model->cache_bytes, model->page_bytes[type]);
    } else {
        status = mfi_page_pool_create(out, &model->allocator, model->page_bytes[type], (uint32_t)n_page);
        if (status == MF_OK)
            model->pool[type] = *out;
        else
            mfi_fail(error, status, "no memory for the pages of the cache");
    }
    pthread_mutex_unlock(&model->pool_lock);
    return status;
}

static void destroy(mf_model *model)
{
    const mf_allocator allocator = model->allocator;
    for (uint32_t type = 0; type < MFI_N_CACHE_TYPE; type++)
        mfi_page_pool_destroy(model->pool[type]);
    pthread_mutex_destroy(&model->pool_lock);
    mfi_residency_destroy(model);
    mfi_program_free(model->program);
    mfi_tokenizer_free(model->tokenizer);
    mfi_config_free(&model->config, &allocator);
    mfi_free(&allocator, model->plan, model->plan_bytes);
    mfi_container_close(model->container);
    mfi_free(&allocator, model, sizeof *model);
}

/* FAST where it makes a difference to a matrix. */
static mf_arithmetic arithmetic_in_use(const mf_model *model)
{
    for (uint32_t i = 0; i < mfi_container_tensor_count(model->container); i++) {
        const mfi_tensor *tensor = mfi_container_tensor(model->container, i);
        if (tensor->kind == MFI_PANEL && mfk_table_fast(&model->kernels, tensor->type)) return MF_ARITHMETIC_FAST;
    }
    return MF_ARITHMETIC_EXACT;
}

static void log_opened(const mf_model *model)
{
    char line[256];
    if (model->log == NULL) return;
    snprintf(line, sizeof line, "%s: %s, %u layers, %u of %u shells loaded, kernels for %s%s",
             mfi_container_name(model->container), mfi_family_name(model->config.family), model->config.n_layer,
             mfi_shells_resident(&model->residency), model->residency.n_shell, mfk_cpu_name(model->kernels.cpu),
             arithmetic_in_use(model) == MF_ARITHMETIC_FAST ? ", fast arithmetic" : "");
    model->log(model->log_user, 2, line);
}

static mf_status open_parts(mf_model *model, const mfi_container_source *source, const mf_model_options *options,
                            mf_error *error)
{
    mf_status status = mfi_container_open(&model->container, source, options, error);
    if (status == MF_OK) status = choose_kernels(model, options, error);
    if (status != MF_OK) return status;
    status = mfi_config_read(&model->config, model->container, &model->allocator, error);
    if (status == MF_OK) status = load_weights(model, source, options, error);
    if (status == MF_OK) status = load_tokenizer(model, error);
    if (status != MF_OK) return status;
    size_pages(model);
    log_opened(model);
    return MF_OK;
}

mf_status mfi_model_open(mf_model **out, const mfi_container_source *source, const mf_model_options *options,
                         mf_error *error)
{
    *out = NULL;
    mf_model *model = mfi_alloc(&options->allocator, sizeof *model);
    mfi_image image = source->image;
    if (model == NULL) {
        mfi_image_free(&image);
        return mfi_fail(error, MF_E_NOMEM, "no memory for the model");
    }
    model->allocator = options->allocator;
    model->process = mfi_process_id();
    model->log = options->log;
    model->log_user = options->log_user;
    model->cache_bytes = options->cache_bytes;
    atomic_init(&model->references, 1);
    mf_status status = mfi_residency_init(model, source, error);
    if (status == MF_OK && pthread_mutex_init(&model->pool_lock, NULL) != 0) {
        mfi_residency_destroy(model);
        status = mfi_fail(error, MF_E_NOMEM, "no mutex for the model");
    }
    if (status != MF_OK) {
        mfi_free(&options->allocator, model, sizeof *model);
        mfi_image_free(&image);
        return status;
    }
    status = open_parts(model, source, options, error);
    if (status != MF_OK) {
        destroy(model);
        return status;
    }
    *out = model;
    return MF_OK;
}

void mfi_model_retain(mf_model *model)
{
    atomic_fetch_add_explicit(&model->references, 1, memory_order_relaxed);
}

void mfi_model_release(mf_model *model)
{
    if (atomic_fetch_sub_explicit(&model->references, 1, memory_order_acq_rel) == 1) destroy(model);
}

mf_status mfi_model_check_process(const mf_model *model, mf_error *error)
{
    if (mfi_process_id() == model->process) return MF_OK;
    return mfi_fail(error, MF_E_FORKED, "%s was opened by another process; open it again after fork()",
                    mfi_container_name(model->container));
}

/* Elements of every tensor, as the matrices count; a tied output matrix counts once. */
static uint64_t count_parameters(const mf_model *model)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < mfi_container_tensor_count(model->container); i++) {
        const mfi_tensor *tensor = mfi_container_tensor(model->container, i);
        const bool is_parameter = tensor->type != MFK_U8 && strncmp(tensor->name, "rope.freqs", 10) != 0;
        const bool is_pair = tensor->kind == MFI_PANEL && tensor->panels > (tensor->n + MFK_NR - 1) / MFK_NR;
        if (is_parameter) n += tensor->n * tensor->k * (is_pair ? 2 : 1);
    }
    return n;
}

mf_status mfi_model_info(const mf_model *model, mf_model_info *info)
{
    const mfi_config *config = &model->config;
    mf_model_info full = {
        .family = mfi_family_name(config->family),
        .cpu = mfk_cpu_name(model->kernels.cpu),
        .n_layer = config->n_layer,
        .d_model = config->d_model,
        .n_head = config->n_head,
        .n_kv_head = mfi_kv_heads(config->n_head, config->head_group),
        .d_head = config->d_head,
        .d_ff = config->d_ff,
        .n_vocab = config->n_vocab,
        .n_token = mfi_token_count(config),
        .max_positions = config->max_positions,
        .n_granularity = config->n_granularity,
        .quantum = MFI_QUANTUM,
        .n_shell = model->residency.n_shell,
        .n_shell_resident = mfi_shells_resident(&model->residency),
        .n_param = count_parameters(model),
        .file_bytes = mfi_container_file_bytes(model->container),
        .mapped_bytes = mfi_container_mapped_bytes(model->container),
        .allocated_bytes = mfi_container_allocated_bytes(model->container),
        .bos_token = config->bos_token,
        .eos_token = config->eos_token,
        .arithmetic = arithmetic_in_use(model),
        .image_size = config->vit.image_size,
        .patch_size = config->vit.patch_size,
        .n_channel = config->vit.n_channel,
        .n_class = config->vit.n_class,
    };
    for (uint32_t i = 0; i < mfi_container_region_count(model->container); i++)
        full.weight_bytes += mfi_container_region(model->container, i)->raw_bytes;
    return mfi_write_info(info, &full, sizeof full, MFI_FIRST_BYTES(mf_model_info, eos_token));
}
