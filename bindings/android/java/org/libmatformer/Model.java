package org.libmatformer;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * The weights and what they mean. Share it between threads freely. Sessions, submodels, samplers and executors keep the
 * native model alive, so that the order of closing does not matter.
 */
public final class Model implements AutoCloseable {
    /** For trim(): instead of milliseconds to wait. */
    public static final int WAIT_NONE = -1;

    final Handle handle;

    private Model(long address) {
        handle = new Handle(this, "model", address, Native::modelClose);
    }

    /** The running library's version: major * 65536 + minor * 256 + patch. */
    public static int version() {
        return Native.version();
    }

    public static Model open(String path) {
        return open(path, new ModelOptions());
    }

    /** Opens a .mf file, with the parts that lie beside it. */
    public static Model open(String path, ModelOptions options) {
        return open(Text.bytes(Check.present(path, "path")), -1, 0, 0, options);
    }

    /**
     * Opens `length` bytes (0: to the end) at `offset` of an open file descriptor, which may be closed afterwards. Of
     * an asset that is stored uncompressed: getParcelFileDescriptor().getFd(), getStartOffset() and getLength() of its
     * AssetFileDescriptor.
     */
    public static Model open(int fileDescriptor, long offset, long length, ModelOptions options) {
        return open(null, fileDescriptor, offset, length, options);
    }

    private static Model open(byte[] path, int fileDescriptor, long offset, long length, ModelOptions o) {
        requireSpan(offset, length);
        return new Model(Native.modelOpen(path, fileDescriptor, offset, length, o.load.ordinal(), o.verify.ordinal(),
                o.arithmetic.ordinal(), Text.bytes(o.widest), o.threads, o.cacheBytes, o.progress));
    }

    /** Drops the weights as soon as nothing that was made from the model is left. */
    @Override
    public void close() {
        handle.close(null);
    }

    // ---- What it is ----

    public ModelInfo info() {
        try (Handle.Use model = handle.share()) {
            long[] numbers = new long[ModelInfo.NUMBERS];
            Native.modelInfo(model.address, numbers);
            return new ModelInfo(Text.string(Native.modelFamily(model.address)),
                    Text.string(Native.modelCpu(model.address)), numbers);
        }
    }

    /** Names of the sizes, narrowest first. */
    public List<String> granularities() {
        try (Handle.Use model = handle.share()) {
            return names(i -> Native.modelGranularity(model.address, i));
        }
    }

    /** Names of the configurations that the file has beside its granularities. */
    public List<String> configurations() {
        try (Handle.Use model = handle.share()) {
            return names(i -> Native.modelConfiguration(model.address, i));
        }
    }

    public List<String> metadataKeys() {
        try (Handle.Use model = handle.share()) {
            return names(i -> Native.modelMetadata(model.address, null, i));
        }
    }

    /** The text under a key of the file's metadata, or null. */
    public String metadata(String key) {
        try (Handle.Use model = handle.share()) {
            return Text.string(Native.modelMetadata(model.address, Text.bytes(Check.present(key, "key")), 0));
        }
    }

    private interface Names {
        byte[] get(int index);
    }

    private static List<String> names(Names from) {
        List<String> names = new ArrayList<>();
        for (byte[] name = from.get(0); name != null; name = from.get(names.size())) {
            names.add(Text.string(name));
        }
        return Collections.unmodifiableList(names);
    }

    /** A view; from "M", "0.5", "ffn=512x4,1024x4", "params<=3e9" or what else mf_extract_submodel_text() takes. */
    public Submodel submodel(String text) {
        try (Handle.Use model = handle.share()) {
            return new Submodel(Native.submodelOpen(model.address, Text.bytes(Check.present(text, "text"))));
        }
    }

    // ---- What is in memory ----

    /** Loads all shells that a granularity needs; null: all of the model. Sessions may run meanwhile. */
    public void grow(String granularity, Progress progress) {
        try (Handle.Use model = handle.share()) {
            Native.modelGrow(model.address, Text.bytes(granularity), progress);
        }
    }

