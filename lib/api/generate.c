/* generate.c - mf_generate(): a prompt, then a token at a time, on top of the other public functions.
 *
 * A token is chosen, run, and then reported: when its event comes the session already holds it, and it is
 * known whether another one can follow, so that the last event brings all text that was held back. The
 * session therefore ends with the prompt and every token that had an event; only one for which there was no
 * more room is missing. Position p of the timeline is run by the schedule's view for p, and the logits that
 * come out of it choose the token of position p + 1. */
#include <stdbool.h>
#include <string.h>

#include "arena.h"
#include "defs.h"
#include "matformer.h"
#include "platform.h"
#include "sampler.h"
#include "status.h"
#include "submodel.h"
#include "tokenizer.h"

/* Size of an option struct in its first release. */
#define FIRST_BYTES(type, last) (offsetof(type, last) + sizeof(((type *)0)->last))
#define DEFAULT_MAX_TOKENS 128u
#define MAX_TOP 64u
#define EXECUTOR_ROWS 512u /* an executor's own default */
#define MAX_CHARACTER_BYTES 4u

typedef struct generation {
    mf_executor *executor;
    mf_session *session;
    mf_sampler *sampler;
    const mf_submodel *submodel;
    mf_model *model;
    mf_generate_options options;
    mf_generate_result result;
    int32_t eos_token;
    const mf_submodel *last_view; /* that ran the last position */

    int32_t *prompt; /* [n_prompt] owned */
    size_t n_prompt, prompt_capacity;
    float *logits; /* [n_vocab] */
    size_t n_vocab;

    /* Text that was not shown yet: may become a stop string, or is the beginning of a character. */
    char *held; /* [held_capacity] */
    size_t n_held, held_capacity;
    mf_token_logprob top[MAX_TOP];

    /* Made for this call, or NULL. */
    mf_executor *own_executor;
    mf_session *own_session;
    mf_sampler *own_sampler;
} generation;

/* ---- Text that may be shown ---- */

/* Bytes of the first stop text's place in the held text, or SIZE_MAX. */
static size_t find_stop(const generation *g)
{
    for (size_t at = 0; at < g->n_held; at++)
        for (size_t i = 0; i < g->options.n_stop; i++) {
            size_t length = strlen(g->options.stop[i]);
            if (length <= g->n_held - at && memcmp(g->held + at, g->options.stop[i], length) == 0) return at;
        }
    return SIZE_MAX;
}

/* Where the first suffix begins with which a stop text begins. */
static size_t before_partial_stop(const generation *g)
{
    for (size_t at = 0; at < g->n_held; at++)
        for (size_t i = 0; i < g->options.n_stop; i++)
            if (strncmp(g->options.stop[i], g->held + at, g->n_held - at) == 0) return at;
    return g->n_held;
}

/* Less the beginning of a character at the end. Bytes that can no longer become one are not kept. */
static size_t before_partial_character(const char *text, size_t bytes)
{
    for (size_t back = 1; back < MAX_CHARACTER_BYTES && back <= bytes; back++) {
        unsigned char byte = (unsigned char)text[bytes - back];
        if (byte >= 0x80 && byte < 0xc0) continue; /* its first byte stands before it */
        size_t length = byte >= 0xf5 || byte < 0xc2 ? 1 : byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
        return length > back ? bytes - back : bytes;
    }
    return bytes;
}

/* The model's end of text, or another token that ends an answer, such as the end of a turn. */
static bool is_end(const generation *g, int32_t token)
{
    if (g->options.ignore_eos) return false;
    return token == g->eos_token || (g->model->tokenizer && mfi_tokenizer_stops(g->model->tokenizer, token));
}

static void hold_text(generation *g, int32_t token)
{
    size_t bytes;
    const char *text = g->model->tokenizer ? mfi_tokenizer_token(g->model->tokenizer, token, &bytes) : NULL;
    if (!text) return;
    memcpy(g->held + g->n_held, text, bytes);
    g->n_held += bytes;
}

/* Adds the token's text, shows what may be shown, and sets *finished and the reason where it ends here.
 * `is_last`: no token can follow. */
static void emit(generation *g, const mf_token_logprob *chosen, uint32_t position, const mf_submodel *view,
                 bool is_last, bool *finished)
{
    if (!is_end(g, chosen->token)) hold_text(g, chosen->token);
    size_t stop = find_stop(g), show = g->n_held;
    *finished = true;
    if (stop != SIZE_MAX) {
        show = stop;
        g->result.finish = MF_FINISH_STOP;
    } else if (is_end(g, chosen->token)) {
        g->result.finish = MF_FINISH_EOS;
    } else if (is_last) {
        g->result.finish = MF_FINISH_LENGTH;
    } else {
        *finished = false;
        show = before_partial_character(g->held, before_partial_stop(g));
    }
    g->result.n_generated++;
    if (g->options.on_token) {
        mf_token_event event = { chosen->token, position, g->held, show, chosen->logprob, view, NULL, 0 };
        event.top = g->options.n_top > 0 ? g->top : NULL;
        event.n_top = g->options.n_top;
        if (g->options.on_token(g->options.user, &event) != 0 && !*finished) {
            g->result.finish = MF_FINISH_CALLBACK;
            *finished = true;
        }
    }
    memmove(g->held, g->held + show, g->n_held - show);
    g->n_held -= show;
}

