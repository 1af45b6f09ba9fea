package org.libmatformer;

/** Arguments that the native side would read as something else. */
final class Check {
    private Check() {}

    /** Counts are unsigned there. */
    static int count(int value, String what) {
        if (value < 0) {
            throw new IllegalArgumentException(what + " is " + value + ", below 0");
        }
        return value;
    }

    /** A count for which -1 has a meaning. */
    static int countOrNone(int value, String what) {
        return value == -1 ? value : count(value, what);
    }

    static <T> T present(T value, String what) {
        if (value == null) {
            throw new NullPointerException(what);
        }
        return value;
    }
}
