"""Generation: an iterator over the tokens that the library generates on a thread of its own.

mf_generate() blocks and reports each token to a callback. It runs on a helper thread, so that Ctrl-C reaches the
caller; the callback puts what it is told into a queue. Waking the consumer costs a good part of a small model's token,
so after it was woken it looks again 10 ms later at the earliest, and takes what has come by then.

The helper may be a tenth of a second ahead, or 128 tokens. If the caller leaves early, the session goes back to what
the caller has seen.
"""

from __future__ import annotations

import atexit
import ctypes
import struct
import threading
import time
import weakref
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type, Union

from . import _abi
from ._abi import Finish, Status
from ._background import wait_through
from ._errors import make_exception, new_error
from ._handles import InUse, Tokens, as_tokens
from ._library import lib
from ._sampler import Candidate, Sampler, read_candidates
from ._submodel import Submodel

if TYPE_CHECKING:  # which imports this module
    from ._executor import Executor
    from ._session import Session

_PAUSE_SECONDS = 0.01
_FEW_AHEAD = 128  # events
_PAUSES_AHEAD = 10
_LONGEST_TEXT = 4096  # bytes of one event that are read without a call
_MOST_STEPS = 1 << 16  # of the schedule that was run

# Of mf_token_event: token, position, text, text_bytes, logprob, submodel.
EVENT_FIELDS = struct.Struct("@iIPNfP")

_Raw = Tuple[Tuple[Any, ...], bytes, Tuple[Candidate, ...]]


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


class _Run:
    """The helper thread's side. It does not refer to the Generation, which therefore goes when its user drops it."""

    def __init__(self, n_top: int) -> None:
        self.events: "SimpleQueue[Optional[_Raw]]" = SimpleQueue()
        self.finished = threading.Event()
        self.room = threading.Event()
        self.room.set()
        self.stop = 0
        self.most_ahead = _FEW_AHEAD  # events; the consumer raises it to what comes in a tenth of a second
        self.status = int(Status.OK)
        self.failure: Optional[BaseException] = None
        self.thread: Optional[threading.Thread] = None
        self.at_end: Optional[Callable[[], None]] = None
        self.error = new_error()
        self.on_token = _abi.mf_generate_options_on_token(self._make_on_token(n_top))

    def _make_on_token(self, n_top: int) -> Callable[[Any, int], int]:
        """Everything here is paid for each token, in cold caches: the event's fields are read at once, and the text
        without a call. The library's event and text stay at one address during a generation."""
        put, size, read = self.events.put, self.events.qsize, EVENT_FIELDS.unpack_from
        event: Any = None
        text: Any = None
        event_at = text_at = 0

        def on_token(_user: Any, address: int) -> int:
            nonlocal event, text, event_at, text_at
            try:
                if address != event_at:
                    event, event_at = (ctypes.c_char * EVENT_FIELDS.size).from_address(address), address
                fields = read(event)
                if fields[2] != text_at:
                    text, text_at = (ctypes.c_char * _LONGEST_TEXT).from_address(fields[2]), fields[2]
                n_byte = fields[3]
                shown = text[:n_byte] if n_byte <= _LONGEST_TEXT else ctypes.string_at(text_at, n_byte)
                put((fields, shown, self._read_top(address) if n_top else ()))
                if size() > self.most_ahead:
                    self._wait_for_room()
                return self.stop
            except BaseException as failure:  # cannot go through the library
                self.failure = failure
                return 1

        return on_token

    @staticmethod
    def _read_top(address: int) -> Tuple[Candidate, ...]:
        event = _abi.mf_token_event.from_address(address)
        return read_candidates(event.top, event.n_top)

    def _wait_for_room(self) -> None:
        self.room.clear()
        if self.events.qsize() > self.most_ahead and not self.stop:
            self.room.wait()

    def start(self, call: Callable[[], int]) -> None:
        def run() -> None:
            try:
                self.status = call()
            except BaseException as failure:  # goes to the consumer
                self.failure = failure
            self.finished.set()
            self.events.put(None)
            if self.at_end is not None:
                self.at_end()

        self.thread = threading.Thread(target=run, name="matformer-generate", daemon=True)
        self.thread.start()

    def end(self) -> None:
        self.stop = 1
        self.room.set()


