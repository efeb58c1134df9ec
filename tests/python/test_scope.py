"""Scopes: handles of all kinds of stream objects, a runtime of the caller's set and put back, and a library that does
not follow found. With PyTorch and CuPy where there is a GPU: test_scope_gpu.py."""
import threading
import unittest

import epgraph
from epgraph._foreign import stream_handle, stream_ordinal


class Follower(epgraph.ForeignRuntime):
    """A library with one current stream per thread."""

    name = "follower"

    def __init__(self, stream=0):
        self.local, self.default = threading.local(), stream
        self.ill = ""

    def get(self, ordinal):
        return getattr(self.local, "stream", self.default)

    def set(self, ordinal, stream):
        if self.ill == "set":
            raise LookupError("no such place")
        before, self.local.stream = self.get(ordinal), stream
        return before

    def restore(self, ordinal, before):
        if self.ill == "restore":
            raise KeyError("lost")
        self.local.stream = before


class Handles(unittest.TestCase):
    def test_every_kind_of_stream(self):
        class Protocol:
            def __cuda_stream__(self):
                return 0, 64

        class Torch:
            cuda_stream = 66
            device = type("device", (), {"index": 1})

        class Cupy:
            ptr, device_id = 68, 2

        self.assertEqual([stream_handle(s) for s in (Protocol(), Torch(), Cupy(), 70)], [64, 66, 68, 70])
        self.assertEqual([stream_ordinal(s) for s in (Protocol(), Torch(), Cupy(), 70)], [None, 1, 2, None])

    def test_what_is_none(self):
        class Later:
            def __cuda_stream__(self):
                return 7, 64

        for stream, told in ((None, "stream is a NoneType"), ("s", "is a str"), (True, "is a bool"),
                             (Later(), "version 7")):
            with self.assertRaisesRegex(TypeError, told):
                epgraph.scope(stream)

    def test_a_host_stream_is_no_cuda_stream(self):
        with epgraph.Device() as device, device.stream() as stream:
            with self.assertRaisesRegex(TypeError, "host device"):
                stream.__cuda_stream__()
            self.assertEqual(stream_handle(stream), stream.raw)


