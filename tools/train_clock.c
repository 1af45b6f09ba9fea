/* train_clock.c - see train_clock.h. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "train_clock.h"

mf_status train_clock_open(const char *checkpoint, int *fd, mf_error *error)
{
    char *path;
    if (asprintf(&path, "%s.json", checkpoint) < 0) return error->status = MF_E_NOMEM;
    mf_status status = MF_OK;
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0) {
        status = cli_fail_file(error, path);
    } else if (flock(*fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        /* Other failures are those of file systems that have no locks. */
        snprintf(error->detail, sizeof(error->detail),
                 "another training uses the checkpoint %s; wait for its end, or give another --checkpoint", checkpoint);
        status = error->status = MF_E_BUSY;
    }
    free(path);
    return status;
}

bool train_clock_read(int fd, double *seconds)
{
    json_t *root = json_loadfd(fd, 0, NULL), *elapsed = json_object_get(root, "elapsed");
    bool found = json_is_number(elapsed);
    if (found) *seconds = json_number_value(elapsed);
    json_decref(root);
    return found;
}

/* In place, since the lock is this file's. A crash may leave it torn, and all that it holds is a time. */
mf_status train_clock_write(int fd, double seconds, mf_error *error)
{
    cli_text text = cli_format("{\"elapsed\": %.3f}\n", seconds);
    size_t bytes = strlen(text.text);
    if (pwrite(fd, text.text, bytes, 0) == (ssize_t)bytes && ftruncate(fd, (off_t)bytes) == 0 && fsync(fd) == 0)
        return MF_OK;
    return cli_fail_file(error, "the time beside the checkpoint");
}
