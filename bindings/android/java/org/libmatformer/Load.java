package org.libmatformer;

/** MAP maps the file, COPY reads it into memory. In the order of matformer.h, whose values they have. */
public enum Load { MAP, COPY }
