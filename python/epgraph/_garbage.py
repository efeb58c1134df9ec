"""Python's garbage collector, off while something is captured: it could end a handle inside the capture."""
from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from typing import Iterator


class _Pause:
    """The collector is the process's, so captures of several threads share one pause."""

    def __init__(self) -> None:
        self.lock, self.depth, self.was_on = threading.Lock(), 0, False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if self.depth == 0:
                self.was_on = gc.isenabled()
                gc.disable()
            self.depth += 1
        try:
            yield
        finally:
            with self.lock:
                self.depth -= 1
                if self.depth == 0 and self.was_on:
                    gc.enable()


garbage_paused = _Pause()
