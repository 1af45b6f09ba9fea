/* test_governor.c - what the governor decides, against simulated machines whose clock is part of them. */
#define _POSIX_C_SOURCE 200809L /* posix_memalign */
#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "counting_allocator.h"
#include "run_model.h"

enum { RUNGS = 4, MEMBERS = 8 };
static const char *const names[RUNGS] = { "0.125", "0.25", "0.5", "1.0" };

/* ---- A simulated machine ---- */

typedef struct machine {
    uint64_t now_ns;
    double rung_ms[RUNGS]; /* of a step in which every member runs this rung, unloaded */
    double load, noise;    /* noise: largest relative deviation of a step */
    rng r;
} machine;

static uint64_t machine_now(void *user)
{
    return ((machine *)user)->now_ns;
}

typedef struct stage {
    random_model random;
    model_file file;
    mf_model *model;
    mf_submodel *views[RUNGS];
    machine machine;
    mf_governor *governor;
    uint32_t members[MEMBERS];
    size_t n_member;
} stage;

static stage open_stage(void)
{
    stage s = { .machine = { .now_ns = 1000, .rung_ms = { 2, 3, 5, 9 }, .load = 1, .r = { 5 } } };
    random_shape shape = {
        "nested", 2, 32, 32, 2, 1, 256, 40, 64, RUNGS, MFI_NORM_RMS, MFI_FFN_GATED, MFK_SILU, true, 0
    };
    cr_assert(random_model_init_shape(&s.random, &shape, 3) == MF_OK);
    s.file = make_random_file(&s.random, MFK_F32, MFI_RAW, false);
    s.model = open_file(&s.file, NULL);
    for (size_t i = 0; i < RUNGS; i++)
        s.views[i] = take_named(s.model, names[i]);
    return s;
}

static void close_stage(stage *s)
{
    mf_governor_close(s->governor);
    for (size_t i = 0; i < RUNGS; i++)
        mf_submodel_close(s->views[i]);
    mf_model_close(s->model);
    drop_file(&s->file);
    random_model_free(&s->random);
}

static mf_governor_options stage_options(stage *s)
{
    mf_governor_options options = MF_GOVERNOR_OPTIONS_INIT;
    options.rungs = (const mf_submodel *const *)s->views;
    options.n_rung = RUNGS;
    options.now_ns = machine_now;
    options.clock_user = &s->machine;
    return options;
}

static void create(stage *s, const mf_governor_options *options)
{
    mf_error error = MF_ERROR_INIT;
    cr_assert(mf_governor_create(&s->governor, options, &error) == MF_OK, "%s", error.detail);
}

static uint32_t join(stage *s, const mf_governor_member *options)
{
    mf_error error = MF_ERROR_INIT;
    uint32_t member = 99;
    cr_assert(mf_governor_join(s->governor, options, &member, &error) == MF_OK, "%s", error.detail);
    s->members[s->n_member++] = member;
    return member;
}

static uint32_t rung_of(const stage *s, uint32_t member)
{
    const mf_submodel *view;
    cr_assert(mf_governor_choose(s->governor, member, &view) == MF_OK);
    for (uint32_t i = 0; i < RUNGS; i++)
        if (s->views[i] == view) return i;
    cr_assert_fail("a view that is not of the ladder");
    return RUNGS;
}

static mf_governor_info info_of(const stage *s)
{
    mf_governor_info info = MF_GOVERNOR_INFO_INIT;
    cr_assert(mf_governor_info_get(s->governor, &info) == MF_OK);
    return info;
}

static double uniform(rng *r, double from, double to)
{
    return from + (to - from) * (double)rng_below(r, 1 << 20) / (1 << 20);
}

static void report(stage *s, double ms)
{
    mf_governor_step step = MF_GOVERNOR_STEP_INIT;
    step.elapsed_ns = (uint64_t)(ms * 1e6);
    step.members = s->members;
    step.n_member = s->n_member;
    s->machine.now_ns += step.elapsed_ns;
    cr_assert(mf_governor_report(s->governor, &step) == MF_OK);
}

