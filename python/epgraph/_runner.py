"""The graph runner: one step function, captured once per bucket and replayed."""
from __future__ import annotations

import ctypes as c
import weakref
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set

from . import _abi
from ._arrays import over, _look
from ._device import Device, Failures, Handle, Stream
from ._garbage import garbage_paused
from ._group import Group
from ._library import Error, STATE, lib

PHASES = ("eager", "warmup", "probe", "capture")
DTYPES = {"float32": "f4", "int32": "i4", "uint32": "u4", "uint16": "u2"}
STEP = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(_abi.StepCall))


class StepCall:
    """What a step function is told; valid while it runs.

    Attributes:
        bucket: enqueue work for this many tokens.
        variant: as given to ``Runner.run``.
        phase: ``"eager"``, ``"warmup"`` (groups send nothing), ``"probe"`` or ``"capture"``.
        stream: where to enqueue, and nowhere else. It may not be synchronised.
    """

    def __init__(self, raw: Any, stream: Stream) -> None:
        self._raw: Optional[Any] = raw
        self.bucket: int = raw.contents.bucket
        self.variant: int = raw.contents.variant
        self.phase = PHASES[raw.contents.phase]
        self.stream = stream

    def alloc(self, shape: Sequence[int], dtype: str = "float32") -> Any:
        """Scratch memory of the runner's, 256-byte aligned, that lasts one step: the same calls in the same order give
        the same addresses. `dtype`: float32, int32, uint32 or uint16."""
        if self._raw is None:
            raise ValueError("this step function has returned")
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}, wanted one of {', '.join(DTYPES)}")
        kind, memory, size = DTYPES[dtype], c.c_void_p(), int(DTYPES[dtype][1])
        for extent in shape:
            size *= extent
        lib.epg_step_alloc(self._raw, size, c.byref(memory))
        return over(memory.value, shape, kind, writable=True)


