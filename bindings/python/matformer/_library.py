"""Finds libmatformer and loads it, once."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from . import _abi

LIBRARY_VARIABLE = "MATFORMER_LIBRARY"
_NAME = "libmatformer.so"
_FOLDER = ".matformer.mesonpy.libs"  # meson-python's, beside the package


def _path() -> str:
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return named
    package = Path(__file__).resolve().parent
    # Some systems keep what is of one platform in a site-packages of its own.
    for folder in (package, package.parent / _FOLDER, Path(sysconfig.get_path("platlib")) / _FOLDER):
        if (folder / _NAME).exists():
            return str(folder / _NAME)
    return f"{_NAME}.{_abi.MF_VERSION_MAJOR}"  # the system's


def _load(path: str) -> _abi.Library:
    try:
        library = _abi.Library(path)
    except OSError as error:
        raise ImportError(f"{path}: {error}. Where the system has no {_NAME}, install it with the package by "
                          f"`pip install .` in the repository, or set {LIBRARY_VARIABLE} to its path") from error
    except AttributeError as error:
        raise ImportError(f"{path} is older than this package, which calls functions that it lacks: {error}") from error
    version = library.mf_version()
    # Before 1.0 a minor number may change the ABI.
    major, minor = version >> 16, version >> 8 & 0xFF
    if major != _abi.MF_VERSION_MAJOR or (major == 0 and minor != _abi.MF_VERSION_MINOR):
        raise ImportError(f"{path} is version {major}.{minor}, and this package is for "
                          f"{_abi.MF_VERSION_MAJOR}.{_abi.MF_VERSION_MINOR}")
    return library


PATH = _path()  # of the library in use
lib = _load(PATH)