/* One step of all members; its milliseconds. */
static double run_step(stage *s)
{
    machine *m = &s->machine;
    double ms = 0;
    for (size_t i = 0; i < s->n_member; i++)
        ms += m->rung_ms[rung_of(s, s->members[i])] / (double)s->n_member;
    ms *= m->load * uniform(&m->r, 1 - m->noise, 1 + m->noise);
    report(s, ms);
    return ms;
}

static void run_seconds(stage *s, double seconds)
{
    const uint64_t end = s->machine.now_ns + (uint64_t)(seconds * 1e9);
    while (s->machine.now_ns < end)
        run_step(s);
}

typedef struct trial {
    double held; /* share of windows of 250 ms whose speed reached the target */
    uint64_t changes;
} trial;

static trial run_phase(stage *s, double load, double settle_seconds, double seconds)
{
    enum { WINDOW_MS = 250 };
    const double target_ms = info_of(s).target_ns / 1e6;
    s->machine.load = load;
    const uint64_t before = info_of(s).n_narrowed + info_of(s).n_widened;
    run_seconds(s, settle_seconds);
    double windows = 0, good = 0, ms = 0, steps = 0;
    const uint64_t end = s->machine.now_ns + (uint64_t)(seconds * 1e9);
    while (s->machine.now_ns < end) {
        ms += run_step(s);
        steps++;
        if (ms < WINDOW_MS) continue;
        windows++;
        good += ms / steps <= target_ms;
        ms = steps = 0;
    }
    return (trial){ good / windows, info_of(s).n_narrowed + info_of(s).n_widened - before };
}

/* ---- Speed ---- */

Test(governor, holds_its_target_through_steps_of_load_without_swinging)
{
    static const struct {
        double load;
        uint32_t rung; /* where 8 ms a token lead: 2, 3, 5, 9 ms times the load */
    } phases[] = { { 0.7, 3 }, { 1.4, 2 }, { 2.4, 1 }, { 3.6, 0 }, { 1.4, 2 }, { 0.7, 3 }, { 3.6, 0 }, { 0.7, 3 } };
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    options.tokens_per_second = 125;
    s.machine.noise = 0.08;
    create(&s, &options);
    join(&s, NULL);
    for (size_t i = 0; i < sizeof phases / sizeof *phases; i++) {
        const trial t = run_phase(&s, phases[i].load, i > 0 && phases[i - 1].load < phases[i].load ? 0.5 : 6, 20);
        cr_assert(t.held >= 0.95, "phase %zu: held %.3f", i, t.held);
        cr_assert(t.changes <= RUNGS + 1, "phase %zu: %u changes", i, (unsigned)t.changes);
        cr_assert(rung_of(&s, 0) == phases[i].rung, "phase %zu: rung %u", i, rung_of(&s, 0));
    }
    close_stage(&s);
}

Test(governor, narrows_at_once_and_widens_only_after_its_dwell)
{
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    options.ms_per_token = 10;
    options.dwell_ms = 2000;
    create(&s, &options);
    join(&s, NULL);
    run_seconds(&s, 5);
    cr_assert(rung_of(&s, 0) == 3);
    s.machine.load = 3; /* 6, 9, 15, 27 ms */
    run_seconds(&s, 0.4);
    cr_assert(rung_of(&s, 0) == 1, "rung %u after 0.4 s", rung_of(&s, 0));
    s.machine.load = 0.5;
    const uint64_t begin = s.machine.now_ns;
    while (rung_of(&s, 0) == 1)
        run_step(&s);
    const double waited = (double)(s.machine.now_ns - begin) / 1e9;
    cr_assert(waited > 1 && waited < 2.5, "widened after %.2f s", waited);
    cr_assert(rung_of(&s, 0) == 2);
    run_seconds(&s, 3);
    cr_assert(rung_of(&s, 0) == 3);
    close_stage(&s);
}

