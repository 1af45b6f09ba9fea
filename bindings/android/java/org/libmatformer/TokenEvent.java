package org.libmatformer;

import java.nio.charset.StandardCharsets;

/** A token that was generated. */
public final class TokenEvent {
    public final int token;
    public final int position;
    /** Natural logarithm, of the distribution before temperature and truncation. */
    public final float logprob;
    /** Whose logits it was chosen from. */
    public final Submodel submodel;

    private final byte[] text;
    private final int[] topTokens;
    private final float[] topLogprobs;

    TokenEvent(int token, int position, byte[] text, float logprob, Submodel submodel, int[] topTokens,
            float[] topLogprobs) {
        this.token = token;
        this.position = position;
        this.text = text;
        this.logprob = logprob;
        this.submodel = submodel;
        this.topTokens = topTokens;
        this.topLogprobs = topLogprobs;
    }

    /** What may now be shown: whole characters, and nothing that may become a stop text; "" while held back. */
    public String text() {
        return new String(text, StandardCharsets.UTF_8);
    }

    /** The same as it is: a model may write what is no UTF-8. */
    public byte[] bytes() {
        return text.clone();
    }

    /** How many of the most likely tokens GenerateOptions.top() asked for. */
    public int topCount() {
        return topTokens == null ? 0 : topTokens.length;
    }

    public int topToken(int rank) {
        return topTokens[rank];
    }

    public float topLogprob(int rank) {
        return topLogprobs[rank];
    }
}
