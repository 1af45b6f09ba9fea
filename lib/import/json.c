/* json.c - bounded JSON. */
#define _POSIX_C_SOURCE 200809L
#include "json.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "platform.h"
#include "status.h"

#define MAX_DEPTH 64u

/* jansson allows 2048 levels, which its callers then descend into; counted before it parses. */
static bool too_deep(const char *text, size_t bytes)
{
    size_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        const char c = text[i];
        if (in_string) {
            if (c == '\\') i++;
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > MAX_DEPTH) return true;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return false;
}

mf_status mfi_json_parse(mfi_json *out, const char *name, const char *text, size_t bytes, mf_error *error)
{
    *out = (mfi_json){ name, NULL };
    if (too_deep(text, bytes))
        return mfi_fail(error, MF_E_FORMAT, "%s: JSON of more than %u levels; fetch the file again", name, MAX_DEPTH);
    json_error_t reason;
    out->root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &reason);
    /* transformers writes 10^30 where a tokenizer has no limit. Then all numbers are floats. */
    if (!out->root && json_error_code(&reason) == json_error_numeric_overflow)
        out->root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, &reason);
    if (!out->root && (reason.text[0] == '\0' || json_error_code(&reason) == json_error_out_of_memory))
        return mfi_fail(error, MF_E_NOMEM, "%s: no memory for its JSON", name); /* of which jansson may say nothing */
    if (!out->root)
        return mfi_fail(error, MF_E_FORMAT, "%s: line %d: %s; fetch the file again", name, reason.line, reason.text);
    if (json_is_object(out->root)) return MF_OK;
    mfi_json_free(out);
    return mfi_fail(error, MF_E_FORMAT, "%s: the JSON is no object; fetch the file again", name);
}

/* Of `bytes` bytes, which is the file's length; to be freed, also on failure. */
static mf_status read_whole(int fd, const char *path, uint64_t bytes, size_t max_bytes, char **text, mf_error *error)
{
    if (bytes > max_bytes)
        return mfi_fail(error, MF_E_FORMAT, "%s: more than %zu bytes of JSON; fetch the file again", path, max_bytes);
    *text = malloc((size_t)bytes + 1);
    if (!*text) return mfi_fail(error, MF_E_NOMEM, "%s: no memory for %zu bytes", path, (size_t)bytes);
    return mfi_read_at(fd, *text, (size_t)bytes, 0, path, error);
}

mf_status mfi_json_load(mfi_json *out, const char *path, size_t max_bytes, mf_error *error)
{
    *out = (mfi_json){ path, NULL };
    int fd;
    uint64_t bytes;
    mf_status status = mfi_open_file(path, &fd, &bytes, error);
    if (status != MF_OK) return status;
    char *text = NULL;
    status = read_whole(fd, path, bytes, max_bytes, &text, error);
    close(fd);
    if (status == MF_OK) status = mfi_json_parse(out, path, text, (size_t)bytes, error);
    free(text);
    return status;
}

void mfi_json_free(mfi_json *json)
{
    json_decref(json->root);
    json->root = NULL;
}

/* ---- Values ---- */

static void fail_value(mfi_json_reader *r, const char *key, const char *what)
{
    if (r->status == MF_OK) r->status = mfi_fail(r->error, MF_E_FORMAT, "%s: \"%s\" %s", r->where, key, what);
}

/* NULL where it is absent, null or something failed before. */
static const json_t *find(const mfi_json_reader *r, const char *key)
{
    const json_t *value = r->status == MF_OK ? json_object_get(r->object, key) : NULL;
    return json_is_null(value) ? NULL : value;
}

uint32_t mfi_json_u32_or(mfi_json_reader *r, const char *key, uint32_t least, uint32_t most, uint32_t none)
{
    const json_t *value = find(r, key);
    if (!value) return none;
    const double number = json_is_number(value) ? json_number_value(value) : -1;
    if (number >= (double)least && number <= (double)most && number == floor(number)) return (uint32_t)number;
    if (r->status == MF_OK)
        r->status =
            mfi_fail(r->error, MF_E_FORMAT, "%s: \"%s\" must be an integer from %u to %u", r->where, key, least, most);
    return none;
}

uint32_t mfi_json_u32(mfi_json_reader *r, const char *key, uint32_t least, uint32_t most)
{
    if (r->status == MF_OK && !find(r, key)) fail_value(r, key, "is missing; fetch the file again");
    return mfi_json_u32_or(r, key, least, most, least);
}

double mfi_json_f64_or(mfi_json_reader *r, const char *key, double none)
{
    const json_t *value = find(r, key);
    if (!value) return none;
    if (json_is_number(value) && isfinite(json_number_value(value))) return json_number_value(value);
    fail_value(r, key, "must be a number");
    return none;
}

double mfi_json_f64(mfi_json_reader *r, const char *key)
{
    if (r->status == MF_OK && !find(r, key)) fail_value(r, key, "is missing; fetch the file again");
    return mfi_json_f64_or(r, key, 0);
}

bool mfi_json_bool_or(mfi_json_reader *r, const char *key, bool none)
{
    const json_t *value = find(r, key);
    if (!value) return none;
    if (!json_is_boolean(value)) fail_value(r, key, "must be true or false");
    return json_is_true(value);
}

const char *mfi_json_text_or(mfi_json_reader *r, const char *key, const char *none)
{
    const json_t *value = find(r, key);
    if (!value) return none;
    if (!json_is_string(value)) fail_value(r, key, "must be a string");
    return json_is_string(value) ? json_string_value(value) : none;
}

const json_t *mfi_json_object(mfi_json_reader *r, const char *key)
{
    const json_t *value = find(r, key);
    if (value && !json_is_object(value)) fail_value(r, key, "must be an object");
    return json_is_object(value) ? value : NULL;
}

const json_t *mfi_json_array(mfi_json_reader *r, const char *key)
{
    const json_t *value = find(r, key);
    if (value && !json_is_array(value)) fail_value(r, key, "must be an array");
    return json_is_array(value) ? value : NULL;
}
