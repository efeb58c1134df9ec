"""Dispatch and combine on arrays, on the host device."""
from __future__ import annotations

import ctypes as c
from typing import Any, Callable, Dict, Optional, Set, Union

from . import _abi
from . import _arrays
from ._arrays import numpy, over, take, zeros
from ._device import Handle, Stream
from ._library import lib
from ._team import Team

ROW_TYPES = {"float32": 0, "bfloat16": 1}
LAYOUTS = {"in_place": 0, "contiguous": 1, "masked": 2}
MODES = {"auto": 0, "ll": 1, "ht": 2}

#: ``fn(expert, rows) -> rows``: the physical id of one expert, and its rows [n][hidden] with n of at least 1.
Expert = Callable[[int, Any], Any]


def _choose(table: Dict[str, int], value: str, name: str) -> int:
    if value not in table:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(table)}")
    return table[value]


class View:
    """What a dispatch hands this rank's experts: read-only arrays over the group's memory, without a copy.

    Their addresses are fixed for the group's life; their contents are valid, in stream order, from the dispatch to the
    lane's next one. So read them in a host function of the stream, or after ``stream.synchronize()``.

    Positions ``p`` of local expert ``e`` run from ``offsets[e]`` to ``offsets[e] + counts[e] - 1``, ordered by source
    rank, then by source token. The expert's output for position ``p`` goes to row ``p`` of what combine is given.

    Attributes:
        local_experts, first_expert, row_capacity: ints.
        rows: [2 * ranks * slots][hidden] in place, [row_capacity][hidden] in the other layouts; float32, or uint16
            holding bfloat16.
        row_index: uint32 [row_capacity]: position p is row ``row_index[p]``. None in the other layouts: row p.
        offsets: uint32 [local_experts + 1].
        counts: uint32 [local_experts].
        total: uint32 [1].
        row_source, row_token: uint32 [row_capacity]: where position p came from.
        row_weight: float32 [row_capacity]: combine applies it, so experts must not.
    """

    def __init__(self, group: "Group", raw: _abi.DispatchView) -> None:
        self.local_experts: int = raw.local_experts
        self.first_expert: int = raw.first_expert
        self.row_capacity: int = raw.row_capacity
        capacity, experts = self.row_capacity, self.local_experts
        rows = 2 * group.team.size * group.options["slots"] if raw.row_index else capacity
        self.rows = over(raw.rows, (rows, group.hidden), group._kind)
        self.row_index = over(raw.row_index, (capacity,), "u4")
        self.offsets = over(raw.offsets, (experts + 1,), "u4")
        self.counts = over(raw.counts, (experts,), "u4")
        self.total = over(raw.total, (1,), "u4")
        self.row_source = over(raw.row_source, (capacity,), "u4")
        self.row_token = over(raw.row_token, (capacity,), "u4")
        self.row_weight = over(raw.row_weight, (capacity,), "f4")

    def expert_rows(self, local_expert: int) -> Any:
        """The rows [n][hidden] of one local expert as they stand; a copy in place, none in the other layouts. Needs
        numpy."""
        first = int(self.offsets[local_expert])
        positions = slice(first, first + int(self.counts[local_expert]))
        return self.rows[positions] if self.row_index is None else self.rows[self.row_index[positions]]