/* Between the speeds of two rungs there is no width that holds the target and its margin: it stays on the narrower. */
Test(governor, does_not_swing_between_two_rungs)
{
    for (double load = 1; load < 1.9; load += 0.01) {
        stage s = open_stage();
        mf_governor_options options = stage_options(&s);
        options.ms_per_token = 9;
        create(&s, &options);
        join(&s, NULL);
        s.machine.noise = 0.03;
        const trial t = run_phase(&s, load, 2, 60);
        cr_assert(t.changes <= 4, "load %.2f: %u changes", load, (unsigned)t.changes);
        cr_assert(t.held >= 0.95, "load %.2f: held %.3f", load, t.held);
        close_stage(&s);
    }
}

/* Costs that the bytes of the rungs do not suggest, and more members than one. */
Test(governor, holds_what_can_be_held_whatever_the_costs_are)
{
    rng r = { 77 };
    for (uint32_t round = 0; round < test_rounds(40); round++) {
        stage s = open_stage();
        mf_governor_options options = stage_options(&s);
        options.max_members = MEMBERS;
        s.machine.noise = uniform(&r, 0, 0.06);
        double ms = uniform(&r, 0.5, 20);
        for (uint32_t i = 0; i < RUNGS; i++) {
            s.machine.rung_ms[i] = ms;
            ms *= uniform(&r, 1, 3);
        }
        options.ms_per_token = s.machine.rung_ms[0] * uniform(&r, 1.2, 12);
        create(&s, &options);
        for (uint32_t i = rng_between(&r, 1, MEMBERS); i > 0; i--)
            join(&s, NULL);
        for (uint32_t phase = 0; phase < 4; phase++) {
            const double load = uniform(&r, 0.3, options.ms_per_token / s.machine.rung_ms[0] * 0.9);
            const trial t = run_phase(&s, load, 4, 60);
            cr_assert(t.held >= 0.95, "round %u, phase %u: held %.3f", round, phase, t.held);
            cr_assert(t.changes <= 24 + 4 * s.n_member, "round %u, phase %u: %u changes", round, phase,
                      (unsigned)t.changes);
        }
        close_stage(&s);
    }
}

Test(governor, knows_what_a_rung_would_cost_from_what_it_saw)
{
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    options.queue_full = 1;
    create(&s, &options);
    join(&s, NULL);
    cr_assert(mf_governor_predict(s.governor, 0) == 0); /* nothing was seen */
    mf_governor_signals signals = MF_GOVERNOR_SIGNALS_INIT;
    signals.n_queued = 1;
    mf_governor_signal(s.governor, &signals);
    run_seconds(&s, 2);
    signals.n_queued = 0;
    mf_governor_signal(s.governor, &signals);
    run_seconds(&s, 10); /* up again, rung by rung, each of which is watched */
    cr_assert(rung_of(&s, 0) == 3);
    for (uint32_t i = 0; i < RUNGS; i++) {
        const double predicted = mf_governor_predict(s.governor, i) / 1e6;
        cr_assert(fabs(predicted / s.machine.rung_ms[i] - 1) < 0.1, "rung %u: %.2f ms, not %.2f", i, predicted,
                  s.machine.rung_ms[i]);
    }
    cr_assert(mf_governor_predict(s.governor, RUNGS) == 0);
    close_stage(&s);
}

/* ---- Members ---- */

