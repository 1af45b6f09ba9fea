/* cli.c - lists, errors, JSON, files and interruption, for all commands. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

/* ---- Lists ---- */

void cli_list_free(cli_list *list)
{
    free(list->items);
    *list = (cli_list){ 0 };
}

bool cli_list_append(cli_list *list, const char *item)
{
    const char **items = realloc(list->items, (list->count + 1) * sizeof(*items));
    if (!items) return false;
    items[list->count] = item;
    *list = (cli_list){ items, list->count + 1 };
    return true;
}

/* ---- Errors ---- */

int cli_usage(const cli_command *command, const char *format, ...)
{
    va_list arguments;
    fprintf(stderr, "matformer %s: ", command->name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\nTry `matformer %s --help`.\n", command->name);
    return CLI_USAGE;
}

static void print_error(const char *text)
{
    cli_progress_end();
    fprintf(stderr, "%smatformer:%s %s\n", cli_style_on(stderr, CLI_RED), cli_style_on(stderr, CLI_PLAIN), text);
}

static const char *remedy(mf_status status)
{
    switch (status) {
    case MF_E_WIDTH:
        return "`matformer info FILE` lists what the model offers; sizes are names (\"M\"), ratios (\"0.5\") or "
               "lists (\"ffn=512x4,256x2\").";
    default:
        return NULL;
    }
}

int cli_fail(const mf_error *error)
{
    print_error(error->detail[0] ? error->detail : mf_status_text(error->status));
    if (remedy(error->status)) fprintf(stderr, "%s\n", remedy(error->status));
    return CLI_FAILED;
}

int cli_fail_text(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    print_error(text);
    return CLI_FAILED;
}

int cli_fail_memory(void)
{
    return cli_fail_text("out of memory");
}

int cli_flush(void)
{
    errno = 0; /* stays so where the failure was an earlier one */
    if (fflush(stdout) == 0 && !ferror(stdout)) return CLI_OK;
    return cli_fail_text("standard output: %s", errno ? strerror(errno) : "not all of it could be written");
}

/* ---- JSON ---- */

int cli_print_json(json_t *object)
{
    if (!object) return cli_fail_memory();
    int failed = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(object);
    putchar('\n');
    return failed && !ferror(stdout) ? cli_fail_memory() : CLI_OK;
}

/* Bytes of the UTF-8 character at `text`, or 0 where there is none. jansson checks the rest (overlong forms
 * and surrogates) when the character is offered to it alone. */
static size_t character_bytes(const char *text, size_t bytes)
{
    unsigned char lead = (unsigned char)text[0];
    size_t n = lead < 0x80 ? 1 : lead < 0xC0 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (n > bytes) return 0;
    json_t *one = json_stringn(text, n);
    json_decref(one);
    return one ? n : 0;
}

json_t *cli_json_string(const char *text)
{
    return text ? cli_json_text(text, strlen(text)) : json_null();
}

json_t *cli_json_text(const char *text, size_t bytes)
{
    json_t *whole = json_stringn(text, bytes);
    if (whole) return whole;
    char *valid = malloc(3 * bytes + 1);
    if (!valid) return NULL;
    size_t at = 0;
    for (size_t i = 0; i < bytes;) {
        size_t n = character_bytes(text + i, bytes - i);
        memcpy(valid + at, n ? text + i : "\xEF\xBF\xBD", n ? n : 3);
        at += n ? n : 3;
        i += n ? n : 1;
    }
    whole = json_stringn(valid, at);
    free(valid);
    return whole;
}

/* ---- Files and time ---- */

mf_status cli_fail_file(mf_error *error, const char *path)
{
    snprintf(error->detail, sizeof(error->detail), "%s: %s", path, strerror(errno));
    return error->status = MF_E_IO;
}

/* A device may have no end, and a FIFO would be waited for. */
static FILE *open_regular(const char *path, mf_error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* not to wait on a FIFO */
    struct stat about;
    if (fd >= 0 && fstat(fd, &about) == 0 && !S_ISREG(about.st_mode)) {
        snprintf(error->detail, sizeof(error->detail), "%s: not a regular file; \"-\" is standard input", path);
        error->status = MF_E_IO;
        close(fd);
        return NULL;
    }
    FILE *file = fd >= 0 ? fdopen(fd, "rb") : NULL;
    if (!file) cli_fail_file(error, path);
    return file;
}

char *cli_read_file(const char *path, size_t *bytes, mf_error *error)
{
    bool is_stdin = strcmp(path, "-") == 0;
    FILE *file = is_stdin ? stdin : open_regular(path, error);
    if (!file) return NULL;
    char *text = NULL;
    size_t used = 0, room = 0;
    bool failed = false;
    while (!failed) {
        if (room - used < 2) {
            room = room ? 2 * room : 1u << 16;
            char *more = realloc(text, room);
            if (!more) {
                failed = true;
                break;
            }
            text = more;
        }
        size_t n = fread(text + used, 1, room - used - 1, file);
        used += n;
        failed = ferror(file);
        if (n == 0) break;
    }
    if (failed) {
        cli_fail_file(error, is_stdin ? "standard input" : path);
        free(text);
        text = NULL;
    } else {
        text[used] = '\0';
        *bytes = used;
    }
    if (!is_stdin) fclose(file);
    return text;
}

double cli_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- Interruption ---- */

static struct {
    pthread_t thread;
    sigset_t signals, before;
    void (*on_signal)(void *user);
    void *user;
    atomic_int came, ended;
} interrupt;

static void *wait_for_signals(void *unused)
{
    (void)unused;
    for (;;) {
        int number = 0;
        sigwait(&interrupt.signals, &number);
        if (interrupt.ended) return NULL;
        if (interrupt.came) _exit(CLI_SIGNAL + number);
        interrupt.came = number;
        interrupt.on_signal(interrupt.user);
    }
}

bool cli_interrupt_begin(void (*on_signal)(void *user), void *user)
{
    interrupt.on_signal = on_signal;
    interrupt.user = user;
    interrupt.came = interrupt.ended = 0;
    sigemptyset(&interrupt.signals);
    sigaddset(&interrupt.signals, SIGINT);
    sigaddset(&interrupt.signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &interrupt.signals, &interrupt.before);
    if (pthread_create(&interrupt.thread, NULL, wait_for_signals, NULL) == 0) return true;
    pthread_sigmask(SIG_SETMASK, &interrupt.before, NULL);
    return false;
}

int cli_interrupted(void)
{
    return interrupt.came;
}

void cli_interrupt_again(void)
{
    int number = SIGINT;
    atomic_compare_exchange_strong(&interrupt.came, &number, 0);
}

void cli_interrupt_end(void)
{
    interrupt.ended = 1;
    pthread_kill(interrupt.thread, SIGTERM);
    pthread_join(interrupt.thread, NULL);
    pthread_sigmask(SIG_SETMASK, &interrupt.before, NULL);
}
