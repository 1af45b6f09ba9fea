package org.libmatformer;

import java.nio.FloatBuffer;

/**
 * The functions of jni/, which natives.inc registers. Text crosses as UTF-8 bytes: JNI's own strings are modified
 * UTF-8, which splits characters beyond the basic plane. Failures are thrown as MatformerException.
 */
final class Native {
    static {
        System.loadLibrary("matformer_jni");
    }

    private Native() {}

    static native int version();

    // ---- Model ----

    /** Opens `path`, or, where it is null, `length` bytes (0: to the end) at `offset` of a file descriptor. */
    static native long modelOpen(byte[] path, int fd, long offset, long length, int load, int verify, int arithmetic,
            byte[] widest, int threads, long cacheBytes, Progress progress);

    static native void modelClose(long model);

    /** Fills as many numbers as ModelInfo reads. */
    static native void modelInfo(long model, long[] numbers);

    static native byte[] modelFamily(long model);

    static native byte[] modelCpu(long model);

    static native byte[] modelGranularity(long model, int index);

    static native byte[] modelConfiguration(long model, int index);

    /** The text under `key`, or the index-th key where `key` is null; null where there is none. */
    static native byte[] modelMetadata(long model, byte[] key, int index);

    static native void modelGrow(long model, byte[] granularity, Progress progress);

    static native void modelTrim(long model, byte[] granularity, int waitMs);

    static native void modelAttach(long model, byte[] path, int fd, long offset, long length);

    static native void modelFeed(long model, int shell, byte[] data, int offset, int length);

    /** Fills as many numbers as ShellInfo reads; returns the granularity or null. */
    static native byte[] modelShell(long model, int shell, long[] numbers);

    // ---- Text ----

    static native int[] tokenize(long model, byte[] text, boolean parseControl, boolean addEnds);

    static native byte[] detokenize(long model, int[] tokens);

    static native int chatFormat(long model);

    static native int[] chatRender(long model, byte[][] roles, byte[][] contents, boolean addGenerationPrompt);

    // ---- Submodel ----

    static native long submodelOpen(long model, byte[] text);

    static native void submodelClose(long submodel);

    static native void submodelInfo(long submodel, long[] numbers);

    static native byte[] submodelText(long submodel);

    // ---- Executor, session ----

    static native long executorCreate(long model, int threads, int maxTokens, int maxRequests, int spinUs);

    static native void executorClose(long executor);

    static native long sessionCreate(long model, int maxPositions, int cacheType);

    static native void sessionClose(long session);

    static native int sessionPosition(long session);

    static native int[] sessionTokens(long session);

    static native void sessionRewind(long session, int position);

    static native long sessionFork(long session);

    static native void sessionSave(long session, byte[] path);

    static native void sessionLoad(long session, byte[] path);

    static native void sessionCancel(long session);

    /** Runs a token that is not kept, so that a cancellation that came too late is spent. */
    static native void sessionSpendCancel(long executor, long session, long submodel);

    /** One batch. Buffers are direct, of native order, and begin at their position 0, or are null. */
    static native void forward(long executor, long[] sessions, long[] submodels, int[][] tokens, FloatBuffer[] logits,
            int[] logitsOf, int[] statuses);

    // ---- Sampling, generation ----

    static native long samplerCreate(long model, long seed, float temperature, float topP, float minP,
            float repetitionPenalty, int topK, int repetitionWindow, LogitsFilter filter);

    static native void samplerClose(long sampler);

    static native int samplerSample(long sampler, int[] timeline, FloatBuffer logits);

    /** Of prompt and tokens at least one is null. Numbers of what was done go to `result`. */
    static native void generate(long executor, long session, long submodel, byte[] prompt, int[] tokens, int maxTokens,
            int nTop, long sampler, byte[][] stop, int[] schedulePositions, long[] scheduleSubmodels, boolean ignoreEos,
            long draft, int draftTokens, long fallback, Generation generation, long[] result);
}
