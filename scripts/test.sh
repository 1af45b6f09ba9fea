#!/bin/sh
# Installs what is missing, builds into build/, and runs the tests. The last line says how many passed.
set -eu
cd "$(dirname "$0")/.."
sh scripts/install_deps.sh tests
sh scripts/build.sh build
sh scripts/run_tests.sh build
