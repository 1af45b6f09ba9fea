/* cmd_run.c - `matformer run`: writes text, with any width at any token; talks; looks at an image. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "run.h"

/* ---- Output ---- */

static const char *view_colour(const run_state *run, const mf_submodel *view)
{
    static const cli_style styles[] = { CLI_CYAN, CLI_YELLOW, CLI_GREEN, CLI_MAGENTA, CLI_BLUE };
    for (size_t i = 0; i < run->n_step; i++)
        if (run->steps[i].view == view) return cli_style_on(stdout, styles[(i + 1) % CLI_COUNT(styles)]);
    return cli_style_on(stdout, styles[0]);
}

/* A format that was named may be none that the model's own ends are of. */
static bool ends_turn(run_state *run, const mf_token_event *event)
{
    run->turn_ended = !run->ignore_eos && run->end_of_turn >= 0 && event->token == run->end_of_turn;
    return run->turn_ended;
}

static int print_token(void *user, const mf_token_event *event)
{
    run_state *run = user;
    if (run->n_step > 0 && event->submodel != run->shown) {
        fputs(view_colour(run, event->submodel), stdout);
        run->shown = event->submodel;
    }
    fwrite(event->text, 1, event->text_bytes, stdout);
    if (!run->has_tokenizer) printf("%d ", event->token);
    return fflush(stdout) != 0 || ends_turn(run, event);
}

static json_t *view_text(const mf_submodel *view)
{
    char text[4096];
    return mf_submodel_text(view, text, sizeof(text), NULL) == MF_OK ? cli_json_string(text) : json_null();
}

static int collect_token(void *user, const mf_token_event *event)
{
    run_state *run = user;
    json_t *token = json_pack("{s:i, s:i, s:o, s:f}", "token", event->token, "position", (int)event->position, "text",
                              cli_json_text(event->text, event->text_bytes), "logprob", (double)event->logprob);
    if (event->n_top > 0) {
        json_t *top = json_array();
        for (size_t i = 0; i < event->n_top; i++)
            json_array_append_new(
                top, json_pack("{s:i, s:f}", "token", event->top[i].token, "logprob", (double)event->top[i].logprob));
        json_object_set_new(token, "top", top);
    }
    return json_array_append_new(run->tokens, token) != 0 || ends_turn(run, event);
}

static const char *finish_name(const run_state *run, mf_finish finish)
{
    static const char *const names[] = { "length", "eos", "stop", "callback" };
    if (run->turn_ended) return "eos";
    return (size_t)finish < CLI_COUNT(names) ? names[finish] : "?";
}

static json_t *whole_text(const run_state *run)
{
    /* The pieces are whole characters, each valid by now. */
    size_t bytes = 0, at = 0;
    size_t i;
    json_t *token;
    json_array_foreach(run->tokens, i, token) bytes += json_string_length(json_object_get(token, "text"));
    char *text = malloc(bytes + 1);
    if (!text) return NULL;
    json_array_foreach(run->tokens, i, token)
    {
        json_t *piece = json_object_get(token, "text");
        memcpy(text + at, json_string_value(piece), json_string_length(piece));
        at += json_string_length(piece);
    }
    json_t *whole = json_stringn(text, at);
    free(text);
    return whole;
}

static json_t *draft_json(const run_state *run, const mf_generate_result *result)
{
    return json_pack("{s:o, s:i, s:i, s:i, s:f, s:f}", "size", cli_json_string(run->draft_size), "drafted_tokens",
                     (int)result->n_drafted, "accepted_tokens", (int)result->n_accepted, "verifications",
                     (int)result->n_verify, "draft_seconds", 1e-9 * (double)result->draft_ns, "verify_seconds",
                     1e-9 * (double)result->verify_ns);
}

