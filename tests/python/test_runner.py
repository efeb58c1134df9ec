"""The runner from Python: replay against eager, exceptions, reset, the garbage collector, what captured work keeps."""
import gc
import sys
import unittest

import epgraph

try:
    import numpy
except ImportError:
    numpy = None

EXPERTS, HIDDEN, TOPK, MOST = 4, 16, 2, 8
COUNTS = [(3, 8), (1, 0), (8, 2), (0, 5), (4, 4), (7, 1)]


class Plain(unittest.TestCase):
    """Without groups: host functions."""

    def setUp(self):
        self.device = epgraph.Device()
        self.stream = self.device.stream()
        self.addCleanup(self.device.close)

    def test_captured_once_and_replayed(self):
        seen, phases = [], []

        def step(call):
            phases.append(call.phase)
            bucket = call.bucket
            call.stream.host_func(lambda: seen.append(bucket), "note")

        runner = epgraph.Runner(step, buckets=[2, 4], device=self.device, warmups=1)
        for tokens in (1, 2, 3, 5):
            runner.run(tokens, stream=self.stream)
        gc.collect()
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        self.assertEqual(phases, ["warmup", "probe", "capture", "warmup", "capture", "eager"])
        self.assertEqual(seen, [2, 2, 2, 4, 4, 5, 2])  # warm-ups run their host functions as well
        stats = runner.stats()
        self.assertEqual((stats["captures"], stats["replays"], stats["eager"]), (2, 4, 1))
        self.assertEqual(runner.bucket(3), 4)
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_NOT_FOUND"):
            runner.bucket(5)

    def test_an_exception_ends_the_capture_and_reaches_the_caller(self):
        failing = ["warmup", "probe", "capture", "eager"]

        def step(call):
            if failing and call.phase == failing[0]:
                raise LookupError(failing.pop(0))
            call.stream.host_func(lambda: None)

        runner = epgraph.Runner(step, buckets=[4], device=self.device)
        for phase in ("warmup", "probe", "capture"):
            with self.assertRaisesRegex(LookupError, phase):
                runner.run(1, stream=self.stream)
        with self.assertRaisesRegex(LookupError, "eager"):
            runner.run(1, stream=self.stream, eager=True)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        self.assertTrue(gc.isenabled())
        self.assertEqual(runner.stats()["replays"], 1)

    def test_an_error_of_the_library_passes_as_it_is(self):
        runner = epgraph.Runner(lambda call: call.stream.synchronize(), buckets=[4], device=self.device, warmups=0)
        with self.assertRaises(epgraph.Error) as caught:
            runner.run(1, stream=self.stream)
        self.assertEqual(caught.exception.code, 900)

    def test_no_garbage_is_collected_during_capture(self):
        states = {}
        runner = epgraph.Runner(lambda call: states.setdefault(call.phase, gc.isenabled()), buckets=[1],
                                device=self.device)
        runner.run(1, stream=self.stream)
        runner.run(1, stream=self.stream, eager=True)
        self.assertEqual((states["probe"], states["capture"], states["eager"]), (False, False, True))
        self.assertTrue(gc.isenabled())

    def test_a_host_function_that_raises_in_a_replay(self):
        ill = []

        def work():
            if ill:
                raise OSError("ill")

        runner = epgraph.Runner(lambda call: call.stream.host_func(work), buckets=[1], device=self.device)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        ill.append(1)
        runner.run(1, stream=self.stream)
        with self.assertRaisesRegex(OSError, "ill"):
            self.stream.synchronize()

    def test_reset_captures_anew_and_lets_go(self):
        class Thing:
            def __call__(self):
                pass

        thing = Thing()
        runner = epgraph.Runner(lambda call: call.stream.host_func(thing), buckets=[1], device=self.device)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        held = sys.getrefcount(thing)
        runner.reset()
        gc.collect()
        self.assertLess(sys.getrefcount(thing), held)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        self.assertEqual(runner.stats()["captures"], 2)

    def test_scratch_memory(self):
        addresses = []

        def step(call):
            array = call.alloc((4, 2))
            addresses.append(memoryview(array).cast("B").nbytes)
            kept.append(call)

        kept = []
        runner = epgraph.Runner(step, buckets=[1], device=self.device)
        runner.run(1, stream=self.stream)
        self.assertEqual(set(addresses), {32})
        with self.assertRaisesRegex(ValueError, "has returned"):
            kept[0].alloc((1,))

    def test_as_a_decorator(self):
        seen = []

        @epgraph.Runner(buckets=[2], device=self.device, warmups=0, probe=False)
        def step(call):
            """Notes."""
            call.stream.host_func(lambda: seen.append(call.bucket))

        step(1, stream=self.stream)
        step.run(2, stream=self.stream)
        self.stream.synchronize()
        self.assertEqual((seen, step.__doc__), ([2, 2], "Notes."))
        with self.assertRaisesRegex(ValueError, "no step function yet"):
            epgraph.Runner(buckets=[2], device=self.device).run(1, stream=self.stream)

    def test_eager_segments_run_at_every_step(self):
        seen, phases = [], []

        def attention(call):
            phases.append(call.phase)
            call.stream.host_func(lambda: seen.append("attention"))

        def experts(call):
            call.stream.host_func(lambda: seen.append("experts"))

        runner = epgraph.Runner([epgraph.eager(attention), experts], buckets=[1], device=self.device, warmups=1)
        runner.run(1, stream=self.stream)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        self.assertEqual(phases, ["warmup", "eager", "eager"])
        self.assertEqual(seen, ["attention", "experts"] * 3)
        self.assertIn("digraph", runner.dot(1))
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_NOT_FOUND"):
            runner.dot(7)

    def test_the_step_runs_in_a_scope_of_the_callers_runtimes(self):
        class Follower(epgraph.ForeignRuntime):
            name, stream = "follower", 0

            def get(self, ordinal):
                return self.stream

            def set(self, ordinal, stream):
                before, self.stream = self.stream, stream
                return before

            def restore(self, ordinal, before):
                self.stream = before

        follower, seen = Follower(), []
        with epgraph.ScopeTable(runtimes=[follower]) as table:
            runner = epgraph.Runner(lambda call: seen.append(follower.stream == call.stream.raw), buckets=[1],
                                    device=self.device, scopes=table, warmups=1)
            runner.run(1, stream=self.stream)
            self.assertEqual((seen, follower.stream), ([True] * 3, 0))
            runner.close()

    def test_what_another_library_says_of_906_names_the_step(self):
        """As PyTorch does, where a library inside launches on the legacy stream."""
        def strays(call):
            if call.phase == "probe":
                raise RuntimeError("CUDA error: operation would make the legacy stream depend on a capturing blocking "
                                   "stream")

        runner = epgraph.Runner(strays, buckets=[1], device=self.device)
        with self.assertRaisesRegex(epgraph.Error, 'EPG_ERR_ESCAPED.*legacy stream.*segment "strays"') as caught:
            runner.run(1, stream=self.stream)
        self.assertIn("CUDA error", str(caught.exception.__cause__))

    def test_all_buckets_largest_first(self):
        told, buckets = [], []
        runner = epgraph.Runner(lambda call: buckets.append(call.bucket), buckets=[1, 2, 4], device=self.device,
                                warmups=0, probe=False, progress=lambda done, all_: told.append((done, all_)))
        runner.capture_all(stream=self.stream)
        self.assertEqual((buckets, told), ([4, 2, 1], [(1, 3), (2, 3), (3, 3)]))

    def test_what_a_failed_capture_held_is_let_go(self):
        class Thing:
            def __call__(self):
                pass

        thing, ill = Thing(), [True]

        def step(call):
            call.stream.host_func(thing)
            if ill and call.phase == "capture":
                raise KeyError(1)

        runner = epgraph.Runner(step, buckets=[1], device=self.device)
        before = sys.getrefcount(thing)
        with self.assertRaises(KeyError):
            runner.run(1, stream=self.stream)
        gc.collect()
        self.assertEqual(sys.getrefcount(thing), before)
        ill.clear()
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        gc.collect()
        self.assertEqual(sys.getrefcount(thing), before + 1)   # the captured one; those of warm-ups are gone

    def test_what_captured_work_calls_outlives_a_later_failure(self):
        seen, ill = [], []

        def attention(call):
            if ill and call.phase == "eager":
                raise OSError("in a replay")

        def experts(call):
            bucket = call.bucket
            if "capture" in ill and bucket == 1 and call.phase == "capture":
                raise OSError("in a capture")
            call.stream.host_func(lambda: seen.append(bucket))

        runner = epgraph.Runner([epgraph.eager(attention), experts], buckets=[1, 2, 4], device=self.device, warmups=1)
        ill.append("replay")
        with self.assertRaisesRegex(OSError, "in a replay"):
            runner.run(4, stream=self.stream)           # captured, and failed after that
        ill[:] = ["capture"]
        with self.assertRaisesRegex(OSError, "in a capture"):
            runner.capture_all(stream=self.stream)      # 2 is captured, 1 is not
        gc.collect()
        junk = [lambda: seen.append("junk") for _ in range(1000)]
        ill.clear()
        self.stream.synchronize()
        seen.clear()
        for tokens in (4, 2, 1):
            runner.run(tokens, stream=self.stream)
        self.stream.synchronize()
        self.assertEqual(seen, [4, 2, 1, 1])            # with a warm-up of 1
        self.assertEqual(len(runner._held), 3)
        del junk

    def test_a_stream_may_be_closed_between_steps(self):
        seen = []
        runner = epgraph.Runner(lambda call: call.stream.host_func(lambda: seen.append(1)), buckets=[1],
                                device=self.device, warmups=0)
        for _ in range(3):
            with self.device.stream() as brief:
                runner.run(1, stream=brief)
        with self.device.stream() as brief:
            runner.run(1, stream=brief, eager=True)
        runner.run(1, stream=self.stream)
        self.stream.synchronize()
        self.assertEqual(len(seen), 5)
        with self.device.stream() as brief:
            runner.close()
            with self.assertRaisesRegex(ValueError, "Runner is closed"):
                runner.run(1, stream=brief)
            self.assertEqual(brief._dependents, 0)

    def test_what_progress_raises_comes_out(self):
        def progress(done, all_):
            raise KeyError(done)

        runner = epgraph.Runner(lambda call: None, buckets=[1, 2], device=self.device, progress=progress)
        with self.assertRaisesRegex(KeyError, "1"):
            runner.capture_all(stream=self.stream)
        runner.run(2, stream=self.stream)
        self.assertEqual(runner.stats()["captures"], 2)

    def test_numbers_of_other_kinds(self):
        class Number:
            def __index__(self):
                return 2

        runner = epgraph.Runner(lambda call: None, buckets=[2], device=self.device)
        runner.run(Number(), stream=self.stream, variant=Number())
        self.assertEqual(runner.stats()["tokens"], 2)

    def test_a_table_that_is_closed_closes_its_runners(self):
        table = epgraph.ScopeTable()
        runner = epgraph.Runner(lambda call: None, buckets=[1], device=self.device, scopes=table)
        table.close()
        self.assertTrue(runner.closed)

    def test_bad_arguments(self):
        with self.assertRaisesRegex(ValueError, "groups or a device"):
            epgraph.Runner(lambda call: None)
        runner = epgraph.Runner(lambda call: None, buckets=[1], device=self.device)
        with self.assertRaisesRegex(ValueError, "tokens is -1"):
            runner.run(-1, stream=self.stream)
        with self.assertRaisesRegex(TypeError, "stream is a int"):
            runner.run(1, stream=64)
        with epgraph.Device() as other, self.assertRaisesRegex(ValueError, "another device"):
            runner.run(1, stream=other.stream())
        self.stream.close()
        with self.assertRaisesRegex(ValueError, "Stream is closed"):
            runner.run(1, stream=self.stream)
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_INVALID"):
            epgraph.Runner(lambda call: None, buckets=[4, 2], device=self.device)


