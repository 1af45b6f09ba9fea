#!/usr/bin/env python3
"""Writes a Hugging Face folder of a real model's shape with random weights in BF16, to measure with.

  python3 scripts/random_checkpoint.py --shape e4b OUT

Shapes: e4b (Gemma 3n E4B's text decoder, 13.7 GB), llama-3.2-1b (2.5 GB), matlm-2.6b (a MatFormer-OLMo of 2.6 G weights,
5 GB). The weights are taken from one pool, so that writing is as fast as the disk. Needs NumPy.
"""
import argparse
import json
import pathlib

import numpy

SHARD_BYTES = 4_000_000_000
POOL = 1 << 24


def gemma_3n_e4b():
    d, f, layers, p, rank, vocab, vocab_ple = 2048, 16384, 35, 256, 64, 262400, 262144
    config = dict(
        model_type="gemma3n_text", architectures=["Gemma3nForCausalLM"], num_hidden_layers=layers, hidden_size=d,
        intermediate_size=f, num_attention_heads=8, num_key_value_heads=2, head_dim=256, vocab_size=vocab,
        vocab_size_per_layer_input=vocab_ple, hidden_size_per_layer_input=p, num_kv_shared_layers=15,
        sliding_window=512, activation_sparsity_pattern=[0.95] * 10 + [0.0] * 25, rms_norm_eps=1e-6, rope_theta=1e6,
        rope_local_base_freq=1e4, final_logit_softcapping=30.0, hidden_activation="gelu_pytorch_tanh",
        altup_num_inputs=4, altup_active_idx=0, altup_coef_clip=120.0, altup_correct_scale=True, laurel_rank=rank,
        max_position_embeddings=32768, tie_word_embeddings=True, bos_token_id=2, eos_token_id=1)
    tensors = {"embed_tokens.weight": (vocab, d), "embed_tokens_per_layer.weight": (vocab_ple, layers * p),
               "per_layer_model_projection.weight": (layers * p, d), "per_layer_projection_norm.weight": (p,),
               "norm.weight": (d,)}
    for i in range(3):
        tensors[f"altup_projections.{i}.weight"] = tensors[f"altup_unembed_projections.{i}.weight"] = (d, d)
    for n in range(layers):
        layer = {
            "self_attn.q_proj.weight": (2048, d), "self_attn.o_proj.weight": (d, 2048), "self_attn.q_norm.weight": (256,),
            "mlp.gate_proj.weight": (f, d), "mlp.up_proj.weight": (f, d), "mlp.down_proj.weight": (d, f),
            "altup.correct_output_scale": (d,), "altup.correction_coefs.weight": (4, 4),
            "altup.prediction_coefs.weight": (16, 4), "altup.modality_router.weight": (4, d),
            "altup.router_norm.weight": (d,), "laurel.linear_left.weight": (rank, d),
            "laurel.linear_right.weight": (d, rank), "laurel.post_laurel_norm.weight": (d,),
            "per_layer_input_gate.weight": (p, d), "per_layer_projection.weight": (d, p),
            "post_per_layer_input_norm.weight": (d,), "input_layernorm.weight": (d,),
            "post_attention_layernorm.weight": (d,), "pre_feedforward_layernorm.weight": (d,),
            "post_feedforward_layernorm.weight": (d,)}
        if n < 20:
            layer |= {"self_attn.k_proj.weight": (512, d), "self_attn.v_proj.weight": (512, d),
                      "self_attn.k_norm.weight": (256,)}
        tensors |= {f"layers.{n}.{name}": shape for name, shape in layer.items()}
    return config, {f"model.{name}": shape for name, shape in tensors.items()}


