#!/bin/sh
# Usage: scripts/cross/sysroot.sh [--musl] FOLDER [packages]
# Unpacks Debian's arm64 libraries into FOLDER, and writes FOLDER/sysroot.ini for scripts/cross/aarch64-linux-gnu.ini.
# Needs apt, but no root: the lists and packages of the other architecture stay in FOLDER. Does nothing where FOLDER is
# complete.
# With --musl, musl's, for scripts/cross/aarch64-linux-musl.ini, and zstd, xxHash and jansson built for it
# (scripts/cross/static_libraries.sh).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
libc=gnu
if [ "$1" = --musl ]; then
    libc=musl
    shift
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
case $libc in
gnu) packages="libc6-dev libzstd-dev libxxhash-dev libjansson-dev $*" ;;
musl) packages="musl-dev linux-libc-dev $*" ;;
esac
[ ! -e "$folder/sysroot.ini" ] || exit 0

mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
: > "$folder/apt/status" # nothing is installed there
arm64_apt()
{
    apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= \
        -o Dir::State="$folder/apt" -o Dir::State::lists="$folder/apt/lists" -o Dir::State::status="$folder/apt/status" \
        -o Dir::Cache="$folder/apt/cache" "$@" < /dev/null
}

# Debian's cross compiler is glibc's. What it takes from there by itself, this one takes from musl: headers, start
# files, the C library and the loader. Outline atomics ask glibc for the processor.
write_musl_compiler()
{
    gcc=$(command -v aarch64-linux-gnu-gcc)
    own=$(dirname "$("$gcc" -print-libgcc-file-name)")
    headers=$folder/usr/include/aarch64-linux-musl
    libraries=$folder/usr/lib/aarch64-linux-musl
    cat > "$folder/musl-gcc" << END
#!/bin/sh
compile='-nostdinc -mno-outline-atomics -isystem $own/include -isystem $headers'
for argument; do
    case \$argument in
    -c | -E | -S) exec $gcc \$compile "\$@" ;;
    -shared) start= ;;
    esac
done
exec $gcc \$compile -nostartfiles -nodefaultlibs -Wl,--dynamic-linker=/lib/ld-musl-aarch64.so.1 \\
    \${start-$libraries/Scrt1.o} $libraries/crti.o $own/crtbeginS.o -L$folder/lib/aarch64-linux-musl -L$libraries "\$@" -lc $own/libgcc.a \\
    $own/crtendS.o $libraries/crtn.o
END
    chmod +x "$folder/musl-gcc"
    # Where the emulator looks for the loader; Debian's link names a path of the root.
    ln -sf aarch64-linux-musl/libc.so "$folder/lib/ld-musl-aarch64.so.1"
}

arm64_apt update
# shellcheck disable=SC2086
arm64_apt install -y --download-only --no-install-recommends $packages
for package in "$folder"/apt/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$folder"
done
if [ "$libc" = musl ]; then
    write_musl_compiler
    sh "$here/static_libraries.sh" "$folder/static" 'zstd xxhash jansson' -DCMAKE_SYSTEM_NAME=Linux \
        -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_C_COMPILER="$folder/musl-gcc"
fi
printf "[constants]\nsysroot = '%s'\n" "$folder" > "$folder/sysroot.ini"