Test(governor, narrows_light_members_first_and_keeps_floors_and_ceilings)
{
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    options.queue_full = 100;
    options.dwell_ms = 10;
    create(&s, &options);
    mf_governor_member heavy = MF_GOVERNOR_MEMBER_INIT, floored = MF_GOVERNOR_MEMBER_INIT,
                       capped = MF_GOVERNOR_MEMBER_INIT;
    heavy.weight = 3.5;
    floored.narrowest = s.views[2];
    capped.widest = s.views[1];
    capped.weight = 2;
    const uint32_t light = join(&s, NULL);
    join(&s, &heavy);
    join(&s, &floored);
    join(&s, &capped);
    /* Keys of the rungs given up: light 1 2 3; heavy 3.5 7 10.5; floored 1; capped 2. */
    static const uint32_t expected[][4] = { { 3, 3, 3, 1 }, { 2, 3, 3, 1 }, { 2, 3, 2, 1 },
                                            { 1, 3, 2, 1 }, { 1, 3, 2, 0 }, { 0, 3, 2, 0 },
                                            { 0, 2, 2, 0 }, { 0, 1, 2, 0 }, { 0, 0, 2, 0 } };
    cr_assert(light == 0);
    mf_governor_signals signals = MF_GOVERNOR_SIGNALS_INIT;
    for (int down = 1; down >= 0; down--)
        for (uint32_t i = 0; i < 9; i++) {
            const uint32_t given = down ? i : 8 - i;
            signals.n_queued = (given * 100 + 7) / 8;
            for (uint32_t step = 0; step < 20; step++, s.machine.now_ns += 20000000)
                cr_assert(mf_governor_signal(s.governor, &signals) == MF_OK);
            for (uint32_t m = 0; m < 4; m++)
                cr_assert(rung_of(&s, m) == expected[given][m], "%u given up: member %u has %u", given, m,
                          rung_of(&s, m));
        }
    close_stage(&s);
}

Test(governor, members_come_narrowed_and_go)
{
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    options.ms_per_token = 1; /* which cannot be held */
    options.max_members = 2;
    create(&s, &options);
    mf_error error = MF_ERROR_INIT;
    const mf_submodel *view;
    uint32_t member;
    join(&s, NULL);
    run_seconds(&s, 1);
    cr_assert(rung_of(&s, 0) == 0 && info_of(&s).narrowing == 1);
    cr_assert(join(&s, NULL) == 1 && rung_of(&s, 1) == 0);
    cr_assert(mf_governor_join(s.governor, NULL, &member, &error) == MF_E_FULL && error.detail[0]);
    cr_assert(info_of(&s).n_member == 2);
    cr_assert(mf_governor_leave(s.governor, 0) == MF_OK && mf_governor_leave(s.governor, 0) == MF_E_RANGE);
    cr_assert(mf_governor_choose(s.governor, 0, &view) == MF_E_RANGE && view == NULL);
    mf_governor_member pinned = MF_GOVERNOR_MEMBER_INIT;
    pinned.narrowest = pinned.widest = s.views[2];
    cr_assert(mf_governor_join(s.governor, &pinned, &member, &error) == MF_OK && member == 0);
    run_seconds(&s, 1);
    cr_assert(rung_of(&s, 0) == 2 && rung_of(&s, 1) == 0);
    pinned.narrowest = s.views[3];
    mf_governor_leave(s.governor, 1);
    cr_assert(mf_governor_join(s.governor, &pinned, &member, &error) == MF_E_INVALID && error.detail[0]);
    close_stage(&s);
}

/* ---- Signals ---- */

Test(governor, heat_and_a_queue_narrow_at_once_and_fade)
{
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    options.queue_full = 10;
    create(&s, &options);
    join(&s, NULL);
    mf_governor_signals hot = MF_GOVERNOR_SIGNALS_INIT, calm = MF_GOVERNOR_SIGNALS_INIT,
                        queue = MF_GOVERNOR_SIGNALS_INIT;
    hot.heat = 1.3;
    queue.n_queued = 10;
    for (int i = 0; i < 2; i++) {
        cr_assert(mf_governor_signal(s.governor, i ? &queue : &hot) == MF_OK);
        cr_assert(rung_of(&s, 0) == 0);
        mf_governor_signal(s.governor, &calm);
        cr_assert(rung_of(&s, 0) == 0);
        for (int step = 0; step < 100; step++, s.machine.now_ns += 100000000)
            mf_governor_signal(s.governor, &calm);
        cr_assert(rung_of(&s, 0) == 3);
    }
    /* A queue that swings every 100 ms changes the width once. */
    const uint64_t before = info_of(&s).n_narrowed + info_of(&s).n_widened;
    for (int step = 0; step < 300; step++, s.machine.now_ns += 100000000)
        mf_governor_signal(s.governor, step % 2 ? &queue : &calm);
    cr_assert(info_of(&s).n_narrowed + info_of(&s).n_widened == before + 1);
    close_stage(&s);
}

