#!/bin/sh
# Installs what is missing, builds into build/, and shows one file become many models.
set -eu
cd "$(dirname "$0")/.."
sh scripts/install_deps.sh
sh scripts/build.sh build -- tools/matformer
exec build/tools/matformer demo "$@"
