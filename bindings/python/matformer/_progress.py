"""What long calls report: progress, and lines for a log."""

from __future__ import annotations

import logging
import threading
from typing import Any, Callable, Optional, Tuple, Union

from . import _abi
from ._background import call_interruptibly

Progress = Callable[[int, int], Any]
Log = Callable[[int, str], Any]

_PROGRESS_SECONDS = 0.05

logger = logging.getLogger("matformer")


def _log_to_logger(level: int, line: str) -> None:
    logger.log((logging.ERROR, logging.WARNING, logging.INFO)[min(level, 2)], "%s", line)


def log_callback(log: Optional[Log]) -> Any:
    write = log or _log_to_logger
    return _abi.mf_log(lambda _user, level, line: write(level, line.decode("utf-8", "replace")))


class _Bar:
    """A bar of tqdm's, shown when a call takes longer than half a second."""

    def __init__(self, what: str) -> None:
        from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]
        self._new, self._what = tqdm, what
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._new(total=total, unit="B", unit_scale=True, desc=self._what, delay=0.5)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class Reporting:
    """A long call in progress: the library reports to it on a helper thread, and the caller asks it. `what` is a bar's
    name."""

    def __init__(self, progress: Union[Progress, bool, None], what: str) -> None:
        self._bar = _Bar(what) if progress is True else None
        self._report: Optional[Progress] = self._bar or (progress if callable(progress) else None)
        self._at: Tuple[int, int] = (0, 0)
        self._reported: Tuple[int, int] = (0, 0)
        self._interrupted = threading.Event()
        self.on_progress = _abi.mf_progress(self._on_progress)

    def _on_progress(self, _user: Any, done: int, total: int) -> int:
        self._at = (done, total)
        return int(self._interrupted.is_set())

    def _tell(self) -> None:
        if self._report is not None and self._at != self._reported:
            self._reported = self._at
            self._report(*self._at)

    def run(self, call: Callable[[], int]) -> int:
        """The call's status. Ctrl-C, or an exception of the caller's progress, ends the call and goes on upwards."""
        try:
            status = call_interruptibly(call, self._interrupted.set, self._tell if self._report else None,
                                        _PROGRESS_SECONDS)
            self._tell()
            return status
        finally:
            if self._bar is not None:
                self._bar.close()
