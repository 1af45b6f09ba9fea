"""Governor: holds a speed, or a ceiling of memory, by the widths of running sessions."""

from __future__ import annotations

import ctypes
from typing import Any, Callable, Optional, Sequence, Union

import numpy as np

from . import _abi
from ._abi import GovernorInfo, Status, WhenMissing
from ._errors import make_exception, new_error
from ._handles import Closable, Handle, InUse, as_enum, fill
from ._library import lib
from ._model import Model
from ._submodel import Submodel

# With (info, predict), of what is known; the narrowing that is wanted, 0 to 1.
Policy = Callable[[GovernorInfo, Callable[[int], float]], float]

_NS = 1e-9


class _Callbacks:
    """Python's clock and policy as the library calls them. What they raise is kept for the method that led to it."""

    def __init__(self, clock: Optional[Callable[[], int]], policy: Optional[Policy]) -> None:
        self._clock, self._policy, self._now = clock, policy, 0
        self.failure: Optional[BaseException] = None
        self.now_ns = _abi.mf_governor_options_now_ns(self._call_clock)
        self.policy = _abi.mf_governor_policy(self._call_policy)

    def _call_clock(self, _user: Any) -> int:
        try:
            assert self._clock is not None
            self._now = int(self._clock())
        except BaseException as failure:  # cannot go through the library
            self.failure = failure
        return self._now

    def _call_policy(self, _user: Any, governor: int, info: int) -> float:
        try:
            assert self._policy is not None
            known = GovernorInfo.read(_abi.mf_governor_info.from_address(info))
            return float(self._policy(known, lambda rung: _NS * lib.mf_governor_predict(governor, rung)))
        except BaseException as failure:
            self.failure = failure
            return float("nan")  # as it is

    def check(self, status: int, what: str, error: Optional[_abi.mf_error] = None) -> None:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        if status != Status.OK:
            raise make_exception(status, error, what)


