"""Streams of other libraries: the handle behind an object that stands for one, and the GPU it is on."""
from __future__ import annotations

from typing import Any, Optional

from ._device import Stream


def stream_handle(stream: Any, name: str = "stream") -> int:
    """The cudaStream_t behind `stream`, as an int.

    Args:
        stream: an object with ``__cuda_stream__`` (a method that gives (0, handle)), ``.cuda_stream`` (PyTorch's) or
            ``.ptr`` (CuPy's), an ``epgraph.Stream`` of either device, or an int.

    Raises:
        TypeError: by `name`, for anything else.
    """
    kind = type(stream)
    if kind is Stream or kind is int:
        return stream.raw if kind is Stream else stream  # type: ignore[no-any-return]
    raw: Any = None
    told = getattr(stream, "__cuda_stream__", None)
    if told is not None:
        version, raw = told() if callable(told) else told
        if version != 0:
            raise TypeError(f"{name} tells of its handle by version {version} of __cuda_stream__, 0 is known")
    for attribute in ("cuda_stream", "ptr"):
        if raw is None:
            raw = getattr(stream, attribute, None)
    if raw is None:
        raise TypeError(f"{name} is a {kind.__name__}, wanted an object with __cuda_stream__, cuda_stream or ptr, an "
                        "epgraph.Stream or an int")
    return int(raw)


def stream_ordinal(stream: Any) -> Optional[int]:
    """The GPU that `stream` is on, where the object says so."""
    if type(stream) is Stream:
        return stream.device.ordinal
    device = getattr(stream, "device", None)
    # PyTorch's, cuda.core's; CuPy's stream itself says so, or -1: that of the thread.
    for place, attribute in ((device, "index"), (device, "device_id"), (stream, "device_id")):
        told = getattr(place, attribute, None)
        if type(told) is int and told >= 0:
            return told
    return None
