"""A kernel that a graph lost: how it comes about with PyTorch, how the runner finds it, how a stream scope cures it.

The engine here is PyTorch: it captures its step by torch.cuda.graph, on a stream of its own. The step calls a library
that has a current stream of its own as well, per thread, as many have: expert-parallel ones take it from a framework's
C++ side, others from TVM-FFI or CuPy. Nobody told the library of the engine's stream, so it still launches on stream 0.

    1. The engine's stream is blocking: the library's launch is error 906, and the capture dies.
    2. It is non-blocking: the launch succeeds, runs once, and is missing from every replay. Nothing says so.
    3. epgraph.Runner refuses to capture that step, and names it.
    4. The same captures in a scope that tells the library too: every replay is right.

Run it, on a machine with a GPU and PyTorch, with

    make && EPGRAPH_LIBRARY=$(ls build/libepgraph.so.*) PYTHONPATH=python python3 examples/python/01_lost_kernel.py

The first part runs in a process of its own: PyTorch's allocator does not recover from a capture that died.

It exits with 0 if it saw all of this, with 77 where there is no GPU or no PyTorch.
"""
import subprocess
import sys
import threading

import epgraph

try:
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)


class ExpertLibrary(epgraph.ForeignRuntime):
    """The library. Its three methods for scopes are get, set and restore; a step calls add_one."""

    name = "expert library"

    def __init__(self):
        self.local = threading.local()

    def get(self, ordinal):
        return getattr(self.local, "stream", 0)

    def set(self, ordinal, stream):
        before, self.local.stream = self.get(ordinal), stream
        return before

    def restore(self, ordinal, before):
        self.local.stream = before

    def add_one(self, tensor):
        """One kernel, on the library's current stream. (It is PyTorch's kernel, to spare us a compiler.)"""
        handle = self.get(tensor.device.index)
        stream = torch.cuda.ExternalStream(handle) if handle else torch.cuda.default_stream()
        with torch.cuda.stream(stream):
            tensor.add_(1)


class Step:
    """y = 2 * x by the engine, then y = y + 1 by the library."""

    def __init__(self, library):
        self.library = library
        self.x, self.y = torch.zeros(4, device="cuda"), torch.zeros(4, device="cuda")
        self.run()
        torch.cuda.synchronize()

    def run(self):
        torch.mul(self.x, 2, out=self.y)
        self.library.add_one(self.y)

    def replayed(self, replay):
        """What a replay makes of x = 5; 11 is right."""
        self.x.fill_(5)
        torch.cuda.synchronize()
        replay()
        torch.cuda.synchronize()
        return self.y[0].item()


def first_line(error):
    return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def chain(error):
    """An exception, and those that it came from or on top of, the first cause first."""
    earlier = error.__cause__ or error.__context__
    return (chain(earlier) if earlier is not None else []) + [error]


def blocking_capture(device, library):
    print("1. Captured on a blocking stream")
    step, stream = Step(library), device.stream(blocking=True)
    try:
        with torch.cuda.stream(torch.cuda.current_stream()):    # puts PyTorch's stream back if the capture fails
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.ExternalStream(stream.raw)):
                step.run()
    except RuntimeError as error:
        for each in chain(error):
            print(f"   {first_line(each)}")
        return "legacy stream depend on a capturing blocking stream" in str(chain(error)[0])
    print("   It was captured, which is a surprise")
    return False


def blocking_capture_apart():
    return subprocess.run([sys.executable, __file__, "blocking"]).returncode == 0


def non_blocking_capture(library):
    print("2. Captured on a non-blocking stream")
    step, graph = Step(library), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step.run()
    value = step.replayed(graph.replay)
    print(f"   The capture succeeded. Replayed with x = 5: y is {value:g}, and 2 * 5 + 1 is 11")
    return value == 10


def the_runner(device, library):
    print("3. Captured by the runner")
    step, stream = Step(library), device.stream()

    def decode(call):
        step.run()

    runner = epgraph.Runner(decode, buckets=[1], device=device)
    try:
        runner.run(1, stream=stream)
    except epgraph.Error as error:
        print(f"   {error}")
        print(f"   It comes from: {first_line(chain(error)[0])}")
        return error.name == "EPG_ERR_ESCAPED" and "decode" in error.message
    print("   It was captured, which is a surprise")
    return False


def in_a_scope(device, library):
    print("4. Captured in a scope that knows of the library")
    table = epgraph.ScopeTable(runtimes=[library])
    step, graph = Step(library), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        with epgraph.scope(torch.cuda.current_stream(), table=table) as entered:
            for runtime in entered.report:
                if runtime.state != "absent":
                    print(f"   {runtime}")
            step.run()
    by_torch = step.replayed(graph.replay)
    print(f"   by torch.cuda.graph, replayed with x = 5: y is {by_torch:g}")

    step, stream = Step(library), device.stream()
    runner = epgraph.Runner(lambda call: step.run(), buckets=[1], device=device, scopes=table)
    by_runner = step.replayed(lambda: runner.run(1, stream=stream))
    print(f"   by the runner, which enters the scope itself: y is {by_runner:g}")
    epgraph.verify_scope(lambda: library.add_one(step.y), device=device, table=table)
    print("   epgraph.verify_scope: the library follows")
    return by_torch == 11 and by_runner == 11


def main():
    try:
        device = epgraph.Device("cuda")
    except epgraph.Error as error:
        print(f"skipped: {error.message}")
        return 77
    if sys.argv[1:] == ["blocking"]:
        return 0 if blocking_capture(device, ExpertLibrary()) else 1
    print(f"PyTorch {torch.__version__} on {device.describe()['name']}", flush=True)
    library = ExpertLibrary()
    seen = [blocking_capture_apart(), non_blocking_capture(library), the_runner(device, library),
            in_a_scope(device, library)]
    print("All as told above" if all(seen) else f"Otherwise than told above: {seen}")
    return 0 if all(seen) else 1


if __name__ == "__main__":
    sys.exit(main())