class Governor(Closable):
    """Chooses the widths of running sessions. Whoever drives Executor.forward() asks it before each step and tells it
    afterwards how long the step took:

        governor = Governor(model, tokens_per_second=20)
        members = [governor.join() for session in sessions]
        while True:
            begin = time.perf_counter()
            executor.forward([Request(session, governor.choose(member), token) ...])
            governor.report(time.perf_counter() - begin, members)

    model              whose views stand on the ladder
    rungs              the ladder, narrowest first: Submodels or text forms; None: the file's granularities
    tokens_per_second  that each member is to get; or
    ms_per_token       the same turned round; both 0: no speed is held
    margin             predicted speed must exceed the target by this share before members widen; 0: 0.1
    weight_bytes       ceiling of a view's info.bytes_per_token; 0: none
    least_free_bytes   when less memory is signalled to be free, wide rungs go; 0: not looked at
    queue_full         as many waiting requests narrow all members fully; 0: none do
    smoothing_ms       time constant of the measured speed; 0: 250
    dwell_ms           from any change until members widen; 0: 1000
    max_members        0: 64; at most 256
    when_missing       a member's view is not resident: "narrow" runs the widest that is, "status" raises
    clock              returns nanoseconds, and never goes back; None: the system's
    policy             a controller of the caller's own, called with (info, predict) by report() and signal(), which
                       returns the narrowing that it wants, 0 to 1; None: the built-in one

    choose() may be called from any thread, the other methods by one at a time; BusyError otherwise. What a policy or
    clock raises comes out of the method that led to it. Raises InvalidArgumentError: a ladder that is none, numbers out
    of range.
    """

    _kind = "governor"

    def __init__(self, model: Model, rungs: Optional[Sequence[Union[Submodel, str]]] = None, *,
                 tokens_per_second: float = 0, ms_per_token: float = 0, margin: float = 0, weight_bytes: int = 0,
                 least_free_bytes: int = 0, queue_full: int = 0, smoothing_ms: int = 0, dwell_ms: int = 0,
                 max_members: int = 0, when_missing: Union[WhenMissing, str] = WhenMissing.NARROW,
                 clock: Optional[Callable[[], int]] = None, policy: Optional[Policy] = None) -> None:
        model._live()
        self.rungs = tuple(model._views.get(rung) for rung in (model.granularities if rungs is None else rungs))
        ladder = [rung._live() for rung in self.rungs]
        addresses = (ctypes.c_void_p * len(ladder))(*(handle.address for handle in ladder))
        options = _abi.mf_governor_options(
            struct_size=ctypes.sizeof(_abi.mf_governor_options), rungs=addresses, n_rung=len(ladder),
            tokens_per_second=tokens_per_second, ms_per_token=ms_per_token, margin=margin, weight_bytes=weight_bytes,
            least_free_bytes=least_free_bytes, queue_full=queue_full, smoothing_ms=smoothing_ms, dwell_ms=dwell_ms,
            max_members=max_members, when_missing=as_enum(WhenMissing, when_missing))
        self._callbacks = _Callbacks(clock, policy)
        if clock is not None:
            options.now_ns = self._callbacks.now_ns
        if policy is not None:
            options.policy = self._callbacks.policy
        address, error = ctypes.c_void_p(), new_error()
        status = lib.mf_governor_create(ctypes.byref(address), options, error)
        self._callbacks.check(status, "making a governor", error)
        self._handle = Handle(address, lib.mf_governor_close, [ladder, self._callbacks])
        self._of_address = {handle.address: rung for handle, rung in zip(ladder, self.rungs)}
        self._in_use = InUse("governor")

    def _rung(self, rung: Union[Submodel, int, None]) -> Optional[int]:
        if rung is None:
            return None
        return (rung if isinstance(rung, Submodel) else self.rungs[rung])._live().address

    def join(self, *, narrowest: Union[Submodel, int, None] = None, widest: Union[Submodel, int, None] = None,
             weight: float = 1) -> int:
        """A member: whatever has a width of its own, a session or all sessions of a tenant. Returns its number.

        narrowest, widest  rungs (or their indices) between which it stays; None: the ladder's ends
        weight             a member of weight 2 gives up one rung where one of weight 1 gives up two

        Raises FullError: max_members have joined.
        """
        handle, member, error = self._live(), ctypes.c_uint32(), new_error()
        options = _abi.mf_governor_member(struct_size=ctypes.sizeof(_abi.mf_governor_member),
                                          narrowest=self._rung(narrowest), widest=self._rung(widest), weight=weight)
        with self._in_use:
            status = lib.mf_governor_join(handle, options, ctypes.byref(member), error)
            self._callbacks.check(status, "joining the governor", error)
        return member.value

    def leave(self, member: int) -> None:
        """Its number may be given again. OutOfRangeError: no such member."""
        handle = self._live()
        with self._in_use:
            status = lib.mf_governor_leave(handle, member)
            self._callbacks.check(status, f"leaving the governor as member {member}")

    def choose(self, member: int) -> Submodel:
        """The view for the member's next tokens. Raises NotResidentError as when_missing says, and where nothing of the
        ladder is resident."""
        view = ctypes.c_void_p()
        status = lib.mf_governor_choose(self._live(), member, ctypes.byref(view))
        if status != Status.OK:
            raise make_exception(status, what=f"choosing a view for member {member}")
        return self._of_address[view.value]

    def report(self, seconds: float, members: Sequence[int], tokens: Optional[Sequence[int]] = None) -> None:
        """A step that was run.

        seconds  from the beginning of the step before to that of this one, or to its end after a pause
        members  that got tokens, each once
        tokens   how many each; None: one
        """
        who: Any = np.ascontiguousarray(members, dtype=np.uint32)
        counts: Any = None if tokens is None else np.ascontiguousarray(tokens, dtype=np.uint32)
        if counts is not None and counts.shape != who.shape:
            raise ValueError(f"{len(counts)} numbers of tokens for {len(who)} members")
        step = _abi.mf_governor_step(
            struct_size=ctypes.sizeof(_abi.mf_governor_step), elapsed_ns=int(seconds / _NS), members=who.ctypes.data,
            n_token=None if counts is None else counts.ctypes.data, n_member=who.size)
        handle = self._live()
        with self._in_use:
            status = lib.mf_governor_report(handle, step)
            self._callbacks.check(status, "reporting a step")

    def signal(self, *, heat: float = 0, free_bytes: int = 0, n_queued: int = 0) -> None:
        """How the host is; holds until the next call.

        heat        0: cool, or unknown; 1: throttled. From 0.8 on it narrows
        free_bytes  of memory; 0: unknown
        n_queued    requests that wait
        """
        signals = _abi.mf_governor_signals(struct_size=ctypes.sizeof(_abi.mf_governor_signals), heat=heat,
                                           free_bytes=free_bytes, n_queued=n_queued)
        handle = self._live()
        with self._in_use:
            status = lib.mf_governor_signal(handle, signals)
            self._callbacks.check(status, "signalling")

    @property
    def info(self) -> GovernorInfo:
        """What is known and decided: the fields of mf_governor_info."""
        handle = self._live()
        with self._in_use:
            values = fill(_abi.mf_governor_info, lambda found: lib.mf_governor_info_get(handle, found),
                          "governor information")
            self._callbacks.check(Status.OK, "")
        return GovernorInfo.read(values)

    def predict(self, rung: int) -> float:
        """Expected seconds for a token if all members of the last step ran this rung, under the load of now; 0 where
        nothing was reported yet or there is no such rung."""
        handle = self._live()
        with self._in_use:
            return _NS * lib.mf_governor_predict(handle, rung)
