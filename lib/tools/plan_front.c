/* plan_front.c - see plan_front.h. */
#include "plan_front.h"

#include <math.h>
#include <string.h>

/* ---- Fronts ---- */

static bool goes_before(const mfi_point *points, size_t a, size_t b)
{
    if (points[a].cost != points[b].cost) return points[a].cost < points[b].cost;
    if (points[a].loss != points[b].loss) return points[a].loss < points[b].loss;
    return a < b;
}

/* By rising cost, then loss: a heap sort, in place. */
static void sort_points(const mfi_point *points, size_t n, size_t *order)
{
    for (size_t root = n / 2, last = n; last > 1;) {
        if (root > 0) {
            root--;
        } else {
            const size_t top = order[0];
            order[0] = order[--last];
            order[last] = top;
        }
        size_t at = root;
        for (size_t child; (child = 2 * at + 1) < last; at = child) {
            child += child + 1 < last && goes_before(points, order[child], order[child + 1]);
            if (!goes_before(points, order[at], order[child])) break;
            const size_t swap = order[at];
            order[at] = order[child];
            order[child] = swap;
        }
    }
}

size_t mfi_front(const mfi_point *points, size_t n, size_t *front)
{
    size_t n_front = 0;
    for (size_t i = 0; i < n; i++)
        front[i] = i;
    sort_points(points, n, front);
    for (size_t i = 0; i < n; i++)
        if (n_front == 0 || points[front[i]].loss < points[front[n_front - 1]].loss) front[n_front++] = front[i];
    return n_front;
}

double mfi_hypervolume(const mfi_point *points, size_t n, mfi_point reference)
{
    double area = 0, from = -HUGE_VAL, level = reference.loss;
    /* From the cheapest point on, step by step to the next cost at which something better can be had. */
    for (;;) {
        const mfi_point *next = NULL;
        for (size_t i = 0; i < n; i++) {
            if (points[i].loss >= level || points[i].cost > reference.cost) continue;
            if (!next || points[i].cost < next->cost || (points[i].cost == next->cost && points[i].loss < next->loss))
                next = &points[i];
        }
        if (level < reference.loss) area += ((next ? next->cost : reference.cost) - from) * (reference.loss - level);
        if (!next) return area;
        from = next->cost;
        level = next->loss;
    }
}

double mfi_hypervolume_gain(const mfi_point *front, size_t n, mfi_point more, mfi_point reference)
{
    double gain = 0, from = more.cost, level = reference.loss;
    if (more.cost >= reference.cost) return 0;
    for (size_t i = 0; i < n && front[i].cost <= more.cost; i++)
        level = fmin(level, front[i].loss);
    for (size_t i = 0; i < n && level > more.loss; i++) {
        if (front[i].cost <= more.cost) continue;
        const double to = fmin(front[i].cost, reference.cost);
        gain += (to - from) * (level - more.loss);
        from = to;
        level = fmin(level, front[i].loss);
        if (from >= reference.cost) return gain;
    }
    return level > more.loss ? gain + (reference.cost - from) * (level - more.loss) : gain;
}

/* ---- Options ---- */

/* Adds a layer: best[t] = min over options of (before[t - cost] + loss), from the top so that it is done in place. */
static void add_layer(const mfi_options_table *table, uint32_t layer, double *best, uint8_t *option)
{
    const uint32_t *cost = table->cost + (size_t)layer * table->n_option;
    const double *loss = table->loss + (size_t)layer * table->n_option;
    for (uint32_t total = table->most + 1; total-- > 0;) {
        double least = HUGE_VAL;
        uint8_t which = 0;
        for (uint32_t k = 0; k < table->n_option; k++) {
            if (cost[k] > total || best[total - cost[k]] + loss[k] >= least) continue;
            least = best[total - cost[k]] + loss[k];
            which = (uint8_t)k;
        }
        best[total] = least;
        option[total] = which;
    }
}

void mfi_choose_options(const mfi_options_table *table, double *loss, uint8_t *option)
{
    for (uint32_t total = 0; total <= table->most; total++)
        loss[total] = total == 0 ? 0 : HUGE_VAL;
    for (uint32_t layer = 0; layer < table->n_layer; layer++)
        add_layer(table, layer, loss, option + (size_t)layer * (table->most + 1));
}

void mfi_chosen_options(const mfi_options_table *table, const uint8_t *option, uint32_t total, uint8_t *chosen)
{
    for (uint32_t layer = table->n_layer; layer-- > 0;) {
        chosen[layer] = option[(size_t)layer * (table->most + 1) + total];
        total -= table->cost[(size_t)layer * table->n_option + chosen[layer]];
    }
}

/* ---- Linear equations ---- */

bool mfi_solve(double *a, double *b, size_t n, double ridge)
{
    for (size_t j = 0; j < n; j++) {
        double *row = a + j * n;
        double diagonal = row[j] + ridge;
        for (size_t k = 0; k < j; k++)
            diagonal -= row[k] * row[k];
        if (!(diagonal > 0)) return false;
        row[j] = sqrt(diagonal);
        for (size_t i = j + 1; i < n; i++) {
            double sum = a[i * n + j];
            for (size_t k = 0; k < j; k++)
                sum -= a[i * n + k] * row[k];
            a[i * n + j] = sum / row[j];
        }
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++)
            b[i] -= a[i * n + k] * b[k];
        b[i] /= a[i * n + i];
    }
    for (size_t i = n; i-- > 0;) {
        for (size_t k = i + 1; k < n; k++)
            b[i] -= a[k * n + i] * b[k];
        b[i] /= a[i * n + i];
    }
    return true;
}
