#!/bin/sh
# Usage: scripts/install_deps.sh [tests|ci|peers|windows|bare-root|musl]
# Installs the Debian packages that building needs; with `tests`, also those that the tests need, with `ci` those
# that .ci/run checks with, and with `peers` the libraries that `matformer bench kernels` measures beside ours;
# `musl` is for scripts/check_java.sh --musl. Does nothing where they are all there, and then needs no root.
set -eu

packages='gcc libc6-dev pkg-config meson ninja-build libzstd-dev libxxhash-dev libjansson-dev libblis-dev'
case ${1-} in
tests | ci) packages="$packages g++ libcriterion-dev python3-numpy python3-xxhash python3-zstandard" ;;
esac
case ${1-} in
ci)
    packages="$packages clang-14 clang-format-14 libclang-rt-14-dev abigail-tools gcc-aarch64-linux-gnu qemu-user libdnnl-dev"
    packages="$packages cmake debhelper dh-python dpkg-dev fakeroot lintian mandoc zsh fish python3-venv openjdk-17-jdk-headless junit4"
    packages="$packages doxygen python3-sphinx python3-breathe python3-myst-parser"
    ;;
peers) packages="$packages libopenblas0-pthread libdnnl-dev" ;;
windows) packages="$packages g++ gcc-mingw-w64-x86-64 g++-mingw-w64-x86-64 cmake dpkg-dev wine wine64" ;;
bare-root) packages="$packages debootstrap python3-pip" ;;
musl) packages="$packages gcc-aarch64-linux-gnu qemu-user cmake dpkg-dev openjdk-17-jdk-headless" ;;
esac

# Elsewhere than on Debian, meson says what is missing.
command -v dpkg-query > /dev/null || exit 0

missing=
for package in $packages; do
    case $(dpkg-query -W -f '${Status}' "$package" 2> /dev/null) in
    *' installed') ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

root=
if [ "$(id -u)" -ne 0 ]; then
    root=sudo
    if ! command -v sudo > /dev/null; then
        echo "Missing packages. As root: apt-get install$missing" >&2
        exit 1
    fi
fi
echo "Installing:$missing"
$root apt-get update -q < /dev/null
$root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing < /dev/null
