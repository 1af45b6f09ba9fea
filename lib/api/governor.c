/* governor.c - mf_governor_*: arguments, members, and what other threads see. The decisions are in governor_control.c.
 *
 * mf_governor_choose() reads one atomic number of its member, and how many shells are resident. */
#include "governor.h"

#include <math.h>

#include "arena.h"
#include "defs.h"
#include "status.h"

#define MAX_RUNG 64u
#define MOST_MEMBERS 256u
#define MOST_MS 3600000u
#define MOST_WEIGHT 1e6
#define MOST_MARGIN 10.0
#define DEFAULT_MARGIN 0.1
#define DEFAULT_SMOOTHING_MS 250u
#define DEFAULT_DWELL_MS 1000u
#define DEFAULT_MEMBERS 64u

/* ---- Creation ---- */

static bool is_share(double value, double most)
{
    return value >= 0 && value <= most; /* false for NaN */
}

static mf_status check_numbers(const mf_governor_options *o, mf_error *error)
{
    if (!is_share(o->tokens_per_second, 1e9) || !is_share(o->ms_per_token, MOST_MS))
        return mfi_fail(error, MF_E_INVALID, "governor: tokens_per_second %g, ms_per_token %g: no speed to hold",
                        o->tokens_per_second, o->ms_per_token);
    if (o->tokens_per_second > 0 && o->ms_per_token > 0)
        return mfi_fail(error, MF_E_INVALID, "governor: give tokens_per_second or ms_per_token, not both");
    if (!is_share(o->margin, MOST_MARGIN))
        return mfi_fail(error, MF_E_INVALID, "governor: margin %g is not within 0 and %g", o->margin, MOST_MARGIN);
    if (o->smoothing_ms > MOST_MS || o->dwell_ms > MOST_MS)
        return mfi_fail(error, MF_E_INVALID, "governor: smoothing_ms %u and dwell_ms %u are at most an hour",
                        o->smoothing_ms, o->dwell_ms);
    if (o->max_members > MOST_MEMBERS)
        return mfi_fail(error, MF_E_INVALID, "governor: max_members %u is above %u", o->max_members, MOST_MEMBERS);
    if (o->when_missing != MF_MISSING_NARROW && o->when_missing != MF_MISSING_STATUS)
        return mfi_fail(error, MF_E_INVALID, "governor: when_missing %d is unknown", (int)o->when_missing);
    return MF_OK;
}

static uint64_t bytes_of(const mf_submodel *view)
{
    mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
    (void)mf_submodel_info_get(view, &info);
    return info.bytes_per_token;
}

static mf_status check_ladder(const mf_governor_options *o, mf_error *error)
{
    if (o->rungs == NULL || o->n_rung == 0 || o->n_rung > MAX_RUNG)
        return mfi_fail(error, MF_E_INVALID, "governor: a ladder has 1 to %u rungs, not %zu", MAX_RUNG,
                        o->rungs != NULL ? o->n_rung : 0);
    for (size_t r = 0; r < o->n_rung; r++) {
        if (o->rungs[r] == NULL) return mfi_fail(error, MF_E_INVALID, "governor: rung %zu is NULL", r);
        if (r == 0) continue;
        const mf_submodel *here = o->rungs[r], *below = o->rungs[r - 1];
        if (here->model != below->model)
            return mfi_fail(error, MF_E_INVALID, "governor: rung %zu is a view of another model", r);
        if (here->n_shell < below->n_shell || bytes_of(here) < bytes_of(below))
            return mfi_fail(error, MF_E_INVALID, "governor: rung %zu is narrower than the one before it", r);
    }
    if (o->weight_bytes > 0 && bytes_of(o->rungs[0]) > o->weight_bytes)
        return mfi_fail(error, MF_E_INVALID,
                        "governor: the narrowest rung reads %llu bytes, and weight_bytes allows %llu",
                        (unsigned long long)bytes_of(o->rungs[0]), (unsigned long long)o->weight_bytes);
    return MF_OK;
}

