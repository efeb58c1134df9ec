"""Dispatch and combine on a GPU, on PyTorch's and CuPy's tensors and on bare DLPack, against sums written out here."""
import gc
import os
import subprocess
import sys
import unittest

import epgraph
from gpu import cupy, torch, with_cupy, with_gpu, with_torch

RANKS, EXPERTS, HIDDEN, TOPK, TOKENS = 2, 4, 64, 2, 5
IDS = [[[0, 3], [2, 1], [3, -1], [1, 2], [-1, -1]], [[1, 0], [3, 2], [0, -1], [2, 0], [3, 1]]]
WEIGHTS = [[0.5, 0.5], [0.25, 0.75], [1.0, 0.0], [0.5, 0.25], [1.0, 1.0]]


def make(team, **options):
    return epgraph.Group(team, **{**dict(experts=EXPERTS, hidden=HIDDEN, topk=TOPK, max_tokens=TOKENS,
                                         row_type="bfloat16", timeout_ms=8000), **options})


def factor(rank, token):
    """Expert e multiplies by e + 1."""
    return sum(w * (e + 1) for e, w in zip(IDS[rank][token], WEIGHTS[token]) if e >= 0)


class Bare:
    """A tensor of which nothing but DLPack is known."""

    def __init__(self, of):
        self.of, self.streams = of, []

    def __dlpack__(self, *, stream=None, **options):
        self.streams.append(stream)
        return self.of.__dlpack__(stream=stream, **options)

    def __dlpack_device__(self):
        return self.of.__dlpack_device__()


class BareInterface:
    """One of which nothing but the CUDA array interface is known."""

    def __init__(self, of, typestr):
        self.held = of
        self.__cuda_array_interface__ = {"shape": tuple(of.shape), "typestr": typestr, "version": 3,
                                         "data": (of.data_ptr(), False), "stream": 1}


@with_gpu
class Gpu(unittest.TestCase):
    def setUp(self):
        self.device = epgraph.Device("cuda")
        self.addCleanup(self.device.close)

    def launch(self, body, ranks=RANKS):
        return epgraph.launch(body, ranks, device=self.device)

    def ready(self, team):
        """Inputs are made. The device is waited for before any rank's kernels wait for a peer's, and not after."""
        self.device.synchronize()
        team.barrier()


