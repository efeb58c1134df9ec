"""The graph runner: one step function, captured once per bucket and replayed."""
from __future__ import annotations

import ctypes as c
import weakref
from operator import index
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Union

from . import _abi
from ._arrays import is_torch, look, module_of
from ._device import Device, Failures, Handle, NotHeld, Stream
from ._dlpack import ITEM_BYTES
from ._foreign import stream_handle
from ._frameworks import framework_of, over
from ._garbage import garbage_paused
from ._group import Group
from ._library import CAPTURE_IMPLICIT, ESCAPED, Error, STATE, lib
from ._pools import Pools
from ._scope import ScopeTable

PHASES = ("eager", "warmup", "probe", "capture")
EAGER, WARMUP, PROBE, CAPTURE = range(4)
DTYPES = {"float32": "f4", "bfloat16": "bf16", "int32": "i4", "uint32": "u4", "uint16": "u2"}
STEP = c.CFUNCTYPE(c.c_int, c.c_void_p, c.POINTER(_abi.StepCall))
PROGRESS = c.CFUNCTYPE(None, c.c_void_p, c.c_uint32, c.c_uint32)
# Without the check that `lib.epg_runner_run` makes, and without argument types, which take longer than to pass objects
# of ctypes: what a replay costs counts (bench/python_replay.py).
_enqueue = c.CFUNCTYPE(c.c_int)(("epg_runner_run", lib))

StepFunction = Callable[["StepCall"], Any]


class eager:
    """Marks a segment that runs outside of the graphs at every step (attention that cannot be captured)::

        runner = epgraph.Runner([epgraph.eager(attention), experts], groups=[group])
    """

    def __init__(self, fn: StepFunction) -> None:
        self.fn = fn
        self.__name__ = getattr(fn, "__name__", "step")


class StepCall:
    """What a step function is told; valid while it runs.

    Attributes:
        bucket: enqueue work for this many tokens.
        variant: as given to ``Runner.run``.
        phase: ``"eager"``, ``"warmup"`` (groups send nothing), ``"probe"`` or ``"capture"``.
        stream: where to enqueue, and nowhere else. It may not be synchronised. On a CUDA device it is current in every
            runtime that keeps a current stream.
    """

    def __init__(self, raw: Any, stream: Stream) -> None:
        self._raw: Optional[Any] = raw
        self.bucket: int = raw.contents.bucket
        self.variant: int = raw.contents.variant
        self.phase = PHASES[raw.contents.phase]
        self.stream = stream

    def alloc(self, shape: Sequence[int], dtype: str = "float32", like: Any = None) -> Any:
        """Scratch memory of the runner's, 256-byte aligned, that lasts one step: the same calls in the same order give
        the same addresses.

        Args:
            dtype: float32, bfloat16, int32, uint32 or uint16.
            like: an array of the framework wanted; None: numpy's on the host device, an ``epgraph.Memory`` on CUDA.
        """
        if self._raw is None:
            raise ValueError("this step function has returned")
        if dtype not in DTYPES:
            raise ValueError(f"dtype is {dtype!r}, wanted one of {', '.join(DTYPES)}")
        kind, memory = DTYPES[dtype], c.c_void_p()
        size = ITEM_BYTES[kind]
        for extent in shape:
            size *= extent
        lib.epg_step_alloc(self._raw, size, c.byref(memory))
        device = self.stream.device
        return over(framework_of(like, device), memory.value, shape, kind, device, None, writable=True)


def _names_legacy_stream(error: BaseException) -> bool:
    """Whether an exception, of whatever library, says 906: work on the legacy stream while a blocking one captures."""
    if isinstance(error, Error):
        return error.code == CAPTURE_IMPLICIT
    told = str(error)
    return ("legacy stream depend on a capturing blocking stream" in told or "CaptureImplicit" in told
            or "CAPTURE_IMPLICIT" in told)


class _Inputs:
    """The inputs of a step as C takes them. Those of the call before are kept, so that a replay only asks for what may
    have changed: which arrays they are, and of PyTorch's, whose tensors move by ``x.data = y`` or ``resize_``, the
    addresses. numpy's arrays do not move while they are referred to, CuPy's never do."""

    def __init__(self) -> None:
        self.names: List[str] = []
        self.known: List[Any] = []              # what `asked` gave
        self.asked: Callable[[Any], Any] = id   # the address of a tensor, where all are PyTorch's; else which it is
        self.arrays: List[Any] = []             # kept, so that `id` stays theirs
        self.rows: Any = None

    def are(self, inputs: Mapping[str, Any]) -> bool:
        """Whether `inputs` are those of before, where they were. Loops in C: one in Python costs more than a replay."""
        try:
            return list(inputs) == self.names and list(map(self.asked, inputs.values())) == self.known
        except TypeError:   # another kind of array than before
            return False

    def take(self, step: Any, inputs: Mapping[str, Any]) -> None:
        looked = [look(array, name) for name, array in inputs.items()]
        self.rows = (_abi.RunnerInput * max(1, len(looked)))(
            *[_abi.RunnerInput(name.encode(), each.address) for name, each in zip(inputs, looked)])
        self.names, self.arrays = list(inputs), list(inputs.values())
        types = {type(array) for array in self.arrays}
        self.asked = id
        if len(types) == 1 and is_torch(self.arrays[0]):
            self.asked = types.pop().data_ptr
        elif any(module_of(array) not in ("cupy", "numpy") for array in self.arrays):
            self.asked = lambda array: (id(array), look(array, "an input").address)
        self.known = list(map(self.asked, self.arrays))
        step.inputs, step.input_count = c.addressof(self.rows), len(looked)


