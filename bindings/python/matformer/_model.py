"""Model: the weights and what they mean. Submodel: a view of them."""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import numpy.typing as npt

from . import _abi
from ._abi import Arithmetic, ChatFormat, Load, ModelInfo, Status, SubmodelInfo, Verify
from ._background import call_interruptibly
from ._errors import make_exception, new_error
from ._handles import Closable, Handle, Tokens, as_enum, as_tokens
from ._library import lib

if TYPE_CHECKING:  # which import this module
    from ._executor import Executor
    from ._score import Score

Progress = Callable[[int, int], Any]
Log = Callable[[int, str], Any]
PathOrBuffer = Union[str, "os.PathLike[str]", bytes, bytearray, memoryview, "npt.NDArray[Any]"]

_PROGRESS_SECONDS = 0.05
_MAPPED_ALIGNMENT = 64  # of a caller's buffer
_ROOM_FOR_ENDS = 3  # tokens beyond a text's bytes: both ends, and a space that is added

logger = logging.getLogger("matformer")


def _log_to_logger(level: int, line: str) -> None:
    logger.log((logging.ERROR, logging.WARNING, logging.INFO)[min(level, 2)], "%s", line)


class _Bar:
    """A bar of tqdm's, shown when an open takes longer than half a second."""

    def __init__(self) -> None:
        from tqdm.auto import tqdm  # type: ignore[import-untyped, unused-ignore]
        self._new = tqdm
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._new(total=total, unit="B", unit_scale=True, desc="opening", delay=0.5)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class _Opening:
    """An open in progress: the library reports to it on a helper thread, and the caller asks it."""

    def __init__(self, progress: Union[Progress, bool, None], log: Optional[Log]) -> None:
        self._bar = _Bar() if progress is True else None
        self._report: Optional[Progress] = self._bar or (progress if callable(progress) else None)
        self._at: Tuple[int, int] = (0, 0)
        self._reported: Tuple[int, int] = (0, 0)
        self._interrupted = threading.Event()
        write = log or _log_to_logger
        self.on_progress = _abi.mf_progress(self._on_progress)
        self.on_log = _abi.mf_log(lambda _user, level, line: write(level, line.decode("utf-8", "replace")))

    def _on_progress(self, _user: Any, done: int, total: int) -> int:
        self._at = (done, total)
        return int(self._interrupted.is_set())

    def _tell(self) -> None:
        if self._report is not None and self._at != self._reported:
            self._reported = self._at
            self._report(*self._at)

    def run(self, call: Callable[[], int]) -> int:
        try:
            status = call_interruptibly(call, self._interrupted.set, self._tell if self._report else None,
                                        _PROGRESS_SECONDS)
            self._tell()
            return status
        finally:
            if self._bar is not None:
                self._bar.close()


def read_model_info(model: Handle) -> ModelInfo:
    values = _abi.mf_model_info(struct_size=ctypes.sizeof(_abi.mf_model_info))
    status = lib.mf_model_info_get(model, values)
    if status != Status.OK:
        raise make_exception(status, what="model information")
    return ModelInfo.read(values)


