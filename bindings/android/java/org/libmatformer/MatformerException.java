package org.libmatformer;

import java.nio.charset.StandardCharsets;

/**
 * A call failed. The message names the file, the tensor or the argument, and the remedy. Each status that a caller may
 * want to treat by itself has a class.
 */
public class MatformerException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final int code;

    MatformerException(int code, String detail) {
        super(detail);
        this.code = code;
    }

    /** Null where the library is newer than this package and has a status of its own. */
    public Status status() {
        return Status.of(code);
    }

    public int code() {
        return code;
    }

    /** An argument that the library refuses. */
    public static final class Invalid extends MatformerException {
        private static final long serialVersionUID = 1L;

        Invalid(int code, String detail) {
            super(code, detail);
        }
    }

    public static final class OutOfMemory extends MatformerException {
        private static final long serialVersionUID = 1L;

        OutOfMemory(int code, String detail) {
            super(code, detail);
        }
    }

    /** A file could not be read or written. */
    public static final class Io extends MatformerException {
        private static final long serialVersionUID = 1L;

        Io(int code, String detail) {
            super(code, detail);
        }
    }

    /** No such file, key, name, or shell in any file. */
    public static final class NotFound extends MatformerException {
        private static final long serialVersionUID = 1L;

        NotFound(int code, String detail) {
            super(code, detail);
        }
    }

    /** The file is damaged, or no .mf file, or its data does not match its checksum. */
    public static final class Damaged extends MatformerException {
        private static final long serialVersionUID = 1L;

        Damaged(int code, String detail) {
            super(code, detail);
        }
    }

    /** Not supported by this build or this model. */
    public static final class Unsupported extends MatformerException {
        private static final long serialVersionUID = 1L;

        Unsupported(int code, String detail) {
            super(code, detail);
        }
    }

    /** Session.cancel(), a progress or a filter ended the call. */
    public static final class Cancelled extends MatformerException {
        private static final long serialVersionUID = 1L;

        Cancelled(int code, String detail) {
            super(code, detail);
        }
    }

    /** Another call is using the object, on another thread or further up on this one. */
    public static final class Busy extends MatformerException {
        private static final long serialVersionUID = 1L;

        Busy(int code, String detail) {
            super(code, detail);
        }

        Busy(String detail) {
            this(Status.E_BUSY.code, detail);
        }
    }

    /** The model does not offer this width, head count or skip. */
    public static final class Width extends MatformerException {
        private static final long serialVersionUID = 1L;

        Width(int code, String detail) {
            super(code, detail);
        }
    }

    /** The submodel is wider than what is in memory: grow the model, or give a fallback. */
    public static final class NotResident extends MatformerException {
        private static final long serialVersionUID = 1L;

        NotResident(int code, String detail) {
            super(code, detail);
        }
    }

    /** No room for more positions. */
    public static final class NoRoom extends MatformerException {
        private static final long serialVersionUID = 1L;

        NoRoom(int code, String detail) {
            super(code, detail);
        }
    }

    /** The cache was written with other key/value heads: rewind to 0. */
    public static final class RebuildNeeded extends MatformerException {
        private static final long serialVersionUID = 1L;

        RebuildNeeded(int code, String detail) {
            super(code, detail);
        }
    }

    /** A token, position or index is out of range. */
    public static final class Range extends MatformerException {
        private static final long serialVersionUID = 1L;

        Range(int code, String detail) {
            super(code, detail);
        }
    }

    /** Called by the native side. */
    static MatformerException make(int code, byte[] utf8) {
        String detail = new String(utf8, StandardCharsets.UTF_8);
        Status status = Status.of(code);
        if (status == null) {
            return new MatformerException(code, detail);
        }
        switch (status) {
            case E_INVALID:
                return new Invalid(code, detail);
            case E_NOMEM:
                return new OutOfMemory(code, detail);
            case E_IO:
                return new Io(code, detail);
            case E_FORMAT:
            case E_CHECKSUM:
                return new Damaged(code, detail);
            case E_UNSUPPORTED:
                return new Unsupported(code, detail);
            case E_CANCELLED:
                return new Cancelled(code, detail);
            case E_BUSY:
                return new Busy(code, detail);
            case E_WIDTH:
                return new Width(code, detail);
            case E_NOT_RESIDENT:
                return new NotResident(code, detail);
            case E_REBUILD_NEEDED:
                return new RebuildNeeded(code, detail);
            case E_FULL:
                return new NoRoom(code, detail);
            case E_RANGE:
                return new Range(code, detail);
            case E_NOT_FOUND:
                return new NotFound(code, detail);
            default: // E_STRUCT_SIZE, E_CAPACITY: this package's own mistakes; E_FORKED, E_THREAD: the system's
                return new MatformerException(code, detail);
        }
    }
}
