/* plan_search.c - evaluating views, and the ways that the planner is compared with: the rule of thumb, one width for all
 * layers, widths by chance. */
#include <string.h>

#include "defs.h"
#include "plan.h"
#include "platform.h"
#include "status.h"

bool mfi_search_over(const mfi_search *s)
{
    return s->plan->n_all >= s->options->n_evaluation || (s->deadline_ns != 0 && mfi_now_ns() >= s->deadline_ns);
}

static uint32_t find_done(const mfi_search *s, const mfi_view_layer *layers)
{
    for (uint32_t i = 0; i < s->plan->n_all; i++)
        if (memcmp(s->plan->all[i].layer, layers, s->space->n_layer * sizeof *layers) == 0) return i;
    return UINT32_MAX;
}

static mf_status tell(const mfi_search *s)
{
    const mf_plan_options *o = s->options;
    if (!o->progress || o->progress(o->progress_user, s->plan->n_all, o->n_evaluation) == 0) return MF_OK;
    return mfi_fail(s->error, MF_E_CANCELLED, "planning was cancelled");
}

static mf_status score(mfi_search *s, const mf_submodel *view, const mfi_view_layer *layers, mfi_plan_score *out)
{
    if (mfi_record_find(s->record, layers, out)) return MF_OK;
    const mf_status status = mfi_scorer_run(s->scorer, view, out, s->error);
    return status == MF_OK ? mfi_record_add(s->record, layers, out, s->error) : status;
}

mf_status mfi_search_evaluate(mfi_search *s, const mfi_view_layer *layers, uint32_t *index)
{
    const uint32_t there = find_done(s, layers);
    if (index) *index = there;
    if (there != UINT32_MAX || mfi_search_over(s)) return MF_OK;
    mf_submodel *view = NULL;
    mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
    mfi_plan_score result;
    mf_status status = mfi_plan_view(&view, s->model, layers, NULL);
    if (status == MF_E_WIDTH) return MF_OK; /* a layer would be read that is not there */
    if (status != MF_OK) return mfi_fail(s->error, status, "a view could not be made: %s", mf_status_text(status));
    mf_submodel_info_get(view, &info);
    status = score(s, view, layers, &result);
    if (status == MF_OK)
        status =
            mfi_plan_add(s->plan, view, layers, &result, mfi_plan_cost_of(s->options->cost, &s->line, &info), s->error);
    mf_submodel_close(view);
    if (status != MF_OK) return status;
    if (index) *index = s->plan->n_all - 1;
    return tell(s);
}

/* The granularities of the file: every method has them. */
static mf_status evaluate_granularities(mfi_search *s)
{
    mf_status status = MF_OK;
    for (uint32_t g = s->space->n_granularity; g-- > 0 && status == MF_OK;) {
        mfi_view_layer layers[MFI_MAX_LAYER];
        for (uint32_t l = 0; l < s->space->n_layer; l++)
            layers[l] = s->space->option[l][s->space->granularity[g][l]];
        status = mfi_search_evaluate(s, layers, NULL);
    }
    return status;
}

/* ---- What the planner is compared with ---- */

static uint32_t draw(mfi_search *s, uint32_t n)
{
    s->random = s->random * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX */
    return (uint32_t)((s->random >> 33) % n);
}

/* A layer's narrowest and widest, none skipped. */
static mfi_view_layer narrowest(const mfi_search *s, uint32_t layer)
{
    const mfi_view_layer *option = s->space->option[layer];
    return option[option[0].heads == 0 && s->space->n_option[layer] > 1];
}

static mfi_view_layer widest(const mfi_search *s, uint32_t layer)
{
    return s->space->option[layer][s->space->n_option[layer] - 1];
}

