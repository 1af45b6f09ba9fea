"""Modules whose output is that of a narrower one: the first units of an FFN, the first heads of an attention.

Slices are views of whole parameters, so that a step at any width gives every parameter a gradient, of zeros beyond the
slice. Optimizers, checkpoints and DistributedDataParallel see plain modules.
"""

# mypy: disable-error-code="import-not-found, misc, unused-ignore"
# PyTorch may be missing where types are checked.

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: Dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
}


def activation_named(name: str) -> Callable[[Tensor], Tensor]:
    try:
        return ACTIVATIONS[name]
    except KeyError:
        raise ValueError(f"the activation {name!r} is none that a .mf file has; choose one of "
                         f"{', '.join(ACTIVATIONS)}") from None


class NestedLinear(nn.Linear):
    """A linear layer of which the first outputs, or the first inputs, can be used alone.

    forward(x, n_out=None): the first n_out outputs, of as many inputs as x has. Its bias is sliced with its outputs:
    `W[:n_out, :k] x + b[:n_out]`.
    """

    def forward(self, x: Tensor, n_out: Optional[int] = None) -> Tensor:
        n, k = self.out_features if n_out is None else n_out, x.shape[-1]
        if n == self.out_features and k == self.in_features:
            return functional.linear(x, self.weight, self.bias)
        return functional.linear(x, self.weight[:n, :k], None if self.bias is None else self.bias[:n])

    @classmethod
    def sharing(cls, linear: nn.Linear) -> "NestedLinear":
        """One with the parameters of a plain layer, not with copies of them."""
        made = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        made.weight = linear.weight
        made.bias = linear.bias
        return made


class NestedFFN(nn.Module):
    """FFN_i(x) = D[:, :m] act(U[:m] x), or D[:, :m] (act(G[:m] x) * U[:m] x) where it is gated, for 1 <= m <= d_ff
    (Devvrit et al., equation 1). The output's bias is whole at every width.

    width   m where forward is given none; view() and select() set it. None: d_ff
    names   of its layers: gate (where gated), up, down. The defaults are those of transformers' LlamaMLP
    """

    width: Optional[int]

    def __init__(self, d_model: int, d_ff: int, *, gated: bool = True, activation: str = "silu", bias: bool = False,
                 names: Optional[Tuple[str, ...]] = None, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        names = names or (("gate_proj", "up_proj", "down_proj") if gated else ("up_proj", "down_proj"))
        more = {"device": device, "dtype": dtype}
        for name in names[:-1]:
            self.add_module(name, NestedLinear(d_model, d_ff, bias, **more))
        self.add_module(names[-1], NestedLinear(d_ff, d_model, bias, **more))
        self._set(names, activation)

    def _set(self, names: Tuple[str, ...], activation: str) -> None:
        self.names, self.activation = names, activation
        self.width = None
        self._act = activation_named(activation)

    @classmethod
    def sharing(cls, module: nn.Module, names: Tuple[str, ...], activation: str) -> "NestedFFN":
        """One with the parameters of a module's linear layers `names`: gate, up and down, or up and down."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        for name in names:
            made.add_module(name, NestedLinear.sharing(getattr(module, name)))
        made._set(names, activation)
        return made

    @property
    def d_ff(self) -> int:
        return int(getattr(self, self.names[-1]).in_features)

    def forward(self, x: Tensor, width: Optional[int] = None) -> Tensor:
        width = self.width if width is None else width
        up = getattr(self, self.names[-2])(x, width)
        hidden = self._act(getattr(self, self.names[0])(x, width)) * up if len(self.names) == 3 else self._act(up)
        out: Tensor = getattr(self, self.names[-1])(hidden)
        return out

    def extra_repr(self) -> str:
        return f"width={self.width}, activation={self.activation}"


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the pairs (j, j + d_head / 2). x [..., positions, d_head]; cos, sin [positions, d_head / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class NestedAttention(nn.Module):
    """Attention of which the first h query heads, and the key/value heads that they read, can be used alone: query head i
    reads key/value head i // (n_head / n_kv_head).

    heads   h where forward is given none; view() and select() set it. None: n_head

    Its layers have the names of transformers' LlamaAttention. forward(x, rotation): x [batch, positions, d_model];
    rotation: cosines and sines [positions, d_head / 2], or None.
    """

    heads: Optional[int]

    def __init__(self, d_model: int, n_head: int, *, n_kv_head: Optional[int] = None, d_head: Optional[int] = None,
                 causal: bool = True, bias: bool = False, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.n_head, self.n_kv_head = n_head, n_kv_head or n_head
        self.d_head, self.causal = d_head or d_model // n_head, causal
        self.heads = None
        if n_head % self.n_kv_head:
            raise ValueError(f"{n_head} heads cannot share {self.n_kv_head} key/value heads evenly: the second must be a "
                             "divisor of the first")
        self.head_group = n_head // self.n_kv_head
        q, kv = n_head * self.d_head, self.n_kv_head * self.d_head
        more = {"device": device, "dtype": dtype}
        self.q_proj = NestedLinear(d_model, q, bias, **more)
        self.k_proj = NestedLinear(d_model, kv, bias, **more)
        self.v_proj = NestedLinear(d_model, kv, bias, **more)
        self.o_proj = NestedLinear(q, d_model, bias, **more)

    def _split(self, x: Tensor, n_head: int) -> Tensor:
        return x.view(x.shape[0], x.shape[1], n_head, self.d_head).transpose(1, 2)

    def forward(self, x: Tensor, rotation: Optional[Tuple[Tensor, Tensor]] = None,
                heads: Optional[int] = None) -> Tensor:
        heads = self.heads if heads is None else heads
        heads = self.n_head if heads is None else heads
        kv_heads = -(-heads // self.head_group)
        q = self._split(self.q_proj(x, heads * self.d_head), heads)
        k = self._split(self.k_proj(x, kv_heads * self.d_head), kv_heads)
        v = self._split(self.v_proj(x, kv_heads * self.d_head), kv_heads)
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        if self.head_group > 1:
            k = k.repeat_interleave(self.head_group, dim=1)[:, :heads]
            v = v.repeat_interleave(self.head_group, dim=1)[:, :heads]
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        result: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return result

    def extra_repr(self) -> str:
        return f"heads={self.heads} of {self.n_head}, n_kv_head={self.n_kv_head}, d_head={self.d_head}"
