package org.libmatformer;

/**
 * EXACT gives the same bits on every processor; FAST may round otherwise. In the order of matformer.h, whose values
 * they have.
 */
public enum Arithmetic { EXACT, FAST }
