/* tokenizer_lines.h - the lines of make_tokenizers_golden.py, which says what they are. */
#ifndef TOKENIZER_LINES_H
#define TOKENIZER_LINES_H

#include <string.h>

#include "hostile.h"
#include "tokenizer_fixture.h"
#include "unicode.h"

enum { N_LINE = 10000, MAX_LINE_BYTES = 2048, MAX_WORDS = 4096 };

typedef struct code_range {
    uint32_t first, count;
} code_range;
typedef struct fixed_text {
    const char *text;
    size_t bytes;
} fixed_text;

static const code_range line_ranges[] = {
    { 0x20, 95 },     { 0xa0, 96 },     { 0x100, 128 },  { 0x180, 208 },   { 0x370, 144 },  { 0x400, 256 },
    { 0x5d0, 27 },    { 0x620, 64 },    { 0x900, 128 },  { 0xe01, 58 },    { 0x1100, 256 }, { 0x1e00, 256 },
    { 0x1f00, 256 },  { 0x2000, 112 },  { 0x2070, 44 },  { 0x2100, 140 },  { 0x2150, 60 },  { 0x2200, 256 },
    { 0x2460, 160 },  { 0x2580, 32 },   { 0x3000, 64 },  { 0x3041, 86 },   { 0x30a0, 96 },  { 0x4e00, 1000 },
    { 0xac00, 1000 }, { 0xf900, 256 },  { 0xfb00, 80 },  { 0xff00, 240 },  { 0x1d15e, 8 },  { 0x1d400, 100 },
    { 0x1f300, 256 }, { 0x1f600, 80 },  { 0x1f1e6, 26 }, { 0x20000, 200 }, { 0xe0020, 96 }, { 0xfff0, 16 },
    { 0xe000, 100 },  { 0x10fff0, 14 },
};
static const code_range line_marks[] = {
    { 0x300, 112 }, { 0x483, 5 },   { 0x591, 45 },  { 0x64b, 21 }, { 0x93c, 20 },  { 0xe31, 10 },
    { 0x1161, 21 }, { 0x11a8, 27 }, { 0x20d0, 33 }, { 0x3099, 2 }, { 0x1d165, 9 }, { 0xfe00, 16 },
};
static const fixed_text line_strings[] = {
    { "'s", 2 },
    { "'t", 2 },
    { "'re", 3 },
    { "'ve", 3 },
    { "'m", 2 },
    { "'ll", 3 },
    { "'d", 2 },
    { "'S", 2 },
    { "'T", 2 },
    { "'RE", 3 },
    { "'Ve", 3 },
    { "'M", 2 },
    { "'lL", 3 },
    { "'D", 2 },
    { "'\305\277", 3 },
    { "''s", 3 },
    { "'x", 2 },
    { "<s>", 3 },
    { "</s>", 4 },
    { "<unk>", 5 },
    { "<bos>", 5 },
    { "<0x41>", 6 },
    { "<0x0A>", 6 },
    { "\342\226\201", 3 },
    { "\342\226\201\342\226\201", 6 },
    { "\342\226\201the", 6 },
    { "<start_of_turn>", 15 },
    { "<end_of_turn>", 13 },
    { "<|endoftext|>", 13 },
    { "<|padding|>", 11 },
    { "<|begin_of_text|>", 17 },
    { "<|eot_id|>", 10 },
    { "<|start_header_id|>", 19 },
    { "<b>", 3 },
    { "</b>", 4 },
    { "<b", 2 },
    { "<user>", 6 },
    { "\015\012", 2 },
    { "\015", 1 },
    { "\012\012", 2 },
    { " \012", 2 },
    { "\012 ", 2 },
    { "\011", 1 },
    { "\011\011", 2 },
    { "\013", 1 },
    { "\014", 1 },
    { "\302\240", 2 },
    { "\343\200\200", 3 },
    { "\342\200\250", 3 },
    { "\302\205", 2 },
    { "\342\200\213", 3 },
    { "\342\200\215", 3 },
    { "e\314\201", 3 },
    { "A\314\212", 3 },
    { "\341\204\200\341\205\241\341\206\250", 9 },
    { "\352\260\200\341\206\250", 6 },
    { "\342\204\253", 3 },
    { "\340\245\230", 3 },
    { "q\314\207\314\243", 5 },
    { "\341\272\233\314\243", 5 },
    { "\360\237\221\251\342\200\215\360\237\221\251\342\200\215\360\237\221\247", 18 },
    { "\360\237\207\251\360\237\207\252", 8 },
    { "\342\235\244\357\270\217", 6 },
    { "1234567", 7 },
    { "3.14159", 7 },
    { "\331\243\331\244\331\245", 6 },
    { "\302\275", 2 },
    { "\342\205\247", 3 },
    { "\346\227\245\346\234\254\350\252\236", 9 },
    { "...", 3 },
    { "!?", 2 },
    { "#$%^&*()", 8 },
    { "----------", 10 },
    { "aaaaaaaaaaaaaaaaaaaa", 20 },
    { "ababababab", 10 },
    { "def f(x):", 9 },
    { "    return x", 12 },
    { "\357\273\277", 3 },
    { "\357\277\275", 3 },
    { "\000", 1 },
    { "don't", 5 },
    { "DON'T", 5 },
    { "it's I'll we've", 15 },
};

