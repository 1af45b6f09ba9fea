#!/bin/sh
# Usage: scripts/check_torch.sh BUILD [VENV]
# Runs the tests of matformer.torch and matformer.lm_eval, and examples/python/train_nested.py, against the libraries in the
# build folder BUILD, in the virtual environment VENV (BUILD/venv-torch). Where that is missing it is made, which needs PyPI:
# PyTorch, transformers, safetensors and lm-evaluation-harness, some gigabytes.
set -eu
build=$(cd "$1" && pwd)
venv=${2:-$build/venv-torch}
cd "$(dirname "$0")/.."
root=$(pwd)

if ! "$venv/bin/python" -c 'import torch, transformers, safetensors, lm_eval' 2> /dev/null; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q torch transformers safetensors lm_eval
fi
export MATFORMER_LIBRARY="$build/lib/libmatformer.so" PYTHONPATH="$root/bindings/python"
export PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
log=$(mktemp)
trap 'rm -f "$log"' EXIT

status=0
(cd bindings/python/tests &&
    "$venv/bin/python" -m unittest test_torch_modules test_torch_save test_torch_train test_lm_eval) > "$log" 2>&1 || status=1
[ $status -eq 0 ] || cat "$log"
ran=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in .*/\1/p' "$log")
failed=$(sed -n 's/^FAILED (\(.*\))$/\1/p' "$log" | tr ',' '\n' | sed -n 's/.*\(failures\|errors\)=//p' | awk '{ n += $1 } END { print n + 0 }')
if [ -z "$ran" ] || grep -q 'skipped=' "$log"; then # here nothing may be missing
    tail -5 "$log"
    failed=$((failed + 1)) ran=${ran:-0}
fi
if "$venv/bin/python" examples/python/train_nested.py > "$log" 2>&1; then
    cat "$log"
else
    cat "$log"
    failed=$((failed + 1))
fi
echo "$((ran + 1 - failed)) passed, $failed failed"
[ "$failed" -eq 0 ] && [ $status -eq 0 ]
