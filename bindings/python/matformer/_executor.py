"""Executor: threads and workspace. Requests run on it as one batch, each with its own session and view."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, List, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from . import _abi
from ._abi import Logits, Status
from ._background import call_interruptibly
from ._errors import MatformerError, make_exception, new_error
from ._handles import Closable, Handle, InUse, Tokens, as_enum, as_tokens
from ._library import lib
from ._model import Model
from ._submodel import Submodel

if TYPE_CHECKING:  # which imports this module
    from ._session import Session

_FLOAT_BYTES = 4
_LONG_TOKENS = 64  # from here on a helper thread costs less than a hundredth of the call


@dataclass(eq=False)
class Request:
    """What one session computes in a batch.

    session     the tokens are appended to it
    submodel    a Submodel, a text form such as "M", or None for the widest
    tokens      [n], or one; -1 takes the next row of `embeddings`. None with embeddings: all of their rows
    embeddings  [rows, d_model] float32; no copy where a row is contiguous
    pixels      [n_channel, image_size, image_size] float32 instead, for models that take images; no copy where contiguous
    logits      for which positions: "last", "all" or "none"
    hidden      the states after the last norm: "last", "all" or "none"; with logits, for the same positions
    pooled      the pooled state of an image, of models that have a pooler
    out         the array that logits are written to, float32: [n_vocab] for "last", [n, n_vocab] for "all", with
                contiguous rows; None: a fresh one
    """

    session: Session
    submodel: Union[Submodel, str, None] = None
    tokens: Optional[Tokens] = None
    embeddings: Optional["npt.NDArray[np.float32]"] = None
    pixels: Optional["npt.NDArray[np.float32]"] = None
    logits: str = "last"
    hidden: str = "none"
    pooled: bool = False
    out: Optional["npt.NDArray[np.float32]"] = None


@dataclass(eq=False)
class Result:
    """What came of a request.

    logits   [n_vocab], or [n_token, n_vocab] of all positions; of an image [n_class]; None where not asked for
    hidden   [d_model], or [rows, d_model]
    pooled   [d_model]
    seconds  time of the batches that it was in
    error    why it failed; its session is then as it was
    """

    logits: Optional["npt.NDArray[np.float32]"]
    hidden: Optional["npt.NDArray[np.float32]"]
    pooled: Optional["npt.NDArray[np.float32]"]
    seconds: float
    error: Optional[MatformerError]


def _rows(array: "npt.NDArray[Any]", width: int, what: str) -> "npt.NDArray[np.float32]":
    """[rows, width] float32 whose rows are contiguous: the same memory where it is that already."""
    values = np.asarray(array, dtype=np.float32)
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"{what} have the shape {values.shape}, not (rows, {width})")
    strides = values.strides
    if strides[1] == _FLOAT_BYTES and strides[0] >= width * _FLOAT_BYTES and strides[0] % _FLOAT_BYTES == 0:
        return values
    return np.ascontiguousarray(values)


def _check_out(out: "npt.NDArray[Any]", shape: Tuple[int, ...]) -> "npt.NDArray[np.float32]":
    if out.dtype != np.float32 or out.shape != shape or not out.flags.writeable or not out.flags.aligned:
        raise ValueError(f"out is not a writable array of {shape} float32")
    if out.strides[-1] != _FLOAT_BYTES or (len(shape) == 2 and shape[0] > 1 and (
            out.strides[0] < shape[1] * _FLOAT_BYTES or out.strides[0] % _FLOAT_BYTES)):
        raise ValueError("the rows of out are not contiguous")
    return out


class _Prepared:
    """A request in the library's form, with what keeps its memory alive."""

    def __init__(self, request: Request, raw: _abi.mf_request) -> None:
        session = request.session
        self.session, self.request, self.raw = session, request, raw
        self.view = session._views.get(request.submodel)
        self.keep: List[Any] = [session._live(), self.view._live()]
        raw.session, raw.submodel = (handle.address for handle in self.keep)
        self.n_row = self._set_image() if request.pixels is not None else self._set_tokens()
        self.logits, self.hidden, self.pooled = self._set_outputs()

    def _set_image(self) -> int:
        info = self.session._info
        pixels = np.ascontiguousarray(self.request.pixels, dtype=np.float32)
        shape = (info.n_channel, info.image_size, info.image_size)
        if pixels.shape != shape:
            raise ValueError(f"pixels have the shape {pixels.shape}, not {shape}")
        self.keep.append(pixels)
        self.raw.pixels = pixels.ctypes.data
        return int(1 + (info.image_size // info.patch_size) ** 2) if info.patch_size else 1

    def _set_tokens(self) -> int:
        raw, embeddings, tokens = self.raw, self.request.embeddings, self.request.tokens
        if embeddings is not None:
            rows = _rows(embeddings, self.session._info.d_model, "embeddings")
            if tokens is None:
                tokens = np.full(rows.shape[0], -1, dtype=np.int32)
            # The library takes a row for every -1 and cannot know how many there are.
            if np.count_nonzero(np.asarray(tokens) == -1) != rows.shape[0]:
                raise ValueError(f"{rows.shape[0]} embedding rows for "
                                 f"{np.count_nonzero(np.asarray(tokens) == -1)} tokens of -1")
            self.keep.append(rows)
            raw.embeddings, raw.embedding_stride = rows.ctypes.data, rows.strides[0] // _FLOAT_BYTES
        if tokens is None:
            raise ValueError("a request has neither tokens nor embeddings nor pixels")
        array = as_tokens(tokens)
        self.keep.append(array)
        raw.tokens, raw.n_token = array.ctypes.data, array.size
        return int(array.size)

    def _set_outputs(self) -> Tuple[Any, Any, Any]:
        request, raw, info = self.request, self.raw, self.session._info
        of_logits, of_hidden = as_enum(Logits, request.logits), as_enum(Logits, request.hidden)
        if Logits.NONE not in (of_logits, of_hidden) and of_logits != of_hidden:
            raise ValueError(f'logits "{request.logits}" and hidden "{request.hidden}" are not of the same positions')
        raw.logits_of = of_hidden if of_logits == Logits.NONE else of_logits
        logits = hidden = pooled = None
        if of_logits != Logits.NONE and (info.n_vocab or info.n_class):
            width = info.n_vocab or info.n_class
            shape = (self.n_row, width) if of_logits == Logits.ALL and info.n_vocab else (width,)
            logits = np.empty(shape, np.float32) if request.out is None else _check_out(request.out, shape)
            stride = logits.strides[0] // _FLOAT_BYTES if logits.ndim == 2 and logits.shape[0] > 1 else width
            raw.logits, raw.logits_stride = logits.ctypes.data, stride
            raw.logits_capacity = (logits.shape[0] - 1) * stride + width if logits.ndim == 2 else width
        elif request.out is not None:
            raise ValueError("out is given, and no logits are asked for")
        if of_hidden != Logits.NONE:
            hidden = np.empty((self.n_row, info.d_model) if of_hidden == Logits.ALL else info.d_model, np.float32)
            raw.hidden, raw.hidden_capacity = hidden.ctypes.data, hidden.size
        if request.pooled:
            pooled = np.empty(info.d_model, np.float32)
            raw.pooled, raw.pooled_capacity = pooled.ctypes.data, pooled.size
        return logits, hidden, pooled

    def result(self, first_failure: MatformerError) -> Result:
        status = self.raw.status
        if status == Status.OK:
            return Result(self.logits, self.hidden, self.pooled, 1e-9 * self.raw.elapsed_ns, None)
        error = first_failure if first_failure.status == status else make_exception(status, what="forward")
        return Result(None, None, None, 1e-9 * self.raw.elapsed_ns, error)


class Executor(Closable):
    """Threads and workspace, reserved for a model. One call at a time, from any thread; BusyError otherwise.

    threads       the caller counts as one; 0: one per usable core
    max_tokens    rows computed at once, over all requests; 0: 512. Longer inputs run in pieces
    max_requests  0: 64
    spin_us       microseconds that its workers spin after a call before they sleep; 0: not at all; None: 200
    cpus          processors for the workers, in turn; None: wherever the system puts them
    """

    _kind = "executor"

    def __init__(self, model: Model, *, threads: int = 0, max_tokens: int = 0, max_requests: int = 0,
                 spin_us: Optional[int] = None, cpus: Optional[Sequence[int]] = None) -> None:
        processors = np.ascontiguousarray(() if cpus is None else cpus, dtype=np.intc)
        options = _abi.mf_executor_options(
            struct_size=ctypes.sizeof(_abi.mf_executor_options), n_thread=threads, max_tokens=max_tokens,
            max_requests=max_requests, spin_us=_abi.MF_SPIN_NONE if spin_us == 0 else spin_us or 0,
            cpus=processors.ctypes.data if cpus is not None else None, n_cpu=processors.size)
        self._create(model._live(), options)

    def _create(self, parent: Handle, options: Optional[_abi.mf_executor_options]) -> None:
        address, error = ctypes.c_void_p(), new_error()
        status = lib.mf_executor_create(ctypes.byref(address), parent, options, error)
        if status != Status.OK:
            raise make_exception(status, error, "making an executor")
        self._handle = Handle(address, lib.mf_executor_close, parent)
        self._in_use = InUse("executor")

    def forward(self, requests: Sequence[Request], *, raises: bool = True) -> List[Result]:
        """Runs all requests as one batch; each appends its tokens to its session. Results do not depend on what else is
        in the batch, on the number of threads, or on how a prompt is cut.

        A request that fails leaves its session as it was and does not disturb the others. With `raises` the first
        failure is raised when all have run, and its attribute `results` holds what this function would have returned;
        otherwise it is in that result's `error`. Ctrl-C ends it, and cancelled sessions are as they were.
        """
        handle = self._live()
        raw = (_abi.mf_request * len(requests))()
        prepared = [_Prepared(request, raw[i]) for i, request in enumerate(requests)]
        sessions = list(dict.fromkeys(p.session for p in prepared))
        acquired: List[InUse] = []
        error = new_error()
        try:
            for guard in [self._in_use, *(session._in_use for session in sessions)]:
                guard.acquire()
                acquired.append(guard)
            for p in prepared:
                p.session._take_back_cancel(handle, p.view)
            status = self._run(handle, raw, prepared, sessions, error)
        finally:
            for guard in acquired:
                guard.release()
        failure = make_exception(status, error, "forward")
        if status != Status.OK and all(p.raw.status == Status.OK for p in prepared):
            raise failure  # before anything ran
        results = [p.result(failure) for p in prepared]
        if status != Status.OK and raises:
            failure.results = results
            raise failure
        return results

    @staticmethod
    def _run(handle: Handle, raw: Any, prepared: List[_Prepared], sessions: List[Session],
             error: _abi.mf_error) -> int:
        def call() -> int:
            return lib.mf_forward(handle, raw, len(raw), ctypes.sizeof(_abi.mf_request), error)

        if sum(p.n_row for p in prepared if p.raw.pixels is None) < _LONG_TOKENS:
            return call()

        def interrupt() -> None:
            for session in sessions:
                session.cancel()

        try:
            return call_interruptibly(call, interrupt)
        except BaseException:
            for p in prepared:  # those that had ended before they were told to
                p.session._cancel_is_left = p.raw.status != Status.E_CANCELLED
            raise
