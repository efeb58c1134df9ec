"""The wheel: what it holds, and that pip installs it and it runs from there with no setting."""
import os
import subprocess
import sys
import tempfile
import unittest
import zipfile
from pathlib import Path

from epgraph import _library

PYTHON = Path(__file__).resolve().parents[2] / "python"
sys.path.insert(0, str(PYTHON))
import build_wheel  # noqa: E402


class Wheel(unittest.TestCase):
    def test_it_carries_the_library_and_every_module(self):
        with tempfile.TemporaryDirectory() as folder:
            name = build_wheel.build_wheel(folder)
            self.assertRegex(name, r"^epgraph-0\.1\.0-py3-none-linux_\w+\.whl$")
            with zipfile.ZipFile(Path(folder, name)) as wheel:
                names = wheel.namelist()
        for module in (PYTHON / "epgraph").glob("*.py"):
            self.assertIn(f"epgraph/{module.name}", names)
        self.assertIn("epgraph/py.typed", names)
        self.assertIn(f"epgraph/{_library.SONAME}", names)
        self.assertEqual(build_wheel.VERSION, _library.VERSION)

    def test_pip_installs_it(self):
        if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0:
            self.skipTest("pip is not installed")
        with tempfile.TemporaryDirectory() as folder:
            ran = subprocess.run([sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--target", folder,
                                  str(PYTHON)], capture_output=True, text=True, timeout=200)
            self.assertEqual(ran.returncode, 0, ran.stdout + ran.stderr)
            clean = {name: value for name, value in os.environ.items() if name != "EPGRAPH_LIBRARY"}
            ran = subprocess.run([sys.executable, "-m", "epgraph"], capture_output=True, text=True, timeout=60,
                                 cwd=folder, env={**clean, "PYTHONPATH": folder})
            self.assertEqual(ran.returncode, 0, ran.stderr)
            self.assertIn(str(Path(folder).resolve() / "epgraph" / _library.SONAME), ran.stdout)


if __name__ == "__main__":
    unittest.main()
