/* forward.c - mf_forward: requests in, batches of rows to the executor, sessions moved on.
 *
 * A request is checked, and its pages are made writable, before anything runs; its session moves on only when
 * all its rows were computed. So a request that fails leaves its session as it was. Inputs longer than the
 * executor's rows run in several batches, filled in the order of the requests. */
#include <string.h>

#include "defs.h"
#include "platform.h"
#include "session.h"
#include "status.h"

typedef struct forward {
    mf_executor *executor;
    unsigned char *requests;
    size_t n_request, stride;
    mf_error *error;  /* takes the first failure's sentence */
    mf_status status; /* the first failure */
} forward;

static mf_request *request_at(const forward *f, size_t index)
{
    return (mf_request *)(void *)(f->requests + index * f->stride);
}

/* What the caller set, with nothing in the fields that it does not know of. */
static mf_request input_at(const forward *f, size_t index)
{
    mf_request request = { 0 };
    memcpy(&request, request_at(f, index), mfi_min(f->stride, sizeof request));
    return request;
}

/* `reason` is the sentence of `status`; the call reports the first of them. */
static void fail_request(forward *f, size_t index, mf_status status, const mf_error *reason)
{
    request_at(f, index)->status = status;
    if (f->status != MF_OK) return;
    f->status = status;
    mfi_fail(f->error, status, "request %zu: %s", index, reason->detail);
}

/* Rows of a request's image, of a model that takes images; 0: it takes tokens. */
static uint32_t image_rows(const mf_request *request)
{
    return mfi_vit_rows(&request->session->model->config.vit);
}

static size_t row_count(const mf_request *request)
{
    return image_rows(request) > 0 ? image_rows(request) : request->n_token;
}

/* ---- Checks ---- */

static bool is_zero(const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != 0) return false;
    return true;
}

static mf_status check_tokens(const mf_request *request, const mf_session *session, mf_error *error)
{
    const uint32_t n_vocab = session->model->program->n_vocab;
    if (request->pixels != NULL || request->pooled != NULL)
        return mfi_fail(error, MF_E_UNSUPPORTED, "the model takes tokens: no pixels, and no pooled state");
    if (request->tokens == NULL || request->n_token == 0) return mfi_fail(error, MF_E_INVALID, "no tokens");
    if (request->n_token > session->max_positions - session->position)
        return mfi_fail(error, MF_E_FULL, "%zu tokens after position %u; the session holds %u", request->n_token,
                        session->position, session->max_positions);
    for (size_t i = 0; i < request->n_token; i++) {
        const int32_t token = request->tokens[i];
        if (token == -1 && request->embeddings == NULL)
            return mfi_fail(error, MF_E_INVALID, "token %zu is -1, but no embeddings are given", i);
        if (token < -1 || (token >= 0 && (uint32_t)token >= n_vocab))
            return mfi_fail(error, MF_E_RANGE, "token %zu is %d; the vocabulary has %u", i, token, n_vocab);
    }
    return MF_OK;
}

static mf_status check_image(const mf_request *request, const mf_executor *executor, mf_error *error)
{
    const mf_session *session = request->session;
    const uint32_t n_row = image_rows(request);
    if (request->tokens != NULL || request->n_token != 0 || request->embeddings != NULL)
        return mfi_fail(error, MF_E_UNSUPPORTED, "the model takes pixels: no tokens, and no embeddings");
    if (request->pixels == NULL) return mfi_fail(error, MF_E_INVALID, "no pixels");
    if (request->logits != NULL && session->model->config.vit.n_class == 0)
        return mfi_fail(error, MF_E_UNSUPPORTED, "the model has no classifier: it gives hidden states, not logits");
    if (request->pooled != NULL && !session->model->config.vit.pooler)
        return mfi_fail(error, MF_E_UNSUPPORTED, "the model has no pooler: its class row is the hidden state");
    if (n_row > executor->max_rows)
        return mfi_fail(error, MF_E_CAPACITY, "an image is %u rows at once; the executor's max_tokens are %u", n_row,
                        executor->max_rows);
    if (n_row > session->max_positions - session->position)
        return mfi_fail(error, MF_E_FULL, "an image has %u rows; the session holds %u", n_row, session->max_positions);
    return MF_OK;
}

