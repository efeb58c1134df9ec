"""Scopes with the real PyTorch and CuPy."""
import unittest

import epgraph
from gpu import cupy, torch, with_cupy, with_gpu, with_torch


@with_gpu
class Gpu(unittest.TestCase):
    def setUp(self):
        self.device = epgraph.Device("cuda")
        self.addCleanup(self.device.close)

    def state(self, entered, name):
        return {line.name: line for line in entered.report}[name]

    @with_torch
    def test_torch_follows_and_has_its_pool_stream_back(self):
        pool, mine = torch.cuda.Stream(), self.device.stream()
        with torch.cuda.stream(pool):
            with epgraph.scope(mine) as entered:
                self.assertEqual(self.state(entered, "PyTorch").state, "set")
                self.assertEqual(torch.cuda.current_stream().cuda_stream, mine.raw)
                with epgraph.scope(pool):
                    self.assertEqual(torch.cuda.current_stream().cuda_stream, pool.cuda_stream)
                self.assertEqual(torch.cuda.current_stream().cuda_stream, mine.raw)
            self.assertEqual(torch.cuda.current_stream(), pool)
        self.assertEqual(torch.cuda.current_stream().cuda_stream, 0)

    @with_torch
    def test_torch_takes_our_stream(self):
        mine = self.device.stream()
        x = torch.ones(4, device="cuda")
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.ExternalStream(mine.raw)):
            x += 1
        mine.synchronize()
        self.assertEqual(x.tolist(), [2, 2, 2, 2])

    @with_torch
    def test_torch_is_shown_to_follow(self):
        epgraph.verify_scope("torch", device=self.device)

    @with_torch
    def test_a_stream_that_was_cached_is_found(self):
        cached, x = torch.cuda.Stream(), torch.ones(4, device="cuda")

        def stubborn():
            with torch.cuda.stream(cached):
                x.add_(1)

        stubborn()
        torch.cuda.synchronize()
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_ESCAPED"):
            epgraph.verify_scope(stubborn, device=self.device)

    @with_cupy
    def test_cupy_is_set_or_its_reason_is_told(self):
        mine = self.device.stream()
        with epgraph.scope(mine, best_effort=True) as entered:
            told = self.state(entered, "CuPy")
            if told.state == "set":
                self.assertEqual(cupy.cuda.get_current_stream().ptr, mine.raw)
            else:
                self.assertTrue(told.reason)
        self.assertEqual(cupy.cuda.get_current_stream().ptr, 0)
        if told.state == "set":
            epgraph.verify_scope("cupy", device=self.device)

    @with_cupy
    def test_cupy_takes_our_stream(self):
        if not hasattr(cupy.cuda.Stream, "from_external"):
            self.skipTest(f"CuPy {cupy.__version__} has no Stream.from_external")
        mine = self.device.stream()
        with cupy.cuda.Stream.from_external(mine):
            x = cupy.ones(4, dtype="f4") + 1
        mine.synchronize()
        self.assertEqual(x.tolist(), [2, 2, 2, 2])


if __name__ == "__main__":
    unittest.main()
