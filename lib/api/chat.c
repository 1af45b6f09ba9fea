/* chat.c - turns of a chat to tokens: control tokens by their names, and everything else as plain text. */
#include <stdbool.h>
#include <string.h>

#include "defs.h"
#include "matformer.h"
#include "model.h"
#include "tokenizer.h"
#include "unicode.h"

typedef struct chat {
    const mf_model *model;
    int32_t *tokens;
    size_t capacity, n_token;
    mf_status status; /* the first failure; MF_E_CAPACITY goes on, to measure */
} chat;

typedef struct span {
    const char *text;
    size_t bytes;
} span;

static void put(chat *c, int32_t token)
{
    if (c->n_token < c->capacity) c->tokens[c->n_token] = token;
    c->n_token++;
}

static void put_control(chat *c, const char *name)
{
    put(c, mfi_tokenizer_control(c->model->tokenizer, name)); /* has_controls() */
}

/* All of it is one text: tokens may merge across the parts. */
static void put_text(chat *c, const span *parts, size_t n_part)
{
    size_t bytes = 0, at = 0, n_token = 0;
    const size_t room = c->n_token < c->capacity ? c->capacity - c->n_token : 0;
    bool fits = true;
    for (size_t i = 0; i < n_part; i++)
        fits = fits && mfi_add(bytes, parts[i].bytes, &bytes);
    char *text = fits ? mfi_alloc(&c->model->allocator, bytes) : NULL;
    if (!text) c->status = MF_E_NOMEM;
    if (c->status != MF_OK) {
        mfi_free(&c->model->allocator, text, bytes);
        return;
    }
    for (size_t i = 0; i < n_part; at += parts[i++].bytes)
        if (parts[i].bytes > 0) memcpy(text + at, parts[i].text, parts[i].bytes);
    const mf_status status = mfi_tokenizer_encode(c->model->tokenizer, text, bytes, 0,
                                                  room > 0 ? c->tokens + c->n_token : NULL, room, &n_token);
    if (status != MF_E_CAPACITY) c->status = status;
    c->n_token += n_token;
    mfi_free(&c->model->allocator, text, bytes);
}

static span span_of(const char *text)
{
    return (span){ text, strlen(text) };
}

static void put_string(chat *c, const char *text)
{
    const span part = span_of(text);
    put_text(c, &part, 1);
}

/* As the templates' `trim`, which is Python's strip(). */
static bool is_trimmed(uint32_t code)
{
    return mfi_class_of(code) == MFI_WHITE || (code >= 0x1c && code <= 0x1f);
}

static span trim(const mf_chat_message *message)
{
    size_t begin = 0, end = 0, length;
    for (size_t at = 0; at < message->content_bytes; at += length) {
        if (is_trimmed(mfi_utf8_first(message->content + at, message->content_bytes - at, &length))) continue;
        if (end == 0) begin = at;
        end = at + length;
    }
    return (span){ end > 0 ? message->content + begin : NULL, end - begin };
}

static bool is_role(const mf_chat_message *message, const char *role)
{
    return strcmp(message->role, role) == 0;
}

/* ---- The formats ---- */

/* The system's words stand at the head of the first turn. */
static void render_gemma(chat *c, const mf_chat_message *messages, size_t n_message, bool add_prompt)
{
    const bool has_system = n_message > 0 && is_role(&messages[0], "system");
    for (size_t i = has_system; i < n_message && c->status == MF_OK; i++) {
        const bool is_answer = is_role(&messages[i], "assistant"), with_system = has_system && i == 1;
        if (!is_answer && !is_role(&messages[i], "user")) c->status = MF_E_INVALID;
        const span parts[] = { span_of(is_answer ? "model\n" : "user\n"),
                               { messages[0].content, with_system ? messages[0].content_bytes : 0 },
                               span_of(with_system ? "\n\n" : ""),
                               trim(&messages[i]) };
        put_control(c, "<start_of_turn>");
        put_text(c, parts, MFI_COUNT(parts));
        put_control(c, "<end_of_turn>");
        put_string(c, "\n");
    }
    if (!add_prompt) return;
    put_control(c, "<start_of_turn>");
    put_string(c, "model\n");
}

static void begin_llama3(chat *c, const char *role)
{
    put_control(c, "<|start_header_id|>");
    put_string(c, role);
    put_control(c, "<|end_header_id|>");
}

static void render_llama3(chat *c, const mf_chat_message *messages, size_t n_message, bool add_prompt)
{
    for (size_t i = 0; i < n_message && c->status == MF_OK; i++) {
        const span parts[] = { span_of("\n\n"), trim(&messages[i]) };
        if (i > 0 && is_role(&messages[i], "system")) c->status = MF_E_INVALID;
        begin_llama3(c, messages[i].role);
        put_text(c, parts, MFI_COUNT(parts));
        put_control(c, "<|eot_id|>");
    }
    if (!add_prompt) return;
    begin_llama3(c, "assistant");
    put_string(c, "\n\n");
}

/* ---- Public ---- */

mf_chat_format mf_model_chat_format(const mf_model *model)
{
    return model && model->tokenizer ? mfi_tokenizer_chat(model->tokenizer) : MF_CHAT_NONE;
}

static bool has_controls(const mf_model *model, mf_chat_format format)
{
    static const char *const gemma[] = { "<start_of_turn>", "<end_of_turn>", NULL };
    static const char *const llama3[] = { "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", NULL };
    if (!model->tokenizer || (format != MF_CHAT_GEMMA && format != MF_CHAT_LLAMA3)) return false;
    const char *const *name = format == MF_CHAT_GEMMA ? gemma : llama3;
    while (*name && mfi_tokenizer_control(model->tokenizer, *name) >= 0)
        name++;
    return !*name;
}

mf_status mf_chat_render_as(const mf_model *model, mf_chat_format format, const mf_chat_message *messages,
                            size_t n_message, int add_generation_prompt, int32_t *tokens, size_t capacity,
                            size_t *n_token)
{
    if (!model || !n_token || (!messages && n_message > 0) || (!tokens && capacity > 0)) return MF_E_INVALID;
    for (size_t i = 0; i < n_message; i++)
        if (!messages[i].role || (!messages[i].content && messages[i].content_bytes > 0)) return MF_E_INVALID;
    *n_token = 0;
    if (!has_controls(model, format)) return MF_E_UNSUPPORTED;
    chat c = { model, tokens, capacity, 0, MF_OK };
    const int32_t bos = mfi_tokenizer_bos(model->tokenizer);
    if (bos >= 0) put(&c, bos);
    if (format == MF_CHAT_GEMMA)
        render_gemma(&c, messages, n_message, add_generation_prompt);
    else
        render_llama3(&c, messages, n_message, add_generation_prompt);
    if (c.status != MF_OK) return c.status;
    *n_token = c.n_token;
    return c.n_token <= capacity ? MF_OK : MF_E_CAPACITY;
}

mf_status mf_chat_render(const mf_model *model, const mf_chat_message *messages, size_t n_message,
                         int add_generation_prompt, int32_t *tokens, size_t capacity, size_t *n_token)
{
    return mf_chat_render_as(model, mf_model_chat_format(model), messages, n_message, add_generation_prompt, tokens,
                             capacity, n_token);
}
