/* import_nesting.c - what a config.json says of us under "matformer", in a folder that is otherwise as others write it:
 * which granularities the model was trained for, and which norm and FFN a decoder has that is no Llama for them. */
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "families.h"
#include "status.h"

static mf_status refuse(mfi_json_reader *r, mf_status status, const char *key, const char *what)
{
    if (r->status == MF_OK) r->status = mfi_fail(r->error, status, "%s: \"%s\" %s", r->where, key, what);
    return r->status;
}

/* True where the text under `key` is `other`, false where it is `usual` or absent. */
static bool chooses(mfi_json_reader *r, const char *key, const char *usual, const char *other)
{
    const char *text = mfi_json_text_or(r, key, usual);
    char what[64];
    if (r->status != MF_OK || strcmp(text, usual) == 0) return false;
    if (strcmp(text, other) == 0) return true;
    snprintf(what, sizeof what, "must be %s or %s", usual, other);
    refuse(r, MF_E_UNSUPPORTED, key, what);
    return false;
}

/* A Llama with layer norms or a plain FFN is a MatLM. */
static void read_skeleton(mfi_json_reader *r, mfi_config *config)
{
    if (config->family != MFI_FAMILY_LLAMA) return;
    if (chooses(r, "norm", "rms", "layer")) config->norm = MFI_NORM_LAYER;
    if (chooses(r, "ffn", "gated", "plain")) config->ffn = MFI_FFN_PLAIN;
    if (config->norm != MFI_NORM_RMS || config->ffn != MFI_FFN_GATED) config->family = MFI_FAMILY_MATLM;
}

/* One of the list. Its heads are the model's where it says none. */
static void read_granularity(mfi_json_reader *r, const json_t *entry, mfi_granularity *to, uint32_t n_layer)
{
    mfi_json_reader s = { r->where, entry, r->error, r->status };
    if (s.status == MF_OK && !json_is_object(entry)) refuse(&s, MF_E_FORMAT, "granularities", "must be objects");
    const char *name = mfi_json_text_or(&s, "name", "");
    if (s.status == MF_OK && strlen(name) >= sizeof to->name)
        refuse(&s, MF_E_FORMAT, "name", "of a granularity must have at most 15 bytes");
    if (s.status == MF_OK) snprintf(to->name, sizeof to->name, "%s", name);
    mfi_import_widths(&s, "intermediate_size", n_layer, to->ffn);
    if (s.status == MF_OK && json_object_get(entry, "num_attention_heads"))
        mfi_import_widths(&s, "num_attention_heads", n_layer, to->heads);
    r->status = s.status;
}

/* In place of the granularities that the family has by itself. */
static void read_granularities(mfi_json_reader *r, const json_t *list, mfi_config *config,
                               const mf_allocator *allocator)
{
    const uint32_t n_layer = config->n_layer, n = (uint32_t)mfi_min(json_array_size(list), MFI_MAX_GRANULARITY + 1);
    uint32_t ffn[MFI_MAX_LAYER], heads[MFI_MAX_LAYER];
    if (config->family == MFI_FAMILY_GEMMA3N) {
        refuse(r, MF_E_UNSUPPORTED, "granularities", "of Gemma 3n are its own: remove it");
        return;
    }
    if (n == 0 || n > MFI_MAX_GRANULARITY) {
        refuse(r, MF_E_FORMAT, "granularities", "must have 1 to 16 entries");
        return;
    }
    const mfi_granularity *full = &config->granularity[config->n_granularity - 1];
    memcpy(ffn, full->ffn, n_layer * sizeof *ffn);
    memcpy(heads, full->heads, n_layer * sizeof *heads);
    mfi_config_free(config, allocator);
    r->status = mfi_import_extents(config, n, allocator, r->error);
    for (uint32_t g = 0; g < n && r->status == MF_OK; g++) {
        memcpy(config->granularity[g].heads, heads, n_layer * sizeof *heads);
        read_granularity(r, json_array_get(list, g), &config->granularity[g], n_layer);
    }
    if (r->status != MF_OK) return;
    full = &config->granularity[n - 1];
    if (memcmp(full->ffn, ffn, n_layer * sizeof *ffn) != 0 || memcmp(full->heads, heads, n_layer * sizeof *heads) != 0)
        refuse(r, MF_E_FORMAT, "granularities", "must have the whole model last: its widths and heads in every layer");
}

mf_status mfi_import_nesting(mfi_json_reader *r, mfi_config *config, const mf_allocator *allocator)
{
    const json_t *object = mfi_json_object(r, "matformer");
    if (!object || r->status != MF_OK) return r->status;
    char where[512];
    snprintf(where, sizeof where, "%.480s: matformer", r->where);
    mfi_json_reader s = { where, object, r->error, MF_OK };
    read_skeleton(&s, config);
    const json_t *list = mfi_json_array(&s, "granularities");
    if (list && s.status == MF_OK) read_granularities(&s, list, config, allocator);
    return s.status;
}
