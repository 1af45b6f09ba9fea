/* plan_learn.c - the planner's own way. What narrowing each layer costs is measured twice: with all others wide, and with
 * all others narrow. Between the two lies what it costs elsewhere, and a Gaussian process over the layers' options learns
 * from every evaluation how far that is off. Its mean is a sum over layers, so that dynamic programming finds the best
 * view for every cost; the one that promises to add most to the front's hypervolume is evaluated next. docs/planner.md
 * says why. */
#include <math.h>
#include <string.h>

#include "defs.h"
#include "plan.h"
#include "plan_front.h"
#include "status.h"

enum { K = MFI_PLAN_OPTION_MAX, N_TARGET = 8, DP_COSTS = 1000, N_BONUS = 4 };

/* By what share of a layer's usual loss predictions are lowered when candidates are ranked: the next is looked at when
 * the one before sees no gain anywhere, and in every fourth evaluation first, so that what is unknown is tried. */
static const double bonus[N_BONUS] = { 0, 0.1, 0.3, 1 };

typedef struct candidate {
    double gain;
    uint8_t choice[MFI_MAX_LAYER];
} candidate;

typedef struct learner {
    mfi_search *s;
    const mfi_plan_space *space;
    uint32_t n_layer, n_most; /* evaluations at most */
    double *cost;             /* [n_layer][K] of an option, less the widest's; NaN: no view has it */
    double *wide, *narrow;    /* [n_layer][K] loss of an option, less the widest's: with all others wide, narrow */
    double *kernel;           /* [n_layer][K][K] how alike options are */
    uint8_t *choice;          /* [n_all][n_layer] */
    double scale;             /* the usual loss of a layer that is made narrow */
    double low, high;         /* costs of the narrowest and the widest granularity */
    mfi_point reference;
    /* the model near one cost */
    double *matrix, *weights; /* [n_most]^2, [n_most] */
    double *loss;             /* [n_layer][K] predicted, less the widest's; and for all of a view: */
    double offset;
    uint32_t *dp_cost; /* [n_layer][K] */
    double *dp_loss, *dp_best;
    uint8_t *dp_option; /* [n_layer][DP_COSTS + 1] */
    double dp_unit;
    mfi_point *point, *front; /* [n_most] */
    size_t *order, n_front;
    candidate best[N_BONUS];
} learner;

static size_t at(uint32_t layer, uint32_t option)
{
    return (size_t)layer * K + option;
}

static void to_layers(const learner *x, const uint8_t *choice, mfi_view_layer *layers)
{
    for (uint32_t l = 0; l < x->n_layer; l++)
        layers[l] = x->space->option[l][choice[l]];
}

static void set_widest(const learner *x, uint8_t *choice)
{
    for (uint32_t l = 0; l < x->n_layer; l++)
        choice[l] = (uint8_t)(x->space->n_option[l] - 1);
}

/* Evaluates, and remembers which options it was. */
static mf_status evaluate(learner *x, const uint8_t *choice, uint32_t *index)
{
    mfi_view_layer layers[MFI_MAX_LAYER];
    to_layers(x, choice, layers);
    const mf_status status = mfi_search_evaluate(x->s, layers, index);
    if (status == MF_OK && *index != UINT32_MAX) memcpy(x->choice + (size_t)*index * x->n_layer, choice, x->n_layer);
    return status;
}

static double loss_of(const learner *x, uint32_t index)
{
    return index == UINT32_MAX ? NAN : x->s->plan->all[index].loss;
}

/* ---- Costs ---- */

/* NaN where there is no such view. */
static double cost_of(const learner *x, const uint8_t *choice)
{
    mfi_view_layer layers[MFI_MAX_LAYER];
    mf_submodel *view = NULL;
    mf_submodel_info info = MF_SUBMODEL_INFO_INIT;
    to_layers(x, choice, layers);
    if (mfi_plan_view(&view, x->s->model, layers, NULL) != MF_OK) return NAN;
    mf_submodel_info_get(view, &info);
    mf_submodel_close(view);
    return mfi_plan_cost_of(x->s->options->cost, &x->s->line, &info);
}