static int print_result_json(const run_state *run, const mf_generate_result *result, bool interrupted)
{
    json_t *schedule = json_array();
    for (size_t i = 0; i < result->n_schedule && i < result->schedule_capacity; i++)
        json_array_append_new(schedule, json_pack("{s:i, s:o}", "position", (int)result->schedule[i].position, "size",
                                                  view_text(result->schedule[i].submodel)));
    json_t *object =
        json_pack("{s:o, s:o, s:I, s:i, s:i, s:f, s:f, s:s, s:o, s:O, s:o}", "file", cli_json_string(run->path), "size",
                  cli_json_string(run->size), "seed", (json_int_t)run->sampling.seed, "prompt_tokens",
                  (int)result->n_prompt, "generated_tokens", (int)result->n_generated, "prompt_seconds",
                  1e-9 * (double)result->prompt_ns, "generate_seconds", 1e-9 * (double)result->generate_ns, "finish",
                  interrupted ? "interrupted" : finish_name(run, result->finish), "text", whole_text(run), "tokens",
                  run->tokens, "schedule", schedule);
    if (run->draft) json_object_set_new(object, "draft", draft_json(run, result));
    return cli_print_json(object);
}

static double rate(uint32_t n, uint64_t ns)
{
    return ns > 0 ? 1e9 * n / (double)ns : 0;
}

void run_print_timing(const run_state *run, const mf_generate_result *result)
{
    if (run->quiet) return;
    fprintf(stderr, "%s[prompt %u tokens, %s tokens/s; generated %u, %s tokens/s", cli_style_on(stderr, CLI_DIM),
            result->n_prompt, cli_number(rate(result->n_prompt, result->prompt_ns)).text, result->n_generated,
            cli_number(rate(result->n_generated, result->generate_ns)).text);
    if (run->draft)
        fprintf(stderr, "; %s drafted %u, %u accepted in %u batches", run->draft_size, result->n_drafted,
                result->n_accepted, result->n_verify);
    fprintf(stderr, "]%s\n", cli_style_on(stderr, CLI_PLAIN));
}

/* ---- The schedule ---- */

static mf_status append_step(run_state *run, uint32_t position, const char *size, mf_error *error)
{
    run_step *steps = realloc(run->steps, (run->n_step + 1) * sizeof(*steps));
    if (!steps) return error->status = MF_E_NOMEM;
    run->steps = steps;
    mf_submodel *view;
    mf_status status = mf_extract_submodel_text(&view, run->model, size, error);
    if (status == MF_OK) steps[run->n_step++] = (run_step){ position, view };
    return status;
}

/* The end of a step: a comma with "NUMBER:" behind it. Commas within a size stand before "WIDTHxCOUNT". */
static char *step_end(char *text)
{
    for (char *comma = strchr(text, ','); comma; comma = strchr(comma + 1, ',')) {
        size_t digits = strspn(comma + 1, "0123456789");
        if (digits > 0 && comma[1 + digits] == ':') return comma;
    }
    return NULL;
}

/* "0:S,32:XL" */
static mf_status parse_schedule(run_state *run, mf_error *error)
{
    char *copy = strdup(run->schedule_text), *next = copy;
    mf_status status = copy ? MF_OK : (error->status = MF_E_NOMEM);
    while (status == MF_OK && next) {
        char *text = next, *end = step_end(text), *colon;
        unsigned long position = strtoul(text, &colon, 10);
        next = end ? end + 1 : NULL;
        if (end) *end = '\0';
        if (colon == text || *colon != ':' || position > UINT32_MAX) {
            snprintf(error->detail, sizeof(error->detail),
                     "--schedule: \"%.80s\" is not POSITION:SIZE, as in \"0:S,32:XL\"", text);
            status = error->status = MF_E_INVALID;
        } else {
            status = append_step(run, (uint32_t)position, colon + 1, error);
        }
    }
    free(copy);
    return status;
}

