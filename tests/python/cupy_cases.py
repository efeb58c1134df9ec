"""Scopes with a CuPy that stands in for the real one. test_scope_cupy.py runs them in a process of their own, because
its library, once loaded, stays."""
import ctypes as c
import sys
import threading
import unittest
import weakref

import epgraph
import standin_cupy
from epgraph._library import lib

S1, S2, S3 = 0x1000, 0x2000, 0x3000


def line(entered, name="CuPy"):
    return {each.name: each for each in entered.report}[name]


class Cupy(unittest.TestCase):
    version, reader = 14, True

    def setUp(self):
        self.cuda = standin_cupy.install(self.version, self.reader)
        self.addCleanup(standin_cupy.remove)
        self.null = self.cuda.Stream.null
        self.now = self.cuda.get_current_stream

    def tearDown(self):
        standin_cupy.faults.clear()
        for gpu in range(standin_cupy.GPUS):
            self.assertIs(self.now(gpu), self.null)
            self.assertEqual(len(standin_cupy.state.stacks[gpu]), 1)
            self.assertEqual(standin_cupy.state.handles[gpu], 0)
        self.assertEqual(standin_cupy.state.device, 0)

    def external(self, ptr):
        return standin_cupy.ExternalStream(ptr, 0)

    def test_set_and_put_back(self):
        with epgraph.scope(S1) as entered:
            self.assertEqual(line(entered).state, "set")
            self.assertEqual(self.now().ptr, S1)
            self.assertEqual(standin_cupy.state.handles, [S1, 0])
            with epgraph.scope(0):
                self.assertIs(self.now(), self.null)
                with epgraph.scope(S2):
                    self.assertEqual(self.now().ptr, S2)
            self.assertEqual(self.now().ptr, S1)

    def test_what_is_entered_inside_falls_back_to_the_scope(self):
        with epgraph.scope(S1):
            with self.external(S2):
                self.assertEqual(self.now().ptr, S2)
            self.assertEqual(self.now().ptr, S1)

    def test_what_was_there_comes_back_as_itself(self):
        outer, used = self.external(S2), self.external(S3)
        with outer:
            with epgraph.scope(S1):
                pass
            self.assertIs(self.now(), outer)
            used.use()                      # the stack knows nothing of it
            with epgraph.scope(S1):
                self.external(S2).use()     # nor of this, which does not outlive the scope
            self.assertIs(self.now(), used)
            self.assertEqual(standin_cupy.state.handles[0], S3)

    def test_after_an_exception(self):
        with self.assertRaises(KeyError):
            with epgraph.scope(S1):
                with self.external(S2):
                    raise KeyError

    def test_an_exception_in_flight_stays(self):
        try:
            raise KeyError("in flight")
        except KeyError:
            with epgraph.scope(S1):
                self.assertIs(sys.exc_info()[0], KeyError)
            self.assertIs(sys.exc_info()[0], KeyError)

    def test_another_gpu_than_the_threads(self):
        with epgraph.scope(S1, ordinal=1):
            self.assertEqual(standin_cupy.state.device, 0)
            self.assertEqual((self.now(0).ptr, self.now(1).ptr), (0, S1))
            standin_cupy.state.device = 1   # the code inside may change it
            with epgraph.scope(S2, ordinal=0):
                self.assertEqual((self.now(0).ptr, self.now(1).ptr), (S2, S1))
            self.assertEqual(standin_cupy.state.device, 1)
            standin_cupy.state.device = 0

    def refused(self, reason, **how):
        with self.assertRaisesRegex(epgraph.Error, "EPG_ERR_UNSUPPORTED: CuPy: " + reason):
            with epgraph.scope(S1, **how):
                self.fail("entered")
        with epgraph.scope(S1, best_effort=True, **how) as entered:
            self.assertEqual(line(entered).state, "unsupported")
            self.assertRegex(line(entered).reason, reason)
            self.assertEqual(self.now().ptr, 0)

    def test_what_it_raises_is_the_reason(self):
        standin_cupy.faults["set"] = "raise"
        # The stack was pushed before the set failed, as CuPy's is.
        try:
            self.refused("the stand-in sets no stream")
        finally:
            standin_cupy.faults.clear()
            del standin_cupy.state.stacks[0][1:], standin_cupy.state.entered_on[:]

    def test_a_set_that_does_nothing_is_noticed(self):
        standin_cupy.faults["set"] = "ignore"
        self.refused("reads back stream 0x0 after 0x1000 was set|reads back stream 0 after 0x1000 was set")

    def test_a_gpu_that_it_has_not(self):
        self.refused("invalid device ordinal 2", ordinal=2)

    def test_what_is_not_imported_cannot_be_set(self):
        del sys.modules["cupy.cuda"]
        self.refused("loaded, and the module cupy.cuda is not imported")

    def test_a_leave_that_fails_is_told(self):
        with self.assertRaisesRegex(epgraph.Error, "CuPy: the stand-in sets no stream"):
            with epgraph.scope(S1):
                standin_cupy.faults["set"] = "raise"
        standin_cupy.faults.clear()
        self.null.use()

    def test_a_scope_per_thread(self):
        wrong = []

        def visit(number):
            mine = self.external(0x10000 * number)
            mine.use()
            for i in range(50):
                with epgraph.scope(0x10000 * number + 0x1000):
                    with epgraph.scope(0x10000 * number + 0x2000):
                        wrong.extend([i] * (self.now().ptr != 0x10000 * number + 0x2000))
                    wrong.extend([i] * (self.now().ptr != 0x10000 * number + 0x1000))
                wrong.extend([i] * (self.now() is not mine))

        threads = [threading.Thread(target=visit, args=(number,)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])


