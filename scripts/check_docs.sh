#!/bin/sh
# Usage: scripts/check_docs.sh BUILD
# The documents: that the check finds planted faults, and then what it finds in them. The last line counts both.
set -eu
cd "$(dirname "$0")/.."
PATH=/usr/bin:$PATH
log=$(mktemp)
trap 'rm -f "$log"' EXIT

python3 test/test_check_docs.py "$1" > "$log" 2>&1 || { cat "$log"; exit 1; }
planted=$(sed -n 's/^Ran \([0-9]*\) tests.*/\1/p' "$log")
status=0
python3 scripts/check_docs.py "$1" > "$log" 2>&1 || status=$?
sed '$d' "$log"
sed -n '$s/^\([0-9]*\) passed, \([0-9]* failed\)$/\1 \2/p' "$log" | {
    read -r passed failed
    echo "$((passed + planted)) passed, $failed"
}
exit $status