class Runner(Handle):
    """Captures a step once per (variant, bucket) and replays it; above the largest bucket it runs eagerly.

    ``fn(call)`` enqueues one step's work for ``call.bucket`` tokens on ``call.stream``, the same work whenever variant
    and bucket are the same. It is called to warm up, to capture and for eager steps, not for replays: what is to happen
    at every replay must be enqueued (dispatch, combine, ``run_experts``, ``stream.host_func``). Arrays are captured by
    address, so it uses the same ones each time, sized for the largest bucket. Python's garbage collector is off while
    it is captured, lest a handle be destroyed inside the capture. One thread at a time per runner.

    Args:
        fn: the step function. What it raises ends the capture and comes out of ``run``; the runner can be used again.
        buckets: token counts to capture for, ascending; None: the default list up to `max_bucket`.
        max_bucket: with `buckets` None; 0: the first group's max_tokens.
        groups: those that the step uses: they rehearse in warm-ups.
        device: needed without `groups`.
        warmups: rehearsals before a capture; -1: the setting ``EPGRAPH_WARMUPS``.
        probe: whether the first entry is captured on a blocking stream too, to find work that escapes.

    Raises:
        Error: ``EPG_ERR_INVALID`` for buckets that do not ascend.
        ValueError: neither groups nor a device.
    """

    def __init__(self, fn: Callable[[StepCall], Any], *, buckets: Optional[Sequence[int]] = None, max_bucket: int = 0,
                 groups: Sequence[Group] = (), device: Optional[Device] = None, warmups: int = -1,
                 probe: bool = True) -> None:
        if not groups and device is None:
            raise ValueError("a Runner needs groups or a device")
        super().__init__(max(groups, key=lambda group: group._order) if groups else device)
        self.fn, self.groups = fn, list(groups)
        self.device: Device = groups[0].device if groups else device  # type: ignore[assignment]
        self._held: List[Any] = []          # what captured work reads and calls
        self._failures = Failures()         # of captured host functions
        self._streams: Set[Stream] = set()
        self._now: Optional[Stream] = None
        self._raised: Optional[BaseException] = None
        me = weakref.ref(self)              # no cycle: a runner that nobody has ends at once
        self._step = STEP(lambda _, call: me()._call(call))  # type: ignore[union-attr]
        name = getattr(fn, "__name__", "step").encode()
        segment = _abi.Segment(fn=c.cast(self._step, c.c_void_p), ctx=None, eager=0, name=name)
        listed = (c.c_uint32 * max(1, len(buckets or ())))(*(buckets or ()))
        members = (c.c_void_p * max(1, len(groups)))(*[group.raw for group in groups])
        options = _abi.init(
            _abi.RunnerOptions, segments=c.addressof(segment), segment_count=1, warmups=warmups, probe=int(probe),
            buckets=None if buckets is None else c.addressof(listed), bucket_count=len(buckets or ()),
            max_bucket=max_bucket or (groups[0].options["max_tokens"] if groups else 0),
            groups=c.addressof(members), group_count=len(groups))
        raw = c.c_void_p()
        lib.epg_runner_create(self.device.raw, c.byref(options), c.byref(raw))
        self._raw = raw.value
        for group in self.groups:
            group._dependents += 1

    def _destroy(self, raw: int) -> None:
        for stream in self._streams:
            stream._others.discard(self._failures)
        lib.epg_runner_destroy(raw)
        self._held.clear()
        for user in (*self._streams, *self.groups):
            user._release()
        self._streams.clear()

    def _call(self, raw: Any) -> int:
        """The step function as C calls it: an exception may not unwind through C, so it waits here."""
        told = raw.contents
        eager = PHASES[told.phase] == "eager" and self._now is not None
        stream = self._now if eager else Stream._borrowed(self.device, told.stream, self._held, self._failures)
        call = StepCall(raw, stream)  # type: ignore[arg-type]
        try:
            if eager:
                self.fn(call)
            else:
                with garbage_paused():
                    self.fn(call)
            return 0
        except BaseException as error:
            self._raised = error
            return error.code if isinstance(error, Error) else STATE
        finally:
            call._raw = None

    def _enter(self, enqueue: Callable[[Any, Any], Any], stream: Stream, inputs: Optional[Mapping[str, Any]],
               **fields: int) -> None:
        looked = [(name, _look(array, name, False)) for name, array in (inputs or {}).items()]
        listed = (_abi.RunnerInput * max(1, len(looked)))(
            *[_abi.RunnerInput(name.encode(), array.address) for name, array in looked])
        step = _abi.init(_abi.RunnerStep, stream=stream.raw, inputs=c.addressof(listed), input_count=len(looked),
                         **fields)
        self._now, self._raised = stream, None
        if stream not in self._streams:
            self._streams.add(stream)
            stream._dependents += 1
        stream._others.add(self._failures)
        for group in self.groups:
            group._use(stream)
        try:
            enqueue(self.raw, c.byref(step))
        except Error:
            if self._raised is None:
                raise
        finally:
            self._now = None
            raised, self._raised = self._raised, None
        if raised is not None:
            raise raised

    def run(self, tokens: int, *, stream: Stream, variant: int = 0, eager: bool = False,
            inputs: Optional[Mapping[str, Any]] = None) -> None:
        """Enqueues one step on `stream`: replayed, captured first where its entry is new, or eager.

        Args:
            tokens: picks the bucket. The count that the work reads is the step function's own affair (`tokens` of
                dispatch).
            inputs: arrays by name, whose addresses the graph holds.

        Raises:
            Exception: what the step function raised.
            Error: ``EPG_ERR_MOVED``, by name, for an input at another address than the captured one; nothing is
                enqueued. ``EPG_ERR_ESCAPED`` for work that went past the capture.
        """
        self._enter(lib.epg_runner_run, stream, inputs, tokens=tokens, variant=variant, eager=int(eager))

    def capture_all(self, *, stream: Stream, variant: int = 0, inputs: Optional[Mapping[str, Any]] = None) -> None:
        """Captures every bucket, largest first. Nothing runs but rehearsals."""
        self._enter(lib.epg_runner_capture_all, stream, inputs, variant=variant)

    def reset(self) -> None:
        """Drops every entry, once replays in flight are done; the next use captures anew."""
        lib.epg_runner_reset(self.raw)
        self._held.clear()

    def bucket(self, tokens: int) -> int:
        """The smallest bucket that holds `tokens`. Error: ``EPG_ERR_NOT_FOUND`` above the largest."""
        found = c.c_uint32()
        lib.epg_runner_bucket(self.raw, tokens, c.byref(found))
        return found.value

    def stats(self) -> Dict[str, Any]:
        """Counters, by the names of ``epg_runner_stats``."""
        stats = _abi.init(_abi.RunnerStats)
        lib.epg_runner_get_stats(self.raw, c.byref(stats))
        return _abi.values(stats)