/* Room for `n_row` rows of `width` floats, `stride` apart. */
static mf_status check_output(const char *what, const float *out, size_t n_row, size_t width, size_t stride,
                              size_t capacity, mf_error *error)
{
    size_t needed;
    if (out == NULL || n_row == 0) return MF_OK;
    if (stride != 0 && stride < width)
        return mfi_fail(error, MF_E_INVALID, "%s_stride %zu is below the row's %zu floats", what, stride, width);
    if (!mfi_mul(n_row - 1, stride ? stride : width, &needed) || !mfi_add(needed, width, &needed) || needed > capacity)
        return mfi_fail(error, MF_E_CAPACITY, "%s_capacity is %zu floats; %zu rows of %zu are asked for", what,
                        capacity, n_row, width);
    return MF_OK;
}

static size_t wanted_rows(const mf_request *request)
{
    switch (request->logits_of) {
    case MF_LOGITS_NONE:
        return 0;
    case MF_LOGITS_ALL:
        return row_count(request);
    default:
        return 1;
    }
}

static mf_status check_outputs(const mf_request *request, mf_error *error)
{
    const mf_model *model = request->session->model;
    const bool image = image_rows(request) > 0;
    const size_t n_row = wanted_rows(request), n_logit = image ? model->config.vit.n_class : model->program->n_vocab;
    mf_status status = check_output("logits", request->logits, image ? mfi_min(n_row, 1) : n_row, n_logit,
                                    request->logits_stride, request->logits_capacity, error);
    if (status == MF_OK)
        status = check_output("hidden", request->hidden, n_row, model->program->d_model, request->hidden_stride,
                              request->hidden_capacity, error);
    if (status == MF_OK)
        status =
            check_output("pooled", request->pooled, 1, model->program->d_model, 0, request->pooled_capacity, error);
    return status;
}

static mf_status check_request(const mf_request *request, const mf_executor *executor, mf_error *error)
{
    const mf_session *session = request->session;
    const mfi_program *program = session->model->program;
    if (request->adapter != NULL) return mfi_fail(error, MF_E_UNSUPPORTED, "adapters are not supported");
    if (request->logits_of != MF_LOGITS_LAST && request->logits_of != MF_LOGITS_NONE &&
        request->logits_of != MF_LOGITS_ALL)
        return mfi_fail(error, MF_E_INVALID, "logits_of %d is unknown", (int)request->logits_of);
    if (request->embedding_stride != 0 && request->embedding_stride < program->d_model)
        return mfi_fail(error, MF_E_INVALID, "embedding_stride is below d_model");
    mf_status status =
        image_rows(request) > 0 ? check_image(request, executor, error) : check_tokens(request, session, error);
    if (status == MF_OK) status = check_outputs(request, error);
    if (status == MF_OK) status = mfi_kv_check_view(&session->cache, request->submodel, error);
    return status;
}

/* Refuses the whole call before anything is touched. Marks the sessions; the caller unmarks them. */
static mf_status check_call(forward *f, size_t *n_marked)
{
    *n_marked = 0;
    if (f->requests == NULL || f->n_request == 0) return mfi_fail(f->error, MF_E_INVALID, "no requests");
    if (f->stride < MFI_FIRST_BYTES(mf_request, elapsed_ns) || f->stride > 4096 || f->stride % sizeof(void *) != 0)
        return mfi_fail(f->error, MF_E_STRUCT_SIZE, "request_bytes %zu is not the size of an mf_request", f->stride);
    if (f->n_request > f->executor->max_requests)
        return mfi_fail(f->error, MF_E_INVALID, "%zu requests; the executor was created for %u", f->n_request,
                        f->executor->max_requests);
    for (size_t i = 0; i < f->n_request; i++) {
        const mf_request *request = request_at(f, i);
        if (request->session == NULL || request->submodel == NULL)
            return mfi_fail(f->error, MF_E_INVALID, "request %zu: no session or no submodel", i);
        if (f->stride > sizeof *request && !is_zero((const unsigned char *)(request + 1), f->stride - sizeof *request))
            return mfi_fail(f->error, MF_E_STRUCT_SIZE,
                            "request %zu: mf_request uses fields of a newer release than this library (%d.%d.%d)", i,
                            MF_VERSION_MAJOR, MF_VERSION_MINOR, MF_VERSION_PATCH);
        if (request->session->model != f->executor->model || request->submodel->model != f->executor->model)
            return mfi_fail(f->error, MF_E_INVALID, "request %zu: session, submodel and executor are not of one model",
                            i);
        if (request->session->in_forward)
            return mfi_fail(f->error, MF_E_INVALID, "request %zu: a session is named twice", i);
        request->session->in_forward = true;
        *n_marked = i + 1;
    }
    return MF_OK;
}