class CupyBefore14(Cupy):
    version = 13


class CupyWithoutReader(Cupy):
    reader = False


class Launches(unittest.TestCase):
    """What only the C interface tells: the object says one stream, launches go to another."""

    def test_it_is_noticed(self):
        cuda = standin_cupy.install()
        self.addCleanup(standin_cupy.remove)
        standin_cupy.faults["set"] = "only the object"
        with self.assertRaisesRegex(epgraph.Error, "CuPy: would launch on 0(x0)? after 0x1000 was set"):
            with epgraph.scope(S1):
                self.fail("entered")
        self.assertIs(cuda.get_current_stream(), cuda.Stream.null)


class Strangers(unittest.TestCase):
    """A thread that Python did not make: what is set for it lasts until the scope is left, and its state no longer."""

    def test_the_stream_lasts(self):
        standin_cupy.install()
        self.addCleanup(standin_cupy.remove)
        pthread = c.CDLL(None)
        body = c.CFUNCTYPE(c.c_void_p, c.c_void_p)
        seen, own, kept, marks = [], threading.local(), [], []

        class Mark:
            pass

        # Each call of `visit` from this thread's C is an Ensure and a Release of ctypes' own.
        def visit(_):
            seen.append(standin_cupy.get_current_stream().ptr)
            kept.append(bool(marks and marks[0]() is not None))
            if len(seen) == 2:
                own.mark = Mark()           # goes when Python forgets the thread
                marks.append(weakref.ref(own.mark))
            return None

        visit_c = body(visit)
        helper = c.CDLL(str(standin_cupy.LIBRARY.parents[2] / "libstranger.so"))
        table, results = epgraph.ScopeTable(), (c.c_int * 4)()
        self.addCleanup(table.close)
        address = {name: c.cast(getattr(lib, name), c.c_void_p) for name in ("epg_scope_enter", "epg_scope_leave")}
        thread = c.c_ulong()

        class Plan(c.Structure):
            _fields_ = [("enter", c.c_void_p), ("leave", c.c_void_p), ("table", c.c_void_p), ("visit", c.c_void_p),
                        ("streams", c.c_void_p * 2), ("results", c.c_int * 4)]

        plan = Plan(address["epg_scope_enter"], address["epg_scope_leave"], table.raw, c.cast(visit_c, c.c_void_p),
                    (c.c_void_p * 2)(S1, S2), results)
        run = c.cast(helper.standin_stranger, c.c_void_p)
        self.assertEqual(pthread.pthread_create(c.byref(thread), None, run, c.byref(plan)), 0)
        self.assertEqual(pthread.pthread_join(thread, None), 0)
        self.assertEqual(list(plan.results), [0, 0, 0, 0])
        self.assertEqual(seen, [0, S1, S2, S1, 0])
        self.assertEqual(kept, [False, False, True, True, False])


if __name__ == "__main__":
    unittest.main()
