"""A scope and the real TVM-FFI, whose streams are plain handles that need no GPU; in a process of its own, because a
library, once loaded, stays. Skipped where the package apache-tvm-ffi is not installed."""
import importlib.util
import subprocess
import sys
import unittest

HERE = importlib.util.find_spec("tvm_ffi") is not None
SCRIPT = """
import ctypes, threading
from pathlib import Path
import epgraph, tvm_ffi

library = ctypes.CDLL(str(Path(tvm_ffi.__file__).parent / "lib" / "libtvm_ffi.so"))
library.TVMFFIEnvGetStream.restype = ctypes.c_void_p
library.TVMFFIEnvSetStream(2, 0, ctypes.c_void_p(0x7000), None)

def now():
    return library.TVMFFIEnvGetStream(2, 0) or 0

seen = [now()]
with epgraph.scope(0x1000) as entered:
    assert ("TVM-FFI", "set", "") in entered.report, entered.report
    seen.append(now())
    with epgraph.scope(0):
        seen.append(now())
        with epgraph.scope(0x2000):
            seen.append(now())
    thread = threading.Thread(target=lambda: seen.append(now()))
    thread.start()
    thread.join()
    seen.append(now())
seen.append(now())
assert seen == [0x7000, 0x1000, 0, 0x2000, 0, 0x1000, 0x7000], seen
"""


class TvmFfi(unittest.TestCase):
    @unittest.skipUnless(HERE, "the package apache-tvm-ffi is not installed")
    def test_set_and_put_back(self):
        ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120)
        self.assertEqual(ran.returncode, 0, ran.stderr)


if __name__ == "__main__":
    unittest.main()