static uint64_t view_bytes(const mf_submodel *view)
{
    mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
    mf_submodel_info_get(view, &info);
    return info.bytes_per_token;
}

Test(governor, a_ceiling_of_weights_holds_from_the_beginning)
{
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    options.weight_bytes = view_bytes(s.views[2]) + 1;
    create(&s, &options);
    join(&s, NULL);
    cr_assert(rung_of(&s, 0) == 2);
    mf_governor_info info = info_of(&s);
    cr_assert(info.widest_rung == 2 && info.n_shell == 3);
    cr_assert(strcmp(info.granularity, mf_model_granularity(s.model, 2)) == 0);
    run_seconds(&s, 5);
    cr_assert(rung_of(&s, 0) == 2);
    close_stage(&s);
}

Test(governor, little_free_memory_takes_wide_rungs_away_and_much_gives_them_back)
{
    enum { LEAST = 1 << 30 };
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    options.least_free_bytes = LEAST;
    create(&s, &options);
    mf_governor_member floored = MF_GOVERNOR_MEMBER_INIT;
    floored.narrowest = s.views[1];
    join(&s, NULL);
    mf_governor_signals signals = MF_GOVERNOR_SIGNALS_INIT;
    signals.free_bytes = LEAST - (view_bytes(s.views[3]) - view_bytes(s.views[2]));
    for (int i = 0; i < 5; i++) { /* nobody has trimmed yet: that is no reason to give up more */
        mf_governor_signal(s.governor, &signals);
        s.machine.now_ns += 3000000000;
        cr_assert(rung_of(&s, 0) == 2 && info_of(&s).widest_rung == 2);
    }
    signals.free_bytes--;
    mf_governor_signal(s.governor, &signals);
    cr_assert(rung_of(&s, 0) == 1);
    join(&s, &floored);
    signals.free_bytes = 1;
    mf_governor_signal(s.governor, &signals);
    cr_assert(rung_of(&s, 0) == 1 && rung_of(&s, 1) == 1 && info_of(&s).n_shell == 2); /* the floor of the second */
    signals.free_bytes = LEAST * 2ULL;
    for (int i = 0; i < 5; i++) {
        mf_governor_signal(s.governor, &signals);
        s.machine.now_ns += 1100000000;
    }
    cr_assert(rung_of(&s, 0) == 3 && rung_of(&s, 1) == 3 && info_of(&s).widest_rung == 3);
    close_stage(&s);
}

Test(governor, what_is_not_resident_is_narrowed_or_said)
{
    stage s = open_stage();
    mf_model_options narrow = test_options(NULL);
    narrow.widest = mf_model_granularity(s.model, 1);
    mf_model *model = NULL;
    mf_submodel *views[RUNGS];
    const mf_submodel *view;
    cr_assert(mf_model_open_memory(&model, s.file.data, s.file.bytes, &narrow, NULL) == MF_OK);
    for (size_t i = 0; i < RUNGS; i++)
        views[i] = take_named(model, names[i]);
    mf_governor_options options = stage_options(&s);
    options.rungs = (const mf_submodel *const *)views;
    for (int status = 0; status < 2; status++) {
        uint32_t member;
        options.when_missing = status ? MF_MISSING_STATUS : MF_MISSING_NARROW;
        create(&s, &options);
        cr_assert(mf_governor_join(s.governor, NULL, &member, NULL) == MF_OK);
        if (status)
            cr_assert(mf_governor_choose(s.governor, member, &view) == MF_E_NOT_RESIDENT && view == NULL);
        else
            cr_assert(mf_governor_choose(s.governor, member, &view) == MF_OK && view == views[1]);
        mf_governor_close(s.governor);
    }
    s.governor = NULL;
    for (size_t i = 0; i < RUNGS; i++)
        mf_submodel_close(views[i]);
    mf_model_close(model);
    close_stage(&s);
}

