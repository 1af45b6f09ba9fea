#!/bin/sh
# Usage: scripts/check_symbols.sh BUILD
# For each library: the functions that its header marks MF_API, those that the .so exports, and those that its
# map lists are the same. For each static archive: every global name begins with mf.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

same() # same FILE_A FILE_B "what A is" "what B is"
{
    if ! diff "$1" "$2" > "$work/diff"; then
        sed -n "s|^< |only in $3: |p; s|^> |only in $4: |p" "$work/diff"
        failed=1
    fi
}

check_library() # check_library NAME HEADER MAP
{
    library=$(find "$build" -name "$1")
    [ -n "$library" ] || { echo "$1 is not in $build"; exit 1; }
    grep '^MF_API' "$root/$2" > "$work/lines"
    sed -n 's/^MF_API [^(]*[ *]\(mf_[a-z0-9_]*\)(.*/\1/p' "$work/lines" | sort > "$work/header"
    if [ "$(wc -l < "$work/lines")" -ne "$(wc -l < "$work/header")" ]; then
        echo "$2: a line with MF_API does not name its function"
        failed=1
    fi
    nm -D --defined-only "$library" | sed -n 's/^[0-9a-f]* [^AUwv] \([^@]*\).*/\1/p' | sort > "$work/exported"
    sed -n 's/^ *\(mf_[a-z0-9_]*\);.*/\1/p' "$root/$3" | sort > "$work/map"
    same "$work/header" "$work/exported" "$2" "$1"
    same "$work/header" "$work/map" "$2" "$3"
    echo "$1: $(wc -l < "$work/exported") functions"
}

check_library libmatformer.so include/matformer.h lib/matformer.map
check_library libmatformer-tools.so include/matformer_tools.h lib/tools/matformer_tools.map
if [ -e "$root/lib/train/matformer_train.map" ] && [ -n "$(find "$build" -name libmatformer-train.so)" ]; then
    check_library libmatformer-train.so include/matformer_train.h lib/train/matformer_train.map
fi

for archive in $(find "$build/lib" "$build/kernels" -name 'lib*.a'); do
    nm -g --defined-only "$archive" | sed -n 's/^[0-9a-f]* [A-Z] \(.*\)/\1/p' | grep -v '^mf' > "$work/foreign" || continue
    sed "s|^|$archive: global without the prefix mf: |" "$work/foreign"
    failed=1
done
exit $failed