static mf_status make_schedule(run_state *run, mf_error *error)
{
    mf_status status = MF_OK;
    if (run->schedule_text) status = parse_schedule(run, error);
    if (status == MF_OK && run->then) status = append_step(run, (uint32_t)run->n_prompt + run->at, run->then, error);
    if (status != MF_OK || run->n_step == 0) return status;
    run->schedule = calloc(run->n_step, sizeof(*run->schedule));
    if (!run->schedule) return error->status = MF_E_NOMEM;
    for (size_t i = 0; i < run->n_step; i++)
        run->schedule[i] = (mf_schedule_step){ run->steps[i].position, run->steps[i].view };
    return MF_OK;
}

/* ---- Running ---- */

/* What stands at the beginning of a text is added as the tokenizer's own file says; an end is not, since the text goes
 * on. Text never becomes a control token, so that an end of text is one that was added. */
mf_status run_tokenize(run_state *run, const char *text, size_t bytes, mf_error *error)
{
    mf_tokenize_options options = MF_TOKENIZE_OPTIONS_INIT;
    options.add_ends = 1;
    const size_t room = bytes + 3; /* a token stands for at least one byte; both ends, and a space that is added */
    free(run->prompt_tokens);
    run->prompt_tokens = malloc(room * sizeof(*run->prompt_tokens));
    mf_status status = run->prompt_tokens ? mf_tokenize_with(run->model, &options, text, bytes, run->prompt_tokens,
                                                             room, &run->n_prompt)
                                          : MF_E_NOMEM;
    if (status != MF_OK) {
        snprintf(error->detail, sizeof(error->detail), "the text could not be turned into tokens: %s",
                 mf_status_text(status));
        return error->status = status;
    }
    if (run->n_prompt > 0 && run->prompt_tokens[run->n_prompt - 1] == run->info.eos_token) run->n_prompt--;
    const int32_t start = cli_start_token(run->model);
    if (run->n_prompt == 0 && start < 0) {
        snprintf(error->detail, sizeof(error->detail),
                 "the prompt is empty and the model has no start token; give --prompt TEXT");
        return error->status = MF_E_INVALID;
    }
    if (run->n_prompt == 0) run->prompt_tokens[run->n_prompt++] = start;
    return MF_OK;
}

/* "1,2,3" */
static mf_status read_tokens(run_state *run, mf_error *error)
{
    const char *at = run->prompt_tokens_text;
    run->prompt_tokens = malloc((strlen(at) / 2 + 1) * sizeof(*run->prompt_tokens));
    if (!run->prompt_tokens) return error->status = MF_E_NOMEM;
    for (char *end; *at >= '0' && *at <= '9'; at = end + (*end == ',')) {
        const unsigned long token = strtoul(at, &end, 10);
        if (token >= run->info.n_token) break;
        run->prompt_tokens[run->n_prompt++] = (int32_t)token;
    }
    if (*at == '\0' && run->n_prompt > 0) return MF_OK;
    snprintf(error->detail, sizeof(error->detail), "--prompt-tokens: \"%.40s\" is no token of 0 to %u, as in 1,2,3", at,
             run->info.n_token - 1);
    return error->status = MF_E_INVALID;
}

static mf_status read_prompt(run_state *run, mf_error *error)
{
    size_t bytes;
    if (run->prompt_tokens_text) return read_tokens(run, error);
    if (!run->has_tokenizer) {
        snprintf(error->detail, sizeof(error->detail),
                 "%s: the model has no tokenizer; give tokens by their numbers: --prompt-tokens 1,2,3", run->path);
        return error->status = MF_E_UNSUPPORTED;
    }
    mf_status status = run->chat ? run_chat_begin(run, error) : MF_OK;
    if (status != MF_OK || run->interactive) return status;
    char *piped = run->prompt ? NULL : cli_read_file("-", &bytes, error);
    if (!run->prompt && !piped) return error->status;
    if (run->prompt) bytes = strlen(run->prompt);
    const char *text = piped ? piped : run->prompt;
    status = run->chat ? run_chat_turn(run, text, bytes, true, error) : run_tokenize(run, text, bytes, error);
    free(piped);
    return status;
}

