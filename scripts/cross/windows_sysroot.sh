#!/bin/sh
# Usage: scripts/cross/windows_sysroot.sh FOLDER
# Builds zstd, xxHash and Jansson for 64-bit Windows from Debian's sources into FOLDER, since Debian has no packages of
# them, and writes FOLDER/sysroot.ini for scripts/cross/x86_64-w64-mingw32.ini. Needs apt, cmake, dpkg-dev and
# gcc-mingw-w64-x86-64, but no root. Does nothing where FOLDER is complete.
set -eu
PATH=/usr/bin:$PATH
mkdir -p "$1"
folder=$(cd "$1" && pwd)
[ ! -e "$folder/sysroot.ini" ] || exit 0

# From where this machine's packages come, of the release itself: not every mirror has the sources of later updates.
mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial" "$folder/apt/empty" "$folder/source"
# shellcheck disable=SC2016
apt-get indextargets --format 'deb-src $(REPO_URI) $(CODENAME) main' 'Created-By: Packages' |
    grep -v -e '-security main' -e '-updates main' | sort -u > "$folder/apt/sources.list"
source_apt()
{
    apt-get -q -o APT::Sandbox::User= -o Dir::Etc::sourcelist="$folder/apt/sources.list" \
        -o Dir::Etc::sourceparts="$folder/apt/empty" -o Dir::State::lists="$folder/apt/lists" \
        -o Dir::Cache="$folder/apt/cache" "$@" < /dev/null
}
source_apt update
cd "$folder/source"
source_apt source libzstd xxhash jansson

build() # build FOLDER_WITH_CMAKELISTS [options]
{
    source=$1
    shift
    cmake -S "$source" -B "$source/for-windows" -G Ninja -DCMAKE_SYSTEM_NAME=Windows -DCMAKE_SYSTEM_PROCESSOR=x86_64 \
        -DCMAKE_C_COMPILER=x86_64-w64-mingw32-gcc-posix -DCMAKE_CXX_COMPILER=x86_64-w64-mingw32-g++-posix \
        -DCMAKE_RC_COMPILER=x86_64-w64-mingw32-windres -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$folder" \
        -DCMAKE_INSTALL_LIBDIR=lib -DBUILD_SHARED_LIBS=OFF "$@"
    cmake --build "$source/for-windows"
    cmake --install "$source/for-windows"
}
build "$(echo "$folder"/source/libzstd-*/build/cmake)" -DZSTD_BUILD_PROGRAMS=OFF -DZSTD_BUILD_SHARED=OFF \
    -DZSTD_BUILD_TESTS=OFF
build "$(echo "$folder"/source/xxhash-*/cmake_unofficial)" -DXXHASH_BUILD_XXHSUM=OFF
sed -i "s|^prefix=.*|prefix=$folder|" "$folder/lib/pkgconfig/libxxhash.pc" # its own says /usr
build "$(echo "$folder"/source/jansson-*/)" -DJANSSON_EXAMPLES=OFF -DJANSSON_BUILD_DOCS=OFF -DJANSSON_WITHOUT_TESTS=ON
printf "[constants]\nsysroot = '%s'\n" "$folder" > "$folder/sysroot.ini"
