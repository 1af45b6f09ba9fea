#!/usr/bin/env python3
"""Whether llama.cpp computes from a GGUF file what we say of it.

    pip install llama-cpp-python==0.3.36 numpy
    python3 check_gguf.py FILE.gguf LOGITS.bin [--bound B] [CASE...]

LOGITS.bin is in the form of expected_file.py. The cache is f32, so that a file of F32 tensors agrees to rounding;
llama.cpp rounds activations to the type of 16-bit and quantized weights, which such files need a wider bound for. Its
Gemma 3n is fixed to the released shapes: no other widths per layer, skips or sharing. Exit status 1: beyond B, 1e-4.
"""

import argparse
import sys

import llama_cpp
import numpy

import expected_file


def runner(path):
    f32 = llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(path, n_ctx=1024, n_batch=1024, n_threads=1, logits_all=True, type_k=f32, type_v=f32,
                            flash_attn=False, n_gpu_layers=0, verbose=False)

    def run(arrays):
        model.reset()
        model.eval(arrays["tokens"].tolist())
        return dict(logits=numpy.array(model.scores[: len(arrays["tokens"])], float))

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", metavar="FILE.gguf")
    parser.add_argument("logits", metavar="LOGITS.bin")
    parser.add_argument("case", nargs="*")
    parser.add_argument("--bound", type=float, default=1e-4)
    args = parser.parse_args()
    return expected_file.compare(args.logits, args.case, runner(args.file), args.bound)


if __name__ == "__main__":
    sys.exit(main())