/* The draft that the file's plan found best, and as many tokens as it says. */
static mf_status take_planned_draft(run_state *run, mf_error *error)
{
    char text[4096];
    mf_plan_draft draft = MF_PLAN_DRAFT_INIT;
    mf_plan_entry entry = MF_PLAN_ENTRY_INIT;
    mf_status status = mf_model_plan_draft(run->model, run->temperature == 0, &draft);
    entry.text = text;
    entry.text_capacity = sizeof text;
    if (status == MF_OK) status = mf_model_plan_entry(run->model, draft.entry, &entry);
    if (status == MF_OK && run->draft_tokens == 0) run->draft_tokens = draft.length;
    if (status == MF_OK) return mf_extract_submodel_text(&run->draft, run->model, text, error);
    snprintf(error->detail, sizeof error->detail,
             "%.100s: its plan names no draft that is of use; `matformer plan FILE --measure` looks for one on this "
             "machine, or name a size: --draft S",
             run->path);
    return error->status = status;
}

static mf_status take_draft(run_state *run, mf_error *error)
{
    if (strcmp(run->draft_size, "plan") == 0) return take_planned_draft(run, error);
    return mf_extract_submodel_text(&run->draft, run->model, run->draft_size, error);
}

static mf_status open_model(run_state *run, mf_error *error)
{
    mf_model_options options = MF_MODEL_OPTIONS_INIT;
    size_t n_token;
    options.arithmetic = (mf_arithmetic)run->arithmetic;
    options.n_thread = run->n_thread;
    mf_status status = cli_model_open(&run->model, run->path, &options, error);
    if (status != MF_OK) return status;
    mf_model_info_get(run->model, &run->info);
    run->has_tokenizer = mf_tokenize(run->model, "", 0, NULL, 0, &n_token) == MF_OK;
    if (!run->size) run->size = mf_model_granularity(run->model, cli_usable_granularities(run->model) - 1);
    status = mf_extract_submodel_text(&run->view, run->model, run->size, error);
    return status == MF_OK && run->draft_size ? take_draft(run, error) : status;
}

/* Positions that a session may come to. A conversation has what it was trained for, or less where that is long: room is
 * taken from the beginning. */
static uint32_t most_positions(const run_state *run)
{
    const size_t positions = run->n_prompt + run->n_token, usual = 8192;
    if (run->context > 0) return run->context;
    if (run->interactive) return run->info.max_positions < usual ? run->info.max_positions : (uint32_t)usual;
    return positions < UINT32_MAX ? (uint32_t)positions : UINT32_MAX;
}

static mf_status open_all(run_state *run, mf_error *error)
{
    mf_executor_options executor_options = MF_EXECUTOR_OPTIONS_INIT;
    mf_session_options session_options = MF_SESSION_OPTIONS_INIT;
    executor_options.n_thread = run->n_thread;
    executor_options.max_requests = 1;
    mf_status status = read_prompt(run, error);
    if (status == MF_OK) status = make_schedule(run, error);
    session_options.cache_type = (mf_cache_type)run->cache_type;
    session_options.max_positions = most_positions(run);
    if (status == MF_OK) status = mf_session_create(&run->session, run->model, &session_options, error);
    if (status == MF_OK) status = mf_executor_create(&run->executor, run->model, &executor_options, error);
    if (status == MF_OK) status = mf_sampler_create(&run->sampler, run->model, &run->sampling, error);
    return status;
}

static void close_all(run_state *run)
{
    mf_sampler_close(run->sampler);
    mf_executor_close(run->executor);
    mf_session_close(run->session);
    for (size_t i = 0; i < run->n_step; i++)
        mf_submodel_close(run->steps[i].view);
    mf_submodel_close(run->view);
    mf_submodel_close(run->draft);
    mf_model_close(run->model);
    json_decref(run->tokens);
    free(run->steps);
    free(run->schedule);
    free(run->prompt_tokens);
    cli_list_free(&run->stop);
}

