package org.libmatformer;

/** Why a generation ended. In the order of matformer.h, whose values they have. */
public enum Finish { LENGTH, EOS, STOP, CALLBACK }