/* ---- Running ---- */

/* The view of a position, and the position where the next one's turn comes. */
static const mf_submodel *view_at(const generation *g, uint32_t position, uint32_t *until)
{
    const mf_submodel *view = g->submodel;
    size_t i = 0;
    for (; i < g->options.n_schedule && g->options.schedule[i].position <= position; i++)
        view = g->options.schedule[i].submodel;
    *until = i < g->options.n_schedule ? g->options.schedule[i].position : UINT32_MAX;
    return view;
}

static void record(generation *g, uint32_t position, const mf_submodel *view)
{
    if (view == g->last_view) return;
    if (g->result.n_schedule < g->result.schedule_capacity)
        g->result.schedule[g->result.n_schedule] = (mf_schedule_step){ position, view };
    g->result.n_schedule++;
    g->last_view = view;
}

/* Appends tokens to the session, as many at once as the schedule allows; the last one's logits are kept. */
static mf_status run(generation *g, const int32_t *tokens, size_t n_token, bool want_logits, mf_error *error)
{
    for (size_t done = 0, part; done < n_token; done += part) {
        uint32_t until, position = mf_session_position(g->session);
        const mf_submodel *view = view_at(g, position, &until);
        part = mfi_min(n_token - done, until - position);
        mf_request request = { .session = g->session, .submodel = view, .tokens = tokens + done, .n_token = part };
        bool is_end = done + part == n_token;
        request.logits_of = is_end && want_logits ? MF_LOGITS_LAST : MF_LOGITS_NONE;
        request.logits = g->logits;
        request.logits_capacity = g->n_vocab;
        mf_status status = mf_forward(g->executor, &request, 1, sizeof request, error);
        if (status != MF_OK) return status;
        record(g, position, view);
    }
    return MF_OK;
}

/* Leaves the logits that follow the session's last token. The session keeps none, so the token runs once more,
 * on a fork: whatever happens there, the session has its past. */
static mf_status run_last_again(generation *g, uint32_t position, mf_error *error)
{
    mf_session *session = g->session, *probe = NULL;
    int32_t last = mf_session_tokens(session)[position - 1];
    if (last < 0) return mfi_fail(error, MF_E_INVALID, "cannot go on after an embedding row: give a prompt");
    mf_status status = mf_session_fork(&probe, session, error);
    if (status != MF_OK) return status;
    status = mf_session_rewind(probe, position - 1);
    if (status == MF_OK) {
        g->session = probe;
        status = run(g, &last, 1, true, error);
        g->session = session;
    }
    mf_session_close(probe);
    return status;
}

/* Leaves the logits of the first new token. A failure leaves the session as it was. */
static mf_status run_prompt(generation *g, mf_error *error)
{
    uint32_t start = mf_session_position(g->session);
    if (g->n_prompt == 0) return run_last_again(g, start, error);
    mf_status status = run(g, g->prompt, g->n_prompt, true, error);
    if (status != MF_OK && mf_session_position(g->session) > start) (void)mf_session_rewind(g->session, start);
    return status;
}

static mf_status choose(generation *g, mf_token_logprob *chosen, mf_error *error)
{
    mf_status status = mf_sampler_sample(g->sampler, mf_session_tokens(g->session), mf_session_position(g->session),
                                         g->logits, chosen, g->top, g->options.n_top);
    if (status == MF_E_CANCELLED) return mfi_fail(error, status, "the logits filter stopped the generation");
    if (status != MF_OK)
        return mfi_fail(error, status, "position %u: the logits leave no token to choose",
                        mf_session_position(g->session));
    return MF_OK;
}

static mf_status run_tokens(generation *g, mf_error *error)
{
    for (bool finished = false; !finished;) {
        mf_token_logprob chosen;
        mf_status status = choose(g, &chosen, error);
        if (status != MF_OK) return status;
        uint32_t position = mf_session_position(g->session);
        const mf_submodel *view = g->last_view;
        bool is_last = is_end(g, chosen.token) || g->result.n_generated + 1 >= g->options.max_tokens;
        mf_error why = MF_ERROR_INIT;
        status = run(g, &chosen.token, 1, !is_last, &why);
        if (status != MF_OK && status != MF_E_FULL) return mfi_fail(error, status, "%s", why.detail);
        emit(g, &chosen, position, view, is_last || status == MF_E_FULL, &finished);
    }
    return MF_OK;
}

/* ---- Preparing ---- */