class Generation(Iterator[Event]):
    """An iterator of Events; close() it, leave its `with`, or drop it, to end it early. One thread at a time."""

    def __init__(self, session: Session, executor: Executor, view: Submodel, prompt: Union[str, Tokens, None],
                 max_tokens: int, sampler: Optional[Sampler], stop: Tuple[str, ...], n_top: int,
                 schedule: Sequence[Tuple[int, Submodel]], ignore_eos: bool, draft: Optional[Submodel],
                 draft_tokens: int, fallback: Optional[Submodel]) -> None:
        self._ended = True  # until it has begun
        self._session, self._sampler = session, sampler
        self._session_handle = session._live()
        views = [view, *(v for _, v in schedule), *(v for v in (draft, fallback) if v is not None)]
        self._views: Dict[int, Submodel] = {v._live().address or 0: v for v in views}
        self._result: Optional[GenerationResult] = None
        self._n_taken = self._n_taken_before = 0
        self._woken = 0.0
        self._run = _Run(n_top)
        self._take: Callable[[], Optional[_Raw]] = self._run.events.get_nowait
        options, keep = self._make_options(prompt, max_tokens, sampler, stop, n_top, schedule, ignore_eos)
        options.draft_tokens = draft_tokens
        options.draft = draft._live().address if draft is not None else None
        options.fallback = fallback._live().address if fallback is not None else None
        self._steps = (_abi.mf_schedule_step * min(len(schedule) + (max_tokens or 128) + 1, _MOST_STEPS))()
        self._raw_result = _abi.mf_generate_result(struct_size=ctypes.sizeof(_abi.mf_generate_result),
                                                   schedule=self._steps, schedule_capacity=len(self._steps))
        arguments = (executor._live(), self._session_handle, view._live(), options, self._raw_result, self._run.error)
        self._acquired: List[InUse] = []
        try:
            for guard in [session._in_use, executor._in_use, *([sampler._in_use] if sampler is not None else [])]:
                guard.acquire()
                self._acquired.append(guard)
            session._take_back_cancel(arguments[0], view)
            self._next_position = self._first_position = lib.mf_session_position(self._session_handle)
            keep.append(arguments)
            self._ended = False
            _running.add(self)
            self._run.start(lambda: lib.mf_generate(*keep[-1]))
        except BaseException:
            self._ended = True
            self._release()
            raise

    def _make_options(self, prompt: Union[str, Tokens, None], max_tokens: int, sampler: Optional[Sampler],
                      stop: Tuple[str, ...], n_top: int, schedule: Sequence[Tuple[int, Submodel]],
                      ignore_eos: bool) -> Tuple[_abi.mf_generate_options, List[Any]]:
        """The options, and what they point to."""
        options = _abi.mf_generate_options(
            struct_size=ctypes.sizeof(_abi.mf_generate_options), max_tokens=max_tokens, n_top=n_top,
            on_token=self._run.on_token, ignore_eos=ignore_eos)
        keep: List[Any] = [self._run.on_token, [view._live() for view in self._views.values()]]
        if isinstance(prompt, str):
            if "\0" in prompt:
                raise ValueError("the prompt has a zero byte: give it as tokens")
            options.prompt = prompt.encode("utf-8", "surrogateescape")
        elif prompt is not None:
            tokens = as_tokens(prompt)
            keep.append(tokens)
            options.tokens, options.n_token = tokens.ctypes.data, tokens.size
        if sampler is not None:
            handle = sampler._live()
            keep.append(handle)
            options.sampler = handle.address
        if any("\0" in text for text in stop):
            raise ValueError("a stop text has a zero byte")
        if stop:
            options.stop = (ctypes.c_char_p * len(stop))(*(text.encode() for text in stop))
            options.n_stop = len(stop)
        if schedule:
            options.schedule = (_abi.mf_schedule_step * len(schedule))(*(
                _abi.mf_schedule_step(position, v._live().address) for position, v in schedule))
            options.n_schedule = len(schedule)
        return options, keep

    # ---- Taking ----

    def __iter__(self) -> Generation:
        return self

    def __next__(self) -> Event:
        if self._ended:
            raise StopIteration
        try:
            raw = self._take()
        except Empty:
            raw = self._wait()
        if raw is None:
            self._finish()
            raise StopIteration
        (token, position, _, _, logprob, view), text, top = raw
        self._next_position = position + 1
        self._n_taken += 1
        if not self._run.room.is_set():
            self._run.room.set()
        return Event(token, position, text.decode("utf-8", "replace"), logprob, self._views[view], top)

    def _wait(self) -> Optional[_Raw]:
        try:
            pause = self._woken + _PAUSE_SECONDS - time.monotonic()
            if pause > 0:
                self._run.finished.wait(pause)
            raw = self._run.events.get()
            self._woken = time.monotonic()
            since = self._n_taken - self._n_taken_before
            self._n_taken_before = self._n_taken
            self._run.most_ahead = max(_FEW_AHEAD, _PAUSES_AHEAD * since)
            return raw
        except BaseException:  # Ctrl-C
            self.close()
            raise

    def read(self) -> str:
        """Goes on to the end; the rest of the text."""
        return "".join(event.text for event in self)

    # ---- Ending ----

    @property
    def result(self) -> Optional[GenerationResult]:
        """What it did; None before it has ended."""
        return self._result

    def close(self) -> None:
        """Ends it. The session holds the prompt and the tokens of the events that were taken."""
        if self._ended:
            return
        run = self._run
        told = self._n_taken == 0 and run.events.empty()
        run.end()
        if told:  # the prompt may be long
            lib.mf_session_cancel(self._session_handle)
        interrupt = wait_through(run.finished)
        if told and run.status != Status.E_CANCELLED:
            self._session._cancel_is_left = True
        self._settle()
        self._set_result(Finish.CALLBACK)
        if interrupt is not None:
            raise interrupt

    def _finish(self) -> None:
        """The last event was taken, and the helper has ended."""
        self._settle()
        failure = self._sampler._filter.take_failure() if self._sampler and self._sampler._filter else None
        failure = failure or self._run.failure
        if failure is not None:
            raise failure
        if self._run.status != Status.OK:
            raise make_exception(self._run.status, self._run.error, "generating")
        self._set_result(Finish(self._raw_result.finish))

    def _settle(self) -> None:
        """After the helper's end: the session as the caller has seen it, free for others."""
        if self._n_taken == 0:
            self._next_position = self._first_position + self._raw_result.n_prompt
        if lib.mf_session_position(self._session_handle) > self._next_position:
            lib.mf_session_rewind(self._session_handle, self._next_position)
        self._ended = True
        self._release()

    def _release(self) -> None:
        _running.discard(self)
        for guard in self._acquired:
            guard.release()
        self._acquired = []

    def _set_result(self, finish: Finish) -> None:
        raw = self._raw_result
        n_step = min(raw.n_schedule, raw.schedule_capacity)
        self._result = GenerationResult(
            finish, raw.n_prompt, self._n_taken, 1e-9 * raw.prompt_ns, 1e-9 * raw.generate_ns,
            tuple((step.position, self._views[step.submodel or 0]) for step in self._steps[:n_step]),
            raw.n_drafted, raw.n_accepted, raw.n_verify, 1e-9 * raw.draft_ns, 1e-9 * raw.verify_ns)

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        self.close()

    def __del__(self) -> None:
        if self._ended:
            return
        if threading.current_thread() is self._run.thread:  # the garbage collector ran in the callback
            self._run.at_end = self.close
            self._run.end()
        else:
            self.close()


# At exit, a helper that still runs would call into an interpreter that is gone.
_running: "weakref.WeakSet[Generation]" = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for generation in list(_running):
        generation.close()
