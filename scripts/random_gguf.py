#!/usr/bin/env python3
"""Writes a random GGUF of the llama architecture, for other programs to run: in shapes that test/make_model has
too, and one that is little else than attention.

  python3 scripts/random_gguf.py --shape 1.1b --type bf16 OUT.gguf

Weights are normal with a deviation of 0.02, so that a quantizer sees something of the usual shape, and norms are 1. The
vocabulary is made up. Needs NumPy.
"""
import argparse
import os
import struct
import sys

import numpy

SHAPES = {
    "160m": {"d_model": 768, "n_layer": 12, "d_ff": 3072, "n_head": 12, "n_kv_head": 12, "n_vocab": 32000},
    "1.1b": {"d_model": 2048, "n_layer": 22, "d_ff": 5632, "n_head": 32, "n_kv_head": 4, "n_vocab": 32000},
    "attention": {"d_model": 2048, "n_layer": 2, "d_ff": 256, "n_head": 32, "n_kv_head": 4, "n_vocab": 512},  # little else
}
TYPES = {"f32": (0, 4, 0), "f16": (1, 2, 1), "bf16": (30, 2, 32)}  # its number, bytes, the file's type
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
ALIGNMENT, PART = 32, 1 << 24
SPECIAL = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % byte for byte in range(256)]


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key, kind, value):
    head = string(key) + struct.pack("<I", kind)
    if kind == UINT32:
        return head + struct.pack("<I", value)
    if kind == FLOAT32:
        return head + struct.pack("<f", value)
    if kind == STRING:
        return head + string(value)
    of, items = value
    head += struct.pack("<IQ", of, len(items))
    if of == STRING:
        return head + b"".join(string(item) for item in items)
    return head + numpy.asarray(items, {INT32: "<i4", FLOAT32: "<f4"}[of]).tobytes()


def metadata(name, shape, file_type):
    n_word = shape["n_vocab"] - len(SPECIAL)
    words = SPECIAL + [f"\u2581t{i}".encode() for i in range(n_word)]
    return [
        pair("general.architecture", STRING, "llama"), pair("general.name", STRING, name),
        pair("general.file_type", UINT32, file_type), pair("general.alignment", UINT32, ALIGNMENT),
        pair("llama.context_length", UINT32, 2048), pair("llama.embedding_length", UINT32, shape["d_model"]),
        pair("llama.block_count", UINT32, shape["n_layer"]), pair("llama.feed_forward_length", UINT32, shape["d_ff"]),
        pair("llama.attention.head_count", UINT32, shape["n_head"]),
        pair("llama.attention.head_count_kv", UINT32, shape["n_kv_head"]),
        pair("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        pair("llama.rope.dimension_count", UINT32, shape["d_model"] // shape["n_head"]),
        pair("llama.rope.freq_base", FLOAT32, 10000.0), pair("llama.vocab_size", UINT32, shape["n_vocab"]),
        pair("tokenizer.ggml.model", STRING, "llama"), pair("tokenizer.ggml.tokens", ARRAY, (STRING, words)),
        pair("tokenizer.ggml.scores", ARRAY, (FLOAT32, [0.0] * len(SPECIAL) + [-float(i) for i in range(n_word)])),
        pair("tokenizer.ggml.token_type", ARRAY, (INT32, [2, 3, 3] + [6] * 256 + [1] * n_word)),
        pair("tokenizer.ggml.bos_token_id", UINT32, 1), pair("tokenizer.ggml.eos_token_id", UINT32, 2),
        pair("tokenizer.ggml.unknown_token_id", UINT32, 0),
    ]


def tensors(shape, matrix_type):
    """(name, dimensions, type), the dimension that runs fastest first."""
    d, d_kv = shape["d_model"], shape["d_model"] // shape["n_head"] * shape["n_kv_head"]
    yield "token_embd.weight", (d, shape["n_vocab"]), matrix_type
    for layer in range(shape["n_layer"]):
        matrices = {"attn_q": (d, d), "attn_k": (d, d_kv), "attn_v": (d, d_kv), "attn_output": (d, d),
                    "ffn_gate": (d, shape["d_ff"]), "ffn_up": (d, shape["d_ff"]), "ffn_down": (shape["d_ff"], d)}
        for name in ("attn_norm", "ffn_norm"):
            yield f"blk.{layer}.{name}.weight", (d,), 0
        for name, dimensions in matrices.items():
            yield f"blk.{layer}.{name}.weight", dimensions, matrix_type
    yield "output_norm.weight", (d,), 0
    yield "output.weight", (d, shape["n_vocab"]), matrix_type


def values(random, dimensions, kind):
    if len(dimensions) == 1:
        yield numpy.ones(dimensions, "<f4").tobytes()
        return
    count = int(numpy.prod(dimensions))
    for begin in range(0, count, PART):
        x = random.standard_normal(min(PART, count - begin), numpy.float32) * numpy.float32(0.02)
        if kind == TYPES["f16"][0]:
            x = x.astype("<f2")
        elif kind == TYPES["bf16"][0]:
            bits = x.view(numpy.uint32)
            x = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        yield x.tobytes()


def write(path, name, shape, type_name, seed):
    number, width, file_type = TYPES[type_name]
    every, infos, offset = list(tensors(shape, number)), [], 0
    for tensor, dimensions, kind in every:
        infos.append(string(tensor) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset))
        size = int(numpy.prod(dimensions)) * (4 if kind == 0 else width)
        offset += (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    pairs, random = metadata(name, shape, file_type), numpy.random.Generator(numpy.random.SFC64(seed))
    with open(path, "wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, len(every), len(pairs)) + b"".join(pairs) + b"".join(infos))
        for _, dimensions, kind in every:
            out.write(b"\0" * (-out.tell() % ALIGNMENT))
            for part in values(random, dimensions, kind):
                out.write(part)
        out.write(b"\0" * (-out.tell() % ALIGNMENT))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="OUT.gguf")
    parser.add_argument("--shape", choices=SHAPES, default="160m")
    parser.add_argument("--type", choices=TYPES, default="bf16", help="of the matrices (bf16)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    temporary = args.out + ".part"
    write(temporary, f"random-{args.shape}", SHAPES[args.shape], args.type, args.seed)
    os.replace(temporary, args.out)


if __name__ == "__main__":
    sys.exit(main())
