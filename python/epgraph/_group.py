"""Dispatch and combine on arrays of the caller's framework."""
from __future__ import annotations

import ctypes as c
from numbers import Integral
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

from . import _abi
from . import _arrays
from ._arrays import numpy, take
from ._device import Handle, Stream
from ._dlpack import ITEM_BYTES
from ._foreign import UsedStreams
from ._frameworks import empty, framework_of, lasting, over
from ._library import Error, STATE, lib
from ._step import Admission
from ._team import Team
from ._view import View

ROW_TYPES = {"float32": 0, "bfloat16": 1, "float8_e4m3": 2, "opaque": 3}
SCALES = {"row_major": 0, "column_major": 1, "packed": 2}
SCALE_BLOCK = 128
_BYTES = ("u1", "i1", "e4m3")
LAYOUTS = {"in_place": 0, "contiguous": 1, "masked": 2}
MODES = {"auto": 0, "ll": 1, "ht": 2}
_IDS = _arrays.INT32 + _arrays.INT64
EXPERTS = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_uint32, c.POINTER(_abi.DispatchView), c.c_void_p,
                      c.POINTER(c.c_void_p))

#: ``fn(expert, rows) -> rows``: the physical id of one expert, and its rows [n][hidden] with n of at least 1.
Expert = Callable[[int, Any], Any]


def _choose(table: Dict[str, int], value: str, name: str) -> int:
    if value not in table:
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(table)}")
    return table[value]


def _options(*, row_type: str = "float32", layout: str = "in_place", scale_layout: str = "row_major",
             **numbers: int) -> Any:
    return _abi.init(_abi.GroupOptions, row_type=_choose(ROW_TYPES, row_type, "row_type"),
                     layout=_choose(LAYOUTS, layout, "layout"),
                     scale_layout=_choose(SCALES, scale_layout, "scale_layout"), **numbers)


def plan_bytes(ranks: int, **options: Any) -> Dict[str, int]:
    """What a rank of a group of `ranks` ranks would need, without creating anything.

    Args:
        options: as of :class:`Group`, but `team` and `join`.

    Returns:
        ``region_bytes`` (symmetric memory of each rank), ``local_bytes`` (other memory of the protocol) and
        ``expert_input_bytes`` (rows copied for the experts).
    """
    known = {name for name, *_ in _abi.GroupOptions._fields_} - {"size"}
    for name in options:
        if name not in known:
            raise TypeError(f"{name} is no option of a Group")
    stats = _abi.init(_abi.GroupStats)
    lib.epg_group_plan_bytes(c.byref(_options(**options)), ranks, c.byref(stats))
    return {name: getattr(stats, name) for name in ("region_bytes", "local_bytes", "expert_input_bytes")}


