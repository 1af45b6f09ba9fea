/* commands.h - the commands of the program, one file each. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "cli.h"

extern const cli_command cmd_bench, cmd_convert, cmd_demo, cmd_eval, cmd_export, cmd_info, cmd_plan, cmd_run, cmd_train;

/* Ends with NULL. */
extern const cli_command *const cli_commands[];
/* Of the program itself, before a command; ends with a section. */
extern const cli_option cli_program_options[];
extern const char cli_program_summary[];
extern const char cli_program_status[]; /* what the exit status means */

#endif