    /**
     * Gives the memory of all shells back that a granularity (null: the narrowest) does not need. Waits for the tokens
     * in flight that use them, at most `waitMs` (0: as long as they take; WAIT_NONE: not at all), else throws Busy.
     */
    public void trim(String granularity, int waitMs) {
        try (Handle.Use model = handle.share()) {
            Native.modelTrim(model.address, Text.bytes(granularity), Check.countOrNone(waitMs, "waitMs"));
        }
    }

    /** Adds a file that has shells of the model: they can be grown into afterwards. */
    public void attach(String path) {
        try (Handle.Use model = handle.share()) {
            Native.modelAttach(model.address, Text.bytes(Check.present(path, "path")), -1, 0, 0);
        }
    }

    /** The same for `length` bytes (0: to the end) at `offset` of an open file descriptor. */
    public void attach(int fileDescriptor, long offset, long length) {
        requireSpan(offset, length);
        try (Handle.Use model = handle.share()) {
            Native.modelAttach(model.address, null, fileDescriptor, offset, length);
        }
    }

    /** Takes the next bytes of a shell that is not resident, as a download brings them; null forgets what was fed. */
    public void feed(int shell, byte[] data, int offset, int length) {
        if (data != null && (offset < 0 || length < 0 || length > data.length - offset)) {
            throw new IndexOutOfBoundsException(offset + " + " + length + " of " + data.length + " bytes");
        }
        try (Handle.Use model = handle.share()) {
            Native.modelFeed(model.address, shell, data, offset, length);
        }
    }

    /** Of shell 0 to info().shells - 1, or ShellInfo.TABLES. */
    public ShellInfo shell(int shell) {
        try (Handle.Use model = handle.share()) {
            long[] numbers = new long[ShellInfo.NUMBERS];
            String granularity = Text.string(Native.modelShell(model.address, shell, numbers));
            return new ShellInfo(granularity, numbers);
        }
    }

    // ---- Text ----

    /** No beginning-of-text token is added, and text never becomes a control token. */
    public int[] tokenize(String text) {
        return tokenize(text, false, false);
    }

    /** parseControl: for trusted text, names of control tokens become those. addEnds: as the tokenizer's file does. */
    public int[] tokenize(String text, boolean parseControl, boolean addEnds) {
        try (Handle.Use model = handle.share()) {
            return Native.tokenize(model.address, Text.bytes(Check.present(text, "text")), parseControl, addEnds);
        }
    }

    public String detokenize(int... tokens) {
        return Text.string(detokenizeBytes(tokens));
    }

    /** One token may be part of a character. */
    public byte[] detokenizeBytes(int... tokens) {
        try (Handle.Use model = handle.share()) {
            return Native.detokenize(model.address, Check.present(tokens, "tokens"));
        }
    }

    public ChatFormat chatFormat() {
        try (Handle.Use model = handle.share()) {
            int format = Native.chatFormat(model.address);
            ChatFormat[] known = ChatFormat.values();
            return format < known.length ? known[format] : ChatFormat.NONE;
        }
    }

    /** The tokens of a whole chat; what a message says never becomes a control token. */
    public int[] renderChat(List<ChatMessage> messages, boolean addGenerationPrompt) {
        byte[][] roles = new byte[messages.size()][];
        byte[][] contents = new byte[messages.size()][];
        for (int i = 0; i < roles.length; i++) {
            roles[i] = Text.bytes(messages.get(i).role);
            contents[i] = Text.bytes(messages.get(i).content);
        }
        try (Handle.Use model = handle.share()) {
            return Native.chatRender(model.address, roles, contents, addGenerationPrompt);
        }
    }

    private static void requireSpan(long offset, long length) {
        if (offset < 0 || length < 0) {
            throw new IllegalArgumentException("offset " + offset + ", length " + length);
        }
    }
}
