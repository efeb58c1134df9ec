"""Streams of other libraries: the handle behind an object that stands for one, the GPU it is on, and which streams, of
whatever library, a handle's work is on."""
from __future__ import annotations

from typing import Any, Dict, Optional

from ._device import Device, Stream
from ._library import Error, lib


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


class UsedStreams:
    """The streams that ran a handle's operations, kept so that they can be waited for before it ends. The device is not
    waited for: that would end the captures of other threads."""

    def __init__(self, device: Device, whose: str) -> None:
        self.device, self.whose = device, whose
        self.streams: Dict[int, Any] = {}   # by handle

    def add(self, stream: Any) -> int:
        """The handle of a stream that is used from now on. TypeError, ValueError if it cannot be."""
        if isinstance(stream, Stream):
            if not self.device._is(stream.device):
                raise ValueError(f"stream is of another device than the {self.whose}")
            handle = stream.raw
            if stream._owned:
                self.streams[handle] = stream
            return handle
        if self.device.kind != "cuda":
            raise TypeError(f"stream is a {type(stream).__name__}, wanted an epgraph.Stream of the host device")
        handle = stream_handle(stream)
        self.streams[handle] = stream   # it may be a later stream with the handle of one that has ended
        return handle

    def wait(self) -> None:
        """For the work of all of them that are still open and do not capture."""
        streams, self.streams = self.streams, {}
        if streams and not self.device.closed:
            with self.device._relaxed():
                for handle, stream in streams.items():
                    if not (isinstance(stream, Stream) and stream.closed):
                        self._wait_for(handle)

    def _wait_for(self, handle: int) -> None:
        try:
            if not self.device._captures(handle):
                lib.epg_stream_synchronize(self.device.raw, handle)
        except Error:   # of earlier work; whoever waits for it next is told
            pass
