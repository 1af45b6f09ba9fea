package org.libmatformer;

/** What a model is; the fields of mf_model_info. */
public final class ModelInfo {
    static final int NUMBERS = 25;

    public final String family;
    public final String cpu;
    public final int layers;
    public final int dModel;
    public final int heads;
    public final int kvHeads;
    public final int dHead;
    public final int dFf;
    public final int vocabulary;
    /** The length that it was trained for; sessions may be longer. */
    public final int maxPositions;
    public final int granularities;
    /** Widths are multiples of it. */
    public final int quantum;
    public final int shells;
    public final int shellsResident;
    public final long parameters;
    public final long fileBytes;
    public final long weightBytes;
    public final long mappedBytes;
    public final long allocatedBytes;
    /** -1: none. */
    public final int bosToken;
    public final int eosToken;
    public final Arithmetic arithmetic;
    /** Of a model that takes images; else 0. */
    public final int imageSize;
    public final int patchSize;
    public final int channels;
    public final int classes;
    /** So many of `vocabulary` are tokens; what fills it up is never sampled. */
    public final int tokens;

    ModelInfo(String family, String cpu, long[] numbers) {
        this.family = family;
        this.cpu = cpu;
        int i = 0;
        layers = (int) numbers[i++];
        dModel = (int) numbers[i++];
        heads = (int) numbers[i++];
        kvHeads = (int) numbers[i++];
        dHead = (int) numbers[i++];
        dFf = (int) numbers[i++];
        vocabulary = (int) numbers[i++];
        maxPositions = (int) numbers[i++];
        granularities = (int) numbers[i++];
        quantum = (int) numbers[i++];
        shells = (int) numbers[i++];
        shellsResident = (int) numbers[i++];
        parameters = numbers[i++];
        fileBytes = numbers[i++];
        weightBytes = numbers[i++];
        mappedBytes = numbers[i++];
        allocatedBytes = numbers[i++];
        bosToken = (int) numbers[i++];
        eosToken = (int) numbers[i++];
        arithmetic = Arithmetic.values()[(int) numbers[i++]];
        imageSize = (int) numbers[i++];
        patchSize = (int) numbers[i++];
        channels = (int) numbers[i++];
        classes = (int) numbers[i++];
        tokens = (int) numbers[i++];
        assert i == NUMBERS;
    }
}
