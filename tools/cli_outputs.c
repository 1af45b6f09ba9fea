/* cli_outputs.c - see cli_outputs.h. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli_outputs.h"

static mf_status refuse(mf_error *error, const cli_output *out, const char *what, const char *other)
{
    snprintf(error->detail, sizeof(error->detail), "--%s %.150s: %s%s", out->option, out->path, what, other);
    return error->status = MF_E_INVALID;
}

/* A file that does not exist yet has its path alone. */
static bool is_same(const char *a, const char *b)
{
    return strcmp(a, b) == 0 || cli_same_file(a, b);
}

mf_status cli_outputs_differ(const cli_output *outputs, size_t n_output, mf_error *error)
{
    for (size_t i = 0; i < n_output; i++)
        for (size_t j = 0; j < i; j++)
            if (outputs[i].path && outputs[j].path && is_same(outputs[i].path, outputs[j].path))
                return refuse(error, &outputs[i], "it is the file of --", outputs[j].option);
    return MF_OK;
}

mf_status cli_output_spares(const cli_output *out, const char *path, const char *what, mf_error *error)
{
    return out->path && is_same(out->path, path) ? refuse(error, out, "it would be written over ", what) : MF_OK;
}

mf_status cli_output_spares_texts(const cli_output *out, const cli_corpus *corpus, const char *option, mf_error *error)
{
    for (size_t i = 0; out->path && i < corpus->count; i++)
        if (is_same(out->path, corpus->documents[i].path))
            return refuse(error, out, "it would be written over a text of --", option);
    return MF_OK;
}

mf_status cli_output_can_be_written(const cli_output *out, mf_error *error)
{
    struct stat about;
    if (!out->path) return MF_OK;
    if (stat(out->path, &about) == 0 && !S_ISREG(about.st_mode)) return refuse(error, out, "not a regular file", "");
    char folder[4096];
    const char *slash = strrchr(out->path, '/');
    int length = !slash ? 1 : slash == out->path ? 1 : (int)(slash - out->path);
    if (snprintf(folder, sizeof(folder), "%.*s", length, slash ? out->path : ".") >= (int)sizeof(folder))
        return refuse(error, out, strerror(ENAMETOOLONG), "");
    return access(folder, W_OK | X_OK) == 0 ? MF_OK : refuse(error, out, "its folder: ", strerror(errno));
}
