"""include/matformer.h for ctypes. Made by bindings/python/generate_abi.py: do not edit."""

# ruff: noqa
from __future__ import annotations

from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, string_at
from ctypes import c_char, c_char_p, c_double, c_float, c_int, c_int32, c_size_t, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Callable, Optional

MF_VERSION_MAJOR = 0
MF_VERSION_MINOR = 1
MF_VERSION_PATCH = 0
MF_WAIT_NONE = 4294967295
MF_SHELL_TABLES = 4294967295
MF_SPIN_NONE = 4294967295


class Status(IntEnum):
    """mf_status"""

    OK = 0
    E_INVALID = -1
    E_NOMEM = -2
    E_IO = -3
    E_FORMAT = -4
    E_CHECKSUM = -5
    E_STRUCT_SIZE = -6
    E_UNSUPPORTED = -7
    E_CANCELLED = -8
    E_BUSY = -9
    E_WIDTH = -10
    E_NOT_RESIDENT = -11
    E_REBUILD_NEEDED = -12
    E_FULL = -13
    E_RANGE = -14
    E_FORKED = -15
    E_NOT_FOUND = -16
    E_CAPACITY = -17
    E_THREAD = -18


class Load(IntEnum):
    """mf_load"""

    MAP = 0
    COPY = 1


class Verify(IntEnum):
    """mf_verify"""

    DEFAULT = 0
    FULL = 1
    NONE = 2


class Arithmetic(IntEnum):
    """mf_arithmetic"""

    EXACT = 0
    FAST = 1


class CacheType(IntEnum):
    """mf_cache_type"""

    F32 = 0
    BF16 = 1
    Q8 = 2


class Logits(IntEnum):
    """mf_logits"""

    LAST = 0
    NONE = 1
    ALL = 2


class ChatFormat(IntEnum):
    """mf_chat_format"""

    NONE = 0
    GEMMA = 1
    LLAMA3 = 2


class Finish(IntEnum):
    """mf_finish"""

    LENGTH = 0
    EOS = 1
    STOP = 2
    CALLBACK = 3


class WhenMissing(IntEnum):
    """mf_when_missing"""

    NARROW = 0
    STATUS = 1


STATUS_TEXTS = {
    0: ("MF_OK", "success"),
    -1: ("MF_E_INVALID", "invalid argument"),
    -2: ("MF_E_NOMEM", "out of memory"),
    -3: ("MF_E_IO", "the file could not be read or written"),
    -4: ("MF_E_FORMAT", "the file is damaged or not of this format"),
    -5: ("MF_E_CHECKSUM", "the data does not match its checksum"),
    -6: ("MF_E_STRUCT_SIZE", "option struct from an unsupported version"),
    -7: ("MF_E_UNSUPPORTED", "not supported by this build or this model"),
    -8: ("MF_E_CANCELLED", "cancelled"),
    -9: ("MF_E_BUSY", "the object is in use"),
    -10: ("MF_E_WIDTH", "the model does not offer this width, head count or skip"),
    -11: ("MF_E_NOT_RESIDENT", "the view is wider than what was loaded"),
    -12: ("MF_E_REBUILD_NEEDED", "the cache was written with other key/value heads; rewind to 0"),
    -13: ("MF_E_FULL", "no room for more positions"),
    -14: ("MF_E_RANGE", "a token, position or index is out of range"),
    -15: ("MF_E_FORKED", "used in a forked child; open the model there"),
    -16: ("MF_E_NOT_FOUND", "no such file, key or name"),
    -17: ("MF_E_CAPACITY", "the output buffer is too small"),
    -18: ("MF_E_THREAD", "a worker thread could not be started"),
}


class mf_error(Structure):
    struct_size: int
    status: int
    detail: bytes
    _fields_ = [
        ("struct_size", c_size_t),
        ("status", c_int),
        ("detail", c_char * 240),
    ]


mf_allocator_alloc = CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_size_t)


mf_allocator_free = CFUNCTYPE(None, c_void_p, c_void_p, c_size_t)


class mf_allocator(Structure):
    alloc: Any
    free: Any
    user: Optional[int]
    _fields_ = [
        ("alloc", mf_allocator_alloc),
        ("free", mf_allocator_free),
        ("user", c_void_p),
    ]


mf_progress = CFUNCTYPE(c_int, c_void_p, c_uint64, c_uint64)


mf_log = CFUNCTYPE(None, c_void_p, c_int, c_char_p)


class mf_model_options(Structure):
    struct_size: int
    load: int
    verify: int
    arithmetic: int
    widest: Optional[bytes]
    cpu: Optional[bytes]
    n_thread: int
    reserved: int
    progress: Any
    progress_user: Optional[int]
    log: Any
    log_user: Optional[int]
    allocator: Any
    cache_bytes: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("load", c_int),
        ("verify", c_int),
        ("arithmetic", c_int),
        ("widest", c_char_p),
        ("cpu", c_char_p),
        ("n_thread", c_uint32),
        ("reserved", c_uint32),
        ("progress", mf_progress),
        ("progress_user", c_void_p),
        ("log", mf_log),
        ("log_user", c_void_p),
        ("allocator", mf_allocator),
        ("cache_bytes", c_uint64),
    ]


