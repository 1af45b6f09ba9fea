/* submodel_text.c - the text form of a view: the one parser, and its inverse.
 *
 *     text   = field { (";" | " ") field }
 *     field  = name | ratio | "ffn=" runs | "heads=" runs | "skip=" ranges | budget
 *     runs   = value [ "x" count ] { "," ... }       8192x20,16384x15
 *     ranges = layer [ "-" layer ] { "," ... }       3,5-7
 *     budget = ("params" | "bytes" | "flops" | "ms") "<=" number
 */
#include <stdio.h>
#include <string.h>

#include "defs.h"
#include "status.h"
#include "submodel.h"

typedef struct field {
    const char *at;
    size_t bytes;
} field;

static bool is_separator(char c)
{
    return c == ';' || c == ' ' || c == '\t' || c == '\n';
}

/* Decimal digits only: no sign, no space; false beyond 32 bits. */
static bool read_u32(const char **at, const char *end, uint32_t *value)
{
    uint64_t v = 0;
    const char *p = *at;
    for (; p < end && *p >= '0' && *p <= '9' && v <= UINT32_MAX; p++)
        v = v * 10 + (uint64_t)(*p - '0');
    if (p == *at || v > UINT32_MAX) return false;
    *at = p;
    *value = (uint32_t)v;
    return true;
}

static double read_digits(const char **at, const char *end, double *unit)
{
    double value = 0;
    for (; *at < end && **at >= '0' && **at <= '9'; ++*at, *unit /= 10)
        value = value * 10 + (**at - '0');
    return value;
}

/* A decimal number without a sign, perhaps with an exponent. Not strtod, which reads by the host's locale. */
static bool read_number(field f, double *value)
{
    const char *at = f.at, *end = f.at + f.bytes;
    double unit = 1, ignored = 1;
    *value = read_digits(&at, end, &ignored);
    if (at < end && *at == '.') {
        at++;
        const double fraction = read_digits(&at, end, &unit);
        *value += fraction * unit;
    }
    if (at == f.at || (at == f.at + 1 && *f.at == '.')) return false;
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        const bool negative = at < end && *at == '-';
        at += at < end && (*at == '-' || *at == '+');
        uint32_t exponent;
        if (!read_u32(&at, end, &exponent) || exponent > 300) return false;
        for (; exponent > 0; exponent--)
            *value = negative ? *value / 10 : *value * 10;
    }
    return at == end && *value < 1e300;
}

static mf_status fail_field(field f, const char *reason, mf_error *error)
{
    return mfi_fail(error, MF_E_INVALID, "\"%.*s\" in the view's text: %s", (int)mfi_min(f.bytes, 60), f.at, reason);
}

/* `separator` is 'x' (value, count: the value repeated) or '-' (first, last: every value between). */
static mf_status read_list(field f, field list, char separator, uint32_t *out, size_t *count, mf_error *error)
{
    const char *at = list.at, *end = list.at + list.bytes;
    *count = 0;
    do {
        uint32_t first, second;
        if (!read_u32(&at, end, &first)) return fail_field(f, "expected a number", error);
        second = separator == 'x' ? 1 : first;
        if (at < end && *at == separator) {
            at++;
            if (!read_u32(&at, end, &second)) return fail_field(f, "expected a number", error);
        }
        if (separator == '-' && second < first) return fail_field(f, "a range runs upward", error);
        const uint64_t n = separator == 'x' ? second : (uint64_t)second - first + 1;
        if (n > MFI_MAX_LAYER - *count) return fail_field(f, "more entries than any model has layers", error);
        for (uint32_t i = 0; i < n; i++)
            out[(*count)++] = separator == 'x' ? first : first + i;
    } while (at < end && *at == ',' && at++);
    return at == end ? MF_OK : fail_field(f, "unexpected characters", error);
}

static bool takes(field *f, const char *prefix)
{
    const size_t n = strlen(prefix);
    if (f->bytes < n || memcmp(f->at, prefix, n) != 0) return false;
    f->at += n;
    f->bytes -= n;
    return true;
}

