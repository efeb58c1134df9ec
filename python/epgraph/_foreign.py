"""Streams of other libraries: the handle behind an object that stands for one, and the GPU it is on."""
from __future__ import annotations

from typing import Any, Optional


def stream_handle(stream: Any, name: str = "stream") -> int:
    """The cudaStream_t behind `stream`, as an int.

    Args:
        stream: an object with ``__cuda_stream__`` (a method that gives (0, handle)), ``.cuda_stream`` (PyTorch's) or
            ``.ptr`` (CuPy's), an ``epgraph.Stream`` of either device, or an int.

    Raises:
        TypeError: by `name`, for anything else.
    """
    raw = getattr(stream, "raw", None)
    if raw is None and isinstance(stream, int) and not isinstance(stream, bool):
        raw = stream
    if raw is None:
        told = getattr(stream, "__cuda_stream__", None)
        if told is not None:
            version, raw = told() if callable(told) else told
            if version != 0:
                raise TypeError(f"{name} tells of its handle by version {version} of __cuda_stream__, 0 is known")
    if raw is None:
        raw = getattr(stream, "cuda_stream", None)
    if raw is None:
        raw = getattr(stream, "ptr", None)
    if raw is None:
        raise TypeError(f"{name} is a {type(stream).__name__}, wanted an object with __cuda_stream__, cuda_stream or "
                        "ptr, an epgraph.Stream or an int")
    return int(raw)


def stream_ordinal(stream: Any) -> Optional[int]:
    """The GPU that `stream` is on, where the object says so."""
    device = getattr(stream, "device", None)
    for told in (getattr(device, "ordinal", None),        # epgraph's
                 getattr(device, "index", None),          # PyTorch's
                 getattr(device, "device_id", None),      # cuda.core's
                 getattr(stream, "device_id", None)):     # CuPy's; -1: that of the thread
        if isinstance(told, int) and told >= 0:
            return told
    return None
