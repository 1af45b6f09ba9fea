package org.libmatformer;

/**
 * How much of the weights to check against the stored checksums. In the order of matformer.h, whose values they have.
 */
public enum Verify { DEFAULT, FULL, NONE }
