"""Submodel: a view of a model's weights."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Dict, List, NamedTuple, Optional, Sequence, Union

import numpy as np
import numpy.typing as npt

from . import _abi
from ._abi import Status, SubmodelInfo
from ._errors import make_exception, new_error
from ._handles import Closable, Handle, Tokens, fill
from ._library import lib

if TYPE_CHECKING:  # which import this module
    from ._executor import Executor
    from ._model import Model
    from ._score import Score


class Layer(NamedTuple):
    """What a view uses of one layer: units of the feed-forward part, query heads, and whether it runs at all."""

    ffn: int
    heads: int
    kept: bool


def _numbers(values: Optional[Sequence[int]]) -> "npt.NDArray[np.uint32]":
    return np.ascontiguousarray(() if values is None else values, dtype=np.uint32)


class Submodel(Closable):
    """A view of a model: per layer a width, a head count, and whether it is used. It holds no weights, costs under a
    microsecond of the library's time, and never changes; share it freely.

    text         the text form: "M", "0.5", "ffn=1024x4,512x4", "heads=4x8", "skip=3,5-7", "params<=3.2e9", or several
                 of them separated by ';'. Or, instead of it:
    granularity  a name of the file's
    ratio        0 < ratio <= 1: this share of d_ff in every layer, rounded up to the quantum
    ffn, heads   widths and query heads of every layer, or of every kept one
    skip         layers to leave out
    max_params, max_bytes, max_flops, max_ms
                 budgets: the best configuration of the file's stored plan that fits

    Without any of these, the widest that is loaded. Raises WidthError, NotFoundError, UnsupportedError.
    """

    _kind = "submodel"

    def __init__(self, model: Model, text: Optional[str] = None, *, granularity: Optional[str] = None,
                 ratio: float = 0, ffn: Optional[Sequence[int]] = None, heads: Optional[Sequence[int]] = None,
                 skip: Optional[Sequence[int]] = None, max_params: int = 0, max_bytes: int = 0, max_flops: int = 0,
                 max_ms: float = 0) -> None:
        widths, head_counts, skipped = _numbers(ffn), _numbers(heads), _numbers(skip)
        spec = _abi.mf_submodel_spec(
            struct_size=ctypes.sizeof(_abi.mf_submodel_spec), text=text.encode() if text is not None else None,
            granularity=granularity.encode() if granularity is not None else None, ratio=ratio,
            ffn=widths.ctypes.data if ffn is not None else None, n_ffn=widths.size,
            heads=head_counts.ctypes.data if heads is not None else None, n_heads=head_counts.size,
            skip=skipped.ctypes.data if skip is not None else None, n_skip=skipped.size, max_params=int(max_params),
            max_bytes=int(max_bytes), max_flops=int(max_flops), max_ms=max_ms)
        self._take(model._live(), spec)

    def _take(self, parent: Handle, spec: _abi.mf_submodel_spec) -> None:
        address, error = ctypes.c_void_p(), new_error()
        status = lib.mf_extract_submodel(ctypes.byref(address), parent, spec, error)
        if status != Status.OK:
            raise make_exception(status, error, "taking a submodel")
        self._handle = Handle(address, lib.mf_submodel_close, parent)

    @property
    def info(self) -> SubmodelInfo:
        """What it costs: the fields of mf_submodel_info."""
        handle = self._live()
        return SubmodelInfo.read(fill(_abi.mf_submodel_info, lambda values: lib.mf_submodel_info_get(handle, values),
                                      "submodel information"))

    @property
    def layers(self) -> List[Layer]:
        """Every layer of the model, as this view uses it."""
        handle = self._live()
        layers: List[Layer] = []
        ffn, heads, kept = ctypes.c_uint32(), ctypes.c_uint32(), ctypes.c_int()
        while lib.mf_submodel_layer(handle, len(layers), ctypes.byref(ffn), ctypes.byref(heads),
                                    ctypes.byref(kept)) == Status.OK:
            layers.append(Layer(ffn.value, heads.value, bool(kept.value)))
        return layers

    @property
    def text(self) -> str:
        """The text form, which gives the same view again."""
        handle, needed = self._live(), ctypes.c_size_t()
        lib.mf_submodel_text(handle, None, 0, ctypes.byref(needed))
        text = ctypes.create_string_buffer(needed.value)
        status = lib.mf_submodel_text(handle, text, len(text), None)
        if status != Status.OK:
            raise make_exception(status, what="submodel text")
        return text.value.decode("utf-8", "replace")

    def score(self, tokens: Tokens, n_context: int = 1, *, chunk: int = 256,
              executor: Optional[Executor] = None) -> Score:
        """How likely a text is under this view: the log-probability of each of tokens[n_context:], and whether it was
        the likeliest. A text of any length is run once, from an empty timeline.

        tokens     [n], from the one on that begins a text
        n_context  so many tokens are given, 1 to n
        chunk      rows whose logits are in memory at once, which takes 4 * n_vocab bytes each
        executor   what it runs on; None: one of its own, whose threads take longer to start than a short text to run

        The sum is the same for any chunk and executor. Ctrl-C ends it. Raises NotResidentError, UnsupportedError.
        """
        from ._score import score  # which needs sessions, and they this module
        return score(self, tokens, n_context, chunk, executor)

    def __repr__(self) -> str:
        return "<matformer.Submodel, closed>" if self.closed else f"<matformer.Submodel {self.text}>"


class Views:
    """Views as calls are given them: a Submodel, a text form, which is taken once, or None for the widest."""

    _MOST = 256

    def __init__(self, model: Handle) -> None:
        self._model = model
        self._taken: Dict[Optional[str], Submodel] = {}

    def get(self, submodel: Union[Submodel, str, None]) -> Submodel:
        if isinstance(submodel, Submodel):
            return submodel
        view = self._taken.get(submodel)
        if view is None or view.closed:
            if len(self._taken) >= self._MOST:
                self._taken.clear()
            view = Submodel.__new__(Submodel)
            view._take(self._model, _abi.mf_submodel_spec(
                struct_size=ctypes.sizeof(_abi.mf_submodel_spec), text=submodel.encode() if submodel else None))
            self._taken[submodel] = view
        return view
