"""The runner with PyTorch inside: replay against eager, memory of the captured step, exceptions, work that escapes."""
import gc
import unittest

import epgraph
from gpu import cupy, torch, with_cupy, with_gpu, with_torch

EXPERTS, HIDDEN, TOPK, MOST = 4, 128, 2, 8


@with_gpu
@with_torch
class Gpu(unittest.TestCase):
    def setUp(self):
        self.device = epgraph.Device("cuda")
        self.addCleanup(self.device.close)
        self.stream = self.device.stream()
        self.addCleanup(torch.cuda.synchronize)


class Plain(Gpu):
    def test_torch_inside_is_captured_and_replayed(self):
        x, y = torch.ones(8, 64, device="cuda"), torch.zeros(8, 64, device="cuda")
        w = torch.eye(64, device="cuda") * 2
        torch.cuda.synchronize()
        phases = []

        def step(call):
            phases.append(call.phase)
            self.assertEqual(torch.cuda.current_stream().cuda_stream, call.stream.raw)
            y[:call.bucket].copy_(torch.relu(x[:call.bucket] @ w) + 1)

        runner = epgraph.Runner(step, buckets=[1, 8], device=self.device)
        for value in (1, 2, 3):
            with epgraph.scope(self.stream):
                x.fill_(value)
            runner.run(5, stream=self.stream)
            self.stream.synchronize()
            self.assertTrue((y == 2 * value + 1).all())
        self.assertEqual(phases, ["warmup", "warmup", "probe", "capture"])
        self.assertEqual(runner.stats()["replays"], 3)
        self.assertTrue(gc.isenabled())
        self.assertIn("digraph", runner.dot(8))

    def test_on_a_stream_of_torch_and_as_a_decorator(self):
        x = torch.zeros(4, device="cuda")

        @epgraph.Runner(buckets=[1], device=self.device)
        def step(call):
            """Adds one."""
            x.add_(1)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        for _ in range(5):
            step(1, stream=stream)
        step.run(1, stream=stream, eager=True)
        stream.synchronize()
        self.assertEqual(x[0].item(), 8)    # two warm-ups
        self.assertEqual(step.__doc__, "Adds one.")

    def test_a_host_function_of_an_eager_step_on_torchs_stream(self):
        seen, stream = [], torch.cuda.Stream()
        runner = epgraph.Runner(lambda call: call.stream.host_func(lambda: seen.append(call.bucket)), buckets=[1],
                                device=self.device, warmups=0)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(100_000_000)
        for tokens in (2, 3, 4):
            runner.run(tokens, stream=stream)
        gc.collect()
        stream.synchronize()
        self.assertEqual(seen, [2, 3, 4])

    def test_memory_of_the_captured_step_is_nobody_elses(self):
        """What the step's temporaries used must not be given to tensors made later, nor to the driver."""
        n, handles = 1 << 22, []
        x, y = torch.ones(n, device="cuda"), torch.zeros(n, device="cuda")
        torch.cuda.synchronize()

        def step(call):
            handles.append(call.stream.raw)
            temporary = x * 3
            other = temporary + call.bucket
            y.copy_(other * temporary)

        runner = epgraph.Runner(step, buckets=[1, 2], device=self.device)
        runner.run(1, stream=self.stream)
        runner.run(2, stream=self.stream)
        self.stream.synchronize()
        gc.collect()
        torch.cuda.empty_cache()
        mine = [torch.full((n,), 77.0, device="cuda") for _ in range(16)]
        with torch.cuda.stream(torch.cuda.ExternalStream(handles[-1])):
            mine += [torch.full((n,), 77.0, device="cuda") for _ in range(16)]
        torch.cuda.synchronize()
        for tokens in (1, 2, 1):
            y.zero_()
            torch.cuda.synchronize()
            runner.run(tokens, stream=self.stream)
            self.stream.synchronize()
            self.assertTrue((y == (3 + tokens) * 3).all())
            self.assertTrue(all((tensor == 77).all() for tensor in mine))

    def test_without_the_pool_it_would_be(self):
        """The hazard that the pool is there for: PyTorch hands out what the graph writes to."""
        n, handles = 1 << 22, []
        x, y = torch.ones(n, device="cuda"), torch.zeros(n, device="cuda")
        torch.cuda.synchronize()

        def step(call):
            handles.append(call.stream.raw)
            y.copy_((x * 3) * (x + 1))

        runner = epgraph.Runner(step, buckets=[1], device=self.device, private_pools=False)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        with torch.cuda.stream(torch.cuda.ExternalStream(handles[-1])):
            mine = [torch.full((n,), 77.0, device="cuda") for _ in range(4)]
        torch.cuda.synchronize()
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        self.assertFalse(all((tensor == 77).all() for tensor in mine))

    def test_the_pool_goes_with_the_graphs(self):
        x = torch.ones(1 << 24, device="cuda")
        torch.cuda.synchronize()
        runner = epgraph.Runner(lambda call: x * 2, buckets=[1], device=self.device)
        before = torch.cuda.memory_reserved()
        runner.run(1, stream=self.stream)
        self.assertGreaterEqual(torch.cuda.memory_reserved(), before + (1 << 26))
        runner.reset()
        gc.collect()
        torch.cuda.empty_cache()
        self.assertLessEqual(torch.cuda.memory_reserved(), before)
        runner.run(1, stream=self.stream)
        runner.close()
        gc.collect()
        torch.cuda.empty_cache()
        self.assertLessEqual(torch.cuda.memory_reserved(), before)

    def test_a_pool_that_cannot_be_had(self):
        release = torch._C._cuda_releasePool
        self.addCleanup(setattr, torch._C, "_cuda_releasePool", release)
        del torch._C._cuda_releasePool
        with self.assertRaisesRegex(RuntimeError, "no torch._C._cuda_releasePool.*private_pools=False"):
            epgraph.Runner(lambda call: None, buckets=[1], device=self.device).run(1, stream=self.stream)
        runner = epgraph.Runner(lambda call: None, buckets=[1], device=self.device, private_pools=False)
        runner.run(1, stream=self.stream)

    def test_a_pool_may_go_while_pytorch_captures(self):
        x = torch.ones(1 << 20, device="cuda")
        torch.cuda.synchronize()
        runner = epgraph.Runner(lambda call: x * 2, buckets=[1], device=self.device)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            x.add_(1)
            runner._pools.drop()    # all that closing it does but for the graphs, which CUDA would not permit here
        runner.close()
        graph.replay()
        torch.cuda.synchronize()
        self.assertEqual(x[0].item(), 2)

    def test_an_exception_ends_the_capture_and_reaches_the_caller(self):
        x, failing = torch.ones(8, device="cuda"), ["warmup", "probe", "capture"]

        def step(call):
            x.add_(1)
            if failing and call.phase == failing[0]:
                raise LookupError(failing.pop(0))

        runner = epgraph.Runner(step, buckets=[1], device=self.device)
        for phase in ("warmup", "probe", "capture"):
            with self.assertRaisesRegex(LookupError, phase):
                runner.run(1, stream=self.stream)
            self.assertEqual(torch.cuda.current_stream().cuda_stream, 0)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        self.assertEqual(runner.stats()["replays"], 1)

    def test_what_may_not_be_captured_reaches_the_caller(self):
        x = torch.ones(8, device="cuda")
        for illegal, told in ((lambda: x.sum().item(), "not permitted when stream is capturing"),
                              (lambda: torch.randn(4, device="cuda"), "capture")):
            runner = epgraph.Runner(lambda call: illegal(), buckets=[1], device=self.device, warmups=1)
            with self.assertRaisesRegex(Exception, told):
                runner.run(1, stream=self.stream)
            torch.cuda.synchronize()
            self.assertEqual(x.sum().item(), 8)

    def test_work_that_escapes_is_named(self):
        x = torch.ones(8, device="cuda")

        def strays(call):
            with torch.cuda.stream(torch.cuda.default_stream()):
                x.add_(1)

        runner = epgraph.Runner(strays, buckets=[1], device=self.device)
        with self.assertRaisesRegex(epgraph.Error, 'EPG_ERR_ESCAPED.*legacy stream.*segment "strays"') as caught:
            runner.run(1, stream=self.stream)
        self.assertIn("capturing blocking stream", str(caught.exception.__cause__))
        torch.cuda.synchronize()
        self.assertEqual(x[0].item(), 3)    # two warm-ups

    def test_moved_inputs_are_named(self):
        x = torch.ones(8, device="cuda")
        y = torch.zeros(8, device="cuda")
        runner = epgraph.Runner(lambda call: y.add_(x), buckets=[1], device=self.device)
        runner.run(1, stream=self.stream, inputs={"x": x})
        runner.run(1, stream=self.stream, inputs={"x": x})
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_MOVED.*x"):
            runner.run(1, stream=self.stream, inputs={"x": x.clone()})
        inputs = {"x": x}
        runner.run(1, stream=self.stream, inputs=inputs)
        x.data = torch.full((8,), 5.0, device="cuda")
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_MOVED.*x"):
            runner.run(1, stream=self.stream, inputs=inputs)

    def test_scratch_memory_as_torch_has_it(self):
        y = torch.zeros(8, device="cuda")
        torch.cuda.synchronize()

        def step(call):
            scratch = call.alloc((8,), like=y)
            scratch.fill_(4)
            y.copy_(scratch + call.alloc((8,), like=y).fill_(1))

        runner = epgraph.Runner(step, buckets=[1], device=self.device)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        self.assertEqual(y.tolist(), [5.0] * 8)

    def test_eager_segments(self):
        x, seen = torch.zeros(4, device="cuda"), []
        torch.cuda.synchronize()

        def attention(call):
            seen.append(call.phase)
            x.mul_(2)

        runner = epgraph.Runner([epgraph.eager(attention), lambda call: x.add_(1)], buckets=[1], device=self.device,
                                warmups=1)
        runner.run(1, stream=self.stream)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        self.assertEqual(seen, ["warmup", "eager", "eager"])
        self.assertEqual(x[0].item(), 7)    # ((0 * 2 + 1) * 2 + 1) * 2 + 1


