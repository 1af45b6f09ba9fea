"""MatFormer-OLMo (MatLM) in PyTorch, from its formulas: affine layer norms, biases, ALiBi, one key/value head, GELU
by erf.

A factor c keeps the first floor(F / c) hidden units: rows of ff_proj and of its bias, columns of ff_out, and the whole
bias of ff_out. The repository knows this for sequential blocks only. In a parallel block, whose one projection holds
queries, key, value and hidden units in that order, the same prefix is of the last part.
"""

import torch
import torch.nn.functional as F


def tensor_shapes(c):
    d, head, ffn = c["d_model"], c["d_model"] // c["n_heads"], c["mlp_ratio"] * c["d_model"]
    yield "transformer.wte.weight", (c["embedding_size"], d)
    for i in range(c["n_layers"]):
        at = f"transformer.blocks.{i}."
        parallel = c["block_type"] == "parallel"
        norms = ["norm"] if parallel else ["attn_norm", "ff_norm"]
        linears = {"attn_out": (d, d), "ff_out": (d, ffn)}
        linears |= ({"fused_attn_ff_proj": (d + 2 * head + ffn, d)} if parallel
                    else {"att_proj": (d + 2 * head, d), "ff_proj": (ffn, d)})
        for name in norms:
            yield at + name + ".weight", (d,)
            yield at + name + ".bias", (d,)
        for name, shape in linears.items():
            yield at + name + ".weight", shape
            yield at + name + ".bias", shape[:1]
    yield "transformer.ln_f.weight", (d,)
    yield "transformer.ln_f.bias", (d,)


def norm(w, name, x):
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-5)


def linear(w, name, x):
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def attention(c, w, at, q, k, v):
    """q [tokens][d_model], k and v [tokens][d_head], which all heads share."""
    n, heads, head = q.shape[0], c["n_heads"], c["d_model"] // c["n_heads"]
    slope = 2.0 ** (-c["alibi_bias_max"] * torch.arange(1, heads + 1, dtype=q.dtype) / heads)
    ago = torch.arange(n)[:, None] - torch.arange(n)
    scores = q.view(n, heads, head).transpose(0, 1) @ k.T * head ** -0.5 - slope[:, None, None] * ago
    weights = torch.softmax(scores.masked_fill(ago < 0, float("-inf")), -1)
    return linear(w, at + "attn_out", (weights @ v).transpose(0, 1).reshape(n, -1))


def contract(w, at, hidden):
    """The down projection of a prefix of the hidden units, which are given before their activation."""
    return F.gelu(hidden) @ w[at + "ff_out.weight"][:, : hidden.shape[1]].T + w[at + "ff_out.bias"]


def sequential_block(c, w, at, x, width):
    d, head = c["d_model"], c["d_model"] // c["n_heads"]
    x = x + attention(c, w, at, *linear(w, at + "att_proj", norm(w, at + "attn_norm", x)).split([d, head, head], 1))
    hidden = norm(w, at + "ff_norm", x) @ w[at + "ff_proj.weight"][:width].T + w[at + "ff_proj.bias"][:width]
    return x + contract(w, at, hidden)


def parallel_block(c, w, at, x, width):
    d, head, ffn = c["d_model"], c["d_model"] // c["n_heads"], c["mlp_ratio"] * c["d_model"]
    parts = linear(w, at + "fused_attn_ff_proj", norm(w, at + "norm", x)).split([d, head, head, ffn], 1)
    return x + attention(c, w, at, *parts[:3]) + contract(w, at, parts[3][:, :width])


def logits(c, w, tokens, widths):
    """[tokens][embedding_size]; the rows from vocab_size on are padding of the embedding."""
    block = parallel_block if c["block_type"] == "parallel" else sequential_block
    x = w["transformer.wte.weight"][tokens]
    for i, width in enumerate(widths):
        x = block(c, w, f"transformer.blocks.{i}.", x, width)
    return norm(w, "transformer.ln_f", x) @ w["transformer.wte.weight"].T


def logits_token_by_token(c, w, tokens, widths):
    """The same by another way: one token at a time with a cache, one head at a time, hidden units masked."""
    d, heads = c["d_model"], c["n_heads"]
    head, parallel = d // heads, c["block_type"] == "parallel"
    caches = [([], []) for _ in widths]
    out = []
    for position, token in enumerate(tokens):
        x = w["transformer.wte.weight"][token]
        for i, (width, (keys, values)) in enumerate(zip(widths, caches)):
            at = f"transformer.blocks.{i}."
            projected = linear(w, at + ("fused_attn_ff_proj" if parallel else "att_proj"),
                               norm(w, at + ("norm" if parallel else "attn_norm"), x))
            keys.append(projected[d : d + head])
            values.append(projected[d + head : d + 2 * head])
            outputs = []
            for h in range(heads):
                q, slope = projected[h * head : (h + 1) * head], 2 ** (-c["alibi_bias_max"] * (h + 1) / heads)
                scores = [(q @ k) / head ** 0.5 - slope * (position - j) for j, k in enumerate(keys)]
                weights = torch.stack(scores).exp()
                outputs.append(sum(a * v for a, v in zip(weights / weights.sum(), values)))
            added = linear(w, at + "attn_out", torch.cat(outputs))
            hidden = projected[d + 2 * head :]
            if not parallel:
                hidden = linear(w, at + "ff_proj", norm(w, at + "ff_norm", x + added))
            gelu = hidden * 0.5 * (1 + torch.erf(hidden / 2 ** 0.5)) * (torch.arange(len(hidden)) < width)
            x = x + added + linear(w, at + "ff_out", gelu)
        out.append(w["transformer.wte.weight"] @ norm(w, "transformer.ln_f", x))
    return torch.stack(out)
