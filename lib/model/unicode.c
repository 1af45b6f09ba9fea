/* unicode.c - UTF-8, classes by bisection, and NFC: decompose, order the marks, compose. */
#include "unicode.h"

#include <string.h>

#include "defs.h"
#include "unicode_tables.h"

/* ---- UTF-8 ---- */

static uint32_t continued(const char *text, size_t at)
{
    return (unsigned char)text[at] ^ 0x80u; /* 0..63 for a byte that goes on, else more */
}

uint32_t mfi_utf8_first(const char *text, size_t bytes, size_t *length)
{
    const uint32_t first = (unsigned char)text[0];
    *length = 1;
    if (first < 0x80) return first;
    const size_t n = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    if (first < 0xc2 || first > 0xf4 || n > bytes) return MFI_NOT_UTF8 + first;
    uint32_t code = first & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (continued(text, i) > 63) return MFI_NOT_UTF8 + first;
        code = code << 6 | continued(text, i);
    }
    /* Longer than need be, a surrogate, or beyond Unicode. */
    if ((n == 3 && code < 0x800) || (n == 4 && code < 0x10000) || (code >= 0xd800 && code < 0xe000) || code > 0x10ffff)
        return MFI_NOT_UTF8 + first;
    *length = n;
    return code;
}

size_t mfi_utf8_put(char *out, uint32_t code)
{
    if (code < 0x80 || code >= MFI_NOT_UTF8) {
        out[0] = (char)(unsigned char)code; /* MFI_NOT_UTF8 is a multiple of 256 */
        return 1;
    }
    const size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(unsigned char)(0x80 | (code & 63));
    out[0] = (char)(unsigned char)((0xf00u >> n & 0xf0u) | code);
    return n;
}

/* ---- Tables ---- */

/* Index of the last of runs[n] that begins at `code` or before; an entry is first code << shift | value. */
static size_t find_run(const uint32_t *runs, size_t n, uint32_t shift, uint32_t code)
{
    size_t at = 0;
    while (n > 1) {
        const size_t half = n / 2;
        at += runs[at + half] >> shift <= code ? half : 0;
        n -= half;
    }
    return at;
}

mfi_class mfi_class_of(uint32_t code)
{
    if (code >= MFI_NOT_UTF8) return MFI_OTHER;
    return (mfi_class)(class_runs[find_run(class_runs, MFI_COUNT(class_runs), 2, code)] & 3);
}

static uint32_t combining_class(uint32_t code)
{
    if (code < 0x300 || code >= MFI_NOT_UTF8) return 0;
    return combining_runs[find_run(combining_runs, MFI_COUNT(combining_runs), 8, code)] & 255;
}

static const decomposition *find_decomposition(uint32_t code)
{
    size_t at = 0, n = MFI_COUNT(decompositions);
    while (n > 1) {
        const size_t half = n / 2;
        at += decompositions[at + half].code <= code ? half : 0;
        n -= half;
    }
    return decompositions[at].code == code ? &decompositions[at] : NULL;
}

/* 0: the two do not compose. */
static uint32_t compose_pair(uint32_t first, uint32_t second)
{
    size_t at = 0, n = MFI_COUNT(compositions);
    while (n > 1) {
        const size_t half = n / 2;
        const decomposition *d = &decompositions[compositions[at + half]];
        at += d->first < first || (d->first == first && d->second <= second) ? half : 0;
        n -= half;
    }
    const decomposition *d = &decompositions[compositions[at]];
    return d->first == first && d->second == second ? d->code : 0;
}

/* ---- Hangul, by arithmetic (The Unicode Standard, section 3.12) ---- */

enum { S_BASE = 0xac00, L_BASE = 0x1100, V_BASE = 0x1161, T_BASE = 0x11a7, L_COUNT = 19, V_COUNT = 21, T_COUNT = 28 };
enum { S_COUNT = L_COUNT * V_COUNT * T_COUNT };

static bool is_in(uint32_t code, uint32_t base, uint32_t count)
{
    return code >= base && code - base < count;
}

static uint32_t compose(uint32_t first, uint32_t second)
{
    if (is_in(first, L_BASE, L_COUNT) && is_in(second, V_BASE, V_COUNT))
        return S_BASE + ((first - L_BASE) * V_COUNT + second - V_BASE) * T_COUNT;
    if (is_in(first, S_BASE, S_COUNT) && (first - S_BASE) % T_COUNT == 0 && is_in(second, T_BASE + 1, T_COUNT - 1))
        return first + second - T_BASE;
    return compose_pair(first, second);
}

