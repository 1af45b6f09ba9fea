/* cli_tables.c - prints the tables of all commands as JSON. It is linked with the commands in the place of
 * cli_options.c: where a command hands its options to the parser, this one writes them down. tools/make_pages.py makes
 * the manual pages and completions of it when the program is built. */
#include "commands.h"

static json_t *options_of_command; /* of the one whose run() is called */

static const char *const kinds[] = {
    [CLI_SECTION] = "section", [CLI_FLAG] = "flag", [CLI_TEXT] = "text",     [CLI_U32] = "number",
    [CLI_U64] = "number",      [CLI_REAL] = "real", [CLI_CHOICE] = "choice", [CLI_TEXTS] = "texts",
};

static json_t *describe(const cli_option *option)
{
    const char letter[2] = { option->letter, '\0' };
    return json_pack("{s:s, s:s?, s:s, s:s?, s:s?}", "kind", kinds[option->kind], "name",
                     option->kind == CLI_SECTION ? NULL : option->name, "letter", letter, "value", option->value,
                     "help", option->help);
}

bool cli_parse(const cli_command *command, const cli_option *options, size_t n_option, int argc, char **argv,
               int *first, int *status)
{
    (void)command, (void)argc, (void)argv;
    for (size_t i = 0; i < n_option; i++)
        json_array_append_new(options_of_command, describe(&options[i]));
    *first = 0;
    *status = CLI_OK;
    return false;
}

int main(void)
{
    json_t *commands = json_array(), *program = json_array();
    for (const cli_command *const *at = cli_commands; *at; at++) {
        const cli_command *command = *at;
        char *argv[] = { (char *)(uintptr_t)command->name, NULL };
        options_of_command = json_array();
        if (command->run(command, 1, argv) != CLI_OK) return CLI_FAILED;
        json_array_append_new(commands, json_pack("{s:s, s:s, s:s, s:s?, s:o}", "name", command->name, "usage",
                                                  command->usage, "summary", command->summary, "details",
                                                  command->details, "options", options_of_command));
    }
    for (const cli_option *option = cli_program_options; option->kind != CLI_SECTION; option++)
        json_array_append_new(program, describe(option));
    return cli_print_json(json_pack("{s:s, s:s, s:o, s:o}", "summary", cli_program_summary, "exit_status",
                                    cli_program_status, "options", program, "commands", commands));
}
