package org.libmatformer;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** One call of generate(): the objects that it uses, and the listener's side of it. */
final class Generation {
    private final Session session;
    private final Submodel submodel;
    private final GenerateOptions options;
    private final List<Handle.Use> uses = new ArrayList<>();
    private final Map<Long, Submodel> submodels = new HashMap<>();

    Generation(Session session, Submodel submodel, GenerateOptions options) {
        this.session = session;
        this.submodel = submodel;
        this.options = options;
    }

    GenerateResult run() {
        try {
            return runInUse();
        } finally {
            for (int i = uses.size(); i-- > 0;) {
                uses.get(i).close();
            }
        }
    }

    private GenerateResult runInUse() {
        long sessionAddress = begin(session.handle.own());
        long executor = begin(session.executor().handle.own());
        long sampler = options.sampler == null ? 0 : begin(options.sampler.handle.own());
        long main = share(submodel);
        long draft = options.draft == null ? 0 : share(options.draft);
        long fallback = options.fallback == null ? 0 : share(options.fallback);
        int steps = options.scheduleSubmodels.size();
        int[] positions = new int[steps];
        long[] views = new long[steps];
        for (int i = 0; i < steps; i++) {
            positions[i] = options.schedulePositions.get(i);
            views[i] = share(options.scheduleSubmodels.get(i));
        }
        session.spendCancel(executor, sessionAddress, main);
        long[] result = new long[GenerateResult.NUMBERS];
        Native.generate(executor, sessionAddress, main, Text.bytes(options.prompt), options.tokens, options.maxTokens,
                options.top, sampler, Text.bytes(options.stop), positions, views, options.ignoreEos, draft,
                options.draftTokens, fallback, options.listener == null ? null : this, result);
        return new GenerateResult(result);
    }

    private long begin(Handle.Use use) {
        uses.add(use);
        return use.address;
    }

    private long share(Submodel view) {
        long address = begin(view.handle.share());
        submodels.put(address, view);
        return address;
    }

    /** Called by the native side. */
    boolean onToken(
            int token, int position, byte[] text, float logprob, long view, int[] topTokens, float[] topLogprobs) {
        return options.listener.onToken(
                new TokenEvent(token, position, text, logprob, submodels.get(view), topTokens, topLogprobs));
    }
}
