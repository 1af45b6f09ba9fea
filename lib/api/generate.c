/* generate.c - mf_generate() and its steps: a prompt, then a token at a time, on top of the other public functions.
 *
 * A token is chosen, run, and then reported: when its event comes the session already holds it, and it is
 * known whether another one can follow, so that the last event brings all text that was held back. The
 * session therefore ends with the prompt and every token that had an event; only one for which there was no
 * more room is missing. Position p of the timeline is run by the schedule's view for p, and the logits that
 * come out of it choose the token of position p + 1.
 *
 * With a draft (speculate.c) several tokens are run at once, and then reported one after the other as if each had been
 * run by itself: at each event the session stands behind its token, and the next token is chosen after it.
 *
 * One step goes from event to event. mf_generate() is a loop over steps, and generation.c lets the caller have the loop. */
#include "generate.h"

#include <string.h>

#include "arena.h"
#include "defs.h"
#include "platform.h"
#include "status.h"
#include "tokenizer.h"

#define DEFAULT_MAX_TOKENS 128u
#define EXECUTOR_ROWS 512u /* an executor's own default */

/* ---- Events ---- */

bool mfi_generation_is_end(const mf_generation *g, int32_t token)
{
    if (g->options.ignore_eos) return false;
    return token == g->eos_token || (g->model->tokenizer && mfi_tokenizer_stops(g->model->tokenizer, token));
}

/* Whether no token can follow the next that is reported. */
static bool is_last(const mf_generation *g, int32_t token)
{
    return mfi_generation_is_end(g, token) || g->result.n_generated + 1 >= g->options.max_tokens;
}

/* Makes the event of the chosen token, with the text that may be shown, and notes the reason where it is the last.
 * `ends`: no token can follow. */
static void make_event(mf_generation *g, uint32_t position, bool ends)
{
    const mf_token_logprob *chosen = &g->chosen;
    const bool is_end = mfi_generation_is_end(g, chosen->token);
    if (!is_end) mfi_held_text_add(&g->held, g->model->tokenizer, chosen->token);
    size_t stop = mfi_held_text_find_stop(&g->held), show = g->held.n;
    g->has_ended = true;
    if (stop != SIZE_MAX) {
        show = stop;
        g->result.finish = MF_FINISH_STOP;
    } else if (is_end) {
        g->result.finish = MF_FINISH_EOS;
    } else if (ends) {
        g->result.finish = MF_FINISH_LENGTH;
    } else {
        g->has_ended = false;
        show = mfi_held_text_showable(&g->held);
    }
    g->result.n_generated++;
    g->event = (mf_token_event){ chosen->token, position, g->held.text, show, chosen->logprob, g->chosen_by, NULL, 0 };
    g->event.top = g->options.n_top > 0 ? g->top : NULL;
    g->event.n_top = g->options.n_top;
}

/* ---- Running ---- */

const mf_submodel *mfi_generation_view(const mf_generation *g, uint32_t position, uint32_t *until)
{
    const mf_submodel *view = g->submodel;
    size_t i = 0;
    for (; i < g->options.n_schedule && g->options.schedule[i].position <= position; i++)
        view = g->options.schedule[i].submodel;
    *until = i < g->options.n_schedule ? g->options.schedule[i].position : UINT32_MAX;
    return view;
}

static void record(mf_generation *g, uint32_t position, const mf_submodel *view)
{
    if (view == g->last_view) return;
    if (g->result.n_schedule < g->result.schedule_capacity)
        g->result.schedule[g->result.n_schedule] = (mf_schedule_step){ position, view };
    g->result.n_schedule++;
    g->last_view = view;
}

/* By the fallback, where the shells of the view went. */
static mf_status forward(const mf_generation *g, mf_request *request, mf_error *error)
{
    mf_error why = MF_ERROR_INIT;
    mf_status status = mf_forward(g->executor, request, 1, sizeof *request, &why);
    if (status == MF_E_NOT_RESIDENT && g->options.fallback) {
        request->submodel = g->options.fallback;
        status = mf_forward(g->executor, request, 1, sizeof *request, &why);
    }
    return status == MF_OK ? MF_OK : mfi_fail(error, status, "%s", why.detail);
}