static void measure_costs(learner *x)
{
    uint8_t choice[MFI_MAX_LAYER] = { 0 };
    set_widest(x, choice);
    x->high = cost_of(x, choice);
    for (uint32_t l = 0; l < x->n_layer; l++) {
        const uint8_t whole = choice[l];
        for (uint32_t k = 0; k < x->space->n_option[l]; k++) {
            choice[l] = (uint8_t)k;
            x->cost[at(l, k)] = cost_of(x, choice) - x->high;
        }
        choice[l] = whole;
    }
    x->low = cost_of(x, x->space->granularity[0]);
}

static double cost_by_options(const learner *x, const uint8_t *choice)
{
    double cost = x->high;
    for (uint32_t l = 0; l < x->n_layer; l++)
        cost += x->cost[at(l, choice[l])];
    return cost;
}

/* ---- Sensitivities ---- */

/* The options of a layer that are measured: `n` of them, spread over all but the widest. */
static uint32_t measured_option(const learner *x, uint32_t layer, uint32_t i, uint32_t n)
{
    const uint32_t last = x->space->n_option[layer] - 2;
    if (n == 1) return (uint32_t)mfi_min(x->space->granularity[0][layer], last);
    return (uint32_t)((uint64_t)i * last / (n - 1));
}

/* Fills what was not measured: straight lines over cost, level beyond the ends. */
static void interpolate(const learner *x, uint32_t layer, double *loss)
{
    const double *cost = x->cost + at(layer, 0);
    const uint32_t n = x->space->n_option[layer];
    double filled[K];
    for (uint32_t k = 0; k < n; k++) {
        uint32_t below = UINT32_MAX, above = UINT32_MAX;
        filled[k] = loss[k];
        if (!isnan(loss[k]) || isnan(cost[k])) continue;
        for (uint32_t j = 0; j < n; j++) {
            if (isnan(loss[j]) || isnan(cost[j])) continue;
            if (cost[j] <= cost[k] && (below == UINT32_MAX || cost[j] > cost[below])) below = j;
            if (cost[j] > cost[k] && (above == UINT32_MAX || cost[j] < cost[above])) above = j;
        }
        if (below == UINT32_MAX || above == UINT32_MAX)
            filled[k] = below == UINT32_MAX ? loss[above] : loss[below];
        else
            filled[k] =
                loss[below] + (loss[above] - loss[below]) * (cost[k] - cost[below]) / (cost[above] - cost[below]);
    }
    memcpy(loss, filled, n * sizeof *loss);
}

/* With `base` in all other layers. Losses are then taken relative to the layer at its widest. */
static mf_status measure_layer(learner *x, const uint8_t *base, uint32_t layer, uint32_t n, double *loss)
{
    uint8_t choice[MFI_MAX_LAYER];
    uint32_t index;
    const uint32_t whole = x->space->n_option[layer] - 1;
    memcpy(choice, base, x->n_layer);
    for (uint32_t k = 0; k <= whole; k++)
        loss[k] = NAN;
    mf_status status = MF_OK;
    for (uint32_t i = 0; i < n + 2 && status == MF_OK; i++) {
        const uint32_t k = i == 0 ? whole : i == 1 ? base[layer] : measured_option(x, layer, i - 2, n);
        if (!isnan(loss[k]) || isnan(x->cost[at(layer, k)])) continue;
        choice[layer] = (uint8_t)k;
        status = evaluate(x, choice, &index);
        if (status == MF_OK) loss[k] = loss_of(x, index);
    }
    const double widest = loss[whole];
    for (uint32_t k = 0; k <= whole; k++)
        loss[k] -= widest;
    loss[whole] = 0; /* also where time was over before it was measured */
    interpolate(x, layer, loss);
    return status;
}

