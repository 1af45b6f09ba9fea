package org.libmatformer;

/** The statuses of matformer.h. Their values never change their meaning. */
public enum Status {
    OK(0),
    E_INVALID(-1),
    E_NOMEM(-2),
    E_IO(-3),
    E_FORMAT(-4),
    E_CHECKSUM(-5),
    E_STRUCT_SIZE(-6),
    E_UNSUPPORTED(-7),
    E_CANCELLED(-8),
    E_BUSY(-9),
    E_WIDTH(-10),
    E_NOT_RESIDENT(-11),
    E_REBUILD_NEEDED(-12),
    E_FULL(-13),
    E_RANGE(-14),
    E_FORKED(-15),
    E_NOT_FOUND(-16),
    E_CAPACITY(-17),
    E_THREAD(-18);

    private static final Status[] VALUES = values();

    /** The library's number. */
    public final int code;

    Status(int code) {
        this.code = code;
    }

    /** The status of a number; null for one that this version does not know. */
    public static Status of(int code) {
        return code <= 0 && -code < VALUES.length ? VALUES[-code] : null;
    }
}
