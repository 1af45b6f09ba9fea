package org.libmatformer;

/** What a session reserves. What is not set is the library's default. */
public final class SessionOptions {
    int maxPositions;
    CacheType cacheType = CacheType.F32;

    /** 0: the model's. */
    public SessionOptions maxPositions(int positions) {
        this.maxPositions = Check.count(positions, "maxPositions");
        return this;
    }

    public SessionOptions cacheType(CacheType type) {
        this.cacheType = Check.present(type, "cacheType");
        return this;
    }
}
