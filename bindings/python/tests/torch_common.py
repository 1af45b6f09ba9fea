"""What the tests of matformer.torch share. Importing it raises SkipTest where PyTorch is missing."""

import importlib.util
import unittest

if not importlib.util.find_spec("torch"):
    raise unittest.SkipTest("PyTorch is not installed: pip install matformer[torch]")

import numpy as np
import torch

import matformer
from matformer.torch import LMConfig, NestedLM, NestedViT, ViTConfig

torch.set_num_threads(1)
HAS_TRANSFORMERS = importlib.util.find_spec("transformers") is not None
needs_transformers = unittest.skipUnless(HAS_TRANSFORMERS, "transformers is not installed: pip install transformers")
HAS_SAFETENSORS = importlib.util.find_spec("safetensors") is not None
needs_safetensors = unittest.skipUnless(HAS_SAFETENSORS, "safetensors is not installed: pip install safetensors")

LM = LMConfig(n_vocab=96, d_model=64, n_layer=3, n_head=4, n_kv_head=2, d_head=32, d_ff=256, max_positions=64)
VIT = ViTConfig(image_size=16, patch_size=4, d_model=64, n_layer=3, n_head=4, d_ff=256, n_class=10)
NESTED_HEADS = {"S": {"ffn": 32, "heads": 2}, "M": {"ffn": 64, "heads": 3}, "L": 0.5, "XL": 1.0}
VIT_HEADS = {"S": {"ffn": 32, "heads": 2}, "M": 64, "L": 0.5, "XL": 1.0}
# Five: the four granularities, of which two have fewer heads, and a width and a head count of its own for every layer.
FIVE = ("S", "M", "L", "XL", "ffn=32,256,96;heads=4,2,3")
VIT_FIVE = ("S", "M", "L", "XL", "ffn=32,256,96;heads=4,2,4")


def random_model(config, granularities=None, deviation=0.2, seed=1):
    """With weights large enough that widths differ, and biases that are not zeros."""
    torch.manual_seed(seed)
    model = (NestedLM if isinstance(config, LMConfig) else NestedViT)(config, granularities)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(torch.randn_like(parameter) * deviation + is_norm)
    return model


def random_tokens(n=24, batch=1, n_vocab=LM.n_vocab, seed=2):
    return torch.randint(0, n_vocab, (batch, n), generator=torch.Generator().manual_seed(seed))


def random_pixels(batch=1, seed=3):
    return torch.randn(batch, 3, VIT.image_size, VIT.image_size, generator=torch.Generator().manual_seed(seed))


def library_logits(path, inputs, view):
    """What the C library computes of one text, [positions, n_vocab], or of one image, [n_class]."""
    with matformer.open(path) as model:
        session = matformer.Session(model)
        if inputs.dtype == torch.int64:
            return session.forward(inputs.numpy().astype(np.int32), view, logits="all").logits
        request = matformer.Request(session, view, pixels=inputs.numpy())
        return session.executor.forward([request])[0].logits


def worst(ours, theirs):
    """The largest difference, relative to the largest magnitude."""
    ours, theirs = (np.asarray(torch.as_tensor(a).detach().float()) for a in (ours, theirs))
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
