"""NestedLM and NestedViT: whole models, with the tensor names of transformers' Llama and ViT."""

# mypy: disable-error-code="import-not-found, misc, unused-ignore"
# PyTorch may be missing where types are checked.

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from ._modules import NestedAttention, NestedFFN, activation_named
from ._views import Nesting, Spec, View

Widths = Union[int, Tuple[int, ...]]
_STANDARD_DEVIATION = 0.02


def _per_layer(value: Any, n_layer: int, what: str) -> Tuple[int, ...]:
    values = (int(value),) * n_layer if isinstance(value, int) else tuple(int(v) for v in value)
    if len(values) != n_layer:
        raise ValueError(f"{what} has {len(values)} entries, and the model {n_layer} layers; give one for each")
    return values


def _granularities_json(nesting: Nesting) -> Dict[str, Any]:
    def short(values: Sequence[int]) -> Any:
        return values[0] if len(set(values)) == 1 else list(values)

    return {"granularities": [{"name": view.name, "intermediate_size": short(view.ffn),
                               "num_attention_heads": short(view.heads)} for view in nesting.granularities]}


# ---- Language models ----

@dataclass(frozen=True)
class LMConfig:
    """A decoder: docs/families.md has its equations.

    d_ff          one width, or a width for each layer
    norm          "rms" or "layer" (with biases)
    ffn           "gated" or "plain"
    rope_scaling  None, or {"rope_type": "linear", "factor": 4.0}, or Llama 3.1's, as transformers has it
    """

    n_vocab: int
    d_model: int
    n_layer: int
    n_head: int
    d_ff: Widths
    n_kv_head: Optional[int] = None
    d_head: Optional[int] = None
    max_positions: int = 2048
    norm: str = "rms"
    norm_eps: float = 1e-6
    ffn: str = "gated"
    activation: str = "silu"
    rope_theta: float = 10000.0
    rope_scaling: Optional[Mapping[str, Any]] = None
    tied: bool = False
    attention_bias: bool = False
    ffn_bias: bool = False
    bos_token: Optional[int] = None
    eos_token: Optional[int] = None

    def __post_init__(self) -> None:
        if self.norm not in ("rms", "layer"):
            raise ValueError(f'norm is {self.norm!r}, and must be "rms" or "layer"')
        if self.ffn not in ("gated", "plain"):
            raise ValueError(f'ffn is {self.ffn!r}, and must be "gated" or "plain"')
        activation_named(self.activation)
        _per_layer(self.d_ff, self.n_layer, "d_ff")

    @property
    def widths(self) -> Tuple[int, ...]:
        return _per_layer(self.d_ff, self.n_layer, "d_ff")

    @property
    def head_size(self) -> int:
        return self.d_head or self.d_model // self.n_head

    def json(self, nesting: Nesting) -> Dict[str, Any]:
        """As config.json of a folder that the library opens."""
        widths = self.widths
        extra = _granularities_json(nesting)
        if self.norm != "rms":
            extra["norm"] = self.norm
        if self.ffn != "gated":
            extra["ffn"] = self.ffn
        return {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": self.n_vocab,
            "hidden_size": self.d_model, "num_hidden_layers": self.n_layer, "num_attention_heads": self.n_head,
            "num_key_value_heads": self.n_kv_head or self.n_head, "head_dim": self.head_size,
            "intermediate_size": widths[0] if len(set(widths)) == 1 else list(widths),
            "max_position_embeddings": self.max_positions, "rms_norm_eps": self.norm_eps, "hidden_act": self.activation,
            "rope_theta": self.rope_theta, "rope_scaling": dict(self.rope_scaling) if self.rope_scaling else None,
            "tie_word_embeddings": self.tied, "attention_bias": self.attention_bias, "mlp_bias": self.ffn_bias,
            "bos_token_id": self.bos_token, "eos_token_id": self.eos_token, "matformer": extra,
        }

    @classmethod
    def of_transformers(cls, config: Any) -> "LMConfig":
        """Of a LlamaConfig."""
        said = config.to_dict()
        scaling = dict(said.get("rope_parameters") or said.get("rope_scaling") or {})
        theta = scaling.pop("rope_theta", None) or said.get("rope_theta") or 10000.0
        if scaling.get("rope_type", scaling.get("type", "default")) == "default":
            scaling = {}
        eos = said.get("eos_token_id")
        return cls(
            n_vocab=said["vocab_size"], d_model=said["hidden_size"], n_layer=said["num_hidden_layers"],
            n_head=said["num_attention_heads"], d_ff=said["intermediate_size"],
            n_kv_head=said.get("num_key_value_heads"), d_head=said.get("head_dim"),
            max_positions=said["max_position_embeddings"], norm_eps=said["rms_norm_eps"],
            activation=said["hidden_act"], rope_theta=theta, rope_scaling=scaling or None,
            tied=bool(said.get("tie_word_embeddings")), attention_bias=bool(said.get("attention_bias")),
            ffn_bias=bool(said.get("mlp_bias")), bos_token=said.get("bos_token_id"),
            eos_token=eos[0] if isinstance(eos, (list, tuple)) else eos)


