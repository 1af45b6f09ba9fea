/* generation.c - mf_generation_next(): the steps of generate.c in the caller's loop.
 *
 * A caller in another language pays for every call, and more than the call: the weights have swept its interpreter out of
 * the near caches since the last token. So several events can be had at once, of as many tokens as fit a time that nobody
 * notices. Their texts and candidates are gathered in one piece each, since a step's own last until the next step. */
#include <string.h>

#include "arena.h"
#include "defs.h"
#include "generate.h"
#include "platform.h"
#include "status.h"

enum { MOST_EVENTS = 256, MORE_TEXT_BYTES = 4096 };

struct mfi_gathered {
    mf_token_event events[MOST_EVENTS];
    size_t n_event;
    mf_token_logprob *top; /* [MOST_EVENTS][n_top] */
    char *text;            /* [capacity], of which the first n_text bytes are the events' */
    size_t n_text, capacity;
    mf_generate_result *result; /* the caller's, or NULL */
};

static void free_gathered(mf_generation *g)
{
    const mf_allocator *allocator = &g->model->allocator;
    mfi_gathered *all = g->gathered;
    if (!all) return;
    mfi_free(allocator, all->text, all->capacity);
    mfi_free(allocator, all->top, MOST_EVENTS * g->options.n_top * sizeof *all->top);
    mfi_free(allocator, all, sizeof *all);
}

static mf_status allocate_gathered(mf_generation *g, mf_generate_result *result, mf_error *error)
{
    const mf_allocator *allocator = &g->model->allocator;
    mfi_gathered *all = mfi_alloc(allocator, sizeof *all);
    if (!all) return mfi_fail(error, MF_E_NOMEM, "no memory for a generation's events");
    *all = (mfi_gathered){ .capacity = g->held.capacity + MORE_TEXT_BYTES, .result = result };
    g->gathered = all;
    all->text = mfi_alloc(allocator, all->capacity);
    if (g->options.n_top > 0) all->top = mfi_alloc_array(allocator, MOST_EVENTS * g->options.n_top, sizeof *all->top);
    if (all->text && (all->top || g->options.n_top == 0)) return MF_OK;
    free_gathered(g);
    return mfi_fail(error, MF_E_NOMEM, "no memory for a generation's events");
}

static mf_status make(mf_generation *g, const mf_generate_options *options, mf_generate_result *result, mf_error *error)
{
    mf_status status = mfi_generation_prepare(g, options, result, error);
    if (status != MF_OK) return status;
    if (g->options.on_token)
        status = mfi_fail(error, MF_E_INVALID, "generation: on_token is for mf_generate(): ask mf_generation_next()");
    else
        status = allocate_gathered(g, result, error);
    if (status != MF_OK) mfi_generation_release(g);
    return status;
}

mf_status mf_generation_create(mf_generation **out, mf_executor *executor, mf_session *session,
                               const mf_submodel *submodel, const mf_generate_options *options,
                               mf_generate_result *result, mf_error *error)
{
    if (!out) return mfi_fail(error, MF_E_INVALID, "generation: nowhere to write it to");
    *out = NULL;
    if (!submodel) return mfi_fail(error, MF_E_INVALID, "generate: no submodel");
    const mf_allocator *allocator = &submodel->model->allocator;
    mf_generation *g = mfi_alloc(allocator, sizeof *g);
    if (!g) return mfi_fail(error, MF_E_NOMEM, "no memory for a generation");
    *g = (mf_generation){ .executor = executor, .session = session, .submodel = submodel };
    mf_status status = make(g, options, result, error);
    if (status == MF_OK)
        *out = g;
    else
        mfi_free(allocator, g, sizeof *g);
    return status;
}

/* Keeps the event of the step that was done. */
static void gather(mf_generation *g)
{
    mfi_gathered *all = g->gathered;
    mf_token_event *event = &all->events[all->n_event];
    *event = g->event;
    event->text = all->text + all->n_text;
    memcpy(all->text + all->n_text, g->event.text, event->text_bytes);
    all->n_text += event->text_bytes;
    if (event->n_top > 0) {
        mf_token_logprob *top = all->top + all->n_event * event->n_top;
        memcpy(top, event->top, event->n_top * sizeof *top);
        event->top = top;
    }
    all->n_event++;
}

static bool has_room(const mf_generation *g)
{
    const mfi_gathered *all = g->gathered;
    return all->n_event < MOST_EVENTS && all->capacity - all->n_text >= g->held.capacity;
}

mf_status mf_generation_next(mf_generation *g, uint64_t max_ns, mf_token_batch *batch, mf_error *error)
{
    if (!g || !batch) return mfi_fail(error, MF_E_INVALID, "generation: a pointer is NULL");
    mfi_gathered *all = g->gathered;
    mf_token_batch found = { .struct_size = sizeof found, .events = all->events, .event_bytes = sizeof *all->events };
    const uint64_t began = mfi_now_ns(), prompt_ns = g->result.prompt_ns;
    const bool had_ended = g->has_ended;
    mf_status status = mfi_write_info(batch, &found, sizeof found, sizeof found);
    all->n_event = all->n_text = 0;
    while (status == MF_OK && !g->has_ended && has_room(g) && (all->n_event == 0 || mfi_now_ns() - began < max_ns)) {
        status = mfi_generation_step(g, error);
        if (status == MF_OK) gather(g);
    }
    g->result.generate_ns += mfi_now_ns() - began - (g->result.prompt_ns - prompt_ns);
    if (g->has_ended && !had_ended) mfi_generation_write_result(g, all->result);
    found.n_event = all->n_event;
    (void)mfi_write_info(batch, &found, sizeof found, sizeof found);
    return status;
}

void mf_generation_close(mf_generation *g)
{
    if (!g) return;
    const mf_allocator *allocator = &g->model->allocator;
    if (!g->has_ended) {
        mfi_generation_leave(g);
        mfi_generation_write_result(g, g->gathered->result);
    }
    free_gathered(g);
    mfi_generation_release(g);
    mfi_free(allocator, g, sizeof *g);
}
