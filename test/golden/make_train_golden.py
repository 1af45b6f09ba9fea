#!/usr/bin/env python3
"""Writes train_<case>.bin: losses, gradients and one AdamW step of small decoders, computed by PyTorch.

usage: make_train_golden.py [folder]     needs torch; deterministic

The model below is written from the formulae in lib/model/model_config.h, in double precision, and shares
nothing with the trainer. A file is, little-endian:

    8 bytes  "MFGOLD1\\0"
    int32    n_layer d_model n_head head_group d_head d_ff n_vocab norm ffn activation tied
             n_granularity n_sequence length n_tensor has_step
    float32  norm_eps rope_theta embed_scale attention_scale
    float32  learning_rate beta1 beta2 adam_eps weight_decay clip
    int32    per granularity: ffn [n_layer], heads [n_layer]
    int32    input [n_sequence][length], target likewise
    float64  loss per granularity (mean over tokens)
    float64  norm of the summed gradient
    per tensor:
        32 bytes  name, padded with zeros
        int32     rows columns
        float32   weight, gradient per granularity (of the mean loss), and with has_step the weight after
                  one joint AdamW step
"""
import math
import os
import struct
import sys

import torch

RMS, LAYER = 0, 1
GATED, PLAIN = 0, 1
SILU, GELU_TANH, GELU_ERF, RELU, TANH = range(5)

BASE = dict(n_layer=1, d_model=32, n_head=2, head_group=2, d_head=16, d_ff=64, n_vocab=17, norm=RMS, ffn=GATED,
            activation=SILU, tied=1, n_sequence=2, length=12, has_step=0, norm_eps=1e-5, rope_theta=10000.0,
            embed_scale=1.0, attention_scale=0.25, granularities=[([32], [2]), ([64], [2])])

CASES = {
    "rms_silu_multi_query_skip": dict(n_layer=2, has_step=1, granularities=[([32, 0], [2, 0]), ([64, 64], [2, 2])]),
    "layer_gelu_multi_head_untied": dict(norm=LAYER, ffn=PLAIN, activation=GELU_TANH, head_group=1, tied=0, has_step=1),
    "rms_erf_grouped_nested_heads": dict(activation=GELU_ERF, n_head=4, head_group=2,
                                         granularities=[([32], [2]), ([64], [4])]),
    "layer_relu_no_rotation": dict(norm=LAYER, ffn=PLAIN, activation=RELU, head_group=1, rope_theta=0.0,
                                   embed_scale=2.0, attention_scale=0.4),
    "layer_tanh_gated_ragged_group": dict(norm=LAYER, activation=TANH, n_head=4, head_group=3, length=70,
                                          n_sequence=1, granularities=[([64], [2]), ([64], [4])]),
}

ACTIVATIONS = {
    SILU: torch.nn.functional.silu,
    GELU_TANH: lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    GELU_ERF: torch.nn.functional.gelu,
    RELU: torch.relu,
    TANH: torch.tanh,
}


def shapes(c):
    d, kv = c["d_model"], -(-c["n_head"] // c["head_group"]) * c["d_head"]
    yield "embed", (c["n_vocab"], d)
    if not c["tied"]:
        yield "output", (c["n_vocab"], d)
    norms = ["weight"] + (["bias"] if c["norm"] == LAYER else [])
    for part in norms:
        yield "final_norm." + part, (1, d)
    for l in range(c["n_layer"]):
        p = f"layers.{l}."
        for part in norms:
            yield p + "attn_norm." + part, (1, d)
            yield p + "ffn_norm." + part, (1, d)
        yield p + "attn.q", (c["n_head"] * c["d_head"], d)
        yield p + "attn.k", (kv, d)
        yield p + "attn.v", (kv, d)
        yield p + "attn.o", (d, c["n_head"] * c["d_head"])
        if c["ffn"] == GATED:
            yield p + "ffn.gate", (c["d_ff"], d)
        yield p + "ffn.up", (c["d_ff"], d)
        yield p + "ffn.down", (d, c["d_ff"])


def norm(c, w, name, x):
    if c["norm"] == LAYER:
        return torch.nn.functional.layer_norm(x, (x.shape[-1],), w[name + ".weight"][0], w[name + ".bias"][0],
                                              c["norm_eps"])
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + c["norm_eps"]) * w[name + ".weight"][0]


def rotate(c, x):  # [sequence][position][head][d_head]
    if c["rope_theta"] == 0:
        return x
    half = x.shape[-1] // 2
    frequency = c["rope_theta"] ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(x.shape[1], dtype=torch.float64)[:, None] * frequency
    cos, sin = angle.cos()[:, None, :], angle.sin()[:, None, :]
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def attend(c, w, prefix, x, heads):
    n, t, _ = x.shape
    head = c["d_head"]
    kv = -(-heads // c["head_group"])
    q = rotate(c, (x @ w[prefix + "q"][:heads * head].T).view(n, t, heads, head))
    k = rotate(c, (x @ w[prefix + "k"][:kv * head].T).view(n, t, kv, head))
    v = (x @ w[prefix + "v"][:kv * head].T).view(n, t, kv, head)
    of_head = torch.arange(heads) // c["head_group"]
    scores = c["attention_scale"] * torch.einsum("nthd,nshd->nhts", q, k[:, :, of_head])
    scores = scores.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -math.inf)
    out = torch.einsum("nhts,nshd->nthd", scores.softmax(-1), v[:, :, of_head]).reshape(n, t, heads * head)
    return out @ w[prefix + "o"][:, :heads * head].T


