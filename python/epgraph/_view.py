"""What a dispatch hands the experts, as arrays."""
from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Optional, Tuple

from . import _abi
from ._dlpack import ITEM_BYTES
from ._frameworks import over

if TYPE_CHECKING:
    from ._group import Group


class View:
    """What a dispatch hands this rank's experts: arrays over the group's memory, not to be written, without a copy, in
    the framework of the rows that were dispatched.

    Their addresses are fixed for the group's life; their contents are valid, in stream order, from the dispatch to the
    lane's next one. So read them in work of the stream, in a host function of it, or after ``stream.synchronize()``.
    Arrays keep the group from being collected; closing it ends them.

    Positions ``p`` of local expert ``e`` run from ``offsets[e]`` to ``offsets[e] + counts[e] - 1``, ordered by source
    rank, then by source token. The expert's output for position ``p`` goes to row ``p`` of what combine is given.

    Unsigned counts are uint32, in PyTorch int32, which holds the same.

    Attributes:
        local_experts, first_expert, row_capacity: ints.
        lane: an int.
        rows: [2 * ranks * slots][hidden] in place, [row_capacity][hidden] in the other layouts, of the row type;
            opaque: of uint8, [row_bytes] each. Types that a framework has not come as unsigned ints as wide: fp8 and
            bfloat16 in numpy, fp8 in CuPy, and bfloat16 in CuPy before 14. Rows that have scales may lie apart.
        scales: of fp8 rows float32 [row][block], packed uint32 [row][word] (``epgraph/group.h``), of opaque rows
            uint8 [row][scale_bytes]; in the masked layout [local expert][row of the expert][...]. Strided as the
            group's `scale_layout` has it. None: there are none.
        row_index: [row_capacity]: position p is row ``row_index[p]``. None in the other layouts: row p.
        offsets: [local_experts + 1].
        counts: [local_experts].
        total: [1].
        row_source, row_token: [row_capacity]: where position p came from.
        row_weight: float32 [row_capacity]: combine applies it, so experts must not.
    """

    def __init__(self, group: "Group", raw: _abi.DispatchView, framework: str, lane: int) -> None:
        self.local_experts: int = raw.local_experts
        self.first_expert: int = raw.first_expert
        self.row_capacity: int = raw.row_capacity
        self.framework, self.lane = framework, lane
        # Arrays are made when they are asked for: an engine's kernels take a few of them, or none.
        self._raw, self._group = raw, group

    def _over(self, address: Optional[int], shape: Tuple[int, ...], kind: str,
              strides: Optional[Tuple[int, ...]] = None) -> Any:
        self._group.raw     # raises once it is closed: its memory is gone
        return over(self.framework, address, shape, kind, self._group.device, self._group, strides=strides)

    def _row_count(self) -> int:
        return 2 * self._group.team.size * self._group.options["slots"] if self._raw.row_index else self.row_capacity

    @cached_property
    def rows(self) -> Any:
        group = self._group
        stride, rest = divmod(self._raw.row_stride, ITEM_BYTES[group._row_kind])
        assert rest == 0
        return self._over(self._raw.rows, (self._row_count(), group._row_width), group._row_kind,
                          None if stride == group._row_width else (stride, 1))

    @cached_property
    def scales(self) -> Any:
        group, raw = self._group, self._raw
        kind, width = group._scales
        shape: Tuple[int, ...] = (self._row_count(), width)
        strides: Tuple[int, ...] = (raw.scale_row_stride, raw.scale_block_stride)
        if raw.scale_expert_stride:
            shape = (self.local_experts, self.row_capacity // self.local_experts, width)
            strides = (raw.scale_expert_stride, *strides)
        size = ITEM_BYTES[kind]
        return self._over(raw.scales, shape, kind, tuple(stride // size for stride in strides))

    @cached_property
    def row_index(self) -> Any:
        return self._over(self._raw.row_index, (self.row_capacity,), "u4")

    @cached_property
    def offsets(self) -> Any:
        return self._over(self._raw.offsets, (self.local_experts + 1,), "u4")

    @cached_property
    def counts(self) -> Any:
        return self._over(self._raw.counts, (self.local_experts,), "u4")

    @cached_property
    def total(self) -> Any:
        return self._over(self._raw.total, (1,), "u4")

    @cached_property
    def row_source(self) -> Any:
        return self._over(self._raw.row_source, (self.row_capacity,), "u4")

    @cached_property
    def row_token(self) -> Any:
        return self._over(self._raw.row_token, (self.row_capacity,), "u4")

    @cached_property
    def row_weight(self) -> Any:
        return self._over(self._raw.row_weight, (self.row_capacity,), "f4")

    def expert_rows(self, local_expert: int) -> Any:
        """The rows [n][hidden] of one local expert as they stand; a copy in place, none in the other layouts. The host
        must be able to know n: on a CUDA device this waits for the stream that is current there, and cannot be
        captured. On the host device it needs numpy or PyTorch."""
        first = int(self.offsets[local_expert])
        positions = slice(first, first + int(self.counts[local_expert]))
        return self.rows[positions] if self.row_index is None else self.rows[self.row_index[positions]]
