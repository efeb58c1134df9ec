"""Finds libepgraph.so, checks it, and declares its calls. A call that fails raises :class:`Error`."""
from __future__ import annotations

import ctypes as c
import os
from pathlib import Path
from typing import Any, Dict, List, Tuple

from . import _abi
from ._abi import i32, ptr, text, u32, u64

VERSION = "0.1.0"
SONAME = "libepgraph.so." + VERSION.split(".")[0]

OK, INVALID, UNSUPPORTED, STATE, NOT_READY, ABORTED, ESCAPED, CAPTURE_IMPLICIT = 0, 1, 3, 4, 6, 9, 18, 906


class LibraryError(ImportError):
    """libepgraph.so was not found, or is not one that this package can use. The message says what was tried."""


class Error(RuntimeError):
    """A call of the library failed.

    Attributes:
        code: the ``epg_status``, an int (906 for ``EPG_ERR_CAPTURE_IMPLICIT``).
        name: its name, ``"EPG_ERR_CAPTURE_IMPLICIT"``.
        native: the CUDA runtime's code for it, 0 where CUDA has none.
        message: one sentence with the exact cause and its values.
    """

    def __init__(self, code: int, message: str = "") -> None:
        self.code = code
        self.name = lib.epg_status_name(code).decode()
        self.native: int = lib.epg_status_native(code)
        self.message = message or lib.epg_status_text(code).decode()
        super().__init__(f"{self.name}: {self.message}")

    def __reduce__(self) -> Tuple[Any, Tuple[int, str]]:
        return type(self), (self.code, self.message)


# ---- finding it ----

def candidates() -> List[str]:
    """What is tried, in order: what EPGRAPH_LIBRARY names and nothing else; or the package's folder, then the loader's
    path (LD_LIBRARY_PATH, ld.so.cache)."""
    named = os.environ.get("EPGRAPH_LIBRARY")
    if named:
        return [named]
    folder = Path(__file__).resolve().parent
    return [str(folder / SONAME), SONAME]


def _open() -> Tuple[c.CDLL, str]:
    tried = []
    for name in candidates():
        try:
            return c.CDLL(name), name
        except OSError as error:
            tried.append(f"  {name}: {error}")
    raise LibraryError("epgraph: the library could not be loaded. Tried:\n" + "\n".join(tried) +
                       "\nBuild it with `make` and set EPGRAPH_LIBRARY to the file, or install it with `make install`.")


# ---- its calls ----

# Those that return a status: it is checked. Any pointer is `ptr`.
_CHECKED: Dict[str, List[Any]] = {
    "epg_abi_get": [c.c_size_t, ptr], "epg_setting_get": [c.c_size_t, ptr],
    "epg_device_create": [ptr, ptr], "epg_device_describe": [ptr, ptr], "epg_device_synchronize": [ptr],
    "epg_stream_create": [ptr, i32, ptr], "epg_stream_destroy": [ptr, ptr], "epg_stream_synchronize": [ptr, ptr],
    "epg_memory_alloc": [ptr, i32, c.c_size_t, ptr], "epg_memory_free": [ptr, i32, ptr],
    "epg_memset_async": [ptr, ptr, i32, c.c_size_t, ptr],
    "epg_capture_mode_exchange": [ptr, ptr], "epg_capture_query": [ptr, ptr, ptr, ptr],
    "epg_memory_info": [ptr, ptr, ptr],
    "epg_device_copy_rate": [ptr, c.c_size_t, ptr],
    "epg_timestamp_async": [ptr, ptr, ptr],
    "epg_event_create_order": [ptr, ptr], "epg_event_destroy": [ptr, ptr], "epg_event_record": [ptr, ptr, ptr],
    "epg_stream_wait_event": [ptr, ptr, ptr],
    "epg_host_func": [ptr, ptr, ptr, ptr, text],
    "epg_team_create_threads": [ptr, ptr, u32, ptr], "epg_team_barrier": [ptr],
    "epg_team_allgather": [ptr, ptr, c.c_size_t, ptr], "epg_team_abort": [ptr, text],
    "epg_team_allgather_begin": [ptr, ptr, c.c_size_t], "epg_team_allgather_end": [ptr, ptr],
    "epg_team_retire": [ptr, u32], "epg_team_rejoin": [ptr, u32, ptr], "epg_team_get_stats": [ptr, ptr],
    "epg_group_create": [ptr, ptr, ptr], "epg_group_get_options": [ptr, ptr],
    "epg_dispatch": [ptr, ptr, ptr, ptr], "epg_combine": [ptr, u32, ptr, ptr, ptr],
    "epg_dispatch_send": [ptr, ptr, ptr], "epg_dispatch_recv": [ptr, u32, ptr, ptr],
    "epg_combine_send": [ptr, u32, ptr, ptr], "epg_combine_recv": [ptr, u32, ptr, ptr],
    "epg_pair_abandon": [ptr, u32, ptr], "epg_group_view": [ptr, u32, ptr],
    "epg_group_expert_map": [ptr, ptr], "epg_group_flags": [ptr, u32, ptr], "epg_group_check": [ptr, ptr],
    "epg_group_join": [ptr, ptr, ptr], "epg_group_admit": [ptr, ptr, ptr],
    "epg_group_plan_bytes": [ptr, u32, ptr],
    "epg_group_fill": [ptr, u32, u32, ptr, ptr, ptr], "epg_group_rehearse": [ptr, i32, ptr],
    "epg_group_alive": [ptr, u32, ptr], "epg_group_mask": [ptr, u32],
    "epg_group_clear_record": [ptr], "epg_group_get_stats": [ptr, ptr],
    "epg_runner_create": [ptr, ptr, ptr], "epg_runner_run": [ptr, ptr], "epg_runner_capture_all": [ptr, ptr],
    "epg_runner_reset": [ptr], "epg_runner_bucket": [ptr, u32, ptr], "epg_runner_get_stats": [ptr, ptr],
    "epg_runner_forget_stream": [ptr, ptr], "epg_runner_dot": [ptr, u32, u32, ptr, ptr],
    "epg_step_alloc": [ptr, c.c_size_t, ptr],
    "epg_experts_create": [ptr, ptr, ptr], "epg_experts_workspace": [ptr, u32, ptr],
    "epg_experts_run": [ptr, ptr, ptr],
    "epg_step_plan_all": [ptr, ptr, u32, ptr], "epg_stepper_create": [ptr, ptr, ptr],
    "epg_stepper_begin": [ptr, ptr], "epg_stepper_end": [ptr, ptr, ptr], "epg_stepper_admission": [ptr, ptr],
    "epg_scope_table_create": [ptr, ptr], "epg_scope_enter": [ptr, i32, ptr, ptr, ptr], "epg_scope_leave": [ptr],
    "epg_scope_verify": [ptr, ptr, i32, ptr, ptr],
}