/* Quanta from the narrowest to the widest, of the layer where they are most. */
static uint32_t count_steps(const mfi_search *s)
{
    uint32_t most = 0;
    for (uint32_t l = 0; l < s->space->n_layer; l++) {
        const uint32_t steps = (uint32_t)(widest(s, l).ffn_quanta - narrowest(s, l).ffn_quanta);
        most = steps > most ? steps : most;
    }
    return most;
}

/* A layer at `step` of n_step, all heads. */
static mfi_view_layer at_step(const mfi_search *s, uint32_t layer, uint32_t step, uint32_t n_step)
{
    const uint32_t low = narrowest(s, layer).ffn_quanta, high = widest(s, layer).ffn_quanta;
    const uint32_t width = low + (uint32_t)(((uint64_t)(high - low) * step + n_step / 2) / (n_step ? n_step : 1));
    return (mfi_view_layer){ (uint16_t)width, widest(s, layer).heads };
}

/* The i-th of n_step * n_layer + 1 members: the last i % n_layer layers are a step wider than those before. */
static mf_status evaluate_rule(mfi_search *s)
{
    const uint32_t n_layer = s->space->n_layer, n_step = count_steps(s), n_member = n_step * n_layer + 1;
    const uint32_t n = (uint32_t)mfi_min(n_member, s->options->n_evaluation);
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < n && status == MF_OK && !mfi_search_over(s); i++) {
        mfi_view_layer layers[MFI_MAX_LAYER];
        const uint32_t member = n > 1 ? (uint32_t)((uint64_t)i * (n_member - 1) / (n - 1)) : 0;
        for (uint32_t l = 0; l < n_layer; l++)
            layers[l] = at_step(s, l, member / n_layer + (l >= n_layer - member % n_layer), n_step);
        status = mfi_search_evaluate(s, layers, NULL);
    }
    return status;
}

static mf_status evaluate_uniform(mfi_search *s)
{
    const uint32_t n_step = count_steps(s), n = (uint32_t)mfi_min(n_step + 1, s->options->n_evaluation);
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < n && status == MF_OK && !mfi_search_over(s); i++) {
        mfi_view_layer layers[MFI_MAX_LAYER];
        for (uint32_t l = 0; l < s->space->n_layer; l++)
            layers[l] = at_step(s, l, n > 1 ? i * n_step / (n - 1) : 0, n_step);
        status = mfi_search_evaluate(s, layers, NULL);
    }
    return status;
}

static mf_status evaluate_random(mfi_search *s)
{
    mf_status status = MF_OK;
    const uint32_t n_step = count_steps(s);
    /* Of few views there may not be as many different ones as are asked for. */
    for (uint32_t i = 0; i < 20 * s->options->n_evaluation && status == MF_OK && !mfi_search_over(s); i++) {
        mfi_view_layer layers[MFI_MAX_LAYER];
        /* Between two bounds that are drawn first: widths drawn from all would nearly all cost the same, in the middle. */
        const uint32_t a = draw(s, n_step + 1), b = draw(s, n_step + 1), low = a < b ? a : b;
        for (uint32_t l = 0; l < s->space->n_layer; l++)
            layers[l] = at_step(s, l, low + draw(s, (a < b ? b - a : a - b) + 1), n_step);
        status = mfi_search_evaluate(s, layers, NULL);
    }
    return status;
}

mf_status mfi_search_run(mfi_search *s)
{
    s->random = s->options->seed;
    const mf_status status = evaluate_granularities(s);
    if (status != MF_OK) return status;
    if (s->plan->n_all < (uint32_t)mfi_min(2, s->space->n_granularity))
        return mfi_fail(s->error, MF_E_CANCELLED, "time was over before the file's granularities were evaluated");
    switch (s->options->method) {
    case MF_PLAN_RULE:
        return evaluate_rule(s);
    case MF_PLAN_UNIFORM:
        return evaluate_uniform(s);
    case MF_PLAN_RANDOM:
        return evaluate_random(s);
    case MF_PLAN_SEARCH:
        break;
    }
    return mfi_search_learn(s);
}