class mf_model_info(Structure):
    struct_size: int
    family: Optional[bytes]
    cpu: Optional[bytes]
    n_layer: int
    d_model: int
    n_head: int
    n_kv_head: int
    d_head: int
    d_ff: int
    n_vocab: int
    max_positions: int
    n_granularity: int
    quantum: int
    n_shell: int
    n_shell_resident: int
    n_param: int
    file_bytes: int
    weight_bytes: int
    mapped_bytes: int
    allocated_bytes: int
    bos_token: int
    eos_token: int
    arithmetic: int
    image_size: int
    patch_size: int
    n_channel: int
    n_class: int
    n_token: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("family", c_char_p),
        ("cpu", c_char_p),
        ("n_layer", c_uint32),
        ("d_model", c_uint32),
        ("n_head", c_uint32),
        ("n_kv_head", c_uint32),
        ("d_head", c_uint32),
        ("d_ff", c_uint32),
        ("n_vocab", c_uint32),
        ("max_positions", c_uint32),
        ("n_granularity", c_uint32),
        ("quantum", c_uint32),
        ("n_shell", c_uint32),
        ("n_shell_resident", c_uint32),
        ("n_param", c_uint64),
        ("file_bytes", c_uint64),
        ("weight_bytes", c_uint64),
        ("mapped_bytes", c_uint64),
        ("allocated_bytes", c_uint64),
        ("bos_token", c_int32),
        ("eos_token", c_int32),
        ("arithmetic", c_int),
        ("image_size", c_uint32),
        ("patch_size", c_uint32),
        ("n_channel", c_uint32),
        ("n_class", c_uint32),
        ("n_token", c_uint32),
    ]


@dataclass(frozen=True)
class ModelInfo:
    """The fields of mf_model_info, whose units and meaning matformer.h gives."""

    family: str
    cpu: str
    n_layer: int
    d_model: int
    n_head: int
    n_kv_head: int
    d_head: int
    d_ff: int
    n_vocab: int
    max_positions: int
    n_granularity: int
    quantum: int
    n_shell: int
    n_shell_resident: int
    n_param: int
    file_bytes: int
    weight_bytes: int
    mapped_bytes: int
    allocated_bytes: int
    bos_token: int
    eos_token: int
    arithmetic: Arithmetic
    image_size: int
    patch_size: int
    n_channel: int
    n_class: int
    n_token: int

    @classmethod
    def read(cls, values: mf_model_info) -> "ModelInfo":
        return cls(
            (values.family or b"").decode("utf-8", "replace"),
            (values.cpu or b"").decode("utf-8", "replace"),
            values.n_layer,
            values.d_model,
            values.n_head,
            values.n_kv_head,
            values.d_head,
            values.d_ff,
            values.n_vocab,
            values.max_positions,
            values.n_granularity,
            values.quantum,
            values.n_shell,
            values.n_shell_resident,
            values.n_param,
            values.file_bytes,
            values.weight_bytes,
            values.mapped_bytes,
            values.allocated_bytes,
            values.bos_token,
            values.eos_token,
            Arithmetic(values.arithmetic),
            values.image_size,
            values.patch_size,
            values.n_channel,
            values.n_class,
            values.n_token,
        )


class mf_grow_options(Structure):
    struct_size: int
    progress: Any
    progress_user: Optional[int]
    _fields_ = [
        ("struct_size", c_size_t),
        ("progress", mf_progress),
        ("progress_user", c_void_p),
    ]


class mf_trim_options(Structure):
    struct_size: int
    wait_ms: int
    reserved: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("wait_ms", c_uint32),
        ("reserved", c_uint32),
    ]


class mf_shell_info(Structure):
    struct_size: int
    file_offset: int
    stored_bytes: int
    memory_bytes: int
    content_hash: int
    fed_bytes: int
    granularity: Optional[bytes]
    present: int
    resident: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("file_offset", c_uint64),
        ("stored_bytes", c_uint64),
        ("memory_bytes", c_uint64),
        ("content_hash", c_uint64),
        ("fed_bytes", c_uint64),
        ("granularity", c_char_p),
        ("present", c_int),
        ("resident", c_int),
    ]


@dataclass(frozen=True)
class ShellInfo:
    """The fields of mf_shell_info, whose units and meaning matformer.h gives."""

    file_offset: int
    stored_bytes: int
    memory_bytes: int
    content_hash: int
    fed_bytes: int
    granularity: str
    present: bool
    resident: bool

    @classmethod
    def read(cls, values: mf_shell_info) -> "ShellInfo":
        return cls(
            values.file_offset,
            values.stored_bytes,
            values.memory_bytes,
            values.content_hash,
            values.fed_bytes,
            (values.granularity or b"").decode("utf-8", "replace"),
            bool(values.present),
            bool(values.resident),
        )


