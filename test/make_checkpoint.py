#!/usr/bin/env python3
"""make_checkpoint.py TOKENIZER.json OUT - a folder with a Llama of one layer, random weights and that tokenizer, which
was taught Llama 3's turns: for tests of the program from outside. Needs nothing but Python."""
import json
import pathlib
import random
import shutil
import struct
import sys


def main():
    tokenizer, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    out.mkdir()
    described = json.loads(tokenizer.read_text())
    ids = [*described["model"]["vocab"].values(), *(token["id"] for token in described["added_tokens"])]
    n_vocab, d, f = max(ids) + 1, 32, 64
    shapes = {"embed_tokens.weight": (n_vocab, d), "norm.weight": (d,), "layers.0.input_layernorm.weight": (d,),
              "layers.0.post_attention_layernorm.weight": (d,), "layers.0.mlp.gate_proj.weight": (f, d),
              "layers.0.mlp.up_proj.weight": (f, d), "layers.0.mlp.down_proj.weight": (d, f)}
    shapes |= {f"layers.0.self_attn.{name}_proj.weight": (d, d) for name in "qkvo"}
    draw, header, data = random.Random(1), {}, b""
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        begin = len(data)
        data += struct.pack(f"<{count}f", *(draw.gauss(0, 0.3) for _ in range(count)))
        header[f"model.{name}"] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, len(data)]}
    text = json.dumps(header).encode()
    (out / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (out / "config.json").write_text(json.dumps(dict(
        model_type="llama", num_hidden_layers=1, hidden_size=d, intermediate_size=f, num_attention_heads=1,
        vocab_size=n_vocab, rms_norm_eps=1e-5, max_position_embeddings=512, tie_word_embeddings=True)))
    shutil.copy(tokenizer, out / "tokenizer.json")
    (out / "tokenizer_config.json").write_text(json.dumps(
        dict(chat_template="{{ '<|start_header_id|>' + role + '<|end_header_id|>' + content + '<|eot_id|>' }}")))


if __name__ == "__main__":
    main()
