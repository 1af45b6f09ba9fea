/* cli_print.c - what a person reads: numbers, colour, tables and the progress line. */
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* ---- Numbers ---- */

cli_text cli_format(const char *format, ...)
{
    cli_text out;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(out.text, sizeof(out.text), format, arguments);
    va_end(arguments);
    return out;
}

/* Three significant digits and a prefix. */
static cli_text scaled(double value, const char *unit)
{
    static const char *const prefixes[] = { "", "k", "M", "G", "T", "P" };
    size_t prefix = 0;
    while (fabs(value) >= 999.5 && prefix + 1 < CLI_COUNT(prefixes)) {
        value /= 1000;
        prefix++;
    }
    const char *space = prefix || *unit ? " " : "";
    int decimals = fabs(value) >= 99.95 ? 0 : fabs(value) >= 9.995 ? 1 : 2;
    if (prefix == 0 && value == floor(value)) decimals = 0;
    return cli_format("%.*f%s%s%s", decimals, value, space, prefixes[prefix], unit);
}

cli_text cli_number(double value)
{
    return scaled(value, "");
}

cli_text cli_bytes(double bytes)
{
    return scaled(bytes, "B");
}

cli_text cli_seconds(double seconds)
{
    if (seconds >= 3600) return cli_format("%.0f h %02d min", floor(seconds / 3600), (int)fmod(seconds / 60, 60));
    if (seconds >= 60) return cli_format("%.0f min %02d s", floor(seconds / 60), (int)fmod(seconds, 60));
    if (seconds >= 1) return cli_format("%.3g s", seconds);
    if (seconds >= 1e-3) return cli_format("%.3g ms", seconds * 1e3);
    if (seconds >= 1e-6) return cli_format("%.3g us", seconds * 1e6);
    return cli_format("%.3g ns", seconds * 1e9);
}

cli_text cli_thousands(uint64_t value)
{
    cli_text digits = cli_format("%llu", (unsigned long long)value), out;
    size_t n = strlen(digits.text), at = 0;
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0) out.text[at++] = ',';
        out.text[at++] = digits.text[i];
    }
    out.text[at] = '\0';
    return out;
}

/* ---- Colour ---- */

bool cli_coloured(FILE *stream)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    return isatty(fileno(stream)) && term && strcmp(term, "dumb") != 0 && !(no_color && *no_color);
}

const char *cli_style_on(FILE *stream, cli_style style)
{
    static const char *const codes[] = {
        [CLI_PLAIN] = "\033[0m", [CLI_BOLD] = "\033[1m",   [CLI_DIM] = "\033[2m",
        [CLI_RED] = "\033[31m",  [CLI_GREEN] = "\033[32m", [CLI_YELLOW] = "\033[33m",
        [CLI_BLUE] = "\033[34m", [CLI_CYAN] = "\033[36m",  [CLI_MAGENTA] = "\033[35m",
    };
    return cli_coloured(stream) ? codes[style] : "";
}

/* ---- Tables ---- */

struct cli_table {
    char *columns; /* the headings, cut into strings */
    const char *heading[16];
    bool left[16];
    size_t n_column;
    char **cells; /* [n_cell] row by row */
    size_t n_cell;
};

cli_table *cli_table_create(const char *columns)
{
    cli_table *table = calloc(1, sizeof(*table));
    if (!table || !(table->columns = strdup(columns))) {
        free(table);
        return NULL;
    }
    char *rest = table->columns;
    for (char *heading; table->n_column < CLI_COUNT(table->heading) && (heading = strsep(&rest, "|"));) {
        table->left[table->n_column] = *heading == '<';
        table->heading[table->n_column++] = heading + (*heading == '<');
    }
    return table;
}

void cli_table_cell(cli_table *table, const char *format, ...)
{
    if (!table) return;
    char **cells = realloc(table->cells, (table->n_cell + 1) * sizeof(*cells)), *cell = NULL;
    if (!cells) return;
    table->cells = cells;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&cell, format, arguments) < 0) cell = NULL;
    va_end(arguments);
    table->cells[table->n_cell++] = cell;
}

/* Counts the bytes that begin a character; the texts here have no wide or combining ones. */
int cli_display_width(const char *utf8)
{
    int width = 0;
    for (; *utf8; utf8++)
        width += ((unsigned char)*utf8 & 0xC0) != 0x80;
    return width;
}

static void print_cell(const cli_table *table, size_t column, int width, const char *text, FILE *stream)
{
    int pad = width - cli_display_width(text);
    bool last = column + 1 == table->n_column;
    if (table->left[column])
        fprintf(stream, "%s%*s", text, last ? 0 : pad, "");
    else
        fprintf(stream, "%*s%s", pad, "", text);
    fputs(last ? "\n" : "  ", stream);
}

void cli_table_print(const cli_table *table, FILE *stream)
{
    if (!table) return;
    int width[CLI_COUNT(table->heading)];
    for (size_t c = 0; c < table->n_column; c++) {
        width[c] = cli_display_width(table->heading[c]);
        for (size_t i = c; i < table->n_cell; i += table->n_column) {
            int w = table->cells[i] ? cli_display_width(table->cells[i]) : 0;
            if (w > width[c]) width[c] = w;
        }
    }
    fputs(cli_style_on(stream, CLI_BOLD), stream);
    for (size_t c = 0; c < table->n_column; c++)
        print_cell(table, c, width[c], table->heading[c], stream);
    fputs(cli_style_on(stream, CLI_PLAIN), stream);
    for (size_t i = 0; i < table->n_cell; i++)
        print_cell(table, i % table->n_column, width[i % table->n_column], table->cells[i] ? table->cells[i] : "",
                   stream);
}

void cli_table_free(cli_table *table)
{
    if (!table) return;
    for (size_t i = 0; i < table->n_cell; i++)
        free(table->cells[i]);
    free(table->cells);
    free(table->columns);
    free(table);
}

/* ---- Progress ---- */

static bool line_shown;

void cli_progress_text(const char *format, ...)
{
    if (!isatty(STDERR_FILENO)) return;
    va_list arguments;
    va_start(arguments, format);
    fputs("\r\033[K", stderr);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fflush(stderr);
    line_shown = true;
}

/* Redrawn ten times a second at most. */
void cli_progress(const char *what, double done, double total)
{
    static double drawn;
    double now = cli_now();
    if (total <= 0 || (now - drawn < 0.1 && line_shown)) return;
    drawn = now;
    enum { BAR = 24 };
    int full = (int)(BAR * (done < total ? done / total : 1));
    cli_progress_text("%s [%.*s%*s] %3.0f %%", what, full, "========================", BAR - full, "",
                      100 * done / total);
}

void cli_progress_end(void)
{
    if (line_shown) fputs("\r\033[K", stderr);
    line_shown = false;
}
