/* train_clock.h - the small file beside a checkpoint, CHECKPOINT.json: it keeps the time spent over all processes of a
 * run, and it is the lock that keeps a second run away. */
#ifndef TRAIN_CLOCK_H
#define TRAIN_CLOCK_H

#include "cli.h"

/* Opens and locks it, for as long as *fd is open. MF_E_BUSY where another run has it. */
mf_status train_clock_open(const char *checkpoint, int *fd, mf_error *error);
/* Seconds; false where the file holds none. Once, after opening. */
bool train_clock_read(int fd, double *seconds);
mf_status train_clock_write(int fd, double seconds, mf_error *error);

#endif
