"""Runs cupy_cases.py: a stand-in's library stays loaded, and other tests are to find none, or the real one."""
import subprocess
import sys
import unittest
from pathlib import Path


class Cupy(unittest.TestCase):
    def test_cases(self):
        ran = subprocess.run([sys.executable, "-W", "error", "-m", "unittest", "-v", "cupy_cases"],
                             cwd=Path(__file__).parent, capture_output=True, text=True, timeout=120)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        self.assertRegex(ran.stderr, r"Ran [3-9]\d tests")


if __name__ == "__main__":
    unittest.main()
