package org.libmatformer;

/** A turn of a chat. */
public final class ChatMessage {
    /** "system" (the first message alone), "user", "assistant". */
    public final String role;
    public final String content;

    public ChatMessage(String role, String content) {
        if (role == null || content == null) {
            throw new NullPointerException("a message has a role and a content");
        }
        this.role = role;
        this.content = content;
    }
}
