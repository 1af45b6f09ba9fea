/* session.c - making, rewinding and forking timelines. */
#include "session.h"

#include <string.h>

#include "defs.h"
#include "status.h"

enum { MAX_POSITIONS = 1 << 24 }; /* a rotation takes its position as f32, which is exact up to here */

mf_status mfi_session_create(mf_session **out, mf_model *model, const mf_session_options *options, mf_error *error)
{
    *out = NULL;
    if ((uint32_t)options->cache_type >= MFI_N_CACHE_TYPE)
        return mfi_fail(error, MF_E_INVALID, "cache_type %d is unknown", (int)options->cache_type);
    const uint32_t max_positions = options->max_positions ? options->max_positions : model->config.max_positions;
    if (max_positions > MAX_POSITIONS)
        return mfi_fail(error, MF_E_INVALID, "max_positions %u is above %d", max_positions, MAX_POSITIONS);
    mf_session *s = mfi_alloc(&model->allocator, sizeof *s);
    if (s == NULL) return mfi_fail(error, MF_E_NOMEM, "no memory for a session");
    s->model = model;
    s->max_positions = max_positions;
    atomic_init(&s->cancel, false);
    mfi_model_retain(model);
    mf_status status = mfi_kv_create(&s->cache, model, options->cache_type, max_positions, error);
    if (status == MF_OK) {
        s->tokens = mfi_alloc_array(&model->allocator, max_positions, sizeof *s->tokens);
        if (s->tokens == NULL)
            status = mfi_fail(error, MF_E_NOMEM, "no memory for the tokens of %u positions", max_positions);
    }
    if (status != MF_OK) {
        mfi_session_free(s);
        return status;
    }
    *out = s;
    return MF_OK;
}

void mfi_session_free(mf_session *session)
{
    if (session == NULL) return;
    mf_model *model = session->model;
    mfi_kv_destroy(&session->cache);
    mfi_free(&model->allocator, session->tokens, session->max_positions * sizeof *session->tokens);
    mfi_free(&model->allocator, session, sizeof *session);
    mfi_model_release(model);
}

mf_status mfi_session_rewind(mf_session *session, uint32_t position)
{
    if (position > session->position) return MF_E_RANGE;
    session->position = position;
    mfi_kv_truncate(&session->cache, position);
    return MF_OK;
}

void mfi_session_place(mf_session *session, uint32_t position)
{
    session->position = position;
}

bool mfi_session_take_cancel(mf_session *session)
{
    return atomic_exchange_explicit(&session->cancel, false, memory_order_relaxed);
}

mf_status mfi_session_fork(mf_session **out, const mf_session *session, mf_error *error)
{
    const mf_session_options options = { sizeof options, session->max_positions, session->cache.type };
    const mf_status status = mfi_session_create(out, session->model, &options, error);
    if (status != MF_OK) return status;
    mfi_kv_share(&(*out)->cache, &session->cache);
    memcpy((*out)->tokens, session->tokens, session->position * sizeof *session->tokens);
    (*out)->position = session->position;
    return MF_OK;
}
