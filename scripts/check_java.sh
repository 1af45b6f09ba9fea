#!/bin/bash
# Usage: scripts/check_java.sh [--musl] BUILD WORK
# Java and Android, as far as a machine without the NDK goes. BUILD is a build folder of this machine, which gets the
# Java package; WORK one for what is built here. Needs what scripts/install_deps.sh ci installs, and WORK/arm-sysroot,
# which scripts/cross/sysroot.sh makes from Debian's packages where it is not there.
#
#   - the package's tests, on this machine's Java virtual machine with its checks of native code;
#   - the runtime for 64-bit ARM by scripts/cross/android-arm64.ini itself, with Debian's compiler in the NDK's place:
#     size, alignment of segments, what it wants and what it exports;
#   - the AAR of both.
#
# With --musl, instead: the library and its tests for 64-bit ARM and musl, in QEMU; and that the runtime wants no
# function which Android 7 lacks. Needs what scripts/install_deps.sh musl installs.
set -uo pipefail
cd "$(dirname "$0")/.."
PATH=/usr/bin:$PATH
root=$PWD
musl=
[ "$1" != --musl ] || { musl=yes && shift; }
mkdir -p "$2"
build=$(cd "$1" && pwd) work=$(cd "$2" && pwd)
passed=0 failed=0
readelf=aarch64-linux-gnu-readelf

check() # check WHAT COMMAND...
{
    local what=$1
    shift
    if "$@" > "$work/check_java.log" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        tail -n 60 "$work/check_java.log"
        echo "FAILED  $what"
    fi
}

finish()
{
    echo "$passed passed, $failed failed"
    exit $((failed > 0))
}

test_host()
{
    local last
    meson configure "$build" -Djava=enabled && sh scripts/build.sh "$build" &&
        sh scripts/run_tests.sh "$build" java || return 1
    last=$(sed -n 's/^\([0-9]*\) passed, 0 failed$/\1/p' "$work/check_java.log" | tail -n 1)
    passed=$((passed + last - 1)) # check() counts one
    ! grep -q '^WARNING' "$build/meson-logs/testlog.txt" # of -Xcheck:jni
}

# A folder that looks like the NDK to android-arm64.ini, and its two libraries.
fake_ndk()
{
    local bin=$work/ndk/toolchains/llvm/prebuilt/linux-x86_64/bin sysroot=$work/arm-sysroot library
    sh scripts/cross/sysroot.sh "$sysroot" || return 1
    mkdir -p "$bin" "$work/ndk-dependencies/lib/pkgconfig"
    printf '#!/bin/sh\nexec aarch64-linux-gnu-gcc --sysroot=%s "$@"\n' "$sysroot" > "$bin/aarch64-linux-android24-clang"
    chmod +x "$bin/aarch64-linux-android24-clang"
    ln -sf /usr/bin/aarch64-linux-gnu-ar "$bin/llvm-ar"
    ln -sf /usr/bin/aarch64-linux-gnu-strip "$bin/llvm-strip"
    for library in libzstd libxxhash; do
        sed "s|^prefix=.*|prefix=$sysroot/usr|" "$sysroot/usr/lib/aarch64-linux-gnu/pkgconfig/$library.pc" \
            > "$work/ndk-dependencies/lib/pkgconfig/$library.pc"
    done
    printf "[constants]\nndk = '%s'\ndependencies = '%s'\n" "$work/ndk" "$work/ndk-dependencies" > "$work/ndk.ini"
}

build_arm64()
{
    fake_ndk && sh scripts/build.sh "$work/android-arm64" --cross-file="$work/ndk.ini" \
        --cross-file=scripts/cross/android-arm64.ini -Dwerror=true
}

is_aligned() # is_aligned LIBRARY: every LOAD segment to 16 KiB
{
    local align n=0
    for align in $("$readelf" -lW "$1" | awk '$1 == "LOAD" { print $NF }'); do
        n=$((n + 1))
        ((align >= 0x4000)) || return 1
    done
    ((n > 0))
}