/* Appends tokens to the session, as many at once as the schedule allows, and keeps the logits that are wanted of the
 * last that ran at once. */
static mf_status run(mf_generation *g, const int32_t *tokens, size_t n_token, mf_logits logits_of, mf_error *error)
{
    for (size_t done = 0, part; done < n_token; done += part) {
        uint32_t until, position = mf_session_position(g->session);
        const mf_submodel *view = mfi_generation_view(g, position, &until);
        part = mfi_min(n_token - done, until - position);
        mf_request request = { .session = g->session, .submodel = view, .tokens = tokens + done, .n_token = part };
        request.logits_of = done + part == n_token ? logits_of : MF_LOGITS_NONE;
        request.logits = g->logits;
        request.logits_capacity = g->n_row * g->n_vocab;
        mf_status status = forward(g, &request, error);
        if (status != MF_OK) return status;
        record(g, position, request.submodel);
    }
    return MF_OK;
}

/* Leaves the logits that follow the session's last token. The session keeps none, so the token runs once more,
 * on a fork: whatever happens there, the session has its past. */
static mf_status run_last_again(mf_generation *g, uint32_t position, mf_error *error)
{
    mf_session *session = g->session, *probe = NULL;
    int32_t last = mf_session_tokens(session)[position - 1];
    if (last < 0) return mfi_fail(error, MF_E_INVALID, "cannot go on after an embedding row: give a prompt");
    mf_status status = mf_session_fork(&probe, session, error);
    if (status != MF_OK) return status;
    status = mf_session_rewind(probe, position - 1);
    if (status == MF_OK) {
        g->session = probe;
        status = run(g, &last, 1, MF_LOGITS_LAST, error);
        g->session = session;
    }
    mf_session_close(probe);
    return status;
}

/* Leaves the logits of the first new token. A failure leaves the session as it was. */
static mf_status run_prompt(mf_generation *g, mf_error *error)
{
    uint32_t start = mf_session_position(g->session);
    if (g->n_prompt == 0) return run_last_again(g, start, error);
    mf_status status = run(g, g->prompt, g->n_prompt, MF_LOGITS_LAST, error);
    if (status != MF_OK && mf_session_position(g->session) > start) (void)mf_session_rewind(g->session, start);
    return status;
}

/* ---- Rounds ---- */

/* Chooses the token behind the session's last, which ran as row `row`; a drafted one is tested. */
static mf_status choose(mf_generation *g, uint32_t row, mf_error *error)
{
    const mfi_round *r = &g->round;
    const uint32_t position = mf_session_position(g->session);
    const int32_t *tokens = mf_session_tokens(g->session);
    const float *logits = g->logits + row * g->n_vocab;
    const double *distribution = g->distributions ? g->distributions + row * g->n_vocab : NULL;
    mf_status status = row < r->n_draft ? mfi_sampler_verify(g->sampler, tokens, position, logits, distribution,
                                                             r->tokens[row + 1], &g->chosen, g->top, g->options.n_top)
                                        : mf_sampler_sample(g->sampler, tokens, position, logits, &g->chosen, g->top,
                                                            g->options.n_top);
    if (status == MF_E_CANCELLED) return mfi_fail(error, status, "the logits filter stopped the generation");
    if (status != MF_OK) return mfi_fail(error, status, "position %u: the logits leave no token to choose", position);
    g->chosen_by = g->last_view;
    return MF_OK;
}

/* MF_E_FULL, and no draft any more, where there is no room for all of it. */
static mf_status verify(mf_generation *g, mfi_round *r, mf_error *error)
{
    const uint64_t began = mfi_now_ns();
    mf_status status = run(g, r->tokens, 1 + r->n_draft, MF_LOGITS_ALL, error);
    if (status == MF_E_FULL) r->n_draft = 0;
    if (status != MF_OK) return status;
    g->result.n_verify++;
    g->result.verify_ns += mfi_now_ns() - began;
    return MF_OK;
}

