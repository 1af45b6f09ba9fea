/* api.c - the exported functions: check what the caller gave, call one layer down, report. mf_generate is in
 * generate.c, the sampler's in lib/session/sampler.c, mf_status_* and mf_version in their own places. */
#include "defs.h"
#include "import.h"
#include "open_checkpoint.h"
#include "session.h"
#include "status.h"
#include "stored_plan.h"

uint32_t mf_version(void)
{
    return (uint32_t)MF_VERSION_MAJOR << 16 | (uint32_t)MF_VERSION_MINOR << 8 | (uint32_t)MF_VERSION_PATCH;
}

/* ---- Model ---- */

static mf_status open_source(mf_model **out, const mfi_container_source *source, const mf_model_options *options,
                             mf_error *error)
{
    if (out == NULL) return mfi_fail(error, MF_E_INVALID, "out is NULL");
    *out = NULL;
    mf_model_options full = MF_MODEL_OPTIONS_INIT;
    mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_model_options, cache_bytes), options,
                                        "mf_model_options", error);
    if (status != MF_OK) return status;
    if ((full.allocator.alloc == NULL) != (full.allocator.free == NULL))
        return mfi_fail(error, MF_E_INVALID, "an allocator has both alloc and free, or neither");
    if (full.load != MF_LOAD_MAP && full.load != MF_LOAD_COPY)
        return mfi_fail(error, MF_E_INVALID, "load %d is unknown", (int)full.load);
    if (full.verify != MF_VERIFY_DEFAULT && full.verify != MF_VERIFY_FULL && full.verify != MF_VERIFY_NONE)
        return mfi_fail(error, MF_E_INVALID, "verify %d is unknown", (int)full.verify);
    if (full.arithmetic != MF_ARITHMETIC_EXACT && full.arithmetic != MF_ARITHMETIC_FAST)
        return mfi_fail(error, MF_E_INVALID, "arithmetic %d is unknown", (int)full.arithmetic);
    full.allocator = mfi_allocator(&full.allocator);
    if (source->path != NULL && mfi_import_recognises(source->path))
        return mfi_open_checkpoint(out, source->path, &full, error);
    status = mfi_model_open(out, source, &full, error);
    if (status == MF_OK) status = mfi_plan_load(*out, error);
    if (status == MF_OK) return MF_OK;
    mf_model_close(*out);
    *out = NULL;
    return status;
}

mf_status mf_model_open(mf_model **out, const char *path, const mf_model_options *options, mf_error *error)
{
    if (out != NULL) *out = NULL;
    if (path == NULL || path[0] == '\0') return mfi_fail(error, MF_E_INVALID, "no path");
    const mfi_container_source source = { .path = path, .fd = -1 };
    return open_source(out, &source, options, error);
}

mf_status mf_model_open_fd(mf_model **out, int fd, uint64_t offset, uint64_t bytes, const mf_model_options *options,
                           mf_error *error)
{
    if (out != NULL) *out = NULL;
    if (fd < 0) return mfi_fail(error, MF_E_INVALID, "file descriptor %d", fd);
    const mfi_container_source source = { .fd = fd, .offset = offset, .bytes = bytes };
    return open_source(out, &source, options, error);
}

mf_status mf_model_open_memory(mf_model **out, const void *data, size_t bytes, const mf_model_options *options,
                               mf_error *error)
{
    if (out != NULL) *out = NULL;
    if (data == NULL || bytes == 0) return mfi_fail(error, MF_E_INVALID, "no data");
    const mfi_container_source source = { .fd = -1, .memory = data, .memory_bytes = bytes };
    return open_source(out, &source, options, error);
}

void mf_model_close(mf_model *model)
{
    if (model != NULL) mfi_model_release(model);
}

mf_status mf_model_info_get(const mf_model *model, mf_model_info *info)
{
    return model == NULL || info == NULL ? MF_E_INVALID : mfi_model_info(model, info);
}

const char *mf_model_granularity(const mf_model *model, uint32_t index)
{
    return model != NULL && index < model->config.n_granularity ? model->config.granularity[index].name : NULL;
}

const char *mf_model_configuration(const mf_model *model, uint32_t index)
{
    return model != NULL && index < model->config.n_named ? model->config.named[index].name : NULL;
}

const char *mf_model_metadata(const mf_model *model, const char *key, uint32_t index)
{
    const char *found_key, *value;
    if (model == NULL) return NULL;
    if (key != NULL) return mfi_container_text(model->container, key, &value) ? value : NULL;
    return mfi_container_text_at(model->container, index, &found_key, &value) ? found_key : NULL;
}

/* ---- Submodel ---- */

