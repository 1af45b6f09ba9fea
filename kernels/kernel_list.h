/* kernel_list.h - declares every kernel of kernels.inc. */
#ifndef MFK_KERNEL_LIST_H
#define MFK_KERNEL_LIST_H

#include "kernel.h"

#define MFK_KERNEL(slot, operation, function, isa) mfk_##operation##_kernel function;
#include "kernels.inc"
#undef MFK_KERNEL

#endif