/* Runs the round's tokens, or the first alone where there is no room for all, or notes that not even that one fits. */
static mf_status run_round(mf_generation *g, mfi_round *r, mf_error *error)
{
    mf_error why = MF_ERROR_INIT;
    mf_status status = mfi_speculation_draft(g, r->tokens, &r->n_draft, &why);
    if (status == MF_OK && r->n_draft > 0) status = verify(g, r, &why);
    if (r->n_draft == 0 && (status == MF_OK || status == MF_E_FULL))
        status = run(g, r->tokens, 1, is_last(g, r->tokens[0]) ? MF_LOGITS_NONE : MF_LOGITS_LAST, &why);
    r->is_full = status == MF_E_FULL;
    return status == MF_OK || r->is_full ? MF_OK : mfi_fail(error, status, "%s", why.detail);
}

/* Leaves the session behind the token that was reported last: what was drafted and refused, or not asked for, goes. */
static void end_round(mf_generation *g)
{
    mfi_round *r = &g->round;
    if (!r->is_open || !g->options.draft) return;
    r->is_open = false;
    (void)mf_session_rewind(g->session, mf_session_position(g->session));
    g->result.n_accepted += r->n_accepted;
    mfi_draft_length_note(&g->length, r->n_accepted, r->was_refused);
}

static mf_status begin_round(mf_generation *g, mf_error *error)
{
    end_round(g);
    g->round = (mfi_round){ .position = mf_session_position(g->session), .tokens = { g->chosen.token } };
    g->round.is_open = true;
    return run_round(g, &g->round, error);
}

/* After a token was reported: chooses the next one, and says whether it is the one that ran as the round's next row. */
static mf_status follow(mf_generation *g, bool *is_accepted, mf_error *error)
{
    mfi_round *r = &g->round;
    const uint32_t row = r->row;
    if (mf_session_position(g->session) != r->position + row + 1) r->n_draft = row; /* the caller moved it */
    mf_status status = choose(g, row, error);
    if (status != MF_OK || row == r->n_draft) return status;
    *is_accepted = g->chosen.token == r->tokens[row + 1];
    r->n_accepted += *is_accepted;
    r->was_refused = !*is_accepted;
    if (*is_accepted && mfi_session_take_cancel(g->session)) return mfi_fail(error, MF_E_CANCELLED, "cancelled");
    return MF_OK;
}

/* The prompt, and the first token chosen. */
static mf_status begin(mf_generation *g, mf_error *error)
{
    const uint64_t began = mfi_now_ns();
    g->has_begun = true;
    mf_status status = run_prompt(g, error);
    g->result.prompt_ns = mfi_now_ns() - began;
    if (status != MF_OK) return status;
    g->result.n_prompt = (uint32_t)g->n_prompt;
    return choose(g, 0, error);
}

mf_status mfi_generation_step(mf_generation *g, mf_error *error)
{
    mfi_round *r = &g->round;
    bool is_accepted = false;
    mfi_held_text_drop(&g->held, g->event.text_bytes);
    mf_status status = g->has_begun ? follow(g, &is_accepted, error) : begin(g, error);
    if (status == MF_OK && is_accepted) r->row++;
    if (status == MF_OK && !is_accepted) status = begin_round(g, error);
    if (status == MF_OK) {
        if (!r->is_full) mfi_session_place(g->session, r->position + r->row + 1);
        make_event(g, r->position + r->row, r->is_full || is_last(g, g->chosen.token));
    } else {
        g->has_ended = true;
    }
    if (g->has_ended) end_round(g);
    return status;
}

void mfi_generation_leave(mf_generation *g)
{
    if (!g->has_ended) g->result.finish = MF_FINISH_CALLBACK;
    g->has_ended = true;
    end_round(g);
}

/* ---- Preparing ---- */

