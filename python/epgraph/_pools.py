"""The memory of frameworks while a step is captured.

A graph holds addresses. Memory that a framework's caching allocator gave during a capture would be handed to others
once the array is gone, and every later replay would write there. So a runner's captures, and the warm-ups before them,
allocate from pools of its own: what a step frees is used by later captures of the same runner alone, whose replays do
not overlap, and nothing goes back before the runner's graphs are gone.
"""
from __future__ import annotations

import ctypes as c
import sys
from contextlib import ExitStack, contextmanager
from typing import Any, Iterator

from ._device import Device
from ._library import lib

RELAXED = 2     # EPG_CAPTURE_RELAXED


class _Torch:
    """From 2.5 on PyTorch has pools of the caller's. Made once PyTorch is in use on a GPU."""

    def __init__(self, device: Device) -> None:
        self.device, self.pool = device, None  # type: Device, Any

    @contextmanager
    def __call__(self) -> Iterator[None]:
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        if cuda is None or not cuda.is_initialized():
            yield
            return
        if not hasattr(cuda, "MemPool"):
            raise RuntimeError(f"PyTorch {sys.modules['torch'].__version__} has no torch.cuda.MemPool (2.5 has), by "
                               "which the memory of a captured step is kept; give the Runner private_pools=False if "
                               "the step makes no tensors")
        with cuda.device(self.device.ordinal):
            if self.pool is None:
                self.pool = cuda.MemPool()
            with cuda.use_mem_pool(self.pool, device=self.device.ordinal):
                yield


class _Cupy:
    """CuPy's pools keep memory per stream, and get more by a cudaMalloc that a capture does not permit: the probe, on a
    stream that no warm-up ran on, would fail. Where the capture mode is relaxed, it is permitted."""

    def __init__(self, device: Device) -> None:
        self.device, self.pool = device, None  # type: Device, Any

    def _more(self, size: int) -> Any:
        memory, mode = sys.modules["cupy"].cuda, c.c_int(RELAXED)
        lib.epg_capture_mode_exchange(self.device.raw, c.byref(mode))
        try:
            return memory.MemoryPointer(memory.Memory(size), 0)
        finally:
            lib.epg_capture_mode_exchange(self.device.raw, c.byref(mode))

    @contextmanager
    def __call__(self) -> Iterator[None]:
        cuda = getattr(sys.modules.get("cupy"), "cuda", None)
        if cuda is None or not hasattr(cuda, "using_allocator"):
            yield
            return
        with cuda.Device(self.device.ordinal):
            if self.pool is None:
                self.pool = cuda.MemoryPool(self._more)
            with cuda.using_allocator(self.pool.malloc):
                yield


class Pools:
    """Those of one runner, each made when its framework is in use."""

    def __init__(self, device: Device, wanted: bool) -> None:
        self.all = (_Torch(device), _Cupy(device)) if wanted and device.kind == "cuda" else ()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with ExitStack() as stack:
            for pool in self.all:
                stack.enter_context(pool())
            yield

    def drop(self) -> None:
        """Once no graph that was captured with them is left."""
        for pool in self.all:
            pool.pool = None