@unittest.skipIf(numpy is None, "numpy is not installed")
class Pairs(unittest.TestCase):
    def test_replay_equals_eager_in_any_mix(self):
        def body(team):
            group = epgraph.Group(team, experts=EXPERTS, hidden=HIDDEN, topk=TOPK, max_tokens=MOST)
            rows, ids = numpy.zeros((MOST, HIDDEN), "f4"), numpy.zeros((MOST, TOPK), "i4")
            count, out = numpy.zeros(1, "u4"), numpy.zeros((MOST, HIDDEN), "f4")

            def step(call):
                view = group.dispatch(rows, ids, tokens=count, bucket=call.bucket, stream=call.stream)
                outputs = group.run_experts(view, lambda e, x: x / numpy.float32(e + 2) + x * x, stream=call.stream)
                group.combine(outputs, out, stream=call.stream)

            runner = epgraph.Runner(step, buckets=[1, 2, 4, 8], groups=[group])
            with team.device.stream() as stream:
                def once(tokens, eager):
                    out[:] = 0
                    runner.run(tokens, stream=stream, eager=eager, inputs={"rows": rows})
                    stream.synchronize()
                    group.check()
                    return out.copy()

                for number, counts in enumerate(COUNTS):
                    random = numpy.random.default_rng(2 * number + team.rank)
                    rows[:] = random.standard_normal(rows.shape)
                    ids[:] = [random.permutation(EXPERTS)[:TOPK] for _ in range(MOST)]
                    count[0] = tokens = counts[team.rank]
                    mixed = number % 2 == 1 and team.rank == 1  # it replays in the others' eager round, too
                    eager, replayed = once(tokens, not mixed), once(tokens, False)
                    numpy.testing.assert_array_equal(eager, replayed)
                    self.assertEqual(bool(replayed.any()), tokens > 0)
                with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_MOVED.*rows"):
                    runner.run(1, stream=stream, inputs={"rows": rows.copy()})
            self.assertGreaterEqual(runner.stats()["replays"], len(COUNTS))
            self.assertEqual(group.stats()["pairs"], 2 * len(COUNTS))

        epgraph.launch(body, 2)

    def test_a_group_that_is_closed_closes_its_runners(self):
        with epgraph.Device() as device:
            for place in (0, 1):
                team, = epgraph.teams(device, 1)
                groups = [epgraph.Group(team, experts=2, hidden=8, topk=1, max_tokens=4) for _ in range(2)]
                runner = epgraph.Runner(lambda call: None, groups=groups)
                view = groups[place].view()
                groups[place].close()
                self.assertTrue(runner.closed)
                with self.assertRaisesRegex(ValueError, "Group is closed"):
                    view.counts
                team.close()

    def test_an_exception_between_the_halves_leaves_the_group_usable(self):
        def body(team):
            group = epgraph.Group(team, experts=EXPERTS, hidden=HIDDEN, topk=TOPK, max_tokens=MOST)
            rows, ids = numpy.ones((MOST, HIDDEN), "f4"), numpy.array([[0, 1]] * MOST, "i4")
            out, ill = numpy.zeros((MOST, HIDDEN), "f4"), [True]

            def step(call):
                view = group.dispatch(rows, ids, bucket=call.bucket, stream=call.stream)
                if ill and call.phase == "capture":
                    raise ArithmeticError("in the middle of a pair")
                group.combine(group.run_experts(view, lambda e, x: x, stream=call.stream), out, stream=call.stream)

            runner = epgraph.Runner(step, groups=[group])
            with team.device.stream() as stream:
                with self.assertRaisesRegex(ArithmeticError, "middle of a pair"):
                    runner.run(MOST, stream=stream)
                ill.clear()
                runner.run(MOST, stream=stream)
                stream.synchronize()
                group.check()
            numpy.testing.assert_array_equal(out, 2 * rows)

        epgraph.launch(body, 2)


if __name__ == "__main__":
    unittest.main()
