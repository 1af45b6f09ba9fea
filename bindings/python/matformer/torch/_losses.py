"""Objectives of nested models, as plain functions of (model, inputs, targets).

`model` is nested, and may be compiled or wrapped in DistributedDataParallel. It is called with `inputs`; its logits are
what it returns, or the attribute `logits` of that. `loss(logits, targets)` is cross entropy over all positions unless
another is given. For a language model: inputs tokens[:, :-1], targets tokens[:, 1:].

Under DistributedDataParallel all ranks must choose the same width in a step, so that none waits for another: what is drawn
depends on (seed, step) alone, and is the same on all of them. No parameter is ever unused, since slices are of whole
parameters: find_unused_parameters may stay False.
"""

# mypy: disable-error-code="import-not-found, unused-ignore"
# PyTorch may be missing where types are checked.

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional

from ._views import Spec, nesting_of, view

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean over all positions whose target is not -100, in f32."""
    return functional.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())


def logits_of(output: Any) -> Tensor:
    found: Tensor = getattr(output, "logits", output)
    return found


def sample_granularity(model: Any, *, step: int, seed: int = 0,
                       probabilities: Optional[Sequence[float]] = None) -> str:
    """The name of the granularity of a step: i ~ p, uniform where no probabilities are given (narrowest first). The same
    (seed, step) give the same one, on every rank and after a restart."""
    names = nesting_of(model).names
    if probabilities is not None and len(probabilities) != len(names):
        raise ValueError(f"{len(probabilities)} probabilities for {len(names)} granularities, {', '.join(names)}; give one "
                         "for each")
    return random.Random(f"{seed} {step}").choices(names, probabilities)[0]


def sampled_loss(model: Any, inputs: Tensor, targets: Tensor, *, step: int, seed: int = 0,
                 probabilities: Optional[Sequence[float]] = None, loss: Loss = cross_entropy) -> Tensor:
    """L(M_i(x), y) of one granularity i ~ p: the objective of Devvrit et al., section 3.2. Over many steps its gradient is
    that of the joint objective with the weights p."""
    with view(model, sample_granularity(model, step=step, seed=seed, probabilities=probabilities)):
        return loss(logits_of(model(inputs)), targets)


def _weighted(model: Any, views: Optional[Sequence[Spec]],
              weights: Optional[Sequence[float]]) -> List[Tuple[Spec, float]]:
    chosen: List[Spec] = list(nesting_of(model).names if views is None else views)
    if weights is not None and len(weights) != len(chosen):
        raise ValueError(f"{len(weights)} weights for {len(chosen)} views; give one for each")
    return list(zip(chosen, weights or [1.0] * len(chosen)))


def joint_loss(model: Any, inputs: Tensor, targets: Tensor, *, views: Optional[Sequence[Spec]] = None,
               weights: Optional[Sequence[float]] = None, loss: Loss = cross_entropy) -> Tensor:
    """sum_i w_i L(M_i(x), y) over all granularities, or over `views`: what both published implementations of MatFormer
    minimize, with all weights 1. The activations of all views are kept until backward; joint_backward() keeps those of
    one."""
    total: Optional[Tensor] = None
    for spec, weight in _weighted(model, views, weights):
        with view(model, spec):
            term = weight * loss(logits_of(model(inputs)), targets)
        total = term if total is None else total + term
    assert total is not None
    return total


def joint_backward(model: Any, inputs: Tensor, targets: Tensor, *, views: Optional[Sequence[Spec]] = None,
                   weights: Optional[Sequence[float]] = None, loss: Loss = cross_entropy,
                   backward: Callable[[Tensor], Any] = torch.Tensor.backward) -> Tensor:
    """joint_loss() and its gradients, one view after another: backward() of each term follows its forward. Under
    DistributedDataParallel gradients are exchanged once, with the last. `backward` for a gradient scaler's. Returns the
    joint loss, without a graph."""
    pairs = _weighted(model, views, weights)
    terms = []
    for at, (spec, weight) in enumerate(pairs):
        quiet = getattr(model, "no_sync", None) if at + 1 < len(pairs) else None
        with quiet() if quiet else nullcontext(), view(model, spec):
            term = weight * loss(logits_of(model(inputs)), targets)
            backward(term)
        terms.append(term.detach())
    return torch.stack(terms).sum()


def kl_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(teacher || student) of the distributions at temperature T, the mean over all positions, in f32 (Hinton et
    al., 2015)."""
    student = functional.log_softmax(logits.flatten(0, -2).float() / temperature, dim=-1)
    teacher = functional.log_softmax(teacher_logits.flatten(0, -2).float() / temperature, dim=-1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature ** 2


def distill_loss(model: Any, inputs: Tensor, targets: Optional[Tensor] = None, *,
                 views: Optional[Sequence[Spec]] = None, teacher: Optional[Spec] = None, alpha: float = 0.5,
                 temperature: float = 1.0, train_teacher: bool = True, loss: Loss = cross_entropy) -> Tensor:
    """The narrow views learn from the widest one, in the same model:

        L(M_g(x), y) + mean_i [ (1 - alpha) L(M_i(x), y) + alpha T^2 KL(M_g(x) || M_i(x)) ]

    M_g is the `teacher`, the widest where none is given; no gradient flows to it from the KL term. `views`: the students,
    all other granularities where none are given; draw one a step with sample_granularity() for the sampled form.

    targets        may be None with alpha 1 and train_teacher False: texts without labels
    train_teacher  False: the first term is left out
    """
    if targets is None and (train_teacher or alpha < 1):
        raise ValueError("targets are None: give them, or alpha=1 and train_teacher=False")
    nesting = nesting_of(model)
    wide: Spec = nesting.widest if teacher is None else teacher
    students: List[Spec] = list(nesting.names[:-1]) if views is None else list(views)
    if not students:
        raise ValueError("there is no view narrower than the teacher; give the model more granularities, or views")
    with view(model, wide), nullcontext() if train_teacher else torch.no_grad():
        teacher_logits = logits_of(model(inputs))
    total = loss(teacher_logits, targets) if train_teacher and targets is not None else teacher_logits.new_zeros(())
    for spec in students:
        with view(model, spec):
            logits = logits_of(model(inputs))
        term = alpha * kl_divergence(logits, teacher_logits.detach(), temperature)
        if targets is not None and alpha < 1:
            term = term + (1 - alpha) * loss(logits, targets)
        total = total + term / len(students)
    return total
