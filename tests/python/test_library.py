"""Finding the library, errors, devices, streams, and `python -m epgraph`."""
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import epgraph
from epgraph import _library

PACKAGE = Path(epgraph.__file__).resolve().parent


def python(*arguments, **environment):
    full = {**os.environ, **environment}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60,
                          env={name: value for name, value in full.items() if value is not None})


class Finding(unittest.TestCase):
    def test_the_environment_names_the_only_file_tried(self):
        ran = python("-c", "import epgraph", EPGRAPH_LIBRARY="/nowhere/libepgraph.so")
        self.assertEqual(ran.returncode, 1)
        self.assertIn("/nowhere/libepgraph.so: cannot open", ran.stderr)
        self.assertNotIn(str(PACKAGE / _library.SONAME), ran.stderr)

    def test_what_was_tried_is_told(self):
        ran = python("-c", "import epgraph", EPGRAPH_LIBRARY=None)
        if ran.returncode == 0:
            self.skipTest("the loader's path holds a libepgraph.so")
        self.assertIn(str(PACKAGE / _library.SONAME), ran.stderr)
        self.assertIn(f"\n  {_library.SONAME}: ", ran.stderr)

    def test_a_library_beside_the_package_is_found(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(PACKAGE, Path(folder, "epgraph"), ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(_library.loaded_from(), Path(folder, "epgraph", _library.SONAME))
            ran = python("-m", "epgraph", EPGRAPH_LIBRARY=None, PYTHONPATH=folder)
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertIn(str(Path(folder).resolve()), ran.stdout)

    def test_another_library_is_refused(self):
        ran = python("-c", "import epgraph", EPGRAPH_LIBRARY="libc.so.6")
        self.assertIn("libc.so.6 is not a library of version", ran.stderr)

    def test_the_program_tells_what_was_found(self):
        ran = python("-m", "epgraph", EPGRAPH_TIMEOUT_MS="1234")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertIn(_library.loaded_from(), ran.stdout)
        self.assertIn("host: ", ran.stdout)
        self.assertRegex(ran.stdout, r"(?m)^  PyTorch: (set|absent|unsupported)")
        self.assertIn("EPGRAPH_TIMEOUT_MS = 1234 (default 30000)", ran.stdout)


class Errors(unittest.TestCase):
    def test_code_name_native_and_message(self):
        with epgraph.Device() as device, self.assertRaises(epgraph.Error) as caught:
            epgraph.teams(device, 5000)
        error = caught.exception
        self.assertEqual((error.code, error.name, error.native), (1, "EPG_ERR_INVALID", 1))
        self.assertIn("5000", error.message)
        self.assertEqual(str(error), f"EPG_ERR_INVALID: {error.message}")
        self.assertEqual(str(pickle.loads(pickle.dumps(error))), str(error))

    def test_native(self):
        error = epgraph.Error(906)
        self.assertEqual((error.name, error.native), ("EPG_ERR_CAPTURE_IMPLICIT", 906))


class Devices(unittest.TestCase):
    def test_describe_and_clock(self):
        with epgraph.Device() as device:
            self.assertTrue(device.describe()["name"].startswith("host"))
            self.assertLess(device.now_ns(), device.now_ns() + 1)

    def test_a_wrong_kind(self):
        with self.assertRaisesRegex(ValueError, "'tpu'"):
            epgraph.Device("tpu")

    def test_host_functions_run_in_order(self):
        seen = []
        with epgraph.Device() as device, device.stream() as stream:
            for number in range(5):
                stream.host_func(lambda number=number: seen.append(number), "number")
            stream.synchronize()
            self.assertTrue(stream.query())
        self.assertEqual(seen, [0, 1, 2, 3, 4])

    def test_an_exception_comes_out_of_synchronize_once(self):
        seen = []
        with epgraph.Device() as device, device.stream() as stream:
            stream.host_func(lambda: 1 // 0)
            stream.host_func(lambda: seen.append("later"))
            with self.assertRaises(ZeroDivisionError):
                stream.synchronize()
            stream.synchronize()
        self.assertEqual(seen, ["later"])

    def test_handles_left_to_the_collector_end_in_order(self):
        ran = python("-c", "import epgraph\nd = epgraph.Device(); s = d.stream()\n"
                     "r = epgraph.Runner(lambda call: None, buckets=[1], device=d)\nr.run(1, stream=s)\n"
                     "s.synchronize(); s.cycle = [s, r]; d.cycle = [d, s]")
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))

    def test_closing_a_device_closes_its_streams(self):
        device = epgraph.Device()
        stream = device.stream()
        device.close()
        device.close()
        self.assertTrue(stream.closed)
        with self.assertRaisesRegex(ValueError, "Stream is closed"):
            stream.synchronize()


if __name__ == "__main__":
    unittest.main()
