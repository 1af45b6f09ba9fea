/* train_data.c - see train_data.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli_directory.h"
#include "cli_outputs.h"
#include "train_data.h"

static mf_status invalid(mf_error *error, const char *format, const char *text)
{
    error->status = MF_E_INVALID;
    snprintf(error->detail, sizeof(error->detail), format, text);
    return MF_E_INVALID;
}

/* ---- Tokenizer ---- */

static mf_status learn_tokenizer(train_data *data, uint32_t n_vocab, mf_error *error)
{
    char *text = malloc(data->train.bytes);
    if (!text) return error->status = MF_E_NOMEM;
    size_t at = 0;
    for (size_t i = 0; i < data->train.count; i++) {
        memcpy(text + at, data->train.documents[i].text, data->train.documents[i].bytes);
        at += data->train.documents[i].bytes;
    }
    cli_progress_text("learning a vocabulary of %u tokens from %s", n_vocab, cli_bytes((double)at).text);
    mf_train_blob blob = { 0 };
    mf_status status = mf_train_tokenizer(&blob, text, at, n_vocab, error);
    cli_progress_end();
    free(text);
    if (status != MF_OK) return status;
    data->tokenizer_bytes = blob.bytes;
    data->tokenizer = malloc(blob.bytes);
    if (data->tokenizer) memcpy(data->tokenizer, blob.data, blob.bytes);
    mf_train_blob_free(&blob);
    return data->tokenizer ? MF_OK : (error->status = MF_E_NOMEM);
}

static mf_status borrow_tokenizer(train_data *data, train_options *options, mf_error *error)
{
    mf_model *model;
    mf_status status = mf_model_open(&model, options->tokenizer, NULL, error);
    if (status != MF_OK) return status;
    mf_model_info info = MF_MODEL_INFO_INIT;
    mf_model_info_get(model, &info);
    options->n_vocab = info.n_vocab;
    mf_model_close(model);
    return cli_directory_tokenizer(options->tokenizer, &data->tokenizer, &data->tokenizer_bytes, error);
}

static mf_status encode(void *user, const char *text, size_t bytes, int32_t *tokens, size_t *n_token, mf_error *error)
{
    const train_data *data = user;
    return mf_train_tokenize(data->tokenizer, data->tokenizer_bytes, text, bytes, tokens, bytes, n_token, NULL, error);
}

/* ---- Granularities ---- */

/* "0.125" or "1/8" */
static bool read_ratio(char **text, double *ratio)
{
    char *end;
    *ratio = strtod(*text, &end);
    if (end == *text) return false;
    if (*end == '/') {
        char *below = end + 1;
        *ratio /= strtod(below, &end);
        if (end == below) return false;
    }
    *text = end;
    return *ratio > 0 && *ratio <= 1;
}

/* "NAME:RATIO" or "NAME:RATIO:HEADS" */
static bool read_granularity(char *text, mf_train_granularity *granularity)
{
    char *at = strchr(text, ':'), *end;
    if (!at || at == text) return false;
    granularity->name = text;
    *at++ = '\0';
    if (!read_ratio(&at, &granularity->ffn_ratio)) return false;
    if (*at == ':') {
        unsigned long heads = strtoul(at + 1, &end, 10);
        if (heads == 0 || heads > 65536) return false;
        granularity->n_head = (uint32_t)heads;
        at = end;
    }
    return *at == '\0';
}

static mf_status read_granularities(train_data *data, train_options *options, mf_error *error)
{
    if (!options->granularities) return MF_OK;
    if (!(data->names = strdup(options->granularities))) return error->status = MF_E_NOMEM;
    char *rest = data->names;
    uint32_t n = 0;
    for (char *item; (item = strsep(&rest, ",")); n++)
        if (n == MF_TRAIN_MAX_GRANULARITY || !read_granularity(item, &data->granularity[n]))
            return invalid(error, "--granularities %s: want NAME:RATIO or NAME:RATIO:HEADS, as in \"S:1/8,M:1/4,XL:1\"",
                           options->granularities);
    options->model.granularities = data->granularity;
    options->model.n_granularity = n;
    return MF_OK;
}

