"""Memory handed out through DLPack and the array interfaces, and its owner's life."""
import ctypes
import gc
import unittest
import weakref

import epgraph
from epgraph import _dlpack

try:
    import numpy
except ImportError:
    numpy = None


class Owner:
    """Some memory of two rows of three floats."""

    def __init__(self):
        self.raw = (ctypes.c_float * 6)(*range(6))

    def memory(self, **more):
        return epgraph.Memory(ctypes.addressof(self.raw), (2, 3), "f4", None, self, **more)


class Capsules(unittest.TestCase):
    def test_what_is_handed_out_is_read_again(self):
        memory = Owner().memory(read_only=True)
        told = _dlpack.read(memory, None)
        self.assertEqual((told.address, told.shape, told.kind, told.device_type, told.read_only),
                         (memory.address, (2, 3), "f4", _dlpack.CPU, True))
        plain = _dlpack.Told(memory.capsule())
        self.assertEqual((plain.address, plain.read_only), (memory.address, False))
        self.assertEqual(repr(memory)[:23], "<epgraph.Memory f4 [2, ")

    def test_the_owner_lives_as_long_as_a_capsule(self):
        for versioned in (False, True):
            owner = Owner()
            alive, memory = weakref.ref(owner), owner.memory()
            capsule = memory.__dlpack__(max_version=(1, 0) if versioned else None)
            before = len(_dlpack._exports.out)
            del owner, memory
            gc.collect()
            self.assertIsNotNone(alive())
            del capsule
            gc.collect()
            self.assertIsNone(alive())
            self.assertEqual(len(_dlpack._exports.out), before - 1)

    def test_what_cannot_be(self):
        memory = Owner().memory()
        with self.assertRaisesRegex(BufferError, "without a copy"):
            memory.__dlpack__(copy=True)
        with self.assertRaisesRegex(BufferError, "device"):
            memory.__dlpack__(dl_device=(2, 0))
        self.assertFalse(hasattr(memory, "__cuda_array_interface__"))
        on_gpu = epgraph.Memory(4096, (3,), "bf16", 1, None)
        self.assertEqual(on_gpu.__dlpack_device__(), (2, 1))
        self.assertFalse(hasattr(on_gpu, "__array_interface__"))
        self.assertFalse(hasattr(on_gpu, "__cuda_array_interface__"))  # it has no name there
        counts = epgraph.Memory(4096, (3,), "u4", 1, None)
        self.assertEqual(counts.__cuda_array_interface__["data"], (4096, False))
        self.assertEqual(_dlpack.read(on_gpu, 64).kind, "bf16")

    @unittest.skipIf(numpy is None or not hasattr(numpy, "from_dlpack"), "numpy.from_dlpack is not there")
    def test_numpy_takes_it_and_lets_go(self):
        owner = Owner()
        alive = weakref.ref(owner)
        array = numpy.from_dlpack(owner.memory())
        self.assertEqual(array.tolist(), [[0, 1, 2], [3, 4, 5]])
        row = array[1]
        del owner, array
        gc.collect()
        self.assertEqual(row.tolist(), [3, 4, 5])
        del row
        gc.collect()
        self.assertIsNone(alive())
        self.assertEqual(numpy.asarray(Owner().memory()).shape, (2, 3))

    @unittest.skipIf(numpy is None, "numpy is not installed")
    def test_views_keep_their_group(self):
        with epgraph.Device() as device:
            team, = epgraph.teams(device, 1)
            group = epgraph.Group(team, experts=2, hidden=8, topk=1, max_tokens=4)
            alive, counts = weakref.ref(group), group.view().counts
            del group
            gc.collect()
            self.assertIsNotNone(alive())
            self.assertEqual(counts.tolist(), [0, 0])
            del counts
            gc.collect()
            self.assertIsNone(alive())


if __name__ == "__main__":
    unittest.main()
