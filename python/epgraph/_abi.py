"""The C structs as ctypes, and the check that they lie as the library's do.

``size`` fields and defaults are filled in by :func:`init`, which mirrors the headers' INIT macros where these are not
all zero.
"""
from __future__ import annotations

import ctypes as c
from typing import Any, Dict, List, Tuple, Type, TypeVar

u16, u32, u64, i32, ptr, text = c.c_uint16, c.c_uint32, c.c_uint64, c.c_int, c.c_void_p, c.c_char_p
LANES_MAX = 8


def _all(kind: Any, names: str) -> List[Tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class AbiRow(c.Structure):
    _fields_ = [("type", text), ("field", text), ("offset", c.c_size_t), ("bytes", c.c_size_t)]


class SettingInfo(c.Structure):
    _fields_ = _all(text, "name default_value help value")


class DeviceOptions(c.Structure):
    _fields_ = [("size", u32), ("kind", i32), ("log", ptr), ("log_ctx", ptr), ("log_level", i32), ("ordinal", i32),
                ("simulation", ptr)]


class DeviceInfo(c.Structure):
    _fields_ = [("size", u32), ("kind", i32), ("name", c.c_char * 64), ("units", u32), ("memory_bytes", u64),
                ("ordinal", i32)]


class TeamOptions(c.Structure):
    _fields_ = _all(u32, "size timeout_ms")


class TeamStats(c.Structure):
    _fields_ = [("size", u32)] + _all(u64, "barriers allgathers")


class GroupOptions(c.Structure):
    _fields_ = (_all(u32, "size experts logical_experts hidden topk max_tokens slots lanes")
                + _all(i32, "row_type layout")
                + _all(u32, "row_align rows_per_expert max_expert_rows timeout_ms first_epoch scale_power_of_two")
                + [("scale_layout", i32)] + _all(u32, "row_bytes scale_bytes"))


class DispatchArgs(c.Structure):
    _fields_ = [("size", u32), ("lane", u32), ("mode", i32), ("bucket", u32), ("tokens", ptr), ("rows", ptr),
                ("topk_ids", ptr), ("topk_type", i32), ("topk_weights", ptr), ("input_type", i32), ("scales", ptr)]


class DispatchView(c.Structure):
    _fields_ = (_all(u32, "size local_experts first_expert row_capacity")
                + _all(ptr, "rows row_index offsets counts total row_source row_token row_weight")
                + [("row_stride", u64), ("scales", ptr)]
                + _all(u64, "scale_expert_stride scale_row_stride scale_block_stride"))


class ExpertsOptions(c.Structure):
    _fields_ = _all(u32, "size local_experts hidden intermediate") + _all(i32, "row_type weight_type")


class ExpertsArgs(c.Structure):
    _fields_ = ([("size", u32)] + _all(ptr, "view gate_up down workspace") + [("workspace_bytes", c.c_size_t)]
                + [("out", ptr)])


class GroupRecord(c.Structure):
    _fields_ = ([("size", u32), ("status", i32), ("operation", i32)] + _all(u32, "lane epoch peer")
                + _all(u64, "expected seen time_ns"))


class GroupStats(c.Structure):
    _fields_ = [("size", u32)] + _all(u64, "issued captured cleans pairs dropped_tokens dropped_rows bad_ids flagged "
                                           "timeouts region_bytes local_bytes expert_input_bytes")


class RunnerInput(c.Structure):
    _fields_ = [("name", text), ("address", ptr)]


class StepCall(c.Structure):
    _fields_ = (_all(u32, "size variant bucket") + [("phase", i32), ("stream", ptr), ("runner", ptr), ("inputs", ptr),
                                                    ("input_count", u32)])


class Segment(c.Structure):
    _fields_ = [("fn", ptr), ("ctx", ptr), ("eager", i32), ("name", text)]


class RunnerOptions(c.Structure):
    _fields_ = [("size", u32), ("segments", ptr), ("segment_count", u32), ("buckets", ptr), ("bucket_count", u32),
                ("max_bucket", u32), ("groups", ptr), ("group_count", u32), ("warmups", i32), ("probe", i32),
                ("mode", i32), ("progress", ptr), ("progress_ctx", ptr), ("observe", ptr),
                ("observe_ctx", ptr), ("scopes", ptr)]


class RunnerStep(c.Structure):
    _fields_ = (_all(u32, "size variant tokens") + [("eager", i32), ("stream", ptr), ("inputs", ptr),
                                                    ("input_count", u32)])


class RunnerStats(c.Structure):
    _fields_ = (_all(u32, "size entries") + _all(u64, "captures probes replays eager failures tokens padding crossings")
                + [("capture_us", c.c_double), ("pool_bytes", u64), ("updates", u64)])


class ScopeRuntime(c.Structure):
    _fields_ = _all(u32, "size") + _all(text, "name") + _all(ptr, "ctx get set restore")


class ScopeOptions(c.Structure):
    _fields_ = [("size", u32), ("best_effort", u32), ("runtimes", ptr), ("runtime_count", c.c_size_t)]


class ScopeEntry(c.Structure):
    _fields_ = [("name", c.c_char * 32), ("state", i32), ("reason", c.c_char * 192)]


class ScopeReport(c.Structure):
    _fields_ = [("size", u32), ("count", u32), ("entries", ScopeEntry * 16)]


class Member(c.Structure):
    _fields_ = _all(u32, "incarnation state")


class Admission(c.Structure):
    _fields_ = _all(u32, "size ranks") + _all(ptr, "members epochs")


class StepConfig(c.Structure):
    _fields_ = ([("size", u32), ("policy", i32)] + _all(u32, "chunk prefill_burst ll_max_tokens")
                + [("mode", i32), ("buckets", ptr)] + _all(u32, "bucket_count lanes"))


class StepReport(c.Structure):
    _fields_ = (_all(u32, "prefill_tokens decode_tokens spec_tokens prefill_streak")
                + [("pairs", u32 * LANES_MAX), ("epochs", u32 * LANES_MAX), ("incarnation", u32)]
                + _all(u16, "stop error join alive"))


class StepPlan(c.Structure):
    _fields_ = (_all(i32, "phase mode") + _all(u32, "tokens bucket")
                + [("pairs", u32 * LANES_MAX), ("join_epochs", u32 * LANES_MAX), ("join_ranks", u32)]
                + _all(u16, "stop error") + _all(u32, "error_rank incarnation") + _all(u16, "alive join"))


STRUCTS: Dict[str, Type[c.Structure]] = {
    "epg_setting_info": SettingInfo, "epg_device_options": DeviceOptions, "epg_device_info": DeviceInfo,
    "epg_team_options": TeamOptions, "epg_team_stats": TeamStats, "epg_group_options": GroupOptions,
    "epg_dispatch_args": DispatchArgs, "epg_dispatch_view": DispatchView, "epg_experts_options": ExpertsOptions,
    "epg_experts_args": ExpertsArgs, "epg_group_record": GroupRecord,
    "epg_group_stats": GroupStats, "epg_runner_input": RunnerInput, "epg_step_call": StepCall, "epg_segment": Segment,
    "epg_runner_options": RunnerOptions, "epg_runner_step": RunnerStep, "epg_runner_stats": RunnerStats,
    "epg_scope_runtime": ScopeRuntime, "epg_scope_options": ScopeOptions, "epg_scope_entry": ScopeEntry,
    "epg_scope_report": ScopeReport, "epg_member": Member, "epg_admission": Admission,
    "epg_step_config": StepConfig, "epg_step_report": StepReport, "epg_step_plan": StepPlan,
}

_DEFAULTS: Dict[str, Dict[str, int]] = {
    "DeviceOptions": {"log_level": 1},
    "GroupOptions": {"lanes": 1},
    "DispatchArgs": {"input_type": 1},
    "RunnerOptions": {"warmups": -1, "probe": 1, "mode": 1},
}

S = TypeVar("S", bound=c.Structure)


def init(struct: Type[S], **fields: Any) -> S:
    """A struct as its INIT macro leaves it, then with `fields` set."""
    made = struct()
    values = {"size": c.sizeof(struct), **_DEFAULTS.get(struct.__name__, {}), **fields}
    for name, value in values.items():
        setattr(made, name, value)
    return made


def values(struct: c.Structure) -> Dict[str, Any]:
    """A struct's fields but its ``size``, as a dict."""
    return {name: getattr(struct, name) for name, *_ in struct._fields_ if name != "size"}


def differences(rows: List[Tuple[str, str, int, int]],
                structs: Dict[str, Type[c.Structure]] = STRUCTS) -> List[str]:
    """What differs between the library's rows (type, field, offset, bytes) and `structs`; empty if nothing does."""
    theirs = {(kind, field): (offset, size) for kind, field, offset, size in rows}
    ours: Dict[Tuple[str, str], Tuple[int, int]] = {}
    for kind, struct in structs.items():
        ours[kind, ""] = (0, c.sizeof(struct))
        for name, *_ in struct._fields_:
            at = getattr(struct, name)
            ours[kind, name] = (at.offset, at.size)
    told = []
    for key in sorted(set(theirs) | set(ours)):
        if theirs.get(key) != ours.get(key):
            told.append(f"{'.'.join(filter(None, key))}: (offset, bytes) is {theirs.get(key)} in the library and "
                        f"{ours.get(key)} here")
    return told
