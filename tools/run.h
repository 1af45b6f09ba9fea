/* run.h - the parts of `matformer run`: one text (cmd_run.c), a conversation (run_turns.c), an image (run_image.c). */
#ifndef RUN_H
#define RUN_H

#include <stdatomic.h>

#include "cli_model.h"

typedef struct run_step {
    uint32_t position;
    mf_submodel *view;
} run_step;

typedef struct run_state {
    const cli_command *command;
    /* options */
    const char *path, *size, *prompt, *prompt_tokens_text, *then, *schedule_text, *draft_size, *system, *image;
    uint32_t n_token, at, n_thread, top, context, draft_tokens; /* draft_tokens 0: as many as pay */
    int cache_type, arithmetic, chat_format;                    /* as CLI_CHAT_FORMATS; -1: the model's */
    mf_sampler_options sampling;
    double temperature, top_p, min_p, repetition_penalty;
    cli_list stop;
    bool json, quiet, ignore_eos, chat, interactive;
    /* objects */
    mf_model *model;
    mf_model_info info;
    bool has_tokenizer;
    mf_submodel *view, *draft; /* draft: or NULL */
    mf_session *session;
    mf_executor *executor;
    mf_sampler *sampler;
    run_step *steps;
    mf_schedule_step *schedule; /* [n_step] the same for the library */
    size_t n_step;
    int32_t *prompt_tokens;
    size_t n_prompt;
    int32_t end_of_turn; /* of a chat, else -1 */
    bool turn_ended;     /* by it */
    atomic_bool generating;
    /* output */
    json_t *tokens;
    const mf_submodel *shown; /* the view whose colour is on */
} run_state;

#define CLI_CHAT_FORMATS "gemma|llama3" /* the place of each is its mf_chat_format, less one */

/* cmd_run.c: what follows prompt_tokens, printed or collected; and the line behind it. */
mf_status run_generate(run_state *run, mf_generate_result *result, mf_error *error);
void run_print_timing(const run_state *run, const mf_generate_result *result);
/* Fills prompt_tokens from a text that nothing stands before. */
mf_status run_tokenize(run_state *run, const char *text, size_t bytes, mf_error *error);

/* run_turns.c. Finds the format and its end of a turn; MF_E_UNSUPPORTED and a sentence where there is none. */
mf_status run_chat_begin(run_state *run, mf_error *error);
/* Fills prompt_tokens with a turn of the user's, up to where the answer begins: the first one with what stands before
 * it, or one that follows what the session holds. */
mf_status run_chat_turn(run_state *run, const char *text, size_t bytes, bool first, mf_error *error);
/* Reads turns from standard input until it ends. Returns the exit status. */
int run_turns(run_state *run);

/* run_image.c. Returns the exit status. */
int run_image(run_state *run);

#endif
