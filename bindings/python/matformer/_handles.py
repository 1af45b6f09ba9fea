"""What all objects of the library have in common: an address that is closed once, and one user at a time."""

from __future__ import annotations

import ctypes
import os
import threading
from enum import IntEnum
from types import TracebackType
from typing import Any, Callable, List, Optional, Sequence, Type, TypeVar, Union

import numpy as np
import numpy.typing as npt

from ._abi import Status
from ._errors import BusyError, OutOfRangeError, closed, make_exception

E = TypeVar("E", bound=IntEnum)
H = TypeVar("H", bound="Handle")
S = TypeVar("S", bound=ctypes.Structure)
T = TypeVar("T", bound="Closable")

Tokens = Union[int, Sequence[int], "npt.NDArray[Any]"]


class Handle:
    """The address of one of the library's objects, which is closed when nobody refers to it any more: not while a
    call on another thread has it as its argument, and a child's keeps its parent's. `keep` are callbacks and buffers
    that the object uses. ctypes takes it as an argument.

    An object of the library's that uses this one without keeping it alive retains it: the garbage collector takes what
    is in a cycle apart in any order."""

    __slots__ = ("_as_parameter_", "_close", "_process", "_retained", "keep")

    def __init__(self, address: ctypes.c_void_p, close: Callable[[Any], None], keep: Any = None) -> None:
        self._as_parameter_ = address
        self._close = close
        self._process = os.getpid()
        self._retained: List[None] = []  # one for each user beside the first; append and pop are atomic
        self.keep = keep

    @property
    def address(self) -> Optional[int]:
        return self._as_parameter_.value

    @property
    def is_forked(self) -> bool:
        """A forked child has the parent's locks as they were, held by threads that it has not."""
        return os.getpid() != self._process

    def retain(self: H) -> H:
        self._retained.append(None)
        return self

    def release(self, getpid: Callable[[], int] = os.getpid) -> None:
        """The last of its users closes it."""
        try:
            self._retained.pop()
        except IndexError:
            address, self._as_parameter_ = self._as_parameter_, ctypes.c_void_p()
            if getpid() == self._process:
                self._close(address)

    close = __del__ = release


class Closable:
    """An object that can be closed, by close() or at the end of a `with`; closing twice does nothing, and the order
    does not matter. Afterwards its methods raise InvalidArgumentError."""

    _kind = "object"
    _handle: Optional[Handle] = None

    def _live(self) -> Handle:
        handle = self._handle
        if handle is None:
            raise closed(self._kind)
        return handle

    @property
    def closed(self) -> bool:
        return self._handle is None

    def close(self) -> None:
        self._handle = None

    def __enter__(self: T) -> T:
        self._live()
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        self.close()


def fill(struct: Type[S], get: Callable[[S], int], what: str) -> S:
    """A struct of the library's that its getter fills."""
    values = struct(struct_size=ctypes.sizeof(struct))
    status = get(values)
    if status != Status.OK:
        raise make_exception(status, what=what)
    return values


class InUse:
    """Lets one user in at a time; another is refused, not kept waiting."""

    __slots__ = ("_lock", "_what")

    def __init__(self, what: str) -> None:
        self._lock = threading.Lock()
        self._what = what

    def acquire(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise BusyError(Status.E_BUSY, f"the {self._what} is in use by another thread or by a Generation that has "
                                           f"not ended: end or close that, or make another {self._what}")

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: Any) -> None:
        self._lock.release()


def memory_at(address: int, n: int, kind: Any) -> "npt.NDArray[Any]":
    """[n] numbers of a ctypes kind that lie at an address: the library's memory itself."""
    buffer: Any = (kind * n).from_address(address)
    return np.frombuffer(buffer, dtype=np.dtype(kind))


def as_tokens(tokens: Tokens) -> "npt.NDArray[np.int32]":
    """[n] int32, contiguous; the same memory where it is that already."""
    array = np.asarray(tokens)
    if array.dtype != np.int32 and array.size > 0:
        if not np.issubdtype(array.dtype, np.integer):
            raise TypeError(f"tokens are integers, not {array.dtype}")
        if array.min() < -1 or array.max() >= 2**31:
            raise OutOfRangeError(Status.E_RANGE, f"a token is outside -1 to {2**31 - 1}")
    return np.ascontiguousarray(array, dtype=np.int32).reshape(-1)


def as_enum(kind: Type[E], value: Union[E, str]) -> E:
    """A member, or its name in any case."""
    if isinstance(value, kind):
        return value
    try:
        return kind[str(value).upper()]
    except KeyError:
        names = ", ".join(f'"{member.name.lower()}"' for member in kind)
        raise ValueError(f"{value!r} is none of {names}") from None
