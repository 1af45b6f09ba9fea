#!/bin/sh
# Usage: scripts/check_abi.sh BUILD WORK | --record BUILD
# Checks the promise of docs/abi.md for the library in BUILD, which has debug information:
#  - against every baseline in test/abi/, recorded from an earlier build by --record; and that a change that breaks the
#    promise would be found, on a small library that is changed in every way;
#  - with programs: one of a later release, whose structs have grown, with this library; and this release's with a
#    library whose structs have grown, which is built in WORK.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
PATH=/usr/bin:$PATH
passed=0

pass()
{
    passed=$((passed + 1))
    echo "ok $1"
}

fail()
{
    echo "not ok $1"
    exit 1
}

record() # record LIBRARY HEADERS: the baseline, the same from every compiler and folder
{
    abidw --drop-private-types --exported-interfaces-only --no-elf-needed --no-comp-dir-path --no-show-locs \
        --no-corpus-path --headers-dir "$2" "$1"
}

# Both sides as record() writes them: abidiff takes all types of a baseline for private, and changes of theirs for harmless,
# when it is told of headers, because a baseline does not say where its types are from.
compare() # compare BASELINE LIBRARY HEADERS
{
    record "$2" "$3" > "$work/now.abi"
    abidiff --suppressions "$root/test/abi/allow.ini" --no-added-syms "$1" "$work/now.abi" &&
        /usr/bin/python3 "$root/test/abi/compare_fields.py" "$1" "$work/now.abi"
}

if [ "$1" = --record ]; then
    file=$root/test/abi/matformer-$(sh "$root/scripts/version.sh").abi
    record "$2/lib/libmatformer.so" "$root/include" > "$file.tmp"
    mv "$file.tmp" "$file"
    echo "$file"
    exit 0
fi
build=$(cd "$1" && pwd)
mkdir -p "$2"
work=$(cd "$2" && pwd)
library=$build/lib/libmatformer.so

# ---- Baselines ----

for baseline in "$root"/test/abi/matformer-*.abi; do
    compare "$baseline" "$library" "$root/include" || fail "$baseline"
    pass "the library keeps $(basename "$baseline")"
done

# ---- That a change is found ----

small() # small FOLDER SED...: a library from test/abi/small.h and .c, changed
{
    folder=$work/$1
    mkdir -p "$folder"
    for name in small.h small.c; do
        sed "$2" "$root/test/abi/$name" > "$folder/$name"
    done
    cc -g -fPIC -shared -I "$folder" "$folder/small.c" -o "$folder/libsmall.so"
}

small before ''
record "$work/before/libsmall.so" "$work/before" > "$work/small.abi"
change() # change BREAKS|KEEPS "what" SED
{
    small after "$3"
    ! cmp -s "$work/before/small.h" "$work/after/small.h" || fail "$2: nothing was changed"
    if compare "$work/small.abi" "$work/after/libsmall.so" "$work/after" > "$work/diff" 2>&1; then found=KEEPS; else found=BREAKS; fi
    [ $found = "$1" ] || {
        cat "$work/diff"
        fail "$2: wanted $1"
    }
    pass "$2: $1"
}
change BREAKS 'a function goes' '/^double mf_second.*;$/d; /^double mf_second/,/^}/d'
change BREAKS 'an argument changes its type' 's/mf_first(int argument)/mf_first(long argument)/'
change BREAKS 'a result changes its type' 's/^double mf_second/float mf_second/'
change BREAKS 'two fields change places' 's/    int width;/    double cost;/; t; s/    double cost;/    int width;/'
change BREAKS 'a field comes between others' 's/    int width;/    int width; long between;/'
change BREAKS 'a field takes the place of padding before the last' 's/    double cost;/    int squeezed; double cost;/'
change BREAKS 'a field changes its type' 's/    double cost;/    long cost;/'
change BREAKS 'an enumerator changes its value' 's/MF_TWO = 2/MF_TWO = 3/'
change BREAKS 'a struct without struct_size grows' 's/    int token;/    int token; int more;/'
change KEEPS 'a struct with struct_size grows at its end' 's/    double cost;/    double cost; long more;/'
change KEEPS 'a function comes' 's/^double mf_second(.*;$/&\nint mf_third(void);/'
change KEEPS 'an enumerator comes' 's/MF_TWO = 2/MF_TWO = 2, MF_THREE = 3/'

# ---- Programs of other releases ----

program() # program HEADERS NAME
{
    cc -std=c11 -Wall -Wextra -Wno-missing-field-initializers -Werror -g -I "$1" "$root/test/abi/program.c" -o "$work/$2" \
        -L "$build/lib" -lmatformer
}

run() # run NAME LIBRARY_FOLDER
{
    LD_LIBRARY_PATH=$2 "$work/$1" "$root/models/tales.mf" > "$work/$1.out"
}

later=$work/later/include
mkdir -p "$later"
(cd "$root" && git ls-files --cached --others --exclude-standard) | grep -v '^models/\|^docs/' |
    tar -C "$root" -c -T - | tar -C "$work/later" -x
/usr/bin/python3 "$root/test/abi/grow_header.py" "$root/include/matformer.h" "$later/matformer.h"
program "$root/include" today
program "$later" tomorrow
run today "$build/lib" || fail 'the program of this release'
run tomorrow "$build/lib" || fail 'a program of a later release with this library'
grep -v 'newer release\|does not know' "$work/tomorrow.out" | cmp -s - "$work/today.out" ||
    fail 'a program of a later release with this library says something else'
pass 'a program of a later release, and what it may not use of this library'
mv "$work/today.out" "$work/expected"
[ -e "$work/later/build/build.ninja" ] || meson setup "$work/later/build" "$work/later" -Dtools=false -Dtests=disabled -Dtrain=disabled > "$work/later.log"
ninja -C "$work/later/build" "lib/libmatformer.so.$(sh "$root/scripts/version.sh")" > "$work/later.log" || {
    cat "$work/later.log"
    fail 'the library of a later release'
}
run today "$work/later/build/lib" || fail 'the program of this release with a later library'
cmp "$work/expected" "$work/today.out" || fail 'the program of this release with a later library says something else'
pass 'a program of this release with a later library'
echo "$passed passed, 0 failed"