class mf_submodel_spec(Structure):
    struct_size: int
    text: Optional[bytes]
    granularity: Optional[bytes]
    ratio: float
    ffn: Optional[int]
    n_ffn: int
    heads: Optional[int]
    n_heads: int
    skip: Optional[int]
    n_skip: int
    max_params: int
    max_bytes: int
    max_flops: int
    max_ms: float
    _fields_ = [
        ("struct_size", c_size_t),
        ("text", c_char_p),
        ("granularity", c_char_p),
        ("ratio", c_double),
        ("ffn", c_void_p),
        ("n_ffn", c_size_t),
        ("heads", c_void_p),
        ("n_heads", c_size_t),
        ("skip", c_void_p),
        ("n_skip", c_size_t),
        ("max_params", c_uint64),
        ("max_bytes", c_uint64),
        ("max_flops", c_uint64),
        ("max_ms", c_double),
    ]


class mf_submodel_info(Structure):
    struct_size: int
    n_param: int
    n_param_body: int
    bytes_per_token: int
    flops_per_token: int
    cache_bytes_per_position: int
    n_layer_kept: int
    n_shell: int
    view_bytes: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_param", c_uint64),
        ("n_param_body", c_uint64),
        ("bytes_per_token", c_uint64),
        ("flops_per_token", c_uint64),
        ("cache_bytes_per_position", c_uint64),
        ("n_layer_kept", c_uint32),
        ("n_shell", c_uint32),
        ("view_bytes", c_uint32),
    ]


@dataclass(frozen=True)
class SubmodelInfo:
    """The fields of mf_submodel_info, whose units and meaning matformer.h gives."""

    n_param: int
    n_param_body: int
    bytes_per_token: int
    flops_per_token: int
    cache_bytes_per_position: int
    n_layer_kept: int
    n_shell: int
    view_bytes: int

    @classmethod
    def read(cls, values: mf_submodel_info) -> "SubmodelInfo":
        return cls(
            values.n_param,
            values.n_param_body,
            values.bytes_per_token,
            values.flops_per_token,
            values.cache_bytes_per_position,
            values.n_layer_kept,
            values.n_shell,
            values.view_bytes,
        )


class mf_plan_info(Structure):
    struct_size: int
    n_entry: int
    n_thread: int
    machine: Optional[bytes]
    is_timed_here: int
    reserved: int
    calibration: Optional[bytes]
    calibration_hash: int
    n_predicted: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_entry", c_uint32),
        ("n_thread", c_uint32),
        ("machine", c_char_p),
        ("is_timed_here", c_int),
        ("reserved", c_int),
        ("calibration", c_char_p),
        ("calibration_hash", c_uint64),
        ("n_predicted", c_uint64),
    ]


@dataclass(frozen=True)
class PlanInfo:
    """The fields of mf_plan_info, whose units and meaning matformer.h gives."""

    n_entry: int
    n_thread: int
    machine: str
    is_timed_here: bool
    calibration: str
    calibration_hash: int
    n_predicted: int

    @classmethod
    def read(cls, values: mf_plan_info) -> "PlanInfo":
        return cls(
            values.n_entry,
            values.n_thread,
            (values.machine or b"").decode("utf-8", "replace"),
            bool(values.is_timed_here),
            (values.calibration or b"").decode("utf-8", "replace"),
            values.calibration_hash,
            values.n_predicted,
        )


class mf_plan_entry(Structure):
    struct_size: int
    n_param: int
    bytes_per_token: int
    flops_per_token: int
    loss: float
    kl: float
    agreement: float
    acceptance: float
    decode_ms: float
    prefill_ms: float
    n_shell: int
    reserved: int
    text: Optional[int]
    text_capacity: int
    text_bytes: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_param", c_uint64),
        ("bytes_per_token", c_uint64),
        ("flops_per_token", c_uint64),
        ("loss", c_double),
        ("kl", c_double),
        ("agreement", c_double),
        ("acceptance", c_double),
        ("decode_ms", c_double),
        ("prefill_ms", c_double),
        ("n_shell", c_uint32),
        ("reserved", c_uint32),
        ("text", c_void_p),
        ("text_capacity", c_size_t),
        ("text_bytes", c_size_t),
    ]


