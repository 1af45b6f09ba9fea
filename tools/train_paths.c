/* train_paths.c - see train_paths.h. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "train_paths.h"

typedef struct output {
    const char *option, *path;
} output;

static mf_status refuse(mf_error *error, const output *out, const char *what, const char *other)
{
    snprintf(error->detail, sizeof(error->detail), "--%s %.150s: %s%s", out->option, out->path, what, other);
    return error->status = MF_E_INVALID;
}

/* Files are written under a temporary name beside theirs, so that the folder must be writable. */
static mf_status check_folder(const output *out, mf_error *error)
{
    struct stat about;
    if (stat(out->path, &about) == 0 && !S_ISREG(about.st_mode)) return refuse(error, out, "not a regular file", "");
    char folder[4096];
    const char *slash = strrchr(out->path, '/');
    int length = !slash ? 1 : slash == out->path ? 1 : (int)(slash - out->path);
    if (snprintf(folder, sizeof(folder), "%.*s", length, slash ? out->path : ".") >= (int)sizeof(folder))
        return refuse(error, out, strerror(ENAMETOOLONG), "");
    return access(folder, W_OK | X_OK) == 0 ? MF_OK : refuse(error, out, "its folder: ", strerror(errno));
}

/* A file that does not exist yet has its path alone. */
static bool is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0 || cli_same_file(a, b);
}

static mf_status check_text(const output *out, const cli_corpus *corpus, const char *option, mf_error *error)
{
    for (size_t i = 0; i < corpus->count; i++)
        if (is_same(out->path, corpus->documents[i].path))
            return refuse(error, out, "it would be written over a text of --", option);
    return MF_OK;
}

mf_status train_paths_check(const train_options *options, const train_data *data, mf_error *error)
{
    const output outputs[] = { { "out", options->out },
                               { "checkpoint", options->checkpoint },
                               { "log", options->log } };
    mf_status status = MF_OK;
    for (size_t i = 0; i < CLI_COUNT(outputs) && status == MF_OK; i++) {
        const output *out = &outputs[i];
        if (!out->path) continue;
        for (size_t j = 0; j < i && status == MF_OK; j++)
            if (outputs[j].path && is_same(out->path, outputs[j].path))
                status = refuse(error, out, "it is the file of --", outputs[j].option);
        if (status == MF_OK) status = check_text(out, &data->train, "data", error);
        if (status == MF_OK) status = check_text(out, &data->valid, "valid", error);
        /* The log is opened before the first step, and may be a device. */
        if (status == MF_OK && out->path != options->log) status = check_folder(out, error);
    }
    return status;
}