static void fill_defaults(mf_governor_options *o)
{
    if (o->margin == 0) o->margin = DEFAULT_MARGIN;
    if (o->smoothing_ms == 0) o->smoothing_ms = DEFAULT_SMOOTHING_MS;
    if (o->dwell_ms == 0) o->dwell_ms = DEFAULT_DWELL_MS;
    if (o->max_members == 0) o->max_members = DEFAULT_MEMBERS;
}

static mf_governor *lay_out(mfi_arena *arena, size_t n_rung, size_t n_member)
{
    mf_governor *g = mfi_carve(arena, 1, sizeof *g);
    void *rung = mfi_carve(arena, n_rung, sizeof *g->rung), *bytes = mfi_carve(arena, n_rung, sizeof *g->rung_bytes);
    void *prior = mfi_carve(arena, n_rung, sizeof(double)), *step = mfi_carve(arena, n_rung, sizeof(double));
    void *cost = mfi_carve(arena, n_rung, sizeof(double)), *learned = mfi_carve(arena, n_rung, sizeof(bool));
    void *member = mfi_carve(arena, n_member, sizeof *g->member);
    if (arena->base == NULL) return NULL;
    g->rung = rung;
    g->rung_bytes = bytes;
    g->step_prior = prior;
    g->step = step;
    g->cost = cost;
    g->learned = learned;
    g->member = member;
    return g;
}

static void fill_ladder(mf_governor *g)
{
    for (uint32_t r = 0; r < g->n_rung; r++) {
        g->rung[r] = g->options.rungs[r];
        g->rung_bytes[r] = bytes_of(g->rung[r]);
        g->step_prior[r] =
            r > 0 && g->rung_bytes[r - 1] > 0 ? (double)g->rung_bytes[r] / (double)g->rung_bytes[r - 1] : 1;
        g->step[r] = g->step_prior[r];
        g->cost[r] = r > 0 ? g->cost[r - 1] * g->step[r] : 1;
        if (g->options.weight_bytes == 0 || g->rung_bytes[r] <= g->options.weight_bytes) g->fixed_cap = r;
    }
    g->cap = g->fixed_cap;
}

mf_status mf_governor_create(mf_governor **out, const mf_governor_options *options, mf_error *error)
{
    if (out == NULL) return mfi_fail(error, MF_E_INVALID, "out is NULL");
    *out = NULL;
    mf_governor_options full = MF_GOVERNOR_OPTIONS_INIT;
    mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_governor_options, policy_user), options,
                                        "mf_governor_options", error);
    if (status == MF_OK) status = check_numbers(&full, error);
    if (status == MF_OK) status = check_ladder(&full, error);
    if (status != MF_OK) return status;
    fill_defaults(&full);

    mf_model *model = full.rungs[0]->model;
    mfi_arena arena = { NULL, 0 };
    (void)lay_out(&arena, full.n_rung, full.max_members);
    const size_t bytes = arena.used;
    arena.base = mfi_alloc(&model->allocator, bytes);
    if (arena.base == NULL) return mfi_fail(error, MF_E_NOMEM, "no memory for a governor");
    arena.used = 0;
    mf_governor *g = lay_out(&arena, full.n_rung, full.max_members);
    g->options = full;
    g->bytes = bytes;
    g->model = model;
    g->n_rung = (uint32_t)full.n_rung;
    g->target_ns = full.tokens_per_second > 0 ? 1e9 / full.tokens_per_second : full.ms_per_token * 1e6;
    g->dwell_ns = full.dwell_ms * 1e6;
    g->watch.rung = MFI_NO_RUNG;
    fill_ladder(g);
    for (uint32_t i = 0; i < full.max_members; i++)
        atomic_init(&g->member[i].rung, MFI_NO_RUNG);
    g->report_ns = g->demand_ns = g->change_ns = g->cap_ns = mfi_governor_now(g);
    mfi_model_retain(model);
    mfi_governor_look(g);
    *out = g;
    return MF_OK;
}

void mf_governor_close(mf_governor *governor)
{
    if (governor == NULL) return;
    mf_model *model = governor->model;
    mfi_free(&model->allocator, governor, governor->bytes);
    mfi_model_release(model);
}

/* ---- Members ---- */

static mfi_governor_member *find_member(const mf_governor *g, uint32_t member)
{
    if (member >= g->options.max_members) return NULL;
    mfi_governor_member *m = &g->member[member];
    return atomic_load_explicit(&m->rung, memory_order_relaxed) != MFI_NO_RUNG ? m : NULL;
}