@dataclass(frozen=True)
class PlanEntry:
    """The fields of mf_plan_entry, whose units and meaning matformer.h gives."""

    n_param: int
    bytes_per_token: int
    flops_per_token: int
    loss: float
    kl: float
    agreement: float
    acceptance: float
    decode_ms: float
    prefill_ms: float
    n_shell: int
    text: str

    @classmethod
    def read(cls, values: mf_plan_entry) -> "PlanEntry":
        return cls(
            values.n_param,
            values.bytes_per_token,
            values.flops_per_token,
            values.loss,
            values.kl,
            values.agreement,
            values.acceptance,
            values.decode_ms,
            values.prefill_ms,
            values.n_shell,
            string_at(values.text or 0).decode("utf-8", "replace"),
        )


class mf_plan_draft(Structure):
    struct_size: int
    entry: int
    length: int
    acceptance: float
    cost: float
    verify_cost: float
    speedup: float
    _fields_ = [
        ("struct_size", c_size_t),
        ("entry", c_uint32),
        ("length", c_uint32),
        ("acceptance", c_double),
        ("cost", c_double),
        ("verify_cost", c_double),
        ("speedup", c_double),
    ]


@dataclass(frozen=True)
class PlanDraft:
    """The fields of mf_plan_draft, whose units and meaning matformer.h gives."""

    entry: int
    length: int
    acceptance: float
    cost: float
    verify_cost: float
    speedup: float

    @classmethod
    def read(cls, values: mf_plan_draft) -> "PlanDraft":
        return cls(
            values.entry,
            values.length,
            values.acceptance,
            values.cost,
            values.verify_cost,
            values.speedup,
        )


mf_task = CFUNCTYPE(None, c_void_p, c_uint32)


mf_parallel_for = CFUNCTYPE(None, c_void_p, c_uint32, mf_task, c_void_p)


class mf_executor_options(Structure):
    struct_size: int
    n_thread: int
    max_tokens: int
    max_requests: int
    spin_us: int
    cpus: Optional[int]
    n_cpu: int
    parallel_for: Any
    parallel_for_user: Optional[int]
    _fields_ = [
        ("struct_size", c_size_t),
        ("n_thread", c_uint32),
        ("max_tokens", c_uint32),
        ("max_requests", c_uint32),
        ("spin_us", c_uint32),
        ("cpus", c_void_p),
        ("n_cpu", c_size_t),
        ("parallel_for", mf_parallel_for),
        ("parallel_for_user", c_void_p),
    ]


class mf_session_options(Structure):
    struct_size: int
    max_positions: int
    cache_type: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("max_positions", c_uint32),
        ("cache_type", c_int),
    ]


class mf_request(Structure):
    session: Optional[int]
    submodel: Optional[int]
    tokens: Optional[int]
    n_token: int
    embeddings: Optional[int]
    embedding_stride: int
    logits_of: int
    reserved: int
    logits: Optional[int]
    logits_capacity: int
    logits_stride: int
    hidden: Optional[int]
    hidden_capacity: int
    hidden_stride: int
    adapter: Optional[int]
    status: int
    n_token_done: int
    elapsed_ns: int
    pixels: Optional[int]
    pooled: Optional[int]
    pooled_capacity: int
    _fields_ = [
        ("session", c_void_p),
        ("submodel", c_void_p),
        ("tokens", c_void_p),
        ("n_token", c_size_t),
        ("embeddings", c_void_p),
        ("embedding_stride", c_size_t),
        ("logits_of", c_int),
        ("reserved", c_uint32),
        ("logits", c_void_p),
        ("logits_capacity", c_size_t),
        ("logits_stride", c_size_t),
        ("hidden", c_void_p),
        ("hidden_capacity", c_size_t),
        ("hidden_stride", c_size_t),
        ("adapter", c_void_p),
        ("status", c_int),
        ("n_token_done", c_uint32),
        ("elapsed_ns", c_uint64),
        ("pixels", c_void_p),
        ("pooled", c_void_p),
        ("pooled_capacity", c_size_t),
    ]


class mf_tokenize_options(Structure):
    struct_size: int
    parse_control: int
    add_ends: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("parse_control", c_int),
        ("add_ends", c_int),
    ]


class mf_chat_message(Structure):
    role: Optional[bytes]
    content: Optional[int]
    content_bytes: int
    _fields_ = [
        ("role", c_char_p),
        ("content", c_void_p),
        ("content_bytes", c_size_t),
    ]


mf_logits_filter = CFUNCTYPE(c_int, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t)


class mf_sampler_options(Structure):
    struct_size: int
    seed: int
    temperature: float
    top_p: float
    min_p: float
    repetition_penalty: float
    top_k: int
    repetition_window: int
    filter: Any
    filter_user: Optional[int]
    _fields_ = [
        ("struct_size", c_size_t),
        ("seed", c_uint64),
        ("temperature", c_float),
        ("top_p", c_float),
        ("min_p", c_float),
        ("repetition_penalty", c_float),
        ("top_k", c_uint32),
        ("repetition_window", c_uint32),
        ("filter", mf_logits_filter),
        ("filter_user", c_void_p),
    ]


