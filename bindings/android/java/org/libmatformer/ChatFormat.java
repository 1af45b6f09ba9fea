package org.libmatformer;

/** How the model was taught to see turns of a chat. In the order of matformer.h, whose values they have. */
public enum ChatFormat { NONE, GEMMA, LLAMA3 }
