#!/bin/sh
# Usage: build_classes.sh JDK_BIN OUT.jar [OUT.h] [javac options] -- SOURCES
# Compiles to a jar, for Java 8, whose class files every Android since 7 reads; OUT.h gets the prototypes of the
# native methods of org.libmatformer.Native.
set -eu
bin=$1 jar=$2 header=$3
shift 3
work=$jar.classes
rm -rf "$work"
mkdir -p "$work/classes" "$work/include"
options=
while [ "$1" != -- ]; do
    options="$options $1"
    shift
done
shift
# -options: it is told that Java 8 is old; -try: a use may be held without being looked at. Words without spaces.
# shellcheck disable=SC2086
"$bin/javac" --release 8 -encoding UTF-8 -g -Xlint:all,-options,-try -Werror -d "$work/classes" -h "$work/include" $options "$@"
[ -z "$header" ] || cp "$work/include/org_libmatformer_Native.h" "$header"
"$bin/jar" cf "$jar.tmp" -C "$work/classes" .
mv "$jar.tmp" "$jar"
rm -rf "$work"
