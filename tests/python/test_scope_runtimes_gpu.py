"""What a stream scope does to the real PyTorch and CuPy: identity, nesting, threads, failures, captures."""
import threading
import unittest

import epgraph
from gpu import cupy, torch, with_cupy, with_gpu, with_torch

THREADS, ROUNDS = 4, 50


@with_gpu
class Runtimes(unittest.TestCase):
    def setUp(self):
        self.device = epgraph.Device("cuda")
        self.addCleanup(self.device.close)
        self.mine, self.other = self.device.stream(), self.device.stream()

    def captured(self, work, stream):
        """`work` in a scope, captured on `stream` by PyTorch's own interface."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(torch.cuda.ExternalStream(stream.raw)):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                with epgraph.scope(stream):
                    work()
            finally:
                graph.capture_end()
        return graph


class Torch(Runtimes):
    def now(self):
        return torch.cuda.current_stream()

    @with_torch
    def test_a_pool_stream_keeps_its_identity(self):
        for pool in (torch.cuda.Stream(), torch.cuda.Stream(priority=-1)):
            with torch.cuda.stream(pool):
                with epgraph.scope(self.mine):
                    self.assertEqual(self.now().cuda_stream, self.mine.raw)
                    self.assertEqual(self.now().stream_id, self.mine.raw)   # external: the id is the handle
                self.assertEqual(self.now().stream_id, pool.stream_id)
                self.assertNotEqual(self.now().stream_id, pool.cuda_stream)
                self.assertEqual(self.now(), pool)
        self.assertEqual(self.now(), torch.cuda.default_stream())

    @with_torch
    def test_an_external_stream_and_the_default_one(self):
        external = torch.cuda.ExternalStream(self.other.raw)
        with torch.cuda.stream(external):
            with epgraph.scope(0):
                self.assertEqual(self.now(), torch.cuda.default_stream())
                with epgraph.scope(self.mine):
                    self.assertEqual(self.now().cuda_stream, self.mine.raw)
                self.assertEqual(self.now(), torch.cuda.default_stream())
            self.assertEqual(self.now(), external)

    @with_torch
    def test_what_is_set_inside_does_not_outlive_the_scope(self):
        pool = torch.cuda.Stream()
        with self.assertRaises(KeyError):
            with epgraph.scope(self.mine):
                torch.cuda.set_stream(pool)
                raise KeyError
        self.assertEqual(self.now(), torch.cuda.default_stream())

    @with_torch
    def test_operations_go_to_the_scopes_stream(self):
        x = torch.ones(4, device="cuda")
        torch.cuda.synchronize()
        with epgraph.scope(self.mine):
            x += 1
        self.mine.synchronize()
        self.assertEqual(x.tolist(), [2, 2, 2, 2])
        epgraph.verify_scope("torch", device=self.device)
        y, z = torch.eye(16, device="cuda"), torch.empty(16, 16, device="cuda")
        torch.matmul(y, y, out=z)       # cuBLAS makes its handle outside of captures
        torch.cuda.synchronize()
        epgraph.verify_scope(lambda: torch.matmul(y, y, out=z), device=self.device)

    @with_torch
    def test_an_operation_that_fails_in_a_capture_leaves_the_scope(self):
        def fails():
            raise KeyError

        pool = torch.cuda.Stream()
        with torch.cuda.stream(pool):
            with self.assertRaises(KeyError):
                epgraph.verify_scope(fails, device=self.device)
            self.assertEqual(self.now(), pool)
        epgraph.verify_scope("torch", device=self.device)

    @with_torch
    def test_a_step_that_raises_has_left_its_scope(self):
        pool, phases, x = torch.cuda.Stream(), [], torch.zeros(4, device="cuda")

        def step(call):
            phases.append(call.phase)
            self.assertNotEqual(self.now(), pool)
            x.add_(1)
            if call.phase == raises:
                raise KeyError(call.phase)

        x.add_(1)
        torch.cuda.synchronize()
        for raises in ("warmup", "probe", "capture", "eager", "none"):
            with torch.cuda.stream(pool), epgraph.Runner(step, buckets=[1], device=self.device, warmups=1) as runner:
                if raises == "none":
                    runner.run(1, stream=self.other)
                else:
                    with self.assertRaises(KeyError):
                        runner.run(2 if raises == "eager" else 1, stream=self.other)
                    self.assertEqual(phases[-1], raises)
                self.assertEqual(self.now(), pool)

    @with_torch
    def test_a_gpu_that_is_not_there(self):
        with self.assertRaisesRegex(epgraph.Error, "PyTorch: it sees [0-9]+ GPUs, and GPU 127 was asked for"):
            with epgraph.scope(self.mine, ordinal=127):
                self.fail("entered")
        self.assertEqual(self.now(), torch.cuda.default_stream())


class Threads(Runtimes):
    """Each thread has PyTorch's and CuPy's current streams of its own, and scopes of its own."""

    def visit(self, wrong, own, first, second):
        def handles():
            return ([torch.cuda.current_stream().cuda_stream] if torch else []) + (
                [cupy.cuda.get_current_stream().ptr] if cupy else [])

        def expect(stream, where):
            wrong.extend([where] * any(handle != stream.raw for handle in handles()))

        with epgraph.scope(own):
            for _ in range(ROUNDS):
                with epgraph.scope(first):
                    expect(first, "outer")
                    with epgraph.scope(second):
                        expect(second, "inner")
                    expect(first, "outer again")
                expect(own, "own")
        wrong.extend(["left"] * any(handles()))

    @with_gpu
    def test_scopes_of_several_threads(self):
        if not torch and not cupy:
            self.skipTest("neither PyTorch nor CuPy can be imported")
        wrong, streams = [], [self.device.stream() for _ in range(3)]
        turns = [[streams[(i + j) % 3] for j in range(3)] for i in range(THREADS)]
        threads = [threading.Thread(target=self.visit, args=(wrong, *turn)) for turn in turns]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])


class Cupy(Runtimes):
    def now(self):
        return cupy.cuda.get_current_stream()

    @with_cupy
    def test_set_nested_and_put_back_as_itself(self):
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            with epgraph.scope(self.mine) as entered:
                self.assertIn(("CuPy", "set", ""), entered.report)
                self.assertEqual(self.now().ptr, self.mine.raw)
                with cupy.cuda.Stream(non_blocking=True):
                    pass
                self.assertEqual(self.now().ptr, self.mine.raw)
                with epgraph.scope(0):
                    self.assertIs(self.now(), cupy.cuda.Stream.null)
                self.assertEqual(self.now().ptr, self.mine.raw)
            self.assertIs(self.now(), stream)
        self.assertIs(self.now(), cupy.cuda.Stream.null)

    @with_cupy
    def test_a_stream_of_use_comes_back(self):
        stream = cupy.cuda.Stream(non_blocking=True)
        stream.use()
        try:
            with self.assertRaises(KeyError):
                with epgraph.scope(self.mine):
                    raise KeyError
            self.assertIs(self.now(), stream)
        finally:
            cupy.cuda.Stream.null.use()

    @with_cupy
    def test_operations_go_to_the_scopes_stream(self):
        x = cupy.ones(4, dtype="f4")
        cupy.cuda.Device().synchronize()
        with epgraph.scope(self.mine):
            cupy.add(x, 1, out=x)
        self.mine.synchronize()
        self.assertEqual(x.tolist(), [2, 2, 2, 2])
        epgraph.verify_scope("cupy", device=self.device)

    @with_cupy
    def test_a_library_that_keeps_its_stream_is_found(self):
        kept, x = cupy.cuda.Stream(non_blocking=True), cupy.ones(4, dtype="f4")

        def stubborn():
            with kept:
                cupy.add(x, 1, out=x)

        stubborn()
        kept.synchronize()
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_ESCAPED"):
            epgraph.verify_scope(stubborn, device=self.device)


class Both(Runtimes):
    @with_torch
    @with_cupy
    def test_one_capture_holds_the_work_of_both(self):
        a, b = torch.zeros(4, device="cuda"), cupy.zeros(4, dtype="f4")

        def work():
            a.add_(1)
            cupy.add(b, 1, out=b)

        work()
        torch.cuda.synchronize()
        graph = self.captured(work, self.mine)
        self.assertEqual((a.tolist(), b.tolist()), ([1] * 4, [1] * 4))    # nothing ran, and nothing escaped
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        self.assertEqual((a.tolist(), b.tolist()), ([4] * 4, [4] * 4))

    @with_torch
    @with_cupy
    def test_a_runner_captures_what_both_launch_on_their_current_streams(self):
        a, b = torch.zeros(4, device="cuda"), cupy.zeros(4, dtype="f4")

        def step(_):
            a.add_(1)
            cupy.add(b, 1, out=b)

        step(None)
        torch.cuda.synchronize()
        with epgraph.Runner(step, buckets=[1], device=self.device, warmups=1) as runner:
            runner.run(1, stream=self.mine)         # a warm-up, and the first replay
            for _ in range(3):
                runner.run(1, stream=self.other)
            self.device.synchronize()
            self.assertEqual((a.tolist(), b.tolist()), ([6] * 4, [6] * 4))
            self.assertEqual(runner.stats()["captures"], 1)
        self.assertEqual(torch.cuda.current_stream(), torch.cuda.default_stream())
        self.assertIs(cupy.cuda.get_current_stream(), cupy.cuda.Stream.null)


if __name__ == "__main__":
    unittest.main()
