"""Stands in for CuPy: the streams of cupy.cuda, with the state that CuPy 13 and 14 keep per thread and device, for two
GPUs; and the extension module by which a scope finds it. `install` puts it into sys.modules, `remove` takes it out."""
import ctypes
import os
import sys
import threading
import types
from pathlib import Path

GPUS = 2
LIBRARY = (Path(os.environ["EPGRAPH_LIBRARY"]).parent / "tests" / "standins" / "bare" / "cupy_backends" / "cuda"
           / "stream.so")


class _State(threading.local):
    def __init__(self):
        self.device = 0
        self.handles = [0] * GPUS                        # what launches read
        self.current = [Stream.null] * GPUS
        self.stacks = [[Stream.null] for _ in range(GPUS)]
        self.entered_on = []


class _Base:
    def __init__(self, ptr, device_id):
        self.ptr, self.device_id = ptr, device_id

    def _device(self):
        if self.device_id not in (-1, state.device):
            raise RuntimeError(f"stream of device {self.device_id}, current device {state.device}")
        return state.device

    def __enter__(self):
        device = self._device()
        state.stacks[device].append(self)
        state.entered_on.append(device)
        _set(self)
        return self

    def __exit__(self, *_):
        stack = state.stacks[state.entered_on.pop()]
        stack.pop()
        _set(stack[-1])

    def use(self):
        self._device()
        _set(self)
        return self


class Stream(_Base):
    null = None


Stream.null = Stream(0, -1)


class ExternalStream(_Base):
    def __init__(self, ptr, device_id=-1):
        super().__init__(ptr, device_id)


def _from_external(cls, foreign):
    version, ptr = foreign.__cuda_stream__()
    assert version == 0
    return cls(ptr, -1)


def _set(stream):
    if faults.get("set") == "ignore":
        return
    if faults.get("set") == "raise":
        raise RuntimeError("the stand-in sets no stream")
    device = state.device if stream.device_id == -1 else stream.device_id
    if faults.get("set") != "only the object":
        state.handles[device] = stream.ptr
    state.current[device] = stream


def get_current_stream(device_id=-1):
    return state.current[state.device if device_id == -1 else device_id]


def _set_device(ordinal):
    if not 0 <= ordinal < GPUS:
        raise RuntimeError(f"invalid device ordinal {ordinal}")
    state.device = ordinal


state = _State()
faults = {}
_READ = ctypes.PYFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int)(lambda device: state.handles[device])
_NAME = b"intptr_t (int)"


def _capsule():
    new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
        ("PyCapsule_New", ctypes.pythonapi))
    return new(ctypes.cast(_READ, ctypes.c_void_p), _NAME, None)


def install(version=14, reader=True):
    """`version` 13 knows no Stream.from_external, 14 warns of ExternalStream. `reader`: the C interface is there."""
    ctypes.CDLL(str(LIBRARY))
    cuda = types.ModuleType("cupy.cuda")
    cuda.Stream = type("Stream", (Stream,), {"null": Stream.null})
    cuda.get_current_stream = get_current_stream
    cuda.runtime = types.SimpleNamespace(getDevice=lambda: state.device, setDevice=_set_device)
    if version >= 14:
        cuda.Stream.from_external = classmethod(_from_external)
    else:
        cuda.ExternalStream = ExternalStream
    backend = types.ModuleType("cupy_backends.cuda.stream")
    if reader:
        backend.__pyx_capi__ = {"get_stream_ptr": _capsule()}
    sys.modules["cupy.cuda"], sys.modules["cupy_backends.cuda.stream"] = cuda, backend
    faults.clear()
    return cuda


def remove():
    for name in ("cupy.cuda", "cupy_backends.cuda.stream", "_epgraph_scope_cupy"):
        sys.modules.pop(name, None)
    faults.clear()