static void warn_of_length(const run_state *run)
{
    if (run->quiet || run->n_prompt + run->n_token <= run->info.max_positions) return;
    fprintf(stderr, "matformer: the text may reach %zu positions, and the model was trained for %u\n",
            run->n_prompt + run->n_token, run->info.max_positions);
}

static void stop_session(void *session)
{
    mf_session_cancel(session);
}

mf_status run_generate(run_state *run, mf_generate_result *result, mf_error *error)
{
    mf_generate_options options = MF_GENERATE_OPTIONS_INIT;
    options.tokens = run->prompt_tokens;
    options.n_token = run->n_prompt;
    options.max_tokens = run->n_token;
    options.n_top = run->top;
    options.sampler = run->sampler;
    options.stop = run->stop.items;
    options.n_stop = run->stop.count;
    options.schedule = run->schedule;
    options.n_schedule = run->n_step;
    options.draft = run->draft;
    options.draft_tokens = run->draft_tokens;
    options.on_token = run->json ? collect_token : print_token;
    options.user = run;
    options.ignore_eos = run->ignore_eos;
    mf_status status = mf_generate(run->executor, run->session, run->view, &options, result, error);
    if (!run->json) printf("%s\n", cli_style_on(stdout, CLI_PLAIN));
    return status;
}

static int write_text(run_state *run)
{
    mf_error error = MF_ERROR_INIT;
    mf_generate_result result = MF_GENERATE_RESULT_INIT;
    mf_schedule_step ran[256];
    result.schedule = ran;
    result.schedule_capacity = CLI_COUNT(ran);
    run->tokens = json_array();
    if (!cli_interrupt_begin(stop_session, run->session)) return cli_fail_text("no thread could be started");
    mf_status status = run_generate(run, &result, &error);
    int signal_number = cli_interrupted();
    cli_interrupt_end();
    if (status != MF_OK && !(status == MF_E_CANCELLED && signal_number)) return cli_fail(&error);
    int exit_status = run->json ? print_result_json(run, &result, signal_number != 0) : CLI_OK;
    run_print_timing(run, &result);
    return signal_number ? CLI_SIGNAL + signal_number : exit_status;
}

static int execute(run_state *run)
{
    mf_error error = MF_ERROR_INIT;
    if (open_model(run, &error) != MF_OK) return cli_fail(&error);
    if (run->info.image_size > 0 && !run->image)
        return cli_fail_text("%s: a model (%s) that takes images; --image FILE gives it one", run->path,
                             run->info.family);
    if (run->info.image_size == 0 && run->image)
        return cli_fail_text("%s: a model (%s) that takes text, not images", run->path, run->info.family);
    if (run->image) return run_image(run);
    if (run->interactive && mf_model_chat_format(run->model) != MF_CHAT_NONE) run->chat = true;
    if (open_all(run, &error) != MF_OK) return cli_fail(&error);
    if (run->interactive) return run_turns(run);
    warn_of_length(run);
    return write_text(run);
}

