#!/usr/bin/env python3
"""Writes the files that the fuzz targets of checkpoints begin with: small ones of each format, good and slightly bad.

    python3 make_corpus.py
"""
import json
import struct
from pathlib import Path

HERE = Path(__file__).parent


def safetensors(header, data):
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + bytes(range(data))


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def key(name, kind, form, *values):
    return text(name) + struct.pack("<I" + form, kind, *values)


def tensor(name, dims, kind, offset):
    return text(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, kind, offset)


def gguf(version, values, tensors, data):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values)) + b"".join(values + tensors)
    return head + bytes(-len(head) % 32) + bytes(i % 251 for i in range(data))


FILES = {
    "safetensors/types": safetensors(
        {
            "__metadata__": {"format": "pt"},
            "a": entry("F32", [2, 3], 0, 24),
            "b": entry("BF16", [3], 24, 30),
            "c": entry("F16", [], 30, 32),
            "d": entry("F64", [1, 1], 32, 40),
            "e": entry("I8", [0, 4], 40, 40),
            "f": entry("F6", [9], 40, 47),
        },
        47,
    ),
    "safetensors/overlap": safetensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, 6),
    "safetensors/empty": safetensors({}, 0),
    "safetensors/index": b'{"metadata":{"total_size":4},"weight_map":{"a":"model-00001-of-00001.safetensors"}}I',
    "safetensors/index_itself": b'{"weight_map":{"a":"model.safetensors.index.json"}}I',
    "gguf/values": gguf(
        3,
        [
            key("general.architecture", 8, "Q5s", 5, b"llama"),
            key("general.alignment", 4, "I", 32),
            key("a.u8", 0, "B", 1),
            key("a.i64", 11, "q", -1),
            key("a.f32", 6, "f", 15.0),
            key("a.f64", 12, "d", 0.5),
            key("a.bool", 7, "?", True),
            key("a.list", 9, "IQ3i", 5, 3, 1, 2, 3),
            key("a.texts", 9, "IQQ1sQ2s", 8, 2, 1, b"x", 2, b"yz"),
        ],
        [],
        0,
    ),
    "gguf/tensors": gguf(
        2,
        [],
        [
            tensor("token_embd.weight", [32, 2], 8, 0),
            tensor("output_norm.weight", [8], 0, 96),
            tensor("blk.0.ffn_up.weight", [256, 1], 14, 128),
            tensor("scalar", [], 1, 352),
        ],
        354,
    ),
    "gguf/split": gguf(3, [key("split.no", 2, "H", 0), key("split.count", 2, "H", 2)], [tensor("t", [4], 24, 0)], 4),
    "gguf/split_of_many": gguf(3, [key("split.count", 2, "H", 65535)], [], 0),
}

# config.json of each model that fuzz_config.c has, which the last letter chooses.
CHECKPOINTS = HERE.parent / "golden" / "checkpoints"
for letter, checkpoint in {
    "L": "llama_linear_f16",
    "B": "llama_tied_biases_f32",
    "G": "gemma3n_nested",
    "O": "olmo_parallel",
    "V": "vit_pooler_f32",
}.items():
    config = json.loads((CHECKPOINTS / checkpoint / "config.json").read_text())
    FILES["config/" + checkpoint] = json.dumps(config, separators=(",", ":")).encode() + letter.encode()

for name, data in FILES.items():
    (HERE / name).parent.mkdir(exist_ok=True)
    (HERE / name).write_bytes(data)
