#!/usr/bin/env python3
"""What entering and leaving a stream scope costs, with the runtimes named loaded. Needs a GPU.

    EPGRAPH_LIBRARY=build/libepgraph.so.0.1.0 PYTHONPATH=python bench/scope_cost.py [torch] [cupy]

Each case is a process of its own, since what is loaded stays. The loop is in C (bench/loops/scope_cost.so beside the
library, or in the folder that EPGRAPH_BENCH names): medians over rounds of scopes, with the 10th and 90th percentile.
From Python it is the `with` statement, on a scope made each time and on one made once."""
import ctypes as c
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROUNDS, SCOPES = 101, 1000
CASES = [[], ["torch"], ["cupy"], ["torch", "cupy"]]


def loop():
    folder = os.environ.get("EPGRAPH_BENCH") or Path(os.environ["EPGRAPH_LIBRARY"]).resolve().parent / "bench" / "loops"
    function = c.CDLL(str(Path(folder) / "scope_cost.so")).scope_cost
    function.restype, function.argtypes = c.c_int64, [c.c_void_p] * 4 + [c.c_int]
    return function


def us(times):
    times = sorted(times)
    low, middle, high = (times[len(times) * tenth // 10] / 1000 for tenth in (1, 5, 9))
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def from_c(epgraph, table, stream):
    lib, run = epgraph._library.lib, loop()
    calls = [c.cast(getattr(lib, name), c.c_void_p) for name in ("epg_scope_enter", "epg_scope_leave")]
    times = []
    for _ in range(ROUNDS + 1):
        took = run(*calls, table.raw, stream.raw, SCOPES)
        if took < 0:
            raise epgraph.Error(-took)
        times.append(took / SCOPES)
    return us(times[1:])


def made_each_time(epgraph, table, stream):
    for _ in range(SCOPES // 10):
        with epgraph.scope(stream, ordinal=0, table=table):
            pass


def made_once(epgraph, table, stream):
    scope = epgraph.scope(stream, ordinal=0, table=table)
    for _ in range(SCOPES // 10):
        with scope:
            pass


def from_python(how, *given):
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter_ns()
        how(*given)
        times.append((time.perf_counter_ns() - start) / (SCOPES // 10))
    return us(times[1:])


def measure(names):
    import epgraph

    modules = [importlib.import_module(name) for name in names]
    for module in modules:
        module.ones(1, **({"device": "cuda"} if module.__name__ == "torch" else {}))
    with epgraph.Device("cuda") as device, device.stream() as stream, epgraph.ScopeTable() as table:
        with epgraph.scope(stream, table=table) as entered:
            told = ", ".join(line.name for line in entered.report if line.state == "set") or "none"
        versions = " ".join(f"{module.__name__} {module.__version__}" for module in modules) or "-"
        given = (epgraph, table, stream)
        print(f"{versions:32} {told:16} {from_c(*given):30} {from_python(made_each_time, *given):30} "
              f"{from_python(made_once, *given)}")


def main():
    if sys.argv[1:2] == ["--one"]:
        measure(sys.argv[2:])
        return 0
    asked = [sys.argv[1:]] if sys.argv[1:] else CASES
    print(f"{'loaded':32} {'set':16} {'us per scope, from C':30} "
          f"{'from Python, made each time':30} from Python, made once")
    sys.stdout.flush()
    return max(subprocess.run([sys.executable, __file__, "--one", *names]).returncode for names in asked)


if __name__ == "__main__":
    sys.exit(main())
