#!/bin/sh
# Usage: scripts/build.sh FOLDER [meson options] [-- targets]
# Configures FOLDER (once) and builds in it. Debian's meson, ninja and python3 go before others.
set -eu
cd "$(dirname "$0")/.."
PATH=/usr/bin:$PATH
folder=$1
shift
options=
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    options="$options $1"
    shift
done
[ $# -eq 0 ] || shift
# Options are words without spaces.
if [ ! -e "$folder/build.ninja" ]; then
    # shellcheck disable=SC2086
    meson setup "$folder" $options < /dev/null
elif [ /var/lib/dpkg/status -nt "$folder/build.ninja" ] &&
    grep -q '^ *missing Debian packages: lib' "$folder/meson-logs/meson-log.txt"; then
    # Packages have come since it was configured without some. --wipe: meson remembers what it did not find.
    meson setup --wipe "$folder" < /dev/null
fi
ninja -C "$folder" "$@" < /dev/null