/* ---- NFC ---- */

enum { MAX_PARTS = 4 }; /* no character decomposes into more */

static size_t decompose(uint32_t code, uint32_t parts[MAX_PARTS])
{
    if (is_in(code, S_BASE, S_COUNT)) {
        const uint32_t s = code - S_BASE;
        parts[0] = L_BASE + s / (V_COUNT * T_COUNT);
        parts[1] = V_BASE + s / T_COUNT % V_COUNT;
        parts[2] = T_BASE + s % T_COUNT;
        return s % T_COUNT ? 3 : 2;
    }
    /* Only first parts decompose further, so that the second ones come out last first. */
    uint32_t seconds[MAX_PARTS];
    size_t n_second = 0, n = 0;
    for (const decomposition *d; (d = find_decomposition(code)) != NULL; code = d->first)
        if (d->second) seconds[n_second++] = d->second;
    parts[n++] = code;
    while (n_second > 0)
        parts[n++] = seconds[--n_second];
    return n;
}

/* Writes the decomposed codes where `codes` is not NULL; returns their number. */
static size_t decompose_text(const char *text, size_t bytes, uint32_t *codes)
{
    size_t n = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        uint32_t parts[MAX_PARTS];
        const size_t n_part = decompose(mfi_utf8_first(text + at, bytes - at, &length), parts);
        if (codes) memcpy(codes + n, parts, n_part * sizeof *parts);
        n += n_part;
    }
    return n;
}

/* Orders one run of marks by class, equal ones as they stood: counted, since a run may be the whole text. */
static void order_run(uint32_t *codes, uint32_t *scratch, size_t n)
{
    size_t start[257] = { 0 };
    for (size_t i = 0; i < n; i++)
        start[combining_class(codes[i]) + 1]++;
    for (size_t i = 1; i < MFI_COUNT(start); i++)
        start[i] += start[i - 1];
    for (size_t i = 0; i < n; i++)
        scratch[start[combining_class(codes[i])]++] = codes[i];
    memcpy(codes, scratch, n * sizeof *codes);
}

static void order_marks(uint32_t *codes, uint32_t *scratch, size_t n)
{
    for (size_t at = 0, end; at < n; at = end) {
        bool in_order = true;
        uint32_t last = 0, now;
        for (end = at; end < n && (now = combining_class(codes[end])) != 0; end++) {
            in_order = in_order && now >= last;
            last = now;
        }
        if (!in_order) order_run(codes + at, scratch, end - at);
        end += end == at;
    }
}

/* In place; returns how many are left. A mark joins the starter before it unless one of its own class, or a starter,
 * stands between. */
static size_t compose_codes(uint32_t *codes, size_t n)
{
    size_t out = 0, starter = SIZE_MAX;
    uint32_t last = 0; /* class of the code before, 0 also for the starter itself */
    for (size_t i = 0; i < n; i++) {
        const uint32_t code = codes[i], now = combining_class(code);
        const bool is_near = starter != SIZE_MAX && (out == starter + 1 || (last != 0 && last < now));
        const uint32_t whole = is_near ? compose(codes[starter], code) : 0;
        if (whole) {
            codes[starter] = whole;
            continue;
        }
        if (now == 0) starter = out;
        last = now;
        codes[out++] = code;
    }
    return out;
}

static bool may_change(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)text[i] >= 0xcc) return true; /* U+0300 and later */
    return false;
}

mf_status mfi_nfc(const mf_allocator *allocator, const char *text, size_t bytes, char **out, size_t *out_bytes)
{
    *out = (char *)text;
    *out_bytes = bytes;
    if (!may_change(text, bytes)) return MF_OK;
    const size_t n = decompose_text(text, bytes, NULL);
    uint32_t *codes = mfi_alloc_array(allocator, n, 2 * sizeof *codes);
    if (!codes) return MF_E_NOMEM;
    decompose_text(text, bytes, codes);
    order_marks(codes, codes + n, n);
    const size_t n_out = compose_codes(codes, n);
    char character[MFI_MAX_CHARACTER_BYTES];
    *out_bytes = 0;
    for (size_t i = 0; i < n_out; i++)
        *out_bytes += mfi_utf8_put(character, codes[i]);
    *out = mfi_alloc(allocator, *out_bytes);
    for (size_t i = 0, at = 0; *out && i < n_out; i++)
        at += mfi_utf8_put(*out + at, codes[i]);
    mfi_free(allocator, codes, n * 2 * sizeof *codes);
    return *out ? MF_OK : MF_E_NOMEM;
}