mf_status mf_extract_submodel(mf_submodel **out, mf_model *model, const mf_submodel_spec *spec, mf_error *error)
{
    if (out == NULL) return mfi_fail(error, MF_E_INVALID, "out is NULL");
    *out = NULL;
    if (model == NULL) return mfi_fail(error, MF_E_INVALID, "model is NULL");
    mf_submodel_spec full = MF_SUBMODEL_SPEC_INIT;
    mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_submodel_spec, max_ms), spec,
                                        "mf_submodel_spec", error);
    if (status != MF_OK) return status;
    if (full.text == NULL) return mfi_submodel_create(out, model, &full, error);

    if (full.granularity != NULL || full.ratio != 0 || full.ffn != NULL || full.n_ffn != 0 || full.heads != NULL ||
        full.n_heads != 0 || full.skip != NULL || full.n_skip != 0 || full.max_params != 0 || full.max_bytes != 0 ||
        full.max_flops != 0 || full.max_ms != 0)
        return mfi_fail(error, MF_E_INVALID, "a specification with text has no other field set");
    return mf_extract_submodel_text(out, model, full.text, error);
}

mf_status mf_extract_submodel_text(mf_submodel **out, mf_model *model, const char *text, mf_error *error)
{
    if (out == NULL) return mfi_fail(error, MF_E_INVALID, "out is NULL");
    *out = NULL;
    if (model == NULL || text == NULL) return mfi_fail(error, MF_E_INVALID, "model or text is NULL");
    mf_submodel_spec spec;
    mfi_spec_storage storage;
    mf_status status = mfi_submodel_parse(&spec, &storage, text, error);
    return status == MF_OK ? mfi_submodel_create(out, model, &spec, error) : status;
}

void mf_submodel_close(mf_submodel *submodel)
{
    mfi_submodel_free(submodel);
}

mf_status mf_submodel_info_get(const mf_submodel *submodel, mf_submodel_info *info)
{
    return submodel == NULL || info == NULL ? MF_E_INVALID : mfi_submodel_info(submodel, info);
}

mf_status mf_submodel_layer(const mf_submodel *submodel, uint32_t layer, uint32_t *ffn, uint32_t *heads, int *kept)
{
    if (submodel == NULL) return MF_E_INVALID;
    if (layer >= submodel->n_layer) return MF_E_RANGE;
    if (ffn != NULL) *ffn = mfi_view_ffn(submodel, layer);
    if (heads != NULL) *heads = mfi_view_heads(submodel, layer);
    if (kept != NULL) *kept = mfi_view_heads(submodel, layer) != 0;
    return MF_OK;
}

mf_status mf_submodel_text(const mf_submodel *submodel, char *text, size_t capacity, size_t *bytes)
{
    if (submodel == NULL || (text == NULL && capacity != 0)) return MF_E_INVALID;
    return mfi_submodel_text(submodel, text, capacity, bytes);
}

/* ---- Stored plan ---- */

mf_status mf_model_plan_info(const mf_model *model, mf_plan_info *info)
{
    mf_plan_info full = MF_PLAN_INFO_INIT;
    if (model == NULL || info == NULL) return MF_E_INVALID;
    const mf_status status = mfi_plan_info(model, &full);
    return status == MF_OK ? mfi_write_info(info, &full, sizeof full, MFI_FIRST_BYTES(mf_plan_info, n_predicted))
                           : status;
}

mf_status mf_model_plan_entry(const mf_model *model, uint32_t index, mf_plan_entry *entry)
{
    mf_plan_entry full = MF_PLAN_ENTRY_INIT;
    if (model == NULL || entry == NULL) return MF_E_INVALID;
    mf_status status =
        mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_plan_entry, text_bytes), entry, "mf_plan_entry", NULL);
    if (status == MF_OK) status = mfi_plan_entry(model, index, &full);
    if (status != MF_OK && status != MF_E_CAPACITY) return status;
    mfi_write_info(entry, &full, sizeof full, MFI_FIRST_BYTES(mf_plan_entry, text_bytes));
    return status;
}

mf_status mf_model_plan_draft(const mf_model *model, int greedy, mf_plan_draft *draft)
{
    mf_plan_draft full = MF_PLAN_DRAFT_INIT;
    if (model == NULL || draft == NULL) return MF_E_INVALID;
    const mf_status status = mfi_plan_draft(model, greedy != 0, &full);
    return status == MF_OK ? mfi_write_info(draft, &full, sizeof full, MFI_FIRST_BYTES(mf_plan_draft, speedup))
                           : status;
}

/* ---- Executor ---- */

mf_status mf_executor_create(mf_executor **out, mf_model *model, const mf_executor_options *options, mf_error *error)
{
    if (out == NULL) return mfi_fail(error, MF_E_INVALID, "out is NULL");
    *out = NULL;
    if (model == NULL) return mfi_fail(error, MF_E_INVALID, "model is NULL");
    mf_executor_options full = MF_EXECUTOR_OPTIONS_INIT;
    mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_executor_options, n_cpu), options,
                                        "mf_executor_options", error);
    if (status == MF_OK && full.cpus == NULL && full.n_cpu != 0)
        status = mfi_fail(error, MF_E_INVALID, "n_cpu is %zu, but cpus is NULL", full.n_cpu);
    if (status == MF_OK) status = mfi_model_check_process(model, error);
    return status == MF_OK ? mfi_executor_create(out, model, &full, error) : status;
}

