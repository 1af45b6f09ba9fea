package org.libmatformer;

/** An immutable view of a model: a width for each layer, and no weights of its own. Share it between threads freely. */
public final class Submodel implements AutoCloseable {
    final Handle handle;

    Submodel(long address) {
        handle = new Handle(this, "submodel", address, Native::submodelClose);
    }

    @Override
    public void close() {
        handle.close(null);
    }

    public SubmodelInfo info() {
        try (Handle.Use submodel = handle.share()) {
            long[] numbers = new long[SubmodelInfo.NUMBERS];
            Native.submodelInfo(submodel.address, numbers);
            return new SubmodelInfo(numbers);
        }
    }

    /** The text form, which gives the same view again. */
    public String text() {
        try (Handle.Use submodel = handle.share()) {
            return Text.string(Native.submodelText(submodel.address));
        }
    }
}
