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

#include <stdbool.h>

#include "matformer.h"

mf_model *mfi_sampler_model(const mf_sampler *sampler);
/* Chooses always the likeliest token. */
bool mfi_sampler_is_greedy(const mf_sampler *sampler);

/* ---- Speculative sampling: Leviathan, Kalman and Matias, 2023, algorithm 1 ----
 * Let p and q be the distributions of two models for the same position, after everything that the sampler does to
 * logits. A token drawn from q is kept with probability min(1, p / q); otherwise another is drawn from max(0, p - q),
 * normalised. The outcome has the distribution p. */

/* Chooses the token that follows the timeline `tokens` by a draft's logits, and leaves q in `distribution` [tokens of
 * the model], the tokens that cannot come with 0; greedy samplers leave it alone, and it may be NULL. */
mf_status mfi_sampler_draft(mf_sampler *sampler, const int32_t *tokens, size_t n_token, const float *logits,
                            double *distribution, int32_t *drafted);
/* As mf_sampler_sample(), by the logits that count, for a position that has a draft: `drafted` is kept where
 * chosen->token is equal to it. `distribution` is what mfi_sampler_draft() left. */
mf_status mfi_sampler_verify(mf_sampler *sampler, const int32_t *tokens, size_t n_token, const float *logits,
                             const double *distribution, int32_t drafted, mf_token_logprob *chosen,
                             mf_token_logprob *top, size_t n_top);

/* A position has random numbers that are independent of each other, one for each thing that may be drawn there. */
typedef enum mfi_stream { MFI_STREAM_TOKEN, MFI_STREAM_DRAFT, MFI_STREAM_ACCEPT, MFI_STREAM_RESIDUAL } mfi_stream;

/* In [0, 1), from the seed, the position (below 2^32) and the stream alone. */
double mfi_sampler_uniform(uint64_t seed, uint64_t position, mfi_stream stream);

/* e^x for x <= 0, within 2 units in the last place; 0 below -700. */
double mfi_sampler_exp(double x);

#endif
