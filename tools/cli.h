/* cli.h - what the commands share: options and their help, numbers a person can read, tables, a progress
 * line, JSON, errors. Results go to standard output; everything else goes to standard error. */
#ifndef CLI_H
#define CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "matformer.h"

#define CLI_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#if defined(__GNUC__)
#define CLI_PRINTF(text, first) __attribute__((format(printf, text, first)))
#else
#define CLI_PRINTF(text, first)
#endif

/* What a command returns, and the process exits with. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_SIGNAL = 128 /* and its number */ };

/* ---- Options ---- */

/* Texts collected from an option that may be repeated; the texts belong to argv. */
typedef struct cli_list {
    const char **items;
    size_t count;
} cli_list;
bool cli_list_append(cli_list *list, const char *item);
void cli_list_free(cli_list *list);

/* An option says where its value goes; the parser checks and writes it. */
typedef enum cli_kind {
    CLI_SECTION, /* no option: `help` is a heading in the help text */
    CLI_FLAG,    /* bool * */
    CLI_TEXT,    /* const char ** */
    CLI_U32,     /* uint32_t * */
    CLI_U64,     /* uint64_t * */
    CLI_REAL,    /* double * */
    CLI_CHOICE,  /* int *: the place of the value among `value`, "one|two|three" */
    CLI_TEXTS    /* cli_list * */
} cli_kind;

typedef struct cli_option {
    cli_kind kind;
    const char *name;  /* long name without the dashes */
    char letter;       /* short name, or 0 */
    const char *value; /* what the help calls the value; NULL for flags */
    void *target;
    const char *help;
    double least, most; /* bounds of numbers; both 0: any */
} cli_option;

typedef struct cli_command {
    const char *name;
    const char *usage;   /* what follows "matformer NAME" */
    const char *summary; /* one line */
    const char *details; /* paragraphs below the options, or NULL */
    int (*run)(const struct cli_command *self, int argc, char **argv);
} cli_command;

/* Parses `argv` (argv[0] is the command's name) against `options`. Returns true when the command shall go
 * on; its other arguments are then argv[*first] and following. Otherwise help or an error was printed and
 * *status is what to return. --help is known without being listed. */
bool cli_parse(const cli_command *command, const cli_option *options, size_t n_option, int argc, char **argv,
               int *first, int *status);

/* Prints "matformer NAME: ..." and how to get help; returns CLI_USAGE. */
int cli_usage(const cli_command *command, const char *format, ...) CLI_PRINTF(2, 3);

/* ---- Errors ---- */

/* Prints "matformer: " and the sentence of `error` and, where its status suggests one, a remedy. */
int cli_fail(const mf_error *error);
int cli_fail_text(const char *format, ...) CLI_PRINTF(1, 2);
int cli_fail_memory(void);
/* Writes out what was printed; CLI_FAILED and a message where standard output did not take all of it. main()
 * calls it when a command has ended, so that no command need check what it prints. */
int cli_flush(void);

/* ---- Numbers ---- */

typedef struct cli_text {
    char text[40];
} cli_text;
cli_text cli_number(double value);      /* "512", "4.19 M": powers of 1000 */
cli_text cli_bytes(double bytes);       /* "512 B", "8.39 MB": powers of 1000 */
cli_text cli_seconds(double seconds);   /* "310 ns", "1.20 ms", "2 min 05 s" */
cli_text cli_thousands(uint64_t value); /* "1,234,567" */
cli_text cli_format(const char *format, ...) CLI_PRINTF(1, 2);

/* ---- Colour, on terminals only ---- */

typedef enum cli_style {
    CLI_PLAIN,
    CLI_BOLD,
    CLI_DIM,
    CLI_RED,
    CLI_GREEN,
    CLI_YELLOW,
    CLI_BLUE,
    CLI_CYAN,
    CLI_MAGENTA
} cli_style;

/* The escape sequence, or "" where `stream` is no terminal, NO_COLOR is set or TERM is dumb. */
const char *cli_style_on(FILE *stream, cli_style style);
bool cli_coloured(FILE *stream);

/* ---- Tables ---- */

typedef struct cli_table cli_table;

/* `columns`: headings separated by '|'; one that begins with '<' is aligned left, others right. */
cli_table *cli_table_create(const char *columns);
void cli_table_cell(cli_table *table, const char *format, ...) CLI_PRINTF(2, 3); /* row by row, left to right */
void cli_table_print(const cli_table *table, FILE *stream);
void cli_table_free(cli_table *table);
int cli_display_width(const char *utf8);

/* ---- Progress: one line on standard error, only where that is a terminal ---- */

void cli_progress(const char *what, double done, double total);
void cli_progress_text(const char *format, ...) CLI_PRINTF(1, 2); /* the whole line */
void cli_progress_end(void);                                      /* wipes it */

/* ---- JSON ---- */

/* Prints the object with a newline, and releases it; CLI_FAILED where it could not be built (NULL). */
int cli_print_json(json_t *object);
/* Text from outside (paths, prompts, names in files), which may not be UTF-8: invalid bytes become U+FFFD. */
json_t *cli_json_text(const char *text, size_t bytes);
json_t *cli_json_string(const char *text); /* up to the terminator; NULL: null */

/* ---- Files and time ---- */

/* "PATH: " and what errno says; returns MF_E_IO. */
mf_status cli_fail_file(mf_error *error, const char *path);
/* The whole of a regular file, with a terminator behind it; "-" is standard input. NULL and a sentence when it
 * fails. */
char *cli_read_file(const char *path, size_t *bytes, mf_error *error);
double cli_now(void); /* seconds, monotonic */

/* ---- Interruption ---- */

/* From now on SIGINT and SIGTERM are received by a thread that calls `on_signal`; a second one ends the process. To
 * be called before other threads are started, since they inherit the signal mask. */
bool cli_interrupt_begin(void (*on_signal)(void *user), void *user);
int cli_interrupted(void);      /* the signal that came, or 0 */
void cli_interrupt_again(void); /* forgets a SIGINT that came, so that the next is a first one */
void cli_interrupt_end(void);

#endif
