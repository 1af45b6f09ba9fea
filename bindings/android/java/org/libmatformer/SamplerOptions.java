package org.libmatformer;

/** How tokens are chosen, in this order: the filter, the repetition penalty, temperature, top-k, top-p, min-p. */
public final class SamplerOptions {
    long seed;
    float temperature;
    float topP;
    float minP;
    float repetitionPenalty;
    int topK;
    int repetitionWindow;
    LogitsFilter filter;

    public SamplerOptions seed(long seed) {
        this.seed = seed;
        return this;
    }

    /** 0: greedy. */
    public SamplerOptions temperature(float temperature) {
        this.temperature = temperature;
        return this;
    }

    /** 0 or 1: off. */
    public SamplerOptions topP(float p) {
        this.topP = p;
        return this;
    }

    /** 0: off. */
    public SamplerOptions minP(float p) {
        this.minP = p;
        return this;
    }

    /** 0: off. */
    public SamplerOptions topK(int k) {
        this.topK = Check.count(k, "topK");
        return this;
    }

    /** Penalty 0 or 1: off; `window` tokens are looked back, 0: 64. */
    public SamplerOptions repetition(float penalty, int window) {
        this.repetitionPenalty = penalty;
        this.repetitionWindow = Check.count(window, "window");
        return this;
    }

    public SamplerOptions filter(LogitsFilter filter) {
        this.filter = filter;
        return this;
    }
}
