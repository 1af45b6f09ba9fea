#!/bin/sh
# Usage: test/abi/grow_header.sh HEADER > GROWN
# The header of a release to come: every struct that may grow (those with struct_size, and mf_request) has a field
# `later` at its end, and mf_version() a minor number more. What a program may ask for with it is in MF_ABI_GROWN.
set -eu
awk '
/^#define MF_VERSION_MINOR / { print $1, $2, $3 + 1; print "#define MF_ABI_GROWN 1"; next }
/^typedef struct [a-z_]+ \{$/ { grows = ($3 == "mf_request") }
/^    size_t struct_size;/ { grows = 1 }
/^\} mf_[a-z_]+;$/ && grows { print "    uint64_t later[2];"; grows = 0; n++ }
{ print }
END { if (n < 20) { print "only " n " structs grew" > "/dev/stderr"; exit 1 } }
' "$1"
