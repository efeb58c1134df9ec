"""Teams, launch, and dispatch and combine against sums written out here."""
import array
import gc
import signal
import threading
import time
import unittest

import epgraph

try:
    import numpy
except ImportError:
    numpy = None

try:
    import torch
except ImportError:
    torch = None

RANKS, EXPERTS, HIDDEN, TOPK, TOKENS = 2, 4, 8, 2, 3
IDS = [[[0, 3], [2, 1], [3, -1]], [[1, 0], [3, 2], [0, -1]]]
WEIGHTS = [[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]


def make(team, **options):
    return epgraph.Group(team, **{**dict(experts=EXPERTS, hidden=HIDDEN, topk=TOPK, max_tokens=TOKENS), **options})


def factor(rank, token):
    """Expert e multiplies by e + 1."""
    return sum(w * (e + 1) for e, w in zip(IDS[rank][token], WEIGHTS[token]) if e >= 0)


def fp8(bytes_):
    """The values of float8_e4m3fn, written out from their definition."""
    sign, exponent, fraction = bytes_ >> 7, (bytes_ >> 3) & 15, bytes_ & 7
    size = numpy.where(exponent == 0, fraction * 2.0 ** -9,
                       (1 + fraction / 8) * numpy.exp2(exponent.astype("f8") - 7))
    return numpy.where(sign == 1, -size, size)


class Launch(unittest.TestCase):
    def test_results_in_rank_order(self):
        def body(team, add):
            team.barrier()
            self.assertEqual(team.allgather(bytes([team.rank, 7])), [bytes([r, 7]) for r in range(4)])
            return team.rank + add

        self.assertEqual(epgraph.launch(body, 4, 10), [10, 11, 12, 13])

    def test_the_first_cause_reaches_the_caller_and_wakes_the_others(self):
        def body(team):
            if team.rank == 2:
                raise KeyError("mine")
            team.barrier()

        began = time.monotonic()
        with self.assertRaisesRegex(KeyError, "mine"):
            epgraph.launch(body, 4, timeout_ms=60000)
        self.assertLess(time.monotonic() - began, 50)
        self.assertFalse([t for t in threading.enumerate() if t.name.startswith("epgraph rank")])

    def test_an_interrupt_wakes_the_ranks_and_waits_for_them(self):
        def body(team):
            if team.rank == 0:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            team.barrier() if team.rank == 0 else started.wait()
            team.barrier()

        started = threading.Event()
        threading.Timer(0.3, started.set).start()
        with self.assertRaises(KeyboardInterrupt):
            epgraph.launch(body, 2, timeout_ms=60000)
        self.assertFalse([t for t in threading.enumerate() if t.name.startswith("epgraph rank")])

    def test_interrupts_are_waited_out_where_a_rank_closed_its_team(self):
        """One interrupt, and another while the first is waited out: no team closes under a rank that runs."""
        def interrupt():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        def body(team):
            if team.rank == 0:
                team.close()
                interrupt()
                time.sleep(0.2)
                interrupt()
                return
            ended.wait()
            alive.append(team.rank if team.raw else None)   # raw raises where the team is closed

        ended, alive = threading.Event(), []
        threading.Timer(0.6, ended.set).start()
        with self.assertRaises(KeyboardInterrupt):
            epgraph.launch(body, 3, timeout_ms=60000)
        self.assertEqual(sorted(alive), [1, 2])
        self.assertFalse([t for t in threading.enumerate() if t.name.startswith("epgraph rank")])

    def test_peers_learn_the_reason(self):
        told = []

        def body(team):
            if team.rank == 0:
                raise ValueError("no luck")
            try:
                team.barrier()
            except epgraph.Error as error:
                told.append(error)
                raise

        with self.assertRaisesRegex(ValueError, "no luck"):
            epgraph.launch(body, 2)
        self.assertEqual(told[0].name, "EPG_ERR_ABORTED")
        self.assertIn("no luck", told[0].message)

    def test_a_device_of_the_caller_stays_open(self):
        with epgraph.Device() as device:
            groups = epgraph.launch(make, 2, device=device)
            self.assertTrue(all(group.closed for group in groups))
            self.assertFalse(device.closed)

    def test_ranks_that_disagree(self):
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_MISMATCH"):
            epgraph.launch(lambda team: make(team, topk=1 + team.rank), 2)


class Bytes(unittest.TestCase):
    def test_a_plan_tells_what_a_group_takes(self):
        options = dict(experts=EXPERTS, hidden=HIDDEN, topk=TOPK, max_tokens=TOKENS, layout="masked")
        planned = epgraph.plan_bytes(RANKS, **options)
        stats = epgraph.launch(lambda team: make(team, layout="masked").stats(), RANKS)[0]
        self.assertEqual(planned, {name: stats[name] for name in planned})
        self.assertGreater(epgraph.plan_bytes(2 * RANKS, **options)["region_bytes"], planned["region_bytes"])
        with self.assertRaisesRegex(TypeError, "team is no option"):
            epgraph.plan_bytes(2, team=1, **options)
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_INVALID.*hidden"):
            epgraph.plan_bytes(2, **{**options, "hidden": 7})


class WithoutNumpy(unittest.TestCase):
    """Buffers in; identity experts by handing combine the rows themselves (contiguous layout)."""

    def test_identity_brings_back_the_input(self):
        def body(team):
            group = make(team, layout="contiguous")
            rows = array.array("f", [100 * team.rank + i for i in range(TOKENS * HIDDEN)])
            ids = array.array("i", [e for token in IDS[team.rank] for e in token[:1] + [-1]])
            out = memoryview(bytearray(TOKENS * HIDDEN * 4)).cast("B").cast("f", [TOKENS, HIDDEN])
            with team.device.stream() as stream:
                view = group.dispatch(memoryview(rows).cast("B").cast("f", [TOKENS, HIDDEN]),
                                      memoryview(ids).cast("B").cast("i", [TOKENS, TOPK]), stream=stream)
                outputs = group.output()
                stream.host_func(lambda: copy_rows(outputs, view))
                group.combine(outputs, out, stream=stream)
                stream.synchronize()
                group.check()
            return list(rows) == [x for row in out.tolist() for x in row]

        def copy_rows(to, view):
            read, count = memoryview(view.rows).cast("B"), int(view.offsets[view.local_experts])
            memoryview(to).cast("B")[:count * HIDDEN * 4] = read[:count * HIDDEN * 4]

        self.assertEqual(epgraph.launch(body, RANKS), [True, True])

    def test_an_object_that_is_no_array(self):
        def body(team):
            with team.device.stream() as stream:
                make(team).dispatch(object(), None, stream=stream)

        with self.assertRaisesRegex(TypeError, "rows is a object"):
            epgraph.launch(body, 1)


@unittest.skipIf(torch is None, "PyTorch is not installed")
class TorchOnTheHost(unittest.TestCase):
    def test_tensors_in_and_out(self):
        for row_type in ("float32", "bfloat16"):
            for layout in ("in_place", "contiguous", "masked"):
                with self.subTest(row_type=row_type, layout=layout):
                    epgraph.launch(lambda team: self.exchange(team, row_type, layout), RANKS)

    def exchange(self, team, row_type, layout):
        group, dtype = make(team, row_type=row_type, layout=layout), getattr(torch, row_type)
        rows = (torch.arange(TOKENS * HIDDEN).reshape(TOKENS, HIDDEN) + team.rank).to(dtype)
        count = torch.tensor([TOKENS - 1], dtype=torch.int32)
        with team.device.stream() as stream:
            view = group.dispatch(rows, torch.tensor(IDS[team.rank]), torch.tensor(WEIGHTS), tokens=count,
                                  stream=stream)
            outputs = group.run_experts(view, lambda expert, x: x * (expert + 1), stream=stream)
            out = group.combine(outputs, stream=stream)
            stream.synchronize()
        group.check()
        self.assertEqual((view.rows.dtype, out.dtype, view.counts.dtype), (dtype, dtype, torch.int32))
        expected = torch.stack([rows[t].float() * factor(team.rank, t) for t in range(TOKENS)]).to(dtype)
        expected[TOKENS - 1:] = 0
        self.assertTrue(torch.equal(out, expected))

    def test_a_tensor_on_its_own_terms(self):
        def body(team):
            group, rows = make(team), torch.zeros(TOKENS, HIDDEN)
            ids = torch.zeros(TOKENS, TOPK, dtype=torch.int32)
            with team.device.stream() as stream:
                for kind, text, wrong in ((ValueError, "rows requires grad", rows.clone().requires_grad_()),
                                          (ValueError, "rows is not contiguous", torch.zeros(HIDDEN, TOKENS).t()),
                                          (TypeError, "kind 'bf16'", rows.bfloat16())):
                    with self.assertRaisesRegex(kind, text):
                        group.dispatch(wrong, ids, stream=stream)

        epgraph.launch(body, 1)


@unittest.skipIf(numpy is None, "numpy is not installed")
class Pairs(unittest.TestCase):
    def inputs(self, rank):
        rows = (100 * rank + numpy.arange(TOKENS * HIDDEN, dtype="f4")).reshape(TOKENS, HIDDEN)
        return rows, numpy.array(IDS[rank], "i4"), numpy.array(WEIGHTS, "f4")

    def exchange(self, team, group, convert=lambda a: a, **more):
        rows, ids, weights = map(convert, self.inputs(team.rank))
        with team.device.stream() as stream:
            view = group.dispatch(rows, ids, weights, stream=stream, **more)
            outputs = group.run_experts(view, lambda expert, x: x * numpy.float32(expert + 1), stream=stream)
            out = group.combine(outputs, stream=stream)
            stream.synchronize()
            group.check()
        return out, view

    def assert_right(self, outs):
        for rank, out in enumerate(outs):
            for token in range(TOKENS):
                expected = self.inputs(rank)[0][token] * numpy.float32(factor(rank, token))
                numpy.testing.assert_array_equal(out[token], expected)

    def test_every_layout_and_mode(self):
        for layout in ("in_place", "contiguous", "masked"):
            for mode in ("ll", "ht"):
                with self.subTest(layout=layout, mode=mode):
                    self.assert_right(epgraph.launch(
                        lambda team: self.exchange(team, make(team, layout=layout), mode=mode)[0], RANKS))

    def test_int64_ids_and_dlpack(self):
        class Foreign:
            """A tensor of which nothing but DLPack is known."""
            def __init__(self, of):
                self.of = of

            def __dlpack__(self, **options):
                return self.of.__dlpack__(**options)

            def __dlpack_device__(self):
                return self.of.__dlpack_device__()

        def convert(a):
            return Foreign(a.astype("i8") if a.dtype == "i4" else a)

        if not hasattr(numpy, "from_dlpack"):
            self.skipTest("this numpy has no from_dlpack")
        self.assert_right(epgraph.launch(lambda team: self.exchange(team, make(team), convert)[0], RANKS))

    def test_views_say_where_rows_came_from_without_a_copy(self):
        def body(team):
            group = make(team)
            view = self.exchange(team, group)[1]
            again = group.view()
            self.assertEqual(view.rows.__array_interface__["data"], again.rows.__array_interface__["data"])
            self.assertFalse(view.rows.flags.writeable)
            self.assertEqual(view.first_expert, 2 * team.rank)
            expected = [(e, rank, token) for e in (view.first_expert, view.first_expert + 1) for rank in range(RANKS)
                        for token in range(TOKENS) if e in IDS[rank][token]]
            seen = []
            for local in range(view.local_experts):
                for p in range(view.offsets[local], view.offsets[local] + view.counts[local]):
                    source, token = int(view.row_source[p]), int(view.row_token[p])
                    seen.append((view.first_expert + local, source, token))
                    numpy.testing.assert_array_equal(view.rows[view.row_index[p]], self.inputs(source)[0][token])
            self.assertEqual(seen, expected)
            self.assertEqual(int(view.total[0]), len(expected))

        epgraph.launch(body, RANKS)

    def test_fewer_tokens_than_the_bucket(self):
        def body(team):
            rows, ids, weights = self.inputs(team.rank)
            group, count = make(team), numpy.array([2 - team.rank], "u4")
            with team.device.stream() as stream:
                view = group.dispatch(rows, ids, weights, tokens=count, stream=stream)
                out = numpy.full((TOKENS, HIDDEN), -1, "f4")
                outputs = group.run_experts(view, lambda expert, x: x * numpy.float32(expert + 1), stream=stream)
                self.assertIs(group.combine(outputs, out, stream=stream), out)
                stream.synchronize()
            return out

        for rank, out in enumerate(epgraph.launch(body, RANKS)):
            live = 2 - rank
            self.assertTrue((out[live:] == -1).all())
            expected = self.inputs(rank)[0][0] * numpy.float32(factor(rank, 0))
            numpy.testing.assert_array_equal(out[0], expected)

    def test_a_token_count_may_be_an_int(self):
        def body(team):
            rows, ids, weights = self.inputs(team.rank)
            group = make(team)
            with team.device.stream() as stream:
                view = group.dispatch(rows, ids, weights, tokens=numpy.int64(1), stream=stream)
                out = group.combine(group.run_experts(view, lambda expert, x: x, stream=stream), stream=stream)
                stream.synchronize()
            self.assertTrue(out[0].any() and not out[1:].any())

        epgraph.launch(body, RANKS)

    def test_bfloat16_rows_come_back_bit_for_bit(self):
        def body(team):
            group = make(team, row_type="bfloat16")
            rows = (numpy.arange(TOKENS * HIDDEN) + 0x3F80 + 64 * team.rank).astype("u2").reshape(TOKENS, HIDDEN)
            ids = numpy.array([[token % EXPERTS, -1] for token in range(TOKENS)], "i4")
            with team.device.stream() as stream:
                view = group.dispatch(rows, ids, stream=stream)
                out = group.combine(group.run_experts(view, lambda expert, x: x, stream=stream), stream=stream)
                stream.synchronize()
            numpy.testing.assert_array_equal(out, rows)

        epgraph.launch(body, RANKS)

    def test_fp8_rows_are_quantised_once_and_have_scales(self):
        hidden = 256
        for layout, scale_layout in (("in_place", "row_major"), ("contiguous", "column_major"), ("masked", "packed")):
            with self.subTest(layout):
                def body(team):
                    group = make(team, row_type="float8_e4m3", hidden=hidden, layout=layout, scale_layout=scale_layout,
                                 scale_power_of_two=scale_layout == "packed")
                    random = numpy.random.default_rng(team.rank)
                    exact = random.standard_normal((TOKENS, hidden)).astype("f4")
                    rows = (exact.view("u4") >> 16).astype("u2")   # bfloat16, cut off
                    sent = (rows.astype("u4") << 16).view("f4")
                    ids = numpy.array(IDS[team.rank], "i4")
                    with team.device.stream() as stream:
                        view = group.dispatch(rows, ids, stream=stream)
                        group.combine(group.output(), stream=stream)
                        stream.synchronize()
                    group.check()
                    everyone = [numpy.frombuffer(raw, "f4").reshape(sent.shape) for raw in
                                team.allgather(sent.tobytes())]
                    self.assertEqual(view.rows.dtype, "u1")
                    for local in range(view.local_experts):
                        for place in range(int(view.counts[local])):
                            p = int(view.offsets[local]) + place
                            row = view.rows[p if view.row_index is None else view.row_index[p]]
                            scale = self.scale_of(view, local, place, p)
                            numpy.testing.assert_allclose(fp8(row).reshape(2, 128) * scale[:, None], everyone[
                                view.row_source[p]][view.row_token[p]].reshape(2, 128), rtol=0.07, atol=0.001)

                epgraph.launch(body, RANKS)

    @staticmethod
    def scale_of(view, local, place, p):
        if view.scales.ndim == 3:
            words = view.scales[local, place]
            return numpy.exp2(numpy.array([words[0] & 255, words[0] >> 8 & 255], "f4") - 127)
        return view.scales[p if view.row_index is None else view.row_index[p]]

    def test_fp8_and_opaque_rows_arrive_as_they_were(self):
        def body(team):
            random = numpy.random.default_rng(team.rank)
            for options, scale_kind, width, scales in (
                    (dict(row_type="float8_e4m3", hidden=256), "f4", 256, 2),
                    (dict(row_type="opaque", row_bytes=24, scale_bytes=5), "u1", 24, 5)):
                group = make(team, layout="contiguous", **options)
                rows = random.integers(0, 120, (TOKENS, width)).astype("u1")
                scale = random.integers(1, 100, (TOKENS, scales)).astype(scale_kind)
                ids = numpy.array([[team.rank * 2, -1]] * TOKENS, "i4")     # to itself
                with team.device.stream() as stream:
                    with self.assertRaisesRegex(ValueError, "scales is missing"):
                        group.dispatch(rows, ids, stream=stream)
                    view = group.dispatch(rows, ids, scales=scale, stream=stream)
                    group.combine(group.output(), stream=stream)
                    stream.synchronize()
                self.assertEqual(view.counts.tolist(), [TOKENS, 0])
                numpy.testing.assert_array_equal(view.rows[:TOKENS], rows)
                numpy.testing.assert_array_equal(view.scales[:TOKENS], scale)

        epgraph.launch(body, RANKS)

    def test_scales_where_there_are_none(self):
        def body(team):
            rows, ids, _ = self.inputs(0)
            with team.device.stream() as stream, self.assertRaisesRegex(ValueError, "scales is given.*float32 rows"):
                make(team).dispatch(rows, ids, scales=rows, stream=stream)

        epgraph.launch(body, 1)

    def test_no_tokens_at_all(self):
        def body(team):
            group = make(team)
            rows, ids, weights = (array[:0] if team.rank == 0 else array for array in self.inputs(team.rank))
            with team.device.stream() as stream:
                view = group.dispatch(rows, ids, weights, stream=stream)
                outputs = group.run_experts(view, lambda expert, x: x * numpy.float32(expert + 1), stream=stream)
                out = group.combine(outputs, stream=stream)
                stream.synchronize()
                group.check()
            self.assertEqual(out.shape, rows.shape)
            for token in range(len(rows)):
                numpy.testing.assert_array_equal(out[token], rows[token] * numpy.float32(factor(1, token)))

        epgraph.launch(body, RANKS)

    def test_halves(self):
        def body(team):
            group = make(team)
            rows, ids, weights = self.inputs(team.rank)
            with team.device.stream() as stream:
                group.dispatch_send(rows, ids, weights, stream=stream)
                with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_STATE"):
                    group.combine_send(group.output(), stream=stream)
                view = group.dispatch_recv(stream=stream)
                outputs = group.run_experts(view, lambda expert, x: x * numpy.float32(expert + 1), stream=stream)
                group.combine_send(outputs, stream=stream)
                out = group.combine_recv(numpy.zeros((TOKENS, HIDDEN), "f4"), stream=stream)
                stream.synchronize()
                group.check()
            return out

        self.assert_right(epgraph.launch(body, RANKS))

    def test_empty_pairs_fill_up_a_lane(self):
        def body(team):
            group, calls = make(team), []

            def experts(index, view):
                calls.append(index)
                return group.run_experts(view, lambda expert, x: x * numpy.float32(expert + 1), stream=stream)

            with team.device.stream() as stream:
                if team.rank == 0:
                    outs = []
                    for _ in range(2):
                        view = group.dispatch(*self.inputs(0), stream=stream)
                        outputs = group.run_experts(view, lambda expert, x: x * numpy.float32(expert + 1),
                                                    stream=stream)
                        outs.append(group.combine(outputs, stream=stream))
                else:
                    outs = []
                    group.fill(2, experts, stream=stream)
                    self.assertEqual(calls, [0, 1])
                stream.synchronize()
                group.check()
                for out in outs:
                    for token in range(TOKENS):
                        expected = self.inputs(0)[0][token] * numpy.float32(factor(0, token))
                        numpy.testing.assert_array_equal(out[token], expected)
                # Without experts tokens are flagged at their owner.
                if team.rank == 0:
                    view = group.dispatch(*self.inputs(0), stream=stream)
                    group.combine(group.run_experts(view, lambda expert, x: x, stream=stream), stream=stream)
                else:
                    group.fill(stream=stream)
                stream.synchronize()
                if team.rank == 0:
                    self.assertEqual(group.flags()[:TOKENS].tolist(), [1, 1, 1])
            self.assertEqual(group.stats()["pairs"], 3)

        epgraph.launch(body, RANKS)

    def test_what_experts_of_an_empty_pair_raise(self):
        def body(team):
            group = make(team)
            with team.device.stream() as stream:
                with self.assertRaisesRegex(KeyError, "ill"):
                    group.fill(1, lambda index, view: {}["ill"], stream=stream)
                group.abandon(stream=stream)
                stream.synchronize()
            return self.exchange(team, group)[0]

        self.assert_right(epgraph.launch(body, RANKS))

    def test_a_masked_rank_is_left_out(self):
        def body(team):
            group = make(team)
            self.assertTrue(group.alive(1))
            if team.rank == 1:
                return
            group.mask(1)
            self.assertEqual((group.alive(0), group.alive(1)), (True, False))
            with team.device.stream() as stream:
                view = group.dispatch(*self.inputs(0), stream=stream)
                out = group.combine(group.run_experts(view, lambda expert, x: x * numpy.float32(expert + 1),
                                                      stream=stream), stream=stream)
                stream.synchronize()
            self.assertEqual(group.flags()[:TOKENS].tolist(), [1, 1, 1])
            numpy.testing.assert_array_equal(out[0], self.inputs(0)[0][0] * numpy.float32(0.5))
            with self.assertRaisesRegex(epgraph.Error, "rank"):
                group.alive(7)

        epgraph.launch(body, RANKS)

    def test_a_rehearsal_sends_nothing(self):
        def body(team):
            group = make(team)
            with team.device.stream() as stream:
                if team.rank == 0:  # the peer does nothing
                    group.rehearse(True, stream=stream)
                    view = group.dispatch(*self.inputs(0), stream=stream)
                    group.combine(group.run_experts(view, lambda expert, x: x, stream=stream), stream=stream)
                    group.rehearse(False, stream=stream)
                    stream.synchronize()
                    self.assertEqual(int(view.total[0]), 0)
            return self.exchange(team, group)[0]

        self.assert_right(epgraph.launch(body, RANKS))

    def test_inputs_live_as_long_as_the_work_needs_them(self):
        def body(team):
            group, gate = make(team), threading.Event()
            with team.device.stream() as stream:
                stream.host_func(gate.wait)
                view = group.dispatch(*self.inputs(team.rank), stream=stream)
                outputs = group.run_experts(view, lambda expert, x: x * numpy.float32(expert + 1), stream=stream)
                out = group.combine(outputs, stream=stream)
                gc.collect()
                junk = [numpy.full((TOKENS, HIDDEN), 9, "f4") for _ in range(100)]
                gate.set()
                stream.synchronize()
                del junk
            return out

        self.assert_right(epgraph.launch(body, RANKS))

    def test_an_expert_that_raises_reaches_the_caller(self):
        def body(team):
            group = make(team)

            def expert(number, x):
                if number == 3:
                    raise RuntimeError("expert 3 is ill")
                return x

            with team.device.stream() as stream:
                view = group.dispatch(*self.inputs(team.rank), stream=stream)
                group.combine(group.run_experts(view, expert, stream=stream), stream=stream)
                stream.synchronize()

        with self.assertRaisesRegex(RuntimeError, "expert 3 is ill"):
            epgraph.launch(body, RANKS)

    def test_a_broken_pair_can_be_abandoned(self):
        def body(team):
            group = make(team)
            with team.device.stream() as stream:
                view = group.dispatch(*self.inputs(team.rank), stream=stream)
                if team.rank == 0:
                    with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_STATE"):
                        group.dispatch(*self.inputs(team.rank), stream=stream)
                    group.abandon(stream=stream)
                else:
                    group.combine(group.run_experts(view, lambda expert, x: x, stream=stream), stream=stream)
                stream.synchronize()
                if team.rank == 1:  # tokens 0 and 2 wanted experts of rank 0
                    self.assertEqual(group.flags()[:TOKENS].tolist(), [1, 0, 1])
            group.clear_record()
            return self.exchange(team, group)[0]

        self.assert_right(epgraph.launch(body, RANKS))

    def test_the_expert_map_can_be_changed(self):
        def body(team):
            group = make(team)
            group.expert_map()[:] = [3, 2, 1, 0]
            rows, _, _ = self.inputs(team.rank)
            ids = numpy.array([[0, -1]] * TOKENS, "i4")
            with team.device.stream() as stream:
                view = group.dispatch(rows, ids, stream=stream)
                out = group.combine(group.run_experts(view, lambda expert, x: x * numpy.float32(expert),
                                                      stream=stream), stream=stream)
                stream.synchronize()
            numpy.testing.assert_array_equal(out, rows * 3)
            self.assertEqual(group.stats()["pairs"], 1)

        epgraph.launch(body, RANKS)

    def test_arrays_that_do_not_fit_are_named(self):
        rows, ids, weights = self.inputs(0)
        readonly = numpy.zeros((TOKENS, HIDDEN), "f4")
        readonly.flags.writeable = False
        wrong = [
            (TypeError, "rows has elements of kind 'f8'", dict(rows=rows.astype("f8"))),
            (ValueError, r"rows has shape \(3, 4\), wanted \(any, 8\)", dict(rows=rows[:, :4].copy())),
            (ValueError, "rows is not contiguous", dict(rows=numpy.asfortranarray(rows))),
            (ValueError, "topk_ids has 2 rows, 3 are needed", dict(topk_ids=ids[:2])),
            (TypeError, "topk_weights has elements of kind 'f8'", dict(topk_weights=weights.astype("f8"))),
            (ValueError, "rows has 3 rows, 9 are needed", dict(bucket=9)),
            (ValueError, "mode is 'fast'", dict(mode="fast")),
            (TypeError, "tokens has elements of kind 'i8'", dict(tokens=numpy.array([1], "i8"))),
        ]

        def body(team):
            group = make(team)
            with team.device.stream() as stream:
                for kind, text, change in wrong:
                    with self.assertRaisesRegex(kind, text):
                        group.dispatch(**{**dict(rows=rows, topk_ids=ids, stream=stream), **change})
                group.dispatch(rows, ids, stream=stream)
                with self.assertRaisesRegex(ValueError, "out is read-only"):
                    group.combine(group.output(), readonly, stream=stream)
                with self.assertRaisesRegex(ValueError, "expert_rows has 1 rows"):
                    group.combine(rows[:1], stream=stream)
                group.abandon(stream=stream)

        epgraph.launch(body, 1)

    def test_a_failure_on_the_device_is_raised_by_check(self):
        def body(team):
            group = make(team)
            rows, ids, _ = self.inputs(0)
            ids[1, 1] = 77
            with team.device.stream() as stream:
                view = group.dispatch(rows, ids, stream=stream)
                group.combine(group.run_experts(view, lambda expert, x: x, stream=stream), stream=stream)
                stream.synchronize()
            with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_ROUTING.*77"):
                group.check()
            group.clear_record()
            group.check()

        epgraph.launch(body, 1)


if __name__ == "__main__":
    unittest.main()
