package org.libmatformer;

/** The type that keys and values are stored in. In the order of matformer.h, whose values they have. */
public enum CacheType { F32, BF16, Q8 }
