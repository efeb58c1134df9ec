"""Arrays in: the address behind a caller's array, once it was checked.

On the host device: numpy arrays, PyTorch tensors, DLPack objects of CPU memory, and buffers. On a CUDA device:
PyTorch tensors, CuPy arrays, and whatever has ``__dlpack__`` or ``__cuda_array_interface__``. How arrays go out:
_frameworks.py.
"""
from __future__ import annotations

import ctypes as c
import sys
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

from . import _dlpack
from ._device import Device

try:
    import numpy as numpy
except ImportError:  # an optional dependency
    numpy = None  # type: ignore[assignment]

# bfloat16, which numpy has not, may also come as any 2-byte type but float16.
FLOAT32, BFLOAT16, INT32, INT64, UINT32 = ("f4",), ("bf16", "u2", "i2", "V2"), ("i4",), ("i8",), ("u4",)
#: A count of tokens: PyTorch can do little with its uint32.
COUNT = ("u4", "i4")
ROW_ALIGNMENT = 16
_BUFFER = {"f": "f4", "H": "u2", "h": "i2", "i": "i4", "I": "u4", "q": "i8", "Q": "u8"}
_IMMUTABLE = ("jax", "jaxlib")


class Array(NamedTuple):
    address: int
    shape: Tuple[int, ...]
    kind: str
    held: Any                   # what keeps the memory alive
    ordinal: Optional[int]      # the GPU; None: the CPU
    producer: Optional[int] = None  # the stream that fills it, as a CUDA array interface tells


def module_of(source: Any) -> str:
    """The package that the type of `source` is from."""
    return type(source).__module__.partition(".")[0]


# ---- one way of looking per family of types ----

def _check_strides(shape: Sequence[int], strides: Optional[Sequence[int]], step: int, name: str) -> None:
    for extent, stride in zip(reversed(shape), reversed(strides or ())):
        if extent > 1 and stride != step:
            raise ValueError(f"{name} is not contiguous: shape {tuple(shape)}, strides {tuple(strides or ())}")
        step *= extent


def _of_interface(told: Dict[str, Any], source: Any, name: str, writable: bool, ordinal: Optional[int]) -> Array:
    address, readonly = told["data"]
    if readonly and writable:
        raise ValueError(f"{name} is read-only")
    kind, shape = told["typestr"].lstrip("<|="), tuple(told["shape"])
    _check_strides(shape, told.get("strides"), int(kind[1:]) if kind[1:].isdigit() else 0, name)
    return Array(address, shape, kind, source, ordinal)


def _look_numpy(source: Any, name: str, writable: bool, stream: Optional[int]) -> Array:
    return _of_interface(source.__array_interface__, source, name, writable, None)


class _Torch:
    """PyTorch tensors, by their own attributes: DLPack has none for a tensor that requires grad, and takes longer."""

    def __init__(self, torch: Any) -> None:
        self.grad = torch.is_grad_enabled
        names = {"f4": "float32", "bf16": "bfloat16", "f2": "float16", "f8": "float64", "e4m3": "float8_e4m3fn",
                 "u1": "uint8", "i1": "int8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32",
                 "i8": "int64"}
        self.kinds = {getattr(torch, long): short for short, long in names.items() if hasattr(torch, long)}

    def __call__(self, source: Any, name: str, writable: bool, stream: Optional[int]) -> Array:
        shape = tuple(source.shape)
        if not source.is_contiguous():
            raise ValueError(f"{name} is not contiguous: shape {shape}, strides {source.stride()}")
        if source.requires_grad and self.grad():
            raise ValueError(f"{name} requires grad, which does not pass through: give {name}.detach(), or enter "
                             "torch.no_grad()")
        device = source.device
        if device.type not in ("cpu", "cuda"):
            raise TypeError(f"{name} is on {device}, which is neither the CPU nor a CUDA GPU")
        ordinal = (device.index or 0) if device.type == "cuda" else None
        return Array(source.data_ptr(), shape, self.kinds.get(source.dtype, str(source.dtype)), source, ordinal)


def _look_cupy(source: Any, name: str, writable: bool, stream: Optional[int]) -> Array:
    if not source.flags.c_contiguous:
        raise ValueError(f"{name} is not contiguous: shape {source.shape}, strides {source.strides}")
    kind = "bf16" if source.dtype.name == "bfloat16" else source.dtype.kind + str(source.dtype.itemsize)
    return Array(source.data.ptr, source.shape, kind, source, source.device.id)