/* Half of the evaluations at most go here, half of these with the others narrow. */
static mf_status measure_sensitivities(learner *x)
{
    uint8_t widest[MFI_MAX_LAYER] = { 0 };
    const uint32_t share = x->n_most / 4;
    set_widest(x, widest);
    mf_status status = MF_OK;
    for (int side = 0; side < 2 && status == MF_OK; side++)
        for (uint32_t l = 0; l < x->n_layer && status == MF_OK; l++) {
            const uint32_t n_other = x->space->n_option[l] - 1;
            if (n_other == 0) continue;
            const uint32_t n = (uint32_t)mfi_max(1, mfi_min(n_other, share / x->n_layer));
            status = measure_layer(x, side == 0 ? widest : x->space->granularity[0], l, n,
                                   (side == 0 ? x->wide : x->narrow) + at(l, 0));
        }
    double sum = 0;
    for (uint32_t l = 0; l < x->n_layer; l++)
        sum += fabs(x->wide[at(l, x->space->granularity[0][l])]);
    x->scale = sum / x->n_layer > 1e-6 ? sum / x->n_layer : 1e-6;
    return status;
}

/* ---- The model near a cost ---- */

static void fill_kernel(learner *x)
{
    for (uint32_t l = 0; l < x->n_layer; l++) {
        const uint32_t n = x->space->n_option[l];
        double range = 0;
        for (uint32_t k = 0; k < n; k++)
            range = fmax(range, isnan(x->cost[at(l, k)]) ? 0 : -x->cost[at(l, k)]);
        for (uint32_t j = 0; j < n; j++)
            for (uint32_t k = 0; k < n; k++) {
                const double apart = range > 0 ? fabs(x->cost[at(l, j)] - x->cost[at(l, k)]) / range : 0;
                x->kernel[at(l, j) * K + k] = isnan(apart) ? 0 : exp(-apart / 0.3);
            }
    }
}

/* What narrowing costs where the others are as wide as in a view of this cost. */
static void set_prior(learner *x, double target)
{
    const double share = x->high > x->low ? fmin(1, fmax(0, (target - x->low) / (x->high - x->low))) : 1;
    for (uint32_t l = 0; l < x->n_layer; l++)
        for (uint32_t k = 0; k < x->space->n_option[l]; k++)
            x->loss[at(l, k)] = share * x->wide[at(l, k)] + (1 - share) * x->narrow[at(l, k)];
}

static double covariance(const learner *x, const uint8_t *a, const uint8_t *b)
{
    double sum = 0;
    for (uint32_t l = 0; l < x->n_layer; l++)
        sum += x->kernel[at(l, a[l]) * K + b[l]];
    return 0.09 * sum + 1; /* deviations of 0.3 of the scale in a layer, of all of it in common */
}

/* The process's mean given all evaluations, of which those count most whose cost is near: to x->loss and x->offset. */
static void fit(learner *x, double target)
{
    const uint32_t n = x->s->plan->n_all;
    const double whole = loss_of(x, 0), reach = 0.2 * (x->high - x->low);
    set_prior(x, target);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *own = x->choice + (size_t)i * x->n_layer;
        double predicted = 0;
        for (uint32_t l = 0; l < x->n_layer; l++)
            predicted += x->loss[at(l, own[l])];
        x->weights[i] = (x->s->plan->all[i].loss - whole - predicted) / x->scale;
        for (uint32_t j = 0; j < n; j++)
            x->matrix[(size_t)i * n + j] = covariance(x, own, x->choice + (size_t)j * x->n_layer);
        const double apart = reach > 0 ? (x->s->plan->all[i].cost - target) / reach : 0;
        x->matrix[(size_t)i * n + i] += 0.0025 / fmax(1e-3, exp(-apart * apart / 2));
    }
    x->offset = 0;
    if (!mfi_solve(x->matrix, x->weights, n, 1e-9)) return; /* the prior alone */
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *own = x->choice + (size_t)i * x->n_layer;
        x->offset += x->scale * x->weights[i];
        for (uint32_t l = 0; l < x->n_layer; l++)
            for (uint32_t k = 0; k < x->space->n_option[l]; k++)
                x->loss[at(l, k)] += x->scale * 0.09 * x->weights[i] * x->kernel[at(l, k) * K + own[l]];
    }
}

/* ---- Candidates ---- */

static bool is_done(const learner *x, const uint8_t *choice)
{
    for (uint32_t i = 0; i < x->s->plan->n_all; i++)
        if (memcmp(x->choice + (size_t)i * x->n_layer, choice, x->n_layer) == 0) return true;
    return false;
}

