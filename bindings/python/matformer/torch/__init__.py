"""Nested models in PyTorch: modules, objectives, a converter from the transformers package, and save() to a .mf file.

    from matformer.torch import LMConfig, NestedLM, sampled_loss, save

    model = NestedLM(LMConfig(n_vocab=4096, d_model=256, n_layer=6, n_head=8, d_ff=1024))
    for step, tokens in enumerate(batches):
        sampled_loss(model, tokens[:, :-1], tokens[:, 1:], step=step).backward()
        optimizer.step()
        optimizer.zero_grad()
    save(model, "model.mf")

Needs PyTorch 2.4 or newer and, for save(), safetensors: `pip install matformer[torch]`. docs/pytorch.md says what was
tested, and what was not.
"""

# mypy: disable-error-code="import-not-found, unused-ignore"
# PyTorch may be missing where types are checked.

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError("matformer.torch needs PyTorch: pip install matformer[torch]") from _error

from ._losses import (cross_entropy, distill_loss, joint_backward, joint_loss, kl_divergence, sample_granularity,
                      sampled_loss)
from ._models import LMConfig, NestedLM, NestedViT, ViTConfig
from ._modules import NestedAttention, NestedFFN, NestedLinear
from ._nested import from_transformers, nested
from ._save import save
from ._views import Nesting, View, nesting_of, select, view

__all__ = [
    "LMConfig", "NestedAttention", "NestedFFN", "NestedLM", "NestedLinear", "NestedViT", "Nesting", "View", "ViTConfig",
    "cross_entropy", "distill_loss", "from_transformers", "joint_backward", "joint_loss", "kl_divergence", "nested",
    "nesting_of", "sample_granularity", "sampled_loss", "save", "select", "view",
]