static int check_options(run_state *run)
{
    const bool has_prompt = run->prompt || run->prompt_tokens_text || run->image;
    if (run->prompt && run->prompt_tokens_text)
        return cli_usage(run->command, "--prompt and --prompt-tokens say the same thing; give one of them");
    if (run->interactive && has_prompt)
        return cli_usage(run->command, "a conversation has its turns from standard input, and no prompt");
    if (run->chat_format >= 0) run->chat = true;
    if (!has_prompt && isatty(STDIN_FILENO)) run->interactive = true;
    if (run->interactive && (run->json || run->then || run->schedule_text))
        return cli_usage(run->command, "--json, --then and --schedule go with one text, not with a conversation; there "
                                       "/size SIZE changes the width");
    if (run->chat && (run->prompt_tokens_text || run->image)) return cli_usage(run->command, "--chat goes with a text");
    if (run->system && !run->chat && !run->interactive) return cli_usage(run->command, "--system goes with --chat");
    if (run->then && run->schedule_text)
        return cli_usage(run->command, "--then and --schedule say the same thing; give one of them");
    if (run->draft_tokens && !run->draft_size) return cli_usage(run->command, "--draft-tokens goes with --draft SIZE");
    if (run->draft_size && run->image) return cli_usage(run->command, "--draft goes with a text");
    if (run->at && !run->then) return cli_usage(run->command, "--at goes with --then SIZE");
    return CLI_OK;
}

