/* commands.c - the commands, in the order in which help, manual pages and completions list them. */
#include "commands.h"

const cli_command *const cli_commands[] = {
    &cmd_demo,  &cmd_info,    &cmd_run,    &cmd_eval,
#ifdef MATFORMER_TRAIN
    &cmd_train,
#endif
    &cmd_plan,  &cmd_convert, &cmd_export, &cmd_bench, NULL,
};

const cli_option cli_program_options[] = {
    { CLI_FLAG, "help", 'h', NULL, NULL, "this text; `matformer COMMAND --help` describes a command", 0, 0 },
    { CLI_FLAG, "version", 'V', NULL, NULL, "the version of the program and of the library", 0, 0 },
    { CLI_SECTION, NULL, 0, NULL, NULL, NULL, 0, 0 },
};

const char cli_program_summary[] = "One weight file, every model size";
const char cli_program_status[] = "0 success, 1 failure, 2 wrong usage";
