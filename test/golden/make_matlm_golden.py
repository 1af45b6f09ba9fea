#!/usr/bin/env python3
"""Reference outputs of small random MatLM models, from plain PyTorch in float64.

    python3 test/golden/make_matlm_golden.py        writes *.golden beside this script

The model is written here from its formulas alone (lib/model/model_config.h, docs/arithmetic.md) and
shares no code with the library. A .golden file is little-endian, without padding:

    u32 magic 0x4d4c4731
    u32 n_layer d_model d_head n_head head_group d_ff n_vocab
    u32 norm (0 RMS, 1 layer)  ffn (0 gated, 1 plain)  activation (0 silu, 1 gelu_tanh, 2 gelu_erf)  tied
    f32 norm_eps rope_theta (0: none) embed_scale attention_scale
    u32 n_granularity, then for each, narrowest first: u32 ffn[n_layer] heads[n_layer]
    u32 may_skip[n_layer]  window[n_layer] (positions seen, itself included; 0: all)
    f32 the tensors, row major, in the order of tensor_shapes() below
    u32 n_case, then for each:
        u32 ffn[n_layer] heads[n_layer] (0 0: the layer is skipped)
        u32 n_token, i32 tokens[n_token], f32 logits[n_token][n_vocab]
"""

import pathlib
import struct

import torch
import torch.nn.functional as F

RMS, LAYER = 0, 1
GATED, PLAIN = 0, 1
SILU, GELU_TANH, GELU_ERF = 0, 1, 2
SKIPPED = (0, 0)

# layers: [(ffn, heads) of the full model]; granularities and cases: [(ffn, heads) or SKIPPED per layer].
MODELS = {
    "mqa_gated_silu": dict(
        d_model=64, d_head=32, head_group=4, n_vocab=59, norm=RMS, ffn=GATED, activation=SILU, tied=1,
        norm_eps=1e-5, rope_theta=10000.0, embed_scale=1.0, may_skip=[0, 1, 0],
        granularities=[[(32, 2), SKIPPED, (64, 2)], [(64, 4), (64, 4), (96, 4)], [(128, 4), (128, 4), (128, 4)]],
        cases=[[(96, 4), (32, 4), (128, 4)], [(128, 1), (128, 2), (128, 3)], [(32, 3), SKIPPED, (32, 1)]]),
    "gqa_plain_gelu_tanh_layernorm": dict(
        d_model=96, d_head=16, head_group=3, n_vocab=41, norm=LAYER, ffn=PLAIN, activation=GELU_TANH, tied=0,
        norm_eps=1e-5, rope_theta=0.0, embed_scale=1.0, may_skip=[1, 0],
        granularities=[[(32, 2), (32, 2)], [(96, 4), (128, 6)], [(192, 6), (160, 6)]],
        cases=[[(160, 2), (64, 4)], [(64, 6), (160, 2)], [SKIPPED, (96, 4)], [SKIPPED, (160, 6)]]),
    "mha_gated_gelu_erf_scaled": dict(
        d_model=32, d_head=48, head_group=1, n_vocab=83, norm=RMS, ffn=GATED, activation=GELU_ERF, tied=1,
        norm_eps=1e-6, rope_theta=500000.0, embed_scale=5.656854, may_skip=[0, 0, 1, 1],
        granularities=[[(32, 2), (64, 2), (32, 2), SKIPPED], [(192, 4), (192, 2), (128, 4), (64, 2)]],
        cases=[[(160, 4), (32, 2), SKIPPED, (32, 2)], [(192, 2), (192, 2), SKIPPED, SKIPPED],
               [(64, 4), (96, 2), (96, 2), (64, 2)]]),
    "one_width_layernorm_gated": dict(
        d_model=64, d_head=64, head_group=2, n_vocab=37, norm=LAYER, ffn=GATED, activation=SILU, tied=0,
        norm_eps=1e-5, rope_theta=10000.0, embed_scale=1.0, may_skip=[0],
        granularities=[[(192, 3)]],
        cases=[[(32, 1)], [(96, 2)], [(128, 3)], [(192, 1)]]),
    "windows": dict(
        d_model=32, d_head=32, head_group=2, n_vocab=43, norm=RMS, ffn=GATED, activation=SILU, tied=1,
        norm_eps=1e-5, rope_theta=10000.0, embed_scale=1.0, may_skip=[0, 1, 0, 0], window=[5, 0, 1, 12],
        granularities=[[(32, 2), (32, 2), (32, 2), (32, 1)], [(64, 4), (64, 3), (64, 2), (64, 4)]],
        cases=[[(64, 1), SKIPPED, (32, 2), (64, 4)], [(32, 4), (64, 1), (64, 1), (32, 2)],
               [(32, 3), SKIPPED, (64, 2), (32, 3)]]),
}
N_TOKEN = 12