@with_torch
class Torch(Gpu):
    warm = False

    def setUp(self):
        super().setUp()
        # CUDA loads a kernel when it is first launched, and that may wait for kernels that run: with two ranks for one
        # that waits for a peer, who is behind the load. So all are loaded by one rank, which waits for nobody.
        if not Torch.warm:
            for layout in ("in_place", "contiguous", "masked"):
                self.launch(lambda team: self.exchange(team, make(team, layout=layout)), ranks=1)
            Torch.warm = True

    def inputs(self, rank):
        rows = torch.arange(TOKENS * HIDDEN, device="cuda").reshape(TOKENS, HIDDEN) % 32 + 4 * rank
        return (rows.to(torch.bfloat16), torch.tensor(IDS[rank], dtype=torch.int32, device="cuda"),
                torch.tensor(WEIGHTS, device="cuda"))

    def exchange(self, team, group, convert=lambda *a: a, **more):
        inputs = convert(*self.inputs(team.rank))
        stream = team.device.stream()
        self.ready(team)
        view = group.dispatch(*inputs, stream=stream, **more)
        outputs = group.output()
        with epgraph.scope(stream):
            self.experts_on(view, outputs)
        out = group.combine(outputs, stream=stream)
        stream.synchronize()
        group.check()
        return out, view

    def experts_on(self, view, outputs):
        read = [torch.from_dlpack(a) if not torch.is_tensor(a) else a
                for a in (view.rows, view.offsets, view.counts, outputs)]
        rows, offsets, counts, to = read
        if view.row_index is not None:
            index = view.row_index if torch.is_tensor(view.row_index) else torch.from_dlpack(view.row_index)
            rows = rows[index.long()]
        where = torch.arange(view.row_capacity, device="cuda")
        scale = torch.zeros(view.row_capacity, device="cuda")
        for local in range(view.local_experts):
            first = offsets[local].long()
            scale += ((where >= first) & (where < first + counts[local].long())) * float(view.first_expert + local + 1)
        to.copy_((rows.float() * scale[:, None]).to(torch.bfloat16))

    def assert_right(self, outs):
        for rank, out in enumerate(outs):
            rows = self.inputs(rank)[0]
            # Sums of a rank's share are exact in bfloat16 here, so one rounding is left.
            expected = torch.stack([rows[t].float() * factor(rank, t) for t in range(TOKENS)]).to(torch.bfloat16)
            self.assertTrue(torch.equal(out, expected), (out.float() - expected.float()).abs().max())

    def test_every_layout_and_mode(self):
        for layout in ("in_place", "contiguous", "masked"):
            for mode in ("ll", "ht"):
                with self.subTest(layout=layout, mode=mode):
                    outs = self.launch(lambda team: self.exchange(team, make(team, layout=layout), mode=mode)[0])
                    self.assertTrue(all(torch.is_tensor(out) and out.dtype == torch.bfloat16 for out in outs))
                    self.assert_right(outs)

    def test_views_are_the_groups_memory(self):
        def body(team):
            group = make(team)
            view = self.exchange(team, group)[1]
            self.assertEqual(view.rows.data_ptr(), group.view().rows.data_ptr())
            self.assertEqual((view.rows.dtype, view.rows.device.type), (torch.bfloat16, "cuda"))
            self.assertEqual(view.rows.shape, (2 * RANKS * TOKENS, HIDDEN))
            self.assertEqual((view.counts.dtype, view.row_weight.dtype), (torch.int32, torch.float32))
            expected = [(e, rank, token) for e in (view.first_expert, view.first_expert + 1) for rank in range(RANKS)
                        for token in range(TOKENS) if e in IDS[rank][token]]
            seen = []
            for local in range(view.local_experts):
                for p in range(view.offsets[local], view.offsets[local] + view.counts[local]):
                    seen.append((view.first_expert + local, int(view.row_source[p]), int(view.row_token[p])))
            self.assertEqual(seen, expected)
            self.assertEqual(int(view.total), len(expected))
            self.assertEqual(view.expert_rows(0).shape, (int(view.counts[0]), HIDDEN))

        self.launch(body)

    def test_int64_ids_a_count_and_a_stream_of_torch(self):
        def body(team):
            rows, ids, weights = self.inputs(team.rank)
            group, count = make(team), torch.tensor([3 - team.rank], dtype=torch.int32, device="cuda")
            stream = torch.cuda.Stream()
            ids = ids.long()
            self.ready(team)
            with torch.cuda.stream(stream):
                view = group.dispatch(rows, ids, weights, tokens=count, stream=stream)
                outputs = group.output()
                self.experts_on(view, outputs)
                out = group.combine(outputs, stream=stream)
            stream.synchronize()
            group.check()
            return out, rows

        for rank, (out, rows) in enumerate(self.launch(body)):
            live = 3 - rank
            self.assertFalse(out[live:].any())
            for token in range(live):
                self.assertTrue(torch.equal(out[token], (rows[token].float() * factor(rank, token)).to(out.dtype)))

    def test_bare_dlpack_and_bare_interface(self):
        def body(team):
            group = make(team)
            inputs = self.inputs(team.rank)
            stream = team.device.stream()
            self.ready(team)
            bare, ids = Bare(inputs[0]), BareInterface(inputs[1], "<i4")
            view = group.dispatch(bare, ids, Bare(inputs[2]), stream=stream)
            self.assertEqual(bare.streams, [stream.raw])
            outputs = group.output()
            self.assertIsInstance(outputs, epgraph.Memory)
            with epgraph.scope(stream):
                self.experts_on(view, outputs)
            out = group.combine(outputs, stream=stream)
            self.assertIsInstance(out, epgraph.Memory)
            stream.synchronize()
            if cupy is not None:
                self.assertEqual(cupy.from_dlpack(view.counts).tolist(), torch.from_dlpack(view.counts).tolist())
                self.assertEqual(cupy.asarray(view.counts).tolist(), torch.from_dlpack(view.counts).tolist())
            return torch.from_dlpack(out)

        self.assert_right(self.launch(body))

    def test_halves(self):
        def body(team):
            group, inputs = make(team), self.inputs(team.rank)
            stream, out = team.device.stream(), torch.full((TOKENS, HIDDEN), 7, dtype=torch.bfloat16, device="cuda")
            self.ready(team)
            group.dispatch_send(*inputs, stream=stream)
            view = group.dispatch_recv(stream=stream)
            outputs = group.output()
            with epgraph.scope(stream):
                self.experts_on(view, outputs)
            group.combine_send(outputs, stream=stream)
            self.assertIs(group.combine_recv(out, stream=stream), out)
            stream.synchronize()
            return out

        self.assert_right(self.launch(body))

    def test_no_tokens_at_all(self):
        def body(team):
            group, stream = make(team), team.device.stream()
            rows, ids, weights = (tensor[:0] if team.rank == 0 else tensor for tensor in self.inputs(team.rank))
            self.ready(team)
            view = group.dispatch(rows, ids, weights, stream=stream)
            outputs = group.output()
            with epgraph.scope(stream):
                self.experts_on(view, outputs)
            out = group.combine(outputs, stream=stream)
            stream.synchronize()
            group.check()
            self.assertEqual(out.shape, rows.shape)
            for token in range(len(rows)):
                expected = (rows[token].float() * factor(1, token)).to(out.dtype)
                self.assertTrue(torch.equal(out[token], expected))

        self.launch(body)

    def test_float32_rows(self):
        def body(team):
            group, stream = make(team, row_type="float32", layout="contiguous"), team.device.stream()
            rows = torch.rand(TOKENS, HIDDEN, device="cuda")
            ids = torch.tensor([[t % EXPERTS, -1] for t in range(TOKENS)], device="cuda")
            self.ready(team)
            view = group.dispatch(rows, ids, stream=stream)
            out = group.combine(view.rows, stream=stream)   # experts that hand back what they get
            stream.synchronize()
            group.check()
            self.assertTrue(torch.equal(out, rows))

        self.launch(body)

    def test_closing_a_group_leaves_other_captures_alone(self):
        def body(team):
            group, x = make(team), torch.ones(8, device="cuda")
            stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                view = group.dispatch(*self.inputs(0), stream=stream)
                group.combine(view.rows[:view.row_capacity], stream=stream)
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                x.add_(1)
                group._used.wait()  # what closing it does before CUDA frees its memory
            graph.replay()
            torch.cuda.synchronize()
            self.assertEqual(x[0].item(), 2)

        self.launch(body, ranks=1)

    def test_captured_by_torch_cuda_graph(self):
        """Without the runner: an engine's own capture, on its own stream."""
        def body(team):
            group, out = make(team), torch.zeros(TOKENS, HIDDEN, dtype=torch.bfloat16, device="cuda")
            rows, ids, weights = self.inputs(0)

            def step():
                view = group.dispatch(rows, ids, weights, stream=torch.cuda.current_stream())
                outputs = group.output()
                self.experts_on(view, outputs)
                group.combine(outputs, out, stream=torch.cuda.current_stream())

            step()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            for add in (1, 2):
                rows.add_(add)
                out.zero_()
                graph.replay()
                torch.cuda.synchronize()
                group.check()
                expected = torch.stack([rows[t].float() * factor(0, t) for t in range(TOKENS)])
                self.assertTrue(torch.allclose(out.float(), expected, rtol=1 / 128))
            self.assertEqual(group.stats()["pairs"], 3)
            del graph

        self.launch(body, ranks=1)

    def test_the_expert_map_is_torch_memory(self):
        def body(team):
            group = make(team)
            rows, _, _ = self.inputs(team.rank)
            stream = team.device.stream()
            ids = torch.tensor([[0, -1]] * TOKENS, dtype=torch.int32, device="cuda")
            group.expert_map(like=rows).copy_(torch.tensor([3, 2, 1, 0], dtype=torch.int32, device="cuda"))
            self.ready(team)
            with epgraph.scope(stream):
                view = group.dispatch(rows, ids, stream=stream)
                outputs = group.output()
                self.experts_on(view, outputs)
                out = group.combine(outputs, stream=stream)
            stream.synchronize()
            self.assertTrue(torch.equal(out.float(), rows.float() * 4))
            self.assertFalse(group.flags().any())

        self.launch(body)

    def test_views_outlive_their_names(self):
        with epgraph.Device("cuda") as device:
            team, = epgraph.teams(device, 1)
            group = make(team)
            view = group.view()
            counts = torch.from_dlpack(view.counts)
            at = counts.data_ptr()
            del group, view
            gc.collect()
            self.assertEqual(counts.sum().item(), 0)
            self.assertEqual(counts.data_ptr(), at)
            del counts
            gc.collect()

    def test_experts_with_weights_of_torch(self):
        inner = 96

        def weights(expert):
            random = torch.Generator("cuda").manual_seed(expert)
            return [(torch.randn(shape, generator=random, device="cuda") / shape[1] ** 0.5).to(torch.bfloat16)
                    for shape in ((2 * inner, HIDDEN), (HIDDEN, inner))]

        def body(team):
            group, stream, local = make(team, layout="in_place"), team.device.stream(), EXPERTS // team.size
            experts = epgraph.Experts(team.device, local_experts=local, hidden=HIDDEN, intermediate=inner)
            mine = [weights(team.rank * local + e) for e in range(local)]
            gate_up, down = (torch.stack([pair[part] for pair in mine]) for part in (0, 1))
            random = torch.Generator("cuda").manual_seed(100 + team.rank)
            rows = torch.randn(TOKENS, HIDDEN, generator=random, device="cuda").to(torch.bfloat16)
            ids = torch.tensor(IDS[team.rank], dtype=torch.int32, device="cuda")
            share = torch.tensor(WEIGHTS, device="cuda")
            self.ready(team)
            view = group.dispatch(rows, ids, share, stream=stream)
            out = group.combine(experts.run(view, gate_up, down, stream=stream), stream=stream)
            stream.synchronize()
            group.check()
            with self.assertRaisesRegex(TypeError, "down has elements of kind 'f4'"):
                experts.run(view, gate_up, down.float(), stream=stream)
            expected = torch.zeros(TOKENS, HIDDEN, device="cuda")
            for token in range(TOKENS):
                for e, w in zip(IDS[team.rank][token], WEIGHTS[token]):
                    if e >= 0:
                        up, to = (each.float() for each in weights(e))
                        both = up @ rows[token].float()
                        expected[token] += w * (to @ (torch.nn.functional.silu(both[:inner]) * both[inner:]))
            experts.close()
            return (out.float() - expected).abs().max().item(), expected.abs().max().item()

        self.launch(body, ranks=1)
        for worst, most in self.launch(body):
            self.assertLess(worst, 0.02 * most)

    def test_fp8_rows_and_scales_are_torch_memory(self):
        def body(team):
            group = make(team, row_type="float8_e4m3", hidden=256, layout="contiguous", scale_layout="column_major")
            stream = team.device.stream()
            rows = (torch.arange(TOKENS * 256, device="cuda").reshape(TOKENS, 256) % 200 - 100).to(torch.bfloat16)
            ids = torch.tensor([[2 * team.rank, -1]] * TOKENS, dtype=torch.int32, device="cuda")    # to itself
            self.ready(team)
            view = group.dispatch(rows, ids, stream=stream)
            group.combine(group.output(), stream=stream)
            stream.synchronize()
            group.check()
            self.assertEqual((view.rows.dtype, view.scales.dtype), (torch.float8_e4m3fn, torch.float32))
            self.assertEqual(view.scales.shape, (view.row_capacity, 2))
            read = view.rows[:TOKENS].float().reshape(TOKENS, 2, 128) * view.scales[:TOKENS, :, None]
            self.assertTrue(torch.allclose(read.reshape(TOKENS, 256), rows.float(), rtol=0.07, atol=0.2))
            # Sent as they came, they arrive as they were sent.
            sent, scales = view.rows[:TOKENS].clone(), view.scales[:TOKENS].contiguous()
            self.ready(team)
            again = group.dispatch(sent, ids, scales=scales, stream=stream)
            group.combine(group.output(), stream=stream)
            stream.synchronize()
            self.assertTrue(torch.equal(again.rows[:TOKENS].view(torch.uint8), sent.view(torch.uint8)))
            self.assertTrue(torch.equal(again.scales[:TOKENS], scales))

        try:
            self.launch(body, ranks=1)
        except epgraph.Error as error:
            if error.name != "EPG_ERR_UNSUPPORTED":
                raise
            self.skipTest(error.message)
        self.launch(body)

    def test_tensors_that_do_not_fit_are_named(self):
        rows, ids, weights = self.inputs(0)
        odd = torch.zeros(TOKENS * HIDDEN + 8, dtype=torch.bfloat16, device="cuda")[1:TOKENS * HIDDEN + 1]
        wrong = [
            (TypeError, "rows has elements of kind 'f4'", dict(rows=rows.float())),
            (TypeError, "rows is on the CPU.*cuda:0", dict(rows=rows.cpu())),
            (ValueError, r"rows has shape \(5, 32\), wanted \(any, 64\)", dict(rows=rows[:, :32].contiguous())),
            (ValueError, "rows is not contiguous.*strides", dict(rows=rows.t().contiguous().t())),
            (ValueError, "rows begins at 0x[0-9a-f]*2, which is not a multiple of 16",
             dict(rows=odd.reshape(TOKENS, HIDDEN))),
            (ValueError, "rows requires grad.*detach", dict(rows=rows.clone().requires_grad_())),
            (ValueError, "topk_ids has 2 rows, 5 are needed", dict(topk_ids=ids[:2])),
            (TypeError, "topk_ids has elements of kind 'f4'", dict(topk_ids=weights)),
            (TypeError, "tokens has elements of kind 'i8'", dict(tokens=torch.tensor([1], device="cuda"))),
            (ValueError, "tokens is 9, outside 0..5", dict(tokens=9)),
            (TypeError, "stream is a str", dict(stream="s")),
        ]

        def body(team):
            group, stream = make(team), team.device.stream()
            for kind, text, change in wrong:
                with self.assertRaisesRegex(kind, text):
                    group.dispatch(**{**dict(rows=rows, topk_ids=ids, stream=stream), **change})
            with torch.no_grad():
                group.dispatch(rows.clone().requires_grad_(), ids, stream=stream)
            with self.assertRaisesRegex(ValueError, "host device"):
                group.run_experts(group.view(), lambda e, x: x, stream=stream)
            with self.assertRaisesRegex(ValueError, "expert_rows has 5 rows"):
                group.combine(rows, stream=stream)
            group.abandon(stream=stream)

        self.launch(body, ranks=1)

    def test_at_the_interpreters_end_views_are_let_go_in_peace(self):
        program = ("import epgraph, torch\nd = epgraph.Device('cuda')\nt, = epgraph.teams(d, 1)\n"
                   "g = epgraph.Group(t, experts=2, hidden=8, topk=1, max_tokens=4, row_type='bfloat16')\n"
                   "v = torch.from_dlpack(g.view().counts)\nimport builtins\nbuiltins.kept = v, [g, d]\n"
                   "kept[1].append(kept[1])\nprint(v.sum().item())")
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120,
                             env=dict(os.environ))
        self.assertEqual((ran.returncode, ran.stdout, ran.stderr), (0, "0\n", ""))