_PLAIN: Dict[str, Tuple[Any, List[Any]]] = {
    "epg_version": (text, []), "epg_message": (text, []),
    "epg_status_name": (text, [i32]), "epg_status_text": (text, [i32]), "epg_status_native": (i32, [i32]),
    "epg_abi_count": (c.c_size_t, []), "epg_setting_count": (c.c_size_t, []),
    "epg_device_destroy": (None, [ptr]), "epg_device_now_ns": (u64, [ptr]), "epg_stream_query": (i32, [ptr, ptr]),
    "epg_team_destroy": (None, [ptr]), "epg_team_rank": (u32, [ptr]), "epg_team_size": (u32, [ptr]),
    "epg_group_destroy": (None, [ptr]), "epg_runner_destroy": (None, [ptr]),
    "epg_scope_table_destroy": (None, [ptr]), "epg_experts_destroy": (None, [ptr]),
    "epg_stepper_destroy": (None, [ptr]), "epg_team_incarnation": (u32, [ptr]), "epg_team_transport": (text, [ptr]),
}


def _checked(status: int, function: Any, arguments: Any) -> int:
    if status != OK:
        raise Error(status, lib.epg_message().decode(errors="replace"))
    return status


def _declare(library: c.CDLL, path: str) -> None:
    try:
        for name, arguments in _CHECKED.items():
            function = getattr(library, name)
            function.restype, function.argtypes, function.errcheck = i32, arguments, _checked
        for name, (result, arguments) in _PLAIN.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise LibraryError(f"epgraph: {path} is not a library of version {VERSION}: {error}") from None


def abi_rows(library: c.CDLL) -> List[Tuple[str, str, int, int]]:
    """The library's table of struct layouts (``epgraph/abi.h``)."""
    rows = []
    for index in range(library.epg_abi_count()):
        row = _abi.AbiRow()
        library.epg_abi_get(index, c.byref(row))
        rows.append((row.type.decode(), row.field.decode(), row.offset, row.bytes))
    return rows


def _load() -> Tuple[c.CDLL, str]:
    library, path = _open()
    _declare(library, path)
    version = library.epg_version().decode()
    if version.split(".")[:2] != VERSION.split(".")[:2]:
        raise LibraryError(f"epgraph: {path} is version {version}, this package is {VERSION}")
    differing = _abi.differences(abi_rows(library))
    if differing:
        raise LibraryError(f"epgraph: the structs of {path} lie otherwise than this package's:\n  " +
                           "\n  ".join(differing))
    return library, path


def loaded_from() -> str:
    """The file the library was loaded from, as the system knows it, else the name it was asked for by."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                if os.path.basename(line.rstrip("\n")).startswith("libepgraph.so"):
                    return line.rstrip("\n").split(maxsplit=5)[5]
    except OSError:
        pass
    return path


lib, path = _load()
