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
# shellcheck disable=SC2086
[ -e "$folder/build.ninja" ] || meson setup "$folder" $options < /dev/null
ninja -C "$folder" "$@" < /dev/null
