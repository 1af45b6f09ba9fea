#!/bin/sh
# Usage: scripts/build.sh FOLDER [meson options]
# Configures FOLDER (once) and builds in it. /usr/bin/meson, where there is one, goes before others: it is the
# version that the build is written for.
set -eu
cd "$(dirname "$0")/.."
folder=$1
shift
meson=meson
[ -x /usr/bin/meson ] && meson=/usr/bin/meson
[ -e "$folder/build.ninja" ] || $meson setup "$folder" "$@" < /dev/null
$meson compile -C "$folder" < /dev/null
