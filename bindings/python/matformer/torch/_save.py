"""save(): a nested model in PyTorch becomes a .mf file.

The tensors are written to a folder as Hugging Face has them, which the library's own importer then converts: there is one
writer of .mf files, and it checks every tensor against the configuration.
"""

# mypy: disable-error-code="import-not-found, unused-ignore"
# PyTorch may be missing where types are checked.

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from .. import tools
from ._models import LMConfig, NestedLM, ViTConfig
from ._nested import Config, build, describe_transformers, standard_name
from ._views import Nesting, Spec, nested_layers, unwrap

Mapping_ = Union[Mapping[str, Optional[str]], Callable[[str], Optional[str]]]
_SHARD_BYTES = 1 << 30
_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def save(model: nn.Module, path: Union[str, "os.PathLike[str]"], *, mapping: Optional[Mapping_] = None,
         config: Optional[Config] = None, granularities: Optional[Mapping[str, Spec]] = None, tokenizer: Any = None,
         type: Optional[str] = None, types: Optional[Mapping[str, str]] = None,
         progress: Optional[Callable[[int, int], Any]] = None) -> None:
    """Writes `model` to a .mf file, which appears whole or not at all.

    model          a NestedLM or NestedViT; a Llama or ViT of the transformers package, nested or not; or another with
                   `config` and `mapping`. It may be compiled or wrapped in DistributedDataParallel
    mapping        from the model's tensor names to those of NestedLM or NestedViT: a dict, in which "{}" stands for a
                   layer's number on both sides, or a function. None as the new name leaves a tensor out
    config         an LMConfig or ViTConfig, of a model that does not say it itself
    granularities  of a model that is not nested(): names and views, narrowest first
    tokenizer      one of the transformers package with save_pretrained(), or the path of a tokenizer.json or of a folder
                   that has one
    type, types    element type of the matrices, for all and by role, as in matformer.tools.convert(); None: the model's
    progress       called with (done, total); an exception of it ends the save

    The disk beside `path` needs room for the weights twice meanwhile. ValueError names the tensor that is unknown, missing
    or of another shape.
    """
    inner = unwrap(model)
    config = _config_of(inner) if config is None else config
    if not isinstance(config, (LMConfig, ViTConfig)):
        raise TypeError(f"config is a {config.__class__.__name__}, and must be an LMConfig or a ViTConfig")
    nesting = _nesting_of(inner, config, granularities)
    tensors = _rename(_tensors_of(inner), config, mapping)
    _check(tensors, config)
    target = Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        n_bytes = sum(t.numel() * t.element_size() for _, t in tensors.values())
        _write_tensors(Path(folder), tensors, n_bytes, progress)
        (Path(folder) / "config.json").write_text(json.dumps(config.json(nesting), indent=2) + "\n", encoding="utf-8")
        if tokenizer is not None:
            _write_tokenizer(Path(folder), tokenizer)
        tools.convert(folder, target, type=type, types=types, progress=_second_half(progress, n_bytes))


def _config_of(model: nn.Module) -> Config:
    own = getattr(model, "config", None)
    found = own if isinstance(own, (LMConfig, ViTConfig)) else describe_transformers(model)
    if found is None:
        raise ValueError(f"{model.__class__.__name__} does not say what it is; give save() an LMConfig or a ViTConfig as "
                         "config, and a mapping of its tensors' names")
    return found


def _nesting_of(model: nn.Module, config: Config, granularities: Optional[Mapping[str, Spec]]) -> Nesting:
    n = config.n_layer
    own = getattr(model, "nesting", None)
    if granularities is None and isinstance(own, Nesting):
        if own.widest.ffn == config.widths and nested_layers(model)[1]:
            return own
        if own.widest.ffn == config.widths:  # heads stayed whole
            granularities = {view.name or "": {"ffn": view.ffn} for view in own.granularities}
        else:
            raise ValueError(f"the NestedFFNs have the widths {own.widest.ffn}, and config says {config.widths}; "
                             "correct config.d_ff")
    return Nesting.of(granularities, config.widths, (config.n_head,) * n, (config.head_size,) * n)


# ---- Names ----

def _tensors_of(model: nn.Module) -> Dict[str, Tensor]:
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def _pattern(name: str) -> "re.Pattern[str]":
    return re.compile(r"(\d+)".join(re.escape(part) for part in name.split("{}")))


def _as_function(mapping: Mapping_) -> Callable[[str], Optional[str]]:
    """A function from a tensor's name to its new one; KeyError: the mapping does not have it."""
    if not isinstance(mapping, Mapping):
        return mapping
    patterns = [(_pattern(old), new) for old, new in mapping.items()]

    def look_up(name: str) -> Optional[str]:
        for pattern, new in patterns:
            match = pattern.fullmatch(name)
            if match:
                return None if new is None else new.format(*match.groups())
        raise KeyError(name)

    return look_up


