#!/bin/sh
# Usage: scripts/check_debian.sh WORK [tests]
# Builds the Debian packages from what git has of this tree, in WORK (which is emptied), and looks at them: lintian, that
# the versions agree, and what each package holds. With `tests`, the library's own tests run during the build. The packages
# lie in WORK afterwards. The last line says how many checks passed.
set -eu
PATH=/usr/bin:$PATH
root=$(cd "$(dirname "$0")/.." && pwd)
rm -rf "$1"
mkdir -p "$1/libmatformer"
work=$(cd "$1" && pwd)
passed=0
failed=0
options='parallel=1 noautodbgsym nocheck'
[ "${2-}" != tests ] || options='parallel=1 noautodbgsym'

check() # check NAME COMMAND...
{
    name=$1
    shift
    if "$@" > "$work/log" 2>&1; then
        passed=$((passed + 1))
        echo "ok $name"
    else
        failed=$((failed + 1))
        echo "not ok $name"
        tail -n 60 "$work/log"
    fi
}

holds() # holds PACKAGE PATTERN...: each is the end of a path in it
{
    dpkg-deb -c "$(echo "$work/$1"_*.deb)" | sed 's/ -> .*//' > "$work/content"
    shift
    for pattern in "$@"; do
        grep -q "$pattern\$" "$work/content" || { echo "no $pattern"; return 1; }
    done
}

field() # field PACKAGE FIELD
{
    dpkg-deb -f "$(echo "$work/$1"_*.deb)" "$2"
}

git -C "$root" ls-files -z | (cd "$root" && tar -c --null -T -) | tar -x -C "$work/libmatformer"
cd "$work/libmatformer"
version=$(sh scripts/version.sh)
next="$(echo "$version" | cut -d. -f1).$(($(echo "$version" | cut -d. -f2) + 1))~"
check "the changelog has the version of the header" test "$(dpkg-parsechangelog -S Version)" = "$version"
check "builds" env DEB_BUILD_OPTIONS="$options" dpkg-buildpackage -us -uc -b
[ $failed -eq 0 ] || { echo "$passed passed, $failed failed"; exit 1; }
check "lintian has no errors" lintian --no-cfg --fail-on error "$work"/*.changes
! grep '^W:' "$work/log" || true

so='libmatformer\S*\.so'
check "libmatformer0" holds libmatformer0 'libmatformer\.so\.0'
check "libmatformer-dev" holds libmatformer-dev 'libmatformer\.so' 'libmatformer\.a' 'libmatformer-tools\.a' \
    pkgconfig/matformer.pc cmake/matformer/matformer-config.cmake include/matformer.h include/matformer.hpp
check "libmatformer-train-dev" holds libmatformer-train-dev 'libmatformer-train\.so' include/matformer_train.h
check "matformer" holds matformer bin/matformer share/matformer/tales.mf docs/architecture.md
check "python3-matformer" holds python3-matformer matformer/py.typed dist-info/METADATA
check "who runs models needs no BLIS" sh -c "! dpkg-deb -f $work/libmatformer0_*.deb Depends | grep blis"
# Before 1.0 a minor version may change the ABI: whoever was built against this one asks for no later one.
for package in libmatformer0 libmatformer-tools0 libmatformer-train0; do
    check "$package ends before $next" grep -q "(<< $next)" "debian/$package.symbols"
done
check "the program's libraries end before $next" sh -c "dpkg-deb -f $work/matformer_*.deb Depends | grep 'libmatformer0 (<< $next)'"
check "the Python package's library ends before $next" sh -c "dpkg-deb -f $work/python3-matformer_*.deb Depends | grep 'libmatformer0 (<< $next)'"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
