#!/bin/sh
# Prints the version that include/matformer.h states; the build reads it from here alone.
header="$(dirname "$0")/../include/matformer.h"
part() { sed -n "s/^#define MF_VERSION_$1 \([0-9][0-9]*\)$/\1/p" "$header"; }
echo "$(part MAJOR).$(part MINOR).$(part PATCH)"
