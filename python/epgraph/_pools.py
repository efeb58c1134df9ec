"""The memory of frameworks while a step is captured.

A graph holds addresses. Memory that a framework's caching allocator gave during a capture would be handed to others
once the array is gone, and every later replay would write there. So a runner's captures, and the warm-ups before them,
allocate from pools of its own: what a step frees is used by later captures of the same runner alone, whose replays do
not overlap, and nothing goes back before the runner's graphs are gone.
"""
from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import Any, Iterator, Tuple

from ._device import Device


def _torch_call(name: str, *older: str) -> Any:
    """One of PyTorch's own calls for pools. There is a class, torch.cuda.MemPool, but its end may not come while
    anything is captured, in any thread: it ends the process then."""
    torch = sys.modules["torch"]
    for each in (name, *older):
        if hasattr(torch._C, each):
            return getattr(torch._C, each)
    raise RuntimeError(f"PyTorch {torch.__version__} has no torch._C.{name}, by which the memory of a captured step is "
                       "kept; give the Runner private_pools=False if the step makes no tensors")


class _Torch:
    """A pool as torch.cuda.CUDAGraph has one. Made once PyTorch is in use on a GPU."""

    def __init__(self, device: Device) -> None:
        self.ordinal, self.pool = device.ordinal, None  # type: int, Any

    @contextmanager
    def __call__(self) -> Iterator[None]:
        cuda = getattr(sys.modules.get("torch"), "cuda", None)
        if cuda is None or not cuda.is_initialized():
            yield
            return
        begin = _torch_call("_cuda_beginAllocateCurrentThreadToPool", "_cuda_beginAllocateCurrentStreamToPool")
        end = _torch_call("_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool")
        release = _torch_call("_cuda_releasePool")
        is_new = self.pool is None
        pool = cuda.graph_pool_handle() if is_new else self.pool
        begin(self.ordinal, pool)   # counts a user of the pool; the first stays until `drop`
        self.pool = pool
        try:
            yield
        finally:
            end(self.ordinal, pool)
            if not is_new:
                release(self.ordinal, pool)

    def drop(self) -> None:
        pool, self.pool = self.pool, None
        if pool is not None:
            _torch_call("_cuda_releasePool")(self.ordinal, pool)


class _Cupy:
    """CuPy's pools keep memory per stream, and get more by a cudaMalloc that a capture does not permit: the probe, on a
    stream that no warm-up ran on, would fail. Where the capture mode is relaxed, it is permitted."""

    def __init__(self, device: Device) -> None:
        self.device, self.pool = device, None  # type: Device, Any

    def _more(self, size: int) -> Any:
        memory = sys.modules["cupy"].cuda
        with self.device._relaxed():
            return memory.MemoryPointer(memory.Memory(size), 0)

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

    def drop(self) -> None:
        self.pool = None


class Pools:
    """Those of one runner, each made when its framework is in use."""

    def __init__(self, device: Device, wanted: bool) -> None:
        self.all: Tuple[Any, ...] = (_Torch(device), _Cupy(device)) if wanted and device.kind == "cuda" else ()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with ExitStack() as stack:
            for pool in self.all:
                stack.enter_context(pool())
            yield

    def drop(self) -> None:
        """Once no graph that was captured with them is left."""
        for pool in self.all:
            pool.drop()