@with_cupy
class Cupy(Gpu):
    def test_cupy_inside(self):
        x = cupy.zeros(8, dtype="f4")
        cupy.cuda.Device().synchronize()

        def step(call):
            cupy.add(x, 1, out=x)

        runner = epgraph.Runner(step, buckets=[1], device=self.device)
        for _ in range(3):
            runner.run(1, stream=self.stream)
        self.stream.synchronize()
        self.assertEqual(x[0].item(), 5)

    def test_memory_of_the_captured_step_is_nobody_elses(self):
        n, handles = 1 << 22, []
        x, y = cupy.ones(n, dtype="f4"), cupy.zeros(n, dtype="f4")
        cupy.cuda.Device().synchronize()

        def step(call):
            handles.append(call.stream)
            temporary = x * 3
            y[:] = (temporary + call.bucket) * temporary

        runner = epgraph.Runner(step, buckets=[1, 2], device=self.device)
        runner.run(1, stream=self.stream)
        runner.run(2, stream=self.stream)
        self.stream.synchronize()
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        with cupy.cuda.Stream.from_external(handles[-1]):
            mine = [cupy.full(n, 77, dtype="f4") for _ in range(16)]
        cupy.cuda.Device().synchronize()
        for tokens in (1, 2, 1):
            y[:] = 0
            cupy.cuda.Device().synchronize()
            runner.run(tokens, stream=self.stream)
            self.stream.synchronize()
            self.assertTrue((y == (3 + tokens) * 3).all())
            self.assertTrue(all((array == 77).all() for array in mine))


