package org.libmatformer;

/** What a generation did. */
public final class GenerateResult {
    static final int NUMBERS = 7;

    public final Finish finish;
    public final int promptTokens;
    public final int generatedTokens;
    public final long promptNanoseconds;
    public final long generateNanoseconds;
    /** Tokens that the draft wrote, and how many of them became the text's. */
    public final int draftedTokens;
    public final int acceptedTokens;

    GenerateResult(long[] numbers) {
        finish = Finish.values()[(int) numbers[0]];
        promptTokens = (int) numbers[1];
        generatedTokens = (int) numbers[2];
        promptNanoseconds = numbers[3];
        generateNanoseconds = numbers[4];
        draftedTokens = (int) numbers[5];
        acceptedTokens = (int) numbers[6];
    }
}
