"""Nested (MatFormer) transformers: one weight file, every model size.

    import matformer

    with matformer.open("model.mf") as model:
        session = matformer.Session(model)
        for event in session.generate("Once upon a time", "M"):
            print(event.text, end="", flush=True)

A Model is opened once and shared. A Submodel is a view of it: per layer, how much is used; where a call takes one, its
text form ("M", "0.5", "ffn=512x4,1024x4") will do. A Session is a timeline, an Executor the threads that it runs on, and
a Sampler chooses tokens.

Threads: models and submodels may be shared; a session, an executor or a sampler has one user at a time, and another is
refused with BusyError. The interpreter's lock is free while the library computes. After os.fork() the child must open
the model anew.
"""

from __future__ import annotations

from typing import Any, Tuple

from . import _abi
from ._abi import Arithmetic, CacheType, ChatFormat, Finish, Load, ModelInfo, Status, SubmodelInfo, Verify
from ._errors import (BusyError, CancelledError, ChecksumError, ForkedError, FormatError, FullError,
                      InputOutputError, InvalidArgumentError, MatformerError, MissingFileError, NotFoundError,
                      NotResidentError, OutOfMemoryError, OutOfRangeError, RebuildNeededError, ThreadError,
                      UnsupportedError, WidthError)
from ._executor import Executor, Request, Result
from ._generation import Event, Generation, GenerationResult
from ._library import lib as _lib
from ._model import Layer, Model, PathOrBuffer, Submodel
from ._sampler import Candidate, Choice, Sampler
from ._score import Score
from ._session import Session

__all__ = [
    "Arithmetic", "BusyError", "CacheType", "CancelledError", "Candidate", "ChatFormat", "ChecksumError", "Choice",
    "Event", "Executor", "Finish", "ForkedError", "FormatError", "FullError", "Generation", "GenerationResult",
    "InputOutputError", "InvalidArgumentError", "Layer", "Load", "MatformerError", "MissingFileError", "Model",
    "ModelInfo", "NotFoundError", "NotResidentError", "OutOfMemoryError", "OutOfRangeError", "RebuildNeededError",
    "Request", "Result", "Sampler", "Score", "Session", "Status", "Submodel", "SubmodelInfo", "ThreadError", "UnsupportedError",
    "Verify", "WidthError", "open", "version",
]


def open(source: PathOrBuffer, **options: Any) -> Model:
    """Opens a model: Model(source, **options), which has the options."""
    return Model(source, **options)


def version() -> Tuple[int, int, int]:
    """The version of the library that is running: (major, minor, patch)."""
    number = _lib.mf_version()
    return number >> 16, number >> 8 & 0xFF, number & 0xFF


__version__ = f"{_abi.MF_VERSION_MAJOR}.{_abi.MF_VERSION_MINOR}.{_abi.MF_VERSION_PATCH}"
