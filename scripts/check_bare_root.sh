#!/bin/sh
# Usage: scripts/check_bare_root.sh WORK PACKAGES
# That a bare Debian needs nothing but what the packages name. PACKAGES is where scripts/check_debian.sh left them. In a new
# root of the smallest Debian, in WORK: apt installs them, and the checks of debian/tests run; in another the wheel is
# installed by pip, without a network. Needs root, debootstrap, the network and minutes, so .ci/run does not run it;
# WORK/base.tar is kept for the next time. The last line says how many checks passed.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1"
work=$(cd "$1" && pwd)
packages=$(cd "$2" && pwd)
[ "$(id -u)" -eq 0 ] || { echo "only root can make a root folder" >&2; exit 1; }
passed=0
failed=0

check() # check NAME COMMAND...
{
    name=$1
    shift
    begin=$(date +%s)
    if "$@" > "$work/log" 2>&1 < /dev/null; then
        passed=$((passed + 1))
        echo "ok $name, $(($(date +%s) - begin)) s"
    else
        failed=$((failed + 1))
        echo "not ok $name"
        tail -n 60 "$work/log"
    fi
}

# The archive that this machine's apt reads, of the release that it runs.
# shellcheck disable=SC1091
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
archive()
{
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
        sed -n "s/ $release main\$//p" | head -n 1
}

new_root() # new_root FOLDER: of nothing but what is essential
{
    rm -rf "$1"
    if [ ! -e "$work/base.tar" ]; then
        debootstrap --variant=minbase "$release" "$1" "$(archive)" > "$work/log" 2>&1 || { cat "$work/log"; exit 1; }
        tar -C "$1" -cf "$work/base.tar.new" .
        mv "$work/base.tar.new" "$work/base.tar"
        return
    fi
    mkdir "$1"
    tar -C "$1" -xf "$work/base.tar"
}

within() # within FOLDER COMMAND...: there, with /proc, as long as the command runs
{
    # shellcheck disable=SC2016
    unshare --mount sh -c 'mount -t proc proc "$0/proc" && exec chroot "$0" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"' "$@"
}

install_packages() # install_packages FOLDER PACKAGE...
{
    folder=$1
    shift
    within "$folder" apt-get install -q -y --no-install-recommends "$@"
}

# ---- The packages

new_root "$work/debian"
cp /etc/resolv.conf "$work/debian/etc"
mkdir -p "$work/debian/packages" "$work/debian/source/debian"
cp "$packages"/*.deb "$work/debian/packages"
cp -r "$root/debian/tests" "$work/debian/source/debian"
mkdir "$work/debian/source/test"
cp -r "$root/test/consumers" "$work/debian/source/test"
check "apt reads its lists" within "$work/debian" apt-get -q update
packed() # packed NAME...: apt's words for those files
{
    for name; do
        echo "/packages/$(basename "$packages/${name}"_*.deb)"
    done
}
# shellcheck disable=SC2046
check "apt installs the program" install_packages "$work/debian" \
    $(packed libmatformer0 libmatformer-tools0 libmatformer-train0 matformer)
check "matformer demo" within "$work/debian" /source/debian/tests/program
[ $failed -gt 0 ] || tail -n 25 "$work/log"
# shellcheck disable=SC2046
check "apt installs the Python package" install_packages "$work/debian" $(packed python3-matformer)
check "Python writes" within "$work/debian" /source/debian/tests/python
# shellcheck disable=SC2046
check "apt installs what building needs" install_packages "$work/debian" gcc g++ libc6-dev cmake make meson pkg-config \
    $(packed libmatformer-dev libmatformer-train-dev)
check "consumers build and write" within "$work/debian" /source/debian/tests/consumers
check "the packages can be removed" within "$work/debian" apt-get purge -q -y '.*matformer.*'
check "nothing of them is left" sh -c "! find '$work/debian/usr' '$work/debian/etc' -name '*matformer*' | grep ."

# ---- The wheel

new_root "$work/wheel"
cp /etc/resolv.conf "$work/wheel/etc"
check "the wheel is built" pip wheel --quiet --no-deps --wheel-dir "$work/wheel/wheels" "$root"
check "apt reads its lists again" within "$work/wheel" apt-get -q update
check "apt installs Python and pip" install_packages "$work/wheel" python3-venv
python=$(within "$work/wheel" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
check "NumPy is fetched" pip download --quiet --only-binary :all: --python-version "$python" --dest "$work/wheel/wheels" numpy
cp "$root/models/tales.mf" "$work/wheel/model.mf"
check "pip installs the wheel" within "$work/wheel" sh -c \
    'python3 -m venv /venv && /venv/bin/pip install --no-index --find-links /wheels matformer'
check "Python writes from the wheel" within "$work/wheel" /venv/bin/python -c '
import matformer
session = matformer.Session(matformer.open("/model.mf"))
print("".join(event.text for event in session.generate("Once upon a time", "S", max_tokens=24)))'
[ $failed -gt 0 ] || cat "$work/log"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
