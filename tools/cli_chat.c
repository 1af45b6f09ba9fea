/* cli_chat.c - see cli_chat.h. */
#include "cli_chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

mf_status cli_chat_add(cli_chat *chat, const char *role, const char *content, size_t bytes, mf_error *error)
{
    mf_chat_message *messages = realloc(chat->messages, (chat->count + 1) * sizeof(*messages));
    if (!messages) return error->status = MF_E_NOMEM;
    chat->messages = messages;
    char *copy = malloc(bytes + 1);
    if (!copy) return error->status = MF_E_NOMEM;
    if (bytes > 0) memcpy(copy, content, bytes);
    copy[bytes] = '\0';
    chat->messages[chat->count++] = (mf_chat_message){ role, copy, bytes };
    return MF_OK;
}

mf_status cli_chat_tokens(const cli_chat *chat, const mf_model *model, int32_t **tokens, size_t *n_token,
                          mf_error *error)
{
    mf_status status = mf_chat_render(model, chat->messages, chat->count, 1, NULL, 0, n_token);
    if (status != MF_OK && status != MF_E_CAPACITY) {
        snprintf(error->detail, sizeof(error->detail), "%s",
                 status == MF_E_UNSUPPORTED ? "the model's tokenizer says no format of chats; leave --chat out"
                                            : "the chat could not be written as tokens");
        return error->status = status;
    }
    *tokens = malloc((*n_token + 1) * sizeof(**tokens));
    if (!*tokens) return error->status = MF_E_NOMEM;
    return mf_chat_render(model, chat->messages, chat->count, 1, *tokens, *n_token, n_token);
}

void cli_chat_free(cli_chat *chat)
{
    for (size_t i = 0; i < chat->count; i++)
        free((void *)(uintptr_t)chat->messages[i].content);
    free(chat->messages);
    *chat = (cli_chat){ 0 };
}

bool cli_piece_add(cli_piece *piece, const char *data, size_t bytes)
{
    if (piece->room - piece->bytes < bytes) {
        const size_t room = 2 * (piece->bytes + bytes);
        char *more = realloc(piece->at, room);
        if (!more) return false;
        piece->at = more;
        piece->room = room;
    }
    if (bytes > 0) memcpy(piece->at + piece->bytes, data, bytes);
    piece->bytes += bytes;
    return true;
}
