"""Arrays out: the library's memory, and new arrays, as the caller's framework has them.

A framework is a name: "numpy" (memoryviews where numpy is not installed), "torch", "cupy", or "none": epgraph.Memory.
"""
from __future__ import annotations

import ctypes as c
import importlib
import sys
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from ._arrays import is_torch, module_of, numpy
from ._device import Device
from ._dlpack import ITEM_BYTES, Memory
from ._library import lib

_FORMAT = {"f4": "f", "u4": "I", "i4": "i", "u2": "H", "u1": "B"}


def framework_of(source: Any, device: Device) -> str:
    """Which framework an array like `source` is given back as, on `device`."""
    if is_torch(source):
        return "torch"
    if device.kind == "host":
        return "numpy"
    return "cupy" if module_of(source) == "cupy" else "none"


def _count(shape: Sequence[int]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


# ---- memory of the library's, without a copy ----

def _host_kind(kind: str) -> str:
    """As numpy has it."""
    return {"bf16": "u2", "e4m3": "u1"}.get(kind, kind)


def _numpy_over(memory: Memory) -> Any:
    kind, strides = _host_kind(memory.kind), memory.strides
    size = _count(memory.shape)
    if strides is not None and size:
        size = 1 + sum((extent - 1) * stride for extent, stride in zip(memory.shape, strides))
    raw = (c.c_char * (size * ITEM_BYTES[kind])).from_address(memory.address)
    raw._owner = memory.owner   # type: ignore[attr-defined]
    if strides is None:
        return shaped(raw, memory.shape, kind, not memory.read_only)
    if numpy is None:
        raise TypeError("an array whose rows do not follow each other needs numpy, which is not installed")
    array = numpy.ndarray(memory.shape, kind, memoryview(raw), strides=memory.strides_in_bytes())
    array.flags.writeable = not memory.read_only
    return array


def shaped(raw: Any, shape: Sequence[int], kind: str, writable: bool) -> Any:
    """A numpy array, or a memoryview, over a buffer."""
    if numpy is not None:
        array = numpy.frombuffer(raw, dtype=kind).reshape(tuple(shape))
        array.flags.writeable = writable
        return array
    view = memoryview(raw).cast("B").cast(_FORMAT[kind], list(shape))
    return view if writable else view.toreadonly()


def _torch_over(memory: Memory) -> Any:
    torch = sys.modules["torch"]
    tensor = torch.from_dlpack(memory.capsule())
    return tensor.view(torch.int32) if memory.kind == "u4" else tensor


def _cupy_over(memory: Memory) -> Any:
    cupy = sys.modules["cupy"]
    if memory.kind == "e4m3" or (memory.kind == "bf16" and int(cupy.__version__.split(".")[0]) < 14):
        memory = memory._as(_host_kind(memory.kind))
    return cupy.from_dlpack(memory.capsule())


_OVER: Dict[str, Callable[[Memory], Any]] = {"numpy": _numpy_over, "torch": _torch_over, "cupy": _cupy_over,
                                             "none": lambda memory: memory}


def over(framework: str, address: Optional[int], shape: Sequence[int], kind: str, device: Device, owner: Any,
         writable: bool = False, strides: Optional[Tuple[int, ...]] = None) -> Any:
    """An array over memory of the library's, without a copy, which keeps `owner` alive; None for NULL. `strides` are in
    elements; None: contiguous."""
    if not address:
        return None
    ordinal = device.ordinal if device.kind == "cuda" else None
    return _OVER[framework](Memory(address, tuple(shape), kind, ordinal, owner, not writable, strides))


# ---- new arrays ----

class DeviceMemory:
    """Zero-filled memory of a device, freed when nobody has it any more. Not to be made during capture."""

    def __init__(self, device: Device, size: int) -> None:
        self.device, self.address = device, 0
        raw = c.c_void_p()
        with device._relaxed():
            lib.epg_memory_alloc(device.raw, 0, max(1, size), c.byref(raw))
        self.address = raw.value or 0
        device._dependents += 1

    def __del__(self) -> None:
        try:
            if self.address:
                if not self.device.closed:
                    with self.device._relaxed():
                        lib.epg_memory_free(self.device.raw, 0, self.address)
                self.address = 0
                self.device._release()
        except Exception:  # at the interpreter's end there may be nothing left to free it with
            pass


def lasting(framework: str, shape: Sequence[int], kind: str, device: Device) -> Any:
    """A new array of zeros in memory of the library's: its address does not depend on a framework's allocator."""
    if device.kind == "host":
        if framework == "torch":
            return _torch_over(_numpy_memory(shape, kind))
        return shaped(bytearray(_count(shape) * ITEM_BYTES[kind]), shape, _host_kind(kind), True)
    memory = DeviceMemory(device, _count(shape) * ITEM_BYTES[kind])
    return over(framework, memory.address, shape, kind, device, memory, writable=True)


def _numpy_memory(shape: Sequence[int], kind: str) -> Memory:
    held = (c.c_char * (_count(shape) * ITEM_BYTES[kind]))()
    return Memory(c.addressof(held), tuple(shape), kind, None, held)


def _torch_empty(shape: Sequence[int], kind: str, device: Device, stream: int) -> Any:
    torch = sys.modules["torch"]
    dtype = {"f4": torch.float32, "bf16": torch.bfloat16}[kind]
    if device.kind == "host":
        return torch.empty(tuple(shape), dtype=dtype)
    place = torch.device("cuda", device.ordinal)
    if torch.cuda.current_stream(place).cuda_stream == stream:
        return torch.empty(tuple(shape), dtype=dtype, device=place)
    # ExternalStream(0) is some stream of PyTorch's pool in versions up to 2.11 at least.
    used = torch.cuda.ExternalStream(stream, place) if stream > 1 else torch.cuda.default_stream(place)
    with torch.cuda.stream(used):
        return torch.empty(tuple(shape), dtype=dtype, device=place)


class _CudaStream:
    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> Tuple[int, int]:
        return 0, self.handle


def _cupy_empty(shape: Sequence[int], kind: str, device: Device, stream: int) -> Any:
    cupy = sys.modules["cupy"]
    if kind != "f4" and int(cupy.__version__.split(".")[0]) < 14:
        dtype: Any = "uint16"
    else:
        dtype = "float32" if kind == "f4" else importlib.import_module("ml_dtypes").bfloat16
    streams = cupy.cuda.Stream
    with cupy.cuda.Device(device.ordinal):
        used = (streams.null if stream <= 1 else streams.from_external(_CudaStream(stream))
                if hasattr(streams, "from_external") else cupy.cuda.ExternalStream(stream))
        with used:
            return cupy.empty(tuple(shape), dtype=dtype)


def empty(framework: str, shape: Sequence[int], kind: str, device: Device, stream: int) -> Any:
    """A new array for work on `stream`, from the framework's allocator as if that were its current stream: what was
    there before is used no more in this stream's order."""
    if framework == "torch":
        return _torch_empty(shape, kind, device, stream)
    if framework == "cupy":
        return _cupy_empty(shape, kind, device, stream)
    return lasting(framework, shape, kind, device)
