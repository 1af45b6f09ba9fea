/* slices.c - the slicing configurations that are published for Gemma 3n, as comma-separated values, to named
 * configurations of a source.
 *
 *     name,# Layers,# Effective Params (B),MMLU PT accuracy,FFN Hidden Dims,Layers Skipped
 *     Config for E2.54B (layer-level),35,2.54,55.4,"[2_048 * 4, 2_048 * 4, ...]",
 *
 * Widths are those of the layers that are kept, in order; a number may be a product. Columns are found by their names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arena.h"
#include "defs.h"
#include "platform.h"
#include "source.h"
#include "status.h"

#define MAX_BYTES ((size_t)1 << 20)
#define MAX_COLUMN 16u

typedef struct field {
    const char *at;
    size_t bytes;
} field;

typedef struct table {
    const char *name, *at, *end;
    uint32_t line;
    uint32_t n_named; /* configurations so far */
    mf_error *error;
} table;

static mf_status fail(const table *t, const char *what)
{
    return mfi_fail(t->error, MF_E_FORMAT, "%s: line %u: %s", t->name, t->line, what);
}

/* One line's fields; quotes around a field may hold commas and line ends, and are not doubled inside. */
static mf_status read_line(table *t, field *fields, size_t *count)
{
    *count = 0;
    t->line++;
    for (bool more = true; more;) {
        if (*count == MAX_COLUMN) return fail(t, "more than 16 columns");
        const bool quoted = t->at < t->end && *t->at == '"';
        const char *begin = t->at += quoted;
        while (t->at < t->end && (quoted ? *t->at != '"' : *t->at != ',' && *t->at != '\n'))
            t->at++;
        if (quoted && t->at == t->end) return fail(t, "a quotation that does not end");
        fields[(*count)++] = (field){ begin, (size_t)(t->at - begin) };
        t->at += quoted;
        if (t->at < t->end && *t->at == '\r') t->at++;
        if (t->at < t->end && *t->at != ',' && *t->at != '\n') return fail(t, "text after a quotation");
        more = t->at < t->end && *t->at == ',';
        if (t->at < t->end) t->at++;
    }
    field *last = &fields[*count - 1];
    if (last->bytes > 0 && last->at[last->bytes - 1] == '\r') last->bytes--;
    return MF_OK;
}

static bool find_column(const field *header, size_t count, const char *name, size_t *column)
{
    for (*column = 0; *column < count; ++*column)
        if (header[*column].bytes == strlen(name) && memcmp(header[*column].at, name, header[*column].bytes) == 0)
            return true;
    return false;
}

static void skip_space(field *f)
{
    while (f->bytes > 0 && (*f->at == ' ' || *f->at == '\t' || *f->at == '\n' || *f->at == '\r'))
        f->at++, f->bytes--;
}

static bool takes(field *f, char c)
{
    skip_space(f);
    if (f->bytes == 0 || *f->at != c) return false;
    f->at++, f->bytes--;
    return true;
}

/* "2_048 * 4"; false beyond 2^24. */
static bool read_product(field *f, uint32_t *value)
{
    uint64_t product = 1;
    do {
        uint64_t number = 0;
        bool any = false;
        skip_space(f);
        for (; f->bytes > 0 && ((*f->at >= '0' && *f->at <= '9') || (any && *f->at == '_')); f->at++, f->bytes--) {
            if (*f->at == '_') continue;
            number = number * 10 + (uint64_t)(*f->at - '0');
            any = true;
            if (number > 1u << 24) return false;
        }
        product *= number;
        if (!any || product > 1u << 24) return false;
    } while (takes(f, '*'));
    *value = (uint32_t)product;
    return true;
}

