"""Widths: a View says how wide each layer is, a Nesting which views a model was trained for."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

QUANTUM = 32  # widths, and heads * d_head, are multiples of it
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")

Spec = Union["View", str, int, float, Sequence[int], Mapping[str, Any]]
"""A granularity's name ("M"), the text form of the library ("0.5", "ffn=512x4,1024x4;heads=4x8"), a ratio (a float), one
width for all layers (an int), a width for each (a sequence), a mapping with "ffn" and "heads" of these, or a View."""


@dataclass(frozen=True)
class View:
    """A width and a number of query heads for every layer."""

    ffn: Tuple[int, ...]
    heads: Tuple[int, ...]
    name: Optional[str] = None

    @property
    def text(self) -> str:
        """The text form, which matformer.Submodel takes."""
        return f"ffn={_runs(self.ffn)};heads={_runs(self.heads)}"


def _runs(values: Sequence[int]) -> str:
    runs: List[List[int]] = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return ",".join(f"{value}x{count}" for value, count in runs)


def _read_runs(text: str, field: str) -> Tuple[int, ...]:
    values: List[int] = []
    for run in text.split(","):
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", run)
        if not match:
            raise ValueError(f'"{field}" in the view\'s text: expected a number, or a number "x" a count')
        values += [int(match[1])] * int(match[2] or 1)
    return tuple(values)


def _share(ratio: float, widths: Sequence[int]) -> Tuple[int, ...]:
    """Of every layer's width, rounded up to the quantum, as the library does."""
    if not 0 < ratio <= 1:
        raise ValueError(f"the ratio {ratio} is not in (0, 1]")
    return tuple(width if ratio == 1 else int(-(-(ratio * width / QUANTUM - 1e-9) // 1)) * QUANTUM for width in widths)


@dataclass(frozen=True)
class Nesting:
    """The granularities of a model, narrowest first; the last is the whole of it."""

    granularities: Tuple[View, ...]
    d_head: Tuple[int, ...] = ()  # of every layer whose attention is nested

    @classmethod
    def of(cls, granularities: Optional[Mapping[str, Spec]], ffn: Sequence[int], heads: Sequence[int],
           d_head: Sequence[int] = ()) -> "Nesting":
        """`granularities` maps names to views, narrowest first; None: an eighth, a quarter, a half and the whole of the
        FFN, "S", "M", "L" and "XL" (Devvrit et al., section 3.1)."""
        full = cls((View(tuple(ffn), tuple(heads), None),), tuple(d_head))
        specs: Mapping[str, Spec] = granularities or {"S": 0.125, "M": 0.25, "L": 0.5, "XL": 1.0}
        views = []
        for name, spec in specs.items():
            if not _NAME.fullmatch(name):
                raise ValueError(f"the granularity's name {name!r} must be a letter and up to 14 letters, digits, '_', "
                                 "'-' or '.'")
            try:
                view = full.view(spec)
            except ValueError as error:
                raise ValueError(f"granularity {name}: {error}") from None
            views.append(View(view.ffn, view.heads, name))
        _check_nested(views, full.widest)
        return cls(tuple(views), tuple(d_head))

    @property
    def widest(self) -> View:
        return self.granularities[-1]

    @property
    def names(self) -> Tuple[str, ...]:
        return tuple(view.name or "" for view in self.granularities)

    def view(self, spec: Spec) -> View:
        """The view that `spec` is. ValueError: the model does not have it."""
        view = self._read(spec)
        _check_list("ffn", view.ffn, self.widest.ffn)
        _check_list("heads", view.heads, self.widest.heads)
        for layer, width in enumerate(view.ffn):
            if width % QUANTUM and width != self.widest.ffn[layer]:
                raise ValueError(f"layer {layer}: the width {width} is no multiple of {QUANTUM}; "
                                 f"{-(-width // QUANTUM) * QUANTUM} is")
        for layer, (heads, d_head) in enumerate(zip(view.heads, self.d_head)):
            if heads * d_head % QUANTUM and heads != self.widest.heads[layer]:
                raise ValueError(f"layer {layer}: {heads} heads of {d_head} are no multiple of {QUANTUM}; take another "
                                 "number of heads")
        return view

    def _read(self, spec: Spec) -> View:
        full = self.widest
        if isinstance(spec, View):
            return spec
        if isinstance(spec, str):
            return self._read_text(spec)
        if isinstance(spec, Mapping):
            unknown = set(spec) - {"ffn", "heads"}
            if unknown:
                raise ValueError(f'a view has "ffn" and "heads", not {sorted(unknown)}')
            return View(self._widths(spec.get("ffn", 1.0), full.ffn), self._widths(spec.get("heads"), full.heads))
        return View(self._widths(spec, full.ffn), full.heads)

    @staticmethod
    def _widths(value: Any, full: Tuple[int, ...]) -> Tuple[int, ...]:
        if value is None:
            return full
        if isinstance(value, bool):
            raise ValueError(f"{value} is no width")
        if isinstance(value, float):
            return _share(value, full)
        if isinstance(value, int):
            return (value,) * len(full)
        return tuple(int(width) for width in value)

    def _read_text(self, text: str) -> View:
        for view in self.granularities:
            if view.name == text:
                return view
        base, ffn, heads = self.widest, None, None
        for at, field in enumerate(re.split(r"[;\s]+", text.strip())):
            key, equals, value = field.partition("=")
            if equals and key == "ffn":
                ffn = _read_runs(value, field)
            elif equals and key == "heads":
                heads = _read_runs(value, field)
            elif not equals and at == 0 and field in self.names:
                base = self.granularities[self.names.index(field)]
            elif not equals and at == 0 and re.fullmatch(r"\d*\.?\d+", field):
                base = View(_share(float(field), self.widest.ffn), self.widest.heads)
            else:
                raise ValueError(f"{field!r} in the view's text is none of the granularities "
                                 f"{', '.join(filter(None, self.names)) or '(none)'}, and neither a ratio, ffn= nor "
                                 "heads=")
        return View(ffn or base.ffn, heads or base.heads)


def _check_list(what: str, values: Sequence[int], full: Sequence[int]) -> None:
    if len(values) != len(full):
        raise ValueError(f"{what} has {len(values)} entries, and the model {len(full)} layers; give one for each")
    for layer, (value, most) in enumerate(zip(values, full)):
        if not 1 <= value <= most:
            raise ValueError(f"layer {layer}: {what} is {value}, and must be from 1 to {most}")


def _check_nested(views: Sequence[View], full: View) -> None:
    if (views[-1].ffn, views[-1].heads) != (full.ffn, full.heads):
        raise ValueError(f"the last granularity, {views[-1].name}, is not the whole model; add one with the ratio 1.0")
    for narrow, wide in zip(views, views[1:]):
        for what in ("ffn", "heads"):
            for layer, (less, more) in enumerate(zip(getattr(narrow, what), getattr(wide, what))):
                if less > more:
                    raise ValueError(f"granularity {narrow.name}, layer {layer}: {what} is {less}, and only {more} in "
                                     f"{wide.name}; name the narrowest first")


# ---- Choosing ----

def unwrap(model: Any) -> Any:
    """The model inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in ("DistributedDataParallel", "DataParallel"):
            inner = model.module
        if inner is None:
            return model
        model = inner


def nesting_of(model: Any) -> Nesting:
    found = getattr(unwrap(model), "nesting", None)
    if not isinstance(found, Nesting):
        raise ValueError(f"{type(unwrap(model)).__name__} is not nested; give it to matformer.torch.nested() first")
    return found


def select(model: Any, spec: Spec) -> View:
    """Makes `model` as wide as `spec` says from now on; returns the view."""
    inner = unwrap(model)
    chosen = nesting_of(inner).view(spec)
    ffns, attentions = nested_layers(inner)
    for ffn, width in zip(ffns, chosen.ffn):
        ffn.width = width
    for attention, heads in zip(attentions, chosen.heads):
        attention.heads = heads
    return chosen


def nested_layers(model: Any) -> Tuple[List[Any], List[Any]]:
    """Its NestedFFNs and NestedAttentions, in the order of its layers."""
    from ._modules import NestedAttention, NestedFFN
    modules = list(model.modules())
    return ([m for m in modules if isinstance(m, NestedFFN)], [m for m in modules if isinstance(m, NestedAttention)])


@contextmanager
def view(model: Any, spec: Spec) -> Iterator[View]:
    """Inside the block `model`, which may be wrapped for DDP or compiled, is as wide as `spec` says:

        with view(model, "M"):
            loss = cross_entropy(model(x), y)

    Backward may run afterwards. One thread at a time: the width is the modules' own."""
    ffns, attentions = nested_layers(unwrap(model))
    widths, heads = [m.width for m in ffns], [m.heads for m in attentions]
    try:
        yield select(model, spec)
    finally:
        for ffn, width in zip(ffns, widths):
            ffn.width = width
        for attention, n in zip(attentions, heads):
            attention.heads = n
