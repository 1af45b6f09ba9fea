/* cli_chat.h - the turns of a chat, and what they are as tokens. */
#ifndef CLI_CHAT_H
#define CLI_CHAT_H

#include "matformer.h"
#include <stdbool.h>

typedef struct cli_chat {
    mf_chat_message *messages; /* contents are ours */
    size_t count;
} cli_chat;

/* Appends a message; `role` must outlive the chat, the content is copied. */
mf_status cli_chat_add(cli_chat *chat, const char *role, const char *content, size_t bytes, mf_error *error);
/* All of it with the assistant's turn begun, in memory to be freed. */
mf_status cli_chat_tokens(const cli_chat *chat, const mf_model *model, int32_t **tokens, size_t *n_token,
                          mf_error *error);
void cli_chat_free(cli_chat *chat);

/* Bytes that grow. False without memory. */
typedef struct cli_piece {
    char *at;
    size_t bytes, room;
} cli_piece;
bool cli_piece_add(cli_piece *piece, const char *data, size_t bytes);

#endif
