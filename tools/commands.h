/* commands.h - the commands of the program, one file each. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "cli.h"

extern const cli_command cmd_bench, cmd_convert, cmd_demo, cmd_eval, cmd_export, cmd_info, cmd_plan, cmd_run, cmd_train;

#endif