def feed_forward(c, w, prefix, x, width):
    act = ACTIVATIONS[c["activation"]]
    up = x @ w[prefix + "up"][:width].T
    hidden = act(x @ w[prefix + "gate"][:width].T) * up if c["ffn"] == GATED else act(up)
    return hidden @ w[prefix + "down"][:, :width].T


def loss(c, w, tokens, target, granularity):
    x = c["embed_scale"] * w["embed"][tokens]
    for l, (width, heads) in enumerate(zip(*granularity)):
        if width == 0:
            continue
        p = f"layers.{l}."
        x = x + attend(c, w, p + "attn.", norm(c, w, p + "attn_norm", x), heads)
        x = x + feed_forward(c, w, p + "ffn.", norm(c, w, p + "ffn_norm", x), width)
    logits = norm(c, w, "final_norm", x) @ w["embed" if c["tied"] else "output"].T
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())


def adamw_step(c, w, gradients):
    """One step of torch.optim.AdamW on the sum of the gradients, clipped; norms are not decayed."""
    summed = {name: sum(g[name] for g in gradients) for name in w}
    total = math.sqrt(sum(float((g * g).sum()) for g in summed.values()))
    parameters = {name: torch.nn.Parameter(value.detach().clone()) for name, value in w.items()}
    for name, p in parameters.items():
        p.grad = summed[name] * min(1.0, c["clip"] / total)
    decayed = [p for n, p in parameters.items() if "norm" not in n]
    plain = [p for n, p in parameters.items() if "norm" in n]
    torch.optim.AdamW([{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr=c["learning_rate"],
                      betas=(c["beta1"], c["beta2"]), eps=c["adam_eps"], weight_decay=c["weight_decay"]).step()
    return {name: p.detach() for name, p in parameters.items()}, total


def write(path, c):
    torch.manual_seed(len(path) + c["n_head"])
    w = {}
    for name, shape in shapes(c):
        scale, shift = (0.3, 1.0) if name.endswith("weight") else (0.3, 0.0)
        w[name] = (shift + scale * torch.randn(shape)).float().double().requires_grad_()
    # An AdamW step reads one window of the token stream, so both sequences are that window there.
    n = 1 if c["has_step"] else c["n_sequence"]
    stream = torch.randint(0, c["n_vocab"], (n, c["length"] + 1))
    tokens, target = stream[:, :-1], stream[:, 1:]
    losses, gradients = [], []
    for granularity in c["granularities"]:
        value = loss(c, w, tokens, target, granularity)
        grads = torch.autograd.grad(value, list(w.values()), allow_unused=True)
        losses.append(value.item())
        gradients.append({k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(w.items(), grads)})
    after, total = adamw_step(c, w, gradients)
    with open(path, "wb") as f:
        f.write(b"MFGOLD1\0")
        f.write(struct.pack("<16i", c["n_layer"], c["d_model"], c["n_head"], c["head_group"], c["d_head"], c["d_ff"],
                            c["n_vocab"], c["norm"], c["ffn"], c["activation"], c["tied"], len(c["granularities"]), n,
                            c["length"], len(w), c["has_step"]))
        f.write(struct.pack("<4f", c["norm_eps"], c["rope_theta"], c["embed_scale"], c["attention_scale"]))
        f.write(struct.pack("<6f", c["learning_rate"], c["beta1"], c["beta2"], c["adam_eps"], c["weight_decay"],
                            c["clip"]))
        for ffn, heads in c["granularities"]:
            f.write(struct.pack(f"<{2 * c['n_layer']}i", *ffn, *heads))
        f.write(tokens.int().numpy().tobytes() + target.int().numpy().tobytes())
        f.write(struct.pack(f"<{len(losses) + 1}d", *losses, total))
        for name, value in w.items():
            f.write(name.encode().ljust(32, b"\0") + struct.pack("<2i", *value.shape))
            for array in [value.detach()] + [g[name] for g in gradients] + ([after[name]] if c["has_step"] else []):
                f.write(array.float().numpy().tobytes())


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    # A large epsilon: at the first step m / sqrt(v) is the gradient's sign, which rounding decides where it is tiny.
    step = dict(learning_rate=0.01, beta1=0.9, beta2=0.95, adam_eps=1e-4, weight_decay=0.1, clip=0.5)
    for name, changes in CASES.items():
        write(os.path.join(folder, f"train_{name}.bin"), {**BASE, **step, **changes})


if __name__ == "__main__":
    main()
