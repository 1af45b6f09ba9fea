"""Trains a tiny nested language model and a tiny nested ViT in PyTorch, saves both as .mf files, and asks the C library for
their logits at five widths. A minute on one core; cells for editors that run them.

    pip install matformer[torch]
    python examples/python/train_nested.py [FOLDER]      the files stay in FOLDER
"""

# %% What is needed
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import matformer
from matformer.torch import (LMConfig, NestedLM, NestedViT, ViTConfig, cross_entropy, distill_loss, joint_backward,
                             sampled_loss, save, view)

torch.manual_seed(0)
torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parents[2]
keep = tempfile.TemporaryDirectory()
folder = Path(sys.argv[1] if len(sys.argv) > 1 else keep.name)
TOLERANCE = 1e-4  # of the largest logit

# %% A language model of bytes, whose FFN and heads nest
text = np.frombuffer((ROOT / "test" / "data" / "story.txt").read_bytes(), np.uint8)
config = LMConfig(n_vocab=256, d_model=64, n_layer=3, n_head=4, n_kv_head=2, d_head=32, d_ff=256, max_positions=64)
lm = NestedLM(config, {"S": {"ffn": 32, "heads": 2}, "M": {"ffn": 64, "heads": 2}, "L": 0.5, "XL": 1.0})
optimizer = torch.optim.AdamW(lm.parameters(), 3e-3)


def windows(n, length=64):
    at = np.random.default_rng(n).integers(0, len(text) - length - 1, 8)
    rows = torch.from_numpy(np.stack([text[i:i + length + 1] for i in at]).astype(np.int64))
    return rows[:, :-1], rows[:, 1:]


def losses(model, batch):
    with torch.no_grad():
        return {name: round(float(cross_entropy(model(batch[0], view=name), batch[1])), 3) for name in model.nesting.names}


before = losses(lm, windows(10_000))
for step in range(120):
    optimizer.zero_grad()
    if step < 80:
        sampled_loss(lm, *windows(step), step=step).backward()   # one width a step
    else:
        distill_loss(lm, *windows(step), alpha=0.5).backward()   # and the narrow ones learn from the widest
    optimizer.step()
after = losses(lm, windows(10_000))
print("language model, nats a byte:", before, "->", after)
assert all(after[name] < before[name] - 1 for name in after), "it has not learned"

# %% Images in four classes: too much red, green or blue, or none
vit = NestedViT(ViTConfig(image_size=16, patch_size=4, d_model=64, n_layer=3, n_head=4, d_ff=256, n_class=4),
                {"S": {"ffn": 32, "heads": 2}, "M": 64, "L": 0.5, "XL": 1.0})
optimizer = torch.optim.AdamW(vit.parameters(), 3e-3)


def images(seed, n=16):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    pixels = rng.normal(0, 1, (n, 3, 16, 16)).astype(np.float32)
    for image, label in zip(pixels, labels):
        image[label:label + 1] += 1   # of class 3 none
    return torch.from_numpy(pixels), torch.from_numpy(labels)


for step in range(80):
    optimizer.zero_grad()
    joint_backward(vit, *images(step))   # all widths on one batch
    optimizer.step()
pixels, labels = images(10_000, 64)
with torch.no_grad():
    accuracy = {name: float((vit(pixels, view=name).argmax(-1) == labels).float().mean()) for name in vit.nesting.names}
print("ViT, accuracy:", accuracy)
assert min(accuracy.values()) > 0.8, "it has not learned"

# %% The same models in C
save(lm, folder / "lm.mf")
save(vit, folder / "vit.mf")
WIDTHS = ("S", "M", "L", "XL", "ffn=32,256,96;heads=4,2,4")   # the last has a width and a head count for each layer


def compare(what, name, ours, theirs):
    difference = float(np.abs(ours - theirs.numpy()).max() / np.abs(theirs.numpy()).max())
    print(f"{what} {name}: logits differ by {difference:.1e}")
    assert difference < TOLERANCE, "C and PyTorch do not agree"


with matformer.open(folder / "lm.mf") as model, torch.no_grad():
    tokens = windows(20_000)[0][0]
    for name in WIDTHS:
        logits = matformer.Session(model).forward(tokens.numpy().astype(np.int32), name, logits="all").logits
        with view(lm, name):
            compare("language model", name, logits, lm(tokens[None])[0])

with matformer.open(folder / "vit.mf") as model, torch.no_grad():
    session = matformer.Session(model)
    for name in WIDTHS:
        request = matformer.Request(session, name, pixels=pixels[0].numpy())
        compare("ViT", name, session.executor.forward([request])[0].logits, vit(pixels[:1], view=name)[0])
