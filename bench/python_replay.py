#!/usr/bin/env python3
"""What a replay through Python costs above the C call.

    make && EPGRAPH_LIBRARY=$(ls build/libepgraph.so.*) PYTHONPATH=python python3 bench/python_replay.py [host|cuda]

One graph of one node (a memset of 4 bytes) is replayed in three ways, on the same runner and stream:

    C       epg_runner_run in a loop in C, the step struct filled in once (bench/loops/replay.so beside the library, or
            in the folder that EPGRAPH_BENCH names)
    ctypes  the same call through ctypes with everything prepared, which is what ctypes alone costs
    Python  Runner.run(tokens, stream=stream), without inputs and with 4; through a foreign stream too, on CUDA

The ways take turns, batch by batch, each batch followed by a synchronisation that is not timed, so that the device's
queue never fills. The figure of a way is the median over the batches of a batch's mean, with the 10th and the 90th
percentile in brackets; the loop itself, measured with an empty body, is taken off the ways in Python. Printed is also
how far each median is above that in C.
"""
import ctypes
import os
import statistics
import sys
import time
from pathlib import Path

import epgraph
from epgraph._library import lib

BATCH, BATCHES, WARM = 200, 101, 3


def in_c(runner):
    folder = os.environ.get("EPGRAPH_BENCH") or Path(os.environ["EPGRAPH_LIBRARY"]).resolve().parent / "bench" / "loops"
    loop = ctypes.CDLL(str(Path(folder) / "replay.so")).replay_loop
    loop.restype = ctypes.c_int64
    entry = ctypes.cast(lib.epg_runner_run, ctypes.c_void_p)

    def timed():
        took = loop(entry, runner._object, runner._step_address, BATCH)
        if took < 0:
            raise epgraph.Error(-took)
        return took / 1000

    return timed


def in_python(call):
    """Microseconds of a batch of calls, the loop taken off."""
    def timed():
        clock, rounds = time.perf_counter, range(BATCH)
        began = clock()
        for _ in rounds:
            pass
        empty = clock() - began
        began = clock()
        for _ in rounds:
            call()
        return (clock() - began - empty) * 1e6
    return timed


def arrays(device, count):
    """`count` arrays to bind: numpy's on the host, epgraph.Memory or PyTorch's on CUDA. And what they are."""
    if device.kind == "cuda":
        import torch
        return [torch.zeros(8, device="cuda") for _ in range(count)], "PyTorch"
    import numpy
    return [numpy.zeros(8, "f4") for _ in range(count)], "numpy"


def measure(device):
    stream = device.stream()
    memory = epgraph._frameworks.DeviceMemory(device, 256)

    def step(call):
        lib.epg_memset_async(device.raw, memory.address, call.bucket, 4, call.stream.raw)

    def runner_with(**inputs):
        runner = epgraph.Runner(step, buckets=[8], device=device)
        runner.run(8, stream=stream, **inputs)
        return runner

    plain, bound = runner_with(), None
    bare = ctypes.CFUNCTYPE(ctypes.c_int)(("epg_runner_run", lib))
    runner, address = plain._object, plain._step_address
    ways = {"C": in_c(plain), "ctypes": in_python(lambda: bare(runner, address)),
            "Python": in_python(lambda: plain.run(8, stream=stream))}
    try:
        many, whose = arrays(device, 4)
    except ImportError as error:
        print(f"  without inputs: {error}")
    else:
        inputs = {f"input {place}": array for place, array in enumerate(many)}
        bound = runner_with(inputs=inputs)
        ways[f"Python, 4 {whose} inputs"] = in_python(lambda: bound.run(8, stream=stream, inputs=inputs))
        ways["C, 4 inputs"] = in_c(bound)
        if device.kind == "cuda":
            import torch
            foreign, theirs = torch.cuda.Stream(), runner_with()
            theirs.run(8, stream=foreign)
            ways["Python, a PyTorch stream"] = in_python(lambda: theirs.run(8, stream=foreign))
    times = {name: [] for name in ways}
    for number in range(WARM + BATCHES):
        for name, way in ways.items():
            took = way()
            device.synchronize()
            if number >= WARM:
                times[name].append(took / BATCH)
    return times


def main():
    kinds = sys.argv[1:] or ["host", "cuda"]
    for kind in kinds:
        try:
            device = epgraph.Device(kind)
        except epgraph.Error as error:
            print(f"{kind}: {error.message}")
            continue
        with device:
            print(f"{device.describe()['name']}, Python {sys.version.split()[0]}, {BATCHES} batches of {BATCH} replays")
            times = measure(device)
            medians = {name: statistics.median(each) for name, each in times.items()}
            for name, each in times.items():
                tenths = statistics.quantiles(each, n=10)
                base = medians["C, 4 inputs" if "4" in name else "C"]
                above = "" if name.startswith("C") else f", {medians[name] - base:+.3f} us above C"
                print(f"  {name:26} {medians[name]:7.3f} us ({tenths[0]:.3f} to {tenths[-1]:.3f}){above}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