/* ---- A policy ---- */

typedef struct fixed_policy {
    double share;
    uint32_t n_call;
    double predicted;
} fixed_policy;

static double follow(void *user, const mf_governor *governor, const mf_governor_info *info)
{
    fixed_policy *p = user;
    p->n_call++;
    p->predicted = mf_governor_predict(governor, info->n_rung - 1);
    return p->share;
}

Test(governor, a_policy_decides_instead)
{
    stage s = open_stage();
    fixed_policy policy = { .share = 0 };
    mf_governor_options options = stage_options(&s);
    options.ms_per_token = 1; /* is the policy's business */
    options.policy = follow;
    options.policy_user = &policy;
    create(&s, &options);
    join(&s, NULL);
    static const struct {
        double share;
        uint32_t rung;
    } answers[] = { { 0, 3 }, { 0.34, 2 }, { 1, 0 }, { NAN, 0 }, { 0.6, 1 }, { -5, 3 }, { INFINITY, 0 } };
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        policy.share = answers[i].share;
        run_step(&s);
        cr_assert(policy.n_call == i + 1 && policy.predicted > 0);
        cr_assert(rung_of(&s, 0) == answers[i].rung, "answer %zu: rung %u", i, rung_of(&s, 0));
    }
    close_stage(&s);
}

/* ---- Hostile ---- */

Test(governor, reports_that_cannot_be_are_refused_or_tell_nothing)
{
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    options.ms_per_token = 20;
    create(&s, &options);
    join(&s, NULL);
    join(&s, NULL);
    run_seconds(&s, 2);
    const mf_governor_info before = info_of(&s);
    const uint32_t none[2] = { 0, 0 }, twice[2] = { 0, 0 }, unknown[2] = { 0, 63 }, beyond[1] = { UINT32_MAX };
    mf_governor_step step = MF_GOVERNOR_STEP_INIT;
    cr_assert(mf_governor_report(s.governor, &step) == MF_OK); /* nobody, no time */
    step = (mf_governor_step){ sizeof step, 0, s.members, NULL, 2 };
    cr_assert(mf_governor_report(s.governor, &step) == MF_OK); /* no time */
    step = (mf_governor_step){ sizeof step, UINT64_MAX, s.members, none, 2 };
    cr_assert(mf_governor_report(s.governor, &step) == MF_OK); /* no tokens */
    step = (mf_governor_step){ sizeof step, 1000, twice, NULL, 2 };
    cr_assert(mf_governor_report(s.governor, &step) == MF_E_INVALID);
    step = (mf_governor_step){ sizeof step, 1000, unknown, NULL, 2 };
    cr_assert(mf_governor_report(s.governor, &step) == MF_E_RANGE);
    step = (mf_governor_step){ sizeof step, 1000, beyond, NULL, 1 };
    cr_assert(mf_governor_report(s.governor, &step) == MF_E_RANGE);
    step = (mf_governor_step){ sizeof step, 1000, NULL, NULL, 1 };
    cr_assert(mf_governor_report(s.governor, &step) == MF_E_INVALID);
    mf_governor_signals signals = MF_GOVERNOR_SIGNALS_INIT;
    signals.heat = NAN;
    cr_assert(mf_governor_signal(s.governor, &signals) == MF_E_INVALID);
    signals.heat = -0.1;
    cr_assert(mf_governor_signal(s.governor, &signals) == MF_E_INVALID);
    const mf_governor_info after = info_of(&s);
    cr_assert(memcmp(&before, &after, sizeof before) == 0);

    /* A step that took half an eternity, by the count or by the clock, is forgotten soon; so is one that took nothing. */
    const uint32_t many[2] = { UINT32_MAX, UINT32_MAX };
    step = (mf_governor_step){ sizeof step, UINT64_MAX, s.members, NULL, 2 };
    cr_assert(mf_governor_report(s.governor, &step) == MF_OK);
    cr_assert(isfinite(info_of(&s).ns_per_token) && rung_of(&s, 0) == 0);
    run_seconds(&s, 6);
    cr_assert(rung_of(&s, 0) == 3 && rung_of(&s, 1) == 3);
    step = (mf_governor_step){ sizeof step, 1, s.members, many, 2 };
    cr_assert(mf_governor_report(s.governor, &step) == MF_OK && info_of(&s).ns_per_token > 0);
    s.machine.load = 4.4; /* 8.8, 13.2, 22, 39.6 ms */
    run_seconds(&s, 12);
    cr_assert(info_of(&s).ns_per_token <= 20e6, "%.3g ns", info_of(&s).ns_per_token);
    s.machine.now_ns = 0; /* a clock that goes back */
    run_seconds(&s, 1);
    s.machine.now_ns = UINT64_MAX / 2;
    run_seconds(&s, 1);
    cr_assert(isfinite(info_of(&s).ns_per_token));
    close_stage(&s);
}

