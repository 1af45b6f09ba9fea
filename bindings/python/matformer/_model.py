"""Model: the weights and what they mean."""

from __future__ import annotations

import ctypes
import os
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from . import _abi
from ._abi import Arithmetic, ChatFormat, Load, ModelInfo, PlanDraft, Status, Verify
from ._errors import make_exception, new_error
from ._handles import Handle, Tokens, as_enum, as_tokens, fill
from ._library import lib
from ._plan import Plan, read_draft, read_plan
from ._progress import Log, Progress, Reporting, log_callback
from ._residency import Buffer, Residency
from ._submodel import Views

Source = Union[str, "os.PathLike[str]", Buffer, int]

_MAPPED_ALIGNMENT = 64  # of a caller's buffer
_ROOM_FOR_ENDS = 3  # tokens beyond a text's bytes: both ends, and a space that is added


def read_model_info(model: Handle) -> ModelInfo:
    return ModelInfo.read(fill(_abi.mf_model_info, lambda values: lib.mf_model_info_get(model, values),
                               "model information"))


class Model(Residency):
    """A model file, opened. Immutable, but for what of it is in memory; share it between threads freely. Its submodels,
    executors, sessions and samplers keep it alive.

    source      the path of a .mf or GGUF file or of a Hugging Face folder; or a buffer that holds a .mf file, which
                must stay as it is while the model is used; or a file descriptor, which may be closed afterwards
    offset, size  of a file descriptor: where its .mf file begins, and its bytes; 0: to the end
    load        "map": a .mf file's raw regions are mapped; "copy": everything is read into memory. A buffer that is not
                aligned to 64 bytes is copied in any case
    verify      "default", "full" or "none": how much of the weights is checked against the stored checksums
    arithmetic  "exact": every processor gives the same bits; "fast": where there is a faster kernel, only this kind does
    widest      the widest granularity to load; None: all of the file
    cpu         the highest processor level to use, such as "avx2"; None: what there is
    threads     for decoding and packing; 0: one per usable core
    cache_bytes most memory for the keys and values of all sessions; 0: as they reserve
    progress    called with (done, total) in bytes, at most 20 times a second, on the calling thread; an exception of it
                ends the open. True: a bar of tqdm's, if it takes long; needs tqdm
    log         called with (level, line), level 0 error, 1 warning, 2 information, from any thread; None: the logger
                "matformer" of Python's logging

    Ctrl-C ends an open. Raises MissingFileError, FormatError, ChecksumError, UnsupportedError, NotFoundError (`widest`).
    """

    _kind = "model"

    def __init__(self, source: Source, *, load: Union[Load, str] = Load.MAP,
                 verify: Union[Verify, str] = Verify.DEFAULT, arithmetic: Union[Arithmetic, str] = Arithmetic.EXACT,
                 widest: Optional[str] = None, cpu: Optional[str] = None, threads: int = 0, cache_bytes: int = 0,
                 progress: Union[Progress, bool, None] = None, log: Optional[Log] = None,
                 offset: int = 0, size: int = 0) -> None:
        reporting, on_log = Reporting(progress, "opening"), log_callback(log)
        options = _abi.mf_model_options(
            struct_size=ctypes.sizeof(_abi.mf_model_options), load=as_enum(Load, load), verify=as_enum(Verify, verify),
            arithmetic=as_enum(Arithmetic, arithmetic), widest=widest.encode() if widest else None,
            cpu=cpu.encode() if cpu else None, n_thread=threads, cache_bytes=cache_bytes,
            progress=reporting.on_progress, log=on_log)
        address, error = ctypes.c_void_p(), new_error()
        keep: List[Any] = [reporting.on_progress, on_log]
        path: Optional[bytes] = None
        if isinstance(source, int):
            call = lambda: lib.mf_model_open_fd(  # noqa: E731
                ctypes.byref(address), source, offset, size, options, error)
        elif isinstance(source, (str, os.PathLike)):
            path = os.fsencode(source)
            call = lambda: lib.mf_model_open(ctypes.byref(address), path, options, error)  # noqa: E731
        else:
            data = np.frombuffer(source, dtype=np.uint8)
            if data.ctypes.data % _MAPPED_ALIGNMENT:
                options.load = Load.COPY
            keep.append(data)
            call = lambda: lib.mf_model_open_memory(  # noqa: E731
                ctypes.byref(address), data.ctypes.data, data.size, options, error)
        try:
            status = reporting.run(call)
        except BaseException:
            if address.value is not None:  # the open was complete when the interruption came
                lib.mf_model_close(address)
            raise
        if status != Status.OK:
            raise make_exception(status, error, "opening the model", path)
        self._handle = Handle(address, lib.mf_model_close, keep)
        self._views = Views(self._handle)

    @property
    def info(self) -> ModelInfo:
        """Shape, sizes in bytes, special tokens: the fields of mf_model_info."""
        return read_model_info(self._live())

    def _names(self, function: Callable[[Any, Any], Optional[bytes]]) -> Tuple[str, ...]:
        handle = self._live()
        names: List[str] = []
        while (name := function(handle, len(names))) is not None:
            names.append(name.decode("utf-8", "replace"))
        return tuple(names)

    @property
    def granularities(self) -> Tuple[str, ...]:
        """Names of the file's widths, narrowest first: ("S", "M", "L", "XL")."""
        return self._names(lib.mf_model_granularity)

    @property
    def configurations(self) -> Tuple[str, ...]:
        """Names that the file has beside its granularities, which Submodel takes likewise."""
        return self._names(lib.mf_model_configuration)

    @property
    def metadata(self) -> Dict[str, str]:
        """The texts stored in the file by their keys."""
        handle = self._live()
        keys = self._names(lambda h, index: lib.mf_model_metadata(h, None, index))
        return {key: (lib.mf_model_metadata(handle, key.encode(), 0) or b"").decode("utf-8", "replace")
                for key in keys}

    # ---- Plan ----

    @property
    def plan(self) -> Optional[Plan]:
        """The stored plan, from which Submodel's budgets are answered; None where the file has none."""
        return read_plan(self._live())

    def plan_draft(self, *, greedy: bool = True) -> Optional[PlanDraft]:
        """The entry of the plan that is expected to speed the whole model up most as Session.generate's `draft`, and
        how many tokens it should write ahead; None where none is, or the plan has no times.

            best = model.plan_draft()
            session.generate(prompt, draft=model.plan.entries[best.entry].text, draft_tokens=best.length)

        greedy  of generation that takes the likeliest token; False: of sampling at temperature 1
        """
        return read_draft(self._live(), greedy)

    # ---- Text ----

    def _tokens(self, call: Callable[[Any, int, Any], int], guess: int, what: str) -> "npt.NDArray[np.int32]":
        needed = ctypes.c_size_t()
        tokens = np.empty(guess, dtype=np.int32)
        status = call(tokens.ctypes.data, tokens.size, ctypes.byref(needed))
        if status == Status.E_CAPACITY:
            tokens = np.empty(needed.value, dtype=np.int32)
            status = call(tokens.ctypes.data, tokens.size, ctypes.byref(needed))
        if status != Status.OK:
            raise make_exception(status, what=what)
        return tokens[:needed.value].copy()

    def tokenize(self, text: Union[str, bytes], *, parse_control: bool = False,
                 add_ends: bool = False) -> "npt.NDArray[np.int32]":
        """Text to tokens, [n] int32.

        parse_control  names of control tokens in the text become those tokens: for text that is trusted
        add_ends       beginning- and end-of-text tokens where the tokenizer's own file adds them

        Raises UnsupportedError if the model has no tokenizer.
        """
        data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        options = _abi.mf_tokenize_options(struct_size=ctypes.sizeof(_abi.mf_tokenize_options),
                                           parse_control=parse_control, add_ends=add_ends)
        handle = self._live()
        return self._tokens(lambda tokens, capacity, n: lib.mf_tokenize_with(handle, options, data, len(data), tokens,
                                                                             capacity, n),
                            len(data) + _ROOM_FOR_ENDS, "tokenizing")

    def detokenize_bytes(self, tokens: Tokens) -> bytes:
        """Tokens to the bytes that they stand for, which need not end with a whole character."""
        array, handle, needed = as_tokens(tokens), self._live(), ctypes.c_size_t()
        text = ctypes.create_string_buffer(0)
        for capacity in (8 * array.size, None):
            text = ctypes.create_string_buffer(needed.value if capacity is None else capacity)
            status = lib.mf_detokenize(handle, array.ctypes.data, array.size, text, len(text), ctypes.byref(needed))
            if status != Status.E_CAPACITY:
                break
        if status != Status.OK:
            raise make_exception(status, what="detokenizing")
        return text.raw[:needed.value]

    def detokenize(self, tokens: Tokens) -> str:
        """Tokens to text; bytes that are no UTF-8 become U+FFFD. Raises OutOfRangeError for a token that is none."""
        return self.detokenize_bytes(tokens).decode("utf-8", "replace")

    @property
    def chat_format(self) -> ChatFormat:
        """How the model was taught to see turns of a chat."""
        return ChatFormat(lib.mf_model_chat_format(self._live()))

    def render_chat(self, messages: Sequence[Union[Tuple[str, str], Mapping[str, str]]], *,
                    add_generation_prompt: bool = True,
                    format: Union[ChatFormat, str, None] = None) -> "npt.NDArray[np.int32]":
        """The tokens of a whole chat, [n] int32, from the beginning-of-text token on.

        messages               (role, content) pairs, or {"role": ..., "content": ...}; roles are "system" (the first
                               alone), "user" and "assistant"
        add_generation_prompt  the assistant's next turn is begun
        format                 another than the model's own

        What a message says never becomes a control token. Raises UnsupportedError: the model has no format, or not the
        tokens of that one; InvalidArgumentError: a role that the format does not have.
        """
        handle = self._live()
        chat_format = self.chat_format if format is None else as_enum(ChatFormat, format)
        pairs = [(m["role"], m["content"]) if isinstance(m, Mapping) else m for m in messages]
        texts = [(role.encode(), content.encode("utf-8", "surrogateescape")) for role, content in pairs]
        array = (_abi.mf_chat_message * len(texts))(*(
            _abi.mf_chat_message(role, ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p), len(content))
            for role, content in texts))
        guess = sum(len(role) + len(content) + 16 for role, content in texts) + 16
        return self._tokens(lambda tokens, capacity, n: lib.mf_chat_render_as(
            handle, chat_format, array, len(texts), add_generation_prompt, tokens, capacity, n), guess,
            "rendering the chat")

    def __repr__(self) -> str:
        if self.closed:
            return "<matformer.Model, closed>"
        info = self.info
        return f"<matformer.Model {info.family}, {info.n_param / 1e6:.1f} M parameters, {'/'.join(self.granularities)}>"