def rope_frequencies(config: LMConfig) -> Tensor:
    """[d_head / 2], scaled as docs/families.md says."""
    half = config.head_size // 2
    f = config.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    scaling = config.rope_scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "linear":
        f = f / scaling["factor"]
    elif kind == "llama3":
        low, high = scaling.get("low_freq_factor", 1.0), scaling.get("high_freq_factor", 4.0)
        turns = scaling.get("original_max_position_embeddings", 8192) * f / (2 * math.pi)
        s = ((turns - low) / (high - low)).clamp(0, 1)
        f = (1 - s) * f / scaling["factor"] + s * f
    elif kind != "default":
        raise ValueError(f'rotations of type "{kind}" are none that a .mf file has; only default, linear and llama3 are')
    return f.float()


class _Rotation(nn.Module):
    """Cosines and sines of positions."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self._config = config
        self._fill(None)

    def _fill(self, device: Any) -> None:
        angles = torch.outer(torch.arange(self._config.max_positions).float(), rope_frequencies(self._config)).to(device)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves with the model, and stays f32: rounded, they would be other rotations. Filled anew, since to_empty() gives
        no values."""
        super()._apply(fn, recurse)
        self._fill(self.cos.device)
        return self

    def forward(self, n: int, dtype: torch.dtype) -> Tuple[Tensor, Tensor]:
        return self.cos[:n].to(dtype), self.sin[:n].to(dtype)


class _DecoderLayer(nn.Module):
    def __init__(self, config: LMConfig, d_ff: int) -> None:
        super().__init__()
        self.input_layernorm = _norm(config)
        self.self_attn = NestedAttention(config.d_model, config.n_head, n_kv_head=config.n_kv_head,
                                         d_head=config.head_size, bias=config.attention_bias)
        self.post_attention_layernorm = _norm(config)
        self.mlp = NestedFFN(config.d_model, d_ff, gated=config.ffn == "gated", activation=config.activation,
                             bias=config.ffn_bias)

    def forward(self, x: Tensor, rotation: Tuple[Tensor, Tensor], width: Optional[int], heads: Optional[int]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation, heads)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x), width)
        return out


def _norm(config: LMConfig) -> nn.Module:
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(config.d_model, eps=config.norm_eps)


class _Decoder(nn.Module):
    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.n_vocab, config.d_model)
        self.layers = nn.ModuleList(_DecoderLayer(config, d_ff) for d_ff in config.widths)
        self.norm = _norm(config)
        self.rotation = _Rotation(config)

    def forward(self, tokens: Tensor, chosen: Optional[View]) -> Tensor:
        x = self.embed_tokens(tokens)
        rotation = self.rotation(tokens.shape[1], x.dtype)
        for at, layer in enumerate(self.layers):
            x = layer(x, rotation, chosen and chosen.ffn[at], chosen and chosen.heads[at])
        out: Tensor = self.norm(x)
        return out


class _Nested(nn.Module):
    """What the models share."""

    nesting: Nesting

    def chosen(self, view: Optional[Spec]) -> Optional[View]:
        return None if view is None else self.nesting.view(view)

    def _initialize(self, n_layer: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # norms and biases are ones and zeros already
            deviation = _STANDARD_DEVIATION
            if name.endswith(("o_proj.weight", "down_proj.weight", "fc2.weight")):
                deviation /= math.sqrt(2 * n_layer)  # each layer adds twice to the stream
            nn.init.normal_(parameter, std=deviation)
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)