static mf_status check_arguments(const mf_generation *g, mf_error *error)
{
    const mf_generate_options *o = &g->options;
    if (!g->submodel) return mfi_fail(error, MF_E_INVALID, "generate: no submodel");
    if (o->prompt && o->n_token > 0) return mfi_fail(error, MF_E_INVALID, "generate: a prompt and tokens: give one");
    if (o->n_token > 0 && !o->tokens) return mfi_fail(error, MF_E_INVALID, "generate: n_token without tokens");
    if (o->n_top > MFI_MOST_TOP)
        return mfi_fail(error, MF_E_INVALID, "generate: n_top %u is above %u", o->n_top, MFI_MOST_TOP);
    if ((o->n_stop > 0 && !o->stop) || (o->n_schedule > 0 && !o->schedule))
        return mfi_fail(error, MF_E_INVALID, "generate: a count without its array");
    for (size_t i = 0; i < o->n_stop; i++)
        if (!o->stop[i] || !o->stop[i][0]) return mfi_fail(error, MF_E_INVALID, "generate: stop text %zu is empty", i);
    for (size_t i = 0; i < o->n_schedule; i++) {
        if (!o->schedule[i].submodel) return mfi_fail(error, MF_E_INVALID, "generate: schedule step %zu: no view", i);
        if (i > 0 && o->schedule[i].position <= o->schedule[i - 1].position)
            return mfi_fail(error, MF_E_INVALID, "generate: schedule step %zu does not ascend", i);
    }
    if (o->sampler && mfi_sampler_model(o->sampler) != g->submodel->model)
        return mfi_fail(error, MF_E_INVALID, "generate: the sampler is another model's");
    if (o->fallback && o->fallback->model != g->submodel->model)
        return mfi_fail(error, MF_E_INVALID, "generate: the fallback is another model's");
    if (g->result.schedule_capacity > 0 && !g->result.schedule)
        return mfi_fail(error, MF_E_INVALID, "generate: schedule_capacity without a schedule to write to");
    return mfi_speculation_check(g, error);
}

/* The prompt as tokens; where there is none and nothing to go on from, the token that begins a text. */
static mf_status read_prompt(mf_generation *g, const mf_model_info *info, mf_error *error)
{
    const mf_generate_options *o = &g->options;
    size_t bytes = o->prompt ? strlen(o->prompt) : 0;
    if (bytes > 0 && !g->model->tokenizer)
        return mfi_fail(error, MF_E_UNSUPPORTED, "the model has no tokenizer: give the prompt as tokens");
    g->prompt_capacity = mfi_max(mfi_max(bytes, o->n_token), 1); /* a token has at least one byte */
    g->prompt = mfi_alloc_array(&g->model->allocator, g->prompt_capacity, sizeof *g->prompt);
    if (!g->prompt) return mfi_fail(error, MF_E_NOMEM, "no memory for a prompt of %zu tokens", g->prompt_capacity);
    if (bytes > 0) {
        mf_status status = mf_tokenize(g->model, o->prompt, bytes, g->prompt, g->prompt_capacity, &g->n_prompt);
        if (status != MF_OK) return mfi_fail(error, status, "the prompt could not be tokenized");
    } else if (o->n_token > 0) {
        memcpy(g->prompt, o->tokens, o->n_token * sizeof *o->tokens);
        g->n_prompt = o->n_token;
    } else if (!g->session || mf_session_position(g->session) == 0) {
        g->prompt[0] = info->bos_token >= 0 ? info->bos_token : info->eos_token;
        g->n_prompt = 1;
        if (g->prompt[0] < 0)
            return mfi_fail(error, MF_E_INVALID, "no prompt, an empty session, and no token that begins a text");
    }
    return MF_OK;
}

static mf_status allocate_buffers(mf_generation *g, mf_error *error)
{
    const mf_allocator *allocator = &g->model->allocator;
    mf_status status = mfi_held_text_create(&g->held, allocator, g->options.stop, g->options.n_stop);
    g->n_row = g->options.draft ? 1 + MFI_MOST_DRAFT : 1;
    g->logits = mfi_alloc_array(allocator, g->n_row * g->n_vocab, sizeof *g->logits);
    if (status != MF_OK || !g->logits) return mfi_fail(error, MF_E_NOMEM, "no memory to generate with");
    return mfi_speculation_allocate(g, error);
}

