/* import_names.c - our names of matrices and other people's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "families.h"

const char *mfi_rest_of_name(const mfi_config *config, const char *ours, uint32_t layer)
{
    return layer < config->n_layer ? strchr(strchr(ours, '.') + 1, '.') + 1 : ours;
}

/* `rest` against `ours`, in which "#" stands for an index. */
static bool matches(const char *ours, const char *rest, uint32_t *index)
{
    const char *mark = strchr(ours, '#');
    if (!mark) return strcmp(ours, rest) == 0;
    const size_t head = (size_t)(mark - ours);
    char *end;
    if (strncmp(ours, rest, head) != 0 || rest[head] < '0' || rest[head] > '9') return false;
    *index = (uint32_t)strtoul(rest + head, &end, 10);
    return strcmp(end, mark + 1) == 0;
}

const mfi_name *mfi_next_name(const mfi_import_family *family, const mfi_name *entry, const char *rest, uint32_t *index)
{
    for (entry = entry ? entry + 1 : family->names; entry->ours; entry++)
        if (matches(entry->ours, rest, index)) return entry;
    return NULL;
}

void mfi_make_name(const mfi_name *entry, const char *prefix, uint32_t layer, uint32_t index, char *out, size_t room)
{
    const bool bare = entry->theirs[0] == '^';
    size_t used = (size_t)snprintf(out, room, "%s", bare ? "" : prefix);
    for (const char *at = entry->theirs + bare; *at != '\0' && used + 16 < room; at++) {
        if (at[0] == '%' && at[1] == 'u') {
            used += (size_t)snprintf(out + used, room - used, "%u", layer);
            at++;
        } else if (at[0] == '#') {
            used += (size_t)snprintf(out + used, room - used, "%u", index);
        } else {
            out[used++] = *at;
        }
    }
    out[used] = '\0';
}

const mfi_name *mfi_find_name(const mfi_import_family *family, const mfi_config *config, const char *ours,
                              uint32_t layer, const char *prefix, char *theirs, size_t room, const char **rest)
{
    uint32_t index = 0;
    *rest = mfi_rest_of_name(config, ours, layer);
    const mfi_name *entry = mfi_next_name(family, NULL, *rest, &index);
    if (entry) mfi_make_name(entry, prefix, layer, index, theirs, room);
    return entry;
}
