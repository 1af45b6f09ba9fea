package org.libmatformer;

/** Told each token, on the thread that called generate(). */
public interface TokenListener {
    /**
     * Return true to go on, false to end the generation. An exception ends it too, and reaches the caller of
     * generate(). Of the session only position(), tokens(), cancel() and close() may be called.
     */
    boolean onToken(TokenEvent event);
}
