package org.libmatformer;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;

/**
 * Logits to a token. The random number of a position is a function of the seed and the position alone, so that a
 * rewound session repeats itself. One call at a time.
 */
public final class Sampler implements AutoCloseable {
    final Handle handle;

    public Sampler(Model model, SamplerOptions o) {
        try (Handle.Use use = model.handle.share()) {
            handle = new Handle(this, "sampler",
                    Native.samplerCreate(use.address, o.seed, o.temperature, o.topP, o.minP, o.repetitionPenalty,
                            o.topK, o.repetitionWindow, o.filter),
                    Native::samplerClose);
        }
    }

    @Override
    public void close() {
        handle.close(null);
    }

    /** Chooses the token that follows `timeline`, by logits in a direct buffer, from its position on. */
    public int sample(int[] timeline, FloatBuffer logits) {
        if (!logits.isDirect() || logits.order() != ByteOrder.nativeOrder()) {
            throw new IllegalArgumentException(
                    "logits lie in a direct buffer of the native byte order: Request.allocate()");
        }
        try (Handle.Use sampler = handle.own()) {
            return Native.samplerSample(sampler.address, Check.present(timeline, "timeline"), logits.slice());
        }
    }

    /** Called by the native side, with the library's memory. */
    static boolean callFilter(LogitsFilter filter, ByteBuffer tokens, ByteBuffer logits) {
        ByteOrder order = ByteOrder.nativeOrder();
        return filter.filter(tokens.order(order).asIntBuffer().asReadOnlyBuffer(), logits.order(order).asFloatBuffer());
    }
}
