/* cli_score.h - how well views predict a text, and how far they agree with others. */
#ifndef CLI_SCORE_H
#define CLI_SCORE_H

#include "cli.h"

typedef struct cli_score {
    double loss;       /* nats per token */
    double loss_error; /* its standard error, from how the windows of full length differ; 0 for fewer than two */
    /* Against a reference; else 0: */
    double difference;       /* of the loss from the reference's, over the same tokens */
    double difference_error; /* its standard error likewise, window by window, so that what both find hard cancels */
    double kl;               /* nats per token, of the reference's distribution from this one's */
    double agreement;        /* share of positions whose likeliest token is the reference's */
} cli_score;

/* Means over the windows that reach a position. */
typedef struct cli_position_score {
    double loss, kl, agreement;
    uint64_t n_token; /* predicted from this position */
} cli_position_score;

/* One way to run every window: a view, and perhaps another that runs some of its positions. */
typedef struct cli_line {
    const mf_submodel *view;
    const mf_submodel *writer; /* of positions [written_from, written_to); NULL: none */
    uint32_t written_from, written_to;
    int reference; /* the line to compare with; -1: none */
} cli_line;

typedef struct cli_scoring {
    mf_model *model;
    uint32_t n_thread; /* 0: one per usable core */
    const int32_t *tokens;
    size_t n_token;
    uint32_t context; /* tokens that a window is read from; 0: the model's max_positions */
    mf_cache_type cache_type;
    /* cli_score_views() */
    const mf_submodel *const *views;
    size_t n_view;
    const mf_submodel *reference; /* or NULL */
    /* cli_score_lines() */
    const cli_line *lines;
    size_t n_line;
    uint32_t first;                /* what positions before it predict does not count */
    bool full_only;                /* a last window that is shorter is left out */
    cli_position_score *positions; /* [n_line, or n_view and one more][context] out; or NULL */
    void (*progress)(void *user, double done, double total); /* or NULL */
    void *user;
} cli_scoring;

/* Cuts the tokens into windows of context + 1 that overlap by one; each is read from an empty timeline and all
 * but its first token are predicted (the last window is shorter). All views run in one batch. Writes
 * scores[n_view]; `n_predicted` may be NULL. */
mf_status cli_score_views(const cli_scoring *scoring, cli_score *scores, uint64_t *n_predicted, mf_error *error);

/* The same for lines: scores[n_line]. */
mf_status cli_score_lines(const cli_scoring *scoring, cli_score *scores, uint64_t *n_predicted, mf_error *error);

/* A standard error, or "-" where there were too few windows for one. */
cli_text cli_standard_error(double error);

#endif