@with_cupy
class Cupy(Gpu):
    def test_cupy_in_cupy_out(self):
        def body(team):
            ml_dtypes = __import__("ml_dtypes")
            group, stream = make(team, layout="contiguous"), team.device.stream()
            rows = ((cupy.arange(TOKENS * HIDDEN).reshape(TOKENS, HIDDEN) % 32) + team.rank).astype(ml_dtypes.bfloat16)
            ids = cupy.array([[t % EXPERTS, -1] for t in range(TOKENS)], "i4")
            self.ready(team)
            view = group.dispatch(rows, ids, stream=stream)
            self.assertIsInstance(view.rows, cupy.ndarray)
            self.assertEqual((view.rows.dtype.name, view.counts.dtype.name), ("bfloat16", "uint32"))
            outputs = group.output()
            stream.synchronize()
            end = int(view.offsets[view.local_experts])
            with cupy.cuda.Stream.from_external(stream):
                outputs[:end] = view.rows[:end]
            out = group.combine(outputs, stream=stream)
            stream.synchronize()
            group.check()
            self.assertIsInstance(out, cupy.ndarray)
            self.assertTrue((out.view("u2") == rows.view("u2")).all())

        self.launch(body, ranks=1)      # loads the kernels, see above
        self.launch(body)

    def test_a_cupy_stream_and_uint16_rows(self):
        def body(team):
            group, stream = make(team), cupy.cuda.Stream(non_blocking=True)
            rows = (cupy.arange(TOKENS * HIDDEN) + 0x3F80).astype("u2").reshape(TOKENS, HIDDEN)
            ids = cupy.array([[0, -1]] * TOKENS, "i8")
            self.ready(team)
            with stream:
                view = group.dispatch(rows, ids, stream=stream)
                outputs = group.output()
                if view.first_expert == 0:
                    outputs.view("u2")[:] = view.rows.view("u2")[view.row_index]
                out = group.combine(outputs, stream=stream)
            stream.synchronize()
            group.check()
            self.assertTrue((out.view("u2") == rows).all())

        self.launch(body, ranks=1)
        self.launch(body)