Test(governor, options_out_of_range_are_refused_with_a_reason)
{
    stage s = open_stage();
    const mf_governor_options good = stage_options(&s);
    mf_governor_options bad[16];
    size_t n = 0;
    mf_submodel *reversed[2] = { s.views[1], s.views[0] }, *with_null[2] = { s.views[0], NULL };
    mf_model *other = open_file(&s.file, NULL);
    mf_submodel *foreign = take_named(other, names[3]), *of_two[2] = { s.views[0], foreign };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        bad[i] = good;
    bad[n++].n_rung = 0;
    bad[n++].n_rung = 65;
    bad[n++].rungs = NULL;
    bad[n].rungs = (const mf_submodel *const *)reversed, bad[n++].n_rung = 2;
    bad[n].rungs = (const mf_submodel *const *)with_null, bad[n++].n_rung = 2;
    bad[n].rungs = (const mf_submodel *const *)of_two, bad[n++].n_rung = 2;
    bad[n++].tokens_per_second = NAN;
    bad[n++].tokens_per_second = -1;
    bad[n++].ms_per_token = INFINITY;
    bad[n].tokens_per_second = 10, bad[n++].ms_per_token = 10;
    bad[n++].margin = -0.1;
    bad[n++].weight_bytes = 1;
    bad[n++].dwell_ms = UINT32_MAX;
    bad[n++].max_members = 257;
    bad[n++].when_missing = (mf_when_missing)7;
    for (size_t i = 0; i < n; i++) {
        mf_error error = MF_ERROR_INIT;
        mf_governor *governor = (mf_governor *)&error;
        cr_assert(mf_governor_create(&governor, &bad[i], &error) == MF_E_INVALID, "%zu", i);
        cr_assert(governor == NULL && error.detail[0], "%zu", i);
    }
    bad[n].struct_size = 8;
    cr_assert(mf_governor_create(&s.governor, &bad[n], NULL) == MF_E_STRUCT_SIZE);
    cr_assert(mf_governor_create(&s.governor, NULL, NULL) == MF_E_INVALID);
    mf_submodel_close(foreign);
    mf_model_close(other);
    close_stage(&s);
}

Test(governor, null_is_refused)
{
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    create(&s, &options);
    const mf_submodel *view = s.views[0];
    mf_governor_info info = MF_GOVERNOR_INFO_INIT;
    mf_governor_step step = MF_GOVERNOR_STEP_INIT;
    mf_governor_signals signals = MF_GOVERNOR_SIGNALS_INIT;
    uint32_t member;
    cr_assert(mf_governor_create(NULL, &options, NULL) == MF_E_INVALID);
    cr_assert(mf_governor_join(NULL, NULL, &member, NULL) == MF_E_INVALID);
    cr_assert(mf_governor_join(s.governor, NULL, NULL, NULL) == MF_E_INVALID);
    cr_assert(mf_governor_leave(NULL, 0) == MF_E_INVALID);
    cr_assert(mf_governor_choose(NULL, 0, &view) == MF_E_INVALID && view == NULL);
    cr_assert(mf_governor_choose(s.governor, 0, NULL) == MF_E_INVALID);
    cr_assert(mf_governor_report(NULL, &step) == MF_E_INVALID);
    cr_assert(mf_governor_report(s.governor, NULL) == MF_E_INVALID);
    cr_assert(mf_governor_signal(NULL, &signals) == MF_E_INVALID);
    cr_assert(mf_governor_signal(s.governor, NULL) == MF_E_INVALID);
    cr_assert(mf_governor_info_get(NULL, &info) == MF_E_INVALID);
    cr_assert(mf_governor_info_get(s.governor, NULL) == MF_E_INVALID);
    cr_assert(mf_governor_predict(NULL, 0) == 0);
    mf_governor_close(NULL);
    close_stage(&s);
}