wants_only() # wants_only LIBRARY PATTERN
{
    "$readelf" -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' > "$work/needed"
    cat "$work/needed"
    [ -s "$work/needed" ] && ! grep -Ev "$2" "$work/needed"
}

is_small() # is_small LIBRARY: stripped, under 2 MB
{
    aarch64-linux-gnu-strip -o "$work/stripped.so" "$1" && wc -c "$work/stripped.so" &&
        [ "$(wc -c < "$work/stripped.so")" -lt 2000000 ]
}

exports() # exports LIBRARY PATTERN: all that it exports match, and something does
{
    aarch64-linux-gnu-nm -D --defined-only "$1" | awk '$2 != "A" { print $3 }' > "$work/exported"
    [ -s "$work/exported" ] && ! grep -Ev "$2" "$work/exported"
}

calls_itself() # calls_itself LIBRARY NAME
{
    "$readelf" -d "$1" | grep -F "(SONAME)" | grep -F "[$2]"
}

check_aar()
{
    local aar=$work/matformer.aar pair=(arm64-v8a="$work/android-arm64" x86_64="$build")
    sh scripts/build_aar.sh "$aar" "${pair[@]}" && cp "$aar" "$work/first.aar" &&
        sh scripts/build_aar.sh "$aar" "${pair[@]}" && cmp "$aar" "$work/first.aar" &&
        ! sh scripts/build_aar.sh "$work/none.aar" riscv64="$build" &&
        ! sh scripts/build_aar.sh "$work/none.aar" x86_64="$work" &&
        [ ! -e "$work/none.aar" ] && python3 - "$aar" "$root" "$work/android-arm64" "$build" << 'END'
import io, json, os, sys, zipfile
from xml.etree import ElementTree

aar, root, arm64, x86_64 = sys.argv[1:]
archive = zipfile.ZipFile(aar)
assert archive.testzip() is None
names = set(archive.namelist())
module = "prefab/modules/matformer"
folders = {"arm64-v8a": arm64, "x86_64": x86_64}
expected = {"AndroidManifest.xml", "classes.jar", "R.txt", "proguard.txt",
            "prefab/prefab.json", module + "/module.json",
            module + "/include/matformer.h", module + "/include/matformer.hpp",
            "META-INF/com/android/build/gradle/aar-metadata.properties"}
for abi in folders:
    expected |= {f"jni/{abi}/libmatformer_jni.so", f"{module}/libs/android.{abi}/libmatformer.so",
                 f"{module}/libs/android.{abi}/abi.json"}
assert names == expected, names ^ expected
read = lambda name: archive.read(name)
for abi, folder in folders.items():
    for name, file in ((f"jni/{abi}/libmatformer_jni.so", "bindings/android/libmatformer_jni.so"),
                       (f"{module}/libs/android.{abi}/libmatformer.so", "lib/libmatformer.so")):
        assert read(name) == open(os.path.join(folder, file), "rb").read(), name
    about = json.loads(read(f"{module}/libs/android.{abi}/abi.json"))
    assert about["abi"] == abi and about["api"] == 24 and about["stl"] == "none" and about["static"] is False
package = json.loads(read("prefab/prefab.json"))
header = open(os.path.join(root, "include/matformer.h")).read()
assert read(module + "/include/matformer.h").decode() == header
parts = [next(line.split()[-1] for line in header.splitlines() if line.startswith(f"#define MF_VERSION_{part} "))
         for part in ("MAJOR", "MINOR", "PATCH")]
assert package == {"schema_version": 2, "name": "matformer", "version": ".".join(parts), "dependencies": []}, package
assert json.loads(read(module + "/module.json"))["library_name"] == "libmatformer"
manifest = ElementTree.fromstring(read("AndroidManifest.xml"))
android = "{http://schemas.android.com/apk/res/android}"
assert manifest.get("package") == "org.libmatformer"
assert manifest.find("uses-sdk").get(android + "minSdkVersion") == "24"
classes = zipfile.ZipFile(io.BytesIO(read("classes.jar")))
for entry in (name for name in classes.namelist() if name.endswith(".class")):
    code = classes.read(entry)
    assert entry.startswith("org/libmatformer/"), entry
    assert code[:4] == b"\xca\xfe\xba\xbe" and code[6:8] == (52).to_bytes(2, "big"), entry  # Java 8's, which D8 reads
assert "org/libmatformer/Session.class" in classes.namelist()
assert not any("Test" in name or "Soak" in name for name in classes.namelist())
END
}

