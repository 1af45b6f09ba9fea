package org.libmatformer;

import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/** Worker threads and workspace for a model. One call at a time. */
public final class Executor implements AutoCloseable {
    final Handle handle;
    private boolean closesWithSessions;
    private int sessions;

    public Executor(Model model) {
        this(model, new ExecutorOptions());
    }

    public Executor(Model model, ExecutorOptions options) {
        try (Handle.Use use = model.handle.share()) {
            handle = new Handle(this, "executor",
                    Native.executorCreate(use.address, options.threads, options.maxTokens, options.maxRequests,
                            options.spinMicroseconds),
                    Native::executorClose);
        }
    }

    /** One that goes with the last session that entered. */
    static Executor ofSessions(Model model, ExecutorOptions options) {
        Executor executor = new Executor(model, options);
        executor.closesWithSessions = true;
        return executor;
    }

    synchronized void enter() {
        sessions++;
    }

    synchronized void leave() {
        sessions--;
        if (sessions == 0 && closesWithSessions) {
            close();
        }
    }

    @Override
    public void close() {
        handle.close(null);
    }

    public void forward(Request... requests) {
        forward(Arrays.asList(requests));
    }

    /**
     * Runs all requests as one batch: each appends its tokens to its session. Each gets a status; one that fails leaves
     * its session as it was and does not disturb the others. Throws the first failure among them.
     */
    public void forward(List<Request> requests) {
        int n = requests.size();
        long[] sessions = new long[n];
        long[] submodels = new long[n];
        int[][] tokens = new int[n][];
        FloatBuffer[] logits = new FloatBuffer[n];
        int[] logitsOf = new int[n];
        int[] statuses = new int[n];
        Arrays.fill(statuses, 1);
        List<Handle.Use> uses = new ArrayList<>();
        try (Handle.Use executor = handle.own()) {
            for (int i = 0; i < n; i++) {
                Request request = requests.get(i);
                request.status = null;
                uses.add(request.session.handle.own());
                sessions[i] = uses.get(uses.size() - 1).address;
                uses.add(request.submodel.handle.share());
                submodels[i] = uses.get(uses.size() - 1).address;
                request.session.spendCancel(executor.address, sessions[i], submodels[i]);
                tokens[i] = request.tokens;
                logits[i] = request.logits;
                logitsOf[i] = request.logitsOf.ordinal();
            }
            Native.forward(executor.address, sessions, submodels, tokens, logits, logitsOf, statuses);
        } finally {
            for (int i = 0; i < n; i++) {
                if (statuses[i] <= 0) {
                    requests.get(i).status = Status.of(statuses[i]);
                }
            }
            for (Handle.Use use : uses) {
                use.close();
            }
        }
    }
}
