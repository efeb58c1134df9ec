"""Stream scopes: one stream made current in every runtime of the process that keeps a current stream."""
from __future__ import annotations

import ctypes as c
import importlib
import itertools
import threading
from operator import index
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple, Union

from . import _abi
from ._device import Device, Handle
from ._foreign import stream_handle, stream_ordinal
from ._garbage import garbage_paused
from ._library import Error, STATE, lib

STATES = ("set", "absent", "unsupported")
GET = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_int, c.POINTER(c.c_void_p))
SET = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_int, c.c_void_p, c.POINTER(c.c_void_p))
RESTORE = c.CFUNCTYPE(c.c_int, c.c_void_p, c.c_int, c.c_void_p)
OPERATION = c.CFUNCTYPE(c.c_int, c.c_void_p)


class Runtime(NamedTuple):
    """A line of a scope's report.

    Attributes:
        name: ``"PyTorch"``, ``"CuPy"``, ``"TVM-FFI"``, ... or as the caller named it.
        state: ``"set"`` (the stream was made current, and read back), ``"absent"`` (not loaded) or ``"unsupported"``.
        reason: why it is unsupported; else empty.
    """

    name: str
    state: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.state}" + (f" ({self.reason})" if self.reason else "")


class ForeignRuntime:
    """A runtime that the caller adds to a :class:`ScopeTable`: derive from it, or bring the same four. A built-in one
    of the same name gives way to it. The methods are called on the thread that enters and leaves, and must not enter
    or leave a scope; streams are ints, 0 the legacy stream; `ordinal` is the GPU."""

    name: str = ""

    def get(self, ordinal: int) -> int:
        """The current stream."""
        raise NotImplementedError

    def set(self, ordinal: int, stream: int) -> Any:
        """Makes `stream` current and returns whatever ``restore`` needs. If it raises, it has changed nothing."""
        raise NotImplementedError

    def restore(self, ordinal: int, before: Any) -> None:
        """Puts back what was current before that ``set``."""
        raise NotImplementedError


class _Callbacks:
    """A ForeignRuntime as C calls it. What a method raises may not unwind through C: it waits in `raised`."""

    def __init__(self, runtime: Any, raised: threading.local) -> None:
        self.runtime, self.raised = runtime, raised
        self.keys, self.before = itertools.count(1), {}  # type: ignore[var-annotated]
        self.functions = (GET(self.get), SET(self.set), RESTORE(self.restore))
        self.name = str(runtime.name).encode()

    def struct(self) -> Any:
        get, set_, restore = (c.cast(function, c.c_void_p).value for function in self.functions)
        return _abi.init(_abi.ScopeRuntime, name=self.name, get=get, set=set_, restore=restore)

    def failed(self, error: BaseException) -> int:
        if getattr(self.raised, "first", None) is None:
            self.raised.first = error
        return STATE

    def get(self, _: Any, ordinal: int, stream: Any) -> int:
        try:
            stream[0] = stream_handle(self.runtime.get(ordinal), f"the stream that {self.runtime.name} gets")
            return 0
        except BaseException as error:
            return self.failed(error)

    def set(self, _: Any, ordinal: int, stream: Optional[int], before: Any) -> int:
        try:
            kept = self.runtime.set(ordinal, stream or 0)
            key = next(self.keys)
            self.before[key] = kept
            before[0] = key
            return 0
        except BaseException as error:
            return self.failed(error)

    def restore(self, _: Any, ordinal: int, before: int) -> int:
        try:
            self.runtime.restore(ordinal, self.before.pop(before))
            return 0
        except BaseException as error:
            return self.failed(error)