static void consider(learner *x, const uint8_t *choice)
{
    mfi_point point = { cost_by_options(x, choice), loss_of(x, 0) + x->offset };
    for (uint32_t l = 0; l < x->n_layer; l++)
        point.loss += x->loss[at(l, choice[l])];
    int known = -1; /* is it new and a view? Asked when it matters */
    for (int b = 0; b < N_BONUS; b++) {
        const mfi_point hoped = { point.cost, point.loss - bonus[b] * x->scale };
        const double gain = mfi_hypervolume_gain(x->front, x->n_front, hoped, x->reference);
        if (!(gain > x->best[b].gain)) continue;
        if (known < 0) known = is_done(x, choice) || isnan(cost_of(x, choice));
        if (known) return;
        x->best[b].gain = gain;
        memcpy(x->best[b].choice, choice, x->n_layer);
    }
}

/* The best by the model at every cost within `reach` of the target. */
static void consider_best(learner *x, double target, double reach)
{
    const mfi_options_table table = { x->n_layer, K, x->dp_cost, x->dp_loss, DP_COSTS };
    uint8_t choice[MFI_MAX_LAYER];
    memcpy(x->dp_loss, x->loss, (size_t)x->n_layer * K * sizeof *x->dp_loss);
    mfi_choose_options(&table, x->dp_best, x->dp_option);
    for (uint32_t total = 0; total <= DP_COSTS; total++) {
        if (isinf(x->dp_best[total])) continue;
        mfi_chosen_options(&table, x->dp_option, total, choice);
        if (fabs(cost_by_options(x, choice) - target) <= reach) consider(x, choice);
    }
}

/* The views that a member of the front becomes when one layer takes the next option, or two layers do. */
static void consider_neighbours(learner *x, const uint8_t *member)
{
    uint8_t choice[MFI_MAX_LAYER];
    memcpy(choice, member, x->n_layer);
    for (uint32_t a = 0; a < x->n_layer; a++)
        for (int up = -1; up <= 1; up += 2) {
            const int moved = member[a] + up;
            if (moved < 0 || moved >= (int)x->space->n_option[a] || isnan(x->cost[at(a, (uint32_t)moved)])) continue;
            choice[a] = (uint8_t)moved;
            consider(x, choice);
            for (uint32_t b = 0; b < x->n_layer; b++) {
                const int other = member[b] - up;
                if (b == a || other < 0 || other >= (int)x->space->n_option[b] ||
                    isnan(x->cost[at(b, (uint32_t)other)]))
                    continue;
                choice[b] = (uint8_t)other;
                consider(x, choice);
                choice[b] = member[b];
            }
            choice[a] = member[a];
        }
}

static void find_front(learner *x)
{
    const mf_plan *plan = x->s->plan;
    for (uint32_t i = 0; i < plan->n_all; i++)
        x->point[i] = (mfi_point){ plan->all[i].cost, plan->all[i].loss };
    x->n_front = mfi_front(x->point, plan->n_all, x->order);
    for (size_t i = 0; i < x->n_front; i++)
        x->front[i] = x->point[x->order[i]];
}

/* Where the next evaluation is worth most; false: nothing is left to try. */
static bool choose_next(learner *x, uint8_t *choice)
{
    const double reach = (x->high - x->low) / N_TARGET / 2;
    find_front(x);
    for (int b = 0; b < N_BONUS; b++)
        x->best[b].gain = 0;
    for (uint32_t t = 0; t < N_TARGET; t++) {
        const double target = x->low + reach * (2 * t + 1);
        fit(x, target);
        consider_best(x, target, reach * 1.001);
        for (size_t i = 0; i < x->n_front; i++)
            if (fabs(x->front[i].cost - target) <= reach) consider_neighbours(x, x->choice + x->order[i] * x->n_layer);
    }
    const int first = x->s->plan->n_all % 4 == 3;
    for (int b = first; b < N_BONUS; b++) {
        if (!(x->best[b].gain > 0)) continue;
        memcpy(choice, x->best[b].choice, x->n_layer);
        return true;
    }
    return false;
}

/* ---- The whole ---- */