/* ---- Memory of its own ---- */

Test(governor, allocates_when_created_and_never_again)
{
    stage s = open_stage();
    counting c = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    mf_model_options model_options = test_options(NULL);
    model_options.allocator = counting_allocator(&c);
    mf_model *model = NULL;
    cr_assert(mf_model_open_memory(&model, s.file.data, s.file.bytes, &model_options, NULL) == MF_OK);
    mf_submodel *views[RUNGS];
    for (size_t i = 0; i < RUNGS; i++)
        views[i] = take_named(model, names[i]);
    mf_governor_options options = stage_options(&s);
    options.rungs = (const mf_submodel *const *)views;
    options.ms_per_token = 6;
    c.fail_at = c.n_alloc + 1;
    mf_error error = MF_ERROR_INIT;
    cr_assert(mf_governor_create(&s.governor, &options, &error) == MF_E_NOMEM && error.detail[0]);
    cr_assert(s.governor == NULL);
    create(&s, &options);
    const size_t n_alloc = c.n_alloc;
    for (int i = 0; i < 200; i++) {
        if (i % 50 == 0) join(&s, NULL);
        report(&s, 4 + i % 7);
        (void)info_of(&s);
    }
    cr_assert(c.n_alloc == n_alloc);
    mf_governor_leave(s.governor, 0);
    for (size_t i = 0; i < RUNGS; i++)
        mf_submodel_close(views[i]);
    mf_model_close(model); /* before the governor, which keeps it */
    cr_assert(c.live_bytes > 0);
    mf_governor_close(s.governor);
    s.governor = NULL;
    cr_assert(c.live_bytes == 0);
    close_stage(&s);
}

/* ---- Threads ---- */

typedef struct chooser {
    const mf_governor *governor;
    uint32_t member;
    atomic_bool stop;
    uint64_t n_wrong;
    mf_submodel *const *views;
} chooser;

static void *choose_again_and_again(void *user)
{
    chooser *c = user;
    while (!atomic_load(&c->stop)) {
        const mf_submodel *view = NULL;
        bool known = false;
        if (mf_governor_choose(c->governor, c->member, &view) == MF_OK)
            for (size_t i = 0; i < RUNGS; i++)
                known = known || view == c->views[i];
        c->n_wrong += !known;
    }
    return NULL;
}

Test(governor, sessions_choose_while_another_thread_reports)
{
    stage s = open_stage();
    mf_governor_options options = stage_options(&s);
    options.ms_per_token = 6;
    options.dwell_ms = 100;
    create(&s, &options);
    chooser choosers[2];
    pthread_t threads[2];
    for (uint32_t i = 0; i < 2; i++) {
        choosers[i] = (chooser){ .governor = s.governor, .member = join(&s, NULL), .views = s.views };
        cr_assert(pthread_create(&threads[i], NULL, choose_again_and_again, &choosers[i]) == 0);
    }
    for (int i = 0; i < 20; i++) {
        s.machine.load = i % 2 ? 0.3 : 3;
        run_seconds(&s, 1);
    }
    for (uint32_t i = 0; i < 2; i++) {
        atomic_store(&choosers[i].stop, true);
        pthread_join(threads[i], NULL);
        cr_assert(choosers[i].n_wrong == 0);
    }
    cr_assert(info_of(&s).n_widened > 0 && info_of(&s).n_narrowed > 0);
    close_stage(&s);
}