class mf_token_logprob(Structure):
    token: int
    logprob: float
    _fields_ = [
        ("token", c_int32),
        ("logprob", c_float),
    ]


class mf_token_event(Structure):
    token: int
    position: int
    text: Optional[int]
    text_bytes: int
    logprob: float
    submodel: Optional[int]
    top: Any
    n_top: int
    _fields_ = [
        ("token", c_int32),
        ("position", c_uint32),
        ("text", c_void_p),
        ("text_bytes", c_size_t),
        ("logprob", c_float),
        ("submodel", c_void_p),
        ("top", POINTER(mf_token_logprob)),
        ("n_top", c_size_t),
    ]


class mf_schedule_step(Structure):
    position: int
    submodel: Optional[int]
    _fields_ = [
        ("position", c_uint32),
        ("submodel", c_void_p),
    ]


mf_generate_options_on_token = CFUNCTYPE(c_int, c_void_p, c_void_p)


class mf_generate_options(Structure):
    struct_size: int
    prompt: Optional[bytes]
    tokens: Optional[int]
    n_token: int
    max_tokens: int
    n_top: int
    sampler: Optional[int]
    stop: Any
    n_stop: int
    schedule: Any
    n_schedule: int
    on_token: Any
    user: Optional[int]
    ignore_eos: int
    reserved: int
    draft: Optional[int]
    draft_tokens: int
    reserved_too: int
    fallback: Optional[int]
    _fields_ = [
        ("struct_size", c_size_t),
        ("prompt", c_char_p),
        ("tokens", c_void_p),
        ("n_token", c_size_t),
        ("max_tokens", c_uint32),
        ("n_top", c_uint32),
        ("sampler", c_void_p),
        ("stop", POINTER(c_char_p)),
        ("n_stop", c_size_t),
        ("schedule", POINTER(mf_schedule_step)),
        ("n_schedule", c_size_t),
        ("on_token", mf_generate_options_on_token),
        ("user", c_void_p),
        ("ignore_eos", c_int),
        ("reserved", c_uint32),
        ("draft", c_void_p),
        ("draft_tokens", c_uint32),
        ("reserved_too", c_uint32),
        ("fallback", c_void_p),
    ]


class mf_generate_result(Structure):
    struct_size: int
    finish: int
    n_prompt: int
    n_generated: int
    prompt_ns: int
    generate_ns: int
    schedule: Any
    schedule_capacity: int
    n_schedule: int
    n_drafted: int
    n_accepted: int
    n_verify: int
    reserved: int
    draft_ns: int
    verify_ns: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("finish", c_int),
        ("n_prompt", c_uint32),
        ("n_generated", c_uint32),
        ("prompt_ns", c_uint64),
        ("generate_ns", c_uint64),
        ("schedule", POINTER(mf_schedule_step)),
        ("schedule_capacity", c_size_t),
        ("n_schedule", c_size_t),
        ("n_drafted", c_uint32),
        ("n_accepted", c_uint32),
        ("n_verify", c_uint32),
        ("reserved", c_uint32),
        ("draft_ns", c_uint64),
        ("verify_ns", c_uint64),
    ]


class mf_token_batch(Structure):
    struct_size: int
    events: Any
    n_event: int
    event_bytes: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("events", POINTER(mf_token_event)),
        ("n_event", c_size_t),
        ("event_bytes", c_size_t),
    ]


class mf_governor_info(Structure):
    struct_size: int
    now_ns: int
    target_ns: float
    ns_per_token: float
    narrowing: float
    heat: float
    free_bytes: int
    n_queued: int
    n_member: int
    n_rung: int
    widest_rung: int
    n_shell: int
    reserved: int
    granularity: Optional[bytes]
    n_narrowed: int
    n_widened: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("now_ns", c_uint64),
        ("target_ns", c_double),
        ("ns_per_token", c_double),
        ("narrowing", c_double),
        ("heat", c_double),
        ("free_bytes", c_uint64),
        ("n_queued", c_uint32),
        ("n_member", c_uint32),
        ("n_rung", c_uint32),
        ("widest_rung", c_uint32),
        ("n_shell", c_uint32),
        ("reserved", c_uint32),
        ("granularity", c_char_p),
        ("n_narrowed", c_uint64),
        ("n_widened", c_uint64),
    ]


@dataclass(frozen=True)
class GovernorInfo:
    """The fields of mf_governor_info, whose units and meaning matformer.h gives."""

    now_ns: int
    target_ns: float
    ns_per_token: float
    narrowing: float
    heat: float
    free_bytes: int
    n_queued: int
    n_member: int
    n_rung: int
    widest_rung: int
    n_shell: int
    granularity: str
    n_narrowed: int
    n_widened: int

    @classmethod
    def read(cls, values: mf_governor_info) -> "GovernorInfo":
        return cls(
            values.now_ns,
            values.target_ns,
            values.ns_per_token,
            values.narrowing,
            values.heat,
            values.free_bytes,
            values.n_queued,
            values.n_member,
            values.n_rung,
            values.widest_rung,
            values.n_shell,
            (values.granularity or b"").decode("utf-8", "replace"),
            values.n_narrowed,
            values.n_widened,
        )


