/* train.h - what `matformer train` was asked for, and the run that does it. */
#ifndef TRAIN_H
#define TRAIN_H

#include "cli_corpus.h"
#include "matformer_train.h"

#define TRAIN_MAX_STEP 1e12

typedef struct train_options {
    cli_list data, valid;
    const char *out, *tokenizer, *init, *checkpoint, *log, *granularities, *probability, *single;
    const char *command; /* the command line, for the file's metadata */
    uint32_t n_vocab;
    uint32_t checkpoint_every, evaluate_every, log_every, patience;
    uint64_t evaluate_tokens;
    uint64_t warmup; /* UINT64_MAX: not given */
    double epochs, minutes;
    bool restart, raw, json;
    int type; /* mf_train_type */
    mf_train_model model;
    mf_trainer_options trainer;
} train_options;

int train_execute(train_options *options);

#endif