typedef struct line_maker {
    byte_string story;
    fixed_text words[MAX_WORDS];
    size_t n_word;
    uint64_t random;
    char text[MAX_LINE_BYTES]; /* the line */
    size_t bytes;
} line_maker;

static inline void open_lines(line_maker *m)
{
    m->story = read_whole(STORY);
    m->n_word = 0;
    const char *text = (const char *)m->story.data;
    for (size_t at = 0, begin; at < m->story.count;) {
        for (; at < m->story.count && strchr(" \t\r\n", text[at]); at++)
            ;
        for (begin = at; at < m->story.count && !strchr(" \t\r\n", text[at]); at++)
            ;
        if (at > begin) m->words[m->n_word++] = (fixed_text){ text + begin, at - begin };
    }
}

static inline uint32_t line_below(line_maker *m, uint64_t n)
{
    return (uint32_t)((hostile_random(&m->random) >> 16) % n);
}

static inline void line_put(line_maker *m, const char *text, size_t bytes)
{
    cr_assert_leq(m->bytes + bytes, sizeof m->text);
    memcpy(m->text + m->bytes, text, bytes);
    m->bytes += bytes;
}

static inline void line_put_code(line_maker *m, uint32_t code)
{
    char out[MFI_MAX_CHARACTER_BYTES];
    line_put(m, out, mfi_utf8_put(out, code));
}

static inline void line_repeat(line_maker *m, char c, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        line_put(m, &c, 1);
}

static inline void line_put_range(line_maker *m, const code_range *ranges, size_t n_range, uint32_t most)
{
    const code_range range = ranges[line_below(m, n_range)];
    for (uint32_t n = 1 + line_below(m, most); n > 0; n--)
        line_put_code(m, range.first + line_below(m, range.count));
}

static inline void line_put_fixed(line_maker *m, const fixed_text *texts, size_t n)
{
    const fixed_text text = texts[line_below(m, n)];
    line_put(m, text.text, text.bytes);
}

static inline void line_put_part(line_maker *m)
{
    const uint32_t kind = line_below(m, 16);
    if (kind < 5) {
        if (kind < 4) line_put(m, " ", 1);
        line_put_fixed(m, m->words, m->n_word);
    } else if (kind == 5) {
        const bool is_long = line_below(m, 4) == 0;
        line_repeat(m, ' ', 1 + line_below(m, is_long ? 40 : 4));
    } else if (kind == 6) {
        line_repeat(m, '\n', 1 + line_below(m, 5));
    } else if (kind < 9) {
        line_put_fixed(m, line_strings, MFI_COUNT(line_strings));
    } else if (kind < 12) {
        line_put_range(m, line_ranges, MFI_COUNT(line_ranges), 6);
    } else if (kind == 12) {
        line_put_code(m, line_below(m, 32));
    } else if (kind == 13) {
        line_put_range(m, line_marks, MFI_COUNT(line_marks), 5);
    } else if (kind == 14) {
        line_put_code(m, 0x10000 + line_below(m, 0xd00));
    } else {
        line_put_range(m, line_ranges, 1, 12);
    }
}

static inline void make_line(line_maker *m, uint32_t index)
{
    m->random = index;
    m->bytes = 0;
    for (uint32_t n = 1 + line_below(m, 12); n > 0; n--)
        line_put_part(m);
}

#endif