def kv_heads(heads, group):
    return -(-heads // group)


def tensor_shapes(m):
    """(name, rows, columns) in the order of the file; vectors have one row."""
    d, hd = m["d_model"], m["d_head"]
    vectors = [".weight"] + ([".bias"] if m["norm"] == LAYER else [])
    yield "embed", m["n_vocab"], d
    if not m["tied"]:
        yield "output", m["n_vocab"], d
    for v in vectors:
        yield "final_norm" + v, 1, d
    for i, (ffn, heads) in enumerate(m["granularities"][-1]):
        at, kv = f"layers.{i}.", kv_heads(heads, m["head_group"])
        for v in vectors:
            yield at + "attn_norm" + v, 1, d
        for v in vectors:
            yield at + "ffn_norm" + v, 1, d
        yield at + "attn.q", heads * hd, d
        yield at + "attn.k", kv * hd, d
        yield at + "attn.v", kv * hd, d
        yield at + "attn.o", d, heads * hd
        if m["ffn"] == GATED:
            yield at + "ffn.gate", ffn, d
        yield at + "ffn.up", ffn, d
        yield at + "ffn.down", d, ffn


def draw(name, rows, columns, generator):
    if name.endswith(".weight"):
        return 1 + 0.2 * torch.randn(rows, columns, generator=generator)
    if name.endswith(".bias"):
        return 0.1 * torch.randn(rows, columns, generator=generator)
    scale = 1.0 if name == "embed" else columns ** -0.5
    return scale * torch.randn(rows, columns, generator=generator)


def norm(m, w, name, x):
    weight = w[name + ".weight"][0]
    if m["norm"] == LAYER:
        return F.layer_norm(x, (m["d_model"],), weight, w[name + ".bias"][0], m["norm_eps"])
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + m["norm_eps"]) * weight


def rope(m, x):
    """x [heads][tokens][d_head]; pairs (j, j + d_head/2) turn by position * theta^(-2j/d_head)."""
    if m["rope_theta"] == 0:
        return x
    half = m["d_head"] // 2
    j = torch.arange(half, dtype=torch.float64)
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * m["rope_theta"] ** (-2 * j / m["d_head"])
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def windows(m):
    return m.get("window", [0] * len(m["granularities"][-1]))


def attention(m, w, at, x, heads, window):
    n, hd, group = x.shape[0], m["d_head"], m["head_group"]
    kv = kv_heads(heads, group)

    def project(name, count):
        return (x @ w[at + name][: count * hd].T).view(n, count, hd).transpose(0, 1)

    q = rope(m, project("attn.q", heads))
    of_query = torch.arange(heads) // group
    k, v = rope(m, project("attn.k", kv))[of_query], project("attn.v", kv)[of_query]
    ago = torch.arange(n)[:, None] - torch.arange(n)
    hidden = (ago < 0) | (ago >= window if window else False)
    weights = torch.softmax((q @ k.transpose(1, 2) * hd ** -0.5).masked_fill(hidden, float("-inf")), -1)
    return (weights @ v).transpose(0, 1).reshape(n, heads * hd) @ w[at + "attn.o"][:, : heads * hd].T


def feed_forward(m, w, at, x, width):
    act = {SILU: F.silu, GELU_TANH: lambda t: F.gelu(t, approximate="tanh"), GELU_ERF: F.gelu}[m["activation"]]
    up = x @ w[at + "ffn.up"][:width].T
    hidden = act(x @ w[at + "ffn.gate"][:width].T) * up if m["ffn"] == GATED else act(up)
    return hidden @ w[at + "ffn.down"][:, :width].T


def logits(m, w, tokens, case):
    x = m["embed_scale"] * w["embed"][tokens]
    for i, (width, heads) in enumerate(case):
        if (width, heads) == SKIPPED:
            continue
        at = f"layers.{i}."
        x = x + attention(m, w, at, norm(m, w, at + "attn_norm", x), heads, windows(m)[i])
        x = x + feed_forward(m, w, at, norm(m, w, at + "ffn_norm", x), width)
    return norm(m, w, "final_norm", x) @ w["embed" if m["tied"] else "output"].T


def u32s(*values):
    return struct.pack(f"<{len(values)}I", *values)


def f32s(tensor):
    return tensor.detach().to(torch.float32).contiguous().numpy().astype("<f4").tobytes()


def layer_table(layers):
    return u32s(*[ffn for ffn, _ in layers], *[heads for _, heads in layers])


def model_bytes(m, seed):
    generator = torch.Generator().manual_seed(seed)
    full = m["granularities"][-1]
    out = u32s(0x4D4C4731, len(full), m["d_model"], m["d_head"], max(h for _, h in full), m["head_group"],
               max(f for f, _ in full), m["n_vocab"], m["norm"], m["ffn"], m["activation"], m["tied"])
    out += struct.pack("<4f", m["norm_eps"], m["rope_theta"], m["embed_scale"], m["d_head"] ** -0.5)
    out += u32s(len(m["granularities"])) + b"".join(layer_table(g) for g in m["granularities"]) + u32s(*m["may_skip"])
    out += u32s(*windows(m))
    w = {}
    for name, rows, columns in tensor_shapes(m):
        stored = draw(name, rows, columns, generator)
        out += f32s(stored)
        w[name] = stored.to(torch.float64)
    cases = m["granularities"] + m["cases"]
    out += u32s(len(cases))
    for case in cases:
        tokens = torch.randint(m["n_vocab"], (N_TOKEN,), generator=generator)
        out += layer_table(case) + u32s(N_TOKEN, *tokens.tolist()) + f32s(logits(m, w, tokens, case))
    return out


def main():
    here = pathlib.Path(__file__).parent
    for seed, (name, m) in enumerate(MODELS.items(), 1):
        data = model_bytes(m, seed)
        (here / f"{name}.golden").write_bytes(data)
        print(f"{name}.golden: {len(data)} bytes, {len(m['granularities']) + len(m['cases'])} cases")


if __name__ == "__main__":
    main()