class Jax(Gpu):
    def test_jax_arrays_are_read(self):
        try:
            jax = __import__("jax")
            jax.devices("cuda")
        except Exception as error:
            self.skipTest(f"JAX has no GPU here: {error}")
        numpy = jax.numpy

        def body(team):
            group, stream = make(team, layout="contiguous"), team.device.stream()
            rows = (numpy.arange(TOKENS * HIDDEN).reshape(TOKENS, HIDDEN) % 32 + team.rank).astype(numpy.bfloat16)
            ids = numpy.array([[2 * team.rank, -1]] * TOKENS, "int32")      # to itself
            view = group.dispatch(rows, ids, stream=stream)
            outputs = group.output()
            stream.synchronize()
            self.assertIsInstance(view.rows, epgraph.Memory)
            self.assertTrue((numpy.from_dlpack(view.rows)[:TOKENS] == rows).all())
            out = group.combine(outputs, stream=stream)
            stream.synchronize()
            group.check()
            self.assertEqual(numpy.from_dlpack(out).shape, (TOKENS, HIDDEN))
            with self.assertRaisesRegex(ValueError, "out is read-only"):
                group.dispatch(rows, ids, stream=stream)
                group.combine(outputs, rows, stream=stream)
            group.abandon(stream=stream)

        self.launch(body, ranks=1)


if __name__ == "__main__":
    unittest.main()
