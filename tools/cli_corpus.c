/* cli_corpus.c - see cli_corpus.h. */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli_corpus.h"

bool cli_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static bool holds(const cli_corpus *corpus, const char *path)
{
    for (size_t i = 0; corpus && i < corpus->count; i++)
        if (cli_same_file(corpus->documents[i].path, path)) return true;
    return false;
}

static mf_status read_file(cli_corpus *corpus, const char *path, mf_error *error)
{
    cli_document *more = realloc(corpus->documents, (corpus->count + 1) * sizeof(*more));
    if (!more) return error->status = MF_E_NOMEM;
    corpus->documents = more;
    cli_document document = { .path = strdup(path) };
    if (!document.path) return error->status = MF_E_NOMEM;
    document.text = cli_read_file(path, &document.bytes, error);
    if (!document.text) {
        free(document.path);
        return error->status;
    }
    corpus->bytes += document.bytes;
    corpus->documents[corpus->count++] = document;
    return MF_OK;
}

static int is_text(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 4 && entry->d_name[0] != '.' && strcmp(entry->d_name + n - 4, ".txt") == 0;
}

static mf_status read_folder(cli_corpus *corpus, const char *folder, const cli_corpus *except, mf_error *error)
{
    struct dirent **names;
    int n = scandir(folder, &names, is_text, alphasort);
    if (n < 0) return cli_fail_file(error, folder);
    mf_status status = MF_OK;
    for (int i = 0; i < n; i++) {
        char *path = NULL;
        if (status == MF_OK && asprintf(&path, "%s/%s", folder, names[i]->d_name) < 0) {
            path = NULL;
            status = error->status = MF_E_NOMEM;
        }
        if (status == MF_OK && !holds(except, path)) status = read_file(corpus, path, error);
        free(path);
        free(names[i]);
    }
    free(names);
    return status;
}

mf_status cli_corpus_read(cli_corpus *corpus, const cli_list *paths, const cli_corpus *except, mf_error *error)
{
    mf_status status = MF_OK;
    bool left_out = false;
    for (size_t i = 0; status == MF_OK && i < paths->count; i++) {
        const char *path = paths->items[i];
        struct stat about;
        if (strcmp(path, "-") == 0)
            status = read_file(corpus, path, error);
        else if (stat(path, &about) != 0)
            status = cli_fail_file(error, path);
        else if (S_ISDIR(about.st_mode))
            status = read_folder(corpus, path, except, error);
        else if (holds(except, path))
            left_out = true;
        else
            status = read_file(corpus, path, error);
    }
    if (status == MF_OK && corpus->bytes == 0) {
        snprintf(error->detail, sizeof(error->detail),
                 left_out ? "%s: the text is in both --data and --valid, and what is held out is not trained on"
                          : "%s: there is no text here; folders are searched for *.txt",
                 paths->count ? paths->items[0] : "");
        status = error->status = MF_E_NOT_FOUND;
    }
    return status;
}

mf_status cli_corpus_encode(cli_corpus *corpus, int32_t start, cli_encode encode, void *user, mf_error *error)
{
    /* A token stands for at least one byte. */
    corpus->tokens = malloc((corpus->bytes + corpus->count) * sizeof(*corpus->tokens));
    if (!corpus->tokens) return error->status = MF_E_NOMEM;
    size_t at = 0;
    for (size_t i = 0; i < corpus->count; i++) {
        const cli_document *document = &corpus->documents[i];
        size_t n = 0;
        if (start >= 0) corpus->tokens[at++] = start;
        mf_status status = encode(user, document->text, document->bytes, corpus->tokens + at, &n, error);
        if (status != MF_OK) return status;
        at += n;
    }
    corpus->n_token = at;
    return MF_OK;
}

void cli_corpus_free(cli_corpus *corpus)
{
    for (size_t i = 0; i < corpus->count; i++) {
        free(corpus->documents[i].path);
        free(corpus->documents[i].text);
    }
    free(corpus->documents);
    free(corpus->tokens);
    *corpus = (cli_corpus){ 0 };
}
