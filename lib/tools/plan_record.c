/* plan_record.c - the resume file: a line of JSON that says what it belongs to, and one for each evaluation. A line that
 * is not whole, as a killed process may leave at the end, is cut off. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "defs.h"
#include "plan.h"
#include "status.h"

typedef struct known {
    mfi_plan_score score;
    mfi_view_layer *layer; /* [n_layer] */
} known;

struct mfi_record {
    mf_allocator allocator;
    uint32_t n_layer;
    int fd; /* -1: no file */
    char *path;
    known *found; /* that the file had when it was opened */
    size_t n_found, room;
};

static mf_status fail_file(const mfi_record *r, mf_error *error)
{
    return mfi_fail(error, MF_E_IO, "%.150s: %s", r->path, strerror(errno));
}

static bool add_found(mfi_record *r, const mfi_view_layer *layers, const mfi_plan_score *score)
{
    if (r->n_found == r->room) {
        const size_t room = mfi_max(64, 2 * r->room);
        known *more = mfi_alloc_array(&r->allocator, room, sizeof *more);
        if (!more) return false;
        if (r->n_found) memcpy(more, r->found, r->n_found * sizeof *more);
        mfi_free(&r->allocator, r->found, r->room * sizeof *more);
        r->found = more;
        r->room = room;
    }
    mfi_view_layer *copy = mfi_alloc_array(&r->allocator, r->n_layer, sizeof *copy);
    if (!copy) return false;
    memcpy(copy, layers, r->n_layer * sizeof *copy);
    r->found[r->n_found++] = (known){ *score, copy };
    return true;
}

/* {"ffn": [...], "heads": [...], "loss": ...}; anything else is left out. */
static bool read_line(mfi_record *r, const char *line, size_t bytes)
{
    mfi_view_layer layers[MFI_MAX_LAYER];
    mfi_plan_score score;
    json_t *ffn, *heads, *object = json_loadb(line, bytes, 0, NULL);
    bool good = json_unpack(object, "{s:o, s:o, s:F, s:F, s:F, s:F}", "ffn", &ffn, "heads", &heads, "loss", &score.loss,
                            "kl", &score.kl, "agreement", &score.agreement, "acceptance", &score.acceptance) == 0 &&
                json_array_size(ffn) == r->n_layer && json_array_size(heads) == r->n_layer;
    for (uint32_t l = 0; l < r->n_layer && good; l++) {
        const json_int_t width = json_integer_value(json_array_get(ffn, l));
        const json_int_t n_head = json_integer_value(json_array_get(heads, l));
        good = width >= 0 && width / MFI_QUANTUM <= UINT16_MAX && n_head >= 0 && n_head <= UINT16_MAX;
        layers[l] = (mfi_view_layer){ (uint16_t)(width / MFI_QUANTUM), (uint16_t)n_head };
    }
    json_decref(object);
    return !good || add_found(r, layers, &score);
}

static bool same_json(const char *a, size_t a_bytes, const char *b)
{
    json_t *one = json_loadb(a, a_bytes, 0, NULL), *other = json_loads(b, 0, NULL);
    const bool same = one && other && json_equal(one, other);
    json_decref(one);
    json_decref(other);
    return same;
}

/* Takes the lines of a file that was there, and cuts off what follows the last whole one. */
static mf_status read_lines(mfi_record *r, const char *text, size_t bytes, const char *key, mf_error *error)
{
    size_t at = 0;
    for (const char *end; at < bytes && (end = memchr(text + at, '\n', bytes - at)); at = (size_t)(end - text) + 1) {
        const size_t length = (size_t)(end - text) - at;
        if (at == 0 && !same_json(text, length, key))
            return mfi_fail(error, MF_E_INVALID,
                            "%.120s: the evaluations of another model, text or plan; give another file, or remove it",
                            r->path);
        if (at > 0 && !read_line(r, text + at, length)) return mfi_fail(error, MF_E_NOMEM, "no memory for %s", r->path);
    }
    return ftruncate(r->fd, (off_t)at) == 0 && lseek(r->fd, (off_t)at, SEEK_SET) >= 0 ? MF_OK : fail_file(r, error);
}