/* ---- Running ---- */

static size_t count_embeddings(const int32_t *tokens, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += tokens[i] < 0;
    return count;
}

/* Rows [done, done + n_row) of a request. */
static void fill_run(mfi_run_request *run, const mf_request *request, uint32_t n_row)
{
    mf_session *session = request->session;
    const mfi_program *program = session->model->program;
    const size_t done = request->n_token_done, first_wanted = request->n_token - wanted_rows(request);
    const size_t embedding_stride = request->embedding_stride ? request->embedding_stride : program->d_model;
    const size_t logits_stride = request->logits_stride ? request->logits_stride : program->n_vocab;
    const size_t hidden_stride = request->hidden_stride ? request->hidden_stride : program->d_model;
    const size_t out_begin = first_wanted <= done ? 0 : mfi_min(first_wanted - done, n_row);
    const size_t out_row = done + out_begin - mfi_min(first_wanted, done + out_begin);
    *run = (mfi_run_request){
        .view = request->submodel,
        .position = session->position + (uint32_t)done,
        .n_row = n_row,
        .tokens = request->tokens + done,
        .embedding_stride = embedding_stride,
        .cache_type = mfi_cache_element(session->cache.type),
        .value_offset_bytes = session->model->value_offset_bytes[session->cache.type],
        .pages = (void *const *const *)session->cache.slot,
        .out_begin = (uint32_t)out_begin,
        .out_end = n_row,
        .logits_stride = logits_stride,
        .hidden_stride = hidden_stride,
        .cancel = &session->cancel,
    };
    if (request->embeddings != NULL)
        run->embeddings = request->embeddings + count_embeddings(request->tokens, done) * embedding_stride;
    if (request->logits != NULL) run->logits = request->logits + out_row * logits_stride;
    if (request->hidden != NULL) run->hidden = request->hidden + out_row * hidden_stride;
}

/* The rows of an image, whose first is the class row. */
static void fill_image(mfi_run_request *run, const mf_request *request)
{
    mf_session *session = request->session;
    const uint32_t d_model = session->model->program->d_model;
    *run = (mfi_run_request){
        .view = request->submodel,
        .position = session->position,
        .n_row = image_rows(request),
        .pixels = request->pixels,
        .cache_type = mfi_cache_element(session->cache.type),
        .value_offset_bytes = session->model->value_offset_bytes[session->cache.type],
        .pages = (void *const *const *)session->cache.slot,
        .out_end = (uint32_t)wanted_rows(request),
        .logits = request->logits_of == MF_LOGITS_NONE ? NULL : request->logits,
        .hidden = request->hidden,
        .hidden_stride = request->hidden_stride ? request->hidden_stride : d_model,
        .pooled = request->pooled,
        .cancel = &session->cancel,
    };
}

static bool is_waiting(const mf_request *request)
{
    return request->status == MF_OK && request->n_token_done < row_count(request);
}

