/* cli_score.h - how well views predict a text. */
#ifndef CLI_SCORE_H
#define CLI_SCORE_H

#include "cli.h"

typedef struct cli_score {
    double loss;      /* nats per token */
    double kl;        /* nats per token, of the reference's distribution from this one's */
    double agreement; /* share of positions whose likeliest token is the reference's */
} cli_score;

typedef struct cli_scoring {
    mf_model *model;
    uint32_t n_thread; /* 0: one per usable core */
    const int32_t *tokens;
    size_t n_token;
    uint32_t context; /* tokens that a window is read from; 0: the model's max_positions */
    mf_cache_type cache_type;
    const mf_submodel *const *views;
    size_t n_view;
    const mf_submodel *reference;                            /* or NULL: kl and agreement are 0 */
    void (*progress)(void *user, double done, double total); /* or NULL */
    void *user;
} cli_scoring;

/* Cuts the tokens into windows of context + 1 that overlap by one; each is read from an empty timeline and all
 * but its first token are predicted (the last window is shorter). All views run in one batch. Writes
 * scores[n_view]; `n_predicted` may be NULL. */
mf_status cli_score_views(const cli_scoring *scoring, cli_score *scores, uint64_t *n_predicted, mf_error *error);

#endif
