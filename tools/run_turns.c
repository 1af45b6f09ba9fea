/* run_turns.c - see run.h: turns of a chat as tokens, and a conversation from standard input on one timeline. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "run.h"

/* ---- Turns as tokens ---- */

static mf_chat_format format_of(const run_state *run)
{
    return run->chat_format >= 0 ? (mf_chat_format)(run->chat_format + 1) : mf_model_chat_format(run->model);
}

/* With the answer begun; *tokens is to be freed. */
static mf_status render(const run_state *run, const mf_chat_message *messages, size_t n_message, int32_t **tokens,
                        size_t *n_token, mf_error *error)
{
    *tokens = NULL;
    mf_status status = mf_chat_render_as(run->model, format_of(run), messages, n_message, 1, NULL, 0, n_token);
    if (status == MF_E_CAPACITY) {
        *tokens = malloc(*n_token * sizeof(**tokens));
        status = *tokens
                     ? mf_chat_render_as(run->model, format_of(run), messages, n_message, 1, *tokens, *n_token, n_token)
                     : MF_E_NOMEM;
    }
    if (status != MF_OK)
        snprintf(error->detail, sizeof(error->detail), "the turn could not be turned into tokens: %s",
                 mf_status_text(status));
    return error->status = status;
}

/* `text` behind an answer that said nothing: from *begin on, the first of which ends that answer. */
static mf_status render_after_answer(const run_state *run, const char *text, size_t bytes, int32_t **tokens,
                                     size_t *n_token, size_t *begin, mf_error *error)
{
    const mf_chat_message messages[] = { { "user", NULL, 0 }, { "assistant", NULL, 0 }, { "user", text, bytes } };
    int32_t *before;
    mf_status status = render(run, messages, 1, &before, begin, error);
    free(before);
    return status == MF_OK ? render(run, messages, CLI_COUNT(messages), tokens, n_token, error) : status;
}

mf_status run_chat_begin(run_state *run, mf_error *error)
{
    int32_t *tokens;
    size_t n_token, begin;
    if (format_of(run) == MF_CHAT_NONE) {
        snprintf(error->detail, sizeof(error->detail),
                 "%s: the model does not say how it sees turns of a chat; --chat-format names a format", run->path);
        return error->status = MF_E_UNSUPPORTED;
    }
    mf_status status = render_after_answer(run, NULL, 0, &tokens, &n_token, &begin, error);
    if (status == MF_E_UNSUPPORTED)
        snprintf(error->detail, sizeof(error->detail), "%s: its tokenizer has not the control tokens of this format",
                 run->path);
    if (status != MF_OK) return status;
    run->end_of_turn = tokens[begin];
    free(tokens);
    return MF_OK;
}

static mf_status first_turn(run_state *run, const char *text, size_t bytes, mf_error *error)
{
    const mf_chat_message messages[] = { { "system", run->system, run->system ? strlen(run->system) : 0 },
                                         { "user", text, bytes } };
    const size_t skip = run->system ? 0 : 1;
    return render(run, messages + skip, CLI_COUNT(messages) - skip, &run->prompt_tokens, &run->n_prompt, error);
}

/* An answer that was not ended by the model, for want of room or by Ctrl-C, is ended here. */
static mf_status next_turn(run_state *run, const char *text, size_t bytes, mf_error *error)
{
    int32_t *tokens;
    size_t n_token, begin;
    mf_status status = render_after_answer(run, text, bytes, &tokens, &n_token, &begin, error);
    if (status != MF_OK) return status;
    const int32_t last = mf_session_tokens(run->session)[mf_session_position(run->session) - 1];
    if (last == run->end_of_turn) begin++;
    memmove(tokens, tokens + begin, (n_token - begin) * sizeof(*tokens));
    run->prompt_tokens = tokens;
    run->n_prompt = n_token - begin;
    return MF_OK;
}

