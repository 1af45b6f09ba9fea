package org.libmatformer;

/** For which positions of the input logits are wanted. In the order of matformer.h, whose values they have. */
public enum LogitsOf { LAST, NONE, ALL }
