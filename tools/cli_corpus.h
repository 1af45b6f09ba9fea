/* cli_corpus.h - text files, and the one stream of tokens that training and evaluation make of them: a start
 * token (where the model has one) before every file, files in the order given. */
#ifndef CLI_CORPUS_H
#define CLI_CORPUS_H

#include "cli.h"

typedef struct cli_document {
    char *path, *text;
    size_t bytes;
} cli_document;

typedef struct cli_corpus {
    cli_document *documents;
    size_t count, bytes; /* bytes: of all texts */
    int32_t *tokens;
    size_t n_token;
} cli_corpus;

/* Reads files, and all files that end in ".txt" of folders, in the order of their names. A file that `except`
 * (may be NULL) has read is left out, under whatever path it is named. */
mf_status cli_corpus_read(cli_corpus *corpus, const cli_list *paths, const cli_corpus *except, mf_error *error);

/* Text to tokens; `tokens` has room for one per byte. */
typedef mf_status (*cli_encode)(void *user, const char *text, size_t bytes, int32_t *tokens, size_t *n_token,
                                mf_error *error);
/* `start` -1: no start tokens. */
mf_status cli_corpus_encode(cli_corpus *corpus, int32_t start, cli_encode encode, void *user, mf_error *error);
void cli_corpus_free(cli_corpus *corpus);

/* Whether both exist and are one file, under whatever paths. */
bool cli_same_file(const char *a, const char *b);

#endif
