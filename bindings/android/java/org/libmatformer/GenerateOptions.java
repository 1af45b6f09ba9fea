package org.libmatformer;

import java.util.ArrayList;
import java.util.List;

/** What to generate. What is not set is the library's default. */
public final class GenerateOptions {
    String prompt;
    int[] tokens;
    int maxTokens;
    int top;
    Sampler sampler;
    final List<String> stop = new ArrayList<>();
    final List<Integer> schedulePositions = new ArrayList<>();
    final List<Submodel> scheduleSubmodels = new ArrayList<>();
    TokenListener listener;
    boolean ignoreEos;
    Submodel draft;
    int draftTokens;
    Submodel fallback;

    /** Without one the session goes on where it stands. */
    public GenerateOptions prompt(String prompt) {
        if (prompt != null && prompt.indexOf('\0') >= 0) {
            throw new IllegalArgumentException("the prompt has a zero character: give it as tokens");
        }
        this.prompt = prompt;
        this.tokens = null;
        return this;
    }

    public GenerateOptions prompt(int... tokens) {
        this.tokens = tokens;
        this.prompt = null;
        return this;
    }

    /** 0: 128. */
    public GenerateOptions maxTokens(int tokens) {
        this.maxTokens = Check.count(tokens, "maxTokens");
        return this;
    }

    /** Events tell the log-probabilities of so many of the most likely tokens; at most 64. */
    public GenerateOptions top(int tokens) {
        this.top = Check.count(tokens, "top");
        return this;
    }

    /** null: greedy. */
    public GenerateOptions sampler(Sampler sampler) {
        this.sampler = sampler;
        return this;
    }

    /** A text that ends the generation and is not shown. */
    public GenerateOptions stop(String text) {
        if (text.indexOf('\0') >= 0) {
            throw new IllegalArgumentException("the stop text has a zero character");
        }
        stop.add(text);
        return this;
    }

    /** From `position` on, in ascending order, the positions of the timeline are run by another submodel. */
    public GenerateOptions schedule(int position, Submodel submodel) {
        schedulePositions.add(Check.count(position, "position"));
        scheduleSubmodels.add(Check.present(submodel, "submodel"));
        return this;
    }

    public GenerateOptions listener(TokenListener listener) {
        this.listener = listener;
        return this;
    }

    public GenerateOptions ignoreEos(boolean ignore) {
        this.ignoreEos = ignore;
        return this;
    }

    /** A narrower submodel that writes ahead, `tokens` at once (0: as many as pay); the text stays as without it. */
    public GenerateOptions draft(Submodel draft, int tokens) {
        this.draft = draft;
        this.draftTokens = Check.count(tokens, "draft tokens");
        return this;
    }

    /** Runs the tokens whose submodel is not resident, as after a trim. */
    public GenerateOptions fallback(Submodel submodel) {
        this.fallback = submodel;
        return this;
    }
}
