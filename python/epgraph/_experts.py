"""The experts of one rank: gated feed-forward networks on what dispatch hands out."""
from __future__ import annotations

import ctypes as c
from typing import Any, List

from . import _abi
from ._arrays import BFLOAT16, FLOAT32, ROW_ALIGNMENT, take
from ._device import Device, Handle, Stream
from ._foreign import UsedStreams
from ._frameworks import DeviceMemory
from ._library import lib
from ._view import View

_TYPES = {"float32": 0, "bfloat16": 1}
_KINDS = {"float32": FLOAT32, "bfloat16": BFLOAT16}


class Experts(Handle):
    """The local experts of one layer, for an engine that has its own weights. For every position ``p`` of a view, whose
    row is ``x``::

        out[p] = down @ (silu(gate @ x) * (up @ x))

    Row counts are read when the work runs, so a captured call serves whatever its peers send. A row's bits depend on
    that row and its expert's weights alone.

    Args:
        device: of the group.
        local_experts: as in the view.
        hidden: elements per row, a multiple of 8.
        intermediate: inner width of an expert.
        row_type, weight_type: ``"float32"`` or ``"bfloat16"``: of the rows and outputs, and of the weights.

    Raises:
        Error: ``EPG_ERR_INVALID`` for a shape out of range, ``EPG_ERR_UNSUPPORTED`` for types that the device has no
            kernels for.
    """

    def __init__(self, device: Device, *, local_experts: int, hidden: int, intermediate: int,
                 row_type: str = "bfloat16", weight_type: str = "bfloat16") -> None:
        super().__init__(device)
        for name, value in (("row_type", row_type), ("weight_type", weight_type)):
            if value not in _TYPES:
                raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(_TYPES)}")
        self.device, self.local_experts, self.hidden, self.intermediate = device, local_experts, hidden, intermediate
        self._rows, self._weights = _KINDS[row_type], _KINDS[weight_type]
        self._used = UsedStreams(device, "experts")
        self._workspaces: List[DeviceMemory] = []   # those that work in flight, or captured, may use stay
        self._room = 0
        options = _abi.init(_abi.ExpertsOptions, local_experts=local_experts, hidden=hidden, intermediate=intermediate,
                            row_type=_TYPES[row_type], weight_type=_TYPES[weight_type])
        raw = c.c_void_p()
        lib.epg_experts_create(device.raw, c.byref(options), c.byref(raw))
        self._raw = raw.value

    def _destroy(self, raw: int) -> None:
        self._used.wait()
        with self.device._relaxed():
            lib.epg_experts_destroy(raw)
        self._workspaces.clear()

    def workspace_bytes(self, row_capacity: int) -> int:
        """Bytes of workspace that a call needs for views of that row capacity."""
        size = c.c_size_t()
        lib.epg_experts_workspace(self.raw, row_capacity, c.byref(size))
        return size.value

    def _workspace(self, row_capacity: int) -> int:
        wanted = self.workspace_bytes(row_capacity)
        if not self._workspaces or wanted > self._room:
            self._workspaces.append(DeviceMemory(self.device, wanted))
            self._room = wanted
        return self._workspaces[-1].address

    def run(self, view: View, gate_up: Any, down: Any, *, stream: Any, out: Any = None) -> Any:
        """Enqueues the experts of one view. May be captured, but for the first call for a larger row capacity on a CUDA
        device, which makes a workspace. Calls share it, so they are not to overlap: use another ``Experts`` on another
        stream.

        Args:
            view: of ``dispatch``.
            gate_up: [local_experts][2 * intermediate][hidden]: gate's rows, then up's; of the weight type, contiguous,
                aligned to 16 bytes; read when the work runs, and kept alive as by ``dispatch``.
            down: [local_experts][hidden][intermediate], likewise.
            stream: as in ``dispatch``.
            out: [row_capacity][hidden] of the row type; rows of no position are left alone. None: the group's
                ``output(view.lane)``.

        Returns:
            `out`, for ``combine``.

        Raises:
            TypeError, ValueError: by name, an array of another kind, shape, device or alignment.
        """
        handle = self._used.add(stream)
        if out is None:
            out = view._group.output(view.lane)
        shapes = (("gate_up", gate_up, self._weights, (self.local_experts, 2 * self.intermediate, self.hidden)),
                  ("down", down, self._weights, (self.local_experts, self.hidden, self.intermediate)),
                  ("out", out, self._rows, (None, self.hidden)))
        taken = [take(array, name, kinds, shape, device=self.device, stream=handle, writable=name == "out",
                      least_rows=view.row_capacity if name == "out" else 0, alignment=ROW_ALIGNMENT)
                 for name, array, kinds, shape in shapes]
        workspace = self._workspace(view.row_capacity)
        if isinstance(stream, Stream):
            stream.hold(*[each.held for each in taken], self)
        arguments = _abi.init(_abi.ExpertsArgs, view=c.addressof(view._raw), gate_up=taken[0].address,
                              down=taken[1].address, workspace=workspace, workspace_bytes=self._room,
                              out=taken[2].address)
        lib.epg_experts_run(self.raw, c.byref(arguments), handle)
        return out
