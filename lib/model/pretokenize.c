/* pretokenize.c - the cut into pieces, by hand-written forms of the patterns in docs/tokenizer.md. */
#include "pretokenize.h"

#include <stdbool.h>
#include <string.h>

#include "unicode.h"

/* ---- Our own rule, on bytes ---- */

typedef enum byte_class { WHITE, LETTER, DIGIT, MARK } byte_class;

static byte_class class_of(char text)
{
    unsigned char byte = (unsigned char)text;
    if (byte >= 0x80 || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z')) return LETTER;
    if (byte >= '0' && byte <= '9') return DIGIT;
    return byte == ' ' || (byte >= '\t' && byte <= '\r') ? WHITE : MARK;
}

static size_t plain_piece(const char *text, size_t bytes)
{
    size_t begin = bytes > 1 && text[0] == ' ' && class_of(text[1]) != WHITE;
    size_t end = begin;
    while (end < bytes && class_of(text[end]) == class_of(text[begin]))
        end++;
    bool is_white = end > 0 && class_of(text[begin]) == WHITE;
    bool last_goes_on = is_white && end > 1 && end < bytes && text[end - 1] == ' ';
    return end - last_goes_on;
}

/* ---- Patterns on characters ---- */

typedef struct character {
    uint32_t code;
    size_t length;   /* 0 at the end of the text */
    mfi_class class; /* at the end: a white space, which fits where no other class does */
} character;

static character character_at(const char *text, size_t bytes, size_t at)
{
    character c = { 0, 0, MFI_WHITE };
    if (at >= bytes) return c;
    c.code = mfi_utf8_first(text + at, bytes - at, &c.length);
    c.class = mfi_class_of(c.code);
    return c;
}

/* The end of the run of this class that begins at `at`, of at most `most` characters. */
static size_t run_end(const char *text, size_t bytes, size_t at, mfi_class class, size_t most)
{
    for (; most > 0; most--) {
        const character c = character_at(text, bytes, at);
        if (c.length == 0 || c.class != class) break;
        at += c.length;
    }
    return at;
}

/* \s+(?!\S)|\s+ : all but the last of several before something else. */
static size_t white_piece(const char *text, size_t bytes)
{
    size_t end = 0, last = 0;
    for (character c = character_at(text, bytes, 0); c.length > 0 && c.class == MFI_WHITE;
         c = character_at(text, bytes, end)) {
        last = end;
        end += c.length;
    }
    return end < bytes && last > 0 ? last : end;
}

/* 's|'t|'re|'ve|'m|'ll|'d ; 0: none of them. Without regard to case, U+017F is an s too. */
static size_t contraction(const char *text, size_t bytes, bool any_case)
{
    static const char one[] = "stmd", two[][3] = { "re", "ve", "ll" };
    if (bytes < 2 || text[0] != '\'') return 0;
    const char fold = any_case ? 0x20 : 0;
    const bool is_letter = (text[1] | 0x20) >= 'a' && (text[1] | 0x20) <= 'z';
    if (is_letter && memchr(one, text[1] | fold, 4)) return 2;
    for (size_t i = 0; i < 3 && bytes > 2; i++)
        if ((text[1] | fold) == two[i][0] && (text[2] | fold) == two[i][1]) return 3;
    return any_case && bytes > 2 && memcmp(text + 1, "\xc5\xbf", 2) == 0 ? 3 : 0;
}

static bool is_line_end(uint32_t code)
{
    return code == '\r' || code == '\n';
}

static size_t gpt2_piece(const char *text, size_t bytes)
{
    const size_t short_form = contraction(text, bytes, false);
    if (short_form) return short_form;
    const size_t space = bytes > 0 && text[0] == ' ';
    const character c = character_at(text, bytes, space);
    if (c.class != MFI_WHITE) return run_end(text, bytes, space, c.class, SIZE_MAX);
    return white_piece(text, bytes);
}

/* \s*[\r\n]+ : up to the last line end of the white space; 0: there is none. */
static size_t lines_piece(const char *text, size_t bytes)
{
    size_t found = 0, at = 0;
    for (character c = character_at(text, bytes, 0); c.length > 0 && c.class == MFI_WHITE;
         c = character_at(text, bytes, at)) {
        at += c.length;
        if (is_line_end(c.code)) found = at;
    }
    return found;
}

static size_t llama3_piece(const char *text, size_t bytes)
{
    const size_t short_form = contraction(text, bytes, true);
    if (short_form) return short_form;
    const character c = character_at(text, bytes, 0);
    if (c.class == MFI_LETTER) return run_end(text, bytes, 0, MFI_LETTER, SIZE_MAX);
    if (c.class == MFI_NUMBER) return run_end(text, bytes, 0, MFI_NUMBER, 3);
    const bool is_lead = c.length > 0 && !is_line_end(c.code);
    if (is_lead && character_at(text, bytes, c.length).class == MFI_LETTER)
        return run_end(text, bytes, c.length, MFI_LETTER, SIZE_MAX);
    const size_t space = c.code == ' ' && character_at(text, bytes, 1).class == MFI_OTHER;
    size_t end = run_end(text, bytes, space, MFI_OTHER, SIZE_MAX);
    if (end > space) {
        while (end < bytes && is_line_end((unsigned char)text[end]))
            end++;
        return end;
    }
    const size_t lines = lines_piece(text, bytes);
    return lines ? lines : white_piece(text, bytes);
}

size_t mfi_pretokenize(mfi_pretokenizer pretokenizer, const char *text, size_t bytes)
{
    switch (pretokenizer) {
    case MFI_PRE_PLAIN:
        return plain_piece(text, bytes);
    case MFI_PRE_GPT2:
        return gpt2_piece(text, bytes);
    case MFI_PRE_LLAMA3:
        return llama3_piece(text, bytes);
    default:
        return bytes;
    }
}
