/* governor_control.c - the governor's decisions.
 *
 * State. Members stand on rungs of the ladder; what is decided is how many rungs they give up together, n_given of
 * n_range. Who gives them up follows: the k-th rung of a member has the key k * weight, and those of the least keys are
 * given up (of equal ones, the first member's). So weights hold for any number, and the way back is the way down.
 *
 * Measure. A step costs the mean over its members of tokens times the cost of the rung; load is time over cost, both
 * summed with weights that fade with time. Load does not change when the governor narrows, only when the machine or
 * the batch does, so that the effect of a move is known before it shows: time per token = load * mean cost.
 *
 * Control. As slow as the target, or nearly: at once as many rungs are given up as bring the expected speed above it by
 * the margin. Wider again only after a dwell time, and only where the expected speed keeps that margin. A widening that
 * had to be taken back makes the dwell longer, until the load falls: whatever the costs are, changes die out. */
#include <math.h>

#include "governor.h"
#include "platform.h"

#define MIN_STEPS 3u          /* evidence for a decision, unless */
#define LONGEST_STEP 4.0      /* smoothing times that one step counts as at most */
#define RECENT 4.0            /* times as fast as smoothing */
#define CALM 0.1              /* relative difference between recent and smoothed load, of a load that stands still */
#define WATCH_TIME 2.0        /* smoothing times that a widening is watched */
#define LEARNING_GAIN 0.3     /* of the second and later observations of a rung */
#define STEP_BEYOND_PRIOR 1.5 /* a rung reads more bytes and does little else: more is the load that changed */
#define BACKOFF 3.0           /* what a failure does to the dwell; a widening that held halves it */
#define LONGEST_DWELL 32.0    /* dwell times */
#define LOWER_LOAD 0.85       /* of that of a failure: another attempt is due */
#define FIRST_HEAT 0.8        /* that narrows */
#define GUARD 0.25            /* share of the margin below which members narrow */
#define MEMORY_HYSTERESIS 1.1 /* of what a wider rung takes must be free */
#define NS_PER_MS 1e6

uint64_t mfi_governor_now(const mf_governor *g)
{
    return g->options.now_ns != NULL ? g->options.now_ns(g->options.clock_user) : mfi_now_ns();
}

static double since(uint64_t now_ns, uint64_t then_ns)
{
    return now_ns > then_ns ? (double)(now_ns - then_ns) : 0;
}

/* ---- Who gives up rungs ---- */

static bool is_member(const mfi_governor_member *m)
{
    return atomic_load_explicit(&m->rung, memory_order_relaxed) != MFI_NO_RUNG;
}

/* The widest rung that it may have under a ceiling. Floors hold against every ceiling. */
static uint32_t top_under(uint32_t cap, const mfi_governor_member *m)
{
    const uint32_t widest = m->widest < cap ? m->widest : cap;
    return widest > m->narrowest ? widest : m->narrowest;
}

static uint32_t top_of(const mf_governor *g, const mfi_governor_member *m)
{
    return top_under(g->cap, m);
}

uint32_t mfi_governor_range(const mf_governor *g, const mfi_governor_member *m)
{
    return top_of(g, m) - m->narrowest;
}

static uint32_t rung_of(const mf_governor *g, const mfi_governor_member *m)
{
    return top_of(g, m) - m->given;
}

/* What a token of it costs, on the rung that mf_governor_choose() gives. */
static double cost_of(const mf_governor *g, const mfi_governor_member *m)
{
    const uint32_t rung = rung_of(g, m);
    return g->cost[rung < g->resident ? rung : g->resident];
}

/* The member that gives up the next rung, with that rung's key; NULL: all are at their floors. */
static mfi_governor_member *next_to_narrow(const mf_governor *g, double *key)
{
    mfi_governor_member *found = NULL;
    for (uint32_t i = 0; i < g->options.max_members; i++) {
        mfi_governor_member *m = &g->member[i];
        if (!is_member(m) || m->given == mfi_governor_range(g, m)) continue;
        const double next = (m->given + 1) * m->weight;
        if (found != NULL && next >= *key) continue;
        found = m;
        *key = next;
    }
    return found;
}

