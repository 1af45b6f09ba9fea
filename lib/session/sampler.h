/* sampler.h - logits to a token; the exported functions are described in matformer.h.
 *
 * In this order: the filter; log-probabilities, from what the filter left; the repetition penalty; greedy
 * choice, or temperature, top-k, top-p of what top-k kept, min-p, and the draw. Equal logits rank by token,
 * lowest first, so that greedy takes the lowest.
 *
 * The choice is made in double precision with sums in a fixed order and an exponential of our own: the same
 * logits give the same token on every machine. Only the reported log-probabilities go through libm's log. */
#ifndef MFI_SAMPLER_H
#define MFI_SAMPLER_H

#include "matformer.h"

mf_model *mfi_sampler_model(const mf_sampler *sampler);

/* In [0, 1), from the seed and the position alone. */
double mfi_sampler_uniform(uint64_t seed, uint64_t position);

/* e^x for x <= 0, within 2 units in the last place; 0 below -700. */
double mfi_sampler_exp(double x);

#endif