/* The next batch: as many rows as fit, in the order of the requests, images whole. False when nothing is left. */
static bool fill_batch(forward *f)
{
    mf_executor *e = f->executor;
    uint32_t room = e->max_rows;
    e->n_request = 0;
    for (size_t i = 0; i < f->n_request && room > 0; i++) {
        const mf_request request = input_at(f, i);
        if (!is_waiting(&request)) continue;
        const uint32_t n_row = (uint32_t)mfi_min(room, row_count(&request) - request.n_token_done);
        if (n_row < image_rows(&request)) break;
        if (image_rows(&request) > 0)
            fill_image(&e->request[e->n_request++], &request);
        else
            fill_run(&e->request[e->n_request++], &request, n_row);
        room -= n_row;
    }
    return e->n_request > 0;
}

/* After a batch: rows done, and those that were cancelled meanwhile. */
static void settle_batch(forward *f, uint64_t elapsed_ns)
{
    const mf_executor *e = f->executor;
    static const mf_error cancelled = { sizeof cancelled, MF_E_CANCELLED, "cancelled" };
    for (size_t i = 0, run = 0; i < f->n_request && run < e->n_request; i++) {
        mf_request *request = request_at(f, i);
        if (!is_waiting(request)) continue;
        request->n_token_done += e->request[run++].n_row;
        request->elapsed_ns += elapsed_ns;
        if (atomic_load_explicit(&request->session->cancel, memory_order_relaxed))
            fail_request(f, i, MF_E_CANCELLED, &cancelled);
    }
}

/* The shells that the view needs stay in memory until the request ends. */
static mf_status pin_shells(mf_session *session, const mf_submodel *view, mf_error *error)
{
    if (!mfi_pin(&session->model->residency, view->n_shell))
        return mfi_refuse_view(session->model, view->n_shell, error);
    session->n_pinned = view->n_shell;
    return MF_OK;
}

static void unpin_shells(mf_session *session)
{
    if (session->n_pinned > 0) mfi_unpin(&session->model->residency, session->n_pinned);
    session->n_pinned = 0;
}

static void start_request(forward *f, size_t index)
{
    mf_error reason = MF_ERROR_INIT;
    mf_request *request = request_at(f, index);
    request->status = MF_OK;
    request->n_token_done = 0;
    request->elapsed_ns = 0;
    mf_session *session = request->session;
    const mf_request input = input_at(f, index);
    mf_status status = check_request(&input, f->executor, &reason);
    if (status == MF_OK) status = pin_shells(session, request->submodel, &reason);
    if (status == MF_OK)
        status = mfi_kv_prepare(&session->cache, request->submodel, session->position,
                                session->position + (uint32_t)row_count(request), &reason);
    if (status != MF_OK) fail_request(f, index, status, &reason);
}

static void finish_request(mf_request *request)
{
    mf_session *session = request->session;
    unpin_shells(session);
    if (request->status == MF_OK && image_rows(request) > 0) {
        mfi_kv_truncate(&session->cache, session->position);
        return;
    }
    if (request->status == MF_OK) {
        memcpy(session->tokens + session->position, request->tokens, request->n_token * sizeof *request->tokens);
        session->position += (uint32_t)request->n_token;
        mfi_kv_commit(&session->cache, request->submodel);
        return;
    }
    request->n_token_done = 0;
    mfi_kv_truncate(&session->cache, session->position);
    if (request->status == MF_E_CANCELLED) atomic_store_explicit(&session->cancel, false, memory_order_relaxed);
}

mf_status mfi_forward(mf_executor *executor, void *requests, size_t n_request, size_t stride, mf_error *error)
{
    forward f = { executor, requests, n_request, stride, error, MF_OK };
    size_t n_marked;
    mf_status status = check_call(&f, &n_marked);
    if (status == MF_OK) {
        for (size_t i = 0; i < n_request; i++)
            start_request(&f, i);
        while (fill_batch(&f)) {
            const uint64_t began = mfi_now_ns();
            mfi_batch_lay_out(executor);
            mfi_run(executor);
            settle_batch(&f, mfi_now_ns() - began);
        }
        for (size_t i = 0; i < n_request; i++)
            finish_request(request_at(&f, i));
        status = f.status;
    }
    for (size_t i = 0; i < n_marked; i++)
        request_at(&f, i)->session->in_forward = false;
    return status;
}