static uint32_t find_rung(const mf_governor *g, const mf_submodel *view, uint32_t otherwise)
{
    if (view == NULL) return otherwise;
    for (uint32_t r = 0; r < g->n_rung; r++)
        if (g->rung[r] == view) return r;
    return MFI_NO_RUNG;
}

mf_status mf_governor_join(mf_governor *governor, const mf_governor_member *options, uint32_t *member, mf_error *error)
{
    mf_governor *g = governor;
    if (g == NULL || member == NULL) return mfi_fail(error, MF_E_INVALID, "governor or member is NULL");
    mf_governor_member full = MF_GOVERNOR_MEMBER_INIT;
    mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_governor_member, weight), options,
                                        "mf_governor_member", error);
    if (status != MF_OK) return status;
    const uint32_t narrowest = find_rung(g, full.narrowest, 0), widest = find_rung(g, full.widest, g->n_rung - 1);
    if (narrowest == MFI_NO_RUNG || widest == MFI_NO_RUNG || narrowest > widest)
        return mfi_fail(error, MF_E_INVALID, "governor: %s of the member's bounds",
                        narrowest == MFI_NO_RUNG || widest == MFI_NO_RUNG ? "the ladder has none" : "the order");
    if (!is_share(full.weight, MOST_WEIGHT))
        return mfi_fail(error, MF_E_INVALID, "governor: weight %g is not within 0 and %g", full.weight, MOST_WEIGHT);
    uint32_t free = 0;
    while (free < g->options.max_members && find_member(g, free) != NULL)
        free++;
    if (free == g->options.max_members)
        return mfi_fail(error, MF_E_FULL, "governor: all %u members (max_members) have joined", free);

    mfi_governor_recount(g);
    mfi_governor_member *m = &g->member[free];
    m->narrowest = narrowest;
    m->widest = widest;
    m->weight = full.weight > 0 ? full.weight : 1;
    m->active = m->listed = false;
    const double narrowing = g->n_range > 0 ? (double)g->n_given / g->n_range : 0;
    m->given = (uint32_t)(mfi_governor_range(g, m) * narrowing + 0.5);
    atomic_store_explicit(&m->rung, narrowest, memory_order_relaxed); /* it is one; publish says where it stands */
    g->n_member++;
    g->watch.rung = MFI_NO_RUNG;
    mfi_governor_recount(g);
    mfi_governor_balance(g);
    mfi_governor_publish(g);
    *member = free;
    return MF_OK;
}

mf_status mf_governor_leave(mf_governor *governor, uint32_t member)
{
    if (governor == NULL) return MF_E_INVALID;
    mfi_governor_member *m = find_member(governor, member);
    if (m == NULL) return MF_E_RANGE;
    atomic_store_explicit(&m->rung, MFI_NO_RUNG, memory_order_relaxed);
    m->active = m->listed = false;
    governor->n_member--;
    governor->watch.rung = MFI_NO_RUNG;
    mfi_governor_recount(governor);
    return MF_OK;
}

mf_status mf_governor_choose(const mf_governor *governor, uint32_t member, const mf_submodel **out)
{
    if (out == NULL) return MF_E_INVALID;
    *out = NULL;
    if (governor == NULL) return MF_E_INVALID;
    if (member >= governor->options.max_members) return MF_E_RANGE;
    uint32_t rung = atomic_load_explicit(&governor->member[member].rung, memory_order_relaxed);
    if (rung == MFI_NO_RUNG) return MF_E_RANGE;
    const uint32_t n_resident = mfi_shells_resident(&governor->model->residency);
    while (governor->rung[rung]->n_shell > n_resident) {
        if (rung == 0 || governor->options.when_missing == MF_MISSING_STATUS) return MF_E_NOT_RESIDENT;
        rung--;
    }
    *out = governor->rung[rung];
    return MF_OK;
}

/* ---- Reports ---- */

