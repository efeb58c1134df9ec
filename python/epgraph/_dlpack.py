"""DLPack without a compiled extension: tensors of other libraries read, memory of this one handed out.

What is handed out keeps its owner alive until its consumer lets go, from whatever thread. The consumer's call back into
Python must not come once the interpreter has ended: what is still out then gets a deleter that does nothing.
"""
from __future__ import annotations

import atexit
import ctypes as c
from typing import Any, Dict, Optional, Tuple

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
READ_ONLY = 1  # a flag of versioned tensors

# Element kinds of this package <-> DLPack's (code, bits). "bf16" is bfloat16, "e4m3" float8_e4m3fn.
_CODES = {"f4": (2, 32), "f2": (2, 16), "f8": (2, 64), "i1": (0, 8), "i2": (0, 16), "i4": (0, 32), "i8": (0, 64),
          "u1": (1, 8), "u2": (1, 16), "u4": (1, 32), "u8": (1, 64), "bf16": (4, 16), "e4m3": (10, 8)}
_KINDS = {code: kind for kind, code in _CODES.items()}
#: Bytes of one element.
ITEM_BYTES = {kind: bits // 8 for kind, (_, bits) in _CODES.items()}


class _Tensor(c.Structure):
    _fields_ = [("data", c.c_void_p), ("device_type", c.c_int32), ("device_id", c.c_int32), ("ndim", c.c_int32),
                ("code", c.c_uint8), ("bits", c.c_uint8), ("lanes", c.c_uint16),
                ("shape", c.POINTER(c.c_int64)), ("strides", c.POINTER(c.c_int64)), ("byte_offset", c.c_uint64)]


class _Managed(c.Structure):
    _fields_ = [("tensor", _Tensor), ("context", c.c_void_p), ("deleter", c.c_void_p)]


class _Versioned(c.Structure):
    _fields_ = [("major", c.c_uint32), ("minor", c.c_uint32), ("context", c.c_void_p), ("deleter", c.c_void_p),
                ("flags", c.c_uint64), ("tensor", _Tensor)]


_PLAIN, _WITH_VERSION = b"dltensor", b"dltensor_versioned"

_api = c.pythonapi
_get = c.PYFUNCTYPE(c.c_void_p, c.py_object, c.c_char_p)(("PyCapsule_GetPointer", _api))
_is = c.PYFUNCTYPE(c.c_int, c.py_object, c.c_char_p)(("PyCapsule_IsValid", _api))
_new = c.PYFUNCTYPE(c.py_object, c.c_void_p, c.c_char_p, c.c_void_p)(("PyCapsule_New", _api))
# For the destructor, to which a capsule comes with no reference left: by address.
_get_at = c.PYFUNCTYPE(c.c_void_p, c.c_void_p, c.c_char_p)(("PyCapsule_GetPointer", _api))
_is_at = c.PYFUNCTYPE(c.c_int, c.c_void_p, c.c_char_p)(("PyCapsule_IsValid", _api))


# ---- reading ----

class Told:
    """What a capsule says; `capsule` keeps the memory alive."""

    __slots__ = ("address", "shape", "strides", "kind", "device_type", "device_id", "read_only", "capsule")

    def __init__(self, capsule: Any) -> None:
        versioned = bool(_is(capsule, _WITH_VERSION))
        struct: Any = _Versioned if versioned else _Managed
        managed = struct.from_address(_get(capsule, _WITH_VERSION if versioned else _PLAIN))
        tensor = managed.tensor
        self.address: int = (tensor.data or 0) + tensor.byte_offset
        self.shape: Tuple[int, ...] = tuple(tensor.shape[:tensor.ndim])
        #: In elements; None: contiguous.
        self.strides: Optional[Tuple[int, ...]] = tuple(tensor.strides[:tensor.ndim]) if tensor.strides else None
        code = (tensor.code, tensor.bits)
        self.kind = _KINDS.get(code, "DLPack type %d of %d bits" % code) if tensor.lanes == 1 else "vectors"
        self.device_type: int = tensor.device_type
        self.device_id: int = tensor.device_id
        self.read_only = bool(versioned and managed.flags & READ_ONLY)
        self.capsule = capsule


def read(source: Any, stream: Optional[int]) -> Told:
    """The tensor of an object with ``__dlpack__``. `stream`, a cudaStream_t that will use it, or None on the CPU, is
    told to the producer, which makes its data ready there. BufferError and others: the producer's."""
    options: Dict[str, Any] = {} if stream is None else {"stream": stream or 1}  # 1: the legacy stream
    try:
        capsule = source.__dlpack__(max_version=(1, 0), **options)
    except TypeError:   # from before DLPack 1.0
        capsule = source.__dlpack__(**options)
    return Told(capsule)


# ---- handing out ----

class _Exports:
    """What is out: the structs that consumers hold, by address, and whose memory it is."""

    def __init__(self) -> None:
        self.out: Dict[int, Tuple[Any, Any, Any]] = {}
        self.deleter = c.CFUNCTYPE(None, c.c_void_p)(self.let_go)
        self.destructor = c.PYFUNCTYPE(None, c.c_void_p)(self.drop)
        atexit.register(self.end)

    def let_go(self, address: int) -> None:
        self.out.pop(address, None)

    def drop(self, capsule: int) -> None:
        """A capsule ends. One that was consumed has another name, and its consumer calls the deleter."""
        for name in (_PLAIN, _WITH_VERSION):
            if _is_at(capsule, name):
                self.let_go(_get_at(capsule, name))

    def end(self) -> None:
        nothing = c.cast(_api.Py_IsInitialized, c.c_void_p).value   # takes no notice of its argument
        for managed, _, _ in list(self.out.values()):
            managed.deleter = nothing

    def capsule(self, memory: "Memory", versioned: bool) -> Any:
        extents = (c.c_int64 * max(1, len(memory.shape)))
        shape = extents(*memory.shape)
        strides = None if memory.strides is None else extents(*memory.strides)
        code, bits = _CODES[memory.kind]
        kind, ordinal = (CPU, 0) if memory.ordinal is None else (CUDA, memory.ordinal)
        tensor = _Tensor(data=memory.address, device_type=kind, device_id=ordinal, ndim=len(memory.shape), code=code,
                         bits=bits, lanes=1, shape=c.cast(shape, c.POINTER(c.c_int64)),
                         strides=None if strides is None else c.cast(strides, c.POINTER(c.c_int64)))
        deleter = c.cast(self.deleter, c.c_void_p).value
        managed: Any = _Managed(tensor=tensor, deleter=deleter)
        if versioned:
            flags = READ_ONLY if memory.read_only else 0
            managed = _Versioned(major=1, minor=0, deleter=deleter, flags=flags, tensor=tensor)
        address = c.addressof(managed)
        self.out[address] = (managed, (shape, strides), memory.owner)
        return _new(address, _WITH_VERSION if versioned else _PLAIN, c.cast(self.destructor, c.c_void_p).value)


_exports = _Exports()


class Memory:
    """Memory of the library's as a tensor of no framework: what a group gives to callers whose arrays are
    neither numpy's, PyTorch's nor CuPy's. Take it with any ``from_dlpack``, or through ``__cuda_array_interface__``.

    No synchronisation is added: its contents are valid in the order of the stream that writes them.

    Attributes:
        address: of the first element.
        shape: a tuple.
        strides: in elements; None: contiguous.
        kind: of the elements: ``"f4"``, ``"u4"``, ``"i4"``, ``"bf16"``, ``"e4m3"``, ...
        ordinal: the GPU; None: the CPU.
        read_only: whether it may not be written.
        owner: kept alive by this and by every tensor made from it.
    """

    __slots__ = ("address", "shape", "kind", "ordinal", "read_only", "owner", "strides")

    def __init__(self, address: int, shape: Tuple[int, ...], kind: str, ordinal: Optional[int], owner: Any,
                 read_only: bool = False, strides: Optional[Tuple[int, ...]] = None) -> None:
        self.address, self.shape, self.kind, self.ordinal = address, tuple(shape), kind, ordinal
        self.owner, self.read_only, self.strides = owner, read_only, strides

    def _as(self, kind: str) -> "Memory":
        """The same with elements of another kind, as wide."""
        return Memory(self.address, self.shape, kind, self.ordinal, self.owner, self.read_only, self.strides)

    def strides_in_bytes(self) -> Optional[Tuple[int, ...]]:
        return None if self.strides is None else tuple(stride * ITEM_BYTES[self.kind] for stride in self.strides)

    def __repr__(self) -> str:
        place = "cpu" if self.ordinal is None else f"cuda:{self.ordinal}"
        return f"<epgraph.Memory {self.kind} {list(self.shape)} on {place} at {self.address:#x}>"

    def __dlpack_device__(self) -> Tuple[int, int]:
        return (CPU, 0) if self.ordinal is None else (CUDA, self.ordinal)

    def __dlpack__(self, *, stream: Any = None, max_version: Optional[Tuple[int, int]] = None,
                   dl_device: Optional[Tuple[int, int]] = None, copy: Optional[bool] = None) -> Any:
        if copy:
            raise BufferError("epgraph.Memory is handed out without a copy only")
        if dl_device is not None and tuple(map(int, dl_device)) != self.__dlpack_device__():
            raise BufferError(f"this memory is on DLPack device {self.__dlpack_device__()}, not {tuple(dl_device)}")
        return _exports.capsule(self, versioned=max_version is not None and max_version[0] >= 1)

    def capsule(self) -> Any:
        """A capsule of DLPack's first form, for a ``from_dlpack`` that takes capsules."""
        return _exports.capsule(self, versioned=False)

    @property
    def __cuda_array_interface__(self) -> Dict[str, Any]:
        if self.ordinal is None:
            raise AttributeError("this memory is on the CPU")
        return {**self._interface(), "stream": None}

    @property
    def __array_interface__(self) -> Dict[str, Any]:
        if self.ordinal is not None:
            raise AttributeError("this memory is on a GPU")
        return self._interface()

    def _interface(self) -> Dict[str, Any]:
        if self.kind in ("bf16", "e4m3"):
            raise AttributeError(f"elements of kind {self.kind} have no name there: use DLPack")
        return {"shape": self.shape, "typestr": ("|" if ITEM_BYTES[self.kind] == 1 else "<") + self.kind,
                "strides": self.strides_in_bytes(), "data": (self.address, self.read_only), "version": 3}
