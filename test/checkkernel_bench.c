/* checkkernel_bench.c - the speed of single kernels. Filled below. */
#include "checkkernel.h"
#include <stdio.h>
void bench_kernel(check_run *run, const char *slot)
{
    printf("%s %s\n", slot, run->kernel);
}
