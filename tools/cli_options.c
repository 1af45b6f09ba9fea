/* cli_options.c - a command's options: one table gives the parser and the help text. */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { HELP_COLUMN = 30, HELP_WIDTH = 100, MAX_OPTION = 64, FIRST_LONG = 256 };

/* Breaks `text` at spaces; lines after the first begin at `column`. */
static void print_wrapped(const char *text, int column)
{
    int at = column;
    while (*text) {
        size_t word = strcspn(text, " ");
        if (at > column && at + 1 + (int)word > HELP_WIDTH) {
            printf("\n%*s", column, "");
            at = column;
        } else if (at > column) {
            putchar(' ');
            at++;
        }
        printf("%.*s", (int)word, text);
        at += (int)word;
        text += word;
        text += strspn(text, " ");
    }
    putchar('\n');
}

static void print_option(char letter, const char *name, const char *value, const char *help)
{
    cli_text short_form = letter ? cli_format("-%c,", letter) : cli_format("   ");
    int at = printf("  %s --%s%s%s", short_form.text, name, value ? " " : "", value ? value : "");
    if (at >= HELP_COLUMN)
        printf("\n%*s", HELP_COLUMN, "");
    else
        printf("%*s", HELP_COLUMN - at, "");
    print_wrapped(help, HELP_COLUMN);
}

static void print_help(const cli_command *command, const cli_option *options, size_t n_option)
{
    printf("Usage: matformer %s %s\n\n%s.\n\nOptions:\n", command->name, command->usage, command->summary);
    for (size_t i = 0; i < n_option; i++)
        if (options[i].kind == CLI_SECTION)
            printf("\n%s:\n", options[i].help);
        else
            print_option(options[i].letter, options[i].name, options[i].value, options[i].help);
    print_option('h', "help", NULL, "print this text");
    if (command->details) printf("\n%s", command->details);
}

/* "1e9", "4k" and "2M" are no surprise in a count, so that real numbers are read first. */
static bool read_number(const char *text, double *value)
{
    char *end;
    errno = 0;
    *value = strtod(text, &end);
    if (end == text || errno == ERANGE || !isfinite(*value)) return false;
    if (*end == 'k' || *end == 'K') {
        *value *= 1e3;
        end++;
    } else if (*end == 'M') {
        *value *= 1e6;
        end++;
    }
    return *end == '\0';
}

/* Seeds may use all 64 bits, which a double does not hold. */
static bool read_u64(const char *text, uint64_t *value)
{
    char *end;
    if (isdigit((unsigned char)text[0])) {
        errno = 0;
        *value = strtoull(text, &end, 0);
        if (*end == '\0') return errno == 0;
    }
    double number;
    if (!read_number(text, &number) || number < 0 || number > 9007199254740992.0 || number != floor(number))
        return false;
    *value = (uint64_t)number;
    return true;
}

static int bad_number(const cli_command *command, const cli_option *option, const char *text, const char *wanted)
{
    if (option->least != 0 || option->most != 0)
        return cli_usage(command, "--%s wants %s from %g to %g, not \"%s\"", option->name, wanted, option->least,
                         option->most, text);
    return cli_usage(command, "--%s wants %s, not \"%s\"", option->name, wanted, text);
}

static bool in_bounds(const cli_option *option, double value)
{
    return (option->least == 0 && option->most == 0) || (value >= option->least && value <= option->most);
}

/* The place of `text` in "one|two|three", or -1. */
static int find_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (int i = 0; *choices; i++) {
        size_t length = strcspn(choices, "|");
        if (length == n && strncmp(choices, text, n) == 0) return i;
        choices += length + (choices[length] == '|');
    }
    return -1;
}

static int store(const cli_command *command, const cli_option *option, const char *text)
{
    uint64_t count;
    double real;
    switch (option->kind) {
    case CLI_SECTION:
        break;
    case CLI_FLAG:
        *(bool *)option->target = true;
        break;
    case CLI_TEXT:
        *(const char **)option->target = text;
        break;
    case CLI_CHOICE:
        *(int *)option->target = find_choice(option->value, text);
        if (*(int *)option->target >= 0) break;
        return cli_usage(command, "--%s wants %s, not \"%s\"", option->name, option->value, text);
    case CLI_TEXTS:
        if (!cli_list_append(option->target, text)) return cli_fail_memory();
        break;
    case CLI_U32:
    case CLI_U64:
        if (!read_u64(text, &count) || !in_bounds(option, (double)count) ||
            (option->kind == CLI_U32 && count > UINT32_MAX))
            return bad_number(command, option, text, "a whole number");
        if (option->kind == CLI_U32)
            *(uint32_t *)option->target = (uint32_t)count;
        else
            *(uint64_t *)option->target = count;
        break;
    case CLI_REAL:
        if (!read_number(text, &real) || !in_bounds(option, real)) return bad_number(command, option, text, "a number");
        *(double *)option->target = real;
        break;
    }
    return CLI_OK;
}

/* Fills what getopt_long wants. Letters of the table are kept; the others get codes from FIRST_LONG on. */
static void describe(const cli_option *options, size_t n_option, struct option *longs, char *shorts)
{
    size_t n = 0;
    *shorts++ = ':'; /* a missing value is told apart from an unknown option */
    for (size_t i = 0; i < n_option; i++) {
        if (options[i].kind == CLI_SECTION) continue;
        bool has_value = options[i].kind != CLI_FLAG;
        longs[n++] =
            (struct option){ options[i].name, has_value ? required_argument : no_argument, NULL, FIRST_LONG + (int)i };
        if (options[i].letter) *shorts++ = options[i].letter;
        if (options[i].letter && has_value) *shorts++ = ':';
    }
    longs[n++] = (struct option){ "help", no_argument, NULL, 'h' };
    longs[n] = (struct option){ 0 };
    *shorts++ = 'h';
    *shorts = '\0';
}

static const cli_option *find(const cli_option *options, size_t n_option, int code)
{
    if (code >= FIRST_LONG) return &options[code - FIRST_LONG];
    for (size_t i = 0; i < n_option; i++)
        if (options[i].kind != CLI_SECTION && options[i].letter == code) return &options[i];
    return NULL;
}

bool cli_parse(const cli_command *command, const cli_option *options, size_t n_option, int argc, char **argv,
               int *first, int *status)
{
    struct option longs[MAX_OPTION + 2];
    char shorts[3 + 2 * MAX_OPTION];
    describe(options, n_option, longs, shorts);
    *status = CLI_OK;
    optind = 1;
    opterr = 0;
    for (;;) {
        int code = getopt_long(argc, argv, shorts, longs, NULL);
        if (code == -1) break;
        if (code == 'h') {
            print_help(command, options, n_option);
            return false;
        }
        if (code == '?' || code == ':') {
            cli_text letter = cli_format("-%c", optopt);
            bool is_letter = optopt > 0 && optopt < FIRST_LONG;
            *status = cli_usage(command, code == ':' ? "%s wants a value" : "there is no option %s",
                                is_letter ? letter.text : argv[optind - 1]);
            return false;
        }
        *status = store(command, find(options, n_option, code), optarg);
        if (*status != CLI_OK) return false;
    }
    *first = optind;
    return true;
}
