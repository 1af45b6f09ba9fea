/* train_data.h - from texts to what a trainer is created with: tokenizer, tokens, granularities. */
#ifndef TRAIN_DATA_H
#define TRAIN_DATA_H

#include "train.h"

typedef struct train_data {
    cli_corpus train, valid;
    void *tokenizer; /* the blob; train_data_free() releases it */
    size_t tokenizer_bytes;
    int32_t eos; /* -1: none */
    mf_train_granularity granularity[MF_TRAIN_MAX_GRANULARITY];
    double probability[MF_TRAIN_MAX_GRANULARITY];
    char *names; /* what granularity[].name points into */
} train_data;

/* Reads the texts, gets or learns the tokenizer, and fills what depends on them in options->model and
 * options->trainer. The arrays stay in `data`. */
mf_status train_data_prepare(train_data *data, train_options *options, mf_error *error);
void train_data_free(train_data *data);

#endif
