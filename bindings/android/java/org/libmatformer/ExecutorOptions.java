package org.libmatformer;

/** What an executor has. What is not set is the library's default. */
public final class ExecutorOptions {
    /** For spinMicroseconds(): the workers sleep as soon as a call ends. */
    public static final int SPIN_NONE = -1;

    int threads;
    int maxTokens;
    int maxRequests;
    int spinMicroseconds;

    /** The caller counts as one; 0: one for each usable core, of the fast ones. */
    public ExecutorOptions threads(int threads) {
        this.threads = Check.count(threads, "threads");
        return this;
    }

    /** Rows computed at once, over all requests; 0: 512. */
    public ExecutorOptions maxTokens(int tokens) {
        this.maxTokens = Check.count(tokens, "maxTokens");
        return this;
    }

    public ExecutorOptions maxRequests(int requests) {
        this.maxRequests = Check.count(requests, "maxRequests");
        return this;
    }

    /** After a call its workers spin this long for the next one; 0: 200. */
    public ExecutorOptions spinMicroseconds(int microseconds) {
        this.spinMicroseconds = Check.countOrNone(microseconds, "spinMicroseconds");
        return this;
    }
}