class Runner(Handle):
    """Captures a step once per (variant, bucket) and replays it; above the largest bucket it runs eagerly.

    ``fn(call)`` enqueues one step's work for ``call.bucket`` tokens on ``call.stream``, the same work whenever variant
    and bucket are the same. It is called to warm up, to capture and for eager steps, not for replays: what is to happen
    at every replay must be enqueued (dispatch, combine, kernels of any framework, ``run_experts``,
    ``stream.host_func``). Arrays are captured by address, so it uses the same ones each time, sized for the largest
    bucket. It decorates as well::

        @epgraph.Runner(groups=[group])
        def step(call):
            ...

        step.run(tokens, stream=stream)

    While it is captured Python's garbage collector is off, lest a handle be destroyed inside the capture, and PyTorch
    and CuPy allocate from pools of the runner's, lest the memory of a tensor that the step made be given to others
    while graphs write there. One thread at a time per runner.

    On a CUDA device ``call.stream`` is current in every runtime found wherever the step is called, as by
    ``epgraph.scope``. A step that launches elsewhere, past all of them, is found in the first capture.

    Args:
        fn: the step function, or a list of them, its segments, of which some may be ``epgraph.eager``. What one raises
            ends the capture and comes out of ``run``; the runner can be used again. None: to be decorated.
        buckets: token counts to capture for, ascending; None: the default list up to `max_bucket`.
        max_bucket: with `buckets` None; 0: the first group's max_tokens.
        groups: those that the step uses: they rehearse in warm-ups.
        device: needed without `groups`.
        warmups: rehearsals before a capture; -1: the setting ``EPGRAPH_WARMUPS``.
        probe: whether the first entry is captured on a blocking stream too, to find work that escapes.
        scopes: in which runtimes the step's stream is made current; None: on a CUDA device the built-in ones, on a host
            device none.
        private_pools: whether what PyTorch and CuPy allocate in captures comes from pools of the runner's. Without
            them a step is to make no arrays.
        progress: ``progress(done, all)``, called by ``capture_all`` after each bucket.

    Raises:
        Error: ``EPG_ERR_INVALID`` for buckets that do not ascend.
        ValueError: neither groups nor a device.
    """

    def __init__(self, fn: Union[None, StepFunction, Sequence[Any]] = None, *,
                 buckets: Optional[Sequence[int]] = None, max_bucket: int = 0, groups: Sequence[Group] = (),
                 device: Optional[Device] = None, warmups: int = -1, probe: bool = True,
                 scopes: Optional[ScopeTable] = None, private_pools: bool = True,
                 progress: Optional[Callable[[int, int], Any]] = None) -> None:
        if not groups and device is None:
            raise ValueError("a Runner needs groups or a device")
        super().__init__(max(groups, key=lambda group: group._order) if groups else device)
        self.fn, self.groups = fn, list(groups)
        self.device: Device = groups[0].device if groups else device  # type: ignore[assignment]
        self._scopes = scopes
        self._pools = Pools(self.device, private_pools)
        self._held: List[Any] = []          # what captured work reads and calls
        self._mark = (0, 0)                 # how much of it was there before an entry's first use, at so many captures
        self._rehearsed: List[Any] = []     # what warm-ups and probes do
        self._failures = Failures()         # of captured host functions
        self._progress_failures = Failures()
        self._streams: Set[Stream] = set()
        self._now: Any = None               # the stream of the last call
        self._kept: List[Any] = []          # those before it, until C has ordered a step behind the last of them
        self._is_ours = True
        self._raised: Optional[BaseException] = None
        self._step = _abi.init(_abi.RunnerStep)
        self._step_address = c.byref(self._step)
        self._object: Optional[c.c_void_p] = None   # the handle, as _enqueue takes it
        self._tokens = self._variant = 0
        self._eager = False
        self._inputs = _Inputs()
        self._progress = PROGRESS(self._as_progress(progress)) if progress else None
        self._options: Dict[str, Any] = dict(buckets=buckets, max_bucket=max_bucket, warmups=warmups, probe=probe)
        if fn is not None:
            self._create()

    # ---- creation ----

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Decorates a step function, where there is none yet; else as ``run``."""
        if self.fn is not None:
            return self.run(*arguments, **named)
        self.fn, = arguments
        self.__doc__ = getattr(self.fn, "__doc__", None)
        self._create()
        return self

    @property
    def raw(self) -> int:
        if self.fn is None:
            raise ValueError("this Runner has no step function yet")
        return super().raw

    def _create(self) -> None:
        functions: Any = self.fn if isinstance(self.fn, (list, tuple)) else [self.fn]
        segments, self._functions = (_abi.Segment * max(1, len(functions)))(), []
        for place, fn in enumerate(functions):
            is_eager = isinstance(fn, eager)
            function = self._as_c(fn.fn if is_eager else fn)
            self._functions.append(function)
            segments[place] = _abi.Segment(fn=c.cast(function, c.c_void_p), eager=int(is_eager),
                                           name=getattr(fn, "__name__", "step").encode())
        buckets = self._options["buckets"]
        listed = (c.c_uint32 * max(1, len(buckets or ())))(*(buckets or ()))
        members = (c.c_void_p * max(1, len(self.groups)))(*[group.raw for group in self.groups])
        most = self._options["max_bucket"] or (self.groups[0].options["max_tokens"] if self.groups else 0)
        options = _abi.init(
            _abi.RunnerOptions, segments=c.addressof(segments), segment_count=len(functions),
            warmups=self._options["warmups"], probe=int(self._options["probe"]),
            buckets=None if buckets is None else c.addressof(listed), bucket_count=len(buckets or ()), max_bucket=most,
            groups=c.addressof(members), group_count=len(self.groups),
            progress=c.cast(self._progress, c.c_void_p) if self._progress else None,
            scopes=None if self._scopes is None else self._scopes.raw)
        raw = c.c_void_p()
        lib.epg_runner_create(self.device.raw, c.byref(options), c.byref(raw))
        self._raw, self._object = raw.value, raw
        for used in (*self.groups, *([self._scopes] if self._scopes else [])):
            used._dependents += 1
            used._children.add(self)    # they close it first

    def _as_c(self, fn: StepFunction) -> Any:
        me = weakref.ref(self)  # no cycle: a runner that nobody has ends at once
        return STEP(lambda _, call: me()._call(fn, call))  # type: ignore[union-attr]

    def _as_progress(self, fn: Callable[[int, int], Any]) -> Callable[..., None]:
        failures = self._progress_failures  # not self: no cycle

        def call(_: Any, done: int, all_: int) -> None:
            try:
                fn(done, all_)
            except BaseException as error:
                failures.put(error)

        return call

    def _destroy(self, raw: int) -> None:
        self._object = None
        for stream in self._streams:
            stream._others.discard(self._failures)
        with self.device._relaxed():
            lib.epg_runner_destroy(raw)
        self._held.clear()
        self._pools.drop()
        for user in (*self._streams, *self.groups, *([self._scopes] if self._scopes else [])):
            user._release()
        self._streams.clear()
        self._kept.clear()
        self._now, self._inputs = None, _Inputs()

    # ---- the step function, as C calls it ----

    def _stream_of(self, phase: int, handle: Optional[int]) -> Stream:
        if phase == EAGER and self._is_ours:
            return self._now  # type: ignore[no-any-return]
        if phase == EAGER:
            return Stream._borrowed(self.device, handle, NotHeld(), self._failures)
        if phase != WARMUP:
            self._rehearsed.clear()     # warm-ups are over, and waited for
        captures = self.stats()["captures"]
        if captures != self._mark[1]:       # another entry's first use
            self._mark = (len(self._held), captures)
        held = self._held if phase == CAPTURE else self._rehearsed
        return Stream._borrowed(self.device, handle, held, self._failures)

    def _call(self, fn: StepFunction, raw: Any) -> int:
        """An exception may not unwind through C, so it waits here."""
        self._raised, call = None, None
        try:
            phase = raw.contents.phase
            call = StepCall(raw, self._stream_of(phase, raw.contents.stream))
            if phase == EAGER:
                fn(call)
            else:
                with garbage_paused(), self._pools():
                    fn(call)
            return 0
        except BaseException as error:
            self._raised = error
            if raw.contents.phase == PROBE and _names_legacy_stream(error):
                return CAPTURE_IMPLICIT
            return error.code if isinstance(error, Error) else STATE
        finally:
            if call is not None:
                call._raw = None

    # ---- steps ----

    def _attach(self, stream: Any) -> None:
        """`stream` is that of the next calls."""
        self.raw    # raises where there is no runner to be attached
        ours = isinstance(stream, Stream)
        handle = self.groups[0]._use(stream) if self.groups else stream.raw if ours else stream_handle(stream)
        if ours:
            if not self.device._is(stream.device):
                raise ValueError("stream is of another device than the runner")
            if stream not in self._streams:
                self._streams.add(stream)
                stream._dependents += 1
            stream._others.add(self._failures)
            stream._runners.add(self)
        elif self.device.kind != "cuda":
            raise TypeError(f"stream is a {type(stream).__name__}, wanted an epgraph.Stream of the host device")
        for group in self.groups[1:]:
            group._use(stream)
        self._step.stream = handle
        if all(kept is not self._now for kept in self._kept):
            self._kept.append(self._now)
        self._now, self._is_ours = stream, ours

    def _forget(self, handle: int) -> None:
        """A stream of ours is about to end."""
        if self._raw is not None:
            with self.device._relaxed():
                try:
                    lib.epg_runner_forget_stream(self._raw, handle)
                except Error:   # of its work: whoever waits for it next is told
                    pass

    def _fill(self, tokens: int, variant: int, eager: bool) -> None:
        tokens, variant = index(tokens), index(variant)
        for name, value in (("tokens", tokens), ("variant", variant)):
            if not 0 <= value < 2**32:
                raise ValueError(f"{name} is {value}, outside 0..{2**32 - 1}")
        step = self._step
        step.tokens, step.variant, step.eager = tokens, variant, int(eager)
        self._tokens, self._variant, self._eager = tokens, variant, eager

    def _failed(self, status: int) -> None:
        """Raises what a call that failed is to raise."""
        raised, self._raised = self._raised, None
        self.raw    # raises where it is closed, or has no step function
        error = Error(status, lib.epg_message().decode(errors="replace"))
        if self.stats()["captures"] == self._mark[1]:   # else its graph is there, whatever failed after that
            del self._held[self._mark[0]:]
        self._rehearsed.clear()
        if raised is None:
            raise error
        if status == ESCAPED:
            raise error from raised
        raise raised

    def run(self, tokens: int, *, stream: Any, variant: int = 0, eager: bool = False,
            inputs: Optional[Mapping[str, Any]] = None) -> None:
        """Enqueues one step on `stream`: replayed, captured first where its entry is new, or eager.

        Args:
            tokens: picks the bucket. The count that the work reads is the step function's own affair (`tokens` of
                dispatch).
            stream: an ``epgraph.Stream`` of the runner's device; on a CUDA device also any other library's. What host
                functions raise comes out of ``synchronize`` of the former, of a later ``run`` on the latter.
            inputs: arrays by name, whose addresses the graph holds.

        Raises:
            Exception: what the step function raised.
            Error: ``EPG_ERR_MOVED``, by name, for an input at another address than the captured one; nothing is
                enqueued. ``EPG_ERR_ESCAPED`` for work that went past the capture; its cause is what the library that
                launched it raised, if it did.
        """
        if stream is not self._now or (self._is_ours and stream._raw is None):
            self._attach(stream)
        if tokens != self._tokens or variant != self._variant or eager is not self._eager:
            self._fill(tokens, variant, eager)
        if (inputs or self._inputs.names) and not self._inputs.are(inputs or {}):
            self._inputs.take(self._step, inputs or {})
        if not self._is_ours and self._failures.first is not None:
            raise self._failures.take()  # type: ignore[misc]
        status = _enqueue(self._object, self._step_address)
        if status:
            self._failed(status)
        if self._kept:
            self._kept.clear()

    def capture_all(self, *, stream: Any, variant: int = 0, inputs: Optional[Mapping[str, Any]] = None) -> None:
        """Captures every bucket, largest first. Nothing runs but rehearsals."""
        self._attach(stream)
        self._fill(self._tokens, variant, False)
        self._inputs.take(self._step, inputs or {})
        self._progress_failures.take()
        try:
            lib.epg_runner_capture_all(self.raw, self._step_address)
        except Error as error:
            self._failed(error.code)
        raised = self._progress_failures.take()
        if raised is not None:
            raise raised

    def reset(self) -> None:
        """Drops every entry, once replays in flight are done; the next use captures anew."""
        lib.epg_runner_reset(self.raw)
        self._held.clear()
        self._mark = (0, self.stats()["captures"])
        self._pools.drop()

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

    def dot(self, bucket: int, variant: int = 0) -> str:
        """The graphs of an entry in Graphviz's language. Error: ``EPG_ERR_NOT_FOUND`` if it was not captured."""
        pieces: List[bytes] = []
        write = c.CFUNCTYPE(None, c.c_void_p, c.c_char_p)(lambda _, text: pieces.append(text))
        lib.epg_runner_dot(self.raw, variant, bucket, c.cast(write, c.c_void_p), None)
        return b"".join(pieces).decode(errors="replace")