class ScopeTable(Handle):
    """The runtimes that scopes look for: the built-in ones, and those of the caller. ``scope`` and ``verify_scope``
    have tables of their own; make one, per process, to add a runtime.

    Args:
        best_effort: whether a runtime that is there and cannot be set is left as it is. Otherwise entering fails.
        runtimes: of the caller's, see :class:`ForeignRuntime`; set after the built-in ones, in this order.

    Raises:
        Error: ``EPG_ERR_INVALID`` for a name that is empty, too long or there twice, or too many runtimes.
    """

    def __init__(self, *, best_effort: bool = False, runtimes: Iterable[Any] = ()) -> None:
        super().__init__()
        self._raised = threading.local()
        self._callbacks = [_Callbacks(runtime, self._raised) for runtime in runtimes]
        listed = (_abi.ScopeRuntime * max(1, len(self._callbacks)))(*[each.struct() for each in self._callbacks])
        options = _abi.init(_abi.ScopeOptions, best_effort=int(best_effort), runtimes=c.addressof(listed),
                            runtime_count=len(self._callbacks))
        raw = c.c_void_p()
        lib.epg_scope_table_create(c.byref(options), c.byref(raw))
        self._raw, self._object = raw.value, raw

    def _destroy(self, raw: int) -> None:
        self._object = c.c_void_p()
        lib.epg_scope_table_destroy(raw)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """A call in which callbacks run: an Error names as its cause what the first of them raised."""
        self._raised.first = None
        try:
            status = function(*arguments)
            if status:
                _fail(status)
        except Error as error:
            raise error from self._raised.first
        finally:
            self._raised.first = None