mf_status run_chat_turn(run_state *run, const char *text, size_t bytes, bool first, mf_error *error)
{
    free(run->prompt_tokens);
    run->prompt_tokens = NULL;
    return first ? first_turn(run, text, bytes, error) : next_turn(run, text, bytes, error);
}

/* ---- A conversation ---- */

/* Ctrl-C stops an answer; where none is being written it says how to end, and a second one ends. */
static void on_signal(void *user)
{
    run_state *run = user;
    if (atomic_load(&run->generating))
        mf_session_cancel(run->session);
    else if (cli_interrupted() == SIGINT)
        fputs("\nCtrl-D ends; so does another Ctrl-C.\n", stderr);
    else
        _exit(CLI_SIGNAL + cli_interrupted());
}

static mf_status turn_tokens(run_state *run, const char *text, size_t bytes, mf_error *error)
{
    const bool first = mf_session_position(run->session) == 0;
    if (run->chat) return run_chat_turn(run, text, bytes, first, error);
    if (first) return run_tokenize(run, text, bytes, error);
    free(run->prompt_tokens);
    return cli_tokenize(run->model, text, bytes, &run->prompt_tokens, &run->n_prompt, error);
}

/* A Ctrl-C that came when an answer had just ended is still waiting for a forward, and would stop this one: so what
 * nobody asked to stop is begun once more. */
static mf_status generate(run_state *run, mf_generate_result *result, mf_error *error)
{
    cli_interrupt_again(); /* of one while the turn was typed */
    atomic_store(&run->generating, true);
    mf_status status = run_generate(run, result, error);
    if (status == MF_E_CANCELLED && !cli_interrupted()) status = run_generate(run, result, error);
    atomic_store(&run->generating, false);
    return status;
}

static void take_turn(run_state *run, const char *text, size_t bytes)
{
    mf_error error = MF_ERROR_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    mf_status status = turn_tokens(run, text, bytes, &error);
    if (status == MF_OK && run->n_prompt == 0) return;
    if (status == MF_OK) status = generate(run, &result, &error);
    if (status == MF_OK || (status == MF_E_CANCELLED && cli_interrupted()))
        run_print_timing(run, &result);
    else
        cli_fail(&error);
    cli_interrupt_again();
}

static void change_size(run_state *run, const char *size)
{
    mf_error error = MF_ERROR_INIT;
    mf_submodel *view;
    if (mf_extract_submodel_text(&view, run->model, size, &error) != MF_OK) {
        cli_fail(&error);
        return;
    }
    mf_submodel_close(run->view);
    run->view = view;
}

static void obey(run_state *run, const char *line)
{
    if (strncmp(line, "/size ", 6) == 0)
        change_size(run, line + 6);
    else
        cli_fail_text("\"%.40s\" is no command; /size SIZE is, and changes the width from here on", line);
}

int run_turns(run_state *run)
{
    const bool terminal = isatty(STDIN_FILENO);
    char *line = NULL;
    size_t room = 0;
    int ended = 0;
    if (!cli_interrupt_begin(on_signal, run)) return cli_fail_text("no thread could be started");
    while (!ended) {
        if (terminal) fprintf(stderr, "%s>%s ", cli_style_on(stderr, CLI_BOLD), cli_style_on(stderr, CLI_PLAIN));
        const ssize_t read = getline(&line, &room, stdin);
        if (read < 0) break;
        const size_t bytes = read > 0 && line[read - 1] == '\n' ? (size_t)read - 1 : (size_t)read;
        line[bytes] = '\0';
        if (line[0] == '/')
            obey(run, line);
        else if (bytes > 0)
            take_turn(run, line, bytes);
        ended = cli_interrupted() == SIGTERM || ferror(stdout);
    }
    if (terminal) fputc('\n', stderr);
    const int signal_number = cli_interrupted();
    cli_interrupt_end();
    free(line);
    return signal_number == SIGTERM ? CLI_SIGNAL + SIGTERM : CLI_OK;
}
