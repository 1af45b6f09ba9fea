"""Which of a model's shells are in memory."""

from __future__ import annotations

import ctypes
import os
from types import TracebackType
from typing import Any, Callable, Iterable, List, Optional, Tuple, Type, Union

import numpy as np
import numpy.typing as npt

from . import _abi
from ._abi import ShellInfo, Status
from ._errors import make_exception, new_error
from ._handles import Closable
from ._library import lib
from ._progress import Progress, Reporting

Buffer = Union[bytes, bytearray, memoryview, "npt.NDArray[Any]"]

_FIRST_WAIT_MS = 100
_LONGEST_WAIT_MS = 1 << 30


class Changed:
    """What was changed; as a context manager, changed back at its end."""

    def __init__(self, back: Callable[[], object]) -> None:
        self._back = back

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Optional[Type[BaseException]], value: Optional[BaseException],
                 traceback: Optional[TracebackType]) -> None:
        self._back()


class Residency(Closable):
    """The part of a Model that changes, from any thread at any time: which of its shells are in memory. Shell 0 is what
    the narrowest granularity needs, shell 1 what the next one adds, and so on; tables of embeddings may stand apart.
    Results do not depend on it: a view that needs what is not there is refused with NotResidentError."""

    def _shell(self, shell: int) -> Optional[ShellInfo]:
        handle, values = self._live(), _abi.mf_shell_info(struct_size=ctypes.sizeof(_abi.mf_shell_info))
        return ShellInfo.read(values) if lib.mf_model_shell_info_get(handle, shell, values) == Status.OK else None

    @property
    def shells(self) -> Tuple[ShellInfo, ...]:
        """Of each shell the fields of mf_shell_info; `granularity` is "" where none needs it."""
        found: List[ShellInfo] = []
        while (info := self._shell(len(found))) is not None:
            found.append(info)
        return tuple(found)

    @property
    def tables(self) -> Optional[ShellInfo]:
        """The same of the tables, where they stand apart."""
        return self._shell(_abi.MF_SHELL_TABLES)

    def _resident(self) -> Optional[str]:
        """The widest granularity that is in memory; "" where there are shells that none needs."""
        names = [shell.granularity for shell in self.shells if shell.resident]
        return names[-1] if names else None

    def grow(self, granularity: Optional[str] = None, *, progress: Union[Progress, bool, None] = None) -> Changed:
        """Loads the shells that a granularity (or another name that Submodel takes) needs; None: all. In a `with`,
        those that were not there before go again at its end:

            with model.grow("XL"):
                text = session.generate(prompt, "XL").read()

        progress   as of matformer.open()

        Ctrl-C ends it; shells that were whole by then stay. Raises NotFoundError, which names the part of the file that
        is missing, ChecksumError, InputOutputError, OutOfMemoryError.
        """
        handle, before = self._live(), self._resident()
        reporting, error = Reporting(progress, "growing"), new_error()
        options = _abi.mf_grow_options(struct_size=ctypes.sizeof(_abi.mf_grow_options), progress=reporting.on_progress)
        name = granularity.encode() if granularity is not None else None
        status = reporting.run(lambda: lib.mf_model_grow(handle, name, options, error))
        if status != Status.OK:
            raise make_exception(status, error, "growing the model")
        # Shells that no granularity needs come last: where they are in memory, all were.
        return Changed(lambda: self.trim(before) if before != "" else None)

    def trim(self, granularity: Optional[str] = None, *, wait_seconds: Optional[float] = None) -> Changed:
        """Gives back the memory of all shells that a granularity does not need; None: that the narrowest does not need.
        What needs them is refused from the beginning of the call on, and what is in flight is waited for. In a `with`,
        they are loaded again at its end.

        wait_seconds  BusyError, and all is as before, if it takes longer; 0: not at all; None: as long as it takes

        Shells that were fed, or came from a buffer that was copied, cannot be loaded again but from an attached file.
        """
        before = self._resident()
        name = granularity.encode() if granularity is not None else None
        if wait_seconds is not None and wait_seconds < 0:
            raise ValueError(f"wait_seconds is {wait_seconds}, and should be 0 or more, or None")
        if wait_seconds is not None:
            status, error = self._trim(name, int(1e3 * wait_seconds) or _abi.MF_WAIT_NONE)
        else:
            # The library's own wait has no end that Ctrl-C could bring, so it is cut into longer and longer ones.
            wait_ms = _FIRST_WAIT_MS
            while (found := self._trim(name, wait_ms))[0] == Status.E_BUSY:
                wait_ms = min(2 * wait_ms, _LONGEST_WAIT_MS)
            status, error = found
        if status != Status.OK:
            raise make_exception(status, error, "trimming the model")
        return Changed(lambda: self.grow(before or None))

    def _trim(self, granularity: Optional[bytes], wait_ms: int) -> Tuple[int, _abi.mf_error]:
        options = _abi.mf_trim_options(struct_size=ctypes.sizeof(_abi.mf_trim_options), wait_ms=wait_ms)
        error = new_error()
        return lib.mf_model_trim(self._live(), granularity, options, error), error

    def attach(self, source: Union[str, "os.PathLike[str]", int], *, offset: int = 0, size: int = 0) -> None:
        """Adds a file that has shells or tables of this model, which grow() can load afterwards.

        source  a path; or a file descriptor, which may be closed afterwards, with the file at `offset`, `size` bytes
                long (0: to its end)

        Raises FormatError or ChecksumError for a file that is damaged or of another model.
        """
        handle, error = self._live(), new_error()
        path: Optional[bytes] = None
        if isinstance(source, int):
            status = lib.mf_model_attach_fd(handle, source, offset, size, error)
        else:
            path = os.fsencode(source)
            status = lib.mf_model_attach(handle, path, error)
        if status != Status.OK:
            raise make_exception(status, error, "attaching a file", path)

    def feed(self, shell: Optional[int], data: Union[Buffer, Iterable[Buffer], None]) -> None:
        """Takes bytes of a shell (None: of the tables) that is not resident, as they lie in the whole file from
        `shells[shell].file_offset` on. With the last of its `stored_bytes` it is verified and resident.

        data  the next bytes, or an iterable of such pieces, a download's say; None forgets what was fed

        Where the iterable fails, what it gave is kept: `shells[shell].fed_bytes` says where to go on. Raises
        ChecksumError, after which the shell begins anew; OutOfRangeError: more than it has; InvalidArgumentError: it is
        resident.
        """
        number = _abi.MF_SHELL_TABLES if shell is None else shell
        if data is None:
            self._feed(number, None, 0)
        elif isinstance(data, (bytes, bytearray, memoryview, np.ndarray)):
            self._feed_piece(number, data)
        else:
            for piece in data:
                self._feed_piece(number, piece)

    def _feed_piece(self, shell: int, piece: Buffer) -> None:
        if len(piece) > 0:
            array = np.frombuffer(piece, dtype=np.uint8)
            self._feed(shell, array.ctypes.data, array.size)

    def _feed(self, shell: int, address: Optional[int], size: int) -> None:
        error = new_error()
        status = lib.mf_model_feed(self._live(), shell, address, size, error)
        if status != Status.OK:
            raise make_exception(status, error, "feeding a shell")
