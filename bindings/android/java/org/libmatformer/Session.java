package org.libmatformer;

import java.nio.FloatBuffer;

/**
 * One timeline: the tokens so far and their keys and values. One thread at a time: a call while another runs throws
 * MatformerException.Busy and changes nothing. cancel() and close() may be called from any thread at any time.
 */
public final class Session implements AutoCloseable {
    final Handle handle;
    private final Executor executor;

    /** With an executor of its own. */
    public Session(Model model) {
        this(model, null, new SessionOptions());
    }

    /** `executor` may serve many sessions, one at a time; null: one of the session's own. */
    public Session(Model model, Executor executor, SessionOptions options) {
        try (Handle.Use use = model.handle.share()) {
            this.executor = executor == null ? Executor.ofSessions(model, new ExecutorOptions()) : executor;
            this.executor.enter();
            handle = created(use.address, options);
        }
    }

    private Handle created(long model, SessionOptions options) {
        try {
            return new Handle(this, "session",
                    Native.sessionCreate(model, options.maxPositions, options.cacheType.ordinal()),
                    Native::sessionClose);
        } catch (RuntimeException failure) {
            executor.leave();
            throw failure;
        }
    }

    private Session(Session parent, long address) {
        executor = parent.executor;
        executor.enter();
        handle = new Handle(this, "session", address, Native::sessionClose);
    }

    /** A call that is using it ends soon, with Cancelled, and the memory goes then. */
    @Override
    public void close() {
        if (handle.close(Native::sessionCancel)) {
            executor.leave();
        }
    }

    /**
     * Stops the call that is using the session, which throws Cancelled; does nothing where there is none. Any thread.
     */
    public void cancel() {
        handle.cancel(Native::sessionCancel);
    }

    /** Positions that are filled. */
    public int position() {
        return handle.look(Native::sessionPosition);
    }

    public int[] tokens() {
        return handle.look(Native::sessionTokens);
    }

    /** Forgets all positions from `position` on. */
    public void rewind(int position) {
        try (Handle.Use session = handle.own()) {
            Native.sessionRewind(session.address, Check.count(position, "position"));
        }
    }

    /** A second timeline with the same past, on the same executor. */
    public Session fork() {
        try (Handle.Use session = handle.own()) {
            return new Session(this, Native.sessionFork(session.address));
        }
    }

    /** Writes the timeline to a file, under a temporary name first. */
    public void save(String path) {
        try (Handle.Use session = handle.own()) {
            Native.sessionSave(session.address, Text.bytes(Check.present(path, "path")));
        }
    }

    /** Reads a timeline of the same model back. */
    public void load(String path) {
        try (Handle.Use session = handle.own()) {
            Native.sessionLoad(session.address, Text.bytes(Check.present(path, "path")));
        }
    }

    /** The executor that it runs on. */
    public Executor executor() {
        return executor;
    }

    /** Appends tokens; the logits of the last one go to `logits`, as Request.logits() says; it may be null. */
    public void forward(Submodel submodel, FloatBuffer logits, int... tokens) {
        Request request = new Request(this, submodel, tokens);
        if (logits != null) {
            request.logits(logits, LogitsOf.LAST);
        }
        executor.forward(request);
    }

    /** Writes on after a prompt; blocks until it ends, and tells the listener each token from this thread. */
    public GenerateResult generate(Submodel submodel, String prompt, TokenListener listener) {
        return generate(submodel, new GenerateOptions().prompt(prompt).listener(listener));
    }

    public GenerateResult generate(Submodel submodel, GenerateOptions options) {
        return new Generation(this, submodel, options).run();
    }

    /** A cancellation that came when its call had just ended would end the next one. */
    void spendCancel(long executorAddress, long address, long submodelAddress) {
        if (handle.takeLeftCancel()) {
            Native.sessionSpendCancel(executorAddress, address, submodelAddress);
        }
    }
}