static mf_status check_arguments(const generation *g, mf_error *error)
{
    const mf_generate_options *o = &g->options;
    if (!g->submodel) return mfi_fail(error, MF_E_INVALID, "generate: no submodel");
    if (o->prompt && o->n_token > 0) return mfi_fail(error, MF_E_INVALID, "generate: a prompt and tokens: give one");
    if (o->n_token > 0 && !o->tokens) return mfi_fail(error, MF_E_INVALID, "generate: n_token without tokens");
    if (o->n_top > MAX_TOP) return mfi_fail(error, MF_E_INVALID, "generate: n_top %u is above %u", o->n_top, MAX_TOP);
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
    if (g->result.schedule_capacity > 0 && !g->result.schedule)
        return mfi_fail(error, MF_E_INVALID, "generate: schedule_capacity without a schedule to write to");
    return MF_OK;
}

/* The prompt as tokens; where there is none and nothing to go on from, the token that begins a text. */
static mf_status read_prompt(generation *g, const mf_model_info *info, mf_error *error)
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

static mf_status allocate_buffers(generation *g, mf_error *error)
{
    size_t longest_stop = 0;
    for (size_t i = 0; i < g->options.n_stop; i++)
        longest_stop = mfi_max(longest_stop, strlen(g->options.stop[i]));
    g->held_capacity = longest_stop + MAX_CHARACTER_BYTES + MFI_MAX_TOKEN_BYTES;
    g->held = mfi_alloc(&g->model->allocator, g->held_capacity);
    g->logits = mfi_alloc_array(&g->model->allocator, g->n_vocab, sizeof *g->logits);
    return g->held && g->logits ? MF_OK : mfi_fail(error, MF_E_NOMEM, "no memory to generate with");
}

/* Makes what the caller left out, no larger than this call needs. */
static mf_status create_missing(generation *g, const mf_model_info *info, mf_error *error)
{
    mf_status status = MF_OK;
    if (!g->executor) {
        mf_executor_options options = MF_EXECUTOR_OPTIONS_INIT;
        options.max_tokens = (uint32_t)mfi_min(mfi_max(g->n_prompt, 1), EXECUTOR_ROWS);
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

static mf_status generate(generation *g, mf_error *error)
{
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_status status = mf_model_info_get(g->model, &info);
    if (status != MF_OK) return mfi_fail(error, status, "generate: the model gives no information");
    if (info.image_size > 0) return mfi_fail(error, MF_E_UNSUPPORTED, "generate: the model takes images, not tokens");
    g->n_vocab = info.n_vocab;
    g->eos_token = info.eos_token;
    status = read_prompt(g, &info, error);
    if (status == MF_OK) status = allocate_buffers(g, error);
    if (status == MF_OK) status = create_missing(g, &info, error);
    if (status != MF_OK) return status;

    uint64_t begin = mfi_now_ns();
    status = run_prompt(g, error);
    uint64_t prompt_end = mfi_now_ns();
    g->result.prompt_ns = prompt_end - begin;
    if (status != MF_OK) return status;
    g->result.n_prompt = (uint32_t)g->n_prompt;
    status = run_tokens(g, error);
    g->result.generate_ns = mfi_now_ns() - prompt_end;
    return status;
}

static void release(generation *g)
{
    const mf_allocator *allocator = &g->model->allocator;
    mf_sampler_close(g->own_sampler);
    mf_session_close(g->own_session);
    mf_executor_close(g->own_executor);
    mfi_free(allocator, g->logits, g->n_vocab * sizeof *g->logits);
    mfi_free(allocator, g->held, g->held_capacity);
    mfi_free(allocator, g->prompt, g->prompt_capacity * sizeof *g->prompt);
}

mf_status mf_generate(mf_executor *executor, mf_session *session, const mf_submodel *submodel,
                      const mf_generate_options *options, mf_generate_result *result, mf_error *error)
{
    generation g = { .executor = executor, .session = session, .submodel = submodel };
    g.options.struct_size = sizeof g.options;
    g.result.struct_size = sizeof g.result;
    mf_status status = mfi_read_options(&g.options, sizeof g.options, FIRST_BYTES(mf_generate_options, reserved),
                                        options, "mf_generate_options", error);
    if (status == MF_OK)
        status = mfi_read_options(&g.result, sizeof g.result, FIRST_BYTES(mf_generate_result, n_schedule), result,
                                  "mf_generate_result", error);
    if (status == MF_OK) status = check_arguments(&g, error);
    if (status != MF_OK) return status;
    g.model = submodel->model;
    g.sampler = g.options.sampler;
    if (g.options.max_tokens == 0) g.options.max_tokens = DEFAULT_MAX_TOKENS;
    g.result = (mf_generate_result){ .struct_size = sizeof g.result,
                                     .schedule = g.result.schedule,
                                     .schedule_capacity = g.result.schedule_capacity };
    status = generate(&g, error);
    release(&g);
    if (result) (void)mfi_write_info(result, &g.result, sizeof g.result, FIRST_BYTES(mf_generate_result, n_schedule));
    return status;
}
