package org.libmatformer;

/** Told while a model opens or grows, on the calling thread. */
public interface Progress {
    /** `done` of `total` bytes. Return true to go on; false cancels. */
    boolean onProgress(long done, long total);
}
