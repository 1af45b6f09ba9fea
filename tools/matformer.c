/* matformer.c - the command line program: finds the command and runs it. */
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "cli.h"
#include "commands.h"

static void print_help(FILE *stream)
{
    fprintf(stream, "Usage: matformer COMMAND [OPTION...] [ARGUMENT...]\n\n%s.\n\nCommands:\n", cli_program_summary);
    for (const cli_command *const *command = cli_commands; *command; command++)
        fprintf(stream, "  %-8s %s\n", (*command)->name, (*command)->summary);
    fprintf(stream, "\n");
    for (const cli_option *option = cli_program_options; option->kind != CLI_SECTION; option++)
        fprintf(stream, "  -%c, --%-8s %s\n", option->letter, option->name, option->help);
    fprintf(stream, "\nExit status: %s.\n", cli_program_status);
}

static void print_version(void)
{
    uint32_t version = mf_version();
    printf("matformer %d.%d.%d (library %u.%u.%u)\n", MF_VERSION_MAJOR, MF_VERSION_MINOR, MF_VERSION_PATCH,
           version >> 16, version >> 8 & 255, version & 255);
}

/* A file opened later must not take the number of a standard stream that is closed: it would be read as the
 * prompt, or printed into. What stands there instead can neither be read nor written, so that use is an error. */
static void occupy_closed_streams(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
}

static int run(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(stdout);
        return CLI_OK;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) {
        print_version();
        return CLI_OK;
    }
    for (const cli_command *const *command = cli_commands; *command; command++)
        if (strcmp(name, (*command)->name) == 0) return (*command)->run(*command, argc - 1, argv + 1);
    fprintf(stderr, "matformer: there is no command \"%s\"; `matformer --help` lists them\n", name);
    return CLI_USAGE;
}

int main(int argc, char **argv)
{
    occupy_closed_streams();
    signal(SIGPIPE, SIG_IGN); /* a reader that went away is a write error: `train` still saves its checkpoint */
    int status = run(argc, argv), output = cli_flush();
    return status == CLI_OK ? output : status;
}
