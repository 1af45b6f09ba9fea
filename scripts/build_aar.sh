#!/bin/sh
# Usage: scripts/build_aar.sh OUT.aar ABI=BUILD [ABI=BUILD ...]
# Packs what build folders have (arm64-v8a=build-arm64 x86_64=build-x86_64: whatever was built) into an Android
# archive: the classes, libmatformer_jni.so of each ABI, and libmatformer.so with its headers for C and C++ by prefab.
# $STRIP, if set, strips the libraries; else Gradle does. The same folders give the same bytes.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
out=$1
shift
work=$(mktemp -d)
trap 'rm -rf "$work" "$out.$$.tmp"' EXIT
version=$(sh "$root/scripts/version.sh")
module=$work/prefab/modules/matformer
mkdir -p "$module/include" "$work/META-INF/com/android/build/gradle"

copy_library() # copy_library FROM TO
{
    [ -e "$1" ] || { echo "$1 is missing: configure that folder with -Djava=enabled, and build it" >&2; exit 1; }
    mkdir -p "$(dirname "$2")"
    cp -L "$1" "$2"
    [ -z "${STRIP-}" ] || "$STRIP" "$2"
}

for pair; do
    abi=${pair%%=*} build=${pair#*=}
    case $abi in
    arm64-v8a | x86_64) ;;
    *)
        echo "$pair: not arm64-v8a=FOLDER or x86_64=FOLDER" >&2
        exit 2
        ;;
    esac
    copy_library "$build/bindings/android/libmatformer_jni.so" "$work/jni/$abi/libmatformer_jni.so"
    copy_library "$build/lib/libmatformer.so" "$module/libs/android.$abi/libmatformer.so"
    # Linked against by this name; meson adds no version to it when the system is android.
    soname=$(readelf -d "$build/lib/libmatformer.so" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
    [ "$soname" = libmatformer.so ] ||
        echo "$build: its libmatformer.so calls itself $soname, and so is not for Android" >&2
    printf '{ "abi": "%s", "api": 24, "ndk": %s, "stl": "none", "static": false }\n' "$abi" "${NDK_MAJOR:-27}" \
        > "$module/libs/android.$abi/abi.json"
    cp "$build/bindings/android/matformer.jar" "$work/classes.jar"
done
cp "$root/include/matformer.h" "$root/include/matformer.hpp" "$module/include/"
cp "$root/bindings/android/AndroidManifest.xml" "$root/bindings/android/proguard.txt" "$work/"
: > "$work/R.txt"
printf '{ "schema_version": 2, "name": "matformer", "version": "%s", "dependencies": [] }\n' "$version" \
    > "$work/prefab/prefab.json"
printf '{ "export_libraries": [], "library_name": "libmatformer" }\n' > "$module/module.json"
printf 'aarFormatVersion=1.0\naarMetadataVersion=1.0\nminCompileSdk=1\n' \
    > "$work/META-INF/com/android/build/gradle/aar-metadata.properties"

python3 - "$work" "$out.$$.tmp" << 'END'
import os, sys, zipfile

folder, out = sys.argv[1:]
names = sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names)
with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
    for name in names:
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
        with open(os.path.join(folder, name), "rb") as file:
            archive.writestr(entry, file.read())
END
mv "$out.$$.tmp" "$out"
