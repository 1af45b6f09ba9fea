"""Session: one timeline."""

from __future__ import annotations

import ctypes
import os
from typing import Iterable, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from . import _abi
from ._abi import CacheType, ModelInfo, Status
from ._errors import make_exception, new_error
from ._executor import Executor, Request, Result
from ._generation import Generation
from ._handles import Closable, Handle, InUse, Tokens, as_enum, memory_at
from ._library import lib
from ._model import Model, Submodel, Views
from ._sampler import Sampler

View = Union[Submodel, str, None]


class Session(Closable):
    """The tokens so far and their keys and values. One thread at a time, but for cancel(); BusyError otherwise.

    max_positions  0: the model's
    cache_type     "f32", "bf16" or "q8": what keys and values are stored in
    executor       what it runs on; None: one of its own, made when it is first needed. Sessions that take turns on one
                   thread can share an executor; those of several threads need one each

    Raises OutOfMemoryError.
    """

    _kind = "session"
    _views: Views
    _info: ModelInfo

    def __init__(self, model: Model, *, max_positions: int = 0, cache_type: Union[CacheType, str] = CacheType.F32,
                 executor: Optional[Executor] = None) -> None:
        self._create(model._live(), model._views, model.info, max_positions, as_enum(CacheType, cache_type), executor)

    @classmethod
    def _of(cls, model: Handle, views: Views, info: ModelInfo, *, max_positions: int,
            executor: Optional[Executor]) -> Session:
        """Where there is a model, but no Model."""
        session = cls.__new__(cls)
        session._create(model, views, info, max_positions, CacheType.F32, executor)
        return session

    def _create(self, parent: Handle, views: Views, info: ModelInfo, max_positions: int, cache_type: CacheType,
                executor: Optional[Executor]) -> None:
        options = _abi.mf_session_options(struct_size=ctypes.sizeof(_abi.mf_session_options),
                                          max_positions=max_positions, cache_type=cache_type)
        address, error = ctypes.c_void_p(), new_error()
        status = lib.mf_session_create(ctypes.byref(address), parent, options, error)
        if status != Status.OK:
            raise make_exception(status, error, "making a session")
        self._set(Handle(address, lib.mf_session_close, parent), views, info, executor)

    def _set(self, handle: Handle, views: Views, info: ModelInfo, executor: Optional[Executor]) -> None:
        self._handle = handle
        self._in_use = InUse("session")
        self._views = views
        self._info = info
        self._executor = executor
        self._cancel_is_left = False

    # ---- The timeline ----

    @property
    def position(self) -> int:
        """Positions that are filled; the next token gets this position."""
        handle = self._live()
        with self._in_use:
            return lib.mf_session_position(handle)

    @property
    def tokens(self) -> "npt.NDArray[np.int32]":
        """[position] the tokens so far, a copy; -1 where an embedding row was given."""
        handle = self._live()
        with self._in_use:
            n, address = lib.mf_session_position(handle), lib.mf_session_tokens(handle)
            if n == 0 or address is None:
                return np.empty(0, dtype=np.int32)
            return memory_at(address, n, ctypes.c_int32).copy()

    def rewind(self, position: int = 0) -> None:
        """Forgets all positions from `position` on. OutOfRangeError if it is ahead."""
        handle = self._live()
        if position < 0:
            raise ValueError(f"position {position} is negative")
        with self._in_use:
            status = lib.mf_session_rewind(handle, position)
        if status != Status.OK:
            raise make_exception(status, what=f"rewinding to position {position}")

    def fork(self) -> Session:
        """A second timeline with the same past, on the same executor. Memory is shared until one side writes to it."""
        handle, address, error = self._live(), ctypes.c_void_p(), new_error()
        with self._in_use:
            status = lib.mf_session_fork(ctypes.byref(address), handle, error)
        if status != Status.OK:
            raise make_exception(status, error, "forking the session")
        child = Session.__new__(Session)
        child._set(Handle(address, lib.mf_session_close, handle.keep), self._views, self._info, self._executor)
        return child

    def save(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Writes the timeline to a file: to a temporary name, then renamed. Raises InputOutputError."""
        handle, error, name = self._live(), new_error(), os.fsencode(path)
        with self._in_use:
            status = lib.mf_session_save(handle, name, error)
        if status != Status.OK:
            raise make_exception(status, error, "saving the session", name)

    def load(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """Reads a timeline that a session of the same model saved; what was here is replaced on success only. Raises
        MissingFileError, FormatError."""
        handle, error, name = self._live(), new_error(), os.fsencode(path)
        with self._in_use:
            status = lib.mf_session_load(handle, name, error)
        if status != Status.OK:
            raise make_exception(status, error, "loading the session", name)

    def cancel(self) -> None:
        """Stops the forward or generation in progress, or else the next one, which raises CancelledError; the session is
        as it was before the request that it stops. From any thread."""
        lib.mf_session_cancel(self._live())

    def _take_back_cancel(self, executor: Handle, view: Submodel) -> None:
        """Ctrl-C told the session to stop, when what was to stop had just ended: the next forward would obey. A token
        that is not kept takes it back. The caller has the session and the executor."""
        if not self._cancel_is_left:
            return
        handle, token = self._live(), ctypes.c_int32(0)
        position = lib.mf_session_position(handle)
        request = _abi.mf_request(handle.address, view._live().address, ctypes.addressof(token), 1,
                                  logits_of=_abi.Logits.NONE)
        if lib.mf_forward(executor, ctypes.byref(request), 1, ctypes.sizeof(request), None) == Status.OK:
            lib.mf_session_rewind(handle, position)
        self._cancel_is_left = False

    # ---- Running ----

    @property
    def executor(self) -> Executor:
        """What it runs on."""
        if self._executor is None:
            executor = Executor.__new__(Executor)
            executor._create(self._live().keep, None)
            self._executor = executor
        return self._executor

    def forward(self, tokens: Optional[Tokens] = None, submodel: View = None, *,
                embeddings: Optional["npt.NDArray[np.float32]"] = None,
                pixels: Optional["npt.NDArray[np.float32]"] = None, logits: str = "last", hidden: str = "none",
                pooled: bool = False, out: Optional["npt.NDArray[np.float32]"] = None) -> Result:
        """Appends tokens to the timeline, and returns what comes out of the last or all of them: a Request of its own
        (which see) as a batch of one. Raises what went wrong; the session is then as it was."""
        request = Request(self, submodel, tokens, embeddings, pixels, logits, hidden, pooled, out)
        return self.executor.forward([request])[0]

    def generate(self, prompt: Union[str, Tokens, None] = None, submodel: View = None, *, max_tokens: int = 128,
                 sampler: Optional[Sampler] = None, stop: Union[str, Iterable[str]] = (), n_top: int = 0,
                 schedule: Sequence[Tuple[int, View]] = (), ignore_eos: bool = False, draft: View = None,
                 draft_tokens: int = 0, fallback: View = None) -> Generation:
        """Runs a prompt and then a token at a time. Returns an iterator of Events that begins at once.

            for event in session.generate("Once upon a time", "M"):
                print(event.text, end="", flush=True)

        prompt      text, or tokens [n]; None: go on where the session stands, or from the model's token that begins a text
        submodel    a Submodel, a text form such as "M", or None for the widest
        max_tokens  at most so many new ones
        sampler     None: greedy
        stop        texts that end the generation and are not shown
        n_top       log-probabilities of so many top tokens with each event, at most 64
        schedule    (position, submodel) ascending: from that position of the timeline on, that view
        ignore_eos  goes on after the end of a text
        draft       a narrower submodel that writes ahead, for the other to verify several tokens at once; the same text
        draft_tokens  so many at once, at most 16; 0: as many as pay
        fallback    writes on while the shells of the submodel are trimmed away

        What goes wrong is raised by the iterator. The session, its executor and the sampler are in use until it has
        ended or was closed; where the loop is left early, the session holds the prompt and the tokens of the events
        that were taken, no others. Ctrl-C ends it likewise.
        """
        steps = [(position, self._views.get(view)) for position, view in schedule]
        return Generation(self, self.executor, self._views.get(submodel), prompt, max_tokens, sampler,
                          (stop,) if isinstance(stop, str) else tuple(stop), n_top, steps, ignore_eos,
                          None if draft is None else self._views.get(draft), draft_tokens,
                          None if fallback is None else self._views.get(fallback))

    def __repr__(self) -> str:
        return "<matformer.Session, closed>" if self.closed else f"<matformer.Session of {self._info.family}>"
