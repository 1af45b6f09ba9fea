#!/bin/sh
# Usage: scripts/check_consumers.sh BUILD WORK
# That what is installed can be used: programs of someone else's (test/consumers) find the library through pkg-config, with
# find_package() and as a meson subproject, shared and static, from C and from C++, where it was installed and after it was
# moved. BUILD is a build folder with the program; WORK is emptied. The last line says how many passed.
set -eu
PATH=/usr/bin:$PATH
root=$(cd "$(dirname "$0")/.." && pwd)
build=$(cd "$1" && pwd)
rm -rf "$2"
mkdir -p "$2"
work=$(cd "$2" && pwd)
model=$root/models/tales.mf
log=$work/log
passed=0
failed=0
unset LD_LIBRARY_PATH PKG_CONFIG_PATH CMAKE_PREFIX_PATH

check() # check NAME COMMAND...
{
    name=$1
    shift
    if "$@" > "$log" 2>&1; then
        passed=$((passed + 1))
        echo "ok $name"
    else
        failed=$((failed + 1))
        echo "not ok $name"
        tail -n 40 "$log"
    fi
}

refuses() # refuses PATTERN COMMAND...: it fails, and says why
{
    pattern=$1
    shift
    ! "$@" > "$work/refusal" 2>&1 || return 1
    tr '\n' ' ' < "$work/refusal" | tr -s ' ' | grep -q "$pattern" || { cat "$work/refusal"; return 1; }
}

# ---- What a program does

linked() # linked shared|static PROGRAM: whether it needs the shared library
{
    if readelf -d "$2" | grep -q 'NEEDED.*\[libmatformer\.so'; then [ "$1" = shared ]; else [ "$1" = static ]; fi
}

# check_programs NAME FOLDER shared|static [LIBRARIES]: FOLDER holds c_HOW, cpp_HOW, and tools_HOW and train_HOW where named
check_programs()
{
    for language in c cpp; do
        program=$2/${language}_$3
        check "$1 $language $3 is linked" linked "$3" "$program"
        check "$1 $language $3 writes" sh -c "'$program' '$model' | diff '$work/expected' -"
    done
    for library in ${4-tools}; do
        case $library in
        tools) check "$1 tools $3 converts" "$2/tools_$3" "$model" "$work/written.mf" ;;
        train) check "$1 train $3 trains" "$2/train_$3" "$work/written.mf" ;;
        esac
    done
}

# ---- How it finds the library

compile() # compile SOURCE OUT OPTIONS...
{
    case $1 in
    *.cc) compiler="${CXX:-c++} -std=c++17" ;;
    *) compiler="${CC:-cc} -std=c99" ;;
    esac
    source=$work/project/$1 out=$2
    shift 2
    # shellcheck disable=SC2086
    $compiler -Wall -Wextra -Werror -pedantic "$source" -o "$out" "$@"
}

check_pkg_config() # check_pkg_config NAME PREFIX shared|static LIBRARIES; a static program is static throughout
{
    folder=$(dirname "$(find "$2" -name matformer.pc)")
    mkdir -p "$work/$1"
    if [ "$3" = static ]; then options=--static link=-static; else options='' link=-Wl,-rpath,${folder%/*}; fi
    for program in c cpp $4; do
        case $program in
        c) source=consumer.c module=matformer ;;
        cpp) source=consumer.cc module=matformer ;;
        *) source=consumer_$program.c module=matformer-$program ;;
        esac
        # shellcheck disable=SC2046,SC2086
        check "$1 builds $program $3" compile "$source" "$work/$1/${program}_$3" \
            $(PKG_CONFIG_PATH=$folder pkg-config --define-variable=prefix="$2" $options --cflags --libs "$module") $link
    done
    check_programs "$1" "$work/$1" "$3" "$4"
}

configure() # configure FOLDER PREFIX [COMPONENTS]
{
    cmake -S "$work/project" -B "$1" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$2" ${3:+-DCOMPONENTS="$3"}
}

# ---- The checks

# What the program of BUILD writes at both sizes is what every consumer shall write.
for size in S XL; do
    printf '%s: ' "$size"
    "$build/tools/matformer" run "$model" --size "$size" -p 'Once upon a time' -n 24 --temperature 0 --quiet
done > "$work/expected"
trainer=
[ ! -e "$build/lib/train/libmatformer-train.so" ] || trainer=train
mkdir -p "$work/project/subprojects"
cp "$root"/test/consumers/* "$work/project"
ln -s "$root" "$work/project/subprojects/libmatformer"
cd "$work"

# BUILD, installed below DESTDIR, and moved.
check "installs to DESTDIR" env DESTDIR="$work/stage" meson install -C "$build" --no-rebuild --quiet
prefix=$(dirname "$(dirname "$(find "$work/stage" -path '*/bin/matformer')")")
check "nothing is outside the prefix" sh -c "! find '$work/stage' -type f ! -path '$prefix/*' | grep ."
mv "$prefix" "$work/staged"
for file in include/matformer.h include/matformer.hpp include/matformer_tools.h share/matformer/story.txt \
    share/doc/matformer/README.md share/doc/matformer/docs/architecture.md \
    share/doc/matformer/examples/01_load_and_run.c; do
    check "installed $file" test -s "staged/$file"
done
check "the moved program finds library and model" staged/bin/matformer demo --json
check_pkg_config moved "$work/staged" shared "tools $trainer"
check "cmake configures without archives" configure shared-cmake "$work/staged" "shared;tools${trainer:+;train}"
check "cmake builds without archives" cmake --build shared-cmake
check_programs "cmake without archives" shared-cmake shared "tools $trainer"
check "cmake names the missing component" refuses 'the component static is not in' configure refused "$work/staged"

# A project with the library as its subproject; what it installs, shared and static, serves the others.
check "subproject configures" meson setup subproject project --prefix="$work/prefix" --buildtype=plain \
    --wrap-mode=forcefallback
check "subproject builds" ninja -C subproject
check "subproject builds no program of ours" test ! -e subproject/subprojects/libmatformer/tools
check "subproject installs" meson install -C subproject --no-rebuild --quiet
for how in shared static; do
    check_programs subproject subproject $how
    check_pkg_config pkg-config "$work/prefix" $how tools
done
check "meson finds what is installed" env PKG_CONFIG_PATH="$folder" meson setup installed project \
    --wrap-mode=nofallback --buildtype=plain
mv prefix moved-prefix
check "cmake configures" configure cmake "$work/moved-prefix"
check "cmake builds" cmake --build cmake
for how in shared static; do
    check_programs cmake cmake $how
done
sed 's/find_package(matformer 0.1/find_package(matformer 0.2/' project/CMakeLists.txt > project/newer
mv project/newer project/CMakeLists.txt
check "cmake refuses another version" refuses 'version: 0\.1' configure version "$work/moved-prefix"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
