/* plan_front.h - the arithmetic of choosing: fronts, their hypervolume, and the best choice of an option for each layer
 * at every total cost. Knows nothing of models. */
#ifndef MFI_PLAN_FRONT_H
#define MFI_PLAN_FRONT_H

#include <stdbool.h>

#include "matformer.h"

typedef struct mfi_point {
    double cost, loss;
} mfi_point;

/* The points that no other beats (as cheap and better, or as good and cheaper; of equals the first), by rising cost and
 * so falling loss: their indices to front [n], and how many. */
size_t mfi_front(const mfi_point *points, size_t n, size_t *front);

/* The area between `points` (in any order) and the reference: of the costs up to reference.cost, how far the least loss
 * that they buy lies below reference.loss. */
double mfi_hypervolume(const mfi_point *points, size_t n, mfi_point reference);

/* How much a further point adds, given the front's points by rising cost. */
double mfi_hypervolume_gain(const mfi_point *front, size_t n, mfi_point more, mfi_point reference);

/* One option for each layer: costs are whole numbers, the losses of the layers add up. */
typedef struct mfi_options_table {
    uint32_t n_layer;
    uint32_t n_option;    /* of each layer */
    const uint32_t *cost; /* [n_layer][n_option] UINT32_MAX: the layer has no such option */
    const double *loss;   /* [n_layer][n_option] */
    uint32_t most;        /* total costs from 0 to it */
} mfi_options_table;

/* For every total cost the least loss at just that cost, to loss [most + 1] (infinite: none), by dynamic programming over
 * layers; and to option [n_layer][most + 1] which option of a layer ends it. O(n_layer n_option most). */
void mfi_choose_options(const mfi_options_table *table, double *loss, uint8_t *option);
/* The options [n_layer] that make up the best choice at `total`, whose loss is finite. */
void mfi_chosen_options(const mfi_options_table *table, const uint8_t *option, uint32_t total, uint8_t *chosen);

/* Solves (A + ridge I) x = b for a symmetric, positive semidefinite A [n][n], in place: A becomes its Cholesky factor, b
 * becomes x. False where it is not positive definite. */
bool mfi_solve(double *a, double *b, size_t n, double ridge);

#endif
