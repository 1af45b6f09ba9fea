"""Sampler: logits to a token."""

from __future__ import annotations

import ctypes
from typing import Any, Callable, List, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt

from . import _abi
from ._abi import Status
from ._background import call_interruptibly
from ._errors import make_exception, new_error
from ._handles import Closable, Handle, InUse, Tokens, as_tokens, memory_at
from ._library import lib
from ._model import Model

LogitsFilter = Callable[["npt.NDArray[np.int32]", "npt.NDArray[np.float32]"], Any]


class Candidate(NamedTuple):
    """A token and its natural logarithm of probability, of the distribution before temperature and truncation."""

    token: int
    logprob: float


class Choice(NamedTuple):
    """What a sampler chose. `top`: the most likely tokens in order, as many as were asked for."""

    token: int
    logprob: float
    top: Tuple[Candidate, ...]


def read_candidates(array: Any, n: int) -> Tuple[Candidate, ...]:
    return tuple(Candidate(array[i].token, array[i].logprob) for i in range(n) if array[i].token >= 0)


class FilterCall:
    """A Python filter as the library calls it. What it raises is kept for whoever asked for the token."""

    def __init__(self, function: LogitsFilter) -> None:
        self._function = function
        self.failure: Optional[BaseException] = None
        self.callback = _abi.mf_logits_filter(self._call)

    def _call(self, _user: Any, tokens: Optional[int], n_token: int, logits: int, n_vocab: int) -> int:
        try:
            timeline = np.empty(0, dtype=np.int32)
            if tokens and n_token:
                timeline = memory_at(tokens, n_token, ctypes.c_int32)
                timeline.flags.writeable = False
            self._function(timeline, memory_at(logits, n_vocab, ctypes.c_float))
            return 0
        except BaseException as failure:  # cannot go through the library
            self.failure = failure
            return 1

    def take_failure(self) -> Optional[BaseException]:
        failure, self.failure = self.failure, None
        return failure


class Sampler(Closable):
    """Chooses tokens. The random number of a position is a function of the seed and the position alone, so a rewound or
    replayed session repeats itself. One thread at a time; BusyError otherwise.

    temperature         0: greedy
    top_k               0: off
    top_p               1: off; of what top_k kept
    min_p               0: off
    repetition_penalty  1: off; logits of tokens seen are divided by it (multiplied if negative)
    repetition_window   tokens looked back
    filter              called with (tokens, logits) before anything else looks at the logits: the whole timeline, [n]
                        int32, and those of the next token, [n_vocab] float32, to be changed in place (set those that
                        must not come to -inf). Both arrays are the library's memory: valid during the call only. It runs
                        on another thread where the caller is the main one, whom Ctrl-C interrupts. What it raises ends
                        the call and comes out of it
    """

    _kind = "sampler"

    def __init__(self, model: Model, *, seed: int = 0, temperature: float = 0, top_k: int = 0, top_p: float = 1,
                 min_p: float = 0, repetition_penalty: float = 1, repetition_window: int = 64,
                 filter: Optional[LogitsFilter] = None) -> None:
        options = _abi.mf_sampler_options(
            struct_size=ctypes.sizeof(_abi.mf_sampler_options), seed=seed, temperature=temperature, top_p=top_p,
            min_p=min_p, repetition_penalty=repetition_penalty, top_k=top_k, repetition_window=repetition_window)
        self._filter = FilterCall(filter) if filter is not None else None
        if self._filter is not None:
            options.filter = self._filter.callback
        parent, address, error = model._live(), ctypes.c_void_p(), new_error()
        status = lib.mf_sampler_create(ctypes.byref(address), parent, options, error)
        if status != Status.OK:
            raise make_exception(status, error, "making a sampler")
        self._handle = Handle(address, lib.mf_sampler_close, [parent, self._filter])
        self._in_use = InUse("sampler")
        self._n_vocab = model.info.n_vocab

    def sample(self, logits: "npt.NDArray[np.float32]", tokens: Tokens = (), *, n_top: int = 0) -> Choice:
        """Chooses the token that follows the timeline `tokens`, [n]. `logits`, [n_vocab], is not changed."""
        handle, timeline = self._live(), as_tokens(tokens)
        values = np.ascontiguousarray(logits, dtype=np.float32)
        if values.shape != (self._n_vocab,):
            raise ValueError(f"logits have the shape {values.shape}, not ({self._n_vocab},)")
        chosen, top = _abi.mf_token_logprob(), (_abi.mf_token_logprob * n_top)()
        arguments: List[Any] = [handle, timeline.ctypes.data, timeline.size, values.ctypes.data, ctypes.byref(chosen),
                                top if n_top else None, n_top]
        with self._in_use:
            if self._filter is None:
                status = lib.mf_sampler_sample(*arguments)
            else:
                # On the main thread, Ctrl-C during the library's part would be raised where a filter begins, outside
                # of what it can catch.
                status = call_interruptibly(lambda: lib.mf_sampler_sample(*arguments), lambda: None)
            failure = self._filter.take_failure() if self._filter is not None else None
        if failure is not None:
            raise failure
        if status != Status.OK:
            raise make_exception(status, what="sampling")
        return Choice(chosen.token, chosen.logprob, read_candidates(top, n_top))