/* The member that gave up the last rung. */
static mfi_governor_member *last_narrowed(const mf_governor *g, double *key)
{
    mfi_governor_member *found = NULL;
    for (uint32_t i = 0; i < g->options.max_members; i++) {
        mfi_governor_member *m = &g->member[i];
        if (!is_member(m) || m->given == 0) continue;
        const double last = m->given * m->weight;
        if (found != NULL && last < *key) continue;
        found = m;
        *key = last;
    }
    return found;
}

static void move(mf_governor *g, mfi_governor_member *m, bool narrower)
{
    const double before = cost_of(g, m);
    m->given = narrower ? m->given + 1 : m->given - 1;
    g->n_given = narrower ? g->n_given + 1 : g->n_given - 1;
    if (m->active) g->active_cost += cost_of(g, m) - before;
}

static bool narrow_one(mf_governor *g)
{
    double key = 0;
    mfi_governor_member *m = next_to_narrow(g, &key);
    if (m != NULL) move(g, m, true);
    return m != NULL;
}

static bool widen_one(mf_governor *g)
{
    double key = 0;
    mfi_governor_member *m = last_narrowed(g, &key);
    if (m != NULL) move(g, m, false);
    return m != NULL;
}

void mfi_governor_balance(mf_governor *g)
{
    for (;;) {
        double least = 0, greatest = 0;
        mfi_governor_member *from = last_narrowed(g, &greatest), *to = next_to_narrow(g, &least);
        if (from == NULL || to == NULL || greatest < least || (greatest == least && from <= to)) return;
        move(g, from, false);
        move(g, to, true);
    }
}

void mfi_governor_recount(mf_governor *g)
{
    g->n_given = g->n_range = g->n_active = 0;
    g->active_cost = 0;
    for (uint32_t i = 0; i < g->options.max_members; i++) {
        const mfi_governor_member *m = &g->member[i];
        if (!is_member(m)) continue;
        g->n_given += m->given;
        g->n_range += mfi_governor_range(g, m);
        g->n_active += m->active;
        if (m->active) g->active_cost += cost_of(g, m);
    }
}

void mfi_governor_publish(mf_governor *g)
{
    for (uint32_t i = 0; i < g->options.max_members; i++) {
        mfi_governor_member *m = &g->member[i];
        if (is_member(m)) atomic_store_explicit(&m->rung, rung_of(g, m), memory_order_relaxed);
    }
}

/* ---- What is measured ---- */

double mfi_governor_load(const mf_governor *g)
{
    return g->cost_run > 0 ? g->time_ns / g->cost_run : 0;
}

/* Nanoseconds for a token of an active member, as the rungs now are. */
static double expected_ns(const mf_governor *g, double load)
{
    return load * g->active_cost / g->n_active;
}

static double smoothing_ns(const mf_governor *g)
{
    return g->options.smoothing_ms * NS_PER_MS;
}

static double recent_load(const mf_governor *g)
{
    return g->recent_cost > 0 ? g->recent_ns / g->recent_cost : 0;
}

/* Enough was seen to judge by. */
static bool is_evidence(const mf_governor *g, uint32_t n_step, double time_ns)
{
    return n_step >= MIN_STEPS || (n_step > 0 && time_ns >= smoothing_ns(g));
}

static mfi_governor_costs costs_around(const mf_governor *g, uint32_t rung)
{
    mfi_governor_costs costs = { 0, 0 };
    for (uint32_t i = 0; i < g->options.max_members; i++) {
        const mfi_governor_member *m = &g->member[i];
        if (!is_member(m) || !m->active) continue;
        *(rung_of(g, m) < rung ? &costs.below : &costs.above) += cost_of(g, m);
    }
    return costs;
}

/* The factor f on the watched rung's step that explains what was seen: times before and after are as
 * before.below + f * before.above and after.below + f * after.above. 0: none does. */
static double explaining_factor(const mfi_governor_watch *w)
{
    const double ratio = w->time_ns / w->tokens / w->base_ns;
    const double rest = ratio * w->before.below - w->after.below, moved = w->after.above - ratio * w->before.above;
    return rest > 0 && moved > 0 ? rest / moved : 0;
}

