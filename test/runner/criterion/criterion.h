/* criterion.h - the part of Criterion's interface that the tests use, where Criterion itself cannot start: with
 * ThreadSanitizer, and in an emulator. One process per test, TAP on standard output. One test file per program. */
#ifndef RUNNER_CRITERION_H
#define RUNNER_CRITERION_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#include <process.h>
#else
#include <sys/wait.h>
#endif
#include <unistd.h>

#pragma GCC diagnostic ignored "-Waddress" /* a condition may be one that the compiler knows to hold */

typedef struct test_extra {
    int signal, exit_code;
    double timeout;
    bool disabled;
    const char *description;
    void (*init)(void);
    void (*fini)(void);
} test_extra;

typedef struct test_entry {
    const char *suite, *name;
    void (*body)(void);
    test_extra extra;
    struct test_entry *next;
} test_entry;

static test_entry *test_entries, *suite_entries;

#define TEST_REGISTER(list, suite_name, test_name, function, id, ...)                                   \
    __attribute__((constructor)) static void register_##id(void)                                        \
    {                                                                                                   \
        static test_entry entry = { suite_name, test_name, function, { .signal = 0, __VA_ARGS__ }, 0 }; \
        entry.next = list;                                                                              \
        list = &entry;                                                                                  \
    }
#define Test(Suite, Name, ...)                                                              \
    static void Suite##_##Name(void);                                                       \
    TEST_REGISTER(test_entries, #Suite, #Name, Suite##_##Name, Suite##_##Name, __VA_ARGS__) \
    static void Suite##_##Name(void)
#define TestSuite(Suite, ...) TEST_REGISTER(suite_entries, #Suite, "", NULL, suite_##Suite, __VA_ARGS__)

static bool expectation_failed;

#if defined(__MINGW32__)
__attribute__((format(gnu_printf, 5, 6)))
#else
__attribute__((format(printf, 5, 6)))
#endif
static void
test_check(bool holds, bool fatal, const char *place, const char *condition, const char *format, ...)
{
    va_list values;
    if (holds) return;
    va_start(values, format);
    printf("# %s: %s:", place, condition);
    vprintf(format, values);
    putchar('\n');
    fflush(stdout);
    va_end(values);
    if (fatal) _exit(1);
    expectation_failed = true;
}

#define TEST_TEXT(x) #x
#define TEST_LINE(x) TEST_TEXT(x)
#define TEST_PLACE __FILE__ ":" TEST_LINE(__LINE__)
#define cr_assert(condition, ...) test_check(condition, true, TEST_PLACE, #condition, " " __VA_ARGS__)
#define cr_expect(condition, ...) test_check(condition, false, TEST_PLACE, #condition, " " __VA_ARGS__)
#define cr_assert_not(condition, ...) cr_assert(!(condition), __VA_ARGS__)
#define cr_assert_eq(a, b, ...) cr_assert((a) == (b), __VA_ARGS__)
#define cr_assert_neq(a, b, ...) cr_assert((a) != (b), __VA_ARGS__)
#define cr_assert_lt(a, b, ...) cr_assert((a) < (b), __VA_ARGS__)
#define cr_assert_leq(a, b, ...) cr_assert((a) <= (b), __VA_ARGS__)
#define cr_assert_gt(a, b, ...) cr_assert((a) > (b), __VA_ARGS__)
#define cr_assert_geq(a, b, ...) cr_assert((a) >= (b), __VA_ARGS__)
#define cr_assert_float_eq(a, b, by, ...) cr_assert((a) - (b) <= (by) && (b) - (a) <= (by), __VA_ARGS__)
#define cr_assert_null(a, ...) cr_assert((a) == NULL, __VA_ARGS__)
#define cr_assert_not_null(a, ...) cr_assert((a) != NULL, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...) cr_assert(strcmp((a), (b)) == 0, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, bytes, ...) cr_assert(memcmp((a), (b), (bytes)) == 0, __VA_ARGS__)
#define cr_assert_fail(...) cr_assert(false, __VA_ARGS__)
#define cr_fatal(...) cr_assert(false, __VA_ARGS__)
#define cr_log_info(...) ((void)printf("# " __VA_ARGS__), (void)putchar('\n'))

static test_extra suite_of(const test_entry *test)
{
    for (const test_entry *suite = suite_entries; suite; suite = suite->next)
        if (strcmp(suite->suite, test->suite) == 0) return suite->extra;
    return (test_extra){ .signal = 0 };
}

static void run_test(const test_entry *test)
{
    test_extra suite = suite_of(test);
    void (*init)(void) = test->extra.init ? test->extra.init : suite.init;
    void (*fini)(void) = test->extra.fini ? test->extra.fini : suite.fini;
    if (init) init();
    test->body();
    if (fini) fini();
    exit(expectation_failed); /* not _exit: ThreadSanitizer makes it 66 when it saw a race */
}

#if defined(_WIN32)

/* The program runs itself anew with the test's number. A signal there is an exception, and its number the exit status. */
static bool passes(const test_entry *test, const char *program, unsigned n)
{
    char number[16];
    snprintf(number, sizeof(number), "%u", n);
    const intptr_t status = _spawnl(_P_WAIT, program, program, "--run", number, NULL);
    if (test->extra.signal == SIGSEGV) return (unsigned)status == 0xc0000005u; /* STATUS_ACCESS_VIOLATION */
    return !test->extra.signal && status == test->extra.exit_code;
}

#else

static bool passes(const test_entry *test, const char *program, unsigned n)
{
    (void)program;
    (void)n;
    pid_t child = fork();
    if (child == 0) run_test(test);
    int status = -1;
    if (waitpid(child, &status, 0) != child) return false;
    if (test->extra.signal) return WIFSIGNALED(status) && WTERMSIG(status) == test->extra.signal;
    return WIFEXITED(status) && WEXITSTATUS(status) == test->extra.exit_code;
}

#endif

int main(int argc, char **argv)
{
    const unsigned alone = argc == 3 && strcmp(argv[1], "--run") == 0 ? (unsigned)atoi(argv[2]) : 0;
    unsigned n = 0;
    for (const test_entry *test = test_entries; test; test = test->next) {
        if (test->extra.disabled) continue;
        n++;
        if (n == alone) run_test(test);
        if (alone) continue;
        fflush(stdout);
        printf("%s %u - %s::%s\n", passes(test, argv[0], n) ? "ok" : "not ok", n, test->suite, test->name);
    }
    if (alone) return 2;
    printf("1..%u\n", n);
    return 0;
}

#endif