/* "[a, b, ...]", also empty, or nothing at all. */
static bool read_list(field f, uint32_t values[MFI_MAX_LAYER], size_t *count)
{
    *count = 0;
    skip_space(&f);
    if (f.bytes == 0) return true;
    if (!takes(&f, '[')) return false;
    if (!takes(&f, ']')) {
        do
            if (*count == MFI_MAX_LAYER || !read_product(&f, &values[(*count)++])) return false;
        while (takes(&f, ','));
        if (!takes(&f, ']')) return false;
    }
    skip_space(&f);
    return f.bytes == 0;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* "E2.54" of "Config for E2.54B (layer-level)", "E2.98-block" where it is of the block level, "E2B"; else what of the
 * text a name may have. */
static void make_name(field f, char name[16])
{
    char text[256];
    size_t n = 0;
    snprintf(text, sizeof text, "%.*s", (int)mfi_min(f.bytes, sizeof text - 1), f.at);
    const char *at = text;
    while (*at && !(at[0] == 'E' && is_digit(at[1])))
        at++;
    if (*at) {
        const char *point = NULL;
        for (name[n++] = *at++; n < 9 && (is_digit(*at) || (*at == '.' && !point && is_digit(at[1]))); at++) {
            if (*at == '.') point = at;
            name[n++] = *at;
        }
        if (!point && *at == 'B') name[n++] = 'B';
        snprintf(name + n, 16 - n, "%s", strstr(text, "block") ? "-block" : "");
        return;
    }
    for (at = text; *at && n < 15; at++) {
        const bool letter = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z');
        if (letter || (n > 0 && (is_digit(*at) || *at == '.' || *at == '-'))) name[n++] = *at;
    }
    name[n] = '\0';
}

/* ---- Configurations ---- */

/* Widths by layer, 0 where skipped. */
static mf_status spread(const table *t, const mfi_config *config, const uint32_t *widths, size_t n_width,
                        const uint32_t *skipped, size_t n_skipped, uint32_t *ffn)
{
    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    bool skip[MFI_MAX_LAYER] = { false };
    for (size_t i = 0; i < n_skipped; i++) {
        if (skipped[i] >= config->n_layer) return fail(t, "\"Layers Skipped\" names a layer that the model has not");
        skip[skipped[i]] = true;
    }
    size_t kept = 0;
    for (uint32_t layer = 0; layer < config->n_layer; layer++) {
        if (skip[layer] && !config->may_skip[layer])
            return mfi_fail(t->error, MF_E_WIDTH,
                            "%s: line %u: layer %u may not be skipped: others read its keys and values", t->name,
                            t->line, layer);
        ffn[layer] = 0;
        if (skip[layer]) continue;
        if (kept == n_width) return fail(t, "\"FFN Hidden Dims\" has fewer widths than layers are kept");
        ffn[layer] = widths[kept++];
        if (ffn[layer] == 0 || ffn[layer] % MFI_QUANTUM != 0 || ffn[layer] > full->ffn[layer])
            return mfi_fail(t->error, MF_E_WIDTH, "%s: line %u: width %u of layer %u is no multiple of %u up to %u",
                            t->name, t->line, ffn[layer], layer, MFI_QUANTUM, full->ffn[layer]);
    }
    return kept == n_width ? MF_OK : fail(t, "\"FFN Hidden Dims\" has more widths than layers are kept");
}

/* The configuration of that name; else the next empty one, or NULL where there is none left. */
static mfi_granularity *named(table *t, mfi_config *config, const char *name)
{
    for (uint32_t i = 0; i < t->n_named; i++)
        if (strcmp(config->named[i].name, name) == 0) return &config->named[i];
    return t->n_named < MFI_MAX_NAMED ? &config->named[t->n_named++] : NULL;
}

/* A granularity's name means that granularity: whatever else it were would be hidden by it. */
static mf_status add(table *t, mfi_config *config, const char *name, const uint32_t *ffn)
{
    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    for (uint32_t g = 0; g < config->n_granularity; g++) {
        if (strcmp(config->granularity[g].name, name) != 0) continue;
        if (memcmp(config->granularity[g].ffn, ffn, config->n_layer * sizeof *ffn) == 0) return MF_OK;
        return fail(t, "the model has a granularity of that name with other widths");
    }
    mfi_granularity *to = named(t, config, name);
    if (!to) return fail(t, "more configurations than a file has names for (64)");
    snprintf(to->name, sizeof to->name, "%s", name);
    memcpy(to->ffn, ffn, config->n_layer * sizeof *ffn);
    for (uint32_t layer = 0; layer < config->n_layer; layer++)
        to->heads[layer] = ffn[layer] > 0 ? full->heads[layer] : 0;
    return MF_OK;
}

static mf_status read_row(table *t, mfi_config *config, const field *fields, const size_t column[3])
{
    uint32_t widths[MFI_MAX_LAYER], skipped[MFI_MAX_LAYER], ffn[MFI_MAX_LAYER];
    size_t n_width, n_skipped;
    char name[16];
    make_name(fields[column[0]], name);
    if (!name[0]) return fail(t, "\"name\" has no letter");
    if (!read_list(fields[column[1]], widths, &n_width)) return fail(t, "\"FFN Hidden Dims\" is no list of widths");
    if (!read_list(fields[column[2]], skipped, &n_skipped)) return fail(t, "\"Layers Skipped\" is no list of layers");
    mf_status status = spread(t, config, widths, n_width, skipped, n_skipped, ffn);
    return status == MF_OK ? add(t, config, name, ffn) : status;
}

static mf_status read_table(table *t, mfi_config *config)
{
    static const char *const wanted[3] = { "name", "FFN Hidden Dims", "Layers Skipped" };
    field header[MAX_COLUMN], fields[MAX_COLUMN];
    size_t n_column, n_field, column[3];
    mf_status status = read_line(t, header, &n_column);
    for (size_t i = 0; i < MFI_COUNT(wanted) && status == MF_OK; i++)
        if (!find_column(header, n_column, wanted[i], &column[i]))
            status = mfi_fail(t->error, MF_E_FORMAT, "%s: the first line has no column \"%s\"", t->name, wanted[i]);
    while (status == MF_OK && t->at < t->end) {
        status = read_line(t, fields, &n_field);
        if (status != MF_OK || (n_field == 1 && fields[0].bytes == 0)) continue; /* an empty line */
        status = n_field == n_column ? read_row(t, config, fields, column) : fail(t, "another number of columns");
    }
    return status;
}

static mf_status read_file(const char *path, const mf_allocator *allocator, char **text, size_t *bytes, mf_error *error)
{
    int fd;
    uint64_t size;
    mf_status status = mfi_open_file(path, &fd, &size, error);
    if (status != MF_OK) return status;
    if (size > MAX_BYTES) status = mfi_fail(error, MF_E_FORMAT, "%s: more than a megabyte", path);
    *bytes = (size_t)size + 1;
    if (status == MF_OK && !(*text = mfi_alloc(allocator, *bytes)))
        status = mfi_fail(error, MF_E_NOMEM, "no memory to read %s", path);
    if (status == MF_OK) status = mfi_read_at(fd, *text, *bytes - 1, 0, path, error);
    close(fd);
    return status;
}

mf_status mf_source_add_slices(mf_source *source, const char *path, mf_error *error)
{
    if (!source || !path) return mfi_fail(error, MF_E_INVALID, "source or path is NULL");
    const mf_allocator *allocator = &source->allocator;
    char *text = NULL;
    size_t bytes = 0;
    mfi_config room = { 0 }, config = { 0 }; /* with room for all names, and with those that there are */
    table t = { .name = path, .n_named = source->config->n_named, .error = error };
    mf_status status = read_file(path, allocator, &text, &bytes, error);
    if (status == MF_OK) status = mfi_config_copy(&room, source->config, MFI_MAX_NAMED, allocator, error);
    if (status == MF_OK) {
        t.at = text;
        t.end = text + bytes - 1;
        status = read_table(&t, &room);
    }
    if (status == MF_OK) status = mfi_config_copy(&config, &room, t.n_named, allocator, error);
    mfi_config_free(&room, allocator);
    mfi_free(allocator, text, bytes);
    if (status == MF_OK) status = mfi_config_check(&config, error);
    if (status != MF_OK) {
        mfi_config_free(&config, allocator);
        return status;
    }
    mfi_config_free(&source->own_config, allocator);
    source->own_config = config;
    source->config = &source->own_config;
    return MF_OK;
}
