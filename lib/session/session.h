/* session.h - one timeline: its tokens, its pages, and where it stands. */
#ifndef MFI_SESSION_H
#define MFI_SESSION_H

#include <stdatomic.h>

#include "executor.h"
#include "kv_cache.h"

struct mf_session {
    mf_model *model;
    uint32_t max_positions, position;
    int32_t *tokens; /* [max_positions] */
    mfi_kv_cache cache;
    atomic_bool cancel; /* asked for; taken back by the forward that obeys */
    bool in_forward;    /* named by a request of the call in progress: finds a session given twice */
    uint32_t n_pinned;  /* shells that its request holds in memory */
};

mf_status mfi_session_create(mf_session **out, mf_model *model, const mf_session_options *options, mf_error *error);
void mfi_session_free(mf_session *session);
mf_status mfi_session_rewind(mf_session *session, uint32_t position);
/* Moves to `position`, backwards or up to where the session stood, and keeps every page: what stands behind it can be
 * run over, or moved to again. mfi_session_rewind(to where it stands) gives those pages back. */
void mfi_session_place(mf_session *session, uint32_t position);
/* Whether it was asked to cancel; the request is taken back. */
bool mfi_session_take_cancel(mf_session *session);
mf_status mfi_session_fork(mf_session **out, const mf_session *session, mf_error *error);

/* session_file.c */
mf_status mfi_session_save(const mf_session *session, const char *path, mf_error *error);
mf_status mfi_session_load(mf_session *session, const char *path, mf_error *error);

/* forward.c: the requests are `stride` bytes apart; see mf_forward. */
mf_status mfi_forward(mf_executor *executor, void *requests, size_t n_request, size_t stride, mf_error *error);

#endif
