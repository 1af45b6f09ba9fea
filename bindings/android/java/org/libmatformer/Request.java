package org.libmatformer;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;

/** A part of a batch: a session, a submodel, and the tokens to append. */
public final class Request {
    final Session session;
    final Submodel submodel;
    final int[] tokens;
    FloatBuffer logits;
    LogitsOf logitsOf = LogitsOf.NONE;
    Status status;

    public Request(Session session, Submodel submodel, int... tokens) {
        this.session = Check.present(session, "session");
        this.submodel = Check.present(submodel, "submodel");
        this.tokens = Check.present(tokens, "tokens");
    }

    /**
     * Where the logits go, without a copy: a direct buffer of the native byte order, from its position on (see
     * allocate()). Its position and limit stay as they are.
     */
    public Request logits(FloatBuffer logits, LogitsOf logitsOf) {
        if (!logits.isDirect() || logits.isReadOnly() || logits.order() != ByteOrder.nativeOrder()) {
            throw new IllegalArgumentException(
                    "logits go to a direct buffer of the native byte order: Request.allocate()");
        }
        this.logits = logits.slice(); // begins at its address
        this.logitsOf = logitsOf;
        return this;
    }

    /** After the batch; null where it did not run. */
    public Status status() {
        return status;
    }

    /** A buffer for so many floats. */
    public static FloatBuffer allocate(int floats) {
        return ByteBuffer.allocateDirect(Math.multiplyExact(floats, Float.BYTES))
                .order(ByteOrder.nativeOrder())
                .asFloatBuffer();
    }
}
