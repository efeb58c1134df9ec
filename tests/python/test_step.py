"""Planning steps, a rank that comes back, and experts, from Python."""
import threading
import unittest

import epgraph

try:
    import numpy
except ImportError:
    numpy = None


class Plans(unittest.TestCase):
    def test_each_rank_runs_what_it_has(self):
        reports = [dict(prefill_tokens=100, pairs=[3]), dict(decode_tokens=5, pairs=[2]), dict(pairs=[0])]
        plans = epgraph.step_plan(reports, buckets=[1, 2, 4, 8], chunk=64)
        self.assertEqual([plan.phase for plan in plans], ["prefill", "decode", "idle"])
        self.assertEqual([(plan.tokens, plan.bucket) for plan in plans], [(64, 64), (5, 8), (0, 1)])
        self.assertEqual([plan.pairs for plan in plans], [(3,)] * 3)
        plans = epgraph.step_plan(reports, buckets=[1, 2, 4, 8], chunk=64, policy="one_phase")
        self.assertEqual([plan.phase for plan in plans], ["prefill", "idle", "idle"])

    def test_stop_and_error(self):
        plans = epgraph.step_plan([dict(stop=True), dict(stop=True, error=8)], buckets=[1])
        self.assertEqual([(plan.stop, plan.error, plan.error_rank) for plan in plans], [(True, 8, 1)] * 2)

    def test_bad_values_are_named(self):
        with self.assertRaisesRegex(ValueError, "policy is 'fair'"):
            epgraph.step_plan([], buckets=[1], policy="fair")
        with self.assertRaisesRegex(ValueError, "pairs has 3 entries.*1 lanes"):
            epgraph.step_plan([dict(pairs=[1, 2, 3])], buckets=[1])
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_INVALID.*chunk"):
            epgraph.step_plan([dict()], buckets=[1], chunk=0)
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_INVALID.*bucket"):
            epgraph.step_plan([dict()], buckets=[4, 2])

    def test_a_stepper_plans_as_the_pure_function_does(self):
        def body(team):
            mine = dict(decode_tokens=team.rank + 1, pairs=[team.rank, 2])
            stepper = epgraph.Stepper(team, buckets=[1, 4], lanes=2)
            with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_STATE.*planned"):
                stepper.admission()
            stepper.begin(**mine)
            plan, plans = stepper.end()
            self.assertIsNone(stepper.admission())
            self.assertEqual(plan, plans[team.rank])
            return plans

        expected = epgraph.step_plan([dict(decode_tokens=r + 1, pairs=[r, 2]) for r in range(3)], buckets=[1, 4],
                                     lanes=2)
        self.assertEqual(epgraph.launch(body, 3), [expected] * 3)

    def test_an_allgather_in_halves(self):
        def body(team):
            self.assertEqual((team.incarnation, team.transport), (0, "threads"))
            team.allgather_begin(bytes([team.rank] * 3))
            return team.allgather_end()

        self.assertEqual(epgraph.launch(body, 2), [[b"\0\0\0", b"\1\1\1"]] * 2)


@unittest.skipIf(numpy is None, "numpy is not installed")
class Rejoining(unittest.TestCase):
    """Rank 1 ends after one step, rank 0 runs one without it, and in the third it is back."""

    EXPERTS, HIDDEN, TOKENS = 2, 8, 4

    def group(self, team, join=False):
        return epgraph.Group(team, experts=self.EXPERTS, hidden=self.HIDDEN, topk=1, max_tokens=self.TOKENS, join=join)

    def pair(self, group, stream, rank):
        """Rank r sends all its tokens to the other's expert, which adds 1."""
        rows = numpy.full((self.TOKENS, self.HIDDEN), 10 * rank, "f4")
        ids = numpy.full((self.TOKENS, 1), 1 - rank, "i4")
        view = group.dispatch(rows, ids, stream=stream)
        out = group.combine(group.run_experts(view, lambda expert, x: x + 1, stream=stream), stream=stream)
        stream.synchronize()
        return out[0, 0]

    def test_it_is_taken_back(self):
        with epgraph.Device() as device:
            first, second = epgraph.teams(device, 2, timeout_ms=20000)
            seen, kept = {}, []

            def life(number, team, body):
                try:
                    body(team)
                except BaseException as error:
                    seen[number] = error

            def dies(team):
                group = self.group(team)
                stream = device.stream()
                seen["before"] = self.pair(group, stream, 1)
                kept.extend([group, stream])

            def returns(team):
                self.assertEqual(team.incarnation, 1)
                group = self.group(team, join=True)
                stream = device.stream()
                stepper = epgraph.Stepper(team, buckets=[4])
                stepper.begin(join=True)
                plan, _ = stepper.end()
                self.assertTrue(plan.join)
                group.admit(stepper.admission(), stream=stream)
                seen["after"] = self.pair(group, stream, 1)
                group.check()
                kept.extend([group, stream, stepper])

            thread = threading.Thread(target=life, args=("first life", second, dies))
            thread.start()
            group, stream = self.group(first), device.stream()
            self.assertEqual(self.pair(group, stream, 0), 1)
            thread.join()
            first.retire(1)
            group.mask(1)
            self.assertEqual(self.pair(group, stream, 0), 0)    # its only expert is gone
            self.assertEqual(group.flags()[:self.TOKENS].tolist(), [1] * self.TOKENS)

            joined = first.rejoin(1)
            thread = threading.Thread(target=life, args=("second life", joined, returns))
            thread.start()
            stepper = epgraph.Stepper(first, buckets=[4])
            stepper.begin(decode_tokens=4, pairs=[1], epochs=[2])
            plan, plans = stepper.end()
            admission = stepper.admission()
            self.assertEqual((plan.join_ranks, plan.join_epochs, plans[1].join), (1, (4,), True))
            self.assertEqual(admission, epgraph.Admission((epgraph.Member(0, "stays"), epgraph.Member(1, "joins")),
                                                          (4,)))
            group.admit(admission, stream=stream)
            self.assertEqual(self.pair(group, stream, 0), 0)    # this step's, still without it
            self.assertEqual(self.pair(group, stream, 0), 1)
            self.assertTrue(group.alive(1))
            thread.join()
            self.assertEqual(seen, {"before": 11, "after": 11})
            for team in (joined, second, first):
                team.close()


