"""Model files made from others, by libmatformer-tools: convert().

The library is looked for beside libmatformer, or where the variable MATFORMER_TOOLS_LIBRARY says.
"""

from __future__ import annotations

import ctypes
import os
import threading
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

from . import _abi
from ._abi import Status
from ._background import call_interruptibly
from ._errors import make_exception, new_error
from ._library import _path as _library_path

LIBRARY_VARIABLE = "MATFORMER_TOOLS_LIBRARY"
_NAME = "libmatformer-tools.so"
_PROGRESS_SECONDS = 0.05
_ABI = 0, 1  # MF_TOOLS_VERSION_MAJOR, MF_TOOLS_VERSION_MINOR

TYPES = ("keep", "f32", "bf16", "f16", "q8", "q4")  # mf_weight_type, in its order; likewise
ROLES = ("ffn", "attention", "embedding", "output")
STORAGES = ("keep", "raw", "zstd")
SHELLS = ("keep", "nested", "single")


class mf_source_options(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("progress", _abi.mf_progress), ("progress_user", c_void_p),
                ("allocator", _abi.mf_allocator)]


class mf_convert_options(ctypes.Structure):
    _fields_ = [("struct_size", c_size_t), ("type", c_int), ("role_type", c_int * len(ROLES)), ("storage", c_int),
                ("shells", c_int), ("n_thread", c_uint32), ("progress", _abi.mf_progress), ("progress_user", c_void_p),
                ("submodel", c_char_p)]


def _path() -> str:
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return named
    beside = Path(_library_path()).resolve().parent
    for folder in (beside, beside / "tools"):  # installed; as it is built
        if (folder / _NAME).exists():
            return str(folder / _NAME)
    raise ImportError(f"{_NAME} is not beside {_library_path()}: install both with `pip install .` in the repository, or "
                      f"set {LIBRARY_VARIABLE} to the library's path")


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(_path())  # what it needs of libmatformer is in memory: the package has loaded it
    error = POINTER(_abi.mf_error)
    library.mf_tools_version.restype = c_uint32
    library.mf_source_open.argtypes = [POINTER(c_void_p), c_char_p, POINTER(mf_source_options), error]
    library.mf_source_close.argtypes = [c_void_p]
    library.mf_source_close.restype = None
    library.mf_convert.argtypes = [c_void_p, c_char_p, POINTER(mf_convert_options), c_void_p, error]
    version = library.mf_tools_version()
    if (version >> 16, version & 0xFFFF) != _ABI:
        raise ImportError(f"{_path()} is version {version >> 16}.{version & 0xFFFF}, and this package is for "
                          f"{_ABI[0]}.{_ABI[1]}: install both from one release")
    return library


_lock = threading.Lock()
_loaded: List[ctypes.CDLL] = []


def _library() -> ctypes.CDLL:
    """Loaded when it is first used: reading models needs it not."""
    with _lock:
        if not _loaded:
            _loaded.append(_load())
        return _loaded[0]


def _index(values: "tuple[str, ...]", value: Optional[str], what: str) -> int:
    try:
        return values.index((value or "keep").lower())
    except ValueError:
        raise ValueError(f"{what} is {value!r}, and must be one of {', '.join(values)}") from None


class _Progress:
    """What the library reports on a helper thread, for the caller's."""

    def __init__(self, report: Optional[Callable[[int, int], Any]]) -> None:
        self._report = report
        self._at = self._told = (0, 0)
        self.interrupted = threading.Event()
        self.callback = _abi.mf_progress(self._on_progress)

    def _on_progress(self, _user: Any, done: int, total: int) -> int:
        self._at = (done, total)
        return int(self.interrupted.is_set())

    def tell(self) -> None:
        if self._report is not None and self._at != self._told:
            self._told = self._at
            self._report(*self._at)


def convert(source: Union[str, "os.PathLike[str]"], path: Union[str, "os.PathLike[str]"], *,
            type: Optional[str] = None, types: Optional[Mapping[str, str]] = None, storage: str = "keep",
            shells: str = "keep", submodel: Optional[str] = None, threads: int = 0,
            progress: Optional[Callable[[int, int], Any]] = None) -> None:
    """Writes a model to a .mf file: to a temporary name, synced and renamed, so that it appears whole or not at all.

    source    a .mf or GGUF file, or a Hugging Face folder
    type      of the matrices: "f32", "bf16", "f16", "q8" or "q4"; None: as they are
    types     instead, by role: {"ffn": "q4"}; roles are "ffn", "attention", "embedding" and "output"
    storage   "raw": mapped when opened; "zstd": smaller; "keep": as the source is
    shells    "nested": a shell for each granularity; "single"; "keep"
    submodel  a view's text form: the file is cut to it
    threads   0: one per usable core
    progress  called with (done, total) in bytes, at most 20 times a second, on the calling thread; an exception of it ends
              the conversion

    Ctrl-C ends it. Raises what matformer.open() does.
    """
    library = _library()
    report = _Progress(progress)
    by_role: Dict[str, str] = dict(types or {})
    if set(by_role) - set(ROLES):
        raise ValueError(f"types has {sorted(set(by_role) - set(ROLES))}; roles are {', '.join(ROLES)}")
    options = mf_convert_options(
        struct_size=ctypes.sizeof(mf_convert_options), type=_index(TYPES, type, "type"),
        role_type=(c_int * len(ROLES))(*(_index(TYPES, by_role.get(role), f"types[{role!r}]") for role in ROLES)),
        storage=_index(STORAGES, storage, "storage"), shells=_index(SHELLS, shells, "shells"), n_thread=threads,
        progress=report.callback, submodel=submodel.encode() if submodel else None)
    opening = mf_source_options(struct_size=ctypes.sizeof(mf_source_options), progress=report.callback)
    handle, error = c_void_p(), new_error()

    def call() -> int:
        status = int(library.mf_source_open(ctypes.byref(handle), os.fsencode(source), opening, error))
        if status == Status.OK:
            status = int(library.mf_convert(handle, os.fsencode(path), options, None, error))
        return status

    try:
        status = call_interruptibly(call, report.interrupted.set, report.tell if progress else None, _PROGRESS_SECONDS)
        report.tell()
    finally:
        library.mf_source_close(handle)
    if status != Status.OK:
        raise make_exception(status, error, "converting the model", os.fsencode(source))