class Group(Handle):
    """One rank's end of dispatch and combine. Making one is collective over the team, with the same arguments.

    Args:
        team: the rank's membership, on either device.
        experts: physical experts over all ranks, divisible by the team's size.
        hidden: elements per row, a multiple of 8.
        topk: experts per token, 1..32.
        max_tokens: most tokens a rank sends in one pair.
        row_type: ``"float32"``, ``"bfloat16"``, ``"float8_e4m3"`` (with a float32 scale for each 128 elements) or
            ``"opaque"`` (bytes that the library does not look into). The experts' outputs and what combine gives are
            float32 in a float32 group, else bfloat16. Where a framework has no bfloat16, that is 2-byte elements
            (uint16, int16 or ml_dtypes' bfloat16), which come back as uint16: numpy, and CuPy before 14.
        layout: ``"in_place"``, ``"contiguous"`` or ``"masked"``: how rows reach the experts.
        lanes: 1..8, each with its own pairs.
        scale_power_of_two: fp8: every scale is a power of two.
        scale_layout: fp8: ``"row_major"``, ``"column_major"`` or ``"packed"``: how the view's scales lie.
        row_bytes, scale_bytes: opaque: bytes of a row, and of its scales.
        join: take the place of a group that was lost with an earlier incarnation of this rank (``Team.rejoin``), with
            the same options and not collectively; until ``admit`` it can rehearse and capture, and nothing else.
        logical_experts, slots, row_align, rows_per_expert, max_expert_rows, timeout_ms: as in ``epgraph/group.h``;
            0 is the default.

    Raises:
        Error: ``EPG_ERR_INVALID`` for an argument out of range, ``EPG_ERR_MISMATCH`` if ranks disagree.
    """

    def __init__(self, team: Team, *, experts: int, hidden: int, topk: int, max_tokens: int,
                 row_type: str = "float32", layout: str = "in_place", lanes: int = 1, logical_experts: int = 0,
                 slots: int = 0, row_align: int = 0, rows_per_expert: int = 0, max_expert_rows: int = 0,
                 timeout_ms: int = 0, scale_power_of_two: bool = False, scale_layout: str = "row_major",
                 row_bytes: int = 0, scale_bytes: int = 0, join: bool = False) -> None:
        super().__init__(team)
        options = _options(
            experts=experts, hidden=hidden, topk=topk, max_tokens=max_tokens, row_type=row_type, layout=layout,
            lanes=lanes, logical_experts=logical_experts, slots=slots, row_align=row_align,
            rows_per_expert=rows_per_expert, max_expert_rows=max_expert_rows, timeout_ms=timeout_ms,
            scale_power_of_two=int(scale_power_of_two), scale_layout=scale_layout, row_bytes=row_bytes,
            scale_bytes=scale_bytes)
        raw = c.c_void_p()
        create = lib.epg_group_join if join else lib.epg_group_create
        create(team.raw, c.byref(options), c.byref(raw))
        self._raw = raw.value
        self.team, self.device = team, team.device
        lib.epg_group_get_options(self.raw, c.byref(options))
        #: The options in force, defaults filled in.
        self.options: Dict[str, int] = _abi.values(options)
        self.hidden, self.topk = hidden, topk
        self.row_type = row_type
        #: Of the experts' outputs and combine's.
        self._kinds = _arrays.FLOAT32 if row_type == "float32" else _arrays.BFLOAT16
        self._kind = self._kinds[0]
        #: Of the rows that are sent, and elements in each.
        self._row_kind = {"float8_e4m3": "e4m3", "opaque": "u1"}.get(row_type, self._kind)
        self._row_width = row_bytes if row_type == "opaque" else hidden
        blocks = -(-hidden // SCALE_BLOCK)
        #: Kind and number of a row's scales in the view.
        self._scales = (("u1", scale_bytes) if row_type == "opaque" else ("f4", blocks) if scale_layout != "packed"
                        else ("u4", -(-blocks // 4)))
        self._buckets: Dict[int, int] = {}      # of each lane's last dispatch
        self._frameworks: Dict[int, str] = {}
        self._outputs: Dict[Tuple[int, str], Any] = {}
        self._capacities: Dict[int, int] = {}
        self._used = UsedStreams(self.device, "group")

    def _destroy(self, raw: int) -> None:
        self._used.wait()   # the group's memory is in use until then
        self._outputs.clear()
        with self.device._relaxed():
            lib.epg_group_destroy(raw)

    def _use(self, stream: Any) -> int:
        """The handle of a stream that is used from now on."""
        return self._used.add(stream)

    def _row_capacity(self, lane: int) -> int:
        if lane not in self._capacities:
            self._capacities[lane] = self.view(lane).row_capacity
        return self._capacities[lane]

    # ---- a pair ----

    def _hold(self, stream: Any, *things: Any) -> None:
        if isinstance(stream, Stream):
            stream.hold(*things)

    def _rows(self, rows: Any, scales: Any, bucket: Optional[int], place: Dict[str, Any]) -> Tuple[Any, Any, int]:
        """Rows, their scales or None, and the type that the rows come in."""
        kinds = {"opaque": _BYTES, "float8_e4m3": _arrays.BFLOAT16 + _BYTES}.get(self.row_type, self._kinds)
        alignment = 1 if self.row_type == "opaque" else _arrays.ROW_ALIGNMENT
        taken = take(rows, "rows", kinds, (None, self._row_width), least_rows=bucket or 0, alignment=alignment, **place)
        count = taken.shape[0] if bucket is None else bucket
        if self.row_type == "opaque":
            wanted = ("u1", self._scales[1]) if self._scales[1] else None
        else:
            wanted = ("f4", -(-self.hidden // SCALE_BLOCK)) if taken.kind in _BYTES else None
        if (scales is None) != (wanted is None):
            raise ValueError(f"scales is {'missing' if scales is None else 'given'}: rows of elements of kind "
                             f"{taken.kind!r} in a group of {self.row_type} rows have {'some' if wanted else 'none'}")
        told = None if wanted is None else take(scales, "scales", (wanted[0],), (None, wanted[1]), least_rows=count,
                                                **place)
        return taken, told, ROW_TYPES["float8_e4m3" if taken.kind in _BYTES else "bfloat16"]

    def _arguments(self, rows: Any, topk_ids: Any, topk_weights: Any, scales: Any, stream: Any, handle: int,
                   tokens: Union[None, int, Any], bucket: Optional[int], lane: int, mode: str) -> Tuple[Any, int]:
        """The struct for C, and the bucket."""
        place: Dict[str, Any] = {"device": self.device, "stream": handle}
        taken, scaled, input_type = self._rows(rows, scales, bucket, place)
        count = taken.shape[0] if bucket is None else bucket
        ids = take(topk_ids, "topk_ids", _IDS, (None, self.topk), least_rows=count, **place)
        arguments = _abi.init(_abi.DispatchArgs, lane=lane, mode=_choose(MODES, mode, "mode"), bucket=count,
                              rows=taken.address, topk_ids=ids.address, topk_type=int(ids.kind == "i8"),
                              input_type=input_type)
        self._hold(stream, taken.held, ids.held)
        if scaled is not None:
            arguments.scales = scaled.address
            self._hold(stream, scaled.held)
        if topk_weights is not None:
            weights = take(topk_weights, "topk_weights", _arrays.FLOAT32, (None, self.topk), least_rows=count, **place)
            arguments.topk_weights = weights.address
            self._hold(stream, weights.held)
        if isinstance(tokens, Integral):
            tokens = int(tokens)
            if not 0 <= tokens <= count:
                raise ValueError(f"tokens is {tokens}, outside 0..{count}, the bucket")
            arguments.bucket = tokens
        elif tokens is not None:
            real = take(tokens, "tokens", _arrays.COUNT, (1,), **place)
            arguments.tokens = real.address
            self._hold(stream, real.held)
        self._frameworks[lane] = framework_of(rows, self.device)
        return arguments, count

    def dispatch(self, rows: Any, topk_ids: Any, topk_weights: Any = None, *, stream: Any,
                 tokens: Union[None, int, Any] = None, bucket: Optional[int] = None, lane: int = 0,
                 mode: str = "auto", scales: Any = None) -> View:
        """Enqueues dispatch send and recv: every row goes once to each rank that owns one of its experts.

        Arrays are contiguous and on the group's device. On the host device: numpy arrays, PyTorch tensors, DLPack
        objects, or buffers. On a CUDA device: PyTorch tensors, CuPy arrays, and objects with ``__dlpack__`` or
        ``__cuda_array_interface__``; rows are aligned to 16 bytes there. They are read when the work runs, in the
        order of `stream`: what fills them must have been enqueued there, or be done. (A DLPack object of another
        framework is asked to see to that.)

        With an ``epgraph.Stream`` they are kept alive until ``stream.synchronize()`` (in a runner's capture: until its
        reset), so change them only once the stream is idle. With a stream of another library they are not kept alive:
        PyTorch's and CuPy's allocators do that for tensors made on that stream.

        Args:
            rows: [bucket or more][hidden] of the row type; fp8: of bfloat16, which the sender quantises, or of
                float8_e4m3fn (also as uint8 or int8) with `scales`; opaque: 1-byte elements [...][row_bytes].
            topk_ids: [bucket or more][topk] logical expert ids, int32 or int64; -1: not routed.
            topk_weights: float32 [bucket or more][topk]; None: all 1.
            stream: an ``epgraph.Stream`` of the group's device; on a CUDA device also any other library's, see
                ``epgraph.scope``. May be capturing.
            tokens: uint32 or int32 [1], read when the work runs, where tokens beyond the bucket are dropped and
                counted; or an int, fixed now; None: bucket.
            bucket: most tokens of this call, up to max_tokens; None: as many as `rows` has.
            mode: ``"auto"``, ``"ll"`` or ``"ht"``. The result is the same bits.
            scales: of rows that come in fp8, float32 [bucket or more][hidden / 128, rounded up]; of opaque ones uint8
                [bucket or more][scale_bytes].

        Returns:
            The view, in the framework of `rows`.

        Raises:
            TypeError, ValueError: by name, an array of another kind, shape, device or alignment.
            Error: ``EPG_ERR_STATE`` out of order in the lane, ``EPG_ERR_INVALID`` a bucket above max_tokens.
        """
        handle = self._use(stream)
        arguments, count = self._arguments(rows, topk_ids, topk_weights, scales, stream, handle, tokens, bucket,
                                           lane, mode)
        raw = _abi.init(_abi.DispatchView)
        lib.epg_dispatch(self.raw, c.byref(arguments), c.byref(raw), handle)
        self._buckets[lane] = count
        return View(self, raw, self._frameworks[lane], lane)

    def dispatch_send(self, rows: Any, topk_ids: Any, topk_weights: Any = None, *, stream: Any,
                      tokens: Union[None, int, Any] = None, bucket: Optional[int] = None, lane: int = 0,
                      mode: str = "auto", scales: Any = None) -> None:
        """The first half of ``dispatch``: other work can be enqueued before ``dispatch_recv``."""
        handle = self._use(stream)
        arguments, count = self._arguments(rows, topk_ids, topk_weights, scales, stream, handle, tokens, bucket,
                                           lane, mode)
        lib.epg_dispatch_send(self.raw, c.byref(arguments), handle)
        self._buckets[lane] = count

    def dispatch_recv(self, *, stream: Any, lane: int = 0) -> View:
        """The second half of ``dispatch``: waits, on the device, for the rows of all ranks."""
        raw = _abi.init(_abi.DispatchView)
        lib.epg_dispatch_recv(self.raw, lane, c.byref(raw), self._use(stream))
        return View(self, raw, self._framework(lane), lane)

    def _framework(self, lane: int) -> str:
        return self._frameworks.get(lane, "numpy" if self.device.kind == "host" else "none")

    def output(self, lane: int = 0) -> Any:
        """This lane's buffer for the experts' outputs, [row_capacity][hidden] of combine's type, in the framework of
        the lane's last dispatch: for ``combine``. Always the same memory; on a CUDA device the first call is not to be
        made during capture."""
        key = (lane, self._framework(lane))
        if key not in self._outputs:
            capacity = self.view(lane).row_capacity
            self._outputs[key] = lasting(key[1], (capacity, self.hidden), self._kind, self.device)
        return self._outputs[key]

    def run_experts(self, view: View, fn: Expert, *, stream: Stream, lane: int = 0) -> Any:
        """Enqueues the experts as a host function that calls ``fn(expert, rows)`` for each local expert that has rows,
        and puts what it returns, [n][hidden], where combine wants it. Captured, it runs at every replay. `fn` may not
        use the library; what it raises comes out of ``stream.synchronize()``. On the host device, with numpy or
        PyTorch.

        Returns:
            ``output(lane)``, to be given to ``combine``.

        Raises:
            ValueError: on a CUDA device, where a host function cannot touch the rows: enqueue kernels on `view`.
        """
        if self.device.kind != "host":
            raise ValueError("run_experts is for the host device: on a CUDA device enqueue kernels that read the view")
        if numpy is None and view.framework == "numpy":
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

    def combine(self, expert_rows: Any, out: Any = None, *, stream: Any, lane: int = 0) -> Any:
        """Enqueues combine send and recv: the weighted sum of each token's experts comes back.

        Args:
            expert_rows: [row_capacity][hidden], float32 in a float32 group and else bfloat16: the experts' outputs by
                position; as arrays of ``dispatch``.
            out: [the pair's bucket or more][hidden], written for every token of the pair, the rest left alone. None:
                a new array [bucket][hidden], zeros beyond the pair's tokens, in the framework of `expert_rows`.
            stream: as in ``dispatch``.

        Returns:
            `out`, complete in the order of `stream`.

        Raises:
            TypeError, ValueError: by name, an array of another kind, shape, device or alignment.
            Error: ``EPG_ERR_STATE`` without a dispatch before it.
        """
        handle = self._use(stream)
        read = self._expert_rows(expert_rows, stream, handle, lane)
        out, address = self._out(out, expert_rows, stream, handle, lane)
        lib.epg_combine(self.raw, lane, read, address, handle)
        return out

    def combine_send(self, expert_rows: Any, *, stream: Any, lane: int = 0) -> None:
        """The first half of ``combine``: other work can be enqueued before ``combine_recv``."""
        handle = self._use(stream)
        lib.epg_combine_send(self.raw, lane, self._expert_rows(expert_rows, stream, handle, lane), handle)

    def combine_recv(self, out: Any, *, stream: Any, lane: int = 0) -> Any:
        """The second half of ``combine``: waits, on the device, for the partial sums, and writes `out`, which it
        returns."""
        handle = self._use(stream)
        lib.epg_combine_recv(self.raw, lane, self._out(out, out, stream, handle, lane)[1], handle)
        return out

    def _expert_rows(self, expert_rows: Any, stream: Any, handle: int, lane: int) -> int:
        read = take(expert_rows, "expert_rows", self._kinds, (None, self.hidden), device=self.device, stream=handle,
                    least_rows=self._row_capacity(lane), alignment=_arrays.ROW_ALIGNMENT)
        self._hold(stream, read.held)
        return read.address

    def _out(self, out: Any, like: Any, stream: Any, handle: int, lane: int) -> Tuple[Any, int]:
        bucket = self._buckets.get(lane, 0)
        made = out is None
        if made:
            framework = framework_of(like, self.device)
            out = empty(framework, (bucket, self.hidden), self._kind, self.device, handle)
        written = take(out, "out", self._kinds, (None, self.hidden), device=self.device, stream=handle, writable=True,
                       least_rows=bucket, alignment=_arrays.ROW_ALIGNMENT)
        self._hold(stream, written.held)
        if made and written.address:
            size = bucket * self.hidden * ITEM_BYTES[self._kind]
            lib.epg_memset_async(self.device.raw, written.address, 0, size, handle)
        # An empty tensor of PyTorch's is nowhere, and C wants some address.
        return out, written.address or self.view(lane)._raw.rows

    def abandon(self, *, stream: Any, lane: int = 0) -> None:
        """Ends a pair that was broken between dispatch and combine: peers go on, and tokens that wanted this rank's
        experts are flagged there. Does nothing if no pair is open."""
        lib.epg_pair_abandon(self.raw, lane, self._use(stream))

    def fill(self, pairs: int = 1, experts: Optional[Callable[[int, View], Any]] = None, *, stream: Any,
             lane: int = 0) -> None:
        """Enqueues `pairs` whole pairs in which this rank sends no tokens, so that a lane runs as many pairs here as
        elsewhere.

        Args:
            experts: ``experts(index, view)``, called now for each pair, enqueues the experts on `stream` and returns
                their outputs, as for ``combine``. None: rows that peers send are answered void, which flags them at
                their owners.

        Raises:
            Exception: what `experts` raised; its pair is still open, to be ended by ``abandon``.
        """
        handle = self._use(stream)
        raised: List[BaseException] = []

        def call(_: Any, index: int, raw: Any, __: Any, expert_rows: Any) -> int:
            try:
                view = View(self, _abi.DispatchView.from_buffer_copy(raw.contents), self._framework(lane), lane)
                expert_rows[0] = self._expert_rows(experts(index, view), stream, handle, lane)  # type: ignore[misc]
                return 0
            except BaseException as error:  # it may not unwind through C
                raised.append(error)
                return error.code if isinstance(error, Error) else STATE

        function = EXPERTS(call) if experts is not None else None
        try:
            lib.epg_group_fill(self.raw, lane, pairs, function and c.cast(function, c.c_void_p), None, handle)
        except Error:
            if raised:
                raise raised[0]
            raise

    # ---- what can be looked at ----

    def view(self, lane: int = 0) -> View:
        """The view that the lane's dispatches return, in the framework of its last dispatch. May be called during
        capture."""
        raw = _abi.init(_abi.DispatchView)
        lib.epg_group_view(self.raw, lane, c.byref(raw))
        return View(self, raw, self._framework(lane), lane)

    def expert_map(self, like: Any = None) -> Any:
        """int32 [logical_experts], writable: the physical id of each logical expert, -1: nowhere; in the framework of
        `like`, else of lane 0's last dispatch. Read by each dispatch when it runs, so change it between two."""
        raw = c.c_void_p()
        lib.epg_group_expert_map(self.raw, c.byref(raw))
        return self._array(raw.value, (self.options["logical_experts"],), "i4", 0, like, True)

    def flags(self, lane: int = 0, like: Any = None) -> Any:
        """uint32 (in PyTorch int32) [max_tokens]: after combine, 1 where token t lacks a share (of a masked or void
        rank, or one that overflowed); in the framework of `like`, else of the lane's last dispatch."""
        raw = c.c_void_p()
        lib.epg_group_flags(self.raw, lane, c.byref(raw))
        return self._array(raw.value, (self.options["max_tokens"],), "u4", lane, like, False)

    def _array(self, address: Optional[int], shape: Tuple[int, ...], kind: str, lane: int, like: Any,
               writable: bool) -> Any:
        framework = self._framework(lane) if like is None else framework_of(like, self.device)
        return over(framework, address, shape, kind, self.device, self, writable)

    def alive(self, rank: int) -> bool:
        """Whether `rank` takes part in every lane: False from when it is masked, here, until it has joined again."""
        told = c.c_int()
        lib.epg_group_alive(self.raw, rank, c.byref(told))
        return bool(told.value)

    def mask(self, rank: int) -> None:
        """Leaves `rank` out from now on, on this rank: what an expired wait does. Captured work skips it too."""
        lib.epg_group_mask(self.raw, rank)

    def admit(self, admission: Admission, *, stream: Any) -> None:
        """Enqueues an admission (``Stepper.admission``), with no pair open: after the earlier pairs of all lanes and
        before all later ones. Where this rank stays, those that join are taken in when each lane comes to its epoch.
        Where it joins, it waits, bounded, for those that stay. Not during capture."""
        told, held = admission._as_c()
        lib.epg_group_admit(self.raw, c.byref(told), self._use(stream))
        del held

    def rehearse(self, on: bool, *, stream: Any) -> None:
        """While on, in the order of `stream`, operations send nothing, wait for nothing and leave the epoch alone;
        views are empty. Not to be captured (``EPG_ERR_STATE``)."""
        lib.epg_group_rehearse(self.raw, int(on), self._use(stream))

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
