#!/bin/sh
# Usage: scripts/cross/static_libraries.sh PREFIX LIBRARIES [cmake options]
# Builds some of zstd, xxhash and jansson for another system as static archives in PREFIX/lib, with
# PREFIX/lib/pkgconfig for meson. Of their sources those in PREFIX/sources/{zstd,xxhash,jansson} are taken, and where
# there are none Debian's source packages (which needs apt and dpkg-dev, but no root). With the NDK:
#     scripts/cross/static_libraries.sh deps-arm64-v8a 'zstd xxhash' -DANDROID_ABI=arm64-v8a
#         -DANDROID_PLATFORM=android-24 -DCMAKE_TOOLCHAIN_FILE=$NDK/build/cmake/android.toolchain.cmake
# Does nothing where PREFIX is complete.
set -eu
PATH=/usr/bin:$PATH
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
libraries=$2
shift 2
[ ! -e "$prefix/complete" ] || exit 0
mkdir -p "$prefix/sources"
# The release's own: of its updates a mirror may lack the sources.
release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2> /dev/null || true)

source_apt()
{
    apt-get -q -o APT::Sandbox::User= -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$prefix/apt/sources" \
        -o Dir::State="$prefix/apt" -o Dir::State::lists="$prefix/apt/lists" -o Dir::Cache="$prefix/apt/cache" \
        "$@" < /dev/null
}

fetch_sources() # from where this machine's packages come
{
    mkdir -p "$prefix/apt/sources" "$prefix/apt/lists/partial" "$prefix/apt/cache/archives/partial"
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources; do
        [ ! -e "$file" ] ||
            sed 's/^deb /deb-src /; s/^Types:.*/Types: deb-src/' "$file" > "$prefix/apt/sources/$(basename "$file")"
    done
    source_apt update
}

fetch() # fetch LIBRARY PACKAGE
{
    [ ! -d "$prefix/sources/$1" ] || return 0
    [ -d "$prefix/apt/sources" ] || fetch_sources
    mkdir -p "$prefix/apt/unpacked"
    (cd "$prefix/apt/unpacked" && source_apt source "$2${release:+/$release}")
    mv "$prefix/apt/unpacked/$2"-*/ "$prefix/sources/$1"
}

build() # build FOLDER_OF_CMAKELISTS [cmake options]
{
    folder=$1
    shift
    cmake -G Ninja -S "$folder" -B "$folder/build-here" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
        -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib "$@" < /dev/null
    ninja -C "$folder/build-here" install < /dev/null
}

for library in $libraries; do
    case $library in
    zstd)
        fetch zstd libzstd
        build "$prefix/sources/zstd/build/cmake" -DZSTD_BUILD_PROGRAMS=OFF -DZSTD_BUILD_SHARED=OFF \
            -DZSTD_LEGACY_SUPPORT=OFF -DZSTD_MULTITHREAD_SUPPORT=OFF "$@"
        ;;
    xxhash)
        fetch xxhash xxhash
        build "$prefix/sources/xxhash/cmake_unofficial" -DXXHASH_BUILD_XXHSUM=OFF "$@"
        ;;
    jansson)
        fetch jansson jansson
        build "$prefix/sources/jansson" -DJANSSON_BUILD_DOCS=OFF -DJANSSON_WITHOUT_TESTS=ON -DJANSSON_EXAMPLES=OFF "$@"
        ;;
    *)
        echo "$library: not zstd, xxhash or jansson" >&2
        exit 2
        ;;
    esac
done
# xxHash's own says /usr, whatever the prefix.
sed -i "s|^prefix=.*|prefix=$prefix|" "$prefix"/lib/pkgconfig/*.pc
touch "$prefix/complete"
