/* matformer.c - the command line program: finds the command and runs it. */
#include <string.h>

#include "cli.h"
#include "commands.h"

static const cli_command *const commands[] = {
    &cmd_demo,  &cmd_info, &cmd_run, &cmd_eval,
#ifdef MATFORMER_TRAIN
    &cmd_train,
#endif
    &cmd_bench,
};

static void print_help(FILE *stream)
{
    fprintf(stream, "Usage: matformer COMMAND [OPTION...] [ARGUMENT...]\n\n"
                    "One weight file, every model size.\n\nCommands:\n");
    for (size_t i = 0; i < CLI_COUNT(commands); i++)
        fprintf(stream, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(stream, "\n  -h, --help     this text; `matformer COMMAND --help` describes a command\n"
                    "  -V, --version  the version of the program and of the library\n\n"
                    "Exit status: 0 success, 1 failure, 2 wrong usage.\n");
}

static int print_version(void)
{
    uint32_t version = mf_version();
    printf("matformer %d.%d.%d (library %u.%u.%u)\n", MF_VERSION_MAJOR, MF_VERSION_MINOR, MF_VERSION_PATCH,
           version >> 16, version >> 8 & 255, version & 255);
    return CLI_OK;
}

int main(int argc, char **argv)
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
    if (strcmp(name, "--version") == 0 || strcmp(name, "-V") == 0) return print_version();
    for (size_t i = 0; i < CLI_COUNT(commands); i++)
        if (strcmp(name, commands[i]->name) == 0) return commands[i]->run(commands[i], argc - 1, argv + 1);
    fprintf(stderr, "matformer: there is no command \"%s\"; `matformer --help` lists them\n", name);
    return CLI_USAGE;
}