class Group(Handle):
    """One rank's end of dispatch and combine. Making one is collective over the team, with the same arguments.

    Args:
        team: the rank's membership, on the host device.
        experts: physical experts over all ranks, divisible by the team's size.
        hidden: elements per row, a multiple of 8.
        topk: experts per token, 1..32.
        max_tokens: most tokens a rank sends in one pair.
        row_type: ``"float32"``, or ``"bfloat16"``: rows are then 2-byte elements (uint16, int16 or ml_dtypes'
            bfloat16), and come back as uint16, since numpy has no such type.
        layout: ``"in_place"``, ``"contiguous"`` or ``"masked"``: how rows reach the experts.
        lanes: 1..8, each with its own pairs.
        logical_experts, slots, row_align, rows_per_expert, max_expert_rows, timeout_ms: as in ``epgraph/group.h``;
            0 is the default.

    Raises:
        Error: ``EPG_ERR_INVALID`` for an argument out of range, ``EPG_ERR_MISMATCH`` if ranks disagree.
        ValueError: the team is not on a host device.
    """

    def __init__(self, team: Team, *, experts: int, hidden: int, topk: int, max_tokens: int,
                 row_type: str = "float32", layout: str = "in_place", lanes: int = 1, logical_experts: int = 0,
                 slots: int = 0, row_align: int = 0, rows_per_expert: int = 0, max_expert_rows: int = 0,
                 timeout_ms: int = 0) -> None:
        super().__init__(team)
        if team.device.kind != "host":
            raise ValueError(f"epgraph.Group takes a team on the host device, this one is on {team.device.kind!r}")
        options = _abi.init(
            _abi.GroupOptions, experts=experts, hidden=hidden, topk=topk, max_tokens=max_tokens,
            row_type=_choose(ROW_TYPES, row_type, "row_type"), layout=_choose(LAYOUTS, layout, "layout"), lanes=lanes,
            logical_experts=logical_experts, slots=slots, row_align=row_align, rows_per_expert=rows_per_expert,
            max_expert_rows=max_expert_rows, timeout_ms=timeout_ms)
        raw = c.c_void_p()
        lib.epg_group_create(team.raw, c.byref(options), c.byref(raw))
        self._raw = raw.value
        self.team, self.device = team, team.device
        lib.epg_group_get_options(self.raw, c.byref(options))
        #: The options in force, defaults filled in.
        self.options: Dict[str, int] = _abi.values(options)
        self.hidden, self.topk = hidden, topk
        self._kinds = _arrays.BFLOAT16 if row_type == "bfloat16" else _arrays.FLOAT32
        self._kind = self._kinds[0]
        self._buckets: Dict[int, int] = {}      # of each lane's last dispatch
        self._outputs: Dict[int, Any] = {}
        self._streams: Set[Stream] = set()

    def _destroy(self, raw: int) -> None:
        for stream in self._streams:
            if not stream.closed:
                try:
                    stream.synchronize()    # the group's memory is in use until then
                except Exception:
                    pass
        self._streams.clear()
        lib.epg_group_destroy(raw)

    def _use(self, stream: Stream) -> int:
        if stream._owned:
            self._streams.add(stream)
        return stream.raw

    # ---- a pair ----

    def dispatch(self, rows: Any, topk_ids: Any, topk_weights: Any = None, *, stream: Stream,
                 tokens: Union[None, int, Any] = None, bucket: Optional[int] = None, lane: int = 0,
                 mode: str = "auto") -> View:
        """Enqueues dispatch send and recv: every row goes once to each rank that owns one of its experts.

        Arrays are numpy arrays, DLPack objects of CPU memory, or buffers; contiguous. They are read when the work
        runs, and kept alive until ``stream.synchronize()`` (in a runner's capture: until its reset), so change them
        only once the stream is idle.

        Args:
            rows: [bucket or more][hidden] of the row type.
            topk_ids: [bucket or more][topk] logical expert ids, int32 or int64; -1: not routed.
            topk_weights: float32 [bucket or more][topk]; None: all 1.
            tokens: uint32 [1], read when the work runs; or an int, fixed now; None: bucket. Tokens beyond the bucket
                are dropped and counted.
            bucket: most tokens of this call, up to max_tokens; None: as many as `rows` has.
            mode: ``"auto"``, ``"ll"`` or ``"ht"``. The result is the same bits.

        Raises:
            TypeError, ValueError: by name, an array of another kind or shape.
            Error: ``EPG_ERR_STATE`` out of order in the lane, ``EPG_ERR_INVALID`` a bucket above max_tokens.
        """
        taken = take(rows, "rows", self._kinds, (None, self.hidden), least_rows=bucket or 0)
        count = taken.shape[0] if bucket is None else bucket
        ids = take(topk_ids, "topk_ids", _arrays.INT32 + _arrays.INT64, (None, self.topk), least_rows=count)
        arguments = _abi.init(_abi.DispatchArgs, lane=lane, mode=_choose(MODES, mode, "mode"), bucket=count,
                              rows=taken.address, topk_ids=ids.address, topk_type=int(ids.kind == "i8"))
        stream.hold(taken.held, ids.held)
        if topk_weights is not None:
            weights = take(topk_weights, "topk_weights", _arrays.FLOAT32, (None, self.topk), least_rows=count)
            arguments.topk_weights = weights.address
            stream.hold(weights.held)
        if tokens is not None:
            held = (c.c_uint32 * 1)(tokens) if isinstance(tokens, int) else tokens
            real = take(held, "tokens", _arrays.UINT32, (1,))
            arguments.tokens = real.address
            stream.hold(held, real.held)
        raw = _abi.init(_abi.DispatchView)
        lib.epg_dispatch(self.raw, c.byref(arguments), c.byref(raw), self._use(stream))
        self._buckets[lane] = count
        return View(self, raw)

    def output(self, lane: int = 0) -> Any:
        """This lane's buffer for the experts' outputs, [row_capacity][hidden] of the row type: for ``combine``."""
        if lane not in self._outputs:
            self._outputs[lane] = zeros((self.view(lane).row_capacity, self.hidden), self._kind)
        return self._outputs[lane]

    def run_experts(self, view: View, fn: Expert, *, stream: Stream, lane: int = 0) -> Any:
        """Enqueues the experts: a host function that calls ``fn(expert, rows)`` for each local expert that has rows,
        and puts what it returns, [n][hidden], where combine wants it. Captured, it runs at every replay. `fn` may not
        use the library; what it raises comes out of ``stream.synchronize()``. Needs numpy.

        Returns:
            ``output(lane)``, to be given to ``combine``.
        """
        if numpy is None:
            raise TypeError("run_experts needs numpy, which is not installed")
        out = self.output(lane)

        def experts() -> None:
            for local in range(view.local_experts):
                count = int(view.counts[local])
                if count:
                    first = int(view.offsets[local])
                    out[first:first + count] = fn(view.first_expert + local, view.expert_rows(local))

        stream.host_func(experts, "experts")
        return out

    def combine(self, expert_rows: Any, out: Any = None, *, stream: Stream, lane: int = 0) -> Any:
        """Enqueues combine send and recv: the weighted sum of each token's experts comes back.

        Args:
            expert_rows: [row_capacity][hidden] of the row type, the experts' outputs by position.
            out: [the pair's bucket or more][hidden], written for every token of the pair, the rest left alone. None:
                a new array of zeros.

        Returns:
            `out`, complete after ``stream.synchronize()``.

        Raises:
            TypeError, ValueError: by name, an array of another kind or shape.
            Error: ``EPG_ERR_STATE`` without a dispatch before it.
        """
        bucket = self._buckets.get(lane, 0)
        read = take(expert_rows, "expert_rows", self._kinds, (None, self.hidden),
                    least_rows=self.view(lane).row_capacity)
        if out is None:
            out = zeros((bucket, self.hidden), self._kind)
        written = take(out, "out", self._kinds, (None, self.hidden), writable=True, least_rows=bucket)
        stream.hold(read.held, written.held)
        lib.epg_combine(self.raw, lane, read.address, written.address, self._use(stream))
        return out

    def abandon(self, *, stream: Stream, lane: int = 0) -> None:
        """Ends a pair that was broken between dispatch and combine: peers go on, and tokens that wanted this rank's
        experts are flagged there. Does nothing if no pair is open."""
        lib.epg_pair_abandon(self.raw, lane, self._use(stream))

    # ---- what can be looked at ----

    def view(self, lane: int = 0) -> View:
        """The view that the lane's dispatches return."""
        raw = _abi.init(_abi.DispatchView)
        lib.epg_group_view(self.raw, lane, c.byref(raw))
        return View(self, raw)

    def expert_map(self) -> Any:
        """int32 [logical_experts], writable: the physical id of each logical expert, -1: nowhere. Read by each
        dispatch when it runs, so change it between two."""
        raw = c.c_void_p()
        lib.epg_group_expert_map(self.raw, c.byref(raw))
        return over(raw.value, (self.options["logical_experts"],), "i4", writable=True)

    def flags(self, lane: int = 0) -> Any:
        """uint32 [max_tokens]: after combine, 1 where token t lacks a share (of a masked or void rank, or one that
        overflowed)."""
        raw = c.c_void_p()
        lib.epg_group_flags(self.raw, lane, c.byref(raw))
        return over(raw.value, (self.options["max_tokens"],), "u4")

    def check(self) -> None:
        """Raises the first failure of this rank's device work, if there was one, without waiting.

        Raises:
            Error: ``EPG_ERR_TIMEOUT``, ``ABORTED``, ``MASKED``, ``GONE``, ``PAIRS``, ``ROUTING``, ``OVERFLOW`` or
                ``STATE``; the message says which operation, epoch and peer.
        """
        lib.epg_group_check(self.raw, None)

    def clear_record(self) -> None:
        """Forgets the failure (not the mask), so that the next one is recorded."""
        lib.epg_group_clear_record(self.raw)

    def stats(self) -> Dict[str, int]:
        """Counters, by the names of ``epg_group_stats``; exact once the streams are idle."""
        stats = _abi.init(_abi.GroupStats)
        lib.epg_group_get_stats(self.raw, c.byref(stats))
        return _abi.values(stats)