/* Makes what the caller left out, no larger than this call needs. */
static mf_status create_missing(mf_generation *g, const mf_model_info *info, mf_error *error)
{
    mf_status status = MF_OK;
    if (!g->executor) {
        mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
        options.max_tokens = (uint32_t)mfi_min(mfi_max(g->n_prompt, g->n_row), EXECUTOR_ROWS);
        options.max_requests = 1;
        status = mf_executor_create(&g->own_executor, g->model, &options, error);
        g->executor = g->own_executor;
    }
    if (status == MF_OK && !g->session) {
        mf_session_options options = MF_SESSION_OPTIONS_INIT;
        options.max_positions = (uint32_t)mfi_min(g->n_prompt + g->options.max_tokens, info->max_positions);
        status = mf_session_create(&g->own_session, g->model, &options, error);
        g->session = g->own_session;
    }
    if (status == MF_OK && !g->options.sampler) {
        status = mf_sampler_create(&g->own_sampler, g->model, NULL, error);
        g->sampler = g->own_sampler;
    }
    return status;
}

/* What the model, the prompt and the missing objects give. */
static mf_status make_ready(mf_generation *g, mf_error *error)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_status status = mf_model_info_get(g->model, &info);
    if (status != MF_OK) return mfi_fail(error, status, "generate: the model gives no information");
    if (info.image_size > 0) return mfi_fail(error, MF_E_UNSUPPORTED, "generate: the model takes images, not tokens");
    g->n_vocab = info.n_vocab;
    g->eos_token = info.eos_token;
    status = read_prompt(g, &info, error);
    if (status == MF_OK) status = create_missing(g, &info, error);
    if (status == MF_OK) status = allocate_buffers(g, error);
    return status;
}

void mfi_generation_release(mf_generation *g)
{
    const mf_allocator *allocator = &g->model->allocator;
    mf_sampler_close(g->own_sampler);
    mf_session_close(g->own_session);
    mf_executor_close(g->own_executor);
    mfi_speculation_free(g);
    mfi_free(allocator, g->logits, g->n_row * g->n_vocab * sizeof *g->logits);
    mfi_held_text_free(&g->held, allocator);
    mfi_free(allocator, g->prompt, g->prompt_capacity * sizeof *g->prompt);
}

mf_status mfi_generation_prepare(mf_generation *g, const mf_generate_options *options, mf_generate_result *result,
                                 mf_error *error)
{
    g->options.struct_size = sizeof g->options;
    g->result.struct_size = sizeof g->result;
    mf_status status = mfi_read_options(&g->options, sizeof g->options, MFI_FIRST_BYTES(mf_generate_options, reserved),
                                        options, "mf_generate_options", error);
    if (status == MF_OK)
        status = mfi_read_options(&g->result, sizeof g->result, MFI_FIRST_BYTES(mf_generate_result, n_schedule), result,
                                  "mf_generate_result", error);
    if (status == MF_OK) status = check_arguments(g, error);
    if (status != MF_OK) return status;
    g->model = g->submodel->model;
    g->sampler = g->options.sampler;
    if (g->options.max_tokens == 0) g->options.max_tokens = DEFAULT_MAX_TOKENS;
    g->result = (mf_generate_result){ .struct_size = sizeof g->result,
                                      .schedule = g->result.schedule,
                                      .schedule_capacity = g->result.schedule_capacity };
    status = make_ready(g, error);
    if (status != MF_OK) mfi_generation_release(g);
    return status;
}

void mfi_generation_write_result(const mf_generation *g, mf_generate_result *result)
{
    if (result)
        (void)mfi_write_info(result, &g->result, sizeof g->result, MFI_FIRST_BYTES(mf_generate_result, n_schedule));
}

mf_status mf_generate(mf_executor *executor, mf_session *session, const mf_submodel *submodel,
                      const mf_generate_options *options, mf_generate_result *result, mf_error *error)
{
    mf_generation g = { .executor = executor, .session = session, .submodel = submodel };
    mf_status status = mfi_generation_prepare(&g, options, result, error);
    if (status != MF_OK) return status;
    const uint64_t began = mfi_now_ns();
    while (status == MF_OK && !g.has_ended) {
        status = mfi_generation_step(&g, error);
        if (status == MF_OK && g.options.on_token && g.options.on_token(g.options.user, &g.event) != 0)
            mfi_generation_leave(&g);
    }
    g.result.generate_ns = mfi_now_ns() - began - g.result.prompt_ns;
    mfi_generation_release(&g);
    mfi_generation_write_result(&g, result);
    return status;
}