def llama_3_2_1b():
    d, f, layers, vocab = 2048, 8192, 16, 128256
    config = dict(
        model_type="llama", architectures=["LlamaForCausalLM"], num_hidden_layers=layers, hidden_size=d,
        intermediate_size=f, num_attention_heads=32, num_key_value_heads=8, head_dim=64, vocab_size=vocab,
        max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=5e5, hidden_act="silu", tie_word_embeddings=True,
        rope_scaling=dict(rope_type="llama3", factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0,
                          original_max_position_embeddings=8192), bos_token_id=128000, eos_token_id=128001)
    tensors = {"embed_tokens.weight": (vocab, d), "norm.weight": (d,)}
    for n in range(layers):
        tensors |= {f"layers.{n}.{name}": shape for name, shape in {
            "self_attn.q_proj.weight": (2048, d), "self_attn.k_proj.weight": (512, d),
            "self_attn.v_proj.weight": (512, d), "self_attn.o_proj.weight": (d, 2048), "mlp.gate_proj.weight": (f, d),
            "mlp.up_proj.weight": (f, d), "mlp.down_proj.weight": (d, f), "input_layernorm.weight": (d,),
            "post_attention_layernorm.weight": (d,)}.items()}
    return config, {f"model.{name}": shape for name, shape in tensors.items()}


def matlm_2_6b():
    """MatFormer-OLMo's architecture as deep as 2.6 G weights take; of its largest model the paper gives the total alone."""
    d, layers, heads, vocab = 2048, 33, 16, 50304
    h, f = d // heads, 8 * d
    config = dict(
        model_type="matformer_olmo", d_model=d, n_heads=heads, n_layers=layers, mlp_ratio=8, activation_type="gelu",
        block_type="sequential", layer_norm_type="low_precision", alibi=True, alibi_bias_max=8.0, rope=False,
        multi_query_attention=True, attention_layer_norm=False, include_bias=True, max_sequence_length=2048,
        vocab_size=50277, embedding_size=vocab, eos_token_id=50276)
    tensors = {"wte.weight": (vocab, d), "ln_f.weight": (d,), "ln_f.bias": (d,)}
    for n in range(layers):
        for norm in ("attn_norm", "ff_norm"):
            tensors |= {f"blocks.{n}.{norm}.weight": (d,), f"blocks.{n}.{norm}.bias": (d,)}
        for name, shape in {"att_proj": (d + 2 * h, d), "attn_out": (d, d), "ff_proj": (f, d), "ff_out": (d, f)}.items():
            tensors |= {f"blocks.{n}.{name}.weight": shape, f"blocks.{n}.{name}.bias": shape[:1]}
    return config, {f"transformer.{name}": shape for name, shape in tensors.items()}


SHAPES = {"e4b": gemma_3n_e4b, "llama-3.2-1b": llama_3_2_1b, "matlm-2.6b": matlm_2_6b}


def shards_of(tensors):
    shards, used = [[]], 0
    for name, shape in tensors.items():
        size = 2 * int(numpy.prod(shape))
        if shards[-1] and used + size > SHARD_BYTES:
            shards.append([])
            used = 0
        shards[-1].append((name, shape, size))
        used += size
    return shards


def write_shard(path, tensors, pool, start):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, size in tensors:
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, shape, size in tensors:
            if len(shape) == 1 and not name.endswith("bias"):
                numpy.full(size // 2, 0x3F80, "<u2").tofile(out)  # 1
                continue
            left = size // 2
            while left > 0:
                start = (start * 48271 + 11) % (POOL // 2)
                part = pool[start : start + min(left, POOL // 2)]
                part.tofile(out)
                left -= len(part)
    return start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, required=True)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    config, tensors = SHAPES[args.shape]()
    args.out.mkdir(parents=True)
    values = numpy.random.default_rng(1).normal(0, 0.02, POOL).astype("<f4")
    pool = (values.view("<u4") >> 16).astype("<u2")
    shards, start, where = shards_of(tensors), 1, {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        print(file, flush=True)
        start = write_shard(args.out / file, shard, pool, start)
        where |= {name: file for name, _, _ in shard}
    if len(shards) > 1:
        total = sum(size for shard in shards for _, _, size in shard)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (args.out / "model.safetensors.index.json").write_text(json.dumps(index))
    (args.out / "config.json").write_text(json.dumps(config, indent=2))
    print(sum(int(numpy.prod(shape)) for shape in tensors.values()), "weights")


if __name__ == "__main__":
    main()