@unittest.skipIf(numpy is None, "numpy is not installed")
class Experts(unittest.TestCase):
    EXPERTS, HIDDEN, INNER, TOPK, TOKENS = 4, 16, 24, 2, 6

    def weights(self, expert):
        random = numpy.random.default_rng(expert)
        return (random.standard_normal((2 * self.INNER, self.HIDDEN), dtype="f4") / 4,
                random.standard_normal((self.HIDDEN, self.INNER), dtype="f4") / 5)

    def serial(self, expert, x):
        gate_up, down = (each.astype("f8") for each in self.weights(expert))
        gate, up = gate_up[:self.INNER] @ x, gate_up[self.INNER:] @ x
        return down @ (gate / (1 + numpy.exp(-gate)) * up)

    def body(self, team, layout):
        group = epgraph.Group(team, experts=self.EXPERTS, hidden=self.HIDDEN, topk=self.TOPK, max_tokens=self.TOKENS,
                              layout=layout)
        local = self.EXPERTS // team.size
        experts = epgraph.Experts(team.device, local_experts=local, hidden=self.HIDDEN, intermediate=self.INNER,
                                  row_type="float32", weight_type="float32")
        mine = [self.weights(team.rank * local + e) for e in range(local)]
        gate_up, down = (numpy.stack([pair[part] for pair in mine]) for part in (0, 1))
        random = numpy.random.default_rng(100 + team.rank)
        rows = random.standard_normal((self.TOKENS, self.HIDDEN), dtype="f4")
        ids = numpy.array([random.permutation(self.EXPERTS)[:self.TOPK] for _ in rows], "i4")
        share = random.random((self.TOKENS, self.TOPK), dtype="f4")
        out = numpy.zeros_like(rows)

        def step(call):
            view = group.dispatch(rows, ids, share, bucket=call.bucket, stream=call.stream)
            group.combine(experts.run(view, gate_up, down, stream=call.stream), out, stream=call.stream)

        runner = epgraph.Runner(step, buckets=[self.TOKENS], groups=[group])
        stream = team.device.stream()
        expected = [sum(w * self.serial(e, x.astype("f8")) for e, w in zip(row, weights))
                    for x, row, weights in zip(rows, ids, share)]
        for is_eager in (True, False, False):
            out[:] = 0
            runner.run(self.TOKENS, stream=stream, eager=is_eager)
            stream.synchronize()
            group.check()
            numpy.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
        with self.assertRaisesRegex(ValueError, r"gate_up has shape \(2, 48, 8\), wanted \(2, 48, 16\)"):
            experts.run(group.view(), gate_up[:, :, :8].copy(), down, stream=stream)
        with self.assertRaisesRegex(TypeError, "down has elements of kind 'f8'"):
            experts.run(group.view(), gate_up, down.astype("f8"), stream=stream)
        runner.close()
        experts.close()

    def test_a_layer_eager_and_replayed_equals_a_serial_one(self):
        for layout in ("in_place", "contiguous", "masked"):
            with self.subTest(layout):
                epgraph.launch(lambda team: self.body(team, layout), 2)

    def test_bad_arguments(self):
        with epgraph.Device() as device:
            with self.assertRaisesRegex(ValueError, "weight_type is 'int4'"):
                epgraph.Experts(device, local_experts=1, hidden=8, intermediate=8, weight_type="int4")
            with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_INVALID.*hidden"):
                epgraph.Experts(device, local_experts=1, hidden=9, intermediate=8)


@unittest.skipIf(numpy is None, "numpy is not installed")
class Clocks(unittest.TestCase):
    def test_timestamps_in_stream_order(self):
        with epgraph.Device() as device, device.stream() as stream:
            times = numpy.zeros(2, "u8")
            before = device.now_ns()
            stream.timestamp(times[:1])
            stream.timestamp(times[1:])
            stream.synchronize()
            self.assertLessEqual(before, times[0])
            self.assertLessEqual(times[0], times[1])
            self.assertLessEqual(times[1], device.now_ns())
            free, total = device.memory_info()
            self.assertTrue(0 < free <= total)
            self.assertGreater(device.copy_rate(1 << 20), 1e6)


if __name__ == "__main__":
    unittest.main()
