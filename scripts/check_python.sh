#!/bin/sh
# Usage: scripts/check_python.sh FOLDER
# The Python package as a user gets it: an sdist of the last commit, a wheel of that, both built in environments of their
# own, installed by pip into a fresh one, and tested from another folder. What it makes goes to FOLDER. Needs PyPI for meson-python, NumPy, mypy, build, llguidance and
# tqdm.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
PATH=/usr/bin:$PATH
unset PYTHONPATH MATFORMER_LIBRARY MATFORMER_PROGRAM
export LC_ALL=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
passed=0

pass() # pass WHAT
{
    passed=$((passed + 1))
    echo "ok      $1"
}

fail() # fail WHY
{
    echo "FAILED  $1"
    echo "$passed passed, 1 failed"
    exit 1
}

rm -rf "$1"
mkdir -p "$1/elsewhere"
work=$(cd "$1" && pwd)
python3 -m venv "$work/venv"
python=$work/venv/bin/python
"$python" -m pip install -q build mypy

# ---- Building ----

"$python" -m build -q --sdist -o "$work/sdist" . > "$work/sdist.log" 2>&1 || {
    tail -n 40 "$work/sdist.log"
    fail 'sdist'
}
sdist=$(echo "$work"/sdist/matformer-*.tar.gz)
mkdir "$work/of-sdist" "$work/of-commit"
tar -xzf "$sdist" -C "$work/of-sdist" --strip-components=1
rm "$work/of-sdist/PKG-INFO"
git archive HEAD | tar -x -C "$work/of-commit"
diff -r "$work/of-sdist" "$work/of-commit" || fail 'the sdist differs from the commit'
pass 'the sdist is the commit'

# So a wheel of it is also that of a clean clone.
"$python" -m pip wheel -q --no-deps -w "$work/wheel" "$sdist" > "$work/wheel.log" 2>&1 || {
    tail -n 40 "$work/wheel.log"
    fail 'wheel'
}
wheel=$(echo "$work"/wheel/*.whl)
case $wheel in
*/matformer-*-py3-none-*linux*_"$(uname -m)".whl) ;;
*) fail "$wheel is not tagged py3-none-PLATFORM" ;;
esac
"$python" -m zipfile -l "$wheel" | awk 'NR > 1 { print $1 }' | grep -v '\.dist-info/' |
    sed 's,^[^/]*\.data/purelib/,,' | sort > "$work/wheel.files"
{
    (cd "$work/of-commit/bindings/python" && find matformer -type f)
    echo .matformer.mesonpy.libs/libmatformer.so
    echo .matformer.mesonpy.libs/libmatformer-tools.so
} | sort | diff - "$work/wheel.files" || fail 'the wheel holds other files than the package and the libraries'
pass "$(basename "$wheel")"

# ---- What is installed ----

"$python" -m pip install -q "$wheel[json,progress]"
cd "$work/elsewhere"
library=$("$python" -c 'import matformer._library as l; print(l.PATH)')
case $library in
"$work"/venv/*) ;;
*) fail "the library in use is $library" ;;
esac
needed=$(readelf -d "$library" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
for name in $needed; do
    case $name in
    libc.so.* | libm.so.* | ld-linux*) ;;
    *) fail "the library needs $name" ;;
    esac
done
pass "the library needs $(echo $needed) alone"

cp "$library" "$work/other.so"
other=$(MATFORMER_LIBRARY=$work/other.so "$python" -c 'import matformer; print(open("/proc/self/maps").read())' |
    sed -n 's,.* \(/.*\.so\)$,\1,p' | grep -e other -e libmatformer | sort -u)
[ "$other" = "$work/other.so" ] || fail "MATFORMER_LIBRARY names other.so, and loaded is $other"
pass 'MATFORMER_LIBRARY'

"$python" -m mypy --strict --cache-dir "$work/mypy" -p matformer || fail 'mypy --strict'
pass 'mypy --strict, installed'

# On one core: threads that wait for each other make little of a machine that is busy, and `meson test` has run the tests
# on all.
core=$(taskset -cp $$ | sed 's/.*: \([0-9]*\).*/\1/')
[ ! -x "$root/build/tools/matformer" ] || export MATFORMER_PROGRAM="$root/build/tools/matformer"
taskset -c "$core" "$python" -m unittest discover -s "$root/bindings/python/tests" > "$work/tests.log" 2>&1 || {
    tail -n 60 "$work/tests.log"
    fail 'tests'
}
tests=$(sed -n 's/^Ran \([0-9]*\) tests.*/\1/p' "$work/tests.log")
passed=$((passed + tests))
echo "ok      $tests tests of the package, from another folder: $(tail -n 1 "$work/tests.log")"
echo "$passed passed, 0 failed"