/* Ends the watch. What was seen replaces what the bytes suggested, and then moves it. */
static void learn(mf_governor *g)
{
    const mfi_governor_watch w = g->watch;
    g->watch.rung = MFI_NO_RUNG;
    if (w.rung == MFI_NO_RUNG || !is_evidence(g, w.n_step, w.time_ns)) return;
    const double most = g->step_prior[w.rung] * STEP_BEYOND_PRIOR;
    double seen = g->step[w.rung] * explaining_factor(&w);
    seen = seen < 1 ? 1 : seen > most ? most : seen;
    g->step[w.rung] += (g->learned[w.rung] ? LEARNING_GAIN : 1) * w.share * (seen - g->step[w.rung]);
    g->learned[w.rung] = true;
    for (uint32_t r = w.rung; r < g->n_rung; r++)
        g->cost[r] = g->cost[r - 1] * g->step[r];
    const double before = g->active_cost;
    mfi_governor_recount(g);
    g->time_ns = w.time_ns;
    g->tokens = w.tokens;
    g->cost_run = w.tokens * g->active_cost / g->n_active;
    g->recent_cost *= g->active_cost / before;
}

static void watch(mf_governor *g, double time_ns, double tokens)
{
    mfi_governor_watch *w = &g->watch;
    if (w->rung == MFI_NO_RUNG) return;
    const mfi_governor_costs now = costs_around(g, w->rung);
    if (now.below != w->after.below || now.above != w->after.above) {
        w->rung = MFI_NO_RUNG; /* others run now */
        return;
    }
    w->time_ns += time_ns;
    w->tokens += tokens;
    w->n_step++;
    if (w->time_ns >= WATCH_TIME * smoothing_ns(g) && w->n_step >= MIN_STEPS) learn(g);
}

void mfi_governor_measure(mf_governor *g, uint64_t now_ns, uint64_t elapsed_ns)
{
    double tokens = 0, cost = 0;
    uint32_t n_listed = 0;
    for (uint32_t i = 0; i < g->options.max_members; i++) {
        mfi_governor_member *m = &g->member[i];
        m->active = m->listed && m->tokens > 0;
        n_listed += m->active;
        if (!m->active) continue;
        tokens += m->tokens;
        cost += m->tokens * cost_of(g, m);
    }
    tokens /= n_listed;
    cost /= n_listed;
    const double longest = LONGEST_STEP * smoothing_ns(g);
    const double elapsed = (double)elapsed_ns < longest ? (double)elapsed_ns : longest;
    const double age = since(now_ns, g->report_ns);
    const double faded = (age > elapsed ? age : elapsed) / smoothing_ns(g);
    const double fade = exp(-faded), fade_recent = exp(-faded * RECENT);
    g->time_ns = g->time_ns * fade + elapsed;
    g->tokens = g->tokens * fade + tokens;
    g->cost_run = g->cost_run * fade + cost;
    g->recent_ns = g->recent_ns * fade_recent + elapsed;
    g->recent_cost = g->recent_cost * fade_recent + cost;
    g->report_ns = now_ns;
    g->n_step += g->n_step < MIN_STEPS;
    g->step_ns += elapsed;
    mfi_governor_recount(g);
    watch(g, elapsed, tokens);
}

/* ---- Memory ---- */

void mfi_governor_look(mf_governor *g)
{
    g->resident = 0;
    for (uint32_t r = 0; r < g->n_rung; r++)
        if (g->rung[r]->n_shell <= mfi_shells_resident(&g->model->residency)) g->resident = r;
}

static void changed(mf_governor *g, uint64_t now_ns, bool widened)
{
    g->change_ns = now_ns;
    g->widened = widened;
    g->n_step = 0;
    g->step_ns = 0;
    g->watch.rung = MFI_NO_RUNG;
    *(widened ? &g->n_widened : &g->n_narrowed) += 1;
}

/* Members keep the rungs that they have, where they may. */
static void set_cap(mf_governor *g, uint32_t cap, uint64_t now_ns)
{
    bool narrowed = false;
    for (uint32_t i = 0; i < g->options.max_members; i++) {
        mfi_governor_member *m = &g->member[i];
        if (!is_member(m)) continue;
        const uint32_t rung = rung_of(g, m), top = top_under(cap, m);
        narrowed = narrowed || top < rung;
        m->given = top > rung ? top - rung : 0;
    }
    g->cap = cap;
    g->cap_ns = now_ns;
    g->watch.rung = MFI_NO_RUNG;
    mfi_governor_recount(g);
    mfi_governor_balance(g);
    if (narrowed) changed(g, now_ns, false);
}

