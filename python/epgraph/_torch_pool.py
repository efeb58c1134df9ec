"""PyTorch's memory while a step is captured.

A graph holds addresses. Memory that PyTorch's caching allocator gave during a capture would be handed to others once
the tensor is gone, and every later replay would write there. So a runner's captures, and the warm-ups before them,
allocate from a pool of its own: what a step frees is used by later captures of the same runner alone, whose replays do
not overlap, and nothing goes back before the runner's graphs are gone.
"""
from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Any, Iterator, Optional


def _torch() -> Any:
    """PyTorch, if this process uses it on a GPU and its allocator has pools (2.5 and later); else None."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is None or not hasattr(cuda, "MemPool") or not cuda.is_initialized():
        return None
    return torch


class TorchPool:
    """The pool of one runner, made at the first capture after PyTorch began to use the GPU.

    Args:
        ordinal: the GPU.
        wanted: True: PyTorch must be there; False: never; None: if it is.
    """

    def __init__(self, ordinal: int, wanted: Optional[bool]) -> None:
        self.ordinal, self.wanted = ordinal, wanted
        self.pool: Any = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        torch = None if self.wanted is False else _torch()
        if torch is None:
            if self.wanted:
                raise RuntimeError("torch_pool is True and PyTorch, of 2.5 or later, is not in use on a GPU")
            yield
            return
        with torch.cuda.device(self.ordinal):
            if self.pool is None:
                self.pool = torch.cuda.MemPool()
            with torch.cuda.use_mem_pool(self.pool, device=self.ordinal):
                yield

    def drop(self) -> None:
        """Once no graph that was captured with it is left."""
        self.pool = None