static mf_status read_probabilities(train_data *data, train_options *options, mf_error *error)
{
    if (!options->probability) return MF_OK;
    uint32_t wanted = options->model.granularities ? options->model.n_granularity : 4, n = 0;
    for (const char *at = options->probability; n < MF_TRAIN_MAX_GRANULARITY;) {
        char *end;
        data->probability[n++] = strtod(at, &end);
        if (end == at || *end != ',') {
            if (end == at || *end) n = 0;
            break;
        }
        at = end + 1;
    }
    if (n != wanted) return invalid(error, "--probability %s: want one number per granularity", options->probability);
    options->trainer.probability = data->probability;
    return MF_OK;
}

static mf_status find_single(train_options *options, mf_error *error)
{
    static const char *const standard[] = { "S", "M", "L", "XL" };
    if (!options->single) return MF_OK;
    uint32_t n = options->model.granularities ? options->model.n_granularity : (uint32_t)CLI_COUNT(standard);
    for (uint32_t i = 0; i < n; i++) {
        const char *name = options->model.granularities ? options->model.granularities[i].name : standard[i];
        if (strcmp(name, options->single) != 0) continue;
        options->trainer.granularity = i;
        return MF_OK;
    }
    return invalid(error, "--single %s: there is no granularity of that name", options->single);
}

/* ---- All of it ---- */

static mf_status fill_options(train_data *data, train_options *options, mf_error *error)
{
    options->model.n_vocab = options->n_vocab;
    options->model.has_eos = data->eos >= 0;
    options->model.eos_token = data->eos;
    options->trainer.tokens = (mf_train_tokens){ data->train.tokens, data->train.n_token, sizeof(*data->train.tokens) };
    if (options->epochs > 0) {
        double step_tokens = (double)options->trainer.batch * options->trainer.sequence;
        double steps = ceil(options->epochs * (double)data->train.n_token / step_tokens);
        if (steps > TRAIN_MAX_STEP) return invalid(error, "--epochs makes too many steps%s", "");
        options->trainer.n_step = (uint64_t)steps;
    }
    uint64_t tenth = options->trainer.n_step / 10;
    options->trainer.warmup = options->warmup != UINT64_MAX ? options->warmup : tenth < 100 ? tenth : 100;
    return MF_OK;
}

/* The log is opened before the first step, and may be a device. */
static mf_status check_outputs(const train_options *options, const train_data *data, mf_error *error)
{
    const cli_output outputs[] = { { "out", options->out },
                                   { "checkpoint", options->checkpoint },
                                   { "log", options->log } };
    mf_status status = cli_outputs_differ(outputs, CLI_COUNT(outputs), error);
    for (size_t i = 0; i < CLI_COUNT(outputs) && status == MF_OK; i++) {
        status = cli_output_spares_texts(&outputs[i], &data->train, "data", error);
        if (status == MF_OK) status = cli_output_spares_texts(&outputs[i], &data->valid, "valid", error);
        if (status == MF_OK && i < 2) status = cli_output_can_be_written(&outputs[i], error);
    }
    return status;
}

mf_status train_data_prepare(train_data *data, train_options *options, mf_error *error)
{
    data->eos = -1;
    mf_status status = MF_OK;
    if (options->valid.count > 0) status = cli_corpus_read(&data->valid, &options->valid, NULL, error);
    if (status == MF_OK) status = cli_corpus_read(&data->train, &options->data, &data->valid, error);
    if (status == MF_OK) status = check_outputs(options, data, error);
    if (status == MF_OK)
        status = options->tokenizer ? borrow_tokenizer(data, options, error)
                                    : learn_tokenizer(data, options->n_vocab, error);
    size_t none;
    if (status == MF_OK)
        status = mf_train_tokenize(data->tokenizer, data->tokenizer_bytes, "", 0, NULL, 0, &none, &data->eos, error);
    if (status == MF_OK) status = cli_corpus_encode(&data->train, data->eos, encode, data, error);
    if (status == MF_OK && data->valid.count > 0)
        status = cli_corpus_encode(&data->valid, data->eos, encode, data, error);
    if (status == MF_OK) status = read_granularities(data, options, error);
    if (status == MF_OK) status = read_probabilities(data, options, error);
    if (status == MF_OK) status = find_single(options, error);
    if (status == MF_OK) status = fill_options(data, options, error);
    return status;
}

void train_data_free(train_data *data)
{
    cli_corpus_free(&data->train);
    cli_corpus_free(&data->valid);
    free(data->tokenizer);
    free(data->names);
    *data = (train_data){ 0 };
}
