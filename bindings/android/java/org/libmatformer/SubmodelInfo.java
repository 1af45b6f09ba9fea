package org.libmatformer;

/** What a submodel costs; the fields of mf_submodel_info. */
public final class SubmodelInfo {
    static final int NUMBERS = 8;

    /** That it uses, embeddings included. */
    public final long parameters;
    /** Without the embedding and output matrices. */
    public final long bodyParameters;
    /** Weights read to decode one token. */
    public final long bytesPerToken;
    public final long flopsPerToken;
    /** With an f32 cache. */
    public final long cacheBytesPerPosition;
    public final int layersKept;
    /** That must be resident. */
    public final int shells;
    /** Memory of the view itself. */
    public final int viewBytes;

    SubmodelInfo(long[] numbers) {
        parameters = numbers[0];
        bodyParameters = numbers[1];
        bytesPerToken = numbers[2];
        flopsPerToken = numbers[3];
        cacheBytesPerPosition = numbers[4];
        layersKept = (int) numbers[5];
        shells = (int) numbers[6];
        viewBytes = (int) numbers[7];
    }
}
