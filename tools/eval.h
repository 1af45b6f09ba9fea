/* eval.h - `matformer eval`: cmd_eval.c has the options and what views predict, eval_positions.c the same by position,
 * eval_mixed.c what views make of a cache that another wrote. */
#ifndef EVAL_H
#define EVAL_H

#include "cli_corpus.h"
#include "cli_model.h"
#include "cli_score.h"

enum { EVAL_MAX_VIEW = 48 };

typedef struct evaluation {
    /* options */
    const char *path, *against, *mixed, *written;
    cli_list texts, sizes;
    uint32_t context, span, n_thread;
    int cache_type, arithmetic;
    bool json, by_position;
    /* objects */
    mf_model *model;
    mf_model_info info;
    cli_corpus corpus;
    const char *names[EVAL_MAX_VIEW];
    mf_submodel *views[EVAL_MAX_VIEW];
    size_t n_view;
    mf_submodel *reference;
    cli_score scores[EVAL_MAX_VIEW];
    cli_position_score *positions; /* [n_view, and the reference][context] */
    uint64_t n_predicted;
} evaluation;

/* Bounds of the ranges of positions that a table has: 0, 1, 2, 4, 8 ... */
void eval_print_positions(const evaluation *e);
/* {"tokens": [...], "loss": [...], ...}: an element for every position. */
json_t *eval_positions_json(const evaluation *e, size_t view);

/* The model is open and the corpus encoded: reads it with the two sizes of `mixed` and prints. */
int eval_mixed(evaluation *e, mf_error *error);

/* What cli_score_lines() wants, without views and lines. */
cli_scoring eval_scoring(const evaluation *e);

#endif
