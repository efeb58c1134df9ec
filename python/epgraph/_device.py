"""Devices and streams, and what the package's handles have in common."""
from __future__ import annotations

import ctypes as c
import itertools
import threading
import weakref
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Tuple, TypeVar

from . import _abi
from ._library import NOT_READY, OK, Error, lib

KINDS = {"host": 0, "cuda": 1}
RELAXED = 2     # EPG_CAPTURE_RELAXED
HOST_FUNCTION = c.CFUNCTYPE(None, c.c_void_p)


H = TypeVar("H", bound="Handle")


class Handle:
    """A handle of the library's. ``close()`` ends it, and first those made from it; so do ``with`` and the garbage
    collector. Closing twice does nothing."""

    def __init__(self, parent: Optional["Handle"] = None) -> None:
        self._raw: Optional[int] = None
        self._parent, self._linked = parent, parent is not None
        self._dependents, self._unwanted = 0, False
        self._children: "weakref.WeakSet[Handle]" = weakref.WeakSet()
        self._order = 0
        if parent is not None:
            parent._order += 1
            parent._dependents += 1
            self._order = parent._order
            parent._children.add(self)

    def _destroy(self, raw: int) -> None:
        raise NotImplementedError

    @property
    def raw(self) -> int:
        """The C handle, as an int. Error: ``ValueError`` once closed."""
        if self._raw is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        return self._raw

    @property
    def closed(self) -> bool:
        return self._raw is None

    def close(self) -> None:
        for child in sorted(self._children, key=lambda handle: handle._order, reverse=True):
            child.close()
        raw, self._raw = self._raw, None
        if raw is not None:
            self._destroy(raw)
        if self._linked and self._parent is not None:
            self._linked = False
            self._parent._release()

    def _release(self) -> None:
        """One that depended on this handle is closed."""
        self._dependents -= 1
        if self._unwanted and self._dependents == 0:
            self.close()

    def __enter__(self: H) -> H:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            # Of a cycle the collector finalises in any order, with the weak references to children gone already.
            if self._dependents > 0:
                self._unwanted = True
            else:
                self.close()
        except Exception:  # at the interpreter's end there may be nothing left to close it with
            pass


class Failures:
    """The first exception of host functions that ran in some stream's order, until somebody asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.first: Optional[BaseException] = None

    def put(self, error: BaseException) -> None:
        with self._lock:
            self.first = self.first or error

    def take(self) -> Optional[BaseException]:
        with self._lock:
            first, self.first = self.first, None
            return first


class NotHeld(List[Any]):
    """What is held for work on a stream of another library's, of which nobody says when it is done: nothing."""

    def extend(self, things: Any) -> None:
        pass


class _Once:
    """Host functions that run once, kept until then. C calls one function for all of them, which is never freed: none
    may be while it runs."""

    def __init__(self) -> None:
        self.functions: Dict[int, Callable[[Optional[int]], None]] = {}
        self.keys = itertools.count(1)
        self.function = HOST_FUNCTION(lambda key: self.take(key)(None))
        self.address = c.cast(self.function, c.c_void_p).value

    def put(self, function: Callable[[Optional[int]], None]) -> int:
        key = next(self.keys)
        self.functions[key] = function
        return key

    def take(self, key: int) -> Callable[[Optional[int]], None]:
        return self.functions.pop(key)


_once = _Once()


class Device(Handle):
    """Streams, memory and capture, under CUDA's rules.

    Args:
        kind: ``"host"`` (CPU threads) or ``"cuda"`` (one GPU).
        ordinal: which GPU, as CUDA counts them.

    Raises:
        Error: ``EPG_ERR_UNSUPPORTED``, with CUDA's reason, where there is no GPU or no driver, or the library was built
            without CUDA.
    """

    def __init__(self, kind: str = "host", ordinal: int = 0) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}, wanted one of {', '.join(KINDS)}")
        options = _abi.init(_abi.DeviceOptions, kind=KINDS[kind], ordinal=ordinal)
        raw = c.c_void_p()
        lib.epg_device_create(c.byref(options), c.byref(raw))
        self._raw = raw.value
        self.kind, self.ordinal = kind, ordinal

    def _destroy(self, raw: int) -> None:
        lib.epg_device_destroy(raw)

    def _is(self, other: "Device") -> bool:
        """Whether streams and memory of `other` are this one's: two handles on a GPU are on the same GPU."""
        return other is self or (self.kind, self.ordinal) == ("cuda", other.ordinal) == (other.kind, other.ordinal)

    def describe(self) -> Dict[str, Any]:
        """``name``, ``units`` (cores or multiprocessors) and ``memory_bytes``."""
        info = _abi.init(_abi.DeviceInfo)
        lib.epg_device_describe(self.raw, c.byref(info))
        return {"name": info.name.decode(errors="replace"), "units": info.units, "memory_bytes": info.memory_bytes}

    def now_ns(self) -> int:
        """Nanoseconds on the clock by which this device's waits are bounded."""
        return int(lib.epg_device_now_ns(self.raw))

    def synchronize(self) -> None:
        """Waits for all work of all streams. Error: 900 while any stream captures, which ends every capture."""
        lib.epg_device_synchronize(self.raw)

    def _captures(self, stream: int) -> bool:
        """Whether stream `stream` captures."""
        status = c.c_int()
        lib.epg_capture_query(self.raw, stream, c.byref(status), None)
        return status.value != 0

    def _order_streams(self, before: int, after: int) -> None:
        """Work put on stream `after` from now on waits for what is on `before` now."""
        event = c.c_void_p()
        lib.epg_event_create_order(self.raw, c.byref(event))
        try:
            lib.epg_event_record(self.raw, event, before)
            lib.epg_stream_wait_event(self.raw, after, event)
        finally:
            lib.epg_event_destroy(self.raw, event)

    @contextmanager
    def _relaxed(self) -> Iterator[None]:
        """For calls that may wait for work, or take its memory: a capture, of this thread or of any, would be ended by
        them, were this thread's capture mode not relaxed. The caller knows that they concern nothing that is captured.
        """
        mode = c.c_int(RELAXED)
        lib.epg_capture_mode_exchange(self.raw, c.byref(mode))
        try:
            yield
        finally:
            lib.epg_capture_mode_exchange(self.raw, c.byref(mode))

    def memory_info(self) -> Tuple[int, int]:
        """Bytes that can still be allocated, and bytes there are."""
        free, total = c.c_uint64(), c.c_uint64()
        lib.epg_memory_info(self.raw, c.byref(free), c.byref(total))
        return free.value, total.value

    def copy_rate(self, size: int = 1 << 30) -> float:
        """Bytes per second, those read and those written together, of a plain copying kernel between two arrays of
        `size` bytes: what a floor of other work's time is reckoned with."""
        rate = c.c_double()
        lib.epg_device_copy_rate(self.raw, size, c.byref(rate))
        return rate.value

    def stream(self, blocking: bool = False) -> "Stream":
        """A new stream."""
        return Stream(self, blocking)