static mf_status read_budget(field f, field number, uint64_t *budget, mf_error *error)
{
    double value;
    if (!read_number(number, &value) || value < 1 || value >= 1.8e19)
        return fail_field(f, "expected a number of at least 1", error);
    *budget = (uint64_t)value;
    return MF_OK;
}

/* The base: a ratio where it reads as a number, else a name. */
static mf_status read_base(field f, mf_submodel_spec *spec, mfi_spec_storage *storage, mf_error *error)
{
    double ratio;
    if (spec->granularity != NULL || spec->ratio != 0) return fail_field(f, "a second base", error);
    if (read_number(f, &ratio)) {
        if (!(ratio > 0 && ratio <= 1)) return fail_field(f, "a ratio is above 0 and at most 1", error);
        spec->ratio = ratio;
        return MF_OK;
    }
    if (f.bytes >= sizeof storage->granularity || memchr(f.at, '=', f.bytes) != NULL)
        return fail_field(f, "neither a granularity, a ratio nor a known field", error);
    memcpy(storage->granularity, f.at, f.bytes);
    storage->granularity[f.bytes] = '\0';
    spec->granularity = storage->granularity;
    return MF_OK;
}

static mf_status read_field(field f, mf_submodel_spec *spec, mfi_spec_storage *storage, mf_error *error)
{
    field rest = f;
    if (takes(&rest, "ffn=")) {
        if (spec->ffn != NULL) return fail_field(f, "a second list of widths", error);
        spec->ffn = storage->ffn;
        return read_list(f, rest, 'x', storage->ffn, &spec->n_ffn, error);
    }
    if (takes(&rest, "heads=")) {
        if (spec->heads != NULL) return fail_field(f, "a second list of heads", error);
        spec->heads = storage->heads;
        return read_list(f, rest, 'x', storage->heads, &spec->n_heads, error);
    }
    if (takes(&rest, "skip=")) {
        if (spec->skip != NULL) return fail_field(f, "a second list of skipped layers", error);
        spec->skip = storage->skip;
        return read_list(f, rest, '-', storage->skip, &spec->n_skip, error);
    }
    if (takes(&rest, "params<=")) return read_budget(f, rest, &spec->max_params, error);
    if (takes(&rest, "bytes<=")) return read_budget(f, rest, &spec->max_bytes, error);
    if (takes(&rest, "flops<=")) return read_budget(f, rest, &spec->max_flops, error);
    if (takes(&rest, "ms<=")) {
        if (!read_number(rest, &spec->max_ms) || !(spec->max_ms > 0))
            return fail_field(f, "expected a number above 0", error);
        return MF_OK;
    }
    return read_base(f, spec, storage, error);
}

mf_status mfi_submodel_parse(mf_submodel_spec *spec, mfi_spec_storage *storage, const char *text, mf_error *error)
{
    *spec = (mf_submodel_spec){ .struct_size = sizeof *spec };
    mf_status status = MF_OK;
    bool any = false;
    for (const char *at = text; *at != '\0' && status == MF_OK;) {
        if (is_separator(*at)) {
            at++;
            continue;
        }
        field f = { at, 0 };
        while (*at != '\0' && !is_separator(*at))
            at++;
        f.bytes = (size_t)(at - f.at);
        status = read_field(f, spec, storage, error);
        any = true;
    }
    if (status == MF_OK && !any) return mfi_fail(error, MF_E_INVALID, "the view's text is empty");
    return status;
}

/* ---- Writing ---- */

typedef struct writer {
    char *out;
    size_t capacity, used; /* used counts on past the capacity */
} writer;

static void put(writer *w, const char *text)
{
    for (; *text != '\0'; text++, w->used++)
        if (w->used + 1 < w->capacity) w->out[w->used] = *text;
}

static void put_u32(writer *w, uint32_t value)
{
    char text[16];
    snprintf(text, sizeof text, "%u", value);
    put(w, text);
}

