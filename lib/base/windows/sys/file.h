/* flock() is in windows/posix.h. */