class Model(Closable):
    """A model file, opened. Immutable; share it between threads freely. Its submodels, executors, sessions and
    samplers keep it alive.

    source      the path of a .mf or GGUF file or of a Hugging Face folder; or a buffer that holds a .mf file, which
                must stay as it is while the model is used
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

    def __init__(self, source: PathOrBuffer, *, load: Union[Load, str] = Load.MAP,
                 verify: Union[Verify, str] = Verify.DEFAULT, arithmetic: Union[Arithmetic, str] = Arithmetic.EXACT,
                 widest: Optional[str] = None, cpu: Optional[str] = None, threads: int = 0, cache_bytes: int = 0,
                 progress: Union[Progress, bool, None] = None, log: Optional[Log] = None) -> None:
        opening = _Opening(progress, log)
        options = _abi.mf_model_options(
            struct_size=ctypes.sizeof(_abi.mf_model_options), load=as_enum(Load, load), verify=as_enum(Verify, verify),
            arithmetic=as_enum(Arithmetic, arithmetic), widest=widest.encode() if widest else None,
            cpu=cpu.encode() if cpu else None, n_thread=threads, cache_bytes=cache_bytes,
            progress=opening.on_progress, log=opening.on_log)
        address, error = ctypes.c_void_p(), new_error()
        keep: List[Any] = [opening.on_progress, opening.on_log]
        path: Optional[bytes] = None
        if isinstance(source, (str, os.PathLike)):
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
            status = opening.run(call)
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


class Layer(NamedTuple):
    """What a view uses of one layer: units of the feed-forward part, query heads, and whether it runs at all."""

    ffn: int
    heads: int
    kept: bool


def _numbers(values: Optional[Sequence[int]]) -> "npt.NDArray[np.uint32]":
    return np.ascontiguousarray(() if values is None else values, dtype=np.uint32)


class Submodel(Closable):
    """A view of a model: per layer a width, a head count, and whether it is used. It holds no weights, costs under a
    microsecond of the library's time, and never changes; share it freely.

    text         the text form: "M", "0.5", "ffn=1024x4,512x4", "heads=4x8", "skip=3,5-7", "params<=3.2e9", or several
                 of them separated by ';'. Or, instead of it:
    granularity  a name of the file's
    ratio        0 < ratio <= 1: this share of d_ff in every layer, rounded up to the quantum
    ffn, heads   widths and query heads of every layer, or of every kept one
    skip         layers to leave out
    max_params, max_bytes, max_flops, max_ms
                 budgets: the best configuration of the file's stored plan that fits

    Without any of these, the widest that is loaded. Raises WidthError, NotFoundError, UnsupportedError.
    """

    _kind = "submodel"

    def __init__(self, model: Model, text: Optional[str] = None, *, granularity: Optional[str] = None,
                 ratio: float = 0, ffn: Optional[Sequence[int]] = None, heads: Optional[Sequence[int]] = None,
                 skip: Optional[Sequence[int]] = None, max_params: int = 0, max_bytes: int = 0, max_flops: int = 0,
                 max_ms: float = 0) -> None:
        widths, head_counts, skipped = _numbers(ffn), _numbers(heads), _numbers(skip)
        spec = _abi.mf_submodel_spec(
            struct_size=ctypes.sizeof(_abi.mf_submodel_spec), text=text.encode() if text is not None else None,
            granularity=granularity.encode() if granularity is not None else None, ratio=ratio,
            ffn=widths.ctypes.data if ffn is not None else None, n_ffn=widths.size,
            heads=head_counts.ctypes.data if heads is not None else None, n_heads=head_counts.size,
            skip=skipped.ctypes.data if skip is not None else None, n_skip=skipped.size, max_params=int(max_params),
            max_bytes=int(max_bytes), max_flops=int(max_flops), max_ms=max_ms)
        self._take(model._live(), spec)

    def _take(self, parent: Handle, spec: _abi.mf_submodel_spec) -> None:
        address, error = ctypes.c_void_p(), new_error()
        status = lib.mf_extract_submodel(ctypes.byref(address), parent, spec, error)
        if status != Status.OK:
            raise make_exception(status, error, "taking a submodel")
        self._handle = Handle(address, lib.mf_submodel_close, parent)

    @property
    def info(self) -> SubmodelInfo:
        """What it costs: the fields of mf_submodel_info."""
        values = _abi.mf_submodel_info(struct_size=ctypes.sizeof(_abi.mf_submodel_info))
        status = lib.mf_submodel_info_get(self._live(), values)
        if status != Status.OK:
            raise make_exception(status, what="submodel information")
        return SubmodelInfo.read(values)

    @property
    def layers(self) -> List[Layer]:
        """Every layer of the model, as this view uses it."""
        handle = self._live()
        layers: List[Layer] = []
        ffn, heads, kept = ctypes.c_uint32(), ctypes.c_uint32(), ctypes.c_int()
        while lib.mf_submodel_layer(handle, len(layers), ctypes.byref(ffn), ctypes.byref(heads),
                                    ctypes.byref(kept)) == Status.OK:
            layers.append(Layer(ffn.value, heads.value, bool(kept.value)))
        return layers

    @property
    def text(self) -> str:
        """The text form, which gives the same view again."""
        handle, needed = self._live(), ctypes.c_size_t()
        lib.mf_submodel_text(handle, None, 0, ctypes.byref(needed))
        text = ctypes.create_string_buffer(needed.value)
        status = lib.mf_submodel_text(handle, text, len(text), None)
        if status != Status.OK:
            raise make_exception(status, what="submodel text")
        return text.value.decode("utf-8", "replace")

    def score(self, tokens: Tokens, n_context: int = 1, *, chunk: int = 256,
              executor: Optional[Executor] = None) -> Score:
        """How likely a text is under this view: the log-probability of each of tokens[n_context:], and whether it was
        the likeliest. A text of any length is run once, from an empty timeline.

        tokens     [n], from the one on that begins a text
        n_context  so many tokens are given, 1 to n
        chunk      rows whose logits are in memory at once, which takes 4 * n_vocab bytes each
        executor   what it runs on; None: one of its own, whose threads take longer to start than a short text to run

        The sum is the same for any chunk and executor. Ctrl-C ends it. Raises NotResidentError, UnsupportedError.
        """
        from ._score import score  # which needs sessions, and they this module
        return score(self, tokens, n_context, chunk, executor)

    def __repr__(self) -> str:
        return "<matformer.Submodel, closed>" if self.closed else f"<matformer.Submodel {self.text}>"


class Views:
    """Views as calls are given them: a Submodel, a text form, which is taken once, or None for the widest."""

    _MOST = 256

    def __init__(self, model: Handle) -> None:
        self._model = model
        self._taken: Dict[Optional[str], Submodel] = {}

    def get(self, submodel: Union[Submodel, str, None]) -> Submodel:
        if isinstance(submodel, Submodel):
            return submodel
        view = self._taken.get(submodel)
        if view is None or view.closed:
            if len(self._taken) >= self._MOST:
                self._taken.clear()
            view = Submodel.__new__(Submodel)
            view._take(self._model, _abi.mf_submodel_spec(
                struct_size=ctypes.sizeof(_abi.mf_submodel_spec), text=submodel.encode() if submodel else None))
            self._taken[submodel] = view
        return view
