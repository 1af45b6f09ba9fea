/* speculate.c - what a draft does: it runs ahead of the view, on the same session.
 *
 * The draft reads the keys and values that the view left and writes its own behind them. Then the session is moved back
 * and the view runs the same tokens as one batch, over the draft's keys and values: whatever stays in the cache was
 * written by the view, and is what it would have written token by token, to the bit (docs/speculation.md). */
#include "arena.h"
#include "defs.h"
#include "generate.h"
#include "platform.h"
#include "status.h"

/* ---- Checks ---- */

static mf_status check_cache(const mf_submodel *draft, const mf_submodel *view, mf_error *error)
{
    const mfi_program *program = draft->model->program;
    for (uint32_t slot = 0; slot < program->n_slot; slot++) {
        const uint32_t layer = program->slot_layer[slot];
        const uint32_t drafts = mfi_view_kv_heads(draft, layer), views = mfi_view_kv_heads(view, layer);
        if (drafts != views)
            return mfi_fail(
                error, MF_E_REBUILD_NEEDED,
                "generate: layer %u: the draft has %u key/value heads and the view %u; a draft works on the "
                "view's cache: let it have narrower FFNs, or fewer query heads of the same groups",
                layer, drafts, views);
    }
    return MF_OK;
}

mf_status mfi_speculation_check(const mf_generation *g, mf_error *error)
{
    const mf_generate_options *o = &g->options;
    const mf_submodel *draft = o->draft;
    if (!draft && o->draft_tokens > 0) return mfi_fail(error, MF_E_INVALID, "generate: draft_tokens without a draft");
    if (!draft) return MF_OK;
    if (o->draft_tokens > MFI_MOST_DRAFT)
        return mfi_fail(error, MF_E_INVALID, "generate: draft_tokens %u is above %u", o->draft_tokens, MFI_MOST_DRAFT);
    if (draft->model != g->submodel->model)
        return mfi_fail(error, MF_E_INVALID, "generate: the draft is another model's");
    if (draft->n_shell > mfi_shells_resident(&draft->model->residency))
        return mfi_refuse_view(draft->model, draft->n_shell, error);
    mf_status status = check_cache(draft, g->submodel, error);
    for (size_t i = 0; i < o->n_schedule && status == MF_OK; i++)
        status = check_cache(draft, o->schedule[i].submodel, error);
    return status;
}

mf_status mfi_speculation_allocate(mf_generation *g, mf_error *error)
{
    if (!g->options.draft) return MF_OK;
    const mf_allocator *allocator = &g->model->allocator;
    const bool needs_distributions = !mfi_sampler_is_greedy(g->sampler);
    g->draft_logits = mfi_alloc_array(allocator, g->n_vocab, sizeof *g->draft_logits);
    if (needs_distributions)
        g->distributions = mfi_alloc_array(allocator, MFI_MOST_DRAFT * g->n_vocab, sizeof *g->distributions);
    if (g->draft_logits && (g->distributions || !needs_distributions)) return MF_OK;
    return mfi_fail(error, MF_E_NOMEM, "no memory for a draft of %u tokens", MFI_MOST_DRAFT);
}

void mfi_speculation_free(mf_generation *g)
{
    const mf_allocator *allocator = &g->model->allocator;
    mfi_free(allocator, g->draft_logits, g->n_vocab * sizeof *g->draft_logits);
    mfi_free(allocator, g->distributions, MFI_MOST_DRAFT * g->n_vocab * sizeof *g->distributions);
}

/* ---- Drafting ---- */

/* What is known of acceptance is known of a draft and a view. */
static void begin_view(mf_generation *g, const mf_submodel *view)
{
    mf_submodel_info of_draft = MF_SUBMODEL_INFO_INIT, of_view = MF_SUBMODEL_INFO_INIT;
    if (view == g->drafted_for) return;
    (void)mfi_submodel_info(g->options.draft, &of_draft);
    (void)mfi_submodel_info(view, &of_view);
    mfi_draft_length_init(&g->length, g->options.draft_tokens, of_draft.bytes_per_token, of_view.bytes_per_token);
    g->drafted_for = view;
}

/* As many as the length says, that fit the session, may be generated and are all of one view. */
static uint32_t length_now(mf_generation *g)
{
    const uint32_t position = g->session->position;
    uint32_t until;
    const mf_submodel *view = mfi_generation_view(g, position, &until);
    if (view == g->options.draft) return 0;
    begin_view(g, view);
    size_t most = g->options.max_tokens - g->result.n_generated - 1;
    most = mfi_min(most, until - position - 1);
    if (position >= g->session->max_positions) return 0;
    most = mfi_min(most, g->session->max_positions - position - 1);
    return mfi_draft_length_next(&g->length, (uint32_t)mfi_min(most, MFI_MOST_DRAFT));
}

/* Runs tokens[i] with the draft and chooses tokens[i + 1]. False where it leaves nothing to choose, there is no room for
 * more pages, or its shells went and something else may run instead: then the draft is as long as it is. */
static bool draft_one(mf_generation *g, int32_t *tokens, uint32_t i, mf_status *status, mf_error *error)
{
    mf_error why = MF_ERROR_INIT;
    mf_request request = { .session = g->session, .submodel = g->options.draft, .tokens = &tokens[i], .n_token = 1 };
    request.logits = g->draft_logits;
    request.logits_capacity = g->n_vocab;
    *status = mf_forward(g->executor, &request, 1, sizeof request, &why);
    if (*status == MF_E_FULL || (*status == MF_E_NOT_RESIDENT && g->options.fallback))
        *status = MF_OK;
    else if (*status != MF_OK)
        mfi_fail(error, *status, "%s", why.detail);
    if (request.status != MF_OK) return false;
    double *distribution = g->distributions ? g->distributions + i * g->n_vocab : NULL;
    return mfi_sampler_draft(g->sampler, g->session->tokens, g->session->position, g->draft_logits, distribution,
                             &tokens[i + 1]) == MF_OK;
}

mf_status mfi_speculation_draft(mf_generation *g, int32_t tokens[1 + MFI_MOST_DRAFT], uint32_t *n_draft,
                                mf_error *error)
{
    *n_draft = 0;
    const uint32_t wanted = g->options.draft ? length_now(g) : 0, position = g->session->position;
    if (wanted == 0) return MF_OK;
    const uint64_t began = mfi_now_ns();
    mf_status status = MF_OK;
    while (*n_draft < wanted && !mfi_generation_is_end(g, tokens[*n_draft]) &&
           draft_one(g, tokens, *n_draft, &status, error))
        (*n_draft)++;
    mfi_session_place(g->session, position);
    g->result.n_drafted += *n_draft;
    g->result.draft_ns += mfi_now_ns() - began;
    return status;
}