# ---- musl ----

# What meets the C library: files, threads, memory, numbers as text; and a few that run everything else.
musl_tests='test_base test_threads test_open test_container test_submodel test_tokenizer test_golden test_generate
    test_checkpoints example_01_load_and_run'

musl_build() # musl_build FOLDER options...
{
    sh scripts/build.sh "$work/$1" --cross-file="$work/musl-sysroot/sysroot.ini" \
        --cross-file=scripts/cross/aarch64-linux-musl.ini -Dtrain=disabled -Dprefer_static=true "${@:2}"
}

test_musl()
{
    local last core
    core=$(taskset -cp $$ | sed 's/.*: \([0-9]*\).*/\1/') # one: a thread that spins keeps an emulator busy
    # shellcheck disable=SC2086
    musl_build musl -Djava=disabled && QEMU_CPU=max MF_TEST_ROUNDS=1 taskset -c "$core" \
        sh scripts/run_tests.sh "$work/musl" -t 4 $musl_tests || return 1
    last=$(sed -n 's/^\([0-9]*\) passed, 0 failed$/\1/p' "$work/check_java.log" | tail -n 1)
    passed=$((passed + last - 1))
}

wants_nothing_newer() # wants_nothing_newer LIBRARY
{
    aarch64-linux-gnu-nm -D --undefined-only "$1" | awk '$1 == "U" { print $2 }' | sort > "$work/wanted"
    [ -s "$work/wanted" ] && grep -v '^#' bindings/android/bionic_symbols.txt | LC_ALL=C sort > "$work/bionic" &&
        LC_ALL=C sort "$work/wanted" | LC_ALL=C comm -23 - "$work/bionic" > "$work/newer" && cat "$work/newer" &&
        [ ! -s "$work/newer" ]
}

if [ -n "$musl" ]; then
    check 'a sysroot of musl' sh scripts/cross/sysroot.sh --musl "$work/musl-sysroot"
    check 'the tests in QEMU, with musl' test_musl
    check 'the runtime with musl' musl_build musl-runtime -Dimport=disabled -Dtools=false -Dtests=disabled \
        -Djava=enabled -Ddebug=false
    for library in bindings/android/libmatformer_jni.so lib/libmatformer.so; do
        check "$library wants nothing newer than Android 7" wants_nothing_newer "$work/musl-runtime/$library"
        check "$library wants libc alone" wants_only "$work/musl-runtime/$library" '^libc\.so$'
    done
    finish
fi

check 'the tests on this virtual machine' test_host
check 'the runtime for 64-bit ARM' build_arm64
((failed == 0)) || finish
for library in bindings/android/libmatformer_jni.so lib/libmatformer.so; do
    path=$work/android-arm64/$library name=${library##*/}
    check "$name: pages of 16 KiB" is_aligned "$path"
    check "$name: wants the C library alone" wants_only "$path" '^(libc|libm|libdl|liblog)\.so|^ld-linux-aarch64\.so'
    check "$name: under 2 MB stripped" is_small "$path"
    check "$name: its own name" calls_itself "$path" "$name"
done
check 'libmatformer_jni.so exports JNI_OnLoad alone' \
    exports "$work/android-arm64/bindings/android/libmatformer_jni.so" '^JNI_OnLoad$'
check 'libmatformer.so exports the header' exports "$work/android-arm64/lib/libmatformer.so" '^mf_'
check 'the AAR' check_aar
finish