/* Marks the members of a step; *n_token gets the sum. */
static mf_status list_members(mf_governor *g, const mf_governor_step *step, uint64_t *n_token)
{
    *n_token = 0;
    for (uint32_t i = 0; i < g->options.max_members; i++)
        g->member[i].listed = false;
    for (size_t i = 0; i < step->n_member; i++) {
        mfi_governor_member *m = find_member(g, step->members[i]);
        if (m == NULL) return MF_E_RANGE;
        if (m->listed) return MF_E_INVALID;
        m->listed = true;
        m->tokens = step->n_token != NULL ? step->n_token[i] : 1;
        *n_token += m->tokens;
    }
    return MF_OK;
}

mf_status mf_governor_report(mf_governor *governor, const mf_governor_step *step)
{
    mf_governor_step full = MF_GOVERNOR_STEP_INIT;
    if (governor == NULL || step == NULL) return MF_E_INVALID;
    mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_governor_step, n_member), step,
                                        "mf_governor_step", NULL);
    if (status == MF_OK && full.members == NULL && full.n_member > 0) status = MF_E_INVALID;
    uint64_t n_token = 0;
    if (status == MF_OK) status = list_members(governor, &full, &n_token);
    if (status != MF_OK || n_token == 0 || full.elapsed_ns == 0) return status;
    const uint64_t now = mfi_governor_now(governor);
    mfi_governor_look(governor);
    mfi_governor_measure(governor, now, full.elapsed_ns);
    mfi_governor_decide(governor, now);
    return MF_OK;
}

mf_status mf_governor_signal(mf_governor *governor, const mf_governor_signals *signals)
{
    mf_governor_signals full = MF_GOVERNOR_SIGNALS_INIT;
    if (governor == NULL || signals == NULL) return MF_E_INVALID;
    mf_status status = mfi_read_options(&full, sizeof full, MFI_FIRST_BYTES(mf_governor_signals, reserved), signals,
                                        "mf_governor_signals", NULL);
    if (status != MF_OK) return status;
    if (!(full.heat >= 0)) return MF_E_INVALID;
    const uint64_t now = mfi_governor_now(governor);
    governor->signals = full;
    mfi_governor_look(governor);
    mfi_governor_recount(governor);
    mfi_governor_fit_memory(governor, now);
    mfi_governor_decide(governor, now);
    return MF_OK;
}

/* ---- What is known ---- */

/* The narrowest granularity that holds so many shells. */
static const char *granularity_of(const mf_model *model, uint32_t n_shell)
{
    const mfi_config *config = &model->config;
    for (uint32_t i = 0; i < config->n_granularity; i++) {
        uint32_t most = 0;
        for (uint32_t layer = 0; layer < config->n_layer; layer++) {
            const uint32_t n = mfi_program_shells(model->program, layer, config->granularity[i].ffn[layer]);
            most = n > most ? n : most;
        }
        if (most >= n_shell) return config->granularity[i].name;
    }
    return NULL;
}

mf_status mf_governor_info_get(const mf_governor *governor, mf_governor_info *info)
{
    if (governor == NULL || info == NULL) return MF_E_INVALID;
    const mf_governor *g = governor;
    const uint32_t floor = mfi_governor_highest_floor(g), widest = g->cap > floor ? g->cap : floor;
    const mf_governor_info full = {
        .now_ns = mfi_governor_now(g),
        .target_ns = g->target_ns,
        .ns_per_token = g->tokens > 0 ? g->time_ns / g->tokens : 0,
        .narrowing = g->n_range > 0 ? (double)g->n_given / g->n_range : 0,
        .heat = g->signals.heat,
        .free_bytes = g->signals.free_bytes,
        .n_queued = g->signals.n_queued,
        .n_member = g->n_member,
        .n_rung = g->n_rung,
        .widest_rung = widest,
        .n_shell = g->rung[widest]->n_shell,
        .granularity = granularity_of(g->model, g->rung[widest]->n_shell),
        .n_narrowed = g->n_narrowed,
        .n_widened = g->n_widened,
    };
    return mfi_write_info(info, &full, sizeof full, MFI_FIRST_BYTES(mf_governor_info, n_widened));
}

double mf_governor_predict(const mf_governor *governor, uint32_t rung)
{
    if (governor == NULL || rung >= governor->n_rung) return 0;
    return mfi_governor_load(governor) * governor->cost[rung];
}