uint32_t mfi_governor_highest_floor(const mf_governor *g)
{
    uint32_t floor = 0;
    for (uint32_t i = 0; i < g->options.max_members; i++)
        if (is_member(&g->member[i]) && g->member[i].narrowest > floor) floor = g->member[i].narrowest;
    return floor;
}

/* The widest rung without which enough would be free, counted from what is resident, so that a host that has not trimmed
 * yet is not told to trim more. No member's floor is above it. */
static uint32_t fitting_rung(const mf_governor *g)
{
    const uint64_t missing = g->options.least_free_bytes - g->signals.free_bytes;
    const uint32_t floor = mfi_governor_highest_floor(g);
    uint32_t rung = g->resident < g->cap ? g->resident : g->cap;
    while (rung > floor && g->rung_bytes[g->resident] - g->rung_bytes[rung] < missing)
        rung--;
    return rung > floor ? rung : floor;
}

void mfi_governor_fit_memory(mf_governor *g, uint64_t now_ns)
{
    if (g->options.least_free_bytes == 0 || g->signals.free_bytes == 0) return;
    if (g->signals.free_bytes < g->options.least_free_bytes) {
        const uint32_t rung = fitting_rung(g);
        if (rung < g->cap) set_cap(g, rung, now_ns);
        return;
    }
    if (g->cap == g->fixed_cap || since(now_ns, g->cap_ns) < g->options.dwell_ms * NS_PER_MS) return;
    const uint64_t wider = g->rung_bytes[g->cap + 1], here = g->rung_bytes[g->resident];
    const double more = wider > here ? (double)(wider - here) * MEMORY_HYSTERESIS : 0;
    if ((double)(g->signals.free_bytes - g->options.least_free_bytes) >= more) set_cap(g, g->cap + 1, now_ns);
}

/* ---- Decisions ---- */