/* One write, so that a process that is killed leaves all of the line, or a beginning that the next one cuts off. */
static mf_status append(mfi_record *r, const char *line, mf_error *error)
{
    const size_t bytes = strlen(line);
    ssize_t n;
    do
        n = write(r->fd, line, bytes);
    while (n < 0 && errno == EINTR);
    if (n >= 0 && (size_t)n < bytes) errno = ENOSPC;
    return n == (ssize_t)bytes && fsync(r->fd) == 0 ? MF_OK : fail_file(r, error);
}

static mf_status open_file(mfi_record *r, const char *path, const char *key, mf_error *error)
{
    char line[1024];
    r->path = mfi_alloc(&r->allocator, strlen(path) + 1);
    if (!r->path) return mfi_fail(error, MF_E_NOMEM, "no memory for a resume file");
    memcpy(r->path, path, strlen(path) + 1);
    r->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    const off_t bytes = r->fd >= 0 ? lseek(r->fd, 0, SEEK_END) : -1;
    if (bytes < 0) return fail_file(r, error);
    char *text = mfi_alloc(&r->allocator, (size_t)bytes + 1);
    if (!text) return mfi_fail(error, MF_E_NOMEM, "no memory for %s", path);
    mf_status status = pread(r->fd, text, (size_t)bytes, 0) == bytes ? MF_OK : fail_file(r, error);
    if (status == MF_OK) status = read_lines(r, text, (size_t)bytes, key, error);
    const bool is_new = status == MF_OK && lseek(r->fd, 0, SEEK_CUR) == 0;
    mfi_free(&r->allocator, text, (size_t)bytes + 1);
    if (!is_new) return status;
    snprintf(line, sizeof line, "%s\n", key);
    return append(r, line, error);
}

mf_status mfi_record_open(mfi_record **out, const char *path, const char *key, uint32_t n_layer,
                          const mf_allocator *allocator, mf_error *error)
{
    *out = NULL;
    mfi_record *r = mfi_alloc(allocator, sizeof *r);
    if (!r) return mfi_fail(error, MF_E_NOMEM, "no memory for a plan");
    r->allocator = *allocator;
    r->n_layer = n_layer;
    r->fd = -1;
    const mf_status status = path ? open_file(r, path, key, error) : MF_OK;
    if (status == MF_OK)
        *out = r;
    else
        mfi_record_close(r);
    return status;
}

bool mfi_record_find(const mfi_record *r, const mfi_view_layer *layers, mfi_plan_score *score)
{
    for (size_t i = 0; i < r->n_found; i++) {
        if (memcmp(r->found[i].layer, layers, r->n_layer * sizeof *layers) != 0) continue;
        *score = r->found[i].score;
        return true;
    }
    return false;
}

mf_status mfi_record_add(mfi_record *r, const mfi_view_layer *layers, const mfi_plan_score *score, mf_error *error)
{
    if (r->fd < 0) return MF_OK;
    json_t *ffn = json_array(), *heads = json_array();
    for (uint32_t l = 0; l < r->n_layer; l++) {
        json_array_append_new(ffn, json_integer(layers[l].ffn_quanta * (json_int_t)MFI_QUANTUM));
        json_array_append_new(heads, json_integer(layers[l].heads));
    }
    json_t *object = json_pack("{s:o, s:o, s:f, s:f, s:f, s:f}", "ffn", ffn, "heads", heads, "loss", score->loss, "kl",
                               score->kl, "agreement", score->agreement, "acceptance", score->acceptance);
    char line[16 * MFI_MAX_LAYER + 256];
    const size_t bytes = object ? json_dumpb(object, line, sizeof line - 2, JSON_COMPACT | JSON_REAL_PRECISION(17)) : 0;
    json_decref(object);
    if (bytes == 0 || bytes > sizeof line - 2) return mfi_fail(error, MF_E_NOMEM, "no memory for an evaluation");
    line[bytes] = '\n';
    line[bytes + 1] = '\0';
    return append(r, line, error);
}

void mfi_record_close(mfi_record *r)
{
    if (!r) return;
    const mf_allocator allocator = r->allocator;
    for (size_t i = 0; i < r->n_found; i++)
        mfi_free(&allocator, r->found[i].layer, r->n_layer * sizeof *r->found[i].layer);
    mfi_free(&allocator, r->found, r->room * sizeof *r->found);
    if (r->path) mfi_free(&allocator, r->path, strlen(r->path) + 1);
    if (r->fd >= 0) close(r->fd);
    mfi_free(&allocator, r, sizeof *r);
}