class Stream(Handle):
    """Work in order. It keeps what its unfinished work reads and calls until ``synchronize``: call that now and then.

    Args:
        device: whose.
        blocking: whether work on the legacy stream and this stream's wait for one another, as CUDA has it.
    """

    def __init__(self, device: Device, blocking: bool = False) -> None:
        super().__init__(device)
        self.device = device
        self._held: List[Any] = []
        self._failures = Failures()
        self._others: Set[Failures] = set()
        self._runners: "weakref.WeakSet[Any]" = weakref.WeakSet()   # those that may be ordered after it
        self._owned = True
        raw = c.c_void_p()
        lib.epg_stream_create(device.raw, 0 if blocking else 1, c.byref(raw))
        self._raw = raw.value

    @classmethod
    def _borrowed(cls, device: Device, raw: Optional[int], held: List[Any], failures: Failures) -> "Stream":
        """A stream of the library's own; what its work needs goes to `held`, its exceptions to `failures`."""
        self = cls.__new__(cls)
        Handle.__init__(self)
        self.device, self._raw, self._held, self._failures = device, raw or 0, held, failures
        self._others, self._owned, self._runners = set(), False, weakref.WeakSet()
        return self

    def __cuda_stream__(self) -> Tuple[int, int]:
        """(0, the cudaStream_t): by this other libraries take the stream (``torch.cuda.ExternalStream(stream.raw)``,
        ``cupy.cuda.Stream.from_external(stream)``). ``TypeError`` on the host device."""
        if self.device.kind != "cuda":
            raise TypeError("a stream of the host device is no CUDA stream")
        return 0, self.raw

    def _destroy(self, raw: int) -> None:
        if self._owned:
            for runner in list(self._runners):
                runner._forget(raw)
            try:
                lib.epg_stream_synchronize(self.device.raw, raw)  # its work may use what is held
            except Error:
                pass
            lib.epg_stream_destroy(self.device.raw, raw)
            self._held.clear()

    def hold(self, *things: Any) -> None:
        """Keeps `things` alive until the next ``synchronize`` (in a runner's capture: until its reset)."""
        self._held.extend(things)

    def synchronize(self) -> None:
        """Waits for this stream's work.

        Raises:
            Exception: the first that a host function of this stream, or of a runner that ran here, has raised.
            Error: of the device, if none did.
        """
        error: Optional[Error] = None
        raw, count = self.raw, len(self._held)
        try:
            lib.epg_stream_synchronize(self.device.raw, raw)
            del self._held[:count]
        except Error as failed:
            error = failed
        for failures in (self._failures, *self._others):
            raised = failures.take()
            if raised is not None:
                raise raised
        if error is not None:
            raise error

    def query(self) -> bool:
        """True if all its work is done."""
        status = lib.epg_stream_query(self.device.raw, self.raw)
        if status not in (OK, NOT_READY):
            raise Error(status, lib.epg_message().decode(errors="replace"))
        return bool(status == OK)

    def timestamp(self, at: Any) -> None:
        """Writes the device's clock (``Device.now_ns``) to `at`, uint64 or int64 [1] on the device, when the stream
        gets there; captured, at every replay."""
        from ._arrays import take   # it builds on this module
        taken = take(at, "at", ("u8", "i8"), (1,), device=self.device, stream=self.raw, writable=True, alignment=8)
        self.hold(taken.held)
        lib.epg_timestamp_async(self.device.raw, taken.address, self.raw)

    def host_func(self, fn: Callable[[], Any], name: Optional[str] = None) -> None:
        """Runs ``fn()`` on the CPU in stream order; captured, at every replay. `fn` may not use the library. What it
        raises comes out of ``synchronize``; later work of the stream runs all the same."""
        failures = self._failures

        def call(_: Optional[int]) -> None:
            try:
                fn()
            except BaseException as error:  # it may not unwind through C
                failures.put(error)

        label = name.encode() if name else None
        if isinstance(self._held, NotHeld):     # nobody says when it has run, but it runs once
            key = _once.put(call)
            try:
                lib.epg_host_func(self.device.raw, self.raw, _once.address, key, label)
            except BaseException:
                _once.take(key)
                raise
            return
        wrapped = HOST_FUNCTION(call)
        self.hold(wrapped)
        lib.epg_host_func(self.device.raw, self.raw, c.cast(wrapped, c.c_void_p), None, label)
