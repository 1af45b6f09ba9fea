#!/bin/sh
# Usage: scripts/record_abi.sh [HEADER [MAP]] > test/abi/matformer-X.abi
# What HEADER (include/matformer.h) and MAP (lib/matformer.map) promise, in abidw's form: the types and functions of a
# library that has the functions of the header and no code. So nothing is in it of what is private, nor of the place and
# compiler of a build: the same header gives the same text.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
header=$(realpath "${1:-$root/include/matformer.h}")
map=$(realpath "${2:-$root/lib/matformer.map}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Each declaration, which may go over several lines, becomes a definition.
cp "$header" "$work/matformer.h"
{
    echo '#include "matformer.h"'
    awk '/^MF_API / { on = 1 } on { print } on && /;/ { on = 0 }' "$header" | sed 's/;.*/ { __builtin_trap(); }/'
} > "$work/matformer.c"
major=$(sed -n 's/^#define MF_VERSION_MAJOR //p' "$header")
cd "$work"
${CC:-cc} -std=c11 -g -fPIC -shared -nostdlib -Wl,--version-script="$map" -Wl,-soname,"libmatformer.so.$major" \
    -o libmatformer.so matformer.c
abidw --headers-dir . --no-corpus-path --no-comp-dir-path --no-show-locs --no-elf-needed --no-write-default-sizes \
    libmatformer.so | sed "s| path='[^']*'||"
