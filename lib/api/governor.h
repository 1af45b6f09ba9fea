/* governor.h - what governor.c, the exported functions, and governor_control.c, the decisions, share. */
#ifndef MFI_GOVERNOR_H
#define MFI_GOVERNOR_H

#include <stdatomic.h>
#include <stdbool.h>

#include "submodel.h"

#define MFI_NO_RUNG UINT32_MAX

typedef struct mfi_governor_member {
    atomic_uint_least32_t rung; /* read by any thread; MFI_NO_RUNG: nobody has this number */
    uint32_t narrowest, widest;
    uint32_t given;  /* rungs below the widest that memory allows it */
    uint32_t tokens; /* of the step that is being reported */
    double weight;
    bool listed; /* in the step that is being reported */
    bool active; /* got tokens in the last step that told something */
} mfi_governor_member;

/* What the active members' tokens cost, apart: of those below a rung, and of those on it or above, whose costs all have
 * that rung's step as a factor. */
typedef struct mfi_governor_costs {
    double below, above;
} mfi_governor_costs;

/* A widening to one rung is watched, because it tells what that rung costs: they are made in calm times, while narrowing
 * answers a load that is just changing. */
typedef struct mfi_governor_watch {
    uint32_t rung; /* MFI_NO_RUNG: nothing is watched */
    uint32_t n_step;
    double base_ns; /* of a token, before */
    double share;   /* of the active members that moved */
    mfi_governor_costs before, after;
    double time_ns, tokens; /* since */
} mfi_governor_watch;

struct mf_governor {
    mf_governor_options options; /* with the defaults filled in */
    mf_model *model;
    size_t bytes; /* of this block */
    double target_ns;
    mf_governor_signals signals;

    /* [n_rung] */
    uint32_t n_rung;
    const mf_submodel **rung;
    uint64_t *rung_bytes;
    double *step_prior; /* cost as a multiple of the rung below: by the bytes that both read, */
    double *step;       /* and as learned */
    double *cost;       /* of a token, as a multiple of the narrowest rung's: products of `step` */
    bool *learned;

    mfi_governor_member *member; /* [options.max_members] */
    uint32_t n_member;

    /* The last smoothing_ms: time, tokens of a member, and what they cost; older ones fade. */
    double time_ns, tokens, cost_run;
    double recent_ns, recent_cost; /* the same over a quarter of that: shows whether the load is changing */
    uint64_t report_ns;            /* when the last step was reported */

    /* Decisions. */
    uint32_t fixed_cap, cap, resident; /* widest rungs: that weight_bytes allows, that memory does, that is resident */
    uint64_t cap_ns;                   /* when `cap` changed */
    double demand;                     /* share to give up for heat and queue; falls slowly */
    uint64_t demand_ns, change_ns;
    uint32_t n_step; /* since the last change */
    double step_ns;  /* and their time */
    bool widened;    /* that change widened */
    double dwell_ns;
    double widen_load, failed_load; /* before the last widening, and before the last that did not hold */
    mfi_governor_watch watch;
    uint64_t n_narrowed, n_widened;

    /* Sums over members, recounted when they may have changed. */
    uint32_t n_given, n_range, n_active;
    double active_cost;
};

/* All of these: the caller's thread is the only one that is not in mf_governor_choose(). */

/* The model's shells may have come or gone. */
void mfi_governor_look(mf_governor *g);
void mfi_governor_recount(mf_governor *g);
uint32_t mfi_governor_range(const mf_governor *g, const mfi_governor_member *m);
/* Makes those give up rungs who should by their weights, without changing how many are given up. */
void mfi_governor_balance(mf_governor *g);
/* Lets mf_governor_choose() see the rungs. */
void mfi_governor_publish(mf_governor *g);

/* `elapsed_ns` of members that are `listed` with `tokens`. */
void mfi_governor_measure(mf_governor *g, uint64_t now_ns, uint64_t elapsed_ns);
/* The widest of the rungs that members must not be narrower than. */
uint32_t mfi_governor_highest_floor(const mf_governor *g);
void mfi_governor_fit_memory(mf_governor *g, uint64_t now_ns);
void mfi_governor_decide(mf_governor *g, uint64_t now_ns);
/* Nanoseconds for a unit of cost; 0: unknown. */
double mfi_governor_load(const mf_governor *g);
uint64_t mfi_governor_now(const mf_governor *g);

#endif