def _look_dlpack(source: Any, name: str, writable: bool, stream: Optional[int]) -> Array:
    device_type = int(source.__dlpack_device__()[0])
    on_cpu = device_type in (_dlpack.CPU, _dlpack.CUDA_HOST)
    if not on_cpu and device_type not in (_dlpack.CUDA, _dlpack.CUDA_MANAGED):
        raise TypeError(f"{name} is on a device of DLPack's kind {device_type}, which is neither the CPU nor a CUDA "
                        "GPU")
    told = _dlpack.read(source, None if on_cpu else stream)
    if writable and (told.read_only or module_of(source) in _IMMUTABLE):
        raise ValueError(f"{name} is read-only")
    _check_strides(told.shape, told.strides, 1, name)
    return Array(told.address, told.shape, told.kind, (source, told.capsule), None if on_cpu else told.device_id)


def _look_cuda_interface(source: Any, name: str, writable: bool, stream: Optional[int]) -> Array:
    device = getattr(source, "device", None)
    ordinal = getattr(device, "id", getattr(device, "index", None))
    told = source.__cuda_array_interface__
    array = _of_interface(told, source, name, writable,
                          ordinal if isinstance(ordinal, int) else -1)  # -1: it does not say which GPU
    return array._replace(producer=told.get("stream"))


def _look_buffer(source: Any, name: str, writable: bool, stream: Optional[int]) -> Array:
    try:
        view = memoryview(source)
    except TypeError:
        raise TypeError(f"{name} is a {type(source).__name__}, which is neither a numpy, PyTorch or CuPy array, a "
                        "DLPack object nor a buffer") from None
    if view.readonly:
        raise ValueError(f"{name} is read-only; without numpy the address of such a buffer cannot be had")
    if not view.c_contiguous:
        raise ValueError(f"{name} is not contiguous")
    letter = view.format.lstrip("<=@")
    kind = "i8" if letter == "l" else _BUFFER.get(letter, letter)
    address = c.addressof(c.c_char.from_buffer(view)) if view.nbytes else 0
    return Array(address, tuple(view.shape or ()), kind, view, None)


Look = Callable[[Any, str, bool, Optional[int]], Array]
_ways: Dict[type, Look] = {}    # by type, as they are found


def is_torch(source: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, getattr(torch, "Tensor", ()))


def _way(source: Any) -> Look:
    if is_torch(source):
        return _Torch(sys.modules["torch"])
    if module_of(source) == "cupy" and hasattr(source, "data"):
        return _look_cupy
    for attribute, way in (("__array_interface__", _look_numpy), ("__dlpack__", _look_dlpack),
                           ("__cuda_array_interface__", _look_cuda_interface)):
        if hasattr(source, attribute):
            return way
    return _look_buffer


def look(source: Any, name: str, writable: bool = False, stream: Optional[int] = None) -> Array:
    """The array behind `source`, contiguous and, if asked for, writable. `stream` will use it. TypeError or ValueError,
    by `name`."""
    way = _ways.get(type(source))
    if way is None:
        way = _way(source)
        if way is not _look_numpy or module_of(source) == "numpy":  # others may have an attribute at times only
            _ways[type(source)] = way
    return way(source, name, writable, stream)


# ---- checks ----

def _place(ordinal: Optional[int]) -> str:
    return "the CPU" if ordinal is None else f"cuda:{ordinal}" if ordinal >= 0 else "a GPU"


def _check_place(array: Array, name: str, device: Device) -> None:
    wanted = device.ordinal if device.kind == "cuda" else None
    if array.ordinal != wanted and not (array.ordinal == -1 and wanted is not None):
        raise TypeError(f"{name} is on {_place(array.ordinal)}, its group's device is {_place(wanted)}")


def take(source: Any, name: str, kinds: Sequence[str], shape: Sequence[Optional[int]], *, device: Device,
         stream: Optional[int] = None, writable: bool = False, least_rows: int = 0, alignment: int = 1) -> Array:
    """The array behind `source`; TypeError or ValueError, by `name`, if it is not a contiguous one of these kinds and
    this shape (None: any extent; a first extent of None is at least `least_rows`), on `device`; there aligned to
    `alignment` bytes, if it is a GPU."""
    array = look(source, name, writable, stream)
    _check_place(array, name, device)
    if array.kind not in kinds:
        raise TypeError(f"{name} has elements of kind {array.kind!r}, wanted {' or '.join(map(repr, kinds))}")
    fits = len(array.shape) == len(shape) and all(w is None or w == h for w, h in zip(shape, array.shape))
    if not fits:
        wanted = ", ".join("any" if w is None else str(w) for w in shape)
        raise ValueError(f"{name} has shape {array.shape}, wanted ({wanted})")
    if shape and shape[0] is None and array.shape[0] < least_rows:
        raise ValueError(f"{name} has {array.shape[0]} rows, {least_rows} are needed")
    if array.producer is not None and stream is not None and array.producer != (stream or 1):
        if not device._captures(stream):    # what a replay comes after is the caller's to say
            device._order_streams(array.producer, stream)
    if array.ordinal is not None and array.address % alignment:
        raise ValueError(f"{name} begins at {array.address:#x}, which is not a multiple of {alignment} bytes")
    return array