class Pairs(Gpu):
    def test_replay_equals_eager_in_any_mix(self):
        counts = [(3, 8), (1, 0), (8, 2), (0, 5), (4, 4), (7, 1)]

        def body(team):
            torch.manual_seed(team.rank)
            group = epgraph.Group(team, experts=EXPERTS, hidden=HIDDEN, topk=TOPK, max_tokens=MOST,
                                  row_type="bfloat16", layout="contiguous", timeout_ms=8000)
            rows = torch.zeros(MOST, HIDDEN, dtype=torch.bfloat16, device="cuda")
            ids = torch.zeros(MOST, TOPK, dtype=torch.int32, device="cuda")
            count = torch.zeros(1, dtype=torch.int32, device="cuda")
            out = torch.zeros_like(rows)

            def step(call):
                view = group.dispatch(rows, ids, tokens=count, bucket=call.bucket, stream=call.stream)
                outputs = group.output()
                where = torch.arange(view.row_capacity, device="cuda", dtype=torch.int32)
                expert = torch.bucketize(where, view.offsets[1:], right=True)
                outputs.copy_((view.rows.float() / (expert[:, None] + view.first_expert + 2)).to(rows.dtype))
                group.combine(outputs, out, stream=call.stream)

            runner = epgraph.Runner(step, buckets=[1, 2, 4, 8], groups=[group])
            stream = team.device.stream()

            def once(tokens, eager):
                with epgraph.scope(stream):
                    out.zero_()
                runner.run(tokens, stream=stream, eager=eager, inputs={"rows": rows})
                stream.synchronize()
                group.check()
                return out.clone()

            # One after another: while one probes, nobody else may use the legacy stream. And before ranks wait for one
            # another, when the device can be waited for no more.
            torch.cuda.synchronize()
            team.barrier()
            for turn in range(team.size):
                if turn == team.rank:
                    runner.capture_all(stream=stream, inputs={"rows": rows})
                    torch.cuda.synchronize()
                team.barrier()
            for number, of_ranks in enumerate(counts):
                with epgraph.scope(stream):
                    rows.copy_(torch.randn(MOST, HIDDEN, device="cuda"))
                    ids.copy_(torch.stack([torch.randperm(EXPERTS, device="cuda")[:TOPK] for _ in range(MOST)]))
                    count.fill_(of_ranks[team.rank])
                stream.synchronize()
                tokens = of_ranks[team.rank]
                mixed = number % 2 == 1 and team.rank == 1  # it replays in the others' eager round, too
                eager, replayed = once(tokens, not mixed), once(tokens, False)
                self.assertTrue(torch.equal(eager, replayed))
                self.assertEqual(bool(replayed.any()), tokens > 0)
            self.assertGreaterEqual(runner.stats()["replays"], len(counts))
            self.assertEqual(group.stats()["pairs"], 2 * len(counts))

        epgraph.launch(body, 1, device=self.device)     # loads the kernels: a load may wait for those that wait
        epgraph.launch(body, 2, device=self.device)


if __name__ == "__main__":
    unittest.main()