class NestedLM(_Nested):
    """A nested decoder (MatLM).

        model = NestedLM(LMConfig(n_vocab=4096, d_model=256, n_layer=6, n_head=8, d_ff=1024))
        logits = model(tokens, view="M")          [batch, positions, n_vocab]

    granularities   names and views, narrowest first; None: "S", "M", "L" and "XL", which halve the FFN
    view            a granularity, a ratio, a tuple of widths, ...; None: as view() or select() say, else the widest

    A plain LlamaForCausalLM of the same shape has the same state_dict.
    """

    def __init__(self, config: LMConfig, granularities: Optional[Mapping[str, Spec]] = None) -> None:
        super().__init__()
        self.config = config
        n = config.n_layer
        self.nesting = Nesting.of(granularities, config.widths, (config.n_head,) * n, (config.head_size,) * n)
        self.model = _Decoder(config)
        self.lm_head = nn.Linear(config.d_model, config.n_vocab, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        self._initialize(n)

    def forward(self, tokens: Tensor, view: Optional[Spec] = None) -> Tensor:
        out: Tensor = self.lm_head(self.model(tokens, self.chosen(view)))
        return out


# ---- Images ----

@dataclass(frozen=True)
class ViTConfig:
    """An encoder of images: docs/families.md has its equations.

    n_class   0: no classifier; forward returns hidden states
    """

    image_size: int
    patch_size: int
    d_model: int
    n_layer: int
    n_head: int
    d_ff: Widths
    n_class: int = 0
    n_channel: int = 3
    norm_eps: float = 1e-12
    activation: str = "gelu"

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size is {self.image_size}, and must be a multiple of patch_size, {self.patch_size}")
        activation_named(self.activation)
        _per_layer(self.d_ff, self.n_layer, "d_ff")

    @property
    def widths(self) -> Tuple[int, ...]:
        return _per_layer(self.d_ff, self.n_layer, "d_ff")

    @property
    def head_size(self) -> int:
        return self.d_model // self.n_head

    def json(self, nesting: Nesting) -> Dict[str, Any]:
        """As config.json of a folder that the library opens."""
        widths = self.widths
        return {
            "model_type": "vit", "architectures": ["ViTForImageClassification" if self.n_class else "ViTModel"],
            "hidden_size": self.d_model, "num_hidden_layers": self.n_layer, "num_attention_heads": self.n_head,
            "intermediate_size": widths[0] if len(set(widths)) == 1 else list(widths), "hidden_act": self.activation,
            "layer_norm_eps": self.norm_eps, "image_size": self.image_size, "patch_size": self.patch_size,
            "num_channels": self.n_channel, "qkv_bias": True, "matformer": _granularities_json(nesting),
        }

    @classmethod
    def of_transformers(cls, config: Any, n_class: int) -> "ViTConfig":
        """Of transformers' ViTConfig."""
        said = config.to_dict()
        if not said.get("qkv_bias", True):
            raise ValueError("qkv_bias is false, and a .mf file's ViT has biases; set them to zeros")
        return cls(image_size=said["image_size"], patch_size=said["patch_size"], d_model=said["hidden_size"],
                   n_layer=said["num_hidden_layers"], n_head=said["num_attention_heads"],
                   d_ff=said["intermediate_size"], n_class=n_class, n_channel=said["num_channels"],
                   norm_eps=said["layer_norm_eps"], activation=said["hidden_act"])


class _PatchEmbeddings(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.projection = nn.Conv2d(config.n_channel, config.d_model, config.patch_size, config.patch_size)


class _ImageEmbeddings(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        rows = 1 + (config.image_size // config.patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.d_model))
        self.position_embeddings = nn.Parameter(torch.zeros(1, rows, config.d_model))
        self.patch_embeddings = _PatchEmbeddings(config)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(patches.shape[0], -1, -1).to(patches.dtype)
        return torch.cat((first, patches), dim=1) + self.position_embeddings


class _EncoderLayer(nn.Module):
    def __init__(self, config: ViTConfig, d_ff: int) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.attention = NestedAttention(config.d_model, config.n_head, causal=False, bias=True)
        self.layernorm_after = nn.LayerNorm(config.d_model, eps=config.norm_eps)
        self.mlp = NestedFFN(config.d_model, d_ff, gated=False, activation=config.activation, bias=True,
                             names=("fc1", "fc2"))

    def forward(self, x: Tensor, width: Optional[int], heads: Optional[int]) -> Tensor:
        x = x + self.attention(self.layernorm_before(x), None, heads)
        out: Tensor = x + self.mlp(self.layernorm_after(x), width)
        return out


class _Encoder(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.embeddings = _ImageEmbeddings(config)
        self.layers = nn.ModuleList(_EncoderLayer(config, d_ff) for d_ff in config.widths)
        self.layernorm = nn.LayerNorm(config.d_model, eps=config.norm_eps)

    def forward(self, pixels: Tensor, chosen: Optional[View]) -> Tensor:
        x = self.embeddings(pixels)
        for at, layer in enumerate(self.layers):
            x = layer(x, chosen and chosen.ffn[at], chosen and chosen.heads[at])
        out: Tensor = self.layernorm(x)
        return out


class NestedViT(_Nested):
    """A nested encoder of images (MatViT).

        model = NestedViT(ViTConfig(image_size=32, patch_size=4, d_model=192, n_layer=6, n_head=3, d_ff=768, n_class=10))
        logits = model(pixels, view="S")          [batch, n_class]
        rows = model.features(pixels, view="S")   [batch, 1 + patches, d_model]

    A plain ViTForImageClassification of transformers 5 of the same shape has the same state_dict.
    """

    def __init__(self, config: ViTConfig, granularities: Optional[Mapping[str, Spec]] = None) -> None:
        super().__init__()
        self.config = config
        n = config.n_layer
        self.nesting = Nesting.of(granularities, config.widths, (config.n_head,) * n, (config.head_size,) * n)
        self.vit = _Encoder(config)
        self.classifier = nn.Linear(config.d_model, config.n_class) if config.n_class else nn.Identity()
        self._initialize(n)

    def features(self, pixels: Tensor, view: Optional[Spec] = None) -> Tensor:
        """Hidden states behind the last norm: of the class token, then of the patches."""
        out: Tensor = self.vit(pixels, self.chosen(view))
        return out

    def forward(self, pixels: Tensor, view: Optional[Spec] = None) -> Tensor:
        rows = self.features(pixels, view)
        out: Tensor = self.classifier(rows[:, 0]) if self.config.n_class else rows
        return out
