"""Exceptions. Each carries the status, its name and the sentence that the library wrote."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Dict, List, Optional, Type, Union

from . import _abi
from ._abi import Status


class MatformerError(Exception):
    """A call failed. `status` is the library's code (a Status, or a plain int that this package does not know), `name`
    that code's name, `detail` a sentence that names the file, the tensor or the argument, and the remedy; `results`,
    where a batch failed in part, what Executor.forward would have returned."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        name, _ = _abi.STATUS_TEXTS.get(status, (f"status {status}", ""))
        self.status: Union[Status, int] = Status(status) if status in _abi.STATUS_TEXTS else status
        self.name = name
        self.detail = detail
        self.results: Optional[List[Any]] = None

    def __reduce__(self) -> Any:
        return type(self), (int(self.status), self.detail)


class InvalidArgumentError(MatformerError, ValueError):
    """MF_E_INVALID, MF_E_STRUCT_SIZE; also an object that was closed."""


class OutOfMemoryError(MatformerError, MemoryError):
    """MF_E_NOMEM"""


class InputOutputError(MatformerError, OSError):
    """MF_E_IO: a file could not be read or written."""


class FormatError(MatformerError, ValueError):
    """MF_E_FORMAT: the file is damaged or not of this format."""


class ChecksumError(FormatError):
    """MF_E_CHECKSUM: the data does not match its checksum."""


class UnsupportedError(MatformerError, NotImplementedError):
    """MF_E_UNSUPPORTED: not by this build or this model."""


class CancelledError(MatformerError):
    """MF_E_CANCELLED: Session.cancel() was called."""


class BusyError(MatformerError, RuntimeError):
    """MF_E_BUSY: the object is in use, by another thread or by a Generation that has not ended."""


class WidthError(MatformerError, ValueError):
    """MF_E_WIDTH: the model does not offer this width, head count or skip."""


class NotResidentError(MatformerError, RuntimeError):
    """MF_E_NOT_RESIDENT: the view is wider than what was loaded."""


class RebuildNeededError(MatformerError, RuntimeError):
    """MF_E_REBUILD_NEEDED: the cache was written with other key/value heads; rewind to 0."""


class FullError(MatformerError, RuntimeError):
    """MF_E_FULL: no room for more positions."""


class OutOfRangeError(MatformerError, IndexError):
    """MF_E_RANGE: a token, position or index is out of range."""


class ForkedError(MatformerError, RuntimeError):
    """MF_E_FORKED: used in a forked child; open the model there."""


class NotFoundError(MatformerError, LookupError):
    """MF_E_NOT_FOUND: no such file, key or name."""


class MissingFileError(NotFoundError, FileNotFoundError):
    """MF_E_NOT_FOUND for a file."""


class ThreadError(MatformerError, RuntimeError):
    """MF_E_THREAD: a worker thread could not be started."""


_CLASSES: Dict[int, Type[MatformerError]] = {
    Status.E_INVALID: InvalidArgumentError,
    Status.E_STRUCT_SIZE: InvalidArgumentError,
    Status.E_NOMEM: OutOfMemoryError,
    Status.E_IO: InputOutputError,
    Status.E_FORMAT: FormatError,
    Status.E_CHECKSUM: ChecksumError,
    Status.E_UNSUPPORTED: UnsupportedError,
    Status.E_CANCELLED: CancelledError,
    Status.E_BUSY: BusyError,
    Status.E_WIDTH: WidthError,
    Status.E_NOT_RESIDENT: NotResidentError,
    Status.E_REBUILD_NEEDED: RebuildNeededError,
    Status.E_FULL: FullError,
    Status.E_RANGE: OutOfRangeError,
    Status.E_FORKED: ForkedError,
    Status.E_NOT_FOUND: NotFoundError,
    Status.E_THREAD: ThreadError,
}


def new_error() -> _abi.mf_error:
    return _abi.mf_error(struct_size=_SIZE)


_SIZE = ctypes.sizeof(_abi.mf_error)


def make_exception(status: int, error: Optional[_abi.mf_error] = None, what: str = "",
                   path: Optional[bytes] = None) -> MatformerError:
    """The exception for a status: with the sentence in `error`, or else `what` was done and the status's text."""
    detail = error.detail.decode("utf-8", "replace") if error is not None else ""
    if not detail:
        detail = ": ".join(filter(None, (what, _abi.STATUS_TEXTS.get(status, ("", f"status {status}"))[1])))
    found = _CLASSES.get(status, MatformerError)
    if found is NotFoundError and path is not None and not os.path.exists(path):
        found = MissingFileError
    return found(status, detail)


def closed(what: str) -> InvalidArgumentError:
    return InvalidArgumentError(Status.E_INVALID, f"the {what} is closed")