void mf_executor_close(mf_executor *executor)
{
    mfi_executor_free(executor);
}

/* ---- Session ---- */

mf_status mf_session_create(mf_session **out, mf_model *model, const mf_session_options *options, mf_error *error)
{
    if (out == NULL) return mfi_fail(error, MF_E_INVALID, "out is NULL");
    *out = NULL;
    if (model == NULL) return mfi_fail(error, MF_E_INVALID, "model is NULL");
    mf_session_options full = MF_SESSION_OPTIONS_INIT;
    mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_session_options, cache_type), options,
                                        "mf_session_options", error);
    return status == MF_OK ? mfi_session_create(out, model, &full, error) : status;
}

void mf_session_close(mf_session *session)
{
    mfi_session_free(session);
}

uint32_t mf_session_position(const mf_session *session)
{
    return session != NULL ? session->position : 0;
}

const int32_t *mf_session_tokens(const mf_session *session)
{
    return session != NULL ? session->tokens : NULL;
}

mf_status mf_session_rewind(mf_session *session, uint32_t position)
{
    return session != NULL ? mfi_session_rewind(session, position) : MF_E_INVALID;
}

mf_status mf_session_fork(mf_session **out, const mf_session *session, mf_error *error)
{
    if (out == NULL) return mfi_fail(error, MF_E_INVALID, "out is NULL");
    *out = NULL;
    if (session == NULL) return mfi_fail(error, MF_E_INVALID, "session is NULL");
    return mfi_session_fork(out, session, error);
}

mf_status mf_session_save(const mf_session *session, const char *path, mf_error *error)
{
    if (session == NULL || path == NULL) return mfi_fail(error, MF_E_INVALID, "session or path is NULL");
    return mfi_session_save(session, path, error);
}

mf_status mf_session_load(mf_session *session, const char *path, mf_error *error)
{
    if (session == NULL || path == NULL) return mfi_fail(error, MF_E_INVALID, "session or path is NULL");
    return mfi_session_load(session, path, error);
}

void mf_session_cancel(mf_session *session)
{
    if (session != NULL) atomic_store_explicit(&session->cancel, true, memory_order_relaxed);
}

/* ---- Forward ---- */

mf_status mf_forward(mf_executor *executor, mf_request *requests, size_t n_request, size_t request_bytes,
                     mf_error *error)
{
    if (executor == NULL) return mfi_fail(error, MF_E_INVALID, "executor is NULL");
    mf_status status = mfi_model_check_process(executor->model, error);
    if (status != MF_OK) return status;
    if (!mfi_executor_acquire(executor)) return mfi_fail(error, MF_E_BUSY, "the executor is running another call");
    status = mfi_forward(executor, requests, n_request, request_bytes, error);
    mfi_executor_release(executor);
    return status;
}

/* ---- Tokenizer ---- */

mf_status mf_tokenize(const mf_model *model, const char *text, size_t text_bytes, int32_t *tokens, size_t capacity,
                      size_t *n_token)
{
    if (model == NULL || n_token == NULL || (text == NULL && text_bytes != 0) || (tokens == NULL && capacity != 0))
        return MF_E_INVALID;
    if (model->tokenizer == NULL) return MF_E_UNSUPPORTED;
    return mfi_tokenizer_encode(model->tokenizer, text, text_bytes, 0, tokens, capacity, n_token);
}

mf_status mf_tokenize_with(const mf_model *model, const mf_tokenize_options *options, const char *text,
                           size_t text_bytes, int32_t *tokens, size_t capacity, size_t *n_token)
{
    mf_tokenize_options o = MF_TOKENIZE_OPTIONS_INIT;
    if (model == NULL || n_token == NULL || (text == NULL && text_bytes != 0) || (tokens == NULL && capacity != 0))
        return MF_E_INVALID;
    mf_status status = mfi_read_options(&o, sizeof(o), MFI_FIRST_BYTES(mf_tokenize_options, add_ends), options,
                                        "mf_tokenize_options", NULL);
    if (status != MF_OK) return status;
    if (model->tokenizer == NULL) return MF_E_UNSUPPORTED;
    const unsigned how = (o.parse_control ? MFI_ENCODE_CONTROL : 0u) | (o.add_ends ? MFI_ENCODE_ENDS : 0u);
    return mfi_tokenizer_encode(model->tokenizer, text, text_bytes, how, tokens, capacity, n_token);
}

mf_status mf_detokenize(const mf_model *model, const int32_t *tokens, size_t n_token, char *text, size_t capacity,
                        size_t *text_bytes)
{
    if (model == NULL || text_bytes == NULL || (tokens == NULL && n_token != 0) || (text == NULL && capacity != 0))
        return MF_E_INVALID;
    if (model->tokenizer == NULL) return MF_E_UNSUPPORTED;
    return mfi_tokenizer_decode(model->tokenizer, tokens, n_token, text, capacity, text_bytes);
}
