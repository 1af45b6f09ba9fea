/* test_plan.c - the planner's arithmetic against brute force: fronts, hypervolumes, the best options at every cost. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan_front.h"
#include "run_model.h"

static double draw(rng *r)
{
    return (double)rng_below(r, 1000) / 1000;
}

static size_t draw_points(rng *r, mfi_point *points, size_t most)
{
    const size_t n = rng_between(r, 1, (uint32_t)most);
    const uint32_t grid = rng_below(r, 2) ? 8 : 1000; /* a coarse one has equal costs and losses */
    for (size_t i = 0; i < n; i++)
        points[i] = (mfi_point){ rng_below(r, grid) / (double)grid, rng_below(r, grid) / (double)grid };
    return n;
}

static bool beats(mfi_point a, mfi_point b)
{
    return a.cost <= b.cost && a.loss <= b.loss && (a.cost < b.cost || a.loss < b.loss);
}

Test(plan, a_front_is_what_nothing_beats)
{
    rng r = { 1 };
    for (uint32_t round = 0; round < test_rounds(300); round++) {
        mfi_point points[40];
        size_t front[40], n_unbeaten = 0;
        const size_t n = draw_points(&r, points, 40), n_front = mfi_front(points, n, front);
        for (size_t i = 0; i < n; i++) {
            bool beaten = false;
            for (size_t j = 0; j < n; j++)
                beaten |= beats(points[j], points[i]) ||
                          (j < i && points[i].cost == points[j].cost && points[i].loss == points[j].loss);
            n_unbeaten += !beaten;
        }
        cr_assert_eq(n_front, n_unbeaten);
        for (size_t i = 0; i < n_front; i++) {
            for (size_t j = 0; j < n; j++)
                cr_assert(!beats(points[j], points[front[i]]));
            if (i == 0) continue;
            cr_assert(points[front[i]].cost > points[front[i - 1]].cost);
            cr_assert(points[front[i]].loss < points[front[i - 1]].loss);
        }
    }
}

/* Cells of the grid that the coordinates make: each is below the front or not. */
static double area_by_cells(const mfi_point *points, size_t n, mfi_point reference)
{
    double area = 0;
    enum { CELLS = 100 };
    for (int x = 0; x < CELLS; x++)
        for (int y = 0; y < CELLS; y++) {
            const double cost = (x + 0.5) / CELLS, loss = (y + 0.5) / CELLS;
            bool covered = false;
            for (size_t i = 0; i < n; i++)
                covered |= points[i].cost <= cost && points[i].loss <= loss;
            area += covered && cost <= reference.cost && loss <= reference.loss;
        }
    return area / (CELLS * CELLS);
}

Test(plan, a_hypervolume_is_the_area_between_front_and_reference)
{
    rng r = { 2 };
    for (uint32_t round = 0; round < test_rounds(60); round++) {
        mfi_point points[24];
        const size_t n = rng_between(&r, 1, 24);
        for (size_t i = 0; i < n; i++) /* on the corners of cells, so that counting is exact */
            points[i] = (mfi_point){ rng_below(&r, 100) / 100.0, rng_below(&r, 100) / 100.0 };
        const mfi_point reference = { rng_between(&r, 50, 100) / 100.0, rng_between(&r, 50, 100) / 100.0 };
        const double area = mfi_hypervolume(points, n, reference);
        cr_assert_float_eq(area, area_by_cells(points, n, reference), 1e-9);

        size_t front[24];
        mfi_point sorted[24];
        const size_t n_front = mfi_front(points, n - 1, front);
        for (size_t i = 0; i < n_front; i++)
            sorted[i] = points[front[i]];
        const double gain = mfi_hypervolume_gain(sorted, n_front, points[n - 1], reference);
        cr_assert_float_eq(gain, area - mfi_hypervolume(points, n - 1, reference), 1e-9);
    }
}

enum { LAYERS = 4, OPTIONS = 4, MOST = 40 };

Test(plan, dynamic_programming_finds_what_trying_all_finds)
{
    rng r = { 3 };
    for (uint32_t round = 0; round < test_rounds(100); round++) {
        uint32_t cost[LAYERS * OPTIONS], n_choice = 1;
        double loss[LAYERS * OPTIONS], least[MOST + 1], best[MOST + 1];
        uint8_t option[LAYERS * (MOST + 1)];
        const mfi_options_table table = { rng_between(&r, 1, LAYERS), OPTIONS, cost, loss, MOST };
        for (uint32_t i = 0; i < LAYERS * OPTIONS; i++) {
            cost[i] = i % OPTIONS > 0 && rng_below(&r, 8) == 0 ? UINT32_MAX : rng_below(&r, 10);
            loss[i] = draw(&r) - 0.2;
        }
        for (uint32_t t = 0; t <= MOST; t++)
            least[t] = HUGE_VAL;
        for (uint32_t layer = 0; layer < table.n_layer; layer++)
            n_choice *= OPTIONS;
        for (uint32_t choice = 0; choice < n_choice; choice++) {
            uint64_t total = 0;
            double sum = 0;
            for (uint32_t layer = 0, rest = choice; layer < table.n_layer; layer++, rest /= OPTIONS) {
                total += cost[layer * OPTIONS + rest % OPTIONS];
                sum += loss[layer * OPTIONS + rest % OPTIONS];
            }
            if (total <= MOST) least[total] = fmin(least[total], sum);
        }
        mfi_choose_options(&table, best, option);
        for (uint32_t t = 0; t <= MOST; t++) {
            uint8_t chosen[LAYERS];
            uint32_t total = 0;
            double sum = 0;
            cr_assert_eq(isinf(best[t]), isinf(least[t]));
            if (isinf(best[t])) continue;
            cr_assert_float_eq(best[t], least[t], 1e-12);
            mfi_chosen_options(&table, option, t, chosen);
            for (uint32_t layer = 0; layer < table.n_layer; layer++) {
                total += cost[layer * OPTIONS + chosen[layer]];
                sum += loss[layer * OPTIONS + chosen[layer]];
            }
            cr_assert(total == t);
            cr_assert_float_eq(sum, best[t], 1e-12);
        }
    }
}

Test(plan, equations_are_solved)
{
    rng r = { 4 };
    for (uint32_t round = 0; round < test_rounds(40); round++) {
        enum { N = 12 };
        double root[N][N], a[N * N], copy[N * N], b[N], x[N];
        for (size_t i = 0; i < N; i++)
            for (size_t j = 0; j < N; j++)
                root[i][j] = draw(&r) - 0.5;
        for (size_t i = 0; i < N; i++)
            for (size_t j = 0; j < N; j++) {
                a[i * N + j] = 0;
                for (size_t k = 0; k < N; k++)
                    a[i * N + j] += root[i][k] * root[j][k];
            }
        memcpy(copy, a, sizeof a);
        for (size_t i = 0; i < N; i++)
            x[i] = b[i] = draw(&r);
        cr_assert(mfi_solve(a, x, N, 0.1));
        for (size_t i = 0; i < N; i++) {
            double sum = 0.1 * x[i];
            for (size_t j = 0; j < N; j++)
                sum += copy[i * N + j] * x[j];
            cr_assert_float_eq(sum, b[i], 1e-9);
        }
        for (size_t i = 0; i < N * N; i++)
            a[i] = -copy[i];
        cr_assert(!mfi_solve(a, x, N, -1));
    }
}
