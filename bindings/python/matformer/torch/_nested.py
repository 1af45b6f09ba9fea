"""nested(): a model as it is becomes one whose FFNs, and heads where it is ours, can be narrow."""

# mypy: disable-error-code="import-not-found, no-any-return, unused-ignore"
# PyTorch may be missing where types are checked.

from __future__ import annotations

import re
from typing import Any, Dict, List, Mapping, Optional, Tuple, Union

import torch
from torch import nn

from ._models import LMConfig, NestedLM, NestedViT, ViTConfig
from ._modules import NestedFFN
from ._views import Nesting, Spec, nested_layers

Config = Union[LMConfig, ViTConfig]
Nested = Union[NestedLM, NestedViT]

# transformers' ViT before release 5, with "vit." in front.
_OLDER_VIT = (
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.",
     lambda m: f"layers.{m[1]}.attention.{m[2][0]}_proj."),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"layers.\1.attention.o_proj."),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.", r"layers.\1.mlp.fc1."),
    (r"encoder\.layer\.(\d+)\.output\.dense\.", r"layers.\1.mlp.fc2."),
    (r"encoder\.layer\.(\d+)\.", r"layers.\1."),
)


def nested(model: nn.Module, granularities: Optional[Mapping[str, Spec]] = None) -> nn.Module:
    """Makes a model nested where it stands, and returns it. `granularities` as in NestedLM.

    A Llama or a ViT of the transformers package keeps its class, its parameters and its state_dict: its MLPs are replaced
    by NestedFFNs that share their weights, so that its own generate(), Trainer and adapters go on working. Its heads stay
    whole; from_transformers() makes a model whose heads nest.

    Any other model needs NestedFFN, and NestedAttention where it is to have nested heads, in its layers already.
    """
    for module, names, activation in _plain_ffns(model):
        _replace(model, module, NestedFFN.sharing(module, names, activation))
    ffns, attentions = nested_layers(model)
    if not ffns:
        raise ValueError(f"{type(model).__name__} has no FFN that can be nested; use NestedFFN in its layers, or give a "
                         "LlamaForCausalLM or a ViTForImageClassification")
    if attentions and len(attentions) != len(ffns):
        raise ValueError(f"{type(model).__name__} has {len(ffns)} NestedFFNs and {len(attentions)} NestedAttentions; "
                         "use one of each in every layer, or no NestedAttention")
    heads = [m.n_head for m in attentions] or [_heads_of(model)] * len(ffns)
    nesting = Nesting.of(granularities, [m.d_ff for m in ffns], heads, [m.d_head for m in attentions])
    if not attentions and any(view.heads != nesting.widest.heads for view in nesting.granularities):
        raise ValueError(f"the heads of {type(model).__name__} cannot be nested in place; use from_transformers(), or "
                         "NestedAttention in its layers")
    model.nesting = nesting
    return model


def _heads_of(model: nn.Module) -> int:
    return int(getattr(getattr(model, "config", None), "num_attention_heads", 1))


def _plain_ffns(model: nn.Module) -> List[Tuple[Any, Tuple[str, ...], str]]:
    """MLPs of transformers' Llama and ViT: the module, its layers' names, its activation."""
    found: List[Tuple[Any, Tuple[str, ...], str]] = []
    for module in model.modules():
        kind = type(module).__name__
        if kind == "LlamaMLP":
            found.append((module, ("gate_proj", "up_proj", "down_proj"), module.config.hidden_act))
        elif kind == "ViTMLP":
            found.append((module, ("fc1", "fc2"), module.config.hidden_act))
    return found


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)
                return


def describe_transformers(model: nn.Module) -> Optional[Config]:
    """The configuration of a model of the transformers package; None: it is none that is known."""
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None)
    if kind == "llama":
        return LMConfig.of_transformers(config)
    if kind == "vit":
        classifier = getattr(model, "classifier", None)
        return ViTConfig.of_transformers(config, getattr(classifier, "out_features", 0))
    return None


def standard_name(name: str, config: Config) -> str:
    """A tensor's name in NestedLM or NestedViT: without what wrappers add, and as the newest transformers has it."""
    name = name.replace("_orig_mod.", "")
    name = name[len("module."):] if name.startswith("module.") else name
    if isinstance(config, ViTConfig):
        for pattern, new in _OLDER_VIT:
            name = re.sub(pattern, new, name)
        if not name.startswith(("vit.", "classifier.")):
            name = f"vit.{name}"  # of ViTModel
    elif not name.startswith(("model.", "lm_head.")):
        name = f"model.{name}"  # of LlamaModel
    return name


def build(config: Config, granularities: Optional[Mapping[str, Spec]] = None) -> Nested:
    if isinstance(config, LMConfig):
        return NestedLM(config, granularities)
    return NestedViT(config, granularities)


def from_transformers(model: nn.Module, granularities: Optional[Mapping[str, Spec]] = None) -> Nested:
    """A LlamaForCausalLM or ViTForImageClassification of the transformers package as a NestedLM or NestedViT, with the
    same parameters, not copies of them. The widths of a plain model are no good before they were trained."""
    config = describe_transformers(model)
    if config is None:
        raise ValueError(f"{type(model).__name__} is no Llama or ViT of the transformers package; build a NestedLM or a "
                         "NestedViT and load its state_dict")
    if isinstance(config, ViTConfig) and hasattr(getattr(model, "vit", model), "pooler") and \
            getattr(model, "vit", model).pooler is not None:
        raise ValueError(f"{type(model).__name__} has a pooler, which a NestedViT has not; make it with "
                         "add_pooling_layer=False")
    parameters: Dict[str, Any] = {standard_name(name, config): p for name, p in model.named_parameters()}
    with torch.device("meta"):
        made = build(config, granularities)
    if isinstance(made, NestedLM):
        made.model.rotation.to_empty(device=next(model.parameters()).device)
    _share(made, parameters, type(model).__name__)
    return made.train(model.training)


def _share(made: Nested, parameters: Mapping[str, Any], kind: str) -> None:
    wanted = dict(made.named_parameters())
    missing = sorted(set(wanted) - set(parameters))
    unknown = sorted(set(parameters) - set(wanted))
    if missing or unknown:
        raise ValueError(f"{kind}: parameters {missing or 'none'} are missing and {unknown or 'none'} are unknown; give a "
                         "model of the plain architecture")
    for name, parameter in parameters.items():
        parent, _, last = name.rpartition(".")
        made.get_submodule(parent).register_parameter(last, parameter)
    if isinstance(made, NestedLM) and made.config.tied:
        made.lm_head.weight = made.model.embed_tokens.weight