static uint32_t value_of(const mf_submodel *view, uint32_t layer, bool heads)
{
    return heads ? mfi_view_heads(view, layer) : mfi_view_ffn(view, layer);
}

/* The values of the kept layers, equal neighbours as value x count. */
static void put_runs(writer *w, const mf_submodel *view, bool heads)
{
    const char *comma = "";
    for (uint32_t layer = 0; layer < view->n_layer;) {
        uint32_t run = 0;
        const uint32_t value = value_of(view, layer, heads);
        uint32_t next = layer;
        for (; next < view->n_layer && (mfi_view_heads(view, next) == 0 || value_of(view, next, heads) == value);
             next++)
            run += mfi_view_heads(view, next) != 0;
        if (mfi_view_heads(view, layer) == 0) { /* leading skipped layers belong to no run */
            layer++;
            continue;
        }
        put(w, comma);
        put_u32(w, value);
        if (run > 1) {
            put(w, "x");
            put_u32(w, run);
        }
        comma = ",";
        layer = next;
    }
}

static void put_skips(writer *w, const mf_submodel *view)
{
    const char *lead = ";skip=";
    for (uint32_t layer = 0; layer < view->n_layer; layer++) {
        if (mfi_view_heads(view, layer) != 0) continue;
        uint32_t last = layer;
        while (last + 1 < view->n_layer && mfi_view_heads(view, last + 1) == 0)
            last++;
        put(w, lead);
        put_u32(w, layer);
        if (last > layer) {
            put(w, "-");
            put_u32(w, last);
        }
        lead = ",";
        layer = last;
    }
}

static bool equals_granularity(const mf_submodel *view, const mfi_granularity *granularity)
{
    for (uint32_t layer = 0; layer < view->n_layer; layer++)
        if (mfi_view_ffn(view, layer) != granularity->ffn[layer] ||
            mfi_view_heads(view, layer) != granularity->heads[layer])
            return false;
    return true;
}

static const char *name_of(const mf_submodel *view)
{
    const mfi_config *config = &view->model->config;
    for (uint32_t g = 0; g < config->n_granularity; g++)
        if (equals_granularity(view, &config->granularity[g])) return config->granularity[g].name;
    for (uint32_t i = 0; i < config->n_named; i++)
        if (equals_granularity(view, &config->named[i])) return config->named[i].name;
    return NULL;
}

static bool has_all_heads(const mf_submodel *view)
{
    for (uint32_t layer = 0; layer < view->n_layer; layer++)
        if (mfi_view_heads(view, layer) != 0 &&
            mfi_view_heads(view, layer) != view->model->program->layer[layer].n_head)
            return false;
    return true;
}

mf_status mfi_submodel_text(const mf_submodel *view, char *text, size_t capacity, size_t *bytes)
{
    writer w = { text, capacity, 0 };
    const char *name = name_of(view);
    if (name != NULL) {
        put(&w, name);
    } else {
        put(&w, "ffn=");
        put_runs(&w, view, false);
        if (!has_all_heads(view)) {
            put(&w, ";heads=");
            put_runs(&w, view, true);
        }
        put_skips(&w, view);
    }
    if (capacity > 0) text[mfi_min(w.used, capacity - 1)] = '\0';
    if (bytes != NULL) *bytes = w.used + 1;
    return w.used < capacity ? MF_OK : MF_E_CAPACITY;
}

mf_status mfi_layers_text(const mf_model *model, const mfi_view_layer *layers, char *text, size_t capacity,
                          size_t *bytes)
{
    union {
        mf_submodel view;
        unsigned char room[sizeof(mf_submodel) + MFI_MAX_LAYER * sizeof(mfi_view_layer)];
    } here = { .view = { .n_layer = model->config.n_layer } };
    here.view.model = (mf_model *)(uintptr_t)model; /* it is only read */
    memcpy(here.view.layer, layers, model->config.n_layer * sizeof *layers);
    return mfi_submodel_text(&here.view, text, capacity, bytes);
}
