"""Finds libmatformer and loads it, once."""

from __future__ import annotations

import os
from pathlib import Path

from . import _abi

LIBRARY_VARIABLE = "MATFORMER_LIBRARY"


def _path() -> str:
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return named
    beside = Path(__file__).with_name("libmatformer.so")
    if not beside.exists():
        raise ImportError(f"libmatformer.so is not beside the package: install it with `pip install .` in the "
                          f"repository, or set {LIBRARY_VARIABLE} to the library's path")
    return str(beside)


def _load() -> _abi.Library:
    path = _path()
    try:
        library = _abi.Library(path)
    except OSError as error:
        raise ImportError(f"{path}: {error}") from error
    except AttributeError as error:
        raise ImportError(f"{path} is older than this package, which calls functions that it lacks: {error}") from error
    version = library.mf_version()
    # Before 1.0 a minor number may change the ABI.
    major, minor = version >> 16, version >> 8 & 0xFF
    if major != _abi.MF_VERSION_MAJOR or (major == 0 and minor != _abi.MF_VERSION_MINOR):
        raise ImportError(f"{path} is version {major}.{minor}, and this package is for "
                          f"{_abi.MF_VERSION_MAJOR}.{_abi.MF_VERSION_MINOR}")
    return library


lib = _load()
