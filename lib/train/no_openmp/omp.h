/* omp.h - empty. Debian's blis.h includes it and uses nothing of it; Clang comes without one. */
