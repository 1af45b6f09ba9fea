#!/bin/sh
# Usage: scripts/build_docs.sh OUT
# Builds the site of the documents in OUT/html: Doxygen reads the headers, Sphinx with MyST and Breathe makes the pages. A warning is
# an error: a public function or type without a comment, a parameter that none speaks of, a link or name that leads nowhere, a
# document that docs/index.md does not list. Needs Debian's doxygen, python3-sphinx, python3-breathe and python3-myst-parser.
set -eu
cd "$(dirname "$0")/.."
PATH=/usr/bin:$PATH
export PYTHONDONTWRITEBYTECODE=1
mkdir -p "$1"
out=$(cd "$1" && pwd)

read_headers() # read_headers NAME "HEADERS" [Doxygen settings]
{
    mkdir -p "$out/$1"
    { cat scripts/site/Doxyfile; echo "OUTPUT_DIRECTORY = $out/$1"; echo "INPUT = $2"; shift 2; printf '%s\n' "$@"; } > "$out/Doxyfile"
    doxygen "$out/Doxyfile" > "$out/doxygen.log" 2>&1
    # Fields and enumerators may speak for themselves by their names.
    if grep -v -e '(variable)' -e '(enumvalue)' -e '(macro definition)' "$out/doxygen.log"; then
        echo 'Doxygen warned' >&2
        exit 1
    fi
}

python3 scripts/site/header_filter.py --check include/*.h
read_headers c 'include/matformer.h include/matformer_train.h include/matformer_tools.h' 'OPTIMIZE_OUTPUT_FOR_C = YES'
# The forms of matformer.hpp are those of matformer.h, whose comments hold there too.
read_headers cpp include/matformer.hpp 'WARN_IF_UNDOCUMENTED = NO' 'EXCLUDE_SYMBOLS = matformer::detail*'
python3 scripts/site/stage.py "$out"
SITE_OUT=$out SITE_VERSION=$(sh scripts/version.sh) \
    python3 -m sphinx -q -W --keep-going -b html -c scripts/site -d "$out/doctrees" "$out/source" "$out/html"
echo "$out/html/index.html"
