/* cli_outputs.h - what a command writes where, checked before hours are spent on it. */
#ifndef CLI_OUTPUTS_H
#define CLI_OUTPUTS_H

#include "cli_corpus.h"

typedef struct cli_output {
    const char *option; /* that names it, without the dashes */
    const char *path;   /* NULL: it is not wanted */
} cli_output;

/* No two of them are one file. */
mf_status cli_outputs_differ(const cli_output *outputs, size_t n_output, mf_error *error);

/* It is not the file `path`, which is `what` ("the model"); not one of a list; not a text that was read for --`option`. */
mf_status cli_output_spares(const cli_output *out, const char *path, const char *what, mf_error *error);
mf_status cli_output_spares_texts(const cli_output *out, const cli_corpus *corpus, const char *option, mf_error *error);

/* A file can be written under a temporary name beside it and renamed. */
mf_status cli_output_can_be_written(const cli_output *out, mf_error *error);

#endif
