#!/bin/sh
# Usage: scripts/cross/sysroot.sh FOLDER [packages]
# Unpacks Debian's arm64 libraries into FOLDER, and writes FOLDER/sysroot.ini for scripts/cross/aarch64-linux-gnu.ini.
# Needs apt, but no root: the lists and packages of the other architecture stay in FOLDER. Does nothing where FOLDER is
# complete.
set -eu
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
packages="libc6-dev libzstd-dev libxxhash-dev libjansson-dev $*"
[ ! -e "$folder/sysroot.ini" ] || exit 0

mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
: > "$folder/apt/status" # nothing is installed there
arm64_apt()
{
    apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= \
        -o Dir::State="$folder/apt" -o Dir::State::lists="$folder/apt/lists" -o Dir::State::status="$folder/apt/status" \
        -o Dir::Cache="$folder/apt/cache" "$@" < /dev/null
}
arm64_apt update
# shellcheck disable=SC2086
arm64_apt install -y --download-only --no-install-recommends $packages
for package in "$folder"/apt/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$folder"
done
printf "[constants]\nsysroot = '%s'\n" "$folder" > "$folder/sysroot.ini"