class Scopes(unittest.TestCase):
    def setUp(self):
        self.runtime = Follower()
        self.table = epgraph.ScopeTable(runtimes=[self.runtime])
        self.addCleanup(self.table.close)

    def state(self, scope):
        return {line.name: line for line in scope.report}["follower"]

    def test_set_and_put_back(self):
        with epgraph.scope(64, table=self.table) as outer:
            self.assertEqual(self.runtime.get(0), 64)
            self.assertEqual(self.state(outer).state, "set")
            self.assertEqual(str(self.state(outer)), "follower: set")
            with epgraph.scope(66, table=self.table):
                self.assertEqual(self.runtime.get(0), 66)
            self.assertEqual(self.runtime.get(0), 64)
            self.runtime.local.stream = 70
        self.assertEqual(self.runtime.get(0), 0)

    def test_its_stream_lives_as_long_as_it(self):
        with epgraph.Device() as device, epgraph.scope(device.stream(), table=self.table) as entered:
            self.assertEqual(self.runtime.get(0), entered.stream)
            self.assertFalse(entered._source.closed)

    def test_put_back_after_an_exception(self):
        with self.assertRaises(ZeroDivisionError):
            with epgraph.scope(64, table=self.table):
                1 // 0
        self.assertEqual(self.runtime.get(0), 0)

    def test_absent_runtimes_are_reported(self):
        with epgraph.scope(64) as entered:
            states = {line.name: line.state for line in entered.report}
        self.assertLessEqual({"PyTorch", "TVM-FFI", "CuPy", "Paddle"}, set(states))
        with self.assertRaisesRegex(ValueError, "entered already"), epgraph.scope(64, best_effort=True) as entered:
            entered.__enter__()

    def test_made_once(self):
        entered = epgraph.scope(64, table=self.table)
        for _ in range(3):
            with entered:
                self.assertEqual(self.runtime.get(0), 64)
                self.assertEqual(self.state(entered).state, "set")
            self.assertEqual(self.runtime.get(0), 0)
        with self.assertRaisesRegex(ValueError, "not entered"):
            entered.__exit__()
        self.runtime.ill = "set"
        with self.assertRaises(epgraph.Error), entered:
            self.fail("entered")
        self.assertEqual(self.state(entered).state, "unsupported")
        with self.assertRaisesRegex(ValueError, "not entered"):
            entered.__exit__()
        self.runtime.ill = "restore"
        with self.assertRaises(epgraph.Error), entered:
            pass
        with self.assertRaisesRegex(ValueError, "not entered"):
            entered.__exit__()
        self.runtime.ill = ""
        with entered:
            self.assertEqual(self.state(entered).state, "set")

    def test_one_scope_in_two_threads(self):
        entered, inside, leave = epgraph.scope(64, table=self.table), threading.Event(), threading.Event()

        def enter():
            with entered:
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=enter)
        thread.start()
        self.assertTrue(inside.wait(10))
        with self.assertRaisesRegex(ValueError, "entered already"):
            entered.__enter__()
        leave.set()
        thread.join()
        with entered:
            self.assertEqual(self.state(entered).state, "set")

    def test_a_runtime_that_cannot_be_set(self):
        self.runtime.ill = "set"
        entered = epgraph.scope(64, table=self.table)
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_UNSUPPORTED.*follower") as caught:
            entered.__enter__()
        self.assertIsInstance(caught.exception.__cause__, LookupError)
        self.assertEqual(self.state(entered).state, "unsupported")
        self.assertIn("set gave", str(self.state(entered)))
        with epgraph.ScopeTable(best_effort=True, runtimes=[self.runtime]) as table, \
                epgraph.scope(64, table=table) as entered:
            self.assertEqual(self.state(entered).state, "unsupported")

    def test_a_runtime_that_lies(self):
        self.runtime.set = lambda ordinal, stream: 0
        with self.assertRaisesRegex(epgraph.Error, "follower: reads back.*after set"):
            epgraph.scope(64, table=self.table).__enter__()

    def test_a_runtime_that_does_not_take_back(self):
        with self.assertRaisesRegex(epgraph.Error, "follower: restore") as caught:
            with epgraph.scope(64, table=self.table):
                self.runtime.ill = "restore"
        self.assertIsInstance(caught.exception.__cause__, KeyError)

    def test_out_of_order(self):
        outer, inner = epgraph.scope(64, table=self.table), epgraph.scope(66, table=self.table)
        outer.__enter__(), inner.__enter__()
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_STATE.*inside"):
            outer.__exit__(None, None, None)
        with self.assertRaises(epgraph.Error) as caught:
            self.on_another_thread(lambda: inner.__exit__(None, None, None))
        self.assertIn("another thread", caught.exception.message)
        inner.__exit__(None, None, None), outer.__exit__(None, None, None)
        self.assertEqual(self.runtime.get(0), 0)

    @staticmethod
    def on_another_thread(function):
        raised = []

        def body():
            try:
                function()
            except BaseException as error:
                raised.append(error)

        thread = threading.Thread(target=body)
        thread.start(), thread.join()
        if raised:
            raise raised[0]

    def test_out_of_order_across_tables(self):
        with epgraph.ScopeTable(runtimes=[self.runtime]) as table:
            outer, inner = epgraph.scope(64, table=self.table), epgraph.scope(66, table=table)
            outer.__enter__(), inner.__enter__()
            with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_STATE.*inside"):
                outer.__exit__(None, None, None)
            inner.__exit__(None, None, None), outer.__exit__(None, None, None)
            self.assertEqual(self.runtime.get(0), 0)

    def test_a_scope_per_thread(self):
        with epgraph.scope(64, table=self.table):
            self.on_another_thread(lambda: self.assertEqual(self.runtime.get(0), 0))
            with epgraph.scope(66, table=self.table):
                self.assertEqual(self.runtime.get(0), 66)

    def test_bad_arguments(self):
        with self.assertRaisesRegex(epgraph.Error, "ordinal is 128"):
            epgraph.scope(64, ordinal=128).__enter__()
        with self.assertRaisesRegex(epgraph.Error, "odd"):
            epgraph.scope(65).__enter__()
        with self.assertRaisesRegex(ValueError, "best_effort"):
            epgraph.scope(64, best_effort=True, table=self.table)
        closed = epgraph.ScopeTable()
        closed.close()
        with self.assertRaisesRegex(ValueError, "ScopeTable is closed"):
            epgraph.scope(64, table=closed).__enter__()
        nameless = Follower()
        nameless.name = ""
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_INVALID.*name"):
            epgraph.ScopeTable(runtimes=[nameless])


class Verify(unittest.TestCase):
    """A library on the host device, whose operation is a host function."""

    def setUp(self):
        self.device = epgraph.Device()
        self.addCleanup(self.device.close)
        self.fallback = self.device.stream()
        self.runtime = Follower(self.fallback.raw)
        self.table = epgraph.ScopeTable(runtimes=[self.runtime])
        self.addCleanup(self.table.close)
        self.ran = []

    def operation(self, stream):
        of_the_library = epgraph.Stream._borrowed(self.device, stream, [], self.fallback._failures)
        of_the_library.host_func(lambda: self.ran.append(1))
        self.kept = of_the_library

    def verify(self, operation):
        epgraph.verify_scope(operation, device=self.device, table=self.table)

    def test_a_library_that_follows(self):
        self.verify(lambda: self.operation(self.runtime.get(0)))
        self.device.synchronize()
        self.assertEqual(self.ran, [])
        self.assertEqual(self.runtime.get(0), self.fallback.raw)

    def test_a_library_that_keeps_its_stream_is_found(self):
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_ESCAPED"):
            self.verify(lambda: self.operation(self.fallback.raw))
        self.device.synchronize()
        self.assertEqual(self.ran, [1])

    def test_an_exception_reaches_the_caller(self):
        with self.assertRaisesRegex(OSError, "mine"):
            self.verify(lambda: (_ for _ in ()).throw(OSError("mine")))
        self.verify(lambda: self.operation(self.runtime.get(0)))

    def test_names(self):
        with self.assertRaisesRegex(ValueError, "'jax'"):
            self.verify("jax")
        with self.assertRaisesRegex(ValueError, "needs a CUDA device"):
            self.verify("torch")


if __name__ == "__main__":
    unittest.main()