/* The granularities were evaluated before: which options they are is known to the space. */
static void take_granularities(learner *x)
{
    for (uint32_t g = 0; g < x->space->n_granularity; g++) {
        uint32_t index;
        mfi_view_layer layers[MFI_MAX_LAYER];
        to_layers(x, x->space->granularity[g], layers);
        if (mfi_search_evaluate(x->s, layers, &index) != MF_OK || index == UINT32_MAX) continue;
        memcpy(x->choice + (size_t)index * x->n_layer, x->space->granularity[g], x->n_layer);
        x->reference.loss = fmax(g == 0 ? -HUGE_VAL : x->reference.loss, loss_of(x, index));
    }
    x->reference.cost = x->high;
}

static void quantise_costs(learner *x)
{
    double range = 0;
    for (uint32_t l = 0; l < x->n_layer; l++) {
        double least = 0;
        for (uint32_t k = 0; k < x->space->n_option[l]; k++)
            least = fmin(least, isnan(x->cost[at(l, k)]) ? 0 : x->cost[at(l, k)]);
        range -= least;
        for (uint32_t k = 0; k < K; k++)
            x->dp_cost[at(l, k)] = UINT32_MAX;
    }
    /* Rounding adds up to half a unit a layer. */
    x->dp_unit = range / (DP_COSTS - x->n_layer / 2 - 1);
    for (uint32_t l = 0; l < x->n_layer; l++) {
        double least = 0;
        for (uint32_t k = 0; k < x->space->n_option[l]; k++)
            least = fmin(least, isnan(x->cost[at(l, k)]) ? 0 : x->cost[at(l, k)]);
        for (uint32_t k = 0; k < x->space->n_option[l]; k++)
            if (!isnan(x->cost[at(l, k)]))
                x->dp_cost[at(l, k)] = x->dp_unit > 0 ? (uint32_t)((x->cost[at(l, k)] - least) / x->dp_unit + 0.5) : 0;
    }
}

static mf_status learn(learner *x)
{
    uint8_t choice[MFI_MAX_LAYER];
    uint32_t index;
    measure_costs(x);
    take_granularities(x);
    mf_status status = measure_sensitivities(x);
    fill_kernel(x);
    quantise_costs(x);
    while (status == MF_OK && !mfi_search_over(x->s) && choose_next(x, choice))
        status = evaluate(x, choice, &index);
    return status;
}

static void lay_out(learner *x, mfi_arena *arena)
{
    const size_t options = (size_t)x->n_layer * K, n = x->n_most;
    x->cost = mfi_carve(arena, options, sizeof *x->cost);
    x->wide = mfi_carve(arena, options, sizeof *x->wide);
    x->narrow = mfi_carve(arena, options, sizeof *x->narrow);
    x->kernel = mfi_carve(arena, options * K, sizeof *x->kernel);
    x->choice = mfi_carve(arena, n, x->n_layer);
    x->matrix = mfi_carve(arena, n * n, sizeof *x->matrix);
    x->weights = mfi_carve(arena, n, sizeof *x->weights);
    x->loss = mfi_carve(arena, options, sizeof *x->loss);
    x->dp_cost = mfi_carve(arena, options, sizeof *x->dp_cost);
    x->dp_loss = mfi_carve(arena, options, sizeof *x->dp_loss);
    x->dp_best = mfi_carve(arena, DP_COSTS + 1, sizeof *x->dp_best);
    x->dp_option = mfi_carve(arena, x->n_layer, DP_COSTS + 1);
    x->point = mfi_carve(arena, n, sizeof *x->point);
    x->front = mfi_carve(arena, n, sizeof *x->front);
    x->order = mfi_carve(arena, n, sizeof *x->order);
}

mf_status mfi_search_learn(mfi_search *search)
{
    const mf_allocator *allocator = &search->options->allocator;
    learner x = {
        .s = search, .space = search->space, .n_layer = search->space->n_layer, .n_most = search->options->n_evaluation
    };
    mfi_arena arena = { NULL, 0 };
    lay_out(&x, &arena);
    const size_t bytes = arena.used;
    arena = (mfi_arena){ mfi_alloc(allocator, bytes), 0 };
    if (!arena.base) return mfi_fail(search->error, MF_E_NOMEM, "no memory for a plan");
    lay_out(&x, &arena);
    const mf_status status = learn(&x);
    mfi_free(allocator, arena.base, bytes);
    return status;
}