mf_governor_policy = CFUNCTYPE(c_double, c_void_p, c_void_p, c_void_p)


mf_governor_options_now_ns = CFUNCTYPE(c_uint64, c_void_p)


class mf_governor_options(Structure):
    struct_size: int
    rungs: Any
    n_rung: int
    tokens_per_second: float
    ms_per_token: float
    margin: float
    weight_bytes: int
    least_free_bytes: int
    queue_full: int
    smoothing_ms: int
    dwell_ms: int
    max_members: int
    when_missing: int
    reserved: int
    now_ns: Any
    clock_user: Optional[int]
    policy: Any
    policy_user: Optional[int]
    _fields_ = [
        ("struct_size", c_size_t),
        ("rungs", POINTER(c_void_p)),
        ("n_rung", c_size_t),
        ("tokens_per_second", c_double),
        ("ms_per_token", c_double),
        ("margin", c_double),
        ("weight_bytes", c_uint64),
        ("least_free_bytes", c_uint64),
        ("queue_full", c_uint32),
        ("smoothing_ms", c_uint32),
        ("dwell_ms", c_uint32),
        ("max_members", c_uint32),
        ("when_missing", c_int),
        ("reserved", c_uint32),
        ("now_ns", mf_governor_options_now_ns),
        ("clock_user", c_void_p),
        ("policy", mf_governor_policy),
        ("policy_user", c_void_p),
    ]


class mf_governor_member(Structure):
    struct_size: int
    narrowest: Optional[int]
    widest: Optional[int]
    weight: float
    _fields_ = [
        ("struct_size", c_size_t),
        ("narrowest", c_void_p),
        ("widest", c_void_p),
        ("weight", c_double),
    ]


class mf_governor_step(Structure):
    struct_size: int
    elapsed_ns: int
    members: Optional[int]
    n_token: Optional[int]
    n_member: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("elapsed_ns", c_uint64),
        ("members", c_void_p),
        ("n_token", c_void_p),
        ("n_member", c_size_t),
    ]


class mf_governor_signals(Structure):
    struct_size: int
    heat: float
    free_bytes: int
    n_queued: int
    reserved: int
    _fields_ = [
        ("struct_size", c_size_t),
        ("heat", c_double),
        ("free_bytes", c_uint64),
        ("n_queued", c_uint32),
        ("reserved", c_uint32),
    ]


STRUCTS = (mf_error, mf_allocator, mf_model_options, mf_model_info, mf_grow_options, mf_trim_options, mf_shell_info, mf_submodel_spec, mf_submodel_info, mf_plan_info, mf_plan_entry, mf_plan_draft, mf_executor_options, mf_session_options, mf_request, mf_tokenize_options, mf_chat_message, mf_sampler_options, mf_token_logprob, mf_token_event, mf_schedule_step, mf_generate_options, mf_generate_result, mf_token_batch, mf_governor_info, mf_governor_options, mf_governor_member, mf_governor_step, mf_governor_signals)

