package org.libmatformer;

/** A shell of a model, or its tables; the fields of mf_shell_info. */
public final class ShellInfo {
    /** Instead of a shell's number. */
    public static final int TABLES = -1;

    static final int NUMBERS = 7;

    /** Where it is in the whole .mf file. */
    public final long fileOffset;
    public final long storedBytes;
    /** That it takes when resident. */
    public final long memoryBytes;
    /** Of its stored bytes: which part of a delivery is this one. */
    public final long contentHash;
    /** Of storedBytes, by Model.feed() so far. */
    public final long fedBytes;
    /** In the file, or an attached one: can be grown into. */
    public final boolean present;
    public final boolean resident;
    /** The narrowest that needs it; null: none. */
    public final String granularity;

    ShellInfo(String granularity, long[] numbers) {
        this.granularity = granularity;
        fileOffset = numbers[0];
        storedBytes = numbers[1];
        memoryBytes = numbers[2];
        contentHash = numbers[3];
        fedBytes = numbers[4];
        present = numbers[5] != 0;
        resident = numbers[6] != 0;
    }
}
