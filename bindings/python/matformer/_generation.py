"""Generation: an iterator over the tokens that the library generates, on the thread that asks for them.

The weights of a token sweep the interpreter out of the near caches, so that its part costs more than its instructions.
A step of mf_generation_next() therefore brings as many tokens as are there after ten milliseconds, which nobody notices,
and at least one; if the caller leaves in their midst, the session goes back to what the caller has seen.

Ctrl-C is looked for between two steps, but for a long prompt, which runs on a helper thread meanwhile, and for steps
with a filter in Python: on the main thread Ctrl-C would be raised where the filter begins, outside of what it can catch.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import struct
import threading
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

from . import _abi
from ._abi import Finish, Status
from ._background import call_interruptibly
from ._errors import BusyError, make_exception, new_error
from ._handles import Handle, InUse, Tokens, as_tokens
from ._library import lib
from ._sampler import Candidate, Sampler, read_candidates
from ._submodel import Submodel

if TYPE_CHECKING:  # which imports this module
    from ._executor import Executor
    from ._session import Session

_LONG_PROMPT = 64  # tokens, or bytes of text: from here on a helper thread costs less than a hundredth of the step
_STEP_NS = 10_000_000
_MOST_STEPS = 1 << 16  # of the schedule that was run

# Of mf_token_event: token, position, text, text_bytes, logprob, submodel, top, n_top.
EVENT_FIELDS = struct.Struct("@iIPNfPPN")


class Event(NamedTuple):
    """A token.

    text      what may now be shown: whole characters, nothing that may become a stop text; "" while held back
    logprob   natural logarithm, before temperature and truncation
    submodel  whose logits it was chosen from
    top       the most likely tokens in order, as many as `n_top` asked for
    """

    token: int
    position: int
    text: str
    logprob: float
    submodel: Submodel
    top: Tuple[Candidate, ...]


_new_event: Callable[[Tuple[Any, ...]], Event] = functools.partial(tuple.__new__, Event)  # half the time of Event()


@dataclass(frozen=True)
class GenerationResult:
    """What a generation did. `finish` is CALLBACK where it was left early. `schedule`: the (position, submodel) that
    were run, for replaying to the same bits."""

    finish: Finish
    n_prompt: int
    n_generated: int
    prompt_seconds: float
    generate_seconds: float
    schedule: Tuple[Tuple[int, Submodel], ...]
    n_drafted: int  # tokens that the draft wrote ahead, and how many of them
    n_accepted: int  # became the text's
    n_verify: int  # batches that verified some
    draft_seconds: float  # of either side, within generate_seconds
    verify_seconds: float


def _make_options(prompt: Union[str, Tokens, None], max_tokens: int, sampler: Optional[Sampler], stop: Tuple[str, ...],
                  n_top: int, schedule: Sequence[Tuple[int, Submodel]],
                  ignore_eos: bool) -> Tuple[_abi.mf_generate_options, int, Any]:
    """The options, how long the prompt is, and what must live until they were read."""
    options = _abi.mf_generate_options(struct_size=ctypes.sizeof(_abi.mf_generate_options), max_tokens=max_tokens,
                                       n_top=n_top, ignore_eos=ignore_eos)
    length, tokens = 0, None
    if isinstance(prompt, str):
        if "\0" in prompt:
            raise ValueError("the prompt has a zero byte: give it as tokens")
        options.prompt = prompt.encode("utf-8", "surrogateescape")
        length = len(prompt)
    elif prompt is not None:
        tokens = as_tokens(prompt)
        options.tokens, options.n_token = tokens.ctypes.data, tokens.size
        length = tokens.size
    if sampler is not None:
        options.sampler = sampler._live().address
    if any("\0" in text for text in stop):
        raise ValueError("a stop text has a zero byte")
    if stop:
        options.stop = (ctypes.c_char_p * len(stop))(*(text.encode() for text in stop))
        options.n_stop = len(stop)
    if schedule:
        options.schedule = (_abi.mf_schedule_step * len(schedule))(*(
            _abi.mf_schedule_step(position, view._live().address) for position, view in schedule))
        options.n_schedule = len(schedule)
    return options, length, tokens


def _read_top(address: int, n: int) -> Tuple[Candidate, ...]:
    return read_candidates((_abi.mf_token_logprob * n).from_address(address), n)


class Generation(Iterator[Event]):
    """An iterator of Events; close() it, leave its `with`, or drop it, to end it early. One thread at a time; BusyError
    otherwise."""

    def __init__(self, session: Session, executor: Executor, view: Submodel, prompt: Union[str, Tokens, None],
                 max_tokens: int, sampler: Optional[Sampler], stop: Tuple[str, ...], n_top: int,
                 schedule: Sequence[Tuple[int, Submodel]], ignore_eos: bool, draft: Optional[Submodel],
                 draft_tokens: int, fallback: Optional[Submodel]) -> None:
        self._ended = True  # until it has begun
        self._result: Optional[GenerationResult] = None
        views = [view, *(v for _, v in schedule), *(v for v in (draft, fallback) if v is not None)]
        self._views: Dict[int, Submodel] = {v._live().address or 0: v for v in views}
        self._options, length, prompt_tokens = _make_options(prompt, max_tokens, sampler, stop, n_top, schedule, ignore_eos)
        self._options.draft_tokens = draft_tokens
        self._options.draft = draft._live().address if draft is not None else None
        self._options.fallback = fallback._live().address if fallback is not None else None
        self._steps = (_abi.mf_schedule_step * min(len(schedule) + (max_tokens or 128) + 1, _MOST_STEPS))()
        self._raw_result = _abi.mf_generate_result(struct_size=ctypes.sizeof(_abi.mf_generate_result),
                                                   schedule=self._steps, schedule_capacity=len(self._steps))
        self._error, self._running = new_error(), threading.Lock()
        self._session, self._filter = session, sampler._filter if sampler is not None else None
        self._on_helper = self._filter is not None or length >= _LONG_PROMPT  # the next step
        self._ahead: List[Event] = []  # last first
        self._last: Optional[Event] = None  # that was taken
        self._retained: List[Handle] = []
        self._acquired: List[InUse] = []
        users: List[Union[Session, Executor, Sampler]] = [session, executor]
        if sampler is not None:
            users.append(sampler)
        try:
            for user in users:
                user._in_use.acquire()
                self._acquired.append(user._in_use)
            self._begin(executor._live(), view)
            del prompt_tokens  # which the library has copied
            for used in (*users, *views):
                self._retained.append(used._live().retain())
            self._ended = False
            _open.add(self)
        except BaseException:
            self._release()
            raise

    def _begin(self, executor: Handle, view: Submodel) -> None:
        self._session_handle, address = self._session._live(), ctypes.c_void_p()
        self._session._take_back_cancel(executor, view)
        self._first_position = lib.mf_session_position(self._session_handle)
        status = lib.mf_generation_create(ctypes.byref(address), executor, self._session_handle, view._live(),
                                          self._options, self._raw_result, self._error)
        if status != Status.OK:
            raise make_exception(status, self._error, "generating")
        self._handle = Handle(address, lib.mf_generation_close)
        self._batch = _abi.mf_token_batch(struct_size=ctypes.sizeof(_abi.mf_token_batch))
        self._status = int(Status.OK)
        self._step: Callable[[], int] = functools.partial(lib.mf_generation_next, self._handle, _STEP_NS, self._batch,
                                                          self._error)

    # ---- Taking ----

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Event:
        if not self._ahead:
            self._fetch()
        self._last = event = self._ahead.pop()
        return event

    def _fetch(self) -> None:
        """Some events ahead, or the end."""
        if self._ended:
            raise StopIteration
        if not self._running.acquire(False):
            raise BusyError(Status.E_BUSY, "the generation is in use by another thread, or by its own filter")
        try:
            if self._status == Status.OK:
                self._status = self._step_on_helper() if self._on_helper else self._step()
                self._ahead = self._read_events()
            if not self._ahead:
                self._finish()
                raise StopIteration
        except BaseException:  # Ctrl-C: what nobody has seen is taken back
            self._end()
            raise
        finally:
            self._running.release()

    def _step_on_helper(self) -> int:
        self._on_helper = self._filter is not None
        if threading.current_thread() is not threading.main_thread():
            return self._step()
        statuses: List[int] = []

        def call() -> int:
            statuses.append(self._step())
            return statuses[0]

        try:
            return call_interruptibly(call, lambda: lib.mf_session_cancel(self._session_handle))
        except BaseException:
            self._session._cancel_is_left = statuses != [Status.E_CANCELLED]
            raise

    def _read_events(self) -> List[Event]:
        """What is done here and in __next__ for each event is what Python costs."""
        n, stride, views = self._batch.n_event, self._batch.event_bytes, self._views
        self._batch.n_event = 0  # until there are others
        if n == 0:
            return []
        raw = ctypes.string_at(ctypes.addressof(self._batch.events.contents), n * stride)
        (_, _, begin, *_), (_, _, end, n_last, *_) = (EVENT_FIELDS.unpack_from(raw, at) for at in (0, (n - 1) * stride))
        texts: Any = ctypes.string_at(begin, end + n_last - begin)  # one behind the other
        fields = struct.Struct(f"{EVENT_FIELDS.format}{stride - EVENT_FIELDS.size}x")  # of a later release, more
        if texts.isascii() and not self._options.n_top:
            texts = texts.decode("ascii")
            events = [_new_event((token, position, texts[at - begin:at - begin + n_byte], logprob, views[view], ()))
                      for token, position, at, n_byte, logprob, view, _, _ in fields.iter_unpack(raw)]
        else:
            events = [_new_event((token, position, texts[at - begin:at - begin + n_byte].decode("utf-8", "replace"),
                                  logprob, views[view], _read_top(top, n_top) if n_top else ()))
                      for token, position, at, n_byte, logprob, view, top, n_top in fields.iter_unpack(raw)]
        events.reverse()
        return events

    def read(self) -> str:
        """Goes on to the end; the rest of the text."""
        return "".join(event.text for event in self)

    # ---- Ending ----

    @property
    def result(self) -> Optional[GenerationResult]:
        """What it did; None before it has ended."""
        return self._result

    def close(self) -> None:
        """Ends it. The session holds the prompt, if any of it ran, and the tokens of the events that were taken."""
        if self._ended:
            return
        if not self._running.acquire(False):
            raise BusyError(Status.E_BUSY, "the generation runs in another thread: Session.cancel() ends it there")
        try:
            self._end()
        finally:
            self._running.release()

    def _finish(self) -> None:
        """Nothing more comes."""
        failure = self._filter.take_failure() if self._filter is not None else None
        if failure is None and self._status != Status.OK:
            failure = make_exception(self._status, self._error, "generating")
        self._end(has_failed=failure is not None)
        if failure is not None:
            raise failure

    def _end(self, has_failed: bool = False) -> None:
        if self._ended:
            return
        self._ended = True
        _open.discard(self)
        try:
            if not self._handle.is_forked:
                self._handle.close()
                seen = self._last[1] + 1 if self._last else self._first_position + self._raw_result.n_prompt
                if lib.mf_session_position(self._session_handle) > seen:
                    lib.mf_session_rewind(self._session_handle, seen)
                if not has_failed:
                    self._result = self._read_result()
            self._ahead.clear()
        finally:
            self._release()

    def _release(self) -> None:
        for handle in self._retained:
            handle.release()
        for guard in self._acquired:
            guard.release()
        self._retained, self._acquired = [], []

    def _read_result(self) -> GenerationResult:
        raw = self._raw_result
        n_step, n_ahead = min(raw.n_schedule, raw.schedule_capacity), len(self._ahead)
        return GenerationResult(
            Finish.CALLBACK if n_ahead else Finish(raw.finish), raw.n_prompt, raw.n_generated - n_ahead,
            1e-9 * raw.prompt_ns, 1e-9 * raw.generate_ns,
            tuple((step.position, self._views[step.submodel or 0]) for step in self._steps[:n_step]),
            raw.n_drafted, raw.n_accepted, raw.n_verify, 1e-9 * raw.draft_ns, 1e-9 * raw.verify_ns)

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        self.close()

    def __del__(self) -> None:
        self._end()


# Those that have not ended are ended before the interpreter is taken apart.
_open: "weakref.WeakSet[Generation]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for generation in list(_open):
        generation._end()