static int run(const cli_command *self, int argc, char **argv)
{
    run_state run = { .command = self,
                      .n_token = 128,
                      .sampling = MF_SAMPLER_OPTIONS_INIT,
                      .temperature = 0.8,
                      .top_p = 0.95,
                      .info = MF_MODEL_INFO_INIT,
                      .end_of_turn = -1,
                      .chat_format = -1 };
    run.sampling.seed = 1;
    const cli_option options[] = {
        { CLI_TEXT, "size", 's', "SIZE", &run.size,
          "which submodel: \"M\", \"0.5\", \"ffn=512x4,256x2\" (default: the "
          "widest in the file)",
          0, 0 },
        { CLI_TEXT, "prompt", 'p', "TEXT", &run.prompt, "the text to go on from (default: standard input)", 0, 0 },
        { CLI_TEXT, "prompt-tokens", 0, "LIST", &run.prompt_tokens_text,
          "the tokens to go on from, by their numbers: \"1,2,3\"; nothing is added", 0, 0 },
        { CLI_U32, "tokens", 'n', "N", &run.n_token, "most tokens to write (128)", 1, 1 << 24 },
        { CLI_TEXTS, "stop", 0, "TEXT", &run.stop, "end before this text; may be repeated", 0, 0 },
        { CLI_FLAG, "ignore-eos", 0, NULL, &run.ignore_eos, "go on after tokens that end a text, an answer or a turn",
          0, 0 },
        { CLI_SECTION, "", 0, NULL, NULL, "Chat", 0, 0 },
        { CLI_FLAG, "chat", 0, NULL, &run.chat, "the prompt is a turn of a chat, in the format that the model says", 0,
          0 },
        { CLI_CHOICE, "chat-format", 0, CLI_CHAT_FORMATS, &run.chat_format, "likewise, in this format", 0, 0 },
        { CLI_TEXT, "system", 0, "TEXT", &run.system, "what the model is told before the first turn", 0, 0 },
        { CLI_FLAG, "interactive", 'i', NULL, &run.interactive,
          "a conversation: each line of standard input is a turn (without a prompt, on a terminal, anyway); \"/size "
          "SIZE\" "
          "changes the width",
          0, 0 },
        { CLI_U32, "context", 0, "N", &run.context,
          "most positions of the text or conversation (what one text needs; the model's, up to 8192)", 1, 1 << 24 },
        { CLI_SECTION, "", 0, NULL, NULL, "Images", 0, 0 },
        { CLI_TEXT, "image", 0, "FILE", &run.image,
          "for a model that takes images: a binary PPM (P6) of just its size, whose bytes become -1 to 1; or f32 "
          "planes",
          0, 0 },
        { CLI_SECTION, "", 0, NULL, NULL, "Changing width", 0, 0 },
        { CLI_TEXT, "then", 0, "SIZE", &run.then, "go on with this submodel, in the same timeline", 0, 0 },
        { CLI_U32, "at", 0, "N", &run.at, "after N written tokens (0)", 0, 0 },
        { CLI_TEXT, "schedule", 0, "LIST", &run.schedule_text,
          "\"POSITION:SIZE,...\"; positions count the prompt, as "
          "in the schedule that --json prints",
          0, 0 },
        { CLI_SECTION, "", 0, NULL, NULL, "Writing ahead", 0, 0 },
        { CLI_TEXT, "draft", 0, "SIZE", &run.draft_size,
          "this submodel (\"plan\": the one that the file's plan found) writes ahead, and --size verifies several "
          "tokens at once: faster where the weights come from "
          "memory. At --temperature 0 the text is the same",
          0, 0 },
        { CLI_U32, "draft-tokens", 0, "N", &run.draft_tokens, "tokens ahead (0: as many as pay)", 0, 16 },
        { CLI_SECTION, "", 0, NULL, NULL, "Sampling", 0, 0 },
        { CLI_REAL, "temperature", 't', "T", &run.temperature, "0: always the likeliest token (0.8)", 0, 100 },
        { CLI_U32, "top-k", 0, "K", &run.sampling.top_k, "of the K likeliest only (0: off)", 0, 0 },
        { CLI_REAL, "top-p", 0, "P", &run.top_p, "of the likeliest that make up P (0.95; 1: off)", 0, 1 },
        { CLI_REAL, "min-p", 0, "P", &run.min_p, "of those at least P times as likely as the likeliest (0: off)", 0,
          1 },
        { CLI_REAL, "repetition-penalty", 0, "R", &run.repetition_penalty,
          "divide the logits of recent tokens (1: off)", 0, 100 },
        { CLI_U64, "seed", 0, "N", &run.sampling.seed, "the same seed writes the same text (1)", 0, 0 },
        { CLI_SECTION, "", 0, NULL, NULL, "Other", 0, 0 },
        { CLI_CHOICE, "cache", 0, CLI_CACHE_TYPES, &run.cache_type, "what keys and values are rounded to (f32)", 0, 0 },
        { CLI_CHOICE, "arithmetic", 0, CLI_ARITHMETICS, &run.arithmetic, CLI_ARITHMETIC_HELP, 0, 0 },
        { CLI_U32, "threads", 0, "N", &run.n_thread, "threads to compute with (0: one per usable core)", 0, 4096 },
        { CLI_U32, "top", 0, "N", &run.top,
          "with --json: log-probabilities of the N likeliest tokens; of an image: so many classes (5)", 0, 64 },
        { CLI_FLAG, "quiet", 'q', NULL, &run.quiet, "no timing on standard error", 0, 0 },
        { CLI_FLAG, "json", 0, NULL, &run.json, "print one JSON object: text, tokens, log-probabilities, schedule", 0,
          0 },
    };
    int first, status;
    if (!cli_parse(self, options, CLI_COUNT(options), argc, argv, &first, &status)) return status;
    if (argc - first != 1) return cli_usage(self, "one file is wanted, not %d", argc - first);
    run.path = argv[first];
    run.sampling.temperature = (float)run.temperature;
    run.sampling.top_p = (float)run.top_p;
    run.sampling.min_p = (float)run.min_p;
    run.sampling.repetition_penalty = (float)run.repetition_penalty;
    status = check_options(&run);
    if (status == CLI_OK) status = execute(&run);
    close_all(&run);
    return status;
}

const cli_command cmd_run = {
    .name = "run",
    .usage = "FILE [OPTION...]",
    .summary = "Write text from a prompt, with any submodel, changing it at any token; or talk",
    .details = "FILE is a .mf file, a Hugging Face folder or a GGUF file.\n\n"
               "Ctrl-C stops the writing; a second one ends the program. In a conversation it stops the answer, and\n"
               "Ctrl-D ends.\n\n"
               "  matformer run model.mf --size S --prompt \"Once upon a time\" --then XL --at 40\n"
               "  matformer run gemma-3n-E4B-it --chat --prompt \"Why is the sky blue?\"\n"
               "  matformer run gemma-3n-E4B-it\n",
    .run = run,
};
