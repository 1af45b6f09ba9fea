package org.libmatformer;

/** How to open a model. What is not set is the library's default. */
public final class ModelOptions {
    Load load = Load.MAP;
    Verify verify = Verify.DEFAULT;
    Arithmetic arithmetic = Arithmetic.EXACT;
    String widest;
    int threads;
    long cacheBytes;
    Progress progress;

    public ModelOptions load(Load load) {
        this.load = Check.present(load, "load");
        return this;
    }

    public ModelOptions verify(Verify verify) {
        this.verify = Check.present(verify, "verify");
        return this;
    }

    public ModelOptions arithmetic(Arithmetic arithmetic) {
        this.arithmetic = Check.present(arithmetic, "arithmetic");
        return this;
    }

    /** Name of the widest granularity to load now; null: all of the file. */
    public ModelOptions widest(String granularity) {
        this.widest = granularity;
        return this;
    }

    /** For decoding and packing; 0: one per usable core. */
    public ModelOptions threads(int threads) {
        this.threads = Check.count(threads, "threads");
        return this;
    }

    /** Most memory for the key/value pages of all sessions; 0: as they reserve. */
    public ModelOptions cacheBytes(long bytes) {
        if (bytes < 0) {
            throw new IllegalArgumentException("cacheBytes is " + bytes + ", below 0");
        }
        this.cacheBytes = bytes;
        return this;
    }

    public ModelOptions progress(Progress progress) {
        this.progress = progress;
        return this;
    }
}