class Library:
    """The functions of a libmatformer. AttributeError: the library lacks one that this package calls."""

    def __init__(self, path: str) -> None:
        dll = CDLL(path)

        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(dll, name)
            found.restype = result
            found.argtypes = arguments
            return found

        self.mf_version: Callable[[], int] = function(
            "mf_version", c_uint32)
        self.mf_status_name: Callable[[Any], Optional[bytes]] = function(
            "mf_status_name", c_char_p, c_int)
        self.mf_status_text: Callable[[Any], Optional[bytes]] = function(
            "mf_status_text", c_char_p, c_int)
        self.mf_model_open: Callable[[Any, Any, Any, Any], int] = function(
            "mf_model_open", c_int, POINTER(c_void_p), c_char_p, POINTER(mf_model_options), POINTER(mf_error))
        self.mf_model_open_fd: Callable[[Any, Any, Any, Any, Any, Any], int] = function(
            "mf_model_open_fd", c_int, POINTER(c_void_p), c_int, c_uint64, c_uint64, POINTER(mf_model_options), POINTER(mf_error))
        self.mf_model_open_memory: Callable[[Any, Any, Any, Any, Any], int] = function(
            "mf_model_open_memory", c_int, POINTER(c_void_p), c_void_p, c_size_t, POINTER(mf_model_options), POINTER(mf_error))
        self.mf_model_close: Callable[[Any], None] = function(
            "mf_model_close", None, c_void_p)
        self.mf_model_info_get: Callable[[Any, Any], int] = function(
            "mf_model_info_get", c_int, c_void_p, POINTER(mf_model_info))
        self.mf_model_granularity: Callable[[Any, Any], Optional[bytes]] = function(
            "mf_model_granularity", c_char_p, c_void_p, c_uint32)
        self.mf_model_configuration: Callable[[Any, Any], Optional[bytes]] = function(
            "mf_model_configuration", c_char_p, c_void_p, c_uint32)
        self.mf_model_metadata: Callable[[Any, Any, Any], Optional[bytes]] = function(
            "mf_model_metadata", c_char_p, c_void_p, c_char_p, c_uint32)
        self.mf_model_grow: Callable[[Any, Any, Any, Any], int] = function(
            "mf_model_grow", c_int, c_void_p, c_char_p, POINTER(mf_grow_options), POINTER(mf_error))
        self.mf_model_trim: Callable[[Any, Any, Any, Any], int] = function(
            "mf_model_trim", c_int, c_void_p, c_char_p, POINTER(mf_trim_options), POINTER(mf_error))
        self.mf_model_attach: Callable[[Any, Any, Any], int] = function(
            "mf_model_attach", c_int, c_void_p, c_char_p, POINTER(mf_error))
        self.mf_model_attach_fd: Callable[[Any, Any, Any, Any, Any], int] = function(
            "mf_model_attach_fd", c_int, c_void_p, c_int, c_uint64, c_uint64, POINTER(mf_error))
        self.mf_model_shell_info_get: Callable[[Any, Any, Any], int] = function(
            "mf_model_shell_info_get", c_int, c_void_p, c_uint32, POINTER(mf_shell_info))
        self.mf_model_feed: Callable[[Any, Any, Any, Any, Any], int] = function(
            "mf_model_feed", c_int, c_void_p, c_uint32, c_void_p, c_size_t, POINTER(mf_error))
        self.mf_extract_submodel: Callable[[Any, Any, Any, Any], int] = function(
            "mf_extract_submodel", c_int, POINTER(c_void_p), c_void_p, POINTER(mf_submodel_spec), POINTER(mf_error))
        self.mf_extract_submodel_text: Callable[[Any, Any, Any, Any], int] = function(
            "mf_extract_submodel_text", c_int, POINTER(c_void_p), c_void_p, c_char_p, POINTER(mf_error))
        self.mf_submodel_close: Callable[[Any], None] = function(
            "mf_submodel_close", None, c_void_p)
        self.mf_submodel_info_get: Callable[[Any, Any], int] = function(
            "mf_submodel_info_get", c_int, c_void_p, POINTER(mf_submodel_info))
        self.mf_submodel_layer: Callable[[Any, Any, Any, Any, Any], int] = function(
            "mf_submodel_layer", c_int, c_void_p, c_uint32, c_void_p, c_void_p, c_void_p)
        self.mf_submodel_text: Callable[[Any, Any, Any, Any], int] = function(
            "mf_submodel_text", c_int, c_void_p, c_void_p, c_size_t, c_void_p)
        self.mf_model_plan_info: Callable[[Any, Any], int] = function(
            "mf_model_plan_info", c_int, c_void_p, POINTER(mf_plan_info))
        self.mf_model_plan_entry: Callable[[Any, Any, Any], int] = function(
            "mf_model_plan_entry", c_int, c_void_p, c_uint32, POINTER(mf_plan_entry))
        self.mf_model_plan_draft: Callable[[Any, Any, Any], int] = function(
            "mf_model_plan_draft", c_int, c_void_p, c_int, POINTER(mf_plan_draft))
        self.mf_executor_create: Callable[[Any, Any, Any, Any], int] = function(
            "mf_executor_create", c_int, POINTER(c_void_p), c_void_p, POINTER(mf_executor_options), POINTER(mf_error))
        self.mf_executor_close: Callable[[Any], None] = function(
            "mf_executor_close", None, c_void_p)
        self.mf_session_create: Callable[[Any, Any, Any, Any], int] = function(
            "mf_session_create", c_int, POINTER(c_void_p), c_void_p, POINTER(mf_session_options), POINTER(mf_error))
        self.mf_session_close: Callable[[Any], None] = function(
            "mf_session_close", None, c_void_p)
        self.mf_session_position: Callable[[Any], int] = function(
            "mf_session_position", c_uint32, c_void_p)
        self.mf_session_tokens: Callable[[Any], Optional[int]] = function(
            "mf_session_tokens", c_void_p, c_void_p)
        self.mf_session_rewind: Callable[[Any, Any], int] = function(
            "mf_session_rewind", c_int, c_void_p, c_uint32)
        self.mf_session_fork: Callable[[Any, Any, Any], int] = function(
            "mf_session_fork", c_int, POINTER(c_void_p), c_void_p, POINTER(mf_error))
        self.mf_session_save: Callable[[Any, Any, Any], int] = function(
            "mf_session_save", c_int, c_void_p, c_char_p, POINTER(mf_error))
        self.mf_session_load: Callable[[Any, Any, Any], int] = function(
            "mf_session_load", c_int, c_void_p, c_char_p, POINTER(mf_error))
        self.mf_session_cancel: Callable[[Any], None] = function(
            "mf_session_cancel", None, c_void_p)
        self.mf_forward: Callable[[Any, Any, Any, Any, Any], int] = function(
            "mf_forward", c_int, c_void_p, POINTER(mf_request), c_size_t, c_size_t, POINTER(mf_error))
        self.mf_tokenize: Callable[[Any, Any, Any, Any, Any, Any], int] = function(
            "mf_tokenize", c_int, c_void_p, c_char_p, c_size_t, c_void_p, c_size_t, c_void_p)
        self.mf_tokenize_with: Callable[[Any, Any, Any, Any, Any, Any, Any], int] = function(
            "mf_tokenize_with", c_int, c_void_p, POINTER(mf_tokenize_options), c_char_p, c_size_t, c_void_p, c_size_t, c_void_p)
        self.mf_detokenize: Callable[[Any, Any, Any, Any, Any, Any], int] = function(
            "mf_detokenize", c_int, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p)
        self.mf_model_chat_format: Callable[[Any], int] = function(
            "mf_model_chat_format", c_int, c_void_p)
        self.mf_chat_render: Callable[[Any, Any, Any, Any, Any, Any, Any], int] = function(
            "mf_chat_render", c_int, c_void_p, POINTER(mf_chat_message), c_size_t, c_int, c_void_p, c_size_t, c_void_p)
        self.mf_chat_render_as: Callable[[Any, Any, Any, Any, Any, Any, Any, Any], int] = function(
            "mf_chat_render_as", c_int, c_void_p, c_int, POINTER(mf_chat_message), c_size_t, c_int, c_void_p, c_size_t, c_void_p)
        self.mf_sampler_create: Callable[[Any, Any, Any, Any], int] = function(
            "mf_sampler_create", c_int, POINTER(c_void_p), c_void_p, POINTER(mf_sampler_options), POINTER(mf_error))
        self.mf_sampler_close: Callable[[Any], None] = function(
            "mf_sampler_close", None, c_void_p)
        self.mf_sampler_sample: Callable[[Any, Any, Any, Any, Any, Any, Any], int] = function(
            "mf_sampler_sample", c_int, c_void_p, c_void_p, c_size_t, c_void_p, POINTER(mf_token_logprob), POINTER(mf_token_logprob), c_size_t)
        self.mf_generate: Callable[[Any, Any, Any, Any, Any, Any], int] = function(
            "mf_generate", c_int, c_void_p, c_void_p, c_void_p, POINTER(mf_generate_options), POINTER(mf_generate_result), POINTER(mf_error))
        self.mf_generation_create: Callable[[Any, Any, Any, Any, Any, Any, Any], int] = function(
            "mf_generation_create", c_int, POINTER(c_void_p), c_void_p, c_void_p, c_void_p, POINTER(mf_generate_options), POINTER(mf_generate_result), POINTER(mf_error))
        self.mf_generation_next: Callable[[Any, Any, Any, Any], int] = function(
            "mf_generation_next", c_int, c_void_p, c_uint64, POINTER(mf_token_batch), POINTER(mf_error))
        self.mf_generation_close: Callable[[Any], None] = function(
            "mf_generation_close", None, c_void_p)
        self.mf_governor_create: Callable[[Any, Any, Any], int] = function(
            "mf_governor_create", c_int, POINTER(c_void_p), POINTER(mf_governor_options), POINTER(mf_error))
        self.mf_governor_close: Callable[[Any], None] = function(
            "mf_governor_close", None, c_void_p)
        self.mf_governor_join: Callable[[Any, Any, Any, Any], int] = function(
            "mf_governor_join", c_int, c_void_p, POINTER(mf_governor_member), c_void_p, POINTER(mf_error))
        self.mf_governor_leave: Callable[[Any, Any], int] = function(
            "mf_governor_leave", c_int, c_void_p, c_uint32)
        self.mf_governor_choose: Callable[[Any, Any, Any], int] = function(
            "mf_governor_choose", c_int, c_void_p, c_uint32, POINTER(c_void_p))
        self.mf_governor_report: Callable[[Any, Any], int] = function(
            "mf_governor_report", c_int, c_void_p, POINTER(mf_governor_step))
        self.mf_governor_signal: Callable[[Any, Any], int] = function(
            "mf_governor_signal", c_int, c_void_p, POINTER(mf_governor_signals))
        self.mf_governor_info_get: Callable[[Any, Any], int] = function(
            "mf_governor_info_get", c_int, c_void_p, POINTER(mf_governor_info))
        self.mf_governor_predict: Callable[[Any, Any], float] = function(
            "mf_governor_predict", c_double, c_void_p, c_uint32)
