"""The stored plan: which widths are best for a budget."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Optional, Tuple

from . import _abi
from ._abi import PlanDraft, PlanEntry, PlanInfo, Status
from ._errors import make_exception
from ._handles import Handle
from ._library import lib


@dataclass(frozen=True)
class Plan:
    """What was measured: `entries` of falling loss, each the best that was found for what it costs, whose `text` a
    Submodel takes. The last is the whole model."""

    info: PlanInfo
    entries: Tuple[PlanEntry, ...]


def read_plan(model: Handle) -> Optional[Plan]:
    values = _abi.mf_plan_info(struct_size=ctypes.sizeof(_abi.mf_plan_info))
    status = lib.mf_model_plan_info(model, values)
    if status == Status.E_NOT_FOUND:
        return None
    if status != Status.OK:
        raise make_exception(status, what="reading the plan")
    return Plan(PlanInfo.read(values), tuple(_read_entry(model, index) for index in range(values.n_entry)))


def _read_entry(model: Handle, index: int) -> PlanEntry:
    entry = _abi.mf_plan_entry(struct_size=ctypes.sizeof(_abi.mf_plan_entry))
    status = lib.mf_model_plan_entry(model, index, entry)  # without room for the text, which says how much it needs
    text = ctypes.create_string_buffer(entry.text_bytes)
    if status in (Status.OK, Status.E_CAPACITY):
        entry.text, entry.text_capacity = ctypes.addressof(text), len(text)
        status = lib.mf_model_plan_entry(model, index, entry)
    if status != Status.OK:
        raise make_exception(status, what=f"reading entry {index} of the plan")
    return PlanEntry.read(entry)


def read_draft(model: Handle, greedy: bool) -> Optional[PlanDraft]:
    draft = _abi.mf_plan_draft(struct_size=ctypes.sizeof(_abi.mf_plan_draft))
    status = lib.mf_model_plan_draft(model, greedy, draft)
    if status == Status.E_NOT_FOUND:
        return None
    if status != Status.OK:
        raise make_exception(status, what="looking for a draft in the plan")
    return PlanDraft.read(draft)