static double clamp_share(double share)
{
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

/* Rungs to be given up for heat and queue. They come at once and go slowly, so that a queue that swings does not make
 * the widths swing. */
static uint32_t demanded(mf_governor *g, uint64_t now_ns)
{
    const double hot = clamp_share((g->signals.heat - FIRST_HEAT) / (1 - FIRST_HEAT));
    const double queue =
        g->options.queue_full > 0 ? clamp_share((double)g->signals.n_queued / g->options.queue_full) : 0;
    g->demand *= exp(-since(now_ns, g->demand_ns) / (g->options.dwell_ms * NS_PER_MS));
    g->demand_ns = now_ns;
    if (g->demand < hot) g->demand = hot;
    if (g->demand < queue) g->demand = queue;
    return (uint32_t)(g->demand * g->n_range + 0.5);
}

static bool holds_speed(const mf_governor *g)
{
    return g->target_ns > 0 && g->n_active > 0 && g->cost_run > 0;
}

/* What a move should lead to, and what makes one necessary: a little above the target already, so that noise around it
 * is not below it half of the time. */
static double aim_ns(const mf_governor *g)
{
    return g->target_ns / (1 + g->options.margin);
}

static double limit_ns(const mf_governor *g)
{
    return g->target_ns / (1 + g->options.margin * GUARD);
}

/* A widening that did not hold. */
static void note_failure(mf_governor *g, uint64_t now_ns)
{
    if (!g->widened || since(now_ns, g->change_ns) >= g->dwell_ns) return;
    const double longest = g->options.dwell_ms * NS_PER_MS * LONGEST_DWELL;
    g->dwell_ns = g->dwell_ns * BACKOFF < longest ? g->dwell_ns * BACKOFF : longest;
    g->failed_load = g->widen_load;
}

static bool narrow(mf_governor *g, uint32_t demand, uint64_t now_ns)
{
    const uint32_t before = g->n_given;
    while (g->n_given < demand && narrow_one(g)) {
    }
    if (holds_speed(g) && is_evidence(g, g->n_step, g->step_ns) && expected_ns(g, mfi_governor_load(g)) > limit_ns(g)) {
        learn(g);
        note_failure(g, now_ns);
        while (expected_ns(g, mfi_governor_load(g)) > aim_ns(g) && narrow_one(g)) {
        }
    }
    if (g->n_given == before) return false;
    changed(g, now_ns, false);
    return true;
}

/* At most as many rungs as members are active, and all to one rung, so that it can be learned what that costs; while the
 * expected speed keeps its margin under either load. */
static uint32_t widen_within(mf_governor *g, uint32_t demand)
{
    const double smoothed = mfi_governor_load(g), recent = recent_load(g), load = smoothed > recent ? smoothed : recent;
    const uint32_t most = g->n_active > 0 ? g->n_active : 1;
    uint32_t n = 0, rung = MFI_NO_RUNG;
    for (; n < most && g->n_given > demand; n++) {
        double key = 0;
        mfi_governor_member *m = last_narrowed(g, &key);
        if (m == NULL || (rung != MFI_NO_RUNG && rung_of(g, m) + 1 != rung)) break;
        move(g, m, false);
        rung = rung_of(g, m);
        if (holds_speed(g) && expected_ns(g, load) > aim_ns(g)) {
            move(g, m, true);
            break;
        }
    }
    return n;
}

/* The rung that all active members that moved are on, and how many moved; each moved by one rung, or it is MFI_NO_RUNG. */
static uint32_t rung_moved_to(const mf_governor *g, uint32_t *n_moved)
{
    uint32_t common = MFI_NO_RUNG;
    *n_moved = 0;
    for (uint32_t i = 0; i < g->options.max_members; i++) {
        const mfi_governor_member *m = &g->member[i];
        if (!is_member(m) || !m->active) continue;
        const uint32_t rung = rung_of(g, m), before = atomic_load_explicit(&m->rung, memory_order_relaxed);
        if (rung == before) continue;
        if (rung != before + 1 || rung > g->resident || (common != MFI_NO_RUNG && common != rung)) return MFI_NO_RUNG;
        common = rung;
        *n_moved += 1;
    }
    return common;
}

/* After a widening, before it is published. `expected` is what a token took before. */
static void begin_watch(mf_governor *g, double expected)
{
    uint32_t n_moved;
    const uint32_t rung = rung_moved_to(g, &n_moved);
    if (rung == MFI_NO_RUNG || fabs(recent_load(g) - mfi_governor_load(g)) > CALM * mfi_governor_load(g)) return;
    mfi_governor_watch w = { .rung = rung, .base_ns = expected, .share = (double)n_moved / g->n_active };
    w.before = w.after = costs_around(g, rung);
    w.before.below += n_moved * g->cost[rung - 1];
    w.before.above -= n_moved * g->cost[rung];
    g->watch = w;
}

static void widen(mf_governor *g, uint32_t demand, uint64_t now_ns)
{
    const double dwell_ns = g->options.dwell_ms * NS_PER_MS, load = mfi_governor_load(g);
    if (load < LOWER_LOAD * g->failed_load) g->dwell_ns = dwell_ns;
    if (g->n_given <= demand || since(now_ns, g->change_ns) < g->dwell_ns) return;
    if (g->target_ns > 0 && !is_evidence(g, g->n_step, g->step_ns)) return;
    const double expected = g->n_active > 0 ? expected_ns(g, load) : 0;
    const bool held = g->widened;
    if (widen_within(g, demand) == 0) return;
    changed(g, now_ns, true);
    g->widen_load = load;
    if (held && g->dwell_ns > dwell_ns) g->dwell_ns = g->dwell_ns / 2 > dwell_ns ? g->dwell_ns / 2 : dwell_ns;
    if (expected > 0) begin_watch(g, expected);
}

static void follow_policy(mf_governor *g, uint64_t now_ns)
{
    mf_governor_info info = MF_GOVERNOR_INFO_INIT;
    (void)mf_governor_info_get(g, &info);
    info.now_ns = now_ns;
    const double share = g->options.policy(g->options.policy_user, g, &info);
    if (isnan(share)) return;
    const uint32_t wanted = (uint32_t)(clamp_share(share) * g->n_range + 0.5), before = g->n_given;
    while (g->n_given < wanted && narrow_one(g)) {
    }
    while (g->n_given > wanted && widen_one(g)) {
    }
    if (g->n_given != before) changed(g, now_ns, g->n_given < before);
}

void mfi_governor_decide(mf_governor *g, uint64_t now_ns)
{
    mfi_governor_recount(g);
    if (g->options.policy != NULL) {
        follow_policy(g, now_ns);
    } else {
        const uint32_t demand = demanded(g, now_ns);
        if (!narrow(g, demand, now_ns)) widen(g, demand, now_ns);
    }
    mfi_governor_publish(g);
}
