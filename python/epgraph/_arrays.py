"""Arrays in and out: the address behind a caller's array, and an array over the library's memory.

numpy is used where it is installed. Without it inputs are taken through the buffer protocol and outputs are
memoryviews of the same shape.
"""
from __future__ import annotations

import ctypes as c
from typing import Any, NamedTuple, Optional, Sequence, Tuple

try:
    import numpy
except ImportError:  # an optional dependency
    numpy = None  # type: ignore[assignment]

# Rows are 4 or 2 bytes wide: bfloat16, which numpy has not, comes as any 2-byte type but float16.
FLOAT32, BFLOAT16, INT32, INT64, UINT32 = ("f4",), ("u2", "i2", "V2"), ("i4",), ("i8",), ("u4",)
_BUFFER = {"f": "f4", "H": "u2", "h": "i2", "i": "i4", "I": "u4", "q": "i8", "Q": "u8"}
_CPU_KINDS = (1, 3)  # DLPack's: memory of the CPU, page-locked or not


class Array(NamedTuple):
    address: int
    shape: Tuple[int, ...]
    kind: str
    held: Any   # what keeps the memory alive


def _from_interface(told: dict, source: Any, name: str, writable: bool) -> Array:
    address, readonly = told["data"]
    if readonly and writable:
        raise ValueError(f"{name} is read-only")
    kind, shape = told["typestr"].lstrip("<|="), tuple(told["shape"])
    strides, step = told.get("strides"), int(kind[1:]) if kind[1:].isdigit() else 0
    if strides is not None:
        for extent, stride in zip(reversed(shape), reversed(strides)):
            if extent > 1 and stride != step:
                raise ValueError(f"{name} is not contiguous: shape {shape}, strides {tuple(strides)}")
            step *= extent
    return Array(address, shape, kind, source)


def _from_buffer(source: Any, name: str) -> Array:
    view = memoryview(source)
    if view.readonly:
        raise ValueError(f"{name} is read-only; without numpy the address of such a buffer cannot be had")
    if not view.c_contiguous:
        raise ValueError(f"{name} is not contiguous")
    letter = view.format.lstrip("<=@")
    kind = "i8" if letter == "l" else _BUFFER.get(letter, letter)
    address = c.addressof(c.c_char.from_buffer(view)) if view.nbytes else 0
    return Array(address, tuple(view.shape), kind, view)


def _look(source: Any, name: str, writable: bool) -> Array:
    told = getattr(source, "__array_interface__", None)
    if told is not None:
        return _from_interface(told, source, name, writable)
    if hasattr(source, "__dlpack__"):
        kind = source.__dlpack_device__()[0]
        if kind not in _CPU_KINDS:
            raise TypeError(f"{name} is on a device (DLPack kind {int(kind)}); the host device takes CPU memory")
        if numpy is None:
            raise TypeError(f"{name} is a DLPack object; taking one needs numpy")
        # numpy marks what it imports read-only where the producer cannot say; whose memory it is, is known here.
        told = dict(numpy.from_dlpack(source).__array_interface__)
        told["data"] = (told["data"][0], False)
        return _from_interface(told, source, name, writable)
    try:
        return _from_buffer(source, name)
    except TypeError:
        raise TypeError(f"{name} is a {type(source).__name__}, which is neither a numpy array, a DLPack object nor a "
                        "buffer") from None


def take(source: Any, name: str, kinds: Sequence[str], shape: Sequence[Optional[int]],
         writable: bool = False, least_rows: int = 0) -> Array:
    """The array behind `source`; TypeError or ValueError, by `name`, if it is not a contiguous one of these kinds and
    this shape (None: any extent; a first extent of None is at least `least_rows`)."""
    array = _look(source, name, writable)
    if array.kind not in kinds:
        raise TypeError(f"{name} has elements of kind {array.kind!r}, wanted {' or '.join(map(repr, kinds))}")
    fits = len(array.shape) == len(shape) and all(w is None or w == h for w, h in zip(shape, array.shape))
    if not fits:
        wanted = ", ".join("any" if w is None else str(w) for w in shape)
        raise ValueError(f"{name} has shape {array.shape}, wanted ({wanted})")
    if shape and shape[0] is None and array.shape[0] < least_rows:
        raise ValueError(f"{name} has {array.shape[0]} rows, {least_rows} are needed")
    return array


_FORMAT = {"f4": "f", "u4": "I", "i4": "i", "u2": "H"}


def _bytes(shape: Sequence[int], kind: str) -> int:
    size = int(kind[1:])
    for extent in shape:
        size *= extent
    return size


def _shaped(memory: Any, shape: Sequence[int], kind: str, writable: bool) -> Any:
    if numpy is not None:
        array = numpy.frombuffer(memory, dtype=kind).reshape(tuple(shape))
        array.flags.writeable = writable
        return array
    view = memoryview(memory).cast("B").cast(_FORMAT[kind], list(shape))
    return view if writable else view.toreadonly()


def over(address: Optional[int], shape: Sequence[int], kind: str, writable: bool = False) -> Any:
    """An array over memory of the library's, without a copy; None for NULL."""
    if not address:
        return None
    return _shaped((c.c_char * _bytes(shape, kind)).from_address(address), shape, kind, writable)


def zeros(shape: Sequence[int], kind: str) -> Any:
    """A new array of the caller's own."""
    return _shaped(bytearray(_bytes(shape, kind)), shape, kind, True)
