#!/bin/sh
# Usage: scripts/build_peers.sh FOLDER [SOURCE-OF-ik_llama.cpp]
# Builds what scripts/peers.py sets us beside, in FOLDER, which should lie outside this repository: llama.cpp as PyPI's
# llama-cpp-python carries it, and ik_llama.cpp from the given source or from GitHub. Programs are then
# FOLDER/NAME/bin/llama-bench and FOLDER/llama.cpp/bin/llama-quantize. Needs cmake, g++, git and pip; half an hour.
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
ik=${2:+$(cd "$2" && pwd)}
: "${LLAMA_CPP_PYTHON:=0.3.36}" "${IK_LLAMA_CPP:=8337e4cd3861406fc04e0854b1409cd1b027fbc9}"

build() # build NAME SOURCE "TARGETS" [cmake options]
{
    name=$1 source=$2 targets=$3
    shift 3
    cmake -S "$source" -B "$folder/$name" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
        -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF "$@"
    # shellcheck disable=SC2086
    cmake --build "$folder/$name" -j "$(nproc)" --target $targets
}

cd "$folder"
python3 -m pip download --no-deps --no-binary :all: --dest . "llama-cpp-python==$LLAMA_CPP_PYTHON"
tar xzf "llama_cpp_python-$LLAMA_CPP_PYTHON.tar.gz"
build llama.cpp "llama_cpp_python-$LLAMA_CPP_PYTHON/vendor/llama.cpp" "llama-bench llama-quantize"
if [ -z "$ik" ]; then
    [ -d ik_source ] || git clone https://github.com/ikawrakow/ik_llama.cpp ik_source
    git -C ik_source checkout --quiet "$IK_LLAMA_CPP"
    ik=ik_source
fi
build ik_llama.cpp "$ik" llama-bench -DGGML_IQK_FA_ALL_QUANTS=OFF