def _rename(tensors: Mapping[str, Tensor], config: Config,
            mapping: Optional[Mapping_]) -> Dict[str, Tuple[str, Tensor]]:
    """New name: (old name, tensor)."""
    rename = None if mapping is None else _as_function(mapping)
    renamed: Dict[str, Tuple[str, Tensor]] = {}
    for old, tensor in tensors.items():
        try:
            new = standard_name(old, config) if rename is None else rename(old)
        except KeyError:
            raise ValueError(f"tensor {old} is not in the mapping; add it, or map it to None to leave it out") from None
        if new is None or (new == "lm_head.weight" and isinstance(config, LMConfig) and config.tied):
            continue
        if new in renamed:
            raise ValueError(f"tensors {renamed[new][0]} and {old} would both be {new}; correct the mapping")
        renamed[new] = (old, tensor)
    return renamed


def _expected(config: Config) -> Dict[str, Tuple[int, ...]]:
    with torch.device("meta"):
        reference = build(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in reference.state_dict().items()}
    if isinstance(reference, NestedLM) and reference.config.tied:
        del shapes["lm_head.weight"]
    return shapes


def _check(tensors: Mapping[str, Tuple[str, Tensor]], config: Config) -> None:
    expected = _expected(config)
    optional = {"vit.pooler.dense.weight": (config.d_model, config.d_model), "vit.pooler.dense.bias": (config.d_model,)}
    for new, (old, tensor) in tensors.items():
        name = old if old == new else f"{old} (as {new})"
        shape = expected.get(new) or (optional.get(new) if isinstance(config, ViTConfig) else None)
        if shape is None:
            raise ValueError(f"tensor {name} is none that such a model has{_nearest(new, expected)}; map it to its name "
                             "there, or to None to leave it out")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"tensor {name} is {list(tensor.shape)}, but the configuration asks for {list(shape)}; "
                             "correct the one that is wrong")
        if tensor.dtype not in _TYPES:
            raise ValueError(f"tensor {name} is of {tensor.dtype}, which no .mf file is made from; convert it to float32, "
                             "bfloat16 or float16")
        if tensor.is_meta:
            raise ValueError(f"tensor {name} has no values (it is on the meta device); load the model's weights first")
    missing = sorted(set(expected) - set(tensors))
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"tensor {missing[0]}{more} is missing; give the whole model, or map one of its tensors to it")


def _nearest(name: str, expected: Iterable[str]) -> str:
    import difflib
    close = difflib.get_close_matches(name, list(expected), 1)
    return f" (the nearest is {close[0]})" if close else ""


# ---- The folder ----

def _shards(tensors: Mapping[str, Tuple[str, Tensor]]) -> List[Dict[str, Tensor]]:
    shards: List[Dict[str, Tensor]] = [{}]
    room = _SHARD_BYTES
    for name, (_, tensor) in tensors.items():
        n_bytes = tensor.numel() * tensor.element_size()
        if shards[-1] and n_bytes > room:
            shards.append({})
            room = _SHARD_BYTES
        shards[-1][name] = tensor
        room -= n_bytes
    return shards


def _write_tensors(folder: Path, tensors: Mapping[str, Tuple[str, Tensor]], n_bytes: int,
                   progress: Optional[Callable[[int, int], Any]]) -> None:
    """In files of about a gigabyte, so that no more than that is copied at a time."""
    from safetensors.torch import save_file
    shards = _shards(tensors)
    index: Dict[str, str] = {}
    done = 0
    for at, shard in enumerate(shards):
        file = "model.safetensors" if len(shards) == 1 else f"model-{at + 1:05}-of-{len(shards):05}.safetensors"
        # A copy: tensors of one storage are refused, and those of a GPU are read here anyway.
        save_file({name: tensor.cpu().contiguous().clone() for name, tensor in shard.items()}, str(folder / file))
        index.update({name: file for name in shard})
        done += sum(t.numel() * t.element_size() for t in shard.values())
        if progress is not None:
            progress(done, 2 * n_bytes)
    if len(shards) > 1:
        whole = {"metadata": {"total_size": n_bytes}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(whole), encoding="utf-8")


def _second_half(progress: Optional[Callable[[int, int], Any]], n_bytes: int) -> Optional[Callable[[int, int], Any]]:
    if progress is None:
        return None
    return lambda done, total: progress(n_bytes + n_bytes * done // max(total, 1), 2 * n_bytes)


def _write_tokenizer(folder: Path, tokenizer: Any) -> None:
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(str(folder))
        return
    source = Path(tokenizer)
    found = [source] if source.is_file() else [source / name for name in (
        "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
        if (source / name).exists()]
    if not found:
        raise ValueError(f"{source} has no tokenizer.json; name a folder that has one, or give a tokenizer of the "
                         "transformers package")
    for file in found:
        shutil.copy(file, folder / file.name)