class _Tables:
    """The tables of scopes without one of their own. Made at the first use, never destroyed: runtimes that were found
    stay found."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: Dict[bool, ScopeTable] = {}

    def get(self, best_effort: bool) -> ScopeTable:
        table = self.made.get(best_effort)
        if table is None:
            with self.lock:
                table = self.made.get(best_effort) or ScopeTable(best_effort=best_effort)
                self.made[best_effort] = table
        return table


_tables = _Tables()


# Scopes are entered at every step of some engines, so these two calls do without ctypes' conversions and checks: they
# are given objects of ctypes.
_ENTER = c.CFUNCTYPE(c.c_int)(("epg_scope_enter", lib))
_LEAVE = c.CFUNCTYPE(c.c_int)(("epg_scope_leave", lib))
_REPORT_BYTES = c.sizeof(_abi.ScopeReport)


def _fail(status: int) -> None:
    raise Error(status, lib.epg_message().decode(errors="replace"))


def _lines(report: Any) -> Tuple[Runtime, ...]:
    return tuple(Runtime(entry.name.decode(), STATES[entry.state], entry.reason.decode(errors="replace"))
                 for entry in report.entries[:report.count])


class scope:
    """Makes `stream` current in PyTorch, and in every other runtime found in this process that keeps a current stream,
    for a ``with`` block::

        with epgraph.scope(stream) as entered:
            print(*entered.report, sep="\\n")

    On the way out, after an exception too, every runtime has back exactly what it had, whatever was set since. Scopes
    nest, and are left in the order of a stack, whatever their tables; several threads may each have theirs. It may be
    used during capture. A scope object can be entered again once it was left, by one thread at a time; one that is
    made once saves some 2 microseconds.

    Args:
        stream: an object with ``__cuda_stream__``, ``.cuda_stream`` or ``.ptr``, an ``epgraph.Stream``, or an int.
            A stream of the host device can be current in runtimes of the caller's alone.
        ordinal: the GPU; None: what the stream says, else 0.
        best_effort: leave a runtime that cannot be set as it is.
        table: which runtimes; None: the built-in ones.

    Attributes:
        report: a tuple of :class:`Runtime` once it was entered, or entering failed; None before.

    Raises:
        TypeError: no such stream.
        Error: entering, ``EPG_ERR_UNSUPPORTED`` names the first runtime that could not be set, and why; all others have
            back what they had. Leaving, ``EPG_ERR_UNSUPPORTED`` names a runtime that did not take back what it had,
            ``EPG_ERR_STATE`` a scope left out of order or on another thread.
    """

    __slots__ = ("stream", "ordinal", "_source", "_table", "_arguments", "_struct", "_raw", "_inside", "_lines")

    def __init__(self, stream: Any, *, ordinal: Optional[int] = None, best_effort: bool = False,
                 table: Optional[ScopeTable] = None) -> None:
        if best_effort and table is not None:
            raise ValueError("best_effort is the table's: give it to ScopeTable")
        self.stream, self._source = stream_handle(stream), stream   # kept, so that the handle stays one
        told = stream_ordinal(stream) if ordinal is None else index(ordinal)
        self.ordinal: int = 0 if told is None else told
        self._table: ScopeTable = table if table is not None else _tables.get(bool(best_effort))
        self._struct, self._raw = _abi.ScopeReport(_REPORT_BYTES), c.c_void_p()     # its first field is its size
        self._arguments = (self.ordinal, c.c_void_p(self.stream), c.byref(self._struct), c.byref(self._raw))
        self._inside = False
        self._lines: Any = None     # the report; False: not made yet of the struct

    @property
    def report(self) -> Optional[Tuple[Runtime, ...]]:
        if self._lines is False:    # made when asked for: it takes longer than to enter
            self._lines = _lines(self._struct)
        return self._lines  # type: ignore[no-any-return]

    def __enter__(self) -> "scope":
        if self._inside:
            raise ValueError("this scope is entered already")
        table = self._table
        if table._raw is None:
            raise ValueError("this scope's ScopeTable is closed")
        self._inside, self._lines = True, False
        try:
            if table._callbacks:
                table._call(_ENTER, table._object, *self._arguments)
            else:
                status = _ENTER(table._object, *self._arguments)
                if status:
                    _fail(status)
        except BaseException:
            self._inside = False
            raise
        return self

    def __exit__(self, kind: Any = None, error: Any = None, trace: Any = None) -> None:
        if not self._inside:    # C has let go of it
            raise ValueError("this scope is not entered")
        table = self._table
        self._inside = False
        try:
            if table._callbacks:
                table._call(_LEAVE, self._raw)
            else:
                status = _LEAVE(self._raw)
                if status:
                    _fail(status)
        except Error as failure:
            self._inside = failure.code == STATE    # nothing has changed: it can still be left, in order
            raise


# ---- proof ----

def _of_torch(ordinal: int) -> Callable[[], Any]:
    torch = importlib.import_module("torch")
    tensor = torch.zeros(32, device=f"cuda:{ordinal}")
    tensor.add_(1)      # a kernel that is first used in a capture would be loaded there
    torch.cuda.synchronize(ordinal)
    return lambda: tensor.add_(1)


def _of_cupy(ordinal: int) -> Callable[[], Any]:
    cupy = importlib.import_module("cupy")
    with cupy.cuda.Device(ordinal):
        array = cupy.zeros(32, dtype="float32")
        cupy.add(array, 1, out=array)
        cupy.cuda.Device(ordinal).synchronize()
    return lambda: cupy.add(array, 1, out=array)


_OPERATIONS = {"torch": _of_torch, "cupy": _of_cupy}


def verify_scope(operation: Union[str, Callable[[], Any]], *, device: Device,
                 table: Optional[ScopeTable] = None) -> None:
    """Shows that a library follows scopes: enters one on a stream of its own, captures there while one small operation
    is made through that library, and requires a node. It finds what reading back cannot: a library that ignores its
    current stream, or keeps an earlier one. Nothing that was captured runs. Not during capture.

    Args:
        operation: ``"torch"`` or ``"cupy"``, imported if need be: an addition to a tensor of 32 elements. Or
            ``operation()``: enqueues something small, which has run once before.
        device: a CUDA device; a host device for libraries that run on one.
        table: which runtimes; None: the built-in ones.

    Raises:
        Exception: what `operation` raised.
        Error: ``EPG_ERR_ESCAPED``: the operation went to another stream, and has run there. ``EPG_ERR_UNSUPPORTED``
            names a runtime that could not be set.
        ValueError: another name.
    """
    if isinstance(operation, str):
        if operation not in _OPERATIONS:
            raise ValueError(f"operation is {operation!r}, wanted a function or one of {', '.join(_OPERATIONS)}")
        if device.kind != "cuda":
            raise ValueError(f"operation {operation!r} needs a CUDA device, this one is {device.kind!r}")
        operation = _OPERATIONS[operation](device.ordinal)
    used, run = table or _tables.get(False), operation
    raised: List[BaseException] = []

    def call(_: Any) -> int:
        try:
            run()
            return 0
        except BaseException as error:
            raised.append(error)
            return error.code if isinstance(error, Error) else STATE

    function = OPERATION(call)
    try:
        with garbage_paused():
            used._call(lib.epg_scope_verify, used.raw, device.raw, device.ordinal, c.cast(function, c.c_void_p), None)
    except Error:
        if raised:
            raise raised[0]
        raise
