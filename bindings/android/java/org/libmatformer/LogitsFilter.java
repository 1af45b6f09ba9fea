package org.libmatformer;

import java.nio.FloatBuffer;
import java.nio.IntBuffer;

/**
 * May change the logits of the next token before anything else looks at them: set those that must not come to negative
 * infinity. Grammars and schemas plug in here.
 */
public interface LogitsFilter {
    /**
     * `tokens` is the whole timeline, read-only; `logits` has one number for each entry of the vocabulary. Both are the
     * library's own memory, without a copy: they must not be touched after the call. Return true to go on; false, or an
     * exception, ends the generation.
     */
    boolean filter(IntBuffer tokens, FloatBuffer logits);
}
